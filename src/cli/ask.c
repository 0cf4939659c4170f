// SPDX-License-Identifier: Apache-2.0
/* ask.c - a question to a running machine, at its control socket. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/rundir.h"
#include "cli/cli.h"

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
static int find_machine(const char *verb, const char *machine)
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
		(void)cli_complain(CLI_FAILURE, verb, "no machine '%s' of this user runs (looked in '%s')",
				   machine, dir);
	if (count > 1) {
		(void)cli_complain(CLI_FAILURE, verb,
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

char *cli_ask_keep(const char *verb, const char *machine, const char *request, int *ret_fd)
{
	g_autofree char *whole = g_strconcat(request, "\n", NULL);
	auto_fd int fd = find_machine(verb, machine);
	char *line = NULL;

	if (fd < 0)
		return NULL;
	if (send(fd, whole, strlen(whole), MSG_NOSIGNAL) == (ssize_t)strlen(whole))
		line = read_line(fd);
	if (!line)
		(void)cli_complain(CLI_FAILURE, verb, "%s: the machine ended", machine);
	else
		*ret_fd = fd_steal(&fd);
	return line;
}

char *cli_ask(const char *verb, const char *machine, const char *request)
{
	auto_fd int fd = -1;

	return cli_ask_keep(verb, machine, request, &fd);
}

int cli_refused(const char *verb, const char *machine, GHashTable *answer)
{
	const char *why = answer ? g_hash_table_lookup(answer, "error") : NULL;

	return cli_complain(CLI_FAILURE, verb, "%s: %s", machine, why ?: "its answer is not understood");
}

int cli_ask_stats(const char *verb, const char *machine, const char *request)
{
	static const char ok_json[] = "{\"ok\":true,\"stats\":";
	g_autofree char *line = cli_ask(verb, machine, request);
	g_autoptr(GHashTable) answer = NULL;
	const char *text;

	if (!line)
		return CLI_FAILURE;
	if (g_str_has_prefix(line, ok_json)) {
		text = line + strlen(ok_json);
		printf("%.*s\n", (int)strlen(text) - 1, text);
		return 0;
	}
	answer = json_parse_flat(line);
	text = answer ? g_hash_table_lookup(answer, "text") : NULL;
	if (!text)
		return cli_refused(verb, machine, answer);
	fputs(text, stdout);
	return 0;
}
