// SPDX-License-Identifier: Apache-2.0
/*
 * export.c - disks of a running machine for others, as they are at one moment, by NBD.
 *
 * The devices of all of them are paused, which drains them, then a view of each disk is taken
 * (disk/filters/moment.h), each in the thread of its disk's loop, and the devices go on; a server for each reads the view. What the guest overwrites is kept in a
 * qcow2 image in $TMPDIR that has no name any more.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop.h"
#include "dev/virtio/virtio.h"
#include "disk/disk.h"
#include "disk/filters/moment.h"
#include "disk/qcow2/qcow2.h"
#include "nbd/nbd.h"
#include "vm/vm.h"
#include "vm/vm_int.h"

/* One of the disks. */
struct part {
	struct vm *vm;
	unsigned index;
	struct disk *store; /* until it is the view's */
	struct disk *view; /* NULL: nobody can write to the disk, which is served itself */
	struct nbd_server *server;
};

struct vm_export {
	struct vm *vm;
	struct vm_export *next; /* that ends later */
	unsigned count;
	struct part parts[VM_MAX_DISKS];
	char *uris;
};

static struct loop *loop_of(const struct part *p)
{
	return io_loop(p->vm, p->vm->config->disks[p->index].iothread);
}

/* An empty image that goes when it is closed. */
static struct disk *make_store(uint64_t size_bytes, struct loop *loop, GError **err)
{
	const struct qcow2_create how = { .size_bytes = size_bytes, .version = 3,
					  .cluster_bytes = DISK_MOMENT_GRAIN, .refcount_bits = 16 };
	const struct disk_options o = { .format = "qcow2", .cache = DISK_CACHE_UNSAFE };
	const char *folder = g_getenv("TMPDIR");
	g_autofree char *path = g_build_filename(folder ? folder : "/var/tmp", "sika-XXXXXX", NULL);
	struct disk *store = NULL;
	int fd = mkostemp(path, O_CLOEXEC);

	if (fd < 0) {
		g_set_error(err, BASE_ERROR, errno, "cannot make '%s' for what the guest overwrites: %s", path,
			    g_strerror(errno));
		return NULL;
	}
	close(fd);
	if (qcow2_create_file(path, &how, loop, err))
		store = disk_open_options(path, &o, loop, err);
	(void)unlink(path);
	return store;
}

/* What is done for a part in the thread of its disk's loop. */
struct step {
	struct part *part;
	bool (*run)(struct part *part, const struct nbd_offer *offer, GError **err);
	const struct nbd_offer *offer;
	GError **err;
	bool ok;
};

static void run_step(void *arg)
{
	struct step *s = arg;

	s->ok = s->run(s->part, s->offer, s->err);
}

static bool in_loop(struct part *part, bool (*run)(struct part *, const struct nbd_offer *, GError **),
		    const struct nbd_offer *offer, GError **err)
{
	struct step s = { part, run, offer, err, false };

	loop_call(loop_of(part), run_step, &s);
	return s.ok;
}

static bool prepare(struct part *p, const struct nbd_offer *offer, GError **err)
{
	struct disk *disk = p->vm->back.points[p->index];

	(void)offer;
	if (disk)
		p->store = make_store(disk->size_bytes, loop_of(p), err);
	return !disk || p->store;
}

static bool take_view(struct part *p, const struct nbd_offer *offer, GError **err)
{
	int r;

	(void)offer;
	if (!p->store)
		return true;
	r = disk_moment_take(p->vm->back.points[p->index], p->store, &p->view);
	if (r == 0) {
		p->store = NULL;
		return true;
	}
	g_set_error(err, BASE_ERROR, -r, "%s",
		    r == -EBUSY ? "it is exported already" : g_strerror(-r));
	return false;
}

static bool serve(struct part *p, const struct nbd_offer *how, GError **err)
{
	struct nbd_offer offer = *how;

	offer.disk = p->view ? p->view : p->vm->back.disks[p->index];
	p->server = nbd_server_new(loop_of(p), &offer, err);
	return p->server != NULL;
}

static bool end_part(struct part *p, const struct nbd_offer *offer, GError **err)
{
	(void)offer;
	(void)err;
	if (p->server)
		nbd_server_free(p->server);
	disk_close(p->view);
	disk_close(p->store);
	return true;
}

void vm_export_end(struct vm_export *e)
{
	if (!e)
		return;
	/* Its disk's thread waits for requests, and this one must not wait for it. */
	if (e->vm->quieting) {
		e->next = e->vm->ended;
		e->vm->ended = e;
		return;
	}
	for (unsigned i = 0; i < e->count; i++)
		(void)in_loop(&e->parts[i], end_part, NULL, NULL);
	g_free(e->uris);
	g_free(e);
}

void export_end_later(struct vm *vm)
{
	while (vm->ended) {
		struct vm_export *e = vm->ended;

		vm->ended = e->next;
		vm_export_end(e);
	}
}

/* The devices stand still, all of them, while the views are taken: what one disk holds then is no later than
 * what another does. LUNs of one controller share a device. */
static bool take_views(struct vm_export *e, GError **err)
{
	struct virtio_dev **devices = e->vm->board.disks;
	unsigned disks[VM_MAX_DISKS];
	bool ok = true;

	for (unsigned i = 0; i < e->count; i++)
		disks[i] = e->parts[i].index;
	if (!quiet_can(e->vm, disks, e->count, err))
		return false;
	for (unsigned i = 0; i < e->count; i++)
		virtio_pause(devices[e->parts[i].index]);
	for (unsigned i = 0; i < e->count && ok; i++)
		ok = in_loop(&e->parts[i], take_view, NULL, err);
	for (unsigned i = 0; i < e->count; i++)
		virtio_resume(devices[e->parts[i].index]);
	return ok;
}

/* Several are at sockets and ports of their own. */
static bool serve_all(struct vm_export *e, const struct vm_export_ask *how, GError **err)
{
	g_autoptr(GString) uris = g_string_new(NULL);

	for (unsigned i = 0; i < e->count; i++) {
		g_autofree char *socket = how->socket && e->count > 1 ?
						  g_strdup_printf("%s.%u", how->socket, i) :
						  g_strdup(how->socket);
		const struct nbd_offer offer = {
			.name = how->name ? how->name : "",
			.readonly = true,
			.socket = socket,
			.address = how->address,
			.port = (uint16_t)(how->port ? how->port + i : 0),
			.max_clients = how->clients,
			.tls = how->tls,
		};
		g_autofree char *uri = NULL;

		if (how->port + i > UINT16_MAX)
			return base_fail(err, EINVAL, "there are not so many ports from %u on", how->port);
		if (!in_loop(&e->parts[i], serve, &offer, err))
			return false;
		uri = nbd_server_uri(e->parts[i].server);
		g_string_append_printf(uris, "%s%s", i ? "\n" : "", uri);
	}
	e->uris = g_string_free(g_steal_pointer(&uris), FALSE);
	return true;
}

static bool add_part(struct vm_export *e, const char *disk, GError **err)
{
	int index = vm_disk_find(e->vm, disk, err);

	if (index < 0)
		return false;
	if (e->vm->disk_errors[index])
		return base_fail(err, EBUSY, "the disk holds requests: %s", g_strerror(e->vm->disk_errors[index]));
	for (unsigned i = 0; i < e->count; i++)
		if (e->parts[i].index == (unsigned)index)
			return base_fail(err, EINVAL, "disk '%s' is named twice", disk);
	e->parts[e->count++] = (struct part){ .vm = e->vm, .index = (unsigned)index };
	return true;
}

struct vm_export *vm_export(struct vm *vm, const struct vm_export_ask *how, GError **err)
{
	struct vm_export *e = g_new0(struct vm_export, 1);
	bool ok = !quiet_refuses(vm, err);

	e->vm = vm;
	/* None is named twice, so that they fit. */
	for (const char *const *disk = how->disks; *disk && ok; disk++)
		ok = add_part(e, *disk, err);
	for (unsigned i = 0; i < e->count && ok; i++)
		ok = in_loop(&e->parts[i], prepare, NULL, err);
	if (ok && take_views(e, err) && serve_all(e, how, err))
		return e;
	vm_export_end(e);
	return NULL;
}

const char *vm_export_uris(const struct vm_export *e)
{
	return e->uris;
}
