// SPDX-License-Identifier: Apache-2.0
/* vm86.c - virtual-8086 mode: segments, what is trapped, interrupts out of it and back. */
#include "guest.h"

#define CODE 0x20000u

static struct frame last;
static volatile unsigned faults;
static word back_sp;

void vm86_enter(struct frame *f, word *save_sp);
void vm86_leave(word sp) __attribute__((noreturn));
asm("vm86_enter:\n"
    "	push %ebp\n"
    "	push %ebx\n"
    "	push %esi\n"
    "	push %edi\n"
    "	mov 24(%esp), %eax\n"
    "	mov %esp, (%eax)\n"
    "	mov %esp, tss_stack0\n"
    "	mov 20(%esp), %esp\n"
    "	jmp trap_exit\n"
    "vm86_leave:\n"
    "	mov 4(%esp), %esp\n"
    "	mov $0x10, %eax\n"
    "	mov %eax, %ds\n"
    "	mov %eax, %es\n"
    "	pop %edi\n"
    "	pop %esi\n"
    "	pop %ebx\n"
    "	pop %ebp\n"
    "	ret\n");

/* Whatever comes ends the run. */
static void on_trap(struct frame *f)
{
	last = *f;
	faults++;
	vm86_leave(back_sp);
}

static void run(const uint8_t *code, unsigned len, word flags)
{
	struct frame f = { 0 };

	memcpy((void *)CODE, code, len);
	f.ip = 0x10;
	memcpy((void *)(CODE + 0x10), code, len);
	f.cs = CODE >> 4;
	f.flags = FL_VM | 2 | flags;
	f.sp = 0x8000;
	f.ss = 0x3000;
	f.v_ds = 0x4000;
	f.v_es = 0x5000;
	f.v_fs = 0x1234;
	f.v_gs = 0x5678;
	f.ax = 0x1111;
	vm86_enter(&f, &back_sp);
}

#define RUN(flags, ...)                                                                            \
	do {                                                                                       \
		static const uint8_t code[] = { __VA_ARGS__ };                                     \
		run(code, sizeof(code), flags);                                                    \
	} while (0)
#define ended(v, e, at)                                                                            \
	do {                                                                                       \
		check_equal(last.vector, v);                                                       \
		check_equal(last.error, e);                                                        \
		check_equal(last.ip, 0x10 + (at));                                                 \
		check(last.flags & FL_VM);                                                         \
	} while (0)

int main(void)
{
	trap_set(13, on_trap);
	trap_set(6, on_trap);
	trap_set(3, on_trap);
	trap_set(12, on_trap);
	/* HLT is privileged. */
	RUN(0, 0x90, 0xf4);
	ended(13, 0, 1);
	check_equal(last.cs, CODE >> 4);
	check_equal(last.v_ds, 0x4000);
	check_equal(last.v_fs, 0x1234);
	check_equal(last.ss, 0x3000);
	check_equal(last.ds, 0); /* the data segments are null in the handler */
	/* mov ax, 0x6000; mov ds, ax; mov [2], ax; hlt: a segment is its value times 16 */
	RUN(0, 0xb8, 0x00, 0x60, 0x8e, 0xd8, 0xa3, 0x02, 0x00, 0xf4);
	ended(13, 0, 8);
	check_equal(*(volatile uint16_t *)0x60002, 0x6000);
	check_equal(last.v_ds, 0x6000);
	/* With IOPL below 3: CLI, STI, PUSHF, POPF, INT n, IRET trap. */
	RUN(0, 0xfa);
	ended(13, 0, 0);
	RUN(0, 0xfb);
	ended(13, 0, 0);
	RUN(0, 0x9c);
	ended(13, 0, 0);
	RUN(0, 0x9d);
	ended(13, 0, 0);
	RUN(0, 0xcd, 0x21);
	ended(13, 0, 0);
	RUN(0, 0xcf);
	ended(13, 0, 0);
	/* With IOPL 3 they do not: CLI; PUSHF; POP AX; HLT */
	RUN(FL_IOPL | FL_IF, 0xfa, 0x9c, 0x58, 0xf4);
	ended(13, 0, 3);
	check_equal(last.ax & FL_IF, 0);
	check_equal(last.ax & FL_IOPL, FL_IOPL);
	check_equal(last.sp, 0x8000);
	/* INT3 goes through the IDT whatever IOPL; its gate must be open to ring 3. */
	RUN(FL_IOPL, 0xcc);
	ended(13, 3 * 8 + 2, 0);
	trap_allow_user(3);
	RUN(FL_IOPL, 0xcc);
	ended(3, 0, 1);
	/* Ports: the bitmap decides, IOPL does not. */
	RUN(FL_IOPL, 0xba, 0xff, 0x03, 0xee, 0xf4); /* mov dx, 0x3ff; out dx, al */
	ended(13, 0, 3);
	/* LGDT, LAR and far jumps through gates are not for it. */
	RUN(0, 0x0f, 0x02, 0xc0); /* LAR */
	ended(6, 0, 0);
	RUN(0, 0x63, 0xc0); /* ARPL */
	ended(6, 0, 0);
	RUN(0, 0x0f, 0x01, 0x16, 0, 0); /* LGDT */
	ended(13, 0, 0);
	/* A far jump loads the segment as it is. */
	memcpy((void *)0x70000, "\xf4", 1);
	RUN(0, 0xea, 0x00, 0x00, 0x00, 0x70);
	check_equal(last.vector, 13);
	check_equal(last.cs, 0x7000);
	check_equal(last.ip, 0);
	/* Offsets beyond 64 KiB: mov eax, [0x10000] with a 67 prefix */
	RUN(0, 0x67, 0xa1, 0x00, 0x00, 0x01, 0x00);
	ended(13, 0, 0);
	/* A word at ffff reaches over the end. */
	RUN(0, 0xa1, 0xff, 0xff);
	ended(13, 0, 0);
	/* Stack: push at SP = 1 */
	RUN(0, 0xbc, 0x01, 0x00, 0x50);
	ended(12, 0, 3);
	check_equal(faults, 19);
	return 0;
}
