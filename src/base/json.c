// SPDX-License-Identifier: Apache-2.0
/* json.c - strings out, flat objects in. RFC 8259. */
#include "base/json.h"

#include <string.h>

void json_append_string(GString *out, const char *text)
{
	g_autofree char *valid = g_utf8_make_valid(text, -1);

	g_string_append_c(out, '"');
	for (const char *p = valid; *p; p++) {
		if (*p == '"' || *p == '\\')
			g_string_append_printf(out, "\\%c", *p);
		else if (*p == '\n')
			g_string_append(out, "\\n");
		else if ((unsigned char)*p < ' ' || *p == 0x7f)
			g_string_append_printf(out, "\\u%04x", (unsigned)*p);
		else
			g_string_append_c(out, *p);
	}
	g_string_append_c(out, '"');
}

static const char *skip_space(const char *p)
{
	while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')
		p++;
	return p;
}

/* Four hexadecimal digits; surrogates and zero, which a C string cannot hold, are refused. */
static const char *parse_unicode(const char *p, GString *out)
{
	gunichar c = 0;

	for (unsigned i = 0; i < 4; i++, p++) {
		int digit = g_ascii_xdigit_value(*p);

		if (digit < 0)
			return NULL;
		c = c << 4 | (gunichar)digit;
	}
	if (!c || !g_unichar_validate(c))
		return NULL;
	g_string_append_unichar(out, c);
	return p;
}

static const char *parse_escape(const char *p, GString *out)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *at;

	if (*p == 'u')
		return parse_unicode(p + 1, out);
	at = *p ? strchr(from, *p) : NULL;
	if (!at)
		return NULL;
	g_string_append_c(out, to[at - from]);
	return p + 1;
}

/* @p is at the opening quote. Behind the closing one, or NULL. */
static const char *parse_string(const char *p, char **ret)
{
	g_autoptr(GString) out = g_string_new(NULL);

	if (*p++ != '"')
		return NULL;
	while (p && *p != '"') {
		if ((unsigned char)*p < ' ')
			return NULL;
		if (*p == '\\')
			p = parse_escape(p + 1, out);
		else
			g_string_append_c(out, *p++);
	}
	if (!p)
		return NULL;
	*ret = g_strdup(out->str);
	return p + 1;
}

/* A number, true, false or null, by its characters. */
static const char *parse_word(const char *p, char **ret)
{
	size_t len = strspn(p, "+-.0123456789abcdefghijklmnopqrstuvwxyzE");
	g_autofree char *word = g_strndup(p, len);
	char *end;

	if (strcmp(word, "true") && strcmp(word, "false") && strcmp(word, "null")) {
		if (*word != '-' && !g_ascii_isdigit(*word))
			return NULL;
		(void)g_ascii_strtod(word, &end);
		if (*end)
			return NULL;
	}
	*ret = g_steal_pointer(&word);
	return p + len;
}

/* "key": value. */
static const char *parse_member(const char *p, GHashTable *to)
{
	g_autofree char *key = NULL, *value = NULL;

	p = parse_string(p, &key);
	if (!p)
		return NULL;
	p = skip_space(p);
	if (*p != ':')
		return NULL;
	p = skip_space(p + 1);
	p = *p == '"' ? parse_string(p, &value) : parse_word(p, &value);
	if (p)
		g_hash_table_replace(to, g_steal_pointer(&key), g_steal_pointer(&value));
	return p;
}

GHashTable *json_parse_flat(const char *line)
{
	g_autoptr(GHashTable) found = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
	const char *p = skip_space(line);

	if (*p != '{')
		return NULL;
	p = skip_space(p + 1);
	if (*p != '}') {
		for (;;) {
			p = parse_member(p, found);
			if (!p)
				return NULL;
			p = skip_space(p);
			if (*p != ',')
				break;
			p = skip_space(p + 1);
		}
	}
	if (*p != '}' || *skip_space(p + 1))
		return NULL;
	return g_steal_pointer(&found);
}
