// SPDX-License-Identifier: Apache-2.0
/*
 * log.h - one line on stderr per event, by level of reader.
 *
 * error: what you asked for did not happen. warn: odd but running (the default threshold).
 * info: rare state change. debug: for developers. "subject first: lower case, no newline".
 * Thread-safe. Anything a guest can trigger goes through log_guest(), which is rate-limited.
 */
#pragma once

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARN,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

void log_set_level(enum log_level level);
/* Prefix of every line, usually the program's name; borrowed, must stay valid. */
void log_set_name(const char *name);
/* While the terminal is in raw mode a line must end with CR LF. */
void log_set_crlf(int on);
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Rate limit: at most 5 lines a second and per limit, then one line that counts the suppressed. */
struct log_limit {
	long long window_ns;
	int count;
	int suppressed;
};
void log_limited(struct log_limit *limit, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)
/* A warning that the guest can provoke; one limit per place. */
#define log_guest(...)                                                                             \
	do {                                                                                       \
		static struct log_limit log_limit_;                                                \
		log_limited(&log_limit_, __VA_ARGS__);                                             \
	} while (0)
