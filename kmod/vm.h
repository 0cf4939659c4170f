/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vm.h - machines, vCPUs and the hardware behind them: what the files of the driver share.
 *
 * Theory of operation
 *
 * A machine is a file descriptor: memory slots, and a nested page table that maps the guest's physical
 * memory to the host's. A vCPU is a file descriptor of its own: an architectural state in the x86 core's
 * form (src/x86/state.h), and what a vendor's hardware wants of it (struct hw). Behind an exit the newest
 * state is in the hardware's form; vcpu_state() brings it into ours, and marks ours as the newest, to
 * be put back before the next entry. So whatever is not hot is written once for both
 * vendors, against plain data.
 *
 *	KVM_RUN  ->  vcpu.c: what waits to be done; what is injected  ->  hw->enter()
 *	         <-  hw->handle_exit(): by one table per vendor, to exit.c, page.c, emulate.c
 *
 * Locks, outer to inner
 *
 *	vms_lock	the list of all machines
 *	vcpu->lock	one system call on a vCPU at a time; guards all of struct vcpu but its atomics
 *	vm->lock	slots and the list of vCPUs, for writers; who reads slots holds vm->srcu
 *	vm->page_lock	the nested page table, and what MMU notifiers count
 *	pic, ioapic	chips.h
 *	vm->clock_lock, vm->ring_lock
 *	a wait's	apf.c
 */
#pragma once

#include <linux/kvm.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/refcount.h>
#include <linux/signal_types.h>
#include <linux/srcu.h>
#include <linux/wait.h>
#include <asm/fpu/api.h>

#include "core.h"
#include "stats.h"

#define VM_VCPUS 64u
#define MCE_BANKS 32u
#define VM_SLOTS 509u /* their numbers are below it */

struct vm;
struct vcpu;

/* Guest-physical page number. */
typedef u64 gpn_t;

/* ---- slots.c: memory slots ---- */

struct slot {
	u16 id;
	u32 flags; /* KVM_MEM_* */
	gpn_t gpn;
	u64 pages;
	unsigned long hva;
	unsigned long *dirty; /* a bit per page; NULL: not logged, or in rings */
};

/* Ascending by gpn, disjoint; replaced as a whole. */
struct slots {
	unsigned int count;
	struct slot slot[];
};

int slots_set(struct vm *vm, const struct kvm_userspace_memory_region *region);
int slots_dirty_log(struct vm *vm, const struct kvm_dirty_log *log);
void slots_free(struct vm *vm);
/* Under vm->srcu. NULL: no RAM there. */
const struct slot *slot_of(const struct vm *vm, gpn_t gpn);
/* The page was, or may have been, written by this vCPU, in whose thread we are. */
void slot_mark_dirty(struct vcpu *vcpu, const struct slot *slot, gpn_t gpn);
/* Under vm->lock and page_lock: the next write to that page faults. True: a TLB may know better. */
bool slots_protect(struct vm *vm, u32 id, u64 offset);

static inline bool slot_is_logged(const struct slot *slot)
{
	return slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
}

static inline unsigned long slot_hva(const struct slot *slot, gpn_t gpn)
{
	return slot->hva + ((gpn - slot->gpn) << PAGE_SHIFT);
}

/* ---- ram.c: bytes of it that the driver itself reads and writes, in a vCPU's thread ---- */

bool ram_is_there(struct vcpu *vcpu, u64 gpa);
/* False: not all of it is RAM, and to be written. May sleep. */
bool ram_read(struct vcpu *vcpu, u64 gpa, void *data, unsigned int len);
bool ram_write(struct vcpu *vcpu, u64 gpa, const void *data, unsigned int len);
/* Without sleep: false as well where the host would have to bring the page in. */
bool ram_write_now(struct vcpu *vcpu, u64 gpa, const void *data, unsigned int len);
/* The byte there for *byte, whatever other vCPUs write meanwhile. */
bool ram_exchange(struct vcpu *vcpu, u64 gpa, u8 *byte);

/* ---- ring.c: dirty pages, one by one ---- */

struct dirty_ring {
	struct kvm_dirty_gfn *entry; /* shared with user space; NULL: there is none */
	u32 count;		     /* a power of 2 */
	u32 next;		     /* the vCPU's */
	u32 oldest;		     /* vm->lock */
};

u32 ring_bytes_max(void);
long ring_enable(struct vm *vm, u64 bytes);
int ring_create(struct vcpu *vcpu);
void ring_free(struct vcpu *vcpu);
/* NULL: it has no such page. */
struct page *ring_page(struct vcpu *vcpu, unsigned long index);
/* User space has to look first. */
bool ring_is_full(const struct vcpu *vcpu);
void ring_push(struct vcpu *vcpu, u16 slot, u64 offset);
long rings_reset(struct vm *vm);

/* ---- page.c: the nested page table ---- */

/* Else the processor walks tables of shadow.h, and there is none of these. The vendor's probe() says; constant from
 * then on. */
extern bool nested_paging;

/* With nested paging, and no guests without paging: those walk a table of the machine's that maps all to itself. Constant
 * as well. */
extern bool identity_paging;
#define IDENTITY_DEFAULT 0xfffbc000ull /* where it is: Documentation/virt/kvm/api.rst, 4.38 */

/* Bits of its entries, which are the vendor's. In all formats bit 0 is set of those that are there. */
struct page_format {
	u64 table; /* of an entry that names a table */
	u64 page;  /* of one that names a page to be read and executed */
	u64 write, accessed, dirty;
	u64 large; /* it names a page, above the last level */
	bool marks; /* the processor sets accessed */
	unsigned int levels; /* on which it may name one: 3 with pages of 1 GiB, or 2 */
};

struct page_table {
	const struct page_format *format;
	u64 *root;
	unsigned long tables; /* statistics: pages of it */
};

/* Pages for tables, allocated before the lock is taken. */
struct page_cache {
	unsigned int count;
	void *page[4];
};

int page_table_init(struct vm *vm);
void page_table_free(struct vm *vm);
void page_cache_free(struct page_cache *cache);
/* Map the page of @gpa for an access that faulted. 1: done, or try again; 0: it is not RAM, or not so
 * accessible: a device; -EFAULT: the program's own memory is not there. */
int page_fault(struct vcpu *vcpu, u64 gpa, bool write, bool exec);
/* Under vm->srcu: of the largest page that guest and host agree on, 1 to @most. */
unsigned int page_best_level(struct vm *vm, const struct slot *slot, gpn_t gpn, unsigned int most);
/* The page of @hva, with a reference. *writable: whether it may be written, which is asked for in any case. *later: there
 * is none yet, and the guest has been told. */
struct page *page_get(struct vcpu *vcpu, unsigned long hva, bool write, bool *writable, bool *later);
/* In any thread, which sleeps for it: @hva of @mm, for accesses that follow. */
void page_bring_in(struct mm_struct *mm, unsigned long hva, bool write);
/* The rest are of both kinds of paging. Under page_lock: unmap [first, last). True when a TLB may know of it. */
bool page_zap(struct vm *vm, gpn_t first, gpn_t last);
/* Under page_lock: take write access from the pages of @slot from @first on that @mask names. */
bool page_protect(struct vm *vm, gpn_t first, unsigned long mask);
/* Under page_lock: take the accessed bits of [first, last), or only look. */
bool page_age(struct vm *vm, gpn_t first, gpn_t last, bool clear);

/* ---- vm.c ---- */

struct vm {
	refcount_t users; /* file descriptors: its own, and those of vCPUs */
	struct list_head list; /* vms */
	struct dentry *debugfs;
	struct watched *debugfs_files;
	struct mm_struct *mm;
	struct mmu_notifier notifier;

	struct mutex lock;
	struct srcu_struct srcu;
	struct slots __rcu *slots;
	unsigned int vcpu_count;
	struct vcpu *vcpu[VM_VCPUS]; /* by number of creation; published with release */

	rwlock_t page_lock;
	struct page_table table;
	struct vm_stats stats;
	struct shadow *shadow; /* shadow.h; NULL: nested paging */
	/* An invalidation is under way while busy; ended ones so far. */
	unsigned long invalidating, invalidated;

	bool msr_exits_unknown, msr_exits_filter, msr_exits_invalid;
	bool exit_on_failure;
	bool msrs_closed; /* the filter denies one that the guest would else reach without an exit */
	struct msr_filter __rcu *filter; /* NULL: nothing is denied */
	spinlock_t clock_lock; /* the next four */
	s64 clock_offset;	  /* of the paravirtual clock, to the host's, ns */
	u64 clock_tsc, clock_ns;  /* a moment: the host's counter, and the clock */
	s64 tsc_offset;		  /* of vCPUs as user space last set it */
	u32 poll_ns_max; /* KVM_CAP_HALT_POLL; else halt_poll_ns as it was */
	struct chips *chips; /* NULL: user space has them. Set once, before there are vCPUs */
	struct list_head ioevents; /* lock; who reads holds srcu */
	struct list_head zones; /* of coalesced writes: as ioevents */
	unsigned int zone_count;
	struct kvm_coalesced_mmio_ring *ring; /* shared with user space; its entries under ring_lock */
	spinlock_t ring_lock;
	u32 ring_bytes; /* of a vCPU's dirty ring; 0: there are bitmaps. Under lock, before there are vCPUs */
	u64 identity_addr; /* under lock; constant once there are vCPUs */
	u32 *identity;	   /* a page; NULL: not identity_paging */
};

/* All machines. Who reclaims memory only tries the lock. */
extern struct mutex vms_lock;
extern struct list_head vms;

long vm_create(void);
void vm_get(struct vm *vm);
void vm_put(struct vm *vm);
/* No vCPU uses a translation that was taken away before. Waits for those in the guest. */
void vm_flush_tlbs(struct vm *vm);

/* ---- vcpu.c ---- */

enum vcpu_request {
	REQ_FLUSH, /* the TLB */
	REQ_CLOCK, /* the page of the paravirtual clock is to be written */
	REQ_EVENT, /* interrupts may wait */
	REQ_NMI,
	REQ_INIT,
	REQ_SIPI,
	REQ_APF, /* the guest may be told that a page is there */
	REQ_UNHALT, /* the next halt, or the one it is in, is over at once */
};

/* What has to be seen to before the guest is entered. */
#define REQ_WAKES	 (BIT(REQ_EVENT) | BIT(REQ_NMI) | BIT(REQ_INIT) | BIT(REQ_SIPI) | BIT(REQ_APF))
#define REQ_BEFORE_ENTRY (REQ_WAKES | BIT(REQ_CLOCK))

enum vcpu_mode {
	VCPU_OUTSIDE,
	VCPU_GUEST, /* in the guest, or so near that only an interrupt of the CPU gets it out */
};

/* ---- what is delivered to a guest: event.c ---- */

enum event_kind { EVENT_INTERRUPT, EVENT_NMI, EVENT_EXCEPTION };

struct event {
	enum event_kind kind;
	u8 vector;
	bool has_error;
	u32 error;
};

/* A value that user space gives for a device register, of the instruction under way. */
#define VCPU_ANSWERS 8u

struct device_access {
	u64 addr; /* GPA, or port */
	u64 value;
	u8 size;
	bool port;
};

/* A MOV between a register of a device and one of the vCPU's: mmio.c. */
struct mmio_move {
	u8 at;	   /* in bytes from the first of the general registers */
	u8 width;  /* of what is written there, in bytes */
	u8 length; /* of the instruction */
	bool sign; /* it is extended by the sign */
};

/* What devices say to the instruction being emulated: emulate.c. */
struct emulation {
	struct device_access answer[VCPU_ANSWERS];
	unsigned int answers, used;
	struct device_access write[VCPU_ANSWERS];
	unsigned int writes, written;
	struct device_access want;
	bool floating; /* the instruction last looked at uses vector or x87 registers */
	bool breakpoint; /* it is INT3 */
	u16 privileged; /* it is one of those that exit when the supervisor executes them: its opcode, else 0 */
	bool alone; /* the processor has not seen it: no exit tells its length */
	struct held_page {
		gpn_t gpn;
		bool writable;
		struct page *page;
	} held[32]; /* of guest RAM, while the core may reach them */
	unsigned int pages;
	bool dropping; /* the core's TLB forgets them: the guest's need not */
	struct mmio_move move;
};

/* What user space watches the guest with: debug.c. */
struct guest_debug {
	u32 control; /* KVM_GUESTDBG_*; 0: nobody does */
	u64 dr[4], dr7; /* where KVM_GUESTDBG_USE_HW_BP */
	u64 dr6; /* of the last stay in the guest */
};

/* What the guest is told of the time that its vCPU does not get: steal.c. */
struct steal {
	u64 msr;
	u64 last;    /* the thread's delay, ns, as far as the guest has been told */
	bool fresh;  /* it has not been told anything */
	bool due;    /* the vCPU has come to a CPU since */
	bool open;   /* it executes nothing for the guest: who takes its CPU may mark it */
	bool marked; /* as preempted, in the guest's page */
};

/* Of pages that the host has yet to bring in: apf.c. */
struct apf {
	u64 msr;
	u8 vector;
	bool all; /* whoever waits in the guest is to be told, before any other */
	u32 serial; /* of the last token */
	struct list_head waits; /* for pages that the guest has been told of, in turn */
	unsigned int count;
};

/* What the guest reads of machine checks: mce.c. */
struct mce_state {
	u64 cap, ctl;
	u64 bank[MCE_BANKS * 4]; /* control, status, address, miscellaneous */
};

struct vcpu {
	struct vm *vm;
	unsigned int id;
	struct mutex lock;
	struct kvm_run *run; /* shared with user space: read each field once */
	void *run_data;	     /* the page behind it */
	struct work *work;   /* work.h */

	struct x86_cpu cpu; /* cpu.s: the state, where it is newest; general registers but RSP always are */
	struct x86_tlb *tlb;
	bool in_hardware; /* the state is newer in the hardware's form */
	bool changed;	  /* in ours */
	struct fpu_guest fpu;
	u64 xcr0_host, xcr0_loaded;

	unsigned long requests; /* bits: enum vcpu_request; atomic */
	int mode;	   /* enum vcpu_mode; written by the vCPU with full barriers */
	int on_cpu;	   /* valid in VCPU_GUEST */
	wait_queue_head_t wait;
	struct preempt_notifier preempt;
	int last_cpu;
	struct task_struct __rcu *runner; /* the thread in KVM_RUN, which stays while RCU is held; or NULL */
	u64 serial; /* no two are alike, ever */

	u32 tsc_aux; /* as the MSR has it while the vCPU is loaded */
	s64 tsc_offset;
	u64 wall_clock, system_time; /* MSRs of the paravirtual clock */
	u32 clock_version; /* even; as the page has it */
	struct steal steal;
	u64 eoi_msr;	  /* where the guest looks for offers: eoi.c */
	bool eoi_offered; /* for the stay in the guest that is under way */
	struct apf apf;
	struct kvm_cpuid_entry2 *cpuid;
	unsigned int cpuid_count;

	struct guest_debug debug;
	struct mce_state mce;
	bool has_signals;
	sigset_t signals; /* blocked in KVM_RUN: where has_signals */

	struct x86_cpuid_model *model; /* its vendor counts; the rest is as cpuid_set() had it */
	u64 apic_base;
	struct lapic *lapic; /* where vm->chips */
	int extint;	/* of split chips: a vector from the 8259 pair in user space, or -1 */
	int eoi_vector; /* of split chips: user space is to hear of its end; or -1 */
	bool cr8_changed; /* by the guest, of which user space is to hear */
	bool msr_was_write; /* of the access that user space was asked about */

	struct emulation emu;
	/* How the exit to user space is finished when it comes back: 1 go on, 0 out again, -errno. */
	int (*finish)(struct vcpu *vcpu);
	u64 asked_rip; /* linear, of the instruction whose access user space was asked about */
	u32 poll_ns; /* how long it polls when it halts */
	struct vcpu_stats stats;
	struct page_cache spare_tables; /* for the next page that has to be mapped */
	struct dirty_ring ring;
	struct vcpu_shadow *shadow; /* where vm->shadow */

	bool debug_open;    /* the debug registers are the guest's until the next exit */
	bool nmi_injected;  /* its delivery was interrupted: again */
	struct event injected; /* with the entry under way */
	bool has_injected;
	bool taken_back; /* this exit came while an event was being delivered; it is pending */

	void *hw; /* the vendor's */
};

/* struct kvm_run, data of a port access, the ring of coalesced writes. */
#define VCPU_SHARED_PAGES 3u

extern unsigned int halt_poll_ns; /* a module parameter */

int vcpu_create(struct vm *vm, unsigned int id);
void vcpu_destroy(struct vcpu *vcpu);
void vcpu_load(struct vcpu *vcpu);
void vcpu_put(struct vcpu *vcpu);
/* The state in our form, to be read or changed. */
struct x86_state *vcpu_state(struct vcpu *vcpu);
/* Only read: what the hardware holds stays good. */
const struct x86_state *vcpu_peek(struct vcpu *vcpu);
/* RIP goes behind the instruction that exited. 1, or what emulation says. */
int vcpu_advance(struct vcpu *vcpu);
/* The same, and a debugger that steps is told. As handle_exit(). */
int vcpu_skip(struct vcpu *vcpu);
/* User space, which has the 8259 pair, asked to hear when it may inject. */
bool vcpu_user_waits(struct vcpu *vcpu);
/* In its thread: as if the guest had flushed all of its TLB. */
void vcpu_flush_tlb(struct vcpu *vcpu);
/* Make it look at its requests soon. Any context. */
void vcpu_request(struct vcpu *vcpu, enum vcpu_request request);

static inline bool vcpu_take_request(struct vcpu *vcpu, enum vcpu_request request)
{
	return test_bit(request, &vcpu->requests) && test_and_clear_bit(request, &vcpu->requests);
}

/* ---- event.c: exceptions, interrupts and NMIs on their way in ---- */

/* The next entry delivers it. */
void event_raise(struct vcpu *vcpu, u8 vector, bool has_error, u32 error);
void event_page_fault(struct vcpu *vcpu, u64 linear, u32 error);
/* Before an entry: choose what is injected, and ask for windows for the rest. */
void event_inject(struct vcpu *vcpu);
/* Both vendors write an event in one word alike: APM vol. 2, 15.20; SDM vol. 3, 24.8.3. */
#define EVENT_INFO_VECTOR 0xffu
#define EVENT_INFO_TYPE	  0x700u
#define EVENT_INFO_ERROR  BIT(11) /* there is an error code */
#define EVENT_INFO_VALID  BIT(31)

u32 event_info(const struct event *event);
/* Behind an exit: of what was being delivered when it came, in the hardware's word, or 0. */
void event_take_back(struct vcpu *vcpu, u32 info, u32 error);
/* The entry did not happen: what was to be injected is pending again. */
void event_cancel(struct vcpu *vcpu);
bool event_can_interrupt(struct vcpu *vcpu);
/* A halted vCPU goes on. */
bool event_wakes(struct vcpu *vcpu);

/* ---- state.c: gets and sets ---- */
/* -ENOTTY: not one of these. */
long state_ioctl(struct vcpu *vcpu, unsigned int number, void __user *arg);

/* ---- cpuid.c ---- */
int cpuid_supported(struct kvm_cpuid2 __user *arg);
int cpuid_emulated(struct kvm_cpuid2 __user *arg);
int cpuid_set(struct vcpu *vcpu, struct kvm_cpuid2 __user *arg);
int cpuid_get(struct vcpu *vcpu, struct kvm_cpuid2 __user *arg);
void cpuid_query(struct vcpu *vcpu, u32 leaf, u32 subleaf, u32 ret[4]);

/* ---- msr.c ---- */
struct msr_filter;
int msr_list(struct kvm_msr_list __user *arg, bool features);
/* Returns how many were read. */
int msr_feature_io(struct kvm_msrs __user *arg);
int msr_io(struct vcpu *vcpu, struct kvm_msrs __user *arg, bool write);
int msr_filter_set(struct vm *vm, struct kvm_msr_filter __user *arg);
void msr_filter_free(struct msr_filter *filter);
/* By the filter. @kind: KVM_MSR_FILTER_READ, KVM_MSR_FILTER_WRITE. */
bool msr_is_allowed(struct vm *vm, u32 msr, u32 kind);
/* False: #GP. */
bool msr_read(struct vcpu *vcpu, u32 msr, u64 *ret, bool host);
bool msr_write(struct vcpu *vcpu, u32 msr, u64 value, bool host);
/* The guest's RDMSR, WRMSR, which exited. As handle_exit(). */
int msr_exit(struct vcpu *vcpu, bool write);
/* Under vm->lock: the filter allows all of these, which the guest reaches without an exit. */
bool msr_all_allowed(struct vm *vm, const u32 *msrs, unsigned int count);

/* ---- mce.c: machine checks of the guest ---- */
/* What of MCG_CAP there can be, beside the number of banks. */
u64 mce_supported(void);
long mce_enable(struct vcpu *vcpu, const void __user *arg);
long mce_inject(struct vcpu *vcpu, const void __user *arg);
/* -ENOENT: none of its MSRs; -EINVAL: #GP. */
int mce_read_msr(struct vcpu *vcpu, u32 msr, u64 *ret);
int mce_write_msr(struct vcpu *vcpu, u32 msr, u64 value, bool host);

/* ---- debug.c: user space debugs the guest ---- */
#define DEBUG_FLAGS (KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP | \
		     KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP | \
		     KVM_GUESTDBG_BLOCKIRQ)

long debug_set(struct vcpu *vcpu, const void __user *arg);
/* To user space, with an exception that is the debugger's. */
int debug_exit(struct vcpu *vcpu, u8 vector, u64 dr6);
/* Behind an instruction that was not executed by the hardware. As handle_exit(). */
int debug_trap(struct vcpu *vcpu);

static inline bool debug_steps(const struct vcpu *vcpu)
{
	return vcpu->debug.control & KVM_GUESTDBG_SINGLESTEP;
}

/* #DB is the debugger's, all of it. */
static inline bool debug_has_db(const struct vcpu *vcpu)
{
	return vcpu->debug.control & (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP);
}

/* ---- emulate.c: instructions that the x86 core finishes ---- */
int emulate_init(struct vcpu *vcpu);
void emulate_free(struct vcpu *vcpu);
/* The instruction at RIP, or the delivery of an event that had begun. As handle_exit(). */
int emulate(struct vcpu *vcpu);
/* The same for one that would have an exit of its own, were it the processor that executes it. */
int emulate_any(struct vcpu *vcpu);
/* Length of the instruction at RIP, or 0: it cannot be fetched. */
unsigned int emulate_length(struct vcpu *vcpu);
/* Behind a walk by the core: the pages it looked at. */
void emulate_put_pages(struct vcpu *vcpu);

/* ---- fetch.c: the instruction that has exited, without the rest of the state ---- */

/* What finding it depends on, but for what of CR0 and EFER changes by writes that exit. */
struct code_place {
	u64 rip, base, cr3;
	u16 attr; /* of CS */
};

/* Linear address of RIP. */
u64 fetch_linear(struct vcpu *vcpu);
/* RIP behind an instruction of @length bytes. */
u64 fetch_next(struct vcpu *vcpu, unsigned int length);
/* Its length; or 0: it takes x86_fetch_insn(), which needs all of the state. */
unsigned int fetch_insn(struct vcpu *vcpu, struct x86_insn *insn);

/* ---- mmio.c: MOV from and to devices, without the x86 core ---- */
/* An access to @gpa, where the guest's own tables have led. True: done, with *ret as of handle_exit(). */
bool mmio_short(struct vcpu *vcpu, u64 gpa, bool write, int *ret);

/* ---- device.c: devices that are in the kernel ---- */
long ioevent_set(struct vm *vm, const void __user *arg);
void ioevents_free(struct vm *vm);
/* True: done. */
bool device_write_here(struct vcpu *vcpu, const struct device_access *a);
bool device_read_here(struct vcpu *vcpu, const struct device_access *a, u64 *ret);

/* ---- coalesced.c: writes that user space may learn of later ---- */
int coalesced_init(struct vm *vm);
void coalesced_free(struct vm *vm);
long coalesced_set(struct vm *vm, const void __user *arg, bool add);
/* True: it is in the ring. */
bool coalesced_write(struct vm *vm, const struct device_access *a);

/* ---- clock.c: the paravirtual clock; time stamp counters ---- */
void clock_init(struct vm *vm);
long clock_set(struct vm *vm, const void __user *arg);
long clock_get(struct vm *vm, void __user *arg);
/* The host's time stamp counters agree. */
bool clock_is_stable(void);
/* REQ_CLOCK. */
void clock_update(struct vcpu *vcpu);
/* False: none of its MSRs. */
bool clock_read_msr(struct vcpu *vcpu, u32 msr, u64 *ret);
bool clock_write_msr(struct vcpu *vcpu, u32 msr, u64 value);
void tsc_set_offset(struct vcpu *vcpu, s64 offset);
void tsc_set_by_host(struct vcpu *vcpu, u64 value);

/* ---- steal.c: time that the vCPU waits for a CPU ---- */
/* Its thread has a CPU; loses it, with preemption off. */
void steal_came(struct vcpu *vcpu);
void steal_left(struct vcpu *vcpu);
/* Between these two it executes nothing for the guest. Who closes may sleep. */
static inline void steal_open(struct vcpu *vcpu)
{
	vcpu->steal.open = true;
	barrier(); /* the scheduler may come at any place */
}
void steal_close(struct vcpu *vcpu);
/* -ENOENT: not its MSR; -EINVAL: #GP. */
int steal_read_msr(struct vcpu *vcpu, u32 msr, u64 *ret);
int steal_write_msr(struct vcpu *vcpu, u32 msr, u64 value);
void steal_reset(struct vcpu *vcpu);

/* ---- apf.c: pages that are not there yet. Its MSRs are in chips.h ---- */
int apf_start(void);
void apf_stop(void);
void apf_init(struct vcpu *vcpu);
bool apf_is_on(const struct vcpu *vcpu);
/* The guest's access would have to wait for the page of @hva. True: it is being brought in, and a #PF tells the guest. */
bool apf_begin(struct vcpu *vcpu, unsigned long hva, bool write);
/* REQ_APF. May sleep. */
void apf_update(struct vcpu *vcpu);

/* ---- hypercall.c: asked for in registers, and answered there ---- */
void hypercall(struct vcpu *vcpu);
int exit_hypercall(struct vcpu *vcpu);

/* ---- exit.c: what both vendors' tables of exits lead to. As handle_exit() ---- */
int exit_nothing(struct vcpu *vcpu);
int exit_host_interrupt(struct vcpu *vcpu);
int exit_skip(struct vcpu *vcpu);
int exit_undefined(struct vcpu *vcpu);
/* The processor has raised #UD. */
int exit_invalid(struct vcpu *vcpu);
int exit_debug_register(struct vcpu *vcpu);
int exit_interrupt_window(struct vcpu *vcpu);
/* What an access to @gpa was that the nested table does not allow. */
struct memory_access {
	u64 gpa;
	bool write, exec;
	bool last; /* it is the instruction's own: not one to the guest's tables */
};
int exit_memory(struct vcpu *vcpu, const struct memory_access *a);
/* The access is for user space to see to. */
void exit_to_device(struct vcpu *vcpu, const struct device_access *a, bool write);
/* User space has put the vCPU elsewhere since: a reset, by the very access. Then there is nothing to finish. */
bool exit_is_elsewhere(struct vcpu *vcpu);
/* The hardware refused to enter the guest, for a reason in its own words. */
int exit_refused(struct vcpu *vcpu, u64 reason);
int exit_port(struct vcpu *vcpu, u16 port, unsigned int size, bool in);
int exit_cpuid(struct vcpu *vcpu);
int exit_hlt(struct vcpu *vcpu);
int exit_shutdown(struct vcpu *vcpu);
int exit_failure(struct vcpu *vcpu);

/* ---- host.c: what of the host's CPU a guest borrows, whichever the vendor ---- */
/* IA32_TSC_AUX: with the vCPU on this CPU; when it has changed; when the vCPU goes. Preemption is off. */
void host_load(struct vcpu *vcpu);
void host_push(struct vcpu *vcpu);
void host_put(void);
/* The thread has a local descriptor table. */
bool host_has_ldt(void);
/* Before anything else of a vCPU. */
void host_name_guest(struct vcpu *vcpu);
/* With a vCPU on this CPU: nothing that another's guest has taught the processor leads this one. */
void host_part_guests(struct vcpu *vcpu);
/* The first thing behind an exit. */
void host_leave_guest(void);
/* The guest locks two lines of the cache at once, which the host looks for: true, it may. */
bool host_split_lock(u64 rip);
/* The guest's exit has swallowed a machine check of the host's. */
void host_machine_check(void);

/* ---- hw: SVM, VMX ---- */

/* Of the last exit, as the hardware has it: for those who trace. */
struct exit_info {
	u32 reason, event, error;
	u64 info1, info2;
};

struct hw {
	const char *name;
	/* The hardware's form of the state is read by the CPU alone that has it loaded. */
	bool form_is_cpus;
	/* Once. 0, or a negative errno with the reason logged. */
	int (*probe)(void);
	int (*setup)(void);
	void (*teardown)(void);
	/* On each CPU, interrupts off. */
	int (*enable)(void);
	void (*disable)(void);

	/* Of nested tables; known behind setup(). */
	const struct page_format *(*page_format)(void);
	int (*vcpu_create)(struct vcpu *vcpu);
	void (*vcpu_free)(struct vcpu *vcpu);
	/* The thread is now on this CPU, or leaves it (optional); preemption is off. */
	void (*load)(struct vcpu *vcpu, bool moved);
	void (*put)(struct vcpu *vcpu);
	/* The state, between the hardware's form and ours. */
	void (*pull)(struct vcpu *vcpu);
	/* Before push(), what of it may sleep. Optional. */
	void (*prepare)(struct vcpu *vcpu);
	void (*push)(struct vcpu *vcpu);
	/* The hardware cannot go on from the state, or not inject what it has been handed: the x86 core does. Behind
	 * event_inject(). Optional. */
	bool (*needs_core)(struct vcpu *vcpu);
	void (*set_tsc_offset)(struct vcpu *vcpu);
	/* The filter of MSRs. Under vm->lock. */
	void (*filter_changed)(struct vm *vm);
	void (*inject)(struct vcpu *vcpu, const struct event *event); /* NULL: nothing, after all */
	/* Exit when interrupts can be taken; when an IRET may end the NMI's mask. */
	void (*interrupt_window)(struct vcpu *vcpu, bool on);
	void (*nmi_window)(struct vcpu *vcpu, bool on);
	/* Let the guest have the debug registers to itself, or exit at each access. */
	void (*debug_window)(struct vcpu *vcpu, bool on);
	/* vcpu->debug. */
	void (*debug_changed)(struct vcpu *vcpu);
	/* RIP behind the instruction that exited, or 0: not known. */
	u64 (*next_rip)(struct vcpu *vcpu);
	u64 (*rip)(struct vcpu *vcpu);
	void (*set_rip)(struct vcpu *vcpu, u64 rip);
	u64 (*rflags)(struct vcpu *vcpu);
	bool (*interrupt_shadow)(struct vcpu *vcpu);
	/* Behind an exit. */
	void (*code_place)(struct vcpu *vcpu, struct code_place *ret);
	/* Interrupts off; they are off again behind it. */
	void (*enter)(struct vcpu *vcpu, bool flush);
	/* 1: go on, 0: to user space, or -errno. */
	int (*handle_exit)(struct vcpu *vcpu);
	/* Behind enter(), on its CPU. */
	void (*exit_info)(struct vcpu *vcpu, struct exit_info *ret);
};

extern const struct hw hw_svm, hw_vmx;
/* The one in use; constant from the module's start on. */
extern const struct hw *hw;

/* ---- trace.c: the rest is in trace.h ---- */
/* A device was read, or written. */
void trace_device(const struct device_access *a, bool write);

/* ---- main.c ---- */
long system_check_extension(unsigned long cap);
