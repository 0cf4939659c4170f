// SPDX-License-Identifier: Apache-2.0
/*
 * stats.c - statistics of a bt machine: what its vCPUs counted, and where they spent their time.
 *
 * A measurement has a beginning and an end; in between the control thread calls bt_stats_sample() as
 * often as it likes. Counters are told in total and for that interval; handlers by instruction are
 * counted from the first beginning on. Everything is read while the vCPUs go on.
 */
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "engine/bt/bt_int.h"
#include "x86/rows.h"

#define NS_PER_MS 1000000ull
#define MAX_PAGES 4096u /* more are not told apart */

/* insns comes first. */
static const struct {
	const char *name;
	size_t offset; /* into struct bt_stats */
	const char *text;
} counters[] = {
#define ROW(field, text) { #field, offsetof(struct bt_stats, field), text }
	ROW(insns, "instructions retired (see --bt-count)"),
	ROW(entries, "entries into native code"),
	ROW(handlers, "handlers called by native code"),
	ROW(interpreted, "blocks interpreted"),
	ROW(steps, "instructions one by one"),
	ROW(finds, "blocks looked up by address"),
	ROW(map_misses, "of these not in the map"),
	ROW(compared, "of these compared with memory"),
	ROW(hash_misses, "of these decoded anew"),
	ROW(decoded_insns, "instructions decoded"),
	ROW(contexts, "links made stale (TLB flushes, ...)"),
	ROW(tlb_fills, "TLB entries made"),
	ROW(stores, "stores reported (to code)"),
	ROW(ports, "port accesses"),
	ROW(mmio, "memory-mapped accesses"),
	ROW(interrupts, "interrupts delivered"),
	ROW(halts, "halts and waits"),
	ROW(user_begun, "address spaces that got a runner"),
	ROW(user_given_up, "of these that lost it again"),
	ROW(user_lost, "runners that were killed"),
	ROW(user_runs, "stretches of user code in runners"),
	ROW(user_calls, "of these that ended at a system call"),
	ROW(user_faults, "of these that ended at a fault"),
	ROW(user_hidden, "of these that ended at code not to be executed"),
	ROW(user_watched, "of these that ended at an instruction that tells of the host"),
	ROW(user_pauses, "of these that ended at code left to the translator"),
	ROW(user_maps, "mappings made there"),
#undef ROW
};

static const char *const exit_names[] = {
	[BT_JIT_LINK] = "link",	    [BT_JIT_REQUEST] = "request", [BT_JIT_STALE] = "stale",
	[BT_JIT_ENTERED] = "entered", [BT_JIT_RIP] = "rip", [BT_JIT_HANDLER] = "handler",
};

static const char *const doing_names[] = {
	[BT_DOING_OUTSIDE] = "outside",	    [BT_DOING_LOOP] = "loop",
	[BT_DOING_NATIVE] = "native",	    [BT_DOING_USER] = "user",	    [BT_DOING_HANDLER] = "handler",
	[BT_DOING_INTERPRET] = "interpret", [BT_DOING_STEP] = "step",
	[BT_DOING_FIND] = "find",	    [BT_DOING_TRANSLATE] = "translate",
	[BT_DOING_DELIVER] = "deliver",	    [BT_DOING_DEVICE] = "device",
	[BT_DOING_HALT] = "halt",
};
_Static_assert(G_N_ELEMENTS(doing_names) == BT_DOING_KINDS, "each kind has a name");
_Static_assert(G_N_ELEMENTS(exit_names) == BT_JIT_HANDLER + 1, "each reason has a name");

struct page_count {
	uint64_t key; /* linear page, bit 0: user mode */
	uint64_t count;
};

struct engine_stats {
	struct bt_engine *engine;
	uint64_t begin_ns;
	struct bt_stats before; /* sum over all vCPUs */
	uint64_t doing[ENGINE_MAX_VCPUS][BT_DOING_KINDS];
	uint64_t samples; /* of each vCPU */
	GHashTable *pages; /* struct page_count by key, owned */
	uint64_t *rows_before;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static uint64_t peek(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

/* Everything in struct bt_stats up to rows is a counter. */
#define COUNTER_WORDS (offsetof(struct bt_stats, rows) / sizeof(uint64_t))

static void sum_up(const struct bt_engine *engine, struct bt_stats *ret)
{
	uint64_t *to = (uint64_t *)(void *)ret;

	memset(ret, 0, sizeof(*ret));
	for (unsigned i = 0; i < engine->vcpu_count; i++) {
		const struct bt_vcpu *vcpu = atomic_load(&engine->vcpu[i]);
		const uint64_t *from = vcpu ? (const uint64_t *)(const void *)&vcpu->stats : NULL;

		for (size_t j = 0; from && j < COUNTER_WORDS; j++)
			to[j] += peek(&from[j]);
	}
}

static uint64_t *rows_sum(const struct bt_engine *engine)
{
	uint64_t *sum = g_new0(uint64_t, X86_ROW_COUNT);

	for (unsigned i = 0; i < engine->vcpu_count; i++) {
		const struct bt_vcpu *vcpu = atomic_load(&engine->vcpu[i]);

		for (unsigned j = 0; vcpu && vcpu->stats.rows && j < X86_ROW_COUNT; j++)
			sum[j] += peek(&vcpu->stats.rows[j]);
	}
	return sum;
}

struct engine_stats *bt_stats_begin(struct engine *base)
{
	struct bt_engine *engine = (struct bt_engine *)base;
	struct engine_stats *s = g_new0(struct engine_stats, 1);

	s->engine = engine;
	s->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
	for (unsigned i = 0; i < engine->vcpu_count; i++) {
		struct bt_vcpu *vcpu = atomic_load(&engine->vcpu[i]);

		if (vcpu && !vcpu->stats.rows)
			__atomic_store_n(&vcpu->stats.rows, g_new0(uint64_t, X86_ROW_COUNT),
					 __ATOMIC_RELEASE);
	}
	s->begin_ns = now_ns();
	sum_up(engine, &s->before);
	s->rows_before = rows_sum(engine);
	return s;
}

static void count_page(struct engine_stats *s, uint64_t key)
{
	struct page_count *page = g_hash_table_lookup(s->pages, &key);

	if (!page) {
		if (g_hash_table_size(s->pages) >= MAX_PAGES)
			return;
		page = g_new0(struct page_count, 1);
		page->key = key;
		g_hash_table_insert(s->pages, &page->key, page);
	}
	page->count++;
}

void bt_stats_sample(struct engine_stats *s)
{
	for (unsigned i = 0; i < s->engine->vcpu_count; i++) {
		const struct bt_vcpu *vcpu = atomic_load(&s->engine->vcpu[i]);
		uint8_t doing;
		uint64_t rip;

		if (!vcpu)
			continue;
		doing = __atomic_load_n(&vcpu->stats.doing, __ATOMIC_RELAXED);
		s->doing[i][doing < BT_DOING_KINDS ? doing : BT_DOING_LOOP]++;
		if (doing == BT_DOING_OUTSIDE || doing == BT_DOING_HALT)
			continue;
		/* Native code keeps only the page. */
		rip = peek(doing == BT_DOING_NATIVE ? &vcpu->jit.rip_page : &vcpu->cpu.s.rip);
		count_page(s, (rip & ~0xfffull) |
				      (__atomic_load_n(&vcpu->cpu.cpl, __ATOMIC_RELAXED) == 3));
	}
	s->samples++;
}

/* ---- telling ---- */

/* One way of writing for both forms. */
struct report {
	GString *out;
	bool json;
	bool first; /* in the object being written */
	double seconds;
};

static void section(struct report *r, const char *key, const char *title)
{
	if (r->json)
		g_string_append_printf(r->out, "%s\"%s\":{", r->out->len > 1 ? "," : "", key);
	else
		g_string_append_printf(r->out, "%s%s\n", r->out->len ? "\n" : "", title);
	r->first = true;
}

static void section_end(struct report *r)
{
	if (r->json)
		g_string_append_c(r->out, '}');
}

static void key(struct report *r, const char *name)
{
	if (!r->first)
		g_string_append_c(r->out, ',');
	r->first = false;
	json_append_string(r->out, name);
	g_string_append_c(r->out, ':');
}

static void put_count(struct report *r, const char *name, const char *text, uint64_t total,
		      uint64_t before)
{
	double rate = (double)(total - before) / r->seconds;
	char number[G_ASCII_DTOSTR_BUF_SIZE];

	if (r->json) {
		key(r, name);
		g_string_append_printf(r->out, "{\"total\":%" G_GUINT64_FORMAT ",\"per_second\":%s}",
				       total, g_ascii_formatd(number, sizeof(number), "%.1f", rate));
	} else {
		g_string_append_printf(r->out, "  %-36s %16" G_GUINT64_FORMAT " %14.0f/s\n", text,
				       total, rate);
	}
}

static void put_number(struct report *r, const char *name, const char *text, uint64_t value)
{
	if (r->json) {
		key(r, name);
		g_string_append_printf(r->out, "%" G_GUINT64_FORMAT, value);
	} else {
		g_string_append_printf(r->out, "  %-36s %16" G_GUINT64_FORMAT "\n", text, value);
	}
}

static void put_share(struct report *r, const char *name, double share)
{
	char number[G_ASCII_DTOSTR_BUF_SIZE];

	if (r->json) {
		key(r, name);
		g_string_append(r->out,
				g_ascii_formatd(number, sizeof(number), "%.4f", share));
	} else if (share >= 0.0005) {
		g_string_append_printf(r->out, "  %s %.1f%%", name, 100 * share);
	}
}

static void tell_cache(const struct engine_stats *s, const struct bt_stats *now, struct report *r)
{
	const struct bt_cache *cache = s->engine->cache;
	uint64_t blocks = 0, code = cache->code_first;
	uint64_t translated = 0, insns = 0, handled = 0;

	for (unsigned i = 0; i < s->engine->vcpu_count; i++) {
		const struct bt_vcpu *vcpu = atomic_load(&s->engine->vcpu[i]);

		if (!vcpu)
			continue;
		translated += peek(&vcpu->jit.translated);
		insns += peek(&vcpu->jit.translated_insns);
		handled += peek(&vcpu->jit.handler_insns);
	}
	for (unsigned i = 0; i < BT_RINGS * BT_REGIONS; i++) {
		const struct bt_region *region = &cache->ring[i / BT_REGIONS].region[i % BT_REGIONS];

		blocks += atomic_load_explicit(&region->used, memory_order_relaxed) - region->first;
		code += atomic_load_explicit(&region->code_used, memory_order_relaxed) -
			region->code_first;
	}
	section(r, "cache", "CACHE");
	put_number(r, "blocks_decoded", "blocks decoded", now->hash_misses);
	put_number(r, "blocks_translated", "blocks translated", translated);
	put_number(r, "insns_decoded", "instructions decoded", now->decoded_insns);
	put_number(r, "insns_translated", "instructions translated", insns);
	put_number(r, "insns_handled", "of these to their handlers", handled);
	put_number(r, "block_bytes", "bytes of blocks", blocks);
	put_number(r, "block_bytes_max", "of at most", cache->size);
	put_number(r, "code_bytes", "bytes of code", code);
	put_number(r, "code_bytes_max", "of at most", cache->code_size);
	put_number(r, "evictions", "parts of it given up",
		   atomic_load_explicit(&cache->evictions, memory_order_relaxed));
	section_end(r);
}

static void tell_counters(const struct engine_stats *s, const struct bt_stats *now, struct report *r)
{
	section(r, "counters", "COUNTERS                                          total           rate");
	/* Without counting native code is missing: no number is better than that. */
	for (size_t i = !s->engine->count_insns; i < G_N_ELEMENTS(counters); i++)
		put_count(r, counters[i].name, counters[i].text,
			  *(const uint64_t *)(const void *)((const char *)now + counters[i].offset),
			  *(const uint64_t *)(const void *)((const char *)&s->before +
							     counters[i].offset));
	section_end(r);
	section(r, "exits", "WAYS OUT OF NATIVE CODE, BY REASON");
	for (size_t i = 0; i < G_N_ELEMENTS(exit_names); i++)
		put_count(r, exit_names[i], exit_names[i], now->exits[i], s->before.exits[i]);
	section_end(r);
	section(r, "exceptions", "EXCEPTIONS DELIVERED, BY VECTOR");
	for (size_t i = 0; i < G_N_ELEMENTS(now->faults); i++) {
		char name[8];

		g_snprintf(name, sizeof(name), "%zu", i);
		if (now->faults[i])
			put_count(r, name, name, now->faults[i], s->before.faults[i]);
	}
	section_end(r);
}

static void tell_time(const struct engine_stats *s, struct report *r)
{
	section(r, "time", "TIME, SAMPLED");
	for (unsigned i = 0; i < s->engine->vcpu_count; i++) {
		char name[16];

		g_snprintf(name, sizeof(name), "vcpu %u", i);
		if (r->json) {
			key(r, name);
			g_string_append_c(r->out, '{');
			r->first = true;
		} else {
			g_string_append_printf(r->out, "  %-8s", name);
		}
		for (unsigned j = 0; j < BT_DOING_KINDS; j++)
			put_share(r, doing_names[j],
				  s->samples ? (double)s->doing[i][j] / (double)s->samples : 0);
		g_string_append_c(r->out, r->json ? '}' : '\n');
		r->first = false;
	}
	section_end(r);
}

struct row_count {
	unsigned row;
	uint64_t count;
};

static int more_rows(const void *a, const void *b)
{
	uint64_t x = ((const struct row_count *)a)->count, y = ((const struct row_count *)b)->count;

	return x < y ? 1 : x > y ? -1 : 0;
}

static void tell_handlers(const struct engine_stats *s, unsigned top, struct report *r)
{
	g_autofree struct row_count *rows = g_new0(struct row_count, X86_ROW_COUNT);
	g_autofree uint64_t *now = rows_sum(s->engine);

	for (unsigned i = 0; i < X86_ROW_COUNT; i++)
		rows[i] = (struct row_count){ i, now[i] - s->rows_before[i] };
	qsort(rows, X86_ROW_COUNT, sizeof(rows[0]), more_rows);
	section(r, "handlers", "HANDLERS CALLED BY NATIVE CODE IN THAT TIME, BY INSTRUCTION");
	for (unsigned i = 0; i < MIN(top, X86_ROW_COUNT) && rows[i].count; i++) {
		const struct x86_row_info *info = &x86_rows[rows[i].row];
		g_autofree char *name = g_strdup_printf("%s (%s)", info->name, info->opcode_text);

		put_number(r, name, name, rows[i].count);
	}
	section_end(r);
}

static int more_pages(const void *a, const void *b)
{
	const struct page_count *x = *(struct page_count *const *)a;
	const struct page_count *y = *(struct page_count *const *)b;

	if (x->count != y->count)
		return x->count < y->count ? 1 : -1;
	return x->key < y->key ? -1 : x->key > y->key;
}

static void tell_pages(const struct engine_stats *s, unsigned top, struct report *r)
{
	unsigned count = 0;
	g_autofree struct page_count **pages =
		(struct page_count **)g_hash_table_get_keys_as_array(s->pages, &count);

	/* A key is the first field of what it names. */
	if (pages)
		qsort(pages, count, sizeof(struct page_count *), more_pages);
	section(r, "pages", "PAGES OF GUEST CODE, SAMPLED");
	for (unsigned i = 0; i < MIN(top, count); i++) {
		char name[40];

		g_snprintf(name, sizeof(name), "%016" G_GINT64_MODIFIER "x %s",
			   (guint64)(pages[i]->key & ~1ull), pages[i]->key & 1 ? "user" : "kernel");
		put_number(r, name, name, pages[i]->count);
	}
	section_end(r);
}

char *bt_stats_end(struct engine_stats *s, bool json, unsigned top)
{
	double seconds = MAX((double)(now_ns() - s->begin_ns) / 1e9, 1e-6);
	struct report r = { .out = g_string_new(json ? "{" : NULL), .json = json, .seconds = seconds };
	struct bt_stats now;
	char *text = NULL;

	sum_up(s->engine, &now);
	section(&r, "measured", "MEASURED");
	put_number(&r, "milliseconds", "milliseconds", (uint64_t)(seconds * 1000));
	put_number(&r, "samples", "samples", s->samples);
	put_number(&r, "vcpus", "vCPUs", s->engine->vcpu_count);
	section_end(&r);
	tell_time(s, &r);
	tell_cache(s, &now, &r);
	tell_counters(s, &now, &r);
	tell_handlers(s, top, &r);
	tell_pages(s, top, &r);
	if (json)
		g_string_append_c(r.out, '}');
	text = g_string_free(r.out, FALSE);
	g_hash_table_unref(s->pages);
	g_free(s->rows_before);
	g_free(s);
	return text;
}
