// SPDX-License-Identifier: Apache-2.0
/*
 * vmdk_create.c - making VMDK images (vmdk.h): of one file, sparse or stream-optimized; and of a
 * descriptor with extents beside it, flat ones or sparse ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "disk/formats/formats_int.h"
#include "disk/formats/vmdk.h"

#define GRAIN_SECTORS 128u
#define ENTRIES	      512u
#define TEXT_SECTORS  20u
#define TABLE_SECTORS (ENTRIES * 4 / 512)
#define SPLIT_SECTORS 4192256u /* of an extent where there are several: 2047 MiB, as VMware has it */

enum kind { SPARSE, STREAM, FLAT, SPLIT_SPARSE, SPLIT_FLAT };

static const char *const kinds[] = { "monolithicSparse",    "streamOptimized",	  "monolithicFlat",
				     "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", NULL };
static const char *const adapters[] = { "ide", "lsilogic", "buslogic", "legacyESX", NULL };

struct options {
	unsigned kind; /* enum kind */
	unsigned adapter, zeros;
};

static bool parse_options(const struct disk_form_create *o, struct options *ret, GError **err)
{
	static const char *const off_on[] = { "off", "on", NULL };
	const struct disk_form_option known[] = { { "subformat", kinds, &ret->kind, NULL },
						  { "adapter_type", adapters, &ret->adapter, NULL },
						  { "zeroed_grain", off_on, &ret->zeros, NULL } };

	*ret = (struct options){ 0 };
	return disk_form_options(o->options, known, ARRAY_SIZE(known), err);
}

/* In sectors: header, descriptor, directory and tables twice, grains. */
struct layout {
	uint64_t capacity, text, grain, tables, directory_sectors, copy_at, directory_at, grains_at;
};

/* @text: sectors of the descriptor inside; 0: it is in another file. */
static struct layout lay_out(const struct disk_form_create *o, uint64_t sectors, uint64_t text)
{
	struct layout l = { .capacity = sectors,
			    .text = text,
			    .grain = o->block_bytes ? o->block_bytes / DISK_SECTOR_SIZE
						    : GRAIN_SECTORS };
	uint64_t span = l.grain * ENTRIES;

	l.tables = (l.capacity + span - 1) / span;
	l.directory_sectors = (l.tables * 4 + 511) / 512;
	l.copy_at = 1 + text;
	l.directory_at = l.copy_at + l.directory_sectors + l.tables * TABLE_SECTORS;
	l.grains_at =
		align_up(l.directory_at + l.directory_sectors + l.tables * TABLE_SECTORS, l.grain);
	return l;
}

static void make_header(uint8_t *h, const struct layout *l, const struct options *o)
{
	memset(h, 0, VMDK_HEADER);
	store_le32(h + VMDK_AT_MAGIC, VMDK_MAGIC);
	store_le32(h + VMDK_AT_VERSION, o->kind == STREAM ? 3 : o->zeros ? 2 : 1);
	store_le32(h + VMDK_AT_FLAGS,
		   VMDK_FLAG_NEWLINES | VMDK_FLAG_COPY | (o->zeros ? VMDK_FLAG_ZEROS : 0) |
			   (o->kind == STREAM ? VMDK_FLAG_COMPRESSED | VMDK_FLAG_MARKERS : 0));
	store_le64(h + VMDK_AT_CAPACITY, l->capacity);
	store_le64(h + VMDK_AT_GRAIN, l->grain);
	store_le64(h + VMDK_AT_TEXT, l->text ? 1 : 0);
	store_le64(h + VMDK_AT_TEXT_SECTORS, l->text);
	store_le32(h + VMDK_AT_ENTRIES, ENTRIES);
	store_le64(h + VMDK_AT_COPY, l->copy_at);
	store_le64(h + VMDK_AT_DIRECTORY, l->directory_at);
	store_le64(h + VMDK_AT_OVERHEAD, l->grains_at);
	memcpy(h + VMDK_AT_NEWLINES, "\n \r\n", 4);
	store_le16(h + VMDK_AT_COMPRESSION, o->kind == STREAM ? 1 : 0);
}

/* As the image will be called. */
static char *base_name(const struct disk_form_create *o)
{
	char *base = g_path_get_basename(o->name ? o->name : "disk.vmdk");

	/* The name ends at a quote or a newline for those who read it. */
	return g_strdelimit(base, "\"\r\n", '_');
}

/* @extents: a line for each. */
static char *make_text(const struct disk_form_create *o, const struct options *opt, const char *extents)
{
	const struct vmdk *parent = (const struct vmdk *)o->parent;
	g_autofree char *hint =
		parent ? g_strdup_printf("parentFileNameHint=\"%s\"\n", o->backing) : g_strdup("");
	unsigned heads = opt->adapter ? 255 : 16;

	return g_strdup_printf("# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\n"
			       "createType=\"%s\"\n%s\n# Extent description\n"
			       "%s\n# The Disk Data Base\n#DDB\n\n"
			       "ddb.virtualHWVersion = \"4\"\n"
			       "ddb.geometry.cylinders = \"%" G_GUINT64_FORMAT "\"\n"
			       "ddb.geometry.heads = \"%u\"\nddb.geometry.sectors = \"63\"\n"
			       "ddb.adapterType = \"%s\"\n",
			       g_random_int() & 0x7fffffff, parent ? parent->cid : VMDK_NO_PARENT,
			       kinds[opt->kind], hint, extents,
			       (uint64_t)(o->size_bytes / DISK_SECTOR_SIZE / (63 * heads)), heads,
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

/* @text: NULL: none. */
static int write_sparse(struct disk *file, const struct layout *l, const struct options *opt,
			const char *text)
{
	struct disk_req grow = { .op = DISK_RESIZE, .offset = l->grains_at * 512 };
	uint8_t front[(1 + TEXT_SECTORS) * 512] = { 0 };
	int r = disk_run(file, &grow);

	make_header(front, l, opt);
	if (text && strlen(text) > TEXT_SECTORS * 512)
		return -ENAMETOOLONG;
	if (text)
		memcpy(front + VMDK_HEADER, text, strlen(text));
	if (r == 0)
		r = disk_write_wait(file, front, (1 + l->text) * 512, 0);
	if (r == 0)
		r = write_directory(file, l->copy_at, l);
	return r == 0 ? write_directory(file, l->directory_at, l) : r;
}

/* ---- several files ---- */

static bool fail(GError **err, int r, const char *name)
{
	g_set_error(err, BASE_ERROR, -r, "the extent '%s' cannot be written: %s", name,
		    g_strerror(-r));
	return false;
}

static bool make_extent(const struct disk_form_create *o, const struct options *opt, const char *name,
			uint64_t sectors, GError **err)
{
	g_autofree char *path = g_build_filename(o->folder, name, NULL);
	const struct layout l = lay_out(o, sectors, 0);
	const struct disk_options options = { 0 };
	struct disk *file;
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644), r = 0;

	if (fd < 0)
		return fail(err, -errno, name);
	g_ptr_array_add(o->made, g_strdup(path));
	if (opt->kind != SPLIT_SPARSE && ftruncate(fd, (off_t)(sectors * DISK_SECTOR_SIZE)) < 0)
		r = -errno;
	close(fd);
	if (r < 0 || opt->kind != SPLIT_SPARSE)
		return r == 0 || fail(err, r, name);
	file = disk_file_open(path, &options, o->loop, err);
	if (!file)
		return false;
	r = write_sparse(file, &l, opt, NULL);
	disk_close(file);
	return r == 0 || fail(err, r, name);
}

static char *extent_name(const struct disk_form_create *o, const struct options *opt, unsigned number)
{
	g_autofree char *base = base_name(o);

	if (g_str_has_suffix(base, ".vmdk"))
		base[strlen(base) - strlen(".vmdk")] = 0;
	return opt->kind == FLAT ? g_strdup_printf("%.200s-flat.vmdk", base)
				 : g_strdup_printf("%.200s-%c%03u.vmdk", base,
						   opt->kind == SPLIT_FLAT ? 'f' : 's', number);
}

/* NULL: @err is set. */
static char *make_extents(const struct disk_form_create *o, const struct options *opt, GError **err)
{
	uint64_t left = o->size_bytes / DISK_SECTOR_SIZE;
	g_autoptr(GString) lines = g_string_new(NULL);

	for (unsigned i = 1; left > 0; i++) {
		uint64_t sectors = opt->kind == FLAT ? left : MIN(left, SPLIT_SECTORS);
		g_autofree char *name = extent_name(o, opt, i);

		if (!make_extent(o, opt, name, sectors, err))
			return NULL;
		g_string_append_printf(lines, "RW %" G_GUINT64_FORMAT " %s \"%s\"%s\n", sectors,
				       opt->kind == SPLIT_SPARSE ? "SPARSE" : "FLAT", name,
				       opt->kind == SPLIT_SPARSE ? "" : " 0");
		left -= sectors;
	}
	return g_string_free(g_steal_pointer(&lines), FALSE);
}

/* ---- */

static bool check_options(const struct disk_form_create *o, const struct options *opt, GError **err)
{
	bool several = opt->kind > STREAM;

	/* Places are 32-bit numbers of sectors, and that of the last grain must be one. */
	if (!several && o->size_bytes > 2040ull << 30)
		return base_fail(err, EINVAL, "a VMDK image of one file has at most 2040 GiB");
	if (several && o->size_bytes / DISK_SECTOR_SIZE > (uint64_t)VMDK_MAX_EXTENTS * SPLIT_SECTORS)
		return base_fail(err, EINVAL, "a VMDK image has at most %u extents of 2047 MiB",
				 VMDK_MAX_EXTENTS);
	if (several && !o->made)
		return base_fail(err, EINVAL, "%s images are several files", kinds[opt->kind]);
	if (o->parent && opt->kind != SPARSE)
		return base_fail(err, EINVAL, "%s images stand on no other one", kinds[opt->kind]);
	if (o->parent && strpbrk(o->backing, "\"\r\n"))
		return base_fail(err, EINVAL, "the name of what is below holds a quote or a newline");
	return true;
}

bool vmdk_create(struct disk *file, const struct disk_form_create *o, GError **err)
{
	const struct layout l = lay_out(o, o->size_bytes / DISK_SECTOR_SIZE, TEXT_SECTORS);
	g_autofree char *base = base_name(o), *extents = NULL, *text = NULL;
	struct options opt;
	int r;

	if (!parse_options(o, &opt, err) || !check_options(o, &opt, err))
		return false;
	if (opt.kind > STREAM)
		extents = make_extents(o, &opt, err);
	else
		extents = g_strdup_printf("RW %" G_GUINT64_FORMAT " SPARSE \"%.200s\"\n", l.capacity,
					  base);
	if (!extents)
		return false;
	text = make_text(o, &opt, extents);
	r = opt.kind > STREAM ? disk_write_wait(file, text, strlen(text), 0)
			      : write_sparse(file, &l, &opt, text);
	return r == 0 || base_fail(err, -r, "the image cannot be written: %s", g_strerror(-r));
}

uint64_t vmdk_measure(const struct disk_form_create *o, uint64_t data)
{
	uint64_t sectors = o->size_bytes / DISK_SECTOR_SIZE, descriptor = TEXT_SECTORS * 512;
	struct layout l = lay_out(o, sectors, TEXT_SECTORS);
	struct options opt;
	bool known = parse_options(o, &opt, NULL);

	if (known && (opt.kind == FLAT || opt.kind == SPLIT_FLAT))
		return descriptor + o->size_bytes;
	/* In front of the grains of each extent, at most; and a grain more at its end. */
	if (known && opt.kind == SPLIT_SPARSE) {
		l = lay_out(o, SPLIT_SECTORS, 0);
		return descriptor + (sectors / SPLIT_SECTORS + 1) * (l.grains_at + l.grain) * 512 +
		       align_up(data, l.grain * 512);
	}
	/* Compressed at worst: each grain does not get smaller. */
	if (known && opt.kind == STREAM)
		data += (data / (l.grain * 512) + 1) * 512;
	return l.grains_at * 512 + align_up(data, l.grain * 512);
}
