// SPDX-License-Identifier: Apache-2.0
/* bt.c - the face of the bt engine: machines and vCPUs made, their state in and out. */
#include "engine/bt/bt.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "base/error.h"
#include "engine/bt/bt_int.h"

/* Code and blocks reach each other with 32 bits. */
#define BT_CACHE_MAX (1ull << 30)

static void bt_probe(struct engine_probe *ret)
{
	*ret = (struct engine_probe){ .available = true };
	g_strlcpy(ret->text, "software CPU (translates 64-bit code, interprets the rest), needs nothing of the host",
		  sizeof(ret->text));
}

/* AVX-512 where the host has it, which executes it: jit/host_insn.h. */
static void bt_model_max(struct x86_cpuid_model *ret)
{
	x86_cpuid_model_max(ret);
	if (bt_host_insn_is_fit())
		x86_cpuid_model_add_host(ret);
}

static bool bt_cpu_max(struct x86_cpuid_model *ret, GError **err)
{
	bt_model_max(ret);
	return true;
}

static void bt_close(struct engine *base)
{
	struct bt_engine *engine = (struct bt_engine *)base;

	if (!engine)
		return;
	bt_perf_map_close(engine);
	bt_cache_fini(engine);
	bt_pages_fini(engine);
	free(engine);
}

static struct engine *bt_open(const struct engine_config *config, GError **err)
{
	struct bt_engine *engine = calloc(1, sizeof(*engine));
	struct x86_cpuid_model max;
	const char *missing;
	int r;

	if (!engine || config->vcpus < 1 || config->vcpus > ENGINE_MAX_VCPUS) {
		g_set_error(err, BASE_ERROR, EINVAL, "engine bt: cannot make a machine of %u CPUs",
			    config->vcpus);
		free(engine);
		return NULL;
	}
	engine->base.ops = &engine_bt;
	engine->mem = config->mem;
	engine->host = config->host;
	engine->vcpu_count = config->vcpus;
	engine->off = config->off | (config->interpret ? BT_OFF_JIT : 0u);
	engine->cache_bytes = config->cache_bytes;
	engine->count_insns = config->count_insns || config->deterministic;
	engine->deterministic = config->deterministic;
	/* Each entry of a block counts, with flags in memory. */
	if (config->deterministic)
		engine->off |= BT_OFF_FLAGS | BT_OFF_ENTRIES | BT_OFF_DIRECT;
	if (config->cache_total_bytes)
		engine->cache_bytes = (uint32_t)MIN(config->cache_total_bytes, BT_CACHE_MAX);
	if (config->off_names && !bt_off_parse(config->off_names, &engine->off, err)) {
		free(engine);
		return NULL;
	}
	bt_model_max(&max);
	if (engine->deterministic)
		bt_count_restrict(&max);
	if (!x86_cpuid_model_make(&engine->model, &max, config->cpu, &missing)) {
		g_set_error(err, BASE_ERROR, ENOTSUP,
			    "--cpu: engine 'bt' does not offer '%s' here; 'sika run --cpu help' shows "
			    "what it does", missing);
		free(engine);
		return NULL;
	}
	if (engine->deterministic)
		bt_clock_init_counted(&engine->clock);
	else
		bt_clock_init(&engine->clock);
	r = bt_pages_init(engine);
	if (r < 0) {
		g_set_error(err, BASE_ERROR, -r,
			    "engine bt: cannot make the table of code pages: %s", g_strerror(-r));
		free(engine);
		return NULL;
	}
	r = bt_cache_init(engine);
	if (r < 0) {
		g_set_error(err, BASE_ERROR, -r, "engine bt: no memory for the code cache");
		bt_close(&engine->base);
		return NULL;
	}
	if (config->perf_map && !bt_perf_map_open(engine, err)) {
		bt_close(&engine->base);
		return NULL;
	}
	return &engine->base;
}

static uint32_t bt_caps(const struct engine *engine)
{
	return 0;
}

static void bt_vcpu_free(struct engine_vcpu *base)
{
	struct bt_vcpu *vcpu = (struct bt_vcpu *)base;

	if (!vcpu)
		return;
	atomic_store(&bt_engine_of(vcpu)->vcpu[base->index], NULL);
	bt_pair_drop(vcpu);
	bt_user_fini(vcpu);
	bt_direct_fini(vcpu);
	bt_host_insn_fini(&vcpu->host_insn);
	g_free(vcpu->stats.rows);
	bt_direct_free(vcpu);
}

/* From the host's counter to that of a processor that was reset, on all vCPUs alike: none, as far as the host's can be read
 * for it, so that user code may read it (user.h). */
static uint64_t bt_reset_tsc_offset(const struct bt_engine *engine)
{
	return engine->clock.host_tsc && !(engine->off & BT_OFF_COUNTER) ? 0 : -engine->clock.tsc_start;
}

static struct engine_vcpu *bt_vcpu_new(struct engine *base, unsigned index, GError **err)
{
	struct bt_engine *engine = (struct bt_engine *)base;
	struct bt_vcpu *vcpu = NULL;

	if (index >= engine->vcpu_count ||
	    !(vcpu = bt_direct_alloc())) {
		g_set_error(err, BASE_ERROR, EIO, "engine bt: cannot make CPU %u", index);
		return NULL;
	}
	vcpu->base.engine = base;
	vcpu->base.index = index;
	vcpu->cpu.ops = &bt_cpu_ops;
	vcpu->cpu.by_the_book = engine->off & BT_OFF_GATES;
	if (engine->ram[0].gpa == 0) {
		vcpu->cpu.ram = engine->ram[0].hva;
		vcpu->cpu.ram_bytes = engine->ram[0].size & ~0xfffull;
	}
	vcpu->cpu.tlb = &vcpu->tlb;
	vcpu->cpu.model = &engine->model;
	if (bt_host_insn_is_fit() && bt_host_insn_init(&vcpu->host_insn) < 0) {
		g_set_error(err, BASE_ERROR, EIO, "engine bt: no memory for CPU %u", index);
		bt_direct_free(vcpu);
		return NULL;
	}
	vcpu->maps.arena = engine->cache->arena;
	vcpu->maps.evictions = atomic_load(&engine->cache->evictions);
	pthread_mutex_lock(&engine->cache->lock);
	bt_jit_init(vcpu);
	pthread_mutex_unlock(&engine->cache->lock);
	if (engine->off & BT_OFF_JIT)
		vcpu->jit.on = false;
	bt_count_init(vcpu);
	if (index == 0)
		bt_perf_map_stubs(vcpu);
	bt_direct_init(vcpu);
	bt_user_init(vcpu);
	atomic_store(&vcpu->tsc_offset, bt_reset_tsc_offset(engine));
	x86_cpu_reset(&vcpu->cpu);
	if (index)
		vcpu->cpu.s.activity = X86_WAIT_SIPI;
	bt_context_flush(vcpu);
	atomic_store(&engine->vcpu[index], vcpu);
	return &vcpu->base;
}

static void bt_vcpu_kick(struct engine_vcpu *vcpu)
{
	bt_request((struct bt_vcpu *)vcpu, BT_REQ_KICK, true);
}

static void bt_vcpu_irq(struct engine_vcpu *vcpu)
{
	bt_request((struct bt_vcpu *)vcpu, BT_REQ_IRQ, true);
}

static void bt_vcpu_nmi(struct engine_vcpu *vcpu)
{
	bt_request((struct bt_vcpu *)vcpu, BT_REQ_NMI, true);
}

static void bt_vcpu_init(struct engine_vcpu *vcpu)
{
	bt_request((struct bt_vcpu *)vcpu, BT_REQ_INIT, true);
}

static void bt_vcpu_sipi(struct engine_vcpu *base, uint8_t vector)
{
	struct bt_vcpu *vcpu = (struct bt_vcpu *)base;

	atomic_store(&vcpu->sipi_vector, vector);
	bt_request(vcpu, BT_REQ_SIPI, true);
}

static unsigned bt_phys_bits(const struct engine *engine)
{
	return X86_PHYS_BITS;
}

static uint64_t bt_tsc_hz(const struct engine *engine)
{
	return bt_clock_hz(&((struct bt_engine *)engine)->clock);
}

static uint64_t bt_vcpu_tsc(const struct engine_vcpu *base)
{
	const struct bt_vcpu *vcpu = (const struct bt_vcpu *)base;

	return bt_clock_counter(&bt_engine_of(vcpu)->clock) +
	       atomic_load_explicit(&vcpu->tsc_offset, memory_order_relaxed);
}

static int bt_vcpu_get_state(struct engine_vcpu *base, struct x86_state *state)
{
	const struct bt_vcpu *vcpu = (const struct bt_vcpu *)base;

	*state = vcpu->cpu.s;
	state->tsc = bt_vcpu_tsc(base);
	if (atomic_load(&vcpu->request) & BT_REQ_NMI)
		state->nmi_pending = true;
	/* A wake-up that was sent and not used has no place in the state: HLT may end early. */
	if ((vcpu->unhalted || atomic_load(&vcpu->request) & BT_REQ_UNHALT) &&
	    state->activity == X86_HALTED)
		state->activity = X86_RUNNING;
	return 0;
}

/* The TSCs of a machine's vCPUs are read, and set, one after another; what differs by less than
 * about a second is meant to be the same. About: the rate, which it would take 10 ms to measure, is
 * not worth waiting for here. */
#define BT_TSC_SAME (UINT64_C(1) << 31)

static void bt_restore_tsc(struct bt_vcpu *vcpu, uint64_t tsc)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	uint64_t offset = tsc - bt_clock_counter(&engine->clock);

	/* As x86_state_reset() leaves it: none that was in use is at zero. */
	if (!tsc) {
		atomic_store(&vcpu->tsc_offset, bt_reset_tsc_offset(engine));
		return;
	}
	for (unsigned i = 0; i <= engine->vcpu_count; i++) {
		/* Its own first, so that reading and writing back changes nothing. */
		struct bt_vcpu *other = i ? atomic_load(&engine->vcpu[i - 1]) : vcpu;
		uint64_t near;

		if (!other)
			continue;
		near = atomic_load(&other->tsc_offset);
		if (near - offset + BT_TSC_SAME < 2 * BT_TSC_SAME) {
			offset = near;
			break;
		}
	}
	atomic_store(&vcpu->tsc_offset, offset);
}

static int bt_vcpu_set_state(struct engine_vcpu *base, const struct x86_state *state)
{
	struct bt_vcpu *vcpu = (struct bt_vcpu *)base;

	vcpu->cpu.s = *state;
	vcpu->cpu.monitor_gpa = ~0ull;
	bt_restore_tsc(vcpu, state->tsc);
	x86_cpu_sync(&vcpu->cpu);
	bt_context_flush(vcpu);
	bt_pv_clock_write(vcpu);
	bt_count_renew(vcpu);
	vcpu->irq_waiting = true;
	return 0;
}

static int bt_clock_get(struct engine *base, uint64_t *ret_ns)
{
	*ret_ns = bt_clock_guest_ns(&((struct bt_engine *)base)->clock);
	return 0;
}

static int bt_clock_set(struct engine *base, uint64_t ns)
{
	bt_clock_set_guest_ns(&((struct bt_engine *)base)->clock, ns);
	return 0;
}

static uint64_t bt_vcpu_insns(const struct engine_vcpu *vcpu)
{
	return __atomic_load_n(&((const struct bt_vcpu *)vcpu)->stats.insns, __ATOMIC_RELAXED);
}

static const char *bt_vcpu_error(const struct engine_vcpu *vcpu)
{
	return ((const struct bt_vcpu *)vcpu)->error;
}

const struct engine_ops engine_bt = {
	.name = "bt",
	.probe = bt_probe,
	.cpu_max = bt_cpu_max,
	.open = bt_open,
	.close = bt_close,
	.caps = bt_caps,
	.phys_bits = bt_phys_bits,
	.vcpu_new = bt_vcpu_new,
	.vcpu_free = bt_vcpu_free,
	.vcpu_run = bt_vcpu_run,
	.vcpu_kick = bt_vcpu_kick,
	.vcpu_irq = bt_vcpu_irq,
	.vcpu_nmi = bt_vcpu_nmi,
	.vcpu_init = bt_vcpu_init,
	.vcpu_sipi = bt_vcpu_sipi,
	.tsc_hz = bt_tsc_hz,
	.vcpu_tsc = bt_vcpu_tsc,
	.vcpu_get_state = bt_vcpu_get_state,
	.vcpu_set_state = bt_vcpu_set_state,
	.clock_get = bt_clock_get,
	.clock_set = bt_clock_set,
	.vcpu_error = bt_vcpu_error,
	.dirty_start = bt_dirty_start,
	.dirty_sync = bt_dirty_sync,
	.dirty_stop = bt_dirty_stop,
	.vcpu_insns = bt_vcpu_insns,
	.stats_begin = bt_stats_begin,
	.stats_sample = bt_stats_sample,
	.stats_end = bt_stats_end,
};
