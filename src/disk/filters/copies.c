// SPDX-License-Identifier: Apache-2.0
/*
 * copies.c - copy on read: what was read once from far away is read from a file of this host.
 *
 * Theory of operation. The disk is cut into chunks. A read of one that is not kept fetches it whole, with
 * more behind it where reads go on in order, and writes it to the store, a sparse file:
 *
 *	4096 bytes	what it is the copy of: name, size, the server's mark of that version
 *	8 for each chunk	CRC-32 of its bytes, and 1: it is kept
 *	the chunks, each at its own place
 *
 * Nothing is flushed and there is no order of writes: when the store is opened again, a chunk is believed once its
 * sum is right. So neither a kill, a power cut nor a full disk can make a wrong byte of it. When more would be
 * kept than allowed, chunks that nobody has asked for lately are given up, round and round.
 *
 * Fibers. Each read runs in one, and holds the range of chunks that it is at: to fetch and to give up
 * alone, to read from the store together with others.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "disk/filters/filters.h"
#include "disk/ranges.h"
#include "disk/segments.h"
#include "disk/serving.h"

#define MAGIC	      "SIKACOPY"
#define VERSION	      1u
#define HEAD_BYTES    4096u
#define MAX_NAMES     (HEAD_BYTES - 64u) /* of what it is the copy of */
#define ENTRY_BYTES   8u
#define MIN_SHIFT     16u
#define MAX_SHIFT     22u
#define MAX_CHUNKS    (1ull << 20)
#define RUN_BYTES     (1u << 20) /* fetched at once */
#define DEFAULT_BYTES (1ull << 30)
#define SAMPLES	      8u /* chunks that are compared where nobody tells versions */

#define KEPT	1u
#define CHECKED 2u /* its sum, or it is of our own writing */
#define USED	4u /* since the hand came by */

struct copies {
	struct disk disk;
	struct disk *store; /* owned */
	unsigned shift;		   /* a chunk has 1 << shift bytes */
	uint64_t count;
	uint64_t run_max; /* chunks */
	uint64_t kept, limit;
	uint64_t hand;
	uint64_t data_at;
	uint64_t expected; /* the chunk behind the last one fetched */
	uint64_t ahead;	   /* chunks to fetch when it is asked for */
	uint8_t *state;
	uint32_t *sums;
	bool broken; /* the store: nothing is kept any more */
	struct serving serving;
	struct range *ranges;
};

static bool is_kept(const struct copies *c, uint64_t chunk)
{
	return !c->broken && (c->state[chunk] & KEPT);
}

static uint64_t chunk_len(const struct copies *c, uint64_t first, uint64_t last)
{
	uint64_t at = first << c->shift, end = (last + 1) << c->shift;

	return MIN(end, c->disk.size_bytes) - at;
}

static uint32_t sum_of(const uint8_t *bytes, uint64_t len)
{
	return (uint32_t)crc32_z(0, bytes, len);
}

static void give_up_store(struct copies *c, int r)
{
	if (!c->broken)
		log_info("disk '%s': its local copy is of no more use: %s", c->disk.path, g_strerror(-r));
	c->broken = true;
}

/* What the table in the file says of these chunks is what we know. */
static void write_entries(struct copies *c, uint64_t first, uint64_t last)
{
	uint64_t len = (last - first + 1) * ENTRY_BYTES;
	g_autofree uint8_t *bytes = g_malloc0(len);
	int r;

	for (uint64_t i = first; i <= last; i++) {
		store_le32(bytes + (i - first) * ENTRY_BYTES, c->sums[i]);
		store_le32(bytes + (i - first) * ENTRY_BYTES + 4, c->state[i] & KEPT);
	}
	r = serving_io(&c->serving, c->store, DISK_WRITE, bytes, len, HEAD_BYTES + first * ENTRY_BYTES);
	if (r < 0)
		give_up_store(c, r);
}

static bool is_busy(const struct copies *c, uint64_t chunk)
{
	for (const struct range *r = c->ranges; r; r = r->next)
		if (r->first <= chunk && chunk <= r->last)
			return true;
	return false;
}

/* The next chunk that nobody has used since the last round; false: all are busy. */
static bool find_victim(struct copies *c, uint64_t *ret)
{
	for (uint64_t steps = 0; steps < 2 * c->count; steps++) {
		uint64_t i = c->hand;

		c->hand = (i + 1) % c->count;
		if (!(c->state[i] & KEPT) || is_busy(c, i))
			continue;
		if (!(c->state[i] & USED)) {
			*ret = i;
			return true;
		}
		c->state[i] &= (uint8_t)~USED;
	}
	return false;
}

/* They count from now on. */
static bool make_room(struct copies *c, uint64_t chunks)
{
	uint64_t victim;

	while (c->kept + chunks > c->limit) {
		struct range range = { .alone = true };
		struct disk_req hole = { .op = DISK_DISCARD, .len = 1ull << c->shift };

		if (!find_victim(c, &victim))
			return false;
		range.first = range.last = victim;
		range_enter(&c->serving.fibers, &c->ranges, &range); /* nobody is there: no wait */
		c->state[victim] = 0;
		c->kept--;
		write_entries(c, victim, victim);
		hole.offset = c->data_at + (victim << c->shift);
		(void)serving_run(&c->serving, c->store, &hole); /* a hint */
		range_leave(&c->ranges, &range);
	}
	c->kept += chunks;
	return !c->broken;
}

/* None of them is kept, and they are ours alone. */
static void keep(struct copies *c, uint64_t first, uint64_t last, uint8_t *bytes)
{
	uint64_t len = chunk_len(c, first, last);
	int r;

	if (c->broken || !make_room(c, last - first + 1))
		return;
	r = serving_io(&c->serving, c->store, DISK_WRITE, bytes, len, c->data_at + (first << c->shift));
	if (r < 0) {
		give_up_store(c, r);
		return;
	}
	for (uint64_t i = first; i <= last; i++) {
		c->sums[i] = sum_of(bytes + ((i - first) << c->shift), chunk_len(c, i, i));
		c->state[i] = KEPT | CHECKED | USED;
	}
	write_entries(c, first, last);
}

static int fetch(struct copies *c, uint64_t first, uint64_t last, uint8_t *bytes)
{
	int r = serving_io(&c->serving, c->disk.below, DISK_READ, bytes, chunk_len(c, first, last),
			   first << c->shift);

	c->expected = last + 1;
	if (r == 0)
		keep(c, first, last, bytes);
	return r;
}

/* -EAGAIN: it is not what it was, and is not kept any more. */
static int fetch_kept(struct copies *c, uint64_t first, uint64_t last, uint8_t *bytes)
{
	int r = serving_io(&c->serving, c->store, DISK_READ, bytes, chunk_len(c, first, last),
		   c->data_at + (first << c->shift));

	if (r < 0) {
		give_up_store(c, r);
		return -EAGAIN;
	}
	for (uint64_t i = first; i <= last && r == 0; i++) {
		bool good = (c->state[i] & CHECKED) ||
			    sum_of(bytes + ((i - first) << c->shift), chunk_len(c, i, i)) == c->sums[i];

		if (good) {
			c->state[i] |= CHECKED | USED;
			continue;
		}
		c->kept -= c->state[i] & KEPT;
		c->state[i] = 0;
		r = -EAGAIN;
	}
	return r;
}

/* How far a run goes that begins with @first, all of it kept or all of it not. */
static uint64_t run_end(struct copies *c, uint64_t first, uint64_t end)
{
	bool kept = is_kept(c, first);
	uint64_t wanted = (end - 1) >> c->shift, last = first;

	if (!kept) {
		c->ahead = first == c->expected ? MIN(2 * c->ahead, c->run_max) : 1;
		wanted = MAX(wanted, first + c->ahead - 1);
	}
	wanted = MIN(wanted, MIN(first + c->run_max, c->count) - 1);
	while (last < wanted && is_kept(c, last + 1) == kept)
		last++;
	return last;
}

/* Some bytes from *at on, and *at behind them; or nothing, to look again. */
static int read_part(struct copies *c, struct segments *to, uint64_t *at, uint64_t end)
{
	uint64_t first = *at >> c->shift, last = run_end(c, first, end), skip, n;
	bool kept = is_kept(c, first);
	struct range range = { .first = first, .last = last, .alone = !kept };
	uint8_t *bytes;
	int r = -EAGAIN;

	range_enter(&c->serving.fibers, &c->ranges, &range);
	bytes = malloc(chunk_len(c, first, last));
	/* Others may have been here while this one waited. */
	for (uint64_t i = first; i <= last; i++)
		if (is_kept(c, i) != kept)
			goto out;
	r = !bytes ? -ENOMEM : kept ? fetch_kept(c, first, last, bytes) : fetch(c, first, last, bytes);
	if (r == 0) {
		skip = *at - (first << c->shift);
		n = MIN(end - *at, chunk_len(c, first, last) - skip);
		segments_fill(to, bytes + skip, n);
		*at += n;
	}
out:
	free(bytes);
	range_leave(&c->ranges, &range);
	return r == -EAGAIN ? 0 : r;
}

static int read_all(struct disk *disk, struct disk_req *req)
{
	struct copies *c = (struct copies *)disk;
	struct segments to = { .iov = req->iov, .count = req->iov_count };
	uint64_t at = req->offset, all = req->offset + req->len;
	uint64_t end = MIN(all, c->disk.size_bytes);
	int r = 0;

	while (at < end && r == 0)
		r = read_part(c, &to, &at, end);
	if (r == 0 && at < all)
		segments_fill(&to, NULL, all - at);
	return r;
}

static void copies_submit(struct disk *disk, struct disk_req *req)
{
	if (req->op != DISK_READ)
		disk->below->ops->submit(disk->below, req);
	else
		serving_submit(&((struct copies *)disk)->serving, read_all, disk, req);
}

static void each_below(struct disk *disk, void (*fn)(struct disk *below))
{
	fn(((struct copies *)disk)->store);
	fn(disk->below);
}

static void copies_kick(struct disk *disk)
{
	each_below(disk, disk_kick);
}

static void copies_drain(struct disk *disk)
{
	serving_drain(&((struct copies *)disk)->serving, disk, each_below);
}

/* Also of one that did not get as far as to have a store. */
static void copies_close(struct disk *disk)
{
	struct copies *c = (struct copies *)disk;

	serving_fini(&c->serving);
	disk_close(c->store);
	disk_over_fini(disk);
	free(c->state);
	free(c->sums);
	free(c);
}

static const struct disk_ops copies_ops = {
	.submit = copies_submit,
	.kick = copies_kick,
	.drain = copies_drain,
	.close = copies_close,
};

/* ---- the store ---- */

static struct disk *open_store(const char *path, struct loop *loop, GError **err)
{
	const struct disk_options o = { .cache = DISK_CACHE_UNSAFE };
	g_autofree char *name = NULL;
	struct disk *store;
	auto_fd int fd = -1;

	if (path)
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	else
		fd = disk_anonymous_file();
	if (fd < 0) {
		base_fail(err, errno, "cache file '%s': %s", path ? path : "in TMPDIR", g_strerror(errno));
		return NULL;
	}
	if (path)
		return disk_file_open(path, &o, loop, err);
	name = g_strdup_printf("/proc/self/fd/%d", fd);
	store = disk_file_open(name, &o, loop, err);
	return store;
}

static void fill_head(const struct copies *c, const char *tag, uint8_t head[HEAD_BYTES])
{
	memset(head, 0, HEAD_BYTES);
	memcpy(head, MAGIC, 8);
	store_le32(head + 8, VERSION);
	store_le32(head + 12, c->shift);
	store_le64(head + 16, c->disk.size_bytes);
	(void)g_snprintf((char *)head + 64, MAX_NAMES, "%s\n%s", c->disk.path, tag ? tag : "");
}

static bool load_table(struct copies *c)
{
	g_autofree uint8_t *bytes = g_try_malloc(c->count * ENTRY_BYTES);

	if (!bytes || disk_read_wait(c->store, bytes, c->count * ENTRY_BYTES, HEAD_BYTES) < 0)
		return false;
	for (uint64_t i = 0; i < c->count; i++) {
		c->sums[i] = load_le32(bytes + i * ENTRY_BYTES);
		c->state[i] = load_le32(bytes + i * ENTRY_BYTES + 4) == KEPT ? KEPT : 0;
		c->kept += c->state[i];
	}
	return true;
}

/* Whether some of what is kept is what is there: who does not tell versions may have another one. */
static bool is_alike(struct copies *c)
{
	g_autofree uint8_t *bytes = g_try_malloc(1u << c->shift);
	uint64_t step = MAX(c->kept / SAMPLES, 1u), next = 0, kept = 0;

	for (uint64_t i = 0; bytes && i < c->count; i++) {
		uint64_t len = chunk_len(c, i, i);

		if (!(c->state[i] & KEPT) || kept++ < next)
			continue;
		next = kept - 1 + step;
		if (disk_read_wait(c->disk.below, bytes, len, i << c->shift) < 0 || sum_of(bytes, len) != c->sums[i])
			return false;
	}
	return bytes != NULL;
}

static void forget_all(struct copies *c)
{
	memset(c->state, 0, c->count * sizeof(*c->state));
	c->kept = 0;
}

/* What it is the copy of is on its first page. An older version's copies go. */
static bool begin_store(struct copies *c, const char *tag, const char *path, GError **err)
{
	struct disk_req cut = { .op = DISK_RESIZE };
	uint8_t head[HEAD_BYTES], found[HEAD_BYTES];
	int r = 0;

	fill_head(c, tag, head);
	if (c->store->size_bytes > 0) {
		r = disk_read_wait(c->store, found, HEAD_BYTES, 0);
		if (r == 0 && memcmp(found, MAGIC, 8))
			return base_fail(err, EEXIST, "cache file '%s': holds something else, which would be lost",
					 path);
		if (r == 0 && tag && !memcmp(found, head, HEAD_BYTES)) {
			if (!load_table(c))
				return base_fail(err, EIO, "cache file '%s': cannot be read", path);
			if (*tag || is_alike(c))
				return true;
			forget_all(c);
		}
		log_info("cache file '%s': begins anew, the disk is not the one it was, or cannot be told "
			 "from it", path);
		r = r < 0 ? r : disk_run(c->store, &cut);
	}
	r = r < 0 ? r : disk_write_wait(c->store, head, HEAD_BYTES, 0);
	return r == 0 || base_fail(err, -r, "cache file '%s': %s", path ? path : "in TMPDIR", g_strerror(-r));
}

static bool set_sizes(struct copies *c, uint64_t bytes)
{
	c->shift = MIN_SHIFT;
	while (c->shift < MAX_SHIFT && (c->disk.size_bytes - 1) >> c->shift >= MAX_CHUNKS)
		c->shift++;
	c->count = ((c->disk.size_bytes - 1) >> c->shift) + 1;
	if (c->count > MAX_CHUNKS)
		return false;
	c->run_max = MAX(RUN_BYTES >> c->shift, 1u);
	c->limit = MAX((bytes ? bytes : DEFAULT_BYTES) >> c->shift, 2 * c->run_max);
	c->ahead = 1;
	c->data_at = align_up(HEAD_BYTES + c->count * ENTRY_BYTES, 1u << MIN_SHIFT);
	c->state = calloc(c->count, sizeof(*c->state));
	c->sums = calloc(c->count, sizeof(*c->sums));
	return c->state && c->sums;
}

struct disk *disk_copies_open_take(struct disk *from, const char *tag, const struct disk_options *o,
				   struct loop *loop, GError **err)
{
	struct copies *c = calloc(1, sizeof(*c));

	if (!c) {
		disk_close(from);
		base_fail(err, ENOMEM, "no memory for a cache");
		return NULL;
	}
	if (o->cache_taken)
		*o->cache_taken = true;
	disk_over_init(&c->disk, &copies_ops, from);
	if (!set_sizes(c, o->cache_bytes))
		base_fail(err, EFBIG, "disk '%s': is too large, or there is no memory for it", from->path);
	else if ((c->store = open_store(o->cache_file, loop, err)) &&
		 begin_store(c, tag, o->cache_file, err))
		return &c->disk;
	copies_close(&c->disk);
	return NULL;
}
