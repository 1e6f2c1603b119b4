# SPDX-License-Identifier: GPL-2.0-only
"""
rig/names.py TARGET NAMES

The names that T=, M=, S= and PROGRAM= of a target of make can give. An unknown name is an
error, reported in one line with the names that exist. make runs this first, so that a
misspelled name fails before anything is installed or built; it needs only the repository,
and looks for new files in the kernel tree if there is one. Imported by the scripts of the
targets, which can also be run without make.
"""
import fnmatch
import glob
import importlib.machinery
import importlib.util
import os
import re
import sys

from lib import BASE, RIG, SRC, TOP, read, read_data

SELFTESTS = ("tools/testing/selftests/ioasid", "lab/linux/tools/testing/selftests/ioasid_lab")
# The only KUnit suites that run under user mode Linux, see rig/config/uml.config
CORE = "drivers/iommu"


def load(name):
    """A script of this folder as a module, which may be the running one"""
    running = sys.modules["__main__"]
    if getattr(running, "__file__", None) and os.path.realpath(running.__file__) == os.path.join(RIG, name):
        return running
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(RIG, name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def files(folder, pattern):
    """Of the repository, and of the kernel tree, whose new files may not be in the repository yet"""
    in_tree = os.path.join(SRC, folder.removeprefix("lab/linux/"))
    return sorted(path for top in (os.path.join(TOP, folder), in_tree) for path in glob.glob(os.path.join(top, pattern)))


def programs():
    """The kselftests, as their Makefiles have them"""
    found = set()
    for folder in SELFTESTS:
        makefile = os.path.join(TOP, folder, "Makefile")
        text = read(makefile) if os.path.exists(makefile) else ""
        others = re.findall(r"^NOT_TESTS := (.*)", text, re.M)
        found |= {os.path.basename(path)[:-2] for path in files(folder, "*.c")} - set(" ".join(others).split())
        found |= set(re.findall(r"^TEST_CUSTOM_PROGS := \$\(OUTPUT\)/(\w+)$", text, re.M))
    return found


def suites(*folders):
    """The KUnit suites of the series, with their tests"""
    found = {}
    for folder in folders:
        for path in files(folder, "*_test.c"):
            text = read(path)
            for name in re.findall(r'struct kunit_suite \w+ = \{[^}]*?\.name = "([^"]+)"', text):
                found[name] = set(re.findall(r"\bKUNIT_CASE\w*\((\w+)", text))
    return found


def all_suites():
    found = [path for top in ("drivers", "samples", "virt")
             for path in glob.glob(os.path.join(TOP, top, "**", "*_test.c"), recursive=True)]
    return suites(*sorted({os.path.relpath(os.path.dirname(path), TOP) for path in found}))


def tests():
    test = load("test")
    return list(dict.fromkeys([*test.PARTS, *filter(None, test.KINDS), *test.SCRIPTS, *sorted(programs()), *all_suites()]))


def is_suite(name, known):
    """Whether KUnit has tests for such a filter: SUITE or SUITE.TEST, both with wildcards"""
    suite, _, test = name.partition(".")
    return any(fnmatch.fnmatchcase(other, suite) and (not test or fnmatch.filter(cases, test))
               for other, cases in known.items())


def mutants():
    return sorted(m.name for m in load("mutants").mutants() if m.base in (None, BASE))


def mailings():
    return [line.split()[0] for line in read_data("mailings.txt")] + ["qemu"]


# For each target: what a name is called, the names, and the KUnit suites among them
TARGETS = {
    "bench": ("part", lambda: load("bench").PARTS, dict),
    "check": ("checker", lambda: load("check").CHECKERS, dict),
    "kunit": ("suite", lambda: suites(CORE), lambda: suites(CORE)),
    "mutants": ("mutant", mutants, dict),
    "peers": ("suite", lambda: load("peers").available(), dict),
    "series": ("mailing", mailings, dict),
    "soak": ("program", lambda: load("soak").PROGRAMS, dict),
    "test": ("test", tests, all_suites),
}
# The others take one name
TAKE_SEVERAL = ("bench", "check", "mutants", "peers")


def check(target, given):
    """Exits if the target does not know these names, separated by spaces"""
    what, known, kunit = TARGETS[target]
    names = given.split() if target in TAKE_SEVERAL else [given] if given else []
    if not names:
        return
    unknown = [name for name in names if name not in known() and not is_suite(name, kunit())]
    if unknown:
        sys.exit(f"make {target}: no {what} {', '.join(unknown)} for Linux {BASE}; there are {', '.join(known())}")


if __name__ == "__main__":
    check(sys.argv[1], sys.argv[2])
