// SPDX-License-Identifier: GPL-2.0-only
/*
 * clock.c - time: the paravirtual clock that guests of KVM know (Documentation/virt/kvm/x86/msr.rst), and time stamp
 * counters that agree among vCPUs.
 *
 * The clock's page gives a moment, as a value of the guest's time stamp counter and as nanoseconds, and how to
 * go on from there. Where the host's counters agree, all vCPUs of a machine get one and the same moment: none can
 * see the clock go back when it moves between them. Where they do not, the moment is taken anew each time
 * a vCPU comes to another CPU.
 */
#include <linux/ktime.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <asm/pvclock-abi.h>
#include <asm/tsc.h>

#include "vm.h"

#define MSR_WALL_CLOCK	    0x4b564d00u
#define MSR_SYSTEM_TIME	    0x4b564d01u
#define MSR_WALL_CLOCK_OLD  0x11u
#define MSR_SYSTEM_TIME_OLD 0x12u

/* ---- how counters become nanoseconds: ((ticks << shift) * mul) >> 32 ---- */

struct scale {
	u32 mul;
	s8 shift;
};

static struct scale scale_of(u32 khz)
{
	u64 hz = khz * 1000ull;
	struct scale s = { .shift = 0 };

	/* Into (1 GHz, 2 GHz], so that the factor has all of its 32 bits. */
	for (; hz > 2 * NSEC_PER_SEC; hz >>= 1)
		s.shift--;
	for (; hz <= NSEC_PER_SEC; hz <<= 1)
		s.shift++;
	s.mul = div64_u64((u64)NSEC_PER_SEC << 32, hz);
	return s;
}

static u64 scale_ticks(u64 ticks, struct scale s)
{
	ticks = s.shift < 0 ? ticks >> -s.shift : ticks << s.shift;
	return mul_u64_u32_shr(ticks, s.mul, 32);
}

/* ---- the machine's ---- */

/* Under clock_lock. */
static void take_moment(struct vm *vm)
{
	vm->clock_tsc = rdtsc();
	vm->clock_ns = ktime_get_boottime_ns() + vm->clock_offset;
}

bool clock_is_stable(void)
{
	return !check_tsc_unstable();
}

static u64 now(struct vm *vm)
{
	u64 ns;

	spin_lock(&vm->clock_lock);
	if (!clock_is_stable())
		take_moment(vm);
	ns = vm->clock_ns + scale_ticks(rdtsc() - vm->clock_tsc, scale_of(tsc_khz));
	spin_unlock(&vm->clock_lock);
	return ns;
}

void clock_init(struct vm *vm)
{
	spin_lock_init(&vm->clock_lock);
	vm->tsc_offset = -rdtsc();
	vm->clock_offset = -ktime_get_boottime_ns();
	take_moment(vm);
}

long clock_set(struct vm *vm, const void __user *arg)
{
	struct kvm_clock_data data;

	if (copy_from_user(&data, arg, sizeof(data)))
		return -EFAULT;
	if (data.flags & ~KVM_CLOCK_TSC_STABLE)
		return -EINVAL;
	spin_lock(&vm->clock_lock);
	vm->clock_offset = data.clock - ktime_get_boottime_ns();
	take_moment(vm);
	spin_unlock(&vm->clock_lock);
	for (unsigned int i = 0; i < smp_load_acquire(&vm->vcpu_count); i++)
		vcpu_request(vm->vcpu[i], REQ_CLOCK);
	return 0;
}

long clock_get(struct vm *vm, void __user *arg)
{
	struct kvm_clock_data data = {
		.clock = now(vm),
		.flags = clock_is_stable() ? KVM_CLOCK_TSC_STABLE : 0,
	};

	return copy_to_user(arg, &data, sizeof(data)) ? -EFAULT : 0;
}

/* ---- pages of the guest ---- */

/* Its version is odd while it is being written, in the guest as well: a reader on another vCPU tries again. */
void clock_update(struct vcpu *vcpu)
{
	struct scale s = scale_of(tsc_khz);
	struct vm *vm = vcpu->vm;
	struct pvclock_vcpu_time_info info = {
		.version = vcpu->clock_version + 1, .tsc_to_system_mul = s.mul, .tsc_shift = s.shift,
		.flags = clock_is_stable() ? PVCLOCK_TSC_STABLE_BIT : 0,
	};
	u64 gpa = vcpu->system_time & ~1ull;

	if (!(vcpu->system_time & 1))
		return;
	spin_lock(&vm->clock_lock);
	if (!clock_is_stable())
		take_moment(vm);
	info.tsc_timestamp = vm->clock_tsc + vcpu->tsc_offset;
	info.system_time = vm->clock_ns;
	spin_unlock(&vm->clock_lock);
	/* The guest's counter was set back behind the moment: begin at its zero. */
	if ((s64)info.tsc_timestamp < 0) {
		info.system_time += scale_ticks(-info.tsc_timestamp, s);
		info.tsc_timestamp = 0;
	}
	ram_write(vcpu, gpa, &info.version, sizeof(info.version));
	smp_wmb();
	ram_write(vcpu, gpa + sizeof(info.version), (u8 *)&info + sizeof(info.version),
		    sizeof(info) - sizeof(info.version));
	smp_wmb();
	info.version = vcpu->clock_version += 2;
	ram_write(vcpu, gpa, &info.version, sizeof(info.version));
}

/* The time of day at which the clock was zero. */
static void write_wall_clock(struct vcpu *vcpu, u64 gpa)
{
	u64 zero = ktime_get_real_ns() - now(vcpu->vm);
	struct pvclock_wall_clock wall = { .version = 2 };

	wall.sec = div_u64_rem(zero, NSEC_PER_SEC, &wall.nsec);
	ram_write(vcpu, gpa, &wall, sizeof(wall));
}

/* ---- MSRs: Documentation/virt/kvm/x86/msr.rst ---- */

bool clock_read_msr(struct vcpu *vcpu, u32 msr, u64 *ret)
{
	switch (msr) {
	case MSR_WALL_CLOCK:
	case MSR_WALL_CLOCK_OLD:
		*ret = vcpu->wall_clock;
		return true;
	case MSR_SYSTEM_TIME:
	case MSR_SYSTEM_TIME_OLD:
		*ret = vcpu->system_time;
		return true;
	default:
		return false;
	}
}

bool clock_write_msr(struct vcpu *vcpu, u32 msr, u64 value)
{
	switch (msr) {
	case MSR_WALL_CLOCK:
	case MSR_WALL_CLOCK_OLD:
		vcpu->wall_clock = value;
		if (value)
			write_wall_clock(vcpu, value);
		return true;
	case MSR_SYSTEM_TIME:
	case MSR_SYSTEM_TIME_OLD:
		vcpu->system_time = value;
		vcpu_request(vcpu, REQ_CLOCK);
		return true;
	default:
		return false;
	}
}

/* ---- time stamp counters ---- */

void tsc_set_offset(struct vcpu *vcpu, s64 offset)
{
	vcpu->tsc_offset = offset;
	hw->set_tsc_offset(vcpu);
	vcpu_request(vcpu, REQ_CLOCK);
}

/* User space sets one vCPU's counter behind the other's: what is meant within a second of another one to be the
 * same is made so (as the stock driver, arch/x86/kvm/x86.c, does). */
void tsc_set_by_host(struct vcpu *vcpu, u64 value)
{
	struct vm *vm = vcpu->vm;
	s64 offset = value - rdtsc(), apart;

	spin_lock(&vm->clock_lock);
	apart = offset - vm->tsc_offset;
	if (apart < 0)
		apart = -apart;
	if (apart > tsc_khz * 1000ll)
		vm->tsc_offset = offset;
	offset = vm->tsc_offset;
	spin_unlock(&vm->clock_lock);
	tsc_set_offset(vcpu, offset);
}
