#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# image_debian.sh - builds a Debian disk image; run by `sika image build debian`, which checks the
# options, owns the temporary directory and names the results.
#
# usage: image-debian WORKDIR SUITE SIZE_BYTES SSH_KEY|"" EXTRA_PACKAGES|""
#
# Leaves WORKDIR/disk, WORKDIR/vmlinuz, WORKDIR/initrd. Says "progress PERCENT WHAT" on standard
# output; standard error is the log. Mounts nothing: as root mmdebstrap works directly, as anybody
# else in a user namespace, and fakeroot then keeps the owners that mke2fs copies.
set -euo pipefail

work=$1 suite=$2 size=$3 ssh_key=$4 include=$5
root=$work/root
packages=systemd,systemd-sysv,systemd-resolved,libpam-systemd,dbus,udev,kmod,login,passwd,mount
packages+=,iproute2,iputils-ping,openssh-server,procps,less,wget,ca-certificates
[[ -z $include ]] || packages+=,$include

progress() {
	echo "progress $1 $2"
}

# The mirror that the host's own apt uses for Debian, so that a proxy or local mirror serves here too.
host_mirror() {
	local uri
	while read -r uri; do
		case ${uri%/} in
		*/debian) echo "${uri%/}"; return ;;
		esac
	done < <(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sort -u)
	echo http://deb.debian.org/debian
}

sources() {
	local mirror=${SIKA_MIRROR:-$(host_mirror)}
	echo "deb $mirror $suite main"
	case $suite in
	sid | unstable | testing) ;;
	*)
		echo "deb $mirror $suite-updates main"
		echo "deb http://security.debian.org/debian-security $suite-security main"
		;;
	esac
}

# Runs outside the chroot, with its path as $1. The kernel is only unpacked: no boot loader, no initramfs hooks.
# /lib is a link in the image, so the modules are copied rather than unpacked over it.
kernel_hook() {
	cat <<-'EOF'
	set -e
	# The host's apt with the image's package lists: it knows how to reach the network.
	export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
	k=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
	(cd "$1/tmp" && apt-get -qq -o APT::Sandbox::User=root download "$k" busybox-static)
	unset APT_CONFIG
	for p in "$1"/tmp/*.deb; do dpkg-deb --fsys-tarfile "$p" | tar -x -C "$1/tmp" --one-top-level=unpacked; done
	cp -a "$1"/tmp/unpacked/boot/. "$1/boot/"
	mkdir -p "$1/usr/lib/modules" "$1/usr/lib/sika"
	cp -a "$1"/tmp/unpacked/lib/modules/. "$1/usr/lib/modules/"
	cp "$(ls "$1"/tmp/unpacked/bin/busybox "$1"/tmp/unpacked/usr/bin/busybox 2>/dev/null | head -n1)" "$1/usr/lib/sika/busybox"
	rm -rf "$1"/tmp/*.deb "$1/tmp/unpacked"
	chroot "$1" depmod "$(ls "$1/usr/lib/modules")"
	EOF
}

# Also outside the chroot: what makes the system answer on this machine.
configure_hook() {
	cat <<-'EOF'
	set -e
	r=$1
	chroot "$r" sh -c 'echo root:sika | chpasswd'
	echo sika >"$r/etc/hostname"
	printf '127.0.0.1\tlocalhost sika\n::1\tlocalhost\n' >"$r/etc/hosts"
	echo 'LABEL=sika-root / ext4 defaults,noatime 0 1' >"$r/etc/fstab"
	cat >"$r/etc/systemd/network/80-sika.network" <<-'NET'
		[Match]
		Type=ether

		[Network]
		DHCP=yes
	NET
	# Without hardware virtualization and on a busy host udev may need longer than the usual 90 s, behind which there would
	# be no login on the serial port.
	mkdir -p "$r/etc/systemd/system.conf.d"
	printf '[Manager]\nDefaultDeviceTimeoutSec=15min\n' >"$r/etc/systemd/system.conf.d/sika.conf"
	cat >"$r/usr/lib/sika/winsize" <<-'WINSIZE'
		#!/bin/bash
		# The virtio console knows the size of the user's window, the serial port that one logs in
		# on cannot: hand it over, at start and whenever it changes.
		copy() {
			read -r rows cols < <(stty size)
			[ "${rows:-0}" -gt 0 ] && stty -F /dev/ttyS0 rows "$rows" cols "$cols"
		}
		trap copy WINCH
		copy
		while :; do
			sleep infinity &
			wait $!
			kill $! 2>/dev/null
		done
	WINSIZE
	chmod 755 "$r/usr/lib/sika/winsize"
	cat >"$r/etc/systemd/system/sika-winsize.service" <<-'UNIT'
		[Unit]
		Description=Window size of the console
		Conflicts=serial-getty@hvc0.service

		[Service]
		ExecStart=/usr/lib/sika/winsize
		StandardInput=tty-force
		StandardOutput=tty
		TTYPath=/dev/hvc0
	UNIT
	cat >"$r/etc/profile.d/sika-winsize.sh" <<-'PROFILE'
		# getty gives a serial port 80 columns: at login take the size from the virtio console.
		if [ "$(tty)" = /dev/ttyS0 ]; then
			set -- $(stty -F /dev/hvc0 size 2>/dev/null)
			[ "${1:-0}" -gt 0 ] && stty rows "$1" cols "$2"
			set --
		fi
	PROFILE
	cat >"$r/etc/udev/rules.d/80-sika.rules" <<-'RULES'
		KERNEL=="hvc0", SUBSYSTEM=="tty", TAG+="systemd", ENV{SYSTEMD_WANTS}+="sika-winsize.service"
	RULES
	ln -sf /dev/null "$r/etc/systemd/system/serial-getty@hvc0.service"
	chroot "$r" systemctl -q enable systemd-networkd.service systemd-resolved.service ssh.service
	chroot "$r" systemctl -q disable systemd-networkd-wait-online.service \
		apt-daily.timer apt-daily-upgrade.timer
	chroot "$r" systemctl -q mask systemd-firstboot.service
	ln -sf /run/systemd/resolve/stub-resolv.conf "$r/etc/resolv.conf"
	rm -f "$r/etc/apt/apt.conf.d/99mmdebstrap"
	echo 'Acquire::Languages "none";' >"$r/etc/apt/apt.conf.d/99sika"
	EOF
}

# The key travels in the environment: in a user namespace the hook may not read the user's files.
ssh_hook() {
	cat <<-'EOF'
	[ -z "$SIKA_SSH_KEY" ] || {
		mkdir -m 700 -p "$1/root/.ssh" && printf '%s\n' "$SIKA_SSH_KEY" >"$1/root/.ssh/authorized_keys"
	}
	EOF
}

bootstrap() {
	local proxy
	local -a opts=(--variant=minbase --format=tar --aptopt='Acquire::Languages "none"')
	for path in '/usr/share/doc/*' '/usr/share/man/*' '/usr/share/locale/*' '/usr/share/info/*'; do
		opts+=(--dpkgopt="path-exclude=$path")
	done
	SIKA_SSH_KEY=
	[[ -z $ssh_key ]] || SIKA_SSH_KEY=$(cat "$ssh_key")
	export SIKA_SSH_KEY
	opts+=(--dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-include=/usr/share/locale/locale.alias')
	proxy=$(apt-config shell p Acquire::http::Proxy)
	[[ -z $proxy ]] || { eval "$proxy"; opts+=(--aptopt="Acquire::http::Proxy \"$p\""); }
	[[ $(id -u) == 0 ]] && opts+=(--mode=root) || opts+=(--mode=unshare)
	# Java's packages put links to manual pages there, and fail where the folder was left out.
	opts+=(--essential-hook='mkdir -p "$1"/usr/share/man/man1')
	sources | mmdebstrap "${opts[@]}" --include="$packages" \
		--customize-hook="$(kernel_hook)" --customize-hook="$(configure_hook)" \
		--customize-hook="$(ssh_hook)" "$suite" "$work/root.tar" -
}

# Module and what it needs, needed ones first, each once.
module_files() {
	local dep=$1/modules.dep name file rest m
	shift
	for name; do
		while IFS=: read -r file rest; do
			[[ $file == */$name.ko || $file == */$name.ko.* ]] || continue
			for m in $(tr ' ' '\n' <<<"$rest" | tac) "$file"; do echo "$m"; done
		done <"$dep"
	done | awk '!seen[$0]++'
}

# A tiny initramfs: the stock kernel has ext4 built in, but virtio as modules.
initramfs() {
	local modules=$1 dir=$work/initramfs m
	mkdir -p "$dir"/{bin,dev,proc,sys,root,modules}
	cp "$root/usr/lib/sika/busybox" "$dir/bin/busybox"
	ln -s busybox "$dir/bin/sh"
	for m in $(module_files "$modules" virtio_pci virtio_blk); do
		cp "$modules/$m" "$dir/modules/"
		echo "/modules/${m##*/}"
	done >"$dir/modules/order"
	cat >"$dir/init" <<-'EOF'
		#!/bin/sh
		# Load what the root disk needs, mount it, hand over to its init.
		bb() { /bin/busybox "$@"; }
		bb mount -t devtmpfs dev /dev
		bb mount -t proc proc /proc
		bb mount -t sysfs sys /sys
		while read -r m; do bb insmod "$m" || echo "initrd: cannot load $m"; done </modules/order
		root=/dev/vda flags=rw init=/sbin/init
		for w in $(bb cat /proc/cmdline); do
			case $w in
			root=*) root=${w#root=} ;;
			ro | rw) flags=$w ;;
			init=*) init=${w#init=} ;;
			esac
		done
		n=0
		while [ ! -b "$root" ] && [ $n -lt 100 ]; do bb sleep 0.1; n=$((n + 1)); done
		if ! bb mount -o "$flags" "$root" /root; then
			echo "initrd: cannot mount $root; here is a shell"
			exec /bin/sh
		fi
		for d in dev proc sys; do bb mount -o move /$d /root/$d; done
		exec /bin/busybox switch_root /root "$init"
	EOF
	chmod 755 "$dir/init"
	(cd "$dir" && find . -mindepth 1 | sort | cpio --quiet -o -H newc -R 0:0) | gzip -9n >"$work/initrd"
}

# Second stage, with owners as in the image: as root, or under fakeroot.
assemble() {
	local version
	mkdir "$root"
	tar -x -C "$root" --numeric-owner -f "$work/root.tar" --exclude='./dev/*' --warning=no-unknown-keyword
	rm "$work/root.tar"
	# A fixed identity: the first boot is then like every other.
	tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
	ln -sf /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
	version=$(ls "$root/usr/lib/modules")
	progress 80 "initial RAM disk"
	initramfs "$root/usr/lib/modules/$version"
	cp "$root/boot/vmlinuz-$version" "$work/vmlinuz"
	progress 85 "file system"
	truncate -s "$size" "$work/disk"
	mke2fs -q -F -t ext4 -L sika-root -E lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0 \
		-d "$root" "$work/disk"
	chmod -R u+rwX "$root" # so that whoever built it can also remove it
	rm -rf "$root" "$work/initramfs"
}

if [[ ${SIKA_STAGE:-} == assemble ]]; then
	assemble
	exit
fi
progress 2 "packages of Debian $suite"
# mmdebstrap's log becomes a coarse measure of how far it is.
bootstrap 2>&1 | while IFS= read -r line; do
	printf '%s\n' "$line" >&2
	case $line in
	*"downloading packages with apt"*) progress 10 "downloading" ;;
	*"extracting archives"*) progress 25 "unpacking" ;;
	*"installing essential packages"*) progress 35 "essential packages" ;;
	*"installing remaining packages"*) progress 45 "packages" ;;
	*"customize-hook"*) progress 65 "kernel and configuration" ;;
	*"creating tarball"*) progress 72 "packing" ;;
	esac
done
progress 75 "unpacking"
if [[ $(id -u) == 0 ]]; then
	assemble
else
	SIKA_STAGE=assemble fakeroot -- "$BASH" "$0" "$@"
fi
progress 100 "done"
