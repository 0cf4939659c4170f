// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * debug.c - breakpoints on code, data and ports, single step. SDM vol. 3, chapter 18.
 *
 * Nothing here costs anything while DR7 and TF are clear: x86_debug_update() says in two flags of
 * struct x86_cpu whether anybody has to look.
 */
#include "insns.h"
#include "sys_int.h"
#include "x86_int.h"

enum { RW_EXECUTE, RW_WRITE, RW_PORT, RW_READ_WRITE };

static bool is_enabled(uint64_t dr7, unsigned i)
{
	return dr7 >> (i * 2) & 3;
}

static unsigned kind(uint64_t dr7, unsigned i)
{
	return dr7 >> (16 + i * 4) & 3;
}

static unsigned length(uint64_t dr7, unsigned i)
{
	static const uint8_t bytes[4] = { 1, 2, 8, 4 };

	return bytes[dr7 >> (18 + i * 4) & 3];
}

void x86_debug_update(struct x86_cpu *cpu)
{
	const struct x86_state *s = &cpu->s;
	bool code = false, data = false;

	for (unsigned i = 0; (s->dr[7] & 0xff) && i < 4; i++) {
		if (!is_enabled(s->dr[7], i))
			continue;
		if (kind(s->dr[7], i) == RW_EXECUTE)
			code = true;
		else
			data = true;
	}
	cpu->debug_data = data;
	cpu->debug_armed = code || data || cpu->debug_pending || (s->rflags & X86_FL_TF);
}

int x86_debug_fetch(struct x86_cpu *cpu, uint64_t linear)
{
	const struct x86_state *s = &cpu->s;
	unsigned hit = 0;

	if (!(s->dr[7] & 0xff) || (s->rflags & X86_FL_RF))
		return X86_NEXT;
	for (unsigned i = 0; i < 4; i++)
		if (is_enabled(s->dr[7], i) && kind(s->dr[7], i) == RW_EXECUTE &&
		    s->dr[i] == linear)
			hit |= 1u << i;
	if (!hit)
		return X86_NEXT;
	x86_raise(cpu, X86_DB);
	cpu->fault.payload = hit;
	return X86_FAULT;
}

static void note_overlap(struct x86_cpu *cpu, uint64_t addr, unsigned len, unsigned kinds)
{
	const struct x86_state *s = &cpu->s;
	bool enabled = false;
	unsigned hit = 0;

	for (unsigned i = 0; i < 4; i++) {
		unsigned watch_len = length(s->dr[7], i);
		uint64_t watch = s->dr[i] & ~(uint64_t)(watch_len - 1);

		if (!(kinds >> kind(s->dr[7], i) & 1))
			continue;
		if (addr - watch >= watch_len && watch - addr >= len)
			continue;
		hit |= 1u << i;
		enabled |= is_enabled(s->dr[7], i);
	}
	/* DR6 also tells of watchers that hit without being enabled, once there is an exception. */
	if (enabled) {
		cpu->debug_pending |= hit;
		cpu->debug_armed = true;
	}
}

void x86_debug_data(struct x86_cpu *cpu, uint64_t linear, unsigned len, bool write)
{
	note_overlap(cpu, linear, len, (write ? 1u << RW_WRITE : 0) | 1u << RW_READ_WRITE);
}

void x86_debug_port(struct x86_cpu *cpu, uint16_t port, unsigned len)
{
	if (cpu->s.cr4 & X86_CR4_DE)
		note_overlap(cpu, port, len, 1u << RW_PORT);
}

bool x86_debug_trap(struct x86_cpu *cpu, bool single_step)
{
	uint32_t bits = cpu->debug_pending | (single_step ? X86_DR6_BS : 0);

	/* MOV SS and POP SS hold traps back until the next instruction is done. */
	if (!bits || (cpu->s.interrupt_shadow & 2))
		return false;
	cpu->debug_pending = 0;
	if (cpu->s.activity == X86_HALTED)
		cpu->s.activity = X86_RUNNING;
	x86_raise(cpu, X86_DB);
	cpu->fault.trap = true;
	cpu->fault.payload = bits;
	x86_deliver_fault(cpu);
	x86_debug_update(cpu);
	return true;
}

/* MOV to and from debug registers: DR4 and DR5 are DR6 and DR7 unless CR4.DE says they do not
 * exist. */
static int check_access(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned *ret_n)
{
	struct x86_state *s = &cpu->s;
	unsigned n = insn->reg;

	if (n > 7 || ((n == 4 || n == 5) && (s->cr4 & X86_CR4_DE)))
		return x86_ud(cpu);
	if (cpu->cpl)
		return x86_gp(cpu, 0);
	if (s->dr[7] & X86_DR7_GD) {
		x86_raise(cpu, X86_DB);
		cpu->fault.payload = X86_DR6_BD;
		return X86_FAULT;
	}
	*ret_n = n == 4 || n == 5 ? n + 2 : n;
	return X86_NEXT;
}

int x86_op_mov_r_dr(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	unsigned n = 0;
	int r = check_access(cpu, insn, &n);

	if (r != X86_NEXT)
		return r;
	cpu->s.gpr[insn->rm] = cpu->code_bytes == 8 ? cpu->s.dr[n] : (uint32_t)cpu->s.dr[n];
	return X86_NEXT;
}

int x86_op_mov_dr_r(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_state *s = &cpu->s;
	uint64_t value = s->gpr[insn->rm];
	unsigned n = 0;
	int r = check_access(cpu, insn, &n);

	if (r != X86_NEXT)
		return r;
	if (cpu->code_bytes != 8)
		value = (uint32_t)value;
	if (n >= 6 && value >> 32)
		return x86_gp(cpu, 0);
	if (n == 6)
		value = (value & 0xe00full) | X86_DR6_FIXED;
	else if (n == 7)
		value = (value & 0xffff2bffull) | X86_DR7_FIXED;
	s->dr[n] = value;
	x86_update_mode(cpu);
	return X86_STOP;
}
