// SPDX-License-Identifier: GPL-2.0-only
/*
 * stats.c - counters as a file: KVM_GET_STATS_FD, Documentation/virt/kvm/api.rst, 4.133. A header, whose it is, what
 * each counter is, and the counters, in this order.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "vm.h"

#define NAME_BYTES 48u

struct counter {
	const char *name;
	u32 flags;
	s16 exponent;
};

#define COUNT (KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10), 0
#define NS    (KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS | KVM_STATS_BASE_POW10), -9
#define FLAG  (KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BOOLEAN | KVM_STATS_BASE_POW10), 0
#define ROW(name, kind) { #name, kind },

static const struct counter vcpu_counters[] = { VCPU_STATS(ROW) };
static const struct counter vm_counters[] = { VM_STATS(ROW) };

struct stats {
	struct vm *vm;
	const struct counter *counters;
	const u64 *values; /* of a vCPU or of a machine, which live as long as the machine */
	unsigned int count;
	char id[NAME_BYTES];
};

struct described {
	struct kvm_stats_desc desc;
	char name[NAME_BYTES];
};

/* What the file begins with; the counters follow. */
struct head {
	struct kvm_stats_header header;
	char id[NAME_BYTES];
	u8 rows[]; /* struct described */
};

static size_t head_bytes(const struct stats *stats)
{
	return sizeof(struct head) + stats->count * sizeof(struct described);
}

static void describe(const struct stats *stats, struct head *head)
{
	BUILD_BUG_ON(offsetof(struct described, name) != sizeof(struct kvm_stats_desc));
	head->header = (struct kvm_stats_header){
		.name_size = NAME_BYTES,
		.num_desc = stats->count,
		.id_offset = offsetof(struct head, id),
		.desc_offset = offsetof(struct head, rows),
		.data_offset = head_bytes(stats),
	};
	memcpy(head->id, stats->id, NAME_BYTES);
	for (unsigned int i = 0; i < stats->count; i++) {
		const struct counter *c = &stats->counters[i];
		struct described *row = (void *)(head->rows + i * sizeof(*row));

		row->desc.flags = c->flags;
		row->desc.exponent = c->exponent;
		row->desc.size = 1;
		row->desc.offset = i * sizeof(u64);
		strscpy(row->name, c->name, NAME_BYTES);
	}
}

static ssize_t stats_read(struct file *file, char __user *to, size_t len, loff_t *at)
{
	const struct stats *stats = file->private_data;
	struct head *head;
	size_t bytes = head_bytes(stats);
	u64 *values;
	ssize_t r;

	head = kzalloc(bytes + stats->count * sizeof(u64), GFP_KERNEL_ACCOUNT);
	if (!head)
		return -ENOMEM;
	describe(stats, head);
	values = (void *)head + bytes;
	for (unsigned int i = 0; i < stats->count; i++)
		values[i] = READ_ONCE(stats->values[i]);
	r = simple_read_from_buffer(to, len, at, head, bytes + stats->count * sizeof(u64));
	kfree(head);
	return r;
}

static int stats_release(struct inode *inode, struct file *file)
{
	struct stats *stats = file->private_data;

	vm_put(stats->vm);
	kfree(stats);
	return 0;
}

static const struct file_operations stats_ops = {
	.owner = THIS_MODULE,
	.read = stats_read,
	.release = stats_release,
	.llseek = noop_llseek,
};

/* Takes @stats. */
static long publish(struct stats *stats, const char *name)
{
	struct file *file;
	int fd = get_unused_fd_flags(O_CLOEXEC);

	if (fd < 0) {
		kfree(stats);
		return fd;
	}
	file = anon_inode_getfile(name, &stats_ops, stats, O_RDONLY);
	if (IS_ERR(file)) {
		kfree(stats);
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	vm_get(stats->vm);
	file->f_mode |= FMODE_PREAD; /* who reads again wants the counters alone */
	fd_install(fd, file);
	return fd;
}

long stats_open_vm(struct vm *vm)
{
	struct stats *stats = kzalloc(sizeof(*stats), GFP_KERNEL_ACCOUNT);

	if (!stats)
		return -ENOMEM;
	*stats = (struct stats){ .vm = vm, .counters = vm_counters, .values = (const u64 *)&vm->stats,
				 .count = ARRAY_SIZE(vm_counters) };
	snprintf(stats->id, sizeof(stats->id), "kvm-%d", task_pid_nr(current));
	return publish(stats, "kvm-vm-stats");
}

long stats_open_vcpu(struct vcpu *vcpu)
{
	struct stats *stats = kzalloc(sizeof(*stats), GFP_KERNEL_ACCOUNT);
	char name[32];

	if (!stats)
		return -ENOMEM;
	*stats = (struct stats){ .vm = vcpu->vm, .counters = vcpu_counters,
				 .values = (const u64 *)&vcpu->stats, .count = ARRAY_SIZE(vcpu_counters) };
	snprintf(stats->id, sizeof(stats->id), "kvm-%d/vcpu-%u", task_pid_nr(current), vcpu->id);
	snprintf(name, sizeof(name), "kvm-vcpu-stats:%u", vcpu->id);
	return publish(stats, name);
}
