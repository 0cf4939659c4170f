// SPDX-License-Identifier: Apache-2.0
/* kvm.c - the engine's table, and what the host's KVM can do. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"
#include "engine/kvm/kvm_int.h"

#define KVM_API 12 /* the only version there has been since Linux 2.6.22 */

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int r;

	do
		r = ioctl(fd, request, arg);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

int kvm_ioctl_long(int fd, unsigned long request, unsigned long arg)
{
	return kvm_ioctl(fd, request, (void *)arg);
}

static bool has(int fd, unsigned long cap)
{
	return kvm_ioctl_long(fd, KVM_CHECK_EXTENSION, cap) > 0;
}

/* Without these the engine does not start: each has been there since Linux 4.12. */
static const struct {
	unsigned cap;
	const char *name;
} kvm_needs[] = {
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
	{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
	{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
	{ KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
	{ KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
};

static uint32_t device_caps(int fd)
{
	uint32_t caps = 0;

	if (has(fd, KVM_CAP_IRQCHIP) && has(fd, KVM_CAP_IRQ_ROUTING) && has(fd, KVM_CAP_SIGNAL_MSI))
		caps |= ENGINE_CAP_IRQCHIP;
	if ((caps & ENGINE_CAP_IRQCHIP) && has(fd, KVM_CAP_PIT2))
		caps |= ENGINE_CAP_PIT;
	if ((caps & ENGINE_CAP_IRQCHIP) && has(fd, KVM_CAP_IRQFD))
		caps |= ENGINE_CAP_IRQFD;
	if (has(fd, KVM_CAP_IOEVENTFD))
		caps |= ENGINE_CAP_IOEVENTFD;
	return caps;
}

static void explain_open(char *text, size_t size, int error)
{
	if (error == ENOENT || error == ENODEV || error == ENXIO)
		snprintf(text, size, "%s is not present: the kernel has no KVM, or its module is "
			 "not loaded", KVM_DEV);
	else if (error == EACCES || error == EPERM)
		snprintf(text, size, "permission denied on %s: add yourself to group kvm", KVM_DEV);
	else
		snprintf(text, size, "cannot open %s: %s", KVM_DEV, strerror(error));
}

int kvm_open_device(char *text, size_t text_size, uint32_t *ret_caps)
{
	auto_fd int fd = open(KVM_DEV, O_RDWR | O_CLOEXEC);
	int version, error = errno;

	if (fd < 0) {
		explain_open(text, text_size, error);
		return -error;
	}
	version = kvm_ioctl_long(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API) {
		snprintf(text, text_size, "%s speaks version %d of its interface, not %d", KVM_DEV,
			 version, KVM_API);
		return -ENOTSUP;
	}
	for (size_t i = 0; i < ARRAY_SIZE(kvm_needs); i++) {
		if (has(fd, kvm_needs[i].cap))
			continue;
		snprintf(text, text_size, "%s lacks %s: the host's kernel is too old", KVM_DEV,
			 kvm_needs[i].name);
		return -ENOTSUP;
	}
	*ret_caps = device_caps(fd);
	return fd_steal(&fd);
}

/* Word @word on the first line of /proc/cpuinfo that starts with "flags". */
static bool cpu_has_flag(const char *flags, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = flags; (p = strstr(p, word)) != NULL; p += len) {
		if (p > flags && p[-1] == ' ' && (p[len] == ' ' || p[len] == '\n' || !p[len]))
			return true;
	}
	return false;
}

static const char *cpu_hardware(void)
{
	const char *found = NULL;
	FILE *file = fopen("/proc/cpuinfo", "re");
	size_t size = 0;
	char *buf = NULL;

	if (!file)
		return NULL;
	while (getline(&buf, &size, file) >= 0) {
		if (strncmp(buf, "flags", 5) != 0)
			continue;
		if (cpu_has_flag(buf, "vmx"))
			found = "Intel VT-x";
		else if (cpu_has_flag(buf, "svm"))
			found = "AMD-V";
		break;
	}
	free(buf);
	fclose(file);
	return found;
}

static void kvm_probe(struct engine_probe *ret)
{
	const char *hardware = cpu_hardware();
	int fd;

	*ret = (struct engine_probe){ .available = false };
	fd = kvm_open_device(ret->text, sizeof(ret->text), &ret->caps);
	if (fd < 0)
		return;
	close(fd);
	ret->available = true;
	ret->hardware = hardware != NULL;
	if (hardware)
		snprintf(ret->text, sizeof(ret->text), "%s works, backed by %s", KVM_DEV, hardware);
	else
		snprintf(ret->text, sizeof(ret->text),
			 "%s is present but backed by software (no vmx or svm among the CPU's "
			 "flags): for small guests only", KVM_DEV);
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.probe = kvm_probe,
	.cpu_max = kvm_cpu_max,
	.open = kvm_open,
	.close = kvm_close,
	.caps = kvm_caps,
	.phys_bits = kvm_cpuid_phys_bits,
	.vcpu_new = kvm_vcpu_new,
	.vcpu_free = kvm_vcpu_free,
	.vcpu_run = kvm_vcpu_run,
	.vcpu_kick = kvm_vcpu_kick,
	.vcpu_irq = kvm_vcpu_irq,
	.vcpu_nmi = kvm_vcpu_nmi,
	.vcpu_init = kvm_vcpu_init,
	.vcpu_sipi = kvm_vcpu_sipi,
	.tsc_hz = kvm_tsc_hz,
	.vcpu_tsc = kvm_vcpu_tsc,
	.vcpu_get_state = kvm_vcpu_get_state,
	.vcpu_set_state = kvm_vcpu_set_state,
	.vcpu_get_apic = kvm_vcpu_get_apic,
	.vcpu_set_apic = kvm_vcpu_set_apic,
	.chips_get = kvm_chips_get,
	.chips_set = kvm_chips_set,
	.clock_get = kvm_clock_get,
	.clock_set = kvm_clock_set,
	.vcpu_error = kvm_vcpu_error,
	.irq_line = kvm_irq_line,
	.send_msi = kvm_send_msi,
	.ioeventfd = kvm_ioeventfd,
	.irqfd_msi = kvm_irqfd_msi,
	.dirty_start = kvm_dirty_start,
	.dirty_sync = kvm_dirty_sync,
	.dirty_stop = kvm_dirty_stop,
	.stats_begin = kvm_stats_begin,
	.stats_end = kvm_stats_end,
};
