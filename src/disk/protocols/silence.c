// SPDX-License-Identifier: Apache-2.0
/* silence.c - how long a drain waits for a server that says nothing. */
#include "disk/protocols/silence.h"

#include "base/log.h"
#include "base/loop.h"

#define MS	  1000000ull
#define SLICE_MS  100u /* another thread may change its patience */
#define WHOLE	  12u  /* a drain lasts so many silences at most: a server may drop a byte now and then */
#define TELL_MS	  5000u

void silence_asked(struct silence *s)
{
	if (!s->given_up)
		s->heard_ns = loop_now_ns();
}

void silence_heard(struct silence *s)
{
	s->heard_ns = loop_now_ns();
	s->given_up = s->told = false;
}

static uint64_t ms_since(uint64_t then_ns, uint64_t now_ns)
{
	return now_ns > then_ns ? (now_ns - then_ns) / MS : 0;
}

int silence_wait_ms(struct silence *s, const struct disk *disk, uint64_t begin_ns)
{
	unsigned patience_ms = s->patience ? atomic_load(&s->patience->ms) : 0;
	uint64_t now = loop_now_ns(), silent_ms = ms_since(s->heard_ns, now), lasts_ms = ms_since(begin_ns, now);

	if (!s->patience)
		return SILENCE_FOREVER;
	if (patience_ms && (silent_ms >= patience_ms || lasts_ms >= (uint64_t)WHOLE * patience_ms))
		return 0;
	if (silent_ms >= TELL_MS && lasts_ms >= TELL_MS && !s->told) {
		log_warn("disk '%s': its server has said nothing for %u seconds, and is waited for", disk->path,
			 (unsigned)(silent_ms / 1000));
		s->told = true;
	}
	return SLICE_MS;
}

void silence_give_up(struct silence *s, const struct disk *disk, unsigned requests)
{
	if (s->given_up)
		return; /* it is known */
	s->given_up = true;
	log_warn("disk '%s': its server has said nothing for %u seconds: %u request%s given up, and what it had not made "
		 "durable may be lost",
		 disk->path, (unsigned)(ms_since(s->heard_ns, loop_now_ns()) / 1000), requests,
		 requests == 1 ? " is" : "s are");
}
