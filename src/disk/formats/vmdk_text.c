// SPDX-License-Identifier: Apache-2.0
/* vmdk_text.c - the descriptor of a VMDK image (vmdk.h; section "The Descriptor File"). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "disk/formats/vmdk.h"

static void extent_clear(void *p)
{
	g_free(((struct vmdk_extent_line *)p)->name);
}

/* RW 4192256 SPARSE "name.vmdk", or FLAT with an offset behind it. 0: it is no such line. */
static int parse_extent(const char *line, struct vmdk_extent_line *ret, GError **err)
{
	char access[12], kind[16], name[1024];
	unsigned long long sectors, offset = 0;
	int n = sscanf(line, "%11s %llu %15s \"%1023[^\"]\" %llu", access, &sectors, kind, name,
		       &offset);
	bool flat;

	if (n < 1 ||
	    (strcmp(access, "RW") && strcmp(access, "RDONLY") && strcmp(access, "NOACCESS")))
		return 0;
	if (n < 3)
		return base_fail(err, ENOTSUP, "has an extent that makes no sense: '%.60s'", line), -1;
	flat = !strcmp(kind, "FLAT") || !strcmp(kind, "VMFS");
	if (!strcmp(access, "NOACCESS") || (!flat && strcmp(kind, "SPARSE")))
		return base_fail(err, ENOTSUP, "has an extent of kind %s %s, which is not supported", access,
			    kind),
		       -1;
	if (n < 4 || (!strcmp(kind, "FLAT") && n < 5))
		return base_fail(err, ENOTSUP, "has an extent that makes no sense: '%.60s'", line), -1;
	if (sectors == 0 || sectors >= 1ull << 48 || offset >= 1ull << 48)
		return base_fail(err, ENOTSUP, "has an extent of %llu sectors", sectors), -1;
	*ret = (struct vmdk_extent_line){ .sparse = !flat,
					  .sectors = sectors,
					  .offset = offset,
					  .access = strcmp(access, "RW") ? VMDK_RDONLY : VMDK_RW,
					  .name = g_strdup(name) };
	return 1;
}

/* key=value, with blanks around and quotes perhaps. */
static bool is_key(const char *line, const char *key, char **ret_value)
{
	size_t n = strlen(key);
	const char *p = line + n;
	char *value;

	if (g_ascii_strncasecmp(line, key, n))
		return false;
	p += strspn(p, " \t");
	if (*p != '=')
		return false;
	value = g_strstrip(g_strdup(p + 1));
	if (*value == '"') {
		memmove(value, value + 1, strlen(value));
		value[strcspn(value, "\"")] = 0;
	}
	g_free(*ret_value);
	*ret_value = value;
	return true;
}

static bool parse_line(const char *line, long at, struct vmdk_text *t, GError **err)
{
	struct vmdk_extent_line extent;
	g_autofree char *value = NULL;
	int r;

	if (is_key(line, "CID", &value)) {
		const char *digits = strchr(line, '=') + 1;

		t->cid = (uint32_t)strtoul(value, NULL, 16);
		if (strspn(digits, "0123456789abcdefABCDEF") == 8)
			t->cid_at = at + (digits - line);
	} else if (is_key(line, "parentCID", &value)) {
		t->parent_cid = (uint32_t)strtoul(value, NULL, 16);
	} else if (!is_key(line, "createType", &t->type) &&
		   !is_key(line, "parentFileNameHint", &t->parent)) {
		r = parse_extent(line, &extent, err);
		if (r < 0)
			return false;
		if (r > 0 && t->extents->len == VMDK_MAX_EXTENTS) {
			g_free(extent.name);
			return base_fail(err, ENOTSUP, "has more than %u extents", VMDK_MAX_EXTENTS);
		}
		if (r > 0)
			g_array_append_val(t->extents, extent);
	}
	return true;
}

bool vmdk_text_parse(const char *text, struct vmdk_text *t, GError **err)
{
	*t = (struct vmdk_text){ .parent_cid = VMDK_NO_PARENT, .cid_at = -1 };
	t->extents = g_array_new(FALSE, FALSE, sizeof(struct vmdk_extent_line));
	g_array_set_clear_func(t->extents, extent_clear);
	for (const char *p = text; *p;) {
		size_t n = strcspn(p, "\r\n");
		g_autofree char *line = g_strndup(p, n);

		if (!parse_line(line, p - text, t, err))
			return false;
		p += n;
		p += strspn(p, "\r\n");
	}
	return true;
}

void vmdk_text_fini(struct vmdk_text *t)
{
	g_free(t->type);
	g_free(t->parent);
	if (t->extents)
		g_array_unref(t->extents);
}
