// SPDX-License-Identifier: Apache-2.0
/*
 * config.c - fuzz target: bytes become the arguments of `sika run` and a line for the control socket.
 *
 * Whatever they are: no crash; a refusal is one sentence on one line; what is taken keeps its limits.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "config/config.h"
#include "input.h"

#define MAX_ARGS 24u

/* Pieces of values, so that more than the first letter is reached. */
static const char *const words[] = {
	",", "=", ":", "+", "-", "0", "1", "64", "65535", "18446744073709551616", "1G", "512M", "128K",
	"1T", "9999999999G", "user", "tap", "none", "forward", "tcp", "udp", "mac", "52:54:00:12:34:56",
	"[::1]", "127.0.0.1", "auto", "kvm", "bt", "irqchip=on", "interpret", "off=links+cross", "max",
	"host", "x86-64-v3", "avx2", "sse", "format", "raw", "readonly", "queues", "serial", "iothread", "block-size", "4096", "on", "off", "hugepages",
	"merge", "prealloc", "lock", "node", "stdio", "unix", "/", "\n", "\033[2J", "%s%n", "\xff",
};

static char *value_take(struct input *in)
{
	GString *value = g_string_new(NULL);
	unsigned parts = input_byte(in) % 12;

	while (parts--) {
		uint8_t b = input_byte(in);

		if (b < G_N_ELEMENTS(words) * 4)
			g_string_append(value, words[b / 4]);
		else if (b)
			g_string_append_c(value, (char)b);
	}
	return g_string_free(value, FALSE);
}

static char *argument_take(struct input *in)
{
	const struct vm_option *option;
	size_t count = 0;
	uint8_t b = input_byte(in);
	g_autofree char *value = NULL;

	while (vm_config_option(count))
		count++;
	option = vm_config_option(b % (count + 1));
	if (!option || b >= 0xf0)
		return value_take(in);
	if (b & 0x80 || !option->value)
		return g_strconcat("--", option->name, NULL);
	value = value_take(in);
	return g_strconcat("--", option->name, "=", value, NULL);
}

static void check_sentence(const GError *err)
{
	size_t len = err ? strlen(err->message) : 0;

	if (len < 8 || (err->message[len - 1] == '.' && strcmp(err->message + len - 3, "..."))) {
		g_printerr("%s\n", err ? err->message : "none");
		abort();
	}
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)err->message[i] < ' ' || err->message[i] == 0x7f)
			abort();
}

static void check_limits(const struct vm_config *c)
{
	if (c->cpus < 1 || c->cpus > VM_MAX_CPUS || c->memory < VM_MIN_MEMORY ||
	    c->memory > VM_MAX_MEMORY || c->memory % 4096 || c->disk_count > VM_MAX_DISKS ||
	    c->net_count > VM_MAX_NETS || !c->kernel || !c->name || !c->engine ||
	    !x86_cpu_base(c->cpu.base))
		abort();
	for (unsigned i = 0; i < c->net_count; i++)
		if (c->nets[i].forward_count > VM_MAX_FORWARDS)
			abort();
	for (unsigned i = 0; i < X86_CPUID_WORDS; i++)
		if (c->cpu.add[i] & c->cpu.drop[i])
			abort();
}

static void try_options(struct input *in)
{
	struct vm_config *config = vm_config_new();
	char *argv[MAX_ARGS + 1] = { NULL };
	g_autoptr(GError) err = NULL;
	unsigned argc = 0;

	if (input_byte(in) & 1)
		argv[argc++] = g_strdup("--kernel=k");
	while (!input_is_empty(in) && argc < MAX_ARGS)
		argv[argc++] = argument_take(in);
	if (!vm_config_parse(config, (int)argc, argv, &err) || !vm_config_validate(config, &err))
		check_sentence(err);
	else
		check_limits(config);
	vm_config_free(config);
	for (unsigned i = 0; i < argc; i++)
		g_free(argv[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	g_autofree char *line = g_strndup((const char *)data, size);
	struct input in = { data, size };
	GHashTable *object = json_parse_flat(line);

	if (object)
		g_hash_table_unref(object);
	try_options(&in);
	return 0;
}
