// SPDX-License-Identifier: Apache-2.0
/*
 * net.c - the network device: virtio 1.2, section 5.1.
 *
 * Every frame is preceded by a 12-byte header. A backend that speaks it (a tap) gets and gives it
 * as it is, with the offloads it says; for others it is stripped, and made up of zeros.
 */
#include "dev/virtio/device.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "net/net.h"

#define RX 0u
#define TX 1u

#define QUEUE_SIZE 256u
#define TURN	   256u /* frames sent per turn of the loop */
/* Buffers one frame may be spread over: 64 KiB into buffers for 1500 bytes. */
#define MAX_MERGED 48u

#define F_CSUM	     (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_MTU	     (1ull << 3)
#define F_MAC	     (1ull << 5)
#define F_GUEST_TSO4 (1ull << 7)
#define F_GUEST_TSO6 (1ull << 8)
#define F_HOST_TSO4  (1ull << 11)
#define F_HOST_TSO6  (1ull << 12)
#define F_MRG_RXBUF  (1ull << 15)
#define F_STATUS     (1ull << 16)

#define STATUS_LINK_UP 1u

#define HDR_NUM_BUFFERS 10u /* offset in the header */

struct virtio_net {
	struct virtio_dev dev;
	struct net *net;
	struct virtq_elem tx;
	struct virtq_elem rx[MAX_MERGED];
};

/* ---- to the guest ---- */

/* A place in a scattered frame. */
struct cursor {
	const struct iovec *iov;
	unsigned count;
	size_t off; /* in the first segment */
};

static void put_back(struct virtio_net *n, struct virtq *vq, unsigned count)
{
	while (count-- > 0)
		virtq_unpop(vq, &n->rx[count]);
}

/* Take buffers for @len bytes: how many; 0 when there are too few; -EMSGSIZE when it can never be. */
static int take_buffers(struct virtio_net *n, struct virtq *vq, size_t len)
{
	bool merge = virtio_has(&n->dev, F_MRG_RXBUF);
	unsigned count = 0;
	size_t room = 0;

	while (room < len) {
		if (count == (merge ? MAX_MERGED : 1)) {
			put_back(n, vq, count);
			return -EMSGSIZE;
		}
		if (!virtio_pop(&n->dev, RX, &n->rx[count])) {
			/* The kick is wished for behind those in hand. */
			if (!n->dev.paused && virtq_set_kick(vq, true))
				continue;
			put_back(n, vq, count);
			return 0;
		}
		room += n->rx[count++].in_bytes;
	}
	return (int)count;
}

static size_t copy_from(struct cursor *c, struct virtq_elem *elem, size_t at)
{
	size_t done = 0;

	while (c->count > 0 && at + done < elem->in_bytes) {
		size_t left = c->iov->iov_len - c->off;
		size_t put = virtq_elem_write(elem, at + done,
					      (uint8_t *)c->iov->iov_base + c->off, left);

		done += put;
		c->off += put;
		if (c->off < c->iov->iov_len)
			break;
		c->iov++;
		c->count--;
		c->off = 0;
	}
	return done;
}

static bool receive(void *arg, const struct iovec *iov, unsigned iov_count)
{
	struct virtio_net *n = arg;
	struct virtq *vq = virtio_vq(&n->dev, RX);
	struct cursor cursor = { .iov = iov, .count = iov_count };
	uint8_t header[NET_VNET_HDR_SIZE] = { 0 };
	size_t own = n->net->vnet_hdr ? 0 : sizeof(header);
	size_t len = own;
	int count;

	/* Without a driver the cable ends in nothing. */
	if (!vq)
		return true;
	for (unsigned i = 0; i < iov_count; i++)
		len += iov[i].iov_len;
	count = take_buffers(n, vq, len);
	if (count <= 0)
		return count < 0 || vq->broken;
	for (int i = 0; i < count; i++) {
		size_t at = i == 0 ? virtq_elem_write(&n->rx[0], 0, header, own) : 0;

		at += copy_from(&cursor, &n->rx[i], at);
		/* Even in a backend's header, this field is ours. */
		if (i == 0) {
			store_le16(header, (uint16_t)count);
			virtq_elem_write(&n->rx[0], HDR_NUM_BUFFERS, header, 2);
		}
		virtq_fill(vq, &n->rx[i], (uint32_t)at);
	}
	virtq_flush(vq);
	virtio_signal(&n->dev, RX);
	return true;
}

/* ---- from the guest ---- */

/* False when the backend asks to wait. */
static bool send_frame(struct virtio_net *n)
{
	struct virtq_elem *e = &n->tx;
	size_t strip = n->net->vnet_hdr ? 0 : NET_VNET_HDR_SIZE;
	struct iovec iov[VIRTQ_MAX_IOV];
	unsigned count = 0;

	if (e->out_bytes <= NET_VNET_HDR_SIZE || e->out_bytes > NET_VNET_HDR_SIZE + NET_MAX_FRAME)
		return true; /* dropped */
	for (unsigned i = 0; i < e->out_count; i++) {
		size_t cut = strip < e->iov[i].iov_len ? strip : e->iov[i].iov_len;

		strip -= cut;
		if (e->iov[i].iov_len == cut)
			continue;
		iov[count].iov_base = (uint8_t *)e->iov[i].iov_base + cut;
		iov[count++].iov_len = e->iov[i].iov_len - cut;
	}
	return net_send(n->net, iov, count) != -EAGAIN;
}

static bool work_tx(struct virtio_net *n)
{
	struct virtq *vq = virtio_vq(&n->dev, TX);
	unsigned done = 0;
	bool wait = false;

	virtq_set_kick(vq, false);
	do {
		while (!wait && done < TURN && virtio_pop(&n->dev, TX, &n->tx)) {
			wait = !send_frame(n);
			if (wait)
				virtq_unpop(vq, &n->tx);
			else
				virtq_push(vq, &n->tx, 0);
			done++;
		}
	} while (!wait && done < TURN && virtq_set_kick(vq, true));
	virtio_signal(&n->dev, TX);
	return !wait && done == TURN;
}

static bool net_work(struct virtio_dev *dev, unsigned index)
{
	struct virtio_net *n = (struct virtio_net *)dev;

	if (index == TX)
		return work_tx(n);
	net_receive_ready(n->net);
	return false;
}

static void sendable(void *arg)
{
	struct virtio_net *n = arg;

	virtio_kick(&n->dev, TX);
}

static void link_changed(void *arg, bool up)
{
	struct virtio_net *n = arg;
	uint8_t status[2] = { up ? STATUS_LINK_UP : 0, 0 };

	virtio_config_set(&n->dev, 6, status, sizeof(status));
}

static const struct net_client client = {
	.receive = receive,
	.sendable = sendable,
	.link_changed = link_changed,
};

static void net_start(struct virtio_dev *dev)
{
	struct virtio_net *n = (struct virtio_net *)dev;
	uint32_t offload = 0;

	if (virtio_has(dev, F_GUEST_CSUM))
		offload |= NET_OFFLOAD_CSUM;
	if (offload && virtio_has(dev, F_GUEST_TSO4))
		offload |= NET_OFFLOAD_TSO4;
	if (offload && virtio_has(dev, F_GUEST_TSO6))
		offload |= NET_OFFLOAD_TSO6;
	net_set_offload(n->net, offload);
}

static void net_stop(struct virtio_dev *dev)
{
	struct virtio_net *n = (struct virtio_net *)dev;

	net_set_offload(n->net, 0);
}

static void net_free(struct virtio_dev *dev)
{
	struct virtio_net *n = (struct virtio_net *)dev;

	net_set_client(n->net, NULL, NULL);
	virtio_fini(dev);
	g_free(n);
}

static const struct virtio_class net_class = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.pci_class = 0x020000,
	.queue_count = 2,
	.queue_size = QUEUE_SIZE,
	.start = net_start,
	.stop = net_stop,
	.work = net_work,
	.free = net_free,
};

static uint64_t offload_features(uint32_t offload)
{
	uint64_t features = 0;

	if (offload & NET_OFFLOAD_CSUM)
		features |= F_CSUM | F_GUEST_CSUM;
	if (offload & NET_OFFLOAD_TSO4)
		features |= F_HOST_TSO4 | F_GUEST_TSO4;
	if (offload & NET_OFFLOAD_TSO6)
		features |= F_HOST_TSO6 | F_GUEST_TSO6;
	return features;
}

struct virtio_dev *virtio_net_new(const struct virtio_env *env, struct net *net,
				  const uint8_t mac[6], GError **err)
{
	struct virtio_net *n = g_new0(struct virtio_net, 1);

	n->net = net;
	if (!virtio_init(&n->dev, &net_class, env, err))
		goto err;
	n->dev.features |= F_MAC | F_MRG_RXBUF | F_STATUS | offload_features(net->offload);
	/* struct virtio_net_config, 5.1.4: mac, status, queue pairs, mtu. */
	memcpy(n->dev.config, mac, 6);
	n->dev.config[6] = net->link_up ? STATUS_LINK_UP : 0;
	if (net->mtu) {
		n->dev.features |= F_MTU;
		store_le16(n->dev.config + 10, net->mtu);
	}
	n->dev.config_size = 12;
	if (virtio_attach(&n->dev, err)) {
		net_set_client(net, &client, n);
		return &n->dev;
	}
err:
	net_free(&n->dev);
	return NULL;
}
