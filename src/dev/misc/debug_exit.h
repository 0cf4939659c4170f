// SPDX-License-Identifier: Apache-2.0
/*
 * debug_exit.h - a port through which a test image ends the machine with a status.
 *
 * A write of 1, 2 or 4 bytes to @port calls fn with (value << 1) | 1, in the vCPU's thread.
 */
#pragma once

#include <stdint.h>

struct bus;
struct debug_exit;

struct debug_exit *debug_exit_new(struct bus *bus, uint16_t port,
				  void (*fn)(void *arg, uint32_t status), void *arg);
void debug_exit_free(struct debug_exit *dev);
