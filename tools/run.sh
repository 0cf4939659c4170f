#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh - behind `make run`: an image once, then Debian on this terminal, or, without one, the
# self-check. usage: tools/run.sh BUILDDIR [OPTION of sika run]...
set -eu

sika=$1/src/cli/sika
shift
image=out/debian.img
key=out/id_ed25519

if [ ! -e $image ]; then
	mkdir -p out
	set_key=
	if command -v ssh-keygen >/dev/null; then
		[ -e $key ] || ssh-keygen -q -t ed25519 -N '' -C sika -f $key
		set_key="--ssh-key $key.pub"
	fi
	# shellcheck disable=SC2086
	"$sika" image build debian $set_key $image
fi
if ! [ -t 0 ] || ! [ -t 1 ]; then
	exec python3 tools/selfcheck.py "$sika" $image "$@"
fi

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cpus=$(nproc)
[ "$cpus" -le 4 ] || cpus=4
cat <<EOF
Log in as root, password sika. Ctrl-A x ends the machine at once, 'poweroff' in the guest in good order.
EOF
[ ! -e $key ] || echo "By ssh: ssh -i $key -p $port root@127.0.0.1"
exec "$sika" run --name debian --cpus "$cpus" --memory 1G --disk $image \
	--kernel $image.vmlinuz --initrd $image.initrd \
	--append 'console=ttyS0 root=/dev/vda quiet' \
	--net "user,forward=tcp:$port:22" "$@"
