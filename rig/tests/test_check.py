# SPDX-License-Identifier: GPL-2.0-only
"""rig/check"""
import os

import repository
from lib import SRC, TOP, read
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
