// SPDX-License-Identifier: Apache-2.0
/* log.c - one line on stderr per event; the guest's are rate-limited. */
#include "log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES	1024
#define LIMIT_LINES	5
#define LIMIT_WINDOW_NS 1000000000ll

/* The one process-wide state of the house: where lines go is a property of the process. */
static atomic_int log_threshold = LOG_LEVEL_WARN;
static atomic_int log_crlf;
static const char *_Atomic log_name;
static pthread_mutex_t limit_lock = PTHREAD_MUTEX_INITIALIZER; /* every struct log_limit */

static const char *const level_words[] = {
	[LOG_LEVEL_ERROR] = "error: ",
	[LOG_LEVEL_WARN] = "warning: ",
	[LOG_LEVEL_INFO] = "",
	[LOG_LEVEL_DEBUG] = "debug: ",
};

void log_set_level(enum log_level level)
{
	atomic_store(&log_threshold, level);
}

void log_set_name(const char *name)
{
	atomic_store(&log_name, name);
}

void log_set_crlf(int on)
{
	atomic_store(&log_crlf, on);
}

/* One write() per line, so that lines of several threads and processes do not mix. */
__attribute__((format(printf, 2, 0))) static void line_write(enum log_level level, const char *fmt,
							     va_list ap)
{
	char line[LINE_BYTES];
	const char *name = atomic_load(&log_name);
	size_t len = 0;
	int n;

	if (level > (enum log_level)atomic_load(&log_threshold))
		return;
	n = snprintf(line, sizeof(line), "%s%s%s", name ? name : "", name ? ": " : "",
		     level_words[level]);
	if (n > 0)
		len = (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
	n = vsnprintf(line + len, sizeof(line) - len, fmt, ap);
	if (n > 0)
		len += (size_t)n < sizeof(line) - len ? (size_t)n : sizeof(line) - len - 1;
	if (len > sizeof(line) - 3)
		len = sizeof(line) - 3;
	if (atomic_load(&log_crlf))
		line[len++] = '\r';
	line[len++] = '\n';
	/* Nowhere to report a failing stderr to. */
	n = (int)write(STDERR_FILENO, line, len);
	(void)n;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	line_write(level, fmt, ap);
	va_end(ap);
}

void log_limited(struct log_limit *limit, const char *fmt, ...)
{
	struct timespec ts;
	long long now;
	bool say;
	int suppressed = 0;
	va_list ap;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = ts.tv_sec * 1000000000ll + ts.tv_nsec;

	pthread_mutex_lock(&limit_lock);
	if (limit->count == 0 || now - limit->window_ns >= LIMIT_WINDOW_NS) {
		suppressed = limit->suppressed;
		limit->window_ns = now;
		limit->count = 0;
		limit->suppressed = 0;
	}
	say = limit->count < LIMIT_LINES;
	if (say)
		limit->count++;
	else
		limit->suppressed++;
	pthread_mutex_unlock(&limit_lock);

	if (suppressed)
		log_line(LOG_LEVEL_WARN, "%d more of the following kind suppressed", suppressed);
	if (!say)
		return;
	va_start(ap, fmt);
	line_write(LOG_LEVEL_WARN, fmt, ap);
	va_end(ap);
}
