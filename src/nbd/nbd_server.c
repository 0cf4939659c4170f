// SPDX-License-Identifier: Apache-2.0
/* nbd_server.c - a listening socket, and clients that come and go. */
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "nbd/nbd_int.h"

#define BACKLOG 16

/* ---- clients ---- */

void nbd_client_free(struct nbd_client *c)
{
	struct nbd_server *s = c->server;

	for (struct nbd_client **p = &s->clients; *p; p = &(*p)->next) {
		if (*p == c) {
			*p = c->next;
			break;
		}
	}
	s->client_count--;
	nbd_stream_free(c->stream);
	loop_timer_free(c->patience);
	free(c);
	if (s->client_count == 0 && s->left && !s->closing)
		s->left(s->arg);
}

static void out_of_patience(void *arg)
{
	struct nbd_client *c = arg;

	nbd_hang_up(c->stream);
}

void nbd_server_welcome(struct nbd_server *s, int fd)
{
	struct nbd_client *c = calloc(1, sizeof(*c));
	struct nbd_stream *stream = nbd_stream_new(s->loop, &s->fibers, fd);
	struct loop_timer *patience = c ? loop_timer_new(s->loop, out_of_patience, c) : NULL;

	if (!stream || !patience) {
		log_warn("nbd: no memory for another client");
		if (patience)
			loop_timer_free(patience);
		nbd_stream_free(stream);
		free(c);
		return;
	}
	*c = (struct nbd_client){ .server = s, .next = s->clients, .stream = stream, .patience = patience };
	s->clients = c;
	s->client_count++;
	loop_timer_arm(patience, loop_now_ns() + NBD_HANDSHAKE_NS);
	if (fiber_start(&s->fibers, nbd_client_read, c) < 0)
		nbd_client_free(c);
}

static void on_connect(void *arg, uint32_t events)
{
	struct nbd_server *s = arg;
	int fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;

	(void)events;
	if (fd < 0) {
		/* No descriptor is left: whoever waits would make the loop spin, and waits in vain. */
		if (errno == EMFILE || errno == ENFILE)
			usleep(10000);
		return;
	}
	if (s->max_clients && s->client_count >= s->max_clients) {
		close(fd);
		return;
	}
	if (!s->socket)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	nbd_server_welcome(s, fd);
}

/* ---- listening ---- */

/* Left by a server that is no more: nobody answers. */
static void remove_stale(const struct sockaddr_un *address)
{
	auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 && errno == ECONNREFUSED)
		(void)unlink(address->sun_path);
}

static int listen_unix(struct nbd_server *s, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	g_autofree char *name = g_uri_escape_string(s->name, NULL, FALSE);
	g_autofree char *where = g_uri_escape_string(path, "/", FALSE);

	if (g_strlcpy(address.sun_path, path, sizeof(address.sun_path)) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	remove_stale(&address);
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s->fd < 0 || bind(s->fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	s->socket = g_strdup(path);
	s->uri = g_strdup_printf("nbd%s+unix:///%s?socket=%s", s->tls ? "s" : "", name, where);
	return listen(s->fd, BACKLOG) < 0 ? -errno : 0;
}

static int bind_tcp(struct nbd_server *s, const struct addrinfo *info)
{
	int one = 1;

	s->fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		return -errno;
	(void)setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(s->fd, info->ai_addr, info->ai_addrlen) < 0 || listen(s->fd, BACKLOG) < 0)
		return -errno;
	return 0;
}

static int listen_tcp(struct nbd_server *s, const char *address, uint16_t port)
{
	const struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
					.ai_socktype = SOCK_STREAM };
	g_autofree char *name = g_uri_escape_string(s->name, NULL, FALSE);
	char service[8], host[NI_MAXHOST];
	struct sockaddr_storage bound;
	socklen_t len = sizeof(bound);
	struct addrinfo *info;
	int r;

	g_snprintf(service, sizeof(service), "%u", port);
	if (getaddrinfo(address, service, &hints, &info) != 0)
		return -EADDRNOTAVAIL;
	r = bind_tcp(s, info);
	freeaddrinfo(info);
	if (r < 0)
		return r;
	if (getsockname(s->fd, (struct sockaddr *)&bound, &len) < 0)
		return -errno;
	if (getnameinfo((struct sockaddr *)&bound, len, host, sizeof(host), service, sizeof(service),
			NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return -EADDRNOTAVAIL;
	s->uri = g_strdup_printf(bound.ss_family == AF_INET6 ? "nbd%s://[%s]:%s/%s" : "nbd%s://%s:%s/%s",
				 s->tls ? "s" : "", host, service, name);
	return 0;
}

static bool listen_at(struct nbd_server *s, const struct nbd_offer *o, GError **err)
{
	int r;

	if (!o->socket && !o->address)
		return true;
	r = o->socket ? listen_unix(s, o->socket) : listen_tcp(s, o->address, o->port);
	if (r == 0) {
		s->watch = loop_fd_add(s->loop, s->fd, EPOLLIN, on_connect, s);
		r = s->watch ? 0 : -ENOMEM;
	}
	if (r == 0)
		return true;
	if (o->socket)
		g_set_error(err, BASE_ERROR, -r, "cannot listen at '%s': %s", o->socket, g_strerror(-r));
	else
		g_set_error(err, BASE_ERROR, -r, "cannot listen at port %u of '%s': %s", o->port, o->address,
			    g_strerror(-r));
	return false;
}

struct nbd_server *nbd_server_new(struct loop *loop, const struct nbd_offer *o, GError **err)
{
	struct nbd_server *s;

	if (strlen(o->name) > NBD_MAX_NAME || (o->description && strlen(o->description) > NBD_MAX_NAME)) {
		g_set_error(err, BASE_ERROR, EINVAL, "a name of more than %u bytes cannot be asked for", NBD_MAX_NAME);
		return NULL;
	}
	s = g_new0(struct nbd_server, 1);
	*s = (struct nbd_server){ .loop = loop, .disk = o->disk, .fd = -1, .name = g_strdup(o->name),
				  .description = g_strdup(o->description), .max_clients = o->max_clients,
				  .readonly = o->readonly || o->disk->readonly, .left = o->left, .arg = o->arg };
	if (o->tls && !(s->tls = nbd_tls_new(o->tls, err))) {
		nbd_server_free(s);
		return NULL;
	}
	if (!listen_at(s, o, err)) {
		nbd_server_free(s);
		return NULL;
	}
	return s;
}

char *nbd_server_uri(const struct nbd_server *s)
{
	return g_strdup(s->uri);
}

/* One that has not been hung up on, or NULL. Whoever is may take others along. */
static struct nbd_client *next_to_leave(const struct nbd_server *s)
{
	for (struct nbd_client *c = s->clients; c; c = c->next)
		if (!c->hung_up)
			return c;
	return NULL;
}

void nbd_server_free(struct nbd_server *s)
{
	struct nbd_client *c;

	if (!s)
		return;
	s->closing = true;
	if (s->watch)
		loop_fd_remove(s->watch);
	if (s->socket)
		(void)unlink(s->socket);
	if (s->fd >= 0)
		close(s->fd);
	while ((c = next_to_leave(s))) {
		c->hung_up = true;
		nbd_hang_up(c->stream);
	}
	/* Those that are left wait for the disk, and end with their last request. */
	while (s->clients)
		disk_drain(s->disk);
	fiber_pool_fini(&s->fibers);
	nbd_tls_free(s->tls);
	g_free(s->name);
	g_free(s->description);
	g_free(s->socket);
	g_free(s->uri);
	g_free(s);
}
