// SPDX-License-Identifier: Apache-2.0
/* ranges.c - parts of a disk that requests keep busy (ranges.h). */
#include "disk/ranges.h"

static struct range *conflict(struct range *list, const struct range *range)
{
	for (struct range *r = list; r; r = r->next)
		if (r->first <= range->last && range->first <= r->last && (r->alone || range->alone))
			return r;
	return NULL;
}

void range_enter(struct fiber_pool *fibers, struct range **list, struct range *range)
{
	struct range *other;

	while ((other = conflict(*list, range)))
		fiber_queue_wait(fibers, &other->waiting);
	range->next = *list;
	*list = range;
}

void range_leave(struct range **list, struct range *range)
{
	while (*list != range)
		list = &(*list)->next;
	*list = range->next;
	while (fiber_queue_wake(&range->waiting))
		;
}
