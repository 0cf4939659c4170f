// SPDX-License-Identifier: Apache-2.0
/* image_forms.c - `sika image` and formats other than raw and qcow2. */
#include <string.h>

#include "cli/image.h"

int image_form_options(const struct image_args *a, const char *format)
{
	const struct disk_form *form = disk_form_find(format);
	const char *of_qcow2 = a->cluster_size	  ? "cluster-size"
			       : a->refcount_bits ? "refcount-bits"
			       : a->compat	  ? "compat"
			       : a->compression	  ? "compression"
			       : a->lazy	  ? "lazy-refcounts"
			       : a->extended	  ? "subclusters"
			       : a->preallocate	  ? "preallocate"
			       : a->compress	  ? "compress"
						  : NULL;

	if (!form && a->options)
		return cli_complain(CLI_USAGE, a->verb, "--options is not for %s", format);
	if (form && of_qcow2)
		return cli_complain(CLI_USAGE, a->verb, "--%s is not for %s; see --options",
				    of_qcow2, format);
	if (form && !form->create)
		return cli_complain(CLI_USAGE, a->verb, "%s images can only be read", form->title);
	return 0;
}

static struct disk_form_create options_of(const struct image_args *a, uint64_t size)
{
	return (struct disk_form_create){ .size_bytes = size,
					  .options = a->options,
					  .name = a->files[a->which == IMAGE_CONVERT] };
}

int image_form_make(const struct image_args *a, const char *path, const struct qcow2_create *o,
		    const struct disk_form *form)
{
	const struct disk_form_create create = options_of(a, o->size_bytes);
	g_autoptr(GError) err = NULL;

	if (disk_form_create_file(form, path, &create, a->loop, &err))
		return 0;
	return cli_complain(CLI_FAILURE, a->verb, "%s", err->message);
}

int image_form_measure(const struct image_args *a, const struct disk_form *form, uint64_t size,
		       uint64_t data, uint64_t *ret_bytes)
{
	const struct disk_form_create o = options_of(a, size);

	if (!form->measure)
		return cli_complain(CLI_FAILURE, a->verb, "what a %s image needs is not known",
				    form->title);
	*ret_bytes = form->measure(&o, data);
	return 0;
}
