# SPDX-License-Identifier: Apache-2.0
# A thin front on meson and ninja: `make help` lists what there is.
BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=
# For `make run`: options of sika run, as ARGS='--engine kvm --memory 2G'.
ARGS ?=

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

help:
	@echo 'make           build into $(BUILD)/'
	@echo 'make run       boot Debian to a login here; without a terminal: check itself (ARGS=...)'
	@echo 'make test      all tests, closing with a line of totals'
	@echo 'make test-kvm  the kvm engine on the hardware ABI, inside an emulated machine'
	@echo 'make test-kmod our kernel driver instead of the stock one, inside an emulated machine'
	@echo 'make test-boots Debian under bt with each optimization off, on other processors, and with disks of all kinds'
	@echo 'make test-rbd  images of a Ceph cluster, which is made for it (some minutes)'
	@echo 'make test-software  real programs in a Debian guest under bt (an hour or more; ARGS=--only=gcc)'
	@echo 'make test-soak  a guest under load neither leaks nor drifts in time (an hour; ARGS="--minutes 5")'
	@echo 'make fuzz      the long forms of the fuzzers and of the oracle (SECONDS_EACH=600)'
	@echo 'make bench     measure against QEMU and the host (bench/bench.py --help)'
	@echo 'make install   to DESTDIR, below PREFIX ($(PREFIX))'
	@echo 'make uninstall remove what the last make install put there'
	@echo 'make clean     remove build directories; images in out/ stay'

$(BUILD)/build.ninja:
	@tools/deps.sh build
	@meson setup $(BUILD) --prefix=$(PREFIX) >/dev/null

run: $(BUILD)/build.ninja
	@tools/deps.sh build image
	@ninja -C $(BUILD) --quiet
	@tools/run.sh $(BUILD) $(ARGS)

test:
	@tools/deps.sh build image test
	@tools/run-tests.sh

test-kvm: $(BUILD)/build.ninja
	@tools/deps.sh build image test
	@ninja -C $(BUILD) --quiet
	@tests/kvm/run.sh $(BUILD)

test-kmod: $(BUILD)/build.ninja
	@tools/deps.sh build
	@ninja -C $(BUILD) --quiet
	@tests/kmod/run.sh $(BUILD)

test-boots: $(BUILD)/build.ninja
	@tools/deps.sh build image test
	@ninja -C $(BUILD) --quiet
	@tools/run.sh $(BUILD) </dev/null
	@tests/debian/boots.py $(BUILD)/src/cli/sika out/debian.img --off all --cpus 2 --memory 512M --at-once 2
	@tests/debian/disks.py $(BUILD)/src/cli/sika out/debian.img
	@tests/debian/far.py $(BUILD)/src/cli/sika out/debian.img
	@tests/guest/hosts.py $(BUILD) out/debian.img.vmlinuz

# Meson has looked for the headers, and remembers that they were not there.
test-rbd: $(BUILD)/build.ninja
	@tools/deps.sh build test rbd
	@grep -q SIKA_RBD $(BUILD)/compile_commands.json || \
		{ meson configure --clearcache $(BUILD) && meson setup --reconfigure $(BUILD); } >/dev/null
	@ninja -C $(BUILD) --quiet
	@tests/disk/ceph.sh python3 tests/disk/rbd.py $(BUILD)/src/cli/sika $(BUILD)/tests/disk/disk_ops
	@tests/disk/ceph.sh --no-auth python3 tests/disk/rbd.py $(BUILD)/src/cli/sika $(BUILD)/tests/disk/disk_ops

test-software: $(BUILD)/build.ninja
	@tools/deps.sh build image software
	@ninja -C $(BUILD) --quiet
	@tests/debian/software.py $(BUILD)/src/cli/sika $(ARGS) -- --engine bt

test-soak: $(BUILD)/build.ninja
	@tools/deps.sh build image software
	@ninja -C $(BUILD) --quiet
	@tests/debian/soak.py $(BUILD)/src/cli/sika $(ARGS) -- --engine bt

fuzz:
	@tools/deps.sh build test
	@tools/fuzz.sh

bench: all
	@tools/deps.sh build image test
	@bench/bench.py $(ARGS)

install: $(BUILD)/build.ninja
	@meson configure $(BUILD) -Dprefix=$(PREFIX)
	@ninja -C $(BUILD)
	@DESTDIR='$(DESTDIR)' meson install -C $(BUILD) --no-rebuild

uninstall:
	@ninja -C $(BUILD) uninstall

clean:
	rm -rf build build-*

.PHONY: all help run test test-boots test-kvm test-kmod test-rbd test-software test-soak fuzz bench install uninstall clean
