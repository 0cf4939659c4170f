// SPDX-License-Identifier: Apache-2.0
/* rng.h - pseudo-random numbers that a seed brings back. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct rng {
	uint64_t s[2];
};

/* splitmix64's finalizer. */
static inline uint64_t rng_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static inline void rng_seed(struct rng *r, uint64_t seed)
{
	r->s[0] = rng_mix(seed);
	r->s[1] = rng_mix(r->s[0] + 1);
}

/* xorshift128+ */
static inline uint64_t rng_next(struct rng *r)
{
	uint64_t a = r->s[0], b = r->s[1];

	r->s[0] = b;
	a ^= a << 23;
	r->s[1] = a ^ b ^ a >> 17 ^ b >> 26;
	return r->s[1] + b;
}

static inline unsigned rng_below(struct rng *r, unsigned n)
{
	return (unsigned)((rng_next(r) >> 11) % n);
}

static inline bool rng_chance(struct rng *r, unsigned percent)
{
	return rng_below(r, 100) < percent;
}
