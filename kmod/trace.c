// SPDX-License-Identifier: GPL-2.0-only
/* trace.c - the tracepoints themselves. */
#include "vm.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

void trace_device(const struct device_access *a, bool write)
{
	if (a->port)
		trace_kvm_pio(write, a->addr, a->size, a->value);
	else
		trace_kvm_mmio(write ? TRACE_MMIO_WRITE : TRACE_MMIO_READ, a->size, a->addr, a->value);
}
