// SPDX-License-Identifier: Apache-2.0
/* cdrom.c - what CD-ROM drives do beside reading: MMC-6 section 6. Data in one track of one session. */
#include <string.h>

#include "base/bits.h"
#include "dev/scsi/scsi_int.h"

#define PROFILE_CDROM 0x0008u
#define PROFILE_DVD   0x0010u
#define CD_BLOCKS     (80u * 60u * 75u) /* what fits on a CD: 80 minutes */

#define LEAD_OUT 0xaau
#define DATA_TRACK 0x14u /* ADR 1, control 4 */

/* Media events, 6.6.2.6.2. */
#define EVENT_NEW     2u
#define EVENT_REMOVAL 3u

/* SBC-3 5.20, MMC-6 6.43. A disk does not stop, but is flushed. */
static bool next_stop(struct scsi_command *c)
{
	if (!c->blocks)
		return false;
	c->blocks = 0;
	c->req = (struct disk_req){ .op = DISK_FLUSH };
	return true;
}

static void move_tray(struct scsi_command *c, bool open)
{
	struct scsi_unit *unit = c->unit;

	if (open && unit->is_locked && !unit->is_open) {
		scsi_fail(c, SENSE_REMOVAL_PREVENTED);
		return;
	}
	if (open != unit->is_open) {
		unit->is_open = open;
		unit->media_event = open ? EVENT_REMOVAL : EVENT_NEW;
		if (!open)
			scsi_unit_attention(unit, SENSE_UA_MEDIUM);
	}
	scsi_good(c);
}

void scsi_start_stop(struct scsi_command *c)
{
	bool start = c->cdb[4] & 1, eject = c->cdb[4] & 2, power = c->cdb[4] & 0xf0;

	if (!power && eject && c->unit->kind == SCSI_CDROM) {
		move_tray(c, !start);
		return;
	}
	if (power || start || c->unit->disk->readonly) {
		scsi_good(c);
		return;
	}
	c->blocks = 1;
	scsi_run_steps(c, next_stop);
}

void scsi_prevent_removal(struct scsi_command *c)
{
	c->unit->is_locked = c->cdb[4] & 1;
	scsi_good(c);
}

/* As minute, second and frame, or as it is; MMC-6 table 634. */
static void address_store(uint8_t *p, uint64_t lba, bool msf)
{
	if (!msf) {
		store_be32(p, lba > UINT32_MAX ? UINT32_MAX : (uint32_t)lba);
		return;
	}
	lba += 150;
	p[0] = 0;
	p[1] = lba / 75 / 60 > 255 ? 255 : (uint8_t)(lba / 75 / 60);
	p[2] = (uint8_t)(lba / 75 % 60);
	p[3] = (uint8_t)(lba % 75);
}

static void track_store(uint8_t *p, uint8_t track, uint64_t lba, bool msf)
{
	p[1] = DATA_TRACK;
	p[2] = track;
	address_store(p + 4, lba, msf);
}

/* 6.25: tracks, and sessions. */
void scsi_read_toc(struct scsi_command *c)
{
	uint8_t format = c->cdb[2] & 0x0f, first = c->cdb[6];
	bool msf = c->cdb[1] & 2;
	uint8_t data[20] = { 0 };
	size_t n = 4;

	/* Where drives had it before MMC. */
	if (!format)
		format = c->cdb[9] >> 6;
	if (format > 1 || (format == 0 && first > 1 && first != LEAD_OUT)) {
		scsi_fail(c, SENSE_INVALID_FIELD);
		return;
	}
	data[2] = data[3] = 1;
	if (format == 1 || first <= 1) {
		track_store(data + n, 1, 0, msf);
		n += 8;
	}
	if (format == 0) {
		track_store(data + n, LEAD_OUT, unit_blocks(c->unit), msf);
		n += 8;
	}
	store_be16(data, (uint16_t)(n - 2));
	scsi_answer(c, data, n, load_be16(c->cdb + 7));
}

/* ---- features, 5.3 and 6.5 ---- */

static uint16_t profile_of(const struct scsi_unit *unit)
{
	if (unit->is_open)
		return 0;
	return unit_blocks(unit) > CD_BLOCKS ? PROFILE_DVD : PROFILE_CDROM;
}

struct feature {
	uint16_t code;
	uint8_t version; /* as it stands in the third byte, with PERSISTENT */
	uint8_t bytes;
	uint8_t data[8];
};

static const struct feature features[] = {
	{ 0x0000, 0x03, 8, { 0, PROFILE_DVD, 0, 0, 0, PROFILE_CDROM, 0, 0 } },
	{ 0x0001, 0x0b, 8, { 0, 0, 0, 1, 0, 0, 0, 0 } }, /* core: SCSI */
	{ 0x0003, 0x03, 4, { 0x29, 0, 0, 0 } }, /* removable: tray that locks and ejects */
	{ 0x0010, 0x00, 8, { 0, 0, 8, 0, 0, 1, 0, 0 } }, /* random readable: 2048 bytes */
	{ 0x001e, 0x08, 4, { 0, 0, 0, 0 } }, /* CD read */
	{ 0x001f, 0x08, 4, { 0, 0, 0, 0 } }, /* DVD read */
};

#define FEATURES_BYTES (8u + ARRAY_SIZE(features) * 12u)

static bool is_current(const struct feature *f, uint16_t profile)
{
	switch (f->code) {
	case 0x0010:
		return profile != 0;
	case 0x001e:
		return profile == PROFILE_CDROM;
	case 0x001f:
		return profile == PROFILE_DVD;
	default:
		return true;
	}
}

static size_t feature_store(uint8_t *p, const struct feature *f, uint16_t profile)
{
	store_be16(p, f->code);
	p[2] = f->version | (is_current(f, profile) ? 1 : 0);
	p[3] = f->bytes;
	memcpy(p + 4, f->data, f->bytes);
	/* Which of the list is the current one. */
	for (unsigned i = 0; f->code == 0 && i < 8; i += 4)
		p[4 + i + 2] = profile && f->data[i + 1] == profile;
	return 4u + f->bytes;
}

void scsi_get_configuration(struct scsi_command *c)
{
	unsigned kind = c->cdb[1] & 3, start = load_be16(c->cdb + 2);
	uint16_t profile = profile_of(c->unit);
	uint8_t data[FEATURES_BYTES] = { 0 };
	size_t n = 8;

	if (kind == 3) {
		scsi_fail(c, SENSE_INVALID_FIELD);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature *f = &features[i];

		/* From there on all, or those that are current; or this one. */
		if (kind == 2 ? f->code == start :
				f->code >= start && (kind == 0 || is_current(f, profile)))
			n += feature_store(data + n, f, profile);
	}
	store_be32(data, (uint32_t)(n - 4));
	store_be16(data + 6, profile);
	scsi_answer(c, data, n, load_be16(c->cdb + 7));
}

/* 6.6, of which drivers ask for the media events, by polling. */
void scsi_get_event(struct scsi_command *c)
{
	struct scsi_unit *unit = c->unit;
	uint8_t data[8] = { 0 };
	size_t n = 4;

	if (!(c->cdb[1] & 1)) {
		scsi_fail(c, SENSE_INVALID_FIELD);
		return;
	}
	data[3] = 0x10; /* media events are there */
	if (c->cdb[4] & 0x10) {
		data[2] = 4;
		data[4] = unit->media_event;
		data[5] = unit->is_open ? 1 : 2; /* the tray is open; or a medium is there */
		unit->media_event = 0;
		n = 8;
	} else {
		data[2] = 0x80; /* none of those asked for */
	}
	store_be16(data, (uint16_t)(n - 2));
	scsi_answer(c, data, n, load_be16(c->cdb + 7));
}

/* 6.22: complete, with one session of one track. */
void scsi_read_disc_information(struct scsi_command *c)
{
	uint8_t data[34] = { 0 };

	if (c->cdb[1] & 7) {
		scsi_fail(c, SENSE_INVALID_FIELD);
		return;
	}
	store_be16(data, sizeof(data) - 2);
	data[2] = 0x0e; /* last session and disc are complete */
	data[3] = data[4] = data[5] = data[6] = 1;
	data[7] = 0x20; /* URU */
	memset(data + 16, 0xff, 8); /* no further lead-in and lead-out */
	scsi_answer(c, data, sizeof(data), load_be16(c->cdb + 7));
}
