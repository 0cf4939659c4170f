// SPDX-License-Identifier: Apache-2.0
/*
 * rbd_open.c - finding an image of a Ceph cluster, and leaving it.
 *
 * Names are QEMU's: rbd:POOL/IMAGE[@SNAPSHOT][:KEY=VALUE]..., of which "id" is the user, "conf" a file, and
 * the others are options of the cluster; a backslash takes the meaning from the character behind it.
 *
 * librbd opens and closes while its caller waits, and where the cluster does not answer, without end. A thread does it;
 * who has waited for long enough leaves all to that thread.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/protocols/rbd_int.h"

static const char *const call_names[] = { RBD_CALLS(LIBRARY_NAME) };
static const char *const library_files[] = { "librbd.so.1", NULL }; /* brings librados along */

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

static bool parse_options(const char *text, struct rbd_name *ret)
{
	g_autoptr(GString) key = g_string_new(NULL), value = g_string_new(NULL);

	while (*text) {
		if (!take_word(&text, '=', key) || !key->len)
			return false;
		(void)take_word(&text, ':', value);
		if (!strcmp(key->str, "id") || !strcmp(key->str, "conf")) {
			char **to = key->str[0] == 'i' ? &ret->id : &ret->conf;

			g_free(*to);
			*to = g_strdup(value->str);
		} else {
			g_ptr_array_add(ret->pairs, g_strdup(key->str));
			g_ptr_array_add(ret->pairs, g_strdup(value->str));
		}
	}
	return true;
}

static bool parse_name(struct rbd *r, const char *name, bool named, GError **err)
{
	g_autoptr(GString) pool = g_string_new(NULL), image = g_string_new(NULL);
	const char *text = name + strlen("rbd:");
	struct rbd_name *n = &r->name;
	char *at;
	bool good;

	n->pairs = g_ptr_array_new_with_free_func(g_free);
	good = take_word(&text, '/', pool) && pool->len;
	(void)take_word(&text, ':', image);
	good = good && image->len && parse_options(text, n) && !(named && (n->conf || n->pairs->len));
	if (!good)
		return base_fail(err, EINVAL, "disk '%s': is not rbd:POOL/IMAGE[@SNAPSHOT][:KEY=VALUE]...%s", name,
				 named ? ", without options where an image names it" : "");
	at = strchr(image->str, '@');
	if (at) {
		*at = 0;
		n->snapshot = g_strdup(at + 1);
	}
	n->pool = g_strdup(pool->str);
	n->image = g_strdup(image->str);
	if (n->snapshot && !r->disk.readonly)
		return base_fail(err, EROFS, "disk '%s': a snapshot can only be read; add 'readonly'", name);
	return true;
}

/* ---- in a thread of their own ---- */

static bool fail(struct rbd *r, int result, const char *what)
{
	return base_fail(&r->why, -result, "disk '%s': %s: %s", r->disk.path, what, g_strerror(-result));
}

/* Is there anything to find the cluster by? The library would say at length that there is not. */
static bool is_configured(const struct rbd_name *n)
{
	for (guint i = 0; i + 1 < n->pairs->len; i += 2)
		if (!strcmp(g_ptr_array_index(n->pairs, i), "mon_host"))
			return true;
	return n->conf || g_getenv("CEPH_CONF") || access("/etc/ceph/ceph.conf", R_OK) == 0;
}

/* An unreachable cluster is given up, and says nothing beside what we say. The user's configuration comes later. */
static bool configure(struct rbd *r)
{
	static const char *const ours[][2] = {
		{ "client_mount_timeout", "30" }, { "rados_mon_op_timeout", "30" },
		{ "log_to_stderr", "false" },	  { "err_to_stderr", "false" },
		{ "log_file", "/dev/null" },
	};
	const struct rbd_name *n = &r->name;
	int result;

	if (!is_configured(n))
		return base_fail(&r->why, ENOENT, "disk '%s': there is no /etc/ceph/ceph.conf, and neither 'conf' nor "
						  "'mon_host' is given", r->disk.path);
	for (size_t i = 0; i < G_N_ELEMENTS(ours); i++)
		(void)r->ceph.rados_conf_set(r->cluster, ours[i][0], ours[i][1]);
	/* Also where there is none: it makes the above hold. */
	result = r->ceph.rados_conf_read_file(r->cluster, n->conf);
	if (result < 0 && n->conf)
		return fail(r, result, "its configuration cannot be read");
	for (guint i = 0; i + 1 < n->pairs->len; i += 2) {
		const char *key = g_ptr_array_index(n->pairs, i), *value = g_ptr_array_index(n->pairs, i + 1);

		if (r->ceph.rados_conf_set(r->cluster, key, value) < 0)
			return base_fail(&r->why, EINVAL,
					 "disk '%s': the cluster has no option '%s', or not with that value",
					 r->disk.path, key);
	}
	return true;
}

static bool connect_cluster(struct rbd *r)
{
	int result = r->ceph.rados_create(&r->cluster, r->name.id);

	if (result < 0) {
		r->cluster = NULL;
		return fail(r, result, "cannot be opened");
	}
	if (!configure(r))
		return false;
	result = r->ceph.rados_connect(r->cluster);
	if (result < 0)
		return fail(r, result, "its cluster cannot be reached");
	result = r->ceph.rados_ioctx_create(r->cluster, r->name.pool, &r->pool);
	return result == 0 || fail(r, result, "its pool cannot be used");
}

static void open_all(struct rbd *r)
{
	const struct rbd_name *n = &r->name;
	int result;

	if (!connect_cluster(r))
		return;
	result = r->disk.readonly ? r->ceph.rbd_open_read_only(r->pool, n->image, &r->image, n->snapshot) :
				    r->ceph.rbd_open(r->pool, n->image, &r->image, n->snapshot);
	if (result < 0)
		r->image = NULL;
	else
		result = r->ceph.rbd_get_size(r->image, &r->disk.size_bytes);
	if (result < 0)
		(void)fail(r, result, "cannot be opened");
}

static void close_all(struct rbd *r)
{
	pthread_mutex_lock(&r->lock);
	while (r->left > 0)
		rbd_wait(r, SILENCE_FOREVER);
	pthread_mutex_unlock(&r->lock);
	if (r->image)
		(void)r->ceph.rbd_close(r->image);
	if (r->pool)
		r->ceph.rados_ioctx_destroy(r->pool);
	if (r->cluster)
		r->ceph.rados_shutdown(r->cluster);
	r->image = NULL;
	r->pool = NULL;
	r->cluster = NULL;
}

static void rbd_free(struct rbd *r)
{
	if (r->event_fd >= 0)
		close(r->event_fd);
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	g_clear_error(&r->why);
	g_free(r->name.pool);
	g_free(r->name.image);
	g_free(r->name.snapshot);
	g_free(r->name.id);
	g_free(r->name.conf);
	if (r->name.pairs)
		g_ptr_array_unref(r->name.pairs);
	g_free(r->disk.path);
	free(r);
}

/* ---- and who waits for it ---- */

struct errand {
	struct rbd *r;
	void (*run)(struct rbd *r);
};

static void *errand_main(void *arg)
{
	struct errand *e = arg;
	struct rbd *r = e->r;
	bool left;

	e->run(r);
	g_free(e);
	pthread_mutex_lock(&r->lock);
	r->errand_over = true;
	left = r->errand_left;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	if (left) {
		close_all(r);
		rbd_free(r);
	}
	return NULL;
}

/* False: it takes too long, and all of @r belongs to the thread from now on. */
static bool run_errand(struct rbd *r, void (*run)(struct rbd *r))
{
	struct errand *e = g_new(struct errand, 1);
	uint64_t begin_ns = loop_now_ns();
	sigset_t all, old;
	GThread *thread;
	bool over;
	int ms;

	*e = (struct errand){ r, run };
	r->errand_over = false;
	silence_asked(&r->silence);
	/* Signals are for those who wait for them, and none of the many threads that the library starts does. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	thread = g_thread_try_new("rbd", errand_main, e, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!thread) {
		g_free(e);
		run(r); /* for want of a better way */
		return true;
	}
	pthread_mutex_lock(&r->lock);
	while (!r->errand_over && (ms = silence_wait_ms(&r->silence, &r->disk, begin_ns)) != 0)
		rbd_wait(r, ms);
	over = r->errand_over;
	r->errand_left = !over;
	pthread_mutex_unlock(&r->lock);
	if (over)
		(void)g_thread_join(thread);
	else
		g_thread_unref(thread);
	return over;
}

static void leave_loop(struct rbd *r)
{
	loop_fd_remove(r->watch);
	r->watch = NULL;
}

void rbd_disk_close(struct disk *disk)
{
	struct rbd *r = (struct rbd *)disk;
	g_autofree char *path = g_strdup(disk->path);

	leave_loop(r);
	/* Where operations were left it has been waited for already. */
	if (run_errand(r, close_all))
		rbd_free(r);
	else
		log_info("disk '%s': its cluster does not answer, and is left without a word", path);
}

static bool open_it(struct rbd *r, GError **err)
{
	g_autofree char *path = g_strdup(r->disk.path);

	if (!run_errand(r, open_all)) {
		base_fail(err, ETIMEDOUT, "disk '%s': its cluster does not answer", path);
		return false;
	}
	if (!r->why)
		return true;
	g_propagate_error(err, g_steal_pointer(&r->why));
	leave_loop(r);
	close_all(r);
	rbd_free(r);
	return false;
}

static void init_locks(struct rbd *r)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&r->changed, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&r->lock, NULL);
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
	r->silence.patience = o->patience;
	r->over_tail = &r->over;
	init_locks(r);
	r->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!parse_name(r, name, named, err) ||
	    !library_load(library_files, call_names, G_N_ELEMENTS(call_names), &r->ceph, name, err)) {
		rbd_free(r);
		return NULL;
	}
	if (!open_it(r, err))
		return NULL;
	if (r->event_fd >= 0)
		r->watch = loop_fd_add(loop, r->event_fd, EPOLLIN, rbd_on_event, r);
	if (r->watch)
		return &r->disk;
	base_fail(err, ENOMEM, "disk '%s': cannot be watched", name);
	rbd_disk_close(&r->disk);
	return NULL;
}
