// SPDX-License-Identifier: Apache-2.0
/* xsave.c - the standard format of an XSAVE area. */
#include "engine/xsave.h"

#include <cpuid.h>
#include <stdbool.h>
#include <string.h>

#include "base/bits.h"

/* SDM vol. 1, 13.4.1 and 13.4.2. */
#define AREA_FCW   0u
#define AREA_FSW   2u
#define AREA_FTW   4u
#define AREA_FOP   6u
#define AREA_FIP   8u
#define AREA_FDP   16u
#define AREA_MXCSR 24u
#define AREA_ST	   32u
#define AREA_XMM   160u
#define AREA_BV	   512u

enum component {
	X87 = 0,
	SSE = 1,
	AVX = 2,
	OPMASK = 5,
	ZMM_HI = 6, /* upper halves of ZMM0..15 */
	HI_ZMM = 7, /* ZMM16..31 */
	PKRU = 9,
};

#define BIT(component) (UINT64_C(1) << (component))

#define FCW_INIT 0x37fu

/* Where each part of a vector register lies: @count registers from @first on, @width bytes at byte
 * @at of each. */
static const struct {
	uint8_t component, first, count, at, width;
} parts[] = {
	{ AVX, 0, 16, 16, 16 },
	{ ZMM_HI, 0, 16, 32, 32 },
	{ HI_ZMM, 16, 16, 0, 64 },
};

static uint32_t component_at(unsigned component, uint32_t need, size_t bytes)
{
	uint32_t eax, ebx, ecx, edx;

	if (!__get_cpuid_count(0xd, component, &eax, &ebx, &ecx, &edx) || eax < need)
		return 0;
	return ebx < bytes && need <= bytes - ebx ? ebx : 0;
}

void xsave_layout(struct xsave_layout *ret, size_t bytes)
{
	memset(ret, 0, sizeof(*ret));
	for (size_t p = 0; p < ARRAY_SIZE(parts); p++)
		ret->at[parts[p].component] = component_at(
			parts[p].component, parts[p].count * parts[p].width, bytes);
	ret->at[OPMASK] = component_at(OPMASK, sizeof(((struct x86_fpu *)0)->opmask), bytes);
	ret->at[PKRU] = component_at(PKRU, sizeof(((struct x86_fpu *)0)->pkru), bytes);
}

static void load_x87(const uint8_t *area, struct x86_fpu *f)
{
	f->fcw = load_le16(area + AREA_FCW);
	f->fsw = load_le16(area + AREA_FSW);
	f->ftw = area[AREA_FTW];
	f->fop = load_le16(area + AREA_FOP);
	f->fip = load_le64(area + AREA_FIP);
	f->fdp = load_le64(area + AREA_FDP);
	for (unsigned i = 0; i < 8; i++)
		memcpy(f->st[i], area + AREA_ST + 16 * i, 10);
}

void xsave_load(const struct xsave_layout *layout, const uint8_t *area, struct x86_fpu *f)
{
	uint64_t bv = load_le64(area + AREA_BV);

	memset(f, 0, sizeof(*f));
	f->fcw = FCW_INIT;
	f->mxcsr = load_le32(area + AREA_MXCSR);
	if (bv & BIT(X87))
		load_x87(area, f);
	for (unsigned i = 0; i < 16 && bv & BIT(SSE); i++)
		memcpy(f->vec[i], area + AREA_XMM + 16 * i, 16);
	for (size_t p = 0; p < ARRAY_SIZE(parts); p++) {
		uint32_t at = layout->at[parts[p].component];

		if (!at || !(bv & BIT(parts[p].component)))
			continue;
		for (unsigned i = 0; i < parts[p].count; i++)
			memcpy(f->vec[parts[p].first + i] + parts[p].at,
			       area + at + i * parts[p].width, parts[p].width);
	}
	if (layout->at[OPMASK] && bv & BIT(OPMASK))
		memcpy(f->opmask, area + layout->at[OPMASK], sizeof(f->opmask));
	if (layout->at[PKRU] && bv & BIT(PKRU))
		f->pkru = load_le32(area + layout->at[PKRU]);
}

static void store_x87(uint8_t *area, const struct x86_fpu *f)
{
	store_le16(area + AREA_FCW, f->fcw);
	store_le16(area + AREA_FSW, f->fsw);
	area[AREA_FTW] = f->ftw;
	area[AREA_FTW + 1] = 0;
	store_le16(area + AREA_FOP, f->fop);
	store_le64(area + AREA_FIP, f->fip);
	store_le64(area + AREA_FDP, f->fdp);
	for (unsigned i = 0; i < 8; i++) {
		memset(area + AREA_ST + 16 * i, 0, 16);
		memcpy(area + AREA_ST + 16 * i, f->st[i], 10);
	}
}

static bool is_zero(const uint8_t *p, size_t len)
{
	uint64_t any = 0;

	for (size_t i = 0; i < len; i += 8)
		any |= load_le64(p + i);
	return !any;
}

/* A part that is all zero is told as being in its initial configuration: processors then know so, and
 * do not merge with it. */
static uint64_t store_part(const struct xsave_layout *layout, uint8_t *area, size_t p,
			   const struct x86_fpu *f)
{
	uint8_t *at = area + layout->at[parts[p].component];

	for (unsigned i = 0; i < parts[p].count; i++)
		memcpy(at + i * parts[p].width, f->vec[parts[p].first + i] + parts[p].at,
		       parts[p].width);
	return is_zero(at, (size_t)parts[p].count * parts[p].width) ? 0 : BIT(parts[p].component);
}

void xsave_store(const struct xsave_layout *layout, uint8_t *area, uint64_t offered,
		 const struct x86_fpu *f)
{
	uint64_t bv = load_le64(area + AREA_BV) | BIT(X87) | BIT(SSE);

	store_x87(area, f);
	store_le32(area + AREA_MXCSR, f->mxcsr);
	for (unsigned i = 0; i < 16; i++)
		memcpy(area + AREA_XMM + 16 * i, f->vec[i], 16);
	for (size_t p = 0; p < ARRAY_SIZE(parts); p++) {
		unsigned component = parts[p].component;

		if (layout->at[component] && offered & BIT(component))
			bv = (bv & ~BIT(component)) | store_part(layout, area, p, f);
	}
	if (layout->at[OPMASK] && offered & BIT(OPMASK)) {
		memcpy(area + layout->at[OPMASK], f->opmask, sizeof(f->opmask));
		bv |= BIT(OPMASK);
	}
	if (layout->at[PKRU] && offered & BIT(PKRU)) {
		store_le32(area + layout->at[PKRU], f->pkru);
		bv |= BIT(PKRU);
	}
	store_le64(area + AREA_BV, bv);
}
