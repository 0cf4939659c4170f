// SPDX-License-Identifier: Apache-2.0
/* disk.c - --disk: one disk of the machine. */
#include <string.h>

#include "base/bits.h"
#include "base/units.h"
#include "config/config.h"
#include "config/config_int.h"
#include "disk/formats/formats.h"

#define MAX_RECONNECT_S 86400u

struct key {
	const char *name, *value; /* as a user is told */
	bool (*apply)(struct vm_disk *disk, const char *value, GError **err);
};

static void replace(char **field, const char *value)
{
	g_free(*field);
	*field = g_strdup(value);
}

static bool apply_format(struct vm_disk *disk, const char *value, GError **err)
{
	if (!*value)
		return config_fail(err, "--disk %s: unknown 'format=', a format's name is missing",
				   disk->path);
	replace(&disk->format, value);
	return true;
}

static bool apply_cache(struct vm_disk *disk, const char *value, GError **err)
{
	replace(&disk->cache, value);
	return true;
}

static bool apply_readonly(struct vm_disk *disk, const char *value, GError **err)
{
	if (*value && strcmp(value, "on") && strcmp(value, "off"))
		return config_fail(err, "--disk %s: readonly is 'on' or 'off', not '%s'",
				   disk->path, value);
	disk->readonly = strcmp(value, "off") != 0;
	return true;
}

static bool is_word(const char *text, size_t max)
{
	if (!*text || strlen(text) > max)
		return false;
	for (; *text; text++)
		if (!g_ascii_isalnum(*text) && !strchr("-_.", *text))
			return false;
	return true;
}

static bool apply_serial(struct vm_disk *disk, const char *value, GError **err)
{
	if (!is_word(value, VM_SERIAL_BYTES))
		return config_fail(err, "--disk %s: serial is 1 to %u letters, digits and -_., not '%s'",
				   disk->path, VM_SERIAL_BYTES, value);
	replace(&disk->serial, value);
	return true;
}

static bool apply_iothread(struct vm_disk *disk, const char *value, GError **err)
{
	if (!is_word(value, VM_IOTHREAD_BYTES))
		return config_fail(err,
				   "--disk %s: iothread is a name of 1 to %u letters, digits and -_., "
				   "not '%s'",
				   disk->path, VM_IOTHREAD_BYTES, value);
	replace(&disk->iothread, value);
	return true;
}

static bool apply_queues(struct vm_disk *disk, const char *value, GError **err)
{
	uint64_t n;

	if (!number_parse(value, 1, VM_MAX_QUEUES, &n))
		return config_fail(err, "--disk %s: queues is a number from 1 to %u, not '%s'",
				   disk->path, VM_MAX_QUEUES, value);
	disk->queues = (unsigned)n;
	return true;
}

static bool apply_block(struct vm_disk *disk, const char *value, GError **err)
{
	if (strcmp(value, "512") && strcmp(value, "4096"))
		return config_fail(err, "--disk %s: block-size is 512 or 4096, not '%s'",
				   disk->path, value);
	disk->block_bytes = *value == '5' ? 512 : 4096;
	return true;
}

static bool apply_bus(struct vm_disk *disk, const char *value, GError **err)
{
	if (strcmp(value, "virtio") && strcmp(value, "scsi"))
		return config_fail(err, "--disk %s: bus is virtio or scsi, not '%s'", disk->path, value);
	disk->scsi = *value == 's';
	return true;
}

static bool apply_lun(struct vm_disk *disk, const char *value, GError **err)
{
	uint64_t n;

	if (!number_parse(value, 0, VM_MAX_LUN, &n))
		return config_fail(err, "--disk %s: lun is a number from 0 to %u, not '%s'",
				   disk->path, VM_MAX_LUN, value);
	disk->lun = (unsigned)n;
	disk->has_lun = true;
	return true;
}

static bool apply_media(struct vm_disk *disk, const char *value, GError **err)
{
	if (strcmp(value, "disk") && strcmp(value, "cdrom"))
		return config_fail(err, "--disk %s: media is disk or cdrom, not '%s'", disk->path, value);
	disk->cdrom = *value == 'c';
	return true;
}

static bool is_policy(const char *value)
{
	static const char *const names[] = { "report", "ignore", "stop", "enospc", NULL };

	return g_strv_contains(names, value);
}

static bool apply_werror(struct vm_disk *disk, const char *value, GError **err)
{
	if (!is_policy(value))
		return config_fail(err, "--disk %s: werror is report, ignore, stop or enospc, not '%s'",
				   disk->path, value);
	replace(&disk->werror, value);
	return true;
}

static bool apply_rerror(struct vm_disk *disk, const char *value, GError **err)
{
	if (!is_policy(value))
		return config_fail(err, "--disk %s: rerror is report, ignore, stop or enospc, not '%s'",
				   disk->path, value);
	replace(&disk->rerror, value);
	return true;
}

static bool apply_allow(struct vm_disk *disk, const char *value, GError **err)
{
	unsigned n = 0;

	while (n < VM_MAX_ALLOW && disk->allow[n])
		n++;
	if (!*value || n == VM_MAX_ALLOW)
		return config_fail(err, "--disk %s: allow is a folder or a server's name, up to %u times, "
					"not '%s'", disk->path, VM_MAX_ALLOW, value);
	disk->allow[n] = g_strdup(value);
	return true;
}

static bool apply_cache_file(struct vm_disk *disk, const char *value, GError **err)
{
	if (!*value)
		return config_fail(err, "--disk %s: cache-file names no file", disk->path);
	replace(&disk->cache_file, value);
	return true;
}

static bool apply_cache_size(struct vm_disk *disk, const char *value, GError **err)
{
	g_autoptr(GError) why = NULL;

	return size_parse(value, 1, &disk->cache_bytes, &why) ||
	       config_fail(err, "--disk %s: cache-size: %s", disk->path, why->message);
}

static bool apply_reconnect(struct vm_disk *disk, const char *value, GError **err)
{
	guint64 n;

	if (!g_ascii_string_to_unsigned(value, 10, 0, MAX_RECONNECT_S, &n, NULL))
		return config_fail(err, "--disk %s: reconnect-delay is a number of seconds, 0 to %u, not '%s'",
				   disk->path, MAX_RECONNECT_S, value);
	disk->reconnect_s = (unsigned)n;
	return true;
}

static bool apply_cow(struct vm_disk *disk, const char *value, GError **err)
{
	(void)err;
	disk->cow = true;
	g_clear_pointer(&disk->cow_file, g_free);
	if (*value)
		disk->cow_file = g_strdup(value);
	return true;
}

static const struct key keys[] = {
	{ "format", "=F", apply_format },
	{ "cache", "=C", apply_cache },
	{ "readonly", "", apply_readonly },
	{ "serial", "=S", apply_serial },
	{ "queues", "=N", apply_queues },
	{ "iothread", "=NAME", apply_iothread },
	{ "block-size", "=512|4096", apply_block },
	{ "bus", "=virtio|scsi", apply_bus },
	{ "lun", "=N", apply_lun },
	{ "media", "=disk|cdrom", apply_media },
	{ "werror", "=E", apply_werror },
	{ "rerror", "=E", apply_rerror },
	{ "cow", "[=FILE]", apply_cow },
	{ "allow", "=PLACE", apply_allow },
	{ "cache-file", "=FILE", apply_cache_file },
	{ "cache-size", "=SIZE", apply_cache_size },
	{ "reconnect-delay", "=S", apply_reconnect },
};

static bool apply_item(struct vm_disk *disk, const char *item, GError **err)
{
	g_autoptr(GString) known = g_string_new(NULL);
	bool is_limit;

	if (config_apply_limit(disk, item, &is_limit, err))
		return true;
	if (is_limit)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const char *value = key_value(item, keys[i].name);

		if (value)
			return keys[i].apply(disk, value, err);
		g_string_append_printf(known, "%s%s%s", i ? ", " : "", keys[i].name, keys[i].value);
	}
	return config_fail(err,
			   "--disk %s: unknown '%s', known are: %s, bps..., iops... (a comma in a file name is "
			   "written twice)",
			   disk->path, item, known->str);
}

bool config_apply_disk(struct vm_config *c, const char *value, GError **err)
{
	g_auto(GStrv) items = list_split(value);
	struct vm_disk *disk = &c->disks[c->disk_count];

	if (c->disk_count == VM_MAX_DISKS)
		return config_fail(err, "--disk %s: more than %u disks", value, VM_MAX_DISKS);
	if (!*items[0])
		return config_fail(err, "--disk: '%s' names no file", value);
	disk->path = g_strdup(items[0]);
	c->disk_count++;
	for (char **item = items + 1; *item; item++)
		if (!apply_item(disk, *item, err))
			return false;
	if (disk->cdrom) /* nothing else has a drive, and nobody writes in it */
		disk->scsi = disk->readonly = true;
	return true;
}

static bool validate_names(const struct vm_disk *d, GError **err)
{
	enum disk_cache cache;

	if (d->format && !disk_form_is_known(d->format)) {
		g_autofree char *known = disk_form_names();

		return config_fail(err, "--disk %s: unknown format '%s', known are: %s", d->path,
				   d->format, known);
	}
	if (d->cache && !disk_cache_parse(d->cache, &cache))
		return config_fail(err, "--disk %s: unknown cache '%s', known are: " DISK_CACHE_NAMES,
				   d->path, d->cache);
	return true;
}

/* The file of that name. */
static bool only_reads(const struct vm_disk *d)
{
	return d->readonly || d->cow;
}

static bool validate_beside(const struct vm_disk *d, const struct vm_disk *other, GError **err)
{
	/* Each has memory of its own. */
	bool alone = g_str_has_prefix(d->path, "scratch:");

	if (!strcmp(d->path, other->path) && !alone && !(only_reads(d) && only_reads(other)))
		return config_fail(err, "--disk %s: given twice and not readonly", d->path);
	if (d->serial && other->serial && !strcmp(d->serial, other->serial))
		return config_fail(err, "--disk %s: serial '%s' is that of %s", d->path, d->serial,
				   other->path);
	return true;
}

static bool same_controller(const struct vm_disk *a, const struct vm_disk *b)
{
	return a->scsi && b->scsi && !g_strcmp0(a->iothread, b->iothread);
}

static bool validate_bus(const struct vm_config *c, unsigned index, GError **err)
{
	const struct vm_disk *d = &c->disks[index];

	if (d->cow && d->readonly)
		return config_fail(err, "--disk %s: cow is for what is written, and readonly lets nobody write",
				   d->path);
	if (d->has_lun && !d->scsi)
		return config_fail(err, "--disk %s: lun belongs to bus=scsi", d->path);
	if (d->cdrom && d->block_bytes)
		return config_fail(err, "--disk %s: block-size belongs to a disk, a drive has 2048",
				   d->path);
	for (unsigned i = 0; d->has_lun && i < index; i++)
		if (same_controller(d, &c->disks[i]) && c->disks[i].has_lun &&
		    c->disks[i].lun == d->lun)
			return config_fail(err, "--disk %s: lun %u is that of %s", d->path, d->lun,
					   c->disks[i].path);
	return true;
}

static bool is_taken(const struct vm_config *c, unsigned index, unsigned lun)
{
	for (unsigned i = 0; i < c->disk_count; i++)
		if (i != index && same_controller(&c->disks[i], &c->disks[index]) &&
		    (c->disks[i].has_lun || i < index) && c->disks[i].lun == lun)
			return true;
	return false;
}

bool config_validate_disks(struct vm_config *c, GError **err)
{
	for (unsigned i = 0; i < c->disk_count; i++) {
		if (!validate_names(&c->disks[i], err) || !validate_bus(c, i, err) ||
		    !config_validate_limits(&c->disks[i], err))
			return false;
		for (unsigned j = 0; j < i; j++)
			if (!validate_beside(&c->disks[i], &c->disks[j], err))
				return false;
	}
	for (unsigned i = 0; i < c->disk_count; i++) {
		struct vm_disk *d = &c->disks[i];

		if (d->scsi && !d->has_lun)
			for (d->lun = 0; is_taken(c, i, d->lun); d->lun++)
				;
	}
	return true;
}

void config_free_disk(struct vm_disk *disk)
{
	g_free(disk->path);
	g_free(disk->format);
	g_free(disk->cache);
	g_free(disk->serial);
	g_free(disk->werror);
	g_free(disk->rerror);
	g_free(disk->iothread);
	g_free(disk->cow_file);
	g_free(disk->cache_file);
	for (char **place = disk->allow; *place; place++)
		g_free(*place);
}
