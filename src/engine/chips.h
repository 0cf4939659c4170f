// SPDX-License-Identifier: Apache-2.0
/*
 * chips.h - the interrupt chips and the timer of an engine that has them, in a form of no engine.
 *
 * Plain data, with no vCPU running. Registers are as their manuals lay them out.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define ENGINE_APIC_BYTES  0x400u
#define ENGINE_IOAPIC_PINS 24u

/* A local APIC: SDM vol. 3 chapter "Advanced Programmable Interrupt Controller". */
struct engine_apic {
	uint64_t base; /* IA32_APIC_BASE */
	uint64_t tsc_deadline; /* IA32_TSC_DEADLINE; 0: not armed */
	/* The register page, table "Local APIC Register Address Map": 32 bits every 16 bytes,
	 * little-endian. In x2APIC mode the id has 32 bits. */
	uint8_t regs[ENGINE_APIC_BYTES];
};

/* One 8259A: its command and operation words taken apart. */
struct engine_pic {
	uint8_t irr, imr, isr;
	uint8_t lines; /* levels of the inputs */
	uint8_t vector_base;
	uint8_t lowest; /* rotation: input whose priority is the lowest, plus 1, modulo 8 */
	uint8_t elcr, elcr_mask;
	uint8_t init_state; /* next ICW awaited: 0 none, 1 ICW2, 2 ICW3, 3 ICW4 */
	bool init4; /* ICW4 is to come */
	bool read_isr, poll, special_mask, auto_eoi, rotate_on_auto_eoi, special_fully_nested;
};

struct engine_ioapic {
	uint64_t base;
	uint32_t select, id;
	uint32_t irr; /* level inputs that are asserted */
	uint64_t redirection[ENGINE_IOAPIC_PINS];
};

/* One channel of the 8254. */
struct engine_pit_channel {
	uint32_t count; /* 1..65536 */
	uint16_t latched_count;
	bool count_latched, status_latched;
	uint8_t status;
	uint8_t read_state, write_state, write_latch; /* byte order of accesses under way */
	uint8_t rw_mode, mode;
	bool bcd, gate;
};

struct engine_chips {
	struct engine_pic pic[2]; /* master, slave */
	struct engine_ioapic ioapic;
	bool has_pit; /* ENGINE_CAP_PIT */
	bool speaker; /* bit 1 of port 0x61 */
	struct engine_pit_channel pit[3];
};
