// SPDX-License-Identifier: Apache-2.0
/* state.c - save and load objects by the tables that describe them. */
#include "state.h"

#include <string.h>

#include "base/bits.h"
#include "base/error.h"

static uint64_t element_get(const uint8_t *p, size_t size)
{
	switch (size) {
	case 1:
		return *p;
	case 2:
		return load_le16(p);
	case 4:
		return load_le32(p);
	default:
		return load_le64(p);
	}
}

static void element_set(uint8_t *p, size_t size, uint64_t value)
{
	switch (size) {
	case 1:
		*p = (uint8_t)value;
		break;
	case 2:
		store_le16(p, (uint16_t)value);
		break;
	case 4:
		store_le32(p, (uint32_t)value);
		break;
	default:
		store_le64(p, value);
		break;
	}
}

static void fields_save(const struct state_field *f, const uint8_t *object, GByteArray *out)
{
	for (; f->kind != STATE_KIND_END; f++) {
		for (size_t i = 0; i < f->count; i++) {
			const uint8_t *element = object + f->offset + i * f->size;
			uint8_t bytes[8];

			if (f->kind == STATE_KIND_GROUP) {
				fields_save(f->group, element, out);
				continue;
			}
			store_le64(bytes, element_get(element, f->size));
			g_byte_array_append(out, bytes, (guint)f->size);
		}
	}
}

void state_save(const struct state_desc *desc, const void *object, GByteArray *out)
{
	uint8_t name_len = (uint8_t)strlen(desc->name), head[6];
	guint at;

	g_byte_array_append(out, &name_len, 1);
	g_byte_array_append(out, (const uint8_t *)desc->name, name_len);
	at = out->len;
	store_le16(head, desc->version);
	store_le32(head + 2, 0);
	g_byte_array_append(out, head, sizeof(head));
	fields_save(desc->fields, object, out);
	store_le32(out->data + at + 2, out->len - at - (guint)sizeof(head));
}

struct walk {
	const struct state_desc *desc;
	unsigned version;
	struct state_reader in;
	bool store; /* false: only look whether all is well */
	GError **err;
};

static bool refuse(const struct walk *w, const char *field, const char *why)
{
	g_set_error(w->err, BASE_ERROR, EBADMSG, "saved state of '%s': %s%s%s", w->desc->name,
		    field ? field : "", field ? " " : "", why);
	return false;
}

static bool element_load(struct walk *w, const struct state_field *f, uint8_t *element)
{
	uint64_t value;

	if (w->in.left < f->size)
		return refuse(w, f->name, "is missing");
	value = element_get(w->in.bytes, f->size);
	w->in.bytes += f->size;
	w->in.left -= f->size;
	if ((f->kind == STATE_KIND_BOOL && value > 1) || (f->max && value > f->max))
		return refuse(w, f->name, "is out of range");
	if (w->store)
		element_set(element, f->size, value);
	return true;
}

static bool fields_load(struct walk *w, const struct state_field *f, uint8_t *object)
{
	for (; f->kind != STATE_KIND_END; f++) {
		if (f->since > w->version)
			continue;
		for (size_t i = 0; i < f->count; i++) {
			uint8_t *element = object + f->offset + i * f->size;

			if (f->kind == STATE_KIND_GROUP ? !fields_load(w, f->group, element)
							: !element_load(w, f, element))
				return false;
		}
	}
	return true;
}

/* The record's head; in.left is cut to the fields. */
static bool head_load(struct walk *w, struct state_reader *rest)
{
	size_t name_len = strlen(w->desc->name);
	uint32_t len;

	if (rest->left < 1 + name_len + 6 || rest->bytes[0] != name_len ||
	    memcmp(rest->bytes + 1, w->desc->name, name_len) != 0)
		return refuse(w, NULL, "is not what comes next");
	rest->bytes += 1 + name_len;
	rest->left -= 1 + name_len;
	w->version = load_le16(rest->bytes);
	len = load_le32(rest->bytes + 2);
	rest->bytes += 6;
	rest->left -= 6;
	if (w->version == 0 || w->version > w->desc->version)
		return refuse(w, NULL, "was written by a newer version");
	if (len > rest->left)
		return refuse(w, NULL, "is cut short");
	w->in = (struct state_reader){rest->bytes, len};
	rest->bytes += len;
	rest->left -= len;
	return true;
}

bool state_load(const struct state_desc *desc, void *object, struct state_reader *in, GError **err)
{
	struct walk w = {.desc = desc, .err = err};
	struct state_reader rest = *in, fields;

	if (!head_load(&w, &rest))
		return false;
	fields = w.in;
	if (!fields_load(&w, desc->fields, object))
		return false;
	if (w.in.left)
		return refuse(&w, NULL, "has more fields than it should");
	w.in = fields;
	w.store = true;
	(void)fields_load(&w, desc->fields, object); /* looked at above */
	*in = rest;
	return true;
}
