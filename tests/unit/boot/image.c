// SPDX-License-Identifier: Apache-2.0
/* image.c - kernels made of a few bytes, for the loaders' tests. */
#include "image.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"

static GPtrArray *files;

static char *new_file(int *ret_fd)
{
	char *path = NULL;

	*ret_fd = g_file_open_tmp("boot-test-XXXXXX", &path, NULL);
	g_assert(*ret_fd >= 0);
	if (!files)
		files = g_ptr_array_new_with_free_func(g_free);
	g_ptr_array_add(files, path);
	return path;
}

char *image_file(const void *bytes, size_t len)
{
	int fd;
	char *path = new_file(&fd);

	g_assert(len == 0 || write(fd, bytes, len) == (ssize_t)len);
	close(fd);
	return path;
}

char *image_sparse(uint64_t len)
{
	int fd;
	char *path = new_file(&fd);

	g_assert(ftruncate(fd, (off_t)len) == 0);
	close(fd);
	return path;
}

void image_cleanup(void)
{
	for (guint i = 0; files && i < files->len; i++)
		unlink(g_ptr_array_index(files, i));
	g_clear_pointer(&files, g_ptr_array_unref);
}

struct mem *image_mem(uint64_t size)
{
	struct mem_config config = { .size_bytes = size, .node = -1 };
	struct mem *mem = mem_new(&config, NULL);

	g_assert(mem);
	return mem;
}

GByteArray *image_linux(size_t payload, gboolean entry64)
{
	GByteArray *image = g_byte_array_new();
	uint8_t *h;

	g_byte_array_set_size(image, (guint)(1024 + payload));
	h = image->data;
	memset(h, 0, 1024);
	memset(h + 1024, 0x90, payload);
	h[0x1f1] = 1;
	store_le32(h + 0x1f4, (uint32_t)((payload + 15) / 16));
	store_le16(h + 0x1fe, 0xaa55);
	h[0x200] = 0xeb;
	h[0x201] = 0x268 - 0x202;
	memcpy(h + 0x202, "HdrS", 4);
	store_le16(h + 0x206, 0x020c);
	h[0x211] = 1;
	store_le32(h + 0x22c, 0x7fffffff);
	h[0x234] = 1;
	store_le16(h + 0x236, entry64 ? 3 : 0);
	store_le32(h + 0x238, 2047);
	store_le64(h + 0x258, 0x1000000);
	store_le32(h + 0x260, 0x200000);
	return image;
}

static void put_note(uint8_t *p, uint64_t entry)
{
	store_le32(p, 4);
	store_le32(p + 4, 4);
	store_le32(p + 8, 18);
	memcpy(p + 12, "Xen", 4);
	store_le32(p + 16, (uint32_t)entry);
}

static GByteArray *elf64(uint64_t paddr, uint64_t memsz, size_t len, uint64_t pvh_entry)
{
	GByteArray *image = g_byte_array_new();
	Elf64_Ehdr h = { .e_ident = ELFMAG, .e_type = ET_EXEC, .e_machine = EM_X86_64,
			 .e_entry = paddr, .e_phoff = sizeof(h), .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = 2 };
	Elf64_Phdr p[2] = {
		{ .p_type = PT_LOAD, .p_offset = 0x1000, .p_vaddr = paddr, .p_paddr = paddr,
		  .p_filesz = len, .p_memsz = memsz },
		{ .p_type = pvh_entry ? PT_NOTE : PT_NULL, .p_offset = 0x800, .p_filesz = 20,
		  .p_memsz = 20 },
	};

	h.e_ident[EI_CLASS] = ELFCLASS64;
	h.e_ident[EI_DATA] = ELFDATA2LSB;
	g_byte_array_append(image, (uint8_t *)&h, sizeof(h));
	g_byte_array_append(image, (uint8_t *)p, sizeof(p));
	return image;
}

static GByteArray *elf32(uint64_t paddr, uint64_t memsz, size_t len, uint64_t pvh_entry)
{
	GByteArray *image = g_byte_array_new();
	Elf32_Ehdr h = { .e_ident = ELFMAG, .e_type = ET_EXEC, .e_machine = EM_386,
			 .e_entry = (uint32_t)paddr, .e_phoff = sizeof(h),
			 .e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 2 };
	Elf32_Phdr p[2] = {
		{ .p_type = PT_LOAD, .p_offset = 0x1000, .p_vaddr = (uint32_t)paddr,
		  .p_paddr = (uint32_t)paddr, .p_filesz = (uint32_t)len,
		  .p_memsz = (uint32_t)memsz },
		{ .p_type = pvh_entry ? PT_NOTE : PT_NULL, .p_offset = 0x800, .p_filesz = 20,
		  .p_memsz = 20 },
	};

	h.e_ident[EI_CLASS] = ELFCLASS32;
	h.e_ident[EI_DATA] = ELFDATA2LSB;
	g_byte_array_append(image, (uint8_t *)&h, sizeof(h));
	g_byte_array_append(image, (uint8_t *)p, sizeof(p));
	return image;
}

GByteArray *image_elf(unsigned bits, uint64_t paddr, uint64_t memsz, const void *code, size_t len,
		      uint64_t pvh_entry)
{
	GByteArray *image = bits == 64 ? elf64(paddr, memsz, len, pvh_entry)
				       : elf32(paddr, memsz, len, pvh_entry);
	guint head = image->len;

	g_byte_array_set_size(image, (guint)(0x1000 + len));
	memset(image->data + head, 0, 0x1000 - head);
	put_note(image->data + 0x800, pvh_entry);
	memcpy(image->data + 0x1000, code, len);
	return image;
}

gboolean image_boot(GByteArray *image, const char *initrd, const char *cmdline, struct mem *mem,
		    struct x86_state *ret_state, char **ret_message)
{
	struct boot_config config = { .kernel = image_file(image->data, image->len),
				      .initrd = initrd, .cmdline = cmdline, .cpus = 1 };
	g_autoptr(GError) err = NULL;
	gboolean ok;

	memset(ret_state, 0, sizeof(*ret_state));
	ok = boot_load(&config, mem, ret_state, &err);
	g_assert(ok == (err == NULL));
	*ret_message = ok ? NULL : g_strdup(err->message);
	return ok;
}
