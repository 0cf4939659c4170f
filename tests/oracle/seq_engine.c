// SPDX-License-Identifier: Apache-2.0
/*
 * seq_engine.c - runs a program in the bt engine: a machine of one vCPU, in user mode.
 *
 * Each exception's handler is an OUT to the port of its vector number, which takes the vCPU out of the
 * guest; where the program was is read from the frame on the kernel's stack. Every program has
 * code pages of its own, so that none finds them hot; after N_PAGES programs the machine is made anew.
 */
#include "seq.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "engine/bt/bt.h"
#include "engine/bt/bt_int.h"
#include "x86/x86_int.h"

/* Guest RAM. */
#define RAM_PML4   0x0000u
#define RAM_PDPT   0x1000u
#define RAM_PD	   0x2000u
#define RAM_PT	   0x3000u /* code; data; the kernel */
#define RAM_PT2	   0x4000u
#define RAM_PT3	   0x5000u
#define RAM_PDPT2  0x6000u /* the upper half's */
#define RAM_PD2	   0x7000u
#define RAM_KERNEL 0x8000u /* handlers, tables, stack: see below */
#define RAM_DATA   0x20000u
#define RAM_CONST  0x30000u
#define RAM_CODE   0x100000u
#define N_PAGES	   64u
#define N_PROGRAMS 1024u /* of a machine: each page is written again, under what was translated from it */
#define RAM_SIZE   (RAM_CODE + N_PAGES * CODE_SIZE)

/* The kernel's pages, as linear addresses and offsets in them. The upper half is a kernel's on the
 * host as well: whether anything is there shows in no error code that is compared. */
#define KERNEL_BASE 0xffff800000000000ull
#define KERNEL_SIZE 0x4000u
#define OFF_CODE    0x0000u /* 4 bytes a handler */
#define OFF_IDT	    0x1000u
#define OFF_GDT	    0x2000u
#define OFF_TSS	    0x2100u
#define OFF_STEPS   0x2800u /* how many more single steps */
#define OFF_DEBUG   0x0200u /* the handler of #DB, of an engine that is stepped */
#define OFF_STACK   0x4000u /* its top */

#define PTE_P  1u
#define PTE_W  2u
#define PTE_U  4u
#define PTE_AD 0x60u
#define PTE_NX (1ull << 63)

#define SECONDS_LIMIT 5
#define OFF_BITS      17 /* of enum bt_off */
#define KICK_US	      100

_Static_assert(SEQ_OFF_DIRECT_WAIT == BT_OFF_DIRECT_WAIT, "the same");
_Static_assert(SEQ_OFF_USER_WAIT == BT_OFF_USER_WAIT, "the same");

struct seq_engine {
	struct engine_host host; /* first: the callbacks find the rest */
	struct seq_engine_kind kind;
	struct mem *mem;
	struct engine *engine;
	struct engine_vcpu *vcpu;
	uint8_t *ram;
	uint8_t pristine[DATA_SIZE];
	unsigned machines; /* made */
	uint64_t stretches;
	unsigned turn; /* of programs: which code pages are next */
	int vector;    /* of the exception that was taken, or -1 */
	struct x86_state initial, state;
};

static uint64_t no_read(struct engine_host *host, unsigned vcpu, uint64_t gpa, unsigned size)
{
	return ~0ull;
}

static void no_write(struct engine_host *host, unsigned vcpu, uint64_t gpa, unsigned size,
		     uint64_t value)
{
}

static uint64_t port_read(struct engine_host *host, unsigned vcpu, uint16_t port, unsigned size)
{
	return ~0ull;
}

static void port_write(struct engine_host *host, unsigned vcpu, uint16_t port, unsigned size,
		       uint64_t value)
{
	struct seq_engine *e = (struct seq_engine *)host;

	e->vector = port;
	engine_bt.vcpu_kick(e->vcpu);
}

static int no_irq(struct engine_host *host, unsigned vcpu)
{
	return -1;
}

static uint8_t get_cr8(struct engine_host *host, unsigned vcpu)
{
	return 0;
}

static void set_cr8(struct engine_host *host, unsigned vcpu, uint8_t cr8)
{
}

static bool no_msr(struct engine_host *host, unsigned vcpu, uint32_t msr, uint64_t *value)
{
	return false;
}

static bool no_wrmsr(struct engine_host *host, unsigned vcpu, uint32_t msr, uint64_t value)
{
	return false;
}

static const struct engine_host_ops host_ops = {
	.pio_read = port_read,
	.pio_write = port_write,
	.mmio_read = no_read,
	.mmio_write = no_write,
	.apic_pending = no_irq,
	.apic_ack = no_irq,
	.apic_get_cr8 = get_cr8,
	.apic_set_cr8 = set_cr8,
	.apic_read_msr = no_msr,
	.apic_write_msr = no_wrmsr,
};

/* ---- the machine ---- */

static void put(struct seq_engine *e, uint64_t gpa, const void *bytes, uint64_t len)
{
	memcpy(e->ram + gpa, bytes, len);
	mem_written(e->mem, gpa, len);
}

static void put_entry(struct seq_engine *e, uint64_t table, uint64_t index, uint64_t entry)
{
	put(e, table + (index & 511) * 8, &entry, 8);
}

static void map_pages(struct seq_engine *e, uint64_t table, uint64_t linear, uint64_t gpa,
		      size_t size, uint64_t flags)
{
	for (size_t off = 0; off < size; off += 0x1000)
		put_entry(e, table, (linear + off) >> 12, (gpa + off) | PTE_P | PTE_AD | flags);
}

static void build_tables(struct seq_engine *e)
{
	const uint64_t all = PTE_P | PTE_W | PTE_U | PTE_AD;
	uint8_t constants[CONST_SIZE];

	put_entry(e, RAM_PML4, 0, RAM_PDPT | all);
	put_entry(e, RAM_PDPT, 0, RAM_PD | all);
	put_entry(e, RAM_PD, CODE_BASE >> 21, RAM_PT | all);
	put_entry(e, RAM_PD, DATA_BASE >> 21, RAM_PT2 | all);
	put_entry(e, RAM_PML4, KERNEL_BASE >> 39, RAM_PDPT2 | all);
	put_entry(e, RAM_PDPT2, KERNEL_BASE >> 30, RAM_PD2 | all);
	put_entry(e, RAM_PD2, KERNEL_BASE >> 21, RAM_PT3 | all);
	map_pages(e, RAM_PT2, DATA_BASE, RAM_DATA, DATA_SIZE, PTE_U | PTE_W | PTE_NX);
	map_pages(e, RAM_PT2, CONST_BASE, RAM_CONST, CONST_SIZE, PTE_U | PTE_NX);
	map_pages(e, RAM_PT3, KERNEL_BASE, RAM_KERNEL, KERNEL_SIZE, PTE_W);
	oracle_pristine(e->pristine, constants);
	put(e, RAM_CONST, constants, CONST_SIZE);
}

static void build_kernel(struct seq_engine *e)
{
	/* The kernel's code and data; code of 32 bits, data, and code of 64 bits of programs. */
	static const uint64_t gdt[8] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0x00cffb000000ffff,
					 0x00cff3000000ffff, 0x00affb000000ffff };
	const uint64_t stack = KERNEL_BASE + OFF_STACK;

	put(e, RAM_KERNEL + OFF_GDT, gdt, sizeof(gdt));
	put(e, RAM_KERNEL + OFF_TSS + 4, &stack, 8); /* RSP0 */
	for (unsigned v = 0; v < 32; v++) {
		const uint8_t code[4] = { 0xe6, (uint8_t)v, 0xeb, 0xfc }; /* out; again */
		uint64_t at = KERNEL_BASE + OFF_CODE + v * 4;
		uint64_t dpl = v == X86_BP ? 3 : 0;
		uint64_t gate[2] = { (at & 0xffff) | 8ull << 16 | (0x8e | dpl << 5) << 40 |
					     (at >> 16 & 0xffff) << 48,
				     at >> 32 };

		put(e, RAM_KERNEL + OFF_CODE + v * 4, code, 4);
		put(e, RAM_KERNEL + OFF_IDT + v * 16, gate, 16);
	}
}

/* #DB: TF is taken away behind so many; RF lets an instruction pass that has a breakpoint. */
static void build_debug(struct seq_engine *e)
{
	static const uint8_t code[] = {
		0x50,				      /* push rax */
		0xff, 0x0d, 0xf9, 0x25, 0, 0,	      /* dec dword [OFF_STEPS] */
		0x79, 0x08,			      /* jns */
		0x81, 0x64, 0x24, 0x18, 0xff, 0xfe, 0xff, 0xff, /* and dword [rsp + 24], ~TF */
		0x81, 0x4c, 0x24, 0x18, 0, 0, 1, 0,   /* or dword [rsp + 24], RF */
		0x31, 0xc0, 0x0f, 0x23, 0xf0,	      /* xor eax, eax; mov dr6, rax */
		0x58, 0x48, 0xcf,		      /* pop rax; iretq */
	};
	uint64_t at = KERNEL_BASE + OFF_DEBUG;
	uint16_t low = (uint16_t)at;

	_Static_assert(OFF_STEPS - OFF_DEBUG - 7 == 0x25f9, "the displacement");
	put(e, RAM_KERNEL + OFF_DEBUG, code, sizeof(code));
	put(e, RAM_KERNEL + OFF_IDT + X86_DB * 16, &low, 2);
}

static void user_state(struct x86_state *s)
{
	const uint16_t data = X86_SEG_P | X86_SEG_S | X86_SEG_DPL | 3 | X86_SEG_DB | X86_SEG_G;

	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = (struct x86_segment){ .limit = ~0u, .selector = 0x2b, .attr = data };
	s->seg[X86_FS] = (struct x86_segment){ .attr = X86_SEG_UNUSABLE };
	s->seg[X86_GS] = (struct x86_segment){ .attr = X86_SEG_UNUSABLE, .base = GS_BASE };
	s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM |
		 X86_CR0_PG;
	s->cr3 = RAM_PML4;
	s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE |
		 X86_CR4_FSGSBASE;
	s->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	s->gdtr = (struct x86_table){ KERNEL_BASE + OFF_GDT, 63 };
	s->idtr = (struct x86_table){ KERNEL_BASE + OFF_IDT, 32 * 16 - 1 };
	s->tr = (struct x86_segment){ .base = KERNEL_BASE + OFF_TSS, .limit = 0x67, .selector = 0x30,
				      .attr = X86_SEG_P | 11 };
}

static bool open_machine(struct seq_engine *e)
{
	const struct engine_config config = {
		.mem = e->mem, .host = &e->host, .vcpus = 1,
		.interpret = e->kind.interpret, .cache_bytes = e->kind.cache_bytes,
		.off = e->kind.off | (e->kind.off_in_turn ? 1u << e->machines++ % OFF_BITS : 0),
	};

	e->engine = engine_bt.open(&config, NULL);
	if (e->engine && oracle_native_has_wide())
		x86_cpuid_model_add_host(&((struct bt_engine *)e->engine)->model);
	e->vcpu = e->engine ? engine_bt.vcpu_new(e->engine, 0, NULL) : NULL;
	if (!e->vcpu)
		return false;
	((struct bt_vcpu *)e->vcpu)->jit.threshold = e->kind.threshold;
	engine_bt.vcpu_get_state(e->vcpu, &e->initial);
	user_state(&e->initial);
	e->initial.xcr0 = ((struct bt_engine *)e->engine)->model.xcr0;
	e->turn = 0;
	return true;
}

static void close_machine(struct seq_engine *e)
{
	if (e->vcpu) {
		e->stretches += ((struct bt_vcpu *)e->vcpu)->stats.user_runs;
		engine_bt.vcpu_free(e->vcpu);
	}
	e->vcpu = NULL;
	if (e->engine)
		engine_bt.close(e->engine);
	mem_free(e->mem);
}

static bool new_machine(struct seq_engine *e)
{
	const struct mem_config config = { .size_bytes = RAM_SIZE, .node = -1 };
	size_t n;

	e->mem = mem_new(&config, NULL);
	if (!e->mem)
		return false;
	e->ram = mem_slots(e->mem, &n)->hva;
	if (!open_machine(e))
		return false;
	build_tables(e);
	build_kernel(e);
	if (e->kind.stepped)
		build_debug(e);
	return true;
}

/* A program that does not end shows; and the kicked engine is kicked wherever it may be. */
static struct engine_vcpu *volatile alarmed;
static volatile bool alarmed_often;
static volatile unsigned alarms;

static void on_alarm(int sig)
{
	if (alarmed && (alarmed_often || alarms++ % (1000000 / KICK_US) == 0))
		engine_bt.vcpu_kick(alarmed);
}

static void start_alarms(void)
{
	const struct timeval t = { 0, KICK_US };
	const struct itimerval timer = { .it_interval = t, .it_value = t };

	setitimer(ITIMER_REAL, &timer, NULL);
}

static time_t seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return t.tv_sec;
}

struct seq_engine *seq_engine_new(const struct seq_engine_kind *kind)
{
	struct seq_engine *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->host.ops = &host_ops;
	e->kind = *kind;
	signal(SIGALRM, on_alarm);
	start_alarms();
	if (!new_machine(e)) {
		seq_engine_free(e);
		return NULL;
	}
	return e;
}

void seq_engine_free(struct seq_engine *e)
{
	if (!e)
		return;
	close_machine(e);
	free(e);
}

/* ---- a program ---- */

static uint64_t code_gpa(const struct seq_engine *e)
{
	return RAM_CODE + (uint64_t)(e->turn % N_PAGES) * CODE_SIZE;
}

/* Single steps for a while; breakpoints on an instruction, and on a store to a word that is often one's. */
static void step(struct seq_engine *e, const struct seq_program *p)
{
	uint32_t random = (uint32_t)(p->number * 0x9e3779b97f4a7c15ull >> 32), steps = random % 60;
	struct x86_state *s = &e->state;

	put(e, RAM_KERNEL + OFF_STEPS, &steps, 4);
	if (random >> 8 & 3)
		s->rflags |= X86_FL_TF;
	s->dr[7] = 0x400;
	if (random >> 10 & 1) {
		s->dr[0] = CODE_BASE + p->item[(random >> 16) % p->n_items].at;
		s->dr[7] |= 1;
	}
	if (random >> 11 & 1) {
		s->dr[1] = DATA_BASE + 0x300 + (random >> 12 & 0x1fc);
		s->dr[7] |= 1u << 2 | 1u << 20 | 3u << 22;
	}
}

static void load(struct seq_engine *e, const struct seq_program *p)
{
	struct x86_state *s = &e->state;
	const uint16_t code = X86_SEG_P | X86_SEG_S | X86_SEG_DPL | 11 | X86_SEG_G |
			      (p->bits == 64 ? X86_SEG_L : X86_SEG_DB);

	map_pages(e, RAM_PT, CODE_BASE, code_gpa(e), CODE_SIZE, PTE_U | PTE_W);
	put(e, code_gpa(e), p->code, CODE_SIZE);
	put(e, RAM_DATA, e->pristine, DATA_SIZE);
	put(e, RAM_DATA + p->window_at, p->window, WINDOW);
	*s = e->initial;
	s->seg[X86_CS] = (struct x86_segment){ .limit = ~0u, .attr = code,
					       .selector = p->bits == 64 ? 0x33 : 0x23 };
	memcpy(s->gpr, p->in.gpr, sizeof(s->gpr));
	s->rip = p->in.rip;
	s->rflags = p->in.rflags | X86_FL_IF | X86_FL_ONE;
	memcpy(s->fpu.vec, p->in.vec, sizeof(s->fpu.vec));
	memcpy(s->fpu.opmask, p->in.opmask, sizeof(s->fpu.opmask));
	memcpy(s->fpu.st, p->in.st, sizeof(s->fpu.st));
	s->fpu.fcw = p->in.fcw;
	s->fpu.fsw = p->in.fsw;
	s->fpu.ftw = p->in.ftw;
	s->fpu.mxcsr = p->in.mxcsr;
	s->fpu.fop = 0;
	s->fpu.fip = s->fpu.fdp = 0;
	if (e->kind.stepped)
		step(e, p);
	engine_bt.vcpu_set_state(e->vcpu, s);
}

static bool has_error_code(int vector)
{
	return vector == X86_DF || (vector >= X86_TS && vector <= X86_PF) || vector == X86_AC;
}

/* The kernel's stack has SS, RSP, RFLAGS, CS, RIP and perhaps an error code, downwards. */
static void save(struct seq_engine *e, struct seq_result *r)
{
	struct x86_state *s = &e->state;
	uint64_t frame[6];

	engine_bt.vcpu_get_state(e->vcpu, s);
	memcpy(frame, e->ram + RAM_KERNEL + OFF_STACK - sizeof(frame), sizeof(frame));
	r->vector = e->vector;
	r->error = has_error_code(e->vector) ? (uint32_t)frame[0] : 0;
	r->cr2 = e->vector == X86_PF ? s->cr2 : 0;
	memcpy(r->out.gpr, s->gpr, sizeof(s->gpr));
	r->out.rip = frame[1];
	r->out.rflags = frame[3];
	r->out.gpr[X86_RSP] = frame[4];
	memcpy(r->out.vec, s->fpu.vec, sizeof(r->out.vec));
	memcpy(r->out.opmask, s->fpu.opmask, sizeof(r->out.opmask));
	memcpy(r->out.st, s->fpu.st, sizeof(s->fpu.st));
	for (unsigned i = 0; i < 8; i++)
		memset(r->out.st[i] + 10, 0, 6);
	r->out.fcw = s->fpu.fcw;
	r->out.fsw = s->fpu.fsw;
	r->out.ftw = s->fpu.ftw;
	r->out.mxcsr = s->fpu.mxcsr;
	memcpy(r->data, e->ram + RAM_DATA, DATA_SIZE);
	memcpy(r->code, e->ram + code_gpa(e), CODE_SIZE);
}

uint64_t seq_engine_stretches(const struct seq_engine *e)
{
	return e->stretches + (e->vcpu ? ((struct bt_vcpu *)e->vcpu)->stats.user_runs : 0);
}

void seq_engine_run(struct seq_engine *e, const struct seq_program *p, struct seq_result *r)
{
	time_t start;

	load(e, p);
	e->vector = -1;
	alarmed = e->vcpu;
	start = seconds();
	alarmed_often = e->kind.kicked;
	while (e->vector < 0 && seconds() - start < SECONDS_LIMIT)
		if (engine_bt.vcpu_run(e->vcpu) != ENGINE_EXIT_KICK)
			break;
	alarmed = NULL;
	r->valid = true;
	r->ended = e->vector >= 0;
	save(e, r);
	if (++e->turn < N_PROGRAMS)
		return;
	close_machine(e);
	e->mem = NULL;
	e->engine = NULL;
	e->vcpu = NULL;
	if (!new_machine(e))
		abort();
}
