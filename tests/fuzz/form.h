// SPDX-License-Identifier: Apache-2.0
/* form.h - what the fuzz targets of image formats share. */
#pragma once

#include "input.h"

/* One input: an image of @name, made with one of @options, in a file of at most @room bytes. */
int form_fuzz(const char *name, const char *const *options, unsigned option_count, uint64_t room,
	      const uint8_t *bytes, size_t size);
