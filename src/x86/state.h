// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * state.h - the architectural state of one vCPU, the same for every engine.
 *
 * Plain data: what a saved machine, a migration and a debugger see, and what the x86 core works on.
 * Everything is at an instruction boundary. Sources: Intel SDM vol. 1 and 3, AMD APM vol. 2.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum x86_gpr {
	X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSP, X86_RBP, X86_RSI, X86_RDI,
	X86_R8, X86_R9, X86_R10, X86_R11, X86_R12, X86_R13, X86_R14, X86_R15,
};

/* Encoding order, SDM vol. 2 table 2-3 "reg" column of MOV Sreg. */
enum x86_seg_reg { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_SEG_COUNT };

#define X86_FL_CF   (1u << 0)
#define X86_FL_ONE  (1u << 1)
#define X86_FL_PF   (1u << 2)
#define X86_FL_AF   (1u << 4)
#define X86_FL_ZF   (1u << 6)
#define X86_FL_SF   (1u << 7)
#define X86_FL_TF   (1u << 8)
#define X86_FL_IF   (1u << 9)
#define X86_FL_DF   (1u << 10)
#define X86_FL_OF   (1u << 11)
#define X86_FL_IOPL (3u << 12)
#define X86_FL_NT   (1u << 14)
#define X86_FL_RF   (1u << 16)
#define X86_FL_VM   (1u << 17)
#define X86_FL_AC   (1u << 18)
#define X86_FL_VIF  (1u << 19)
#define X86_FL_VIP  (1u << 20)
#define X86_FL_ID   (1u << 21)
/* The six status flags. */
#define X86_FL_STATUS (X86_FL_CF | X86_FL_PF | X86_FL_AF | X86_FL_ZF | X86_FL_SF | X86_FL_OF)

#define X86_CR0_PE (1u << 0)
#define X86_CR0_MP (1u << 1)
#define X86_CR0_EM (1u << 2)
#define X86_CR0_TS (1u << 3)
#define X86_CR0_ET (1u << 4)
#define X86_CR0_NE (1u << 5)
#define X86_CR0_WP (1u << 16)
#define X86_CR0_AM (1u << 18)
#define X86_CR0_NW (1u << 29)
#define X86_CR0_CD (1u << 30)
#define X86_CR0_PG (1u << 31)

#define X86_CR4_VME	   (1u << 0)
#define X86_CR4_PVI	   (1u << 1)
#define X86_CR4_TSD	   (1u << 2)
#define X86_CR4_DE	   (1u << 3)
#define X86_CR4_PSE	   (1u << 4)
#define X86_CR4_PAE	   (1u << 5)
#define X86_CR4_MCE	   (1u << 6)
#define X86_CR4_PGE	   (1u << 7)
#define X86_CR4_PCE	   (1u << 8)
#define X86_CR4_OSFXSR	   (1u << 9)
#define X86_CR4_OSXMMEXCPT (1u << 10)
#define X86_CR4_UMIP	   (1u << 11)
#define X86_CR4_FSGSBASE   (1u << 16)
#define X86_CR4_PCIDE	   (1u << 17)
#define X86_CR4_OSXSAVE	   (1u << 18)
#define X86_CR4_SMEP	   (1u << 20)
#define X86_CR4_SMAP	   (1u << 21)

#define X86_EFER_SCE (1u << 0)
#define X86_EFER_LME (1u << 8)
#define X86_EFER_LMA (1u << 10)
#define X86_EFER_NXE (1u << 11)

/* Segment attributes: bits 8..15 and 20..23 of a descriptor's upper half, pushed together as in
 * AMD APM vol. 2, 15.5.1 (VMCB). */
#define X86_SEG_TYPE	 0x000fu
#define X86_SEG_ACCESSED 0x0001u
#define X86_SEG_S	 0x0010u /* code or data, not system */
#define X86_SEG_DPL	 0x0060u
#define X86_SEG_DPL_SHIFT 5
#define X86_SEG_P	 0x0080u
#define X86_SEG_AVL	 0x0100u
#define X86_SEG_L	 0x0200u
#define X86_SEG_DB	 0x0400u
#define X86_SEG_G	 0x0800u
#define X86_SEG_UNUSABLE 0x8000u /* loaded with a null selector */

struct x86_segment {
	uint64_t base;
	uint32_t limit; /* last valid offset in bytes, granularity already applied */
	uint16_t selector;
	uint16_t attr;
};

struct x86_table {
	uint64_t base;
	uint16_t limit;
};

/* x87, SSE, AVX (and room for AVX-512). st[] is indexed physically as in FXSAVE: st[i] is ST(i). */
struct x86_fpu {
	uint8_t vec[32][64] __attribute__((aligned(64))); /* XMM in the low 16, YMM in the low 32 */
	uint64_t opmask[8];
	uint8_t st[8][16]; /* 80 bits used; MMX MM(i) is physical register i: see fpu.c */
	uint16_t fcw;
	uint16_t fsw; /* TOP in bits 11..13 */
	uint8_t ftw;  /* abridged: bit i set when physical register i is not empty */
	uint16_t fop; /* 11 bits */
	uint64_t fip;
	uint64_t fdp;
	uint16_t fcs, fds; /* legacy selectors; zero where the CPU deprecates them */
	uint32_t mxcsr;
	uint32_t pkru;
};

enum x86_activity {
	X86_RUNNING,
	X86_HALTED,	/* HLT or MWAIT: until an interrupt */
	X86_WAIT_SIPI,	/* after INIT */
	X86_SHUTDOWN,	/* triple fault */
};

struct x86_state {
	uint64_t gpr[16]; /* enum x86_gpr */
	uint64_t rip;
	uint64_t zero; /* always 0: what an absent base or index register reads as, see insn.h */
	uint64_t rflags;
	struct x86_segment seg[X86_SEG_COUNT]; /* enum x86_seg_reg; CPL is SS.DPL */
	struct x86_segment ldtr, tr;
	struct x86_table gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4;
	uint64_t dr[8]; /* 4 and 5 unused */
	uint64_t xcr0;

	uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_aux, misc_enable, spec_ctrl, debugctl, mcg_status;
	uint64_t xss;
	uint64_t tsc_adjust; /* IA32_TSC_ADJUST; the offset it names is in tsc already */
	/* Of processors that our own model is not: 0 under it. */
	uint64_t misc_features, tsx_ctrl, umwait_control;
	uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_var[16];
	/* Paravirtual clock, Linux Documentation/virt/kvm/x86/msr.rst. */
	uint64_t pv_system_time, pv_wall_clock, pv_steal_time, pv_eoi, pv_async_pf, pv_async_pf_int;
	uint64_t pv_poll_control;

	uint64_t tsc; /* the guest's time stamp counter when the state was read */

	struct x86_fpu fpu;

	/* Events between instructions. */
	uint8_t activity;	 /* enum x86_activity */
	uint8_t interrupt_shadow; /* bit 0: STI, bit 1: MOV SS / POP SS */
	bool nmi_masked;	 /* until IRET */
	bool nmi_pending;
	bool exception_pending; /* accepted and not yet delivered */
	uint8_t exception_vector;
	bool exception_has_error;
	uint32_t exception_error;
	uint64_t exception_payload; /* CR2 of a page fault, DR6 bits of a debug exception */
	bool interrupt_pending;	    /* acknowledged from the local APIC, not yet delivered */
	uint8_t interrupt_vector;
};

static inline unsigned x86_state_cpl(const struct x86_state *s)
{
	return (s->seg[X86_SS].attr & X86_SEG_DPL) >> X86_SEG_DPL_SHIFT;
}

/* State after power-up or INIT: SDM vol. 3, table "IA-32 and Intel 64 Processor States Following
 * Power-up, Reset, or INIT". INIT keeps the FPU, MTRRs and most MSRs. */
void x86_state_reset(struct x86_state *s);
void x86_state_init(struct x86_state *s);
