// SPDX-License-Identifier: Apache-2.0
/*
 * user_runner.c - a process that executes user code of the guest, and nothing else. See user.h.
 *
 * It begins as a program of one page, the stub, so that it has nothing of ours: made as an ELF file in memory,
 * executed by a child that shares our address space until then. Its tracer unmaps the stack and the rest that
 * Linux gives each program, with the stub's own system calls.
 */
#include "engine/bt/user.h"

#include <asm/prctl.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "engine/bt/bt_int.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10u /* Linux 6.3 */
#endif

#define PAGE	      4096u
#define STUB_AT	      256u /* in its page, behind the ELF headers */
#define AREA_LINEAR   (BT_USER_STUB_LINEAR + PAGE)
#define CHILD_STACK   32768u
#define NAME	      "sika-user" /* as ps shows it */
#define XSTATE_MAX    16384u

/* As user_stub.S has them. */
_Static_assert(sizeof(struct bt_user_frame) == 128 && sizeof(struct bt_user_call) == 56, "");
_Static_assert(offsetof(struct bt_user_area, stop) == 128, "");
_Static_assert(offsetof(struct bt_user_area, call) == 256, "");
_Static_assert(sizeof(struct bt_user_area) <= BT_USER_AREA_BYTES, "");

/* Of wait_stop(), beside signals. */
#define STOP_SYSCALL 0x100
#define REQUEST_SIGNAL SIGUSR1
#define VSYSCALL_LINEAR UINT64_C(0xffffffffff600000) /* arch/x86/include/uapi/asm/vsyscall.h */

/* Files of a runner: the list, then RAM, each part. */
#define AREA_FD	     0
#define RAM_FD(part) (1 + (int)(part))

#define STUB(at) (BT_USER_STUB_LINEAR + STUB_AT + (at))

/* ---- the program ---- */

/* Without PT_GNU_STACK old kernels make all that can be read executable. */
static void make_elf(uint8_t page[PAGE])
{
	const Elf64_Ehdr head = {
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = STUB(0),
		.e_phoff = sizeof(head),
		.e_ehsize = sizeof(head),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 2,
	};
	const Elf64_Phdr segment[2] = {
		{ .p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_vaddr = BT_USER_STUB_LINEAR,
		  .p_filesz = PAGE, .p_memsz = PAGE, .p_align = PAGE },
		{ .p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W },
	};

	_Static_assert(sizeof(head) + sizeof(segment) <= STUB_AT, "the headers fit");
	memcpy(page, &head, sizeof(head));
	memcpy(page + sizeof(head), segment, sizeof(segment));
	memcpy(page + STUB_AT, bt_user_stub, bt_user_stub_bytes);
}

static int elf_open(void)
{
	uint8_t page[PAGE] = { 0 };
	int fd = memfd_create("sika-user", MFD_CLOEXEC | MFD_EXEC);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("sika-user", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	make_elf(page);
	if (write(fd, page, sizeof(page)) == (ssize_t)sizeof(page))
		return fd;
	close(fd);
	return -EIO;
}

/* ---- the child ---- */

struct child {
	const struct bt_engine *engine;
	int elf, area;
};

/* In the address space of ours, with files of its own. Numbers high enough not to be in the way come first. */
static int take_files(const struct child *c)
{
	int fd[1 + ARRAY_SIZE(c->engine->ram)], n = 0;

	fd[n++] = fcntl(c->area, F_DUPFD, 64);
	for (unsigned i = 0; i < c->engine->ram_count; i++)
		fd[n++] = fcntl(c->engine->ram[i].fd, F_DUPFD, 64);
	for (int i = 0; i < n; i++)
		if (fd[i] < 0 || dup2(fd[i], i) < 0)
			return -1;
	return 0;
}

__attribute__((no_sanitize("address", "thread", "undefined")))
static int child_main(void *arg)
{
	static char *const none[] = { NULL };
	const struct child *c = arg;
	int elf = fcntl(c->elf, F_DUPFD_CLOEXEC, 64);
	sigset_t empty;

	sigemptyset(&empty);
	if (elf < 0 || sigprocmask(SIG_SETMASK, &empty, NULL) < 0 || take_files(c) < 0 ||
	    ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
		_exit(127);
	(void)syscall(SYS_execveat, elf, "", none, none, AT_EMPTY_PATH);
	_exit(127);
}

/* ---- stops ---- */

static int wait_stop(struct bt_runner *r)
{
	int status;
	pid_t pid;

	do
		pid = waitpid(r->pid, &status, __WALL);
	while (pid < 0 && errno == EINTR);
	if (pid != r->pid || !WIFSTOPPED(status)) {
		r->pid = 0;
		return -1;
	}
	return status >> 16 == PTRACE_EVENT_SECCOMP ? STOP_SYSCALL : WSTOPSIG(status);
}

static bool set_regs(const struct bt_runner *r, struct user_regs_struct *regs)
{
	regs->orig_rax = ~0ull; /* no system call, and none to be begun again */
	return ptrace(PTRACE_SETREGS, r->pid, NULL, regs) == 0;
}

/* ---- at the stub ---- */

static struct user_regs_struct stub_regs(uint32_t at)
{
	return (struct user_regs_struct){ .rip = STUB(at), .cs = BT_USER_CS, .ss = BT_USER_SS,
					  .eflags = X86_FL_ONE | X86_FL_IF };
}

/* Its list comes first, then what @regs say. */
static void list_first(struct bt_runner *r, struct user_regs_struct *regs)
{
	r->area->frame = (struct bt_user_frame){
		.rax = regs->rax, .rbx = regs->rbx, .rcx = regs->rcx, .rdx = regs->rdx,
		.rsi = regs->rsi, .rdi = regs->rdi, .r8 = regs->r8, .r9 = regs->r9,
		.r10 = regs->r10, .r11 = regs->r11, .r12 = regs->r12, .rip = regs->rip,
		.cs = regs->cs, .rflags = regs->eflags, .rsp = regs->rsp, .ss = regs->ss,
	};
	r->area->stop = 0;
	r->area->call[r->calls].number = ~0ull;
	r->calls = 0;
	regs->rip = STUB(bt_user_stub_list_at);
	regs->rsp = AREA_LINEAR;
	regs->rbx = AREA_LINEAR + offsetof(struct bt_user_area, call);
	regs->r12 = r->key;
	regs->eflags = X86_FL_ONE | X86_FL_IF;
}

/* Let it execute our own code, until it stops by INT3. Requests may come first, and are found later. */
static bool run_stub(struct bt_runner *r, struct user_regs_struct *regs)
{
	int sig;

	if (!set_regs(r, regs))
		return false;
	do {
		if (ptrace(PTRACE_CONT, r->pid, NULL, NULL) < 0)
			return false;
		sig = wait_stop(r);
	} while (sig == REQUEST_SIGNAL);
	return sig == SIGTRAP && ptrace(PTRACE_GETREGS, r->pid, NULL, regs) == 0;
}

static bool call_one(struct bt_runner *r, const struct bt_user_call *call)
{
	struct user_regs_struct regs = stub_regs(0);

	regs.rax = call->number;
	regs.rdi = call->arg[0];
	regs.rsi = call->arg[1];
	regs.rdx = call->arg[2];
	regs.r10 = call->arg[3];
	regs.r8 = call->arg[4];
	regs.r9 = call->arg[5];
	return run_stub(r, &regs) && regs.rax < -4095ull;
}

/* The list, and nothing behind it. */
static bool run_list(struct bt_runner *r)
{
	struct user_regs_struct regs = stub_regs(0);

	list_first(r, &regs);
	r->area->stop = 1;
	return r->pid && run_stub(r, &regs) && regs.rax == 0;
}

bool bt_runner_call(struct bt_runner *r, const struct bt_user_call *call)
{
	if (r->calls == BT_USER_CALLS && !run_list(r))
		return false;
	r->area->call[r->calls++] = *call;
	return true;
}

void bt_runner_wipe(struct bt_runner *r)
{
	r->calls = 0;
	if (r->area)
		memset(r->area, 0, sizeof(*r->area));
}

/* ---- begun and ended ---- */

/* Asked for what is so already. */
bool bt_runner_cpuid_can_fault(void)
{
	return syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1) == 0;
}

/* All that is there but the stub and the list. */
static bool strip(struct bt_runner *r)
{
	const struct bt_user_call area = { SYS_mmap, { AREA_LINEAR, BT_USER_AREA_BYTES, PROT_READ | PROT_WRITE,
						       MAP_SHARED | MAP_FIXED, AREA_FD, 0 } };
	const uint64_t behind = AREA_LINEAR + BT_USER_AREA_BYTES;
	const struct bt_user_call calls[] = {
		{ SYS_close_range, { RAM_FD(ARRAY_SIZE(((struct bt_engine *)0)->ram)), UINT32_MAX, 0 } },
		{ SYS_munmap, { 0, BT_USER_STUB_LINEAR } },
		{ SYS_munmap, { behind, BT_USER_END - behind } },
		{ SYS_prctl, { PR_SET_NAME, AREA_LINEAR + offsetof(struct bt_user_area, other) } },
	};

	const struct bt_user_call no_cpuid = { SYS_arch_prctl, { ARCH_SET_CPUID, 0 } };

	memcpy(r->area->other, NAME, sizeof(NAME));
	if (!call_one(r, &area))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		if (!bt_runner_call(r, &calls[i]))
			return false;
	if (bt_runner_cpuid_can_fault() && !bt_runner_call(r, &no_cpuid))
		return false;
	return run_list(r);
}

#define AT(field)	 offsetof(struct seccomp_data, field)
#define LOAD(at)	 BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(at))
#define UNLESS(value, n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), 0, n)
#define IF(value, n)	 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), n, 0)

/* From now on a system call stops it; but what a list may have. See user.h. */
static bool confine(struct bt_runner *r)
{
	/* Where the instruction ends, by which the list calls. */
	const uint64_t from = STUB(bt_user_stub_called_at);
	const struct sock_filter code[] = {
		LOAD(AT(arch)), UNLESS(AUDIT_ARCH_X86_64, 9),
		LOAD(AT(instruction_pointer)), UNLESS(from, 7),
		LOAD(AT(instruction_pointer) + 4), UNLESS(from >> 32, 5),
		LOAD(AT(args[4]) + 4), UNLESS(r->key >> 32, 3),
		LOAD(AT(nr)), IF(SYS_mmap, 2), IF(SYS_munmap, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const uint64_t at = AREA_LINEAR + offsetof(struct bt_user_area, call);
	const struct sock_fprog filter = { ARRAY_SIZE(code), (struct sock_filter *)at };
	const struct bt_user_call calls[] = {
		{ SYS_prctl, { PR_SET_NO_NEW_PRIVS, 1 } },
		/* Other code of the runner's is not to become slower for it, which old kernels believe (Linux 5.16). */
		{ SYS_seccomp, { SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, at + sizeof(code) } },
	};
	bool ok = true;

	memcpy(r->area->call, code, sizeof(code));
	memcpy((uint8_t *)r->area->call + sizeof(code), &filter, sizeof(filter));
	for (size_t i = 0; i < ARRAY_SIZE(calls) && ok; i++)
		ok = call_one(r, &calls[i]);
	bt_runner_wipe(r);
	return ok;
}

/* Any but 0, which is what user code would be likely to have there. */
static uint64_t new_key(void)
{
	uint32_t key = 0;

	while (!key)
		if (getrandom(&key, sizeof(key), 0) != sizeof(key))
			return 0;
	return (uint64_t)key << 32;
}

static int spawn(struct bt_runner *r, const struct bt_engine *engine, int area)
{
	struct child child = { .engine = engine, .elf = elf_open(), .area = area };
	uint8_t *stack;

	if (child.elf < 0)
		return child.elf;
	stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack != MAP_FAILED) {
		r->pid = clone(child_main, stack + CHILD_STACK, CLONE_VM | CLONE_VFORK | SIGCHLD,
			       &child);
		munmap(stack, CHILD_STACK);
	}
	close(child.elf);
	if (r->pid <= 0) {
		r->pid = 0;
		return -EAGAIN;
	}
	/* The stop behind execve(), or its end. */
	return wait_stop(r) == SIGTRAP ? 0 : -EPERM;
}

static int area_open(struct bt_runner *r)
{
	int fd = memfd_create("sika-user-list", MFD_CLOEXEC);
	void *p;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, BT_USER_AREA_BYTES) < 0 ||
	    (p = mmap(NULL, BT_USER_AREA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) ==
		    MAP_FAILED) {
		close(fd);
		return -ENOMEM;
	}
	r->area = p;
	return fd;
}

static bool get_xstate(struct bt_runner *r)
{
	struct iovec io = { r->xstate, XSTATE_MAX };

	if (ptrace(PTRACE_GETREGSET, r->pid, NT_X86_XSTATE, &io) < 0)
		return false;
	r->xstate_bytes = io.iov_len;
	return true;
}

int bt_runner_begin(struct bt_runner *r, const struct bt_engine *engine)
{
	int area = area_open(r), err;

	if (area < 0)
		return area;
	err = spawn(r, engine, area);
	close(area);
	r->cpu = -1;
	r->key = new_key();
	r->regs = calloc(1, sizeof(*r->regs));
	r->xstate = calloc(1, XSTATE_MAX);
	r->fpu = aligned_alloc(_Alignof(struct x86_fpu), sizeof(*r->fpu));
	if (err == 0 &&
	    (!r->regs || !r->xstate || !r->fpu || !r->key ||
	     ptrace(PTRACE_SETOPTIONS, r->pid, NULL, PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP) < 0 ||
	     !strip(r) || !confine(r) || !get_xstate(r)))
		err = -EPERM;
	if (err < 0) {
		bt_runner_end(r);
		return err;
	}
	memset(r->fpu, 0xff, sizeof(*r->fpu)); /* none that it can have */
	return 0;
}

void bt_runner_end(struct bt_runner *r)
{
	if (r->pid) {
		kill(r->pid, SIGKILL);
		while (r->pid && wait_stop(r) >= 0)
			;
	}
	if (r->area)
		munmap(r->area, BT_USER_AREA_BYTES);
	free(r->fpu);
	free(r->xstate);
	free(r->regs);
	r->area = NULL;
	r->regs = NULL;
	r->xstate = NULL;
	r->fpu = NULL;
	r->calls = 0;
}

/* ---- registers ---- */

bool bt_runner_get_fpu(struct bt_runner *r, const struct xsave_layout *layout, struct x86_fpu *ret)
{
	if (!get_xstate(r))
		return false;
	xsave_load(layout, r->xstate, ret);
	*r->fpu = *ret;
	return true;
}

/* Most often nothing changed since it was read: the guest's kernel does not use these. */
bool bt_runner_set_fpu(struct bt_runner *r, const struct xsave_layout *layout,
		       const struct x86_fpu *fpu)
{
	struct iovec io = { r->xstate, r->xstate_bytes };

	if (memcmp(fpu, r->fpu, sizeof(*fpu)) == 0)
		return true;
	xsave_store(layout, r->xstate, 0xe7, fpu); /* all that is known, but PKRU */
	if (ptrace(PTRACE_SETREGSET, r->pid, NT_X86_XSTATE, &io) < 0)
		return false;
	*r->fpu = *fpu;
	return true;
}

/* ---- going ---- */

/* *ret_code: what the kernel says of the signal that stopped it, or 0. */
static uint64_t fault_address(struct bt_runner *r, int *ret_code)
{
	siginfo_t info;

	*ret_code = 0;
	if (ptrace(PTRACE_GETSIGINFO, r->pid, NULL, &info) < 0)
		return BT_USER_NOWHERE;
	*ret_code = info.si_code;
	return info.si_code > 0 && info.si_code != SI_KERNEL ? (uintptr_t)info.si_addr
							    : BT_USER_NOWHERE;
}

static enum bt_runner_stop why(struct bt_runner *r, int sig, uint64_t *ret_address)
{
	int code;

	switch (sig) {
	case STOP_SYSCALL:
		/* As if it had not been executed, save what it overwrites itself. */
		r->regs->rax = r->regs->orig_rax;
		return BT_RUNNER_SYSCALL;
	case SIGTRAP:
		(void)fault_address(r, &code);
		return code == TRAP_HWBKPT ? BT_RUNNER_WATCH :
		       code == TRAP_TRACE  ? BT_RUNNER_STEP :
		       code == TRAP_BRKPT  ? BT_RUNNER_INT1 :
					     BT_RUNNER_INT3;
	case SIGSEGV:
	case SIGBUS:
		*ret_address = fault_address(r, &code);
		return BT_RUNNER_FAULT;
	case SIGILL:
	case SIGFPE:
		return BT_RUNNER_FAULT;
	default:
		return BT_RUNNER_REQUEST;
	}
}

static bool set_debug_register(const struct bt_runner *r, unsigned n, uint64_t value)
{
	const size_t at = offsetof(struct user, u_debugreg) + n * sizeof(value);

	return ptrace(PTRACE_POKEUSER, r->pid, (void *)at, (void *)value) == 0;
}

/* Of execution, for this task only: SDM vol. 3, 18.2.4. */
bool bt_runner_watch(struct bt_runner *r)
{
	uint64_t control = 0;
	bool ok = r->pid && set_debug_register(r, 7, 0);

	for (unsigned i = 0; i < BT_USER_WATCHES && ok; i++) {
		if (!r->watch[i])
			continue;
		ok = set_debug_register(r, i, r->watch[i]);
		control |= UINT64_C(1) << 2 * i;
	}
	return ok && (!control || set_debug_register(r, 7, control));
}

uint64_t bt_runner_ran(const struct bt_runner *r)
{
	struct timespec ts;
	clockid_t clock;

	if (!r->pid || clock_getcpuclockid(r->pid, &clock) || clock_gettime(clock, &ts) < 0)
		return 0;
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void bt_runner_interrupt(pid_t pid)
{
	(void)syscall(SYS_tgkill, pid, pid, REQUEST_SIGNAL);
}

static bool is_fault(int sig)
{
	return sig == SIGSEGV || sig == SIGBUS;
}

/* The list is done, and it has seen that nobody wants it to stop: who wants it now is not to be forgotten. */
static bool is_asked(const struct user_regs_struct *now)
{
	return now->rip >= STUB(bt_user_stub_asked_at) && now->rip <= STUB(bt_user_stub_iret_at);
}

/* All registers of user code are there, but for what IRETQ takes. */
static bool is_about_to_return(const struct bt_runner *r, const struct user_regs_struct *now)
{
	struct user_regs_struct then = *r->regs;

	then.rip = STUB(bt_user_stub_iret_at);
	then.rsp = AREA_LINEAR + offsetof(struct bt_user_frame, rip);
	then.eflags = now->eflags;
	then.orig_rax = now->orig_rax;
	return memcmp(&then, now, sizeof(then)) == 0;
}

/* It has stopped at the stub, on its way to user code, so that registers are as they were given; or because user code
 * went there. */
static enum bt_runner_stop why_at_stub(struct bt_runner *r, int sig, struct user_regs_struct *now)
{
	if (now->r12 == r->key && is_asked(now))
		return BT_RUNNER_REQUEST;
	if (now->r12 == r->key)
		return sig == SIGTRAP && now->rax == 0 ? BT_RUNNER_REQUEST : BT_RUNNER_FULL;
	if (is_about_to_return(r, now))
		return is_fault(sig) ? BT_RUNNER_FAULT : BT_RUNNER_REQUEST;
	*r->regs = *now;
	if (sig == STOP_SYSCALL)
		r->regs->rax = now->orig_rax;
	return BT_RUNNER_STRAY;
}

/* The host has begun to emulate a call of its vsyscall page, which the guest's kernel may or may not have. It kills who
 * comes out of the filter with another RIP (emulate_vsyscall(), arch/x86/entry/vsyscall), so it is left to skip the
 * call, and stopped behind it. */
static bool leave_vsyscall(struct bt_runner *r, const struct user_regs_struct *now)
{
	struct user_regs_struct regs = *now;

	return set_regs(r, &regs) && syscall(SYS_tgkill, r->pid, r->pid, REQUEST_SIGNAL) == 0 &&
	       ptrace(PTRACE_CONT, r->pid, NULL, NULL) == 0 && wait_stop(r) > 0;
}

/* Until it stops where there is something to be said of it. A request that comes while the stub is at the list
 * is kept until behind it. */
static enum bt_runner_stop wait_why(struct bt_runner *r, uint64_t *ret_address)
{
	struct user_regs_struct now;
	int sig;

	for (;;) {
		sig = wait_stop(r);
		if (sig < 0 || ptrace(PTRACE_GETREGS, r->pid, NULL, &now) < 0)
			return BT_RUNNER_LOST;
		if (sig == STOP_SYSCALL && now.rip - VSYSCALL_LINEAR < PAGE) {
			if (!leave_vsyscall(r, &now))
				return BT_RUNNER_LOST;
			/* But for RAX, which that page's own instructions write. */
			*r->regs = now;
			*ret_address = now.rip;
			return BT_RUNNER_FAULT;
		}
		if (now.rip - BT_USER_STUB_LINEAR >= PAGE) {
			*r->regs = now;
			return why(r, sig, ret_address);
		}
		if (now.r12 != r->key || sig == SIGTRAP || is_fault(sig) || is_asked(&now))
			return why_at_stub(r, sig, &now);
		r->area->stop = 1;
		if (ptrace(PTRACE_CONT, r->pid, NULL, NULL) < 0)
			return BT_RUNNER_LOST;
	}
}

enum bt_runner_stop bt_runner_go(struct bt_runner *r, const struct bt_vcpu *vcpu,
				 _Atomic pid_t *running, uint64_t *ret_address)
{
	struct user_regs_struct regs = *r->regs;
	enum bt_runner_stop ret = BT_RUNNER_REQUEST;

	*ret_address = BT_USER_NOWHERE;
	if (!r->pid)
		return BT_RUNNER_LOST;
	/* Pairs with bt_request(): either it sees who is running, or we see the request. */
	atomic_store(running, r->pid);
	if (!atomic_load(&vcpu->request)) {
		if (r->calls)
			list_first(r, &regs);
		if (set_regs(r, &regs) && ptrace(PTRACE_CONT, r->pid, NULL, NULL) == 0)
			ret = wait_why(r, ret_address);
		else
			ret = BT_RUNNER_LOST;
	}
	atomic_store(running, 0);
	return ret;
}
