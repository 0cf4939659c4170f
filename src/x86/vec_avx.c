// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* vec_avx.c - AVX and AVX2 instructions that cross lanes, and masked and gathered memory accesses. */
#include "fpu_int.h"
#include "insns.h"

static int finish(struct x86_cpu *cpu, const struct x86_insn *insn, const union vec *value)
{
	memcpy(vec_reg(cpu, insn->reg), value, insn->vl);
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

FPU_ALWAYS_INLINE int broadcast(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	union vec buf, out = { 0 };
	const union vec *src;
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, size, &src))
		return X86_FAULT;
	for (i = 0; i < insn->vl; i += size)
		memcpy(&out.u8[i], src, size);
	return finish(cpu, insn, &out);
}

int x86_op_vec_broadcast1(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return broadcast(cpu, insn, 1);
}

int x86_op_vec_broadcast2(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return broadcast(cpu, insn, 2);
}

int x86_op_vec_broadcast4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return broadcast(cpu, insn, 4);
}

int x86_op_vec_broadcast8(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return broadcast(cpu, insn, 8);
}

int x86_op_vec_broadcast16(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return broadcast(cpu, insn, 16);
}

int x86_op_vec_insert128(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec buf, out = { 0 };
	const union vec *b;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, 16, &b))
		return X86_FAULT;
	memcpy(&out, vec_src1(cpu, insn), 32);
	out.lane[insn->imm & 1] = b->lane[0];
	return finish(cpu, insn, &out);
}

/* The destination is r/m, 16 bytes; a register is cleared above. */
int x86_op_vec_extract128(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec *dst = vec_reg(cpu, insn->rm);
	v2u64 v;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	v = vec_reg(cpu, insn->reg)->lane[insn->imm & 1];
	if (vec_is_mem(insn))
		return x86_store_rm(cpu, insn, &v, 16);
	dst->lane[0] = v;
	vec_clear_upper_scalar(cpu, insn, insn->rm);
	return X86_NEXT;
}

/* Each half of the result: one of four source lanes by two bits, or zero by the bit above. */
int x86_op_vec_perm2x128(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *a = vec_src1(cpu, insn), *b;
	union vec buf, out = { 0 };
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, 32, &b))
		return X86_FAULT;
	for (i = 0; i < 2; i++) {
		unsigned control = insn->imm >> i * 4 & 15;

		if (!(control & 8))
			out.lane[i] = (control & 2 ? b : a)->lane[control & 1];
	}
	return finish(cpu, insn, &out);
}

/* VPERMD, VPERMPS: indices in the first source. */
int x86_op_vec_permd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *a = vec_src1(cpu, insn), *b;
	union vec buf, out = { 0 };
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, 32, &b))
		return X86_FAULT;
	for (i = 0; i < 8; i++)
		out.u32[i] = b->u32[a->u32[i] & 7];
	return finish(cpu, insn, &out);
}

/* VPERMQ, VPERMPD by immediate. */
int x86_op_vec_permq(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec buf, out = { 0 };
	const union vec *b;
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, 32, &b))
		return X86_FAULT;
	for (i = 0; i < 4; i++)
		out.u64[i] = b->u64[insn->imm >> i * 2 & 3];
	return finish(cpu, insn, &out);
}

FPU_ALWAYS_INLINE int clear_from(struct x86_cpu *cpu, const struct x86_insn *insn,
				 unsigned first_lane)
{
	unsigned count = cpu->code_bytes == 8 ? 16 : 8, i, lane;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	for (i = 0; i < count; i++)
		for (lane = first_lane; lane < 4; lane++)
			((v2u64 *)cpu->s.fpu.vec[i])[lane] = (v2u64){ 0, 0 };
	return X86_NEXT;
}

int x86_op_vec_vzeroupper(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return clear_from(cpu, insn, 1);
}

int x86_op_vec_vzeroall(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return clear_from(cpu, insn, 0);
}

/* ---- masked moves: elements whose mask has a clear sign are neither accessed nor checked ---- */

static bool selected(const union vec *mask, unsigned i, unsigned size)
{
	return mask->u8[i * size + size - 1] & 0x80;
}

/* Bytes of element @i lie at the address plus i * size; it wraps at the address size. */
static uint64_t element_offset(const struct x86_insn *insn, uint64_t off, unsigned add)
{
	off += add;
	return insn->adsize == 8 ? off : insn->adsize == 4 ? (uint32_t)off : (uint16_t)off;
}

/* These accesses are exempt from alignment checking (SDM vol. 2, VMASKMOV): where it is on, an element
 * is read byte by byte. A fault in the middle leaves @buf, which may be a register, as it was. */
static unsigned unit(const struct x86_cpu *cpu, unsigned size)
{
	return x86_checks_alignment(cpu) ? 1 : size;
}

static int element_read(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
			uint8_t *buf, unsigned size)
{
	unsigned i, n = unit(cpu, size);
	uint8_t bytes[8];

	for (i = 0; i < size; i += n)
		if (x86_read(cpu, insn->seg, off + i, bytes + i, n))
			return X86_FAULT;
	memcpy(buf, bytes, size);
	return X86_NEXT;
}

static int element_probe(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
			 unsigned size)
{
	unsigned i, n = unit(cpu, size);

	for (i = 0; i < size; i += n)
		if (x86_probe_write(cpu, insn->seg, off + i, n))
			return X86_FAULT;
	return X86_NEXT;
}

static int element_write(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
			 const uint8_t *buf, unsigned size)
{
	unsigned i, n = unit(cpu, size);

	for (i = 0; i < size; i += n)
		if (x86_write(cpu, insn->seg, off + i, buf + i, n))
			return X86_FAULT;
	return X86_NEXT;
}

FPU_ALWAYS_INLINE int mask_load(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	const union vec *mask = vec_src1(cpu, insn);
	union vec out = { 0 };
	uint64_t off;
	unsigned i;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	off = x86_ea(cpu, insn);
	for (i = 0; i < insn->vl / size; i++)
		if (selected(mask, i, size) &&
		    element_read(cpu, insn, element_offset(insn, off, i * size),
				 &out.u8[i * size], size))
			return X86_FAULT;
	return finish(cpu, insn, &out);
}

int x86_op_vec_maskload4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return mask_load(cpu, insn, 4);
}

int x86_op_vec_maskload8(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return mask_load(cpu, insn, 8);
}

/* Everything is probed first: a fault leaves memory as it was. */
FPU_ALWAYS_INLINE int mask_store(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	const union vec *mask = vec_src1(cpu, insn), *src = vec_reg(cpu, insn->reg);
	uint64_t off;
	unsigned i;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	off = x86_ea(cpu, insn);
	for (i = 0; i < insn->vl / size; i++)
		if (selected(mask, i, size) &&
		    element_probe(cpu, insn, element_offset(insn, off, i * size), size))
			return X86_FAULT;
	for (i = 0; i < insn->vl / size; i++)
		if (selected(mask, i, size) &&
		    element_write(cpu, insn, element_offset(insn, off, i * size),
				  &src->u8[i * size], size))
			return X86_FAULT;
	return X86_NEXT;
}

int x86_op_vec_maskstore4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return mask_store(cpu, insn, 4);
}

int x86_op_vec_maskstore8(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return mask_store(cpu, insn, 8);
}

/* ---- gathers ---- */

static uint64_t gather_offset(const struct x86_cpu *cpu, const struct x86_insn *insn,
			      const union vec *index, unsigned i, unsigned index_size)
{
	uint64_t off = (uint64_t)(int64_t)insn->disp;
	uint64_t idx = index_size == 4 ? (uint64_t)(int64_t)index->i32[i] : index->u64[i];

	if (insn->base != X86_NO_REG)
		off += cpu->s.gpr[insn->base];
	off += idx << insn->scale;
	return insn->adsize == 8 ? off : (uint32_t)off;
}

/*
 * SDM vol. 2, VPGATHERDD: elements are gone through one after the other, and each clears its mask, so
 * that a fault in the middle can be resumed. At the end the mask register is zero. The
 * three registers must differ, else #UD.
 */
static int gather(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned index_size,
		  unsigned size)
{
	unsigned count = insn->vl / (index_size > size ? index_size : size), i;
	union vec *dst = vec_reg(cpu, insn->reg), *mask = vec_reg(cpu, insn->vvvv);
	const union vec *index = vec_reg(cpu, insn->index);
	unsigned used = count * size;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	if (insn->reg == insn->vvvv || insn->reg == insn->index || insn->vvvv == insn->index)
		return x86_ud(cpu);
	for (i = 0; i < count; i++) {
		if (selected(mask, i, size) &&
		    element_read(cpu, insn, gather_offset(cpu, insn, index, i, index_size),
				 &dst->u8[i * size], size))
			return X86_FAULT;
		memset(&mask->u8[i * size], 0, size);
	}
	memset(cpu->s.fpu.vec[insn->vvvv], 0, 64);
	memset(cpu->s.fpu.vec[insn->reg] + used, 0, 64 - used);
	return X86_NEXT;
}

int x86_op_vec_gather_d4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return gather(cpu, insn, 4, 4);
}

int x86_op_vec_gather_d8(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return gather(cpu, insn, 4, 8);
}

int x86_op_vec_gather_q4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return gather(cpu, insn, 8, 4);
}

int x86_op_vec_gather_q8(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return gather(cpu, insn, 8, 8);
}
