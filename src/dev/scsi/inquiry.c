// SPDX-License-Identifier: Apache-2.0
/* inquiry.c - who a unit is: INQUIRY and its pages (SPC-4 6.6 and 7.8, SBC-3 6.6), REPORT LUNS (SPC-4 6.33). */
#include <string.h>

#include "base/bits.h"
#include "dev/scsi/scsi_int.h"

#define VENDOR "SIKA    "
#define INQUIRY_BYTES 36u
#define PAGE_BYTES    64u

#define NOBODY 0x7fu /* peripheral qualifier 3 and device type 1f: no such unit */

static uint8_t device_type(const struct scsi_unit *unit)
{
	return unit->kind == SCSI_CDROM ? DEVICE_CDROM : DEVICE_DISK;
}

static void standard(struct scsi_command *c, size_t allocation)
{
	const struct scsi_unit *unit = c->unit;
	uint8_t data[INQUIRY_BYTES] = { 0 };

	data[0] = unit ? device_type(unit) : NOBODY;
	data[1] = unit && unit->kind == SCSI_CDROM ? 0x80 : 0; /* removable */
	data[2] = 6; /* SPC-4 */
	data[3] = 0x12; /* HISUP, response data format 2 */
	data[4] = INQUIRY_BYTES - 5;
	data[7] = 0x02; /* CMDQUE */
	memcpy(data + 8, VENDOR, 8);
	memcpy(data + 16, unit && unit->kind == SCSI_CDROM ? "CD-ROM          " : "DISK            ", 16);
	memcpy(data + 32, "1   ", 4);
	scsi_answer(c, data, sizeof(data), allocation);
}

/* ---- vital product data ---- */

static size_t page_serial(const struct scsi_unit *unit, uint8_t *p)
{
	size_t n = strlen(unit->serial);

	memcpy(p, unit->serial, n);
	return n;
}

/* FNV-1a. */
static uint64_t hash(const char *text)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (; *text; text++)
		h = (h ^ (uint8_t)*text) * 0x100000001b3u;
	return h;
}

/* 7.8.6: by vendor and serial number, and as a locally assigned NAA name. */
static size_t page_identification(const struct scsi_unit *unit, uint8_t *p)
{
	size_t n = strlen(unit->serial);

	p[0] = 2; /* ASCII */
	p[1] = 1; /* by T10 vendor, of the unit */
	p[3] = (uint8_t)(8 + n);
	memcpy(p + 4, VENDOR, 8);
	memcpy(p + 12, unit->serial, n);
	p += 12 + n;
	p[0] = 1; /* binary */
	p[1] = 3; /* NAA */
	p[3] = 8;
	store_be64(p + 4, 3ull << 60 | hash(unit->serial) >> 4);
	return 12 + n + 12;
}

/* SBC-3 6.6.3 */
static size_t page_block_limits(const struct scsi_unit *unit, uint8_t *p)
{
	uint32_t range = (uint32_t)(MAX_RANGE_BYTES / unit->block_bytes);
	uint32_t physical = unit->disk->block_bytes / unit->block_bytes;

	p -= 4; /* offsets are those of the page with its header */
	p[4] = 1; /* WSNZ: no WRITE SAME of length 0 */
	store_be16(p + 6, physical > 1 ? (uint16_t)physical : 1);
	store_be32(p + 8, MAX_TRANSFER_BYTES / unit->block_bytes);
	if (unit_is_thin(unit)) {
		store_be32(p + 20, range);
		store_be32(p + 24, MAX_UNMAP_RANGES);
		store_be32(p + 28, physical > 1 ? physical : 1);
	}
	store_be64(p + 36, range);
	return 60;
}

/* 6.6.2: does not rotate. */
static size_t page_characteristics(const struct scsi_unit *unit, uint8_t *p)
{
	store_be16(p, 1);
	return 60;
}

/* 6.6.4: UNMAP and both WRITE SAME give blocks up; what those read then is not promised, but by WRITE SAME. */
static size_t page_provisioning(const struct scsi_unit *unit, uint8_t *p)
{
	if (unit_is_thin(unit)) {
		p[1] = 0x80 | 0x40 | 0x20; /* LBPU, LBPWS, LBPWS10 */
		p[2] = 2; /* thin */
	}
	return 4;
}

static size_t page_list(const struct scsi_unit *unit, uint8_t *p);

static const struct page {
	uint8_t code;
	uint8_t kinds;
	size_t (*fill)(const struct scsi_unit *unit, uint8_t *p); /* PAGE_BYTES of zeros; bytes used */
} pages[] = {
	{ 0x00, SCSI_DISK | SCSI_CDROM, page_list },
	{ 0x80, SCSI_DISK | SCSI_CDROM, page_serial },
	{ 0x83, SCSI_DISK | SCSI_CDROM, page_identification },
	{ 0xb0, SCSI_DISK, page_block_limits },
	{ 0xb1, SCSI_DISK, page_characteristics },
	{ 0xb2, SCSI_DISK, page_provisioning },
};

static size_t page_list(const struct scsi_unit *unit, uint8_t *p)
{
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(pages); i++)
		if (pages[i].kinds & unit->kind)
			p[n++] = pages[i].code;
	return n;
}

void scsi_inquiry(struct scsi_command *c)
{
	size_t allocation = load_be16(c->cdb + 3);
	uint8_t data[4 + PAGE_BYTES] = { 0 };
	size_t n;

	if (!(c->cdb[1] & 1)) {
		if (c->cdb[2])
			scsi_fail(c, SENSE_INVALID_FIELD);
		else
			standard(c, allocation);
		return;
	}
	for (size_t i = 0; c->unit && i < ARRAY_SIZE(pages); i++) {
		if (pages[i].code != c->cdb[2] || !(pages[i].kinds & c->unit->kind))
			continue;
		n = pages[i].fill(c->unit, data + 4);
		data[0] = device_type(c->unit);
		data[1] = pages[i].code;
		store_be16(data + 2, (uint16_t)n);
		scsi_answer(c, data, 4 + n, allocation);
		return;
	}
	scsi_fail(c, SENSE_INVALID_FIELD);
}

void scsi_report_luns(struct scsi_command *c)
{
	uint32_t allocation = load_be32(c->cdb + 6);
	uint8_t data[8 + 8 * SCSI_MAX_UNITS] = { 0 };
	/* 1: well-known units only, of which there are none. */
	unsigned count = c->cdb[2] == 1 ? 0 : c->target->count;

	if (c->cdb[2] > 2 || allocation < 16) {
		scsi_fail(c, SENSE_INVALID_FIELD);
		return;
	}
	store_be32(data, count * 8);
	for (unsigned i = 0; i < count; i++)
		data[8 + 8 * i + 1] = (uint8_t)c->target->units[i]->lun; /* SAM-5 4.7.7.2 */
	scsi_answer(c, data, 8 + 8 * (size_t)count, allocation);
}
