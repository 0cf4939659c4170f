// SPDX-License-Identifier: Apache-2.0
/*
 * run.c - the loop of a vCPU: blocks one after another, and between them whatever is asked of it.
 *
 * bt_execute() is the hot part. It goes on until the request word is set or an instruction changed
 * something that bt_vcpu_run() has to look at (bt_must_look()).
 */
#include "engine/bt/bt_int.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "x86/insns.h"

/* MWAIT may end at any time; memory that another vCPU writes is looked at this often. */
#define BT_MWAIT_NS 1000000

/* How long a halted CPU is looked after before its thread sleeps. */
#define BT_POLL_MIN_NS	10000u
#define BT_POLL_MAX_NS	200000u
#define BT_POLL_LOOKS	16u
#define BT_POLL_LOST_NS 100000u
#define BT_POLL_REST_NS 20000000u

/* Between looks at a timer that was not due when it should have been: the machine's clock may stand still. */
#define BT_WAIT_AGAIN_NS 50000u

void bt_request(struct bt_vcpu *vcpu, uint32_t bits, bool wake)
{
	uint32_t old = atomic_fetch_or(&vcpu->request, bits);

	/* For native code. Behind the word: pairs with bt_take_requests(). */
	atomic_store(&vcpu->jit.limit, UINT64_MAX);
	if (wake && old & BT_REQ_SLEEPING)
		syscall(SYS_futex, &vcpu->request, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
	bt_user_interrupt(&vcpu->user);
}

static uint64_t bt_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* What ends a sleep. The sender of SYNC counts a sleeper as having acknowledged. */
static bool bt_is_woken(uint32_t word)
{
	return word & ~(BT_REQ_SLEEPING | BT_REQ_SYNC);
}

/*
 * A CPU that answers another one is woken within microseconds, which is less than it takes the host to put a
 * thread to sleep and to wake it: so a little time is spent looking.
 */
static bool bt_poll(struct bt_vcpu *vcpu, uint64_t start)
{
	const struct bt_poll *poll = &vcpu->poll;

	if (!poll->ns || start < poll->not_before)
		return false;
	do {
		for (unsigned i = 0; i < BT_POLL_LOOKS; i++) {
			if (bt_is_woken(atomic_load_explicit(&vcpu->request, memory_order_relaxed)))
				return true;
			__builtin_ia32_pause();
		}
	} while (bt_ns(CLOCK_MONOTONIC) - start < poll->ns);
	return false;
}

/* What looking was worth, or would have been: longer next time, or not at all. */
static void bt_poll_learn(struct bt_poll *poll, uint64_t slept_ns)
{
	if (slept_ns > BT_POLL_MAX_NS)
		poll->ns = 0;
	else if (slept_ns > poll->ns)
		poll->ns = MIN(MAX(2 * poll->ns, BT_POLL_MIN_NS), BT_POLL_MAX_NS);
}

/* Where the thread had to share its processor of the host since it woke up, the one that is to wake it may
 * be who waits for that: no looking for a while. */
static void bt_poll_share(struct bt_poll *poll, uint64_t now)
{
	uint64_t awake = now - poll->woke;
	uint64_t ran = bt_ns(CLOCK_THREAD_CPUTIME_ID) - poll->woke_cpu;

	if (awake > ran && awake - ran > BT_POLL_LOST_NS + awake / 16)
		poll->not_before = now + BT_POLL_REST_NS;
}

/* How long nothing but a request ends a sleep; what is due already becomes one here. */
static uint64_t bt_sleep_ns(const struct bt_vcpu *vcpu)
{
	struct engine_host *host = bt_engine_of(vcpu)->host;
	uint64_t ns = UINT64_MAX;

	if (host->ops->apic_timer && vcpu->cpu.s.activity == X86_HALTED)
		ns = host->ops->apic_timer(host, vcpu->base.index);
	if (vcpu->cpu.monitor_gpa != ~0ull)
		ns = MIN(ns, BT_MWAIT_NS);
	return ns;
}

static long bt_futex_wait(struct bt_vcpu *vcpu, uint32_t word, uint64_t ns)
{
	struct timespec timeout = { .tv_sec = (time_t)(ns / 1000000000u),
				    .tv_nsec = (long)(ns % 1000000000u) };

	return syscall(SYS_futex, &vcpu->request, FUTEX_WAIT_PRIVATE, word,
		       ns == UINT64_MAX ? NULL : &timeout, NULL, 0);
}

/* On the request word, until a request or the local APIC's timer. */
static void bt_wait(struct bt_vcpu *vcpu)
{
	bool timed = vcpu->cpu.monitor_gpa != ~0ull;
	uint64_t ns, least_ns = 0;
	uint32_t word = 0;
	long r = 0;

	if (!atomic_compare_exchange_strong(&vcpu->request, &word, BT_REQ_SLEEPING))
		return;
	bt_poll_share(&vcpu->poll, bt_ns(CLOCK_MONOTONIC));
	word = BT_REQ_SLEEPING;
	while (!bt_is_woken(word) && !(timed && r)) {
		ns = MAX(bt_sleep_ns(vcpu), least_ns);
		word = atomic_load(&vcpu->request);
		if (bt_is_woken(word))
			break;
		r = bt_futex_wait(vcpu, word, ns);
		word = atomic_load(&vcpu->request);
		least_ns = BT_WAIT_AGAIN_NS;
	}
	atomic_fetch_and(&vcpu->request, ~BT_REQ_SLEEPING);
	if (timed && !bt_is_woken(word))
		vcpu->cpu.s.activity = X86_RUNNING;
	vcpu->poll.woke = bt_ns(CLOCK_MONOTONIC);
	vcpu->poll.woke_cpu = bt_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* Until a request. */
static void bt_sleep(struct bt_vcpu *vcpu)
{
	uint64_t start = bt_ns(CLOCK_MONOTONIC);

	bt_count(&vcpu->stats.halts);
	bt_doing_set(&vcpu->stats, BT_DOING_HALT);
	bt_guest_leave(vcpu);
	bt_user_unbind(vcpu);
	if (!bt_poll(vcpu, start))
		bt_wait(vcpu);
	bt_poll_learn(&vcpu->poll, bt_ns(CLOCK_MONOTONIC) - start);
	bt_guest_enter(vcpu);
	bt_doing_set(&vcpu->stats, BT_DOING_LOOP);
}

/* An interrupt could be delivered at this boundary, flags and shadow permitting. */
static bool bt_irq_is_open(const struct bt_vcpu *vcpu)
{
	return vcpu->irq_waiting && vcpu->cpu.s.rflags & X86_FL_IF;
}

static bool bt_nmi_is_open(const struct bt_vcpu *vcpu)
{
	return vcpu->cpu.s.nmi_pending && !vcpu->cpu.s.nmi_masked;
}

/* Something that bt_execute() does not do itself. */
static bool bt_must_look(const struct bt_vcpu *vcpu)
{
	const struct x86_state *s = &vcpu->cpu.s;

	if (s->activity != X86_RUNNING || vcpu->cpu.debug_armed || s->rflags & X86_FL_RF)
		return true;
	if (bt_irq_is_open(vcpu) || bt_nmi_is_open(vcpu))
		return true;
	return s->exception_pending || s->interrupt_pending || vcpu->trace;
}

/* Nothing but privilege can have changed behind it, or what has said so by itself (tlb_switched() and the like). */
static bool bt_turns(const struct x86_insn *insn)
{
	return insn->exec == x86_op_iret || insn->exec == x86_op_invlpg ||
	       (insn->exec == x86_op_mov_cr_r && insn->reg == 3);
}

/* The block was left other than by a jump: @insn returned @result. False when the loop must end. */
static bool bt_left(struct bt_vcpu *vcpu, const struct x86_insn *insn, uint64_t rip, int result)
{
	struct x86_cpu *cpu = &vcpu->cpu;

	if (result == X86_FAULT)
		bt_deliver(vcpu, rip - insn->len, rip);
	else if (result == X86_REPEAT)
		cpu->s.rip = rip - insn->len;
	else if (bt_turns(insn))
		bt_context_turn(vcpu);
	else
		bt_context_update(vcpu);
	if (bt_must_look(vcpu))
		return false;
	/* Something may wait for the one instruction behind STI or MOV SS. */
	return !cpu->s.interrupt_shadow ||
	       !atomic_load_explicit(&vcpu->request, memory_order_relaxed);
}

/* The next block, or NULL: look again. */
static struct bt_block *bt_follow(struct bt_vcpu *vcpu)
{
	struct bt_block *next;
	bool again;

	if (unlikely(vcpu->user.wanted))
		return NULL; /* and there is a request */
	next = bt_block_find(vcpu, &again);
	if (!next && !again)
		bt_step(vcpu);
	return next;
}

/*
 * The same behind @block, which was interpreted at @rip in the same fetch context: in the same page, where nothing has
 * to be translated, it may remember what followed the last time. That lasts until anything is evicted.
 */
static struct bt_block *bt_followed(struct bt_vcpu *vcpu, struct bt_block *block, uint64_t rip)
{
	uint64_t to = vcpu->cpu.s.rip, gpa = (block->gpa & ~0xfffull) | (to & 0xfff), v;
	bool behind = to == rip + block->len;
	struct bt_block *next;

	if (block->translated || block->code_bytes != 8 || (to ^ rip) >> 12)
		return bt_follow(vcpu);
	/* Acquire: who made it may be another vCPU. */
	v = atomic_load_explicit(&block->follow[behind], memory_order_acquire);
	if (v && (uint32_t)v == vcpu->maps.evictions) {
		next = bt_block_at(vcpu, (uint32_t)(v >> 32));
		if (next->gpa == gpa && bt_block_is_trusted(next))
			return next;
	}
	next = bt_follow(vcpu);
	if (next && next->gpa == gpa && next->code_bytes == block->code_bytes &&
	    next->direct == block->direct)
		atomic_store_explicit(&block->follow[behind],
				      (uint64_t)bt_block_offset(bt_engine_of(vcpu)->cache, next) << 32 |
					      vcpu->maps.evictions,
				      memory_order_release);
	return next;
}

/* Relaxed: whoever sets a request wants to be noticed soon, and what it carries is read after
 * the word is taken in bt_take_requests(). */
static bool bt_is_requested(const struct bt_vcpu *vcpu)
{
	return unlikely(atomic_load_explicit(&vcpu->request, memory_order_relaxed));
}

/* Interpret @block. False: the loop must end. */
static bool bt_interpret(struct bt_vcpu *vcpu, struct bt_block **ret_next)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct bt_block *block = *ret_next;
	const struct x86_insn *first = bt_block_decoded(vcpu, block), *insn = first;
	uint64_t start = cpu->s.rip, rip = start;
	uint32_t epoch = vcpu->epoch;
	int result;

	if (bt_count_is_due(vcpu, block->count + 1u))
		return false;
	bt_count(&vcpu->stats.interpreted);
	bt_doing_set(&vcpu->stats, BT_DOING_INTERPRET);
	vcpu->current = block;
	vcpu->count.block = block;
	vcpu->count.at = BT_COUNT_INTERPRETING;
	cpu->s.interrupt_shadow = 0;
	do {
		rip += insn->len;
		cpu->s.rip = rip;
		/* It may be poisoned by another vCPU. */
		result = __atomic_load_n(&insn->exec, __ATOMIC_RELAXED)(cpu, insn);
		insn++;
	} while (result == X86_NEXT);
	vcpu->count.at = BT_COUNT_BETWEEN;
	/* The end mark is no instruction. */
	bt_count_add(&vcpu->stats.insns, MIN((unsigned)(insn - first) -
						     !bt_is_retired(cpu, result), block->count));
	if (unlikely(result != X86_JUMP)) {
		if (!bt_left(vcpu, insn - 1, rip, result))
			return false;
		*ret_next = bt_follow(vcpu);
		if (unlikely(cpu->s.interrupt_shadow))
			return true;
	} else {
		*ret_next = epoch == vcpu->epoch ? bt_followed(vcpu, block, start) : bt_follow(vcpu);
	}
	return !bt_is_requested(vcpu);
}

/*
 * RF keeps a breakpoint on the next instruction from being hit again, and is clear behind it. Where none is
 * armed nothing tells that it was clear before: instructions do not see it, save those that are events
 * themselves, or IRET; what faults sets it again, and so does a repeated one that gives way. An interrupt that
 * comes first does: so that instruction has to be executed without another look for requests.
 */
static bool bt_uses_up_rf(struct bt_vcpu *vcpu, const struct bt_block *block)
{
	if (vcpu->cpu.debug_armed || vcpu->trace || vcpu->count.on || vcpu->cpu.by_the_book ||
	    block->count < 2) /* the first may be one that ends a block */
		return false;
	vcpu->cpu.s.rflags &= ~(uint64_t)X86_FL_RF;
	return true;
}

/* With RF set, behind the look for what is to be delivered. False: nothing was done. */
static bool bt_resume(struct bt_vcpu *vcpu)
{
	struct bt_block *block;
	bool again;

	if (vcpu->cpu.by_the_book || vcpu->cpu.s.interrupt_shadow)
		return false;
	block = bt_block_find(vcpu, &again);
	if (!block || !bt_uses_up_rf(vcpu, block))
		return again;
	vcpu->stepping = false;
	(void)bt_interpret(vcpu, &block);
	return true;
}

/* The same from native code: where its handler was to go on at, or 0. The look for requests that an entry makes
 * is made here. */
static uintptr_t bt_native_resume(struct bt_vcpu *vcpu)
{
	struct x86_state *s = &vcpu->cpu.s;
	const struct bt_block *block = bt_map_find(vcpu);

	if (!(s->rflags & X86_FL_RF) || s->interrupt_shadow || !block || !block->code ||
	    atomic_load_explicit(&vcpu->jit.limit, memory_order_relaxed) == UINT64_MAX ||
	    !bt_uses_up_rf(vcpu, block))
		return 0;
	if (bt_must_look(vcpu)) {
		s->rflags |= X86_FL_RF;
		return 0;
	}
	return (uintptr_t)vcpu->jit.exec + block->code + (uintptr_t)block->native.next;
}

/* Where an indirect branch to RIP would go without a look at anything else, or 0. It finds requests there. */
static uintptr_t bt_native_target(const struct bt_vcpu *vcpu)
{
	uint64_t rip = vcpu->cpu.s.rip;
	const struct bt_jit_target *at = &vcpu->jit.map[jit_map_index(rip)];

	return at->rip == rip && at->epoch == vcpu->epoch && !vcpu->cpu.s.interrupt_shadow ?
		       at->code : 0;
}

uintptr_t bt_native_next(struct bt_vcpu *vcpu)
{
	struct bt_jit *jit = &vcpu->jit;
	bool left = jit->result != X86_NEXT && jit->result != X86_JUMP;
	uintptr_t target;

	jit->found = NULL;
	jit->more = !left || bt_left(vcpu, jit->insn, jit->next, jit->result);
	if (!jit->more)
		return bt_native_resume(vcpu);
	target = bt_native_target(vcpu);
	if (target)
		return target;
	jit->found = bt_follow(vcpu);
	jit->more = (left && vcpu->cpu.s.interrupt_shadow) || !bt_is_requested(vcpu);
	if (!jit->found || !jit->found->code || vcpu->cpu.s.interrupt_shadow)
		return 0;
	if (jit->result != X86_NEXT)
		bt_jit_note_target(vcpu, jit->found);
	return jit->more && bt_block_is_trusted(jit->found) ?
		       (uintptr_t)jit->exec + jit->found->code : 0;
}

/* Run native code from @block on. False: the loop must end. */
static bool bt_native(struct bt_vcpu *vcpu, struct bt_block **ret_next)
{
	enum bt_jit_exit why;
	struct bt_block *next;

	bt_count(&vcpu->stats.entries);
	bt_doing_set(&vcpu->stats, BT_DOING_NATIVE);
	why = bt_jit_run(vcpu, *ret_next);
	bt_count(&vcpu->stats.exits[why]);
	bt_doing_set(&vcpu->stats, BT_DOING_LOOP);
	switch (why) {
	case BT_JIT_REQUEST:
		return false;
	case BT_JIT_HANDLER:
		*ret_next = vcpu->jit.found;
		return vcpu->jit.more;
	case BT_JIT_ENTERED:
		*ret_next = vcpu->jit.exit_ptr;
		return bt_interpret(vcpu, ret_next);
	case BT_JIT_LINK:
	case BT_JIT_STALE:
	case BT_JIT_RIP:
		break;
	}
	next = bt_follow(vcpu);
	if (next) {
		if (why == BT_JIT_LINK)
			bt_jit_link(vcpu, vcpu->jit.exit_ptr, next);
		else if (why == BT_JIT_STALE)
			bt_jit_replace(vcpu, vcpu->jit.exit_ptr, next);
		else if (why == BT_JIT_RIP && next->code && vcpu->cpu.cpl == 3)
			bt_jit_note_back(vcpu, next);
		else if (why == BT_JIT_RIP && next->code)
			bt_jit_note_target(vcpu, next);
	}
	*ret_next = next;
	return !bt_is_requested(vcpu);
}

/* It was executed once more: translated, when it was interpreted often enough. */
static struct bt_block *bt_heat(struct bt_vcpu *vcpu, struct bt_block *block)
{
	uint32_t runs = atomic_load_explicit(&block->runs, memory_order_relaxed);

	if (block->code || !vcpu->jit.on || runs > vcpu->jit.threshold)
		return block;
	/* Others may be counting, too: about will do. */
	atomic_store_explicit(&block->runs, ++runs, memory_order_relaxed);
	if (runs <= vcpu->jit.threshold)
		return block;
	if (!bt_block_is_trusted(block)) {
		atomic_store_explicit(&block->runs, 0, memory_order_relaxed);
		return block;
	}
	bt_doing_set(&vcpu->stats, BT_DOING_TRANSLATE);
	block = bt_block_translate(vcpu, block);
	bt_doing_set(&vcpu->stats, BT_DOING_LOOP);
	return block;
}

/*
 * Requests are looked at before each block, save the first one and one in the shadow of STI or
 * MOV SS: an interrupt must not come between STI and HLT. With nothing known to be held back the
 * shadow may as well cover that whole block.
 */
static void bt_execute(struct bt_vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct bt_block *block = bt_follow(vcpu);
	bool more = true;

	while (more) {
		if (likely(block))
			block = bt_heat(vcpu, block);
		if (unlikely(!block)) {
			if (bt_must_look(vcpu) || bt_is_requested(vcpu) || bt_count_is_due(vcpu, 1))
				return;
			block = bt_follow(vcpu);
		} else if (block->code && !cpu->s.interrupt_shadow && bt_block_is_trusted(block)) {
			more = bt_native(vcpu, &block);
		} else {
			more = bt_interpret(vcpu, &block);
		}
	}
}

static void bt_do_init(struct bt_vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;

	/* The boot processor starts over, the others wait to be told where. */
	x86_state_init(&cpu->s);
	cpu->s.activity = vcpu->base.index == 0 ? X86_RUNNING : X86_WAIT_SIPI;
	x86_cpu_sync(cpu);
	bt_context_flush(vcpu);
}

static void bt_do_sipi(struct bt_vcpu *vcpu, uint8_t vector)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct x86_segment *cs = &cpu->s.seg[X86_CS];

	if (cpu->s.activity != X86_WAIT_SIPI)
		return;
	cs->selector = (uint16_t)(vector << 8);
	cs->base = (uint64_t)vector << 12;
	cpu->s.rip = 0;
	cpu->s.activity = X86_RUNNING;
	x86_cpu_sync(cpu);
	bt_context_flush(vcpu);
}

/* False: leave the run, kicked. */
static bool bt_take_requests(struct bt_vcpu *vcpu)
{
	uint32_t request;

	/* The limit before the word: a request that comes in between is taken here or seen there. */
	atomic_store(&vcpu->jit.limit, vcpu->jit.stack_limit);
	request = atomic_exchange(&vcpu->request, 0);

	if (request & BT_REQ_SYNC)
		bt_sync_drain(vcpu);
	if (request & BT_REQ_IRQ)
		vcpu->irq_waiting = true;
	if (request & BT_REQ_NMI)
		vcpu->cpu.s.nmi_pending = true;
	if (request & BT_REQ_UNHALT)
		vcpu->unhalted = true;
	if (request & BT_REQ_INIT)
		bt_do_init(vcpu);
	if (request & BT_REQ_SIPI)
		bt_do_sipi(vcpu, (uint8_t)atomic_load(&vcpu->sipi_vector));
	return !(request & BT_REQ_KICK);
}

/* What a restored state holds accepted but not delivered. */
static void bt_deliver_restored(struct bt_vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;

	if (cpu->s.exception_pending) {
		cpu->s.exception_pending = false;
		cpu->fault = (struct x86_fault){
			.vector = cpu->s.exception_vector,
			.has_error = cpu->s.exception_has_error,
			.error = cpu->s.exception_error,
			.payload = cpu->s.exception_payload,
		};
		bt_deliver(vcpu, cpu->s.rip, cpu->s.rip);
	} else {
		cpu->s.interrupt_pending = false;
		x86_deliver_interrupt(cpu, cpu->s.interrupt_vector);
		bt_context_update(vcpu);
	}
}

/* Deliver what is open. False when nothing was. */
static bool bt_deliver_open(struct bt_vcpu *vcpu)
{
	struct engine_host *host = bt_engine_of(vcpu)->host;
	struct x86_cpu *cpu = &vcpu->cpu;
	int vector;

	if (bt_nmi_is_open(vcpu)) {
		cpu->s.nmi_pending = false;
		cpu->s.activity = X86_RUNNING;
		x86_deliver_nmi(cpu);
		bt_context_update(vcpu);
		return true;
	}
	if (!bt_irq_is_open(vcpu))
		return false;
	/* Asked again after each delivery: when the handler returns, the next may be due. */
	vector = host->ops->apic_ack(host, vcpu->base.index);
	if (vector < 0) {
		vcpu->irq_waiting = false;
		return false;
	}
	cpu->s.activity = X86_RUNNING;
	if (!bt_user_sample(vcpu))
		bt_direct_sample(vcpu);
	bt_count(&vcpu->stats.interrupts);
	bt_doing_set(&vcpu->stats, BT_DOING_DELIVER);
	x86_deliver_interrupt(cpu, (uint8_t)vector);
	bt_doing_set(&vcpu->stats, BT_DOING_LOOP);
	bt_context_turn(vcpu);
	return true;
}

enum engine_exit bt_vcpu_run(struct engine_vcpu *base)
{
	struct bt_vcpu *vcpu = (struct bt_vcpu *)base;
	struct x86_cpu *cpu = &vcpu->cpu;
	struct x86_state *s = &cpu->s;
	enum engine_exit leave = ENGINE_EXIT_KICK;
	bool near;

	bt_jit_thread(vcpu);
	(void)prctl(PR_SET_TIMERSLACK, 1); /* for bt_wait(); 50 us else */
	bt_guest_enter(vcpu);
	for (;;) {
		if ((atomic_load_explicit(&vcpu->request, memory_order_relaxed) ||
		     atomic_load_explicit(&vcpu->jit.limit, memory_order_relaxed) == UINT64_MAX) &&
		    !bt_take_requests(vcpu))
			break;
		if (s->activity == X86_SHUTDOWN) {
			leave = ENGINE_EXIT_SHUTDOWN;
			break;
		}
		if (s->activity == X86_WAIT_SIPI) {
			bt_sleep(vcpu);
			continue;
		}
		near = vcpu->count.on && bt_count_is_near(vcpu);
		if (vcpu->count.on && bt_is_requested(vcpu))
			continue;
		if (s->exception_pending || s->interrupt_pending) {
			bt_deliver_restored(vcpu);
			continue;
		}
		if (!s->interrupt_shadow && bt_deliver_open(vcpu))
			continue;
		if (s->activity == X86_HALTED) {
			s->interrupt_shadow = 0;
			if (vcpu->unhalted) {
				vcpu->unhalted = false;
				s->activity = X86_RUNNING;
				continue;
			}
			if (!bt_irq_is_open(vcpu) && !bt_nmi_is_open(vcpu) && !bt_count_skip(vcpu))
				bt_sleep(vcpu);
			continue;
		}
		if (vcpu->user.wanted) {
			if (!s->interrupt_shadow && bt_user_run(vcpu))
				continue;
			vcpu->user.wanted = false;
		}
		if (s->rflags & X86_FL_RF && bt_resume(vcpu))
			continue;
		vcpu->stepping = cpu->debug_armed || s->rflags & X86_FL_RF || vcpu->trace;
		if (vcpu->stepping || near ||
		    (s->interrupt_shadow && (bt_irq_is_open(vcpu) || bt_nmi_is_open(vcpu)))) {
			bt_step(vcpu);
			continue;
		}
		bt_execute(vcpu);
	}
	bt_user_unbind(vcpu);
	bt_guest_leave(vcpu);
	bt_doing_set(&vcpu->stats, BT_DOING_OUTSIDE);
	return leave;
}
