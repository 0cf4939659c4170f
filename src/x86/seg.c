// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * seg.c - descriptors: reading them, loading segment registers, LDTR and TR, and asking about them
 * (LAR, LSL, VERR, VERW, ARPL). SDM vol. 3, chapters 3 and 6.
 */
#include "insns.h"
#include "softmmu.h"
#include "sys_int.h"

static int desc_address(struct x86_cpu *cpu, uint16_t selector, unsigned bytes, uint8_t vector,
			unsigned ext, uint64_t *ret_linear)
{
	const struct x86_state *s = &cpu->s;
	unsigned off = selector & ~7u;
	uint64_t base = s->gdtr.base;
	uint32_t limit = s->gdtr.limit;
	bool usable = true;

	if (selector & X86_SEL_TI) {
		base = s->ldtr.base;
		limit = s->ldtr.limit;
		usable = (s->ldtr.attr & X86_SEG_P) && !(s->ldtr.attr & X86_SEG_UNUSABLE);
	}
	if (!usable || limit < bytes - 1 || off > limit - (bytes - 1))
		return x86_raise_error(cpu, vector, (selector & X86_SEL_MASK) | ext);
	*ret_linear = base + off;
	return X86_NEXT;
}

int x86_read_desc(struct x86_cpu *cpu, uint16_t selector, struct x86_desc *ret, uint8_t vector,
		  unsigned ext)
{
	uint64_t linear;
	int r = desc_address(cpu, selector, 8, vector, ext, &linear);

	return r != X86_NEXT ? r : x86_read_sys(cpu, linear, ret, 8);
}

bool x86_desc_quickly(const struct x86_cpu *cpu, uint16_t selector, enum x86_desc_usual usual,
		      unsigned dpl, struct x86_desc *ret)
{
	static const struct {
		uint32_t mask, want;
	} bits[] = {
		[X86_DESC_CODE64] = { 0x0060fd00u, 0x00209900u },
		[X86_DESC_DATA] = { 0x0000fb00u, 0x00009300u },
	};
	const struct x86_table *gdt = &cpu->s.gdtr;
	unsigned off = selector & ~7u;
	const uint8_t *p;
	uint64_t v;

	if (!off || selector & X86_SEL_TI || off + 7 > gdt->limit)
		return false;
	p = x86_host_read_sys(cpu, gdt->base + off, 8);
	if (!p)
		return false;
	v = *(const volatile x86_u64u *)p;
	*ret = (struct x86_desc){ .lo = (uint32_t)v, .hi = (uint32_t)(v >> 32) };
	return (ret->hi & bits[usual].mask) == (bits[usual].want | dpl << 13);
}

int x86_read_desc_high(struct x86_cpu *cpu, uint16_t selector, uint32_t *ret_base_high,
		       uint8_t vector, unsigned ext)
{
	uint64_t linear;
	uint32_t high[2];
	int r = desc_address(cpu, selector, 16, vector, ext, &linear);

	if (r == X86_NEXT)
		r = x86_read_sys(cpu, linear + 8, high, 8);
	if (r != X86_NEXT)
		return r;
	/* Bits 8..12 of the last word must be zero, so that the upper half is no descriptor. */
	if (high[1] & 0x1f00u)
		return x86_raise_error(cpu, vector, (selector & X86_SEL_MASK) | ext);
	*ret_base_high = high[0];
	return X86_NEXT;
}

int x86_write_desc_access(struct x86_cpu *cpu, uint16_t selector, struct x86_desc *d, uint32_t hi)
{
	uint64_t linear;
	uint8_t access = (uint8_t)(hi >> 8);
	int r = desc_address(cpu, selector, 8, X86_GP, 0, &linear);

	if (r == X86_NEXT)
		r = x86_write_sys(cpu, linear + 5, &access, 1);
	if (r == X86_NEXT)
		d->hi = hi;
	return r;
}

struct x86_segment x86_segment_from_desc(uint16_t selector, const struct x86_desc *d)
{
	return (struct x86_segment){
		.base = x86_desc_base(d),
		.limit = x86_desc_limit(d),
		.selector = selector,
		.attr = (uint16_t)x86_desc_attr(d),
	};
}

struct x86_segment x86_segment_null(uint16_t selector, unsigned dpl)
{
	return (struct x86_segment){
		.selector = selector,
		.attr = (uint16_t)(X86_SEG_UNUSABLE | (dpl << X86_SEG_DPL_SHIFT)),
	};
}

struct x86_segment x86_segment_v86(uint16_t selector)
{
	return (struct x86_segment){
		.base = (uint32_t)selector << 4,
		.limit = 0xffff,
		.selector = selector,
		.attr = X86_SEG_P | X86_SEG_S | X86_SEG_DPL | 3,
	};
}

/* Real mode changes base and selector; limit and size stay what protected mode left ("unreal
 * mode"), while the type is that of a segment that may be used. */
struct x86_segment x86_segment_real(const struct x86_cpu *cpu, unsigned seg, uint16_t selector)
{
	struct x86_segment r = cpu->s.seg[seg];

	r.base = (uint32_t)selector << 4;
	r.selector = selector;
	r.attr = (uint16_t)((r.attr & (X86_SEG_DB | X86_SEG_G)) | X86_SEG_P | X86_SEG_S |
			    (seg == X86_CS ? 0xbu : 0x3u));
	return r;
}

int x86_check_stack_desc(struct x86_cpu *cpu, uint16_t selector, unsigned cpl, uint8_t vector,
			 unsigned ext, struct x86_desc *ret)
{
	uint32_t error = (selector & X86_SEL_MASK) | ext;
	int r = x86_read_desc(cpu, selector, ret, vector, ext);

	if (r != X86_NEXT)
		return r;
	if ((selector & X86_SEL_RPL) != cpl || !x86_desc_is_writable_data(ret) ||
	    x86_desc_dpl(ret) != cpl)
		return x86_raise_error(cpu, vector, error);
	if (!x86_desc_is_present(ret))
		return x86_raise_error(cpu, X86_SS_FAULT, error);
	return x86_set_accessed(cpu, selector, ret);
}

static bool data_desc_is_valid(const struct x86_desc *d, uint16_t selector, unsigned cpl)
{
	bool code = x86_desc_is_code(d);

	if (!x86_desc_is_segment(d) || (code && !(d->hi & (1u << 9))))
		return false; /* system, or execute-only */
	if (code && x86_desc_is_conforming(d))
		return true;
	return x86_desc_dpl(d) >= cpl && x86_desc_dpl(d) >= (selector & X86_SEL_RPL);
}

int x86_check_data_segment(struct x86_cpu *cpu, uint16_t selector, unsigned cpl, uint8_t vector,
			   struct x86_segment *ret)
{
	struct x86_desc d;
	int r;

	if (!(selector & X86_SEL_MASK)) {
		*ret = x86_segment_null(selector, 0);
		return X86_NEXT;
	}
	r = x86_read_desc(cpu, selector, &d, vector, 0);
	if (r != X86_NEXT)
		return r;
	if (!data_desc_is_valid(&d, selector, cpl))
		return x86_raise_error(cpu, vector, selector & X86_SEL_MASK);
	if (!x86_desc_is_present(&d))
		return x86_raise_error(cpu, X86_NP, selector & X86_SEL_MASK);
	r = x86_set_accessed(cpu, selector, &d);
	if (r == X86_NEXT)
		*ret = x86_segment_from_desc(selector, &d);
	return r;
}

static int load_stack_segment(struct x86_cpu *cpu, uint16_t selector, struct x86_segment *ret)
{
	struct x86_desc d;
	int r;

	if (!(selector & X86_SEL_MASK)) {
		/* Null is a stack only for 64-bit code below privilege 3. */
		if (cpu->code_bytes != 8 || cpu->cpl == 3 || (selector & X86_SEL_RPL) != cpu->cpl)
			return x86_gp(cpu, 0);
		*ret = x86_segment_null(selector, cpu->cpl);
		return X86_NEXT;
	}
	r = x86_check_stack_desc(cpu, selector, cpu->cpl, X86_GP, 0, &d);
	if (r == X86_NEXT)
		*ret = x86_segment_from_desc(selector, &d);
	return r;
}

int x86_load_segment(struct x86_cpu *cpu, unsigned seg, uint16_t selector)
{
	struct x86_segment value;
	int r = X86_NEXT;

	if (x86_is_real(cpu))
		value = x86_segment_real(cpu, seg, selector);
	else if (x86_is_v86(cpu))
		value = x86_segment_v86(selector);
	else if (seg == X86_SS)
		r = load_stack_segment(cpu, selector, &value);
	else
		r = x86_check_data_segment(cpu, selector, cpu->cpl, X86_GP, &value);
	if (r != X86_NEXT)
		return r;
	cpu->s.seg[seg] = value;
	if (seg <= X86_DS)
		x86_update_mode(cpu);
	return X86_NEXT;
}

/* A system segment of 16 bytes in long mode: completes the base. */
static int system_segment(struct x86_cpu *cpu, uint16_t selector, const struct x86_desc *d,
			  uint8_t vector, struct x86_segment *ret)
{
	uint32_t high = 0;
	int r;

	*ret = x86_segment_from_desc(selector, d);
	if (!cpu->long_mode)
		return X86_NEXT;
	r = x86_read_desc_high(cpu, selector, &high, vector, 0);
	if (r != X86_NEXT)
		return r;
	ret->base |= (uint64_t)high << 32;
	if (!x86_is_canonical(ret->base))
		return x86_raise_error(cpu, vector, selector & X86_SEL_MASK);
	return X86_NEXT;
}

int x86_load_ldtr(struct x86_cpu *cpu, uint16_t selector, uint8_t vector)
{
	struct x86_segment value;
	struct x86_desc d;
	int r;

	if (!(selector & X86_SEL_MASK)) {
		cpu->s.ldtr = x86_segment_null(selector, 0);
		return X86_NEXT;
	}
	if (selector & X86_SEL_TI)
		return x86_raise_error(cpu, vector, selector & X86_SEL_MASK);
	r = x86_read_desc(cpu, selector, &d, vector, 0);
	if (r != X86_NEXT)
		return r;
	if (x86_desc_is_segment(&d) || x86_desc_type(&d) != X86_DESC_LDT)
		return x86_raise_error(cpu, vector, selector & X86_SEL_MASK);
	if (!x86_desc_is_present(&d)) {
		/* A task switch reports this as an invalid TSS too (SDM vol. 3, table 8-1). */
		return x86_raise_error(cpu, vector == X86_TS ? X86_TS : X86_NP,
				       selector & X86_SEL_MASK);
	}
	r = system_segment(cpu, selector, &d, vector, &value);
	if (r == X86_NEXT)
		cpu->s.ldtr = value;
	return r;
}

static int load_tr(struct x86_cpu *cpu, uint16_t selector)
{
	struct x86_segment value;
	struct x86_desc d;
	unsigned type;
	int r;

	if (!(selector & X86_SEL_MASK))
		return x86_gp(cpu, 0);
	if (selector & X86_SEL_TI)
		return x86_gp(cpu, selector & X86_SEL_MASK);
	r = x86_read_desc(cpu, selector, &d, X86_GP, 0);
	if (r != X86_NEXT)
		return r;
	type = x86_desc_type(&d);
	if (x86_desc_is_segment(&d) ||
	    (type != X86_DESC_TSS32 && (type != X86_DESC_TSS16 || cpu->long_mode)))
		return x86_gp(cpu, selector & X86_SEL_MASK);
	if (!x86_desc_is_present(&d))
		return x86_raise_error(cpu, X86_NP, selector & X86_SEL_MASK);
	r = system_segment(cpu, selector, &d, X86_GP, &value);
	if (r == X86_NEXT) /* busy */
		r = x86_write_desc_access(cpu, selector, &d, d.hi | (1u << 9));
	if (r != X86_NEXT)
		return r;
	value.attr |= 2;
	cpu->s.tr = value;
	return X86_NEXT;
}

/* The selector operand of a 16-bit r/m. */
static int load_selector(struct x86_cpu *cpu, const struct x86_insn *insn, uint16_t *ret)
{
	if (insn->flags & X86_INSN_MEM)
		return x86_load_rm(cpu, insn, ret, 2);
	*ret = (uint16_t)cpu->s.gpr[insn->rm];
	return X86_NEXT;
}

/* LLDT, LTR: privileged, and unknown outside protected mode. */
static int check_table_load(struct x86_cpu *cpu)
{
	if (!x86_is_protected(cpu))
		return x86_ud(cpu);
	return cpu->cpl ? x86_gp(cpu, 0) : X86_NEXT;
}

int x86_op_lldt(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint16_t selector;
	int r = check_table_load(cpu);

	if (r == X86_NEXT)
		r = load_selector(cpu, insn, &selector);
	return r == X86_NEXT ? x86_load_ldtr(cpu, selector, X86_GP) : r;
}

int x86_op_ltr(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint16_t selector;
	int r = check_table_load(cpu);

	if (r == X86_NEXT)
		r = load_selector(cpu, insn, &selector);
	return r == X86_NEXT ? load_tr(cpu, selector) : r;
}

static void set_zf(struct x86_cpu *cpu, bool zf)
{
	cpu->s.rflags = (cpu->s.rflags & ~(uint64_t)X86_FL_ZF) | (zf ? X86_FL_ZF : 0);
}

static void write_reg(struct x86_cpu *cpu, const struct x86_insn *insn, uint32_t value)
{
	uint64_t *reg = &cpu->s.gpr[insn->reg];

	if (insn->opsize == 2)
		*reg = (*reg & ~0xffffull) | (value & 0xffff);
	else
		*reg = value;
}

/* Whether the descriptor of @selector is one that the asker could reach. X86_FAULT only for a fault
 * on the table itself; *@ret_found tells the rest. */
static int look_up(struct x86_cpu *cpu, uint16_t selector, struct x86_desc *d, bool *ret_found)
{
	uint64_t linear;

	*ret_found = false;
	if (!(selector & X86_SEL_MASK) || desc_address(cpu, selector, 8, X86_GP, 0, &linear))
		return X86_NEXT;
	*ret_found = true;
	return x86_read_sys(cpu, linear, d, 8);
}

static bool is_visible(const struct x86_cpu *cpu, const struct x86_desc *d, uint16_t selector)
{
	if (x86_desc_is_segment(d) && x86_desc_is_code(d) && x86_desc_is_conforming(d))
		return true;
	return x86_desc_dpl(d) >= cpu->cpl && x86_desc_dpl(d) >= (selector & X86_SEL_RPL);
}

/* Types LAR and LSL accept, as bit masks: SDM vol. 2, tables of LAR and LSL. */
#define LAR_TYPES	0x1a3eu
#define LAR_TYPES_LONG	0x1a04u
#define LSL_TYPES	0x0a0eu
#define LSL_TYPES_LONG	0x0a04u

static int ask(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned types,
	       struct x86_desc *d, bool *ret_ok)
{
	uint16_t selector;
	int r;

	*ret_ok = false;
	if (!x86_is_protected(cpu))
		return x86_ud(cpu);
	r = load_selector(cpu, insn, &selector);
	if (r == X86_NEXT)
		r = look_up(cpu, selector, d, ret_ok);
	if (r != X86_NEXT || !*ret_ok)
		return r;
	*ret_ok = (x86_desc_is_segment(d) || ((types >> x86_desc_type(d)) & 1)) &&
		  is_visible(cpu, d, selector);
	return X86_NEXT;
}

int x86_op_lar(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_desc d;
	bool ok;
	int r = ask(cpu, insn, cpu->long_mode ? LAR_TYPES_LONG : LAR_TYPES, &d, &ok);

	if (r != X86_NEXT)
		return r;
	if (ok)
		write_reg(cpu, insn, d.hi & (insn->opsize == 2 ? 0xff00u : 0xffff00u));
	set_zf(cpu, ok);
	return X86_NEXT;
}

int x86_op_lsl(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_desc d;
	bool ok;
	int r = ask(cpu, insn, cpu->long_mode ? LSL_TYPES_LONG : LSL_TYPES, &d, &ok);

	if (r != X86_NEXT)
		return r;
	if (ok)
		write_reg(cpu, insn, x86_desc_limit(&d));
	set_zf(cpu, ok);
	return X86_NEXT;
}

static int verify(struct x86_cpu *cpu, const struct x86_insn *insn, bool write)
{
	struct x86_desc d;
	bool ok;
	int r = ask(cpu, insn, 0, &d, &ok);

	if (r != X86_NEXT)
		return r;
	if (ok && write)
		ok = x86_desc_is_writable_data(&d);
	else if (ok)
		ok = !x86_desc_is_code(&d) || (d.hi & (1u << 9));
	set_zf(cpu, ok);
	return X86_NEXT;
}

int x86_op_verr(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return verify(cpu, insn, false);
}

int x86_op_verw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return verify(cpu, insn, true);
}

int x86_op_arpl(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint16_t dest, rpl = cpu->s.gpr[insn->reg] & X86_SEL_RPL;
	bool raise;
	int r;

	if (!x86_is_protected(cpu))
		return x86_ud(cpu);
	r = load_selector(cpu, insn, &dest);
	if (r != X86_NEXT)
		return r;
	raise = (dest & X86_SEL_RPL) < rpl;
	if (raise) {
		dest = (uint16_t)((dest & ~X86_SEL_RPL) | rpl);
		if (insn->flags & X86_INSN_MEM) {
			r = x86_store_rm(cpu, insn, &dest, 2);
			if (r != X86_NEXT)
				return r;
		} else {
			uint64_t *reg = &cpu->s.gpr[insn->rm];

			*reg = (*reg & ~0xffffull) | dest;
		}
	}
	set_zf(cpu, raise);
	return X86_NEXT;
}
