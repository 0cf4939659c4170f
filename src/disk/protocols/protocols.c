// SPDX-License-Identifier: Apache-2.0
/* protocols.c - the table of protocols. */
#include "disk/protocols/protocols.h"

#include <string.h>

static const struct disk_protocol protocols[] = {
	{ "nbd:", NULL, true, nbd_disk_open }, /* and nbd:// */
	{ "nbds://", NULL, true, nbd_disk_open },
	{ "nbd+unix://", NULL, true, nbd_disk_open },
	{ "nbds+unix://", NULL, true, nbd_disk_open },
	{ "nbd+vsock://", NULL, true, nbd_disk_open },
	{ "nbds+vsock://", NULL, true, nbd_disk_open },
#ifdef SIKA_RBD
	{ "rbd:", NULL, true, rbd_disk_open },
#endif
	{ "scratch:", "raw", false, scratch_disk_open },
	{ "http://", NULL, false, http_disk_open },
	{ "https://", NULL, false, http_disk_open },
};

const struct disk_protocol *disk_protocol_find(const char *name)
{
	for (size_t i = 0; i < G_N_ELEMENTS(protocols); i++)
		if (!strncmp(name, protocols[i].prefix, strlen(protocols[i].prefix)))
			return &protocols[i];
	return NULL;
}

bool disk_is_remote(const char *name)
{
	return disk_protocol_find(name) != NULL;
}
