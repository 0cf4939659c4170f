// SPDX-License-Identifier: Apache-2.0
/* vector.c - floating point and the instructions for cryptography. Where the processor lacks one, its class does
 * nothing and takes no time: bench.py leaves it out then. */
#include <immintrin.h>
#include <math.h>

#include "programs.h"

#define MATRIX 160

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
	program_sink = (uint64_t)c[3][4];
}

static void float_chain(void)
{
	double x = 1.0;

	for (int i = 0; i < 30000000; i++)
		x = x * 0.999999 + 0.5;
	program_sink = (uint64_t)x;
}

static __attribute__((target("avx2,fma"))) void fma_kernel(void)
{
	static float v[4096] __attribute__((aligned(32)));
	__m256 k = _mm256_set1_ps(0.999f), sum = _mm256_setzero_ps();

	for (int i = 0; i < 4096; i++)
		v[i] = (float)i;
	for (int r = 0; r < 20000; r++)
		for (int i = 0; i < 4096; i += 8)
			sum = _mm256_fmadd_ps(_mm256_load_ps(v + i), k, sum);
	program_sink = (uint64_t)_mm256_cvtss_f32(sum);
}

static void avx_fma(void)
{
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		fma_kernel();
}

static __attribute__((target("aes,sse2"))) void aes_kernel(void)
{
	static __m128i block[1024];
	__m128i key = _mm_set_epi32(1, 2, 3, 4);

	for (int r = 0; r < 3000; r++)
		for (int i = 0; i < 1024; i++) {
			__m128i b = _mm_xor_si128(block[i], key);

			for (int round = 0; round < 9; round++)
				b = _mm_aesenc_si128(b, key);
			block[i] = _mm_aesenclast_si128(b, key);
		}
	program_sink = (uint64_t)_mm_cvtsi128_si64(block[5]);
}

static void aes(void)
{
	if (__builtin_cpu_supports("aes"))
		aes_kernel();
}

static __attribute__((target("sha,sse4.1"))) void sha_kernel(void)
{
	__m128i a = _mm_set1_epi32(1), b = _mm_set1_epi32(2), m = _mm_set1_epi32(3);

	for (int i = 0; i < 10000000; i++) {
		a = _mm_sha256rnds2_epu32(a, b, m);
		b = _mm_sha256rnds2_epu32(b, a, m);
		m = _mm_sha256msg1_epu32(m, a);
	}
	program_sink = (uint64_t)_mm_cvtsi128_si64(a);
}

static void sha(void)
{
	unsigned a, b = 0, c, d;

	/* Leaf 7: EBX bit 29. */
	__asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
	if (b >> 29 & 1)
		sha_kernel();
}

static void x87(void)
{
	static volatile long double terms[64];
	long double x = 1.0L;

	for (int i = 0; i < 64; i++)
		terms[i] = 1.0L / (i + 1);
	for (int r = 0; r < 100000; r++)
		for (int i = 0; i < 64; i++)
			x = x * 0.5L + terms[i];
	for (int i = 0; i < 500000; i++)
		x = sinl(x) + sqrtl(x * x + 1);
	program_sink = (uint64_t)x;
}

const struct program programs_vector[] = {
	{ "matrix-product", matrix_product },
	{ "float-chain", float_chain },
	{ "avx-fma", avx_fma },
	{ "aes", aes },
	{ "sha", sha },
	{ "x87", x87 },
	{ 0 },
};
