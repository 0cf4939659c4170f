// SPDX-License-Identifier: Apache-2.0
/*
 * engine.h - the engine contract: what runs vCPUs. Nothing outside src/engine/ knows which one.
 *
 * Life: engine_open() -> engine_vcpu_new() for every vCPU -> set states -> one thread per vCPU
 * calls engine_vcpu_run() in a loop -> engine_vcpu_free(), engine_close() after the threads ended.
 *
 * Port and memory-mapped I/O do not leave engine_vcpu_run(): the engine calls the machine's
 * struct engine_host in the vCPU's thread and goes on in the guest. The run returns only for what
 * the machine must decide.
 *
 * Threading: a vCPU is run, and its state read or written, by one thread at a time. engine_vcpu_kick()
 * and the interrupt calls may come from any thread.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "mem/mem.h"

struct engine;
struct engine_apic;
struct engine_chips;
struct engine_stats;
struct engine_vcpu;
struct x86_cpu_spec;
struct x86_cpuid_model;
struct x86_state;

#define ENGINE_MAX_VCPUS 64u

/* What an engine can do on this host. */
enum engine_cap {
	ENGINE_CAP_IRQCHIP = 1u << 0,	/* 8259, I/O APIC, local APICs live in the engine */
	ENGINE_CAP_PIT = 1u << 1,	/* and the 8254 */
	ENGINE_CAP_IOEVENTFD = 1u << 2, /* engine_ioeventfd_add() works */
	ENGINE_CAP_IRQFD = 1u << 3,	/* engine_irqfd_add() works */
};

enum engine_exit {
	ENGINE_EXIT_KICK,     /* engine_vcpu_kick(), or a signal: look at the machine's requests */
	ENGINE_EXIT_SHUTDOWN, /* triple fault */
	ENGINE_EXIT_FAIL,     /* the engine cannot go on; engine_vcpu_error() says why */
};

/*
 * The machine as the engine sees it; embedded by the machine. Calls come from vCPU threads.
 * The apic_* calls are used only by an engine without ENGINE_CAP_IRQCHIP.
 */
struct engine_host;
struct engine_host_ops {
	uint64_t (*pio_read)(struct engine_host *host, unsigned vcpu, uint16_t port, unsigned size);
	void (*pio_write)(struct engine_host *host, unsigned vcpu, uint16_t port, unsigned size,
			  uint64_t value);
	/* @size 1, 2, 4 or 8. The local APIC page is among what these reach. */
	uint64_t (*mmio_read)(struct engine_host *host, unsigned vcpu, gpa_t gpa, unsigned size);
	void (*mmio_write)(struct engine_host *host, unsigned vcpu, gpa_t gpa, unsigned size,
			   uint64_t value);
	/* Highest vector that may be delivered to @vcpu at its task priority, or -1. Cheap: called
	 * each time the guest can take an interrupt after a kick. */
	int (*apic_pending)(struct engine_host *host, unsigned vcpu);
	/* Acknowledge and return that vector, or -1 when it is gone. */
	int (*apic_ack)(struct engine_host *host, unsigned vcpu);
	/* CR8, i.e. the task priority's upper four bits. */
	uint8_t (*apic_get_cr8)(struct engine_host *host, unsigned vcpu);
	void (*apic_set_cr8)(struct engine_host *host, unsigned vcpu, uint8_t cr8);
	/* IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC range 0x800..0x8ff. False: #GP. */
	bool (*apic_read_msr)(struct engine_host *host, unsigned vcpu, uint32_t msr, uint64_t *value);
	bool (*apic_write_msr)(struct engine_host *host, unsigned vcpu, uint32_t msr, uint64_t value);
	/* Nanoseconds until the local APIC's timer of @vcpu, UINT64_MAX where it is not armed. When it is
	 * due it fires here and now. For a halted vCPU, whose thread may as well wait for it itself: it
	 * fires without this too, a little later. May be NULL. */
	uint64_t (*apic_timer)(struct engine_host *host, unsigned vcpu);
	/* With engine_config.deterministic: it is @ns by the machine's clock; timers fire when told to.
	 * Returns when the next one is due, all ones when none is set. In the vCPU's thread. */
	uint64_t (*time_to)(struct engine_host *host, uint64_t ns, bool fire);
};

struct engine_host {
	const struct engine_host_ops *ops;
};

struct engine_config {
	struct mem *mem;	  /* borrowed */
	struct engine_host *host; /* borrowed */
	unsigned vcpus;		  /* 1..ENGINE_MAX_VCPUS */
	bool want_irqchip;	  /* use the engine's interrupt chips where it has them */
	/* And its 8254. Then there can be no HPET beside it, which has to disconnect that. */
	bool want_pit;
	/* The processor to show (x86/model.h); borrowed until open() returns. NULL: the default. A
	 * feature that the engine lacks is an error that names it. */
	const struct x86_cpu_spec *cpu;
	/* For tests of the bt engine: translate nothing; optimizations switched off (enum bt_off); a
	 * size of its caches other than its own choice (at least 64 KiB). */
	bool interpret;
	uint32_t off;
	uint32_t cache_bytes;
	/* The same by name, "NAME+NAME", or NULL; what the machine may take for blocks and their code,
	 * or 0. */
	const char *off_names;
	uint64_t cache_total_bytes;
	bool perf_map; /* write /tmp/perf-PID.map */
	bool count_insns; /* vcpu_insns() counts */
	/* The guest's time is the number of instructions, a nanosecond each: host->ops->time_to().
	 * With one vCPU. */
	bool deterministic;
};

/* One row of `sika engines`. */
struct engine_probe {
	bool available;
	bool hardware;	/* backed by VMX or SVM of this host */
	char text[256]; /* one sentence: what it can do here, or why not */
	uint32_t caps;
};

struct engine_ops {
	const char *name; /* "kvm", "bt" */
	void (*probe)(struct engine_probe *ret);
	/* The most it can show a guest of a processor on this host. */
	bool (*cpu_max)(struct x86_cpuid_model *ret, GError **err);
	struct engine *(*open)(const struct engine_config *config, GError **err);
	void (*close)(struct engine *engine);
	uint32_t (*caps)(const struct engine *engine);

	/* Width of the guest's physical addresses, CPUID leaf 0x80000008. */
	unsigned (*phys_bits)(const struct engine *engine);
	struct engine_vcpu *(*vcpu_new)(struct engine *engine, unsigned index, GError **err);
	void (*vcpu_free)(struct engine_vcpu *vcpu);
	enum engine_exit (*vcpu_run)(struct engine_vcpu *vcpu);
	void (*vcpu_kick)(struct engine_vcpu *vcpu);
	/* Deliver: an interrupt became pending for this vCPU, wake it if it halts. */
	void (*vcpu_irq)(struct engine_vcpu *vcpu);
	void (*vcpu_nmi)(struct engine_vcpu *vcpu);
	/* Multiprocessor start-up, SDM vol. 3 "MP Initialization": to wait-for-SIPI; and start at
	 * vector << 12. Only without ENGINE_CAP_IRQCHIP. Any thread. */
	void (*vcpu_init)(struct engine_vcpu *vcpu);
	void (*vcpu_sipi)(struct engine_vcpu *vcpu, uint8_t vector);
	/* The guest's time stamp counter, for a local APIC outside the engine (TSC-deadline): its
	 * frequency in Hz, and its value in @vcpu now. Only without ENGINE_CAP_IRQCHIP. Any thread. */
	uint64_t (*tsc_hz)(const struct engine *engine);
	uint64_t (*vcpu_tsc)(const struct engine_vcpu *vcpu);
	/* Whole architectural state, engine-neutral (x86/state.h). 0 or -errno. */
	int (*vcpu_get_state)(struct engine_vcpu *vcpu, struct x86_state *state);
	int (*vcpu_set_state)(struct engine_vcpu *vcpu, const struct x86_state *state);
	/* The chips of an engine with ENGINE_CAP_IRQCHIP (chips.h), with no vCPU running. A vCPU's
	 * local APIC is set after its state. 0 or -errno. */
	int (*vcpu_get_apic)(struct engine_vcpu *vcpu, struct engine_apic *apic);
	int (*vcpu_set_apic)(struct engine_vcpu *vcpu, const struct engine_apic *apic);
	int (*chips_get)(struct engine *engine, struct engine_chips *chips);
	int (*chips_set)(struct engine *engine, const struct engine_chips *chips);
	/* What the paravirtual clock of a guest shows, in nanoseconds. Set before the vCPUs'
	 * states; it goes on from there. 0 or -errno. */
	int (*clock_get)(struct engine *engine, uint64_t *ret_ns);
	int (*clock_set)(struct engine *engine, uint64_t ns);
	const char *(*vcpu_error)(const struct engine_vcpu *vcpu);

	/* With ENGINE_CAP_IRQCHIP. */
	void (*irq_line)(struct engine *engine, unsigned gsi, bool level);
	void (*send_msi)(struct engine *engine, uint64_t address, uint32_t data);
	/* With ENGINE_CAP_IOEVENTFD, ENGINE_CAP_IRQFD: 0 or -errno. The irqfd's MSI may be changed
	 * by adding it again. */
	int (*ioeventfd)(struct engine *engine, bool pio, uint64_t addr, unsigned len, int fd,
			 bool add);
	int (*irqfd_msi)(struct engine *engine, int fd, uint64_t address, uint32_t data, bool add);
	/* Record pages the guest writes in mem's dirty log from now on; fold what the engine
	 * knows into it. */
	int (*dirty_start)(struct engine *engine);
	int (*dirty_sync)(struct engine *engine);
	void (*dirty_stop)(struct engine *engine);
	/* Instructions that @vcpu has retired, where engine_config.count_insns. May be absent. Any
	 * thread; exact while the vCPU does not run. */
	uint64_t (*vcpu_insns)(const struct engine_vcpu *vcpu);
	/* Statistics, while vCPUs run; all in one thread. Absent: there are none. begin() takes the
	 * counters as they are (NULL: this host keeps none), sample() looks what each vCPU is doing (may be
	 * absent), end() tells (text, or an object of JSON on one line; lists of at most @top rows; caller
	 * frees) and frees. To be ended before the engine is closed. */
	struct engine_stats *(*stats_begin)(struct engine *engine);
	void (*stats_sample)(struct engine_stats *stats);
	char *(*stats_end)(struct engine_stats *stats, bool json, unsigned top);
};

/* Embedded first in every implementation. */
struct engine {
	const struct engine_ops *ops;
};

struct engine_vcpu {
	struct engine *engine;
	unsigned index;
};

/* All engines, in the order `auto` prefers them; NULL-terminated. */
extern const struct engine_ops *const engine_list[];

/* By name, or the one `auto` takes: kvm where the host's KVM is backed by hardware, else bt.
 * @ret_why: one line that says which and why (caller frees). NULL with a sentence in @err. */
const struct engine_ops *engine_select(const char *name, char **ret_why, GError **err);
