// SPDX-License-Identifier: Apache-2.0
/* http_answer.c - the head of an answer, which is a stranger's. */
#include "disk/protocols/http_answer.h"

#include <glib.h>
#include <string.h>

/* Digits in front of @text; NULL: there are none, or the number is too large. */
static const char *take_number(const char *text, uint64_t *ret)
{
	uint64_t n = 0;
	const char *p = text;

	for (; g_ascii_isdigit(*p); p++) {
		if (n > (UINT64_MAX - 9) / 10)
			return NULL;
		n = n * 10 + (uint64_t)(*p - '0');
	}
	*ret = n;
	return p > text ? p : NULL;
}

/* 14.4: "bytes 0-499/1234". A total that is not known ("*") is of no use. */
static bool parse_range(struct http_answer *a, const char *text)
{
	uint64_t first, last, total;

	if (g_ascii_strncasecmp(text, "bytes ", 6))
		return false;
	text = take_number(text + 6, &first);
	if (!text || *text != '-')
		return false;
	text = take_number(text + 1, &last);
	if (!text || *text != '/')
		return false;
	text = take_number(text + 1, &total);
	if (!text || *text || first > last || last >= total)
		return false;
	a->first = first;
	a->last = last;
	a->total = total;
	return true;
}

static void parse_status(struct http_answer *a, const char *line)
{
	const char *space = strchr(line, ' ');
	uint64_t status = 0;

	*a = (struct http_answer){ 0 };
	if (space && take_number(space + 1, &status) && status < 1000)
		a->status = (unsigned)status;
}

static void keep(char *to, const char *value)
{
	/* Longer than anything real: not told, rather than cut. */
	if (strlen(value) < HTTP_MAX_TAG)
		memcpy(to, value, strlen(value) + 1);
}

void http_answer_line(struct http_answer *a, const char *bytes, size_t len)
{
	g_autofree char *line = g_strchomp(g_strndup(bytes, len));
	char *value = strchr(line, ':');

	if (!g_ascii_strncasecmp(line, "HTTP/", 5)) {
		parse_status(a, line);
		return;
	}
	if (!value)
		return;
	*value = 0;
	value = g_strchug(value + 1);
	if (!g_ascii_strcasecmp(line, "Content-Range"))
		a->has_range = parse_range(a, value);
	else if (!g_ascii_strcasecmp(line, "ETag"))
		keep(a->etag, value);
	else if (!g_ascii_strcasecmp(line, "Last-Modified"))
		keep(a->modified, value);
}
