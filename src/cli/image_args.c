// SPDX-License-Identifier: Apache-2.0
/* image_args.c - options of `sika image`, opening images, and output that appears when it is whole. */
#include "cli/image.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/loop.h"
#include "base/units.h"

#define MAKES (IMAGE_CREATE | IMAGE_CONVERT | IMAGE_MEASURE)

static const struct option {
	const char *name, *value, *help;
	unsigned verbs;
	size_t at; /* in struct image_args: a string, or a flag */
} options[] = {
#define TEXT(n, v, h, verbs, field) { n, v, h, verbs, offsetof(struct image_args, field) }
#define FLAG(n, h, verbs, field)    { n, NULL, h, verbs, offsetof(struct image_args, field) }
	TEXT("format", "F", "of the image (default qcow2)", IMAGE_CREATE, format),
	TEXT("format", "F", "of what is read (default: by its content)", ~(unsigned)IMAGE_CREATE, format),
	TEXT("to", "F", "format to write (default qcow2)", IMAGE_CONVERT | IMAGE_MEASURE, to),
	TEXT("size", "SIZE", "of an empty disk instead of FILE's", IMAGE_MEASURE, size),
	TEXT("options", "K=V,...", "of other formats than qcow2, as of QEMU", MAKES,
	     options),
	TEXT("backing", "FILE", "the image below; with rebase 'none' is possible",
	     IMAGE_CREATE | IMAGE_REBASE, backing),
	TEXT("backing-format", "F", "of the image below (default: by content)",
	     IMAGE_CREATE | IMAGE_REBASE, backing_format),
	TEXT("cluster-size", "SIZE", "512 to 2M (default 64K)", MAKES, cluster_size),
	TEXT("refcount-bits", "N", "1 to 64 (default 16)", MAKES, refcount_bits),
	TEXT("compat", "N", "version 2 or 3 of qcow2 (default 3)", MAKES, compat),
	TEXT("compression", "KIND", "zlib or zstd (default zlib)", MAKES, compression),
	FLAG("compress", "compress all clusters", IMAGE_CONVERT, compress),
	FLAG("lazy-refcounts", "reference counts reach the file at the end", MAKES, lazy),
	FLAG("subclusters", "32 to a cluster: extended L2 entries", MAKES, extended),
	TEXT("data-file", "FILE", "keep the data in a file of its own", IMAGE_CREATE,
	     data_file),
	FLAG("data-file-raw", "keep it there as a raw image", IMAGE_CREATE, data_file_raw),
	TEXT("preallocate", "HOW", "off, metadata, falloc or full", IMAGE_CREATE,
	     preallocate),
	TEXT("allow", "PLACE", "a folder or server for images below; again for more", ~0u, allow),
	TEXT("cache-file", "FILE", "keep copies of what a server gave", ~0u, cache_file),
	TEXT("cache-size", "SIZE", "of them at most (default 1G)", ~0u, cache_size),
	TEXT("reconnect-delay", "S", "wait for a lost NBD server (seconds)", ~0u, reconnect),
	FLAG("force", "replace a file, write over a device", IMAGE_CREATE | IMAGE_CONVERT, force),
	FLAG("json", "print JSON, for programs",
	     IMAGE_INFO | IMAGE_CHECK | IMAGE_MAP | IMAGE_MEASURE | IMAGE_SNAPSHOT |
		     IMAGE_BENCH | IMAGE_BITMAP, json),
	FLAG("chain", "of the images below as well", IMAGE_INFO, chain),
	FLAG("repair", "set right what is wrong", IMAGE_CHECK, repair),
	FLAG("bitmaps", "copy bitmaps of changed blocks as well", IMAGE_CONVERT, bitmaps),
	FLAG("skip-broken-bitmaps", "leave out those that cannot be used", IMAGE_CONVERT, skip_broken),
	TEXT("granularity", "SIZE", "bytes to a bit (default: a cluster, 4K to 64K)", IMAGE_BITMAP, granularity),
	FLAG("disabled", "changes are not marked", IMAGE_BITMAP, disabled),
	TEXT("from", "FILE", "the image of the bitmap that is added", IMAGE_BITMAP, from),
	FLAG("shrink", "the end of the disk may be lost", IMAGE_RESIZE, shrink),
	TEXT("count", "N", "requests (default 75000)", IMAGE_BENCH, count),
	TEXT("depth", "N", "requests at a time (default 64)", IMAGE_BENCH, depth),
	TEXT("buffer-size", "SIZE", "of a request (default 4K)", IMAGE_BENCH, buffer_size),
	TEXT("step", "SIZE", "from one to the next (default: the buffer's size)", IMAGE_BENCH, step),
	TEXT("offset", "SIZE", "of the first one (default 0)", IMAGE_BENCH, offset),
	FLAG("random", "at random multiples of the step", IMAGE_BENCH, random),
	FLAG("write", "write instead of reading: what is there is lost", IMAGE_BENCH, write),
	TEXT("pattern", "N", "the byte to write (default 0)", IMAGE_BENCH, pattern),
	TEXT("flush-interval", "N", "flush after so many writes (default: never)", IMAGE_BENCH,
	     flush_interval),
	TEXT("cache", "MODE", DISK_CACHE_NAMES, IMAGE_BENCH | IMAGE_CONVERT, cache),
	TEXT("source-cache", "MODE", "the same for what is read", IMAGE_CONVERT, source_cache),
	TEXT("socket", "PATH", "listen at a unix socket", IMAGE_SERVE, socket),
	TEXT("listen", "[ADDRESS:]PORT", "listen at TCP (default 127.0.0.1:10809)", IMAGE_SERVE, listen),
	TEXT("name", "NAME", "of the export (default: none)", IMAGE_SERVE, name),
	TEXT("description", "TEXT", "of the export", IMAGE_SERVE, description),
	FLAG("read-only", "nobody may write", IMAGE_SERVE, readonly),
	TEXT("tls", "FOLDER", "with keys or certificates: nothing without TLS", IMAGE_SERVE, tls),
	TEXT("clients", "N", "at a time (default 16, 0: any number)", IMAGE_SERVE, clients),
	TEXT("snapshot", "NAME", "what this one of a qcow2 image holds",
	     IMAGE_SERVE | IMAGE_CONVERT | IMAGE_MAP | IMAGE_COMPARE | IMAGE_MEASURE, snapshot),
	TEXT("machine", "NAME|PID", "a running one's disk, as it is now", IMAGE_SERVE, machine),
	FLAG("once", "end when the last client leaves", IMAGE_SERVE, once),
	FLAG("unsafe", "only write the name, whatever changes", IMAGE_REBASE, unsafe),
#undef TEXT
#undef FLAG
};

/* Letters that those who know qemu-img bench have in their fingers. */
static const struct letter {
	char letter;
	const char *name;
	unsigned verbs;
} letters[] = {
	{ 'f', "format", ~0u },		     { 'O', "to", IMAGE_CONVERT | IMAGE_MEASURE },
	{ 'o', "options", MAKES },
	{ 'c', "count", IMAGE_BENCH },	     { 'd', "depth", IMAGE_BENCH },
	{ 's', "buffer-size", IMAGE_BENCH }, { 'S', "step", IMAGE_BENCH },
	{ 'o', "offset", IMAGE_BENCH },	     { 'w', "write", IMAGE_BENCH },
	{ 'f', "format", IMAGE_BENCH },
	{ 'g', "granularity", IMAGE_BITMAP },
	{ 'b', "from", IMAGE_BITMAP },
	{ 't', "cache", IMAGE_BENCH | IMAGE_CONVERT },
	{ 'T', "source-cache", IMAGE_CONVERT },
};

void image_print_options(enum image_verb which)
{
	for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
		g_autofree char *left = g_strdup_printf("--%s %s", options[i].name,
							options[i].value ? options[i].value : "");

		if (options[i].verbs & which)
			printf("  %-22s%s\n", left, options[i].help);
	}
}

static const struct option *option_find(const char *name, size_t len, enum image_verb which)
{
	for (size_t i = 0; i < G_N_ELEMENTS(options); i++)
		if (strlen(options[i].name) == len && !strncmp(name, options[i].name, len) &&
		    (options[i].verbs & which))
			return &options[i];
	return NULL;
}

static const struct option *option_of(const struct image_args *a, const char *arg)
{
	if (!strncmp(arg, "--", 2))
		return option_find(arg + 2, strcspn(arg + 2, "="), a->which);
	for (size_t i = 0; i < G_N_ELEMENTS(letters); i++)
		if (arg[1] == letters[i].letter && !arg[2] && (letters[i].verbs & a->which))
			return option_find(letters[i].name, strlen(letters[i].name), a->which);
	return NULL;
}

static int set_option(struct image_args *a, const struct option *o, const char *value)
{
	char *field = (char *)a + o->at;

	if (!o->value)
		*(bool *)(void *)field = true;
	else if (strcmp(o->name, "allow"))
		*(const char **)(void *)field = value;
	else if (a->allow_count == IMAGE_MAX_ALLOW)
		return cli_complain(CLI_USAGE, a->verb, "--allow: more than %d folders", IMAGE_MAX_ALLOW);
	else
		a->allow[a->allow_count++] = value;
	return 0;
}

static int parse_one(struct image_args *a, int argc, char **argv, int *i)
{
	const char *arg = argv[*i], *eq = strchr(arg, '='), *value = NULL;
	const struct option *o;

	/* "-1G" is a size. */
	if (arg[0] != '-' || g_ascii_isdigit(arg[1])) {
		if (a->file_count == IMAGE_MAX_FILES)
			return cli_complain(CLI_USAGE, a->verb, "'%s' is one file too many", arg);
		a->files[a->file_count++] = arg;
		return 0;
	}
	o = option_of(a, arg);
	if (!o)
		return cli_complain(CLI_USAGE, a->verb, "unknown option '%s'; see 'sika image --help'",
				    arg);
	if (o->value)
		value = eq ? eq + 1 : *i + 1 < argc ? argv[++*i] : "";
	if (o->value ? !*value : eq != NULL)
		return cli_complain(CLI_USAGE, a->verb, "option '%s' %s a value; see 'sika image --help'",
				    arg, o->value ? "needs" : "takes no");
	return set_option(a, o, value);
}

static int check_format(const struct image_args *a, const char *name, const char **value)
{
	const struct disk_form *form = *value ? disk_form_find(*value) : NULL;
	g_autofree char *names = disk_form_names();

	if (form)
		*value = form->name; /* QEMU may call it otherwise */
	if (!*value || disk_form_is_known(*value))
		return 0;
	return cli_complain(CLI_USAGE, a->verb, "--%s: '%s' is none of %s", name, *value, names);
}

static int check_word(const struct image_args *a, const char *name, const char *value,
		      const char *const *words)
{
	if (!value || g_strv_contains(words, value))
		return 0;
	return cli_complain(CLI_USAGE, a->verb, "--%s: '%s' is not known; see 'sika image --help'", name,
			    value);
}

static int check_cache(const struct image_args *a, const char *name, const char *value)
{
	enum disk_cache cache;

	if (!value || disk_cache_parse(value, &cache))
		return 0;
	return cli_complain(CLI_USAGE, a->verb, "--%s: '%s' is none of: " DISK_CACHE_NAMES, name, value);
}

static int parse_cache_size(struct image_args *a)
{
	g_autoptr(GError) err = NULL;

	if (a->cache_size && !size_parse(a->cache_size, 1, &a->cache_bytes, &err))
		return cli_complain(CLI_USAGE, a->verb, "--cache-size: %s", err->message);
	return 0;
}

static int parse_reconnect(struct image_args *a)
{
	guint64 n = 0;

	if (a->reconnect && !g_ascii_string_to_unsigned(a->reconnect, 10, 0, DISK_MAX_RECONNECT_S, &n, NULL))
		return cli_complain(CLI_USAGE, a->verb, "--reconnect-delay: '%s' is no number of seconds, 0 to %u",
				    a->reconnect, DISK_MAX_RECONNECT_S);
	a->reconnect_s = (unsigned)n;
	return 0;
}

int image_parse(struct image_args *a, int argc, char **argv)
{
	static const char *const kinds[] = { "zlib", "zstd", NULL };
	static const char *const hows[] = { "off", "metadata", "falloc", "full", NULL };
	int status = 0;

	for (int i = 0; i < argc && !status; i++)
		status = parse_one(a, argc, argv, &i);
	status = status ? status : check_format(a, "format", &a->format);
	status = status ? status : check_format(a, "to", &a->to);
	status = status ? status : check_format(a, "backing-format", &a->backing_format);
	status = status ? status : check_word(a, "compression", a->compression, kinds);
	status = status ? status : check_word(a, "preallocate", a->preallocate, hows);
	status = status ? status : check_cache(a, "cache", a->cache);
	status = status ? status : check_cache(a, "source-cache", a->source_cache);
	status = status ? status : parse_cache_size(a);
	return status ? status : parse_reconnect(a);
}

int image_create_options(const struct image_args *a, struct qcow2_create *ret)
{
	const char *how = a->preallocate ? a->preallocate : "off";
	g_autoptr(GError) err = NULL;

	*ret = (struct qcow2_create){
		.version = a->compat ? (unsigned)g_ascii_strtoull(a->compat, NULL, 10) : 3,
		.cluster_bytes = 64 * KIB,
		.refcount_bits = a->refcount_bits ?
					 (unsigned)g_ascii_strtoull(a->refcount_bits, NULL, 10) :
					 16,
		.zstd = a->compression && !strcmp(a->compression, "zstd"),
		.lazy_refcounts = a->lazy,
		.extended_l2 = a->extended,
		.data_file = a->data_file,
		.data_file_raw = a->data_file_raw,
		.prealloc = !strcmp(how, "metadata") ? DISK_PREALLOC_METADATA :
			    !strcmp(how, "falloc")   ? DISK_PREALLOC_FALLOC :
			    !strcmp(how, "full")     ? DISK_PREALLOC_FULL :
						       DISK_PREALLOC_OFF,
	};
	if (a->cluster_size && !size_parse(a->cluster_size, 1, &ret->cluster_bytes, &err))
		return cli_complain(CLI_USAGE, a->verb, "--cluster-size: %s", err->message);
	return 0;
}

/* A signal's handler shortens it. */
static struct disk_patience patience;

static int show_snapshot(const struct image_args *a, struct disk *disk, const char *path, const char *name)
{
	int r;

	if (strcmp(disk->format, "qcow2"))
		return cli_complain(CLI_FAILURE, a->verb, "'%s' is no qcow2 image, and has no snapshots", path);
	r = qcow2_snapshot_show(disk, name);
	if (r == -ENOENT)
		return cli_complain(CLI_FAILURE, a->verb, "'%s': there is no snapshot '%s'", path, name);
	return r < 0 ? image_fail(a, path, "its snapshot cannot be read", r) : 0;
}

struct disk *image_open(const struct image_args *a, const char *path, struct image_open how)
{
	struct disk_options o = { .format = how.format, .readonly = !how.write,
					.unlocked = how.unlocked, .repair = how.repair,
					.no_backing = how.no_backing, .allow = a->allow,
					.cache_file = a->cache_file, .cache_bytes = a->cache_bytes,
					.cache_taken = a->cache_taken,
					.reconnect_s = a->reconnect_s,
					.patience = &patience };
	g_autoptr(GError) err = NULL;
	struct disk *disk;

	/* What is written itself has no copies; what lies below it may. */
	if (how.write && disk_is_remote(path))
		o.cache_file = NULL;
	if (how.cache)
		(void)disk_cache_parse(how.cache, &o.cache);
	disk = disk_open_options(path, &o, a->loop, &err);
	if (!disk)
		cli_complain(CLI_FAILURE, a->verb, "%s", err->message);
	if (disk && how.snapshot && show_snapshot(a, disk, path, how.snapshot)) {
		disk_close(disk);
		return NULL;
	}
	return disk;
}

struct disk *image_open_qcow2(const struct image_args *a, const char *path, struct image_open how,
			      const char *but)
{
	struct disk *disk = image_open(a, path, how);

	if (!disk || !strcmp(disk->format, "qcow2"))
		return disk;
	cli_complain(CLI_FAILURE, a->verb, "'%s' is %s%s", path, disk->format, but);
	disk_close(disk);
	return NULL;
}

void *image_buffer(size_t bytes)
{
	const size_t align = bytes >= 2 * MIB ? 2 * MIB : 4 * KIB;
	void *p = NULL;

	if (posix_memalign(&p, align, bytes))
		return NULL;
	(void)madvise(p, bytes, MADV_HUGEPAGE); /* a hint */
	return p;
}

int image_fail(const struct image_args *a, const char *path, const char *what, int r)
{
	return cli_complain(CLI_FAILURE, a->verb, "'%s' %s: %s", path, what, g_strerror(-r));
}

static volatile sig_atomic_t interrupted;
static struct loop *volatile interrupted_loop;

void image_hurry(void)
{
	atomic_store(&patience.ms, DISK_PATIENCE_END_MS);
}

static void on_signal(int sig)
{
	interrupted = sig;
	image_hurry();
	if (interrupted_loop)
		loop_stop(interrupted_loop); /* a write(2) */
}

bool image_interrupted(void)
{
	return interrupted;
}

void image_catch_signals(const struct image_args *a)
{
	const struct sigaction action = { .sa_handler = on_signal };

	interrupted_loop = a->loop;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

void image_forget_loop(void)
{
	interrupted_loop = NULL;
}

int image_output_begin(struct image_output *o, const struct image_args *a, const char *path)
{
	g_autofree char *folder = g_path_get_dirname(path), *base = g_path_get_basename(path);
	auto_fd int fd = -1;

	*o = (struct image_output){ .path = path, .force = a->force };
	if (disk_is_remote(path))
		return cli_complain(CLI_FAILURE, a->verb, "'%s' is no file, and nothing else can be made",
				    path);
	if (!a->force && g_file_test(path, G_FILE_TEST_EXISTS))
		return cli_complain(CLI_FAILURE, a->verb, "'%s' exists already; --force replaces it",
				    path);
	image_catch_signals(a);
	o->temporary = g_strdup_printf("%s/.%s.sika-XXXXXX", folder, base);
	fd = g_mkstemp_full(o->temporary, O_RDWR | O_CLOEXEC, 0644);
	if (fd >= 0)
		return 0;
	g_clear_pointer(&o->temporary, g_free);
	return image_fail(a, path, "cannot be created", -errno);
}

static int sync_path(const char *path, int flags)
{
	auto_fd int fd = open(path, flags | O_CLOEXEC);

	return fd >= 0 && fsync(fd) == 0 ? 0 : -errno;
}

int image_output_end(struct image_output *o, struct image_args *a, int status)
{
	g_autofree char *folder = g_path_get_dirname(o->path);
	bool unsafe = a->cache && !strcmp(a->cache, "unsafe");
	int r = 0;

	if (!status && interrupted)
		status = cli_complain(CLI_FAILURE, a->verb, "interrupted, '%s' was not made", o->path);
	if (!status) {
		for (guint i = 0; a->made && i < a->made->len && r == 0 && !unsafe; i++)
			r = sync_path(g_ptr_array_index(a->made, i), O_RDONLY);
		if (r == 0 && !unsafe)
			r = sync_path(o->temporary, O_RDONLY);
		if (r == 0 && (o->force ? rename(o->temporary, o->path) :
					  renameat2(AT_FDCWD, o->temporary, AT_FDCWD, o->path,
						    RENAME_NOREPLACE)) < 0)
			r = -errno;
		if (r < 0)
			status = image_fail(a, o->path, "cannot be created", r);
		else
			(void)sync_path(folder, O_RDONLY | O_DIRECTORY); /* the name; best effort */
	}
	if (status && o->temporary)
		g_unlink(o->temporary);
	for (guint i = 0; a->made && i < a->made->len && status; i++)
		g_unlink(g_ptr_array_index(a->made, i));
	g_clear_pointer(&a->made, g_ptr_array_unref);
	g_clear_pointer(&o->temporary, g_free);
	return status;
}

void image_progress(const char *what, uint64_t done, uint64_t total)
{
	enum { WIDTH = 40 };
	static const char marks[] = "########################################";
	unsigned percent = total ? (unsigned)((double)done * 100 / (double)total) : 100;
	int n = (int)(percent * WIDTH / 100);

	if (!isatty(STDERR_FILENO))
		return;
	if (done >= total)
		fputs("\r\033[K", stderr);
	else
		fprintf(stderr, "\r[%-*.*s] %3u%% %s\033[K", WIDTH, n, marks, percent, what);
	fflush(stderr);
}
