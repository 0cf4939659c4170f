// SPDX-License-Identifier: Apache-2.0
/* scsi_int.h - what the files of this folder share. */
#pragma once

#include "dev/scsi/scsi.h"

/* 0xKKAAQQ, SPC-4 4.5.6 and annex D. */
#define SENSE_NO_MEDIUM_CLOSED	0x023a01u
#define SENSE_NO_MEDIUM_OPEN	0x023a02u
#define SENSE_WRITE_ERROR	0x030c00u
#define SENSE_READ_ERROR	0x031100u
#define SENSE_TARGET_FAILURE	0x044400u
#define SENSE_LIST_LENGTH	0x051a00u /* parameter list length error */
#define SENSE_INVALID_OPCODE	0x052000u
#define SENSE_LBA_OUT_OF_RANGE	0x052100u
#define SENSE_INVALID_FIELD	0x052400u /* in the descriptor block */
#define SENSE_NO_UNIT		0x052500u
#define SENSE_INVALID_PARAMETER 0x052600u /* in the parameter list */
#define SENSE_SAVING		0x053900u /* saving parameters is not supported */
#define SENSE_REMOVAL_PREVENTED 0x055302u
#define SENSE_UA_MEDIUM		0x062800u /* the medium may have changed */
#define SENSE_WRITE_PROTECTED	0x072700u
#define SENSE_NO_SPACE		0x072707u

#define DEVICE_DISK  0x00u
#define DEVICE_CDROM 0x05u

#define MAX_ATTENTIONS 4u

/* What VPD page B0 promises, and block.c holds. */
#define MAX_TRANSFER_BYTES   (32u << 20)
#define MAX_UNMAP_RANGES     255u
#define MAX_RANGE_BYTES	     (2ull << 30) /* in one range of UNMAP, and in one WRITE SAME */

struct scsi_unit {
	struct disk *disk; /* borrowed */
	enum scsi_kind kind;
	unsigned lun;
	uint32_t block_bytes;
	char serial[SCSI_SERIAL_BYTES + 1];
	bool cache_is_off; /* by MODE SELECT: changes are durable when they end */
	uint32_t attentions[MAX_ATTENTIONS]; /* the first is told first */
	unsigned attention_count;
	/* Of a drive. */
	bool is_open;	/* the tray, with the medium on it */
	bool is_locked;
	uint8_t media_event; /* MMC-6 6.6.2.6.2 */
};

enum {
	OP_MEDIUM = 1, /* needs one */
	OP_WRITE = 2, /* needs one that can be written to */
	OP_QUIET = 4, /* is done although there is a unit attention, which stays */
	OP_NOBODY = 8, /* is done also where there is no unit */
};

#define ANY_ACTION 0xffu

struct scsi_op {
	uint8_t code;
	uint8_t action; /* service action, in the second byte, or ANY_ACTION */
	uint8_t kinds;
	uint8_t flags;
	void (*run)(struct scsi_command *command);
};

/* ---- unit.c ---- */
void scsi_good(struct scsi_command *c);
void scsi_fail(struct scsi_command *c, uint32_t sense);
/* GOOD with as much of the answer as there is room for; @allocation: what the command says that there is. */
void scsi_answer(struct scsi_command *c, const void *data, size_t bytes, size_t allocation);
/* From what the guest sends; how much there was. */
size_t scsi_take(const struct scsi_command *c, void *data, size_t bytes);
/* Fixed format, SPC-4 4.5.3. */
void scsi_sense_store(uint8_t sense[SCSI_SENSE_BYTES], uint32_t code);
/* Run next() and the request that it fills in, until there is none or one fails. */
void scsi_run_steps(struct scsi_command *c, bool (*next)(struct scsi_command *c));
/* What is told first, and forgotten; 0: none. */
uint32_t scsi_attention_take(struct scsi_unit *unit);

static inline uint64_t unit_blocks(const struct scsi_unit *unit)
{
	return unit->disk->size_bytes / unit->block_bytes;
}

static inline bool unit_is_thin(const struct scsi_unit *unit)
{
	return unit->kind == SCSI_DISK && !unit->disk->readonly && unit->disk->can_discard;
}

/* ---- what unit.c has in its table ---- */
void scsi_inquiry(struct scsi_command *c);
void scsi_report_luns(struct scsi_command *c);
void scsi_mode_sense_6(struct scsi_command *c);
void scsi_mode_sense_10(struct scsi_command *c);
void scsi_mode_select_6(struct scsi_command *c);
void scsi_mode_select_10(struct scsi_command *c);

void scsi_read_6(struct scsi_command *c);
void scsi_read(struct scsi_command *c);
void scsi_write_6(struct scsi_command *c);
void scsi_write(struct scsi_command *c);
void scsi_verify(struct scsi_command *c);
void scsi_synchronize(struct scsi_command *c);
void scsi_unmap(struct scsi_command *c);
void scsi_write_same(struct scsi_command *c);
void scsi_read_capacity_10(struct scsi_command *c);
void scsi_read_capacity_16(struct scsi_command *c);

void scsi_start_stop(struct scsi_command *c);
void scsi_prevent_removal(struct scsi_command *c);
void scsi_read_toc(struct scsi_command *c);
void scsi_get_configuration(struct scsi_command *c);
void scsi_get_event(struct scsi_command *c);
void scsi_read_disc_information(struct scsi_command *c);
