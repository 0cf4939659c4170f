// SPDX-License-Identifier: Apache-2.0
/*
 * vhdx_log.c - replay of a VHDX image's log (vhdx.h; section 2.3, Log).
 *
 * The log is a ring of entries. An entry has a header, descriptors, and sectors of data, and says
 * what sectors of the file are to hold. The active sequence is the one whose last entry has the
 * largest number, and whose first one is where that entry says. Whoever wrote it may have been cut
 * off anywhere behind: all of it is written to the file, durably, and then the header says that
 * there is no log. We write none ourselves (vhdx.c).
 *
 * A hostile log may claim at each sector an entry as long as the log: what is summed up is limited,
 * and what is known of a sector is kept.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "disk/formats/vhdx.h"

#define MARK_ENTRY  0x65676f6cu /* "loge" */
#define MARK_DATA   0x63736564u /* "desc" */
#define MARK_ZERO   0x6f72657au /* "zero" */
#define MARK_SECTOR 0x61746164u /* "data" */
#define SUM_TIMES   8u /* the log's length, at most, is summed up */
#define MAX_ZEROS   (1ull << 40)

enum entry_field {
	AT_SUM = 4,
	AT_BYTES = 8,
	AT_TAIL = 12,
	AT_SEQUENCE = 16,
	AT_COUNT = 24,
	AT_GUID = 32,
	AT_FLUSHED = 48,
	AT_LAST = 56,
	AT_DESCRIPTORS = 64,
};

/* What begins at a sector of the log. */
struct slot {
	bool known;
	uint32_t len; /* 0: no entry that is whole */
	uint32_t tail;
	uint64_t sequence;
};

struct ring {
	struct vhdx *v;
	struct slot *slots;
	uint8_t *bytes; /* of the whole log */
	uint8_t *entry; /* the one that was looked at last, in one piece */
	uint64_t budget; /* bytes that may yet be summed up */
};

/* From one entry to the next, around the ring. */
struct sequence {
	uint32_t tail, count;
	uint64_t last; /* number of its last entry */
};

bool vhdx_log_is_empty(const struct vhdx *v)
{
	static const uint8_t none[16];

	return memcmp(v->header + VHDX_AT_LOG_GUID, none, 16) == 0;
}

static uint32_t ring_step(const struct ring *r, uint32_t at, uint32_t by)
{
	uint64_t to = (uint64_t)at + by;

	return (uint32_t)(to >= r->v->log_bytes ? to - r->v->log_bytes : to);
}

/* Sectors in front of the data. */
static uint32_t descriptor_sectors(uint32_t count)
{
	return (uint32_t)((AT_DESCRIPTORS + count * 32ull + VHDX_LOG_SECTOR - 1) / VHDX_LOG_SECTOR);
}

static void copy_out(const struct ring *r, uint32_t at, uint32_t len)
{
	uint32_t first = MIN(len, r->v->log_bytes - at);

	memcpy(r->entry, r->bytes + at, first);
	memcpy(r->entry + first, r->bytes, len - first);
}

/* Descriptors, and a sector of data for each that wants one. */
static bool are_descriptors_right(const uint8_t *e, uint32_t len, uint32_t count)
{
	uint64_t sequence = load_le64(e + AT_SEQUENCE),
		 at = descriptor_sectors(count) * (uint64_t)VHDX_LOG_SECTOR;

	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *d = e + AT_DESCRIPTORS + i * 32ul;
		uint32_t mark = load_le32(d);

		if (load_le64(d + 24) != sequence || load_le64(d + 16) % VHDX_LOG_SECTOR ||
		    load_le64(d + 16) > INT64_MAX / 2)
			return false;
		if (mark == MARK_ZERO &&
		    (load_le64(d + 8) % VHDX_LOG_SECTOR || load_le64(d + 8) > MAX_ZEROS))
			return false;
		if (mark == MARK_ZERO)
			continue;
		if (mark != MARK_DATA || at + VHDX_LOG_SECTOR > len ||
		    load_le32(e + at) != MARK_SECTOR ||
		    load_le32(e + at + 4) != (uint32_t)(sequence >> 32) ||
		    load_le32(e + at + VHDX_LOG_SECTOR - 4) != (uint32_t)sequence)
			return false;
		at += VHDX_LOG_SECTOR;
	}
	return true;
}

/* The entry at @at, into r->entry: its length, or 0 when there is none that is whole. */
static uint32_t take_entry(struct ring *r, uint32_t at)
{
	const uint8_t *e = r->bytes + at;
	uint32_t len = load_le32(e + AT_BYTES), count = load_le32(e + AT_COUNT);

	if (load_le32(e) != MARK_ENTRY || len == 0 || len % VHDX_LOG_SECTOR ||
	    len > r->v->log_bytes || load_le64(e + AT_SEQUENCE) == 0 ||
	    memcmp(e + AT_GUID, r->v->header + VHDX_AT_LOG_GUID, 16) || count > len / 32 ||
	    descriptor_sectors(count) * (uint64_t)VHDX_LOG_SECTOR > len || len > r->budget)
		return 0;
	r->budget -= len;
	copy_out(r, at, len);
	if (load_le32(r->entry + AT_SUM) != vhdx_sum(r->entry, len, AT_SUM))
		return 0;
	return are_descriptors_right(r->entry, len, count) ? len : 0;
}

static const struct slot *look_at(struct ring *r, uint32_t at)
{
	struct slot *slot = &r->slots[at / VHDX_LOG_SECTOR];

	if (!slot->known) {
		slot->known = true;
		slot->len = take_entry(r, at);
		slot->tail = load_le32(r->bytes + at + AT_TAIL);
		slot->sequence = load_le64(r->bytes + at + AT_SEQUENCE);
	}
	return slot;
}

/* Entries from @tail on whose numbers follow one another. True: the last one says that the sequence
 * begins here. */
static bool follow(struct ring *r, uint32_t tail, struct sequence *ret)
{
	uint32_t at = tail, walked = 0, said = 0;

	*ret = (struct sequence){ .tail = tail };
	while (walked < r->v->log_bytes) {
		const struct slot *slot = look_at(r, at);

		if (slot->len == 0 || slot->len > r->v->log_bytes - walked ||
		    (ret->count && slot->sequence != ret->last + 1))
			break;
		said = slot->tail;
		ret->last = slot->sequence;
		ret->count++;
		walked += slot->len;
		at = ring_step(r, at, slot->len);
	}
	return ret->count && said == tail;
}

static bool find_active(struct ring *r, struct sequence *ret)
{
	*ret = (struct sequence){ 0 };
	for (uint32_t at = 0; at < r->v->log_bytes; at += VHDX_LOG_SECTOR) {
		struct sequence s;

		/* A sequence whose beginning is elsewhere is found there. */
		if (follow(r, at, &s) && s.last > ret->last)
			*ret = s;
	}
	return ret->count > 0;
}

static int write_zeros(struct vhdx *v, uint64_t at, uint64_t len)
{
	struct disk_req req = { .op = DISK_WRITE_ZEROES, .offset = at, .len = len, .unmap = true };

	/* Behind the end there is nothing but zeros. */
	if (at >= v->b.file->size_bytes)
		return 0;
	req.len = MIN(len, v->b.file->size_bytes - at);
	return req.len ? blocks_io(&v->b, v->b.file, &req) : 0;
}

static int apply_entry(struct ring *r)
{
	const uint8_t *e = r->entry;
	uint32_t count = load_le32(e + AT_COUNT);
	const uint8_t *data = e + descriptor_sectors(count) * (size_t)VHDX_LOG_SECTOR;
	int result = 0;

	for (uint32_t i = 0; i < count && result == 0; i++) {
		const uint8_t *d = e + AT_DESCRIPTORS + i * 32ul;
		uint8_t sector[VHDX_LOG_SECTOR];

		if (load_le32(d) == MARK_ZERO) {
			result = write_zeros(r->v, load_le64(d + 16), load_le64(d + 8));
			continue;
		}
		memcpy(sector, d + 8, 8);
		memcpy(sector + 8, data + 8, VHDX_LOG_SECTOR - 12);
		memcpy(sector + VHDX_LOG_SECTOR - 4, d + 4, 4);
		result = blocks_file_write(&r->v->b, sector, sizeof(sector), load_le64(d + 16));
		data += VHDX_LOG_SECTOR;
	}
	return result;
}

/* The file as long as it was when the entry was written. */
static int apply_length(struct ring *r)
{
	struct disk *file = r->v->b.file;
	struct disk_req req = { .op = DISK_RESIZE, .offset = load_le64(r->entry + AT_LAST) };

	if (load_le64(r->entry + AT_FLUSHED) > file->size_bytes)
		return -ENODATA;
	if (req.offset <= file->size_bytes || !file->growable)
		return 0;
	return req.offset > INT64_MAX / 2 ? -EINVAL : blocks_io(&r->v->b, file, &req);
}

static int apply(struct ring *r, const struct sequence *s)
{
	uint32_t at = s->tail;
	int result = 0;

	r->budget = r->v->log_bytes;
	for (uint32_t i = 0; i < s->count && result == 0; i++) {
		uint32_t len = take_entry(r, at);

		result = len ? apply_length(r) : -EIO;
		if (result == 0)
			result = apply_entry(r);
		at = ring_step(r, at, len);
	}
	return result == 0 ? blocks_file_flush(&r->v->b) : result;
}

bool vhdx_log_replay(struct vhdx *v, GError **err)
{
	struct blocks *b = &v->b;
	struct ring r = { .v = v, .budget = (uint64_t)SUM_TIMES * v->log_bytes };
	g_autofree uint8_t *bytes = NULL, *entry = NULL;
	g_autofree struct slot *slots = NULL;
	struct sequence active;
	int result;

	if (v->log_bytes > VHDX_MAX_LOG)
		return blocks_refuse(b, err, "was not closed, and its log is larger than 64 MiB");
	r.bytes = bytes = g_try_malloc(v->log_bytes);
	r.entry = entry = g_try_malloc(v->log_bytes);
	r.slots = slots = g_try_new0(struct slot, v->log_bytes / VHDX_LOG_SECTOR);
	result = bytes && entry && slots ? blocks_file_read(b, bytes, v->log_bytes, v->log_at)
					 : -ENOMEM;
	if (result < 0)
		return blocks_refuse(b, err, "its log cannot be read: %s", g_strerror(-result));
	/* None: it was cut off before the first entry was whole, and has changed nothing. */
	if (find_active(&r, &active))
		result = apply(&r, &active);
	log_info("disk '%s': was not closed; %u entries of its log were replayed", b->disk.path,
		 active.count);
	memset(v->header + VHDX_AT_LOG_GUID, 0, 16);
	if (result == 0)
		result = vhdx_write_header(v);
	return result == 0 ||
	       blocks_refuse(b, err, "was not closed, and its log cannot be replayed: %s",
			     g_strerror(-result));
}
