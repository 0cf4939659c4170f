// SPDX-License-Identifier: Apache-2.0
/* kvm.c - the engine's table, and what the host's KVM can do. */
#include "engine/kvm/kvm.h"

#include <stdio.h>

static void kvm_probe(struct engine_probe *ret)
{
	*ret = (struct engine_probe){ .available = false };
	snprintf(ret->text, sizeof(ret->text), "not built yet");
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.probe = kvm_probe,
};
