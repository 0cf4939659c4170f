// SPDX-License-Identifier: Apache-2.0
/* direct.c - when user code runs on the host's MMU, and what happens when that says no. See direct.h. */
#include "engine/bt/direct.h"

#include <cpuid.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <x86intrin.h>

#include "engine/bt/bt_int.h"
#include "engine/bt/jit/emit.h"
#include "x86/pte.h"
#include "x86/softmmu.h"

/* Over all vCPUs. Each is two mappings at most, and Linux allows a process some 65000. */
#define EXTENTS_TOTAL 24576u
#define EXTENTS_MAX   4096u

/* Timer interrupts in a row that find one address space computing. */
#define HOLD	 4u
#define HOLD_MAX 4096u
/* In ticks of the TSC, some 3 GHz. */
#define FAULT_TICKS  10000u
#define PERIOD_TICKS (1ull << 30)
/* What it may cost at first, and then of the time: all, and what gained nothing. */
#define GRACE_TICKS	  (32ull << 20)
#define GRACE_WASTE_TICKS (4ull << 20)
#define SHARE		  4u
#define SHARE_WASTE	  32u

/* ---- the signal ---- */

/* The vCPU that this thread runs: a handler is given nothing else to find it by. */
static _Thread_local struct bt_vcpu *running;
/* The disposition of a signal belongs to the process, and so does what it was before. */
static struct sigaction before[2];

static const struct bt_direct_site *find_site(const struct bt_direct_site *site, uint32_t count,
					      uint64_t off)
{
	uint32_t low = 0, high = count;

	while (low < high) {
		uint32_t mid = (low + high) / 2;

		if (site[mid].end > off)
			high = mid;
		else
			low = mid + 1;
	}
	return low < count && site[low].start <= off ? &site[low] : NULL;
}

/* Others may be adding to the region; what is of code that runs is there. */
static const struct bt_direct_site *site_at(const struct bt_cache *cache, uint64_t off)
{
	const struct bt_ring *ring = &cache->ring[BT_TRANSLATED];

	for (unsigned i = 0; i < ring->regions; i++) {
		const struct bt_region *r = &ring->region[i];

		if (off >= r->code_first && off < r->code_end)
			return find_site(cache->site + r->site_first,
					 atomic_load_explicit(&r->sites_used, memory_order_acquire),
					 off);
	}
	return NULL;
}

static void pass_on(int sig, siginfo_t *info, void *context)
{
	const struct sigaction *old = &before[sig == SIGBUS];

	if (old->sa_flags & SA_SIGINFO)
		old->sa_sigaction(sig, info, context);
	else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)
		old->sa_handler(sig);
	else
		(void)signal(sig, SIG_DFL); /* and it happens again */
}

/* Others may execute it: one instruction of an aligned quadword for another (tr_direct.c). */
static void put_jump(uint8_t *code, const struct bt_direct_site *site)
{
	uint32_t to = site->other - (site->start + 5);
	uint8_t jump[5] = { 0xe9 };

	memcpy(jump + 1, &to, sizeof(to));
	emit_live(code + site->start, jump, sizeof(jump));
}

/* The class of an access was wrong: so it will be again, and so is that of all which look together. What has
 * looked for others takes them along. A thread that was interrupted sees the code as it is now, and no other
 * one runs it: direct blocks are their vCPU's own. */
static void patch_group(struct bt_vcpu *vcpu, const struct bt_direct_site *at)
{
	struct bt_direct_site *site = &bt_engine_of(vcpu)->cache->site[at->first];
	uint32_t groups = at->groups, was;

	do {
		was = groups;
		for (uint32_t n = 0; n < at->count; n++)
			if (site[n].groups & groups)
				groups |= site[n].groups;
	} while (groups != was);
	for (uint32_t n = 0; n < at->count; n++) {
		if (site[n].groups & groups)
			put_jump(vcpu->jit.code, &site[n]);
	}
}

static bool is_in_table(const struct bt_vcpu *vcpu, const siginfo_t *info)
{
	uint64_t low = (uintptr_t)vcpu - BT_DIRECT_LOW_BYTES - 4096;

	return (uintptr_t)info->si_addr - low <
	       BT_DIRECT_LOW_BYTES + 4096 + sizeof(*vcpu) + 4096 + BT_DIRECT_HIGH_BYTES;
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct bt_vcpu *vcpu = running;
	const struct bt_direct_site *site;
	uint64_t off;

	off = vcpu ? (uint64_t)regs[REG_RIP] - (uintptr_t)vcpu->jit.exec : UINT64_MAX;
	site = vcpu && off < vcpu->jit.size ? site_at(bt_engine_of(vcpu)->cache, off) : NULL;
	if (!site) {
		pass_on(sig, info, context);
		return;
	}
	if (site->other && info->si_code > 0 && info->si_code != SI_KERNEL &&
	    is_in_table(vcpu, info)) {
		vcpu->direct.misses++;
		patch_group(vcpu, site);
		regs[REG_RIP] = (greg_t)((uintptr_t)vcpu->jit.exec + site->other);
		return;
	}
	vcpu->direct.faulted = true;
	vcpu->direct.fault_host = info->si_code > 0 && info->si_code != SI_KERNEL ?
					  (uint64_t)(uintptr_t)info->si_addr : 0;
	regs[REG_RIP] = (greg_t)((uintptr_t)vcpu->jit.exec + site->slow);
}

static void take_signals(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	(void)sigaction(SIGSEGV, &action, &before[0]);
	(void)sigaction(SIGBUS, &action, &before[1]);
}

/* ---- made and unmade ---- */

/* PEXT is microcode, some 100 cycles, before AMD's family 19h. */
static bool pext_is_quick(void)
{
	unsigned a, b, c, d, family;

	if (!__builtin_cpu_supports("bmi2") || !__get_cpuid(0, &a, &b, &c, &d))
		return false;
	if (c == 0x6c65746e) /* GenuineIntel */
		return true;
	__cpuid(1, a, b, c, d);
	family = (a >> 8 & 15) + (a >> 20 & 255);
	return family >= 0x19;
}

void bt_direct_init(struct bt_vcpu *vcpu)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	struct bt_direct *d = &vcpu->direct;
	void *p;

	/* Others' code relies on the tables. */
	if (engine->off & BT_OFF_DIRECT || !d->tables || !vcpu->jit.on || !pext_is_quick() ||
	    !bt_ram_is_file(engine))
		return;
	d->force = engine->off & BT_OFF_DIRECT_WAIT;
	d->mask = 511ull << 39;
	if (!(engine->off & BT_OFF_DIRECT_CLASSES))
		bt_direct_classes(vcpu);
	d->room = EXTENTS_TOTAL / engine->vcpu_count;
	if (d->room > EXTENTS_MAX)
		d->room = EXTENTS_MAX;
	d->hold = HOLD;
	p = mmap(NULL, d->room * sizeof(*d->extent), PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return;
	d->extent = p;
	d->able = true;
	bt_direct_drop(vcpu);
}

void bt_direct_fini(struct bt_vcpu *vcpu)
{
	struct bt_direct *d = &vcpu->direct;

	if (running == vcpu)
		running = NULL;
	bt_direct_close(d);
	if (d->extent)
		munmap(d->extent, d->room * sizeof(*d->extent));
}

void bt_direct_thread(struct bt_vcpu *vcpu)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	sigset_t set;

	if (!vcpu->direct.able || running == vcpu)
		return;
	pthread_once(&once, take_signals);
	sigemptyset(&set);
	sigaddset(&set, SIGSEGV);
	sigaddset(&set, SIGBUS);
	(void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	running = vcpu;
}

/* ---- when ---- */

static void hold_longer(struct bt_direct *d)
{
	d->hold = d->hold * 4 < HOLD_MAX ? d->hold * 4 : HOLD_MAX;
	d->calm = __rdtsc() + 4 * PERIOD_TICKS;
}

/* bt_direct_resume() is to be asked again. */
static void begin(struct bt_vcpu *vcpu, uint64_t cr3)
{
	struct bt_direct *d = &vcpu->direct;

	bt_ways_close(vcpu);
	/* Programs that take turns would have it made anew each time. */
	if (d->ready && d->cr3 != cr3)
		hold_longer(d);
	bt_direct_drop(vcpu);
	d->cr3 = cr3;
	d->space = vcpu->cpu.space_now;
	d->ready = true;
	d->stale = false;
	d->period_start = __rdtsc();
	d->cost = d->waste = 0;
	d->begun++;
	/* Where nearly all that a program touches is. */
	(void)bt_direct_open(vcpu, vcpu->cpu.s.gpr[X86_RSP]);
	(void)bt_direct_open(vcpu, vcpu->cpu.s.rip);
}

static void give_up(struct bt_vcpu *vcpu)
{
	struct bt_direct *d = &vcpu->direct;

	bt_ways_close(vcpu);
	d->ready = false;
	d->seen = 0;
	d->given_up++;
	hold_longer(d);
}

/* It costs more than it can gain. */
static bool is_too_dear(struct bt_direct *d)
{
	uint64_t now = __rdtsc(), elapsed = now - d->period_start;

	if (d->cost > elapsed / SHARE + GRACE_TICKS ||
	    d->waste > elapsed / SHARE_WASTE + GRACE_WASTE_TICKS || d->room - d->count < 4)
		return true;
	if (elapsed > PERIOD_TICKS) {
		d->period_start = now;
		d->cost = d->waste = 0;
	}
	return false;
}

static void judge(struct bt_vcpu *vcpu)
{
	struct bt_direct *d = &vcpu->direct;

	if (d->ready && !d->force && is_too_dear(d))
		give_up(vcpu);
}

bool bt_direct_resume(struct bt_vcpu *vcpu)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	const struct x86_cpu *cpu = &vcpu->cpu;
	uint64_t cr3 = cpu->s.cr3 & PTE_ADDR, start;
	struct bt_direct *d = &vcpu->direct;

	if (!d->able || cpu->cpl != 3 || cpu->code_bytes != 8 || cpu->tlb_mode != X86_TLB_USER ||
	    atomic_load_explicit(&engine->dirty_on, memory_order_relaxed))
		return false;
	if (d->force && (!d->ready || d->cr3 != cr3 || d->room - d->count < 4))
		begin(vcpu, cr3);
	if (!d->ready || d->cr3 != cr3)
		return false;
	if (d->space != cpu->space_now) {
		d->space = cpu->space_now;
		d->stale = true;
	}
	if (d->stale) {
		start = __rdtsc();
		d->stale = false;
		bt_direct_revalidate(vcpu);
		start = __rdtsc() - start;
		d->cost += start;
		d->waste += start;
	}
	return true;
}

void bt_direct_flush(struct bt_vcpu *vcpu)
{
	vcpu->direct.stale = true;
}

void bt_direct_flush_space(struct bt_vcpu *vcpu, unsigned space)
{
	if (space == vcpu->direct.space)
		vcpu->direct.stale = true;
}

void bt_direct_sample(struct bt_vcpu *vcpu)
{
	const struct x86_cpu *cpu = &vcpu->cpu;
	uint64_t cr3 = cpu->s.cr3 & PTE_ADDR;
	struct bt_direct *d = &vcpu->direct;

	if (!d->able || d->force || cpu->cpl != 3 || cpu->code_bytes != 8)
		return;
	if (d->hold > HOLD && __rdtsc() > d->calm) {
		d->hold /= 2;
		d->calm += PERIOD_TICKS;
	}
	if (cr3 != d->seen_cr3) {
		d->seen_cr3 = cr3;
		d->seen = 0;
		return;
	}
	d->seen++;
	if (!d->ready || d->cr3 != cr3) {
		if (d->seen >= d->hold)
			begin(vcpu, cr3);
	} else {
		judge(vcpu);
	}
}

/* ---- behind the signal ---- */

/* A slot without a window faults without an address: open it by what the instruction names. */
static uint64_t open_for(struct bt_vcpu *vcpu, const struct x86_insn *insn)
{
	uint64_t linear = vcpu->cpu.s.gpr[X86_RSP] - 8;

	(void)bt_direct_open(vcpu, linear);
	if (!(insn->flags & X86_INSN_MEM))
		return linear;
	linear = x86_linear64(&vcpu->cpu, insn);
	(void)bt_direct_open(vcpu, linear);
	return linear;
}

uint64_t bt_direct_fault(struct bt_vcpu *vcpu, const struct x86_insn *insn)
{
	struct bt_direct *d = &vcpu->direct;
	uint64_t linear = bt_direct_linear(d, d->fault_host);

	d->faulted = false;
	d->faults++;
	d->cost += FAULT_TICKS;
	d->waste += FAULT_TICKS;
	judge(vcpu);
	if (!d->able)
		return BT_DIRECT_NOWHERE;
	return linear != BT_DIRECT_NOWHERE ? linear : open_for(vcpu, insn);
}

void bt_direct_done(struct bt_vcpu *vcpu, uint64_t linear)
{
	struct bt_direct *d = &vcpu->direct;
	uint64_t start = __rdtsc();

	if (d->ready && !d->stale && d->able && bt_direct_map(vcpu, linear))
		d->waste -= FAULT_TICKS;
	d->cost += __rdtsc() - start;
}
