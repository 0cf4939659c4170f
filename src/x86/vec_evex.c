// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * vec_evex.c - memory operands under an opmask; gathers and scatters.
 *
 * SDM vol. 2, 2.7.6: elements that are masked out are not accessed and do not fault, except by
 * instructions of exception classes NF. A store is probed whole before a byte of it is written.
 */
#include "vec_host.h"
#include "insns.h"

/* The elements of a memory operand that are accessed. */
struct part {
	unsigned len, elem;
	uint64_t mask; /* bit per element; all of them: it is one access */
	bool whole;
};

static uint64_t low_bits(unsigned n)
{
	return n >= 64 ? ~0ull : (1ull << n) - 1;
}

/* The compiler's would be a call into its library: not every processor has an instruction for it. */
static unsigned bit_count(uint64_t v)
{
	unsigned n;

	for (n = 0; v; v &= v - 1)
		n++;
	return n;
}

static struct part accessed(const struct x86_cpu *cpu, const struct x86_insn *insn,
			    const struct x86_host_info *info)
{
	struct part p = { .len = x86_host_mem_len(insn, info), .elem = info->elem };
	uint64_t mask = evex_mask(cpu, insn);
	unsigned full = info->mem & 0x80 ? insn->vl / (info->mem & 0x7fu) : info->mem;

	if (!(insn->evex & X86_EVEX_AAA) || !p.elem) {
		p.whole = true;
		return p;
	}
	if (info->flags & X86_HOST_CPR) {
		p.len = bit_count(mask & low_bits(p.len / p.elem)) * p.elem;
		p.whole = true;
	} else if (info->flags & X86_HOST_ANY || insn->evex & X86_EVEX_B) {
		if (info->flags & X86_HOST_ANY)
			full = insn->vl;
		if (!(mask & low_bits(full / p.elem)))
			p.len = 0;
		p.whole = true;
	} else {
		if (info->flags & X86_HOST_FOLD) {
			mask &= low_bits(insn->vl / p.elem);
			for (unsigned n = p.len / p.elem; n < insn->vl / p.elem; n *= 2)
				mask |= mask >> n;
		}
		p.mask = mask & low_bits(p.len / p.elem);
		p.whole = p.mask == low_bits(p.len / p.elem);
	}
	return p;
}

/*
 * Where alignment checking is on it goes by the address of the operand, whatever the mask selects (which is
 * for the processor to choose); of cpr by the element. Gathers and scatters are exempt. What follows is read
 * and written byte by byte then.
 */
static int check_alignment(struct x86_cpu *cpu, const struct x86_insn *insn,
			   const struct x86_host_info *info, uint64_t off)
{
	bool single = info->flags & X86_HOST_CPR && insn->evex & X86_EVEX_AAA;
	unsigned len = single ? info->elem : x86_host_mem_len(insn, info);

	if (!x86_checks_alignment(cpu))
		return X86_NEXT;
	if (cpu->code_bytes != 8 || insn->seg >= X86_FS)
		off += cpu->s.seg[insn->seg].base;
	len = len > 16 ? 16 : len;
	return off & (len - 1) ? x86_raise_error(cpu, X86_AC, 0) : X86_NEXT;
}

/* A fault leaves @buf as it was. */
static int read_bytes(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off, uint8_t *buf,
		      unsigned len)
{
	uint8_t bytes[64];

	for (unsigned i = 0; i < len; i++)
		if (x86_read(cpu, insn->seg, off + i, bytes + i, 1))
			return X86_FAULT;
	memcpy(buf, bytes, len);
	return X86_NEXT;
}

static int read_exempt(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off, uint8_t *buf,
		       unsigned len)
{
	return x86_checks_alignment(cpu) ? read_bytes(cpu, insn, off, buf, len) :
					   x86_read(cpu, insn->seg, off, buf, len);
}

static int probe_exempt(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off, unsigned len)
{
	if (!x86_checks_alignment(cpu))
		return x86_probe_write(cpu, insn->seg, off, len);
	for (unsigned i = 0; i < len; i++)
		if (x86_probe_write(cpu, insn->seg, off + i, 1))
			return X86_FAULT;
	return X86_NEXT;
}

static int write_exempt(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
			const uint8_t *buf, unsigned len)
{
	if (!x86_checks_alignment(cpu))
		return x86_write(cpu, insn->seg, off, buf, len);
	if (probe_exempt(cpu, insn, off, len))
		return X86_FAULT;
	for (unsigned i = 0; i < len; i++)
		if (x86_write(cpu, insn->seg, off + i, buf + i, 1))
			return X86_FAULT;
	return X86_NEXT;
}

static int read_elements(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
			 const struct part *p, uint8_t *buf)
{
	for (unsigned at = 0, i = 0; at < p->len; at += p->elem, i++)
		if (p->mask >> i & 1 &&
		    read_exempt(cpu, insn, off + at, buf + at, p->elem))
			return X86_FAULT;
	return X86_NEXT;
}

static int probe_elements(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
			  const struct part *p)
{
	for (unsigned at = 0, i = 0; at < p->len; at += p->elem, i++)
		if (p->mask >> i & 1 &&
		    probe_exempt(cpu, insn, off + at, p->elem))
			return X86_FAULT;
	return X86_NEXT;
}

static int write_elements(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
			  const struct part *p, const uint8_t *buf)
{
	for (unsigned at = 0, i = 0; at < p->len; at += p->elem, i++)
		if (p->mask >> i & 1 &&
		    write_exempt(cpu, insn, off + at, buf + at, p->elem))
			return X86_FAULT;
	return X86_NEXT;
}

static int load(struct x86_cpu *cpu, const struct x86_insn *insn, const struct x86_host_info *info,
		uint64_t off, uint8_t *buf)
{
	struct part p = accessed(cpu, insn, info);

	if (info->flags & X86_HOST_NF && !p.whole) {
		p.whole = true;
		p.len = x86_host_mem_len(insn, info);
	}
	if (!p.len)
		return X86_NEXT;
	return p.whole ? read_exempt(cpu, insn, off, buf, p.len) :
			 read_elements(cpu, insn, off, &p, buf);
}

static int store(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off, const struct part *p,
		 const uint8_t *buf)
{
	if (!p->whole)
		return write_elements(cpu, insn, off, p, buf);
	return p->len ? write_exempt(cpu, insn, off, buf, p->len) : X86_NEXT;
}

static int probe(struct x86_cpu *cpu, const struct x86_insn *insn, const struct x86_host_info *info,
		 uint64_t off, const struct part *p)
{
	unsigned len = info->flags & X86_HOST_NF ? x86_host_mem_len(insn, info) : p->len;

	if (p->whole || info->flags & X86_HOST_NF)
		return len ? probe_exempt(cpu, insn, off, len) : X86_NEXT;
	return probe_elements(cpu, insn, off, p);
}

/* A vector between register and memory as it is: what copies memory meets page boundaries often. */
static bool is_plain_move(const struct x86_insn *insn)
{
	unsigned op = insn->opcode;

	if (insn->map != 1 || insn->evex & X86_EVEX_AAA || !(insn->flags & X86_INSN_MEM))
		return false;
	return ((op == 0x10 || op == 0x11) && insn->pp < 2) || op == 0x28 || op == 0x29 || op == 0x6f ||
	       op == 0x7f;
}

static int plain_move(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off, bool stores)
{
	uint8_t *reg = cpu->s.fpu.vec[insn->reg], buf[64];

	if (stores)
		return write_exempt(cpu, insn, off, reg, insn->vl);
	if (read_exempt(cpu, insn, off, buf, insn->vl))
		return X86_FAULT;
	memcpy(reg, buf, insn->vl);
	memset(reg + insn->vl, 0, 64u - insn->vl);
	return X86_NEXT;
}

int x86_op_evex(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const struct x86_host_info *info = x86_host_info(insn);
	bool mem = insn->flags & X86_INSN_MEM, stores = mem && info->flags & X86_HOST_STORE;
	struct x86_host_op op;
	struct part p = { 0 };
	uint64_t off = 0;

	if (x86_check_avx512(cpu))
		return X86_FAULT;
	if (mem && vec_ea_aligned(cpu, insn, info->flags & X86_HOST_AL ? insn->vl : 1, &off))
		return X86_FAULT;
	if (mem && check_alignment(cpu, insn, info, off))
		return X86_FAULT;
	if (is_plain_move(insn))
		return plain_move(cpu, insn, off, stores);
	if (mem && !stores && load(cpu, insn, info, off, op.mem))
		return X86_FAULT;
	if (!stores)
		return host_execute(cpu, insn, info, &op);
	p = accessed(cpu, insn, info);
	if (probe(cpu, insn, info, off, &p) || host_execute(cpu, insn, info, &op))
		return X86_FAULT;
	return store(cpu, insn, off, &p, op.mem);
}

/* ---- gathers and scatters: SDM vol. 2, VGATHERDPS, VSCATTERDPS ---- */

struct vsib {
	unsigned index_size, elem, count;
	uint64_t *opmask;
	const uint8_t *index;
};

static int vsib_begin(struct x86_cpu *cpu, const struct x86_insn *insn, struct vsib *v)
{
	if (x86_check_avx512(cpu))
		return X86_FAULT;
	v->index_size = insn->opcode & 1 ? 8 : 4;
	v->elem = insn->flags & X86_INSN_W ? 8 : 4;
	v->count = insn->vl / (v->index_size > v->elem ? v->index_size : v->elem);
	v->opmask = &cpu->s.fpu.opmask[insn->evex & X86_EVEX_AAA];
	v->index = cpu->s.fpu.vec[insn->index & 31];
	return insn->evex & X86_EVEX_AAA ? X86_NEXT : x86_ud(cpu);
}

static uint64_t vsib_offset(const struct x86_cpu *cpu, const struct x86_insn *insn,
			    const struct vsib *v, unsigned i)
{
	uint64_t off = (uint64_t)(int64_t)insn->disp, index = 0;

	memcpy(&index, v->index + i * v->index_size, v->index_size);
	if (v->index_size == 4)
		index = (uint64_t)(int64_t)(int32_t)index;
	if (insn->base != X86_NO_REG)
		off += cpu->s.gpr[insn->base];
	off += index << insn->scale;
	return insn->adsize == 8 ? off : (uint32_t)off;
}

/* A fault leaves what was done: the bits of those elements are clear. */
int x86_op_gather(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint8_t *dst = cpu->s.fpu.vec[insn->reg];
	struct vsib v;
	unsigned i;

	if (vsib_begin(cpu, insn, &v))
		return X86_FAULT;
	if (insn->reg == insn->index)
		return x86_ud(cpu);
	for (i = 0; i < v.count; i++) {
		if (*v.opmask >> i & 1 && read_exempt(cpu, insn, vsib_offset(cpu, insn, &v, i),
						      dst + i * v.elem, v.elem))
			return X86_FAULT;
		*v.opmask &= ~(1ull << i);
	}
	*v.opmask = 0;
	memset(dst + v.count * v.elem, 0, 64 - v.count * v.elem);
	return X86_NEXT;
}

int x86_op_scatter(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const uint8_t *src = cpu->s.fpu.vec[insn->reg];
	struct vsib v;
	unsigned i;

	if (vsib_begin(cpu, insn, &v))
		return X86_FAULT;
	for (i = 0; i < v.count; i++) {
		if (*v.opmask >> i & 1 && write_exempt(cpu, insn, vsib_offset(cpu, insn, &v, i),
						       src + i * v.elem, v.elem))
			return X86_FAULT;
		*v.opmask &= ~(1ull << i);
	}
	*v.opmask = 0;
	return X86_NEXT;
}
