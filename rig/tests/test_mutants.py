# SPDX-License-Identifier: GPL-2.0-only
"""rig/mutants --table, on the mutants of the repository"""
import os
import re
import shutil
import subprocess
import tempfile

from lib import BASE, BUILD, RIG
from support import Case


def mutants_to_do(folder, change=lambda text: text):
    """What rig/mutants --table says when the results are changed"""
    rig = os.path.join(folder, "rig")
    os.makedirs(rig, exist_ok=True)
    shutil.copy(os.path.join(RIG, "mutants"), rig)
    with open(os.path.join(RIG, "mutants.txt"), encoding="utf-8") as f:
        text = change(f.read())
    with open(os.path.join(rig, "mutants.txt"), "w", encoding="utf-8") as f:
        f.write(text)
    found = subprocess.run([os.path.join(rig, "mutants"), "--table"], text=True, capture_output=True, check=False,
                           env={**os.environ, "BASE": BASE, "BUILD": BUILD})
    return found.stdout + found.stderr


class MutantsTest(Case):
    def test_each_mutant_was_tried_and_none_went_unnoticed(self):
        if not os.path.isdir(os.path.join(BUILD, "linux-" + BASE, "src")):
            self.skipTest("no kernel tree")
        with tempfile.TemporaryDirectory() as folder:
            for change, more in ((lambda text: text, []),
                                 (lambda text: re.sub("(no-reuse +number-free-at-park) .{8}", r"\1 00000000", text),
                                  ["number-free-at-park: not tried"]),
                                 (lambda text: re.sub("(number-free-at-park .{8}) .*", r"\1 NOT NOTICED", text),
                                  ["number-free-at-park: not noticed"])):
                self.assertEqual(mutants_to_do(folder, change).splitlines()[1:], more)
