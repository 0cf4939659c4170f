// SPDX-License-Identifier: Apache-2.0
/*
 * programs.c - small classes of work, each timed: the same static program runs on the host, and as init
 * of a guest, where it powers the machine off at its end. One line each: "B name seconds".
 *
 * Arguments name the classes to run, or their families; none: all but the threads.
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

#include "programs.h"

#define REPEAT 3 /* the best counts */

volatile uint64_t program_sink;

static const struct family {
	const char *name;
	const struct program *programs;
	bool by_name_only;
} families[] = {
	{ "compute", programs_compute, false },
	{ "memory", programs_memory, false },
	{ "vector", programs_vector, false },
	{ "system", programs_system, false },
	{ "threads", programs_threads, true },
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void run_program(const struct program *p)
{
	double best = 1e9;

	for (int r = 0; r < REPEAT; r++) {
		double start = now(), took;

		p->run();
		took = now() - start;
		best = took < best ? took : best;
	}
	printf("B %s %.5f\n", p->name, best);
	fflush(stdout);
}

/* A kernel hands words it does not know to its init too: they name nothing here. */
static bool is_wanted(const char *name, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], name) == 0)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	bool init = getpid() == 1;

	if (argc > 1 && strcmp(argv[1], "nothing") == 0)
		return 0;
	if (init)
		(void)mount("proc", "/proc", "proc", 0, NULL);
	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		const struct family *f = &families[i];
		bool all = argc < 2 ? !f->by_name_only : is_wanted(f->name, argc, argv);

		for (const struct program *p = f->programs; p->name; p++)
			if (all || is_wanted(p->name, argc, argv))
				run_program(p);
	}
	if (init)
		reboot(RB_POWER_OFF);
	return 0;
}
