/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* stubs.h - how a host stub begins, which is called through a pointer, and how it returns; assembler only. */
#pragma once

#ifdef __KERNEL__
/* Linux changes both where the processor wants that: asm/ibt.h, asm/linkage.h. */
#include <linux/linkage.h>
#include <asm/ibt.h>
#define STUB_BEGIN ENDBR
#define STUB_RET   RET
#else
#define STUB_BEGIN
#define STUB_RET ret
#endif
