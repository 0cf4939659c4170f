// SPDX-License-Identifier: Apache-2.0
/* gen.c - random encodings of the rows of the instruction tables, and states worth running them from. */
#include "oracle.h"
#include "rng.h"

#include "x86/x86.h"

#include <cpuid.h>
#include <string.h>

struct gen {
	struct rng rng;
	struct oracle_case *c;
	const struct x86_row_info *row;
	unsigned pos;	   /* bytes written to c->code */
	int disp_at;	   /* where the displacement lies, or -1 */
	unsigned disp_len;
	bool other_address; /* 67 */
	bool mem;	    /* what ModRM will name */
	bool wide;	    /* the state of AVX-512 is in use */
};

static uint64_t rnd(struct gen *g)
{
	return rng_next(&g->rng);
}

static unsigned below(struct gen *g, unsigned n)
{
	return rng_below(&g->rng, n);
}

static bool chance(struct gen *g, unsigned percent)
{
	return rng_chance(&g->rng, percent);
}

void oracle_pristine(uint8_t *data, uint8_t *constants)
{
	for (unsigned i = 0; i < DATA_SIZE; i++)
		data[i] = (uint8_t)(rng_mix(i) >> 20);
	for (unsigned i = 0; i < CONST_SIZE; i++)
		constants[i] = (uint8_t)(rng_mix(i + 0x10000) >> 20);
}

/* ---- values ---- */

static uint64_t edge_value(struct gen *g)
{
	static const uint64_t edges[] = {
		0, 1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff,
		0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff, 0x8000000000000000,
		0xffffffffffffffff, 0xfffffffffffffffe, 0xffffffff80000000, 0x100000000,
	};

	switch (below(g, 4)) {
	case 0:
		return edges[below(g, sizeof(edges) / sizeof(edges[0]))];
	case 1:
		return rnd(g) >> below(g, 64);
	case 2:
		return (uint64_t)((int64_t)rnd(g) >> below(g, 64));
	default:
		return rnd(g);
	}
}

static uint32_t float_bits(struct gen *g)
{
	static const uint32_t edges[] = {
		0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7fa00000,
		0xffc12345, 0x00000001, 0x807fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0xcf000000,
		0x5f000000, 0x3f000000, 0x3fc00000, 0x4b000001, 0x33800000,
	};

	switch (below(g, 4)) {
	case 0:
		return edges[below(g, sizeof(edges) / sizeof(edges[0]))];
	case 1:
		return (uint32_t)rnd(g);
	default:
		return ((uint32_t)rnd(g) & 0x807fffff) | (127 - 20 + below(g, 40)) << 23;
	}
}

static uint64_t double_bits(struct gen *g)
{
	static const uint64_t edges[] = {
		0, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000, 0x7ff0000000000000,
		0xfff0000000000000, 0x7ff8000000000000, 0x7ff4000000000000, 0xfff8123456789abc, 1,
		0x800fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff, 0x41e0000000000000,
		0xc1e0000000000000, 0x43e0000000000000, 0x3fe0000000000000, 0x4330000000000001,
		0x36a0000000000000, 0x380fffffffffffff,
	};

	switch (below(g, 4)) {
	case 0:
		return edges[below(g, sizeof(edges) / sizeof(edges[0]))];
	case 1:
		return rnd(g);
	default:
		return (rnd(g) & 0x800fffffffffffff) | (uint64_t)(1023 - 40 + below(g, 80)) << 52;
	}
}

/* Fill with integers, floats or doubles. */
static void vector_bytes(struct gen *g, uint8_t *p, unsigned len)
{
	unsigned kind = below(g, 3);

	for (unsigned i = 0; i < len; i += 8) {
		uint64_t v = kind == 0 ? edge_value(g) :
			     kind == 1 ? double_bits(g) :
					 (uint64_t)float_bits(g) << 32 | float_bits(g);

		memcpy(p + i, &v, 8);
	}
}

static void extended_bits(struct gen *g, uint8_t *p)
{
	uint64_t mantissa = rnd(g) | 1ull << 63;
	uint16_t exponent = (uint16_t)(16383 - 70 + below(g, 140));

	switch (below(g, 12)) {
	case 0:
		mantissa = exponent = 0;
		break;
	case 1:
		mantissa = 1ull << 63;
		exponent = 0x7fff;
		break;
	case 2:
		exponent = 0x7fff; /* NaN of either kind */
		break;
	case 3:
		mantissa &= ~(1ull << 63);
		exponent = 0; /* denormal */
		break;
	case 4:
		mantissa = 1ull << 63;
		exponent = (uint16_t)(16383 + below(g, 4));
		break;
	case 5:
		mantissa = rnd(g); /* anything, unnormals as well */
		exponent = (uint16_t)rnd(g) & 0x7fff;
		break;
	case 6:
		mantissa = rnd(g) << (40 + below(g, 24)) | 1ull << 63; /* few digits */
		break;
	default:
		break;
	}
	exponent |= (uint16_t)(rnd(g) & 0x8000);
	memcpy(p, &mantissa, 8);
	memcpy(p + 8, &exponent, 2);
}

static void fill_x87(struct gen *g, struct oracle_regs *in)
{
	in->fcw = 0x37f;
	if (chance(g, 40))
		in->fcw = (uint16_t)(0x7f | below(g, 16) << 8);
	in->fsw = (uint16_t)(below(g, 8) << 11 | (below(g, 8) << 8) | below(g, 2) << 14);
	if (chance(g, 30))
		in->fsw |= (uint16_t)below(g, 0x40);
	if (chance(g, 5)) {
		in->fcw &= (uint16_t)~(rnd(g) & 0x3f);
		if (in->fsw & ~in->fcw & 0x3f)
			in->fsw |= 0x8080;
	}
	in->ftw = chance(g, 70) ? 0xff : (uint8_t)rnd(g);
	for (unsigned i = 0; i < 8; i++)
		extended_bits(g, in->st[i]);
}

/* An opmask has few bits, many, or as it comes. */
static uint64_t opmask_bits(struct gen *g)
{
	switch (below(g, 4)) {
	case 0:
		return rnd(g) & rnd(g) & rnd(g);
	case 1:
		return ~(rnd(g) & rnd(g) & rnd(g));
	case 2:
		return edge_value(g);
	default:
		return rnd(g);
	}
}

static void fill_wide(struct gen *g, struct oracle_regs *in)
{
	for (unsigned i = 0; i < 16; i++)
		vector_bytes(g, in->vec[i] + 32, 32);
	for (unsigned i = 16; i < 32; i++)
		vector_bytes(g, in->vec[i], 64);
	for (unsigned i = 0; i < 8; i++)
		in->opmask[i] = opmask_bits(g);
}

static void fill_state(struct gen *g, struct oracle_regs *in)
{
	const uint64_t status = X86_FL_STATUS;

	for (unsigned i = 0; i < 16; i++)
		in->gpr[i] = edge_value(g);
	in->rflags = (rnd(g) & status) | X86_FL_ONE | X86_FL_IF;
	if (chance(g, 10))
		in->rflags |= X86_FL_DF;
	if (chance(g, 3))
		in->rflags |= X86_FL_AC;
	for (unsigned i = 0; i < 16; i++)
		vector_bytes(g, in->vec[i], 32);
	if (g->wide)
		fill_wide(g, in);
	fill_x87(g, in);
	in->mxcsr = 0x1f80;
	if (chance(g, 30))
		in->mxcsr = 0x1f80 | (below(g, 4) << 13) | (below(g, 2) << 6) | (below(g, 2) << 15);
	if (chance(g, 20))
		in->mxcsr |= below(g, 0x40);
	if (chance(g, 5))
		in->mxcsr &= ~(uint32_t)(below(g, 0x40) << 7);
}

/* ---- encoding ---- */

static void emit(struct gen *g, unsigned byte)
{
	if (g->pos < 15)
		g->c->code[g->pos++] = (uint8_t)byte;
}

static void emit_random(struct gen *g, unsigned n)
{
	uint64_t v = chance(g, 30) ? rnd(g) >> 1 & 0x7f : edge_value(g);

	for (unsigned i = 0; i < n; i++)
		emit(g, (unsigned)(v >> (8 * i)));
}

static bool allows(const struct gen *g, uint32_t sel)
{
	return !(g->row->forbid & sel);
}

/* Which of the mandatory prefixes 0, 66, F3, F2 to use. */
static unsigned pick_pp(struct gen *g)
{
	unsigned want = g->row->attrs & X86_ROW_ATTR_REP && chance(g, 50) ? 2 + below(g, 2) :
			chance(g, 25)					   ? 1 :
			chance(g, 4)					   ? 2 + below(g, 2) :
									     0;

	/* Before a near branch AMD lets 66 mean 16 bits in 64-bit mode, and F2 and F3 choose between
	 * LOOPE and LOOPNE; Intel, whom the core follows, ignores them. */
	if (g->row->size == X86_SIZE_F64)
		want = 0;
	if (allows(g, X86_SEL_PP_NONE << want))
		return want;
	for (want = 0; want < 3 && !allows(g, X86_SEL_PP_NONE << want); want++)
		;
	return want;
}

static bool pick_w(struct gen *g)
{
	if (!allows(g, X86_SEL_W0))
		return true;
	return allows(g, X86_SEL_W1) && chance(g, 40);
}

static void emit_address_size(struct gen *g)
{
	g->other_address = chance(g, g->c->bits == 16 ? 30 : 8);
	if (g->other_address)
		emit(g, 0x67);
}

static void emit_legacy_prefixes(struct gen *g, unsigned pp)
{
	static const uint8_t prefix[4] = { 0, 0x66, 0xf3, 0xf2 };
	static const uint8_t segments[] = { 0x26, 0x2e, 0x36, 0x3e, 0x65 };
	bool may_lock = allows(g, X86_SEL_LOCK);

	emit_address_size(g);
	/* Whether MASKMOVQ checks its segment where it stores nothing is the processor's choice. */
	if (chance(g, 8) && !strstr(g->row->name, "MASKMOV")) {
		unsigned segment = segments[below(g, g->c->bits == 64 ? 5 : 4)];

		/* What lies in a 16-bit code segment is not the same for both. */
		emit(g, segment == 0x2e && g->c->bits == 16 ? 0x3e : segment);
	}
	if (may_lock ? chance(g, 30) : chance(g, 1))
		emit(g, 0xf0);
	if (pp >= 2 && chance(g, 10))
		emit(g, 0x66);
	if (pp)
		emit(g, prefix[pp]);
}

/* A field of three bits that must name an opmask has its extensions clear. */
static bool reg_is(const struct gen *g, char kind)
{
	for (unsigned i = 0; i < 4 && g->row->operand[i]; i++)
		if (g->row->operand[i][0] == kind)
			return true;
	return false;
}

static void emit_vex(struct gen *g, unsigned pp)
{
	bool w = pick_w(g), wide = !allows(g, X86_SEL_L0) || (allows(g, X86_SEL_L1) && chance(g, 50));
	bool r = g->c->bits == 64 && !reg_is(g, 'K') && chance(g, 40), x = g->c->bits == 64 && chance(g, 40);
	bool b = g->c->bits == 64 && chance(g, 40);
	unsigned vvvv = allows(g, X86_SEL_VVVV_N) ? below(g, reg_is(g, 'K') ? 8 : 16) :
			g->c->bits != 64 && chance(g, 3)  ? 8 :
							      0;
	unsigned last = (~vvvv & 15) << 3 | (wide ? 4 : 0) | pp;

	emit_address_size(g);
	if (g->c->bits == 64 && chance(g, 5))
		emit(g, 0x65);
	/* Outside 64-bit mode C5 with the top bit of vvvv would be LDS. */
	if (g->row->map == 1 && !w && (vvvv < 8 || g->c->bits == 64) && chance(g, 50)) {
		emit(g, 0xc5);
		emit(g, (r ? 0 : 0x80) | last);
		return;
	}
	emit(g, 0xc4);
	emit(g, (r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | g->row->map);
	emit(g, (w ? 0x80 : 0) | last);
}

/* L'L and EVEX.b, which is laid in advance for the kind of operand that ModRM will name. */
static unsigned evex_length(struct gen *g, bool mem)
{
	static const uint32_t lengths[3] = { X86_SEL_L0, X86_SEL_L1, X86_SEL_L2 };
	unsigned ll = below(g, 3);

	if (!mem && allows(g, X86_SEL_EVEX_RC) && chance(g, 30))
		return below(g, 4) << X86_EVEX_LL_SHIFT | X86_EVEX_B;
	while (!allows(g, lengths[ll]))
		ll = (ll + 1) % 3;
	ll <<= X86_EVEX_LL_SHIFT;
	return mem && allows(g, X86_SEL_EVEX_BC) && chance(g, 30) ? ll | X86_EVEX_B : ll;
}

static void emit_evex(struct gen *g, unsigned pp)
{
	bool long_mode = g->c->bits == 64, gpr = reg_is(g, 'G');
	bool r = long_mode && !reg_is(g, 'K') && chance(g, 40);
	bool r2 = long_mode && !reg_is(g, 'K') && !gpr && chance(g, 40);
	bool x = long_mode && chance(g, 40), b = long_mode && chance(g, 40), w = pick_w(g);
	bool v2 = long_mode && (allows(g, X86_SEL_VVVV_N) || g->row->attrs & X86_ROW_ATTR_VSIB) && chance(g, 40);
	unsigned vvvv = allows(g, X86_SEL_VVVV_N) ? below(g, 16) : 0;
	unsigned p2 = evex_length(g, g->mem);

	if (allows(g, X86_SEL_EVEX_K) && chance(g, 80))
		p2 |= below(g, 8);
	if (p2 & X86_EVEX_AAA && allows(g, X86_SEL_EVEX_KZ) && chance(g, 40))
		p2 |= X86_EVEX_Z;
	emit_address_size(g);
	if (long_mode && chance(g, 5))
		emit(g, 0x65);
	emit(g, 0x62);
	emit(g, (r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | (r2 ? 0 : 0x10) | g->row->map);
	emit(g, (w ? 0x80 : 0) | (~vvvv & 15) << 3 | 4 | pp);
	emit(g, p2 | (v2 ? 0 : 8));
}

static void emit_rex(struct gen *g)
{
	bool w = pick_w(g);
	unsigned rex = below(g, 8);

	if (g->c->bits != 64)
		return;
	if (!allows(g, X86_SEL_B0))
		rex |= 1;
	if (!allows(g, X86_SEL_B1))
		rex &= ~1u;
	if (w)
		rex |= 8;
	if (w || !allows(g, X86_SEL_B0) || chance(g, 45))
		emit(g, 0x40 | rex);
}

static void emit_opcode(struct gen *g)
{
	unsigned opcode = g->row->opcode;

	if (!g->row->vex) {
		if (g->row->map)
			emit(g, 0x0f);
		if (g->row->map >= 2)
			emit(g, g->row->map == 2 ? 0x38 : 0x3a);
	}
	if (g->row->plus == X86_PLUS_REG)
		opcode += below(g, 8);
	else if (g->row->plus == X86_PLUS_CC)
		opcode += below(g, 16);
	emit(g, opcode);
}

static void emit_modrm(struct gen *g)
{
	bool mem = g->mem;
	unsigned modrm = (unsigned)rnd(g) & 0xff, mod;

	modrm = mem ? (modrm & 0x3f) | below(g, 3) << 6 : modrm | 0xc0;
	if (g->row->attrs & X86_ROW_ATTR_VSIB)
		modrm = (modrm & ~7u) | 4;
	modrm = (modrm & ~(unsigned)g->row->modrm_mask) | g->row->modrm_value;
	emit(g, modrm);
	mod = modrm >> 6;
	if (mod == 3)
		return;
	if (g->c->bits == (g->other_address ? 32 : 16)) {
		g->disp_len = mod == 1 ? 1 : mod == 2 || (modrm & 7) == 6 ? 2 : 0;
		g->disp_at = (int)g->pos;
		emit_random(g, g->disp_len);
		return;
	}
	g->disp_len = mod == 1 ? 1 : mod == 2 ? 4 : (modrm & 7) == 5 ? 4 : 0;
	if ((modrm & 7) == 4) {
		unsigned sib = (unsigned)rnd(g) & 0xff;

		emit(g, sib);
		if (mod == 0 && (sib & 7) == 5)
			g->disp_len = 4;
	}
	g->disp_at = (int)g->pos;
	emit_random(g, g->disp_len);
}

/* Too many bytes of a size that depends on prefixes do no harm: what follows is never run. */
static void emit_immediate(struct gen *g)
{
	static const unsigned bytes[] = { [X86_IMM_NONE] = 0, [X86_IMM_IB] = 1, [X86_IMM_IW] = 2,
					  [X86_IMM_IZ] = 4,   [X86_IMM_IV] = 8, [X86_IMM_MO] = 8,
					  [X86_IMM_CP] = 6,   [X86_IMM_IWIB] = 3 };

	emit_random(g, bytes[g->row->imm]);
}

static void encode(struct gen *g)
{
	unsigned pp = pick_pp(g);

	g->pos = 0;
	g->disp_at = -1;
	memset(g->c->code, 0x90, sizeof(g->c->code));
	g->mem = g->row->modrm && allows(g, X86_SEL_MOD_MEM) &&
		 (!allows(g, X86_SEL_MOD_REG) || chance(g, 50));
	if (g->row->vex == 2) {
		emit_evex(g, pp);
	} else if (g->row->vex) {
		emit_vex(g, pp);
	} else {
		emit_legacy_prefixes(g, pp);
		emit_rex(g);
	}
	emit_opcode(g);
	if (g->row->modrm)
		emit_modrm(g);
	emit_immediate(g);
}

/* ---- operands ---- */

static uint64_t pick_linear(struct gen *g)
{
	uint64_t at = DATA_BASE + 0x400 + below(g, 0x1800);

	switch (below(g, 20)) {
	case 0:
		return CONST_BASE + 0x100 + below(g, 0x800);
	case 1:
		return DATA_BASE + DATA_SIZE - below(g, 40); /* the end */
	case 2:
		return DATA_BASE + below(g, 40) - 8; /* the beginning */
	case 3:
	case 4:
		return DATA_BASE + 0x1000 - below(g, 40); /* across pages */
	case 5:
	case 6:
	case 7:
		return at;
	default:
		return at & ~63ull;
	}
}

static uint64_t data_segment(const struct gen *g)
{
	return g->c->bits == 16 ? DATA_BASE : 0;
}

static uint64_t pick_target(struct gen *g)
{
	return pick_linear(g) - data_segment(g);
}

static void patch_disp(struct gen *g, uint64_t v)
{
	for (unsigned i = 0; i < g->disp_len; i++)
		g->c->code[g->disp_at + (int)i] = (uint8_t)(v >> (8 * i));
}

/* Make the memory operand lie at @target, as far as its form allows. */
static void aim(struct gen *g, const struct x86_insn *insn, uint64_t target)
{
	uint64_t *gpr = g->c->in.gpr, rest;
	bool vsib = g->row->attrs & X86_ROW_ATTR_VSIB;

	if (insn->seg == X86_GS)
		target -= GS_BASE;
	if (insn->flags & X86_INSN_RIPREL) {
		patch_disp(g, target - (g->c->in.rip + insn->len));
		return;
	}
	rest = target - (uint64_t)(int64_t)insn->disp;
	if (insn->base == X86_NO_REG) {
		if (insn->index != X86_NO_REG && !vsib)
			gpr[insn->index] = rest >> insn->scale;
		else if (g->disp_len >= 2)
			patch_disp(g, target);
		return;
	}
	if (insn->index != X86_NO_REG && !vsib && insn->index != insn->base)
		rest -= gpr[insn->index] << insn->scale;
	gpr[insn->base] = rest;
	/* What is above the address's size is free. */
	if (insn->adsize == 2 && chance(g, 50))
		gpr[insn->base] = (rest & 0xffff) | rnd(g) << 16;
	if (insn->adsize == 4 && chance(g, 50))
		gpr[insn->base] = (rest & 0xffffffff) | rnd(g) << 32;
}

static bool name_has(const struct gen *g, const char *part)
{
	return strstr(g->row->name, part) != NULL;
}

/* Pointers that no ModRM names. */
static void aim_implicit(struct gen *g)
{
	uint64_t *gpr = g->c->in.gpr;

	gpr[X86_RSP] = DATA_BASE + 0x800 + (below(g, 0x1000) & ~7u);
	if (chance(g, 5))
		gpr[X86_RSP] += below(g, 8);
	if (chance(g, 3))
		gpr[X86_RSP] = DATA_BASE + below(g, 24);
	gpr[X86_RSP] -= data_segment(g);
	if (name_has(g, "ENTER") || name_has(g, "LEAVE") || chance(g, 10))
		gpr[X86_RBP] = pick_target(g);
	if (g->row->attrs & X86_ROW_ATTR_REP) {
		gpr[X86_RSI] = pick_target(g);
		gpr[X86_RDI] = pick_target(g);
		if (chance(g, 20))
			gpr[X86_RDI] = gpr[X86_RSI] + below(g, 32) - 16;
		gpr[X86_RCX] = chance(g, 90) ? below(g, 40) : below(g, 3000);
	}
	if (name_has(g, "MASKMOV"))
		gpr[X86_RDI] = pick_target(g);
	if (name_has(g, "XLAT"))
		gpr[X86_RBX] = pick_target(g) - (uint8_t)gpr[X86_RAX];
}

/* A bit number in a register reaches far: keep it near. */
static void tame_bit_number(struct gen *g, const struct x86_insn *insn)
{
	if (g->row->name[0] == 'B' && g->row->name[1] == 'T' && g->row->imm == X86_IMM_NONE &&
	    insn->reg != insn->base && insn->reg != insn->index)
		g->c->in.gpr[insn->reg] = (uint64_t)(int64_t)((int)below(g, 4000) - 2000);
}

static void tame_vector_index(struct gen *g, const struct x86_insn *insn)
{
	uint8_t *v = g->c->in.vec[insn->index & 31];
	unsigned lane = name_has(g, "GATHERQ") || name_has(g, "SCATTERQ") ? 8 : 4;

	for (unsigned i = 0; i < (g->wide ? 64 : 32); i += lane) {
		int64_t index = (int)below(g, 200) - 100;

		memcpy(v + i, &index, lane);
	}
}

static void aim_operands(struct gen *g)
{
	struct x86_insn insn;
	int len = x86_decode(g->c->code, 15, g->c->bits / 8, &insn);

	aim_implicit(g);
	if (len <= 0)
		return;
	if (g->row->imm == X86_IMM_MO && insn.adsize >= 4) {
		uint64_t target = pick_target(g) - (insn.seg == X86_GS ? GS_BASE : 0);

		memcpy(g->c->code + len - insn.adsize, &target, insn.adsize);
	}
	if (!(insn.flags & X86_INSN_MEM))
		return;
	if (g->row->attrs & X86_ROW_ATTR_VSIB)
		tame_vector_index(g, &insn);
	if (insn.flags & X86_INSN_RIPREL)
		insn.len = (uint8_t)len;
	aim(g, &insn, pick_target(g));
	tame_bit_number(g, &insn);
}

static void fill_window(struct gen *g)
{
	struct oracle_case *c = g->c;
	struct x86_insn insn;
	uint64_t at = c->in.gpr[X86_RSI];

	memset(c->window, 0, WINDOW);
	if (x86_decode(c->code, 15, c->bits / 8, &insn) > 0 && insn.flags & X86_INSN_MEM) {
		at = (uint64_t)(int64_t)insn.disp;
		if (insn.base < 16)
			at += c->in.gpr[insn.base];
		else if (insn.base == X86_REG_RIP)
			at += c->in.rip + insn.len;
		if (insn.index < 16 && !(g->row->attrs & X86_ROW_ATTR_VSIB))
			at += c->in.gpr[insn.index] << insn.scale;
		if (insn.adsize < 8)
			at = insn.adsize == 4 ? (uint32_t)at : (uint16_t)at;
		if (insn.seg == X86_GS)
			at += GS_BASE;
	}
	at += data_segment(g);
	at -= DATA_BASE + 64;
	c->window_at = at > DATA_SIZE - WINDOW ? below(g, DATA_SIZE - WINDOW) : (uint32_t)at;
	if (chance(g, 50)) {
		vector_bytes(g, c->window, WINDOW);
		return;
	}
	/* As the operand would like it: its first byte is 64 bytes in. */
	vector_bytes(g, c->window, 64);
	if (chance(g, 30))
		extended_bits(g, c->window + 64);
	else
		vector_bytes(g, c->window + 64, 64);
	vector_bytes(g, c->window + 128, 128);
}

static unsigned pick_bits(struct gen *g, const struct oracle_options *options)
{
	unsigned narrow = chance(g, options->no_16 ? 100 : 65) ? 32 : 16;

	if (g->row->attrs & X86_ROW_ATTR_I64)
		return options->bits && options->bits != 64 ? options->bits : narrow;
	if (g->row->attrs & X86_ROW_ATTR_O64)
		return 64;
	return options->bits ? options->bits : chance(g, 70) ? 64 : narrow;
}

void oracle_generate(struct oracle_case *c, uint64_t number, const struct oracle_options *options,
		     const uint16_t *rows, unsigned n_rows)
{
	struct gen g = { .c = c };
	uint64_t rip;

	rng_seed(&g.rng, options->seed ^ rng_mix(number));
	memset(c, 0, sizeof(*c));
	c->number = number;
	c->row = rows[below(&g, n_rows)];
	g.row = &x86_rows[c->row];
	c->bits = (uint8_t)pick_bits(&g, options);
	g.wide = options->wide && (c->row >= X86_ROW_HOST_FIRST || chance(&g, 20));
	fill_state(&g, &c->in);
	rip = CODE_BASE + 0x100 + (below(&g, 0xe00) & ~31u);
	c->in.rip = chance(&g, 4) ? CODE_BASE + 0x1000 - below(&g, 16) : rip;
	if (c->bits == 16)
		c->in.rip -= CODE_BASE;
	encode(&g);
	aim_operands(&g);
	fill_window(&g);
	c->len = (uint8_t)g.pos;
	c->string = g.row->attrs & X86_ROW_ATTR_REP;
	if (c->bits != 64) {
		for (unsigned i = 0; i < 16; i++)
			c->in.gpr[i] = i < 8 ? (uint32_t)c->in.gpr[i] : 0;
	}
}

/* ---- which rows ---- */

static bool host_has(unsigned feature)
{
	const struct x86_feature_bit *f = &x86_feature_bits[feature];
	uint32_t regs[4];

	if (feature == X86_FEATURE_NONE)
		return true;
	if (!__get_cpuid_count(f->leaf, f->subleaf, &regs[0], &regs[1], &regs[2], &regs[3]))
		return false;
	return regs[f->reg] >> f->bit & 1;
}

bool oracle_row_is_wanted(unsigned row, const struct oracle_options *options)
{
	const struct x86_row_info *info = &x86_rows[row];

	if (info->attrs & (X86_ROW_ATTR_NOHOST | X86_ROW_ATTR_PRIV) || !host_has(info->feature))
		return false;
	if ((options->bits == 64 && info->attrs & X86_ROW_ATTR_I64) ||
	    (options->bits && options->bits != 64 && info->attrs & X86_ROW_ATTR_O64))
		return false;
	return !options->row || strcmp(options->row, info->name) == 0;
}
