// SPDX-License-Identifier: Apache-2.0
/* error.c - the domain of errors. */
#include "error.h"

GQuark base_error_quark(void)
{
	return g_quark_from_static_string("sika-error");
}
