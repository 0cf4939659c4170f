// SPDX-License-Identifier: Apache-2.0
/* irq.c - the interrupt chips in the host's kernel, MSI routes, irqfd and ioeventfd. */
#include "engine/kvm/kvm_int.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"

#define PIC_PINS 8u

/* GSI n is pin n of the I/O APIC, save 0, which is pin 2; 0..15 also reach the 8259 pair. The second
 * 8259 hangs on input 2 of the first. */
static unsigned put_chip_routes(struct kvm_irq_routing_entry *e)
{
	unsigned n = 0;

	for (unsigned gsi = 0; gsi < KVM_IOAPIC_PINS; gsi++) {
		if (gsi == 2)
			continue;
		if (gsi < 2 * PIC_PINS) {
			e[n].gsi = gsi;
			e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
			e[n].u.irqchip.irqchip = gsi < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER
								: KVM_IRQCHIP_PIC_SLAVE;
			e[n++].u.irqchip.pin = gsi % PIC_PINS;
		}
		e[n].gsi = gsi;
		e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[n].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		e[n++].u.irqchip.pin = gsi ? gsi : 2;
	}
	return n;
}

/* kvm->route_lock held, or nobody else knows @kvm yet. */
static int set_routes(struct kvm *kvm)
{
	const size_t max = 2 * PIC_PINS + KVM_IOAPIC_PINS + KVM_MAX_IRQFDS;
	g_autofree struct kvm_irq_routing *table =
		g_malloc0(sizeof(*table) + max * sizeof(table->entries[0]));
	unsigned n = put_chip_routes(table->entries);

	for (unsigned i = 0; i < KVM_MAX_IRQFDS; i++) {
		const struct kvm_msi_route *route = &kvm->routes[i];
		struct kvm_irq_routing_entry *e = &table->entries[n];

		if (route->fd < 0)
			continue;
		e->gsi = KVM_FIRST_MSI_GSI + i;
		e->type = KVM_IRQ_ROUTING_MSI;
		e->u.msi.address_lo = (uint32_t)route->address;
		e->u.msi.address_hi = (uint32_t)(route->address >> 32);
		e->u.msi.data = route->data;
		n++;
	}
	table->nr = n;
	return kvm_ioctl(kvm->vm_fd, KVM_SET_GSI_ROUTING, table);
}

int kvm_irq_setup(struct kvm *kvm, GError **err)
{
	/* The dummy speaker is port 0x61, which guests need to calibrate with the 8254. */
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	const char *what = "create interrupt chips";
	int r;

	if (!kvm_has_irqchip(kvm))
		return 0;
	r = kvm_ioctl_long(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0);
	if (r >= 0) {
		what = "route interrupts";
		r = set_routes(kvm);
	}
	if (r >= 0 && (kvm->caps & ENGINE_CAP_PIT)) {
		what = "create a timer";
		r = kvm_ioctl(kvm->vm_fd, KVM_CREATE_PIT2, &pit);
	}
	if (r < 0)
		g_set_error(err, BASE_ERROR, -r, "engine 'kvm': cannot %s: %s", what,
			    g_strerror(-r));
	return r;
}

void kvm_irq_line(struct engine *engine, unsigned gsi, bool level)
{
	struct kvm *kvm = (struct kvm *)engine;
	struct kvm_irq_level irq = { .irq = gsi, .level = level };

	if (gsi < KVM_IOAPIC_PINS)
		(void)kvm_ioctl(kvm->vm_fd, KVM_IRQ_LINE, &irq); /* no way to fail that matters */
}

void kvm_send_msi(struct engine *engine, uint64_t address, uint32_t data)
{
	struct kvm *kvm = (struct kvm *)engine;
	struct kvm_msi msi = {
		.address_lo = (uint32_t)address,
		.address_hi = (uint32_t)(address >> 32),
		.data = data,
	};

	/* A message to a processor that is not there is lost, as on a real bus. */
	(void)kvm_ioctl(kvm->vm_fd, KVM_SIGNAL_MSI, &msi);
}

static int find_route(const struct kvm *kvm, int fd)
{
	for (unsigned i = 0; i < KVM_MAX_IRQFDS; i++) {
		if (kvm->routes[i].fd == fd)
			return (int)i;
	}
	return -1;
}

static int assign_irqfd(const struct kvm *kvm, unsigned index, int fd, uint32_t flags)
{
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)fd,
		.gsi = KVM_FIRST_MSI_GSI + index,
		.flags = flags,
	};

	return kvm_ioctl(kvm->vm_fd, KVM_IRQFD, &irqfd);
}

/* kvm->route_lock held. */
static int add_route(struct kvm *kvm, int fd, uint64_t address, uint32_t data)
{
	int index = find_route(kvm, fd);
	bool is_new = index < 0;
	struct kvm_msi_route old;
	int r;

	if (is_new)
		index = find_route(kvm, -1);
	if (index < 0)
		return -ENOSPC;
	old = kvm->routes[index];
	kvm->routes[index] = (struct kvm_msi_route){ .fd = fd, .address = address, .data = data };
	r = set_routes(kvm);
	if (r >= 0 && is_new)
		r = assign_irqfd(kvm, (unsigned)index, fd, 0);
	if (r < 0)
		kvm->routes[index] = old;
	return r < 0 ? r : 0;
}

/* kvm->route_lock held. */
static int remove_route(struct kvm *kvm, int fd)
{
	int index = find_route(kvm, fd);
	int r;

	if (index < 0)
		return -ENOENT;
	r = assign_irqfd(kvm, (unsigned)index, fd, KVM_IRQFD_FLAG_DEASSIGN);
	kvm->routes[index].fd = -1;
	if (r >= 0)
		r = set_routes(kvm);
	return r < 0 ? r : 0;
}

int kvm_irqfd_msi(struct engine *engine, int fd, uint64_t address, uint32_t data, bool add)
{
	struct kvm *kvm = (struct kvm *)engine;
	int r;

	if (!(kvm->caps & ENGINE_CAP_IRQFD))
		return -ENOTSUP;
	if (fd < 0)
		return -EBADF;
	pthread_mutex_lock(&kvm->route_lock);
	r = add ? add_route(kvm, fd, address, data) : remove_route(kvm, fd);
	pthread_mutex_unlock(&kvm->route_lock);
	return r;
}

int kvm_ioeventfd(struct engine *engine, bool pio, uint64_t addr, unsigned len, int fd, bool add)
{
	struct kvm *kvm = (struct kvm *)engine;
	/* Length 0: a write of any size. */
	struct kvm_ioeventfd args = {
		.addr = addr,
		.fd = fd,
		.flags = (pio ? KVM_IOEVENTFD_FLAG_PIO : 0) |
			 (add ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};
	int r;

	if (!(kvm->caps & ENGINE_CAP_IOEVENTFD))
		return -ENOTSUP;
	r = kvm_ioctl(kvm->vm_fd, KVM_IOEVENTFD, &args);
	return r < 0 ? r : 0;
}
