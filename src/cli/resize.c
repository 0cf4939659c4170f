// SPDX-License-Identifier: Apache-2.0
/* resize.c - `sika resize`: a larger disk for a running machine. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/units.h"
#include "cli/cli.h"

#define VERB "resize"

static int help(void)
{
	puts("Usage: sika resize NAME|PID DISK SIZE\n"
	     "Make a disk of a running machine larger, and tell the guest.\n\n"
	     "DISK is the serial that --disk gave it, or its number: 0 is the first --disk.\n"
	     "SIZE is as 8G or 512M, or as +1G for so much more.\n\n"
	     "Exit status: 0 done, 1 failure, 2 usage. Manual: man sika-resize");
	return 0;
}

int cli_resize(int argc, char **argv)
{
	g_autoptr(GString) request = g_string_new("{\"command\":\"resize\",\"disk\":");
	g_autoptr(GHashTable) answer = NULL;
	g_autofree char *line = NULL;
	g_autoptr(GError) err = NULL;
	const char *size;
	uint64_t bytes;

	for (int i = 0; i < argc; i++)
		if (cli_wants_help(argv[i]))
			return help();
	if (argc != 3)
		return cli_complain(CLI_USAGE, VERB,
				    "a machine, a disk and a size are expected; see 'sika resize --help'");
	size = argv[2] + (*argv[2] == '+');
	if (!size_parse(size, 1, &bytes, &err))
		return cli_complain(CLI_USAGE, VERB, "%s", err->message);
	json_append_string(request, argv[1]);
	g_string_append_printf(request, ",\"%s\":%" G_GUINT64_FORMAT "}",
			       size == argv[2] ? "size" : "more", (guint64)bytes);
	line = cli_ask(VERB, argv[0], request->str);
	if (!line)
		return CLI_FAILURE;
	answer = json_parse_flat(line);
	if (answer && !g_strcmp0(g_hash_table_lookup(answer, "ok"), "true"))
		return 0;
	return cli_refused(VERB, argv[0], answer);
}
