// SPDX-License-Identifier: Apache-2.0
/* user32.c - 32-bit guests start without paging: all of memory is open to ring 3. */
#include "guest.h"

void user_open(void)
{
}
