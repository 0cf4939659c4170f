// SPDX-License-Identifier: Apache-2.0
/* cpu.c - --cpu: MODEL[,+FLAG,-FLAG]..., names of models and flags. */
#include <string.h>

#include "config/config.h"
#include "config/config_int.h"

static bool find_base(const char *name, struct x86_cpu_spec *spec, GError **err)
{
	g_autoptr(GString) known = g_string_new(NULL);
	const struct x86_cpu_base *base;
	int row = x86_cpu_base_find(name, strlen(name));

	if (row >= 0) {
		spec->base = (uint8_t)row;
		return true;
	}
	for (size_t i = 0; (base = x86_cpu_base(i)); i++)
		g_string_append_printf(known, "%s%s", i ? ", " : "", base->name);
	return config_fail(err, "--cpu: no model '%s', there are: %s", name, known->str);
}

bool config_apply_cpu(struct vm_config *config, const char *value, GError **err)
{
	g_auto(GStrv) items = list_split(value);
	struct x86_cpu_spec spec = { 0 };

	if (!find_base(items[0], &spec, err))
		return false;
	for (char **item = items + 1; *item; item++) {
		const char *name = *item + 1;
		const struct x86_cpu_flag *flag;

		if (**item != '+' && **item != '-')
			return config_fail(err, "--cpu %s: '%s' is not +FLAG or -FLAG", items[0],
					   *item);
		flag = x86_cpu_flag_find(name, strlen(name));
		if (!flag)
			return config_fail(err,
					   "--cpu %s: no flag '%s'; 'sika run --cpu help' lists "
					   "them, with the names of /proc/cpuinfo",
					   items[0], name);
		x86_cpu_spec_set(&spec, flag, **item == '+');
	}
	config->cpu = spec;
	return true;
}
