// SPDX-License-Identifier: Apache-2.0
/*
 * seq_gen.c - programs at random: instructions of gen.c, their pointers set up by moves in front of them,
 * with branches, loops, calls and stores into the program's own code.
 *
 * Flags that the manual leaves undefined must not be seen: behind an instruction that does so stands
 * a CMP. (AF behind AND, OR, XOR, TEST is 0 on every processor, and stays.)
 */
#include "rng.h"
#include "seq.h"

#include "x86/x86.h"

#include <string.h>

/* Loop counters and other words of the generator's own, where no operand is aimed at. */
#define CELLS	  (DATA_BASE + 0x300)
#define N_CELLS	  16u
#define MAX_DEPTH 2u

struct seq_gen {
	struct rng rng;
	struct seq_program *p;
	const struct oracle_options *options;
	const struct seq_rows *rows;
	uint64_t cases; /* number of the next case of gen.c */
	unsigned cells, depth;
	int calls[8]; /* items that call, their targets to come */
	unsigned n_calls;
};

/* ---- items ---- */

static struct seq_item *add(struct seq_gen *g, const void *bytes, unsigned len)
{
	struct seq_item *item;

	if (g->p->n_items >= SEQ_ITEMS - 1)
		return NULL;
	item = &g->p->item[g->p->n_items++];
	memset(item, 0, sizeof(*item));
	item->target = -1;
	item->len = (uint8_t)len;
	memcpy(item->bytes, bytes, len);
	return item;
}

static struct seq_item *add_jump(struct seq_gen *g, const void *bytes, unsigned len,
				 enum seq_reloc reloc, int target)
{
	struct seq_item *item = add(g, bytes, len);

	if (item) {
		item->reloc = (uint8_t)reloc;
		item->reloc_at = (uint8_t)(len - (reloc == SEQ_REL8 ? 1 : 4));
		item->target = (int16_t)target;
	}
	return item;
}

/* opcode /reg imm32-of-@imm_len [absolute address]; for both sizes of code. */
static struct seq_item *add_absolute(struct seq_gen *g, const void *opcode, unsigned opcode_len,
				     unsigned reg, uint32_t address, const void *imm, unsigned imm_len)
{
	uint8_t b[15];
	unsigned n = opcode_len;
	struct seq_item *item;

	memcpy(b, opcode, n);
	if (g->p->bits == 64) {
		b[n++] = (uint8_t)(reg << 3 | 4);
		b[n++] = 0x25;
	} else {
		b[n++] = (uint8_t)(reg << 3 | 5);
	}
	memcpy(b + n, &address, 4);
	n += 4;
	if (imm_len)
		memcpy(b + n, imm, imm_len);
	item = add(g, b, n + imm_len);
	if (item)
		item->reloc_at = (uint8_t)(n - 4);
	return item;
}

static void add_mov_imm(struct seq_gen *g, unsigned reg, uint64_t v)
{
	uint8_t b[10];

	if (g->p->bits == 32 && reg > 7)
		return;
	if (g->p->bits == 64 && v >> 32) {
		b[0] = (uint8_t)(0x48 | reg >> 3);
		b[1] = (uint8_t)(0xb8 | (reg & 7));
		memcpy(b + 2, &v, 8);
		add(g, b, 10);
		return;
	}
	b[0] = 0x41;
	b[1] = (uint8_t)(0xb8 | (reg & 7));
	memcpy(b + 2, &v, 4);
	add(g, b + (reg < 8), 6 - (reg < 8));
}

static unsigned any_register(struct seq_gen *g)
{
	unsigned r;

	do {
		r = rng_below(&g->rng, 8);
	} while (r == X86_RSP);
	return r;
}

/* CMP defines all six flags. */
static void add_cmp(struct seq_gen *g)
{
	const uint8_t b[3] = { 0x83, (uint8_t)(0xf8 | any_register(g)), (uint8_t)rng_next(&g->rng) };

	add(g, b, 3);
}

/* ---- an instruction of gen.c ---- */

static bool names(const struct oracle_case *c, const char *part)
{
	return strstr(x86_rows[c->row].name, part) != NULL;
}

static void set_pointers(struct seq_gen *g, const struct oracle_case *c,
			 const struct x86_insn *insn)
{
	if (insn->flags & X86_INSN_MEM) {
		if (insn->base < 16)
			add_mov_imm(g, insn->base, c->in.gpr[insn->base]);
		if (insn->index < 16)
			add_mov_imm(g, insn->index, c->in.gpr[insn->index]);
		if (names(c, "BT") && insn->reg != insn->base && insn->reg != insn->index)
			add_mov_imm(g, insn->reg & 15, c->in.gpr[insn->reg & 15]);
	}
	if (x86_rows[c->row].attrs & X86_ROW_ATTR_REP) {
		add_mov_imm(g, X86_RSI, c->in.gpr[X86_RSI]);
		add_mov_imm(g, X86_RDI, c->in.gpr[X86_RDI]);
		add_mov_imm(g, X86_RCX, c->in.gpr[X86_RCX]);
	}
	if (names(c, "XLAT"))
		add_mov_imm(g, X86_RBX, c->in.gpr[X86_RBX]);
	if ((names(c, "PUSH") || names(c, "POP") || names(c, "ENTER") || names(c, "RET")) &&
	    rng_chance(&g->rng, 40))
		add_mov_imm(g, X86_RSP, c->in.gpr[X86_RSP]);
	if (names(c, "LEAVE") || names(c, "ENTER"))
		add_mov_imm(g, X86_RBP, c->in.gpr[X86_RBP]);
}

/* RIP-relative operands were aimed from where the case stood. */
static void move_riprel(struct seq_item *item, const struct oracle_case *c,
			const struct x86_insn *insn)
{
	uint64_t target = c->in.rip + insn->len + (uint64_t)(int64_t)insn->disp - CODE_BASE;

	for (unsigned i = 1; i + 4 <= insn->len; i++)
		if (memcmp(item->bytes + i, &insn->disp, 4) == 0) {
			item->reloc = SEQ_REL32;
			item->reloc_at = (uint8_t)i;
			item->target = -1; /* the code's start */
			memcpy(item->bytes + i, &(uint32_t){ (uint32_t)target }, 4);
			return;
		}
}

static void add_case(struct seq_gen *g, const uint16_t *rows, unsigned n_rows)
{
	struct oracle_options options = *g->options;
	struct oracle_case c;
	struct x86_insn insn;
	struct seq_item *item;
	int len;

	options.bits = g->p->bits;
	oracle_generate(&c, g->cases++, &options, rows, n_rows);
	len = c.bits == g->p->bits ? x86_decode(c.code, 15, c.bits / 8, &insn) : 0;
	if (len <= 0 || x86_rows[insn.row].attrs & (X86_ROW_ATTR_NOHOST | X86_ROW_ATTR_PRIV))
		return;
	if (rng_chance(&g->rng, 92))
		set_pointers(g, &c, &insn);
	item = add(g, c.code, (unsigned)len);
	if (item && insn.flags & X86_INSN_RIPREL)
		move_riprel(item, &c, &insn);
	if (x86_rows[insn.row].undef & ~X86_FL_AF)
		add_cmp(g);
}

/* ---- what only sequences have ---- */

static void add_patchable(struct seq_gen *g)
{
	uint8_t b[6] = { 0x81, (uint8_t)(0xc0 | rng_below(&g->rng, 8) << 3 | any_register(g)) };
	uint32_t imm = (uint32_t)rng_next(&g->rng);
	struct seq_item *item;

	memcpy(b + 2, &imm, 4);
	item = add(g, b, 6);
	if (item)
		item->patchable = true;
}

/* Forward, over a few items; which there have to be. */
static void add_branch(struct seq_gen *g)
{
	int target = (int)(g->p->n_items + 2 + rng_below(&g->rng, 6));
	uint8_t b[6] = { 0x0f };

	switch (rng_below(&g->rng, 6)) {
	case 0:
		add_jump(g, "\xe9\0\0\0", 5, SEQ_REL32, target);
		return;
	case 1: /* JRCXZ: CX half the time zero */
		if (rng_chance(&g->rng, 50))
			add_mov_imm(g, X86_RCX, 0);
		add_jump(g, "\xe3", 2, SEQ_REL8, (int)g->p->n_items + 2);
		return;
	case 2:
		b[0] = (uint8_t)(0x70 | rng_below(&g->rng, 16));
		add_jump(g, b, 2, SEQ_REL8, (int)g->p->n_items + 2 + (int)rng_below(&g->rng, 3));
		return;
	default:
		b[1] = (uint8_t)(0x80 | rng_below(&g->rng, 16));
		add_jump(g, b, 6, SEQ_REL32, target);
	}
}

/* MOV r32, imm32; then a jump or call by the register or by memory. */
static void add_indirect(struct seq_gen *g, bool call)
{
	unsigned reg = any_register(g);
	uint32_t cell = (uint32_t)(CELLS + 8 * (N_CELLS + rng_below(&g->rng, 4)));
	const uint8_t mov[5] = { (uint8_t)(0xb8 | reg) };
	const uint8_t jump[2] = { 0xff, (uint8_t)((call ? 0xd0 : 0xe0) | reg) };
	const uint8_t store[2] = { 0x48, 0x89 };
	struct seq_item *item = add_jump(g, mov, 5, SEQ_ABS32, (int)g->p->n_items + 3);

	if (!item)
		return;
	if (call)
		g->calls[g->n_calls++] = (int)(item - g->p->item);
	if (rng_chance(&g->rng, 60)) {
		item->target = (int16_t)(g->p->n_items + 1 + rng_below(&g->rng, 3));
		add(g, jump, 2);
		return;
	}
	add_absolute(g, store + (g->p->bits == 32), g->p->bits == 32 ? 1 : 2, reg, cell, NULL, 0);
	add_absolute(g, "\xff", 1, call ? 2 : 4, cell, NULL, 0);
}

static void add_call(struct seq_gen *g)
{
	if (g->n_calls >= sizeof(g->calls) / sizeof(g->calls[0]))
		return;
	add_mov_imm(g, X86_RSP, DATA_BASE + 0xc00 + rng_below(&g->rng, 64) * 8);
	if (rng_chance(&g->rng, 30)) {
		add_indirect(g, true);
		return;
	}
	if (add_jump(g, "\xe8\0\0\0", 5, SEQ_REL32, -1))
		g->calls[g->n_calls++] = (int)g->p->n_items - 1;
}

/*
 * A store to an instruction that is chosen when all are there: target -2. It does not become one that
 * reads flags (ADC, SBB): the translator may have lost those that nobody was to read.
 */
static void add_patch(struct seq_gen *g)
{
	static const uint8_t operations[] = { 0, 1, 4, 5, 6, 7 };
	uint64_t random = rng_next(&g->rng);
	struct seq_item *item;
	int addend = 2;

	switch (rng_below(&g->rng, 8)) {
	case 0: /* another operation, another register */
		random = 0xc0 | (unsigned)operations[random % sizeof(operations)] << 3 | any_register(g);
		item = add_absolute(g, "\xc6", 1, 0, 0, &random, 1);
		addend = 1;
		break;
	case 1:
		addend = 2 + (int)rng_below(&g->rng, 4);
		item = add_absolute(g, "\xc6", 1, 0, 0, &random, 1);
		break;
	case 2: /* read, modify, write */
		item = add_absolute(g, "\xff", 1, rng_below(&g->rng, 2), 0, NULL, 0);
		break;
	case 3:
		item = add_absolute(g, "\xf0\x81", 2, 0, 0, &random, 4);
		break;
	case 4:
		add_mov_imm(g, X86_RDX, random & 0xffffffff);
		item = add_absolute(g, "\x87", 1, X86_RDX, 0, NULL, 0);
		break;
	case 5:
		item = add_absolute(g, "\x66\x0f\x7e", 3, 0, 0, NULL, 0); /* MOVD from XMM0 */
		break;
	case 6:
		if (rng_chance(&g->rng, 20)) { /* the program ends there */
			item = add_absolute(g, "\xc6", 1, 0, 0, "\xcc", 1);
			addend = 0;
			break;
		}
		/* fall through */
	default:
		item = add_absolute(g, "\xc7", 1, 0, 0, &random, 4);
		break;
	}
	if (item) {
		item->reloc = SEQ_ABS32;
		item->target = -2;
		item->addend = (int16_t)addend;
	}
}

static void add_mxcsr(struct seq_gen *g)
{
	uint32_t cell = (uint32_t)(CELLS + 8 * (N_CELLS + 4));
	uint32_t v = 0x1f80 | (rng_chance(&g->rng, 50) ? 0 : rng_below(&g->rng, 8) << 13);

	add_absolute(g, "\xc7", 1, 0, cell, &v, 4);
	add_absolute(g, "\x0f\xae", 2, 2, cell, NULL, 0);
}

/* ---- a run of accesses off one register ---- */

struct access {
	uint8_t prefix, map, opcode;
	int8_t digit; /* ModRM.reg, or -1: a register */
	uint8_t imm;
};

static const struct access accesses[] = {
	{ 0, 0, 0x8b, -1, 0 },	  { 0, 0, 0x89, -1, 0 },    { 0, 0, 0x8b, -1, 0 },
	{ 0, 0, 0x89, -1, 0 },	  { 0, 0, 0x8a, -1, 0 },    { 0, 0, 0x88, -1, 0 },
	{ 0x66, 0, 0x8b, -1, 0 }, { 0x66, 0, 0x89, -1, 0 }, { 0, 0, 0x01, -1, 0 },
	{ 0, 0, 0x03, -1, 0 },	  { 0, 0, 0x39, -1, 0 },    { 0, 0, 0x3b, -1, 0 },
	{ 0, 0, 0x11, -1, 0 },	  { 0, 0, 0x1b, -1, 0 },    { 0, 0, 0xc7, 0, 4 },
	{ 0, 0, 0xc6, 0, 1 },	  { 0, 0, 0xff, 0, 0 },	    { 0, 0, 0xff, 1, 0 },
	{ 0, 0, 0x83, 7, 1 },	  { 0, 0, 0xf7, 2, 0 },	    { 0, 1, 0xb6, -1, 0 },
	{ 0, 1, 0xbf, -1, 0 },	  { 0, 1, 0x94, 0, 0 },	    { 0, 1, 0x42, -1, 0 },
	{ 0, 1, 0x10, -1, 0 },	  { 0, 1, 0x11, -1, 0 },    { 0x66, 1, 0x6f, -1, 0 },
	{ 0x66, 1, 0x7f, -1, 0 }, { 0xf3, 1, 0x7e, -1, 0 }, { 0x66, 1, 0xd6, -1, 0 },
	{ 0xf2, 1, 0x58, -1, 0 }, { 0xf0, 0, 0x01, -1, 0 }, { 0, 0, 0x87, -1, 0 },
	{ 0, 0, 0xff, 6, 0 },	  { 0, 0, 0x8f, 0, 0 },
};

static void add_access(struct seq_gen *g, unsigned base)
{
	const struct access *a = &accesses[rng_below(&g->rng, sizeof(accesses) / sizeof(accesses[0]))];
	unsigned reg = a->digit >= 0 ? (unsigned)a->digit : rng_below(&g->rng, 16), n = 0;
	bool wide = rng_chance(&g->rng, 50);
	uint64_t random = rng_next(&g->rng);
	uint8_t b[16];

	if (a->prefix)
		b[n++] = a->prefix;
	if (a->digit < 0 && (reg & 7) == (base & 7) && rng_chance(&g->rng, 80))
		reg ^= 1;
	if (g->p->bits == 64 && (wide || reg > 7 || base > 7))
		b[n++] = (uint8_t)(0x40 | (wide ? 8 : 0) | (reg >> 3) << 2 | base >> 3);
	if (a->map)
		b[n++] = 0x0f;
	b[n++] = a->opcode;
	b[n++] = (uint8_t)(0x40 | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == 4)
		b[n++] = 0x24;
	b[n++] = (uint8_t)((random >> 32) % 96 - 32);
	memcpy(b + n, &random, a->imm);
	add(g, b, n + a->imm);
}

/* Near the end of a page, behind which there is another, or nothing; or in a read-only one. */
static uint64_t run_pointer(struct seq_gen *g)
{
	switch (rng_below(&g->rng, 8)) {
	case 0:
		return DATA_BASE + DATA_SIZE - rng_below(&g->rng, 120);
	case 1:
		return DATA_BASE + rng_below(&g->rng, 80);
	case 2:
		return CONST_BASE + rng_below(&g->rng, 0xf00);
	case 3:
	case 4:
		return DATA_BASE + 0x1000 - rng_below(&g->rng, 96);
	default:
		return DATA_BASE + 0x400 + rng_below(&g->rng, 0x1b00);
	}
}

static void add_run(struct seq_gen *g)
{
	unsigned base = rng_below(&g->rng, g->p->bits == 64 ? 16 : 8);
	uint8_t b[3] = { 0x83, 0, (uint8_t)(rng_below(&g->rng, 64) - 32) };

	add_mov_imm(g, base, run_pointer(g));
	for (unsigned n = 2 + rng_below(&g->rng, 9); n-- > 0;) {
		switch (rng_below(&g->rng, 16)) {
		case 0: /* the pointer moves on, or something else does */
			b[1] = (uint8_t)(0xc0 | (base & 7));
			add(g, b, 3);
			break;
		case 1:
			add_cmp(g);
			break;
		case 2: /* PUSH, POP */
		case 3:
			b[1] = (uint8_t)(0x50 | rng_below(&g->rng, 16));
			if ((b[1] & 7) != X86_RSP)
				add(g, b + 1, 1);
			break;
		default:
			add_access(g, base);
		}
	}
}

static void add_group(struct seq_gen *g);

static void add_loop(struct seq_gen *g)
{
	uint32_t cell = (uint32_t)(CELLS + 8 * g->cells), n = 1 + rng_below(&g->rng, 12);
	int first;

	if (g->depth >= MAX_DEPTH || g->cells >= N_CELLS)
		return;
	g->cells++;
	g->depth++;
	add_absolute(g, "\xc7", 1, 0, cell, &n, 4);
	first = (int)g->p->n_items;
	for (unsigned i = 1 + rng_below(&g->rng, 5); i-- > 0;)
		add_group(g);
	g->depth--;
	if (rng_chance(&g->rng, 50))
		add_absolute(g, "\xff", 1, 1, cell, NULL, 0); /* DEC */
	else
		add_absolute(g, "\x83", 1, 5, cell, "\1", 1); /* SUB */
	add_jump(g, "\x0f\x85\0\0\0", 6, SEQ_REL32, first);
}

static void add_group(struct seq_gen *g)
{
	const struct seq_rows *rows = g->rows;
	unsigned kind = rng_below(&g->rng, 100);

	if (kind < 32)
		add_case(g, rows->integer, rows->n_integer);
	else if (kind < 50)
		add_case(g, rows->all, rows->n_all);
	else if (kind < 58)
		add_run(g);
	else if (kind < 59)
		add_case(g, rows->branch, rows->n_branch);
	else if (kind < 72)
		add_branch(g);
	else if (kind < 75)
		add_indirect(g, false);
	else if (kind < 82)
		add_loop(g);
	else if (kind < 86)
		add_call(g);
	else if (kind < 91)
		add_patch(g);
	else if (kind < 93)
		add_mxcsr(g);
	else
		add_patchable(g);
}

static void add_functions(struct seq_gen *g)
{
	for (unsigned i = 0; i < g->n_calls; i++) {
		g->p->item[g->calls[i]].target = (int16_t)g->p->n_items;
		for (unsigned n = 1 + rng_below(&g->rng, 4); n-- > 0;)
			add_group(g);
		if (rng_chance(&g->rng, 85))
			add(g, "\xc3", 1);
		else
			add(g, "\xc2\x08", 3);
	}
}

static void choose_patched(struct seq_gen *g)
{
	struct seq_program *p = g->p;
	int16_t found[SEQ_ITEMS];
	unsigned n = 0;

	for (unsigned i = 0; i < p->n_items; i++)
		if (p->item[i].patchable)
			found[n++] = (int16_t)i;
	for (unsigned i = 0; i < p->n_items; i++) {
		if (p->item[i].target == -2 && n)
			p->item[i].target = found[rng_below(&g->rng, n)];
		else if (p->item[i].target == -2)
			seq_remove(p, i);
	}
}

/* ---- layout ---- */

void seq_remove(struct seq_program *p, unsigned i)
{
	struct seq_item *item = &p->item[i];

	memset(item->bytes, 0x90, sizeof(item->bytes));
	item->reloc = SEQ_NONE;
}

static void relocate(struct seq_program *p, struct seq_item *item)
{
	uint32_t next = item->at + item->len, v;
	unsigned t = item->target < 0	  ? 0 :
		     (unsigned)item->target < p->n_items ? (unsigned)item->target :
							   p->n_items - 1;

	switch (item->reloc) {
	case SEQ_REL8:
		v = p->item[t].at - next;
		item->bytes[item->reloc_at] = (int32_t)v == (int8_t)v ? (uint8_t)v : 0;
		break;
	case SEQ_REL32:
		if (item->target < 0) /* what is there is relative to the code's start */
			memcpy(&v, item->bytes + item->reloc_at, 4);
		else
			v = p->item[t].at;
		v -= next;
		memcpy(item->bytes + item->reloc_at, &v, 4);
		if (item->target < 0)
			item->reloc = SEQ_NONE;
		break;
	case SEQ_ABS32:
		v = (uint32_t)CODE_BASE + p->item[t].at + (uint32_t)(int32_t)item->addend;
		memcpy(item->bytes + item->reloc_at, &v, 4);
		break;
	default:
		break;
	}
}

void seq_layout(struct seq_program *p)
{
	uint32_t at = p->start;

	for (unsigned i = 0; i < p->n_items; i++) {
		p->item[i].at = at;
		at += p->item[i].len;
	}
	memset(p->code, 0xcc, sizeof(p->code));
	for (unsigned i = 0; i < p->n_items; i++) {
		relocate(p, &p->item[i]);
		memcpy(p->code + p->item[i].at, p->item[i].bytes, p->item[i].len);
	}
}

int seq_item_at(const struct seq_program *p, uint64_t rip)
{
	for (unsigned i = 0; i < p->n_items; i++)
		if (rip - CODE_BASE - p->item[i].at < p->item[i].len)
			return (int)i;
	return -1;
}

void seq_generate(struct seq_program *p, uint64_t number, const struct oracle_options *options,
		  const struct seq_rows *rows)
{
	struct seq_gen g = { .p = p, .options = options, .rows = rows };
	struct oracle_options any = { .seed = options->seed };
	struct oracle_case c;
	unsigned length = 0;

	rng_seed(&g.rng, options->seed ^ rng_mix(number ^ 0x5e9));
	g.cases = rng_next(&g.rng);
	memset(p, 0, sizeof(*p));
	p->number = number;
	p->bits = options->bits ? (uint8_t)options->bits : rng_chance(&g.rng, 80) ? 64 : 32;
	/* The state is that of some case. */
	any.bits = p->bits;
	do {
		oracle_generate(&c, g.cases++, &any, rows->integer, rows->n_integer);
	} while (c.bits != p->bits);
	p->in = c.in;
	if (rng_chance(&g.rng, 80))
		p->in.mxcsr = 0x1f80;
	p->window_at = c.window_at;
	memcpy(p->window, c.window, WINDOW);
	for (unsigned n = rng_chance(&g.rng, 50) ? 1 + rng_below(&g.rng, 4) : 2 + rng_below(&g.rng, 18);
	     n-- > 0;)
		add_group(&g);
	if (p->n_items > SEQ_ITEMS - 40)
		p->n_items = SEQ_ITEMS - 40;
	add(&g, "\xcc", 1);
	for (unsigned i = 0; i < g.n_calls; i++) /* of those cut off */
		if (g.calls[i] >= (int)p->n_items)
			g.n_calls = i;
	add_functions(&g);
	p->n_items = p->n_items < SEQ_ITEMS ? p->n_items : SEQ_ITEMS - 1;
	add(&g, "\xcc", 1);
	choose_patched(&g);
	for (unsigned i = 0; i < p->n_items; i++)
		length += p->item[i].len;
	p->start = rng_chance(&g.rng, 30) ? 0x1000 - rng_below(&g.rng, length < 0xf00 ? length : 0xf00) :
					    0x40 + rng_below(&g.rng, 0x200);
	p->in.rip = CODE_BASE + p->start;
	seq_layout(p);
}

/* ---- which rows ---- */

static bool is_integer(const struct x86_row_info *row)
{
	return !row->vex && row->feature == 0 &&
	       !(row->map == 0 && row->opcode >= 0xd8 && row->opcode <= 0xdf);
}

/* What a signal frame or the processor's choice would show through. */
static bool is_vague(const struct x86_row_info *row)
{
	static const char *const parts[] = { "SAVE", "RSTOR", "LDENV", "STENV", "MASKMOV", "LDMXCSR",
					     "FSBASE", "GSBASE" };

	for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (strstr(row->name, parts[i]))
			return true;
	/* And of EVEX, whether what a mask leaves out counts for alignment. */
	return row->attrs & X86_ROW_ATTR_VSIB || row->vex == 2;
}

void seq_rows_init(struct seq_rows *rows, const struct oracle_guest *guest,
		   const struct oracle_options *options)
{
	memset(rows, 0, sizeof(*rows));
	for (unsigned i = 0; i < X86_ROW_COUNT; i++) {
		const struct x86_row_info *row = &x86_rows[i];

		if (!oracle_row_is_wanted(i, options) || !oracle_guest_has(guest, row->feature) ||
		    is_vague(row))
			continue;
		if (row->attrs & X86_ROW_ATTR_ENDS) {
			rows->branch[rows->n_branch++] = (uint16_t)i;
			continue;
		}
		rows->all[rows->n_all++] = (uint16_t)i;
		if (is_integer(row))
			rows->integer[rows->n_integer++] = (uint16_t)i;
	}
}
