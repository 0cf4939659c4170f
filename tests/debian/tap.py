#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tap.py - real packets between a Debian guest and the host through a tap device (--net tap=NAME).

usage: tap.py SIKA IMAGE [OPTION of sika run]...
Runs in a network namespace of its own, where it makes the tap device and answers as the host. ARP, ICMP,
UDP and TCP, each in both directions; bulk transfers are compared by their checksums.
"""
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

from scratch import Failure, Guest, copy_image, report, run_command

NAMESPACE = "SIKA_TAP_NAMESPACE"
TAP, HOST, GUEST = "sika0", "192.0.2.1", "192.0.2.2"
BULK_MIB = 32
SECONDS = 60


def ip(*args):
    return subprocess.run(["ip", *args], check=True, capture_output=True, text=True).stdout


def tap_packets(direction):
    """As the host counts them: rx is what the guest sent."""
    return json.loads(ip("-s", "-j", "link", "show", TAP))[0]["stats64"][direction]["packets"]


@contextlib.contextmanager
def listening(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind((HOST, 0))
        s.settimeout(SECONDS)
        if kind == socket.SOCK_STREAM:
            s.listen()
        yield s, s.getsockname()[1]


@contextlib.contextmanager
def beside(function, *args):
    """@function in a thread; what it returns is the one element of the list that is given."""
    found = []

    def run():
        with contextlib.suppress(OSError):
            found.append(function(*args))

    t = threading.Thread(target=run, daemon=True)
    t.start()
    yield found
    t.join(SECONDS)
    if not found:
        raise Failure(f"{function.__name__}: the guest did not come")


def receive_all(server):
    h, count = hashlib.sha256(), 0
    with server.accept()[0] as s:
        s.settimeout(SECONDS)
        while data := s.recv(1 << 16):
            h.update(data)
            count += len(data)
    return h.hexdigest(), count


def send_all(server, data):
    with server.accept()[0] as s:
        s.settimeout(SECONDS)
        s.sendall(data)
    return len(data)


def echo_once(server):
    data, peer = server.recvfrom(2048)
    server.sendto(data[::-1], peer)
    return peer[0]


# ---- what is tried; each returns a remark, or raises Failure ----

def guest_pings_host(guest):
    """1472: as long as the MTU takes; 8000: in fragments."""
    for size in (56, 1472, 8000):
        guest.run(f"ping -q -c 2 -W 10 -s {size} {HOST}")
    return ""


def host_resolved_guest(guest):
    mac = guest.run("cat /sys/class/net/$nic/address").strip()
    known = ip("neigh", "show", GUEST, "dev", TAP)
    if mac not in known:
        raise Failure(f"the host's neighbour is {known!r}, the guest has {mac}")
    return mac


def udp_from_guest_is_answered(guest):
    token = secrets.token_hex(8)
    with listening(socket.SOCK_DGRAM) as (s, port), beside(echo_once, s) as peer:
        answer = guest.run(f"exec 3<>/dev/udp/{HOST}/{port}; printf %s {token} >&3; "
                           f"head -c {len(token)} <&3; exec 3>&-")
    if answer.strip() != token[::-1] or peer != [GUEST]:
        raise Failure(f"{answer!r} from {peer}")
    return ""


def closed_port_of_guest_is_told_so(guest):
    """An unasked packet into the guest, and its kernel's ICMP error back out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(SECONDS)
        s.connect((GUEST, 9))
        s.send(b"anybody?")
        try:
            s.recv(16)
        except ConnectionRefusedError:
            return ""
    raise Failure("no port unreachable")


def tcp_into_guest_reaches_ssh(guest):
    guest.run("systemctl start ssh")
    with socket.create_connection((GUEST, 22), SECONDS) as s:
        banner = s.recv(64)
    if not banner.startswith(b"SSH-2.0"):
        raise Failure(f"{banner!r}")
    return banner.decode().strip()


def few_packets(direction, before, count):
    """TCP in frames far longer than the MTU: segmentation is left to the other side."""
    packets = tap_packets(direction) - before
    if packets > count // 1448 // 2:
        raise Failure(f"{packets} packets for {count} bytes: no segmentation offload")
    return f"{count >> 20} MiB in {packets} packets"


def bulk_out_of_guest(guest):
    before = tap_packets("rx")
    with listening(socket.SOCK_STREAM) as (s, port), beside(receive_all, s) as found:
        sent = guest.run(f"head -c {BULK_MIB}M /dev/urandom | tee >(cat >/dev/tcp/{HOST}/{port}) | sha256sum")
    if found[0] != (sent.split()[0], BULK_MIB << 20):
        raise Failure(f"sent {sent!r}, received {found}")
    return few_packets("rx", before, BULK_MIB << 20)


def bulk_into_guest(guest):
    before = tap_packets("tx")
    data = os.urandom(BULK_MIB << 20)
    with listening(socket.SOCK_STREAM) as (s, port), beside(send_all, s, data):
        got = guest.run(f"sha256sum </dev/tcp/{HOST}/{port}").split()[0]
    if got != hashlib.sha256(data).hexdigest():
        raise Failure("the checksum differs")
    return few_packets("tx", before, BULK_MIB << 20)


CHECKS = [guest_pings_host, host_resolved_guest, udp_from_guest_is_answered,
          closed_port_of_guest_is_told_so, tcp_into_guest_reaches_ssh, bulk_out_of_guest,
          bulk_into_guest]


def configure(guest):
    """The guest's own network service asks for DHCP, which nobody offers here."""
    guest.login()
    guest.run("systemctl stop systemd-networkd.socket systemd-networkd; "
              "nic=$(ls /sys/class/net | grep -v lo); "
              f"ip addr add {GUEST}/24 dev $nic && ip link set $nic up")


def inside(sika, image, options):
    """In the namespace."""
    passed = failed = 0
    ip("link", "set", "lo", "up")
    ip("tuntap", "add", TAP, "mode", "tap")
    ip("address", "add", HOST + "/24", "dev", TAP)
    ip("link", "set", TAP, "up")
    with tempfile.TemporaryDirectory() as tmp:
        guest = Guest(run_command(sika, image, copy_image(image, tmp), "--memory", "512M", "--net",
                                  "tap=" + TAP, *options), echo=False)
        try:
            configure(guest)
            for check in CHECKS:
                name = check.__name__.replace("_", " ")
                try:
                    remark = check(guest)
                    passed += 1
                    print(f"ok      {name}{': ' if remark else ''}{remark}", flush=True)
                except (Failure, OSError) as e:
                    failed += 1
                    print(f"FAILED  {name}: {e}", flush=True)
            guest.power_off()
        except Failure as e:
            failed += 1
            print(f"FAILED  {e}; the console ended with: {guest.seen[-300:]!r}", flush=True)
        finally:
            guest.kill()
    return report(passed, failed)


def main():
    sika, image, options = sys.argv[1], sys.argv[2], sys.argv[3:]
    if os.environ.get(NAMESPACE):
        return inside(sika, image, options)
    unshare = ["unshare", "--net"] + (["--map-root-user"] if os.geteuid() else [])
    why = None
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        why = "no /dev/net/tun, or not for us"
    elif not shutil.which("ip"):
        why = "ip (iproute2) is missing"
    elif subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        why = "no network namespace to be had"
    if why:
        print("skipped: " + why)
        return report(0, 0, 1)
    return subprocess.run([*unshare, sys.executable, *sys.argv],
                          env={**os.environ, NAMESPACE: "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
