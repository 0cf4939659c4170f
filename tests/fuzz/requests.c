// SPDX-License-Identifier: Apache-2.0
/* requests.c - a disk's requests, from a fuzzer's bytes. */
#include "requests.h"

#define MAX_IO	 (64u << 10)
#define MAX_SIZE (64u << 20)

static uint8_t data[MAX_IO];

void fuzz_request(struct disk *disk, struct input *in)
{
	uint8_t kind = input_byte(in);
	struct iovec iov = { data, 0 };
	struct disk_req req = { .iov = &iov, .iov_count = 1, .unmap = kind & 0x80 };

	req.op = (enum disk_op)(kind % 7);
	req.compress = (kind & 0xc0) == 0x40; /* a thread is made for it */
	req.offset = 512 * (kind & 8 ? input_take(in, 6) : input_take(in, 2));
	req.len = 512 * (1 + input_take(in, 1) % (MAX_IO / 512));
	if (req.op == DISK_RESIZE)
		req.offset %= MAX_SIZE;
	else if (disk->size_bytes)
		req.offset %= disk->size_bytes;
	req.offset &= ~511ull;
	req.len = MIN(req.len, disk->size_bytes - MIN(req.offset, disk->size_bytes));
	iov.iov_len = req.len;
	(void)disk_run(disk, &req);
}
