// SPDX-License-Identifier: Apache-2.0
/*
 * replay.c - main() of a fuzz target without libFuzzer: the corpus, then pseudo-random inputs.
 *
 * Usage: target SECONDS [FILE|DIRECTORY]... The seed of each random input is its number, so
 * that a crash is found again; SIKA_FUZZ_SEED=N runs that one alone.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <glib.h>

#define MAX_BYTES 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void file_run(const char *path)
{
	g_autofree char *bytes = NULL;
	gsize len = 0;

	if (g_file_get_contents(path, &bytes, &len, NULL))
		(void)LLVMFuzzerTestOneInput((const uint8_t *)bytes, len);
}

static void path_run(const char *path)
{
	g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
	const char *name;

	if (!dir) {
		file_run(path);
		return;
	}
	while ((name = g_dir_read_name(dir))) {
		g_autofree char *file = g_build_filename(path, name, NULL);

		file_run(file);
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
	uint8_t data[MAX_BYTES];
	uint64_t state = seed;
	size_t size = next(&state) % (sizeof(data) + 1);

	for (size_t i = 0; i < size; i++) {
		uint64_t r = next(&state);

		/* Half of them from the edges of a byte's range. */
		data[i] = r & 1 ? (uint8_t)(r >> 8)
				: (const uint8_t[]){0, 1, 0x7f, 0x80, 0xff, 2, 4, 8}[r >> 8 & 7];
	}
	(void)LLVMFuzzerTestOneInput(data, size);
}

int main(int argc, char **argv)
{
	const char *only = getenv("SIKA_FUZZ_SEED");
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 1);
	uint64_t seed = 0;

	if (only) {
		seed_run(strtoull(only, NULL, 0));
		return 0;
	}
	for (int i = 2; i < argc; i++)
		path_run(argv[i]);
	for (; time(NULL) < end; seed++) {
		/* The last line tells which one it was. */
		if (seed % 256 == 0)
			fprintf(stderr, "from seed %llu\n", (unsigned long long)seed);
		seed_run(seed);
	}
	return 0;
}
