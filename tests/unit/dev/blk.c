// SPDX-License-Identifier: Apache-2.0
/* blk.c - tests of the block device: queues, when it flushes, its configuration, resizing. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"
#include "dev/virtio/virtio.h"
#include "disk/disk.h"
#include "virtio_driver.h"

#define MEMORY (4u << 20)
#define RINGS  0x100000u /* 0x2000 a queue */
#define HEADER 0x200000u
#define DATA   0x210000u
#define STATUS 0x2f0000u
#define CAPACITY_SECTORS 2048u

#define F_FLUSH	     (1ull << 9)
#define F_CONFIG_WCE (1ull << 11)
#define F_MQ	     (1ull << 12)
#define F_RANGES     (3ull << 13)

#define CONFIG_WRITEBACK  (DRV_CONFIG + 32)
#define CONFIG_NUM_QUEUES (DRV_CONFIG + 34)

static struct rig rig;
static struct drv drv;
static uint16_t ring_size = 16;

/* ---- a disk that writes down what is asked of it ---- */

struct fake_disk {
	struct disk disk;
	char log[64];
	int error; /* of the next request */
	struct disk_req *held; /* with hold set, what has come */
	bool hold;
};

static void fake_submit(struct disk *disk, struct disk_req *req)
{
	static const char letters[] = "RWFDZMS";
	struct fake_disk *f = (struct fake_disk *)disk;
	size_t n = strlen(f->log);
	int error = f->error;

	if (n + 1 < sizeof(f->log))
		f->log[n] = letters[req->op];
	f->error = 0;
	if (req->op == DISK_RESIZE && !error)
		disk->size_bytes = req->offset;
	if (f->hold) {
		req->next = f->held;
		f->held = req;
		return;
	}
	req->done(req, error);
}

static void fake_drain(struct disk *disk)
{
	struct fake_disk *f = (struct fake_disk *)disk;

	while (f->held) {
		struct disk_req *req = f->held;

		f->held = req->next;
		req->done(req, 0);
	}
}

static const struct disk_ops fake_ops = { .submit = fake_submit, .drain = fake_drain };
static struct fake_disk fake;

static uint8_t *ram(gpa_t gpa)
{
	return mem_ptr(rig.mem, gpa, 1);
}

static struct virtio_dev *up(uint64_t features, const struct virtio_blk_options *options)
{
	struct virtio_env env;
	struct virtio_dev *dev;

	rig_init(&rig, MEMORY);
	env = (struct virtio_env){ .pci = rig.pci, .mem = rig.mem, .loop = rig.loop, .slot = 3 };
	fake = (struct fake_disk){ .disk = { .ops = &fake_ops, .size_bytes = CAPACITY_SECTORS * 512,
					     .block_bytes = 4096, .can_discard = true } };
	dev = virtio_blk_new(&env, &fake.disk, options, NULL);
	ck_assert_ptr_nonnull(dev);
	drv_probe(&drv, &rig, 3, features | DRV_VERSION_1, true);
	for (unsigned i = 0; i < (options->queues ?: 1) && i < 4; i++)
		drv_queue_setup(&drv, i, ring_size, RINGS + i * 0x2000);
	/* The vector of the configuration. */
	drv_write(&drv, DRV_MSIX_TABLE, 8, 0xfee00000u);
	drv_write(&drv, DRV_MSIX_TABLE + 8, 4, 0x30);
	drv_write(&drv, DRV_MSIX_TABLE + 12, 4, 0);
	drv_write(&drv, 16, 2, 0);
	drv_ready(&drv);
	rig_settle(&rig);
	return dev;
}

static void down(struct virtio_dev *dev)
{
	virtio_free(dev);
	rig_fini(&rig);
}

static void offer(unsigned queue, uint32_t type, uint64_t sector, uint32_t len, bool in)
{
	const struct drv_buf bufs[] = { { HEADER, 16, false }, { DATA, len, in }, { STATUS, 1, true } };
	const struct drv_buf bare[] = { bufs[0], bufs[2] };

	store_le32(ram(HEADER), type);
	store_le64(ram(HEADER + 8), sector);
	*ram(STATUS) = 0xee;
	drv_add(&drv.q[queue], len ? bufs : bare, len ? 3 : 2);
	drv_notify(&drv, queue);
}

static uint8_t request(unsigned queue, uint32_t type, uint64_t sector, uint32_t len, bool in)
{
	uint16_t id;
	uint32_t used;

	offer(queue, type, sector, len, in);
	ck_assert(drv_wait_used(&drv, queue, &id, &used));
	return *ram(STATUS);
}

static uint8_t range_request(uint32_t type)
{
	store_le64(ram(DATA), 8);
	store_le32(ram(DATA + 8), 8);
	store_le32(ram(DATA + 12), 0);
	return request(0, type, 0, 16, false);
}

/* A write, write zeroes and a discard, a read; what the disk was asked. */
static const char *changes(void)
{
	memset(fake.log, 0, sizeof(fake.log));
	ck_assert_uint_eq(request(0, 1, 0, 512, false), 0);
	ck_assert_uint_eq(range_request(13), 0);
	ck_assert_uint_eq(range_request(11), 0);
	ck_assert_uint_eq(request(0, 0, 0, 512, true), 0);
	return fake.log;
}

START_TEST(flushes_each_change_unless_the_driver_does)
{
	static const struct virtio_blk_options options = { 0 };
	struct virtio_dev *dev = up(F_RANGES, &options);

	ck_assert_str_eq(changes(), "WFZFDFR");
	down(dev);
	dev = up(F_RANGES | F_FLUSH, &options);
	ck_assert_str_eq(changes(), "WZDR");
	ck_assert_uint_eq(request(0, 4, 0, 0, false), 0);
	ck_assert_str_eq(fake.log, "WZDRF");
	/* Not negotiated: the field is not the driver's. */
	drv_write(&drv, CONFIG_WRITEBACK, 1, 0);
	ck_assert_uint_eq(drv_read(&drv, CONFIG_WRITEBACK, 1), 1);
	ck_assert_str_eq(changes(), "WZDR");
	down(dev);
}
END_TEST

START_TEST(driver_turns_the_cache_off_and_on)
{
	static const struct virtio_blk_options options = { 0 };
	struct virtio_dev *dev = up(F_RANGES | F_FLUSH | F_CONFIG_WCE, &options);

	ck_assert_uint_eq(drv_read(&drv, CONFIG_WRITEBACK, 1), 1);
	ck_assert_str_eq(changes(), "WZDR");
	drv_write(&drv, CONFIG_WRITEBACK, 1, 0);
	ck_assert_uint_eq(drv_read(&drv, CONFIG_WRITEBACK, 1), 0);
	ck_assert_str_eq(changes(), "WFZFDFR");
	/* No other value, width or place. */
	drv_write(&drv, CONFIG_WRITEBACK, 1, 2);
	drv_write(&drv, CONFIG_WRITEBACK, 4, 1);
	drv_write(&drv, DRV_CONFIG, 8, ~0ull);
	ck_assert_uint_eq(drv_read(&drv, CONFIG_WRITEBACK, 1), 0);
	ck_assert_uint_eq(drv_read(&drv, DRV_CONFIG, 8), CAPACITY_SECTORS);
	drv_write(&drv, CONFIG_WRITEBACK, 1, 1);
	ck_assert_str_eq(changes(), "WZDR");
	drv_write(&drv, CONFIG_WRITEBACK, 1, 0);
	drv_reset(&drv);
	ck_assert_uint_eq(drv_read(&drv, CONFIG_WRITEBACK, 1), 1);
	down(dev);
}
END_TEST

/* A change that fails, or whose flush fails, is an error. */
START_TEST(errors_reach_the_driver)
{
	static const struct virtio_blk_options options = { 0 };
	struct virtio_dev *dev = up(0, &options);

	fake.error = -EIO;
	ck_assert_uint_eq(request(0, 1, 0, 512, false), 1);
	ck_assert_str_eq(fake.log, "W");
	fake.error = -ENOSPC;
	ck_assert_uint_eq(request(0, 0, 0, 512, true), 1);
	down(dev);
}
END_TEST

START_TEST(queues_have_interrupts_of_their_own)
{
	static const struct virtio_blk_options options = { .queues = 4 };
	struct virtio_dev *dev = up(F_MQ, &options);

	ck_assert(drv.features & F_MQ);
	ck_assert_uint_eq(drv_read(&drv, CONFIG_NUM_QUEUES, 2), 4);
	ck_assert_uint_eq(drv_read(&drv, 18, 2), 4);
	for (unsigned round = 0; round < 40; round++) {
		ck_assert_uint_eq(request(round % 4, 0, round, 512, true), 0);
		rig_settle(&rig);
		ck_assert_uint_eq(rig.msi_count[0x40 + round % 4], round / 4 + 1);
	}
	down(dev);
	dev = up(F_MQ, &(struct virtio_blk_options){ .queues = 1 });
	ck_assert(!(drv.features & F_MQ));
	ck_assert_uint_eq(drv_read(&drv, 18, 2), 1);
	down(dev);
}
END_TEST

/* As many under way as all queues have room for, then a reset that waits for them. */
START_TEST(all_queues_full_at_once)
{
	static const struct virtio_blk_options options = { .queues = 4 };
	struct virtio_dev *dev = up(F_MQ | F_FLUSH, &options);
	uint16_t id;
	uint32_t len;

	fake.hold = true;
	for (unsigned i = 0; i < 20; i++)
		offer(i % 4, 0, i, 512, true);
	rig_settle(&rig);
	ck_assert_uint_eq(strlen(fake.log), 20);
	ck_assert(!drv_used(&drv.q[0], &id, &len));
	virtio_pause(dev); /* drains */
	for (unsigned i = 0; i < 20; i++)
		ck_assert(drv_used(&drv.q[i % 4], &id, &len) && len == 513);
	virtio_resume(dev);
	for (unsigned i = 0; i < 20; i++)
		offer(i % 4, 0, i, 512, true);
	rig_settle(&rig);
	drv_write(&drv, 20, 1, 0);
	rig_settle(&rig);
	ck_assert_uint_ne(drv_status(&drv), 0); /* its memory is not let go of yet */
	fake_drain(&fake.disk);
	ck_assert_uint_eq(drv_status(&drv), 0);
	fake.hold = false;
	down(dev);
}
END_TEST

START_TEST(grows_and_tells)
{
	static const struct virtio_blk_options options = { 0 };
	struct virtio_dev *dev = up(F_FLUSH, &options);
	uint8_t generation = (uint8_t)drv_read(&drv, 21, 1);
	uint64_t end = CAPACITY_SECTORS;

	ck_assert_uint_eq(request(0, 0, end, 512, true), 1);
	memset(fake.log, 0, sizeof(fake.log));
	ck_assert_int_eq(virtio_blk_resize(dev, 2 * end * 512), 0);
	ck_assert_str_eq(fake.log, "SF");
	ck_assert_uint_eq(drv_read(&drv, DRV_CONFIG, 8), 2 * end);
	ck_assert_uint_ne(drv_read(&drv, 21, 1), generation);
	ck_assert_uint_eq(rig.msi_count[0x30], 1);
	ck_assert_uint_eq(request(0, 0, end, 512, true), 0);
	/* Refused, and nothing has changed. */
	ck_assert_int_eq(virtio_blk_resize(dev, end * 512), -ERANGE);
	ck_assert_int_eq(virtio_blk_resize(dev, 4 * end * 512 + 100), -EINVAL);
	ck_assert_int_eq(virtio_blk_resize(dev, UINT64_MAX / 512 * 512), -EINVAL);
	fake.error = -ENOSPC;
	ck_assert_int_eq(virtio_blk_resize(dev, 4 * end * 512), -ENOSPC);
	ck_assert_uint_eq(drv_read(&drv, DRV_CONFIG, 8), 2 * end);
	ck_assert_uint_eq(rig.msi_count[0x30], 1);
	ck_assert_uint_eq(request(0, 0, 2 * end, 512, true), 1);
	down(dev);
}
END_TEST

/* With requests under way, which it waits for. */
START_TEST(grows_in_the_midst_of_requests)
{
	static const struct virtio_blk_options options = { .queues = 2 };
	struct virtio_dev *dev = up(F_MQ | F_FLUSH, &options);
	uint16_t id;
	uint32_t len;

	fake.hold = true;
	for (unsigned i = 0; i < 8; i++)
		offer(i % 2, 1, i, 512, false);
	rig_settle(&rig);
	ck_assert_int_eq(virtio_blk_resize(dev, 2 * CAPACITY_SECTORS * 512), 0);
	ck_assert_str_eq(fake.log, "WWWWWWWWSF");
	for (unsigned i = 0; i < 8; i++)
		ck_assert(drv_used(&drv.q[i % 2], &id, &len) && len == 1);
	fake.hold = false;
	ck_assert_uint_eq(request(1, 0, CAPACITY_SECTORS, 512, true), 0);
	down(dev);
}
END_TEST

/* @at_once requests, kicking when the device wants it; how often that was. */
static unsigned kicks_of(unsigned at_once)
{
	const struct drv_buf bufs[] = { { HEADER, 16, false }, { DATA, 512, true }, { STATUS, 1, true } };
	unsigned kicks = 0;
	uint16_t id;
	uint32_t len;

	for (unsigned i = 0; i < at_once; i++) {
		uint16_t old = drv_position(&drv.q[0]);

		drv_add(&drv.q[0], bufs, 3);
		if (!drv_kick_wanted(&drv.q[0], old))
			continue;
		drv_notify(&drv, 0);
		kicks++;
	}
	for (unsigned i = 0; i < at_once; i++)
		ck_assert(drv_wait_used(&drv, 0, &id, &len));
	return kicks;
}

/* With event indices, either kind of ring: many requests at a time take few kicks and interrupts;
 * one at a time is still answered, whatever was before. */
START_TEST(many_requests_need_few_kicks)
{
	static const struct virtio_blk_options options = { 0 };
	struct virtio_dev *dev;
	unsigned few = 0, each = 0, interrupts;

	ring_size = 128;
	dev = up(F_FLUSH | DRV_EVENT_IDX | (_i ? DRV_PACKED : 0), &options);
	store_le32(ram(HEADER), 0);
	for (unsigned i = 0; i < 100; i++)
		(void)kicks_of(32);
	interrupts = rig.msi_count[0x40];
	for (unsigned i = 0; i < 100; i++) {
		few += kicks_of(32);
		drv_want_interrupt(&drv.q[0]);
	}
	ck_assert_uint_lt(few, 100 * 32 / 4);
	ck_assert_uint_lt(rig.msi_count[0x40] - interrupts, 100 * 32 / 4);
	for (unsigned i = 0; i < 400; i++)
		each += kicks_of(1);
	ck_assert_uint_gt(each, 400 * 3 / 4);
	down(dev);
	ring_size = 16;
}
END_TEST

START_TEST(tells_of_blocks)
{
	struct virtio_dev *dev = up(0, &(struct virtio_blk_options){ .block_bytes = 4096 });

	ck_assert_uint_eq(drv_read(&drv, DRV_CONFIG + 20, 4), 4096);
	ck_assert_uint_eq(drv_read(&drv, DRV_CONFIG + 24, 1), 0);
	ck_assert_int_eq(virtio_blk_resize(dev, 2 * CAPACITY_SECTORS * 512 + 512), -EINVAL);
	down(dev);
	dev = up(0, &(struct virtio_blk_options){ .block_bytes = 512 });
	ck_assert_uint_eq(drv_read(&drv, DRV_CONFIG + 20, 4), 512);
	ck_assert_uint_eq(drv_read(&drv, DRV_CONFIG + 24, 1), 3);
	down(dev);
}
END_TEST

/* The image itself, and that a failure leaves it as it was. */
START_TEST(raw_image_grows)
{
	char path[] = "/tmp/sika-test-grow-XXXXXX";
	struct virtio_blk_options options = { 0 };
	struct virtio_dev *dev;
	struct virtio_env env;
	struct disk *disk;
	int fd = mkstemp(path);

	rig_init(&rig, MEMORY);
	env = (struct virtio_env){ .pci = rig.pci, .mem = rig.mem, .loop = rig.loop, .slot = 3 };
	ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
	disk = disk_open(path, "raw", false, rig.loop, NULL);
	dev = virtio_blk_new(&env, disk, &options, NULL);
	rig_thread_start(&rig);
	ck_assert_int_eq(virtio_blk_resize(dev, 3 << 20), 0);
	ck_assert_int_eq(lseek(fd, 0, SEEK_END), 3 << 20);
	ck_assert_int_lt(virtio_blk_resize(dev, 1ull << 62), 0);
	ck_assert_uint_eq(disk->size_bytes, 3 << 20);
	rig_thread_stop(&rig);
	virtio_free(dev);
	disk_close(disk);
	rig_fini(&rig);
	close(fd);
	unlink(path);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("virtio-blk");
	TCase *t = tcase_create("virtio-blk");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 30);
	tcase_add_test(t, flushes_each_change_unless_the_driver_does);
	tcase_add_test(t, driver_turns_the_cache_off_and_on);
	tcase_add_test(t, errors_reach_the_driver);
	tcase_add_test(t, queues_have_interrupts_of_their_own);
	tcase_add_test(t, all_queues_full_at_once);
	tcase_add_test(t, grows_and_tells);
	tcase_add_test(t, grows_in_the_midst_of_requests);
	tcase_add_test(t, tells_of_blocks);
	tcase_add_loop_test(t, many_requests_need_few_kicks, 0, 2);
	tcase_add_test(t, raw_image_grows);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
