// SPDX-License-Identifier: Apache-2.0
/*
 * vhdx_parent.c - what a differencing VHDX image stands on (vhdx.h; 2.6.2.6, "Parent Locator").
 *
 * The locator is a list of keys and values in UTF-16. "parent_linkage" is the DataWriteGuid that the
 * parent had when the image was put on top of it; it changes with the parent's first change.
 */
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "disk/formats/formats_int.h"
#include "disk/formats/vhdx.h"

#define LOCATOR_HEADER 20u
#define LOCATOR_ENTRY  12u

/* The bytes of a GUID in the order in which it is written. */
static const uint8_t guid_order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };

static bool parse_guid(const char *text, uint8_t ret[16])
{
	unsigned n = 0;

	for (const char *p = text; *p && n < 32; p++) {
		int digit = g_ascii_xdigit_value(*p);

		if (digit < 0)
			continue;
		ret[guid_order[n / 2]] = (uint8_t)(ret[guid_order[n / 2]] << 4 | digit);
		n++;
	}
	return n == 32;
}

static void format_guid(const uint8_t guid[16], char ret[40])
{
	char *p = ret;

	*p++ = '{';
	for (unsigned i = 0; i < 16; i++)
		p += sprintf(p, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02X" : "%02X",
			     guid[guid_order[i]]);
	strcpy(p, "}");
}

bool vhdx_load_locator(struct vhdx *v, const uint8_t *item, uint32_t len, GError **err)
{
	unsigned count = len >= LOCATOR_HEADER ? load_le16(item + 18) : 0;

	if (len < LOCATOR_HEADER || memcmp(item, vhdx_guid_locator, 16))
		return blocks_refuse(&v->b, err, "has a parent locator of a kind that is not supported");
	if (count * LOCATOR_ENTRY > len - LOCATOR_HEADER)
		return blocks_refuse(&v->b, err, "has a parent locator that is cut short");
	for (unsigned i = 0; i < count; i++) {
		const uint8_t *e = item + LOCATOR_HEADER + (size_t)i * LOCATOR_ENTRY;
		uint32_t key_at = load_le32(e), at = load_le32(e + 4);
		uint16_t key_len = load_le16(e + 8), bytes = load_le16(e + 10);
		g_autofree char *key = NULL, *value = NULL;

		if (key_at > len || key_len > len - key_at || at > len || bytes > len - at)
			return blocks_refuse(&v->b, err, "has a parent locator that is cut short");
		key = disk_form_parent_name(item + key_at, key_len, false);
		value = disk_form_parent_name(item + at, bytes, false);
		if (!key || !value)
			continue;
		if (!strcmp(key, "parent_linkage") && !parse_guid(value, v->parent_guid))
			return blocks_refuse(&v->b, err, "has a parent locator that makes no sense");
		/* A path from here on is better than one that was right elsewhere. */
		if (!strcmp(key, "relative_path") ||
		    (!strcmp(key, "absolute_win32_path") && !v->parent_name)) {
			g_free(v->parent_name);
			v->parent_name = g_steal_pointer(&value);
		}
	}
	return true;
}

uint32_t vhdx_make_locator(const struct vhdx *parent, const char *name, uint8_t *to, uint32_t room)
{
	g_autofree char *path = g_path_is_absolute(name) ? g_strdup(name)
							 : g_strconcat("./", name, NULL);
	char guid[40];
	const char *const words[][2] = { { "parent_linkage", guid }, { "relative_path", path } };
	uint32_t at = LOCATOR_HEADER + ARRAY_SIZE(words) * LOCATOR_ENTRY;

	format_guid(parent->header + VHDX_AT_DATA_GUID, guid);
	memset(to, 0, at);
	memcpy(to, vhdx_guid_locator, 16);
	store_le16(to + 18, ARRAY_SIZE(words));
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
		uint8_t *e = to + LOCATOR_HEADER + (size_t)i * LOCATOR_ENTRY;

		for (unsigned k = 0; k < 2; k++) {
			size_t len = disk_form_put_name(words[i][k], false, to + at, room - at);

			if (len == 0 || len > UINT16_MAX)
				return 0;
			store_le32(e + k * 4, at);
			store_le16(e + 8 + k * 2, (uint16_t)len);
			at += (uint32_t)len;
		}
	}
	return at;
}

bool vhdx_open_parent(struct vhdx *v, const struct disk_options *o, struct loop *loop,
		      const struct disk_chain *chain, GError **err)
{
	struct disk_options below = *o;
	struct blocks *b = &v->b;

	if (!v->has_parent || o->no_backing)
		return true;
	if (!v->parent_name)
		return blocks_refuse(b, err, "stands on another image and does not say on which");
	below.readonly = true;
	below.repair = false;
	b->parent = disk_open_named(b->disk.path, v->parent_name, "backing file", "vhdx", &below,
				    loop, chain, err);
	if (!b->parent)
		return false;
	if (memcmp(((const struct vhdx *)b->parent)->header + VHDX_AT_DATA_GUID, v->parent_guid, 16))
		return blocks_refuse(
			b, err, "its backing file '%s' was changed since it was put on top of it",
			v->parent_name);
	return true;
}
