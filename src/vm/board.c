// SPDX-License-Identifier: Apache-2.0
/*
 * board.c - build a machine's board from its configuration, and take it apart.
 *
 * board_build() goes from the ground up and stops at the first failure; board_free() goes down
 * again and takes a half-built board as it is.
 */
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/state.h"
#include "base/units.h"
#include "base/vclock.h"
#include "boot/boot.h"
#include "boot/layout.h"
#include "bus/bus.h"
#include "bus/irqchip.h"
#include "bus/pci.h"
#include "dev/misc/acpi_pm.h"
#include "dev/misc/debug_exit.h"
#include "dev/misc/legacy.h"
#include "dev/serial/uart.h"
#include "dev/timer/hpet.h"
#include "dev/timer/pit.h"
#include "dev/timer/rtc.h"
#include "dev/virtio/virtio.h"
#include "vm/vm.h"
#include "vm/vm_int.h"
#include "x86/state.h"

static bool fail(GError **err, const char *what)
{
	g_set_error(err, VM_CONFIG_ERROR, 0, "cannot make the machine's %s", what);
	return false;
}

static uint32_t engine_caps(const struct vm *vm)
{
	return vm->engine_ops->caps(vm->board.engine);
}

/* ---- what devices ask for; in vCPU threads ---- */

static void on_power_off(void *arg)
{
	vm_wish(arg, WISH_END, VM_STATUS_OFF);
}

static void on_reset(void *arg)
{
	vm_wish(arg, WISH_RESET, VM_STATUS_OFF);
}

static void on_debug_exit(void *arg, uint32_t status)
{
	/* What the kernel keeps of an exit status is eight bits; an odd value has one of them set.
	 */
	vm_wish(arg, WISH_END, (int)(status & 0xff));
}

static void on_hpet_legacy(void *arg, bool on)
{
	struct vm *vm = arg;

	pit_connect_irq(vm->board.pit, !on);
	rtc_connect_irq(vm->board.rtc, !on);
}

/* ---- interrupt controllers to engine ---- */

static struct engine_vcpu *vcpu_of(void *arg, unsigned vcpu)
{
	return ((struct vm *)arg)->board.vcpus[vcpu].ev;
}

static void chip_irq(void *arg, unsigned vcpu)
{
	((struct vm *)arg)->engine_ops->vcpu_irq(vcpu_of(arg, vcpu));
}

static void chip_nmi(void *arg, unsigned vcpu)
{
	((struct vm *)arg)->engine_ops->vcpu_nmi(vcpu_of(arg, vcpu));
}

static void chip_init(void *arg, unsigned vcpu)
{
	((struct vm *)arg)->engine_ops->vcpu_init(vcpu_of(arg, vcpu));
}

static void chip_sipi(void *arg, unsigned vcpu, uint8_t vector)
{
	((struct vm *)arg)->engine_ops->vcpu_sipi(vcpu_of(arg, vcpu), vector);
}

static uint64_t chip_tsc(void *arg, unsigned vcpu)
{
	return ((struct vm *)arg)->engine_ops->vcpu_tsc(vcpu_of(arg, vcpu));
}

static uint64_t chip_tsc_hz(void *arg)
{
	const struct vm *vm = arg;

	return vm->engine_ops->tsc_hz(vm->board.engine);
}

static const struct irqchip_vcpu_ops chip_ops = { .irq = chip_irq,
						  .nmi = chip_nmi,
						  .init = chip_init,
						  .sipi = chip_sipi,
						  .tsc = chip_tsc,
						  .tsc_hz = chip_tsc_hz };

/* ---- bus to engine ---- */

static int ioeventfd_add(void *arg, enum bus_space space, uint64_t addr, unsigned len, int fd)
{
	struct vm *vm = arg;

	return vm->engine_ops->ioeventfd(vm->board.engine, space == BUS_PIO, addr, len, fd, true);
}

static void ioeventfd_remove(void *arg, enum bus_space space, uint64_t addr, unsigned len, int fd)
{
	struct vm *vm = arg;

	(void)vm->engine_ops->ioeventfd(vm->board.engine, space == BUS_PIO, addr, len, fd, false);
}

static const struct bus_ioeventfd_ops ioeventfd_ops = { ioeventfd_add, ioeventfd_remove };

/* ---- building ---- */

static bool build_engine(struct vm *vm, GError **err)
{
	const struct vm_config *c = vm->config;
	struct board *b = &vm->board;
	const struct mem_config mem = {
		.size_bytes = c->memory,
		.hugepages = c->mem_backing.hugepages,
		.prealloc = c->mem_backing.prealloc,
		.merge = c->mem_backing.merge,
		.lock = c->mem_backing.lock,
		.node = c->mem_backing.node,
	};
	struct engine_config engine = {
		.host = &vm->host, .vcpus = c->cpus, .want_irqchip = !c->own_irqchip,
		.cpu = &c->cpu, .interpret = c->bt.interpret, .off_names = c->bt.off,
		.cache_total_bytes = c->bt.cache_bytes, .perf_map = c->bt.perf_map,
		.count_insns = c->bt.count_insns, .deterministic = c->bt.deterministic,
	};

	b->mem = mem_new(&mem, err);
	if (!b->mem)
		return false;
	b->bus = bus_new();
	if (!b->bus)
		return fail(err, "bus");
	engine.mem = b->mem;
	b->engine = vm->engine_ops->open(&engine, err);
	if (!b->engine)
		return false;
	if (engine_caps(vm) & ENGINE_CAP_IOEVENTFD)
		bus_set_ioeventfd_ops(b->bus, &ioeventfd_ops, vm);
	for (unsigned i = 0; i < c->cpus; i++) {
		struct vcpu *v = &b->vcpus[i];

		v->vm = vm;
		v->index = i;
		v->ev = vm->engine_ops->vcpu_new(b->engine, i, err);
		if (!v->ev)
			return false;
		b->vcpu_count++;
	}
	return true;
}

static bool build_irq(struct vm *vm, GError **err)
{
	struct board *b = &vm->board;
	struct irqchip_config chip = {
		.vcpus = b->vcpu_count, .bus = b->bus, .ops = &chip_ops, .arg = vm
	};

	/* With --engine bt,deterministic it is told the time by the vCPU. */
	b->clock = vm->config->bt.deterministic ? vclock_new_manual() : vclock_new(vm->loop);
	if (!b->clock)
		return fail(err, "clock");
	if (engine_caps(vm) & ENGINE_CAP_IRQCHIP) {
		b->irq = engine_irq_new(b->engine);
		return b->irq || fail(err, "interrupt controllers");
	}
	chip.clock = b->clock;
	b->irqchip = irqchip_new(&chip, err);
	if (!b->irqchip)
		return false;
	b->irq = irqchip_face(b->irqchip);
	return true;
}

static uint64_t ram_above_4g(const struct vm *vm)
{
	return vm->config->memory > MEM_HOLE_START ? vm->config->memory - MEM_HOLE_START : 0;
}

/* With --engine bt,deterministic: the clock chip starts on 2026-01-01, as engine bt's clock does. */
static int64_t counted_utc_ns(void *arg)
{
	const struct vm *vm = arg;

	return 1767225600ll * 1000000000 + (int64_t)vclock_now_ns(vm->board.clock);
}

static bool build_timers(struct vm *vm, GError **err)
{
	struct board *b = &vm->board;
	const struct rtc_config rtc = {
		.bus = b->bus,
		.irq = b->irq,
		.clock = b->clock,
		.ram_low = vm->config->memory - ram_above_4g(vm),
		.ram_high = ram_above_4g(vm),
		.utc_ns = vm->config->bt.deterministic ? counted_utc_ns : NULL,
		.utc_arg = vm,
	};
	const struct hpet_config hpet = {
		.bus = b->bus,
		.irq = b->irq,
		.clock = b->clock,
		.base = LAYOUT_HPET_BASE,
		.legacy = on_hpet_legacy,
		.arg = vm,
	};

	b->rtc = rtc_new(&rtc);
	if (!b->rtc)
		return fail(err, "clock chip");
	if (vm->battery) {
		struct state_reader in = { vm->battery->data, vm->battery->len };

		if (!rtc_load(b->rtc, &in, err))
			return false;
		rtc_reset(b->rtc);
	}
	b->pit = pit_new(b->bus, b->irq, b->clock);
	if (!b->pit)
		return fail(err, "interval timer");
	b->hpet = hpet_new(&hpet);
	return b->hpet || fail(err, "HPET");
}

static bool build_platform(struct vm *vm, GError **err)
{
	struct board *b = &vm->board;
	const struct acpi_pm_config pm = {
		.bus = b->bus,
		.irq = b->irq,
		.clock = b->clock,
		.base = LAYOUT_PORT_PM_BASE,
		.sci_gsi = LAYOUT_GSI_SCI,
		.s5_type = LAYOUT_S5_SLP_TYP,
		.power_off = on_power_off,
		.arg = vm,
	};
	const struct uart_config uart = {
		.bus = b->bus,
		.irq = b->irq,
		.chr = vm->back.serial,
		.base = LAYOUT_PORT_COM1,
		.gsi = IRQ_GSI_COM1,
	};

	if (!(b->pm = acpi_pm_new(&pm)))
		return fail(err, "power management");
	if (!(b->legacy = legacy_new(b->bus, on_reset, vm)))
		return fail(err, "keyboard controller");
	if (!(b->uart = uart_new(&uart)))
		return fail(err, "serial port");
	if (vm->config->debug_exit &&
	    !(b->debug_exit = debug_exit_new(b->bus, LAYOUT_PORT_DEBUG_EXIT, on_debug_exit, vm)))
		return fail(err, "exit port");
	if (!(b->pci = pci_bus_new(b->bus, b->irq)))
		return fail(err, "PCI bus");
	pci_bus_set_reset(b->pci, on_reset, vm);
	return true;
}

/* Locally administered, and the same each time the machine of that name starts. */
static void default_mac(const char *name, unsigned index, uint8_t mac[6])
{
	uint32_t h = g_str_hash(name) * 31u + index;

	memcpy(mac, (const uint8_t[]){ 0x52, 0x54, 0x00 }, 3);
	for (unsigned i = 3; i < 6; i++)
		mac[i] = (uint8_t)(h >> (8 * (i - 3)));
}

static bool add_virtio(struct board *b, struct virtio_dev *dev)
{
	if (!dev)
		return false;
	b->virtio[b->virtio_count++] = dev;
	return true;
}

/* A queue for each CPU, so that none waits for another to submit. */
static unsigned queues_of(const struct vm *vm, const struct vm_disk *d)
{
	unsigned cpus = vm->board.vcpu_count;

	if (d->queues)
		return d->queues;
	return cpus < VM_MAX_QUEUES ? cpus : VM_MAX_QUEUES;
}

/* The controller of that disk's I/O thread, with all its units; made with the first of them. */
static bool build_scsi(struct vm *vm, unsigned index, GError **err)
{
	const struct vm_config *c = vm->config;
	const char *iothread = c->disks[index].iothread;
	struct board *b = &vm->board;
	const struct virtio_env env = {
		.pci = b->pci, .mem = b->mem, .loop = io_loop(vm, iothread), .slot = PCI_SLOT_ANY
	};
	struct virtio_scsi_unit units[VM_MAX_DISKS];
	char names[VM_MAX_DISKS][VM_SERIAL_BYTES + 1];
	struct virtio_dev *dev;
	unsigned count = 0, queues = 0;

	if (b->disks[index])
		return true;
	for (unsigned i = index; i < c->disk_count; i++) {
		const struct vm_disk *d = &c->disks[i];

		if (!d->scsi || g_strcmp0(d->iothread, iothread))
			continue;
		snprintf(names[count], sizeof(names[count]), "disk%u", i);
		units[count] = (struct virtio_scsi_unit){
			.disk = vm->back.disks[i],
			.cdrom = d->cdrom,
			.lun = d->lun,
			.serial = d->serial ? d->serial : names[count],
			.block_bytes = d->block_bytes,
		};
		count++;
		if (queues_of(vm, d) > queues)
			queues = queues_of(vm, d);
	}
	dev = virtio_scsi_new(&env, units, count, queues, err);
	for (unsigned i = index; i < c->disk_count; i++)
		if (c->disks[i].scsi && !g_strcmp0(c->disks[i].iothread, iothread))
			b->disks[i] = dev;
	return add_virtio(b, dev);
}

static bool build_disk(struct vm *vm, unsigned index, GError **err)
{
	const struct vm_disk *d = &vm->config->disks[index];
	struct board *b = &vm->board;
	const struct virtio_env env = {
		.pci = b->pci, .mem = b->mem, .loop = io_loop(vm, d->iothread), .slot = PCI_SLOT_ANY
	};
	const struct virtio_blk_options options = {
		.serial = d->serial,
		.queues = queues_of(vm, d),
		.block_bytes = d->block_bytes,
	};

	b->disks[index] = virtio_blk_new(&env, vm->back.disks[index], &options, err);
	return add_virtio(b, b->disks[index]);
}

static bool build_virtio(struct vm *vm, GError **err)
{
	const struct vm_config *c = vm->config;
	struct board *b = &vm->board;
	const struct virtio_env env = {
		.pci = b->pci, .mem = b->mem, .loop = vm->loop, .slot = PCI_SLOT_ANY
	};
	uint8_t mac[6];

	for (unsigned i = 0; i < c->disk_count; i++)
		if (!(c->disks[i].scsi ? build_scsi(vm, i, err) : build_disk(vm, i, err)))
			return false;
	for (unsigned i = 0; i < c->net_count; i++) {
		if (c->nets[i].has_mac)
			memcpy(mac, c->nets[i].mac, sizeof(mac));
		else
			default_mac(c->name, i, mac);
		if (!add_virtio(b, virtio_net_new(&env, vm->back.nets[i], mac, err)))
			return false;
	}
	return add_virtio(b, virtio_console_new(&env, vm->back.console, err)) &&
	       add_virtio(b, virtio_rng_new(&env, err));
}

static bool load_state(struct vm *vm, unsigned vcpu, const struct x86_state *state, GError **err)
{
	int r = vm->engine_ops->vcpu_set_state(vm->board.vcpus[vcpu].ev, state);

	if (r)
		g_set_error(err, VM_CONFIG_ERROR, 0, "cannot set the state of vCPU %u: %s", vcpu,
			    g_strerror(-r));
	return r == 0;
}

static bool load_guest(struct vm *vm, GError **err)
{
	const struct vm_config *c = vm->config;
	struct board *b = &vm->board;
	const struct boot_config boot = {
		.name = c->name,
		.kernel = c->kernel,
		.initrd = c->initrd,
		.cmdline = c->append,
		.cpus = b->vcpu_count,
		.has_hpet = b->hpet != NULL,
		.srat = c->mem_backing.node >= 0,
	};
	unsigned phys_bits = vm->engine_ops->phys_bits(b->engine);
	struct x86_state state;

	x86_state_reset(&state);
	boot_set_memory_types(&state, phys_bits);
	if (!boot_load(&boot, b->mem, &state, err) || !load_state(vm, 0, &state, err))
		return false;
	x86_state_reset(&state);
	boot_set_memory_types(&state, phys_bits);
	state.activity = X86_WAIT_SIPI;
	for (unsigned i = 1; i < b->vcpu_count; i++)
		if (!load_state(vm, i, &state, err))
			return false;
	return true;
}

bool board_build(struct vm *vm, GError **err)
{
	return build_engine(vm, err) && build_irq(vm, err) && build_timers(vm, err) &&
	       build_platform(vm, err) && build_virtio(vm, err) && load_guest(vm, err);
}

/* What a reset does not touch. */
void board_keep(struct vm *vm)
{
	if (vm->battery)
		g_byte_array_set_size(vm->battery, 0);
	else
		vm->battery = g_byte_array_new();
	rtc_save(vm->board.rtc, vm->battery);
}

void board_free(struct vm *vm)
{
	struct board *b = &vm->board;

	while (b->virtio_count)
		virtio_free(b->virtio[--b->virtio_count]);
	if (b->pci)
		pci_bus_free(b->pci);
	if (b->debug_exit)
		debug_exit_free(b->debug_exit);
	if (b->uart)
		uart_free(b->uart);
	if (b->legacy)
		legacy_free(b->legacy);
	if (b->pm)
		acpi_pm_free(b->pm);
	if (b->hpet)
		hpet_free(b->hpet);
	if (b->pit)
		pit_free(b->pit);
	if (b->rtc)
		rtc_free(b->rtc);
	if (b->irqchip)
		irqchip_free(b->irqchip);
	else if (b->irq)
		engine_irq_free(b->irq);
	if (b->clock)
		vclock_free(b->clock);
	for (unsigned i = 0; i < b->vcpu_count; i++)
		vm->engine_ops->vcpu_free(b->vcpus[i].ev);
	if (b->engine)
		vm->engine_ops->close(b->engine);
	if (b->bus)
		bus_free(b->bus);
	if (b->mem)
		mem_free(b->mem);
	*b = (struct board){ 0 };
}
