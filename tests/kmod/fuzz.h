// SPDX-License-Identifier: Apache-2.0
/* fuzz.h - what fuzz_ioctl.c, which drives, and fuzz_args.c, which makes structures up, share. */
#pragma once

#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdint.h>

#define PAGE	      4096u
#define RAM_PAGES     256u
#define MOST_BYTES    16384u
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

enum kind { DEV, VM, VCPU, EVENT, KINDS };

/* What the threads of a round share. Descriptors come and go; a number that is stale is meant. */
struct shared {
	_Atomic int fd[KINDS][4];
	uint8_t *ram;
	_Atomic(uint8_t *) run[4];
	_Atomic uint64_t *calls, *good; /* in memory of the parent too */
};

extern struct shared all;

struct fuzzer {
	uint64_t random;
	unsigned which;
	uint8_t *data; /* MOST_BYTES, and behind them a page that is not there */
};

uint64_t next(struct fuzzer *f);
unsigned below(struct fuzzer *f, unsigned n);
/* A number that somebody may have thought about, or not. */
uint64_t some(struct fuzzer *f);
int fd_of(struct fuzzer *f, enum kind kind);

/* ---- fuzz_args.c ---- */

/* One of the ABI's, and the kind of descriptor it is for. */
uint32_t any_number(struct fuzzer *f, enum kind *ret_kind);
/* What changes state that is read by another number. Returns the kind. */
enum kind any_pair(struct fuzzer *f, uint32_t *ret_get, uint32_t *ret_set);
uint32_t any_msr(struct fuzzer *f);
/* Into f->data, what @number takes: enough of it is right to come past the first checks. */
void half_valid(struct fuzzer *f, uint32_t number);
