// SPDX-License-Identifier: Apache-2.0
/* requests.h - a disk's requests, from a fuzzer's bytes. */
#pragma once

#include "disk/disk.h"
#include "input.h"

/* One request, inside of the disk, or another size; its result is nobody's business. */
void fuzz_request(struct disk *disk, struct input *in);
