// SPDX-License-Identifier: Apache-2.0
/* input.h - the bytes of a fuzz input, taken from the front; zeros behind the end. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct input {
	const uint8_t *data;
	size_t size;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline bool input_is_empty(const struct input *in)
{
	return in->size == 0;
}

static inline uint64_t input_take(struct input *in, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && in->size; i++, in->size--)
		v |= (uint64_t)*in->data++ << (8 * i);
	return v;
}

static inline uint8_t input_byte(struct input *in)
{
	return (uint8_t)input_take(in, 1);
}
