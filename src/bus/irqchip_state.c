// SPDX-License-Identifier: Apache-2.0
/* irqchip_state.c - what the interrupt controllers save. */
#include "irqchip_int.h"

#include "base/error.h"
#include "base/state.h"

static const struct state_field unit_fields[] = {
	STATE_UINT(struct pic_unit, irr),
	STATE_UINT(struct pic_unit, isr),
	STATE_UINT(struct pic_unit, imr),
	STATE_UINT(struct pic_unit, lines),
	STATE_UINT(struct pic_unit, elcr),
	STATE_BOOL(struct pic_unit, ltim),
	STATE_UINT(struct pic_unit, vector_base),
	STATE_UINT_MAX(struct pic_unit, lowest, 7),
	STATE_UINT_MAX(struct pic_unit, init_step, 4),
	STATE_BOOL(struct pic_unit, single),
	STATE_BOOL(struct pic_unit, wants_icw4),
	STATE_BOOL(struct pic_unit, auto_eoi),
	STATE_BOOL(struct pic_unit, rotate_on_aeoi),
	STATE_BOOL(struct pic_unit, special_fully_nested),
	STATE_BOOL(struct pic_unit, special_mask),
	STATE_BOOL(struct pic_unit, read_isr),
	STATE_BOOL(struct pic_unit, poll),
	STATE_END,
};

static const struct state_field pic_fields[] = {
	STATE_GROUPS(struct pic, units, unit_fields),
	STATE_END,
};

static const struct state_field ioapic_fields[] = {
	STATE_UINT(struct ioapic, id),
	STATE_UINT(struct ioapic, select),
	STATE_UINT(struct ioapic, lines),
	STATE_ARRAY(struct ioapic, redirect),
	STATE_END,
};

static const struct state_field lapic_fields[] = {
	STATE_ARRAY(struct lapic, irr),
	STATE_ARRAY(struct lapic, tmr),
	STATE_ARRAY(struct lapic, isr),
	STATE_UINT(struct lapic, tpr),
	STATE_UINT(struct lapic, svr),
	STATE_UINT(struct lapic, ldr),
	STATE_UINT(struct lapic, dfr),
	STATE_ARRAY(struct lapic, lvt),
	STATE_UINT(struct lapic, esr_next),
	STATE_UINT(struct lapic, base),
	STATE_BOOL(struct lapic, init_pending),
	STATE_UINT(struct lapic, esr),
	STATE_UINT(struct lapic, icr_low),
	STATE_UINT(struct lapic, icr_high),
	STATE_BOOL(struct lapic, timer_armed),
	STATE_UINT(struct lapic, initial_count),
	STATE_UINT(struct lapic, divide),
	STATE_UINT_MAX(struct lapic, deadline_ns, INT64_MAX),
	STATE_UINT(struct lapic, tsc_deadline),
	STATE_END,
};

static const struct state_field chip_fields[] = {
	STATE_UINT(struct irqchip, lapic_count),
	STATE_END,
};

static const struct state_desc pic_desc = {"8259", 1, pic_fields};
static const struct state_desc ioapic_desc = {"ioapic", 1, ioapic_fields};
static const struct state_desc lapic_desc = {"lapic", 1, lapic_fields};
static const struct state_desc chip_desc = {"irqchip", 1, chip_fields};

void irqchip_save(struct irqchip *chip, GByteArray *out)
{
	state_save(&chip_desc, chip, out);
	pthread_mutex_lock(&chip->pic.lock);
	state_save(&pic_desc, &chip->pic, out);
	pthread_mutex_unlock(&chip->pic.lock);
	pthread_mutex_lock(&chip->ioapic.lock);
	state_save(&ioapic_desc, &chip->ioapic, out);
	pthread_mutex_unlock(&chip->ioapic.lock);
	for (unsigned i = 0; i < chip->lapic_count; i++) {
		struct lapic *lapic = &chip->lapics[i];

		pthread_mutex_lock(&lapic->timer_lock);
		state_save(&lapic_desc, lapic, out);
		pthread_mutex_unlock(&lapic->timer_lock);
	}
}

static bool lapic_load(struct lapic *lapic, struct state_reader *in, GError **err)
{
	bool ok;

	pthread_mutex_lock(&lapic->timer_lock);
	ok = state_load(&lapic_desc, lapic, in, err);
	pthread_mutex_unlock(&lapic->timer_lock);
	return ok;
}

bool irqchip_load(struct irqchip *chip, struct state_reader *in, GError **err)
{
	unsigned count = chip->lapic_count, saved;
	bool ok;

	ok = state_load(&chip_desc, chip, in, err);
	saved = chip->lapic_count;
	chip->lapic_count = count;
	if (ok && saved != count) {
		g_set_error(err, BASE_ERROR, EBADMSG,
			    "saved state of 'irqchip': has %u vCPUs, the machine %u", saved, count);
		return false;
	}
	pthread_mutex_lock(&chip->pic.lock);
	ok = ok && state_load(&pic_desc, &chip->pic, in, err);
	pthread_mutex_unlock(&chip->pic.lock);
	pthread_mutex_lock(&chip->ioapic.lock);
	ok = ok && state_load(&ioapic_desc, &chip->ioapic, in, err);
	pthread_mutex_unlock(&chip->ioapic.lock);
	for (unsigned i = 0; ok && i < count; i++)
		ok = lapic_load(&chip->lapics[i], in, err);

	/* Whatever was loaded must be possible, even where the rest was refused. */
	ioapic_loaded(&chip->ioapic);
	for (unsigned i = 0; i < count; i++)
		lapic_loaded(&chip->lapics[i]);
	pic_loaded(&chip->pic);
	return ok;
}
