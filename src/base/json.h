// SPDX-License-Identifier: Apache-2.0
/* json.h - the little JSON that a control socket needs: strings out, flat objects in. */
#pragma once

#include <glib.h>

/* @text in quotes. Bytes that are not UTF-8 become U+FFFD. */
void json_append_string(GString *out, const char *text);

/*
 * An object of strings, numbers, true, false and null, nothing nested: key to value, both as text. NULL:
 * @line is anything else. Of a key that comes twice the last one counts. Caller unrefs.
 */
GHashTable *json_parse_flat(const char *line);
