// SPDX-License-Identifier: Apache-2.0
/*
 * programs.c - small classes of work, each timed: the same static program runs on the host, and as init
 * of a guest, where it powers the machine off at its end. One line each: "B name seconds".
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REPEAT 3 /* the best counts */
#define MATRIX 160

static volatile uint64_t sink; /* so that no work is optimized away */

static void integer_loop(void)
{
	uint64_t x = 88172645463325252ull;

	for (int i = 0; i < 60000000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	sink = x;
}

static void sieve(void)
{
	static uint8_t prime[1 << 20];
	uint64_t count = 0;

	for (int r = 0; r < 4; r++) {
		memset(prime, 1, sizeof(prime));
		for (unsigned i = 2; i < sizeof(prime); i++) {
			count += prime[i];
			for (unsigned j = i * 2; prime[i] && j < sizeof(prime); j += i)
				prime[j] = 0;
		}
	}
	sink = count;
}

static __attribute__((noinline)) int fibonacci(int n)
{
	return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static void recursive_calls(void)
{
	sink = (uint64_t)fibonacci(35);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void sorting(void)
{
	static uint32_t v[300000];
	uint32_t x = 12345;

	for (unsigned i = 0; i < 300000; i++) {
		x = x * 1664525 + 1013904223;
		v[i] = x;
	}
	qsort(v, 300000, sizeof(v[0]), compare);
	sink = v[1000];
}

static void copying(void)
{
	static char a[1 << 20], b[1 << 20];

	for (int i = 0; i < 1000; i++) {
		memcpy(a, b, sizeof(a));
		a[i] = (char)i;
		memcpy(b, a, sizeof(b));
	}
	sink = (uint64_t)a[5];
}

static void pointer_chasing(void)
{
	static uint32_t next[1 << 16];
	uint32_t p = 0;

	for (unsigned i = 0; i < (1 << 16); i++)
		next[i] = (i * 40503u + 12345) & 0xffff;
	for (int i = 0; i < 20000000; i++)
		p = next[p];
	sink = p;
}

static int add1(int x)
{
	return x + 1;
}

static int xor3(int x)
{
	return x ^ 3;
}

static int sub7(int x)
{
	return x - 7;
}

static void indirect_calls(void)
{
	static int (*volatile const table[4])(int) = { add1, xor3, sub7, add1 };
	int x = 1;

	for (int i = 0; i < 20000000; i++)
		x = table[x & 3](x);
	sink = (uint64_t)x;
}

static void matrix_product(void)
{
	static double a[MATRIX][MATRIX], b[MATRIX][MATRIX], c[MATRIX][MATRIX];

	for (int i = 0; i < MATRIX; i++)
		for (int j = 0; j < MATRIX; j++) {
			a[i][j] = i + j;
			b[i][j] = i - j;
		}
	for (int r = 0; r < 30; r++)
		for (int i = 0; i < MATRIX; i++)
			for (int k = 0; k < MATRIX; k++)
				for (int j = 0; j < MATRIX; j++)
					c[i][j] += a[i][k] * b[k][j];
	sink = (uint64_t)c[3][4];
}

static void float_chain(void)
{
	double x = 1.0;

	for (int i = 0; i < 30000000; i++)
		x = x * 0.999999 + 0.5;
	sink = (uint64_t)x;
}

static void system_calls(void)
{
	for (int i = 0; i < 1000000; i++)
		syscall(SYS_getppid);
}

static void page_faults(void)
{
	const size_t size = 16 << 20;

	for (int i = 0; i < 10; i++) {
		char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (size_t j = 0; p != MAP_FAILED && j < size; j += 4096)
			p[j] = 1;
		munmap(p, size);
	}
}

static void forks(void)
{
	for (int i = 0; i < 500; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
	}
}

static void pipe_ping_pong(void)
{
	int there[2], back[2];
	char c = 0;

	if (pipe(there) < 0 || pipe(back) < 0)
		return;
	if (!fork()) {
		for (int i = 0; i < 30000; i++)
			if (read(there[0], &c, 1) != 1 || write(back[1], &c, 1) != 1)
				_exit(1);
		_exit(0);
	}
	for (int i = 0; i < 30000; i++)
		if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1)
			break;
	wait(NULL);
	for (int i = 0; i < 2; i++) {
		close(there[i]);
		close(back[i]);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} programs[] = {
	{ "integer-loop", integer_loop },
	{ "sieve", sieve },
	{ "recursive-calls", recursive_calls },
	{ "indirect-calls", indirect_calls },
	{ "sorting", sorting },
	{ "memcpy", copying },
	{ "pointer-chasing", pointer_chasing },
	{ "matrix-product", matrix_product },
	{ "float-chain", float_chain },
	{ "system-calls", system_calls },
	{ "page-faults", page_faults },
	{ "fork", forks },
	{ "pipe", pipe_ping_pong },
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(void)
{
	for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
		double best = 1e9;

		for (int r = 0; r < REPEAT; r++) {
			double start = now(), took;

			programs[i].run();
			took = now() - start;
			best = took < best ? took : best;
		}
		printf("B %s %.5f\n", programs[i].name, best);
		fflush(stdout);
	}
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	return 0;
}
