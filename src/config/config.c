// SPDX-License-Identifier: Apache-2.0
/* config.c - defaults, validation and the end of struct vm_config. */
#include "config/config.h"

#include <stdarg.h>
#include <string.h>

#include "base/units.h"
#include "config/config_int.h"

G_DEFINE_QUARK(vm - config - error, vm_config_error)

struct vm_config *vm_config_new(void)
{
	struct vm_config *c = g_new0(struct vm_config, 1);

	c->engine = g_strdup("auto");
	c->memory = GIB;
	c->cpus = 1;
	for (unsigned i = 0; i < VM_MAX_CPUS; i++)
		c->pins[i] = -1;
	c->mem_backing.node = -1;
	c->nets[0].kind = VM_NET_USER;
	c->net_count = 1;
	c->serial = VM_SERIAL_STDIO;
	return c;
}

void vm_config_free(struct vm_config *c)
{
	if (!c)
		return;
	for (unsigned i = 0; i < c->disk_count; i++)
		config_free_disk(&c->disks[i]);
	for (unsigned i = 0; i < c->net_count; i++) {
		g_free(c->nets[i].tap);
		for (unsigned j = 0; j < c->nets[i].forward_count; j++)
			g_free(c->nets[i].forwards[j].host_addr);
	}
	g_free(c->name);
	g_free(c->engine);
	g_free(c->bt.off);
	g_free(c->kernel);
	g_free(c->initrd);
	g_free(c->append);
	g_free(c->serial_path);
	g_free(c);
}

bool config_fail(GError **err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (err) {
		*err = g_error_new_valist(VM_CONFIG_ERROR, 0, fmt, ap);
		/* What the user gave stands in it; it is one line, and no command to a terminal. */
		for (char *p = (*err)->message; *p; p++)
			if ((unsigned char)*p < ' ' || *p == 0x7f)
				*p = '?';
	}
	va_end(ap);
	return false;
}

static bool validate_memory(const struct vm_config *c, GError **err)
{
	g_autofree char *given = size_format(c->memory);
	uint64_t page = c->mem_backing.hugepages ? 2 * MIB : 4 * KIB;

	if (c->memory < VM_MIN_MEMORY)
		return config_fail(err, "--memory: %s is too little, at least 1M is needed", given);
	if (c->memory > VM_MAX_MEMORY)
		return config_fail(err, "--memory: %s is too much, at most 1T is possible", given);
	if (c->memory % page)
		return config_fail(err,
				   "--memory: %" G_GUINT64_FORMAT " bytes are not a multiple of %s",
				   c->memory,
				   c->mem_backing.hugepages ? "2M, the size of a huge page"
							    : "4K, the size of a page");
	if (c->mem_backing.merge && c->mem_backing.hugepages)
		return config_fail(err,
				   "--mem-backing: 'merge' and 'hugepages' exclude each other: the "
				   "kernel merges small pages only");
	return true;
}

static bool validate_cpus(const struct vm_config *c, GError **err)
{
	if (c->cpus < 1 || c->cpus > VM_MAX_CPUS)
		return config_fail(err, "--cpus: %u is not between 1 and %u", c->cpus, VM_MAX_CPUS);
	for (unsigned i = c->cpus; i < VM_MAX_CPUS; i++)
		if (c->pins[i] >= 0)
			return config_fail(err, "--pin: there is no vCPU %u with --cpus %u", i,
					   c->cpus);
	return true;
}

/* The kernel takes its devices and root from the command line, which has a fixed buffer. */
static bool validate_boot(const struct vm_config *c, GError **err)
{
	if (!c->kernel)
		return config_fail(err, "--kernel is missing: say what to boot, for example the "
					"OUT.vmlinuz of 'sika image build debian OUT'");
	if (c->append && strlen(c->append) >= VM_CMDLINE_BYTES)
		return config_fail(err, "--append: %zu characters are too many, a kernel takes %u",
				   strlen(c->append), VM_CMDLINE_BYTES - 1);
	return true;
}

static const char *forward_addr(const struct vm_forward *f)
{
	return f->host_addr ? f->host_addr : "127.0.0.1";
}

static bool forwards_clash(const struct vm_forward *a, const struct vm_forward *b)
{
	return a->udp == b->udp && a->host_port == b->host_port &&
	       !strcmp(forward_addr(a), forward_addr(b));
}

static bool validate_forward(const struct vm_config *c, unsigned net, unsigned index, GError **err)
{
	const struct vm_forward *f = &c->nets[net].forwards[index];

	for (unsigned i = 0; i <= net; i++) {
		unsigned n = i == net ? index : c->nets[i].forward_count;

		for (unsigned j = 0; j < n; j++)
			if (forwards_clash(f, &c->nets[i].forwards[j]))
				return config_fail(err,
						   "--net: %s port %u of %s is forwarded twice",
						   f->udp ? "udp" : "tcp", f->host_port,
						   forward_addr(f));
	}
	return true;
}

static bool validate_nets(const struct vm_config *c, GError **err)
{
	for (unsigned i = 0; i < c->net_count; i++) {
		const struct vm_net *n = &c->nets[i];

		if (n->kind == VM_NET_TAP && n->forward_count)
			return config_fail(err,
					   "--net: 'forward' belongs to 'user', a tap has none");
		for (unsigned j = 0; j < n->forward_count; j++)
			if (!validate_forward(c, i, j, err))
				return false;
	}
	return true;
}

static bool validate_name(struct vm_config *c, GError **err)
{
	if (!c->name)
		c->name = g_strdup("sika");
	if (!*c->name || strlen(c->name) > 64)
		return config_fail(err, "--name: '%s' is not 1 to 64 characters long", c->name);
	for (const char *p = c->name; *p; p++)
		if (!g_ascii_isalnum(*p) && !strchr("-_.+", *p))
			return config_fail(err,
					   "--name: '%s' may hold letters, digits and -_.+ only",
					   c->name);
	return true;
}

bool vm_config_validate(struct vm_config *c, GError **err)
{
	return validate_boot(c, err) && validate_memory(c, err) && validate_cpus(c, err) &&
	       config_validate_engine(c, err) &&
	       validate_nets(c, err) && config_validate_disks(c, err) && validate_name(c, err);
}
