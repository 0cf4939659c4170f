// SPDX-License-Identifier: Apache-2.0
/* header.c - the header of a qcow2 image and its extensions, to and from bytes. */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "disk/qcow2/qcow2_int.h"

#define EXT_END		   0u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_FEATURES	   0x6803f857u
#define EXT_DATA_FILE	   0x44415441u
#define EXT_BITMAPS	   0x23852875u
#define BITMAPS_BYTES	   24u
#define FEATURE_BYTES	   48u /* kind, bit, 46 of name */

size_t qcow2_header_cluster_bytes(const uint8_t *b, size_t len)
{
	uint32_t bits = len >= QCOW2_HEADER_V2 ? load_be32(b + 20) : 0;

	if (bits < QCOW2_MIN_CLUSTER_BITS || bits > QCOW2_MAX_CLUSTER_BITS)
		return 0;
	return (size_t)1 << bits;
}

static void load_fields(const uint8_t *b, struct qcow2_header *h)
{
	h->version = load_be32(b + 4);
	h->cluster_bits = load_be32(b + 20);
	h->size_bytes = load_be64(b + 24);
	h->l1_entries = load_be32(b + 36);
	h->l1_offset = load_be64(b + 40);
	h->reftable_offset = load_be64(b + 48);
	h->reftable_clusters = load_be32(b + 56);
	h->snapshot_count = load_be32(b + 60);
	h->snapshots_offset = load_be64(b + 64);
	h->refcount_order = 4;
	if (h->version < 3)
		return;
	h->incompatible = load_be64(b + 72);
	h->compatible = load_be64(b + 80);
	h->autoclear = load_be64(b + 88);
	h->refcount_order = load_be32(b + 96);
}

/* The image may tell the names of its features (section "Feature name table"). */
static bool refuse_feature(const uint8_t *table, size_t len, uint64_t unknown, GError **err)
{
	unsigned bit = (unsigned)__builtin_ctzll(unknown);

	for (size_t at = 0; len - at >= FEATURE_BYTES; at += FEATURE_BYTES) {
		g_autofree char *name = NULL;

		if (table[at] != 0 || table[at + 1] != bit)
			continue;
		name = g_strndup((const char *)table + at + 2, FEATURE_BYTES - 2);
		for (char *c = name; *c; c++)
			if (!g_ascii_isprint(*c))
				*c = '?';
		return base_fail(err, EINVAL, "needs the feature '%s', which is not supported", name);
	}
	return base_fail(err, EINVAL, "needs a feature that is not supported (incompatible bit %u)", bit);
}

static void load_name(const uint8_t *text, size_t len, char **ret)
{
	g_free(*ret);
	*ret = g_strndup((const char *)text, len);
}

/* What it says is looked at when bitmaps are (bitmap_dir.c): an image may be read without. */
static void load_bitmaps(const uint8_t *b, size_t at, size_t len, struct qcow2_header *h)
{
	h->bitmaps_at = (uint32_t)at;
	if (len != BITMAPS_BYTES || load_be32(b + at + 4) != 0)
		return;
	h->bitmap_count = load_be32(b + at);
	h->bitmaps_bytes = load_be64(b + at + 8);
	h->bitmaps_offset = load_be64(b + at + 16);
}

/* As it lies there, its padding made zeros. */
static void keep(const uint8_t *b, uint32_t len, GByteArray **to)
{
	static const uint8_t padding[7];

	if (!*to)
		*to = g_byte_array_new();
	g_byte_array_append(*to, b, len);
	g_byte_array_append(*to, padding, -len & 7);
}

static bool load_extensions(const uint8_t *b, size_t at, size_t end, struct qcow2_header *h,
			    GError **err)
{
	uint64_t unknown = h->incompatible & ~QCOW2_INCOMPAT_KNOWN;
	const uint8_t *features = b;
	size_t features_len = 0;

	while (at <= end && end - at >= 8) {
		uint32_t type = load_be32(b + at), len = load_be32(b + at + 4);

		at += 8;
		if (type == EXT_END)
			break;
		if (len > end - at)
			return base_fail(err, EINVAL, "has a header extension that is longer than the header");
		if (type == EXT_BACKING_FORMAT)
			load_name(b + at, len, &h->backing_format);
		else if (type == EXT_DATA_FILE)
			load_name(b + at, len, &h->data_file);
		else if (type == EXT_BITMAPS)
			load_bitmaps(b, at, len, h);
		else if (type == EXT_FEATURES) {
			features = b + at;
			features_len = len;
		} else {
			keep(b + at - 8, 8 + len, &h->unknown);
		}
		at += ((size_t)len + 7) & ~(size_t)7;
	}
	return unknown ? refuse_feature(features, features_len, unknown, err) : true;
}

static bool check_tables(const struct qcow2_header *h, GError **err)
{
	uint64_t mask = (1ull << h->cluster_bits) - 1;
	unsigned entry_bits = h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2 ? 4 : 3;
	unsigned l1_bits = h->cluster_bits * 2 - entry_bits;
	uint64_t need = (h->size_bytes >> l1_bits) + ((h->size_bytes & ((1ull << l1_bits) - 1)) != 0);

	if (h->size_bytes > (uint64_t)INT64_MAX - DISK_SECTOR_SIZE)
		return base_fail(err, EINVAL, "claims a size of more than 2^63 bytes");
	if (h->l1_entries > QCOW2_MAX_L1_BYTES / 8)
		return base_fail(err, EINVAL, "asks for an L1 table of %u entries; %u are the most",
			    h->l1_entries, QCOW2_MAX_L1_BYTES / 8);
	if (h->l1_entries < need)
		return base_fail(err, EINVAL, "has an L1 table too small for its size");
	if ((h->l1_offset & mask) || h->l1_offset >= QCOW2_MAX_FILE)
		return base_fail(err, EINVAL, "has an L1 table at an impossible place");
	if ((h->reftable_offset & mask) || h->reftable_offset >= QCOW2_MAX_FILE ||
	    h->reftable_offset == 0)
		return base_fail(err, EINVAL, "has a reference count table at an impossible place");
	if (h->reftable_clusters == 0 ||
	    h->reftable_clusters > QCOW2_MAX_REFTABLE >> h->cluster_bits)
		return base_fail(err, EINVAL, "asks for a reference count table of %u clusters",
			    h->reftable_clusters);
	if (h->snapshot_count > QCOW2_MAX_SNAPSHOTS)
		return base_fail(err, EINVAL, "claims %u snapshots; %u are the most", h->snapshot_count,
			    QCOW2_MAX_SNAPSHOTS);
	if ((h->snapshots_offset & mask) || h->snapshots_offset >= QCOW2_MAX_FILE)
		return base_fail(err, EINVAL, "has a snapshot table at an impossible place");
	return true;
}

static bool check_features(const struct qcow2_header *h, GError **err)
{
	if (h->refcount_order > 6)
		return base_fail(err, EINVAL, "has reference counts of 2^%u bits; 64 bits are the most",
			    h->refcount_order);
	if (h->compression > QCOW2_ZSTD)
		return base_fail(err, EINVAL, "is compressed by a method that is not supported (type %u)",
			    h->compression);
	if ((h->compression != QCOW2_ZLIB) != !!(h->incompatible & QCOW2_INCOMPAT_COMPRESSION))
		return base_fail(err, EINVAL, "contradicts itself about its compression");
	if ((h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2) && h->cluster_bits < 14)
		return base_fail(err, EINVAL, "has subclusters of less than 512 bytes");
	if ((h->incompatible & QCOW2_INCOMPAT_DATA_FILE) && !h->data_file)
		return base_fail(err, EINVAL, "keeps its data in another file, but does not say in which");
	return true;
}

static bool load_backing(const uint8_t *b, size_t len, struct qcow2_header *h, GError **err)
{
	uint64_t at = load_be64(b + 8);
	uint32_t bytes = load_be32(b + 16);

	if (at == 0)
		return true;
	if (bytes == 0 || bytes > QCOW2_MAX_BACKING_NAME)
		return base_fail(err, EINVAL, "has a backing file name of %u bytes; 1 to %u are possible", bytes,
			    QCOW2_MAX_BACKING_NAME);
	if (at > len || bytes > len - at)
		return base_fail(err, EINVAL, "has its backing file's name outside of the header");
	load_name(b + at, bytes, &h->backing);
	return true;
}

static bool parse(const uint8_t *b, size_t len, struct qcow2_header *h, GError **err)
{
	uint64_t backing_at;
	uint32_t header_bytes = QCOW2_HEADER_V2;

	if (len < QCOW2_HEADER_V3 || load_be32(b) != QCOW2_MAGIC)
		return base_fail(err, EINVAL, "is not a qcow2 image");
	load_fields(b, h);
	if (h->version != 2 && h->version != 3)
		return base_fail(err, EINVAL, "is of qcow version %u; 2 and 3 are supported", h->version);
	if (qcow2_header_cluster_bytes(b, len) == 0)
		return base_fail(err, EINVAL, "has clusters of 2^%u bytes; 2^9 to 2^21 are possible",
			    h->cluster_bits);
	if (len > (size_t)1 << h->cluster_bits)
		len = (size_t)1 << h->cluster_bits;
	if (load_be32(b + 32) != 0)
		return base_fail(err, EINVAL, "is encrypted, which is not supported");
	if (h->version == 3)
		header_bytes = load_be32(b + 100);
	if (header_bytes > len || (h->version == 3 && header_bytes < QCOW2_HEADER_V3))
		return base_fail(err, EINVAL, "has a header of %u bytes", header_bytes);
	if (header_bytes > QCOW2_HEADER_V3)
		h->compression = b[104];
	if (header_bytes > QCOW2_HEADER_KNOWN)
		keep(b + QCOW2_HEADER_KNOWN, header_bytes - QCOW2_HEADER_KNOWN, &h->fields);
	backing_at = load_be64(b + 8);
	if (!load_extensions(b, header_bytes, backing_at && backing_at < len ? backing_at : len, h,
			     err))
		return false;
	return load_backing(b, len, h, err) && check_features(h, err) && check_tables(h, err);
}

bool qcow2_header_parse(const uint8_t *bytes, size_t len, struct qcow2_header *ret, GError **err)
{
	*ret = (struct qcow2_header){ 0 };
	if (parse(bytes, len, ret, err))
		return true;
	qcow2_header_fini(ret);
	return false;
}

void qcow2_header_fini(struct qcow2_header *h)
{
	g_free(h->backing);
	g_free(h->backing_format);
	g_free(h->data_file);
	if (h->fields)
		g_byte_array_unref(h->fields);
	if (h->unknown)
		g_byte_array_unref(h->unknown);
	*h = (struct qcow2_header){ 0 };
}

struct writer {
	uint8_t *bytes;
	size_t at, room;
};

static bool put_extension(struct writer *w, uint32_t type, const void *data, size_t len)
{
	size_t padded = (len + 7) & ~(size_t)7;

	if (w->room - w->at < 8 || w->room - w->at - 8 < padded)
		return false;
	store_be32(w->bytes + w->at, type);
	store_be32(w->bytes + w->at + 4, (uint32_t)len);
	if (len)
		memcpy(w->bytes + w->at + 8, data, len);
	w->at += 8 + padded;
	return true;
}

/* First of all, so that a write of a sector changes it. */
static bool put_bitmaps(struct writer *w, const struct qcow2_header *h)
{
	uint8_t data[BITMAPS_BYTES] = { 0 };

	store_be32(data, h->bitmap_count);
	store_be64(data + 8, h->bitmaps_bytes);
	store_be64(data + 16, h->bitmaps_offset);
	return put_extension(w, EXT_BITMAPS, data, sizeof(data));
}

/* Sections "Additional fields" and "Header extensions": what they mean is for others to know. */
static bool put_unknown(struct writer *w, const GByteArray *unknown)
{
	if (!unknown)
		return true;
	if (unknown->len > w->room - w->at)
		return false;
	memcpy(w->bytes + w->at, unknown->data, unknown->len);
	w->at += unknown->len;
	return true;
}

/* Good to have, but not for the price of anything else: @more bytes have yet to follow. */
static void put_features(struct writer *w, size_t more)
{
	static const struct {
		uint8_t kind, bit;
		const char *name;
	} known[] = {
		{ 0, 0, "dirty bit" },	      { 0, 1, "corrupt bit" },
		{ 0, 2, "external data file" }, { 0, 3, "compression type" },
		{ 0, 4, "extended L2 entries" }, { 1, 0, "lazy refcounts" },
		{ 2, 0, "bitmaps" },	      { 2, 1, "raw external data" },
	};
	uint8_t table[G_N_ELEMENTS(known) * FEATURE_BYTES] = { 0 };

	for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
		uint8_t *f = table + i * FEATURE_BYTES;

		f[0] = known[i].kind;
		f[1] = known[i].bit;
		memcpy(f + 2, known[i].name, strlen(known[i].name));
	}
	if (w->room - w->at >= 8 + sizeof(table) + more)
		(void)put_extension(w, EXT_FEATURES, table, sizeof(table));
}

static uint32_t fields_bytes(const struct qcow2_header *h)
{
	if (h->version < 3)
		return QCOW2_HEADER_V2;
	return QCOW2_HEADER_KNOWN + (h->fields ? h->fields->len : 0);
}

uint32_t qcow2_header_bitmaps_at(const struct qcow2_header *h)
{
	return fields_bytes(h) + 8; /* it is the first extension */
}

static void store_fields(const struct qcow2_header *h, uint8_t *b)
{
	store_be32(b, QCOW2_MAGIC);
	store_be32(b + 4, h->version);
	store_be32(b + 20, h->cluster_bits);
	store_be64(b + 24, h->size_bytes);
	store_be32(b + 36, h->l1_entries);
	store_be64(b + 40, h->l1_offset);
	store_be64(b + 48, h->reftable_offset);
	store_be32(b + 56, h->reftable_clusters);
	store_be32(b + 60, h->snapshot_count);
	store_be64(b + 64, h->snapshots_offset);
	if (h->version < 3)
		return;
	store_be64(b + 72, h->incompatible);
	store_be64(b + 80, h->compatible);
	store_be64(b + 88, h->autoclear);
	store_be32(b + 96, h->refcount_order);
	store_be32(b + 100, fields_bytes(h));
	b[104] = (uint8_t)h->compression;
}

int qcow2_header_write(const struct qcow2_header *h, uint8_t *cluster, size_t cluster_bytes)
{
	struct writer w = { cluster, h->version < 3 ? QCOW2_HEADER_V2 : QCOW2_HEADER_KNOWN, cluster_bytes };
	size_t name = h->backing ? strlen(h->backing) : 0;
	bool fits = true;

	memset(cluster, 0, cluster_bytes);
	store_fields(h, cluster);
	if (h->version >= 3)
		fits &= put_unknown(&w, h->fields);
	if (h->version >= 3 && h->bitmap_count && (h->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		fits &= put_bitmaps(&w, h);
	if (h->backing && h->backing_format)
		fits &= put_extension(&w, EXT_BACKING_FORMAT, h->backing_format,
				      strlen(h->backing_format));
	if (h->data_file)
		fits &= put_extension(&w, EXT_DATA_FILE, h->data_file, strlen(h->data_file));
	fits &= put_unknown(&w, h->unknown);
	if (h->version >= 3 && cluster_bytes >= 4096)
		put_features(&w, 8 + name);
	fits &= put_extension(&w, EXT_END, NULL, 0);
	if (!fits || name > w.room - w.at || name > QCOW2_MAX_BACKING_NAME)
		return -ENOSPC;
	if (name) {
		store_be64(cluster + 8, w.at);
		store_be32(cluster + 16, (uint32_t)name);
		memcpy(cluster + w.at, h->backing, name);
	}
	return (int)(w.at + name);
}
