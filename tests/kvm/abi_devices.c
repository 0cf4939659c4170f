// SPDX-License-Identifier: Apache-2.0
/* abi_devices.c - what of devices in user space the kernel takes off its hands: coalesced writes. */
#include "abi.h"

#include <unistd.h>

#define DEV	 0x400000u /* no slot there */
#define DEV_SIZE 0x100u
#define LAZY	 0x70u /* a port */

static struct kvm_coalesced_mmio_ring *ring;

static int zone(unsigned long request, uint64_t addr, uint32_t size, uint32_t pio)
{
	struct kvm_coalesced_mmio_zone z = { .addr = addr, .size = size, .pio = pio };

	return ioctl(vm, request, &z);
}

static int can_coalesce(const uint8_t *code, size_t len)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int at;

	machine();
	at = has(KVM_CAP_COALESCED_MMIO);
	if (at <= 0)
		return 0;
	ck_assert_int_gt(ioctl(dev, KVM_GET_VCPU_MMAP_SIZE, 0), at * (int)page);
	start(code, len, DEV);
	ring = (void *)((uint8_t *)run + (size_t)at * page);
	return 1;
}

static void check_entry(unsigned i, uint64_t addr, uint32_t len, const void *data, uint32_t pio)
{
	const struct kvm_coalesced_mmio *e = &ring->coalesced_mmio[i];

	ck_assert_uint_eq(e->phys_addr, addr);
	ck_assert_uint_eq(e->len, len);
	ck_assert_uint_eq(e->pio, pio);
	ck_assert_mem_eq(e->data, data, len);
}

START_TEST(writes_are_coalesced)
{
	static const uint8_t code[] = {
		0xc6, 0x06, 0x10, 0x00, 0x55,	    /* mov byte [0x10], 0x55 */
		0xc7, 0x06, 0x20, 0x00, 0x34, 0x12, /* mov word [0x20], 0x1234 */
		0xb0, 0x09, 0xe6, LAZY,		    /* out LAZY, al */
		0xb0, 0x01, 0xe6, PORT,
		0xc7, 0x06, 0xff, 0x00, 0x78, 0x56, /* half of it is behind the zone */
		0xa0, 0x10, 0x00,		    /* and a read is never late */
		0xc6, 0x06, 0x10, 0x00, 0x66,
		0xb0, 0x02, 0xe6, PORT,
	};
	static const uint8_t word[] = { 0x34, 0x12 };
	uint32_t last;

	if (!can_coalesce(code, sizeof(code)))
		return;
	ck_assert_int_eq(zone(KVM_REGISTER_COALESCED_MMIO, DEV, DEV_SIZE, 0), 0);
	if (has(KVM_CAP_COALESCED_PIO) > 0) {
		ck_assert_int_eq(zone(KVM_REGISTER_COALESCED_MMIO, LAZY, 1, 1), 0);
		ck_assert_int_eq(zone(KVM_REGISTER_COALESCED_MMIO, LAZY, 1, 2), -1);
		ck_assert_int_eq(errno, EINVAL);
	}
	ck_assert_int_eq(ioctl(vm, KVM_REGISTER_COALESCED_MMIO, NULL), -1);
	ck_assert_int_eq(errno, EFAULT);
	run_to_port(1);
	ck_assert_uint_eq(ring->first, 0);
	last = ring->last;
	ck_assert_uint_eq(last, 3);
	check_entry(0, DEV + 0x10, 1, "\x55", 0);
	check_entry(1, DEV + 0x20, 2, word, 0);
	check_entry(2, LAZY, 1, "\x09", 1);
	run_to(KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->mmio.phys_addr, DEV + 0xff);
	run_to(KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->mmio.is_write, 0);
	/* From here on each is told at once. */
	ck_assert_int_eq(zone(KVM_UNREGISTER_COALESCED_MMIO, DEV, DEV_SIZE, 0), 0);
	run_to(KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->mmio.data[0], 0x66);
	run_to_port(2);
	ck_assert_uint_eq(ring->last, last);
}
END_TEST

START_TEST(ring_is_full)
{
	static const uint8_t code[] = {
		0xfe, 0xc0, 0xa2, 0x10, 0x00, 0xeb, 0xf9, /* next: inc al; mov [0x10], al; jmp next */
	};
	const uint32_t max = (4096 - sizeof(*ring)) / sizeof(struct kvm_coalesced_mmio);
	uint8_t value;

	if (!can_coalesce(code, sizeof(code)))
		return;
	ck_assert_int_eq(zone(KVM_REGISTER_COALESCED_MMIO, DEV, DEV_SIZE, 0), 0);
	run_to(KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->mmio.data[0], (ring->last + 1) & 0xff);
	if (ring->last == UINT32_MAX % max)
		return; /* older kernels compute the room modulo @max of what has wrapped at 2^32 */
	ck_assert_uint_eq(ring->last, max - 1);
	for (unsigned i = 0; i + 1 < max; i++) {
		value = (uint8_t)(i + 1);
		check_entry(i, DEV + 0x10, 1, &value, 0);
	}
	/* Room for one, at the end of the page. */
	ring->first = 1;
	run_to(KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->mmio.data[0], (max + 2) & 0xff);
	ck_assert_uint_eq(ring->last, 0);
	value = (uint8_t)(max + 1);
	check_entry(max - 1, DEV + 0x10, 1, &value, 0);
	/* Nonsense is no room. */
	ring->last = 0x7fffffff;
	run_to(KVM_EXIT_MMIO);
	ring->last = max;
	run_to(KVM_EXIT_MMIO);
}
END_TEST

TCase *devices_tests(void)
{
	TCase *tc = tcase_create("devices");

	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, writes_are_coalesced);
	tcase_add_test(tc, ring_is_full);
	return tc;
}
