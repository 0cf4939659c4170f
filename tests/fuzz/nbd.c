// SPDX-License-Identifier: Apache-2.0
/*
 * nbd.c - fuzz target: what a client says to our NBD server, options and requests.
 *
 * Whatever it says: no crash, no hang, and the server is rid of it once it has gone.
 */
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../disk/memdisk.h"
#include "base/bits.h"
#include "base/log.h"
#include "base/loop.h"
#include "input.h"
#include "nbd/nbd.h"
#include "nbd/nbd_proto.h"

#define DISK_BYTES (256u << 10)
#define MAX_SAID   (96u << 10) /* fits a socket */

struct said {
	uint8_t bytes[MAX_SAID];
	size_t len;
};

struct client {
	struct loop *loop;
	struct disk *disk;
	int fd;
	bool gone;
};

static void say(struct said *s, const void *bytes, size_t len)
{
	if (len > MAX_SAID - s->len)
		return;
	memcpy(s->bytes + s->len, bytes, len);
	s->len += len;
}

static void say_option(struct said *s, struct input *in, uint32_t number)
{
	uint8_t head[16], data[64];
	unsigned n = input_byte(in) % sizeof(data), lie = input_byte(in);

	/* Names and counts are short: zeros first. */
	for (unsigned i = 0; i < n; i++)
		data[i] = i % 4 == 3 || lie & 1 ? input_byte(in) : 0;
	store_be64(head, NBD_OPTION_MAGIC);
	store_be32(head + 8, number);
	store_be32(head + 12, lie == 255 ? (uint32_t)input_take(in, 4) : n);
	say(s, head, sizeof(head));
	say(s, data, n);
}

static void say_go(struct said *s)
{
	uint8_t option[22] = { 0 };

	store_be64(option, NBD_OPTION_MAGIC);
	store_be32(option + 8, NBD_OPT_GO);
	store_be32(option + 12, 6);
	say(s, option, sizeof(option));
}

/* Structured replies, where data is, what it is called: as clients ask for them, which bytes by chance do not. */
static void say_wishes(struct said *s, unsigned wishes)
{
	static const uint8_t context[] = "\0\0\0\0\0\0\0\1\0\0\0\017base:allocation";
	static const uint8_t info[] = { 0, 0, 0, 0, 0, 3, 0, 1, 0, 2, 0, 3 };
	const struct {
		uint32_t option, len;
		const uint8_t *data;
	} all[] = { { NBD_OPT_STRUCTURED_REPLY, 0, info },
		    { NBD_OPT_SET_META_CONTEXT, sizeof(context) - 1, context },
		    { NBD_OPT_LIST_META_CONTEXT, sizeof(context) - 1, context },
		    { NBD_OPT_INFO, sizeof(info), info } };

	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		uint8_t head[16];

		if (!(wishes >> i & 1))
			continue;
		store_be64(head, NBD_OPTION_MAGIC);
		store_be32(head + 8, all[i].option);
		store_be32(head + 12, all[i].len);
		say(s, head, sizeof(head));
		say(s, all[i].data, all[i].len);
	}
}

static void say_request(struct said *s, struct input *in)
{
	static const uint8_t data[8192];
	uint8_t head[28], kind = input_byte(in), how = input_byte(in);
	uint32_t len = how & 1 ? (uint32_t)input_take(in, 4) : 512u * (input_byte(in) & 15u);

	store_be32(head, NBD_REQUEST_MAGIC);
	store_be16(head + 4, kind >> 4);
	store_be16(head + 6, kind & 15u);
	store_be64(head + 8, input_byte(in));
	store_be64(head + 16, how & 2 ? input_take(in, 8) : 512 * input_take(in, 1));
	store_be32(head + 24, len);
	say(s, head, sizeof(head));
	if ((kind & 15u) == NBD_CMD_WRITE)
		say(s, data, MIN(len, sizeof(data)));
}

static void compose(struct said *s, struct input *in)
{
	static const uint8_t hello[4] = { 0, 0, 0, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES };
	unsigned way = input_byte(in), options = input_byte(in) % 8;

	if (way < 16) { /* nothing but the fuzzer's bytes */
		say(s, in->data, in->size);
		return;
	}
	say(s, hello, sizeof(hello));
	while (options-- && !input_is_empty(in))
		say_option(s, in, input_byte(in) % 12);
	if (way < 64)
		return;
	say_wishes(s, way);
	say_go(s);
	while (!input_is_empty(in) && s->len < MAX_SAID / 2)
		say_request(s, in);
}

static void on_answer(void *arg, uint32_t events)
{
	struct client *c = arg;
	char nothing[65536];

	(void)events;
	if (read(c->fd, nothing, sizeof(nothing)) <= 0) {
		c->gone = true;
		loop_stop(c->loop);
	}
}

/* The disk in memory works when it is drained. */
static void work(void *arg)
{
	struct client *c = arg;

	disk_drain(c->disk);
	if (!c->gone)
		loop_post(c->loop, work, c);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct said said;
	struct input in = { bytes, size };
	struct memdisk *m = memdisk_new(DISK_BYTES, 1);
	struct client c = { .loop = loop_new(), .disk = &m->disk };
	const struct nbd_offer offer = { .name = "a", .description = "b", .disk = &m->disk, .readonly = size & 1 };
	struct nbd_server *server = nbd_server_new(c.loop, &offer, NULL);
	struct loop_fd *watch;
	int fd[2];

	log_set_level(LOG_LEVEL_ERROR);
	m->disk.size_bytes = DISK_BYTES;
	said.len = 0;
	compose(&said, &in);
	if (!server || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) < 0)
		__builtin_trap();
	c.fd = fd[0];
	watch = loop_fd_add(c.loop, c.fd, EPOLLIN, on_answer, &c);
	nbd_server_welcome(server, fd[1]);
	if (write(c.fd, said.bytes, said.len) != (ssize_t)said.len && said.len)
		c.gone = true;
	/* One in four ends its server under way. */
	if (size % 4) {
		(void)shutdown(c.fd, SHUT_WR);
		work(&c);
		loop_run(c.loop);
	}
	nbd_server_free(server);
	loop_fd_remove(watch);
	close(c.fd);
	disk_close(&m->disk);
	loop_free(c.loop);
	return 0;
}
