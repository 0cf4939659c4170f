// SPDX-License-Identifier: Apache-2.0
/*
 * seq.c - random programs on the host CPU, in the x86 core, and in the bt engine interpreting and
 * translating; what they leave behind is compared.
 *
 * usage: oracle-seq [--cases N] [--seconds S] [--seed S] [--from CASE] [--only CASE] [--bits 32|64]
 *	[--off MASK] [--all]
 *
 * Each program runs translated, and in the other ways by turns; with --all in each of them.
 * A program that differs is printed with its seed and number, less the instructions that do not
 * matter.
 */
#include "seq.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "x86/x86.h"

#define BATCH	       512u
#define SHOWN	       8u
#define ALONE	       (-1)
#define NAME	       40u /* bytes */
#define FLAGS_COMPARED (X86_FL_STATUS | X86_FL_DF | X86_FL_AC | X86_FL_ID | X86_FL_NT)
#define TURNS	       16u /* of programs, one for each of the rarer ways */
#define FAULTS_KEPT    35u /* percent of the programs that may end in a fault */

enum way { WAY_CPU, WAY_CORE, WAY_INTERPRET, WAY_NATIVE, WAY_SMALL, WAY_KICKED, WAY_OFF, WAY_DIRECT,
	   WAY_USER, WAY_STEPPED, WAYS };

static const char *const way_names[WAYS] = {
	"cpu", "core", "engine, interpreting", "engine, translating",
	"engine, a small cache", "engine, kicked", "engine, less one optimization",
	"engine, on the MMU of the host", "as it is", "engine, with single steps and breakpoints",
};

struct run {
	struct oracle_options options;
	uint32_t off; /* optimizations that no engine has */
	bool all;
	struct seq_rows rows;
	struct oracle_guest *guest;
	struct seq_engine *engine[WAYS];
	struct seq_program *programs;
	struct seq_result *cpu, *core, other; /* cpu: shared with the child */
	volatile unsigned *progress;
	uint64_t n_run, n_dropped, n_faults, n_bad, n_lost, n_patched;
};

/* ---- comparison ---- */

struct verdict {
	bool bad;
	char *text; /* or NULL */
	size_t size;
};

/* @index: of several of that name; or ALONE. */
static void name_of(char ret[NAME], const char *name, int index)
{
	snprintf(ret, NAME, index == ALONE ? "%s" : "%s%d", name, index);
}

static void differ(struct verdict *v, const char *name, int index, uint64_t a, uint64_t b)
{
	char what[NAME];
	size_t n;

	v->bad = true;
	if (!v->text)
		return;
	name_of(what, name, index);
	n = strlen(v->text);
	snprintf(v->text + n, v->size - n, "  %-8s %016lx  %016lx\n", what, a, b);
}

static void compare_bytes(struct verdict *v, const char *name, int index, const uint8_t *a,
			  const uint8_t *b, unsigned len)
{
	char part[NAME], what[NAME + 10];

	if (memcmp(a, b, len) == 0)
		return;
	for (unsigned i = 0; i < len; i += 8) {
		uint64_t x = 0, y = 0;
		unsigned n = len - i < 8 ? len - i : 8;

		memcpy(&x, a + i, n);
		memcpy(&y, b + i, n);
		name_of(part, name, index);
		snprintf(what, sizeof(what), "%s+%x", part, i);
		if (x != y)
			differ(v, what, ALONE, x, y);
	}
}

/* The row of the instruction that faulted, or NULL. */
static const struct x86_row_info *row_at(const struct seq_program *p, const struct seq_result *r)
{
	struct x86_insn insn;
	uint64_t off = r->out.rip - CODE_BASE;

	if (off >= CODE_SIZE ||
	    x86_decode(r->code + off, CODE_SIZE - off < 15 ? CODE_SIZE - off : 15, p->bits / 8, &insn) <= 0)
		return NULL;
	return &x86_rows[insn.row];
}

/* What may differ where the program ended in a fault: see main.c, where the same is said of
 * single instructions. */
struct leave_out {
	uint64_t flags;
	uint32_t mxcsr, error;
	bool registers; /* how many POPA has loaded is the processor's choice */
	bool which; /* of two faults is told */
};

static void leave_out(struct leave_out *o, const struct seq_program *p, const struct seq_result *a)
{
	const struct x86_row_info *row = a->vector == X86_BP ? NULL : row_at(p, a);

	*o = (struct leave_out){ .flags = ~(uint64_t)FLAGS_COMPARED };
	if (row)
		o->flags |= row->undef;
	if (a->cr2 >= 0x7ffffffff000) /* the upper half and the page below it are no program's */
		o->error = X86_PF_P;
	if (row && strcmp(row->name, "CMPS") == 0)
		o->which = true;
	/* What is first: not aligned, or not canonical? */
	if (row && (row->align || strcmp(row->name, "CMPXCHG16B") == 0) &&
	    (a->vector == X86_GP || a->vector == X86_SS_FAULT))
		o->which = true;
	if (row && strncmp(row->name, "POPA", 4) == 0)
		o->registers = true;
	if (a->vector == X86_XM && row && strstr(row->name, "DPP"))
		o->mxcsr = 0x3f;
	else if (a->vector == X86_XM && ~(a->out.mxcsr >> 7) & a->out.mxcsr & 0x18)
		o->mxcsr = 0x20;
}

static void compare_registers(struct verdict *v, const struct seq_program *p,
			      const struct oracle_regs *a, const struct oracle_regs *b,
			      const struct leave_out *o)
{
	uint64_t mask = p->bits == 64 ? ~0ull : 0xffffffff;

	for (unsigned i = 0; i < (p->bits == 64 ? 16u : 8u); i++)
		if ((a->gpr[i] ^ b->gpr[i]) & mask && !o->registers)
			differ(v, "r", i, a->gpr[i], b->gpr[i]);
	if (a->rip != b->rip)
		differ(v, "rip", ALONE, a->rip, b->rip);
	if ((a->rflags ^ b->rflags) & ~o->flags)
		differ(v, "flags", ALONE, a->rflags, b->rflags);
	for (unsigned i = 0; i < (p->bits == 64 ? 16u : 8u); i++)
		compare_bytes(v, "ymm", i, a->vec[i], b->vec[i], 64);
	for (unsigned i = 0; i < 8; i++)
		compare_bytes(v, "st", i, a->st[i], b->st[i], 10);
	if (a->fcw != b->fcw)
		differ(v, "fcw", ALONE, a->fcw, b->fcw);
	if (a->fsw != b->fsw)
		differ(v, "fsw", ALONE, a->fsw, b->fsw);
	if (a->ftw != b->ftw)
		differ(v, "ftw", ALONE, a->ftw, b->ftw);
	if ((a->mxcsr ^ b->mxcsr) & ~o->mxcsr)
		differ(v, "mxcsr", ALONE, a->mxcsr, b->mxcsr);
}

static void compare(struct verdict *v, const struct seq_program *p, const struct seq_result *a,
		    const struct seq_result *b)
{
	struct leave_out o;

	leave_out(&o, p, a);
	if (a->ended != b->ended)
		differ(v, "ended", ALONE, a->ended, b->ended);
	else if (o.which &&
		 (b->vector == X86_PF || b->vector == X86_GP || b->vector == X86_SS_FAULT))
		; /* the processor's choice */
	else if (a->vector != b->vector)
		differ(v, "vector", ALONE, (uint64_t)a->vector, (uint64_t)b->vector);
	else if (a->cr2 != b->cr2)
		differ(v, "cr2", ALONE, a->cr2, b->cr2);
	else if ((a->vector == X86_PF || a->vector == X86_GP) && (a->error ^ b->error) & ~o.error)
		differ(v, "error", ALONE, a->error, b->error);
	compare_registers(v, p, &a->out, &b->out, &o);
	compare_bytes(v, "data", ALONE, a->data, b->data, DATA_SIZE);
	compare_bytes(v, "code", ALONE, a->code, b->code, CODE_SIZE);
}

/* ---- running ---- */

/* How many of @n the child got through. */
static unsigned run_cpu(struct run *run, const struct seq_program *p, struct seq_result *r,
			unsigned n)
{
	int status;
	pid_t pid;

	fflush(stdout);
	*run->progress = 0;
	pid = fork();
	if (pid == 0)
		seq_native_run(p, r, n, run->progress);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 0;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? n : *run->progress;
}

/* Run @p by @way and compare with what the CPU made of it. */
static bool differs(struct run *run, const struct seq_program *p, const struct seq_result *cpu,
		    enum way way, char *text, size_t size)
{
	struct verdict v = { .text = text, .size = size };

	if (way == WAY_CORE) {
		if (!seq_step_run(run->guest, p, &run->other))
			return false;
	} else {
		seq_engine_run(run->engine[way], p, &run->other);
	}
	if (text)
		*text = 0;
	compare(&v, p, cpu, &run->other);
	return v.bad;
}

/* ENTER copies frame pointers, and one that faults in the middle has done so in part. A runner
 * executes it until then, and the core once more for the guest, as a processor does behind the page
 * fault: where the copies overlap, memory shows it. */
static bool enters_twice(const struct seq_program *p, const struct seq_result *cpu)
{
	uint64_t at = cpu->out.rip - CODE_BASE;

	while (cpu->vector == X86_PF && at < CODE_SIZE - 4 &&
	       (cpu->code[at] == 0x66 || (p->bits == 64 && (cpu->code[at] & 0xf0) == 0x40)))
		at++;
	return cpu->vector == X86_PF && at < CODE_SIZE - 4 && cpu->code[at] == 0xc8 &&
	       cpu->code[at + 3] & 31;
}

/* ---- report ---- */

static void show(const struct seq_program *p)
{
	for (unsigned i = 0; i < p->n_items; i++) {
		const struct seq_item *item = &p->item[i];
		struct x86_insn insn;
		bool nops = true;

		for (unsigned j = 0; j < item->len; j++)
			nops &= item->bytes[j] == 0x90;
		if (nops)
			continue;
		printf("  %08llx %-12s", CODE_BASE + item->at,
		       x86_decode(item->bytes, item->len, p->bits / 8, &insn) > 0 ?
			       x86_rows[insn.row].name : "?");
		for (unsigned j = 0; j < item->len; j++)
			printf(" %02x", item->bytes[j]);
		printf("\n");
	}
}

static bool still_differs(struct run *run, const struct seq_program *p, enum way way)
{
	static struct seq_result *cpu;

	if (!cpu)
		cpu = mmap(NULL, sizeof(*cpu), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			   -1, 0);
	return cpu != MAP_FAILED && seq_step_run(run->guest, p, &run->other) &&
	       run_cpu(run, p, cpu, 1) == 1 && differs(run, p, cpu, way, NULL, 0);
}

/* Take out what is not needed for the difference. */
static void reduce(struct run *run, struct seq_program *p, enum way way)
{
	static struct seq_program best;
	bool smaller = true;

	while (smaller) {
		smaller = false;
		for (unsigned i = 0; i + 1 < p->n_items; i++) {
			best = *p;
			seq_remove(&best, i);
			if (memcmp(best.item[i].bytes, p->item[i].bytes, 15) == 0)
				continue;
			seq_layout(&best);
			if (still_differs(run, &best, way)) {
				*p = best;
				smaller = true;
			}
		}
	}
}

static void report(struct run *run, const struct seq_program *p, const struct seq_result *cpu,
		   enum way way)
{
	static struct seq_program small;
	static char text[1 << 16];

	if (run->n_bad++ >= SHOWN)
		return;
	differs(run, p, cpu, way, text, sizeof(text));
	small = *p;
	if (!getenv("NOREDUCE"))
		reduce(run, &small, way);
	printf("--seed %lu --only %lu (%u bits): %s; cpu, other:\n%.1500s", run->options.seed,
	       p->number, p->bits, way_names[way], text);
	show(&small);
	printf("  ended at %lx by vector %d:", cpu->out.rip, cpu->vector);
	for (unsigned i = 0; i < 15 && cpu->out.rip - CODE_BASE + i < CODE_SIZE; i++)
		printf(" %02x", cpu->code[cpu->out.rip - CODE_BASE + i]);
	printf("\n");
	fflush(stdout);
}

/* ---- batches ---- */

/*
 * A program that the core can run to an end. Where it faults, the instruction is mostly taken out,
 * so that faults do not keep all programs short.
 */
static bool make(struct run *run, struct seq_program *p, uint64_t number, struct seq_result *core)
{
	bool keep = (number * 0x9e3779b97f4a7c15ull >> 40) % 100 < FAULTS_KEPT;

	seq_generate(p, number, &run->options, &run->rows);
	for (unsigned i = 0; i < SEQ_ITEMS; i++) {
		int item;

		if (!seq_step_run(run->guest, p, core))
			return false;
		if (core->vector == X86_BP || keep)
			return true;
		item = seq_item_at(p, core->out.rip);
		if (item < 0 || item + 1 == (int)p->n_items)
			return true;
		seq_remove(p, (unsigned)item);
		seq_layout(p);
	}
	return true;
}

static void judge(struct run *run, unsigned i)
{
	const struct seq_program *p = &run->programs[i];
	struct verdict v = { 0 };

	run->n_run++;
	run->n_faults += run->cpu[i].vector != X86_BP;
	run->n_patched += memcmp(p->code, run->cpu[i].code, CODE_SIZE) != 0;
	compare(&v, p, &run->cpu[i], &run->core[i]);
	if (v.bad) {
		report(run, p, &run->cpu[i], WAY_CORE);
		return;
	}
	_Static_assert(WAYS <= TURNS, "each has its turn");
	for (enum way way = WAY_INTERPRET; way < WAYS; way++) {
		if (way != WAY_NATIVE && !run->all && p->number % TURNS != (unsigned)way)
			continue;
		if (way == WAY_STEPPED && run->core[i].sees_flags)
			continue;
		if (way == WAY_USER && enters_twice(p, &run->cpu[i]))
			continue;
		if (differs(run, p, &run->cpu[i], way, NULL, 0)) {
			report(run, p, &run->cpu[i], way);
			return;
		}
	}
}

static void run_batch(struct run *run, uint64_t number, unsigned count)
{
	unsigned n = 0;

	for (unsigned i = 0; i < count; i++) {
		if (make(run, &run->programs[n], number + i, &run->core[n]))
			run->cpu[n++].valid = false;
		else
			run->n_dropped++;
	}
	for (unsigned done = 0; done < n;) {
		done += run_cpu(run, run->programs + done, run->cpu + done, n - done);
		if (done < n) { /* this one killed the child */
			run->n_lost++;
			printf("lost: --seed %lu --only %lu\n", run->options.seed,
			       run->programs[done].number);
			done++;
		}
	}
	for (unsigned i = 0; i < n; i++)
		if (run->cpu[i].valid)
			judge(run, i);
}

static bool set_up(struct run *run)
{
	struct seq_engine_kind kinds[WAYS] = {
		[WAY_INTERPRET] = { .interpret = true, .cache_bytes = 1 << 20 },
		[WAY_NATIVE] = { .threshold = 1, .cache_bytes = 4 << 20 },
		[WAY_SMALL] = { .threshold = 0, .cache_bytes = 64 << 10 },
		[WAY_KICKED] = { .threshold = 1, .cache_bytes = 1 << 20, .kicked = true },
		[WAY_OFF] = { .threshold = 1, .cache_bytes = 1 << 20, .off_in_turn = true },
		[WAY_DIRECT] = { .threshold = 1, .cache_bytes = 1 << 20, .off = SEQ_OFF_DIRECT_WAIT },
		[WAY_USER] = { .threshold = 1, .cache_bytes = 1 << 20, .off = SEQ_OFF_USER_WAIT },
		[WAY_STEPPED] = { .threshold = 1, .cache_bytes = 1 << 20, .stepped = true },
	};
	size_t size = sizeof(*run->cpu) * BATCH;

	run->guest = oracle_guest_new();
	run->programs = calloc(BATCH, sizeof(*run->programs));
	run->core = calloc(BATCH, sizeof(*run->core));
	run->cpu = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!run->guest || !run->programs || !run->core || run->cpu == MAP_FAILED)
		return false;
	run->progress = (volatile unsigned *)((uint8_t *)run->cpu + size);
	seq_rows_init(&run->rows, run->guest, &run->options);
	for (enum way way = WAY_INTERPRET; way < WAYS; way++) {
		kinds[way].off |= run->off;
		run->engine[way] = seq_engine_new(&kinds[way]);
		if (!run->engine[way])
			return false;
	}
	return true;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "cases", required_argument, NULL, 'c' }, { "seconds", required_argument, NULL, 't' },
		{ "seed", required_argument, NULL, 's' },  { "only", required_argument, NULL, 'o' },
		{ "from", required_argument, NULL, 'f' },  { "off", required_argument, NULL, 'x' },
		{ "bits", required_argument, NULL, 'b' },
		{ "all", no_argument, NULL, 'a' },
		{ 0 },
	};
	static struct run run;
	uint64_t cases = UINT64_MAX, from = 0;
	double seconds = 10, start;
	bool only = false;
	int opt;

	run.options.seed = 1;
	while ((opt = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
		switch (opt) {
		case 'c':
			cases = strtoull(optarg, NULL, 0);
			seconds = 1e9;
			break;
		case 't':
			seconds = strtod(optarg, NULL);
			break;
		case 's':
			run.options.seed = strtoull(optarg, NULL, 0);
			break;
		case 'o':
			from = strtoull(optarg, NULL, 0);
			only = run.all = true;
			break;
		case 'f':
			from = strtoull(optarg, NULL, 0);
			break;
		case 'x':
			run.off = (uint32_t)strtoul(optarg, NULL, 0);
			break;
		case 'a':
			run.all = true;
			break;
		case 'b':
			run.options.bits = (unsigned)strtoul(optarg, NULL, 0);
			break;
		default:
			return 2;
		}
	}
	if (!set_up(&run))
		return 2;
	start = now();
	/* Programs without an end do not count, unless one alone was asked for. */
	for (uint64_t done = 0; run.n_run < cases && now() - start < seconds && !(only && done);
	     done += BATCH)
		run_batch(&run, from + done, only ? 1 : BATCH);
	printf("oracle-seq: seed %lu: %lu programs, %lu faulted, %lu changed their code, "
	       "%lu without an end, %lu stretches as they are, %lu differ, %lu lost\n", run.options.seed,
	       run.n_run, run.n_faults, run.n_patched, run.n_dropped,
	       seq_engine_stretches(run.engine[WAY_USER]), run.n_bad, run.n_lost);
	return run.n_bad || run.n_lost ? 1 : 0;
}
