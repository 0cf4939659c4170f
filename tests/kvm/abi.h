// SPDX-License-Identifier: Apache-2.0
/* abi.h - a small machine on /dev/kvm, and the tests that run on it: one process for each test. */
#pragma once

#include <check.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define RAM_BYTES  0x100000u
#define CODE	   0x1000u
#define CLOCK_PAGE 0x5000u
#define HANDLER	   0x4000u
#define PORT	   0xf4u
#define APIC	   0xfee00000u

#define MSR_TSC		0x10u
#define MSR_SYSTEM_TIME 0x4b564d01u
#define MSR_MCG_CAP	0x179u
#define MSR_MC1_STATUS	0x405u

extern int dev, vm, vcpu;
extern struct kvm_run *run;
extern uint8_t *ram;

/* A machine with RAM_BYTES in slot 0, and no vCPU yet. */
void machine(void);
/* What KVM_CHECK_EXTENSION says. */
int has(int cap);
/* The host runs guests on its processor, and does not interpret them. */
int on_hardware(void);
/* Real mode at CODE, the data segment at @ds. */
void start(const uint8_t *code, size_t len, uint64_t ds);
void put_handler(unsigned vector, const uint8_t *code, size_t len);
/* KVM_RUN. It may end for what the kernel has to do for the thread, too: as with a signal. */
int run_on(void);
void run_to(uint32_t reason);
/* Up to OUT of @value to PORT. */
void run_to_port(uint8_t value);
/* Of one MSR; how many were done. */
int msr(unsigned long request, uint32_t index, uint64_t *value);
/* It takes the value, and gives it back; or does not take it. */
void msr_set(uint32_t index, uint64_t value);
void msr_refuses(uint32_t index, uint64_t value);

/* Of the file that KVM_GET_STATS_FD gives for the machine. */
int64_t machine_counter(const char *name);

union one_msr {
	struct kvm_msrs head;
	uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

TCase *apf_tests(void);
TCase *chips_tests(void);
TCase *debug_tests(void);
TCase *devices_tests(void);
TCase *memory_tests(void);
TCase *cpu_tests(void);
TCase *lines_tests(void);
TCase *pv_tests(void);
TCase *real_tests(void);
TCase *ring_tests(void);
TCase *stats_tests(void);
