// SPDX-License-Identifier: Apache-2.0
/* units.c - sizes as people write them. */
#include "units.h"

#include <string.h>

#include "base/error.h"

#define SIZE_LIMIT (1ull << 63)

static const struct {
	char letter;
	unsigned shift;
} unit_table[] = {
	{'K', 10}, {'M', 20}, {'G', 30}, {'T', 40}, {'P', 50},
};

/* The unit behind the number: "", "B", "K", "KB", "KiB"; all of them powers of two. */
static gboolean unit_parse(const char *text, uint64_t plain_unit, uint64_t *ret_unit)
{
	char letter = g_ascii_toupper(*text);

	if (letter == '\0') {
		*ret_unit = plain_unit;
		return TRUE;
	}
	if (g_ascii_strcasecmp(text, "B") == 0) {
		*ret_unit = 1;
		return TRUE;
	}
	for (size_t i = 0; i < G_N_ELEMENTS(unit_table); i++) {
		const char *rest = text + 1;

		if (letter != unit_table[i].letter)
			continue;
		if (*rest && g_ascii_strcasecmp(rest, "B") && g_ascii_strcasecmp(rest, "iB"))
			return FALSE;
		*ret_unit = 1ull << unit_table[i].shift;
		return TRUE;
	}
	return FALSE;
}

/* Decimal fraction behind the point, as numerator over a power of ten. At most nine digits
 * count. */
static const char *fraction_parse(const char *p, uint64_t *ret_num, uint64_t *ret_den)
{
	*ret_num = 0;
	*ret_den = 1;
	for (; g_ascii_isdigit(*p); p++) {
		if (*ret_den >= 1000000000ull)
			continue;
		*ret_num = *ret_num * 10 + (uint64_t)(*p - '0');
		*ret_den *= 10;
	}
	return p;
}

gboolean size_parse(const char *text, uint64_t plain_unit, uint64_t *ret_bytes, GError **err)
{
	const char *p = text;
	uint64_t whole = 0, num = 0, den = 1, unit = 1;
	unsigned __int128 total;
	gboolean overflow = FALSE;

	if (!g_ascii_isdigit(*p))
		goto not_a_size;
	for (; g_ascii_isdigit(*p); p++) {
		overflow |= whole >= UINT64_MAX / 10;
		whole = whole * 10 + (uint64_t)(*p - '0');
	}
	if (*p == '.') {
		if (!g_ascii_isdigit(p[1]))
			goto not_a_size;
		p = fraction_parse(p + 1, &num, &den);
	}
	if (!unit_parse(p, plain_unit, &unit))
		goto not_a_size;

	total = (unsigned __int128)whole * unit + (unsigned __int128)num * unit / den;
	if (overflow || total >= SIZE_LIMIT) {
		g_set_error(err, BASE_ERROR, EINVAL, "size '%s' is too large", text);
		return FALSE;
	}
	*ret_bytes = (uint64_t)total;
	return TRUE;

not_a_size:
	g_set_error(err, BASE_ERROR, EINVAL, "'%s' is not a size (write it as 512M, 1G or 1.5G)",
		    text);
	return FALSE;
}

char *size_format(uint64_t bytes)
{
	for (size_t i = G_N_ELEMENTS(unit_table); i-- > 0;) {
		uint64_t unit = 1ull << unit_table[i].shift;

		if (bytes < unit)
			continue;
		if (bytes % unit == 0)
			return g_strdup_printf("%" G_GUINT64_FORMAT " %ciB", bytes / unit,
					       unit_table[i].letter);
		return g_strdup_printf("%.1f %ciB", (double)bytes / (double)unit,
				       unit_table[i].letter);
	}
	return g_strdup_printf("%" G_GUINT64_FORMAT " bytes", bytes);
}
