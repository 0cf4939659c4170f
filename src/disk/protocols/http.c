// SPDX-License-Identifier: Apache-2.0
/*
 * http.c - a file at a web server, read by ranges (RFC 9110 section 14), by libcurl.
 *
 * Theory of operation. Each read is one transfer, which asks for a range and puts what comes straight into the
 * request's memory. libcurl's multi interface says which sockets to watch, and when it wants to be
 * called; both go to the loop, and drain() waits for both by poll(2).
 *
 * A transfer that breaks off is tried again for the rest, a few times and each time later. What does not help is
 * trying again when the file has changed: its size, its ETag or its date are no longer those of the
 * first answer. Each answer is looked at for that, and from then on all reads fail: a disk of two halves
 * must not be seen.
 *
 * A server is hostile: it can give wrong bytes, or none. More than was asked for is not taken.
 */
#define CURL_DISABLE_TYPECHECK /* its macros know no pointers to functions */
#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/filters/filters.h"
#include "disk/protocols/http_answer.h"
#include "disk/protocols/library.h"
#include "disk/protocols/protocols.h"
#include "disk/protocols/silence.h"

#define AT_ONCE		16u /* transfers; more wait */
#define TRIES		5u
#define FIRST_DELAY_NS	100000000ull /* doubled each time */
#define CONNECT_SECONDS 20l
#define STALL_SECONDS	30l /* without a byte */
#define MAX_REDIRECTS	8l
#define BUFFER_BYTES	(256l << 10)
#define MAX_POLL	64u
#define NEVER		UINT64_MAX

#define CALLS(X) \
	X(curl_easy_cleanup) X(curl_easy_getinfo) X(curl_easy_init) X(curl_easy_setopt) \
	X(curl_easy_strerror) X(curl_global_cleanup) X(curl_global_init) \
	X(curl_multi_add_handle) X(curl_multi_assign) X(curl_multi_cleanup) \
	X(curl_multi_info_read) X(curl_multi_init) X(curl_multi_remove_handle) \
	X(curl_multi_setopt) X(curl_multi_socket_action)

struct curl {
	CALLS(LIBRARY_FIELD)
};

static const char *const call_names[] = { CALLS(LIBRARY_NAME) };
static const char *const library_files[] = { "libcurl-gnutls.so.4", "libcurl.so.4", NULL };

struct http_socket {
	struct http *h;
	curl_socket_t fd;
	struct loop_fd *watch;
	short events; /* of poll(2) */
	struct http_socket *next;
};

enum verdict { GOING, CHANGED, NO_RANGES, NONSENSE };

struct transfer {
	struct http *h;
	struct disk_req *req; /* NULL: the first look */
	CURL *easy;
	struct http_answer answer;
	enum verdict verdict;
	bool judged;
	bool running; /* with libcurl; else it waits for another try */
	unsigned tries;
	uint64_t not_before_ns;
	char why[CURL_ERROR_SIZE];
	struct transfer *next; /* active, or spare */
};

struct http {
	struct disk disk;
	struct curl curl;
	struct loop *loop;
	CURLM *multi;
	char *url;
	bool follow; /* to other places */
	struct http_answer first; /* what the file was when it was opened */
	enum verdict look;	  /* how that went */
	char look_why[CURL_ERROR_SIZE]; /* "": well, as far as libcurl goes */
	bool changed;
	struct http_socket *sockets;
	struct loop_timer *timer;
	uint64_t wake_ns; /* when libcurl wants to be called; NEVER */
	struct transfer *active, *spare;
	unsigned active_count; /* at most AT_ONCE */
	struct disk_req_list waiting;
	bool busy; /* libcurl or done() is being called: kick() is for afterwards */
	struct silence silence;
};

/* ---- what a server says ---- */

static size_t on_head(char *bytes, size_t size, size_t count, void *arg)
{
	struct transfer *t = arg;

	silence_heard(&t->h->silence);
	http_answer_line(&t->answer, bytes, size * count);
	return size * count;
}

static bool is_same(const struct http_answer *a, const struct http_answer *b)
{
	return a->total == b->total && !strcmp(a->etag, b->etag) &&
	       !strcmp(a->modified, b->modified);
}

/* Once for each answer, before a byte of it is taken. */
static void judge(struct transfer *t)
{
	const struct http_answer *a = &t->answer;
	uint64_t at = t->req ? t->req->offset + t->req->progress : 0;

	t->judged = true;
	if (a->status == 200)
		t->verdict = t->req ? CHANGED : NO_RANGES;
	else if (a->status != 206 || !a->has_range || a->first != at)
		t->verdict = NONSENSE;
	else if (t->req && !is_same(a, &t->h->first))
		t->verdict = CHANGED;
}

static uint64_t bytes_left(const struct transfer *t)
{
	uint64_t end = MIN(t->req->offset + t->req->len, t->h->disk.size_bytes);

	return end - (t->req->offset + t->req->progress);
}

static void take(struct disk_req *req, const char *bytes, size_t len)
{
	req->progress += len;
	while (len > 0 && req->iov_count > 0) {
		size_t n = MIN(len, req->iov->iov_len);

		if (n > 0) {
			memcpy(req->iov->iov_base, bytes, n);
			disk_req_advance(req, n);
		} else {
			req->iov++;
			req->iov_count--;
		}
		bytes += n;
		len -= n;
	}
}

static size_t on_body(char *bytes, size_t size, size_t count, void *arg)
{
	struct transfer *t = arg;
	size_t len = size * count;

	silence_heard(&t->h->silence);
	if (!t->judged)
		judge(t);
	if (t->verdict == GOING && len > (t->req ? bytes_left(t) : 1))
		t->verdict = NONSENSE;
	if (t->verdict != GOING)
		return 0; /* libcurl ends the transfer */
	if (t->req)
		take(t->req, bytes, len);
	return len;
}

/* ---- transfers ---- */

static bool prepare(struct transfer *t)
{
	const struct http *h = t->h;
	uint64_t at = t->req ? t->req->offset + t->req->progress : 0;
	uint64_t last = t->req ? at + bytes_left(t) - 1 : 0;
	char range[64];
	CURL *e = t->easy;

	g_snprintf(range, sizeof(range), "%" G_GUINT64_FORMAT "-%" G_GUINT64_FORMAT, at, last);
	return !h->curl.curl_easy_setopt(e, CURLOPT_URL, h->url) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_RANGE, range) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_REDIR_PROTOCOLS_STR, "http,https") &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, (long)h->follow) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_MAXREDIRS, MAX_REDIRECTS) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1l) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, CONNECT_SECONDS) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1l) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, STALL_SECONDS) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_head) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_HEADERDATA, t) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_WRITEDATA, t) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_ERRORBUFFER, t->why) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_BUFFERSIZE, BUFFER_BYTES) &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_USERAGENT, "sika") &&
	       !h->curl.curl_easy_setopt(e, CURLOPT_PRIVATE, t);
}

static bool launch(struct transfer *t)
{
	t->answer = (struct http_answer){ 0 };
	t->verdict = GOING;
	t->judged = false;
	t->why[0] = 0;
	t->tries++;
	t->running = prepare(t) && t->h->curl.curl_multi_add_handle(t->h->multi, t->easy) == CURLM_OK;
	return t->running;
}

static void retire(struct transfer *t)
{
	struct http *h = t->h;
	struct transfer **p = &h->active;

	while (*p != t)
		p = &(*p)->next;
	*p = t->next;
	h->active_count--;
	t->next = h->spare;
	h->spare = t;
}

/* False: no memory. */
static bool begin(struct http *h, struct disk_req *req)
{
	struct transfer *t = h->spare;

	if (t)
		h->spare = t->next;
	else if ((t = calloc(1, sizeof(*t))) && !(t->easy = h->curl.curl_easy_init()))
		g_clear_pointer(&t, free);
	if (!t)
		return false;
	t->h = h;
	t->req = req;
	t->tries = 0;
	if (!h->active)
		silence_asked(&h->silence);
	t->next = h->active;
	h->active = t;
	h->active_count++;
	if (launch(t))
		return true;
	retire(t);
	return false;
}

/* A place is free. */
static void begin_waiting(struct http *h)
{
	struct disk_req *next;

	while ((next = disk_req_list_get(&h->waiting))) {
		if (begin(h, next))
			return;
		next->done(next, -ENOMEM);
	}
}

static void complete(struct http *h, struct disk_req *req, int result)
{
	if (result == 0)
		disk_req_zero_rest(req); /* behind the end of the file */
	begin_waiting(h);
	req->done(req, result);
}

/* What another try may help against. */
static bool is_worth_another(const struct transfer *t)
{
	unsigned status = t->answer.status;

	if (t->tries >= TRIES || t->verdict == CHANGED || !t->req)
		return false;
	return t->verdict == GOING || status == 408 || status == 429 || status >= 500;
}

static void finish(struct transfer *t, CURLcode code)
{
	struct http *h = t->h;
	struct disk_req *req = t->req;
	bool whole;

	t->running = false;
	if (!t->judged && code == CURLE_OK)
		judge(t);
	whole = code == CURLE_OK && t->verdict == GOING && (!req || bytes_left(t) == 0);
	if (!whole && is_worth_another(t)) {
		t->not_before_ns = loop_now_ns() + (FIRST_DELAY_NS << (t->tries - 1));
		return;
	}
	if (!req) {
		h->first = t->answer;
		h->look = t->verdict;
		if (!whole && t->verdict == GOING)
			g_strlcpy(h->look_why, t->why[0] ? t->why : h->curl.curl_easy_strerror(code),
				  sizeof(h->look_why));
		retire(t);
		return;
	}
	if (!whole && t->verdict == CHANGED && !h->changed) {
		h->changed = true;
		log_warn("disk '%s': the file has changed at its server, requests fail from now on",
			 h->disk.path);
	} else if (!whole && !h->changed) {
		log_warn("disk '%s': a read failed: %s", h->disk.path,
			 t->verdict == NONSENSE ? "the server's answer makes no sense" :
			 t->why[0]		? t->why :
						  h->curl.curl_easy_strerror(code));
	}
	retire(t);
	complete(h, req, whole ? 0 : h->changed ? -ESTALE : -EIO);
}

/* ---- libcurl, the loop and poll(2) ---- */

static void digest(struct http *h)
{
	CURLMsg *message;
	int left;

	while ((message = h->curl.curl_multi_info_read(h->multi, &left))) {
		struct transfer *t = NULL;
		CURL *easy = message->easy_handle;
		CURLcode code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		(void)h->curl.curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t);
		(void)h->curl.curl_multi_remove_handle(h->multi, easy);
		finish(t, code);
	}
}

static uint64_t next_wake(const struct http *h)
{
	uint64_t next = h->wake_ns;

	for (const struct transfer *t = h->active; t; t = t->next)
		if (!t->running && t->not_before_ns < next)
			next = t->not_before_ns;
	return next;
}

static struct transfer *find_due(struct http *h, uint64_t now)
{
	for (struct transfer *t = h->active; t; t = t->next)
		if (!t->running && t->not_before_ns <= now)
			return t;
	return NULL;
}

/* All that has its time. */
static void expire(struct http *h)
{
	uint64_t now = loop_now_ns();
	struct transfer *t;
	int running;

	while ((t = find_due(h, now)))
		if (!launch(t))
			finish(t, CURLE_OUT_OF_MEMORY); /* tries are counted */
	if (h->wake_ns <= now) {
		h->wake_ns = NEVER;
		(void)h->curl.curl_multi_socket_action(h->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	digest(h);
}

static void arm(struct http *h)
{
	uint64_t next = next_wake(h);

	if (next == NEVER)
		loop_timer_disarm(h->timer);
	else
		loop_timer_arm(h->timer, next);
}

/* @fd: CURL_SOCKET_TIMEOUT: only what has its time. */
static void work(struct http *h, curl_socket_t fd, int ready)
{
	bool before = h->busy;
	int running;

	h->busy = true;
	if (fd != CURL_SOCKET_TIMEOUT)
		(void)h->curl.curl_multi_socket_action(h->multi, fd, ready, &running);
	expire(h);
	h->busy = before;
	arm(h);
}

static void on_ready(void *arg, uint32_t events)
{
	struct http_socket *s = arg;

	work(s->h, s->fd,
	     (events & EPOLLIN ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
		     (events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0));
}

static void on_time(void *arg)
{
	work(arg, CURL_SOCKET_TIMEOUT, 0);
}

static int on_timeout(CURLM *multi, long ms, void *arg)
{
	struct http *h = arg;

	(void)multi;
	h->wake_ns = ms < 0 ? NEVER : loop_now_ns() + (uint64_t)ms * 1000000u;
	return 0;
}

static void drop_socket(struct http *h, struct http_socket *s)
{
	struct http_socket **p = &h->sockets;

	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	loop_fd_remove(s->watch);
	free(s);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *of_socket)
{
	struct http_socket *s = of_socket;
	struct http *h = arg;
	uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);

	(void)easy;
	if (what == CURL_POLL_REMOVE) {
		if (s)
			drop_socket(h, s);
		return 0;
	}
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return -1;
		*s = (struct http_socket){ .h = h, .fd = fd, .next = h->sockets };
		h->sockets = s;
		s->watch = loop_fd_add(h->loop, fd, events, on_ready, s);
		(void)h->curl.curl_multi_assign(h->multi, fd, s);
	} else if (s->watch) {
		loop_fd_modify(s->watch, events);
	}
	s->events = (short)((what & CURL_POLL_IN ? POLLIN : 0) | (what & CURL_POLL_OUT ? POLLOUT : 0));
	return 0;
}

static void wait_for_sockets(struct http *h, int ms)
{
	struct pollfd fds[MAX_POLL];
	uint64_t now = loop_now_ns(), wake = next_wake(h);
	nfds_t n = 0;

	for (const struct http_socket *s = h->sockets; s && n < MAX_POLL; s = s->next)
		fds[n++] = (struct pollfd){ .fd = s->fd, .events = s->events };
	(void)poll(fds, n, wake <= now ? 0 : (int)MIN((wake - now) / 1000000 + 1, (unsigned)ms));
	for (nfds_t i = 0; i < n; i++)
		if (fds[i].revents)
			work(h, fds[i].fd,
			     (fds[i].revents & POLLIN ? CURL_CSELECT_IN : 0) |
				     (fds[i].revents & POLLOUT ? CURL_CSELECT_OUT : 0) |
				     (fds[i].revents & (POLLERR | POLLHUP) ? CURL_CSELECT_ERR : 0));
	work(h, CURL_SOCKET_TIMEOUT, 0);
}

/* Those that wait as well. Whoever is told may ask for more, which is not tried here. */
static void give_up(struct http *h)
{
	unsigned count = h->active_count;
	struct disk_req_list over;
	struct disk_req *req;

	disk_req_list_init(&over);
	for (; (req = disk_req_list_get(&h->waiting)); count++)
		disk_req_list_put(&over, req);
	silence_give_up(&h->silence, &h->disk, count);
	while (h->active) {
		struct transfer *t = h->active;

		if (t->running)
			(void)h->curl.curl_multi_remove_handle(h->multi, t->easy);
		t->running = false;
		retire(t);
		if (!t->req) {
			g_strlcpy(h->look_why, "it does not answer", sizeof(h->look_why));
			continue;
		}
		disk_req_list_put(&over, t->req);
	}
	while ((req = disk_req_list_get(&over)))
		req->done(req, -EIO);
}

static void http_drain(struct disk *disk)
{
	struct http *h = (struct http *)disk;
	uint64_t begin_ns = loop_now_ns();

	work(h, CURL_SOCKET_TIMEOUT, 0);
	while (h->active) {
		int ms = silence_wait_ms(&h->silence, disk, begin_ns);

		/* libcurl's own timeouts bound it as well; a second is for what it forgets. */
		if (ms)
			wait_for_sockets(h, ms == SILENCE_FOREVER ? 1000 : ms);
		else
			give_up(h);
	}
}

/* ---- the node ---- */

static int at_once(struct http *h, struct disk_req *req)
{
	if (req->op == DISK_FLUSH)
		return 0;
	if (req->op != DISK_MAP)
		return -EROFS;
	req->map = (struct disk_map){ .len = req->len, .host_offset = req->offset };
	req->map.state = req->offset < h->disk.size_bytes ? DISK_DATA : DISK_ZERO;
	if (req->offset < h->disk.size_bytes)
		req->map.len = MIN(req->len, h->disk.size_bytes - req->offset);
	return 0;
}

static void http_submit(struct disk *disk, struct disk_req *req)
{
	struct http *h = (struct http *)disk;

	if (req->op != DISK_READ) {
		req->done(req, at_once(h, req));
	} else if (h->changed) {
		req->done(req, -ESTALE);
	} else if (req->offset >= disk->size_bytes) {
		disk_req_zero_rest(req);
		req->done(req, 0);
	} else if (h->active_count >= AT_ONCE) {
		disk_req_list_put(&h->waiting, req);
	} else if (!begin(h, req)) {
		req->done(req, -ENOMEM);
	}
}

static void http_kick(struct disk *disk)
{
	struct http *h = (struct http *)disk;

	if (!h->busy)
		work(h, CURL_SOCKET_TIMEOUT, 0);
}

static void http_close(struct disk *disk)
{
	struct http *h = (struct http *)disk;
	struct transfer *t;

	while ((t = h->spare)) {
		h->spare = t->next;
		h->curl.curl_easy_cleanup(t->easy);
		free(t);
	}
	if (h->multi)
		(void)h->curl.curl_multi_cleanup(h->multi);
	while (h->sockets)
		drop_socket(h, h->sockets);
	loop_timer_free(h->timer);
	g_free(h->url);
	g_free(h->disk.path);
	h->curl.curl_global_cleanup();
	free(h);
}

static const struct disk_ops http_ops = {
	.submit = http_submit,
	.kick = http_kick,
	.drain = http_drain,
	.close = http_close,
};

/* ---- opening ---- */

/* Without a name and a password, which are nobody else's business. */
static char *public_name(const char *url)
{
	const char *host = strstr(url, "://") + 3, *at = NULL;

	for (const char *p = host; *p && !strchr("/?#", *p); p++)
		if (*p == '@')
			at = p;
	return at ? g_strdup_printf("%.*s%s", (int)(host - url), url, at + 1) : g_strdup(url);
}

static struct http *http_new(const char *url, bool named, struct loop *loop, GError **err)
{
	struct http *h = calloc(1, sizeof(*h));

	if (h && !library_load(library_files, call_names, G_N_ELEMENTS(call_names), &h->curl, url, err))
		g_clear_pointer(&h, free);
	else if (!h)
		base_fail(err, ENOMEM, "disk '%s': no memory", url);
	if (!h)
		return NULL;
	(void)h->curl.curl_global_init(CURL_GLOBAL_DEFAULT);
	h->loop = loop;
	h->url = g_strdup(url);
	h->follow = !named;
	h->wake_ns = NEVER;
	disk_req_list_init(&h->waiting);
	/* Growable: what is behind the end of a file is zeros. */
	h->disk = (struct disk){ .ops = &http_ops, .format = "http", .path = public_name(url),
				 .block_bytes = 4096, .readonly = true, .growable = true };
	h->timer = loop_timer_new(loop, on_time, h);
	h->multi = h->curl.curl_multi_init();
	if (h->timer && h->multi && !h->curl.curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, on_socket) &&
	    !h->curl.curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h) &&
	    !h->curl.curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, on_timeout) &&
	    !h->curl.curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h) &&
	    !h->curl.curl_multi_setopt(h->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)AT_ONCE / 2))
		return h;
	base_fail(err, ENOMEM, "disk '%s': no memory", h->disk.path);
	http_close(&h->disk);
	return NULL;
}

/* The first look: is it there, how large, and does the server give parts of it? */
static bool look(struct http *h, GError **err)
{
	const char *path = h->disk.path;

	if (!begin(h, NULL))
		return base_fail(err, EINVAL, "disk '%s': is no address", path);
	http_drain(&h->disk);
	if (h->look_why[0])
		return base_fail(err, EIO, "disk '%s': cannot be reached: %s", path, h->look_why);
	if (h->look == NO_RANGES)
		return base_fail(err, ENOTSUP, "disk '%s': its server gives no parts of a file; download it",
				 path);
	if (h->look != GOING && h->first.status != 206)
		return base_fail(err, EIO, "disk '%s': its server answers %u", path, h->first.status);
	if (h->look != GOING || h->first.total > INT64_MAX)
		return base_fail(err, EIO, "disk '%s': its server's answer makes no sense", path);
	h->disk.size_bytes = h->first.total;
	return true;
}

struct disk *http_disk_open(const char *url, const struct disk_options *o, bool named,
			    struct loop *loop, GError **err)
{
	struct http *h;
	g_autofree char *tag = NULL;

	if (!o->readonly) {
		base_fail(err, EROFS, "disk '%s': can only be read; add 'readonly', or put an image on top "
				      "of it", url);
		return NULL;
	}
	h = http_new(url, named, loop, err);
	if (!h)
		return NULL;
	h->silence.patience = o->patience;
	if (!look(h, err)) {
		http_close(&h->disk);
		return NULL;
	}
	if (h->first.etag[0] || h->first.modified[0])
		tag = g_strdup_printf("%s %s", h->first.etag, h->first.modified);
	return disk_copies_open_take(&h->disk, tag, o, loop, err);
}
