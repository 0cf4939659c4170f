// SPDX-License-Identifier: Apache-2.0
/*
 * acpi.c - the ACPI tables, ACPI 6.4 chapter 5.
 *
 * RSDP at LAYOUT_ACPI_BASE, then the tables one after the other, 64-byte aligned. The machine is
 * always in ACPI mode (no SMI command), has the PM1 block and timer in port space, and a fixed
 * power button.
 */
#include "boot/acpi_int.h"

#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "boot/bytes.h"
#include "boot/layout.h"

#define ACPI_HEADER_SIZE 36u
#define ACPI_CHECKSUM	 9u
#define ACPI_ALIGN	 64u
#define RSDP_SIZE	 36u
#define FACS_SIZE	 64u
#define FADT_SIZE	 276u

#define GAS_MEMORY 0u
#define GAS_IO	   1u

/* Tables are built here and copied at once; offsets are relative to LAYOUT_ACPI_BASE. */
struct acpi {
	const struct boot_config *config;
	const struct mem *mem;
	GByteArray *bytes;
	guint start; /* of the open table */
};

static void put_zeros(struct acpi *acpi, guint n)
{
	guint at = acpi->bytes->len;

	g_byte_array_set_size(acpi->bytes, at + n);
	memset(acpi->bytes->data + at, 0, n);
}

static uint8_t checksum(const uint8_t *bytes, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + bytes[i]);
	return (uint8_t)-sum;
}

static void align(struct acpi *acpi)
{
	put_zeros(acpi, (guint)(align_up(acpi->bytes->len, ACPI_ALIGN) - acpi->bytes->len));
}

static void table_begin(struct acpi *acpi, const char *signature, uint8_t revision)
{
	align(acpi);
	acpi->start = acpi->bytes->len;
	g_byte_array_append(acpi->bytes, (const uint8_t *)signature, 4);
	bytes_put32(acpi->bytes, 0); /* length */
	bytes_put8(acpi->bytes, revision);
	bytes_put8(acpi->bytes, 0); /* checksum */
	g_byte_array_append(acpi->bytes, (const uint8_t *)"SIKA  SIKAVM  ", 14);
	bytes_put32(acpi->bytes, 1);
	g_byte_array_append(acpi->bytes, (const uint8_t *)"SIKA", 4);
	bytes_put32(acpi->bytes, 1);
}

static void table_resum(struct acpi *acpi, guint start)
{
	uint8_t *t = acpi->bytes->data + start;

	t[ACPI_CHECKSUM] = 0;
	t[ACPI_CHECKSUM] = checksum(t, load_le32(t + 4));
}

/* Returns the table's guest address. */
static uint32_t table_end(struct acpi *acpi)
{
	store_le32(acpi->bytes->data + acpi->start + 4, acpi->bytes->len - acpi->start);
	table_resum(acpi, acpi->start);
	return LAYOUT_ACPI_BASE + acpi->start;
}

static uint64_t ram_end(const struct mem *mem)
{
	size_t count;
	const struct mem_slot *slot = mem_slots(mem, &count);

	return slot[count - 1].gpa + slot[count - 1].size;
}

static uint32_t put_facs(struct acpi *acpi)
{
	guint at;

	align(acpi);
	at = acpi->bytes->len;
	g_byte_array_append(acpi->bytes, (const uint8_t *)"FACS", 4);
	bytes_put32(acpi->bytes, FACS_SIZE);
	put_zeros(acpi, FACS_SIZE - 8);
	acpi->bytes->data[at + 32] = 2; /* version */
	return LAYOUT_ACPI_BASE + at;
}

static uint32_t put_dsdt(struct acpi *acpi)
{
	table_begin(acpi, "DSDT", 2);
	acpi_put_dsdt_body(acpi->bytes, acpi->config, ram_end(acpi->mem));
	return table_end(acpi);
}

/* Generic Address Structure, section 5.2.3.2. @access: 1 byte, 2 word, 3 dword. */
static void put_gas(uint8_t *at, uint8_t space, uint8_t bits, uint8_t access, uint64_t address)
{
	at[0] = space;
	at[1] = bits;
	at[2] = 0;
	at[3] = access;
	store_le64(at + 4, address);
}

/* Fixed ACPI Description Table, section 5.2.9; offsets from its table 5.9. */
static uint32_t put_fadt(struct acpi *acpi, uint32_t facs, uint32_t dsdt)
{
	uint8_t *t;

	table_begin(acpi, "FACP", 6);
	put_zeros(acpi, FADT_SIZE - ACPI_HEADER_SIZE);
	t = acpi->bytes->data + acpi->start;
	store_le32(t + 36, facs);
	store_le32(t + 40, dsdt);
	store_le16(t + 46, LAYOUT_GSI_SCI);
	store_le32(t + 56, LAYOUT_PORT_PM1_EVT);
	store_le32(t + 64, LAYOUT_PORT_PM1_CNT);
	store_le32(t + 76, LAYOUT_PORT_PM_TIMER);
	t[88] = 4; /* PM1_EVT_LEN */
	t[89] = 2; /* PM1_CNT_LEN */
	t[91] = 4; /* PM_TMR_LEN */
	store_le16(t + 96, 0xfff);  /* P_LVL2_LAT: no C2 */
	store_le16(t + 98, 0xfff);  /* P_LVL3_LAT: no C3 */
	t[108] = 0x32;		    /* CENTURY register of the RTC */
	store_le16(t + 109, 0x0005); /* IAPC_BOOT_ARCH: legacy devices, no 8042, no VGA */
	/* WBINVD; C1 supported; no sleep button; RTC wake not in fixed registers; 32-bit
	 * timer; reset register; 0 for the power button means that it is a fixed one. */
	store_le32(t + 112, (1u << 0) | (1u << 2) | (1u << 5) | (1u << 6) | (1u << 8) | (1u << 10));
	put_gas(t + 116, GAS_IO, 8, 1, LAYOUT_PORT_RESET);
	t[128] = LAYOUT_RESET_VALUE;
	t[131] = 4; /* minor version: ACPI 6.4 */
	/* X_FIRMWARE_CTRL stays 0: only one of the two FACS addresses may be given. */
	store_le64(t + 140, dsdt);
	put_gas(t + 148, GAS_IO, 32, 2, LAYOUT_PORT_PM1_EVT);
	put_gas(t + 172, GAS_IO, 16, 2, LAYOUT_PORT_PM1_CNT);
	put_gas(t + 208, GAS_IO, 32, 3, LAYOUT_PORT_PM_TIMER);
	memcpy(t + 268, "SIKA    ", 8); /* hypervisor vendor */
	return table_end(acpi);
}

/* Interrupt source override, section 5.2.12.5. */
static void put_override(struct acpi *acpi, uint8_t irq, uint32_t gsi, uint16_t flags)
{
	bytes_put8(acpi->bytes, 2);
	bytes_put8(acpi->bytes, 10);
	bytes_put8(acpi->bytes, 0); /* ISA */
	bytes_put8(acpi->bytes, irq);
	bytes_put32(acpi->bytes, gsi);
	bytes_put16(acpi->bytes, flags);
}

/* Multiple APIC Description Table, section 5.2.12. */
static uint32_t put_madt(struct acpi *acpi)
{
	table_begin(acpi, "APIC", 5);
	bytes_put32(acpi->bytes, LAYOUT_LAPIC_BASE);
	bytes_put32(acpi->bytes, 1); /* PCAT_COMPAT: there is an 8259 pair */
	for (unsigned i = 0; i < acpi->config->cpus; i++) {
		bytes_put8(acpi->bytes, 0); /* processor local APIC */
		bytes_put8(acpi->bytes, 8);
		bytes_put8(acpi->bytes, (uint8_t)i);
		bytes_put8(acpi->bytes, (uint8_t)i);
		bytes_put32(acpi->bytes, 1); /* enabled */
	}
	bytes_put8(acpi->bytes, 1); /* I/O APIC */
	bytes_put8(acpi->bytes, 12);
	bytes_put8(acpi->bytes, LAYOUT_IOAPIC_ID);
	bytes_put8(acpi->bytes, 0);
	bytes_put32(acpi->bytes, LAYOUT_IOAPIC_BASE);
	bytes_put32(acpi->bytes, 0); /* first GSI */
	put_override(acpi, 0, 2, 0);
	put_override(acpi, LAYOUT_GSI_SCI, LAYOUT_GSI_SCI, 0x000d); /* level, active high */
	bytes_put8(acpi->bytes, 4); /* local APIC NMI: LINT1 of every processor */
	bytes_put8(acpi->bytes, 6);
	bytes_put8(acpi->bytes, 0xff);
	bytes_put16(acpi->bytes, 0);
	bytes_put8(acpi->bytes, 1);
	return table_end(acpi);
}

/* PCI Firmware Specification 3.3, table 4-2. */
static uint32_t put_mcfg(struct acpi *acpi)
{
	table_begin(acpi, "MCFG", 1);
	bytes_put64(acpi->bytes, 0);
	bytes_put64(acpi->bytes, LAYOUT_ECAM_BASE);
	bytes_put16(acpi->bytes, 0); /* segment */
	bytes_put8(acpi->bytes, 0);
	bytes_put8(acpi->bytes, LAYOUT_ECAM_BUSES - 1);
	bytes_put32(acpi->bytes, 0);
	return table_end(acpi);
}

/* IA-PC HPET Specification 1.0a, section 3.2.4. */
static uint32_t put_hpet(struct acpi *acpi)
{
	uint8_t gas[12];

	table_begin(acpi, "HPET", 1);
	bytes_put32(acpi->bytes, 0x8086a201); /* low half of the capabilities register */
	put_gas(gas, GAS_MEMORY, 0, 0, LAYOUT_HPET_BASE);
	g_byte_array_append(acpi->bytes, gas, sizeof(gas));
	bytes_put8(acpi->bytes, 0); /* sequence number */
	bytes_put16(acpi->bytes, 100); /* least ticks in periodic mode */
	bytes_put8(acpi->bytes, 0);
	return table_end(acpi);
}

/* System Resource Affinity Table, section 5.2.16: one proximity domain. */
static uint32_t put_srat(struct acpi *acpi)
{
	size_t slots;
	const struct mem_slot *slot = mem_slots(acpi->mem, &slots);

	table_begin(acpi, "SRAT", 3);
	bytes_put32(acpi->bytes, 1);
	bytes_put64(acpi->bytes, 0);
	for (unsigned i = 0; i < acpi->config->cpus; i++) {
		bytes_put8(acpi->bytes, 0); /* processor local APIC affinity */
		bytes_put8(acpi->bytes, 16);
		bytes_put8(acpi->bytes, 0);
		bytes_put8(acpi->bytes, (uint8_t)i);
		bytes_put32(acpi->bytes, 1); /* enabled */
		bytes_put64(acpi->bytes, 0);
	}
	for (size_t i = 0; i < slots; i++) {
		bytes_put8(acpi->bytes, 1); /* memory affinity */
		bytes_put8(acpi->bytes, 40);
		bytes_put32(acpi->bytes, 0);
		bytes_put16(acpi->bytes, 0);
		bytes_put64(acpi->bytes, slot[i].gpa);
		bytes_put64(acpi->bytes, slot[i].size);
		bytes_put32(acpi->bytes, 0);
		bytes_put32(acpi->bytes, 1); /* enabled */
		bytes_put64(acpi->bytes, 0);
	}
	return table_end(acpi);
}

static uint32_t put_xsdt(struct acpi *acpi, const uint32_t *tables, size_t count)
{
	table_begin(acpi, "XSDT", 1);
	for (size_t i = 0; i < count; i++)
		bytes_put64(acpi->bytes, tables[i]);
	return table_end(acpi);
}

/* Root System Description Pointer, section 5.2.5.3, over the bytes kept for it at the start. */
static void put_rsdp(struct acpi *acpi, uint32_t xsdt)
{
	uint8_t *p = acpi->bytes->data;

	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, "SIKA  ", 6);
	p[15] = 2; /* revision; the 32-bit RSDT address stays 0 */
	store_le32(p + 20, RSDP_SIZE);
	store_le64(p + 24, xsdt);
	p[8] = checksum(p, 20);
	p[32] = checksum(p, RSDP_SIZE);
}

bool boot_write_acpi(const struct boot_config *config, struct mem *mem, uint64_t *ret_rsdp,
		     GError **err)
{
	g_autoptr(GByteArray) bytes = g_byte_array_new();
	struct acpi acpi = { .config = config, .mem = mem, .bytes = bytes };
	uint32_t tables[5], facs, dsdt;
	size_t n = 0;

	put_zeros(&acpi, RSDP_SIZE);
	facs = put_facs(&acpi);
	dsdt = put_dsdt(&acpi);
	tables[n++] = put_fadt(&acpi, facs, dsdt);
	tables[n++] = put_madt(&acpi);
	tables[n++] = put_mcfg(&acpi);
	if (config->has_hpet)
		tables[n++] = put_hpet(&acpi);
	if (config->srat)
		tables[n++] = put_srat(&acpi);
	put_rsdp(&acpi, put_xsdt(&acpi, tables, n));

	if (bytes->len > LAYOUT_ACPI_SIZE ||
	    mem_write(mem, LAYOUT_ACPI_BASE, bytes->data, bytes->len) < 0) {
		g_set_error(err, BASE_ERROR, ENOSPC,
			    "ACPI tables of %u bytes do not fit below 1 MiB", bytes->len);
		return false;
	}
	*ret_rsdp = LAYOUT_ACPI_BASE;
	return true;
}
