// SPDX-License-Identifier: Apache-2.0
/* programs.h - classes of work to be timed; each is one function that does the same every time. */
#pragma once

#include <stdint.h>

struct program {
	const char *name;
	void (*run)(void);
};

/* Where results go, so that no work is optimized away. */
extern volatile uint64_t program_sink;

/* One table for each family, each ends with a NULL name. */
extern const struct program programs_compute[]; /* integers, calls, sorting, hashing, compression */
extern const struct program programs_memory[];	/* pointer chasing, copies, large arrays */
extern const struct program programs_vector[];	/* SSE, AVX, AES, SHA, x87 */
extern const struct program programs_system[];	/* system calls, signals, faults, pipes, processes */
extern const struct program programs_threads[]; /* two threads on two vCPUs */
