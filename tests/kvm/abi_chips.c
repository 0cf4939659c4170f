// SPDX-License-Identifier: Apache-2.0
/*
 * abi_chips.c - split interrupt controllers, the 8254, the paravirtual clock, machine checks, a signal mask. What the
 * host's KVM does not offer passes.
 */
#include "abi.h"
#include "../kmod/clock.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

/* ---- split chips ---- */

static int split(void)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };

	machine();
	if (has(KVM_CAP_SPLIT_IRQCHIP) <= 0)
		return 0;
	ck_assert_int_eq(ioctl(vm, KVM_ENABLE_CAP, &cap), 0);
	/* Once, and one kind of them. */
	ck_assert_int_eq(ioctl(vm, KVM_ENABLE_CAP, &cap), -1);
	ck_assert_int_eq(ioctl(vm, KVM_CREATE_IRQCHIP, 0), -1);
	ck_assert_int_eq(errno, EEXIST);
	return 1;
}

START_TEST(split_chips_take_what_the_8259_sends)
{
	static const uint8_t code[] = { 0xfb, 0x90, 0xf4, 0xeb, 0xfd }; /* sti; nop; hlt; jmp back */
	static const uint8_t handler[] = { 0xb0, 0x77, 0xe6, PORT, 0xcf };
	struct kvm_interrupt irq = { .irq = 0x40 };

	if (!split())
		return;
	start(code, sizeof(code), 0);
	put_handler(0x40, handler, sizeof(handler));
	run->request_interrupt_window = 1;
	run_to(KVM_EXIT_IRQ_WINDOW_OPEN);
	ck_assert_uint_eq(run->ready_for_interrupt_injection, 1);
	ck_assert_uint_eq(run->if_flag, 1);
	ck_assert_int_eq(ioctl(vcpu, KVM_INTERRUPT, &irq), 0);
	ck_assert_int_eq(ioctl(vcpu, KVM_INTERRUPT, &irq), -1);
	ck_assert_int_eq(errno, EEXIST);
	run->request_interrupt_window = 0;
	run_to_port(0x77);
	/* Its handler has the flag cleared. */
	ck_assert_uint_eq(run->ready_for_interrupt_injection, 0);
}
END_TEST

/* Of a level the end is told, of an edge it is not. */
START_TEST(split_chips_tell_the_end_of_a_level)
{
	static const uint8_t code[] = {
		0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00, 0x00, /* mov dword [0xf0], 0x1ff */
		0xb0, 0x01, 0xe6, PORT,				      /* enabled: tell */
		0xfb, 0xf4, 0xeb, 0xfd,				      /* sti; hlt; jmp back */
	};
	static const uint8_t handler[] = {
		0x66, 0xc7, 0x06, 0xb0, 0x00, 0x00, 0x00, 0x00, 0x00, /* mov dword [0xb0], 0 */
		0xb0, 0x02, 0xe6, PORT, 0xcf,
	};
	union {
		struct kvm_irq_routing head;
		uint8_t room[sizeof(struct kvm_irq_routing) + 2 * sizeof(struct kvm_irq_routing_entry)];
	} routes = { .head.nr = 2 };
	unsigned told, out;

	if (!split())
		return;
	for (unsigned i = 0; i < 2; i++) {
		routes.head.entries[i].gsi = 5 + i;
		routes.head.entries[i].type = KVM_IRQ_ROUTING_MSI;
		routes.head.entries[i].u.msi.address_lo = APIC;
		routes.head.entries[i].u.msi.data = (0x41 + i) | (i ? 0 : 0xc000); /* level, asserted */
	}
	start(code, sizeof(code), APIC);
	/* The stock driver looks at the routes for vCPUs that there are. */
	ck_assert_int_eq(ioctl(vm, KVM_SET_GSI_ROUTING, &routes), 0);
	run_to_port(1);
	for (unsigned i = 0; i < 2; i++) {
		struct kvm_irq_level line = { .irq = 5 + i, .level = 1 };

		put_handler(0x41 + i, handler, sizeof(handler));
		ck_assert_int_eq(ioctl(vm, KVM_IRQ_LINE, &line), 0);
		line.level = 0;
		ck_assert_int_eq(ioctl(vm, KVM_IRQ_LINE, &line), 0);
		/* A KVM that software backs goes on to the next exit before it tells. */
		for (told = out = 0; told + out < 2 - i;) {
			ck_assert_int_eq(run_on(), 0);
			told += run->exit_reason == KVM_EXIT_IOAPIC_EOI && run->eoi.vector == 0x41;
			out += run->exit_reason == KVM_EXIT_IO;
			ck_assert(told <= 1 - i && out <= 1);
		}
	}
}
END_TEST

/* The 8259 pair in user space has something that this vCPU does not listen to: it runs on. */
START_TEST(split_chips_whose_line_is_masked)
{
	static const uint8_t code[] = {
		0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00, 0x00, /* mov dword [0xf0], 0x1ff */
		0x66, 0xc7, 0x06, 0x50, 0x03, 0x00, 0x07, 0x01, 0x00, /* mov dword [0x350], 0x10700 */
		0xfb, 0x90, 0x90, 0xb0, 0x05, 0xe6, PORT,	      /* sti; nop; nop */
		0x66, 0xc7, 0x06, 0x50, 0x03, 0x00, 0x07, 0x00, 0x00, /* mov dword [0x350], 0x700 */
		0xeb, 0xfe,
	};

	if (!split())
		return;
	start(code, sizeof(code), APIC);
	run->request_interrupt_window = 1;
	run_to_port(5);
	ck_assert_uint_eq(run->if_flag, 1);
	ck_assert_uint_eq(run->ready_for_interrupt_injection, 0);
	run_to(KVM_EXIT_IRQ_WINDOW_OPEN);
	ck_assert_uint_eq(run->ready_for_interrupt_injection, 1);
}
END_TEST

/* ---- the 8254 ---- */

/* Nanoseconds. */
static int64_t since(const struct timespec *from)
{
	struct timespec to;

	clock_gettime(CLOCK_MONOTONIC, &to);
	return (to.tv_sec - from->tv_sec) * 1000000000 + to.tv_nsec - from->tv_nsec;
}

START_TEST(pit_ticks)
{
	static const uint8_t code[] = {
		0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, /* 8259: */
		0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xfe, 0xe6, 0x21, /* vectors from 0x20, input 0 open */
		0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x9c, 0xe6, 0x40, 0xb0, 0x2e, 0xe6, 0x40, /* 100 Hz */
		0xfb, 0xf4,				  /* next: sti; hlt */
		0x80, 0x3e, 0x00, 0x30, 0x05, 0x72, 0xf8, /* cmp byte [0x3000], 5; jb next + 1 */
		0xb0, 0x05, 0xe6, PORT,
	};
	/* inc byte [0x3000]; EOI; iret */
	static const uint8_t handler[] = { 0xfe, 0x06, 0x00, 0x30, 0xb0, 0x20, 0xe6, 0x20, 0xcf };
	struct kvm_pit_config config = { 0 };
	struct kvm_pit_state2 state;
	struct timespec from;

	machine();
	if (has(KVM_CAP_PIT2) <= 0)
		return;
	/* Without interrupt controllers there is none; Linux 6.1 made one all the same. */
	if (ioctl(vm, KVM_CREATE_PIT2, &config) == 0)
		machine();
	else
		ck_assert_int_eq(errno, ENOENT);
	ck_assert_int_eq(ioctl(vm, KVM_CREATE_IRQCHIP, 0), 0);
	ck_assert_int_eq(ioctl(vm, KVM_CREATE_PIT2, &config), 0);
	ck_assert_int_eq(ioctl(vm, KVM_CREATE_PIT2, &config), -1);
	ck_assert_int_eq(errno, EEXIST);
	start(code, sizeof(code), 0);
	put_handler(0x20, handler, sizeof(handler));
	clock_gettime(CLOCK_MONOTONIC, &from);
	run_to_port(5);
	ck_assert_int_ge(since(&from), 38000000); /* four periods at least */
	ck_assert_int_eq(ioctl(vm, KVM_GET_PIT2, &state), 0);
	ck_assert_uint_eq(state.channels[0].mode, 2);
	ck_assert_uint_eq(state.channels[0].count, 0x2e9c);
	ck_assert_uint_eq(state.channels[0].gate, 1);
	ck_assert_uint_eq(state.channels[2].gate, 0);
	/* It goes on from what is set. */
	ram[0x3000] = 0;
	state.channels[0].count = 0x1000;
	ck_assert_int_eq(ioctl(vm, KVM_SET_PIT2, &state), 0);
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_REGS, &(struct kvm_regs){
		.rip = CODE + 32, .rflags = 2, .rsp = 0x8000 }), 0);
	run_to_port(5);
	ck_assert_int_eq(ioctl(vm, KVM_GET_PIT2, &state), 0);
	ck_assert_uint_eq(state.channels[0].count, 0x1000);
}
END_TEST

/* A clock of 500 Hz that the guest counts in the word at 0x3000. */
#define TICK_NS	   2000000
#define SET_UP_PIT 0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x52, 0xe6, 0x40, 0xb0, 0x09, 0xe6, 0x40
/* Out of the machine, then: sti; next: out; jmp next */
#define COUNT_TICKS 0xb0, 0x01, 0xe6, PORT, 0xfb, 0xb0, 0x03, 0xe6, PORT, 0xeb, 0xfa

static int ticks(void)
{
	return *(volatile uint16_t *)(ram + 0x3000);
}

/* A fifth of a second is slept with the clock at work, and more of them follow: none may be lost,
 * none be too many. */
static void counts_all_ticks(void)
{
	struct timespec from;
	int64_t gone;
	int n;

	run_to_port(1);
	clock_gettime(CLOCK_MONOTONIC, &from);
	sleep_ms(200);
	do {
		run_to_port(3);
		n = ticks();
		gone = since(&from) / TICK_NS;
		ck_assert_int_le(n, (int)gone + 3);
	} while (n < gone - 3 && gone < 10000000000 / TICK_NS);
	ck_assert_int_ge(n, (int)gone - 3);
}

static void pit_of_controllers(void)
{
	machine();
	ck_assert_int_eq(ioctl(vm, KVM_CREATE_IRQCHIP, 0), 0);
	ck_assert_int_eq(ioctl(vm, KVM_CREATE_PIT2, &(struct kvm_pit_config){ 0 }), 0);
}

START_TEST(no_tick_is_lost)
{
	static const uint8_t code[] = {
		0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04,	  0xe6,
		0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xfe, 0xe6, 0x21, SET_UP_PIT, COUNT_TICKS,
	};
	/* inc word [0x3000]; EOI; iret */
	static const uint8_t handler[] = { 0x50, 0xff, 0x06, 0x00, 0x30, 0xb0,
					   0x20, 0xe6, 0x20, 0x58, 0xcf };
	struct kvm_reinject_control give = { .pit_reinject = 1 }, lose = { 0 };
	/* Masked: out 4, out 5. Not masked: next: out 3; jmp next */
	static const uint8_t mask[] = {
		0xb0, 0xff, 0xe6, 0x21, 0xb0, 0x04, 0xe6, PORT, 0xb0, 0x05, 0xe6,
		PORT, 0xb0, 0xfe, 0xe6, 0x21, 0xb0, 0x03, 0xe6, PORT, 0xeb, 0xfa,
	};
	struct timespec from;
	struct kvm_regs regs;
	int before;

	machine();
	if (has(KVM_CAP_PIT2) <= 0)
		return;
	ck_assert_int_eq(has(KVM_CAP_REINJECT_CONTROL), 1);
	ck_assert_int_eq(ioctl(vm, KVM_CREATE_IRQCHIP, 0), 0);
	ck_assert_int_eq(ioctl(vm, KVM_REINJECT_CONTROL, &lose), -1);
	ck_assert_int_eq(errno, ENXIO);
	pit_of_controllers();
	start(code, sizeof(code), 0);
	put_handler(0x20, handler, sizeof(handler));
	counts_all_ticks();

	/* What comes while nobody would take it is not missed, but for the one that the controller
	 * keeps. */
	memcpy(ram + CODE + 0x800, mask, sizeof(mask));
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_REGS, &regs), 0);
	regs.rip = CODE + 0x800;
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_REGS, &regs), 0);
	run_to_port(4);
	before = ticks();
	sleep_ms(200);
	run_to_port(5);
	ck_assert_int_eq(ticks(), before);
	clock_gettime(CLOCK_MONOTONIC, &from);
	while (ticks() < before + 10)
		run_to_port(3);
	ck_assert_int_le(ticks() - before, (int)(since(&from) / TICK_NS) + 3);

	/* Nor where user space wants it so. */
	ck_assert_int_eq(ioctl(vm, KVM_REINJECT_CONTROL, &lose), 0);
	before = ticks();
	clock_gettime(CLOCK_MONOTONIC, &from);
	sleep_ms(200);
	while (ticks() < before + 10)
		run_to_port(3);
	ck_assert_int_le(ticks() - before, (int)((since(&from) - 200000000) / TICK_NS) + 3);
	ck_assert_int_eq(ioctl(vm, KVM_REINJECT_CONTROL, &give), 0);
}
END_TEST

START_TEST(no_tick_is_lost_by_the_io_apic)
{
	static const uint8_t code[] = {
		0x66, 0xc7, 0x06, 0xf0, 0x00,	    0xff,
		0x01, 0x00, 0x00, /* mov dword [0xf0], 0x1ff */
		0xb0, 0xff, 0xe6, 0x21, SET_UP_PIT, COUNT_TICKS,
	};
	/* inc word [ss:0x3000]; mov dword [0xb0], 0; iret */
	static const uint8_t handler[] = { 0x36, 0xff, 0x06, 0x00, 0x30, 0x66, 0xc7, 0x06,
					   0xb0, 0x00, 0x00, 0x00, 0x00, 0x00, 0xcf };
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	machine();
	if (has(KVM_CAP_PIT2) <= 0)
		return;
	pit_of_controllers();
	start(code, sizeof(code), APIC);
	put_handler(0x30, handler, sizeof(handler));
	ck_assert_int_eq(ioctl(vm, KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.ioapic.redirtbl[0].bits = 0x30;
	ck_assert_int_eq(ioctl(vm, KVM_SET_IRQCHIP, &chip), 0);
	counts_all_ticks();
}
END_TEST

/* ---- the clock ---- */

static uint64_t clock_of_page(uint64_t tsc)
{
	struct {
		uint32_t version, pad;
		uint64_t tsc, ns;
		uint32_t mul;
		int8_t shift;
		uint8_t flags;
	} page;
	uint64_t delta;

	memcpy(&page, ram + CLOCK_PAGE, sizeof(page));
	ck_assert_uint_ne(page.version, 0);
	ck_assert_uint_eq(page.version & 1, 0); /* odd: a reader waits for the writer */
	ck_assert_uint_ne(page.mul, 0);
	delta = tsc - page.tsc;
	delta = page.shift < 0 ? delta >> -page.shift : delta << page.shift;
	return page.ns + (uint64_t)((unsigned __int128)delta * page.mul >> 32);
}

START_TEST(clock_page_says_what_the_clock_says)
{
	static const uint8_t code[] = { 0xb0, 0x01, 0xe6, PORT, 0xeb, 0xfa };
	const uint64_t second = 1000000000;
	struct kvm_clock_data clock;
	uint64_t value, tsc, ns;

	machine();
	start(code, sizeof(code), 0);
	/* The counter is set, any number of times, while there is no page yet. */
	for (unsigned i = 0; i < 3; i++) {
		value = (uint64_t)i << 40;
		ck_assert_int_eq(msr(KVM_SET_MSRS, MSR_TSC, &value), 1);
		run_to_port(1);
	}
	value = CLOCK_PAGE | 1;
	if (msr(KVM_SET_MSRS, MSR_SYSTEM_TIME, &value) != 1)
		return;
	for (unsigned i = 0; i < 3; i++) {
		run_to_port(1);
		ck_assert_int_eq(msr(KVM_GET_MSRS, MSR_TSC, &tsc), 1);
		ns = clock_of_page(tsc);
		ck_assert_int_eq(ioctl(vm, KVM_GET_CLOCK, &clock), 0);
		ck_assert_uint_lt(ns, clock.clock + second);
		ck_assert_uint_lt(clock.clock, ns + 5 * second);
		clock = (struct kvm_clock_data){ .clock = (i + 1) * 3600 * second };
		ck_assert_int_eq(ioctl(vm, KVM_SET_CLOCK, &clock), 0);
	}
}
END_TEST

/* ---- the rest ---- */

START_TEST(machine_checks)
{
	static const uint8_t code[] = { 0xf4 };
	uint64_t supported, cap, too_many = 255, value = 0;
	struct kvm_x86_mce mce = { .status = 1ull << 63 | 0x11, .addr = 0x1234, .bank = 1 };

	machine();
	if (has(KVM_CAP_MCE) <= 0)
		return;
	start(code, sizeof(code), 0);
	ck_assert_int_eq(ioctl(dev, KVM_X86_GET_MCE_CAP_SUPPORTED, &supported), 0);
	ck_assert_int_eq(ioctl(vcpu, KVM_X86_SETUP_MCE, &too_many), -1);
	ck_assert_int_eq(errno, EINVAL);
	cap = (supported & 1 << 8) | 10;
	ck_assert_int_eq(ioctl(vcpu, KVM_X86_SETUP_MCE, &cap), 0);
	ck_assert_int_eq(msr(KVM_GET_MSRS, MSR_MCG_CAP, &value), 1);
	ck_assert_uint_eq(value & 0xff, 10);
	ck_assert_int_eq(ioctl(vcpu, KVM_X86_SET_MCE, &mce), 0);
	ck_assert_int_eq(msr(KVM_GET_MSRS, MSR_MC1_STATUS, &value), 1);
	ck_assert_uint_eq(value, mce.status);
	mce.bank = 10;
	ck_assert_int_eq(ioctl(vcpu, KVM_X86_SET_MCE, &mce), -1);
	ck_assert_int_eq(errno, EINVAL);
}
END_TEST

/* A signal that is blocked but for KVM_RUN ends it, and is still there. */
START_TEST(signal_mask)
{
	static const uint8_t code[] = { 0xeb, 0xfe };
	union {
		struct kvm_signal_mask head;
		uint8_t bytes[sizeof(struct kvm_signal_mask) + 8];
	} mask = { .head.len = 8 };
	struct timespec none = { 0 };
	sigset_t usr1;

	machine();
	start(code, sizeof(code), 0);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_SIGNAL_MASK, &mask), 0);
	pthread_kill(pthread_self(), SIGUSR1);
	ck_assert_int_eq(ioctl(vcpu, KVM_RUN, 0), -1);
	ck_assert_int_eq(errno, EINTR);
	ck_assert_uint_eq(run->exit_reason, KVM_EXIT_INTR);
	ck_assert_int_eq(sigtimedwait(&usr1, NULL, &none), SIGUSR1);
	mask.head.len = 4;
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_SIGNAL_MASK, &mask), -1);
	ck_assert_int_eq(errno, EINVAL);
}
END_TEST

START_TEST(halt_polling)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_HALT_POLL, .args = { 1ull << 32 } };

	machine();
	if (has(KVM_CAP_HALT_POLL) <= 0)
		return;
	ck_assert_int_eq(ioctl(vm, KVM_ENABLE_CAP, &cap), -1);
	ck_assert_int_eq(errno, EINVAL);
	for (cap.args[0] = 0; cap.args[0] <= 1000000; cap.args[0] += 1000000)
		ck_assert_int_eq(ioctl(vm, KVM_ENABLE_CAP, &cap), 0);
}
END_TEST

START_TEST(features_by_msr)
{
	union {
		struct kvm_msr_list head;
		uint8_t room[sizeof(struct kvm_msr_list) + 64 * sizeof(uint32_t)];
	} list = { 0 };
	union one_msr value = { .head.nmsrs = 1 };

	machine();
	/* QEMU asks so for the number, and does not go on when there are none. */
	ck_assert_int_eq(ioctl(dev, KVM_GET_MSR_FEATURE_INDEX_LIST, &list), -1);
	ck_assert_int_eq(errno, E2BIG);
	ck_assert_uint_gt(list.head.nmsrs, 0);
	ck_assert_uint_le(list.head.nmsrs, 64);
	ck_assert_int_eq(ioctl(dev, KVM_GET_MSR_FEATURE_INDEX_LIST, &list), 0);
	for (unsigned i = 0; i < list.head.nmsrs; i++) {
		value.head.entries[0].index = list.head.indices[i];
		ck_assert_int_eq(ioctl(dev, KVM_GET_MSRS, &value), 1);
	}
	value.head.entries[0].index = 0x12345;
	ck_assert_int_eq(ioctl(dev, KVM_GET_MSRS, &value), 0);
}
END_TEST

TCase *chips_tests(void)
{
	TCase *tc = tcase_create("chips");

	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, split_chips_take_what_the_8259_sends);
	tcase_add_test(tc, split_chips_whose_line_is_masked);
	tcase_add_test(tc, split_chips_tell_the_end_of_a_level);
	tcase_add_test(tc, pit_ticks);
	tcase_add_test(tc, no_tick_is_lost);
	tcase_add_test(tc, no_tick_is_lost_by_the_io_apic);
	tcase_add_test(tc, clock_page_says_what_the_clock_says);
	tcase_add_test(tc, machine_checks);
	tcase_add_test(tc, signal_mask);
	tcase_add_test(tc, halt_polling);
	tcase_add_test(tc, features_by_msr);
	return tc;
}
