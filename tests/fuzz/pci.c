// SPDX-License-Identifier: Apache-2.0
/*
 * pci.c - fuzz target: configuration space, BARs and queues of virtio devices, by a hostile guest.
 *
 * The input is a list of accesses. The devices live on from one input to the next, but are reset.
 */
#include "input.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/loop.h"
#include "char/char.h"
#include "dev/virtio/virtio.h"
#include "disk/disk.h"
#include "net/net.h"
#include "../unit/dev/virtio_driver.h"

#define MEMORY	(1u << 20)
#define DEVICES 4u
#define RINGS	0x10000u /* 0x4000 a device */
#define DISK	(64u << 10)

static struct rig rig;
static struct virtio_dev *devs[DEVICES];
static struct drv drvs[DEVICES];

static int fake_send(struct net *net, const struct iovec *iov, unsigned count)
{
	static uint8_t frame[NET_MAX_FRAME];
	struct iovec flat = { .iov_base = frame };

	for (unsigned i = 0; i < count; i++) {
		memcpy(frame + flat.iov_len, iov[i].iov_base, iov[i].iov_len);
		flat.iov_len += iov[i].iov_len;
	}
	/* Echo. */
	if (net->client)
		net->client->receive(net->client_arg, &flat, 1);
	return 0;
}

static const struct net_ops net_ops = { .send = fake_send };
static struct net net = { .ops = &net_ops, .link_up = true };

static void make_machine(void)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 0, 0, 1 };
	char path[] = "/tmp/sika-fuzz-XXXXXX";
	int fd = mkstemp(path);
	struct virtio_env env;
	struct disk *disk;

	log_set_level(LOG_LEVEL_ERROR);
	rig_init(&rig, MEMORY);
	env = (struct virtio_env){ .pci = rig.pci, .mem = rig.mem, .loop = rig.loop };
	if (fd < 0 || ftruncate(fd, DISK) < 0)
		abort();
	disk = disk_open(path, "raw", false, rig.loop, NULL);
	unlink(path);
	close(fd);
	env.slot = 1;
	devs[0] = virtio_blk_new(&env, disk, &(struct virtio_blk_options){ .serial = "fuzz", .queues = 3 },
				 NULL);
	env.slot = 2;
	devs[1] = virtio_net_new(&env, &net, mac, NULL);
	env.slot = 3;
	devs[2] = virtio_console_new(&env, char_null_open(rig.loop), NULL);
	env.slot = 4;
	devs[3] = virtio_rng_new(&env, NULL);
	for (unsigned i = 0; i < DEVICES; i++)
		if (!devs[i])
			abort();
}

static void stop(void *arg)
{
	loop_stop(arg);
}

/* One round of the loop: all that is due. */
static void turn(void)
{
	loop_post(rig.loop, stop, rig.loop);
	loop_run(rig.loop);
}

/* As a well-behaved driver begins, so that the queues run. */
static void bring_up(unsigned i, uint64_t features)
{
	gpa_t base = RINGS + i * 0x4000;

	virtio_pause(devs[i]); /* waits for the disk */
	virtio_resume(devs[i]);
	cfg_write(&rig, i + 1, 4, 2, 0);
	cfg_write(&rig, i + 1, 0x10, 4, 0xd0000000u + i * 0x10000);
	cfg_write(&rig, i + 1, 0x14, 4, 0);
	cfg_write(&rig, i + 1, 4, 2, 2);
	/* Another one may have been put there. */
	if (bus_read(rig.bus, BUS_MMIO, 0xd0000000u + i * 0x10000 + 18, 2) == 0xffff)
		return;
	drv_probe(&drvs[i], &rig, i + 1, features | DRV_VERSION_1, features & 1);
	drv_queue_setup(&drvs[i], 0, 64, base);
	drv_queue_setup(&drvs[i], 1, 64, base + 0x2000);
	drv_ready(&drvs[i]);
}

static void add_chain(struct input *in, unsigned i, unsigned queue)
{
	struct drv_buf bufs[4];
	unsigned n = 1 + (unsigned)input_take(in, 1) % 4;

	if (drvs[i].q[queue].free_count < n)
		return;
	for (unsigned k = 0; k < n; k++) {
		uint64_t v = input_take(in, 4);

		bufs[k].gpa = (v & 0xffff) << 4;
		bufs[k].len = v & 0x10000 ? (v >> 17) & 0x1f : (v >> 17) & 0x1fff;
		bufs[k].in = v >> 31;
	}
	drv_add(&drvs[i].q[queue], bufs, n);
	drv_notify(&drvs[i], queue);
}

static void step(struct input *in)
{
	unsigned op = (unsigned)input_take(in, 1), i = op >> 6;
	unsigned size = 1u << ((op >> 4) & 3), off = (unsigned)input_take(in, 2);

	switch (op & 15) {
	case 0:
	case 1:
		cfg_write(&rig, i + 1, off & 0xff, size & 7, (uint32_t)input_take(in, 4));
		break;
	case 2:
		(void)cfg_read(&rig, i + 1, off & 0xff, size & 7);
		break;
	case 3:
		bus_write(rig.bus, BUS_MMIO, PCI_ECAM_BASE + off * 8ull, size, input_take(in, size));
		break;
	case 4:
	case 5:
		drv_write(&drvs[i], off & 0x3f, size, input_take(in, size));
		break;
	case 6:
		drv_write(&drvs[i], off & 0x7fff, size, input_take(in, size));
		break;
	case 7:
		(void)drv_read(&drvs[i], off & 0x7fff, size);
		break;
	case 8:
		store_le64(mem_ptr(rig.mem, RINGS + off, 8), input_take(in, size));
		break;
	case 9:
		bring_up(i, input_take(in, 8));
		break;
	case 10:
	case 11:
	case 12:
		add_chain(in, i, off & 1);
		break;
	case 13:
		drv_notify(&drvs[i], off & 3);
		if (off & 0x100)
			(void)virtio_blk_resize(devs[0], DISK + (off & 0xe0) * 512);
		break;
	default:
		turn();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };

	if (!rig.bus)
		make_machine();
	for (unsigned i = 0; i < DEVICES; i++)
		cfg_write(&rig, i + 1, 4, 2, 0);
	for (unsigned i = 0; i < DEVICES; i++)
		bring_up(i, i & 1 ? DRV_PACKED | DRV_EVENT_IDX : 0);
	for (unsigned n = 0; n < 500 && in.size; n++)
		step(&in);
	turn();
	return 0;
}
