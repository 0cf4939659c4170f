// SPDX-License-Identifier: Apache-2.0
/*
 * abi.c - what other monitors than ours ask of /dev/kvm (Documentation/virt/kvm/api.rst): the machine that the tests
 * run on, and which tests there are.
 *
 * Skipped (status 77) where /dev/kvm does not open; a test of what the host's KVM does not offer passes.
 */
#include "abi.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int dev, vm, vcpu;
struct kvm_run *run;
uint8_t *ram;

void machine(void)
{
	struct kvm_userspace_memory_region region = { .memory_size = RAM_BYTES };

	dev = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(dev, 0);
	vm = ioctl(dev, KVM_CREATE_VM, 0);
	ck_assert_int_ge(vm, 0);
	ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(ram, MAP_FAILED);
	region.userspace_addr = (uintptr_t)ram;
	ck_assert_int_eq(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
}

int has(int cap)
{
	return ioctl(dev, KVM_CHECK_EXTENSION, cap);
}

int on_hardware(void)
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	char line[8192];
	int found = 0;

	while (file && !found && fgets(line, sizeof(line), file))
		found = !strncmp(line, "flags", 5) && (strstr(line, " svm") || strstr(line, " vmx"));
	if (file)
		fclose(file);
	return found;
}

void start(const uint8_t *code, size_t len, uint64_t ds)
{
	int size = ioctl(dev, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_regs regs = { .rip = CODE, .rflags = 2, .rsp = 0x8000 };
	struct kvm_sregs sregs;

	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	ck_assert_int_ge(vcpu, 0);
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	ck_assert_ptr_ne(run, MAP_FAILED);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = sregs.cs.selector = 0;
	sregs.ds.base = ds;
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_REGS, &regs), 0);
	memcpy(ram + CODE, code, len);
}

void put_handler(unsigned vector, const uint8_t *code, size_t len)
{
	uint16_t entry[2] = { HANDLER, 0 };

	memcpy(ram + 4 * vector, entry, sizeof(entry));
	memcpy(ram + HANDLER, code, len);
}

int run_on(void)
{
	int r;

	do {
		r = ioctl(vcpu, KVM_RUN, 0);
	} while (r < 0 && errno == EINTR);
	return r;
}

void run_to(uint32_t reason)
{
	struct kvm_regs regs = { 0 };
	int r = run_on();

	ck_assert_msg(r == 0, "KVM_RUN: %s, reason %u", strerror(errno), run->exit_reason);
	if (run->exit_reason != reason)
		(void)ioctl(vcpu, KVM_GET_REGS, &regs);
	ck_assert_msg(run->exit_reason == reason, "reason %u, not %u, at %#llx", run->exit_reason,
		      reason, regs.rip);
}

void run_to_port(uint8_t value)
{
	run_to(KVM_EXIT_IO);
	ck_assert_uint_eq(run->io.port, PORT);
	ck_assert_uint_eq(((uint8_t *)run)[run->io.data_offset], value);
}

int msr(unsigned long request, uint32_t index, uint64_t *value)
{
	union one_msr m = { .head.nmsrs = 1 };
	int r;

	m.head.entries[0] = (struct kvm_msr_entry){ .index = index, .data = *value };
	r = ioctl(vcpu, request, &m);
	*value = m.head.entries[0].data;
	return r;
}

void msr_set(uint32_t index, uint64_t value)
{
	uint64_t back = 0, given = value;

	ck_assert_int_eq(msr(KVM_SET_MSRS, index, &given), 1);
	ck_assert_int_eq(msr(KVM_GET_MSRS, index, &back), 1);
	ck_assert_uint_eq(back, value);
}

void msr_refuses(uint32_t index, uint64_t value)
{
	ck_assert_int_eq(msr(KVM_SET_MSRS, index, &value), 0);
}

int main(void)
{
	Suite *suite = suite_create("kvm abi");
	SRunner *runner;
	int failed, fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return 77;
	close(fd);
	suite_add_tcase(suite, chips_tests());
	suite_add_tcase(suite, memory_tests());
	suite_add_tcase(suite, devices_tests());
	suite_add_tcase(suite, debug_tests());
	suite_add_tcase(suite, stats_tests());
	suite_add_tcase(suite, ring_tests());
	suite_add_tcase(suite, lines_tests());
	suite_add_tcase(suite, cpu_tests());
	suite_add_tcase(suite, real_tests());
	suite_add_tcase(suite, pv_tests());
	suite_add_tcase(suite, apf_tests());
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
