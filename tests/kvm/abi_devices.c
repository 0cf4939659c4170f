// SPDX-License-Identifier: Apache-2.0
/* abi_devices.c - devices in user space: loads and stores of all widths; what the kernel takes off its hands, coalesced writes. */
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

/* The register that has changed: a number, or none. */
#define NONE 16u
enum { RAX, RCX, RDX, RBX, RSP, REGS = 16 };

#define REGISTERS 0x1122334455660000ull /* and the number in each of the lower bytes */

static uint64_t before(unsigned i)
{
	return REGISTERS | i << 12 | i << 4 | 0x101;
}

static void set_registers(void)
{
	struct kvm_regs r = {
		.rax = before(0), .rcx = before(1), .rdx = before(2), .rbx = before(3), .rsp = before(4),
		.rbp = before(5), .rsi = before(6), .rdi = before(7), .r8 = before(8), .r9 = before(9),
		.r10 = before(10), .r11 = before(11), .r12 = before(12), .r13 = before(13), .r14 = before(14),
		.r15 = before(15), .rip = CODE, .rflags = 0x8d7, /* all that arithmetic would change */
	};

	ck_assert_int_eq(ioctl(vcpu, KVM_SET_REGS, &r), 0);
}

static void check_registers(unsigned changed, uint64_t to, uint64_t rip)
{
	struct kvm_regs r;

	ck_assert_int_eq(ioctl(vcpu, KVM_GET_REGS, &r), 0);
	{
		const uint64_t is[REGS] = { r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi,
					    r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15 };

		for (unsigned i = 0; i < REGS; i++)
			ck_assert_uint_eq(is[i], i == changed ? to : before(i));
	}
	ck_assert_uint_eq(r.rip, rip);
	ck_assert_uint_eq(r.rflags, 0x8d7);
}

/* Of a load what the device answers, and what the register is then; of a store what is written. */
static const struct move {
	uint8_t code[10];
	uint8_t code_len, len, offset;
	uint8_t reg; /* NONE: a store */
	uint64_t value, after;
} moves[] = {
	{ { 0x8a, 0x06, 0x10, 0x00 }, 4, 1, 0x10, RAX, 0xab, REGISTERS | 0x01ab },
	{ { 0x8a, 0x26, 0x10, 0x00 }, 4, 1, 0x10, RAX, 0xab, REGISTERS | 0xab01 },
	{ { 0x8a, 0x3e, 0x13, 0x00 }, 4, 1, 0x13, RBX, 0x00, REGISTERS | 0x0031 },
	{ { 0x8b, 0x16, 0x10, 0x00 }, 4, 2, 0x10, RDX, 0x8001, REGISTERS | 0x8001 },
	{ { 0x8b, 0x16, 0x11, 0x00 }, 4, 2, 0x11, RDX, 0x8001, REGISTERS | 0x8001 },
	{ { 0x8b, 0x26, 0x10, 0x00 }, 4, 2, 0x10, RSP, 0x8001, REGISTERS | 0x8001 },
	{ { 0x66, 0x8b, 0x0e, 0x20, 0x00 }, 5, 4, 0x20, RCX, 0x87654321, 0x87654321 },
	{ { 0x66, 0x8b, 0x26, 0x20, 0x00 }, 5, 4, 0x20, RSP, 0x87654321, 0x87654321 },
	{ { 0x66, 0x67, 0x8b, 0x05, 0x20, 0x00, 0x00, 0x00 }, 8, 4, 0x20, RAX, 0x87654321, 0x87654321 },
	{ { 0x3e, 0x66, 0x8b, 0x0e, 0x20, 0x00 }, 6, 4, 0x20, RCX, 0x12345678, 0x12345678 },
	{ { 0xa0, 0x10, 0x00 }, 3, 1, 0x10, RAX, 0xab, REGISTERS | 0x01ab },
	{ { 0xa1, 0x10, 0x00 }, 3, 2, 0x10, RAX, 0xabcd, REGISTERS | 0xabcd },
	{ { 0x66, 0xa1, 0x10, 0x00 }, 4, 4, 0x10, RAX, 0xabcdef01, 0xabcdef01 },
	{ { 0x0f, 0xb6, 0x0e, 0x10, 0x00 }, 5, 1, 0x10, RCX, 0x80, REGISTERS | 0x0080 },
	{ { 0x66, 0x0f, 0xb6, 0x26, 0x10, 0x00 }, 6, 1, 0x10, RSP, 0x80, 0x80 },
	{ { 0x66, 0x0f, 0xb7, 0x1e, 0x10, 0x00 }, 6, 2, 0x10, RBX, 0x8000, 0x8000 },
	{ { 0x0f, 0xbe, 0x0e, 0x10, 0x00 }, 5, 1, 0x10, RCX, 0x80, REGISTERS | 0xff80 },
	{ { 0x66, 0x0f, 0xbe, 0x0e, 0x10, 0x00 }, 6, 1, 0x10, RCX, 0x80, 0xffffff80 },
	{ { 0x66, 0x0f, 0xbf, 0x0e, 0x10, 0x00 }, 6, 2, 0x10, RCX, 0x8000, 0xffff8000 },
	{ { 0x88, 0x26, 0x10, 0x00 }, 4, 1, 0x10, NONE, 0x01, 0 },
	{ { 0x88, 0x16, 0x10, 0x00 }, 4, 1, 0x10, NONE, 0x21, 0 },
	{ { 0x89, 0x26, 0x10, 0x00 }, 4, 2, 0x10, NONE, 0x4141, 0 },
	{ { 0x66, 0x89, 0x26, 0x10, 0x00 }, 5, 4, 0x10, NONE, 0x55664141, 0 },
	{ { 0x66, 0x89, 0x3e, 0x10, 0x00 }, 5, 4, 0x10, NONE, 0x55667171, 0 },
	{ { 0xa2, 0x10, 0x00 }, 3, 1, 0x10, NONE, 0x01, 0 },
	{ { 0xa3, 0x10, 0x00 }, 3, 2, 0x10, NONE, 0x0101, 0 },
	{ { 0xc6, 0x06, 0x10, 0x00, 0x99 }, 5, 1, 0x10, NONE, 0x99, 0 },
	{ { 0xc7, 0x06, 0x10, 0x00, 0x99, 0x88 }, 6, 2, 0x10, NONE, 0x8899, 0 },
	{ { 0x66, 0xc7, 0x06, 0x10, 0x00, 0x01, 0x02, 0x03, 0x84 }, 9, 4, 0x10, NONE, 0x84030201, 0 },
};

START_TEST(each_move_is_one_access)
{
	const struct move *m = &moves[_i];
	uint64_t value = 0;

	machine();
	start(m->code, m->code_len, DEV);
	ram[CODE + m->code_len] = 0xf4; /* hlt */
	set_registers();
	run_to(KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->mmio.phys_addr, DEV + m->offset);
	ck_assert_uint_eq(run->mmio.len, m->len);
	ck_assert_uint_eq(run->mmio.is_write, m->reg == NONE);
	if (m->reg != NONE) {
		memset(run->mmio.data, 0xee, sizeof(run->mmio.data));
		memcpy(run->mmio.data, &m->value, m->len);
	} else {
		memcpy(&value, run->mmio.data, m->len);
		ck_assert_uint_eq(value, m->value);
	}
	run_to(KVM_EXIT_HLT);
	check_registers(m->reg, m->after, CODE + m->code_len + 1u);
}
END_TEST

/* The processor tells the second page alone. */
START_TEST(a_move_begins_in_ram)
{
	static const uint8_t code[] = {
		0x66, 0x89, 0x0e, 0xfe, 0x00, /* mov [0xfe], ecx */
		0x66, 0x8b, 0x16, 0xfe, 0x00, /* mov edx, [0xfe] */
		0x66, 0xa1, 0xfe, 0x00,	      /* mov eax, [0xfe] */
		0x66, 0x89, 0x16, 0x00, 0x01, /* and one that does not: mov [0x100], edx */
		0xf4,
	};
	struct kvm_regs r;

	machine();
	start(code, sizeof(code), RAM_BYTES - 0x100);
	set_registers();
	run_to(KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->mmio.phys_addr, RAM_BYTES);
	ck_assert_uint_eq(run->mmio.len, 2);
	ck_assert_mem_eq(run->mmio.data, "\x66\x55", 2);
	for (unsigned i = 0; i < 2; i++) {
		run_to(KVM_EXIT_MMIO);
		ck_assert_uint_eq(run->mmio.phys_addr, RAM_BYTES);
		ck_assert_uint_eq(run->mmio.len, 2);
		ck_assert_uint_eq(run->mmio.is_write, 0);
		memcpy(run->mmio.data, "\x34\x12", 2);
	}
	run_to(KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->mmio.len, 4);
	ck_assert_mem_eq(run->mmio.data, "\x11\x11\x34\x12", 4);
	run_to(KVM_EXIT_HLT);
	ck_assert_mem_eq(ram + RAM_BYTES - 2, "\x11\x11", 2);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_REGS, &r), 0);
	ck_assert_uint_eq(r.rax, 0x12341111);
	ck_assert_uint_eq(r.rdx, 0x12341111);
}
END_TEST

TCase *devices_tests(void)
{
	TCase *tc = tcase_create("devices");

	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, writes_are_coalesced);
	tcase_add_test(tc, ring_is_full);
	tcase_add_test(tc, a_move_begins_in_ram);
	tcase_add_loop_test(tc, each_move_is_one_access, 0, sizeof(moves) / sizeof(moves[0]));
	return tc;
}
