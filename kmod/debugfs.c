// SPDX-License-Identifier: GPL-2.0-only
/*
 * debugfs.c - counters as files of debugfs, where kvm_stat looks for them: kvm/COUNTER is the sum over all machines,
 * kvm/PID-FD/COUNTER one machine's, a vCPU's among them summed up.
 */
#include <linux/debugfs.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "vm.h"

/* What a file tells. */
struct watched {
	const struct vm *vm; /* NULL: all */
	u32 at;		     /* the word of the structure */
	bool of_vcpus;
};

static struct dentry *top;
static struct watched *of_all;

static u64 sum_of(const struct vm *vm, const struct watched *watched)
{
	unsigned int count;
	u64 sum = 0;

	if (!watched->of_vcpus)
		return READ_ONCE(((const u64 *)&vm->stats)[watched->at]);
	count = smp_load_acquire(&vm->vcpu_count);
	for (unsigned int i = 0; i < count; i++)
		sum += READ_ONCE(((const u64 *)&vm->vcpu[i]->stats)[watched->at]);
	return sum;
}

/* A machine's files are gone before it is: debugfs_remove() waits for who reads one. */
static int look(void *data, u64 *ret)
{
	const struct watched *watched = data;
	const struct vm *vm;

	if (watched->vm) {
		*ret = sum_of(watched->vm, watched);
		return 0;
	}
	*ret = 0;
	mutex_lock(&vms_lock);
	list_for_each_entry(vm, &vms, list)
		*ret += sum_of(vm, watched);
	mutex_unlock(&vms_lock);
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(look_fops, look, NULL, "%llu\n");

static struct watched *fill(struct dentry *dir, struct watched *to, const struct counters *counters,
			    const struct vm *vm, bool of_vcpus)
{
	for (unsigned int i = 0; i < counters->count; i++) {
		if (counters->row[i].words > 1)
			continue;
		*to = (struct watched){ .vm = vm, .at = counters->row[i].at, .of_vcpus = of_vcpus };
		debugfs_create_file(counters->row[i].name, 0444, dir, to, &look_fops);
		to++;
	}
	return to;
}

/* NULL: no memory. */
static struct watched *files_new(struct dentry *dir, const struct vm *vm)
{
	struct watched *files = kvcalloc(stats_of_vm.count + stats_of_vcpu.count, sizeof(*files), GFP_KERNEL_ACCOUNT);

	if (files)
		(void)fill(dir, fill(dir, files, &stats_of_vm, vm, false), &stats_of_vcpu, vm, true);
	return files;
}

void debugfs_start(void)
{
	top = debugfs_create_dir("kvm", NULL);
	of_all = files_new(top, NULL);
}

void debugfs_stop(void)
{
	debugfs_remove(top);
	kvfree(of_all);
}

void debugfs_add(struct vm *vm, int fd)
{
	char name[32];

	snprintf(name, sizeof(name), "%d-%d", task_pid_nr(current), fd);
	vm->debugfs = debugfs_create_dir(name, top);
	vm->debugfs_files = files_new(vm->debugfs, vm);
}

void debugfs_remove_vm(struct vm *vm)
{
	debugfs_remove(vm->debugfs);
	kvfree(vm->debugfs_files);
}
