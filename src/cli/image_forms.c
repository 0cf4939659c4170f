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

static struct disk *open_below(const struct image_args *a, const char *name, const struct disk_form *form)
{
	g_autofree char *folder = g_path_get_dirname(a->files[0]);
	g_autofree char *path = g_path_is_absolute(name) ? g_strdup(name)
							 : g_build_filename(folder, name, NULL);

	return image_open(a, path, (struct image_open){ .format = form->name });
}

int image_form_make(struct image_args *a, const char *path, const struct qcow2_create *o,
		    const struct disk_form *form)
{
	struct disk_form_create create = options_of(a, o->size_bytes);
	g_autoptr(GError) err = NULL;
	bool made;

	if (!a->made)
		a->made = g_ptr_array_new_with_free_func(g_free);
	create.made = a->made;
	create.backing = o->backing;
	if (o->backing && !(create.parent = open_below(a, o->backing, form)))
		return CLI_FAILURE;
	made = disk_form_create_file(form, path, &create, a->loop, &err);
	disk_close(create.parent);
	return made ? 0 : cli_complain(CLI_FAILURE, a->verb, "%s", err->message);
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
