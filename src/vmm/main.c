// SPDX-License-Identifier: Apache-2.0
/* main.c - sika-vmm: the process that holds one machine. Takes the options of `sika run`. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "config/config.h"
#include "sika_version.h"
#include "vm/vm.h"
#include "vmm/control.h"
#include "vmm/show.h"

#define STATUS_USAGE 2

static int run(int argc, char **argv)
{
	struct vm_config *config = vm_config_new();
	g_autoptr(GError) err = NULL;
	struct vm *vm = NULL;
	int status;

	if (!vm_config_parse(config, argc, argv, &err) || !vm_config_validate(config, &err)) {
		status = STATUS_USAGE;
		log_error("%s", err->message);
	} else if ((vm = vm_new(config, &err))) {
		struct control *control = control_open(vm, config->name, &err);

		if (!control)
			log_info("no control socket: %s", err->message);
		status = vm_run(vm);
		control_close(control);
	} else {
		status = VM_STATUS_FAIL;
		log_error("%s", err->message);
	}
	vm_free(vm);
	vm_config_free(config);
	return status;
}

int main(int argc, char **argv)
{
	log_set_name("sika");
	/* A reader that goes away, or a file that may not grow, is an error of one write, not the machine's end. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	if (argc == 2 && !strcmp(argv[1], "--engines"))
		return show_engines(false);
	if (argc == 2 && !strcmp(argv[1], "--engines=json"))
		return show_engines(true);
	if (argc == 2 && !strcmp(argv[1], "--cpus"))
		return show_cpus(false);
	if (argc == 2 && !strcmp(argv[1], "--cpus=json"))
		return show_cpus(true);
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		puts("sika-vmm " SIKA_VERSION);
		return 0;
	}
	return run(argc - 1, argv + 1);
}
