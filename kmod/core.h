/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * core.h - the x86 core beside the kernel's own headers, which use some of the same names for the same bits.
 * (asm/processor-flags.h). Included behind those; the values are the manual's in both.
 */
#pragma once

#include <asm/processor-flags.h>

#undef X86_CR0_PE
#undef X86_CR0_MP
#undef X86_CR0_EM
#undef X86_CR0_TS
#undef X86_CR0_ET
#undef X86_CR0_NE
#undef X86_CR0_WP
#undef X86_CR0_AM
#undef X86_CR0_NW
#undef X86_CR0_CD
#undef X86_CR0_PG
#undef X86_CR4_VME
#undef X86_CR4_PVI
#undef X86_CR4_TSD
#undef X86_CR4_DE
#undef X86_CR4_PSE
#undef X86_CR4_PAE
#undef X86_CR4_MCE
#undef X86_CR4_PGE
#undef X86_CR4_PCE
#undef X86_CR4_OSFXSR
#undef X86_CR4_OSXMMEXCPT
#undef X86_CR4_UMIP
#undef X86_CR4_FSGSBASE
#undef X86_CR4_PCIDE
#undef X86_CR4_OSXSAVE
#undef X86_CR4_SMEP
#undef X86_CR4_SMAP

#include "x86.h"
