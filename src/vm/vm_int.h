// SPDX-License-Identifier: Apache-2.0
/*
 * vm_int.h - what the files of vm share.
 *
 * A machine is two things of different age. The backends (terminal, images, networks) are opened
 * once. The board (RAM, engine, vCPUs, devices) is built from scratch at start and again for
 * every reset, so that a reset leaves nothing behind.
 */
#pragma once

#include <glib.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "disk/disk.h"
#include "engine/engine.h"

struct vm;

struct vcpu {
	struct vm *vm;
	unsigned index;
	struct engine_vcpu *ev;
	pthread_t thread;
	bool started;
};

struct io_thread {
	const char *name; /* of the configuration, or NULL */
	struct loop *loop; /* owned */
	pthread_t thread;
	bool started;
};

/* Main thread; no I/O thread runs while it is opened or closed. */
struct backends {
	struct chardev *serial; /* behind COM1 */
	struct chardev *console; /* behind hvc0 */
	struct disk *disks[VM_MAX_DISKS]; /* what devices get, owned */
	struct disk *points[VM_MAX_DISKS]; /* of those, the filter that shows moments; NULL: read-only */
	struct disk *counts[VM_MAX_DISKS]; /* the one that counts */
	struct net *nets[VM_MAX_NETS];
};

#define BOARD_MAX_VIRTIO (VM_MAX_DISKS + VM_MAX_NETS + 2u)

/* Built and torn down by the main thread while no other thread runs. */
struct board {
	struct mem *mem;
	struct bus *bus;
	struct engine *engine;
	struct vcpu vcpus[VM_MAX_CPUS];
	unsigned vcpu_count;

	struct vclock *clock;
	struct irqchip *irqchip; /* NULL: the engine has the interrupt chips */
	struct irq_chip *irq; /* what devices get; owned only without irqchip */
	struct pit *pit;
	struct rtc *rtc;
	struct hpet *hpet;
	struct acpi_pm *pm;
	struct legacy *legacy;
	struct debug_exit *debug_exit;
	struct uart *uart;
	struct pci_bus *pci;
	struct virtio_dev *virtio[BOARD_MAX_VIRTIO];
	unsigned virtio_count;
	struct virtio_dev *disks[VM_MAX_DISKS]; /* of those, which is whose */
};

enum vm_wish { WISH_NONE, WISH_RESET, WISH_END };

struct vm {
	const struct vm_config *config; /* borrowed */
	const struct engine_ops *engine_ops; /* static */
	struct engine_host host;
	struct io_thread io[1 + VM_MAX_DISKS]; /* the first is the one of all devices */
	unsigned io_count;
	struct loop *loop; /* of the first */
	GMainLoop *main;
	int signal_fd; /* SIGINT, SIGTERM, SIGHUP, which are blocked from vm_new() on */
	struct backends back;
	struct board board;
	uint64_t insns[VM_MAX_CPUS]; /* retired before resets; main thread */
	struct vm_measure *measure; /* under way, or NULL; main thread */
	/* What the clock chip's battery keeps over a reset (rtc_save()); NULL at first. */
	GByteArray *battery;

	/* Main thread. */
	int disk_errors[VM_MAX_DISKS]; /* why a disk holds requests; 0: it does not */
	guint retry_source; /* while any does */
	struct disk_watch { /* what disks are given to tell of it */
		struct vm *vm;
		unsigned index;
	} disk_watches[VM_MAX_DISKS];
	unsigned epoch; /* counts boards; the I/O threads read it */
	bool quieting; /* devices are coming to a standstill, while this thread's loop runs */
	struct vm_export *ended; /* exports that end behind that */

	struct disk_patience patience; /* of all disks */

	atomic_bool paused; /* vCPUs wait for go_on */
	/* vCPUs look at it after each return from the engine. Set before they are kicked. */
	atomic_bool stop;
	pthread_cond_t go_on; /* no longer paused, or stop; with lock */
	pthread_mutex_t
		lock; /* guards the next two; taken by vCPU threads inside device callbacks */
	enum vm_wish wish;
	int status;
};

/* ---- vm.c ---- */
/* vm_new() with that engine, whatever the configuration says. */
struct vm *vm_new_on(const struct vm_config *config, const struct engine_ops *ops, GError **err);
/* Any thread. The first wish since the machine (re)started counts, but an end comes before a reset. */
void vm_wish(struct vm *vm, enum vm_wish wish, int status);

/* ---- io.c: the main thread ---- */
bool io_open(struct vm *vm, GError **err);
void io_close(struct vm *vm);
bool io_start(struct vm *vm, GError **err);
void io_stop(struct vm *vm);
/* All threads do. */
bool io_runs(const struct vm *vm);
/* Of the thread that a disk's configuration names, NULL: the one of all devices. */
struct loop *io_loop(struct vm *vm, const char *name);

/* ---- pause.c ---- */
/* A vCPU's thread: until the machine is not paused, or is to stop. */
void pause_wait(struct vm *vm);
/* Any thread: look again. */
void pause_wake(struct vm *vm);
/* struct disk_hold_options.changed; @arg: a struct disk_watch. */
void pause_disk_changed(void *arg, int error);
/* Main thread, while no other runs: what disks hold is not done any more. */
void pause_forget(struct vm *vm);

/* ---- quiet.c: the main thread ---- */
/* Any thread: what disks may wait for is what the wish allows. */
void quiet_patience(struct vm *vm);
/* Devices take no more requests, and have none under way. The main loop runs meanwhile. */
void quiet_stop(struct vm *vm);
/* True, with a sentence: the main loop runs inside of quiet_stop(). */
bool quiet_refuses(const struct vm *vm, GError **err);
/* "resetting" or "ending"; NULL: neither. */
const char *quiet_state(struct vm *vm);
/* Could the devices of these disks stand still for a moment, while the machine runs? False: a sentence in @err. */
bool quiet_can(struct vm *vm, const unsigned *disks, unsigned count, GError **err);

/* ---- export.c ---- */
/* Those that could not end before. */
void export_end_later(struct vm *vm);

/* By its number or its serial; -1 with a sentence in @err. */
int vm_disk_find(const struct vm *vm, const char *name, GError **err);

/* ---- backends.c ---- */
bool backends_open(struct vm *vm, GError **err);
void backends_close(struct backends *back);

/* ---- board.c ---- */
bool board_build(struct vm *vm, GError **err);
/* Before board_free(), when the machine is to start again. */
void board_keep(struct vm *vm);
/* Half-built boards too. No vCPU runs, the I/O threads have ended. */
void board_free(struct vm *vm);

/* ---- vcpu.c ---- */
extern const struct engine_host_ops vcpu_host_ops;
bool vcpu_pins_check(const struct vm_config *config, GError **err);
/* False: the host gives no more threads. */
bool vcpus_start(struct vm *vm, GError **err);
void vcpus_kick(struct vm *vm);
void vcpus_join(struct vm *vm);
