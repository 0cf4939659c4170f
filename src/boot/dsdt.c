// SPDX-License-Identifier: Apache-2.0
/* dsdt.c - the body of the DSDT: the PCI host bridge, the fixed devices, how to power off. */
#include "boot/acpi_int.h"

#include "boot/aml.h"
#include "boot/layout.h"

#define PCI_SLOTS 32u
#define PCI_PINS  4u

/* Four GSIs, no link devices: the tables are for guests that use the I/O APIC. */
static void put_routing(struct aml *aml)
{
	aml_name(aml, "_PRT");
	aml_begin_package(aml, PCI_SLOTS * PCI_PINS);
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		for (unsigned pin = 0; pin < PCI_PINS; pin++) {
			aml_begin_package(aml, 4);
			aml_int(aml, (slot << 16) | 0xffffu);
			aml_int(aml, pin);
			aml_int(aml, 0);
			aml_int(aml, LAYOUT_GSI_PCI_BASE + (slot + pin) % PCI_PINS);
			aml_end(aml);
		}
	}
	aml_end(aml);
}

static void put_host_bridge(struct aml *aml, uint64_t ram_end)
{
	uint64_t pci64 = layout_pci64_base(ram_end);

	aml_begin_device(aml, "PCI0");
	aml_name(aml, "_HID");
	aml_eisa_id(aml, "PNP0A08");
	aml_name(aml, "_CID");
	aml_eisa_id(aml, "PNP0A03");
	aml_name(aml, "_UID");
	aml_int(aml, 0);
	aml_name(aml, "_BBN");
	aml_int(aml, 0);
	aml_name(aml, "_CRS");
	aml_begin_resources(aml);
	aml_res_bus_window(aml, 0, LAYOUT_ECAM_BUSES - 1);
	aml_res_io(aml, LAYOUT_PORT_PCI_ADDR, 8);
	aml_res_io_window(aml, 0, LAYOUT_PORT_PCI_ADDR - 1);
	aml_res_io_window(aml, LAYOUT_PORT_PCI_ADDR + 8, 0xffff);
	aml_res_memory_window(aml, LAYOUT_PCI_LOW_BASE,
			      LAYOUT_PCI_LOW_BASE + LAYOUT_PCI_LOW_SIZE - 1);
	aml_res_memory_window(aml, LAYOUT_PCI_HIGH_BASE,
			      LAYOUT_PCI_HIGH_BASE + LAYOUT_PCI_HIGH_SIZE - 1);
	aml_res_memory64_window(aml, pci64, pci64 + LAYOUT_PCI64_SIZE - 1);
	aml_end(aml);
	put_routing(aml);
	aml_end(aml);
}

static void put_device(struct aml *aml, const char *name, const char *eisa_id, uint64_t uid)
{
	aml_begin_device(aml, name);
	aml_name(aml, "_HID");
	aml_eisa_id(aml, eisa_id);
	aml_name(aml, "_UID");
	aml_int(aml, uid);
}

/* Address space that no window may be carved from. Linux trusts ECAM only when it finds it here. */
static void put_motherboard(struct aml *aml)
{
	put_device(aml, "MBRD", "PNP0C02", 0);
	aml_name(aml, "_CRS");
	aml_begin_resources(aml);
	aml_res_fixed_memory(aml, LAYOUT_ECAM_BASE, LAYOUT_ECAM_SIZE);
	aml_res_io(aml, LAYOUT_PORT_PM_BASE, LAYOUT_PORT_PM_SIZE);
	aml_end(aml);
	aml_end(aml);
}

static void put_fixed_devices(struct aml *aml, bool has_hpet)
{
	put_motherboard(aml);
	put_device(aml, "COM1", "PNP0501", 1);
	aml_name(aml, "_CRS");
	aml_begin_resources(aml);
	aml_res_io(aml, LAYOUT_PORT_COM1, 8);
	aml_res_irq(aml, 4);
	aml_end(aml);
	aml_end(aml);

	put_device(aml, "RTC", "PNP0B00", 0);
	aml_name(aml, "_CRS");
	aml_begin_resources(aml);
	aml_res_io(aml, LAYOUT_PORT_RTC, 2);
	aml_res_irq(aml, 8);
	aml_end(aml);
	aml_end(aml);

	if (!has_hpet)
		return;
	put_device(aml, "HPET", "PNP0103", 0);
	aml_name(aml, "_CRS");
	aml_begin_resources(aml);
	aml_res_fixed_memory(aml, LAYOUT_HPET_BASE, LAYOUT_HPET_SIZE);
	aml_end(aml);
	aml_end(aml);
}

static void put_processors(struct aml *aml, unsigned cpus)
{
	for (unsigned i = 0; i < cpus; i++) {
		char name[5] = { 'C', '0', (char)('0' + i / 10 % 10), (char)('0' + i % 10), 0 };

		aml_begin_device(aml, name);
		aml_name(aml, "_HID");
		aml_string(aml, "ACPI0007");
		aml_name(aml, "_UID");
		aml_int(aml, i);
		aml_end(aml);
	}
}

void acpi_put_dsdt_body(GByteArray *bytes, const struct boot_config *config, uint64_t ram_end)
{
	struct aml aml;

	aml_init(&aml, bytes);
	aml_begin_scope(&aml, "\\_SB");
	put_host_bridge(&aml, ram_end);
	put_fixed_devices(&aml, config->has_hpet);
	put_processors(&aml, config->cpus);
	aml_end(&aml);

	aml_name(&aml, "\\_S5");
	aml_begin_package(&aml, 4);
	aml_int(&aml, LAYOUT_S5_SLP_TYP);
	aml_int(&aml, LAYOUT_S5_SLP_TYP);
	aml_int(&aml, 0);
	aml_int(&aml, 0);
	aml_end(&aml);
}
