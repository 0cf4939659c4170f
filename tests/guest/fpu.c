// SPDX-License-Identifier: Apache-2.0
/* fpu.c - #NM, #MF, #XM, FXSAVE and XSAVE images, AVX behind XCR0. */
#include "guest.h"

static void device_not_available(void)
{
	write_cr0(read_cr0() | CR0_TS);
	TRY("fnop;", : : :);
	check_fault(7, 0);
	TRY("xorps %%xmm0, %%xmm0;", : : :);
	check_fault(7, 0);
	TRY("fwait;", : : :); /* MP is set */
	check_fault(7, 0);
	asm volatile("clts");
	TRY("xorps %%xmm0, %%xmm0; fnop;", : : :);
	check_no_fault();
	write_cr0(read_cr0() | CR0_EM);
	TRY("fnop;", : : :);
	check_fault(7, 0);
	TRY("xorps %%xmm0, %%xmm0;", : : :);
	check_fault(6, 0);
	write_cr0(read_cr0() & ~(word)CR0_EM);
	write_cr4(read_cr4() & ~(word)CR4_OSFXSR);
	TRY("xorps %%xmm0, %%xmm0;", : : :);
	check_fault(6, 0);
	write_cr4(read_cr4() | CR4_OSFXSR);
}

static void sse_exceptions(void)
{
	static const float one = 1, zero = 0;
	uint32_t mxcsr = 0x1f80 & ~(1u << 9); /* division by zero unmasked */
	static uint32_t bad = 0xffff0000;

	asm volatile("ldmxcsr %0" : : "m"(mxcsr));
	TRY("movss %0, %%xmm0; divss %1, %%xmm0;", : : "m"(one), "m"(zero) :);
	check_fault(19, 0);
	asm volatile("stmxcsr %0" : "=m"(mxcsr));
	check_equal(mxcsr & 4, 4);
	write_cr4(read_cr4() & ~(word)CR4_OSXMMEXCPT);
	TRY("divss %0, %%xmm0;", : : "m"(zero) :);
	check_fault(6, 0);
	write_cr4(read_cr4() | CR4_OSXMMEXCPT);
	mxcsr = 0x1f80;
	asm volatile("ldmxcsr %0" : : "m"(mxcsr));
	TRY("divss %0, %%xmm0;", : : "m"(zero) :);
	check_no_fault();
	TRY("ldmxcsr %0;", : : "m"(bad) :);
	check_fault(13, 0);
	/* Alignment. */
	static uint8_t area[64] __attribute__((aligned(16)));
	TRY("movaps %%xmm0, (%0);", : : "r"(area + 8) : "memory");
	check_fault(13, 0);
	TRY("movups %%xmm0, (%0);", : : "r"(area + 8) : "memory");
	check_no_fault();
}

static void x87_exceptions(void)
{
	uint16_t cw = 0x037f & ~4, sw;

	asm volatile("fninit; fldcw %0; fldz; fld1; fdivp" : : "m"(cw));
	/* Pending, and taken by the next waiting instruction. */
	TRY("fnop;", : : :);
	check_fault(16, 0);
	asm volatile("fnstsw %0" : "=m"(sw));
	check_equal(sw & 0x84, 0x84);
	TRY("fwait;", : : :);
	check_fault(16, 0);
	asm volatile("fnclex");
	TRY("fwait;", : : :);
	check_no_fault();
	asm volatile("fninit");
}

/* The same, often enough to be translated: what may not go on must stop at once, and what went before stays. */
static void x87_often(void)
{
	static const uint64_t zero = 0, half = 0x3fe0000000000000; /* as doubles */
	static const uint16_t masked = 0x37f, unmasked = 0x37b;

	asm volatile("fninit");
	for (unsigned i = 0; i < 100; i++) {
		uint64_t sum = 0;
		uint16_t sw;

		asm volatile("fld1; faddl %1; fstpl %0" : "=m"(sum) : "m"(half));
		check_equal(sum, 0x3ff8000000000000);
		if (i % 4 == 3)
			write_cr0(read_cr0() | CR0_TS);
		TRY("fld1; fstp %%st;", : : :);
		check_equal(fault.happened ? fault.vector : 0, i % 4 == 3 ? 7 : 0);
		asm volatile("clts");
		asm volatile("fldcw %0" : : "m"(*(i % 8 == 5 ? &unmasked : &masked)));
		TRY("fld1; fdivl %0; fwait;", : : "m"(zero) :);
		check_equal(fault.happened ? fault.vector : 0, i % 8 == 5 ? 16 : 0);
		asm volatile("fnstsw %0; fninit" : "=m"(sw));
		check_equal(sw & 4, 4);
	}
}

static uint8_t image[4096] __attribute__((aligned(64)));

static void images(void)
{
	static const uint64_t pattern[2] = { 0x1122334455667788ull, 0x99aabbccddeeff00ull };
	uint64_t back[2] = { 0, 0 };

	asm volatile("fninit; fld1; movups %0, %%xmm7; fxsaveq %1" : : "m"(pattern), "m"(image) : "memory");
	check_equal(image[0] | image[1] << 8, 0x37f);
	check_equal(image[4], 0x80); /* physical register 7 holds the one */
	check_equal(memcmp(image + 160 + 7 * 16, pattern, 16), 0);
	check_equal(image[32 + 9], 0x3f); /* exponent of 1.0 */
	asm volatile("fninit; xorps %%xmm7, %%xmm7; fxrstorq %1; movups %%xmm7, %0"
		     : "=m"(back)
		     : "m"(image));
	check_equal(memcmp(back, pattern, 16), 0);
	uint16_t sw;
	asm volatile("fnstsw %0; fninit" : "=m"(sw));
	check_equal(sw >> 11 & 7, 7);
	TRY("fxsaveq (%0);", : : "r"(image + 8) : "memory");
	check_fault(13, 0);
}

static uint64_t xgetbv(void)
{
	uint32_t lo, hi;

	asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (uint64_t)hi << 32 | lo;
}

static void xsave(void)
{
	if (!(cpuid(1, 0).c & (1u << 26)))
		return;
	TRY("xgetbv;", : : "c"(0) : "rax", "rdx");
	check_fault(6, 0);
	write_cr4(read_cr4() | CR4_OSXSAVE);
	check(cpuid(1, 0).c & (1u << 27));
	check_equal(xgetbv(), 1);
	TRY("xsetbv;", : : "c"(0), "a"(2), "d"(0)); /* x87 must stay */
	check_fault(13, 0);
	if (!(cpuid(1, 0).c & (1u << 28)))
		return;
	TRY("xsetbv;", : : "c"(0), "a"(5), "d"(0)); /* AVX needs SSE */
	check_fault(13, 0);
	TRY("vxorps %%ymm0, %%ymm0, %%ymm0;", : : :);
	check_fault(6, 0);
	asm volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
	check_equal(xgetbv(), 7);
	check_equal(cpuid(0xd, 0).b, 576 + 256);
	static const uint64_t pattern[4] = { 1, 2, 3, 4 };
	uint64_t back[4] = { 0 };
	memset(image, 0, sizeof(image));
	asm volatile("vzeroall; vmovups %0, %%ymm3; xsave %1"
		     :
		     : "m"(pattern), "m"(image), "a"(7), "d"(0)
		     : "memory");
	check_equal(image[512] & 7, 7 & (image[512] | 4)); /* AVX in use */
	check_equal(image[512] & 4, 4);
	check_equal(memcmp(image + 576 + 3 * 16, pattern + 2, 16), 0);
	asm volatile("vzeroall; xrstor %1; vmovups %%ymm3, %0"
		     : "=m"(back)
		     : "m"(image), "a"(7), "d"(0));
	check_equal(memcmp(back, pattern, 32), 0);
	/* Legacy SSE keeps the upper half, VEX.128 clears it. */
	asm volatile("vmovups %1, %%ymm3; xorps %%xmm3, %%xmm3; vmovups %%ymm3, %0"
		     : "=m"(back)
		     : "m"(pattern));
	check_equal(back[0] | back[1], 0);
	check_equal(back[3], 4);
	asm volatile("vmovups %1, %%ymm3; vxorps %%xmm3, %%xmm3, %%xmm3; vmovups %%ymm3, %0"
		     : "=m"(back)
		     : "m"(pattern));
	check_equal(back[0] | back[1] | back[2] | back[3], 0);
	image[512 + 8 + 2] = 1; /* reserved header bytes */
	TRY("xrstor %0;", : : "m"(image), "a"(7), "d"(0));
	check_fault(13, 0);
	write_cr0(read_cr0() | CR0_TS);
	TRY("vzeroall;", : : :);
	check_fault(7, 0);
	asm volatile("clts");
}

int main(void)
{
	device_not_available();
	sse_exceptions();
	x87_exceptions();
	x87_often();
	images();
	xsave();
	return 0;
}
