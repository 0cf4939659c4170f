// SPDX-License-Identifier: Apache-2.0
/*
 * lock.c - one writer or many readers of an image.
 *
 * Open-file-description locks (fcntl(2)) over the whole file: they die with the process however it
 * ends, work on NFS, and conflict with those that QEMU takes. The kernel does not tell who holds
 * such a lock, but /proc/PID/fdinfo does, for processes that we may look into.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/disk_int.h"

int disk_lock(int fd, bool readonly)
{
	struct flock lock = {
		.l_type = readonly ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
	};

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	return errno == EACCES ? -EAGAIN : -errno;
}

static bool has_lock_line(int pid, const char *fd_name)
{
	char path[320], line[256];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%s", pid, fd_name);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f))
		found = strncmp(line, "lock:", 5) == 0;
	fclose(f);
	return found;
}

static bool process_holds(int pid, const struct stat *want, int except_fd)
{
	char path[320];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		struct stat st;

		if (entry->d_name[0] == '.')
			continue;
		if (except_fd >= 0 && atoi(entry->d_name) == except_fd)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", pid, entry->d_name);
		found = stat(path, &st) == 0 && st.st_dev == want->st_dev &&
			st.st_ino == want->st_ino && has_lock_line(pid, entry->d_name);
	}
	closedir(dir);
	return found;
}

int disk_lock_holder(int fd)
{
	struct dirent *entry;
	struct stat want;
	int holder = 0;
	DIR *dir;

	if (fstat(fd, &want) < 0)
		return 0;
	dir = opendir("/proc");
	if (!dir)
		return 0;
	while (holder == 0 && (entry = readdir(dir))) {
		int pid = atoi(entry->d_name);

		if (pid > 0 && process_holds(pid, &want, pid == getpid() ? fd : -1))
			holder = pid;
	}
	closedir(dir);
	return holder;
}
