// SPDX-License-Identifier: Apache-2.0
/* abi_stats.c - counters of machines and vCPUs as files: KVM_GET_STATS_FD. */
#include "abi.h"

#include <stdlib.h>
#include <unistd.h>

#define BYTES_MAX 65536

/* A whole file of counters, as it was read. */
struct counters {
	uint8_t bytes[BYTES_MAX];
	size_t len;
};

static void look(int fd, struct counters *ret)
{
	ssize_t n = pread(fd, ret->bytes, sizeof(ret->bytes), 0);

	ck_assert_int_gt(n, (ssize_t)sizeof(struct kvm_stats_header));
	ck_assert_int_lt(n, BYTES_MAX);
	ret->len = (size_t)n;
}

static const struct kvm_stats_header *head_of(const struct counters *c)
{
	return (const void *)c->bytes;
}

static const struct kvm_stats_desc *row_of(const struct counters *c, unsigned i)
{
	const struct kvm_stats_header *h = head_of(c);
	size_t each = sizeof(struct kvm_stats_desc) + h->name_size;

	return (const void *)(c->bytes + h->desc_offset + i * each);
}

/* Everything that is said of the file is in the file. */
static void is_whole(const struct counters *c, const char *id)
{
	const struct kvm_stats_header *h = head_of(c);
	size_t each = sizeof(struct kvm_stats_desc) + h->name_size, end = 0;

	ck_assert_uint_eq(h->flags, 0);
	ck_assert_uint_le(h->id_offset + h->name_size, c->len);
	ck_assert_uint_le(h->desc_offset + h->num_desc * each, c->len);
	ck_assert_ptr_ne(memchr(c->bytes + h->id_offset, 0, h->name_size), NULL);
	ck_assert_ptr_ne(strstr((const char *)c->bytes + h->id_offset, id), NULL);
	for (unsigned i = 0; i < h->num_desc; i++) {
		const struct kvm_stats_desc *row = row_of(c, i);
		const char *name = (const char *)(row + 1);

		ck_assert_ptr_ne(memchr(name, 0, h->name_size), NULL);
		ck_assert_uint_ge(row->size, 1);
		ck_assert_uint_eq(row->offset % 8, 0);
		ck_assert_uint_le(row->flags & KVM_STATS_TYPE_MASK, KVM_STATS_TYPE_MAX);
		ck_assert_uint_le(row->flags & KVM_STATS_UNIT_MASK, KVM_STATS_UNIT_BOOLEAN);
		for (unsigned j = 0; j < i; j++)
			ck_assert_str_ne(name, (const char *)(row_of(c, j) + 1));
		if (row->offset + row->size * 8u > end)
			end = row->offset + row->size * 8u;
	}
	ck_assert_uint_eq(h->data_offset + end, c->len);
}

static int64_t count_of(const struct counters *c, const char *name)
{
	const struct kvm_stats_header *h = head_of(c);
	uint64_t value;

	for (unsigned i = 0; i < h->num_desc; i++) {
		const struct kvm_stats_desc *row = row_of(c, i);

		if (strcmp((const char *)(row + 1), name) != 0)
			continue;
		memcpy(&value, c->bytes + h->data_offset + row->offset, 8);
		return (int64_t)value;
	}
	ck_abort_msg("no counter %s", name);
	return -1;
}

int64_t machine_counter(const char *name)
{
	struct counters now;
	int fd = ioctl(vm, KVM_GET_STATS_FD, NULL);

	ck_assert_int_ge(fd, 0);
	look(fd, &now);
	close(fd);
	return count_of(&now, name);
}

START_TEST(counters_are_a_file)
{
	static const uint8_t code[] = {
		0xb0, 0x01, 0xe6, PORT,	    /* mov al, 1; out PORT, al */
		0xe6, PORT, 0xe6, PORT,
		0xc6, 0x06, 0x00, 0x00, 9,  /* mov byte [0], 9: there is no slot */
		0xb0, 0x02, 0xe6, PORT,
	};
	struct counters *before, *after;
	int of_vm, of_vcpu, again;
	uint8_t part[64];

	machine();
	if (has(KVM_CAP_BINARY_STATS_FD) <= 0)
		return;
	start(code, sizeof(code), 0x400000);
	before = calloc(2, sizeof(*before));
	after = before + 1;
	of_vm = ioctl(vm, KVM_GET_STATS_FD, NULL);
	ck_assert_int_ge(of_vm, 0);
	of_vcpu = ioctl(vcpu, KVM_GET_STATS_FD, NULL);
	ck_assert_int_ge(of_vcpu, 0);
	again = ioctl(vcpu, KVM_GET_STATS_FD, NULL);
	ck_assert_int_ge(again, 0);
	look(of_vm, before);
	is_whole(before, "kvm-");
	(void)count_of(before, "remote_tlb_flush");
	look(of_vcpu, before);
	is_whole(before, "/vcpu-0");
	ck_assert_int_eq(count_of(before, "exits"), 0);
	for (int i = 0; i < 3; i++)
		run_to_port(1);
	run_to(KVM_EXIT_MMIO);
	run_to_port(2);
	look(of_vcpu, after);
	is_whole(after, "/vcpu-0");
	/* A host without hardware for it, or for such a segment in real mode, interprets them. */
	if (count_of(after, "io_exits")) {
		ck_assert_int_ge(count_of(after, "exits"), 5);
		ck_assert_int_eq(count_of(after, "io_exits"), 4);
	} else {
		ck_assert_int_ge(count_of(after, "insn_emulation"), 5);
	}
	ck_assert_int_ge(count_of(after, "mmio_exits"), 1);
	ck_assert_int_eq(count_of(after, "halt_exits"), 0);
	/* Whichever way it is read it is the same, and nothing is behind its end. */
	ck_assert_int_eq(pread(again, part, sizeof(part), 20), sizeof(part));
	ck_assert_mem_eq(part, after->bytes + 20, sizeof(part));
	ck_assert_int_eq(read(again, part, 24), 24);
	ck_assert_mem_eq(part, after->bytes, 24);
	ck_assert_int_eq(read(again, part, 40), 40);
	ck_assert_mem_eq(part, after->bytes + 24, 40);
	ck_assert_int_eq(pread(again, part, sizeof(part), (off_t)after->len), 0);
	ck_assert_int_eq(pread(again, part, sizeof(part), (off_t)after->len + 4096), 0);
	ck_assert_int_eq(write(again, part, 1), -1);
	free(before);
}
END_TEST

/* A monitor that dies leaves them open in who watches it. */
START_TEST(counters_outlive_the_machine)
{
	static const uint8_t code[] = { 0xb0, 0x01, 0xe6, PORT };
	struct counters *c;
	int fd;

	machine();
	if (has(KVM_CAP_BINARY_STATS_FD) <= 0)
		return;
	start(code, sizeof(code), 0);
	fd = ioctl(vcpu, KVM_GET_STATS_FD, NULL);
	ck_assert_int_ge(fd, 0);
	run_to_port(1);
	/* Kernels of Linux before 6.5 free a machine below its counters: only what is ours is asked further. */
	if (has(KVM_CAP_NR_MEMSLOTS) > 1000) {
		close(fd);
		return;
	}
	ck_assert_int_eq(munmap(run, (size_t)ioctl(dev, KVM_GET_VCPU_MMAP_SIZE, 0)), 0);
	close(vcpu);
	close(vm);
	c = calloc(1, sizeof(*c));
	look(fd, c);
	ck_assert_int_ge(count_of(c, "exits"), 1);
	free(c);
	close(fd);
}
END_TEST

TCase *stats_tests(void)
{
	TCase *tests = tcase_create("stats");

	tcase_add_test(tests, counters_are_a_file);
	tcase_add_test(tests, counters_outlive_the_machine);
	tcase_set_timeout(tests, 60);
	return tests;
}
