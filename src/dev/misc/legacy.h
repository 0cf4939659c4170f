// SPDX-License-Identifier: Apache-2.0
/*
 * legacy.h - the few ports of a PC's south bridge that system software pokes without asking:
 * keyboard controller reset (0x64), fast reset (0x92), POST codes (0x80).
 */
#pragma once

struct bus;
struct legacy;

/* @reset runs in a vCPU's thread. NULL when the ports are taken. */
struct legacy *legacy_new(struct bus *bus, void (*reset)(void *arg), void *arg);
void legacy_free(struct legacy *legacy);
void legacy_reset(struct legacy *legacy);
