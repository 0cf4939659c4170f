// SPDX-License-Identifier: Apache-2.0
/* image.h - kernels made of a few bytes, for the loaders' tests. */
#pragma once

#include <glib.h>
#include <stdint.h>

#include "boot/boot.h"
#include "x86/state.h"

/* A file below the test's own temporary directory, removed by image_cleanup(). */
char *image_file(const void *bytes, size_t len);
/* A sparse file of @len bytes. */
char *image_sparse(uint64_t len);
void image_cleanup(void);

struct mem *image_mem(uint64_t size);

/* The smallest bzImage: protocol 2.12, one setup sector, @payload bytes of 0x90; 64-bit entry when
 * @entry64. Caller frees the array. */
GByteArray *image_linux(size_t payload, gboolean entry64);

/* ELF of @bits 32 or 64 with one segment of @memsz bytes at @paddr, whose file bytes are the
 * @len of @code. @pvh_entry 0: no note. */
GByteArray *image_elf(unsigned bits, uint64_t paddr, uint64_t memsz, const void *code, size_t len,
		      uint64_t pvh_entry);

/* boot_load() of these bytes with nothing but memory; message in @ret_message when it fails. */
gboolean image_boot(GByteArray *image, const char *initrd, const char *cmdline, struct mem *mem,
		    struct x86_state *ret_state, char **ret_message);
