// SPDX-License-Identifier: Apache-2.0
/*
 * direct.h - the host's own MMU for the user pages of a guest's program that computes.
 *
 * Theory of operation
 *
 * A vCPU may own a few windows: pieces of the host's address space, reserved and inaccessible, with
 * guards of 4 GiB on both sides. A window stands for one or more slots (512 GiB, bits 47 to 39) of the
 * guest's linear addresses, of one address space. User pages that the guest's code touches are mapped there
 * from the file behind its RAM: read-only where the guest may not write, where its page is not dirty yet, or
 * where a store must be reported (translated code). Native code made for it (bt_block.direct) reaches memory
 * by two or three instructions more than the guest's own, without a branch and without spoiling flags.
 *
 * Classes. Most that a program touches is in one of two places: slot 0 (programs linked to fixed
 * addresses), or where Linux puts all else (slots aa to ac: programs, their heaps; fd to ff: stacks, libraries,
 * mappings). All slots of a class (enum bt_direct_class) are at one distance from their windows, base[class]
 * of the vCPU, which are there for as long as it is. Native code guesses of which class an access is, and
 * does not wait for the answer:
 *
 *	pext	t, address, [class_mask]	; (1) its upper bits
 *	movzx	t, byte [class_table + t * scale]
 *	mov	b, [base]			; (2)
 *	op	[address + b + displacement]
 *
 * The table is inaccessible but for the entries of the class: where the guess was wrong (1) raises
 * SIGSEGV. Then the access, and with it those that rely on its look, is overwritten with a jump to a copy in
 * the other form, for good. (1) and (2) are left out where the block has done them for the same register
 * (tr_direct.c). So the latency of an access is the guest's own, or one cycle more.
 *
 * Tables of addends. Any slot can be given a window:
 *
 *	pext	t, address, [mask]		; bits 47..39
 *	mov	t, [addend + 8 * t]
 *	op	[address + t + displacement]
 *
 * Where nothing is mapped the host raises SIGSEGV; its handler finds the place in a table of such
 * accesses and goes on in the slow path of the instruction, which does it by the book: faults of the guest,
 * alignment, MMIO, reported stores. Behind it the page is mapped where it is plain RAM.
 *
 * Where an access can go
 *
 * By its class. Let the address be a, 64 bits. t is all bits of a from 37 (low) or 30 (high) on, so that t is
 * below 2^27 (2^34) and 8 * t is inside the table's reservation, which is 2^30 (2^37) bytes long.
 * Of the low table the bytes of t = 0..3 can be read, the last ones of a page whose successor is
 * inaccessible: bits 63..39 of a are 0. Of the high table, a page for each slot, the pages of its slots: bits
 * 63..48 of a are 0, and 47..39 are such a slot. So behind (1) a is in a slot of the class, b brings it
 * into the slot's window, and the access at a + b + e is in a window or guard of the class as long as
 * |e| < 2^32: e is a displacement of 32 bits, at most 2^30 by which the register has changed since it
 * was looked at, and the length of the operand. Where e leads from one slot to the next of the same class,
 * the windows follow each other too, so that the place is the right one; else it is a guard. A
 * processor executes (1) before the access as far as anyone can tell: its fault is the first.
 *
 * By the addends. Let s be bits 47..39 of a, B = a with bits 63..48 cleared, u bits 63..48, and e = displacement
 * and length of the operand, less than 2^31 + 2^6 either way. addend[s] is W - s * 2^39 for a slot with a
 * window at W, 2^47 + 2^46 - s * 2^39 for every other. With l = B - s * 2^39, 0 <= l < 2^39, the access is
 * at u * 2^48 + W + l + e, or u * 2^48 + 2^47 + 2^46 + l + e.
 *  - Window, u = 0: between W - 2^32 and W + 2^39 + 2^32, so in the window, a guard, or the window of a
 *    neighbour of its class, where a + e is.
 *  - Window, u > 0: W + l + e lies between 2^32 and 2^47, so bit 47 is clear and bits 63..48 are not:
 *    not canonical, #GP, which Linux makes SIGSEGV (SIGBUS where the base is RBP: #SS).
 *  - No window: 2^47 + 2^46 + l + e lies between 2^47 and 2^48. Bit 47 is set: not canonical unless u is
 *    0xffff, and then at 0xffffc000'00000000 + l + e, which belongs to the host's kernel, and is
 *    not its vsyscall page: SIGSEGV.
 *
 * Slots of the upper half (s >= 256) never have a window. So no 64-bit value of a reaches memory of the
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

enum bt_direct_class { BT_DIRECT_LOW, BT_DIRECT_HIGH, BT_DIRECT_CLASSES };

/* Windows of the classes come first. The others are of one slot each. */
#define BT_DIRECT_FIXED	  3u
#define BT_DIRECT_WINDOWS 7u

/* Where tables of the classes are: beside struct bt_vcpu, see bt_direct_alloc(). Bits of an address that are
 * looked up, for 8 bytes each. */
#define BT_DIRECT_LOW_BITS   27u
#define BT_DIRECT_HIGH_BITS  34u
#define BT_DIRECT_LOW_BYTES  (8ull << BT_DIRECT_LOW_BITS)
#define BT_DIRECT_HIGH_BYTES (8ull << BT_DIRECT_HIGH_BITS)

struct bt_direct_window {
	uint8_t *base; /* NULL: not reserved yet */
	bool used;
	unsigned slot, slots;
};

/* Pages of one window, mapped from consecutive RAM. */
struct bt_direct_extent {
	uint64_t linear, gpa;
	uint32_t pages;
	bool writable;
	bool large; /* in pages of the guest of 2 MiB */
};

/* Offsets in the code, ascending in each region of the cache: a fault in [start, end) goes on at slow. Where a class was wrong it goes on at other, and
 * so does from then on whatever is at start, here and at the other sites of the block, which have
 * looked together (bits of groups), or with such. */
struct bt_direct_site {
	uint32_t start, end, slow;
	uint32_t other; /* 0: no class is guessed */
	uint32_t groups;
	uint32_t first;	 /* the block's sites */
	uint32_t count;
};

struct bt_direct {
	/* Used by native code. */
	uint64_t mask;
	uint64_t class_mask[BT_DIRECT_CLASSES], base[BT_DIRECT_CLASSES];
	uint64_t addend[512];

	/* Set by the handler of the signal. */
	bool faulted;
	uint64_t fault_host; /* 0: not known */

	bool able;  /* this host and this machine can */
	bool tables; /* are there */
	bool has_class[BT_DIRECT_CLASSES];
	bool force; /* from the first block on, whatever it costs */
	bool ready; /* the windows hold pages of the address space below, or none */
	bool stale; /* and must be walked anew before they are used */
	uint64_t cr3;
	uint8_t space;		   /* of the TLB, which it was when the windows were last used */
	bool live[X86_TLB_SPACES]; /* the user's fetch context there is a direct one */

	struct bt_direct_window window[BT_DIRECT_WINDOWS];
	struct bt_direct_extent *extent; /* ascending, disjoint */
	unsigned count, room;

	/* When it pays: in ticks of the host's TSC. */
	uint64_t seen_cr3;
	uint32_t seen, hold; /* samples in a row; wanted before it begins */
	uint64_t calm;	     /* when hold may become less */
	uint64_t period_start, cost, waste; /* waste: what gained nothing */
	uint64_t faults, misses, maps, unmaps, walks, begun, given_up; /* statistics */
};

#define BT_DIRECT_NOWHERE (~0ull)

/* Zeroed memory, where possible with the tables of the classes on both sides; or NULL. */
struct bt_vcpu *bt_direct_alloc(void);
void bt_direct_free(struct bt_vcpu *vcpu);
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
/* Windows and tables of the classes, as far as there is room. */
void bt_direct_classes(struct bt_vcpu *vcpu);
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
