// SPDX-License-Identifier: Apache-2.0
/* vmdk_create.c - making VMDK images of one file: sparse, and stream-optimized (vmdk.h). */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "disk/formats/formats_int.h"
#include "disk/formats/vmdk.h"

#define GRAIN_SECTORS 128u
#define ENTRIES	      512u
#define TEXT_SECTORS  20u
#define TABLE_SECTORS (ENTRIES * 4 / 512)

struct options {
	unsigned kind, adapter, zeros;
};

static bool parse_options(const struct disk_form_create *o, struct options *ret, GError **err)
{
	static const char *const kinds[] = { "monolithicSparse", "streamOptimized", NULL };
	static const char *const adapters[] = { "ide", "lsilogic", "buslogic", "legacyESX", NULL };
	static const char *const off_on[] = { "off", "on", NULL };
	const struct disk_form_option known[] = { { "subformat", kinds, &ret->kind, NULL },
						  { "adapter_type", adapters, &ret->adapter, NULL },
						  { "zeroed_grain", off_on, &ret->zeros, NULL } };

	*ret = (struct options){ 0 };
	return disk_form_options(o->options, known, ARRAY_SIZE(known), err);
}

/* In sectors: header, descriptor, directory and tables twice, grains. */
struct layout {
	uint64_t capacity, grain, tables, directory_sectors, copy_at, directory_at, grains_at;
};

static struct layout lay_out(const struct disk_form_create *o)
{
	struct layout l = { .capacity = o->size_bytes / DISK_SECTOR_SIZE,
			    .grain = o->block_bytes ? o->block_bytes / DISK_SECTOR_SIZE
						    : GRAIN_SECTORS };
	uint64_t span = l.grain * ENTRIES;

	l.tables = (l.capacity + span - 1) / span;
	l.directory_sectors = (l.tables * 4 + 511) / 512;
	l.copy_at = 1 + TEXT_SECTORS;
	l.directory_at = l.copy_at + l.directory_sectors + l.tables * TABLE_SECTORS;
	l.grains_at =
		align_up(l.directory_at + l.directory_sectors + l.tables * TABLE_SECTORS, l.grain);
	return l;
}

static void make_header(uint8_t *h, const struct layout *l, const struct options *o)
{
	memset(h, 0, VMDK_HEADER);
	store_le32(h + VMDK_AT_MAGIC, VMDK_MAGIC);
	store_le32(h + VMDK_AT_VERSION, o->kind ? 3 : o->zeros ? 2 : 1);
	store_le32(h + VMDK_AT_FLAGS,
		   VMDK_FLAG_NEWLINES | VMDK_FLAG_COPY | (o->zeros ? VMDK_FLAG_ZEROS : 0) |
			   (o->kind ? VMDK_FLAG_COMPRESSED | VMDK_FLAG_MARKERS : 0));
	store_le64(h + VMDK_AT_CAPACITY, l->capacity);
	store_le64(h + VMDK_AT_GRAIN, l->grain);
	store_le64(h + VMDK_AT_TEXT, 1);
	store_le64(h + VMDK_AT_TEXT_SECTORS, TEXT_SECTORS);
	store_le32(h + VMDK_AT_ENTRIES, ENTRIES);
	store_le64(h + VMDK_AT_COPY, l->copy_at);
	store_le64(h + VMDK_AT_DIRECTORY, l->directory_at);
	store_le64(h + VMDK_AT_OVERHEAD, l->grains_at);
	memcpy(h + VMDK_AT_NEWLINES, "\n \r\n", 4);
	store_le16(h + VMDK_AT_COMPRESSION, o->kind ? 1 : 0);
}

static char *make_text(const struct disk_form_create *o, const struct options *opt,
		       const struct layout *l)
{
	static const char *const kinds[] = { "monolithicSparse", "streamOptimized" };
	static const char *const adapters[] = { "ide", "lsilogic", "buslogic", "legacyESX" };
	g_autofree char *base = g_path_get_basename(o->name ? o->name : "disk.vmdk");
	unsigned heads = opt->adapter ? 255 : 16;

	/* The name ends at a quote or a newline for those who read it. */
	g_strdelimit(base, "\"\r\n", '_');
	return g_strdup_printf("# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=ffffffff\n"
			       "createType=\"%s\"\n\n# Extent description\n"
			       "RW %" G_GUINT64_FORMAT
			       " SPARSE \"%.200s\"\n\n# The Disk Data Base\n#DDB\n\n"
			       "ddb.virtualHWVersion = \"4\"\n"
			       "ddb.geometry.cylinders = \"%" G_GUINT64_FORMAT "\"\n"
			       "ddb.geometry.heads = \"%u\"\nddb.geometry.sectors = \"63\"\n"
			       "ddb.adapterType = \"%s\"\n",
			       g_random_int() & 0x7fffffff, kinds[opt->kind], l->capacity, base,
			       (uint64_t)(l->capacity / (63 * heads)), heads,
			       adapters[opt->adapter]);
}

/* All tables are there, and empty: holes in the file. */
static int write_directory(struct disk *file, uint64_t at, const struct layout *l)
{
	uint64_t bytes = l->directory_sectors * 512;
	g_autofree uint8_t *entries = g_try_malloc0(bytes);

	if (!entries)
		return -ENOMEM;
	for (uint64_t i = 0; i < l->tables; i++)
		store_le32(entries + i * 4,
			   (uint32_t)(at + l->directory_sectors + i * TABLE_SECTORS));
	return disk_write_wait(file, entries, bytes, at * 512);
}

static int write_image(struct disk *file, const struct disk_form_create *o,
		       const struct options *opt)
{
	const struct layout l = lay_out(o);
	struct disk_req grow = { .op = DISK_RESIZE, .offset = l.grains_at * 512 };
	uint8_t front[(1 + TEXT_SECTORS) * 512] = { 0 };
	g_autofree char *text = make_text(o, opt, &l);
	int r = disk_run(file, &grow);

	make_header(front, &l, opt);
	memcpy(front + VMDK_HEADER, text, strlen(text));
	if (r == 0)
		r = disk_write_wait(file, front, sizeof(front), 0);
	if (r == 0)
		r = write_directory(file, l.copy_at, &l);
	return r == 0 ? write_directory(file, l.directory_at, &l) : r;
}

bool vmdk_create(struct disk *file, const struct disk_form_create *o, GError **err)
{
	struct options opt;
	int r;

	if (!parse_options(o, &opt, err))
		return false;
	/* Places are 32-bit numbers of sectors, and that of the last grain must be one. */
	if (o->size_bytes > 2040ull << 30) {
		g_set_error(err, BASE_ERROR, EINVAL,
			    "a VMDK image of one file has at most 2040 GiB");
		return false;
	}
	r = write_image(file, o, &opt);
	if (r < 0)
		g_set_error(err, BASE_ERROR, -r, "the image cannot be written: %s", g_strerror(-r));
	return r == 0;
}

uint64_t vmdk_measure(const struct disk_form_create *o, uint64_t data)
{
	const struct layout l = lay_out(o);
	struct options opt;

	/* Compressed at worst: each grain does not get smaller. */
	if (parse_options(o, &opt, NULL) && opt.kind)
		data += (data / (l.grain * 512) + 1) * 512;
	return l.grains_at * 512 + align_up(data, l.grain * 512);
}
