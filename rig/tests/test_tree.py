# SPDX-License-Identifier: GPL-2.0-only
"""rig/unpack and rig/tree, on a kernel of a few files"""
import filecmp
import os
import shutil
import subprocess

from lib import BASE
from support import FIRST, SECOND, Case, Scratch, Stacked


class TreeTest(Case):
    def test_tree_is_pristine_plus_patches_links_and_maintainers(self):
        with Scratch() as s:
            s.patched()
            shutil.rmtree(s.src)
            s.tree()
            self.assertHolds(s.read(os.path.join(s.src, "drivers/iommu/iommu.c")), "line 7\nours\nline 8\n")
            self.assertEqual(os.path.realpath(os.path.join(s.src, "drivers/iommu/ioasid.c")),
                             s.path("repo/drivers/iommu/ioasid.c"))
            self.assertHolds(s.read(os.path.join(s.src, "MAINTAINERS")),
                             "ALPHA\nF:\ta\n\nIOASID\nF:\tdrivers/iommu/ioasid.c\n\nKILO\n")

    def test_second_merge_touches_nothing(self):
        with Scratch() as s:
            s.patched()
            before = s.work_tree()
            self.assertEqual(s.tree(), "")
            self.assertEqual(s.work_tree(), before)

    def test_refresh_after_merge_changes_nothing(self):
        with Scratch() as s:
            s.patched()
            before = s.files()
            self.assertEqual(s.run("rig/tree", "refresh"), "")
            self.assertEqual(s.files(), before)

    def test_edits_in_the_tree_come_back(self):
        with Scratch() as s:
            s.patched()
            s.edit("line 30\n", "")
            s.edit("drivers/iommu/ioasid.c", "drivers/iommu/ioasid*", "MAINTAINERS")
            s.write(os.path.join(s.src, "drivers/iommu/another.c"), "int other;\n")
            ioasid = os.path.join(s.src, "drivers/iommu/ioasid.c")
            os.remove(ioasid)
            s.write(ioasid, "int newer;\n")
            s.run("rig/tree", "refresh")
            self.assertHolds(s.read(FIRST), "First\n\nWhy.\n---\n--- a/drivers/iommu/iommu.c\n", "+ours\n", "-line 30\n")
            self.assertEqual(s.read("repo/MAINTAINERS"), "IOASID\nF:\tdrivers/iommu/ioasid*\n")
            self.assertEqual(s.read("repo/drivers/iommu/another.c"), "int other;\n")
            self.assertEqual(s.read("repo/drivers/iommu/ioasid.c"), "int newer;\n")
            for name in ("ioasid.c", "another.c"):
                self.assertEqual(os.path.islink(os.path.join(s.src, "drivers/iommu", name)), True)
            before = s.files()
            self.assertEqual(s.run("rig/tree", "refresh") + s.tree(), "")
            self.assertEqual(s.files(), before)

    def test_edit_of_a_file_without_patch_is_named(self):
        with Scratch() as s:
            s.tree()
            s.edit("line 3\n", "", "drivers/iommu/Kconfig")
            self.assertHolds(s.fails("rig/tree", "refresh"), "no patch edits drivers/iommu/Kconfig yet", "P=NAME")

    def test_edit_of_another_maintainers_section_is_refused(self):
        with Scratch() as s:
            s.tree()
            s.edit("F:\tk\n", "F:\tkilo\n", "MAINTAINERS")
            self.assertHolds(s.fails("rig/tree", "refresh"), "MAINTAINERS: only new sections")

    def test_merge_keeps_an_edit_that_is_not_refreshed(self):
        with Scratch() as s:
            s.patched()
            s.edit("line 20\n", "")
            self.assertHolds(s.tree(), "edited in the tree", "drivers/iommu/iommu.c")
            s.run("rig/tree", "refresh")
            self.assertHolds(s.read(FIRST), "-line 20\n", "+ours\n")

    def test_merge_refuses_to_lose_an_edit(self):
        with Scratch() as s:
            s.patched()
            s.edit("line 20\n", "")
            s.write(FIRST, s.read(FIRST).replace("+ours", "+theirs"))
            before = s.work_tree()
            self.assertHolds(s.fails("rig/tree", "merge"), "edited in the tree and changed in the repository",
                             "drivers/iommu/iommu.c")
            self.assertEqual(s.work_tree(), before)
            self.assertHolds(s.fails("rig/tree", "refresh"), "drivers/iommu/iommu.c was edited in the tree")
            subprocess.run(["git", "-C", s.src, "checkout", "-q", "base", "--", "drivers/iommu/iommu.c"], check=True)
            s.tree()
            self.assertHolds(s.read(os.path.join(s.src, "drivers/iommu/iommu.c")), "line 7\ntheirs\n", "line 20\n")

    def test_merge_follows_the_repository(self):
        with Scratch() as s:
            s.patched()
            s.write(FIRST, s.read(FIRST).replace("+ours", "+theirs"))
            s.write("repo/include/linux/ioasid.h", "#define A 1\n")
            os.remove(s.path("repo/drivers/iommu/ioasid.c"))
            s.tree()
            self.assertHolds(s.read(os.path.join(s.src, "drivers/iommu/iommu.c")), "line 7\ntheirs\n")
            self.assertEqual(s.read(os.path.join(s.src, "include/linux/ioasid.h")), "#define A 1\n")
            self.assertEqual(os.path.lexists(os.path.join(s.src, "drivers/iommu/ioasid.c")), False)
            os.remove(s.path(FIRST))
            s.tree()
            self.assertEqual(filecmp.cmp(os.path.join(s.src, "drivers/iommu/iommu.c"),
                                         os.path.join(s.kernel, "drivers/iommu/iommu.c"), shallow=False), True)

    def test_patch_that_does_not_apply_is_named_with_its_file(self):
        with Scratch() as s:
            s.patched()
            s.write(FIRST, s.read(FIRST).replace(" line 6\n line 7\n", " lost 6\n lost 7\n").replace(" line 8\n", " lost 8\n"))
            before = s.work_tree()
            message = s.fails("rig/tree", "merge")
            self.assertHolds(message, "0001-first.patch does not apply to drivers/iommu/iommu.c", ".rej")
            self.assertEqual(os.path.exists(message.split("see ")[1]), True)
            self.assertEqual(s.work_tree(), before)

    def test_patch_tolerates_lines_that_moved(self):
        with Scratch() as s:
            s.patched()
            text = s.read("kernel/drivers/iommu/iommu.c")
            s.write("kernel/drivers/iommu/iommu.c", "new\n" * 5 + text.replace("line 4\n", "line four\n"))
            shutil.rmtree(s.src)
            before = s.files()
            s.tree()
            self.assertHolds(s.read(os.path.join(s.src, "drivers/iommu/iommu.c")), "line 7\nours\nline 8\n")
            s.run("rig/tree", "refresh")
            self.assertEqual(s.files(), before)

    def test_edit_goes_into_the_last_patch_of_a_file(self):
        with Stacked() as s:
            first = s.read(FIRST)
            s.edit("line 30\n", "")
            self.assertEqual(s.run("rig/tree", "refresh"), f"-- patches/features/{BASE}/0002-second.patch\n")
            self.assertHolds(s.read(SECOND), "-line 30\n")
            self.assertEqual(s.read(FIRST), first)

    def test_edit_goes_into_the_patch_that_is_named(self):
        with Stacked() as s:
            s.edit("line 18\n", "line 18\nnamed\n")
            s.run("rig/tree", "refresh", "0001")
            self.assertHolds(s.read(FIRST), "+ours\n", "+named\n")
            # Moved over it: the place and the context
            self.assertHolds(s.read(SECOND), "@@ -20,6 +20,7 @@", " named\n line 19\n line 20\n+second\n")
            before = s.files()
            self.assertEqual(s.run("rig/tree", "refresh") + s.tree(), "")
            self.assertEqual(s.files(), before)
            shutil.rmtree(s.src)
            s.tree()
            self.assertHolds(s.read(os.path.join(s.src, "drivers/iommu/iommu.c")), "ours\n", "named\n", "second\n")

    def test_edit_goes_into_a_patch_that_edits_nothing_yet(self):
        with Stacked() as s:
            s.edit("line 3\n", "", "drivers/iommu/Kconfig")
            s.edit("line 35\n", "line 35\nthird\n")
            s.run("rig/tree", "refresh", "0003-third")
            third = s.read(f"repo/patches/features/{BASE}/0003-third.patch")
            self.assertEqual(third.startswith("---\n--- a/drivers/iommu/Kconfig\n"), True)
            self.assertHolds(third, "-line 3\n", "+third\n")
            self.assertEqual("third" in s.read(SECOND), False)
            # Between two that are there
            s.write("repo/patches/features/0001-then.patch", "Then\n\nWhy.\n---\n")
            s.edit("line 18\n", "")
            s.run("rig/tree", "refresh", "0001-then.patch")
            self.assertHolds(s.read(f"repo/patches/features/{BASE}/0001-then.patch"), "-line 18\n", " line 20\n line 21\n")
            self.assertHolds(s.read(SECOND), " line 17\n line 19\n line 20\n+second\n")
            self.assertEqual(s.tree(), "")

    def test_edit_on_lines_of_a_later_patch_is_refused_with_its_name(self):
        with Stacked() as s:
            s.edit("second\n", "seconds\n")
            before, work_tree = s.files(), s.work_tree()
            self.assertHolds(s.fails("rig/tree", "refresh", "0001-first"), "drivers/iommu/iommu.c", "0002-second.patch",
                             "cannot go into", "P=NAME")
            self.assertEqual((s.files(), s.work_tree()), (before, work_tree))
            s.run("rig/tree", "refresh")
            self.assertHolds(s.read(SECOND), "+seconds\n")

    def test_patch_that_is_not_there_or_not_the_only_one_is_refused(self):
        with Stacked() as s:
            self.assertHolds(s.fails("rig/tree", "refresh", "0004"), "P=0004 is no patch")
            self.assertHolds(s.fails("rig/tree", "refresh", "000"), "0001-first.patch and 0002-second.patch and 0003-third.patch")

    def test_edit_that_takes_a_patch_back_keeps_its_claim(self):
        with Stacked() as s:
            s.edit("second\n", "")
            s.run("rig/tree", "refresh")
            self.assertEqual(s.read(SECOND), "Second\n\nWhy.\n---\n+++ b/drivers/iommu/iommu.c\n")

    def test_new_file_over_a_kernel_file_is_refused(self):
        with Scratch() as s:
            s.write("repo/drivers/iommu/iommu.c", "int mine;\n")
            s.run("rig/unpack")
            self.assertHolds(s.fails("rig/tree", "merge"), "drivers/iommu/iommu.c is a file of Linux")

    def test_killed_unpack_recovers(self):
        with Scratch() as s:
            os.makedirs(s.src + ".new/drivers")
            s.write(os.path.relpath(s.src, s.top) + ".new/half", "written")
            s.tree()
            self.assertEqual(os.path.exists(os.path.join(s.src, "half")), False)
            self.assertHolds(s.read(os.path.join(s.src, "drivers/iommu/iommu.c")), "line 40\n")

    def test_killed_merge_recovers(self):
        with Scratch() as s:
            s.patched()
            # The state names both contents, the file has the old one, the link is missing
            state = os.path.join(s.src, ".git/rig-applied.json")
            s.write(FIRST, s.read(FIRST).replace("+ours", "+theirs"))
            before = s.read(state)
            s.run("rig/tree", "merge")
            s.write(state, before)
            os.remove(os.path.join(s.src, "drivers/iommu/ioasid.c"))
            self.assertEqual(s.run("rig/tree", "merge"), "")
            self.assertHolds(s.read(os.path.join(s.src, "drivers/iommu/iommu.c")), "line 7\ntheirs\n")
            self.assertEqual(os.path.islink(os.path.join(s.src, "drivers/iommu/ioasid.c")), True)

    def test_kernel_source_that_is_none_is_refused(self):
        with Scratch() as s:
            self.assertHolds(s.fails("rig/unpack", KERNEL_SRC=s.repo), "is not a kernel source tree")
            s.write("kernel/.config", "")
            self.assertHolds(s.fails("rig/unpack"), "pristine")
            os.remove(s.path("kernel/.config"))
            self.assertHolds(s.fails("rig/unpack", BASE="6.11"), f"is Linux {BASE}", "BASE=6.11")

    def test_base_without_patches_is_refused(self):
        with Scratch() as s:
            s.run("rig/unpack")
            shutil.rmtree(s.path(f"repo/patches/features/{BASE}"))
            self.assertHolds(s.fails("rig/tree", "merge"), "no patches for Linux", f"patches/CLASS/{BASE}")

    def test_tree_is_made_again_when_the_source_changes(self):
        with Scratch() as s:
            s.patched()
            other = s.path("other")
            shutil.copytree(s.kernel, other)
            with open(os.path.join(other, "drivers/iommu/Kconfig"), "a", encoding="utf-8") as f:
                f.write("line 41\n")
            s.edit("line 20\n", "")
            self.assertHolds(s.fails("rig/unpack", KERNEL_SRC=other), "would be lost", "drivers/iommu/iommu.c")
            s.run("rig/tree", "refresh")
            s.run("rig/unpack", KERNEL_SRC=other)
            s.run("rig/tree", "merge")
            self.assertHolds(s.read(os.path.join(s.src, "drivers/iommu/Kconfig")), "line 41\n")
            self.assertHolds(s.read(os.path.join(s.src, "drivers/iommu/iommu.c")), "line 7\nours\n")
