// SPDX-License-Identifier: Apache-2.0
/* boot_int.h - what the loaders share: the image file, the map of taken memory, entry states. */
#pragma once

#include <inttypes.h>

#include "boot/boot.h"
#include "boot/layout.h"
#include "x86/state.h"

/* The kernels' memory map: the same type numbers in E820, PVH and multiboot. */
#define BOOT_RAM      1u
#define BOOT_RESERVED 2u

#define BOOT_MAP_MAX 16u

struct boot_region {
	uint64_t base;
	uint64_t size;
	uint32_t type;
};

/* A regular file, opened, its size known. */
struct boot_file {
	const char *what; /* "kernel" or "initrd", first word of each message */
	const char *path;
	int fd;
	uint64_t size;
};

struct boot_range {
	gpa_t start, end;
};

/* Recognition looks at no more than this: multiboot's header lies in the first 8 KiB. */
#define BOOT_HEAD_BYTES 8192u

/* One boot_load() call. */
struct boot {
	const struct boot_config *config;
	struct mem *mem;
	struct x86_state *bsp;
	const char *cmdline; /* never NULL */
	struct boot_file kernel;
	uint8_t head[BOOT_HEAD_BYTES]; /* zero behind the end of a short file */
	size_t head_len;
	GArray *taken; /* struct boot_range: kernel, tables, blocks handed out */
	gpa_t rsdp;
	gpa_t low_end; /* end of RAM below the hole */
};

/* ---- file.c ---- */
bool boot_file_open(struct boot_file *file, const char *what, const char *path, GError **err);
void boot_file_close(struct boot_file *file);
/* File bytes straight into guest RAM; the range must lie in one slot. */
bool boot_file_load(const struct boot_file *file, struct mem *mem, uint64_t offset, gpa_t gpa,
		    uint64_t len, GError **err);
bool boot_file_read(const struct boot_file *file, uint64_t offset, void *buf, size_t len,
		    GError **err);
/* "kernel '/x': " and what is wrong with it. Returns false, for `return boot_file_fail(...)`. */
bool boot_file_fail(const struct boot_file *file, GError **err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- place.c ---- */
unsigned boot_memory_map(const struct mem *mem, struct boot_region map[BOOT_MAP_MAX]);
void boot_take(struct boot *boot, gpa_t start, uint64_t size);
bool boot_is_taken(const struct boot *boot, gpa_t start, uint64_t size);
/* Take @size bytes of RAM, lowest free place, in the first MiB where possible. 0: no room. */
gpa_t boot_take_low(struct boot *boot, uint64_t size);
/* Take @size bytes, highest page-aligned place below @limit and above 1 MiB. 0: no room. */
gpa_t boot_take_high(struct boot *boot, uint64_t size, gpa_t limit);
/* Place bytes with boot_take_low() and copy them. 0 with @err set: no room. */
gpa_t boot_put(struct boot *boot, const void *bytes, uint64_t size, GError **err);
/* Load config->initrd below @limit. Both results are 0 without one. */
bool boot_put_initrd(struct boot *boot, gpa_t limit, gpa_t *ret_gpa, uint64_t *ret_size,
		     GError **err);
/* The command line, refused when longer than @max_bytes with its final zero. */
bool boot_put_cmdline(struct boot *boot, uint64_t max_bytes, gpa_t *ret_gpa, GError **err);

/* ---- entry.c ---- */
/* Selectors of the GDT that both entries load: Linux's __BOOT_CS and __BOOT_DS. */
#define BOOT_SEL_CODE 0x10u
#define BOOT_SEL_DATA 0x18u
#define BOOT_SEL_TSS  0x20u
/* Flat 32-bit protected mode, paging off. */
bool boot_enter_flat32(struct boot *boot, uint32_t entry, GError **err);
/* 64-bit mode, the first 4 GiB mapped one to one. */
bool boot_enter_flat64(struct boot *boot, uint64_t entry, GError **err);

/* ---- elf.c ---- */
struct boot_elf {
	bool is64;
	uint64_t entry; /* physical */
	gpa_t end;	/* of the highest byte loaded */
	bool has_pvh;
	uint64_t pvh_entry;
};
bool boot_is_elf(const struct boot *boot);
/* Header, program headers and notes, without loading. */
bool boot_elf_parse(struct boot *boot, struct boot_elf *ret, GError **err);
bool boot_elf_load(struct boot *boot, struct boot_elf *ret, GError **err);

/* ---- the loaders ---- */
bool boot_is_linux(const struct boot *boot);
bool boot_load_linux(struct boot *boot, GError **err);
bool boot_load_pvh(struct boot *boot, const struct boot_elf *elf, GError **err);
/* Offset of the multiboot header in head, or -1. */
int boot_find_multiboot(const struct boot *boot);
bool boot_load_multiboot(struct boot *boot, unsigned header, GError **err);
