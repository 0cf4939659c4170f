// SPDX-License-Identifier: Apache-2.0
/*
 * direct.h - the host's own MMU for the user pages of a guest's program that computes.
 *
 * Theory of operation
 *
 * A vCPU may own a few windows: 512 GiB of the host's address space each, reserved and inaccessible, with
 * guards of 4 GiB on both sides. A window stands for one slot (512 GiB, bits 47 to 39) of the guest's
 * linear addresses, of one address space. User pages that the guest's code touches are mapped there from
 * the file behind its RAM: read-only where the guest may not write, where its page is not dirty yet, or
 * where a store must be reported (translated code). Native code made for it (bt_block.direct) reaches memory
 * in two instructions more than the guest's own and without a branch:
 *
 *	pext	t, base, [mask]		; bits 47..39
 *	mov	t, [addend + 8 * t]
 *	op	[base + t + displacement]
 *
 * Where nothing is mapped the host raises SIGSEGV; its handler finds the place in a table of such
 * accesses and goes on in the slow path of the instruction, which does it by the book: faults of the guest,
 * alignment, MMIO, reported stores. Behind it the page is mapped where it is plain RAM.
 *
 * Where an access can go
 *
 * Let s be bits 47..39 of base, B = base with bits 63..48 cleared, u bits 63..48, and e = displacement
 * and length of the operand, less than 2^31 + 2^6 either way. addend[s] is W - s * 2^39 for a slot with a
 * window at W, 2^47 + 2^46 - s * 2^39 for every other. With l = B - s * 2^39, 0 <= l < 2^39, the access is
 * at u * 2^48 + W + l + e, or u * 2^48 + 2^47 + 2^46 + l + e.
 *  - Window, u = 0: between W - 2^32 and W + 2^39 + 2^32, so in the window or a guard.
 *  - Window, u > 0: W + l + e lies between 2^32 and 2^47, so bit 47 is clear and bits 63..48 are not:
 *    not canonical, #GP, which Linux makes SIGSEGV (SIGBUS where the base is RBP: #SS).
 *  - No window: 2^47 + 2^46 + l + e lies between 2^47 and 2^48. Bit 47 is set: not canonical unless u is
 *    0xffff, and then at 0xffffc000'00000000 + l + e, which belongs to the host's kernel, and is
 *    not its vsyscall page: SIGSEGV.
 * Slots of the upper half (s >= 256) never have a window. So no 64-bit value of base reaches memory of the
 * host outside the windows, and what is not an address of the guest's window always takes the slow path.
 *
 * When it is right
 *
 * A window is a TLB: what it holds is what a processor could hold. Entries come only from walks that find
 * the accessed bit set (and the dirty bit, for write). Whatever drops entries of the TLB must come here
 * before user code goes on: bt_direct_flush() marks all of it for a new walk, bt_direct_flush_page() drops one
 * page, bt_direct_protect() makes a page report its stores. Direct code runs only in a fetch context of its
 * own (cache.c): privilege 3, 64-bit, no alignment checks, no watched data, the address space of the
 * windows, nothing left to be walked anew.
 *
 * When it pays
 *
 * Mapping a page costs some 5 us, a SIGSEGV 3 us, unmapping 2 us a page. So only an address space that
 * timer interrupts found computing several times in a row gets it, what it costs is measured, and where that
 * is more than a share of the time it is given up, each time for longer.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/x86.h"

struct bt_vcpu;

#define BT_DIRECT_WINDOWS 4u

struct bt_direct_window {
	uint8_t *base; /* NULL: not reserved yet */
	bool used;
	unsigned slot;
};

/* Pages of one window, mapped from consecutive RAM. */
struct bt_direct_extent {
	uint64_t linear, gpa;
	uint32_t pages;
	bool writable;
	bool large; /* in pages of the guest of 2 MiB */
};

/* Offsets in the code: a fault in [start, end) goes on at slow. */
struct bt_direct_site {
	uint32_t start, end, slow;
};

struct bt_direct {
	/* Used by native code. */
	uint64_t mask;
	uint64_t addend[512];

	/* Set by the handler of the signal. */
	bool faulted;
	uint64_t fault_host; /* 0: not known */

	bool able;  /* this host and this machine can */
	bool force; /* from the first block on, whatever it costs */
	bool ready; /* the windows hold pages of the address space below, or none */
	bool stale; /* and must be walked anew before they are used */
	uint64_t cr3;
	uint8_t space;		   /* of the TLB, which it was when the windows were last used */
	bool live[X86_TLB_SPACES]; /* the user's fetch context there is a direct one */

	struct bt_direct_window window[BT_DIRECT_WINDOWS];
	struct bt_direct_extent *extent; /* ascending, disjoint */
	unsigned count, room;
	struct bt_direct_site *site; /* ascending */
	uint32_t sites, sites_room;

	/* When it pays: in ticks of the host's TSC. */
	uint64_t seen_cr3;
	uint32_t seen, hold; /* samples in a row; wanted before it begins */
	uint64_t calm;	     /* when hold may become less */
	uint64_t period_start, cost, waste; /* waste: what gained nothing */
	uint64_t faults, maps, unmaps, walks, begun, given_up; /* statistics */
};

#define BT_DIRECT_NOWHERE (~0ull)

/* After bt_jit_init(). */
void bt_direct_init(struct bt_vcpu *vcpu);
void bt_direct_fini(struct bt_vcpu *vcpu);
/* In the thread that will run the vCPU. */
void bt_direct_thread(struct bt_vcpu *vcpu);

/* The user's code may run in direct form from now on, until the next such call. */
bool bt_direct_resume(struct bt_vcpu *vcpu);
/* Dropped from the TLB: all, one address space (x86.h), one page of the one in use. Stores to the page
 * @gpa are to be reported. */
void bt_direct_flush(struct bt_vcpu *vcpu);
void bt_direct_flush_space(struct bt_vcpu *vcpu, unsigned space);
void bt_direct_flush_page(struct bt_vcpu *vcpu, uint64_t linear);
void bt_direct_protect(struct bt_vcpu *vcpu, uint64_t gpa);
/* An interrupt is about to be delivered. */
void bt_direct_sample(struct bt_vcpu *vcpu);

/* The handler of the signal was taken at @insn, which is about to be done by the book. Returns the page to
 * be given to bt_direct_done() when that went well, or BT_DIRECT_NOWHERE. */
uint64_t bt_direct_fault(struct bt_vcpu *vcpu, const struct x86_insn *insn);
void bt_direct_done(struct bt_vcpu *vcpu, uint64_t linear);

/* ---- direct_map.c: windows, and what is mapped in them ---- */
/* Open a window for the slot of @linear. False: none is left, or it has none. */
bool bt_direct_open(struct bt_vcpu *vcpu, uint64_t linear);
/* Of an address in a window; BT_DIRECT_NOWHERE: it is in none. */
uint64_t bt_direct_linear(const struct bt_direct *d, uint64_t host);
/* Map the page of @linear, and its neighbours that lie beside it in RAM. False: nothing was. */
bool bt_direct_map(struct bt_vcpu *vcpu, uint64_t linear);
/* Unmap whatever is not what a walk finds now. */
void bt_direct_revalidate(struct bt_vcpu *vcpu);
void bt_direct_drop(struct bt_vcpu *vcpu);
void bt_direct_close(struct bt_direct *d);
