// SPDX-License-Identifier: Apache-2.0
/* abi_cpu.c - instructions that the processor lacks and the kernel executes (KVM_GET_EMULATED_CPUID), and whose the
 * time is. */
#include "abi.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define LEAVES 256u
#define MOVBE  (1u << 22) /* leaf 1, ECX */

static struct kvm_cpuid2 *leaves(unsigned long request)
{
	struct kvm_cpuid2 *list = calloc(1, sizeof(*list) + LEAVES * sizeof(list->entries[0]));

	list->nent = LEAVES;
	ck_assert_int_eq(ioctl(dev, request, list), 0);
	ck_assert_uint_gt(list->nent, 0);
	ck_assert_uint_le(list->nent, LEAVES);
	return list;
}

static struct kvm_cpuid_entry2 *leaf_of(struct kvm_cpuid2 *list, uint32_t function)
{
	for (unsigned i = 0; i < list->nent; i++) {
		if (list->entries[i].function == function)
			return &list->entries[i];
	}
	ck_abort_msg("no leaf %#x", function);
	return NULL;
}

/* Either the processor executes it or the kernel does; without it in CPUID it is #UD where the processor lacks it. A KVM that
 * software backs does not have it, whatever it says. */
START_TEST(movbe_is_executed_where_it_is_emulated)
{
	static const uint8_t code[] = {
		0x0f, 0x38, 0xf0, 0x06, 0x00, 0x50, /* movbe ax, [0x5000] */
		0xe6, PORT,			    /* out PORT, al */
		0x0f, 0x0b,			    /* ud2 */
	};
	static const uint8_t handler[] = { 0xb0, 0x66, 0xe6, PORT };
	struct kvm_cpuid2 *emulated, *shown, tight = { 0 };

	machine();
	if (!on_hardware() || has(KVM_CAP_EXT_EMUL_CPUID) <= 0)
		return;
	ck_assert_int_eq(ioctl(dev, KVM_GET_EMULATED_CPUID, &tight), -1);
	ck_assert_int_eq(errno, E2BIG);
	emulated = leaves(KVM_GET_EMULATED_CPUID);
	shown = leaves(KVM_GET_SUPPORTED_CPUID);
	ck_assert_uint_ge(leaf_of(emulated, 0)->eax, 1);
	ck_assert(leaf_of(emulated, 1)->ecx & MOVBE);
	leaf_of(shown, 1)->ecx |= MOVBE;
	start(code, sizeof(code), 0);
	put_handler(6, handler, sizeof(handler));
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_CPUID2, shown), 0);
	ram[0x5000] = 0x12;
	ram[0x5001] = ram[0x5003] = 0x34; /* QEMU 7.2 takes four bytes, whatever the mode */
	run_to_port(0x34);
	run_to_port(0x66);
	free(emulated);
	free(shown);
}
END_TEST

/* Field 43 of proc(5)'s stat: this process' time in guests, in clock ticks. */
static unsigned long guest_time(void)
{
	char text[1024] = "", *at;
	FILE *f = fopen("/proc/self/stat", "re");
	unsigned long ticks;

	ck_assert_ptr_nonnull(f);
	ck_assert(fgets(text, sizeof(text), f));
	fclose(f);
	at = strrchr(text, ')');
	ck_assert_ptr_nonnull(at);
	for (int field = 2; field < 43; field++) {
		at = strchr(at + 1, ' ');
		ck_assert_ptr_nonnull(at);
	}
	ticks = strtoul(at, NULL, 10);
	return ticks;
}

/* It is left now and then: in Bochs a guest that only goes round is not, by no interrupt. */
START_TEST(time_in_the_guest_is_its_own)
{
	static const uint8_t code[] = {
		0xb9, 0xff, 0xff, 0xe2, 0xfe, /* mov cx, -1; loop to itself */
		0xe6, PORT, 0xeb, 0xf7,
	};
	time_t begun;

	machine();
	if (!on_hardware()) /* no mode of the processor to count */
		return;
	start(code, sizeof(code), 0);
	/* A whole second and what is left of the one under way. */
	for (begun = time(NULL); time(NULL) < begun + 2;)
		run_to(KVM_EXIT_IO);
	/* A busy host has no whole second for it. */
	ck_assert_uint_ge(guest_time(), (unsigned long)sysconf(_SC_CLK_TCK) / 5);
}
END_TEST

TCase *cpu_tests(void)
{
	TCase *tests = tcase_create("cpu");

	tcase_add_test(tests, movbe_is_executed_where_it_is_emulated);
	tcase_add_test(tests, time_in_the_guest_is_its_own);
	return tests;
}
