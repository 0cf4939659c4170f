// SPDX-License-Identifier: Apache-2.0
/* formats.c - the table of image formats beside raw and qcow2, and their options. */
#include "disk/formats/formats.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/units.h"
#include "disk/formats/blocks.h"
#include "disk/formats/formats_int.h"

const struct disk_form disk_forms[] = {
	{ "vdi", NULL, "VDI", vdi_open_take, vdi_create, vdi_measure, true, 1u << 20 },
	{ "vhd", "vpc", "VHD", vhd_open_take, vhd_create, vhd_measure, true, 2u << 20 },
	{ "vmdk", NULL, "VMDK", vmdk_open_take, vmdk_create, vmdk_measure, true, 64u << 10 },
	{ "vhdx", NULL, "VHDX", vhdx_open_take, vhdx_create, vhdx_measure, true, 8u << 20 },
	{ "parallels", NULL, "Parallels", parallels_open_take, NULL, NULL, false, 1u << 20 },
	{ "dmg", NULL, "DMG", dmg_open_take, NULL, NULL, false, 1u << 20 },
	{ "cloop", NULL, "cloop", cloop_open_take, NULL, NULL, false, 64u << 10 },
	{ NULL, NULL, NULL, NULL, NULL, NULL, false, 0 },
};

const struct disk_form *disk_form_find(const char *name)
{
	for (const struct disk_form *f = disk_forms; f->name; f++)
		if (!strcmp(f->name, name) || (f->alias && !strcmp(f->alias, name)))
			return f;
	return NULL;
}

bool disk_form_is_known(const char *name)
{
	return !strcmp(name, "raw") || !strcmp(name, "qcow2") || disk_form_find(name);
}

char *disk_form_names(void)
{
	GString *s = g_string_new("raw, qcow2");

	for (const struct disk_form *f = disk_forms; f->name; f++)
		g_string_append_printf(s, ", %s", f->name);
	return g_string_free(s, FALSE);
}

bool disk_form_create_file(const struct disk_form *form, const char *path,
			   const struct disk_form_create *o, struct loop *loop, GError **err)
{
	const struct disk_options options = { 0 };
	struct disk *file = disk_file_open(path, &options, loop, err);
	struct disk_form_create create = *o;
	g_autofree char *folder = g_path_get_dirname(path);
	bool made;

	create.folder = folder;
	create.loop = loop;
	made = file && form->create(file, &create, err);
	disk_close(file);
	return made;
}

char *disk_form_parent_name(const uint8_t *utf16, size_t bytes, bool big)
{
	g_autofree gunichar2 *units = g_new0(gunichar2, bytes / 2 + 1);
	g_autofree char *name = NULL;
	char *start;

	for (size_t i = 0; i < bytes / 2; i++)
		units[i] = big ? load_be16(utf16 + i * 2) : load_le16(utf16 + i * 2);
	name = g_utf16_to_utf8(units, -1, NULL, NULL, NULL);
	if (!name || !*name)
		return NULL;
	g_strdelimit(name, "\\", '/');
	/* A drive is nothing that is to be found here: beside the image then. */
	start = strchr(name, ':') ? strrchr(name, '/') : NULL;
	start = start ? start + 1 : name;
	while (g_str_has_prefix(start, "./"))
		start += 2;
	return *start ? g_strdup(start) : NULL;
}

size_t disk_form_put_name(const char *name, bool big, uint8_t *to, size_t room)
{
	g_autofree gunichar2 *units = NULL;
	g_autofree char *copy = g_strdup(name);
	glong count = 0;

	g_strdelimit(copy, "/", '\\');
	units = g_utf8_to_utf16(copy, -1, NULL, &count, NULL);
	if (!units || count == 0 || (size_t)count * 2 > room)
		return 0;
	for (glong i = 0; i < count; i++)
		(big ? store_be16 : store_le16)(to + i * 2, units[i]);
	return (size_t)count * 2;
}

/* Formats that are no qcow2 and no raw image are images of blocks. */
static struct blocks *blocks_of(const struct disk *disk)
{
	return disk_form_find(disk->format) ? (struct blocks *)disk : NULL;
}

const char *disk_form_about(const struct disk *disk)
{
	const struct blocks *b = blocks_of(disk);

	return b ? b->about : NULL;
}

bool disk_form_packs(const struct disk *disk)
{
	const struct blocks *b = blocks_of(disk);

	return b && b->pack_only;
}

int disk_form_check(struct disk *disk, bool repair, struct disk_found *ret)
{
	struct blocks *b = blocks_of(disk);

	return b ? blocks_check(b, repair, ret) : -EOPNOTSUPP;
}

void disk_form_guid(uint8_t ret[16])
{
	if (getrandom(ret, 16, 0) != 16)
		for (unsigned i = 0; i < 16; i++)
			ret[i] = (uint8_t)g_random_int();
	ret[7] = (ret[7] & 0x0f) | 0x40;
	ret[8] = (ret[8] & 0x3f) | 0x80;
}

static bool option_set(const struct disk_form_option *o, const char *value, GError **err)
{
	g_autoptr(GError) why = NULL;

	for (unsigned i = 0; o->words && o->words[i]; i++) {
		if (strcmp(o->words[i], value))
			continue;
		*o->word = i;
		return true;
	}
	if (!o->words && size_parse(value, 1, o->size, &why))
		return true;
	if (why) {
		g_set_error(err, BASE_ERROR, EINVAL, "option '%s': %s", o->key, why->message);
	} else {
		g_autofree char *list = g_strjoinv(", ", (char **)o->words);

		g_set_error(err, BASE_ERROR, EINVAL, "option '%s': '%s' is none of: %s", o->key,
			    value, list);
	}
	return false;
}

bool disk_form_options(const char *text, const struct disk_form_option *known, size_t count,
		       GError **err)
{
	g_auto(GStrv) items = g_strsplit(text ? text : "", ",", -1);

	for (char **item = items; *item; item++) {
		size_t n = strcspn(*item, "="), i = 0;

		while (i < count && (strlen(known[i].key) != n || strncmp(known[i].key, *item, n)))
			i++;
		if (i == count) {
			g_set_error(err, BASE_ERROR, EINVAL,
				    "option '%s' is not known to this format", *item);
			return false;
		}
		/* "static" alone means "static=on". */
		if (!option_set(&known[i], (*item)[n] ? *item + n + 1 : "on", err))
			return false;
	}
	return true;
}
