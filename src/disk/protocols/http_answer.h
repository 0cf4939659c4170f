// SPDX-License-Identifier: Apache-2.0
/* http_answer.h - what the head of a server's answer says about a part of a file (RFC 9110). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_MAX_TAG 256u /* bytes of a validator, its end included */

struct http_answer {
	unsigned status; /* 0: none yet */
	bool has_range;	 /* Content-Range, understood */
	uint64_t first, last, total; /* bytes; last is of the range; total: of the file */
	char etag[HTTP_MAX_TAG], modified[HTTP_MAX_TAG]; /* "": not told */
};

/* One line of the head, with its end or without. A status line begins anew: of several answers, as where
 * one leads to another place, the last counts. */
void http_answer_line(struct http_answer *a, const char *line, size_t len);
