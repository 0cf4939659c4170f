// SPDX-License-Identifier: Apache-2.0
/*
 * scsi.c - the SCSI controller: virtio 1.2, section 5.6.
 *
 * It has one target, whose logical units are of dev/scsi. Queue 0 is for the driver's words about commands
 * (task management), queue 1 for ours (events), those behind carry commands. As with the block device, requests
 * in use at a time are as many as the queues have entries, and take memory only once they were used.
 *
 * Nothing that the disk has begun can be taken back: a task that is to be aborted is waited for, and then its end is
 * told as that of an aborted one.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/loop.h"
#include "dev/scsi/scsi.h"
#include "dev/virtio/device.h"

#define CONTROL	      0u
#define EVENT	      1u
#define FIRST_REQUEST 2u
#define QUEUE_SIZE    256u
#define SEG_MAX	      (VIRTQ_MAX_IOV - 2u) /* beside request and response */
#define TURN	      QUEUE_SIZE

#define F_HOTPLUG (1ull << 1)
#define F_CHANGE  (1ull << 2)

/* struct virtio_scsi_config, 5.6.4. */
#define CONFIG_NUM_QUEUES  0u
#define CONFIG_SEG_MAX	   4u
#define CONFIG_MAX_SECTORS 8u
#define CONFIG_CMD_PER_LUN 12u
#define CONFIG_EVENT_BYTES 16u
#define CONFIG_SENSE_BYTES 20u
#define CONFIG_CDB_BYTES   24u
#define CONFIG_MAX_CHANNEL 28u
#define CONFIG_MAX_TARGET  30u
#define CONFIG_MAX_LUN	   32u
#define CONFIG_BYTES	   36u

#define SENSE_BYTES 96u
#define EVENT_BYTES 16u

/* Request and response around the parts that the driver may resize, 5.6.6.1. */
#define REQUEST_BYTES  19u
#define RESPONSE_BYTES 12u

#define S_OK	     0u
#define S_OVERRUN    1u
#define S_ABORTED    2u
#define S_BAD_TARGET 3u
#define S_RESET	     4u
#define S_SUCCEEDED  10u
#define S_REJECTED   11u
#define S_NO_LUN     12u

#define T_TMF	       0u
#define T_AN_QUERY     1u
#define T_AN_SUBSCRIBE 2u

/* Task management functions, 5.6.6.2. */
enum { ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET, NEXUS_RESET, UNIT_RESET, QUERY_TASK, QUERY_TASK_SET };

#define EVENT_NONE	   0u
#define EVENT_PARAM_CHANGE 3u
#define EVENT_MISSED	   0x80000000u

struct vscsi;

/* A function that waits for the tasks that it ends. */
struct tmf {
	struct virtq_elem elem;
	unsigned tasks;
};

struct request {
	struct scsi_command command;
	struct vscsi *vscsi;
	struct request *next_free;
	bool active;
	unsigned queue, lun;
	uint64_t tag;
	struct tmf *tmf; /* that ends it, or NULL */
	uint8_t response;
	struct virtq_elem elem;
	struct iovec out[VIRTQ_MAX_IOV], in[VIRTQ_MAX_IOV];
};

struct vscsi {
	struct virtio_dev dev;
	struct scsi_target target;
	unsigned sense_bytes, cdb_bytes; /* since the driver is ready */
	bool event_missed;
	struct request *free;
	struct request *requests; /* QUEUE_SIZE for each queue */
	unsigned fresh;		  /* those from here on were never used */
};

/* ---- the end of a request ---- */

static void tmf_done(struct vscsi *v, struct tmf *tmf, uint8_t response)
{
	struct virtq *vq = virtio_vq(&v->dev, CONTROL);

	if (vq) {
		virtq_elem_write(&tmf->elem, 0, &response, 1);
		virtq_push(vq, &tmf->elem, 1);
		virtio_signal(&v->dev, CONTROL);
	}
	g_free(tmf);
	virtio_release(&v->dev);
}

static void request_push(struct request *r)
{
	struct vscsi *v = r->vscsi;
	const struct scsi_command *c = &r->command;
	struct virtq *vq = virtio_vq(&v->dev, r->queue);
	uint8_t response[RESPONSE_BYTES + SENSE_BYTES] = { 0 };
	unsigned bytes = RESPONSE_BYTES + v->sense_bytes;
	unsigned sense = c->sense_bytes < v->sense_bytes ? c->sense_bytes : v->sense_bytes;

	if (!vq)
		return;
	store_le32(response, sense);
	store_le32(response + 4, (uint32_t)(c->out_bytes + c->in_bytes - c->out_done - c->in_done));
	response[10] = c->status;
	response[11] = r->response;
	memcpy(response + RESPONSE_BYTES, c->sense, sense);
	virtq_elem_write(&r->elem, 0, response, bytes);
	virtq_push(vq, &r->elem, bytes + (uint32_t)c->in_done);
	virtio_signal_soon(&v->dev, r->queue);
}

static void request_done(struct scsi_command *c)
{
	struct request *r = container_of(c, struct request, command);
	struct vscsi *v = r->vscsi;
	struct tmf *tmf = r->tmf;

	if (r->response == S_OK && c->overrun)
		r->response = S_OVERRUN;
	request_push(r);
	r->active = false;
	r->next_free = v->free;
	v->free = r;
	if (tmf && --tmf->tasks == 0)
		tmf_done(v, tmf, S_OK);
	virtio_release(&v->dev);
}

/* Without the unit having been asked. */
static void request_refuse(struct request *r, uint8_t response)
{
	struct scsi_command *c = &r->command;

	c->status = SCSI_GOOD;
	c->sense_bytes = 0;
	c->out_done = c->in_done = 0;
	c->overrun = false;
	r->response = response;
	request_done(c);
}

/* ---- commands ---- */

/* 5.6.6.1: single-level addressing of target 0; false: nobody is there. */
static bool lun_parse(const uint8_t *lun, unsigned *ret_lun)
{
	if (lun[0] != 1 || lun[1] != 0 || load_le32(lun + 4))
		return false;
	/* SAM-5 4.7.7: peripheral and flat addressing. */
	if (lun[2] != 0 && (lun[2] & 0xc0) != 0x40)
		return false;
	*ret_lun = (lun[2] & 0x3fu) << 8 | lun[3];
	return true;
}

/* Segments behind the first @skip bytes. Returns how many. */
static unsigned iov_behind(struct iovec *to, const struct iovec *from, unsigned count, size_t skip)
{
	unsigned n = 0;

	for (unsigned i = 0; i < count; i++) {
		size_t cut = skip < from[i].iov_len ? skip : from[i].iov_len;

		skip -= cut;
		if (cut == from[i].iov_len)
			continue;
		to[n].iov_base = (uint8_t *)from[i].iov_base + cut;
		to[n++].iov_len = from[i].iov_len - cut;
	}
	return n;
}

static void request_start(struct request *r, const uint8_t *header)
{
	struct vscsi *v = r->vscsi;
	struct virtq_elem *e = &r->elem;
	struct scsi_command *c = &r->command;
	size_t request = REQUEST_BYTES + v->cdb_bytes, response = RESPONSE_BYTES + v->sense_bytes;

	memset(c->cdb, 0, sizeof(c->cdb));
	memcpy(c->cdb, header + REQUEST_BYTES, v->cdb_bytes);
	c->out = r->out;
	c->in = r->in;
	c->out_count = iov_behind(r->out, e->iov, e->out_count, request);
	c->in_count = iov_behind(r->in, e->iov + e->out_count, e->in_count, response);
	c->out_bytes = e->out_bytes - request;
	c->in_bytes = e->in_bytes - response;
	c->done = request_done;
	r->tag = load_le64(header + 8);
	r->response = S_OK;
	r->tmf = NULL;
	/* Lengths that are told have 32 bits. */
	if (!lun_parse(header, &r->lun) || c->out_bytes > INT32_MAX || c->in_bytes > INT32_MAX)
		request_refuse(r, S_BAD_TARGET);
	else
		scsi_start(&v->target, r->lun, c);
}

static struct request *free_peek(struct vscsi *v)
{
	if (!v->free && v->fresh < (v->dev.queue_count - FIRST_REQUEST) * QUEUE_SIZE) {
		v->free = &v->requests[v->fresh++];
		v->free->vscsi = v;
	}
	return v->free;
}

/* One command; false when there is none. */
static bool take(struct vscsi *v, unsigned queue)
{
	uint8_t header[REQUEST_BYTES + SCSI_CDB_BYTES];
	size_t bytes = REQUEST_BYTES + v->cdb_bytes;
	struct request *r = free_peek(v);
	struct virtq_elem *e;

	/* Free ones run out only under a driver that offers a descriptor twice. */
	if (!r) {
		virtio_fail(&v->dev, "more requests than descriptors");
		return false;
	}
	e = &r->elem;
	if (!virtio_pop(&v->dev, queue, e))
		return false;
	if (virtq_elem_read(e, 0, header, bytes) < bytes ||
	    e->in_bytes < RESPONSE_BYTES + v->sense_bytes) {
		virtio_fail(&v->dev, "request without header or response");
		return false;
	}
	v->free = r->next_free;
	r->next_free = NULL;
	r->queue = queue;
	r->active = true;
	virtio_hold(&v->dev);
	request_start(r, header);
	return true;
}

/* ---- task management ---- */

/* Tasks of the unit under way: with @tmf they are to end with it. @tag: only that one, unless NULL. */
static unsigned tasks_of(struct vscsi *v, unsigned lun, const uint64_t *tag, struct tmf *tmf,
			 uint8_t response)
{
	unsigned n = 0;

	for (unsigned i = 0; i < v->fresh; i++) {
		struct request *r = &v->requests[i];

		if (!r->active || r->lun != lun || (tag && r->tag != *tag) || (tmf && r->tmf))
			continue;
		n++;
		if (!tmf)
			continue;
		r->tmf = tmf;
		r->response = response;
	}
	return n;
}

static void tmf_start(struct vscsi *v, struct tmf *tmf, uint32_t function, unsigned lun, uint64_t tag)
{
	struct scsi_unit *unit = scsi_unit_find(&v->target, lun);
	bool reset = function == UNIT_RESET || function == NEXUS_RESET;
	bool one = function == ABORT_TASK || function == QUERY_TASK;

	if (!unit) {
		tmf_done(v, tmf, S_NO_LUN);
		return;
	}
	switch (function) {
	case QUERY_TASK:
	case QUERY_TASK_SET:
		tmf_done(v, tmf, tasks_of(v, lun, one ? &tag : NULL, NULL, 0) ? S_SUCCEEDED : S_OK);
		return;
	case ABORT_TASK:
	case ABORT_TASK_SET:
	case CLEAR_TASK_SET:
	case NEXUS_RESET:
	case UNIT_RESET:
		tmf->tasks = tasks_of(v, lun, one ? &tag : NULL, tmf, reset ? S_RESET : S_ABORTED);
		if (reset)
			scsi_unit_reset(unit);
		if (tmf->tasks == 0)
			tmf_done(v, tmf, S_OK);
		return;
	default:
		tmf_done(v, tmf, S_REJECTED);
	}
}

/* Asynchronous notifications of media are not there: none is ever on. */
static void answer_an(struct vscsi *v, struct tmf *tmf)
{
	static const uint8_t none[5]; /* events, response */
	struct virtq *vq = virtio_vq(&v->dev, CONTROL);
	size_t n = virtq_elem_write(&tmf->elem, 0, none, sizeof(none));

	if (vq) {
		virtq_push(vq, &tmf->elem, (uint32_t)n);
		virtio_signal(&v->dev, CONTROL);
	}
	g_free(tmf);
	virtio_release(&v->dev);
}

static void control_start(struct vscsi *v, struct tmf *tmf)
{
	uint8_t words[24] = { 0 };
	size_t n = virtq_elem_read(&tmf->elem, 0, words, sizeof(words));
	uint32_t type = load_le32(words);
	unsigned lun;

	if (type == T_TMF && n == sizeof(words)) {
		if (lun_parse(words + 8, &lun))
			tmf_start(v, tmf, load_le32(words + 4), lun, load_le64(words + 16));
		else
			tmf_done(v, tmf, S_BAD_TARGET);
	} else if (type == T_AN_QUERY || type == T_AN_SUBSCRIBE) {
		answer_an(v, tmf);
	} else {
		tmf_done(v, tmf, S_REJECTED);
	}
}

static bool control_take(struct vscsi *v)
{
	struct tmf *tmf = g_new(struct tmf, 1);

	tmf->tasks = 0;
	if (!virtio_pop(&v->dev, CONTROL, &tmf->elem)) {
		g_free(tmf);
		return false;
	}
	if (tmf->elem.in_bytes == 0 || tmf->elem.out_bytes < 4) {
		virtio_fail(&v->dev, "control request without type or response");
		g_free(tmf);
		return false;
	}
	virtio_hold(&v->dev);
	control_start(v, tmf);
	return true;
}

/* ---- events ---- */

static void event_send(struct vscsi *v, uint32_t event, unsigned lun, uint32_t reason)
{
	uint8_t bytes[EVENT_BYTES] = { 0 };
	struct virtq_elem elem;

	if (!virtio_vq(&v->dev, EVENT))
		return;
	if (!virtio_pop(&v->dev, EVENT, &elem)) {
		v->event_missed = true;
		return;
	}
	if (elem.in_bytes < EVENT_BYTES) {
		virtio_fail(&v->dev, "event without room");
		return;
	}
	store_le32(bytes, event | (v->event_missed ? EVENT_MISSED : 0));
	bytes[4] = 1;
	bytes[7] = (uint8_t)lun; /* peripheral addressing, as REPORT LUNS has it: SCSI_MAX_LUN fits */
	store_le32(bytes + 12, reason);
	v->event_missed = false;
	virtq_elem_write(&elem, 0, bytes, sizeof(bytes));
	virtq_push(virtio_vq(&v->dev, EVENT), &elem, EVENT_BYTES);
	virtio_signal(&v->dev, EVENT);
}

/* ---- the device ---- */

static bool take_any(struct vscsi *v, unsigned queue)
{
	return queue == CONTROL ? control_take(v) : take(v, queue);
}

static bool vscsi_work(struct virtio_dev *dev, unsigned index)
{
	struct vscsi *v = (struct vscsi *)dev;
	struct virtq *vq = virtio_vq(dev, index);
	unsigned n = 0, before;
	bool more = false;

	if (index == EVENT) {
		(void)virtq_set_kick(vq, true);
		if (v->event_missed)
			event_send(v, EVENT_NONE, 0, 0);
		return false;
	}
	virtio_turn_begin(dev, index);
	do {
		before = n;
		while (n < TURN && take_any(v, index))
			n++;
		scsi_target_kick(&v->target);
		more = virtio_turn_end(dev, index) && vq->in_use < vq->cfg.size;
	} while (more && n > before && n < TURN);
	return more;
}

static void vscsi_start(struct virtio_dev *dev)
{
	struct vscsi *v = (struct vscsi *)dev;

	pthread_mutex_lock(&dev->lock);
	v->sense_bytes = load_le32(dev->config + CONFIG_SENSE_BYTES);
	v->cdb_bytes = load_le32(dev->config + CONFIG_CDB_BYTES);
	pthread_mutex_unlock(&dev->lock);
}

static void vscsi_stop(struct virtio_dev *dev)
{
	struct vscsi *v = (struct vscsi *)dev;

	v->event_missed = false;
	scsi_target_reset_modes(&v->target);
	pthread_mutex_lock(&dev->lock);
	store_le32(dev->config + CONFIG_SENSE_BYTES, SENSE_BYTES);
	store_le32(dev->config + CONFIG_CDB_BYTES, SCSI_CDB_BYTES);
	pthread_mutex_unlock(&dev->lock);
}

/* 5.6.4: before it is ready the driver may change two sizes. */
static void vscsi_config_write(struct virtio_dev *dev, unsigned off, unsigned size, uint64_t value)
{
	uint64_t min = off == CONFIG_CDB_BYTES ? 1 : 0;
	uint64_t max = off == CONFIG_CDB_BYTES ? SCSI_CDB_BYTES : SENSE_BYTES;

	if (size != 4 || (off != CONFIG_CDB_BYTES && off != CONFIG_SENSE_BYTES) || value < min ||
	    value > max)
		return;
	pthread_mutex_lock(&dev->lock);
	if (!(dev->status & VIRTIO_STATUS_DRIVER_OK))
		store_le32(dev->config + off, (uint32_t)value);
	pthread_mutex_unlock(&dev->lock);
}

static void vscsi_drain(struct virtio_dev *dev)
{
	scsi_target_drain(&((struct vscsi *)dev)->target);
}

static void vscsi_free(struct virtio_dev *dev)
{
	struct vscsi *v = (struct vscsi *)dev;

	virtio_fini(dev);
	scsi_target_fini(&v->target);
	g_free(v->requests);
	g_free(v);
}

static const struct virtio_class vscsi_class = {
	.name = "virtio-scsi",
	.id = VIRTIO_ID_SCSI,
	.pci_class = 0x010000,
	.queue_count = FIRST_REQUEST + 1,
	.queue_size = QUEUE_SIZE,
	.start = vscsi_start,
	.stop = vscsi_stop,
	.work = vscsi_work,
	.drain = vscsi_drain,
	.config_write = vscsi_config_write,
	.free = vscsi_free,
};

static void fill_config(struct vscsi *v)
{
	uint8_t *c = v->dev.config;

	store_le32(c + CONFIG_NUM_QUEUES, v->dev.queue_count - FIRST_REQUEST);
	store_le32(c + CONFIG_SEG_MAX, SEG_MAX);
	store_le32(c + CONFIG_MAX_SECTORS, 0xffff);
	store_le32(c + CONFIG_CMD_PER_LUN, 128);
	store_le32(c + CONFIG_EVENT_BYTES, EVENT_BYTES);
	store_le32(c + CONFIG_SENSE_BYTES, SENSE_BYTES);
	store_le32(c + CONFIG_CDB_BYTES, SCSI_CDB_BYTES);
	store_le16(c + CONFIG_MAX_CHANNEL, 0);
	store_le16(c + CONFIG_MAX_TARGET, 0);
	store_le32(c + CONFIG_MAX_LUN, SCSI_MAX_LUN);
	v->dev.config_size = CONFIG_BYTES;
}

static bool add_units(struct vscsi *v, const struct virtio_scsi_unit *units, unsigned count, GError **err)
{
	for (unsigned i = 0; i < count; i++) {
		const struct scsi_unit_options o = {
			.kind = units[i].cdrom ? SCSI_CDROM : SCSI_DISK,
			.lun = units[i].lun,
			.serial = units[i].serial,
			.block_bytes = units[i].block_bytes,
		};

		if (scsi_unit_add(&v->target, units[i].disk, &o))
			continue;
		g_set_error(err, BASE_ERROR, EEXIST, "virtio-scsi: no place for unit %u", o.lun);
		return false;
	}
	return true;
}

struct virtio_dev *virtio_scsi_new(const struct virtio_env *env, const struct virtio_scsi_unit *units,
				   unsigned count, unsigned queues, GError **err)
{
	struct vscsi *v = g_new0(struct vscsi, 1);

	v->dev.queue_count = FIRST_REQUEST + (queues ? queues : 1);
	v->sense_bytes = SENSE_BYTES;
	v->cdb_bytes = SCSI_CDB_BYTES;
	if (!virtio_init(&v->dev, &vscsi_class, env, err) || !add_units(v, units, count, err))
		goto err;
	v->dev.features |= F_HOTPLUG | F_CHANGE;
	fill_config(v);
	v->requests = g_new0(struct request, (size_t)QUEUE_SIZE * (v->dev.queue_count - FIRST_REQUEST));
	if (virtio_attach(&v->dev, err))
		return &v->dev;
err:
	vscsi_free(&v->dev);
	return NULL;
}

/* ---- resizing ---- */

struct resize {
	struct vscsi *vscsi;
	unsigned lun;
	uint64_t size_bytes;
	int result;
};

static void resize_in_loop(void *arg)
{
	struct resize *r = arg;
	struct vscsi *v = r->vscsi;
	struct scsi_unit *unit = scsi_unit_find(&v->target, r->lun);

	if (!unit) {
		r->result = -ENODEV;
		return;
	}
	r->result = virtio_grow_disk(&v->dev, scsi_unit_disk(unit), r->size_bytes,
				     scsi_unit_block_bytes(unit));
	if (r->result < 0)
		return;
	scsi_unit_attention(unit, SCSI_UA_CAPACITY);
	/* 5.6.6.3: the additional sense code, and its qualifier above it. */
	if (virtio_has(&v->dev, F_CHANGE))
		event_send(v, EVENT_PARAM_CHANGE, r->lun,
			   SCSI_SENSE_CODE(SCSI_UA_CAPACITY) >> 8 |
				   (SCSI_SENSE_CODE(SCSI_UA_CAPACITY) & 0xff) << 8);
}

int virtio_scsi_resize(struct virtio_dev *dev, unsigned lun, uint64_t size_bytes)
{
	struct resize r = { .vscsi = (struct vscsi *)dev, .lun = lun, .size_bytes = size_bytes };

	loop_call(dev->env.loop, resize_in_loop, &r);
	return r.result;
}
