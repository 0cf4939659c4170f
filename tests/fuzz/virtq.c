// SPDX-License-Identifier: Apache-2.0
/*
 * virtq.c - fuzz target: virtqueues whose rings hold anything.
 *
 * The first byte chooses the kind of ring, the second its size; what follows fills the rings, and then
 * alternates between writes to memory and calls a device makes.
 */
#include "input.h"

#include <stdlib.h>
#include <string.h>

#include "dev/virtio/virtq.h"

#define MEMORY (1u << 20)
#define DESC   0x1000u
#define DRIVER 0x2000u
#define DEVICE 0x3000u
#define TABLE  0x4000u

static struct mem *mem;

static void touch(const struct virtq_elem *e)
{
	static uint8_t bytes[512];

	(void)virtq_elem_read(e, 0, bytes, sizeof(bytes));
	(void)virtq_elem_write(e, 1, bytes, sizeof(bytes));
	if (e->out_count + e->in_count > VIRTQ_MAX_IOV)
		abort();
	for (unsigned i = 0; i < e->out_count + e->in_count; i++)
		if (mem_ptr(mem, e->gpa[i], e->iov[i].iov_len) != e->iov[i].iov_base)
			abort();
}

static void fill(struct input *in, gpa_t gpa, size_t len)
{
	uint8_t *p = mem_ptr(mem, gpa, len);

	memset(p, 0, len);
	for (size_t i = 0; i < len && in->size; i++)
		p[i] = (uint8_t)input_take(in, 1);
}

/* Most random addresses are outside: pull some of them in. */
static void tame(gpa_t table, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		uint8_t *p = mem_ptr(mem, table + i * 16, 16);

		if (p[7] & 1)
			continue;
		memset(p + 3, 0, 5);
		p[2] &= 0x0f;
		p[10] = p[11] = 0;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct mem_config config = { .size_bytes = MEMORY, .node = -1 };
	static struct virtq_elem elem[4];
	struct input in = { data, size };
	unsigned flags = (unsigned)input_take(&in, 1), held = 0;
	struct virtq_config cfg = {
		.size = (uint16_t)(1u << (input_take(&in, 1) % 7)),
		.packed = flags & 1,
		.event_idx = flags & 2,
		.indirect = flags & 4,
		.desc = DESC,
		.driver = DRIVER,
		.device = DEVICE,
	};
	struct virtq vq;

	if (!mem)
		mem = mem_new(&config, NULL);
	fill(&in, DRIVER, 64);
	fill(&in, DESC, cfg.size * 16u);
	fill(&in, TABLE, 128);
	if (flags & 8) {
		tame(DESC, cfg.size);
		tame(TABLE, 8);
	}
	if (virtq_start(&vq, mem, &cfg) < 0)
		return 0;
	for (unsigned steps = 0; steps < 200 && in.size; steps++) {
		unsigned op = (unsigned)input_take(&in, 1);

		switch (op % 8) {
		case 0:
		case 1:
			if (held < 4 && virtq_pop(&vq, &elem[held]) > 0)
				touch(&elem[held++]);
			break;
		case 2:
			if (held)
				virtq_push(&vq, &elem[--held], (uint32_t)input_take(&in, 4));
			break;
		case 3:
			/* Only the last one popped may go back. */
			if (held)
				virtq_unpop(&vq, &elem[--held]);
			break;
		case 4:
			(void)virtq_should_notify(&vq);
			break;
		case 5:
			(void)virtq_set_kick(&vq, op & 0x80);
			break;
		case 6:
			fill(&in, DRIVER, 16);
			break;
		default:
			memset(mem_ptr(mem, DESC + (op >> 3) * 16u, 16), (int)input_take(&in, 1), 16);
		}
	}
	return 0;
}
