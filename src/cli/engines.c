// SPDX-License-Identifier: Apache-2.0
/* engines.c - `sika engines`: sika-vmm knows the engines and prints them. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

int cli_engines(int argc, char **argv)
{
	char *list[] = { "--engines" }, *json[] = { "--engines=json" };

	if (argc > 0 && cli_wants_help(argv[0])) {
		puts("Usage: sika engines [--json]\n"
		     "Show what can run virtual CPUs on this host, and why not.\n\n"
		     "  --json   as a JSON array of objects with name, available, hardware,\n"
		     "           capabilities, text\n\n"
		     "Manual: man sika-engines");
		return 0;
	}
	if (argc > 1 || (argc == 1 && strcmp(argv[0], "--json")))
		return cli_complain(CLI_USAGE, "engines",
				    "unexpected argument '%s'; see 'sika engines --help'",
				    argv[argc - 1]);
	return cli_exec_vmm("engines", 1, argc ? json : list);
}
