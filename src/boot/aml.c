// SPDX-License-Identifier: Apache-2.0
/* aml.c - a small writer of ACPI Machine Language. */
#include "boot/aml.h"

#include <string.h>

#include "base/bits.h"

#define AML_ZERO      0x00u
#define AML_ONE	      0x01u
#define AML_NAME      0x08u
#define AML_BYTE      0x0au
#define AML_WORD      0x0bu
#define AML_DWORD     0x0cu
#define AML_STRING    0x0du
#define AML_QWORD     0x0eu
#define AML_SCOPE     0x10u
#define AML_BUFFER    0x11u
#define AML_PACKAGE   0x12u
#define AML_EXT	      0x5bu
#define AML_DEVICE    0x82u /* after AML_EXT */

/* Large resource descriptors' address space flags, ACPI 6.4 section 6.4.3.5. */
#define RES_MEMORY	   0u
#define RES_IO		   1u
#define RES_BUS		   2u
#define RES_FIXED_BOTH	   0x0cu /* _MIF, _MAF */
#define RES_MEMORY_RW	   0x01u
#define RES_IO_ENTIRE	   0x03u

static void put8(struct aml *aml, uint8_t v)
{
	g_byte_array_append(aml->bytes, &v, 1);
}

static void put16(struct aml *aml, uint16_t v)
{
	uint8_t b[2];

	store_le16(b, v);
	g_byte_array_append(aml->bytes, b, sizeof(b));
}

static void put32(struct aml *aml, uint32_t v)
{
	uint8_t b[4];

	store_le32(b, v);
	g_byte_array_append(aml->bytes, b, sizeof(b));
}

static void put64(struct aml *aml, uint64_t v)
{
	uint8_t b[8];

	store_le64(b, v);
	g_byte_array_append(aml->bytes, b, sizeof(b));
}

static void put_name(struct aml *aml, const char *name)
{
	char seg[4] = { '_', '_', '_', '_' };

	if (*name == '\\')
		put8(aml, (uint8_t)*name++);
	memcpy(seg, name, MIN(strlen(name), sizeof(seg)));
	g_byte_array_append(aml->bytes, (const uint8_t *)seg, sizeof(seg));
}

static void open_term(struct aml *aml, uint8_t kind)
{
	g_assert(aml->depth < AML_MAX_DEPTH);
	aml->open[aml->depth] = aml->bytes->len;
	aml->kind[aml->depth++] = kind;
}

static void insert(struct aml *aml, guint at, const uint8_t *bytes, guint len)
{
	guint tail = aml->bytes->len - at;

	g_byte_array_set_size(aml->bytes, aml->bytes->len + len);
	memmove(aml->bytes->data + at + len, aml->bytes->data + at, tail);
	memcpy(aml->bytes->data + at, bytes, len);
}

/* PkgLength counts itself: ACPI 6.4 section 20.2.4. */
static void insert_length(struct aml *aml, guint at)
{
	guint body = aml->bytes->len - at;
	uint8_t out[4];
	unsigned more = 0;
	guint total;

	if (body + 1 <= 0x3f) {
		out[0] = (uint8_t)(body + 1);
		insert(aml, at, out, 1);
		return;
	}
	do {
		more++;
		total = body + 1 + more;
	} while (total >> (4 + 8 * more));
	out[0] = (uint8_t)((more << 6) | (total & 0x0f));
	for (unsigned i = 1; i <= more; i++)
		out[i] = (uint8_t)(total >> (8 * i - 4));
	insert(aml, at, out, more + 1);
}

void aml_init(struct aml *aml, GByteArray *bytes)
{
	*aml = (struct aml){ .bytes = bytes };
}

void aml_begin_scope(struct aml *aml, const char *name)
{
	put8(aml, AML_SCOPE);
	open_term(aml, AML_SCOPE);
	put_name(aml, name);
}

void aml_begin_device(struct aml *aml, const char *name)
{
	put8(aml, AML_EXT);
	put8(aml, AML_DEVICE);
	open_term(aml, AML_DEVICE);
	put_name(aml, name);
}

void aml_begin_package(struct aml *aml, uint8_t count)
{
	put8(aml, AML_PACKAGE);
	open_term(aml, AML_PACKAGE);
	put8(aml, count);
}

void aml_begin_resources(struct aml *aml)
{
	put8(aml, AML_BUFFER);
	open_term(aml, AML_BUFFER);
}

/* Resource template: end tag, then the buffer's size in front. */
static void end_resources(struct aml *aml, guint at)
{
	uint8_t size[3] = { AML_WORD };

	put8(aml, 0x79); /* end tag */
	put8(aml, 0);	 /* a checksum of zero counts as right */
	store_le16(size + 1, (uint16_t)(aml->bytes->len - at));
	insert(aml, at, size, sizeof(size));
}

void aml_end(struct aml *aml)
{
	guint at;

	g_assert(aml->depth > 0);
	at = aml->open[--aml->depth];
	if (aml->kind[aml->depth] == AML_BUFFER)
		end_resources(aml, at);
	insert_length(aml, at);
}

void aml_name(struct aml *aml, const char *name)
{
	put8(aml, AML_NAME);
	put_name(aml, name);
}

void aml_int(struct aml *aml, uint64_t value)
{
	if (value <= 1) {
		put8(aml, value ? AML_ONE : AML_ZERO);
	} else if (value <= UINT8_MAX) {
		put8(aml, AML_BYTE);
		put8(aml, (uint8_t)value);
	} else if (value <= UINT16_MAX) {
		put8(aml, AML_WORD);
		put16(aml, (uint16_t)value);
	} else if (value <= UINT32_MAX) {
		put8(aml, AML_DWORD);
		put32(aml, (uint32_t)value);
	} else {
		put8(aml, AML_QWORD);
		put64(aml, value);
	}
}

/* Three letters of five bits and four hexadecimal digits, most significant byte first:
 * ACPI 6.4 section 19.3.4, EISAID. */
void aml_eisa_id(struct aml *aml, const char *id)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < 3; i++)
		value = (value << 5) | ((uint32_t)(id[i] - 0x40) & 0x1f);
	for (unsigned i = 3; i < 7; i++)
		value = (value << 4) | (uint32_t)g_ascii_xdigit_value(id[i]);
	put8(aml, AML_DWORD);
	put32(aml, GUINT32_SWAP_LE_BE(value));
}

void aml_string(struct aml *aml, const char *text)
{
	put8(aml, AML_STRING);
	g_byte_array_append(aml->bytes, (const uint8_t *)text, (guint)strlen(text) + 1);
}

void aml_res_io(struct aml *aml, uint16_t base, uint8_t len)
{
	put8(aml, 0x47); /* I/O port descriptor */
	put8(aml, 1);	 /* 16-bit decode */
	put16(aml, base);
	put16(aml, base);
	put8(aml, 1); /* alignment */
	put8(aml, len);
}

void aml_res_irq(struct aml *aml, unsigned irq)
{
	put8(aml, 0x22); /* IRQ descriptor without flags: edge, active high */
	put16(aml, (uint16_t)(1u << irq));
}

void aml_res_fixed_memory(struct aml *aml, uint32_t base, uint32_t len)
{
	put8(aml, 0x86); /* 32-bit fixed memory range */
	put16(aml, 9);
	put8(aml, 1); /* writable */
	put32(aml, base);
	put32(aml, len);
}

static void put_window_head(struct aml *aml, uint8_t tag, uint16_t len, uint8_t type, uint8_t flags)
{
	put8(aml, tag);
	put16(aml, len);
	put8(aml, type);
	put8(aml, RES_FIXED_BOTH);
	put8(aml, flags);
}

static void put_window16(struct aml *aml, uint8_t type, uint8_t flags, uint16_t first, uint16_t last)
{
	put_window_head(aml, 0x88, 13, type, flags);
	put16(aml, 0); /* granularity */
	put16(aml, first);
	put16(aml, last);
	put16(aml, 0); /* translation */
	put16(aml, (uint16_t)(last - first + 1));
}

void aml_res_bus_window(struct aml *aml, uint16_t first, uint16_t last)
{
	put_window16(aml, RES_BUS, 0, first, last);
}

void aml_res_io_window(struct aml *aml, uint16_t first, uint16_t last)
{
	put_window16(aml, RES_IO, RES_IO_ENTIRE, first, last);
}

void aml_res_memory_window(struct aml *aml, uint32_t first, uint32_t last)
{
	put_window_head(aml, 0x87, 23, RES_MEMORY, RES_MEMORY_RW);
	put32(aml, 0);
	put32(aml, first);
	put32(aml, last);
	put32(aml, 0);
	put32(aml, last - first + 1);
}

void aml_res_memory64_window(struct aml *aml, uint64_t first, uint64_t last)
{
	put_window_head(aml, 0x8a, 43, RES_MEMORY, RES_MEMORY_RW);
	put64(aml, 0);
	put64(aml, first);
	put64(aml, last);
	put64(aml, 0);
	put64(aml, last - first + 1);
}
