// SPDX-License-Identifier: Apache-2.0
/* system.c - work of the kernel: calls, signals, faults, pipes, processes. */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "programs.h"

static void system_calls(void)
{
	for (int i = 0; i < 1000000; i++)
		syscall(SYS_getppid);
}

static void on_signal(int number)
{
	program_sink += (uint64_t)number;
}

static void signals(void)
{
	pid_t self = getpid();

	signal(SIGUSR1, on_signal);
	for (int i = 0; i < 100000; i++)
		kill(self, SIGUSR1);
	signal(SIGUSR1, SIG_DFL);
}

static void page_faults(void)
{
	const size_t size = 16 << 20;

	for (int i = 0; i < 10; i++) {
		char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (size_t j = 0; p != MAP_FAILED && j < size; j += 4096)
			p[j] = 1;
		munmap(p, size);
	}
}

static void forks(void)
{
	for (int i = 0; i < 500; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
	}
}

/* This program again: it ends at once where its first argument is "nothing". */
static void execs(void)
{
	for (int i = 0; i < 200; i++) {
		pid_t pid = fork();

		if (!pid) {
			execl("/proc/self/exe", "programs", "nothing", (char *)NULL);
			execl("/init", "programs", "nothing", (char *)NULL);
			_exit(1);
		}
		waitpid(pid, NULL, 0);
	}
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

/* A byte there and a byte back, each side on its processor. */
static void ping_pong(int rounds, int here, int yonder)
{
	int there[2], back[2];
	cpu_set_t all;
	char c = 0;

	if (sched_getaffinity(0, sizeof(all), &all) < 0 || pipe(there) < 0 || pipe(back) < 0)
		return;
	if (!fork()) {
		pin(yonder);
		for (int i = 0; i < rounds; i++)
			if (read(there[0], &c, 1) != 1 || write(back[1], &c, 1) != 1)
				_exit(1);
		_exit(0);
	}
	pin(here);
	for (int i = 0; i < rounds; i++)
		if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1)
			break;
	wait(NULL);
	(void)sched_setaffinity(0, sizeof(all), &all);
	for (int i = 0; i < 2; i++) {
		close(there[i]);
		close(back[i]);
	}
}

static void pipe_one(void)
{
	ping_pong(30000, 0, 0);
}

static void pipe_two(void)
{
	if (sysconf(_SC_NPROCESSORS_ONLN) > 1)
		ping_pong(10000, 0, 1);
}

const struct program programs_system[] = {
	{ "system-calls", system_calls },
	{ "signals", signals },
	{ "page-faults", page_faults },
	{ "fork", forks },
	{ "exec", execs },
	{ "pipe", pipe_one },
	{ "pipe-across", pipe_two },
	{ 0 },
};
