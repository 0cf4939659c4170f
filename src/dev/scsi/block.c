// SPDX-License-Identifier: Apache-2.0
/* block.c - what disks and drives do with blocks: SBC-3 section 5. */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "dev/scsi/scsi_int.h"

#define FUA	      0x08u
#define PATTERN_BYTES (256u << 10)

/* ---- which blocks ---- */

/* SPC-4 4.2.5: the group of the operation code tells where address and length lie. */
static void blocks_parse(struct scsi_command *c)
{
	switch (c->cdb[0] >> 5) {
	case 0:
		c->lba = load_be32(c->cdb) & 0x1fffff;
		c->blocks = c->cdb[4] ? c->cdb[4] : 256;
		break;
	case 4:
		c->lba = load_be64(c->cdb + 2);
		c->blocks = load_be32(c->cdb + 10);
		break;
	case 5:
		c->lba = load_be32(c->cdb + 2);
		c->blocks = load_be32(c->cdb + 6);
		break;
	default:
		c->lba = load_be32(c->cdb + 2);
		c->blocks = load_be16(c->cdb + 7);
	}
}

static bool blocks_exist(const struct scsi_unit *unit, uint64_t lba, uint64_t blocks)
{
	uint64_t total = unit_blocks(unit);

	return lba <= total && blocks <= total - lba;
}

/* ---- reading and writing ---- */

/* The first @bytes of @from, for the disk to change. */
static unsigned cut(struct iovec *iov, const struct iovec *from, unsigned count, uint64_t bytes)
{
	unsigned n = 0;

	for (unsigned i = 0; i < count && bytes > 0; i++) {
		iov[n] = from[i];
		if (iov[n].iov_len > bytes)
			iov[n].iov_len = bytes;
		bytes -= iov[n].iov_len;
		if (iov[n].iov_len)
			n++;
	}
	return n;
}

static bool next_data(struct scsi_command *c)
{
	uint64_t bytes = c->blocks * c->unit->block_bytes;

	if (!bytes)
		return false;
	c->req = (struct disk_req){
		.op = c->is_write ? DISK_WRITE : DISK_READ,
		.offset = c->lba * c->unit->block_bytes,
		.len = bytes,
		.iov = c->iov,
	};
	c->req.iov_count = c->is_write ? cut(c->iov, c->out, c->out_count, bytes) :
					 cut(c->iov, c->in, c->in_count, bytes);
	*(c->is_write ? &c->out_done : &c->in_done) = bytes;
	c->blocks = 0;
	return true;
}

static void start_data(struct scsi_command *c, bool is_write)
{
	uint64_t room = is_write ? c->out_bytes : c->in_bytes;

	c->is_write = is_write;
	if (!blocks_exist(c->unit, c->lba, c->blocks)) {
		scsi_fail(c, SENSE_LBA_OUT_OF_RANGE);
	} else if (c->blocks > MAX_TRANSFER_BYTES / c->unit->block_bytes) {
		scsi_fail(c, SENSE_INVALID_FIELD);
	} else if (c->blocks * c->unit->block_bytes > room) {
		c->overrun = true;
		scsi_good(c);
	} else {
		scsi_run_steps(c, next_data);
	}
}

/* No protection information, of whatever kind is asked for: RDPROTECT and WRPROTECT are 0. */
static void data(struct scsi_command *c, bool is_write)
{
	blocks_parse(c);
	if (is_write && (c->cdb[1] & FUA))
		c->flush_after = true;
	if (c->cdb[1] & 0xe0)
		scsi_fail(c, SENSE_INVALID_FIELD);
	else
		start_data(c, is_write);
}

void scsi_read(struct scsi_command *c)
{
	data(c, false);
}

void scsi_write(struct scsi_command *c)
{
	data(c, true);
}

void scsi_read_6(struct scsi_command *c)
{
	blocks_parse(c);
	start_data(c, false);
}

void scsi_write_6(struct scsi_command *c)
{
	blocks_parse(c);
	start_data(c, true);
}

/* 5.29: the medium is fine; comparing with what the guest sends (BYTCHK) is not there. */
void scsi_verify(struct scsi_command *c)
{
	blocks_parse(c);
	if (c->cdb[1] & 0xe6)
		scsi_fail(c, SENSE_INVALID_FIELD);
	else if (!blocks_exist(c->unit, c->lba, c->blocks))
		scsi_fail(c, SENSE_LBA_OUT_OF_RANGE);
	else
		scsi_good(c);
}

static bool next_flush(struct scsi_command *c)
{
	if (!c->blocks)
		return false;
	c->blocks = 0;
	c->req = (struct disk_req){ .op = DISK_FLUSH };
	return true;
}

/* 5.21: all of the cache, whatever part of it is asked for. */
void scsi_synchronize(struct scsi_command *c)
{
	blocks_parse(c);
	if (!blocks_exist(c->unit, c->lba, c->blocks)) {
		scsi_fail(c, SENSE_LBA_OUT_OF_RANGE);
		return;
	}
	c->blocks = 1;
	scsi_run_steps(c, next_flush);
}

/* ---- giving blocks up ---- */

static bool next_unmap(struct scsi_command *c)
{
	while (c->buffer_at < c->buffer_bytes) {
		const uint8_t *range = c->buffer + c->buffer_at;
		uint64_t blocks = load_be32(range + 8);

		c->buffer_at += 16;
		if (!blocks)
			continue;
		c->req = (struct disk_req){
			.op = DISK_DISCARD,
			.offset = load_be64(range) * c->unit->block_bytes,
			.len = blocks * c->unit->block_bytes,
		};
		return true;
	}
	return false;
}

/* All of the list, before any of it is done. 0 or what is wrong. */
static uint32_t check_ranges(const struct scsi_command *c)
{
	for (size_t at = 8; at < c->buffer_bytes; at += 16) {
		uint64_t lba = load_be64(c->buffer + at);
		uint64_t blocks = load_be32(c->buffer + at + 8);

		if (blocks > MAX_RANGE_BYTES / c->unit->block_bytes)
			return SENSE_INVALID_PARAMETER;
		if (!blocks_exist(c->unit, lba, blocks))
			return SENSE_LBA_OUT_OF_RANGE;
	}
	return 0;
}

/* 5.28 */
void scsi_unmap(struct scsi_command *c)
{
	size_t length = load_be16(c->cdb + 7), ranges;
	uint32_t sense;

	if (!unit_is_thin(c->unit)) {
		scsi_fail(c, SENSE_INVALID_OPCODE);
		return;
	}
	if (c->cdb[1] & 1) { /* ANCHOR */
		scsi_fail(c, SENSE_INVALID_FIELD);
		return;
	}
	if (length == 0) {
		scsi_good(c);
		return;
	}
	if (length < 8 || length > 8 + 16 * MAX_UNMAP_RANGES || length > c->out_bytes) {
		scsi_fail(c, SENSE_LIST_LENGTH);
		return;
	}
	c->buffer = malloc(length);
	if (!c->buffer) {
		scsi_fail(c, SENSE_TARGET_FAILURE);
		return;
	}
	c->out_done = scsi_take(c, c->buffer, length);
	ranges = load_be16(c->buffer + 2);
	if (ranges > length - 8)
		ranges = length - 8;
	c->buffer_bytes = 8 + ranges / 16 * 16;
	c->buffer_at = 8;
	sense = check_ranges(c);
	if (sense)
		scsi_fail(c, sense);
	else
		scsi_run_steps(c, next_unmap);
}

static bool next_zeroes(struct scsi_command *c)
{
	if (!c->blocks)
		return false;
	c->req = (struct disk_req){
		.op = DISK_WRITE_ZEROES,
		.unmap = (c->cdb[1] & 0x08) && unit_is_thin(c->unit),
		.offset = c->lba * c->unit->block_bytes,
		.len = c->blocks * c->unit->block_bytes,
	};
	c->blocks = 0;
	return true;
}

static bool next_pattern(struct scsi_command *c)
{
	uint64_t blocks = c->buffer_bytes / c->unit->block_bytes;

	if (!c->blocks)
		return false;
	if (blocks > c->blocks)
		blocks = c->blocks;
	c->iov[0] = (struct iovec){ c->buffer, blocks * c->unit->block_bytes };
	c->req = (struct disk_req){
		.op = DISK_WRITE,
		.offset = c->lba * c->unit->block_bytes,
		.len = blocks * c->unit->block_bytes,
		.iov = c->iov,
		.iov_count = 1,
	};
	c->lba += blocks;
	c->blocks -= blocks;
	return true;
}

static bool is_zero(const uint8_t *p, size_t bytes)
{
	return !*p && !memcmp(p, p + 1, bytes - 1);
}

/* One block from the guest, as often as is asked for. */
static void start_pattern(struct scsi_command *c)
{
	uint64_t want = c->blocks * c->unit->block_bytes;
	size_t block = c->unit->block_bytes;

	c->buffer_bytes = want < PATTERN_BYTES ? (size_t)want : PATTERN_BYTES;
	c->buffer = malloc(c->buffer_bytes);
	if (!c->buffer) {
		scsi_fail(c, SENSE_TARGET_FAILURE);
		return;
	}
	c->out_done = scsi_take(c, c->buffer, block);
	if (is_zero(c->buffer, block)) {
		scsi_run_steps(c, next_zeroes);
		return;
	}
	for (size_t at = block; at < c->buffer_bytes; at += block)
		memcpy(c->buffer + at, c->buffer, block);
	scsi_run_steps(c, next_pattern);
}

/* 5.45 and 5.46. NDOB, the lowest bit, is of the long form: zeros, and no data comes along. */
void scsi_write_same(struct scsi_command *c)
{
	bool no_data = c->cdb[0] == 0x93 && (c->cdb[1] & 1);

	blocks_parse(c);
	if ((c->cdb[1] & 0xf0) || (!no_data && (c->cdb[1] & 1)) || c->blocks == 0 ||
	    c->blocks > MAX_RANGE_BYTES / c->unit->block_bytes) {
		scsi_fail(c, SENSE_INVALID_FIELD);
	} else if (!blocks_exist(c->unit, c->lba, c->blocks)) {
		scsi_fail(c, SENSE_LBA_OUT_OF_RANGE);
	} else if (no_data) {
		scsi_run_steps(c, next_zeroes);
	} else if (c->out_bytes < c->unit->block_bytes) {
		c->overrun = true;
		scsi_good(c);
	} else {
		start_pattern(c);
	}
}

/* ---- how many there are ---- */

void scsi_read_capacity_10(struct scsi_command *c)
{
	uint64_t blocks = unit_blocks(c->unit);
	uint8_t data[8];

	/* 5.15: all ones when there are more, for which the other command is. */
	store_be32(data, blocks > UINT32_MAX ? UINT32_MAX : blocks ? (uint32_t)(blocks - 1) : 0);
	store_be32(data + 4, c->unit->block_bytes);
	scsi_answer(c, data, sizeof(data), sizeof(data));
}

void scsi_read_capacity_16(struct scsi_command *c)
{
	uint64_t blocks = unit_blocks(c->unit);
	uint8_t data[32] = { 0 };

	store_be64(data, blocks ? blocks - 1 : 0);
	store_be32(data + 8, c->unit->block_bytes);
	data[13] = c->unit->disk->block_bytes == 8 * c->unit->block_bytes ? 3 : 0;
	data[14] = unit_is_thin(c->unit) ? 0x80 : 0; /* LBPME */
	scsi_answer(c, data, sizeof(data), load_be32(c->cdb + 10));
}
