# SPDX-License-Identifier: Apache-2.0
# fish completion of sika. tools/check_man.py holds it against --help.
set -l verbs run image bt-stats engines help version

complete -c sika -f
complete -c sika -n "not __fish_seen_subcommand_from $verbs" -a run -d 'Run a virtual machine in the foreground'
complete -c sika -n "not __fish_seen_subcommand_from $verbs" -a image -d 'Build a disk image with Debian in it'
complete -c sika -n "not __fish_seen_subcommand_from $verbs" -a bt-stats -d 'Show where a machine spends its time'
complete -c sika -n "not __fish_seen_subcommand_from $verbs" -a engines -d 'Show what can run virtual CPUs here'
complete -c sika -n "not __fish_seen_subcommand_from $verbs" -a 'help version'
complete -c sika -n "__fish_seen_subcommand_from $verbs" -l help -d 'Show the options'

set -l run "__fish_seen_subcommand_from run"
complete -c sika -n $run -l kernel -rF -d 'bzImage, or ELF by PVH or multiboot'
complete -c sika -n $run -l initrd -rF -d 'Initial RAM disk'
complete -c sika -n $run -l append -x -d 'Kernel command line'
complete -c sika -n $run -l disk -rF -d 'Virtio disk'
complete -c sika -n $run -l memory -xa '256M 512M 1G 2G 4G' -d 'RAM'
complete -c sika -n $run -l cpu -xa 'max host x86-64-v1 x86-64-v2 x86-64-v3 x86-64-v4 help' -d 'Processor that the guest sees'
complete -c sika -n $run -l cpus -xa '1 2 4 8' -d 'Virtual CPUs'
complete -c sika -n $run -l pin -x -d 'Keep vCPUs on host CPUs'
complete -c sika -n $run -l mem-backing -xa 'hugepages prealloc merge lock node=' -d 'Where memory comes from'
complete -c sika -n $run -l net -xa 'user tap= none' -d 'Network'
complete -c sika -n $run -l engine -xa 'auto kvm kvm,irqchip=off bt bt,deterministic bt,interpret bt,off=' -d 'What runs the CPUs'
complete -c sika -n $run -l bt-cache -xa '16M 64M 256M' -d 'For code that bt translates'
complete -c sika -n $run -l bt-count -d 'Count instructions, tell at the end'
complete -c sika -n $run -l perf-map -d 'Tell perf whose code bt translated'
complete -c sika -n $run -l serial -rFa 'stdio none unix:' -d 'First serial port'
complete -c sika -n $run -l debug-exit -d 'The guest may end the machine by port 0xf4'
complete -c sika -n $run -l name -x -d 'Name of the machine'
complete -c sika -n $run -l no-reboot -d 'A reset by the guest ends the machine'

set -l image "__fish_seen_subcommand_from image"
complete -c sika -n $image -a 'build debian'
complete -c sika -n $image -F
complete -c sika -n $image -l suite -xa 'bookworm trixie sid' -d 'Release of Debian'
complete -c sika -n $image -l size -xa '2G 4G 8G 16G' -d 'Size of the disk'
complete -c sika -n $image -l ssh-key -rF -d 'Public key that may log in'
complete -c sika -n $image -l include -x -d 'More packages'

set -l stats "__fish_seen_subcommand_from bt-stats"
complete -c sika -n $stats -l time -x -d 'Seconds to look at it'
complete -c sika -n $stats -l top -x -d 'Rows of the lists'
complete -c sika -n $stats -l json -d 'As a JSON object'
complete -c sika -n "__fish_seen_subcommand_from engines" -l json -d 'As JSON'
complete -c sika -n "__fish_seen_subcommand_from help" -a 'run image bt-stats engines'
