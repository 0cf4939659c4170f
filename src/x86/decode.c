// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * decode.c - from code bytes to struct x86_insn.
 *
 * Prefixes and ModRM are read by the rules of Intel SDM vol. 2, chapter 2; which instruction it is
 * the generated tables tell (decode_int.h). The code size is all it knows of the CPU: what depends
 * on mode bits or privilege is for the handlers.
 */
#include "decode_int.h"
#include "insns.h"
#include "x86.h"

#define MAX_LEN 15

struct decoder {
	const uint8_t *bytes;
	size_t avail;
	unsigned pos;
	int error; /* 0, or what x86_decode() is to return; sticky */
	bool short_of; /* ran out of bytes */
	unsigned code_bytes;
	struct x86_insn *insn;

	bool p66, p67, lock;
	uint8_t rep;  /* the last of F2 and F3, or 0 */
	uint8_t rex;  /* whole byte, or 0 */
	uint8_t seg;  /* override, or X86_SEG_COUNT */
	bool w, r, x, b;
	bool vex, evex;
	bool r2, v2; /* EVEX.R' and V', not inverted any more */
	uint8_t p2;  /* EVEX: the last byte */
	bool disp8, vsib;
	uint8_t vex_pp, vvvv, map, opcode;
};

static uint8_t next_byte(struct decoder *d)
{
	if (d->error || d->short_of)
		return 0;
	if (d->pos == MAX_LEN) {
		d->error = -X86_GP;
		return 0;
	}
	if (d->pos >= d->avail) {
		d->short_of = true;
		return 0;
	}
	return d->bytes[d->pos++];
}

static uint64_t next_bytes(struct decoder *d, unsigned n)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < n; i++)
		v |= (uint64_t)next_byte(d) << (8 * i);
	return v;
}

static uint64_t next_signed(struct decoder *d, unsigned n)
{
	uint64_t v = next_bytes(d, n);

	switch (n) {
	case 1:
		return (uint64_t)(int64_t)(int8_t)v;
	case 2:
		return (uint64_t)(int64_t)(int16_t)v;
	case 4:
		return (uint64_t)(int64_t)(int32_t)v;
	default:
		return v;
	}
}

/* In 64-bit mode ES, CS, SS and DS overrides do nothing, not even to an earlier FS: SDM vol. 1,
 * "Segmentation in 64-Bit Mode". */
static void override_segment(struct decoder *d, unsigned seg)
{
	if (d->code_bytes != 8 || seg >= X86_FS)
		d->seg = seg;
}

/* True when @byte is a legacy prefix. */
static bool take_prefix(struct decoder *d, uint8_t byte)
{
	switch (byte) {
	case 0x26:
		override_segment(d, X86_ES);
		return true;
	case 0x2e:
		override_segment(d, X86_CS);
		return true;
	case 0x36:
		override_segment(d, X86_SS);
		return true;
	case 0x3e:
		override_segment(d, X86_DS);
		return true;
	case 0x64:
		override_segment(d, X86_FS);
		return true;
	case 0x65:
		override_segment(d, X86_GS);
		return true;
	case 0x66:
		d->p66 = true;
		return true;
	case 0x67:
		d->p67 = true;
		return true;
	case 0xf0:
		d->lock = true;
		return true;
	case 0xf2:
	case 0xf3:
		d->rep = byte;
		return true;
	default:
		return false;
	}
}

/* SDM vol. 2, 2.3 "Intel Advanced Vector Extensions": C5 and C4 prefixes. */
static void take_vex(struct decoder *d, uint8_t first)
{
	uint8_t a = next_byte(d), last = a;

	if (d->p66 || d->rep || d->lock || d->rex)
		d->error = d->error ? d->error : -X86_UD;
	d->vex = true;
	d->r = !(a & 0x80);
	d->map = 1;
	if (first == 0xc4) {
		d->x = !(a & 0x40);
		d->b = !(a & 0x20);
		d->map = a & 0x1f;
		last = next_byte(d);
		d->w = last & 0x80;
	}
	d->vvvv = ~(last >> 3) & 15;
	d->insn->vvvv = d->code_bytes == 8 ? d->vvvv : d->vvvv & 7;
	d->insn->vl = last & 4 ? 32 : 16;
	d->vex_pp = last & 3;
	if (d->code_bytes != 8)
		d->r = d->x = d->b = false;
	if (d->map < 1 || d->map > 3)
		d->error = d->error ? d->error : -X86_UD;
	d->opcode = next_byte(d);
}

/* SDM vol. 2, 2.7.1 "Instruction Format and EVEX": 62, then R X B R' 0 mmm, W vvvv 1 pp, z L'L b V' aaa. */
static void take_evex(struct decoder *d)
{
	uint8_t a = next_byte(d), b = next_byte(d);
	bool bad = d->p66 || d->rep || d->lock || d->rex || a & 8 || !(b & 4);

	d->p2 = next_byte(d);
	d->evex = true;
	d->r = !(a & 0x80);
	d->x = !(a & 0x40);
	d->b = !(a & 0x20);
	d->r2 = !(a & 0x10);
	d->v2 = !(d->p2 & 8);
	d->map = a & 7;
	d->w = b & 0x80;
	d->vvvv = (~(b >> 3) & 15) | d->v2 << 4;
	d->vex_pp = b & 3;
	if (d->code_bytes != 8) {
		d->r = d->x = d->b = d->r2 = false;
		bad |= d->v2;
	}
	d->insn->vvvv = d->code_bytes == 8 ? d->vvvv : d->vvvv & 7;
	if (bad || d->map < 1 || d->map > 3)
		d->error = d->error ? d->error : -X86_UD;
	d->opcode = next_byte(d);
}

/* Outside 64-bit mode C4, C5 and 62 are LES, LDS and BOUND unless what follows could not be their ModRM. */
static bool is_vex(struct decoder *d, uint8_t byte)
{
	if (byte != 0xc4 && byte != 0xc5 && byte != 0x62)
		return false;
	if (d->code_bytes == 8)
		return true;
	if (d->pos >= d->avail) {
		d->short_of = d->pos < MAX_LEN;
		return false;
	}
	return (d->bytes[d->pos] & 0xc0) == 0xc0;
}

static void take_opcode(struct decoder *d)
{
	uint8_t byte = next_byte(d);

	for (;;) {
		if (take_prefix(d, byte))
			d->rex = 0; /* REX counts only right before the opcode */
		else if (d->code_bytes == 8 && (byte & 0xf0) == 0x40)
			d->rex = byte;
		else
			break;
		byte = next_byte(d);
		if (d->error || d->short_of)
			return;
	}
	d->w = d->rex & 8;
	d->r = d->rex & 4;
	d->x = d->rex & 2;
	d->b = d->rex & 1;
	if (is_vex(d, byte)) {
		if (byte == 0x62)
			take_evex(d);
		else
			take_vex(d, byte);
		return;
	}
	if (byte == 0x0f) {
		d->map = 1;
		byte = next_byte(d);
		if (byte == 0x38 || byte == 0x3a) {
			d->map = byte == 0x38 ? 2 : 3;
			byte = next_byte(d);
		}
	}
	d->opcode = byte;
}

static void take_address16(struct decoder *d, unsigned mod, unsigned rm)
{
	static const uint8_t base[8] = { X86_RBX, X86_RBX, X86_RBP, X86_RBP,
					 X86_RSI, X86_RDI, X86_RBP, X86_RBX };
	static const uint8_t index[8] = { X86_RSI,    X86_RDI,	  X86_RSI,    X86_RDI,
					  X86_NO_REG, X86_NO_REG, X86_NO_REG, X86_NO_REG };
	struct x86_insn *insn = d->insn;

	insn->base = base[rm];
	insn->index = index[rm];
	if (mod == 0 && rm == 6) {
		insn->base = X86_NO_REG;
		insn->disp = (int32_t)next_signed(d, 2);
	} else if (mod) {
		insn->disp = (int32_t)next_signed(d, mod == 1 ? 1 : 2);
	}
	insn->seg = insn->base == X86_RBP ? X86_SS : X86_DS;
}

static void take_sib(struct decoder *d, unsigned mod)
{
	struct x86_insn *insn = d->insn;
	uint8_t sib = next_byte(d);
	unsigned index = (sib >> 3 & 7) | (unsigned)d->x << 3, base = sib & 7;

	insn->scale = sib >> 6;
	insn->index = index == 4 ? X86_NO_REG : index;
	if (base == 5 && mod == 0) {
		insn->disp = (int32_t)next_signed(d, 4);
		return;
	}
	insn->base = base | (unsigned)d->b << 3;
	insn->seg = insn->base == X86_RSP || insn->base == X86_RBP ? X86_SS : X86_DS;
}

static void take_address(struct decoder *d, unsigned mod, unsigned rm)
{
	struct x86_insn *insn = d->insn;

	if (rm == 4) {
		take_sib(d, mod);
	} else if (rm == 5 && mod == 0) {
		insn->disp = (int32_t)next_signed(d, 4);
		if (d->code_bytes == 8) {
			insn->base = X86_REG_RIP;
			insn->flags |= X86_INSN_RIPREL;
		}
	} else {
		insn->base = rm | (unsigned)d->b << 3;
		insn->seg = insn->base == X86_RBP ? X86_SS : X86_DS;
	}
	if (mod)
		insn->disp = (int32_t)next_signed(d, mod == 1 ? 1 : 4);
}

static void take_modrm(struct decoder *d)
{
	struct x86_insn *insn = d->insn;
	unsigned mod, rm;

	insn->modrm = next_byte(d);
	insn->flags |= X86_INSN_MODRM;
	mod = insn->modrm >> 6;
	rm = insn->modrm & 7;
	insn->reg = (insn->modrm >> 3 & 7) | (unsigned)d->r << 3;
	insn->rm = rm | (unsigned)d->b << 3;
	/* MOV to and from control and debug registers ignores mod: SDM vol. 2, MOV. */
	if (!d->vex && d->map == 1 && (d->opcode & 0xfc) == 0x20)
		mod = 3;
	if (mod == 3)
		return;
	insn->flags |= X86_INSN_MEM;
	d->disp8 = mod == 1;
	if (insn->adsize == 2)
		take_address16(d, mod, rm);
	else
		take_address(d, mod, rm);
}

static unsigned one_hot_size(unsigned size)
{
	return size == 2 ? 1 : size == 4 ? 2 : 4;
}

/* Operand sizes by each of the rules of enum X86_SIZE_*: SDM vol. 2, table 3-4 and appendix A.2.5. */
static void operand_sizes(const struct decoder *d, uint8_t size[4])
{
	bool long_code = d->code_bytes == 8;
	unsigned normal = long_code || d->code_bytes == 4 ? (d->p66 ? 2 : 4) : (d->p66 ? 4 : 2);
	bool w = d->w && long_code;

	size[X86_SIZE_V] = w ? 8 : normal;
	size[X86_SIZE_D64] = w ? 8 : long_code && !d->p66 ? 8 : normal;
	size[X86_SIZE_F64] = long_code ? 8 : normal;
	size[X86_SIZE_Y] = w ? 8 : 4;
}

static uint32_t selector(const struct decoder *d, const uint8_t size[4])
{
	static const uint32_t vex_pp[4] = { X86_SEL_PP_NONE, X86_SEL_PP_66, X86_SEL_PP_F3,
					    X86_SEL_PP_F2 };
	const struct x86_insn *insn = d->insn;
	uint32_t sel = 0;

	if (d->vex) {
		sel |= vex_pp[d->vex_pp];
		sel |= insn->vl == 32 ? X86_SEL_L1 : X86_SEL_L0;
		sel |= d->vvvv ? X86_SEL_VVVV_N : X86_SEL_VVVV_0;
	} else {
		sel |= d->rep == 0xf3 ? X86_SEL_PP_F3 : d->rep ? X86_SEL_PP_F2 :
		       d->p66 ? X86_SEL_PP_66 : X86_SEL_PP_NONE;
	}
	sel |= d->w ? X86_SEL_W1 : X86_SEL_W0;
	sel |= d->code_bytes == 8 ? X86_SEL_MODE_64 : X86_SEL_MODE_OTHER;
	if (insn->flags & X86_INSN_MODRM)
		sel |= insn->flags & X86_INSN_MEM ? X86_SEL_MOD_MEM : X86_SEL_MOD_REG;
	sel |= d->lock ? X86_SEL_LOCK : X86_SEL_NOLOCK;
	sel |= d->b ? X86_SEL_B1 : X86_SEL_B0;
	sel |= one_hot_size(size[X86_SIZE_V]) << X86_SEL_OP_SHIFT;
	sel |= one_hot_size(insn->adsize) << X86_SEL_AD_SHIFT;
	sel |= one_hot_size(size[X86_SIZE_D64]) << X86_SEL_D64_SHIFT;
	sel |= one_hot_size(size[X86_SIZE_F64]) << X86_SEL_F64_SHIFT;
	sel |= (uint32_t)(size[X86_SIZE_Y] == 8 ? 2 : 1) << X86_SEL_Y_SHIFT;
	return sel;
}

/* False: no row has this length. With EVEX.b and a register L'L is the rounding mode. */
static bool evex_selector(struct decoder *d, uint32_t *ret)
{
	static const uint32_t lengths[4] = { X86_SEL_L0, X86_SEL_L1, X86_SEL_L2, 0 };
	bool mem = d->insn->flags & X86_INSN_MEM, b = d->p2 & X86_EVEX_B;
	unsigned ll = d->p2 >> X86_EVEX_LL_SHIFT & 3;
	/* V' belongs to the index of a gather. */
	unsigned vvvv = d->vvvv & (mem ? 15 : 31);
	uint32_t sel = X86_SEL_PP_NONE << d->vex_pp;

	sel |= d->w ? X86_SEL_W1 : X86_SEL_W0;
	sel |= vvvv ? X86_SEL_VVVV_N : X86_SEL_VVVV_0;
	sel |= d->code_bytes == 8 ? X86_SEL_MODE_64 : X86_SEL_MODE_OTHER;
	sel |= mem ? X86_SEL_MOD_MEM : X86_SEL_MOD_REG;
	sel |= X86_SEL_NOLOCK | (d->b ? X86_SEL_B1 : X86_SEL_B0);
	if (b)
		sel |= mem ? X86_SEL_EVEX_BC : X86_SEL_EVEX_RC;
	if (d->p2 & X86_EVEX_AAA)
		sel |= d->p2 & X86_EVEX_Z ? X86_SEL_EVEX_KZ : X86_SEL_EVEX_K;
	if (b && !mem)
		d->insn->vl = 64;
	else
		d->insn->vl = (uint8_t)(16u << ll);
	*ret = sel | (b && !mem ? 0 : lengths[ll]);
	if (d->p2 & X86_EVEX_Z && !(d->p2 & X86_EVEX_AAA))
		return false;
	return ll != 3 || (b && !mem);
}

static const struct x86_form *find_form(const struct x86_map_entry *entry, uint32_t sel,
					uint8_t modrm)
{
	const struct x86_form *form = &x86_forms[entry->first];

	for (unsigned i = 0; i < entry->count; i++, form++)
		if (!(sel & form->forbid) && (modrm & form->modrm_mask) == form->modrm_value)
			return form;
	return NULL;
}

static void take_immediate(struct decoder *d, enum x86_imm kind)
{
	struct x86_insn *insn = d->insn;
	unsigned z = insn->opsize == 2 ? 2 : 4;

	switch (kind) {
	case X86_IMM_NONE:
		break;
	case X86_IMM_IB:
		insn->imm = next_signed(d, 1);
		break;
	case X86_IMM_IW:
		insn->imm = next_signed(d, 2);
		break;
	case X86_IMM_IZ:
		insn->imm = next_signed(d, z);
		break;
	case X86_IMM_IV:
		insn->imm = next_signed(d, insn->opsize);
		break;
	case X86_IMM_MO:
		insn->imm = next_bytes(d, insn->adsize);
		break;
	case X86_IMM_CP:
		insn->imm = next_bytes(d, z);
		insn->sel = (uint16_t)next_bytes(d, 2);
		break;
	case X86_IMM_IWIB:
		insn->imm = next_bytes(d, 2);
		insn->imm2 = next_byte(d);
		break;
	}
}

static uint8_t byte_register(unsigned reg, bool rex)
{
	return rex || reg < 4 ? reg * 8 : (reg - 4) * 8 + 1;
}

static void set_flags(struct decoder *d)
{
	struct x86_insn *insn = d->insn;

	if (d->lock)
		insn->flags |= X86_INSN_LOCK;
	if (d->rep)
		insn->flags |= d->rep == 0xf3 ? X86_INSN_REP : X86_INSN_REPNE;
	if (d->rex)
		insn->flags |= X86_INSN_REX;
	if (d->vex)
		insn->flags |= X86_INSN_VEX;
	if (d->evex) {
		insn->flags |= X86_INSN_EVEX;
		insn->evex = d->p2 & ~8u;
	}
	insn->pp = d->vex_pp;
	if (d->w)
		insn->flags |= X86_INSN_W;
	if (d->p66)
		insn->flags |= X86_INSN_OPSIZE;
	if (insn->adsize == 8)
		insn->flags |= X86_INSN_A64;
	if (d->seg != X86_SEG_COUNT)
		insn->seg = d->seg;
	insn->map = d->map;
	insn->opcode = d->opcode;
	if (!(insn->flags & X86_INSN_MODRM))
		insn->rm = (d->opcode & 7) | (unsigned)d->b << 3;
	insn->reg8 = byte_register(insn->reg, d->rex || d->vex || d->evex);
	insn->rm8 = byte_register(insn->rm, d->rex || d->vex || d->evex);
}

/* There are but eight: SDM vol. 2, table "Exceptions Type K20". ModRM.rm has its extension ignored. */
static bool are_opmasks(const struct decoder *d)
{
	const struct x86_host_info *info = x86_host_info(d->insn);

	if (!info)
		return true;
	return !(info->reg == X86_HOST_MASK && d->r) &&
	       !(info->vvvv == X86_HOST_MASK && d->insn->vvvv > 7);
}

/* The fifth bits of registers, and what a displacement of one byte counts in: SDM vol. 2, 2.7.5. */
static void take_evex_fields(struct decoder *d)
{
	struct x86_insn *insn = d->insn;
	const struct x86_host_info *info = x86_host_info(insn);

	insn->evex = d->p2 & ~8u;
	if (info->reg == X86_HOST_VEC)
		insn->reg |= d->r2 << 4;
	else if (info->reg == X86_HOST_MASK && (d->r || d->r2))
		d->error = d->error ? d->error : -X86_UD;
	else if (info->reg == X86_HOST_GPR && d->r2)
		d->error = d->error ? d->error : -X86_UD;
	if (info->rm == X86_HOST_VEC && !(insn->flags & X86_INSN_MEM))
		insn->rm |= d->x << 4;
	else if (info->rm == X86_HOST_MASK)
		insn->rm &= 7;
	if (d->disp8) {
		bool single = info->flags & X86_HOST_CPR || d->vsib;

		insn->disp *= (int)(single ? info->elem : x86_host_mem_len(insn, info));
	}
	if (d->vsib)
		insn->index |= d->v2 << 4;
	else if (d->v2 && insn->flags & X86_INSN_MEM && info->vvvv == X86_HOST_NONE)
		d->error = d->error ? d->error : -X86_UD;
}

/* What the row's form says about the rest of the bytes. */
static void take_form(struct decoder *d, const struct x86_form *form, const uint8_t size[4])
{
	struct x86_insn *insn = d->insn;

	insn->exec = form->exec;
	insn->row = form->row;
	insn->feature = form->feature;
	insn->opsize = size[form->how & X86_HOW_SIZE];
	if (form->how & X86_HOW_BYTE)
		insn->opsize = 1;
	if (form->how & X86_HOW_ENDS)
		insn->flags |= X86_INSN_ENDS;
	/* A vector index has no "none", and must come from a SIB byte: SDM vol. 2, 2.3.12. */
	if (form->how & X86_HOW_VSIB) {
		if (insn->adsize == 2 || (insn->modrm & 7) != 4)
			d->error = d->error ? d->error : -X86_UD;
		else if (insn->index == X86_NO_REG)
			insn->index = 4;
		d->vsib = true;
	}
	if (d->evex)
		take_evex_fields(d);
	else if (d->vex && !are_opmasks(d))
		d->error = d->error ? d->error : -X86_UD;
	take_immediate(d, form->imm);
}

/* What was concluded from bytes that are missing does not count. */
static int failure(const struct decoder *d)
{
	return d->short_of ? 0 : d->error;
}

int x86_decode(const uint8_t *bytes, size_t avail, unsigned code_bytes, struct x86_insn *ret)
{
	struct decoder d = { .bytes = bytes, .avail = avail, .code_bytes = code_bytes,
			     .insn = ret, .seg = X86_SEG_COUNT };
	const struct x86_map_entry *entry;
	const struct x86_form *form;
	uint8_t size[4];
	uint32_t sel;

	*ret = (struct x86_insn){ .base = X86_NO_REG, .index = X86_NO_REG, .seg = X86_DS, .vl = 16 };
	take_opcode(&d);
	ret->adsize = d.p67 ? (code_bytes == 4 ? 2 : 4) : code_bytes;
	if (d.error || d.short_of)
		return failure(&d);
	entry = &x86_maps[d.evex ? 2 : d.vex][d.map][d.opcode];
	if (!entry->count)
		return -X86_UD;
	if (entry->modrm)
		take_modrm(&d);
	if (d.error || d.short_of)
		return failure(&d);
	operand_sizes(&d, size);
	if (!d.evex)
		sel = selector(&d, size);
	form = !d.evex || evex_selector(&d, &sel) ? find_form(entry, sel, ret->modrm) : NULL;
	if (!form)
		return -X86_UD;
	take_form(&d, form, size);
	if (d.error || d.short_of)
		return failure(&d);
	set_flags(&d);
	ret->len = d.pos;
	return d.pos;
}
