// SPDX-License-Identifier: Apache-2.0
/* wait.h - requests below that a format waits for: in a fiber by leaving it, elsewhere by draining.
 */
#pragma once

#include "disk/disk.h"
#include "disk/fiber.h"

/* @batch: who submitted to the format will kick it, and it hands that on. 0 or -errno; req->map is
 * set. A write makes a growable file's size_bytes larger. */
int disk_wait(struct fiber_pool *fibers, bool batch, struct disk *disk, struct disk_req *req);
