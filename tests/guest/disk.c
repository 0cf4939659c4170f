// SPDX-License-Identifier: Apache-2.0
/*
 * disk.c - does with a virtio disk what its first sector says, for tests of disk images.
 *
 * The sector is a list, 16 bytes each: what to do (u32), how many sectors (u32), and from which on
 * (u64). The n-th, from 1 on, writes bytes of n. Zeros end it; with STAY the guest does not end.
 * Virtual I/O Device (VIRTIO) 1.2, sections 4.1.4 and 5.2. Nothing waits for interrupts.
 */
#include "guest.h"

#define ECAM	    0xe0000000ul
#define BAR_AT	    0xc0000000ul
#define SECTOR	    512u
#define ENTRIES	    (SECTOR / 16)
#define AT_ONCE	    256u /* sectors */
#define QUEUE	    8u
#define STAY	    99u
#define OP_IN	    0u
#define OP_OUT	    1u
#define OP_FLUSH    4u
#define OP_DISCARD  11u
#define OP_ZEROES   13u
#define DESC_NEXT   1u
#define DESC_WRITE  2u
#define FEATURES_LO (1u << 9 | 1u << 13 | 1u << 14) /* flush, discard, zeroes */
#define FEATURES_HI 1u /* version 1 */

struct order {
	uint32_t op, count;
	uint64_t sector;
};

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct ring {
	struct desc desc[QUEUE];
	uint16_t avail_flags, avail_idx, avail[QUEUE], pad[6];
	volatile uint16_t used_flags, used_idx;
	struct {
		uint32_t id, len;
	} used[QUEUE];
};

struct head {
	uint32_t op, unused;
	uint64_t sector;
};

static struct ring ring __attribute__((aligned(4096)));
static struct head head;
static volatile uint8_t status;
static volatile uint8_t *common;
static volatile uint16_t *bell;

#define R8(off)	 (*(volatile uint8_t *)(common + (off)))
#define R16(off) (*(volatile uint16_t *)(common + (off)))
#define R32(off) (*(volatile uint32_t *)(common + (off)))
#define R64(off) (*(volatile uint64_t *)(common + (off)))

/* The first block device: its BAR goes where the rest of this looks for it. */
static bool find(void)
{
	for (unsigned slot = 0; slot < 32; slot++) {
		volatile uint8_t *c = (volatile uint8_t *)(ECAM + ((unsigned long)slot << 15));
		volatile uint32_t *bar = (volatile uint32_t *)(c + 0x10);
		unsigned notify = 0, step = 0;

		if (*(volatile uint32_t *)c != 0x10421af4)
			continue;
		bar[0] = BAR_AT;
		bar[1] = 0;
		*(volatile uint16_t *)(c + 4) = 6;
		for (unsigned cap = c[0x34]; cap; cap = c[cap + 1]) {
			if (c[cap] != 9)
				continue;
			if (c[cap + 3] == 1)
				common = (volatile uint8_t *)BAR_AT +
					 *(volatile uint32_t *)(c + cap + 8);
			if (c[cap + 3] == 2) {
				notify = *(volatile uint32_t *)(c + cap + 8);
				step = *(volatile uint32_t *)(c + cap + 16);
			}
		}
		R16(22) = 0;
		bell = (volatile uint16_t *)(BAR_AT + notify + step * R16(30));
		return true;
	}
	return false;
}

static bool start(void)
{
	R8(20) = 0;
	while (R8(20))
		pause();
	R8(20) = 3;
	R32(8) = 0;
	R32(12) = FEATURES_LO;
	R32(8) = 1;
	R32(12) = FEATURES_HI;
	R8(20) = 11;
	R16(22) = 0;
	R16(24) = QUEUE;
	R64(32) = (uintptr_t)ring.desc;
	R64(40) = (uintptr_t)&ring.avail_flags;
	R64(48) = (uintptr_t)&ring.used_flags;
	R16(28) = 1;
	R8(20) = 15;
	return R8(20) == 15;
}

/* One request, waited for. The device's answer. */
static unsigned request(uint32_t op, uint64_t sector, void *data, uint32_t len)
{
	uint16_t n = 0, want = (uint16_t)(ring.used_idx + 1);

	head = (struct head){ op, 0, sector };
	status = 0xff;
	ring.desc[n++] = (struct desc){ (uintptr_t)&head, sizeof(head), DESC_NEXT, 1 };
	if (len) {
		ring.desc[n] = (struct desc){ (uintptr_t)data, len, DESC_NEXT, (uint16_t)(n + 1) };
		ring.desc[n++].flags |= op == OP_IN ? DESC_WRITE : 0;
	}
	ring.desc[n] = (struct desc){ (uintptr_t)&status, 1, DESC_WRITE, 0 };
	ring.avail[ring.avail_idx % QUEUE] = 0;
	asm volatile("mfence" : : : "memory");
	ring.avail_idx++;
	asm volatile("mfence" : : : "memory");
	*bell = 0;
	while (ring.used_idx != want)
		pause();
	return status;
}

static void follow(const struct order *o, uint8_t byte, uint8_t *data)
{
	struct {
		uint64_t sector;
		uint32_t count, flags;
	} range = { o->sector, o->count, 0 };

	memset(data, byte, AT_ONCE * SECTOR);
	if (o->op == OP_FLUSH)
		check_equal(request(OP_FLUSH, 0, NULL, 0), 0);
	if (o->op == OP_DISCARD || o->op == OP_ZEROES)
		check_equal(request(o->op, 0, &range, sizeof(range)), 0);
	for (uint32_t done = 0; o->op == OP_OUT && done < o->count; done += AT_ONCE) {
		uint32_t n = o->count - done < AT_ONCE ? o->count - done : AT_ONCE;

		check_equal(request(OP_OUT, o->sector + done, data, n * SECTOR), 0);
	}
}

int main(void)
{
	static struct order orders[ENTRIES];
	uint8_t *data = pages_alloc(AT_ONCE * SECTOR / 4096);

	if (!find())
		skip("no virtio disk");
	check(start());
	check_equal(request(OP_IN, 0, orders, SECTOR), 0);
	for (unsigned i = 0; i < ENTRIES && orders[i].op; i++) {
		if (orders[i].op == STAY) {
			print("stays\n");
			for (;;)
				asm volatile("cli; hlt");
		}
		follow(&orders[i], (uint8_t)(i + 1), data);
	}
	return 0;
}
