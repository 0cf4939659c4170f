// SPDX-License-Identifier: Apache-2.0
/*
 * dirty.c - what goes on in a guest that moves while it runs: threads that write all of their
 * memory, round after round, and see that each page still has what the round before left there. A
 * page whose last write was not taken along is one round behind.
 *
 * usage: dirty MIB THREADS MS     MS: each thread's pause behind each 16 pages
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define WORDS	   (PAGE_BYTES / 8)
#define BURST	   16u

struct part {
	volatile uint64_t *memory;
	size_t pages;
	unsigned number;
	struct timespec pause;
};

/* At both ends of the page and somewhere between, not always in the same place. */
static size_t middle(size_t page, uint64_t round)
{
	return 1 + (page * 7 + round) % (WORDS - 2);
}

static uint64_t stamp(const struct part *part, size_t page, uint64_t round)
{
	return round << 32 | (uint64_t)part->number << 24 | page;
}

static void check(const struct part *part, size_t page, size_t word, uint64_t round)
{
	uint64_t is = part->memory[page * WORDS + word], expected = stamp(part, page, round);

	if (is != expected)
		printf("SIKA-BAD page %zu of thread %u, word %zu: %llx is not %llx\n", page,
		       part->number, word, (unsigned long long)is, (unsigned long long)expected);
}

static void *go(void *arg)
{
	const struct part *part = arg;

	for (uint64_t round = 1;; round++) {
		for (size_t page = 0; page < part->pages; page++) {
			volatile uint64_t *at = part->memory + page * WORDS;

			if (round > 1) {
				check(part, page, 0, round - 1);
				check(part, page, middle(page, round - 1), round - 1);
				check(part, page, WORDS - 1, round - 1);
			}
			at[0] = at[middle(page, round)] = at[WORDS - 1] = stamp(part, page, round);
			if (page % BURST == 0)
				nanosleep(&part->pause, NULL);
		}
		printf("SIKA-ROUND %llu of thread %u\n", (unsigned long long)round, part->number);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	size_t bytes = argc > 1 ? (size_t)atoi(argv[1]) << 20 : 0;
	unsigned threads = argc > 2 ? (unsigned)atoi(argv[2]) : 0,
		 ms = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
	char *memory;

	if (!bytes || !threads)
		return EXIT_FAILURE;
	setvbuf(stdout, NULL, _IOLBF, 0);
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return EXIT_FAILURE;
	for (unsigned i = 0; i < threads; i++) {
		struct part *part = calloc(1, sizeof(*part));
		pthread_t thread;

		if (!part)
			return EXIT_FAILURE;
		*part = (struct part){ .memory = (void *)(memory + bytes / threads / PAGE_BYTES *
									   PAGE_BYTES * i),
				       .pages = bytes / threads / PAGE_BYTES,
				       .number = i,
				       .pause = { .tv_nsec = (long)ms % 1000 * 1000000 } };
		if (pthread_create(&thread, NULL, go, part))
			return EXIT_FAILURE;
	}
	/* Not pthread_exit(), which looks for a library that the guest has not. */
	for (;;)
		pause();
}
