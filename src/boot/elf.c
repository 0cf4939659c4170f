// SPDX-License-Identifier: Apache-2.0
/* elf.c - ELF images: program headers checked, segments loaded, the PVH note found. */
#include "boot/boot_int.h"

#include <elf.h>
#include <string.h>

#include "base/bits.h"
#include "base/units.h"

#define ELF_MAX_PHDRS  256u
#define ELF_MAX_NOTES  65536u /* bytes of one note segment that are looked at */
#define XEN_NAME       "Xen"
#define XEN_PHYS32_ENTRY 18u /* Xen, public/elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY */

bool boot_is_elf(const struct boot *boot)
{
	return boot->head_len >= EI_NIDENT && memcmp(boot->head, ELFMAG, SELFMAG) == 0;
}

struct elf_table {
	uint64_t offset;
	unsigned count;
	unsigned entry_size;
};

static bool elf_header(const struct boot *boot, struct boot_elf *ret, struct elf_table *ret_table,
		       GError **err)
{
	const uint8_t *ident = boot->head;
	Elf64_Ehdr h64;
	Elf32_Ehdr h32;
	unsigned machine, type;

	memcpy(&h64, boot->head, sizeof(h64)); /* head is zero behind a short file's end */
	memcpy(&h32, boot->head, sizeof(h32));
	ret->is64 = ident[EI_CLASS] == ELFCLASS64;
	if ((!ret->is64 && ident[EI_CLASS] != ELFCLASS32) || ident[EI_DATA] != ELFDATA2LSB)
		return boot_file_fail(&boot->kernel, err, "is an ELF file, but not for x86");
	machine = h64.e_machine; /* same place in both classes, as is e_type */
	type = h64.e_type;
	if (machine != EM_386 && machine != EM_X86_64)
		return boot_file_fail(&boot->kernel, err,
				      "is an ELF file for another processor (machine %u)", machine);
	if (type != ET_EXEC && type != ET_DYN)
		return boot_file_fail(&boot->kernel, err,
				      "is an ELF file that cannot be executed (type %u)", type);
	ret->entry = ret->is64 ? h64.e_entry : h32.e_entry;
	*ret_table = (struct elf_table){
		.offset = ret->is64 ? h64.e_phoff : h32.e_phoff,
		.count = ret->is64 ? h64.e_phnum : h32.e_phnum,
		.entry_size = ret->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr),
	};
	if ((ret->is64 ? h64.e_phentsize : h32.e_phentsize) != ret_table->entry_size)
		return boot_file_fail(&boot->kernel, err, "has ELF program headers of odd size");
	if (ret_table->count == 0 || ret_table->count > ELF_MAX_PHDRS)
		return boot_file_fail(&boot->kernel, err, "has %u ELF program headers, not 1 to %u",
				      ret_table->count, ELF_MAX_PHDRS);
	return true;
}

/* The table as 64-bit headers, whatever the class; caller frees. */
static Elf64_Phdr *elf_phdrs(const struct boot *boot, bool is64, const struct elf_table *table,
			     GError **err)
{
	size_t bytes = (size_t)table->count * table->entry_size;
	g_autofree uint8_t *raw = g_malloc0(bytes);
	Elf64_Phdr *phdrs;

	if (!boot_file_read(&boot->kernel, table->offset, raw, bytes, err))
		return NULL;
	phdrs = g_new0(Elf64_Phdr, table->count);
	for (unsigned i = 0; i < table->count; i++) {
		Elf32_Phdr p;

		if (is64) {
			memcpy(&phdrs[i], raw + i * sizeof(Elf64_Phdr), sizeof(Elf64_Phdr));
			continue;
		}
		memcpy(&p, raw + i * sizeof(p), sizeof(p));
		phdrs[i] = (Elf64_Phdr){
			.p_type = p.p_type,	.p_flags = p.p_flags,	.p_offset = p.p_offset,
			.p_vaddr = p.p_vaddr,	.p_paddr = p.p_paddr,	.p_filesz = p.p_filesz,
			.p_memsz = p.p_memsz,	.p_align = p.p_align,
		};
	}
	return phdrs;
}

/* Look for the PVH entry among the notes of one segment. */
static void elf_scan_notes(const uint8_t *notes, size_t len, uint64_t align, struct boot_elf *ret)
{
	size_t at = 0;

	while (len - at >= sizeof(Elf32_Nhdr)) {
		uint64_t name_size = load_le32(notes + at);
		uint64_t desc_size = load_le32(notes + at + 4);
		uint32_t type = load_le32(notes + at + 8);
		uint64_t desc = align_up(sizeof(Elf32_Nhdr) + name_size, align);
		uint64_t next = align_up(desc + desc_size, align);

		/* Sums of 32-bit sizes in 64 bits: they cannot wrap. */
		if (desc + desc_size > len - at)
			return;
		if (type == XEN_PHYS32_ENTRY && name_size == sizeof(XEN_NAME) &&
		    memcmp(notes + at + sizeof(Elf32_Nhdr), XEN_NAME, sizeof(XEN_NAME)) == 0 &&
		    (desc_size == 4 || desc_size == 8)) {
			ret->has_pvh = true;
			ret->pvh_entry = desc_size == 4 ? load_le32(notes + at + desc)
							: load_le64(notes + at + desc);
			return;
		}
		if (next > len - at)
			return;
		at += next;
	}
}

static bool elf_find_pvh(const struct boot *boot, const Elf64_Phdr *phdrs, unsigned count,
			 struct boot_elf *ret, GError **err)
{
	for (unsigned i = 0; i < count && !ret->has_pvh; i++) {
		size_t len = MIN(phdrs[i].p_filesz, ELF_MAX_NOTES);
		g_autofree uint8_t *notes = NULL;

		if (phdrs[i].p_type != PT_NOTE || len == 0)
			continue;
		notes = g_malloc(len);
		if (!boot_file_read(&boot->kernel, phdrs[i].p_offset, notes, len, err))
			return false;
		elf_scan_notes(notes, len, phdrs[i].p_align == 8 ? 8 : 4, ret);
	}
	return true;
}

bool boot_elf_parse(struct boot *boot, struct boot_elf *ret, GError **err)
{
	g_autofree Elf64_Phdr *phdrs = NULL;
	struct elf_table table = { 0 };

	*ret = (struct boot_elf){ 0 };
	if (!elf_header(boot, ret, &table, err))
		return false;
	phdrs = elf_phdrs(boot, ret->is64, &table, err);
	return phdrs && elf_find_pvh(boot, phdrs, table.count, ret, err);
}

static bool elf_load_segment(struct boot *boot, const Elf64_Phdr *p, GError **err)
{
	g_autofree char *memory = NULL;
	uint8_t *to;

	if (p->p_filesz > p->p_memsz)
		return boot_file_fail(&boot->kernel, err,
				      "has an ELF segment with more bytes in the file than in memory");
	to = mem_ptr(boot->mem, p->p_paddr, p->p_memsz);
	if (!to) {
		memory = size_format(mem_size(boot->mem));
		return boot_file_fail(&boot->kernel, err,
				      "does not fit: its segment of 0x%" PRIx64
				      " bytes at 0x%" PRIx64 " lies outside %s of memory",
				      p->p_memsz, p->p_paddr, memory);
	}
	if (boot_is_taken(boot, p->p_paddr, p->p_memsz))
		return boot_file_fail(&boot->kernel, err,
				      "wants the memory at 0x%" PRIx64
				      ", where another segment or the machine's tables lie",
				      p->p_paddr);
	if (!boot_file_load(&boot->kernel, boot->mem, p->p_offset, p->p_paddr, p->p_filesz, err))
		return false;
	memset(to + p->p_filesz, 0, p->p_memsz - p->p_filesz);
	mem_written(boot->mem, p->p_paddr + p->p_filesz, p->p_memsz - p->p_filesz);
	boot_take(boot, p->p_paddr, p->p_memsz);
	return true;
}

/* An entry given as a virtual address, as in a vmlinux, is moved to where its segment is loaded. */
static uint64_t elf_physical(const Elf64_Phdr *phdrs, unsigned count, uint64_t vaddr)
{
	for (unsigned i = 0; i < count; i++) {
		const Elf64_Phdr *p = &phdrs[i];

		if (p->p_type == PT_LOAD && vaddr >= p->p_vaddr && vaddr - p->p_vaddr < p->p_memsz)
			return p->p_paddr + (vaddr - p->p_vaddr);
	}
	return vaddr;
}

bool boot_elf_load(struct boot *boot, struct boot_elf *ret, GError **err)
{
	g_autofree Elf64_Phdr *phdrs = NULL;
	struct elf_table table = { 0 };
	bool loaded = false;

	if (!elf_header(boot, ret, &table, err))
		return false;
	phdrs = elf_phdrs(boot, ret->is64, &table, err);
	if (!phdrs)
		return false;
	for (unsigned i = 0; i < table.count; i++) {
		if (phdrs[i].p_type != PT_LOAD || phdrs[i].p_memsz == 0)
			continue;
		if (!elf_load_segment(boot, &phdrs[i], err))
			return false;
		ret->end = MAX(ret->end, phdrs[i].p_paddr + phdrs[i].p_memsz);
		loaded = true;
	}
	if (!loaded)
		return boot_file_fail(&boot->kernel, err, "has no ELF segment to load");
	ret->entry = elf_physical(phdrs, table.count, ret->entry);
	return true;
}
