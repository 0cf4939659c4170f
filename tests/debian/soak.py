#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""soak.py - a guest under load for an hour neither leaks nor drifts in time.

usage: soak.py SIKA [--image IMAGE] [--minutes N] [--every SECONDS] [--cpus N] [--memory SIZE] [-- OPTION...]
The load is soak_guest.py. A line with what was sampled is printed each time, the verdict at the end:

  memory    resident beyond the guest's RAM: at most 150 MiB, and the last third no more than 10 % + 4 MiB
            above the most of what was before
  things    threads and descriptors: the last third no more than before, but for what comes and goes with
            requests under way; mappings, of which the guest's programs make more or less, bounded
  clock     the guest's CLOCK_MONOTONIC and CLOCK_REALTIME, which nothing there sets right, within 100 ppm
            of the host's, beyond what the way to the question and back leaves open
  programs  each printed the same each time, none failed; the kernel had nothing to complain about, but that
            time passed while a host that kept the vCPUs waiting did not let it run
"""
import argparse
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from remote import Remote, Wrong, build_image
from scratch import ROOT, memory_beyond_guest, report

GUEST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "soak_guest.py")
MEMORY_MIB, DRIFT = 150, 100e-6
# What a kernel says whose CPU was taken away for a while, as any hypervisor's is, and how much is needed.
LATE, STARVED = r"hrtimer: interrupt took|soft lockup|rcu.*stall", 0.3
# And what it says of three timers in a row, each due before the one before was done: some microseconds, on any processor.
CROWDED, CROWDED_NS = r"hrtimer: interrupt took (\d+) ns", 100_000
STILL = 3  # samples in a row without a program that ended


@dataclass
class Sample:
    at: float  # seconds since the first
    mib: float  # resident beyond the guest's RAM
    maps: int
    threads: int
    fds: int
    waited: float  # share of the time that the vCPUs could have run and the host let them wait
    evicted: int  # parts of the code cache that were given up
    clocks: tuple  # (lowest, highest) nanoseconds that the guest's can be ahead, monotonic and real
    state: dict


class Agent:
    """soak_guest.py over ssh."""

    def __init__(self, guest):
        with open(GUEST, "rb") as f:
            if guest.ssh("cat >/root/soak_guest.py", f.read()).returncode:
                raise Wrong("cannot copy the load into the guest")
        guest.ssh("systemctl stop systemd-timesyncd chrony ntp")
        self.process = subprocess.Popen([*guest.command(), "exec python3 -u /root/soak_guest.py"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pending = b""

    def ask(self, word, limit=300):
        self.process.stdin.write(word.encode() + b"\n")
        self.process.stdin.flush()
        end = time.monotonic() + limit
        while b"\n" not in self.pending:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Wrong(f"the guest gave no answer for {limit} s")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise Wrong("the connection to the guest broke")
            self.pending += data
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode()

    def clocks(self, times=20):
        """Between which bounds the guest's clocks are ahead of the host's: the narrowest of some looks."""
        bounds = [None, None]
        for _ in range(times):
            before = [time.clock_gettime_ns(c) for c in (time.CLOCK_MONOTONIC, time.CLOCK_REALTIME)]
            theirs = [int(x) for x in self.ask("clock").split()]
            after = [time.clock_gettime_ns(c) for c in (time.CLOCK_MONOTONIC, time.CLOCK_REALTIME)]
            for i in range(2):
                low, high = theirs[i] - after[i], theirs[i] - before[i]
                if not bounds[i] or high - low < bounds[i][1] - bounds[i][0]:
                    bounds[i] = (low, high)
        return tuple(bounds)

    def stop(self):
        self.process.kill()
        self.process.wait()


def evictions(sika, pid):
    r = subprocess.run([sika, "bt-stats", str(pid), "--json", "--top", "0"], capture_output=True,
                       text=True, timeout=60)
    return json.loads(r.stdout)["cache"]["evictions"] if r.returncode == 0 else 0


def scheduled(pid):
    """Seconds that the vCPUs ran, and that they waited to run (Documentation/scheduler/sched-stats.rst)."""
    ran = waited = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/comm") as f, open(f"/proc/{pid}/task/{task}/schedstat") as g:
                name, times = f.read(), g.read().split()
        except FileNotFoundError:
            continue  # a thread that came and went
        if name.startswith("vcpu"):
            ran, waited = ran + int(times[0]) / 1e9, waited + int(times[1]) / 1e9
    return ran, waited


def count(path):
    with open(path) as f:
        return sum(1 for _ in f)


def take(sika, guest, agent, start):
    pid = guest.process.pid
    if guest.process.poll() is not None:
        raise Wrong(f"the machine ended, status {guest.process.returncode}")
    ran, waited = scheduled(pid)
    return Sample(time.monotonic() - start, memory_beyond_guest(pid) / 1024, count(f"/proc/{pid}/maps"),
                  len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd")),
                  waited / max(ran + waited, 1e-9), evictions(sika, pid), agent.clocks(),
                  json.loads(agent.ask("state")))


def drift(first, last, clock):
    """How far the guest's clock ran from the host's, ms: (least, most) that can be."""
    a, b = first.clocks[clock], last.clocks[clock]
    return (b[0] - a[1]) / 1e6, (b[1] - a[0]) / 1e6


def show(first, before, s):
    ms = [sum(drift(first, s, i)) / 2 for i in range(2)]
    wide = (s.clocks[0][1] - s.clocks[0][0]) / 1e6
    print(f"{s.at / 60:5.1f} min {s.mib:6.1f} MiB, {s.maps} mappings, {s.threads} threads, {s.fds} fds, "
          f"host kept them waiting {100 * s.waited:.0f} %, parts of the cache given up {s.evicted}, "
          f"clocks {ms[0]:+.1f} {ms[1]:+.1f} ms (+-{wide / 2:.1f}), "
          f"{sum(s.state['done'].values())} programs, {len(s.state['wrong'])} wrong, "
          f"{s.state['available_kib'] >> 10} MiB free, {s.state['clocksource']}, "
          f"{len(s.state['complaints'])} complaints", flush=True)
    for word in ("wrong", "complaints"):
        for x in s.state[word][len(before.state[word]) if before else 0:]:
            print(f"          {x}", flush=True)


def grew(samples, of, share, more):
    """Why not, where the last third is above what was before by @share and @more."""
    cut = max(1, len(samples) * 2 // 3)
    before, after = max(of(s) for s in samples[:cut]), max(of(s) for s in samples[cut:])
    return f"{before:.0f} before, {after:.0f} in the last third" if after > before * (1 + share) + more else None


def clock_wrong(first, last, clock):
    low, high = drift(first, last, clock)
    allowed = (last.at - first.at) * DRIFT * 1e3
    return f"ran {low:+.1f} to {high:+.1f} ms from the host's" if low > allowed or high < -allowed else None


def excused(line, waited):
    crowded = re.search(CROWDED, line)
    if crowded and int(crowded[1]) < CROWDED_NS:
        return True
    return waited >= STARVED and re.search(LATE, line)


def verdicts(samples):
    """What is checked, and why it is wrong or None."""
    first, last = samples[0], samples[-1]
    most = max(s.mib for s in samples)
    yield f"at most {MEMORY_MIB} MiB beyond the guest's RAM", None if most <= MEMORY_MIB else f"{most:.0f} MiB"
    yield "memory does not grow", grew(samples[1:], lambda s: s.mib, 0.1, 4)
    yield "mappings do not grow", grew(samples[1:], lambda s: s.maps, 0.5, 512)
    yield "threads do not grow", grew(samples[1:], lambda s: s.threads, 0, 4)
    yield "descriptors do not grow", grew(samples[1:], lambda s: s.fds, 0, 4)
    yield "CLOCK_MONOTONIC keeps time", clock_wrong(first, last, 0)
    yield "CLOCK_REALTIME keeps time", clock_wrong(first, last, 1)
    idle = [b.at for a, b in zip(samples, samples[STILL:]) if b.state["done"] == a.state["done"]]
    yield "the programs go on", f"none ended before minute {idle[0] / 60:.0f}" if idle else None
    yield "the programs print what they did", "; ".join(last.state["wrong"]) or None
    complaints = [x for x in last.state["complaints"] if not excused(x, last.waited)]
    yield "the kernel has nothing to complain about", "; ".join(complaints) or None


def soak(args, options):
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(args.image))) as tmp:
        guest, agent, samples = Remote(args.sika, args.image, tmp, args.cpus, args.memory, options), None, []
        try:
            guest.wait()
            agent = Agent(guest)
            start = time.monotonic()
            while not samples or samples[-1].at < args.minutes * 60:
                if samples:
                    time.sleep(max(0, start + len(samples) * args.every - time.monotonic()))
                samples.append(take(args.sika, guest, agent, start))
                show(samples[0], samples[-2] if len(samples) > 1 else None, samples[-1])
        finally:
            if agent:
                agent.stop()
            guest.stop()
    return samples


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("sika")
    ap.add_argument("--image", default=os.path.join(ROOT, "out", "software.img"))
    ap.add_argument("--minutes", type=float, default=60)
    ap.add_argument("--every", type=float, default=60)
    ap.add_argument("--cpus", type=int, default=2)
    ap.add_argument("--memory", default="2G")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, options = ap.parse_args(sys.argv[1:end]), sys.argv[end + 1:]
    os.makedirs(os.path.dirname(os.path.abspath(args.image)), exist_ok=True)
    build_image(args.sika, args.image)
    try:
        samples = soak(args, options)
    except Wrong as e:
        print(f"FAILED  {e}")
        return report(0, 1)
    tally = [0, 0]
    for what, why in verdicts(samples):
        tally[1 if why else 0] += 1
        print(f"FAILED  {what}: {why}" if why else f"ok      {what}", flush=True)
    return report(*tally)


if __name__ == "__main__":
    sys.exit(main())
