// SPDX-License-Identifier: Apache-2.0
/*
 * pause.c - a machine that stands still because a disk cannot do what its guest has written.
 *
 * The disk's I/O thread tells of it (disk/filters/hold.h); the vCPUs leave the guest at once and wait, the main thread notes
 * which disk it is and lets it try again every now and then, until nothing is held any more. The guest's clocks go on:
 * they are the host's.
 */
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/filters/hold.h"
#include "vm/vm.h"
#include "vm/vm_int.h"

#define RETRY_SECONDS 2u

struct note {
	struct vm *vm;
	unsigned disk, epoch;
	int error;
};

void pause_wait(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	while (atomic_load(&vm->paused) && !atomic_load(&vm->stop))
		pthread_cond_wait(&vm->go_on, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
}

void pause_wake(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	pthread_cond_broadcast(&vm->go_on);
	pthread_mutex_unlock(&vm->lock);
}

static void retry(void *arg)
{
	disk_hold_retry(arg);
}

static void retry_all(struct vm *vm)
{
	for (unsigned i = 0; i < vm->config->disk_count; i++)
		if (vm->disk_errors[i])
			loop_post(io_loop(vm, vm->config->disks[i].iothread), retry, vm->back.disks[i]);
}

static gboolean on_retry(gpointer arg)
{
	retry_all(arg);
	return G_SOURCE_CONTINUE;
}

static bool any_error(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->config->disk_count; i++)
		if (vm->disk_errors[i])
			return true;
	return false;
}

static void stand_still(struct vm *vm)
{
	atomic_store(&vm->paused, true);
	vcpus_kick(vm);
}

static gboolean on_note(gpointer arg)
{
	const struct note *n = arg;
	struct vm *vm = n->vm;
	const char *path = vm->config->disks[n->disk].path;

	if (n->epoch != vm->epoch || atomic_load(&vm->stop))
		return G_SOURCE_REMOVE; /* of a machine that has been reset since, or will be; or ends */
	vm->disk_errors[n->disk] = n->error;
	if (any_error(vm)) {
		if (n->error)
			log_warn("disk '%s': %s: the machine is paused, and goes on when that is over",
				 path, g_strerror(n->error));
		stand_still(vm);
		if (!vm->retry_source)
			vm->retry_source = g_timeout_add_seconds(RETRY_SECONDS, on_retry, vm);
	} else {
		log_warn("disk '%s': that is over, the machine goes on", path);
		g_clear_handle_id(&vm->retry_source, g_source_remove);
		atomic_store(&vm->paused, false);
		pause_wake(vm);
	}
	return G_SOURCE_REMOVE;
}

void pause_disk_changed(void *arg, int error)
{
	const struct disk_watch *w = arg;
	struct note *n = g_new(struct note, 1);

	*n = (struct note){ .vm = w->vm, .disk = w->index, .epoch = w->vm->epoch, .error = error };
	/* The guest is to do no more than it has done. */
	if (error)
		stand_still(w->vm);
	g_idle_add_full(G_PRIORITY_HIGH, on_note, n, g_free);
}

void pause_forget(struct vm *vm)
{
	vm->epoch++;
	g_clear_handle_id(&vm->retry_source, g_source_remove);
	for (unsigned i = 0; i < vm->config->disk_count; i++) {
		if (vm->back.disks[i])
			disk_hold_forget(vm->back.disks[i]);
		vm->disk_errors[i] = 0;
	}
	atomic_store(&vm->paused, false);
}

bool vm_retry(struct vm *vm, GError **err)
{
	if (!any_error(vm)) {
		g_set_error(err, VM_CONFIG_ERROR, 0, "it is not paused");
		return false;
	}
	retry_all(vm);
	return true;
}

void vm_status_append(struct vm *vm, GString *json)
{
	g_autoptr(GString) why = g_string_new(NULL);

	for (unsigned i = 0; i < vm->config->disk_count; i++)
		if (vm->disk_errors[i])
			g_string_append_printf(why, "%sdisk %u ('%s'): %s", why->len ? "; " : "", i,
					       vm->config->disks[i].path,
					       g_strerror(vm->disk_errors[i]));
	g_string_append_printf(json, "\"state\":\"%s\"",
			       quiet_state(vm) ? quiet_state(vm) : why->len ? "paused" : "running");
	if (why->len) {
		g_string_append(json, ",\"why\":");
		json_append_string(json, why->str);
	}
}
