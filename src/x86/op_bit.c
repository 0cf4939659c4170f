// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* op_bit.c - BT BTS BTR BTC, BSF BSR and the counts, CRC32, ADX, BMI1 and BMI2. */
#include "insns.h"
#include "operand.h"

/* ---- bit test ---- */

#define BT(S, op, lock, dst, bit)                                                                  \
	do {                                                                                       \
		uint32_t ax = x86_flags_pack(cpu);                                                 \
                                                                                                   \
		__asm__ volatile(X86_FL_LOAD lock op X86_SFX_##S " %[b], %[d]\n\t" X86_FL_SAVE     \
				 : [d] dst, "+a"(ax)                                               \
				 : [b] "r"(bit)                                                    \
				 : "cc", "memory");                                                \
		x86_flags_unpack(cpu, ax);                                                         \
	} while (0)

/* A bit number in a register reaches beyond the operand in memory: by whole operands up or down, SDM
 * vol. 2, 3.1.1.9 "Bit(BitBase, BitOffset)". The address of that operand. */
static uint64_t bit_address(const struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size,
			    int64_t bit)
{
	uint64_t ea = x86_ea(cpu, insn) + (uint64_t)((bit >> (size == 8 ? 6 : size == 4 ? 5 : 4)) *
						     (int64_t)size);

	return insn->adsize == 8 ? ea : insn->adsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

/* The same in a single page of 64-bit code, else by the book. */
static void *bit_rmw(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size, int64_t bit,
		     struct x86_rmw *rmw)
{
	uint64_t ea = bit_address(cpu, insn, size, bit);

	rmw->open = false;
	if (likely(insn->flags & X86_INSN_A64)) {
		uint64_t base = insn->seg >= X86_FS ? cpu->s.seg[insn->seg].base : 0;
		uint8_t *p = x86_host_write(cpu, base + ea, size);

		if (likely(p))
			return p;
	}
	return x86_rmw_open(cpu, insn, ea, size, rmw);
}

#define BIT(S, v) ((X86_T(S))((v) & (X86_BITS_##S - 1)))

#define BIT_STORE(S, name, op, form, lock)                                                         \
	X86_HANDLER(name##_##form##r##S)                                                           \
	{                                                                                          \
		X86_T(S) bit = x86_reg_##S(cpu, insn);                                             \
		struct x86_rmw rmw;                                                                \
		void *p = bit_rmw(cpu, insn, S, (X86_I(S))bit, &rmw);                              \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return X86_FAULT;                                                          \
		bit = BIT(S, bit);                                                                 \
		BT(S, op, lock, "+m"(*(X86_M(S) *)p), bit);                                        \
		x86_rmw_done(cpu, &rmw);                                                           \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(name##_##form##i##S)                                                           \
	{                                                                                          \
		X86_T(S) bit = BIT(S, insn->imm);                                                  \
		struct x86_rmw rmw;                                                                \
		void *p = x86_rmw(cpu, insn, S, &rmw);                                             \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return X86_FAULT;                                                          \
		BT(S, op, lock, "+m"(*(X86_M(S) *)p), bit);                                        \
		x86_rmw_done(cpu, &rmw);                                                           \
		return X86_NEXT;                                                                   \
	}

#define X86_I_2	 int16_t
#define X86_I_4	 int32_t
#define X86_I_8	 int64_t
#define X86_I(S) X86_I_##S

#define BIT_REG(S, name, op, form, bit_from, set)                                                  \
	X86_HANDLER(name##_r##form##S)                                                             \
	{                                                                                          \
		X86_T(S) d = x86_rm_##S(cpu, insn), bit = BIT(S, bit_from);                        \
                                                                                                   \
		BT(S, op, "", "+r"(d), bit);                                                       \
		set;                                                                               \
		return X86_NEXT;                                                                   \
	}

#define BIT_SIZE(S, name, op)                                                                      \
	BIT_REG(S, name, op, r, x86_reg_##S(cpu, insn), x86_set_rm_##S(cpu, insn, d))              \
	BIT_REG(S, name, op, i, insn->imm, x86_set_rm_##S(cpu, insn, d))                           \
	BIT_STORE(S, name, op, m, "")                                                              \
	BIT_STORE(S, name, op, l, "lock ")
X86_EACH_WIDE(BIT_SIZE, bts, "bts")
X86_EACH_WIDE(BIT_SIZE, btr, "btr")
X86_EACH_WIDE(BIT_SIZE, btc, "btc")

#define BIT_TEST(S, unused)                                                                        \
	BIT_REG(S, bt, "bt", r, x86_reg_##S(cpu, insn), (void)d)                                   \
	BIT_REG(S, bt, "bt", i, insn->imm, (void)d)                                                \
	X86_HANDLER(bt_mr##S)                                                                      \
	{                                                                                          \
		X86_T(S) bit = x86_reg_##S(cpu, insn), v;                                          \
		uint64_t ea = bit_address(cpu, insn, S, (X86_I(S))bit);                            \
                                                                                                   \
		if (x86_read(cpu, insn->seg, ea, &v, S) != X86_NEXT)                               \
			return X86_FAULT;                                                          \
		bit = BIT(S, bit);                                                                 \
		BT(S, "bt", "", "+r"(v), bit);                                                     \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(bt_mi##S)                                                                      \
	{                                                                                          \
		X86_T(S) bit = BIT(S, insn->imm), v;                                               \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &v) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		BT(S, "bt", "", "+r"(v), bit);                                                     \
		return X86_NEXT;                                                                   \
	}
X86_EACH_WIDE(BIT_TEST, )

/* ---- one source, one destination, flags ---- */

/* Does @op on a whole register, so that what the host does to a destination it leaves unwritten
 * (BSF of zero) comes out the same. */
#define SCAN(S, name, op)                                                                          \
	static void name##_do##S(struct x86_cpu *cpu, const struct x86_insn *insn, X86_T(S) s)     \
	{                                                                                          \
		uint64_t d = cpu->s.gpr[insn->reg], s64 = s;                                       \
		uint32_t ax = x86_flags_pack(cpu);                                                 \
                                                                                                   \
		__asm__(X86_FL_LOAD op X86_SFX_##S " %" X86_REG_##S "[s], %" X86_REG_##S "[d]\n\t"  \
				    X86_FL_SAVE                                                    \
			: [d] "+r"(d), "+a"(ax)                                                    \
			: [s] "r"(s64)                                                             \
			: "cc");                                                                   \
		x86_flags_unpack(cpu, ax);                                                         \
		cpu->s.gpr[insn->reg] = d;                                                         \
	}                                                                                          \
	X86_HANDLER(name##_gr##S)                                                                  \
	{                                                                                          \
		name##_do##S(cpu, insn, x86_rm_##S(cpu, insn));                                    \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(name##_gm##S)                                                                  \
	{                                                                                          \
		X86_T(S) s;                                                                        \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &s) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		name##_do##S(cpu, insn, s);                                                        \
		return X86_NEXT;                                                                   \
	}

/* Operand modifiers of the assembler: the register's name by size. */
#define X86_REG_2 "w"
#define X86_REG_4 "k"
#define X86_REG_8 "q"

X86_EACH_WIDE(SCAN, bsf, "bsf")
X86_EACH_WIDE(SCAN, bsr, "bsr")
X86_EACH_WIDE(SCAN, tzcnt, "tzcnt")
X86_EACH_WIDE(SCAN, lzcnt, "lzcnt")
X86_EACH_WIDE(SCAN, popcnt, "popcnt")
SCAN(4, adcx, "adcx")
SCAN(8, adcx, "adcx")
SCAN(4, adox, "adox")
SCAN(8, adox, "adox")

/* The accumulator of CRC32 is 32 bits whatever the source. */
#define CRC32(S, name, mod)                                                                        \
	static void name##_do(struct x86_cpu *cpu, const struct x86_insn *insn, X86_T(S) s)        \
	{                                                                                          \
		uint64_t d = (uint32_t)cpu->s.gpr[insn->reg];                                      \
                                                                                                   \
		__asm__("crc32" X86_SFX_##S " %1, %" mod "0" : "+r"(d) : "r"(s));                  \
		cpu->s.gpr[insn->reg] = d;                                                         \
	}
CRC32(1, crc32b, "k")
CRC32(2, crc32_2, "k")
CRC32(4, crc32_4, "k")
CRC32(8, crc32_8, "q")

#define CRC32_FORMS(S, name, do)                                                                   \
	X86_HANDLER(name##r##do)                                                                   \
	{                                                                                          \
		CRC32_DO_##S(cpu, insn, x86_rm_##S(cpu, insn));                                    \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(name##m##do)                                                                   \
	{                                                                                          \
		X86_T(S) s;                                                                        \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &s) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		CRC32_DO_##S(cpu, insn, s);                                                        \
		return X86_NEXT;                                                                   \
	}
#define CRC32_DO_1 crc32b_do
#define CRC32_DO_2 crc32_2_do
#define CRC32_DO_4 crc32_4_do
#define CRC32_DO_8 crc32_8_do
CRC32_FORMS(1, crc32b_g, )
CRC32_FORMS(2, crc32_g, 2)
CRC32_FORMS(4, crc32_g, 4)
CRC32_FORMS(8, crc32_g, 8)

/* ---- VEX-encoded ---- */

/* VEX is not known in real-address and virtual-8086 mode: SDM vol. 2, 2.3.1. */
static bool vex_allowed(const struct x86_cpu *cpu)
{
	return cpu->code_bytes == 8 ||
	       (cpu->s.cr0 & X86_CR0_PE && !(cpu->s.rflags & X86_FL_VM));
}

/*
 * Handlers for reg and mem of an operation with two sources: @s is r/m, @v is VEX.vvvv. The
 * operation ends by writing its destination.
 */
#define VEX_FORMS(S, name)                                                                         \
	X86_HANDLER(name##r##S)                                                                    \
	{                                                                                          \
		if (unlikely(!vex_allowed(cpu)))                                                   \
			return x86_ud(cpu);                                                        \
		name##S(cpu, insn, x86_rm_##S(cpu, insn), x86_get_##S(cpu, insn->vvvv));           \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(name##m##S)                                                                    \
	{                                                                                          \
		X86_T(S) s;                                                                        \
                                                                                                   \
		if (unlikely(!vex_allowed(cpu)))                                                   \
			return x86_ud(cpu);                                                        \
		if (unlikely(x86_load_##S(cpu, insn, &s) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		name##S(cpu, insn, s, x86_get_##S(cpu, insn->vvvv));                               \
		return X86_NEXT;                                                                   \
	}

#define VEX_FUNCTION(S, name)                                                                      \
	static void name##S(struct x86_cpu *cpu, const struct x86_insn *insn, X86_T(S) s,          \
			    X86_T(S) v)

/* dst = op(first, second), flags from the host. */
#define VEX_FLAGS(S, name, op, first, second)                                                      \
	VEX_FUNCTION(S, name)                                                                      \
	{                                                                                          \
		uint32_t ax = x86_flags_pack(cpu);                                                 \
		X86_T(S) d;                                                                        \
                                                                                                   \
		__asm__(X86_FL_LOAD op " %3, %2, %0\n\t" X86_FL_SAVE                               \
			: "=&r"(d), "+&a"(ax)                                                      \
			: "r"(first), "r"(second)                                                  \
			: "cc");                                                                   \
		x86_flags_unpack(cpu, ax);                                                         \
		x86_set_reg_##S(cpu, insn, d);                                                     \
	}                                                                                          \
	VEX_FORMS(S, name)

VEX_FLAGS(4, andn_g, "andn", v, s)
VEX_FLAGS(8, andn_g, "andn", v, s)
VEX_FLAGS(4, bextr_g, "bextr", s, v)
VEX_FLAGS(8, bextr_g, "bextr", s, v)
VEX_FLAGS(4, bzhi_g, "bzhi", s, v)
VEX_FLAGS(8, bzhi_g, "bzhi", s, v)
#undef VEX_FLAGS

/* BLSx: the destination is VEX.vvvv. */
#define VEX_BLS(S, name, op)                                                                       \
	VEX_FUNCTION(S, name)                                                                      \
	{                                                                                          \
		uint32_t ax = x86_flags_pack(cpu);                                                 \
		X86_T(S) d;                                                                        \
                                                                                                   \
		(void)v;                                                                           \
		__asm__(X86_FL_LOAD op " %2, %0\n\t" X86_FL_SAVE                                   \
			: "=&r"(d), "+&a"(ax)                                                      \
			: "r"(s)                                                                   \
			: "cc");                                                                   \
		x86_flags_unpack(cpu, ax);                                                         \
		x86_set_##S(cpu, insn->vvvv, d);                                                   \
	}                                                                                          \
	VEX_FORMS(S, name)

VEX_BLS(4, blsr_, "blsr")
VEX_BLS(8, blsr_, "blsr")
VEX_BLS(4, blsmsk_, "blsmsk")
VEX_BLS(8, blsmsk_, "blsmsk")
VEX_BLS(4, blsi_, "blsi")
VEX_BLS(8, blsi_, "blsi")

#define VEX_PLAIN(S, name, expression)                                                             \
	VEX_FUNCTION(S, name)                                                                      \
	{                                                                                          \
		(void)v;                                                                           \
		x86_set_reg_##S(cpu, insn, (X86_T(S))(expression));                                \
	}                                                                                          \
	VEX_FORMS(S, name)

VEX_PLAIN(4, shlx_g, s << (v & 31))
VEX_PLAIN(8, shlx_g, s << (v & 63))
VEX_PLAIN(4, shrx_g, s >> (v & 31))
VEX_PLAIN(8, shrx_g, s >> (v & 63))
VEX_PLAIN(4, sarx_g, (int32_t)s >> (v & 31))
VEX_PLAIN(8, sarx_g, (int64_t)s >> (v & 63))
VEX_PLAIN(4, rorx_g, s >> (insn->imm & 31) | s << (-insn->imm & 31))
VEX_PLAIN(8, rorx_g, s >> (insn->imm & 63) | s << (-insn->imm & 63))

/* PDEP and PEXT: @s is the mask. */
#define VEX_HOST(S, name, op)                                                                      \
	VEX_FUNCTION(S, name)                                                                      \
	{                                                                                          \
		X86_T(S) d;                                                                        \
                                                                                                   \
		__asm__(op " %2, %1, %0" : "=r"(d) : "r"(v), "r"(s));                              \
		x86_set_reg_##S(cpu, insn, d);                                                     \
	}                                                                                          \
	VEX_FORMS(S, name)

VEX_HOST(4, pext_g, "pext")
VEX_HOST(8, pext_g, "pext")
VEX_HOST(4, pdep_g, "pdep")
VEX_HOST(8, pdep_g, "pdep")

/* The high half goes to ModRM.reg, written last: it wins where both are one register. */
VEX_FUNCTION(4, mulx_g)
{
	uint64_t product = (uint64_t)s * (uint32_t)cpu->s.gpr[X86_RDX];

	(void)v;
	x86_set_4(cpu, insn->vvvv, (uint32_t)product);
	x86_set_4(cpu, insn->reg, (uint32_t)(product >> 32));
}

VEX_FUNCTION(8, mulx_g)
{
	unsigned __int128 product = (unsigned __int128)s * cpu->s.gpr[X86_RDX];

	(void)v;
	x86_set_8(cpu, insn->vvvv, (uint64_t)product);
	x86_set_8(cpu, insn->reg, (uint64_t)(product >> 64));
}
VEX_FORMS(4, mulx_g)
VEX_FORMS(8, mulx_g)
