// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * xsave.c - FXSAVE, XSAVE and their kin; MXCSR; XCR0.
 *
 * Formats: SDM vol. 1, 10.5.1 (FXSAVE area) and 13.4 to 13.13 (XSAVE). State components offered: x87
 * (0), SSE (1), AVX (2), and of AVX-512 opmasks (5), the upper halves of ZMM0 to 15 (6), ZMM16 to 31 (7).
 * FCS and FDS are not kept: CPUID.(7,0):EBX[13] says so, and they read zero.
 */
#include "fpu_int.h"
#include "insns.h"

#define XFEATURE_X87 1u
#define XFEATURE_SSE 2u
#define XFEATURE_AVX 4u
#define XFEATURE_OPMASK 0x20u
#define XFEATURE_HI256	0x40u
#define XFEATURE_HI16	0x80u
#define XFEATURE_AVX512 (XFEATURE_OPMASK | XFEATURE_HI256 | XFEATURE_HI16)
#define XFEATURE_EXTENDED (XFEATURE_AVX | XFEATURE_AVX512)
#define XFEATURE_ALL (XFEATURE_X87 | XFEATURE_SSE | XFEATURE_EXTENDED)
#define COMPONENTS 8u

#define LEGACY_BYTES 512u
#define LEGACY_USED  416u /* the rest of the FXSAVE area is not written */
#define HEADER_BYTES 64u
#define AREA_BYTES   (LEGACY_BYTES + HEADER_BYTES + 256u + 64u + 512u + 1024u + 256u)
#define XCOMP_COMPACT (1ull << 63)
/* In either format: what there is without AVX-512. */
#define USUAL_BYTES (LEGACY_BYTES + HEADER_BYTES + 256u)

/* The whole range at once, when it lies in one page of plain RAM. */
static uint8_t *area_host(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
			  unsigned len, bool write)
{
	if (!(insn->flags & X86_INSN_A64) || insn->seg >= X86_FS)
		return NULL;
	return write ? x86_host_write(cpu, off, len) : x86_host_read(cpu, off, len);
}

static int area_read(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off, uint8_t *buf,
		     unsigned len)
{
	const uint8_t *p = area_host(cpu, insn, off, len, false);
	unsigned at, n;

	if (p) {
		memcpy(buf, p, len);
		return X86_NEXT;
	}
	for (at = 0; at < len; at += n) {
		n = len - at < 64 ? len - at : 64;
		if (x86_read(cpu, insn->seg, off + at, buf + at, n))
			return X86_FAULT;
	}
	return X86_NEXT;
}

/* The caller has probed: a fault cannot come in the middle. */
static int area_write(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
		      const uint8_t *buf, unsigned len)
{
	uint8_t *p = area_host(cpu, insn, off, len, true);
	unsigned at, n;

	if (p) {
		memcpy(p, buf, len);
		return X86_NEXT;
	}
	for (at = 0; at < len; at += n) {
		n = len - at < 64 ? len - at : 64;
		if (x86_write(cpu, insn->seg, off + at, buf + at, n))
			return X86_FAULT;
	}
	return X86_NEXT;
}

static int area_probe(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off, unsigned len)
{
	unsigned at;

	if (area_host(cpu, insn, off, len, true))
		return X86_NEXT;
	for (at = 0; at < len; at += 64)
		if (x86_probe_write(cpu, insn->seg, off + at, len - at < 64 ? len - at : 64))
			return X86_FAULT;
	return X86_NEXT;
}

static void put(uint8_t *p, uint64_t v, unsigned len)
{
	memcpy(p, &v, len);
}

static uint64_t get(const uint8_t *p, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, p, len);
	return v;
}

/* x87 part of the FXSAVE image: bytes 0..23 and 32..159. */
static void pack_x87(const struct x86_fpu *f, bool wide, uint8_t *p)
{
	unsigned i;

	put(p + 0, f->fcw, 2);
	put(p + 2, f->fsw, 2);
	put(p + 4, f->ftw, 2);
	put(p + 6, f->fop & 0x7ff, 2);
	put(p + 8, wide ? f->fip : (uint32_t)f->fip, 8);
	put(p + 16, wide ? f->fdp : (uint32_t)f->fdp, 8);
	for (i = 0; i < 8; i++) {
		memcpy(p + 32 + i * 16, f->st[i], 10);
		memset(p + 42 + i * 16, 0, 6);
	}
}

static void unpack_x87(struct x86_fpu *f, bool wide, const uint8_t *p)
{
	unsigned i;

	f->fcw = (get(p, 2) & 0x1f7f) | 0x40;
	f->fsw = get(p + 2, 2);
	f->ftw = p[4];
	f->fop = get(p + 6, 2) & 0x7ff;
	f->fip = get(p + 8, wide ? 8 : 4);
	f->fdp = get(p + 16, wide ? 8 : 4);
	f->fcs = 0;
	f->fds = 0;
	for (i = 0; i < 8; i++) {
		memset(f->st[i], 0, 16);
		memcpy(f->st[i], p + 32 + i * 16, 10);
	}
	fpu_update_es(f);
}

static void init_x87(struct x86_fpu *f)
{
	f->fcw = FPU_FCW_DEFAULT;
	f->fsw = 0;
	f->ftw = 0;
	f->fop = 0;
	f->fip = 0;
	f->fdp = 0;
	memset(f->st, 0, sizeof(f->st));
}

static bool any_bits(const void *p, unsigned len)
{
	uint64_t any = 0, v;

	for (unsigned i = 0; i < len; i += 8) {
		memcpy(&v, (const uint8_t *)p + i, 8);
		any |= v;
	}
	return any;
}

/* Components of AVX-512 that are not all zero. Most programs never touch them: cpu->wide. */
static unsigned wide_in_use(struct x86_cpu *cpu)
{
	const struct x86_fpu *f = &cpu->s.fpu;
	unsigned use = 0;

	if (!cpu->wide)
		return 0;
	if (any_bits(f->opmask, sizeof(f->opmask)))
		use |= XFEATURE_OPMASK;
	if (any_bits(f->vec[16], sizeof(f->vec) / 2))
		use |= XFEATURE_HI16;
	for (unsigned i = 0; i < 16; i++)
		if (any_bits(f->vec[i] + 32, 32))
			use |= XFEATURE_HI256;
	if (!use)
		cpu->wide = false;
	return use;
}

void x86_wide_sync(struct x86_cpu *cpu)
{
	cpu->wide = true;
	(void)wide_in_use(cpu);
}

/* SDM vol. 1, 13.6: which components are not in their initial configuration. */
static unsigned in_use(struct x86_cpu *cpu)
{
	const struct x86_fpu *f = &cpu->s.fpu;
	uint64_t x87 = (f->fcw ^ FPU_FCW_DEFAULT) | f->fsw | f->ftw | f->fop | f->fip | f->fdp;
	uint64_t low[2] = { 0 }, high[2] = { 0 };
	unsigned i, use = wide_in_use(cpu);

	for (i = 0; i < 8; i++)
		x87 |= get(f->st[i], 8) | get(f->st[i] + 8, 2);
	for (i = 0; i < 16; i++) {
		const union vec *v = (const union vec *)f->vec[i];

		for (unsigned j = 0; j < 2; j++) {
			low[j] |= v->u64[j];
			high[j] |= v->u64[j + 2];
		}
	}
	use |= x87 ? XFEATURE_X87 : 0;
	use |= low[0] | low[1] ? XFEATURE_SSE : 0;
	return use | (high[0] | high[1] ? XFEATURE_AVX : 0);
}

/* Only eight XMM registers outside 64-bit mode. */
static unsigned reg_count(const struct x86_cpu *cpu)
{
	return cpu->code_bytes == 8 ? 16 : 8;
}

static void pack_xmm(const struct x86_cpu *cpu, uint8_t *p)
{
	unsigned i;

	for (i = 0; i < reg_count(cpu); i++)
		memcpy(p + 160 + i * 16, cpu->s.fpu.vec[i], 16);
}

static void unpack_xmm(struct x86_cpu *cpu, const uint8_t *p)
{
	unsigned i;

	for (i = 0; i < reg_count(cpu); i++) {
		if (p)
			memcpy(cpu->s.fpu.vec[i], p + 160 + i * 16, 16);
		else
			memset(cpu->s.fpu.vec[i], 0, 16);
	}
}

/* Where a component of the state lies in its piece of the area, and how much of it the mode reaches. */
static unsigned component_bytes(const struct x86_cpu *cpu, unsigned i)
{
	unsigned n = reg_count(cpu);

	switch (i) {
	case 2:
		return n * 16;
	case 5:
		return sizeof(cpu->s.fpu.opmask);
	case 6:
		return n * 32;
	default:
		return n == 16 ? sizeof(cpu->s.fpu.vec) / 2 : 0;
	}
}

static void pack_component(const struct x86_cpu *cpu, unsigned i, uint8_t *p)
{
	const struct x86_fpu *f = &cpu->s.fpu;
	unsigned r;

	switch (i) {
	case 2:
		for (r = 0; r < reg_count(cpu); r++)
			memcpy(p + r * 16, f->vec[r] + 16, 16);
		break;
	case 5:
		memcpy(p, f->opmask, sizeof(f->opmask));
		break;
	case 6:
		for (r = 0; r < reg_count(cpu); r++)
			memcpy(p + r * 32, f->vec[r] + 32, 32);
		break;
	default:
		memcpy(p, f->vec[16], sizeof(f->vec) / 2);
	}
}

/* @p NULL: its initial configuration. */
static void unpack_component(struct x86_cpu *cpu, unsigned i, const uint8_t *p)
{
	static const uint8_t zero[1024];
	struct x86_fpu *f = &cpu->s.fpu;
	unsigned r;

	if (!p)
		p = zero;
	switch (i) {
	case 2:
		for (r = 0; r < reg_count(cpu); r++)
			memcpy(f->vec[r] + 16, p + r * 16, 16);
		break;
	case 5:
		memcpy(f->opmask, p, sizeof(f->opmask));
		break;
	case 6:
		for (r = 0; r < reg_count(cpu); r++)
			memcpy(f->vec[r] + 32, p + r * 32, 32);
		break;
	default:
		memcpy(f->vec[16], p, component_bytes(cpu, i));
	}
}

/* Of extended component @i, in the standard format or in the compacted one of @comp. */
static unsigned component_offset(const struct x86_cpu *cpu, unsigned i, uint64_t comp)
{
	unsigned off = LEGACY_BYTES + HEADER_BYTES;

	if (!(comp & XCOMP_COMPACT))
		return x86_xsave_offset(cpu->model, i);
	for (unsigned j = 2; j < i; j++)
		if (comp >> j & 1)
			off += x86_xsave_bytes(j);
	return off;
}

/* The end of what an instruction with @rfbm may write. */
static unsigned area_end(const struct x86_cpu *cpu, unsigned rfbm, uint64_t comp)
{
	unsigned end = LEGACY_BYTES + HEADER_BYTES;

	for (unsigned i = 2; i < COMPONENTS; i++)
		if (rfbm >> i & 1)
			end = component_offset(cpu, i, comp) + x86_xsave_bytes(i);
	return end;
}

/* SDM vol. 2, FXSAVE: #NM with EM or TS, whatever OSFXSR says; no #MF. */
int x86_op_fxsave(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint8_t buf[LEGACY_USED] = { 0 };
	uint64_t off;

	if (fpu_check_x87_nowait(cpu) || vec_ea_aligned(cpu, insn, 16, &off) ||
	    area_probe(cpu, insn, off, LEGACY_BYTES))
		return X86_FAULT;
	/* The XMM registers of 64-bit mode keep their bytes in memory in other modes. */
	if (cpu->code_bytes != 8 && area_read(cpu, insn, off + 288, buf + 288, 128))
		return X86_FAULT;
	pack_x87(&cpu->s.fpu, insn->flags & X86_INSN_W, buf);
	put(buf + 24, cpu->s.fpu.mxcsr, 4);
	put(buf + 28, MXCSR_VALID, 4);
	pack_xmm(cpu, buf);
	return area_write(cpu, insn, off, buf, sizeof(buf));
}

int x86_op_fxrstor(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint8_t buf[LEGACY_BYTES];
	uint64_t off;

	if (fpu_check_x87_nowait(cpu) || vec_ea_aligned(cpu, insn, 16, &off) ||
	    area_read(cpu, insn, off, buf, sizeof(buf)))
		return X86_FAULT;
	if (get(buf + 24, 4) & ~(uint64_t)MXCSR_VALID)
		return x86_gp(cpu, 0);
	unpack_x87(&cpu->s.fpu, insn->flags & X86_INSN_W, buf);
	cpu->s.fpu.mxcsr = get(buf + 24, 4);
	unpack_xmm(cpu, buf);
	return X86_NEXT;
}

int x86_op_ldmxcsr(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint32_t v;

	if (vec_check(cpu, insn) || x86_load_rm(cpu, insn, &v, 4))
		return X86_FAULT;
	if (v & ~MXCSR_VALID)
		return x86_gp(cpu, 0);
	cpu->s.fpu.mxcsr = v;
	return X86_NEXT;
}

int x86_op_stmxcsr(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (vec_check(cpu, insn))
		return X86_FAULT;
	return x86_store_rm(cpu, insn, &cpu->s.fpu.mxcsr, 4);
}

/* ---- XSAVE ---- */

/* CR4.OSXSAVE, CR0.TS and alignment; gives the instruction's mask (RFBM). */
static int xsave_begin(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t *ret_off,
		       unsigned *ret_rfbm)
{
	uint64_t mask = (uint32_t)cpu->s.gpr[X86_RAX] | cpu->s.gpr[X86_RDX] << 32;

	if (!(cpu->s.cr4 & X86_CR4_OSXSAVE))
		return x86_ud(cpu);
	if (cpu->s.cr0 & X86_CR0_TS)
		return x86_raise(cpu, X86_NM);
	*ret_rfbm = mask & cpu->s.xcr0 & XFEATURE_ALL;
	return vec_ea_aligned(cpu, insn, 64, ret_off);
}

static int write_extended(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
			  unsigned mask, uint64_t comp)
{
	uint8_t buf[1024];

	for (unsigned i = 2; i < COMPONENTS; i++) {
		unsigned len = component_bytes(cpu, i);

		if (!(mask >> i & 1) || !len)
			continue;
		pack_component(cpu, i, buf);
		if (area_write(cpu, insn, off + component_offset(cpu, i, comp), buf, len))
			return X86_FAULT;
	}
	return X86_NEXT;
}

/* Where all of it lies in one page: straight to its place. */
static void pack_in_place(const struct x86_cpu *cpu, const struct x86_insn *insn, uint8_t *p, unsigned mask,
			  bool mxcsr)
{
	const struct x86_fpu *f = &cpu->s.fpu;

	if (mask & XFEATURE_X87)
		pack_x87(f, insn->flags & X86_INSN_W, p);
	if (mxcsr) {
		put(p + 24, f->mxcsr, 4);
		put(p + 28, MXCSR_VALID, 4);
	}
	if (mask & XFEATURE_SSE)
		pack_xmm(cpu, p);
	/* It is the first one behind the header, in the compacted format, too. */
	if (mask & XFEATURE_AVX)
		pack_component(cpu, 2, p + LEGACY_BYTES + HEADER_BYTES);
}

static int write_by_parts(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off, unsigned mask,
			  bool mxcsr, uint64_t comp)
{
	const struct x86_fpu *f = &cpu->s.fpu;
	unsigned n = reg_count(cpu);
	uint8_t buf[LEGACY_USED];

	memset(buf, 0, sizeof(buf));
	pack_x87(f, insn->flags & X86_INSN_W, buf);
	put(buf + 24, f->mxcsr, 4);
	put(buf + 28, MXCSR_VALID, 4);
	pack_xmm(cpu, buf);
	if ((mask & XFEATURE_X87) && (area_write(cpu, insn, off, buf, 24) ||
				      area_write(cpu, insn, off + 32, buf + 32, 128)))
		return X86_FAULT;
	if (mxcsr && area_write(cpu, insn, off + 24, buf + 24, 8))
		return X86_FAULT;
	if ((mask & XFEATURE_SSE) && area_write(cpu, insn, off + 160, buf + 160, n * 16))
		return X86_FAULT;
	return mask & XFEATURE_EXTENDED ? write_extended(cpu, insn, off, mask, comp) : X86_NEXT;
}

/* Write the components of @mask; MXCSR goes with @mxcsr. */
static int write_components(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
			    unsigned mask, bool mxcsr, uint64_t comp)
{
	uint8_t *p = mask & XFEATURE_AVX512 ? NULL : area_host(cpu, insn, off, USUAL_BYTES, true);

	if (!p)
		return write_by_parts(cpu, insn, off, mask, mxcsr, comp);
	pack_in_place(cpu, insn, p, mask, mxcsr);
	return X86_NEXT;
}

/* XSAVE and XSAVEOPT: the latter leaves out components in their initial configuration. */
static int xsave_standard(struct x86_cpu *cpu, const struct x86_insn *insn, bool optimise)
{
	unsigned rfbm, use;
	uint64_t off, bv;

	if (xsave_begin(cpu, insn, &off, &rfbm))
		return X86_FAULT;
	if (area_probe(cpu, insn, off, area_end(cpu, rfbm, 0)) ||
	    x86_read(cpu, insn->seg, off + LEGACY_BYTES, &bv, 8))
		return X86_FAULT;
	use = in_use(cpu) & rfbm;
	bv = (bv & ~(uint64_t)rfbm) | use;
	if (write_components(cpu, insn, off, optimise ? use : rfbm,
			     rfbm & (XFEATURE_SSE | XFEATURE_AVX), 0))
		return X86_FAULT;
	return x86_write(cpu, insn->seg, off + LEGACY_BYTES, &bv, 8);
}

int x86_op_xsave(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return xsave_standard(cpu, insn, false);
}

int x86_op_xsaveopt(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return xsave_standard(cpu, insn, true);
}

/* SDM vol. 2, XSAVEC: SSE counts as in use also when only MXCSR differs from its initial value. */
int x86_op_xsavec(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t off, header[2];
	unsigned rfbm, use;

	if (xsave_begin(cpu, insn, &off, &rfbm))
		return X86_FAULT;
	use = in_use(cpu);
	if (cpu->s.fpu.mxcsr != MXCSR_DEFAULT)
		use |= XFEATURE_SSE;
	use &= rfbm;
	header[0] = use;
	header[1] = XCOMP_COMPACT | rfbm;
	if (area_probe(cpu, insn, off, area_end(cpu, rfbm, header[1])) ||
	    write_components(cpu, insn, off, use, use & XFEATURE_SSE, header[1]))
		return X86_FAULT;
	return x86_write(cpu, insn->seg, off + LEGACY_BYTES, header, 16);
}

/* SDM vol. 1, 13.8: a malformed header is #GP(0). */
static bool header_ok(const struct x86_cpu *cpu, const uint8_t *header)
{
	uint64_t bv = get(header, 8), comp = get(header + 8, 8);
	unsigned i, from = comp & XCOMP_COMPACT ? 16 : 8;

	for (i = from; i < (comp & XCOMP_COMPACT ? 64u : 24u); i++)
		if (header[i])
			return false;
	if (bv & ~cpu->s.xcr0)
		return false;
	if (comp & XCOMP_COMPACT)
		return !(comp & ~XCOMP_COMPACT & ~cpu->s.xcr0) && !(bv & ~comp);
	return true;
}

static void restore_components(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned rfbm,
			       unsigned bv, uint64_t comp, const uint8_t *area)
{
	if (rfbm & XFEATURE_X87) {
		if (bv & XFEATURE_X87)
			unpack_x87(&cpu->s.fpu, insn->flags & X86_INSN_W, area);
		else
			init_x87(&cpu->s.fpu);
	}
	if (rfbm & XFEATURE_SSE)
		unpack_xmm(cpu, bv & XFEATURE_SSE ? area : NULL);
	if (!(rfbm & XFEATURE_EXTENDED))
		return;
	/* Zero over zero: nothing to do where AVX-512 is not used before or behind. */
	if (!cpu->wide && !(bv & XFEATURE_AVX512))
		rfbm &= ~XFEATURE_AVX512;
	for (unsigned i = 2; i < COMPONENTS; i++)
		if (rfbm >> i & 1)
			unpack_component(cpu, i, bv >> i & 1 ? area + component_offset(cpu, i, comp) : NULL);
	if (rfbm & XFEATURE_AVX512)
		x86_wide_sync(cpu);
}

/* The extended components of @mask, to their places in @area. */
static int read_extended(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
			 unsigned mask, uint64_t comp, uint8_t *area)
{
	for (unsigned i = 2; i < COMPONENTS; i++) {
		unsigned at = component_offset(cpu, i, comp), len = component_bytes(cpu, i);

		if (mask >> i & 1 && len && area_read(cpu, insn, off + at, area + at, len))
			return X86_FAULT;
	}
	return X86_NEXT;
}

/* What @header says, which is a copy, is right for @area, which may be guest memory. */
static int xrstor_from(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned rfbm,
		       const uint8_t *header, const uint8_t *area)
{
	uint64_t bv = get(header, 8), comp = get(header + 8, 8);
	uint32_t mxcsr = *(const volatile x86_u32u *)(area + 24);
	bool compact = comp & XCOMP_COMPACT, load_mxcsr;

	/* The standard format loads MXCSR whatever XSTATE_BV says: SDM vol. 1, 13.8.1. */
	load_mxcsr = compact ? rfbm & bv & XFEATURE_SSE : rfbm & (XFEATURE_SSE | XFEATURE_AVX);
	if (load_mxcsr) {
		if (mxcsr & ~(uint32_t)MXCSR_VALID)
			return x86_gp(cpu, 0);
		cpu->s.fpu.mxcsr = mxcsr;
	} else if (compact && (rfbm & XFEATURE_SSE)) {
		cpu->s.fpu.mxcsr = MXCSR_DEFAULT;
	}
	restore_components(cpu, insn, rfbm, bv, comp, area);
	return X86_NEXT;
}

static int xrstor_by_parts(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off, unsigned rfbm)
{
	uint8_t area[AREA_BYTES];
	uint64_t bv, comp;

	if (area_read(cpu, insn, off, area, LEGACY_BYTES + HEADER_BYTES))
		return X86_FAULT;
	if (!header_ok(cpu, area + LEGACY_BYTES))
		return x86_gp(cpu, 0);
	bv = get(area + LEGACY_BYTES, 8);
	comp = get(area + LEGACY_BYTES + 8, 8);
	if (rfbm & bv & XFEATURE_EXTENDED &&
	    read_extended(cpu, insn, off, rfbm & (unsigned)bv, comp, area))
		return X86_FAULT;
	return xrstor_from(cpu, insn, rfbm, area + LEGACY_BYTES, area);
}

int x86_op_xrstor(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint8_t header[HEADER_BYTES];
	const uint8_t *p;
	unsigned rfbm;
	uint64_t off;

	if (xsave_begin(cpu, insn, &off, &rfbm))
		return X86_FAULT;
	p = area_host(cpu, insn, off, USUAL_BYTES, false);
	if (!p)
		return xrstor_by_parts(cpu, insn, off, rfbm);
	/* Other CPUs may write to it: what is checked is what is used. */
	memcpy(header, p + LEGACY_BYTES, sizeof(header));
	if (!header_ok(cpu, header))
		return x86_gp(cpu, 0);
	if (rfbm & get(header, 8) & XFEATURE_AVX512)
		return xrstor_by_parts(cpu, insn, off, rfbm);
	return xrstor_from(cpu, insn, rfbm, header, p);
}

int x86_op_xgetbv(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t v = cpu->s.xcr0;

	if (!(cpu->s.cr4 & X86_CR4_OSXSAVE))
		return x86_ud(cpu);
	if ((uint32_t)cpu->s.gpr[X86_RCX] > 1)
		return x86_gp(cpu, 0);
	if ((uint32_t)cpu->s.gpr[X86_RCX] == 1) {
		v &= in_use(cpu) |
		     (cpu->s.fpu.mxcsr != MXCSR_DEFAULT ? XFEATURE_SSE : 0);
	}
	cpu->s.gpr[X86_RAX] = (uint32_t)v;
	cpu->s.gpr[X86_RDX] = v >> 32;
	return X86_NEXT;
}

/* SDM vol. 1, 13.3: x87 is always enabled, AVX needs SSE, AVX-512 needs AVX and comes as a whole. CPUID tells
 * which bits exist. */
int x86_op_xsetbv(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t v = (uint32_t)cpu->s.gpr[X86_RAX] | cpu->s.gpr[X86_RDX] << 32;
	uint32_t regs[4] = { 0 };

	if (!(cpu->s.cr4 & X86_CR4_OSXSAVE))
		return x86_ud(cpu);
	if (cpu->cpl != 0 || (uint32_t)cpu->s.gpr[X86_RCX] != 0)
		return x86_gp(cpu, 0);
	x86_cpuid(cpu, 0xd, 0, regs);
	if (!(v & XFEATURE_X87) || (v & ~(uint64_t)(regs[0] & XFEATURE_ALL)) ||
	    (v & (XFEATURE_SSE | XFEATURE_AVX)) == XFEATURE_AVX)
		return x86_gp(cpu, 0);
	if (v & XFEATURE_AVX512 && (v & (XFEATURE_AVX512 | XFEATURE_AVX)) != (XFEATURE_AVX512 | XFEATURE_AVX))
		return x86_gp(cpu, 0);
	cpu->s.xcr0 = v;
	return X86_STOP;
}
