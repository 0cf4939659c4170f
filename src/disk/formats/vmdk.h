// SPDX-License-Identifier: Apache-2.0
/*
 * vmdk.h - what the files of the VMDK format share: "Virtual Disk Format 5.0", VMware's technical
 *note of December 2011, of which the sections are cited.
 *
 *	vmdk.c		opening: a descriptor file and its extents, or one extent with its
 *descriptor vmdk_text.c	the descriptor vmdk_sparse.c	an extent of grains, found through a
 *directory of tables vmdk_stream.c	grains that are compressed vmdk_create.c	making an
 *image
 *
 * Numbers are little-endian, places in the file are in sectors.
 */
#pragma once

#include "disk/formats/blocks.h"

#define VMDK_MAGIC	     0x564d444bu /* "KDMV" */
#define VMDK_HEADER	     512u
#define VMDK_FLAG_NEWLINES   (1u << 0)
#define VMDK_FLAG_COPY	     (1u << 1)
#define VMDK_FLAG_ZEROS	     (1u << 2)
#define VMDK_FLAG_COMPRESSED (1u << 16)
#define VMDK_FLAG_MARKERS    (1u << 17)
#define VMDK_AT_END	     UINT64_MAX
#define VMDK_MAX_DESCRIPTOR  (1u << 20)
#define VMDK_MAX_DIRECTORY   (1u << 20) /* tables: 32 TiB of usual ones */
#define VMDK_MAX_EXTENTS     1024u
#define VMDK_MAX_GRAIN	     (64u << 20)
#define VMDK_MARKER	     12u /* in front of a compressed grain: sector, bytes */
#define VMDK_NO_PARENT	     0xffffffffu

/* "Hosted Sparse Extents", SparseExtentHeader */
enum vmdk_field {
	VMDK_AT_MAGIC = 0,
	VMDK_AT_VERSION = 4,
	VMDK_AT_FLAGS = 8,
	VMDK_AT_CAPACITY = 12,
	VMDK_AT_GRAIN = 20,
	VMDK_AT_TEXT = 28,
	VMDK_AT_TEXT_SECTORS = 36,
	VMDK_AT_ENTRIES = 44,
	VMDK_AT_COPY = 48,
	VMDK_AT_DIRECTORY = 56,
	VMDK_AT_OVERHEAD = 64,
	VMDK_AT_NEWLINES = 73,
	VMDK_AT_COMPRESSION = 77,
};

/* ---- vmdk_text.c ---- */
enum vmdk_access { VMDK_RW, VMDK_RDONLY };

struct vmdk_extent_line {
	bool sparse;
	enum vmdk_access access;
	uint64_t sectors, offset; /* of a flat one in its file */
	char *name;
};

struct vmdk_text {
	uint32_t cid, parent_cid;
	long cid_at; /* of its 8 digits in the text; -1: not found */
	char *type, *parent;
	GArray *extents; /* struct vmdk_extent_line */
};

/* False: a sentence without the path in @err. */
bool vmdk_text_parse(const char *text, struct vmdk_text *ret, GError **err);
void vmdk_text_fini(struct vmdk_text *t);

/* ---- vmdk.c: both kinds of node begin with it ---- */
struct vmdk {
	struct blocks b;
	uint64_t text_at; /* of the descriptor in the file; 0 with text_len 0: none */
	uint32_t text_len, cid;
	long cid_at;
	/* ---- vmdk_sparse.c ---- */
	uint32_t version, flags, directory_count;
	uint64_t directory_at, copy_at; /* bytes; copy_at 0: there is none */
	uint32_t *directory, *copy; /* sectors of the tables; copy may be NULL */
	bool directory_dirty;
};

/* Another content id: whoever stands on this image as it was must notice. */
int vmdk_change_cid(struct blocks *b);

/* ---- vmdk_sparse.c ---- */
/* Takes over @file, also when it fails. A stream may be written to only while it is empty. */
struct disk *vmdk_sparse_open_take(struct disk *file, GError **err);

/* ---- vmdk_stream.c ---- */
int vmdk_unpack(struct blocks *b, uint64_t block, uint64_t host);
int vmdk_pack(struct blocks *b, uint64_t block, const uint8_t *bytes, uint64_t *ret_host);
