// SPDX-License-Identifier: Apache-2.0
/*
 * nbd_client.c - fuzz target: what a server says to our NBD client, beginning with the handshake.
 *
 * Whatever it says: no crash, no hang, nothing outside of the request's memory, and each request is over once
 * the server has gone.
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/protocols/protocols.h"
#include "input.h"

#define DISK_BYTES (256u << 10)
#define MAX_SAID   (96u << 10) /* fits a socket */
#define REQUESTS   8u
#define MAX_BYTES  8192u

struct said {
	uint8_t bytes[MAX_SAID];
	size_t len;
};

struct request {
	struct disk_req req;
	struct iovec iov[2];
	uint8_t bytes[MAX_BYTES + 64];
	bool over;
};

static void say(struct said *s, const void *bytes, size_t len)
{
	if (len > MAX_SAID - s->len)
		return;
	if (len)
		memcpy(s->bytes + s->len, bytes, len);
	s->len += len;
}

static void say_number(struct said *s, uint64_t v, unsigned bytes)
{
	uint8_t b[8];

	store_be64(b, v);
	say(s, b + 8 - bytes, bytes);
}

static void say_option(struct said *s, uint32_t option, uint32_t type, const void *data, uint32_t len)
{
	say_number(s, 0x0003e889045565a9ull, 8);
	say_number(s, option, 4);
	say_number(s, type, 4);
	say_number(s, len, 4);
	say(s, data, len);
}

/* What libnbd asks for in order: structured replies, a context, the export. */
static void say_handshake(struct said *s, struct input *in)
{
	uint8_t how = input_byte(in), export[12] = { 0 }, blocks[14] = { 0, 3 };
	uint8_t context[4 + 15] = { 0, 0, 0, 1 };

	memcpy(context + 4, "base:allocation", 15);
	say_number(s, 0x4e42444d41474943ull, 8);
	say_number(s, 0x49484156454f5054ull, 8);
	say_number(s, 3, 2);
	say_option(s, 8, how & 1 ? 1 : 0x80000001u, NULL, 0);
	if (how & 1) {
		if (how & 2)
			say_option(s, 10, 4, context, sizeof(context));
		say_option(s, 10, how & 4 ? 1 : 0x80000001u, NULL, 0);
	}
	store_be64(export + 2, how & 8 ? input_take(in, 8) : DISK_BYTES);
	store_be16(export + 10, 1 | (how & 16 ? (uint16_t)input_take(in, 2) : 0x6c));
	say_option(s, 7, 3, export, sizeof(export));
	if (how & 32) {
		store_be32(blocks + 2, 1u << input_byte(in) % 20);
		store_be32(blocks + 6, 4096);
		store_be32(blocks + 10, how & 64 ? (uint32_t)input_take(in, 4) : 1u << 25);
		say_option(s, 7, 3, blocks, sizeof(blocks));
	}
	say_option(s, 7, 1, NULL, 0);
}

static void say_chunk(struct said *s, struct input *in)
{
	static const uint16_t types[] = { 0, 1, 2, 5, 0x8001, 0x8002 };
	static const uint8_t data[MAX_BYTES];
	uint8_t how = input_byte(in), kind = input_byte(in), entries = 1 + kind % 5;
	uint16_t type = how & 1 ? types[kind % 6] : 1;
	uint32_t len = how & 2 ? (uint32_t)input_take(in, 2) : 512u * (kind & 15);
	uint32_t lie = how & 32 ? (uint32_t)input_take(in, 4) : 0;

	if (how & 4) { /* a simple reply */
		say_number(s, 0x67446698u, 4);
		say_number(s, how & 8 ? input_byte(in) : 0, 4);
		say_number(s, 1 + input_byte(in) % REQUESTS, 8);
		say(s, data, MIN(len, sizeof(data)));
		return;
	}
	say_number(s, 0x668e33efu, 4);
	say_number(s, how >> 4 & 1, 2);
	say_number(s, type, 2);
	say_number(s, 1 + input_byte(in) % REQUESTS, 8);
	if (type == 5) {
		say_number(s, lie ? lie : 4 + 8u * entries, 4);
		say_number(s, how & 8 ? input_byte(in) : 1, 4);
		for (unsigned i = 0; i < entries; i++) {
			say_number(s, how & 64 ? input_take(in, 4) : 512u * input_byte(in), 4);
			say_number(s, input_byte(in), 4);
		}
	} else if (type == 1) {
		len = MIN(len, sizeof(data));
		say_number(s, lie ? lie : 8 + len, 4);
		say_number(s, how & 64 ? input_take(in, 8) : 512 * input_take(in, 1), 8);
		say(s, data, len);
	} else {
		say_number(s, lie ? lie : type == 2 ? 12 : 6, 4);
		say_number(s, input_take(in, 4), type == 2 ? 8 : 4);
		say_number(s, type == 2 ? len : 0, type == 2 ? 4 : 2);
	}
}

static void compose(struct said *s, struct input *in)
{
	unsigned way = input_byte(in);

	if (way < 8) { /* nothing but the fuzzer's bytes */
		say(s, in->data, in->size);
		return;
	}
	say_handshake(s, in);
	if (way < 24) {
		say(s, in->data, in->size);
		return;
	}
	while (!input_is_empty(in) && s->len < MAX_SAID / 2)
		say_chunk(s, in);
}

static void over(struct disk_req *req, int result)
{
	struct request *r = container_of(req, struct request, req);

	(void)result;
	if (r->over)
		__builtin_trap();
	r->over = true;
	/* A map must mean something. */
	if (req->op == DISK_MAP && result == 0 && (req->map.len == 0 || req->map.len > req->len))
		__builtin_trap();
}

static void ask(struct disk *disk, struct request *r, unsigned i, struct input *in)
{
	static const enum disk_op ops[] = { DISK_READ, DISK_READ, DISK_WRITE, DISK_MAP,
					    DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES, DISK_READ };
	uint64_t len = 512u * (1 + input_byte(in) % (MAX_BYTES / 512)), cut = input_byte(in);

	*r = (struct request){ .req = { .op = ops[i], .offset = 512u * input_byte(in), .len = len,
					.iov_count = 2, .done = over } };
	r->req.iov = r->iov;
	r->iov[0] = (struct iovec){ r->bytes, cut };
	r->iov[1] = (struct iovec){ r->bytes + cut, len - cut };
	memset(r->bytes + len, 0xa5, sizeof(r->bytes) - len);
	disk_submit(disk, &r->req);
}

static void use(struct disk *disk, struct input *in)
{
	static struct request requests[REQUESTS];

	for (unsigned i = 0; i < REQUESTS; i++)
		ask(disk, &requests[i], i, in);
	disk_kick(disk);
	disk_drain(disk);
	for (unsigned i = 0; i < REQUESTS; i++) {
		const struct request *r = &requests[i];

		if (!r->over)
			__builtin_trap();
		for (size_t j = r->req.len; j < sizeof(r->bytes); j++)
			if (r->bytes[j] != 0xa5)
				__builtin_trap();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct said said;
	struct input in = { bytes, size }, ways = { bytes, MIN(size, 32) };
	const struct disk_options o = { .readonly = size & 1 };
	struct loop *loop = loop_new();
	struct disk *disk;
	int fd[2];

	log_set_level(LOG_LEVEL_ERROR);
	said.len = 0;
	compose(&said, &in);
	if (!loop || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) < 0)
		__builtin_trap();
	if (write(fd[0], said.bytes, said.len) != (ssize_t)said.len && said.len)
		__builtin_trap();
	(void)shutdown(fd[0], SHUT_WR);
	disk = nbd_disk_open_socket(fd[1], "fuzz", &o, loop, NULL);
	if (disk)
		use(disk, &ways);
	disk_close(disk);
	close(fd[0]);
	loop_free(loop);
	return 0;
}
