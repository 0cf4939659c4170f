// SPDX-License-Identifier: Apache-2.0
/* vhdx_header.c - the headers, the regions and the metadata of VHDX images (vhdx.h). */
#include <errno.h>
#include <nmmintrin.h>
#include <string.h>

#include "base/bits.h"
#include "disk/formats/vhdx.h"

const uint8_t vhdx_guid_table[16] = { 0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
				      0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08 };
const uint8_t vhdx_guid_metadata[16] = { 0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
					 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e };
const uint8_t vhdx_guid_parameters[16] = { 0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
					   0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b };
const uint8_t vhdx_guid_size[16] = { 0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
				     0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8 };
const uint8_t vhdx_guid_page83[16] = { 0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45,
				       0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46 };
const uint8_t vhdx_guid_logical[16] = { 0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
					0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f };
const uint8_t vhdx_guid_physical[16] = { 0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44,
					 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56 };
const uint8_t vhdx_guid_locator[16] = { 0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a,
					0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13 };
const uint8_t vhdx_guid_parent[16] = { 0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45,
				       0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c };

uint32_t vhdx_sum_plain(uint32_t sum, const uint8_t *bytes, size_t len)
{
	static const uint32_t table[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
		0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
		0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
		0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};

	for (size_t i = 0; i < len; i++) {
		sum ^= bytes[i];
		sum = table[sum & 15] ^ sum >> 4;
		sum = table[sum & 15] ^ sum >> 4;
	}
	return sum;
}

__attribute__((target("sse4.2"))) static uint32_t sum_fast(uint32_t sum, const uint8_t *bytes, size_t len)
{
	uint64_t wide = sum;

	for (; len >= 8; bytes += 8, len -= 8)
		wide = _mm_crc32_u64(wide, load_le64(bytes));
	for (sum = (uint32_t)wide; len > 0; len--)
		sum = _mm_crc32_u8(sum, *bytes++);
	return sum;
}

uint32_t vhdx_sum(const uint8_t *bytes, size_t len, size_t sum_at)
{
	uint32_t (*add)(uint32_t sum, const uint8_t *bytes, size_t len) =
		__builtin_cpu_supports("sse4.2") ? sum_fast : vhdx_sum_plain;
	static const uint8_t zeros[4];
	uint32_t sum = add(UINT32_MAX, bytes, MIN(len, sum_at));

	if (sum_at < len) {
		sum = add(sum, zeros, MIN(len - sum_at, sizeof(zeros)));
		if (len - sum_at > sizeof(zeros))
			sum = add(sum, bytes + sum_at + sizeof(zeros), len - sum_at - sizeof(zeros));
	}
	return ~sum;
}

static bool is_header(const uint8_t *h)
{
	return load_le32(h) == VHDX_HEADER_MARK &&
	       load_le32(h + VHDX_AT_SUM) == vhdx_sum(h, VHDX_HEADER_BYTES, VHDX_AT_SUM);
}

static bool check_header(struct vhdx *v, GError **err)
{
	const uint8_t *h = v->header;

	v->log_at = load_le64(h + VHDX_AT_LOG);
	v->log_bytes = load_le32(h + VHDX_AT_LOG_BYTES);
	if (load_le16(h + VHDX_AT_VERSION) != 1 || load_le16(h + VHDX_AT_LOG_VERSION) != 0)
		return blocks_refuse(&v->b, err,
				     "is of VHDX version %u with a log of version %u; 1 and 0 are "
				     "supported",
				     load_le16(h + VHDX_AT_VERSION),
				     load_le16(h + VHDX_AT_LOG_VERSION));
	if (v->log_at < VHDX_ALIGN || v->log_at % VHDX_ALIGN || v->log_bytes % VHDX_ALIGN ||
	    v->log_bytes == 0 || v->log_at > v->b.file->size_bytes ||
	    v->log_bytes > v->b.file->size_bytes - v->log_at)
		return blocks_refuse(&v->b, err, "has a log at an impossible place");
	return true;
}

/* 2.2.2: of the two, the valid one with the larger sequence number. */
bool vhdx_load_header(struct vhdx *v, GError **err)
{
	uint8_t mark[8], second[VHDX_HEADER_BYTES];

	if (!blocks_file_load(&v->b, mark, sizeof(mark), 0, err) ||
	    !blocks_file_load(&v->b, v->header, VHDX_HEADER_BYTES, VHDX_HEADER_1, err) ||
	    !blocks_file_load(&v->b, second, VHDX_HEADER_BYTES, VHDX_HEADER_2, err))
		return false;
	if (memcmp(mark, "vhdxfile", 8))
		return blocks_refuse(&v->b, err, "is not a VHDX image");
	v->header_number = is_header(v->header) ? 1 : 0;
	if (is_header(second) &&
	    (!v->header_number ||
	     load_le64(second + VHDX_AT_SEQUENCE) > load_le64(v->header + VHDX_AT_SEQUENCE))) {
		memcpy(v->header, second, VHDX_HEADER_BYTES);
		v->header_number = 2;
	}
	if (!v->header_number)
		return blocks_refuse(&v->b, err, "has no header that is whole");
	return check_header(v, err);
}

static int write_other(struct vhdx *v)
{
	unsigned other = 3 - v->header_number;
	int r;

	store_le64(v->header + VHDX_AT_SEQUENCE, load_le64(v->header + VHDX_AT_SEQUENCE) + 1);
	store_le32(v->header + VHDX_AT_SUM, vhdx_sum(v->header, VHDX_HEADER_BYTES, VHDX_AT_SUM));
	r = blocks_file_write(&v->b, v->header, VHDX_HEADER_BYTES,
			      other == 1 ? VHDX_HEADER_1 : VHDX_HEADER_2);
	if (r == 0)
		r = blocks_file_flush(&v->b);
	if (r == 0)
		v->header_number = other;
	return r;
}

/* 2.2.2.1: twice, so that both say the same. */
int vhdx_write_header(struct vhdx *v)
{
	int r = write_other(v);

	return r == 0 ? write_other(v) : r;
}

struct region {
	uint64_t at;
	uint32_t bytes;
};

/* One that we know: @r is where it goes. */
static bool set_region(struct vhdx *v, const uint8_t *entry, struct region *r, GError **err)
{
	r->at = load_le64(entry + 16);
	r->bytes = load_le32(entry + 24);
	if (r->at < VHDX_ALIGN || r->at % VHDX_ALIGN || r->bytes == 0 || r->bytes % VHDX_ALIGN ||
	    r->at >= v->b.file->size_bytes || r->bytes > v->b.file->size_bytes - r->at)
		return blocks_refuse(&v->b, err, "has a region at an impossible place");
	return true;
}

static bool read_regions(struct vhdx *v, uint8_t *bytes, GError **err)
{
	static const uint64_t places[] = { VHDX_REGIONS_1, VHDX_REGIONS_2 };

	for (unsigned i = 0; i < 2; i++) {
		if (!blocks_file_load(&v->b, bytes, VHDX_REGIONS_BYTES, places[i], err))
			return false;
		if (load_le32(bytes) == VHDX_REGIONS_MARK &&
		    load_le32(bytes + 8) <= VHDX_MAX_REGIONS &&
		    load_le32(bytes + 4) == vhdx_sum(bytes, VHDX_REGIONS_BYTES, 4))
			return true;
	}
	return blocks_refuse(&v->b, err, "has no table of regions that is whole");
}

/* 2.2.3 */
bool vhdx_load_regions(struct vhdx *v, GError **err)
{
	g_autofree uint8_t *bytes = g_malloc(VHDX_REGIONS_BYTES);
	struct region table = { 0 }, metadata = { 0 };

	if (!read_regions(v, bytes, err))
		return false;
	for (uint32_t i = 0; i < load_le32(bytes + 8); i++) {
		const uint8_t *entry = bytes + 16 + i * 32ul;
		uint64_t end = load_le64(entry + 16) + load_le32(entry + 24);
		struct region *known = !memcmp(entry, vhdx_guid_table, 16)    ? &table :
				       !memcmp(entry, vhdx_guid_metadata, 16) ? &metadata :
										NULL;

		/* What we do not know may lie anywhere, and stays. */
		if (end <= v->b.file->size_bytes)
			v->b.tables_end = MAX(v->b.tables_end, end);
		if (!known && (load_le32(entry + 28) & 1))
			return blocks_refuse(&v->b, err, "needs a region that is not supported");
		if (known && !set_region(v, entry, known, err))
			return false;
	}
	if (!table.at || !metadata.at)
		return blocks_refuse(&v->b, err, "lacks its table of blocks or its metadata");
	v->b.tables_end = align_up(MAX(v->b.tables_end, v->log_at + v->log_bytes), VHDX_ALIGN);
	v->b.table_at = table.at;
	v->table_bytes = table.bytes;
	v->metadata_at = metadata.at;
	v->metadata_bytes = metadata.bytes;
	return true;
}

static bool load_locator(struct vhdx *v, uint64_t at, uint32_t len, GError **err)
{
	g_autofree uint8_t *item = NULL;

	if (len > VHDX_ALIGN)
		return blocks_refuse(&v->b, err, "has a parent locator of %u bytes", len);
	item = g_malloc0(len + 1ul);
	return blocks_file_load(&v->b, item, len, at, err) && vhdx_load_locator(v, item, len, err);
}

static bool load_item(struct vhdx *v, const uint8_t *entry, GError **err)
{
	uint32_t at = load_le32(entry + 16), len = load_le32(entry + 20);
	uint8_t value[8] = { 0 };

	if (at < VHDX_METADATA_BYTES || at > v->metadata_bytes || len > v->metadata_bytes - at)
		return blocks_refuse(&v->b, err, "has metadata at an impossible place");
	if (!blocks_file_load(&v->b, value, MIN(len, sizeof(value)), v->metadata_at + at, err))
		return false;
	if (!memcmp(entry, vhdx_guid_parameters, 16)) {
		v->b.block_bytes = load_le32(value);
		v->fixed = value[4] & 1;
		v->has_parent = value[4] & 2;
	} else if (!memcmp(entry, vhdx_guid_size, 16)) {
		v->b.disk.size_bytes = load_le64(value);
	} else if (!memcmp(entry, vhdx_guid_logical, 16)) {
		v->logical_sector = load_le32(value);
	} else if (!memcmp(entry, vhdx_guid_physical, 16)) {
		v->physical_sector = load_le32(value);
	} else if (!memcmp(entry, vhdx_guid_parent, 16)) {
		return load_locator(v, v->metadata_at + at, len, err);
	} else if (memcmp(entry, vhdx_guid_page83, 16) && (load_le32(entry + 24) & 4)) {
		return blocks_refuse(&v->b, err, "needs metadata that is not supported");
	}
	return true;
}

static bool check_metadata(struct vhdx *v, GError **err)
{
	struct blocks *b = &v->b;

	if (b->block_bytes < VHDX_ALIGN || b->block_bytes > 256u << 20 ||
	    (b->block_bytes & (b->block_bytes - 1)))
		return blocks_refuse(b, err, "has blocks of %u bytes", (unsigned)b->block_bytes);
	if (v->logical_sector != 512 && v->logical_sector != 4096)
		return blocks_refuse(b, err, "has sectors of %u bytes", v->logical_sector);
	if (b->disk.size_bytes == 0 || b->disk.size_bytes > VHDX_MAX_BYTES ||
	    b->disk.size_bytes % v->logical_sector)
		return blocks_refuse(b, err, "claims a size of %" G_GUINT64_FORMAT " bytes",
				     b->disk.size_bytes);
	return true;
}

/* 2.6 */
bool vhdx_load_metadata(struct vhdx *v, GError **err)
{
	g_autofree uint8_t *bytes = g_malloc(VHDX_METADATA_BYTES);
	uint16_t count;

	if (!blocks_file_load(&v->b, bytes, VHDX_METADATA_BYTES, v->metadata_at, err))
		return false;
	count = load_le16(bytes + 10);
	if (memcmp(bytes, "metadata", 8) || count > VHDX_MAX_ITEMS)
		return blocks_refuse(&v->b, err, "has damaged metadata");
	v->b.disk.size_bytes = 0;
	for (unsigned i = 0; i < count; i++)
		if (!load_item(v, bytes + 32 + i * 32ul, err))
			return false;
	return check_metadata(v, err);
}
