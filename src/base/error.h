// SPDX-License-Identifier: Apache-2.0
/* error.h - the domain of this house's errors: a sentence for the user, and an errno as the code.
 */
#pragma once

#include <errno.h>
#include <glib.h>
#include <stdbool.h>

#define BASE_ERROR base_error_quark()
GQuark base_error_quark(void);

/* Sets @err, @error being an errno value; false, for who returns it. */
bool base_fail(GError **err, int error, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
