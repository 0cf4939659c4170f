// SPDX-License-Identifier: Apache-2.0
/*
 * hostile.c - guests that load random control registers, MSRs, descriptor tables and page tables,
 * and execute random bytes, while the host's registers hold values that the guest must never see.
 *
 * usage: hostile SECONDS [SEED [LIFE]]
 *
 * A life is a process with a machine of two vCPUs; what it begins with is made of the seed and the
 * life's number. It ends when its time is over. It fails when a value of the host's is found in
 * what the guest can see, when a register of the host's is changed by KVM_RUN, or when a process
 * does not die. Some of the time goes to guests that are not hostile, but tell all their values
 * (planted.c).
 */
#include "clock.h"
#include "hostile.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIFE_MS	 600u
#define DEATH_MS 60000u
#define TABLES	 0x100000u /* of pages; below it the guest's code, behind it descriptor tables */
#define GDT	 0x180000u
#define IDT	 0x181000u
#define DEVICE	 0xd0000000u

uint64_t rng_next(struct rng *r)
{
	r->state ^= r->state << 13;
	r->state ^= r->state >> 7;
	r->state ^= r->state << 17;
	return r->state * 0x2545f4914f6cdd1dull;
}

unsigned rng_below(struct rng *r, unsigned n)
{
	return (unsigned)(rng_next(r) >> 33) % n;
}

void give_up(const char *what)
{
	printf("hostile: %s (%s)\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

/* ---- a machine ---- */

static void show_all(int dev, int vcpu)
{
	static union {
		struct kvm_cpuid2 head;
		uint8_t room[sizeof(struct kvm_cpuid2) + 128 * sizeof(struct kvm_cpuid_entry2)];
	} cpuid;

	cpuid.head.nent = 128;
	if (ioctl(dev, KVM_GET_SUPPORTED_CPUID, &cpuid) || ioctl(vcpu, KVM_SET_CPUID2, &cpuid))
		give_up("CPUID");
}

void machine_make(struct machine *m, bool chips)
{
	int dev = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct kvm_userspace_memory_region region = { .memory_size = RAM_BYTES };

	m->vm = ioctl(dev, KVM_CREATE_VM, 0);
	m->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m->vm < 0 || m->ram == MAP_FAILED)
		give_up("no machine");
	region.userspace_addr = (uintptr_t)m->ram;
	if (ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region) ||
	    (chips && ioctl(m->vm, KVM_CREATE_IRQCHIP, 0)))
		give_up("no memory, or no interrupt controllers");
	for (unsigned i = 0; i < VCPUS; i++) {
		m->vcpu[i] = ioctl(m->vm, KVM_CREATE_VCPU, i);
		m->run[i] = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu[i], 0);
		if (m->vcpu[i] < 0 || m->run[i] == MAP_FAILED)
			give_up("no vCPU");
		show_all(dev, m->vcpu[i]);
	}
	close(dev);
}

/* ---- what the guest has ---- */

/* clang-format off */
/* Of what a kernel does, and nobody else may; "+" is a random byte, "~" a zero. Some mean another thing in
 * another mode. No MOV to DR7: QEMU 7.2 gives up when delivering an exception comes to a data breakpoint. */
static const char *const pieces[] = {
	"\x0f\x22\xc0", "\x0f\x22\xd0", "\x0f\x22\xd8", "\x0f\x22\xe0", "\x44\x0f\x22\xc0",
	"\x0f\x20\xc0", "\x0f\x20\xd8", "\x0f\x20\xe0", "\x0f\x23\xc0",
	"\x0f\x21\xf8", "\xb9++++\x0f\x30", "\xb9\x80++\xc0\x0f\x32", "\xb9\x80++\xc0\x0f\x30",
	"\xb9+\x02++\x0f\x30", "\xb9+\x08++\x0f\x30", "\xb9\x1b++\x0f\x30", "\x0f\x01\x16",
	"\x0f\x01\x1e", "\x0f\x01\x17", "\x0f\x01\x1f", "\x0f~\xd0", "\x0f~\xd8", "\x0f\x01\x3e",
	"\x0f\x01\x3f", "\x0f\x08", "\x0f\x09", "\x0f\x06", "\x0f\x01\xf0", "\x0f\x01\xf8",
	"\x0f\x05", "\x48\x0f\x07", "\x0f\x34", "\x0f\x35", "\xcf", "\x48\xcf", "\xcd+", "\xcc",
	"\xf1", "\xce", "\xe4+", "\xe6+", "\xec", "\xee", "\xed", "\xf3\x6c", "\xf3\x6e", "\x6d",
	"\xf4", "\xf3\x90", "\x0f\xa2", "\x0f\x01\xd0", "\x31\xc9\x0f\x01\xd1", "\x0f\xae\x06",
	"\x0f\xae\x0e", "\x0f\xae\x27", "\x0f\xae\x2f", "\x0f\x01\xd8", "\x0f\x01\xd9",
	"\x0f\x01\xda", "\x0f\x01\xdb", "\x0f\x01\xdc", "\x0f\x01\xdd", "\x0f\x01\xde",
	"\x0f\x01\xdf", "\x0f\x33", "\x0f\x01\xc8", "\x0f\x01\xc9", "\x0f\xaa", "\xfb", "\xfa",
	"\x9d", "\x9c", "\x68++++\x9d", "\x8e\xd0", "\x8e\xd8", "\x8e\xe8", "\x17", "\x1f",
	"\xf3\xa5", "\xf3\xab", "\xa4", "\xf0\x48\x0f\xc7\x0e", "\x0f\xc7\x0e", "\xab", "\xaa",
	"\x48\xab", "\x0f\x31", "\x0f\x01\xf9", "\xd9\xee", "\xde\xc1", "\x0f\x10\x06",
	"\x0f\x11\x07", "\x0f\xff", "\x89\x07", "\x8b\x06", "\x89\x06", "\xbf++\x10~",
	"\xbe++\x10~", "\xbf++\x18~", "\xbe++\x18~", "\xbf++~\xd0", "\xb8++++", "\xba++++",
	"\xbc++\x0f~", "\xea++++\x08~", "\xeb+", "\x74+", "\xe9++~~", "\xff\x16", "\xff\x2e",
	"\xcb", "\xc8+++", "\x0f\xc7\xf0", "\xf3\x0f\xae\xc0", "\x0f\x18\x06", "\xc5\xfc\x77",
	"\xc5\xfe\x7f\x07", "\x62+++++", "\x67\x8b++", "\x66\x0f\x38\x82\x06", "\x0f\x0d\x06",
	/* What KVM offers: steal time, ends of interrupts by memory, asynchronous page faults; IPIs, a kick, a yield by
	 * hypercall. */
	"\x31\xd2\xb8\x41+\x0f~\xb9\x03MVK\x0f\x30", "\x31\xd2\xb8\x01+\x0f~\xb9\x04MVK\x0f\x30",
	"\x31\xd2\xb8\x4b+\x0f~\xb9\x02MVK\x0f\x30", "\x31\xd2\xb8+~~~\xb9\x06MVK\x0f\x30",
	"\x31\xd2\xb8+~~~\xb9\x07MVK\x0f\x30",
	"\xb8\x0a~~~\x0f\x01\xd9", "\xb8\x0a~~~\x0f\x01\xc1", "\xb8\x05~~~\x0f\x01\xd9", "\xb8\x0b~~~\x0f\x01\xd9",
};
/* clang-format on */

static const uint64_t shapes[] = {
	0,	    1,		0x10,	       0x11,   0x31,
	0x620,	    0x6f0,	0xd01,	       0x100,  0x80000011,
	0x80010033, TABLES,	TABLES + PAGE, GDT,    IDT,
	0xfee00000, 0xfee000b0, 0xfec00000,    DEVICE, 0xffff800000000000
};

static uint64_t shape(struct rng *r)
{
	switch (rng_below(r, 4)) {
	case 0:
		return rng_next(r);
	case 1:
		return rng_below(r, RAM_BYTES);
	default:
		return shapes[rng_below(r, ARRAY_SIZE(shapes))] ^
		       (rng_below(r, 3) ? 0 : 1ull << rng_below(r, 64));
	}
}

static void write_code(struct rng *r, uint8_t *at, unsigned bytes)
{
	unsigned n = 0;

	while (n + 24 < bytes) {
		const char *piece = pieces[rng_below(r, ARRAY_SIZE(pieces))];
		unsigned length = (unsigned)strlen(piece);
		uint64_t word = rng_next(r);

		if (!rng_below(r, 8)) {
			memcpy(at + n, &word, 8);
			n += 1 + rng_below(r, 8);
			continue;
		}
		for (unsigned i = 0; i < length; i++)
			at[n++] = piece[i] == '+'   ? (uint8_t)rng_next(r)
				  : piece[i] == '~' ? 0
						    : (uint8_t)piece[i];
		if (!rng_below(r, 3)) { /* a value for the next one: MOV EAX or RAX */
			uint64_t value = shape(r);

			at[n++] = 0xb8;
			memcpy(at + n, &value, 4);
			n += 4;
		}
	}
}

static void put(uint8_t *ram, unsigned at, uint64_t value)
{
	memcpy(ram + at, &value, 8);
}

/* Tables that lead somewhere, and some that do not. */
static void write_tables(struct rng *r, uint8_t *ram)
{
	for (unsigned page = 0; page < 16; page++)
		for (unsigned i = 0; i < 512; i++)
			put(ram, TABLES + page * PAGE + i * 8,
			    rng_below(r, 4)
				    ? (uint64_t)(TABLES +
						 ((page + 1 + rng_below(r, 2)) % 16) * PAGE) |
					      7
				    : (uint64_t)rng_below(r, 0x200) * PAGE | (rng_next(r) & 0x1ff));
	put(ram, TABLES, (TABLES + PAGE) | 7);
	put(ram, TABLES + PAGE, (TABLES + 2 * PAGE) | 7);
	put(ram, TABLES + 2 * PAGE, 0x87);
	/* For legacy paging, whose entries are half as long. */
	put(ram, TABLES + 12 * PAGE, 0x87 | (uint64_t)0x400087 << 32);
	for (unsigned i = 0; i < 64; i++)
		put(ram, GDT + i * 8,
		    rng_below(r, 3)
			    ? 0x00cf9b000000ffff ^ (rng_below(r, 4) ? 0 : 1ull << rng_below(r, 64))
			    : rng_next(r));
	for (unsigned i = 0; i < 256; i++) {
		uint64_t to = rng_below(r, TABLES);

		put(ram, IDT + i * 8,
		    (to & 0xffff) | 0x08ull << 16 |
			    (0x8eull ^ (rng_below(r, 4) ? 0 : rng_below(r, 256))) << 40 |
			    (to >> 16) << 48);
	}
}

static void set_mode(struct rng *r, struct kvm_sregs *s)
{
	unsigned mode = rng_below(r, 5);

	s->gdt = (struct kvm_dtable){ .base = GDT, .limit = 511 };
	s->idt = (struct kvm_dtable){ .base = IDT, .limit = 4095 };
	if (!mode) {
		s->cs.base = s->cs.selector = 0;
		s->idt = (struct kvm_dtable){ .base = rng_below(r, 2) ? 0 : IDT, .limit = 0x3ff };
		return;
	}
	s->ds = s->es = s->fs = s->gs = s->ss = s->cs = FLAT_DATA;
	s->cs.selector = 8;
	s->cs.type = 11;
	s->cr0 = mode == 1 ? 0x11 : 0x80000011 | (uint64_t)rng_below(r, 2) << 16;
	s->cr3 = mode == 2 ? TABLES + 12 * PAGE : mode == 3 ? TABLES + PAGE : TABLES;
	s->cr4 = mode == 2 ? 0x10 : mode > 2 ? 0x620 : 0;
	if (mode == 4) {
		s->cs.l = 1;
		s->cs.db = 0;
		s->efer = 0xd01;
	}
}

static void set_state(struct rng *r, int vcpu)
{
	struct kvm_regs regs = { .rip = rng_below(r, 64) * PAGE / 4,
				 .rflags = 2 | (uint64_t)rng_below(r, 2) << 9,
				 .rsp = 0xf0000 };
	struct kvm_sregs sregs;
	struct kvm_segment tr;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		give_up("KVM_GET_SREGS");
	set_mode(r, &sregs);
	tr = sregs.tr;
	/* What is refused leaves the state as it was. */
	if (!rng_below(r, 4))
		((uint8_t *)&sregs)[rng_below(r, sizeof(sregs))] ^=
			(uint8_t)(1u << rng_below(r, 8));
	/* QEMU 7.2 gives up where it is no task state segment, or a busy one. */
	tr.type = 9;
	sregs.tr = tr;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) && errno != EINVAL)
		give_up("KVM_SET_SREGS");
	regs.rax = shape(r), regs.rbx = shape(r), regs.rcx = shape(r), regs.rdx = shape(r);
	regs.rsi = shape(r), regs.rdi = shape(r), regs.rbp = shape(r), regs.r15 = shape(r);
	if (ioctl(vcpu, KVM_SET_REGS, &regs))
		give_up("KVM_SET_REGS");
}

/* ---- what must not be there ---- */

static void look_through(const void *what, size_t bytes, const char *name)
{
	for (size_t i = 0; i + 8 <= bytes; i += 4) {
		uint64_t word;

		memcpy(&word, (const uint8_t *)what + i, 8);
		if (!is_planted(word))
			continue;
		printf("%#llx, at %zu of the guest's %s\n", (unsigned long long)word, i, name);
		give_up("a value of the host's is in the guest");
	}
}

static void look_at_state(int vcpu)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xsave xsave;
	struct kvm_debugregs debug;

	if (ioctl(vcpu, KVM_GET_REGS, &regs) || ioctl(vcpu, KVM_GET_SREGS, &sregs) ||
	    ioctl(vcpu, KVM_GET_XSAVE, &xsave) || ioctl(vcpu, KVM_GET_DEBUGREGS, &debug))
		give_up("the state cannot be had");
	look_through(&regs, sizeof(regs), "general registers");
	look_through(&sregs, sizeof(sregs), "segments and control registers");
	look_through(&xsave, sizeof(xsave), "extended state");
	look_through(&debug, sizeof(debug), "debug registers");
}

/* ---- a life ---- */

struct liver {
	struct machine *m;
	unsigned which;
	struct rng rng;
	uint64_t end;
};

static void answer(struct rng *r, struct kvm_run *run)
{
	uint64_t value = shape(r);

	if (run->exit_reason == KVM_EXIT_MMIO && !run->mmio.is_write)
		memcpy(run->mmio.data, &value, 8);
}

static void *live(void *arg)
{
	struct liver *l = arg;
	struct kvm_run *run = l->m->run[l->which];
	int vcpu = l->m->vcpu[l->which];

	while (now_ms() < l->end) {
		struct kvm_mp_state runs = { KVM_MP_STATE_RUNNABLE };

		set_state(&l->rng, vcpu);
		ioctl(vcpu, KVM_SET_MP_STATE, &runs);
		for (unsigned i = rng_below(&l->rng, 40); i && now_ms() < l->end; i--) {
			long result = run_planted(&l->rng, vcpu);

			if (result && result != -EINTR)
				break;
			if (run->exit_reason == KVM_EXIT_SHUTDOWN ||
			    run->exit_reason == KVM_EXIT_INTERNAL_ERROR ||
			    run->exit_reason == KVM_EXIT_FAIL_ENTRY)
				break;
			answer(&l->rng, run);
		}
		look_at_state(vcpu);
	}
	return NULL;
}

static void on_signal(int signal)
{
	(void)signal;
}

static void play_life(uint64_t seed, unsigned number)
{
	struct rng r = { (seed + number * 0x9e3779b97f4a7c15ull) | 1 };
	struct sigaction action = { .sa_handler = on_signal };
	uint64_t end = now_ms() + LIFE_MS;
	struct liver l[VCPUS];
	pthread_t thread[VCPUS];
	struct machine m;

	for (unsigned i = 0; i < 8; i++)
		rng_next(&r);
	sigaction(SIGUSR1, &action, NULL);
	if (number % 4 == 0) {
		keep_apart(&r, LIFE_MS);
		return;
	}
	machine_make(&m, rng_below(&r, 2));
	write_code(&r, m.ram, TABLES);
	write_tables(&r, m.ram);
	for (unsigned i = 0; i < VCPUS; i++) {
		l[i] = (struct liver){ &m, i, { rng_next(&r) | 1 }, end };
		if (pthread_create(&thread[i], NULL, live, &l[i]))
			give_up("no thread");
	}
	/* A guest that halts, or goes round, is not left before a signal comes. */
	while (now_ms() < end + 20) {
		sleep_ms(20);
		for (unsigned i = 0; i < VCPUS; i++)
			pthread_kill(thread[i], SIGUSR1);
	}
	look_through(m.ram, RAM_BYTES, "memory");
	/* Who is in the guest still goes with the process. */
}

static const char *one_life(uint64_t seed, unsigned number)
{
	int status = 0;
	uint64_t begun = now_ms();
	pid_t pid = fork(), gone = 0;

	if (pid < 0)
		return "cannot fork";
	if (!pid) {
		play_life(seed, number);
		_exit(0);
	}
	while (!gone && now_ms() - begun < DEATH_MS) {
		sleep_ms(20);
		gone = waitpid(pid, &status, WNOHANG);
	}
	if (!gone) {
		kill(pid, SIGKILL);
		return "a process does not die";
	}
	return !WIFEXITED(status)    ? "a process was killed"
	       : WEXITSTATUS(status) ? "see above"
				     : NULL;
}

int main(int argc, char **argv)
{
	unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 10,
		 number = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1, begun = now_ms();
	const char *why = NULL;

	setvbuf(stdout, NULL, _IONBF, 0);
	for (; !why && now_ms() - begun < seconds * 1000ull; number++)
		why = one_life(seed, number);
	printf("hostile: seed %#llx, %u lives\n", (unsigned long long)seed, number);
	if (why)
		printf("hostile: life %u: %s\n", number - 1, why);
	return why ? 1 : 0;
}
