// SPDX-License-Identifier: Apache-2.0
/* bt_cache.c - tests of the code cache that vCPUs share: 64-bit programs on several of them at once. */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/units.h"
#include "engine/bt/bt.h"
#include "engine/bt/bt_int.h"
#include "x86/state.h"

#define PML4	  0x1000u
#define CODE	  0x10000u
#define STACK	  0x40000u
#define RING	  0x100000u
#define PORT_STOP 0x11u

#define VCPUS	    4u
#define BLOCKS	    1500u
#define BLOCK_BYTES 32u
#define ROUNDS	    40u

struct fixture {
	struct engine_host host;
	struct mem *mem;
	struct engine *engine;
	struct engine_vcpu *vcpu[VCPUS];
	_Atomic uint32_t value[VCPUS];
	_Atomic bool stopped[VCPUS];
};

static uint64_t fake_read(struct engine_host *host, unsigned vcpu, uint16_t port, unsigned size)
{
	return 0;
}

static void fake_write(struct engine_host *host, unsigned vcpu, uint16_t port, unsigned size,
		       uint64_t value)
{
	struct fixture *f = container_of(host, struct fixture, host);

	atomic_store(&f->value[vcpu], (uint32_t)value);
	atomic_store(&f->stopped[vcpu], true);
	engine_bt.vcpu_kick(f->vcpu[vcpu]);
}

static int fake_ack(struct engine_host *host, unsigned vcpu)
{
	return -1;
}

static const struct engine_host_ops fake_ops = {
	.pio_read = fake_read,
	.pio_write = fake_write,
	.apic_pending = fake_ack,
	.apic_ack = fake_ack,
};

static void put(struct fixture *f, gpa_t gpa, const void *bytes, size_t len)
{
	ck_assert_int_eq(mem_write(f->mem, gpa, bytes, len), 0);
}

/* 16 MiB where they are, in large pages. */
static void build_tables(struct fixture *f)
{
	uint64_t entry = (PML4 + 0x1000) | 3;

	put(f, PML4, &entry, 8);
	entry = (PML4 + 0x2000) | 3;
	put(f, PML4 + 0x1000, &entry, 8);
	for (uint64_t i = 0; i < 8; i++) {
		entry = i << 21 | 0x83;
		put(f, PML4 + 0x2000 + i * 8, &entry, 8);
	}
}

static void fixture_init(struct fixture *f, uint32_t cache_bytes)
{
	const struct mem_config mem = { .size_bytes = 16 * MIB, .node = -1 };
	struct engine_config config;

	memset(f, 0, sizeof(*f));
	f->host.ops = &fake_ops;
	f->mem = mem_new(&mem, NULL);
	ck_assert_ptr_nonnull(f->mem);
	config = (struct engine_config){
		.mem = f->mem, .host = &f->host, .vcpus = VCPUS, .cache_bytes = cache_bytes,
	};
	f->engine = engine_bt.open(&config, NULL);
	ck_assert_ptr_nonnull(f->engine);
	build_tables(f);
	for (unsigned i = 0; i < VCPUS; i++) {
		f->vcpu[i] = engine_bt.vcpu_new(f->engine, i, NULL);
		ck_assert_ptr_nonnull(f->vcpu[i]);
	}
}

static void fixture_fini(struct fixture *f)
{
	for (unsigned i = 0; i < VCPUS; i++)
		engine_bt.vcpu_free(f->vcpu[i]);
	engine_bt.close(f->engine);
	mem_free(f->mem);
}

static void start_at(struct fixture *f, unsigned vcpu, uint64_t rip)
{
	struct x86_state s;

	engine_bt.vcpu_get_state(f->vcpu[vcpu], &s);
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		s.seg[i] = (struct x86_segment){ .limit = ~0u, .selector = 16, .attr = 0xc93 };
	s.seg[X86_CS] = (struct x86_segment){ .limit = ~0u, .selector = 8, .attr = 0xa9b };
	s.cr0 |= X86_CR0_PE | X86_CR0_PG;
	s.cr4 |= X86_CR4_PAE;
	s.cr3 = PML4;
	s.efer = X86_EFER_LME | X86_EFER_LMA;
	s.rip = rip;
	s.gpr[X86_RSP] = STACK - vcpu * 4096;
	s.activity = X86_RUNNING;
	ck_assert_int_eq(engine_bt.vcpu_set_state(f->vcpu[vcpu], &s), 0);
}

static void *run_thread(void *vcpu)
{
	(void)engine_bt.vcpu_run(vcpu);
	return NULL;
}

static struct bt_vcpu *inside(struct fixture *f, unsigned vcpu)
{
	return (struct bt_vcpu *)f->vcpu[vcpu];
}

/* What the first has translated the second one runs. */
START_TEST(vcpus_share_one_translation)
{
	/* mov ecx, 10000; 1: inc ebx; dec ecx; jnz 1b; mov eax, ebx; out PORT_STOP, eax; jmp . */
	static const uint8_t code[] = { 0xb9, 0x10, 0x27, 0, 0, 0xff, 0xc3, 0xff, 0xc9, 0x75, 0xfa,
					0x89, 0xd8, 0xe7, PORT_STOP, 0xeb, 0xfe };
	struct fixture f;

	fixture_init(&f, 0);
	put(&f, CODE, code, sizeof(code));
	for (unsigned i = 0; i < 2; i++) {
		start_at(&f, i, CODE);
		ck_assert_int_eq(engine_bt.vcpu_run(f.vcpu[i]), ENGINE_EXIT_KICK);
		ck_assert_uint_eq(f.value[i], 10000);
	}
	ck_assert_uint_gt(inside(&f, 0)->stats.hash_misses, 0);
	ck_assert_uint_eq(inside(&f, 1)->stats.hash_misses, 0);
	if (inside(&f, 0)->jit.on) {
		ck_assert_uint_gt(inside(&f, 0)->jit.translated, 0);
		ck_assert_uint_eq(inside(&f, 1)->jit.translated, 0);
		ck_assert_uint_gt(inside(&f, 1)->stats.entries, 0);
		/* From the first block on. */
		ck_assert_uint_le(inside(&f, 1)->stats.interpreted, 4);
	}
	fixture_fini(&f);
}
END_TEST

/* A ring of blocks in an order that goes through all pages, near and far, by jumps, calls and returns. Each
 * adds its number to EBX. */
static void build_ring(struct fixture *f)
{
	static const uint8_t start[] = { 0xb9, ROUNDS, 0, 0, 0, 0x31, 0xdb, 0xe9 };
	static const uint8_t out[] = { 0x89, 0xd8, 0xe7, PORT_STOP, 0xeb, 0xfe };
	uint8_t b[BLOCK_BYTES], head[12];

	for (uint32_t i = 0; i < BLOCKS; i++) {
		uint32_t at = i * 7 % BLOCKS * BLOCK_BYTES, next = (i + 1) * 7 % BLOCKS * BLOCK_BYTES;
		uint32_t len = 0;

		memset(b, 0x90, sizeof(b));
		memcpy(b, "\x81\xc3", 2); /* add ebx, i */
		store_le32(b + 2, i);
		len = 6;
		if (i + 1 == BLOCKS) { /* dec ecx; jnz next; out */
			memcpy(b + len, "\xff\xc9\x0f\x85", 4);
			store_le32(b + len + 4, next - (at + len + 8));
			memcpy(b + len + 8, out, sizeof(out));
		} else if (i % 5 == 3) { /* call 1f; jmp next; 1: ret */
			memcpy(b + len, "\xe8\x05\0\0\0\xe9", 6);
			store_le32(b + len + 6, next - (at + len + 10));
			b[len + 10] = 0xc3;
		} else { /* test bl, 1; jz next; jmp next */
			memcpy(b + len, "\xf6\xc3\x01\x0f\x84", 5);
			store_le32(b + len + 5, next - (at + len + 9));
			b[len + 9] = 0xe9;
			store_le32(b + len + 10, next - (at + len + 14));
		}
		put(f, RING + at, b, sizeof(b));
	}
	memcpy(head, start, sizeof(start));
	store_le32(head + sizeof(start), RING - (CODE + 12));
	put(f, CODE, head, sizeof(head));
}

/* Stores what is there, so that blocks are compared and trusted again all the time. */
static void *disturb(void *arg)
{
	struct fixture *f = arg;
	uint32_t n = 1;
	uint8_t b[8];

	for (unsigned i = 0; i < VCPUS; i++) {
		while (!atomic_load(&f->stopped[i])) {
			gpa_t gpa;

			n = n * 1664525 + 1013904223;
			gpa = RING + (n >> 8) % (BLOCKS * BLOCK_BYTES - 8);
			(void)mem_read(f->mem, gpa, b, sizeof(b));
			(void)mem_write(f->mem, gpa, b, sizeof(b));
			usleep(100 + (n >> 28) * 100);
		}
	}
	return NULL;
}

static void run_ring(uint32_t cache_bytes, bool disturbed)
{
	pthread_t t[VCPUS], other;
	struct fixture f;

	fixture_init(&f, cache_bytes);
	build_ring(&f);
	for (unsigned i = 0; i < VCPUS; i++)
		start_at(&f, i, CODE);
	if (disturbed)
		pthread_create(&other, NULL, disturb, &f);
	for (unsigned i = 0; i < VCPUS; i++)
		pthread_create(&t[i], NULL, run_thread, f.vcpu[i]);
	for (unsigned i = 0; i < VCPUS; i++) {
		pthread_join(t[i], NULL);
		ck_assert_uint_eq(f.value[i], ROUNDS * (BLOCKS * (BLOCKS - 1) / 2));
	}
	if (disturbed)
		pthread_join(other, NULL);
	if (cache_bytes)
		ck_assert_uint_gt(bt_engine_of(inside(&f, 0))->cache->evictions, 20);
	else
		ck_assert_uint_eq(bt_engine_of(inside(&f, 0))->cache->evictions, 0);
	fixture_fini(&f);
}

START_TEST(blocks_are_evicted_while_others_run_them)
{
	run_ring(64 << 10, false);
	run_ring(64 << 10, true);
	run_ring(256 << 10, true);
}
END_TEST

START_TEST(blocks_are_closed_and_opened_while_others_run_them)
{
	run_ring(0, true);
	run_ring(0, true);
}
END_TEST

/* One changes an instruction, all others must come to execute what it is then, and say so. */
START_TEST(each_vcpu_comes_to_run_what_one_has_written)
{
	/* 1: inc eax; mov [CODE + 0x2000 + 1], eax
	 * 2: cmp [DATA + 64], eax; jne 2b; 3: cmp [DATA + 128], eax; jne 3b; 4: cmp [DATA + 192], eax;
	 * jne 4b; cmp eax, 200; jb 1b; out PORT_STOP, eax; jmp . DATA is 0x50000. */
	static const uint8_t writer[] = {
		0xff, 0xc0, 0x89, 0x04, 0x25, 0x01, 0x20, 0x01, 0x00, 0x39, 0x04, 0x25, 0x40, 0x00, 0x05,
		0x00, 0x75, 0xf7, 0x39, 0x04, 0x25, 0x80, 0x00, 0x05, 0x00, 0x75, 0xf7, 0x39, 0x04, 0x25,
		0xc0, 0x00, 0x05, 0x00, 0x75, 0xf7, 0x3d, 0xc8, 0x00, 0x00, 0x00, 0x72, 0xd5, 0xe7,
		PORT_STOP, 0xeb, 0xfe,
	};
	/* 1: mov eax, 0; mov [rsi], eax; test ecx, ecx; jz 1b; jmp 1b */
	static const uint8_t reader[] = { 0xb8, 0, 0, 0, 0, 0x89, 0x06, 0x85, 0xc9, 0x74, 0xf5, 0xeb,
					  0xf3 };
	struct fixture f;
	pthread_t t[VCPUS];

	fixture_init(&f, 0);
	put(&f, CODE, writer, sizeof(writer));
	put(&f, CODE + 0x2000, reader, sizeof(reader));
	for (unsigned i = 0; i < VCPUS; i++) {
		start_at(&f, i, i ? CODE + 0x2000 : CODE);
		inside(&f, i)->cpu.s.gpr[X86_RAX] = 0;
		inside(&f, i)->cpu.s.gpr[X86_RSI] = 0x50000 + i * 64;
	}
	for (unsigned i = 0; i < VCPUS; i++)
		pthread_create(&t[i], NULL, run_thread, f.vcpu[i]);
	pthread_join(t[0], NULL);
	for (unsigned i = 1; i < VCPUS; i++) {
		engine_bt.vcpu_kick(f.vcpu[i]);
		pthread_join(t[i], NULL);
	}
	ck_assert_uint_eq(f.value[0], 200);
	fixture_fini(&f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine bt cache");
	TCase *t = tcase_create("shared");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 400);
	tcase_add_test(t, vcpus_share_one_translation);
	tcase_add_test(t, blocks_are_evicted_while_others_run_them);
	tcase_add_test(t, blocks_are_closed_and_opened_while_others_run_them);
	tcase_add_test(t, each_vcpu_comes_to_run_what_one_has_written);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
