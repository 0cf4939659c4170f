// SPDX-License-Identifier: Apache-2.0
/* moment.c - tests of views of a disk that is written on, raw and qcow2, by io_uring and by threads. */
#include "disk/filters/moment.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"
#include "disk/qcow2/qcow2.h"

#define BYTES (3u << 20)
#define SIZE  (BYTES + 5 * 512) /* the last grain is not whole */
#define JOBS  24u

static struct loop *loop;
static struct disk *disk, *view;
static uint8_t model[SIZE], then[SIZE];
static bool is_late;

/* ---- a disk in memory that does things late and in any order ---- */

#define LATE 256u

struct late {
	struct disk disk;
	uint8_t *bytes;
	struct disk_req *waiting[LATE];
	unsigned count;
};

static void late_do(struct late *l, unsigned i)
{
	struct disk_req *req = l->waiting[i];
	uint64_t at = req->offset;

	l->waiting[i] = l->waiting[--l->count];
	for (unsigned k = 0; k < req->iov_count && req->op <= DISK_WRITE; k++) {
		if (req->op == DISK_READ)
			memcpy(req->iov[k].iov_base, l->bytes + at, req->iov[k].iov_len);
		else
			memcpy(l->bytes + at, req->iov[k].iov_base, req->iov[k].iov_len);
		at += req->iov[k].iov_len;
	}
	if (req->op == DISK_WRITE_ZEROES)
		memset(l->bytes + at, 0, req->len);
	req->done(req, 0);
}

static void late_submit(struct disk *d, struct disk_req *req)
{
	struct late *l = (struct late *)d;

	ck_assert_uint_lt(l->count, LATE);
	l->waiting[l->count++] = req;
}

static void late_kick(struct disk *d)
{
	struct late *l = (struct late *)d;

	for (unsigned i = l->count / 2; i > 0 && l->count; i--)
		late_do(l, (unsigned)rand() % l->count);
}

static void late_drain(struct disk *d)
{
	struct late *l = (struct late *)d;

	while (l->count)
		late_do(l, (unsigned)rand() % l->count);
}

static void late_close(struct disk *d)
{
	free(((struct late *)d)->bytes);
	free(d);
}

static const struct disk_ops late_ops = { late_submit, late_kick, late_drain, late_close };

static struct disk *make_late(void)
{
	struct late *l = calloc(1, sizeof(*l));

	l->disk = (struct disk){ .ops = &late_ops, .size_bytes = SIZE, .block_bytes = 512, .format = "late" };
	l->bytes = calloc(1, SIZE);
	return &l->disk;
}

static struct disk *make_disk(const char *format, enum disk_runner runner, uint64_t size)
{
	const struct disk_options o = { .format = format, .runner = runner };
	const struct qcow2_create how = { .size_bytes = size, .version = 3, .cluster_bytes = 65536,
					  .refcount_bits = 16 };
	char path[] = "/tmp/sika-test-moment-XXXXXX";
	int fd = mkstemp(path);
	struct disk *d;

	ck_assert_int_ge(fd, 0);
	if (*format == 'q')
		ck_assert(qcow2_create_file(path, &how, loop, NULL));
	else
		ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
	d = disk_open_options(path, &o, loop, NULL);
	ck_assert_ptr_nonnull(d);
	close(fd);
	unlink(path);
	return d;
}

static void up(unsigned kind)
{
	struct disk *below;

	loop = loop_new();
	is_late = kind == 4;
	below = kind == 4 ? make_late() : make_disk(kind & 1 ? "qcow2" : "raw", kind & 2 ? DISK_RUNNER_POOL : DISK_RUNNER_ANY, SIZE);
	disk = disk_moment_new(below);
	ck_assert_ptr_nonnull(disk);
	srand(kind + 1);
	for (unsigned i = 0; i < SIZE; i++)
		model[i] = i / 65536 % 3 ? (uint8_t)rand() : 0;
	ck_assert_int_eq(disk_write_wait(disk, model, SIZE, 0), 0);
}

static int take(void)
{
	struct disk *store = is_late ? make_late() : make_disk("qcow2", DISK_RUNNER_ANY, SIZE);
	int r = disk_moment_take(disk, store, &view);

	if (r < 0)
		disk_close(store);
	memcpy(then, model, SIZE);
	return r;
}

static void down(void)
{
	disk_close(disk);
	loop_free(loop);
}

struct job {
	struct disk_req req;
	struct iovec iov[2];
	uint8_t *data;
	uint64_t offset, len;
	bool of_view, busy;
};

static struct job jobs[JOBS];
static unsigned busy, checked;

static void job_done(struct disk_req *req, int result)
{
	struct job *j = container_of(req, struct job, req);

	ck_assert_int_eq(result, 0);
	if (j->of_view) {
		ck_assert(memcmp(j->data, then + j->offset, j->len) == 0);
		checked++;
	}
	free(j->data);
	j->busy = false;
	busy--;
}

/* Writes must not overlap each other, so that the model is told what comes of them: each has its own stripe. */
static void job_start(unsigned i)
{
	uint64_t stripe = SIZE / 512 / JOBS * 512;
	struct job *j = &jobs[i];

	j->of_view = view && rand() % 2;
	j->busy = true;
	busy++;
	j->len = (1 + (uint64_t)rand() % 200) * 512;
	if (j->len > stripe)
		j->len = stripe;
	j->offset = j->of_view ? (uint64_t)rand() % ((SIZE - j->len) / 512 + 1) * 512 :
				 i * stripe + (uint64_t)rand() % ((stripe - j->len) / 512 + 1) * 512;
	j->data = malloc(j->len);
	j->iov[0] = (struct iovec){ j->data, j->len / 1024 * 512 };
	j->iov[1] = (struct iovec){ j->data + j->iov[0].iov_len, j->len - j->iov[0].iov_len };
	j->req = (struct disk_req){ .offset = j->offset, .len = j->len, .done = job_done };
	if (j->iov[0].iov_len) {
		j->req.iov = j->iov;
		j->req.iov_count = 2;
	} else {
		j->req.iov = j->iov + 1;
		j->req.iov_count = 1;
	}
	j->req.op = j->of_view ? DISK_READ : rand() % 4 ? DISK_WRITE : DISK_WRITE_ZEROES;
	if (!j->of_view) {
		for (uint64_t k = 0; k < j->len; k++)
			j->data[k] = j->req.op == DISK_WRITE ? (uint8_t)rand() : 0;
		memcpy(model + j->offset, j->data, j->len);
	}
	j->req.unmap = rand() & 1;
	disk_submit(j->of_view ? view : disk, &j->req);
}

static void traffic(unsigned rounds)
{
	for (unsigned n = 0; n < rounds; n++) {
		for (unsigned i = 0; i < JOBS; i++)
			if (!jobs[i].busy && rand() % 2)
				job_start(i);
		disk_kick(disk);
		if (view)
			disk_kick(view);
		if (rand() % 3 == 0)
			disk_drain(rand() % 2 && view ? view : disk);
	}
	if (view)
		disk_drain(view);
	disk_drain(disk);
	ck_assert_uint_eq(busy, 0);
}

static void agrees(struct disk *d, const uint8_t *want)
{
	uint8_t *all = malloc(SIZE);

	ck_assert_int_eq(disk_read_wait(d, all, SIZE, 0), 0);
	ck_assert(memcmp(all, want, SIZE) == 0);
	free(all);
}

START_TEST(view_stays_while_all_is_written)
{
	up((unsigned)_i);
	traffic(20);
	for (unsigned round = 0; round < 3; round++) {
		checked = 0;
		ck_assert_int_eq(take(), 0);
		agrees(view, then);
		traffic(60);
		ck_assert_uint_gt(checked, 50);
		agrees(view, then);
		agrees(disk, model);
		disk_close(view);
		view = NULL;
		traffic(5);
		agrees(disk, model);
	}
	down();
}
END_TEST

START_TEST(one_view_that_nobody_writes_to)
{
	uint8_t block[512] = { 0 };
	struct disk_req req = { .op = DISK_FLUSH };

	up(0);
	ck_assert_int_eq(take(), 0);
	ck_assert(view->readonly && view->size_bytes == SIZE);
	ck_assert_int_eq(take(), -EBUSY);
	ck_assert_int_eq(disk_write_wait(view, block, 512, 0), -EROFS);
	ck_assert_int_eq(disk_run(view, &req), 0);
	ck_assert_int_eq(disk_read_wait(view, block, 512, SIZE), -EINVAL);
	/* The disk grows under it. */
	req = (struct disk_req){ .op = DISK_RESIZE, .offset = 2 * BYTES };
	ck_assert_int_eq(disk_run(disk, &req), 0);
	ck_assert_uint_eq(disk->size_bytes, 2 * BYTES);
	ck_assert_int_eq(disk_write_wait(disk, block, 512, 2 * BYTES - 512), 0);
	agrees(view, then);
	/* Where data is, before and behind what was copied. */
	ck_assert_int_eq(disk_write_wait(disk, block, 512, 65536 * 4), 0);
	for (uint64_t at = 0; at < SIZE; at += req.map.len) {
		req = (struct disk_req){ .op = DISK_MAP, .offset = at, .len = SIZE - at };
		ck_assert_int_eq(disk_run(view, &req), 0);
		ck_assert(req.map.len > 0 && req.map.len <= SIZE - at);
		if (req.map.state == DISK_DATA)
			continue;
		for (uint64_t i = at; i < at + req.map.len; i++)
			ck_assert_uint_eq(then[i], 0);
	}
	disk_close(view);
	view = NULL;
	down();
}
END_TEST

/* A store without room: the view is lost, and nothing else. */
static void full_submit(struct disk *d, struct disk_req *req)
{
	req->done(req, req->op == DISK_WRITE ? -ENOSPC : 0);
}

static void full_nothing(struct disk *d)
{
}

START_TEST(store_without_room_is_the_views_end)
{
	static const struct disk_ops ops = { full_submit, NULL, full_nothing, full_nothing };
	struct disk store = { .ops = &ops, .size_bytes = SIZE };
	uint8_t block[512] = { 1 };

	up(0);
	ck_assert_int_eq(disk_moment_take(disk, &store, &view), 0);
	ck_assert_int_eq(disk_read_wait(view, block, 512, 0), 0);
	memset(block, 7, 512);
	memcpy(model + 65536, block, 512);
	ck_assert_int_eq(disk_write_wait(disk, block, 512, 65536), 0);
	ck_assert_int_eq(disk_read_wait(view, block, 512, 0), -EIO);
	agrees(disk, model);
	disk_close(view);
	view = NULL;
	ck_assert_int_eq(take(), 0);
	agrees(view, then);
	disk_close(view);
	down();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("moment");
	TCase *t = tcase_create("moment");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, view_stays_while_all_is_written, 0, 5);
	tcase_add_test(t, one_view_that_nobody_writes_to);
	tcase_add_test(t, store_without_room_is_the_views_end);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
