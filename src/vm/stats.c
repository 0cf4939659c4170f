// SPDX-License-Identifier: Apache-2.0
/* stats.c - a measurement of the engine while the machine runs, sampled from the main loop. */
#include <string.h>

#include "base/error.h"
#include "vm/vm.h"
#include "vm/vm_int.h"

/* A prime's neighbourhood would do no better: the main loop adds its own jitter. */
#define SAMPLE_MS 1u

struct vm_measure {
	struct vm *vm;
	struct engine_stats *stats;
	struct vm_stats_ask ask;
	vm_stats_fn done;
	void *arg;
	gint64 end_us;
	guint source;
};

/* @text is NULL when nothing came of it. */
static void finish(struct vm *vm, char *text)
{
	struct vm_measure *m = vm->measure;

	vm->measure = NULL;
	m->done(m->arg, text);
	g_free(text);
	g_free(m);
}

static gboolean on_sample(gpointer arg)
{
	struct vm_measure *m = arg;
	const struct engine_ops *ops = m->vm->engine_ops;

	if (ops->stats_sample)
		ops->stats_sample(m->stats);
	if (g_get_monotonic_time() < m->end_us)
		return G_SOURCE_CONTINUE;
	finish(m->vm, ops->stats_end(m->stats, m->ask.json, m->ask.top));
	return G_SOURCE_REMOVE;
}

bool vm_stats(struct vm *vm, const struct vm_stats_ask *ask, vm_stats_fn done, void *arg,
	      GError **err)
{
	const struct engine_ops *ops = vm->engine_ops;
	struct vm_measure *m;

	if (strcmp(ops->name, ask->engine) != 0) {
		g_set_error(err, BASE_ERROR, ENOTSUP, "it runs under engine '%s', not '%s'", ops->name,
			    ask->engine);
		return false;
	}
	if (quiet_refuses(vm, err))
		return false;
	if (vm->measure) {
		g_set_error(err, BASE_ERROR, EBUSY, "somebody else is measuring just now");
		return false;
	}
	m = g_new0(struct vm_measure, 1);
	*m = (struct vm_measure){ .vm = vm, .ask = *ask, .done = done, .arg = arg };
	m->stats = ops->stats_begin(vm->board.engine);
	if (!m->stats) {
		g_free(m);
		g_set_error(err, BASE_ERROR, ENOTSUP, "the host keeps no statistics for engine '%s'", ops->name);
		return false;
	}
	m->end_us = g_get_monotonic_time() + (gint64)ask->ms * 1000;
	m->source = g_timeout_add(ops->stats_sample ? SAMPLE_MS : ask->ms, on_sample, m);
	vm->measure = m;
	return true;
}

void vm_stats_cancel(struct vm *vm)
{
	struct vm_measure *m = vm->measure;

	if (!m)
		return;
	g_source_remove(m->source);
	g_free(vm->engine_ops->stats_end(m->stats, false, 0));
	finish(vm, NULL);
}
