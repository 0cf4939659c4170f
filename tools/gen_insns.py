#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
"""gen_insns.py - turns the instruction tables of src/x86/ into C tables for the decoder and tests.

usage: gen_insns.py OUT_H OUT_FORMS_C OUT_ROWS_C FEATURES TABLE...

A table row is `MNEMONIC | opcode | operands | exec | feature | attributes`; src/x86/insns_int.tbl
opens with a description of the columns. Each row becomes one enum x86_row and one or more
decoder forms: the exec column may hold {s} (operand size in bytes), {f} (r: register, m: memory,
l: memory with LOCK) and {c} (condition), for each of which the row is multiplied, so that a
handler need not look at what the decoder knew.
"""
import re
import sys

CC = 'o no b ae e ne be a s ns p np l ge le g'.split()
MAPS = {'': 0, '0F': 1, '0F38': 2, '0F3A': 3}

# One-hot groups of the selector word, see struct x86_form in decode_int.h.
PP = {'NP': 1 << 0, '66': 1 << 1, 'F3': 1 << 2, 'F2': 1 << 3}
W0, W1 = 1 << 4, 1 << 5
L0, L1 = 1 << 6, 1 << 7
MODE_OTHER, MODE_64 = 1 << 8, 1 << 9
MOD_MEM, MOD_REG = 1 << 10, 1 << 11
OPSIZE = {'v': {2: 1 << 12, 4: 1 << 13, 8: 1 << 14},
          'd64': {2: 1 << 24, 4: 1 << 25, 8: 1 << 26},
          'f64': {2: 1 << 27, 4: 1 << 28, 8: 1 << 29},
          'y': {4: 1 << 30, 8: 1 << 31}}
ADSIZE = {2: 1 << 15, 4: 1 << 16, 8: 1 << 17}
NOLOCK, LOCK = 1 << 18, 1 << 19
B0, B1 = 1 << 20, 1 << 21
VVVV_0, VVVV_N = 1 << 22, 1 << 23
# EVEX forms have these in the place of operand sizes.
L2, EVEX_RC, EVEX_BC = 1 << 12, 1 << 13, 1 << 14
EVEX_K, EVEX_KZ = 1 << 24, 1 << 25

IMM = {'ib': 'IB', 'cb': 'IB', 'iw': 'IW', 'iz': 'IZ', 'cz': 'IZ', 'id': 'IZ', 'iv': 'IV',
       'mo': 'MO', 'cp': 'CP', '/is4': 'IB'}
HOW = {'v': 'X86_SIZE_V', 'd64': 'X86_SIZE_D64', 'f64': 'X86_SIZE_F64', 'y': 'X86_SIZE_Y'}
FLAGS = 'CF PF AF ZF SF OF'.split()
ATTRS = {'i64', 'o64', 'd64', 'f64', 'y', 'lock', 'ends', 'mem', 'reg', 'priv', 'vsib', 'byte',
         'b0', 'b1', 'o2', 'o4', 'o8', 'a2', 'a4', 'a8', 'nohost', 'rep'}
EVEX_ATTRS = {'vl', 'k', 'z', 'er', 'nf', 'any', 'fold', 'cpr', 'al'}
MEM = {'b': 'BYTES(1)', 'w': 'BYTES(2)', 'd': 'BYTES(4)', 'q': 'BYTES(8)', 'dq': 'BYTES(16)',
       'qq': 'BYTES(32)', 'zz': 'BYTES(64)', 'x': 'PART(1)', 'x2': 'PART(2)', 'x4': 'PART(4)',
       'x8': 'PART(8)'}
HEX = re.compile(r'^[0-9A-F]{2}$')


class Row:
    def __init__(self, where, text):
        col = [c.strip() for c in text.split('|')]
        if len(col) != 6:
            raise ValueError('six columns wanted')
        self.where = where
        self.name, self.opcode_text, self.operands_text, self.exec, self.feature, attrs = col
        self.operands = [o.strip() for o in self.operands_text.split(',') if o.strip() not in ('', '-')]
        self.feature = '' if self.feature == '-' else self.feature
        self.attrs, self.undef, self.align = set(), [], 0
        self.evex_attrs, self.elem, self.bcast = set(), 0, 0
        for a in attrs.split():
            if a == '-':
                continue
            if a.startswith('undef='):
                self.undef = a[6:].split(',')
            elif a.startswith('align='):
                self.align = int(a[6:])
            elif a.startswith('elem='):
                self.elem = int(a[5:])
            elif a.startswith('bc='):
                self.bcast = int(a[3:])
            elif a in EVEX_ATTRS:
                self.evex_attrs.add(a)
            elif a in ATTRS:
                self.attrs.add(a)
            else:
                raise ValueError(f'unknown attribute {a}')
        self.allowed = 0xffffffff
        self.vex = 0  # 1: VEX, 2: EVEX
        self.map = 0
        self.modrm = False
        self.modrm_mask = self.modrm_value = 0
        self.imm = []
        self.plus = ''
        self.parse_opcode()
        self.constrain()

    def only(self, group, keep):
        self.allowed &= ~(group & ~keep)

    def only_pp(self, names):
        self.only(0xf, sum(PP[n] for n in names))

    def parse_evex(self, token):
        lengths = {'128': L0, '256': L1, '512': L2}
        have = [lengths[p] for p in token.split('.') if p in lengths]
        if have:
            self.only(L0 | L1 | L2, sum(have))
        self.parse_vex('.'.join(p for p in token.split('.') if p not in lengths))
        self.vex = 2
        if 'k' not in self.evex_attrs:
            self.only(EVEX_K | EVEX_KZ, 0)
        elif 'z' not in self.evex_attrs:
            self.only(EVEX_KZ, 0)
        if not self.bcast:
            self.only(EVEX_BC, 0)
        if 'er' not in self.evex_attrs:
            self.only(EVEX_RC, 0)

    def parse_vex(self, token):
        for part in token.split('.')[1:]:
            if part in ('128', 'L0', 'LZ'):
                self.only(L0 | L1, L0)
            elif part in ('256', 'L1'):
                self.only(L0 | L1, L1)
            elif part in PP:
                self.only_pp([part])
            elif part in ('0F', '0F38', '0F3A'):
                self.map = MAPS[part]
            elif part == 'W0':
                self.only(W0 | W1, W0)
            elif part == 'W1':
                self.only(W0 | W1, W1)
            elif part not in ('LIG', 'WIG', 'NDS', 'NDD', 'DDS'):
                raise ValueError(f'unknown VEX part {part}')
        self.vex = 1

    def parse_opcode(self):
        tok = self.opcode_text.split()
        while len(tok) > 1:
            if tok[0].startswith('VEX.'):
                self.parse_vex(tok.pop(0))
                break
            elif tok[0].startswith('EVEX.'):
                self.parse_evex(tok.pop(0))
                break
            elif tok[0] == 'NFx':
                self.only_pp(['NP', '66'])
                tok.pop(0)
            elif tok[0] in PP:
                self.only_pp([tok.pop(0)])
            elif tok[0] in ('REX.W', 'W1'):
                self.only(W0 | W1, W1)
                tok.pop(0)
            elif tok[0] == 'W0':
                self.only(W0 | W1, W0)
                tok.pop(0)
            else:
                break
        if not self.vex and tok[0] == '0F' and len(tok) > 1:
            tok.pop(0)
            self.map = 1
            if tok[0] in ('38', '3A') and len(tok) > 1:
                self.map = 2 if tok.pop(0) == '38' else 3
        base, _, self.plus = tok.pop(0).partition('+')
        self.opcode = int(base, 16)
        for t in tok:
            byte, _, plus = t.partition('+')
            if t == '/r':
                self.modrm = True
            elif re.match(r'^/[0-7]$', t):
                self.modrm = True
                self.modrm_mask, self.modrm_value = 0x38, int(t[1]) << 3
            elif HEX.match(byte):
                self.modrm = True
                self.modrm_mask = 0xf8 if plus else 0xff
                self.modrm_value = int(byte, 16)
                self.only(MOD_MEM | MOD_REG, MOD_REG)
            elif t in IMM:
                self.imm.append(t)
            else:
                raise ValueError(f'unknown opcode part {t}')

    def constrain(self):
        a = self.attrs
        letters = {o[0] for o in self.operands if o[0].isupper() and len(o) <= 3}
        if 'i64' in a:
            self.only(MODE_OTHER | MODE_64, MODE_OTHER)
        if 'o64' in a:
            self.only(MODE_OTHER | MODE_64, MODE_64)
        if self.modrm and ('mem' in a or 'M' in letters):
            self.only(MOD_MEM | MOD_REG, MOD_MEM)
        if self.modrm and ('reg' in a or letters & {'U', 'N', 'R'}):
            self.only(MOD_MEM | MOD_REG, MOD_REG)
        if 'b0' in a:
            self.only(B0 | B1, B0)
        if 'b1' in a:
            self.only(B0 | B1, B1)
        for n in (2, 4, 8):
            if f'a{n}' in a:
                self.only(sum(ADSIZE.values()), ADSIZE[n])
        if self.vex and not letters & {'H', 'B'}:
            self.only(VVVV_0 | VVVV_N, VVVV_0)
        if 'lock' not in a:
            self.only(NOLOCK | LOCK, NOLOCK)
        self.group = 'v'
        for g in ('d64', 'f64', 'y'):
            if g in a:
                self.group = g
        if any(re.match(r'^[EGMRBV]y$', o) for o in self.operands):
            self.group = 'y'
        first = self.operands[0] if self.operands else ''
        self.byte = 'byte' in a or first == 'AL' or bool(re.match(r'^[EGZXYO]b$', first))
        self.sizes = [n for n in (2, 4, 8) if f'o{n}' in a] or list(OPSIZE[self.group])
        if any(f'o{n}' in a for n in (2, 4, 8)):
            self.only(sum(OPSIZE[self.group].values()), sum(OPSIZE[self.group][n] for n in self.sizes))

    def host_info(self):
        """The initializer of struct x86_host_info: what each field names, and the memory operand."""
        kinds = {'V': 'VEC', 'H': 'VEC', 'W': 'VEC', 'U': 'VEC', 'E': 'GPR', 'R': 'GPR', 'G': 'GPR'}
        field = {'reg': 'NONE', 'rm': 'NONE', 'vvvv': 'NONE'}
        mem, flags = 'X86_HOST_BYTES(0)', {a.upper() for a in self.evex_attrs - {'k', 'z'}}
        for i, o in enumerate(self.operands):
            name = {'V': 'reg', 'K': 'reg', 'G': 'reg', 'H': 'vvvv'}.get(o[0], 'rm')
            if o == 'Ib':
                continue
            if o[0] != 'M':
                mask = o[1:] == 'k' or o[0] == 'K' or self.name.startswith('KMOV') and o[0] == 'W'
                field[name] = 'MASK' if mask else kinds[o[0]]
            if o[0] in 'MWE' and o[1:] != 'y':
                mem = f'X86_HOST_{MEM[o[1:]]}'
            if o[0] in 'MWEUR' and i == 0:
                flags.add('STORE')
        bits = ' | '.join('X86_HOST_' + f for f in sorted(flags)) or '0'
        return (f'{{ X86_HOST_{field["reg"]}, X86_HOST_{field["rm"]}, X86_HOST_{field["vvvv"]}, {mem}, '
                f'{self.elem}, {self.bcast}, {bits} }}')

    def imm_kind(self):
        if self.imm == ['iw', 'ib']:
            return 'IWIB'
        if len(self.imm) > 1:
            raise ValueError('unknown pair of immediates')
        return IMM[self.imm[0]] if self.imm else 'NONE'

    def forms(self):
        """(map, opcode, allowed, exec) for each decoder form."""
        ops = [(self.opcode, '')]
        if self.plus == 'cc':
            ops = [(self.opcode + i, CC[i]) for i in range(16)]
        elif self.plus:
            ops = [(self.opcode + i, '') for i in range(8)]
        sizes = self.sizes if '{s}' in self.exec else [None]
        kinds = []
        if '{f}' in self.exec:
            if self.allowed & MOD_REG:
                kinds.append(('r', ~(MOD_MEM | LOCK)))
            if self.allowed & MOD_MEM:
                kinds.append(('m', ~(MOD_REG | LOCK)))
            if 'lock' in self.attrs:
                kinds.append(('l', ~(MOD_REG | NOLOCK)))
        else:
            kinds.append(('', ~MOD_REG | MOD_REG))
        group = sum(OPSIZE[self.group].values())
        for opcode, cond in ops:
            for size in sizes:
                for kind, keep in kinds:
                    allowed = self.allowed & keep & 0xffffffff
                    if size is not None:
                        allowed &= ~(group & ~OPSIZE[self.group][size])
                    # LOCK needs memory whatever the row says: SDM vol. 2, LOCK.
                    name = self.exec.format(s=size, f=kind, c=cond)
                    yield opcode, allowed, name


def read_tables(paths):
    rows = []
    for path in paths:
        with open(path, encoding='utf-8') as f:
            for n, line in enumerate(f, 1):
                text = line.split('#', 1)[0].strip()
                if not text:
                    continue
                try:
                    rows.append(Row(f'{path}:{n}', text))
                except (ValueError, KeyError, IndexError) as e:
                    sys.exit(f'{path}:{n}: {e}: {text}')
    return rows


def read_features(path):
    table = {}
    with open(path, encoding='utf-8') as f:
        for line in f:
            word = line.split('#', 1)[0].split()
            if word:
                table[word[0]] = word[1:]
    return table


def name_rows(rows):
    seen = {}
    for r in rows:
        base = re.sub(r'[^A-Z0-9a-z]+', '_', f'{r.name}_{r.opcode_text}').strip('_')
        seen[base] = seen.get(base, 0) + 1
        r.enum = 'X86_ROW_' + base + (f'_{seen[base]}' if seen[base] > 1 else '')


def collect(rows):
    """(vex, map, opcode) -> forms, the most constrained first."""
    table = {}
    for i, r in enumerate(rows):
        for opcode, allowed, name in r.forms():
            forbid = ~allowed & 0xffffffff
            # By what the row asks for; what {s} and {f} add says nothing about the row.
            weight = bin(~r.allowed & 0xffffffff).count('1') + bin(r.modrm_mask).count('1')
            table.setdefault((r.vex, r.map, opcode), []).append((-weight, i, forbid, name, r))
    for key, forms in table.items():
        forms.sort(key=lambda f: f[:2])
        if len({f[4].modrm for f in forms}) > 1:
            sys.exit(f'{forms[0][4].where}: forms of opcode {key} disagree about ModRM')
    return table


def first_host(rows):
    """The rows from this one on have struct x86_host_info."""
    host = [r.exec in ('host', 'evex', 'gather', 'scatter') for r in rows]
    if sum(host) != len(host) - host.index(True):
        sys.exit('rows for the host to execute must come last')
    return host.index(True)


def emit_header(out, rows, features, handlers):
    out.write('/* Generated by gen_insns.py. */\n#pragma once\n\n#include "insn.h"\n\n')
    out.write('enum x86_row {\n' + ''.join(f'\t{r.enum},\n' for r in rows) + '\tX86_ROW_COUNT\n};\n\n')
    out.write(f'/* These are for the host to execute: x86_host_info() is for them. */\n'
              f'#define X86_ROW_HOST_FIRST {first_host(rows)}u\n\n')
    out.write('enum x86_feature {\n\tX86_FEATURE_NONE,\n')
    out.write(''.join(f'\tX86_FEATURE_{f},\n' for f in features) + '\tX86_FEATURE_COUNT\n};\n\n')
    for h in handlers:
        out.write(f'int x86_op_{h}(struct x86_cpu *cpu, const struct x86_insn *insn);\n')


def emit_forms(out, rows, table, features, where):
    out.write('/* Generated by gen_insns.py. */\n#include "decode_int.h"\n#include "insns.h"\n\n')
    out.write('const struct x86_feature_bit x86_feature_bits[] = {\n')
    for f in features:
        if f not in where:
            sys.exit(f'feature {f} is not in the feature table')
        leaf, subleaf, reg, bit = where[f]
        out.write(f'\t[X86_FEATURE_{f}] = {{ {leaf}, {subleaf}, '
                  f'{["eax", "ebx", "ecx", "edx"].index(reg)}, {bit} }},\n')
    out.write('};\n\n')
    out.write('const struct x86_form x86_forms[] = {\n')
    place, n = {}, 0
    for key in sorted(table):
        place[key] = (n, len(table[key]))
        for _, _, forbid, name, r in table[key]:
            how = [HOW[r.group]]
            if r.byte:
                how.append('X86_HOW_BYTE')
            if 'ends' in r.attrs:
                how.append('X86_HOW_ENDS')
            if 'vsib' in r.attrs:
                how.append('X86_HOW_VSIB')
            feat = f'X86_FEATURE_{r.feature or "NONE"}'
            out.write(f'\t{{ x86_op_{name}, {forbid:#x}u, {r.enum}, {r.modrm_mask:#x}, '
                      f'{r.modrm_value:#x}, X86_IMM_{r.imm_kind()}, {" | ".join(how)}, {feat} }},\n')
            n += 1
    out.write('};\n\nconst struct x86_map_entry x86_maps[3][4][256] = {\n')
    for vex in range(3):
        for m in range(4):
            for op in range(256):
                if (vex, m, op) in place:
                    first, count = place[(vex, m, op)]
                    modrm = int(table[(vex, m, op)][0][4].modrm)
                    out.write(f'\t[{vex}][{m}][{op:#x}] = {{ {first}, {count}, {modrm} }},\n')
    out.write('};\n\n')
    out.write('const struct x86_host_info x86_host_infos[] = {\n')
    for r in rows[first_host(rows):]:
        out.write(f'\t{r.host_info()},\n')
    out.write('};\n')


def emit_rows(out, rows):
    out.write('/* Generated by gen_insns.py. */\n#include "rows.h"\n\n')
    out.write('const struct x86_row_info x86_rows[X86_ROW_COUNT] = {\n')
    for r in rows:
        undef = ' | '.join(f'X86_FL_{f}' for f in r.undef) or '0'
        attrs = ' | '.join('X86_ROW_ATTR_' + a.upper() for a in sorted(r.attrs)) or '0'
        ops = ', '.join(f'"{o}"' for o in r.operands[:4])
        plus = {'': 'X86_PLUS_NONE', 'cc': 'X86_PLUS_CC'}.get(r.plus, 'X86_PLUS_REG')
        out.write(f'\t[{r.enum}] = {{ .name = "{r.name}", .opcode_text = "{r.opcode_text}", '
                  f'.operand = {{ {ops} }}, .exec = "{r.exec}",\n'
                  f'\t\t.forbid = {~r.allowed & 0xffffffff:#x}u, .attrs = {attrs}, .undef = {undef}, '
                  f'.vex = {r.vex}, .map = {r.map}, .opcode = {r.opcode:#x}, .plus = {plus}, '
                  f'.modrm = {int(r.modrm)}, .modrm_mask = {r.modrm_mask:#x}, '
                  f'.modrm_value = {r.modrm_value:#x}, .imm = X86_IMM_{r.imm_kind()}, '
                  f'.size = {HOW[r.group]}, .byte = {int(r.byte)}, '
                  f'.align = {r.align}, .feature = X86_FEATURE_{r.feature or "NONE"} }},\n')
    out.write('};\n')


def main():
    out_h, out_forms, out_rows = sys.argv[1:4]
    where = read_features(sys.argv[4])
    rows = read_tables(sys.argv[5:])
    name_rows(rows)
    table = collect(rows)
    features = sorted(where)
    handlers = sorted({name for r in rows for _, _, name in r.forms()} | {'ud'})
    with open(out_h, 'w', encoding='utf-8') as out:
        emit_header(out, rows, features, handlers)
    with open(out_forms, 'w', encoding='utf-8') as out:
        emit_forms(out, rows, table, features, where)
    with open(out_rows, 'w', encoding='utf-8') as out:
        emit_rows(out, rows)


if __name__ == '__main__':
    main()
