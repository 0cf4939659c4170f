// SPDX-License-Identifier: Apache-2.0
/* error.c - the domain of errors. */
#include "error.h"

GQuark base_error_quark(void)
{
	return g_quark_from_static_string("sika-error");
}

bool base_fail(GError **err, int error, const char *fmt, ...)
{
	g_autofree char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = g_strdup_vprintf(fmt, ap);
	va_end(ap);
	g_set_error_literal(err, BASE_ERROR, error, text);
	return false;
}
