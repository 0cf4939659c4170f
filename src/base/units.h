// SPDX-License-Identifier: Apache-2.0
/* units.h - sizes as people write them. */
#pragma once

#include <glib.h>
#include <stdint.h>

#define KIB 1024ull
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)

/* "512M", "1G", "4096K", "1.5G", "1GiB", plain number = @plain_unit bytes. Returns false with a
 * sentence that names the text when it is not a size or does not fit 63 bits. */
gboolean size_parse(const char *text, uint64_t plain_unit, uint64_t *ret_bytes, GError **err);
/* "1.5 GiB"; caller frees. */
char *size_format(uint64_t bytes);
