// SPDX-License-Identifier: Apache-2.0
/* user.c - when user code runs as it is, and what is done when it stops. See user.h. */
#include "engine/bt/user.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/bits.h"
#include "engine/bt/bt_int.h"
#include "x86/pte.h"

/* Timer interrupts in a row that find one address space computing. */
#define HOLD	 3u
#define HOLD_MAX 4096u
#define PERIOD_TICKS (1ull << 30) /* of the TSC, some 3 GHz */
/* A runner that another address space used this long ago may be taken from it. */
#define IDLE_TICKS (1ull << 30)
/* Instructions one by one that take about as long as a stop. */
#define HIDDEN_STEPS 200u
/* And so many such stops between two timer interrupts. */
#define HIDDEN_STOPS 32u

/* What user code sets and sees. With one of FLAGS_NONE it does not begin: a runner cannot be given them, or is told
 * otherwise. It may come back with one of FLAGS_SET. */
#define FLAGS_OWN  (X86_FL_STATUS | X86_FL_DF)
#define FLAGS_SET  (X86_FL_TF | X86_FL_NT | X86_FL_AC | X86_FL_ID)
#define FLAGS_NONE (X86_FL_TF | X86_FL_NT | X86_FL_VM | X86_FL_AC | X86_FL_IOPL | X86_FL_VIF | X86_FL_VIP)

#define DR6_BS (1u << 14) /* single step: SDM vol. 3, 17.2.3 */

/* ---- made and unmade ---- */

static uint64_t host_xcr0(void)
{
	uint32_t eax, ebx, ecx, edx;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
	return (uint64_t)edx << 32 | eax;
}

void bt_user_init(struct bt_vcpu *vcpu)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	struct bt_user *u = &vcpu->user;

	u->fault = BT_USER_NOWHERE;
	u->hold = HOLD;
	if (engine->off & BT_OFF_USER || engine->count_insns || !bt_ram_is_file(engine))
		return;
	u->force = engine->off & BT_OFF_USER_WAIT;
	u->host_xcr0 = host_xcr0();
	u->cpuid_faults = bt_runner_cpuid_can_fault();
	u->able = bt_user_place_init(u) && u->host_xcr0;
}

static void end_all(struct bt_user *u)
{
	for (unsigned i = 0; i < BT_USER_RUNNERS; i++) {
		bt_runner_end(&u->runner[i]);
		bt_user_drop(&u->runner[i]);
		free(u->runner[i].region);
		u->runner[i] = (struct bt_runner){ 0 };
	}
	u->now = NULL;
	u->wanted = false;
}

void bt_user_fini(struct bt_vcpu *vcpu)
{
	end_all(&vcpu->user);
	bt_user_place_fini(vcpu);
}

/* ---- when ---- */

static struct bt_runner *runner_of(struct bt_user *u, uint64_t cr3)
{
	for (unsigned i = 0; i < BT_USER_RUNNERS; i++)
		if (u->runner[i].ready && u->runner[i].cr3 == cr3)
			return &u->runner[i];
	return NULL;
}

/* One that is free, or was not used for the longest time. */
static struct bt_runner *runner_to_take(struct bt_user *u)
{
	struct bt_runner *best = &u->runner[0];

	for (unsigned i = 0; i < BT_USER_RUNNERS; i++) {
		struct bt_runner *r = &u->runner[i];

		if (r->ready < best->ready || (r->ready == best->ready && r->used < best->used))
			best = r;
	}
	return best;
}

static void hold_longer(struct bt_user *u)
{
	u->hold = MIN(u->hold * 2, HOLD_MAX);
	u->calm = __rdtsc() + 4 * PERIOD_TICKS;
}

/* The host does not let us, or no more: containers forbid ptrace(2), processes can be short. */
static void do_without(struct bt_vcpu *vcpu)
{
	vcpu->user.able = false;
	end_all(&vcpu->user);
	bt_ways_close(vcpu);
}

/* Another one cannot trace the runners of this one. */
static void take_thread(struct bt_vcpu *vcpu)
{
	pid_t self = (pid_t)syscall(SYS_gettid);

	if (vcpu->user.thread == self)
		return;
	end_all(&vcpu->user);
	vcpu->user.thread = self;
}

/* What user code can load from the guest's table of descriptors is what it loads from the host's. */
static bool have_linux_gdt(struct bt_vcpu *vcpu)
{
	/* From selector 20 on: 32-bit code, data, 64-bit code, all of users, the accessed bit left out. */
	static const uint64_t wanted[] = { 0x00cffa000000ffff, 0x00cff2000000ffff, 0x00affa000000ffff };
	const struct x86_table *gdt = &vcpu->cpu.s.gdtr;

	for (unsigned i = 0; i < ARRAY_SIZE(wanted); i++) {
		uint64_t at = (BT_USER_CODE32 & ~7u) + 8 * i, gpa;
		const uint8_t *host;

		if (gdt->limit < at + 7 || x86_translate(&vcpu->cpu, gdt->base + at, 0, &gpa) != X86_NEXT)
			return false;
		host = bt_ram_host(bt_engine_of(vcpu), gpa);
		if (!host || (load_le64(host) & ~(1ull << 40)) != wanted[i])
			return false;
	}
	return true;
}

/* What user code must not execute as it is. */
static unsigned telling(const struct bt_vcpu *vcpu)
{
	const struct bt_user *u = &vcpu->user;
	bool same_counter = bt_engine_of(vcpu)->clock.host_tsc &&
			    !atomic_load_explicit(&vcpu->tsc_offset, memory_order_relaxed);

	return (vcpu->cpu.s.xcr0 != u->host_xcr0 ? BT_SCAN_XSAVE : 0) | (u->cpuid_faults ? 0 : BT_SCAN_CPUID) |
	       (same_counter ? 0 : BT_SCAN_TSC);
}

/* What runners have is of no use where that has changed. */
static void look_for_what_tells(struct bt_vcpu *vcpu)
{
	struct bt_user *u = &vcpu->user;
	unsigned now = telling(vcpu);

	if (u->telling == now)
		return;
	u->telling = now;
	for (unsigned i = 0; i < BT_USER_RUNNERS; i++)
		u->runner[i].ready = false;
}

/* bt_user_resume() is to be asked again. */
static void begin(struct bt_vcpu *vcpu, uint64_t cr3)
{
	struct bt_user *u = &vcpu->user;
	struct bt_runner *r;

	if (!have_linux_gdt(vcpu))
		return;
	take_thread(vcpu);
	look_for_what_tells(vcpu);
	r = runner_to_take(u);
	if (r->ready && __rdtsc() - r->used < IDLE_TICKS)
		hold_longer(u); /* more of them compute than there are runners */
	if (!r->pid) {
		r->id = 0;
		if (bt_runner_begin(r, bt_engine_of(vcpu)) < 0) {
			do_without(vcpu);
			return;
		}
	}
	if (!u->layout.at[2])
		xsave_layout(&u->layout, r->xstate_bytes);
	bt_user_drop(r);
	r->cr3 = cr3;
	r->space = vcpu->cpu.space_now;
	r->ready = true;
	r->stale = false;
	r->used = __rdtsc();
	bt_worth_begin(r);
	bt_ways_close(vcpu);
	bt_count(&vcpu->stats.user_begun);
}

static void give_up(struct bt_vcpu *vcpu, struct bt_runner *r)
{
	r->ready = false;
	bt_user_drop(r);
	vcpu->user.seen = 0;
	hold_longer(&vcpu->user);
	bt_ways_close(vcpu);
	bt_count(&vcpu->stats.user_given_up);
}

/* Flat data, or a null selector. Bases that programs have given themselves (WRGSBASE takes any canonical address) and that
 * are none of theirs ptrace(2) does not set. */
static bool is_usual(const struct x86_segment *seg)
{
	return seg->selector == 0 ? seg->base < BT_USER_END : seg->selector == BT_USER_SS && seg->base == 0;
}

/* What a runner cannot be: another processor than the host's own at privilege 3 of Linux. */
static bool is_plain(const struct bt_vcpu *vcpu)
{
	const struct x86_cpu *cpu = &vcpu->cpu;
	const struct x86_state *s = &cpu->s;

	return cpu->cpl == 3 && cpu->code_bytes == 8 && cpu->tlb_mode == X86_TLB_USER &&
	       !cpu->debug_armed && !vcpu->trace &&
	       (s->rflags & (X86_FL_IF | FLAGS_NONE)) == X86_FL_IF &&
	       !(s->cr0 & (X86_CR0_TS | X86_CR0_EM)) && s->cr4 & X86_CR4_OSFXSR &&
	       s->cr4 & X86_CR4_OSXMMEXCPT && !(s->cr4 & X86_CR4_TSD) &&
	       s->efer & X86_EFER_SCE && s->seg[X86_CS].selector == BT_USER_CS &&
	       s->seg[X86_SS].selector == BT_USER_SS && is_usual(&s->seg[X86_DS]) &&
	       is_usual(&s->seg[X86_ES]) && is_usual(&s->seg[X86_FS]) && is_usual(&s->seg[X86_GS]) &&
	       /* LAR, LSL, VERR and VERW would not fault, and tell of the host's, which is empty. */
	       (s->ldtr.selector & ~3u) == 0 &&
	       !atomic_load_explicit(&bt_engine_of(vcpu)->dirty_on, memory_order_relaxed);
}

/* Whether the runner does. */
static bool runner_goes_on(struct bt_vcpu *vcpu, struct bt_runner *r)
{
	/* The fetch context is still the one before: only what comes from the kernel counts. */
	const bool from_kernel = !(vcpu->epoch & 1);

	return vcpu->user.force || bt_worth_entered(r, from_kernel);
}

void bt_user_resume(struct bt_vcpu *vcpu)
{
	struct bt_user *u = &vcpu->user;
	uint64_t cr3 = vcpu->cpu.s.cr3 & PTE_ADDR;

	u->wanted = false;
	if (vcpu->cpu.cpl != 3) {
		u->paused = false;
		return;
	}
	u->now = runner_of(u, cr3);
	if (u->now && !runner_goes_on(vcpu, u->now))
		return;
	if (u->paused || !is_plain(vcpu))
		return;
	if (!u->now && u->force) {
		begin(vcpu, cr3);
		u->now = runner_of(u, cr3);
	}
	if (!u->now)
		return;
	u->wanted = true;
	/* Whatever is executing is to come to an end, and to bt_vcpu_run(). */
	bt_request(vcpu, BT_REQ_USER, false);
}

void bt_user_interrupt(struct bt_user *u)
{
	pid_t pid = atomic_load(&u->running);

	if (pid)
		bt_runner_interrupt(pid);
}

bool bt_user_sample(struct bt_vcpu *vcpu)
{
	struct bt_user *u = &vcpu->user;
	uint64_t cr3 = vcpu->cpu.s.cr3 & PTE_ADDR;
	struct bt_runner *r;

	if (!u->able)
		return false;
	bt_user_place_tick(vcpu);
	if (vcpu->cpu.cpl != 3 || vcpu->cpu.code_bytes != 8)
		return false;
	if (u->hold > HOLD && __rdtsc() > u->calm) {
		u->hold /= 2;
		u->calm += PERIOD_TICKS;
	}
	if (cr3 != u->seen_cr3) {
		u->seen_cr3 = cr3;
		u->seen = 0;
	}
	u->seen++;
	r = runner_of(u, cr3);
	if (r) {
		r->hidden = 0;
		memset(r->crowded, 0, sizeof(r->crowded));
		if (!bt_worth_tick(r, u->paused) && !u->force) {
			give_up(vcpu, r);
			return false;
		}
	}
	if (!r && u->seen >= u->hold && is_plain(vcpu))
		begin(vcpu, cr3);
	return runner_of(u, cr3) != NULL;
}

/* ---- what was dropped from the TLB ---- */

void bt_user_flush(struct bt_vcpu *vcpu)
{
	for (unsigned i = 0; i < BT_USER_RUNNERS; i++)
		vcpu->user.runner[i].stale = true;
}

void bt_user_flush_space(struct bt_vcpu *vcpu, unsigned space)
{
	for (unsigned i = 0; i < BT_USER_RUNNERS; i++)
		if (vcpu->user.runner[i].space == space)
			vcpu->user.runner[i].stale = true;
}

/* ---- state in and out ---- */

/* Names in struct user_regs_struct by number of the register. */
#define EACH_GPR(DO, s, r)                                                                          \
	DO(s, X86_RAX, r, rax) DO(s, X86_RCX, r, rcx) DO(s, X86_RDX, r, rdx) DO(s, X86_RBX, r, rbx) \
	DO(s, X86_RSP, r, rsp) DO(s, X86_RBP, r, rbp) DO(s, X86_RSI, r, rsi) DO(s, X86_RDI, r, rdi) \
	DO(s, X86_R8, r, r8) DO(s, X86_R9, r, r9) DO(s, X86_R10, r, r10) DO(s, X86_R11, r, r11)	    \
	DO(s, X86_R12, r, r12) DO(s, X86_R13, r, r13) DO(s, X86_R14, r, r14) DO(s, X86_R15, r, r15)
#define OUT(s, n, r, name) (r)->name = (s)->gpr[n];
#define IN(s, n, r, name)  (s)->gpr[n] = (r)->name;

static bool load_runner(struct bt_vcpu *vcpu, struct bt_runner *r)
{
	const struct x86_state *s = &vcpu->cpu.s;

	*r->regs = (struct user_regs_struct){
		.rip = s->rip,
		.eflags = (s->rflags & FLAGS_OWN) | X86_FL_ONE | X86_FL_IF,
		.cs = BT_USER_CS,
		.ss = BT_USER_SS,
		.fs_base = s->seg[X86_FS].base,
		.gs_base = s->seg[X86_GS].base,
		.ds = s->seg[X86_DS].selector,
		.es = s->seg[X86_ES].selector,
		.fs = s->seg[X86_FS].selector,
		.gs = s->seg[X86_GS].selector,
	};
	EACH_GPR(OUT, s, r->regs)
	return bt_runner_set_fpu(r, &vcpu->user.layout, &s->fpu);
}

/* A selector that user code has loaded itself, from the host's table. What it would have got from the guest's
 * is the same for those that any 64-bit Linux has, and all else a runner does not get (is_plain()). */
static void take_selector(struct x86_segment *seg, uint64_t selector)
{
	if (seg->selector == selector)
		return;
	seg->selector = (uint16_t)selector;
	seg->limit = 0xffffffffu;
	seg->attr = X86_SEG_P | X86_SEG_S | X86_SEG_DPL | X86_SEG_DB | X86_SEG_G | 3u;
}

/* Far into 32-bit code, by the host's descriptor, which is also the guest's: have_linux_gdt(). */
static void take_code32(struct x86_cpu *cpu, uint64_t selector)
{
	cpu->s.seg[X86_CS] = (struct x86_segment){
		.selector = (uint16_t)selector,
		.limit = 0xffffffffu,
		.attr = X86_SEG_P | X86_SEG_S | X86_SEG_DPL | X86_SEG_DB | X86_SEG_G | 0xbu,
	};
	x86_cpu_sync(cpu);
}

static bool unload_runner(struct bt_vcpu *vcpu, struct bt_runner *r)
{
	struct x86_state *s = &vcpu->cpu.s;
	uint64_t before = s->rflags;

	EACH_GPR(IN, s, r->regs)
	s->rip = r->regs->rip;
	s->rflags = (s->rflags & ~(uint64_t)(FLAGS_OWN | FLAGS_SET)) |
		    (r->regs->eflags & (FLAGS_OWN | FLAGS_SET));
	r->id = r->regs->eflags & X86_FL_ID;
	s->seg[X86_FS].base = r->regs->fs_base;
	s->seg[X86_GS].base = r->regs->gs_base;
	take_selector(&s->seg[X86_DS], r->regs->ds);
	take_selector(&s->seg[X86_ES], r->regs->es);
	take_selector(&s->seg[X86_FS], r->regs->fs);
	take_selector(&s->seg[X86_GS], r->regs->gs);
	if (r->regs->cs != BT_USER_CS)
		take_code32(&vcpu->cpu, r->regs->cs);
	else if ((before ^ s->rflags) & (X86_FL_TF | X86_FL_AC))
		x86_cpu_sync(&vcpu->cpu);
	s->interrupt_shadow = 0;
	vcpu->cpu.wide = bt_host_insn_is_fit(); /* perhaps: who looks finds out */
	return bt_runner_get_fpu(r, &vcpu->user.layout, &s->fpu);
}

/* ---- stops ---- */

/* The runner was killed, by the host's administrator or for want of memory, and with it the registers. The guest's
 * program cannot go on: it gets #GP where it was last seen. */
static void lose(struct bt_vcpu *vcpu, struct bt_runner *r)
{
	struct x86_cpu *cpu = &vcpu->cpu;

	bt_count(&vcpu->stats.user_lost);
	bt_runner_end(r);
	give_up(vcpu, r);
	cpu->s.exception_pending = true;
	cpu->s.exception_vector = X86_GP;
	cpu->s.exception_has_error = true;
	cpu->s.exception_error = 0;
	vcpu->user.wanted = false;
}

/* It goes to the kernel by the book, or on behind an instruction that only the book can do. */
static void by_the_book(struct bt_vcpu *vcpu)
{
	vcpu->user.wanted = false;
	bt_step(vcpu);
}

static bool is_hidden(uint32_t word)
{
	return (word & (BT_USER_HIDDEN | BT_USER_EXEC)) == BT_USER_HIDDEN;
}

/* Through a page that is not to be executed as it is. A few instructions are done sooner than the translator is
 * asked, and the runner goes on behind them. */
static void in_hidden(struct bt_vcpu *vcpu, struct bt_runner *r)
{
	struct bt_user *u = &vcpu->user;

	bt_count(&vcpu->stats.user_hidden);
	if (r->hidden++ < HIDDEN_STOPS && bt_user_unhide(vcpu, r, vcpu->cpu.s.rip))
		return;
	for (unsigned n = 0; n < HIDDEN_STEPS && r->hidden < HIDDEN_STOPS; n++) {
		by_the_book(vcpu);
		if (!u->wanted || !is_hidden(bt_user_word(r, vcpu->cpu.s.rip)) ||
		    atomic_load_explicit(&vcpu->request, memory_order_relaxed) & ~BT_REQ_USER)
			return;
	}
	u->paused = true;
	u->wanted = false;
	bt_count(&vcpu->stats.user_pauses);
}

static void stepped(struct bt_vcpu *vcpu)
{
	struct x86_state *s = &vcpu->cpu.s;

	s->exception_pending = true;
	s->exception_vector = X86_DB;
	s->exception_has_error = false;
	s->exception_payload = DR6_BS;
	vcpu->user.wanted = false;
}

static bool is_before(struct bt_vcpu *vcpu, uint8_t opcode)
{
	struct x86_state *s = &vcpu->cpu.s;
	const uint8_t *host[2];
	uint8_t byte = 0;
	bool is;

	s->rip--;
	is = x86_fetch_bytes(&vcpu->cpu, &byte, 1, host) == 1 && byte == opcode;
	s->rip++;
	return is;
}

/* Back to where it begins: CC, or CD 03; F1. */
static void trapped(struct bt_vcpu *vcpu, enum bt_runner_stop why)
{
	if (why == BT_RUNNER_INT3)
		vcpu->cpu.s.rip -= is_before(vcpu, 0xcc) ? 1 : 2;
	else if (is_before(vcpu, 0xf1))
		vcpu->cpu.s.rip--;
	by_the_book(vcpu);
}

static void stopped(struct bt_vcpu *vcpu, struct bt_runner *r, enum bt_runner_stop why,
		    uint64_t address)
{
	struct x86_cpu *cpu = &vcpu->cpu;

	if (!unload_runner(vcpu, r)) {
		lose(vcpu, r);
		return;
	}
	switch (why) {
	case BT_RUNNER_SYSCALL:
		bt_count(&vcpu->stats.user_calls);
		cpu->s.rip -= 2; /* each of them has two bytes: 0F 05, 0F 34, CD 80 */
		by_the_book(vcpu);
		break;
	case BT_RUNNER_WATCH:
		bt_count(&vcpu->stats.user_watched);
		if (!bt_user_unwatch(vcpu, r, cpu->s.rip))
			by_the_book(vcpu);
		break;
	case BT_RUNNER_FAULT:
		vcpu->user.fault = address;
		if (address == cpu->s.rip && is_hidden(bt_user_word(r, address)))
			in_hidden(vcpu, r);
		else {
			if (address != BT_USER_NOWHERE)
				bt_user_hide(vcpu, r, address);
			by_the_book(vcpu);
		}
		break;
	case BT_RUNNER_INT3:
	case BT_RUNNER_INT1:
		trapped(vcpu, why);
		break;
	case BT_RUNNER_STEP:
		stepped(vcpu);
		break;
	case BT_RUNNER_STRAY:
		bt_runner_end(r);
		__attribute__((__fallthrough__));
	case BT_RUNNER_FULL:
		vcpu->user.wanted = false;
		give_up(vcpu, r);
		break;
	default:
		break;
	}
}

/* Behind a fault that the guest's kernel has dealt with. */
static void map_fault(struct bt_vcpu *vcpu, struct bt_runner *r)
{
	struct bt_user *u = &vcpu->user;

	if (u->fault != BT_USER_NOWHERE)
		(void)bt_user_map(vcpu, r, u->fault);
	u->fault = BT_USER_NOWHERE;
}

static enum bt_runner_stop go(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t *ret_address)
{
	enum bt_runner_stop why;

	bt_count(&vcpu->stats.user_runs);
	bt_doing_set(&vcpu->stats, BT_DOING_USER);
	why = bt_runner_go(r, vcpu, &vcpu->user.running, ret_address);
	bt_doing_set(&vcpu->stats, BT_DOING_LOOP);
	if (why == BT_RUNNER_FAULT)
		bt_count(&vcpu->stats.user_faults);
	return why;
}

/* What it has mapped is what the TLB may hold now. */
static void freshen(struct bt_vcpu *vcpu, struct bt_runner *r)
{
	if (r->space != vcpu->cpu.space_now) {
		r->space = vcpu->cpu.space_now;
		r->stale = true;
	}
	if (r->stale) {
		r->stale = false;
		bt_user_revalidate(vcpu, r);
	}
	map_fault(vcpu, r);
}

bool bt_user_run(struct bt_vcpu *vcpu)
{
	struct bt_user *u = &vcpu->user;
	struct bt_runner *r = u->now;
	enum bt_runner_stop why;
	uint64_t address;

	/* ID is the one flag that ptrace(2) does not set. */
	if (!is_plain(vcpu) || (vcpu->cpu.s.rflags & X86_FL_ID) != r->id ||
	    u->thread != (pid_t)syscall(SYS_gettid))
		return false;
	look_for_what_tells(vcpu);
	freshen(vcpu, r);
	if (!r->ready || r->count == BT_USER_REGIONS) {
		give_up(vcpu, r);
		bt_context_update(vcpu);
		return false;
	}
	if (!u->force && !bt_worth_stopped(r))
		return false;
	/* Kernels return from faults with RF, which has no meaning where no breakpoint is set, and ends here. */
	vcpu->cpu.s.rflags &= ~(uint64_t)X86_FL_RF;
	r->used = u->ran_last = __rdtsc();
	bt_user_bind(vcpu, r);
	if (!load_runner(vcpu, r)) {
		lose(vcpu, r);
		return true;
	}
	do
		why = go(vcpu, r, &address);
	while (why == BT_RUNNER_FAULT && address != BT_USER_NOWHERE && bt_user_map(vcpu, r, address));
	if (why == BT_RUNNER_LOST)
		lose(vcpu, r);
	else
		stopped(vcpu, r, why, address);
	return true;
}
