// SPDX-License-Identifier: Apache-2.0
/* engine.c - --engine and the options of the bt engine. */
#include <string.h>

#include "base/units.h"
#include "config/config.h"
#include "config/config_int.h"

static bool apply_item(struct vm_config *c, const char *item, GError **err)
{
	const char *v;

	if ((v = key_value(item, "irqchip")) && (!strcmp(v, "on") || !strcmp(v, "off"))) {
		c->own_irqchip = !strcmp(v, "off");
		return true;
	}
	if (!strcmp(item, "interpret")) {
		c->bt.interpret = true;
		return true;
	}
	if (!strcmp(item, "deterministic")) {
		c->bt.deterministic = true;
		return true;
	}
	if ((v = key_value(item, "off")) && *v) {
		g_free(c->bt.off);
		c->bt.off = g_strdup(v);
		return true;
	}
	return config_fail(err,
			   "--engine %s: '%s' is none of irqchip=on, irqchip=off, "
			   "deterministic, interpret, off=NAME+NAME",
			   c->engine, item);
}

bool config_apply_engine(struct vm_config *config, const char *value, GError **err)
{
	g_auto(GStrv) items = list_split(value);

	if (strcmp(items[0], "auto") && strcmp(items[0], "kvm") && strcmp(items[0], "bt"))
		return config_fail(err, "--engine: no engine '%s', there are: auto, kvm, bt",
				   items[0]);
	g_free(config->engine);
	config->engine = g_strdup(items[0]);
	for (char **item = items + 1; *item; item++)
		if (!apply_item(config, *item, err))
			return false;
	return true;
}

bool config_apply_bt_cache(struct vm_config *config, const char *value, GError **err)
{
	g_autoptr(GError) why = NULL;

	if (!size_parse(value, MIB, &config->bt.cache_bytes, &why))
		return config_fail(err, "--bt-cache: %s", why->message);
	if (config->bt.cache_bytes < VM_MIN_BT_CACHE || config->bt.cache_bytes > VM_MAX_BT_CACHE)
		return config_fail(err, "--bt-cache: '%s' is not between 128K and 1G", value);
	return true;
}

bool config_apply_bt_count(struct vm_config *config, const char *value, GError **err)
{
	config->bt.count_insns = true;
	return true;
}

bool config_apply_perf_map(struct vm_config *config, const char *value, GError **err)
{
	config->bt.perf_map = true;
	return true;
}

bool config_validate_engine(const struct vm_config *c, GError **err)
{
	if (strcmp(c->engine, "bt") && c->bt.count_insns)
		return config_fail(err, "--bt-count: only engine bt counts, which has to be named");
	if (strcmp(c->engine, "bt") && (c->bt.interpret || c->bt.off || c->bt.deterministic))
		return config_fail(err, "--engine %s: '%s' is of engine bt, which has to be named",
				   c->engine, c->bt.interpret ? "interpret" :
					      c->bt.off ? "off" : "deterministic");
	if (c->bt.deterministic && c->cpus > 1)
		return config_fail(err, "--engine bt: 'deterministic' is with one CPU, not %u", c->cpus);
	if (!strcmp(c->engine, "kvm") && c->bt.cache_bytes)
		return config_fail(err, "--bt-cache: engine kvm has no such cache");
	if (!strcmp(c->engine, "kvm") && c->bt.perf_map)
		return config_fail(err, "--perf-map: engine kvm translates no code");
	return true;
}
