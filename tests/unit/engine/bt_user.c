// SPDX-License-Identifier: Apache-2.0
/*
 * bt_user.c - processes that execute user code as it is: what stops them, and that nothing else comes of it; which
 * instructions are found before they are executed.
 */
#include <check.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "engine/bt/bt_int.h"

#define CODE 0x400000u
#define CODE_BYTES 4096u

struct fixture {
	struct bt_engine engine;
	struct bt_vcpu *vcpu;
	struct bt_runner runner;
	uint8_t *ram;
};

static struct fixture f;

static void set_up(void)
{
	int fd = memfd_create("ram", 0);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, CODE_BYTES), 0);
	f.ram = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	f.engine = (struct bt_engine){ .ram_count = 1,
				       .ram[0] = { .size = CODE_BYTES, .hva = f.ram, .fd = fd } };
	f.vcpu = calloc(1, sizeof(*f.vcpu));
	f.runner = (struct bt_runner){ 0 };
	ck_assert_int_eq(bt_runner_begin(&f.runner, &f.engine), 0);
}

static void tear_down(void)
{
	bt_runner_end(&f.runner);
	munmap(f.ram, CODE_BYTES);
	close(f.engine.ram[0].fd);
	free(f.vcpu);
}

/* @code where the runner will find it, and RIP there. */
static void put_code(const void *code, size_t len)
{
	const struct bt_user_call map = {
		SYS_mmap, { CODE, CODE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_FIXED, 1, 0 }
	};

	memset(f.ram, 0xf4, CODE_BYTES); /* HLT */
	memcpy(f.ram, code, len);
	ck_assert(bt_runner_call(&f.runner, &map));
	*f.runner.regs = (struct user_regs_struct){ .rip = CODE, .cs = 0x33, .ss = 0x2b, .eflags = 0x202 };
}

static enum bt_runner_stop go(uint64_t *ret_address)
{
	return bt_runner_go(&f.runner, f.vcpu, &f.vcpu->user.running, ret_address);
}

static bool is_alive(void)
{
	return f.runner.pid && kill(f.runner.pid, 0) == 0;
}

/* ---- stops ---- */

/* exit(2) in all its forms: were it executed, there would be no runner any more. */
static const struct {
	const char *name;
	uint8_t code[2];
	uint64_t number;
	bool may_be_undefined;
} calls[] = {
	{ "SYSCALL", { 0x0f, 0x05 }, SYS_exit_group, false },
	{ "INT 80H", { 0xcd, 0x80 }, 1, true },
	{ "SYSENTER", { 0x0f, 0x34 }, 1, true },
};

START_TEST(test_system_calls_are_not_executed)
{
	enum bt_runner_stop why;
	uint64_t address;

	put_code(calls[_i].code, 2);
	f.runner.regs->rax = calls[_i].number;
	f.runner.regs->rbx = 77;
	why = go(&address);
	ck_assert_msg(is_alive(), "%s", calls[_i].name);
	if (why == BT_RUNNER_FAULT && calls[_i].may_be_undefined)
		return;
	ck_assert_int_eq(why, BT_RUNNER_SYSCALL);
	ck_assert_uint_eq(f.runner.regs->rax, calls[_i].number);
	ck_assert_uint_eq(f.runner.regs->rbx, 77);
	if (_i == 0)
		ck_assert_uint_eq(f.runner.regs->rip, CODE + 2);
}
END_TEST

/* Where user code would map itself what it was not given, had it the key. */
#define STOLEN (CODE + 0x10000u)

static void put_stolen_list(uint64_t key)
{
	const struct bt_user_call map = {
		SYS_mmap, { STOLEN, CODE_BYTES, PROT_READ, MAP_SHARED | MAP_FIXED, 1 | key, 0 }
	};

	f.runner.area->stop = 0;
	f.runner.area->call[0] = map;
	f.runner.area->call[1].number = ~0ull;
	f.runner.area->frame = (struct bt_user_frame){
		.rip = CODE + 2, .cs = 0x33, .ss = 0x2b, .rflags = 0x202
	};
}

static bool is_mapped(uint64_t linear)
{
	uint64_t address;

	put_code("\x8a\x03\xf4", 3); /* MOV AL, [RBX]; HLT */
	f.runner.regs->rbx = linear;
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
	return address != linear;
}

static void renew_runner(void)
{
	bt_runner_end(&f.runner);
	f.runner = (struct bt_runner){ 0 };
	ck_assert_int_eq(bt_runner_begin(&f.runner, &f.engine), 0);
}

/* User code jumps to each byte of the stub, with the registers that a list would have, all but the key, and a list of its
 * own: no system call is executed, and it is known that it was there. */
START_TEST(test_stub_is_dead_for_the_guest)
{
	static const uint64_t keys[] = { 0, 1ull << 32, ~0ull << 32 };
	const uint64_t stub = BT_USER_STUB_LINEAR + 256, area = BT_USER_STUB_LINEAR + 4096;
	enum bt_runner_stop why;
	uint64_t address;

	for (uint32_t at = 0; at < bt_user_stub_bytes; at++) {
		struct user_regs_struct *regs = f.runner.regs;

		put_code("\xff\xe5\xf4", 3); /* JMP RBP; HLT */
		ck_assert_int_eq(go(&address), BT_RUNNER_FAULT); /* mapped by now, and the list is done */
		*regs = (struct user_regs_struct){
			.rip = CODE, .cs = 0x33, .ss = 0x2b, .eflags = 0x202, .rbp = stub + at, .rsp = area,
			.rbx = area + offsetof(struct bt_user_area, call), .r12 = keys[_i],
			.rax = SYS_mmap, .rdi = STOLEN, .rsi = CODE_BYTES, .rdx = PROT_READ,
			.r10 = MAP_SHARED | MAP_FIXED, .r8 = 1 | keys[_i],
		};
		put_stolen_list(keys[_i]);
		why = go(&address);
		ck_assert_msg(why == BT_RUNNER_STRAY || why == BT_RUNNER_FAULT || why == BT_RUNNER_INT3 || why == BT_RUNNER_INT1 ||
			      why == BT_RUNNER_SYSCALL, "%u: %d", at, why);
		ck_assert(is_alive());
		ck_assert_msg(!is_mapped(STOLEN), "%u", at);
		if (why == BT_RUNNER_STRAY)
			renew_runner();
	}
}
END_TEST

/* With the key it would be: the test above can fail. */
START_TEST(test_key_opens)
{
	uint64_t address;

	put_code("\xff\xe5\xf4", 3);
	(void)go(&address);
	f.runner.regs->rip = CODE;
	f.runner.regs->rbp = BT_USER_STUB_LINEAR + 256 + bt_user_stub_list_at;
	f.runner.regs->rsp = BT_USER_STUB_LINEAR + 4096;
	f.runner.regs->rbx = f.runner.regs->rsp + offsetof(struct bt_user_area, call);
	f.runner.regs->r12 = f.runner.key;
	put_stolen_list(0);
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
	ck_assert(is_mapped(STOLEN));
}
END_TEST

/* What user code finds in the page that it shares with us: neither lists nor the key. */
START_TEST(test_list_is_wiped)
{
	struct bt_user_area *area = f.runner.area;
	uint64_t address;

	put_code("\xf4", 1);
	for (unsigned i = 0; i < 50; i++)
		ck_assert(bt_runner_call(&f.runner, &(struct bt_user_call){ SYS_munmap, { STOLEN, CODE_BYTES } }));
	f.runner.regs->r12 = 12;
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
	for (unsigned i = 0; i < 51; i++)
		for (size_t b = 0; b < sizeof(area->call[0]); b++)
			ck_assert_msg(((uint8_t *)&area->call[i])[b] == 0, "call %u", i);
	ck_assert_ptr_null(memmem(area, sizeof(*area), (uint8_t *)&f.runner.key + 4, 4));
	bt_runner_wipe(&f.runner);
	for (size_t b = 0; b < sizeof(*area); b++)
		ck_assert_uint_eq(((uint8_t *)area)[b], 0);
}
END_TEST

START_TEST(test_nothing_else_is_mapped)
{
	static const uint64_t places[] = { 0x1000, 0x10000, 0x555555554000, 0x7ffff7fc0000, 0x7ffffffde000 };
	uint64_t address;

	put_code("\x8a\x03", 2); /* MOV AL, [RBX] */
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		f.runner.regs->rip = CODE;
		f.runner.regs->rbx = places[i];
		ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
		ck_assert_uint_eq(address, places[i]);
		ck_assert_uint_eq(f.runner.regs->rip, CODE);
	}
}
END_TEST

START_TEST(test_faults)
{
	uint64_t address;

	put_code("\xf4", 1); /* HLT */
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
	ck_assert_uint_eq(address, BT_USER_NOWHERE);
	put_code("\x0f\x0b", 2); /* UD2 */
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
	put_code("\xf7\xf1", 2); /* DIV ECX */
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
	ck_assert_uint_eq(f.runner.regs->rip, CODE);
	put_code("\xcc", 1);
	ck_assert_int_eq(go(&address), BT_RUNNER_INT3);
	ck_assert_uint_eq(f.runner.regs->rip, CODE + 1);
	put_code("\xf1", 1);
	ck_assert_int_eq(go(&address), BT_RUNNER_INT1);
	ck_assert_uint_le(f.runner.regs->rip, CODE + 1);
	put_code("\x90\xcc", 2);
	f.runner.regs->eflags |= 0x100;
	ck_assert_int_eq(go(&address), BT_RUNNER_STEP);
	ck_assert_uint_eq(f.runner.regs->rip, CODE + 1);
	/* What INT3 does comes before the step: the handler is entered without TF. */
	ck_assert_int_eq(go(&address), BT_RUNNER_INT3);
	ck_assert_uint_eq(f.runner.regs->rip, CODE + 2);
}
END_TEST

/* Whatever the host has there. */
START_TEST(test_vsyscalls_are_not_emulated)
{
	static const uint64_t places[] = { 0xffffffffff600000, 0xffffffffff600400, 0xffffffffff600800 };
	struct user_regs_struct *regs = f.runner.regs;
	uint64_t address;

	put_code("\xff\xd3", 2); /* CALL RBX */
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		regs->rip = CODE;
		regs->rbx = places[i];
		regs->rdi = CODE + 0x100; /* where the time would be written */
		regs->rsp = CODE + CODE_BYTES;
		ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
		ck_assert_uint_eq(address, places[i]);
		ck_assert_uint_eq(regs->rip, places[i]);
		ck_assert_uint_eq(regs->rsp, CODE + CODE_BYTES - 8);
		ck_assert_uint_eq(f.ram[0x100], 0xf4);
		/* And it goes on wherever it is sent. */
		regs->rip = CODE + 0x200;
		ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
		ck_assert_uint_eq(regs->rip, CODE + 0x200);
		ck_assert(is_alive());
	}
}
END_TEST

START_TEST(test_watched_instruction_is_not_executed)
{
	uint64_t address;

	put_code("\xff\xc3\x0f\xa2", 4); /* INC EBX; CPUID */
	f.runner.watch[3] = CODE + 2;
	ck_assert(bt_runner_watch(&f.runner));
	ck_assert_int_eq(go(&address), BT_RUNNER_WATCH);
	ck_assert_uint_eq(f.runner.regs->rip, CODE + 2);
	ck_assert_uint_eq(f.runner.regs->rbx, 1);
	f.runner.watch[3] = 0;
	ck_assert(bt_runner_watch(&f.runner));
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT); /* HLT, behind */
	ck_assert_uint_eq(f.runner.regs->rip, CODE + 4);
}
END_TEST

static void *interrupt(void *arg)
{
	struct bt_vcpu *vcpu = arg;

	while (!atomic_load(&vcpu->user.running))
		;
	atomic_fetch_or(&vcpu->request, BT_REQ_IRQ);
	bt_user_interrupt(&vcpu->user);
	return NULL;
}

/* What is left of the signal of a request that was seen before is a stop, too. */
static void go_until_requested(void)
{
	uint64_t address;

	do
		ck_assert_int_eq(go(&address), BT_RUNNER_REQUEST);
	while (!atomic_load(&f.vcpu->request));
}

START_TEST(test_request_ends_a_loop)
{
	pthread_t thread;
	uint64_t address;

	put_code("\xeb\xfe", 2);
	for (int i = 0; i < 200; i++) {
		atomic_store(&f.vcpu->request, 0);
		ck_assert_int_eq(pthread_create(&thread, NULL, interrupt, f.vcpu), 0);
		go_until_requested();
		ck_assert_uint_eq(f.runner.regs->rip, CODE);
		pthread_join(thread, NULL);
	}
	/* One that is there already: it does not even begin. */
	ck_assert_int_eq(go(&address), BT_RUNNER_REQUEST);
}
END_TEST

/* A busy host lets the guest go to several address spaces between two runs. */
START_TEST(test_dropped_twice_is_dropped)
{
	struct bt_user_region *region[] = { calloc(1, 1) };
	uint64_t address;

	put_code("\xf4", 1);
	f.runner.region = region;
	f.runner.count = 1;
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
	ck_assert_uint_eq(address, BT_USER_NOWHERE);
	bt_user_drop(&f.runner);
	bt_user_drop(&f.runner);
	f.runner.regs->rip = CODE;
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
	ck_assert_uint_eq(address, CODE);
	f.runner.region = NULL;
}
END_TEST

/* ---- requests while the stub is at its list ---- */

static const struct user_regs_struct given_regs = {
	.rip = CODE, .cs = 0x33, .ss = 0x2b, .eflags = 0x202 | 0x8d5, .rax = 1, .rbx = 2, .rcx = 3,
	.rdx = 4, .rsi = 5, .rdi = 6, .rbp = 7, .rsp = 8, .r8 = 9, .r9 = 10, .r10 = 11, .r11 = 12,
	.r12 = 13, .r13 = 14, .r14 = 15, .r15 = 0,
};

/* Code that counts in R15, behind a list of @count calls. */
static void put_list(unsigned count)
{
	put_code("\x4d\x8d\x7f\x01\xeb\xfa", 6); /* LEA R15, [R15 + 1]; JMP back */
	for (unsigned n = 0; n < count; n++)
		ck_assert(bt_runner_call(&f.runner, &(struct bt_user_call){
			SYS_munmap, { STOLEN, CODE_BYTES } }));
	*f.runner.regs = given_regs;
	atomic_store(&f.vcpu->request, 0);
}

/* The list is done, and registers are those that were given, or those behind a count or more. How many. */
static uint64_t check_behind_list(void)
{
	struct user_regs_struct now = *f.runner.regs;
	const uint64_t count = now.r15;

	ck_assert(now.rip == CODE || now.rip == CODE + 4);
	now.rip = given_regs.rip;
	now.r15 = given_regs.r15;
	now.eflags &= ~0x10000ull; /* RF, as interrupts leave it */
	now.orig_rax = given_regs.orig_rax;
	for (size_t w = 0; w < sizeof(now) / 8; w++)
		ck_assert_msg(((uint64_t *)&now)[w] == ((const uint64_t *)&given_regs)[w],
			      "word %zu: %lx, not %lx", w, ((uint64_t *)&now)[w],
			      ((const uint64_t *)&given_regs)[w]);
	ck_assert_uint_eq(f.runner.calls, 0);
	return count;
}

/* They come at any moment, and none is lost. */
START_TEST(test_request_while_mapping)
{
	unsigned early = 0, listed;
	pthread_t thread;

	for (unsigned i = 0; i < 400; i++) {
		put_list(i);
		listed = f.runner.calls;
		ck_assert_int_eq(pthread_create(&thread, NULL, interrupt, f.vcpu), 0);
		go_until_requested();
		pthread_join(thread, NULL);
		/* So soon that it did not even begin: all is as it was, and the list is for the next time. */
		if (f.runner.calls) {
			ck_assert_uint_eq(f.runner.calls, listed);
			ck_assert_uint_eq(f.runner.regs->rip, CODE);
			f.runner.calls = 0;
		}
		early += check_behind_list() == 0;
	}
	printf("%u of 400 requests came before user code did anything\n", early);
}
END_TEST

/* A runner that is to go on goes @steps instructions, and is asked to stop there. */
static struct {
	bool armed;
	unsigned steps;
	uint64_t rip; /* where it was asked */
} ask;

long __real_ptrace(enum __ptrace_request request, ...);
long __wrap_ptrace(enum __ptrace_request request, pid_t pid, void *address, void *data);

static void ask_after_steps(pid_t pid)
{
	struct user_regs_struct regs;
	int status;

	ask.armed = false;
	for (unsigned n = 0; n < ask.steps; n++) {
		ck_assert_int_eq(__real_ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		ck_assert_int_eq(waitpid(pid, &status, __WALL), pid);
		ck_assert(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
	}
	ck_assert_int_eq(__real_ptrace(PTRACE_GETREGS, pid, NULL, &regs), 0);
	ask.rip = regs.rip;
	bt_runner_interrupt(pid);
}

/* Linked in place of ptrace(2), so that a request can be put between any two instructions. */
long __wrap_ptrace(enum __ptrace_request request, pid_t pid, void *address, void *data)
{
	if (request == PTRACE_CONT && ask.armed)
		ask_after_steps(pid);
	return __real_ptrace(request, pid, address, data);
}

/* One that comes between the stub's look at @stop and its last instruction was lost once. */
START_TEST(test_request_at_each_instruction)
{
	uint64_t address;

	for (ask.steps = 0; ask.steps < 4 || ask.rip - BT_USER_STUB_LINEAR < 4096; ask.steps++) {
		put_list(1);
		ask.armed = true;
		ck_assert_int_eq(go(&address), BT_RUNNER_REQUEST);
		check_behind_list();
	}
	/* Two calls of nine instructions, and what follows. */
	ck_assert_uint_gt(ask.steps, 40);
	ck_assert_uint_eq(ask.rip, CODE);
}
END_TEST

/* Whatever the stub uses is as it was given when user code begins. */
START_TEST(test_registers_behind_a_list)
{
	struct user_regs_struct *regs = f.runner.regs, given;
	uint64_t *word = (uint64_t *)&given, address;

	put_code("\x0f\x0b", 2); /* UD2 */
	memset(&given, 0, sizeof(given));
	for (size_t i = 0; i < 15; i++) /* R15 to RDI */
		word[i] = 0x1234567800000000ull * (i + 1) + i;
	given.rsp = 0xdeadbeef12345678ull;
	given.rip = CODE;
	given.cs = 0x33;
	given.ss = 0x2b;
	given.eflags = 0x202 | 0xcd5; /* DF, too */
	given.fs_base = 0x123456789000;
	given.gs_base = 0x567812340000;
	*regs = given;
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
	regs->orig_rax = given.orig_rax;
	regs->eflags &= ~0x10000ull; /* RF */
	ck_assert_mem_eq(regs, &given, sizeof(given));
	/* A place where IRETQ does not go: the fault is user code's own. */
	put_code("\x0f\x0b", 2);
	given.rip = 0x8000000000000000ull;
	*regs = given;
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
	ck_assert_uint_eq(address, BT_USER_NOWHERE);
	regs->orig_rax = given.orig_rax;
	ck_assert_mem_eq(regs, &given, sizeof(given));
}
END_TEST

/* The host refuses: nothing of user code was executed. */
START_TEST(test_list_that_fails)
{
	uint64_t address;

	put_code("\x0f\x0b", 2);
	ck_assert(bt_runner_call(&f.runner, &(struct bt_user_call){ SYS_munmap, { 1, CODE_BYTES } }));
	f.runner.regs->r12 = 12;
	ck_assert_int_eq(go(&address), BT_RUNNER_FULL);
	ck_assert_uint_eq(f.runner.regs->rip, CODE);
	ck_assert_uint_eq(f.runner.regs->r12, 12);
}
END_TEST

static void *murder(void *arg)
{
	struct bt_vcpu *vcpu = arg;
	pid_t pid;

	while (!(pid = atomic_load(&vcpu->user.running)))
		;
	kill(pid, SIGKILL);
	return NULL;
}

START_TEST(test_killed_runner_is_noticed)
{
	pthread_t thread;
	uint64_t address;

	put_code("\xeb\xfe", 2);
	ck_assert_int_eq(pthread_create(&thread, NULL, murder, f.vcpu), 0);
	ck_assert_int_eq(go(&address), BT_RUNNER_LOST);
	pthread_join(thread, NULL);
	bt_runner_end(&f.runner); /* of which nothing is left, or what a runner killed before it went leaves */
	ck_assert_int_eq(f.runner.pid, 0);
}
END_TEST

START_TEST(test_vectors_in_and_out)
{
	static struct x86_fpu fpu, back;
	struct xsave_layout layout;
	uint64_t address;

	put_code("\x66\x0f\xfe\xc1\x0f\x05", 6); /* PADDD XMM0, XMM1; SYSCALL */
	xsave_layout(&layout, f.runner.xstate_bytes);
	fpu = (struct x86_fpu){ .fcw = 0x37f, .mxcsr = 0x1f80 };
	for (unsigned r = 0; r < 16; r++)
		memset(fpu.vec[r], (int)(r + 1), layout.at[2] ? 32 : 16);
	ck_assert(bt_runner_set_fpu(&f.runner, &layout, &fpu));
	ck_assert_int_eq(go(&address), BT_RUNNER_SYSCALL);
	ck_assert(bt_runner_get_fpu(&f.runner, &layout, &back));
	memset(fpu.vec[0], 3, 16);
	ck_assert_mem_eq(&back, &fpu, sizeof(fpu));
}
END_TEST

/* 0: an error, and nothing left behind. */
static int begin_where_forbidden(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ptrace, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog filter = { ARRAY_SIZE(code), code };
	struct bt_runner runner = { 0 };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
		return 1;
	if (bt_runner_begin(&runner, &f.engine) >= 0 || runner.pid || runner.area)
		return 2;
	return waitpid(-1, NULL, __WALL | WNOHANG) == -1 ? 0 : 3;
}

/* As in a container that forbids ptrace(2). In a process that ends without what a leak checker does at an exit, as
 * that traces, too. */
START_TEST(test_host_that_forbids_it)
{
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(begin_where_forbidden());
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

/* ---- what is looked for ---- */

#define PLAIN (BT_SCAN_CPUID | BT_SCAN_TSC)

static const struct {
	const char *name;
	uint8_t code[16], len;
	bool xsave, plain; /* found with @xsave; without */
} scans[] = {
	{ "CPUID", { 0x0f, 0xa2 }, 2, true, true },
	{ "CPUID in an immediate", { 0xb8, 0x0f, 0xa2, 0x00, 0x00 }, 5, false, false },
	{ "CPUID in a displacement", { 0x8b, 0x83, 0x0f, 0xa2, 0x00, 0x00 }, 6, false, false },
	{ "CPUID behind a prefix", { 0x66, 0x0f, 0xa2 }, 3, true, true },
	{ "RDPID", { 0xf3, 0x0f, 0xc7, 0xf8 }, 4, true, true },
	{ "RDPID of R9", { 0xf3, 0x41, 0x0f, 0xc7, 0xf9 }, 5, true, true },
	{ "RDSEED", { 0x0f, 0xc7, 0xf8 }, 3, false, false },
	{ "LSL of a register", { 0x0f, 0x03, 0xc1 }, 3, true, true },
	{ "SYSENTER", { 0x0f, 0x34 }, 2, true, true },
	{ "RDTSC", { 0x0f, 0x31 }, 2, true, true },
	{ "RDTSC in an immediate", { 0xb8, 0x0f, 0x31, 0x00, 0x00 }, 5, false, false },
	{ "RDTSCP", { 0x0f, 0x01, 0xf9 }, 3, true, true },
	{ "RDPRU", { 0x0f, 0x01, 0xfd }, 3, true, true },
	{ "XTEST", { 0x0f, 0x01, 0xd6 }, 3, false, false },
	{ "XSAVEC", { 0x0f, 0xc7, 0x64, 0x24, 0x40 }, 5, true, false },
	{ "XSAVE", { 0x0f, 0xae, 0x64, 0x24, 0x40 }, 5, true, false },
	{ "XRSTOR", { 0x0f, 0xae, 0x6c, 0x24, 0x40 }, 5, false, false },
	{ "XGETBV", { 0x0f, 0x01, 0xd0 }, 3, true, false },
	{ "MFENCE", { 0x0f, 0xae, 0xf0 }, 3, false, false },
	{ "SYSCALL", { 0x0f, 0x05 }, 2, false, false },
};

START_TEST(test_scan)
{
	static const unsigned places[] = { 0, 1, 17, 300, 2048, 4080 };
	uint8_t page[4096];

	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		uint16_t at[2] = { 0xffff, 0xffff };

		/* Where instructions begin is known only from somewhat behind the page's beginning. */
		if (!scans[_i].plain && places[i] < 128)
			continue;
		memset(page, 0x90, sizeof(page));
		memcpy(page + places[i], scans[_i].code, scans[_i].len);
		ck_assert_msg(bt_user_scan(page, NULL, BT_SCAN_XSAVE | PLAIN, 2, at) == scans[_i].xsave, "%s at %u",
			      scans[_i].name, places[i]);
		ck_assert_uint_eq(at[0], scans[_i].xsave ? places[i] : 0xffff);
		ck_assert_msg(bt_user_scan(page, NULL, PLAIN, 0, NULL) == scans[_i].plain, "%s at %u",
			      scans[_i].name, places[i]);
	}
}
END_TEST

/* What begins at the end of a page is found by what the next one begins with, and for all that is known where
 * there is none. */
START_TEST(test_scan_at_the_end)
{
	static const struct {
		uint8_t code[3], len;
		bool telling;
	} ends[] = {
		{ { 0x0f, 0x31 }, 2, true },
		{ { 0x0f, 0x01, 0xf9 }, 3, true },
		{ { 0x0f, 0xa2 }, 2, true },
		{ { 0x0f, 0x84 }, 2, false }, /* JE */
		{ { 0x0f, 0x01, 0xd6 }, 3, false },
	};
	uint8_t page[2 * 4096];
	uint16_t at;

	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		for (unsigned here = 1; here < ends[i].len; here++) {
			memset(page, 0x90, sizeof(page));
			memcpy(page + 4096 - here, ends[i].code, ends[i].len);
			ck_assert_msg(bt_user_scan(page, page + 4096, PLAIN, 1, &at) == ends[i].telling, "%zu, %u", i,
				      here);
			if (ends[i].telling)
				ck_assert_uint_eq(at, 4096 - here);
			ck_assert_uint_eq(bt_user_scan(page, NULL, PLAIN, 0, NULL), 1);
		}
	}
	/* Of an instruction that has begun before, it is known what it is. */
	memset(page, 0x90, sizeof(page));
	memcpy(page + 4096 - 5, "\xb8\x00\x00\x00\x0f\x31", 6);
	ck_assert_uint_eq(bt_user_scan(page, page + 4096, PLAIN, 0, NULL), 0);
}
END_TEST

/* It is not looked for where it faults. */
START_TEST(test_scan_without_cpuid)
{
	uint8_t page[4096];

	memset(page, 0x90, sizeof(page));
	memcpy(page + 400, "\x0f\xa2", 2);
	ck_assert_uint_eq(bt_user_scan(page, NULL, BT_SCAN_XSAVE, 0, NULL), 0);
	memcpy(page + 800, "\x0f\x01\xd0", 3); /* XGETBV */
	ck_assert_uint_eq(bt_user_scan(page, NULL, BT_SCAN_XSAVE, 0, NULL), 1);
}
END_TEST

/* Where the counter is the guest's own it may be read, and RDTSCP be executed where nobody looks at the processor's number. */
static const struct {
	const char *name;
	uint8_t code[16], len;
	unsigned found;
} counters[] = {
	{ "RDTSC", { 0x0f, 0x31 }, 2, 0 },
	{ "RDPRU", { 0x0f, 0x01, 0xfd }, 3, 1 },
	{ "RDTSCP, and what follows is unknown", { 0x0f, 0x01, 0xf9, 0x0f, 0x0b }, 5, 1 },
	{ "NOPs without end", { 0x0f, 0x01, 0xf9 }, 3, 1 },
	{ "MOV EAX, ECX", { 0x0f, 0x01, 0xf9, 0x89, 0xc8 }, 5, 1 },
	{ "MOV [RDI], ECX; MOV ECX, EAX", { 0x0f, 0x01, 0xf9, 0x89, 0x0f, 0x89, 0xc1 }, 7, 1 },
	{ "MOV ECX, [RCX]", { 0x0f, 0x01, 0xf9, 0x8b, 0x09 }, 5, 1 },
	{ "MOV ECX, [R8]", { 0x0f, 0x01, 0xf9, 0x41, 0x8b, 0x08 }, 6, 0 },
	{ "MOV CX, AX", { 0x0f, 0x01, 0xf9, 0x66, 0x89, 0xc1 }, 6, 1 },
	{ "MOV CL, 1", { 0x0f, 0x01, 0xf9, 0xb1, 0x01 }, 5, 1 },
	{ "MOV CH, AL", { 0x0f, 0x01, 0xf9, 0x88, 0xc5 }, 5, 1 },
	{ "MOV BPL, AL; MOV ECX, 1", { 0x0f, 0x01, 0xf9, 0x40, 0x88, 0xc5, 0xb9, 1, 0, 0, 0 }, 11, 0 },
	{ "ADD ECX, EAX", { 0x0f, 0x01, 0xf9, 0x01, 0xc1 }, 5, 1 },
	{ "SHL RAX, CL", { 0x0f, 0x01, 0xf9, 0x48, 0xd3, 0xe0 }, 6, 1 },
	{ "SHLD RAX, RDX, CL", { 0x0f, 0x01, 0xf9, 0x48, 0x0f, 0xa5, 0xd0 }, 7, 1 },
	{ "CMPXCHG16B", { 0x0f, 0x01, 0xf9, 0x48, 0x0f, 0xc7, 0x0f }, 7, 1 },
	{ "XCHG RAX, RCX", { 0x0f, 0x01, 0xf9, 0x48, 0x91 }, 5, 1 },
	{ "REP MOVSB", { 0x0f, 0x01, 0xf9, 0xf3, 0xa4 }, 5, 1 },
	{ "JRCXZ", { 0x0f, 0x01, 0xf9, 0xe3, 0x00 }, 5, 1 },
	{ "JMP", { 0x0f, 0x01, 0xf9, 0xeb, 0x00 }, 5, 1 },
	{ "CALL", { 0x0f, 0x01, 0xf9, 0xe8, 0, 0, 0, 0 }, 8, 1 },
	{ "PUSH RCX", { 0x0f, 0x01, 0xf9, 0x51 }, 4, 1 },
	{ "SHL RDX, 32; OR RAX, RDX; RET", { 0x0f, 0x01, 0xf9, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3 }, 11, 0 },
	{ "LFENCE; RDTSC; RDTSCP; RET", { 0x0f, 0x01, 0xf9, 0x0f, 0xae, 0xe8, 0x0f, 0x31, 0x0f, 0x01, 0xf9, 0xc3 }, 12, 0 },
};

START_TEST(test_scan_without_counter)
{
	uint8_t page[4096];
	uint16_t at;

	memset(page, 0x90, sizeof(page));
	memcpy(page + 400, counters[_i].code, counters[_i].len);
	ck_assert_uint_eq(bt_user_scan(page, NULL, BT_SCAN_XSAVE | BT_SCAN_CPUID, 1, &at), counters[_i].found);
	if (counters[_i].found)
		ck_assert_uint_eq(at, 400);
	ck_assert_uint_ge(bt_user_scan(page, NULL, PLAIN, 0, NULL), 1);
}
END_TEST

#define PAGES 8u

/* A guest's tables that have the two pages at CODE, which are 5 and 6 of @ram; the second @here or not. */
static void put_tables(uint64_t *ram, bool here)
{
	const uint64_t flags = 1 | 1 << 2 | 1 << 5; /* present, for users, accessed */

	for (unsigned level = 4, shift = 39; level > 1; level--, shift -= 9)
		ram[(5 - level) * 512 + ((uint64_t)CODE >> shift & 511)] = (6 - level) * 4096 | flags;
	ram[4 * 512 + (CODE >> 12 & 511)] = 5 * 4096 | flags;
	ram[4 * 512 + (CODE >> 12 & 511) + 1] = here ? 6 * 4096 | flags : 0;
}

/* An instruction that begins at a page's end is watched as long as the page behind it is not there, and then only
 * if it is one to be watched. */
START_TEST(test_watch_at_the_end)
{
	static const uint8_t jump[6] = { 0x0f, 0x84, 0, 0, 0, 0 }, rdtsc[6] = { 0x0f, 0x31, 0x90, 0x90, 0x90, 0x90 };
	int fd = memfd_create("ram", 0);
	uint64_t *ram;
	uint8_t *code;

	ck_assert_int_eq(ftruncate(fd, PAGES * 4096), 0);
	ram = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(ram, MAP_FAILED);
	code = (uint8_t *)ram + 5 * 4096;
	for (unsigned i = 0; i < 2; i++) {
		struct bt_engine engine = { .ram_count = 1, .ram[0] = { .size = PAGES * 4096, .hva = (uint8_t *)ram, .fd = fd } };
		struct bt_vcpu *vcpu = calloc(1, sizeof(*vcpu));
		struct bt_runner *r = &vcpu->user.runner[0];
		const uint64_t last = CODE + 4095;

		vcpu->base.engine = &engine.base;
		vcpu->user.telling = PLAIN;
		ck_assert_int_eq(bt_runner_begin(r, &engine), 0);
		r->cr3 = 4096;
		memset(code, 0x90, 2 * 4096);
		memcpy(code + 4095, i ? rdtsc : jump, 6);
		put_tables(ram, false);
		ck_assert(bt_user_map(vcpu, r, CODE));
		ck_assert_uint_eq(bt_user_word(r, CODE) & (BT_USER_EXEC | BT_USER_HIDDEN), BT_USER_HIDDEN);
		ck_assert(bt_user_unhide(vcpu, r, CODE));
		ck_assert_uint_eq(r->watch[0], last);
		ck_assert(!bt_user_unwatch(vcpu, r, last));
		ck_assert_uint_eq(r->watch[0], last);
		put_tables(ram, true);
		ck_assert_int_eq(bt_user_unwatch(vcpu, r, last), !i);
		ck_assert_uint_eq(r->watch[0], i ? last : 0);
		ck_assert(bt_user_word(r, CODE) & BT_USER_EXEC);
		bt_user_drop(r);
		bt_runner_end(r);
		free(r->region);
		free(vcpu);
	}
	munmap(ram, PAGES * 4096);
	close(fd);
}
END_TEST

START_TEST(test_cpuid_faults)
{
	uint64_t address;

	if (!bt_runner_cpuid_can_fault()) {
		puts("SKIP: the host's processor has no faults of CPUID");
		return;
	}
	put_code("\x0f\xa2\x0f\x0b", 4); /* CPUID; UD2 */
	f.runner.regs->rax = 0x1234;
	ck_assert_int_eq(go(&address), BT_RUNNER_FAULT);
	ck_assert_uint_eq(address, BT_USER_NOWHERE);
	ck_assert_uint_eq(f.runner.regs->rip, CODE);
	ck_assert_uint_eq(f.runner.regs->rax, 0x1234);
}
END_TEST

START_TEST(test_scan_counts_all)
{
	uint8_t page[4096];
	uint16_t at[3];

	memset(page, 0x90, sizeof(page));
	for (unsigned i = 0; i < 9; i++)
		memcpy(page + 100 + 400 * i, "\x0f\xa2", 2);
	ck_assert_uint_eq(bt_user_scan(page, NULL, BT_SCAN_CPUID, 3, at), 9);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_uint_eq(at[i], 100 + 400 * i);
}
END_TEST

static bool can_trace(void)
{
	struct bt_engine engine = { 0 };
	struct bt_runner runner = { 0 };
	bool can = bt_runner_begin(&runner, &engine) == 0;

	bt_runner_end(&runner);
	return can;
}

int main(void)
{
	Suite *suite = suite_create("bt_user");
	TCase *stops = tcase_create("stops"), *scan = tcase_create("scan");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(stops, set_up, tear_down);
	tcase_set_timeout(stops, 60);
	tcase_add_loop_test(stops, test_system_calls_are_not_executed, 0, ARRAY_SIZE(calls));
	tcase_add_loop_test(stops, test_stub_is_dead_for_the_guest, 0, 3);
	tcase_add_test(stops, test_key_opens);
	tcase_add_test(stops, test_list_is_wiped);
	tcase_add_test(stops, test_nothing_else_is_mapped);
	tcase_add_test(stops, test_faults);
	tcase_add_test(stops, test_vsyscalls_are_not_emulated);
	tcase_add_test(stops, test_watched_instruction_is_not_executed);
	tcase_add_test(stops, test_cpuid_faults);
	tcase_add_test(stops, test_watch_at_the_end);
	tcase_add_test(stops, test_request_ends_a_loop);
	tcase_add_test(stops, test_dropped_twice_is_dropped);
	tcase_add_test(stops, test_request_while_mapping);
	tcase_add_test(stops, test_request_at_each_instruction);
	tcase_add_test(stops, test_registers_behind_a_list);
	tcase_add_test(stops, test_list_that_fails);
	tcase_add_test(stops, test_killed_runner_is_noticed);
	tcase_add_test(stops, test_vectors_in_and_out);
	tcase_add_test(stops, test_host_that_forbids_it);
	tcase_add_loop_test(scan, test_scan, 0, ARRAY_SIZE(scans));
	tcase_add_test(scan, test_scan_at_the_end);
	tcase_add_test(scan, test_scan_counts_all);
	tcase_add_test(scan, test_scan_without_cpuid);
	tcase_add_loop_test(scan, test_scan_without_counter, 0, ARRAY_SIZE(counters));
	if (can_trace())
		suite_add_tcase(suite, stops);
	else
		printf("SKIP: stops: this host lets no process trace another\n");
	suite_add_tcase(suite, scan);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
