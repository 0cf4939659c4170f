// SPDX-License-Identifier: Apache-2.0
/* bt.c - the face of the bt engine: probe, open, close. */
#include "engine/bt/bt.h"

#include <gio/gio.h>

static void bt_probe(struct engine_probe *ret)
{
	*ret = (struct engine_probe){ .available = true };
	g_strlcpy(ret->text, "software x86-64 CPU, needs nothing of the host", sizeof(ret->text));
}

static struct engine *bt_open(const struct engine_config *config, GError **err)
{
	g_set_error(err, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED, "engine 'bt' is not built in");
	return NULL;
}

const struct engine_ops engine_bt = {
	.name = "bt",
	.probe = bt_probe,
	.open = bt_open,
};
