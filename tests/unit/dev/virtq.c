// SPDX-License-Identifier: Apache-2.0
/* virtq.c - tests of virtqueues, with the driver's side written from the specification. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "dev/virtio/virtq.h"
#include "virtio_driver.h"

#define RINGS	 0x10000u
#define DATA	 0x20000u
#define INDIRECT 0x30000u
#define MEMORY	 (1u << 20)

/* The four flavours that every behaviour is tested with. */
static const struct flavour {
	bool packed, event_idx;
} flavours[] = { { false, false }, { false, true }, { true, false }, { true, true } };

static struct rig rig;
static struct drv_queue drv;
static struct virtq vq;
static struct virtq_elem elem, elem2;

static void start(const struct flavour *f, uint16_t size)
{
	struct virtq_config cfg = { .size = size, .packed = f->packed, .event_idx = f->event_idx,
				    .indirect = true };

	rig_init(&rig, MEMORY);
	drv_queue_init(&drv, &rig, f->packed, f->event_idx, size, RINGS);
	cfg.desc = drv.desc;
	cfg.driver = drv.driver;
	cfg.device = drv.device;
	ck_assert_int_eq(virtq_start(&vq, rig.mem, &cfg), 0);
}

static void end(void)
{
	rig_fini(&rig);
}

static uint8_t *ram(gpa_t gpa)
{
	return mem_ptr(rig.mem, gpa, 1);
}

START_TEST(gives_chain_and_takes_it_back)
{
	const struct drv_buf bufs[] = { { DATA, 5, false }, { DATA + 100, 3, false },
					{ DATA + 200, 7, true }, { DATA + 300, 1, true } };
	uint16_t id, got;
	uint32_t len;
	char text[16] = { 0 };

	start(&flavours[_i], 8);
	ck_assert_int_eq(virtq_pop(&vq, &elem), 0);
	memcpy(ram(DATA), "hello", 5);
	memcpy(ram(DATA + 100), "you", 3);
	id = drv_add(&drv, bufs, 4);
	ck_assert_int_eq(virtq_pop(&vq, &elem), 1);
	ck_assert_uint_eq(elem.out_count, 2);
	ck_assert_uint_eq(elem.in_count, 2);
	ck_assert_uint_eq(elem.out_bytes, 8);
	ck_assert_uint_eq(elem.in_bytes, 8);
	ck_assert_uint_eq(virtq_elem_read(&elem, 0, text, sizeof(text)), 8);
	ck_assert_str_eq(text, "helloyou");
	ck_assert_uint_eq(virtq_elem_write(&elem, 0, "answers!", 8), 8);
	ck_assert(memcmp(ram(DATA + 200), "answers", 7) == 0 && *ram(DATA + 300) == '!');
	ck_assert(!drv_used(&drv, &got, &len));
	virtq_push(&vq, &elem, 8);
	ck_assert(drv_used(&drv, &got, &len));
	ck_assert_uint_eq(got, id);
	ck_assert_uint_eq(len, 8);
	ck_assert(!drv_used(&drv, &got, &len));
	end();
}
END_TEST

START_TEST(follows_indirect_tables)
{
	const struct drv_buf bufs[] = { { DATA, 10, false }, { DATA + 50, 0, false },
					{ DATA + 100, 20, true } };
	uint16_t id, got;
	uint32_t len;

	start(&flavours[_i], 4);
	drv.indirect = INDIRECT;
	id = drv_add(&drv, bufs, 3);
	ck_assert_int_eq(virtq_pop(&vq, &elem), 1);
	ck_assert_uint_eq(elem.out_bytes, 10);
	ck_assert_uint_eq(elem.out_count, 1); /* nothing to do for an empty one */
	ck_assert_uint_eq(elem.in_bytes, 20);
	virtq_push(&vq, &elem, 20);
	ck_assert(drv_used(&drv, &got, &len) && got == id && len == 20);
	end();
}
END_TEST

/* Laps around a ring whose size the chains do not divide, out of order, against a model. */
START_TEST(goes_round_and_round_out_of_order)
{
	const struct flavour *f = &flavours[_i];
	uint16_t size = f->packed ? 7 : 8;
	uint32_t len;
	uint16_t id;

	start(f, size);
	for (unsigned lap = 0; lap < 70000 / size; lap++) {
		const struct drv_buf a[] = { { DATA, 8, false }, { DATA + 64, 1 + lap % 5, true } };
		const struct drv_buf b[] = { { DATA, 9, false }, { DATA + 8, 1, false },
					     { DATA + 64, 2, true } };
		uint16_t ia = drv_add(&drv, a, 2), ib = drv_add(&drv, b, 3);
		bool odd = lap & 1;

		ck_assert_int_eq(virtq_pop(&vq, &elem), 1);
		ck_assert_int_eq(virtq_pop(&vq, &elem2), 1);
		ck_assert_int_eq(virtq_pop(&vq, &elem), 0);
		ck_assert_uint_eq(elem.out_bytes, 8);
		ck_assert_uint_eq(elem2.out_bytes, 10);
		virtq_push(&vq, odd ? &elem2 : &elem, odd ? 2 : 1);
		virtq_push(&vq, odd ? &elem : &elem2, odd ? 1 : 2);
		ck_assert(drv_used(&drv, &id, &len));
		ck_assert_uint_eq(id, odd ? ib : ia);
		ck_assert_uint_eq(len, odd ? 2 : 1);
		ck_assert(drv_used(&drv, &id, &len));
		ck_assert_uint_eq(id, odd ? ia : ib);
		ck_assert(!drv_used(&drv, &id, &len));
		ck_assert_uint_eq(drv.free_count, size);
	}
	end();
}
END_TEST

START_TEST(unpopped_element_comes_again)
{
	const struct drv_buf buf = { DATA, 16, true };
	uint16_t a, b;

	start(&flavours[_i], 4);
	for (unsigned lap = 0; lap < 20; lap++) {
		uint16_t id;
		uint32_t len;

		a = drv_add(&drv, &buf, 1);
		b = drv_add(&drv, &buf, 1);
		ck_assert_int_eq(virtq_pop(&vq, &elem), 1);
		ck_assert_int_eq(virtq_pop(&vq, &elem2), 1);
		virtq_unpop(&vq, &elem2);
		virtq_unpop(&vq, &elem);
		ck_assert_int_eq(virtq_pop(&vq, &elem), 1);
		ck_assert_uint_eq(elem.id, a);
		ck_assert_int_eq(virtq_pop(&vq, &elem2), 1);
		ck_assert_uint_eq(elem2.id, b);
		virtq_push(&vq, &elem, 1);
		virtq_push(&vq, &elem2, 1);
		ck_assert(drv_used(&drv, &id, &len) && id == a);
		ck_assert(drv_used(&drv, &id, &len) && id == b);
	}
	end();
}
END_TEST

START_TEST(filled_elements_appear_together)
{
	const struct drv_buf buf = { DATA, 16, true };
	uint16_t id;
	uint32_t len;

	start(&flavours[_i], 4);
	for (unsigned lap = 0; lap < 30; lap++) {
		drv_add(&drv, &buf, 1);
		drv_add(&drv, &buf, 1);
		drv_add(&drv, &buf, 1);
		for (unsigned i = 0; i < 3; i++) {
			ck_assert_int_eq(virtq_pop(&vq, &elem), 1);
			virtq_fill(&vq, &elem, i + 1);
			ck_assert(!drv_used(&drv, &id, &len));
		}
		virtq_flush(&vq);
		for (unsigned i = 0; i < 3; i++)
			ck_assert(drv_used(&drv, &id, &len) && len == i + 1);
		ck_assert(!drv_used(&drv, &id, &len));
	}
	end();
}
END_TEST

START_TEST(notifies_at_the_event_index_only)
{
	const struct drv_buf buf = { DATA, 16, true };
	const struct flavour *f = &flavours[_i];
	uint16_t id;
	uint32_t len;

	start(f, 4);
	if (f->packed && !f->event_idx)
		store_le16(ram(drv.driver + 2), 0);
	for (unsigned lap = 0; lap < 50; lap++) {
		drv_want_interrupt(&drv);
		if (f->packed && !f->event_idx)
			store_le16(ram(drv.driver + 2), 0);
		drv_add(&drv, &buf, 1);
		drv_add(&drv, &buf, 1);
		ck_assert_int_eq(virtq_pop(&vq, &elem), 1);
		ck_assert_int_eq(virtq_pop(&vq, &elem2), 1);
		ck_assert(!virtq_should_notify(&vq)); /* nothing happened */
		virtq_push(&vq, &elem, 1);
		ck_assert(virtq_should_notify(&vq));
		virtq_push(&vq, &elem2, 1);
		/* The event has passed; without indices every one counts. */
		ck_assert(virtq_should_notify(&vq) == !f->event_idx);
		ck_assert(drv_used(&drv, &id, &len) && drv_used(&drv, &id, &len));
	}
	/* Suppressed altogether. */
	if (!f->event_idx) {
		store_le16(ram(f->packed ? drv.driver + 2 : drv.driver), 1);
		drv_add(&drv, &buf, 1);
		ck_assert_int_eq(virtq_pop(&vq, &elem), 1);
		virtq_push(&vq, &elem, 1);
		ck_assert(!virtq_should_notify(&vq));
	}
	end();
}
END_TEST

START_TEST(asks_for_kicks_when_told_to)
{
	const struct drv_buf buf = { DATA, 16, true };
	uint16_t old;

	start(&flavours[_i], 4);
	ck_assert(!virtq_set_kick(&vq, true));
	old = drv_position(&drv);
	drv_add(&drv, &buf, 1);
	ck_assert(drv_kick_wanted(&drv, old));
	ck_assert(!virtq_set_kick(&vq, false));
	old = drv_position(&drv);
	drv_add(&drv, &buf, 1);
	ck_assert(!drv_kick_wanted(&drv, old));
	ck_assert(virtq_set_kick(&vq, true)); /* there is work already */
	end();
}
END_TEST

/* Across the end of the ring, too. */
START_TEST(asks_for_one_kick_after_some)
{
	const struct flavour *f = &flavours[_i];
	const struct drv_buf buf = { DATA, 16, true };
	uint16_t id, old;
	uint32_t len;

	start(f, 8);
	for (unsigned lap = 0; lap < 40; lap++) {
		unsigned n = 1 + lap % 5;

		ck_assert(!virtq_kick_after(&vq, n));
		for (unsigned i = 1; i <= n; i++) {
			old = drv_position(&drv);
			drv_add(&drv, &buf, 1);
			ck_assert_int_eq(drv_kick_wanted(&drv, old), i == n || !f->event_idx);
		}
		ck_assert(virtq_kick_after(&vq, n)); /* they are there */
		ck_assert(virtq_kick_after(&vq, n + 1) == !f->event_idx);
		for (unsigned i = 0; i < n; i++) {
			ck_assert_int_eq(virtq_pop(&vq, &elem), 1);
			virtq_push(&vq, &elem, 0);
			ck_assert(drv_used(&drv, &id, &len));
		}
	}
	end();
}
END_TEST

/* ---- hostile drivers ---- */

static void expect_broken(const char *why)
{
	ck_assert_int_lt(virtq_pop(&vq, &elem), 0);
	ck_assert_str_eq(vq.why, why);
	ck_assert_int_lt(virtq_pop(&vq, &elem), 0); /* and so it stays */
	ck_assert(!virtq_set_kick(&vq, true));
}

/* One descriptor by hand; split: slot @i with next, packed: with id. */
static void raw(unsigned i, gpa_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	uint8_t *p = ram(drv.desc + i * 16);

	store_le64(p, addr);
	store_le32(p + 8, len);
	store_le16(p + 12, drv.packed ? next : flags);
	store_le16(p + 14, drv.packed ? flags | 0x80 : next);
}

static void publish(uint16_t idx, uint16_t head)
{
	store_le16(ram(drv.driver + 4), head);
	store_le16(ram(drv.driver + 2), idx);
}

START_TEST(rejects_descriptor_loop)
{
	start(&flavours[_i], 4);
	for (unsigned i = 0; i < 4; i++)
		raw(i, DATA, 4, 1, (uint16_t)((i + 1) % 4));
	publish(1, 0);
	expect_broken("descriptor chain too long");
	end();
}
END_TEST

START_TEST(rejects_bad_buffers)
{
	static const struct {
		gpa_t addr;
		uint32_t len;
	} bad[] = { { MEMORY, 1 }, { MEMORY - 4, 5 }, { ~0ull - 2, 8 }, { ~0ull, 1 },
		    { 0, MEMORY + 1 }, { MEM_HIGH_START, 1 }, { 0xfee00000, 4 } };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		start(&flavours[_i], 4);
		raw(0, bad[i].addr, bad[i].len, 2, 0);
		publish(1, 0);
		expect_broken("buffer outside memory");
		end();
	}
}
END_TEST

START_TEST(rejects_readable_behind_writable)
{
	start(&flavours[_i], 4);
	raw(0, DATA, 4, 1 | 2, 1);
	raw(1, DATA, 4, 0, 0);
	publish(1, 0);
	expect_broken("readable buffer behind a writable one");
	end();
}
END_TEST

START_TEST(rejects_bad_indices)
{
	const struct flavour split = { false, false };

	start(&split, 4);
	publish(1, 4);
	expect_broken("descriptor index out of range");
	end();
	start(&split, 4);
	raw(0, DATA, 4, 1, 0xffff);
	publish(1, 0);
	expect_broken("descriptor index out of range");
	end();
	start(&split, 4);
	publish(5, 0);
	expect_broken("available index out of range");
	end();
}
END_TEST

START_TEST(rejects_bad_indirect_tables)
{
	static const struct {
		gpa_t addr;
		uint32_t len;
		uint16_t flags;
		const char *why;
	} bad[] = {
		{ INDIRECT, 0, 4, "indirect table of impossible length" },
		{ INDIRECT, 15, 4, "indirect table of impossible length" },
		{ INDIRECT, 17, 4, "indirect table of impossible length" },
		{ INDIRECT, 5 * 16, 4, "indirect table of impossible length" },
		{ MEMORY - 8, 16, 4, "indirect table outside memory" },
		{ INDIRECT, 16, 4 | 1, "misplaced indirect descriptor" },
		{ RINGS, 16, 4, "misplaced indirect descriptor" }, /* itself: nested */
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		start(&flavours[_i], 4);
		raw(0, bad[i].addr, bad[i].len, bad[i].flags, 0);
		publish(1, 0);
		expect_broken(bad[i].why);
		end();
	}
	start(&flavours[_i], 4);
	vq.cfg.indirect = false;
	raw(0, INDIRECT, 16, 4, 0);
	publish(1, 0);
	expect_broken("indirect descriptor without the feature");
	end();
}
END_TEST

START_TEST(rejects_too_many_segments)
{
	const struct flavour *f = &flavours[_i];

	start(f, 256);
	for (unsigned i = 0; i < 200; i++)
		raw(i, DATA + i, 1, i < 199 ? 1 : 0, (uint16_t)(i + 1));
	publish(1, 0);
	expect_broken("too many segments");
	end();
}
END_TEST

/* The same head offered again and again without waiting for it. */
START_TEST(rejects_more_than_the_ring_holds)
{
	const struct flavour split = { false, false };

	start(&split, 4);
	raw(0, DATA, 4, 2, 0);
	for (unsigned i = 0; i < 4; i++)
		store_le16(ram(drv.driver + 4 + 2 * i), 0);
	for (unsigned i = 0; i < 4; i++) {
		store_le16(ram(drv.driver + 2), (uint16_t)(i + 1));
		ck_assert_int_eq(virtq_pop(&vq, &elem), 1);
	}
	store_le16(ram(drv.driver + 2), 5);
	expect_broken("more buffers available than descriptors");
	end();
}
END_TEST

START_TEST(refuses_impossible_rings)
{
	static const struct virtq_config bad[] = {
		{ .size = 0, .desc = RINGS, .driver = RINGS + 0x1000, .device = RINGS + 0x1400 },
		{ .size = 6, .desc = RINGS, .driver = RINGS + 0x1000, .device = RINGS + 0x1400 },
		{ .size = 512, .desc = RINGS, .driver = RINGS + 0x1000, .device = RINGS + 0x1400 },
		{ .size = 4, .desc = RINGS + 8, .driver = RINGS + 0x1000, .device = RINGS + 0x1400 },
		{ .size = 4, .desc = RINGS, .driver = RINGS + 0x1001, .device = RINGS + 0x1400 },
		{ .size = 4, .desc = RINGS, .driver = RINGS + 0x1000, .device = RINGS + 0x1402 },
		{ .size = 4, .desc = MEMORY - 32, .driver = RINGS, .device = RINGS + 0x1400 },
		{ .size = 4, .desc = RINGS, .driver = MEMORY, .device = RINGS + 0x1400 },
		{ .size = 4, .desc = RINGS, .driver = RINGS + 0x1000, .device = ~3ull },
		{ .size = 6, .packed = true, .desc = RINGS, .driver = RINGS + 2, .device = RINGS },
	};

	start(&flavours[0], 4);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		ck_assert_int_lt(virtq_start(&vq, rig.mem, &bad[i]), 0);
		ck_assert_int_lt(virtq_pop(&vq, &elem), 0);
	}
	end();
}
END_TEST

/* A buffer over the end of low memory is in two slots only where they touch: never. */
START_TEST(reports_writes_to_the_dirty_log)
{
	const struct drv_buf bufs[] = { { 0x40000, 0x1800, true }, { 0x50000, 0x1000, true } };
	uint64_t bitmap[MEMORY / 4096 / 64] = { 0 };

	start(&flavours[_i], 4);
	drv_add(&drv, bufs, 2);
	ck_assert_int_eq(mem_dirty_start(rig.mem), 0);
	ck_assert_int_eq(virtq_pop(&vq, &elem), 1);
	virtq_push(&vq, &elem, 0x1801); /* one byte into the second */
	mem_dirty_fetch(rig.mem, 0, bitmap);
	ck_assert_uint_eq(bitmap[1] & 1, 1); /* page 0x40 */
	ck_assert_uint_eq(bitmap[1] >> 1 & 1, 1);
	ck_assert_uint_eq(bitmap[1] >> 2 & 1, 0);
	ck_assert_uint_eq(bitmap[1] >> 16 & 1, 1); /* page 0x50 */
	/* The ring itself. */
	ck_assert_uint_eq(bitmap[0] >> (drv.packed ? 0x10 : 0x11) & 1, 1);
	end();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("virtq");
	TCase *t = tcase_create("virtq");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_loop_test(t, gives_chain_and_takes_it_back, 0, 4);
	tcase_add_loop_test(t, follows_indirect_tables, 0, 4);
	tcase_add_loop_test(t, goes_round_and_round_out_of_order, 0, 4);
	tcase_add_loop_test(t, unpopped_element_comes_again, 0, 4);
	tcase_add_loop_test(t, filled_elements_appear_together, 0, 4);
	tcase_add_loop_test(t, notifies_at_the_event_index_only, 0, 4);
	tcase_add_loop_test(t, asks_for_kicks_when_told_to, 0, 4);
	tcase_add_loop_test(t, asks_for_one_kick_after_some, 0, 4);
	tcase_add_loop_test(t, rejects_descriptor_loop, 0, 4);
	tcase_add_loop_test(t, rejects_bad_buffers, 0, 4);
	tcase_add_loop_test(t, rejects_readable_behind_writable, 0, 4);
	tcase_add_test(t, rejects_bad_indices);
	tcase_add_loop_test(t, rejects_bad_indirect_tables, 0, 4);
	tcase_add_loop_test(t, rejects_too_many_segments, 0, 4);
	tcase_add_test(t, rejects_more_than_the_ring_holds);
	tcase_add_test(t, refuses_impossible_rings);
	tcase_add_loop_test(t, reports_writes_to_the_dirty_log, 0, 4);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
