// SPDX-License-Identifier: Apache-2.0
/* rundir.c - the directory of control sockets. */
#include "base/rundir.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

char *rundir_path(void)
{
	const char *xdg = g_getenv("XDG_RUNTIME_DIR");

	if (xdg && *xdg == '/')
		return g_build_filename(xdg, "sika", NULL);
	if (!geteuid())
		return g_strdup("/run/sika");
	return g_strdup_printf("/run/user/%u/sika", (unsigned)geteuid());
}

bool rundir_make(const char *path, GError **err)
{
	struct stat st;

	if (mkdir(path, 0700) < 0 && errno != EEXIST) {
		g_set_error(err, BASE_ERROR, errno, "cannot make '%s': %s", path,
			    g_strerror(errno));
		return false;
	}
	if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
	    st.st_mode & 077) {
		g_set_error(err, BASE_ERROR, EPERM,
			    "'%s' is not a directory of this user alone (mode 0700)", path);
		return false;
	}
	return true;
}

bool rundir_address(const char *path, struct sockaddr_un *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->sun_family = AF_UNIX;
	return g_strlcpy(ret->sun_path, path, sizeof(ret->sun_path)) < sizeof(ret->sun_path);
}
