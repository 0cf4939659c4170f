// SPDX-License-Identifier: Apache-2.0
/*
 * nbd_stream.c - bytes from and to a client, by fibers that wait for them, as they are or by TLS.
 *
 * The watch stays with what was waited for last, so that a client that is quick costs no system call beside reading and
 * writing; an event that nobody waits for takes it back.
 */
#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop.h"
#include "nbd/nbd_int.h"

#define BUFFER 8192u

/* The two that may wait at the same time. */
enum side { READER, WRITER, SIDES };

struct nbd_stream {
	struct loop *loop;
	struct fiber_pool *fibers;
	int fd;
	struct loop_fd *watch;
	uint32_t watched;
	struct {
		struct fiber *fiber; /* NULL: it does not */
		uint32_t event;	     /* for which it waits */
	} waiting[SIDES];
	gnutls_session_t tls; /* NULL: none */
	bool dead;
	unsigned waking; /* callers: it must not be freed under them */
	bool free_it;
	size_t at, end; /* of buffer: read, and not taken yet */
	uint8_t buffer[BUFFER];
};

struct nbd_stream *nbd_stream_new(struct loop *loop, struct fiber_pool *fibers, int fd)
{
	struct nbd_stream *s = calloc(1, sizeof(*s));

	if (!s) {
		close(fd);
		return NULL;
	}
	s->loop = loop;
	s->fibers = fibers;
	s->fd = fd;
	return s;
}

void nbd_stream_free(struct nbd_stream *s)
{
	if (!s)
		return;
	if (s->waking) {
		s->free_it = true;
		return;
	}
	if (s->watch)
		loop_fd_remove(s->watch);
	if (s->tls)
		gnutls_deinit(s->tls);
	close(s->fd);
	free(s);
}

static void unwatch(struct nbd_stream *s)
{
	if (s->watch)
		loop_fd_remove(s->watch);
	s->watch = NULL;
	s->watched = 0;
}

/* Those who wait for any of @events. */
static void wake(struct nbd_stream *s, uint32_t events)
{
	struct fiber *woken[SIDES] = { NULL };

	for (unsigned i = 0; i < SIDES; i++) {
		if (!s->waiting[i].fiber || !(s->waiting[i].event & events))
			continue;
		woken[i] = s->waiting[i].fiber;
		s->waiting[i].fiber = NULL;
	}
	s->waking++;
	for (unsigned i = 0; i < SIDES; i++)
		if (woken[i])
			fiber_wake(woken[i]);
	if (--s->waking == 0 && s->free_it)
		nbd_stream_free(s);
}

static uint32_t waited_for(const struct nbd_stream *s)
{
	uint32_t events = 0;

	for (unsigned i = 0; i < SIDES; i++)
		if (s->waiting[i].fiber)
			events |= s->waiting[i].event;
	return events;
}

static void on_ready(void *arg, uint32_t events)
{
	struct nbd_stream *s = arg;

	uint32_t wanted = waited_for(s);

	if (events & (EPOLLHUP | EPOLLERR))
		events |= EPOLLIN | EPOLLOUT;
	if (events & wanted) {
		wake(s, events);
	} else if (wanted) {
		loop_fd_modify(s->watch, wanted);
		s->watched = wanted;
	} else {
		unwatch(s);
	}
}

/* The current fiber is left until @event. 0 or -errno. */
static int wait_for(struct nbd_stream *s, enum side side, uint32_t event)
{
	uint32_t wanted = event | waited_for(s);

	if (s->dead)
		return -ECONNRESET;
	if (!s->watch) {
		s->watch = loop_fd_add(s->loop, s->fd, wanted, on_ready, s);
		if (!s->watch)
			return -ENOMEM;
		s->watched = wanted;
	} else if (wanted & ~s->watched) {
		loop_fd_modify(s->watch, wanted);
		s->watched = wanted;
	}
	s->waiting[side].event = event;
	s->waiting[side].fiber = s->fibers->current;
	fiber_yield(s->fibers);
	return s->dead ? -ECONNRESET : 0;
}

void nbd_break(struct nbd_stream *s)
{
	s->dead = true;
	(void)shutdown(s->fd, SHUT_RDWR);
}

void nbd_hang_up(struct nbd_stream *s)
{
	nbd_break(s);
	wake(s, EPOLLIN | EPOLLOUT);
}

/* ---- TLS ---- */

struct nbd_tls {
	gnutls_certificate_credentials_t x509;
	gnutls_psk_server_credentials_t psk;
	bool verify;
};

void nbd_tls_free(struct nbd_tls *tls)
{
	if (!tls)
		return;
	if (tls->x509)
		gnutls_certificate_free_credentials(tls->x509);
	if (tls->psk)
		gnutls_psk_free_server_credentials(tls->psk);
	free(tls);
}

static int load_x509(struct nbd_tls *tls, const char *folder)
{
	g_autofree char *ca = g_build_filename(folder, "ca-cert.pem", NULL);
	g_autofree char *cert = g_build_filename(folder, "server-cert.pem", NULL);
	g_autofree char *key = g_build_filename(folder, "server-key.pem", NULL);
	int r = gnutls_certificate_allocate_credentials(&tls->x509);

	tls->verify = g_file_test(ca, G_FILE_TEST_EXISTS);
	if (r >= 0)
		r = gnutls_certificate_set_x509_key_file(tls->x509, cert, key, GNUTLS_X509_FMT_PEM);
	if (r >= 0 && tls->verify)
		r = gnutls_certificate_set_x509_trust_file(tls->x509, ca, GNUTLS_X509_FMT_PEM);
	/* No certificate in the file is success by its return value, and would let nobody in. */
	return r;
}

static int load_psk(struct nbd_tls *tls, const char *folder)
{
	g_autofree char *keys = g_build_filename(folder, "keys.psk", NULL);
	int r = gnutls_psk_allocate_server_credentials(&tls->psk);

	return r < 0 ? r : gnutls_psk_set_server_credentials_file(tls->psk, keys);
}

struct nbd_tls *nbd_tls_new(const char *folder, GError **err)
{
	g_autofree char *keys = g_build_filename(folder, "keys.psk", NULL);
	struct nbd_tls *tls = calloc(1, sizeof(*tls));
	int r;

	if (!tls) {
		g_set_error(err, BASE_ERROR, ENOMEM, "no memory for TLS");
		return NULL;
	}
	r = g_file_test(keys, G_FILE_TEST_EXISTS) ? load_psk(tls, folder) : load_x509(tls, folder);
	if (r >= 0)
		return tls;
	g_set_error(err, BASE_ERROR, EINVAL, "'%s': neither keys.psk nor server-cert.pem and server-key.pem can be used: %s",
		    folder, gnutls_strerror(r));
	nbd_tls_free(tls);
	return NULL;
}

static int tls_session(struct nbd_stream *s, const struct nbd_tls *tls)
{
	int r = gnutls_init(&s->tls, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);

	if (r < 0)
		return r;
	r = gnutls_priority_set_direct(s->tls, tls->psk ? "NORMAL:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK" : "NORMAL", NULL);
	if (r < 0)
		return r;
	gnutls_transport_set_int(s->tls, s->fd);
	if (tls->psk)
		return gnutls_credentials_set(s->tls, GNUTLS_CRD_PSK, tls->psk);
	if (tls->verify) {
		gnutls_certificate_server_set_request(s->tls, GNUTLS_CERT_REQUIRE);
		gnutls_session_set_verify_cert(s->tls, NULL, 0);
	}
	return gnutls_credentials_set(s->tls, GNUTLS_CRD_CERTIFICATE, tls->x509);
}

/* What @r, which is an error of GnuTLS, asks for. 0: again; else -errno. */
static int tls_again(struct nbd_stream *s, enum side side, ssize_t r)
{
	if (r == GNUTLS_E_INTERRUPTED)
		return 0;
	if (r != GNUTLS_E_AGAIN)
		return -ECONNRESET;
	return wait_for(s, side, gnutls_record_get_direction(s->tls) ? EPOLLOUT : EPOLLIN);
}

int nbd_start_tls(struct nbd_stream *s, const struct nbd_tls *tls)
{
	int r = tls_session(s, tls), again;

	/* What came in clear behind the request for TLS could be anybody's. */
	if (r < 0 || s->at != s->end)
		return -EPROTO;
	while ((r = gnutls_handshake(s->tls)) < 0) {
		if (!gnutls_error_is_fatal(r) && r != GNUTLS_E_AGAIN && r != GNUTLS_E_INTERRUPTED)
			continue;
		again = tls_again(s, READER, r);
		if (again < 0)
			return again;
	}
	return 0;
}

/* ---- reading and writing ---- */

/* Some bytes, or 0: to be tried again; or -errno. */
static ssize_t read_some(struct nbd_stream *s, void *buf, size_t len)
{
	ssize_t n;
	int r;

	if (s->dead)
		return -ECONNRESET;
	if (s->tls) {
		n = gnutls_record_recv(s->tls, buf, len);
		r = n < 0 ? tls_again(s, READER, n) : 0;
	} else {
		n = recv(s->fd, buf, len, 0);
		r = n >= 0 || errno == EINTR ? 0 : errno == EAGAIN ? wait_for(s, READER, EPOLLIN) : -ECONNRESET;
	}
	if (n == 0 && len > 0)
		return -ECONNRESET;
	return n > 0 ? n : r;
}

size_t nbd_buffered(const struct nbd_stream *s)
{
	return s->end - s->at;
}

int nbd_read(struct nbd_stream *s, void *buf, size_t len)
{
	uint8_t *to = buf;

	while (len > 0) {
		size_t n = MIN(len, s->end - s->at);
		ssize_t got = 0;

		memcpy(to, s->buffer + s->at, n);
		s->at += n;
		to += n;
		len -= n;
		if (len == 0)
			break;
		if (len >= BUFFER) {
			got = read_some(s, to, len);
			to += MAX(got, 0);
			len -= (size_t)MAX(got, 0);
		} else {
			got = read_some(s, s->buffer, BUFFER);
			s->at = 0;
			s->end = (size_t)MAX(got, 0);
		}
		if (got < 0)
			return (int)got;
	}
	return 0;
}

int nbd_skip(struct nbd_stream *s, uint32_t len)
{
	uint8_t nothing[4096];
	int r = 0;

	for (; len > 0 && r == 0; len -= MIN(len, sizeof(nothing)))
		r = nbd_read(s, nothing, MIN(len, sizeof(nothing)));
	return r;
}

static ssize_t write_some(struct nbd_stream *s, struct iovec *iov, unsigned count)
{
	const struct msghdr msg = { .msg_iov = iov, .msg_iovlen = count };
	ssize_t n;
	int r;

	if (s->dead)
		return -ECONNRESET;
	if (s->tls) {
		n = gnutls_record_send(s->tls, iov->iov_base, iov->iov_len);
		r = n < 0 ? tls_again(s, WRITER, n) : 0;
	} else {
		n = sendmsg(s->fd, &msg, MSG_NOSIGNAL);
		r = n >= 0 || errno == EINTR ? 0 : errno == EAGAIN ? wait_for(s, WRITER, EPOLLOUT) : -ECONNRESET;
	}
	return n > 0 ? n : r;
}

int nbd_writev(struct nbd_stream *s, struct iovec *iov, unsigned count)
{
	while (count > 0) {
		ssize_t n;

		if (iov->iov_len == 0) {
			iov++;
			count--;
			continue;
		}
		n = write_some(s, iov, count);
		if (n < 0)
			return (int)n;
		while (count > 0 && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (count > 0) {
			iov->iov_base = (char *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

int nbd_write(struct nbd_stream *s, const void *buf, size_t len)
{
	struct iovec iov = { (void *)buf, len };

	return nbd_writev(s, &iov, 1);
}
