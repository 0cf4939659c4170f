// SPDX-License-Identifier: Apache-2.0
/* image_options.c - the options of `sika image build debian`. */
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"
#include "cli/image.h"

#define MIN_SIZE (GIB / 2)
#define MAX_SIZE (16ull << 40) /* ext4 with 4 KiB blocks */

int image_build_help(void)
{
	puts("Usage: sika image build debian [OPTION]... OUT\n"
	     "Build a disk image with a Debian system, for sika run. Mounts nothing and needs\n"
	     "no root. Writes OUT, and beside it OUT.vmlinuz and OUT.initrd to boot it with.\n\n"
	     "  --suite NAME          release of Debian (default bookworm)\n"
	     "  --size SIZE           of the disk, sparse (default 4G)\n"
	     "  --ssh-key FILE        public key that may log in as root by ssh\n"
	     "  --include PKG,...     more packages\n\n"
	     "Log in on the console as root, password sika; ssh takes keys only.\n"
	     "Exit status: 0 done, 1 failure, 2 usage. Manual: man sika-image");
	return 0;
}

#define complain(...) cli_complain(CLI_USAGE, "image build", __VA_ARGS__)

/* Both become words of a shell script's command line and parts of an URL. */
static gboolean is_name(const char *text, const char *more)
{
	if (!g_ascii_isalnum(*text))
		return FALSE;
	for (const char *p = text; *p; p++)
		if (!g_ascii_islower(*p) && !g_ascii_isdigit(*p) && !strchr(more, *p))
			return FALSE;
	return TRUE;
}

static int set_option(struct image_options *o, const char *name, const char *value)
{
	g_autoptr(GError) err = NULL;

	if (!strcmp(name, "suite")) {
		if (!is_name(value, "-"))
			return complain("--suite: '%s' is not the name of a release", value);
		g_free(o->suite);
		o->suite = g_strdup(value);
	} else if (!strcmp(name, "size")) {
		if (!size_parse(value, 1, &o->size_bytes, &err))
			return complain("--size: %s", err->message);
		if (o->size_bytes < MIN_SIZE || o->size_bytes > MAX_SIZE)
			return complain("--size: '%s' is not between 512M and 16T", value);
		o->size_bytes &= ~(4 * KIB - 1);
	} else if (!strcmp(name, "ssh-key")) {
		g_free(o->ssh_key);
		o->ssh_key = g_strdup(value);
	} else if (!strcmp(name, "include")) {
		if (!is_name(value, "+.-,"))
			return complain("--include: '%s' is not a list of packages", value);
		g_free(o->include);
		o->include = g_strdup(value);
	} else {
		return complain("unknown option '--%s'; see 'sika image --help'", name);
	}
	return 0;
}

static int parse_one(struct image_options *o, int argc, char **argv, int *i)
{
	const char *arg = argv[*i], *eq = strchr(arg, '='), *value;
	g_autofree char *name = NULL;

	if (arg[0] != '-') {
		if (o->out)
			return complain("'%s' is one file too many", arg);
		o->out = g_strdup(arg);
		return 0;
	}
	if (strncmp(arg, "--", 2))
		return complain("unknown option '%s'; see 'sika image --help'", arg);
	name = eq ? g_strndup(arg + 2, (gsize)(eq - arg) - 2) : g_strdup(arg + 2);
	value = eq ? eq + 1 : *i + 1 < argc ? argv[++*i] : "";
	if (!*value)
		return complain("option '%s' needs a value; see 'sika image --help'", arg);
	return set_option(o, name, value);
}

/* A private key in an image would be a leak, so look what it is. */
static int check_ssh_key(const char *path)
{
	g_autofree char *text = NULL;
	g_autoptr(GError) err = NULL;

	if (!g_file_get_contents(path, &text, NULL, &err))
		return complain("--ssh-key: %s", err->message);
	if (!g_str_has_prefix(text, "ssh-") && !g_str_has_prefix(text, "ecdsa-") &&
	    !g_str_has_prefix(text, "sk-"))
		return complain(
			"--ssh-key: '%s' is not a public key; its name usually ends in .pub", path);
	return 0;
}

static int build(int argc, char **argv)
{
	struct image_options o = { .suite = g_strdup("bookworm"), .size_bytes = 4 * GIB };
	int status = 0;

	for (int i = 0; i < argc && !status; i++)
		status = parse_one(&o, argc, argv, &i);
	if (!status && !o.out)
		status = complain("the name of the image is missing; see 'sika image --help'");
	if (!status && o.ssh_key)
		status = check_ssh_key(o.ssh_key);
	if (!status)
		status = image_build(&o);
	g_free(o.suite);
	g_free(o.ssh_key);
	g_free(o.include);
	g_free(o.out);
	return status;
}

int image_build_main(int argc, char **argv)
{
	if (argc < 1 || strcmp(argv[0], "debian"))
		return complain("what to build is 'debian'; see 'sika image --help'");
	return build(argc - 1, argv + 1);
}
