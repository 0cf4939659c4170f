// SPDX-License-Identifier: GPL-2.0-only
/*
 * stats.c - counters as a file: KVM_GET_STATS_FD, Documentation/virt/kvm/api.rst, 4.133. A header, whose it is, what
 * each counter is, and the counters, in this order.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "vm.h"

#define NAME_BYTES 48u

#define COUNT (KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10), 0
#define NOW   (KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10), 0
#define NS    (KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS | KVM_STATS_BASE_POW10), -9
#define FLAG  (KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BOOLEAN | KVM_STATS_BASE_POW10), 0
#define LOG   (KVM_STATS_TYPE_LOG_HIST | KVM_STATS_UNIT_SECONDS | KVM_STATS_BASE_POW10), -9

#define VCPU_ROW(name, kind) { #name, kind, 1, offsetof(struct vcpu_stats, name) / sizeof(u64) },
#define VCPU_HISTOGRAM(name) { #name, LOG, STATS_BUCKETS, offsetof(struct vcpu_stats, name) / sizeof(u64) },
#define VM_ROW(name, kind)   { #name, kind, 1, offsetof(struct vm_stats, name) / sizeof(u64) },

static const struct counter vcpu_counters[] = { VCPU_STATS(VCPU_ROW) VCPU_HISTOGRAMS(VCPU_HISTOGRAM) };
static const struct counter vm_counters[] = { VM_STATS(VM_ROW) };

const struct counters stats_of_vm = { vm_counters, ARRAY_SIZE(vm_counters), sizeof(struct vm_stats) / sizeof(u64) };
const struct counters stats_of_vcpu = { vcpu_counters, ARRAY_SIZE(vcpu_counters),
					sizeof(struct vcpu_stats) / sizeof(u64) };

void stats_add(u64 bucket[STATS_BUCKETS], u64 ns)
{
	bucket[min_t(unsigned int, fls64(ns), STATS_BUCKETS - 1)]++;
}

struct stats {
	struct vm *vm;
	const struct counters *counters;
	const u64 *values; /* of a vCPU or of a machine, which live as long as the machine */
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
	return sizeof(struct head) + stats->counters->count * sizeof(struct described);
}

static void describe(const struct stats *stats, struct head *head)
{
	BUILD_BUG_ON(offsetof(struct described, name) != sizeof(struct kvm_stats_desc));
	head->header = (struct kvm_stats_header){
		.name_size = NAME_BYTES,
		.num_desc = stats->counters->count,
		.id_offset = offsetof(struct head, id),
		.desc_offset = offsetof(struct head, rows),
		.data_offset = head_bytes(stats),
	};
	memcpy(head->id, stats->id, NAME_BYTES);
	for (unsigned int i = 0; i < stats->counters->count; i++) {
		const struct counter *c = &stats->counters->row[i];
		struct described *row = (void *)(head->rows + i * sizeof(*row));

		row->desc.flags = c->flags;
		row->desc.exponent = c->exponent;
		row->desc.size = c->words;
		row->desc.offset = c->at * sizeof(u64);
		strscpy(row->name, c->name, NAME_BYTES);
	}
}

static ssize_t stats_read(struct file *file, char __user *to, size_t len, loff_t *at)
{
	const struct stats *stats = file->private_data;
	unsigned int words = stats->counters->words;
	size_t bytes = head_bytes(stats);
	struct head *head;
	u64 *values;
	ssize_t r;

	head = kvzalloc(bytes + words * sizeof(u64), GFP_KERNEL_ACCOUNT);
	if (!head)
		return -ENOMEM;
	describe(stats, head);
	values = (void *)head + bytes;
	for (unsigned int i = 0; i < words; i++)
		values[i] = READ_ONCE(stats->values[i]);
	r = simple_read_from_buffer(to, len, at, head, bytes + words * sizeof(u64));
	kvfree(head);
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
	*stats = (struct stats){ .vm = vm, .counters = &stats_of_vm, .values = (const u64 *)&vm->stats };
	snprintf(stats->id, sizeof(stats->id), "kvm-%d", task_pid_nr(current));
	return publish(stats, "kvm-vm-stats");
}

long stats_open_vcpu(struct vcpu *vcpu)
{
	struct stats *stats = kzalloc(sizeof(*stats), GFP_KERNEL_ACCOUNT);
	char name[32];

	if (!stats)
		return -ENOMEM;
	*stats = (struct stats){ .vm = vcpu->vm, .counters = &stats_of_vcpu,
				 .values = (const u64 *)&vcpu->stats };
	snprintf(stats->id, sizeof(stats->id), "kvm-%d/vcpu-%u", task_pid_nr(current), vcpu->id);
	snprintf(name, sizeof(name), "kvm-vcpu-stats:%u", vcpu->id);
	return publish(stats, name);
}
