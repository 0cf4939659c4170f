// SPDX-License-Identifier: Apache-2.0
/*
 * boot.h - put a kernel into guest memory and the boot processor in front of it.
 *
 * The kernel is recognized by content: a Linux bzImage (64-bit entry where it has one, else 32-bit),
 * an ELF image with a PVH entry note, or a multiboot 1 image. ACPI and SMBIOS tables are put
 * into the first MiB in every case. Files are foreign: nothing in them makes boot_load() touch
 * anything but guest RAM.
 *
 * Threading: called once, before any vCPU runs.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "mem/mem.h"

struct x86_state;

struct boot_config {
	const char *name;    /* of the machine, told in SMBIOS; NULL: "sika" */
	const char *kernel;  /* path */
	const char *initrd;  /* path; NULL: none */
	const char *cmdline; /* NULL: empty */
	unsigned cpus;	     /* APIC ids 0..cpus-1 */
	bool has_hpet;	     /* describe the HPET */
	bool srat;	     /* describe one NUMA node that holds everything */
};

/**
 * boot_load() - load kernel, initrd and tables, and set the registers for the kernel's entry.
 * @bsp: holds the reset state on entry (x86_state_reset()); what the entry protocol does not define
 *	is left as it is.
 *
 * False: one sentence that names the file, or the size, that is wrong.
 */
bool boot_load(const struct boot_config *config, struct mem *mem, struct x86_state *bsp,
	       GError **err);
/* mtrr.c: the MTRRs of one vCPU, all of which start with the same. */
void boot_set_memory_types(struct x86_state *state, unsigned phys_bits);

/* The parts that boot_load() puts down, for machines that start from firmware, and for tests. */
bool boot_write_acpi(const struct boot_config *config, struct mem *mem, uint64_t *ret_rsdp,
		     GError **err);
bool boot_write_smbios(const struct boot_config *config, struct mem *mem, GError **err);
