// SPDX-License-Identifier: Apache-2.0
/* bytes.h - little-endian numbers behind a growing array of bytes, as tables are written. */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "base/bits.h"

static inline void bytes_put8(GByteArray *bytes, uint8_t v)
{
	g_byte_array_append(bytes, &v, 1);
}

static inline void bytes_put16(GByteArray *bytes, uint16_t v)
{
	uint8_t b[2];

	store_le16(b, v);
	g_byte_array_append(bytes, b, sizeof(b));
}

static inline void bytes_put32(GByteArray *bytes, uint32_t v)
{
	uint8_t b[4];

	store_le32(b, v);
	g_byte_array_append(bytes, b, sizeof(b));
}

static inline void bytes_put64(GByteArray *bytes, uint64_t v)
{
	uint8_t b[8];

	store_le64(b, v);
	g_byte_array_append(bytes, b, sizeof(b));
}
