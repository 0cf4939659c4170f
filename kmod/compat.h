/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * compat.h - what kernels have named or shaped differently since 6.1, for which the driver is written; the only place
 * that asks which one it is built for. What was brought back to long-lived kernels is asked of their headers.
 */
#pragma once

#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/kvm.h>
#include <linux/mm.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/syscore_ops.h>
#include <linux/version.h>
#include <trace/events/ipi.h> /* of smp_send_reschedule(), since 6.4 */

/* ---- files ---- */

#ifndef fd_file
#define fd_file(fd) ((fd).file)
#endif

static inline void compat_eventfd_signal(struct eventfd_ctx *ctx)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	eventfd_signal(ctx);
#else
	eventfd_signal(ctx, 1);
#endif
}

/* ---- memory of another process ---- */

/* As if it had accessed it: 0 or more, or -errno. What this has waited for need not be in its tables yet. */
static inline long compat_bring_in(struct mm_struct *mm, unsigned long at, unsigned int flags)
{
	int locked = 1;
	long r;

	mmap_read_lock(mm);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
	r = get_user_pages_remote(mm, at, 1, flags, NULL, &locked);
#else
	r = get_user_pages_remote(mm, at, 1, flags, NULL, NULL, &locked);
#endif
	if (locked)
		mmap_read_unlock(mm);
	return r;
}

/* ---- struct kvm_run: user space writes to it meanwhile ---- */

static inline bool compat_immediate_exit(const struct kvm_run *run)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	return READ_ONCE(run->immediate_exit__unsafe);
#else
	return READ_ONCE(run->immediate_exit);
#endif
}

/* ---- sleep of the whole machine: Kbuild looks which there is ---- */

#ifdef COMPAT_STRUCT_SYSCORE
#define COMPAT_SYSCORE_ARG void *unused

static inline void compat_syscore_register(struct syscore *core)
{
	register_syscore(core);
}

static inline void compat_syscore_unregister(struct syscore *core)
{
	unregister_syscore(core);
}

#define COMPAT_SYSCORE(name, on_suspend, on_resume)                                                                    \
	static const struct syscore_ops name##_ops = { .suspend = (on_suspend), .resume = (on_resume) };               \
	static struct syscore name = { .ops = &name##_ops }
#else
#define COMPAT_SYSCORE_ARG void

static inline void compat_syscore_register(struct syscore_ops *ops)
{
	register_syscore_ops(ops);
}

static inline void compat_syscore_unregister(struct syscore_ops *ops)
{
	unregister_syscore_ops(ops);
}

#define COMPAT_SYSCORE(name, on_suspend, on_resume)                                                                    \
	static struct syscore_ops name = { .suspend = (on_suspend), .resume = (on_resume) }
#endif

/* ---- shrinkers ---- */

/* NULL: no memory. */
static inline struct shrinker *compat_shrinker_new(const char *name,
						   unsigned long (*count)(struct shrinker *, struct shrink_control *),
						   unsigned long (*scan)(struct shrinker *, struct shrink_control *),
						   unsigned int seeks)
{
	struct shrinker *shrinker;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	shrinker = shrinker_alloc(0, "%s", name);
#else
	shrinker = kzalloc(sizeof(*shrinker), GFP_KERNEL);
#endif
	if (!shrinker)
		return NULL;
	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	shrinker->seeks = seeks;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	shrinker_register(shrinker);
#else
	if (register_shrinker(shrinker, "%s", name)) {
		kfree(shrinker);
		return NULL;
	}
#endif
	return shrinker;
}

static inline void compat_shrinker_free(struct shrinker *shrinker)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	shrinker_free(shrinker);
#else
	if (shrinker)
		unregister_shrinker(shrinker);
	kfree(shrinker);
#endif
}
