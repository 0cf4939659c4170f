// SPDX-License-Identifier: Apache-2.0
/* ranges.h - parts of a disk that requests keep busy, while others that want them wait. */
#pragma once

#include <stdint.h>

#include "disk/fiber.h"

/* On the stack of the fiber that keeps it. All but the first three fields are zeros. */
struct range {
	uint64_t first, last; /* blocks, bytes, whatever the list counts */
	bool alone; /* else it is shared with others that are not alone either */
	struct range *next;
	struct fiber_queue waiting;
};

/* Wait until nobody keeps any of it who does not share it. */
void range_enter(struct fiber_pool *fibers, struct range **list, struct range *range);
void range_leave(struct range **list, struct range *range);
