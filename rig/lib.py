# SPDX-License-Identifier: GPL-2.0-only
"""
Imported by the Python scripts in this folder, as rig/lib.sh is sourced by the
shell scripts: paths, defaults, and the steps that several scripts share.

From the environment: BASE (kernel version), BUILD (output folder), both
optional. Everything that is built goes below BUILD.
"""
import os
import subprocess
import sys

RIG = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(RIG)
DATA = os.path.join(RIG, "data")
BASE = os.environ.get("BASE") or "6.12"
BUILD = os.path.join(TOP, os.environ.get("BUILD") or "build")
LOG = os.path.join(BUILD, "log")
LINUX = os.path.join(BUILD, "linux-" + BASE)
SRC = os.path.join(LINUX, "src")
# Absolute, for scripts that run in another folder
os.environ["BUILD"] = BUILD


def die(why):
    sys.exit(f"{os.path.basename(sys.argv[0])}: {why}")


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def read_lines(path):
    """The lines of a log, none if it was not written"""
    return read(path).splitlines() if os.path.exists(path) else []


def read_numbered(name):
    """The lines of a file in rig/data with their numbers, without comments"""
    return [(number, line) for number, line in enumerate(read(os.path.join(DATA, name)).splitlines(), 1)
            if line.strip() and not line.startswith("#")]


def read_data(name):
    """The lines alone"""
    return [line for _, line in read_numbered(name)]


def read_reasons(name, text, fields):
    """
    A list whose entries have so many fields on a line, the last of which may
    contain spaces, and an indented reason below it. Gives the number of the
    line, the fields and the reason of each; raises ValueError.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace():
            if found:
                found[-1][-1] += line.strip()
            continue
        words = line.split(None, fields - 1)
        if len(words) != fields:
            raise ValueError(f"rig/data/{name}:{number}: not {fields} fields")
        found.append([number, *words, ""])
    for number, *_, reason in found:
        if not reason:
            raise ValueError(f"rig/data/{name}:{number}: no reason below it")
    return found


def script(name, *arguments, **environment):
    """Runs a script of this folder; gives its exit status"""
    sys.stdout.flush()
    return subprocess.run([os.path.join(RIG, name), *arguments], stdin=subprocess.DEVNULL, check=False,
                          env={**os.environ, **environment}).returncode


def modules(out):
    """Arguments for rig/initramfs: the modules of a kernel built in this folder"""
    return [f"/lib/modules/{os.path.basename(line)[:-2]}.ko={os.path.join(out, line[:-2])}.ko"
            for line in read_lines(os.path.join(out, "modules.order"))]
