// SPDX-License-Identifier: Apache-2.0
/* nbd_requests.c - the transmission phase: requests to the disk, and what is answered. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/loop.h"
#include "disk/wait.h"
#include "nbd/nbd_int.h"
#include "nbd/nbd_proto.h"

#define REQUEST_BYTES 28u
#define STOP	      1 /* the client has said goodbye */
#define MAX_EXTENTS   1024u
#define AT_ONCE	      8u /* replies in one system call */

struct nbd_request {
	struct disk_req req;
	struct iovec iov;
	struct nbd_client *client;
	struct nbd_request *next;
	uint64_t cookie, offset;
	uint16_t type, flags;
	uint32_t len, carried; /* of the disk; of data, both ways */
	bool flush_follows;
	uint8_t *data;
	/* The reply: */
	uint8_t head[28];
	uint32_t head_len, data_len;
};

/* ---- replies ---- */

static void wake(struct fiber **waiting)
{
	struct fiber *f = *waiting;

	*waiting = NULL;
	if (f)
		fiber_wake(f);
}

static uint32_t error_of(int result)
{
	switch (-result) {
	case 0:
		return 0;
	case EPERM: case EROFS: case EACCES:
		return NBD_EPERM;
	case ENOMEM:
		return NBD_ENOMEM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC: case EDQUOT: case EFBIG:
		return NBD_ENOSPC;
	case EOPNOTSUPP:
		return NBD_ENOTSUP;
	default:
		return NBD_EIO;
	}
}

static void chunk_head(struct nbd_request *r, uint16_t type, uint32_t len)
{
	store_be32(r->head, NBD_STRUCTURED_MAGIC);
	store_be16(r->head + 4, NBD_REPLY_FLAG_DONE);
	store_be16(r->head + 6, type);
	store_be64(r->head + 8, r->cookie);
	store_be32(r->head + 16, len);
	r->head_len = 20;
}

static void put_be32(struct nbd_request *r, uint32_t v)
{
	store_be32(r->head + r->head_len, v);
	r->head_len += 4;
}

static void make_reply(struct nbd_request *r, int result)
{
	bool structured = r->client->structured && (r->type == NBD_CMD_READ || r->type == NBD_CMD_BLOCK_STATUS);

	r->data_len = result == 0 && (r->type == NBD_CMD_READ || r->type == NBD_CMD_BLOCK_STATUS) ? r->carried : 0;
	if (!structured) {
		r->head_len = 0;
		put_be32(r, NBD_SIMPLE_MAGIC);
		put_be32(r, error_of(result));
		store_be64(r->head + 8, r->cookie);
		r->head_len = 16;
	} else if (result < 0) {
		chunk_head(r, NBD_REPLY_ERROR, 6);
		put_be32(r, error_of(result));
		store_be16(r->head + r->head_len, 0); /* no message */
		r->head_len += 2;
	} else if (r->type == NBD_CMD_READ) {
		chunk_head(r, NBD_REPLY_OFFSET_DATA, 8 + r->data_len);
		store_be64(r->head + r->head_len, r->offset);
		r->head_len += 8;
	} else {
		chunk_head(r, NBD_REPLY_BLOCK_STATUS, 4 + r->data_len);
		put_be32(r, NBD_ALLOCATION_ID);
	}
}

static void reply(struct nbd_request *r, int result)
{
	struct nbd_client *c = r->client;

	make_reply(r, result);
	r->next = NULL;
	if (c->reply)
		c->reply_tail->next = r;
	else
		c->reply = r;
	c->reply_tail = r;
	wake(&c->idle);
}

static void request_free(struct nbd_request *r)
{
	struct nbd_client *c = r->client;

	c->under_way--;
	c->bytes -= r->carried;
	g_free(r->data);
	g_free(r);
}

static void fiber_ended(struct nbd_client *c)
{
	if (--c->fibers == 0)
		nbd_client_free(c);
}

void nbd_client_send(void *client)
{
	struct nbd_client *c = client;
	int r = 0;

	c->fibers++;
	while (c->reply || c->under_way || !c->ending) {
		struct nbd_request *batch[AT_ONCE];
		struct iovec iov[2 * AT_ONCE];
		unsigned n = 0;

		if (!c->reply) {
			c->idle = c->server->fibers.current;
			fiber_yield(&c->server->fibers);
			continue;
		}
		for (; c->reply && n < AT_ONCE; n++) {
			batch[n] = c->reply;
			c->reply = c->reply->next;
			iov[2 * n] = (struct iovec){ batch[n]->head, batch[n]->head_len };
			iov[2 * n + 1] = (struct iovec){ batch[n]->data, batch[n]->data_len };
		}
		if (r == 0)
			r = nbd_writev(c->stream, iov, 2 * n);
		if (r < 0)
			nbd_break(c->stream); /* nothing that it asks for can be answered */
		while (n > 0)
			request_free(batch[--n]);
		wake(&c->full);
	}
	fiber_ended(c);
}

/* ---- requests ---- */

static void submit(struct nbd_request *r)
{
	r->client->unkicked++;
	disk_submit(r->client->server->disk, &r->req);
}

static void kick(struct nbd_client *c)
{
	if (c->unkicked)
		disk_kick(c->server->disk);
	c->unkicked = 0;
}

static void done(struct disk_req *req, int result)
{
	struct nbd_request *r = container_of(req, struct nbd_request, req);

	if (req->op == DISK_DISCARD && result == -EOPNOTSUPP)
		result = 0; /* what is trimmed may stay as it is */
	if (result < 0 || !r->flush_follows) {
		reply(r, result);
		return;
	}
	r->flush_follows = false;
	r->req.op = DISK_FLUSH;
	submit(r);
	kick(r->client);
}

static int map(struct nbd_request *r, uint64_t offset, uint64_t len)
{
	struct nbd_server *s = r->client->server;

	r->req = (struct disk_req){ .op = DISK_MAP, .offset = offset, .len = len };
	return disk_wait(&s->fibers, false, s->disk, &r->req);
}

/* A fiber: the extents of base:allocation in the range, as many as an answer holds. */
static void block_status(void *request)
{
	struct nbd_request *r = request;
	uint64_t at = r->offset, end = r->offset + r->len;
	uint32_t max = r->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : MAX_EXTENTS, n = 0, length = 0, flags = 0;
	int result = 0;

	while (at < end && result == 0) {
		uint32_t found, part;

		result = map(r, at, end - at);
		if (result < 0)
			break;
		part = (uint32_t)MIN(MAX(r->req.map.len, 1), end - at);
		found = r->req.map.state == DISK_ABSENT || r->req.map.state == DISK_ZERO ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0;
		if (n > 0 && found == flags) {
			length += part;
		} else if (n == max) {
			break;
		} else {
			n++;
			length = part;
			flags = found;
		}
		at += part;
		store_be32(r->data + 8 * (n - 1), length);
		store_be32(r->data + 8 * (n - 1) + 4, flags);
	}
	if (result == 0) {
		r->client->bytes -= r->carried - 8 * n;
		r->carried = 8 * n;
	}
	reply(r, result);
}

/* Whether the request makes sense. 0 or -errno. */
static int check(const struct nbd_request *r)
{
	const struct nbd_server *s = r->client->server;
	static const uint16_t allowed[] = {
		[NBD_CMD_READ] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF,
		[NBD_CMD_WRITE] = NBD_CMD_FLAG_FUA,
		[NBD_CMD_FLUSH] = NBD_CMD_FLAG_FUA,
		[NBD_CMD_TRIM] = NBD_CMD_FLAG_FUA,
		[NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE,
		[NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE,
	};
	bool changes = r->type == NBD_CMD_WRITE || r->type == NBD_CMD_TRIM || r->type == NBD_CMD_WRITE_ZEROES;
	bool carries = r->type == NBD_CMD_READ || r->type == NBD_CMD_WRITE;
	uint64_t size = s->disk->size_bytes;

	if (r->type >= G_N_ELEMENTS(allowed) || r->type == NBD_CMD_DISC || r->type == NBD_CMD_CACHE)
		return -EINVAL;
	if (r->flags & ~allowed[r->type])
		return -EINVAL;
	if (changes && s->readonly)
		return -EROFS;
	if (r->type == NBD_CMD_FLUSH)
		return r->offset || r->len ? -EINVAL : 0;
	if (r->type == NBD_CMD_BLOCK_STATUS && !r->client->allocation)
		return -EINVAL;
	if (r->len == 0 || (carries && r->len > NBD_MAX_LEN))
		return -EINVAL;
	if (r->offset % NBD_MIN_BLOCK || r->len % NBD_MIN_BLOCK)
		return -EINVAL;
	if (r->offset > size || r->len > size - r->offset)
		return changes ? -ENOSPC : -EINVAL;
	return 0;
}

static void begin(struct nbd_request *r)
{
	static const enum disk_op ops[] = {
		[NBD_CMD_READ] = DISK_READ,   [NBD_CMD_WRITE] = DISK_WRITE,
		[NBD_CMD_FLUSH] = DISK_FLUSH, [NBD_CMD_TRIM] = DISK_DISCARD,
		[NBD_CMD_WRITE_ZEROES] = DISK_WRITE_ZEROES,
	};
	int result = check(r);

	if (result == 0 && r->carried && !r->data)
		result = -ENOMEM;
	if (result < 0) {
		reply(r, result);
		return;
	}
	if (r->type == NBD_CMD_BLOCK_STATUS) {
		if (fiber_start(&r->client->server->fibers, block_status, r) < 0)
			reply(r, -ENOMEM);
		return;
	}
	r->iov = (struct iovec){ r->data, r->len };
	r->req = (struct disk_req){ .op = ops[r->type], .offset = r->offset, .len = r->len, .iov = &r->iov,
				    .iov_count = r->data ? 1 : 0, .done = done,
				    .unmap = !(r->flags & NBD_CMD_FLAG_NO_HOLE) };
	r->flush_follows = (r->flags & NBD_CMD_FLAG_FUA) && r->type != NBD_CMD_READ && r->type != NBD_CMD_FLUSH;
	submit(r);
}

static void wait_for_room(struct nbd_client *c, uint32_t carried)
{
	while (c->under_way >= NBD_MAX_UNDER_WAY || (c->under_way && c->bytes + carried > NBD_MAX_BYTES)) {
		kick(c);
		c->full = c->server->fibers.current;
		fiber_yield(&c->server->fibers);
	}
}

/* 0; STOP; or -errno: it is not to be listened to any more. */
static int next_request(struct nbd_client *c)
{
	uint8_t head[REQUEST_BYTES];
	struct nbd_request *r;
	uint32_t carried = 0;
	int result;

	if (nbd_buffered(c->stream) < sizeof(head))
		kick(c);
	result = nbd_read(c->stream, head, sizeof(head));
	if (result < 0)
		return result;
	if (load_be32(head) != NBD_REQUEST_MAGIC)
		return -EPROTO;
	if (load_be16(head + 6) == NBD_CMD_DISC)
		return STOP;
	switch (load_be16(head + 6)) {
	case NBD_CMD_READ: case NBD_CMD_WRITE:
		carried = load_be32(head + 24);
		break;
	case NBD_CMD_BLOCK_STATUS:
		carried = 8 * MAX_EXTENTS;
	}
	if (carried > NBD_MAX_LEN) {
		if (load_be16(head + 6) == NBD_CMD_WRITE)
			return -EPROTO; /* so much is not read only to be thrown away */
		carried = 0;
	}
	wait_for_room(c, carried);
	r = g_new0(struct nbd_request, 1);
	*r = (struct nbd_request){ .client = c, .flags = load_be16(head + 4), .type = load_be16(head + 6),
				   .cookie = load_be64(head + 8), .offset = load_be64(head + 16),
				   .len = load_be32(head + 24), .carried = carried,
				   .data = carried ? g_try_malloc(carried) : NULL };
	c->under_way++;
	c->bytes += carried;
	if (r->type == NBD_CMD_WRITE) {
		if (nbd_buffered(c->stream) < r->len)
			kick(c);
		result = r->data ? nbd_read(c->stream, r->data, r->len) : nbd_skip(c->stream, r->len);
	}
	if (result < 0)
		request_free(r);
	else
		begin(r);
	return result;
}

void nbd_client_read(void *client)
{
	struct nbd_client *c = client;
	int r;

	c->fibers++;
	r = nbd_handshake(c);
	loop_timer_disarm(c->patience);
	if (r == 0)
		r = fiber_start(&c->server->fibers, nbd_client_send, c);
	while (r == 0)
		r = next_request(c);
	kick(c);
	c->ending = true;
	if (r < 0)
		nbd_break(c->stream);
	wake(&c->idle);
	fiber_ended(c);
}
