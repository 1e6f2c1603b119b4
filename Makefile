# SPDX-License-Identifier: GPL-2.0-only
#
# Every target is a script in rig/; "make help" lists them.

BASE ?= 6.12
BUILD ?= build
export BASE BUILD KERNEL_SRC KERNEL QEMU CONFIG T LONG V SIGNOFF OPS SEED SECONDS_MAX

.NOTPARALLEL:
.PHONY: help setup qemu tree refresh series bisect kernel boot run vmm test soak models mutants coverage kcsan fuzz peers check bench deb kunit selftests clean

help:
	@echo "make run        the life of a PASID, step by step"
	@echo "make vmm        the same for PASIDs of two virtual machines"
	@echo "make test       all tests but long ones: LONG=1, T=PROGRAM or T=KUNITSUITE"
	@echo "make soak       random operations for long: OPS=N SEED=S SECONDS_MAX=T PROGRAM="
	@echo "make models     the models, all configurations"
	@echo "make mutants    break the code, see which test notices: M=NAME"
	@echo "make coverage   what of our kernel code the tests reach, by gcov"
	@echo "make kcsan      tests in a kernel that looks for data races: T=NAME"
	@echo "make fuzz       calls that nobody would make, guided by coverage"
	@echo "make peers      the kernel's own tests, on pristine and patched: T=SUITE"
	@echo "make check      the kernel's checkers on our code: T=NAME"
	@echo "make bench      what PASIDs cost: tables and plots, into lab/bench/"
	@echo "make setup      install the Debian packages that are missing"
	@echo "make qemu       build the emulator: VT-d corrected, and the DMA engine"
	@echo "make tree       merge the repository into $(BUILD)/linux-$(BASE)/src"
	@echo "make refresh    write edits made there back: P=PATCH"
	@echo "make series     write the mailings: S=fixes, core, users or tests; make bisect builds each step"
	@echo "make kernel     build a kernel: CONFIG=run (default) or CONFIG=test (debug)"
	@echo "make selftests  build the kselftest programs"
	@echo "make kunit      KUnit tests of the core under user mode Linux: T=SUITE"
	@echo "make boot       a shell in the guest: KERNEL=bzImage"
	@echo "make deb        Debian packages of the patched kernel: FLAVOUR=cloud-amd64"
	@echo "make clean      remove everything that was built ($(BUILD)/)"
	@echo "BASE=$(BASE) is the kernel, BUILD=$(BUILD) output, KERNEL_SRC=DIR pristine tree"

setup:
	@rig/setup

qemu: $(if $(QEMU),,setup)
	@$(if $(QEMU),true,rig/qemu)

tree: setup
	@rig/unpack
	@rig/tree merge

refresh:
	@rig/tree refresh $(P)

series: tree
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

test:
	@rig/setup
	@rig/test

soak: qemu tree
	@rig/kernel test
	@rig/selftests test
	@rig/soak

models: tree
	@rig/setup spin herd7
	@rig/models --all

mutants: qemu tree
	@rig/mutants $(M)

coverage: qemu tree
	@rig/coverage

kcsan:
	@CONFIG=kcsan LONG=1 rig/test $(or $(T),guest)

fuzz:
	@CONFIG=fuzz rig/test ioasid_fuzz

peers: qemu tree
	@rig/setup uuid-dev
	@rig/peers $(T)

check: tree
	@rig/check

bench: qemu tree
	@rig/setup gnuplot-nox
	@rig/kernel run
	@rig/selftests run
	@rig/bench

deb: qemu tree
	@rig/setup linux-config-$(BASE) cpio debhelper kmod libssl-dev rsync
	@rig/kernel run
	@rig/deb $(FLAVOUR)

kunit: tree
	@rig/kunit --show $(T)

clean:
	rm -rf "$(BUILD)"
