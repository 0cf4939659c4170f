// SPDX-License-Identifier: Apache-2.0
/* file.c - kernel and initrd files: opened, measured, read straight into guest memory. */
#include "boot/boot_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

bool boot_file_fail(const struct boot_file *file, GError **err, const char *fmt, ...)
{
	g_autofree char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = g_strdup_vprintf(fmt, ap);
	va_end(ap);
	g_set_error(err, BASE_ERROR, EBADMSG, "%s '%s': %s", file->what, file->path, text);
	return false;
}

static bool boot_file_errno(const struct boot_file *file, GError **err, const char *verb, int error)
{
	g_set_error(err, BASE_ERROR, error, "%s '%s': cannot %s: %s", file->what, file->path, verb,
		    g_strerror(error));
	return false;
}

bool boot_file_open(struct boot_file *file, const char *what, const char *path, GError **err)
{
	struct stat st;

	*file = (struct boot_file){ .what = what, .path = path, .fd = -1 };
	/* O_NONBLOCK: a FIFO must be refused below, not waited for. */
	file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file->fd < 0)
		return boot_file_errno(file, err, "open", errno);
	if (fstat(file->fd, &st) < 0)
		return boot_file_errno(file, err, "stat", errno);
	if (S_ISDIR(st.st_mode))
		return boot_file_fail(file, err, "is a directory");
	if (!S_ISREG(st.st_mode))
		return boot_file_fail(file, err, "is not a regular file");
	file->size = (uint64_t)st.st_size;
	if (file->size == 0)
		return boot_file_fail(file, err, "is empty");
	return true;
}

void boot_file_close(struct boot_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	file->fd = -1;
}

bool boot_file_read(const struct boot_file *file, uint64_t offset, void *buf, size_t len,
		    GError **err)
{
	uint8_t *to = buf;

	if (offset > file->size || len > file->size - offset)
		return boot_file_fail(file, err, "is cut short");
	while (len > 0) {
		ssize_t n = pread(file->fd, to, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return boot_file_errno(file, err, "read", errno);
		if (n == 0)
			return boot_file_fail(file, err, "became shorter while it was read");
		to += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return true;
}

bool boot_file_load(const struct boot_file *file, struct mem *mem, uint64_t offset, gpa_t gpa,
		    uint64_t len, GError **err)
{
	void *to = mem_ptr(mem, gpa, len);

	if (!to)
		return boot_file_fail(file, err,
				      "does not fit: it wants %" PRIu64 " bytes at 0x%" PRIx64
				      ", which is not memory of the machine",
				      len, gpa);
	if (!boot_file_read(file, offset, to, len, err))
		return false;
	mem_written(mem, gpa, len);
	return true;
}
