// SPDX-License-Identifier: Apache-2.0
/* acpi_int.h - what acpi.c and dsdt.c share. */
#pragma once

#include <glib.h>

#include "boot/boot.h"

/* Append the AML behind the DSDT's header. @ram_end: first GPA above all RAM. */
void acpi_put_dsdt_body(GByteArray *bytes, const struct boot_config *config, uint64_t ram_end);
