// SPDX-License-Identifier: Apache-2.0
/*
 * state.c - the whole state of a machine out of an engine and into another.
 *
 * Each engine gives back what it was given, field by field, and a program that one engine has begun
 * the other one ends. What needs /dev/kvm is skipped (status 77, once the rest has passed) where it
 * does not open.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/units.h"
#include "engine/bt/bt.h"
#include "engine/chips.h"
#include "engine/kvm/kvm.h"
#include "x86/state.h"

#define CODE	  0x1000u
#define DATA	  0x4000u
#define PORT_STOP 0xf5u

/* One machine of each engine may be alive. */
struct machine {
	const struct engine_ops *ops;
	struct mem *mem;
	struct engine *engine;
	struct engine_vcpu *vcpu;
	struct engine_host host;
	unsigned stops; /* writes to PORT_STOP */
};

static uint64_t no_read(struct engine_host *h, unsigned vcpu, uint16_t port, unsigned size)
{
	return ~0ull;
}

static void on_write(struct engine_host *h, unsigned vcpu, uint16_t port, unsigned size,
		     uint64_t value)
{
	struct machine *m = container_of(h, struct machine, host);

	if (port != PORT_STOP)
		return;
	m->stops++;
	m->ops->vcpu_kick(m->vcpu);
}

static uint64_t no_mmio(struct engine_host *h, unsigned vcpu, gpa_t gpa, unsigned size)
{
	return ~0ull;
}

static void drop_mmio(struct engine_host *h, unsigned vcpu, gpa_t gpa, unsigned size,
		      uint64_t value)
{
}

static int no_vector(struct engine_host *h, unsigned vcpu)
{
	return -1;
}

static uint8_t no_cr8(struct engine_host *h, unsigned vcpu)
{
	return 0;
}

static void drop_cr8(struct engine_host *h, unsigned vcpu, uint8_t cr8)
{
}

static bool apic_read(struct engine_host *h, unsigned vcpu, uint32_t msr, uint64_t *value)
{
	*value = 0xfee00900;
	return msr == 0x1b;
}

static bool apic_write(struct engine_host *h, unsigned vcpu, uint32_t msr, uint64_t value)
{
	return msr == 0x1b;
}

static const struct engine_host_ops host_ops = {
	.pio_read = no_read,
	.pio_write = on_write,
	.mmio_read = no_mmio,
	.mmio_write = drop_mmio,
	.apic_pending = no_vector,
	.apic_ack = no_vector,
	.apic_get_cr8 = no_cr8,
	.apic_set_cr8 = drop_cr8,
	.apic_read_msr = apic_read,
	.apic_write_msr = apic_write,
};

static void machine_open(struct machine *m, const struct engine_ops *ops, bool irqchip)
{
	struct mem_config mem = { .size_bytes = 4 * MIB, .node = -1 };
	struct engine_config config = {
		.host = &m->host, .vcpus = 1, .want_irqchip = irqchip, .want_pit = irqchip
	};
	GError *err = NULL;

	*m = (struct machine){ .ops = ops, .host.ops = &host_ops };
	config.mem = m->mem = mem_new(&mem, &err);
	ck_assert_msg(m->mem != NULL, "%s", err ? err->message : "");
	m->engine = ops->open(&config, &err);
	ck_assert_msg(m->engine != NULL, "%s", err ? err->message : "");
	m->vcpu = ops->vcpu_new(m->engine, 0, &err);
	ck_assert_msg(m->vcpu != NULL, "%s", err ? err->message : "");
}

static void machine_close(struct machine *m)
{
	m->ops->vcpu_free(m->vcpu);
	m->ops->close(m->engine);
	mem_free(m->mem);
}

/* ---- every field ---- */

#define BOTH	 1u /* by both engines */
#define KVM_ONLY 2u /* the processor of bt has no such register */
#define MAY	 4u /* not by every host's KVM: it may stay at 0 */

/* Fields of 64 bits and values that any processor takes. */
static const struct {
	const char *name;
	size_t offset;
	uint64_t value;
	unsigned who;
} words[] = {
#define W(field, value, who)                                          \
	{                                                             \
#field, offsetof(struct x86_state, field), value, who \
	}
	W(gpr[0], 0x1111111111111111, BOTH),
	W(gpr[4], 0x7ff0, BOTH),
	W(gpr[15], 0xfedcba9876543210, BOTH),
	W(rip, 0x123456, BOTH),
	W(rflags, X86_FL_ONE | X86_FL_CF | X86_FL_DF | X86_FL_AC | X86_FL_ID, BOTH),
	W(cr2, 0xffff888012345678, BOTH),
	W(cr3, 0x5000, BOTH),
	W(cr4, X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_PGE, BOTH),
	W(dr[0], 0x1000, BOTH),
	W(dr[1], 0x2000, BOTH),
	W(dr[2], 0x3000, BOTH),
	W(dr[3], 0x4000, BOTH),
	W(dr[6], 0xffff4ff1, BOTH),
	W(dr[7], 0x402, BOTH),
	W(xcr0, 7, BOTH),
	W(efer, X86_EFER_SCE | X86_EFER_NXE, BOTH),
	W(star, 0x0023001000000000, BOTH),
	W(lstar, 0xffffffff81000000, BOTH),
	W(cstar, 0xffffffff82000000, BOTH),
	W(sfmask, 0x47700, BOTH),
	W(kernel_gs_base, 0xffff888000000000, BOTH),
	W(sysenter_cs, 0x10, BOTH),
	W(sysenter_esp, 0x81000000, BOTH), /* AMD keeps 32 bits */
	W(sysenter_eip, 0x82000000, BOTH),
	W(pat, 0x0407050600070106, BOTH),
	W(tsc_aux, 0x1003, BOTH | MAY),
	W(spec_ctrl, 1, BOTH | MAY),
	W(tsc_adjust, 0x123456789, BOTH | MAY),
	W(misc_features, 1, KVM_ONLY | MAY),
	W(mtrr_def_type, 0xc06, BOTH),
	W(mtrr_fixed[0], 0x0606060606060606, BOTH),
	W(mtrr_fixed[1], 0x0606060606060600, BOTH),
	W(mtrr_fixed[10], 0x0505050505050505, BOTH),
	W(mtrr_var[0], 0xc0000000, BOTH),
	W(mtrr_var[1], 0xc0000800, BOTH),
	W(mtrr_var[15], 0x800, BOTH),
	W(pv_wall_clock, 0x8000, BOTH | MAY),
	W(pv_system_time, 0x8101, BOTH | MAY),
	W(pv_poll_control, 0, BOTH | MAY),
	W(pv_eoi, 0x8201, KVM_ONLY | MAY),
	W(pv_steal_time, 0x8241, KVM_ONLY | MAY),
	W(pv_async_pf_int, 0xf3, KVM_ONLY | MAY),
#undef W
};

static uint64_t word_of(const struct x86_state *s, unsigned i)
{
	return load_le64((const uint8_t *)s + words[i].offset);
}

/* A processor at work in ring 0 of 32-bit protected mode. */
static void fill_segments(struct x86_state *s)
{
	const struct x86_segment data = { .limit = UINT32_MAX, .selector = 0x10, .attr = 0xc93 };

	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = data;
	s->seg[X86_CS] = data;
	s->seg[X86_CS].selector = 0x8;
	s->seg[X86_CS].attr = 0xc9b;
	s->seg[X86_FS].base = 0x12345000;
	s->seg[X86_GS].limit = 0x12345fff;
	s->ldtr = (struct x86_segment){
		.base = 0x6000, .limit = 0x47, .selector = 0x28, .attr = 0x82
	};
	s->tr = (struct x86_segment){
		.base = 0x6100, .limit = 0x67, .selector = 0x30, .attr = 0x8b
	};
	s->gdtr = (struct x86_table){ .base = 0x6200, .limit = 0x7f };
	s->idtr = (struct x86_table){ .base = 0x6300, .limit = 0x7ff };
	s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM;
}

static void fill_fpu(struct x86_fpu *f, bool avx)
{
	f->fcw = 0x27f;
	f->fsw = 0x3800;
	f->ftw = 0x81;
	f->fop = 0x123;
	f->fip = 0x11223344;
	f->fdp = 0x55667788;
	f->mxcsr = 0x1fa0;
	for (unsigned i = 0; i < 8; i++)
		memset(f->st[i], (int)(0x30 + i), 10);
	for (unsigned i = 0; i < 16; i++)
		for (unsigned j = 0; j < (avx ? 32 : 16); j++)
			f->vec[i][j] = (uint8_t)(0x40 + 32 * i + j);
}

/* A KVM that software backs offers no AVX. */
static void fill(struct x86_state *s, bool kvm)
{
	struct engine_probe probe;

	engine_kvm.probe(&probe);
	x86_state_reset(s);
	fill_segments(s);
	fill_fpu(&s->fpu, !kvm || probe.hardware);
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		if (kvm || words[i].who & BOTH)
			store_le64((uint8_t *)s + words[i].offset, words[i].value);
	s->nmi_masked = true;
	s->nmi_pending = true;
}

static void check_same(const struct x86_state *out, const struct x86_state *in, bool may_lack)
{
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
		if (may_lack && words[i].who & MAY && !word_of(out, i))
			continue;
		ck_assert_msg(word_of(out, i) == word_of(in, i), "%s: %#llx instead of %#llx",
			      words[i].name, (unsigned long long)word_of(out, i),
			      (unsigned long long)word_of(in, i));
	}
	ck_assert_mem_eq(out->seg, in->seg, sizeof(in->seg));
	ck_assert_mem_eq(&out->ldtr, &in->ldtr, sizeof(in->ldtr));
	ck_assert_mem_eq(&out->tr, &in->tr, sizeof(in->tr));
	ck_assert_mem_eq(&out->gdtr, &in->gdtr, sizeof(in->gdtr));
	ck_assert_mem_eq(&out->idtr, &in->idtr, sizeof(in->idtr));
	ck_assert_uint_eq(out->cr0, in->cr0);
	ck_assert_mem_eq(&out->fpu, &in->fpu, sizeof(in->fpu));
	ck_assert(out->nmi_masked == in->nmi_masked && out->nmi_pending == in->nmi_pending);
	ck_assert_uint_eq(out->activity, in->activity);
	ck_assert_uint_eq(out->exception_pending, in->exception_pending);
	ck_assert_uint_eq(out->interrupt_pending, in->interrupt_pending);
	ck_assert(!out->exception_pending || (out->exception_vector == in->exception_vector &&
					      out->exception_has_error == in->exception_has_error &&
					      out->exception_error == in->exception_error &&
					      out->exception_payload == in->exception_payload));
	ck_assert(!out->interrupt_pending || out->interrupt_vector == in->interrupt_vector);
	ck_assert(out->interrupt_shadow == in->interrupt_shadow ||
		  (out->interrupt_shadow && in->interrupt_shadow)); /* AMD has one bit for both */
}

/* It goes on meanwhile. A KVM that software backs may have one counter for host and guests. */
static void check_tsc(const struct x86_state *out, const struct x86_state *in, bool kvm)
{
	struct engine_probe probe;

	engine_kvm.probe(&probe);
	if (kvm && !probe.hardware)
		return;
	ck_assert_uint_ge(out->tsc, in->tsc);
	ck_assert_uint_lt(out->tsc, in->tsc + (1ull << 34));
}

/* Set, read, and set again what was read. */
static void go_round(struct machine *m, const struct x86_state *in)
{
	bool kvm = m->ops == &engine_kvm;
	static struct x86_state out, again;

	ck_assert_int_eq(m->ops->vcpu_set_state(m->vcpu, in), 0);
	ck_assert_int_eq(m->ops->vcpu_get_state(m->vcpu, &out), 0);
	check_same(&out, in, kvm);
	check_tsc(&out, in, kvm);
	ck_assert_int_eq(m->ops->vcpu_set_state(m->vcpu, &out), 0);
	ck_assert_int_eq(m->ops->vcpu_get_state(m->vcpu, &again), 0);
	check_same(&again, &out, false);
	check_tsc(&again, &out, kvm);
}

static void every_field(const struct engine_ops *ops, bool irqchip)
{
	static struct x86_state s;
	struct machine m;

	machine_open(&m, ops, irqchip);
	fill(&s, ops == &engine_kvm);
	s.tsc = 1ull << 45;
	go_round(&m, &s);
	/* The events that exclude each other. */
	s.nmi_masked = s.nmi_pending = false;
	s.exception_pending = s.exception_has_error = true;
	s.exception_vector = 14;
	s.exception_error = 6;
	s.exception_payload = s.cr2;
	go_round(&m, &s);
	s.exception_pending = false;
	s.interrupt_pending = true;
	s.interrupt_vector = 0x31;
	go_round(&m, &s);
	s.interrupt_pending = false;
	s.interrupt_shadow = 1;
	go_round(&m, &s);
	s.interrupt_shadow = 0;
	s.activity = X86_HALTED;
	go_round(&m, &s);
	s.activity = X86_WAIT_SIPI;
	go_round(&m, &s);
	machine_close(&m);
}

START_TEST(bt_gives_back_every_field)
{
	every_field(&engine_bt, false);
}
END_TEST

START_TEST(kvm_gives_back_every_field)
{
	every_field(&engine_kvm, _i);
}
END_TEST

/* ---- chips and clock ---- */

START_TEST(kvm_gives_back_its_chips)
{
	struct engine_chips in, out;
	struct machine m;

	machine_open(&m, &engine_kvm, true);
	ck_assert_int_eq(engine_kvm.chips_get(m.engine, &in), 0);
	in.pic[0] = (struct engine_pic){ .imr = 0xa5,
					 .vector_base = 0x20,
					 .lowest = 3,
					 .elcr = 0x20,
					 .elcr_mask = in.pic[0].elcr_mask,
					 .special_mask = true };
	in.pic[1].vector_base = 0x28;
	in.pic[1].isr = 0x04;
	in.ioapic.id = 5;
	in.ioapic.select = 0x11;
	for (unsigned i = 0; i < ENGINE_IOAPIC_PINS; i++)
		in.ioapic.redirection[i] = (uint64_t)i << 56 | 1u << 16 | (0x30 + i);
	in.pit[0].count = 0xf234; /* 52 ms: a tick between set and get would be an interrupt of the pair */
	in.pit[0].mode = 2;
	in.pit[2].count = 65536;
	in.pit[2].gate = true;
	in.speaker = true;
	ck_assert_int_eq(engine_kvm.chips_set(m.engine, &in), 0);
	ck_assert_int_eq(engine_kvm.chips_get(m.engine, &out), 0);
	ck_assert_mem_eq(out.pic, in.pic, sizeof(in.pic));
	ck_assert_uint_eq(out.ioapic.id, in.ioapic.id);
	ck_assert_uint_eq(out.ioapic.select, in.ioapic.select);
	ck_assert_mem_eq(out.ioapic.redirection, in.ioapic.redirection,
			 sizeof(in.ioapic.redirection));
	ck_assert_int_eq(out.has_pit, !!(engine_kvm.caps(m.engine) & ENGINE_CAP_PIT));
	for (unsigned i = 0; i < 3 && out.has_pit; i++) {
		ck_assert_uint_eq(out.pit[i].count, in.pit[i].count);
		ck_assert_uint_eq(out.pit[i].mode, in.pit[i].mode);
		ck_assert_uint_eq(out.pit[i].gate, in.pit[i].gate);
	}
	ck_assert_int_eq(out.speaker, out.has_pit);
	machine_close(&m);
	/* Without them there is nothing to give. */
	machine_open(&m, &engine_kvm, false);
	ck_assert_int_lt(engine_kvm.chips_get(m.engine, &out), 0);
	ck_assert_int_lt(engine_kvm.chips_set(m.engine, &in), 0);
	machine_close(&m);
}
END_TEST

#define APIC_TPR 0x80u
#define APIC_SVR 0xf0u
#define APIC_ISR 0x100u
#define APIC_IRR 0x200u
#define APIC_LVT 0x320u
#define APIC_DCR 0x3e0u

START_TEST(kvm_gives_back_its_local_apic)
{
	struct engine_apic in, out;
	struct machine m;

	machine_open(&m, &engine_kvm, true);
	ck_assert_int_eq(engine_kvm.vcpu_get_apic(m.vcpu, &in), 0);
	ck_assert_uint_eq(in.base, 0xfee00900);
	store_le32(in.regs + APIC_TPR, 0x20);
	store_le32(in.regs + APIC_SVR, 0x1ff);
	store_le32(in.regs + APIC_ISR + 0x10, 1u << 5);
	store_le32(in.regs + APIC_IRR + 0x20, 1u << 7);
	store_le32(in.regs + APIC_LVT, 0x20031); /* periodic, vector 0x31 */
	store_le32(in.regs + APIC_DCR, 0xb);
	ck_assert_int_eq(engine_kvm.vcpu_set_apic(m.vcpu, &in), 0);
	ck_assert_int_eq(engine_kvm.vcpu_get_apic(m.vcpu, &out), 0);
	ck_assert_uint_eq(out.base, in.base);
	for (unsigned at = APIC_TPR; at < ENGINE_APIC_BYTES; at += 16)
		ck_assert_msg(at == 0xa0 || /* priority of the processor: follows from the others */
				      load_le32(out.regs + at) == load_le32(in.regs + at),
			      "register %#x", at);
	machine_close(&m);
}
END_TEST

static void clock_goes_on(const struct engine_ops *ops)
{
	const uint64_t hour = 3600ull * 1000000000;
	uint64_t ns;
	struct machine m;

	machine_open(&m, ops, false);
	ck_assert_int_eq(ops->clock_get(m.engine, &ns), 0);
	ck_assert_uint_lt(ns, hour);
	ck_assert_int_eq(ops->clock_set(m.engine, 5 * hour), 0);
	nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	ck_assert_int_eq(ops->clock_get(m.engine, &ns), 0);
	ck_assert_uint_ge(ns, 5 * hour + 9000000);
	ck_assert_uint_lt(ns, 6 * hour);
	machine_close(&m);
}

START_TEST(bt_clock_goes_on_from_where_it_is_set)
{
	clock_goes_on(&engine_bt);
}
END_TEST

START_TEST(kvm_clock_goes_on_from_where_it_is_set)
{
	clock_goes_on(&engine_kvm);
}
END_TEST

/* What the guest reads is that clock: the page of a vCPU says it as a function of its TSC. */
START_TEST(bt_page_of_the_clock_follows)
{
	static struct x86_state s;
	const uint64_t hour = 3600ull * 1000000000;
	uint8_t page[32];
	struct machine m;

	machine_open(&m, &engine_bt, false);
	ck_assert_int_eq(engine_bt.vcpu_get_state(m.vcpu, &s), 0);
	s.pv_system_time = DATA | 1;
	ck_assert_int_eq(engine_bt.clock_set(m.engine, 5 * hour), 0);
	ck_assert_int_eq(engine_bt.vcpu_set_state(m.vcpu, &s), 0);
	ck_assert_int_eq(mem_read(m.mem, DATA, page, sizeof(page)), 0);

	uint64_t delta = engine_bt.vcpu_tsc(m.vcpu) - load_le64(page + 8);
	int8_t shift = (int8_t)page[28];

	delta = shift < 0 ? delta >> -shift : delta << shift;
	uint64_t now = load_le64(page + 16) +
		       (uint64_t)((unsigned __int128)delta * load_le32(page + 24) >> 32);
	ck_assert_uint_ge(now, 5 * hour);
	ck_assert_uint_lt(now, 5 * hour + 10000000000);
	machine_close(&m);
}
END_TEST

/* ---- begun by one, ended by the other ---- */

/*
 * A checksum over 256 steps, all of it in registers and flags that a state must carry, with an x87
 * and a memory counter beside it; every 32 steps it says so on PORT_STOP.
 */
static const uint8_t program[] = {
	0xf9, /* next: stc */
	0x11, 0xd8, /* adc ax, bx */
	0xd1, 0xd3, /* rcl bx, 1 */
	0x66, 0x69,	 0xff, 0x0d, 0x66, 0x19, 0x00, /* imul edi, edi, 1664525 */
	0x66, 0x01,	 0xf8, /* add eax, edi */
	0x66, 0x31,	 0xc6, /* xor esi, eax */
	0xd9, 0xe8, /* fld1 */
	0xde, 0xc1, /* faddp */
	0xff, 0x06,	 0x00, 0x40, /* inc word [DATA] */
	0x41, /* inc cx */
	0xf6, 0xc1,	 0x1f, /* test cl, 31 */
	0x75, 0xe0, /* jnz next */
	0xe7, PORT_STOP, /* out PORT_STOP, ax */
	0xeb, 0xdc, /* jmp next */
};
#define STOPS 8u

static void program_start(struct machine *m)
{
	static struct x86_state s;
	uint8_t zero[2] = { 0 };

	ck_assert_int_eq(mem_write(m->mem, CODE, program, sizeof(program)), 0);
	ck_assert_int_eq(mem_write(m->mem, DATA, zero, sizeof(zero)), 0);
	x86_state_reset(&s);
	s.seg[X86_CS].base = 0;
	s.seg[X86_CS].selector = 0;
	s.rip = CODE;
	memset(s.gpr, 0, sizeof(s.gpr));
	s.gpr[X86_RDI] = 12345;
	s.gpr[X86_RBX] = 0x9e37;
	s.fpu.fcw = 0x37f;
	s.fpu.ftw = 0x80; /* ST(0) holds 0.0: TOP is 7 */
	s.fpu.fsw = 7u << 11;
	ck_assert_int_eq(m->ops->vcpu_set_state(m->vcpu, &s), 0);
}

static void run_to_stop(struct machine *m)
{
	unsigned before = m->stops;

	for (unsigned i = 0; m->stops == before; i++) {
		ck_assert_uint_lt(i, 10);
		ck_assert_int_eq(m->ops->vcpu_run(m->vcpu), ENGINE_EXIT_KICK);
	}
}

static void hand_over(struct machine *from, struct machine *to)
{
	static struct x86_state s;
	static uint8_t ram[2 * DATA];

	ck_assert_int_eq(from->ops->vcpu_get_state(from->vcpu, &s), 0);
	ck_assert_int_eq(mem_read(from->mem, 0, ram, sizeof(ram)), 0);
	ck_assert_int_eq(mem_write(to->mem, 0, ram, sizeof(ram)), 0);
	ck_assert_int_eq(to->ops->vcpu_set_state(to->vcpu, &s), 0);
}

START_TEST(engines_take_turns_with_one_program)
{
	struct machine bt, alone, kvm;
	struct x86_state want, got;
	uint8_t count[2][2];

	/* Together, so that their counters are alike whatever the host does in between. */
	machine_open(&alone, &engine_bt, false);
	machine_open(&bt, &engine_bt, false);
	machine_open(&kvm, &engine_kvm, false);
	program_start(&alone);
	for (unsigned i = 0; i < STOPS; i++)
		run_to_stop(&alone);
	program_start(&bt);
	for (unsigned i = 0; i < STOPS; i += 2) {
		run_to_stop(&bt);
		hand_over(&bt, &kvm);
		run_to_stop(&kvm);
		hand_over(&kvm, &bt);
	}
	/* How far behind its OUT a vCPU stops is the engine's own affair: the same one for both. */
	run_to_stop(&alone);
	run_to_stop(&bt);
	ck_assert_int_eq(engine_bt.vcpu_get_state(alone.vcpu, &want), 0);
	ck_assert_int_eq(engine_bt.vcpu_get_state(bt.vcpu, &got), 0);
	ck_assert_mem_eq(got.gpr, want.gpr, sizeof(want.gpr));
	ck_assert_uint_eq(got.rip, want.rip);
	ck_assert_uint_eq(got.rflags, want.rflags);
	ck_assert_mem_eq(got.fpu.st, want.fpu.st, sizeof(want.fpu.st));
	ck_assert_uint_eq(got.fpu.fsw, want.fpu.fsw);
	ck_assert_uint_eq(got.fpu.ftw, want.fpu.ftw);
	mem_read(alone.mem, DATA, count[0], 2);
	mem_read(bt.mem, DATA, count[1], 2);
	ck_assert_uint_eq(load_le16(count[0]), 32 * (STOPS + 1));
	ck_assert_uint_eq(load_le16(count[1]), 32 * (STOPS + 1));
	ck_assert_uint_ge(got.tsc, want.tsc / 2);
	machine_close(&kvm);
	machine_close(&bt);
	machine_close(&alone);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("engine state");
	TCase *tc = tcase_create("state");
	struct engine_probe probe;
	SRunner *runner;
	int failed;

	engine_kvm.probe(&probe);
	tcase_set_timeout(tc, 20);
	tcase_add_test(tc, bt_gives_back_every_field);
	tcase_add_test(tc, bt_clock_goes_on_from_where_it_is_set);
	tcase_add_test(tc, bt_page_of_the_clock_follows);
	if (probe.available) {
		tcase_add_loop_test(tc, kvm_gives_back_every_field, 0, 2);
		tcase_add_test(tc, kvm_gives_back_its_chips);
		tcase_add_test(tc, kvm_gives_back_its_local_apic);
		tcase_add_test(tc, kvm_clock_goes_on_from_where_it_is_set);
		tcase_add_test(tc, engines_take_turns_with_one_program);
	} else {
		printf("kvm: %s\n", probe.text);
	}
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (failed)
		return EXIT_FAILURE;
	return probe.available ? EXIT_SUCCESS : 77;
}
