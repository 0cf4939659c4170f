// SPDX-License-Identifier: Apache-2.0
/* aml.c - a small writer of ACPI Machine Language. */
#include "boot/aml.h"

#include <string.h>

#include "base/bits.h"
#include "boot/bytes.h"

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

static void put_name(struct aml *aml, const char *name)
{
	char seg[4] = { '_', '_', '_', '_' };

	if (*name == '\\')
		bytes_put8(aml->bytes, (uint8_t)*name++);
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
	bytes_put8(aml->bytes, AML_SCOPE);
	open_term(aml, AML_SCOPE);
	put_name(aml, name);
}

void aml_begin_device(struct aml *aml, const char *name)
{
	bytes_put8(aml->bytes, AML_EXT);
	bytes_put8(aml->bytes, AML_DEVICE);
	open_term(aml, AML_DEVICE);
	put_name(aml, name);
}

void aml_begin_package(struct aml *aml, uint8_t count)
{
	bytes_put8(aml->bytes, AML_PACKAGE);
	open_term(aml, AML_PACKAGE);
	bytes_put8(aml->bytes, count);
}

void aml_begin_resources(struct aml *aml)
{
	bytes_put8(aml->bytes, AML_BUFFER);
	open_term(aml, AML_BUFFER);
}

/* Resource template: end tag, then the buffer's size in front. */
static void end_resources(struct aml *aml, guint at)
{
	uint8_t size[3] = { AML_WORD };

	bytes_put8(aml->bytes, 0x79); /* end tag */
	bytes_put8(aml->bytes, 0); /* a checksum of zero counts as right */
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
	bytes_put8(aml->bytes, AML_NAME);
	put_name(aml, name);
}

void aml_int(struct aml *aml, uint64_t value)
{
	if (value <= 1) {
		bytes_put8(aml->bytes, value ? AML_ONE : AML_ZERO);
	} else if (value <= UINT8_MAX) {
		bytes_put8(aml->bytes, AML_BYTE);
		bytes_put8(aml->bytes, (uint8_t)value);
	} else if (value <= UINT16_MAX) {
		bytes_put8(aml->bytes, AML_WORD);
		bytes_put16(aml->bytes, (uint16_t)value);
	} else if (value <= UINT32_MAX) {
		bytes_put8(aml->bytes, AML_DWORD);
		bytes_put32(aml->bytes, (uint32_t)value);
	} else {
		bytes_put8(aml->bytes, AML_QWORD);
		bytes_put64(aml->bytes, value);
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
	bytes_put8(aml->bytes, AML_DWORD);
	bytes_put32(aml->bytes, GUINT32_SWAP_LE_BE(value));
}

void aml_string(struct aml *aml, const char *text)
{
	bytes_put8(aml->bytes, AML_STRING);
	g_byte_array_append(aml->bytes, (const uint8_t *)text, (guint)strlen(text) + 1);
}

void aml_res_io(struct aml *aml, uint16_t base, uint8_t len)
{
	bytes_put8(aml->bytes, 0x47); /* I/O port descriptor */
	bytes_put8(aml->bytes, 1); /* 16-bit decode */
	bytes_put16(aml->bytes, base);
	bytes_put16(aml->bytes, base);
	bytes_put8(aml->bytes, 1); /* alignment */
	bytes_put8(aml->bytes, len);
}

void aml_res_irq(struct aml *aml, unsigned irq)
{
	bytes_put8(aml->bytes, 0x22); /* IRQ descriptor without flags: edge, active high */
	bytes_put16(aml->bytes, (uint16_t)(1u << irq));
}

void aml_res_fixed_memory(struct aml *aml, uint32_t base, uint32_t len)
{
	bytes_put8(aml->bytes, 0x86); /* 32-bit fixed memory range */
	bytes_put16(aml->bytes, 9);
	bytes_put8(aml->bytes, 1); /* writable */
	bytes_put32(aml->bytes, base);
	bytes_put32(aml->bytes, len);
}

static void put_window_head(struct aml *aml, uint8_t tag, uint16_t len, uint8_t type, uint8_t flags)
{
	bytes_put8(aml->bytes, tag);
	bytes_put16(aml->bytes, len);
	bytes_put8(aml->bytes, type);
	bytes_put8(aml->bytes, RES_FIXED_BOTH);
	bytes_put8(aml->bytes, flags);
}

static void put_window16(struct aml *aml, uint8_t type, uint8_t flags, uint16_t first, uint16_t last)
{
	put_window_head(aml, 0x88, 13, type, flags);
	bytes_put16(aml->bytes, 0); /* granularity */
	bytes_put16(aml->bytes, first);
	bytes_put16(aml->bytes, last);
	bytes_put16(aml->bytes, 0); /* translation */
	bytes_put16(aml->bytes, (uint16_t)(last - first + 1));
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
	bytes_put32(aml->bytes, 0);
	bytes_put32(aml->bytes, first);
	bytes_put32(aml->bytes, last);
	bytes_put32(aml->bytes, 0);
	bytes_put32(aml->bytes, last - first + 1);
}

void aml_res_memory64_window(struct aml *aml, uint64_t first, uint64_t last)
{
	put_window_head(aml, 0x8a, 43, RES_MEMORY, RES_MEMORY_RW);
	bytes_put64(aml->bytes, 0);
	bytes_put64(aml->bytes, first);
	bytes_put64(aml->bytes, last);
	bytes_put64(aml->bytes, 0);
	bytes_put64(aml->bytes, last - first + 1);
}
