// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * softmmu.h - guest memory operands at speed: the inlined half of mem.c.
 *
 * Theory of operation. In 64-bit code (X86_INSN_A64) a linear address is the sum of the operand's
 * parts, plus the base of FS or GS, and nothing else is checked here: the one comparison with the
 * TLB's tag fails for a page that is unknown, not permitted, not plain RAM, watched for writes or
 * not canonical, and for an access that crosses into the next page. Whatever fails, and all code
 * of other sizes, goes to mem.c, which does it all by the book.
 *
 * Read-modify-write operands are worked on in place, with the host's own (locked) instructions, through
 * a pointer from x86_rmw(); x86_rmw_done() closes the access.
 */
#pragma once

#include "x86_int.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Guest addresses have any alignment; volatile makes each access one host access. */
typedef uint16_t __attribute__((aligned(1), may_alias)) x86_u16u;
typedef uint32_t __attribute__((aligned(1), may_alias)) x86_u32u;
typedef uint64_t __attribute__((aligned(1), may_alias)) x86_u64u;
typedef uint8_t x86_u8u;

#define X86_TLB_PAGE_MASK (~(uint64_t)0xfff)

/* Register word @i of the state: a general register, RIP or zero (insn.h). */
static inline uint64_t x86_word(const struct x86_cpu *cpu, unsigned i)
{
	const uint64_t *words = (const uint64_t *)(const void *)&cpu->s;

	return words[i];
}

static inline uint64_t x86_ea_sum(const struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return x86_word(cpu, insn->base) + (x86_word(cpu, insn->index) << insn->scale) +
	       (uint64_t)(int64_t)insn->disp;
}

/* Linear address of the operand of an instruction with X86_INSN_A64. */
static inline uint64_t x86_linear64(const struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t linear = x86_ea_sum(cpu, insn);

	if (unlikely(insn->seg >= X86_FS))
		linear += cpu->s.seg[insn->seg].base;
	return linear;
}

/* Low bits of a TLB entry's gpa. */
#define X86_TLB_EXEC	1u /* instructions may be fetched from it */
#define X86_TLB_WATCHED 2u /* writable, but each store is reported */
#define X86_TLB_GLOBAL	4u /* stays over a write to CR3 */
#define X86_TLB_FLAGS	0xfffu

struct x86_part;

/* tlb.c: of a page that the TLB holds (false: walk), and what a walk found. */
bool x86_tlb_lookup(struct x86_cpu *cpu, unsigned mode, uint64_t linear, bool write,
		    struct x86_part *part);
void x86_tlb_insert(struct x86_cpu *cpu, unsigned mode, uint64_t linear, unsigned access,
		    const struct x86_walk *walk, struct x86_part *part);

static inline struct x86_tlb_entry *x86_tlb_slot_in(const struct x86_cpu *cpu, unsigned mode,
						    unsigned space, uint64_t linear)
{
	struct x86_tlb_entry *e = cpu->tlb->entry;
	uint64_t page = linear >> 12;

	switch (mode) {
	case X86_TLB_KERNEL:
		return &e[page % X86_TLB_KERNEL_SIZE];
	case X86_TLB_KERNEL_AC:
		return &e[X86_TLB_AC_AT + space * X86_TLB_AC_SIZE + page % X86_TLB_AC_SIZE];
	case X86_TLB_USER:
		return &e[X86_TLB_USER_AT + space * X86_TLB_USER_SIZE + page % X86_TLB_USER_SIZE];
	default:
		return &e[X86_TLB_SLOW_AT];
	}
}

static inline struct x86_tlb_entry *x86_tlb_slot(const struct x86_cpu *cpu, unsigned mode,
						 uint64_t linear)
{
	return x86_tlb_slot_in(cpu, mode, cpu->space_now, linear);
}

_Static_assert(sizeof(struct x86_tlb_entry) == 32, "the shift below");

/* The slot in the table of the current rights. */
static inline const struct x86_tlb_entry *x86_tlb_now(const struct x86_cpu *cpu, uint64_t linear)
{
	const uint8_t *table = (const uint8_t *)cpu->tlb_table;

	return (const struct x86_tlb_entry *)(const void *)(table + (linear >> 7 & cpu->tlb_mask));
}

/* The tag that an access of @len bytes at @linear needs. Where it crosses a page this is the next
 * page's tag, which the slot of the first page never holds. */
static inline uint64_t x86_tlb_tag(uint64_t linear, unsigned len)
{
	return (linear + len - 1) & X86_TLB_PAGE_MASK;
}

/* Host address, or NULL when the slow path has to decide. */
static inline uint8_t *x86_host_read(const struct x86_cpu *cpu, uint64_t linear, unsigned len)
{
	const struct x86_tlb_entry *e = x86_tlb_now(cpu, linear);

	if (likely(e->read_tag == x86_tlb_tag(linear, len)))
		return (uint8_t *)(uintptr_t)(e->addend + linear);
	return NULL;
}

static inline uint8_t *x86_host_write(const struct x86_cpu *cpu, uint64_t linear, unsigned len)
{
	const struct x86_tlb_entry *e = x86_tlb_now(cpu, linear);

	if (likely(e->write_tag == x86_tlb_tag(linear, len)))
		return (uint8_t *)(uintptr_t)(e->addend + linear);
	return NULL;
}

/* The same for accesses of the processor itself, with a supervisor's rights and under SMAP. */
static inline const uint8_t *x86_host_read_sys(const struct x86_cpu *cpu, uint64_t linear,
					       unsigned len)
{
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, X86_TLB_KERNEL, linear);

	if (likely(e->read_tag == x86_tlb_tag(linear, len)))
		return (const uint8_t *)(uintptr_t)(e->addend + linear);
	return NULL;
}

/* What a slow load gives; in registers, so that no handler needs a stack frame for it. */
struct x86_loaded {
	uint64_t value;
	int status;
};

/* The by-the-book halves (mem.c): of the memory operand of @insn, and of the stack segment. */
struct x86_loaded x86_load_slow(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size);
int x86_store_slow(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t v, unsigned size);
struct x86_loaded x86_stack_load_slow(struct x86_cpu *cpu, uint64_t off, unsigned size);
int x86_stack_store_slow(struct x86_cpu *cpu, uint64_t off, uint64_t v, unsigned size);

/*
 * x86_ld<N>(): the memory operand of @insn into *v. x86_st<N>(): the other way. x86_stack_ld<N> and
 * x86_stack_st<N>: at offset @off of the stack segment. All return X86_NEXT or X86_FAULT.
 */
#define X86_DEFINE_ACCESS(N, BYTES)                                                                \
	static inline int x86_ld##N(struct x86_cpu *cpu, const struct x86_insn *insn,             \
				    uint##N##_t *v)                                                \
	{                                                                                          \
		struct x86_loaded slow;                                                            \
                                                                                                   \
		if (likely(insn->flags & X86_INSN_A64)) {                                          \
			const uint8_t *p = x86_host_read(cpu, x86_linear64(cpu, insn), BYTES);     \
                                                                                                   \
			if (likely(p)) {                                                           \
				*v = *(const volatile x86_u##N##u *)p;                             \
				return X86_NEXT;                                                   \
			}                                                                          \
		}                                                                                  \
		slow = x86_load_slow(cpu, insn, BYTES);                                            \
		*v = (uint##N##_t)slow.value;                                                      \
		return slow.status;                                                                \
	}                                                                                          \
                                                                                                   \
	static inline int x86_st##N(struct x86_cpu *cpu, const struct x86_insn *insn,             \
				    uint##N##_t v)                                                 \
	{                                                                                          \
		if (likely(insn->flags & X86_INSN_A64)) {                                          \
			uint8_t *p = x86_host_write(cpu, x86_linear64(cpu, insn), BYTES);          \
                                                                                                   \
			if (likely(p)) {                                                           \
				*(volatile x86_u##N##u *)p = v;                                    \
				return X86_NEXT;                                                   \
			}                                                                          \
		}                                                                                  \
		return x86_store_slow(cpu, insn, v, BYTES);                                        \
	}                                                                                          \
                                                                                                   \
	static inline int x86_stack_ld##N(struct x86_cpu *cpu, uint64_t off, uint##N##_t *v)      \
	{                                                                                          \
		struct x86_loaded slow;                                                            \
                                                                                                   \
		if (likely(cpu->stack_bytes == 8)) {                                               \
			const uint8_t *p = x86_host_read(cpu, off, BYTES);                         \
                                                                                                   \
			if (likely(p)) {                                                           \
				*v = *(const volatile x86_u##N##u *)p;                             \
				return X86_NEXT;                                                   \
			}                                                                          \
		}                                                                                  \
		slow = x86_stack_load_slow(cpu, off, BYTES);                                       \
		*v = (uint##N##_t)slow.value;                                                      \
		return slow.status;                                                                \
	}                                                                                          \
                                                                                                   \
	static inline int x86_stack_st##N(struct x86_cpu *cpu, uint64_t off, uint##N##_t v)       \
	{                                                                                          \
		if (likely(cpu->stack_bytes == 8)) {                                               \
			uint8_t *p = x86_host_write(cpu, off, BYTES);                              \
                                                                                                   \
			if (likely(p)) {                                                           \
				*(volatile x86_u##N##u *)p = v;                                    \
				return X86_NEXT;                                                   \
			}                                                                          \
		}                                                                                  \
		return x86_stack_store_slow(cpu, off, v, BYTES);                                   \
	}

X86_DEFINE_ACCESS(8, 1)
X86_DEFINE_ACCESS(16, 2)
X86_DEFINE_ACCESS(32, 4)
X86_DEFINE_ACCESS(64, 8)
#undef X86_DEFINE_ACCESS

/* A read-modify-write access on its way. */
struct x86_part {
	uint8_t *host; /* NULL: not RAM */
	uint64_t gpa;
	unsigned len;
	bool direct; /* stores need not be reported */
};

struct x86_rmw {
	struct x86_part part[2];
	bool open;    /* x86_rmw_done() has something to do */
	bool bounced; /* the operand is in buf */
	uint8_t buf[16] __attribute__((aligned(16)));
};

/* The by-the-book half of x86_rmw(). */
void *x86_rmw_open(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off, unsigned len,
		   struct x86_rmw *rmw);
void x86_rmw_close(struct x86_cpu *cpu, struct x86_rmw *rmw);

/* In place where that is plain RAM, else NULL. */
static inline void *x86_rmw_fast(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned len)
{
	if (likely(insn->flags & X86_INSN_A64))
		return x86_host_write(cpu, x86_linear64(cpu, insn), len);
	return NULL;
}

/*
 * Where to work on the @len bytes of the memory operand of @insn in place, checked for read and write;
 * NULL: X86_FAULT. It is guest RAM unless the operand is MMIO, or crosses into a page that does not
 * follow in the host's memory; those are bounced. With a lock such two pages are mapped once more, side by
 * side (ram_pair()), and the host's processor splits the lock as it would the guest's.
 */
static inline void *x86_rmw(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned len,
			    struct x86_rmw *rmw)
{
	void *p = x86_rmw_fast(cpu, insn, len);

	rmw->open = false;
	if (likely(p))
		return p;
	return x86_rmw_open(cpu, insn, x86_ea(cpu, insn), len, rmw);
}

static inline void x86_rmw_done(struct x86_cpu *cpu, struct x86_rmw *rmw)
{
	if (unlikely(rmw->open))
		x86_rmw_close(cpu, rmw);
}

/*
 * Define handler x86_op_<name> for an instruction that works on @size bytes of memory in place. The
 * statement that follows finds their address in p. It is made twice, so that the usual one has
 * neither stack frame nor calls.
 */
#define X86_RMW_HANDLER(name, size, ...)                                                           \
	static __attribute__((__noinline__, __cold__)) int name##_slow(struct x86_cpu *cpu,                \
							       const struct x86_insn *insn)        \
	{                                                                                          \
		struct x86_rmw rmw;                                                                \
		void *p = x86_rmw_open(cpu, insn, x86_ea(cpu, insn), size, &rmw);                  \
                                                                                                   \
		if (!p)                                                                            \
			return X86_FAULT;                                                          \
		__VA_ARGS__;                                                                       \
		x86_rmw_done(cpu, &rmw);                                                           \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	int x86_op_##name(struct x86_cpu *cpu, const struct x86_insn *insn)                        \
	{                                                                                          \
		void *p = x86_rmw_fast(cpu, insn, size);                                           \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return name##_slow(cpu, insn);                                             \
		__VA_ARGS__;                                                                       \
		return X86_NEXT;                                                                   \
	}
