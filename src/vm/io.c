// SPDX-License-Identifier: Apache-2.0
/* io.c - the I/O threads: the one of all devices, and those that disks were given. */
#include <stdio.h>
#include <string.h>

#include "base/loop.h"
#include "vm/vm.h"
#include "vm/vm_int.h"

static bool io_add(struct vm *vm, const char *name, GError **err)
{
	struct io_thread *io = &vm->io[vm->io_count];

	io->name = name;
	io->loop = loop_new();
	if (!io->loop) {
		g_set_error(err, VM_CONFIG_ERROR, 0, "the host gives no event descriptors");
		return false;
	}
	vm->io_count++;
	return true;
}

static struct io_thread *io_find(struct vm *vm, const char *name)
{
	for (unsigned i = 1; name && i < vm->io_count; i++)
		if (!strcmp(vm->io[i].name, name))
			return &vm->io[i];
	return name ? NULL : &vm->io[0];
}

struct loop *io_loop(struct vm *vm, const char *name)
{
	return io_find(vm, name)->loop;
}

bool io_open(struct vm *vm, GError **err)
{
	const struct vm_config *c = vm->config;

	if (!io_add(vm, NULL, err))
		return false;
	vm->loop = vm->io[0].loop;
	for (unsigned i = 0; i < c->disk_count; i++)
		if (!io_find(vm, c->disks[i].iothread) && !io_add(vm, c->disks[i].iothread, err))
			return false;
	return true;
}

void io_close(struct vm *vm)
{
	while (vm->io_count)
		loop_free(vm->io[--vm->io_count].loop);
	vm->loop = NULL;
}

static void *io_main(void *arg)
{
	struct io_thread *io = arg;
	char name[16];

	snprintf(name, sizeof(name), io->name ? "io %s" : "io", io->name);
	pthread_setname_np(pthread_self(), name);
	loop_run(io->loop);
	return NULL;
}

bool io_start(struct vm *vm, GError **err)
{
	for (unsigned i = 0; i < vm->io_count; i++) {
		struct io_thread *io = &vm->io[i];
		int r = pthread_create(&io->thread, NULL, io_main, io);

		if (r) {
			g_set_error(err, VM_CONFIG_ERROR, 0, "cannot start an I/O thread: %s",
				    g_strerror(r));
			return false;
		}
		io->started = true;
	}
	return true;
}

bool io_runs(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->io_count; i++)
		if (!vm->io[i].started)
			return false;
	return true;
}

void io_stop(struct vm *vm)
{
	for (unsigned i = 0; i < vm->io_count; i++) {
		struct io_thread *io = &vm->io[i];

		if (!io->started)
			continue;
		loop_stop(io->loop);
		pthread_join(io->thread, NULL);
		io->started = false;
	}
}
