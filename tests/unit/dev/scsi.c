// SPDX-License-Identifier: Apache-2.0
/* scsi.c - tests of logical units by their commands, and of task management and events of the controller. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"
#include "dev/scsi/scsi.h"
#include "dev/virtio/virtio.h"
#include "virtio_driver.h"

#define IMAGE_BYTES (1u << 20)
#define BLOCKS	    (IMAGE_BYTES / 512)

/* ---- units alone, over files ---- */

static struct loop *loop;
static struct disk *disks[2];
static struct scsi_target target;
static uint8_t model[IMAGE_BYTES], data[1 << 16];
static struct scsi_command cmd;
static bool is_done;

static struct disk *make_disk(bool readonly)
{
	char path[] = "/tmp/sika-test-scsi-XXXXXX";
	int fd = mkstemp(path);
	struct disk *disk;

	ck_assert_int_eq(write(fd, model, IMAGE_BYTES), IMAGE_BYTES);
	disk = disk_open(path, "raw", readonly, loop, NULL);
	ck_assert_ptr_nonnull(disk);
	close(fd);
	unlink(path);
	return disk;
}

static void setup(void)
{
	loop = loop_new();
	for (unsigned i = 0; i < IMAGE_BYTES; i++)
		model[i] = (uint8_t)(rand() | 1);
	disks[0] = make_disk(false);
	disks[1] = make_disk(true);
	ck_assert(scsi_unit_add(&target, disks[1],
				&(struct scsi_unit_options){ .kind = SCSI_CDROM, .lun = 7 }));
	ck_assert(scsi_unit_add(&target, disks[0],
				&(struct scsi_unit_options){ .kind = SCSI_DISK, .serial = "S1" }));
	ck_assert(!scsi_unit_add(&target, disks[0], &(struct scsi_unit_options){ .kind = SCSI_DISK }));
}

static void teardown(void)
{
	scsi_target_fini(&target);
	disk_close(disks[0]);
	disk_close(disks[1]);
	loop_free(loop);
}

static void on_done(struct scsi_command *c)
{
	ck_assert(!is_done);
	is_done = true;
}

/* The sense of the command, 0 when it is good. Data comes from and goes to data[], in two segments. */
static uint32_t run(unsigned lun, const uint8_t *cdb, size_t cdb_bytes, size_t out, size_t in)
{
	const struct iovec outs[] = { { data, out / 3 }, { data + out / 3, out - out / 3 } };
	const struct iovec ins[] = { { data, in / 3 }, { data + in / 3, in - in / 3 } };

	memset(cmd.cdb, 0, sizeof(cmd.cdb));
	memcpy(cmd.cdb, cdb, cdb_bytes);
	cmd.out = outs;
	cmd.in = ins;
	cmd.out_count = out ? 2 : 0;
	cmd.in_count = in ? 2 : 0;
	cmd.out_bytes = out;
	cmd.in_bytes = in;
	cmd.done = on_done;
	is_done = false;
	scsi_start(&target, lun, &cmd);
	scsi_target_kick(&target);
	scsi_target_drain(&target);
	ck_assert(is_done);
	if (cmd.status == SCSI_GOOD)
		return 0;
	ck_assert_uint_eq(cmd.status, SCSI_CHECK_CONDITION);
	ck_assert_uint_eq(cmd.sense_bytes, SCSI_SENSE_BYTES);
	ck_assert_uint_eq(cmd.sense[0], 0x70);
	return (uint32_t)cmd.sense[2] << 16 | load_be16(cmd.sense + 12);
}

#define CDB(...) (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })

static void ready(unsigned lun)
{
	ck_assert_uint_eq(run(lun, CDB(0, 0, 0, 0, 0, 0), 0, 0), SCSI_UA_POWER_ON);
	ck_assert_uint_eq(run(lun, CDB(0, 0, 0, 0, 0, 0), 0, 0), 0);
}

/* Descriptor blocks of all lengths for the same thing. */
static size_t make_cdb(uint8_t *cdb, unsigned form, bool write, uint32_t lba, uint32_t blocks)
{
	static const uint8_t codes[4][2] = { { 0x08, 0x0a }, { 0x28, 0x2a }, { 0xa8, 0xaa }, { 0x88, 0x8a } };

	memset(cdb, 0, 16);
	switch (form) {
	case 0:
		store_be32(cdb, lba);
		cdb[4] = (uint8_t)blocks;
		break;
	case 1:
		store_be32(cdb + 2, lba);
		store_be16(cdb + 7, (uint16_t)blocks);
		break;
	case 2:
		store_be32(cdb + 2, lba);
		store_be32(cdb + 6, blocks);
		break;
	default:
		store_be64(cdb + 2, lba);
		store_be32(cdb + 10, blocks);
	}
	cdb[0] = codes[form][write];
	return 16;
}

START_TEST(disk_agrees_with_a_model)
{
	uint8_t cdb[16];

	srand(3);
	ready(0);
	for (unsigned i = 0; i < 300; i++) {
		uint32_t blocks = 1 + (uint32_t)rand() % 100;
		uint32_t lba = (uint32_t)rand() % (BLOCKS - blocks), bytes = blocks * 512;
		uint8_t *m = model + lba * 512;
		unsigned form = (unsigned)rand() % 4;

		switch (rand() % 6) {
		case 0:
		case 1:
			make_cdb(cdb, form, false, lba, blocks);
			memset(data, 0xaa, bytes);
			ck_assert_uint_eq(run(0, cdb, 16, 0, bytes), 0);
			ck_assert_uint_eq(cmd.in_done, bytes);
			ck_assert(memcmp(data, m, bytes) == 0);
			break;
		case 2:
			make_cdb(cdb, form, true, lba, blocks);
			if (form)
				cdb[1] = rand() & 8; /* FUA */
			for (unsigned k = 0; k < bytes; k++)
				m[k] = data[k] = (uint8_t)rand();
			ck_assert_uint_eq(run(0, cdb, 16, bytes, 0), 0);
			ck_assert_uint_eq(cmd.out_done, bytes);
			break;
		case 3:
			memset(data, 0, 32);
			store_be16(data, 22);
			store_be16(data + 2, 16);
			store_be64(data + 8, lba);
			store_be32(data + 16, blocks);
			ck_assert_uint_eq(run(0, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24), 24, 0), 0);
			memset(m, 0, bytes); /* as our raw file does it */
			break;
		case 4:
			memset(data, rand() & 1 ? 0 : rand(), 512);
			make_cdb(cdb, 3, true, lba, blocks);
			cdb[0] = 0x93;
			cdb[1] = rand() & 8;
			ck_assert_uint_eq(run(0, cdb, 16, 512, 0), 0);
			for (unsigned k = 0; k < blocks; k++)
				memcpy(m + k * 512, data, 512);
			break;
		default:
			ck_assert_uint_eq(run(0, CDB(0x35), 0, 0), 0);
		}
	}
	for (uint32_t at = 0; at < IMAGE_BYTES; at += sizeof(data)) {
		make_cdb(cdb, 1, false, at / 512, sizeof(data) / 512);
		ck_assert_uint_eq(run(0, cdb, 16, 0, sizeof(data)), 0);
		ck_assert(memcmp(data, model + at, sizeof(data)) == 0);
	}
}
END_TEST

START_TEST(refuses_what_is_outside_or_unknown)
{
	uint8_t cdb[16];

	ready(0);
	for (unsigned form = 0; form < 4; form++)
		for (unsigned write = 0; write < 2; write++) {
			make_cdb(cdb, form, write, BLOCKS - 1, 2);
			ck_assert_uint_eq(run(0, cdb, 16, 1024, 1024), 0x052100);
			make_cdb(cdb, form, write, BLOCKS, 1);
			ck_assert_uint_eq(run(0, cdb, 16, 1024, 1024), 0x052100);
		}
	make_cdb(cdb, 3, false, 0, 1);
	memset(cdb + 2, 0xff, 8);
	ck_assert_uint_eq(run(0, cdb, 16, 0, 512), 0x052100);
	memset(cdb + 10, 0xff, 4);
	ck_assert_uint_eq(run(0, cdb, 16, 0, 512), 0x052100);
	/* Nothing is read, and that is no error; but nothing behind the end. */
	make_cdb(cdb, 1, false, BLOCKS, 0);
	ck_assert_uint_eq(run(0, cdb, 16, 0, 0), 0);
	make_cdb(cdb, 1, false, BLOCKS + 1, 0);
	ck_assert_uint_eq(run(0, cdb, 16, 0, 0), 0x052100);
	/* Protection information; another command; a service action. */
	make_cdb(cdb, 1, false, 0, 1);
	cdb[1] = 0x20;
	ck_assert_uint_eq(run(0, cdb, 16, 0, 512), 0x052400);
	ck_assert_uint_eq(run(0, CDB(0xff), 0, 0), 0x052000);
	ck_assert_uint_eq(run(0, CDB(0x9e, 0x11), 0, 64), 0x052000);
	ck_assert_uint_eq(run(0, CDB(0x43), 0, 64), 0x052000); /* a drive's */
	/* Less room than data: told, and nothing is moved. */
	make_cdb(cdb, 1, false, 0, 2);
	ck_assert_uint_eq(run(0, cdb, 16, 0, 1023), 0);
	ck_assert(cmd.overrun && cmd.in_done == 0);
	make_cdb(cdb, 3, true, 0, 0);
	cdb[0] = 0x93;
	ck_assert_uint_eq(run(0, cdb, 16, 512, 0), 0x052400); /* WSNZ */
}
END_TEST

/* A bad range in a list: none of it is done. */
START_TEST(unmap_is_all_or_nothing)
{
	uint8_t cdb[16];

	ready(0);
	memset(data, 0, 64);
	store_be16(data + 2, 32);
	store_be32(data + 16, 8);
	store_be64(data + 24, BLOCKS - 4);
	store_be32(data + 32, 5);
	ck_assert_uint_eq(run(0, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 40), 40, 0), 0x052100);
	make_cdb(cdb, 1, false, 0, 8);
	ck_assert_uint_eq(run(0, cdb, 16, 0, 4096), 0);
	ck_assert(memcmp(data, model, 4096) == 0);
	/* A list that says to be longer than it is ends where it ends. */
	memset(data, 0, 64);
	store_be16(data + 2, 0xffff);
	store_be32(data + 16, 8);
	ck_assert_uint_eq(run(0, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24), 24, 0), 0);
	ck_assert_uint_eq(run(0, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24), 23, 0), 0x051a00);
	ck_assert_uint_eq(run(0, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 7), 24, 0), 0x051a00);
	ck_assert_uint_eq(run(0, CDB(0x42, 0, 0, 0, 0, 0, 0, 0xff, 0xff), 65535, 0), 0x051a00);
	ck_assert_uint_eq(run(0, cdb, 16, 0, 4096), 0);
	ck_assert(data[0] == 0 && !memcmp(data, data + 1, 4095));
}
END_TEST

START_TEST(tells_attentions_once)
{
	/* INQUIRY and REPORT LUNS leave it, REQUEST SENSE takes it. */
	ck_assert_uint_eq(run(0, CDB(0x12, 0, 0, 0, 96), 0, 96), 0);
	ck_assert_uint_eq(cmd.in_done, 36);
	ck_assert(memcmp(data + 8, "SIKA    DISK", 12) == 0);
	ck_assert_uint_eq(run(0, CDB(0x03, 0, 0, 0, 18), 0, 18), 0);
	ck_assert_uint_eq(load_be16(data + 12), 0x2900);
	ck_assert_uint_eq(run(0, CDB(0), 0, 0), 0);
	scsi_unit_attention(scsi_unit_find(&target, 0), SCSI_UA_CAPACITY);
	scsi_unit_attention(scsi_unit_find(&target, 0), SCSI_UA_CAPACITY);
	scsi_unit_reset(scsi_unit_find(&target, 0));
	ck_assert_uint_eq(run(0, CDB(0x25), 0, 8), SCSI_UA_CAPACITY);
	ck_assert_uint_eq(run(0, CDB(0x25), 0, 8), SCSI_UA_RESET);
	ck_assert_uint_eq(run(0, CDB(0x25), 0, 8), 0);
	ck_assert_uint_eq(load_be32(data), BLOCKS - 1);
	ck_assert_uint_eq(run(0, CDB(0x03, 0, 0, 0, 18), 0, 18), 0);
	ck_assert_uint_eq(data[2], 0);
}
END_TEST

START_TEST(pages_are_whole_and_cut_where_asked)
{
	static const uint8_t disk_pages[] = { 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2 }, cd_pages[] = { 0, 0x80, 0x83 };

	ready(0);
	ready(7);
	ck_assert_uint_eq(run(0, CDB(0x12, 1, 0, 0, 255), 0, 255), 0);
	ck_assert(load_be16(data + 2) == 6 && !memcmp(data + 4, disk_pages, 6));
	ck_assert_uint_eq(run(7, CDB(0x12, 1, 0, 0, 255), 0, 255), 0);
	ck_assert(data[0] == 5 && load_be16(data + 2) == 3 && !memcmp(data + 4, cd_pages, 3));
	for (unsigned i = 0; i < 6; i++) {
		uint8_t cdb[6] = { 0x12, 1, disk_pages[i], 0, 255 };

		ck_assert_uint_eq(run(0, cdb, 6, 0, 255), 0);
		ck_assert_uint_eq(cmd.in_done, 4u + load_be16(data + 2));
		ck_assert_uint_eq(data[1], disk_pages[i]);
		cdb[4] = 3;
		ck_assert_uint_eq(run(0, cdb, 6, 0, 255), 0);
		ck_assert_uint_eq(cmd.in_done, 3);
	}
	ck_assert_uint_eq(run(7, CDB(0x12, 1, 0xb0, 0, 255), 0, 255), 0x052400);
	ck_assert_uint_eq(run(0, CDB(0x12, 0, 0x80, 0, 255), 0, 255), 0x052400);
	/* MODE SENSE: all pages add up; changeable, saved, unknown ones. */
	ck_assert_uint_eq(run(0, CDB(0x1a, 0, 0x3f, 0, 255), 0, 255), 0);
	ck_assert_uint_eq(data[0] + 1u, cmd.in_done);
	ck_assert_uint_eq(data[3], 8);
	for (size_t at = 12; at < cmd.in_done; at += 2u + data[at + 1])
		ck_assert_uint_lt(at + 2u + data[at + 1], cmd.in_done + 1);
	ck_assert_uint_eq(run(0, CDB(0x5a, 8, 8, 0, 0, 0, 0, 1, 0), 0, 256), 0);
	ck_assert(load_be16(data) == 6 + 20 && data[8] == 8 && data[10] == 4);
	ck_assert_uint_eq(run(0, CDB(0x5a, 8, 0x4a, 0, 0, 0, 0, 1, 0), 0, 256), 0);
	ck_assert(data[8] == 0x0a && data[11] == 0);
	ck_assert_uint_eq(run(0, CDB(0x1a, 0, 0xc8, 0, 255), 0, 255), 0x053900);
	ck_assert_uint_eq(run(0, CDB(0x1a, 0, 0x05, 0, 255), 0, 255), 0x052400);
	ck_assert_uint_eq(run(0, CDB(0x1a, 0, 0x08, 1, 255), 0, 255), 0x052400);
	ck_assert_uint_eq(run(7, CDB(0x5a, 0, 0x2a, 0, 0, 0, 0, 1, 0), 0, 256), 0);
	ck_assert(data[7] == 0 && data[8] == 0x2a);
}
END_TEST

/* ---- modes ---- */

/* A disk that writes down what is asked of it. */
struct logged_disk {
	struct disk disk;
	char log[32];
};

static void logged_submit(struct disk *disk, struct disk_req *req)
{
	static const char letters[] = "RWFDZMS";
	struct logged_disk *l = (struct logged_disk *)disk;
	size_t n = strlen(l->log);

	if (n + 1 < sizeof(l->log))
		l->log[n] = letters[req->op];
	req->done(req, 0);
}

static void logged_drain(struct disk *disk)
{
}

static const struct disk_ops logged_ops = { .submit = logged_submit, .drain = logged_drain };
static struct logged_disk logged = {
	.disk = { .ops = &logged_ops, .size_bytes = IMAGE_BYTES, .block_bytes = 4096, .can_discard = true },
};

/* A write, one with FUA, UNMAP of nothing, WRITE SAME; what the disk was asked. */
static const char *changes(unsigned lun)
{
	memset(logged.log, 0, sizeof(logged.log));
	memset(data, 0, 512);
	ck_assert_uint_eq(run(lun, CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 1), 512, 0), 0);
	ck_assert_uint_eq(run(lun, CDB(0x2a, 8, 0, 0, 0, 0, 0, 0, 1), 512, 0), 0);
	ck_assert_uint_eq(run(lun, CDB(0x28, 8, 0, 0, 0, 0, 0, 0, 1), 0, 512), 0);
	ck_assert_uint_eq(run(lun, CDB(0x41, 0, 0, 0, 0, 0, 0, 0, 1), 512, 0), 0);
	store_be16(data, 0);
	store_be16(data + 2, 16);
	store_be64(data + 8, 8);
	store_be32(data + 16, 8);
	ck_assert_uint_eq(run(lun, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24), 24, 0), 0);
	return logged.log;
}

/* The caching page as it is, with WCE so, put behind a header of @header bytes in data[]. */
static size_t caching(unsigned lun, size_t header, bool wce)
{
	ck_assert_uint_eq(run(lun, CDB(0x1a, 8, 8, 0, 64), 0, 64), 0);
	memmove(data + header, data + 4, 20);
	memset(data, 0, header);
	data[header + 2] = wce ? 4 : 0;
	return header + 20;
}

START_TEST(cache_is_turned_off_and_on)
{
	size_t n;

	ck_assert(scsi_unit_add(&target, &logged.disk,
				&(struct scsi_unit_options){ .kind = SCSI_DISK, .lun = 1 }));
	ready(1);
	ck_assert_str_eq(changes(1), "WWFRZD");
	n = caching(1, 4, false);
	ck_assert_uint_eq(run(1, CDB(0x15, 0x10, 0, 0, (uint8_t)n), n, 0), 0);
	ck_assert_str_eq(logged.log, "WWFRZDF"); /* what was in the cache */
	ck_assert_str_eq(changes(1), "WFWFRZFDF");
	ck_assert_uint_eq(run(1, CDB(0x1a, 8, 8, 0, 64), 0, 64), 0);
	ck_assert_uint_eq(data[6], 0);
	ck_assert_uint_eq(run(1, CDB(0x1a, 8, 0x48, 0, 64), 0, 64), 0);
	ck_assert_uint_eq(data[6], 4); /* can be changed */
	ck_assert_uint_eq(run(1, CDB(0x1a, 8, 0x88, 0, 64), 0, 64), 0);
	ck_assert_uint_eq(data[6], 4); /* by default */
	n = caching(1, 8, true);
	ck_assert_uint_eq(run(1, CDB(0x55, 0x10, 0, 0, 0, 0, 0, 0, (uint8_t)n), n, 0), 0);
	ck_assert_str_eq(changes(1), "WWFRZD");
	n = caching(1, 4, false);
	ck_assert_uint_eq(run(1, CDB(0x15, 0x10, 0, 0, (uint8_t)n), n, 0), 0);
	scsi_target_reset_modes(&target);
	ck_assert_str_eq(changes(1), "WWFRZD");
}
END_TEST

/* Nothing is taken over from a list of which something is wrong. */
START_TEST(refuses_modes_that_cannot_be)
{
	size_t n;

	ready(0);
	ready(7);
	/* All pages as they are, with their descriptor. */
	ck_assert_uint_eq(run(0, CDB(0x1a, 0, 0x3f, 0, 255), 0, 255), 0);
	n = cmd.in_done;
	ck_assert_uint_eq(run(0, CDB(0x15, 0x10, 0, 0, (uint8_t)n), n, 0), 0);
	ck_assert_uint_eq(run(0, CDB(0x15, 0x11, 0, 0, (uint8_t)n), n, 0), 0x052400);
	ck_assert_uint_eq(run(0, CDB(0x15, 0, 0, 0, (uint8_t)n), n, 0), 0x052400);
	ck_assert_uint_eq(run(0, CDB(0x15, 0x10, 0, 0, (uint8_t)n), n - 1, 0), 0x051a00);
	ck_assert_uint_eq(run(0, CDB(0x15, 0x10, 0, 0, 3), n, 0), 0x051a00);
	ck_assert_uint_eq(run(0, CDB(0x15, 0x10, 0, 0, 11), n, 0), 0x051a00);
	ck_assert_uint_eq(run(0, CDB(0x15, 0x10, 0, 0, 0), 0, 0), 0);
	for (size_t cut = 13; cut < 12 + 22; cut++)
		if (cut != 24)
			ck_assert_uint_eq(run(0, CDB(0x15, 0x10, 0, 0, (uint8_t)cut), cut, 0), 0x051a00);
	data[3] = 7;
	ck_assert_uint_eq(run(0, CDB(0x15, 0x10, 0, 0, (uint8_t)n), n, 0), 0x052600);
	data[3] = 8;
	data[10]++; /* bytes of a block */
	ck_assert_uint_eq(run(0, CDB(0x15, 0x10, 0, 0, (uint8_t)n), n, 0), 0x052600);
	/* WCE, and behind it a bit that is not to be changed, an unknown page, a subpage, another length. */
	for (unsigned i = 0; i < 4; i++) {
		n = caching(0, 4, false);
		memcpy(data + n, data + 4, 20);
		if (i == 0)
			data[n + 3] ^= 1;
		else
			data[n + (i == 3)] = (uint8_t[]){ 0, 0x3d, 0x48, 17 }[i];
		n += 20;
		ck_assert_uint_eq(run(0, CDB(0x15, 0x10, 0, 0, (uint8_t)n), n, 0), 0x052600);
		ck_assert_uint_eq(run(0, CDB(0x1a, 8, 8, 0, 64), 0, 64), 0);
		ck_assert_uint_eq(data[6], 4);
	}
	/* A drive has no such page. */
	n = caching(0, 4, false);
	ck_assert_uint_eq(run(7, CDB(0x15, 0x10, 0, 0, (uint8_t)n), n, 0), 0x052600);
}
END_TEST

START_TEST(whole_units_are_reserved)
{
	static const uint8_t codes[] = { 0x16, 0x17, 0x56, 0x57 };

	ready(0);
	for (unsigned i = 0; i < 4; i++) {
		ck_assert_uint_eq(run(0, CDB(codes[i]), 0, 0), 0);
		ck_assert_uint_eq(run(0, CDB(codes[i], 1), 0, 0), 0x052400);
		ck_assert_uint_eq(run(0, CDB(codes[i], 0x10), 0, 0), 0x052400);
	}
	/* Persistent ones are not there. */
	ck_assert_uint_eq(run(0, CDB(0x5e, 0, 0, 0, 0, 0, 0, 0, 64), 0, 64), 0x052000);
	ck_assert_uint_eq(run(0, CDB(0x5f, 0, 0, 0, 0, 0, 0, 0, 24), 24, 0), 0x052000);
}
END_TEST

START_TEST(units_that_are_not_there)
{
	ck_assert_uint_eq(run(3, CDB(0x12, 0, 0, 0, 96), 0, 96), 0);
	ck_assert_uint_eq(data[0], 0x7f);
	ck_assert_uint_eq(run(3, CDB(0), 0, 0), 0x052500);
	ck_assert_uint_eq(run(3, CDB(0x28), 0, 512), 0x052500);
	ck_assert_uint_eq(run(3, CDB(0x12, 1, 0, 0, 96), 0, 96), 0x052400);
	ck_assert_uint_eq(run(3, CDB(0x03, 0, 0, 0, 18), 0, 18), 0);
	ck_assert(data[2] == 5 && data[12] == 0x25);
	ck_assert_uint_eq(run(200, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0), 0, 256), 0);
	ck_assert(load_be32(data) == 16 && data[9] == 0 && data[17] == 7);
	ck_assert_uint_eq(run(0, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15), 0, 256), 0x052400);
}
END_TEST

START_TEST(drive_reads_ejects_and_loads)
{
	ready(7);
	ck_assert_uint_eq(run(7, CDB(0x25), 0, 8), 0);
	ck_assert(load_be32(data) == IMAGE_BYTES / 2048 - 1 && load_be32(data + 4) == 2048);
	ck_assert_uint_eq(run(7, CDB(0x28, 0, 0, 0, 0, 3, 0, 0, 2), 0, 4096), 0);
	ck_assert(memcmp(data, model + 3 * 2048, 4096) == 0);
	ck_assert_uint_eq(run(7, CDB(0x2a, 0, 0, 0, 0, 3, 0, 0, 2), 4096, 0), 0x052000);
	ck_assert_uint_eq(run(7, CDB(0x43, 0, 0, 0, 0, 0, 0, 0, 255), 0, 255), 0);
	ck_assert(load_be16(data) == 18 && data[14] == 0xaa && load_be32(data + 16) == IMAGE_BYTES / 2048);
	ck_assert_uint_eq(run(7, CDB(0x46, 0, 0, 0, 0, 0, 0, 0, 255), 0, 255), 0);
	ck_assert(load_be32(data) == cmd.in_done - 4 && load_be16(data + 6) == 8);
	/* Locked, it stays; unlocked it goes. */
	ck_assert_uint_eq(run(7, CDB(0x1e, 0, 0, 0, 1), 0, 0), 0);
	ck_assert_uint_eq(run(7, CDB(0x1b, 0, 0, 0, 2), 0, 0), 0x055302);
	ck_assert_uint_eq(run(7, CDB(0x1e), 0, 0), 0);
	ck_assert_uint_eq(run(7, CDB(0x1b, 0, 0, 0, 2), 0, 0), 0);
	ck_assert_uint_eq(run(7, CDB(0), 0, 0), 0x023a02);
	ck_assert_uint_eq(run(7, CDB(0x28, 0, 0, 0, 0, 3, 0, 0, 2), 0, 4096), 0x023a02);
	ck_assert_uint_eq(run(7, CDB(0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0, 8), 0);
	ck_assert(data[4] == 3 && data[5] == 1);
	ck_assert_uint_eq(run(7, CDB(0x1b, 0, 0, 0, 3), 0, 0), 0);
	ck_assert_uint_eq(run(7, CDB(0), 0, 0), 0x062800);
	ck_assert_uint_eq(run(7, CDB(0), 0, 0), 0);
	ck_assert_uint_eq(run(7, CDB(0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0, 8), 0);
	ck_assert(data[4] == 2 && data[5] == 2);
}
END_TEST

/* ---- the controller ---- */

#define MEMORY	(4u << 20)
#define RINGS	0x100000u
#define REQUEST 0x200000u
#define ANSWER	0x201000u
#define DATA	0x210000u

struct slow_disk {
	struct disk disk;
	struct disk_req *held;
};

static struct rig rig;
static struct drv drv;
static struct slow_disk slow;

static void slow_submit(struct disk *disk, struct disk_req *req)
{
	struct slow_disk *s = (struct slow_disk *)disk;

	if (req->op == DISK_RESIZE)
		disk->size_bytes = req->offset;
	req->next = s->held;
	s->held = req;
}

static void slow_drain(struct disk *disk)
{
	struct slow_disk *s = (struct slow_disk *)disk;

	while (s->held) {
		struct disk_req *req = s->held;

		s->held = req->next;
		req->done(req, 0);
	}
}

static const struct disk_ops slow_ops = { .submit = slow_submit, .drain = slow_drain };

static struct virtio_dev *controller_up(uint64_t features)
{
	const struct virtio_scsi_unit unit = { .disk = &slow.disk, .lun = 2 };
	struct virtio_env env;
	struct virtio_dev *dev;

	rig_init(&rig, MEMORY);
	slow = (struct slow_disk){ .disk = { .ops = &slow_ops, .size_bytes = IMAGE_BYTES,
					     .block_bytes = 512 } };
	env = (struct virtio_env){ .pci = rig.pci, .mem = rig.mem, .loop = rig.loop, .slot = 3 };
	dev = virtio_scsi_new(&env, &unit, 1, 1, NULL);
	ck_assert_ptr_nonnull(dev);
	drv_probe(&drv, &rig, 3, features | DRV_VERSION_1 | 6, true);
	for (unsigned i = 0; i < 3; i++)
		drv_queue_setup(&drv, i, 16, RINGS + i * 0x2000);
	drv_ready(&drv);
	rig_settle(&rig);
	return dev;
}

static uint8_t *ram(gpa_t gpa)
{
	return mem_ptr(rig.mem, gpa, 1);
}

/* Number @i, a READ(10) or TEST UNIT READY. */
static void offer(unsigned i, unsigned lun, uint8_t code)
{
	const struct drv_buf bufs[] = { { REQUEST + i * 64, 51, false }, { ANSWER + i * 128, 108, true },
					{ DATA + i * 512, 512, true } };
	uint8_t *p = ram(REQUEST + i * 64);

	memset(p, 0, 64);
	p[0] = 1;
	p[3] = (uint8_t)lun;
	store_le64(p + 8, i);
	p[19] = code;
	p[19 + 8] = 1;
	memset(ram(ANSWER + i * 128), 0xee, 108);
	drv_add(&drv.q[2], bufs, code ? 3 : 2);
	drv_notify(&drv, 2);
}

static uint8_t manage(uint32_t function, unsigned lun, uint64_t tag)
{
	const struct drv_buf bufs[] = { { REQUEST + 0x800, 24, false }, { ANSWER + 0x800, 1, true } };
	uint8_t *p = ram(REQUEST + 0x800);

	memset(p, 0, 24);
	store_le32(p + 4, function);
	p[8] = 1;
	p[11] = (uint8_t)lun;
	store_le64(p + 16, tag);
	*ram(ANSWER + 0x800) = 0xee;
	drv_add(&drv.q[0], bufs, 2);
	drv_notify(&drv, 0);
	rig_settle(&rig);
	return *ram(ANSWER + 0x800);
}

START_TEST(controller_ends_tasks)
{
	struct virtio_dev *dev = controller_up(_i ? DRV_PACKED | DRV_EVENT_IDX : 0);
	uint16_t id;
	uint32_t len;

	offer(0, 2, 0); /* the attention */
	ck_assert(drv_wait_used(&drv, 2, &id, &len));
	ck_assert(ram(ANSWER)[10] == 2 && ram(ANSWER)[11] == 0 && load_le32(ram(ANSWER)) == 18);
	for (unsigned i = 0; i < 3; i++)
		offer(i, 2, 0x28);
	rig_settle(&rig);
	ck_assert(!drv_used(&drv.q[2], &id, &len));
	ck_assert_uint_eq(manage(6, 2, 1), 10); /* QUERY TASK: there */
	ck_assert_uint_eq(manage(6, 2, 9), 0);
	ck_assert_uint_eq(manage(0, 5, 1), 12); /* no such unit */
	ck_assert_uint_eq(manage(99, 2, 1), 11);
	ck_assert_uint_eq(manage(0, 2, 1), 0xee); /* waits for the disk */
	ck_assert_uint_eq(manage(0, 2, 7), 0); /* nothing to wait for */
	*ram(ANSWER + 0x800) = 0xee;
	slow_drain(&slow.disk);
	for (unsigned i = 0; i < 3; i++) {
		ck_assert(drv_used(&drv.q[2], &id, &len));
		ck_assert_uint_eq(ram(ANSWER + i * 128)[11], i == 1 ? 2 : 0);
	}
	ck_assert_uint_eq(*ram(ANSWER + 0x800), 0);
	/* Reset of the unit: all end, and the next command hears of it. */
	offer(0, 2, 0x28);
	offer(1, 2, 0x28);
	rig_settle(&rig);
	ck_assert_uint_eq(manage(5, 2, 0), 0xee);
	slow_drain(&slow.disk);
	ck_assert_uint_eq(*ram(ANSWER + 0x800), 0);
	ck_assert(ram(ANSWER)[11] == 4 && ram(ANSWER + 128)[11] == 4);
	rig_settle(&rig);
	ck_assert(drv_used(&drv.q[2], &id, &len) && drv_used(&drv.q[2], &id, &len));
	offer(0, 2, 0);
	ck_assert(drv_wait_used(&drv, 2, &id, &len));
	ck_assert(load_le16(ram(ANSWER + 12 + 12)) == 0x0329);
	/* Ending the device in the midst of it. */
	offer(0, 2, 0x28);
	rig_settle(&rig);
	ck_assert_uint_eq(manage(1, 2, 0), 0xee);
	virtio_free(dev);
	rig_fini(&rig);
}
END_TEST

START_TEST(controller_tells_of_sizes)
{
	const struct drv_buf room = { DATA, 16, true };
	struct virtio_dev *dev = controller_up(0);
	uint16_t id;
	uint32_t len;

	drv_add(&drv.q[1], &room, 1);
	drv_notify(&drv, 1);
	rig_settle(&rig);
	ck_assert_int_eq(virtio_scsi_resize(dev, 0, 2 * IMAGE_BYTES), -ENODEV);
	ck_assert_int_eq(virtio_scsi_resize(dev, 2, 2 * IMAGE_BYTES), 0);
	ck_assert(drv_wait_used(&drv, 1, &id, &len) && len == 16);
	ck_assert(load_le32(ram(DATA)) == 3 && ram(DATA)[4] == 1 && ram(DATA)[7] == 2);
	ck_assert_uint_eq(load_le32(ram(DATA + 12)), 0x092a);
	/* Without room it is told later that something was missed. */
	ck_assert_int_eq(virtio_scsi_resize(dev, 2, 3 * IMAGE_BYTES), 0);
	rig_settle(&rig);
	ck_assert(!drv_used(&drv.q[1], &id, &len));
	drv_add(&drv.q[1], &room, 1);
	drv_notify(&drv, 1);
	ck_assert(drv_wait_used(&drv, 1, &id, &len));
	ck_assert_uint_eq(load_le32(ram(DATA)), 0x80000000u);
	virtio_free(dev);
	rig_fini(&rig);
}
END_TEST

START_TEST(controller_takes_other_sizes_and_refuses_nonsense)
{
	struct virtio_dev *dev = controller_up(0);
	const struct drv_buf bufs[] = { { REQUEST, 19 + 6, false }, { ANSWER, 12 + 4, true } };
	uint16_t id;
	uint32_t len;

	drv_write(&drv, DRV_CONFIG + 24, 4, 6); /* it is running: not now */
	ck_assert_uint_eq(drv_read(&drv, DRV_CONFIG + 24, 4), 32);
	drv_probe(&drv, &rig, 3, DRV_VERSION_1, true);
	drv_write(&drv, DRV_CONFIG + 24, 4, 6);
	drv_write(&drv, DRV_CONFIG + 20, 4, 4);
	drv_write(&drv, DRV_CONFIG + 20, 4, 1000);
	drv_write(&drv, DRV_CONFIG + 24, 4, 33);
	for (unsigned i = 0; i < 3; i++)
		drv_queue_setup(&drv, i, 16, RINGS + i * 0x2000);
	drv_ready(&drv);
	rig_settle(&rig);
	memset(ram(REQUEST), 0, 64);
	*ram(REQUEST) = 1;
	ram(REQUEST)[3] = 2;
	drv_add(&drv.q[2], bufs, 2);
	drv_notify(&drv, 2);
	ck_assert(drv_wait_used(&drv, 2, &id, &len) && len == 16);
	ck_assert(load_le32(ram(ANSWER)) == 4 && ram(ANSWER)[10] == 2 && ram(ANSWER)[12] == 0x70);
	ram(REQUEST)[1] = 1; /* no such target */
	drv_add(&drv.q[2], bufs, 2);
	drv_notify(&drv, 2);
	ck_assert(drv_wait_used(&drv, 2, &id, &len) && ram(ANSWER)[11] == 3);
	drv_add(&drv.q[2], bufs, 1); /* nowhere to answer */
	drv_notify(&drv, 2);
	rig_settle(&rig);
	ck_assert_uint_eq(drv_status(&drv), 0x4f);
	virtio_free(dev);
	rig_fini(&rig);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("scsi");
	TCase *t = tcase_create("units"), *c = tcase_create("controller");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 30);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, disk_agrees_with_a_model);
	tcase_add_test(t, refuses_what_is_outside_or_unknown);
	tcase_add_test(t, unmap_is_all_or_nothing);
	tcase_add_test(t, tells_attentions_once);
	tcase_add_test(t, pages_are_whole_and_cut_where_asked);
	tcase_add_test(t, units_that_are_not_there);
	tcase_add_test(t, cache_is_turned_off_and_on);
	tcase_add_test(t, refuses_modes_that_cannot_be);
	tcase_add_test(t, whole_units_are_reserved);
	tcase_add_test(t, drive_reads_ejects_and_loads);
	tcase_set_timeout(c, 30);
	tcase_add_loop_test(c, controller_ends_tasks, 0, 2);
	tcase_add_test(c, controller_tells_of_sizes);
	tcase_add_test(c, controller_takes_other_sizes_and_refuses_nonsense);
	suite_add_tcase(s, t);
	suite_add_tcase(s, c);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
