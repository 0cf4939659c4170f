// SPDX-License-Identifier: Apache-2.0
/* vcpu.c - vCPU threads, and the machine as the engine sees it from them. */
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/vclock.h"
#include "bus/bus.h"
#include "bus/irqchip.h"
#include "vm/vm.h"
#include "vm/vm_int.h"

static struct board *host_board(struct engine_host *host)
{
	return &container_of(host, struct vm, host)->board;
}

static uint64_t host_pio_read(struct engine_host *host, unsigned vcpu, uint16_t port, unsigned size)
{
	return bus_read(host_board(host)->bus, BUS_PIO, port, size);
}

static void host_pio_write(struct engine_host *host, unsigned vcpu, uint16_t port, unsigned size,
			   uint64_t value)
{
	bus_write(host_board(host)->bus, BUS_PIO, port, size, value);
}

static uint64_t host_mmio_read(struct engine_host *host, unsigned vcpu, gpa_t gpa, unsigned size)
{
	struct board *b = host_board(host);
	uint64_t value;

	/* The local APIC's page is the vCPU's own, and it can be moved. */
	if (b->irqchip && irqchip_vcpu_mmio_read(b->irqchip, vcpu, gpa, size, &value))
		return value;
	return bus_read(b->bus, BUS_MMIO, gpa, size);
}

static void host_mmio_write(struct engine_host *host, unsigned vcpu, gpa_t gpa, unsigned size,
			    uint64_t value)
{
	struct board *b = host_board(host);

	if (b->irqchip && irqchip_vcpu_mmio_write(b->irqchip, vcpu, gpa, size, value))
		return;
	bus_write(b->bus, BUS_MMIO, gpa, size, value);
}

static int host_apic_pending(struct engine_host *host, unsigned vcpu)
{
	return irqchip_vcpu_pending(host_board(host)->irqchip, vcpu);
}

static int host_apic_ack(struct engine_host *host, unsigned vcpu)
{
	return irqchip_vcpu_ack(host_board(host)->irqchip, vcpu);
}

static uint8_t host_apic_get_cr8(struct engine_host *host, unsigned vcpu)
{
	return irqchip_vcpu_get_cr8(host_board(host)->irqchip, vcpu);
}

static void host_apic_set_cr8(struct engine_host *host, unsigned vcpu, uint8_t cr8)
{
	irqchip_vcpu_set_cr8(host_board(host)->irqchip, vcpu, cr8);
}

static bool host_apic_read_msr(struct engine_host *host, unsigned vcpu, uint32_t msr,
			       uint64_t *value)
{
	return irqchip_vcpu_read_msr(host_board(host)->irqchip, vcpu, msr, value);
}

static bool host_apic_write_msr(struct engine_host *host, unsigned vcpu, uint32_t msr,
				uint64_t value)
{
	return irqchip_vcpu_write_msr(host_board(host)->irqchip, vcpu, msr, value);
}

static uint64_t host_apic_timer(struct engine_host *host, unsigned vcpu)
{
	return irqchip_vcpu_timer(host_board(host)->irqchip, vcpu);
}

static uint64_t host_time_to(struct engine_host *host, uint64_t ns, bool fire)
{
	struct vclock *clock = host_board(host)->clock;

	if (fire)
		vclock_advance(clock, ns - vclock_now_ns(clock));
	else
		vclock_set(clock, ns);
	return vclock_next_ns(clock);
}

const struct engine_host_ops vcpu_host_ops = {
	.pio_read = host_pio_read,
	.pio_write = host_pio_write,
	.mmio_read = host_mmio_read,
	.mmio_write = host_mmio_write,
	.apic_pending = host_apic_pending,
	.apic_ack = host_apic_ack,
	.apic_get_cr8 = host_apic_get_cr8,
	.apic_set_cr8 = host_apic_set_cr8,
	.apic_read_msr = host_apic_read_msr,
	.apic_write_msr = host_apic_write_msr,
	.apic_timer = host_apic_timer,
	.time_to = host_time_to,
};

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	struct vm *vm = v->vm;
	const struct engine_ops *ops = vm->engine_ops;
	char name[16];

	snprintf(name, sizeof(name), "vcpu %u", v->index);
	pthread_setname_np(pthread_self(), name);
	while (!atomic_load(&vm->stop)) {
		if (atomic_load(&vm->paused))
			pause_wait(vm);
		switch (ops->vcpu_run(v->ev)) {
		case ENGINE_EXIT_KICK:
			break;
		case ENGINE_EXIT_SHUTDOWN:
			/* A PC's chipset answers a triple fault with a reset. */
			log_info("vcpu %u: triple fault", v->index);
			vm_wish(vm, WISH_RESET, VM_STATUS_OFF);
			break;
		case ENGINE_EXIT_FAIL:
			log_error("vcpu %u: %s", v->index, ops->vcpu_error(v->ev));
			vm_wish(vm, WISH_END, VM_STATUS_FAIL);
			break;
		}
	}
	return NULL;
}

bool vcpu_pins_check(const struct vm_config *config, GError **err)
{
	cpu_set_t allowed;

	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		return true; /* more CPUs than the set holds: leave it to the attempt */
	for (unsigned i = 0; i < config->cpus; i++) {
		int cpu = config->pins[i];

		if (cpu < 0 || (cpu < CPU_SETSIZE && CPU_ISSET(cpu, &allowed)))
			continue;
		g_set_error(err, VM_CONFIG_ERROR, 0,
			    "--pin: '%u=%d': host CPU %d is not there, or not for this process", i,
			    cpu, cpu);
		return false;
	}
	return true;
}

static int vcpu_start(struct vcpu *v)
{
	int cpu = v->vm->config->pins[v->index];
	pthread_attr_t attr;
	cpu_set_t set;
	int r;

	pthread_attr_init(&attr);
	if (cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	}
	r = pthread_create(&v->thread, &attr, vcpu_main, v);
	pthread_attr_destroy(&attr);
	v->started = r == 0;
	return r;
}

bool vcpus_start(struct vm *vm, GError **err)
{
	for (unsigned i = 0; i < vm->board.vcpu_count; i++) {
		int r = vcpu_start(&vm->board.vcpus[i]);

		if (r) {
			g_set_error(err, VM_CONFIG_ERROR, 0,
				    "cannot start the thread of vCPU %u: %s", i, g_strerror(r));
			return false;
		}
	}
	return true;
}

void vcpus_kick(struct vm *vm)
{
	for (unsigned i = 0; i < vm->board.vcpu_count; i++)
		vm->engine_ops->vcpu_kick(vm->board.vcpus[i].ev);
}

void vcpus_join(struct vm *vm)
{
	for (unsigned i = 0; i < vm->board.vcpu_count; i++) {
		struct vcpu *v = &vm->board.vcpus[i];

		if (v->started)
			pthread_join(v->thread, NULL);
		v->started = false;
	}
}
