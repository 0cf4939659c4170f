// SPDX-License-Identifier: Apache-2.0
/* disk.c - the graph: choosing the format of an image, and the checks before a request runs. */
#include "disk/disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/log.h"
#include "disk/disk_int.h"
#include "disk/filters/filters.h"
#include "disk/formats/formats.h"
#include "disk/protocols/protocols.h"
#include "disk/qcow2/qcow2_int.h"

static bool refuse_format(const struct disk *file, const char *what, const char *hint, GError **err)
{
	g_autofree char *names = disk_form_names();

	g_set_error(err, BASE_ERROR, ENOTSUP, "disk '%s': %s; supported are %s%s", file->path, what,
		    names, hint);
	return false;
}

/* Formats with their mark at the end alone are not taken for what they look like: behind a raw disk's
 * data anything may lie that a guest wrote. */
static void tell_tail(struct disk *file)
{
	static const char *const tails[][3] = { { "conectix", "fixed VHD", "vhd" },
						{ "koly", "DMG", "dmg" } };
	uint8_t tail[DISK_PROBE_BYTES];

	if (file->size_bytes <= sizeof(tail) ||
	    disk_read_wait(file, tail, sizeof(tail), file->size_bytes - sizeof(tail)) < 0)
		return;
	for (size_t i = 0; i < G_N_ELEMENTS(tails); i++)
		if (!memcmp(tail, tails[i][0], strlen(tails[i][0])))
			log_warn("disk '%s': ends like a %s image, and is taken as raw (format=%s takes it "
				 "as that)",
				 file->path, tails[i][1], tails[i][2]);
}

/* What to take the file as. False: neither told nor found to be a format that we have. */
static bool choose_format(struct disk *file, const char *told, const char **ret_format,
			  GError **err)
{
	g_autofree char *what = NULL;
	uint8_t head[DISK_PROBE_BYTES];
	int r;

	*ret_format = told;
	if (told && disk_form_is_known(told))
		return true;
	if (told) {
		what = g_strdup_printf("format '%s' is not supported", told);
		return refuse_format(file, what, "", err);
	}
	r = disk_read_wait(file, head, sizeof(head), 0);
	if (r < 0) {
		g_set_error(err, BASE_ERROR, -r, "disk '%s': cannot be read: %s", file->path,
			    g_strerror(-r));
		return false;
	}
	*ret_format = disk_probe(head, sizeof(head));
	if (!*ret_format) {
		*ret_format = "raw";
		tell_tail(file);
		return true;
	}
	if (disk_form_is_known(*ret_format)) {
		log_info("disk '%s': taken for a %s image by its content", file->path, *ret_format);
		return true;
	}
	what = g_strdup_printf("is a %s image", *ret_format);
	return refuse_format(file, what, " (format=raw takes it as it is)", err);
}

static struct disk *open_format(struct disk *file, const struct disk_options *o, struct loop *loop,
				const struct disk_chain *chain, GError **err)
{
	const struct disk_form *form;
	const char *format;

	if (!choose_format(file, o->format, &format, err)) {
		disk_close(file);
		return NULL;
	}
	form = disk_form_find(format);
	if (form)
		return form->open_take(file, o, loop, chain, err);
	if (!strcmp(format, "qcow2"))
		return qcow2_open_take(file, o, loop, chain, err);
	return disk_raw_open_take(file, o->format == NULL, err);
}

bool disk_cache_parse(const char *name, enum disk_cache *ret)
{
	static const char *const names[] = {
		[DISK_CACHE_WRITEBACK] = "writeback",	    [DISK_CACHE_NONE] = "none",
		[DISK_CACHE_WRITETHROUGH] = "writethrough", [DISK_CACHE_DIRECTSYNC] = "directsync",
		[DISK_CACHE_UNSAFE] = "unsafe",
	};

	for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
		if (strcmp(name, names[i]))
			continue;
		*ret = (enum disk_cache)i;
		return true;
	}
	return false;
}

/* The lowest node. */
static struct disk *open_below(const char *name, const struct disk_options *o, bool named,
			       struct loop *loop, GError **err)
{
	const struct disk_protocol *protocol = disk_protocol_find(name);
	struct disk *disk = protocol ? protocol->open(name, o, named, loop, err) :
				       disk_file_open(name, o, loop, err);

	if (!disk || !protocol || !protocol->far || !o->cache_file)
		return disk;
	if (o->readonly)
		return disk_copies_open_take(disk, "", o, loop, err);
	disk_close(disk);
	base_fail(err, EINVAL, "disk '%s': copies are kept of disks that are only read; add 'readonly' or 'cow', or "
			       "leave cache-file away", name);
	return NULL;
}

struct disk *disk_open_options(const char *path, const struct disk_options *o, struct loop *loop,
			       GError **err)
{
	const struct disk_protocol *protocol = disk_protocol_find(path);
	struct disk *file = open_below(path, o, false, loop, err);
	struct disk_options options = *o;
	g_autofree char *real = file && !disk_is_remote(path) ? realpath(path, NULL) : NULL;
	g_autofree char *home = real ? g_path_get_dirname(real) : NULL;
	struct disk_chain chain = { .home = home };
	struct disk *disk;
	struct stat st;

	if (!file)
		return NULL;
	if (real && stat(real, &st) == 0) {
		chain.device = st.st_dev;
		chain.inode = st.st_ino;
	}
	if (!o->format && protocol)
		options.format = protocol->format;
	disk = open_format(file, &options, loop, &chain, err);
	if (disk)
		disk->writethrough = o->cache == DISK_CACHE_WRITETHROUGH ||
				     o->cache == DISK_CACHE_DIRECTSYNC;
	return disk;
}

static bool is_inside(const char *path, const char *folder)
{
	size_t n = strlen(folder);

	while (n > 0 && folder[n - 1] == '/')
		n--;
	return strncmp(path, folder, n) == 0 && path[n] == '/';
}

/* A remote name is allowed as it is, or by what it begins with up to a "/"; not what leads elsewhere
 * from there. */
static bool is_remote_allowed(const char *name, const struct disk_options *o)
{
	for (const char *const *entry = o->allow; entry && *entry; entry++) {
		size_t n = strlen(*entry);

		if (!strcmp(name, *entry))
			return true;
		if (disk_is_remote(*entry) && g_str_has_suffix(*entry, "/") &&
		    g_str_has_prefix(name, *entry) && !strpbrk(name + n, "?#%\\@") &&
		    !strstr(name + n, ".."))
			return true;
	}
	return false;
}

static bool is_allowed(const char *real, const struct disk_options *o, const struct disk_chain *chain)
{
	if (chain->home && is_inside(real, chain->home))
		return true;
	for (const char *const *folder = o->allow; folder && *folder; folder++) {
		g_autofree char *allowed = realpath(*folder, NULL);

		if (allowed && is_inside(real, allowed))
			return true;
	}
	return false;
}

/* "nbd://...", "json:...": what QEMU takes for something else than a file. */
static bool is_protocol(const char *name)
{
	size_t n = strcspn(name, ":/");

	return name[n] == ':';
}

struct named {
	const char *image, *name, *what;
};

static bool name_fail(GError **err, int error, const struct named *n, const char *why)
{
	g_set_error(err, BASE_ERROR, error, "disk '%s': its %s '%s' %s", n->image, n->what, n->name,
		    why);
	return false;
}

char *disk_beside(const char *image, const char *name)
{
	g_autofree char *folder = g_path_get_dirname(image);

	return g_path_is_absolute(name) || disk_is_remote(name) ? g_strdup(name) :
								  g_build_filename(folder, name, NULL);
}

static bool find_remote(const struct named *n, const struct disk_options *o,
			const struct disk_chain *chain, struct disk_chain *ret_link, GError **err)
{
	if (!is_remote_allowed(n->name, o))
		return name_fail(err, EACCES, n, "is not in this host's files; allow that name to use it");
	if (chain->depth >= DISK_MAX_CHAIN)
		return name_fail(err, ELOOP, n, "is one too many in a chain");
	*ret_link = (struct disk_chain){ .above = chain, .depth = chain->depth + 1,
					 .home = chain->home };
	return true;
}

/* Where the name leads, if it may lead there. */
static bool find_named(const struct named *n, const struct disk_options *o,
		       const struct disk_chain *chain, struct disk_chain *ret_link, char **ret_path,
		       GError **err)
{
	g_autofree char *path = disk_beside(n->image, n->name);
	g_autofree char *real = NULL;
	struct stat st;

	if (disk_is_remote(n->name)) {
		*ret_path = g_strdup(n->name);
		return find_remote(n, o, chain, ret_link, err);
	}
	if (is_protocol(n->name))
		return name_fail(err, ENOTSUP, n, "is no file, which is not supported");
	if (disk_is_remote(n->image) && !g_path_is_absolute(n->name))
		return name_fail(err, ENOTSUP, n, "is to lie beside it, where there are no files");
	real = realpath(path, NULL);
	if (!real || stat(real, &st) < 0)
		return name_fail(err, errno, n,
				 errno == ENOENT ? "does not exist" : "cannot be reached");
	if (!is_allowed(real, o, chain))
		return name_fail(err, EACCES, n,
				 "lies outside of the image's folder; name its folder to allow it");
	if (chain->depth >= DISK_MAX_CHAIN)
		return name_fail(err, ELOOP, n, "is one too many in a chain");
	for (const struct disk_chain *c = chain; c; c = c->above)
		if (c->device == st.st_dev && c->inode == st.st_ino)
			return name_fail(err, ELOOP, n, "leads back to itself");
	*ret_link = (struct disk_chain){ .above = chain, .depth = chain->depth + 1,
					 .device = st.st_dev, .inode = st.st_ino,
					 .home = chain->home };
	*ret_path = g_steal_pointer(&real);
	return true;
}

struct disk *disk_open_named(const char *image, const char *name, const char *what,
			     const char *format, const struct disk_options *o, struct loop *loop,
			     const struct disk_chain *chain, GError **err)
{
	const struct named n = { image, name, what };
	struct disk_options options = *o;
	g_autofree char *path = NULL;
	struct disk_chain link;
	struct disk *file;

	if (!find_named(&n, o, chain, &link, &path, err))
		return NULL;
	file = open_below(path, o, !o->given || strcmp(path, o->given), loop, err);
	if (!file || (format && !strcmp(format, "file")))
		return file;
	options.format = format;
	return open_format(file, &options, loop, &link, err);
}

struct disk *disk_open(const char *path, const char *format, bool readonly, struct loop *loop,
		       GError **err)
{
	const struct disk_options o = { .format = format, .readonly = readonly };

	return disk_open_options(path, &o, loop, err);
}

void disk_close(struct disk *disk)
{
	if (!disk)
		return;
	disk_drain(disk);
	disk->ops->close(disk);
}

void disk_over_init(struct disk *disk, const struct disk_ops *ops, struct disk *below)
{
	*disk = *below;
	disk->ops = ops;
	disk->path = g_strdup(below->path);
	disk->below = below;
}

void disk_over_fini(struct disk *disk)
{
	disk_close(disk->below);
	g_free(disk->path);
}

static bool is_change(enum disk_op op)
{
	return op == DISK_WRITE || op == DISK_DISCARD || op == DISK_WRITE_ZEROES ||
	       op == DISK_RESIZE;
}

static int check(const struct disk *disk, const struct disk_req *req)
{
	/* What a file offset can say. */
	uint64_t end = disk->growable ? (uint64_t)INT64_MAX : disk->size_bytes;

	if (is_change(req->op) && disk->readonly)
		return -EROFS;
	if (req->op == DISK_FLUSH)
		return 0;
	if (req->op == DISK_RESIZE)
		return req->offset > INT64_MAX ? -EINVAL : 0;
	if (req->len == 0 || req->offset > end || req->len > end - req->offset)
		return -EINVAL;
	if ((req->op == DISK_READ || req->op == DISK_WRITE) &&
	    (req->iov_count == 0 || req->iov_count > DISK_MAX_IOV))
		return -EINVAL;
	return 0;
}

static void start(struct disk *disk, struct disk_req *req)
{
	req->progress = 0;
	req->result = 0;
	req->by_hand = false;
	disk->ops->submit(disk, req);
}

static void through_flushed(struct disk_req *req, int result)
{
	req->op = req->through_op;
	req->done = req->through_done;
	req->done(req, result);
}

static void through_changed(struct disk_req *req, int result)
{
	struct disk *disk = req->through;

	if (result < 0) {
		through_flushed(req, result);
		return;
	}
	req->op = DISK_FLUSH;
	req->done = through_flushed;
	start(disk, req);
	disk_kick(disk);
}

void disk_submit(struct disk *disk, struct disk_req *req)
{
	int r = check(disk, req);

	if (r < 0) {
		req->done(req, r);
		return;
	}
	if (disk->writethrough && is_change(req->op)) {
		req->through = disk;
		req->through_op = req->op;
		req->through_done = req->done;
		req->done = through_changed;
	}
	start(disk, req);
}

void disk_kick(struct disk *disk)
{
	while (!disk->ops->kick && disk->below)
		disk = disk->below;
	if (disk->ops->kick)
		disk->ops->kick(disk);
}

void disk_drain(struct disk *disk)
{
	while (!disk->ops->drain)
		disk = disk->below;
	disk->ops->drain(disk);
}

static void waited_done(struct disk_req *req, int result)
{
	req->result = result;
	req->next = req; /* the mark that it is over */
}

int disk_run(struct disk *disk, struct disk_req *req)
{
	req->done = waited_done;
	req->next = NULL;
	disk_submit(disk, req);
	disk_kick(disk);
	if (req->next != req)
		disk_drain(disk);
	return req->next == req ? req->result : -EIO; /* else the way to the kernel is broken */
}

static int run_data(struct disk *disk, enum disk_op op, void *buf, uint64_t len, uint64_t offset)
{
	struct iovec iov = { buf, len };
	struct disk_req req = {
		.op = op, .offset = offset, .len = len, .iov = &iov, .iov_count = 1
	};

	return disk_run(disk, &req);
}

int disk_read_wait(struct disk *disk, void *buf, uint64_t len, uint64_t offset)
{
	return run_data(disk, DISK_READ, buf, len, offset);
}

int disk_write_wait(struct disk *disk, const void *buf, uint64_t len, uint64_t offset)
{
	return run_data(disk, DISK_WRITE, (void *)buf, len, offset);
}

int disk_flush_wait(struct disk *disk)
{
	struct disk_req req = { .op = DISK_FLUSH };

	return disk_run(disk, &req);
}
