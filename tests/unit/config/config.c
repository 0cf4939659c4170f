// SPDX-License-Identifier: Apache-2.0
/* config.c - tests of src/config: what a command line becomes, and the sentence when it cannot. */
#include "config/config.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "disk/formats/formats.h"

/* Parse and validate a line split at blanks; NULL with *ret_text set to the complaint. */
static struct vm_config *parse(const char *line, char **ret_text)
{
	g_auto(GStrv) argv = *line ? g_strsplit(line, " ", -1) : g_new0(char *, 1);
	struct vm_config *c = vm_config_new();
	g_autoptr(GError) err = NULL;

	if (vm_config_parse(c, (int)g_strv_length(argv), argv, &err) &&
	    vm_config_validate(c, &err)) {
		ck_assert_ptr_null(err);
		return c;
	}
	ck_assert_ptr_nonnull(err);
	*ret_text = g_strdup(err->message);
	vm_config_free(c);
	return NULL;
}

static void layers(void)
{
	struct vm_config *c = parse("--kernel k --disk d,cow --disk d,cow=x --disk d,readonly "
				    "--disk scratch:1G --disk scratch:1G", NULL);

	ck_assert(c->disks[0].cow && !c->disks[0].cow_file);
	ck_assert(c->disks[1].cow && !g_strcmp0(c->disks[1].cow_file, "x"));
	vm_config_free(c);
}

/* Each name, and QEMU's for it. */
static void limits(void)
{
	struct vm_config *c = parse("--kernel k --disk a,bps=1M,bps-max=2M,bps-max-length=3,iops-rd=4,iops-wr=5,iops-wr-max=6,"
				    "iops-size=8K,allow=/x,allow=nbd://h/,cache-file=f,cache-size=1G,reconnect-delay=90 "
				    "--disk b,throttling.bps-read=7,throttling.bps-write-max=9,throttling.bps-write=8,"
				    "throttling.iops-total=10,throttling.iops-total-max=11,throttling.iops-size=512",
				    NULL);
	const struct vm_disk *a = &c->disks[0], *b = &c->disks[1];

	ck_assert(a->rates[VM_RATE_BYTES].avg == MIB && a->rates[VM_RATE_BYTES].max == 2 * MIB);
	ck_assert_uint_eq(a->rates[VM_RATE_BYTES].length_s, 3);
	ck_assert(a->rates[VM_RATE_OPS_READ].avg == 4 && a->rates[VM_RATE_OPS_WRITE].avg == 5);
	ck_assert(a->rates[VM_RATE_OPS_WRITE].max == 6 && a->op_bytes == 8192 && !a->rates[VM_RATE_OPS].avg);
	ck_assert_str_eq(a->allow[1], "nbd://h/");
	ck_assert_ptr_null(a->allow[2]);
	ck_assert(!g_strcmp0(a->cache_file, "f") && a->cache_bytes == GIB && !b->cache_file);
	ck_assert(a->reconnect_s == 90 && b->reconnect_s == 0);
	ck_assert(b->rates[VM_RATE_BYTES_READ].avg == 7 && b->rates[VM_RATE_BYTES_WRITE].avg == 8);
	ck_assert(b->rates[VM_RATE_BYTES_WRITE].max == 9 && b->rates[VM_RATE_OPS].avg == 10);
	ck_assert(b->rates[VM_RATE_OPS].max == 11 && b->op_bytes == 512);
	vm_config_free(c);
}

START_TEST(has_defaults)
{
	char *text = NULL;
	struct vm_config *c = parse("--kernel k", &text);

	ck_assert_msg(c != NULL, "%s", text);
	ck_assert_str_eq(c->name, "sika");
	ck_assert_str_eq(c->engine, "auto");
	ck_assert(!c->own_irqchip);
	ck_assert(c->memory == GIB && c->cpus == 1 && c->disk_count == 0);
	ck_assert(c->net_count == 1 && c->nets[0].kind == VM_NET_USER);
	ck_assert(c->serial == VM_SERIAL_STDIO && c->pins[0] == -1 && c->mem_backing.node == -1);
	vm_config_free(c);
}
END_TEST

START_TEST(numbers_scsi_units)
{
	char *text = NULL;
	struct vm_config *c = parse("--kernel=k --disk a,bus=scsi --disk b,media=cdrom,lun=1 "
				    "--disk c,bus=scsi --disk d,bus=scsi,iothread=x --disk e,bus=scsi,lun=0,iothread=y "
				    "--disk f,bus=scsi",
				    &text);
	static const unsigned luns[] = { 0, 1, 2, 0, 0, 3 };

	ck_assert_msg(c != NULL, "%s", text);
	for (unsigned i = 0; i < 6; i++)
		ck_assert_uint_eq(c->disks[i].lun, luns[i]);
	ck_assert(c->disks[1].cdrom && c->disks[1].scsi && c->disks[1].readonly);
	vm_config_free(c);
}
END_TEST

START_TEST(takes_every_option)
{
	char *text = NULL;
	struct vm_config *c = parse(
		"--kernel=k --initrd i --append=a=b --disk d,format=raw,readonly,cache=none --disk=e,,f,serial=S-1.x,queues=16,iothread=fast,block-size=4096 "
		"--memory 512M --cpus=2 --pin 0=1,1=0 --mem-backing prealloc,merge,lock,node=1 "
		"--net "
		"user,forward=tcp:2222:22,forward=udp:127.0.0.2:53:5353,mac=52:54:00:0a:bC:01 "
		"--net tap=tap0 --cpu x86-64-v2,+avx,-popcnt --engine kvm,irqchip=off --serial unix:/s --debug-exit --name n-1 --no-reboot",
		&text);

	ck_assert_msg(c != NULL, "%s", text);
	ck_assert_str_eq(c->kernel, "k");
	ck_assert_str_eq(c->initrd, "i");
	ck_assert_str_eq(c->append, "a=b");
	ck_assert_uint_eq(c->disk_count, 2);
	ck_assert_str_eq(c->disks[0].path, "d");
	ck_assert_str_eq(c->disks[0].format, "raw");
	ck_assert(c->disks[0].readonly && !c->disks[1].readonly);
	ck_assert_str_eq(c->disks[0].cache, "none");
	ck_assert_ptr_null(c->disks[1].cache);
	ck_assert_str_eq(c->disks[1].path, "e,f");
	ck_assert_str_eq(c->disks[1].serial, "S-1.x");
	ck_assert_str_eq(c->disks[1].iothread, "fast");
	ck_assert(c->disks[1].queues == 16 && c->disks[1].block_bytes == 4096);
	limits();
	layers();
	ck_assert(!c->disks[0].serial && !c->disks[0].iothread && !c->disks[0].queues);
	ck_assert(c->memory == 512 * MIB && c->cpus == 2);
	ck_assert(c->pins[0] == 1 && c->pins[1] == 0 && c->pins[2] == -1);
	ck_assert(c->mem_backing.prealloc && c->mem_backing.merge && c->mem_backing.lock);
	ck_assert(!c->mem_backing.hugepages && c->mem_backing.node == 1);
	ck_assert_uint_eq(c->net_count, 2);
	ck_assert_uint_eq(c->nets[0].forward_count, 2);
	ck_assert(!c->nets[0].forwards[0].udp && c->nets[0].forwards[0].host_port == 2222);
	ck_assert(!c->nets[0].forwards[0].host_addr && c->nets[0].forwards[0].guest_port == 22);
	ck_assert(c->nets[0].forwards[1].udp);
	ck_assert_str_eq(c->nets[0].forwards[1].host_addr, "127.0.0.2");
	ck_assert(c->nets[0].has_mac && c->nets[0].mac[4] == 0xbc);
	ck_assert(c->nets[1].kind == VM_NET_TAP);
	ck_assert_str_eq(c->nets[1].tap, "tap0");
	ck_assert_str_eq(c->engine, "kvm");
	ck_assert_str_eq(x86_cpu_base(c->cpu.base)->name, "x86-64-v2");
	ck_assert_uint_eq(c->cpu.add[X86_CPUID_1_ECX] >> 28 & 1, 1);
	ck_assert_uint_eq(c->cpu.drop[X86_CPUID_1_ECX] >> 23 & 1, 1);
	ck_assert(c->own_irqchip);
	ck_assert(c->serial == VM_SERIAL_UNIX);
	ck_assert_str_eq(c->serial_path, "/s");
	ck_assert(c->debug_exit && c->no_reboot);
	vm_config_free(c);
}
END_TEST

static void takes_format(const char *name)
{
	g_autofree char *line = g_strdup_printf("--kernel k --disk d,format=%s", name);
	char *text = NULL;
	struct vm_config *c = parse(line, &text);

	ck_assert_msg(c != NULL, "%s", text);
	ck_assert_str_eq(c->disks[0].format, name);
	vm_config_free(c);
}

/* Also by its other name. */
START_TEST(takes_every_format)
{
	takes_format("raw");
	takes_format("qcow2");
	for (const struct disk_form *f = disk_forms; f->name; f++) {
		takes_format(f->name);
		if (f->alias)
			takes_format(f->alias);
	}
}
END_TEST

START_TEST(takes_none_and_edge_values)
{
	char *text = NULL;
	struct vm_config *c =
		parse("--kernel k --net none --serial none --append  --memory 64", &text);

	ck_assert_msg(c != NULL, "%s", text);
	ck_assert(c->net_count == 0 && c->serial == VM_SERIAL_NONE);
	ck_assert_str_eq(c->append, "");
	ck_assert(c->memory == 64 * MIB);
	vm_config_free(c);
	c = parse("--kernel k --net user,forward=tcp:[::1]:80:80 --cpus 64 --pin 63=0", &text);
	ck_assert_msg(c != NULL, "%s", text);
	ck_assert_str_eq(c->nets[0].forwards[0].host_addr, "::1");
	vm_config_free(c);
}
END_TEST

/* A line and what its complaint must name. */
static const struct {
	const char *line, *names;
} refused[] = {
	{ "", "--kernel" },
	{ "--kernel", "--kernel" },
	{ "--kernel=", "--kernel" },
	{ "k", "'k'" },
	{ "--kernel k --", "'--'" },
	{ "--kernel k --colour", "'--colour'" },
	{ "--kernel k --debug-exit=1", "'1'" },
	{ "--kernel k --memory lots", "lots" },
	{ "--kernel k --memory 4K", "--memory" },
	{ "--kernel k --memory 2T", "--memory" },
	{ "--kernel k --memory 0.3M", "--memory" },
	{ "--kernel k --memory -1", "-1" },
	{ "--kernel k --memory 513M --mem-backing hugepages", "huge page" },
	{ "--kernel k --cpus 0", "'0'" },
	{ "--kernel k --cpus 65", "'65'" },
	{ "--kernel k --cpus two", "'two'" },
	{ "--kernel k --cpus 99999999999999999999", "'9999" },
	{ "--kernel k --pin 0", "'0'" },
	{ "--kernel k --pin 0=x", "'0=x'" },
	{ "--kernel k --pin 1=0", "vCPU 1" },
	{ "--kernel k --mem-backing big", "'big'" },
	{ "--kernel k --mem-backing node=", "'node='" },
	{ "--kernel k --mem-backing merge,hugepages", "exclude" },
	{ "--kernel k --disk ,readonly", "',readonly'" },
	{ "--kernel k --disk d,colour=red", "'colour=red'" },
	{ "--kernel k --disk d,format=", "'format='" },
	{ "--kernel k --disk d,format=qcow9", "'qcow9'" },
	{ "--kernel k --disk d,cache=", "''" },
	{ "--kernel k --disk d,cache=often", "'often'" },
	{ "--kernel k --disk d,readonly=maybe", "'maybe'" },
	{ "--kernel k --disk d --disk d", "twice" },
	{ "--kernel k --disk d,serial=", "''" },
	{ "--kernel k --disk d,serial=123456789012345678901", "'123456789012345678901'" },
	{ "--kernel k --disk d,serial=a/b", "'a/b'" },
	{ "--kernel k --disk d,serial=a --disk e,serial=a", "'a'" },
	{ "--kernel k --disk d,queues=0", "'0'" },
	{ "--kernel k --disk d,queues=17", "'17'" },
	{ "--kernel k --disk d,iothread=", "''" },
	{ "--kernel k --disk d,iothread=thirteen-long", "'thirteen-long'" },
	{ "--kernel k --disk d,block-size=1024", "'1024'" },
	{ "--kernel k --disk d,bus=ide", "'ide'" },
	{ "--kernel k --disk d,werror=panic", "'panic'" },
	{ "--kernel k --disk d,rerror=", "''" },
	{ "--kernel k --disk d,bus=scsi,lun=256", "'256'" },
	{ "--kernel k --disk d,lun=1", "bus=scsi" },
	{ "--kernel k --disk d,bus=scsi,lun=1 --disk e,bus=scsi,lun=1", "lun 1" },
	{ "--kernel k --disk d,media=tape", "'tape'" },
	{ "--kernel k --disk d,bps=", "bps=" },
	{ "--kernel k --disk d,bps=0", "bps=0" },
	{ "--kernel k --disk d,bps=2000T", "bps=2000T" },
	{ "--kernel k --disk d,iops=x", "iops=x" },
	{ "--kernel k --disk d,iops-rd-max=5", "missing" },
	{ "--kernel k --disk d,iops=10,iops-max=5", "less" },
	{ "--kernel k --disk d,iops=10,iops-max-length=5", "missing" },
	{ "--kernel k --disk d,iops=10,iops-max=20,iops-max-length=100000", "86400" },
	{ "--kernel k --disk d,bps=1M,bps-wr=1M", "excludes" },
	{ "--kernel k --disk d,iops-size=4K", "belongs" },
	{ "--kernel k --disk d,iops=5,iops-size=1", "512" },
	{ "--kernel k --disk d,bps-xx=1", "'bps-xx=1'" },
	{ "--kernel k --disk d,iops-max-lengthy=1", "'iops-max-lengthy=1'" },
	{ "--kernel k --disk d,allow=", "allow" },
	{ "--kernel k --disk d,cow,readonly", "readonly" },
	{ "--kernel k --disk d,cow --disk d", "twice" },
	{ "--kernel k --disk d,cache-file=", "cache-file" },
	{ "--kernel k --disk d,cache-size=x", "cache-size" },
	{ "--kernel k --disk d,reconnect-delay=86401", "86401" },
	{ "--kernel k --disk d,reconnect-delay=", "reconnect-delay" },
	{ "--kernel k --disk d,media=cdrom,block-size=512", "2048" },
	{ "--kernel k --net wifi", "'wifi'" },
	{ "--kernel k --net tap=", "'tap='" },
	{ "--kernel k --net tap=abcdefghijklmnop", "'tap=abcdefghijklmnop'" },
	{ "--kernel k --net tap=t,forward=tcp:1:1", "forward" },
	{ "--kernel k --net user,forward=tcp:1", "'forward=tcp:1'" },
	{ "--kernel k --net user,forward=sctp:1:1", "sctp" },
	{ "--kernel k --net user,forward=tcp:0:1", "tcp:0:1" },
	{ "--kernel k --net user,forward=tcp:1:65536", "65536" },
	{ "--kernel k --net user,forward=tcp:host:1:1", "host" },
	{ "--kernel k --net user,forward=tcp:1:1,forward=tcp:127.0.0.1:1:2", "twice" },
	{ "--kernel k --net user,mac=01:00:00:00:00:00", "mac=01" },
	{ "--kernel k --net user,mac=52:54:00:12:34", "mac=52" },
	{ "--kernel k --net none --net user", "'none'" },
	{ "--kernel k --net user --net none", "'none'" },
	{ "--kernel k --engine qemu", "'qemu'" },
	{ "--kernel k --cpu i386", "'i386'" },
	{ "--kernel k --cpu max,", "''" },
	{ "--kernel k --cpu max,sse", "'sse'" },
	{ "--kernel k --cpu max,+", "no flag ''" },
	{ "--kernel k --cpu host,-sse5", "'sse5'" },
	{ "--kernel k --engine kvm,irqchip=maybe", "'irqchip=maybe'" },
	{ "--kernel k --engine bt,off=", "'off='" },
	{ "--kernel k --engine kvm,off=links", "'off'" },
	{ "--kernel k --engine auto,interpret", "'interpret'" },
	{ "--kernel k --bt-cache 64K", "'64K'" },
	{ "--kernel k --bt-cache 2G", "'2G'" },
	{ "--kernel k --bt-cache many", "'many'" },
	{ "--kernel k --bt-cache 1M --engine kvm", "kvm" },
	{ "--kernel k --perf-map --engine kvm", "kvm" },
	{ "--kernel k --bt-count", "--bt-count" },
	{ "--kernel k --engine auto,deterministic", "'deterministic'" },
	{ "--kernel k --engine bt,deterministic --cpus 2", "'deterministic'" },
	{ "--kernel k --engine kvm,speed=2", "'speed=2'" },
	{ "--kernel k --serial unix:", "'unix:'" },
	{ "--kernel k --name a/b", "'a/b'" },
};

START_TEST(refuses_with_one_sentence)
{
	char *text = NULL;
	struct vm_config *c = parse(refused[_i].line, &text);

	ck_assert_msg(c == NULL, "accepted: %s", refused[_i].line);
	ck_assert_msg(strstr(text, refused[_i].names) != NULL, "'%s' does not name %s", text,
		      refused[_i].names);
	ck_assert_msg(!strchr(text, '\n'), "%s", text);
	g_free(text);
}
END_TEST

START_TEST(refuses_too_many)
{
	GString *line = g_string_new("--kernel k");
	char *text = NULL;

	for (unsigned i = 0; i <= VM_MAX_DISKS; i++)
		g_string_append_printf(line, " --disk d%u", i);
	ck_assert_ptr_null(parse(line->str, &text));
	ck_assert_ptr_nonnull(strstr(text, "d16"));
	g_free(text);
	g_string_assign(line, "--kernel k");
	for (unsigned i = 0; i <= VM_MAX_NETS; i++)
		g_string_append(line, " --net user");
	ck_assert_ptr_null(parse(line->str, &text));
	g_free(text);
	g_string_assign(line, "--kernel k --append ");
	for (unsigned i = 0; i < VM_CMDLINE_BYTES; i++)
		g_string_append_c(line, 'x');
	ck_assert_ptr_null(parse(line->str, &text));
	ck_assert_ptr_nonnull(strstr(text, "--append"));
	g_free(text);
	g_string_free(line, TRUE);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("config");
	TCase *t = tcase_create("options");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_test(t, has_defaults);
	tcase_add_test(t, takes_every_option);
	tcase_add_test(t, takes_every_format);
	tcase_add_test(t, numbers_scsi_units);
	tcase_add_test(t, takes_none_and_edge_values);
	tcase_add_loop_test(t, refuses_with_one_sentence, 0, G_N_ELEMENTS(refused));
	tcase_add_test(t, refuses_too_many);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
