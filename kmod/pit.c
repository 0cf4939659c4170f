// SPDX-License-Identifier: GPL-2.0-only
/*
 * pit.c - the 8254 in the kernel (KVM_CREATE_PIT2): ports, a high-resolution timer for channel 0, and the ABI's
 * gets and sets (Documentation/virt/kvm/api.rst, 4.71 to 4.73). The channels are src/chip/i8254.c.
 *
 * Only channel 0 has a timer, for the rising edges of its output; in the periodic modes the controllers are
 * shown one pulse a period.
 *
 * A guest that counts ticks to know the time may lose none, though its vCPU was not running when they came. So a
 * pulse that comes before the guest has ended the last one's interrupt is counted, and given later, one behind each end
 * (unless KVM_REINJECT_CONTROL says otherwise: 4.54). Nobody misses what comes while the pins are masked, and
 * nobody ends it: such ticks are neither counted nor waited for.
 */
#include <linux/math64.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include "chips.h"
#include "irq.h"

#include "chip/i8254.h"

#define PORT_CHANNEL 0x40u
#define PORT_CONTROL 0x43u
#define PORT_SPEAKER 0x61u

/* Faster edges than this are merged: a guest may not keep the host's CPU from other work. */
#define SHORTEST_PERIOD_NS 20000u
#define MISSED_MAX	   (1u << 30)

#define SPEAKER_GATE	0x01
#define SPEAKER_DATA	0x02
#define SPEAKER_REFRESH 0x10
#define SPEAKER_OUT	0x20
/* The refresh request toggles every 15 microseconds; old software measures time with it. */
#define REFRESH_NS 15085u

/* Which byte of a word is next, in the ABI: struct kvm_pit_channel_state, read_state, write_state. */
enum { STATE_LOW = 1, STATE_HIGH, STATE_WORD_LOW, STATE_WORD_HIGH };

struct pit {
	spinlock_t lock; /* outer to those of the controllers; interrupts off */
	struct i8254_channel channel[I8254_CHANNELS];
	bool has_speaker, speaker_data;
	bool hpet; /* the line is the HPET's, in user space */
	bool line; /* channel 0's output as last shown */
	u64 due;   /* tick of the rise that the timer waits for */
	bool reinject;
	bool waits;  /* the last pulse's interrupt has not ended */
	bool lost;   /* set without the lock: it may wait in vain */
	u32 missed;
	struct hrtimer timer;
	struct vm *vm;
};

static u64 ns_to_ticks(u64 ns)
{
	return mul_u64_u64_div_u64(ns, I8254_HZ, NSEC_PER_SEC);
}

/* Rounded up, so that the tick has come when the timer fires. */
static u64 ticks_to_ns(u64 ticks)
{
	return mul_u64_u64_div_u64(ticks, NSEC_PER_SEC, I8254_HZ) + 1;
}

static u64 ticks_now(void)
{
	return ns_to_ticks(ktime_get_ns());
}

/* pit->lock held. Returns the time. */
static u64 sync_all(struct pit *pit)
{
	u64 now = ticks_now();

	for (unsigned int i = 0; i < I8254_CHANNELS; i++)
		i8254_sync(&pit->channel[i], now);
	return now;
}

/* ---- channel 0: pit->lock held ---- */

static void line_set(struct pit *pit, bool level)
{
	pit->line = level;
	if (!pit->hpet)
		irq_set(pit->vm, 0, level);
}

/* The guest is to get each tick: it asked for that, and would take this one. */
static bool counts_ticks(const struct pit *pit)
{
	return pit->reinject && !pit->hpet && irq_is_open(pit->vm, 0);
}

static void pulse(struct pit *pit, bool counts)
{
	if (pit->line)
		line_set(pit, false);
	WRITE_ONCE(pit->lost, false);
	WRITE_ONCE(pit->waits, counts);
	line_set(pit, true);
}

/* A clock that is set anew. */
static void forget(struct pit *pit)
{
	WRITE_ONCE(pit->waits, false);
	pit->missed = 0;
}

/* At least one; faster ones than are shown are one. */
static u32 rises_since_due(const struct pit *pit, u64 now)
{
	const struct i8254_channel *ch = &pit->channel[0];

	if (!i8254_is_periodic(ch) || ticks_to_ns(ch->count) < SHORTEST_PERIOD_NS || now < pit->due)
		return 1;
	return 1 + min_t(u64, div_u64(now - pit->due, ch->count), MISSED_MAX);
}

static void tick(struct pit *pit, u32 rises)
{
	bool counts = counts_ticks(pit);

	if (READ_ONCE(pit->lost) || !counts)
		WRITE_ONCE(pit->waits, false);
	if (counts)
		pit->missed = min(pit->missed + rises - !pit->waits, MISSED_MAX);
	if (!pit->waits)
		pulse(pit, counts);
}

static void timer_update(struct pit *pit, u64 now)
{
	u64 rise = i8254_next_rise(&pit->channel[0], now), ns;

	pit->due = rise;
	if (rise == I8254_NEVER) {
		/* Where it is under way just now it finds nothing to do. */
		hrtimer_try_to_cancel(&pit->timer);
		return;
	}
	ns = ticks_to_ns(rise);
	if (i8254_is_periodic(&pit->channel[0]))
		ns = max(ns, ktime_get_ns() + SHORTEST_PERIOD_NS);
	hrtimer_start(&pit->timer, ns_to_ktime(ns), HRTIMER_MODE_ABS);
}

static void channel0_changed(struct pit *pit, bool out, u64 now)
{
	if (pit->line != out)
		line_set(pit, out);
	forget(pit);
	timer_update(pit, now);
}

/* It is started anew from here, and never restarted by its return: a write to the port may have done so. */
static enum hrtimer_restart on_timer(struct hrtimer *timer)
{
	struct pit *pit = container_of(timer, struct pit, timer);
	struct i8254_channel *ch = &pit->channel[0];
	unsigned long flags;
	u64 now;

	spin_lock_irqsave(&pit->lock, flags);
	now = ticks_now();
	/* A mode change may have overtaken the timer. */
	if (i8254_is_out(ch, now)) {
		tick(pit, rises_since_due(pit, now));
		i8254_sync(ch, now);
		timer_update(pit, now);
	}
	spin_unlock_irqrestore(&pit->lock, flags);
	return HRTIMER_NORESTART;
}

/* ---- ticks that came too early ---- */

static struct pit *pit_of(const struct vm *vm)
{
	return smp_load_acquire(&vm->chips->pit);
}

bool pit_waits(const struct vm *vm)
{
	const struct pit *pit = pit_of(vm);

	return pit && READ_ONCE(pit->waits);
}

void pit_acked(struct vm *vm, u32 irqchip, u32 pin)
{
	struct pit *pit = pit_of(vm);
	unsigned long flags;
	bool is_ours;
	int at;

	if (!pit_waits(vm))
		return;
	at = srcu_read_lock(&vm->srcu);
	is_ours = irq_leads_to(vm, 0, irqchip, pin);
	srcu_read_unlock(&vm->srcu, at);
	if (!is_ours)
		return;
	spin_lock_irqsave(&pit->lock, flags);
	WRITE_ONCE(pit->waits, false);
	if (pit->missed) {
		pit->missed--;
		pulse(pit, counts_ticks(pit));
	}
	spin_unlock_irqrestore(&pit->lock, flags);
}

void pit_pulse_lost(struct vm *vm)
{
	struct pit *pit = pit_of(vm);

	if (pit)
		WRITE_ONCE(pit->lost, true);
}

long pit_reinject(struct vm *vm, const void __user *arg)
{
	struct pit *pit = pit_of(vm);
	struct kvm_reinject_control control;
	unsigned long flags;

	if (!pit)
		return -ENXIO;
	if (copy_from_user(&control, arg, sizeof(control)))
		return -EFAULT;
	spin_lock_irqsave(&pit->lock, flags);
	pit->reinject = control.pit_reinject;
	forget(pit);
	spin_unlock_irqrestore(&pit->lock, flags);
	return 0;
}

/* ---- ports ---- */

static bool is_port(const struct pit *pit, u16 port)
{
	return (port & ~3u) == PORT_CHANNEL || (port == PORT_SPEAKER && pit->has_speaker);
}

bool pit_write(struct pit *pit, u16 port, u8 value)
{
	struct i8254_channel *ch = pit->channel;
	unsigned long flags;
	u64 now;

	if (!is_port(pit, port))
		return false;
	spin_lock_irqsave(&pit->lock, flags);
	now = sync_all(pit);
	if (port == PORT_SPEAKER) {
		pit->speaker_data = value & SPEAKER_DATA;
		i8254_set_gate(&ch[2], value & SPEAKER_GATE, now);
	} else if (port == PORT_CONTROL) {
		if (i8254_command(ch, value, now) & 1)
			channel0_changed(pit, i8254_out(&ch[0], now), now);
	} else if (i8254_write(&ch[port & 3], value, now) && port == PORT_CHANNEL) {
		channel0_changed(pit, pit->line && ch[0].mode != 0, now);
	}
	spin_unlock_irqrestore(&pit->lock, flags);
	return true;
}

static u8 speaker_read(const struct pit *pit, u64 now)
{
	const struct i8254_channel *ch = &pit->channel[2];

	return (ch->gate ? SPEAKER_GATE : 0) | (pit->speaker_data ? SPEAKER_DATA : 0) |
	       (i8254_out(ch, now) ? SPEAKER_OUT : 0) |
	       (ktime_get_ns() / REFRESH_NS & 1 ? SPEAKER_REFRESH : 0);
}

bool pit_read(struct pit *pit, u16 port, u8 *ret)
{
	unsigned long flags;
	u64 now;

	if (!is_port(pit, port))
		return false;
	*ret = 0xff; /* the control register is write-only */
	spin_lock_irqsave(&pit->lock, flags);
	now = sync_all(pit);
	if (port == PORT_SPEAKER)
		*ret = speaker_read(pit, now);
	else if (port != PORT_CONTROL)
		*ret = i8254_read(&pit->channel[port & 3], now);
	spin_unlock_irqrestore(&pit->lock, flags);
	return true;
}

/* ---- gets and sets ---- */

static u8 next_byte(const struct i8254_channel *ch, bool high)
{
	if (ch->access != I8254_WORD)
		return ch->access;
	return high ? STATE_WORD_HIGH : STATE_WORD_LOW;
}

/* What is to come of a latched count: low, high, or both. */
static u8 latched_bytes(const struct i8254_channel *ch)
{
	if (!ch->count_latched)
		return 0;
	return ch->access != I8254_WORD ? ch->access : ch->high_next_read ? STATE_HIGH : STATE_WORD_LOW;
}

static void channel_out(const struct i8254_channel *ch, u64 now, struct kvm_pit_channel_state *to)
{
	*to = (struct kvm_pit_channel_state){
		.count = ch->written ? ch->written : 0x10000,
		.latched_count = ch->latched_count, .count_latched = latched_bytes(ch),
		.status_latched = ch->status_latched, .status = ch->latched_status,
		.read_state = next_byte(ch, ch->high_next_read),
		.write_state = next_byte(ch, ch->high_next_write), .write_latch = ch->low_written,
		.rw_mode = ch->access, .mode = ch->mode, .bcd = ch->bcd, .gate = ch->gate,
		.count_load_time = ticks_to_ns(now - i8254_elapsed(ch, now)),
	};
}

static void channel_in(const struct kvm_pit_channel_state *from, u64 now, struct i8254_channel *to)
{
	u64 then = from->count_load_time > 0 ? ns_to_ticks(from->count_load_time) : now;
	bool word = (from->rw_mode & 3) == I8254_WORD;

	*to = (struct i8254_channel){
		.mode = from->mode > 5 ? 0 : from->mode, .access = from->rw_mode & 3,
		.bcd = from->bcd, .gate = from->gate,
		.high_next_read = word && (from->read_state == STATE_WORD_HIGH ||
					   from->count_latched == STATE_HIGH),
		.high_next_write = word && from->write_state == STATE_WORD_HIGH,
		.low_written = from->write_latch, .written = from->count,
		.count_latched = from->count_latched, .latched_count = from->latched_count,
		.status_latched = from->status_latched, .latched_status = from->status,
		/* A channel that was never given a count counts the largest one in this ABI. */
		.loaded = true,
	};
	to->count = i8254_count(to);
	to->halted = !to->gate && !i8254_is_triggered(to);
	to->start = then <= now ? then : now;
	if (to->halted)
		to->start = now - to->start;
}

static void get(struct pit *pit, struct kvm_pit_state2 *ret)
{
	unsigned long flags;
	u64 now;

	memset(ret, 0, sizeof(*ret));
	spin_lock_irqsave(&pit->lock, flags);
	now = sync_all(pit);
	for (unsigned int i = 0; i < I8254_CHANNELS; i++)
		channel_out(&pit->channel[i], now, &ret->channels[i]);
	ret->flags = (pit->hpet ? KVM_PIT_FLAGS_HPET_LEGACY : 0) |
		     (pit->speaker_data ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0);
	spin_unlock_irqrestore(&pit->lock, flags);
}

static void set(struct pit *pit, const struct kvm_pit_state2 *state)
{
	unsigned long flags;
	u64 now;

	spin_lock_irqsave(&pit->lock, flags);
	now = ticks_now();
	for (unsigned int i = 0; i < I8254_CHANNELS; i++)
		channel_in(&state->channels[i], now, &pit->channel[i]);
	if (pit->line)
		line_set(pit, false);
	pit->hpet = state->flags & KVM_PIT_FLAGS_HPET_LEGACY;
	pit->speaker_data = state->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	forget(pit);
	timer_update(pit, now);
	spin_unlock_irqrestore(&pit->lock, flags);
}

long pit_state(struct vm *vm, void __user *arg, bool write)
{
	struct pit *pit = pit_of(vm);
	struct kvm_pit_state2 state;

	if (!pit)
		return -ENXIO;
	if (write) {
		if (copy_from_user(&state, arg, sizeof(state)))
			return -EFAULT;
		if (state.flags & ~(KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON))
			return -EINVAL;
		set(pit, &state);
		return 0;
	}
	get(pit, &state);
	return copy_to_user(arg, &state, sizeof(state)) ? -EFAULT : 0;
}

/* ---- life ---- */

long pit_create(struct vm *vm, const void __user *arg)
{
	struct kvm_pit_config config;
	struct pit *pit;
	long r = -EEXIST;

	if (copy_from_user(&config, arg, sizeof(config)))
		return -EFAULT;
	if (config.flags & ~KVM_PIT_SPEAKER_DUMMY)
		return -EINVAL;
	pit = kzalloc(sizeof(*pit), GFP_KERNEL_ACCOUNT);
	if (!pit)
		return -ENOMEM;
	spin_lock_init(&pit->lock);
	pit->vm = vm;
	pit->reinject = true;
	pit->has_speaker = config.flags & KVM_PIT_SPEAKER_DUMMY;
	hrtimer_init(&pit->timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS);
	pit->timer.function = on_timer;
	for (unsigned int i = 0; i < I8254_CHANNELS; i++)
		i8254_reset(&pit->channel[i], i != 2);
	mutex_lock(&vm->lock);
	if (!vm->chips->pit) {
		smp_store_release(&vm->chips->pit, pit);
		pit = NULL;
		r = 0;
	}
	mutex_unlock(&vm->lock);
	kfree(pit);
	return r;
}

void pit_free(struct pit *pit)
{
	if (pit)
		hrtimer_cancel(&pit->timer);
	kfree(pit);
}
