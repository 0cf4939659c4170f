// SPDX-License-Identifier: Apache-2.0
/* cli.c - complaining, and finding our other programs. */
#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int cli_complain(int status, const char *verb, const char *fmt, ...)
{
	g_autofree char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = g_strdup_vprintf(fmt, ap);
	va_end(ap);
	fprintf(stderr, "sika%s%s: %s\n", verb ? " " : "", verb ? verb : "", text);
	return status;
}

gboolean cli_wants_help(const char *arg)
{
	return arg && (!strcmp(arg, "--help") || !strcmp(arg, "-h"));
}

char *cli_find_program(const char *name)
{
	/* Relative to this program, so that an installed tree may be moved; the last two are the
	 * build tree. */
	static const char *const places[] = { ".", "../libexec/sika", "../lib/sika", "../vmm" };
	g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
	g_autofree char *dir = self ? g_path_get_dirname(self) : NULL;

	for (gsize i = 0; dir && i < G_N_ELEMENTS(places); i++) {
		g_autofree char *path = g_build_filename(dir, places[i], name, NULL);

		if (!access(path, X_OK))
			return g_steal_pointer(&path);
	}
	return NULL;
}

int cli_exec_vmm(const char *verb, int argc, char **argv)
{
	g_autofree char *vmm = cli_find_program("sika-vmm");
	g_autofree char **args = g_new0(char *, argc + 2);

	if (!vmm)
		return cli_complain(CLI_FAILURE, verb,
				    "sika-vmm is missing beside this program; install it again");
	args[0] = vmm;
	for (int i = 0; i < argc; i++)
		args[i + 1] = argv[i];
	execv(vmm, args);
	return cli_complain(CLI_FAILURE, verb, "cannot start '%s': %s", vmm, g_strerror(errno));
}
