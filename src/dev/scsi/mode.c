// SPDX-License-Identifier: Apache-2.0
/* mode.c - MODE SENSE: SPC-4 6.13 and 7.5, SBC-3 6.5, MMC-6 7. Nothing can be changed, so there is no MODE SELECT. */
#include <string.h>

#include "base/bits.h"
#include "dev/scsi/scsi_int.h"

#define ALL_PAGES 0x3fu

#define CONTROL_CURRENT	   0u
#define CONTROL_CHANGEABLE 1u
#define CONTROL_SAVED	   3u

#define MODE_BYTES 256u

/* Each fills in a page behind its two bytes of header, which are zeros. */

/* SBC-3 6.5.8: what can be recovered is, without a word. */
static void page_recovery(const struct scsi_unit *unit, uint8_t *p)
{
	if (unit->kind == SCSI_DISK)
		p[2] = 0x80 | 0x40; /* blocks are given another place, by writes and by reads */
}

/* SBC-3 6.5.5: WCE, unless each change is durable anyway. */
static void page_caching(const struct scsi_unit *unit, uint8_t *p)
{
	if (!unit->disk->readonly && !unit->disk->writethrough)
		p[2] = 0x04;
}

/* SPC-4 7.5.8: commands are done in any order; no limit to how long a unit is busy. */
static void page_control(const struct scsi_unit *unit, uint8_t *p)
{
	p[3] = 0x10;
	store_be16(p + 8, 0xffff);
}

/* SPC-4 7.5.13: no exception is ever reported. */
static void page_exceptions(const struct scsi_unit *unit, uint8_t *p)
{
	p[2] = 0x08; /* DEXCPT */
}

/* MMC-3 5.5.10, which MMC-6 keeps for old drivers: reads CDs and DVDs, has a tray that locks. */
static void page_capabilities(const struct scsi_unit *unit, uint8_t *p)
{
	p[2] = 0x3b; /* CD-R, CD-RW, DVD-ROM, DVD-R, DVD-RAM are read */
	p[4] = 0x70; /* multisession, mode 2 forms 1 and 2 */
	p[6] = 0x20 | 0x08 | 0x01 | (unit->is_locked ? 0x02 : 0);
	store_be16(p + 8, 50 * 176); /* kB/s */
	store_be16(p + 12, 512); /* KiB of buffer */
	store_be16(p + 14, 50 * 176);
}

static const struct page {
	uint8_t code;
	uint8_t kinds;
	uint8_t bytes; /* behind the header */
	void (*fill)(const struct scsi_unit *unit, uint8_t *p);
} pages[] = {
	{ 0x01, SCSI_DISK | SCSI_CDROM, 10, page_recovery },
	{ 0x08, SCSI_DISK, 18, page_caching },
	{ 0x0a, SCSI_DISK | SCSI_CDROM, 10, page_control },
	{ 0x1c, SCSI_DISK | SCSI_CDROM, 10, page_exceptions },
	{ 0x2a, SCSI_CDROM, 18, page_capabilities },
};

/* Pages at @p; returns their bytes. */
static size_t pages_store(const struct scsi_unit *unit, uint8_t wanted, bool changeable, uint8_t *p)
{
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		if (!(pages[i].kinds & unit->kind) || (wanted != ALL_PAGES && wanted != pages[i].code))
			continue;
		if (!changeable)
			pages[i].fill(unit, p + n);
		p[n] = pages[i].code;
		p[n + 1] = pages[i].bytes;
		n += 2u + pages[i].bytes;
	}
	return n;
}

/* SBC-3 6.5.2: as many blocks as three bytes can say, and their size. */
static size_t descriptor_store(const struct scsi_unit *unit, uint8_t *p)
{
	uint64_t blocks = unit_blocks(unit);

	store_be32(p, blocks > 0xffffff ? 0xffffff : (uint32_t)blocks);
	store_be32(p + 4, unit->block_bytes);
	return 8;
}

/* @header: its bytes, 4 or 8. Returns the bytes of all, or 0 when there is no such page. */
static size_t mode_store(const struct scsi_command *c, uint8_t *data, size_t header)
{
	const struct scsi_unit *unit = c->unit;
	bool is_disk = unit->kind == SCSI_DISK;
	uint8_t device = 0;
	size_t at = header, n;

	if (is_disk)
		device = 0x10 | (unit->disk->readonly ? 0x80 : 0); /* DPOFUA, WP */
	if (is_disk && !(c->cdb[1] & 0x08))
		at += descriptor_store(unit, data + at);
	data[header == 4 ? 3 : 7] = (uint8_t)(at - header);
	n = pages_store(unit, c->cdb[2] & 0x3f, c->cdb[2] >> 6 == CONTROL_CHANGEABLE, data + at);
	if (n == 0)
		return 0;
	at += n;
	data[header == 4 ? 2 : 3] = device;
	if (header == 4)
		data[0] = (uint8_t)(at - 1);
	else
		store_be16(data, (uint16_t)(at - 2));
	return at;
}

static void mode_sense(struct scsi_command *c, size_t header, size_t allocation)
{
	uint8_t data[MODE_BYTES] = { 0 };
	uint8_t subpage = c->cdb[3];
	size_t n;

	if (c->cdb[2] >> 6 == CONTROL_SAVED) {
		scsi_fail(c, SENSE_SAVING);
		return;
	}
	n = subpage && !(subpage == 0xff && (c->cdb[2] & 0x3f) == ALL_PAGES) ? 0 :
									       mode_store(c, data, header);
	if (n)
		scsi_answer(c, data, n, allocation);
	else
		scsi_fail(c, SENSE_INVALID_FIELD);
}

void scsi_mode_sense_6(struct scsi_command *c)
{
	mode_sense(c, 4, c->cdb[4]);
}

void scsi_mode_sense_10(struct scsi_command *c)
{
	mode_sense(c, 8, load_be16(c->cdb + 7));
}
