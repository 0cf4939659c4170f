// SPDX-License-Identifier: Apache-2.0
/* bt.h - the engine that runs vCPUs in software, without any help from the host's hardware. See
 * engine.h for the contract and bt_int.h for how it works. */
#pragma once

#include "engine/engine.h"

extern const struct engine_ops engine_bt;
