/* SPDX-License-Identifier: GPL-2.0-only */
/* stddef.h - see stdint.h. */
#pragma once
#include <linux/stddef.h>
#include <linux/types.h>
