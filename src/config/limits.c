// SPDX-License-Identifier: Apache-2.0
/*
 * limits.c - how fast a disk may be: bps, bps-rd, bps-wr, iops, iops-rd, iops-wr, each also with -max and
 * -max-length, and iops-size.
 *
 * QEMU's names are taken as well: throttling.bps-total, throttling.iops-read-max and so on.
 */
#include <string.h>

#include "base/units.h"
#include "config/config.h"
#include "config/config_int.h"

static const char *const names[VM_RATES] = { "bps", "bps-rd", "bps-wr", "iops", "iops-rd", "iops-wr" };

static bool skip(const char **text, const char *word)
{
	size_t n = strlen(word);

	if (strncmp(*text, word, n))
		return false;
	*text += n;
	return true;
}

/* *text is behind the key. *ret_part: 0: average, 1: burst, 2: its length. */
static bool parse_key(const char **text, bool *ret_bytes, unsigned *ret_kind, unsigned *ret_part)
{
	const char *p = *text;

	(void)skip(&p, "throttling.");
	*ret_bytes = skip(&p, "bps");
	if (!*ret_bytes && !skip(&p, "iops"))
		return false;
	*ret_kind = *ret_bytes ? VM_RATE_BYTES : VM_RATE_OPS;
	if (skip(&p, "-rd") || skip(&p, "-read"))
		*ret_kind += 1;
	else if (skip(&p, "-write") || skip(&p, "-wr"))
		*ret_kind += 2;
	else
		(void)skip(&p, "-total");
	*ret_part = skip(&p, "-max-length") ? 2 : skip(&p, "-max") ? 1 : 0;
	*text = p;
	return *p == '=' || !*p;
}

static bool apply_op_bytes(struct vm_disk *disk, const char *value, GError **err)
{
	g_autoptr(GError) why = NULL;

	if (!size_parse(value, 1, &disk->op_bytes, &why))
		return config_fail(err, "--disk %s: iops-size: %s", disk->path, why->message);
	if (disk->op_bytes < 512)
		return config_fail(err, "--disk %s: iops-size is at least 512, not '%s'", disk->path, value);
	return true;
}

bool config_apply_limit(struct vm_disk *disk, const char *item, bool *ret_known, GError **err)
{
	const char *key = item, *value, *size = item;
	uint64_t n, max[] = { VM_MAX_RATE, VM_MAX_RATE, VM_MAX_BURST_S };
	unsigned kind, part;
	bool bytes;

	(void)skip(&size, "throttling.");
	value = key_value(size, "iops-size");
	*ret_known = value != NULL;
	if (value)
		return apply_op_bytes(disk, value, err);
	*ret_known = parse_key(&key, &bytes, &kind, &part);
	if (!*ret_known)
		return false;
	value = *key ? key + 1 : "";
	if (bytes && part < 2 ? !size_parse(value, 1, &n, NULL) || n == 0 || n > max[part] :
				!number_parse(value, 1, max[part], &n))
		return config_fail(err, "--disk %s: '%s' is not a %s from 1 to %" G_GUINT64_FORMAT, disk->path,
				   item, bytes && part < 2 ? "size" : "number", max[part]);
	if (part == 0)
		disk->rates[kind].avg = n;
	else if (part == 1)
		disk->rates[kind].max = n;
	else
		disk->rates[kind].length_s = n;
	return true;
}

static bool validate_rate(const struct vm_disk *d, unsigned kind, GError **err)
{
	const struct vm_rate *r = &d->rates[kind];
	const char *name = names[kind];

	if (r->max && !r->avg)
		return config_fail(err, "--disk %s: %s-max is a burst above %s, which is missing", d->path,
				   name, name);
	if (r->max && r->max < r->avg)
		return config_fail(err, "--disk %s: %s-max is less than %s", d->path, name, name);
	if (r->length_s && !r->max)
		return config_fail(err, "--disk %s: %s-max-length is of %s-max, which is missing", d->path,
				   name, name);
	return true;
}

bool config_validate_limits(const struct vm_disk *d, GError **err)
{
	for (unsigned k = 0; k < VM_RATES; k++)
		if (!validate_rate(d, k, err))
			return false;
	for (unsigned k = 0; k < VM_RATES; k += 3)
		if (d->rates[k].avg && (d->rates[k + 1].avg || d->rates[k + 2].avg))
			return config_fail(err, "--disk %s: %s is for reading and writing together, and "
						"excludes %s and %s", d->path, names[k], names[k + 1],
					   names[k + 2]);
	if (d->op_bytes && !d->rates[VM_RATE_OPS].avg && !d->rates[VM_RATE_OPS_READ].avg &&
	    !d->rates[VM_RATE_OPS_WRITE].avg)
		return config_fail(err, "--disk %s: iops-size belongs to iops", d->path);
	return true;
}
