// SPDX-License-Identifier: Apache-2.0
/* irqchip_int.h - what the interrupt controllers know of each other. Private to bus/. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bus/bus.h"
#include "bus/irq.h"
#include "bus/irqchip.h"

struct vtimer;

/* 8259A, Intel 231468. Fields in the data sheet's words. */
struct pic_unit {
	uint8_t irr, isr, imr;
	uint8_t lines;	   /* inputs as they are, for edges */
	uint8_t elcr;	   /* level-triggered inputs; those of elcr_mask may be */
	uint8_t elcr_mask;
	bool ltim;	   /* ICW1: all inputs level-triggered */
	uint8_t vector_base;
	uint8_t lowest;	   /* after it comes the input of highest priority */
	uint8_t init_step; /* next initialisation command word: 2, 3, 4; 0 when done */
	bool single, wants_icw4;
	bool auto_eoi, rotate_on_aeoi;
	bool special_fully_nested, special_mask;
	bool read_isr, poll;
};

struct pic {
	struct bus_region command[2], elcr[1];
	void (*output)(void *arg); /* INT went up; called with the lock held */
	void *arg;
	atomic_int out; /* vector INT stands for, or -1: read without the lock */

	pthread_mutex_t lock;
	struct pic_unit units[2]; /* master, slave */
};

void pic_init(struct pic *pic, void (*output)(void *arg), void *arg);
void pic_fini(struct pic *pic);
void pic_reset(struct pic *pic);
int pic_attach(struct pic *pic, struct bus *bus);
void pic_detach(struct pic *pic, struct bus *bus);
void pic_set_line(struct pic *pic, unsigned irq, bool level);
/* Its fields were loaded: make them possible, show INT. */
void pic_loaded(struct pic *pic);
/* The INTA cycle: the vector, or -1 when INT has gone. */
int pic_ack(struct pic *pic);

/* A message on the interrupt bus. */
enum apic_mode {
	APIC_FIXED = 0,
	APIC_LOWEST = 1,
	APIC_SMI = 2,
	APIC_NMI = 4,
	APIC_INIT = 5,
	APIC_SIPI = 6,
	APIC_EXTINT = 7,
};

#define APIC_BROADCAST 0xffffffffu

struct apic_msg {
	uint32_t dest; /* APIC_BROADCAST, else an id or a logical destination */
	bool logical;
	bool level;
	uint8_t mode; /* enum apic_mode */
	uint8_t vector;
};

#define IOAPIC_PINS 24u

struct ioapic {
	struct bus_region region;
	struct irqchip *chip;

	pthread_mutex_t lock; /* what follows */
	uint32_t id;
	uint8_t select;
	uint32_t lines; /* inputs as they are */
	uint64_t redirect[IOAPIC_PINS];
};

void ioapic_init(struct ioapic *ioapic, struct irqchip *chip);
void ioapic_fini(struct ioapic *ioapic);
void ioapic_reset(struct ioapic *ioapic);
void ioapic_set_line(struct ioapic *ioapic, unsigned pin, bool level);
void ioapic_eoi(struct ioapic *ioapic, uint8_t vector);
void ioapic_loaded(struct ioapic *ioapic);

enum lapic_lvt {
	LVT_TIMER,
	LVT_THERMAL,
	LVT_PERF,
	LVT_LINT0,
	LVT_LINT1,
	LVT_ERROR,
	LVT_COUNT,
};

#define LVT_MASKED   (1u << 16)
#define LVT_MODE(v)  (((v) >> 8) & 7)
#define LVT_TIMER_MODE	 (3u << 17)
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_TSC	 (2u << 17)

#define SVR_ENABLED (1u << 8)

#define APIC_BASE_BSP	 (1ull << 8)
#define APIC_BASE_X2	 (1ull << 10)
#define APIC_BASE_ENABLE (1ull << 11)
#define APIC_BASE_ADDR	 0x000ffffffffff000ull

#define ESR_SEND_ILLEGAL     (1u << 5)
#define ESR_RECEIVE_ILLEGAL  (1u << 6)
#define ESR_ILLEGAL_REGISTER (1u << 7)

/*
 * A local APIC. Registers are written by the vCPU's thread only and are atomic because senders look
 * at them. irr and tmr are written by senders, isr by the vCPU's thread.
 */
struct lapic {
	_Alignas(64) _Atomic uint64_t irr[4];
	_Atomic uint64_t tmr[4];
	_Atomic uint64_t isr[4];
	_Atomic uint32_t tpr, ppr;
	_Atomic uint32_t svr, ldr, dfr;
	_Atomic uint32_t lvt[LVT_COUNT];
	_Atomic uint32_t esr_next; /* gathers until ESR is written */
	_Atomic uint64_t base;	   /* IA32_APIC_BASE */
	/* INIT came: the vCPU's thread resets the registers before it looks at them again. */
	atomic_bool init_pending;
	uint32_t esr, icr_low, icr_high; /* vCPU's thread */
	unsigned index;
	struct irqchip *chip;

	pthread_mutex_t timer_lock; /* what follows */
	struct vtimer *timer;
	bool timer_armed;
	uint32_t initial_count, divide;
	uint64_t deadline_ns, period_ns;
	uint64_t tsc_deadline;
};

struct irqchip {
	struct irq_chip face;
	const struct irqchip_vcpu_ops *ops;
	void *arg;
	struct bus *bus;
	struct vclock *clock;
	_Atomic uint64_t tsc_hz; /* as the engine said it; 0: not asked yet, or there is none */
	struct pic pic;
	struct ioapic ioapic;
	atomic_uint lowest_turn; /* breaks ties of lowest-priority delivery */
	unsigned lapic_count;
	struct lapic *lapics;
};

/* irqchip.c. Return whether anyone accepted it. */
bool irqchip_deliver(struct irqchip *chip, const struct apic_msg *msg);
bool irqchip_deliver_to(struct lapic *lapic, const struct apic_msg *msg);
/* 0: no TSC-deadline timer. vCPU's thread. */
uint64_t irqchip_tsc_hz(struct irqchip *chip);

/* lapic.c */
int lapic_init(struct lapic *lapic, struct irqchip *chip, unsigned index);
void lapic_fini(struct lapic *lapic);
/* Power-up, SDM vol. 3 "Local APIC State After Power-Up or Reset". */
void lapic_reset(struct lapic *lapic);
/* Same but for IA32_APIC_BASE. */
void lapic_reset_registers(struct lapic *lapic);
/* Any thread: put @vector into IRR. False when this APIC does not take it. */
bool lapic_accept(struct lapic *lapic, uint8_t vector, bool level);
void lapic_error(struct lapic *lapic, uint32_t bit);
/* The 8259's INT went up. Any thread. */
void lapic_lint0_raise(struct lapic *lapic);
bool lapic_takes_extint(struct lapic *lapic);
void lapic_nmi_pin(struct lapic *lapic);
int lapic_pending(struct lapic *lapic);
int lapic_ack(struct lapic *lapic);
void lapic_eoi(struct lapic *lapic);
void lapic_set_tpr(struct lapic *lapic, uint8_t tpr);
void lapic_loaded(struct lapic *lapic);
/* vCPU's thread, before it looks at a register. */
void lapic_sync(struct lapic *lapic);

/* lapic_regs.c */
/* Clear the bits that no write could have set. */
void lapic_mask_registers(struct lapic *lapic);
bool lapic_read_msr(struct lapic *lapic, uint32_t msr, uint64_t *ret);
bool lapic_write_msr(struct lapic *lapic, uint32_t msr, uint64_t value);
uint32_t lapic_mmio_read(struct lapic *lapic, uint32_t off, unsigned size);
void lapic_mmio_write(struct lapic *lapic, uint32_t off, unsigned size, uint32_t value);

/* lapic_timer.c */
int lapic_timer_init(struct lapic *lapic);
void lapic_timer_fini(struct lapic *lapic);
void lapic_timer_reset(struct lapic *lapic);
void lapic_timer_loaded(struct lapic *lapic);
void lapic_timer_set_initial(struct lapic *lapic, uint32_t count);
void lapic_timer_set_divide(struct lapic *lapic, uint32_t divide);
void lapic_timer_set_tsc_deadline(struct lapic *lapic, uint64_t deadline);
/* After the mode in LVT_TIMER changed from @old. */
void lapic_timer_mode_changed(struct lapic *lapic, uint32_t old);
/* Its registers as the guest reads them. */
/* See apic_timer() in engine.h. */
uint64_t lapic_timer_look(struct lapic *lapic);

struct lapic_timer_regs {
	uint32_t initial, current, divide;
	uint64_t tsc_deadline;
};
struct lapic_timer_regs lapic_timer_read(struct lapic *lapic);

static inline bool lapic_is_x2(const struct lapic *lapic)
{
	return atomic_load_explicit(&lapic->base, memory_order_relaxed) & APIC_BASE_X2;
}

static inline bool lapic_is_on(const struct lapic *lapic)
{
	return atomic_load_explicit(&lapic->base, memory_order_relaxed) & APIC_BASE_ENABLE;
}
