// SPDX-License-Identifier: Apache-2.0
/*
 * vdi.c - VirtualBox's disk images, version 1.1, dynamic and static.
 *
 * The layout is that of the headers of VirtualBox's src/VBox/Storage/VDICore.h: VDIPREHEADER (text,
 * signature, version), VDIHEADER1PLUS, the array of blocks (32-bit indexes, little-endian), then
 * the blocks, an array of places of block_bytes each.
 *
 * An image may stand on another one, of which it knows two UUIDs: which image, and in which state of
 * its content. It does not know its name (VirtualBox keeps names elsewhere), so it is looked for
 * among the .vdi files beside the image.
 *
 * The header counts the places in use, and others take that count as the next free place. It goes
 * to the file ahead of the indexes, so that no power cut leaves an index behind it. What it then
 * counts and no index names is free to us.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/fd.h"
#include "disk/formats/blocks.h"
#include "disk/formats/formats_int.h"

#define VDI_SIGNATURE  0xbeda107fu
#define VDI_VERSION    0x00010001u
#define VDI_HEADER     512u
#define VDI_BLOCK      (1u << 20)
#define VDI_ABSENT     0xffffffffu
#define VDI_ZERO       0xfffffffeu
#define VDI_DYNAMIC    1u
#define VDI_STATIC     2u
#define VDI_DIFF       4u
#define VDI_MAX_LOOKED 1000u /* files, in search of a parent */
#define VDI_MAX_BLOCKS (uint32_t)(BLOCKS_MAX_TABLE / 4)

enum vdi_field {
	VDI_AT_SIGNATURE = 64,
	VDI_AT_VERSION = 68,
	VDI_AT_HEADER_BYTES = 72,
	VDI_AT_TYPE = 76,
	VDI_AT_TABLE = 340,
	VDI_AT_DATA = 344,
	VDI_AT_SECTOR = 360,
	VDI_AT_SIZE = 368,
	VDI_AT_BLOCK = 376,
	VDI_AT_EXTRA = 380,
	VDI_AT_BLOCKS = 384,
	VDI_AT_USED = 388,
	VDI_AT_UUID = 392,
	VDI_AT_UUID_LAST = 408,
	VDI_AT_UUID_LINK = 424,
	VDI_AT_UUID_PARENT = 440,
};

struct vdi {
	struct blocks b;
	uint8_t header[VDI_HEADER];
	uint32_t used; /* places: as the header is to count them */
	uint8_t *taken; /* a bit for each place below @places */
	uint32_t places, hint;
};

static struct blocks_place vdi_decode(const struct blocks *b, uint64_t block, const uint8_t *entry)
{
	uint32_t index = load_le32(entry);

	(void)block;
	if (index == VDI_ABSENT)
		return (struct blocks_place){ BLOCKS_ABSENT, 0 };
	if (index == VDI_ZERO)
		return (struct blocks_place){ BLOCKS_ZERO, 0 };
	return (struct blocks_place){ BLOCKS_DATA, b->data_at + index * b->block_bytes };
}

static void vdi_encode(const struct blocks *b, struct blocks_place place, uint8_t *entry)
{
	store_le32(entry, (uint32_t)((place.host - b->data_at) / b->block_bytes));
}

static bool is_taken(const struct vdi *v, uint32_t place)
{
	return v->taken[place / 8] & 1u << place % 8;
}

/* A place that no index names, or one more. */
static int vdi_take(struct blocks *b, uint64_t count, uint64_t *ret_host, uint64_t *ret_count)
{
	struct vdi *v = (struct vdi *)b;
	uint32_t place;

	while (v->hint < v->places && is_taken(v, v->hint))
		v->hint++;
	if (v->hint < v->places) {
		place = v->hint;
		count = 1;
		v->taken[place / 8] |= (uint8_t)(1u << place % 8);
	} else {
		if (count > VDI_MAX_BLOCKS - v->used)
			return -ENOSPC;
		place = v->used;
	}
	*ret_host = b->data_at + place * b->block_bytes;
	*ret_count = count;
	if (!b->file->growable && *ret_host + count * b->block_bytes > b->file->size_bytes)
		return -ENOSPC;
	v->used = MAX(v->used, place + (uint32_t)count);
	b->end = MAX(b->end, *ret_host + count * b->block_bytes);
	return 0;
}

static int vdi_before(struct blocks *b)
{
	struct vdi *v = (struct vdi *)b;
	uint32_t old = load_le32(v->header + VDI_AT_USED);
	int r;

	if (old == v->used)
		return 0;
	store_le32(v->header + VDI_AT_USED, v->used);
	r = blocks_file_write(b, v->header, VDI_HEADER, 0);
	if (r < 0)
		store_le32(v->header + VDI_AT_USED, old); /* to be tried again */
	return r;
}

/* Who stands on this image as it was must notice. */
static int vdi_first(struct blocks *b)
{
	struct vdi *v = (struct vdi *)b;

	disk_form_guid(v->header + VDI_AT_UUID_LAST);
	return blocks_file_write(b, v->header, VDI_HEADER, 0);
}

static void vdi_fini(struct blocks *b)
{
	g_free(((struct vdi *)b)->taken);
}

static int count_used(struct blocks *b, uint64_t block, struct blocks_place place, void *arg)
{
	uint32_t *used = arg;

	(void)block;
	if (place.kind == BLOCKS_DATA)
		*used = MAX(*used, (uint32_t)((place.host - b->data_at) / b->block_bytes) + 1);
	return 0;
}

static int mark_taken(struct blocks *b, uint64_t block, struct blocks_place place, void *arg)
{
	struct vdi *v = (struct vdi *)b;
	uint64_t at =
		place.kind == BLOCKS_DATA ? (place.host - b->data_at) / b->block_bytes : v->places;

	(void)block;
	(void)arg;
	if (at < v->places)
		v->taken[at / 8] |= (uint8_t)(1u << at % 8);
	return 0;
}

/* Which places are free, from the indexes and not from the header's count. */
static int find_places(struct vdi *v)
{
	uint32_t used = 0;
	int r = blocks_each(&v->b, count_used, &used);

	if (r < 0)
		return r;
	if (used > VDI_MAX_BLOCKS)
		return blocks_damaged(&v->b, "a block at an impossible place", used);
	v->used = v->places = used;
	v->hint = 0;
	g_free(v->taken);
	v->taken = g_try_malloc0(used / 8 + 1);
	return v->taken ? blocks_each(&v->b, mark_taken, NULL) : -ENOMEM;
}

/* Places that the header counts and no index names. */
static int vdi_check(struct blocks *b, bool repair, struct disk_found *found)
{
	struct vdi *v = (struct vdi *)b;
	uint32_t counted = load_le32(v->header + VDI_AT_USED), named = 0;
	int r = found->errors ? 0 : find_places(v);

	if (r < 0 || found->errors)
		return r;
	for (uint32_t i = 0; i < v->places; i++)
		named += is_taken(v, i);
	if (counted < v->used) {
		found->errors++;
		disk_found_tell(found, "the header counts %u places, and a block lies at number %u",
				counted, v->used - 1);
	} else {
		found->leaks += counted - named;
	}
	/* Those in the middle are taken by the next blocks that are written. */
	if (!repair || counted == v->used)
		return 0;
	store_le32(v->header + VDI_AT_USED, v->used);
	r = blocks_file_write(b, v->header, VDI_HEADER, 0);
	found->repaired = r == 0;
	return r == 0 ? blocks_file_flush(b) : r;
}

static const struct blocks_ops vdi_ops = {
	.decode = vdi_decode,
	.encode = vdi_encode,
	.take = vdi_take,
	.first = vdi_first,
	.before = vdi_before,
	.fini = vdi_fini,
	.check = vdi_check,
};

static bool is_set(const uint8_t *uuid)
{
	static const uint8_t none[16];

	return memcmp(uuid, none, sizeof(none)) != 0;
}

static bool check_header(const struct blocks *b, const uint8_t *h, GError **err)
{
	uint32_t table = load_le32(h + VDI_AT_TABLE), data = load_le32(h + VDI_AT_DATA);
	uint32_t block = load_le32(h + VDI_AT_BLOCK), type = load_le32(h + VDI_AT_TYPE);
	uint64_t size = load_le64(h + VDI_AT_SIZE), blocks = load_le32(h + VDI_AT_BLOCKS);

	if (load_le32(h + VDI_AT_SIGNATURE) != VDI_SIGNATURE)
		return blocks_refuse(b, err, "is not a VDI image");
	if (load_le32(h + VDI_AT_VERSION) != VDI_VERSION)
		return blocks_refuse(b, err, "is of VDI version %u.%u; 1.1 is supported",
				     load_le16(h + VDI_AT_VERSION + 2),
				     load_le16(h + VDI_AT_VERSION));
	if (type != VDI_DYNAMIC && type != VDI_STATIC && type != VDI_DIFF)
		return blocks_refuse(b, err, "is a VDI image of type %u, which is not supported",
				     type);
	if (is_set(h + VDI_AT_UUID_LINK) != (type == VDI_DIFF))
		return blocks_refuse(b, err, "contradicts itself about what it stands on");
	if (load_le32(h + VDI_AT_SECTOR) != DISK_SECTOR_SIZE)
		return blocks_refuse(b, err, "has sectors of %u bytes; 512 are supported",
				     load_le32(h + VDI_AT_SECTOR));
	if (block < 4096 || block > 256u << 20 || (block & (block - 1)) ||
	    load_le32(h + VDI_AT_EXTRA) != 0)
		return blocks_refuse(b, err,
				     "has blocks of %u and %u bytes, which is not supported", block,
				     load_le32(h + VDI_AT_EXTRA));
	if (table % DISK_SECTOR_SIZE || data % DISK_SECTOR_SIZE || table < VDI_HEADER ||
	    data < table || blocks * 4 > data - table)
		return blocks_refuse(b, err, "has a table of blocks at an impossible place");
	if (size == 0 || blocks > VDI_MAX_BLOCKS || size > blocks * block)
		return blocks_refuse(b, err,
				     "claims a size of %" G_GUINT64_FORMAT " bytes in %u blocks",
				     size, (unsigned)blocks);
	return true;
}

static bool is_the_one(const char *path, const uint8_t *uuid)
{
	auto_fd int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	uint8_t h[VDI_HEADER];

	return fd >= 0 && pread(fd, h, sizeof(h), 0) == sizeof(h) &&
	       load_le32(h + VDI_AT_SIGNATURE) == VDI_SIGNATURE &&
	       !memcmp(h + VDI_AT_UUID, uuid, 16);
}

/* NULL: not found. */
static char *find_parent(const char *image, const uint8_t *uuid)
{
	g_autofree char *folder = g_path_get_dirname(image);
	g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
	const char *name;

	for (unsigned i = 0; dir && i < VDI_MAX_LOOKED && (name = g_dir_read_name(dir));) {
		g_autofree char *path = g_build_filename(folder, name, NULL);

		if (!g_str_has_suffix(name, ".vdi"))
			continue;
		i++;
		if (is_the_one(path, uuid))
			return g_strdup(name);
	}
	return NULL;
}

static bool open_parent(struct vdi *v, const struct disk_options *o, struct loop *loop,
			const struct disk_chain *chain, GError **err)
{
	const uint8_t *h = v->header;
	struct disk_options below = *o;
	struct blocks *b = &v->b;
	g_autofree char *name = NULL;
	const struct vdi *parent;

	if (load_le32(h + VDI_AT_TYPE) != VDI_DIFF || o->no_backing)
		return true;
	name = find_parent(b->disk.path, h + VDI_AT_UUID_LINK);
	if (!name)
		return blocks_refuse(b, err,
				     "stands on another image, whose UUID no .vdi file beside it has");
	below.readonly = true;
	below.repair = false;
	b->parent = disk_open_named(b->disk.path, name, "backing file", "vdi", &below, loop, chain,
				    err);
	if (!b->parent)
		return false;
	parent = (const struct vdi *)b->parent;
	if (memcmp(parent->header + VDI_AT_UUID, h + VDI_AT_UUID_LINK, 16) ||
	    memcmp(parent->header + VDI_AT_UUID_LAST, h + VDI_AT_UUID_PARENT, 16))
		return blocks_refuse(
			b, err, "its backing file '%s' was changed since it was put on top of it",
			name);
	return true;
}

static const char *kind_of(const struct vdi *v)
{
	uint32_t type = load_le32(v->header + VDI_AT_TYPE);

	return type == VDI_STATIC ? "static" : type == VDI_DIFF ? "on top of another one" : "dynamic";
}

struct disk *vdi_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			   const struct disk_chain *chain, GError **err)
{
	struct vdi *v = (struct vdi *)blocks_new(sizeof(*v), file, "vdi", &vdi_ops);
	struct blocks *b = &v->b;
	struct disk *disk;
	int r;

	if (!blocks_file_load(b, v->header, VDI_HEADER, 0, err) ||
	    !check_header(b, v->header, err) || !open_parent(v, o, loop, chain, err))
		return blocks_fail_take(b);
	b->disk.size_bytes = load_le64(v->header + VDI_AT_SIZE);
	b->block_bytes = load_le32(v->header + VDI_AT_BLOCK);
	b->table_at = load_le32(v->header + VDI_AT_TABLE);
	b->data_at = load_le32(v->header + VDI_AT_DATA);
	b->entry_bytes = 4;
	b->page_entries = BLOCKS_PAGE / 4;
	b->about = g_strdup_printf("%s, blocks of %" G_GUINT64_FORMAT " KiB", kind_of(v),
				   b->block_bytes / 1024);
	disk = blocks_open_take(b, err);
	r = disk && !disk->readonly ? find_places(v) : 0;
	if (r == 0)
		return disk;
	blocks_refuse(b, err, "its table of blocks cannot be used: %s", g_strerror(-r));
	return blocks_fail_take(b);
}

/* ---- making one ---- */

static void make_header(uint8_t *h, uint64_t size, uint32_t block, uint32_t blocks, bool fixed)
{
	static const char text[] = "<<< Sika VDI disk image >>>\n";

	memset(h, 0, VDI_HEADER);
	memcpy(h, text, sizeof(text) - 1);
	store_le32(h + VDI_AT_SIGNATURE, VDI_SIGNATURE);
	store_le32(h + VDI_AT_VERSION, VDI_VERSION);
	store_le32(h + VDI_AT_HEADER_BYTES, 0x180);
	store_le32(h + VDI_AT_TYPE, fixed ? VDI_STATIC : VDI_DYNAMIC);
	store_le32(h + VDI_AT_TABLE, VDI_HEADER);
	store_le32(h + VDI_AT_DATA, (uint32_t)align_up(VDI_HEADER + blocks * 4ull, 512));
	store_le32(h + VDI_AT_SECTOR, DISK_SECTOR_SIZE);
	store_le64(h + VDI_AT_SIZE, size);
	store_le32(h + VDI_AT_BLOCK, block);
	store_le32(h + VDI_AT_BLOCKS, blocks);
	store_le32(h + VDI_AT_USED, fixed ? blocks : 0);
	disk_form_guid(h + VDI_AT_UUID);
	disk_form_guid(h + VDI_AT_UUID_LAST);
}

static void put_on(uint8_t *h, const struct vdi *parent)
{
	store_le32(h + VDI_AT_TYPE, VDI_DIFF);
	memcpy(h + VDI_AT_UUID_LINK, parent->header + VDI_AT_UUID, 16);
	memcpy(h + VDI_AT_UUID_PARENT, parent->header + VDI_AT_UUID_LAST, 16);
}

static int write_image(struct disk *file, const uint8_t *header, uint32_t blocks, bool fixed)
{
	uint64_t bytes = load_le32(header + VDI_AT_DATA);
	g_autofree uint8_t *front = g_try_malloc0(bytes);
	uint64_t block = load_le32(header + VDI_AT_BLOCK);
	struct disk_req grow = { .op = DISK_RESIZE, .offset = bytes + blocks * block };
	int r;

	if (!front)
		return -ENOMEM;
	memcpy(front, header, VDI_HEADER);
	for (uint32_t i = 0; i < blocks; i++)
		store_le32(front + VDI_HEADER + i * 4ull, fixed ? i : VDI_ABSENT);
	r = disk_write_wait(file, front, bytes, 0);
	return r == 0 && fixed ? disk_run(file, &grow) : r;
}

static bool parse_options(const struct disk_form_create *o, unsigned *ret_fixed, GError **err)
{
	static const char *const off_on[] = { "off", "on", NULL };
	const struct disk_form_option known[] = { { "static", off_on, ret_fixed, NULL } };

	return disk_form_options(o->options, known, ARRAY_SIZE(known), err);
}

bool vdi_create(struct disk *file, const struct disk_form_create *o, GError **err)
{
	uint64_t block = o->block_bytes ? o->block_bytes : VDI_BLOCK;
	uint64_t blocks = o->size_bytes / block + (o->size_bytes % block != 0);
	uint8_t header[VDI_HEADER];
	unsigned fixed = 0;
	int r;

	if (!parse_options(o, &fixed, err))
		return false;
	if (blocks > VDI_MAX_BLOCKS) {
		g_set_error(err, BASE_ERROR, EINVAL, "a VDI image has at most %u MiB",
			    VDI_MAX_BLOCKS);
		return false;
	}
	if (fixed && o->parent) {
		g_set_error(err, BASE_ERROR, EINVAL, "a static image stands on no other one");
		return false;
	}
	make_header(header, o->size_bytes, (uint32_t)block, (uint32_t)blocks, fixed);
	if (o->parent)
		put_on(header, (const struct vdi *)o->parent);
	r = write_image(file, header, (uint32_t)blocks, fixed);
	if (r < 0)
		g_set_error(err, BASE_ERROR, -r, "the image cannot be written: %s", g_strerror(-r));
	return r == 0;
}

uint64_t vdi_measure(const struct disk_form_create *o, uint64_t data)
{
	uint64_t blocks = o->size_bytes / VDI_BLOCK + (o->size_bytes % VDI_BLOCK != 0);
	unsigned fixed = 0;

	if (parse_options(o, &fixed, NULL) && fixed)
		data = blocks * VDI_BLOCK;
	return align_up(VDI_HEADER + blocks * 4, 512) + align_up(data, VDI_BLOCK);
}
