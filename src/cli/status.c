// SPDX-License-Identifier: Apache-2.0
/* status.c - `sika status` and `sika resume`: whether a machine runs, and why not. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "cli/cli.h"

static int help_status(void)
{
	puts("Usage: sika status NAME|PID [--json]\n"
	     "Say whether a machine runs or is paused, and why.\n\n"
	     "  --json           as a JSON object\n\n"
	     "Exit status: 0 done, 1 failure, 2 usage. Manual: man sika-status");
	return 0;
}

static int help_resume(void)
{
	puts("Usage: sika resume NAME|PID\n"
	     "Let a machine that is paused because of a disk try again now.\n\n"
	     "Exit status: 0 done, 1 failure, 2 usage. Manual: man sika-status");
	return 0;
}

/* The members of a good answer, or NULL after a complaint. */
static GHashTable *ask(const char *verb, const char *machine, const char *request)
{
	g_autofree char *line = cli_ask(verb, machine, request);
	GHashTable *flat = line ? json_parse_flat(line) : NULL;

	if (!line || (flat && !g_strcmp0(g_hash_table_lookup(flat, "ok"), "true")))
		return flat;
	(void)cli_refused(verb, machine, flat);
	if (flat)
		g_hash_table_unref(flat);
	return NULL;
}

static void show_json(const char *state, const char *why)
{
	g_autoptr(GString) out = g_string_new("{\"state\":");

	json_append_string(out, state);
	if (why) {
		g_string_append(out, ",\"why\":");
		json_append_string(out, why);
	}
	printf("%s}\n", out->str);
}

int cli_status(int argc, char **argv)
{
	g_autoptr(GHashTable) answer = NULL;
	const char *machine = NULL, *state, *why;
	gboolean json = FALSE;

	for (int i = 0; i < argc; i++) {
		if (cli_wants_help(argv[i]))
			return help_status();
		if (!strcmp(argv[i], "--json"))
			json = TRUE;
		else if (*argv[i] == '-' || machine)
			return cli_complain(CLI_USAGE, "status", "unexpected argument '%s'; see "
					    "'sika status --help'", argv[i]);
		else
			machine = argv[i];
	}
	if (!machine)
		return cli_complain(CLI_USAGE, "status", "which machine? Give its name or process number");
	answer = ask("status", machine, "{\"command\":\"status\"}");
	if (!answer)
		return CLI_FAILURE;
	state = g_hash_table_lookup(answer, "state") ?: "unknown";
	why = g_hash_table_lookup(answer, "why");
	if (json)
		show_json(state, why);
	else
		printf("%s%s%s\n", state, why ? ": " : "", why ?: "");
	return 0;
}

int cli_resume(int argc, char **argv)
{
	g_autoptr(GHashTable) answer = NULL;

	for (int i = 0; i < argc; i++)
		if (cli_wants_help(argv[i]))
			return help_resume();
	if (argc != 1)
		return cli_complain(CLI_USAGE, "resume", "which machine? Give its name or process number");
	answer = ask("resume", argv[0], "{\"command\":\"resume\"}");
	return answer ? 0 : CLI_FAILURE;
}
