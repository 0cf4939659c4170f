// SPDX-License-Identifier: Apache-2.0
/*
 * user_place.c - on which processor of the host a vCPU's thread and its runner are. See user.h.
 *
 * Both are bound to one, which is chosen anew ten times a second or so: it is where the thread is, as the host's
 * scheduler has placed it, unless another vCPU of this machine is bound there. For the scheduler would part the
 * two, but cannot move who is bound.
 */
#include "engine/bt/user.h"

#include <sched.h>
#include <stdlib.h>
#include <x86intrin.h>

#include "engine/bt/bt_int.h"

/* Of the host's TSC, some 3 GHz. */
#define BOUND_TICKS (1ull << 28)

/* sched_getaffinity(2) refuses less room than the host's processors need. */
#define MASK_CPUS 4096u

bool bt_user_place_init(struct bt_user *u)
{
	u->bound_cpu = -1;
	u->mask_bytes = CPU_ALLOC_SIZE(MASK_CPUS);
	u->mask = calloc(2, u->mask_bytes);
	return u->mask != NULL;
}

static void release(struct bt_vcpu *vcpu)
{
	struct bt_user *u = &vcpu->user;

	if (u->claimed)
		atomic_fetch_and(&bt_engine_of(vcpu)->user_cpus[u->bound_cpu / 64],
				 ~(1ull << ((unsigned)u->bound_cpu % 64)));
	u->claimed = false;
}

void bt_user_place_fini(struct bt_vcpu *vcpu)
{
	release(vcpu);
	free(vcpu->user.mask);
}

/* @cpu: a negative one is that of a host that does not tell. */
static bool claim(struct bt_vcpu *vcpu, int cpu)
{
	const uint64_t bit = 1ull << ((unsigned)cpu % 64);

	return cpu >= 0 && cpu < BT_USER_HOST_CPUS &&
	       !(atomic_fetch_or(&bt_engine_of(vcpu)->user_cpus[cpu / 64], bit) & bit);
}

/* Among those of u->mask. */
static int choose(struct bt_vcpu *vcpu)
{
	struct bt_user *u = &vcpu->user;
	const cpu_set_t *mask = (cpu_set_t *)(void *)u->mask;
	int here = sched_getcpu();

	u->claimed = claim(vcpu, here);
	for (int cpu = 0; cpu < BT_USER_HOST_CPUS && !u->claimed; cpu++) {
		if (!CPU_ISSET_S(cpu, u->mask_bytes, mask))
			continue;
		u->claimed = claim(vcpu, cpu);
		if (u->claimed)
			return cpu;
	}
	return here; /* where all are taken, too: there are more vCPUs than processors */
}

static void bind_thread(pid_t thread, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (cpu >= 0 && cpu < CPU_SETSIZE) {
		CPU_SET(cpu, &set);
		(void)sched_setaffinity(thread, sizeof(set), &set);
	}
}

void bt_user_unbind(struct bt_vcpu *vcpu)
{
	struct bt_user *u = &vcpu->user;
	cpu_set_t *now;

	if (!u->bound)
		return;
	u->bound = false;
	release(vcpu);
	/* Somebody may have given the thread another place meanwhile: then that holds. */
	now = (cpu_set_t *)(void *)(u->mask + u->mask_bytes);
	if (sched_getaffinity(0, u->mask_bytes, now) == 0 && CPU_COUNT_S(u->mask_bytes, now) == 1 &&
	    CPU_ISSET_S(u->bound_cpu, u->mask_bytes, now))
		(void)sched_setaffinity(0, u->mask_bytes, (cpu_set_t *)(void *)u->mask);
}

void bt_user_bind(struct bt_vcpu *vcpu, struct bt_runner *r)
{
	struct bt_user *u = &vcpu->user;
	uint64_t now = __rdtsc();

	if (u->bound && now - u->bound_since > BOUND_TICKS)
		bt_user_unbind(vcpu);
	if (!u->bound) {
		if (sched_getaffinity(0, u->mask_bytes, (cpu_set_t *)(void *)u->mask) < 0)
			return;
		u->bound_cpu = choose(vcpu);
		u->bound_since = now;
		u->bound = true;
		bind_thread(0, u->bound_cpu);
	}
	if (r->cpu != u->bound_cpu) {
		r->cpu = u->bound_cpu;
		bind_thread(r->pid, r->cpu);
	}
}

void bt_user_place_tick(struct bt_vcpu *vcpu)
{
	struct bt_user *u = &vcpu->user;

	if (u->bound && __rdtsc() - u->ran_last > BOUND_TICKS)
		bt_user_unbind(vcpu);
}
