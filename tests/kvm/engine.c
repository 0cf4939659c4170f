// SPDX-License-Identifier: Apache-2.0
/*
 * engine.c - the kvm engine against the host's /dev/kvm: a few bytes of guest at a time.
 *
 * Skipped (status 77) where /dev/kvm does not open. Guests run in real mode with segment bases of
 * our choice, which every host's KVM runs, those backed by software included.
 */
#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/units.h"
#include "engine/kvm/kvm.h"
#include "x86/state.h"

#define CODE	  0x1000u
#define PORT_LOG  0xf4u
#define PORT_STOP 0xf5u /* kicks the vCPU that writes to it */
#define MMIO	  0xd0000000ull

/* mov dx, PORT_STOP; out dx, al; jmp $ */
#define STOP 0xba, PORT_STOP, 0x00, 0xee, 0xeb, 0xfe
/* mov dx, PORT_LOG; out dx, al */
#define LOG 0xba, PORT_LOG, 0x00, 0xee

static struct mem *mem;
static struct engine *engine;
static struct engine_vcpu *vcpus[2];
static struct engine_host host;
static struct x86_state state;

/* What the machine saw. */
static uint8_t logged[64];
static unsigned log_count;
static uint64_t mmio_value;
static unsigned mmio_size;
static int apic_vector = -1;
static uint8_t apic_cr8;

static uint64_t host_pio_read(struct engine_host *h, unsigned vcpu, uint16_t port, unsigned size)
{
	return port == PORT_LOG ? 0x5a : ~0ull;
}

static void host_pio_write(struct engine_host *h, unsigned vcpu, uint16_t port, unsigned size,
			   uint64_t value)
{
	if (port == PORT_LOG && log_count < sizeof(logged))
		logged[log_count++] = (uint8_t)value;
	if (port == PORT_STOP)
		engine_kvm.vcpu_kick(vcpus[vcpu]);
}

static uint64_t host_mmio_read(struct engine_host *h, unsigned vcpu, gpa_t gpa, unsigned size)
{
	return gpa - MMIO;
}

static void host_mmio_write(struct engine_host *h, unsigned vcpu, gpa_t gpa, unsigned size,
			    uint64_t value)
{
	mmio_value = value;
	mmio_size = size;
}

static int host_apic_pending(struct engine_host *h, unsigned vcpu)
{
	return __atomic_load_n(&apic_vector, __ATOMIC_SEQ_CST);
}

static int host_apic_ack(struct engine_host *h, unsigned vcpu)
{
	return __atomic_exchange_n(&apic_vector, -1, __ATOMIC_SEQ_CST);
}

static uint8_t host_get_cr8(struct engine_host *h, unsigned vcpu)
{
	return apic_cr8;
}

static void host_set_cr8(struct engine_host *h, unsigned vcpu, uint8_t cr8)
{
	apic_cr8 = cr8;
}

static bool host_read_msr(struct engine_host *h, unsigned vcpu, uint32_t msr, uint64_t *value)
{
	*value = 0xfee00900;
	return msr == 0x1b;
}

static bool host_write_msr(struct engine_host *h, unsigned vcpu, uint32_t msr, uint64_t value)
{
	return msr == 0x1b;
}

static const struct engine_host_ops host_ops = {
	.pio_read = host_pio_read,
	.pio_write = host_pio_write,
	.mmio_read = host_mmio_read,
	.mmio_write = host_mmio_write,
	.apic_pending = host_apic_pending,
	.apic_ack = host_apic_ack,
	.apic_get_cr8 = host_get_cr8,
	.apic_set_cr8 = host_set_cr8,
	.apic_read_msr = host_read_msr,
	.apic_write_msr = host_write_msr,
};

static void open_machine(bool irqchip, unsigned count)
{
	struct mem_config mem_config = { .size_bytes = 4 * MIB, .node = -1 };
	struct engine_config config = {
		.host = &host, .vcpus = count, .want_irqchip = irqchip, .want_pit = irqchip
	};
	GError *err = NULL;

	host.ops = &host_ops;
	mem = mem_new(&mem_config, &err);
	ck_assert_msg(mem != NULL, "%s", err ? err->message : "");
	config.mem = mem;
	engine = engine_kvm.open(&config, &err);
	ck_assert_msg(engine != NULL, "%s", err ? err->message : "");
	for (unsigned i = 0; i < count; i++) {
		vcpus[i] = engine_kvm.vcpu_new(engine, i, &err);
		ck_assert_msg(vcpus[i] != NULL, "%s", err ? err->message : "");
	}
}

static void close_machine(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(vcpus); i++)
		engine_kvm.vcpu_free(vcpus[i]);
	engine_kvm.close(engine);
	mem_free(mem);
}

static void put_code(gpa_t at, const uint8_t *code, size_t len)
{
	ck_assert_int_eq(mem_write(mem, at, code, len), 0);
}

/* Real mode at CODE, all bases 0, stack below 0x8000. */
static void start(const uint8_t *code, size_t len)
{
	put_code(CODE, code, len);
	x86_state_reset(&state);
	state.seg[X86_CS].base = 0;
	state.seg[X86_CS].selector = 0;
	state.rip = CODE;
	state.gpr[X86_RSP] = 0x8000;
	ck_assert_int_eq(engine_kvm.vcpu_set_state(vcpus[0], &state), 0);
}

static void restart(void)
{
	ck_assert_int_eq(engine_kvm.vcpu_set_state(vcpus[0], &state), 0);
}

static void run_to(enum engine_exit expect)
{
	enum engine_exit reason = engine_kvm.vcpu_run(vcpus[0]);

	ck_assert_msg(reason == expect, "exit %d: %s", reason, engine_kvm.vcpu_error(vcpus[0]));
}

START_TEST(port_io)
{
	static const uint8_t code[] = { 0xb0, 0x42, LOG, 0xec, 0xee, STOP };

	open_machine(_i, 1);
	start(code, sizeof(code));
	run_to(ENGINE_EXIT_KICK);
	ck_assert_uint_eq(log_count, 2);
	ck_assert_uint_eq(logged[0], 0x42);
	ck_assert_uint_eq(logged[1], 0x5a);
	/* The out that asked for the kick is complete. */
	ck_assert_int_eq(engine_kvm.vcpu_get_state(vcpus[0], &state), 0);
	ck_assert_uint_eq(state.rip, CODE + sizeof(code) - 2);
	close_machine();
}
END_TEST

START_TEST(string_io)
{
	static const uint8_t code[] = {
		0xbe, 0x00, 0x20,	/* mov si, 0x2000 */
		0xb9, 0x20, 0x00,	/* mov cx, 32 */
		0xba, PORT_LOG, 0x00,	/* mov dx, PORT_LOG */
		0xf3, 0x6e,		/* rep outsb */
		0xbf, 0x00, 0x30,	/* mov di, 0x3000 */
		0xb9, 0x10, 0x00,	/* mov cx, 16 */
		0xf3, 0x6c,		/* rep insb */
		STOP
	};
	uint8_t bytes[32];

	open_machine(false, 1);
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7);
	put_code(0x2000, bytes, sizeof(bytes));
	start(code, sizeof(code));
	run_to(ENGINE_EXIT_KICK);
	ck_assert_uint_eq(log_count, 32);
	ck_assert_mem_eq(logged, bytes, 32);
	ck_assert_int_eq(mem_read(mem, 0x3000, bytes, 17), 0);
	for (unsigned i = 0; i < 16; i++)
		ck_assert_uint_eq(bytes[i], 0x5a);
	ck_assert_uint_eq(bytes[16], 0);
	close_machine();
}
END_TEST

START_TEST(memory_mapped_io)
{
	static const uint8_t code[] = {
		0x66, 0xa1, 0x34, 0x12,				     /* mov eax, [0x1234] */
		0x66, 0xa3, 0x00, 0x10,				     /* mov [0x1000], eax */
		STOP
	};

	open_machine(false, 1);
	start(code, sizeof(code));
	state.seg[X86_DS].base = MMIO;
	restart();
	run_to(ENGINE_EXIT_KICK);
	ck_assert_uint_eq(mmio_value, 0x1234);
	ck_assert_uint_eq(mmio_size, 4);
	close_machine();
}
END_TEST

/* movups from memory to memory through XMM0: some hosts' KVM refuse it in the kernel's ring. */
START_TEST(vector_instructions)
{
	static const uint8_t code[] = {
		0x0f, 0x10, 0x06, 0x00, 0x20, /* movups xmm0, [0x2000] */
		0x0f, 0x58, 0xc0,	      /* addps xmm0, xmm0 */
		0x0f, 0x11, 0x06, 0x00, 0x30, /* movups [0x3000], xmm0 */
		STOP
	};
	static const float from[4] = { 1.0f, -2.5f, 1e10f, 0.0f };
	float to[4];

	open_machine(_i, 1);
	start(code, sizeof(code));
	put_code(0x2000, (const uint8_t *)from, sizeof(from));
	state.cr4 |= X86_CR4_OSFXSR;
	restart();
	run_to(ENGINE_EXIT_KICK);
	ck_assert_int_eq(mem_read(mem, 0x3000, to, sizeof(to)), 0);
	for (unsigned i = 0; i < 4; i++)
		ck_assert_float_eq(to[i], from[i] * 2);
	close_machine();
}
END_TEST

/* In some milliseconds. */
static void *kick_later(void *arg)
{
	const unsigned *ms = arg;

	nanosleep(&(struct timespec){ .tv_sec = *ms / 1000, .tv_nsec = *ms % 1000 * 1000000l }, NULL);
	engine_kvm.vcpu_kick(vcpus[0]);
	return NULL;
}

START_TEST(kick_ends_a_loop)
{
	/* sti; cli; jmp back: Bochs lets an interrupt of the host's end a guest's stay only when IF has changed in it. */
	static const uint8_t code[] = { 0xfb, 0xfa, 0xeb, 0xfc };
	unsigned ms = 20;
	pthread_t thread;

	open_machine(_i, 1);
	start(code, sizeof(code));
	for (unsigned i = 0; i < 5; i++) {
		pthread_create(&thread, NULL, kick_later, &ms);
		run_to(ENGINE_EXIT_KICK);
		pthread_join(thread, NULL);
	}
	/* A kick before the run counts too. */
	engine_kvm.vcpu_kick(vcpus[0]);
	run_to(ENGINE_EXIT_KICK);
	close_machine();
}
END_TEST

START_TEST(kick_ends_a_halt)
{
	static const uint8_t code[] = { 0xfa, 0xf4, STOP };
	pthread_t thread;

	open_machine(_i, 1);
	start(code, sizeof(code));
	/* On a slow host the kick may come first: then the vCPU is before its HLT, and there is one more, later. */
	for (unsigned ms = 20; ms < 5000; ms *= 2) {
		pthread_create(&thread, NULL, kick_later, &ms);
		run_to(ENGINE_EXIT_KICK);
		pthread_join(thread, NULL);
		ck_assert_int_eq(engine_kvm.vcpu_get_state(vcpus[0], &state), 0);
		if (state.rip == CODE + 2)
			break;
	}
	ck_assert_int_eq(state.activity, X86_HALTED);
	ck_assert_uint_eq(state.rip, CODE + 2);
	close_machine();
}
END_TEST

static void put_vector(unsigned vector, uint16_t offset)
{
	uint8_t entry[4];

	store_le16(entry, offset);
	store_le16(entry + 2, 0);
	put_code(vector * 4, entry, sizeof(entry));
}

static void *irq_later(void *arg)
{
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	__atomic_store_n(&apic_vector, 0x40, __ATOMIC_SEQ_CST);
	engine_kvm.vcpu_irq(vcpus[0]);
	return NULL;
}

/* Our own local APIC: an interrupt wakes HLT. */
START_TEST(interrupt_from_our_apic)
{
	static const uint8_t code[] = { 0xfb, 0xf4, 0xb0, 0x11, LOG, STOP }; /* sti; hlt */
	static const uint8_t handler[] = { 0xb0, 0x99, LOG, 0xcf };
	static const uint8_t expect[] = { 0x99, 0x11 };
	pthread_t thread;

	open_machine(false, 1);
	put_vector(0x40, 0x4000);
	put_code(0x4000, handler, sizeof(handler));
	start(code, sizeof(code));
	pthread_create(&thread, NULL, irq_later, NULL);
	run_to(ENGINE_EXIT_KICK);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(log_count, 2);
	ck_assert_mem_eq(logged, expect, 2);
	close_machine();
}
END_TEST

START_TEST(interrupt_waits_for_sti)
{
	static const uint8_t code[] = { 0xb0, 0x22, LOG, 0xfb, 0x90, 0xb0, 0x33, LOG, 0x90, STOP };
	static const uint8_t handler[] = { 0xb0, 0x99, LOG, 0xcf };

	open_machine(false, 1);
	put_vector(0x40, 0x4000);
	put_code(0x4000, handler, sizeof(handler));
	start(code, sizeof(code));
	apic_vector = 0x40;
	engine_kvm.vcpu_irq(vcpus[0]);
	run_to(ENGINE_EXIT_KICK);
	/* A KVM backed by software may take it some instructions late. */
	ck_assert_uint_eq(log_count, 3);
	ck_assert_uint_eq(logged[0], 0x22);
	ck_assert(logged[1] == 0x99 || logged[2] == 0x99);
	close_machine();
}
END_TEST

START_TEST(nmi_wakes_halt)
{
	static const uint8_t code[] = { 0xfa, 0xf4, 0xeb, 0xfc }; /* cli; hlt, again and again */
	static const uint8_t handler[] = { 0xb0, 0x77, LOG, STOP };

	open_machine(_i, 1);
	put_vector(2, 0x4000);
	put_code(0x4000, handler, sizeof(handler));
	start(code, sizeof(code));
	engine_kvm.vcpu_nmi(vcpus[0]);
	run_to(ENGINE_EXIT_KICK);
	ck_assert_uint_eq(log_count, 1);
	ck_assert_uint_eq(logged[0], 0x77);
	close_machine();
}
END_TEST

START_TEST(ioeventfd)
{
	static const uint8_t code[] = {
		0xb0, 0x01, 0xba, 0x00, 0x05, 0xee, /* out 0x500, al */
		0xa2, 0x10, 0x00,		    /* mov [0x10], al */
		STOP
	};
	int pio = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), mmio = eventfd(0, EFD_NONBLOCK);
	uint64_t n;

	open_machine(false, 1);
	ck_assert_int_eq(engine_kvm.ioeventfd(engine, true, 0x500, 1, pio, true), 0);
	ck_assert_int_eq(engine_kvm.ioeventfd(engine, false, MMIO + 0x10, 4, mmio, true), 0);
	start(code, sizeof(code));
	state.seg[X86_DS].base = MMIO;
	restart();
	run_to(ENGINE_EXIT_KICK);
	ck_assert_int_eq(read(pio, &n, 8), 8);
	ck_assert_int_eq(read(mmio, &n, 8), 8);
	ck_assert_uint_eq(mmio_size, 0);
	ck_assert_int_eq(engine_kvm.ioeventfd(engine, true, 0x500, 1, pio, false), 0);
	ck_assert_int_eq(engine_kvm.ioeventfd(engine, false, MMIO + 0x10, 4, mmio, false), 0);
	restart();
	run_to(ENGINE_EXIT_KICK);
	ck_assert_uint_eq(mmio_size, 1);
	close(pio);
	close(mmio);
	close_machine();
}
END_TEST

/* In-kernel local APIC: enable it, then a message arrives through an eventfd. */
START_TEST(irqfd_and_msi)
{
	static const uint8_t code[] = {
		0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00, 0x00, /* mov dword [0xf0], 0x1ff */
		0xba, PORT_STOP, 0x00, 0xee,			      /* enabled: tell */
		0xfb, 0xf4,					      /* sti; hlt */
		STOP
	};
	static const uint8_t handler[] = {
		0x88, 0xd8, LOG,				      /* mov al, bl; log */
		0x66, 0xc7, 0x06, 0xb0, 0x00, 0x00, 0x00, 0x00, 0x00, /* mov dword [0xb0], 0 */
		0xcf						      /* iret */
	};
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	uint64_t one = 1;

	open_machine(true, 1);
	ck_assert_uint_ne(engine_kvm.caps(engine) & ENGINE_CAP_IRQFD, 0);
	put_vector(0x41, 0x4000);
	put_vector(0x42, 0x4000);
	put_code(0x4000, handler, sizeof(handler));
	start(code, sizeof(code));
	state.seg[X86_DS].base = 0xfee00000;
	state.gpr[X86_RBX] = 0x42;
	for (unsigned i = 0; i < 3; i++) {
		restart();
		run_to(ENGINE_EXIT_KICK);
		/* Route, then change the route; the third time a plain message. */
		if (i < 2)
			ck_assert_int_eq(engine_kvm.irqfd_msi(engine, fd, 0xfee00000, 0x41 + i, true),
					 0);
		if (i < 2)
			ck_assert_int_eq(write(fd, &one, 8), 8);
		else
			engine_kvm.send_msi(engine, 0xfee00000, 0x41);
		run_to(ENGINE_EXIT_KICK);
		ck_assert_uint_eq(log_count, i + 1);
	}
	ck_assert_int_eq(engine_kvm.irqfd_msi(engine, fd, 0, 0, false), 0);
	close(fd);
	close_machine();
}
END_TEST

START_TEST(dirty_log)
{
	static const uint8_t code[] = { 0xa2, 0x00, 0x70, STOP }; /* mov [0x7000], al */
	uint64_t bitmap[16] = { 0 };

	open_machine(false, 1);
	start(code, sizeof(code));
	state.seg[X86_DS].base = 0x100000;
	restart();
	ck_assert_int_eq(engine_kvm.dirty_start(engine), 0);
	run_to(ENGINE_EXIT_KICK);
	ck_assert_int_eq(engine_kvm.dirty_sync(engine), 0);
	ck_assert_uint_ge(mem_dirty_fetch(mem, 0, bitmap), 1);
	ck_assert(bitmap[0x107 / 64] >> (0x107 % 64) & 1);
	ck_assert(!(bitmap[0x106 / 64] >> (0x106 % 64) & 1));
	memset(bitmap, 0, sizeof(bitmap));
	ck_assert_int_eq(engine_kvm.dirty_sync(engine), 0);
	ck_assert_uint_eq(mem_dirty_fetch(mem, 0, bitmap), 0);
	engine_kvm.dirty_stop(engine);
	close_machine();
}
END_TEST

/* Something in every field that the guest need not run for. */
static void fill_state(struct x86_state *s)
{
	x86_state_reset(s);
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = 0x1111111111111111ull * i + i;
	s->rip = 0x12345678;
	s->rflags = X86_FL_ONE | X86_FL_CF | X86_FL_DF;
	s->seg[X86_FS] = (struct x86_segment){ .base = 0x12340, .limit = 0xffff,
					       .selector = 0x1234, .attr = 0x93 };
	s->gdtr = (struct x86_table){ .base = 0x5000, .limit = 0x7f };
	s->idtr = (struct x86_table){ .base = 0x6000, .limit = 0xfff };
	s->cr2 = 0xdeadbeef000;
	s->dr[0] = 0x1000;
	s->lstar = 0xffffffff81000000ull;
	s->star = 0x23001000000000ull;
	s->sfmask = 0x47700;
	s->kernel_gs_base = 0xffff888000000000ull;
	s->sysenter_cs = 0x10;
	s->sysenter_eip = 0x82000000; /* AMD keeps 32 bits */
	s->pat = 0x0407050600070106ull;
	s->mtrr_def_type = 0xc06;
	s->mtrr_var[0] = 0x6;
	s->fpu.fcw = 0x27f;
	s->fpu.fsw = 0x3800;
	s->fpu.ftw = 0x81;
	s->fpu.mxcsr = 0x1fa0;
	for (unsigned i = 0; i < 8; i++)
		memset(s->fpu.st[i], (int)(0x30 + i), 10);
	for (unsigned i = 0; i < 16; i++)
		memset(s->fpu.vec[i], (int)(0x40 + i), 16);
	s->nmi_masked = true;
	s->interrupt_shadow = 1;
}

START_TEST(state_round_trip)
{
	static struct x86_state in, out;

	open_machine(_i, 1);
	fill_state(&in);
	ck_assert_int_eq(engine_kvm.vcpu_set_state(vcpus[0], &in), 0);
	ck_assert_int_eq(engine_kvm.vcpu_get_state(vcpus[0], &out), 0);
	ck_assert_mem_eq(out.gpr, in.gpr, sizeof(in.gpr));
	ck_assert_uint_eq(out.rip, in.rip);
	ck_assert_uint_eq(out.rflags, in.rflags);
	ck_assert_mem_eq(out.seg, in.seg, sizeof(in.seg));
	ck_assert_mem_eq(&out.gdtr, &in.gdtr, sizeof(in.gdtr));
	ck_assert_uint_eq(out.cr0, in.cr0);
	ck_assert_uint_eq(out.cr2, in.cr2);
	ck_assert_uint_eq(out.dr[0], in.dr[0]);
	ck_assert_uint_eq(out.lstar, in.lstar);
	ck_assert_uint_eq(out.star, in.star);
	ck_assert_uint_eq(out.sfmask, in.sfmask);
	ck_assert_uint_eq(out.kernel_gs_base, in.kernel_gs_base);
	ck_assert_uint_eq(out.sysenter_eip, in.sysenter_eip);
	ck_assert_uint_eq(out.pat, in.pat);
	ck_assert_uint_eq(out.mtrr_def_type, in.mtrr_def_type);
	ck_assert_uint_eq(out.mtrr_var[0], in.mtrr_var[0]);
	ck_assert_mem_eq(&out.fpu, &in.fpu, sizeof(in.fpu));
	ck_assert_uint_eq(out.nmi_masked, in.nmi_masked);
	ck_assert(out.interrupt_shadow & 1); /* AMD has one bit for both shadows */
	ck_assert_uint_eq(out.xcr0, in.xcr0);
	close_machine();
}
END_TEST

START_TEST(triple_fault_shuts_down)
{
	static const uint8_t code[] = { 0x0f, 0x0b }; /* ud2 */

	open_machine(_i, 1);
	start(code, sizeof(code));
	state.cr0 |= X86_CR0_PE;
	state.idtr.limit = 0;
	for (unsigned i = 0; i < X86_SEG_COUNT; i++) {
		state.seg[i].limit = UINT32_MAX;
		state.seg[i].selector = i == X86_CS ? 8 : 16;
		state.seg[i].attr |= X86_SEG_DB | X86_SEG_G;
	}
	restart();
	run_to(ENGINE_EXIT_SHUTDOWN);
	run_to(ENGINE_EXIT_SHUTDOWN);
	close_machine();
}
END_TEST

static void *run_second(void *arg)
{
	engine_kvm.vcpu_run(vcpus[1]);
	return NULL;
}

START_TEST(second_vcpu_starts_by_sipi)
{
	static const uint8_t code[] = { 0xeb, 0xfe };
	static const uint8_t second[] = { 0x8c, 0xc8, LOG, STOP }; /* mov ax, cs */
	pthread_t thread;

	open_machine(false, 2);
	start(code, sizeof(code));
	put_code(0x9000, second, sizeof(second));
	pthread_create(&thread, NULL, run_second, NULL);
	engine_kvm.vcpu_init(vcpus[1]);
	nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	ck_assert_uint_eq(log_count, 0);
	engine_kvm.vcpu_sipi(vcpus[1], 9);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(log_count, 1);
	ck_assert_int_eq(engine_kvm.vcpu_get_state(vcpus[1], &state), 0);
	ck_assert_uint_eq(state.seg[X86_CS].base, 0x9000);
	ck_assert_uint_eq(state.seg[X86_CS].selector, 0x900);
	close_machine();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("kvm engine");
	TCase *tc = tcase_create("engine");
	struct engine_probe probe;
	SRunner *runner;
	int failed;

	engine_kvm.probe(&probe);
	printf("kvm: %s\n", probe.text);
	if (!probe.available)
		return 77;
	tcase_set_timeout(tc, 20);
	tcase_add_loop_test(tc, port_io, 0, 2);
	tcase_add_test(tc, string_io);
	tcase_add_test(tc, memory_mapped_io);
	tcase_add_loop_test(tc, vector_instructions, 0, 2);
	tcase_add_loop_test(tc, kick_ends_a_loop, 0, 2);
	tcase_add_loop_test(tc, kick_ends_a_halt, 0, 2);
	tcase_add_test(tc, interrupt_from_our_apic);
	tcase_add_test(tc, interrupt_waits_for_sti);
	tcase_add_loop_test(tc, nmi_wakes_halt, 0, 2);
	tcase_add_test(tc, ioeventfd);
	tcase_add_test(tc, irqfd_and_msi);
	tcase_add_test(tc, dirty_log);
	tcase_add_loop_test(tc, state_round_trip, 0, 2);
	tcase_add_loop_test(tc, triple_fault_shuts_down, 0, 2);
	tcase_add_test(tc, second_vcpu_starts_by_sipi);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
