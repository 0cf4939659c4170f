#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ceph.sh - a Ceph cluster of one monitor and one OSD in memory, in a new folder and on loopback alone, for as long as a
# command runs.
#
# usage: ceph.sh [--no-auth] COMMAND [ARGUMENT]...
#
# The command finds in its environment CEPH_CONF (a configuration with the key of client.admin) and CEPH_FOLDER, where
# mon.pid and osd.pid are, and what was logged. The pool is called "disks". Needs ceph-mon, ceph-osd and ceph-common.
set -euo pipefail

auth=cephx
if [[ ${1:-} == --no-auth ]]; then
	auth=none
	shift
fi
[[ $# -gt 0 ]] || { echo "usage: ceph.sh [--no-auth] COMMAND [ARGUMENT]..." >&2; exit 2; }
for program in ceph-mon ceph-osd ceph ceph-authtool monmaptool rbd; do
	command -v "$program" >/dev/null || { echo "ceph.sh: $program is not installed" >&2; exit 77; }
done

exec 3>&2
folder=$(mktemp -d "${TMPDIR:-/tmp}/sika-ceph-XXXXXX")
command_pid=
is_up=

# shellcheck disable=SC2317 # the trap calls it
finish() {
	local status=$? pid file

	[[ -z $command_pid ]] || kill "$command_pid" 2>/dev/null || true
	for file in "$folder"/osd.pid "$folder"/mon.pid; do
		pid=$(cat "$file" 2>/dev/null) || continue
		kill -CONT "$pid" 2>/dev/null || true
		kill -KILL "$pid" 2>/dev/null || true
		while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
	done
	[[ $status -eq 0 || $is_up ]] || tail -n 5 "$folder"/*.log >&3 || true
	rm -rf "$folder"
	exit "$status"
}
trap finish EXIT
trap 'exit 143' INT TERM HUP

free_ports() {
	python3 -c 'import socket
s = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(x.getsockname()[1] for x in s))'
}

read -r v2 v1 < <(free_ports)
uuid=$(cat /proc/sys/kernel/random/uuid)
export CEPH_CONF=$folder/ceph.conf CEPH_FOLDER=$folder
cat >"$CEPH_CONF" <<END
[global]
fsid = $uuid
mon_host = [v2:127.0.0.1:$v2,v1:127.0.0.1:$v1]
ms_bind_ipv4 = true
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = $auth
auth_service_required = $auth
auth_client_required = $auth
auth_allow_insecure_global_id_reclaim = false
keyring = $folder/keyring
run_dir = $folder
admin_socket =
crash_dir = $folder
log_to_stderr = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
[mon]
mon_data = $folder/mon
mon_data_avail_crit = 1
mon_data_avail_warn = 1
log_file = $folder/mon.log
[osd]
osd_data = $folder/osd
osd_objectstore = memstore
memstore_device_bytes = 1073741824
osd_class_load_list = *
osd_class_default_list = *
log_file = $folder/osd.log
END

# Keys and a map of monitors, then both daemons; each writes its number, and goes to the background when it is there.
ceph-authtool --create-keyring "$folder/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' \
	--cap mgr 'allow *' --cap mds 'allow *' >/dev/null
cp "$folder/keyring" "$folder/mon.keyring"
ceph-authtool "$folder/mon.keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
monmaptool --create --fsid "$uuid" --addv a "[v2:127.0.0.1:$v2,v1:127.0.0.1:$v1]" "$folder/monmap" >/dev/null
mkdir "$folder/mon" "$folder/osd"
exec 2>"$folder/start.log" # they think aloud
ceph-mon --mkfs -i a --monmap "$folder/monmap" --keyring "$folder/mon.keyring"
ceph-mon -i a --pid-file "$folder/mon.pid" --keyring "$folder/mon.keyring"

osd_uuid=$(cat /proc/sys/kernel/random/uuid)
ceph --connect-timeout 60 osd new "$osd_uuid" >/dev/null
ceph auth get-or-create osd.0 mon 'allow profile osd' mgr 'allow profile osd' osd 'allow *' -o "$folder/osd/keyring" >/dev/null
ceph-osd -i 0 --mkfs --osd-uuid "$osd_uuid" --keyring "$folder/osd/keyring" >/dev/null
ceph-osd -i 0 --pid-file "$folder/osd.pid" --keyring "$folder/osd/keyring" >/dev/null
ceph osd crush add osd.0 1 host=here root=default >/dev/null
ceph osd pool create disks 8 8 replicated >/dev/null
ceph osd pool application enable disks rbd >/dev/null
timeout 60 rbd create --size 1 disks/first
timeout 60 rbd rm --no-progress disks/first
exec 2>&3
is_up=yes

"$@" 3>&- &
command_pid=$!
status=0
wait "$command_pid" || status=$?
command_pid=
exit "$status"
