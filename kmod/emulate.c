// SPDX-License-Identifier: GPL-2.0-only
/*
 * emulate.c - instructions that the x86 core finishes: MMIO, string I/O, control registers.
 *
 * The core works on the vCPU's own state and reaches guest RAM through pages that are held while it runs. A
 * device that lives in user space cannot answer at once: the core then gives the instruction up as if
 * it had faulted (x86_cpu.device_waits), user space is asked, and the instruction starts anew with the
 * answers there are so far. Stores to devices are kept until the instruction is done, and go out one by
 * one. A REP instruction is done an iteration at a time, for which answers hold.
 */
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "chips.h"
#include "shadow.h"

static struct vcpu *vcpu_of(struct x86_cpu *cpu)
{
	return container_of(cpu, struct vcpu, cpu);
}

/* ---- guest RAM ---- */

/* A walk looks at the same tables time and again. */
static struct page *find_held(const struct emulation *emu, gpn_t gpn, bool write)
{
	for (unsigned int i = 0; i < emu->pages; i++) {
		if (emu->held[i].gpn == gpn && (emu->held[i].writable || !write))
			return emu->held[i].page;
	}
	return NULL;
}

static u8 *op_ram_page(struct x86_cpu *cpu, u64 gpa, bool write, bool *ret_direct)
{
	struct vcpu *vcpu = vcpu_of(cpu);
	struct emulation *emu = &vcpu->emu;
	gpn_t gpn = gpa >> PAGE_SHIFT;
	struct page *page = find_held(emu, gpn, write);
	const struct slot *slot;
	u8 *at = NULL;
	int lock;

	*ret_direct = !vcpu->shadow;
	if (page)
		return page_address(page);
	if (emu->pages == ARRAY_SIZE(emu->held))
		return NULL;
	lock = srcu_read_lock(&vcpu->vm->srcu);
	slot = slot_of(vcpu->vm, gpn);
	if (slot && !(write && slot->flags & KVM_MEM_READONLY) &&
	    get_user_pages_fast(slot_hva(slot, gpn), 1, write ? FOLL_WRITE : 0, &page) == 1) {
		emu->held[emu->pages++] = (struct held_page){ gpn, write, page };
		at = page_address(page);
		if (write)
			set_page_dirty_lock(page);
	}
	srcu_read_unlock(&vcpu->vm->srcu, lock);
	return at;
}

static bool op_ram_written(struct x86_cpu *cpu, u64 gpa, unsigned int len)
{
	shadow_written(vcpu_of(cpu), gpa, len);
	return false;
}

/* Of ROM: a page that is not to be written is none of RAM's to an instruction that reads, then writes. */
static bool rom_read(struct vcpu *vcpu, u64 gpa, unsigned int size, u64 *ret)
{
	int lock = srcu_read_lock(&vcpu->vm->srcu);
	const struct slot *slot = slot_of(vcpu->vm, gpa >> PAGE_SHIFT);
	bool done = false;

	*ret = 0;
	if (slot)
		done = !copy_from_user(ret, (void __user *)(slot_hva(slot, gpa >> PAGE_SHIFT) +
							    offset_in_page(gpa)), size);
	srcu_read_unlock(&vcpu->vm->srcu, lock);
	return done;
}

/* They are logged when they have been written: who reads the log meanwhile would not come back for them. */
void emulate_put_pages(struct vcpu *vcpu)
{
	int lock = srcu_read_lock(&vcpu->vm->srcu);

	while (vcpu->emu.pages) {
		const struct held_page *held = &vcpu->emu.held[--vcpu->emu.pages];
		const struct slot *slot = held->writable ? slot_of(vcpu->vm, held->gpn) : NULL;

		if (slot)
			slot_mark_dirty(vcpu, slot, held->gpn);
		put_page(held->page);
	}
	srcu_read_unlock(&vcpu->vm->srcu, lock);
}

static void drop_pages(struct vcpu *vcpu)
{
	vcpu->emu.dropping = true;
	x86_tlb_flush(&vcpu->cpu);
	vcpu->emu.dropping = false;
	emulate_put_pages(vcpu);
}

/* ---- devices ---- */

static u64 device_read(struct x86_cpu *cpu, u64 addr, unsigned int size, bool port)
{
	struct device_access a = { .addr = addr, .size = size, .port = port };
	struct emulation *emu = &vcpu_of(cpu)->emu;
	u64 value;

	if (cpu->device_waits)
		return 0;
	if (device_read_here(vcpu_of(cpu), &a, &value)) {
		a.value = value;
		trace_device(&a, false);
		return value;
	}
	/* A REP instruction gives way behind this iteration: answers are for one. */
	cpu->stop_requested = true;
	if (emu->used < emu->answers)
		return emu->answer[emu->used++].value;
	emu->want = a;
	cpu->device_waits = true;
	return 0;
}

static void device_write(struct x86_cpu *cpu, u64 addr, unsigned int size, u64 value, bool port)
{
	struct emulation *emu = &vcpu_of(cpu)->emu;

	cpu->stop_requested = true;
	if (!cpu->device_waits && emu->writes < VCPU_ANSWERS)
		emu->write[emu->writes++] = (struct device_access){
			.addr = addr, .size = size, .value = value, .port = port };
}

static u64 op_mmio_read(struct x86_cpu *cpu, u64 gpa, unsigned int size)
{
	u64 value;

	return rom_read(vcpu_of(cpu), gpa, size, &value) ? value :
							   device_read(cpu, gpa, size, false);
}

static void op_mmio_write(struct x86_cpu *cpu, u64 gpa, unsigned int size, u64 value)
{
	device_write(cpu, gpa, size, value, false);
}

static u64 op_pio_read(struct x86_cpu *cpu, u16 port, unsigned int size)
{
	return device_read(cpu, port, size, true);
}

static void op_pio_write(struct x86_cpu *cpu, u16 port, unsigned int size, u64 value)
{
	device_write(cpu, port, size, value, true);
}

/* ---- the rest of what the core asks for ---- */

static u64 op_rdtsc(struct x86_cpu *cpu)
{
	return rdtsc() + vcpu_of(cpu)->tsc_offset;
}

static void op_set_tsc(struct x86_cpu *cpu, u64 value)
{
	tsc_set_offset(vcpu_of(cpu), value - rdtsc());
}

static u8 op_get_cr8(struct x86_cpu *cpu)
{
	struct vcpu *vcpu = vcpu_of(cpu);

	return vcpu->lapic ? lapic_get(vcpu->lapic, LAPIC_TPR) >> 4 : vcpu->run->cr8 & 15;
}

static void op_set_cr8(struct x86_cpu *cpu, u8 cr8)
{
	struct vcpu *vcpu = vcpu_of(cpu);

	if (vcpu->lapic) {
		lapic_mmio_write(vcpu->lapic, LAPIC_TPR, cr8 << 4);
		return;
	}
	vcpu->run->cr8 = cr8;
	vcpu->cr8_changed = true;
}

static void op_cpuid(struct x86_cpu *cpu, u32 leaf, u32 subleaf, u32 regs[4])
{
	cpuid_query(vcpu_of(cpu), leaf, subleaf, regs);
}

/* The one of the two instructions that this processor does not have. */
static bool op_hypercall(struct x86_cpu *cpu)
{
	hypercall(vcpu_of(cpu));
	return true;
}

/* Behind each run of a REP instruction: what it costs to go on is little. */
static bool op_should_stop(struct x86_cpu *cpu)
{
	return true;
}

static void op_tlb_flushed(struct x86_cpu *cpu)
{
	struct vcpu *vcpu = vcpu_of(cpu);

	if (!vcpu->emu.dropping)
		vcpu_flush_tlb(vcpu);
}

/* INVLPG; but for shadow paging the guest's own processor executes it. */
static void op_tlb_flushed_page(struct x86_cpu *cpu, u64 linear)
{
	struct vcpu *vcpu = vcpu_of(cpu);

	vcpu->stats.invlpg++;
	set_bit(REQ_FLUSH, &vcpu->requests);
	if (vcpu->shadow)
		shadow_invalidate(vcpu, linear);
}

static const struct x86_cpu_ops ops = {
	.ram_page = op_ram_page,
	.ram_written = op_ram_written,
	.mmio_read = op_mmio_read,
	.mmio_write = op_mmio_write,
	.pio_read = op_pio_read,
	.pio_write = op_pio_write,
	.rdtsc = op_rdtsc,
	.set_tsc = op_set_tsc,
	.get_cr8 = op_get_cr8,
	.set_cr8 = op_set_cr8,
	.cpuid = op_cpuid,
	.hypercall = op_hypercall,
	.should_stop = op_should_stop,
	.tlb_flushed = op_tlb_flushed,
	.tlb_flushed_page = op_tlb_flushed_page,
};

/* ---- to user space and back ---- */

static int next_write(struct vcpu *vcpu);

static int finish_read(struct vcpu *vcpu)
{
	struct emulation *emu = &vcpu->emu;
	struct device_access answer = emu->want;

	memcpy(&answer.value, answer.port ? vcpu->run_data : vcpu->run->mmio.data, answer.size);
	trace_device(&answer, false);
	if (emu->answers == VCPU_ANSWERS)
		return exit_failure(vcpu);
	emu->answer[emu->answers++] = answer;
	return emulate(vcpu);
}

static int finish_write(struct vcpu *vcpu)
{
	return next_write(vcpu);
}

static int next_write(struct vcpu *vcpu)
{
	struct emulation *emu = &vcpu->emu;

	while (emu->written < emu->writes) {
		trace_device(&emu->write[emu->written], true);
		if (!device_write_here(vcpu, &emu->write[emu->written]))
			break;
		emu->written++;
	}
	if (emu->written == emu->writes) {
		emu->writes = emu->written = 0;
		/* User space has the local APIC, and with it the interrupts that this may let in. */
		if (vcpu->cr8_changed) {
			vcpu->cr8_changed = false;
			vcpu->run->exit_reason = KVM_EXIT_SET_TPR;
			vcpu->finish = debug_trap;
			return 0;
		}
		return debug_trap(vcpu);
	}
	exit_to_device(vcpu, &emu->write[emu->written++], true);
	vcpu->finish = finish_write;
	return 0;
}

/* ---- one instruction ---- */

/* What the hardware began and could not end: the frame, or a table, is in a device, or it is a task gate. */
static int deliver(struct vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct x86_state *s = &cpu->s;

	vcpu->taken_back = false;
	if (s->exception_pending) {
		s->exception_pending = false;
		cpu->fault = (struct x86_fault){
			.vector = s->exception_vector, .has_error = s->exception_has_error,
			.error = s->exception_error,
			.payload = s->exception_vector == X86_PF ? s->cr2 : 0,
		};
		x86_deliver_fault(cpu);
	} else if (vcpu->nmi_injected) {
		vcpu->nmi_injected = false;
		x86_deliver_nmi(cpu);
		hw->nmi_window(vcpu, true);
	} else {
		s->interrupt_pending = false;
		x86_deliver_interrupt(cpu, s->interrupt_vector);
	}
	drop_pages(vcpu);
	cpu->stop_requested = false;
	if (!cpu->device_waits)
		return next_write(vcpu);
	cpu->device_waits = false; /* a descriptor in a device: nobody has that */
	vcpu->emu.writes = 0;
	return exit_failure(vcpu);
}

int emulate(struct vcpu *vcpu)
{
	struct emulation *emu = &vcpu->emu;
	struct x86_cpu *cpu = &vcpu->cpu;

	vcpu->stats.insn_emulation++;
	(void)vcpu_state(vcpu);
	if (vcpu->taken_back)
		return deliver(vcpu);
	emu->used = 0;
	/* Vector and x87 registers are not in the state that the core is given. */
	if (emulate_length(vcpu) && emu->floating)
		return vcpu->shadow && shadow_yield(vcpu) ? 1 : exit_failure(vcpu);
	(void)x86_step(cpu);
	drop_pages(vcpu);
	if (cpu->device_waits) {
		cpu->device_waits = false;
		emu->writes = 0;
		exit_to_device(vcpu, &emu->want, false);
		vcpu->finish = finish_read;
		return 0;
	}
	cpu->stop_requested = false;
	emu->answers = 0;
	return next_write(vcpu);
}

/* With their opcodes in the map of two bytes: HLT, of one, is below them. */
enum { OPCODE_HLT = 0xf4, OPCODE_WRMSR = 0x130, OPCODE_RDMSR = 0x132 };

static u16 privileged(const struct x86_insn *insn)
{
	u16 opcode = insn->map << 8 | insn->opcode;

	return insn->map <= 1 && (opcode == OPCODE_HLT || opcode == OPCODE_WRMSR || opcode == OPCODE_RDMSR) ?
		       opcode : 0;
}

int emulate_any(struct vcpu *vcpu)
{
	bool found = !vcpu->taken_back && emulate_length(vcpu);

	vcpu->emu.alone = true;
	if (found && vcpu->emu.breakpoint && vcpu->debug.control & KVM_GUESTDBG_USE_SW_BP)
		return debug_exit(vcpu, X86_BP, vcpu->debug.dr6);
	(void)vcpu_peek(vcpu);
	if (!found || vcpu->cpu.cpl)
		return emulate(vcpu);
	switch (vcpu->emu.privileged) {
	case OPCODE_HLT:
		return exit_hlt(vcpu);
	case OPCODE_RDMSR:
	case OPCODE_WRMSR:
		return msr_exit(vcpu, vcpu->emu.privileged == OPCODE_WRMSR);
	default:
		return emulate(vcpu);
	}
}

unsigned int emulate_length(struct vcpu *vcpu)
{
	struct x86_insn insn;
	unsigned int length = fetch_insn(vcpu, &insn);

	if (!length) {
		(void)vcpu_peek(vcpu);
		length = x86_fetch_insn(&vcpu->cpu, &insn);
		drop_pages(vcpu);
	}
	vcpu->emu.floating = length && x86_insn_is_floating(&insn);
	vcpu->emu.breakpoint = length && insn.map == 0 && insn.opcode == 0xcc;
	vcpu->emu.privileged = length ? privileged(&insn) : 0;
	return length;
}

int emulate_init(struct vcpu *vcpu)
{
	vcpu->tlb = kvzalloc(sizeof(*vcpu->tlb), GFP_KERNEL_ACCOUNT);
	vcpu->model = kvzalloc(sizeof(*vcpu->model), GFP_KERNEL_ACCOUNT);
	if (!vcpu->tlb || !vcpu->model)
		return -ENOMEM;
	x86_cpuid_model_max(vcpu->model);
	vcpu->cpu.ops = &ops;
	vcpu->cpu.tlb = vcpu->tlb;
	vcpu->cpu.model = vcpu->model;
	vcpu->cpu.pdptes_accessed = true;
	x86_cpu_reset(&vcpu->cpu);
	return 0;
}

void emulate_free(struct vcpu *vcpu)
{
	kvfree(vcpu->tlb);
	kvfree(vcpu->model);
}
