// SPDX-License-Identifier: Apache-2.0
/* main.c - `sika`: the table of verbs. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "sika_version.h"

static const struct verb {
	const char *name;
	int (*fn)(int argc, char **argv);
	const char *sentence;
} verbs[] = {
	{ "run", cli_run, "Run a virtual machine in the foreground." },
	{ "image", cli_image, "Make, look at, check, convert and change disk images." },
	{ "bt-stats", cli_bt_stats, "Show where a machine of engine bt spends its time." },
	{ "kvm-stat", cli_kvm_stat, "Show what the host's KVM counts of a running machine." },
	{ "disk-stats", cli_disk_stats, "Show what a running machine's disks are used for." },
	{ "resize", cli_resize, "Make a disk of a running machine larger." },
	{ "status", cli_status, "Say whether a machine runs, or why it is paused." },
	{ "resume", cli_resume, "Let a machine that is paused try again now." },
	{ "engines", cli_engines, "Show what can run virtual CPUs on this host, and why not." },
};

static int help(void)
{
	puts("Usage: sika VERB [OPTION]...\n\n"
	     "Virtual machines with an engine of their own for hosts without hardware\n"
	     "virtualization.\n");
	for (gsize i = 0; i < G_N_ELEMENTS(verbs); i++)
		printf("  %-10s %s\n", verbs[i].name, verbs[i].sentence);
	puts("  help       Show this, or the options of a verb: sika help run.\n"
	     "  version    Show the version.\n\n"
	     "Start here:\n"
	     "  sika image build debian debian.img\n"
	     "  sika run --kernel debian.img.vmlinuz --initrd debian.img.initrd \\\n"
	     "           --disk debian.img --append 'console=ttyS0 root=/dev/vda'\n\n"
	     "Exit status: 0 done, 1 failure, 2 usage. Manual: man sika");
	return 0;
}

static const struct verb *verb_find(const char *name)
{
	for (gsize i = 0; i < G_N_ELEMENTS(verbs); i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;
	const struct verb *verb;

	/* A file that may not grow (ulimit -f) is an error that is told, and no reason to leave a half-made one. */
	signal(SIGXFSZ, SIG_IGN);
	if (!name)
		return cli_complain(CLI_USAGE, NULL, "a verb is missing; see 'sika --help'");
	if (!strcmp(name, "version") || !strcmp(name, "--version")) {
		puts("sika " SIKA_VERSION);
		return 0;
	}
	if (cli_wants_help(name) || (!strcmp(name, "help") && argc == 2))
		return help();
	if (!strcmp(name, "help")) {
		char *args[] = { "--help", NULL };

		name = argv[2];
		if ((verb = verb_find(name)))
			return verb->fn(1, args);
	} else if ((verb = verb_find(name))) {
		return verb->fn(argc - 2, argv + 2);
	}
	return cli_complain(CLI_USAGE, NULL, "unknown verb '%s'; see 'sika --help'", name);
}
