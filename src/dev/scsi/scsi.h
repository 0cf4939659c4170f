// SPDX-License-Identifier: Apache-2.0
/*
 * scsi.h - SCSI logical units, disks and CD-ROM drives, whatever carries their commands.
 *
 * Theory of operation. A transport has a target with up to SCSI_MAX_UNITS logical units. For each command it fills
 * a struct scsi_command with the descriptor block and with where data lies in guest memory, and calls scsi_start(). Data
 * of reads and writes goes between there and the disk without being copied. done() is called once, possibly inside
 * scsi_start(), with status, sense data, and how much of the data was moved.
 *
 *	unit.c		units, the table of commands, sense data, unit attentions, requests to the disk
 *	inquiry.c	who a unit is: INQUIRY with its pages, REPORT LUNS
 *	mode.c		MODE SENSE
 *	block.c		what disks and drives do with blocks: SBC-3
 *	cdrom.c		what only drives do: MMC-6
 *
 * The descriptor block was copied once by the transport and is believed only as far as it is checked here. What the
 * guest's memory holds is read once (parameter lists) or moved as it is (data).
 *
 * Everything is called in the thread of the disks' loop. Sources: SAM-5, SPC-4, SBC-3, MMC-6.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "disk/disk.h"

#define SCSI_CDB_BYTES	 32u
#define SCSI_SENSE_BYTES 18u
#define SCSI_MAX_IOV	 128u
#define SCSI_MAX_UNITS	 16u
#define SCSI_MAX_LUN	 255u

#define SCSI_SERIAL_BYTES 20u

/* Status, SAM-5 5.3.1. */
#define SCSI_GOOD	     0x00u
#define SCSI_CHECK_CONDITION 0x02u

/* Sense key and additional sense code with its qualifier, SPC-4 4.5.6, in one figure: 0xKKAAQQ. */
#define SCSI_SENSE_KEY(sense)  ((sense) >> 16)
#define SCSI_SENSE_CODE(sense) ((sense) & 0xffffu)
#define SCSI_UA_POWER_ON       0x062900u
#define SCSI_UA_RESET	       0x062903u /* a bus device reset */
#define SCSI_UA_CAPACITY       0x062a09u

struct scsi_op;
struct scsi_unit;

enum scsi_kind {
	SCSI_DISK = 1,
	SCSI_CDROM = 2,
};

struct scsi_unit_options {
	enum scsi_kind kind;
	unsigned lun;	      /* 0..SCSI_MAX_LUN */
	const char *serial;   /* NULL: made of the number */
	uint32_t block_bytes; /* of a disk: 512 or 4096; a drive has 2048 */
};

/* All zeros: empty. Units are in the order of their numbers. */
struct scsi_target {
	struct scsi_unit *units[SCSI_MAX_UNITS]; /* owned */
	unsigned count;
};

struct scsi_command {
	/* By the transport, and its own until done(). */
	uint8_t cdb[SCSI_CDB_BYTES];
	const struct iovec *out, *in; /* from and to the guest: each SCSI_MAX_IOV at most */
	unsigned out_count, in_count;
	uint64_t out_bytes, in_bytes; /* sums of these */
	void (*done)(struct scsi_command *command);

	/* When done. */
	uint8_t status;
	uint8_t sense[SCSI_SENSE_BYTES];
	unsigned sense_bytes;	    /* 0 with SCSI_GOOD */
	uint64_t out_done, in_done; /* bytes */
	bool overrun;		    /* there is more data than room for it */

	/* Private. */
	struct scsi_target *target;
	struct scsi_unit *unit;
	const struct scsi_op *op;
	struct disk_req req;
	bool (*next)(struct scsi_command *command); /* fill req; false: that was all */
	int result;
	bool submitting, over, again;
	bool is_write;
	bool flush_after; /* its changes are durable when it ends */
	uint64_t lba, blocks; /* what is left to do */
	uint8_t *buffer;      /* malloc()ed: parameter list, or a pattern to write */
	size_t buffer_bytes, buffer_at;
	struct iovec iov[SCSI_MAX_IOV];
};

/* Takes over no disk, which stays open until the unit is freed. NULL: the number is taken, or there are too many. */
struct scsi_unit *scsi_unit_add(struct scsi_target *target, struct disk *disk,
				const struct scsi_unit_options *options);
/* With its units. No command is under way. */
void scsi_target_fini(struct scsi_target *target);
/* NULL: there is none of that number. */
struct scsi_unit *scsi_unit_find(const struct scsi_target *target, unsigned lun);

/* Also for numbers without a unit. */
void scsi_start(struct scsi_target *target, unsigned lun, struct scsi_command *command);
/* Behind a batch of scsi_start(). */
void scsi_target_kick(struct scsi_target *target);
/* Wait for all commands under way. */
void scsi_target_drain(struct scsi_target *target);

/* As after power-up: modes are what they are by default. */
void scsi_target_reset_modes(struct scsi_target *target);
/* To be told with the next command, SAM-5 5.14. */
void scsi_unit_attention(struct scsi_unit *unit, uint32_t sense);
/* As by a reset of the unit. */
void scsi_unit_reset(struct scsi_unit *unit);
struct disk *scsi_unit_disk(const struct scsi_unit *unit);
uint32_t scsi_unit_block_bytes(const struct scsi_unit *unit);
unsigned scsi_unit_lun(const struct scsi_unit *unit);
