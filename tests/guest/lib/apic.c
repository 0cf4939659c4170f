// SPDX-License-Identifier: Apache-2.0
/* apic.c - the local APIC, the 8259s out of the way, delays by the PIT. */
#include "guest.h"

void pic_mask_all(void)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}

void apic_init(void)
{
	pic_mask_all();
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_LINT0, 0x10000);
	apic_write(APIC_TPR, 0);
}

void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}

void apic_send(uint32_t id, uint32_t icr)
{
	apic_write(APIC_ICR2, id << 24);
	apic_write(APIC_ICR, icr);
	while (apic_read(APIC_ICR) & (1u << 12))
		pause();
}

/* Channel 2 counts down once, gated by port 0x61; its output is bit 5 there. */
static void delay_ticks(uint16_t ticks)
{
	outb(0x61, (inb(0x61) & ~2) | 1);
	outb(0x43, 0xb0); /* channel 2, both bytes, mode 0 */
	outb(0x42, (uint8_t)ticks);
	outb(0x42, (uint8_t)(ticks >> 8));
	while (!(inb(0x61) & 0x20))
		pause();
}

void delay_us(unsigned us)
{
	while (us) {
		unsigned part = us < 50000 ? us : 50000;

		delay_ticks((uint16_t)(part * 1193 / 1000 + 1));
		us -= part;
	}
}

bool wait_for(volatile unsigned *counter, unsigned value, unsigned ms)
{
	sti();
	for (unsigned i = 0; i < ms * 10 && *counter < value; i++)
		delay_us(100);
	cli();
	return *counter >= value;
}
