// SPDX-License-Identifier: Apache-2.0
/*
 * vec_native.c - run one instruction on the host with a given vector and x87 state.
 *
 * The instruction is copied into a page of code, behind it a jump back. An exception becomes a
 * signal; its handler lets the thread go on at the jump with the state of the fault.
 */
#include "vec_native.h"

#include <cpuid.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static uint8_t *code;
static volatile sig_atomic_t got_signal;
extern const char native_return[];

static void on_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)info;
	got_signal = sig;
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)native_return;
}

bool native_init(void)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	unsigned a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_AVX) || !(c & bit_OSXSAVE))
		return false;
	code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	if (code == MAP_FAILED)
		return false;
	sigaction(SIGFPE, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
	return true;
}

/* rdi: state, rsi: code. Offsets are those of struct native_state. */
void native_enter(struct native_state *s, const uint8_t *bytes);
__asm__(".text\n"
	"native_enter:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
	"	sub $24, %rsp\n"
	"	stmxcsr (%rsp)\n	fnstcw 4(%rsp)\n	mov %rdi, 8(%rsp)\n"
	"	mov %rdi, %r12\n	mov %rsi, %r13\n"
	"	mov $7, %eax\n	xor %edx, %edx\n	xrstor64 (%r12)\n"
	"	push 1072(%r12)\n	popf\n"
	"	mov 1024(%r12), %rax\n	mov 1032(%r12), %rcx\n	mov 1040(%r12), %rdx\n"
	"	mov 1048(%r12), %rsi\n	mov 1056(%r12), %rdi\n	mov 1064(%r12), %rbx\n"
	"	jmp *%r13\n"
	".globl native_return\n"
	"native_return:\n"
	"	mov %rax, 1024(%r12)\n	mov %rcx, 1032(%r12)\n	mov %rdx, 1040(%r12)\n"
	"	mov %rsi, 1048(%r12)\n	mov %rdi, 1056(%r12)\n"
	"	pushf\n	pop 1072(%r12)\n"
	"	mov $7, %eax\n	xor %edx, %edx\n	xsave64 (%r12)\n"
	"	fninit\n	ldmxcsr (%rsp)\n	fldcw 4(%rsp)\n	vzeroupper\n	cld\n"
	"	add $24, %rsp\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n"
	"	ret\n");

_Static_assert(offsetof(struct native_state, rax) == 1024, "offsets in native_enter()");
_Static_assert(offsetof(struct native_state, rbx) == 1064, "offsets in native_enter()");
_Static_assert(offsetof(struct native_state, flags) == 1072, "offsets in native_enter()");

void native_run(const uint8_t *bytes, unsigned len, struct native_state *s)
{
	static const uint8_t jump[] = { 0xff, 0x25, 0, 0, 0, 0 }; /* jmp *(%rip) */
	uint64_t back = (uintptr_t)native_return;

	memcpy(code, bytes, len);
	memcpy(code + len, jump, sizeof(jump));
	memcpy(code + len + sizeof(jump), &back, sizeof(back));
	got_signal = 0;
	native_enter(s, code);
	s->raised = got_signal == SIGFPE;
	s->invalid = got_signal == SIGILL;
}
