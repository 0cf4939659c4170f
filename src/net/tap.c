// SPDX-License-Identifier: Apache-2.0
/*
 * tap.c - a tap interface of the host, with virtio headers and offloads where the kernel has them.
 *
 * See the kernel's Documentation/networking/tuntap.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "net/net_int.h"

#define FRAMES_PER_TURN 64

struct tap {
	struct net net;
	struct loop *loop;
	int fd;
	struct loop_fd *read_watch; /* NULL while a frame waits for the card */
	struct loop_fd *write_watch; /* while the kernel takes no more */
	int write_fd;		    /* the same file, for the second watch */
	size_t kept;		    /* bytes of the frame that waits */
	uint8_t frame[NET_VNET_HDR_SIZE + NET_MAX_FRAME];
};

static bool deliver(struct tap *t)
{
	struct iovec iov = { .iov_base = t->frame, .iov_len = t->kept };

	if (!net_deliver(&t->net, &iov, 1))
		return false;
	t->kept = 0;
	return true;
}

static void readable(void *arg, uint32_t events)
{
	struct tap *t = arg;

	for (int i = 0; i < FRAMES_PER_TURN; i++) {
		ssize_t n = read(t->fd, t->frame, sizeof(t->frame));

		if (n <= 0)
			return;
		t->kept = (size_t)n;
		if (!deliver(t)) {
			loop_fd_remove(t->read_watch);
			t->read_watch = NULL;
			return;
		}
	}
}

static void tap_receive_ready(struct net *net)
{
	struct tap *t = (struct tap *)net;

	if (t->read_watch || (t->kept && !deliver(t)))
		return;
	t->read_watch = loop_fd_add(t->loop, t->fd, EPOLLIN, readable, t);
}

static void writable(void *arg, uint32_t events)
{
	struct tap *t = arg;

	loop_fd_remove(t->write_watch);
	t->write_watch = NULL;
	if (t->net.client && t->net.client->sendable)
		t->net.client->sendable(t->net.client_arg);
}

static int tap_send(struct net *net, const struct iovec *iov, unsigned iov_count)
{
	struct tap *t = (struct tap *)net;
	ssize_t n;

	do {
		n = writev(t->fd, iov, (int)iov_count);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		return 0;
	if (errno != EAGAIN)
		return -errno;
	if (!t->write_watch)
		t->write_watch = loop_fd_add(t->loop, t->write_fd, EPOLLOUT, writable, t);
	return t->write_watch ? -EAGAIN : -ENOBUFS;
}

static void tap_set_offload(struct net *net, uint32_t offload)
{
	struct tap *t = (struct tap *)net;
	unsigned long flags = 0;

	if (!net->vnet_hdr)
		return;
	if (offload & NET_OFFLOAD_CSUM)
		flags |= TUN_F_CSUM;
	if (offload & NET_OFFLOAD_TSO4)
		flags |= TUN_F_TSO4;
	if (offload & NET_OFFLOAD_TSO6)
		flags |= TUN_F_TSO6;
	(void)ioctl(t->fd, TUNSETOFFLOAD, flags);
}

static void tap_close(struct net *net)
{
	struct tap *t = (struct tap *)net;

	loop_fd_remove(t->read_watch);
	loop_fd_remove(t->write_watch);
	if (t->write_fd >= 0)
		close(t->write_fd);
	if (t->fd >= 0)
		close(t->fd);
	free(t);
}

static const struct net_ops tap_ops = {
	.send = tap_send,
	.receive_ready = tap_receive_ready,
	.set_offload = tap_set_offload,
	.close = tap_close,
};

static bool fail(GError **err, const char *ifname, int error, const char *what)
{
	g_set_error(err, BASE_ERROR, error, "net tap '%s': %s", ifname,
		    what ? what : g_strerror(error));
	return false;
}

static const char *explain(int error)
{
	switch (error) {
	case EBUSY:
		return "in use by another process";
	case EPERM:
		return "not permitted (make it first: ip tuntap add NAME mode tap user USER)";
	case EINVAL:
		return "exists and is not a tap interface, or is a multi-queue one";
	default:
		return NULL;
	}
}

/* What the interface is like; only a hint where it fails. */
static void look_at_interface(struct tap *t, const char *ifname)
{
	struct ifreq ifr = { 0 };
	auto_fd int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	g_strlcpy(ifr.ifr_name, ifname, sizeof(ifr.ifr_name));
	if (sock < 0)
		return;
	if (ioctl(sock, SIOCGIFMTU, &ifr) == 0 && ifr.ifr_mtu >= 68 && ifr.ifr_mtu <= 65535)
		t->net.mtu = (uint16_t)ifr.ifr_mtu;
	if (ioctl(sock, SIOCGIFFLAGS, &ifr) == 0 && !(ifr.ifr_flags & IFF_UP))
		log_warn("net tap '%s': the interface is down (ip link set %s up)", ifname, ifname);
}

static bool attach(struct tap *t, const char *ifname, GError **err)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int hdr_size = NET_VNET_HDR_SIZE;
	unsigned features = 0;

	if (strlen(ifname) == 0 || strlen(ifname) >= sizeof(ifr.ifr_name))
		return fail(err, ifname, EINVAL, "is no interface name (1 to 15 characters)");
	strcpy(ifr.ifr_name, ifname);
	t->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (t->fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
		return fail(err, ifname, errno,
			    "this host has no /dev/net/tun (load the kernel's module tun)");
	if (t->fd < 0) {
		g_set_error(err, BASE_ERROR, errno, "net tap '%s': cannot open /dev/net/tun: %s",
			    ifname, g_strerror(errno));
		return false;
	}
	if (ioctl(t->fd, TUNGETFEATURES, &features) == 0 && (features & IFF_VNET_HDR))
		ifr.ifr_flags |= IFF_VNET_HDR;
	if (ioctl(t->fd, TUNSETIFF, &ifr) < 0)
		return fail(err, ifname, errno, explain(errno));
	if (!(ifr.ifr_flags & IFF_VNET_HDR))
		return true;
	if (ioctl(t->fd, TUNSETVNETHDRSZ, &hdr_size) < 0)
		return fail(err, ifname, errno, "the kernel is too old for 12-byte headers");
	t->net.vnet_hdr = true;
	t->net.offload = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6;
	tap_set_offload(&t->net, 0);
	return true;
}

struct net *net_tap_open(const char *ifname, struct loop *loop, GError **err)
{
	struct tap *t = calloc(1, sizeof(*t));

	if (!t)
		g_error("out of memory");
	t->net.ops = &tap_ops;
	t->net.link_up = true;
	t->loop = loop;
	t->fd = -1;
	t->write_fd = -1;
	if (!attach(t, ifname, err))
		goto err;
	t->write_fd = fcntl(t->fd, F_DUPFD_CLOEXEC, 3);
	if (t->write_fd >= 0)
		t->read_watch = loop_fd_add(loop, t->fd, EPOLLIN, readable, t);
	if (!t->read_watch) {
		fail(err, ifname, errno, NULL);
		goto err;
	}
	look_at_interface(t, ifname);
	return &t->net;
err:
	tap_close(&t->net);
	return NULL;
}
