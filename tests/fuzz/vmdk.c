// SPDX-License-Identifier: Apache-2.0
/* vmdk.c - fuzz target: a VMDK image with bytes of the fuzzer's choice in its header, descriptor
 * and tables; and a descriptor by itself. */
#include <glib.h>

#include "disk/formats/vmdk.h"
#include "form.h"

static void parse(const uint8_t *bytes, size_t size)
{
	static const char *const lines[] = {
		"CID=",		  "parentCID = ",      "createType=\"",	      "parentFileNameHint=",
		"RW 1 SPARSE \"", "RW 77 FLAT \"a\" ", "RDONLY 5 VMFS \"x\"", "\n"
	};
	g_autoptr(GString) text = g_string_new("# Disk DescriptorFile\n");
	g_autoptr(GError) err = NULL;
	struct vmdk_text t;

	for (size_t i = 0; i < size; i++) {
		if (bytes[i] >= 0xf0)
			g_string_append(text, lines[bytes[i] % G_N_ELEMENTS(lines)]);
		else if (bytes[i])
			g_string_append_c(text, (char)bytes[i]);
	}
	if (!vmdk_text_parse(text->str, &t, &err) && !err)
		g_error("no reason given");
	vmdk_text_fini(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const char *const options[] = { NULL, "zeroed_grain=on",
					       "subformat=streamOptimized" };
	static const struct form_fuzz fuzz = {
		.name = "vmdk", .options = options, .option_count = 3, .room = 1u << 20
	};

	if (size > 0 && bytes[0] >= 0xe0)
		parse(bytes + 1, size - 1);
	return form_fuzz(&fuzz, bytes, size);
}
