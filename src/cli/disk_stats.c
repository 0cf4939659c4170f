// SPDX-License-Identifier: Apache-2.0
/* disk_stats.c - `sika disk-stats`: what the disks of a running machine were used for. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#define VERB	"disk-stats"

static int help(void)
{
	puts("Usage: sika disk-stats NAME|PID [OPTION]...\n"
	     "Show what the disks of a running machine were used for, and how long it took.\n\n"
	     "  --histogram      how many requests took how long\n"
	     "  --json           as JSON, with the histograms\n\n"
	     "Exit status: 0 done, 1 failure, 2 usage. Manual: man sika-disk-stats");
	return 0;
}

int cli_disk_stats(int argc, char **argv)
{
	gboolean json = FALSE, histogram = FALSE;
	g_autofree char *request = NULL;
	const char *machine = NULL;

	for (int i = 0; i < argc; i++)
		if (cli_wants_help(argv[i]))
			return help();
	for (int i = 0; i < argc; i++) {
		if (!strcmp(argv[i], "--json"))
			json = TRUE;
		else if (!strcmp(argv[i], "--histogram"))
			histogram = TRUE;
		else if (*argv[i] == '-' || machine)
			return cli_complain(CLI_USAGE, VERB, "unexpected argument '%s'; see 'sika disk-stats --help'",
					    argv[i]);
		else
			machine = argv[i];
	}
	if (!machine)
		return cli_complain(CLI_USAGE, VERB, "which machine? Give its name or process number");
	request = g_strdup_printf("{\"command\":\"disk-stats\",\"format\":\"%s\",\"histogram\":%s}",
				  json ? "json" : "text", histogram ? "true" : "false");
	return cli_ask_stats(VERB, machine, request);
}
