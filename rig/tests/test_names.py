# SPDX-License-Identifier: GPL-2.0-only
"""The names that targets of make take"""
import os
import re
import shutil

import names
from lib import TOP
from support import Case, Scratch, holds

# Each target, the variable, and a name that it takes
TARGETS = (("bench", "T", "time"), ("check", "T", "gcc clang"), ("kcsan", "T", "guest"), ("kunit", "T", "ioasid.one*"),
           ("mutants", "M", "one-rule"), ("peers", "T", "kvm iommu"), ("series", "S", "core"), ("soak", "PROGRAM", "ioasid_race"),
           ("test", "T", "ioasid_mine"))
SUITE = """
static struct kunit_case cases[] = {
	KUNIT_CASE(one_works),
	KUNIT_CASE_SLOW(two_work),
	{}
};

static struct kunit_suite suite = {
	.name = "%s",
};
"""


class Names(Scratch):
    """A repository whose scripts, but for the one that checks names, only note that they run"""

    def __init__(self):
        super().__init__()
        shutil.copy(os.path.join(TOP, "Makefile"), self.repo)
        os.mkdir(self.path("repo/.ci"))
        os.mkdir(self.path("repo/qemu"))
        for name in ("setup", "qemu", "unpack", "tree", "kernel", "selftests", "kunit", "series"):
            self.write(f"repo/rig/{name}", f"#!/bin/sh\necho {name} >>{self.path('ran')}\n")
        # These have the names that they take
        for name in ("bench", "check", "mutants", "peers", "soak", "test"):
            main = 'if __name__ == "__main__":\n'
            text = self.read(f"repo/rig/{name}")
            holds(text, main)
            self.write(f"repo/rig/{name}", text.replace(main, f"{main}    sys.exit(open({self.path('ran')!r}, 'a').write('{name}\\n') == 0)\n"))
        self.write("repo/drivers/iommu/ioasid_test.c", SUITE % "ioasid")
        self.write("repo/drivers/iommu/intel/park_test.c", SUITE % "park")
        self.write("repo/lab/mutants/one-rule.diff", "Invariant: final\nTest: uml\n\n")
        self.write("repo/tools/testing/selftests/ioasid/Makefile", "NOT_TESTS := demo\nTEST_CUSTOM_PROGS := $(OUTPUT)/mine_32\n")
        for name in ("ioasid_mine", "demo"):
            self.write(f"repo/tools/testing/selftests/ioasid/{name}.c", "")

    def make(self, target, variable, name, status=0):
        """What make wrote, and the scripts that it ran"""
        self.write("ran", "")
        output = self.run("make", target, f"{variable}={name}", status=status, T="", M="", S="", PROGRAM="")
        return output, self.read("ran").split()


class NamesTest(Case):
    def test_unknown_name_fails_before_anything_runs(self):
        with Names() as s:
            for target, variable, name in TARGETS:
                for wrong in ("no-such", name.replace("one", "on") + "-", name + " no-such"):
                    output, ran = s.make(target, variable, wrong, status=2)
                    ours = [line for line in output.splitlines() if not re.match(r"make(\[\d+\])?: ", line)]
                    self.assertEqual(len(ours), 1)
                    self.assertHolds(ours[0], ": no ", "; there are ")
                    self.assertEqual(ran, [])
                _, ran = s.make(target, variable, name)
                self.assertIn({"kcsan": "test"}.get(target, target), ran)

    def test_message_lists_what_exists(self):
        with Names() as s:
            for target, variable, known in (
                    ("bench", "T", "no part x for Linux .*; there are instructions, time, bystander, neighbour, contention, mainline"),
                    ("check", "T", "no checker x for Linux .*; there are checkpatch, gcc, .*, syzkaller"),
                    ("kunit", "T", "no suite x for Linux .*; there are ioasid"),
                    ("mutants", "M", "no mutant x for Linux .*; there are one-rule"),
                    ("peers", "T", "no suite x for Linux .*; there are iommu, vfio, vfio-dsa, vfio-igb, kvm, cgroup(, kunit)?"),
                    ("series", "S", "no mailing x for Linux .*; there are fixes, core, users, tests, qemu"),
                    ("soak", "PROGRAM", "no program x for Linux .*; there are ioasid_race, ioasid_soak"),
                    ("test", "T", "no test x for Linux .*; there are rig, .*, flts, .*, ioasid_mine, mine_32, ioasid, park")):
                self.assertRegex(s.make(target, variable, "x", status=2)[0], f"(?m)^make {target}: {known}$")

    def test_programs_and_suites_of_the_tree_are_known_at_once(self):
        with Names() as s:
            self.assertHolds(s.make("test", "T", "ioasid_new", status=2)[0], "no test ioasid_new")
            s.write(os.path.join(s.src, "tools/testing/selftests/ioasid/ioasid_new.c"), "")
            s.write(os.path.join(s.src, "drivers/iommu/new_test.c"), SUITE % "new")
            for name in ("ioasid_new", "new", "n*", "new.two_*"):
                self.assertIn("test", s.make("test", "T", name)[1])

    def test_program_that_is_no_test_and_test_that_a_suite_lacks_are_unknown(self):
        with Names() as s:
            for name in ("demo", "park.three*", "one_works"):
                self.assertHolds(s.make("test", "T", name, status=2)[0], f"no test {name} ")
            # Needs hardware
            self.assertHolds(s.make("kunit", "T", "park", status=2)[0], "no suite park ")

    def test_scripts_check_names_without_make(self):
        with Scratch() as s:
            for script in ("bench", "kunit", "mutants", "peers", "test"):
                self.assertRegex(s.fails(f"rig/{script}", "no-such"), f"^make {script}: no [a-z]+ no-such ")
            self.assertRegex(s.fails("rig/series", S="no-such"), "^make series: no mailing no-such ")
            self.assertRegex(s.fails("rig/soak", PROGRAM="no-such"), "^make soak: no program no-such ")

    def test_names_of_the_repository_are_found(self):
        self.assertLessEqual({"ioasid", "ioasid_dma", "ioasid_32", "ioasid_soak", "intel_queue", "kvm_ioasid", "vmm", "slow"},
                             set(names.tests()))
