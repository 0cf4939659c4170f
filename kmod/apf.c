// SPDX-License-Identifier: GPL-2.0-only
/*
 * apf.c - pages that the host has yet to bring in, while the guest does something else: asynchronous page faults
 * (Documentation/virt/kvm/x86/msr.rst, MSR_KVM_ASYNC_PF_EN).
 *
 * A worker of the kernel's brings the page in, and the guest is given a #PF whose CR2 is a token. When the page is there
 * the token is written where the guest looks, with an interrupt. The guest clears it when it has seen it, and asks for
 * the next by another MSR. Where a guest cannot be told, the vCPU's own thread waits for the page.
 *
 * A worker may be held up for as long as who fills the memory likes (userfaultfd(2)), so nobody waits for workers. A wait
 * is the vCPU's and the worker's, and goes with the last of them. A vCPU that asks no more lets go of it; the worker holds
 * the program's memory, and this module, until it is done. There are no more waits than workers, so that none is held up
 * by another machine's.
 */
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <uapi/asm/kvm_para.h>

#include "chips.h"
#include "compat.h"
#include "x86_int.h"

#define MSR_EN	0x4b564d02u
#define MSR_INT 0x4b564d06u
#define MSR_ACK 0x4b564d07u

#define EN_PLACE    (~63ull)
#define EN_RESERVED 0x30u
#define EN_ON	    (KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT)
#define ACK_SEEN    1u

#define WAITS_OF_VCPU 64u
#define WORKERS	      256

/* A serial number, from 1 on, above the vCPU's id: no two vCPUs of a guest are given the same. */
#define TOKEN_ID_BITS 12
#define TOKEN_ALL     (~0u) /* whoever waits on this vCPU is to look again */

static struct workqueue_struct *workers;
static atomic_t busy; /* workers */

struct wait {
	struct work_struct work;
	refcount_t users;
	struct mm_struct *mm; /* the worker's */
	unsigned long hva;
	bool write;
	u32 token;
	struct list_head list; /* the vCPU's */
	spinlock_t lock;       /* the next two */
	struct vcpu *vcpu;     /* NULL: it asks no more */
	bool done;	       /* the page is there, or cannot be */
};

/* ---- a wait ---- */

static void put(struct wait *wait)
{
	if (refcount_dec_and_test(&wait->users))
		kfree(wait);
}

/* The vCPU's part of it. */
static void let_go(struct vcpu *vcpu, struct wait *wait)
{
	spin_lock(&wait->lock);
	wait->vcpu = NULL;
	spin_unlock(&wait->lock);
	list_del(&wait->list);
	vcpu->apf.count--;
	put(wait);
}

/* The worker's. */
static void worker_leaves(struct wait *wait)
{
	mmput(wait->mm);
	put(wait);
	atomic_dec(&busy);
	module_put(THIS_MODULE); /* apf_stop() waits for what is behind this */
}

static void bring_in(struct work_struct *work)
{
	struct wait *wait = container_of(work, struct wait, work);

	if (READ_ONCE(wait->vcpu))
		page_bring_in(wait->mm, wait->hva, wait->write);
	spin_lock(&wait->lock);
	wait->done = true;
	if (wait->vcpu)
		vcpu_request(wait->vcpu, REQ_APF);
	spin_unlock(&wait->lock);
	worker_leaves(wait);
}

static u32 new_token(struct vcpu *vcpu)
{
	vcpu->apf.serial++;
	if (!(vcpu->apf.serial << TOKEN_ID_BITS))
		vcpu->apf.serial = 1;
	return vcpu->apf.serial << TOKEN_ID_BITS | vcpu->id;
}

/* NULL: there is no room. Who would sleep for it can as well wait for the page. */
static struct wait *new_wait(struct vcpu *vcpu, unsigned long hva, bool write)
{
	struct wait *wait;

	if (vcpu->apf.count == WAITS_OF_VCPU || !atomic_add_unless(&busy, 1, WORKERS))
		return NULL;
	wait = kzalloc(sizeof(*wait), GFP_NOWAIT | __GFP_NOWARN | __GFP_ACCOUNT);
	if (!wait) {
		atomic_dec(&busy);
		return NULL;
	}
	INIT_WORK(&wait->work, bring_in);
	refcount_set(&wait->users, 2);
	spin_lock_init(&wait->lock);
	wait->mm = vcpu->vm->mm;
	mmget(wait->mm); /* the thread's own: it is there */
	__module_get(THIS_MODULE);
	wait->hva = hva;
	wait->write = write;
	wait->token = new_token(vcpu);
	wait->vcpu = vcpu;
	list_add_tail(&wait->list, &vcpu->apf.waits);
	vcpu->apf.count++;
	return wait;
}

static void let_all_go(struct vcpu *vcpu)
{
	struct wait *wait, *next;

	list_for_each_entry_safe(wait, next, &vcpu->apf.waits, list)
		let_go(vcpu, wait);
}

/* ---- the guest is told ---- */

static u64 place_of(const struct vcpu *vcpu, size_t offset)
{
	return (vcpu->apf.msr & EN_PLACE) + offset;
}

bool apf_is_on(const struct vcpu *vcpu)
{
	return (vcpu->apf.msr & EN_ON) == EN_ON;
}

/* As an interrupt it comes only where the guest would take one: it is to sleep. Its kernel wants none while it executes
 * itself, unless it says so. */
static bool can_be_told(struct vcpu *vcpu)
{
	const struct x86_state *s = vcpu_peek(vcpu);

	return s->cr0 & X86_CR0_PG && (vcpu->apf.msr & KVM_ASYNC_PF_SEND_ALWAYS || x86_state_cpl(s)) &&
	       event_can_interrupt(vcpu) && !(vcpu->debug.control & KVM_GUESTDBG_BLOCKIRQ);
}

bool apf_begin(struct vcpu *vcpu, unsigned long hva, bool write)
{
	static const u32 absent = KVM_PV_REASON_PAGE_NOT_PRESENT;
	struct wait *wait;

	if (!can_be_told(vcpu))
		return false;
	wait = new_wait(vcpu, hva, write);
	if (!wait)
		return false;
	if (!ram_write_now(vcpu, place_of(vcpu, offsetof(struct kvm_vcpu_pv_apf_data, flags)), &absent,
			   sizeof(absent))) {
		let_go(vcpu, wait);
		worker_leaves(wait);
		return false;
	}
	event_page_fault(vcpu, wait->token, 0);
	queue_work(workers, &wait->work);
	return true;
}

/* It has seen the last, and its local APIC would take an interrupt. */
static bool has_room(struct vcpu *vcpu)
{
	u32 token;

	return lapic_is_listening(vcpu->lapic) &&
	       ram_read(vcpu, place_of(vcpu, offsetof(struct kvm_vcpu_pv_apf_data, token)), &token, sizeof(token)) &&
	       !token;
}

static struct wait *first_done(struct vcpu *vcpu)
{
	struct wait *wait;

	list_for_each_entry(wait, &vcpu->apf.waits, list) {
		if (READ_ONCE(wait->done))
			return wait;
	}
	return NULL;
}

void apf_update(struct vcpu *vcpu)
{
	struct wait *wait;
	u32 token;

	if (!apf_is_on(vcpu) || !has_room(vcpu))
		return;
	wait = vcpu->apf.all ? NULL : first_done(vcpu);
	if (!wait && !vcpu->apf.all)
		return;
	token = wait ? wait->token : TOKEN_ALL;
	if (!ram_write(vcpu, place_of(vcpu, offsetof(struct kvm_vcpu_pv_apf_data, token)), &token, sizeof(token)))
		return;
	if (wait)
		let_go(vcpu, wait);
	else
		vcpu->apf.all = false;
	lapic_accept(vcpu->lapic, vcpu->apf.vector, false);
}

/* ---- MSRs ---- */

int apf_read_msr(struct vcpu *vcpu, u32 msr, u64 *ret)
{
	switch (msr) {
	case MSR_EN:
		*ret = vcpu->apf.msr;
		return 0;
	case MSR_INT:
		*ret = vcpu->apf.vector;
		return 0;
	case MSR_ACK:
		*ret = 0;
		return 0;
	default:
		return -ENOENT;
	}
}

/* Whatever was begun is over: whoever waits for it looks again, and so does who waits since the guest was elsewhere. */
static int enable(struct vcpu *vcpu, u64 value)
{
	bool on = (value & EN_ON) == EN_ON;

	if (value & EN_RESERVED || (value && !vcpu->lapic) || (on && !ram_is_there(vcpu, value & EN_PLACE)))
		return -EINVAL;
	let_all_go(vcpu);
	vcpu->apf.msr = value;
	vcpu->apf.all = on;
	set_bit(REQ_APF, &vcpu->requests);
	return 0;
}

int apf_write_msr(struct vcpu *vcpu, u32 msr, u64 value)
{
	switch (msr) {
	case MSR_EN:
		return enable(vcpu, value);
	case MSR_INT:
		if (value > U8_MAX || (value && !vcpu->lapic))
			return -EINVAL;
		vcpu->apf.vector = value;
		return 0;
	case MSR_ACK:
		if (value & ACK_SEEN)
			set_bit(REQ_APF, &vcpu->requests);
		return 0;
	default:
		return -ENOENT;
	}
}

/* ---- life ---- */

void apf_init(struct vcpu *vcpu)
{
	INIT_LIST_HEAD(&vcpu->apf.waits);
}

/* Serial numbers go on: a token is not to mean two things. */
void apf_reset(struct vcpu *vcpu)
{
	let_all_go(vcpu);
	vcpu->apf.msr = 0;
	vcpu->apf.vector = 0;
	vcpu->apf.all = false;
}

int apf_start(void)
{
	workers = alloc_workqueue("sika-kvm-apf", WQ_UNBOUND, WORKERS);
	return workers ? 0 : -ENOMEM;
}

void apf_stop(void)
{
	destroy_workqueue(workers);
}
