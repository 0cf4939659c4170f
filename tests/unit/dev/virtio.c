// SPDX-License-Identifier: Apache-2.0
/* virtio.c - tests of the virtio devices through their PCI registers, with a driver of our own. */
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"
#include "char/char.h"
#include "dev/virtio/virtio.h"
#include "disk/disk.h"
#include "net/net.h"
#include "virtio_driver.h"

#define MEMORY (4u << 20)
#define RINGS  0x100000u /* 0x2000 a queue */
#define HEADER 0x200000u
#define DATA   0x210000u
#define STATUS 0x2f0000u

static const uint64_t flavours[] = {
	0, DRV_EVENT_IDX, DRV_PACKED, DRV_PACKED | DRV_EVENT_IDX | DRV_INDIRECT,
};

static struct rig rig;
static struct drv drv;

static struct virtio_env make_env(void)
{
	rig_init(&rig, MEMORY);
	return (struct virtio_env){ .pci = rig.pci, .mem = rig.mem, .loop = rig.loop, .slot = 3 };
}

static uint8_t *ram(gpa_t gpa)
{
	return mem_ptr(rig.mem, gpa, 1);
}

/* ---- entropy, and what is common to all devices ---- */

static struct virtio_dev *rng_up(uint64_t features, bool msix)
{
	struct virtio_env env = make_env();
	struct virtio_dev *dev = virtio_rng_new(&env, NULL);

	ck_assert_ptr_nonnull(dev);
	drv_probe(&drv, &rig, 3, features | DRV_VERSION_1, msix);
	drv_queue_setup(&drv, 0, 8, RINGS);
	drv_ready(&drv);
	return dev;
}

static void down(struct virtio_dev *dev)
{
	virtio_free(dev);
	rig_fini(&rig);
}

START_TEST(rng_fills_buffers)
{
	const struct drv_buf buf = { DATA, 64, true };
	struct virtio_dev *dev = rng_up(flavours[_i], true);
	static const uint8_t zeros[64];
	uint16_t id, got;
	uint32_t len;

	for (unsigned i = 0; i < 20; i++) {
		memset(ram(DATA), 0, 64);
		drv.q[0].indirect = drv.features & DRV_INDIRECT ? DATA + 0x1000 : 0;
		drv_want_interrupt(&drv.q[0]);
		id = drv_add(&drv.q[0], &buf, 1);
		drv_notify(&drv, 0);
		ck_assert(drv_wait_used(&drv, 0, &got, &len));
		ck_assert_uint_eq(got, id);
		ck_assert_uint_eq(len, 64);
		ck_assert(memcmp(ram(DATA), zeros, 64) != 0);
		ck_assert_uint_eq(rig.msi_count[0x40], i + 1);
	}
	down(dev);
}
END_TEST

START_TEST(intx_follows_the_isr)
{
	const struct drv_buf buf = { DATA, 8, true };
	struct virtio_dev *dev = rng_up(0, false);
	unsigned gsi = pci_slot_gsi(3);
	uint16_t id;
	uint32_t len;

	drv_add(&drv.q[0], &buf, 1);
	drv_notify(&drv, 0);
	ck_assert(drv_wait_used(&drv, 0, &id, &len));
	ck_assert(rig.line[gsi]);
	ck_assert_uint_eq(cfg_read(&rig, 3, 6, 2) & 8, 8);
	ck_assert_uint_eq(drv_read(&drv, DRV_ISR, 1), 1);
	ck_assert(!rig.line[gsi]);
	ck_assert_uint_eq(drv_read(&drv, DRV_ISR, 1), 0);
	down(dev);
}
END_TEST

START_TEST(refuses_features_it_did_not_offer)
{
	struct virtio_env env = make_env();
	struct virtio_dev *dev = virtio_rng_new(&env, NULL);

	drv_probe(&drv, &rig, 3, 0, true); /* without VERSION_1 */
	ck_assert_uint_eq(drv_status(&drv), 3);
	drv_probe(&drv, &rig, 3, ~0ull, true);
	ck_assert_uint_eq(drv_status(&drv), 0xb);
	drv_reset(&drv);
	drv_write(&drv, 20, 1, 3);
	drv_write(&drv, 8, 4, 1);
	drv_write(&drv, 12, 4, ~0u);
	drv_write(&drv, 20, 1, 0xb);
	ck_assert_uint_eq(drv_status(&drv), 3);
	/* No way round negotiation to a running device. */
	drv_write(&drv, 20, 1, 0xf);
	ck_assert_uint_eq(drv_status(&drv), 3);
	down(dev);
}
END_TEST

START_TEST(malformed_queue_needs_reset_and_recovers)
{
	const struct drv_buf bad = { MEMORY, 8, true }, good = { DATA, 8, true };
	struct virtio_dev *dev = rng_up(flavours[_i], true);
	uint16_t id;
	uint32_t len;

	drv_write(&drv, DRV_MSIX_TABLE, 8, 0xfee00000u);
	drv_write(&drv, DRV_MSIX_TABLE + 8, 4, 0x60);
	drv_write(&drv, DRV_MSIX_TABLE + 12, 4, 0);
	drv_write(&drv, 16, 2, 0);
	drv_add(&drv.q[0], &bad, 1);
	drv_notify(&drv, 0);
	rig_settle(&rig);
	ck_assert_uint_eq(drv_status(&drv), 0x4f);
	ck_assert_uint_eq(rig.msi_count[0x60], 1);
	ck_assert(!drv_used(&drv.q[0], &id, &len));
	drv_probe(&drv, &rig, 3, flavours[_i] | DRV_VERSION_1, true);
	drv_queue_setup(&drv, 0, 8, RINGS);
	drv_ready(&drv);
	drv_add(&drv.q[0], &good, 1);
	drv_notify(&drv, 0);
	ck_assert(drv_wait_used(&drv, 0, &id, &len));
	down(dev);
}
END_TEST

START_TEST(registers_survive_anything)
{
	struct virtio_dev *dev = rng_up(0, true);

	srand(1);
	for (unsigned i = 0; i < 20000; i++) {
		unsigned size = 1u << (rand() % 4);
		unsigned off = (unsigned)rand() % 0x8000;

		if (rand() & 1)
			off %= 64;
		if (rand() & 1)
			drv_read(&drv, off, size);
		else
			drv_write(&drv, off, size, (uint64_t)rand() << (rand() % 33));
	}
	rig_settle(&rig);
	down(dev);
}
END_TEST

/* 4.1.4.9: the window in configuration space reaches the same registers. */
START_TEST(config_access_window_works)
{
	struct virtio_dev *dev = rng_up(0, true);
	unsigned cap = cfg_read(&rig, 3, 0x34, 1);

	while (cap && !(cfg_read(&rig, 3, cap, 1) == 9 && cfg_read(&rig, 3, cap + 3, 1) == 5))
		cap = cfg_read(&rig, 3, cap + 1, 1);
	ck_assert_uint_ne(cap, 0);
	cfg_write(&rig, 3, cap + 4, 1, 0);
	cfg_write(&rig, 3, cap + 8, 4, 18);
	cfg_write(&rig, 3, cap + 12, 4, 2);
	ck_assert_uint_eq(cfg_read(&rig, 3, cap + 16, 2), 1); /* num_queues */
	cfg_write(&rig, 3, cap + 8, 4, 20);
	cfg_write(&rig, 3, cap + 12, 4, 1);
	ck_assert_uint_eq(cfg_read(&rig, 3, cap + 16, 1), 0xf);
	cfg_write(&rig, 3, cap + 16, 1, 0);
	ck_assert_uint_eq(drv_status(&drv), 0);
	/* Nonsense goes nowhere. */
	cfg_write(&rig, 3, cap + 8, 4, 0xfffffff0);
	cfg_write(&rig, 3, cap + 12, 4, 4);
	cfg_write(&rig, 3, cap + 16, 4, 0xdeadbeef);
	cfg_write(&rig, 3, cap + 12, 4, 0xffffffff);
	cfg_write(&rig, 3, cap + 16, 4, 0xdeadbeef);
	cfg_read(&rig, 3, cap + 16, 4);
	down(dev);
}
END_TEST

/* ---- block ---- */

static char image[] = "/tmp/sika-test-blk-XXXXXX";
static struct disk *disk;
static uint8_t *model;
#define IMAGE_BYTES (1u << 20)

static struct virtio_dev *blk_up(uint64_t features, bool readonly)
{
	struct virtio_env env = make_env();
	struct virtio_dev *dev;
	int fd;

	strcpy(image + strlen(image) - 6, "XXXXXX");
	fd = mkstemp(image);
	model = malloc(IMAGE_BYTES);
	for (unsigned i = 0; i < IMAGE_BYTES; i++)
		model[i] = (uint8_t)rand();
	ck_assert_int_eq(write(fd, model, IMAGE_BYTES), IMAGE_BYTES);
	close(fd);
	disk = disk_open(image, "raw", readonly, rig.loop, NULL);
	ck_assert_ptr_nonnull(disk);
	dev = virtio_blk_new(&env, disk, &(struct virtio_blk_options){ .serial = "serial-42" }, NULL);
	drv_probe(&drv, &rig, 3, features | DRV_VERSION_1, true);
	drv_queue_setup(&drv, 0, 64, RINGS);
	drv_ready(&drv);
	return dev;
}

static void blk_down(struct virtio_dev *dev)
{
	virtio_free(dev);
	disk_close(disk);
	rig_fini(&rig);
	unlink(image);
	free(model);
}

/* One request of @len bytes at DATA in @parts segments; returns its status. */
static uint8_t blk_request(uint32_t type, uint64_t sector, uint32_t len, bool in, unsigned parts)
{
	struct drv_buf bufs[12] = { { HEADER, 16, false } };
	uint32_t each = len / parts, used, at = 0;
	unsigned n = 1;
	uint16_t id;

	store_le32(ram(HEADER), type);
	store_le32(ram(HEADER + 4), 0);
	store_le64(ram(HEADER + 8), sector);
	for (unsigned i = 0; i < parts && len; i++) {
		uint32_t l = i + 1 == parts ? len - at : each;

		bufs[n++] = (struct drv_buf){ DATA + at, l, in };
		at += l;
	}
	bufs[n++] = (struct drv_buf){ STATUS, 1, true };
	*ram(STATUS) = 0xee;
	drv.q[0].indirect = drv.features & DRV_INDIRECT ? HEADER + 0x1000 : 0;
	drv_add(&drv.q[0], bufs, n);
	drv_notify(&drv, 0);
	ck_assert(drv_wait_used(&drv, 0, &id, &used));
	if (*ram(STATUS) == 0)
		ck_assert_uint_eq(used, in ? len + 1 : 1);
	return *ram(STATUS);
}

#define BLK_ALL ((1ull << 9) | (1ull << 13) | (1ull << 14) | (1ull << 2) | (1ull << 6))

START_TEST(blk_agrees_with_a_model)
{
	struct virtio_dev *dev = blk_up(flavours[_i] | BLK_ALL, false);

	srand(7);
	ck_assert_uint_eq(drv_read(&drv, DRV_CONFIG, 8), IMAGE_BYTES / 512);
	for (unsigned i = 0; i < 150; i++) {
		uint32_t sectors = 1 + (uint32_t)rand() % 64;
		uint64_t sector = (uint64_t)rand() % (IMAGE_BYTES / 512 - sectors);
		uint32_t len = sectors * 512;
		unsigned parts = 1 + (unsigned)rand() % 7;
		uint8_t *m = model + sector * 512;

		switch (rand() % 5) {
		case 0:
		case 1:
			memset(ram(DATA), 0xaa, len);
			ck_assert_uint_eq(blk_request(0, sector, len, true, parts), 0);
			ck_assert(memcmp(ram(DATA), m, len) == 0);
			break;
		case 2:
			for (unsigned k = 0; k < len; k++)
				m[k] = *ram(DATA + k) = (uint8_t)rand();
			ck_assert_uint_eq(blk_request(1, sector, len, false, parts), 0);
			break;
		case 3:
			store_le64(ram(DATA), sector);
			store_le32(ram(DATA + 8), sectors);
			store_le32(ram(DATA + 12), rand() & 1);
			ck_assert_uint_eq(blk_request(13, 0, 16, false, 1), 0);
			memset(m, 0, len);
			break;
		default:
			ck_assert_uint_eq(blk_request(4, 0, 0, false, 1), 0);
		}
	}
	blk_down(dev);
}
END_TEST

START_TEST(blk_answers_errors)
{
	struct virtio_dev *dev = blk_up(flavours[_i] | BLK_ALL, false);
	uint64_t end = IMAGE_BYTES / 512;

	ck_assert_uint_eq(blk_request(0, end, 512, true, 1), 1);
	ck_assert_uint_eq(blk_request(0, end - 1, 1024, true, 1), 1);
	ck_assert_uint_eq(blk_request(0, ~0ull, 512, true, 1), 1);
	ck_assert_uint_eq(blk_request(0, 1ull << 55, 512, true, 1), 1);
	ck_assert_uint_eq(blk_request(1, end, 512, false, 1), 1);
	ck_assert_uint_eq(blk_request(0, 0, 100, true, 1), 1);
	ck_assert_uint_eq(blk_request(99, 0, 512, true, 1), 2);
	ck_assert_uint_eq(blk_request(8, 0, 20, true, 3), 0);
	ck_assert_str_eq((char *)ram(DATA), "serial-42");
	/* A range that lies outside, one too long, one with unknown flags. */
	store_le64(ram(DATA), end);
	store_le32(ram(DATA + 8), 1);
	store_le32(ram(DATA + 12), 0);
	ck_assert_uint_eq(blk_request(11, 0, 16, false, 1), 1);
	store_le64(ram(DATA), 0);
	store_le32(ram(DATA + 8), ~0u);
	ck_assert_uint_eq(blk_request(13, 0, 16, false, 1), 1);
	store_le32(ram(DATA + 8), 1);
	store_le32(ram(DATA + 12), 2);
	ck_assert_uint_eq(blk_request(13, 0, 16, false, 1), 2);
	ck_assert_uint_eq(drv_status(&drv), 0xf);
	blk_down(dev);
}
END_TEST

START_TEST(blk_readonly_stays_as_it_is)
{
	struct virtio_dev *dev = blk_up((1ull << 5) | BLK_ALL, true);

	ck_assert(drv.features & (1ull << 5));
	ck_assert(!(drv.features & (3ull << 13)));
	ck_assert_uint_eq(blk_request(1, 0, 512, false, 1), 1);
	ck_assert_uint_eq(blk_request(0, 0, 512, true, 1), 0);
	ck_assert(memcmp(ram(DATA), model, 512) == 0);
	blk_down(dev);
}
END_TEST

START_TEST(blk_needs_header_and_status)
{
	const struct drv_buf no_status[] = { { HEADER, 16, false }, { DATA, 512, false } };
	const struct drv_buf short_header[] = { { HEADER, 15, false }, { STATUS, 1, true } };
	struct virtio_dev *dev;

	dev = blk_up(flavours[_i], false);
	drv.q[0].indirect = drv.features & DRV_INDIRECT ? HEADER + 0x1000 : 0;
	drv_add(&drv.q[0], no_status, 2);
	drv_notify(&drv, 0);
	rig_settle(&rig);
	ck_assert_uint_eq(drv_status(&drv), 0x4f);
	blk_down(dev);
	dev = blk_up(flavours[_i], false);
	drv.q[0].indirect = drv.features & DRV_INDIRECT ? HEADER + 0x1000 : 0;
	drv_add(&drv.q[0], short_header, 2);
	drv_notify(&drv, 0);
	rig_settle(&rig);
	ck_assert_uint_eq(drv_status(&drv), 0x4f);
	blk_down(dev);
}
END_TEST

/* Many at once, then a reset in their midst, then pause and end with some under way. */
START_TEST(blk_many_at_once_and_reset)
{
	struct virtio_dev *dev = blk_up(flavours[_i] | BLK_ALL, false);
	const struct drv_buf bufs[] = { { HEADER, 16, false }, { DATA, 4096, true },
					{ STATUS, 1, true } };
	unsigned n = drv.features & DRV_INDIRECT ? 60 : 20;
	uint16_t id;
	uint32_t len;

	store_le32(ram(HEADER), 0);
	store_le64(ram(HEADER + 8), 8);
	for (unsigned round = 0; round < 5; round++) {
		drv.q[0].indirect = drv.features & DRV_INDIRECT ? HEADER + 0x1000 : 0;
		for (unsigned i = 0; i < n; i++)
			drv_add(&drv.q[0], bufs, 3);
		drv_notify(&drv, 0);
		for (unsigned i = 0; i < n && round < 4; i++)
			ck_assert(drv_wait_used(&drv, 0, &id, &len) && len == 4097);
	}
	rig_settle(&rig);
	drv_reset(&drv);
	drv_probe(&drv, &rig, 3, flavours[_i] | BLK_ALL | DRV_VERSION_1, true);
	drv_queue_setup(&drv, 0, 64, RINGS);
	drv_ready(&drv);
	ck_assert_uint_eq(blk_request(0, 8, 4096, true, 1), 0);
	ck_assert(memcmp(ram(DATA), model + 4096, 4096) == 0);
	virtio_pause(dev);
	drv.q[0].indirect = drv.features & DRV_INDIRECT ? HEADER + 0x1000 : 0;
	drv_add(&drv.q[0], bufs, 3);
	drv_notify(&drv, 0);
	rig_settle(&rig);
	ck_assert(!drv_used(&drv.q[0], &id, &len));
	virtio_resume(dev);
	ck_assert(drv_wait_used(&drv, 0, &id, &len));
	for (unsigned i = 0; i < n; i++)
		drv_add(&drv.q[0], bufs, 3);
	drv_notify(&drv, 0);
	blk_down(dev);
}
END_TEST

static void *pause_and_resume(void *arg)
{
	for (unsigned i = 0; i < 100; i++) {
		virtio_pause(arg);
		virtio_resume(arg);
		usleep(200);
	}
	return NULL;
}

/* As in a machine: the queues are worked in another thread than the registers, and the machine is
 * paused now and then by a third. Resets come while requests are under way. */
START_TEST(blk_with_a_thread_of_its_own)
{
	struct virtio_dev *dev = blk_up(flavours[_i] | BLK_ALL, false);
	const struct drv_buf bufs[] = { { HEADER, 16, false }, { DATA, 4096, true },
					{ STATUS, 1, true } };
	pthread_t pauser;
	uint16_t id;
	uint32_t len;

	rig_thread_start(&rig);
	ck_assert_int_eq(pthread_create(&pauser, NULL, pause_and_resume, dev), 0);
	for (unsigned round = 0; round < 60; round++) {
		store_le32(ram(HEADER), 0);
		store_le64(ram(HEADER + 8), round % 64 * 8);
		for (unsigned i = 0; i < 10; i++) {
			if (drv.features & DRV_INDIRECT)
				drv.q[0].indirect = HEADER + 0x1000 + i * 0x100;
			drv_add(&drv.q[0], bufs, 3);
			drv_notify(&drv, 0);
		}
		if (round % 3 == 0) {
			drv_probe(&drv, &rig, 3, flavours[_i] | BLK_ALL | DRV_VERSION_1, true);
			drv_queue_setup(&drv, 0, 64, RINGS);
			drv_ready(&drv);
			continue;
		}
		for (unsigned i = 0; i < 10; i++)
			ck_assert(drv_wait_used(&drv, 0, &id, &len) && len == 4097);
		ck_assert(memcmp(ram(DATA), model + round % 64 * 4096, 4096) == 0);
	}
	pthread_join(pauser, NULL);
	rig_thread_stop(&rig);
	blk_down(dev);
}
END_TEST

/* ---- network, with a backend that echoes ---- */

struct fake_net {
	struct net net;
	uint8_t last[4096];
	size_t last_len;
	unsigned sent, ready;
	bool busy;
};

static int fake_send(struct net *net, const struct iovec *iov, unsigned count)
{
	struct fake_net *f = (struct fake_net *)net;

	if (f->busy)
		return -EAGAIN;
	f->last_len = 0;
	for (unsigned i = 0; i < count; i++) {
		memcpy(f->last + f->last_len, iov[i].iov_base, iov[i].iov_len);
		f->last_len += iov[i].iov_len;
	}
	f->sent++;
	return 0;
}

static void fake_ready(struct net *net)
{
	((struct fake_net *)net)->ready++;
}

static void fake_close(struct net *net)
{
}

static const struct net_ops fake_ops = { .send = fake_send, .receive_ready = fake_ready,
					 .close = fake_close };
static struct fake_net fake;

#define NET_MERGE (1ull << 15)

static struct virtio_dev *net_up(uint64_t features)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
	struct virtio_env env = make_env();
	struct virtio_dev *dev;

	fake = (struct fake_net){ .net = { .ops = &fake_ops, .link_up = true } };
	dev = virtio_net_new(&env, &fake.net, mac, NULL);
	ck_assert_ptr_nonnull(dev);
	drv_probe(&drv, &rig, 3, features | DRV_VERSION_1 | (1ull << 5) | (1ull << 16), true);
	drv_queue_setup(&drv, 0, 16, RINGS);
	drv_queue_setup(&drv, 1, 16, RINGS + 0x2000);
	drv_ready(&drv);
	rig_settle(&rig);
	return dev;
}

static bool to_guest(const void *bytes, size_t len)
{
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = len };

	return fake.net.client->receive(fake.net.client_arg, &iov, 1);
}

START_TEST(net_sends_without_its_header)
{
	struct virtio_dev *dev = net_up(flavours[_i]);
	const struct drv_buf bufs[] = { { HEADER, 12, false }, { DATA, 60, false } };
	const struct drv_buf joined = { DATA, 72, false };
	uint16_t id;
	uint32_t len;

	ck_assert_uint_eq(drv_read(&drv, DRV_CONFIG + 1, 1), 0x54);
	ck_assert_uint_eq(drv_read(&drv, DRV_CONFIG + 6, 2), 1);
	for (unsigned i = 0; i < 80; i++)
		*ram(DATA + i) = (uint8_t)i;
	drv.q[1].indirect = drv.features & DRV_INDIRECT ? HEADER + 0x1000 : 0;
	drv_add(&drv.q[1], bufs, 2);
	drv_notify(&drv, 1);
	ck_assert(drv_wait_used(&drv, 1, &id, &len));
	ck_assert_uint_eq(fake.last_len, 60);
	ck_assert(memcmp(fake.last, ram(DATA), 60) == 0);
	drv_add(&drv.q[1], &joined, 1);
	drv_notify(&drv, 1);
	ck_assert(drv_wait_used(&drv, 1, &id, &len));
	ck_assert_uint_eq(fake.last_len, 60);
	ck_assert_uint_eq(fake.last[0], 12);
	/* A busy backend keeps the frame in the ring. */
	fake.busy = true;
	drv_add(&drv.q[1], &joined, 1);
	drv_notify(&drv, 1);
	rig_settle(&rig);
	ck_assert(!drv_used(&drv.q[1], &id, &len));
	fake.busy = false;
	fake.net.client->sendable(fake.net.client_arg);
	ck_assert(drv_wait_used(&drv, 1, &id, &len));
	ck_assert_uint_eq(fake.sent, 3);
	down(dev);
}
END_TEST

START_TEST(net_spreads_a_frame_over_buffers)
{
	struct virtio_dev *dev = net_up(flavours[_i] | NET_MERGE);
	uint8_t frame[1000];
	uint16_t id;
	uint32_t len;
	bool indirect = drv.features & DRV_INDIRECT;

	for (unsigned i = 0; i < sizeof(frame); i++)
		frame[i] = (uint8_t)(i * 7);
	ck_assert(!to_guest(frame, sizeof(frame))); /* no buffer yet */
	for (unsigned i = 0; i < 2; i++) {
		struct drv_buf b = { DATA + i * 0x1000, 400, true };

		drv.q[0].indirect = indirect ? HEADER + i * 0x100 : 0;
		drv_add(&drv.q[0], &b, 1);
	}
	ck_assert(!to_guest(frame, sizeof(frame))); /* two are too few */
	ck_assert(!drv_used(&drv.q[0], &id, &len));
	for (unsigned i = 2; i < 4; i++) {
		struct drv_buf b = { DATA + i * 0x1000, 400, true };

		drv.q[0].indirect = indirect ? HEADER + i * 0x100 : 0;
		drv_add(&drv.q[0], &b, 1);
	}
	fake.ready = 0;
	drv_notify(&drv, 0);
	rig_settle(&rig);
	ck_assert_uint_gt(fake.ready, 0);
	ck_assert(to_guest(frame, sizeof(frame)));
	ck_assert(drv_used(&drv.q[0], &id, &len) && len == 400);
	ck_assert(drv_used(&drv.q[0], &id, &len) && len == 400);
	ck_assert(drv_used(&drv.q[0], &id, &len) && len == 212);
	ck_assert(!drv_used(&drv.q[0], &id, &len));
	ck_assert_uint_eq(load_le16(ram(DATA + 10)), 3); /* num_buffers */
	ck_assert(memcmp(ram(DATA + 12), frame, 388) == 0);
	ck_assert(memcmp(ram(DATA + 0x1000), frame + 388, 400) == 0);
	ck_assert(memcmp(ram(DATA + 0x2000), frame + 788, 212) == 0);
	down(dev);
}
END_TEST

START_TEST(net_drops_what_cannot_fit)
{
	struct virtio_dev *dev = net_up(0);
	const struct drv_buf b = { DATA, 400, true };
	uint8_t frame[1000] = { 0 };
	uint16_t id;
	uint32_t len;

	drv_add(&drv.q[0], &b, 1);
	ck_assert(to_guest(frame, sizeof(frame)));
	ck_assert(!drv_used(&drv.q[0], &id, &len));
	ck_assert(to_guest(frame, 388));
	ck_assert(drv_used(&drv.q[0], &id, &len) && len == 400);
	drv_reset(&drv);
	ck_assert(to_guest(frame, 60)); /* nobody there */
	down(dev);
}
END_TEST

/* ---- console, over a file ---- */

START_TEST(console_writes_out)
{
	struct virtio_env env = make_env();
	char path[] = "/tmp/sika-test-console-XXXXXX", text[32] = { 0 };
	const struct drv_buf bufs[] = { { DATA, 6, false }, { DATA + 6, 7, false } };
	int fd = mkstemp(path);
	struct chardev *chr = char_file_open(path, rig.loop, NULL);
	struct virtio_dev *dev = virtio_console_new(&env, chr, NULL);
	uint16_t id;
	uint32_t len;

	drv_probe(&drv, &rig, 3, flavours[_i] | DRV_VERSION_1, true);
	drv_queue_setup(&drv, 0, 16, RINGS);
	drv_queue_setup(&drv, 1, 16, RINGS + 0x2000);
	drv_ready(&drv);
	memcpy(ram(DATA), "hello world!\n", 13);
	drv.q[1].indirect = drv.features & DRV_INDIRECT ? HEADER + 0x1000 : 0;
	drv_add(&drv.q[1], bufs, 2);
	drv_notify(&drv, 1);
	ck_assert(drv_wait_used(&drv, 1, &id, &len));
	ck_assert_int_eq(read(fd, text, sizeof(text)), 13);
	ck_assert_str_eq(text, "hello world!\n");
	virtio_free(dev);
	char_close(chr);
	rig_fini(&rig);
	close(fd);
	unlink(path);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("virtio");
	TCase *t = tcase_create("virtio");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 30);
	tcase_add_loop_test(t, rng_fills_buffers, 0, 4);
	tcase_add_test(t, intx_follows_the_isr);
	tcase_add_test(t, refuses_features_it_did_not_offer);
	tcase_add_loop_test(t, malformed_queue_needs_reset_and_recovers, 0, 4);
	tcase_add_test(t, registers_survive_anything);
	tcase_add_test(t, config_access_window_works);
	tcase_add_loop_test(t, blk_agrees_with_a_model, 0, 4);
	tcase_add_loop_test(t, blk_answers_errors, 0, 4);
	tcase_add_test(t, blk_readonly_stays_as_it_is);
	tcase_add_loop_test(t, blk_needs_header_and_status, 0, 4);
	tcase_add_loop_test(t, blk_many_at_once_and_reset, 0, 4);
	tcase_add_loop_test(t, blk_with_a_thread_of_its_own, 0, 4);
	tcase_add_loop_test(t, net_sends_without_its_header, 0, 4);
	tcase_add_loop_test(t, net_spreads_a_frame_over_buffers, 0, 4);
	tcase_add_test(t, net_drops_what_cannot_fit);
	tcase_add_loop_test(t, console_writes_out, 0, 4);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
