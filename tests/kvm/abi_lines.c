// SPDX-License-Identifier: Apache-2.0
/* abi_lines.c - eventfds that hold an interrupt line up until the guest has seen to it: KVM_IRQFD_FLAG_RESAMPLE. */
#include "abi.h"

#include <sys/eventfd.h>
#include <unistd.h>

#define GSI	 11
#define PIC_BASE 0x40 /* the guest's vectors of the pair */
#define VECTOR	 (PIC_BASE + GSI)

/* The pair, with input 11 by level and all others masked. */
#define SET_UP_PIC \
	0xb0, 0x11, 0xe6, 0x20, 0xe6, 0xa0, 0xb0, PIC_BASE, 0xe6, 0x21, 0xb0, PIC_BASE + 8, 0xe6, 0xa1, \
	0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x02, 0xe6, 0xa1, 0xb0, 0x01, 0xe6, 0x21, 0xe6, 0xa1, \
	0xb0, 0xfb, 0xe6, 0x21, 0xb0, 0xf7, 0xe6, 0xa1, 0xba, 0xd1, 0x04, 0xb0, 0x08, 0xee
#define LOOP \
	0xfb, 0xb0, 0x55, 0xe6, PORT, 0xeb, 0xfa /* sti; next: mov al, 0x55; out PORT, al; jmp next */
#define IN_HANDLER  0xb0, 0x22, 0xe6, PORT
#define END_HANDLER 0xb0, 0x23, 0xe6, PORT, 0xcf

static int holder(int fd, int again, uint32_t flags)
{
	struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .resamplefd = (uint32_t)again, .gsi = GSI,
				   .flags = flags };

	return ioctl(vm, KVM_IRQFD, &irqfd);
}

static void user_line(uint32_t level)
{
	struct kvm_irq_level line = { .irq = GSI, .level = level };

	ck_assert_int_eq(ioctl(vm, KVM_IRQ_LINE, &line), 0);
}

static void add(int fd)
{
	uint64_t one = 1;

	ck_assert_int_eq(write(fd, &one, sizeof(one)), sizeof(one));
}

/* How often it was told, and not again until it is told again. */
static uint64_t told(int fd)
{
	uint64_t count = 0;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

/* Wherever the guest is in its loop. */
static void run_to_handler(void)
{
	for (int i = 0; i < 1000; i++) {
		run_to(KVM_EXIT_IO);
		if (((uint8_t *)run)[run->io.data_offset] == 0x22)
			return;
	}
	ck_abort_msg("no interrupt");
}

static void stays_in_loop(void)
{
	for (int i = 0; i < 20; i++)
		run_to_port(0x55);
}

/* The machine is set up. Behind the handler's end the line falls, who holds it hears, and may raise it again. */
static void holds_until_the_end(void)
{
	int fd = eventfd(0, EFD_NONBLOCK), again = eventfd(0, EFD_NONBLOCK);
	int other = eventfd(0, EFD_NONBLOCK), other_again = eventfd(0, EFD_NONBLOCK);

	ck_assert_int_eq(holder(fd, again, KVM_IRQFD_FLAG_RESAMPLE), 0);
	stays_in_loop();
	add(fd);
	run_to_handler();
	ck_assert_uint_eq(told(fd), 0); /* taken */
	ck_assert_uint_eq(told(again), 0);
	run_to_port(0x23);
	ck_assert_uint_eq(told(again), 1);
	stays_in_loop();
	ck_assert_uint_eq(told(again), 0);
	/* Two that share the line are both told. */
	ck_assert_int_eq(holder(other, other_again, KVM_IRQFD_FLAG_RESAMPLE), 0);
	add(fd);
	add(other);
	run_to_handler();
	run_to_port(0x23);
	ck_assert_uint_eq(told(again), 1);
	ck_assert_uint_eq(told(other_again), 1);
	stays_in_loop();
	/* What user space holds by itself does not fall with it. */
	user_line(1);
	run_to_handler();
	add(fd);
	run_to_port(0x23);
	ck_assert_uint_eq(told(again), 1);
	run_to_handler();
	user_line(0);
	run_to_port(0x23);
	stays_in_loop();
	/* Taken away, it holds nothing. */
	(void)told(again);
	add(fd);
	run_to_handler();
	ck_assert_int_eq(holder(fd, 0, KVM_IRQFD_FLAG_DEASSIGN), 0);
	ck_assert_int_eq(holder(other, 0, KVM_IRQFD_FLAG_DEASSIGN), 0);
	run_to_port(0x23);
	stays_in_loop();
	ck_assert_uint_eq(told(again), 0);
}

static int can_hold(void)
{
	machine();
	if (has(KVM_CAP_IRQFD_RESAMPLE) <= 0)
		return 0;
	ck_assert_int_eq(ioctl(vm, KVM_CREATE_IRQCHIP, 0), 0);
	return 1;
}

/* A KVM that software backs was seen to give the handler's end where the loop was to follow, once, on a busy host. */
START_TEST(line_is_held_until_the_8259_hears_an_end)
{
	static const uint8_t code[] = { SET_UP_PIC, LOOP };
	static const uint8_t handler[] = { IN_HANDLER, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, END_HANDLER };

	if (!on_hardware() || !can_hold())
		return;
	start(code, sizeof(code), 0);
	put_handler(VECTOR, handler, sizeof(handler));
	holds_until_the_end();
}
END_TEST

/* A KVM that software backs tells twice. */
START_TEST(line_is_held_until_the_io_apic_hears_an_end)
{
	static const uint8_t code[] = {
		0xb0, 0xff, 0xe6, 0x21, 0xe6, 0xa1,		      /* the pair is masked */
		0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00, 0x00, /* mov dword [0xf0], 0x1ff */
		LOOP,
	};
	static const uint8_t handler[] = {
		IN_HANDLER, 0x66, 0xc7, 0x06, 0xb0, 0x00, 0x00, 0x00, 0x00, 0x00, END_HANDLER,
	};
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	if (!on_hardware() || !can_hold())
		return;
	start(code, sizeof(code), APIC);
	put_handler(VECTOR, handler, sizeof(handler));
	ck_assert_int_eq(ioctl(vm, KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.ioapic.redirtbl[GSI].bits = VECTOR | 1 << 15; /* level */
	ck_assert_int_eq(ioctl(vm, KVM_SET_IRQCHIP, &chip), 0);
	holds_until_the_end();
}
END_TEST

START_TEST(holders_are_refused)
{
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };
	int fd = eventfd(0, EFD_NONBLOCK), again = eventfd(0, EFD_NONBLOCK);

	if (!can_hold())
		return;
	ck_assert_int_eq(holder(fd, -1, KVM_IRQFD_FLAG_RESAMPLE), -1);
	ck_assert_int_eq(errno, EBADF);
	ck_assert_int_eq(holder(fd, again, 4), -1);
	ck_assert_int_eq(errno, EINVAL);
	ck_assert_int_eq(holder(fd, again, KVM_IRQFD_FLAG_RESAMPLE), 0);
	ck_assert_int_eq(holder(fd, again, KVM_IRQFD_FLAG_RESAMPLE), -1);
	ck_assert_int_eq(errno, EBUSY);
	close(vm);
	/* The ends of interrupts are user space's to know. */
	machine();
	if (ioctl(vm, KVM_ENABLE_CAP, &split) < 0)
		return;
	ck_assert_int_eq(holder(fd, again, KVM_IRQFD_FLAG_RESAMPLE), -1);
	ck_assert_int_eq(errno, EINVAL);
}
END_TEST

TCase *lines_tests(void)
{
	TCase *tests = tcase_create("lines");

	tcase_add_test(tests, line_is_held_until_the_8259_hears_an_end);
	tcase_add_test(tests, line_is_held_until_the_io_apic_hears_an_end);
	tcase_add_test(tests, holders_are_refused);
	tcase_set_timeout(tests, 60);
	return tests;
}
