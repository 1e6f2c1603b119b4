# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Sourced by the scripts in this folder: where things are, how to report a long step,
# how to fail.
#
# From the environment: BASE (kernel version), BUILD (output folder), both
# optional. All output goes below BUILD.

set -euo pipefail
umask 022
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
export LC_ALL=C.UTF-8

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BASE=${BASE:-6.12}
BUILD=$(realpath -m "${BUILD:-$top/build}")
export BASE BUILD

log=$BUILD/log
linux=$BUILD/linux-$BASE
# shellcheck disable=SC2034 # for the scripts
src=$linux/src
mkdir -p "$log"

say()
{
	echo "-- $*"
}

die()
{
	echo "${0##*/}: $*" >&2
	exit 1
}

# 75 -> "1 min 15 s"
duration()
{
	if [ "$1" -ge 60 ]; then
		echo "$(($1 / 60)) min $(($1 % 60)) s"
	else
		echo "$1 s"
	fi
}

# step WHAT LOG COMMAND...: one line at the start, one at the end. The output
# goes to LOG, which the error message names.
step()
{
	local step_what=$1 step_log=$2 step_start=$SECONDS step_status=0

	shift 2
	say "$step_what ..."
	# Not in a condition: there, bash would ignore "set -e" in a function. The
	# outer redirection is for messages of bash itself when it is killed.
	set +e
	{
		(
			set -e
			"$@"
		) >"$step_log" 2>&1 </dev/null
		step_status=$?
	} 2>/dev/null
	set -e
	if [ "$step_status" = 0 ]; then
		say "$step_what: $(duration $((SECONDS - step_start)))"
		return
	fi
	if grep -q 'No space left on device' "$step_log"; then
		die "$step_what: disk full, free some space below $BUILD"
	fi
	if [ "$step_status" -gt 128 ] || tail -n 5 "$step_log" | grep -qE 'Terminated|Killed|interrupted'; then
		die "$step_what was killed, run it again: it goes on from there ($step_log)"
	fi
	grep -m 5 -E '([Ee]rror|ERROR|[Ff]atal|FAILED)( [0-9]+)?(:|$)' "$step_log" >&2 ||
		tail -n 5 "$step_log" >&2
	die "$step_what failed, see $step_log"
}

# need_space MIB WHAT [FOLDER]: call before writing something big
need_space()
{
	local free

	free=$(($(df -Pk "${3:-$BUILD}" | awk 'NR == 2 { print $4 }') / 1024))
	[ "$free" -ge "$1" ] ||
		die "$2 needs $1 MiB free in ${3:-$BUILD}, there are $free MiB"
}

# qemu_tarball: the source of the emulator
qemu_tarball()
{
	local file tarball=

	for file in "$BUILD"/packages/qemu/qemu_*.orig.tar.xz; do
		[ ! -f "$file" ] || tarball=$file
	done
	[ -n "$tarball" ] || die "no source of the emulator: run make setup"
	echo "$tarball"
}

# config_fragments LAYER...: sets fragments to those in rig/config that exist
config_fragments()
{
	local layer fragment

	fragments=()
	for layer in "$@"; do
		fragment=$top/rig/config/$layer.config
		[ ! -f "$fragment" ] || fragments+=("$fragment")
	done
}

# lock FILE: hold it until the script ends
lock()
{
	mkdir -p "$(dirname "$1")"
	exec 9>"$1"
	if ! flock -n 9; then
		say "waiting for another make that uses $(dirname "$1") ..."
		flock 9
	fi
}

# modules NAME: the modules of that kernel, as arguments for rig/initramfs
modules()
{
	local object

	while read -r object; do
		object=${object%.o}.ko
		echo "/lib/modules/${object##*/}=$linux/$1/$object"
	done <"$linux/$1/modules.order"
}

# unpack_debs DEBS ROOT: the packages in the folder DEBS, not installed
unpack_debs()
{
	local debs=$1 root=$2 deb

	rm -rf "$root.new" "$root"
	mkdir -p "$root.new"
	for deb in "$debs"/*.deb; do
		dpkg-deb -x "$deb" "$root.new"
	done
	touch "$root.new"
	mv "$root.new" "$root"
}

# pack_program OUT FOLDER NAME PROGRAM LOADER [LOADER-ARGUMENT...]: a program with its
# loader and libraries, as arguments for rig/initramfs. In the guest, FOLDER/NAME is a
# script that starts it; it is written to OUT.
pack_program()
{
	local out=$1 folder=$2 name=$3 program=$4 loader=$5 library

	[ -x "$program" ] || die "no $program"
	shift 4
	cat >"$out/$name" <<-END
		#!/bin/sh
		exec $folder/lib/$name/ld.so --library-path $folder/lib/$name $folder/lib/$name/program "\$@"
	END
	echo "$folder/$name=$out/$name"
	echo "$folder/lib/$name/program=$program"
	echo "$folder/lib/$name/ld.so=$loader"
	"$@" --list "$program" | sed -n 's/.* => \(.*\) (0x.*/\1/p' | while read -r library; do
		echo "$folder/lib/$name/${library##*/}=$library"
	done
}

# pack_unpacked OUT FOLDER NAME ROOT FILE: the same for a program of packages that
# unpack_debs() has unpacked
pack_unpacked()
{
	local root=$4

	pack_program "$1" "$2" "$3" "$root/$5" "$(realpath "$root"/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2)" \
		--library-path "$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu"
}

# complaints CONSOLE: the lines of a kernel log that should not be there
complaints()
{
	/usr/bin/python3 -B "$top/rig/results.py" bad "$1"
}

# known TARGET NAMES: whether they are names that the target takes
known()
{
	/usr/bin/python3 -B "$top/rig/names.py" "$1" "$2"
}

# check_out_base TREE: the pristine kernel as a worktree of the kernel tree, made
# anew when the source has changed. The caller holds a lock.
check_out_base()
{
	local tree=$1

	if [ "$(cat "$tree.base" 2>/dev/null)" = "$(git -C "$src" rev-parse base)" ] &&
		git -C "$tree" rev-parse -q --verify HEAD >/dev/null 2>&1; then
		return
	fi
	need_space 2000 "checking out the pristine Linux $BASE"
	step "check out the pristine Linux $BASE" "$log/base-$BASE.log" check_out_base_anew "$tree"
}

check_out_base_anew()
{
	local tree=$1

	export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
	mkdir -p "$(dirname "$tree")"
	rm -rf "$tree" "$tree.base"
	git -C "$src" worktree prune
	git -C "$src" worktree add -q --detach "$tree" base
	# Not in git: see rig/unpack
	(cd "$src" && find . -path ./.git -prune -o -type f -perm -100 -printf '%P\0') |
		(cd "$tree" && xargs -0r chmod -f +x) || true
	git -C "$tree" update-index -q --refresh
	git -C "$src" rev-parse base >"$tree.base"
}
