// SPDX-License-Identifier: Apache-2.0
/*
 * native.c - runs the cases on the host CPU.
 *
 * The signal handler is the whole machine: it stores what the last case left behind from the signal
 * frame, puts the next case's state into the frame, with the trap flag set, and returns into it. The
 * instruction ends in SIGTRAP, or in the signal of its fault. 32-bit cases are entered the same way,
 * through the code segment selector of compatibility mode, 16-bit ones through segments of an LDT.
 */
#include "seq.h"

#include "engine/bt/jit/host_insn.h"
#include "x86/x86.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <cpuid.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define CS_64	 0x33u
#define CS_32	 0x23u
#define DS_FLAT	 0x2bu
#define REP_LIMIT 100000u

#define XSTATE_BV  512 /* offsets in the signal frame's XSAVE area */
#define XSTATE_YMM 576
#define XSTATE_AVX512 0xe0u

/* Where the frame has the opmasks, the upper halves of ZMM0 to 15, and ZMM16 to 31; 0: nowhere. */
static uint32_t wide_at[3];

static const struct oracle_case *cases;
static struct oracle_result *results;
static unsigned n_cases, current, rep_count;
static bool started, watched;
static volatile unsigned *progress_out;
static uint8_t pristine[DATA_SIZE], constants[CONST_SIZE];

static const int greg_of[16] = {
	REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	REG_R8,	 REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

bool oracle_native_has_wide(void)
{
	uint32_t r[4];

	if (!bt_host_insn_is_fit())
		return false;
	for (unsigned i = 0; i < 3; i++) {
		__cpuid_count(0xd, 5 + i, r[0], r[1], r[2], r[3]);
		wide_at[i] = r[1];
	}
	return true;
}

static void load_wide(uint8_t *fp, const struct oracle_regs *in)
{
	memcpy(fp + wide_at[0], in->opmask, sizeof(in->opmask));
	for (unsigned i = 0; i < 16; i++)
		memcpy(fp + wide_at[1] + i * 32, in->vec[i] + 32, 32);
	memcpy(fp + wide_at[2], in->vec[16], sizeof(in->vec) / 2);
}

static void save_wide(const uint8_t *fp, uint64_t bv, struct oracle_regs *out)
{
	memset(out->opmask, 0, sizeof(out->opmask));
	if (bv & 0x20)
		memcpy(out->opmask, fp + wide_at[0], sizeof(out->opmask));
	for (unsigned i = 0; i < 16 && bv & 0x40; i++)
		memcpy(out->vec[i] + 32, fp + wide_at[1] + i * 32, 32);
	if (bv & 0x80)
		memcpy(out->vec[16], fp + wide_at[2], sizeof(out->vec) / 2);
}

static void load_fpu(uint8_t *fp, const struct oracle_regs *in)
{
	uint64_t bv;

	memcpy(fp + 0, &in->fcw, 2);
	memcpy(fp + 2, &in->fsw, 2);
	fp[4] = in->ftw;
	memcpy(fp + 24, &in->mxcsr, 4);
	memcpy(fp + 32, in->st, sizeof(in->st));
	for (unsigned i = 0; i < 16; i++) {
		memcpy(fp + 160 + i * 16, in->vec[i], 16);
		memcpy(fp + XSTATE_YMM + i * 16, in->vec[i] + 16, 16);
	}
	memcpy(&bv, fp + XSTATE_BV, 8);
	bv |= 7;
	if (wide_at[0]) {
		load_wide(fp, in);
		bv |= XSTATE_AVX512;
	}
	memcpy(fp + XSTATE_BV, &bv, 8);
}

static void save_fpu(const uint8_t *fp, struct oracle_regs *out)
{
	uint64_t bv;

	memcpy(&bv, fp + XSTATE_BV, 8);
	memset(out->st, 0, sizeof(out->st));
	memset(out->vec, 0, sizeof(out->vec));
	out->fcw = 0x37f;
	out->fsw = 0;
	out->ftw = 0;
	memcpy(&out->mxcsr, fp + 24, 4);
	if (bv & 1) {
		memcpy(&out->fcw, fp + 0, 2);
		memcpy(&out->fsw, fp + 2, 2);
		out->ftw = fp[4];
		memcpy(out->st, fp + 32, sizeof(out->st));
	}
	for (unsigned i = 0; i < 16; i++) {
		if (bv & 2)
			memcpy(out->vec[i], fp + 160 + i * 16, 16);
		if (bv & 4)
			memcpy(out->vec[i] + 16, fp + XSTATE_YMM + i * 16, 16);
	}
	if (wide_at[0])
		save_wide(fp, bv, out);
	for (unsigned i = 0; i < 8; i++)
		memset(out->st[i] + 10, 0, 6);
}

/* CS and SS are the signal frame's; the kernel leaves DS and ES as they are. */
static void set_segments(greg_t *g, unsigned bits)
{
	uint16_t cs = bits == 64 ? CS_64 : bits == 32 ? CS_32 : LDT_CODE;
	uint16_t data = bits == 16 ? LDT_DATA : DS_FLAT;

	g[REG_CSGSFS] = (greg_t)((uint64_t)data << 48 | cs);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(data));
}

bool oracle_native_has_16(void)
{
	struct user_desc code = { .entry_number = LDT_CODE >> 3, .base_addr = CODE_BASE, .limit = 0xffff,
				  .contents = MODIFY_LDT_CONTENTS_CODE, .useable = 1 };
	struct user_desc data = { .entry_number = LDT_DATA >> 3, .base_addr = DATA_BASE, .limit = 0xffff,
				  .contents = MODIFY_LDT_CONTENTS_DATA, .useable = 1 };

	return syscall(SYS_modify_ldt, 1, &code, sizeof(code)) == 0 &&
	       syscall(SYS_modify_ldt, 1, &data, sizeof(data)) == 0;
}

static void load_case(ucontext_t *uc)
{
	const struct oracle_case *c = &cases[current];
	greg_t *g = uc->uc_mcontext.gregs;

	memcpy((void *)DATA_BASE, pristine, DATA_SIZE);
	memcpy((void *)(DATA_BASE + c->window_at), c->window, WINDOW);
	memcpy((void *)oracle_code_at(c), c->code, sizeof(c->code));
	for (unsigned i = 0; i < 16; i++)
		g[greg_of[i]] = (greg_t)c->in.gpr[i];
	g[REG_RIP] = (greg_t)c->in.rip;
	g[REG_EFL] = (greg_t)(c->in.rflags | X86_FL_TF);
	set_segments(g, c->bits);
	load_fpu((uint8_t *)uc->uc_mcontext.fpregs, &c->in);
	rep_count = 0;
	*progress_out = current;
	if (watched)
		raise(SIGSTOP); /* watch.c arms */
}

static void save_case(const ucontext_t *uc, int sig)
{
	struct oracle_result *r = &results[current];
	const greg_t *g = uc->uc_mcontext.gregs;

	for (unsigned i = 0; i < 16; i++)
		r->out.gpr[i] = (uint64_t)g[greg_of[i]];
	r->out.rip = (uint64_t)g[REG_RIP];
	r->out.rflags = (uint64_t)g[REG_EFL];
	r->vector = sig == SIGTRAP ? -1 : (int)g[REG_TRAPNO];
	r->error = (uint32_t)g[REG_ERR];
	r->cr2 = (uint64_t)g[REG_CR2];
	save_fpu((const uint8_t *)uc->uc_mcontext.fpregs, &r->out);
	memcpy(r->data, (const void *)DATA_BASE, DATA_SIZE);
	r->valid = true;
}

static void on_signal(int sig, siginfo_t *si, void *context)
{
	ucontext_t *uc = context;

	/* A handler inherits the alignment check; the C library is not written for it. */
	__asm__ volatile("pushfq; andl $~0x40000, (%%rsp); popfq" : : : "memory", "cc");
	(void)si;
	if (started) {
		const struct oracle_case *c = &cases[current];

		if (sig == SIGTRAP && c->string && rep_count++ < REP_LIMIT &&
		    (uint64_t)uc->uc_mcontext.gregs[REG_RIP] == c->in.rip)
			return;
		save_case(uc, sig);
		current++;
	}
	started = true;
	if (current == n_cases)
		_exit(0);
	load_case(uc);
}

static void *map_fixed(uint64_t addr, size_t size)
{
	void *p = mmap((void *)addr, size, PROT_READ | PROT_WRITE | PROT_EXEC,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (p == MAP_FAILED) {
		perror("mmap");
		_exit(2);
	}
	return p;
}

/* ---- programs: the same, without the trap flag ---- */

static const struct seq_program *programs;
static struct seq_result *seq_results;

static void load_program(ucontext_t *uc)
{
	const struct seq_program *p = &programs[current];
	greg_t *g = uc->uc_mcontext.gregs;

	memcpy((void *)DATA_BASE, pristine, DATA_SIZE);
	memcpy((void *)(DATA_BASE + p->window_at), p->window, WINDOW);
	memcpy((void *)CODE_BASE, p->code, CODE_SIZE);
	for (unsigned i = 0; i < 16; i++)
		g[greg_of[i]] = (greg_t)p->in.gpr[i];
	g[REG_RIP] = (greg_t)p->in.rip;
	g[REG_EFL] = (greg_t)(p->in.rflags & ~(uint64_t)X86_FL_TF);
	g[REG_CSGSFS] = (greg_t)((uint64_t)DS_FLAT << 48 | (p->bits == 64 ? CS_64 : CS_32));
	load_fpu((uint8_t *)uc->uc_mcontext.fpregs, &p->in);
	*progress_out = current;
}

static void save_program(const ucontext_t *uc)
{
	struct seq_result *r = &seq_results[current];
	const greg_t *g = uc->uc_mcontext.gregs;

	for (unsigned i = 0; i < 16; i++)
		r->out.gpr[i] = (uint64_t)g[greg_of[i]];
	r->out.rip = (uint64_t)g[REG_RIP];
	r->out.rflags = (uint64_t)g[REG_EFL];
	r->vector = (int)g[REG_TRAPNO];
	r->error = (uint32_t)g[REG_ERR];
	r->cr2 = r->vector == X86_PF ? (uint64_t)g[REG_CR2] : 0;
	save_fpu((const uint8_t *)uc->uc_mcontext.fpregs, &r->out);
	memcpy(r->data, (const void *)DATA_BASE, DATA_SIZE);
	memcpy(r->code, (const void *)CODE_BASE, CODE_SIZE);
	r->valid = r->ended = true;
}

static void on_program_signal(int sig, siginfo_t *si, void *context)
{
	ucontext_t *uc = context;

	__asm__ volatile("pushfq; andl $~0x40000, (%%rsp); popfq" : : : "memory", "cc");
	(void)si;
	(void)sig;
	if (started) {
		save_program(uc);
		current++;
	} else {
		/* What a program of random bytes could ask of the kernel is killed. */
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
	}
	started = true;
	if (current == n_cases)
		syscall(SYS_exit, 0);
	load_program(uc);
}

static void start(void (*handler)(int, siginfo_t *, void *), unsigned n,
		  volatile unsigned *progress) __attribute__((noreturn));

void oracle_native_run(const struct oracle_case *list, struct oracle_result *out, unsigned n,
		       volatile unsigned *progress, bool watch)
{
	cases = list;
	results = out;
	watched = watch;
	if (watch && ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
		_exit(2);
	start(on_signal, n, progress);
}

void seq_native_run(const struct seq_program *list, struct seq_result *out, unsigned n,
		    volatile unsigned *progress)
{
	programs = list;
	seq_results = out;
	start(on_program_signal, n, progress);
}

static void start(void (*handler)(int, siginfo_t *, void *), unsigned n, volatile unsigned *progress)
{
	static const int signals[] = { SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGUSR1 };
	struct sigaction act = { .sa_sigaction = handler,
				 .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	stack_t stack = { .ss_size = 1 << 16 };

	n_cases = n;
	progress_out = progress;
	map_fixed(CODE_BASE, CODE_SIZE);
	map_fixed(DATA_BASE, DATA_SIZE);
	map_fixed(CONST_BASE, CONST_SIZE);
	oracle_pristine(pristine, constants);
	memcpy((void *)CONST_BASE, constants, CONST_SIZE);
	mprotect((void *)CONST_BASE, CONST_SIZE, PROT_READ);
	mprotect((void *)DATA_BASE, DATA_SIZE, PROT_READ | PROT_WRITE);
	stack.ss_sp = malloc(stack.ss_size);
	if (!stack.ss_sp || sigaltstack(&stack, NULL) < 0)
		_exit(2);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &act, NULL);
	syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE);
	/* Data segments for the 32-bit cases; a 64-bit process has null ones. */
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"((uint16_t)DS_FLAT));
	alarm(60);
	raise(SIGUSR1);
	_exit(3);
}
