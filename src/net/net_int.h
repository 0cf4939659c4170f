// SPDX-License-Identifier: Apache-2.0
/* net_int.h - what the network backends share. */
#pragma once

#include "net/net.h"

/* Hand a frame to the card; true also where there is none. */
bool net_deliver(struct net *net, const struct iovec *iov, unsigned iov_count);
/* Gather a frame into @buf; bytes, or 0 when it is longer than @size. */
size_t net_gather(void *buf, size_t size, const struct iovec *iov, unsigned iov_count);
