// SPDX-License-Identifier: Apache-2.0
/* abi_memory.c - memory slots as firmware makes a monitor change them: ROM, shadowed, moved and grown. */
#include "abi.h"

#include <fcntl.h>
#include <linux/mman.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#define ROM   0xc0000u
#define LARGE 0x400000u
#define SLOT  0x200000u /* bytes: what one entry of a second-level table maps */

static int set_slot(uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t bytes, const void *at)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = bytes,
		.userspace_addr = (uintptr_t)at,
	};

	return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

/* SLOT bytes, aligned so that the host may use one large page for them; it is asked to. */
static uint8_t *large_memory(void)
{
	uint8_t *at = mmap(NULL, 2 * SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(at, MAP_FAILED);
	at += -(uintptr_t)at & (SLOT - 1);
	(void)madvise(at, SLOT, MADV_HUGEPAGE);
	memset(at, 0, SLOT);
	return at;
}

/* What is below ROM stays RAM; the page of ROM is slot 1. */
static void rom_machine(void)
{
	machine();
	ck_assert_int_eq(set_slot(0, 0, 0, 0, NULL), 0);
	ck_assert_int_eq(set_slot(0, 0, 0, ROM, ram), 0);
	ck_assert_int_eq(set_slot(1, KVM_MEM_READONLY, ROM, 0x1000, ram + ROM), 0);
}

/* Reads are the memory's, writes are a device's, one for each element of a string. */
START_TEST(rom_is_read_and_not_written)
{
	static const uint8_t code[] = {
		0xa0, 0x10, 0x00,			    /* mov al, [0x10] */
		0xe6, PORT,				    /* out PORT, al */
		0xc6, 0x06, 0x10, 0x00, 0x55,		    /* mov byte [0x10], 0x55 */
		0xa0, 0x10, 0x00, 0xe6, PORT,		    /* once more */
		0xfc, 0xbe, 0x10, 0x00, 0xbf, 0x00, 0x20, 0xb9, 0x04, 0x00, /* cld; si, di, cx */
		0xf3, 0xa4,				    /* rep movsb: ROM to RAM at es:0x2000 */
		0xb8, 0x00, 0xc0, 0x8e, 0xc0, 0x31, 0xc0, 0x8e, 0xd8, /* es = 0xc000; ds = 0 */
		0xbe, 0x00, 0x20, 0xbf, 0x20, 0x00, 0xb9, 0x02, 0x00,
		0xf3, 0xa5,				    /* rep movsw: RAM to ROM */
		0xb0, 0x03, 0xe6, PORT,
	};
	static const uint8_t want[] = { 0x41, 0x42, 0x43, 0x44 };

	rom_machine();
	memcpy(ram + ROM + 0x10, want, sizeof(want));
	start(code, sizeof(code), ROM);
	run_to_port(0x41);
	run_to(KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->mmio.phys_addr, ROM + 0x10);
	ck_assert_uint_eq(run->mmio.is_write, 1);
	ck_assert_uint_eq(run->mmio.len, 1);
	ck_assert_uint_eq(run->mmio.data[0], 0x55);
	run_to_port(0x41);
	for (unsigned i = 0; i < 2; i++) {
		run_to(KVM_EXIT_MMIO);
		ck_assert_uint_eq(run->mmio.phys_addr, ROM + 0x20 + 2 * i);
		ck_assert_uint_eq(run->mmio.is_write, 1);
		ck_assert_uint_eq(run->mmio.len, 2);
		ck_assert_mem_eq(run->mmio.data, want + 2 * i, 2);
	}
	run_to_port(3);
	ck_assert_mem_eq(ram + 0x2000, want, sizeof(want));
	ck_assert_mem_eq(ram + ROM + 0x10, want, sizeof(want));
	ck_assert_uint_eq(ram[ROM + 0x20], 0);
}
END_TEST

START_TEST(rom_is_executed)
{
	static const uint8_t code[] = { 0xea, 0x00, 0x01, 0x00, 0xc0 }; /* jmp 0xc000:0x100 */
	/* inc byte cs:[0]: its own first byte, which stays; then an OUT of it */
	static const uint8_t rom[] = { 0x2e, 0xfe, 0x06, 0x00, 0x01, 0x2e, 0xa0, 0x00, 0x01, 0xe6, PORT };

	rom_machine();
	memcpy(ram + ROM + 0x100, rom, sizeof(rom));
	start(code, sizeof(code), 0);
	run_to(KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->mmio.phys_addr, ROM + 0x100);
	ck_assert_uint_eq(run->mmio.data[0], rom[0] + 1);
	run_to_port(rom[0]);
}
END_TEST

/* As firmware shadows itself: what was ROM is RAM with other memory behind it, and ROM again. */
START_TEST(rom_becomes_ram_and_rom_again)
{
	static const uint8_t code[] = {
		0xfe, 0x06, 0x10, 0x00,		  /* next: inc byte [0x10] */
		0xa0, 0x10, 0x00, 0xe6, PORT,	  /* out PORT, al */
		0xeb, 0xf5,
	};

	rom_machine();
	ram[ROM + 0x10] = 0x30;
	ram[ROM + 0x1010] = 0x60;
	start(code, sizeof(code), ROM);
	for (unsigned i = 0; i < 3; i++) {
		run_to(KVM_EXIT_MMIO);
		ck_assert_uint_eq(run->mmio.data[0], 0x31);
		run_to_port(0x30);
		/* What it is cannot be changed while it is there. */
		ck_assert_int_eq(set_slot(1, 0, ROM, 0x1000, ram + ROM), -1);
		ck_assert_int_eq(errno, EINVAL);
		ck_assert_int_eq(set_slot(1, 0, 0, 0, NULL), 0);
		ck_assert_int_eq(set_slot(1, 0, ROM, 0x1000, ram + ROM + 0x1000), 0);
		run_to_port((uint8_t)(0x61 + i));
		ck_assert_int_eq(set_slot(1, 0, 0, 0, NULL), 0);
		ck_assert_int_eq(set_slot(1, KVM_MEM_READONLY, ROM, 0x1000, ram + ROM), 0);
	}
}
END_TEST

static const uint8_t count_in_0[] = {
	0xfe, 0x06, 0x00, 0x00,		  /* next: inc byte [0] */
	0xa0, 0x00, 0x00, 0xe6, PORT,	  /* out PORT, al */
	0xeb, 0xf5,
};

/* Small pages there were, and a large one is due in their place. */
START_TEST(slot_grows)
{
	uint8_t *at = large_memory();

	machine();
	ck_assert_int_eq(set_slot(1, 0, LARGE, 0x10000, at), 0);
	start(count_in_0, sizeof(count_in_0), LARGE);
	run_to_port(1);
	ck_assert_int_eq(set_slot(1, 0, LARGE, SLOT, at), -1);
	ck_assert_int_eq(errno, EINVAL);
	ck_assert_int_eq(set_slot(1, 0, 0, 0, NULL), 0);
	ck_assert_int_eq(set_slot(2, 0, LARGE, SLOT, at), 0);
	run_to_port(2);
	ck_assert_int_eq(set_slot(2, 0, 0, 0, NULL), 0);
	ck_assert_int_eq(set_slot(1, 0, LARGE, 0x1000, at), 0);
	run_to_port(3);
}
END_TEST

/* A migration that was given up: written pages are asked for no more. */
START_TEST(dirty_log_on_and_off)
{
	uint64_t bits[SLOT / 4096 / 64];
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bits };
	uint8_t *at = large_memory(), count = 0;

	machine();
	ck_assert_int_eq(set_slot(1, 0, LARGE, SLOT, at), 0);
	start(count_in_0, sizeof(count_in_0), LARGE);
	for (unsigned i = 0; i < 3; i++) {
		run_to_port(++count);
		ck_assert_int_eq(ioctl(vm, KVM_GET_DIRTY_LOG, &log), -1);
		ck_assert_int_eq(errno, ENOENT);
		ck_assert_int_eq(set_slot(1, KVM_MEM_LOG_DIRTY_PAGES, LARGE, SLOT, at), 0);
		for (unsigned j = 0; j < 2; j++) {
			run_to_port(++count);
			memset(bits, 0xff, sizeof(bits));
			ck_assert_int_eq(ioctl(vm, KVM_GET_DIRTY_LOG, &log), 0);
			ck_assert_uint_eq(bits[0], 1);
			ck_assert_uint_eq(bits[1], 0);
			ck_assert_int_eq(ioctl(vm, KVM_GET_DIRTY_LOG, &log), 0);
			ck_assert_uint_eq(bits[0], 0);
		}
		ck_assert_int_eq(set_slot(1, 0, LARGE, SLOT, at), 0);
	}
}
END_TEST

#define GIB (1ull << 30)

/* By the parameters of whichever driver there is. */
static bool pages_are_nested(void)
{
	static const char *const paths[] = { "/sys/module/kvm_amd/parameters/npt",
					     "/sys/module/sika_kvm/parameters/npt",
					     "/sys/module/kvm_intel/parameters/ept" };
	char answer = 'N';

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		int fd = open(paths[i], O_RDONLY);

		if (fd < 0)
			continue;
		ck_assert_int_eq(read(fd, &answer, 1), 1);
		close(fd);
	}
	return answer == 'Y' || answer == '1';
}

/* NULL: there is none, which is said aloud. */
static uint8_t *page_of_gib(const char *test)
{
	uint8_t *at = mmap(NULL, GIB, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 30 << MAP_HUGE_SHIFT, -1, 0);

	if (at != MAP_FAILED)
		return at;
	fprintf(stderr, "skip %s: the host has none (hugepagesz=1G hugepages=1)\n", test);
	return NULL;
}

/* The guest counts in the first byte of @at, which is slot 1. One entry of the third level for all of it, until writes
 * are logged; what the host takes away is gone. @expected: of the driver that counts entries. */
static void in_one_entry(uint8_t *at, int expected)
{
	static uint64_t bits[GIB / 4096 / 64];
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bits };

	run_to_port(1);
	ck_assert_int_eq(machine_counter("pages_1g"), expected);
	ck_assert_int_eq(set_slot(1, KVM_MEM_LOG_DIRTY_PAGES, GIB, GIB, at), 0);
	run_to_port(2);
	ck_assert_int_eq(machine_counter("pages_1g"), 0);
	ck_assert_int_eq(ioctl(vm, KVM_GET_DIRTY_LOG, &log), 0);
	ck_assert_uint_eq(bits[0], 1);
	for (size_t i = 1; i < GIB / 4096 / 64; i++)
		ck_assert_uint_eq(bits[i], 0);
	ck_assert_int_eq(set_slot(1, 0, GIB, GIB, at), 0);
	run_to_port(3);
	ck_assert_uint_eq(at[0], 3);
	ck_assert_int_eq(madvise(at, GIB, MADV_DONTNEED), 0);
	run_to_port(1);
}

/* Without paging shadow tables begin below that level. */
START_TEST(page_of_1_gib)
{
	uint8_t *at = page_of_gib("page_of_1_gib");

	if (!at)
		return;
	machine();
	ck_assert_int_eq(set_slot(1, 0, GIB, GIB, at), 0);
	start(count_in_0, sizeof(count_in_0), GIB);
	in_one_entry(at, pages_are_nested());
	ck_assert_int_eq(set_slot(1, 0, 0, 0, NULL), 0);
	ck_assert_int_eq(machine_counter("pages_1g"), 0);
	ck_assert_int_eq(munmap(at, GIB), 0);
}
END_TEST

#define PML4  0x10000u
#define PDPT  0x11000u
#define PD    0x12000u
#define THERE (GIB + SLOT + 0x1000) /* of a table in the guest's large page */

static void put_entry(uint8_t *table, unsigned i, uint64_t entry)
{
	memcpy(table + 8 * (size_t)i, &entry, sizeof(entry));
}

/* Long mode, where the second GiB is one page of the guest's, and the third begins as the second does by a table that
 * lies in it. */
static void start_in_gib(const uint8_t *code, size_t len, uint8_t *at)
{
	static union {
		struct kvm_cpuid2 head;
		uint8_t room[sizeof(struct kvm_cpuid2) + 128 * sizeof(struct kvm_cpuid_entry2)];
	} cpuid = { .head.nent = 128 };
	struct kvm_sregs sregs;

	start(code, len, 0);
	ck_assert_int_eq(ioctl(dev, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), 0);
	put_entry(ram + PML4, 0, PDPT | 0x3);
	put_entry(ram + PDPT, 0, PD | 0x3);
	put_entry(ram + PDPT, 1, GIB | 0x83);
	put_entry(ram + PDPT, 2, THERE | 0x3);
	put_entry(ram + PD, 0, 0x83);
	put_entry(at + (THERE - GIB), 0, GIB | 0x83);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	sregs.cs = (struct kvm_segment){ .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1,
					 .s = 1, .l = 1, .g = 1 };
	sregs.ss = (struct kvm_segment){ .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1,
					 .s = 1, .db = 1, .g = 1 };
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss;
	sregs.cr0 = 0x80000011;
	sregs.cr3 = PML4;
	sregs.cr4 = 0x20;
	sregs.efer = 0x500;
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
}

static void count_from(unsigned rip)
{
	struct kvm_regs regs = { .rip = rip, .rflags = 2, .rsp = 0x8000 };

	ck_assert_int_eq(ioctl(vcpu, KVM_SET_REGS, &regs), 0);
}

/* The guest's tables name it as one page, with shadow paging as with nested. */
START_TEST(page_of_1_gib_of_the_guests)
{
	static const uint8_t code[] = {
		0xfe, 0x04, 0x25, 0x00, 0x00, 0x00, 0x40, /* next: inc byte [GIB] */
		0x8a, 0x04, 0x25, 0x00, 0x00, 0x00, 0x40, /* mov al, [GIB] */
		0xe6, PORT, 0xeb, 0xee,
		/* The same, but read by the table; next is at 18. */
		0xfe, 0x04, 0x25, 0x00, 0x00, 0x00, 0x40,
		0x67, 0x8a, 0x04, 0x25, 0x00, 0x00, 0x00, 0x80, /* mov al, [2 * GIB] */
		0xe6, PORT, 0xeb, 0xed,
		/* The page becomes one of what is at 0: 37. */
		0x48, 0xc7, 0x04, 0x25, 0x08, 0x10, 0x01, 0x00, 0x83, 0x00, 0x00, 0x00, /* mov qword [PDPT + 8], 0x83 */
		0x0f, 0x01, 0x3c, 0x25, 0x00, 0x00, 0x00, 0x40, /* invlpg [GIB] */
		0x8a, 0x04, 0x25, 0x00, 0x30, 0x00, 0x40, /* mov al, [GIB + 0x3000] */
		0xe6, PORT,
	};
	uint8_t *at = page_of_gib("page_of_1_gib_of_the_guests");
	bool nested = pages_are_nested();

	if (!at)
		return;
	machine();
	ck_assert_int_eq(set_slot(1, 0, GIB, GIB, at), 0);
	start_in_gib(code, sizeof(code), at);
	in_one_entry(at, 1);
	/* A nested table is not made large again. */
	if (!nested)
		ck_assert_int_eq(machine_counter("pages_1g"), 1);
	/* The host has taken this away too. */
	put_entry(at + (THERE - GIB), 0, GIB | 0x83);
	count_from(CODE + 18);
	run_to_port(2);
	/* Writes to the table are to be noticed now. */
	if (!nested)
		ck_assert_int_eq(machine_counter("pages_1g"), 0);
	run_to_port(3);
	ck_assert_uint_eq(at[0], 3);
	ram[0x3000] = 0x77;
	count_from(CODE + 37);
	run_to_port(0x77);
	ck_assert_int_eq(munmap(at, GIB), 0);
}
END_TEST

static void *change(void *arg)
{
	for (unsigned i = 0; i < 100; i++) {
		if (set_slot(1, 0, 0, 0, NULL) ||
		    set_slot(1, i & 1 ? KVM_MEM_READONLY : 0, ROM, 0x1000, ram + ROM))
			return "cannot change a slot";
	}
	*(volatile uint8_t *)arg = 1;
	return NULL;
}

/* The vCPU runs on meanwhile: each write goes to the memory, or out as a device's. */
START_TEST(slots_change_while_a_vcpu_runs)
{
	static const uint8_t code[] = {
		0xfb, 0xfa,			/* next: sti; cli, as kick_ends_a_loop in engine.c */
		0xff, 0x06, 0x00, 0x30,		/* inc word [ss:0x3000]... */
		0xc6, 0x06, 0x10, 0x00, 0x55,	/* mov byte [0x10], 0x55 */
		0x2e, 0x80, 0x3e, 0x00, 0x38, 0x01, /* cmp byte cs:[0x3800], 1 */
		0x75, 0xed,			/* jne next */
		0xb0, 0x07, 0xe6, PORT,
	};
	pthread_t thread;
	void *why;
	int r;

	rom_machine();
	ck_assert_int_eq(set_slot(2, 0, ROM + 0x1000, 0x10000, ram + ROM + 0x1000), 0);
	start(code, sizeof(code), ROM);
	ck_assert_int_eq(pthread_create(&thread, NULL, change, ram + 0x3800), 0);
	do {
		r = run_on();
		ck_assert_msg(r == 0, "KVM_RUN: %s", strerror(errno));
		if (run->exit_reason == KVM_EXIT_MMIO) {
			ck_assert_uint_eq(run->mmio.phys_addr, ROM + 0x10);
			ck_assert_uint_eq(run->mmio.data[0], 0x55);
		}
	} while (run->exit_reason == KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->exit_reason, KVM_EXIT_IO);
	ck_assert_int_eq(pthread_join(thread, &why), 0);
	ck_assert_msg(!why, "%s", (const char *)why);
}
END_TEST

START_TEST(slots_refused)
{
	machine();
	ck_assert_int_eq(set_slot(1, 0, 0x1000, 0x1000, ram), -1); /* in slot 0 */
	ck_assert_int_eq(errno, EEXIST);
	ck_assert_int_eq(set_slot(1, 0, LARGE, 0x800, ram), -1);
	ck_assert_int_eq(errno, EINVAL);
	ck_assert_int_eq(set_slot(1, 0, LARGE + 0x10, 0x1000, ram), -1);
	ck_assert_int_eq(errno, EINVAL);
	ck_assert_int_eq(set_slot(1, 0, LARGE, 0x1000, ram + 1), -1);
	ck_assert_int_eq(errno, EINVAL);
	ck_assert_int_eq(set_slot(1, 1u << 20, LARGE, 0x1000, ram), -1);
	ck_assert_int_eq(errno, EINVAL);
	ck_assert_int_eq(set_slot(0x7fff, 0, LARGE, 0x1000, ram), -1);
	ck_assert_int_eq(errno, EINVAL);
	ck_assert_int_eq(set_slot(1, 0, -0x1000ull, 0x2000, ram), -1);
	ck_assert_int_eq(errno, EINVAL);
	ck_assert_int_eq(set_slot(1, 0, 0, 0, NULL), -1); /* there is none */
	ck_assert_int_eq(errno, EINVAL);
	/* Moved, and back. */
	ck_assert_int_eq(set_slot(0, 0, LARGE, RAM_BYTES, ram), 0);
	ck_assert_int_eq(set_slot(0, 0, 0, RAM_BYTES, ram), 0);
}
END_TEST

TCase *memory_tests(void)
{
	TCase *tc = tcase_create("memory");

	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, rom_is_read_and_not_written);
	tcase_add_test(tc, rom_is_executed);
	tcase_add_test(tc, rom_becomes_ram_and_rom_again);
	tcase_add_test(tc, slot_grows);
	tcase_add_test(tc, dirty_log_on_and_off);
	tcase_add_test(tc, page_of_1_gib);
	tcase_add_test(tc, page_of_1_gib_of_the_guests);
	tcase_add_test(tc, slots_change_while_a_vcpu_runs);
	tcase_add_test(tc, slots_refused);
	return tc;
}
