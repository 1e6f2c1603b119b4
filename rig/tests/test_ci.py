# SPDX-License-Identifier: GPL-2.0-only
""".ci/run, with a make that says what it is told to"""
import os
import shutil

from lib import TOP
from support import Case, Scratch


class Ci(Scratch):
    """.ci/run with a make that says what it is told to"""

    def __init__(self, setup, test, check="true"):
        super().__init__()
        shutil.copytree(os.path.join(TOP, ".ci"), os.path.join(self.repo, ".ci"))
        self.write("bin/make", f"""#!/bin/sh
echo "$*" >>{self.path("asked")}
case $* in
setup*) {setup} ;;
check*) {check} ;;
*rig*) echo 7 passed, 0 failed, 0 skipped ;;
*7.3) {test[1]} ;;
*LONG*) echo 90 passed, 0 failed, 0 skipped ;;
*) {test[0]} ;;
esac
""")
        os.chmod(self.path("bin/make"), 0o755)

    def last(self, status=0, minutes="1"):
        text = self.run(".ci/run", status=status, CI_MINUTES=minutes,
                        PATH=self.path("bin") + ":" + os.environ["PATH"])
        return text.splitlines()[-1], text


class CiTest(Case):
    # 7 are those of the scripts, 90 those that take long, and the checks of each version are one
    def test_ci_adds_up_what_all_its_runs_say(self):
        with Ci("true", ["echo 3 passed, 0 failed, 1 skipped", "echo 2 passed, 0 failed, 4 skipped"]) as s:
            self.assertEqual(s.last()[0], "104 passed, 0 failed, 5 skipped")
        with Ci("true", ["echo 3 passed, 1 failed, 1 skipped; exit 2", "echo 2 passed, 0 failed, 0 skipped"]) as s:
            self.assertEqual(s.last(1)[0], "104 passed, 1 failed, 1 skipped")

    def test_ci_leaves_out_what_there_is_no_time_for(self):
        with Ci("true", ["sleep 1; echo 3 passed, 0 failed, 1 skipped", "echo 2 passed, 0 failed, 4 skipped"]) as s:
            last, text = s.last(minutes="0")
            self.assertEqual(last, "4 passed, 0 failed, 3 skipped")
            self.assertHolds(text, "skipped: Linux 7.3: it would take more than 0 minutes in all\n",
                             "skipped: what takes long: it would take more than 0 minutes in all\n")
            self.assertEqual(s.read("asked"), "test SOAK_OPS=20000 BASE=6.12\n"
                             "check T=series exports semantic_patches races syzkaller BASE=6.12\n")

    def test_ci_counts_a_version_that_cannot_be_had_as_a_skip(self):
        with Ci("echo setup: no such package; exit 2", ["echo 3 passed, 0 failed, 1 skipped", "exit 7"]) as s:
            last, text = s.last()
            self.assertEqual(last, "94 passed, 0 failed, 2 skipped")
            self.assertHolds(text, "skipped: Linux 7.3: setup: no such package\n")

    def test_ci_counts_checks_that_find_something_as_a_failure(self):
        with Ci("true", ["echo 3 passed, 0 failed, 0 skipped", "echo 2 passed, 0 failed, 0 skipped"], "exit 1") as s:
            self.assertEqual(s.last(1)[0], "102 passed, 2 failed, 0 skipped")

    def test_ci_counts_a_run_without_a_count_as_a_failure(self):
        with Ci("true", ["exit 2", "echo 2 passed, 0 failed, 0 skipped"]) as s:
            self.assertEqual(s.last(1)[0], "101 passed, 1 failed, 0 skipped")
        with Ci("true", ["echo 3 passed, 0 failed, 0 skipped; exit 2", "echo no count"]) as s:
            self.assertEqual(s.last(1)[0], "102 passed, 2 failed, 0 skipped")
