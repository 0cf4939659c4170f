#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# deps.sh - install what is missing from Debian's packages; nothing happens when all is there.
# usage: tools/deps.sh [build] [image] [test] [software] [rbd]
set -eu

build="gcc libc6-dev meson ninja-build pkgconf python3 libglib2.0-dev liburing-dev libslirp-dev"
build="$build zlib1g-dev libbz2-dev liblzma-dev libzstd-dev libgnutls28-dev libnbd-dev libcurl4-gnutls-dev"
image="mmdebstrap e2fsprogs cpio gzip fakeroot uidmap debian-archive-keyring"
test="check clang libclang-rt-14-dev libzydis-dev qemu-system-x86 qemu-utils socat busybox-static"
test="$test clang-tidy cppcheck codespell 7zip iproute2 libnbd-bin gnutls-bin sg3-utils fio xorriso linux-headers-cloud-amd64"

# What software.py compares the guest's programs with, and how it reaches the guest.
software="openssh-client make openssl sqlite3 perl xz-utils gzip bzip2 zstd nodejs luajit gcc-multilib"
software="$software openjdk-17-jdk-headless tcl8.6-dev"

# A Ceph cluster, and what reaches it.
rbd="librbd-dev librados-dev ceph-mon ceph-osd ceph-common qemu-block-extra"

want=
for set in "${@:-build}"; do
	case $set in
	build) want="$want $build" ;;
	image) want="$want $image" ;;
	test) want="$want $test" ;;
	software) want="$want $software" ;;
	rbd) want="$want $rbd" ;;
	*)
		echo "deps.sh: unknown set '$set', known are: build, image, test, software, rbd" >&2
		exit 2
		;;
	esac
done

missing() {
	for p in $want; do
		dpkg-query -W -f='${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || echo "$p"
	done
}

if ! command -v dpkg-query >/dev/null; then
	echo "deps.sh: this is not Debian; install by hand what serves as:$want" >&2
	exit 0
fi
# pkg-config may come from either of two packages.
command -v pkg-config >/dev/null && want=$(echo " $want " | sed 's/ pkgconf / /')
todo=$(missing | tr '\n' ' ')
[ -n "$todo" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
	as_root="sudo"
	[ -t 0 ] || as_root="sudo -n"
	if ! command -v sudo >/dev/null || { [ ! -t 0 ] && ! sudo -n true 2>/dev/null; }; then
		echo "deps.sh: packages are missing; as root type: apt-get install $todo" >&2
		exit 1
	fi
fi
echo "installing: $todo"
apt() {
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "$@" </dev/null
}
# Package lists may be missing or stale: fetch them when the first try fails.
# shellcheck disable=SC2086
apt install $todo >/dev/null 2>&1 || { apt update >/dev/null && apt install $todo >/dev/null; } || {
	echo "deps.sh: apt-get could not install: $todo" >&2
	exit 1
}
