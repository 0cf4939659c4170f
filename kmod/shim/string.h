/* SPDX-License-Identifier: GPL-2.0-only */
/* string.h - see stdint.h. The kernel's own brings, by its configuration, names along that the core has, too. */
#pragma once
#ifndef _LINUX_STRING_H_
#include <linux/types.h>

void *memcpy(void *to, const void *from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *at, int value, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);
#endif
