// SPDX-License-Identifier: Apache-2.0
/* cpus.c - what `sika run --cpu help` prints: models and flags, and which engine has them here. */
#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "vmm/show.h"
#include "x86/model.h"

#define WIDTH 79u

struct offer {
	const char *name;
	struct x86_cpuid_model max; /* where why is NULL */
	GError *why;
};

/* The flag that @offer lacks for row @base, or NULL. */
static const char *lacks(const struct offer *offer, size_t base)
{
	struct x86_cpu_spec spec = { .base = (uint8_t)base };
	struct x86_cpuid_model model;
	const char *missing;

	return x86_cpuid_model_make(&model, &offer->max, &spec, &missing) ? NULL : missing;
}

static void json_flags(const struct offer *offer)
{
	const struct x86_cpu_flag *flag;
	const char *comma = "";

	for (size_t i = 0; (flag = x86_cpu_flag(i)); i++) {
		if (!x86_cpuid_model_has(&offer->max, flag))
			continue;
		printf("%s\"%s\"", comma, flag->name);
		comma = ", ";
	}
}

static void json_models(const struct offer *offer)
{
	const struct x86_cpu_base *base;

	for (size_t i = 0; (base = x86_cpu_base(i)); i++) {
		const char *missing = lacks(offer, i);

		printf("%s\n    {\"name\": \"%s\", \"available\": %s, \"lacks\": ", i ? "," : "",
		       base->name, missing ? "false" : "true");
		if (missing)
			show_json_string(missing);
		else
			printf("null");
		printf("}");
	}
}

static void show_json(const struct offer *offers, size_t count)
{
	printf("[");
	for (size_t i = 0; i < count; i++) {
		printf("%s\n  {\"engine\": \"%s\", \"available\": %s", i ? "," : "",
		       offers[i].name, offers[i].why ? "false" : "true");
		if (offers[i].why) {
			printf(", \"text\": ");
			show_json_string(offers[i].why->message);
		} else {
			printf(", \"models\": [");
			json_models(&offers[i]);
			printf("],\n   \"flags\": [");
			json_flags(&offers[i]);
			printf("]");
		}
		printf("}");
	}
	printf("\n]\n");
}

static void show_flags(const struct offer *offer)
{
	const struct x86_cpu_flag *flag;
	size_t column = 0;

	for (size_t i = 0; (flag = x86_cpu_flag(i)); i++) {
		size_t len = strlen(flag->name);

		if (offer ? !x86_cpuid_model_has(&offer->max, flag) : false)
			continue;
		if (!column || column + 1 + len > WIDTH)
			column = (size_t)printf("%s %s", column ? "\n" : "", flag->name) - 1;
		else
			column += (size_t)printf(" %s", flag->name);
	}
	printf("\n");
}

static void show_text(const struct offer *offers, size_t count)
{
	const struct x86_cpu_base *base;

	printf("%-11s", "MODEL");
	for (size_t i = 0; i < count; i++)
		printf(" %-16s", offers[i].name);
	printf(" WHAT IT IS\n");
	for (size_t i = 0; (base = x86_cpu_base(i)); i++) {
		printf("%-11s", base->name);
		for (size_t j = 0; j < count; j++) {
			const char *missing = offers[j].why ? NULL : lacks(&offers[j], i);
			g_autofree char *no = g_strdup_printf("no %s", missing ?: "");

			printf(" %-16s", offers[j].why ? "-" : missing ? no : "yes");
		}
		printf(" %s\n", base->text);
	}
	for (size_t i = 0; i < count; i++) {
		if (offers[i].why) {
			printf("\nEngine %s: %s\n", offers[i].name, offers[i].why->message);
			continue;
		}
		printf("\nFlags of engine %s here, for +FLAG and -FLAG:\n", offers[i].name);
		show_flags(&offers[i]);
	}
	printf("\nAll known flags:\n");
	show_flags(NULL);
}

int show_cpus(bool json)
{
	g_autofree struct offer *offers = NULL;
	size_t count = 0;

	while (engine_list[count])
		count++;
	offers = g_new0(struct offer, count);
	for (size_t i = 0; i < count; i++) {
		offers[i].name = engine_list[i]->name;
		(void)engine_list[i]->cpu_max(&offers[i].max, &offers[i].why);
	}
	if (json)
		show_json(offers, count);
	else
		show_text(offers, count);
	for (size_t i = 0; i < count; i++)
		g_clear_error(&offers[i].why);
	return 0;
}
