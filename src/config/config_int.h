// SPDX-License-Identifier: Apache-2.0
/* config_int.h - what the files of config share among themselves. */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Set @err to a VM_CONFIG_ERROR with that sentence; always false. */
bool config_fail(GError **err, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
