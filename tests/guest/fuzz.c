// SPDX-License-Identifier: Apache-2.0
/*
 * fuzz.c - program every device at random, from several CPUs at once, until the time is over.
 *
 * Arguments: seed=N, seconds=N (by the ACPI PM timer, which nothing can set), cpus=N. The guest ends
 * through the debug exit port with 42. What happens to itself does not matter: every fault, interrupt
 * and NMI goes back to the top of the loop on a fresh stack, and so does a CPU that was sent INIT,
 * through the real-mode vectors and the start-up pages, which all lead to one trampoline. A guest that
 * loses itself all the same (its page 0 or stack overwritten by a device) resets or goes astray; what
 * counts is the process around it.
 *
 * What would end the machine on purpose is left out, see port_write(): the debug exit port, S5 in the
 * ACPI control register, the reset bits of ports 0xcf9, 0x64 and 0x92. Addresses given to devices are
 * ones where the guest itself does not live, see address().
 */
#include "guest.h"

#define MAX_CPUS      16
#define STACK_SIZE    16384
#define DONE	      42
#define ARENA	      0x1000000ul /* what devices may write to: from here to the end of RAM */
#define TRAMPOLINE    0x8000
#define PM_TIMER      0x608
#define PM_TIMER_HZ   3579545u
#define PCI_LOW	      0xc0000000ul
#define PCI_64	      0x1000000000ul
#define ECAM	      0xe0000000ul
#define IOAPIC	      0xfec00000ul
#define HPET	      0xfed00000ul
#define MAX_DEVS      8
#define MAX_QUEUES    4
#define PICK(list)    ((list)[below(c, sizeof(list) / sizeof((list)[0]))])
#define ONE_IN(n)     (below(c, (n)) == 0)

struct cpu {
	uint64_t random;
	unsigned index;
	uint64_t *window; /* page table entries of two pages for what lies above 4 GiB */
};

/* What a driver remembers of a queue. Shared by all CPUs without a lock: that is part of the test. */
struct queue {
	uint64_t desc, driver, device;
	uint16_t size, next, index;
	bool packed, wrap;
};

struct vdev {
	unsigned slot, id;
	uint32_t common, notify, notify_step, isr, config, table;
	struct queue queues[MAX_QUEUES];
};

static struct cpu cpus[MAX_CPUS];
static struct vdev devs[MAX_DEVS];
static unsigned dev_count, cpu_count, seconds;
static uint64_t ram_end;
static uint32_t started_at;
/* Used by name in the assembly below. */
uint8_t fuzz_stacks[MAX_CPUS][STACK_SIZE] __attribute__((aligned(16)));
void fuzz_cpu(unsigned index);
void fuzz_again(void) __attribute__((noreturn));
extern char fuzz_trampoline[], fuzz_trampoline_end[];

/*
 * Real mode to the loop. The initial APIC id of CPUID leaf 1 cannot be changed and names the stack.
 * fuzz_again() is the 64-bit half; its IRET also ends the blocking of NMIs.
 */
asm(".code16\n"
    "fuzz_trampoline:\n"
    "cli; xor %ax, %ax; mov %ax, %ds\n"
    "lgdtl 0x8000 + fuzz_gdt - fuzz_trampoline\n"
    "mov %cr0, %eax; or $1, %eax; mov %eax, %cr0\n"
    "ljmpl $0x08, $fuzz_start32\n"
    "fuzz_gdt: .word 32 * 8 - 1; .long gdt\n"
    "fuzz_trampoline_end:\n"
    ".code32\n"
    "fuzz_start32:\n"
    "mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss\n"
    "mov $0x6a0, %eax; mov %eax, %cr4\n" /* PAE, PGE, OSFXSR, OSXMMEXCPT */
    "mov $boot_pml4, %eax; mov %eax, %cr3\n"
    "mov $0xc0000080, %ecx; rdmsr; or $0x900, %eax; wrmsr\n" /* LME, NXE */
    "mov $0x80010033, %eax; mov %eax, %cr0\n"
    "ljmp $0x18, $fuzz_again\n"
    ".code64\n"
    "fuzz_again:\n"
    "mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss\n"
    "lidt fuzz_idt(%rip)\n"
    "mov $1, %eax; cpuid; shr $24, %ebx; and $15, %ebx\n"
    "lea 1(%rbx), %rax; shl $14, %rax; lea fuzz_stacks(%rax), %rax\n"
    "mov %ebx, %edi; mov %rax, %rsp\n"
    "push $0x10; push %rax; push $2; push $0x18; lea 1f(%rip), %rax; push %rax; iretq\n"
    "1: push $0; jmp fuzz_cpu\n"
    ".data\n"
    "fuzz_idt: .word 256 * 16 - 1; .quad idt\n"
    ".text\n");

/* ---- numbers ---- */

static uint64_t next_random(struct cpu *c)
{
	c->random ^= c->random >> 12;
	c->random ^= c->random << 25;
	c->random ^= c->random >> 27;
	return c->random * 0x2545f4914f6cdd1dull;
}

static uint32_t below(struct cpu *c, uint32_t n)
{
	return (uint32_t)(next_random(c) >> 32) % n;
}

/* Never an address in the part of RAM where the guest lives, save page 0. */
static uint64_t elsewhere(uint64_t v)
{
	return v >= 0x1000 && v < ARENA ? v | 0x80000000 : v;
}

static uint64_t value(struct cpu *c)
{
	switch (below(c, 6)) {
	case 0:
		return below(c, 256);
	case 1:
		return elsewhere(1ull << below(c, 64));
	case 2:
		return elsewhere(~0ull >> below(c, 64));
	case 3:
		return elsewhere((uint32_t)next_random(c));
	default:
		return elsewhere(next_random(c));
	}
}

/* For a device to read and write: mostly RAM. */
static uint64_t address(struct cpu *c)
{
	switch (below(c, 16)) {
	case 0:
		return ram_end - below(c, 8192);
	case 1:
		return PICK(((const uint64_t[]){ ram_end, APIC_BASE, IOAPIC, HPET, ECAM, PCI_LOW, PCI_64,
						 0xfffff000, 0x100000000, ~0ull - 4095, 1ull << 63 })) +
		       (ONE_IN(2) ? 0 : below(c, 64));
	case 2: {
		uint64_t v = value(c);

		return v < ARENA ? ARENA + v : v;
	}
	case 3:
		return ARENA + below(c, (uint32_t)(ram_end - ARENA));
	default: /* a few pages, so that structures meet */
		return ARENA + 4096ul * below(c, 64) + (ONE_IN(4) ? below(c, 4096) : 0);
	}
}

/* ---- accesses ---- */

/* Where the CPU reaches @phys; 8 KiB from there are open. Not where the guest lives. */
static volatile uint8_t *at(struct cpu *c, uint64_t phys)
{
	uint64_t page = phys & 0xffffffffff000ull, virt;

	if (phys >> 52)
		phys &= 0xfffffffffffffull;
	if (phys < ARENA)
		return (volatile uint8_t *)(ARENA + (phys & 0xffffff));
	if (phys < 0xffff0000)
		return (volatile uint8_t *)phys;
	page = phys & ~0xfffull;
	virt = FREE_VIRT + c->index * 8192ul;
	for (unsigned i = 0; i < 2; i++) {
		/* Bits above the physical address width would be reserved: #PF, and nothing tested. */
		c->window[i] = ((page + i * 4096ul) & 0xfffffff000ull) | PTE_P | PTE_W;
		invlpg((void *)(virt + i * 4096));
	}
	return (volatile uint8_t *)(virt + (phys & 4095));
}

static void access(struct cpu *c, uint64_t phys)
{
	volatile uint8_t *p = at(c, phys);
	uint64_t v = value(c);
	word n = 1 + below(c, 8), si = (word)p, di = (word)at(c, ARENA + 4096ul * below(c, 64));

	switch (below(c, 14)) {
	case 0:
		(void)*p;
		break;
	case 1:
		(void)*(volatile uint16_t *)p;
		break;
	case 2:
	case 3:
		(void)*(volatile uint32_t *)p;
		break;
	case 4:
		(void)*(volatile uint64_t *)p;
		break;
	case 5:
		*p = (uint8_t)v;
		break;
	case 6:
		*(volatile uint16_t *)p = (uint16_t)v;
		break;
	case 7:
	case 8:
		*(volatile uint32_t *)p = (uint32_t)v;
		break;
	case 9:
		*(volatile uint64_t *)p = v;
		break;
	case 10:
		asm volatile("lock xaddl %k0, (%1)" : "+r"(v) : "r"(p) : "memory", "cc");
		break;
	case 11:
		asm volatile("movdqu (%0), %%xmm0; movdqu %%xmm0, (%0)" : : "r"(p) : "memory");
		break;
	case 12:
		asm volatile("rep movsl" : "+c"(n), "+S"(si), "+D"(di) : : "memory");
		break;
	default:
		asm volatile("rep movsb" : "+c"(n), "+S"(di), "+D"(si) : : "memory");
		break;
	}
}

/* ---- ports ---- */

/* Bytes that would end the machine are tamed; returns false where nothing may be written. */
static bool tame(uint16_t port, unsigned size, uint32_t *v)
{
	for (unsigned i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(*v >> (8 * i));
		uint32_t clear = 0, set = 0;

		switch ((uint16_t)(port + i)) {
		case 0xf4: /* debug exit */
			return false;
		case 0x605: /* SLP_EN */
			clear = 0x20;
			break;
		case 0xcf9: /* reset control, unless it is part of the address register */
			clear = size == 4 && i == 1 ? 0 : 4;
			break;
		case 0x64: /* pulse of the reset line */
			set = byte >= 0xf0 ? 1 : 0;
			break;
		case 0x92:
			clear = 1;
			break;
		}
		*v = (*v & ~(clear << (8 * i))) | set << (8 * i);
	}
	return true;
}

static void port_write(uint16_t port, unsigned size, uint32_t v)
{
	if (!tame(port, size, &v))
		return;
	if (size == 1)
		outb(port, (uint8_t)v);
	else if (size == 2)
		outw(port, (uint16_t)v);
	else
		outl(port, v);
}

static uint16_t some_port(struct cpu *c)
{
	static const uint16_t bases[] = { 0x20, 0xa0, 0x4d0, 0x40, 0x40, 0x60, 0x70, 0x70, 0x80, 0x90, 0xb0,
					  0xf0, 0x3f8, 0x3f8, 0x600, 0x600, 0xcf8, 0xcfc, 0xc000, 0xfff8 };

	if (ONE_IN(4))
		return (uint16_t)next_random(c);
	return (uint16_t)(PICK(bases) + below(c, 8));
}

static void step_port(struct cpu *c)
{
	uint16_t port = some_port(c);
	unsigned size = 1u << below(c, 3);
	word n = below(c, 64), to = ARENA + 4096ul * below(c, 64);

	switch (below(c, 8)) {
	case 0:
		(void)inb(port);
		break;
	case 1:
		(void)inw(port);
		break;
	case 2:
		(void)inl(port);
		break;
	case 3:
		asm volatile("rep insb" : "+c"(n), "+D"(to) : "d"(port) : "memory");
		break;
	case 4: /* the UART's data and scratch registers take any run of bytes */
		port = ONE_IN(2) ? 0x3f8 : 0x3ff;
		asm volatile("rep outsb" : "+c"(n), "+S"(to) : "d"(port) : "memory");
		break;
	default:
		port_write(port, size, (uint32_t)value(c));
		break;
	}
}

/* ---- interrupt controllers, timers, processor registers ---- */

static void step_lapic(struct cpu *c)
{
	unsigned reg = below(c, 64) * 16;

	switch (below(c, 8)) {
	case 0:
		(void)apic_read(reg);
		break;
	case 1: /* an IPI of any kind; INIT and start-up mostly not to all of them */
		apic_write(APIC_ICR2, below(c, cpu_count + 1) << 24);
		apic_write(APIC_ICR, below(c, 256) | below(c, 8) << 8 | below(c, 16) << 12 |
					     (ONE_IN(4) ? below(c, 4) << 18 : 0));
		break;
	case 2: /* start another: INIT, start-up */
		apic_write(APIC_ICR2, (1 + below(c, 15)) << 24);
		apic_write(APIC_ICR, 0x4500);
		apic_write(APIC_ICR, 0x4600 | (ONE_IN(4) ? below(c, 256) : TRAMPOLINE >> 12));
		break;
	case 3: /* the timer, soon */
		apic_write(APIC_TIMER, (32 + below(c, 224)) | below(c, 4) << 17 | below(c, 2) << 16);
		apic_write(APIC_DIVIDE, below(c, 16));
		apic_write(APIC_INITIAL, ONE_IN(4) ? (uint32_t)value(c) : below(c, 1u << below(c, 30)));
		break;
	case 4:
		apic_write(APIC_SVR, 0x100 | below(c, 256));
		apic_write(APIC_TPR, ONE_IN(4) ? below(c, 256) : 0);
		apic_eoi();
		break;
	case 5:
		access(c, APIC_BASE + below(c, 4096));
		break;
	default:
		apic_write(reg, (uint32_t)value(c));
		break;
	}
}

static void step_ioapic(struct cpu *c)
{
	volatile uint32_t *io = (volatile uint32_t *)IOAPIC;
	unsigned pin = below(c, 26);

	io[0] = 0x10 + 2 * pin + 1;
	io[4] = below(c, cpu_count + 1) << 24;
	io[0] = 0x10 + 2 * pin;
	io[4] = below(c, 256) | below(c, 8) << 8 | below(c, 8) << 13 | below(c, 2) << 11;
	if (ONE_IN(2)) {
		io[0] = (uint32_t)value(c);
		io[4] = (uint32_t)value(c);
	}
	io[16] = below(c, 256); /* EOI of version 0x20 */
	access(c, IOAPIC + below(c, 4096));
}

static void step_hpet(struct cpu *c)
{
	volatile uint64_t *h = (volatile uint64_t *)HPET;
	unsigned timer = below(c, 4);

	h[2] = below(c, 4);
	h[(0x100 + timer * 32) / 8] = value(c);
	h[(0x108 + timer * 32) / 8] = ONE_IN(2) ? h[0xf0 / 8] + below(c, 100000) : value(c);
	h[(0x110 + timer * 32) / 8] = ONE_IN(2) ? value(c) : APIC_BASE << 32 | below(c, 2048);
	h[4] = ~0ull;
	access(c, HPET + below(c, 1024));
}

static void step_msr(struct cpu *c)
{
	static const uint32_t known[] = { 0x1b, 0x3a, 0x8b, 0x174, 0x175, 0x176, 0x179, 0x1a0, 0x1d9, 0x200,
					  0x250, 0x277, 0x2ff, 0x6e0, 0x6e0, 0x12, 0x4b564d00, 0x4b564d01,
					  0x4b564d02, 0x4b564d03, 0x4b564d04, 0x4b564d06, 0x4b564d07, 0xc0000081, 0xc0000082, 0xc0000084,
					  0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0xc0010015, 0xda0 };
	uint32_t msr = ONE_IN(3) ? 0x800 + below(c, 0x80) : ONE_IN(4) ? (uint32_t)value(c) : PICK(known);
	uint64_t v = ONE_IN(2) ? address(c) | below(c, 4) : value(c);

	if (msr == 0x1b) /* the local APIC: mostly on and at home, off or moved at times */
		v = ONE_IN(8) ? address(c) | below(c, 16) << 8 : APIC_BASE | 0x800 | (ONE_IN(4) ? 0x400 : 0);
	if (msr == EFER || msr == 0x10 || msr == 0x3b)
		return;
	if (msr == 0x6e0)
		v = rdtsc() + below(c, 1u << 20);
	/* #GP, where there is none or the value is not one for it, starts the loop again. */
	if (ONE_IN(3))
		(void)rdmsr(msr);
	else
		wrmsr(msr, v);
}

/* Let come what is pending. Another CPU wakes a sleeper, or its own timer; the first does not sleep. */
static void step_open(struct cpu *c)
{
	asm volatile("sti; nop; nop; nop; cli" : : : "memory");
	if (c->index && ONE_IN(4))
		asm volatile("sti; hlt; cli" : : : "memory");
}

/* ---- PCI ---- */

static volatile uint8_t *config(struct cpu *c, unsigned slot, unsigned reg)
{
	return at(c, ECAM + (slot << 15) + reg);
}

static void config_write(struct cpu *c, unsigned slot, unsigned reg, unsigned size, uint32_t v)
{
	if (ONE_IN(2)) {
		outl(0xcf8, 0x80000000 | slot << 11 | (reg & 0xfc));
		port_write((uint16_t)(0xcfc + (reg & 3)), size, v);
	} else if (size == 4) {
		*(volatile uint32_t *)config(c, slot, reg & 0xffc) = v;
	} else if (size == 2) {
		*(volatile uint16_t *)config(c, slot, reg & 0xffe) = (uint16_t)v;
	} else {
		*config(c, slot, reg) = (uint8_t)v;
	}
}

static uint64_t bar_of(struct cpu *c, const struct vdev *d)
{
	volatile uint32_t *bar = (volatile uint32_t *)config(c, d->slot, 0x10);

	return (bar[0] & ~15u) | (uint64_t)bar[1] << 32;
}

static void bar_move(struct cpu *c, const struct vdev *d)
{
	uint64_t to = PCI_LOW + d->slot * 0x10000ul;

	if (ONE_IN(6)) {
		static const uint64_t odd[] = { 0, APIC_BASE, IOAPIC, HPET, ECAM, 0xffffc000, 0x100000000, PCI_64,
						PCI_64 + 0x10000, ARENA, ~0ull, 0xfffff8000, PCI_LOW };

		to = ONE_IN(3) ? bar_of(c, &devs[below(c, dev_count)]) : ONE_IN(4) ? value(c) : PICK(odd);
	}
	config_write(c, d->slot, 0x10, 4, (uint32_t)to);
	config_write(c, d->slot, 0x14, 4, (uint32_t)(to >> 32));
	config_write(c, d->slot, 4, 2, ONE_IN(8) ? below(c, 2048) : 6);
}

static void step_pci(struct cpu *c)
{
	const struct vdev *d = &devs[below(c, dev_count)];

	switch (below(c, 5)) {
	case 0:
		bar_move(c, d);
		break;
	case 1:
		config_write(c, ONE_IN(4) ? below(c, 32) : d->slot, below(c, 256), 1u << below(c, 3),
			     (uint32_t)value(c));
		break;
	case 2: /* any function of any bus, beyond the end of a function's 256 bytes too */
		access(c, ECAM + (ONE_IN(2) ? d->slot << 15 : below(c, 0x10000) << 12) + below(c, 4096));
		break;
	case 3: /* MSI-X on, masked, off */
		config_write(c, d->slot, 0x34, 1, 0);
		for (unsigned cap = *config(c, d->slot, 0x34), i = 0; cap && i < 16; i++) {
			if (*config(c, d->slot, cap) == 0x11)
				config_write(c, d->slot, cap + 2, 2, ONE_IN(4) ? below(c, 0x10000) : 0x8000);
			cap = *config(c, d->slot, cap + 1);
		}
		break;
	default:
		outl(0xcf8, (uint32_t)next_random(c) | 0x80000000);
		port_write((uint16_t)(0xcfc + below(c, 4)), 1u << below(c, 3), (uint32_t)value(c));
		break;
	}
}

static void find_devices(struct cpu *c)
{
	for (unsigned slot = 0; slot < 32 && dev_count < MAX_DEVS; slot++) {
		volatile uint8_t *cfg = config(c, slot, 0);
		struct vdev *d = &devs[dev_count];
		unsigned id = *(volatile uint16_t *)(cfg + 2), cap = cfg[0x34];

		if (*(volatile uint16_t *)cfg != 0x1af4 || id < 0x1040)
			continue;
		*d = (struct vdev){ .slot = slot, .id = id - 0x1040 };
		for (; cap; cap = cfg[cap + 1]) {
			uint32_t off = *(volatile uint32_t *)(cfg + cap + 8);

			if (cfg[cap] == 0x11)
				d->table = *(volatile uint32_t *)(cfg + cap + 4) & ~7u;
			if (cfg[cap] != 9)
				continue;
			switch (cfg[cap + 3]) {
			case 1:
				d->common = off;
				break;
			case 2:
				d->notify = off;
				d->notify_step = *(volatile uint32_t *)(cfg + cap + 16);
				break;
			case 3:
				d->isr = off;
				break;
			case 4:
				d->config = off;
				break;
			}
		}
		dev_count++;
		bar_move(c, d);
	}
}

/* ---- virtio ---- */

static uint64_t reg(struct cpu *c, const struct vdev *d, uint32_t off)
{
	return bar_of(c, d) + d->common + off;
}

#define R8(off)	 (*(volatile uint8_t *)at(c, reg(c, d, off)))
#define R16(off) (*(volatile uint16_t *)at(c, reg(c, d, off)))
#define R32(off) (*(volatile uint32_t *)at(c, reg(c, d, off)))
#define R64(off) (*(volatile uint64_t *)at(c, reg(c, d, off)))

static void queue_setup(struct cpu *c, struct vdev *d, unsigned i, bool packed)
{
	struct queue *q = &d->queues[i];

	R16(22) = (uint16_t)i;
	*q = (struct queue){ address(c), address(c), address(c), R16(24), .packed = packed, .wrap = true };
	if (!ONE_IN(8)) /* aligned and in memory, as a driver would */
		*q = (struct queue){ ARENA + 0x10000ul * below(c, 64), ARENA + 0x10000ul * below(c, 64) + 0x4000,
				     ARENA + 0x10000ul * below(c, 64) + 0x8000, q->size, .packed = packed,
				     .wrap = true };
	if (ONE_IN(2))
		R16(24) = q->size = ONE_IN(4) ? (uint16_t)value(c) : (uint16_t)(1u << below(c, 9));
	if (!q->size || q->size > 1024)
		q->size = 8;
	for (unsigned n = 0; n < 0xc000 / 8 && q->desc >= ARENA && q->desc < ram_end - 0x10000; n++)
		*(volatile uint64_t *)at(c, q->desc + 8 * n) = 0;
	R64(32) = q->desc;
	R32(40) = (uint32_t)q->driver;
	R32(44) = (uint32_t)(q->driver >> 32);
	R64(48) = q->device;
	R16(26) = ONE_IN(2) ? (uint16_t)i : (uint16_t)value(c);
	if (!ONE_IN(16))
		R16(28) = 1;
}

static void device_setup(struct cpu *c, struct vdev *d)
{
	uint64_t features;

	bar_move(c, d);
	R8(20) = 0;
	for (unsigned i = 0; i < 1000 && R8(20); i++)
		pause();
	R8(20) = 1;
	R8(20) = 3;
	R32(0) = 0;
	features = R32(4);
	R32(0) = 1;
	features |= (uint64_t)R32(4) << 32;
	if (!ONE_IN(3))
		features &= next_random(c) | 1ull << 32;
	if (ONE_IN(16))
		features = next_random(c);
	R32(8) = 0;
	R32(12) = (uint32_t)features;
	R32(8) = 1;
	R32(12) = (uint32_t)(features >> 32);
	R8(20) = 11;
	R16(16) = (uint16_t)below(c, 4);
	for (unsigned i = 0; i < MAX_QUEUES && i < R16(18); i++)
		queue_setup(c, d, i, features >> 34 & 1);
	R8(20) = ONE_IN(16) ? (uint8_t)value(c) : 15;
	for (unsigned i = 0; i < 4; i++) {
		volatile uint32_t *e = (volatile uint32_t *)at(c, bar_of(c, d) + d->table + 16 * i);

		e[0] = (uint32_t)(ONE_IN(8) ? value(c) : APIC_BASE | below(c, cpu_count + 1) << 12);
		e[1] = ONE_IN(16) ? (uint32_t)value(c) : 0;
		e[2] = ONE_IN(8) ? (uint32_t)value(c) : 32 + below(c, 224);
		e[3] = ONE_IN(8);
	}
}

struct piece {
	uint64_t addr;
	uint32_t len;
	bool write;
};

/* A request as the device expects it, then maybe spoiled. */
static unsigned request(struct cpu *c, const struct vdev *d, unsigned queue, struct piece *p)
{
	static const uint32_t types[] = { 0, 0, 0, 1, 1, 1, 4, 8, 11, 13, 14 };
	static const uint32_t lengths[] = { 0, 1, 12, 16, 60, 511, 512, 1024, 1526, 4096, 65536, 1u << 20, ~0u };
	unsigned n = 1 + below(c, 4);

	for (unsigned i = 0; i < n; i++)
		p[i] = (struct piece){ address(c), PICK(lengths), ONE_IN(2) };
	if (d->id == 2) {
		volatile uint32_t *header = (volatile uint32_t *)at(c, ARENA + 0x300000 + 16 * below(c, 64));

		header[0] = ONE_IN(16) ? (uint32_t)value(c) : PICK(types);
		header[2] = ONE_IN(8) ? (uint32_t)value(c) : below(c, 2048);
		header[3] = ONE_IN(16) ? (uint32_t)value(c) : 0;
		n = n < 3 ? 3 : n;
		p[0] = (struct piece){ (uintptr_t)header, 16, false };
		for (unsigned i = 1; i < n - 1; i++)
			p[i] = (struct piece){ address(c), 512 * below(c, 9), header[0] != 1 };
		p[n - 1] = (struct piece){ ARENA + 0x301000 + below(c, 64), 1, true };
	} else if (!ONE_IN(4)) {
		/* Receive queues are the even ones; the source of entropy has only that. */
		for (unsigned i = 0; i < n; i++)
			p[i].write = d->id == 4 || !(queue & 1);
	}
	if (ONE_IN(8))
		p[below(c, n)] = (struct piece){ address(c), (uint32_t)value(c), ONE_IN(2) };
	return n;
}

static void put_split(struct cpu *c, struct queue *q, const struct piece *p, unsigned n)
{
	uint16_t head = q->next;
	bool indirect = ONE_IN(4);
	uint64_t table = indirect ? ARENA + 0x310000 + 1024ul * below(c, 16) : q->desc;

	for (unsigned i = 0; i < n; i++) {
		uint16_t at_index = indirect ? (uint16_t)i : (uint16_t)((head + i) % q->size);
		volatile uint8_t *e = at(c, table + 16ul * at_index);

		*(volatile uint64_t *)e = p[i].addr;
		*(volatile uint32_t *)(e + 8) = p[i].len;
		*(volatile uint16_t *)(e + 12) =
			(uint16_t)((i + 1 < n) | p[i].write << 1 | (ONE_IN(32) ? below(c, 16) : 0));
		*(volatile uint16_t *)(e + 14) = ONE_IN(32) ? (uint16_t)value(c) :
						 indirect   ? (uint16_t)(i + 1) :
							      (uint16_t)((head + i + 1) % q->size);
	}
	if (indirect) {
		volatile uint8_t *e = at(c, q->desc + 16ul * head);

		*(volatile uint64_t *)e = table;
		*(volatile uint32_t *)(e + 8) = ONE_IN(16) ? (uint32_t)value(c) : 16 * n;
		*(volatile uint16_t *)(e + 12) = 4;
	}
	*(volatile uint16_t *)at(c, q->driver + 4 + 2ul * (q->index % q->size)) =
		ONE_IN(32) ? (uint16_t)value(c) : head;
	q->next = (uint16_t)((head + (indirect ? 1 : n)) % q->size);
	q->index = (uint16_t)(q->index + (ONE_IN(64) ? below(c, 0x10000) : 1));
	*(volatile uint16_t *)at(c, q->driver) = ONE_IN(8) ? 1 : 0;
	*(volatile uint16_t *)at(c, q->driver + 2) = q->index;
	/* used_event */
	*(volatile uint16_t *)at(c, q->driver + 4 + 2ul * q->size) = (uint16_t)(q->index - below(c, 3));
}

static void put_packed(struct cpu *c, struct queue *q, const struct piece *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		volatile uint8_t *e = at(c, q->desc + 16ul * q->next);
		unsigned flags = (i + 1 < n) | p[i].write << 1 | (q->wrap ? 0x80 : 0x8000);

		*(volatile uint64_t *)e = p[i].addr;
		*(volatile uint32_t *)(e + 8) = p[i].len;
		*(volatile uint16_t *)(e + 12) = (uint16_t)(next_random(c));
		*(volatile uint16_t *)(e + 14) = (uint16_t)(ONE_IN(32) ? next_random(c) : flags);
		if (++q->next >= q->size) {
			q->next = 0;
			q->wrap = !q->wrap;
		}
	}
	*(volatile uint32_t *)at(c, q->driver) = ONE_IN(4) ? (uint32_t)value(c) : 0;
}

static void step_virtio(struct cpu *c)
{
	struct vdev *d = &devs[below(c, dev_count)];
	unsigned i = below(c, d->id == 1 || d->id == 3 ? 2 : 1);
	struct queue *q = &d->queues[i];
	struct piece pieces[4];

	if (ONE_IN(16)) {
		device_setup(c, d);
		return;
	}
	if (ONE_IN(16)) {
		access(c, bar_of(c, d) + below(c, 0x8000));
		return;
	}
	if (ONE_IN(32)) { /* any register, any value; the addresses it may hold are not ours */
		R32(4 * below(c, 16)) = (uint32_t)value(c);
		return;
	}
	(void)*at(c, bar_of(c, d) + (ONE_IN(2) ? d->isr : d->config + below(c, 256)));
	if (!q->size)
		return;
	for (unsigned burst = 1 + below(c, 4); burst; burst--) {
		unsigned n = request(c, d, i, pieces);

		if (q->packed)
			put_packed(c, q, pieces, n);
		else
			put_split(c, q, pieces, n);
	}
	*(volatile uint16_t *)at(c, bar_of(c, d) + d->notify + d->notify_step * i) = (uint16_t)i;
}

/* ---- the loop ---- */

static void step(struct cpu *c)
{
	static void (*const steps[])(struct cpu *) = {
		step_port, step_port, step_port, step_lapic, step_ioapic, step_hpet, step_msr, step_open,
		step_pci, step_virtio, step_virtio, step_virtio, step_virtio, step_virtio, step_virtio,
	};

	if (ONE_IN(20)) /* where nothing is, and where something may have been moved */
		access(c, ONE_IN(2) ? 0xf0000000 + below(c, 0xfff0000) : PCI_LOW + below(c, 0x100000));
	else
		PICK(steps)(c);
}

/* Queues enabled before they were given an address lie on the real-mode vectors: again and again. */
static void set_real_vectors(void)
{
	word n = 256, to = 0;

	asm volatile("rep stosl" : "+c"(n), "+D"(to) : "a"(TRAMPOLINE) : "memory");
}

void fuzz_cpu(unsigned index)
{
	struct cpu *c = &cpus[index];

	for (;;) {
		set_real_vectors();
		for (unsigned i = 0; i < 16; i++)
			step(c);
		if (inl(PM_TIMER) - started_at > seconds * PM_TIMER_HZ)
			finish(DONE);
	}
}

/* Whatever it was: acknowledge, most times, and go on elsewhere. */
static void on_trap(struct frame *f)
{
	uint64_t base = rdmsr(0x1b);

	if ((base & 0xc00) == 0x800 && (base & 0xfffff000) == APIC_BASE)
		apic_eoi();
	outb(0x20, 0x20);
	outb(0xa0, 0x20);
	fuzz_again();
}

/* Real-mode vectors and start-up pages all lead to the trampoline. */
static void pave_low_memory(void)
{
	static const uint8_t jump[] = { 0xea, TRAMPOLINE & 0xff, TRAMPOLINE >> 8, 0, 0 };

	for (uintptr_t page = 0x1000; page < 0x100000; page += 0x1000)
		memcpy((void *)page, jump, sizeof(jump));
	/* A start at page 0 runs through the vectors, as ADDs of zero, and through this. */
	memset((void *)0x400, 0, 0xc00);
	memcpy((void *)TRAMPOLINE, fuzz_trampoline, (size_t)(fuzz_trampoline_end - fuzz_trampoline));
}

int main(void)
{
	unsigned seed = argument("seed");

	seconds = argument("seconds") ? argument("seconds") : 5;
	cpu_count = argument("cpus") ? argument("cpus") : 1;
	ram_end = (uint64_t)(argument("memory") ? argument("memory") : 64) << 20;
	for (unsigned i = 0; i < MAX_CPUS; i++) {
		cpus[i].index = i;
		cpus[i].random = (seed + 1) * 0x9e3779b97f4a7c15ull + i * 0xd1342543de82ef95ull;
		cpus[i].window = page_map(FREE_VIRT + i * 8192ul, ARENA, PTE_P | PTE_W);
		page_map(FREE_VIRT + i * 8192ul + 4096, ARENA, PTE_P | PTE_W);
	}
	find_devices(&cpus[0]);
	print("fuzz: seed %u, %u devices, %u CPUs, %u s\n", seed, dev_count, cpu_count, seconds);
	if (!dev_count || cpu_count > MAX_CPUS)
		return 1;
	started_at = inl(PM_TIMER);
	pave_low_memory();
	set_real_vectors();
	for (unsigned i = 0; i < 256; i++)
		trap_set(i, on_trap);
	apic_init();
	apic_send(0, 0xc4500);
	delay_us(10000);
	apic_send(0, 0xc4600 | TRAMPOLINE >> 12);
	fuzz_again();
}
