// SPDX-License-Identifier: GPL-2.0-only
/*
 * mmio.c - a device's register that a plain MOV loads or stores: the short way past the x86 core.
 *
 * The processor has told the guest-physical address, behind all checks of segments and of the guest's own tables. So only
 * the instruction is wanted: which register, and how much of it. All else is the x86 core's: other instructions, what lies across
 * two pages or is not aligned (of which the guest may want to be told), single steps and breakpoints.
 */
#include <linux/mm.h>

#include "vm.h"
#include "x86_int.h"

enum source { FROM_REGISTER, FROM_RAX, FROM_IMMEDIATE };

static const struct mov {
	u16 opcode; /* with the map above it */
	u8 size;    /* of the register in the device; 0: the operand's */
	bool store, widens, sign;
	u8 source; /* enum source: where the value is, or goes to */
} movs[] = {
	{ .opcode = 0x088, .size = 1, .store = true },
	{ .opcode = 0x089, .store = true },
	{ .opcode = 0x08a, .size = 1 },
	{ .opcode = 0x08b },
	{ .opcode = 0x0a0, .size = 1, .source = FROM_RAX },
	{ .opcode = 0x0a1, .source = FROM_RAX },
	{ .opcode = 0x0a2, .size = 1, .store = true, .source = FROM_RAX },
	{ .opcode = 0x0a3, .store = true, .source = FROM_RAX },
	{ .opcode = 0x0c6, .size = 1, .store = true, .source = FROM_IMMEDIATE },
	{ .opcode = 0x0c7, .store = true, .source = FROM_IMMEDIATE },
	{ .opcode = 0x1b6, .size = 1, .widens = true },
	{ .opcode = 0x1b7, .size = 2, .widens = true },
	{ .opcode = 0x1be, .size = 1, .widens = true, .sign = true },
	{ .opcode = 0x1bf, .size = 2, .widens = true, .sign = true },
};

static const struct mov *mov_of(const struct x86_insn *insn)
{
	u16 opcode = insn->map << 8 | insn->opcode;

	for (unsigned int i = 0; i < ARRAY_SIZE(movs); i++) {
		if (movs[i].opcode == opcode)
			return &movs[i];
	}
	return NULL;
}

/* Its operand is memory, and what it does is all there in its fields. */
static bool is_plain(const struct x86_insn *insn, const struct mov *mov)
{
	if (insn->flags & (X86_INSN_LOCK | X86_INSN_VEX | X86_INSN_EVEX))
		return false;
	if (mov->source == FROM_RAX)
		return true;
	return insn->flags & X86_INSN_MEM && !(mov->source == FROM_IMMEDIATE && insn->modrm & 0x38);
}

/* RSP is in the hardware's form. */
static bool names_rsp(const struct mmio_move *move)
{
	return move->at / sizeof(u64) == X86_RSP;
}

/* Of an access that begins in the page before, of RAM, the processor tells the beginning of the device's page. */
static bool began_before(struct vcpu *vcpu, const struct x86_insn *insn, const struct mov *mov,
			 const struct device_access *a)
{
	bool flat = insn->flags & X86_INSN_A64 && insn->seg < X86_FS;
	u64 base;

	if (offset_in_page(a->addr) || a->size == 1)
		return false;
	if (mov->source == FROM_RAX || insn->base == X86_REG_RIP)
		return true; /* perhaps */
	if (!flat || insn->base == X86_RSP)
		(void)vcpu_peek(vcpu);
	base = flat ? 0 : vcpu->cpu.s.seg[insn->seg].base;
	return offset_in_page(base + x86_ea(&vcpu->cpu, insn));
}

static void describe(const struct x86_insn *insn, const struct mov *mov, struct mmio_move *ret)
{
	*ret = (struct mmio_move){ .length = insn->len, .sign = mov->sign,
				   .width = mov->size && !mov->widens ? mov->size : insn->opsize };
	if (mov->source == FROM_REGISTER)
		ret->at = ret->width == 1 ? insn->reg8 : insn->reg * sizeof(u64);
}

/* Of a part of a register the rest stays, but for the upper half above 32 bits. */
static void set_register(struct vcpu *vcpu, const struct mmio_move *move, u64 value, unsigned int size)
{
	u8 *to = (u8 *)vcpu->cpu.s.gpr + move->at;

	if (move->sign)
		value = size == 1 ? (s64)(s8)value : (s64)(s16)value;
	if (move->width == 4)
		*(u64 *)to = (u32)value;
	else
		memcpy(to, &value, move->width);
}

static int loaded(struct vcpu *vcpu, const struct device_access *a)
{
	const struct mmio_move *move = &vcpu->emu.move;

	trace_device(a, false);
	set_register(vcpu, move, a->value, a->size);
	hw->set_rip(vcpu, fetch_next(vcpu, move->length));
	return debug_trap(vcpu);
}

static int finish_load(struct vcpu *vcpu)
{
	struct device_access a = vcpu->emu.want;

	if (exit_is_elsewhere(vcpu))
		return 1;
	memcpy(&a.value, vcpu->run->mmio.data, a.size);
	return loaded(vcpu, &a);
}

static int load(struct vcpu *vcpu, struct device_access *a)
{
	if (device_read_here(vcpu, a, &a->value))
		return loaded(vcpu, a);
	vcpu->emu.want = *a;
	exit_to_device(vcpu, a, false);
	vcpu->finish = finish_load;
	return 0;
}

static int store(struct vcpu *vcpu, const struct device_access *a)
{
	hw->set_rip(vcpu, fetch_next(vcpu, vcpu->emu.move.length));
	trace_device(a, true);
	if (device_write_here(vcpu, a))
		return debug_trap(vcpu);
	exit_to_device(vcpu, a, true);
	vcpu->finish = debug_trap;
	return 0;
}

static void take_value(const struct vcpu *vcpu, const struct x86_insn *insn, const struct mov *mov,
		       struct device_access *a)
{
	u64 imm = insn->imm;
	const void *from = mov->source == FROM_IMMEDIATE ? (const void *)&imm :
							   (const u8 *)vcpu->cpu.s.gpr + vcpu->emu.move.at;

	memcpy(&a->value, from, a->size);
}

bool mmio_short(struct vcpu *vcpu, u64 gpa, bool write, int *ret)
{
	struct mmio_move *move = &vcpu->emu.move;
	struct device_access a = { .addr = gpa };
	const struct mov *mov;
	struct x86_insn insn;

	if (vcpu->taken_back || hw->rflags(vcpu) & (X86_FL_TF | X86_FL_RF) || vcpu->cpu.s.dr[7] & 0xff ||
	    !fetch_insn(vcpu, &insn))
		return false;
	mov = mov_of(&insn);
	if (!mov || mov->store != write || !is_plain(&insn, mov))
		return false;
	describe(&insn, mov, move);
	a.size = mov->size ?: insn.opsize;
	if (gpa & (a.size - 1) || names_rsp(move) || began_before(vcpu, &insn, mov, &a))
		return false;
	vcpu->stats.insn_emulation++;
	if (write)
		take_value(vcpu, &insn, mov, &a);
	*ret = write ? store(vcpu, &a) : load(vcpu, &a);
	return true;
}
