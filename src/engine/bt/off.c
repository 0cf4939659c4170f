// SPDX-License-Identifier: Apache-2.0
/* off.c - the names of the switches that take optimizations away (enum bt_off). */
#include <string.h>

#include "base/error.h"
#include "engine/bt/bt_int.h"

static const struct {
	const char *name;
	uint32_t bit;
} switches[] = {
	{ "jit", BT_OFF_JIT },	       { "links", BT_OFF_LINKS },
	{ "cross", BT_OFF_CROSS },     { "entries", BT_OFF_ENTRIES },
	{ "flags", BT_OFF_FLAGS },     { "returns", BT_OFF_RETURNS },
	{ "map", BT_OFF_MAP },	       { "runs", BT_OFF_RUNS },
	{ "system", BT_OFF_SYSTEM },   { "direct", BT_OFF_DIRECT },
	{ "direct-wait", BT_OFF_DIRECT_WAIT }, { "return-entry", BT_OFF_RETURN_ENTRY },
	{ "direct-classes", BT_OFF_DIRECT_CLASSES }, { "gates", BT_OFF_GATES },
	{ "fallbacks", BT_OFF_FALLBACKS }, { "user", BT_OFF_USER },
	{ "user-wait", BT_OFF_USER_WAIT }, { "counter", BT_OFF_COUNTER },
};

static bool off_find(const char *name, size_t len, uint32_t *ret_bit)
{
	for (size_t i = 0; i < G_N_ELEMENTS(switches); i++) {
		if (strlen(switches[i].name) != len || memcmp(switches[i].name, name, len) != 0)
			continue;
		*ret_bit = switches[i].bit;
		return true;
	}
	return false;
}

bool bt_off_parse(const char *text, uint32_t *ret_off, GError **err)
{
	for (const char *p = text;; p++) {
		size_t len = strcspn(p, "+");
		uint32_t bit;

		if (!off_find(p, len, &bit)) {
			g_autoptr(GString) known = g_string_new(NULL);

			for (size_t i = 0; i < G_N_ELEMENTS(switches); i++)
				g_string_append_printf(known, "%s%s", i ? ", " : "",
						       switches[i].name);
			g_set_error(err, BASE_ERROR, EINVAL,
				    "--engine bt: nothing called '%.*s' can be off, there are: %s",
				    (int)len, p, known->str);
			return false;
		}
		*ret_off |= bit;
		p += len;
		if (!*p)
			return true;
	}
}
