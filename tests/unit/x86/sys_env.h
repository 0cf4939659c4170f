// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* sys_env.h - a CPU with a few megabytes of RAM and nothing else, for tests of the system half. */
#pragma once

#include "x86/sys_int.h"
#include "x86/x86_int.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define ENV_RAM_BYTES (4u << 20)

struct env {
	struct x86_cpu cpu; /* first: ops find the rest from it */
	struct x86_tlb tlb;
	struct x86_cpuid_model model;
	uint8_t *ram;
	unsigned written; /* calls of ram_written() */
	bool indirect;	  /* every page's stores are reported */
	uint64_t tsc;
	uint8_t cr8;
};

static inline struct env *env_of(struct x86_cpu *cpu)
{
	return (struct env *)(void *)cpu;
}

static inline uint8_t *env_ram_page(struct x86_cpu *cpu, uint64_t gpa, bool write,
				    bool *ret_direct)
{
	struct env *e = env_of(cpu);

	*ret_direct = !(write && e->indirect);
	return gpa < ENV_RAM_BYTES ? e->ram + gpa : NULL;
}

static inline bool env_ram_written(struct x86_cpu *cpu, uint64_t gpa, unsigned len)
{
	env_of(cpu)->written++;
	return false;
}

static inline uint64_t env_mmio_read(struct x86_cpu *cpu, uint64_t gpa, unsigned size)
{
	return ~0ull;
}

static inline void env_mmio_write(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t value)
{
}

static inline uint64_t env_pio_read(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
	return ~0ull;
}

static inline void env_pio_write(struct x86_cpu *cpu, uint16_t port, unsigned size, uint64_t value)
{
}

static inline uint64_t env_rdtsc(struct x86_cpu *cpu)
{
	return env_of(cpu)->tsc += 1000;
}

static inline uint8_t env_get_cr8(struct x86_cpu *cpu)
{
	return env_of(cpu)->cr8;
}

static inline void env_set_cr8(struct x86_cpu *cpu, uint8_t cr8)
{
	env_of(cpu)->cr8 = cr8;
}

static inline bool env_should_stop(struct x86_cpu *cpu)
{
	return false;
}

static const struct x86_cpu_ops env_ops = {
	.ram_page = env_ram_page,
	.ram_written = env_ram_written,
	.mmio_read = env_mmio_read,
	.mmio_write = env_mmio_write,
	.pio_read = env_pio_read,
	.pio_write = env_pio_write,
	.rdtsc = env_rdtsc,
	.get_cr8 = env_get_cr8,
	.set_cr8 = env_set_cr8,
	.should_stop = env_should_stop,
};

static inline struct env *env_new(void)
{
	struct env *e = aligned_alloc(64, (sizeof(*e) + 63) & ~(size_t)63);

	ck_assert_ptr_nonnull(e);
	memset(e, 0, sizeof(*e));
	e->ram = aligned_alloc(4096, ENV_RAM_BYTES);
	ck_assert_ptr_nonnull(e->ram);
	memset(e->ram, 0, ENV_RAM_BYTES);
	e->cpu.ops = &env_ops;
	e->cpu.tlb = &e->tlb;
	x86_cpuid_model_max(&e->model);
	e->cpu.model = &e->model;
	x86_cpu_reset(&e->cpu);
	return e;
}

static inline void env_free(struct env *e)
{
	free(e->ram);
	free(e);
}

static inline void env_put(struct env *e, uint64_t gpa, uint64_t value, unsigned bytes)
{
	memcpy(e->ram + gpa, &value, bytes);
}

static inline uint64_t env_get(struct env *e, uint64_t gpa, unsigned bytes)
{
	uint64_t value = 0;

	memcpy(&value, e->ram + gpa, bytes);
	return value;
}
