// SPDX-License-Identifier: Apache-2.0
/*
 * state.h - what a device saves: one table of fields, from which saving and loading follow.
 *
 * A record is the table's name, its version and the fields in table order, little-endian, without
 * padding, independent of host and engine:
 *
 *	u8 length of name, name, u16 version, u32 bytes of what follows, fields
 *
 * A field that came with version n says .since = n; a record of an older version does not have
 * it and leaves the object's value alone. Fields are never removed or changed, only added.
 *
 * Loading trusts nothing: a field out of its bounds refuses the whole record, before anything is
 * stored. What bounds cannot say, a device checks after loading. The caller holds the device's
 * lock.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum state_kind {
	STATE_KIND_END,
	STATE_KIND_UINT, /* and signed ones, in two's complement */
	STATE_KIND_BOOL,
	STATE_KIND_GROUP, /* structs described by a table of their own */
};

struct state_field {
	const char *name;
	enum state_kind kind;
	unsigned since; /* 0: from the first version on */
	size_t offset;
	size_t size;   /* of one element */
	size_t count;  /* elements; 1 for a plain field */
	uint64_t max;  /* greatest value allowed; 0: any */
	const struct state_field *group;
};

struct state_desc {
	const char *name; /* at most 255 bytes */
	uint16_t version; /* from 1 on */
	const struct state_field *fields; /* ends with STATE_END */
};

#define STATE_FIELD(type, member, kind_)                                                           \
	.name = #member, .kind = (kind_), .offset = offsetof(type, member),                        \
	.size = sizeof(((type *)0)->member), .count = 1
#define STATE_ELEMENTS(type, member, kind_)                                                        \
	.name = #member, .kind = (kind_), .offset = offsetof(type, member),                        \
	.size = sizeof(((type *)0)->member[0]),                                                    \
	.count = sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0])

#define STATE_UINT(type, member) {STATE_FIELD(type, member, STATE_KIND_UINT)}
#define STATE_UINT_MAX(type, member, max_)                                                         \
	{STATE_FIELD(type, member, STATE_KIND_UINT), .max = (max_)}
#define STATE_BOOL(type, member) {STATE_FIELD(type, member, STATE_KIND_BOOL)}
#define STATE_ARRAY(type, member) {STATE_ELEMENTS(type, member, STATE_KIND_UINT)}
#define STATE_GROUP(type, member, fields)                                                          \
	{STATE_FIELD(type, member, STATE_KIND_GROUP), .group = (fields)}
#define STATE_GROUPS(type, member, fields)                                                         \
	{STATE_ELEMENTS(type, member, STATE_KIND_GROUP), .group = (fields)}
#define STATE_END {.kind = STATE_KIND_END}

/* Bytes not read yet. */
struct state_reader {
	const uint8_t *bytes;
	size_t left;
};

void state_save(const struct state_desc *desc, const void *object, GByteArray *out);
/* The next record into @object. False with a sentence when it is another one, from a newer version,
 * cut short, or holds a value that cannot be; then @object is untouched. */
bool state_load(const struct state_desc *desc, void *object, struct state_reader *in, GError **err);
