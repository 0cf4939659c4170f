// SPDX-License-Identifier: Apache-2.0
/* error.h - the domain of this house's errors: a sentence for the user, and an errno as the code.
 */
#pragma once

#include <errno.h>
#include <glib.h>

#define BASE_ERROR base_error_quark()
GQuark base_error_quark(void);
