// SPDX-License-Identifier: Apache-2.0
/*
 * file.c - the lowest node: a file or block device that is opened, locked, measured and read by
 * io_uring or by threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "disk/disk_int.h"

static bool fail(GError **err, int error, const char *path, const char *what)
{
	g_set_error(err, BASE_ERROR, error, "disk '%s': %s", path, what);
	return false;
}

static bool fail_errno(GError **err, int error, const char *path, const char *what)
{
	g_set_error(err, BASE_ERROR, error, "disk '%s': %s: %s", path, what, g_strerror(error));
	return false;
}

/* O_EXCL on a block device asks the kernel whether the host itself uses it (a mount, RAID...).
 * O_NONBLOCK so that a FIFO does not hang us; it goes once we know that it is none. */
static int open_image(const char *path, bool readonly, bool direct, GError **err)
{
	int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (readonly ? O_RDONLY : O_RDWR) |
		    (direct ? O_DIRECT : 0);
	struct stat st;
	auto_fd int fd = -1;

	if (stat(path, &st) == 0 && S_ISBLK(st.st_mode) && !readonly)
		flags |= O_EXCL;
	fd = open(path, flags);
	if (fd < 0 && errno == EBUSY)
		fail(err, EBUSY, path, "in use by this host (mounted, or part of another device)");
	else if (fd < 0 && (errno == EISDIR || (!stat(path, &st) && S_ISDIR(st.st_mode))))
		fail(err, EISDIR, path, "is a directory");
	else if (fd < 0 && (errno == EROFS || errno == EACCES) && !readonly &&
		 access(path, R_OK) == 0)
		fail(err, errno, path, "cannot be written (add 'readonly' to use it as it is)");
	else if (fd < 0 && errno == EINVAL && direct)
		fail(err, EINVAL, path, "lies where nothing gets past the host's cache (cache=none)");
	else if (fd < 0)
		fail_errno(err, errno, path, "cannot open");
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))) {
		fail(err, EINVAL, path,
		     S_ISDIR(st.st_mode) ? "is a directory" :
					   "is neither a file nor a block device");
		return -1;
	}
	(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	return fd_steal(&fd);
}

static bool lock_image(int fd, const char *path, bool readonly, GError **err)
{
	int r = disk_lock(fd, readonly);
	int pid;

	if (r == 0)
		return true;
	if (r != -EAGAIN) {
		log_warn("disk '%s': cannot be locked (%s): nothing keeps another machine from it",
			 path, g_strerror(-r));
		return true;
	}
	pid = disk_lock_holder(fd);
	if (pid == getpid())
		return fail(err, EBUSY, path, "given twice to this machine");
	if (pid > 0)
		g_set_error(err, BASE_ERROR, EBUSY, "disk '%s': in use by another process (pid %d)",
			    path, pid);
	else
		fail(err, EBUSY, path, "in use by another process");
	return false;
}

static bool measure(int fd, const char *path, struct disk *disk, GError **err)
{
	uint64_t bytes = 0;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return fail_errno(err, errno, path, "cannot be measured");
	if (!S_ISBLK(st.st_mode))
		bytes = (uint64_t)st.st_size;
	else if (ioctl(fd, BLKGETSIZE64, &bytes) < 0)
		return fail_errno(err, errno, path, "cannot be measured");
	disk->size_bytes = bytes;
	disk->growable = !S_ISBLK(st.st_mode);
	disk->block_bytes = st.st_blksize >= 4096 ? 4096 : 512;
	return true;
}

static int start_runner(struct disk_image *image, enum disk_runner runner, struct disk **ret_disk)
{
	int r = -ENOSYS;

	image->zeros = mmap(NULL, DISK_ZEROS_BYTES, PROT_READ,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (image->zeros == MAP_FAILED) {
		image->zeros = NULL;
		return -errno;
	}
	if (runner != DISK_RUNNER_POOL)
		r = disk_uring_new(image, ret_disk);
	if (r < 0 && runner != DISK_RUNNER_URING)
		r = disk_pool_new(image, ret_disk);
	return r;
}

#define DEFAULT_DIRECT_BLOCK 4096u

/* What offsets, lengths and memory must be aligned to past the cache: one number for all three. */
static uint32_t direct_block(int fd, uint32_t at_least)
{
	uint32_t block = DEFAULT_DIRECT_BLOCK;
	struct stat st;
	int sector = 0;

#ifdef STATX_DIOALIGN
	struct statx x;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) == 0 && (x.stx_mask & STATX_DIOALIGN) &&
	    x.stx_dio_offset_align > 0 && x.stx_dio_mem_align > 0)
		block = MAX(x.stx_dio_offset_align, x.stx_dio_mem_align);
	else
#endif
	if (fstat(fd, &st) == 0 && S_ISBLK(st.st_mode) && ioctl(fd, BLKSSZGET, &sector) == 0 &&
	    sector > 0)
		block = (uint32_t)sector;
	return MAX(MAX(block, DISK_SECTOR_SIZE), at_least);
}

struct disk *disk_file_open(const char *path, const struct disk_options *o, struct loop *loop,
			    GError **err)
{
	struct disk_image image = {
		.loop = loop,
		.disk = { .format = "file", .readonly = o->readonly, .can_discard = !o->readonly },
	};
	bool past_cache = o->cache == DISK_CACHE_NONE || o->cache == DISK_CACHE_DIRECTSYNC;
	struct disk *disk = NULL, *direct = NULL;
	int r;

	image.no_flush = o->cache == DISK_CACHE_UNSAFE;
	image.fd = open_image(path, o->readonly, past_cache, err);
	if (image.fd < 0)
		return NULL;
	image.direct = past_cache ? direct_block(image.fd, o->direct_block) : 0;
	if ((!o->unlocked && !lock_image(image.fd, path, o->readonly, err)) ||
	    !measure(image.fd, path, &image.disk, err))
		goto out;
	image.disk.path = g_strdup(path);
	r = start_runner(&image, o->runner, &disk);
	if (r < 0)
		fail_errno(err, -r, path, "cannot start I/O");
out:
	if (!disk)
		disk_image_fini(&image);
	if (!disk || !image.direct)
		return disk;
	direct = disk_direct_new(disk);
	if (!direct) {
		fail_errno(err, ENOMEM, path, "cannot start I/O");
		disk_close(disk);
	}
	return direct;
}

void disk_image_fini(struct disk_image *image)
{
	if (image->fd >= 0)
		close(image->fd);
	if (image->zeros)
		munmap((void *)image->zeros, DISK_ZEROS_BYTES);
	g_free(image->disk.path);
}

int disk_file_allocate(struct disk *disk, uint64_t offset, uint64_t len)
{
	struct disk_image *image = (struct disk_image *)disk_direct_below(disk);

	if (strcmp(disk->format, "file"))
		return -EOPNOTSUPP;
	return fallocate(image->fd, 0, (off_t)offset, (off_t)len) == 0 ? 0 : -errno;
}

int disk_anonymous_file(void)
{
	const char *folder = g_getenv("TMPDIR");
	g_autofree char *name = NULL;
	int fd;

	folder = folder ? folder : "/var/tmp";
	fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		return fd;
	name = g_build_filename(folder, "sika-XXXXXX", NULL);
	fd = mkostemp(name, O_CLOEXEC);
	if (fd >= 0)
		(void)unlink(name);
	return fd;
}
