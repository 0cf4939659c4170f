// SPDX-License-Identifier: Apache-2.0
/*
 * library.h - libraries that are loaded when a disk asks for them.
 *
 * Each brings twenty others or more. Linked, they would cost each start of a program some ten milliseconds, and each machine some
 * five mebibytes, for the few that have such a disk.
 *
 * A protocol lists what it calls, in a macro that applies another one to each name:
 *
 *	#define CALLS(X) X(nbd_create) X(nbd_close)
 *	struct calls { CALLS(LIBRARY_FIELD) };
 *	static const char *const names[] = { CALLS(LIBRARY_NAME) };
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

#define LIBRARY_FIELD(call) __typeof__(call) *call;
#define LIBRARY_NAME(call)  #call,

/* Fill @calls, @count pointers to functions of these names. @files: names of the library, NULL behind the last, of which the
 * first that is there is taken, and stays. @disk: for the sentence when there is none. */
bool library_load(const char *const *files, const char *const *names, size_t count, void *calls,
		  const char *disk, GError **err);
