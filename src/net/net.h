// SPDX-License-Identifier: Apache-2.0
/*
 * net.h - what stands behind a network card: a place to send Ethernet frames to and get them from.
 *
 * A backend belongs to one loop; everything here is called, and calls back, in that loop's thread,
 * except before the loop runs.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct loop;
struct net;

#define NET_MAX_FRAME 65562u /* a 64 KiB segment with its Ethernet header, tagged */

/* Work that a frame may leave to the other side, by way of the header in front of it. */
#define NET_OFFLOAD_CSUM (1u << 0)
#define NET_OFFLOAD_TSO4 (1u << 1)
#define NET_OFFLOAD_TSO6 (1u << 2)

/* virtio 1.2, 5.1.6 "Device Operation": struct virtio_net_hdr with num_buffers. */
#define NET_VNET_HDR_SIZE 12u

struct net_ops {
	/* One frame. 0; -EAGAIN: not now, net_client.sendable will be called; else dropped. */
	int (*send)(struct net *net, const struct iovec *iov, unsigned iov_count);
	/* The card has room again after net_client.receive returned false. Optional. */
	void (*receive_ready)(struct net *net);
	/* Which offloads frames to the guest may carry. Optional. */
	void (*set_offload)(struct net *net, uint32_t offload);
	void (*close)(struct net *net);
};

/* The card's side. */
struct net_client {
	/* False: no room; the backend keeps the frame, or drops it, until receive_ready. */
	bool (*receive)(void *arg, const struct iovec *iov, unsigned iov_count);
	void (*sendable)(void *arg);
	void (*link_changed)(void *arg, bool up);
};

/* Embedded first by the backend; read-only for others. */
struct net {
	const struct net_ops *ops;
	const struct net_client *client; /* NULL: frames are dropped */
	void *client_arg;
	bool link_up;
	bool vnet_hdr;	  /* each frame, both ways, starts with a NET_VNET_HDR_SIZE header */
	uint32_t offload; /* what the backend can take; 0 without vnet_hdr */
	uint16_t mtu;	  /* 0: not known */
};

struct net_forward {
	bool udp;
	const char *host_addr; /* NULL: 127.0.0.1 */
	uint16_t host_port;
	uint16_t guest_port;
};

/* The user-mode network: the guest is 10.0.2.15 by DHCP, the host's loopback is 10.0.2.2, DNS is
 * 10.0.2.3. Fails with a sentence when a forwarded port cannot be had. */
struct net *net_user_open(const struct net_forward *forwards, unsigned count, struct loop *loop,
			  GError **err);
/* An existing tap interface, or a new one where the process may create it. */
struct net *net_tap_open(const char *ifname, struct loop *loop, GError **err);
void net_close(struct net *net);

/* @client is borrowed; NULL detaches. */
void net_set_client(struct net *net, const struct net_client *client, void *arg);
int net_send(struct net *net, const struct iovec *iov, unsigned iov_count);
void net_receive_ready(struct net *net);
void net_set_offload(struct net *net, uint32_t offload);
