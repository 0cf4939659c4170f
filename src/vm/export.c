// SPDX-License-Identifier: Apache-2.0
/*
 * export.c - a disk of a running machine for others, as it is at the moment of asking, by NBD.
 *
 * In the thread of the disk's loop the device is paused, which drains it, a view of the disk is taken
 * (disk/filters/moment.h), and the device goes on; the server reads the view. What the guest overwrites is kept in a
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

struct vm_export {
	struct vm *vm;
	unsigned index;
	struct disk *view; /* NULL: nobody can write to the disk, which is served itself */
	struct nbd_server *server;
	char *uri;
};

static struct loop *loop_of(const struct vm_export *e)
{
	return io_loop(e->vm, e->vm->config->disks[e->index].iothread);
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

static bool take_view(struct vm_export *e, GError **err)
{
	struct vm *vm = e->vm;
	struct disk *disk = vm->back.points[e->index], *store;
	int r;

	if (!disk)
		return true;
	store = make_store(disk->size_bytes, loop_of(e), err);
	if (!store)
		return false;
	virtio_pause(vm->board.disks[e->index]);
	r = disk_moment_take(disk, store, &e->view);
	virtio_resume(vm->board.disks[e->index]);
	if (r == 0)
		return true;
	disk_close(store);
	g_set_error(err, BASE_ERROR, -r, "%s",
		    r == -EBUSY ? "it is exported already" : g_strerror(-r));
	return false;
}

struct ask {
	struct vm_export *e;
	const struct vm_export_ask *how;
	GError **err;
	bool ok;
};

static void start_in_loop(void *arg)
{
	struct ask *a = arg;
	struct vm_export *e = a->e;
	const struct vm_export_ask *how = a->how;
	struct nbd_offer offer = {
		.name = how->name ? how->name : "",
		.readonly = true,
		.socket = how->socket,
		.address = how->address,
		.port = (uint16_t)how->port,
		.max_clients = how->clients,
		.tls = how->tls,
	};

	if (!take_view(e, a->err))
		return;
	offer.disk = e->view ? e->view : e->vm->back.disks[e->index];
	e->server = nbd_server_new(loop_of(e), &offer, a->err);
	if (e->server)
		e->uri = nbd_server_uri(e->server);
	a->ok = e->server != NULL;
}

static void end_in_loop(void *arg)
{
	struct vm_export *e = arg;

	if (e->server)
		nbd_server_free(e->server);
	disk_close(e->view);
}

void vm_export_end(struct vm_export *e)
{
	if (!e)
		return;
	loop_call(loop_of(e), end_in_loop, e);
	g_free(e->uri);
	g_free(e);
}

struct vm_export *vm_export(struct vm *vm, const struct vm_export_ask *how, GError **err)
{
	int index = vm_disk_find(vm, how->disk, err);
	struct vm_export *e;
	struct ask a;

	if (index < 0)
		return NULL;
	if (vm->disk_errors[index]) {
		g_set_error(err, BASE_ERROR, EBUSY, "the disk holds requests: %s",
			    g_strerror(vm->disk_errors[index]));
		return NULL;
	}
	e = g_new0(struct vm_export, 1);
	e->vm = vm;
	e->index = (unsigned)index;
	a = (struct ask){ .e = e, .how = how, .err = err };
	loop_call(loop_of(e), start_in_loop, &a);
	if (a.ok)
		return e;
	vm_export_end(e);
	return NULL;
}

const char *vm_export_uri(const struct vm_export *e)
{
	return e->uri;
}
