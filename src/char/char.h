// SPDX-License-Identifier: Apache-2.0
/*
 * char.h - what stands behind a serial port or a console: a stream of bytes each way.
 *
 * Threading: char_write(), char_room() and char_input_ready() may be called from any thread, with
 * the device's lock held. The client's functions run in the loop's thread without a lock of ours,
 * so they may take the device's lock and call back into here. char_set_client() and
 * char_close() belong to the loop's thread, or to anyone while the loop does not run.
 *
 * Output passes through a bounded buffer: char_write() takes what fits and never blocks; the rest
 * is the device's to keep until client.writable. Bytes taken are not lost: char_close()
 * writes them out, waiting at most a second for a reader that has stopped.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chardev;
struct loop;

/* The device's side; each function may be absent. */
struct char_client {
	/* How many bytes of input the device can take now. Absent: any number. */
	size_t (*input_room)(void *arg);
	void (*input)(void *arg, const uint8_t *bytes, size_t len);
	/* There is room again after char_write() took less than it was given. */
	void (*writable)(void *arg);
	void (*resized)(void *arg, unsigned columns, unsigned rows);
};

/* Standard input and output. On a terminal: raw mode, with Ctrl-A as escape (x ends, h helps,
 * Ctrl-A sends itself), restored by char_close(), exit() and fatal signals. Blocks SIGWINCH in the
 * calling thread: open it before other threads are started. At end of input, or when the
 * terminal is gone, input just stops. */
struct char_stdio_config {
	struct loop *loop;
	/* The user asked to end the machine (Ctrl-A x). Loop's thread. */
	void (*quit)(void *arg);
	/* The terminal was hung up. Optional. */
	void (*hangup)(void *arg);
	void *arg;
};

struct chardev *char_stdio_open(const struct char_stdio_config *config, GError **err);
/* Output only; created or emptied. */
struct chardev *char_file_open(const char *path, struct loop *loop, GError **err);
/* Listens at @path; one client at a time, the next one may connect when it has gone. What is
 * written while nobody listens is kept as far as the buffer goes, the newest bytes winning. */
struct chardev *char_unix_open(const char *path, struct loop *loop, GError **err);
/* Swallows everything. */
struct chardev *char_null_open(struct loop *loop);
/* Swallows everything, and has the size of @of, now and later: a console that is there to tell the
 * guest the size of the window. @of has one such follower at most; closed in any order. */
struct chardev *char_size_open(struct chardev *of, struct loop *loop);
void char_close(struct chardev *chr);

/* @client is borrowed; NULL detaches. A known terminal size is reported at once. */
void char_set_client(struct chardev *chr, const struct char_client *client, void *arg);
/* Returns how many bytes were taken. */
size_t char_write(struct chardev *chr, const void *buf, size_t len);
/* How many bytes char_write() would take now. */
size_t char_room(struct chardev *chr);
/* client.input_room has grown from zero. */
void char_input_ready(struct chardev *chr);
/* False when the size is not known. */
bool char_size(struct chardev *chr, unsigned *ret_columns, unsigned *ret_rows);
