// SPDX-License-Identifier: Apache-2.0
/* config_int.h - what the files of config share among themselves. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Set @err to a VM_CONFIG_ERROR with that sentence; always false. */
bool config_fail(GError **err, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

struct vm_config;
struct vm_disk;

/* ---- options.c ---- */
/* Whole @text as a number in [min, max]. */
bool number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *ret);
/* Split "a,b=c,,d" at single commas; a doubled comma stands for one, so that every file name can
 * be given. NULL-terminated, never empty; caller frees with g_strfreev(). */
char **list_split(const char *text);
/* "key=value" -> value; "key" -> ""; anything else -> NULL. */
const char *key_value(const char *item, const char *key);

/* ---- disk.c ---- */
bool config_apply_disk(struct vm_config *config, const char *value, GError **err);
/* Numbers the units that have none. */
bool config_validate_disks(struct vm_config *config, GError **err);
void config_free_disk(struct vm_disk *disk);

/* ---- limits.c ---- */
/* False with *ret_known: a value that is wrong; without: the item is something else. */
bool config_apply_limit(struct vm_disk *disk, const char *item, bool *ret_known, GError **err);
bool config_validate_limits(const struct vm_disk *disk, GError **err);

/* ---- cpu.c ---- */
bool config_apply_cpu(struct vm_config *config, const char *value, GError **err);

/* ---- engine.c ---- */
bool config_apply_engine(struct vm_config *config, const char *value, GError **err);
bool config_apply_bt_cache(struct vm_config *config, const char *value, GError **err);
bool config_apply_bt_count(struct vm_config *config, const char *value, GError **err);
bool config_apply_perf_map(struct vm_config *config, const char *value, GError **err);
bool config_validate_engine(const struct vm_config *config, GError **err);
