// SPDX-License-Identifier: Apache-2.0
/* engine_stats.c - `sika bt-stats` and `sika kvm-stat`: what the engine of a running machine has counted. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#define SECONDS_MAX 60u
#define TOP_MAX	    1000u

struct verb {
	const char *name, *help;
	bool has_top;
};

struct ask {
	const char *machine;
	guint64 seconds, top;
	bool json;
};

/* "--NAME VALUE" or "--NAME=VALUE": true, and *i is at the last of it. */
static bool is_option(const char *name, int argc, char **argv, int *i, const char **ret_value)
{
	size_t len = strlen(name);
	const char *arg = argv[*i];

	if (strncmp(arg, name, len) || (arg[len] && arg[len] != '='))
		return false;
	*ret_value = arg[len] ? arg + len + 1 : *i + 1 < argc ? argv[++*i] : "";
	return true;
}

static int take_number(const struct verb *v, const char *name, const char *value, guint64 min, guint64 max,
		       guint64 *ret)
{
	if (g_ascii_string_to_unsigned(value, 10, min, max, ret, NULL))
		return 0;
	return cli_complain(CLI_USAGE, v->name, "%s: '%s' is not a number from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT,
			    name, value, min, max);
}

static int parse(const struct verb *v, int argc, char **argv, struct ask *ask)
{
	const char *value;
	int status = 0;

	for (int i = 0; i < argc && !status; i++) {
		if (!strcmp(argv[i], "--json"))
			ask->json = true;
		else if (is_option("--time", argc, argv, &i, &value))
			status = take_number(v, "--time", value, 1, SECONDS_MAX, &ask->seconds);
		else if (v->has_top && is_option("--top", argc, argv, &i, &value))
			status = take_number(v, "--top", value, 0, TOP_MAX, &ask->top);
		else if (*argv[i] == '-' || ask->machine)
			status = cli_complain(CLI_USAGE, v->name, "unexpected argument '%s'; see 'sika %s --help'", argv[i],
					      v->name);
		else
			ask->machine = argv[i];
	}
	if (!status && !ask->machine)
		status = cli_complain(CLI_USAGE, v->name, "which machine? Give its name or process number");
	return status;
}

static int run(const struct verb *v, int argc, char **argv)
{
	struct ask ask = { .seconds = 1, .top = 10 };
	g_autofree char *request = NULL, *top = NULL;
	int status;

	for (int i = 0; i < argc; i++) {
		if (cli_wants_help(argv[i])) {
			puts(v->help);
			return 0;
		}
	}
	status = parse(v, argc, argv, &ask);
	if (status)
		return status;
	top = v->has_top ? g_strdup_printf("\"top\":%" G_GUINT64_FORMAT ",", ask.top) : g_strdup("");
	request = g_strdup_printf("{\"command\":\"%s\",%s\"time_ms\":%" G_GUINT64_FORMAT ",\"format\":\"%s\"}", v->name,
				  top, ask.seconds * 1000, ask.json ? "json" : "text");
	return cli_ask_stats(v->name, ask.machine, request);
}

int cli_bt_stats(int argc, char **argv)
{
	static const struct verb verb = {
		.name = "bt-stats",
		.help = "Usage: sika bt-stats NAME|PID [OPTION]...\n"
			"Show what a running machine of engine bt has done, and where its time goes.\n\n"
			"  --time SECONDS   how long to look at it (default 1)\n"
			"  --top N          rows of the lists (default 10)\n"
			"  --json           as a JSON object\n\n"
			"Exit status: 0 done, 1 failure, 2 usage. Manual: man sika-bt-stats",
		.has_top = true,
	};

	return run(&verb, argc, argv);
}

int cli_kvm_stat(int argc, char **argv)
{
	static const struct verb verb = {
		.name = "kvm-stat",
		.help = "Usage: sika kvm-stat NAME|PID [OPTION]...\n"
			"Show what the host's KVM counts of a running machine of engine kvm.\n\n"
			"  --time SECONDS   how long to look at it (default 1)\n"
			"  --json           as a JSON object, with what is 0, and histograms\n\n"
			"Exit status: 0 done, 1 failure, 2 usage. Manual: man sika-kvm-stat",
	};

	return run(&verb, argc, argv);
}
