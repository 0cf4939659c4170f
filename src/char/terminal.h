// SPDX-License-Identifier: Apache-2.0
/*
 * terminal.h - the terminal in raw mode, and surely back again.
 *
 * There is one controlling terminal per process, hence one saved state. It is put back by
 * terminal_restore(), at exit(), and by fatal signals whose disposition was the default when
 * raw mode began. (After SIGKILL nothing can: the parent may.)
 */
#pragma once

#include <stdbool.h>

/* 0 or -errno; -ENOTTY when @fd is no terminal. */
int terminal_raw(int fd);
void terminal_restore(void);
bool terminal_size(int fd, unsigned *ret_columns, unsigned *ret_rows);
