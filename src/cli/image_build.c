// SPDX-License-Identifier: Apache-2.0
/*
 * image_build.c - runs the image builder's script: progress, cleaning up, naming the results.
 *
 * All work is done in a temporary directory beside the result, which is removed on every way out;
 * what is complete is then renamed, the disk last.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/units.h"
#include "cli/cli.h"

#define VERB "image build"

struct build {
	const struct image_options *options;
	char *dir;
	GMainLoop *loop;
	GPid pid;
	int status; /* of the script, as wait() gives it */
	int signal; /* that ended us, or 0 */
	gboolean bar; /* standard error is a terminal */
};

static void bar_draw(unsigned percent, const char *what)
{
	enum { WIDTH = 40 };
	char cells[WIDTH + 1] = "";

	memset(cells, '.', WIDTH);
	memset(cells, '#', MIN(percent, 100) * WIDTH / 100);
	fprintf(stderr, "\r[%s] %3u%% %s\033[K", cells, percent, what);
	fflush(stderr);
}

static gboolean on_progress(GIOChannel *channel, GIOCondition condition, gpointer arg)
{
	struct build *b = arg;
	g_autofree char *line = NULL;
	unsigned percent;
	int what = 0;

	if (g_io_channel_read_line(channel, &line, NULL, NULL, NULL) != G_IO_STATUS_NORMAL)
		return G_SOURCE_REMOVE;
	g_strchomp(line);
	if (sscanf(line, "progress %u %n", &percent, &what) != 1 || !what)
		return G_SOURCE_CONTINUE;
	if (b->bar)
		bar_draw(percent, line + what);
	else
		fprintf(stderr, "sika image build: %3u%% %s\n", percent, line + what);
	return G_SOURCE_CONTINUE;
}

static void on_script_end(GPid pid, int status, gpointer arg)
{
	struct build *b = arg;

	b->status = status;
	g_main_loop_quit(b->loop);
}

static void on_signal(struct build *b, int signal)
{
	b->signal = signal;
	/* The script's whole process group; mmdebstrap cleans up after itself on SIGTERM. */
	kill(-b->pid, SIGTERM);
}

static gboolean on_sigint(gpointer arg)
{
	on_signal(arg, SIGINT);
	return G_SOURCE_CONTINUE;
}

static gboolean on_sigterm(gpointer arg)
{
	on_signal(arg, SIGTERM);
	return G_SOURCE_CONTINUE;
}

static void child_setup(gpointer arg)
{
	int fd = open(arg, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	setpgid(0, 0);
	if (fd >= 0)
		dup2(fd, STDERR_FILENO);
}

static gboolean remove_tree(const char *path)
{
	char *argv[] = { "rm", "-rf", "--", (char *)path, NULL };

	return g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL,
			    NULL);
}

static gboolean spawn(struct build *b, const char *script, int *ret_out, GError **err)
{
	g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, b->options->size_bytes);
	g_autofree char *log = g_build_filename(b->dir, "log", NULL);
	char *argv[] = { (char *)script,
			 b->dir,
			 b->options->suite,
			 size,
			 b->options->ssh_key ?: "",
			 b->options->include ?: "",
			 NULL };

	return g_spawn_async_with_pipes(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, child_setup,
					log, &b->pid, NULL, ret_out, NULL, err);
}

/* Run the script to its end. False when it could not be started. */
static gboolean run_script(struct build *b, const char *script, GError **err)
{
	GIOChannel *channel;
	guint sources[2];
	int out;

	if (!spawn(b, script, &out, err))
		return FALSE;
	b->loop = g_main_loop_new(NULL, FALSE);
	channel = g_io_channel_unix_new(out);
	g_io_channel_set_close_on_unref(channel, TRUE);
	g_io_add_watch(channel, G_IO_IN | G_IO_HUP, on_progress, b);
	sources[0] = g_unix_signal_add(SIGINT, on_sigint, b);
	sources[1] = g_unix_signal_add(SIGTERM, on_sigterm, b);
	g_child_watch_add(b->pid, on_script_end, b);
	g_main_loop_run(b->loop);
	g_source_remove(sources[0]);
	g_source_remove(sources[1]);
	g_io_channel_unref(channel);
	g_main_loop_unref(b->loop);
	g_spawn_close_pid(b->pid);
	if (b->bar)
		fputs("\r\033[K", stderr);
	return TRUE;
}

/* The script's log is apt's and mmdebstrap's; their errors start with "E: ". */
static int complain_with_log(const struct build *b)
{
	g_autofree char *path = g_build_filename(b->dir, "log", NULL);
	g_autofree char *text = NULL;
	g_auto(GStrv) lines = NULL;
	const char *last = "no reason was given", *why = NULL;

	if (g_file_get_contents(path, &text, NULL, NULL)) {
		lines = g_strsplit(text, "\n", -1);
		for (char **l = lines; *l; l++) {
			if (**l)
				last = *l;
			if (g_str_has_prefix(*l, "E: ") && !why)
				why = *l + 3;
		}
	}
	return cli_complain(CLI_FAILURE, VERB, "building '%s' failed: %s", b->options->out,
			    why ?: last);
}

/* All or nothing: what was already in place goes again when a later one fails. */
static int name_results(const struct build *b)
{
	static const char *const parts[][2] = { { "vmlinuz", ".vmlinuz" },
						{ "initrd", ".initrd" },
						{ "disk", "" } };

	for (gsize i = 0; i < G_N_ELEMENTS(parts); i++) {
		g_autofree char *from = g_build_filename(b->dir, parts[i][0], NULL);
		g_autofree char *to = g_strconcat(b->options->out, parts[i][1], NULL);
		int error;

		if (!g_rename(from, to))
			continue;
		error = errno;
		while (i-- > 0) {
			g_autofree char *undo = g_strconcat(b->options->out, parts[i][1], NULL);

			g_unlink(undo);
		}
		return cli_complain(CLI_FAILURE, VERB, "cannot create '%s': %s", to,
				    g_strerror(error));
	}
	return 0;
}

static void say_done(const struct image_options *o)
{
	printf("%s is ready; root's password on the console is: sika\n"
	       "  sika run --kernel %s.vmlinuz --initrd %s.initrd --disk %s \\\n"
	       "           --append 'console=ttyS0 root=/dev/vda'\n",
	       o->out, o->out, o->out, o->out);
}

static int check_tools(void)
{
	static const char *const tools[][2] = {
		{ "mmdebstrap", "mmdebstrap" },
		{ "mke2fs", "e2fsprogs" },
		{ "cpio", "cpio" },
		{ "gzip", "gzip" },
		{ "fakeroot", "fakeroot" },
	};
	/* mke2fs lies in /usr/sbin, which an ordinary user's PATH may lack. */
	g_autofree char *path =
		g_strconcat(g_getenv("PATH") ?: "/usr/bin:/bin", ":/usr/sbin:/sbin", NULL);
	gsize count = G_N_ELEMENTS(tools) - (geteuid() == 0);

	g_setenv("PATH", path, TRUE);
	for (gsize i = 0; i < count; i++) {
		g_autofree char *found = g_find_program_in_path(tools[i][0]);

		if (!found)
			return cli_complain(CLI_FAILURE, VERB,
					    "%s is not installed; the package is '%s'", tools[i][0],
					    tools[i][1]);
	}
	return 0;
}

static int build_in(struct build *b, const char *script)
{
	g_autoptr(GError) err = NULL;

	if (!run_script(b, script, &err))
		return cli_complain(CLI_FAILURE, VERB, "cannot start '%s': %s", script,
				    err->message);
	if (b->signal)
		return cli_complain(CLI_FAILURE, VERB, "interrupted, '%s' was not made",
				    b->options->out);
	if (b->status)
		return complain_with_log(b);
	return name_results(b);
}

int image_build(const struct image_options *o)
{
	struct build b = { .options = o, .bar = isatty(STDERR_FILENO) };
	g_autofree char *script = cli_find_program("image-debian");
	int status = check_tools();

	if (status)
		return status;
	if (!script)
		return cli_complain(
			CLI_FAILURE, VERB,
			"image-debian is missing beside this program; install it again");
	if (g_file_test(o->out, G_FILE_TEST_EXISTS))
		return cli_complain(CLI_FAILURE, VERB, "'%s' exists already; remove it first",
				    o->out);
	b.dir = g_strconcat(o->out, ".build-XXXXXX", NULL);
	if (!g_mkdtemp_full(b.dir, 0755)) {
		status = cli_complain(CLI_FAILURE, VERB, "cannot create '%s': %s", o->out,
				      g_strerror(errno));
	} else {
		status = build_in(&b, script);
		remove_tree(b.dir);
		if (!status)
			say_done(o);
	}
	g_free(b.dir);
	return status;
}
