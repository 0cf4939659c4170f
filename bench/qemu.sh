#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# qemu.sh - print the command of the newest QEMU that Debian offers for this release, backports included.
#
# Nothing is installed: the packages are unpacked into a cache, and use the libraries and firmware that the
# installed qemu-system-x86 brought. Where backports cannot be had it is the installed one.
set -eu

cache=${XDG_CACHE_HOME:-$HOME/.cache}/sika/qemu
list=$cache/sources.list
apt_options="-q -o Dir::Etc::sourcelist=$list -o Dir::Etc::sourceparts=/dev/null
-o Dir::State::lists=$cache/lists -o Dir::Cache=$cache/apt -o APT::Sandbox::User="

installed() {
	command -v qemu-system-x86_64 || {
		echo "qemu.sh: no qemu-system-x86_64 (apt-get install qemu-system-x86)" >&2
		exit 1
	}
	exit 0
}

fetch() {
	# shellcheck source=/dev/null
	. /etc/os-release
	mkdir -p "$cache/lists/partial" "$cache/apt/archives/partial" "$cache/deb"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
http://deb.debian.org/debian $VERSION_CODENAME-backports main" >"$list"
	# shellcheck disable=SC2086
	apt-get $apt_options update >/dev/null 2>&1 || return 1
	# shellcheck disable=SC2086
	(cd "$cache/deb" && apt-get $apt_options download qemu-system-x86 qemu-system-data \
		qemu-system-common >/dev/null 2>&1) || return 1
	rm -rf "$cache/root"
	for deb in "$cache"/deb/*.deb; do
		dpkg -x "$deb" "$cache/root" || return 1
	done
	rm -rf "$cache/deb" "$cache/apt" "$cache/lists"
}

qemu=$cache/root/usr/bin/qemu-system-x86_64
[ -x "$qemu" ] || fetch || installed
"$qemu" --version >/dev/null 2>&1 || installed
echo "$qemu -L $cache/root/usr/share/qemu -L /usr/share/seabios -L /usr/share/qemu"
