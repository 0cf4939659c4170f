// SPDX-License-Identifier: Apache-2.0
/* nbd_options.c - the fixed newstyle handshake: what client and server tell each other before the first request. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "nbd/nbd_int.h"
#include "nbd/nbd_proto.h"

#define STOP 1 /* to be hung up on, though nothing is wrong */

/* One option as it came. Its data is walked through from @at on. */
struct option {
	uint32_t number, len;
	uint8_t *data;
	uint32_t at;
};

static int answer(struct nbd_client *c, const struct option *o, uint32_t type, const void *data, uint32_t len)
{
	uint8_t head[20];
	struct iovec iov[] = { { head, sizeof(head) }, { (void *)data, len } };

	store_be64(head, NBD_REPLY_MAGIC);
	store_be32(head + 8, o->number);
	store_be32(head + 12, type);
	store_be32(head + 16, len);
	return nbd_writev(c->stream, iov, 2);
}

static int refuse(struct nbd_client *c, const struct option *o, uint32_t type, const char *why)
{
	return answer(c, o, type, why, (uint32_t)strlen(why));
}

static bool take_be32(struct option *o, uint32_t *ret)
{
	if (o->len - o->at < 4)
		return false;
	*ret = load_be32(o->data + o->at);
	o->at += 4;
	return true;
}

/* A length, and so many bytes. */
static bool take_text(struct option *o, const char **ret, uint32_t *ret_len)
{
	if (!take_be32(o, ret_len) || *ret_len > o->len - o->at || *ret_len > NBD_MAX_NAME)
		return false;
	*ret = (const char *)o->data + o->at;
	o->at += *ret_len;
	return true;
}

static bool is_ours(const struct nbd_client *c, const char *name, uint32_t len)
{
	const char *ours = c->server->name;

	return len == 0 || (strlen(ours) == len && !memcmp(ours, name, len));
}

static uint16_t transmission_flags(const struct nbd_client *c)
{
	uint16_t flags = NBD_HAS_FLAGS | NBD_SEND_FLUSH | NBD_SEND_FUA | NBD_CAN_MULTI_CONN;

	if (c->server->readonly)
		flags |= NBD_READ_ONLY;
	else
		flags |= NBD_SEND_TRIM | NBD_SEND_WRITE_ZEROES;
	return c->structured ? flags | NBD_SEND_DF : flags;
}

/* ---- what is offered ---- */

/* NBD_OPT_EXPORT_NAME: the old way into transmission; there is no answer that says no. */
static int export_name(struct nbd_client *c, struct option *o)
{
	uint8_t tail[10 + 124] = { 0 };

	if (!is_ours(c, (const char *)o->data, o->len))
		return -ENOENT;
	store_be64(tail, c->server->disk->size_bytes);
	store_be16(tail + 8, transmission_flags(c));
	return nbd_write(c->stream, tail, c->no_zeroes ? 10 : sizeof(tail));
}

static int list(struct nbd_client *c, struct option *o)
{
	const char *name = c->server->name, *about = c->server->description;
	uint32_t n = (uint32_t)strlen(name), m = about ? (uint32_t)strlen(about) : 0;
	g_autofree uint8_t *data = g_malloc(4 + n + m);
	int r;

	if (o->len)
		return refuse(c, o, NBD_REP_ERR_INVALID, "LIST takes no data");
	store_be32(data, n);
	memcpy(data + 4, name, n);
	if (m)
		memcpy(data + 4 + n, about, m);
	r = answer(c, o, NBD_REP_SERVER, data, 4 + n + m);
	return r < 0 ? r : answer(c, o, NBD_REP_ACK, NULL, 0);
}

static int info_text(struct nbd_client *c, const struct option *o, uint16_t type, const char *text)
{
	size_t n = strlen(text);
	g_autofree uint8_t *data = g_malloc(2 + n);

	store_be16(data, type);
	memcpy(data + 2, text, n);
	return answer(c, o, NBD_REP_INFO, data, (uint32_t)(2 + n));
}

static int info(struct nbd_client *c, const struct option *o, uint16_t type)
{
	const struct nbd_server *s = c->server;
	uint8_t data[14];

	store_be16(data, type);
	switch (type) {
	case NBD_INFO_EXPORT:
		store_be64(data + 2, s->disk->size_bytes);
		store_be16(data + 10, transmission_flags(c));
		return answer(c, o, NBD_REP_INFO, data, 12);
	case NBD_INFO_NAME:
		return info_text(c, o, type, s->name);
	case NBD_INFO_DESCRIPTION:
		return s->description ? info_text(c, o, type, s->description) : 0;
	case NBD_INFO_BLOCK_SIZE:
		store_be32(data + 2, NBD_MIN_BLOCK);
		store_be32(data + 6, MAX(s->disk->block_bytes, 4096));
		store_be32(data + 10, NBD_MAX_LEN);
		return answer(c, o, NBD_REP_INFO, data, 14);
	default:
		return 0; /* what is not known is not told */
	}
}

/* NBD_OPT_INFO, and NBD_OPT_GO, behind which transmission begins. *ret_told: it was not refused. */
static int info_or_go(struct nbd_client *c, struct option *o, bool *ret_told)
{
	const char *name;
	uint32_t len;
	uint16_t count;
	bool told_sizes = false;
	int r = 0;

	if (!take_text(o, &name, &len) || o->len - o->at < 2)
		return refuse(c, o, NBD_REP_ERR_INVALID, "the name does not fit");
	count = load_be16(o->data + o->at);
	o->at += 2;
	if (o->len - o->at != 2u * count)
		return refuse(c, o, NBD_REP_ERR_INVALID, "the list does not fit");
	if (!is_ours(c, name, len))
		return refuse(c, o, NBD_REP_ERR_UNKNOWN, "there is no export of this name");
	for (unsigned i = 0; i < count && r >= 0; i++) {
		uint16_t type = load_be16(o->data + o->at + 2 * (size_t)i);

		told_sizes |= type == NBD_INFO_BLOCK_SIZE;
		r = type == NBD_INFO_EXPORT ? 0 : info(c, o, type);
	}
	if (r >= 0 && !told_sizes)
		r = info(c, o, NBD_INFO_BLOCK_SIZE);
	if (r >= 0)
		r = info(c, o, NBD_INFO_EXPORT);
	if (r >= 0)
		r = answer(c, o, NBD_REP_ACK, NULL, 0);
	*ret_told = r >= 0;
	return r;
}

/* ---- what replies look like ---- */

static int structured_reply(struct nbd_client *c, struct option *o)
{
	if (o->len)
		return refuse(c, o, NBD_REP_ERR_INVALID, "STRUCTURED_REPLY takes no data");
	c->structured = true;
	return answer(c, o, NBD_REP_ACK, NULL, 0);
}

static int tell_context(struct nbd_client *c, const struct option *o)
{
	static const char name[] = "base:allocation";
	uint8_t data[4 + sizeof(name) - 1];

	store_be32(data, o->number == NBD_OPT_SET_META_CONTEXT ? NBD_ALLOCATION_ID : 0);
	memcpy(data + 4, name, sizeof(name) - 1);
	return answer(c, o, NBD_REP_META_CONTEXT, data, sizeof(data));
}

static bool is_text(const char *text, uint32_t len, const char *wanted)
{
	return len == strlen(wanted) && !memcmp(text, wanted, len);
}

static int meta_context(struct nbd_client *c, struct option *o)
{
	bool set = o->number == NBD_OPT_SET_META_CONTEXT, wanted = false;
	const char *text;
	uint32_t len, count;
	int r = 0;

	if (set)
		c->allocation = false;
	if (!take_text(o, &text, &len) || !take_be32(o, &count))
		return refuse(c, o, NBD_REP_ERR_INVALID, "the name does not fit");
	if (set && !c->structured)
		return refuse(c, o, NBD_REP_ERR_INVALID, "structured replies come first");
	if (!is_ours(c, text, len))
		return refuse(c, o, NBD_REP_ERR_UNKNOWN, "there is no export of this name");
	if (!set && count == 0)
		wanted = true;
	while (count--) {
		if (!take_text(o, &text, &len))
			return refuse(c, o, NBD_REP_ERR_INVALID, "the queries do not fit");
		wanted |= is_text(text, len, "base:allocation") || (!set && is_text(text, len, "base:"));
	}
	if (o->at != o->len)
		return refuse(c, o, NBD_REP_ERR_INVALID, "there is more than the queries");
	if (wanted)
		r = tell_context(c, o);
	if (set)
		c->allocation = wanted;
	return r < 0 ? r : answer(c, o, NBD_REP_ACK, NULL, 0);
}

/* ---- TLS ---- */

static int start_tls(struct nbd_client *c, struct option *o, bool *secure)
{
	int r;

	if (o->len)
		return refuse(c, o, NBD_REP_ERR_INVALID, "STARTTLS takes no data");
	if (!c->server->tls)
		return refuse(c, o, NBD_REP_ERR_POLICY, "there is no TLS here");
	if (*secure)
		return refuse(c, o, NBD_REP_ERR_INVALID, "TLS has begun already");
	r = answer(c, o, NBD_REP_ACK, NULL, 0);
	if (r == 0)
		r = nbd_start_tls(c->stream, c->server->tls);
	*secure = r == 0;
	/* What was said in clear may have been somebody else's. */
	c->structured = c->allocation = false;
	return r;
}

/* ---- the course of it ---- */

/* STOP: it is over, transmission begins where *ret_go. */
static int take_option(struct nbd_client *c, struct option *o, bool *secure, bool *ret_go)
{
	bool told = false;
	int r;

	if (o->number == NBD_OPT_STARTTLS)
		return start_tls(c, o, secure);
	if (o->number == NBD_OPT_ABORT) {
		(void)answer(c, o, NBD_REP_ACK, NULL, 0);
		return STOP;
	}
	if (c->server->tls && !*secure)
		return o->number == NBD_OPT_EXPORT_NAME ? -EACCES :
							  refuse(c, o, NBD_REP_ERR_TLS_REQD, "TLS comes first");
	switch (o->number) {
	case NBD_OPT_EXPORT_NAME:
		r = export_name(c, o);
		*ret_go = r == 0;
		return r < 0 ? r : STOP;
	case NBD_OPT_LIST:
		return list(c, o);
	case NBD_OPT_INFO:
		return info_or_go(c, o, &told);
	case NBD_OPT_GO:
		r = info_or_go(c, o, ret_go);
		return *ret_go ? STOP : r;
	case NBD_OPT_STRUCTURED_REPLY:
		return structured_reply(c, o);
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		return meta_context(c, o);
	default:
		return refuse(c, o, NBD_REP_ERR_UNSUP, "this option is not known");
	}
}

static int next_option(struct nbd_client *c, bool *secure, bool *ret_go)
{
	g_autofree uint8_t *data = NULL;
	struct option o = { 0 };
	uint8_t head[16];
	int r = nbd_read(c->stream, head, sizeof(head));

	*ret_go = false;
	if (r < 0)
		return r;
	if (load_be64(head) != NBD_OPTION_MAGIC)
		return -EPROTO;
	o.number = load_be32(head + 8);
	o.len = load_be32(head + 12);
	if (o.len > NBD_MAX_OPTION) {
		r = o.number == NBD_OPT_EXPORT_NAME ? -EPROTO : nbd_skip(c->stream, o.len);
		return r < 0 ? r : refuse(c, &o, NBD_REP_ERR_TOO_BIG, "so much data is not read");
	}
	o.data = data = g_malloc0((gsize)o.len + 1);
	r = nbd_read(c->stream, data, o.len);
	return r < 0 ? r : take_option(c, &o, secure, ret_go);
}

int nbd_handshake(struct nbd_client *c)
{
	bool secure = false, go = false;
	uint8_t hello[18], flags[4];
	int r;

	store_be64(hello, NBD_MAGIC);
	store_be64(hello + 8, NBD_OPTION_MAGIC);
	store_be16(hello + 16, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
	r = nbd_write(c->stream, hello, sizeof(hello));
	if (r == 0)
		r = nbd_read(c->stream, flags, sizeof(flags));
	if (r < 0)
		return r;
	if (load_be32(flags) & ~(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES))
		return -EPROTO;
	c->no_zeroes = load_be32(flags) & NBD_NO_ZEROES;
	while (r == 0)
		r = next_option(c, &secure, &go);
	return go ? 0 : -ECONNRESET;
}
