// SPDX-License-Identifier: Apache-2.0
/*
 * smbios.c - the SMBIOS 3 entry point and structures, DSP0134 3.4.
 *
 * Each structure is a formatted area and its strings, which the area names by number from 1 on.
 */
#include "boot/boot.h"

#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/units.h"
#include "boot/layout.h"

#define ENTRY_SIZE   24u
#define TABLE_OFFSET 32u
#define NAME_MAX_BYTES 64

#define HANDLE_BIOS	0x0000u
#define HANDLE_SYSTEM	0x0100u
#define HANDLE_CHASSIS	0x0300u
#define HANDLE_CPU	0x0400u
#define HANDLE_ARRAY	0x1000u
#define HANDLE_DEVICE	0x1100u
#define HANDLE_MAPPED	0x1300u /* one per RAM slot */
#define HANDLE_BOOT	0x2000u
#define HANDLE_END	0x7f00u

struct smbios {
	GByteArray *bytes;
};

/* @area: formatted area, type and length set here. @strings: NULL-terminated. */
static void put_structure(struct smbios *sm, uint8_t type, uint16_t handle, uint8_t *area,
			  uint8_t len, const char *const *strings)
{
	area[0] = type;
	area[1] = len;
	store_le16(area + 2, handle);
	g_byte_array_append(sm->bytes, area, len);
	for (size_t i = 0; strings && strings[i]; i++)
		g_byte_array_append(sm->bytes, (const uint8_t *)strings[i],
				    (guint)strlen(strings[i]) + 1);
	/* The set of strings ends with an empty one; an empty set is two zeros. */
	g_byte_array_append(sm->bytes, (const uint8_t *)"\0", strings ? 1 : 2);
}

static void put_bios(struct smbios *sm)
{
	static const char *const strings[] = { "Sika", "0.1", "01/01/2026", NULL };
	uint8_t a[0x18] = { 0 };

	a[4] = 1; /* vendor */
	a[5] = 2; /* version */
	a[8] = 3; /* release date */
	store_le64(a + 10, 1u << 3); /* characteristics are not supported */
	a[18] = 0x01; /* ACPI is supported */
	a[19] = 0x10; /* this is a virtual machine */
	a[22] = a[23] = 0xff; /* no embedded controller */
	put_structure(sm, 0, HANDLE_BIOS, a, sizeof(a), strings);
}

static void put_system(struct smbios *sm, const char *name)
{
	const char *const strings[] = { "Sika", "Sika virtual machine", "1", name, NULL };
	uint8_t a[0x1b] = { 0 };

	a[4] = 1;    /* manufacturer */
	a[5] = 2;    /* product */
	a[6] = 3;    /* version */
	a[0x18] = 6; /* wake-up type: power switch. The UUID stays zero: not present */
	a[0x19] = 4; /* SKU number: the machine's name */
	put_structure(sm, 1, HANDLE_SYSTEM, a, sizeof(a), strings);
}

static void put_chassis(struct smbios *sm)
{
	static const char *const strings[] = { "Sika", NULL };
	uint8_t a[0x16] = { 0 };

	a[4] = 1;			     /* manufacturer */
	a[5] = 1;			     /* type: other */
	a[9] = a[10] = a[11] = 3;	     /* states: safe */
	a[12] = 2;			     /* security: unknown */
	put_structure(sm, 3, HANDLE_CHASSIS, a, sizeof(a), strings);
}

static void put_processors(struct smbios *sm, unsigned cpus)
{
	static const char *const strings[] = { "CPU 0", "Sika", NULL };
	uint8_t a[0x30] = { 0 };

	a[4] = 1;    /* socket */
	a[5] = 3;    /* central processor */
	a[6] = 1;    /* family: other */
	a[7] = 2;    /* manufacturer */
	a[0x18] = 0x41; /* populated, enabled */
	a[0x19] = 1; /* upgrade: other */
	store_le16(a + 0x1a, 0xffff); /* no cache handles */
	store_le16(a + 0x1c, 0xffff);
	store_le16(a + 0x1e, 0xffff);
	a[0x23] = a[0x24] = a[0x25] = (uint8_t)cpus; /* cores, enabled, threads */
	store_le16(a + 0x26, 0x0004); /* 64-bit capable */
	store_le16(a + 0x28, 1);      /* family 2: other */
	store_le16(a + 0x2a, (uint16_t)cpus);
	store_le16(a + 0x2c, (uint16_t)cpus);
	store_le16(a + 0x2e, (uint16_t)cpus);
	put_structure(sm, 4, HANDLE_CPU, a, sizeof(a), strings);
}

static void put_memory_array(struct smbios *sm, uint64_t size)
{
	uint8_t a[0x17] = { 0 };

	a[4] = 1; /* location: other */
	a[5] = 3; /* use: system memory */
	a[6] = 3; /* no error correction */
	store_le32(a + 7, 0x80000000); /* capacity is in the extended field */
	store_le16(a + 11, 0xfffe);    /* no error information */
	store_le16(a + 13, 1);	       /* devices */
	store_le64(a + 15, size);
	put_structure(sm, 16, HANDLE_ARRAY, a, sizeof(a), NULL);
}

static void put_memory_device(struct smbios *sm, uint64_t size)
{
	static const char *const strings[] = { "DIMM 0", "Sika", NULL };
	uint64_t mib = MAX(size / MIB, 1);
	uint8_t a[0x28] = { 0 };

	store_le16(a + 4, HANDLE_ARRAY);
	store_le16(a + 6, 0xfffe);
	store_le16(a + 8, 0xffff);  /* total width unknown */
	store_le16(a + 10, 0xffff); /* data width unknown */
	store_le16(a + 12, mib < 0x7fff ? (uint16_t)mib : 0x7fff);
	a[14] = 9; /* form factor: DIMM */
	a[16] = 1; /* locator */
	a[18] = 7; /* type: RAM */
	store_le16(a + 19, 2); /* detail: other */
	a[23] = 2; /* manufacturer */
	store_le32(a + 28, mib < 0x7fff ? 0 : (uint32_t)mib);
	put_structure(sm, 17, HANDLE_DEVICE, a, sizeof(a), strings);
}

static void put_mapped(struct smbios *sm, unsigned index, const struct mem_slot *slot)
{
	uint8_t a[0x1f] = { 0 };

	store_le32(a + 4, UINT32_MAX); /* addresses are in the extended fields */
	store_le32(a + 8, UINT32_MAX);
	store_le16(a + 12, HANDLE_ARRAY);
	a[14] = 1; /* partition width */
	store_le64(a + 15, slot->gpa);
	store_le64(a + 23, slot->gpa + slot->size - 1);
	put_structure(sm, 19, (uint16_t)(HANDLE_MAPPED + index), a, sizeof(a), NULL);
}

static void put_entry(uint8_t *p, guint table_bytes)
{
	uint8_t sum = 0;

	memcpy(p, "_SM3_", 5);
	p[6] = ENTRY_SIZE;
	p[7] = 3; /* version 3.4.0 */
	p[8] = 4;
	p[10] = 1; /* entry point revision */
	store_le32(p + 12, table_bytes);
	store_le64(p + 16, LAYOUT_SMBIOS_BASE + TABLE_OFFSET);
	for (unsigned i = 0; i < ENTRY_SIZE; i++)
		sum = (uint8_t)(sum + p[i]);
	p[5] = (uint8_t)-sum;
}

bool boot_write_smbios(const struct boot_config *config, struct mem *mem, GError **err)
{
	g_autofree char *name = g_strndup(config->name && *config->name ? config->name : "sika",
					  NAME_MAX_BYTES);
	g_autoptr(GByteArray) bytes = g_byte_array_new();
	struct smbios sm = { .bytes = bytes };
	uint8_t boot_info[0x0b] = { 0 }, end[4] = { 0 };
	size_t slots;
	const struct mem_slot *slot = mem_slots(mem, &slots);

	g_byte_array_set_size(bytes, TABLE_OFFSET);
	memset(bytes->data, 0, TABLE_OFFSET);
	put_bios(&sm);
	put_system(&sm, name);
	put_chassis(&sm);
	put_processors(&sm, config->cpus);
	put_memory_array(&sm, mem_size(mem));
	put_memory_device(&sm, mem_size(mem));
	for (size_t i = 0; i < slots; i++)
		put_mapped(&sm, (unsigned)i, &slot[i]);
	put_structure(&sm, 32, HANDLE_BOOT, boot_info, sizeof(boot_info), NULL);
	put_structure(&sm, 127, HANDLE_END, end, sizeof(end), NULL);
	put_entry(bytes->data, bytes->len - TABLE_OFFSET);

	if (bytes->len > LAYOUT_SMBIOS_SIZE ||
	    mem_write(mem, LAYOUT_SMBIOS_BASE, bytes->data, bytes->len) < 0) {
		g_set_error(err, BASE_ERROR, ENOSPC,
			    "SMBIOS tables of %u bytes do not fit below 1 MiB", bytes->len);
		return false;
	}
	return true;
}
