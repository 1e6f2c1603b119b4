# SPDX-License-Identifier: GPL-2.0-only
#
# Every target is a script in rig/; "make help" lists them.

BASE ?= 6.12
BUILD ?= build
export BASE BUILD KERNEL_SRC KERNEL QEMU CONFIG T LONG V SIGNOFF OPS SEED SECONDS_MAX

# What "make TARGET" checks first: an unknown name fails before anything is installed or
# built. Without Debian's python3, which rig/setup installs, the target's script checks it.
names := $(addsuffix -names,bench check kunit mutants peers series soak test)
$(names): named = $(T)
mutants-names: named = $(M)
series-names: named = $(S)
soak-names: named = $(PROGRAM)

.NOTPARALLEL:
.PHONY: help setup qemu tree refresh series bisect kernel boot run vmm test soak models mutants coverage kcsan fuzz peers check bench deb kunit selftests clean $(names)

help:
	@echo "make run        walk through the life cycle of a PASID"
	@echo "make vmm        the same for PASIDs of two virtual machines"
	@echo "make test       all tests; LONG=1 for long ones in full, T=PROGRAM or T=SUITE for one"
	@echo "make soak       long runs of random operations: OPS=N SEED=S SECONDS_MAX=T PROGRAM="
	@echo "make models     check the models, all configurations"
	@echo "make mutants    break the code and see which test notices: M=NAME"
	@echo "make coverage   measure how much of our kernel code the tests reach (gcov)"
	@echo "make kcsan      run tests in a kernel that detects data races: T=NAME"
	@echo "make fuzz       random calls, guided by coverage"
	@echo "make peers      run the kernel's own tests on the pristine and patched kernel: T=SUITE"
	@echo "make check      run the kernel's checkers on our code: T=NAME"
	@echo "make bench      measure what PASIDs cost: tables and plots in lab/bench/: T=PART"
	@echo "make setup      install missing Debian packages"
	@echo "make qemu       build the emulator: QEMU with corrected VT-d, and the test devices"
	@echo "make tree       merge the repository into $(BUILD)/linux-$(BASE)/src"
	@echo "make refresh    write edits made in that tree back: P=PATCH"
	@echo "make series     write the mailings: S=fixes, core, users, tests or qemu"
	@echo "make bisect     build each step of the series"
	@echo "make kernel     build a kernel: CONFIG=run (default) or CONFIG=test (debug)"
	@echo "make selftests  build the kselftest programs"
	@echo "make kunit      run KUnit tests of the core under user mode Linux: T=SUITE"
	@echo "make boot       get a shell in the emulated machine: KERNEL=bzImage"
	@echo "make deb        build Debian packages of the patched kernel: FLAVOUR=cloud-amd64"
	@echo "make clean      remove all output ($(BUILD)/)"
	@echo "BASE=$(BASE) is the kernel, BUILD=$(BUILD) output, KERNEL_SRC=DIR pristine tree"

$(names): %-names:
	@[ ! -x /usr/bin/python3 ] || /usr/bin/python3 -B rig/names.py $* "$(named)"

setup:
	@rig/setup

qemu: $(if $(QEMU),,setup)
	@$(if $(QEMU),true,rig/qemu)

tree: setup
	@rig/unpack
	@rig/tree merge

refresh:
	@rig/tree refresh $(P)

series: series-names $(if $(filter qemu,$(S)),setup,tree)
	@rig/series

bisect: series
	@rig/bisect

kernel: tree
	@rig/kernel $(or $(CONFIG),run)

selftests: kernel
	@rig/selftests $(or $(CONFIG),run)

boot: qemu tree
	@$(if $(KERNEL),true,rig/kernel run)
	@rig/boot

run: qemu tree
	@rig/kernel run
	@rig/selftests run
	@rig/run

vmm: qemu tree
	@rig/setup kernel:bookworm kernel:trixie vmm:bookworm
	@rig/kernel run
	@rig/selftests run
	@rig/guests run
	@rig/vmm

test: test-names
	@rig/setup
	@rig/test

soak: soak-names qemu tree
	@rig/kernel test
	@rig/selftests test
	@rig/soak

models: tree
	@rig/setup spin herd7
	@rig/models --all

mutants: mutants-names qemu tree
	@rig/mutants $(M)

coverage: qemu tree
	@rig/coverage

kcsan: test-names
	@CONFIG=kcsan LONG=1 rig/test $(or $(T),guest)

fuzz:
	@CONFIG=fuzz rig/test ioasid_fuzz

peers: peers-names qemu tree
	@rig/setup uuid-dev
	@rig/peers $(T)

check: check-names tree
	@rig/check

bench: bench-names qemu tree
	@rig/setup gnuplot-nox
	@rig/kernel run
	@rig/selftests run
	@rig/bench $(T)

deb: qemu tree
	@rig/setup linux-config-$(BASE) cpio debhelper kmod libssl-dev rsync
	@rig/kernel run
	@rig/deb $(FLAVOUR)

kunit: kunit-names tree
	@rig/kunit --show $(T)

clean:
	rm -rf "$(BUILD)"
