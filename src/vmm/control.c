// SPDX-License-Identifier: Apache-2.0
/* control.c - the control socket: connections, lines, commands. */
#include "vmm/control.h"

#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/json.h"
#include "base/rundir.h"
#include "vm/vm.h"

#define MAX_CLIENTS 8u
#define BACKLOG	    64 /* more wait in the kernel */
#define MAX_LINE    4096u

struct client {
	struct control *control;
	int fd; /* -1: free */
	guint source; /* 0: not listened to, a request is being answered */
	bool json;
	struct vm_export *export; /* that goes with the connection */
	char line[MAX_LINE];
	size_t used;
};

struct control {
	struct vm *vm;
	char *path;
	int fd;
	guint source; /* 0: all places are taken */
	struct client clients[MAX_CLIENTS];
};

static gboolean on_line(int fd, GIOCondition condition, gpointer arg);
static gboolean on_connect(int fd, GIOCondition condition, gpointer arg);

static void hang_up(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	if (c->source)
		g_source_remove(c->source);
	vm_export_end(c->export);
	c->export = NULL;
	c->fd = -1;
	c->source = 0;
	c->used = 0;
	if (!c->control->source && c->control->fd >= 0)
		c->control->source = g_unix_fd_add(c->control->fd, G_IO_IN, on_connect, c->control);
}

/* Takes @line. A client that does not read its answers is left. */
static void answer(struct client *c, GString *line)
{
	g_string_append_c(line, '\n');
	if (c->fd >= 0 &&
	    send(c->fd, line->str, line->len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)line->len)
		hang_up(c);
	g_string_free(line, TRUE);
}

static void answer_error(struct client *c, const char *why)
{
	GString *line = g_string_new("{\"ok\":false,\"error\":");

	json_append_string(line, why);
	g_string_append_c(line, '}');
	answer(c, line);
}

static void on_stats(void *arg, const char *text)
{
	struct client *c = arg;
	GString *line;

	if (c->fd < 0)
		return; /* the end of the control socket */
	if (!text) {
		answer_error(c, "the machine was reset or ended meanwhile");
	} else {
		line = g_string_new("{\"ok\":true,");
		g_string_append(line, c->json ? "\"stats\":" : "\"text\":");
		if (c->json)
			g_string_append(line, text);
		else
			json_append_string(line, text);
		g_string_append_c(line, '}');
		answer(c, line);
	}
	if (c->fd >= 0)
		c->source = g_unix_fd_add(c->fd, G_IO_IN | G_IO_HUP, on_line, c);
}

static bool number_of(GHashTable *request, const char *key, guint64 min, guint64 max, unsigned *value)
{
	const char *text = g_hash_table_lookup(request, key);
	guint64 n;

	if (!text)
		return true;
	if (!g_ascii_string_to_unsigned(text, 10, min, max, &n, NULL))
		return false;
	*value = (unsigned)n;
	return true;
}

/* False: answered already. True: on_stats() will. */
static bool command_stats(struct client *c, const char *engine, GHashTable *request)
{
	const char *format = g_hash_table_lookup(request, "format");
	struct vm_stats_ask ask = { .engine = engine, .ms = 1000, .top = 10 };
	g_autoptr(GError) err = NULL;

	if (!number_of(request, "time_ms", 1, 60000, &ask.ms) ||
	    !number_of(request, "top", 0, 1000, &ask.top) ||
	    (format && strcmp(format, "json") && strcmp(format, "text"))) {
		answer_error(c, "statistics of an engine take time_ms, top and format");
		return false;
	}
	ask.json = c->json = !format || !strcmp(format, "json");
	if (vm_stats(c->control->vm, &ask, on_stats, c, &err))
		return true;
	answer_error(c, err->message);
	return false;
}

static void command_resize(struct client *c, GHashTable *request)
{
	const char *disk = g_hash_table_lookup(request, "disk");
	const char *size = g_hash_table_lookup(request, "size");
	const char *more = g_hash_table_lookup(request, "more");
	g_autoptr(GError) err = NULL;
	guint64 bytes;

	if (!disk || !size == !more ||
	    !g_ascii_string_to_unsigned(size ? size : more, 10, 1, G_MAXINT64, &bytes, NULL))
		answer_error(c, "resize takes disk, and size or more in bytes");
	else if (vm_resize_disk(c->control->vm, disk, bytes, more != NULL, &err))
		answer(c, g_string_new("{\"ok\":true}"));
	else
		answer_error(c, err->message);
}

static void command_export(struct client *c, GHashTable *request)
{
	const char *disks = g_hash_table_lookup(request, "disks");
	g_auto(GStrv) list = g_strsplit(disks ? disks : "", "\n", 0);
	struct vm_export_ask how = {
		.disks = (const char *const *)list,
		.name = g_hash_table_lookup(request, "name"),
		.socket = g_hash_table_lookup(request, "socket"),
		.address = g_hash_table_lookup(request, "address"),
		.tls = g_hash_table_lookup(request, "tls"),
		.clients = 16,
	};
	g_autoptr(GError) err = NULL;
	GString *line;

	if (!list[0] || !how.socket == !how.address ||
	    !number_of(request, "port", 0, 65535, &how.port) ||
	    !number_of(request, "clients", 0, 65535, &how.clients)) {
		answer_error(c, "export takes disks (a line each), socket or address and port, name, tls, clients");
		return;
	}
	if (c->export) {
		answer_error(c, "this connection has an export, which ends with it");
		return;
	}
	c->export = vm_export(c->control->vm, &how, &err);
	if (!c->export) {
		answer_error(c, err->message);
		return;
	}
	line = g_string_new("{\"ok\":true,\"uris\":");
	json_append_string(line, vm_export_uris(c->export));
	g_string_append_c(line, '}');
	answer(c, line);
}

static void command_status(struct client *c)
{
	GString *line = g_string_new("{\"ok\":true,");

	vm_status_append(c->control->vm, line);
	g_string_append_c(line, '}');
	answer(c, line);
}

static void command_disk_stats(struct client *c, GHashTable *request)
{
	const char *format = g_hash_table_lookup(request, "format");
	const char *histogram = g_hash_table_lookup(request, "histogram");
	bool json = !format || !strcmp(format, "json");
	g_autofree char *text = NULL;
	GString *line;

	if (!json && strcmp(format, "text")) {
		answer_error(c, "disk-stats takes format, which is json or text, and histogram");
		return;
	}
	text = vm_disk_stats(c->control->vm, json, histogram && !strcmp(histogram, "true"));
	line = g_string_new("{\"ok\":true,");
	g_string_append(line, json ? "\"stats\":" : "\"text\":");
	if (json)
		g_string_append(line, text);
	else
		json_append_string(line, text);
	g_string_append_c(line, '}');
	answer(c, line);
}

static void command_resume(struct client *c)
{
	g_autoptr(GError) err = NULL;

	if (vm_retry(c->control->vm, &err))
		answer(c, g_string_new("{\"ok\":true}"));
	else
		answer_error(c, err->message);
}

/* True: the answer comes later. */
static bool handle(struct client *c, const char *line)
{
	GHashTable *request = json_parse_flat(line);
	const char *command = request ? g_hash_table_lookup(request, "command") : NULL;
	bool later = false;

	if (!command)
		answer_error(c, "not a request: a flat JSON object with \"command\" is expected");
	else if (!strcmp(command, "bt-stats"))
		later = command_stats(c, "bt", request);
	else if (!strcmp(command, "kvm-stat"))
		later = command_stats(c, "kvm", request);
	else if (!strcmp(command, "resize"))
		command_resize(c, request);
	else if (!strcmp(command, "status"))
		command_status(c);
	else if (!strcmp(command, "resume"))
		command_resume(c);
	else if (!strcmp(command, "disk-stats"))
		command_disk_stats(c, request);
	else if (!strcmp(command, "export"))
		command_export(c, request);
	else
		answer_error(c,
			     "no such command, there are: bt-stats, kvm-stat, disk-stats, resize, status, resume, export");
	if (request)
		g_hash_table_unref(request);
	return later;
}

/* The first whole line of what came. True: its answer comes later. */
static bool take_line(struct client *c, bool *ret_any)
{
	char *end = memchr(c->line, '\n', c->used);
	char line[MAX_LINE];
	size_t len;

	*ret_any = end != NULL;
	if (!end)
		return false;
	len = (size_t)(end - c->line);
	memcpy(line, c->line, len);
	line[len] = 0;
	c->used -= len + 1;
	memmove(c->line, end + 1, c->used);
	return handle(c, line);
}

static gboolean on_line(int fd, GIOCondition condition, gpointer arg)
{
	struct client *c = arg;
	ssize_t n = recv(fd, c->line + c->used, MAX_LINE - c->used, MSG_DONTWAIT);
	bool any = true;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return G_SOURCE_CONTINUE;
	if (n > 0)
		c->used += (size_t)n;
	while (n > 0 && any && c->fd >= 0) {
		if (take_line(c, &any)) {
			c->source = 0;
			return G_SOURCE_REMOVE;
		}
	}
	if (n > 0 && c->fd >= 0 && c->used < MAX_LINE)
		return G_SOURCE_CONTINUE;
	c->source = 0; /* this one */
	hang_up(c);
	return G_SOURCE_REMOVE;
}

/* The directory is closed to others; this is for where somebody opened it. */
static bool is_ours(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	       (peer.uid == geteuid() || peer.uid == 0);
}

static gboolean on_connect(int fd, GIOCondition condition, gpointer arg)
{
	struct control *control = arg;
	struct client *c = NULL;
	int client;

	for (unsigned i = 0; i < MAX_CLIENTS && !c; i++)
		if (control->clients[i].fd < 0)
			c = &control->clients[i];
	if (!c) {
		control->source = 0; /* until hang_up() */
		return G_SOURCE_REMOVE;
	}
	client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	if (client >= 0 && !is_ours(client)) {
		close(client);
	} else if (client >= 0) {
		c->fd = client;
		c->used = 0;
		c->source = g_unix_fd_add(client, G_IO_IN | G_IO_HUP, on_line, c);
	}
	return G_SOURCE_CONTINUE;
}

static bool listen_at(struct control *control, GError **err)
{
	struct sockaddr_un address;

	if (!rundir_address(control->path, &address)) {
		g_set_error(err, BASE_ERROR, ENAMETOOLONG, "'%s' is too long for a socket",
			    control->path);
		return false;
	}
	control->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	(void)unlink(control->path); /* of a process that had our number and was killed */
	if (control->fd < 0 || bind(control->fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(control->fd, BACKLOG) < 0) {
		g_set_error(err, BASE_ERROR, errno, "cannot listen at '%s': %s", control->path,
			    g_strerror(errno));
		return false;
	}
	return true;
}

struct control *control_open(struct vm *vm, const char *name, GError **err)
{
	g_autofree char *dir = rundir_path();
	struct control *control = g_new0(struct control, 1);

	control->vm = vm;
	control->fd = -1;
	control->path = g_strdup_printf("%s/%s.%d", dir, name, (int)getpid());
	for (unsigned i = 0; i < MAX_CLIENTS; i++) {
		control->clients[i].fd = -1;
		control->clients[i].control = control;
	}
	if (!rundir_make(dir, err) || !listen_at(control, err)) {
		control_close(control);
		return NULL;
	}
	control->source = g_unix_fd_add(control->fd, G_IO_IN, on_connect, control);
	return control;
}

void control_close(struct control *control)
{
	if (!control)
		return;
	if (control->source)
		g_source_remove(control->source);
	if (control->fd >= 0) {
		close(control->fd);
		(void)unlink(control->path);
	}
	control->fd = -1;
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		hang_up(&control->clients[i]);
	vm_stats_cancel(control->vm);
	g_free(control->path);
	g_free(control);
}
