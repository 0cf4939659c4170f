// SPDX-License-Identifier: Apache-2.0
/* unit.c - logical units: the table of their commands, and how a command runs and ends. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "dev/scsi/scsi_int.h"

/* ---- the end of a command ---- */

static void finish(struct scsi_command *c, uint8_t status)
{
	free(c->buffer);
	c->buffer = NULL;
	c->status = status;
	c->done(c);
}

void scsi_good(struct scsi_command *c)
{
	finish(c, SCSI_GOOD);
}

void scsi_sense_store(uint8_t sense[SCSI_SENSE_BYTES], uint32_t code)
{
	memset(sense, 0, SCSI_SENSE_BYTES);
	sense[0] = 0x70; /* of this command, fixed format */
	sense[2] = (uint8_t)SCSI_SENSE_KEY(code);
	sense[7] = SCSI_SENSE_BYTES - 8;
	store_be16(sense + 12, (uint16_t)SCSI_SENSE_CODE(code));
}

void scsi_fail(struct scsi_command *c, uint32_t sense)
{
	scsi_sense_store(c->sense, sense);
	c->sense_bytes = SCSI_SENSE_BYTES;
	finish(c, SCSI_CHECK_CONDITION);
}

/* ---- data ---- */

static size_t copy(const struct iovec *iov, unsigned count, uint8_t *flat, size_t bytes, bool to_flat)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < bytes; i++) {
		size_t n = iov[i].iov_len < bytes - done ? iov[i].iov_len : bytes - done;

		if (to_flat)
			memcpy(flat + done, iov[i].iov_base, n);
		else
			memcpy(iov[i].iov_base, flat + done, n);
		done += n;
	}
	return done;
}

size_t scsi_take(const struct scsi_command *c, void *data, size_t bytes)
{
	return copy(c->out, c->out_count, data, bytes, true);
}

void scsi_answer(struct scsi_command *c, const void *data, size_t bytes, size_t allocation)
{
	size_t n = bytes < allocation ? bytes : allocation;

	c->in_done = copy(c->in, c->in_count, (uint8_t *)data, n, false);
	c->overrun = c->in_done < n;
	scsi_good(c);
}

/* ---- requests to the disk, one after another ---- */

static uint32_t sense_of(const struct scsi_command *c, int error)
{
	switch (error) {
	case ENOSPC:
		return SENSE_NO_SPACE;
	case EROFS:
	case EPERM:
		return SENSE_WRITE_PROTECTED;
	case ENOMEM:
		return SENSE_TARGET_FAILURE;
	default:
		return c->req.op == DISK_READ ? SENSE_READ_ERROR : SENSE_WRITE_ERROR;
	}
}

static void steps(struct scsi_command *c);

static void step_done(struct disk_req *req, int result)
{
	struct scsi_command *c = container_of(req, struct scsi_command, req);

	c->result = result;
	c->over = true;
	/* Else steps() is further up the stack, and goes on when this returns. */
	if (!c->submitting)
		steps(c);
}

static void steps(struct scsi_command *c)
{
	struct disk *disk = c->unit->disk;

	for (;;) {
		if (c->result < 0) {
			c->in_done = 0;
			scsi_fail(c, sense_of(c, -c->result));
			return;
		}
		if (!c->next(c)) {
			if (!c->flush_after) {
				scsi_good(c);
				return;
			}
			c->flush_after = false;
			c->req = (struct disk_req){ .op = DISK_FLUSH };
		}
		c->req.done = step_done;
		c->over = false;
		c->submitting = true;
		disk_submit(disk, &c->req);
		/* The first one goes with its batch. */
		if (!c->over && c->again)
			disk_kick(disk);
		c->submitting = false;
		c->again = true;
		if (!c->over)
			return;
	}
}

void scsi_run_steps(struct scsi_command *c, bool (*next)(struct scsi_command *c))
{
	c->next = next;
	c->result = 0;
	steps(c);
}

/* ---- unit attentions ---- */

void scsi_unit_attention(struct scsi_unit *unit, uint32_t sense)
{
	for (unsigned i = 0; i < unit->attention_count; i++)
		if (unit->attentions[i] == sense)
			return;
	/* Full: the oldest one says enough. */
	if (unit->attention_count < MAX_ATTENTIONS)
		unit->attentions[unit->attention_count++] = sense;
}

uint32_t scsi_attention_take(struct scsi_unit *unit)
{
	uint32_t sense = unit->attentions[0];

	if (unit->attention_count == 0)
		return 0;
	unit->attention_count--;
	memmove(unit->attentions, unit->attentions + 1,
		unit->attention_count * sizeof(unit->attentions[0]));
	return sense;
}

void scsi_unit_reset(struct scsi_unit *unit)
{
	unit->is_locked = false;
	scsi_unit_attention(unit, SCSI_UA_RESET);
}

/* ---- commands that need no page of their own ---- */

static void test_unit_ready(struct scsi_command *c)
{
	scsi_good(c);
}

/* SPC-4 6.39. What there is to say was said with the command; unit attentions are told here as well. */
static void request_sense(struct scsi_command *c)
{
	uint8_t sense[SCSI_SENSE_BYTES];

	if (c->cdb[1] & 1) { /* descriptor format */
		scsi_fail(c, SENSE_INVALID_FIELD);
		return;
	}
	scsi_sense_store(sense, c->unit ? scsi_attention_take(c->unit) : SENSE_NO_UNIT);
	scsi_answer(c, sense, sizeof(sense), c->cdb[4]);
}

/* SPC-2 7.21 and 7.22, which old clusters use: of the whole unit. There is one initiator, whose unit
 * it is anyway. Neither extents nor third parties. */
static void reserve(struct scsi_command *c)
{
	bool is_long = c->cdb[0] & 0x40;

	if (c->cdb[1] & (is_long ? 0x13 : 0x11))
		scsi_fail(c, SENSE_INVALID_FIELD);
	else
		scsi_good(c);
}

/* ---- the table ---- */

#define BOTH (SCSI_DISK | SCSI_CDROM)

static const struct scsi_op ops[] = {
	{ 0x00, ANY_ACTION, BOTH, OP_MEDIUM, test_unit_ready },
	{ 0x03, ANY_ACTION, BOTH, OP_QUIET | OP_NOBODY, request_sense },
	{ 0x08, ANY_ACTION, BOTH, OP_MEDIUM, scsi_read_6 },
	{ 0x0a, ANY_ACTION, SCSI_DISK, OP_MEDIUM | OP_WRITE, scsi_write_6 },
	{ 0x12, ANY_ACTION, BOTH, OP_QUIET | OP_NOBODY, scsi_inquiry },
	{ 0x15, ANY_ACTION, BOTH, 0, scsi_mode_select_6 },
	{ 0x16, ANY_ACTION, BOTH, 0, reserve },
	{ 0x17, ANY_ACTION, BOTH, 0, reserve }, /* RELEASE */
	{ 0x1a, ANY_ACTION, BOTH, 0, scsi_mode_sense_6 },
	{ 0x1b, ANY_ACTION, BOTH, 0, scsi_start_stop },
	{ 0x1e, ANY_ACTION, SCSI_CDROM, 0, scsi_prevent_removal },
	{ 0x25, ANY_ACTION, BOTH, OP_MEDIUM, scsi_read_capacity_10 },
	{ 0x28, ANY_ACTION, BOTH, OP_MEDIUM, scsi_read },
	{ 0x2a, ANY_ACTION, SCSI_DISK, OP_MEDIUM | OP_WRITE, scsi_write },
	{ 0x2f, ANY_ACTION, BOTH, OP_MEDIUM, scsi_verify },
	{ 0x35, ANY_ACTION, BOTH, OP_MEDIUM, scsi_synchronize },
	{ 0x41, ANY_ACTION, SCSI_DISK, OP_MEDIUM | OP_WRITE, scsi_write_same },
	{ 0x42, ANY_ACTION, SCSI_DISK, OP_MEDIUM | OP_WRITE, scsi_unmap },
	{ 0x43, ANY_ACTION, SCSI_CDROM, OP_MEDIUM, scsi_read_toc },
	{ 0x46, ANY_ACTION, SCSI_CDROM, OP_QUIET, scsi_get_configuration },
	{ 0x4a, ANY_ACTION, SCSI_CDROM, OP_QUIET, scsi_get_event },
	{ 0x51, ANY_ACTION, SCSI_CDROM, OP_MEDIUM, scsi_read_disc_information },
	{ 0x55, ANY_ACTION, BOTH, 0, scsi_mode_select_10 },
	{ 0x56, ANY_ACTION, BOTH, 0, reserve },
	{ 0x57, ANY_ACTION, BOTH, 0, reserve }, /* RELEASE */
	{ 0x5a, ANY_ACTION, BOTH, 0, scsi_mode_sense_10 },
	{ 0x88, ANY_ACTION, BOTH, OP_MEDIUM, scsi_read },
	{ 0x8a, ANY_ACTION, SCSI_DISK, OP_MEDIUM | OP_WRITE, scsi_write },
	{ 0x8f, ANY_ACTION, BOTH, OP_MEDIUM, scsi_verify },
	{ 0x91, ANY_ACTION, BOTH, OP_MEDIUM, scsi_synchronize },
	{ 0x93, ANY_ACTION, SCSI_DISK, OP_MEDIUM | OP_WRITE, scsi_write_same },
	{ 0x9e, 0x10, SCSI_DISK, OP_MEDIUM, scsi_read_capacity_16 },
	{ 0xa0, ANY_ACTION, BOTH, OP_QUIET | OP_NOBODY, scsi_report_luns },
	{ 0xa8, ANY_ACTION, BOTH, OP_MEDIUM, scsi_read },
	{ 0xaa, ANY_ACTION, SCSI_DISK, OP_MEDIUM | OP_WRITE, scsi_write },
	{ 0xaf, ANY_ACTION, BOTH, OP_MEDIUM, scsi_verify },
};

static const struct scsi_op *find_op(const struct scsi_command *c)
{
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		if (ops[i].code == c->cdb[0] &&
		    (ops[i].action == ANY_ACTION || ops[i].action == (c->cdb[1] & 0x1f)) &&
		    (!c->unit || ops[i].kinds & c->unit->kind))
			return &ops[i];
	return NULL;
}

/* What keeps the unit from doing it; 0: nothing. In the order of SAM-5 5.3.3 and SPC-4 4.5.6: an attention first. */
static uint32_t obstacle(const struct scsi_command *c)
{
	const struct scsi_unit *unit = c->unit;

	if (!unit)
		return c->op && (c->op->flags & OP_NOBODY) ? 0 : SENSE_NO_UNIT;
	if (unit->attention_count && !(c->op && (c->op->flags & OP_QUIET)))
		return scsi_attention_take(c->unit);
	if (!c->op)
		return SENSE_INVALID_OPCODE;
	if ((c->op->flags & OP_MEDIUM) && unit->is_open)
		return SENSE_NO_MEDIUM_OPEN;
	if ((c->op->flags & OP_WRITE) && unit->disk->readonly)
		return SENSE_WRITE_PROTECTED;
	return 0;
}

void scsi_start(struct scsi_target *target, unsigned lun, struct scsi_command *c)
{
	uint32_t sense;

	c->sense_bytes = 0;
	c->out_done = c->in_done = 0;
	c->overrun = false;
	c->again = false;
	c->buffer = NULL;
	c->target = target;
	c->unit = scsi_unit_find(target, lun);
	c->op = find_op(c);
	c->flush_after = c->unit && c->op && (c->op->flags & OP_WRITE) && c->unit->cache_is_off;
	sense = obstacle(c);
	if (sense)
		scsi_fail(c, sense);
	else
		c->op->run(c);
}

/* ---- units and targets ---- */

struct scsi_unit *scsi_unit_find(const struct scsi_target *target, unsigned lun)
{
	for (unsigned i = 0; i < target->count; i++)
		if (target->units[i]->lun == lun)
			return target->units[i];
	return NULL;
}

struct scsi_unit *scsi_unit_add(struct scsi_target *target, struct disk *disk,
				const struct scsi_unit_options *options)
{
	struct scsi_unit *unit;
	unsigned at = 0;

	if (target->count == SCSI_MAX_UNITS || options->lun > SCSI_MAX_LUN ||
	    scsi_unit_find(target, options->lun))
		return NULL;
	unit = calloc(1, sizeof(*unit));
	if (!unit)
		return NULL;
	unit->disk = disk;
	unit->kind = options->kind;
	unit->lun = options->lun;
	unit->block_bytes = options->kind == SCSI_CDROM ? 2048 :
			    options->block_bytes	? options->block_bytes :
							  512;
	if (options->serial)
		snprintf(unit->serial, sizeof(unit->serial), "%s", options->serial);
	else
		snprintf(unit->serial, sizeof(unit->serial), "lun%u", options->lun);
	scsi_unit_attention(unit, SCSI_UA_POWER_ON);
	while (at < target->count && target->units[at]->lun < unit->lun)
		at++;
	memmove(target->units + at + 1, target->units + at,
		(target->count - at) * sizeof(target->units[0]));
	target->units[at] = unit;
	target->count++;
	return unit;
}

void scsi_target_fini(struct scsi_target *target)
{
	while (target->count)
		free(target->units[--target->count]);
}

void scsi_target_reset_modes(struct scsi_target *target)
{
	for (unsigned i = 0; i < target->count; i++)
		target->units[i]->cache_is_off = false;
}

void scsi_target_kick(struct scsi_target *target)
{
	for (unsigned i = 0; i < target->count; i++)
		disk_kick(target->units[i]->disk);
}

void scsi_target_drain(struct scsi_target *target)
{
	for (unsigned i = 0; i < target->count; i++)
		disk_drain(target->units[i]->disk);
}

struct disk *scsi_unit_disk(const struct scsi_unit *unit)
{
	return unit->disk;
}

uint32_t scsi_unit_block_bytes(const struct scsi_unit *unit)
{
	return unit->block_bytes;
}

unsigned scsi_unit_lun(const struct scsi_unit *unit)
{
	return unit->lun;
}
