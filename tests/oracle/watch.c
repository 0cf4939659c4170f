// SPDX-License-Identifier: Apache-2.0
/*
 * watch.c - watchpoints: which of four hit, by the host CPU's debug registers and by the x86 core.
 *
 * A case's child is traced. It stops by SIGSTOP when a case's state is about to be put into the
 * registers, where we arm the watchpoints of that case, and by whatever ends the case, where we read DR6 and disarm them:
 * so nothing that the child itself does is watched.
 */
#include "oracle.h"
#include "rng.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#define DR_HITS 0xfu

/* Where @c's operands are, most likely: the fresh data begin 64 bytes in front of that in memory. */
static uint64_t pick_operand(const struct oracle_case *c, struct rng *rng)
{
	const uint64_t base = c->bits == 16 ? DATA_BASE : 0;

	switch (rng_below(rng, 8)) {
	case 0:
		return base + c->in.gpr[4] - 8; /* RSP */
	case 1:
		return base + c->in.gpr[6];
	case 2:
		return base + c->in.gpr[7];
	default:
		return DATA_BASE + c->window_at + 64;
	}
}

void oracle_watch_choose(const struct oracle_case *c, uint64_t seed, struct oracle_watch *ret)
{
	static const uint8_t bytes[4] = { 1, 2, 8, 4 }; /* of LEN: SDM vol. 3, 18.2.4 */
	struct rng rng;

	rng_seed(&rng, seed ^ rng_mix(c->number + 1));
	*ret = (struct oracle_watch){ 0 };
	for (unsigned i = 0; i < 4; i++) {
		unsigned length = rng_below(&rng, 4), kind = rng_chance(&rng, 50) ? 1 : 3;
		uint64_t at = pick_operand(c, &rng) - 12 + rng_below(&rng, 40);

		/* The kernel refuses what is its own. */
		if (at - DATA_BASE >= DATA_SIZE)
			at = DATA_BASE + c->window_at + 64;
		ret->at[i] = at & ~(uint64_t)(bytes[length] - 1);
		ret->dr7 |= (kind | length << 2) << (16 + i * 4) | 1u << i * 2;
	}
}

static bool poke(pid_t pid, unsigned n, uint64_t value)
{
	return ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[n]), value) == 0;
}

static bool arm(pid_t pid, const struct oracle_watch *w)
{
	for (unsigned i = 0; i < 4; i++)
		if (!poke(pid, i, w->at[i]))
			return false;
	return poke(pid, 6, 0) && poke(pid, 7, w->dr7);
}

/* Behind one step. A REP instruction goes on as it is. */
static bool take_hits(pid_t pid, const struct oracle_case *c, int sig, struct oracle_result *r)
{
	struct user_regs_struct regs;

	errno = 0;
	r->hits |= (uint32_t)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg[6]), 0) & DR_HITS;
	if (errno || ptrace(PTRACE_GETREGS, pid, 0, &regs) < 0)
		return false;
	if (sig == SIGTRAP && c->string && regs.rip == c->in.rip)
		return poke(pid, 6, 0);
	return poke(pid, 7, 0);
}

bool oracle_watch_trace(pid_t pid, const struct oracle_case *cases, struct oracle_result *results,
			const volatile unsigned *progress, uint64_t seed, int *ret_status)
{
	bool armed = false;

	while (waitpid(pid, ret_status, __WALL) == pid) {
		int sig = WIFSTOPPED(*ret_status) ? WSTOPSIG(*ret_status) : 0;
		struct oracle_watch w;

		if (!sig)
			return true;
		if (sig == SIGSTOP) {
			oracle_watch_choose(&cases[*progress], seed, &w);
			results[*progress].hits = 0;
			armed = arm(pid, &w);
			if (!armed)
				break;
			sig = 0;
		} else if (armed && !take_hits(pid, &cases[*progress], sig, &results[*progress])) {
			break;
		}
		if (ptrace(PTRACE_CONT, pid, 0, sig) < 0)
			break;
	}
	kill(pid, SIGKILL);
	waitpid(pid, ret_status, __WALL);
	return false;
}
