// SPDX-License-Identifier: Apache-2.0
/*
 * abi_debug.c - a debugger in user space: single steps and breakpoints, and what the guest sees of them: nothing.
 *
 * QEMU's software CPU with AMD-V neither intercepts INT3 nor arms breakpoints by VMRUN: where the first one is not met
 * the test goes on without them. A KVM that software backs is not asked.
 */
#include "abi.h"

#include <cpuid.h>

#define DB  1
#define BP  3
#define BS  (1u << 14)
#define TF  0x100u
#define DEV 0x400000u /* no slot there */

static int debug(uint32_t control, const struct kvm_guest_debug *with)
{
	struct kvm_guest_debug d = with ? *with : (struct kvm_guest_debug){ 0 };

	d.control = control;
	return ioctl(vcpu, KVM_SET_GUEST_DEBUG, &d);
}

static void run_to_debug(uint32_t exception, uint64_t pc, uint64_t dr6)
{
	struct kvm_regs regs;

	run_to(KVM_EXIT_DEBUG);
	ck_assert_uint_eq(run->debug.arch.exception, exception);
	ck_assert_uint_eq(run->debug.arch.pc, pc);
	if (exception == DB)
		ck_assert_uint_eq(run->debug.arch.dr6 & (BS | 15), dr6);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_REGS, &regs), 0);
	ck_assert_uint_eq(regs.rflags & TF, 0);
}

/* As QEMU does it: said again before each. */
static void step_to(uint64_t pc)
{
	ck_assert_int_eq(debug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, NULL), 0);
	run_to_debug(DB, pc, BS);
}

/* Whether it comes to @pc, or on to PORT. */
static int breaks(uint32_t exception, uint64_t pc)
{
	ck_assert_int_eq(run_on(), 0);
	if (run->exit_reason == KVM_EXIT_IO)
		return 0;
	ck_assert_uint_eq(run->exit_reason, KVM_EXIT_DEBUG);
	ck_assert_uint_eq(run->debug.arch.exception, exception);
	ck_assert_uint_eq(run->debug.arch.pc, pc);
	return 1;
}

static int can_debug(void)
{
	unsigned a, b, c, d, vmx = 0, svm = 0;

	if (__get_cpuid(1, &a, &b, &c, &d))
		vmx = c & 1u << 5;
	if (__get_cpuid(0x80000001, &a, &b, &c, &d))
		svm = c & 1u << 2;
	machine();
	return (vmx || svm) && has(KVM_CAP_SET_GUEST_DEBUG) > 0;
}

/* Instructions of the hardware, of the kernel, of user space's port and of its memory. */
START_TEST(single_steps)
{
	static const uint8_t code[] = {
		0x90,			      /* 0: nop */
		0xb0, 0x11,		      /* 1: mov al, 0x11 */
		0xe6, PORT,		      /* 3: out PORT, al */
		0x0f, 0xa2,		      /* 5: cpuid */
		0xa0, 0x10, 0x00,	      /* 7: mov al, [0x10] */
		0xeb, 0x00,		      /* 10: jmp 12 */
		0xb0, 0x22, 0xe6, PORT,	      /* 12 */
	};

	if (!can_debug())
		return;
	start(code, sizeof(code), DEV);
	step_to(CODE + 1);
	step_to(CODE + 3);
	ck_assert_int_eq(debug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, NULL), 0);
	run_to_port(0x11);
	run_to_debug(DB, CODE + 5, BS);
	step_to(CODE + 7);
	ck_assert_int_eq(debug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, NULL), 0);
	run_to(KVM_EXIT_MMIO);
	ck_assert_uint_eq(run->mmio.phys_addr, DEV + 0x10);
	run_to_debug(DB, CODE + 10, BS);
	step_to(CODE + 12);
	ck_assert_int_eq(debug(0, NULL), 0);
	run_to_port(0x22);
}
END_TEST

/* It is the debugger's. */
START_TEST(software_breakpoints)
{
	static const uint8_t code[] = { 0x90, 0xcc, 0xb0, 0x33, 0xe6, PORT };
	static const uint8_t handler[] = { 0xe6, PORT, 0xcf };

	if (!can_debug())
		return;
	start(code, sizeof(code), 0);
	put_handler(BP, handler, sizeof(handler));
	ck_assert_int_eq(debug(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, NULL), 0);
	if (!breaks(BP, CODE + 1))
		return;
	run_to_debug(BP, CODE + 1, 0);
	ck_assert_int_eq(debug(0, NULL), 0);
	run_to_port(0);
	run_to_port(0x33);
}
END_TEST

/* It was not the debugger's after all: the guest's handler sees it as its own. */
START_TEST(breakpoint_given_to_the_guest)
{
	static const uint8_t code[] = { 0xcc, 0xb0, 0x33, 0xe6, PORT };
	static const uint8_t handler[] = { 0x58, 0x50, 0xe6, PORT, 0xcf }; /* pop ax; push ax; out; iret */
	const uint32_t on = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;

	if (!can_debug())
		return;
	start(code, sizeof(code), 0);
	put_handler(BP, handler, sizeof(handler));
	ck_assert_int_eq(debug(on | KVM_GUESTDBG_INJECT_BP, NULL), 0);
	ck_assert_int_eq(debug(on | KVM_GUESTDBG_INJECT_BP, NULL), -1);
	ck_assert_int_eq(errno, EBUSY);
	run_to_port((CODE + 1) & 0xff);
	run_to_port(0x33);
}
END_TEST

START_TEST(hardware_breakpoints)
{
	static const uint8_t code[] = {
		0x90,						  /* 0: nop */
		0x66, 0xb8, 0x34, 0x12, 0x00, 0x00,		  /* 1: mov eax, 0x1234 */
		0x0f, 0x23, 0xc0,				  /* 7: mov dr0, eax */
		0xc6, 0x06, 0x00, 0x30, 0x01,			  /* 10: mov byte [0x3000], 1 */
		0x0f, 0x21, 0xf8,				  /* 15: mov eax, dr7 */
		0xe6, PORT,					  /* 18: its low byte */
		0x0f, 0x21, 0xc0, 0xe6, PORT,			  /* 20: of dr0 */
		0xc6, 0x06, 0x00, 0x30, 0x02, 0xb0, 0x07, 0xe6, PORT, /* 25 */
	};
	const uint32_t on = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	/* Execution at 1, and stores of a byte. */
	const struct kvm_guest_debug at = {
		.arch.debugreg = { [0] = CODE + 1, [1] = 0x3000, [7] = 1 | 4 | 1u << 20 },
	};
	struct kvm_debugregs regs;

	if (!can_debug())
		return;
	start(code, sizeof(code), 0);
	ck_assert_int_eq(debug(on, &at), 0);
	if (breaks(DB, CODE + 1)) {
		ck_assert_uint_eq(run->debug.arch.dr6 & (BS | 15), 1);
		step_to(CODE + 7);
		ck_assert_int_eq(debug(on, &at), 0);
		run_to_debug(DB, CODE + 15, 2);
		ck_assert_int_eq(run_on(), 0);
	}
	ck_assert_uint_eq(run->exit_reason, KVM_EXIT_IO);
	ck_assert_uint_eq(((uint8_t *)run)[run->io.data_offset], 0);
	run_to_port(0x34);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_DEBUGREGS, &regs), 0);
	ck_assert_uint_eq(regs.db[0], 0x1234);
	ck_assert_uint_eq(regs.dr7, 0x400);
	ck_assert_int_eq(debug(0, NULL), 0);
	run_to_port(7);
}
END_TEST

START_TEST(debugging_refused)
{
	static const uint8_t code[] = { 0xb0, 0x01, 0xe6, PORT };

	if (!can_debug())
		return;
	start(code, sizeof(code), 0);
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_GUEST_DEBUG, NULL), -1);
	ck_assert_int_eq(errno, EFAULT);
	/* Without KVM_GUESTDBG_ENABLE nothing else counts. */
	ck_assert_int_eq(debug(KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP, NULL), 0);
	run_to_port(1);
}
END_TEST

TCase *debug_tests(void)
{
	TCase *tc = tcase_create("debug");

	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, single_steps);
	tcase_add_test(tc, software_breakpoints);
	tcase_add_test(tc, breakpoint_given_to_the_guest);
	tcase_add_test(tc, hardware_breakpoints);
	tcase_add_test(tc, debugging_refused);
	return tc;
}
