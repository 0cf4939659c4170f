// SPDX-License-Identifier: Apache-2.0
/*
 * fuzz_ioctl.c - a hostile user of /dev/kvm: every number of the ABI on every kind of descriptor,
 * with random and with half-valid structures, by several threads at once, while descriptors are
 * closed under them and the guest's memory goes away.
 *
 * usage: fuzz_ioctl SECONDS [SEED [ROUND]]
 *
 * A round is a process of its own, which is killed when its time is over, so machines die in all
 * states. What each thread does in a round is made of the seed and the round's number alone; how
 * threads interleave is not. It fails when a process does not die, or a round cannot make a machine
 * any more; what the kernel has to say to all this is in its log, which is for the caller to look
 * at.
 */
#include "clock.h"
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNTS_AT ((void *)0x500000000000)
#define THREADS	 4u
#define ROUND_MS 2000u
#define DEATH_MS 60000u

struct shared all;

uint64_t next(struct fuzzer *f)
{
	f->random ^= f->random << 13;
	f->random ^= f->random >> 7;
	f->random ^= f->random << 17;
	return f->random * 0x2545f4914f6cdd1dull;
}

unsigned below(struct fuzzer *f, unsigned n)
{
	return (next(f) >> 33) % n;
}

uint64_t some(struct fuzzer *f)
{
	static const uint64_t of_note[] = {
		0,
		1,
		2,
		0xf,
		0x10,
		0xff,
		0x100,
		0xfff,
		PAGE,
		0xffff,
		0x10000,
		0xfffff,
		0x100000,
		0xfec00000,
		0xfee00000,
		0x7fffffff,
		0x80000000,
		0xffffffff,
		0x100000000,
		0x7fffffffffff,
		0x800000000000,
		0xffff800000000000,
		0xffffffffff000,
		0x7fffffffffffffff,
		0x8000000000000000,
		~0ull,
	};

	switch (below(f, 4)) {
	case 0:
		return next(f);
	case 1:
		return below(f, 256);
	case 2:
		return 1ull << below(f, 64);
	default:
		return of_note[below(f, ARRAY_SIZE(of_note))] + below(f, 3) - 1;
	}
}

int fd_of(struct fuzzer *f, enum kind kind)
{
	return all.fd[kind][below(f, ARRAY_SIZE(all.fd[kind]))];
}

static void scatter(struct fuzzer *f, uint8_t *at, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i += 8) {
		uint64_t value = below(f, 3) ? some(f) : next(f);

		memcpy(at + i, &value, bytes - i < 8 ? bytes - i : 8);
	}
}

/* Where a structure is: whole, at the end of what is mapped, or nowhere. */
static void *place(struct fuzzer *f, unsigned bytes)
{
	switch (below(f, 24)) {
	case 0:
		return NULL;
	case 1:
		return (void *)(uintptr_t)some(f);
	case 2:
		return memcpy(f->data + MOST_BYTES - bytes, f->data, bytes);
	case 3:
		return memmove(f->data + MOST_BYTES - bytes / 2, f->data, bytes / 2);
	default:
		return f->data;
	}
}

static int call(struct fuzzer *f, int fd, uint32_t number, void *arg)
{
	int r = ioctl(fd, (unsigned long)number, arg);

	(void)f;
	atomic_fetch_add_explicit(all.calls, 1, memory_order_relaxed);
	if (r >= 0)
		atomic_fetch_add_explicit(all.good, 1, memory_order_relaxed);
	return r;
}

/* ---- what is done to the machine ---- */

static void map_run(unsigned slot, int fd)
{
	uint8_t *run = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (run == MAP_FAILED)
		return;
	run = atomic_exchange(&all.run[slot], run);
	if (run)
		munmap(run, 3 * PAGE);
}

static void put_fd(enum kind kind, unsigned slot, int fd)
{
	fd = atomic_exchange(&all.fd[kind][slot], fd);
	if (fd > 2)
		close(fd);
}

static void new_vm(struct fuzzer *f, unsigned slot)
{
	int fd = ioctl(all.fd[DEV][0], KVM_CREATE_VM, 0);
	struct kvm_userspace_memory_region r = { .memory_size = RAM_PAGES * PAGE,
						 .userspace_addr = (uintptr_t)all.ram };

	if (fd < 0)
		return;
	if (below(f, 4))
		ioctl(fd, KVM_SET_USER_MEMORY_REGION, &r);
	if (below(f, 4))
		ioctl(fd, KVM_CREATE_IRQCHIP, 0);
	put_fd(VM, slot, fd);
}

static void new_vcpu(struct fuzzer *f, unsigned slot)
{
	int fd = ioctl(fd_of(f, VM), KVM_CREATE_VCPU, (unsigned long)below(f, 6));

	if (fd < 0)
		return;
	map_run(slot, fd);
	put_fd(VCPU, slot, fd);
}

static void replace(struct fuzzer *f)
{
	unsigned slot = below(f, 4);

	switch (below(f, 8)) {
	case 0:
		new_vm(f, slot);
		break;
	case 1:
	case 2:
	case 3:
		new_vcpu(f, slot);
		break;
	case 4:
		put_fd(EVENT, slot, eventfd(0, EFD_NONBLOCK));
		break;
	case 5:
		put_fd(below(f, 2) ? VM : VCPU, slot, dup(fd_of(f, below(f, 2) ? VM : VCPU)));
		break;
	case 6:
		put_fd(DEV, 1 + below(f, 3), open("/dev/kvm", O_RDWR | O_CLOEXEC));
		break;
	default: /* closed, and its number may become another's at once */
		close(fd_of(f, below(f, KINDS)));
		/* But for the first: it is what machines are made of. */
		if (fcntl(all.fd[DEV][0], F_GETFD) < 0)
			all.fd[DEV][0] = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	}
}

/* The host's memory management at work under the guest. */
static void stir_memory(struct fuzzer *f)
{
	static const int advice[] = { MADV_DONTNEED, MADV_REMOVE,  MADV_HUGEPAGE,  MADV_NOHUGEPAGE,
				      MADV_COLD,     MADV_PAGEOUT, MADV_MERGEABLE, MADV_UNMERGEABLE,
				      MADV_FREE,     MADV_WILLNEED };
	unsigned first = below(f, RAM_PAGES), pages = 1 + below(f, RAM_PAGES - first);
	uint8_t *at = all.ram + (size_t)first * PAGE;
	size_t bytes = (size_t)pages * PAGE;

	switch (below(f, 6)) {
	case 0:
		munmap(at, bytes);
		break;
	case 1:
		mprotect(at, bytes,
			 below(f, 4)   ? PROT_READ | PROT_WRITE
			 : below(f, 2) ? PROT_READ
				       : PROT_NONE);
		break;
	case 2:
	case 3:
		madvise(at, bytes, advice[below(f, ARRAY_SIZE(advice))]);
		break;
	default:
		mmap(at, bytes, PROT_READ | PROT_WRITE,
		     MAP_FIXED | MAP_ANONYMOUS | (below(f, 4) ? MAP_PRIVATE : MAP_SHARED), -1, 0);
	}
}

/* Some code, where a reset has the guest begin or anywhere; it may be gone meanwhile. write() only
 * says so. */
static void write_code(struct fuzzer *f)
{
	/* clang-format off */
	static const uint8_t pieces[][8] = {
		{ 0xe6, 0x80 }, { 0xe4, 0x40 }, { 0xf4 }, { 0x0f, 0xa2 }, { 0x0f, 0x32 },
		{ 0x0f, 0x30 }, { 0xcc }, { 0xcd, 0x20 }, { 0x0f, 0x01, 0xd9 },
		{ 0xa1, 0, 0, 0x20, 0 }, { 0xa3, 0, 0, 0x20, 0 }, { 0x0f, 0x20, 0xc0 },
		{ 0x0f, 0x22, 0xc0 }, { 0x0f, 0x22, 0xd8 }, { 0x0f, 0x22, 0xe0 },
		{ 0xf3, 0x6c }, { 0xf3, 0x6e }, { 0xfb }, { 0xfa },
		{ 0x0f, 0xc7, 0x0e }, { 0x0f, 0xae, 0x06 }, { 0xf3, 0xab }, { 0xcf },
		{ 0xeb, 0xfe }, { 0x0f, 0x0b }, { 0x0f, 0x01, 0x16 },
	};
	/* clang-format on */
	uint8_t code[256];
	unsigned n = 0, first = below(f, RAM_PAGES);
	int fd = all.fd[EVENT][3]; /* a file of RAM: see set_up() */

	while (n < sizeof(code)) {
		const uint8_t *piece = pieces[below(f, ARRAY_SIZE(pieces))];
		uint64_t word = next(f);

		if (below(f, 4)) {
			memcpy(code + n, piece, sizeof(code) - n < 8 ? sizeof(code) - n : 8);
			n += 2 + below(f, 4);
		} else {
			memcpy(code + n, &word, sizeof(code) - n < 8 ? sizeof(code) - n : 8);
			n += 8;
		}
	}
	if (pwrite(fd, code, sizeof(code), 0) != sizeof(code))
		return;
	/* By the kernel, which answers EFAULT where a store of ours would be a signal. */
	if (pread(fd, all.ram + (size_t)first * PAGE + (below(f, 2) ? 0 : 0xff0), sizeof(code), 0) <
	    0)
		return;
}

/* Real mode with flat segments at a page of RAM; or whatever there is already. */
static void set_start(struct fuzzer *f, int fd)
{
	struct kvm_regs regs = { .rip = (uint64_t)below(f, 16) * PAGE,
				 .rflags = 2 | below(f, 2) << 9,
				 .rsp = 0x8000,
				 .rcx = any_msr(f),
				 .rax = some(f),
				 .rdx = some(f),
				 .rsi = below(f, 2) ? 0x9000 : some(f),
				 .rdi = below(f, 2) ? 0xa000 : some(f) };
	struct kvm_sregs sregs;

	if (ioctl(fd, KVM_GET_SREGS, &sregs))
		return;
	sregs.cs.base = sregs.cs.selector = 0;
	ioctl(fd, KVM_SET_SREGS, &sregs);
	ioctl(fd, KVM_SET_REGS, &regs);
}

static void run_vcpu(struct fuzzer *f)
{
	unsigned slot = below(f, 4);
	uint8_t *run = all.run[slot];
	int fd = all.fd[VCPU][slot];

	if (below(f, 2))
		write_code(f);
	if (below(f, 2))
		set_start(f, fd);
	for (unsigned i = below(f, 20); i; i--) {
		uint64_t value = some(f);
		unsigned at = below(f, 4) ? below(f, 64) * 8 : below(f, 3 * PAGE / 8) * 8;

		/* By the kernel: another thread may unmap it. */
		if (run && below(f, 3) == 0 && pwrite(all.fd[EVENT][3], &value, 8, PAGE) == 8 &&
		    pread(all.fd[EVENT][3], run + at, 8, PAGE) < 0)
			break;
		if (call(f, fd, KVM_RUN, NULL) < 0 && errno != EINTR)
			break;
	}
}

static void change_a_little(struct fuzzer *f)
{
	uint32_t get, set;
	int fd = fd_of(f, any_pair(f, &get, &set));

	memset(f->data, 0, PAGE);
	half_valid(f, get);
	if (call(f, fd, get, f->data) < 0)
		return;
	for (unsigned n = below(f, 4); n; n--) {
		unsigned size = _IOC_SIZE(set), at = below(f, size > 64 && below(f, 2) ? 64
							      : size > 8	       ? size - 7
										       : 1);
		uint64_t value = some(f);

		if (below(f, 2))
			memcpy(f->data + at, &value, 8);
		else
			f->data[at] ^= 1u << below(f, 8);
	}
	call(f, fd, set, f->data);
}

static void any_call(struct fuzzer *f)
{
	enum kind kind;
	uint32_t number = any_number(f, &kind);
	unsigned size = _IOC_SIZE(number);

	if (!below(f, 16)) /* any there could be */
		number = _IOC(below(f, 4), KVMIO, below(f, 256),
			      below(f, 2) ? size : below(f, 4096));
	if (!below(f, 16))
		kind = below(f, KINDS);
	scatter(f, f->data, below(f, 4) ? size + 256 : 2048);
	if (below(f, 4))
		half_valid(f, number);
	if (number == KVM_CREATE_VM || number == KVM_CREATE_VCPU || number == KVM_GET_STATS_FD) {
		/* What comes of it is a descriptor, and there are not too many. */
		int fd = call(f, fd_of(f, kind), number,
			      below(f, 2) ? NULL : (void *)(uintptr_t)some(f));

		if (fd > 2)
			close(fd);
		return;
	}
	call(f, fd_of(f, kind), number,
	     size	   ? place(f, size < MOST_BYTES / 2 ? size : 64)
	     : below(f, 2) ? NULL
			   : (void *)(uintptr_t)some(f));
}

/* ---- a round ---- */

static void on_alarm(int signal)
{
	(void)signal;
}

static void *fuzz(void *arg)
{
	struct fuzzer *f = arg;

	for (;;) {
		unsigned what = below(f, 32);

		if (what < 2)
			replace(f);
		else if (what < 4)
			stir_memory(f);
		else if (what < 12)
			change_a_little(f);
		else if (what <
			 (f->which ? 15u
				   : 24u)) /* the first thread runs guests more than the others */
			run_vcpu(f);
		else
			any_call(f);
		if (below(f, 8) == 0) {
			uint64_t one = 1;

			if (write(all.fd[EVENT][below(f, 3)], &one, sizeof(one)) < 0)
				continue;
		}
	}
	return NULL;
}

static void set_up(struct fuzzer *f)
{
	all.ram = mmap(NULL, RAM_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	all.fd[DEV][0] = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	for (unsigned i = 1; i < 4; i++)
		all.fd[DEV][i] = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	for (unsigned i = 0; i < 3; i++)
		all.fd[EVENT][i] = eventfd(0, EFD_NONBLOCK);
	all.fd[EVENT][3] = memfd_create("fuzz", MFD_CLOEXEC);
	for (unsigned i = 0; i < 4; i++)
		new_vm(f, i);
	for (unsigned i = 0; i < 4; i++)
		new_vcpu(f, i);
	if (all.fd[VM][0] <= 0 || all.ram == MAP_FAILED) {
		perror("fuzz_ioctl: no machine");
		exit(3);
	}
}

static void play_round(uint64_t seed, unsigned number)
{
	struct itimerval every = { { 0, 20000 }, { 0, 20000 } };
	struct sigaction action = { .sa_handler = on_alarm };
	struct fuzzer first = { .random = (seed + number * 0x9e3779b97f4a7c15ull) | 1 };
	pthread_t thread[THREADS];
	static struct fuzzer f[THREADS];

	for (unsigned i = 0; i < 8; i++)
		next(&first);
	set_up(&first);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	for (unsigned i = 0; i < THREADS; i++) {
		f[i] = (struct fuzzer){ .random = next(&first) | 1, .which = i };
		f[i].data = mmap(NULL, MOST_BYTES + PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (f[i].data == MAP_FAILED || munmap(f[i].data + MOST_BYTES, PAGE))
			exit(3);
		if (pthread_create(&thread[i], NULL, fuzz, &f[i]))
			exit(3);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
}

/* 0, or why not. */
static const char *one_round(uint64_t seed, unsigned number)
{
	uint64_t begun = now_ms();
	int status = 0;
	pid_t pid = fork(), gone = 0;

	if (pid < 0)
		return "cannot fork";
	if (!pid) {
		play_round(seed, number);
		_exit(0);
	}
	while (now_ms() - begun < ROUND_MS && !gone) {
		sleep_ms(50);
		gone = waitpid(pid, &status, WNOHANG);
	}
	if (!gone)
		kill(pid, SIGKILL);
	for (begun = now_ms(); !gone && now_ms() - begun < DEATH_MS;
	     gone = waitpid(pid, &status, WNOHANG))
		sleep_ms(20);
	if (!gone)
		return "a process does not die";
	return WIFEXITED(status) && WEXITSTATUS(status) == 3 ? "no machine can be made" : NULL;
}

int main(int argc, char **argv)
{
	unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 10,
		 number = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1, begun = now_ms();
	/* Far from all that a machine is given as its memory, and more. */
	_Atomic uint64_t *counts = mmap(COUNTS_AT, PAGE, PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	const char *why = NULL;

	if (counts == MAP_FAILED)
		return 1;
	all.calls = &counts[0];
	all.good = &counts[1];
	for (; !why && now_ms() - begun < seconds * 1000ull; number++)
		why = one_round(seed, number);
	printf("fuzz_ioctl: seed %#llx, %u rounds, %llu calls, %llu of them good\n",
	       (unsigned long long)seed, number, (unsigned long long)*all.calls,
	       (unsigned long long)*all.good);
	if (why)
		printf("fuzz_ioctl: round %u: %s\n", number - 1, why);
	return why ? 1 : 0;
}
