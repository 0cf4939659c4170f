/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * chips.h - interrupt controllers in the kernel: the 8259 pair, the I/O APIC, a local APIC per vCPU, and the
 * routes from interrupt lines to them.
 *
 * Who may do what without a lock. A sender sets TMR, then IRR (atomically), then asks the vCPU to look
 * (vcpu_request()). The vCPU clears that request, then looks at IRR. So one of the two sees the other. Everything
 * else of a local APIC is written by who holds the vCPU's lock, and only looked at by senders.
 *
 * Split chips: what the 8259 pair in user space has to deliver comes by KVM_INTERRUPT (vcpu->extint), what the
 * I/O APIC there sends are routes to messages, and an EOI that it waits for is an exit (vcpu->eoi_vector).
 *
 * The locks of pic and ioapic are inner to all others of the driver, taken with interrupts off, and
 * not held both: lines are set by timers and by eventfds. line_lock is outside of them.
 */
#pragma once

#include <linux/hrtimer.h>
#include <linux/kvm.h>
#include <linux/spinlock.h>

#include "vm.h"

#define GSI_MAX 4096u /* lines are numbered below it */

/* A message on the interrupt bus: SDM vol. 3, 11.6 and 11.11. */
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
	u32 dest; /* APIC_BROADCAST, else an id or a logical destination */
	bool logical, level;
	u8 mode; /* enum apic_mode */
	u8 vector;
};

/* ---- pic.c: the 8259A pair, Intel 231468 ---- */

struct pic {
	spinlock_t lock;
	struct kvm_pic_state unit[2]; /* master, slave, in the ABI's form; last_irr: the lines as they are */
	int out;		      /* vector that INT stands for, or -1: read without the lock */
	struct vm *vm;
};

void pic_init(struct pic *pic, struct vm *vm);
void pic_set_line(struct pic *pic, unsigned int irq, bool level);
/* The INTA cycle: the vector, or -1 when INT has gone. */
int pic_ack(struct pic *pic);
/* False: no port of it. */
bool pic_read(struct pic *pic, u16 port, u8 *ret);
bool pic_write(struct pic *pic, u16 port, u8 value);
/* That input is not masked. Without the lock. */
bool pic_is_open(const struct pic *pic, unsigned int irq);
void pic_get(struct pic *pic, unsigned int unit, struct kvm_pic_state *ret);
void pic_set(struct pic *pic, unsigned int unit, const struct kvm_pic_state *state);

/* ---- ioapic.c: 82093AA ---- */

#define IOAPIC_BASE 0xfec00000u
#define IOAPIC_SIZE 0x100u

struct ioapic {
	spinlock_t lock;
	struct kvm_ioapic_state s; /* in the ABI's form; irr: the lines as they are */
	struct vm *vm;
};

void ioapic_init(struct ioapic *ioapic, struct vm *vm);
void ioapic_set_line(struct ioapic *ioapic, unsigned int pin, bool level);
void ioapic_eoi(struct ioapic *ioapic, u8 vector);
/* Who holds a line of that vector up lets it go. */
void ioapic_acked(struct ioapic *ioapic, u8 vector);
/* That pin is not masked. Without the lock. */
bool ioapic_is_open(const struct ioapic *ioapic, unsigned int pin);
/* Somebody wants to be told of that vector's end. */
bool ioapic_tells(const struct ioapic *ioapic, u8 vector);
u32 ioapic_read(struct ioapic *ioapic, u32 offset);
void ioapic_write(struct ioapic *ioapic, u32 offset, u32 value);
void ioapic_get(struct ioapic *ioapic, struct kvm_ioapic_state *ret);
void ioapic_set(struct ioapic *ioapic, const struct kvm_ioapic_state *state);

/* ---- pit.c: the 8254 ---- */

struct pit;

/* vm->chips are there. */
long pit_create(struct vm *vm, const void __user *arg);
long pit_state(struct vm *vm, void __user *arg, bool write);
void pit_free(struct pit *pit);
/* KVM_REINJECT_CONTROL. */
long pit_reinject(struct vm *vm, const void __user *arg);
/* A tick was shown, and waits for the end of its interrupt. */
bool pit_waits(const struct vm *vm);
/* The guest has ended the interrupt of that pin. No lock of a controller is held. */
void pit_acked(struct vm *vm, u32 irqchip, u32 pin);
/* A controller was set up anew, with what it had of the last tick. Any context. */
void pit_pulse_lost(struct vm *vm);
/* False: no port of it. */
bool pit_read(struct pit *pit, u16 port, u8 *ret);
bool pit_write(struct pit *pit, u16 port, u8 value);

/* ---- a local APIC ---- */

#define LAPIC_SIZE KVM_APIC_REG_SIZE

/* Offsets into the page: SDM vol. 3, table 11-1. */
#define LAPIC_ID	0x20u
#define LAPIC_VERSION	0x30u
#define LAPIC_TPR	0x80u
#define LAPIC_APR	0x90u
#define LAPIC_PPR	0xa0u
#define LAPIC_EOI	0xb0u
#define LAPIC_RRD	0xc0u
#define LAPIC_LDR	0xd0u
#define LAPIC_DFR	0xe0u
#define LAPIC_SVR	0xf0u
#define LAPIC_ISR	0x100u
#define LAPIC_TMR	0x180u
#define LAPIC_IRR	0x200u
#define LAPIC_ESR	0x280u
#define LAPIC_ICR_LOW	0x300u
#define LAPIC_ICR_HIGH	0x310u
#define LAPIC_TIMER	0x320u
#define LAPIC_THERMAL	0x330u
#define LAPIC_PERF	0x340u
#define LAPIC_LINT0	0x350u
#define LAPIC_LINT1	0x360u
#define LAPIC_ERROR	0x370u
#define LAPIC_INITIAL	0x380u
#define LAPIC_CURRENT	0x390u
#define LAPIC_DIVIDE	0x3e0u
#define LAPIC_SELF_IPI	0x3f0u

#define SVR_ENABLED	   (1u << 8)
#define LVT_MASKED	   (1u << 16)
#define LVT_MODE(v)	   ((v) >> 8 & 7)
#define LVT_TIMER_MODE	   (3u << 17)
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_TSC	   (2u << 17)

#define ICR_MODE(v)   ((v) >> 8 & 7)
#define ICR_LOGICAL   (1u << 11)
#define ICR_ASSERT    (1u << 14)
#define ICR_LEVEL     (1u << 15)
#define ICR_SHORTHAND (3u << 18)

#define APIC_BASE_BSP	 (1ull << 8)
#define APIC_BASE_X2	 (1ull << 10)
#define APIC_BASE_ENABLE (1ull << 11)
#define APIC_BASE_ADDR	 0x000ffffffffff000ull

#define ESR_SEND_ILLEGAL     (1u << 5)
#define ESR_RECEIVE_ILLEGAL  (1u << 6)
#define ESR_ILLEGAL_REGISTER (1u << 7)

struct lapic {
	u32 regs[LAPIC_SIZE / 4] __aligned(16); /* in the ABI's form, the ID but in x2APIC mode */
	unsigned long errors; /* gathers until ESR is written */
	struct vcpu *vcpu;
	u8 sipi_vector; /* of REQ_SIPI */

	struct hrtimer timer;
	u64 tsc_deadline;
	u64 period_ns; /* 0: once */
};

static inline u32 lapic_get(const struct lapic *lapic, u32 offset)
{
	return READ_ONCE(lapic->regs[offset / 4]);
}

static inline void lapic_put(struct lapic *lapic, u32 offset, u32 value)
{
	WRITE_ONCE(lapic->regs[offset / 4], value);
}

/* INIT level de-assert synchronised arbitration ids of the Pentium; it does nothing since. */
static inline bool icr_is_idle(u32 low)
{
	return ICR_MODE(low) == APIC_INIT && low & ICR_LEVEL && !(low & ICR_ASSERT);
}

static inline bool lapic_is_on(const struct lapic *lapic)
{
	return READ_ONCE(lapic->vcpu->apic_base) & APIC_BASE_ENABLE;
}

static inline bool lapic_is_x2(const struct lapic *lapic)
{
	return READ_ONCE(lapic->vcpu->apic_base) & APIC_BASE_X2;
}

/* lapic.c: acceptance, priorities, acknowledge, EOI */
int lapic_create(struct vcpu *vcpu);
void lapic_free(struct vcpu *vcpu);
/* SDM vol. 3, 11.4.7.3: after INIT. */
void lapic_reset(struct lapic *lapic);
/* It takes interrupts. */
bool lapic_is_listening(const struct lapic *lapic);
/* Anyone: put @vector into IRR. False when this APIC does not take it. */
bool lapic_accept(struct lapic *lapic, u8 vector, bool level);
void lapic_error(struct lapic *lapic, u32 bit);
bool lapic_takes_extint(const struct lapic *lapic);
/* What can be delivered, PPR considered: its vector, or -1. */
int lapic_pending(struct vcpu *vcpu);
/* The vector goes from request to service. */
int lapic_ack(struct vcpu *vcpu);
void lapic_eoi(struct lapic *lapic);
void lapic_update_ppr(struct lapic *lapic);
/* INIT, SIPI and NMI that others sent. */
void lapic_take_requests(struct vcpu *vcpu);
/* The bus: true when anyone took it. */
bool apic_deliver(struct vm *vm, const struct apic_msg *msg);
bool apic_deliver_to(struct vcpu *vcpu, const struct apic_msg *msg);

/* The end of what is in service leads to nothing else: no request waits, no line is held for it. */
bool lapic_ends_alone(struct lapic *lapic);

/* eoi.c: ends by memory. Before an entry with an interrupt; behind it, or when it does not happen. Both may sleep. */
void eoi_offer(struct vcpu *vcpu);
void eoi_collect(struct vcpu *vcpu);
/* -ENOENT: not its MSR; -EINVAL: #GP. */
int eoi_read_msr(struct vcpu *vcpu, u32 msr, u64 *ret);
int eoi_write_msr(struct vcpu *vcpu, u32 msr, u64 value);

/* apf.c: the MSRs, as those of eoi.c; what waits to be told is let go. In the vCPU's thread. */
int apf_read_msr(struct vcpu *vcpu, u32 msr, u64 *ret);
int apf_write_msr(struct vcpu *vcpu, u32 msr, u64 value);
void apf_reset(struct vcpu *vcpu);

/* lapic_regs.c: the registers, as a page and as MSRs */
u32 lapic_mmio_read(struct lapic *lapic, u32 offset);
void lapic_mmio_write(struct lapic *lapic, u32 offset, u32 value);
/* -ENOENT: none of its MSRs; -EINVAL: #GP. */
int lapic_read_msr(struct lapic *lapic, u32 msr, u64 *ret);
int lapic_write_msr(struct lapic *lapic, u32 msr, u64 value);
int lapic_set_base(struct lapic *lapic, u64 value, bool host);
void lapic_get_state(struct lapic *lapic, struct kvm_lapic_state *ret);
void lapic_set_state(struct lapic *lapic, const struct kvm_lapic_state *state);

/* lapic_timer.c */
void lapic_timer_init(struct lapic *lapic);
void lapic_timer_stop(struct lapic *lapic);
/* The initial count, the divisor or the mode was written. */
void lapic_timer_start(struct lapic *lapic);
/* As if @count were left of it. */
void lapic_timer_resume(struct lapic *lapic, u32 count);
u32 lapic_timer_current(struct lapic *lapic);
void lapic_timer_set_deadline(struct lapic *lapic, u64 deadline);

/* ---- all of a machine's ---- */

struct irq_routes;

struct chips {
	bool split; /* KVM_CAP_SPLIT_IRQCHIP: the 8259 pair and the I/O APIC are in user space */
	struct pic pic;
	struct ioapic ioapic;
	struct pit *pit; /* NULL: in user space. Set once, with release */
	struct irq_routes __rcu *routes; /* vm->srcu */
	struct list_head irqfds;	 /* vm->lock */
	struct list_head sampled;	 /* those that sample again; vm->lock, who reads holds vm->srcu */
	spinlock_t line_lock;		 /* the next two: a line is up while either says so */
	DECLARE_BITMAP(by_user, GSI_MAX);
	DECLARE_BITMAP(held, GSI_MAX);
	u32 turn;			 /* of lowest-priority delivery */
};

/* irqfd.c: the guest has seen to the interrupt of that pin. In a vCPU's thread, without the controllers' locks. */
void irqfds_acked(struct vm *vm, u32 irqchip, u32 pin);

static inline bool irqfds_sample(const struct vm *vm)
{
	return !list_empty_careful(&vm->chips->sampled);
}

/* chips.c */
/* Somebody waits for ends of interrupts. */
bool acks_matter(const struct vm *vm);
/* The guest has ended the interrupt of that pin: to all who wait for it. No lock of a controller is held. */
void irq_acked(struct vm *vm, u32 irqchip, u32 pin);
int chips_create(struct vm *vm, bool split);
/* Nothing sets a line any more: before vCPUs go. Sleeps. */
void chips_stop(struct vm *vm);
void chips_free(struct vm *vm);
long chips_ioctl(struct vm *vm, unsigned int number, void __user *arg);
