// SPDX-License-Identifier: Apache-2.0
/* tables32.c - tables.c for the paging modes of 32-bit guests. */
#include "tables.c"
