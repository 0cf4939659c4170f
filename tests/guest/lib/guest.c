// SPDX-License-Identifier: Apache-2.0
/* guest.c - output, checks, memory and the end. */
#include "guest.h"

#include <stdarg.h>

#define COM1	   0x3f8
#define DEBUG_EXIT 0xf4

unsigned check_failures;
static unsigned check_count;
extern char image_end[];
extern uint32_t multiboot_info;
static uintptr_t next_page;

void *memset(void *to, int c, size_t n)
{
	uint8_t *p = to;

	while (n--)
		*p++ = (uint8_t)c;
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	uint8_t *p = to;
	const uint8_t *q = from;

	while (n--)
		*p++ = *q++;
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *p = a, *q = b;

	for (; n; n--, p++, q++)
		if (*p != *q)
			return *p - *q;
	return 0;
}

static void put_char(char c)
{
	while (!(inb(COM1 + 5) & 0x20))
		;
	outb(COM1, (uint8_t)c);
}

void put_string(const char *s)
{
	for (; *s; s++)
		put_char(*s);
}

static void put_number(uint64_t v, unsigned base)
{
	char text[24];
	char *p = text + sizeof(text);

	*--p = 0;
	if (base == 16) {
		do {
			*--p = "0123456789abcdef"[v & 15];
			v >>= 4;
		} while (v);
	} else {
		/* 32 bits are enough, and need no division of 64. */
		uint32_t small = (uint32_t)v;

		do {
			*--p = (char)('0' + small % 10);
			small /= 10;
		} while (small);
	}
	put_string(p);
}

void print(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	for (; *fmt; fmt++) {
		bool is_long = false;

		if (*fmt != '%') {
			put_char(*fmt);
			continue;
		}
		if (*++fmt == 'l') {
			is_long = true;
			fmt++;
		}
		if (*fmt == 's')
			put_string(va_arg(args, const char *));
		else if (*fmt == 'c')
			put_char((char)va_arg(args, int));
		else
			put_number(is_long ? va_arg(args, unsigned long) : va_arg(args, unsigned),
				   *fmt == 'x' ? 16 : 10);
	}
	va_end(args);
}

void finish(unsigned status)
{
	outl(DEBUG_EXIT, status);
	for (;;)
		asm volatile("cli; hlt");
}

void check_at(bool held, const char *what, const char *file, int line)
{
	check_count++;
	if (held)
		return;
	check_failures++;
	print("%s:%d: %s\n", file, line, what);
}

static void put_u64(uint64_t v)
{
	if (v >> 32)
		print("%x:", (unsigned)(v >> 32));
	print("%x", (unsigned)v);
}

void check_equal_at(uint64_t a, uint64_t b, const char *what, const char *file, int line)
{
	check_at(a == b, what, file, line);
	if (a == b)
		return;
	put_string("    ");
	put_u64(a);
	put_string(" is not ");
	put_u64(b);
	put_string("\n");
}

void skip(const char *why)
{
	print("skipped: %s\n", why);
	finish(0);
}

unsigned argument(const char *key)
{
	/* Multiboot information: flags, command line at offset 16 where bit 2 is set. */
	const uint32_t *info = (const uint32_t *)(uintptr_t)multiboot_info;
	const char *p = info && info[0] & 4 ? (const char *)(uintptr_t)info[4] : "";

	for (; *p; p++) {
		unsigned i = 0, v = 0;

		while (key[i] && p[i] == key[i])
			i++;
		if (key[i] || p[i] != '=')
			continue;
		for (p += i + 1; *p >= '0' && *p <= '9'; p++)
			v = v * 10 + (unsigned)(*p - '0');
		return v;
	}
	return 0;
}

void *pages_alloc(unsigned count)
{
	void *p;

	if (!next_page)
		next_page = ((uintptr_t)image_end + 4095) & ~4095ul;
	p = (void *)next_page;
	next_page += count * 4096ul;
	return memset(p, 0, count * 4096ul);
}

void *page_alloc(void)
{
	return pages_alloc(1);
}

void guest_main(void); /* from the start code */

void guest_main(void)
{
	int r;

	trap_init();
	r = main();
	print("%u checks, %u failed\n", check_count, check_failures);
	finish(r || check_failures ? 1 : 0);
}
