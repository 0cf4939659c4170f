// SPDX-License-Identifier: Apache-2.0
/*
 * rbd.c - an image of a Ceph cluster, by librbd. Built where that library's headers are.
 *
 * Names are QEMU's: rbd:POOL/IMAGE[@SNAPSHOT][:KEY=VALUE]..., of which "id" is the user, "conf" a file, and
 * the others are options of the cluster; a backslash takes the meaning from the character behind it.
 *
 * Requests complete in librbd's threads, which put them on a list; an eventfd tells the loop, and a condition
 * who drains.
 */
#include <errno.h>
#include <pthread.h>
#include <rados/librados.h>
#include <rbd/librbd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop.h"
#include "disk/protocols/library.h"
#include "disk/protocols/protocols.h"

#define CALLS(X) \
	X(rados_create) X(rados_shutdown) X(rados_conf_read_file) X(rados_conf_set) X(rados_connect) \
	X(rados_ioctx_create) X(rados_ioctx_destroy) X(rbd_open) X(rbd_open_read_only) X(rbd_close) \
	X(rbd_get_size) X(rbd_resize) X(rbd_aio_create_completion) X(rbd_aio_get_return_value) \
	X(rbd_aio_release) X(rbd_aio_readv) X(rbd_aio_writev) X(rbd_aio_flush) X(rbd_aio_discard) \
	X(rbd_aio_write_zeroes)

struct ceph {
	CALLS(LIBRARY_FIELD)
};

static const char *const call_names[] = { CALLS(LIBRARY_NAME) };
static const char *const library_files[] = { "librbd.so.1", NULL }; /* brings librados along */

struct operation {
	struct rbd *r;
	struct disk_req *req;
	int result;
	struct operation *next;
};

struct rbd {
	struct disk disk;
	struct ceph ceph;
	rados_t cluster;
	rados_ioctx_t pool;
	rbd_image_t image;
	int event_fd;
	struct loop_fd *watch;
	bool no_flush;
	unsigned under_way; /* loop's thread */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t finished;
	struct operation *over, **over_tail;
};

/* ---- requests ---- */

/* In librbd's thread. */
static void on_complete(rbd_completion_t c, void *arg)
{
	struct operation *o = arg;
	struct rbd *r = o->r;
	ssize_t result = r->ceph.rbd_aio_get_return_value(c), n;
	uint64_t one = 1;

	r->ceph.rbd_aio_release(c);
	o->result = result < 0 ? (int)result : 0;
	o->next = NULL;
	pthread_mutex_lock(&r->lock);
	*r->over_tail = o;
	r->over_tail = &o->next;
	pthread_cond_signal(&r->finished);
	n = write(r->event_fd, &one, sizeof(one)); /* fails only when already high */
	(void)n;
	pthread_mutex_unlock(&r->lock);
}

static int issue(struct rbd *r, struct disk_req *req, rbd_completion_t c)
{
	const struct ceph *f = &r->ceph;

	switch (req->op) {
	case DISK_READ:
		return f->rbd_aio_readv(r->image, req->iov, (int)req->iov_count, req->offset, c);
	case DISK_WRITE:
		return f->rbd_aio_writev(r->image, req->iov, (int)req->iov_count, req->offset, c);
	case DISK_FLUSH:
		return f->rbd_aio_flush(r->image, c);
	case DISK_DISCARD:
		return f->rbd_aio_discard(r->image, req->offset, req->len, c);
	case DISK_WRITE_ZEROES:
		return f->rbd_aio_write_zeroes(r->image, req->offset, req->len, c,
					       req->unmap ? 0 : RBD_WRITE_ZEROES_FLAG_THICK_PROVISION,
					       0);
	case DISK_MAP:
	case DISK_RESIZE:
		break; /* at_once() */
	}
	return -EOPNOTSUPP;
}

static bool at_once(struct rbd *r, struct disk_req *req, int *ret_result)
{
	*ret_result = 0;
	if (req->op == DISK_MAP) {
		req->map = (struct disk_map){ .state = DISK_DATA, .len = req->len,
					      .host_offset = req->offset };
		return true;
	}
	if (req->op != DISK_RESIZE)
		return req->op == DISK_FLUSH && r->no_flush;
	*ret_result = r->ceph.rbd_resize(r->image, req->offset);
	if (*ret_result == 0)
		r->disk.size_bytes = req->offset;
	return true;
}

static void rbd_submit(struct disk *disk, struct disk_req *req)
{
	struct rbd *r = (struct rbd *)disk;
	struct operation *o;
	rbd_completion_t c;
	int result;

	if (at_once(r, req, &result)) {
		req->done(req, result);
		return;
	}
	o = malloc(sizeof(*o));
	if (!o) {
		req->done(req, -ENOMEM);
		return;
	}
	*o = (struct operation){ .r = r, .req = req };
	result = r->ceph.rbd_aio_create_completion(o, on_complete, &c);
	if (result == 0) {
		r->under_way++;
		result = issue(r, req, c);
		if (result == 0)
			return;
		r->under_way--;
		r->ceph.rbd_aio_release(c);
	}
	free(o);
	req->done(req, result);
}

static void complete(struct rbd *r, bool wait)
{
	struct operation *list, *o;

	pthread_mutex_lock(&r->lock);
	while (wait && !r->over)
		pthread_cond_wait(&r->finished, &r->lock);
	list = r->over;
	r->over = NULL;
	r->over_tail = &r->over;
	pthread_mutex_unlock(&r->lock);
	while ((o = list)) {
		struct disk_req *req = o->req;
		int result = o->result;

		list = o->next;
		free(o);
		r->under_way--;
		req->done(req, result);
	}
}

static void on_event(void *arg, uint32_t events)
{
	struct rbd *r = arg;
	uint64_t count;
	/* Only lowers the eventfd. */
	ssize_t n = read(r->event_fd, &count, sizeof(count));

	(void)n;
	(void)events;
	complete(r, false);
}

static void rbd_drain(struct disk *disk)
{
	struct rbd *r = (struct rbd *)disk;

	while (r->under_way > 0)
		complete(r, true);
}

static void rbd_disk_close(struct disk *disk)
{
	struct rbd *r = (struct rbd *)disk;

	if (r->image)
		(void)r->ceph.rbd_close(r->image);
	if (r->pool)
		r->ceph.rados_ioctx_destroy(r->pool);
	if (r->cluster)
		r->ceph.rados_shutdown(r->cluster);
	loop_fd_remove(r->watch);
	if (r->event_fd >= 0)
		close(r->event_fd);
	pthread_cond_destroy(&r->finished);
	pthread_mutex_destroy(&r->lock);
	g_free(r->disk.path);
	free(r);
}

static const struct disk_ops rbd_ops = {
	.submit = rbd_submit,
	.drain = rbd_drain,
	.close = rbd_disk_close,
};

/* ---- names ---- */

/* Up to @end, which is skipped, or the end; into @ret. False: there is no @end. */
static bool take_word(const char **text, char end, GString *ret)
{
	const char *p = *text;

	g_string_truncate(ret, 0);
	for (; *p && *p != end; p++) {
		if (*p == '\\' && p[1])
			p++;
		g_string_append_c(ret, *p);
	}
	*text = *p ? p + 1 : p;
	return *p == end;
}

struct options {
	GString *id, *conf; /* "": not given */
	GPtrArray *pairs; /* key, value, key... */
};

static bool parse_options(const char *text, struct options *ret)
{
	g_autoptr(GString) key = g_string_new(NULL), value = g_string_new(NULL);

	while (*text) {
		if (!take_word(&text, '=', key) || !key->len)
			return false;
		(void)take_word(&text, ':', value);
		if (!strcmp(key->str, "id"))
			g_string_assign(ret->id, value->str);
		else if (!strcmp(key->str, "conf"))
			g_string_assign(ret->conf, value->str);
		else {
			g_ptr_array_add(ret->pairs, g_strdup(key->str));
			g_ptr_array_add(ret->pairs, g_strdup(value->str));
		}
	}
	return true;
}

/* ---- opening ---- */

static bool fail(const struct rbd *r, int result, const char *what, GError **err)
{
	return base_fail(err, -result, "disk '%s': %s: %s", r->disk.path, what, g_strerror(-result));
}

/* Is there anything to find the cluster by? The library would say at length that there is not. */
static bool is_configured(const struct options *o)
{
	for (guint i = 0; i + 1 < o->pairs->len; i += 2)
		if (!strcmp(g_ptr_array_index(o->pairs, i), "mon_host"))
			return true;
	return o->conf->len || g_getenv("CEPH_CONF") || access("/etc/ceph/ceph.conf", R_OK) == 0;
}

/* An unreachable cluster is given up, and says nothing beside what we say. The user's configuration comes later. */
static bool configure(struct rbd *r, const struct options *o, GError **err)
{
	static const char *const ours[][2] = {
		{ "client_mount_timeout", "30" }, { "rados_mon_op_timeout", "30" },
		{ "log_to_stderr", "false" },	  { "err_to_stderr", "false" },
		{ "log_file", "/dev/null" },
	};
	int result;

	if (!is_configured(o))
		return base_fail(err, ENOENT, "disk '%s': there is no /etc/ceph/ceph.conf, and neither 'conf' nor "
					      "'mon_host' is given", r->disk.path);
	for (size_t i = 0; i < G_N_ELEMENTS(ours); i++)
		(void)r->ceph.rados_conf_set(r->cluster, ours[i][0], ours[i][1]);
	/* Also where there is none: it makes the above hold. */
	result = r->ceph.rados_conf_read_file(r->cluster, o->conf->len ? o->conf->str : NULL);
	if (result < 0 && o->conf->len)
		return fail(r, result, "its configuration cannot be read", err);
	for (guint i = 0; i + 1 < o->pairs->len; i += 2) {
		const char *key = g_ptr_array_index(o->pairs, i), *value = g_ptr_array_index(o->pairs, i + 1);

		if (r->ceph.rados_conf_set(r->cluster, key, value) < 0)
			return base_fail(err, EINVAL, "disk '%s': the cluster has no option '%s', or not with that value",
					 r->disk.path, key);
	}
	return true;
}

static bool connect_cluster(struct rbd *r, const struct options *o, const char *pool, GError **err)
{
	int result = r->ceph.rados_create(&r->cluster, o->id->len ? o->id->str : NULL);

	if (result < 0) {
		r->cluster = NULL;
		return fail(r, result, "cannot be opened", err);
	}
	if (!configure(r, o, err))
		return false;
	result = r->ceph.rados_connect(r->cluster);
	if (result < 0)
		return fail(r, result, "its cluster cannot be reached", err);
	result = r->ceph.rados_ioctx_create(r->cluster, pool, &r->pool);
	return result == 0 || fail(r, result, "its pool cannot be used", err);
}

static bool open_image(struct rbd *r, const char *image, const char *snapshot, GError **err)
{
	bool readonly = r->disk.readonly;
	int result = readonly ? r->ceph.rbd_open_read_only(r->pool, image, &r->image, snapshot) :
				r->ceph.rbd_open(r->pool, image, &r->image, snapshot);

	if (result == 0)
		result = r->ceph.rbd_get_size(r->image, &r->disk.size_bytes);
	return result == 0 || fail(r, result, "cannot be opened", err);
}

static bool open_name(struct rbd *r, const char *name, bool named, GError **err)
{
	g_autoptr(GString) pool = g_string_new(NULL), image = g_string_new(NULL);
	g_autoptr(GString) where = g_string_new(NULL), id = g_string_new(NULL), conf = g_string_new(NULL);
	g_autoptr(GPtrArray) pairs = g_ptr_array_new_with_free_func(g_free);
	struct options o = { id, conf, pairs };
	const char *text = name + strlen("rbd:");
	char *snapshot;
	bool good;

	good = take_word(&text, '/', pool) && pool->len;
	(void)take_word(&text, ':', where);
	good = good && where->len && parse_options(text, &o) && !(named && (conf->len || pairs->len));
	if (!good)
		return base_fail(err, EINVAL, "disk '%s': is not rbd:POOL/IMAGE[@SNAPSHOT][:KEY=VALUE]...%s", name,
				 named ? ", without options where an image names it" : "");
	snapshot = strchr(where->str, '@');
	if (snapshot)
		*snapshot++ = 0;
	g_string_assign(image, where->str);
	if (snapshot && !r->disk.readonly)
		return base_fail(err, EROFS, "disk '%s': a snapshot can only be read; add 'readonly'", name);
	return connect_cluster(r, &o, pool->str, err) && open_image(r, image->str, snapshot, err);
}

struct disk *rbd_disk_open(const char *name, const struct disk_options *o, bool named,
			   struct loop *loop, GError **err)
{
	struct rbd *r = calloc(1, sizeof(*r));

	if (!r) {
		base_fail(err, ENOMEM, "disk '%s': no memory", name);
		return NULL;
	}
	r->disk = (struct disk){ .ops = &rbd_ops, .format = "rbd", .path = g_strdup(name), .block_bytes = 4096,
				 .readonly = o->readonly, .can_discard = !o->readonly };
	r->no_flush = o->cache == DISK_CACHE_UNSAFE;
	r->over_tail = &r->over;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->finished, NULL);
	r->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->event_fd >= 0)
		r->watch = loop_fd_add(loop, r->event_fd, EPOLLIN, on_event, r);
	if (!r->watch)
		base_fail(err, ENOMEM, "disk '%s': cannot be watched", name);
	else if (library_load(library_files, call_names, G_N_ELEMENTS(call_names), &r->ceph, name, err) &&
		 open_name(r, name, named, err))
		return &r->disk;
	rbd_disk_close(&r->disk);
	return NULL;
}
