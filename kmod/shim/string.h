/* SPDX-License-Identifier: GPL-2.0-only */
/* string.h - see stdint.h. */
#pragma once
#include <linux/string.h>
