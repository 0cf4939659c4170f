// SPDX-License-Identifier: Apache-2.0
/*
 * vm.h - one machine, from its configuration to its exit status.
 *
 * Threading: vm_new(), vm_run() and vm_free() belong to the main thread; vm_stop() may be called
 * from any thread.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct vm;
struct vm_config;

/* Exit statuses of a machine beside what the guest chooses by --debug-exit. */
#define VM_STATUS_OFF  0
#define VM_STATUS_FAIL 1

/* Open what stands behind the devices, build the machine, load the kernel. @config is validated,
 * and borrowed for the life of the machine. NULL: one sentence in @err. */
struct vm *vm_new(const struct vm_config *config, GError **err);
/* Run until the guest or somebody else ends it; returns the exit status. Once. */
int vm_run(struct vm *vm);
/* End the machine with that status, whatever the guest is doing. */
void vm_stop(struct vm *vm, int status);
void vm_free(struct vm *vm);

/* Make the disk of that number or serial so large, or by so much larger, and tell the guest. While vm_run() runs; main thread. False: one
 * sentence in @err. */
bool vm_resize_disk(struct vm *vm, const char *disk, uint64_t size_bytes, bool more, GError **err);

/* A machine whose disk cannot do what its guest has written is paused; try now. While vm_run() runs; main thread.
 * False: one sentence in @err. */
bool vm_retry(struct vm *vm, GError **err);
/* Members of a JSON object: "state", which is "running", "paused", and then "why", "resetting" or "ending". */
void vm_status_append(struct vm *vm, GString *json);
/* What the disks were used for so far, as JSON on one line, or text for a person. While vm_run() runs; main thread. Caller
 * frees. */
char *vm_disk_stats(const struct vm *vm, bool json, bool histogram);

struct vm_export;

struct vm_export_ask {
	const char *const *disks; /* numbers or serials, NULL-terminated, one at least */
	const char *name; /* of the export; NULL: none */
	/* A path, or, where it is NULL, a place for TCP. Of several the n-th has ".n" behind the path, and the n-th
	 * port, from 0 on. */
	const char *socket, *address;
	unsigned port, clients; /* as of struct nbd_offer */
	const char *tls; /* a folder, or NULL */
};

/* Offer the disks by NBD, for reading, as all of them are at one moment, while the guest writes on. Ended before vm_free(), by
 * vm_export_end(). While vm_run() runs; main thread. NULL: one sentence in @err. */
struct vm_export *vm_export(struct vm *vm, const struct vm_export_ask *how, GError **err);
/* Clients are hung up on. NULL is fine. */
void vm_export_end(struct vm_export *e);
/* Where clients find them: a line for each, in order. */
const char *vm_export_uris(const struct vm_export *e);

/* A measurement of the engine, while vm_run() runs. */
struct vm_stats_ask {
	const char *engine; /* whose statistics are wanted */
	unsigned ms;  /* how long */
	unsigned top; /* rows of the lists */
	bool json;    /* an object on one line, else text for a person */
};
/* Called once from the main loop; @text is NULL when the machine was reset or ended before. */
typedef void (*vm_stats_fn)(void *arg, const char *text);
/* One at a time. False: one sentence in @err, and @done is not called. Main thread. */
bool vm_stats(struct vm *vm, const struct vm_stats_ask *ask, vm_stats_fn done, void *arg,
	      GError **err);
/* End the measurement under way, if any, without a result. */
void vm_stats_cancel(struct vm *vm);
