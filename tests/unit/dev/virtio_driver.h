// SPDX-License-Identifier: Apache-2.0
/*
 * virtio_driver.h - a small machine without CPUs and a small virtio driver, for tests.
 *
 * The rig has memory, a bus, a PCI bus whose interrupts are counted, and a loop that runs in the
 * test's own thread whenever the test waits for something. The driver side of queues is written
 * from the specification, apart from the device's code.
 */
#pragma once

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "bus/bus.h"
#include "bus/irq.h"
#include "bus/pci.h"
#include "mem/mem.h"

struct rig {
	struct mem *mem;
	struct bus *bus;
	struct pci_bus *pci;
	struct loop *loop;
	struct loop_timer *tick;
	struct irq_chip irq;
	unsigned msi_count[256]; /* by data */
	unsigned line_raised[IRQ_GSI_COUNT];
	bool line[IRQ_GSI_COUNT];
	/* rig_wait() */
	bool (*until)(void *arg);
	void *until_arg;
	uint64_t deadline_ns;
	bool met;
	/* rig_thread_start() */
	bool threaded;
	pthread_t thread;
};

void rig_init(struct rig *rig, uint64_t memory);
void rig_fini(struct rig *rig);
/* Run the loop until until(arg) holds (true) or two seconds have passed (false). */
bool rig_wait(struct rig *rig, bool (*until)(void *arg), void *arg);
/* From now on the loop runs in a thread of its own, as in a machine; waits only look. */
void rig_thread_start(struct rig *rig);
void rig_thread_stop(struct rig *rig);
/* Let everything that is due happen. */
void rig_settle(struct rig *rig);

uint32_t cfg_read(struct rig *rig, unsigned slot, unsigned off, unsigned size);
void cfg_write(struct rig *rig, unsigned slot, unsigned off, unsigned size, uint32_t value);

/* ---- queues, driver's side ---- */

struct drv_buf {
	gpa_t gpa;
	uint32_t len;
	bool in;
};

struct drv_queue {
	struct rig *rig;
	bool packed, event_idx;
	uint16_t size;
	gpa_t desc, driver, device;
	/* split */
	uint16_t avail_idx, used_idx;
	uint16_t free_list[256];
	unsigned free_count;
	uint16_t chain_len[256];
	/* packed */
	uint16_t next_avail, next_used;
	bool avail_wrap, used_wrap;
	gpa_t indirect; /* where the next indirect table goes; 0: none */
};

/* Rings at @base, which take less than 8 KiB. */
void drv_queue_init(struct drv_queue *q, struct rig *rig, bool packed, bool event_idx,
		    uint16_t size, gpa_t base);
/* Offer one chain; returns its id. */
uint16_t drv_add(struct drv_queue *q, const struct drv_buf *bufs, unsigned count);
bool drv_used(struct drv_queue *q, uint16_t *ret_id, uint32_t *ret_len);
/* Where the next chain goes; and whether the device wants to hear of those since then. */
uint16_t drv_position(const struct drv_queue *q);
bool drv_kick_wanted(struct drv_queue *q, uint16_t old_position);
/* Ask for an interrupt after the next used element (event index). */
void drv_want_interrupt(struct drv_queue *q);

/* ---- a device, driver's side ---- */

struct drv {
	struct rig *rig;
	unsigned slot;
	uint64_t bar;
	uint64_t features;
	struct drv_queue q[4];
	bool msix;
};

/* Map the BAR, reset, acknowledge, accept @features of those offered. */
void drv_probe(struct drv *d, struct rig *rig, unsigned slot, uint64_t features, bool msix);
void drv_queue_setup(struct drv *d, unsigned index, uint16_t size, gpa_t base);
void drv_ready(struct drv *d); /* DRIVER_OK */
void drv_notify(struct drv *d, unsigned index);
uint8_t drv_status(struct drv *d);
void drv_reset(struct drv *d);
uint64_t drv_read(struct drv *d, unsigned off, unsigned size);
void drv_write(struct drv *d, unsigned off, unsigned size, uint64_t value);
/* Wait for a used element of queue @index. */
bool drv_wait_used(struct drv *d, unsigned index, uint16_t *ret_id, uint32_t *ret_len);

#define DRV_VERSION_1  (1ull << 32)
#define DRV_PACKED     (1ull << 34)
#define DRV_INDIRECT   (1ull << 28)
#define DRV_EVENT_IDX  (1ull << 29)
#define DRV_ISR	       0x1000u
#define DRV_CONFIG     0x2000u
#define DRV_NOTIFY     0x3000u
#define DRV_MSIX_TABLE 0x4000u
#define DRV_MSIX_PBA   0x4800u
