// SPDX-License-Identifier: Apache-2.0
/*
 * abi_pv.c - what guests are offered that know KVM (Documentation/virt/kvm/x86/cpuid.rst, msr.rst). What the host's
 * KVM does not offer passes.
 */
#include "abi.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define LEAF_FEATURES	   0x40000001u
#define FEATURE_STEAL_TIME 5
#define FEATURE_PV_EOI	   6

#define MSR_STEAL_TIME 0x4b564d03u
#define MSR_EOI_EN     0x4b564d04u
#define MSR_ON	       1u

#define STEAL_PAGE 0x6040u
#define EOI_WORD   0x6000u
#define PREEMPTED  1u

/* A number of entries that is enough on all hosts. */
#define LEAVES 256u
#define MSRS   1024u

static int offers(unsigned feature)
{
	struct kvm_cpuid2 *list = calloc(1, sizeof(*list) + LEAVES * sizeof(list->entries[0]));
	uint32_t eax = 0;

	list->nent = LEAVES;
	ck_assert_int_eq(ioctl(dev, KVM_GET_SUPPORTED_CPUID, list), 0);
	for (unsigned i = 0; i < list->nent; i++) {
		if (list->entries[i].function == LEAF_FEATURES)
			eax = list->entries[i].eax;
	}
	free(list);
	return eax >> feature & 1;
}

/* What a saved machine carries. */
static int is_saved(uint32_t index)
{
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + MSRS * sizeof(list->indices[0]));
	int found = 0;

	list->nmsrs = MSRS;
	ck_assert_int_eq(ioctl(dev, KVM_GET_MSR_INDEX_LIST, list), 0);
	for (unsigned i = 0; i < list->nmsrs; i++)
		found |= list->indices[i] == index;
	free(list);
	return found;
}

/* ---- time that others take ---- */

struct steal {
	uint64_t ns;
	uint32_t version, flags;
	uint8_t preempted;
};

static volatile struct steal *steal_page(void)
{
	return (volatile struct steal *)(ram + STEAL_PAGE);
}

/* Both it and the vCPU are to have one and the same CPU: when it runs, the vCPU does not. */
static volatile int over, seen_preempted;

static void *compete(void *arg)
{
	while (!over)
		seen_preempted += steal_page()->preempted == PREEMPTED;
	return arg;
}

static void one_cpu(void)
{
	cpu_set_t cpus, one;

	ck_assert_int_eq(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
	CPU_ZERO(&one);
	for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++) {
		if (CPU_ISSET(i, &cpus))
			CPU_SET(i, &one);
	}
	ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

START_TEST(time_is_stolen)
{
	static const uint8_t code[] = {
		0xfb, /* sti: Bochs lets the host's interrupts end its stay only so */
		0xb9, 0xff, 0xff, 0xe2, 0xfe, /* mov cx, -1; loop to itself */
		0xa0, 0x50, 0x60, /* mov al, [STEAL_PAGE + 16] */
		0xe6, PORT, 0xeb, 0xf4,
	};
	pthread_t rival;
	uint64_t before;
	int64_t end;

	machine();
	if (!offers(FEATURE_STEAL_TIME))
		return;
	ck_assert(is_saved(MSR_STEAL_TIME));
	start(code, sizeof(code), 0);
	msr_refuses(MSR_STEAL_TIME, STEAL_PAGE | MSR_ON | 2);
	/* Where there is no RAM nothing comes of it. */
	msr_set(MSR_STEAL_TIME, 0x40000000 | MSR_ON);
	run_to_port(0);
	msr_set(MSR_STEAL_TIME, STEAL_PAGE | MSR_ON);
	/* As a machine has it that comes from elsewhere: the time goes on, and the mark of old does not stay. */
	steal_page()->ns = 1ull << 40;
	steal_page()->version = 7;
	steal_page()->preempted = PREEMPTED;
	run_to_port(0);
	ck_assert_uint_ge(steal_page()->ns, 1ull << 40);
	ck_assert_uint_gt(steal_page()->version, 7);
	one_cpu();
	run_to_port(0);
	before = steal_page()->ns;
	ck_assert_int_eq(pthread_create(&rival, NULL, compete, NULL), 0);
	/* It never sees itself without a CPU. */
	for (end = now_ms() + 500; now_ms() < end;)
		run_to_port(0);
	over = 1;
	pthread_join(rival, NULL);
	run_to_port(0);
	ck_assert_uint_eq(steal_page()->version & 1, 0);
	ck_assert_uint_gt(steal_page()->ns, before + 20 * 1000000);
	ck_assert_uint_lt(steal_page()->ns, before + 20ull * 1000000000);
	/* A KVM that interprets is in the middle of an instruction at most times. */
	ck_assert(seen_preempted > 0 || !on_hardware());
	/* Once it is off, nothing is written any more. */
	msr_set(MSR_STEAL_TIME, STEAL_PAGE);
	steal_page()->version = 1;
	run_to_port(0);
	ck_assert_uint_eq(steal_page()->version, 1);
}
END_TEST

/* ---- ends of interrupts ---- */

/* The processor delivers interrupts as the driver says, one by one: AMD's, unless it does so by itself. */
static int delivers_by_driver(void)
{
	FILE *file = fopen("/sys/module/kvm_amd/parameters/avic", "re");
	char avic = 'N', line[8192];
	int found = 0;

	if (file && fread(&avic, 1, 1, file) == 1)
		avic = avic == '1' ? 'Y' : avic;
	if (file)
		fclose(file);
	file = fopen("/proc/cpuinfo", "re");
	while (file && !found && fgets(line, sizeof(line), file))
		found = !strncmp(line, "flags", 5) && strstr(line, " svm");
	if (file)
		fclose(file);
	return found && avic != 'Y';
}

static void send(uint8_t vector)
{
	struct kvm_msi msi = { .address_lo = APIC, .data = vector };

	ck_assert_int_eq(ioctl(vm, KVM_SIGNAL_MSI, &msi), 1);
}

/* The handler tells whether the end was by the word, which it clears; else it writes to the register. */
static int handled(void)
{
	struct kvm_lapic_state lapic;
	uint8_t told;

	run_to(KVM_EXIT_IO);
	told = ((uint8_t *)run)[run->io.data_offset];
	ck_assert_uint_le(told, 1);
	/* Whichever way, it is not in service any more. */
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_LAPIC, &lapic), 0);
	for (unsigned i = 0; i < 8; i++)
		ck_assert_int_eq(lapic.regs[0x100 + 0x10 * i + 1] | lapic.regs[0x100 + 0x10 * i + 2] << 8, 0);
	return told;
}

START_TEST(ends_are_told_by_memory)
{
	static const uint8_t code[] = {
		0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00, 0x00, /* mov dword [0xf0], 0x1ff */
		0xb0, 0x09, 0xe6, PORT,				      /* enabled: tell */
		0xfb, 0xf4, 0xeb, 0xfd,				      /* sti; hlt; jmp back */
	};
	static const uint8_t handler[] = {
		0x2e, 0x0f, 0xba, 0x36, 0x00, 0x60, 0x00, /* btr word [cs:EOI_WORD], 0 */
		0x0f, 0x92, 0xc0, 0x72, 0x09,		  /* setc al; jc to the out */
		0x66, 0xc7, 0x06, 0xb0, 0x00, 0x00, 0x00, 0x00, 0x00, /* mov dword [0xb0], 0 */
		0xe6, PORT, 0xcf,
	};

	int by_word = 0;

	machine();
	if (!offers(FEATURE_PV_EOI) || has(KVM_CAP_IRQCHIP) <= 0 || has(KVM_CAP_SIGNAL_MSI) <= 0)
		return;
	ck_assert(is_saved(MSR_EOI_EN));
	ck_assert_int_eq(ioctl(vm, KVM_CREATE_IRQCHIP, 0), 0);
	start(code, sizeof(code), APIC);
	put_handler(0x41, handler, sizeof(handler));
	put_handler(0x51, handler, sizeof(handler));
	msr_refuses(MSR_EOI_EN, EOI_WORD | MSR_ON | 2);
	msr_refuses(MSR_EOI_EN, 0x40000000 | MSR_ON);
	msr_set(MSR_EOI_EN, EOI_WORD | MSR_ON);
	run_to_port(9);
	/* An exit on the way takes the offer back: where a page is brought in, or the host is interrupted. */
	for (unsigned i = 0; i < 20; i++) {
		send(0x41);
		by_word += handled();
	}
	ck_assert_int_ge(by_word, delivers_by_driver() ? 10 : 0);
	/* The end of the first is what lets in the second. */
	send(0x41);
	send(0x51);
	ck_assert_int_eq(handled(), 0);
	(void)handled();
	msr_set(MSR_EOI_EN, EOI_WORD);
	send(0x41);
	ck_assert_int_eq(handled(), 0);
}
END_TEST

TCase *pv_tests(void)
{
	TCase *tests = tcase_create("pv");

	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, time_is_stolen);
	tcase_add_test(tests, ends_are_told_by_memory);
	return tests;
}
