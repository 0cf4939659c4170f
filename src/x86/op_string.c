// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * op_string.c - MOVS CMPS STOS LODS SCAS INS OUTS, with REP; IN and OUT.
 *
 * A step does one element and moves the index registers; repeat() drives it. Each element that is
 * done stays done, so a fault or an interrupt in between leaves registers from which the
 * instruction goes on. MOVS and STOS do the elements that fit both pages at once.
 */
#include "insns.h"
#include "operand.h"

/* How many elements go by between two looks at should_stop(). */
#define POLL_ELEMENTS 64u

typedef int (*string_step)(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size);

enum string_end {
	END_COUNT,    /* RCX only */
	END_COMPARED, /* and ZF: REPE, REPNE */
};

static inline uint64_t index_of(const struct x86_cpu *cpu, const struct x86_insn *insn,
				unsigned reg)
{
	return x86_get_sized(cpu, reg, insn->adsize);
}

static inline void advance(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned reg,
			   uint64_t by)
{
	uint64_t v = cpu->s.gpr[reg];

	x86_set_sized(cpu, reg, insn->adsize, cpu->s.rflags & X86_FL_DF ? v - by : v + by);
}

static bool ended_by_flags(const struct x86_cpu *cpu, const struct x86_insn *insn)
{
	bool equal = cpu->s.rflags & X86_FL_ZF;

	return insn->flags & X86_INSN_REPNE ? equal : !equal;
}

/* Interrupts wait, or the instruction has overwritten code, perhaps its own. */
static bool must_give_way(struct x86_cpu *cpu)
{
	bool stop = cpu->stop_requested;

	cpu->stop_requested = false;
	return stop || cpu->ops->should_stop(cpu);
}

/* An event that comes now finds RF set: SDM vol. 3, 18.3.1.1. */
static int give_way(struct x86_cpu *cpu)
{
	cpu->s.rflags |= X86_FL_RF;
	return X86_REPEAT;
}

static inline int repeat(struct x86_cpu *cpu, const struct x86_insn *insn, string_step step,
			 unsigned size, enum string_end end)
{
	uint64_t count;

	if (!(insn->flags & (X86_INSN_REP | X86_INSN_REPNE)))
		return step(cpu, insn, size);
	count = index_of(cpu, insn, X86_RCX);
	for (unsigned n = 1; count; n++) {
		int r = step(cpu, insn, size);

		if (r != X86_NEXT)
			return r;
		x86_set_sized(cpu, X86_RCX, insn->adsize, --count);
		if (end == END_COMPARED && ended_by_flags(cpu, insn))
			break;
		if (!count)
			break;
		/* A single step traps behind each element: SDM vol. 3, 17.3.1.4. */
		if (cpu->debug_armed || ((cpu->stop_requested || n % POLL_ELEMENTS == 0) &&
					 must_give_way(cpu)))
			return give_way(cpu);
	}
	return X86_NEXT;
}

/* ---- whole runs within a page ---- */

/* Linear address where neither limit nor base need a look, or false. */
static inline bool plain_linear(const struct x86_cpu *cpu, const struct x86_insn *insn,
				unsigned seg, uint64_t off, uint64_t *ret)
{
	if (likely(insn->flags & X86_INSN_A64)) {
		*ret = off + (seg >= X86_FS ? cpu->s.seg[seg].base : 0);
		return true;
	}
	*ret = off;
	return insn->adsize == 4 && cpu->flat && cpu->code_bytes != 8 && seg < X86_FS &&
	       seg != X86_CS;
}

static inline uint64_t room_in_page(uint64_t linear)
{
	return 0x1000 - (linear & 0xfff);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Elements that were done, 0 when the step has to see to it. */
static uint64_t movs_run(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size,
			 uint64_t count)
{
	uint64_t from, to, n, bytes;
	uint8_t *src, *dst;

	if (cpu->s.rflags & X86_FL_DF || cpu->debug_armed ||
	    !plain_linear(cpu, insn, insn->seg, index_of(cpu, insn, X86_RSI), &from) ||
	    !plain_linear(cpu, insn, X86_ES, index_of(cpu, insn, X86_RDI), &to))
		return 0;
	n = min_u64(count, min_u64(room_in_page(from), room_in_page(to)) / size);
	src = x86_host_read(cpu, from, 1);
	dst = x86_host_write(cpu, to, 1);
	if (!n || !src || !dst)
		return 0;
	bytes = n * size;
	/* Byte by byte where source and destination overlap gives what the elements give, unless they
	 * overlap by less than one element: then the step does it. */
	if (dst > src && (uint64_t)(dst - src) < size)
		return 0;
	__asm__ volatile("rep movsb" : "+S"(src), "+D"(dst), "+c"(bytes) : : "memory");
	advance(cpu, insn, X86_RSI, n * size);
	advance(cpu, insn, X86_RDI, n * size);
	return n;
}

static uint64_t stos_run(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size,
			 uint64_t count)
{
	uint64_t to, n, left;
	uint8_t *dst;

	if (cpu->s.rflags & X86_FL_DF || cpu->debug_armed ||
	    !plain_linear(cpu, insn, X86_ES, index_of(cpu, insn, X86_RDI), &to))
		return 0;
	left = n = min_u64(count, room_in_page(to) / size);
	dst = x86_host_write(cpu, to, 1);
	if (!n || !dst)
		return 0;
	switch (size) {
	case 1:
		__asm__ volatile("rep stosb" : "+D"(dst), "+c"(left) : "a"(cpu->s.gpr[0]) : "memory");
		break;
	case 2:
		__asm__ volatile("rep stosw" : "+D"(dst), "+c"(left) : "a"(cpu->s.gpr[0]) : "memory");
		break;
	case 4:
		__asm__ volatile("rep stosl" : "+D"(dst), "+c"(left) : "a"(cpu->s.gpr[0]) : "memory");
		break;
	default:
		__asm__ volatile("rep stosq" : "+D"(dst), "+c"(left) : "a"(cpu->s.gpr[0]) : "memory");
	}
	advance(cpu, insn, X86_RDI, n * size);
	return n;
}

typedef uint64_t (*string_run)(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size,
			       uint64_t count);

/* Runs while they last, else steps. */
static inline int repeat_runs(struct x86_cpu *cpu, const struct x86_insn *insn, string_run run,
			      string_step step, unsigned size)
{
	uint64_t count;

	if (!(insn->flags & (X86_INSN_REP | X86_INSN_REPNE)))
		return step(cpu, insn, size);
	count = index_of(cpu, insn, X86_RCX);
	while (count) {
		uint64_t n = run(cpu, insn, size, count);

		if (!n) {
			int r = step(cpu, insn, size);

			if (r != X86_NEXT)
				return r;
			n = 1;
		}
		count -= n;
		x86_set_sized(cpu, X86_RCX, insn->adsize, count);
		if (count && (cpu->debug_armed || must_give_way(cpu)))
			return give_way(cpu);
	}
	return X86_NEXT;
}

/* ---- steps ---- */

static inline int movs_step(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	uint64_t v;

	if (x86_read(cpu, insn->seg, index_of(cpu, insn, X86_RSI), &v, size) != X86_NEXT ||
	    x86_write(cpu, X86_ES, index_of(cpu, insn, X86_RDI), &v, size) != X86_NEXT)
		return X86_FAULT;
	advance(cpu, insn, X86_RSI, size);
	advance(cpu, insn, X86_RDI, size);
	return X86_NEXT;
}

static inline int stos_step(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	if (x86_write(cpu, X86_ES, index_of(cpu, insn, X86_RDI), &cpu->s.gpr[X86_RAX], size) !=
	    X86_NEXT)
		return X86_FAULT;
	advance(cpu, insn, X86_RDI, size);
	return X86_NEXT;
}

static inline int lods_step(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	uint64_t v = 0;

	if (x86_read(cpu, insn->seg, index_of(cpu, insn, X86_RSI), &v, size) != X86_NEXT)
		return X86_FAULT;
	x86_set_sized(cpu, X86_RAX, size, v);
	advance(cpu, insn, X86_RSI, size);
	return X86_NEXT;
}

/* Flags of a - b. */
static inline void compare(struct x86_cpu *cpu, uint64_t a, uint64_t b, unsigned size)
{
	uint32_t ax;

	/* Shifted to the top of the word a comparison has the same CF, OF, SF and ZF, but neither
	 * PF nor AF: so by size. */
	switch (size) {
	case 1:
		__asm__("cmpb %b2, %b1\n\t" X86_FL_SAVE : "=&a"(ax) : "r"(a), "r"(b) : "cc");
		break;
	case 2:
		__asm__("cmpw %w2, %w1\n\t" X86_FL_SAVE : "=&a"(ax) : "r"(a), "r"(b) : "cc");
		break;
	case 4:
		__asm__("cmpl %k2, %k1\n\t" X86_FL_SAVE : "=&a"(ax) : "r"(a), "r"(b) : "cc");
		break;
	default:
		__asm__("cmpq %2, %1\n\t" X86_FL_SAVE : "=&a"(ax) : "r"(a), "r"(b) : "cc");
	}
	x86_flags_unpack(cpu, ax);
}

static inline int cmps_step(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	uint64_t a = 0, b = 0;

	/* Where both fault it is the one at RDI that is told, as processors do. */
	if (x86_read(cpu, X86_ES, index_of(cpu, insn, X86_RDI), &b, size) != X86_NEXT ||
	    x86_read(cpu, insn->seg, index_of(cpu, insn, X86_RSI), &a, size) != X86_NEXT)
		return X86_FAULT;
	compare(cpu, a, b, size);
	advance(cpu, insn, X86_RSI, size);
	advance(cpu, insn, X86_RDI, size);
	return X86_NEXT;
}

static inline int scas_step(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	uint64_t v = 0;

	if (x86_read(cpu, X86_ES, index_of(cpu, insn, X86_RDI), &v, size) != X86_NEXT)
		return X86_FAULT;
	compare(cpu, cpu->s.gpr[X86_RAX], v, size);
	advance(cpu, insn, X86_RDI, size);
	return X86_NEXT;
}

/* The destination is checked before the port is read: a read may have side effects. */
static int ins_step(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	uint64_t off = index_of(cpu, insn, X86_RDI), v;
	uint16_t port = (uint16_t)cpu->s.gpr[X86_RDX];

	if (x86_io_check(cpu, port, size) != X86_NEXT ||
	    x86_probe_write(cpu, X86_ES, off, size) != X86_NEXT)
		return X86_FAULT;
	v = cpu->ops->pio_read(cpu, port, size);
	if (cpu->device_waits || x86_write(cpu, X86_ES, off, &v, size) != X86_NEXT)
		return X86_FAULT;
	advance(cpu, insn, X86_RDI, size);
	return X86_NEXT;
}

static int outs_step(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	uint16_t port = (uint16_t)cpu->s.gpr[X86_RDX];
	uint64_t v = 0;

	if (x86_io_check(cpu, port, size) != X86_NEXT ||
	    x86_read(cpu, insn->seg, index_of(cpu, insn, X86_RSI), &v, size) != X86_NEXT)
		return X86_FAULT;
	cpu->ops->pio_write(cpu, port, size, v);
	advance(cpu, insn, X86_RSI, size);
	return X86_NEXT;
}

#define STRING_SIZE(S, unused)                                                                     \
	X86_HANDLER(movs##S)                                                                       \
	{                                                                                          \
		return repeat_runs(cpu, insn, movs_run, movs_step, S);                             \
	}                                                                                          \
	X86_HANDLER(stos##S)                                                                       \
	{                                                                                          \
		return repeat_runs(cpu, insn, stos_run, stos_step, S);                             \
	}                                                                                          \
	X86_HANDLER(lods##S)                                                                       \
	{                                                                                          \
		return repeat(cpu, insn, lods_step, S, END_COUNT);                                 \
	}                                                                                          \
	X86_HANDLER(cmps##S)                                                                       \
	{                                                                                          \
		return repeat(cpu, insn, cmps_step, S, END_COMPARED);                              \
	}                                                                                          \
	X86_HANDLER(scas##S)                                                                       \
	{                                                                                          \
		return repeat(cpu, insn, scas_step, S, END_COMPARED);                              \
	}
X86_EACH_SIZE(STRING_SIZE, )

/* ---- ports: at most four bytes ---- */

static int port_in(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
	uint64_t v;

	if (x86_io_check(cpu, port, size) != X86_NEXT)
		return X86_FAULT;
	v = cpu->ops->pio_read(cpu, port, size);
	if (cpu->device_waits)
		return X86_FAULT;
	x86_set_sized(cpu, X86_RAX, size, v);
	return X86_NEXT;
}

static int port_out(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
	if (x86_io_check(cpu, port, size) != X86_NEXT)
		return X86_FAULT;
	cpu->ops->pio_write(cpu, port, size, x86_get_sized(cpu, X86_RAX, size));
	return X86_NEXT;
}

#define PORT_SIZE(S, bytes)                                                                        \
	X86_HANDLER(in_i##S)                                                                       \
	{                                                                                          \
		return port_in(cpu, (uint8_t)insn->imm, bytes);                                    \
	}                                                                                          \
	X86_HANDLER(in_d##S)                                                                       \
	{                                                                                          \
		return port_in(cpu, (uint16_t)cpu->s.gpr[X86_RDX], bytes);                         \
	}                                                                                          \
	X86_HANDLER(out_i##S)                                                                      \
	{                                                                                          \
		return port_out(cpu, (uint8_t)insn->imm, bytes);                                   \
	}                                                                                          \
	X86_HANDLER(out_d##S)                                                                      \
	{                                                                                          \
		return port_out(cpu, (uint16_t)cpu->s.gpr[X86_RDX], bytes);                        \
	}                                                                                          \
	X86_HANDLER(ins##S)                                                                        \
	{                                                                                          \
		return repeat(cpu, insn, ins_step, bytes, END_COUNT);                              \
	}                                                                                          \
	X86_HANDLER(outs##S)                                                                       \
	{                                                                                          \
		return repeat(cpu, insn, outs_step, bytes, END_COUNT);                             \
	}
PORT_SIZE(1, 1)
PORT_SIZE(2, 2)
PORT_SIZE(4, 4)
PORT_SIZE(8, 4)
