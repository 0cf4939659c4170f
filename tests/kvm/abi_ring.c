// SPDX-License-Identifier: Apache-2.0
/* abi_ring.c - dirty pages told one by one: KVM_CAP_DIRTY_LOG_RING. */
#include "abi.h"

#define PAGE	 4096u
#define ENTRIES	 (PAGE / (unsigned)sizeof(struct kvm_dirty_gfn))
#define FIRST	 16u /* page that the guest writes; the last is that of RAM_BYTES */
#define PAGES	 (RAM_BYTES / PAGE)

static struct kvm_dirty_gfn *ring;
static unsigned next; /* to be harvested */
static unsigned seen[PAGES];

static int enable(uint64_t bytes)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_DIRTY_LOG_RING, .args = { bytes } };

	return ioctl(vm, KVM_ENABLE_CAP, &cap);
}

static void log_slot(void)
{
	struct kvm_userspace_memory_region region = { .memory_size = RAM_BYTES,
						      .flags = KVM_MEM_LOG_DIRTY_PAGES,
						      .userspace_addr = (uintptr_t)ram };

	ck_assert_int_eq(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
}

/* How many there were since the last time; each is counted in seen. */
static unsigned harvest(void)
{
	unsigned count = 0;

	for (; count < ENTRIES; count++, next++) {
		struct kvm_dirty_gfn *entry = &ring[next % ENTRIES];

		if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		ck_assert_uint_eq(entry->slot, 0);
		ck_assert_uint_lt(entry->offset, PAGES);
		seen[entry->offset]++;
		__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	}
	return count;
}

static int can_ring(void)
{
	machine();
	if (has(KVM_CAP_DIRTY_LOG_RING) <= 0 || enable(PAGE) < 0)
		return 0; /* a processor that logs by itself wants more room */
	log_slot();
	return 1;
}

static void map_ring(void)
{
	off_t at = (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * PAGE;

	ck_assert_ptr_eq(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, vcpu, at), MAP_FAILED);
	ck_assert_ptr_eq(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, vcpu, at), MAP_FAILED);
	ring = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, at);
	ck_assert_ptr_ne(ring, MAP_FAILED);
	next = 0;
	memset(seen, 0, sizeof(seen));
}

/* Writes each page from FIRST on, and tells; and again. */
static const uint8_t code[] = {
	0xbb, 0x00, 0x10,		/* mov bx, FIRST * 256 */
	0x8e, 0xc3,			/* next: mov es, bx */
	0x26, 0xfe, 0x06, 0x00, 0x00,	/* inc byte es:[0] */
	0x81, 0xc3, 0x00, 0x01,		/* add bx, 256 */
	0x73, 0xf3,			/* jnc next */
	0xb0, 0x01, 0xe6, PORT, 0xeb, 0xea,
};

/* To the guest's next word, whenever the ring is full on the way. */
static unsigned one_pass(void)
{
	unsigned count = 0;

	for (int i = 0; i < 1000; i++) {
		unsigned n;

		ck_assert_int_eq(run_on(), 0);
		n = harvest();
		count += n;
		ck_assert_int_eq(ioctl(vm, KVM_RESET_DIRTY_RINGS, 0), (int)n);
		if (run->exit_reason == KVM_EXIT_IO)
			return count;
		ck_assert_uint_eq(run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
		ck_assert_uint_gt(n, 0);
	}
	ck_abort_msg("it does not end");
	return 0;
}

START_TEST(pages_are_told_one_by_one)
{
	unsigned before;

	if (!can_ring())
		return;
	start(code, sizeof(code), 0);
	map_ring();
	ck_assert_int_eq(ioctl(vm, KVM_RESET_DIRTY_RINGS, 0), 0);
	/* Who interprets goes on for a while before it looks. */
	if (!on_hardware())
		return;
	run_to(KVM_EXIT_DIRTY_RING_FULL);
	/* It is told before there is no room at all, and nothing goes on meanwhile. */
	run_to(KVM_EXIT_DIRTY_RING_FULL);
	ck_assert_uint_eq(ring[0].flags, KVM_DIRTY_GFN_F_DIRTY);
	before = harvest();
	ck_assert_uint_ge(before, ENTRIES / 2);
	ck_assert_uint_lt(before, ENTRIES);
	run_to(KVM_EXIT_DIRTY_RING_FULL);
	ck_assert_int_eq(ioctl(vm, KVM_RESET_DIRTY_RINGS, 0), (int)before);
	ck_assert_int_eq(ioctl(vm, KVM_RESET_DIRTY_RINGS, 0), 0);
	before += one_pass();
	ck_assert_uint_ge(before, PAGES - FIRST);
	/* Once they are reset they are noted again. */
	for (unsigned pass = 2; pass < 5; pass++) {
		ck_assert_uint_ge(one_pass(), PAGES - FIRST);
		for (unsigned i = FIRST; i < PAGES; i++) {
			ck_assert_msg(seen[i] >= pass, "page %u, pass %u: told %u times", i, pass, seen[i]);
			ck_assert_uint_eq(ram[i * PAGE], pass);
		}
	}
	ck_assert_uint_le(seen[1], 1); /* the stock driver tells of it when it is first reached */
}
END_TEST

/* What user space writes into a ring can only harm itself. */
START_TEST(ring_holds_nonsense)
{
	if (!can_ring())
		return;
	start(code, sizeof(code), 0);
	map_ring();
	for (int i = 0; i < 50; i++) {
		ck_assert_int_eq(run_on(), 0);
		for (unsigned j = 0; j < ENTRIES; j++)
			ring[j] = (struct kvm_dirty_gfn){ .flags = KVM_DIRTY_GFN_F_RESET | (j & 1),
							  .slot = j % 3 ? ~0u : 0,
							  .offset = j % 5 ? ~0ull >> (j % 64) : j };
		ck_assert_int_ge(ioctl(vm, KVM_RESET_DIRTY_RINGS, 0), 0);
	}
}
END_TEST

START_TEST(rings_are_refused)
{
	uint64_t bitmap[PAGES / 64];
	struct kvm_dirty_log log = { .dirty_bitmap = bitmap };
	int max;

	machine();
	max = has(KVM_CAP_DIRTY_LOG_RING);
	if (max <= 0)
		return;
	ck_assert_int_eq(ioctl(vm, KVM_RESET_DIRTY_RINGS, 0), -1);
	ck_assert_int_eq(errno, EINVAL);
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_int_eq(enable((uint64_t[]){ 0, 16, 3 * 65536 }[i]), -1);
		ck_assert_int_eq(errno, EINVAL);
	}
	ck_assert_int_eq(enable((uint64_t)max * 2), -1);
	ck_assert_int_eq(errno, E2BIG);
	ck_assert_int_eq(enable((uint64_t)max), 0);
	ck_assert_int_eq(enable((uint64_t)max), -1);
	ck_assert_int_eq(errno, EINVAL);
	log_slot();
	ck_assert_int_eq(ioctl(vm, KVM_GET_DIRTY_LOG, &log), -1);
	ck_assert_int_eq(errno, ENXIO);
	/* Who is there has none. */
	machine();
	start(code, sizeof(code), 0);
	ck_assert_int_eq(enable((uint64_t)max), -1);
	ck_assert_int_eq(errno, EINVAL);
}
END_TEST

TCase *ring_tests(void)
{
	TCase *tests = tcase_create("ring");

	tcase_add_test(tests, pages_are_told_one_by_one);
	tcase_add_test(tests, ring_holds_nonsense);
	tcase_add_test(tests, rings_are_refused);
	tcase_set_timeout(tests, 60);
	return tests;
}
