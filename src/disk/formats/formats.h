// SPDX-License-Identifier: Apache-2.0
/*
 * formats.h - the image formats beside raw and qcow2: their names, making and checking them.
 *
 * Calls wait, and no request may be under way.
 */
#pragma once

#include "disk/disk.h"

struct disk_chain;

struct disk_form_create {
	uint64_t size_bytes;
	const char *options; /* "KEY=VALUE,...", as QEMU calls them; NULL: none */
	const char *name; /* of the image as it will be called, for formats that write it down */
	/* The image that it will stand on, of the same format, and its name as it is to be written;
	 * NULL: none. */
	struct disk *parent;
	const char *backing;
	/* For images of several files, as of VMDK: the folder that they are made in, beside the one
	 * that is given; and a list (of char *, each owned) that the paths of those that were made
	 * are added to, also where it fails. NULL: there can be but one file. */
	const char *folder;
	GPtrArray *made;
	struct loop *loop;
	uint64_t block_bytes; /* 0: what others use as well; for tests */
};

struct disk_found {
	uint64_t errors; /* what may lose data */
	uint64_t leaks; /* blocks that nobody uses and that are not free */
	uint64_t used, total; /* blocks of the disk */
	uint64_t end_bytes;
	bool repaired;
	void (*tell)(void *arg, const char *line); /* for the first findings; may be NULL */
	void *arg;
	unsigned told;
};

struct disk_form {
	const char *name; /* as users write it */
	const char *alias; /* QEMU's name where it is another one; NULL: it is the same */
	const char *title; /* as its inventors write it */
	/* Takes over @file, also when it fails. */
	struct disk *(*open_take)(struct disk *file, const struct disk_options *o,
				  struct loop *loop, const struct disk_chain *chain, GError **err);
	/* @file: empty, may be written. An error is one sentence. NULL: can only be read. */
	bool (*create)(struct disk *file, const struct disk_form_create *o, GError **err);
	/* Bytes of a file that holds @data bytes of data in whole blocks; NULL: not told. */
	uint64_t (*measure)(const struct disk_form_create *o, uint64_t data);
	bool stacks; /* an image may stand on another one */
	uint64_t piece; /* bytes that are written at once when an image is made; a power of two */
};

/* By its name or alias; NULL: there is none. */
const struct disk_form *disk_form_find(const char *name);
/* Terminated by a NULL name. */
extern const struct disk_form disk_forms[];
/* Raw and qcow2 are as well. */
bool disk_form_is_known(const char *name);
/* "raw, qcow2, vdi..."; free it. */
char *disk_form_names(void);
/* @path: an empty file. */
bool disk_form_create_file(const struct disk_form *form, const char *path,
			   const struct disk_form_create *o, struct loop *loop, GError **err);
/* What `sika image info` says beside the size, or NULL. */
const char *disk_form_about(const struct disk *disk);
/* Only whole blocks can be written, once and compressed: @piece bytes each. */
bool disk_form_packs(const struct disk *disk);
/* -EOPNOTSUPP: there is nothing to check. */
int disk_form_check(struct disk *disk, bool repair, struct disk_found *ret);
/* One line about what is wrong, unless there were many. */
void disk_found_tell(struct disk_found *found, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* ---- options "KEY=VALUE,..." ---- */
struct disk_form_option {
	const char *key;
	const char *const *words; /* what it may be, NULL-terminated; NULL: a size */
	unsigned *word; /* set to the index of the word */
	uint64_t *size;
};

/* False: a key or value that is not known. */
bool disk_form_options(const char *text, const struct disk_form_option *known, size_t count,
		       GError **err);
