// SPDX-License-Identifier: Apache-2.0
/* main.c - sika-vmm: the process that holds one machine. Takes the options of `sika run`. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "config/config.h"
#include "engine/engine.h"
#include "sika_version.h"
#include "vm/vm.h"

#define STATUS_USAGE 2

static const struct {
	uint32_t cap;
	const char *name;
} caps[] = {
	{ ENGINE_CAP_IRQCHIP, "irqchip" },
	{ ENGINE_CAP_PIT, "pit" },
	{ ENGINE_CAP_IOEVENTFD, "ioeventfd" },
	{ ENGINE_CAP_IRQFD, "irqfd" },
};

static void json_string(const char *text)
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
		json_string(engine_list[i]->name);
		printf(", \"available\": %s, \"hardware\": %s, \"capabilities\": [",
		       p.available ? "true" : "false", p.hardware ? "true" : "false");
		for (size_t j = 0; j < G_N_ELEMENTS(caps); j++) {
			if (!(p.caps & caps[j].cap))
				continue;
			printf("%s\"%s\"", comma, caps[j].name);
			comma = ", ";
		}
		printf("], \"text\": ");
		json_string(p.text);
		printf("}");
	}
	printf("\n]\n");
}

static int engines(bool json)
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

static int run(int argc, char **argv)
{
	struct vm_config *config = vm_config_new();
	g_autoptr(GError) err = NULL;
	struct vm *vm = NULL;
	int status;

	if (!vm_config_parse(config, argc, argv, &err) || !vm_config_validate(config, &err)) {
		status = STATUS_USAGE;
		log_error("%s", err->message);
	} else if ((vm = vm_new(config, &err))) {
		status = vm_run(vm);
	} else {
		status = VM_STATUS_FAIL;
		log_error("%s", err->message);
	}
	vm_free(vm);
	vm_config_free(config);
	return status;
}

int main(int argc, char **argv)
{
	log_set_name("sika");
	/* A reader that goes away is an error of one write, not the machine's end. */
	signal(SIGPIPE, SIG_IGN);
	if (argc == 2 && !strcmp(argv[1], "--engines"))
		return engines(false);
	if (argc == 2 && !strcmp(argv[1], "--engines=json"))
		return engines(true);
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		puts("sika-vmm " SIKA_VERSION);
		return 0;
	}
	return run(argc - 1, argv + 1);
}
