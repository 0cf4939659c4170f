// SPDX-License-Identifier: Apache-2.0
/* vm.c - tests of src/vm on an engine that runs C functions instead of a guest. */
#include "vm/vm.h"

#include <check.h>
#include <glib/gstdio.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "vm/vm_int.h"
#include "x86/state.h"

/* ---- an engine whose vCPU 0 calls the current test's program, once per start ---- */

struct fake_vcpu {
	struct engine_vcpu base;
	sem_t kicks;
	bool ran;
	struct x86_state state;
};

struct fake {
	struct engine base;
	struct engine_host *host;
};

static atomic_int starts; /* of the board */
static enum engine_exit (*program)(struct engine_host *host);

static void fake_close(struct engine *engine)
{
	g_free(engine);
}

static uint32_t fake_caps(const struct engine *engine)
{
	return 0;
}

static struct engine_vcpu *fake_vcpu_new(struct engine *engine, unsigned index, GError **err)
{
	struct fake_vcpu *v = g_new0(struct fake_vcpu, 1);

	v->base = (struct engine_vcpu){ .engine = engine, .index = index };
	sem_init(&v->kicks, 0, 0);
	return &v->base;
}

static void fake_vcpu_free(struct engine_vcpu *vcpu)
{
	g_free(vcpu);
}

static enum engine_exit fake_run(struct engine_vcpu *vcpu)
{
	struct fake_vcpu *v = (struct fake_vcpu *)vcpu;

	if (vcpu->index == 0 && !v->ran) {
		v->ran = true;
		return program(((struct fake *)vcpu->engine)->host);
	}
	while (sem_wait(&v->kicks))
		;
	return ENGINE_EXIT_KICK;
}

static void fake_kick(struct engine_vcpu *vcpu)
{
	sem_post(&((struct fake_vcpu *)vcpu)->kicks);
}

static void fake_irq(struct engine_vcpu *vcpu)
{
}

static void fake_sipi(struct engine_vcpu *vcpu, uint8_t vector)
{
}

static unsigned fake_phys_bits(const struct engine *engine)
{
	return 40;
}

static uint64_t fake_tsc_hz(const struct engine *engine)
{
	return 1000000000;
}

static uint64_t fake_tsc(const struct engine_vcpu *vcpu)
{
	return 0;
}

static int fake_set_state(struct engine_vcpu *vcpu, const struct x86_state *state)
{
	((struct fake_vcpu *)vcpu)->state = *state;
	return 0;
}

static const char *fake_error(const struct engine_vcpu *vcpu)
{
	return "the fake engine is out of order";
}

static struct engine *fake_open(const struct engine_config *config, GError **err);

static const struct engine_ops fake_ops = {
	.name = "fake",
	.open = fake_open,
	.close = fake_close,
	.caps = fake_caps,
	.phys_bits = fake_phys_bits,
	.vcpu_new = fake_vcpu_new,
	.vcpu_free = fake_vcpu_free,
	.vcpu_run = fake_run,
	.vcpu_kick = fake_kick,
	.vcpu_irq = fake_irq,
	.vcpu_nmi = fake_irq,
	.vcpu_init = fake_irq,
	.vcpu_sipi = fake_sipi,
	.tsc_hz = fake_tsc_hz,
	.vcpu_tsc = fake_tsc,
	.vcpu_set_state = fake_set_state,
	.vcpu_error = fake_error,
};

static struct engine *fake_open(const struct engine_config *config, GError **err)
{
	struct fake *f = g_new0(struct fake, 1);

	f->base.ops = &fake_ops;
	f->host = config->host;
	starts++;
	return &f->base;
}

/* ---- programs ---- */

static enum engine_exit exits_by_port(struct engine_host *host)
{
	host->ops->pio_write(host, 0, 0xf4, 1, 0x10);
	return ENGINE_EXIT_KICK;
}

static enum engine_exit resets_twice(struct engine_host *host)
{
	if (starts <= 2)
		host->ops->pio_write(host, 0, 0xcf9, 1, 0x06);
	else
		host->ops->pio_write(host, 0, 0xf4, 1, 3);
	return ENGINE_EXIT_KICK;
}

static enum engine_exit triple_faults(struct engine_host *host)
{
	return ENGINE_EXIT_SHUTDOWN;
}

static enum engine_exit breaks(struct engine_host *host)
{
	return ENGINE_EXIT_FAIL;
}

static enum engine_exit powers_off(struct engine_host *host)
{
	/* SLP_TYP 5, SLP_EN: boot/layout.h */
	host->ops->pio_write(host, 0, 0x604, 2, 5u << 10 | 1u << 13);
	return ENGINE_EXIT_KICK;
}

static enum engine_exit is_terminated(struct engine_host *host)
{
	kill(getpid(), SIGTERM);
	return ENGINE_EXIT_KICK;
}

static enum engine_exit keeps_the_first_wish(struct engine_host *host)
{
	host->ops->pio_write(host, 0, 0xf4, 1, 1);
	host->ops->pio_write(host, 0, 0xf4, 1, 2);
	host->ops->pio_write(host, 0, 0xcf9, 1, 0x06);
	return ENGINE_EXIT_KICK;
}

static void cmos_write(struct engine_host *host, uint8_t reg, uint8_t value)
{
	host->ops->pio_write(host, 0, 0x70, 1, reg);
	host->ops->pio_write(host, 0, 0x71, 1, value);
}

static uint8_t cmos_read(struct engine_host *host, uint8_t reg)
{
	host->ops->pio_write(host, 0, 0x70, 1, reg);
	return (uint8_t)host->ops->pio_read(host, 0, 0x71, 1);
}

/* The year 45, a byte of its own, a periodic interrupt; then what is left of them behind a reset.
 */
static enum engine_exit sets_the_clock(struct engine_host *host)
{
	if (starts == 1) {
		cmos_write(host, 0x0b, 0x82); /* SET, 24 hours */
		cmos_write(host, 0x09, 0x45);
		cmos_write(host, 0x0b, 0x42); /* PIE */
		cmos_write(host, 0x40, 0x5a);
		host->ops->pio_write(host, 0, 0xcf9, 1, 0x06);
		return ENGINE_EXIT_KICK;
	}
	ck_assert_uint_eq(cmos_read(host, 0x09), 0x45);
	ck_assert_uint_eq(cmos_read(host, 0x40), 0x5a);
	ck_assert_uint_eq(cmos_read(host, 0x0b), 0x02);
	host->ops->pio_write(host, 0, 0xf4, 1, 0);
	return ENGINE_EXIT_KICK;
}

/* What no device answers reads as ones and takes writes. */
static enum engine_exit pokes_everywhere(struct engine_host *host)
{
	ck_assert_uint_eq(host->ops->pio_read(host, 0, 0x5000, 4), 0xffffffffu);
	host->ops->mmio_write(host, 0, 0xfd000000, 8, 1);
	ck_assert(host->ops->mmio_read(host, 0, 0xfd000000, 8) == UINT64_MAX);
	/* The PCI host bridge is there, by both ways. */
	host->ops->pio_write(host, 0, 0xcf8, 4, 0x80000000u);
	ck_assert_uint_ne(host->ops->pio_read(host, 0, 0xcfc, 4), 0xffffffffu);
	ck_assert_uint_eq(host->ops->pio_read(host, 0, 0xcfc, 4),
			  host->ops->mmio_read(host, 0, 0xe0000000u, 4));
	host->ops->pio_write(host, 0, 0xf4, 1, 0);
	return ENGINE_EXIT_KICK;
}

/* ---- cases ---- */

/* The smallest multiboot image: a header that says where it lies (Multiboot 0.6.96, 3.1.3). */
static char *image_new(void)
{
	const uint32_t header[] = { 0x1badb002, 0x10000,  -(0x1badb002u + 0x10000u),
				    0x100000,	0x100000, 0,
				    0,		0x100020, 0xfffdebf4 };
	char *path = g_strdup("/tmp/sika-test-XXXXXX");
	int fd = g_mkstemp(path);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, header, sizeof(header)), (int)sizeof(header));
	close(fd);
	return path;
}

static int run(enum engine_exit (*p)(struct engine_host *host), bool no_reboot, unsigned cpus)
{
	struct vm_config *c = vm_config_new();
	g_autoptr(GError) err = NULL;
	struct vm *vm;
	int status;

	program = p;
	starts = 0;
	c->kernel = image_new();
	c->memory = 16 * MIB;
	c->serial = VM_SERIAL_NONE;
	c->net_count = 0;
	c->cpus = cpus;
	c->debug_exit = true;
	c->no_reboot = no_reboot;
	ck_assert(vm_config_validate(c, &err));
	vm = vm_new_on(c, &fake_ops, &err);
	ck_assert_msg(vm != NULL, "%s", err ? err->message : "");
	status = vm_run(vm);
	vm_free(vm);
	g_unlink(c->kernel);
	vm_config_free(c);
	return status;
}

START_TEST(ends_with_status_of_exit_port)
{
	ck_assert_int_eq(run(exits_by_port, false, 1), 33);
	ck_assert_int_eq(run(exits_by_port, false, 8), 33);
}
END_TEST

START_TEST(reset_builds_the_board_again)
{
	ck_assert_int_eq(run(resets_twice, false, 2), 7);
	ck_assert_int_eq(starts, 3);
}
END_TEST

START_TEST(reset_ends_with_no_reboot)
{
	ck_assert_int_eq(run(resets_twice, true, 1), 0);
	ck_assert_int_eq(run(triple_faults, true, 1), 0);
	ck_assert_int_eq(starts, 1);
}
END_TEST

START_TEST(power_off_is_success)
{
	ck_assert_int_eq(run(powers_off, false, 1), 0);
}
END_TEST

START_TEST(broken_engine_is_failure)
{
	ck_assert_int_eq(run(breaks, false, 2), 1);
}
END_TEST

START_TEST(signal_ends_it)
{
	ck_assert_int_eq(run(is_terminated, false, 2), 128 + SIGTERM);
}
END_TEST

START_TEST(first_wish_counts)
{
	ck_assert_int_eq(run(keeps_the_first_wish, false, 1), 3);
}
END_TEST

START_TEST(empty_addresses_read_as_ones)
{
	ck_assert_int_eq(run(pokes_everywhere, false, 1), 1);
}
END_TEST

START_TEST(missing_kernel_is_a_sentence)
{
	struct vm_config *c = vm_config_new();
	g_autoptr(GError) err = NULL;

	c->kernel = g_strdup("/nowhere/kernel");
	c->serial = VM_SERIAL_NONE;
	c->net_count = 0;
	ck_assert(vm_config_validate(c, &err));
	ck_assert_ptr_null(vm_new_on(c, &fake_ops, &err));
	ck_assert_ptr_nonnull(strstr(err->message, "/nowhere/kernel"));
	vm_config_free(c);
}
END_TEST

START_TEST(clock_and_its_memory_outlive_a_reset)
{
	ck_assert_int_eq(run(sets_the_clock, false, 1), 1);
	ck_assert_int_eq(starts, 2);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vm");
	TCase *t = tcase_create("life");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 30);
	tcase_add_test(t, ends_with_status_of_exit_port);
	tcase_add_test(t, reset_builds_the_board_again);
	tcase_add_test(t, reset_ends_with_no_reboot);
	tcase_add_test(t, power_off_is_success);
	tcase_add_test(t, broken_engine_is_failure);
	tcase_add_test(t, signal_ends_it);
	tcase_add_test(t, first_wish_counts);
	tcase_add_test(t, empty_addresses_read_as_ones);
	tcase_add_test(t, clock_and_its_memory_outlive_a_reset);
	tcase_add_test(t, missing_kernel_is_a_sentence);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
