// SPDX-License-Identifier: Apache-2.0
/*
 * vm.c - the life of a machine: start, wishes, reset, end.
 *
 * Theory of operation. The main thread builds everything, starts the I/O thread and the vCPUs, and
 * waits in GLib's main loop. Whoever wants the machine to reset or to end, in whatever thread,
 * states a wish: the vCPUs are stopped at once and the main thread is woken, which joins them, has the
 * devices come to a standstill (quiet.c), ends the I/O thread, and builds the board again or leaves. So nothing is
 * ever torn down under a running thread, and device callbacks never wait.
 */
#include "vm/vm.h"

#include <errno.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "dev/virtio/virtio.h"
#include "disk/disk.h"
#include "vm/vm_int.h"

static gboolean on_wake(gpointer arg)
{
	struct vm *vm = arg;

	g_main_loop_quit(vm->main);
	return G_SOURCE_REMOVE;
}

void vm_wish(struct vm *vm, enum vm_wish wish, int status)
{
	bool first;

	pthread_mutex_lock(&vm->lock);
	/* A reset may take its time, and then it is too late for the end to come first. */
	first = vm->wish == WISH_NONE || (vm->wish == WISH_RESET && wish == WISH_END);
	if (first) {
		if (wish == WISH_RESET && vm->config->no_reboot)
			wish = WISH_END;
		vm->wish = wish;
		vm->status = status;
	}
	pthread_mutex_unlock(&vm->lock);
	if (!first)
		return;
	quiet_patience(vm);
	atomic_store(&vm->stop, true);
	vcpus_kick(vm);
	pause_wake(vm);
	g_idle_add_full(G_PRIORITY_HIGH, on_wake, vm, NULL);
}

void vm_stop(struct vm *vm, int status)
{
	vm_wish(vm, WISH_END, status);
}

/* Everything that runs beside the main thread. */
static bool threads_start(struct vm *vm, GError **err)
{
	return io_start(vm, err) && vcpus_start(vm, err);
}

static void threads_stop(struct vm *vm)
{
	atomic_store(&vm->stop, true);
	vcpus_kick(vm);
	pause_wake(vm);
	vcpus_join(vm);
	/* Requests under way still need the I/O threads. */
	quiet_stop(vm);
	io_stop(vm);
	pause_forget(vm);
}

/* A descriptor instead of handlers: no system call is interrupted, and GLib needs no thread for it.
 * Before other threads are started, which inherit the mask. -errno when the host refuses. */
static int signals_block(void)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return fd;
}

struct vm *vm_new_on(const struct vm_config *config, const struct engine_ops *ops, GError **err)
{
	struct vm *vm = g_new0(struct vm, 1);

	vm->config = config;
	vm->engine_ops = ops;
	vm->host.ops = &vcpu_host_ops;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->go_on, NULL);
	vm->main = g_main_loop_new(NULL, FALSE);
	vm->signal_fd = signals_block();
	quiet_patience(vm);
	if (!vcpu_pins_check(config, err))
		goto fail;
	if (vm->signal_fd < 0) {
		g_set_error(err, VM_CONFIG_ERROR, 0, "the host gives no event descriptors");
		goto fail;
	}
	if (io_open(vm, err) && backends_open(vm, err) && board_build(vm, err))
		return vm;
fail:
	vm_free(vm);
	return NULL;
}

struct vm *vm_new(const struct vm_config *config, GError **err)
{
	g_autofree char *why = NULL;
	const struct engine_ops *ops = engine_select(config->engine, &why, err);

	if (!ops)
		return NULL;
	/* The choice is worth a line only where there was one. */
	if (!strcmp(config->engine, "auto"))
		fprintf(stderr, "sika: %s\n", why);
	return vm_new_on(config, ops, err);
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	vm_stats_cancel(vm);
	board_free(vm);
	backends_close(&vm->back);
	io_close(vm);
	if (vm->signal_fd >= 0)
		close(vm->signal_fd);
	if (vm->battery)
		g_byte_array_unref(vm->battery);
	g_main_loop_unref(vm->main);
	pthread_cond_destroy(&vm->go_on);
	pthread_mutex_destroy(&vm->lock);
	g_free(vm);
}

static const char *resize_why(int error)
{
	switch (error) {
	case EINVAL:
		return "the size is no multiple of its blocks";
	case ERANGE:
		return "it is larger already, and does not shrink under a guest";
	case EOPNOTSUPP:
		return "an image of its kind has one size";
	default:
		return g_strerror(error);
	}
}

int vm_disk_find(const struct vm *vm, const char *name, GError **err)
{
	const struct vm_config *c = vm->config;
	guint64 n;

	for (unsigned i = 0; i < c->disk_count; i++)
		if (c->disks[i].serial && !strcmp(c->disks[i].serial, name))
			return (int)i;
	if (c->disk_count && g_ascii_string_to_unsigned(name, 10, 0, c->disk_count - 1, &n, NULL))
		return (int)n;
	g_set_error(err, VM_CONFIG_ERROR, 0,
		    "no disk '%s': give a serial or a number, the first --disk being 0", name);
	return -1;
}

bool vm_resize_disk(struct vm *vm, const char *name, uint64_t size_bytes, bool more, GError **err)
{
	int i = vm_disk_find(vm, name, err);
	int r;

	if (i < 0 || !quiet_can(vm, &(unsigned){ (unsigned)i }, 1, err))
		return false;
	/* Nobody else changes it, and this thread has seen the last change. */
	if (more)
		size_bytes += vm->back.disks[i]->size_bytes;
	r = vm->config->disks[i].scsi ?
		    virtio_scsi_resize(vm->board.disks[i], vm->config->disks[i].lun, size_bytes) :
		    virtio_blk_resize(vm->board.disks[i], size_bytes);
	if (r < 0)
		g_set_error(err, VM_CONFIG_ERROR, 0, "disk '%s' (%s): %s", name,
			    vm->config->disks[i].path, resize_why(-r));
	return r == 0;
}

/* Run until a wish; returns it. */
static enum vm_wish run_until_wish(struct vm *vm)
{
	g_autoptr(GError) err = NULL;

	atomic_store(&vm->stop, false);
	if (threads_start(vm, &err)) {
		g_main_loop_run(vm->main);
	} else {
		log_error("%s", err->message);
		vm_wish(vm, WISH_END, VM_STATUS_FAIL);
	}
	threads_stop(vm);
	return vm->wish;
}

/* Before the board goes. */
static void insns_take(struct vm *vm)
{
	for (unsigned i = 0; vm->config->bt.count_insns && i < vm->board.vcpu_count; i++)
		vm->insns[i] += vm->engine_ops->vcpu_insns(vm->board.vcpus[i].ev);
}

static void insns_tell(const struct vm *vm)
{
	for (unsigned i = 0; vm->config->bt.count_insns && i < vm->config->cpus; i++)
		fprintf(stderr, "sika: vcpu %u: %" G_GUINT64_FORMAT " instructions\n", i,
			(guint64)vm->insns[i]);
}

static bool rebuild(struct vm *vm)
{
	g_autoptr(GError) err = NULL;

	log_info("the guest resets");
	vm_stats_cancel(vm);
	insns_take(vm);
	board_keep(vm);
	board_free(vm);
	vm->wish = WISH_NONE;
	quiet_patience(vm);
	if (board_build(vm, &err))
		return true;
	log_error("cannot reset the machine: %s", err->message);
	vm->status = VM_STATUS_FAIL;
	return false;
}

/* As a shell would report it: 128 and the signal's number. */
static gboolean on_signal(int fd, GIOCondition condition, gpointer arg)
{
	struct signalfd_siginfo info;

	if (read(fd, &info, sizeof(info)) != sizeof(info))
		return G_SOURCE_CONTINUE;
	if (info.ssi_signo == SIGHUP)
		log_error("hung up: the terminal is gone");
	vm_stop(arg, 128 + (int)info.ssi_signo);
	return G_SOURCE_CONTINUE;
}

int vm_run(struct vm *vm)
{
	guint source = g_unix_fd_add(vm->signal_fd, G_IO_IN, on_signal, vm);

	while (run_until_wish(vm) == WISH_RESET && rebuild(vm))
		;
	g_source_remove(source);
	insns_take(vm);
	insns_tell(vm);
	while (g_main_context_iteration(NULL, FALSE))
		; /* a wake-up that came after the end */
	return vm->status;
}
