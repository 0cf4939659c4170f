// SPDX-License-Identifier: Apache-2.0
/* backends.c - open and close what stands behind the devices. */
#include <assert.h>

#include "base/log.h"
#include "char/char.h"
#include "disk/cow.h"
#include "disk/disk.h"
#include "disk/filters/hold.h"
#include "disk/filters/moment.h"
#include "disk/filters/stats.h"
#include "disk/filters/throttle.h"
#include "net/net.h"
#include "vm/vm.h"
#include "vm/vm_int.h"

static void on_quit(void *arg)
{
	vm_wish(arg, WISH_END, VM_STATUS_OFF);
}

static void on_hangup(void *arg)
{
	log_error("the terminal is gone");
	vm_wish(arg, WISH_END, VM_STATUS_FAIL);
}

static struct chardev *open_serial(struct vm *vm, GError **err)
{
	const struct vm_config *c = vm->config;
	const struct char_stdio_config stdio = {
		.loop = vm->loop, .quit = on_quit, .hangup = on_hangup, .arg = vm
	};

	switch (c->serial) {
	case VM_SERIAL_STDIO:
		return char_stdio_open(&stdio, err);
	case VM_SERIAL_FILE:
		return char_file_open(c->serial_path, vm->loop, err);
	case VM_SERIAL_UNIX:
		return char_unix_open(c->serial_path, vm->loop, err);
	case VM_SERIAL_NONE:
		break;
	}
	return char_null_open(vm->loop);
}

static struct net *open_net(struct vm *vm, const struct vm_net *n, GError **err)
{
	struct net_forward forwards[VM_MAX_FORWARDS];

	if (n->kind == VM_NET_TAP)
		return net_tap_open(n->tap, vm->loop, err);
	for (unsigned i = 0; i < n->forward_count; i++)
		forwards[i] = (struct net_forward){
			.udp = n->forwards[i].udp,
			.host_addr = n->forwards[i].host_addr,
			.host_port = n->forwards[i].host_port,
			.guest_port = n->forwards[i].guest_port,
		};
	return net_user_open(forwards, n->forward_count, vm->loop, err);
}

static bool no_memory(const struct vm_disk *d, GError **err)
{
	g_set_error(err, VM_CONFIG_ERROR, 0, "disk '%s': no memory", d->path);
	return false;
}

/* What becomes of errors of the disk. */
static bool hold_errors(struct vm *vm, unsigned index, GError **err)
{
	const struct vm_disk *d = &vm->config->disks[index];
	struct disk_hold_options o = { .on_read = DISK_ERROR_REPORT,
				       .on_write = DISK_ERROR_ENOSPC,
				       .changed = pause_disk_changed,
				       .arg = &vm->disk_watches[index] };
	struct disk *disk;

	vm->disk_watches[index] = (struct disk_watch){ vm, index };
	if (d->rerror)
		(void)disk_on_error_parse(d->rerror, &o.on_read); /* the configuration is valid */
	if (d->werror)
		(void)disk_on_error_parse(d->werror, &o.on_write);
	if (d->readonly)
		o.on_write = DISK_ERROR_REPORT;
	if (o.on_read == DISK_ERROR_REPORT && o.on_write == DISK_ERROR_REPORT)
		return true;
	disk = disk_hold_new(vm->back.disks[index], &o);
	if (!disk)
		return no_memory(d, err);
	vm->back.disks[index] = disk;
	return true;
}

/* What its configuration wants on top of it. Takes over @disk. */
static struct disk *add_filters(struct disk *disk, const struct vm_disk *d, struct loop *loop,
				GError **err)
{
	struct throttle_limits limits = { .op_bytes = d->op_bytes };
	struct disk *top = disk;
	bool any = false;

	static_assert((int)VM_RATES == (int)THROTTLE_KINDS &&
			      (int)VM_RATE_OPS_WRITE == (int)THROTTLE_OPS_WRITE,
		      "the same in the same order");
	for (unsigned k = 0; k < VM_RATES; k++) {
		const struct vm_rate *r = &d->rates[k];

		limits.rates[k] = (struct throttle_rate){ r->avg, r->max, r->length_s };
		any |= r->avg > 0;
	}
	if (any && (top = disk_throttle_new(disk, &limits, loop)))
		disk = top;
	if (top && (top = disk_stats_new(disk)))
		return top;
	g_set_error(err, VM_CONFIG_ERROR, 0, "disk '%s': no memory", d->path);
	disk_close(disk);
	return NULL;
}

/* Moments of what is written to can be shown. Takes over @disk. */
static struct disk *add_point(struct vm *vm, unsigned index, struct disk *disk, GError **err)
{
	struct disk *point = disk->readonly ? disk : disk_moment_new(disk);

	if (!point) {
		disk_close(disk);
		(void)no_memory(&vm->config->disks[index], err);
	} else if (point != disk) {
		vm->back.points[index] = point;
	}
	return point;
}

static bool open_disk(struct vm *vm, unsigned index, GError **err)
{
	const struct vm_disk *d = &vm->config->disks[index];
	struct loop *loop = io_loop(vm, d->iothread);
	bool cache_taken = false;
	struct disk_options o = { .format = d->format, .readonly = d->readonly,
				  .allow = (const char *const *)d->allow,
				  .cache_file = d->cache_file, .cache_bytes = d->cache_bytes,
				  .cache_taken = &cache_taken,
				  .reconnect_s = d->reconnect_s,
				  .patience = &vm->patience };
	struct disk *disk;

	if (d->cache)
		(void)disk_cache_parse(d->cache, &o.cache); /* the configuration is valid */
	disk = d->cow ? disk_open_cow(d->path, d->cow_file, &o, loop, err) :
			disk_open_options(d->path, &o, loop, err);
	if (disk && d->cache_file && !cache_taken) {
		disk_close(disk);
		g_set_error(err, VM_CONFIG_ERROR, 0,
			    "disk '%s': cache-file is for what a server has, and nothing of it lies at one", d->path);
		return false;
	}
	if (!disk || !(disk = add_point(vm, index, disk, err)) ||
	    !(disk = add_filters(disk, d, loop, err)))
		return false;
	vm->back.disks[index] = vm->back.counts[index] = disk;
	return hold_errors(vm, index, err);
}

bool backends_open(struct vm *vm, GError **err)
{
	const struct vm_config *c = vm->config;
	struct backends *b = &vm->back;

	for (unsigned i = 0; i < c->disk_count; i++)
		if (!open_disk(vm, i, err))
			return false;
	for (unsigned i = 0; i < c->net_count; i++)
		if (!(b->nets[i] = open_net(vm, &c->nets[i], err)))
			return false;
	/* Last, when nothing of the user's can be wrong any more: from here on the terminal is the
	 * guest's. */
	b->serial = open_serial(vm, err);
	if (!b->serial)
		return false;
	b->console = char_size_open(b->serial, vm->loop);
	if (!b->console)
		g_set_error(err, VM_CONFIG_ERROR, 0, "the host gives no descriptor for a console");
	return b->console != NULL;
}

void backends_close(struct backends *b)
{
	/* The terminal first, so that it is usable again whatever the others take. */
	if (b->serial)
		char_close(b->serial);
	if (b->console)
		char_close(b->console);
	for (unsigned i = 0; i < VM_MAX_NETS; i++)
		if (b->nets[i])
			net_close(b->nets[i]);
	for (unsigned i = 0; i < VM_MAX_DISKS; i++)
		if (b->disks[i])
			disk_close(b->disks[i]);
	*b = (struct backends){ 0 };
}
