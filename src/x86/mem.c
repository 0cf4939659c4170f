// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * mem.c - guest memory by the book: segments, page crossings, MMIO. The TLB itself is in tlb.c.
 *
 * Each access is cut into one or two parts, one per page; both are translated before a byte is
 * moved, so that a fault leaves nothing half done. Sources: Intel SDM vol. 3, chapters 4 and 5.
 */
#include "softmmu.h"

#include <string.h>

uint64_t x86_ea(const struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t ea = x86_ea_sum(cpu, insn);

	if (insn->adsize == 8)
		return ea;
	return insn->adsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

/* ---- segments ---- */

static int segment_fault(struct x86_cpu *cpu, unsigned seg)
{
	return x86_raise_error(cpu, seg == X86_SS ? X86_SS_FAULT : X86_GP, 0);
}

static bool within_limit(const struct x86_segment *s, uint64_t off, unsigned len)
{
	uint32_t top;

	if ((s->attr & (X86_SEG_S | 0xc)) != (X86_SEG_S | 0x4)) /* not expand-down data */
		return off <= s->limit && len - 1 <= s->limit - off;
	top = s->attr & X86_SEG_DB ? 0xffffffff : 0xffff;
	return off > s->limit && off <= top && len - 1 <= top - off;
}

static bool type_allows(const struct x86_cpu *cpu, const struct x86_segment *s, bool write)
{
	if (!(cpu->s.cr0 & X86_CR0_PE) || cpu->s.rflags & X86_FL_VM)
		return true;
	if (s->attr & 0x8) /* code: readable or not, never writable */
		return !write && s->attr & 0x2;
	return !write || s->attr & 0x2;
}

int x86_linear(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned len, bool write,
	       uint64_t *ret_linear)
{
	const struct x86_segment *s = &cpu->s.seg[seg];

	if (cpu->code_bytes == 8) {
		uint64_t linear = off + (seg >= X86_FS ? s->base : 0);

		if (!x86_is_canonical(linear) || !x86_is_canonical(linear + len - 1))
			return segment_fault(cpu, seg);
		*ret_linear = linear;
		return X86_NEXT;
	}
	if (s->attr & X86_SEG_UNUSABLE || !type_allows(cpu, s, write) || !within_limit(s, off, len))
		return segment_fault(cpu, seg);
	*ret_linear = (uint32_t)(s->base + off);
	return X86_NEXT;
}

/* ---- pages ---- */

static int map_part(struct x86_cpu *cpu, unsigned mode, uint64_t linear, bool write,
		    struct x86_part *part)
{
	unsigned access = (write ? X86_PF_W : 0) | (mode >= X86_TLB_USER ? X86_PF_U : 0);
	struct x86_walk walk;
	int r;

	if (x86_tlb_lookup(cpu, mode, linear, write, part))
		return X86_NEXT;
	r = x86_walk(cpu, linear, access, mode == X86_TLB_KERNEL_AC, &walk);
	if (r != X86_NEXT)
		return r;
	x86_tlb_insert(cpu, mode, linear, access, &walk, part);
	return X86_NEXT;
}

/* Both pages of an access; part[1].len is 0 where there is but one. */
static int map_parts(struct x86_cpu *cpu, unsigned mode, uint64_t linear, unsigned len, bool write,
		     struct x86_part part[2])
{
	unsigned room = 0x1000 - (linear & 0xfff);
	uint64_t next = linear + room;
	int r = map_part(cpu, mode, linear, write, &part[0]);

	part[0].len = len;
	part[1].len = 0;
	if (r != X86_NEXT || len <= room)
		return r;
	part[0].len = room;
	part[1].len = len - room;
	if (!cpu->long_mode)
		next = (uint32_t)next;
	return map_part(cpu, mode, next, write, &part[1]);
}

/* ---- moving bytes ---- */

/* 16 bytes in one access, as hardware does where they are aligned. */
static void copy16(void *to, const void *from)
{
#ifdef __SSE2__
	__asm__ volatile("movdqu %1, %%xmm0; movdqu %%xmm0, %0"
			 : "=m"(*(uint8_t(*)[16])to)
			 : "m"(*(const uint8_t(*)[16])from)
			 : "xmm0");
#else
	memcpy(to, from, 16);
#endif
}

/* Between RAM and a buffer; sizes that an instruction may expect to be one access are one. */
static void copy(void *to, const void *from, unsigned len)
{
	switch (len) {
	case 1:
		*(volatile uint8_t *)to = *(const volatile uint8_t *)from;
		break;
	case 2:
		*(volatile x86_u16u *)to = *(const volatile x86_u16u *)from;
		break;
	case 4:
		*(volatile x86_u32u *)to = *(const volatile x86_u32u *)from;
		break;
	case 8:
		*(volatile x86_u64u *)to = *(const volatile x86_u64u *)from;
		break;
	case 32:
		copy16((uint8_t *)to + 16, (const uint8_t *)from + 16);
		__attribute__((__fallthrough__));
	case 16:
		copy16(to, from);
		break;
	default:
		memcpy(to, from, len);
	}
}

static unsigned mmio_chunk(unsigned len)
{
	return len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
}

static void part_read(struct x86_cpu *cpu, const struct x86_part *part, uint8_t *buf)
{
	if (part->host) {
		copy(buf, part->host, part->len);
		return;
	}
	for (unsigned done = 0, n; done < part->len; done += n) {
		uint64_t v;

		n = mmio_chunk(part->len - done);
		v = cpu->ops->mmio_read(cpu, part->gpa + done, n);
		memcpy(buf + done, &v, n);
	}
}

static void report(struct x86_cpu *cpu, const struct x86_part *part)
{
	if (cpu->ops->ram_written(cpu, part->gpa, part->len))
		cpu->stop_requested = true;
}

static void part_write(struct x86_cpu *cpu, const struct x86_part *part, const uint8_t *buf)
{
	if (part->host) {
		copy(part->host, buf, part->len);
		if (!part->direct)
			report(cpu, part);
		return;
	}
	for (unsigned done = 0, n; done < part->len; done += n) {
		uint64_t v = 0;

		n = mmio_chunk(part->len - done);
		memcpy(&v, buf + done, n);
		cpu->ops->mmio_write(cpu, part->gpa + done, n, v);
	}
}

/* ---- accesses of instructions ---- */

/* Before paging, as processors have it (SDM vol. 3, table "Priority Among Concurrent Events", puts #AC
 * behind #PF): an access that is not aligned is one that may cross pages. */
static int check_alignment(struct x86_cpu *cpu, uint64_t linear, unsigned len)
{
	unsigned align = len == 10 ? 8 : len > 16 ? 16 : len;

	if (!x86_checks_alignment(cpu) || align & (align - 1))
		return X86_NEXT;
	return linear & (align - 1) ? x86_raise_error(cpu, X86_AC, 0) : X86_NEXT;
}

static int find_operand(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned len, bool write,
			struct x86_part part[2], uint64_t *ret_linear)
{
	int r = x86_linear(cpu, seg, off, len, write, ret_linear);

	if (r == X86_NEXT)
		r = check_alignment(cpu, *ret_linear, len);
	if (r == X86_NEXT)
		r = map_parts(cpu, x86_rights_mode(cpu), *ret_linear, len, write, part);
	return r;
}

static int map_operand(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned len, bool write,
		       struct x86_part part[2])
{
	uint64_t linear;
	int r = find_operand(cpu, seg, off, len, write, part, &linear);

	if (r == X86_NEXT && unlikely(cpu->debug_data))
		x86_debug_data(cpu, linear, len, write);
	return r;
}

/* The usual case of code that is not 64-bit: flat segments and a page that the TLB knows. */
static bool flat_linear(const struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned len,
			uint64_t *ret_linear)
{
	if (cpu->code_bytes == 8) {
		*ret_linear = off + (seg >= X86_FS ? cpu->s.seg[seg].base : 0);
		return true;
	}
	*ret_linear = (uint32_t)off;
	return cpu->flat && seg < X86_FS && seg != X86_CS && off <= (uint32_t)-64;
}

int x86_read(struct x86_cpu *cpu, unsigned seg, uint64_t off, void *buf, unsigned len)
{
	struct x86_part part[2];
	uint64_t linear;
	int r;

	if (flat_linear(cpu, seg, off, len, &linear)) {
		const uint8_t *p = x86_host_read(cpu, linear, len);

		if (likely(p)) {
			copy(buf, p, len);
			return X86_NEXT;
		}
	}
	r = map_operand(cpu, seg, off, len, false, part);
	if (r != X86_NEXT)
		return r;
	part_read(cpu, &part[0], buf);
	if (part[1].len)
		part_read(cpu, &part[1], (uint8_t *)buf + part[0].len);
	return unlikely(cpu->device_waits) ? X86_FAULT : X86_NEXT;
}

static void parts_write(struct x86_cpu *cpu, const struct x86_part part[2], const void *buf)
{
	part_write(cpu, &part[0], buf);
	if (part[1].len)
		part_write(cpu, &part[1], (const uint8_t *)buf + part[0].len);
}

int x86_write(struct x86_cpu *cpu, unsigned seg, uint64_t off, const void *buf, unsigned len)
{
	struct x86_part part[2];
	uint64_t linear;
	int r;

	if (flat_linear(cpu, seg, off, len, &linear)) {
		uint8_t *p = x86_host_write(cpu, linear, len);

		if (likely(p)) {
			copy(p, buf, len);
			return X86_NEXT;
		}
	}
	r = map_operand(cpu, seg, off, len, true, part);
	if (r == X86_NEXT)
		parts_write(cpu, part, buf);
	return r;
}

struct x86_loaded x86_load_slow(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	struct x86_loaded r = { 0 };

	r.status = x86_read(cpu, insn->seg, x86_ea(cpu, insn), &r.value, size);
	return r;
}

int x86_store_slow(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t v, unsigned size)
{
	return x86_write(cpu, insn->seg, x86_ea(cpu, insn), &v, size);
}

struct x86_loaded x86_stack_load_slow(struct x86_cpu *cpu, uint64_t off, unsigned size)
{
	struct x86_loaded r = { 0 };

	r.status = x86_read(cpu, X86_SS, off, &r.value, size);
	return r;
}

int x86_stack_store_slow(struct x86_cpu *cpu, uint64_t off, uint64_t v, unsigned size)
{
	return x86_write(cpu, X86_SS, off, &v, size);
}

/* No watchpoint hits: what was found good to be written to may yet not be, where an unmasked exception of the x87 FPU
 * comes between. */
int x86_probe_write(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned len)
{
	struct x86_part part[2];
	uint64_t linear;

	return find_operand(cpu, seg, off, len, true, part, &linear);
}

/* XCHG locks by itself. */
static bool is_locked(const struct x86_insn *insn)
{
	return insn->flags & X86_INSN_LOCK || (insn->map == 0 && (insn->opcode & 0xfe) == 0x86);
}

/* The operand on two pages that lie apart, or NULL. */
static uint8_t *pair_open(struct x86_cpu *cpu, const struct x86_rmw *rmw)
{
	const uint64_t gpa[2] = { rmw->part[0].gpa & ~0xfffull, rmw->part[1].gpa & ~0xfffull };
	uint8_t *pages;

	if (!cpu->ops->ram_pair || !rmw->part[0].host || !rmw->part[1].host)
		return NULL;
	pages = cpu->ops->ram_pair(cpu, gpa);
	return pages ? pages + 0x1000 - rmw->part[0].len : NULL;
}

void *x86_rmw_open(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off, unsigned len,
		   struct x86_rmw *rmw)
{
	uint8_t *p;

	rmw->open = rmw->bounced = false;
	if (map_operand(cpu, insn->seg, off, len, true, rmw->part) != X86_NEXT)
		return NULL;
	if (rmw->part[0].host && !rmw->part[1].len) {
		rmw->open = !rmw->part[0].direct;
		return rmw->part[0].host;
	}
	/* Over two pages that lie side by side in the host too, as most do that do so in a guest's kernel. */
	if (rmw->part[0].host && rmw->part[1].host == rmw->part[0].host + rmw->part[0].len) {
		rmw->open = !rmw->part[0].direct || !rmw->part[1].direct;
		return rmw->part[0].host;
	}
	rmw->open = true;
	if (rmw->part[1].len && is_locked(insn) && (p = pair_open(cpu, rmw)))
		return p;
	rmw->bounced = true;
	part_read(cpu, &rmw->part[0], rmw->buf);
	if (rmw->part[1].len)
		part_read(cpu, &rmw->part[1], rmw->buf + rmw->part[0].len);
	if (cpu->device_waits) {
		rmw->open = false;
		return NULL;
	}
	return rmw->buf;
}

void x86_rmw_close(struct x86_cpu *cpu, struct x86_rmw *rmw)
{
	if (rmw->bounced) {
		parts_write(cpu, rmw->part, rmw->buf);
		return;
	}
	for (unsigned i = 0; i < 2 && rmw->part[i].len; i++)
		if (!rmw->part[i].direct)
			report(cpu, &rmw->part[i]);
}

/* ---- implicit supervisor accesses ---- */

/* SMAP holds for them whatever EFLAGS.AC says: SDM vol. 3, 4.6.1. */
int x86_read_sys(struct x86_cpu *cpu, uint64_t linear, void *buf, unsigned len)
{
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, X86_TLB_KERNEL, linear);
	struct x86_part part[2];
	int r;

	if (likely(e->read_tag == x86_tlb_tag(linear, len))) {
		copy(buf, (const uint8_t *)(uintptr_t)(e->addend + linear), len);
		return X86_NEXT;
	}
	r = map_parts(cpu, X86_TLB_KERNEL, linear, len, false, part);
	if (r != X86_NEXT)
		return r;
	part_read(cpu, &part[0], buf);
	if (part[1].len)
		part_read(cpu, &part[1], (uint8_t *)buf + part[0].len);
	return X86_NEXT;
}

int x86_write_sys(struct x86_cpu *cpu, uint64_t linear, const void *buf, unsigned len)
{
	struct x86_part part[2];
	int r = map_parts(cpu, X86_TLB_KERNEL, linear, len, true, part);

	if (r == X86_NEXT)
		parts_write(cpu, part, buf);
	return r;
}

/* ---- instruction fetch ---- */

static int code_linear(struct x86_cpu *cpu, uint64_t rip, uint64_t *ret_linear)
{
	const struct x86_segment *cs = &cpu->s.seg[X86_CS];

	if (cpu->code_bytes == 8) {
		*ret_linear = rip;
		return x86_is_canonical(rip) ? X86_NEXT : x86_gp(cpu, 0);
	}
	if (rip > cs->limit)
		return x86_gp(cpu, 0);
	*ret_linear = (uint32_t)(cs->base + rip);
	return X86_NEXT;
}

static int map_fetch(struct x86_cpu *cpu, uint64_t linear, struct x86_part *part)
{
	unsigned mode = cpu->cpl == 3 ? X86_TLB_USER : X86_TLB_KERNEL;
	unsigned access = X86_PF_FETCH | (cpu->cpl == 3 ? X86_PF_U : 0);
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, mode, linear);
	struct x86_walk walk;
	bool direct;
	int r;

	if (likely(e->gpa & X86_TLB_EXEC) && x86_tlb_lookup(cpu, mode, linear, false, part)) {
		cpu->fetch_global = e->gpa & X86_TLB_GLOBAL;
		return X86_NEXT;
	}
	cpu->fetch_global = false;
	r = x86_walk(cpu, linear, access, true, &walk);
	if (r != X86_NEXT)
		return r;
	cpu->fetch_global = walk.global && linear >> 63;
	/* What may be fetched may be read, unless SMAP forbids it. */
	if (mode == X86_TLB_USER || !walk.user || !(cpu->s.cr4 & X86_CR4_SMAP)) {
		walk.executable = true;
		x86_tlb_insert(cpu, mode, linear, access, &walk, part);
		return X86_NEXT;
	}
	part->gpa = walk.gpa;
	part->host = cpu->ops->ram_page(cpu, walk.gpa & X86_TLB_PAGE_MASK, false, &direct);
	if (part->host)
		part->host += walk.gpa & 0xfff;
	return X86_NEXT;
}

int x86_fetch_address(struct x86_cpu *cpu, uint64_t *ret_linear, uint64_t *ret_gpa)
{
	struct x86_part part;
	int r = code_linear(cpu, cpu->s.rip, ret_linear);

	if (r == X86_NEXT)
		r = map_fetch(cpu, *ret_linear, &part);
	if (r == X86_NEXT)
		*ret_gpa = part.gpa;
	return r;
}

/* Bytes at @rip up to the end of its page or of the code segment; 0: cpu->fault is set. */
static unsigned fetch_in_page(struct x86_cpu *cpu, uint64_t rip, uint8_t *buf, unsigned max,
			      const uint8_t **ret_host)
{
	struct x86_part part;
	uint64_t linear = 0, room;

	*ret_host = NULL;
	if (code_linear(cpu, rip, &linear) != X86_NEXT ||
	    map_fetch(cpu, linear, &part) != X86_NEXT)
		return 0;
	room = 0x1000 - (linear & 0xfff);
	if (cpu->code_bytes != 8 && cpu->s.seg[X86_CS].limit - rip < room)
		room = cpu->s.seg[X86_CS].limit - rip + 1;
	part.len = room < max ? (unsigned)room : max;
	*ret_host = part.host;
	if (part.host)
		memcpy(buf, part.host, part.len);
	else
		part_read(cpu, &part, buf);
	return part.len;
}

int x86_fetch_bytes(struct x86_cpu *cpu, uint8_t *buf, unsigned max, const uint8_t *ret_host[2])
{
	unsigned n = fetch_in_page(cpu, cpu->s.rip, buf, max, &ret_host[0]);
	uint64_t next = cpu->s.rip + n;

	ret_host[1] = NULL;
	if (n == 0 || n == max)
		return (int)n;
	return (int)(n + fetch_in_page(cpu, next, buf + n, max - n, &ret_host[1]));
}

/* The next page is touched only where the instruction reaches into it. */
int x86_fetch_insn(struct x86_cpu *cpu, struct x86_insn *insn)
{
	const uint8_t *host;
	uint8_t buf[15];
	unsigned have = 0, more;
	int len;

	do {
		more = fetch_in_page(cpu, cpu->s.rip + have, buf + have, sizeof(buf) - have, &host);
		if (!more)
			return 0;
		have += more;
		len = x86_decode(buf, have, cpu->code_bytes, insn);
	} while (len == 0 && have < sizeof(buf));
	if (len > 0) {
		x86_insn_restrict(cpu, insn);
		return len;
	}
	if (len == -X86_GP)
		(void)x86_gp(cpu, 0);
	else
		(void)x86_ud(cpu);
	return 0;
}
