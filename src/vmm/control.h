// SPDX-License-Identifier: Apache-2.0
/*
 * control.h - the control socket of a running machine, in base/rundir.h's directory.
 *
 * A request is one line, a flat JSON object with "command"; the answer is one line, an object with "ok", and
 * with "error" where that is false. Requests of one connection are answered one after another.
 * Commands:
 *
 *	bt-stats	"time_ms" (1 to 60000, default 1000), "top" (0 to 1000, default 10),
 *			"format" ("json": the answer has "stats"; "text": "text")
 *	kvm-stat	the same, of a machine of engine kvm
 *	status		the answer has "state", "running" or "paused", and with that "why"
 *	resume		of a machine that is paused because of a disk: try again now
 *	disk-stats	"format", as above, "histogram" (true: with text, too)
 *	export		a disk by NBD as it is now, until the connection ends: "disk", "socket" or "address" with "port",
 *			and if wanted "name", "tls", "clients"; the answer has "uri"
 *	resize		"disk" (number or serial), "size" in bytes, or "more" of them than there are
 *
 * Main thread only.
 */
#pragma once

#include <glib.h>

struct control;
struct vm;

/* NULL: one sentence in @err, and the machine can do without. @vm is borrowed until control_close(),
 * which comes before vm_free(). */
struct control *control_open(struct vm *vm, const char *name, GError **err);
void control_close(struct control *control);
