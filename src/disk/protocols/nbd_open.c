// SPDX-License-Identifier: Apache-2.0
/*
 * nbd_open.c - reaching an NBD server: its names, the handshake, and what it says of itself.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/protocols/nbd_int.h"

#define DEFAULT_PORT "10809" /* IANA's for nbd */
#define CONNECT_MS   30000u
#define SLICE_MS     100     /* between two looks whether anybody waits still */
#define MAX_DATA     (4u << 20) /* bytes that one command moves */
#define MAX_BLOCK    (64u << 10) /* the largest smallest one */

static const char *const call_names[] = { NBD_CALLS(LIBRARY_NAME) };
static const char *const library_files[] = { "libnbd.so.0", NULL };

/* libnbd begins its sentences with the name of the call; and a server's words stand in them. Caller frees. */
static char *readable(const char *why)
{
	const char *colon = why && g_str_has_prefix(why, "nbd_") ? strstr(why, ": ") : NULL;
	char *text = g_strdup(colon ? colon + 2 : why ? why : "it does not answer");

	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	return text;
}

/* QEMU's older form: nbd:unix:PATH[:exportname=NAME], nbd:HOST:PORT[:exportname=NAME]. */
static int begin_plain(const struct nbd_calls *calls, struct nbd_handle *nbd, const char *name)
{
	g_autofree char *rest = g_strdup(name + strlen("nbd:"));
	char *export = strstr(rest, ":exportname="), *port;

	if (export) {
		*export = 0;
		if (calls->nbd_set_export_name(nbd, export + strlen(":exportname=")) < 0)
			return -1;
	}
	if (g_str_has_prefix(rest, "unix:"))
		return calls->nbd_aio_connect_unix(nbd, rest + strlen("unix:"));
	port = strrchr(rest, ':');
	if (port && port[-1] != ']' && strchr(rest, ':') != port)
		port = NULL; /* an address of IPv6 without brackets has no port */
	if (port)
		*port++ = 0;
	if (rest[0] == '[' && rest[strlen(rest) - 1] == ']') {
		rest[strlen(rest) - 1] = 0;
		return calls->nbd_aio_connect_tcp(nbd, rest + 1, port ? port : DEFAULT_PORT);
	}
	return calls->nbd_aio_connect_tcp(nbd, rest, port ? port : DEFAULT_PORT);
}

static int begin(const struct nbd_calls *calls, struct nbd_handle *nbd, const struct nbd_place *place)
{
	bool plain = g_str_has_prefix(place->name, "nbd:") && !g_str_has_prefix(place->name, "nbd://");

	if (place->fd >= 0)
		return calls->nbd_aio_connect_socket(nbd, place->fd);
	if (calls->nbd_set_uri_allow_local_file(nbd, !place->named) < 0)
		return -1;
	return plain ? begin_plain(calls, nbd, place->name) : calls->nbd_aio_connect_uri(nbd, place->name);
}

/* Until the handshake is through; there is no hurry, but an end. NULL, or why not. */
static const char *finish_handshake(const struct nbd_calls *calls, struct nbd_handle *nbd,
				    const gint *cancelled)
{
	uint64_t end = loop_now_ns() + CONNECT_MS * 1000000ull;

	while (calls->nbd_aio_is_ready(nbd) != 1) {
		if (calls->nbd_aio_is_dead(nbd) == 1 || calls->nbd_aio_is_closed(nbd) == 1)
			return "the server hung up";
		if (loop_now_ns() >= end || (cancelled && g_atomic_int_get(cancelled)))
			return "it does not answer";
		if (calls->nbd_poll(nbd, SLICE_MS) < 0)
			return calls->nbd_get_error();
	}
	return NULL;
}

/* A host that is gone without a word is noticed within a minute. */
static void keep_alive(int fd)
{
	const int on = 1, idle_s = 20, every_s = 10, times = 4, unanswered_ms = 60000;

	/* Unix sockets refuse all of it. */
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof(every_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof(unanswered_ms));
}

struct nbd_handle *nbd_reach(const struct nbd_calls *calls, const struct nbd_place *place,
			     const gint *cancelled, char **ret_why)
{
	struct nbd_handle *nbd = calls->nbd_create();
	const char *why = NULL;

	if (!nbd || calls->nbd_add_meta_context(nbd, NBD_CONTEXT) < 0 || begin(calls, nbd, place) < 0) {
		*ret_why = readable(calls->nbd_get_error());
		if (place->fd >= 0)
			(void)close(place->fd);
	} else {
		why = finish_handshake(calls, nbd, cancelled);
		*ret_why = why ? readable(why) : NULL;
	}
	if (!*ret_why) {
		keep_alive(calls->nbd_aio_get_fd(nbd));
		return nbd;
	}
	if (nbd)
		calls->nbd_close(nbd);
	return NULL;
}

static int ask_sizes(struct nbd_disk *d, char **ret_why)
{
	int64_t size = d->calls.nbd_get_size(d->nbd);
	int64_t least = d->calls.nbd_get_block_size(d->nbd, LIBNBD_SIZE_MINIMUM);
	int64_t good = d->calls.nbd_get_block_size(d->nbd, LIBNBD_SIZE_PREFERRED);
	int64_t most = d->calls.nbd_get_block_size(d->nbd, LIBNBD_SIZE_MAXIMUM);
	g_autofree char *why = size < 0 ? readable(d->calls.nbd_get_error()) : NULL;

	if (size < 0) {
		*ret_why = g_strdup_printf("its size is not told: %s", why);
		return -EIO;
	}
	d->disk.size_bytes = (uint64_t)size;
	d->disk.block_bytes = good >= 4096 ? 4096 : DISK_SECTOR_SIZE;
	d->block = least > 0 ? (uint64_t)least : 1;
	if (d->block > MAX_BLOCK || (d->block & (d->block - 1))) {
		*ret_why = g_strdup_printf("its server has blocks of %" G_GINT64_FORMAT " bytes", least);
		return -EINVAL;
	}
	d->max_data = most > 0 ? MIN((uint64_t)most, MAX_DATA) : MAX_DATA;
	d->max_data = MAX(align_down(d->max_data, d->block), d->block);
	return 0;
}

int nbd_ask(struct nbd_disk *d, char **ret_why)
{
	int r = ask_sizes(d, ret_why);

	if (r < 0)
		return r;
	if (!d->disk.readonly && d->calls.nbd_is_read_only(d->nbd) == 1) {
		*ret_why = g_strdup("its server lets nobody write (add 'readonly' to use it as it is)");
		return -EROFS;
	}
	d->can_flush = d->calls.nbd_can_flush(d->nbd) == 1;
	d->can_fua = d->calls.nbd_can_fua(d->nbd) == 1;
	d->can_trim = d->calls.nbd_can_trim(d->nbd) == 1;
	d->can_zero = d->calls.nbd_can_zero(d->nbd) == 1;
	d->can_map = d->calls.nbd_can_meta_context(d->nbd, NBD_CONTEXT) == 1;
	d->fua = d->can_fua && !d->no_flush && (d->through || !d->can_flush);
	return 0;
}

bool nbd_watch(struct nbd_disk *d)
{
	d->events = EPOLLIN;
	d->watch = loop_fd_add(d->loop, d->calls.nbd_aio_get_fd(d->nbd), d->events, nbd_on_ready, d);
	return d->watch != NULL;
}

static struct nbd_disk *nbd_disk_new(const char *name, const struct disk_options *o, struct loop *loop,
				     GError **err)
{
	struct nbd_disk *d = calloc(1, sizeof(*d));

	if (!d) {
		base_fail(err, ENOMEM, "disk '%s': no memory", name);
		return NULL;
	}
	d->loop = loop;
	d->disk = (struct disk){ .ops = &nbd_ops, .format = "nbd", .path = g_strdup(name),
				 .readonly = o->readonly, .can_discard = !o->readonly };
	d->through = o->cache == DISK_CACHE_WRITETHROUGH || o->cache == DISK_CACHE_DIRECTSYNC;
	d->no_flush = o->cache == DISK_CACHE_UNSAFE;
	d->silence.patience = o->patience;
	if (library_load(library_files, call_names, G_N_ELEMENTS(call_names), &d->calls, name, err))
		return d;
	nbd_free(d);
	return NULL;
}

/* What the server said of itself, to the user. */
static bool look_at_it(struct nbd_disk *d, GError **err)
{
	g_autofree char *why = NULL;
	int r = nbd_ask(d, &why);

	if (r < 0)
		return base_fail(err, -r, "disk '%s': %s", d->disk.path, why);
	if (!d->can_flush && !d->can_fua && !d->disk.readonly)
		log_info("disk '%s': its server knows no flush: when what is written is durable is its "
			 "own affair", d->disk.path);
	return true;
}

static struct disk *open_at(const struct nbd_place *place, const struct disk_options *o, struct loop *loop,
			    GError **err)
{
	struct nbd_disk *d = nbd_disk_new(place->name, o, loop, err);
	g_autofree char *why = NULL;
	struct disk *aligned;

	if (!d) {
		if (place->fd >= 0)
			(void)close(place->fd);
		return NULL;
	}
	d->nbd = nbd_reach(&d->calls, place, NULL, &why);
	if (!d->nbd) {
		base_fail(err, EIO, "disk '%s': cannot be reached: %s", place->name, why);
		nbd_free(d);
		return NULL;
	}
	if (!look_at_it(d, err))
		goto err;
	if (!nbd_watch(d) ||
	    (o->reconnect_s && place->fd < 0 && !nbd_again_new(d, place, o->reconnect_s))) {
		base_fail(err, ENOMEM, "disk '%s': cannot be watched", place->name);
		goto err;
	}
	nbd_look(d);
	aligned = d->block == 1 ? &d->disk : disk_direct_over(&d->disk, (uint32_t)d->block);
	if (aligned)
		return aligned;
	base_fail(err, ENOMEM, "disk '%s': no memory", place->name);
err:
	nbd_ops.close(&d->disk);
	return NULL;
}

struct disk *nbd_disk_open(const char *name, const struct disk_options *o, bool named,
			   struct loop *loop, GError **err)
{
	const struct nbd_place place = { .name = name, .named = named, .fd = -1 };

	return open_at(&place, o, loop, err);
}

struct disk *nbd_disk_open_socket(int fd, const char *name, const struct disk_options *o,
				  struct loop *loop, GError **err)
{
	const struct nbd_place place = { .name = name, .fd = fd };

	return open_at(&place, o, loop, err);
}
