// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * state.c - power-up and INIT state, and what the core derives from the architectural state.
 *
 * Tables: SDM vol. 3, "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT".
 */
#include "state.h"

#include "sys_int.h"
#include "x86_int.h"

#include <string.h>

#define ATTR_CODE (X86_SEG_P | X86_SEG_S | 0xbu)
#define ATTR_DATA (X86_SEG_P | X86_SEG_S | 0x3u)
#define ATTR_LDT  (X86_SEG_P | 0x2u)
#define ATTR_TSS  (X86_SEG_P | 0xbu)

#define PAT_RESET   0x0007040600070406ull
#define CR0_RESET   (X86_CR0_CD | X86_CR0_NW | X86_CR0_ET)
#define MXCSR_RESET 0x1f80u

/* What RESET and INIT have in common. */
static void reset_common(struct x86_state *s)
{
	memset(s->gpr, 0, sizeof(s->gpr));
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = (struct x86_segment){ .limit = 0xffff, .attr = ATTR_DATA };
	s->seg[X86_CS] = (struct x86_segment){
		.base = 0xffff0000u, .limit = 0xffff, .selector = 0xf000, .attr = ATTR_CODE
	};
	s->ldtr = (struct x86_segment){ .limit = 0xffff, .attr = ATTR_LDT };
	s->tr = (struct x86_segment){ .limit = 0xffff, .attr = ATTR_TSS };
	s->gdtr = (struct x86_table){ .limit = 0xffff };
	s->idtr = (struct x86_table){ .limit = 0xffff };
	s->rip = 0xfff0;
	s->rflags = X86_FL_ONE;
	s->cr2 = s->cr3 = s->cr4 = 0;
	s->efer = 0;
	memset(s->dr, 0, sizeof(s->dr));
	s->dr[6] = X86_DR6_FIXED;
	s->dr[7] = X86_DR7_FIXED;
	s->debugctl = 0;
	s->activity = X86_RUNNING;
	s->interrupt_shadow = 0;
	s->nmi_masked = s->nmi_pending = false;
	s->exception_pending = s->interrupt_pending = false;
}

void x86_state_reset(struct x86_state *s)
{
	memset(s, 0, sizeof(*s));
	reset_common(s);
	s->cr0 = CR0_RESET;
	s->xcr0 = 1;
	s->pat = PAT_RESET;
	s->misc_enable = X86_MISC_ENABLE_RESET;
	s->fpu.fcw = 0x40;
	s->fpu.ftw = 0xff;
	s->fpu.mxcsr = MXCSR_RESET;
}

void x86_state_init(struct x86_state *s)
{
	/* INIT leaves CD and NW as they are. */
	uint64_t cache = s->cr0 & (X86_CR0_CD | X86_CR0_NW);

	reset_common(s);
	s->cr0 = cache | X86_CR0_ET;
}

static bool segment_is_flat(const struct x86_segment *seg)
{
	/* Present, writable data that grows up, or unusable-free: one compare for all of it. */
	const unsigned mask = X86_SEG_P | X86_SEG_S | X86_SEG_UNUSABLE | 0xeu;

	return seg->base == 0 && seg->limit == 0xffffffffu &&
	       (seg->attr & mask) == (X86_SEG_P | X86_SEG_S | 0x2u);
}

void x86_update_mode(struct x86_cpu *cpu)
{
	const struct x86_state *s = &cpu->s;
	bool real = !(s->cr0 & X86_CR0_PE);

	cpu->long_mode = s->efer & X86_EFER_LMA;
	if (real)
		cpu->cpl = 0;
	else if (s->rflags & X86_FL_VM)
		cpu->cpl = 3;
	else
		cpu->cpl = (uint8_t)x86_state_cpl(s);

	if (cpu->long_mode && (s->seg[X86_CS].attr & X86_SEG_L)) {
		cpu->code_bytes = 8;
		cpu->stack_bytes = 8;
		cpu->flat = true;
	} else {
		cpu->code_bytes = (s->seg[X86_CS].attr & X86_SEG_DB) ? 4 : 2;
		cpu->stack_bytes = (s->seg[X86_SS].attr & X86_SEG_DB) ? 4 : 2;
		cpu->flat = segment_is_flat(&s->seg[X86_DS]) && segment_is_flat(&s->seg[X86_ES]) &&
			    segment_is_flat(&s->seg[X86_SS]);
	}

	x86_debug_update(cpu);
	if (cpu->debug_data || x86_checks_alignment(cpu))
		cpu->tlb_mode = X86_TLB_SLOW;
	else
		cpu->tlb_mode = x86_rights_mode(cpu);
	x86_tlb_select(cpu);
}

void x86_turn_mode(struct x86_cpu *cpu, unsigned cpl)
{
	cpu->cpl = (uint8_t)cpl;
	cpu->code_bytes = cpu->stack_bytes = 8;
	cpu->flat = true;
	cpu->tlb_mode = x86_checks_alignment(cpu) ? X86_TLB_SLOW : x86_rights_mode(cpu);
	x86_tlb_select(cpu);
}

void x86_cpu_sync(struct x86_cpu *cpu)
{
	cpu->stop_requested = false;
	cpu->monitor_gpa = ~0ull;
	cpu->debug_pending = 0;
	cpu->s.zero = 0;
	if (cpu->model)
		cpu->features = x86_features(cpu);
	x86_wide_sync(cpu);
	x86_update_mode(cpu);
	x86_tlb_flush(cpu);
}

void x86_cpu_reset(struct x86_cpu *cpu)
{
	uint32_t regs[4] = { 0 };

	x86_state_reset(&cpu->s);
	memset(&cpu->fault, 0, sizeof(cpu->fault));
	if (cpu->model) {
		/* EDX holds the signature, as CPUID leaf 1 gives it. */
		x86_cpuid(cpu, 1, 0, regs);
		cpu->s.gpr[X86_RDX] = regs[0];
	}
	x86_cpu_sync(cpu);
}
