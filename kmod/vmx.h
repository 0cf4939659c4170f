/* SPDX-License-Identifier: GPL-2.0-only */
/* vmx.h - what the files of Intel's virtualization share. Sections are of the SDM, volume 3: see vmcs.h. */
#pragma once

#include <linux/bitmap.h>
#include <asm/asm.h>
#include <asm/desc.h>

#include "tag.h"
#include "vm.h"
#include "vmcs.h"

/* What this processor offers: appendix A. The same on all CPUs. */
struct vmx_features {
	u32 revision;
	u32 pin, proc, proc2, exit, entry; /* controls, as each vCPU starts with them */
	u64 cr0_set, cr4_set;		   /* bits that may not be 0 in the guest */
	u64 ept;			   /* IA32_VMX_EPT_VPID_CAP */
	bool unrestricted;		   /* guests without paging or protection: 25.6 */
	bool flush_l1;			   /* before each entry */
};

extern struct vmx_features vmx_features;

/* Registers that SYSCALL goes by, which no entry or exit loads. */
enum { SYSCALL_STAR, SYSCALL_LSTAR, SYSCALL_SFMASK, SYSCALL_MSRS };

struct vmx_cpu {
	void *region; /* VMXON's */
	struct tag_pool vpids;
	u64 syscall[SYSCALL_MSRS]; /* the host's */
};

DECLARE_PER_CPU(struct vmx_cpu, vmx_cpu);

/* What a thread has on its CPU, and an exit does not load as it was. */
struct vmx_host {
	struct desc_ptr gdt, idt; /* an exit makes the limits 64 KiB: 27.5.2 */
	u16 ds, es, fs, gs, ldt;
	u64 fs_base, kernel_gs_base, debugctl;
};

/* What the guest's state is to the processor: vmx_real.c. */
enum vmx_shape {
	SHAPE_OWN,  /* what it says */
	SHAPE_V86,  /* real mode, as virtual-8086 mode */
	SHAPE_NONE, /* refused: the x86 core goes on */
};

/*
 * A VMCS is read and written by the CPU that has it loaded, and by nothing else. So the driver has a copy: setting
 * a field (vmx_set()) is good anywhere, and what differs is written right before the entry. The guest's own
 * are read behind an exit (vmx_get(), or all of them by vmx_pull()), while the vCPU is loaded; the loop leaves
 * none of it for later.
 */
struct vmx_vcpu {
	void *vmcs; /* a page */
	u64 vmcs_pa;
	bool loaded;   /* on this CPU */
	bool launched; /* since it was loaded: 24.11.3 */
	bool flush;    /* what the CPU knows of the EPT may be old: it comes from another */
	bool refused;  /* the last entry, by VMLAUNCH or VMRESUME itself */
	u32 reason;    /* of the last exit */
	enum vmx_shape shape;
	struct tag vpid;
	struct vmx_host host;
	u64 syscall[SYSCALL_MSRS], kernel_gs_base; /* as the MSRs are, while loaded */

	u64 field[VMX_FIELDS];
	DECLARE_BITMAP(unwritten, VMX_FIELDS); /* field[] is newer than the VMCS */
};

static inline struct vmx_vcpu *vmx_of(struct vcpu *vcpu)
{
	return vcpu->hw;
}

/* ---- instructions. Behind VMXOFF on a reboot they are undefined, and pass for nothing done ---- */

/* True: done. @operand: the physical address of a VMXON region, or of a VMCS. */
#define VMX_BY_ADDRESS(name) \
	static inline bool name(u64 operand) \
	{ \
		bool failed = true; \
		asm volatile("1: " #name " %1; setna %0\n2:" _ASM_EXTABLE(1b, 2b) \
			     : "+qm"(failed) : "m"(operand) : "cc", "memory"); \
		return !failed; \
	}

VMX_BY_ADDRESS(vmxon)
VMX_BY_ADDRESS(vmptrld)
VMX_BY_ADDRESS(vmclear)

static inline u64 vmread(unsigned long encoding)
{
	u64 value = 0;

	asm volatile("1: vmread %1, %0\n2:" _ASM_EXTABLE(1b, 2b) : "+r"(value) : "r"(encoding) : "cc");
	return value;
}

static inline void vmwrite(unsigned long encoding, u64 value)
{
	asm volatile("1: vmwrite %1, %0\n2:" _ASM_EXTABLE(1b, 2b)
		     : : "r"(encoding), "rm"(value) : "cc", "memory");
}

/* ---- vmx_state.c: fields ---- */

/* Any context; of a guest's own field, where vmx_get() has read it since the last exit. */
static inline void vmx_set(struct vmx_vcpu *vmx, enum vmx_field field, u64 value)
{
	if (vmx->field[field] == value)
		return;
	vmx->field[field] = value;
	__set_bit(field, vmx->unwritten);
}

static inline void vmx_set_bits(struct vmx_vcpu *vmx, enum vmx_field field, u64 bits, bool on)
{
	vmx_set(vmx, field, on ? vmx->field[field] | bits : vmx->field[field] & ~bits);
}

/* One of VMCS_GUEST_FIELDS, as it is now. */
u64 vmx_get(struct vcpu *vcpu, enum vmx_field field);
/* What differs goes to the VMCS, which is loaded. */
void vmx_write_fields(struct vmx_vcpu *vmx);
void vmx_pull(struct vcpu *vcpu);
void vmx_code_place(struct vcpu *vcpu, struct code_place *ret);
void vmx_prepare(struct vcpu *vcpu);
void vmx_push(struct vcpu *vcpu);

/* The processor walks the guest's own tables, as long as these registers are as they are. */
static inline bool vmx_has_own_tables(const struct vcpu *vcpu)
{
	return !vcpu->shadow && (vmx_features.unrestricted || vcpu->cpu.s.cr0 & X86_CR0_PG);
}

/* ---- vmx_real.c: what cannot be entered as it is ---- */
bool vmx_needs_core(struct vcpu *vcpu);
/* To and from virtual-8086 mode. */
void vmx_push_v86(struct vmx_vcpu *vmx, const struct x86_state *s);
void vmx_pull_v86(struct vmx_vcpu *vmx, struct x86_state *s);
/* An exception there. As handle_exit(). */
int vmx_exception_v86(struct vcpu *vcpu, u8 vector);

/* ---- vmx_vcpu.c: a vCPU ---- */
/* Which exceptions exit. */
void vmx_choose_exceptions(struct vcpu *vcpu);
int vmx_vcpu_create(struct vcpu *vcpu);
void vmx_vcpu_free(struct vcpu *vcpu);
void vmx_load(struct vcpu *vcpu, bool moved);
void vmx_put(struct vcpu *vcpu);
void vmx_enter(struct vcpu *vcpu, bool flush);
/* The registers of SYSCALL, as the guest's state wants them. Preemption is off. */
void vmx_load_syscall(struct vcpu *vcpu);
/* What SWAPGS finds. It may have exchanged it since: only behind vmx_pull(). */
void vmx_load_kernel_gs(struct vcpu *vcpu);

/* ---- vmx.c ---- */
/* The physical address of the bits of MSRs that do not exit: of all machines, or of those with a filter. */
u64 vmx_msr_map(bool closed);
u64 vmx_eptp(const struct vm *vm);
/* What this CPU knows of one EPT, or of all VPIDs. */
void vmx_forget_ept(u64 eptp);
void vmx_forget_vpids(void);

/* ---- vmx_exit.c ---- */
int vmx_handle_exit(struct vcpu *vcpu);
void vmx_exit_info(struct vcpu *vcpu, struct exit_info *ret);

/* vmx_enter.S: run the guest of the loaded VMCS until it exits, with its general registers but RSP from @gpr (enum
 * x86_gpr), and back. True: it could not be entered. Exits come to vmx_exited. */
bool vmx_run(u64 *gpr, bool launched);
extern const char vmx_exited[];
