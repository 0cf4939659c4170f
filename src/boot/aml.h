// SPDX-License-Identifier: Apache-2.0
/*
 * aml.h - a small writer of ACPI Machine Language.
 *
 * Terms are written in the order in which ASL has them; aml_begin_*() opens a term with a body and
 * aml_end() closes the innermost one. ACPI 6.4, chapter 20 "ACPI Machine Language Specification".
 * Names are one segment of at most four characters, with an optional leading '\'.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

#define AML_MAX_DEPTH 8u

struct aml {
	GByteArray *bytes;
	guint open[AML_MAX_DEPTH]; /* where the length of each open term belongs */
	uint8_t kind[AML_MAX_DEPTH];
	unsigned depth;
};

void aml_init(struct aml *aml, GByteArray *bytes);
void aml_begin_scope(struct aml *aml, const char *name);
void aml_begin_device(struct aml *aml, const char *name);
void aml_begin_package(struct aml *aml, uint8_t count);
/* Buffer() holding a resource template; its end tag is written by aml_end(). */
void aml_begin_resources(struct aml *aml);
void aml_end(struct aml *aml);

/* Name(name, ...): one data term follows. */
void aml_name(struct aml *aml, const char *name);
void aml_int(struct aml *aml, uint64_t value);
void aml_eisa_id(struct aml *aml, const char *id); /* "PNP0A08" */
void aml_string(struct aml *aml, const char *text);

/* Resource descriptors, ACPI 6.4 section 6.4. */
void aml_res_io(struct aml *aml, uint16_t base, uint8_t len);
void aml_res_irq(struct aml *aml, unsigned irq);
void aml_res_fixed_memory(struct aml *aml, uint32_t base, uint32_t len);
void aml_res_bus_window(struct aml *aml, uint16_t first, uint16_t last);
void aml_res_io_window(struct aml *aml, uint16_t first, uint16_t last);
void aml_res_memory_window(struct aml *aml, uint32_t first, uint32_t last);
void aml_res_memory64_window(struct aml *aml, uint64_t first, uint64_t last);
