// SPDX-License-Identifier: Apache-2.0
/*
 * user.c - the user-mode network, by libslirp.
 *
 * libslirp wants to be asked before each poll() which descriptors it waits for. Our loop keeps its
 * watches instead; so after anything has happened (a frame, a descriptor, a timer) the wishes are
 * collected again and compared with the watches. Frames from the guest come in batches: the
 * comparison is put off to a timer that is due at once.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <libslirp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "net/net_int.h"

/* Frames that wait for a card without room; more are dropped, as a switch would. */
#define QUEUE_FRAMES 256u

#define ADDR(a, b, c, d) htonl((uint32_t)(a) << 24 | (b) << 16 | (c) << 8 | (d))
#define NETWORK		 ADDR(10, 0, 2, 0)
#define NETMASK		 ADDR(255, 255, 255, 0)
#define HOST		 ADDR(10, 0, 2, 2)
#define NAMESERVER	 ADDR(10, 0, 2, 3)
#define GUEST		 ADDR(10, 0, 2, 15)

struct user;

struct watch {
	struct user *user;
	int fd;
	uint32_t events;
	struct loop_fd *loop_fd;
};

struct user {
	struct net net;
	struct loop *loop;
	Slirp *slirp;
	GArray *polled;	 /* struct pollfd: what libslirp waits for */
	GPtrArray *watches; /* struct watch: the same, in the loop */
	struct loop_timer *sync_timer, *poll_timer;
	bool sync_due;
	GQueue *waiting; /* GBytes: frames for a card without room */
	uint8_t frame[NET_MAX_FRAME];
};

static void service(struct user *u);

/* ---- the watches ---- */

static void watch_free(void *p)
{
	struct watch *w = p;

	loop_fd_remove(w->loop_fd);
	g_free(w);
}

static void watch_ready(void *arg, uint32_t events)
{
	struct watch *w = arg;

	service(w->user);
}

static uint32_t epoll_events(short events)
{
	return ((events & POLLIN) ? EPOLLIN : 0u) | ((events & POLLOUT) ? EPOLLOUT : 0u) |
	       ((events & POLLPRI) ? EPOLLPRI : 0u);
}

static struct watch *watch_find(struct user *u, int fd)
{
	for (unsigned i = 0; i < u->watches->len; i++) {
		struct watch *w = g_ptr_array_index(u->watches, i);

		if (w->fd == fd)
			return w;
	}
	return NULL;
}

static int add_poll(int fd, int events, void *opaque)
{
	struct user *u = opaque;
	struct pollfd p = { .fd = fd };

	if (events & SLIRP_POLL_IN)
		p.events |= POLLIN;
	if (events & SLIRP_POLL_OUT)
		p.events |= POLLOUT;
	if (events & SLIRP_POLL_PRI)
		p.events |= POLLPRI;
	g_array_append_val(u->polled, p);
	return (int)u->polled->len - 1;
}

static int get_revents(int idx, void *opaque)
{
	struct user *u = opaque;
	short r = g_array_index(u->polled, struct pollfd, idx).revents;

	return ((r & POLLIN) ? SLIRP_POLL_IN : 0) | ((r & POLLOUT) ? SLIRP_POLL_OUT : 0) |
	       ((r & POLLPRI) ? SLIRP_POLL_PRI : 0) | ((r & POLLERR) ? SLIRP_POLL_ERR : 0) |
	       ((r & POLLHUP) ? SLIRP_POLL_HUP : 0);
}

static void watch_want(struct user *u, int fd, uint32_t events)
{
	struct watch *w = watch_find(u, fd);

	if (!w) {
		w = g_new0(struct watch, 1);
		*w = (struct watch){ .user = u, .fd = fd, .events = events };
		w->loop_fd = loop_fd_add(u->loop, fd, events, watch_ready, w);
		g_ptr_array_add(u->watches, w);
	} else if (w->events != events && w->loop_fd) {
		w->events = events;
		loop_fd_modify(w->loop_fd, events);
	}
}

static bool is_polled(const struct user *u, int fd)
{
	for (unsigned i = 0; i < u->polled->len; i++)
		if (g_array_index(u->polled, struct pollfd, i).fd == fd)
			return true;
	return false;
}

static void sync_watches(struct user *u)
{
	uint32_t timeout_ms = UINT32_MAX;

	u->sync_due = false;
	g_array_set_size(u->polled, 0);
	slirp_pollfds_fill(u->slirp, &timeout_ms, add_poll, u);
	for (unsigned i = 0; i < u->polled->len; i++) {
		struct pollfd *p = &g_array_index(u->polled, struct pollfd, i);

		watch_want(u, p->fd, epoll_events(p->events));
	}
	for (unsigned i = u->watches->len; i-- > 0;) {
		struct watch *w = g_ptr_array_index(u->watches, i);

		if (!is_polled(u, w->fd))
			g_ptr_array_remove_index_fast(u->watches, i);
	}
	if (timeout_ms == UINT32_MAX)
		loop_timer_disarm(u->poll_timer);
	else
		loop_timer_arm(u->poll_timer, loop_now_ns() + timeout_ms * 1000000ull);
}

static void service(struct user *u)
{
	struct pollfd *fds = (struct pollfd *)(void *)u->polled->data;
	int n = poll(fds, u->polled->len, 0);

	slirp_pollfds_poll(u->slirp, n < 0, get_revents, u);
	sync_watches(u);
}

static void service_timer(void *arg)
{
	service(arg);
}

static void sync_timer(void *arg)
{
	sync_watches(arg);
}

static void sync_later(struct user *u)
{
	if (u->sync_due)
		return;
	u->sync_due = true;
	loop_timer_arm(u->sync_timer, 0);
}

/* ---- what libslirp calls ---- */

static ssize_t to_guest(const void *buf, size_t len, void *opaque)
{
	struct user *u = opaque;
	struct iovec iov = { .iov_base = (void *)buf, .iov_len = len };

	if (g_queue_is_empty(u->waiting) && net_deliver(&u->net, &iov, 1))
		return (ssize_t)len;
	if (u->waiting->length < QUEUE_FRAMES)
		g_queue_push_tail(u->waiting, g_bytes_new(buf, len));
	return (ssize_t)len;
}

static void guest_error(const char *msg, void *opaque)
{
	log_guest("net user: %s", msg);
}

static int64_t clock_get_ns(void *opaque)
{
	return (int64_t)loop_now_ns();
}

static void *timer_new(SlirpTimerCb cb, void *cb_opaque, void *opaque)
{
	struct user *u = opaque;

	return loop_timer_new(u->loop, cb, cb_opaque);
}

static void timer_free(void *timer, void *opaque)
{
	loop_timer_free(timer);
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	loop_timer_arm(timer, expire_ms > 0 ? (uint64_t)expire_ms * 1000000ull : 0);
}

/* Its wishes come with the next collection. */
static void register_poll_fd(int fd, void *opaque)
{
}

/* Called before the descriptor is closed: its number may be another's soon. */
static void unregister_poll_fd(int fd, void *opaque)
{
	struct user *u = opaque;
	struct watch *w = watch_find(u, fd);

	if (w)
		g_ptr_array_remove_fast(u->watches, w);
	for (unsigned i = 0; i < u->polled->len; i++) {
		struct pollfd *p = &g_array_index(u->polled, struct pollfd, i);

		if (p->fd == fd)
			p->fd = -1; /* poll() passes over it */
	}
	sync_later(u);
}

static void notify(void *opaque)
{
	sync_later(opaque);
}

static const SlirpCb callbacks = {
	.send_packet = to_guest,
	.guest_error = guest_error,
	.clock_get_ns = clock_get_ns,
	.timer_new = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = register_poll_fd,
	.unregister_poll_fd = unregister_poll_fd,
	.notify = notify,
};

/* ---- the backend ---- */

static int user_send(struct net *net, const struct iovec *iov, unsigned iov_count)
{
	struct user *u = (struct user *)net;
	size_t len = net_gather(u->frame, sizeof(u->frame), iov, iov_count);

	if (len == 0)
		return -EMSGSIZE;
	slirp_input(u->slirp, u->frame, (int)len);
	sync_later(u);
	return 0;
}

static void user_receive_ready(struct net *net)
{
	struct user *u = (struct user *)net;

	while (!g_queue_is_empty(u->waiting)) {
		GBytes *frame = g_queue_peek_head(u->waiting);
		struct iovec iov;

		iov.iov_base = (void *)g_bytes_get_data(frame, &iov.iov_len);
		if (!net_deliver(net, &iov, 1))
			return;
		g_bytes_unref(g_queue_pop_head(u->waiting));
	}
}

static void user_close(struct net *net)
{
	struct user *u = (struct user *)net;

	net->client = NULL;
	if (u->slirp)
		slirp_cleanup(u->slirp);
	g_ptr_array_free(u->watches, TRUE);
	g_array_free(u->polled, TRUE);
	loop_timer_free(u->sync_timer);
	loop_timer_free(u->poll_timer);
	g_queue_free_full(u->waiting, (GDestroyNotify)g_bytes_unref);
	g_free(u);
}

static const struct net_ops user_ops = {
	.send = user_send,
	.receive_ready = user_receive_ready,
	.close = user_close,
};

static bool add_forward(struct user *u, const struct net_forward *f, GError **err)
{
	const char *host = f->host_addr ? f->host_addr : "127.0.0.1";
	const char *kind = f->udp ? "UDP port" : "port";
	struct in_addr addr, guest = { .s_addr = GUEST };
	int e;

	if (inet_pton(AF_INET, host, &addr) != 1) {
		g_set_error(err, BASE_ERROR, EINVAL,
			    "net user: forward: '%s' is not an IPv4 address", host);
		return false;
	}
	errno = 0;
	if (slirp_add_hostfwd(u->slirp, f->udp, addr, f->host_port, guest, f->guest_port) == 0)
		return true;
	e = errno;
	if (e == EADDRINUSE)
		g_set_error(err, BASE_ERROR, EADDRINUSE, "net user: %s %u on %s is in use", kind,
			    f->host_port, host);
	else if (e == EADDRNOTAVAIL)
		g_set_error(err, BASE_ERROR, EIO, "net user: %s is not an address of this host",
			    host);
	else
		g_set_error(err, BASE_ERROR, e, "net user: %s %u on %s cannot be forwarded: %s",
			    kind, f->host_port, host, g_strerror(e));
	return false;
}

static Slirp *start_slirp(struct user *u)
{
	SlirpConfig cfg = {
		.version = 1,
		.in_enabled = true,
		.vnetwork.s_addr = NETWORK,
		.vnetmask.s_addr = NETMASK,
		.vhost.s_addr = HOST,
		.vdhcp_start.s_addr = GUEST,
		.vnameserver.s_addr = NAMESERVER,
	};

	return slirp_new(&cfg, &callbacks, u);
}

struct net *net_user_open(const struct net_forward *forwards, unsigned count, struct loop *loop,
			  GError **err)
{
	struct user *u = g_new0(struct user, 1);
	bool ok = true;

	u->net.ops = &user_ops;
	u->net.link_up = true;
	u->loop = loop;
	u->polled = g_array_new(FALSE, TRUE, sizeof(struct pollfd));
	u->watches = g_ptr_array_new_with_free_func(watch_free);
	u->waiting = g_queue_new();
	u->sync_timer = loop_timer_new(loop, sync_timer, u);
	u->poll_timer = loop_timer_new(loop, service_timer, u);
	if (u->sync_timer && u->poll_timer)
		u->slirp = start_slirp(u);
	if (!u->slirp) {
		g_set_error(err, BASE_ERROR, EIO, "net user: libslirp cannot be started");
		ok = false;
	}
	for (unsigned i = 0; ok && i < count; i++)
		ok = add_forward(u, &forwards[i], err);
	if (!ok) {
		user_close(&u->net);
		return NULL;
	}
	sync_watches(u);
	return &u->net;
}
