// SPDX-License-Identifier: Apache-2.0
/*
 * abi_apf.c - asynchronous page faults (Documentation/virt/kvm/x86/msr.rst): a guest touches pages that its program has
 * yet to fill (userfaultfd(2)), is told so, works on, and is told when they are there. What the host's KVM does not offer
 * passes.
 */
#include "abi.h"
#include "../kmod/clock.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MSR_EN	   0x4b564d02u
#define MSR_INT	   0x4b564d06u
#define MSR_ACK	   0x4b564d07u
#define ON	   9u /* page-ready events are interrupts */
#define ALWAYS	   2u /* whatever the guest executes */
#define BROADCAST  0xffffffffu
#define VECTOR	   0x61u
#define NOT_RAM	   0x40000000u
#define PAGE	   4096u
#define MOST_WAITS 64u

/* In RAM; the guest below has the same numbers. */
#define IDT	     0x10000u
#define GDT	     0x11000u
#define DIRECTORY    0x12000u
#define AREA	     0x14000u
#define NOTES	     0x15000u
#define TASK	     0x17000u
#define STACK	     0x60000u
#define ABSENT	     0x80000u
#define ABSENT_PAGES 100u

/* What the guest writes down, and is asked for. */
struct notes {
	uint32_t faults, told, work, value;
	uint32_t wanted; /* pages that it touches, one in the handler of another's fault */
	uint32_t silent; /* it looks at no event, and goes on behind the access */
	uint32_t pad[10];
	uint32_t token[128], flags[128], ready[128];
};

/* clang-format off */
asm(".pushsection .rodata\n.code32\n"
"apf_begin:\n"
"apf_main: pause\n"			/* interrupts may be on, or off */
"	movb $1, %al\n	outb %al, $0xf4\n"
"	movl 0x80000, %eax\n"
"	movl %eax, 0x1500c\n"
"	movb $2, %al\n	outb %al, $0xf4\n"
"	jmp apf_main\n"
"apf_one: movl 0x80000(%esi), %eax\n"
"	movb $5, %al\n	outb %al, $0xf4\n"
"apf_all: xorl %esi, %esi\n"		/* each page once, which is an instruction of six bytes */
"1:	movl 0x80000(%esi), %eax\n"
"	addl $4096, %esi\n"
"	cmpl $100 * 4096, %esi\n	jb 1b\n"
"	movb $3, %al\n	outb %al, $0xf4\n"
"apf_idle: movl $2000000, %ecx\n"	/* time for interrupts to come */
"1:	decl %ecx\n	jnz 1b\n"
"	movb $4, %al\n	outb %al, $0xf4\n"
"apf_fault: pushal\n"
"	movl 0x15000, %ebx\n"
"	movl %cr2, %eax\n	movl %eax, 0x15040(,%ebx,4)\n"
"	movl 0x14000, %eax\n	movl %eax, 0x15240(,%ebx,4)\n"
"	movl $0, 0x14000\n"
"	incl %ebx\n	movl %ebx, 0x15000\n"
"	cmpl $0, 0x15014\n	jne 3f\n"
"	sti\n"
"	cmpl 0x15010, %ebx\n	jae 1f\n"
"	shll $12, %ebx\n	movl 0x80000(%ebx), %eax\n"
"1:	incl 0x15008\n"			/* until as many pages are there as faulted, beside the first event */
"	pause\n"
"	movl 0x15004, %ecx\n	decl %ecx\n	cmpl 0x15000, %ecx\n	jb 1b\n"
"	cli\n"
"2:	popal\n	addl $4, %esp\n	iretl\n"
"3:	addl $6, 36(%esp)\n	jmp 2b\n"
"apf_ready: pushal\n"
"	movl 0x15004, %ebx\n"
"	movl 0x14004, %eax\n	movl %eax, 0x15440(,%ebx,4)\n"
"	incl 0x15004\n"
"	movl $0, 0xfee000b0\n"
"	cmpl $0, 0x15014\n	jne 1f\n"
"	movl $0, 0x14004\n"
"	movl $0x4b564d07, %ecx\n	movl $1, %eax\n	xorl %edx, %edx\n	wrmsr\n"
"1:	popal\n	iretl\n"
"apf_end:\n"
".code64\n.popsection\n");
/* clang-format on */

extern const uint8_t apf_begin[], apf_main[], apf_all[], apf_one[], apf_idle[], apf_fault[], apf_ready[], apf_end[];

static volatile struct notes *notes(void)
{
	return (volatile struct notes *)(ram + NOTES);
}

static uint32_t at(const uint8_t *label)
{
	return CODE + (uint32_t)(label - apf_begin);
}

/* ---- the machine: 32-bit code, a page for each 4 MiB, interrupt controllers ---- */

static void gate(unsigned vector, uint32_t to)
{
	uint32_t entry[2] = { 8u << 16 | (to & 0xffff), (to & 0xffff0000) | 0x8e00 };

	memcpy(ram + IDT + 8 * (size_t)vector, entry, sizeof(entry));
}

static void put32(uint32_t addr, uint32_t value)
{
	memcpy(ram + addr, &value, sizeof(value));
}

static struct kvm_segment flat(unsigned selector, unsigned type)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = (uint16_t)selector, .type = (uint8_t)type,
				     .present = 1, .s = 1, .db = 1, .g = 1, .dpl = selector & 3 };
}

static void set_mode(unsigned cpl)
{
	unsigned code = cpl ? 0x1b : 8, data = cpl ? 0x23 : 0x10;
	struct kvm_sregs sregs;

	ck_assert_int_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	sregs.cs = flat(code, 11);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(data, 3);
	sregs.gdt = (struct kvm_dtable){ .base = GDT, .limit = 0x2f };
	sregs.idt = (struct kvm_dtable){ .base = IDT, .limit = 0x7ff };
	/* QEMU 7.2 does not know a busy one as such; VT-x wants it busy. */
	sregs.tr = (struct kvm_segment){ .base = TASK, .limit = 0x67, .selector = 0x28, .present = 1,
					 .type = __builtin_cpu_is("amd") ? 9 : 11 };
	sregs.cr0 = 0x80000011;
	sregs.cr3 = DIRECTORY;
	sregs.cr4 = 0x10;
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
}

static void go_to(const uint8_t *label, int interrupts)
{
	struct kvm_regs regs = { .rip = at(label), .rsp = STACK, .rflags = 0x3002 | (interrupts ? 0x200 : 0) };

	ck_assert_int_eq(ioctl(vcpu, KVM_SET_REGS, &regs), 0);
}

static int uffd;

/* False: not on this host. */
static int prepare(void)
{
	static const uint64_t table[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff,
					  0x00cff3000000ffff, 0x0000890170000067 };
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	machine();
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (!on_hardware() || has(KVM_CAP_ASYNC_PF) <= 0 || has(KVM_CAP_ASYNC_PF_INT) <= 0 || uffd < 0)
		return 0;
	ck_assert_int_eq(ioctl(uffd, UFFDIO_API, &api), 0);
	range.range.start = (uintptr_t)ram + ABSENT;
	range.range.len = ABSENT_PAGES * PAGE;
	ck_assert_int_eq(ioctl(uffd, UFFDIO_REGISTER, &range), 0);
	ck_assert_int_eq(ioctl(vm, KVM_CREATE_IRQCHIP, 0), 0);
	start(apf_begin, (size_t)(apf_end - apf_begin), 0);
	memcpy(ram + GDT, table, sizeof(table));
	gate(14, at(apf_fault));
	gate(VECTOR, at(apf_ready));
	put32(DIRECTORY, 0x87);
	put32(DIRECTORY + 4 * (APIC >> 22), (APIC & 0xffc00000) | 0x93);
	put32(TASK + 4, STACK - 0x1000);
	put32(TASK + 8, 0x10);
	return 1;
}

/* The local APIC takes interrupts; then whoever waits is woken, since a machine may have come from elsewhere. */
static void enable(unsigned cpl, uint64_t bits)
{
	struct kvm_lapic_state lapic;

	ck_assert_int_eq(ioctl(vcpu, KVM_GET_LAPIC, &lapic), 0);
	lapic.regs[0xf1] |= 1;
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_LAPIC, &lapic), 0);
	set_mode(0);
	msr_set(MSR_INT, VECTOR);
	msr_set(MSR_EN, AREA | bits);
	go_to(apf_idle, 1);
	run_to_port(4);
	ck_assert_uint_eq(notes()->told, 1);
	ck_assert_uint_eq(notes()->ready[0], BROADCAST);
	ck_assert_uint_eq(notes()->faults, 0);
	set_mode(cpl);
}

/* ---- who fills the pages ---- */

static void fill(unsigned page)
{
	static uint8_t from[PAGE] __attribute__((aligned(4096)));
	struct uffdio_copy copy = { .dst = (uintptr_t)ram + ABSENT + page * PAGE, .src = (uintptr_t)from, .len = PAGE };
	uint32_t value = 0x1000 + page;

	memcpy(from, &value, sizeof(value));
	ck_assert(ioctl(uffd, UFFDIO_COPY, &copy) == 0 || copy.copy == -EEXIST);
}

/* When the guest does something else, or after a time. */
static void *fill_late(void *arg)
{
	unsigned pages = *(unsigned *)arg;

	for (unsigned i = 0; i < 100 && notes()->work < 1000; i++)
		sleep_ms(10);
	*(unsigned *)arg = notes()->work;
	for (unsigned i = pages; i--;) /* the last first */
		fill(i);
	return NULL;
}

/* ---- tests ---- */

START_TEST(values_are_looked_at)
{
	if (!prepare())
		return;
	msr_refuses(MSR_EN, AREA | ON | 0x10);
	msr_refuses(MSR_EN, AREA | ON | 0x20);
	msr_refuses(MSR_EN, NOT_RAM | ON);
	msr_refuses(MSR_INT, 0x100);
	msr_set(MSR_EN, 0);
	msr_set(MSR_EN, AREA | ON | ALWAYS | 4);
	msr_set(MSR_EN, AREA | 1); /* without interrupts: nothing comes of it */
	msr_set(MSR_INT, 0xff);
	msr_set(MSR_ACK, 0);
}
END_TEST

/* Pages are brought in while the guest works on, in whatever order. */
static void check_told(unsigned pages)
{
	for (unsigned i = 0; i < pages; i++) {
		int found = 0;

		ck_assert_uint_eq(notes()->flags[i], 1);
		ck_assert_uint_ne(notes()->token[i], 0);
		for (unsigned j = 0; j < pages; j++) {
			found += notes()->ready[1 + j] == notes()->token[i];
			ck_assert(i == j || notes()->token[i] != notes()->token[j]);
		}
		ck_assert_int_eq(found, 1);
	}
}

static void touch(unsigned cpl, uint64_t bits, int interrupts, unsigned pages)
{
	int told = interrupts && (cpl || bits & ALWAYS);
	unsigned work = pages;
	pthread_t filler;

	if (!prepare())
		return;
	notes()->wanted = pages;
	enable(cpl, bits);
	go_to(apf_main, interrupts);
	run_to_port(1);
	ck_assert_int_eq(pthread_create(&filler, NULL, fill_late, &work), 0);
	run_to_port(2);
	pthread_join(filler, NULL);
	ck_assert_uint_eq(notes()->value, 0x1000);
	ck_assert_uint_eq(notes()->faults, told ? pages : 0);
	ck_assert_uint_eq(notes()->told, told ? 1 + pages : 1);
	if (told)
		ck_assert_uint_ge(work, 1000);
	check_told(told ? pages : 0);
	/* A page that is there is nothing to tell of. */
	run_to_port(1);
	run_to_port(2);
	ck_assert_uint_eq(notes()->faults, told ? pages : 0);
}

START_TEST(program_works_on)
{
	touch(3, ON, 1, 1);
}
END_TEST

START_TEST(kernel_that_wants_it_works_on)
{
	touch(0, ON | ALWAYS, 1, 1);
}
END_TEST

START_TEST(several_are_told_in_turn)
{
	touch(0, ON | ALWAYS, 1, 10);
}
END_TEST

START_TEST(kernel_is_not_told)
{
	touch(0, ON, 1, 1);
}
END_TEST

START_TEST(nobody_is_told_with_interrupts_off)
{
	touch(0, ON | ALWAYS, 0, 1);
}
END_TEST

/* It neither waits nor looks at what it is told. */
START_TEST(waits_are_bounded)
{
	unsigned pages = ABSENT_PAGES;
	pthread_t filler;

	if (!prepare())
		return;
	enable(0, ON | ALWAYS);
	notes()->silent = 1;
	go_to(apf_all, 1);
	ck_assert_int_eq(pthread_create(&filler, NULL, fill_late, &pages), 0);
	run_to_port(3);
	pthread_join(filler, NULL);
	ck_assert_uint_ge(notes()->faults, 10);
	ck_assert_uint_le(notes()->faults, MOST_WAITS);
	run_to_port(4);
	/* One token, which is never taken. */
	ck_assert_uint_eq(notes()->told, 2);
}
END_TEST

/* ---- what becomes of waits ---- */

/* The guest has been told of a page, and nobody fills it. It looks at no event. */
static int leave_waiting(void)
{
	if (!prepare())
		return 0;
	enable(0, ON | ALWAYS);
	notes()->silent = 1;
	go_to(apf_one, 1);
	run_to_port(5);
	ck_assert_uint_eq(notes()->faults, 1);
	return 1;
}

static void idle(unsigned times)
{
	for (unsigned i = 0; i < times; i++) {
		go_to(apf_idle, 1);
		run_to_port(4);
	}
}

static void *fill_after(void *ms)
{
	sleep_ms(*(unsigned *)ms);
	fill(0);
	return NULL;
}

/* For the page that is under way nobody waits but the stock driver. */
static void check_prompt(uint64_t begun, unsigned ms)
{
	if (!access("/sys/module/sika_kvm", F_OK))
		ck_assert_uint_lt(now_ms() - begun, ms);
}

START_TEST(who_disables_it_is_not_told)
{
	unsigned ms = 1000;
	pthread_t filler;
	uint64_t begun;

	if (!leave_waiting())
		return;
	ck_assert_int_eq(pthread_create(&filler, NULL, fill_after, &ms), 0);
	begun = now_ms();
	msr_set(MSR_EN, 0);
	check_prompt(begun, ms / 2);
	pthread_join(filler, NULL);
	idle(20);
	ck_assert_uint_eq(notes()->told, 1);
	/* Who enables it again hears at once that all are to look anew. */
	notes()->silent = 0;
	msr_set(MSR_EN, AREA | ON | ALWAYS);
	idle(20);
	ck_assert_uint_eq(notes()->told, 2);
	ck_assert_uint_eq(notes()->ready[1], BROADCAST);
}
END_TEST

/* The program's memory there is another's, or none. */
START_TEST(memory_goes_while_a_page_waits)
{
	struct kvm_userspace_memory_region region = { 0 };
	struct uffdio_range range = { .len = ABSENT_PAGES * PAGE };

	if (!leave_waiting())
		return;
	region.userspace_addr = (uintptr_t)ram;
	range.start = (uintptr_t)ram + ABSENT;
	notes()->silent = 0;
	ck_assert_int_eq(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
	region.memory_size = ABSENT;
	ck_assert_int_eq(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
	ck_assert_int_eq(munmap(ram + ABSENT, ABSENT_PAGES * PAGE), 0);
	ck_assert_int_eq(ioctl(uffd, UFFDIO_WAKE, &range), 0);
	for (unsigned i = 0; i < 100 && notes()->told < 2; i++)
		idle(1);
	ck_assert_uint_eq(notes()->told, 2);
	ck_assert_uint_eq(notes()->ready[1], notes()->token[0]);
}
END_TEST

START_TEST(machine_goes_while_a_page_waits)
{
	unsigned ms = 2000;
	pthread_t filler;
	uint64_t begun;

	if (!leave_waiting())
		return;
	ck_assert_int_eq(pthread_create(&filler, NULL, fill_after, &ms), 0);
	begun = now_ms();
	ck_assert_int_eq(munmap(run, (size_t)ioctl(dev, KVM_GET_VCPU_MMAP_SIZE, 0)), 0);
	close(vcpu);
	close(vm);
	check_prompt(begun, ms / 2);
	pthread_join(filler, NULL);
	ck_assert_uint_eq(*(volatile uint32_t *)(ram + ABSENT), 0x1000);
}
END_TEST

/* A process that is killed takes everything along, whoever still works for it. */
START_TEST(process_goes_while_a_page_waits)
{
	int ready[2], status;
	char byte = 0;
	pid_t child;

	ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
	child = fork();
	ck_assert_int_ge(child, 0);
	if (!child) {
		byte = (char)leave_waiting();
		if (write(ready[1], &byte, 1) == 1)
			pause();
		_exit(1);
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	ck_assert_int_eq(kill(child, SIGKILL), 0);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFSIGNALED(status));
}
END_TEST

TCase *apf_tests(void)
{
	TCase *tests = tcase_create("apf");

	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, values_are_looked_at);
	tcase_add_test(tests, program_works_on);
	tcase_add_test(tests, kernel_that_wants_it_works_on);
	tcase_add_test(tests, several_are_told_in_turn);
	tcase_add_test(tests, kernel_is_not_told);
	tcase_add_test(tests, nobody_is_told_with_interrupts_off);
	tcase_add_test(tests, waits_are_bounded);
	tcase_add_test(tests, who_disables_it_is_not_told);
	tcase_add_test(tests, memory_goes_while_a_page_waits);
	tcase_add_test(tests, machine_goes_while_a_page_waits);
	tcase_add_test(tests, process_goes_while_a_page_waits);
	return tests;
}
