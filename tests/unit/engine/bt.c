// SPDX-License-Identifier: Apache-2.0
/* bt.c - tests of the bt engine: flat programs in RAM, a host that plays ports and a local APIC. */
#include "engine/bt/bt.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/units.h"
#include "x86/state.h"
#include "x86/x86.h"

#define CODE	   0x10000u
#define STACK	   0x20000u
#define IDT	   0x30000u
#define GDT	   0x31000u
#define DATA	   0x40000u
#define PORT_VALUE 0x10u /* noted */
#define PORT_STOP  0x11u /* noted, and the vCPU is kicked */

struct fixture {
	struct engine_host host;
	struct mem *mem;
	struct engine *engine;
	struct engine_vcpu *vcpu[4];
	_Atomic uint32_t value[4];
	_Atomic unsigned values[4]; /* how many */
	_Atomic uint32_t stopped[4];
	_Atomic int vector[4]; /* pending, or -1 */
	_Atomic unsigned mmio_writes;
	bool deterministic;
	uint64_t due; /* of a timer, by the machine's clock */
};

static struct fixture *fixture_of(struct engine_host *host)
{
	return container_of(host, struct fixture, host);
}

static uint64_t fake_pio_read(struct engine_host *host, unsigned vcpu, uint16_t port, unsigned size)
{
	return 0x42;
}

static void fake_pio_write(struct engine_host *host, unsigned vcpu, uint16_t port, unsigned size,
			   uint64_t value)
{
	struct fixture *f = fixture_of(host);

	atomic_store(&f->value[vcpu], (uint32_t)value);
	atomic_fetch_add(&f->values[vcpu], 1);
	if (port == PORT_STOP) {
		atomic_store(&f->stopped[vcpu], 1);
		engine_bt.vcpu_kick(f->vcpu[vcpu]);
	}
}

static uint64_t fake_mmio_read(struct engine_host *host, unsigned vcpu, gpa_t gpa, unsigned size)
{
	return gpa;
}

static void fake_mmio_write(struct engine_host *host, unsigned vcpu, gpa_t gpa, unsigned size,
			    uint64_t value)
{
	atomic_fetch_add(&fixture_of(host)->mmio_writes, 1);
}

static int fake_pending(struct engine_host *host, unsigned vcpu)
{
	return atomic_load(&fixture_of(host)->vector[vcpu]);
}

static int fake_ack(struct engine_host *host, unsigned vcpu)
{
	return atomic_exchange(&fixture_of(host)->vector[vcpu], -1);
}

static uint8_t fake_get_cr8(struct engine_host *host, unsigned vcpu)
{
	return 0;
}

static void fake_set_cr8(struct engine_host *host, unsigned vcpu, uint8_t cr8)
{
}

static bool fake_read_msr(struct engine_host *host, unsigned vcpu, uint32_t msr, uint64_t *value)
{
	*value = 0;
	return true;
}

static bool fake_write_msr(struct engine_host *host, unsigned vcpu, uint32_t msr, uint64_t value)
{
	return true;
}

/* It fires once. */
static uint64_t fake_time_to(struct engine_host *host, uint64_t ns, bool fire)
{
	struct fixture *f = fixture_of(host);

	if (fire && ns >= f->due) {
		f->due = UINT64_MAX;
		atomic_store(&f->vector[0], 0x30);
		engine_bt.vcpu_irq(f->vcpu[0]);
	}
	return f->due;
}

static const struct engine_host_ops fake_ops = {
	.time_to = fake_time_to,
	.pio_read = fake_pio_read,
	.pio_write = fake_pio_write,
	.mmio_read = fake_mmio_read,
	.mmio_write = fake_mmio_write,
	.apic_pending = fake_pending,
	.apic_ack = fake_ack,
	.apic_get_cr8 = fake_get_cr8,
	.apic_set_cr8 = fake_set_cr8,
	.apic_read_msr = fake_read_msr,
	.apic_write_msr = fake_write_msr,
};

/* @f is all zeros but for what is to be different. */
static void fixture_open(struct fixture *f, unsigned vcpus, unsigned configured)
{
	const struct mem_config mem = { .size_bytes = 16 * MIB, .node = -1 };
	struct engine_config config;

	f->host.ops = &fake_ops;
	f->mem = mem_new(&mem, NULL);
	ck_assert_ptr_nonnull(f->mem);
	config = (struct engine_config){
		.mem = f->mem, .host = &f->host, .vcpus = configured ? configured : vcpus,
		.deterministic = f->deterministic,
	};
	f->engine = engine_bt.open(&config, NULL);
	ck_assert_ptr_nonnull(f->engine);
	for (unsigned i = 0; i < vcpus; i++) {
		atomic_store(&f->vector[i], -1);
		f->vcpu[i] = engine_bt.vcpu_new(f->engine, i, NULL);
		ck_assert_ptr_nonnull(f->vcpu[i]);
	}
}

static void fixture_init(struct fixture *f, unsigned vcpus, unsigned configured)
{
	memset(f, 0, sizeof(*f));
	fixture_open(f, vcpus, configured);
}

static void fixture_fini(struct fixture *f)
{
	for (unsigned i = 0; i < ARRAY_SIZE(f->vcpu); i++)
		engine_bt.vcpu_free(f->vcpu[i]);
	engine_bt.close(f->engine);
	mem_free(f->mem);
}

static void put(struct fixture *f, gpa_t gpa, const void *bytes, size_t len)
{
	ck_assert_int_eq(mem_write(f->mem, gpa, bytes, len), 0);
}

static struct x86_segment flat(uint16_t selector, uint16_t attr)
{
	return (struct x86_segment){ .limit = 0xffffffff, .selector = selector, .attr = attr };
}

/* 32-bit protected mode, flat, at CODE. */
static void start_at(struct fixture *f, unsigned vcpu, uint32_t eip)
{
	static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };
	struct x86_state s;

	put(f, GDT, gdt, sizeof(gdt));
	engine_bt.vcpu_get_state(f->vcpu[vcpu], &s);
	s.seg[X86_CS] = flat(8, 0xc9b);
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		if (i != X86_CS)
			s.seg[i] = flat(16, 0xc93);
	s.gdtr = (struct x86_table){ GDT, sizeof(gdt) - 1 };
	s.idtr = (struct x86_table){ IDT, 256 * 8 - 1 };
	s.cr0 |= X86_CR0_PE;
	s.rip = eip;
	s.gpr[X86_RSP] = STACK - vcpu * 4096;
	s.activity = X86_RUNNING;
	ck_assert_int_eq(engine_bt.vcpu_set_state(f->vcpu[vcpu], &s), 0);
}

static void gate(struct fixture *f, unsigned vector, uint32_t at)
{
	const uint64_t g = (at & 0xffff) | 8ull << 16 | 0x8eull << 40 | (uint64_t)(at >> 16) << 48;

	put(f, IDT + vector * 8, &g, sizeof(g));
}

#define PUT(f, gpa, ...)                                                                           \
	do {                                                                                       \
		static const uint8_t bytes_[] = { __VA_ARGS__ };                                   \
		put(f, gpa, bytes_, sizeof(bytes_));                                               \
	} while (0)

static void *run_thread(void *vcpu)
{
	(void)engine_bt.vcpu_run(vcpu);
	return NULL;
}

static double cpu_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

START_TEST(runs_a_program_to_its_port_write)
{
	struct fixture f;
	struct x86_state s;

	fixture_init(&f, 1, 0);
	/* mov ecx, 1000; xor eax, eax; 1: add eax, ecx; loop 1b; out PORT_STOP, eax; jmp . */
	PUT(&f, CODE, 0xb9, 0xe8, 3, 0, 0, 0x31, 0xc0, 0x01, 0xc8, 0xe2, 0xfc, 0xe7, PORT_STOP, 0xeb,
	    0xfe);
	start_at(&f, 0, CODE);
	ck_assert_int_eq(engine_bt.vcpu_run(f.vcpu[0]), ENGINE_EXIT_KICK);
	ck_assert_uint_eq(f.value[0], 500500);
	engine_bt.vcpu_get_state(f.vcpu[0], &s);
	ck_assert_uint_eq(s.gpr[X86_RCX], 0);
	ck_assert_uint_eq(s.rip, CODE + 13);
	fixture_fini(&f);
}
END_TEST

START_TEST(a_kick_leaves_an_endless_loop)
{
	struct fixture f;
	pthread_t t;

	fixture_init(&f, 1, 0);
	PUT(&f, CODE, 0xeb, 0xfe);
	start_at(&f, 0, CODE);
	pthread_create(&t, NULL, run_thread, f.vcpu[0]);
	usleep(20000);
	engine_bt.vcpu_kick(f.vcpu[0]);
	pthread_join(t, NULL);
	/* One that came before the run is not lost. */
	engine_bt.vcpu_kick(f.vcpu[0]);
	ck_assert_int_eq(engine_bt.vcpu_run(f.vcpu[0]), ENGINE_EXIT_KICK);
	fixture_fini(&f);
}
END_TEST

START_TEST(an_interrupt_wakes_hlt_and_idling_costs_nothing)
{
	struct fixture f;
	pthread_t t;
	double before;

	fixture_init(&f, 1, 0);
	/* sti; 1: hlt; jmp 1b */
	PUT(&f, CODE, 0xfb, 0xf4, 0xeb, 0xfd);
	/* out PORT_VALUE, al; iret */
	PUT(&f, CODE + 0x100, 0xe6, PORT_VALUE, 0xcf);
	gate(&f, 0x30, CODE + 0x100);
	start_at(&f, 0, CODE);
	pthread_create(&t, NULL, run_thread, f.vcpu[0]);
	usleep(10000);
	before = cpu_seconds();
	usleep(200000);
	ck_assert(cpu_seconds() - before < 0.05);
	for (unsigned i = 1; i <= 20; i++) {
		atomic_store(&f.vector[0], 0x30);
		engine_bt.vcpu_irq(f.vcpu[0]);
		for (unsigned n = 0; n < 5000 && atomic_load(&f.values[0]) < i; n++)
			usleep(1000);
		ck_assert_uint_eq(f.values[0], i);
	}
	engine_bt.vcpu_kick(f.vcpu[0]);
	pthread_join(t, NULL);
	fixture_fini(&f);
}
END_TEST

START_TEST(no_interrupt_comes_between_sti_and_hlt)
{
	struct fixture f;
	pthread_t t;

	fixture_init(&f, 1, 0);
	/* 1: cli; mov al, [DATA]; test al, al; jnz 2f; sti; hlt; jmp 1b; 2: movb $0, [DATA];
	 * out PORT_VALUE, al; jmp 1b. The handler sets [DATA]. An interrupt before HLT would be slept
	 * through. */
	PUT(&f, CODE, 0xfa, 0xa0, 0, 0, 4, 0, 0x84, 0xc0, 0x75, 0x04, 0xfb, 0xf4, 0xeb, 0xf2, 0xc6,
	    0x05, 0, 0, 4, 0, 0, 0xe6, PORT_VALUE, 0xeb, 0xe7);
	PUT(&f, CODE + 0x100, 0xc6, 0x05, 0, 0, 4, 0, 1, 0xcf);
	gate(&f, 0x30, CODE + 0x100);
	start_at(&f, 0, CODE);
	pthread_create(&t, NULL, run_thread, f.vcpu[0]);
	for (unsigned i = 1; i <= 2000; i++) {
		atomic_store(&f.vector[0], 0x30);
		engine_bt.vcpu_irq(f.vcpu[0]);
		for (unsigned n = 0; n < 200000 && atomic_load(&f.values[0]) < i; n++)
			if (n > 1000)
				usleep(100);
		ck_assert_uint_eq(f.values[0], i);
	}
	engine_bt.vcpu_kick(f.vcpu[0]);
	pthread_join(t, NULL);
	fixture_fini(&f);
}
END_TEST

START_TEST(a_triple_fault_is_a_shutdown)
{
	struct fixture f;
	struct x86_state s;

	fixture_init(&f, 1, 0);
	PUT(&f, CODE, 0x0f, 0x0b);
	start_at(&f, 0, CODE);
	engine_bt.vcpu_get_state(f.vcpu[0], &s);
	s.idtr.limit = 0;
	engine_bt.vcpu_set_state(f.vcpu[0], &s);
	ck_assert_int_eq(engine_bt.vcpu_run(f.vcpu[0]), ENGINE_EXIT_SHUTDOWN);
	ck_assert_int_eq(engine_bt.vcpu_run(f.vcpu[0]), ENGINE_EXIT_SHUTDOWN);
	fixture_fini(&f);
}
END_TEST

START_TEST(init_and_sipi_start_another_vcpu)
{
	struct fixture f;
	pthread_t t;

	fixture_init(&f, 2, 0);
	/* Real mode at 5000:0: mov ax, cs; out PORT_STOP, ax; jmp . */
	PUT(&f, 0x5000, 0x8c, 0xc8, 0xe7, PORT_STOP, 0xeb, 0xfe);
	pthread_create(&t, NULL, run_thread, f.vcpu[1]);
	engine_bt.vcpu_sipi(f.vcpu[1], 5);
	pthread_join(t, NULL);
	ck_assert_uint_eq(f.value[1], 0x500);
	/* A running one ignores SIPI and obeys INIT. */
	pthread_create(&t, NULL, run_thread, f.vcpu[1]);
	engine_bt.vcpu_init(f.vcpu[1]);
	usleep(10000);
	ck_assert_uint_eq(f.values[1], 1);
	engine_bt.vcpu_sipi(f.vcpu[1], 5);
	pthread_join(t, NULL);
	ck_assert_uint_eq(f.values[1], 2);
	fixture_fini(&f);
}
END_TEST

/* A device writes code while it runs: the new bytes count. */
START_TEST(sees_code_that_a_device_writes)
{
	struct fixture f;
	pthread_t t;

	fixture_init(&f, 1, 0);
	/* 1: mov eax, 0; out PORT_VALUE, eax; jmp 1b */
	PUT(&f, CODE, 0xb8, 0, 0, 0, 0, 0xe7, PORT_VALUE, 0xeb, 0xf7);
	start_at(&f, 0, CODE);
	pthread_create(&t, NULL, run_thread, f.vcpu[0]);
	for (uint32_t i = 1; i <= 200; i++) {
		put(&f, CODE + 1, &i, sizeof(i));
		for (unsigned n = 0; n < 100000 && atomic_load(&f.value[0]) != i; n++)
			usleep(10);
		ck_assert_uint_eq(f.value[0], i);
	}
	engine_bt.vcpu_kick(f.vcpu[0]);
	pthread_join(t, NULL);
	fixture_fini(&f);
}
END_TEST

/* Two vCPUs: one overwrites the immediate the other runs over, and waits for an answer. */
START_TEST(sees_code_that_another_vcpu_writes)
{
	struct fixture f;
	pthread_t t[2];

	fixture_init(&f, 2, 0);
	/* vCPU 0: 1: inc dword [COUNT]; mov eax, [COUNT]; mov [CODE2+1], eax;
	 * 2: cmp [ANSWER], eax; jne 2b; cmp eax, 20000; jb 1b; out PORT_STOP, eax; jmp . */
	PUT(&f, CODE, 0xff, 0x05, 0x00, 0, 4, 0, 0xa1, 0x00, 0, 4, 0, 0xa3, 0x01, 0x20, 1, 0, 0x39,
	    0x05, 0x40, 0, 4, 0, 0x75, 0xf8, 0x3d, 0x20, 0x4e, 0, 0, 0x72, 0xe1, 0xe7, PORT_STOP,
	    0xeb, 0xfe);
	/* vCPU 1, at CODE + 0x2000: 1: mov eax, 0; mov [ANSWER], eax; jmp 1b */
	PUT(&f, CODE + 0x2000, 0xb8, 0, 0, 0, 0, 0xa3, 0x40, 0, 4, 0, 0xeb, 0xf4);
	start_at(&f, 0, CODE);
	start_at(&f, 1, CODE + 0x2000);
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, run_thread, f.vcpu[i]);
	pthread_join(t[0], NULL);
	engine_bt.vcpu_kick(f.vcpu[1]);
	pthread_join(t[1], NULL);
	ck_assert_uint_eq(f.value[0], 20000);
	fixture_fini(&f);
}
END_TEST

START_TEST(locked_instructions_are_atomic)
{
	struct fixture f;
	pthread_t t[4];
	uint32_t sum = 0;

	fixture_init(&f, 4, 0);
	/* mov ecx, 50000; 1: lock inc dword [DATA]; loop 1b; out PORT_STOP, al; jmp . */
	PUT(&f, CODE, 0xb9, 0x50, 0xc3, 0, 0, 0xf0, 0xff, 0x05, 0, 0, 4, 0, 0xe2, 0xf7, 0xe6,
	    PORT_STOP, 0xeb, 0xfe);
	for (unsigned i = 0; i < 4; i++)
		start_at(&f, i, CODE);
	for (unsigned i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, run_thread, f.vcpu[i]);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	ck_assert_int_eq(mem_read(f.mem, DATA, &sum, sizeof(sum)), 0);
	ck_assert_uint_eq(sum, 200000);
	fixture_fini(&f);
}
END_TEST

START_TEST(the_dirty_log_has_every_written_page)
{
	struct fixture f;
	uint64_t bitmap[16 * MIB / 4096 / 64] = { 0 };

	fixture_init(&f, 1, 0);
	/* 1: mov [DATA], eax; mov [DATA + 0x2ffe], eax; out PORT_STOP, al; jmp 1b */
	PUT(&f, CODE, 0xa3, 0, 0, 4, 0, 0xa3, 0xfe, 0x2f, 4, 0, 0xe6, PORT_STOP, 0xeb, 0xf2);
	start_at(&f, 0, CODE);
	for (unsigned round = 0; round < 3; round++) {
		ck_assert_int_eq(engine_bt.vcpu_run(f.vcpu[0]), ENGINE_EXIT_KICK);
		if (round == 0) {
			ck_assert_int_eq(mem_dirty_start(f.mem), 0);
			ck_assert_int_eq(engine_bt.dirty_start(f.engine), 0);
			continue;
		}
		ck_assert_int_eq(engine_bt.dirty_sync(f.engine), 0);
		/* DATA, and both pages that the second store touches. */
		ck_assert_uint_eq(mem_dirty_fetch(f.mem, 0, bitmap), 3);
		ck_assert_uint_eq(bitmap[DATA / 4096 / 64] >> (DATA / 4096 % 64), 0xd);
	}
	engine_bt.dirty_stop(f.engine);
	mem_dirty_stop(f.mem);
	ck_assert_int_eq(engine_bt.vcpu_run(f.vcpu[0]), ENGINE_EXIT_KICK);
	fixture_fini(&f);
}
END_TEST

/* More code than the cache holds, several times over. */
START_TEST(goes_on_when_its_cache_is_full)
{
	struct fixture f;
	uint8_t *code = malloc(8 * MIB);
	uint32_t at = 0;

	/* 64 vCPUs share the room, of which this one has its 64th part. */
	fixture_init(&f, 1, 64);
	/* inc ebx; jmp next, 700000 times; then dec ecx; jnz back; out */
	while (at < 7 * MIB)
		memcpy(code + at, "\x43\xeb\x07zzzzzzz", 10), at += 10;
	memcpy(code + at, "\x49\x0f\x85", 3);
	store_le32(code + at + 3, (uint32_t)-(int32_t)(at + 7));
	memcpy(code + at + 7, "\x89\xd8\xe7\x11\xeb\xfe", 6);
	put(&f, MIB, code, at + 13);
	PUT(&f, CODE, 0x31, 0xdb, 0xb9, 3, 0, 0, 0, 0xe9, 0xf4, 0xff, 0x0e, 0);
	start_at(&f, 0, CODE);
	ck_assert_int_eq(engine_bt.vcpu_run(f.vcpu[0]), ENGINE_EXIT_KICK);
	ck_assert_uint_eq(f.value[0], 3 * (at / 10));
	free(code);
	fixture_fini(&f);
}
END_TEST

START_TEST(state_goes_out_and_in_unchanged)
{
	struct fixture f;
	struct x86_state a, b;

	fixture_init(&f, 2, 0);
	start_at(&f, 0, CODE);
	engine_bt.vcpu_get_state(f.vcpu[0], &a);
	ck_assert_int_eq(engine_bt.vcpu_set_state(f.vcpu[0], &a), 0);
	engine_bt.vcpu_get_state(f.vcpu[0], &b);
	ck_assert(b.tsc >= a.tsc);
	b.tsc = a.tsc;
	ck_assert_int_eq(memcmp(&a, &b, sizeof(a)), 0);
	/* TSCs set one after another are one TSC, and go on from where they were. */
	a.tsc += 1ull << 50;
	engine_bt.vcpu_set_state(f.vcpu[0], &a);
	usleep(1000);
	engine_bt.vcpu_set_state(f.vcpu[1], &a);
	uint64_t t0 = engine_bt.vcpu_tsc(f.vcpu[0]);
	uint64_t t1 = engine_bt.vcpu_tsc(f.vcpu[1]);
	uint64_t t2 = engine_bt.vcpu_tsc(f.vcpu[0]);
	ck_assert(t0 >= a.tsc && t0 <= t1 && t1 <= t2);
	ck_assert(engine_bt.tsc_hz(f.engine) > 100000000u);
	fixture_fini(&f);
}
END_TEST

static bool narrow_host;

bool __real_bt_host_insn_is_fit(void);
bool __wrap_bt_host_insn_is_fit(void);

bool __wrap_bt_host_insn_is_fit(void)
{
	return !narrow_host && __real_bt_host_insn_is_fit();
}

/* 64-bit mode with AVX, at CODE, the first 2 MiB mapped as they are. */
static void start_long(struct fixture *f, struct x86_state *s)
{
	static const uint64_t pml4 = (DATA + 0x1000) | 3, pdpt = (DATA + 0x2000) | 3, pd = 0x83;

	put(f, DATA, &pml4, sizeof(pml4));
	put(f, DATA + 0x1000, &pdpt, sizeof(pdpt));
	put(f, DATA + 0x2000, &pd, sizeof(pd));
	start_at(f, 0, CODE);
	engine_bt.vcpu_get_state(f->vcpu[0], s);
	s->cr3 = DATA;
	s->cr4 |= X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXSAVE;
	s->efer |= X86_EFER_LME | X86_EFER_LMA;
	s->cr0 |= X86_CR0_PG;
	s->xcr0 = 7;
	s->seg[X86_CS].attr = 0xa9b;
}

/* Bits that a host without AVX-512 has no registers for stay where they are, and what is translated does not
 * touch them: it would be the machine's end. */
START_TEST(a_host_without_avx512_is_asked_for_none)
{
	struct fixture f;
	struct x86_state s;
	uint32_t sum;

	narrow_host = true;
	fixture_init(&f, 1, 0);
	/* mov ecx, 100000; 1: paddd xmm0, xmm1; dec ecx; jnz 1b; out PORT_STOP, eax; jmp . */
	PUT(&f, CODE, 0xb9, 0xa0, 0x86, 1, 0, 0x66, 0x0f, 0xfe, 0xc1, 0xff, 0xc9, 0x75, 0xf8, 0xe7,
	    PORT_STOP, 0xeb, 0xfe);
	start_long(&f, &s);
	memset(s.fpu.vec[0], 0, 32);
	memset(s.fpu.vec[0] + 32, 0xab, 32);
	memset(s.fpu.vec[1], 1, 16);
	ck_assert_int_eq(engine_bt.vcpu_set_state(f.vcpu[0], &s), 0);
	ck_assert_int_eq(engine_bt.vcpu_run(f.vcpu[0]), ENGINE_EXIT_KICK);
	engine_bt.vcpu_get_state(f.vcpu[0], &s);
	memcpy(&sum, s.fpu.vec[0], sizeof(sum));
	ck_assert_uint_eq(sum, 100000u * 0x01010101u);
	for (unsigned i = 32; i < 64; i++)
		ck_assert_uint_eq(s.fpu.vec[0][i], 0xab);
	fixture_fini(&f);
}
END_TEST

/* As a machine that was restored has it: the timer was set before the engine had any part in it. */
START_TEST(time_by_instructions_goes_on_to_a_timer_of_a_restored_machine)
{
	struct fixture f = { .deterministic = true, .due = 5000000 };
	struct x86_state s;

	fixture_open(&f, 1, 0);
	/* hlt; the handler: out PORT_STOP, al */
	PUT(&f, CODE, 0xf4, 0xeb, 0xfd);
	PUT(&f, CODE + 0x100, 0xe6, PORT_STOP, 0xeb, 0xfe);
	gate(&f, 0x30, CODE + 0x100);
	start_at(&f, 0, CODE);
	engine_bt.vcpu_get_state(f.vcpu[0], &s);
	s.rflags |= X86_FL_IF;
	s.activity = X86_HALTED;
	engine_bt.vcpu_set_state(f.vcpu[0], &s);
	ck_assert_int_eq(engine_bt.vcpu_run(f.vcpu[0]), ENGINE_EXIT_KICK);
	ck_assert_uint_eq(f.stopped[0], 1);
	ck_assert(engine_bt.vcpu_tsc(f.vcpu[0]) - s.tsc >= 5000000);
	fixture_fini(&f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine bt");
	TCase *t = tcase_create("bt");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_test(t, runs_a_program_to_its_port_write);
	tcase_add_test(t, a_kick_leaves_an_endless_loop);
	tcase_add_test(t, an_interrupt_wakes_hlt_and_idling_costs_nothing);
	tcase_add_test(t, no_interrupt_comes_between_sti_and_hlt);
	tcase_add_test(t, a_triple_fault_is_a_shutdown);
	tcase_add_test(t, init_and_sipi_start_another_vcpu);
	tcase_add_test(t, sees_code_that_a_device_writes);
	tcase_add_test(t, sees_code_that_another_vcpu_writes);
	tcase_add_test(t, locked_instructions_are_atomic);
	tcase_add_test(t, the_dirty_log_has_every_written_page);
	tcase_add_test(t, goes_on_when_its_cache_is_full);
	tcase_add_test(t, state_goes_out_and_in_unchanged);
	tcase_add_test(t, a_host_without_avx512_is_asked_for_none);
	tcase_add_test(t, time_by_instructions_goes_on_to_a_timer_of_a_restored_machine);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
