// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* fault.c - raising exceptions, and delivering them with the rules of double and triple faults. */
#include "sys_int.h"
#include "x86_int.h"

#include <string.h>

/* Nested benign faults end somewhere; this bounds it against a guest that is out to loop. */
#define MAX_NESTED 16u

enum fault_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE, CLASS_DOUBLE };

int x86_raise(struct x86_cpu *cpu, uint8_t vector)
{
	cpu->fault = (struct x86_fault){ .vector = vector };
	return X86_FAULT;
}

int x86_raise_error(struct x86_cpu *cpu, uint8_t vector, uint32_t error)
{
	cpu->fault = (struct x86_fault){ .vector = vector, .has_error = true, .error = error };
	return X86_FAULT;
}

int x86_raise_pf(struct x86_cpu *cpu, uint64_t linear, uint32_t error)
{
	cpu->fault = (struct x86_fault){
		.vector = X86_PF, .has_error = true, .error = error, .payload = linear
	};
	return X86_FAULT;
}

/* SDM vol. 3 table "Interrupt and Exception Classes". */
static enum fault_class fault_class(uint8_t vector)
{
	switch (vector) {
	case X86_DE:
	case X86_TS:
	case X86_NP:
	case X86_SS_FAULT:
	case X86_GP:
		return CLASS_CONTRIBUTORY;
	case X86_PF:
		return CLASS_PAGE;
	case X86_DF:
		return CLASS_DOUBLE;
	default:
		return CLASS_BENIGN;
	}
}

/* SDM vol. 3 table "Conditions for Generating a Double Fault". */
static bool makes_double_fault(enum fault_class first, enum fault_class second)
{
	if (first == CLASS_CONTRIBUTORY)
		return second == CLASS_CONTRIBUTORY;
	return first == CLASS_PAGE && second != CLASS_BENIGN;
}

static void apply_payload(struct x86_cpu *cpu, const struct x86_fault *fault)
{
	struct x86_state *s = &cpu->s;

	if (fault->vector == X86_PF) {
		s->cr2 = fault->payload;
	} else if (fault->vector == X86_DB) {
		/* B0..B3 tell this exception only; BD, BS and BT stay until software clears
		 * them. Delivery clears general detect so that the handler can read DR6. */
		s->dr[6] = (s->dr[6] & ~0xfull) | fault->payload | X86_DR6_FIXED;
		s->dr[7] &= ~(uint64_t)X86_DR7_GD;
	}
}

static void shut_down(struct x86_cpu *cpu)
{
	cpu->s.activity = X86_SHUTDOWN;
}

/* RF in the image on the stack: set for faults, so that an instruction breakpoint does not hit
 * twice; not for traps, nor for #DB, whose handler decides (SDM vol. 3, 18.3.1.1). */
static void set_resume_flag(struct x86_cpu *cpu, const struct x86_fault *fault)
{
	if (fault->vector == X86_DB || fault->trap || fault->software)
		cpu->s.rflags &= ~(uint64_t)X86_FL_RF;
	else
		cpu->s.rflags |= X86_FL_RF;
}

static void deliver_nested(struct x86_cpu *cpu, enum fault_class before)
{
	for (unsigned i = 0; i < MAX_NESTED; i++) {
		struct x86_fault fault = cpu->fault;
		enum fault_class class = fault_class(fault.vector);

		if (before == CLASS_DOUBLE && class != CLASS_BENIGN) {
			shut_down(cpu);
			return;
		}
		/* CR2 is written when the fault is found, also when it ends as a #DF. */
		apply_payload(cpu, &fault);
		if (makes_double_fault(before, class)) {
			fault = (struct x86_fault){ .vector = X86_DF, .has_error = true };
			class = CLASS_DOUBLE;
		}
		before = class;
		set_resume_flag(cpu, &fault);

		struct x86_event event = {
			.vector = fault.vector,
			.has_error = fault.has_error,
			.software = fault.software,
			.error = fault.error,
		};

		if (x86_deliver_event(cpu, &event) != X86_FAULT)
			return;
	}
	shut_down(cpu);
}

void x86_deliver_fault(struct x86_cpu *cpu)
{
	cpu->s.interrupt_shadow = 0;
	deliver_nested(cpu, CLASS_BENIGN);
}

static void deliver_external(struct x86_cpu *cpu, uint8_t vector)
{
	struct x86_event event = { .vector = vector };

	if (cpu->s.activity == X86_HALTED)
		cpu->s.activity = X86_RUNNING;
	cpu->s.interrupt_shadow = 0;
	/* External interrupts are benign: what goes wrong on their way is a first fault. */
	if (x86_deliver_event(cpu, &event) == X86_FAULT)
		deliver_nested(cpu, CLASS_BENIGN);
}

void x86_deliver_interrupt(struct x86_cpu *cpu, uint8_t vector)
{
	deliver_external(cpu, vector);
}

void x86_deliver_nmi(struct x86_cpu *cpu)
{
	cpu->s.nmi_masked = true;
	cpu->s.nmi_pending = false;
	deliver_external(cpu, X86_NMI);
}
