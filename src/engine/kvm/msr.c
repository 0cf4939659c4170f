// SPDX-License-Identifier: Apache-2.0
/* msr.c - the MSRs of struct x86_state, read and written in one call each. */
#include "engine/kvm/kvm_int.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/bits.h"

#define MSR_TSC 0x10u

#define FIELD(name)    offsetof(struct x86_state, name)
#define AT(name, i)    (offsetof(struct x86_state, name) + (i) * sizeof(uint64_t))

/* Written in this order: EFER comes with the special registers, the paravirtual clock last. */
static const struct {
	uint32_t msr;
	size_t field;
} msr_table[] = {
	{ MSR_TSC, FIELD(tsc) },
	{ 0x00000174, FIELD(sysenter_cs) },
	{ 0x00000175, FIELD(sysenter_esp) },
	{ 0x00000176, FIELD(sysenter_eip) },
	{ 0xc0000081, FIELD(star) },
	{ 0xc0000082, FIELD(lstar) },
	{ 0xc0000083, FIELD(cstar) },
	{ 0xc0000084, FIELD(sfmask) },
	{ 0xc0000102, FIELD(kernel_gs_base) },
	{ 0xc0000103, FIELD(tsc_aux) },
	{ 0x00000277, FIELD(pat) },
	{ 0x000001a0, FIELD(misc_enable) },
	{ 0x00000048, FIELD(spec_ctrl) },
	{ 0x000001d9, FIELD(debugctl) },
	{ 0x0000017a, FIELD(mcg_status) },
	{ 0x00000da0, FIELD(xss) },
	{ 0x0000003b, FIELD(tsc_adjust) }, /* written by the host, it moves no counter */
	{ 0x00000140, FIELD(misc_features) },
	{ 0x00000122, FIELD(tsx_ctrl) },
	{ 0x000000e1, FIELD(umwait_control) },
	{ 0x00000250, AT(mtrr_fixed, 0) },
	{ 0x00000258, AT(mtrr_fixed, 1) },
	{ 0x00000259, AT(mtrr_fixed, 2) },
	{ 0x00000268, AT(mtrr_fixed, 3) },
	{ 0x00000269, AT(mtrr_fixed, 4) },
	{ 0x0000026a, AT(mtrr_fixed, 5) },
	{ 0x0000026b, AT(mtrr_fixed, 6) },
	{ 0x0000026c, AT(mtrr_fixed, 7) },
	{ 0x0000026d, AT(mtrr_fixed, 8) },
	{ 0x0000026e, AT(mtrr_fixed, 9) },
	{ 0x0000026f, AT(mtrr_fixed, 10) },
	{ 0x00000200, AT(mtrr_var, 0) },
	{ 0x00000201, AT(mtrr_var, 1) },
	{ 0x00000202, AT(mtrr_var, 2) },
	{ 0x00000203, AT(mtrr_var, 3) },
	{ 0x00000204, AT(mtrr_var, 4) },
	{ 0x00000205, AT(mtrr_var, 5) },
	{ 0x00000206, AT(mtrr_var, 6) },
	{ 0x00000207, AT(mtrr_var, 7) },
	{ 0x00000208, AT(mtrr_var, 8) },
	{ 0x00000209, AT(mtrr_var, 9) },
	{ 0x0000020a, AT(mtrr_var, 10) },
	{ 0x0000020b, AT(mtrr_var, 11) },
	{ 0x0000020c, AT(mtrr_var, 12) },
	{ 0x0000020d, AT(mtrr_var, 13) },
	{ 0x0000020e, AT(mtrr_var, 14) },
	{ 0x0000020f, AT(mtrr_var, 15) },
	{ 0x000002ff, FIELD(mtrr_def_type) },
	{ 0x4b564d00, FIELD(pv_wall_clock) },
	{ 0x4b564d01, FIELD(pv_system_time) },
	{ 0x4b564d06, FIELD(pv_async_pf_int) },
	{ 0x4b564d02, FIELD(pv_async_pf) },
	{ 0x4b564d03, FIELD(pv_steal_time) },
	{ 0x4b564d04, FIELD(pv_eoi) },
	{ 0x4b564d05, FIELD(pv_poll_control) },
};

_Static_assert(ARRAY_SIZE(msr_table) <= KVM_MSR_MAX, "struct kvm has too little room for MSRs");

/* The kernel's structure with room for the entries that follow it. */
union msr_buffer {
	struct kvm_msrs head;
	uint8_t room[sizeof(struct kvm_msrs) + KVM_MSR_MAX * sizeof(struct kvm_msr_entry)];
};

static int transfer(int fd, unsigned long request, uint32_t msr, uint64_t *value)
{
	union msr_buffer buf = { .room = { 0 } };
	int r;

	buf.head.nmsrs = 1;
	buf.head.entries[0].index = msr;
	buf.head.entries[0].data = *value;
	r = kvm_ioctl(fd, request, &buf);
	if (r < 0)
		return r;
	*value = buf.head.entries[0].data;
	return r == 1 ? 0 : -EINVAL;
}

int kvm_msr_get(const struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *ret)
{
	*ret = 0;
	return transfer(vcpu->fd, KVM_GET_MSRS, msr, ret);
}

int kvm_msr_set(const struct kvm_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	return transfer(vcpu->fd, KVM_SET_MSRS, msr, &value);
}

void kvm_msr_note(struct x86_state *state, uint32_t msr, uint64_t value)
{
	for (unsigned i = 0; i < ARRAY_SIZE(msr_table); i++)
		if (msr_table[i].msr == msr)
			store_le64((uint8_t *)state + msr_table[i].field, value);
}

/* KVM's list of MSRs leaves out many that it has; asking is the only way to know. */
void kvm_msr_setup(struct kvm *kvm, int vcpu_fd)
{
	kvm->msr_count = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(msr_table); i++) {
		uint64_t value = 0;

		if (transfer(vcpu_fd, KVM_GET_MSRS, msr_table[i].msr, &value) == 0)
			kvm->msrs[kvm->msr_count++] = (uint8_t)i;
	}
}

static int read_all(const struct kvm_vcpu *vcpu, union msr_buffer *buf)
{
	const struct kvm *kvm = kvm_of(&vcpu->vcpu);
	int r;

	buf->head.nmsrs = kvm->msr_count;
	for (unsigned i = 0; i < kvm->msr_count; i++)
		buf->head.entries[i].index = msr_table[kvm->msrs[i]].msr;
	r = kvm_ioctl(vcpu->fd, KVM_GET_MSRS, buf);
	if (r >= 0 && (unsigned)r != kvm->msr_count)
		return -EIO;
	return r;
}

int kvm_msrs_load(const struct kvm_vcpu *vcpu, struct x86_state *state)
{
	const struct kvm *kvm = kvm_of(&vcpu->vcpu);
	union msr_buffer buf = { .room = { 0 } };
	int r = read_all(vcpu, &buf);

	for (unsigned i = 0; r >= 0 && i < kvm->msr_count; i++)
		store_le64((uint8_t *)state + msr_table[kvm->msrs[i]].field,
			   buf.head.entries[i].data);
	return r < 0 ? r : 0;
}

/* Rows of the table whose value in @state differs from what KVM has. Writing only those spares the
 * host's log complaints about MSRs that exist but cannot be written (IA32_DEBUGCTL on AMD). */
static int changed_rows(const struct kvm_vcpu *vcpu, const struct x86_state *state, bool with_tsc,
			uint8_t rows[KVM_MSR_MAX], unsigned *ret_count)
{
	const struct kvm *kvm = kvm_of(&vcpu->vcpu);
	union msr_buffer buf = { .room = { 0 } };
	int r = read_all(vcpu, &buf);

	*ret_count = 0;
	for (unsigned i = 0; r >= 0 && i < kvm->msr_count; i++) {
		const uint8_t *field = (const uint8_t *)state + msr_table[kvm->msrs[i]].field;
		bool is_tsc = msr_table[kvm->msrs[i]].msr == MSR_TSC;

		if (is_tsc ? with_tsc : load_le64(field) != buf.head.entries[i].data)
			rows[(*ret_count)++] = kvm->msrs[i];
	}
	return r;
}

/* An MSR that is refused ends KVM_SET_MSRS: where the guest could not have set it here, its value
 * is the power-up one and nothing is lost by going on behind it. */
int kvm_msrs_store(const struct kvm_vcpu *vcpu, const struct x86_state *state, bool with_tsc)
{
	uint8_t rows[KVM_MSR_MAX];
	unsigned count, next = 0;
	int r = changed_rows(vcpu, state, with_tsc, rows, &count);

	while (r >= 0 && next < count) {
		union msr_buffer buf = { .room = { 0 } };

		buf.head.nmsrs = count - next;
		for (unsigned i = next; i < count; i++) {
			struct kvm_msr_entry *e = &buf.head.entries[i - next];

			e->index = msr_table[rows[i]].msr;
			e->data = load_le64((const uint8_t *)state + msr_table[rows[i]].field);
		}
		r = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &buf);
		if (r < 0)
			return r;
		next += (unsigned)r + 1;
	}
	return r < 0 ? r : 0;
}
