// SPDX-License-Identifier: Apache-2.0
/* guest.c - runs a case in the x86 core, in user mode over page tables that map what native.c maps. */
#include "seq.h"

#include "engine/bt/jit/host_insn.h"
#include "x86/x86_int.h"

#include <stdlib.h>
#include <string.h>

/* Guest RAM: page tables, then the pages that are mapped. */
#define RAM_PML4  0x0000u
#define RAM_PDPT  0x1000u
#define RAM_PD	  0x2000u
#define RAM_PT	  0x3000u /* code; data and constants share the next */
#define RAM_PT2	  0x4000u
#define RAM_CODE  0x10000u
#define RAM_DATA  0x20000u
#define RAM_CONST 0x30000u
#define RAM_SIZE  0x40000u

#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_NX (1ull << 63)

#define REP_LIMIT 100000u

struct oracle_guest {
	struct x86_cpu cpu; /* first: ops find the rest */
	struct x86_tlb tlb;
	struct x86_cpuid_model model;
	struct bt_host_insn host;
	uint8_t *ram;
	bool sees_flags;
	uint8_t pristine[DATA_SIZE], constants[CONST_SIZE];
};

static uint8_t *ram_page(struct x86_cpu *cpu, uint64_t gpa, bool write, bool *ret_direct)
{
	struct oracle_guest *g = (struct oracle_guest *)(void *)cpu;

	*ret_direct = true;
	return gpa < RAM_SIZE ? g->ram + gpa : NULL;
}

static bool ram_written(struct x86_cpu *cpu, uint64_t gpa, unsigned len)
{
	return false;
}

static uint64_t mmio_read(struct x86_cpu *cpu, uint64_t gpa, unsigned size)
{
	return ~0ull;
}

static void mmio_write(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t value)
{
}

static uint64_t rdtsc(struct x86_cpu *cpu)
{
	return 0;
}

static bool should_stop(struct x86_cpu *cpu)
{
	return false;
}

static void host_insn(struct x86_cpu *cpu, const struct x86_insn *insn, struct x86_host_op *op)
{
	struct oracle_guest *g = (struct oracle_guest *)(void *)cpu;

	bt_host_insn_run(&g->host, cpu, insn, op);
}

static const struct x86_cpu_ops ops = {
	.ram_page = ram_page,
	.ram_written = ram_written,
	.mmio_read = mmio_read,
	.mmio_write = mmio_write,
	.rdtsc = rdtsc,
	.should_stop = should_stop,
	.host_insn = host_insn,
};

static void put(uint8_t *ram, uint64_t table, unsigned index, uint64_t entry)
{
	memcpy(ram + table + index * 8, &entry, 8);
}

static void map_pages(struct oracle_guest *g, uint64_t table, uint64_t linear, uint64_t gpa,
		      size_t size, uint64_t flags)
{
	for (size_t off = 0; off < size; off += 0x1000)
		put(g->ram, table, ((linear + off) >> 12) & 511, (gpa + off) | PTE_P | PTE_U | flags);
}

static void build_tables(struct oracle_guest *g)
{
	const uint64_t all = PTE_P | PTE_W | PTE_U;

	put(g->ram, RAM_PML4, 0, RAM_PDPT | all);
	put(g->ram, RAM_PDPT, 0, RAM_PD | all);
	put(g->ram, RAM_PD, CODE_BASE >> 21, RAM_PT | all);
	put(g->ram, RAM_PD, DATA_BASE >> 21, RAM_PT2 | all);
	map_pages(g, RAM_PT, CODE_BASE, RAM_CODE, CODE_SIZE, PTE_W);
	map_pages(g, RAM_PT2, DATA_BASE, RAM_DATA, DATA_SIZE, PTE_W | PTE_NX);
	map_pages(g, RAM_PT2, CONST_BASE, RAM_CONST, CONST_SIZE, PTE_NX);
}

static void set_16_bit_segments(struct x86_state *s)
{
	const uint16_t attr = X86_SEG_P | X86_SEG_S | X86_SEG_DPL;
	const struct x86_segment data = { .base = DATA_BASE, .limit = 0xffff, .selector = LDT_DATA,
					  .attr = attr | 3 };

	s->seg[X86_CS] = (struct x86_segment){ .base = CODE_BASE, .limit = 0xffff,
					       .selector = LDT_CODE, .attr = attr | 11 };
	s->seg[X86_DS] = s->seg[X86_ES] = s->seg[X86_SS] = data;
}

static void set_user_mode(const struct x86_cpuid_model *model, struct x86_state *s, unsigned bits)
{
	const uint16_t data = X86_SEG_P | X86_SEG_S | X86_SEG_DPL | 3 | X86_SEG_DB | X86_SEG_G;
	const uint16_t code = X86_SEG_P | X86_SEG_S | X86_SEG_DPL | 11 | X86_SEG_G |
			      (bits == 64 ? X86_SEG_L : X86_SEG_DB);

	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = (struct x86_segment){ .limit = ~0u, .selector = 0x2b, .attr = data };
	s->seg[X86_CS] = (struct x86_segment){ .limit = ~0u, .attr = code,
					       .selector = bits == 64 ? 0x33 : 0x23 };
	s->seg[X86_FS] = (struct x86_segment){ .attr = X86_SEG_UNUSABLE };
	s->seg[X86_GS] = (struct x86_segment){ .attr = X86_SEG_UNUSABLE, .base = GS_BASE };
	if (bits == 16)
		set_16_bit_segments(s);
	s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM |
		 X86_CR0_PG;
	s->cr3 = RAM_PML4;
	s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE |
		 X86_CR4_FSGSBASE;
	s->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	s->xcr0 = model->xcr0;
}

struct oracle_guest *oracle_guest_new(void)
{
	struct oracle_guest *g = aligned_alloc(64, (sizeof(*g) + 63) & ~(size_t)63);

	if (!g)
		return NULL;
	memset(g, 0, sizeof(*g));
	g->ram = aligned_alloc(4096, RAM_SIZE);
	if (!g->ram) {
		free(g);
		return NULL;
	}
	memset(g->ram, 0, RAM_SIZE);
	g->cpu.ops = &ops;
	g->cpu.tlb = &g->tlb;
	x86_cpuid_model_max(&g->model);
	if (oracle_native_has_wide() && bt_host_insn_init(&g->host) == 0)
		x86_cpuid_model_add_host(&g->model);
	g->cpu.model = &g->model;
	build_tables(g);
	oracle_pristine(g->pristine, g->constants);
	memcpy(g->ram + RAM_CONST, g->constants, CONST_SIZE);
	x86_cpu_reset(&g->cpu);
	set_user_mode(&g->model, &g->cpu.s, 64);
	x86_cpu_sync(&g->cpu);
	return g;
}

bool oracle_guest_has(const struct oracle_guest *g, unsigned feature)
{
	return g->cpu.features >> feature & 1;
}

void oracle_guest_free(struct oracle_guest *g)
{
	if (!g)
		return;
	bt_host_insn_fini(&g->host);
	free(g->ram);
	free(g);
}

static void load(struct oracle_guest *g, const struct oracle_case *c)
{
	struct x86_state *s = &g->cpu.s;

	set_user_mode(&g->model, s, c->bits);
	memcpy(g->ram + RAM_DATA, g->pristine, DATA_SIZE);
	memcpy(g->ram + RAM_DATA + c->window_at, c->window, WINDOW);
	memcpy(g->ram + RAM_CODE + (oracle_code_at(c) - CODE_BASE), c->code, sizeof(c->code));
	memcpy(s->gpr, c->in.gpr, sizeof(s->gpr));
	s->rip = c->in.rip;
	s->rflags = c->in.rflags | X86_FL_TF | X86_FL_IF | X86_FL_ONE;
	memcpy(s->fpu.vec, c->in.vec, sizeof(s->fpu.vec));
	memcpy(s->fpu.opmask, c->in.opmask, sizeof(s->fpu.opmask));
	memcpy(s->fpu.st, c->in.st, sizeof(s->fpu.st));
	s->fpu.fcw = c->in.fcw;
	s->fpu.fsw = c->in.fsw;
	s->fpu.ftw = c->in.ftw;
	s->fpu.mxcsr = c->in.mxcsr;
	s->fpu.fip = s->fpu.fdp = s->fpu.fop = 0; /* as the child's */
	x86_wide_sync(&g->cpu);
	x86_update_mode(&g->cpu);
}

static void save(struct oracle_guest *g, struct oracle_result *r)
{
	const struct x86_state *s = &g->cpu.s;

	memcpy(r->out.gpr, s->gpr, sizeof(s->gpr));
	r->out.rip = s->rip;
	r->out.rflags = s->rflags;
	memcpy(r->out.vec, s->fpu.vec, sizeof(r->out.vec));
	memcpy(r->out.opmask, s->fpu.opmask, sizeof(r->out.opmask));
	memcpy(r->out.st, s->fpu.st, sizeof(s->fpu.st));
	for (unsigned i = 0; i < 8; i++)
		memset(r->out.st[i] + 10, 0, 6);
	r->out.fcw = s->fpu.fcw;
	r->out.fsw = s->fpu.fsw;
	r->out.ftw = s->fpu.ftw;
	r->out.mxcsr = s->fpu.mxcsr;
	memcpy(r->data, g->ram + RAM_DATA, DATA_SIZE);
	r->valid = true;
}

void oracle_guest_run(struct oracle_guest *g, const struct oracle_case *c,
		      const struct oracle_watch *watch, struct oracle_result *r)
{
	struct x86_cpu *cpu = &g->cpu;
	struct x86_insn insn;
	int status, len;

	if (watch) {
		memcpy(cpu->s.dr, watch->at, sizeof(watch->at));
		cpu->s.dr[7] = watch->dr7;
	}
	load(g, c);
	cpu->debug_pending = 0;
	r->vector = -1;
	r->error = 0;
	r->cr2 = 0;
	for (unsigned i = 0; i < REP_LIMIT; i++) {
		len = x86_fetch_insn(cpu, &insn);
		if (len) {
			cpu->s.rip += (unsigned)len;
			status = insn.exec(cpu, &insn);
		} else {
			status = X86_FAULT;
		}
		if (len && (status == X86_REPEAT || status == X86_FAULT))
			cpu->s.rip -= (unsigned)len;
		if (status != X86_REPEAT)
			break;
	}
	if (status == X86_FAULT) {
		r->vector = cpu->fault.vector;
		r->error = cpu->fault.has_error ? cpu->fault.error : 0;
		r->cr2 = cpu->fault.vector == X86_PF ? cpu->fault.payload : 0;
	}
	if (c->bits != 64)
		cpu->s.rip = (uint32_t)cpu->s.rip;
	r->hits = cpu->debug_pending;
	save(g, r);
}

/* ---- programs ---- */

static void load_program(struct oracle_guest *g, const struct seq_program *p)
{
	struct oracle_case c = { .bits = p->bits, .in = p->in, .window_at = p->window_at };

	memcpy(c.window, p->window, WINDOW);
	load(g, &c);
	g->cpu.s.rflags &= ~(uint64_t)X86_FL_TF;
	memcpy(g->ram + RAM_CODE, p->code, CODE_SIZE);
}

/*
 * One instruction. *ret_wild: what it does is not to be asked of the host; or a REP overwrites itself,
 * where the processor may go on or fetch again after any of its steps; or no CMP follows where flags were
 * left undefined (or it faults), since code was overwritten at random, or jumped into. *undef: flags that
 * are so.
 */
static int step_program(struct oracle_guest *g, uint32_t *undef, bool *ret_wild)
{
	struct x86_cpu *cpu = &g->cpu;
	uint64_t at = cpu->s.rip - CODE_BASE;
	struct x86_insn insn;
	int len = x86_fetch_insn(cpu, &insn), status;
	uint8_t before[15];
	bool unseen;

	g->sees_flags |= len && (strncmp(x86_rows[insn.row].name, "PUSHF", 5) == 0 ||
				 strncmp(x86_rows[insn.row].name, "POPF", 4) == 0);
	*ret_wild = false;
	if (!len) {
		*ret_wild = *undef != 0;
		return X86_FAULT;
	}
	if (x86_rows[insn.row].attrs & (X86_ROW_ATTR_NOHOST | X86_ROW_ATTR_PRIV)) {
		*ret_wild = insn.map != 0 || insn.opcode != 0xcc;
		cpu->s.rip += (unsigned)len;
		cpu->fault = (struct x86_fault){ .vector = X86_BP };
		return X86_STOP;
	}
	/* Nor is what lies behind FS: the C library's own; nor 16-bit branches of 64-bit code, which Intel's
	 * processors do not know and AMD's do (APM vol. 3, "Operand-Size Override Prefix"). */
	if (insn.seg == X86_FS || (cpu->code_bytes == 8 && insn.flags & X86_INSN_OPSIZE &&
				   x86_rows[insn.row].attrs & X86_ROW_ATTR_ENDS))
		*ret_wild = true;
	if (*undef && strcmp(x86_rows[insn.row].name, "CMP") != 0) {
		*ret_wild = true;
		return X86_STOP;
	}
	if (*ret_wild)
		return X86_STOP;
	unseen = *undef != 0;
	*undef = x86_rows[insn.row].undef & ~X86_FL_AF;
	at = at < CODE_SIZE - 15 ? at : CODE_SIZE - 15;
	memcpy(before, g->ram + RAM_CODE + at, sizeof(before));
	cpu->s.rip += (unsigned)len;
	status = insn.exec(cpu, &insn);
	if (status == X86_REPEAT || status == X86_FAULT)
		cpu->s.rip -= (unsigned)len;
	if (status == X86_FAULT && unseen)
		*ret_wild = true;
	else if (x86_rows[insn.row].attrs & X86_ROW_ATTR_REP)
		*ret_wild = memcmp(before, g->ram + RAM_CODE + at, sizeof(before)) != 0;
	cpu->stop_requested = false;
	return status;
}

/* The sanitizer's own memory is no program's, but there on the host: nothing is to be compared. */
static bool is_sanitizers(uint64_t linear)
{
#ifdef __SANITIZE_ADDRESS__
	return linear >= 0x7fff7000 && linear < 0x100080000000;
#else
	return false;
#endif
}

bool seq_step_run(struct oracle_guest *g, const struct seq_program *p, struct seq_result *r)
{
	struct oracle_result one;
	int status = X86_NEXT;
	uint32_t undef = 0;
	bool wild = false;

	load_program(g, p);
	g->cpu.fault = (struct x86_fault){ 0 };
	g->sees_flags = false;
	for (unsigned i = 0; i < SEQ_STEPS; i++) {
		status = step_program(g, &undef, &wild);
		if (p->bits == 32)
			g->cpu.s.rip = (uint32_t)g->cpu.s.rip;
		if (wild)
			return false;
		if (status == X86_FAULT || (status == X86_STOP && g->cpu.fault.vector == X86_BP))
			break;
	}
	if (status != X86_FAULT && status != X86_STOP)
		return false;
	if (g->cpu.fault.vector == X86_PF && is_sanitizers(g->cpu.fault.payload))
		return false;
	save(g, &one);
	r->valid = r->ended = true;
	r->sees_flags = g->sees_flags;
	r->vector = g->cpu.fault.vector;
	r->error = status == X86_FAULT && g->cpu.fault.has_error ? g->cpu.fault.error : 0;
	r->cr2 = g->cpu.fault.vector == X86_PF ? g->cpu.fault.payload : 0;
	r->out = one.out;
	memcpy(r->data, one.data, DATA_SIZE);
	memcpy(r->code, g->ram + RAM_CODE, CODE_SIZE);
	return true;
}
