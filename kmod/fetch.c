// SPDX-License-Identifier: GPL-2.0-only
/*
 * fetch.c - the instruction that has exited, where it takes little to find it.
 *
 * The processor has fetched it a moment ago, by the same tables: nothing is checked anew, and no accessed bit is to be
 * set. So neither the rest of the state is wanted, nor the x86 core's walk. What does not fit in (tables of 32-bit modes, an
 * instruction in two pages, something that another vCPU has changed meanwhile) is left to that one, which goes by the book.
 */
#include <linux/mm.h>
#include <linux/srcu.h>
#include <linux/uaccess.h>

#include "vm.h"

#define ENTRY_ADDR  GENMASK_ULL(51, 12)
#define ENTRY_THERE BIT_ULL(0)
#define ENTRY_LARGE BIT_ULL(7)

#define LONGEST 15u

/* Most of what is read in turn lies in one slot. */
struct reader {
	const struct vm *vm;
	const struct slot *slot;
};

/* NULL: no RAM. */
static const void __user *place_at(struct reader *r, u64 gpa)
{
	gpn_t gpn = gpa >> PAGE_SHIFT;

	if (!r->slot || gpn - r->slot->gpn >= r->slot->pages)
		r->slot = slot_of(r->vm, gpn);
	return r->slot ? (const void __user *)(slot_hva(r->slot, gpn) + offset_in_page(gpa)) : NULL;
}

static bool read_entry(struct reader *r, u64 gpa, u64 *ret)
{
	const u64 __user *at = place_at(r, gpa);

	return at && !__get_user(*ret, at);
}

/* What an instruction is made of, as far as it lies in that page: how much of it, or 0. */
static unsigned int read_code(struct reader *r, u64 gpa, u64 ret[2])
{
	const u64 __user *at = place_at(r, gpa);
	unsigned int room = PAGE_SIZE - offset_in_page(gpa);

	if (!at)
		return 0;
	if (room >= 2 * sizeof(*ret))
		return __get_user(ret[0], at) || __get_user(ret[1], at + 1) ? 0 : LONGEST;
	room = min(room, LONGEST);
	return __copy_from_user(ret, at, room) ? 0 : room;
}

/* SDM vol. 3, 4.5. */
static bool walk(struct reader *r, u64 cr3, u64 linear, u64 *ret_gpa)
{
	unsigned int shift = 39;
	u64 entry = cr3, within;

	for (;; shift -= 9) {
		if (!read_entry(r, (entry & ENTRY_ADDR) + (linear >> shift & 0x1ff) * sizeof(entry), &entry) ||
		    !(entry & ENTRY_THERE))
			return false;
		if (shift == 12 || entry & ENTRY_LARGE)
			break;
	}
	within = BIT_ULL(shift) - 1;
	*ret_gpa = (entry & ENTRY_ADDR & ~within) | (linear & within);
	return shift < 39;
}

static void place_of(struct vcpu *vcpu, struct code_place *ret)
{
	const struct x86_state *s = &vcpu->cpu.s;

	if (vcpu->in_hardware)
		hw->code_place(vcpu, ret);
	else
		*ret = (struct code_place){ .rip = s->rip, .base = s->seg[X86_CS].base,
					    .attr = s->seg[X86_CS].attr, .cr3 = s->cr3 };
}

/* EFER changes by writes that exit. */
static unsigned int code_bytes(const struct vcpu *vcpu, const struct code_place *place)
{
	if (vcpu->cpu.s.efer & X86_EFER_LMA && place->attr & X86_SEG_L)
		return 8;
	return place->attr & X86_SEG_DB ? 4 : 2;
}

static u64 linear_at(const struct vcpu *vcpu, const struct code_place *place)
{
	return code_bytes(vcpu, place) == 8 ? place->rip : (u32)(place->base + place->rip);
}

u64 fetch_linear(struct vcpu *vcpu)
{
	struct code_place place;

	place_of(vcpu, &place);
	return linear_at(vcpu, &place);
}

u64 fetch_next(struct vcpu *vcpu, unsigned int length)
{
	struct code_place place;

	place_of(vcpu, &place);
	return code_bytes(vcpu, &place) == 8 ? place.rip + length : (u32)(place.rip + length);
}

unsigned int fetch_insn(struct vcpu *vcpu, struct x86_insn *insn)
{
	const struct x86_state *s = &vcpu->cpu.s; /* what counts of CR0 changes by writes that exit, too */
	struct reader reader = { .vm = vcpu->vm };
	struct code_place place;
	u64 bytes[2], linear, gpa;
	unsigned int avail = 0;
	int lock, length;

	if (s->cr0 & X86_CR0_PG && !(s->efer & X86_EFER_LMA))
		return 0;
	place_of(vcpu, &place);
	linear = gpa = linear_at(vcpu, &place);
	lock = srcu_read_lock(&vcpu->vm->srcu);
	if (!(s->cr0 & X86_CR0_PG) || walk(&reader, place.cr3, linear, &gpa))
		avail = read_code(&reader, gpa, bytes);
	srcu_read_unlock(&vcpu->vm->srcu, lock);
	if (!avail)
		return 0;
	length = x86_decode((const u8 *)bytes, avail, code_bytes(vcpu, &place), insn);
	if (length <= 0)
		return 0;
	x86_insn_restrict(&vcpu->cpu, insn);
	return length;
}
