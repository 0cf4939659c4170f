// SPDX-License-Identifier: Apache-2.0
/*
 * dirty.c - what goes on in a guest that moves while it runs: threads that write all of their
 * memory, round after round, and see that each page still has what the round before left there. A
 * page whose last write was not taken along is one round behind. At SIGTERM each thread looks at
 * all of its pages once more, so that none is left that nobody has looked at since the move, and
 * says SIKA-WROTE.
 *
 * usage: dirty MIB THREADS MS     MS: each thread's pause behind each 16 pages
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE_BYTES 4096u
#define WORDS	   (PAGE_BYTES / 8)
#define BURST	   16u

struct part {
	const atomic_bool *stop;
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

static void check(const struct part *part, size_t page, uint64_t round)
{
	const size_t words[] = { 0, middle(page, round), WORDS - 1 };
	uint64_t expected = stamp(part, page, round);

	for (size_t i = 0; round && i < sizeof(words) / sizeof(*words); i++) {
		uint64_t is = part->memory[page * WORDS + words[i]];

		if (is != expected)
			printf("SIKA-BAD page %zu of thread %u, word %zu: %llx is not %llx\n", page,
			       part->number, words[i], (unsigned long long)is,
			       (unsigned long long)expected);
	}
}

static void *go(void *arg)
{
	const struct part *part = arg;
	uint64_t round = 1;
	size_t page = 0;

	while (!*part->stop) {
		volatile uint64_t *at = part->memory + page * WORDS;

		check(part, page, round - 1);
		at[0] = at[middle(page, round)] = at[WORDS - 1] = stamp(part, page, round);
		if (page % BURST == 0)
			nanosleep(&part->pause, NULL);
		if (++page < part->pages)
			continue;
		printf("SIKA-ROUND %llu of thread %u\n", (unsigned long long)round, part->number);
		page = 0;
		round++;
	}
	for (size_t i = 0; i < part->pages; i++)
		check(part, i, round - (i >= page));
	printf("SIKA-WROTE %llu rounds of thread %u\n", (unsigned long long)round - 1,
	       part->number);
	return NULL;
}

int main(int argc, char **argv)
{
	size_t bytes = argc > 1 ? (size_t)atoi(argv[1]) << 20 : 0;
	unsigned threads = argc > 2 ? (unsigned)atoi(argv[2]) : 0,
		 ms = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
	atomic_bool stop = false;
	pthread_t running[8];
	sigset_t end;
	char *memory;
	int got;

	if (!bytes || !threads || threads > sizeof(running) / sizeof(*running))
		return EXIT_FAILURE;
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigemptyset(&end);
	sigaddset(&end, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &end, NULL);
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return EXIT_FAILURE;
	for (unsigned i = 0; i < threads; i++) {
		struct part *part = calloc(1, sizeof(*part));

		if (!part)
			return EXIT_FAILURE;
		*part = (struct part){ .stop = &stop,
				       .memory = (void *)(memory + bytes / threads / PAGE_BYTES *
									   PAGE_BYTES * i),
				       .pages = bytes / threads / PAGE_BYTES,
				       .number = i,
				       .pause = { .tv_nsec = (long)ms % 1000 * 1000000 } };
		if (pthread_create(&running[i], NULL, go, part))
			return EXIT_FAILURE;
	}
	sigwait(&end, &got);
	stop = true;
	for (unsigned i = 0; i < threads; i++)
		pthread_join(running[i], NULL);
	return EXIT_SUCCESS;
}
