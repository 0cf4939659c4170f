// SPDX-License-Identifier: Apache-2.0
/* engine.c - the table of engines, and which one `auto` takes. */
#include "engine/engine.h"

#include <string.h>

#include "base/error.h"
#include "engine/bt/bt.h"
#include "engine/kvm/kvm.h"

const struct engine_ops *const engine_list[] = {
	&engine_kvm,
	&engine_bt,
	NULL,
};

static const struct engine_ops *engine_select_named(const char *name, char **ret_why, GError **err)
{
	g_autoptr(GString) names = g_string_new(NULL);

	for (size_t i = 0; engine_list[i]; i++) {
		const struct engine_ops *ops = engine_list[i];
		struct engine_probe probe;

		g_string_append_printf(names, "%s'%s'", i ? ", " : "", ops->name);
		if (strcmp(ops->name, name) != 0)
			continue;
		ops->probe(&probe);
		if (!probe.available) {
			g_set_error(err, BASE_ERROR, ENOTSUP,
				    "engine '%s' is not available here: %s", name, probe.text);
			return NULL;
		}
		*ret_why = g_strdup_printf("engine %s: as asked; %s", name, probe.text);
		return ops;
	}
	g_set_error(err, BASE_ERROR, EINVAL, "no engine is called '%s': there are 'auto', %s", name,
		    names->str);
	return NULL;
}

/* The first engine that hardware backs; else the last one that works at all, which is the one that
 * needs least of the host. */
static const struct engine_ops *engine_select_auto(char **ret_why, GError **err)
{
	g_autoptr(GString) refused = g_string_new(NULL);
	const struct engine_ops *best = NULL;
	struct engine_probe best_probe = { 0 };

	for (size_t i = 0; engine_list[i]; i++) {
		struct engine_probe probe;

		engine_list[i]->probe(&probe);
		if (probe.available) {
			best = engine_list[i];
			best_probe = probe;
			if (probe.hardware)
				break;
		}
		if (!probe.hardware && engine_list[i + 1])
			g_string_append_printf(refused, "%s%s: %s", refused->len ? "; " : "",
					       engine_list[i]->name, probe.text);
	}
	if (!best) {
		g_set_error(err, BASE_ERROR, ENOTSUP, "no engine works on this host: %s",
			    refused->str);
		return NULL;
	}
	if (best_probe.hardware || !refused->len)
		*ret_why = g_strdup_printf("engine %s: %s", best->name, best_probe.text);
	else
		*ret_why = g_strdup_printf("engine %s (%s)", best->name, refused->str);
	return best;
}

const struct engine_ops *engine_select(const char *name, char **ret_why, GError **err)
{
	if (!name || strcmp(name, "auto") == 0)
		return engine_select_auto(ret_why, err);
	return engine_select_named(name, ret_why, err);
}
