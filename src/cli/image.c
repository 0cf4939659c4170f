// SPDX-License-Identifier: Apache-2.0
/* image.c - `sika image`: the table of what can be done with disk images. */
#include "cli/image.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/loop.h"

static const struct image_verb_entry {
	const char *name, *arguments, *sentence;
	enum image_verb which;
	int min_files, max_files;
	int (*fn)(struct image_args *a);
} verbs[] = {
	{ "create", "FILE [SIZE]", "Make an empty disk, or one on top of another.", IMAGE_CREATE, 1, 2,
	  image_create_main },
	{ "info", "FILE", "Show what an image is.", IMAGE_INFO, 1, 1, image_info_main },
	{ "check", "FILE", "Look for damage and for lost room.", IMAGE_CHECK, 1, 1,
	  image_check_main },
	{ "convert", "FROM TO", "Copy a disk into another format.", IMAGE_CONVERT, 2, 2,
	  image_convert_main },
	{ "resize", "FILE [+|-]SIZE", "Change the size of a disk.", IMAGE_RESIZE, 2, 2,
	  image_resize_main },
	{ "snapshot", "list|create|apply|delete FILE [NAME]", "Keep states of a disk inside of it.",
	  IMAGE_SNAPSHOT, 2, 3, image_snapshot_main },
	{ "bitmap", "WHAT FILE [NAME [FROM]]",
	  "Note changes: list, add, remove, clear, enable, disable, merge.", IMAGE_BITMAP, 2, 4,
	  image_bitmap_main },
	{ "rebase", "FILE", "Put an image on top of another one.", IMAGE_REBASE, 1, 1,
	  image_rebase_main },
	{ "commit", "FILE", "Write what an image holds into the one below.", IMAGE_COMMIT, 1, 1,
	  image_commit_main },
	{ "map", "FILE", "Show where the bytes of a disk lie.", IMAGE_MAP, 1, 1, image_map_main },
	{ "compare", "FILE FILE", "Tell whether two disks hold the same.", IMAGE_COMPARE, 2, 2,
	  image_compare_main },
	{ "measure", "[FILE]", "Tell how large an image of a disk will be.", IMAGE_MEASURE, 0, 1,
	  image_measure_main },
	{ "serve", "FILE...", "Let others use a disk, by NBD.", IMAGE_SERVE, 1, IMAGE_MAX_FILES,
	  image_serve_main },
	{ "bench", "FILE", "Tell how fast an image is read or written.", IMAGE_BENCH, 1, 1,
	  image_bench_main },
};

static int help(void)
{
	puts("Usage: sika image VERB [OPTION]... FILE...\n"
	     "Make, look at, check, convert and change disk images.\n");
	for (size_t i = 0; i < G_N_ELEMENTS(verbs); i++)
		printf("  %-10s %s\n", verbs[i].name, verbs[i].sentence);
	puts("  build      Make a disk with a Debian system, for sika run.\n\n"
	     "Options of a verb: sika image VERB --help\n"
	     "Exit status: 0 done, 1 failure, 2 usage. Manual: man sika-image");
	return 0;
}

static int help_verb(const struct image_verb_entry *v)
{
	printf("Usage: sika image %s [OPTION]... %s\n%s\n\n", v->name, v->arguments, v->sentence);
	image_print_options(v->which);
	puts("Exit status: 0 done, 1 failure, 2 usage. Manual: man sika-image");
	return 0;
}

static int run(const struct image_verb_entry *v, int argc, char **argv)
{
	g_autofree char *name = g_strconcat("image ", v->name, NULL);
	bool cache_taken = false;
	struct image_args a = { .verb = name, .which = v->which, .cache_taken = &cache_taken };
	int status = image_parse(&a, argc, argv);

	if (!status && (a.file_count < v->min_files || a.file_count > v->max_files))
		status = cli_complain(CLI_USAGE, name, "what it takes is: %s; see 'sika image --help'",
				      v->arguments);
	if (status)
		return status;
	a.loop = loop_new();
	if (!a.loop)
		return cli_complain(CLI_FAILURE, name, "the host gives no descriptor for a loop");
	status = v->fn(&a);
	image_forget_loop();
	loop_free(a.loop);
	if (!status && a.cache_file && !cache_taken)
		log_warn("--cache-file '%s' was of no use: nothing that was read lies at a server", a.cache_file);
	return status;
}

static bool wants_help(int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (cli_wants_help(argv[i]))
			return true;
	return false;
}

int cli_image(int argc, char **argv)
{
	bool asked = wants_help(argc, argv);

	if (argc > 0 && !strcmp(argv[0], "build"))
		return asked ? image_build_help() : image_build_main(argc - 1, argv + 1);
	for (size_t i = 0; argc > 0 && i < G_N_ELEMENTS(verbs); i++)
		if (!strcmp(argv[0], verbs[i].name))
			return asked ? help_verb(&verbs[i]) : run(&verbs[i], argc - 1, argv + 1);
	if (asked)
		return help();
	return cli_complain(CLI_USAGE, "image",
			    "what to do is missing or unknown; see 'sika image --help'");
}
