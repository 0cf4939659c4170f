// SPDX-License-Identifier: Apache-2.0
/*
 * planted.c - values planted in the host's registers and in the guest's, and looked for on the
 * other side.
 */
#include "clock.h"
#include "hostile.h"

#include <asm/prctl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- the host's ---- */

/* long planted_run(int fd, const struct planted *in, struct planted *out): the system call itself,
 * so that nobody changes a register on the way. */
__asm__(".text\n"
	".type planted_run, @function\n"
	"planted_run:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rdx\n"
	"	mov 0(%rsi), %rbx; mov 8(%rsi), %rbp; mov 16(%rsi), %r8; mov 24(%rsi), %r9\n"
	"	mov 32(%rsi), %r10; mov 40(%rsi), %r12; mov 48(%rsi), %r13; mov 56(%rsi), %r14\n"
	"	mov 64(%rsi), %r15\n"
	"	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
	"	movups 72+16*\\n(%rsi), %xmm\\n\n"
	"	.endr\n"
	"	ldmxcsr 328(%rsi); fldcw 332(%rsi)\n"
	"	mov $0xae80, %esi\n" /* KVM_RUN */
	"	xor %edx, %edx\n"
	"	mov $16, %eax\n" /* ioctl */
	"	syscall\n"
	"	mov (%rsp), %rcx\n"
	"	mov %rbx, 0(%rcx); mov %rbp, 8(%rcx); mov %r8, 16(%rcx); mov %r9, 24(%rcx)\n"
	"	mov %r10, 32(%rcx); mov %r12, 40(%rcx); mov %r13, 48(%rcx); mov %r14, 56(%rcx)\n"
	"	mov %r15, 64(%rcx)\n"
	"	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
	"	movups %xmm\\n, 72+16*\\n(%rcx)\n"
	"	.endr\n"
	"	stmxcsr 328(%rcx); fnstcw 332(%rcx)\n"
	"	pushq $0x1f80; ldmxcsr (%rsp); fninit; pop %rcx\n"
	"	pop %rdx; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");
long planted_run(int fd, const struct planted *in, struct planted *out);

_Static_assert(offsetof(struct planted, xmm) == 72 && offsetof(struct planted, mxcsr) == 328 &&
		       offsetof(struct planted, fcw) == 332,
	       "as planted_run has it");

static uint64_t host_word(struct rng *r)
{
	return (uint64_t)HOST_TAG << 32 | (uint32_t)rng_next(r);
}

bool is_planted(uint64_t word)
{
	return word >> 32 == HOST_TAG;
}

long run_planted(struct rng *r, int vcpu)
{
	struct planted in = { .mxcsr = 0x1f80 | rng_below(r, 4) << 13,
			      .fcw = 0x37f & ~(rng_below(r, 4) << 8) },
		       out = { 0 };
	uint64_t gs = (host_word(r) & 0x7fffffffffff), gs_now = 0;
	long result;

	for (unsigned i = 0; i < ARRAY_SIZE(in.gpr); i++)
		in.gpr[i] = host_word(r);
	for (unsigned i = 0; i < 16; i++)
		in.xmm[i][0] = host_word(r), in.xmm[i][1] = host_word(r);
	syscall(SYS_arch_prctl, ARCH_SET_GS, gs);
	result = planted_run(vcpu, &in, &out);
	syscall(SYS_arch_prctl, ARCH_GET_GS, &gs_now);
	if (memcmp(in.gpr, out.gpr, sizeof(in.gpr)))
		give_up("a general register of the host's is not what it was");
	if (memcmp(in.xmm, out.xmm, sizeof(in.xmm)))
		give_up("an XMM register of the host's is not what it was");
	if (in.mxcsr != (out.mxcsr & ~0x3fu) || in.fcw != out.fcw)
		give_up("a control register of the host's floating point is not what it was");
	if (gs != gs_now)
		give_up("the host's base of GS is not what it was");
	return result;
}

/* ---- the guest's ---- */

#define CODE   0x1000u
#define DUMP   0x8000u
#define TABLES 0x10000u

#define DUMP_XMM 0x80u
#define DUMP_CR	 0x180u
#define DUMP_DR	 0x1b0u
#define DUMP_MSR 0x200u
#define DUMP_AUX 0x300u
#define DUMP_CSR 0x308u
#define DUMP_FCW 0x310u

/* Tells each value by a store. Before it an exit, behind which all must be there still. */
__asm__(".section .rodata\n"
	"tell: out %al, $0x80\n"
	"	mov %rax, 0x8000; mov %rcx, 0x8008; mov %rdx, 0x8010; mov %rbx, 0x8018\n"
	"	mov %rsp, 0x8020; mov %rbp, 0x8028; mov %rsi, 0x8030; mov %rdi, 0x8038\n"
	"	mov %r8, 0x8040; mov %r9, 0x8048; mov %r10, 0x8050; mov %r11, 0x8058\n"
	"	mov %r12, 0x8060; mov %r13, 0x8068; mov %r14, 0x8070; mov %r15, 0x8078\n"
	"	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
	"	movups %xmm\\n, 0x8080+16*\\n\n"
	"	.endr\n"
	"	mov %cr0, %rax; mov %rax, 0x8180; mov %cr2, %rax; mov %rax, 0x8188\n"
	"	mov %cr3, %rax; mov %rax, 0x8190; mov %cr4, %rax; mov %rax, 0x8198\n"
	"	mov %dr0, %rax; mov %rax, 0x81b0; mov %dr1, %rax; mov %rax, 0x81b8\n"
	"	mov %dr2, %rax; mov %rax, 0x81c0; mov %dr3, %rax; mov %rax, 0x81c8\n"
	"	mov $0x8200, %rdi\n"
	"	.irp m, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0xc0000100, "
	"0xc0000101, "
	"0x174, 0x175, 0x176, 0x277\n"
	"	mov $\\m, %ecx; rdmsr; mov %eax, (%rdi); mov %edx, 4(%rdi); add $8, %rdi\n"
	"	.endr\n"
	"	rdtscp; mov %ecx, 0x8300; stmxcsr 0x8308; fnstcw 0x8310\n"
	"	out %al, $0x81\n"
	"tell_end:\n"
	".text\n");
extern const uint8_t tell[], tell_end[];

/* In the order of tell's, and the bits of them that may be anything. */
static const struct {
	uint32_t msr;
	uint64_t mask;
} own_msrs[] = {
	{ 0xc0000081, ~0ull },
	{ 0xc0000082, 0x7fffffffffff },
	{ 0xc0000083, 0x7fffffffffff },
	{ 0xc0000084, 0xffffffff },
	{ 0xc0000102, 0x7fffffffffff },
	{ 0xc0000100, 0x7fffffffffff },
	{ 0xc0000101, 0x7fffffffffff },
	{ 0x174, 0xffff },
	{ 0x175, 0x7fffffffffff },
	{ 0x176, 0x7fffffffffff },
	{ 0x277, 0 },
};

struct known {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct kvm_debugregs debug;
	uint64_t msr[ARRAY_SIZE(own_msrs)];
	uint32_t aux;
};

union msrs {
	struct kvm_msrs head;
	uint8_t room[sizeof(struct kvm_msrs) + 16 * sizeof(struct kvm_msr_entry)];
};

static void must(int r, const char *what)
{
	if (r < 0)
		give_up(what);
}

static void set_msrs(int vcpu, struct known *k, struct rng *r)
{
	union msrs m = { .head.nmsrs = ARRAY_SIZE(own_msrs) + 1 };

	for (unsigned i = 0; i < ARRAY_SIZE(own_msrs); i++) {
		k->msr[i] = own_msrs[i].mask ? rng_next(r) & own_msrs[i].mask : 0x0007040600070406;
		m.head.entries[i] =
			(struct kvm_msr_entry){ .index = own_msrs[i].msr, .data = k->msr[i] };
	}
	k->aux = (uint32_t)rng_next(r);
	m.head.entries[ARRAY_SIZE(own_msrs)] =
		(struct kvm_msr_entry){ .index = 0xc0000103, .data = k->aux };
	if (ioctl(vcpu, KVM_SET_MSRS, &m) != (int)m.head.nmsrs)
		give_up("an MSR cannot be set");
}

/* Long mode, at the code; all else is random. */
static void set_known(int vcpu, struct known *k, struct rng *r)
{
	uint64_t *words = (uint64_t *)&k->regs;

	for (unsigned i = 0; i < sizeof(k->regs) / 8; i++)
		words[i] = rng_next(r);
	k->regs.rip = CODE;
	k->regs.rflags = 2;
	must(ioctl(vcpu, KVM_GET_SREGS, &k->sregs), "KVM_GET_SREGS");
	k->sregs.ds = k->sregs.es = k->sregs.fs = k->sregs.gs = k->sregs.ss = FLAT_DATA;
	k->sregs.cs = FLAT_DATA;
	k->sregs.cs.selector = 8;
	k->sregs.cs.type = 11;
	k->sregs.cs.l = 1;
	k->sregs.cs.db = 0;
	k->sregs.cr0 = 0x80010033;
	k->sregs.cr2 = rng_next(r);
	k->sregs.cr3 = TABLES;
	k->sregs.cr4 = 0x620;
	k->sregs.efer = 0xd01;
	for (unsigned i = 0; i < 16; i++) {
		uint64_t word[2] = { rng_next(r), rng_next(r) };

		memcpy(k->fpu.xmm[i], word, 16);
	}
	k->fpu.mxcsr = 0x1f80 | rng_below(r, 4) << 13;
	k->fpu.fcw = (uint16_t)(0x37f | rng_below(r, 4) << 10);
	for (unsigned i = 0; i < 4; i++)
		k->debug.db[i] = rng_next(r) & 0x7fffffffffff;
	k->debug.dr6 = 0xffff0ff0;
	k->debug.dr7 = 0x400;
	must(ioctl(vcpu, KVM_SET_SREGS, &k->sregs), "KVM_SET_SREGS");
	must(ioctl(vcpu, KVM_SET_REGS, &k->regs), "KVM_SET_REGS");
	must(ioctl(vcpu, KVM_SET_FPU, &k->fpu), "KVM_SET_FPU");
	must(ioctl(vcpu, KVM_SET_DEBUGREGS, &k->debug), "KVM_SET_DEBUGREGS");
	set_msrs(vcpu, k, r);
}

static void expect(const uint8_t *ram, unsigned at, uint64_t want, unsigned bytes, const char *what)
{
	uint64_t value = 0;

	memcpy(&value, ram + DUMP + at, bytes);
	if (value == want)
		return;
	printf("at %#x of what the guest told: %#llx, and it was %#llx\n", at,
	       (unsigned long long)value, (unsigned long long)want);
	give_up(what);
}

static void check_told(const uint8_t *ram, const struct known *k)
{
	const struct kvm_regs *g = &k->regs;
	const uint64_t gpr[16] = { g->rax, g->rcx, g->rdx, g->rbx, g->rsp, g->rbp, g->rsi, g->rdi,
				   g->r8,  g->r9,  g->r10, g->r11, g->r12, g->r13, g->r14, g->r15 };
	const uint64_t cr[4] = { k->sregs.cr0, k->sregs.cr2, k->sregs.cr3, k->sregs.cr4 };

	for (unsigned i = 0; i < 16; i++)
		expect(ram, i * 8, gpr[i], 8, "a general register of the guest's");
	for (unsigned i = 0; i < 32; i++) {
		uint64_t word;

		memcpy(&word, &k->fpu.xmm[i / 2][i % 2 * 8], 8);
		expect(ram, DUMP_XMM + i * 8, word, 8, "an XMM register of the guest's");
	}
	for (unsigned i = 0; i < 4; i++) {
		expect(ram, DUMP_CR + i * 8, cr[i], 8, "a control register of the guest's");
		expect(ram, DUMP_DR + i * 8, k->debug.db[i], 8, "a debug register of the guest's");
	}
	for (unsigned i = 0; i < ARRAY_SIZE(own_msrs); i++)
		expect(ram, DUMP_MSR + i * 8, k->msr[i], 8, "an MSR of the guest's");
	expect(ram, DUMP_AUX, k->aux, 4, "the guest's TSC_AUX");
	expect(ram, DUMP_CSR, k->fpu.mxcsr, 4, "the guest's MXCSR");
	expect(ram, DUMP_FCW, k->fpu.fcw, 2, "the guest's x87 control word");
}

static void run_to_port(struct rng *r, int vcpu, const struct kvm_run *run, uint16_t port)
{
	long result;

	do
		result = run_planted(r, vcpu);
	while (result == -4); /* EINTR */
	if (result || run->exit_reason != KVM_EXIT_IO || run->io.port != port) {
		printf("result %ld, exit %u\n", result, run->exit_reason);
		give_up("a guest that tells its values does not come to its port");
	}
}

/* Two megabytes at 0. */
static void make_tables(uint8_t *ram)
{
	const uint64_t entry[3] = { (TABLES + PAGE) | 7, (TABLES + 2 * PAGE) | 7, 0x87 };

	for (unsigned i = 0; i < 3; i++)
		memcpy(ram + TABLES + i * PAGE, &entry[i], 8);
}

struct keeper {
	struct machine *m;
	unsigned which, ms;
	struct rng rng;
};

static void *keep(void *arg)
{
	struct keeper *k = arg;
	struct machine *m = k->m;
	struct known known;
	uint64_t begun = now_ms();

	memset(&known, 0, sizeof(known));
	make_tables(m->ram);
	memcpy(m->ram + CODE, tell, (size_t)(tell_end - tell));
	while (now_ms() - begun < k->ms) {
		set_known(m->vcpu[0], &known, &k->rng);
		run_to_port(&k->rng, m->vcpu[0], m->run[0], 0x80);
		/* Let the other one's state in, on this CPU or another. */
		if (rng_below(&k->rng, 2)) {
			cpu_set_t cpus;

			CPU_ZERO(&cpus);
			CPU_SET(rng_below(&k->rng, 2), &cpus);
			sched_setaffinity(0, sizeof(cpus), &cpus);
		} else {
			sched_yield();
		}
		run_to_port(&k->rng, m->vcpu[0], m->run[0], 0x81);
		check_told(m->ram, &known);
	}
	return NULL;
}

void keep_apart(struct rng *r, unsigned ms)
{
	struct machine m[3];
	struct keeper k[ARRAY_SIZE(m)];
	pthread_t thread[ARRAY_SIZE(m)];

	for (unsigned i = 0; i < ARRAY_SIZE(m); i++) {
		machine_make(&m[i], i & 1);
		k[i] = (struct keeper){ &m[i], i, ms, { rng_next(r) | 1 } };
	}
	for (unsigned i = 0; i < ARRAY_SIZE(m); i++)
		if (pthread_create(&thread[i], NULL, keep, &k[i]))
			give_up("no thread");
	for (unsigned i = 0; i < ARRAY_SIZE(m); i++)
		pthread_join(thread[i], NULL);
}
