// SPDX-License-Identifier: Apache-2.0
/*
 * scsi.c - fuzz target: a SCSI controller with a disk and a drive, by a hostile driver.
 *
 * The input is a list of requests, whole or broken, of task management, events and resets. Whatever they are: no
 * crash, no access outside, and each request that was whole is answered.
 */
#include "input.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/loop.h"
#include "dev/virtio/virtio.h"
#include "disk/disk.h"
#include "../unit/dev/virtio_driver.h"

#define MEMORY	 (1u << 20)
#define RINGS	 0x10000u
#define REQUESTS 0x20000u /* 64 bytes each */
#define ANSWERS	 0x30000u /* 128 bytes each */
#define DATA	 0x40000u
#define DATA_END 0x100000u
#define DISK	 (64u << 10)
#define SLOT	 1u

static struct rig rig;
static struct virtio_dev *dev;
static struct drv drv;
static unsigned sent;

/* Those that do something, more often than the rest. */
static const uint8_t codes[] = { 0x00, 0x03, 0x08, 0x0a, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2a,
				 0x2f, 0x35, 0x41, 0x42, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0x88, 0x8a,
				 0x8f, 0x91, 0x93, 0x9e, 0xa0, 0xa8, 0xaa, 0xaf };

static struct disk *make_disk(bool readonly)
{
	char path[] = "/tmp/sika-fuzz-XXXXXX";
	int fd = mkstemp(path);
	struct disk *disk;

	if (fd < 0 || ftruncate(fd, DISK) < 0)
		abort();
	disk = disk_open(path, "raw", readonly, rig.loop, NULL);
	unlink(path);
	close(fd);
	if (!disk)
		abort();
	return disk;
}

static void make_machine(void)
{
	struct virtio_scsi_unit units[2] = { { .lun = 0 }, { .lun = 3, .cdrom = true } };
	struct virtio_env env;

	log_set_level(LOG_LEVEL_ERROR);
	rig_init(&rig, MEMORY);
	units[0].disk = make_disk(false);
	units[1].disk = make_disk(true);
	env = (struct virtio_env){ .pci = rig.pci, .mem = rig.mem, .loop = rig.loop, .slot = SLOT };
	dev = virtio_scsi_new(&env, units, 2, 2, NULL);
	if (!dev)
		abort();
}

static void stop(void *arg)
{
	loop_stop(arg);
}

static void turn(void)
{
	loop_post(rig.loop, stop, rig.loop);
	loop_run(rig.loop);
}

static void bring_up(uint64_t features)
{
	virtio_pause(dev);
	virtio_resume(dev);
	drv_probe(&drv, &rig, SLOT, features | DRV_VERSION_1 | 7, features & 8);
	for (unsigned i = 0; i < 4; i++)
		drv_queue_setup(&drv, i, 64, RINGS + i * 0x2000);
	drv_ready(&drv);
	sent = 0;
}

static void reap(void)
{
	uint16_t id;
	uint32_t len;

	for (unsigned i = 0; i < 4; i++)
		while (drv_used(&drv.q[i], &id, &len))
			;
}

static void lun_store(uint8_t *lun, unsigned what)
{
	static const uint8_t units[] = { 0, 3, 0, 3, 0, 3, 1, 255 };

	memset(lun, 0, 8);
	lun[0] = what & 0x40 ? (uint8_t)what : 1;
	lun[1] = what & 0x20 ? 1 : 0;
	lun[2] = what & 0x10 ? 0x40 : 0;
	lun[3] = units[what & 7];
}

/* Data of that many bytes somewhere, in up to three parts. */
static unsigned data_bufs(struct input *in, struct drv_buf *bufs, uint32_t bytes, bool to_guest)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 3 && bytes; i++) {
		uint32_t part = i == 2 ? bytes : bytes / (1 + (uint32_t)input_byte(in) % 4);
		gpa_t at = DATA + (gpa_t)input_byte(in) * 1024;

		if (part > DATA_END - at)
			part = (uint32_t)(DATA_END - at);
		bufs[n++] = (struct drv_buf){ at, part, to_guest };
		bytes -= part < bytes ? part : bytes;
	}
	return n;
}

static void command(struct input *in)
{
	unsigned queue = 2 + (input_byte(in) & 1), slot = sent++ % 256;
	gpa_t at = REQUESTS + slot * 64, answer = ANSWERS + slot * 128;
	uint8_t *p = mem_ptr(rig.mem, at, 64), code = input_byte(in), flags = input_byte(in);
	struct drv_buf bufs[10] = { { at, 51, false } };
	uint32_t out = 0, back = 0;
	unsigned n = 1;

	memset(p, 0, 64);
	lun_store(p, input_byte(in) & (flags & 0x80 ? 0xff : 7));
	store_le64(p + 8, slot & 3);
	p[19] = code & 0x80 ? code : codes[code % sizeof(codes)];
	for (unsigned i = 1; i < 16; i++)
		if (flags & 1 || input_byte(in) < 96)
			p[19 + i] = input_byte(in);
	if (flags & 2)
		out = (uint32_t)input_take(in, 2);
	if (flags & 4)
		back = (uint32_t)input_take(in, 2);
	if (drv.q[queue].free_count < 10)
		return;
	n += data_bufs(in, bufs + n, out, false);
	bufs[n++] = (struct drv_buf){ answer, 108, true };
	n += data_bufs(in, bufs + n, back, true);
	if (flags & 0x40 && code == 0) /* broken: too short */
		bufs[0].len = flags & 0x3f;
	drv_add(&drv.q[queue], bufs, n);
	drv_notify(&drv, queue);
}

static void control(struct input *in)
{
	unsigned slot = sent++ % 256;
	gpa_t at = REQUESTS + slot * 64;
	uint8_t *p = mem_ptr(rig.mem, at, 64), what = input_byte(in);
	const struct drv_buf bufs[] = { { at, what & 0x80 ? what & 0x1f : 24, false },
					{ ANSWERS + slot * 128, 8, true } };

	memset(p, 0, 64);
	store_le32(p, (what >> 4) & 3);
	store_le32(p + 4, what & 15);
	lun_store(p + 8, input_byte(in));
	store_le64(p + 16, input_byte(in) & 3);
	if (drv.q[0].free_count < 2)
		return;
	drv_add(&drv.q[0], bufs, 2);
	drv_notify(&drv, 0);
}

static void event_room(struct input *in)
{
	const struct drv_buf buf = { ANSWERS + 0x8000, 16u + (input_byte(in) & 7), true };

	if (drv.q[1].free_count < 1)
		return;
	drv_add(&drv.q[1], &buf, 1);
	drv_notify(&drv, 1);
}

static void step(struct input *in)
{
	uint8_t op = input_byte(in);

	switch (op & 15) {
	case 0:
		control(in);
		break;
	case 1:
		event_room(in);
		break;
	case 2:
		(void)virtio_scsi_resize(dev, op & 0x10 ? 3 : 0, DISK + (op >> 5) * 4096);
		break;
	case 3:
		drv_write(&drv, DRV_CONFIG + (op >> 4) * 4, 4, input_take(in, 4));
		break;
	case 4:
		if (op & 0x80)
			bring_up(input_take(in, 8));
		break;
	case 5:
		memset(mem_ptr(rig.mem, DATA + input_byte(in) * 1024, 1024), input_byte(in), 1024);
		break;
	case 6:
		drv_notify(&drv, op >> 6);
		break;
	case 7:
	case 8:
		turn();
		reap();
		break;
	default:
		command(in);
	}
}

/* After all of it a driver that starts anew is served. */
static void still_works(void)
{
	static const uint8_t inquiry[] = { 0x12, 0, 0, 0, 36, 0 };
	const struct drv_buf bufs[] = { { REQUESTS, 51, false }, { ANSWERS, 108, true }, { DATA, 36, true } };
	uint8_t *p = mem_ptr(rig.mem, REQUESTS, 64);
	uint16_t id;
	uint32_t len;

	bring_up(0);
	memset(p, 0, 64);
	p[0] = 1;
	memcpy(p + 19, inquiry, sizeof(inquiry));
	drv_add(&drv.q[2], bufs, 3);
	drv_notify(&drv, 2);
	if (!drv_wait_used(&drv, 2, &id, &len) || len != 108 + 36 ||
	    memcmp(mem_ptr(rig.mem, DATA + 8, 4), "SIKA", 4))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };

	if (!rig.bus)
		make_machine();
	bring_up(size & 1 ? DRV_PACKED | DRV_EVENT_IDX : 0);
	for (unsigned n = 0; n < 200 && !input_is_empty(&in); n++)
		step(&in);
	turn();
	still_works();
	return 0;
}
