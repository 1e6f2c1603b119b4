# SPDX-License-Identifier: GPL-2.0-only
"""rig/mutants: the mutants of the repository, and some that are wrong"""
import os
import re
import shutil
import subprocess
import tempfile

from lib import BASE, BUILD, RIG, SRC, TOP, read, write
from support import Case, load

MUTANTS = "lab/mutants"
SOURCE = f"build/linux-{BASE}/src/drivers/a.c"
ONE = """\
Invariant: final
Test: uml

--- a/drivers/a.c
+++ b/drivers/a.c
@@ -2,3 +2,3 @@
 int one;
-int two;
+int too;
 int three;
"""


class MutantsTest(Case):
    """In a folder with rig/mutants and what a test writes there"""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="rig-selftest-")
        self.addCleanup(scratch.cleanup)
        self.top = scratch.name
        os.mkdir(self.path("rig"))
        for name in ("mutants", "lib.py", "names.py"):
            shutil.copy(os.path.join(RIG, name), self.path("rig"))

    def path(self, name):
        return os.path.join(self.top, name)

    def run_mutants(self, *arguments, build="build"):
        """All that it wrote"""
        return subprocess.run([self.path("rig/mutants"), *arguments], text=True, check=False, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, env={**os.environ, "BASE": BASE, "BUILD": build}).stdout

    def to_do(self, **kwargs):
        return self.run_mutants("--table", **kwargs).splitlines()[1:]

    def mutant(self, text=ONE, name="one"):
        path = self.path(f"{MUTANTS}/{name}.diff")
        write(path, text)
        return path

    def test_each_mutant_was_tried_and_none_went_unnoticed(self):
        if not os.path.isdir(SRC):
            self.skipTest("no kernel tree")
        shutil.copytree(os.path.join(TOP, MUTANTS), self.path(MUTANTS))
        table = self.path(MUTANTS + "/mutants.txt")
        text = read(table)
        for changed, more in (
                (text, []),
                (re.sub("(no-reuse +number-free-at-park) .{8}", r"\1 00000000", text), ["number-free-at-park: not tried"]),
                (re.sub("(number-free-at-park .{8}) .*", r"\1 NOT NOTICED", text), ["number-free-at-park: not noticed"])):
            write(table, changed)
            self.assertEqual(self.to_do(build=BUILD), more)

    def test_mutant_that_does_not_apply_is_reported_and_not_tried(self):
        self.mutant()
        self.assertEqual(self.to_do()[0], "one: there is no drivers/a.c")
        write(self.path(SOURCE), "int one;\nint 2;\nint three;\n")
        for wrong in self.to_do()[0], self.run_mutants("one"):
            self.assertHolds(wrong, "one: ", "drivers/a.c: patch does not apply")
        self.assertEqual(read(self.path(SOURCE)), "int one;\nint 2;\nint three;\n")

    def test_mutant_may_move_but_not_fit_twice(self):
        self.mutant()
        write(self.path(SOURCE), "int zero;\n" * 9 + "int one;\nint two;\nint three;\n")
        self.assertEqual(self.to_do(), ["one: not tried"])
        write(self.path(SOURCE), "int one;\nint two;\nint three;\n" * 2)
        self.assertHolds(self.to_do()[0], "one: a hunk fits in 2 places of drivers/a.c")

    def test_mutant_of_another_version_is_left_out(self):
        other = "7.3" if BASE == "6.12" else "6.12"
        self.mutant(ONE.replace("Test: uml\n", f"Test: uml\nBase: {other}\n"), f"one.{other}")
        self.assertEqual(self.to_do(), [])
        self.assertHolds(self.run_mutants("--table"), "0 to be done of 0 mutants")

    def test_mutant_without_a_test_is_an_error(self):
        for wrong in ONE.replace("Test: uml\n", ""), ONE.replace("Test:", "Tests:"), ONE.replace("Test:", "Extra: 1\nTest:"):
            path = self.mutant(wrong)
            self.assertHolds(self.run_mutants("--table"), f"{path}: the header is not as rig/mutants describes it")

    def test_digest_of_a_mutant_changes_with_what_it_does_and_not_with_its_place(self):
        mutants = load("mutants")

        def digest(old="", new=""):
            return mutants.Mutant(self.mutant(ONE.replace(old, new) if old else ONE)).digest()

        for moved in (("-2,3 +2,3", "-7,3 +7,3"), ("int one", "int eins"), ("drivers/a.c", "drivers/b.c")):
            self.assertEqual(digest(*moved), digest())
        for changed in (("int too", "int to"), ("int two", "int to"), ("uml", "ioasid")):
            self.assertNotEqual(digest(*changed), digest())
