// SPDX-License-Identifier: Apache-2.0
/*
 * acpi_pm.c - ACPI fixed hardware (ACPI 6.4 section 4.8).
 *
 * The machine is born in ACPI mode: SCI_EN reads as one, there is no SMI command port.
 */
#include "acpi_pm.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/bus.h"
#include "bus/irq.h"

#define PM_TIMER_HZ 3579545u

#define REG_STATUS  0x0
#define REG_ENABLE  0x2
#define REG_CONTROL 0x4
#define REG_TIMER   0x8
#define BLOCK_SIZE  0x10

#define STS_TIMER  0x0001u
#define STS_GLOBAL 0x0020u
#define STS_POWER  0x0100u
#define STS_WAKE   0x8000u
#define STS_ALL	   (STS_TIMER | 0x0010u | STS_GLOBAL | STS_POWER | 0x0200u | 0x0400u | STS_WAKE)
#define EN_ALL	   (STS_TIMER | STS_GLOBAL | STS_POWER | 0x0200u | 0x0400u)

#define CNT_SCI_EN   0x0001u
#define CNT_SLP_TYP  10
#define CNT_SLP_EN   0x2000u
#define CNT_WRITABLE 0x1c02u

struct acpi_pm {
	struct acpi_pm_config config;
	struct bus_region region;
	bool on_bus;
	struct vtimer *timer;

	pthread_mutex_t lock; /* what follows; held while the SCI line is set */
	uint16_t status, enable, control;
	uint64_t timer_half; /* which half of the PM timer's range TMR_STS has covered */
	bool sci;
};

static uint64_t timer_ticks(struct acpi_pm *pm)
{
	uint64_t ns = vclock_now_ns(pm->config.clock);

	return (uint64_t)((unsigned __int128)ns * PM_TIMER_HZ / 1000000000u);
}

/* lock held. TMR_STS is set whenever the timer's highest bit changes. */
static void timer_sync(struct acpi_pm *pm)
{
	uint64_t half = timer_ticks(pm) >> 31;

	if (half != pm->timer_half) {
		pm->timer_half = half;
		pm->status |= STS_TIMER;
	}
}

/* lock held. */
static void sci_update(struct acpi_pm *pm)
{
	bool sci;

	timer_sync(pm);
	sci = pm->status & pm->enable & EN_ALL;
	if (sci != pm->sci) {
		pm->sci = sci;
		irq_set_line(pm->config.irq, pm->config.sci_gsi, sci);
	}
	if (pm->enable & STS_TIMER) {
		unsigned __int128 next = (unsigned __int128)(pm->timer_half + 1) << 31;

		vtimer_arm(pm->timer, (uint64_t)((next * 1000000000u) / PM_TIMER_HZ) + 1);
	} else {
		vtimer_disarm(pm->timer);
	}
}

static void timer_fired(void *arg)
{
	struct acpi_pm *pm = arg;

	pthread_mutex_lock(&pm->lock);
	sci_update(pm);
	pthread_mutex_unlock(&pm->lock);
}

static uint64_t pm_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct acpi_pm *pm = container_of(region, struct acpi_pm, region);
	uint8_t block[BLOCK_SIZE + 8] = {0};

	/* The clock is read most; nothing of it needs the lock. */
	if (off == REG_TIMER)
		return (uint32_t)timer_ticks(pm);
	pthread_mutex_lock(&pm->lock);
	timer_sync(pm);
	store_le16(block + REG_STATUS, pm->status);
	store_le16(block + REG_ENABLE, pm->enable);
	store_le16(block + REG_CONTROL, pm->control | CNT_SCI_EN);
	pthread_mutex_unlock(&pm->lock);
	store_le32(block + REG_TIMER, (uint32_t)timer_ticks(pm));
	return load_le64(block + off);
}

/* lock held. Returns whether the guest asked for S5. */
static bool byte_write(struct acpi_pm *pm, uint64_t off, uint8_t value)
{
	unsigned shift = (off & 1) * 8;
	uint16_t bits = (uint16_t)(value << shift), mask = (uint16_t)(0xff << shift);

	switch (off & ~1ull) {
	case REG_STATUS: /* write one to clear */
		pm->status &= (uint16_t)~bits;
		break;
	case REG_ENABLE:
		pm->enable = (uint16_t)((pm->enable & ~mask) | bits) & EN_ALL;
		break;
	case REG_CONTROL:
		pm->control = (uint16_t)((pm->control & ~mask) | bits) & CNT_WRITABLE;
		return (bits & CNT_SLP_EN) &&
		       ((unsigned)(bits >> CNT_SLP_TYP) & 7) == pm->config.s5_type;
	default:
		break;
	}
	return false;
}

static void pm_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct acpi_pm *pm = container_of(region, struct acpi_pm, region);
	bool off_wanted = false;

	pthread_mutex_lock(&pm->lock);
	timer_sync(pm);
	for (unsigned i = 0; i < size; i++)
		off_wanted |= byte_write(pm, off + i, (uint8_t)(value >> (8 * i)));
	sci_update(pm);
	pthread_mutex_unlock(&pm->lock);
	if (off_wanted && pm->config.power_off)
		pm->config.power_off(pm->config.arg);
}

static const struct bus_region_ops pm_ops = {.read = pm_read, .write = pm_write};

void acpi_pm_press_power_button(struct acpi_pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->status |= STS_POWER;
	sci_update(pm);
	pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_reset(struct acpi_pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->enable = 0;
	pm->control = 0;
	sci_update(pm);
	pm->status = 0;
	pthread_mutex_unlock(&pm->lock);
}

static const struct state_field pm_fields[] = {
	STATE_UINT(struct acpi_pm, status),
	STATE_UINT(struct acpi_pm, enable),
	STATE_UINT(struct acpi_pm, control),
	STATE_UINT_MAX(struct acpi_pm, timer_half, UINT32_MAX),
	STATE_BOOL(struct acpi_pm, sci),
	STATE_END,
};

static const struct state_desc pm_desc = {"acpi-pm", 1, pm_fields};

void acpi_pm_save(struct acpi_pm *pm, GByteArray *out)
{
	pthread_mutex_lock(&pm->lock);
	state_save(&pm_desc, pm, out);
	pthread_mutex_unlock(&pm->lock);
}

bool acpi_pm_load(struct acpi_pm *pm, struct state_reader *in, GError **err)
{
	bool ok;

	pthread_mutex_lock(&pm->lock);
	ok = state_load(&pm_desc, pm, in, err);
	pm->status &= STS_ALL;
	pm->enable &= EN_ALL;
	pm->control &= CNT_WRITABLE;
	if (ok)
		sci_update(pm);
	pthread_mutex_unlock(&pm->lock);
	return ok;
}

struct acpi_pm *acpi_pm_new(const struct acpi_pm_config *config)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));

	if (!pm)
		return NULL;
	pm->config = *config;
	pm->region = (struct bus_region){.name = "acpi pm", .space = BUS_PIO, .base = config->base,
					 .size = BLOCK_SIZE, .ops = &pm_ops};
	pthread_mutex_init(&pm->lock, NULL);
	pm->timer = vtimer_new(config->clock, timer_fired, pm);
	if (!pm->timer)
		goto err;
	pm->on_bus = bus_add(config->bus, &pm->region) == 0;
	if (!pm->on_bus)
		goto err;
	return pm;
err:
	acpi_pm_free(pm);
	return NULL;
}

void acpi_pm_free(struct acpi_pm *pm)
{
	if (!pm)
		return;
	if (pm->on_bus)
		bus_remove(pm->config.bus, &pm->region);
	vtimer_free(pm->timer);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}
