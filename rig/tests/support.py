# SPDX-License-Identifier: GPL-2.0-only
"""What several of these tests need: checks, and a repository with a kernel of a few files"""
import os
import shutil
import subprocess
import tempfile
import unittest

from lib import BASE, RIG
from names import load      # pylint: disable=unused-import

FIRST = f"repo/patches/features/{BASE}/0001-first.patch"
SECOND = f"repo/patches/features/{BASE}/0002-second.patch"


def holds(text, *parts):
    for part in parts:
        if part not in text:
            raise AssertionError(f"no {part!r} in\n{text}")


class Case(unittest.TestCase):
    """With differences in full"""

    maxDiff = None

    @staticmethod
    def assertHolds(text, *parts):      # pylint: disable=invalid-name
        holds(text, *parts)


def outcomes(found):
    return [(r.outcome, r.name, r.why) for r in found]


class Scratch:
    """A repository with a kernel of a few files, in a folder of its own"""

    def __init__(self):
        self.top = tempfile.mkdtemp(prefix="rig-selftest-")
        self.kernel = os.path.join(self.top, "kernel")
        self.repo = os.path.join(self.top, "repo")
        self.src = os.path.join(self.repo, "build", f"linux-{BASE}", "src")
        shutil.copytree(RIG, os.path.join(self.repo, "rig"))
        version, patchlevel = BASE.split(".")
        lines = "".join(f"line {n}\n" for n in range(1, 41))
        self.write("kernel/Makefile", f"VERSION = {version}\nPATCHLEVEL = {patchlevel}\n")
        self.write("kernel/MAINTAINERS", "Maintainers List\n----------------\n\n.. note:: text\n\n"
                   "ALPHA\nF:\ta\n\nKILO\nF:\tk\n\nTHE REST\nF:\t*\n")
        self.write("kernel/.gitignore", "*\n")
        self.write("kernel/drivers/iommu/iommu.c", lines)
        self.write("kernel/drivers/iommu/Kconfig", lines)
        self.write("repo/MAINTAINERS", "IOASID\nF:\tdrivers/iommu/ioasid.c\n")
        self.write("repo/drivers/iommu/ioasid.c", "int new;\n")
        self.write(f"repo/patches/features/{BASE}/0001-first.patch", "First\n\nWhy.\n---\n+++ b/drivers/iommu/iommu.c\n")
        self.write("tmp", lines.replace("line 7\n", "line 7\nours\n"))
        self.patch = self.read(f"repo/patches/features/{BASE}/0001-first.patch")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        shutil.rmtree(self.top)

    def path(self, name):
        return os.path.join(self.top, name)

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.write(text)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as f:
            return f.read()

    def edit(self, old, new, name="drivers/iommu/iommu.c"):
        name = os.path.relpath(os.path.join(self.src, name), self.top)
        self.write(name, self.read(name).replace(old, new, 1))

    def run(self, *command, status=0, **environment):
        """Runs a script of the repository, returns all it wrote"""
        done = subprocess.run(command, cwd=self.repo, text=True, check=False, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, "BUILD": "build", "BASE": BASE,
                                   "KERNEL_SRC": self.kernel, **environment})
        if done.returncode != status:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def fails(self, *command, **environment):
        """The one line that a script fails with"""
        lines = self.run(*command, status=1, **environment).splitlines()
        lines = [line for line in lines if not line.startswith("-- ")]
        if len(lines) != 1:
            raise AssertionError(f"{command} wrote more or less than one line:\n{lines}")
        return lines[0]

    def tree(self):
        return self.run("rig/unpack") + self.run("rig/tree", "merge")

    def patched(self):
        """A tree with one patched file, refreshed"""
        self.tree()
        self.edit("line 7\n", "line 7\nours\n")
        self.run("rig/tree", "refresh")

    def files(self):
        """All files of the repository that are not built"""
        found = {}
        for folder, folders, names in os.walk(self.repo):
            if folder == self.repo:
                folders.remove("build")
            for name in names:
                with open(os.path.join(folder, name), "rb") as f:
                    found[os.path.relpath(os.path.join(folder, name), self.repo)] = f.read()
        return found

    def work_tree(self):
        """What is in the kernel tree, with time stamps"""
        found = {}
        for folder, folders, names in os.walk(self.src):
            if folder == self.src:
                folders.remove(".git")
            for name in names:
                path = os.path.join(folder, name)
                found[path] = (os.lstat(path).st_mtime_ns, os.lstat(path).st_ino)
        return found


class Stacked(Scratch):
    """Two patches edit one file, and a third one has a message only"""

    def __init__(self):
        super().__init__()
        self.write(FIRST, "First\n\nWhy.\n---\n--- a/drivers/iommu/iommu.c\n+++ b/drivers/iommu/iommu.c\n"
                   "@@ -5,6 +5,7 @@ line 4\n line 5\n line 6\n line 7\n+ours\n line 8\n line 9\n line 10\n")
        self.write(SECOND, "Second\n\nWhy.\n---\n--- a/drivers/iommu/iommu.c\n+++ b/drivers/iommu/iommu.c\n"
                   "@@ -19,6 +19,7 @@ line 17\n line 18\n line 19\n line 20\n+second\n line 21\n line 22\n"
                   " line 23\n")
        self.write("repo/patches/features/0003-third.patch", "Third\n\nWhy.\n---\n")
        self.prepare()
        self.tree()

    def prepare(self):
        """For those who have more"""
