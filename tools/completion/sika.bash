# SPDX-License-Identifier: Apache-2.0
# bash completion of sika. tools/check_man.py holds it against --help.
_sika() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]}
	local words=

	# "=" may be a word of its own.
	[[ $cur == "=" ]] && cur=
	[[ $prev == "=" ]] && prev=${COMP_WORDS[COMP_CWORD - 2]}
	if ((COMP_CWORD == 1)); then
		words="run image bt-stats kvm-stat disk-stats resize status resume engines help version --help --version"
	else
		case $prev in
		--kernel | --initrd | --disk | --ssh-key) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
		--engine) words="auto kvm kvm,irqchip=off bt bt,deterministic bt,interpret bt,off=" ;;
		--bt-cache) words="16M 64M 256M" ;;
		--mem-backing) words="hugepages prealloc merge lock node=" ;;
		--net) words="user tap= none" ;;
		--serial) words="stdio unix: none"; compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")) ;;
		--cache | --source-cache) words="none writeback writethrough directsync unsafe" ;;
		--memory) words="256M 512M 1G 2G 4G" ;;
		--size) words="2G 4G 8G 16G" ;;
		--suite) words="bookworm trixie sid" ;;
		--cpu) words="max host x86-64-v1 x86-64-v2 x86-64-v3 x86-64-v4 help" ;;
		--cpus) words="1 2 4 8" ;;
		--append | --pin | --name | --include | --time | --top) return ;;
		*)
			case $verb in
			run)
				words="--kernel --initrd --append --disk --memory --cpu --cpus --pin --mem-backing
					--net --engine --bt-cache --bt-count --perf-map --serial --debug-exit --name --no-reboot --help"
				;;
			image)
				if ((COMP_CWORD == 2)); then
					words="create info check convert resize snapshot bitmap rebase commit map compare measure bench serve build"
				elif ((COMP_CWORD == 3)) && [[ ${COMP_WORDS[2]} == build ]]; then
					words="debian"
				elif ((COMP_CWORD == 3)) && [[ ${COMP_WORDS[2]} == snapshot ]]; then
					words="list create apply delete"
				elif ((COMP_CWORD == 3)) && [[ ${COMP_WORDS[2]} == bitmap ]]; then
					words="list add remove clear enable disable merge"
				elif [[ ${COMP_WORDS[2]} == build ]]; then
					words="--suite --size --ssh-key --include --help"
					[[ $cur == -* ]] || { compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); }
				else
					words="--format --to --options --backing --backing-format --cluster-size --refcount-bits --compat --compression --compress --lazy-refcounts
						--subclusters --data-file --data-file-raw --preallocate --allow --cache-file --cache-size --reconnect-delay --force --json --chain --size --repair --shrink --unsafe
						--bitmaps --skip-broken-bitmaps --granularity --disabled --from
						--count --depth --buffer-size --step --offset --random --write --pattern --flush-interval --cache --source-cache
						--socket --listen --name --description --read-only --tls --clients --snapshot --machine --once --help"
					[[ $cur == -* ]] || { compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); }
				fi
				;;
			bt-stats)
				words="--time --top --json --help"
				[[ $cur == -* ]] || words=$(ls "${XDG_RUNTIME_DIR:-/run}/sika" 2>/dev/null | sed 's/\.[0-9]*$//')
				;;
			kvm-stat)
				words="--time --json --help"
				[[ $cur == -* ]] || words=$(ls "${XDG_RUNTIME_DIR:-/run}/sika" 2>/dev/null | sed 's/\.[0-9]*$//')
				;;
			disk-stats)
				words="--histogram --json --help"
				[[ $cur == -* ]] || words=$(ls "${XDG_RUNTIME_DIR:-/run}/sika" 2>/dev/null | sed 's/\.[0-9]*$//')
				;;
			resize)
				((COMP_CWORD == 2)) && words=$(ls "${XDG_RUNTIME_DIR:-/run}/sika" 2>/dev/null | sed 's/\.[0-9]*$//')
				;;
			status | resume)
				[[ $verb == status ]] && words="--json --help"
				[[ $cur == -* ]] || words=$(ls "${XDG_RUNTIME_DIR:-/run}/sika" 2>/dev/null | sed 's/\.[0-9]*$//')
				;;
			engines) words="--json --help" ;;
			help) words="run image bt-stats kvm-stat disk-stats resize status resume engines" ;;
			esac
			;;
		esac
	fi
	COMPREPLY+=($(compgen -W "$words" -- "$cur"))
	[[ ${COMPREPLY[0]} == *[=:] ]] && compopt -o nospace
	return 0
}
complete -F _sika sika
