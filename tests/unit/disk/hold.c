// SPDX-License-Identifier: Apache-2.0
/* hold.c - tests of held requests, over a disk that fails when told to. */
#include "disk/filters/hold.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the disk below: has 64 KiB, changes the iovecs it is given, and does things later if told ---- */

#define BYTES 65536u

struct below {
	struct disk disk;
	uint8_t bytes[BYTES];
	int error; /* of all writes and flushes from now on */
	int read_error;
	bool later;
	struct disk_req *waiting;
	unsigned submitted;
};

static struct below below;

static void answer(struct disk_req *req)
{
	int error = req->op == DISK_READ ? below.read_error : below.error;
	uint64_t at = req->offset;

	/* Half of it is done in any case. */
	while (req->iov_count && (req->op == DISK_WRITE || req->op == DISK_READ)) {
		struct iovec *v = req->iov;

		if (req->op == DISK_WRITE)
			memcpy(below.bytes + at, v->iov_base, v->iov_len);
		else if (!error)
			memcpy(v->iov_base, below.bytes + at, v->iov_len);
		at += v->iov_len;
		v->iov_base = NULL;
		v->iov_len = 0;
		req->iov++;
		req->iov_count--;
		if (error)
			break;
	}
	if (!error && req->op == DISK_RESIZE)
		below.disk.size_bytes = req->offset;
	req->done(req, error);
}

static void below_submit(struct disk *disk, struct disk_req *req)
{
	below.submitted++;
	if (below.later) {
		req->next = below.waiting;
		below.waiting = req;
	} else {
		answer(req);
	}
}

static void below_drain(struct disk *disk)
{
	while (below.waiting) {
		struct disk_req *req = below.waiting;

		below.waiting = req->next;
		answer(req);
	}
}

static void below_close(struct disk *disk)
{
}

static const struct disk_ops below_ops = { .submit = below_submit, .drain = below_drain,
					   .close = below_close };

/* ---- the user ---- */

static struct disk *disk;
static int told[16];
static unsigned told_count;

static void on_changed(void *arg, int error)
{
	ck_assert_ptr_eq(arg, &below);
	told[told_count++] = error;
}

struct user {
	struct disk_req req;
	struct iovec iov[200];
	uint8_t data[4096];
	int result;
	unsigned done;
};

static void on_done(struct disk_req *req, int result)
{
	struct user *u = (struct user *)req;

	u->result = result;
	u->done++;
}

static void start(struct user *u, enum disk_op op, uint64_t offset, unsigned parts, uint8_t fill)
{
	memset(u, 0, sizeof(*u));
	memset(u->data, fill, sizeof(u->data));
	for (unsigned i = 0; i < parts; i++)
		u->iov[i] = (struct iovec){ u->data + i * (sizeof(u->data) / parts),
					    sizeof(u->data) / parts };
	u->req = (struct disk_req){ .op = op, .offset = offset, .len = sizeof(u->data), .iov = u->iov,
				    .iov_count = parts, .done = on_done };
	disk_submit(disk, &u->req);
	disk_kick(disk);
}

static void up(enum disk_on_error on_read, enum disk_on_error on_write)
{
	const struct disk_hold_options o = { on_read, on_write, on_changed, &below };

	memset(&below, 0, sizeof(below));
	below.disk = (struct disk){ .ops = &below_ops, .size_bytes = BYTES, .block_bytes = 512 };
	told_count = 0;
	disk = disk_hold_new(&below.disk, &o);
	ck_assert_ptr_nonnull(disk);
}

START_TEST(holds_until_there_is_room)
{
	static struct user a, b, flush, read;

	up(DISK_ERROR_REPORT, DISK_ERROR_ENOSPC);
	below.error = -ENOSPC;
	start(&a, DISK_WRITE, 0, 4, 0x11);
	start(&b, DISK_WRITE, 8192, 128, 0x22);
	start(&flush, DISK_FLUSH, 0, 0, 0);
	ck_assert(!a.done && !b.done && !flush.done);
	ck_assert(told_count == 1 && told[0] == ENOSPC);
	/* Reads go on; draining does not wait for what is held. */
	start(&read, DISK_READ, 4096, 2, 0xff);
	ck_assert(read.done == 1 && read.result == 0);
	disk_drain(disk);
	disk_hold_retry(disk);
	ck_assert(!a.done && !b.done && told_count == 1);
	below.error = 0;
	disk_hold_retry(disk);
	ck_assert(a.done == 1 && b.done == 1 && flush.done == 1);
	ck_assert(a.result == 0 && b.result == 0 && flush.result == 0);
	ck_assert(told_count == 2 && told[1] == 0);
	/* All of it, although half of it went wrong before. */
	ck_assert(memcmp(below.bytes, a.data, 4096) == 0);
	ck_assert(memcmp(below.bytes + 8192, b.data, 4096) == 0);
	disk_hold_retry(disk);
	ck_assert(told_count == 2);
	disk_close(disk);
}
END_TEST

START_TEST(tries_again_while_more_comes)
{
	static struct user a, b, c;

	up(DISK_ERROR_REPORT, DISK_ERROR_ENOSPC);
	below.error = -ENOSPC;
	start(&a, DISK_WRITE, 0, 1, 0x11);
	start(&b, DISK_WRITE, 4096, 1, 0x22);
	below.later = true;
	disk_hold_retry(disk);
	disk_hold_retry(disk); /* one is under way */
	ck_assert_uint_eq(below.submitted, 4);
	start(&c, DISK_WRITE, 8192, 1, 0x33);
	/* The newest fails, the others are done. */
	ck_assert_ptr_nonnull(below.waiting);
	{
		struct disk_req *newest = below.waiting;

		below.waiting = newest->next;
		answer(newest);
	}
	below.error = 0;
	below_drain(&below.disk);
	ck_assert(a.done == 1 && b.done == 1 && !c.done);
	ck_assert_uint_eq(told_count, 1);
	disk_hold_retry(disk);
	below_drain(&below.disk);
	ck_assert(c.done == 1 && told_count == 2 && told[1] == 0);
	disk_close(disk);
}
END_TEST

START_TEST(each_policy_does_what_it_says)
{
	static struct user w, r;

	up(DISK_ERROR_REPORT, DISK_ERROR_ENOSPC);
	below.error = below.read_error = -EIO;
	start(&w, DISK_WRITE, 0, 1, 1);
	start(&r, DISK_READ, 0, 1, 1);
	ck_assert(w.result == -EIO && r.result == -EIO && told_count == 0);
	disk_close(disk);
	up(DISK_ERROR_STOP, DISK_ERROR_REPORT);
	below.error = -ENOSPC;
	below.read_error = -EIO;
	start(&w, DISK_WRITE, 0, 1, 1);
	start(&r, DISK_READ, 0, 200, 1);
	ck_assert(w.result == -ENOSPC && !r.done && told_count == 1 && told[0] == EIO);
	below.read_error = 0;
	disk_hold_retry(disk);
	ck_assert(r.done == 1 && r.result == 0 && memcmp(r.data, below.bytes, 4000) == 0);
	disk_close(disk);
	up(DISK_ERROR_IGNORE, DISK_ERROR_IGNORE);
	below.error = below.read_error = -EIO;
	start(&w, DISK_WRITE, 0, 1, 1);
	start(&r, DISK_READ, 0, 1, 1);
	ck_assert(w.done && r.done && w.result == 0 && r.result == 0 && told_count == 0);
	disk_close(disk);
}
END_TEST

START_TEST(forgets_and_resizes)
{
	static struct user a, b;
	struct disk_req resize = { .op = DISK_RESIZE, .offset = 2 * BYTES };

	up(DISK_ERROR_REPORT, DISK_ERROR_STOP);
	below.error = -EIO;
	start(&a, DISK_WRITE, 0, 1, 1);
	start(&b, DISK_WRITE, 0, 199, 1);
	disk_hold_forget(disk);
	below.error = 0;
	disk_hold_retry(disk);
	ck_assert(!a.done && !b.done && told_count == 1);
	start(&a, DISK_WRITE, 0, 1, 2);
	ck_assert(a.done == 1);
	/* The size is passed on, and an error of resizing is not held. */
	ck_assert_int_eq(disk_run(disk, &resize), 0);
	ck_assert_uint_eq(disk->size_bytes, 2 * BYTES);
	below.error = -ENOSPC;
	resize.offset = 3 * BYTES;
	ck_assert_int_eq(disk_run(disk, &resize), -ENOSPC);
	ck_assert_uint_eq(disk->size_bytes, 2 * BYTES);
	/* Closed with something held. */
	start(&b, DISK_WRITE, 0, 3, 1);
	disk_close(disk);
	ck_assert(!b.done);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hold");
	TCase *t = tcase_create("hold");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_test(t, holds_until_there_is_room);
	tcase_add_test(t, tries_again_while_more_comes);
	tcase_add_test(t, each_policy_does_what_it_says);
	tcase_add_test(t, forgets_and_resizes);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
