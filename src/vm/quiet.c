// SPDX-License-Identifier: Apache-2.0
/*
 * quiet.c - devices come to a standstill, and the machine can be ended meanwhile.
 *
 * Before a reset, and at the end, requests under way must be over, and those at a server that says nothing may take their
 * time. The devices wait for them in their own threads; the main thread goes on with its loop, so that the control socket
 * answers and a wish to end is heard. A reset waits for as long as it takes, an end does not
 * (struct disk_patience).
 *
 * A machine that runs is not to stand still for long: where requests are not answered it is refused what
 * it would have to do so for.
 */
#include "base/error.h"
#include "dev/virtio/virtio.h"
#include "disk/disk.h"
#include "disk/filters/stats.h"
#include "vm/vm.h"
#include "vm/vm_int.h"

#define LOOK_US	   2000
#define PATIENT_US (3000 * 1000) /* whoever answers does so within that */

/* ---- a reset, an end ---- */

/* In the thread of the device's loop. The main thread may be gone from @left once it is zero. */
static void device_is_quiet(void *left)
{
	atomic_fetch_sub((atomic_uint *)left, 1);
	g_main_context_wakeup(NULL);
}

void quiet_patience(struct vm *vm)
{
	unsigned ms = DISK_PATIENCE_MS;

	/* A wish is heard in any thread; whoever sets it later sees the later wish. */
	pthread_mutex_lock(&vm->lock);
	if (vm->wish == WISH_END)
		ms = DISK_PATIENCE_END_MS;
	else if (vm->wish == WISH_RESET)
		ms = 0;
	atomic_store(&vm->patience.ms, ms);
	pthread_mutex_unlock(&vm->lock);
}

void quiet_stop(struct vm *vm)
{
	atomic_uint left = 0;

	vm->quieting = true;
	for (unsigned i = 0; i < vm->board.virtio_count; i++) {
		if (io_runs(vm)) {
			atomic_fetch_add(&left, 1);
			virtio_pause_post(vm->board.virtio[i], device_is_quiet, &left);
		} else {
			virtio_pause(vm->board.virtio[i]);
		}
	}
	while (atomic_load(&left) > 0)
		(void)g_main_context_iteration(NULL, TRUE);
	vm->quieting = false;
	export_end_later(vm);
}

bool quiet_refuses(const struct vm *vm, GError **err)
{
	return vm->quieting && !base_fail(err, EBUSY, "the machine is about to end, or to reset");
}

const char *quiet_state(struct vm *vm)
{
	const char *state;

	pthread_mutex_lock(&vm->lock);
	state = !vm->quieting ? NULL : vm->wish == WISH_RESET ? "resetting" : "ending";
	pthread_mutex_unlock(&vm->lock);
	return state;
}

/* ---- a machine that runs ---- */

struct look {
	uint64_t answered;
	bool alive;
};

static uint64_t answered(const struct disk_stats *stats)
{
	uint64_t n = 0;

	for (unsigned k = 0; k < DISK_STATS_KINDS; k++)
		n += stats->of[k].ops;
	return n;
}

static bool shares_device(const struct vm *vm, unsigned disk, const unsigned *disks, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (vm->board.disks[disks[i]] == vm->board.disks[disk])
			return true;
	return false;
}

/* The first that has requests under way and, since it was first looked at, has answered none; -1: none. */
static int find_silent(const struct vm *vm, const unsigned *disks, unsigned count, struct look looks[VM_MAX_DISKS],
		       bool first)
{
	int silent = -1;

	for (unsigned i = 0; i < vm->config->disk_count; i++) {
		struct disk_stats stats;

		if (!shares_device(vm, i, disks, count) || looks[i].alive)
			continue;
		disk_stats_get(vm->back.counts[i], &stats);
		if (first)
			looks[i].answered = answered(&stats);
		looks[i].alive = !stats.under_way || answered(&stats) != looks[i].answered;
		if (!looks[i].alive && silent < 0)
			silent = (int)i;
	}
	return silent;
}

bool quiet_can(struct vm *vm, const unsigned *disks, unsigned count, GError **err)
{
	struct look looks[VM_MAX_DISKS] = { 0 };
	gint64 begin = g_get_monotonic_time();
	int silent = find_silent(vm, disks, count, looks, true);

	if (quiet_refuses(vm, err))
		return false;
	while (silent >= 0 && g_get_monotonic_time() - begin < PATIENT_US) {
		g_usleep(LOOK_US);
		silent = find_silent(vm, disks, count, looks, false);
	}
	return silent < 0 || base_fail(err, EBUSY, "disk '%s': its requests are not answered, so that it cannot stand still",
				       vm->config->disks[silent].path);
}
