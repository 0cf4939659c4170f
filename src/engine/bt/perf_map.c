// SPDX-License-Identifier: Apache-2.0
/*
 * perf_map.c - /tmp/perf-PID.map: a line for each piece of native code, START SIZE NAME in hexadecimal,
 * as Linux tools/perf/Documentation/jit-interface.txt has it.
 *
 * Code that is dropped and made again elsewhere leaves its line behind; perf takes the last one of an
 * address. How much code there is, is up to the guest: the file has a limit.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "engine/bt/bt_int.h"

#define MAX_BYTES (256ull << 20)
#define MAX_LINE  128u

struct bt_perf_map {
	pthread_mutex_t lock; /* guards the rest; vCPUs add lines */
	FILE *file;
	uint64_t bytes;
};

bool bt_perf_map_open(struct bt_engine *engine, GError **err)
{
	g_autofree char *path = g_strdup_printf("/tmp/perf-%d.map", (int)getpid());
	struct bt_perf_map *map = g_new0(struct bt_perf_map, 1);
	int fd;

	/* Everybody may write to /tmp: what is there is not ours. */
	(void)unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	map->file = fd >= 0 ? fdopen(fd, "w") : NULL;
	if (!map->file) {
		g_set_error(err, BASE_ERROR, errno, "--perf-map: cannot make '%s': %s", path,
			    g_strerror(errno));
		if (fd >= 0)
			close(fd);
		g_free(map);
		return false;
	}
	pthread_mutex_init(&map->lock, NULL);
	engine->perf_map = map;
	return true;
}

void bt_perf_map_close(struct bt_engine *engine)
{
	struct bt_perf_map *map = engine->perf_map;

	if (!map)
		return;
	fclose(map->file);
	pthread_mutex_destroy(&map->lock);
	g_free(map);
	engine->perf_map = NULL;
}

static void add_line(struct bt_perf_map *map, const uint8_t *start, size_t size, const char *name)
{
	pthread_mutex_lock(&map->lock);
	if (map->bytes < MAX_BYTES) {
		int n = fprintf(map->file, "%lx %zx %s\n", (unsigned long)(uintptr_t)start, size,
				name);

		map->bytes += n > 0 ? (unsigned)n : MAX_LINE;
	}
	pthread_mutex_unlock(&map->lock);
}

struct stub {
	const uint8_t *start; /* in the writable mapping */
	const char *name;
};

static int by_start(const void *a, const void *b)
{
	const uint8_t *x = ((const struct stub *)a)->start, *y = ((const struct stub *)b)->start;

	return x < y ? -1 : x > y;
}

void bt_perf_map_stubs(struct bt_vcpu *vcpu)
{
	struct bt_perf_map *map = bt_engine_of(vcpu)->perf_map;
	const struct bt_jit *jit = &vcpu->jit;
	struct stub stubs[] = {
		{ jit->enter, "sika_enter" },	      { jit->leave_link, "sika_leave_link" },
		{ jit->leave, "sika_leave" },	      { jit->call, "sika_call" },
		{ jit->call_vec, "sika_call_vec" },   { jit->vec_load, "sika_vec_load" },
		{ jit->fill_read, "sika_fill_read" }, { jit->fill_write, "sika_fill_write" },
		{ jit->leave_rip, "sika_leave_rip" }, { jit->lookup, "sika_lookup" },
		{ jit->cross, "sika_cross" },	      { jit->ret_pop, "sika_ret_pop" },
		{ jit->x87_load, "sika_x87_load" },   { jit->slow[0], "sika_slow" },
		{ jit->leave_entered, "sika_leave_call" },
		{ jit->code + BT_JIT_STUBS_BYTES, NULL },
	};

	if (!map || !jit->on)
		return;
	qsort(stubs, G_N_ELEMENTS(stubs), sizeof(stubs[0]), by_start);
	for (size_t i = 0; i + 1 < G_N_ELEMENTS(stubs) && stubs[i].name; i++)
		if (stubs[i].start) /* what is not there comes first */
			add_line(map, jit->exec + (stubs[i].start - jit->code),
				 (size_t)(stubs[i + 1].start - stubs[i].start), stubs[i].name);
	fflush(map->file);
}

void bt_perf_map_block(struct bt_vcpu *vcpu, uint32_t from, uint32_t size)
{
	char name[MAX_LINE];

	g_snprintf(name, sizeof(name), "guest_%s_%lx", vcpu->cpu.cpl == 3 ? "user" : "kernel",
		   (unsigned long)vcpu->cpu.s.rip);
	add_line(bt_engine_of(vcpu)->perf_map, vcpu->jit.exec + from, size, name);
}
