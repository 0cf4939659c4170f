// SPDX-License-Identifier: Apache-2.0
/*
 * abi_real.c - real mode, which some processors with VT-x do not run as it is: what tells it from virtual-8086 mode, how
 * events come in, segments that only real mode can have, and the way to protected mode and back.
 *
 * A KVM that software backs is not asked.
 */
#include "abi.h"

#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#define IDENTITY 0xfeffc000ull
#define BIG	 0x20000u /* beyond the limit of an 8086's segment at 0 */

/* Each handler tells its number by the port. */
static void put_handlers(const uint8_t *vectors, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		uint8_t code[] = { 0xb0, vectors[i], 0xe6, PORT, 0xcf }; /* mov al, n; out; iret */
		uint16_t entry[2] = { (uint16_t)(HANDLER + 16 * i), 0 };

		memcpy(ram + 4 * vectors[i], entry, sizeof(entry));
		memcpy(ram + entry[0], code, sizeof(code));
	}
}

/* POPF and PUSHF have all flags, CLI and STI need no privilege. */
START_TEST(flags_are_all_the_guests)
{
	static const uint8_t code[] = {
		0xb8, 0x02, 0x12, 0x50, 0x9d, /* mov ax, 0x1202; push ax; popf: IOPL 1, IF */
		0x9c, 0x58, 0x88, 0xe0, 0xe6, PORT, /* pushf; pop ax; mov al, ah; out */
		0xfa, 0x9c, 0x58, 0x88, 0xe0, 0xe6, PORT, /* cli; the same */
		0xfb, 0x9c, 0x58, 0x88, 0xe0, 0xe6, PORT, /* sti; the same */
		0x66, 0x9c, 0x66, 0x58, 0x66, 0xc1, 0xe8, 0x10, 0xe6, PORT, /* pushfd; pop eax; shr eax, 16: no VM */
		0x0f, 0x20, 0xc0, 0x24, 0x01, 0xe6, PORT, /* mov eax, cr0; and al, 1: no PE */
		0x0f, 0x20, 0xc0, 0x66, 0xc1, 0xe8, 0x1f, 0xe6, PORT, /* mov eax, cr0; shr eax, 31: no PG */
	};
	struct kvm_regs regs;

	machine();
	if (!on_hardware())
		return;
	start(code, sizeof(code), 0);
	run_to_port(0x12);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_REGS, &regs), 0);
	ck_assert_uint_eq(regs.rflags, 0x1202);
	run_to_port(0x10);
	run_to_port(0x12);
	run_to_port(0);
	run_to_port(0);
	run_to_port(0);
}
END_TEST

/* INT n, INT3, INTO, and what a processor raises go by the table at 0, without an error code. */
START_TEST(vectors_are_the_tables)
{
	static const uint8_t vectors[] = { 0x60, 3, 4, 0, 6, 13, 5 };
	static const uint8_t code[] = {
		0xcd, 0x60, 0xcc,	      /* int 0x60; int3 */
		0xb0, 0x7f, 0x04, 0x01, 0xce, /* mov al, 127; add al, 1; into */
		0xb0, 0x99, 0xe6, PORT,	      /* mov al, 0x99; out */
		0x31, 0xc9, 0xf7, 0xf1,	      /* xor cx, cx; div cx */
	};
	static const uint8_t ud[] = { 0x0f, 0x0b };
	static const uint8_t gp[] = { 0x66, 0xb8, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x22, 0xe0 }; /* mov eax, -1; mov cr4, eax */
	static const uint8_t br[] = { 0x31, 0xc0, 0x62, 0x06, 0x00, 0x70 }; /* xor ax, ax; bound ax, [7000] */
	struct kvm_regs regs;

	machine();
	if (!on_hardware())
		return;
	start(code, sizeof(code), 0);
	put_handlers(vectors, sizeof(vectors));
	ram[0x7000] = 1; /* BOUND: 1 to 0x101 */
	ram[0x7002] = ram[0x7003] = 1;
	run_to_port(0x60);
	run_to_port(3);
	run_to_port(4);
	run_to_port(0x99);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_REGS, &regs), 0);
	ck_assert_uint_eq(regs.rsp, 0x8000);
	run_to_port(0);
	memcpy(ram + 0x2000, ud, sizeof(ud));
	memcpy(ram + 0x2100, gp, sizeof(gp));
	memcpy(ram + 0x2200, br, sizeof(br));
	for (unsigned i = 0; i < 3; i++) {
		regs.rip = 0x2000 + i * 0x100;
		ck_assert_int_eq(ioctl(vcpu, KVM_SET_REGS, &regs), 0);
		run_to_port(vectors[4 + i]);
		/* The frame is three words, and names the instruction that failed. */
		ck_assert_int_eq(ioctl(vcpu, KVM_GET_REGS, &regs), 0);
		ck_assert_uint_eq(regs.rsp, 0x8000 - 6);
		ck_assert_uint_eq(ram[0x8000 - 6], i == 1 ? 6 : i == 2 ? 2 : 0);
		regs.rsp = 0x8000;
	}
}
END_TEST

/* Interrupts and an NMI from outside, while it computes and while it halts. */
START_TEST(events_come_in)
{
	static const uint8_t vectors[] = { 0x20, 2 };
	static const uint8_t code[] = {
		0xb0, 0x01, 0xe6, PORT, /* mov al, 1; out */
		0xfb, 0x90, 0x90,	/* sti; nop; nop */
		0xb0, 0x03, 0xe6, PORT, /* mov al, 3; out */
		0xf4, 0xb0, 0x04, 0xe6, PORT, /* hlt; mov al, 4; out */
	};
	struct kvm_interrupt irq = { 0x20 };
	struct kvm_regs regs;

	machine();
	if (!on_hardware())
		return;
	start(code, sizeof(code), 0);
	put_handlers(vectors, sizeof(vectors));
	run_to_port(1);
	run->request_interrupt_window = 1;
	run_to(KVM_EXIT_IRQ_WINDOW_OPEN);
	run->request_interrupt_window = 0;
	ck_assert(run->ready_for_interrupt_injection);
	ck_assert_int_eq(ioctl(vcpu, KVM_INTERRUPT, &irq), 0);
	run_to_port(0x20);
	ck_assert_int_eq(run->if_flag, 0);
	run_to_port(3);
	run_to(KVM_EXIT_HLT);
	ck_assert_int_eq(ioctl(vcpu, KVM_NMI, 0), 0);
	run_to_port(2);
	run_to_port(4);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_REGS, &regs), 0);
	ck_assert_uint_eq(regs.rsp, 0x8000);
}
END_TEST

/* Limits of 4 GiB and a base that no selector gives, as protected mode may leave them: each kind of instruction. */
START_TEST(segments_are_big)
{
	static const uint8_t code[] = {
		0x67, 0xa0, 0x00, 0x00, 0x02, 0x00, 0xe6, PORT, /* mov al, [0x20000]; out */
		0xe4, PORT, 0x67, 0xa2, 0x01, 0x00, 0x02, 0x00, /* in al, PORT; mov [0x20001], al */
		0xb9, 0x74, 0x01, 0x0f, 0x32,			/* mov cx, 0x174; rdmsr */
		0x66, 0x40, 0x0f, 0x30, 0x0f, 0x32, 0xe6, PORT, /* inc eax; wrmsr; rdmsr; out */
		0x31, 0xc0, 0x0f, 0xa2, 0xb0, 0x05, 0xe6, PORT, /* xor ax, ax; cpuid; mov al, 5; out */
		0xf4, 0xb0, 0x06, 0xe6, PORT,			/* hlt; mov al, 6; out */
	};
	struct kvm_sregs sregs;

	machine();
	if (!on_hardware())
		return;
	start(code, sizeof(code), 0);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	sregs.ds.base = 0x10;
	sregs.ds.limit = ~0u;
	sregs.ds.g = 1;
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
	ram[BIG + 0x10] = 0x77;
	run_to_port(0x77);
	run_to(KVM_EXIT_IO);
	ck_assert_int_eq(run->io.direction, KVM_EXIT_IO_IN);
	((uint8_t *)run)[run->io.data_offset] = 0x5a;
	run_to_port(1);
	ck_assert_uint_eq(ram[BIG + 0x11], 0x5a);
	run_to_port(5);
	run_to(KVM_EXIT_HLT);
	run_to_port(6);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	ck_assert_uint_eq(sregs.ds.base, 0x10);
	ck_assert_uint_eq(sregs.ds.limit, ~0u);
}
END_TEST

/* To 32 bits without paging, where CR3 is the guest's to write and to read, and back. */
START_TEST(protection_comes_and_goes)
{
	static const uint8_t table[] = {
		0x17, 0, 0, 0x60, 0, 0, 0, 0, /* GDTR: 0x6000, and then the null descriptor's place */
	};
	static const uint64_t descriptors[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };
	static const uint8_t code[] = {
		0x0f, 0x01, 0x16, 0x20, 0x60, /* lgdt [0x6020] */
		0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, /* mov eax, cr0; or al, 1; mov cr0, eax */
		0xea, 0x00, 0x20, 0x08, 0x00, /* jmp 8:2000 */
	};
	static const uint8_t wide[] = {
		0xb8, 0x10, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xd0,	/* mov eax, 16; mov ds, eax; mov ss, eax */
		0xbc, 0x00, 0x80, 0, 0,				/* mov esp, 0x8000 */
		0xb8, 0x00, 0x30, 0x12, 0x00, 0x0f, 0x22, 0xd8, /* mov eax, 0x123000; mov cr3, eax */
		0x0f, 0x20, 0xd8, 0xc1, 0xe8, 0x0c, 0xe6, PORT, /* mov eax, cr3; shr eax, 12; out: 0x23 */
		0xa0, 0x00, 0x00, 0x02, 0x00, 0xe6, PORT,	/* mov al, [0x20000]; out */
		0x9c, 0x58, 0xc1, 0xe8, 0x11, 0xe6, PORT,	/* pushf; pop eax; shr eax, 17; out: no VM */
		0x0f, 0x20, 0xc0, 0xc1, 0xe8, 0x1f, 0xe6, PORT, /* mov eax, cr0; shr eax, 31; out: no PG */
		0x0f, 0x20, 0xe0, 0xe6, PORT,			/* mov eax, cr4; out: 0 */
		0x0f, 0x20, 0xc0, 0x24, 0xfe, 0x0f, 0x22, 0xc0, /* mov eax, cr0; and al, 0xfe; mov cr0, eax */
		0xea, 0x00, 0x22, 0, 0, 0x00, 0x00,		/* jmp 0:2200 */
	};
	/* The size of CS stays in real mode: these are the same in both. */
	static const uint8_t back[] = { 0xb0, 0x44, 0xe6, PORT }; /* mov al, 0x44; out */
	struct kvm_sregs sregs;

	machine();
	if (!on_hardware())
		return;
	start(code, sizeof(code), 0);
	memcpy(ram + 0x6020, table, sizeof(table));
	memcpy(ram + 0x6000, descriptors, sizeof(descriptors));
	memcpy(ram + 0x2000, wide, sizeof(wide));
	memcpy(ram + 0x2200, back, sizeof(back));
	ram[BIG] = 0x55;
	run_to_port(0x23);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	ck_assert_uint_eq(sregs.cr3, 0x123000);
	ck_assert_uint_eq(sregs.cr0 & 0x80000001u, 1);
	run_to_port(0x55);
	run_to_port(0);
	run_to_port(0);
	run_to_port(0);
	run_to_port(0x44);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	ck_assert_uint_eq(sregs.cr0 & 0x80000001u, 0);
	ck_assert_uint_eq(sregs.cs.base, 0);
}
END_TEST

/* Where the table is that guests without paging may need is said before there are vCPUs. */
START_TEST(identity_map_has_a_place)
{
	uint64_t addr = IDENTITY, none = 0;

	machine();
	if (has(KVM_CAP_SET_IDENTITY_MAP_ADDR) <= 0 || has(KVM_CAP_SET_TSS_ADDR) <= 0 || !on_hardware())
		return;
	ck_assert_int_eq(ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &none), 0);
	ck_assert_int_eq(ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &addr), 0);
	ck_assert_int_eq(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul), 0);
	ck_assert_int_eq(ioctl(vm, KVM_CREATE_VCPU, 0) < 0, 0);
	ck_assert_int_eq(ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &addr), -1);
	ck_assert_int_eq(errno, EINVAL);
}
END_TEST

/* EFER.LMA without paging is not long mode, though MSRs are set in any order. With CR4.PAE clear QEMU 7.2's AMD-V leaves
 * its host without paging behind the exit. */
START_TEST(long_mode_wants_paging)
{
	static const uint8_t code[] = {
		0xb0, 0x01, 0xe6, PORT, /* mov al, 1; out */
		0xa0, 0x00, 0x30, 0xe6, PORT, /* mov al, [0x3000]; out */
	};
	uint64_t efer = 0xd00; /* LME, LMA, NXE */
	struct kvm_sregs sregs;

	machine();
	if (!on_hardware())
		return;
	start(code, sizeof(code), 0);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	sregs.cr4 = 0x20; /* PAE */
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
	ram[0x3000] = 0x33;
	(void)msr(KVM_SET_MSRS, 0xc0000080, &efer);
	run_to_port(1);
	run_to_port(0x33);
}
END_TEST

/* Enabled, and neither paging nor PAE: a step on the way there. QEMU 7.2 emulates AMD-V so that the host itself stops
 * then, under the stock driver. */
START_TEST(long_mode_wants_pae)
{
	static const uint8_t code[] = { 0xb0, 0x01, 0xe6, PORT, 0xb0, 0x02, 0xe6, PORT }; /* mov al, 1; out; and 2 */
	struct kvm_sregs sregs;

	if (access("/sys/module/sika_kvm", F_OK) < 0)
		return;
	machine();
	start(code, sizeof(code), 0);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	sregs.efer |= 0x100;
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
	run_to_port(1);
	run_to_port(2);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	ck_assert_uint_eq(sregs.efer, 0x100);
}
END_TEST

static void on_alarm(int signal)
{
	(void)signal;
}

/* CR3 is beyond the processor's addresses, and entered nevertheless: refused, where it is the processor's. QEMU 7.2 writes
 * to the VMCB as if it had read all of it, and forgets whose the interrupts are: the guest would not be left for a
 * signal, nor for anything else of the host's. With the stock driver it is not. */
START_TEST(refused_entry_leaves_no_trace)
{
	static const uint8_t code[] = { 0xeb, 0xfe };
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval soon = { .it_value = { .tv_usec = 200000 }, .it_interval = { .tv_usec = 200000 } };
	struct kvm_sregs sregs;
	uint64_t cr3;

	/* Bochs leaves no such guest in any case: its interrupts are masked as the host's were. */
	if (access("/sys/module/sika_kvm", F_OK) < 0 || !__builtin_cpu_is("amd"))
		return;
	machine();
	start(code, sizeof(code), 0);
	ck_assert_int_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	cr3 = sregs.cr3;
	sregs.cr3 = 1ull << 60;
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
	sigaction(SIGALRM, &action, NULL);
	ck_assert_int_eq(setitimer(ITIMER_REAL, &soon, NULL), 0);
	/* With shadow paging the processor has another CR3. */
	if (ioctl(vcpu, KVM_RUN, 0) == 0)
		ck_assert_int_eq(run->exit_reason, KVM_EXIT_FAIL_ENTRY);
	sregs.cr3 = cr3;
	ck_assert_int_eq(ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
	ck_assert_int_eq(setitimer(ITIMER_REAL, &soon, NULL), 0);
	ck_assert_int_eq(ioctl(vcpu, KVM_RUN, 0), -1);
	ck_assert_int_eq(errno, EINTR);
}
END_TEST

TCase *real_tests(void)
{
	TCase *tests = tcase_create("real mode");

	tcase_add_test(tests, flags_are_all_the_guests);
	tcase_add_test(tests, vectors_are_the_tables);
	tcase_add_test(tests, events_come_in);
	tcase_add_test(tests, segments_are_big);
	tcase_add_test(tests, protection_comes_and_goes);
	tcase_add_test(tests, identity_map_has_a_place);
	tcase_add_test(tests, refused_entry_leaves_no_trace);
	tcase_add_test(tests, long_mode_wants_paging);
	tcase_add_test(tests, long_mode_wants_pae);
	return tests;
}
