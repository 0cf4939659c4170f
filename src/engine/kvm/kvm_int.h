// SPDX-License-Identifier: Apache-2.0
/*
 * kvm_int.h - what the files of the kvm engine share.
 *
 * kvm.c probes, vm.c holds the machine's part (memory, dirty log), irq.c interrupts and eventfds,
 * vcpu.c the run loop, exit.c what the kernel hands out, state.c and msr.c the registers, cpuid.c
 * the processor shown, rescue.c the instructions the host's KVM gives up on, stats.c what it counts.
 *
 * Theory of kicks: a kicker sets a bit in vcpu->events, then run->immediate_exit, then signals the
 * vCPU's thread. The vCPU clears immediate_exit before it looks at events. Whatever the order,
 * either the vCPU sees the bit, or KVM_RUN sees immediate_exit, or the signal ends KVM_RUN.
 */
#pragma once

#include "engine/kvm/kvm.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "engine/chips.h"
#include "engine/xsave.h"
#include "x86/x86.h"

#define KVM_DEV "/dev/kvm"

/* Three pages and one that VMX without unrestricted guest needs for real mode; see boot/layout.h. */
#define KVM_IDENTITY_MAP_ADDR 0xfef00000ull
#define KVM_TSS_ADDR	      0xfef01000ull

#define KVM_IOAPIC_PINS 24u
#define KVM_FIRST_MSI_GSI KVM_IOAPIC_PINS
#define KVM_MAX_IRQFDS 1024u
#define KVM_CPUID_MAX 256u
#define KVM_MSR_MAX 64u

/* Bits of vcpu->events. */
#define VCPU_EVENT_KICK (1u << 0)
#define VCPU_EVENT_IRQ	(1u << 1) /* the local APIC outside has something */
#define VCPU_EVENT_NMI	(1u << 2)
#define VCPU_EVENT_INIT (1u << 3)
#define VCPU_EVENT_SIPI (1u << 4)

/* An eventfd that stands for an MSI. */
struct kvm_msi_route {
	int fd; /* -1: free */
	uint64_t address;
	uint32_t data;
};

struct rescue;

struct kvm {
	struct engine engine;
	struct mem *mem;
	struct engine_host *host;
	unsigned vcpus;
	uint32_t caps;
	int dev_fd, vm_fd;
	int stats_fd;		/* -1: it keeps no statistics */
	int vcpu_stats_fd[ENGINE_MAX_VCPUS]; /* as many as there are vCPUs; opened before they run */
	size_t run_bytes;	/* of each vCPU's shared page */
	size_t xsave_bytes;	/* 0: no XSAVE, KVM_GET_FPU is used */
	struct xsave_layout xsave;
	bool user_msr;		/* MSRs KVM does not know come to us */
	bool has_signal_msi;
	struct kvm_cpuid2 *cpuid; /* of the model, as the host supports it; owned */
	unsigned msr_count;
	uint8_t msrs[KVM_MSR_MAX]; /* rows of the table in msr.c that this host has */

	pthread_mutex_t route_lock; /* routes, and the kernel's table of them */
	struct kvm_msi_route routes[KVM_MAX_IRQFDS]; /* GSI is KVM_FIRST_MSI_GSI + index */

	bool dirty_on, dirty_log_is_ours; /* control thread */
};

struct kvm_vcpu {
	struct engine_vcpu vcpu;
	int fd;
	struct kvm_run *run;
	atomic_uint events;
	atomic_uint sipi_vector;
	atomic_int tid;		  /* of the thread inside vcpu_run, 0: none */
	atomic_llong tsc_offset;  /* guest's TSC minus the host's */
	bool incomplete;	  /* an I/O instruction is finished by the next KVM_RUN */
	uint8_t activity;	  /* enum x86_activity; without in-kernel local APIC */
	char error[256];

	struct kvm_cpuid2 *cpuid; /* as this vCPU shows it; owned */
	struct rescue *rescue;	  /* rescue.c; made when first needed */
};

static inline struct kvm *kvm_of(const struct engine_vcpu *vcpu)
{
	return (struct kvm *)vcpu->engine;
}

static inline bool kvm_has_irqchip(const struct kvm *kvm)
{
	return kvm->caps & ENGINE_CAP_IRQCHIP;
}

/* ioctl() restarted on EINTR; the result or -errno. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
int kvm_ioctl_long(int fd, unsigned long request, unsigned long arg);

/* ---- kvm.c ---- */
/* The device and its capabilities. -errno with a sentence in @text. */
int kvm_open_device(char *text, size_t text_size, uint32_t *ret_caps);

/* ---- vm.c ---- */
struct engine *kvm_open(const struct engine_config *config, GError **err);
void kvm_close(struct engine *engine);
uint32_t kvm_caps(const struct engine *engine);
int kvm_dirty_start(struct engine *engine);
int kvm_dirty_sync(struct engine *engine);
void kvm_dirty_stop(struct engine *engine);

/* ---- irq.c ---- */
int kvm_irq_setup(struct kvm *kvm, GError **err);
void kvm_irq_line(struct engine *engine, unsigned gsi, bool level);
void kvm_send_msi(struct engine *engine, uint64_t address, uint32_t data);
int kvm_irqfd_msi(struct engine *engine, int fd, uint64_t address, uint32_t data, bool add);
int kvm_ioeventfd(struct engine *engine, bool pio, uint64_t addr, unsigned len, int fd, bool add);

/* ---- cpuid.c ---- */
/* The machine's table, for the model @spec; behind the set-up of interrupt chips and MSRs. -errno. */
int kvm_cpuid_setup(struct kvm *kvm, const struct x86_cpu_spec *spec, GError **err);
unsigned kvm_cpuid_phys_bits(const struct engine *engine);
/* States of XSAVE that the guest is offered, as bits of XCR0. */
uint32_t kvm_cpuid_xcr0(const struct kvm *kvm);
bool kvm_cpu_max(struct x86_cpuid_model *ret, GError **err);
/* The vCPU's own table from the machine's. Caller frees with g_free(). */
struct kvm_cpuid2 *kvm_cpuid_for(const struct kvm *kvm, unsigned index);

/* ---- msr.c ---- */
void kvm_msr_setup(struct kvm *kvm, int vcpu_fd);
int kvm_msr_get(const struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *ret);
int kvm_msr_set(const struct kvm_vcpu *vcpu, uint32_t msr, uint64_t value);
/* Should the state have that MSR: what it is now. */
void kvm_msr_note(struct x86_state *state, uint32_t msr, uint64_t value);
int kvm_msrs_load(const struct kvm_vcpu *vcpu, struct x86_state *state);
int kvm_msrs_store(const struct kvm_vcpu *vcpu, const struct x86_state *state, bool with_tsc);

/* ---- state.c ---- */
int kvm_vcpu_get_state(struct engine_vcpu *vcpu, struct x86_state *state);
int kvm_vcpu_set_state(struct engine_vcpu *vcpu, const struct x86_state *state);

/* As vcpu_set_state, but the time stamp counter goes on undisturbed. */
int kvm_state_continue(struct kvm_vcpu *vcpu, const struct x86_state *state);

/* ---- chips.c ---- */
int kvm_vcpu_get_apic(struct engine_vcpu *vcpu, struct engine_apic *apic);
int kvm_vcpu_set_apic(struct engine_vcpu *vcpu, const struct engine_apic *apic);
int kvm_chips_get(struct engine *engine, struct engine_chips *chips);
int kvm_chips_set(struct engine *engine, const struct engine_chips *chips);
int kvm_clock_get(struct engine *engine, uint64_t *ret_ns);
int kvm_clock_set(struct engine *engine, uint64_t ns);

/* ---- vcpu.c ---- */
struct engine_vcpu *kvm_vcpu_new(struct engine *engine, unsigned index, GError **err);
void kvm_vcpu_free(struct engine_vcpu *vcpu);
enum engine_exit kvm_vcpu_run(struct engine_vcpu *vcpu);
void kvm_vcpu_kick(struct engine_vcpu *vcpu);
void kvm_vcpu_irq(struct engine_vcpu *vcpu);
void kvm_vcpu_nmi(struct engine_vcpu *vcpu);
void kvm_vcpu_init(struct engine_vcpu *vcpu);
void kvm_vcpu_sipi(struct engine_vcpu *vcpu, uint8_t vector);
uint64_t kvm_tsc_hz(const struct engine *engine);
uint64_t kvm_vcpu_tsc(const struct engine_vcpu *vcpu);
const char *kvm_vcpu_error(const struct engine_vcpu *vcpu);
/* Refresh tsc_offset; in the vCPU's thread. */
void kvm_vcpu_note_tsc(struct kvm_vcpu *vcpu);
int kvm_signal_setup(void);

/* ---- exit.c ---- */
enum kvm_handled {
	KVM_GO_ON,
	KVM_SHUTDOWN,
	KVM_FAILED, /* vcpu->error is set */
};
enum kvm_handled kvm_handle_exit(struct kvm_vcpu *vcpu);
void kvm_mmio_read(struct kvm_vcpu *vcpu, gpa_t gpa, uint8_t *data, unsigned len);
void kvm_mmio_write(struct kvm_vcpu *vcpu, gpa_t gpa, const uint8_t *data, unsigned len);

/* ---- stats.c ---- */
/* -1: there are none. The kernel would make who asks for a vCPU's wait while it runs. */
int kvm_stats_open(int vm_or_vcpu_fd);
struct engine_stats *kvm_stats_begin(struct engine *engine);
char *kvm_stats_end(struct engine_stats *stats, bool json, unsigned top);

/* ---- rescue.c ---- */
/* Run the instruction at RIP with the x86 core. 0 or -errno. */
int kvm_rescue(struct kvm_vcpu *vcpu);
void kvm_rescue_free(struct kvm_vcpu *vcpu);
