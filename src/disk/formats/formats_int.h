// SPDX-License-Identifier: Apache-2.0
/* formats_int.h - what each format gives to the table in formats.c. */
#pragma once

#include "disk/disk_int.h"
#include "disk/formats/formats.h"

/* A random one, in the bytes of Microsoft's order (RFC 4122 section 4.4). */
void disk_form_guid(uint8_t ret[16]);

/* Where an image says in UTF-16 that its parent lies, as a name for here: with slashes, and beside the
 * image where it tells a drive. NULL: nowhere. */
char *disk_form_parent_name(const uint8_t *utf16, size_t bytes, bool big);
/* The other way round, without an end. Bytes written; 0: no UTF-8, or no room. */
size_t disk_form_put_name(const char *name, bool big, uint8_t *to, size_t room);

#define DISK_CLOOP_MARK "#!/bin/sh\n#V2.0 Format\nmodprobe cloop"

struct disk *parallels_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
				 const struct disk_chain *chain, GError **err);
struct disk *dmg_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			   const struct disk_chain *chain, GError **err);
struct disk *cloop_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			     const struct disk_chain *chain, GError **err);

struct disk *vdi_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			   const struct disk_chain *chain, GError **err);
bool vdi_create(struct disk *file, const struct disk_form_create *o, GError **err);
uint64_t vdi_measure(const struct disk_form_create *o, uint64_t data);

struct disk *vhd_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			   const struct disk_chain *chain, GError **err);
bool vhd_create(struct disk *file, const struct disk_form_create *o, GError **err);
uint64_t vhd_measure(const struct disk_form_create *o, uint64_t data);

struct disk *vmdk_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			    const struct disk_chain *chain, GError **err);
bool vmdk_create(struct disk *file, const struct disk_form_create *o, GError **err);
uint64_t vmdk_measure(const struct disk_form_create *o, uint64_t data);

struct disk *vhdx_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			    const struct disk_chain *chain, GError **err);
bool vhdx_create(struct disk *file, const struct disk_form_create *o, GError **err);
uint64_t vhdx_measure(const struct disk_form_create *o, uint64_t data);
