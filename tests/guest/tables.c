// SPDX-License-Identifier: Apache-2.0
/*
 * tables.c - page tables that change at random, in every paging mode: each access is checked against a walk of
 * its own, on all CPUs.
 *
 * There are a few tables of each level, and entries at a few indices that may name any of the next level, a large
 * page or nothing, with any rights. They are written through three mappings. An access that is not preceded by a
 * change needs no flush; else there is one, of the page or of everything. Of accessed bits, those must be set that
 * the access used (a processor may set others ahead); dirty bits must be right to the bit.
 *
 * Built for 64 bits (four levels), and as tables32.c for 32 (two levels, PAE).
 */
#include "guest.h"

#define KINDS	   3u /* of tables in each pool; indices at each level */
#define FRAMES	   6u
#define LARGE_BASE 0x2000000u /* RAM that is nobody's else */
#define OFF_DATA   0x40u
#define OFF_CODE   0x80u
#define EFER_MSR   0xc0000080u
#define PF_P	   1u
#define PF_W	   2u
#define PF_U	   4u
#define PF_RSVD	   8u
#define PF_FETCH   16u
#define PTE_RSVD   (1ull << 51)

enum kind { READ, WRITE, FETCH };

/* A paging mode: levels from the last (1) up. */
struct mode {
	unsigned levels, bytes;
	unsigned shift[5];
	unsigned index[5][KINDS];
	bool pae; /* the first level has four entries, read with CR3 */
};

static const struct mode *mode;
static uint8_t *pool[5][KINDS];
static uint64_t copy[5][KINDS][KINDS]; /* of the entries, but accessed bits */
static uint8_t *frame[FRAMES];
static word alias; /* all of memory once more */
static volatile unsigned lock;
static unsigned changes; /* under the lock */
static bool nxe; /* EFER.NXE of the CPU that has the lock */
static bool has_1g, has_smep, has_smap, closed; /* closed: the identity mapping is not the user's */

struct cpu {
	unsigned index, seed, clean; /* clean: changes when all was flushed */
	unsigned root;
	bool nxe;
	word private_virt;
	uint8_t *private_frame[2];
};

/* ---- small things ---- */

static unsigned any(struct cpu *c, unsigned below)
{
	c->seed = c->seed * 1664525u + 1013904223u;
	return (c->seed >> 8) % below;
}

static void take(void)
{
	while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
		pause();
}

static void give(void)
{
	__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
}

static uint64_t entry_at(const uint8_t *table, unsigned i)
{
	if (mode->bytes == 8)
		return ((const volatile uint64_t *)(const void *)table)[i];
	return ((const volatile uint32_t *)(const void *)table)[i];
}

static void entry_set(uint8_t *table, unsigned i, uint64_t value)
{
	if (mode->bytes == 8)
		((volatile uint64_t *)(void *)table)[i] = value;
	else
		((volatile uint32_t *)(void *)table)[i] = (uint32_t)value;
}

/* CR4 loads PDPTEs, where the bit of accessed entries is reserved (SDM vol. 3, 4.4.1). QEMU's processor sets it there,
 * nested paging or not, and KVM finds it then: also when a walk comes between the clearing and the load, so that a
 * refused load is tried again. */
static void put_cr4(word value)
{
	if (!mode->pae || !(read_cr0() & CR0_PG)) {
		write_cr4(value);
		return;
	}
	for (unsigned tries = 0; tries < 100; tries++) {
		for (unsigned i = 0; i < 4; i++)
			asm volatile("andl %0, (%1)" : : "i"(~(int)PTE_A), "r"((read_cr3() & ~(word)31) + 8 * i)
				     : "memory", "cc");
		TRY("mov %0, %%cr4;", : : "r"(value) : "memory");
		if (!fault.happened)
			return;
		check_equal(fault.vector, 13);
	}
	check(!fault.happened);
}

static void flush_all(void)
{
	word cr4 = read_cr4();

	write_cr3(read_cr3());
	if (cr4 & CR4_PGE) {
		put_cr4(cr4 & ~(word)CR4_PGE);
		put_cr4(cr4);
	}
}

/* ---- the model ---- */

struct walk {
	unsigned error; /* of the fault, or ~0 */
	uint64_t phys;
	uint64_t was[5];
	uint8_t *table[5];
	unsigned at[5], last; /* level of the leaf */
};

static bool is_reserved(uint64_t e, unsigned level)
{
	uint64_t large_low = (1ull << mode->shift[level]) - 1;

	if (mode->bytes == 4)
		return level == 2 && e & PTE_PS && e & 1u << 21;
	if (e & PTE_RSVD)
		return true;
	if (e & PTE_NX && !nxe)
		return true;
	if (level == 1 || !(e & PTE_PS) || (mode->pae && level == 3))
		return false;
	return level == 4 || (level == 3 && !has_1g) || e & 0xffffffffff000ull & large_low & ~0x1fffull;
}

static unsigned judge(uint64_t rights, bool nx, enum kind kind, bool user, bool ac)
{
	bool is_user = rights & PTE_U, writable = rights & PTE_W;

	if (user && !is_user)
		return PF_P;
	if (kind == FETCH)
		return nx || (!user && is_user && read_cr4() & CR4_SMEP) ? PF_P : ~0u;
	if (!user && is_user && read_cr4() & CR4_SMAP && !ac)
		return PF_P;
	if (kind == WRITE && !writable && (user || read_cr0() & CR0_WP))
		return PF_P;
	return ~0u;
}

/* SDM vol. 3, 4.5 to 4.7. */
static void model(struct walk *w, uint8_t *table, word virt, enum kind kind, bool user, bool ac)
{
	uint64_t rights = PTE_W | PTE_U;
	bool nx = false;
	unsigned level = mode->levels;

	w->error = ~0u;
	for (;; level--) {
		unsigned bits = mode->bytes == 8 ? 9 : 10;
		unsigned i = (virt >> mode->shift[level]) & ((1u << bits) - 1);
		uint64_t e;

		if (mode->pae && level == 3)
			i &= 3;
		e = entry_at(table, i);
		w->table[level] = table;
		w->at[level] = i;
		w->was[level] = e;
		w->last = level;
		if (!(e & PTE_P)) {
			w->error = 0;
			break;
		}
		if (is_reserved(e, level)) {
			w->error = PF_P | PF_RSVD;
			break;
		}
		if (!(mode->pae && level == 3)) {
			rights &= e;
			nx |= e >> 63;
		}
		if (level == 1 || (level < 4 && e & PTE_PS)) {
			uint64_t low = (1ull << mode->shift[level]) - 1;

			w->phys = (e & 0xffffffffff000ull & ~low) | (virt & low);
			w->error = judge(rights, nx, kind, user, ac);
			break;
		}
		table = (uint8_t *)(uintptr_t)(e & 0xffffffffff000ull);
	}
	if (w->error == ~0u)
		return;
	w->error |= (kind == WRITE ? PF_W : 0) | (user ? PF_U : 0);
	if (kind == FETCH && (read_cr4() & CR4_SMEP ||
			      (read_cr4() & CR4_PAE && nxe)))
		w->error |= PF_FETCH;
}

/* ---- the access ---- */

static unsigned access_value;

#ifdef __x86_64__
#define DROP_RETURN asm volatile("add $8, %%rsp" : : : "memory")
#else
#define DROP_RETURN asm volatile("add $4, %%esp" : : : "memory")
#endif

static word supervisor_access(word virt, enum kind kind, bool ac)
{
	uint32_t value = access_value;

	if (ac)
		asm volatile("stac" : : : "memory", "cc");
	if (kind == READ)
		TRY("movl (%1), %0;", : "+&r"(value) : "r"(virt + OFF_DATA) : "memory");
	else if (kind == WRITE)
		TRY("movl %0, (%1);", : : "r"(value), "r"(virt + OFF_DATA) : "memory");
	else
		TRY("call *%1;", : "+a"(value) : "r"(virt + OFF_CODE) : "memory");
	if (kind == FETCH && fault.happened)
		DROP_RETURN;
	if (ac)
		asm volatile("clac" : : : "memory", "cc");
	access_value = value;
	return fault.happened ? fault.error : ~0u;
}

static enum kind user_kind;

static word user_access(word virt)
{
	if (user_kind == READ)
		access_value = *(volatile uint32_t *)(virt + OFF_DATA);
	else if (user_kind == WRITE)
		*(volatile uint32_t *)(virt + OFF_DATA) = access_value;
	else
		access_value = ((unsigned (*)(void))(virt + OFF_CODE))();
	return ~0u;
}

static void user_fault(struct frame *f)
{
	static const uint8_t leave[] = { 0xcd, 0x81 };

	f->ax = f->error;
	f->ip = (word)leave;
}

static unsigned do_access(word virt, enum kind kind, bool user, bool ac)
{
	word r;

	if (!user)
		return supervisor_access(virt, kind, ac);
	user_kind = kind;
	trap_set(14, user_fault);
	r = user_call(user_access, virt);
	trap_set(14, NULL);
	return (unsigned)r;
}

/* Where the copy of an entry is, or none. */
static uint64_t *copy_of(const uint8_t *table, unsigned level, unsigned at)
{
	for (unsigned k = 0; k < KINDS; k++)
		for (unsigned i = 0; i < KINDS; i++)
			if (pool[level][k] == table && mode->index[level][i] == at)
				return &copy[level][k][i];
	return NULL;
}

static void check_bits(const struct walk *w, enum kind kind)
{
	bool done = w->error == ~0u;

	for (unsigned level = mode->levels; level >= w->last; level--) {
		uint64_t is = entry_at(w->table[level], w->at[level]), want = w->was[level];
		uint64_t *known = copy_of(w->table[level], level, w->at[level]);

		if (mode->pae && level == 3)
			continue;
		if (done)
			want |= PTE_A;
		if (done && level == w->last && kind == WRITE) {
			want |= PTE_D;
			if (known)
				*known |= PTE_D;
		}
		/* A fault may leave accessed bits on the way. */
		check_equal(is | (done ? 0 : PTE_A), want | (done ? 0 : PTE_A));
	}
}

static bool try_access(struct cpu *c, word virt, enum kind kind, bool user, bool ac)
{
	unsigned before = check_failures, got;
	uint32_t value = c->seed, *data;
	struct walk w = { 0 };

	nxe = c->nxe;
	model(&w, pool[mode->levels][c->root], virt, kind, user, ac);
	data = (uint32_t *)(uintptr_t)(w.phys + OFF_DATA);
	access_value = value;
	got = do_access(virt, kind, user, ac);
	if (got != ~0u && w.error != ~0u && w.error & PF_RSVD)
		got |= PF_P; /* which QEMU forgets */
	check_equal(got, w.error);
	if (w.error != ~0u && !user)
		check_equal(fault.cr2, virt + (kind == FETCH ? OFF_CODE : OFF_DATA));
	if (w.error == ~0u && got == ~0u) {
		if (kind == READ)
			check_equal(access_value, *data);
		else if (kind == WRITE)
			check_equal(*data, value);
		else
			check_equal(access_value, (uint32_t)(w.phys >> 12));
	}
	check_bits(&w, kind);
	if (check_failures == before)
		return true;
	print("%s by CPU %u: virt %lx kind %u user %u ac %u cr0 %lx cr4 %lx nxe %u root %u\n",
	      mode->pae ? "PAE" : mode->bytes == 8 ? "four levels" : "two levels", c->index, virt, kind,
	      user, ac, read_cr0(), read_cr4(), nxe, c->root);
	for (unsigned level = mode->levels; level >= w.last; level--)
		print("level %u: was %x:%x\n", level, (unsigned)(w.was[level] >> 32), (unsigned)w.was[level]);
	return false;
}

/* ---- changes ---- */

static uint64_t any_flags(struct cpu *c, unsigned level)
{
	uint64_t e = any(c, 8) ? PTE_P : 0;

	if (mode->pae && level == 3)
		return e;
	if (any(c, 4))
		e |= PTE_W;
	if (any(c, 4))
		e |= PTE_U;
	if (any(c, 2))
		e |= PTE_A;
	if (any(c, 3) == 0)
		e |= PTE_D;
	if (any(c, 4) == 0)
		e |= PTE_G;
	if (mode->bytes == 8 && any(c, 6) == 0)
		e |= PTE_NX;
	if (mode->bytes == 8 && any(c, 24) == 0)
		e |= PTE_RSVD;
	return e;
}

static uint64_t any_entry(struct cpu *c, unsigned level)
{
	uint64_t e = any_flags(c, level);
	unsigned large = mode->bytes == 8 ? 0x200000 : 0x400000;

	if (level == 1)
		return e | (uintptr_t)frame[any(c, FRAMES)];
	if (level == 2 && any(c, 3) == 0)
		return e | PTE_PS | (LARGE_BASE + any(c, 2) * large) | (any(c, 24) ? 0 : 1u << 21 >> (mode->bytes == 8 ? 8 : 0));
	if (level == 3 && !mode->pae && any(c, 4) == 0)
		return e | PTE_PS;
	if (level == 4)
		e &= ~(uint64_t)PTE_G;
	return e | (uintptr_t)pool[level - 1][any(c, KINDS)];
}

static void change(struct cpu *c)
{
	unsigned level = 1 + any(c, mode->levels), k = any(c, KINDS), i = any(c, KINDS);
	uint8_t *table = pool[level][k];
	uint64_t e;

	if (i && mode->index[level][i] == mode->index[level][0])
		i = 0;
	e = any(c, 4) ? any_entry(c, level) :
			entry_at(table, mode->index[level][i]) & ~(PTE_A | PTE_D);
	entry_set(table + (any(c, 2) ? alias : 0), mode->index[level][i], e);
	copy[level][k][i] = e & ~PTE_A;
	changes++;
}

static void check_all(void)
{
	for (unsigned level = 1; level <= mode->levels; level++)
		for (unsigned k = 0; k < KINDS; k++)
			for (unsigned i = 0; i < KINDS && (!i || mode->index[level][i] != mode->index[level][0]); i++)
				check_equal(entry_at(pool[level][k], mode->index[level][i]) & ~PTE_A,
					    copy[level][k][i]);
}

static void set_cr4(word bit, bool on)
{
	put_cr4(on ? read_cr4() | bit : read_cr4() & ~bit);
}

static void change_control(struct cpu *c)
{
	switch (any(c, 6)) {
	case 0: /* needs no flush */
		write_cr0(read_cr0() ^ CR0_WP);
		return;
	case 1:
		if (mode->bytes == 8) {
			wrmsr(EFER_MSR, rdmsr(EFER_MSR) ^ EFER_NXE);
			c->nxe = !c->nxe;
		}
		break;
	case 2:
		set_cr4(CR4_PGE, any(c, 2));
		break;
	case 3:
		if (has_smep && closed && !c->index)
			set_cr4(CR4_SMEP, any(c, 2));
		break;
	case 4:
		if (has_smap && closed && !c->index)
			set_cr4(CR4_SMAP, any(c, 2));
		break;
	default:
		c->root = any(c, KINDS);
		write_cr3((word)pool[mode->levels][c->root]);
	}
	flush_all();
	c->clean = changes;
}

/* One round, under the lock. */
static bool once(struct cpu *c)
{
	word virt = 0;
	bool user = !closed && !c->index && any(c, 3) == 0;

	for (unsigned n = any(c, 3); n; n--)
		change(c);
	if (any(c, 8) == 0)
		change_control(c);
	for (unsigned level = mode->levels; level; level--)
		virt |= (word)mode->index[level][any(c, KINDS)] << mode->shift[level];
	if (c->clean != changes) {
		if (any(c, 2) && !mode->pae) {
			invlpg((void *)virt);
		} else {
			flush_all();
			c->clean = changes;
		}
	}
	return try_access(c, virt, (enum kind)any(c, 3), user, has_smap && any(c, 2));
}

/* Without the lock: tables that CPUs share, each with an entry of its own. */
static bool once_alone(struct cpu *c, volatile uint64_t *entry)
{
	unsigned i = any(c, 2);
	unsigned before = check_failures;

	*entry = (uintptr_t)c->private_frame[i] | PTE_P | PTE_W;
	invlpg((void *)c->private_virt);
	check_equal(*(volatile uint32_t *)(c->private_virt + OFF_CODE + 1), (uintptr_t)c->private_frame[i] >> 12);
	*(volatile uint32_t *)(c->private_virt + OFF_DATA) = c->seed;
	check_equal(*(volatile uint32_t *)(c->private_frame[i] + OFF_DATA), c->seed);
	check_equal(*entry & (PTE_A | PTE_D), PTE_A | PTE_D);
	return check_failures == before;
}

static void run(struct cpu *c, unsigned rounds, volatile uint64_t *private_entry)
{
	for (unsigned i = 0; i < rounds; i++) {
		bool good;

		take();
		good = once(c);
		if (good && i % 64 == 0)
			check_all();
		give();
		if (private_entry)
			good &= once_alone(c, private_entry);
		if (!good)
			return;
	}
}

/* ---- beginning ---- */

static void put_code(uint8_t *page)
{
	uint32_t number = (uint32_t)((uintptr_t)page >> 12);

	page[OFF_CODE] = 0xb8; /* mov eax, number; ret */
	memcpy(page + OFF_CODE + 1, &number, 4);
	page[OFF_CODE + 5] = 0xc3;
	*(uint32_t *)(void *)(page + OFF_DATA) = ~number;
}

static void prepare(void)
{
	unsigned large = mode->bytes == 8 ? 0x200000 : 0x400000;

	for (unsigned i = 0; i < FRAMES; i++) {
		if (!frame[i])
			frame[i] = page_alloc();
		put_code(frame[i]);
	}
	for (unsigned i = 0; i < 2; i++)
		for (unsigned j = 0; j < KINDS; j++)
			put_code((uint8_t *)(uintptr_t)(LARGE_BASE + i * large + (mode->index[1][j] << 12)));
	for (unsigned level = 1; level < mode->levels; level++)
		for (unsigned k = 0; k < KINDS; k++)
			pool[level][k] = page_alloc();
	memset(copy, 0, sizeof(copy));
	has_smep = cpuid(0, 0).a >= 7 && cpuid(7, 0).b & 1u << 7;
	has_smap = cpuid(0, 0).a >= 7 && cpuid(7, 0).b & 1u << 20;
}

#ifdef __x86_64__

static const struct mode four_levels = {
	.levels = 4, .bytes = 8, .shift = { 0, 12, 21, 30, 39 },
	/* Below a page of 1 GiB at 0 these are LARGE_BASE and the next 2 MiB. */
	.index = { { 0 }, { 0, 1, 511 }, { 16, 17, 16 }, { 0, 1, 511 }, { 64, 65, 100 } },
};

extern uint64_t boot_pml4[512];

static void close_identity(bool close)
{
	uint64_t *pdpt = (uint64_t *)(uintptr_t)(boot_pml4[0] & ~0xfffull);

	for (unsigned i = 0; i < 4; i++) {
		uint64_t *pd = (uint64_t *)(uintptr_t)(pdpt[i] & 0xffffffffff000ull);

		for (unsigned j = 0; j < 512; j++)
			pd[j] = close ? pd[j] & ~PTE_U : pd[j] | PTE_U;
	}
	closed = close;
	flush_all();
}

static struct cpu cpu[64];
static uint64_t *private_entry[64];
static unsigned rounds;

static void run_other(void *arg)
{
	struct cpu *c = arg;

	write_cr3((word)pool[4][c->root]);
	run(c, rounds, private_entry[c->index]);
	write_cr3((word)boot_pml4);
}

static void cpu_init(unsigned i)
{
	cpu[i] = (struct cpu){ .index = i, .seed = 12345 + i * 77, .clean = ~0u, .nxe = true, .root = i % KINDS,
			       .private_virt = FREE_VIRT + 0x1000 * i };
	for (unsigned j = 0; j < 2; j++) {
		cpu[i].private_frame[j] = page_alloc();
		put_code(cpu[i].private_frame[j]);
	}
	private_entry[i] = page_map(cpu[i].private_virt, (uintptr_t)cpu[i].private_frame[0], PTE_P | PTE_W);
}

int main(void)
{
	unsigned cpus = argument("cpus") > 1 ? smp_start() : 1;

	mode = &four_levels;
	rounds = argument("hw") ? 1500 : 20000;
	has_1g = cpuid(0x80000001, 0).d & 1u << 26;
	prepare();
	user_open();
	alias = 63ul << 39;
	boot_pml4[63] = boot_pml4[0];
	for (unsigned i = 0; i < cpus; i++)
		cpu_init(i);
	for (unsigned k = 0; k < KINDS; k++) {
		pool[4][k] = k ? page_alloc() : (uint8_t *)boot_pml4;
		memcpy(pool[4][k], boot_pml4, 4096);
	}
	for (unsigned half = 0; half < 2; half++) {
		for (unsigned i = 1; i < cpus; i++)
			smp_call(i, run_other, &cpu[i]);
		write_cr3((word)pool[4][cpu[0].root]);
		run(&cpu[0], rounds, private_entry[0]);
		for (unsigned i = 1; i < cpus; i++)
			smp_wait(i);
		write_cr3((word)boot_pml4);
		set_cr4(CR4_SMEP, false);
		set_cr4(CR4_SMAP, false);
		close_identity(true);
	}
	return 0;
}

#else

static const struct mode two_levels = {
	.levels = 2, .bytes = 4, .shift = { 0, 12, 22 },
	.index = { { 0 }, { 0, 1, 1023 }, { 768, 769, 1023 } },
};

static const struct mode pae = {
	.levels = 3, .bytes = 8, .shift = { 0, 12, 21, 30 }, .pae = true,
	.index = { { 0 }, { 0, 1, 511 }, { 0, 1, 511 }, { 3, 3, 3 } },
};

static void run_mode(const struct mode *m)
{
	struct cpu c = { .seed = 4711, .clean = ~0u };
	unsigned rounds = argument("hw") ? 1500 : 20000;

	mode = m;
	prepare();
	for (unsigned half = 0; half < 2; half++) {
		uint64_t flags = 0x83 | (half ? 0 : PTE_U);

		closed = half;
		for (unsigned k = 0; k < KINDS; k++) {
			uint8_t *root = page_alloc(), *pds = m->pae ? pages_alloc(3) : NULL;

			/* All of memory at 0, and 1 GiB above it. */
			for (unsigned i = 0; i < (m->pae ? 1024 : 512u); i++)
				entry_set(m->pae ? pds : root, i, ((uint64_t)i << m->shift[2]) % 0x40000000 | flags);
			for (unsigned i = 0; i < 3 && m->pae; i++)
				entry_set(root, i, (uintptr_t)(pds + i * 4096) | 1);
			pool[m->levels][k] = root;
			memset(copy[m->levels], 0, sizeof(copy[0]));
		}
		alias = 0x40000000;
		set_cr4(CR4_PSE, true);
		set_cr4(CR4_PAE, m->pae);
		write_cr3((word)pool[m->levels][0]);
		write_cr0(read_cr0() | CR0_PG);
		c.root = 0;
		c.clean = ~0u;
		c.nxe = rdmsr(EFER_MSR) & EFER_NXE;
		run(&c, rounds, NULL);
		write_cr0(read_cr0() & ~(word)(CR0_PG | CR0_WP));
		write_cr4(read_cr4() & ~(word)(CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP));
	}
}

int main(void)
{
	run_mode(&two_levels);
	run_mode(&pae);
	return 0;
}
#endif
