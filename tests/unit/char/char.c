// SPDX-License-Identifier: Apache-2.0
/* char.c - tests of consoles: file, socket, and standard streams on a pseudo terminal. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/loop.h"
#include "char/char.h"

static struct loop *loop;
static char dir[64], path[96];

/* What the device has seen. */
static struct {
	char input[20000];
	size_t len, room;
	unsigned writable, columns, rows;
} seen;

static size_t input_room(void *arg)
{
	return seen.room;
}

static void input(void *arg, const uint8_t *bytes, size_t len)
{
	ck_assert_uint_le(len, seen.room);
	ck_assert_uint_lt(seen.len + len, sizeof(seen.input));
	memcpy(seen.input + seen.len, bytes, len);
	seen.len += len;
	seen.input[seen.len] = 0;
	seen.room -= len;
}

static void writable(void *arg)
{
	seen.writable++;
}

static void resized(void *arg, unsigned columns, unsigned rows)
{
	seen.columns = columns;
	seen.rows = rows;
}

static const struct char_client client = {
	.input_room = input_room, .input = input, .writable = writable, .resized = resized,
};

static void setup(void)
{
	memset(&seen, 0, sizeof(seen));
	seen.room = 10000;
	loop = loop_new();
	strcpy(dir, "/tmp/sika-test-char-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/c", dir);
}

static void teardown(void)
{
	unlink(path);
	rmdir(dir);
	loop_free(loop);
}

static void stop(void *arg)
{
	loop_stop(loop);
}

static void run_ms(unsigned ms)
{
	struct loop_timer *timer = loop_timer_new(loop, stop, NULL);

	loop_timer_arm(timer, loop_now_ns() + ms * 1000000ull);
	loop_run(loop);
	loop_timer_free(timer);
}

START_TEST(file_collects_everything)
{
	struct chardev *chr = char_file_open(path, loop, NULL);
	g_autofree char *text = NULL;
	size_t len;

	for (unsigned i = 0; i < 30000; i++)
		ck_assert_uint_eq(char_write(chr, "0123456789", 10), 10);
	char_close(chr);
	ck_assert(g_file_get_contents(path, &text, &len, NULL));
	ck_assert_uint_eq(len, 300000);
}
END_TEST

START_TEST(file_errors_are_sentences)
{
	g_autoptr(GError) err = NULL;

	ck_assert_ptr_null(char_file_open("/nonexistent/x", loop, &err));
	ck_assert_str_eq(err->message,
			 "serial '/nonexistent/x': cannot open: No such file or directory");
}
END_TEST

static int connect_to(const char *p)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, p);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

START_TEST(socket_serves_one_after_another)
{
	struct chardev *chr = char_unix_open(path, loop, NULL);
	char text[64] = { 0 };
	int fd;

	char_set_client(chr, &client, NULL);
	ck_assert_uint_eq(char_write(chr, "early ", 6), 6);
	for (unsigned i = 0; i < 3; i++) {
		fd = connect_to(path);
		run_ms(20);
		char_write(chr, "line", 4);
		run_ms(20);
		memset(text, 0, sizeof(text));
		ck_assert_int_gt(read(fd, text, sizeof(text)), 0);
		ck_assert_str_eq(text, i == 0 ? "early line" : "line");
		seen.len = 0;
		ck_assert_int_eq(write(fd, "typed", 5), 5);
		run_ms(20);
		ck_assert_str_eq(seen.input, "typed");
		close(fd);
		run_ms(20);
	}
	char_close(chr);
	ck_assert_int_lt(access(path, F_OK), 0);
}
END_TEST

START_TEST(slow_reader_holds_the_device_and_loses_nothing)
{
	struct chardev *chr = char_unix_open(path, loop, NULL);
	size_t taken = 0, read_total = 0;
	static uint8_t bytes[1 << 20];
	bool was_short = false;
	int fd;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 31 >> 3);
	char_set_client(chr, &client, NULL);
	fd = connect_to(path);
	run_ms(20);
	while (read_total < sizeof(bytes)) {
		uint8_t got[65536];
		ssize_t n;

		taken += char_write(chr, bytes + taken, sizeof(bytes) - taken);
		was_short |= taken < sizeof(bytes);
		run_ms(1);
		while ((n = read(fd, got, sizeof(got))) > 0) {
			ck_assert(memcmp(got, bytes + read_total, (size_t)n) == 0);
			read_total += (size_t)n;
		}
	}
	ck_assert(was_short);
	ck_assert_uint_gt(seen.writable, 0);
	close(fd);
	char_close(chr);
}
END_TEST

START_TEST(input_waits_for_room)
{
	struct chardev *chr = char_unix_open(path, loop, NULL);
	char big[9000];
	int fd;

	memset(big, 'x', sizeof(big));
	seen.room = 3;
	char_set_client(chr, &client, NULL);
	fd = connect_to(path);
	run_ms(10);
	ck_assert_int_eq(write(fd, big, sizeof(big)), sizeof(big));
	run_ms(20);
	ck_assert_uint_eq(seen.len, 3);
	for (unsigned i = 0; i < 9 && seen.len < sizeof(big); i++) {
		seen.room = 1000;
		char_input_ready(chr);
		run_ms(10);
	}
	ck_assert_uint_eq(seen.len, 9000 - 0);
	close(fd);
	char_close(chr);
}
END_TEST

START_TEST(socket_path_taken_or_stale)
{
	struct chardev *a = char_unix_open(path, loop, NULL), *b;
	g_autoptr(GError) err = NULL;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	ck_assert_ptr_null(char_unix_open(path, loop, &err));
	ck_assert_msg(strstr(err->message, "the path is taken"), "%s", err->message);
	char_close(a);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	strcpy(addr.sun_path, path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	b = char_unix_open(path, loop, NULL);
	ck_assert_ptr_nonnull(b);
	char_close(b);
}
END_TEST

/* ---- a terminal: the machine is a child on a pseudo terminal, we are the user ---- */

static void quit(void *arg)
{
	loop_stop(loop);
}

struct child {
	pid_t pid;
	int master;
};

/* Echoes input in brackets until told to quit, then says what it saw. */
static void child_main(int how_to_end)
{
	struct char_stdio_config config = { .quit = quit };
	struct chardev *chr;
	g_autofree char *text = NULL;

	signal(SIGTERM, SIG_DFL); /* Check has its own */
	loop_free(loop);
	loop = loop_new();
	config.loop = loop;
	chr = char_stdio_open(&config, NULL);
	if (!chr)
		_exit(9);
	char_set_client(chr, &client, NULL);
	char_write(chr, "ready", 5);
	loop_run(loop);
	text = g_strdup_printf("<%s %ux%u>", seen.input, seen.columns, seen.rows);
	char_write(chr, text, strlen(text));
	g_clear_pointer(&text, g_free);
	if (how_to_end == 1)
		abort();
	if (how_to_end == 2)
		exit(0);
	char_close(chr);
	_exit(0);
}

static struct child child_start(int how_to_end)
{
	struct child c = { .master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC) };
	struct winsize ws = { .ws_col = 100, .ws_row = 30 };
	int slave;

	ck_assert(c.master >= 0 && grantpt(c.master) == 0 && unlockpt(c.master) == 0);
	ioctl(c.master, TIOCSWINSZ, &ws);
	slave = open(ptsname(c.master), O_RDWR | O_NOCTTY);
	c.pid = fork();
	if (c.pid == 0) {
		setsid();
		ioctl(slave, TIOCSCTTY, 0);
		dup2(slave, 0);
		dup2(slave, 1);
		dup2(slave, 2);
		child_main(how_to_end);
	}
	close(slave);
	return c;
}

/* Read from the terminal until @text has come; all of what came so far. */
static char *expect(struct child *c, const char *text)
{
	GString *s = g_string_new(NULL);

	while (!strstr(s->str, text)) {
		struct pollfd p = { .fd = c->master, .events = POLLIN };
		char buf[512];
		ssize_t n;

		ck_assert_msg(poll(&p, 1, 3000) == 1, "no '%s' but '%s'", text, s->str);
		n = read(c->master, buf, sizeof(buf));
		ck_assert_msg(n > 0, "end without '%s' but '%s'", text, s->str);
		g_string_append_len(s, buf, n);
	}
	return g_string_free(s, FALSE);
}

static bool is_cooked(struct child *c)
{
	struct termios t;

	ck_assert_int_eq(tcgetattr(c->master, &t), 0);
	return (t.c_lflag & (ICANON | ECHO | ISIG)) == (ICANON | ECHO | ISIG);
}

static void type(struct child *c, const char *keys)
{
	ck_assert_int_eq(write(c->master, keys, strlen(keys)), (ssize_t)strlen(keys));
}

START_TEST(terminal_escapes_and_restores)
{
	struct winsize ws = { .ws_col = 132, .ws_row = 50 };
	struct child c = child_start(_i);
	int status;

	g_free(expect(&c, "ready"));
	ck_assert(!is_cooked(&c));
	type(&c, "a\001h");
	g_free(expect(&c, "send Ctrl-A to the guest"));
	ioctl(c.master, TIOCSWINSZ, &ws);
	usleep(50000);
	type(&c, "\003b\001qc\001\001d\001x");
	g_free(expect(&c, "<a\003bc\001d 132x50>"));
	ck_assert_int_eq(waitpid(c.pid, &status, 0), c.pid);
	ck_assert(_i == 1 ? WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT :
			    WIFEXITED(status) && WEXITSTATUS(status) == 0);
	ck_assert(is_cooked(&c));
	close(c.master);
}
END_TEST

START_TEST(terminal_is_restored_after_sigterm)
{
	struct child c = child_start(0);
	int status;

	g_free(expect(&c, "ready"));
	ck_assert(!is_cooked(&c));
	kill(c.pid, SIGTERM);
	ck_assert_int_eq(waitpid(c.pid, &status, 0), c.pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
	ck_assert(is_cooked(&c));
	close(c.master);
}
END_TEST

/* Without a terminal: a script on standard input, output to a pipe. */
START_TEST(streams_without_a_terminal)
{
	struct char_stdio_config config = { .loop = loop };
	int out[2], saved[2] = { dup(0), dup(1) };
	char text[32] = { 0 };
	struct chardev *chr;
	int fd;

	ck_assert(g_file_set_contents(path, "a\001xb", 4, NULL));
	ck_assert_int_eq(pipe(out), 0);
	fd = open(path, O_RDONLY);
	dup2(fd, 0);
	dup2(out[1], 1);
	chr = char_stdio_open(&config, NULL);
	char_set_client(chr, &client, NULL);
	run_ms(20);
	ck_assert_str_eq(seen.input, "a\001xb"); /* no escapes in a script */
	char_write(chr, "out", 3);
	char_close(chr);
	dup2(saved[0], 0);
	dup2(saved[1], 1);
	close(out[1]);
	ck_assert_int_eq(read(out[0], text, sizeof(text)), 3);
	ck_assert_str_eq(text, "out");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("char");
	TCase *t = tcase_create("char");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 20);
	tcase_add_test(t, file_collects_everything);
	tcase_add_test(t, file_errors_are_sentences);
	tcase_add_test(t, socket_serves_one_after_another);
	tcase_add_test(t, slow_reader_holds_the_device_and_loses_nothing);
	tcase_add_test(t, input_waits_for_room);
	tcase_add_test(t, socket_path_taken_or_stale);
	tcase_add_loop_test(t, terminal_escapes_and_restores, 0, 3);
	tcase_add_test(t, terminal_is_restored_after_sigterm);
	tcase_add_test(t, streams_without_a_terminal);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
