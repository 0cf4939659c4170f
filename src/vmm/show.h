// SPDX-License-Identifier: Apache-2.0
/* show.h - tables that sika-vmm prints instead of running a machine, as text or JSON. Each returns the
 * status to exit with. */
#pragma once

#include <stdbool.h>

int show_engines(bool json);
int show_cpus(bool json);

/* @text in quotes, for JSON, to standard output. */
void show_json_string(const char *text);
