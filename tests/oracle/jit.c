// SPDX-License-Identifier: Apache-2.0
/*
 * jit.c - the x86 core is the oracle: random blocks by its handlers and by their translation, compared.
 *
 * usage: oracle-jit [--cases N] [--seed S] [--row MNEMONIC] [--only CASE] [--long]
 *
 * A case is a block of one instruction of gen.c, or of a few whose registers are those of one of
 * them. A mismatch prints the case's number, which brings it back.
 */
#include "oracle.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bt/bt.h"
#include "engine/bt/bt_int.h"
#include "engine/bt/jit/describe.h"
#include "x86/x86_int.h"

/* Guest RAM, as in guest.c. */
#define RAM_PML4  0x0000u
#define RAM_PDPT  0x1000u
#define RAM_PD	  0x2000u
#define RAM_PT	  0x3000u
#define RAM_PT2	  0x4000u
#define RAM_CODE  0x10000u
#define RAM_DATA  0x20000u
#define RAM_CONST 0x30000u

#define PTE_P  1u
#define PTE_W  2u
#define PTE_U  4u
#define PTE_NX (1ull << 63)

#define SHOWN	16u
#define MAX_SEQ 8u

struct run {
	struct oracle_options options;
	uint16_t rows[X86_ROW_COUNT];
	unsigned n_rows;
	struct engine_host host;
	struct bt_vcpu *vcpu;
	uint8_t *ram;
	uint8_t pristine[DATA_SIZE], constants[CONST_SIZE];
	unsigned long n_run, n_native, n_fault, n_bad;
};

struct outcome {
	struct x86_state s;
	uint8_t data[DATA_SIZE];
	int result;
	struct x86_fault fault;
};

static uint64_t fake_read(struct engine_host *host, unsigned vcpu, uint64_t gpa, unsigned size)
{
	return ~0ull;
}

static void fake_write(struct engine_host *host, unsigned vcpu, uint64_t gpa, unsigned size,
		       uint64_t value)
{
}

static const struct engine_host_ops host_ops = {
	.mmio_read = fake_read,
	.mmio_write = fake_write,
};

static void put(struct run *run, uint64_t table, uint64_t index, uint64_t entry)
{
	memcpy(run->ram + table + index * 8, &entry, 8);
}

static void map_pages(struct run *run, uint64_t table, uint64_t linear, uint64_t gpa, size_t size,
		      uint64_t flags)
{
	for (size_t off = 0; off < size; off += 0x1000)
		put(run, table, ((linear + off) >> 12) & 511,
		    (gpa + off) | PTE_P | PTE_U | 0x60 | flags);
}

static void set_user_mode(struct x86_state *s, uint64_t xcr0)
{
	const uint16_t data = X86_SEG_P | X86_SEG_S | X86_SEG_DPL | 3 | X86_SEG_DB | X86_SEG_G;

	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = (struct x86_segment){ .limit = ~0u, .selector = 0x2b, .attr = data };
	s->seg[X86_CS] = (struct x86_segment){
		.limit = ~0u,
		.attr = X86_SEG_P | X86_SEG_S | X86_SEG_DPL | 11 | X86_SEG_G | X86_SEG_L,
		.selector = 0x33,
	};
	s->seg[X86_FS] = (struct x86_segment){ .attr = X86_SEG_UNUSABLE };
	s->seg[X86_GS] = (struct x86_segment){ .attr = X86_SEG_UNUSABLE, .base = GS_BASE };
	s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM |
		 X86_CR0_PG;
	s->cr3 = RAM_PML4;
	s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE |
		 X86_CR4_FSGSBASE;
	s->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	s->xcr0 = xcr0;
}

static bool set_up(struct run *run)
{
	const struct mem_config config = { .size_bytes = 1 << 20, .node = -1 };
	const uint64_t all = PTE_P | PTE_W | PTE_U | 0x60;
	struct engine_config engine_config = { .host = &run->host, .vcpus = 1 };
	struct engine *engine;
	size_t n;

	run->host.ops = &host_ops;
	engine_config.mem = mem_new(&config, NULL);
	engine = engine_bt.open(&engine_config, NULL);
	run->vcpu = (struct bt_vcpu *)engine_bt.vcpu_new(engine, 0, NULL);
	run->ram = mem_slots(engine_config.mem, &n)->hva;
	put(run, RAM_PML4, 0, RAM_PDPT | all);
	put(run, RAM_PDPT, 0, RAM_PD | all);
	put(run, RAM_PD, CODE_BASE >> 21, RAM_PT | all);
	put(run, RAM_PD, DATA_BASE >> 21, RAM_PT2 | all);
	map_pages(run, RAM_PT, CODE_BASE, RAM_CODE, CODE_SIZE, PTE_W);
	map_pages(run, RAM_PT2, DATA_BASE, RAM_DATA, DATA_SIZE, PTE_W | PTE_NX);
	map_pages(run, RAM_PT2, CONST_BASE, RAM_CONST, CONST_SIZE, PTE_NX);
	oracle_pristine(run->pristine, run->constants);
	memcpy(run->ram + RAM_CONST, run->constants, CONST_SIZE);
	run->options.wide = oracle_native_has_wide();
	if (run->options.wide)
		x86_cpuid_model_add_host(&((struct bt_engine *)engine)->model);
	else
		printf("oracle-jit: no AVX-512 here: its instructions are skipped\n");
	set_user_mode(&run->vcpu->cpu.s, run->vcpu->cpu.model->xcr0);
	x86_cpu_sync(&run->vcpu->cpu);
	run->vcpu->jit.single = true;
	bt_jit_thread(run->vcpu);
	for (unsigned i = 0; i < X86_ROW_COUNT; i++)
		if (oracle_row_is_wanted(i, &run->options) &&
		    run->vcpu->cpu.features >> x86_rows[i].feature & 1)
			run->rows[run->n_rows++] = (uint16_t)i;
	return run->vcpu->jit.on && run->n_rows;
}

static void load(struct run *run, const struct oracle_case *c)
{
	struct x86_state *s = &run->vcpu->cpu.s;

	set_user_mode(s, run->vcpu->cpu.model->xcr0);
	memcpy(run->ram + RAM_DATA, run->pristine, DATA_SIZE);
	/* No case has code there; BTS of a far bit reaches it. */
	memset(run->ram + RAM_CODE + 0x1000, 0, CODE_SIZE - 0x1000);
	memcpy(run->ram + RAM_DATA + c->window_at, c->window, WINDOW);
	memcpy(s->gpr, c->in.gpr, sizeof(s->gpr));
	s->rip = c->in.rip;
	s->rflags = c->in.rflags | X86_FL_IF | X86_FL_ONE;
	memcpy(s->fpu.vec, c->in.vec, sizeof(s->fpu.vec));
	memcpy(s->fpu.opmask, c->in.opmask, sizeof(s->fpu.opmask));
	memcpy(s->fpu.st, c->in.st, sizeof(s->fpu.st));
	s->fpu.fcw = c->in.fcw;
	s->fpu.fsw = c->in.fsw;
	s->fpu.ftw = c->in.ftw;
	s->fpu.mxcsr = c->in.mxcsr;
	s->fpu.fop = 0;
	s->fpu.fip = s->fpu.fdp = 0;
	s->interrupt_shadow = 0;
	s->activity = X86_RUNNING;
	s->cr2 = 0;
	run->vcpu->cpu.fault = (struct x86_fault){ 0 };
	run->vcpu->cpu.stop_requested = false;
	x86_wide_sync(&run->vcpu->cpu);
	x86_update_mode(&run->vcpu->cpu);
}

static void save(struct run *run, struct outcome *o, int result, unsigned len)
{
	struct x86_cpu *cpu = &run->vcpu->cpu;

	if (result == X86_FAULT || result == X86_REPEAT)
		cpu->s.rip -= len;
	o->result = result == X86_JUMP ? X86_NEXT : result;
	o->s = cpu->s;
	o->fault = cpu->fault;
	memcpy(o->data, run->ram + RAM_DATA, DATA_SIZE);
}

/* From instruction @first of @block on. */
static void interpret(struct run *run, const struct bt_block *block, unsigned first,
		      struct outcome *o)
{
	struct x86_cpu *cpu = &run->vcpu->cpu;
	int r = X86_NEXT;
	unsigned i;

	for (i = first; i < block->count && r == X86_NEXT; i++) {
		cpu->s.rip += block->insn[i].len;
		r = block->insn[i].exec(cpu, &block->insn[i]);
	}
	save(run, o, r, block->insn[i - 1].len);
}

/* @block as @native. */
static void run_native(struct run *run, const struct bt_block *block, struct bt_block *native,
		       struct outcome *o)
{
	enum bt_jit_exit why = bt_jit_run(run->vcpu, native);
	const struct bt_jit *jit = &run->vcpu->jit;

	if (why == BT_JIT_ENTERED) {
		interpret(run, block, 0, o);
		return;
	}
	run->n_native++;
	if (why == BT_JIT_HANDLER && jit->result == X86_NEXT)
		interpret(run, block, jit->index + 1, o);
	else if (why == BT_JIT_HANDLER)
		save(run, o, jit->result, jit->insn->len);
	else
		save(run, o, X86_NEXT, 0);
}

static void differ(bool *bad, const char *what, uint64_t core, uint64_t jit)
{
	*bad = true;
	printf("  %-8s core %016lx  jit %016lx\n", what, core, jit);
}

static bool compare(const struct outcome *a, const struct outcome *b, uint64_t flags)
{
	bool bad = false;
	char name[24];

	if (a->result != b->result)
		differ(&bad, "result", (uint64_t)a->result, (uint64_t)b->result);
	else if (a->result == X86_FAULT && memcmp(&a->fault, &b->fault, sizeof(a->fault)))
		differ(&bad, "fault", a->fault.vector, b->fault.vector);
	for (unsigned i = 0; i < 16; i++) {
		snprintf(name, sizeof(name), "r%u", i);
		if (a->s.gpr[i] != b->s.gpr[i])
			differ(&bad, name, a->s.gpr[i], b->s.gpr[i]);
	}
	if (a->s.rip != b->s.rip)
		differ(&bad, "rip", a->s.rip, b->s.rip);
	if ((a->s.rflags ^ b->s.rflags) & flags)
		differ(&bad, "flags", a->s.rflags, b->s.rflags);
	if (memcmp(&a->s.fpu, &b->s.fpu, sizeof(a->s.fpu)) != 0) {
		for (unsigned i = 0; i < 32; i++)
			for (unsigned j = 0; j < 64; j += 8) {
				uint64_t x, y;

				memcpy(&x, a->s.fpu.vec[i] + j, 8);
				memcpy(&y, b->s.fpu.vec[i] + j, 8);
				snprintf(name, sizeof(name), "v%u[%u]", i, j);
				if (x != y)
					differ(&bad, name, x, y);
			}
		for (unsigned i = 0; i < 8; i++) {
			snprintf(name, sizeof(name), "k%u", i);
			if (a->s.fpu.opmask[i] != b->s.fpu.opmask[i])
				differ(&bad, name, a->s.fpu.opmask[i], b->s.fpu.opmask[i]);
		}
		if (a->s.fpu.mxcsr != b->s.fpu.mxcsr)
			differ(&bad, "mxcsr", a->s.fpu.mxcsr, b->s.fpu.mxcsr);
		for (unsigned i = 0; i < sizeof(a->s.fpu); i++)
			if (!bad && ((const uint8_t *)&a->s.fpu)[i] != ((const uint8_t *)&b->s.fpu)[i])
				differ(&bad, "fpu", i, ((const uint8_t *)&b->s.fpu)[i]);
	}
	for (unsigned i = 0; i < DATA_SIZE; i += 8) {
		uint64_t x, y;

		memcpy(&x, a->data + i, 8);
		memcpy(&y, b->data + i, 8);
		snprintf(name, sizeof(name), "[+%x]", i);
		if (x != y)
			differ(&bad, name, x, y);
	}
	return bad;
}

/* Instructions that follow each other, in the place of the first. */
static unsigned compose(struct run *run, uint64_t number, struct oracle_case *c)
{
	struct oracle_case other;
	unsigned n = number % 3 ? 1 + (number >> 3) % MAX_SEQ : 1, len = 0;
	uint8_t code[MAX_SEQ * 15 + 16];

	if (n > 1 && run->options.row && number % 2)
		n = 2;
	for (unsigned i = 0; i < n; i++) {
		struct x86_insn insn;
		int r;

		oracle_generate(&other, number * MAX_SEQ + i, &run->options, run->rows, run->n_rows);
		if (i == (number >> 6) % n)
			*c = other;
		r = x86_decode(other.code, 15, 8, &insn);
		if (r <= 0)
			continue;
		memcpy(code + len, other.code, (size_t)r);
		len += (unsigned)r;
	}
	/* JMP to the next instruction ends the block. */
	memcpy(code + len, "\xeb\x00", 2);
	len += 2;
	if (number % 4) { /* else they are mostly such that keep vectors and x87 out of native code */
		c->in.mxcsr = 0x1f80 | (c->in.mxcsr & 0x3f);
		c->in.fcw |= 0x3f;
		c->in.fsw &= 0x7f7f;
	}
	c->in.rip = CODE_BASE + 0x100 + (number * 64 & 0x7ff);
	memcpy(run->ram + RAM_CODE + (c->in.rip - CODE_BASE), code, len);
	return len - 2;
}

/* Some instruction reads what another has left undefined. */
static bool reads_undefined(const struct bt_block *block)
{
	const uint8_t *bytes = bt_block_bytes(block);
	uint32_t undef = 0;

	for (unsigned i = 0; i < block->count; i++) {
		struct jit_desc d;

		jit_describe(&block->insn[i], bytes, &d);
		if (d.fr & undef)
			return true;
		undef = (undef & ~d.fw) | x86_rows[block->insn[i].row].undef;
		bytes += block->insn[i].len;
	}
	return false;
}

static void show(const struct run *run, const struct bt_block *block, uint64_t number)
{
	const uint8_t *p = bt_block_bytes(block);

	printf("--seed %lu --only %lu%s%s\n", run->options.seed, number,
	       run->options.row ? " --row " : "", run->options.row ? run->options.row : "");
	for (unsigned i = 0; i < block->count; i++) {
		printf("  %-12s", x86_rows[block->insn[i].row].name);
		for (unsigned j = 0; j < block->insn[i].len; j++)
			printf(" %02x", *p++);
		printf("\n");
	}
}

static void run_case(struct run *run, uint64_t number, bool verbose)
{
	struct bt_vcpu *vcpu = run->vcpu;
	static struct outcome core, jit;
	struct bt_block *block, *native;
	struct oracle_case c;
	uint64_t flags = ~0ull;
	bool again;

	bt_cache_empty(bt_engine_of(vcpu));
	bt_sync_drain(vcpu);
	atomic_store(&vcpu->request, 0);
	atomic_store(&bt_engine_of(vcpu)->page[RAM_CODE >> 12], 0);
	if (!compose(run, number, &c))
		return;
	load(run, &c);
	block = bt_block_find(vcpu, &again);
	if (!block || reads_undefined(block))
		return;
	for (unsigned i = 0; i < block->count; i++)
		flags &= ~(uint64_t)x86_rows[block->insn[i].row].undef;
	run->n_run++;
	if (verbose)
		show(run, block, number);
	interpret(run, block, 0, &core);
	/* Handlers may have written to code, or emptied the TLB. */
	load(run, &c);
	if (!bt_block_is_trusted(block))
		return;
	atomic_store(&vcpu->jit.limit, vcpu->jit.stack_limit);
	atomic_store(&vcpu->request, 0);
	/* Every other one as it is when it has fallen back often. */
	vcpu->jit.off = number & 1 ? BT_OFF_FALLBACKS : 0;
	native = bt_block_translate(vcpu, block);
	if (!native->code)
		return;
	run_native(run, block, native, &jit);
	if (core.result == X86_FAULT) {
		run->n_fault++;
		flags &= ~(uint64_t)X86_FL_STATUS; /* dead ones may be lost */
	}
	if (compare(&core, &jit, flags)) {
		if (run->n_bad++ < SHOWN)
			show(run, block, number);
	}
}

int main(int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "cases", required_argument, NULL, 'c' },
		{ "seed", required_argument, NULL, 's' },
		{ "row", required_argument, NULL, 'r' },
		{ "only", required_argument, NULL, 'o' },
		{ 0 },
	};
	static struct run run;
	uint64_t cases = 100000, from = 0;
	bool verbose = false;
	int opt;

	run.options.seed = 1;
	run.options.bits = 64;
	while ((opt = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
		switch (opt) {
		case 'c':
			cases = strtoull(optarg, NULL, 0);
			break;
		case 's':
			run.options.seed = strtoull(optarg, NULL, 0);
			break;
		case 'r':
			run.options.row = optarg;
			break;
		case 'o':
			from = strtoull(optarg, NULL, 0);
			cases = 1;
			verbose = true;
			break;
		default:
			return 2;
		}
	}
	if (!set_up(&run)) {
		printf("oracle-jit: no translator on this host\n");
		return 77;
	}
	for (uint64_t i = 0; i < cases; i++)
		run_case(&run, from + i, verbose);
	printf("oracle-jit: seed %lu: %lu blocks, %lu translated, %lu faulted, %lu differ\n",
	       run.options.seed, run.n_run, run.n_native, run.n_fault, run.n_bad);
	return run.n_bad ? 1 : 0;
}
