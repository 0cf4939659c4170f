// SPDX-License-Identifier: Apache-2.0
/* engines.c - what `sika engines` prints: each engine, and what it can do on this host. */
#include <stdio.h>

#include "engine/engine.h"
#include "vmm/show.h"

static const struct {
	uint32_t cap;
	const char *name;
} caps[] = {
	{ ENGINE_CAP_IRQCHIP, "irqchip" },
	{ ENGINE_CAP_PIT, "pit" },
	{ ENGINE_CAP_IOEVENTFD, "ioeventfd" },
	{ ENGINE_CAP_IRQFD, "irqfd" },
};

void show_json_string(const char *text)
{
	putchar('"');
	for (const char *p = text; *p; p++) {
		if (*p == '"' || *p == '\\')
			putchar('\\');
		if ((unsigned char)*p < ' ')
			printf("\\u%04x", *p);
		else
			putchar(*p);
	}
	putchar('"');
}

static void engines_json(void)
{
	printf("[");
	for (size_t i = 0; engine_list[i]; i++) {
		struct engine_probe p = { 0 };
		const char *comma = "";

		engine_list[i]->probe(&p);
		printf("%s\n  {\"name\": ", i ? "," : "");
		show_json_string(engine_list[i]->name);
		printf(", \"available\": %s, \"hardware\": %s, \"capabilities\": [",
		       p.available ? "true" : "false", p.hardware ? "true" : "false");
		for (size_t j = 0; j < G_N_ELEMENTS(caps); j++) {
			if (!(p.caps & caps[j].cap))
				continue;
			printf("%s\"%s\"", comma, caps[j].name);
			comma = ", ";
		}
		printf("], \"text\": ");
		show_json_string(p.text);
		printf("}");
	}
	printf("\n]\n");
}

int show_engines(bool json)
{
	if (json) {
		engines_json();
		return 0;
	}
	printf("%-8s %-10s %-9s %s\n", "ENGINE", "AVAILABLE", "HARDWARE", "WHAT IT CAN DO HERE");
	for (size_t i = 0; engine_list[i]; i++) {
		struct engine_probe p = { 0 };

		engine_list[i]->probe(&p);
		printf("%-8s %-10s %-9s %s\n", engine_list[i]->name, p.available ? "yes" : "no",
		       p.hardware ? "yes" : "no", p.text);
	}
	return 0;
}
