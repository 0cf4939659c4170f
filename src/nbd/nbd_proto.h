// SPDX-License-Identifier: Apache-2.0
/* nbd_proto.h - numbers of the NBD protocol, in the order of its section "Values". */
#pragma once

#define NBD_MAGIC	    0x4e42444d41474943ull /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC    0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_REPLY_MAGIC	    0x0003e889045565a9ull /* of options */
#define NBD_REQUEST_MAGIC   0x25609513u
#define NBD_SIMPLE_MAGIC    0x67446698u
#define NBD_STRUCTURED_MAGIC 0x668e33efu

/* Handshake flags, of both sides. */
#define NBD_FIXED_NEWSTYLE (1u << 0)
#define NBD_NO_ZEROES	   (1u << 1)

/* Transmission flags. */
#define NBD_HAS_FLAGS	      (1u << 0)
#define NBD_READ_ONLY	      (1u << 1)
#define NBD_SEND_FLUSH	      (1u << 2)
#define NBD_SEND_FUA	      (1u << 3)
#define NBD_SEND_TRIM	      (1u << 5)
#define NBD_SEND_WRITE_ZEROES (1u << 6)
#define NBD_SEND_DF	      (1u << 7)
#define NBD_CAN_MULTI_CONN    (1u << 8)

enum nbd_option {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ACK	     1u
#define NBD_REP_SERVER	     2u
#define NBD_REP_INFO	     3u
#define NBD_REP_META_CONTEXT 4u
#define NBD_REP_ERR_UNSUP    0x80000001u
#define NBD_REP_ERR_POLICY   0x80000002u
#define NBD_REP_ERR_INVALID  0x80000003u
#define NBD_REP_ERR_TLS_REQD 0x80000005u
#define NBD_REP_ERR_UNKNOWN  0x80000006u
#define NBD_REP_ERR_TOO_BIG  0x80000009u

#define NBD_INFO_EXPORT	     0u
#define NBD_INFO_NAME	     1u
#define NBD_INFO_DESCRIPTION 2u
#define NBD_INFO_BLOCK_SIZE  3u

enum nbd_command {
	NBD_CMD_READ,
	NBD_CMD_WRITE,
	NBD_CMD_DISC,
	NBD_CMD_FLUSH,
	NBD_CMD_TRIM,
	NBD_CMD_CACHE,
	NBD_CMD_WRITE_ZEROES,
	NBD_CMD_BLOCK_STATUS,
};

#define NBD_CMD_FLAG_FUA     (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE (1u << 1)
#define NBD_CMD_FLAG_DF	     (1u << 2)
#define NBD_CMD_FLAG_REQ_ONE (1u << 3)

#define NBD_REPLY_FLAG_DONE	(1u << 0)
#define NBD_REPLY_NONE		0u
#define NBD_REPLY_OFFSET_DATA	1u
#define NBD_REPLY_BLOCK_STATUS	5u
#define NBD_REPLY_ERROR		0x8001u

#define NBD_ALLOCATION_ID 1u /* ours, for base:allocation */
#define NBD_STATE_HOLE (1u << 0)
#define NBD_STATE_ZERO (1u << 1)

#define NBD_EPERM    1u
#define NBD_EIO	     5u
#define NBD_ENOMEM   12u
#define NBD_EINVAL   22u
#define NBD_ENOSPC   28u
#define NBD_ENOTSUP  95u
#define NBD_ESHUTDOWN 108u
