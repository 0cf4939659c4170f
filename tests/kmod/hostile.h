// SPDX-License-Identifier: Apache-2.0
/* hostile.h - what hostile.c, the guests that break everything, and planted.c, the values that must
 * stay, share. */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE	      4096u
#define RAM_BYTES     0x200000u
#define VCPUS	      2u
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* In the upper half of each word that the host plants in its own registers. */
#define HOST_TAG 0x05ec0de5u

struct machine {
	int vm, vcpu[VCPUS];
	struct kvm_run *run[VCPUS];
	uint8_t *ram; /* at 0 of the guest */
};

/* Of 4 GiB, to be read and written. */
#define FLAT_DATA (struct kvm_segment){ .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 }

struct rng {
	uint64_t state;
};

uint64_t rng_next(struct rng *r);
unsigned rng_below(struct rng *r, unsigned n);

/* Ends the process when the host gives none. @chips: with interrupt controllers in the kernel. */
void machine_make(struct machine *m, bool chips);
/* Says what, and ends the process: the isolation of guest and host does not hold, or nothing works.
 */
void give_up(const char *what) __attribute__((noreturn));

/* ---- planted.c ---- */

/* Registers of the thread around KVM_RUN, all with values of the host's. */
struct planted {
	uint64_t gpr[9]; /* RBX, RBP, R8, R9, R10, R12 to R15 */
	uint64_t xmm[16][2];
	uint32_t mxcsr;
	uint16_t fcw;
};

/* KVM_RUN with all registers planted: 0 or -errno. Ends the process when one comes back changed. */
long run_planted(struct rng *r, int vcpu);
/* Does the word say that it is the host's? */
bool is_planted(uint64_t word);
/* Guests of one's own that tell each value they have, for @ms: what was set, and nothing else. */
void keep_apart(struct rng *r, unsigned ms);
