// SPDX-License-Identifier: Apache-2.0
/* form.h - what the fuzz targets of image formats share. */
#pragma once

#include "input.h"

struct form_fuzz {
	const char *name;
	const char *const *options; /* one of them makes the image */
	unsigned option_count;
	uint64_t room; /* bytes of the file, at most */
	const uint64_t *places; /* where tables begin; NULL: at the start alone */
	unsigned place_count;
	/* An image to begin with, where the format is only read; may be NULL. */
	void (*make)(uint8_t *bytes, uint64_t *ret_bytes);
	/* Make checksums right again; may be NULL. */
	void (*mend)(uint8_t *bytes, uint64_t room);
};

/* One input. */
int form_fuzz(const struct form_fuzz *f, const uint8_t *bytes, size_t size);
