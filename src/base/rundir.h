// SPDX-License-Identifier: Apache-2.0
/*
 * rundir.h - where running machines have their control sockets: one file NAME.PID each.
 *
 * $XDG_RUNTIME_DIR/sika, else /run/sika for root and /run/user/UID/sika for others. It belongs to its user
 * and nobody else may look into it.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <sys/un.h>

/* The directory, which may not exist; caller frees. */
char *rundir_path(void);
/* Make it where it is missing. False: why not, one sentence; also when it is open to others. */
bool rundir_make(const char *path, GError **err);
/* The address of a socket; false: the path is too long for one. */
bool rundir_address(const char *path, struct sockaddr_un *ret);
