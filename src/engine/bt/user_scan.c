// SPDX-License-Identifier: Apache-2.0
/* user_scan.c - instructions that user code may execute and that tell of the host: user.h. */
#include "engine/bt/user.h"

#include <string.h>

#include "engine/bt/jit/describe.h"
#include "x86/insns.h"
#include "x86/x86.h"

#define PAGE	   4096u
#define MAX_INSN   15u
#define SYNC_BYTES 128u
#define LOOK_AHEAD 16u
#define RDTSCP	   0xf9 /* behind 0F 01 */
#define UNKNOWN	   0x1ff /* a byte of a page that is not there: as if it were what is looked for */

/*
 * Behind 0F: SDM vol. 2, opcode map 0F.
 *	03 11:		LSL of a register: how programs learned their CPU's number before RDPID
 *	34		SYSENTER, which Intel's have in 64-bit mode: what the host makes of RIP and RSP is its own
 *	01 FD		RDPRU, of AMD's: counters of the host's
 *	A2		CPUID, unless it faults
 *	F3 0F C7 11:7	RDPID
 * and where the guest's XCR0 is not the host's, as they name it or save by it:
 *	01 D0		XGETBV
 *	AE mem/4 /6	XSAVE, XSAVEOPT
 *	C7 mem/4	XSAVEC
 * and where the guest's counter is not the host's:
 *	31, 01 F9	RDTSC, RDTSCP. Linux can let them fault, but where that is emulated to a hypervisor's guest, each switch to
 *			the runner and back costs as much as all else of a stop
 * RDTSCP also reads the CPU's number, so that where the counter is the host's nobody may look at that.
 * SGDT, SIDT, SLDT, STR and SMSW fault where the host has UMIP, as Linux has it on. LAR, VERR and VERW tell of the
 * host's descriptors, which are those of any 64-bit Linux, and each other LSL is let through likewise: their bytes
 * are in one page of thirty. A program with an LDT does not run as it is (is_plain() in user.c).
 */
static bool is_telling(const uint8_t *p, int opcode, int modrm, const uint8_t *page, unsigned what)
{
	bool xsave = what & BT_SCAN_XSAVE;
	unsigned reg = (unsigned)modrm >> 3 & 7;
	bool mem = modrm < 0xc0;

	switch (opcode) {
	case 0x01:
		return modrm == RDTSCP || modrm == 0xfd || modrm == UNKNOWN || (xsave && modrm == 0xd0);
	case 0x03:
		return !mem;
	case 0x31:
		return what & BT_SCAN_TSC;
	case 0x34:
		return true;
	case 0xa2:
		return what & BT_SCAN_CPUID;
	case 0xae:
		return xsave && mem && (reg == 4 || reg == 6);
	case 0xc7:
		if (mem)
			return xsave && reg == 4;
		/* F3 may have a REX prefix behind it. */
		return reg == 7 && ((p - page >= 1 && p[-1] == 0xf3) ||
				    (p - page >= 2 && p[-2] == 0xf3 && (p[-1] & 0xf0) == 0x40));
	case UNKNOWN:
		return true;
	default:
		return false;
	}
}

static bool is_prefix(uint8_t byte)
{
	switch (byte) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67:
	case 0xf0: case 0xf2: case 0xf3:
		return true;
	default:
		return (byte & 0xf0) == 0x40;
	}
}

static bool are_prefixes(const uint8_t *p, unsigned count)
{
	while (count && is_prefix(*p)) {
		count--;
		p++;
	}
	return count == 0;
}

/* Decode from @from on until @at is reached or passed. Whether it is the opcode of an instruction, which begins at
 * *ret_begin; *ret_known is set where that could be told. */
static bool chain_hits(const uint8_t *page, unsigned from, unsigned at, uint64_t seen[], bool *ret_known,
		       unsigned *ret_begin)
{
	while (from <= at) {
		struct x86_insn insn;
		int len;

		if (seen[from / 64] >> from % 64 & 1)
			return false; /* another chain went on from here */
		seen[from / 64] |= (uint64_t)1 << from % 64;
		len = x86_decode(page + from, PAGE - from, 8, &insn);
		if (len <= 0)
			return false;
		if (from + (unsigned)len > at) {
			*ret_known = true;
			*ret_begin = from;
			return are_prefixes(page + from, at - from);
		}
		from += (unsigned)len;
	}
	return false;
}

/*
 * Three pages in a hundred hold such bytes, most of them in the middle of an instruction. Decoding that begins
 * at a wrong byte finds the right ones within a few instructions: so if of all chains that begin somewhat in front
 * none has an instruction there, there is none. Who jumps into the middle on purpose learns something of
 * the host, which a hypervisor's guest may.
 */
static bool begins_insn(const uint8_t *page, unsigned at, unsigned *ret_begin)
{
	uint64_t seen[PAGE / 64] = { 0 };
	unsigned first = at > SYNC_BYTES ? at - SYNC_BYTES : 0;
	bool known = false;

	for (unsigned from = first; from < first + MAX_INSN && from <= at; from++)
		if (chain_hits(page, from, at, seen, &known, ret_begin))
			return true;
	*ret_begin = at;
	return !known;
}

/* What an instruction does with RCX: JIT_W, it is all new; 0, nothing; JIT_R, it reads it, or is none of those that
 * are known here. A function that returns leaves nothing there by any ABI. */
static unsigned use_of_cx(const struct x86_insn *insn, const struct jit_desc *d)
{
	const unsigned shift_by_cl = 0xd2, shld = 0xa5, shrd = 0xad, cmpxchg16b = 0xc7;
	bool byte_reg = d->byte_reg, byte_rm = d->byte_rm;
	unsigned use = 0;

	switch (d->kind) {
	case JIT_NOTHING:
		return 0;
	case JIT_RET:
		return JIT_W;
	case JIT_SYS:
		return insn->exec == x86_op_rdtscp ? JIT_W : insn->exec == x86_op_rdtsc ? 0 : JIT_R;
	case JIT_MOV_IMM:
		return insn->rm == X86_RCX ? JIT_W : 0;
	case JIT_XCHG_AX:
		return insn->rm == X86_RCX ? JIT_R : 0;
	case JIT_COPY:
		break;
	default:
		return JIT_R;
	}
	if (d->vec || insn->flags & X86_INSN_VEX || insn->map > 1 ||
	    (insn->map == 0 && (insn->opcode & 0xfe) == shift_by_cl) ||
	    (insn->map == 1 && (insn->opcode == shld || insn->opcode == shrd || insn->opcode == cmpxchg16b)))
		return JIT_R;
	if (insn->flags & X86_INSN_MEM) {
		if (insn->base == X86_RCX || insn->index == X86_RCX)
			return JIT_R;
	} else if (d->rm_use && (byte_rm ? insn->rm8 / 8 : insn->rm) == X86_RCX)
		use = byte_rm || insn->opsize < 4 ? JIT_R : d->rm_use;
	if (d->reg_use && (byte_reg ? insn->reg8 / 8 : insn->reg) == X86_RCX)
		use |= byte_reg || insn->opsize < 4 ? JIT_R : d->reg_use;
	return use & JIT_R ? JIT_R : use;
}

/* Whether what RDTSCP has put into RCX is overwritten by the instructions from @from on, and was not read: so it is
 * in Linux' clock_gettime(). */
static bool cx_is_lost(const uint8_t *page, unsigned from)
{
	for (unsigned n = 0; n < LOOK_AHEAD && from < PAGE; n++) {
		struct x86_insn insn;
		struct jit_desc d;
		int len = x86_decode(page + from, PAGE - from, 8, &insn);

		if (len <= 0)
			return false;
		jit_describe(&insn, page + from, &d);
		switch (use_of_cx(&insn, &d)) {
		case JIT_W:
			return true;
		case 0:
			break;
		default:
			return false;
		}
		from += (unsigned)len;
	}
	return false;
}

unsigned bt_user_scan(const uint8_t *page, const uint8_t *next, unsigned what, unsigned max, uint16_t ret_at[])
{
	const uint8_t *end = page + PAGE;
	unsigned count = 0;

	for (const uint8_t *p = page; p < end && (p = memchr(p, 0x0f, (size_t)(end - p))); p++) {
		int follow[2];
		unsigned begin;

		for (ptrdiff_t i = 0; i < 2; i++)
			follow[i] = p + 1 + i < end ? p[1 + i] : next ? next[p + 1 + i - end] : UNKNOWN;
		if (!is_telling(p, follow[0], follow[1], page, what) ||
		    !begins_insn(page, (unsigned)(p - page), &begin))
			continue;
		if (!(what & BT_SCAN_TSC) && follow[0] == 0x01 && follow[1] == RDTSCP &&
		    cx_is_lost(page, (unsigned)(p - page) + 3))
			continue;
		if (count++ < max)
			ret_at[count - 1] = (uint16_t)begin;
	}
	return count;
}
