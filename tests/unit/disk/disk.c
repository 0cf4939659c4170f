// SPDX-License-Identifier: Apache-2.0
/* disk.c - tests of raw images: against a model, odd sizes, locks, marks, both ways of I/O. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <liburing.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk/disk_int.h"
#include "disk/swift.h"
#include "image_file.h"

static const enum disk_runner runners[] = { DISK_RUNNER_URING, DISK_RUNNER_POOL };

static void fill(size_t bytes, uint8_t *model)
{
	int fd = open(path, O_WRONLY | O_TRUNC);

	for (size_t i = 0; i < bytes; i++)
		model[i] = (uint8_t)rand();
	ck_assert_int_eq(write(fd, model, bytes), (ssize_t)bytes);
	close(fd);
}

/* NULL where this host's kernel refuses io_uring: then there is nothing to test. */
static struct disk *open_with(int runner, bool readonly)
{
	const struct disk_options o = { .format = "raw", .readonly = readonly,
					.runner = runners[runner] };
	g_autoptr(GError) err = NULL;
	struct disk *disk = disk_open_options(path, &o, loop, &err);

	if (!disk)
		ck_assert_msg(runners[runner] == DISK_RUNNER_URING, "%s", err->message);
	return disk;
}

struct pending {
	struct disk_req req;
	struct iovec iov[8];
	unsigned *left;
	int result;
};

static void done(struct disk_req *req, int result)
{
	struct pending *p = (struct pending *)req;

	p->result = result;
	if (--*p->left == 0)
		loop_stop(loop);
}

static int run(struct disk *disk, enum disk_op op, uint64_t off, uint64_t len, uint8_t *buf,
	       unsigned parts, bool unmap)
{
	unsigned left = 1;
	struct pending p = { .left = &left };
	uint64_t at = 0;

	p.req = (struct disk_req){ .op = op, .unmap = unmap, .offset = off, .len = len,
				   .iov = p.iov, .done = done };
	if (buf) {
		for (unsigned i = 0; i < parts; i++) {
			uint64_t l = i + 1 == parts ? len - at : len / parts;

			p.iov[i] = (struct iovec){ buf + at, l };
			at += l;
		}
		p.req.iov_count = parts;
	}
	disk_submit(disk, &p.req);
	disk_kick(disk);
	while (left) /* a stop may be left over from a request that was refused at once */
		loop_run(loop);
	return p.result;
}

#define BYTES (600u * 1024u)

START_TEST(agrees_with_a_model)
{
	static uint8_t model[BYTES], buf[BYTES];
	struct disk *disk;

	srand(11);
	fill(BYTES, model);
	disk = open_with(_i, false);
	if (!disk)
		return;
	ck_assert_uint_eq(disk->size_bytes, BYTES);
	for (unsigned i = 0; i < 400; i++) {
		uint64_t len = 512u * (1 + (unsigned)rand() % 200);
		uint64_t off = 512u * ((uint64_t)rand() % ((BYTES - len) / 512 + 1));
		unsigned parts = 1 + (unsigned)rand() % 8;

		switch (rand() % 5) {
		case 0:
			for (unsigned k = 0; k < len; k++)
				buf[k] = model[off + k] = (uint8_t)rand();
			ck_assert_int_eq(run(disk, DISK_WRITE, off, len, buf, parts, false), 0);
			break;
		case 1:
			ck_assert_int_eq(run(disk, DISK_WRITE_ZEROES, off, len, NULL, 0, rand() & 1),
					 0);
			memset(model + off, 0, len);
			break;
		case 2:
			ck_assert_int_eq(run(disk, DISK_FLUSH, 0, 0, NULL, 0, false), 0);
			break;
		default:
			memset(buf, 0x55, len);
			ck_assert_int_eq(run(disk, DISK_READ, off, len, buf, parts, false), 0);
			ck_assert(memcmp(buf, model + off, len) == 0);
		}
	}
	/* A discarded range may hold anything; what is around it may not. */
	ck_assert_int_eq(run(disk, DISK_DISCARD, 4096, 8192, NULL, 0, false), 0);
	ck_assert_int_eq(run(disk, DISK_READ, 0, 4096, buf, 1, false), 0);
	ck_assert(memcmp(buf, model, 4096) == 0);
	disk_close(disk);
}
END_TEST

START_TEST(many_requests_at_once)
{
	enum { COUNT = 500 };
	static struct pending p[COUNT];
	static uint8_t model[BYTES], buf[COUNT][1024];
	unsigned left = COUNT;
	struct disk *disk;

	fill(BYTES, model);
	disk = open_with(_i, true);
	if (!disk)
		return;
	for (unsigned i = 0; i < COUNT; i++) {
		p[i].left = &left;
		p[i].iov[0] = (struct iovec){ buf[i], 1024 };
		p[i].req = (struct disk_req){ .op = DISK_READ, .offset = i * 1024u, .len = 1024,
					      .iov = p[i].iov, .iov_count = 1, .done = done };
		disk_submit(disk, &p[i].req);
	}
	disk_kick(disk);
	if (_i == 0)
		loop_run(loop);
	else
		disk_drain(disk);
	ck_assert_uint_eq(left, 0);
	for (unsigned i = 0; i < COUNT; i++) {
		ck_assert_int_eq(p[i].result, 0);
		ck_assert(memcmp(buf[i], model + i * 1024u, 1024) == 0);
	}
	disk_close(disk);
}
END_TEST

/* The kernel, when it is short of room, and when it leaves a request lying until another one for
 * its threads comes: the linker puts these in the calls' places. */
static unsigned refusals;
static bool leaves;
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
int __real_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
					    unsigned count, struct __kernel_timespec *time,
					    sigset_t *mask);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
					    unsigned count, struct __kernel_timespec *time,
					    sigset_t *mask);

static bool is_left(const struct io_uring *ring)
{
	const struct io_uring_sqe *last =
		&ring->sq.sqes[(ring->sq.sqe_tail - 1) & *ring->sq.kring_mask];

	return leaves && !(last->opcode == IORING_OP_NOP && last->flags & IOSQE_ASYNC);
}

int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
					    unsigned count, struct __kernel_timespec *time,
					    sigset_t *mask)
{
	if (!is_left(ring))
		return __real_io_uring_submit_and_wait_timeout(ring, cqe, count, time, mask);
	usleep((useconds_t)(time->tv_nsec / 1000));
	return -ETIME;
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
	if (is_left(ring))
		return (int)io_uring_sq_ready(ring);
	if (!refusals)
		return __real_io_uring_submit(ring);
	refusals--;
	return -EAGAIN;
}

START_TEST(goes_on_when_the_kernel_was_short_of_room)
{
	static uint8_t model[512], buf[512];
	struct disk *disk;

	fill(sizeof(model), model);
	disk = open_with(0, false);
	if (!disk)
		return;
	refusals = 3;
	/* Nothing else is under way that would bring another try. */
	ck_assert_int_eq(run(disk, DISK_READ, 0, sizeof(buf), buf, 1, false), 0);
	ck_assert_uint_eq(refusals, 0);
	ck_assert_mem_eq(buf, model, sizeof(buf));
	disk_close(disk);
}
END_TEST

START_TEST(a_request_that_is_left_lying_is_looked_at)
{
	static uint8_t model[512], buf[512];
	struct pending p = { .iov = { { buf, sizeof(buf) } }, .left = &(unsigned){ 1 } };
	struct disk *disk;

	fill(sizeof(model), model);
	disk = open_with(0, false);
	if (!disk)
		return;
	leaves = true;
	p.req = (struct disk_req){
		.op = DISK_READ, .len = sizeof(buf), .iov = p.iov, .iov_count = 1, .done = done
	};
	disk_submit(disk, &p.req);
	disk_kick(disk);
	if (_i == 0)
		loop_run(loop);
	else
		disk_drain(disk);
	ck_assert_uint_eq(*p.left, 0);
	ck_assert_int_eq(p.result, 0);
	ck_assert_mem_eq(buf, model, sizeof(buf));
	leaves = false;
	disk_close(disk);
}
END_TEST

static unsigned at_once, nap_us;

ssize_t __real_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset);

/* A system call of the loop's own thread may have to wait. */
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t offset)
{
	if (gettid() == getpid())
		at_once++;
	if (nap_us)
		usleep(nap_us);
	return __real_pwritev64(fd, iov, count, offset);
}

#define LONG (DISK_SWIFT_BYTES + 4096u)

/* So many requests in one batch; what of them was done at once. */
static unsigned batch(struct disk *disk, const enum disk_op *ops, unsigned count, uint64_t len)
{
	static uint8_t buf[LONG];
	struct pending pending[8] = { 0 };
	unsigned left = count, before = at_once;

	for (unsigned i = 0; i < count; i++) {
		pending[i].left = &left;
		pending[i].iov[0] = (struct iovec){ buf, len };
		pending[i].req = (struct disk_req){ .op = ops[i], .offset = i * len, .done = done };
		if (ops[i] == DISK_WRITE) {
			pending[i].req.len = len;
			pending[i].req.iov = pending[i].iov;
			pending[i].req.iov_count = 1;
		}
		disk_submit(disk, &pending[i].req);
	}
	disk_kick(disk);
	while (left)
		loop_run(loop);
	for (unsigned i = 0; i < count; i++)
		ck_assert_int_eq(pending[i].result, 0);
	return at_once - before;
}

/* Writes are done in kick(); none that are very long, or while others are under way. */
START_TEST(writes_at_once_what_need_not_wait)
{
	static const enum disk_op writes[] = { DISK_WRITE, DISK_WRITE, DISK_WRITE };
	static const enum disk_op flushed[] = { DISK_FLUSH, DISK_WRITE };
	struct disk_image image = { .fd = open(path, O_RDWR) };
	struct disk_swift swift;
	struct disk *disk;

	ck_assert_int_eq(ftruncate(image.fd, 3 * LONG), 0);
	disk_swift_init(&swift, &image);
	close(image.fd);
	disk = open_with(_i, false);
	if (!disk || !swift.able) {
		if (disk)
			disk_close(disk);
		return;
	}
	ck_assert_uint_eq(batch(disk, writes, 3, 4096), 3);
	ck_assert_uint_eq(batch(disk, writes, 1, LONG), 0);
	ck_assert_uint_eq(batch(disk, flushed, 2, 4096), 0);
	disk_close(disk);
}
END_TEST

/* One that took long sends others the other way for a while, and for longer when it happens again. */
START_TEST(waits_in_a_write_seldom)
{
	struct disk_image image = { .fd = open(path, O_RDWR) };
	struct disk_swift swift = { .able = true };
	struct iovec iov = { "", 1 };
	struct disk_req req = { .op = DISK_WRITE, .iov = &iov, .iov_count = 1, .len = 1 };
	uint64_t pause_ns = 0;

	for (unsigned i = 0; i < 12; i++) {
		uint64_t begin_ns = loop_now_ns();

		nap_us = 5000;
		ck_assert_int_eq(disk_swift_try(&swift, &image, &req, true), 1);
		nap_us = 0;
		ck_assert_uint_ge(swift.pause_ns, pause_ns);
		ck_assert_uint_ge(swift.resume_ns, begin_ns + swift.pause_ns);
		pause_ns = swift.pause_ns;
		/* Time goes by until the pause is over, and hardly more. */
		swift.resume_ns = begin_ns + 3600000000000u;
		ck_assert_int_eq(disk_swift_try(&swift, &image, &req, true), -EAGAIN);
		swift.resume_ns = loop_now_ns();
	}
	ck_assert_uint_ge(pause_ns, 1000000000u);
	ck_assert_uint_le(pause_ns, 10000000000u);
	/* Long after a pause it is as if there had been none. */
	swift.pause_ns = 1000000000u;
	swift.resume_ns = 1;
	nap_us = 5000;
	ck_assert_int_eq(disk_swift_try(&swift, &image, &req, true), 1);
	ck_assert_uint_lt(swift.pause_ns, 1000000000u);
	close(image.fd);
}
END_TEST

START_TEST(odd_tail_reads_as_zeros_and_grows_whole)
{
	uint8_t model[700], buf[1024], zeros[324] = { 0 };
	struct disk *disk;
	struct stat st;

	fill(sizeof(model), model);
	disk = open_with(_i, false);
	if (!disk)
		return;
	ck_assert_uint_eq(disk->size_bytes, 1024);
	memset(buf, 0xff, sizeof(buf));
	ck_assert_int_eq(run(disk, DISK_READ, 0, 1024, buf, 3, false), 0);
	ck_assert(memcmp(buf, model, 700) == 0 && memcmp(buf + 700, zeros, 324) == 0);
	memset(buf, 7, 512);
	ck_assert_int_eq(run(disk, DISK_WRITE, 512, 512, buf, 1, false), 0);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_size, 1024);
	disk_close(disk);
}
END_TEST

START_TEST(refuses_requests_outside)
{
	static uint8_t model[4096], buf[4096];
	struct disk *disk;

	fill(sizeof(model), model);
	disk = open_with(_i, true);
	if (!disk)
		return;
	ck_assert_int_eq(run(disk, DISK_READ, 4096, 512, buf, 1, false), -EINVAL);
	ck_assert_int_eq(run(disk, DISK_READ, 3584, 1024, buf, 1, false), -EINVAL);
	ck_assert_int_eq(run(disk, DISK_READ, ~0ull - 511, 512, buf, 1, false), -EINVAL);
	ck_assert_int_eq(run(disk, DISK_WRITE, 0, 512, buf, 1, false), -EROFS);
	ck_assert_int_eq(run(disk, DISK_DISCARD, 0, 512, NULL, 0, false), -EROFS);
	disk_close(disk);
}
END_TEST

/* The limit on file sizes stands in for a full host disk: the odd tail cannot grow. */
START_TEST(full_host_is_an_error_and_no_loss)
{
	const struct rlimit limit = { 700, 700 };
	uint8_t model[700], buf[512];
	struct disk *disk;

	fill(sizeof(model), model);
	disk = open_with(_i, false);
	if (!disk)
		return;
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	memset(buf, 9, sizeof(buf));
	ck_assert_int_eq(run(disk, DISK_WRITE, 0, 512, buf, 1, false), 0);
	ck_assert_int_lt(run(disk, DISK_WRITE, 512, 512, buf, 1, false), 0);
	ck_assert_int_eq(run(disk, DISK_FLUSH, 0, 0, NULL, 0, false), 0);
	ck_assert_int_eq(run(disk, DISK_READ, 0, 512, model, 1, false), 0);
	ck_assert(memcmp(model, buf, 512) == 0);
	disk_close(disk);
}
END_TEST

static void expect_refusal(const char *format, bool readonly, const char *part)
{
	g_autoptr(GError) err = NULL;

	ck_assert_ptr_null(disk_open(path, format, readonly, loop, &err));
	ck_assert_ptr_nonnull(err);
	ck_assert_msg(strstr(err->message, part), "'%s' is not in: %s", part, err->message);
	ck_assert_msg(strstr(err->message, path), "no path in: %s", err->message);
}

START_TEST(one_writer_or_many_readers)
{
	uint8_t model[4096];
	struct disk *a, *b;
	int ready[2], end[2];
	g_autofree char *pid_text = NULL;
	pid_t pid;
	char c;

	fill(sizeof(model), model);
	a = disk_open(path, NULL, true, loop, NULL);
	b = disk_open(path, NULL, true, loop, NULL);
	ck_assert(a && b);
	expect_refusal(NULL, false, "given twice to this machine");
	disk_close(a);
	disk_close(b);

	ck_assert(pipe(ready) == 0 && pipe(end) == 0);
	pid = fork();
	if (pid == 0) {
		a = disk_open(path, NULL, false, loop_new(), NULL);
		if (!a || write(ready[1], "r", 1) != 1 || read(end[0], &c, 1) != 1)
			_exit(1);
		_exit(0); /* without closing, as a machine that is killed */
	}
	ck_assert_int_eq(read(ready[0], &c, 1), 1);
	pid_text = g_strdup_printf("in use by another process (pid %d)", pid);
	expect_refusal(NULL, true, pid_text);
	expect_refusal(NULL, false, pid_text);
	ck_assert_int_eq(write(end[1], "e", 1), 1);
	waitpid(pid, NULL, 0);
	a = disk_open(path, NULL, false, loop, NULL);
	ck_assert_ptr_nonnull(a);
	disk_close(a);
}
END_TEST

START_TEST(knows_other_formats_by_their_marks)
{
	static const struct {
		unsigned off;
		const char *bytes, *name;
	} marks[] = { { 0, "QFI\xfb", "qcow version" },
		      { 0, "KDMV", "is of VMDK version" },
		      { 0, "COWD", "is a VMDK (COWD) image; supported are raw, qcow2" },
		      { 64, "\x7f\x10\xda\xbe", "VDI version" },
		      { 0, "vhdxfile", "has no header that is whole" } };
	uint8_t model[4096];
	struct disk *disk;

	for (size_t i = 0; i < G_N_ELEMENTS(marks); i++) {
		int fd;

		fill(sizeof(model), model);
		fd = open(path, O_WRONLY);
		ck_assert_int_gt(pwrite(fd, marks[i].bytes, strlen(marks[i].bytes), marks[i].off), 0);
		close(fd);
		expect_refusal(NULL, false, marks[i].name);
		disk = disk_open(path, "raw", false, loop, NULL); /* as told */
		ck_assert_ptr_nonnull(disk);
		disk_close(disk);
	}
	expect_refusal("qcow2", false, "is not a qcow2 image");
	expect_refusal("qed", false, "is not supported; supported are raw, qcow2");
}
END_TEST

/* What is a raw image today because nobody said so must be one tomorrow. */
START_TEST(guest_cannot_make_an_image_look_like_another_format)
{
	static uint8_t model[4096], buf[4096];
	struct disk *disk;

	fill(sizeof(model), model);
	memcpy(buf, "QFI\xfb", 4);
	memset(buf + 4, 3, sizeof(buf) - 4);
	disk = disk_open(path, NULL, false, loop, NULL);
	ck_assert_int_eq(run(disk, DISK_WRITE, 0, 512, buf, 2, false), -EPERM);
	ck_assert_int_eq(run(disk, DISK_WRITE, 0, 4096, buf, 8, false), -EPERM);
	ck_assert_int_eq(run(disk, DISK_WRITE, 512, 3584, buf, 1, false), 0);
	buf[0] = 'x';
	ck_assert_int_eq(run(disk, DISK_WRITE, 0, 4096, buf, 8, false), 0);
	ck_assert_int_eq(run(disk, DISK_READ, 0, 4096, model, 1, false), 0);
	ck_assert_mem_eq(model, buf, sizeof(buf));
	disk_close(disk);
	disk = disk_open(path, "raw", false, loop, NULL);
	buf[0] = 'Q';
	ck_assert_int_eq(run(disk, DISK_WRITE, 0, 512, buf, 1, false), 0);
	disk_close(disk);
	expect_refusal(NULL, false, "qcow version");
}
END_TEST

START_TEST(tells_holes_from_data_and_grows)
{
	struct disk_req map = { .op = DISK_MAP, .len = 1u << 20 };
	struct disk_req resize = { .op = DISK_RESIZE, .offset = 2u << 20 };
	static uint8_t buf[65536];
	struct disk *disk;
	struct stat st;

	ck_assert_int_eq(truncate(path, 1 << 20), 0);
	disk = open_with(_i, false);
	if (!disk)
		return;
	memset(buf, 1, sizeof(buf));
	ck_assert_int_eq(run(disk, DISK_WRITE, 65536, 65536, buf, 1, false), 0);
	ck_assert_int_eq(disk_run(disk, &map), 0);
	ck_assert_int_eq(map.map.state, DISK_ZERO);
	ck_assert_uint_eq(map.map.len, 65536);
	map.offset = 65536;
	map.len -= 65536;
	ck_assert_int_eq(disk_run(disk, &map), 0);
	ck_assert_int_eq(map.map.state, DISK_DATA);
	ck_assert_uint_eq(map.map.len, 65536);
	ck_assert_uint_eq(map.map.host_offset, 65536);
	ck_assert_int_eq(disk_run(disk, &resize), 0);
	ck_assert_uint_eq(disk->size_bytes, 2u << 20);
	ck_assert_int_eq(run(disk, DISK_READ, (2u << 20) - 512, 512, buf, 1, false), 0);
	ck_assert_uint_eq(buf[0], 0);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_size, 2 << 20);
	disk_close(disk);
}
END_TEST

START_TEST(says_what_is_wrong)
{
	expect_refusal(NULL, false, "is empty");
	unlink(path);
	expect_refusal(NULL, false, "No such file");
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	expect_refusal(NULL, false, "neither a file nor a block device");
	unlink(path);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	expect_refusal(NULL, false, "is a directory");
	expect_refusal(NULL, true, "a directory");
	rmdir(path);
}
END_TEST

#define BLOCK 4096u

/* By the time a read's result is looked at, a write behind it may have made the file longer: what the read
 * found behind the end was zeros. Where the file is shorter than it was, it is none. */
START_TEST(read_at_end_of_growing_file_is_zeros)
{
	uint8_t bytes[BLOCK];
	struct iovec iov = { bytes, BLOCK };
	struct disk_req req = { .op = DISK_READ, .offset = BLOCK, .len = BLOCK, .iov = &iov, .iov_count = 1 };
	struct disk_image image = { .disk.size_bytes = 3 * BLOCK, .fd = open(path, O_RDWR) };

	memset(bytes, 1, BLOCK);
	ck_assert_int_eq(ftruncate(image.fd, (3 - _i) * BLOCK), 0);
	ck_assert(disk_req_step(&image, &req, 0));
	ck_assert_int_eq(req.result, _i ? -EIO : 0);
	ck_assert_uint_eq(bytes[0] + bytes[BLOCK - 1], _i ? 2 : 0);
	close(image.fd);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("disk");
	TCase *t = tcase_create("disk");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 20);
	tcase_add_loop_test(t, agrees_with_a_model, 0, 2);
	tcase_add_loop_test(t, many_requests_at_once, 0, 2);
	tcase_add_test(t, goes_on_when_the_kernel_was_short_of_room);
	tcase_add_loop_test(t, a_request_that_is_left_lying_is_looked_at, 0, 2);
	tcase_add_loop_test(t, writes_at_once_what_need_not_wait, 0, 2);
	tcase_add_test(t, waits_in_a_write_seldom);
	tcase_add_loop_test(t, odd_tail_reads_as_zeros_and_grows_whole, 0, 2);
	tcase_add_loop_test(t, refuses_requests_outside, 0, 2);
	tcase_add_loop_test(t, full_host_is_an_error_and_no_loss, 0, 2);
	tcase_add_test(t, one_writer_or_many_readers);
	tcase_add_test(t, knows_other_formats_by_their_marks);
	tcase_add_test(t, guest_cannot_make_an_image_look_like_another_format);
	tcase_add_loop_test(t, tells_holes_from_data_and_grows, 0, 2);
	tcase_add_test(t, says_what_is_wrong);
	tcase_add_loop_test(t, read_at_end_of_growing_file_is_zeros, 0, 2);
	suite_add_tcase(s, t);
	return run_suite(s);
}
