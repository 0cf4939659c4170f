// SPDX-License-Identifier: Apache-2.0
/*
 * console.c - the console device with one port: virtio 1.2, section 5.3.
 *
 * Output that the backend cannot take keeps its element, and with it the guest, waiting; nothing is
 * dropped. Input is read from the backend only as far as the driver has given buffers.
 */
#include "dev/virtio/device.h"

#include "base/bits.h"
#include "char/char.h"

#define RX 0u
#define TX 1u

#define QUEUE_SIZE 64u
#define TURN	   64u /* elements of output per turn of the loop, or empty buffers of input */

#define F_SIZE (1ull << 0)

struct console {
	struct virtio_dev dev;
	struct chardev *chr;
	struct virtq_elem rx, tx;
	bool has_rx, has_tx;	  /* an element is held */
	size_t tx_done;		  /* bytes of it that are out */
};

/* Write out the element held. False while the backend has no room. */
static bool put_out(struct console *c)
{
	size_t skip = c->tx_done;

	for (unsigned i = 0; i < c->tx.out_count; i++) {
		const struct iovec *iov = &c->tx.iov[i];
		size_t left, n;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		left = iov->iov_len - skip;
		n = char_write(c->chr, (uint8_t *)iov->iov_base + skip, left);
		c->tx_done += n;
		if (n < left)
			return false;
		skip = 0;
	}
	return true;
}

static bool work_tx(struct console *c)
{
	struct virtq *vq = virtio_vq(&c->dev, TX);
	unsigned n;

	for (n = 0; n < TURN; n++) {
		if (!c->has_tx) {
			c->has_tx = virtio_pop(&c->dev, TX, &c->tx);
			c->tx_done = 0;
		}
		if (!c->has_tx || !put_out(c))
			break;
		virtq_push(vq, &c->tx, 0);
		c->has_tx = false;
	}
	virtio_signal(&c->dev, TX);
	return n == TURN || (!c->has_tx && virtq_set_kick(vq, true));
}

static bool console_work(struct virtio_dev *dev, unsigned index)
{
	struct console *c = (struct console *)dev;

	if (index == TX)
		return work_tx(c);
	char_input_ready(c->chr);
	return false;
}

static size_t input_room(void *arg)
{
	struct console *c = arg;
	struct virtq *vq = virtio_vq(&c->dev, RX);

	if (!vq)
		return 0;
	for (unsigned n = 0; !c->has_rx; n++) {
		if (n == TURN) {
			virtio_kick(&c->dev, RX);
			return 0;
		}
		if (!virtio_pop(&c->dev, RX, &c->rx)) {
			if (c->dev.paused || !virtq_set_kick(vq, true))
				return 0;
			continue;
		}
		/* A buffer without room only wants to be returned. */
		c->has_rx = c->rx.in_bytes > 0;
		if (!c->has_rx)
			virtq_push(vq, &c->rx, 0);
	}
	return c->rx.in_bytes;
}

static void input(void *arg, const uint8_t *bytes, size_t len)
{
	struct console *c = arg;
	struct virtq *vq = virtio_vq(&c->dev, RX);

	if (!vq || !c->has_rx)
		return;
	c->has_rx = false;
	virtq_push(vq, &c->rx, (uint32_t)virtq_elem_write(&c->rx, 0, bytes, len));
	virtio_signal(&c->dev, RX);
}

static void writable(void *arg)
{
	struct console *c = arg;

	virtio_kick(&c->dev, TX);
}

static void resized(void *arg, unsigned columns, unsigned rows)
{
	struct console *c = arg;
	uint8_t size[4];

	store_le16(size, (uint16_t)columns);
	store_le16(size + 2, (uint16_t)rows);
	virtio_config_set(&c->dev, 0, size, sizeof(size));
}

/* Linux looks at the size when it is told of a change, not when it starts. */
static void console_start(struct virtio_dev *dev)
{
	struct console *c = (struct console *)dev;
	unsigned columns, rows;

	if ((dev->driver_features & F_SIZE) && char_size(c->chr, &columns, &rows))
		resized(c, columns, rows);
}

static const struct char_client client = {
	.input_room = input_room,
	.input = input,
	.writable = writable,
	.resized = resized,
};

static void console_stop(struct virtio_dev *dev)
{
	struct console *c = (struct console *)dev;

	c->has_rx = false;
	c->has_tx = false;
}

static void console_free(struct virtio_dev *dev)
{
	struct console *c = (struct console *)dev;

	char_set_client(c->chr, NULL, NULL);
	virtio_fini(dev);
	g_free(c);
}

static const struct virtio_class console_class = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.pci_class = 0x078000,
	.queue_count = 2,
	.queue_size = QUEUE_SIZE,
	.start = console_start,
	.stop = console_stop,
	.work = console_work,
	.free = console_free,
};

struct virtio_dev *virtio_console_new(const struct virtio_env *env, struct chardev *chr,
				      GError **err)
{
	struct console *c = g_new0(struct console, 1);

	c->chr = chr;
	if (!virtio_init(&c->dev, &console_class, env, err))
		goto err;
	c->dev.features |= F_SIZE;
	/* struct virtio_console_config, 5.3.4: columns, rows, ports, emergency write. */
	store_le32(c->dev.config + 4, 1);
	c->dev.config_size = 12;
	char_set_client(chr, &client, c);
	if (virtio_attach(&c->dev, err))
		return &c->dev;
err:
	console_free(&c->dev);
	return NULL;
}
