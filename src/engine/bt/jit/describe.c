// SPDX-License-Identifier: Apache-2.0
/*
 * describe.c - which instructions are emitted, and what they do with operands and flags.
 *
 * Opcode maps: Intel SDM vol. 2, appendix A. What is left out here is left to the handlers.
 */
#include "engine/bt/jit/describe.h"

#include <string.h>

#include "x86/insns.h"
#include "x86/rows.h"

#define ALL X86_FL_STATUS
#define CF  X86_FL_CF
#define OF  X86_FL_OF
#define ZF  X86_FL_ZF

static void flags(struct jit_desc *d, uint32_t r, uint32_t w)
{
	d->fr = r;
	d->fw = d->fm = w;
}

/* SDM vol. 2, appendix B.1.4.7. */
static uint32_t condition_flags(unsigned cc)
{
	static const uint32_t fl[8] = {
		OF, CF, ZF, CF | ZF, X86_FL_SF, X86_FL_PF, X86_FL_SF | OF, X86_FL_SF | OF | ZF,
	};

	return fl[cc >> 1 & 7];
}

static void copy(struct jit_desc *d, unsigned reg_use, unsigned rm_use)
{
	d->kind = JIT_COPY;
	d->reg_use = (uint8_t)reg_use;
	d->rm_use = (uint8_t)rm_use;
}

static unsigned imm_z(const struct x86_insn *insn)
{
	return insn->opsize == 2 ? 2 : 4;
}

/* 00-3F, columns 0 to 5. */
static void arithmetic(const struct x86_insn *insn, struct jit_desc *d)
{
	unsigned op = insn->opcode >> 3, form = insn->opcode & 7;
	unsigned dest = op == 7 ? JIT_R : JIT_RW;

	if (form < 2)
		copy(d, JIT_R, dest);
	else if (form < 4)
		copy(d, dest, JIT_R);
	else
		d->kind = JIT_COPY;
	d->byte_reg = d->byte_rm = !(form & 1);
	if (form >= 4)
		d->imm_len = form == 4 ? 1 : (uint8_t)imm_z(insn);
	flags(d, op == 2 || op == 3 ? CF : 0, ALL);
}

static void group1(const struct x86_insn *insn, struct jit_desc *d)
{
	unsigned op = insn->modrm >> 3 & 7;

	copy(d, 0, op == 7 ? JIT_R : JIT_RW);
	d->byte_rm = insn->opcode == 0x80;
	d->imm_len = insn->opcode == 0x81 ? (uint8_t)imm_z(insn) : 1;
	flags(d, op == 2 || op == 3 ? CF : 0, ALL);
}

/* C0 C1 D0-D3. */
static void shift(const struct x86_insn *insn, struct jit_desc *d)
{
	unsigned op = insn->modrm >> 3 & 7, count = 1;
	bool rotate = op < 4, by_cl = (insn->opcode & 0xfe) == 0xd2;

	copy(d, 0, JIT_RW);
	d->byte_rm = !(insn->opcode & 1);
	if (insn->opcode < 0xd0) {
		d->imm_len = 1;
		count = insn->imm & (insn->opsize == 8 ? 63 : 31);
	}
	flags(d, op == 2 || op == 3 ? CF : 0, rotate ? CF | OF : ALL);
	/* A count of zero leaves the flags alone; a rotation by a multiple of the size is left to
	 * the processor as well. */
	if (by_cl || !count || rotate)
		d->fw = 0;
}

static void group3(const struct x86_insn *insn, struct jit_desc *d)
{
	unsigned op = insn->modrm >> 3 & 7;

	d->byte_rm = insn->opcode == 0xf6;
	switch (op) {
	case 0:
	case 1:
		copy(d, 0, JIT_R);
		d->imm_len = d->byte_rm ? 1 : (uint8_t)imm_z(insn);
		flags(d, 0, ALL);
		break;
	case 2:
		copy(d, 0, JIT_RW);
		break;
	case 3:
		copy(d, 0, JIT_RW);
		flags(d, 0, ALL);
		break;
	case 4:
	case 5:
		copy(d, 0, JIT_R);
		flags(d, 0, ALL);
		break;
	default:
		if (insn->opsize < 4)
			break;
		copy(d, 0, JIT_R);
		d->kind = op == 6 ? JIT_DIV : JIT_IDIV;
		flags(d, 0, ALL);
	}
}

static void group5(const struct x86_insn *insn, struct jit_desc *d)
{
	unsigned op = insn->modrm >> 3 & 7;
	bool mem = insn->flags & X86_INSN_MEM;

	switch (op) {
	case 0:
	case 1:
		copy(d, 0, JIT_RW);
		d->byte_rm = insn->opcode == 0xfe;
		flags(d, 0, ALL & ~CF);
		break;
	case 2:
		d->kind = mem ? JIT_CALL_MEM : JIT_CALL_REG;
		break;
	case 4:
		d->kind = mem ? JIT_JMP_MEM : JIT_JMP_REG;
		break;
	case 6:
		if (insn->opsize == 8)
			d->kind = mem ? JIT_PUSH_MEM : JIT_PUSH_REG;
		break;
	default:
		break;
	}
	if (op >= 2) {
		d->rm_use = JIT_R;
		d->mem_len = 8;
		if (insn->opsize != 8)
			d->kind = JIT_HANDLER;
	}
}

static void one_byte(const struct x86_insn *insn, struct jit_desc *d)
{
	uint8_t op = insn->opcode;
	bool wide = insn->opsize == 8;

	if (op < 0x40 && (op & 7) < 6) {
		arithmetic(insn, d);
		return;
	}
	switch (op) {
	case 0x50 ... 0x57:
		d->kind = wide ? JIT_PUSH_REG : JIT_HANDLER;
		break;
	case 0x58 ... 0x5f:
		d->kind = wide ? JIT_POP_REG : JIT_HANDLER;
		break;
	case 0x63:
		copy(d, JIT_RW, JIT_R);
		d->mem_len = 4;
		if (insn->opsize == 2)
			d->kind = JIT_HANDLER;
		break;
	case 0x68:
	case 0x6a:
		d->kind = wide ? JIT_PUSH_IMM : JIT_HANDLER;
		break;
	case 0x69:
	case 0x6b:
		copy(d, JIT_RW, JIT_R);
		d->imm_len = op == 0x6b ? 1 : (uint8_t)imm_z(insn);
		flags(d, 0, ALL);
		break;
	case 0x70 ... 0x7f:
		d->kind = JIT_JCC;
		flags(d, condition_flags(op & 15), 0);
		break;
	case 0x80:
	case 0x81:
	case 0x83:
		group1(insn, d);
		break;
	case 0x84:
	case 0x85:
		copy(d, JIT_R, JIT_R);
		d->byte_reg = d->byte_rm = op == 0x84;
		flags(d, 0, ALL);
		break;
	case 0x86:
	case 0x87:
		copy(d, JIT_RW, JIT_RW);
		d->byte_reg = d->byte_rm = op == 0x86;
		break;
	case 0x88:
	case 0x89:
		copy(d, JIT_R, JIT_W);
		d->byte_reg = d->byte_rm = op == 0x88;
		break;
	case 0x8a:
	case 0x8b:
		copy(d, JIT_W, JIT_R);
		d->byte_reg = d->byte_rm = op == 0x8a;
		break;
	case 0x8d:
		d->kind = insn->opsize >= 4 ? JIT_LEA : JIT_HANDLER;
		break;
	case 0x90 ... 0x97:
		/* PAUSE has a handler of the engine's own. */
		if (insn->exec == x86_op_nop)
			d->kind = JIT_NOTHING;
		else if (!(insn->flags & X86_INSN_REP) || insn->rm)
			d->kind = JIT_XCHG_AX;
		break;
	case 0x98:
	case 0x99:
		d->kind = JIT_COPY;
		break;
	case 0xa8:
	case 0xa9:
		d->kind = JIT_COPY;
		d->imm_len = op == 0xa8 ? 1 : (uint8_t)imm_z(insn);
		flags(d, 0, ALL);
		break;
	case 0xb0 ... 0xbf:
		d->kind = insn->opsize >= 4 ? JIT_MOV_IMM : JIT_HANDLER;
		break;
	case 0xc0:
	case 0xc1:
	case 0xd0 ... 0xd3:
		shift(insn, d);
		break;
	case 0xc2:
	case 0xc3:
		d->kind = wide ? JIT_RET : JIT_HANDLER;
		break;
	case 0xc6:
	case 0xc7:
		copy(d, 0, JIT_W);
		d->byte_rm = op == 0xc6;
		d->imm_len = op == 0xc6 ? 1 : (uint8_t)imm_z(insn);
		break;
	case 0xc9:
		d->kind = wide ? JIT_LEAVE : JIT_HANDLER;
		break;
	case 0xe8:
		d->kind = wide ? JIT_CALL : JIT_HANDLER;
		break;
	case 0xe9:
	case 0xeb:
		d->kind = wide ? JIT_JMP : JIT_HANDLER;
		break;
	case 0xf5:
		d->kind = JIT_COPY;
		flags(d, CF, CF);
		break;
	case 0xf6:
	case 0xf7:
		group3(insn, d);
		break;
	case 0xf8:
	case 0xf9:
		d->kind = JIT_COPY;
		flags(d, 0, CF);
		break;
	case 0xfe:
	case 0xff:
		group5(insn, d);
		break;
	default:
		break;
	}
}

static void two_byte(const struct x86_insn *insn, struct jit_desc *d)
{
	uint8_t op = insn->opcode;
	bool mem = insn->flags & X86_INSN_MEM;

	if (insn->exec == x86_op_nop) {
		d->kind = JIT_NOTHING;
		return;
	}
	if (insn->exec == x86_op_fence) {
		copy(d, 0, 0);
		return;
	}
	switch (op) {
	case 0x40 ... 0x4f:
		copy(d, JIT_RW, JIT_R);
		flags(d, condition_flags(op & 15), 0);
		break;
	case 0x80 ... 0x8f:
		d->kind = JIT_JCC;
		flags(d, condition_flags(op & 15), 0);
		break;
	case 0x90 ... 0x9f:
		copy(d, 0, JIT_W);
		d->byte_rm = true;
		flags(d, condition_flags(op & 15), 0);
		break;
	case 0xa3:
	case 0xab:
	case 0xb3:
	case 0xbb:
		if (mem && insn->seg >= X86_FS)
			break;
		copy(d, JIT_R, op == 0xa3 ? JIT_R : JIT_RW);
		if (mem)
			d->kind = JIT_BIT;
		flags(d, 0, ALL & ~ZF);
		break;
	case 0xba:
		copy(d, 0, (insn->modrm >> 3 & 7) == 4 ? JIT_R : JIT_RW);
		d->imm_len = 1;
		flags(d, 0, ALL & ~ZF);
		break;
	case 0xa4:
	case 0xac:
		copy(d, JIT_R, JIT_RW);
		d->imm_len = 1;
		flags(d, 0, ALL);
		if (!(insn->imm & (insn->opsize == 8 ? 63 : 31)))
			d->fw = 0;
		break;
	case 0xa5:
	case 0xad:
		copy(d, JIT_R, JIT_RW);
		d->fm = ALL;
		break;
	case 0xaf:
		copy(d, JIT_RW, JIT_R);
		flags(d, 0, ALL);
		break;
	case 0xb0:
	case 0xb1:
		copy(d, JIT_R, JIT_RW);
		d->byte_reg = d->byte_rm = op == 0xb0;
		flags(d, 0, ALL);
		break;
	case 0xc0:
	case 0xc1:
		copy(d, JIT_RW, JIT_RW);
		d->byte_reg = d->byte_rm = op == 0xc0;
		flags(d, 0, ALL);
		break;
	case 0xb6:
	case 0xbe:
		copy(d, insn->opsize == 2 ? JIT_RW : JIT_W, JIT_R);
		d->byte_rm = true;
		d->mem_len = 1;
		break;
	case 0xb7:
	case 0xbf:
		copy(d, insn->opsize == 2 ? JIT_RW : JIT_W, JIT_R);
		d->mem_len = 2;
		break;
	case 0xb8:
	case 0xbc:
	case 0xbd:
		copy(d, JIT_RW, JIT_R);
		d->prefix = true;
		flags(d, 0, ALL);
		break;
	case 0xc3:
		copy(d, JIT_R, JIT_W);
		break;
	case 0xc7:
		if (!mem || (insn->modrm >> 3 & 7) != 1)
			break;
		copy(d, 0, JIT_RW);
		d->mem_len = insn->flags & X86_INSN_W ? 16 : 8;
		d->mem_align = d->mem_len == 16 ? 16 : 1;
		flags(d, 0, ZF);
		break;
	case 0xc8 ... 0xcf:
		d->kind = insn->opsize >= 4 ? JIT_BSWAP : JIT_HANDLER;
		break;
	default:
		break;
	}
}

static void three_byte(const struct x86_insn *insn, struct jit_desc *d)
{
	bool crc = insn->flags & X86_INSN_REPNE;

	d->prefix = true;
	switch (insn->map << 8 | insn->opcode) {
	case 0x2f0:
	case 0x2f1:
		if (crc) {
			copy(d, JIT_RW, JIT_R);
			d->byte_rm = insn->opcode == 0xf0;
			d->mem_len = d->byte_rm ? 1 : insn->opsize;
		} else {
			copy(d, insn->opcode == 0xf0 ? JIT_RW : JIT_R,
			     insn->opcode == 0xf0 ? JIT_R : JIT_W);
		}
		break;
	case 0x2f6:
		copy(d, JIT_RW, JIT_R);
		if (insn->flags & X86_INSN_REP)
			flags(d, OF, OF);
		else
			flags(d, CF, CF);
		break;
	default:
		break;
	}
}

/* BMI1 and BMI2. */
static void vex_general(const struct x86_insn *insn, struct jit_desc *d)
{
	d->prefix = true;
	d->vvvv_use = JIT_R;
	switch (insn->map << 8 | insn->opcode) {
	case 0x2f2: /* ANDN */
		copy(d, JIT_W, JIT_R);
		flags(d, 0, ALL);
		break;
	case 0x2f3: /* BLSR, BLSMSK, BLSI */
		copy(d, 0, JIT_R);
		d->vvvv_use = JIT_W;
		flags(d, 0, ALL);
		break;
	case 0x2f5: /* BZHI, PEXT, PDEP */
		copy(d, JIT_W, JIT_R);
		if (!d->vex_pp)
			flags(d, 0, ALL);
		break;
	case 0x2f6: /* MULX */
		copy(d, JIT_W, JIT_R);
		d->vvvv_use = JIT_W;
		break;
	case 0x2f7: /* BEXTR, SHLX, SARX, SHRX */
		copy(d, JIT_W, JIT_R);
		if (!d->vex_pp)
			flags(d, 0, ALL);
		break;
	case 0x3f0: /* RORX */
		copy(d, JIT_W, JIT_R);
		d->vvvv_use = 0;
		d->imm_len = 1;
		break;
	default:
		break;
	}
}

/* ---- vector instructions: by the operands that their row tells ---- */

static bool sets_flags(x86_exec_fn exec)
{
	return exec == x86_op_fp_comi4 || exec == x86_op_fp_comi8 || exec == x86_op_vec_ptest ||
	       exec == x86_op_vec_testps || exec == x86_op_vec_testpd ||
	       exec == x86_op_vec_pcmpestri || exec == x86_op_vec_pcmpestrm ||
	       exec == x86_op_vec_pcmpistri || exec == x86_op_vec_pcmpistrm;
}

static bool may_be_unaligned(x86_exec_fn exec)
{
	return exec == x86_op_vec_load || exec == x86_op_vec_store ||
	       exec == x86_op_vec_pcmpestri || exec == x86_op_vec_pcmpestrm ||
	       exec == x86_op_vec_pcmpistri || exec == x86_op_vec_pcmpistrm;
}

/* Elements that are masked out must not fault, and the mask of the old one is implicit. */
static bool is_left_out(const struct x86_insn *insn, const struct x86_row_info *row)
{
	x86_exec_fn exec = insn->exec;

	return row->attrs & X86_ROW_ATTR_VSIB || exec == x86_op_vec_maskmovdqu ||
	       exec == x86_op_vec_maskload4 || exec == x86_op_vec_maskload8 ||
	       exec == x86_op_vec_maskstore4 || exec == x86_op_vec_maskstore8;
}

/* Size of a memory operand by its code: SDM vol. 2, appendix A.2.2. 0: not known here. */
static unsigned code_size(const struct x86_insn *insn, const char *code)
{
	static const struct {
		char text[3];
		uint8_t size;
	} sizes[] = {
		{ "dq", 16 }, { "t", 10 }, { "q", 8 }, { "sd", 8 }, { "ss", 4 }, { "d", 4 }, { "w", 2 }, { "b", 1 },
	};

	if (strcmp(code, "x") == 0)
		return insn->vl;
	if (strcmp(code, "y") == 0)
		return insn->flags & X86_INSN_W ? 8 : 4;
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		if (strcmp(code, sizes[i].text) == 0)
			return sizes[i].size;
	return 0;
}

static bool vector_operand(const struct x86_insn *insn, const char *code, bool first,
			   struct jit_desc *d)
{
	switch (*code) {
	case 'V':
	case 'H':
	case 'L':
		d->vec = true;
		return true;
	case 'U':
	case 'W':
		d->vec = d->vec_rm = true;
		/* fall through */
	case 'M':
	case 'E':
		d->mem_len = (uint8_t)code_size(insn, code + 1);
		d->rm_use = first ? JIT_RW : JIT_R;
		return d->mem_len;
	case 'G':
		d->reg_use = first ? JIT_RW : JIT_R;
		return true;
	case 'I':
		return true;
	default:
		return false;
	}
}

static void vector(const struct x86_insn *insn, struct jit_desc *d)
{
	const struct x86_row_info *row = &x86_rows[insn->row];

	if (insn->exec == x86_op_vec_vzeroupper || insn->exec == x86_op_vec_vzeroall) {
		d->kind = JIT_COPY;
		d->vec = d->prefix = true;
		return;
	}
	if (is_left_out(insn, row) || (row->imm != X86_IMM_NONE && row->imm != X86_IMM_IB))
		return;
	for (unsigned i = 0; i < 4 && row->operand[i]; i++)
		if (!vector_operand(insn, row->operand[i], i == 0, d))
			return;
	if (!d->vec)
		return;
	d->kind = JIT_COPY;
	d->prefix = true;
	d->imm_len = row->imm == X86_IMM_IB;
	if (row->align)
		d->mem_align = row->align;
	else if (!(insn->flags & X86_INSN_VEX) && d->mem_len == 16 && !may_be_unaligned(insn->exec))
		d->mem_align = 16;
	if (sets_flags(insn->exec))
		flags(d, 0, ALL);
}

/*
 * What the x86 core leaves to the host. A memory operand is taken as a whole: where not all of it is there
 * the handler finds out which elements matter. Gathers and scatters are all its.
 */
static void for_host(const struct x86_insn *insn, const struct x86_host_info *info,
		     struct jit_desc *d)
{
	bool mem = insn->flags & X86_INSN_MEM, evex = insn->flags & X86_INSN_EVEX;
	unsigned len = x86_host_mem_len(insn, info), op = insn->opcode;

	if (insn->exec != x86_op_evex && insn->exec != x86_op_host)
		return;
	d->kind = JIT_COPY;
	d->vec = d->prefix = true;
	d->wide = evex || info->reg == X86_HOST_MASK || info->rm == X86_HOST_MASK;
	d->vec_rm = info->rm != X86_HOST_GPR;
	if (info->reg == X86_HOST_GPR)
		d->reg_use = JIT_W;
	if (mem || info->rm == X86_HOST_GPR)
		d->rm_use = info->flags & X86_HOST_STORE ? JIT_W : JIT_R;
	if (mem) {
		d->mem_len = (uint8_t)len;
		d->mem_align = info->flags & X86_HOST_AL ? (uint8_t)len : 1;
	}
	d->vex_pp = insn->pp;
	d->imm_len = x86_rows[insn->row].imm == X86_IMM_IB;
	if (insn->map == 1 && (evex ? op == 0x2e || op == 0x2f : op == 0x98 || op == 0x99))
		flags(d, 0, ALL);
}

static uint8_t vex_pp(const uint8_t *bytes)
{
	while (*bytes != 0xc4 && *bytes != 0xc5) /* legacy prefixes */
		bytes++;
	return bytes[*bytes == 0xc5 ? 1 : 2] & 3;
}

/* What tr_sys.c emits. */
static void system_insn(const struct x86_insn *insn, struct jit_desc *d)
{
	x86_exec_fn exec = insn->exec;

	if (exec == x86_op_swapgs || exec == x86_op_cli || exec == x86_op_sti ||
	    exec == x86_op_stac || exec == x86_op_clac || exec == x86_op_cld || exec == x86_op_std || exec == x86_op_rdtsc ||
	    exec == x86_op_rdtscp || exec == x86_op_rdfsbase || exec == x86_op_rdgsbase ||
	    exec == x86_op_wrfsbase || exec == x86_op_wrgsbase ||
	    (exec == x86_op_mov_rsreg && insn->reg < X86_SEG_COUNT) ||
	    (exec == x86_op_mov_r_cr && (insn->reg == 0 || (insn->reg >= 2 && insn->reg <= 4)))) {
		*d = (struct jit_desc){ .kind = JIT_SYS };
	} else if (exec == x86_op_syscall || (exec == x86_op_sysret && insn->opsize == 8)) {
		*d = (struct jit_desc){ .kind = exec == x86_op_syscall ? JIT_SYSCALL : JIT_SYSRET,
					.fr = ALL };
	} else if (exec == x86_op_pushf8) {
		*d = (struct jit_desc){ .kind = JIT_SYS, .fr = ALL };
	} else if (exec == x86_op_popf8) {
		*d = (struct jit_desc){ .kind = JIT_SYS };
		flags(d, 0, ALL);
	}
}

/* MOVS, STOS, LODS (not repeated): A4 A5 AA AB AC AD. */
static void string(const struct x86_insn *insn, struct jit_desc *d)
{
	bool rep = insn->flags & (X86_INSN_REP | X86_INSN_REPNE);

	if (!(insn->flags & X86_INSN_A64) || (insn->opcode >= 0xac && rep) ||
	    (insn->seg >= X86_FS && insn->opcode != 0xaa && insn->opcode != 0xab))
		return;
	*d = (struct jit_desc){ .kind = JIT_STRING };
}

static bool x87_stores(x86_exec_fn exec)
{
	return exec == x86_op_x87_fst_m32 || exec == x86_op_x87_fst_m64 ||
	       exec == x86_op_x87_fst_m80 || exec == x86_op_x87_fist_m16 ||
	       exec == x86_op_x87_fist_m32 || exec == x86_op_x87_fist_m64 ||
	       exec == x86_op_x87_fbstp || exec == x86_op_x87_fnstcw || exec == x86_op_x87_fnstsw;
}

/* D8 to DF, WAIT and EMMS. Whole states and environments are left to the handlers. */
static void x87(const struct x86_insn *insn, struct jit_desc *d)
{
	x86_exec_fn exec = insn->exec;

	if (exec == x86_op_x87_fldenv || exec == x86_op_x87_fnstenv ||
	    exec == x86_op_x87_fnsave || exec == x86_op_x87_frstor ||
	    exec == x86_op_x87_fninit || exec == x86_op_x87_nop_nowait)
		return;
	d->kind = JIT_X87;
	d->x87 = true;
	if (insn->flags & X86_INSN_MEM) {
		d->mem_len = (uint8_t)code_size(insn, x86_rows[insn->row].operand[0] + 1);
		d->rm_use = x87_stores(exec) ? JIT_W : JIT_R;
		if (!d->mem_len)
			d->kind = JIT_HANDLER;
	}
	if (exec == x86_op_x87_comi)
		flags(d, 0, ALL);
	else if (exec == x86_op_x87_fcmov)
		flags(d, CF | ZF | X86_FL_PF, 0);
}

void jit_describe(const struct x86_insn *insn, const uint8_t *bytes, struct jit_desc *ret)
{
	bool mem = insn->flags & X86_INSN_MEM;
	const struct x86_host_info *info = x86_host_info(insn);

	memset(ret, 0, sizeof(*ret));
	ret->mem_align = 1;
	if (insn->exec == x86_op_ud)
		goto handler;
	if (info) {
		for_host(insn, info, ret);
		if (ret->kind == JIT_HANDLER || (mem && !(insn->flags & X86_INSN_A64)))
			goto handler;
		return;
	}
	if (insn->flags & X86_INSN_VEX) {
		ret->vex_pp = vex_pp(bytes);
		vex_general(insn, ret);
		if (ret->kind == JIT_HANDLER) {
			ret->vvvv_use = 0;
			vector(insn, ret);
		}
	} else if (insn->map == 0)
		one_byte(insn, ret);
	else if (insn->map == 1)
		two_byte(insn, ret);
	else
		three_byte(insn, ret);
	if (ret->kind == JIT_HANDLER && insn->map && !(insn->flags & X86_INSN_VEX)) {
		ret->prefix = false;
		vector(insn, ret);
	}
	if (ret->kind == JIT_HANDLER)
		system_insn(insn, ret);
	if (insn->exec == x86_op_mmx_emms ||
	    (insn->map == 0 && ((insn->opcode & 0xf8) == 0xd8 || insn->opcode == 0x9b)))
		x87(insn, ret);
	if (insn->map == 0 && ((insn->opcode & 0xfe) == 0xa4 ||
			       (insn->opcode >= 0xaa && insn->opcode <= 0xad)))
		string(insn, ret);
	if (!ret->mem_len)
		ret->mem_len = ret->byte_rm ? 1 : insn->opsize;
	/* Addresses that are not simply 64 bits wide. */
	if ((mem || ret->kind == JIT_LEA) && !(insn->flags & X86_INSN_A64))
		goto handler;
	if (ret->kind != JIT_HANDLER)
		return;
handler:
	*ret = (struct jit_desc){ .kind = JIT_HANDLER, .fr = ALL, .fm = ALL };
}
