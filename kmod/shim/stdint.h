/* SPDX-License-Identifier: GPL-2.0-only */
/* stdint.h - for the x86 core, which asks for no more of a C library than its freestanding headers. */
#pragma once
#include <linux/types.h>
#include <linux/limits.h>

#define UINT8_MAX  U8_MAX
#define UINT16_MAX U16_MAX
#define UINT32_MAX U32_MAX
#define UINT64_MAX U64_MAX
#define INT32_MIN  S32_MIN
#define INT32_MAX  S32_MAX
#define INT64_MIN  S64_MIN
#define INT64_MAX  S64_MAX
