// SPDX-License-Identifier: Apache-2.0
/*
 * layout.h - the machine's address plan: what lies where, in memory and in port space.
 *
 * Shared by the ACPI tables, which tell the guest, and by the code that places the devices.
 *
 *	0                    RAM, the first MiB with the firmware area described below
 *	c0000000-dfffffff    PCI memory window, below ECAM
 *	e0000000-efffffff    ECAM: 256 buses of 1 MiB
 *	f0000000-febfffff    PCI memory window, above ECAM
 *	fec00000             I/O APIC
 *	fed00000             HPET
 *	fee00000             local APIC and MSI
 *	fef00000-fef03fff    kept for the engine (real-mode TSS of VMX)
 *	100000000            RAM above the hole
 *	LAYOUT_PCI64         64-bit PCI memory window, above all RAM
 */
#pragma once

#include <stdint.h>

/* ---- guest-physical memory ---- */
#define LAYOUT_PCI_LOW_BASE	0xc0000000u
#define LAYOUT_PCI_LOW_SIZE	0x20000000u
#define LAYOUT_ECAM_BASE	0xe0000000u
#define LAYOUT_ECAM_SIZE	0x10000000u
#define LAYOUT_ECAM_BUSES	256u
#define LAYOUT_PCI_HIGH_BASE	0xf0000000u
#define LAYOUT_PCI_HIGH_SIZE	0x0ec00000u
#define LAYOUT_IOAPIC_BASE	0xfec00000u
#define LAYOUT_HPET_BASE	0xfed00000u
#define LAYOUT_HPET_SIZE	0x400u
#define LAYOUT_LAPIC_BASE	0xfee00000u
#define LAYOUT_ENGINE_BASE	0xfef00000u
#define LAYOUT_ENGINE_SIZE	0x4000u

/* The 64-bit window starts at the first multiple of its size above all RAM. */
#define LAYOUT_PCI64_SIZE 0x1000000000ull /* 64 GiB */

/* @ram_end: first GPA above all RAM. */
static inline uint64_t layout_pci64_base(uint64_t ram_end)
{
	uint64_t base = (ram_end + LAYOUT_PCI64_SIZE - 1) & ~(LAYOUT_PCI64_SIZE - 1);

	return base ? base : LAYOUT_PCI64_SIZE;
}

/* ---- the first MiB of RAM ---- */
#define LAYOUT_LOW_RAM_END   0x9fc00u /* then reserved up to 1 MiB, as a PC's EBDA */
#define LAYOUT_RESERVED_END  0x100000u
#define LAYOUT_ACPI_BASE     0xe0000u /* RSDP first: guests scan e0000-fffff for it */
#define LAYOUT_ACPI_SIZE     0x10000u
#define LAYOUT_SMBIOS_BASE   0xf0000u /* entry point first: guests scan f0000-fffff for it */
#define LAYOUT_SMBIOS_SIZE   0x10000u

/* ---- ports ---- */
#define LAYOUT_PORT_COM1       0x3f8u
#define LAYOUT_PORT_RTC	       0x70u
#define LAYOUT_PORT_PCI_ADDR   0xcf8u
#define LAYOUT_PORT_RESET      0xcf9u /* one byte inside the address register's range */
#define LAYOUT_PORT_PCI_DATA   0xcfcu
#define LAYOUT_PORT_PM_BASE    0x600u
#define LAYOUT_PORT_PM_SIZE    0x10u
#define LAYOUT_PORT_PM1_EVT    0x600u /* status, 16 bits; enable at +2 */
#define LAYOUT_PORT_PM1_CNT    0x604u /* 16 bits */
#define LAYOUT_PORT_PM_TIMER   0x608u /* 32 bits, 3.579545 MHz */
#define LAYOUT_PORT_DEBUG_EXIT 0xf4u

/* PM1 control: SLP_TYP (bits 10..12) of S5, announced as \_S5 in the DSDT. */
#define LAYOUT_S5_SLP_TYP 5u
/* What the guest writes to the reset port, announced in the FADT. */
#define LAYOUT_RESET_VALUE 0x06u

/* ---- interrupts ---- */
#define LAYOUT_GSI_SCI	    9u /* level, active high */
#define LAYOUT_GSI_PCI_BASE 16u /* INTx of a device on bus 0: 16 + (slot + pin) % 4, pin INTA = 0 */
#define LAYOUT_IOAPIC_ID    0u
