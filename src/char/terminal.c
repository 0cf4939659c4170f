// SPDX-License-Identifier: Apache-2.0
/* terminal.c - the terminal in raw mode, and surely back again. */
#include "char/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"

static const int fatal_signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS,
				     SIGTERM, SIGINT, SIGQUIT, SIGHUP };

/* The state of the process's terminal: a signal handler and exit() have no other way to it. */
static struct {
	volatile sig_atomic_t raw;
	int fd;
	pid_t pid;
	bool at_exit;
	struct termios cooked;
} terminal;

/* Only what a signal handler may call. */
static void put_back(void)
{
	if (!terminal.raw || terminal.pid != getpid())
		return;
	terminal.raw = 0;
	(void)tcsetattr(terminal.fd, TCSANOW, &terminal.cooked);
}

static void on_fatal(int sig)
{
	put_back();
	/* SA_RESETHAND has restored the default, which ends the process once we return. */
	raise(sig);
}

static void catch_fatal(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
		struct sigaction sa = { .sa_handler = on_fatal, .sa_flags = SA_RESETHAND };
		struct sigaction old;

		if (sigaction(fatal_signals[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL &&
		    !(old.sa_flags & SA_SIGINFO))
			(void)sigaction(fatal_signals[i], &sa, NULL);
	}
}

void terminal_restore(void)
{
	if (!terminal.raw)
		return;
	put_back();
	log_set_crlf(0);
}

int terminal_raw(int fd)
{
	struct termios raw;

	if (tcgetattr(fd, &terminal.cooked) < 0)
		return -errno;
	raw = terminal.cooked;
	cfmakeraw(&raw);
	terminal.fd = fd;
	terminal.pid = getpid();
	if (!terminal.at_exit)
		terminal.at_exit = atexit(terminal_restore) == 0;
	catch_fatal();
	terminal.raw = 1;
	if (tcsetattr(fd, TCSANOW, &raw) < 0) {
		terminal.raw = 0;
		return -errno;
	}
	log_set_crlf(1);
	return 0;
}

bool terminal_size(int fd, unsigned *ret_columns, unsigned *ret_rows)
{
	struct winsize ws;

	if (ioctl(fd, TIOCGWINSZ, &ws) < 0 || ws.ws_col == 0 || ws.ws_row == 0)
		return false;
	*ret_columns = ws.ws_col;
	*ret_rows = ws.ws_row;
	return true;
}
