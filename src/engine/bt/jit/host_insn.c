// SPDX-License-Identifier: Apache-2.0
/* host_insn.c - encodes the instruction, and keeps what was encoded. See host_insn.h. */
#include "engine/bt/jit/host_insn.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/bt/jit/emit.h"
#include "x86/rows.h"

#define SLOT_BYTES 16u
#define SLOT_BITS  12
#define SIZE	   (SLOT_BYTES << SLOT_BITS)

/* host_run.S */
extern void bt_host_run(struct x86_fpu *fpu, struct x86_host_op *op, const void *code);
extern void bt_host_serialize(void);

_Static_assert(offsetof(struct x86_fpu, vec) == 0 && offsetof(struct x86_fpu, opmask) == 2048 &&
		       offsetof(struct x86_host_op, gpr) == 64 &&
		       offsetof(struct x86_host_op, rflags) == 72 &&
		       offsetof(struct x86_host_op, mxcsr) == 80,
	       "host_run.S has these offsets");

bool bt_host_insn_is_fit(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

/* Two places, as code.c has them: never writable and executable through one. */
int bt_host_insn_init(struct bt_host_insn *h)
{
	uint8_t *code = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint8_t *exec;

	*h = (struct bt_host_insn){ 0 };
	if (code == MAP_FAILED)
		return -errno;
	exec = mremap(code, 0, SIZE, MREMAP_MAYMOVE);
	if (exec == MAP_FAILED || mprotect(exec, SIZE, PROT_READ | PROT_EXEC) < 0) {
		int r = -errno;

		munmap(code, SIZE);
		if (exec != MAP_FAILED)
			munmap(exec, SIZE);
		return r;
	}
	*h = (struct bt_host_insn){ .code = code, .exec = exec };
	return 0;
}

void bt_host_insn_fini(struct bt_host_insn *h)
{
	if (!h->code)
		return;
	munmap(h->code, SIZE);
	munmap(h->exec, SIZE);
	*h = (struct bt_host_insn){ 0 };
}

static void name_prefix(const struct x86_insn *insn, struct emit_op *op)
{
	op->map = insn->map;
	op->opcode = insn->opcode;
	op->w = insn->flags & X86_INSN_W;
	if (!(insn->flags & (X86_INSN_VEX | X86_INSN_EVEX))) {
		op->p66 = insn->flags & X86_INSN_OPSIZE;
		return;
	}
	op->evex = insn->flags & X86_INSN_EVEX;
	op->vex = !op->evex;
	op->z_ll_b_aaa = insn->evex;
	op->l256 = insn->vl == 32;
	op->p66 = insn->pp == 1;
	op->rep = insn->pp == 2 ? 0xf3 : insn->pp == 3 ? 0xf2 : 0;
	op->vvvv = insn->vvvv;
}

/* Where W says how much of a general register counts it says so in 64-bit mode alone. */
static unsigned encode(const struct x86_insn *insn, uint8_t buf[SLOT_BYTES])
{
	const struct x86_host_info *info = x86_host_info(insn);
	uint8_t wide[64] = { 0 }; /* the encoder wants room */
	struct emit e = { .p = wide, .end = wide + sizeof(wide) };
	struct emit_op op = { 0 };

	name_prefix(insn, &op);
	if (info->reg == X86_HOST_GPR)
		op.w = insn->opsize == 8;
	op.reg = info->reg == X86_HOST_NONE ? insn->modrm >> 3 & 7 :
		 info->reg == X86_HOST_GPR  ? H_RAX :
		 info->reg == X86_HOST_MASK ? insn->reg & 7 :
					      insn->reg;
	if (insn->flags & X86_INSN_MEM) {
		op.kind = EMIT_MEM;
		op.rm = H_RCX;
		op.index = H_NONE;
	} else {
		op.kind = EMIT_REG;
		op.rm = info->rm == X86_HOST_GPR ? H_RAX : info->rm == X86_HOST_MASK ? insn->rm & 7 : insn->rm;
	}
	op.imm = insn->imm;
	op.imm_len = x86_rows[insn->row].imm == X86_IMM_IB;
	emit_op(&e, &op);
	emit_byte(&e, 0xc3);
	memset(buf, 0, SLOT_BYTES);
	memcpy(buf, wide, (size_t)(e.p - wide));
	return (unsigned)(e.p - wide);
}

void bt_host_insn_run(struct bt_host_insn *h, struct x86_cpu *cpu, const struct x86_insn *insn,
		      struct x86_host_op *op)
{
	uint8_t bytes[SLOT_BYTES];
	uint64_t key;
	size_t at;

	(void)encode(insn, bytes);
	memcpy(&key, bytes, 8);
	at = (size_t)(key * 0x9e3779b97f4a7c15ull >> (64 - SLOT_BITS)) * SLOT_BYTES;
	if (memcmp(h->code + at, bytes, SLOT_BYTES) != 0) {
		memcpy(h->code + at, bytes, SLOT_BYTES);
		/* Written at another address than fetched from: SDM vol. 3, 12.6. */
		bt_host_serialize();
	}
	bt_host_run(&cpu->s.fpu, op, h->exec + at);
}
