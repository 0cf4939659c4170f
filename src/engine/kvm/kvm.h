// SPDX-License-Identifier: Apache-2.0
/* kvm.h - the engine that uses the host's /dev/kvm. See engine.h for the contract. */
#pragma once

#include "engine/engine.h"

extern const struct engine_ops engine_kvm;
