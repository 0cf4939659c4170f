// SPDX-License-Identifier: Apache-2.0
/* syscall.c - SYSCALL, SYSENTER, SWAPGS, FSGSBASE, and the way between 64-bit and compatibility mode. */
#include "guest.h"

#define STAR	       0xc0000081u
#define LSTAR	       0xc0000082u
#define CSTAR	       0xc0000083u
#define SFMASK	       0xc0000084u
#define FS_BASE	       0xc0000100u
#define GS_BASE	       0xc0000101u
#define KERNEL_GS_BASE 0xc0000102u

word syscall_seen[8];
extern char syscall_entry[], sysenter_entry[], sysenter_back[];

/* Noted: RCX, R11, RFLAGS, CS, SS. Goes back with SYSRETQ. */
asm(".globl syscall_entry\n"
    "syscall_entry:\n"
    "	mov %rcx, syscall_seen(%rip)\n"
    "	mov %r11, syscall_seen+8(%rip)\n"
    "	mov %rsp, %rdx\n"
    "	mov tss_stack0(%rip), %rsp\n"
    "	pushf\n"
    "	pop %rax\n"
    "	mov %rax, syscall_seen+16(%rip)\n"
    "	mov %cs, %eax\n"
    "	mov %rax, syscall_seen+24(%rip)\n"
    "	mov %ss, %eax\n"
    "	mov %rax, syscall_seen+32(%rip)\n"
    "	mov %rdx, %rsp\n"
    "	mov $0x77, %eax\n"
    "	sysretq\n"
    ".globl sysenter_entry\n"
    "sysenter_entry:\n"
    "	mov %rsp, syscall_seen(%rip)\n"
    "	mov %cs, %eax\n"
    "	mov %rax, syscall_seen+24(%rip)\n"
    "	pushf\n"
    "	pop %rax\n"
    "	mov %rax, syscall_seen+16(%rip)\n"
    "	mov $0x66, %eax\n"
    "	.byte 0x48, 0x0f, 0x35\n");

static word do_syscall(word arg)
{
	word r;

	asm volatile("stc; syscall; 1: lea 1b(%%rip), %%rdx; mov %%rdx, syscall_seen+40(%%rip);"
		     "mov %%cs, %%edx; mov %%rdx, syscall_seen+48(%%rip);"
		     "mov %%ss, %%edx; mov %%rdx, syscall_seen+56(%%rip);"
		     : "=a"(r)
		     : "a"(arg)
		     : "rcx", "rdx", "r11", "memory", "cc");
	return r;
}

static void syscalls(void)
{
	wrmsr(EFER, rdmsr(EFER) | EFER_SCE);
	wrmsr(STAR, 0x18ull << 32 | 0x23ull << 48);
	wrmsr(LSTAR, (word)syscall_entry);
	wrmsr(SFMASK, FL_IF | FL_CF);
	check_equal(user_call(do_syscall, 0x11), 0x77);
	check_equal(syscall_seen[0], syscall_seen[5]);
	check((syscall_seen[1] & (FL_IF | FL_CF)) == (FL_IF | FL_CF));
	check_equal(syscall_seen[2] & (FL_IF | FL_CF), 0);
	check_equal(syscall_seen[3], 0x18);
	check_equal(syscall_seen[4], 0x20);
	check_equal(syscall_seen[6], SEL_USER64);
	check_equal(syscall_seen[7], SEL_USERDATA);
	wrmsr(EFER, rdmsr(EFER) & ~(uint64_t)EFER_SCE);
	TRY("syscall;", : : : "rcx", "r11");
	check_fault(6, 0);
	wrmsr(EFER, rdmsr(EFER) | EFER_SCE);
}

/*
 * The same so often that it is translated, with what may change in between: flags, the entry, the mask, the
 * selectors. Noted by the entries: which it is, RFLAGS, CS, SS, RCX, R11.
 */
word hot_seen[6];
extern char hot_entry_1[], hot_entry_2[];
asm(".macro hot_entry n\n"
    ".globl hot_entry_\\n\n"
    "hot_entry_\\n:\n"
    "	mov %rsp, %r8\n"
    "	mov tss_stack0(%rip), %rsp\n"
    "	lea -256(%rsp), %rsp\n" /* user_leave() wants what is there */
    "	pushf\n"
    "	pop %rax\n"
    "	mov %rax, hot_seen+8(%rip)\n"
    "	movq $\\n, hot_seen(%rip)\n"
    "	mov %cs, %eax\n"
    "	mov %rax, hot_seen+16(%rip)\n"
    "	mov %ss, %eax\n"
    "	mov %rax, hot_seen+24(%rip)\n"
    "	mov %rcx, hot_seen+32(%rip)\n"
    "	mov %r11, hot_seen+40(%rip)\n"
    "	push %r8\n"
    "	push %rcx\n"
    "	push %r11\n"
    "	cld\n"
    "	call hot_kernel\n"
    "	pop %r11\n"
    "	pop %rcx\n"
    "	pop %rsp\n"
    "	sysretq\n"
    ".endm\n"
    "hot_entry 1\n"
    "hot_entry 2\n");

#define HOT_MASK (FL_IF | FL_TF | FL_DF | FL_AC)
#define HOT_STAR (0x18ull << 32 | 0x23ull << 48)

static word hot_mask = HOT_MASK;
static unsigned hot_entry = 1;
word hot_kernel(word n); /* from the entries */

/* What the next call meets. Called now and then: most calls follow another that changed nothing. */
word hot_kernel(word n)
{
	switch (n % 97) {
	case 41:
		hot_entry = 3 - hot_entry;
		wrmsr(LSTAR, (word)(hot_entry == 1 ? hot_entry_1 : hot_entry_2));
		break;
	case 53:
		hot_mask = FL_IF | FL_TF | FL_CF | FL_ZF; /* AC stays on */
		wrmsr(SFMASK, hot_mask);
		break;
	case 60:
		hot_mask = HOT_MASK;
		wrmsr(SFMASK, hot_mask);
		break;
	case 70:
		wrmsr(STAR, (uint64_t)SEL_FREE << 32 | 0x23ull << 48);
		break;
	case 75:
		wrmsr(STAR, HOT_STAR);
		break;
	case 80: /* another epoch of code */
		write_cr3(read_cr3());
		break;
	}
	return n ^ 0x5a5a;
}

static word hot_user(word rounds)
{
	unsigned wrong = 0;

	for (word n = 1; n <= rounds; n++) {
		word x = n * 0x9e3779b97f4a7c15ul >> 40, r = 0, rcx, after, cs, ss, back;
		word flags = user_flags | (x & (0x8d5 | FL_DF)) | (n % 5 ? 0 : x & FL_AC);
		word mask = hot_mask, entry = hot_entry;
		word kernel_cs = n % 97 > 70 && n % 97 <= 75 ? SEL_FREE : 0x18;

		asm volatile("push %7; popf; syscall; 1: pushf; pop %2; cld;"
			     "lea 1b(%%rip), %5; mov %%cs, %k3; mov %%ss, %k4"
			     : "=a"(r), "=c"(rcx), "=&r"(after), "=&r"(cs), "=&r"(ss),
			       "=&r"(back)
			     : "D"(n), "r"(flags)
			     : "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
		wrong += r != (n ^ 0x5a5a) || rcx != back || after != flags || cs != SEL_USER64 ||
			 ss != SEL_USERDATA || hot_seen[0] != entry ||
			 hot_seen[1] != ((flags & ~mask) | 2) || hot_seen[2] != kernel_cs ||
			 hot_seen[3] != kernel_cs + 8 || hot_seen[4] != back ||
			 hot_seen[5] != flags;
	}
	return wrong;
}

static void often(void)
{
	gdt[SEL_FREE / 8] = gdt[0x18 / 8];
	gdt[SEL_FREE / 8 + 1] = gdt[0x10 / 8];
	wrmsr(LSTAR, (word)hot_entry_1);
	wrmsr(SFMASK, hot_mask);
	wrmsr(STAR, HOT_STAR);
	check_equal(user_call(hot_user, 4000), 0);
	/* Off while the way is known. */
	wrmsr(EFER, rdmsr(EFER) & ~(uint64_t)EFER_SCE);
	TRY("syscall;", : : : "rcx", "r11");
	check_fault(6, 0);
	TRY("sysretq;", : : : "rcx", "r11");
	check_fault(6, 0);
	wrmsr(EFER, rdmsr(EFER) | EFER_SCE);
	wrmsr(LSTAR, (word)syscall_entry);
}

static word do_sysenter(word arg)
{
	word r;

	asm volatile("mov %%rsp, %%rcx; lea 1f(%%rip), %%rdx; sysenter; 1:"
		     "mov %%cs, %%edx; mov %%rdx, syscall_seen+48(%%rip);"
		     : "=a"(r)
		     : "a"(arg)
		     : "rcx", "rdx", "r11", "memory", "cc");
	return r;
}

static void sysenter(void)
{
	static char stack[512] __attribute__((aligned(16)));
	/* AMD processors have no SYSENTER in long mode. */
	bool amd = cpuid(0, 0).b == 0x68747541;

	/* Its user segments lie at fixed distances from the kernel's code segment. */
	gdt[SEL_FREE / 8] = 0x00af9b000000ffff;
	gdt[SEL_FREE / 8 + 1] = 0x00cf93000000ffff;
	gdt[SEL_FREE / 8 + 2] = 0x00cffb000000ffff;
	gdt[SEL_FREE / 8 + 3] = 0x00cff3000000ffff;
	gdt[SEL_FREE / 8 + 4] = 0x00affb000000ffff;
	gdt[SEL_FREE / 8 + 5] = 0x00cff3000000ffff;
	wrmsr(0x174, SEL_FREE);
	wrmsr(0x175, (word)stack + sizeof(stack));
	wrmsr(0x176, (word)sysenter_entry);
	if (amd)
		return;
	check_equal(user_call(do_sysenter, 1), 0x66);
	check_equal(syscall_seen[0], (word)stack + sizeof(stack));
	check_equal(syscall_seen[3], SEL_FREE);
	check_equal(syscall_seen[2] & FL_IF, 0);
	check_equal(syscall_seen[6], (SEL_FREE + 32) | 3);
	wrmsr(0x174, 0);
	TRY("sysenter;", : : : "rcx", "rdx");
	check_fault(13, 0);
}

static void bases(void)
{
	uint64_t v;

	wrmsr(GS_BASE, 0x1111222233334444ull & 0x7fffffffffffull);
	wrmsr(KERNEL_GS_BASE, 0xffff888800001111ull);
	asm volatile("swapgs" : : : "memory");
	check_equal(rdmsr(GS_BASE), 0xffff888800001111ull);
	check_equal(rdmsr(KERNEL_GS_BASE), 0x222233334444ull);
	TRY("wrmsr;", : : "c"(GS_BASE), "a"(0), "d"(0x8000) : "memory"); /* not canonical */
	check_fault(13, 0);
	static uint32_t cell[4] = { 5, 6, 7, 8 };

	wrmsr(FS_BASE, (word)cell);
	asm volatile("mov %%fs:8, %%eax" : "=a"(v) : : "memory");
	check_equal((uint32_t)v, 7);
	if (cpuid(7, 0).b & 1) {
		TRY("rdfsbase %0;", : "=r"(v) : :);
		check_fault(6, 0);
		write_cr4(read_cr4() | CR4_FSGSBASE);
		asm volatile("rdfsbase %0" : "=r"(v));
		check_equal(v, (word)cell);
		asm volatile("wrgsbase %0; rdgsbase %1" : "=r"(v) : "r"((word)cell + 4));
		asm volatile("mov %%gs:0, %%eax" : "=a"(v) : : "memory");
		check_equal((uint32_t)v, 6);
		write_cr4(read_cr4() & ~(word)CR4_FSGSBASE);
	}
	asm volatile("mov %0, %%fs; mov %0, %%gs" : : "r"(0));
}

/* 32-bit code in ring 3: registers, INT, addresses that wrap at 4 GiB. */
extern char compat_code[];
asm(".code32\n"
    "compat_code:\n"
    "	mov $0x12345678, %ecx\n"
    "	inc %ecx\n" /* 0x41 is a REX prefix in 64-bit mode */
    "	mov %cs, %edx\n"
    "	pushl $0x55\n"
    "	pop %esi\n"
    "	lcall $0x33, $compat_64\n"
    "	int $0x81\n"
    ".code64\n"
    "compat_64:\n"
    "	mov %cs, %edi\n"
    "	lretl\n");

static struct frame compat_frame;

static void compat_done(struct frame *f)
{
	extern void user_leave(word) __attribute__((noreturn));
	extern word compat_sp;

	compat_frame = *f;
	user_leave(compat_sp);
}

word compat_sp;

static void compat(void)
{
	static char stack[1024] __attribute__((aligned(16)));

	trap_set(0x81, compat_done);
	trap_allow_user(0x81);
	asm volatile("push %%rbp; push %%rbx; push %%r12; push %%r13; push %%r14; push %%r15;"
		     "lea 1f(%%rip), %%rax; sub $8, %%rsp; jmp 2f; 1: jmp 3f;"
		     "2: add $8, %%rsp; lea -56(%%rsp), %%rax; "
		     /* user_leave() pops six registers and returns. */
		     "lea 3f(%%rip), %%rcx; pop %%r15; pop %%r14; pop %%r13; pop %%r12; pop %%rbx;"
		     "pop %%rbp; push %%rcx; push %%rbp; push %%rbx; push %%r12; push %%r13; push %%r14;"
		     "push %%r15; mov %%rsp, compat_sp(%%rip); mov %%rsp, tss_stack0(%%rip);"
		     "push $0x2b; push %0; push $0x202; push $0x23; push %1; iretq; 3:"
		     :
		     : "r"((word)stack + sizeof(stack)), "r"((word)compat_code)
		     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
	check_equal(compat_frame.cs, SEL_USER32);
	check_equal(compat_frame.cx & 0xffffffff, 0x12345679);
	check_equal(compat_frame.dx & 0xffff, SEL_USER32);
	check_equal(compat_frame.si, 0x55);
	check_equal(compat_frame.di & 0xffff, SEL_USER64);
	check_equal(compat_frame.sp, (word)stack + sizeof(stack));
}

/* ---- a program's own descriptors ---- */

/* Back to privilege 3, where IOPL is 0 as under most kernels. */
extern char plain_entry[];
asm(".globl plain_entry\n"
    "plain_entry:\n"
    "	and $~0x3000, %r11\n"
    "	sysretq\n");

/* What LAR says, which does not fault, of @selector; ~0: not the same each time. In a page of its own, so that
 * nothing else there keeps it from being executed as it is. Bits 19:16 are undefined: SDM vol. 2, LAR. */
word lar_often(word selector);
asm(".balign 4096\n"
    "lar_often:\n"
    "	mov $200, %r8d\n"
    "1:	syscall\n"
    "	xor %edx, %edx\n"
    "	lar %edi, %edx\n"
    "	and $0xf0ff00, %edx\n"
    "	cmp $200, %r8d\n"
    "	je 2f\n"
    "	cmp %edx, %esi\n"
    "	jne 3f\n"
    "2:	mov %edx, %esi\n"
    "	dec %r8d\n"
    "	jnz 1b\n"
    "	mov %rsi, %rax\n"
    "	ret\n"
    "3:	mov $-1, %rax\n"
    "	ret\n"
    ".balign 4096\n");

static void descriptors(void)
{
	static uint64_t ldt[2] = { 0, 0x00cff3000000ffff };
	word at = (word)ldt;

	wrmsr(STAR, 0x18ull << 32 | 0x23ull << 48);
	wrmsr(LSTAR, (word)plain_entry);
	wrmsr(SFMASK, 0);
	write_cr0((read_cr0() & ~(word)(CR0_EM | CR0_TS)) | CR0_MP);
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	gdt[SEL_FREE / 8] = (sizeof(ldt) - 1) | (at & 0xffffff) << 16 | 0x82ull << 40 |
			    (at >> 24 & 0xff) << 56;
	gdt[SEL_FREE / 8 + 1] = at >> 32;
	check_equal(user_call(lar_often, 0xf), 0);
	asm volatile("lldt %w0" : : "r"(SEL_FREE) : "memory");
	check_equal(user_call(lar_often, 0xf), 0xc0f300);
	check_equal(user_call(lar_often, 7), 0);
	asm volatile("lldt %w0" : : "r"(0) : "memory");
	check_equal(user_call(lar_often, 0xf), 0);
}

int main(void)
{
	user_open();
	syscalls();
	often();
	sysenter();
	bases();
	compat();
	descriptors();
	return 0;
}
