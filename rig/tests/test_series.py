# SPDX-License-Identifier: GPL-2.0-only
"""rig/series and rig/bisect, on a series of a few patches"""
import os
import subprocess

from lib import BASE
from support import SECOND, Case, Scratch, Stacked, holds

IDENTITY = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_AUTHOR_DATE": "2026-01-01T00:00:00+00:00"}


class Series(Stacked):
    """A complete one: a message from each of both places, new files, an addition to one"""

    def prepare(self):
        self.write(SECOND, self.read(SECOND).replace("Second\n\nWhy.\n", ""))
        self.write("repo/patches/features/0001-first.patch", "First, but another one here\n---\n")
        self.write("repo/patches/features/0002-second.patch", "Second, for all\n\nWhy.\n---\n"
                   "+++ b/drivers/iommu/ioasid.c\n+++ b/drivers/iommu/run.sh\n+++ b/MAINTAINERS\n")
        self.write("repo/patches/features/0003-third.patch", "Third\n\nWhy.\n---\n--- a/drivers/iommu/ioasid.c\n"
                   "+++ b/drivers/iommu/ioasid.c\n@@ -1,1 +1,2 @@\n int new;\n+int newer;\n")
        self.write("repo/patches/features/0004-other.patch", "For another base\n---\n")
        for name in ("fixes", "core"):
            self.write(f"repo/patches/{name}.txt", f"Subject of {name}\n\nText, for @BASE@.\n")
        self.write("repo/drivers/iommu/ioasid.c", "int new;\nint newer;\n")
        self.write("repo/drivers/iommu/run.sh", "#!/bin/sh\n")
        os.chmod(self.path("repo/drivers/iommu/run.sh"), 0o755)

    def series(self, mailing="fixes", **environment):
        output = self.run("rig/series", **{**IDENTITY, **environment})
        folder = f"repo/build/linux-{BASE}/series/{mailing}"
        return output, {name: self.read(os.path.join(folder, name))
                        for name in sorted(os.listdir(self.path(folder)))}

    def does_not(self, *parts):
        holds(self.fails("rig/tree", "commit", **IDENTITY, GIT_COMMITTER_NAME="A", GIT_COMMITTER_EMAIL="a@b"),
              *parts)


QEMU = "repo/qemu/patches/0001-device.patch"


class Emulator(Scratch):
    """A release of QEMU, a patch with a new file, one for the VMM that adds to a file which it makes"""

    def __init__(self):
        super().__init__()
        self.write("qemu-10.0.1/hw/i386/Kconfig", "config VTD\n")
        self.write("qemu-10.0.1/hw/Kconfig", "config HW\n")
        os.makedirs(self.path("repo/build/packages/qemu"))
        subprocess.run(["tar", "-C", self.top, "-cJf", self.path("repo/build/packages/qemu/qemu_10.0.1+ds.orig.tar.xz"),
                        "qemu-10.0.1"], check=True)
        self.write("repo/qemu/cover.txt", "Subject of QEMU\n\nText, for @VERSION@.\n")
        self.write("repo/qemu/hw/i386/device.c", "int device;\n")
        self.write("repo/samples/vfio-mdev/device.h", "int registers;\n")
        self.write(QEMU, "Subject: [PATCH] hw/i386: add a device\n\nWhy.\n---\n+++ b/hw/i386/device.c\n"
                   "+++ b/hw/i386/device.h\n\ndiff --git a/hw/i386/Kconfig b/hw/i386/Kconfig\n--- a/hw/i386/Kconfig\n"
                   "+++ b/hw/i386/Kconfig\n@@ -1 +1,2 @@\n config VTD\n+config DEVICE\n")
        self.write("repo/qemu/vmm/0001-object.patch", "Subject: [PATCH] backends: add an object\n---\n"
                   "--- /dev/null\n+++ b/backends/object.c\n@@ -0,0 +1 @@\n+int object;\n")
        self.write("repo/qemu/vmm/0002-more.patch", "Subject: [PATCH] backends: add more\n---\n"
                   "--- a/backends/object.c\n+++ b/backends/object.c\n@@ -1 +1,2 @@\n int object;\n+int more;\n")

    def series(self, **environment):
        output = self.run("rig/series", **{**IDENTITY, "S": "qemu", **environment})
        return output, {name: self.read("repo/build/qemu/series/" + name)
                        for name in sorted(os.listdir(self.path("repo/build/qemu/series")))}


LAB = f"repo/lab/patches/{BASE}/0901-lab.patch"


class Lab(Series):
    """The same with a lab: a new file, and an edit of a file that the payload edits, too"""

    def prepare(self):
        super().prepare()
        self.write("repo/lab/README.md", "Text\n")
        self.write("repo/lab/linux/drivers/iommu/bench.c", "int bench;\n")
        self.write(LAB, "Lab\n---\n--- a/drivers/iommu/iommu.c\n+++ b/drivers/iommu/iommu.c\n"
                   "@@ -19,7 +19,7 @@\n line 18\n line 19\n line 20\n-second\n+never mailed\n"
                   " line 21\n line 22\n line 23\n")


class Steps(Series):
    """A kernel whose build says what it has, and fails where there is a BROKEN"""

    def prepare(self):
        super().prepare()
        self.write("kernel/Makefile", self.read("kernel/Makefile") + f"""\
tinyconfig: ; touch $(O)/.config
olddefconfig modules: ;
vmlinux:
	echo "$$(grep -hE 'ours|second|new' drivers/iommu/*.c | tr '\\n' ' ')$$(grep -h IOASID= $(O)/.config | tail -n 1)" >>{self.path("built")}
	! grep -r BROKEN drivers
""")
        self.write("repo/rig/config/bisect-y.config", "CONFIG_IOASID=y\n")
        self.write("repo/rig/config/bisect-n.config", "CONFIG_IOASID=n\n")
        for name in ("common", "run"):
            self.write(f"repo/rig/config/{name}.config", "")

    def built(self):
        """What was built since the last call; the two variants of a step are built at once"""
        self.run("rig/series", **IDENTITY)
        self.write("built", "")
        output = self.run("rig/bisect")
        lines = self.read("built").splitlines()
        return output, [line for n in range(0, len(lines), 2) for line in sorted(lines[n:n + 2])]


class SeriesTest(Case):
    def test_series_is_a_commit_for_each_patch(self):
        with Series() as s:
            output, patches = s.series()
            self.assertHolds(output, "3 patches and a cover letter")
            self.assertEqual(list(patches), ["0000-cover-letter.patch", "0001-First.patch", "0002-Second-for-all.patch",
                                             "0003-Third.patch"])
            cover, first, second, third = patches.values()
            self.assertHolds(cover, "Subject: [PATCH 0/3] Subject of fixes\n", f"Text, for {BASE}.\n", "A (3):\n  First\n",
                             "4 files changed")
            self.assertHolds(first, "From: A <a@b>\n", "Subject: [PATCH 1/3] First\n\nWhy.\n---\n", "+ours\n")
            self.assertEqual("second" in first, False)
            self.assertHolds(second, "+second\n", "new file mode 100755", "+IOASID\n", "+int new;\n")
            self.assertEqual("int newer;" in second, False)
            self.assertHolds(third, " int new;\n+int newer;\n")
            # The commits do not disturb the work in the tree
            self.assertEqual(s.run("rig/tree", "refresh") + s.tree(), "")
            self.assertEqual(s.series()[1], patches)

    def test_series_has_a_version_and_a_signature_if_asked_for(self):
        with Series() as s:
            patches = s.series(V="2", SIGNOFF="1")[1]
            self.assertHolds(patches["v2-0003-Third.patch"], "[PATCH v2 3/3] Third", "\nSigned-off-by: A <a@b>\n")

    def test_mailings_are_one_after_the_other(self):
        with Series() as s:
            s.series()
            os.rename(s.path("repo/patches/features/0003-third.patch"), s.path("repo/patches/features/0010-third.patch"))
            output, fixes = s.series()
            self.assertHolds(output, "fixes: 2 patches and a cover letter", "core: 1 patches and a cover letter",
                             "compare with the merged tree")
            self.assertEqual(list(fixes), ["0000-cover-letter.patch", "0001-First.patch", "0002-Second-for-all.patch"])
            core = s.series("core", S="core", V="2")[1]
            self.assertHolds(core["v2-0001-Third.patch"], "[PATCH v2 1/1] Third", " int new;\n+int newer;\n")
            self.assertHolds(core["v2-0000-cover-letter.patch"], "Subject of core\n", "1 file changed")
            # The other one is as it was
            self.assertEqual(s.series(S="core")[1], fixes)
            self.assertHolds(s.fails("rig/series", **IDENTITY, S="users"), "the mailing users has no patches", "fixes core")

    def test_mailing_is_as_long_as_the_list_takes(self):
        with Series() as s:
            for number in range(20, 36):
                name = f"drivers/iommu/more{number}.c"
                s.write("repo/" + name, "int more;\n")
                s.write(f"repo/patches/features/00{number}-more.patch", f"More {number}\n---\n+++ b/{name}\n")
            s.write("repo/patches/users.txt", "Subject\n\nText\n")
            s.tree()
            self.assertHolds(s.fails("rig/series", **IDENTITY), "16 patches in the mailing users", "15 at once")
            # Not even the mailings that are short enough
            self.assertEqual(os.path.exists(s.path(f"repo/build/linux-{BASE}/series")), False)

    def test_mailing_for_qemu(self):
        with Emulator() as s:
            output, patches = s.series(V="2", SIGNOFF="1")
            self.assertHolds(output, "qemu: 3 patches and a cover letter: ")
            self.assertEqual(list(patches), ["v2-0000-cover-letter.patch", "v2-0001-hw-i386-add-a-device.patch",
                                             "v2-0002-backends-add-an-object.patch", "v2-0003-backends-add-more.patch"])
            cover, device, _, more = patches.values()
            self.assertHolds(cover, "Subject: [PATCH v2 0/3] Subject of QEMU\n", "Text, for 10.0.1.\n", "A (3):\n")
            self.assertHolds(device, "From: A <a@b>\n", "Why.\n\nSigned-off-by: A <a@b>\n---\n", "+config DEVICE\n",
                             "+int device;\n", "b/hw/i386/device.h\n", "+int registers;\n")
            self.assertHolds(more, " int object;\n+int more;\n")
            self.assertEqual(os.path.exists(s.path("repo/build/qemu/series.am")), False)
            self.assertEqual(list(s.series()[1])[0], "0000-cover-letter.patch")

    def test_mailing_for_qemu_is_complete_and_applies(self):
        with Emulator() as s:
            s.write("repo/qemu/hw/i386/more.c", "int more;\n")
            self.assertHolds(s.run("rig/series", status=1, **IDENTITY, S="qemu"), "apply the patches with git am failed")
            self.assertHolds(s.read("repo/build/log/series-qemu-am.log"), "hw/i386/more.c: No such file")
            os.remove(s.path("repo/qemu/hw/i386/more.c"))
            s.write(QEMU, s.read(QEMU).replace(" config VTD", " config VT"))
            self.assertHolds(s.run("rig/series", status=1, **IDENTITY, S="qemu"), "hw/i386/Kconfig: patch does not apply")

    def test_series_of_nobody_says_so(self):
        with Series() as s:
            nobody = {"HOME": s.top, "XDG_CONFIG_HOME": s.top, "GIT_AUTHOR_NAME": "", "GIT_AUTHOR_EMAIL": "",
                      "EMAIL": "", "GIT_CONFIG_SYSTEM": "/dev/null"}
            output, patches = s.series(**nobody)
            self.assertHolds(output, "they are from nobody", "user.name")
            self.assertHolds(patches["0001-First.patch"], "From: Nobody Yet <nobody@localhost>")
            self.assertHolds(s.fails("rig/series", **nobody, SIGNOFF="1"), "SIGNOFF=1", "user.name")

    def test_series_without_edits_that_are_in_the_tree_is_refused(self):
        with Series() as s:
            s.edit("line 20\n", "")
            self.assertHolds(s.fails("rig/series", **IDENTITY), "make refresh", "drivers/iommu/iommu.c")

    def test_new_file_is_in_one_patch_of_the_series(self):
        with Series() as s:
            s.write("repo/drivers/iommu/more.c", "int more;\n")
            s.does_not("no patch of the series brings drivers/iommu/more.c", "+++ b/FILE")
            for name in ("0001-first", "0003-third"):
                old = s.read(f"repo/patches/features/{name}.patch") if name == "0003-third" else "---\n"
                s.write(f"repo/patches/features/{name}.patch", old + "+++ b/drivers/iommu/more.c\n")
            s.does_not("drivers/iommu/more.c is brought by patches/features/0001-first.patch and by "
                       "patches/features/0003-third.patch")
            os.remove(s.path("repo/drivers/iommu/more.c"))
            s.does_not("0001-first.patch claims drivers/iommu/more.c, which is no new file")

    def test_new_file_comes_with_the_patch_that_is_named(self):
        with Series() as s:
            s.write(os.path.join(s.src, "drivers/iommu/more.c"), "int more;\n")
            self.assertHolds(s.run("rig/tree", "refresh"), "no patch of the series brings drivers/iommu/more.c yet")
            s.write(os.path.join(s.src, "drivers/iommu/most.c"), "int most;\n")
            s.run("rig/tree", "refresh", "0003")
            self.assertHolds(s.read("repo/patches/features/0003-third.patch"), "+int newer;\n+++ b/drivers/iommu/most.c\n")

    def test_addition_to_a_new_file_that_does_not_come_off_is_named(self):
        with Series() as s:
            s.write("repo/drivers/iommu/ioasid.c", "int old;\n")
            s.does_not("0003-third.patch does not come off drivers/iommu/ioasid.c", ".rej")
            s.write("repo/patches/features/0001-first.patch", s.read("repo/patches/features/0003-third.patch"))
            s.does_not("0001-first.patch adds to drivers/iommu/ioasid.c, but no patch before it brings that")

    def test_patch_of_the_series_has_a_message_and_changes_something(self):
        with Series() as s:
            s.write("repo/patches/features/0003-third.patch", "---\n" + s.read("repo/patches/features/0003-third.patch")[13:])
            s.does_not("0003-third.patch has no message")
        with Series() as s:
            s.write(f"repo/patches/features/{BASE}/0004-other.patch", "---\n+++ b/drivers/iommu/iommu.c\n")
            s.does_not("0004-other.patch changes nothing")

    def test_patch_has_one_class(self):
        with Series() as s:
            os.makedirs(s.path("repo/patches/fixes"))
            os.rename(s.path("repo/patches/features/0002-second.patch"), s.path("repo/patches/fixes/0002-second.patch"))
            s.does_not("0002-second.patch is in patches/fixes and in patches/features")
            os.makedirs(s.path(f"repo/patches/fixes/{BASE}"))
            os.rename(s.path(SECOND), s.path(f"repo/patches/fixes/{BASE}/0002-second.patch"))
            # The order is that of the numbers, whatever the class
            self.assertEqual(list(s.series()[1]), ["0000-cover-letter.patch", "0001-First.patch",
                                                   "0002-Second-for-all.patch", "0003-Third.patch"])
            os.rename(s.path("repo/patches/features/0003-third.patch"), s.path("repo/patches/0003-third.patch"))
            self.assertHolds(s.fails("rig/tree", "merge"), "patches/0003-third.patch is in no class",
                             "patches/fixes", "patches/tests")

    def test_lab_lies_over_the_payload(self):
        with Lab() as s:
            self.assertEqual(os.path.realpath(os.path.join(s.src, "drivers/iommu/bench.c")), s.path("repo/lab/linux/drivers/iommu/bench.c"))
            self.assertHolds(s.read(os.path.join(s.src, "drivers/iommu/iommu.c")), "ours\n", "never mailed\n")
            self.assertEqual(os.path.exists(os.path.join(s.src, "README.md")), False)
            before = s.files()
            self.assertEqual(s.run("rig/tree", "refresh") + s.tree(), "")
            self.assertEqual(s.files(), before)
            # A file that moves from the payload to the lab
            os.rename(s.path("repo/drivers/iommu/run.sh"), s.path("repo/lab/linux/drivers/iommu/run.sh"))
            s.tree()
            self.assertEqual(os.path.realpath(os.path.join(s.src, "drivers/iommu/run.sh")), s.path("repo/lab/linux/drivers/iommu/run.sh"))
            s.write("repo/lab/linux/drivers/iommu/ioasid.c", "int mine;\n")
            self.assertHolds(s.fails("rig/tree", "merge"), "drivers/iommu/ioasid.c is a file of the payload")

    def test_lab_is_not_in_the_series(self):
        with Lab() as s:
            output, patches = s.series()
            self.assertHolds(output, "3 patches and a cover letter", "compare with the merged tree")
            text = "".join(patches.values())
            self.assertEqual([word for word in ("bench", "never mailed") if word in text], [])
            self.assertHolds(text, "+second\n")

    def test_edit_goes_into_the_lab_when_it_is_named(self):
        with Lab() as s:
            s.edit("line 30\n", "")
            s.edit("line 3\n", "", "drivers/iommu/Kconfig")
            bench = os.path.join(s.src, "drivers/iommu/bench.c")
            os.remove(bench)
            s.write(bench, "int bench2;\n")
            s.write(os.path.join(s.src, "drivers/iommu/more.c"), "int more;\n")
            before = s.read(SECOND)
            output = s.run("rig/tree", "refresh", "0901")
            self.assertHolds(s.read(LAB), "Lab\n---\n", "-line 30\n", "-line 3\n")
            self.assertEqual(s.read(SECOND), before)
            self.assertEqual(s.read("repo/lab/linux/drivers/iommu/bench.c"), "int bench2;\n")
            self.assertEqual(s.read("repo/lab/linux/drivers/iommu/more.c"), "int more;\n")
            self.assertEqual("no patch of the series brings" in output, False)
            # An edit below it moves it
            s.edit("line 2\n", "line 2\nearly\n")
            s.run("rig/tree", "refresh", "0001-first")
            self.assertHolds(s.read(LAB), "@@ -20,7 +20,7 @@")
            s.series()

    def test_each_step_of_the_series_is_built_once(self):
        with Steps() as s:
            output, built = s.built()
            self.assertEqual(built, [step + option for step in ("", "ours ", "int new; ours second ", "int new; int newer; ours second ")
                                     for option in ("CONFIG_IOASID=n", "CONFIG_IOASID=y")])
            self.assertHolds(output, "2/3 Second, for all, CONFIG_IOASID=n:", "each of 3 steps builds")
            # What a message says is no reason to build again, nor are documents
            s.write("repo/patches/features/0003-third.patch", s.read("repo/patches/features/0003-third.patch").replace("Why", "That"))
            s.write("repo/Documentation/ioasid.rst", "Text\n")
            s.write("repo/patches/features/0004-other.patch", "Document\n---\n+++ b/Documentation/ioasid.rst\n")
            s.tree()
            self.assertEqual(s.built()[1], [])
            s.edit("second\n", "seconds\n")
            s.run("rig/tree", "refresh", "0002")
            self.assertEqual(len(s.built()[1]), 4)

    def test_step_that_does_not_build_is_named(self):
        with Steps() as s:
            s.write("repo/patches/features/0003-third.patch", s.read("repo/patches/features/0003-third.patch").replace(
                "-1,1 +1,2", "-1,2 +1,2").replace("+int newer", "-BROKEN\n+int newer"))
            s.run("rig/series", **IDENTITY)
            output = s.run("rig/bisect", status=1)
            self.assertHolds(output, "1/3 First, CONFIG_IOASID=n: ", "2/3 Second, for all, CONFIG_IOASID=y failed, see ")
            self.assertEqual("3/3" in output, False)
