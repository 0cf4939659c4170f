// SPDX-License-Identifier: Apache-2.0
/* io.c - REP with ports and device memory, widths, the I/O permission of ring 3. */
#include "guest.h"

#define COM1_SCRATCH 0x3ff
#define IOAPIC	     0xfec00000ul
#define ECAM	     0xe0000000ul /* 00:00.0 */

static void rep_ports(void)
{
	static const uint8_t out[3] = { 1, 2, 0x5a };
	uint8_t in[4] = { 0, 0, 0, 0xee };
	word n = 3, p = (word)out;

	asm volatile("rep outsb" : "+c"(n), "+S"(p) : "d"(COM1_SCRATCH) : "memory");
	check_equal(n, 0);
	check_equal(p, (word)out + 3);
	check_equal(inb(COM1_SCRATCH), 0x5a);
	n = 3, p = (word)in;
	asm volatile("rep insb" : "+c"(n), "+D"(p) : "d"(COM1_SCRATCH) : "memory");
	check_equal(in[0] & in[1] & in[2], 0x5a);
	check_equal(in[3], 0xee);
	check_equal(p, (word)in + 3);
	/* INS into a missing page: the port was not read for it. */
	uint8_t *page = page_alloc();
	page_map(FREE_VIRT, (uintptr_t)page, PTE_P | PTE_W);
	n = 10, p = FREE_VIRT + 4096 - 4;
	TRY("rep insb;", : "+c"(n), "+D"(p) : "d"(COM1_SCRATCH) : "memory");
	check_fault(14, 2);
	check_equal(n, 6);
	check_equal(p, FREE_VIRT + 4096);
}

static void empty_ports(void)
{
	check_equal(inb(0x2f0), 0xff);
	check_equal(inw(0x2f0), 0xffff);
	check_equal(inl(0x2f0), 0xffffffff);
	outl(0x2f0, 1);
}

/* The I/O APIC's index register stands for any device: 32 bits at +0. */
static void device_memory(void)
{
	volatile uint32_t *index = (uint32_t *)IOAPIC;
	uint32_t buffer[4] = { 0x10, 0x11, 0x12, 0x13 };
	word n = 1, to = IOAPIC, from = (word)&buffer[2];

	*index = 1;
	check_equal(*index, 1);
	asm volatile("rep movsl" : "+c"(n), "+D"(to), "+S"(from) : : "memory");
	check_equal(*index, 0x12);
	n = 1, to = (word)buffer, from = IOAPIC;
	asm volatile("rep movsl" : "+c"(n), "+D"(to), "+S"(from) : : "memory");
	check_equal(buffer[0], 0x12);
	/* Read-modify-write, compare, exchange, test on device memory. */
	asm volatile("addl $3, %0" : "+m"(*index) : : "cc");
	check_equal(*index, 0x15);
	uint32_t v = 7;
	asm volatile("xchgl %0, %1" : "+r"(v), "+m"(*index));
	check_equal(v, 0x15);
	check_equal(*index, 7);
	asm volatile("lock orl $8, %0" : "+m"(*index) : : "cc");
	check_equal(*index, 15);
	asm volatile("movl $2, %0" : "=m"(*index));
	uint8_t equal;
	asm volatile("cmpl $2, %1; sete %0" : "=q"(equal) : "m"(*index) : "cc");
	check_equal(equal, 1);
	asm volatile("pushq $5; popq %%rax; movl %%eax, %0" : "=m"(*index) : : "rax", "memory");
	check_equal(*index, 5);
	/* Where nothing is: ones, and writes go nowhere. */
	volatile uint32_t *nothing = (uint32_t *)0xfea00000ul;
	*nothing = 0;
	(void)*nothing; /* ones or zeros: what the bus gives */
	/* SSE moves to and from configuration space: an I/O APIC may live in the host's kernel, whose
	 * emulator does not know these. Where there is none, ones. */
	volatile uint32_t *line = (uint32_t *)(ECAM + 0x3c);
	uint32_t sse;
	*line = 9;
	v = *line;
	asm volatile("movd %1, %%xmm0; movd %%xmm0, %0" : "=m"(*line) : "r"(6));
	check_equal(*line, v == 0xffffffff ? v : (v ^ 9 ^ 6));
	asm volatile("movd %1, %%xmm0; movd %%xmm0, %0" : "=r"(sse) : "m"(*line));
	check_equal(sse, *line);
}

static word user_out(word port)
{
	asm volatile("outb %%al, %%dx" : : "a"(0x33), "d"(port));
	return 1;
}

static void user_gp(struct frame *f)
{
	static const uint8_t leave[] = { 0xcd, 0x81 };

	f->ax = 0xbad0 + f->error;
	f->ip = (word)leave;
}

/* user_call() gives IOPL 3; drop it on the way through a stub of our own. */
static word without_iopl(word port)
{
	word r;

	asm volatile("int $0x45; outb %%al, %%dx; mov $1, %%eax"
		     : "=a"(r)
		     : "a"(0x44), "d"(port)
		     : "memory");
	return r;
}

static void drop_iopl(struct frame *f)
{
	f->flags &= ~(word)FL_IOPL;
}

static void permission(void)
{
	user_open();
	user_flags = 0x3202; /* IOPL 3 */
	trap_set(13, user_gp);
	trap_set(0x45, drop_iopl);
	trap_allow_user(0x45);
	check_equal(user_call(user_out, COM1_SCRATCH), 1);
	check_equal(inb(COM1_SCRATCH), 0x33);
	/* No bitmap in this TSS. */
	check_equal(user_call(without_iopl, COM1_SCRATCH), 0xbad0);
	check_equal(inb(COM1_SCRATCH), 0x33);
	/* One that opens just this port. */
	static uint8_t big[104 + 8193] __attribute__((aligned(4096)));
	extern uint8_t tss[];
	memset(big, 0xff, sizeof(big));
	memcpy(big, tss, 104);
	big[102] = 104, big[103] = 0;
	big[104 + COM1_SCRATCH / 8] &= ~(1u << COM1_SCRATCH % 8);
	uint64_t at = (uintptr_t)big, limit = sizeof(big) - 1;
	gdt[SEL_FREE / 8] = (limit & 0xffff) | (at & 0xffffff) << 16 | 0x89ull << 40 |
			    (limit >> 16 & 15) << 48 | (at >> 24 & 0xff) << 56;
	gdt[SEL_FREE / 8 + 1] = at >> 32;
	asm volatile("ltr %w0" : : "r"(SEL_FREE));
	/* user_enter() writes the other TSS: give this one the same stack. */
	word sp;
	asm volatile("mov %%rsp, %0" : "=r"(sp));
	sp = (word)page_alloc() + 4096;
	memcpy(big + 4, &sp, 8);
	check_equal(user_call(without_iopl, COM1_SCRATCH), 1);
	check_equal(inb(COM1_SCRATCH), 0x44);
	check_equal(user_call(without_iopl, COM1_SCRATCH - 1), 0xbad0);
	trap_set(13, NULL);
}

int main(void)
{
	rep_ports();
	empty_ports();
	device_memory();
	permission();
	return 0;
}
