# SPDX-License-Identifier: GPL-2.0-only
"""Steps that fail, options that are dropped, and what make kunit shows"""
import os

from support import Case, Scratch


class StepsTest(Case):
    def test_dropped_option_is_named(self):
        with Scratch() as s:
            s.write("fragment", "CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\nCONFIG_D=\"x y\"\n")
            s.write("later", "CONFIG_B=m\n")
            files = [s.path("fragment"), s.path("later")]
            s.write("config", "CONFIG_A=y\nCONFIG_B=m\nCONFIG_D=\"x y\"\n")
            self.assertEqual(s.run("rig/check-config", s.path("config"), *files), "")
            s.write("config", "CONFIG_B=m\nCONFIG_D=\"x y\"\n")
            self.assertHolds(s.fails("rig/check-config", s.path("config"), *files), "fragment: CONFIG_A=y is n")
            s.write("config", "CONFIG_A=y\nCONFIG_B=m\nCONFIG_C=y\nCONFIG_D=\"x y\"\n")
            self.assertHolds(s.fails("rig/check-config", s.path("config"), *files), "CONFIG_C=n is y")

    def test_full_disk_is_found_before_it_is_full(self):
        with Scratch() as s:
            s.write("bin/df", "#!/bin/sh\necho Filesystem 1024-blocks Used Available Capacity Mounted\n"
                    "echo none 1000000 900000 100000 90% /\n")
            os.chmod(s.path("bin/df"), 0o755)
            message = s.fails("rig/unpack", PATH=s.path("bin") + ":" + os.environ["PATH"])
            self.assertHolds(message, "unpacking Linux", "needs 2500 MiB free", "there are 97 MiB")

    def test_failing_step_names_its_log(self):
        with Scratch() as s:
            s.write("bin/tar", "#!/bin/sh\necho 'tar: write error: No space left on device'\nexit 2\n")
            os.chmod(s.path("bin/tar"), 0o755)
            message = s.fails("rig/unpack", PATH=s.path("bin") + ":" + os.environ["PATH"])
            self.assertHolds(message, "disk full")
            s.write("bin/tar", "#!/bin/sh\nexit 2\n")
            message = s.fails("rig/unpack", PATH=s.path("bin") + ":" + os.environ["PATH"])
            self.assertHolds(message, "failed, see", "unpack")
            self.assertEqual(os.path.exists(message.split("see ")[1]), True)
            s.tree()

    def test_killed_step_says_so(self):
        with Scratch() as s:
            s.write("bin/tar", "#!/bin/sh\nkill -TERM $PPID\n")
            os.chmod(s.path("bin/tar"), 0o755)
            self.assertHolds(s.fails("rig/unpack", PATH=s.path("bin") + ":" + os.environ["PATH"]), "was killed")
            s.tree()

    def test_kunit_shows_why_a_test_was_skipped(self):
        with Scratch() as s:
            s.write("repo/drivers/iommu/ioasid_test.c", 'struct kunit_suite s = {\n\t.name = "ioasid",\n};\n')
            s.write("repo/rig/check-config", "#!/bin/sh\n")
            s.write(os.path.join(s.src, "tools/testing/kunit/kunit.py"), """\
import sys
if sys.argv[1] == "exec":
    print("KTAP version 1\\n1..1\\n    KTAP version 1\\n    # Subtest: ioasid\\n    1..2\\n    ok 1 first")
    print("    ok 2 second # SKIP needs two CPUs\\nok 1 ioasid")
if sys.argv[1] == "parse":
    print("[SKIPPED] second")
    sys.exit(1)
""")
            # Fails if kunit.py does
            self.assertHolds(s.run("rig/kunit", "--show", status=1), "[SKIPPED] second\nskipped: ioasid second: needs two CPUs\n")
            self.assertEqual("skipped" in s.run("rig/kunit"), False)
