/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vmcs.h - the VMCS as data: its fields with their encodings, and the bits in them. Sections, figures and
 * tables are of the SDM, volume 3, as of 2021 (a later edition counts chapters 24 to 30 one higher).
 */
#pragma once

#include <linux/types.h>

/*
 * Appendix B. Of a field the driver keeps a copy (vmx.h), so that it is written where it is another value only. Those
 * of the first list are changed by the guest, and read back behind an exit.
 *
 * The first are eight by eight in the order of appendix B, which is that of enum x86_seg_reg, LDTR, TR.
 */
#define VMCS_GUEST_FIELDS(F) \
	F(ES_SELECTOR, 0x0800) F(CS_SELECTOR, 0x0802) F(SS_SELECTOR, 0x0804) F(DS_SELECTOR, 0x0806) \
	F(FS_SELECTOR, 0x0808) F(GS_SELECTOR, 0x080a) F(LDTR_SELECTOR, 0x080c) F(TR_SELECTOR, 0x080e) \
	F(ES_LIMIT, 0x4800) F(CS_LIMIT, 0x4802) F(SS_LIMIT, 0x4804) F(DS_LIMIT, 0x4806) \
	F(FS_LIMIT, 0x4808) F(GS_LIMIT, 0x480a) F(LDTR_LIMIT, 0x480c) F(TR_LIMIT, 0x480e) \
	F(ES_ACCESS, 0x4814) F(CS_ACCESS, 0x4816) F(SS_ACCESS, 0x4818) F(DS_ACCESS, 0x481a) \
	F(FS_ACCESS, 0x481c) F(GS_ACCESS, 0x481e) F(LDTR_ACCESS, 0x4820) F(TR_ACCESS, 0x4822) \
	F(ES_BASE, 0x6806) F(CS_BASE, 0x6808) F(SS_BASE, 0x680a) F(DS_BASE, 0x680c) \
	F(FS_BASE, 0x680e) F(GS_BASE, 0x6810) F(LDTR_BASE, 0x6812) F(TR_BASE, 0x6814) \
	F(GDTR_LIMIT, 0x4810) F(GDTR_BASE, 0x6816) F(IDTR_LIMIT, 0x4812) F(IDTR_BASE, 0x6818) \
	F(CR0, 0x6800) F(CR3, 0x6802) F(CR4, 0x6804) F(DR7, 0x681a) \
	F(RSP, 0x681c) F(RIP, 0x681e) F(RFLAGS, 0x6820) \
	F(PENDING_DEBUG, 0x6822) F(INTERRUPTIBILITY, 0x4824)

#define VMCS_OTHER_FIELDS(F) \
	/* of the guest's state, what it cannot change without an exit, or what nobody asks for */ \
	F(PDPTE0, 0x280a) F(PDPTE1, 0x280c) F(PDPTE2, 0x280e) F(PDPTE3, 0x2810) \
	F(EFER, 0x2806) F(DEBUGCTL, 0x2802) F(SYSENTER_CS, 0x482a) F(SYSENTER_ESP, 0x6824) \
	F(SYSENTER_EIP, 0x6826) F(ACTIVITY, 0x4826) F(LINK_POINTER, 0x2800) \
	/* how it runs: 24.6 to 24.8 */ \
	F(PIN_CONTROLS, 0x4000) F(CONTROLS, 0x4002) F(CONTROLS2, 0x401e) F(EXIT_CONTROLS, 0x400c) \
	F(ENTRY_CONTROLS, 0x4012) F(EXCEPTIONS, 0x4004) F(PF_MASK, 0x4006) F(PF_MATCH, 0x4008) \
	F(CR3_TARGETS, 0x400a) F(EXIT_STORES, 0x400e) F(EXIT_LOADS, 0x4010) F(ENTRY_LOADS, 0x4014) \
	F(ENTRY_EVENT, 0x4016) F(ENTRY_ERROR, 0x4018) F(TSC_OFFSET, 0x2010) F(MSR_MAP, 0x2004) \
	F(CR0_MASK, 0x6000) F(CR4_MASK, 0x6002) F(CR0_SHADOW, 0x6004) F(CR4_SHADOW, 0x6006) \
	F(EPTP, 0x201a) F(VPID, 0x0000) F(PLE_GAP, 0x4020) F(PLE_WINDOW, 0x4022) F(ENCLS_EXITS, 0x202e) \
	/* what an exit loads: 24.5 */ \
	F(HOST_ES, 0x0c00) F(HOST_CS, 0x0c02) F(HOST_SS, 0x0c04) F(HOST_DS, 0x0c06) F(HOST_FS, 0x0c08) \
	F(HOST_GS, 0x0c0a) F(HOST_TR, 0x0c0c) F(HOST_EFER, 0x2c02) F(HOST_SYSENTER_CS, 0x4c00) \
	F(HOST_CR0, 0x6c00) F(HOST_CR3, 0x6c02) F(HOST_CR4, 0x6c04) F(HOST_FS_BASE, 0x6c06) \
	F(HOST_GS_BASE, 0x6c08) F(HOST_TR_BASE, 0x6c0a) F(HOST_GDTR_BASE, 0x6c0c) \
	F(HOST_IDTR_BASE, 0x6c0e) F(HOST_SYSENTER_ESP, 0x6c10) F(HOST_SYSENTER_EIP, 0x6c12) \
	F(HOST_RIP, 0x6c16)

#define VMCS_ENUM(name, encoding) VMX_##name,
enum vmx_field {
	VMCS_GUEST_FIELDS(VMCS_ENUM)
	VMX_GUEST_FIELDS,
	VMX_BEHIND_GUEST = VMX_GUEST_FIELDS - 1,
	VMCS_OTHER_FIELDS(VMCS_ENUM)
	VMX_FIELDS,
};

/* The first of eight. */
#define VMX_SELECTOR VMX_ES_SELECTOR
#define VMX_LIMIT    VMX_ES_LIMIT
#define VMX_ACCESS   VMX_ES_ACCESS
#define VMX_BASE     VMX_ES_BASE
#define VMX_LDTR     6
#define VMX_TR	     7

/* B.2.2, B.3.2, B.4.2: only read, and by their encodings. */
#define VMCS_INSTRUCTION_ERROR 0x4400
#define VMCS_EXIT_REASON       0x4402
#define VMCS_EXIT_EVENT	       0x4404
#define VMCS_EXIT_ERROR	       0x4406
#define VMCS_VECTORING_EVENT   0x4408
#define VMCS_VECTORING_ERROR   0x440a
#define VMCS_EXIT_LENGTH       0x440c
#define VMCS_QUALIFICATION     0x6400
#define VMCS_PHYSICAL_ADDRESS  0x2400

/* Table 24-5: pin-based controls. */
#define PIN_INTERRUPTS	 BIT(0)
#define PIN_NMI		 BIT(3)
#define PIN_VIRTUAL_NMIS BIT(5)

/* Table 24-6: primary processor-based controls. */
#define PROC_INTERRUPT_WINDOW BIT(2)
#define PROC_TSC_OFFSET	      BIT(3)
#define PROC_HLT	      BIT(7)
#define PROC_INVLPG	      BIT(9)
#define PROC_MWAIT	      BIT(10)
#define PROC_RDPMC	      BIT(11)
#define PROC_CR3_LOAD	      BIT(15)
#define PROC_CR3_STORE	      BIT(16)
#define PROC_CR8_LOAD	      BIT(19)
#define PROC_CR8_STORE	      BIT(20)
#define PROC_NMI_WINDOW	      BIT(22)
#define PROC_MOV_DR	      BIT(23)
#define PROC_ALL_PORTS	      BIT(24)
#define PROC_MSR_MAP	      BIT(28)
#define PROC_MONITOR	      BIT(29)
#define PROC_SECONDARY	      BIT(31)

/* Table 24-7: secondary processor-based controls. */
#define PROC2_EPT	   BIT(1)
#define PROC2_RDTSCP	   BIT(3)
#define PROC2_VPID	   BIT(5)
#define PROC2_WBINVD	   BIT(6)
#define PROC2_UNRESTRICTED BIT(7)
#define PROC2_PAUSE_LOOP   BIT(10)
#define PROC2_INVPCID	   BIT(12)
#define PROC2_ENCLS	   BIT(15)

/* 24.7.1: exit controls; 24.8.1: entry controls. */
#define EXIT_SAVE_DEBUG BIT(2)
#define EXIT_HOST_64	BIT(9)
#define EXIT_LOAD_EFER	BIT(21)
#define ENTRY_LOAD_DEBUG BIT(2)
#define ENTRY_LONG_MODE	 BIT(9)
#define ENTRY_LOAD_EFER	 BIT(15)

/* Table 24-2: access rights, where they are not as in a descriptor. */
#define ACCESS_UNUSABLE BIT(16)
/* Table 24-3: interruptibility. */
#define BLOCKED_BY_STI	  BIT(0)
#define BLOCKED_BY_MOV_SS BIT(1)
#define BLOCKED_BY_NMI	  BIT(3)
/* Table 24-4: pending debug exceptions. */
#define PENDING_STEP BIT(14)

/* 24.8.3, 24.9.2, 24.9.3: an event, on its way in, as a reason to exit, or cut short by an exit. Beside EVENT_INFO_*
 * of vm.h, which both vendors have. */
#define EVENT_TYPE_SHIFT     8
#define EVENT_TYPE_MASK	     7
#define EVENT_TYPE_NMI	     2
#define EVENT_TYPE_INT1	     5
#define EVENT_IRET_UNBLOCKED BIT(12)

/* Appendix C: reasons for an exit. */
#define EXIT_ENTRY_FAILED BIT(31)
enum vmx_reason {
	REASON_EXCEPTION_OR_NMI = 0, REASON_INTERRUPT = 1, REASON_TRIPLE_FAULT = 2, REASON_INIT = 3,
	REASON_SIPI = 4, REASON_INTERRUPT_WINDOW = 7, REASON_NMI_WINDOW = 8, REASON_TASK_SWITCH = 9,
	REASON_CPUID = 10, REASON_GETSEC = 11, REASON_HLT = 12, REASON_INVD = 13, REASON_INVLPG = 14,
	REASON_RDPMC = 15, REASON_RDTSC = 16, REASON_RSM = 17, REASON_VMCALL = 18, REASON_VMCLEAR = 19,
	REASON_VMXON = 27, REASON_CR = 28, REASON_DR = 29, REASON_PORT = 30, REASON_RDMSR = 31, REASON_WRMSR = 32,
	REASON_BAD_STATE = 33, REASON_BAD_MSRS = 34, REASON_MWAIT = 36, REASON_MONITOR = 39,
	REASON_PAUSE = 40, REASON_MACHINE_CHECK = 41, REASON_EPT_VIOLATION = 48,
	REASON_EPT_MISCONFIGURED = 49, REASON_INVEPT = 50, REASON_INVVPID = 53, REASON_WBINVD = 54,
	REASON_XSETBV = 55, REASON_INVPCID = 58, REASON_VMFUNC = 59, REASON_ENCLS = 60,
};

/* Table 27-5: qualification of a port access. */
#define PORT_SIZE_MASK 7 /* less one */
#define PORT_IN	       BIT(3)
#define PORT_STRING    BIT(4)
#define PORT_SHIFT     16
/* Table 27-7: of an EPT violation. */
#define VIOLATION_WRITE		 BIT(1)
#define VIOLATION_FETCH		 BIT(2)
#define VIOLATION_LAST		 (BIT(7) | BIT(8)) /* of a linear address, and not one to the tables it is looked up in */
#define VIOLATION_IRET_UNBLOCKED BIT(12)
/* Table 27-1: of a debug exception. */
#define DEBUG_BITS 0x600fu

/* Figure 28-1: an entry of the EPT; the memory type and IPAT of one that names a page. */
#define EPT_READ     BIT_ULL(0)
#define EPT_WRITE    BIT_ULL(1)
#define EPT_EXECUTE  BIT_ULL(2)
#define EPT_WB	     (6ull << 3)
#define EPT_IPAT     BIT_ULL(6) /* the guest's PAT does not count */
#define EPT_LARGE    BIT_ULL(7)
#define EPT_ACCESSED BIT_ULL(8)
#define EPT_DIRTY    BIT_ULL(9)
/* 24.6.11: the pointer to it. */
#define EPTP_WB	    6ull
#define EPTP_LEVELS (3ull << 3) /* four */
#define EPTP_MARKS  BIT_ULL(6)	/* accessed and dirty are set */

/* A.10: IA32_VMX_EPT_VPID_CAP. */
#define CAP_EPT_LEVELS	   BIT_ULL(6)
#define CAP_EPT_WB	   BIT_ULL(14)
#define CAP_EPT_LARGE	   BIT_ULL(16)
#define CAP_EPT_1G	   BIT_ULL(17)
#define CAP_INVEPT	   BIT_ULL(20)
#define CAP_EPT_MARKS	   BIT_ULL(21)
#define CAP_INVEPT_ONE	   BIT_ULL(25)
#define CAP_INVEPT_ALL	   BIT_ULL(26)
#define CAP_INVVPID	   BIT_ULL(32)
#define CAP_INVVPID_ALL	   BIT_ULL(42)
/* A.1: IA32_VMX_BASIC. */
#define BASIC_REVISION	   0x7fffffffu
#define BASIC_TRUE	   BIT_ULL(55) /* there are MSRs that tell of controls that may be 0 */

/* INVEPT, INVVPID: 30.3. */
enum { INVALIDATE_ONE = 1, INVALIDATE_ALL = 2 };
