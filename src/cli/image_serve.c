// SPDX-License-Identifier: Apache-2.0
/* image_serve.c - `sika image serve`: a disk for others, by NBD. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/loop.h"
#include "cli/image.h"
#include "nbd/nbd.h"

#define DEFAULT_ADDRESS "127.0.0.1"
#define DEFAULT_PORT	10809 /* IANA's for nbd */
#define DEFAULT_CLIENTS 16

static void stop(void *loop)
{
	loop_stop(loop);
}

static void on_signal(void *loop, uint32_t events)
{
	(void)events;
	image_hurry();
	loop_stop(loop);
}

/* "PORT", "ADDRESS:PORT", "[ADDRESS]:PORT" */
static int parse_listen(const struct image_args *a, struct nbd_offer *o, char **ret_address)
{
	const char *colon = strrchr(a->listen, ':'), *port = colon ? colon + 1 : a->listen;
	size_t len = colon ? (size_t)(colon - a->listen) : 0;
	guint64 n;

	if (!g_ascii_string_to_unsigned(port, 10, 0, 65535, &n, NULL))
		return cli_complain(CLI_USAGE, a->verb, "--listen: '%s' is no port", port);
	o->port = (uint16_t)n;
	if (len >= 2 && a->listen[0] == '[' && a->listen[len - 1] == ']')
		*ret_address = g_strndup(a->listen + 1, len - 2);
	else
		*ret_address = len ? g_strndup(a->listen, len) : g_strdup(DEFAULT_ADDRESS);
	o->address = *ret_address;
	return 0;
}

static int parse(const struct image_args *a, struct nbd_offer *o, char **ret_address)
{
	guint64 n;

	if (a->socket && a->listen)
		return cli_complain(CLI_USAGE, a->verb, "--socket and --listen are two places: name one");
	if (a->clients) {
		if (!g_ascii_string_to_unsigned(a->clients, 10, 0, 65535, &n, NULL))
			return cli_complain(CLI_USAGE, a->verb, "--clients: '%s' is not a number", a->clients);
		o->max_clients = (unsigned)n;
	}
	return a->listen ? parse_listen(a, o, ret_address) : 0;
}

/* Until a signal, or with --once until the last client has left. */
static int serve(const struct image_args *a, const struct nbd_offer *offer, int signals)
{
	struct loop_fd *watch = loop_fd_add(a->loop, signals, EPOLLIN, on_signal, a->loop);
	g_autoptr(GError) err = NULL;
	struct nbd_server *server = nbd_server_new(a->loop, offer, &err);
	g_autofree char *uri = NULL;

	if (!server) {
		loop_fd_remove(watch);
		return cli_complain(CLI_FAILURE, a->verb, "%s", err->message);
	}
	uri = nbd_server_uri(server);
	printf("%s\n", uri);
	fflush(stdout);
	loop_run(a->loop);
	nbd_server_free(server);
	loop_fd_remove(watch);
	return 0;
}

static int block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void add_text(GString *json, const char *key, const char *value)
{
	if (!value)
		return;
	g_string_append_printf(json, ",\"%s\":", key);
	json_append_string(json, value);
}

/* Until a signal, or until the machine ends. The export lives as long as the connection. */
static int wait_with(const struct image_args *a, int connection)
{
	auto_fd int signals = block_signals();
	struct loop_fd *watches[2] = {
		loop_fd_add(a->loop, signals, EPOLLIN, on_signal, a->loop),
		loop_fd_add(a->loop, connection, EPOLLIN | EPOLLRDHUP, on_signal, a->loop),
	};

	loop_run(a->loop);
	for (int i = 0; i < 2; i++)
		if (watches[i])
			loop_fd_remove(watches[i]);
	return 0;
}

/* The machine serves; its thread has the disk. */
static int serve_machine(const struct image_args *a, const struct nbd_offer *o)
{
	g_autoptr(GString) request = g_string_new("{\"command\":\"export\"");
	g_autofree char *socket = o->socket ? g_canonicalize_filename(o->socket, NULL) : NULL;
	g_autofree char *tls = o->tls ? g_canonicalize_filename(o->tls, NULL) : NULL;
	g_autofree char *line = NULL;
	g_autoptr(GHashTable) answer = NULL;
	auto_fd int fd = -1;
	g_autofree char *disks = g_strjoinv("\n", (char **)a->files);
	const char *uris;

	if (a->once || a->description || a->format || a->snapshot)
		return cli_complain(CLI_USAGE, a->verb,
				    "--machine goes without --once, --description, --format and --snapshot");
	add_text(request, "disks", disks);
	add_text(request, "name", a->name);
	add_text(request, "tls", tls);
	add_text(request, socket ? "socket" : "address", socket ? socket : o->address);
	g_string_append_printf(request, ",\"port\":%u,\"clients\":%u}", o->port, o->max_clients);
	line = cli_ask_keep(a->verb, a->machine, request->str, &fd);
	if (!line)
		return CLI_FAILURE;
	answer = json_parse_flat(line);
	uris = answer ? g_hash_table_lookup(answer, "uris") : NULL;
	if (!uris)
		return cli_refused(a->verb, a->machine, answer);
	printf("%s\n", uris);
	fflush(stdout);
	return wait_with(a, fd);
}

int image_serve_main(struct image_args *a)
{
	struct nbd_offer o = { .name = a->name ? a->name : "", .description = a->description,
			       .readonly = a->readonly, .socket = a->socket, .tls = a->tls,
			       .address = DEFAULT_ADDRESS, .port = DEFAULT_PORT, .max_clients = DEFAULT_CLIENTS,
			       .left = a->once ? stop : NULL, .arg = a->loop };
	g_autofree char *address = NULL;
	auto_fd int signals = -1;
	int status = parse(a, &o, &address), r;

	if (status)
		return status;
	if (a->machine)
		return serve_machine(a, &o);
	if (a->file_count > 1)
		return cli_complain(CLI_USAGE, a->verb, "several disks are served of a --machine only");
	if (a->snapshot)
		a->readonly = o.readonly = true;
	o.disk = image_open(a, a->files[0], (struct image_open){ .format = a->format, .write = !a->readonly,
								     .snapshot = a->snapshot });
	if (!o.disk)
		return CLI_FAILURE;
	signals = block_signals();
	status = signals < 0 ? image_fail(a, a->files[0], "cannot be served", -errno) : serve(a, &o, signals);
	r = a->readonly ? 0 : disk_flush_wait(o.disk);
	if (r < 0 && !status)
		status = image_fail(a, a->files[0], "cannot be made durable", r);
	disk_close(o.disk);
	return status;
}
