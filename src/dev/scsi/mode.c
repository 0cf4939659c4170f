// SPDX-License-Identifier: Apache-2.0
/* mode.c - MODE SENSE and MODE SELECT: SPC-4 6.11 to 6.14 and 7.5, SBC-3 6.5, MMC-6 7. */
#include <string.h>

#include "base/bits.h"
#include "dev/scsi/scsi_int.h"

#define ALL_PAGES 0x3fu

#define CONTROL_CURRENT	   0u
#define CONTROL_CHANGEABLE 1u
#define CONTROL_DEFAULT	   2u
#define CONTROL_SAVED	   3u

#define MODE_BYTES 256u

/* Each fills in a page behind its two bytes of header, which are zeros. */

/* SBC-3 6.5.8: what can be recovered is, without a word. */
static void page_recovery(const struct scsi_unit *unit, uint8_t *p)
{
	if (unit->kind == SCSI_DISK)
		p[2] = 0x80 | 0x40; /* blocks are given another place, by writes and by reads */
}

#define WCE 0x04u

/* SBC-3 6.5.5: WCE, unless each change is durable anyway. */
static bool has_cache(const struct scsi_unit *unit)
{
	return !unit->disk->readonly && !unit->disk->writethrough;
}

static void page_caching(const struct scsi_unit *unit, uint8_t *p)
{
	if (has_cache(unit) && !unit->cache_is_off)
		p[2] = WCE;
}

static void mask_caching(const struct scsi_unit *unit, uint8_t *p)
{
	if (has_cache(unit))
		p[2] = WCE;
}

static void select_caching(struct scsi_unit *unit, const uint8_t *p)
{
	unit->cache_is_off = has_cache(unit) && !(p[2] & WCE);
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
	/* Where something can be changed: ones in what can; take it over. */
	void (*mask)(const struct scsi_unit *unit, uint8_t *p);
	void (*select)(struct scsi_unit *unit, const uint8_t *p);
} pages[] = {
	{ 0x01, SCSI_DISK | SCSI_CDROM, 10, page_recovery, NULL, NULL },
	{ 0x08, SCSI_DISK, 18, page_caching, mask_caching, select_caching },
	{ 0x0a, SCSI_DISK | SCSI_CDROM, 10, page_control, NULL, NULL },
	{ 0x1c, SCSI_DISK | SCSI_CDROM, 10, page_exceptions, NULL, NULL },
	{ 0x2a, SCSI_CDROM, 18, page_capabilities, NULL, NULL },
};

#define PAGE_MAX_BYTES 20u

/* Current values, what can be changed, or those by default. */
static void page_store(const struct scsi_unit *unit, const struct page *page, uint8_t control,
		       uint8_t *p)
{
	struct scsi_unit fresh = *unit;

	fresh.cache_is_off = false;
	if (control != CONTROL_CHANGEABLE)
		page->fill(control == CONTROL_DEFAULT ? &fresh : unit, p);
	else if (page->mask)
		page->mask(unit, p);
	p[0] = page->code;
	p[1] = page->bytes;
}

/* Pages at @p; returns their bytes. */
static size_t pages_store(const struct scsi_unit *unit, uint8_t wanted, uint8_t control, uint8_t *p)
{
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		if (!(pages[i].kinds & unit->kind) || (wanted != ALL_PAGES && wanted != pages[i].code))
			continue;
		page_store(unit, &pages[i], control, p + n);
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
	n = pages_store(unit, c->cdb[2] & 0x3f, c->cdb[2] >> 6, data + at);
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

/* ---- MODE SELECT ---- */

#define SELECT_PF 0x10u
#define SELECT_SP 0x01u

static const struct page *page_find(const struct scsi_unit *unit, uint8_t code)
{
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++)
		if ((pages[i].kinds & unit->kind) && pages[i].code == code)
			return &pages[i];
	return NULL;
}

/* One page of the list, with @room bytes up to its end; 0 or what is wrong. SPC-4 6.11: what cannot
 * be changed has to be as it is. */
static uint32_t page_check(const struct scsi_unit *unit, const uint8_t *p, size_t room)
{
	uint8_t now[PAGE_MAX_BYTES] = { 0 }, mask[PAGE_MAX_BYTES] = { 0 };
	const struct page *page;

	if (room < 2 || room - 2 < p[1])
		return SENSE_LIST_LENGTH;
	page = p[0] & 0x40 ? NULL : page_find(unit, p[0] & 0x3f);
	if (!page || p[1] != page->bytes)
		return SENSE_INVALID_PARAMETER;
	page->fill(unit, now);
	if (page->mask)
		page->mask(unit, mask);
	for (unsigned i = 2; i < 2u + page->bytes; i++)
		if ((p[i] ^ now[i]) & ~mask[i])
			return SENSE_INVALID_PARAMETER;
	return 0;
}

/* Header and block descriptor. Where the pages begin, or 0 when there is something wrong. */
static size_t select_header(const struct scsi_unit *unit, const uint8_t *list, size_t header)
{
	size_t descriptors = header == 4 ? list[3] : load_be16(list + 6);

	if (descriptors == 0)
		return header;
	/* LONGLBA; one of eight bytes. The number of blocks is not the driver's to choose. */
	if (unit->kind != SCSI_DISK || descriptors != 8 || (header == 8 && (list[4] & 1)) ||
	    (load_be32(list + header + 4) & 0xffffff) != unit->block_bytes)
		return 0;
	return header + descriptors;
}

/* All of it is right before any of it is done. */
static uint32_t select_pages(struct scsi_unit *unit, const uint8_t *list, size_t bytes, size_t at)
{
	uint32_t sense;

	for (size_t i = at; i < bytes; i += 2u + list[i + 1]) {
		sense = page_check(unit, list + i, bytes - i);
		if (sense)
			return sense;
	}
	for (size_t i = at; i < bytes; i += 2u + list[i + 1]) {
		const struct page *page = page_find(unit, list[i] & 0x3f);

		if (page->select)
			page->select(unit, list + i);
	}
	return 0;
}

/* Nothing but what comes behind. */
static bool next_nothing(struct scsi_command *c)
{
	return false;
}

static void mode_select(struct scsi_command *c, size_t header, size_t length)
{
	uint8_t list[MODE_BYTES] = { 0 };
	uint32_t sense;
	size_t at;

	/* Pages as they are here (PF), and none is saved (SP). */
	if ((c->cdb[1] & (SELECT_PF | SELECT_SP)) != SELECT_PF) {
		scsi_fail(c, SENSE_INVALID_FIELD);
		return;
	}
	if (length == 0) {
		scsi_good(c);
		return;
	}
	if (length > sizeof(list) || length > c->out_bytes || length < header) {
		scsi_fail(c, SENSE_LIST_LENGTH);
		return;
	}
	c->out_done = scsi_take(c, list, length);
	at = select_header(c->unit, list, header);
	if (at > length)
		sense = SENSE_LIST_LENGTH;
	else
		sense = at ? select_pages(c->unit, list, length, at) : SENSE_INVALID_PARAMETER;
	if (sense) {
		scsi_fail(c, sense);
		return;
	}
	/* SBC-3 4.15.4: what was in the cache when it was turned off does not stay there. */
	c->flush_after = c->unit->cache_is_off;
	scsi_run_steps(c, next_nothing);
}

void scsi_mode_select_6(struct scsi_command *c)
{
	mode_select(c, 4, c->cdb[4]);
}

void scsi_mode_select_10(struct scsi_command *c)
{
	mode_select(c, 8, load_be16(c->cdb + 7));
}
