#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
"""gen_vec_stubs.py - host stubs for the SIMD rows of the instruction tables.

usage: gen_vec_stubs.py OUT_S OUT_C TABLE...

A stub loads its operands from memory, runs one host instruction, stores the result and returns:

    uint64_t stub(void *dst, const void *a, const void *b, uint64_t extra)
                  rdi        rsi            rdx            rcx

Stubs are STRIDE bytes apart; an instruction with an immediate has one for each value that matters.
OUT_C tells for each row where its first stub is and which bits of the immediate choose the variant.
A VEX row shares the stub of its legacy twin: operand for operand both compute the same.
"""
import sys

import gen_insns

STRIDE = 32

# How many values of the immediate differ; 256 when not listed.
VARIANTS = {'cmpps': 8, 'cmppd': 8, 'cmpss': 8, 'cmpsd': 8,
            'vcmpps': 32, 'vcmppd': 32, 'vcmpss': 32, 'vcmpsd': 32,
            'roundps': 16, 'roundpd': 16, 'roundss': 16, 'roundsd': 16,
            'sha1rnds4': 4, 'vcvtps2ph': 8,
            'pcmpestri': 128, 'pcmpestrm': 128, 'pcmpistri': 128, 'pcmpistrm': 128}

# Operations whose VEX form is not the legacy one with another source, or which have no legacy form.
VEX_ONLY = {'vcmpps', 'vcmppd', 'vcmpss', 'vcmpsd', 'vpsllvd', 'vpsllvq', 'vpsrlvd', 'vpsrlvq',
            'vpsravd', 'vcvtph2ps', 'vcvtps2ph'}

LOAD_A = 'movups (%rsi), %xmm0'
LOAD_B = 'movups (%rdx), %xmm1'
STORE = 'movups %xmm0, (%rdi)'


def xmm(op, imm):
    return [LOAD_A, LOAD_B, f'{op} {imm}%xmm1, %xmm0', STORE]


def xmm_imm0(op, imm):
    return xmm(op, '$0, ')


def vex(op, imm):
    if op == 'vcvtph2ps':
        return [LOAD_B, 'vcvtph2ps %xmm1, %xmm0', STORE]
    if op == 'vcvtps2ph':
        return [LOAD_B, f'vcvtps2ph {imm}%xmm1, %xmm0', STORE]
    return [LOAD_A, LOAD_B, f'{op} {imm}%xmm1, %xmm0, %xmm0', STORE]


def sha256rnds2(op, imm):
    # a: destination, b: source, extra: address of XMM0's value. Destination in xmm2.
    return ['movups (%rcx), %xmm0', 'movups (%rsi), %xmm2', LOAD_B, f'{op} %xmm0, %xmm1, %xmm2',
            'movups %xmm2, (%rdi)']


def flags(op, imm):
    return [LOAD_A, LOAD_B, f'{op} %xmm1, %xmm0', 'pushf', 'pop %rax']


def from_gpr(op, imm):
    return [LOAD_A, f'{op}l %ecx, %xmm0', STORE]


def from_gpr64(op, imm):
    return [LOAD_A, f'{op}q %rcx, %xmm0', STORE]


def to_gpr(op, imm):
    return [LOAD_B, f'{op} %xmm1, %eax']


def to_gpr64(op, imm):
    return [LOAD_B, f'{op} %xmm1, %rax']


def fma(op, imm):
    # The destination is the third operand: it is loaded first.
    return ['movups (%rdi), %xmm0', 'movups (%rsi), %xmm1', 'movups (%rdx), %xmm2',
            f'{op} %xmm2, %xmm1, %xmm0', STORE]


def pcmpstr(op, imm):
    # rcx: lengths, EAX in the low half and EDX in the high; rax: ECX low, flags high; dst: XMM0.
    load = [LOAD_A, LOAD_B]
    if 'estr' in op:
        load += ['mov %ecx, %eax', 'mov %rcx, %rdx', 'shr $32, %rdx']
    return load + [f'{op} {imm}%xmm1, %xmm0', 'jmp x86_vec_pcmpstr_end']


def mmx(op, imm):
    return ['movq (%rsi), %mm0', 'movq (%rdx), %mm1', f'{op} {imm}%mm1, %mm0', 'movq %mm0, (%rdi)',
            'emms']


def mmx_to_xmm(op, imm):
    return [LOAD_A, 'movq (%rdx), %mm1', f'{op} %mm1, %xmm0', STORE, 'emms']


def xmm_to_mmx(op, imm):
    return [LOAD_B, f'{op} %xmm1, %mm0', 'movq %mm0, (%rdi)', 'emms']


# exec column -> (makers of the variants without immediate, or of each immediate; takes immediate)
KINDS = {
    'vec_op': ([xmm], True), 'vec_op_u': ([xmm], True),
    'vec_shift': ([xmm], False), 'vec_shift_imm': ([xmm], False),
    'vec_pclmulqdq': ([xmm_imm0], False), 'vec_sha256rnds2': ([sha256rnds2], False),
    'vec_pmovx2': ([xmm], False), 'vec_pmovx4': ([xmm], False), 'vec_pmovx8': ([xmm], False),
    'fp_comi4': ([flags], False), 'fp_comi8': ([flags], False),
    'fp_from_gpr': ([from_gpr, from_gpr64], False),
    'fp_to_gpr4': ([to_gpr, to_gpr64], False), 'fp_to_gpr8': ([to_gpr, to_gpr64], False),
    'vec_pcmpestri': ([pcmpstr], True), 'vec_pcmpestrm': ([pcmpstr], True),
    'vec_pcmpistri': ([pcmpstr], True), 'vec_pcmpistrm': ([pcmpstr], True),
    'mmx_op': ([mmx], True), 'mmx_op4': ([mmx], False), 'mmx_shift_imm': ([mmx], False),
    'mmx_cvtpi2ps': ([mmx_to_xmm], False), 'mmx_cvtpi2pd': ([mmx_to_xmm], False),
    'mmx_cvtps2pi': ([xmm_to_mmx], False), 'mmx_cvtpd2pi': ([xmm_to_mmx], False),
}


def kind_of(row):
    if row.exec in KINDS:
        return KINDS[row.exec]
    if row.exec.startswith('fp_fma_'):
        return [fma], False
    if row.exec.startswith('fp_'):
        return [xmm], True
    return None


def plan(rows):
    """Unique stubs in order of first use, and for each row (first stub, mask) or None."""
    stubs, index, uses = [], {}, []
    for r in rows:
        kind = kind_of(r)
        if kind is None:
            uses.append(None)
            continue
        makers, takes_imm = kind
        op = r.name.lower()
        if op in VEX_ONLY:
            makers = [vex]
        elif r.vex and makers != [fma]:
            op = op[1:]
        count = VARIANTS.get(op, 256) if takes_imm and r.imm else 1
        key = (op, makers[0].__name__)
        if key not in index:
            index[key] = len(stubs)
            if count > 1:
                stubs += [(makers[0], op, f'${i}, ') for i in range(count)]
            else:
                stubs += [(m, op, '') for m in makers]
        uses.append((index[key], count - 1))
    return stubs, uses


def emit_s(out, stubs):
    out.write('/* Generated by gen_vec_stubs.py. */\n#include "stubs.h"\n\t.text\n'
              '\t.globl x86_vec_stubs\n\t.hidden x86_vec_stubs\n'
              'x86_vec_pcmpstr_end:\n\tmovups %xmm0, (%rdi)\n\tpushf\n\tpop %rax\n'
              '\tshl $32, %rax\n\tmov %ecx, %ecx\n\tor %rcx, %rax\n\tSTUB_RET\n'
              f'\t.balign {STRIDE}\nx86_vec_stubs:\n')
    for i, (maker, op, imm) in enumerate(stubs):
        # The assembler refuses to go back: a stub longer than its place is an error. Between them is INT3, which
        # disassemblers can read.
        out.write(f'\t.org x86_vec_stubs + {i * STRIDE}, 0xcc\n')
        out.write(''.join(f'\t{text}\n' for text in ['STUB_BEGIN'] + maker(op, imm)))
        if maker is not pcmpstr:
            out.write('\tSTUB_RET\n')
    out.write(f'\t.org x86_vec_stubs + {len(stubs) * STRIDE}, 0xcc\n'
              '\t.section .note.GNU-stack,"",@progbits\n')


def emit_c(out, rows, uses):
    out.write('/* Generated by gen_vec_stubs.py. */\n#include "insns.h"\n#include "vec_stubs.h"\n\n'
              'const struct x86_vec_stub x86_vec_stub_of_row[X86_ROW_COUNT] = {\n')
    for r, use in zip(rows, uses):
        if use:
            out.write(f'\t[{r.enum}] = {{ {use[0]}, {use[1]} }},\n')
    out.write('};\n')


def main():
    rows = gen_insns.read_tables(sys.argv[3:])
    gen_insns.name_rows(rows)
    stubs, uses = plan(rows)
    with open(sys.argv[1], 'w', encoding='utf-8') as out:
        emit_s(out, stubs)
    with open(sys.argv[2], 'w', encoding='utf-8') as out:
        emit_c(out, rows, uses)


if __name__ == '__main__':
    main()
