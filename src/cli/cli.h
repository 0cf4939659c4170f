// SPDX-License-Identifier: Apache-2.0
/* cli.h - what the verbs of `sika` share. Each verb gets the arguments behind its name and returns
 * the exit status: 0, 1 failure, 2 usage. */
#pragma once

#include <glib.h>

#define CLI_FAILURE 1
#define CLI_USAGE   2

int cli_run(int argc, char **argv);
int cli_image(int argc, char **argv);
int cli_engines(int argc, char **argv);
int cli_bt_stats(int argc, char **argv);
int cli_resize(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_resume(int argc, char **argv);
int cli_disk_stats(int argc, char **argv);
int cli_kvm_stat(int argc, char **argv);

/* One line on standard error, "sika VERB: sentence"; returns @status. */
int cli_complain(int status, const char *verb, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
/* True for --help and -h. */
gboolean cli_wants_help(const char *arg);
/* A program of ours that is not on the PATH: beside this one, in libexec, or in the build tree.
 * Caller frees; NULL when it is nowhere. */
char *cli_find_program(const char *name);
/* Become sika-vmm. Returns, with a status, only when that fails. */
int cli_exec_vmm(const char *verb, int argc, char **argv);

/* ---- ask.c ---- */
/* The answer of the machine of that name or process number to one line, at its control socket. NULL after a
 * complaint; caller frees. */
char *cli_ask(const char *verb, const char *machine, const char *request);
/* The same, and the connection in @ret_fd, which the caller closes. */
char *cli_ask_keep(const char *verb, const char *machine, const char *request, int *ret_fd);
/* Complain as the machine does in @answer, which is NULL where it is no JSON. Returns CLI_FAILURE. */
int cli_refused(const char *verb, const char *machine, GHashTable *answer);
/* Ask for statistics, and show them as text or JSON, as @request wants them. Returns the exit status. */
int cli_ask_stats(const char *verb, const char *machine, const char *request);

/* ---- image_build.c ---- */
struct image_options {
	char *suite;
	char *ssh_key; /* path; NULL: none */
	char *include; /* NULL: none */
	char *out;
	guint64 size_bytes;
};

/* Build out, out.vmlinuz and out.initrd, all or nothing. Returns the exit status. */
int image_build(const struct image_options *options);
