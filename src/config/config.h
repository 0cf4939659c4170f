// SPDX-License-Identifier: Apache-2.0
/*
 * config.h - struct vm_config: plain data, the only way into a machine.
 *
 * The command line is one door to it; configuration files, libvirt XML and the daemon are to be
 * others. vm_config_validate() is a pure function: it looks at nothing but the struct.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/model.h"

#define VM_MAX_CPUS	 64u
#define VM_MAX_DISKS	 16u
#define VM_MAX_NETS	 8u
#define VM_MAX_QUEUES	 16u
#define VM_MAX_LUN	 255u
#define VM_SERIAL_BYTES	 20u /* of a disk: what virtio-blk has room for */
#define VM_IOTHREAD_BYTES 12u /* the kernel's names of threads have 15, and ours begin with "io " */
#define VM_MAX_FORWARDS	 32u
#define VM_MIN_MEMORY	 (1ull << 20)
#define VM_MAX_MEMORY	 (1ull << 40)
#define VM_MIN_BT_CACHE	 (128ull << 10)
#define VM_MAX_BT_CACHE	 (1ull << 30)
#define VM_CMDLINE_BYTES 2048u /* Linux COMMAND_LINE_SIZE on x86 */

/* Units a second, on average and in bursts; 0: no limit, no burst. */
struct vm_rate {
	uint64_t avg, max, length_s;
};

/* In the order of disk/filters/throttle.h. */
enum vm_rate_kind {
	VM_RATE_BYTES,
	VM_RATE_BYTES_READ,
	VM_RATE_BYTES_WRITE,
	VM_RATE_OPS,
	VM_RATE_OPS_READ,
	VM_RATE_OPS_WRITE,
	VM_RATES,
};

#define VM_MAX_RATE	1000000000000000ull
#define VM_MAX_BURST_S	86400u
#define VM_MAX_ALLOW	16u

struct vm_disk {
	char *path;
	char *format; /* "raw", or NULL: found by content */
	bool readonly;
	char *cache; /* a mode of disk.h by its name, or NULL: writeback */
	char *serial; /* NULL: none */
	unsigned queues; /* of the device; 0: as many as there are vCPUs, at most VM_MAX_QUEUES */
	unsigned block_bytes; /* what the guest addresses: 512, 4096; 0: 512 */
	char *werror, *rerror; /* what a failed write or read does, by its name in disk/filters/hold.h; NULL: enospc, report */
	bool scsi; /* of a SCSI controller, one for each iothread; else a virtio-blk device */
	bool cdrom; /* with scsi: a drive */
	bool has_lun;
	unsigned lun; /* with scsi; chosen by validation unless has_lun */
	char *iothread; /* name of the thread that works for it; NULL: the one of all devices */
	struct vm_rate rates[VM_RATES];
	uint64_t op_bytes; /* a request counts once for each so many; 0: once */
	char *allow[VM_MAX_ALLOW + 1]; /* where images below it may lie: disk.h; NULL behind the last */
	bool cow; /* what is written goes to another image over it */
	char *cow_file; /* that is kept, NULL: nothing is */
	char *cache_file; /* for what a web server gave, NULL: none is kept */
	uint64_t cache_bytes; /* of that; 0: 1 GiB */
	unsigned reconnect_s; /* that requests wait for an NBD server which is away */
};

struct vm_forward {
	bool udp;
	char *host_addr; /* NULL: 127.0.0.1 */
	uint16_t host_port;
	uint16_t guest_port;
};

enum vm_net_kind { VM_NET_USER, VM_NET_TAP };

struct vm_net {
	enum vm_net_kind kind;
	char *tap; /* interface name of a tap */
	uint8_t mac[6];
	bool has_mac;
	struct vm_forward forwards[VM_MAX_FORWARDS];
	unsigned forward_count;
};

enum vm_serial_kind { VM_SERIAL_STDIO, VM_SERIAL_FILE, VM_SERIAL_UNIX, VM_SERIAL_NONE };

struct vm_config {
	char *name; /* never NULL after validation */
	char *engine; /* "auto", "kvm", "bt" */
	bool own_irqchip; /* our interrupt chips even where the engine has some */
	/* Of engine bt. */
	struct {
		bool interpret; /* translate nothing */
		char *off; /* "NAME+NAME": optimizations to leave out; NULL: none. The engine knows
			    * the names. */
		uint64_t cache_bytes; /* of all vCPUs; 0: its own choice */
		bool perf_map;
		bool count_insns;
		bool deterministic; /* time goes by instructions; they are counted */
	} bt;
	uint64_t memory; /* bytes */
	struct x86_cpu_spec cpu; /* which processor the guest sees */
	unsigned cpus;
	int pins[VM_MAX_CPUS]; /* host CPU of each vCPU, -1: free */
	struct {
		bool hugepages, prealloc, merge, lock;
		int node; /* -1: any */
	} mem_backing;
	char *kernel, *initrd, *append;
	struct vm_disk disks[VM_MAX_DISKS];
	unsigned disk_count;
	struct vm_net nets[VM_MAX_NETS];
	unsigned net_count;
	enum vm_serial_kind serial;
	char *serial_path;
	bool debug_exit;
	bool no_reboot;
};

/* All defaults set: 1 GiB, one vCPU, engine auto, no disk, user network, serial on stdio. */
struct vm_config *vm_config_new(void);
void vm_config_free(struct vm_config *config);

/* One row of the option table: what --help, the manual check and shell completion are made of. */
struct vm_option {
	const char *name; /* without dashes */
	const char *value; /* what stands for the value in --help; NULL for a switch */
	const char *help; /* a few words */
};
/* Row @i, or NULL behind the last. */
const struct vm_option *vm_config_option(size_t i);

#define VM_CONFIG_ERROR vm_config_error_quark()
GQuark vm_config_error_quark(void);

/* Parse the options of `sika run` (argv without program and verb), as `--opt VALUE` or
 * `--opt=VALUE`. False: one sentence in @err that names the option and what was given. */
bool vm_config_parse(struct vm_config *config, int argc, char **argv, GError **err);
/* Does what was given make a machine? Fills in a missing name. False: one sentence in @err. */
bool vm_config_validate(struct vm_config *config, GError **err);
