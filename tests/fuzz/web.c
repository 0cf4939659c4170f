// SPDX-License-Identifier: Apache-2.0
/*
 * web.c - fuzz target: the head of a web server's answer, and a file of copies that somebody has changed.
 *
 * A range that is understood makes sense; and whatever a file of copies holds, the disk reads as it is.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../disk/memdisk.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/filters/filters.h"
#include "disk/protocols/http_answer.h"
#include "input.h"

#define DISK_BYTES (5u * 65536 + 512)
#define STORE_HEAD 4096u
#define STORE_DATA 65536u

static void heads(struct input *in)
{
	struct http_answer a = { 0 };
	char line[128];

	while (!input_is_empty(in)) {
		static const char *const starts[] = { "", "HTTP/1.1 206 ", "Content-Range: bytes ", "content-range:",
						      "ETag: ", "Last-Modified: ", "HTTP/2 ", "Content-Range: bytes 0-" };
		size_t n = 0;

		n = g_strlcpy(line, starts[input_byte(in) % G_N_ELEMENTS(starts)], sizeof(line));
		while (n < sizeof(line) && !input_is_empty(in)) {
			uint8_t byte = input_byte(in);

			line[n++] = byte < 128 ? "0123456789-/*:"[byte % 14] : (char)byte;
			if (byte == 200)
				break;
		}
		http_answer_line(&a, line, n);
		if (a.has_range && (a.first > a.last || a.last >= a.total))
			__builtin_trap();
		if (strlen(a.etag) >= HTTP_MAX_TAG || strlen(a.modified) >= HTTP_MAX_TAG)
			__builtin_trap();
	}
}

/* What the disk holds, made once. */
static const uint8_t *content(void)
{
	static uint8_t bytes[DISK_BYTES];
	static bool made;

	for (unsigned i = 0; i < DISK_BYTES && !made; i++)
		bytes[i] = (uint8_t)(i / 512 * 7 + i);
	made = true;
	return bytes;
}

static struct disk *open_disk(const char *store, struct loop *loop)
{
	const struct disk_options o = { .readonly = true, .cache_file = store, .cache_bytes = 1,
					.runner = DISK_RUNNER_POOL };
	struct memdisk *m = memdisk_new(DISK_BYTES, 1);

	m->disk.size_bytes = DISK_BYTES;
	m->disk.readonly = true;
	memcpy(m->bytes, content(), DISK_BYTES);
	return disk_copies_open_take(&m->disk, "one", &o, loop, NULL);
}

static void read_all(struct disk *disk)
{
	static uint8_t bytes[DISK_BYTES];

	memset(bytes, 0xa5, sizeof(bytes));
	if (disk_read_wait(disk, bytes, DISK_BYTES, 0) < 0)
		__builtin_trap();
	if (memcmp(bytes, content(), DISK_BYTES))
		__builtin_trap();
}

static void spoil(int fd, struct input *in)
{
	while (!input_is_empty(in)) {
		uint8_t where = input_byte(in);
		uint64_t at = where < 32  ? input_take(in, 1) :
			      where < 128 ? STORE_HEAD + input_take(in, 1) % 64 :
					    STORE_DATA + input_take(in, 3) % DISK_BYTES;
		uint8_t bytes[4] = { input_byte(in), 1 };

		if (where == 255)
			(void)!ftruncate(fd, (off_t)at);
		else
			(void)!pwrite(fd, bytes, 1u + (where & 3u), (off_t)at);
	}
}

static void copies(struct input *in)
{
	struct loop *loop = loop_new();
	int fd = memfd_create("store", MFD_CLOEXEC);
	g_autofree char *store = g_strdup_printf("/proc/self/fd/%d", fd);
	struct disk *disk;

	if (fd < 0 || !loop || !(disk = open_disk(store, loop)))
		__builtin_trap();
	read_all(disk);
	disk_close(disk);
	spoil(fd, in);
	/* Where its mark is gone it is somebody else's. */
	disk = open_disk(store, loop);
	if (disk) {
		read_all(disk);
		read_all(disk);
		disk_close(disk);
	}
	close(fd);
	loop_free(loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct input in = { bytes, size }, few = { bytes, MIN(size, 64) };

	log_set_level(LOG_LEVEL_ERROR);
	heads(&in);
	/* Files take their time, and little is done to one by an input of few bytes. */
	if (size % 16 == 9)
		copies(&few);
	return 0;
}
