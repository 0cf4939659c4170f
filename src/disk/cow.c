// SPDX-License-Identifier: Apache-2.0
/* cow.c - a qcow2 image over another disk, made when it is needed. */
#include "disk/cow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "disk/disk_int.h"
#include "disk/qcow2/qcow2.h"

#define CLUSTER_BYTES 65536u

struct cow {
	char *base; /* as the layer names it */
	char *folder; /* that may hold what lies below it; NULL: it is no file */
	const char *format;
	uint64_t size_bytes;
};

static bool look_at_base(const char *base, const struct disk_options *o, struct loop *loop,
			 struct cow *cow, GError **err)
{
	g_autofree char *real = disk_is_remote(base) ? NULL : realpath(base, NULL);
	struct disk_options look = *o;
	struct disk *disk;

	look.readonly = true;
	disk = disk_open_options(base, &look, loop, err);
	if (!disk)
		return false;
	cow->format = disk->format; /* static */
	cow->size_bytes = disk->size_bytes;
	disk_close(disk);
	if (real)
		cow->folder = g_path_get_dirname(real);
	cow->base = g_strdup(real ? real : base);
	return true;
}

static bool make(const struct cow *cow, const char *path, struct loop *loop, GError **err)
{
	const struct qcow2_create o = { .size_bytes = cow->size_bytes, .version = 3,
					.cluster_bytes = CLUSTER_BYTES, .refcount_bits = 16,
					.backing = cow->base, .backing_format = cow->format };

	return qcow2_create_file(path, &o, loop, err);
}

/* The layer's name if it is there afterwards, and whether it was made here. */
static bool make_named(const struct cow *cow, const char *layer, struct loop *loop, GError **err)
{
	int fd = open(layer, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	if (fd < 0 && errno == EEXIST)
		return true;
	if (fd < 0)
		return base_fail(err, errno, "disk '%s': cow: cannot create '%s': %s", cow->base, layer,
				 g_strerror(errno));
	close(fd);
	if (make(cow, layer, loop, err))
		return true;
	(void)unlink(layer);
	return false;
}

/* The user's own places, and that of the base. Caller frees the array alone. */
static const char **places(const struct cow *cow, const struct disk_options *o)
{
	unsigned n = 0;
	const char **list;

	while (o->allow && o->allow[n])
		n++;
	list = g_new0(const char *, n + 2);
	for (unsigned i = 0; i < n; i++)
		list[i] = o->allow[i];
	list[n] = cow->folder ? cow->folder : cow->base;
	return list;
}

static bool is_over(struct disk *disk, const struct cow *cow, GError **err)
{
	struct qcow2_info info;
	g_autofree char *below = NULL, *real = NULL;

	qcow2_get_info(disk, &info);
	below = info.backing ? disk_beside(disk->path, info.backing) : NULL;
	real = below && !disk_is_remote(below) ? realpath(below, NULL) : g_strdup(below);
	if (real && !strcmp(real, cow->base))
		return true;
	return base_fail(err, EINVAL, "disk '%s': cow: '%s' is there and lies over %s%s%s", cow->base, disk->path,
			 below ? "'" : "nothing", below ? below : "", below ? "'" : "");
}

static struct disk *open_layer(const struct cow *cow, const char *layer, const struct disk_options *o,
			       struct loop *loop, GError **err)
{
	g_autofree const char **allow = places(cow, o);
	struct disk_options options = *o;

	options.format = "qcow2";
	options.readonly = false;
	options.allow = allow;
	options.given = cow->base;
	return disk_open_options(layer, &options, loop, err);
}

/* Nothing of it outlives the process, and so nothing needs to be durable. */
static struct disk *open_anonymous(const struct cow *cow, const struct disk_options *o,
				   struct loop *loop, GError **err)
{
	struct disk_options options = *o;
	auto_fd int fd = disk_anonymous_file();
	g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
	struct disk *disk;

	if (fd < 0) {
		base_fail(err, errno, "disk '%s': cow: no file in TMPDIR: %s", cow->base, g_strerror(errno));
		return NULL;
	}
	options.cache = DISK_CACHE_UNSAFE;
	disk = make(cow, path, loop, err) ? open_layer(cow, path, &options, loop, err) : NULL;
	if (disk) {
		g_free(disk->path);
		disk->path = g_strdup(cow->base);
	}
	return disk;
}

struct disk *disk_open_cow(const char *base, const char *layer, const struct disk_options *o,
			   struct loop *loop, GError **err)
{
	struct cow cow = { 0 };
	struct disk *disk = NULL;

	if (!look_at_base(base, o, loop, &cow, err))
		return NULL;
	if (!layer)
		disk = open_anonymous(&cow, o, loop, err);
	else if (make_named(&cow, layer, loop, err))
		disk = open_layer(&cow, layer, o, loop, err);
	if (disk && layer && !is_over(disk, &cow, err)) {
		disk_close(disk);
		disk = NULL;
	}
	g_free(cow.base);
	g_free(cow.folder);
	return disk;
}
