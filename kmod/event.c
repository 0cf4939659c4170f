// SPDX-License-Identifier: GPL-2.0-only
/*
 * event.c - exceptions, interrupts and NMIs on their way in.
 *
 * What is pending is part of the state (x86_state: exception_pending, interrupt_pending, nmi_pending).
 * Before an entry one event is handed to the hardware; the rest waits for a window. An
 * exit that comes while the hardware delivers it (a page of the IDT or of the stack was not mapped) gives it
 * back: SDM vol. 3, 25.2.3; APM vol. 2, 15.7.2.
 */
#include "chips.h"
#include "trace.h"
#include "x86_int.h"

/* SDM vol. 3, table 6-5. */
static bool contributes(u8 vector)
{
	return vector == X86_DE || (vector >= X86_TS && vector <= X86_GP);
}

/* A second exception while the first is pending: 1 double fault, 2 shutdown, 0 one after the other. */
static int combine(u8 first, u8 second)
{
	if (first == X86_DF)
		return contributes(second) || second == X86_PF ? 2 : 0;
	if (contributes(first) && contributes(second))
		return 1;
	return first == X86_PF && (contributes(second) || second == X86_PF) ? 1 : 0;
}

void event_raise(struct vcpu *vcpu, u8 vector, bool has_error, u32 error)
{
	struct x86_state *s = vcpu_state(vcpu);

	if (s->exception_pending) {
		switch (combine(s->exception_vector, vector)) {
		case 1:
			vector = X86_DF;
			has_error = true;
			error = 0;
			break;
		case 2:
			s->activity = X86_SHUTDOWN;
			s->exception_pending = false;
			return;
		default: /* the first one comes again when the second is handled */
			break;
		}
	}
	s->exception_pending = true;
	s->exception_vector = vector;
	s->exception_has_error = has_error;
	s->exception_error = error;
}

void event_page_fault(struct vcpu *vcpu, u64 linear, u32 error)
{
	vcpu->stats.pf_guest++;
	vcpu_state(vcpu)->cr2 = linear;
	event_raise(vcpu, X86_PF, true, error);
}

/* Types of events, in the word that both vendors have. */
static const u8 types[] = { [EVENT_INTERRUPT] = 0, [EVENT_NMI] = 2, [EVENT_EXCEPTION] = 3 };

u32 event_info(const struct event *event)
{
	return event->vector | types[event->kind] << 8 | EVENT_INFO_VALID |
	       (event->has_error ? EVENT_INFO_ERROR : 0);
}

/* Its delivery was interrupted: once more. */
static void again(struct vcpu *vcpu, const struct event *event)
{
	struct x86_state *s = vcpu_state(vcpu);

	switch (event->kind) {
	case EVENT_INTERRUPT:
		s->interrupt_pending = true;
		s->interrupt_vector = event->vector;
		break;
	case EVENT_NMI:
		vcpu->nmi_injected = true;
		break;
	case EVENT_EXCEPTION:
		s->exception_pending = true;
		s->exception_vector = event->vector;
		s->exception_has_error = event->has_error;
		s->exception_error = event->error;
		break;
	}
}

/* INT n and its like begin anew: they are types above, or exceptions with these vectors. */
void event_take_back(struct vcpu *vcpu, u32 info, u32 error)
{
	struct event event = { .vector = info & EVENT_INFO_VECTOR };

	vcpu->taken_back = false;
	if (!(info & EVENT_INFO_VALID))
		return;
	for (unsigned int i = 0; i < ARRAY_SIZE(types); i++) {
		if ((info & EVENT_INFO_TYPE) >> 8 != types[i])
			continue;
		event.kind = i;
		if (i == EVENT_EXCEPTION && (event.vector == X86_BP || event.vector == X86_OF))
			return;
		event.has_error = i == EVENT_EXCEPTION && info & EVENT_INFO_ERROR;
		event.error = error;
		vcpu->taken_back = true;
		again(vcpu, &event);
	}
}

bool event_can_interrupt(struct vcpu *vcpu)
{
	const struct x86_state *s = &vcpu->cpu.s; /* what waits is in no hardware's form */

	return !s->interrupt_pending && !s->exception_pending && !vcpu->nmi_injected &&
	       hw->rflags(vcpu) & X86_FL_IF && !hw->interrupt_shadow(vcpu);
}

/* Of interrupt controllers in here, it is this that waits; the controllers are told when it is injected. */
static bool chips_wait(struct vcpu *vcpu)
{
	return vcpu->lapic && lapic_pending(vcpu) >= 0;
}

bool event_wakes(struct vcpu *vcpu)
{
	const struct x86_state *s = &vcpu->cpu.s;

	return (s->nmi_pending && !vcpu_peek(vcpu)->nmi_masked) || vcpu->nmi_injected || s->exception_pending ||
	       (hw->rflags(vcpu) & X86_FL_IF && (s->interrupt_pending || chips_wait(vcpu)));
}

static void inject(struct vcpu *vcpu, const struct event *event)
{
	hw->inject(vcpu, event);
	vcpu->stats.irq_injections += event->kind == EVENT_INTERRUPT;
	if (event->kind == EVENT_INTERRUPT)
		trace_kvm_inj_virq(event->vector, vcpu->taken_back);
	vcpu->stats.nmi_injections += event->kind == EVENT_NMI;
	vcpu->injected = *event;
	vcpu->has_injected = true;
}

void event_cancel(struct vcpu *vcpu)
{
	if (!vcpu->has_injected)
		return;
	vcpu->has_injected = false;
	hw->inject(vcpu, NULL);
	again(vcpu, &vcpu->injected);
}

static bool can_nmi(const struct x86_state *s)
{
	return !s->nmi_masked && !s->interrupt_shadow;
}

static void inject_nmi(struct vcpu *vcpu)
{
	struct event event = { .kind = EVENT_NMI, .vector = X86_NMI };

	vcpu->nmi_injected = false;
	vcpu_state(vcpu)->nmi_masked = true;
	inject(vcpu, &event);
	hw->nmi_window(vcpu, true);
}

void event_inject(struct vcpu *vcpu)
{
	bool blocked = vcpu->debug.control & KVM_GUESTDBG_BLOCKIRQ;
	struct x86_state *s = &vcpu->cpu.s;

	(void)vcpu_take_request(vcpu, REQ_EVENT); /* before the look: see chips.h */
	if (s->exception_pending) {
		struct event event = { .kind = EVENT_EXCEPTION, .vector = s->exception_vector,
				       .has_error = s->exception_has_error,
				       .error = s->exception_error };

		/* Faults set it, for the return: SDM vol. 3, 17.3.1.1. */
		if (event.vector != X86_DB && event.vector != X86_BP && event.vector != X86_OF)
			vcpu_state(vcpu)->rflags |= X86_FL_RF;
		s->exception_pending = false;
		inject(vcpu, &event);
	} else if (vcpu->nmi_injected) {
		inject_nmi(vcpu);
	} else if (s->interrupt_pending && (vcpu_peek(vcpu)->rflags & X86_FL_IF) &&
		   !s->interrupt_shadow) {
		struct event event = { .kind = EVENT_INTERRUPT, .vector = s->interrupt_vector };

		s->interrupt_pending = false;
		inject(vcpu, &event);
	} else if (blocked) {
		; /* a debugger steps, and would not be led away by them */
	} else if (s->nmi_pending && can_nmi(vcpu_peek(vcpu))) {
		vcpu_state(vcpu)->nmi_pending = false;
		inject_nmi(vcpu);
	} else if (chips_wait(vcpu) && event_can_interrupt(vcpu)) {
		int vector = lapic_ack(vcpu);
		struct event event = { .kind = EVENT_INTERRUPT, .vector = vector };

		if (vector >= 0)
			inject(vcpu, &event);
	}
	/* A masked NMI waits for the IRET, which exits. */
	hw->interrupt_window(vcpu, s->interrupt_pending || vcpu_user_waits(vcpu) ||
				   (!blocked && ((s->nmi_pending && !s->nmi_masked) ||
						 chips_wait(vcpu))));
}
