// SPDX-License-Identifier: Apache-2.0
/* image_file.h - what tests of disks begin and end with: an empty file, and a loop. */
#pragma once

#include <check.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/loop.h"

static struct loop *loop;
static char path[64];

static void setup(void)
{
	loop = loop_new();
	strcpy(path, "/tmp/sika-test-disk-XXXXXX");
	close(mkstemp(path));
}

static void teardown(void)
{
	unlink(path);
	loop_free(loop);
}

/* main()'s value. */
static int run_suite(Suite *s)
{
	SRunner *r = srunner_create(s);
	int failed;

	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
