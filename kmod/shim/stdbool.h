/* SPDX-License-Identifier: GPL-2.0-only */
/* stdbool.h - see stdint.h. */
#pragma once
#include <linux/types.h>
