// SPDX-License-Identifier: Apache-2.0
/* kvm_stat.c - `sika kvm-stat`: what the host's KVM counts of a running machine. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#define VERB	    "kvm-stat"
#define SECONDS_MAX 60

static int help(void)
{
	puts("Usage: sika kvm-stat NAME|PID [OPTION]...\n"
	     "Show what the host's KVM counts of a running machine of engine kvm.\n\n"
	     "  --time SECONDS   how long to look at it (default 1)\n"
	     "  --json           as a JSON object, with what is 0, and histograms\n\n"
	     "Exit status: 0 done, 1 failure, 2 usage. Manual: man sika-kvm-stat");
	return 0;
}

int cli_kvm_stat(int argc, char **argv)
{
	g_autofree char *request = NULL;
	const char *machine = NULL, *value;
	gboolean json = FALSE;
	guint64 seconds = 1;

	for (int i = 0; i < argc; i++)
		if (cli_wants_help(argv[i]))
			return help();
	for (int i = 0; i < argc; i++) {
		if (!strcmp(argv[i], "--json")) {
			json = TRUE;
		} else if (!strcmp(argv[i], "--time") || g_str_has_prefix(argv[i], "--time=")) {
			value = argv[i][6] ? argv[i] + 7 : i + 1 < argc ? argv[++i] : "";
			if (!g_ascii_string_to_unsigned(value, 10, 1, SECONDS_MAX, &seconds, NULL))
				return cli_complain(CLI_USAGE, VERB, "--time: '%s' is not a number from 1 to %d",
						    value, SECONDS_MAX);
		} else if (*argv[i] == '-' || machine) {
			return cli_complain(CLI_USAGE, VERB, "unexpected argument '%s'; see 'sika kvm-stat --help'",
					    argv[i]);
		} else {
			machine = argv[i];
		}
	}
	if (!machine)
		return cli_complain(CLI_USAGE, VERB, "which machine? Give its name or process number");
	request = g_strdup_printf("{\"command\":\"kvm-stat\",\"time_ms\":%" G_GUINT64_FORMAT ",\"format\":\"%s\"}",
				  seconds * 1000, json ? "json" : "text");
	return cli_ask_stats(VERB, machine, request);
}
