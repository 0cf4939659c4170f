// SPDX-License-Identifier: Apache-2.0
/* options.c - the command line of `sika run` as a door to struct vm_config: one table row each. */
#include "config/config.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <string.h>

#include "base/bits.h"
#include "base/units.h"
#include "config/config_int.h"

struct option {
	struct vm_option pub;
	bool (*apply)(struct vm_config *c, const char *value, GError **err);
};

/* What a parse must remember that the configuration does not. */
struct parse {
	bool nets_given;
	bool net_none;
};

bool number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	return *text && g_ascii_string_to_unsigned(text, 10, min, max, ret, NULL);
}

char **list_split(const char *text)
{
	g_autoptr(GPtrArray) parts = g_ptr_array_new();
	GString *part = g_string_new(NULL);

	for (const char *p = text; *p; p++) {
		if (*p != ',') {
			g_string_append_c(part, *p);
		} else if (p[1] == ',') {
			g_string_append_c(part, *p++);
		} else {
			g_ptr_array_add(parts, g_string_free(part, FALSE));
			part = g_string_new(NULL);
		}
	}
	g_ptr_array_add(parts, g_string_free(part, FALSE));
	g_ptr_array_add(parts, NULL);
	return (char **)g_ptr_array_free(g_steal_pointer(&parts), FALSE);
}

const char *key_value(const char *item, const char *key)
{
	size_t n = strlen(key);

	if (strncmp(item, key, n))
		return NULL;
	if (!item[n])
		return "";
	return item[n] == '=' ? item + n + 1 : NULL;
}

static void replace(char **field, const char *value)
{
	g_free(*field);
	*field = g_strdup(value);
}

static bool apply_kernel(struct vm_config *c, const char *value, GError **err)
{
	replace(&c->kernel, value);
	return true;
}

static bool apply_initrd(struct vm_config *c, const char *value, GError **err)
{
	replace(&c->initrd, value);
	return true;
}

static bool apply_append(struct vm_config *c, const char *value, GError **err)
{
	replace(&c->append, value);
	return true;
}

static bool apply_name(struct vm_config *c, const char *value, GError **err)
{
	replace(&c->name, value);
	return true;
}

static bool apply_memory(struct vm_config *c, const char *value, GError **err)
{
	g_autoptr(GError) why = NULL;

	if (!size_parse(value, MIB, &c->memory, &why))
		return config_fail(err, "--memory: %s", why->message);
	return true;
}

static bool apply_cpus(struct vm_config *c, const char *value, GError **err)
{
	uint64_t n;

	if (!number_parse(value, 1, VM_MAX_CPUS, &n))
		return config_fail(err, "--cpus: '%s' is not a number from 1 to %u", value,
				   VM_MAX_CPUS);
	c->cpus = (unsigned)n;
	return true;
}

static bool apply_pin(struct vm_config *c, const char *value, GError **err)
{
	g_auto(GStrv) items = list_split(value);

	for (char **item = items; *item; item++) {
		char *eq = strchr(*item, '=');
		uint64_t vcpu, cpu;

		if (eq)
			*eq = 0;
		if (!eq || !number_parse(*item, 0, VM_MAX_CPUS - 1, &vcpu) ||
		    !number_parse(eq + 1, 0, 8191, &cpu)) {
			if (eq)
				*eq = '=';
			return config_fail(err, "--pin: '%s' is not VCPU=HOSTCPU, for example 0=2",
					   *item);
		}
		c->pins[vcpu] = (int)cpu;
	}
	return true;
}

static bool apply_mem_backing(struct vm_config *c, const char *value, GError **err)
{
	g_auto(GStrv) items = list_split(value);

	for (char **item = items; *item; item++) {
		const char *v = key_value(*item, "node");
		uint64_t node;

		if (!strcmp(*item, "hugepages"))
			c->mem_backing.hugepages = true;
		else if (!strcmp(*item, "prealloc"))
			c->mem_backing.prealloc = true;
		else if (!strcmp(*item, "merge"))
			c->mem_backing.merge = true;
		else if (!strcmp(*item, "lock"))
			c->mem_backing.lock = true;
		else if (v && number_parse(v, 0, 1023, &node))
			c->mem_backing.node = (int)node;
		else if (v)
			return config_fail(
				err, "--mem-backing: '%s' does not name a NUMA node, as node=0",
				*item);
		else
			return config_fail(
				err,
				"--mem-backing: '%s' is none of hugepages, prealloc, merge, "
				"lock, node=N",
				*item);
	}
	return true;
}

static bool is_ip_address(const char *text)
{
	uint8_t addr[16];

	return inet_pton(AF_INET, text, addr) == 1 || inet_pton(AF_INET6, text, addr) == 1;
}

/* PROTO:[HOSTADDR:]HOSTPORT:GUESTPORT, an IPv6 address in brackets. */
static bool forward_parse(const char *text, struct vm_forward *ret)
{
	g_autofree char *copy = g_strdup(text);
	char *proto = copy, *rest, *guest, *host;
	uint64_t hp, gp;

	if (!(rest = strchr(proto, ':')) || !(guest = strrchr(rest + 1, ':')))
		return false;
	*rest++ = 0;
	*guest++ = 0;
	if (strcmp(proto, "tcp") && strcmp(proto, "udp"))
		return false;
	host = strrchr(rest, ':');
	if (!number_parse(host ? host + 1 : rest, 1, 65535, &hp) ||
	    !number_parse(guest, 1, 65535, &gp))
		return false;
	if (host) {
		size_t n = (size_t)(host - rest);

		if (n >= 2 && rest[0] == '[' && rest[n - 1] == ']')
			rest++, n -= 2;
		g_autofree char *addr = g_strndup(rest, n);

		if (!is_ip_address(addr))
			return false;
		ret->host_addr = g_steal_pointer(&addr);
	}
	ret->udp = proto[0] == 'u';
	ret->host_port = (uint16_t)hp;
	ret->guest_port = (uint16_t)gp;
	return true;
}

static bool mac_parse(const char *text, uint8_t mac[6])
{
	for (unsigned i = 0; i < 6; i++, text += 3) {
		int hi = g_ascii_xdigit_value(text[0]);
		int lo = hi < 0 ? -1 : g_ascii_xdigit_value(text[1]);

		if (lo < 0 || text[2] != (i < 5 ? ':' : 0))
			return false;
		mac[i] = (uint8_t)(hi << 4 | lo);
	}
	return !(mac[0] & 1); /* a group address is nobody's own */
}

static bool net_item(struct vm_net *net, const char *item, GError **err)
{
	const char *v;

	if ((v = key_value(item, "forward"))) {
		if (net->forward_count == VM_MAX_FORWARDS)
			return config_fail(err, "--net: '%s' is more than %u forwards", item,
					   VM_MAX_FORWARDS);
		if (!forward_parse(v, &net->forwards[net->forward_count]))
			return config_fail(err,
					   "--net: '%s' is not forward=tcp|udp:[ADDRESS:]HOSTPORT:"
					   "GUESTPORT, for example forward=tcp:2222:22",
					   item);
		net->forward_count++;
	} else if ((v = key_value(item, "mac"))) {
		if (!mac_parse(v, net->mac))
			return config_fail(err,
					   "--net: '%s' is not the address of one card, as "
					   "mac=52:54:00:12:34:56",
					   item);
		net->has_mac = true;
	} else {
		return config_fail(
			err,
			"--net: unknown '%s', known are: forward=tcp:HOSTPORT:GUESTPORT, "
			"mac=ADDRESS",
			item);
	}
	return true;
}

static bool net_kind(struct vm_net *net, const char *item, GError **err)
{
	const char *tap = key_value(item, "tap");

	if (!strcmp(item, "user")) {
		net->kind = VM_NET_USER;
		return true;
	}
	if (!tap)
		return config_fail(err, "--net: '%s' is none of user, tap=NAME, none", item);
	if (!*tap || strlen(tap) >= IFNAMSIZ || strchr(tap, '/'))
		return config_fail(err, "--net: '%s' does not name a network interface", item);
	net->kind = VM_NET_TAP;
	net->tap = g_strdup(tap);
	return true;
}

static bool apply_net(struct vm_config *c, const char *value, GError **err)
{
	g_auto(GStrv) items = list_split(value);
	struct vm_net *net;

	if (!strcmp(value, "none"))
		return true; /* vm_config_parse() minds it */
	if (c->net_count == VM_MAX_NETS)
		return config_fail(err, "--net %s: more than %u networks", value, VM_MAX_NETS);
	net = &c->nets[c->net_count++];
	if (!net_kind(net, items[0], err))
		return false;
	for (char **item = items + 1; *item; item++)
		if (!net_item(net, *item, err))
			return false;
	return true;
}

static bool apply_serial(struct vm_config *c, const char *value, GError **err)
{
	const char *path = NULL;

	if (!strcmp(value, "stdio")) {
		c->serial = VM_SERIAL_STDIO;
	} else if (!strcmp(value, "none")) {
		c->serial = VM_SERIAL_NONE;
	} else if (g_str_has_prefix(value, "unix:")) {
		c->serial = VM_SERIAL_UNIX;
		path = value + strlen("unix:");
	} else {
		c->serial = VM_SERIAL_FILE;
		path = value;
	}
	if (path && !*path)
		return config_fail(
			err, "--serial: '%s' names no file, give stdio, FILE, unix:PATH or none",
			value);
	/* sockaddr_un.sun_path */
	if (c->serial == VM_SERIAL_UNIX && strlen(path) > 107)
		return config_fail(
			err, "--serial: '%s' is longer than the 107 bytes a socket's path may have",
			value);
	replace(&c->serial_path, path);
	return true;
}

static bool apply_debug_exit(struct vm_config *c, const char *value, GError **err)
{
	c->debug_exit = true;
	return true;
}

static bool apply_no_reboot(struct vm_config *c, const char *value, GError **err)
{
	c->no_reboot = true;
	return true;
}

static const struct option options[] = {
	{ { "kernel", "FILE", "bzImage, or ELF by PVH or multiboot" }, apply_kernel },
	{ { "initrd", "FILE", "initial RAM disk" }, apply_initrd },
	{ { "append", "STRING", "kernel command line" }, apply_append },
	{ { "disk", "FILE[,format=F][,cache=C]...", "virtio disk; again for more" },
	  config_apply_disk },
	{ { "memory", "SIZE", "RAM, as 512M or 4G (default 1G)" }, apply_memory },
	{ { "cpu", "MODEL[,+FLAG,-FLAG]", "max, host, x86-64-v2...; help: all" },
	  config_apply_cpu },
	{ { "cpus", "N", "virtual CPUs, 1 to 64 (default 1)" }, apply_cpus },
	{ { "pin", "VCPU=HOSTCPU,...", "keep vCPUs on host CPUs" }, apply_pin },
	{ { "mem-backing", "KIND,...", "hugepages, prealloc, merge, lock, node=N" },
	  apply_mem_backing },
	{ { "net", "user[,forward=tcp:2222:22]", "or tap=NAME, none (default user)" }, apply_net },
	{ { "engine", "auto|kvm|bt[,irqchip=off]", "what runs the CPUs (default auto)" },
	  config_apply_engine },
	{ { "bt-cache", "SIZE", "for code that bt translates" }, config_apply_bt_cache },
	{ { "bt-count", NULL, "count instructions, tell at the end" }, config_apply_bt_count },
	{ { "perf-map", NULL, "tell perf whose code bt translated" }, config_apply_perf_map },
	{ { "serial", "stdio|FILE|unix:PATH|none", "first serial port (default stdio)" },
	  apply_serial },
	{ { "debug-exit", NULL, "guest's write to port 0xf4 ends it" }, apply_debug_exit },
	{ { "name", "NAME", "name of the machine" }, apply_name },
	{ { "no-reboot", NULL, "a reset by the guest ends the machine" }, apply_no_reboot },
};

const struct vm_option *vm_config_option(size_t i)
{
	return i < ARRAY_SIZE(options) ? &options[i].pub : NULL;
}

static const struct option *option_find(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (strlen(options[i].pub.name) == len && !strncmp(options[i].pub.name, name, len))
			return &options[i];
	return NULL;
}

/* The default network stands only while none is named. */
static bool note_net(struct vm_config *c, struct parse *p, const char *value, GError **err)
{
	bool none = !strcmp(value, "none");

	if (p->nets_given && (none || p->net_none))
		return config_fail(err, "--net: 'none' excludes every other --net");
	if (!p->nets_given)
		c->net_count = 0;
	p->nets_given = true;
	p->net_none = none;
	return true;
}

/* Handle argv[*i], and its value where it has one. */
static bool parse_one(struct vm_config *c, struct parse *p, int argc, char **argv, int *i,
		      GError **err)
{
	const char *arg = argv[*i], *eq, *value = NULL;
	const struct option *o;
	size_t len;

	if (strncmp(arg, "--", 2) || !arg[2])
		return config_fail(err, "unexpected argument '%s'; see 'sika run --help'", arg);
	eq = strchr(arg, '=');
	len = eq ? (size_t)(eq - arg) - 2 : strlen(arg) - 2;
	o = option_find(arg + 2, len);
	if (!o)
		return config_fail(err, "unknown option '%.*s'; see 'sika run --help'",
				   (int)len + 2, arg);
	if (!o->pub.value && eq)
		return config_fail(err, "--%s takes no value, '%s' was given", o->pub.name, eq + 1);
	if (o->pub.value) {
		value = eq ? eq + 1 : *i + 1 < argc ? argv[++*i] : NULL;
		if (!value)
			return config_fail(err, "--%s needs a value: %s", o->pub.name,
					   o->pub.value);
		/* An empty command line is a command line; an empty anything else is a slip. */
		if (!*value && strcmp(o->pub.name, "append"))
			return config_fail(err, "--%s: the value is empty, %s is expected",
					   o->pub.name, o->pub.value);
	}
	if (value && !strcmp(o->pub.name, "net") && !note_net(c, p, value, err))
		return false;
	return o->apply(c, value, err);
}

bool vm_config_parse(struct vm_config *c, int argc, char **argv, GError **err)
{
	struct parse p = { 0 };

	for (int i = 0; i < argc; i++)
		if (!parse_one(c, &p, argc, argv, &i, err))
			return false;
	return true;
}
