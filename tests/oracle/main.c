// SPDX-License-Identifier: Apache-2.0
/*
 * main.c - the host CPU is the oracle: run random instructions natively and in the x86 core, compare.
 *
 * usage: oracle [--cases N] [--seed S] [--row MNEMONIC] [--only CASE] [--bits 16|32|64] [--strict] [--from CASE] [--watch]
 *
 * A mismatch prints the seed and the case's number, which bring it back: --seed S --only CASE.
 */
#include "oracle.h"

#include "x86/x86.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BATCH	       500u
#define SHOWN_PER_ROW  2u
#define SKIPPED	       77 /* to Meson */
#define FLAGS_COMPARED (X86_FL_STATUS | X86_FL_DF | X86_FL_AC | X86_FL_ID | X86_FL_NT)

struct run {
	struct oracle_options options;
	uint16_t rows[X86_ROW_COUNT];
	unsigned n_rows;
	struct oracle_case *cases;
	struct oracle_result *native; /* shared with the child */
	volatile unsigned *progress;  /* likewise */
	struct oracle_result *core;
	struct oracle_guest *guest;
	uint64_t n_run, n_bad, n_faults, n_lost, n_hits;
	bool no_watch; /* the host has no debug registers for us */
	unsigned shown[X86_ROW_COUNT];
	uint64_t bad[X86_ROW_COUNT], ran[X86_ROW_COUNT];
};

/* ---- comparison: what differs goes to @why ---- */

static void differ(char *why, size_t size, const char *what, uint64_t native, uint64_t core)
{
	size_t n = strlen(why);

	snprintf(why + n, size - n, "  %-8s cpu %016lx  core %016lx\n", what, native, core);
}

static uint64_t undefined_flags(const struct run *run, const struct oracle_case *c)
{
	struct x86_insn insn;

	if (run->options.strict)
		return 0;
	/* Prefixes may have made another instruction of it. */
	if (x86_decode(c->code, 15, c->bits / 8, &insn) > 0)
		return x86_rows[insn.row].undef;
	return x86_rows[c->row].undef;
}

static bool compare_regs(const struct run *run, const struct oracle_case *c,
			 const struct oracle_regs *a, const struct oracle_regs *b,
			 uint32_t mxcsr_undefined, char *why, size_t size)
{
	static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
					       "rsi", "rdi", "r8",  "r9",  "r10", "r11",
					       "r12", "r13", "r14", "r15" };
	uint64_t mask = c->bits == 64 ? ~0ull : 0xffffffff;
	uint64_t flags = FLAGS_COMPARED & ~undefined_flags(run, c);
	char name[16];

	for (unsigned i = 0; i < (c->bits == 64 ? 16u : 8u); i++)
		if ((a->gpr[i] ^ b->gpr[i]) & mask)
			differ(why, size, names[i], a->gpr[i], b->gpr[i]);
	if (a->rip != b->rip)
		differ(why, size, "rip", a->rip, b->rip);
	if ((a->rflags ^ b->rflags) & flags)
		differ(why, size, "flags", a->rflags & flags, b->rflags & flags);
	for (unsigned i = 0; i < 32; i++) {
		for (unsigned j = 0; j < 64; j += 8) {
			uint64_t x, y;

			memcpy(&x, a->vec[i] + j, 8);
			memcpy(&y, b->vec[i] + j, 8);
			snprintf(name, sizeof(name), "zmm%u[%u]", i, j / 8);
			if (x != y)
				differ(why, size, name, x, y);
		}
	}
	for (unsigned i = 0; i < 8; i++) {
		snprintf(name, sizeof(name), "k%u", i);
		if (a->opmask[i] != b->opmask[i])
			differ(why, size, name, a->opmask[i], b->opmask[i]);
	}
	for (unsigned i = 0; i < 8; i++) {
		uint64_t x, y;

		snprintf(name, sizeof(name), "st%u", i);
		memcpy(&x, a->st[i], 8);
		memcpy(&y, b->st[i], 8);
		if (x != y)
			differ(why, size, name, x, y);
		memcpy(&x, a->st[i] + 8, 8);
		memcpy(&y, b->st[i] + 8, 8);
		if (x != y)
			differ(why, size, name, x, y);
	}
	if (a->fcw != b->fcw)
		differ(why, size, "fcw", a->fcw, b->fcw);
	if (a->fsw != b->fsw)
		differ(why, size, "fsw", a->fsw, b->fsw);
	if (a->ftw != b->ftw)
		differ(why, size, "ftw", a->ftw, b->ftw);
	if ((a->mxcsr ^ b->mxcsr) & ~mxcsr_undefined)
		differ(why, size, "mxcsr", a->mxcsr, b->mxcsr);
	return *why == 0;
}

/* The processor's MXCSR_MASK may have AMD's misaligned mode, which the core does not offer. */
static bool is_mxcsr_mask(const struct oracle_case *c, uint64_t difference)
{
	return strstr(x86_rows[c->row].name, "SAVE") && difference == 2ull << 48;
}

static void compare_data(const struct oracle_case *c, const struct oracle_result *a,
			 const struct oracle_result *b, char *why, size_t size)
{
	char name[16];
	unsigned shown = 0;

	if (memcmp(a->data, b->data, DATA_SIZE) == 0)
		return;
	for (unsigned i = 0; i < DATA_SIZE && shown < 4; i += 8) {
		uint64_t x, y;

		memcpy(&x, a->data + i, 8);
		memcpy(&y, b->data + i, 8);
		snprintf(name, sizeof(name), "[+%x]", i);
		if (x != y && !is_mxcsr_mask(c, x ^ y)) {
			differ(why, size, name, x, y);
			shown++;
		}
	}
}

/* Which of two operands that both fault is told is the processor's choice. */
static bool has_two_operands(const struct oracle_case *c)
{
	return strcmp(x86_rows[c->row].name, "CMPS") == 0;
}

/* Where in a large or masked operand the processor starts is its choice, from the end even: it must
 * be less than a page away. */
static bool cr2_differs(const struct oracle_case *c, uint64_t a, uint64_t b)
{
	static const char *const vague[] = { "SAVE", "RSTOR", "LDENV", "STENV", "MASKMOV", "GATHER" };
	const char *name = x86_rows[c->row].name;

	/* Of MASKMOVQ and MASKMOVDQU, even whether a page without selected bytes counts. */
	if (has_two_operands(c) || strncmp(name, "MASKMOV", 7) == 0 ||
	    strncmp(name, "VMASKMOVDQU", 11) == 0)
		return false;
	if (x86_rows[c->row].vex == 2)
		return a - b + 0xfff > 2 * 0xfff;
	for (unsigned i = 0; i < sizeof(vague) / sizeof(vague[0]); i++)
		if (strstr(name, vague[i]))
			return a - b + 0xfff > 2 * 0xfff;
	return a != b;
}

/*
 * Of an unmasked overflow or underflow the core reports precision as if it were masked; a dot product
 * is three operations, and the core does not stop behind the first.
 */
static uint32_t undefined_mxcsr(const struct oracle_case *c, const struct oracle_result *a)
{
	if (a->vector != X86_XM)
		return 0;
	if (strstr(x86_rows[c->row].name, "DPP"))
		return 0x3f;
	return ~(a->out.mxcsr >> 7) & a->out.mxcsr & 0x18 ? 0x20 : 0;
}

/* AMD's processors let a masked store that stores nothing go where it must not be by its alignment. */
static bool is_misaligned_nothing(const struct oracle_case *c, const struct oracle_result *a,
				  const struct oracle_result *b)
{
	const uint8_t *p = c->code;
	unsigned elements;
	uint64_t mask;

	if (c->row < X86_ROW_HOST_FIRST || strncmp(x86_rows[c->row].name, "VMOV", 4) != 0 ||
	    a->vector >= 0 || b->vector != X86_GP)
		return false;
	while (*p != 0x62)
		p++;
	elements = (16u << (p[3] >> 5 & 3)) / (p[2] & 0x80 ? 8 : 4);
	mask = c->in.opmask[p[3] & 7] & ((1ull << elements) - 1);
	return p[3] & 7 && !mask;
}

/*
 * What the manual leaves to the processor: a trap in the middle of a gather, which then stands at its own
 * address again; faults of a masked store that selects nothing there; #AC or #GP for a misaligned FXSAVE.
 */
static bool is_free_choice(const struct oracle_case *c, const struct oracle_result *a,
			   const struct oracle_result *b)
{
	const struct x86_row_info *row = &x86_rows[c->row];

	if (is_misaligned_nothing(c, a, b))
		return true;
	/* Whether what a mask leaves out counts for alignment, or for the limit of a segment. */
	if (row->vex == 2 && (a->vector == X86_AC || b->vector == X86_AC))
		return true;
	if (row->vex == 2 && c->bits == 16 && a->vector == X86_PF)
		return b->vector == X86_GP || b->vector == X86_SS_FAULT;

	if (row->attrs & X86_ROW_ATTR_VSIB)
		return a->vector < 0 && a->out.rip == c->in.rip;
	if (strstr(row->name, "MASKMOVDQU") || !strcmp(row->name, "MASKMOVQ"))
		return (a->vector == X86_PF && b->vector < 0) || (a->vector == X86_GP && c->bits == 16);
	/* An operand of ten bytes that reaches beyond its segment and begins in a page that is not there. */
	if (c->bits == 16 && row->name[0] == 'F' && a->vector == X86_PF)
		return b->vector == X86_GP || b->vector == X86_SS_FAULT;
	return !strcmp(row->name, "FXSAVE") && (a->vector == X86_GP || a->vector == X86_AC) &&
	       (b->vector == X86_GP || b->vector == X86_AC);
}

/* AMD's misaligned SSE mode, which is not offered to a guest: there its bit is #GP. */
static bool sets_misaligned_mode(const struct oracle_result *a)
{
	return a->vector < 0 && a->out.mxcsr & 1u << 17;
}

/*
 * What the manual leaves to the processor: whether elements that a mask leaves out are touched, and whether instructions that
 * use half of an operand of 16 bytes read all of it ("may access only 64 bits": PUNPCKLBW, UNPCKLPD, PSRLW).
 */
static bool hits_differ(const struct oracle_case *c, uint32_t cpu, uint32_t core)
{
	const char *name = x86_rows[c->row].name + (x86_rows[c->row].name[0] == 'V');

	if (strstr(name, "MASKMOV") || x86_rows[c->row].vex == 2)
		return core & ~cpu;
	if (strstr(name, "UNPCK") || strncmp(name, "PSRL", 4) == 0 || strncmp(name, "PSLL", 4) == 0 ||
	    strncmp(name, "PSRA", 4) == 0)
		return cpu & ~core;
	return cpu != core;
}

static bool compare(const struct run *run, const struct oracle_case *c,
		    const struct oracle_result *a, const struct oracle_result *b, char *why,
		    size_t size)
{
	/* Whether a kernel address is mapped is the host kernel's business. */
	uint32_t error_mask = a->cr2 >> 47 ? ~X86_PF_P : ~0u;

	*why = 0;
	if (is_free_choice(c, a, b))
		return true;
	if (sets_misaligned_mode(a))
		return true;
	/* What an instruction touched that then faults is told by some processors. */
	if (run->options.watch && a->vector < 0 && b->vector < 0 && hits_differ(c, a->hits, b->hits))
		differ(why, size, "hits", a->hits, b->hits);
	if (a->vector != b->vector)
		differ(why, size, "vector", (uint64_t)a->vector, (uint64_t)b->vector);
	else if (a->vector == X86_PF && cr2_differs(c, a->cr2, b->cr2))
		differ(why, size, "cr2", a->cr2, b->cr2);
	else if ((a->vector == X86_PF || a->vector == X86_GP) && (a->error ^ b->error) & error_mask)
		differ(why, size, "error", a->error, b->error);
	compare_regs(run, c, &a->out, &b->out, undefined_mxcsr(c, a), why, size);
	compare_data(c, a, b, why, size);
	return *why == 0;
}

/* ---- report ---- */

static void show_case(const struct run *run, const struct oracle_case *c)
{
	const struct x86_row_info *row = &x86_rows[c->row];

	printf("%s | %s: --seed %lu --only %lu (%u bits)%s%s\n ", row->name, row->opcode_text,
	       run->options.seed, c->number, c->bits, run->options.row ? " --row " : "",
	       run->options.row ? run->options.row : "");
	for (unsigned i = 0; i < 15; i++)
		printf(" %02x", c->code[i]);
	printf("\n");
}

static void show_input(const struct oracle_case *c)
{
	static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
					       "rsi", "rdi", "r8",  "r9",  "r10", "r11",
					       "r12", "r13", "r14", "r15" };

	for (unsigned i = 0; i < 16; i++)
		printf("  %3s %016lx%s", names[i], c->in.gpr[i], i % 4 == 3 ? "\n" : "");
	printf("  rip %lx flags %lx mxcsr %x fcw %x fsw %x ftw %x\n", c->in.rip, c->in.rflags,
	       c->in.mxcsr, c->in.fcw, c->in.fsw, c->in.ftw);
	for (unsigned i = 0; i < 32; i++) {
		uint64_t v[8];

		memcpy(v, c->in.vec[i], 64);
		printf("  zmm%-2u", i);
		for (unsigned j = 8; j-- > 0;)
			printf(" %016lx", v[j]);
		printf("\n");
	}
	for (unsigned i = 0; i < 8; i++)
		printf("  k%u %016lx%s", i, c->in.opmask[i], i % 4 == 3 ? "\n" : "");
	for (unsigned i = 0; i < 8; i++) {
		uint64_t m;
		uint16_t e;

		memcpy(&m, c->in.st[i], 8);
		memcpy(&e, c->in.st[i] + 8, 2);
		printf("  st%u %04x %016lx\n", i, e, m);
	}
	printf("  window at +%x:", c->window_at);
	for (unsigned i = 0; i < WINDOW; i++)
		printf("%s%02x", i % 32 ? " " : "\n    ", c->window[i]);
	printf("\n");
}

static void judge(struct run *run, unsigned i, bool verbose)
{
	const struct oracle_case *c = &run->cases[i];
	char why[8192];

	run->n_run++;
	run->ran[c->row]++;
	if (run->native[i].vector >= 0)
		run->n_faults++;
	else
		run->n_hits += run->native[i].hits != 0;
	if (!compare(run, c, &run->native[i], &run->core[i], why, sizeof(why))) {
		run->n_bad++;
		run->bad[c->row]++;
		if (run->shown[c->row]++ < SHOWN_PER_ROW || verbose) {
			show_case(run, c);
			fputs(why, stdout);
		}
	}
	if (verbose) {
		show_case(run, c);
		show_input(c);
		printf("  ended: cpu %d, core %d (-1: no fault)\n", run->native[i].vector,
		       run->core[i].vector);
	}
}

/* ---- running ---- */

/* How many of @n the child got through. */
static unsigned run_native(struct run *run, unsigned first, unsigned n)
{
	int status;
	pid_t pid;

	fflush(stdout);
	*run->progress = 0;
	pid = fork();
	if (pid == 0)
		oracle_native_run(run->cases + first, run->native + first, n, run->progress,
				  run->options.watch);
	if (pid < 0)
		return 0;
	if (run->options.watch) {
		if (!oracle_watch_trace(pid, run->cases + first, run->native + first, run->progress,
					run->options.seed, &status)) {
			run->no_watch = true;
			return n;
		}
	} else if (waitpid(pid, &status, 0) != pid) {
		return 0;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return n;
	return *run->progress;
}

static void run_batch(struct run *run, uint64_t number, unsigned n, bool verbose)
{
	for (unsigned i = 0; i < n; i++) {
		oracle_generate(&run->cases[i], number + i, &run->options, run->rows, run->n_rows);
		run->native[i].valid = false;
	}
	for (unsigned done = 0; done < n;) {
		done += run_native(run, done, n - done);
		if (done < n) { /* this case killed the child */
			run->n_lost++;
			printf("lost ");
			show_case(run, &run->cases[done]);
			done++;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		struct oracle_watch watch;

		if (!run->native[i].valid)
			continue;
		oracle_watch_choose(&run->cases[i], run->options.seed, &watch);
		oracle_guest_run(run->guest, &run->cases[i], run->options.watch ? &watch : NULL, &run->core[i]);
		judge(run, i, verbose);
	}
}

static int summary(const struct run *run)
{
	unsigned never = 0;

	for (unsigned i = 0; i < X86_ROW_COUNT; i++)
		if (run->bad[i])
			printf("%-12s %-28s %lu of %lu differ\n", x86_rows[i].name,
			       x86_rows[i].opcode_text, run->bad[i], run->ran[i]);
	for (unsigned i = 0; i < run->n_rows; i++)
		never += !run->ran[run->rows[i]];
	printf("oracle: seed %lu: %lu cases of %u rows (%u not reached), %lu faulted, %lu differ, "
	       "%lu lost\n", run->options.seed, run->n_run, run->n_rows, never, run->n_faults,
	       run->n_bad, run->n_lost);
	if (run->options.watch)
		printf("oracle: watchpoints hit in %lu\n", run->n_hits);
	if (run->options.watch && run->n_run >= BATCH && !run->n_hits)
		return 1;
	return run->n_bad || run->n_lost ? 1 : 0;
}

static bool set_up(struct run *run)
{
	size_t size = sizeof(*run->native) * BATCH;

	run->cases = calloc(BATCH, sizeof(*run->cases));
	run->core = calloc(BATCH, sizeof(*run->core));
	run->native = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			   0);
	run->guest = oracle_guest_new();
	if (!run->guest)
		return false;
	run->options.no_16 = !oracle_native_has_16();
	run->options.wide = oracle_native_has_wide();
	if (!run->options.wide)
		printf("oracle: no AVX-512 here: its instructions are skipped\n");
	if (run->options.no_16)
		printf("oracle: this host has no 16-bit code segments: their cases are skipped\n");
	for (unsigned i = 0; i < X86_ROW_COUNT; i++)
		if (oracle_row_is_wanted(i, &run->options) &&
		    oracle_guest_has(run->guest, x86_rows[i].feature))
			run->rows[run->n_rows++] = (uint16_t)i;
	if (!run->n_rows)
		fprintf(stderr, "oracle: no such row\n");
	if (!run->n_rows || !run->cases || !run->core || run->native == MAP_FAILED)
		return false;
	run->progress = (volatile unsigned *)((uint8_t *)run->native + size);
	return true;
}

int main(int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "cases", required_argument, NULL, 'c' }, { "seed", required_argument, NULL, 's' },
		{ "row", required_argument, NULL, 'r' },   { "only", required_argument, NULL, 'o' },
		{ "bits", required_argument, NULL, 'b' },  { "strict", no_argument, NULL, 'S' },
		{ "from", required_argument, NULL, 'f' },  { "watch", no_argument, NULL, 'w' },
		{ 0 },
	};
	static struct run run;
	uint64_t cases = 100000, from = 0;
	bool verbose = false;
	int opt;

	run.options.seed = 1;
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
		case 'f':
			from = strtoull(optarg, NULL, 0);
			break;
		case 'b':
			run.options.bits = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'w':
			run.options.watch = true;
			break;
		case 'S':
			run.options.strict = true;
			break;
		default:
			return 2;
		}
	}
	if (!set_up(&run))
		return 2;
	for (uint64_t done = 0; done < cases; done += BATCH)
		run_batch(&run, from + done, cases - done < BATCH ? (unsigned)(cases - done) : BATCH,
			  verbose);
	if (run.no_watch) {
		printf("oracle: skipped: this host has no debug registers for us\n");
		return SKIPPED;
	}
	return summary(&run);
}
