// SPDX-License-Identifier: Apache-2.0
/*
 * replay.c - main() of a fuzz target without libFuzzer: the corpus, then pseudo-random inputs.
 *
 * Usage: target [--seconds N] [--seed S] [FILE|DIRECTORY]... Inputs are made from consecutive
 * seeds, from a different one each time; the seed of an input that crashes, or takes longer than
 * HANG_SECONDS, is printed, and --seed runs that one alone.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <glib.h>

#define MAX_BYTES    4096u
#define HANG_SECONDS 30u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t seed_now;

static void on_death(int sig)
{
	char line[80];
	int len = snprintf(line, sizeof(line), "%s: repeat with --seed %llu\n",
			   sig == SIGALRM ? "hangs" : "dies", (unsigned long long)seed_now);

	if (write(STDERR_FILENO, line, (size_t)len) < 0 || sig == SIGALRM)
		_exit(1);
	signal(sig, SIG_DFL);
	raise(sig);
}

static void path_run(const char *path)
{
	g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
	g_autofree char *bytes = NULL;
	const char *name;
	gsize len = 0;

	if (!dir) {
		if (g_file_get_contents(path, &bytes, &len, NULL))
			(void)LLVMFuzzerTestOneInput((const uint8_t *)bytes, len);
		return;
	}
	while ((name = g_dir_read_name(dir))) {
		g_autofree char *file = g_build_filename(path, name, NULL);

		path_run(file);
	}
}

/* splitmix64 */
static uint64_t next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void seed_run(uint64_t seed)
{
	static const uint8_t edges[8] = {0, 1, 0x7f, 0x80, 0xff, 2, 4, 8};
	uint8_t data[MAX_BYTES];
	uint64_t state = seed;
	size_t size = next(&state) % (sizeof(data) + 1);

	for (size_t i = 0; i < size; i++) {
		uint64_t r = next(&state);

		data[i] = r & 1 ? (uint8_t)(r >> 8) : edges[r >> 8 & 7];
	}
	seed_now = seed;
	alarm(HANG_SECONDS);
	(void)LLVMFuzzerTestOneInput(data, size);
}

int main(int argc, char **argv)
{
	uint64_t seed = (uint64_t)time(NULL) << 32, count = 0;
	int seconds = 5;
	time_t end;

	signal(SIGABRT, on_death);
	signal(SIGALRM, on_death);
	for (int i = 1; i < argc; i++) {
		if (g_str_equal(argv[i], "--seconds") && i + 1 < argc) {
			seconds = atoi(argv[++i]);
		} else if (g_str_equal(argv[i], "--seed") && i + 1 < argc) {
			seed_run(strtoull(argv[++i], NULL, 0));
			return 0;
		} else {
			path_run(argv[i]);
		}
	}
	printf("from seed %llu on\n", (unsigned long long)seed);
	for (end = time(NULL) + seconds; time(NULL) < end; count++)
		seed_run(seed++);
	printf("%llu inputs\n", (unsigned long long)count);
	return 0;
}
