// SPDX-License-Identifier: Apache-2.0
/* bt_stats.c - `sika bt-stats`: asks a running machine by its control socket. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#define VERB	"bt-stats"

struct ask {
	const char *machine;
	guint64 ms, top;
	gboolean json;
};

static int help(void)
{
	puts("Usage: sika bt-stats NAME|PID [OPTION]...\n"
	     "Show what a running machine of engine bt has done, and where its time goes.\n\n"
	     "  --time SECONDS   how long to look at it (default 1)\n"
	     "  --top N          rows of the lists (default 10)\n"
	     "  --json           as a JSON object\n\n"
	     "Exit status: 0 done, 1 failure, 2 usage. Manual: man sika-bt-stats");
	return 0;
}

#define complain(...) cli_complain(CLI_USAGE, VERB, __VA_ARGS__)

static int parse(int argc, char **argv, struct ask *ask)
{
	for (int i = 0; i < argc; i++) {
		const char *arg = argv[i], *eq = strchr(arg, '='), *value;
		size_t len = eq ? (size_t)(eq - arg) : strlen(arg);

		if (!strcmp(arg, "--json")) {
			ask->json = TRUE;
		} else if ((len == 6 && !strncmp(arg, "--time", 6)) ||
			   (len == 5 && !strncmp(arg, "--top", 5))) {
			gboolean is_time = len == 6;

			value = eq ? eq + 1 : i + 1 < argc ? argv[++i] : "";
			if (!g_ascii_string_to_unsigned(value, 10, is_time, is_time ? 60 : 1000,
							is_time ? &ask->ms : &ask->top, NULL))
				return complain("%.*s: '%s' is not a number from %d to %d",
						(int)len, arg, value, is_time, is_time ? 60 : 1000);
			if (is_time)
				ask->ms *= 1000;
		} else if (*arg == '-' || ask->machine) {
			return complain("unexpected argument '%s'; see 'sika bt-stats --help'", arg);
		} else {
			ask->machine = arg;
		}
	}
	return ask->machine ? 0 : complain("which machine? Give its name or process number");
}

int cli_bt_stats(int argc, char **argv)
{
	struct ask ask = { .ms = 1000, .top = 10 };
	g_autofree char *request = NULL;
	int status;

	for (int i = 0; i < argc; i++)
		if (cli_wants_help(argv[i]))
			return help();
	status = parse(argc, argv, &ask);
	if (status)
		return status;
	request = g_strdup_printf("{\"command\":\"bt-stats\",\"time_ms\":%" G_GUINT64_FORMAT
				  ",\"top\":%" G_GUINT64_FORMAT ",\"format\":\"%s\"}",
				  ask.ms, ask.top, ask.json ? "json" : "text");
	return cli_ask_stats(VERB, ask.machine, request);
}
