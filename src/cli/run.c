// SPDX-License-Identifier: Apache-2.0
/* run.c - `sika run`: check the options here, where the user waits, then become sika-vmm. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "config/config.h"

static int help(void)
{
	const struct vm_option *o;

	puts("Usage: sika run --kernel FILE [OPTION]...\n"
	     "Run a virtual machine in the foreground, its serial port on this terminal.\n");
	for (size_t i = 0; (o = vm_config_option(i)); i++) {
		g_autofree char *left =
			g_strdup_printf("--%s%s%s", o->name, o->value ? " " : "", o->value ?: "");

		printf("  %-36s %s\n", left, o->help);
	}
	puts("\nOn a terminal Ctrl-A x ends the machine and Ctrl-A h shows what else there is.\n"
	     "Exit status: 0 the guest powered off, 1 failure, 2 usage. Manual: man sika-run");
	return 0;
}

/* `--cpu help`, and --json beside it: sika-vmm knows the engines. -1: it is not asked for. */
static int cpu_help(int argc, char **argv)
{
	char *list[] = { "--cpus" }, *json[] = { "--cpus=json" };
	gboolean asked = FALSE, as_json = FALSE;

	for (int i = 0; i < argc; i++) {
		asked |= !strcmp(argv[i], "--cpu=help") ||
			 (!strcmp(argv[i], "--cpu") && i + 1 < argc && !strcmp(argv[i + 1], "help"));
		as_json |= !strcmp(argv[i], "--json");
	}
	return asked ? cli_exec_vmm("run", 1, as_json ? json : list) : -1;
}

int cli_run(int argc, char **argv)
{
	struct vm_config *config;
	g_autoptr(GError) err = NULL;
	int status;

	for (int i = 0; i < argc; i++)
		if (cli_wants_help(argv[i]))
			return help();
	status = cpu_help(argc, argv);
	if (status >= 0)
		return status;
	config = vm_config_new();
	if (!vm_config_parse(config, argc, argv, &err) || !vm_config_validate(config, &err)) {
		vm_config_free(config);
		return cli_complain(CLI_USAGE, "run", "%s", err->message);
	}
	vm_config_free(config);
	return cli_exec_vmm("run", argc, argv);
}
