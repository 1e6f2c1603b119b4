# SPDX-License-Identifier: GPL-2.0-only
"""rig/check"""
import contextlib
import io
import os
import shutil
import tempfile

import repository
from lib import SRC, TOP, read, write
from support import Case, load


class CheckTest(Case):
    def test_touched_lines_are_those_of_the_hunks(self):
        self.assertEqual(load("check").touched_lines("--- a/x.c\n+++ b/x.c\n@@ -1 +2,3 @@ f\n-a\n+b\n+c\n+d\n"
                                                    "@@ -9,2 +11 @@\n-a\n-b\n+c\n"), {"x.c": {2, 3, 4, 11}})

    def test_combination_must_define_and_export_what_it_needs(self):
        check = load("check")
        check.symbols = lambda unit: unit
        known = set()
        # The kernel and a module: what they define, need and export
        everything = [({"get", "put"}, {"printk"}, {"get"}), ({"init"}, {"get"}, set())]
        self.assertEqual(check.unresolved(everything, known), [])
        self.assertEqual(check.unresolved([everything[0], (set(), {"get", "put", "printk"}, set())], known), ["put"])
        self.assertEqual(check.unresolved([(set(), {"get", "printk"}, set())], known), ["get"])

    def combination(self, options, *missing):
        """
        What Combination.build() returns with these options. The compiler writes all objects, lists and
        archives, whatever the options, but for the missing ones.
        """
        check = load("check")
        check.LINUX = tempfile.mkdtemp(prefix="rig-selftest-")
        self.addCleanup(shutil.rmtree, check.LINUX)
        # The last two are in a folder that is built entirely
        objects = {"kernel/ours.c": "kernel/ours.o", "virt/kvm/ioasid.c": "virt/kvm/ioasid.o",
                   "drivers/iommu/a.c": "drivers/iommu/a.o", "drivers/vfio/b.c": "drivers/vfio/b.o"}
        combination = check.Combination(None, objects, "")
        combination.options = dict(word.split("=") for word in options.split())

        def make(*_):
            files = {"kernel/ours.o": "", "virt/kvm/ioasid.o": "", "drivers/iommu/built-in.a": "",
                     "drivers/iommu/modules.order": "drivers/iommu/m.o\n", "drivers/iommu/m.o": "",
                     "drivers/vfio/built-in.a": "", "drivers/vfio/modules.order": "", "samples/vfio-mdev/built-in.a": "",
                     "samples/vfio-mdev/modules.order": ""}
            for name in set(files) - set(missing):
                write(os.path.join(combination.out, name), files[name])
            return 0, ""

        combination.make = make
        _, units, problem = combination.build()
        return [[os.path.relpath(path, combination.out) for path in unit] for unit in units], problem

    def test_everything_that_a_combination_builds_is_looked_at(self):
        everything = "IOMMU_SUPPORT=y VFIO=y SAMPLES=y KVM=y KVM_IOASID=y"
        self.assertEqual(self.combination(everything), ([
            ["kernel/ours.o", "drivers/iommu/built-in.a", "drivers/vfio/built-in.a", "samples/vfio-mdev/built-in.a", "virt/kvm/ioasid.o"],
            ["drivers/iommu/m.o"]], ""))
        # Entered, but without modules
        self.assertEqual(self.combination(everything, "drivers/vfio/modules.order")[1], "")
        for missing in ("kernel/ours.o", "virt/kvm/ioasid.o", "drivers/iommu/built-in.a", "drivers/vfio/built-in.a",
                        "samples/vfio-mdev/built-in.a", "drivers/iommu/m.o"):
            self.assertEqual(self.combination(everything, missing), ([], f"was not built: {missing}"))

    def test_combination_has_no_archive_of_what_it_does_not_enter(self):
        self.assertEqual(self.combination("IOMMU_SUPPORT=y", "virt/kvm/ioasid.o", "drivers/vfio/built-in.a", "drivers/vfio/modules.order",
                                          "samples/vfio-mdev/built-in.a", "samples/vfio-mdev/modules.order"),
                         ([["kernel/ours.o", "drivers/iommu/built-in.a"], ["drivers/iommu/m.o"]], ""))
        # A folder of modules has no archive, but a list
        modules = "IOMMU_SUPPORT=y VFIO=m KVM=m KVM_IOASID=y"
        self.assertEqual(self.combination(modules, "drivers/vfio/built-in.a"),
                         ([["kernel/ours.o", "drivers/iommu/built-in.a"], ["drivers/iommu/m.o"], ["virt/kvm/ioasid.o"]], ""))
        for missing in "drivers/vfio/modules.order", "virt/kvm/ioasid.o":
            self.assertEqual(self.combination(modules, missing), ([], f"was not built: {missing}"))

    def test_finding_of_a_combination_has_its_line(self):
        check = load("check")

        class Combination:
            """Builds without A, does not build with it"""

            def __init__(self, log, objects, words):
                self.words = words

            def configure(self):
                return "C is n" if self.words == "C=y" else ""

            def build(self):
                return "", [], "" if self.words == "A=n" else "was not built: a.o"

        class Tree:
            """Without a file"""

            is_ours = None

            @staticmethod
            def objects():
                return {}

        check.Combination = Combination
        check.read_numbered = lambda name: [(3, "a: A=y"), (4, "none: A=n"), (7, "c: C=y")]
        with contextlib.redirect_stdout(io.StringIO()) as output:
            found = check.options(Tree(), None)
        self.assertEqual(found, [("rig/data/options.txt", 3, "a: was not built: a.o"), ("rig/data/options.txt", 7, "c: C is n")])
        self.assertHolds(output.getvalue(), "none: builds, ")

    def test_lines_of_a_list_are_numbered_as_in_the_file(self):
        check = load("check")
        lines = read(os.path.join(check.DATA, check.OPTIONS)).splitlines()
        numbered = check.read_numbered(check.OPTIONS)
        self.assertGreater(numbered[0][0], 1)
        self.assertEqual([lines[number - 1] for number, _ in numbered], [line for _, line in numbered])

    def test_compiler_warning_in_a_macro_is_found_where_we_use_it(self):
        check = load("check")
        text = (f"{check.SRC}/include/linux/printk.h:5:2: warning: argument is null [-Wformat]\n"
                f"    5 | #define A\n"
                f"{check.SRC}/drivers/ours.c:7:3: note: in expansion of macro \u2018A\u2019\n"
                f"{check.SRC}/drivers/theirs.c:9:1: warning: theirs\n")
        self.assertEqual(check.diagnostics(text, lambda path, line: (path, line) == ("drivers/ours.c", 7)),
                         [("drivers/ours.c", 7, "argument is null [-Wformat]")])

    def test_exception_needs_a_reason_and_takes_off_what_it_names(self):
        check = load("check")
        try:
            check.Exceptions("gcc a.c unused\n")
            raise AssertionError("an exception without a reason was taken")
        except check.Failure as failure:
            self.assertHolds(str(failure), "no reason")
        found = [check.Finding("a.c", 1, "unused x"), check.Finding("b.c", 1, "unused x")]
        exceptions = check.Exceptions("gcc a.c ^unused\n\twhy\n")
        self.assertEqual(exceptions.apply("gcc", found), (found[1:], {1: 1}))
        self.assertEqual(exceptions.apply("clang", found), (found, {}))

    def test_exceptions_of_the_repository_are_well_formed(self):
        check = load("check")
        for entry in check.Exceptions(check.read(os.path.join(check.DATA, check.EXCEPTIONS))).entries:
            self.assertEqual(entry["checker"] in check.CHECKERS, True)

    def test_export_of_kvm_that_its_makefile_does_not_list_is_found(self):
        listed = "exports := grep -v -e kvm_get_kvm \\\n\t\t-e kvm_put_kvm\n$(eval $(call check_kvm_exports,EXPORT_SYMBOL))\n"
        text = "EXPORT_SYMBOL_GPL(kvm_put_kvm);\nEXPORT_SYMBOL_GPL(kvm_get_kvm);\nEXPORT_SYMBOL_GPL(kvm_new);\n"
        self.assertEqual([found[:2] for found in repository.unlisted(listed, {"virt/kvm/new.c": text})], [("virt/kvm/new.c", 3)])
        self.assertEqual(repository.unlisted("obj-y += kvm.o\n", {"virt/kvm/new.c": text}), [])

    def test_wrong_descriptions_for_syzkaller_are_found(self):
        if not os.path.isdir(SRC):
            self.skipTest(f"no kernel tree {SRC}")
        text = read(os.path.join(TOP, repository.DESCRIPTIONS))
        self.assertEqual(repository.compile_described(text)[0], "")
        for old, new in (("min\t\tint32[0:16]", "max\t\tint32[0:16]"), ("int64]", "int32]"),
                         ("ptr64[in, array[ioasid_id, 1:64]]", "int32"),
                         ("\tid\t\tioasid_id\n\tguest", "\tguest"), ("KVM_DEV_TYPE_IOASID", "KVM_DEV_TYPE_PASID")):
            self.assertIn(old, text)
            self.assertNotEqual(repository.compile_described(text.replace(old, new, 1))[0], "")
