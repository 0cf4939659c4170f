// SPDX-License-Identifier: Apache-2.0
/* vcpu.c - a vCPU: made, run, kicked, interrupted. See kvm_int.h for how kicks are not lost. */
#include "engine/kvm/kvm_int.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/error.h"
#include "base/log.h"

/* Ends KVM_RUN; the handler does nothing. Not SIGUSR1, which belongs to the program. */
#define KICK_SIGNAL (SIGRTMIN + 1)

static void on_kick(int sig)
{
}

int kvm_signal_setup(void)
{
	struct sigaction action = { .sa_handler = on_kick };

	sigemptyset(&action.sa_mask);
	return sigaction(KICK_SIGNAL, &action, NULL) < 0 ? -errno : 0;
}

static bool fail(GError **err, unsigned index, const char *what, int error)
{
	g_set_error(err, BASE_ERROR, error, "engine 'kvm': cannot %s vCPU %u: %s", what, index,
		    g_strerror(error));
	return false;
}

static bool setup_vcpu(struct kvm *kvm, struct kvm_vcpu *vcpu, unsigned index, GError **err)
{
	struct x86_state *state;
	struct kvm_sregs sregs;
	int r;

	vcpu->fd = kvm_ioctl_long(kvm->vm_fd, KVM_CREATE_VCPU, index);
	if (vcpu->fd < 0)
		return fail(err, index, "create", -vcpu->fd);
	vcpu->run = mmap(NULL, kvm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		return fail(err, index, "map the shared page of", errno);
	kvm->vcpu_stats_fd[index] = kvm_stats_open(vcpu->fd);
	vcpu->cpuid = kvm_cpuid_for(kvm, index);
	r = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, vcpu->cpuid);
	if (r < 0)
		return fail(err, index, "set CPUID of", -r);
	if (!kvm->msr_count)
		kvm_msr_setup(kvm, vcpu->fd);
	/* With our own local APIC KVM still needs to know that there is one, for CPUID. */
	if (!kvm_has_irqchip(kvm) && kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) >= 0) {
		sregs.apic_base = 0xfee00800u | (index == 0 ? 0x100u : 0);
		r = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
		if (r < 0)
			return fail(err, index, "set the local APIC's base of", -r);
	}
	state = g_new0(struct x86_state, 1);
	x86_state_reset(state);
	if (index != 0)
		state->activity = X86_WAIT_SIPI;
	r = kvm_vcpu_set_state(&vcpu->vcpu, state);
	g_free(state);
	return r < 0 ? fail(err, index, "reset", -r) : true;
}

struct engine_vcpu *kvm_vcpu_new(struct engine *engine, unsigned index, GError **err)
{
	struct kvm *kvm = (struct kvm *)engine;
	struct kvm_vcpu *vcpu = g_new0(struct kvm_vcpu, 1);

	vcpu->vcpu = (struct engine_vcpu){ .engine = engine, .index = index };
	vcpu->fd = -1;
	vcpu->run = MAP_FAILED;
	if (!setup_vcpu(kvm, vcpu, index, err)) {
		kvm_vcpu_free(&vcpu->vcpu);
		return NULL;
	}
	return &vcpu->vcpu;
}

void kvm_vcpu_free(struct engine_vcpu *base)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)base;

	if (!vcpu)
		return;
	if (kvm_of(base)->vcpu_stats_fd[base->index] >= 0)
		close(kvm_of(base)->vcpu_stats_fd[base->index]);
	kvm_of(base)->vcpu_stats_fd[base->index] = -1;
	if (vcpu->run != MAP_FAILED)
		munmap(vcpu->run, kvm_of(base)->run_bytes);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	kvm_rescue_free(vcpu);
	g_free(vcpu->cpuid);
	g_free(vcpu);
}

/* ---- events from other threads ---- */

static void futex(atomic_uint *word, int op, unsigned value)
{
	(void)syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static void post_event(struct kvm_vcpu *vcpu, unsigned event)
{
	int tid;

	if (atomic_fetch_or(&vcpu->events, event) & event)
		return; /* whoever set it has done, or is about to do, the rest */
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	futex(&vcpu->events, FUTEX_WAKE, 1);
	tid = atomic_load(&vcpu->tid);
	if (tid > 0 && tid != (int)syscall(SYS_gettid))
		(void)syscall(SYS_tgkill, getpid(), tid, KICK_SIGNAL);
}

void kvm_vcpu_kick(struct engine_vcpu *base)
{
	post_event((struct kvm_vcpu *)base, VCPU_EVENT_KICK);
}

void kvm_vcpu_irq(struct engine_vcpu *base)
{
	post_event((struct kvm_vcpu *)base, VCPU_EVENT_IRQ);
}

void kvm_vcpu_nmi(struct engine_vcpu *base)
{
	post_event((struct kvm_vcpu *)base, VCPU_EVENT_NMI);
}

void kvm_vcpu_init(struct engine_vcpu *base)
{
	post_event((struct kvm_vcpu *)base, VCPU_EVENT_INIT);
}

void kvm_vcpu_sipi(struct engine_vcpu *base, uint8_t vector)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)base;

	atomic_store(&vcpu->sipi_vector, vector);
	post_event(vcpu, VCPU_EVENT_SIPI);
}

/* ---- time ---- */

void kvm_vcpu_note_tsc(struct kvm_vcpu *vcpu)
{
	uint64_t guest;

	if (kvm_msr_get(vcpu, 0x10, &guest) == 0)
		atomic_store(&vcpu->tsc_offset, (long long)(guest - __rdtsc()));
}

uint64_t kvm_vcpu_tsc(const struct engine_vcpu *base)
{
	const struct kvm_vcpu *vcpu = (const struct kvm_vcpu *)base;

	return __rdtsc() + (uint64_t)atomic_load(&vcpu->tsc_offset);
}

uint64_t kvm_tsc_hz(const struct engine *engine)
{
	const struct kvm *kvm = (const struct kvm *)engine;
	int khz = kvm_ioctl_long(kvm->vm_fd, KVM_GET_TSC_KHZ, 0);

	return khz > 0 ? (uint64_t)khz * 1000 : 0;
}

const char *kvm_vcpu_error(const struct engine_vcpu *base)
{
	return ((const struct kvm_vcpu *)base)->error;
}

/* ---- INIT and SIPI, without an in-kernel local APIC ---- */

static int do_init(struct kvm_vcpu *vcpu)
{
	g_autofree struct x86_state *state = g_new(struct x86_state, 1);
	int r = kvm_vcpu_get_state(&vcpu->vcpu, state);

	if (r < 0)
		return r;
	x86_state_init(state);
	state->activity = vcpu->vcpu.index == 0 ? X86_RUNNING : X86_WAIT_SIPI;
	return kvm_vcpu_set_state(&vcpu->vcpu, state);
}

static int do_sipi(struct kvm_vcpu *vcpu)
{
	unsigned vector = atomic_load(&vcpu->sipi_vector);
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	int r;

	if (vcpu->activity != X86_WAIT_SIPI)
		return 0;
	r = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
	if (r >= 0)
		r = kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs);
	if (r < 0)
		return r;
	sregs.cs.selector = (uint16_t)(vector << 8);
	sregs.cs.base = vector << 12;
	regs.rip = 0;
	r = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
	if (r >= 0)
		r = kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
	if (r >= 0)
		vcpu->activity = X86_RUNNING;
	return r;
}

/* ---- interrupts from a local APIC outside the kernel ---- */

static int inject(struct kvm_vcpu *vcpu)
{
	struct engine_host *host = kvm_of(&vcpu->vcpu)->host;
	unsigned index = vcpu->vcpu.index;
	struct kvm_run *run = vcpu->run;
	struct kvm_interrupt irq;
	int vector;

	run->request_interrupt_window = 0;
	if (host->ops->apic_pending(host, index) < 0)
		return 0;
	if (!run->ready_for_interrupt_injection) {
		run->request_interrupt_window = 1;
		return 0;
	}
	vector = host->ops->apic_ack(host, index);
	if (vector < 0)
		return 0;
	irq.irq = (uint32_t)vector;
	run->ready_for_interrupt_injection = 0;
	if (host->ops->apic_pending(host, index) >= 0)
		run->request_interrupt_window = 1;
	return kvm_ioctl(vcpu->fd, KVM_INTERRUPT, &irq);
}

/* A halted vCPU sleeps until an event is worth a look. True when it runs on. */
static bool wake(struct kvm_vcpu *vcpu, unsigned events)
{
	struct engine_host *host = kvm_of(&vcpu->vcpu)->host;

	if (vcpu->activity == X86_RUNNING)
		return true;
	if (vcpu->activity == X86_HALTED &&
	    ((events & VCPU_EVENT_NMI) ||
	     (vcpu->run->if_flag && host->ops->apic_pending(host, vcpu->vcpu.index) >= 0))) {
		vcpu->activity = X86_RUNNING;
		return true;
	}
	futex(&vcpu->events, FUTEX_WAIT, 0);
	return false;
}

/* What must be done before KVM_RUN when the interrupt chips are ours. 1: run, 0: look again at the
 * events, or -errno. */
static int prepare(struct kvm_vcpu *vcpu, unsigned events)
{
	int r = 0;

	if (events & VCPU_EVENT_INIT)
		r = do_init(vcpu);
	if (r >= 0 && (events & VCPU_EVENT_SIPI))
		r = do_sipi(vcpu);
	if (r < 0)
		return r;
	if (!wake(vcpu, events))
		return 0;
	r = inject(vcpu);
	return r < 0 ? r : 1;
}

static enum engine_exit failed(struct kvm_vcpu *vcpu, const char *what, int error)
{
	snprintf(vcpu->error, sizeof(vcpu->error), "%s: %s", what, strerror(error));
	return ENGINE_EXIT_FAIL;
}

static void enter_thread(struct kvm_vcpu *vcpu)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	atomic_store(&vcpu->tid, (int)syscall(SYS_gettid));
}

/* One KVM_RUN, after what comes before it. False: *ret_exit tells how vcpu_run() ends. */
static bool run_once(struct kvm_vcpu *vcpu, enum engine_exit *ret_exit)
{
	const struct kvm *kvm = kvm_of(&vcpu->vcpu);
	bool ours = !kvm_has_irqchip(kvm);
	const unsigned whole = VCPU_EVENT_KICK | VCPU_EVENT_INIT | VCPU_EVENT_SIPI;
	unsigned events;
	uint8_t cr8 = 0;
	int r;

	/* Pairs with post_event(): cleared before the events are looked at. */
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	if (vcpu->incomplete && (atomic_load(&vcpu->events) & whole)) {
		/* The state is whole only behind the instruction whose I/O was just done. */
		vcpu->run->immediate_exit = 1;
	} else {
		events = atomic_exchange(&vcpu->events, 0);
		if (events & VCPU_EVENT_KICK) {
			/* The rest is for the next run. */
			atomic_fetch_or(&vcpu->events, events & ~VCPU_EVENT_KICK);
			*ret_exit = ENGINE_EXIT_KICK;
			return false;
		}
		if ((events & VCPU_EVENT_NMI) && kvm_ioctl(vcpu->fd, KVM_NMI, NULL) < 0)
			log_debug("vcpu %u: the host's KVM takes no NMI", vcpu->vcpu.index);
		if (ours) {
			r = prepare(vcpu, events);
			if (r < 0)
				*ret_exit = failed(vcpu, "cannot interrupt the vCPU", -r);
			if (r <= 0)
				return r == 0;
		}
	}
	if (ours)
		vcpu->run->cr8 = cr8 =
			kvm->host->ops->apic_get_cr8(kvm->host, vcpu->vcpu.index);
	r = ioctl(vcpu->fd, KVM_RUN, NULL) < 0 ? -errno : 0;
	if (r < 0 && r != -EINTR && r != -EAGAIN) {
		*ret_exit = failed(vcpu, "KVM_RUN", -r);
		return false;
	}
	if (ours && vcpu->run->cr8 != cr8)
		kvm->host->ops->apic_set_cr8(kvm->host, vcpu->vcpu.index,
					     (uint8_t)vcpu->run->cr8);
	if (r < 0) {
		vcpu->incomplete = false;
		/* Whoever wants the vCPU out has set an event. A signal without one comes late, for
		 * an event already seen. */
		return true;
	}
	switch (kvm_handle_exit(vcpu)) {
	case KVM_SHUTDOWN:
		vcpu->activity = X86_SHUTDOWN;
		*ret_exit = ENGINE_EXIT_SHUTDOWN;
		return false;
	case KVM_FAILED:
		*ret_exit = ENGINE_EXIT_FAIL;
		return false;
	default:
		return true;
	}
}

enum engine_exit kvm_vcpu_run(struct engine_vcpu *base)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)base;
	enum engine_exit reason = ENGINE_EXIT_FAIL;

	if (vcpu->activity == X86_SHUTDOWN)
		return ENGINE_EXIT_SHUTDOWN;
	enter_thread(vcpu);
	while (run_once(vcpu, &reason))
		;
	atomic_store(&vcpu->tid, 0);
	return reason;
}
