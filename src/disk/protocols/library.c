// SPDX-License-Identifier: Apache-2.0
/* library.c - loading a library by its name. */
#include "disk/protocols/library.h"

#include <dlfcn.h>
#include <string.h>

#include "base/error.h"

bool library_load(const char *const *files, const char *const *names, size_t count, void *calls,
		  const char *disk, GError **err)
{
	void *library = NULL;

	for (unsigned i = 0; files[i] && !library; i++)
		library = dlopen(files[i], RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return base_fail(err, ENOTSUP, "disk '%s': the library for such disks is not installed (%s)", disk,
				 files[0]);
	for (size_t i = 0; i < count; i++) {
		void *call = dlsym(library, names[i]);

		if (!call)
			return base_fail(err, ENOTSUP, "disk '%s': %s is too old, it has no %s", disk, files[0], names[i]);
		memcpy((char *)calls + i * sizeof(call), &call, sizeof(call));
	}
	return true;
}
