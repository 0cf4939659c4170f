// SPDX-License-Identifier: Apache-2.0
/*
 * vmdk.c - VMware's disk images: a descriptor that names its extents, or one sparse extent with the
 * descriptor inside (vmdk.h).
 *
 * An image may stand on another one. Each has a content id that changes with the first write, and
 * notes that of the image below: where they differ, what lies below is not what it was.
 */
#include "disk/formats/vmdk.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "disk/formats/formats_int.h"

int vmdk_change_cid(struct blocks *b)
{
	struct vmdk *v = (struct vmdk *)b;
	char digits[9];

	if (v->cid_at < 0)
		return 0;
	v->cid ^= g_random_int() | 1;
	if (v->cid == VMDK_NO_PARENT)
		v->cid--;
	snprintf(digits, sizeof(digits), "%08x", v->cid);
	return blocks_file_write(b, digits, 8, v->text_at + (uint64_t)v->cid_at);
}

/* NULL: @err is set. */
static char *read_text(struct vmdk *v, GError **err)
{
	g_autofree char *text = g_try_malloc0(v->text_len + 1ul);
	int r = text ? blocks_file_read(&v->b, text, v->text_len, v->text_at) : -ENOMEM;

	if (r == 0)
		return g_steal_pointer(&text);
	blocks_refuse(&v->b, err, "its descriptor cannot be read: %s", g_strerror(-r));
	return NULL;
}

static bool parse_text(struct vmdk *v, const char *text, struct vmdk_text *t, GError **err)
{
	g_autoptr(GError) why = NULL;

	if (!vmdk_text_parse(text, t, &why))
		return blocks_refuse(&v->b, err, "%s", why->message);
	v->cid = t->cid;
	v->cid_at = t->cid_at;
	return true;
}

static bool open_parent(struct vmdk *v, const struct vmdk_text *t, const struct disk_options *o,
			struct loop *loop, const struct disk_chain *chain, GError **err)
{
	struct disk_options below = *o;
	struct blocks *b = &v->b;

	if (t->parent_cid == VMDK_NO_PARENT || o->no_backing)
		return true;
	if (!t->parent)
		return blocks_refuse(b, err, "stands on another image and does not say on which");
	below.readonly = true;
	below.repair = false;
	b->parent = disk_open_named(b->disk.path, t->parent, "backing file", "vmdk", &below, loop,
				    chain, err);
	if (!b->parent)
		return false;
	if (((struct vmdk *)b->parent)->cid != t->parent_cid)
		return blocks_refuse(
			b, err, "its backing file '%s' was changed since it was put on top of it",
			t->parent);
	return true;
}

/* ---- one extent, its descriptor inside ---- */

static struct disk *open_single(struct disk *file, const struct disk_options *o, struct loop *loop,
				const struct disk_chain *chain, GError **err)
{
	struct disk *disk = vmdk_sparse_open_take(file, err);
	struct vmdk *v = (struct vmdk *)disk;
	g_autofree char *text = NULL;
	struct vmdk_text t = { 0 };
	bool ok;

	if (!disk)
		return NULL;
	text = read_text(v, err);
	ok = text && parse_text(v, text, &t, err) && open_parent(v, &t, o, loop, chain, err);
	v->b.about = g_strdup_printf("%s, grains of %" G_GUINT64_FORMAT " KiB%s%s",
				     t.type ? t.type : "monolithicSparse", v->b.block_bytes / 1024,
				     t.parent ? ", on top of " : "", t.parent ? t.parent : "");
	vmdk_text_fini(&t);
	return ok ? disk : blocks_fail_take(&v->b);
}

/* ---- a descriptor and extents ---- */

static const struct blocks_ops extents_ops = {
	.first = vmdk_change_cid,
};

static struct disk *open_extent(struct vmdk *v, const struct vmdk_extent_line *line,
				const struct disk_options *o, struct loop *loop,
				const struct disk_chain *chain, GError **err)
{
	struct disk_options options = *o;
	struct disk *file, *disk;
	uint64_t end = (line->offset + line->sectors) * DISK_SECTOR_SIZE;

	options.readonly |= line->access != VMDK_RW;
	file = disk_open_named(v->b.disk.path, line->name, "extent", "file", &options, loop, chain,
			       err);
	if (file && !line->sparse)
		disk_direct_keep_end(file);
	if (!file || !line->sparse) {
		if (!file || end <= file->size_bytes)
			return file;
		blocks_refuse(&v->b, err, "its extent '%s' is shorter than it should be",
			      line->name);
		disk_close(file);
		return NULL;
	}
	disk = vmdk_sparse_open_take(file, err);
	if (!disk || disk->size_bytes >= line->sectors * DISK_SECTOR_SIZE)
		return disk;
	blocks_refuse(&v->b, err, "its extent '%s' is shorter than it should be", line->name);
	disk_close(disk);
	return NULL;
}

static bool open_extents(struct vmdk *v, const struct vmdk_text *t, const struct disk_options *o,
			 struct loop *loop, const struct disk_chain *chain, GError **err)
{
	struct blocks *b = &v->b;

	b->parts = g_new0(struct blocks_part, t->extents->len + 1);
	for (guint i = 0; i < t->extents->len; i++) {
		const struct vmdk_extent_line *line =
			&g_array_index(t->extents, struct vmdk_extent_line, i);
		struct disk *disk = open_extent(v, line, o, loop, chain, err);

		if (!disk)
			return false;
		b->parts[b->part_count++] = (struct blocks_part){
			.disk = disk,
			.start = b->disk.size_bytes,
			.len = line->sectors * DISK_SECTOR_SIZE,
			.at = line->sparse ? 0 : line->offset * DISK_SECTOR_SIZE,
		};
		b->disk.size_bytes += line->sectors * DISK_SECTOR_SIZE;
	}
	return b->part_count > 0 || blocks_refuse(b, err, "names no extents");
}

static struct disk *open_descriptor(struct disk *file, const struct disk_options *o,
				    struct loop *loop, const struct disk_chain *chain, GError **err)
{
	struct vmdk *v = (struct vmdk *)blocks_new(sizeof(*v), file, "vmdk", &extents_ops);
	struct blocks *b = &v->b;
	g_autofree char *text = NULL;
	struct vmdk_text t = { 0 };
	bool ok = file->size_bytes <= VMDK_MAX_DESCRIPTOR ||
		  blocks_refuse(b, err, "has a descriptor of more than 1 MiB");

	disk_direct_keep_end(file);
	v->text_len = ok ? (uint32_t)file->size_bytes : 0;
	b->flat = true;
	b->disk.size_bytes = 0;
	text = ok ? read_text(v, err) : NULL;
	ok = text && parse_text(v, text, &t, err);
	if (ok && t.parent_cid != VMDK_NO_PARENT)
		ok = blocks_refuse(b, err,
				   "is of several files and stands on another image, which is not "
				   "supported");
	ok = ok && open_extents(v, &t, o, loop, chain, err);
	b->about =
		g_strdup_printf("%s, %u extents", t.type ? t.type : "unknown kind", b->part_count);
	vmdk_text_fini(&t);
	return ok ? blocks_open_take(b, err) : blocks_fail_take(b);
}

struct disk *vmdk_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			    const struct disk_chain *chain, GError **err)
{
	uint8_t head[32] = { 0 };
	int r = file->size_bytes >= sizeof(head) ? disk_read_wait(file, head, sizeof(head), 0) : 0;

	if (r < 0) {
		g_set_error(err, BASE_ERROR, -r, "disk '%s': cannot be read: %s", file->path,
			    g_strerror(-r));
		disk_close(file);
		return NULL;
	}
	if (!memcmp(head, "# Disk DescriptorFile", 21))
		return open_descriptor(file, o, loop, chain, err);
	return open_single(file, o, loop, chain, err);
}
