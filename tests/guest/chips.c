// SPDX-License-Identifier: Apache-2.0
/* chips.c - 8259, 8254, CMOS clock, I/O APIC, HPET: counting and interrupting. */
#include "guest.h"

#define PIC_BASE 0x20
#define IOAPIC	 0xfec00000ul
#define HPET	 0xfed00000ul

static volatile unsigned count[16];

static void on_pic(struct frame *f)
{
	unsigned irq = (unsigned)f->vector - PIC_BASE;

	count[irq]++;
	if (irq == 8) {
		outb(0x70, 0x0c);
		(void)inb(0x71);
	}
	if (irq >= 8)
		outb(0xa0, 0x20);
	outb(0x20, 0x20);
}

static void pic_init(void)
{
	outb(0x20, 0x11);
	outb(0x21, PIC_BASE);
	outb(0x21, 4);
	outb(0x21, 1);
	outb(0xa0, 0x11);
	outb(0xa1, PIC_BASE + 8);
	outb(0xa1, 2);
	outb(0xa1, 1);
	pic_mask_all();
	check_equal(inb(0x21), 0xff);
	for (unsigned i = 0; i < 16; i++)
		trap_set(PIC_BASE + i, on_pic);
}

static void pit(uint16_t ticks, uint8_t mode)
{
	outb(0x43, (uint8_t)(0x30 | mode << 1));
	outb(0x40, (uint8_t)ticks);
	outb(0x40, (uint8_t)(ticks >> 8));
}

static unsigned pit_read(void)
{
	outb(0x43, 0x00);
	unsigned lo = inb(0x40);

	return lo | inb(0x40) << 8;
}

static void pic_and_pit(void)
{
	pit(11932, 2); /* 100 Hz */
	outb(0x21, 0xfe);
	check(wait_for(&count[0], 10, 3000));
	/* Masked, an edge is remembered and comes with the unmasking. */
	outb(0x21, 0xff);
	delay_us(30000);
	count[0] = 0;
	sti();
	asm volatile("nop; nop");
	cli();
	check_equal(count[0], 0);
	outb(0x20, 0x0a); /* IRR */
	check_equal(inb(0x20) & 1, 1);
	outb(0x21, 0xfe);
	asm volatile("sti; nop; nop; cli" : : : "memory");
	check(count[0] >= 1);
	outb(0x21, 0xff);
	/* Counting: latched values go down. */
	pit(0, 2);
	unsigned a = pit_read();
	delay_us(1000);
	unsigned b = pit_read();
	check(((a - b) & 0xffff) > 500 && ((a - b) & 0xffff) < 60000);
	/* Mode 0: one interrupt. */
	count[0] = 0;
	pit(2000, 0);
	outb(0x21, 0xfe);
	check(wait_for(&count[0], 1, 1000));
	delay_us(5000);
	sti();
	asm volatile("nop; nop");
	cli();
	check(count[0] <= 2); /* an old edge of mode 2 may be among them */
	outb(0x21, 0xff);
}

static uint8_t cmos(uint8_t reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

static void cmos_write(uint8_t reg, uint8_t v)
{
	outb(0x70, reg);
	outb(0x71, v);
}

static void rtc(void)
{
	check_equal(cmos(0x0d) & 0x80, 0x80);
	check_equal(cmos(0x0b) & 0x02, 0x02); /* 24 hours */
	while (cmos(0x0a) & 0x80)
		;
	uint8_t month = cmos(8), day = cmos(7);
	check(month >= 1 && month <= 0x12 && day >= 1 && day <= 0x31);
	/* Periodic, 1024 Hz, on IRQ 8 behind the cascade. */
	cmos_write(0x0a, 0x26);
	cmos_write(0x0b, cmos(0x0b) | 0x40);
	(void)cmos(0x0c);
	outb(0xa1, 0xfe);
	outb(0x21, 0xfb);
	check(wait_for(&count[8], 10, 3000));
	outb(0xa1, 0xff);
	cmos_write(0x0b, cmos(0x0b) & ~0x40);
	cmos_write(0x0f, 0x5a); /* plain memory */
	check_equal(cmos(0x0f), 0x5a);
	/* The second moves on. */
	uint8_t s = cmos(0);
	unsigned i;

	for (i = 0; i < 30000 && cmos(0) == s; i++)
		delay_us(100);
	check(i < 30000);
}

static uint32_t ioapic_read(unsigned reg)
{
	*(volatile uint32_t *)IOAPIC = reg;
	return *(volatile uint32_t *)(IOAPIC + 0x10);
}

static void ioapic_write(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)IOAPIC = reg;
	*(volatile uint32_t *)(IOAPIC + 0x10) = v;
}

static volatile unsigned ioapic_count;

static void on_ioapic(struct frame *f)
{
	ioapic_count++;
	apic_eoi();
}

static void ioapic(void)
{
	apic_init();
	trap_set(0x61, on_ioapic);
	check((ioapic_read(1) & 0xff) == 0x11 || (ioapic_read(1) & 0xff) == 0x20);
	check_equal(ioapic_read(1) >> 16 & 0xff, 23);
	for (unsigned i = 0; i < 24; i++)
		check_equal(ioapic_read(0x10 + 2 * i) & 0x10000, 0x10000);
	pit(11932, 2);
	ioapic_write(0x10 + 2 * 2 + 1, 0);
	ioapic_write(0x10 + 2 * 2, 0x61);
	check_equal(ioapic_read(0x10 + 2 * 2) & 0xff, 0x61);
	check(wait_for(&ioapic_count, 5, 3000));
	ioapic_write(0x10 + 2 * 2, 0x10061);
	delay_us(1000);
	sti();
	asm volatile("nop; nop");
	cli();
	ioapic_count = 0;
	sti();
	delay_us(30000);
	cli();
	check_equal(ioapic_count, 0);
}

static uint64_t hpet_read(unsigned reg)
{
	return *(volatile uint64_t *)(HPET + reg);
}

static void hpet_write(unsigned reg, uint64_t v)
{
	*(volatile uint64_t *)(HPET + reg) = v;
}

static void hpet(void)
{
	uint64_t id = hpet_read(0);

	if (id == ~0ull || !(id >> 32)) {
		print("no HPET\n");
		return;
	}
	check((id >> 32) <= 0x05f5e100); /* period: at most 100 ns */
	hpet_write(0x10, 0);
	hpet_write(0xf0, 0);
	check_equal(hpet_read(0xf0), 0);
	hpet_write(0x10, 1);
	uint64_t a = hpet_read(0xf0);
	delay_us(1000);
	uint64_t b = hpet_read(0xf0);
	check(b > a);
	/* Timer 2, one shot, edge, on an I/O APIC pin it can reach. */
	uint32_t pins = (uint32_t)(hpet_read(0x140) >> 32);
	unsigned pin;

	for (pin = 16; pin < 24 && !(pins & (1u << pin)); pin++)
		;
	if (pin == 24)
		return;
	ioapic_count = 0;
	ioapic_write(0x10 + 2 * pin + 1, 0);
	ioapic_write(0x10 + 2 * pin, 0x61);
	hpet_write(0x140, pin << 9 | 1u << 2);
	hpet_write(0x148, hpet_read(0xf0) + 1000000000000ull / (id >> 32)); /* 1 ms */
	check(wait_for(&ioapic_count, 1, 3000));
	ioapic_write(0x10 + 2 * pin, 0x10061);
	hpet_write(0x140, 0);
}

int main(void)
{
	pic_init();
	pic_and_pit();
	rtc();
	ioapic();
	hpet();
	return 0;
}
