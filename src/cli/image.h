// SPDX-License-Identifier: Apache-2.0
/* image.h - what the verbs of `sika image` share: options, opening, output that appears when it is
 * whole. */
#pragma once

#include <stdbool.h>

#include "cli/cli.h"
#include "disk/formats/formats.h"
#include "disk/qcow2/qcow2.h"

struct loop;

enum image_verb {
	IMAGE_CREATE = 1 << 0,
	IMAGE_INFO = 1 << 1,
	IMAGE_CHECK = 1 << 2,
	IMAGE_CONVERT = 1 << 3,
	IMAGE_RESIZE = 1 << 4,
	IMAGE_SNAPSHOT = 1 << 5,
	IMAGE_REBASE = 1 << 6,
	IMAGE_COMMIT = 1 << 7,
	IMAGE_MAP = 1 << 8,
	IMAGE_COMPARE = 1 << 9,
	IMAGE_MEASURE = 1 << 10,
	IMAGE_BENCH = 1 << 11,
	IMAGE_SERVE = 1 << 12,
	IMAGE_BITMAP = 1 << 13,
};

#define IMAGE_MAX_FILES 16
#define IMAGE_MAX_ALLOW 16

/* Strings are the command line's. */
struct image_args {
	const char *verb; /* "image create" */
	enum image_verb which;
	const char *files[IMAGE_MAX_FILES + 1]; /* NULL behind the last */
	int file_count;
	const char *format, *to, *backing, *backing_format, *cluster_size, *refcount_bits, *compat;
	const char *compression, *data_file, *preallocate, *options, *size;
	const char *count, *depth, *buffer_size, *step, *offset, *pattern, *flush_interval;
	const char *cache, *source_cache, *cache_file, *cache_size, *reconnect;
	uint64_t cache_bytes; /* by cache_size */
	bool *cache_taken; /* some disk was opened that uses cache_file */
	unsigned reconnect_s; /* by reconnect */
	const char *granularity, *from;
	const char *socket, *listen, *name, *description, *tls, *clients, *machine, *snapshot;
	const char *allow[IMAGE_MAX_ALLOW + 1];
	int allow_count;
	bool compress, lazy, extended, data_file_raw, force, json, chain, repair, shrink, unsafe;
	bool write, random, readonly, once, bitmaps, skip_broken, disabled;
	struct loop *loop;
	GPtrArray *made; /* paths of further files of an image that is being made; NULL: none */
};

/* ---- image_args.c ---- */
/* Status 0, or what to exit with. */
int image_parse(struct image_args *a, int argc, char **argv);
/* For help. */
void image_print_options(enum image_verb which);
/* The options of an image that is to be made. */
int image_create_options(const struct image_args *a, struct qcow2_create *ret);

struct image_open {
	bool write, no_backing, unlocked, repair;
	const char *format; /* NULL: by content */
	const char *cache;  /* NULL: writeback */
	const char *snapshot; /* what this one holds; not to be written. NULL: none */
};

/* Opened and named with its folder; NULL: it was complained about. */
struct disk *image_open(const struct image_args *a, const char *path, struct image_open how);
/* The same of qcow2 images alone. @but: how the complaint about another one ends. */
struct disk *image_open_qcow2(const struct image_args *a, const char *path, struct image_open how,
			      const char *but);

/* A file that gets its name when it is whole. */
struct image_output {
	const char *path;
	char *temporary;
	bool force;
};

int image_output_begin(struct image_output *o, const struct image_args *a, const char *path);
/* @status: how it went; on failure nothing is left. Returns the status. */
int image_output_end(struct image_output *o, struct image_args *a, int status);

/* Memory that the kernel copies to and from at its best: large pages where the host gives them, aligned
 * for requests past the cache. NULL: none. Caller frees with free(). */
void *image_buffer(size_t bytes);
/* A bar on a terminal, until @done is @total. */
void image_progress(const char *what, uint64_t done, uint64_t total);
/* From now on SIGINT and SIGTERM do not end the process: they stop the loop, servers that say nothing are not waited for
 * any more, and image_interrupted() tells. */
void image_catch_signals(const struct image_args *a);
/* Before the loop goes. */
void image_forget_loop(void);
/* We end: servers that say nothing are not waited for any more. */
void image_hurry(void);
/* SIGINT or SIGTERM has come. */
bool image_interrupted(void);
/* "sika VERB: PATH: WHAT: reason" */
int image_fail(const struct image_args *a, const char *path, const char *what, int r);

/* ---- image_pipe.c ---- */
struct image_copy {
	const struct image_args *a;
	const char *what; /* for the bar */
	struct disk *from, *to; /* all of the latter is zeros, unless: */
	bool zeroes;	/* zeros are written as well, and up to the end of @to */
	uint64_t end;	/* bytes to copy */
	uint64_t piece; /* zeros are looked for in pieces of this size, a power of two, 4 KiB to 1 MiB */
	bool compress;
	const char *write_back; /* path of a file that will be synchronized; NULL: none */
};

/* 0, or -errno and the path of the disk that it is about, which is that disk's (NULL: of none). */
int image_copy_run(const struct image_copy *copy, const char **ret_failed);

/* ---- image_make.c, image_info.c, image_convert.c, image_copy.c, image_bench.c, image_serve.c, image_options.c,
 * image_bitmap.c: the exit status ---- */
int image_create_main(struct image_args *a);
int image_resize_main(struct image_args *a);
int image_measure_main(struct image_args *a);
int image_snapshot_main(struct image_args *a);
int image_info_main(struct image_args *a);
int image_check_main(struct image_args *a);
int image_map_main(struct image_args *a);
int image_convert_main(struct image_args *a);
int image_compare_main(struct image_args *a);
int image_commit_main(struct image_args *a);
int image_rebase_main(struct image_args *a);
int image_bench_main(struct image_args *a);
int image_serve_main(struct image_args *a);
int image_bitmap_main(struct image_args *a);
/* For info; struct qcow2_bitmap_info. @before: what each line begins with. */
void image_bitmaps_json(const GPtrArray *list);
void image_bitmaps_print(const GPtrArray *list, const char *before);
/* For convert: can all be copied that are to be; and copy them. */
int image_bitmaps_check(const struct image_args *a, struct disk *from);
int image_bitmaps_copy(const struct image_args *a, struct disk *from, struct disk *to);
int image_build_main(int argc, char **argv);
int image_build_help(void);

/* Make an image of @size_bytes in an empty file; "raw", "qcow2" or one of formats.h. */
int image_make(struct image_args *a, const char *path, const struct qcow2_create *o,
	       const char *format);

/* ---- image_forms.c: formats other than raw and qcow2 ---- */
/* Complains where options are given that are of no use for that format. */
int image_form_options(const struct image_args *a, const char *format);
int image_form_make(struct image_args *a, const char *path, const struct qcow2_create *o,
		    const struct disk_form *form);
int image_form_measure(const struct image_args *a, const struct disk_form *form, uint64_t size,
		       uint64_t data, uint64_t *ret_bytes);
