// SPDX-License-Identifier: Apache-2.0
/* bt_stats.c - `sika bt-stats`: asks a running machine by its control socket. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/rundir.h"
#include "cli/cli.h"

#define VERB	"bt-stats"
#define OK_JSON "{\"ok\":true,\"stats\":"

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

/* NAME.PID: is it the one that @machine names? */
static gboolean is_named(const char *file, const char *machine)
{
	const char *dot = strrchr(file, '.');

	return dot && (!strcmp(dot + 1, machine) ||
		       (strlen(machine) == (size_t)(dot - file) &&
			!strncmp(file, machine, (size_t)(dot - file))));
}

static int try_connect(const char *path)
{
	struct sockaddr_un address;
	auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || !rundir_address(path, &address))
		return -1;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (errno == ECONNREFUSED)
			(void)unlink(path); /* its process was killed */
		return -1;
	}
	return fd_steal(&fd);
}

/* A connection to the only machine of that name, or -1 after a complaint. */
static int find_machine(const char *machine)
{
	g_autofree char *dir = rundir_path();
	g_autoptr(GDir) list = g_dir_open(dir, 0, NULL);
	g_autoptr(GString) found = g_string_new(NULL);
	auto_fd int fd = -1;
	const char *file;
	unsigned count = 0;

	while (list && (file = g_dir_read_name(list))) {
		g_autofree char *path = g_build_filename(dir, file, NULL);
		int one = is_named(file, machine) ? try_connect(path) : -1;

		if (one < 0)
			continue;
		g_string_append_printf(found, "%s%s", count++ ? ", " : "",
				       strrchr(file, '.') + 1);
		if (fd < 0)
			fd = one;
		else
			close(one);
	}
	if (!count)
		(void)cli_complain(CLI_FAILURE, VERB, "no machine '%s' of this user runs (looked in '%s')",
				   machine, dir);
	if (count > 1) {
		(void)cli_complain(CLI_FAILURE, VERB,
				   "%u machines are called '%s', name one by its process number: %s",
				   count, machine, found->str);
		return -1;
	}
	return fd_steal(&fd);
}

/* One line from @fd without its end, or NULL. */
static char *read_line(int fd)
{
	g_autoptr(GString) line = g_string_new(NULL);
	char part[4096];
	ssize_t n;

	while ((n = recv(fd, part, sizeof(part), 0)) > 0 || (n < 0 && errno == EINTR)) {
		if (n > 0)
			g_string_append_len(line, part, n);
		if (line->len && line->str[line->len - 1] == '\n') {
			g_string_truncate(line, line->len - 1);
			return g_strdup(line->str);
		}
	}
	return NULL;
}

static int show(const struct ask *ask, const char *line)
{
	g_autoptr(GHashTable) flat = NULL;
	const char *text;

	if (ask->json && g_str_has_prefix(line, OK_JSON)) {
		line += strlen(OK_JSON);
		printf("%.*s\n", (int)strlen(line) - 1, line);
		return 0;
	}
	flat = json_parse_flat(line);
	if (flat && (text = g_hash_table_lookup(flat, "text"))) {
		fputs(text, stdout);
		return 0;
	}
	text = flat ? g_hash_table_lookup(flat, "error") : NULL;
	return cli_complain(CLI_FAILURE, VERB, "%s: %s", ask->machine,
			    text ?: "its answer is not understood");
}

int cli_bt_stats(int argc, char **argv)
{
	struct ask ask = { .ms = 1000, .top = 10 };
	g_autofree char *request = NULL, *line = NULL;
	auto_fd int fd = -1;
	int status;

	for (int i = 0; i < argc; i++)
		if (cli_wants_help(argv[i]))
			return help();
	status = parse(argc, argv, &ask);
	if (status)
		return status;
	fd = find_machine(ask.machine);
	if (fd < 0)
		return CLI_FAILURE;
	request = g_strdup_printf("{\"command\":\"bt-stats\",\"time_ms\":%" G_GUINT64_FORMAT
				  ",\"top\":%" G_GUINT64_FORMAT ",\"format\":\"%s\"}\n",
				  ask.ms, ask.top, ask.json ? "json" : "text");
	if (send(fd, request, strlen(request), MSG_NOSIGNAL) == (ssize_t)strlen(request))
		line = read_line(fd);
	if (!line)
		return cli_complain(CLI_FAILURE, VERB, "%s: the machine ended", ask.machine);
	return show(&ask, line);
}
