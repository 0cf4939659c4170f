#compdef sika
# SPDX-License-Identifier: Apache-2.0
# zsh completion of sika. tools/check_man.py holds it against --help.

_sika_run() {
	_arguments \
		'--kernel=[bzImage, or ELF by PVH or multiboot]:kernel:_files' \
		'--initrd=[initial RAM disk]:initrd:_files' \
		'--append=[kernel command line]:command line:' \
		'*--disk=[virtio disk]:image:_files' \
		'--memory=[RAM]:size:(256M 512M 1G 2G 4G)' \
		'--cpu=[processor that the guest sees]:model:(max host x86-64-v1 x86-64-v2 x86-64-v3 x86-64-v4 help)' \
		'--cpus=[virtual CPUs]:number:(1 2 4 8)' \
		'--pin=[keep vCPUs on host CPUs]:VCPU=HOSTCPU:' \
		'--mem-backing=[where memory comes from]:kind:_values -s , kind hugepages prealloc merge lock node' \
		'*--net=[network]:kind:(user tap= none)' \
		'--engine=[what runs the CPUs]:engine:(auto kvm kvm,irqchip=off bt bt,deterministic bt,interpret bt,off=)' \
		'--bt-cache=[for code that bt translates]:size:(16M 64M 256M)' \
		'--bt-count[count instructions, tell at the end]' \
		'--perf-map[tell perf whose code bt translated]' \
		'--serial=[first serial port]:where:_files' \
		'--debug-exit[the guest may end the machine by port 0xf4]' \
		'--name=[name of the machine]:name:' \
		'--no-reboot[a reset by the guest ends the machine]' \
		'--help[show the options]'
}

_sika_machines() {
	local -a names
	names=(${XDG_RUNTIME_DIR:-/run}/sika/*(N:t:r))
	_describe machine names
}

_sika() {
	local -a verbs
	local context state line
	verbs=(
		'run:run a virtual machine in the foreground'
		'image:make, check, convert and change disk images'
		'bt-stats:show where a machine of engine bt spends its time'
		'kvm-stat:show what the KVM of the host counts of a running machine'
		'disk-stats:show what the disks of a running machine are used for'
		'resize:make a disk of a running machine larger'
		'status:say whether a machine runs, or why it is paused'
		'resume:let a machine that is paused try again'
		'engines:show what can run virtual CPUs on this host'
		'help:show the verbs, or the options of one'
		'version:show the version'
	)
	_arguments -C '1:verb:->verb' '*::argument:->argument'
	case $state in
	verb) _describe verb verbs ;;
	argument)
		case $words[1] in
		run) _sika_run ;;
		image)
			_arguments '1:what:(create info check convert resize snapshot bitmap rebase commit map compare measure bench serve build)' '*:image:_files' \
				'--format=[format to read]:value:(raw qcow2 vdi vhd vmdk vhdx parallels dmg cloop)' \
				'--to=[format to write]:value:(raw qcow2 vdi vhd vmdk vhdx)' \
				'--options=[of the format to write]:value:' \
				'--backing=[the image below]:value:_files' \
				'--backing-format=[of the image below]:value:(raw qcow2)' \
				'--cluster-size=[512 to 2M]:value:(4K 64K 2M)' \
				'--refcount-bits=[1 to 64]:value:' \
				'--compat=[version 2 or 3]:value:' \
				'--compression=[zlib or zstd]:value:(zlib zstd)' \
				'--compress[all clusters]' \
				'--lazy-refcounts[reference counts at the end]' \
				'--subclusters[extended L2 entries]' \
				'--data-file=[data in a file of its own]:value:_files' \
				'--data-file-raw[as a raw image]' \
				'--preallocate=[off, metadata, falloc, full]:value:(off metadata falloc full)' \
				'*--allow=[may hold images below]:value:_files -/' \
				'--cache-file=[keep copies of what a server gave]:value:_files' \
				'--cache-size=[of them at most]:value:' \
				'--reconnect-delay=[wait for a lost NBD server (seconds)]:value:' \
				'--force[replace a file, write over a device]' \
				'--json[for programs]' \
				'--chain[of the images below as well]' \
				'--repair[set right what is wrong]' \
				'--bitmaps[copy bitmaps of changed blocks]' \
				'--skip-broken-bitmaps[leave out those that cannot be used]' \
				'--granularity=[bytes to a bit]:size:(4K 64K 1M)' \
				'--disabled[changes are not marked]' \
				'--from=[image of the bitmap that is added]:image:_files' \
				'--shrink[may lose the end]' \
				'--socket=[serve at a Unix socket]:value:_files' \
				'--listen=[serve at TCP]:value:' \
				'--name=[of the export]:value:' \
				'--description=[of the export]:value:' \
				'--read-only[nobody may write]' \
				'--tls=[folder with keys or certificates]:value:_files -/' \
				'--clients=[at a time]:value:' \
				'--snapshot=[what this internal snapshot holds]:name:' \
				'--machine=[running machine whose disk to serve]:machine:_sika_machines' \
				'--once[end with the last client]' \
				'--unsafe[only write the name]' \
				'--count=[requests]:number:' \
				'--depth=[requests at a time]:number:(1 32 64)' \
				'--buffer-size=[of a request]:size:(4K 64K 1M)' \
				'--step=[from one request to the next]:size:' \
				'--offset=[of the first request]:size:' \
				'--random[at random multiples of the step]' \
				'--write[write instead of reading]' \
				'--pattern=[the byte to write]:number:' \
				'--cache=[how the host caches what is written]:mode:(none writeback writethrough directsync unsafe)' \
				'--source-cache=[the same for what is read]:mode:(none writeback unsafe)' \
				'--flush-interval=[flush after so many writes]:number:' \
				'--suite=[release of Debian]:name:(bookworm trixie sid)' \
				'--size=[of the disk]:size:(2G 4G 8G 16G)' \
				'--ssh-key=[public key that may log in]:key:_files' \
				'--include=[more packages]:packages:' '--help[show the options]'
			;;
		bt-stats)
			_arguments '1:machine:_sika_machines' \
				'--time=[how long to look at it]:seconds:' \
				'--top=[rows of the lists]:number:' '--json[as a JSON object]' \
				'--help[show the options]'
			;;
		kvm-stat)
			_arguments '1:machine:_sika_machines' '--time=[how long to look at it]:seconds:' \
				'--json[as a JSON object]' '--help[show the options]'
			;;
		disk-stats)
			_arguments '1:machine:_sika_machines' '--histogram[how many requests took how long]' \
				'--json[as JSON]' '--help[show the options]'
			;;
		status | resume) _arguments '1:machine:_sika_machines' '--json[as a JSON object]' ;;
		engines) _arguments '--json[as JSON]' '--help[show the options]' ;;
		help) _arguments '1:verb:(run image bt-stats kvm-stat disk-stats resize status resume engines)' ;;
		esac
		;;
	esac
}

_sika "$@"
