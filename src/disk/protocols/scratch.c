// SPDX-License-Identifier: Apache-2.0
/* scratch.c - "scratch:SIZE": a disk of zeros in memory, of which nothing is left when it is closed. It takes memory as it
 * is written to, and gives it back for what is discarded. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/units.h"
#include "disk/protocols/protocols.h"

struct disk *scratch_disk_open(const char *name, const struct disk_options *o, bool named,
			       struct loop *loop, GError **err)
{
	const struct disk_options options = { .cache = DISK_CACHE_UNSAFE, .runner = o->runner };
	g_autoptr(GError) why = NULL;
	g_autofree char *path = NULL;
	auto_fd int fd = -1;
	struct disk *disk;
	uint64_t bytes;

	if (named || !size_parse(name + strlen("scratch:"), 1, &bytes, &why)) {
		base_fail(err, EINVAL, "disk '%s': %s", name, named ? "is of no use below an image" : why->message);
		return NULL;
	}
	bytes = (bytes + DISK_SECTOR_SIZE - 1) & ~(uint64_t)(DISK_SECTOR_SIZE - 1);
	fd = memfd_create("sika-scratch", MFD_CLOEXEC);
	if (fd < 0 || bytes == 0 || ftruncate(fd, (off_t)bytes) < 0) {
		base_fail(err, bytes ? errno : EINVAL, "disk '%s': %s", name,
			  bytes ? g_strerror(errno) : "a disk of no bytes is of no use");
		return NULL;
	}
	path = g_strdup_printf("/proc/self/fd/%d", fd);
	disk = disk_file_open(path, &options, loop, err);
	if (!disk)
		return NULL;
	g_free(disk->path);
	disk->path = g_strdup(name);
	disk->readonly = o->readonly;
	return disk;
}
