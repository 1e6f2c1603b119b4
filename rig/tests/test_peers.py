# SPDX-License-Identifier: GPL-2.0-only
"""The table of results of the kernel's own tests"""
import results
import table
from support import Case, outcomes

PEERS = """\
# A comment
6.12 passed iommu/a 2
6.12 failed iommu/a a.huge # no huge pages
6.12 skipped kvm/x86/vmx # the CPU has no VMX
6.12 unsteady cgroup/cpu weight # measures time: 3 of 10 runs failed
6.12 left-out kvm/slow # takes an hour
6.12 failed log iommu: WARNING: at a.c:N f+N # printed by iommu/a on purpose
7.3 passed iommu/a 3
""".splitlines()


def of_peers(*changes, add=()):
    """The results of a run that is as the table says, but for the changes: pairs of a name and an outcome"""
    run = {"iommu/a a.one": "passed", "iommu/a a.two": "passed", "iommu/a a.huge": "failed",
           "kvm/x86/vmx": "skipped", "cgroup/cpu weight": "passed", **dict(changes)}
    return [*(results.Result(outcome, name) for name, outcome in run.items() if outcome), *add]


def compared(patched, pristine=None, suites=("iommu", "kvm", "cgroup"), lines=None):
    """What is not as it should be"""
    own = table.Table(lines or PEERS, "6.12")
    found = table.compare(own, suites, patched, pristine) if pristine else table.compare_part(own, patched)
    return [(r.name, r.why) for r in found if r.outcome == "failed"]


class PeersTest(Case):
    def test_run_that_is_as_the_table_says_passes(self):
        found = table.compare(table.Table(PEERS, "6.12"), ("iommu", "kvm", "cgroup"), of_peers(), of_peers())
        self.assertEqual(outcomes(found),
                         [("passed", "iommu/a a.one", ""), ("passed", "iommu/a a.two", ""),
                          ("skipped", "iommu/a a.huge", "failed on the pristine kernel, too: no huge pages"),
                          ("skipped", "kvm/x86/vmx", "skipped on the pristine kernel, too: the CPU has no VMX"),
                          ("skipped", "cgroup/cpu weight", "unsteady: measures time: 3 of 10 runs failed")])
        self.assertEqual(compared(of_peers()), [])

    def test_pass_that_turns_into_a_failure_is_reported(self):
        for outcome in ("failed", "skipped"):
            self.assertEqual(compared(of_peers(("iommu/a a.two", outcome)), of_peers())[0],
                             ("iommu/a a.two", f"passed on the pristine kernel, {outcome} on the patched one"))
        self.assertEqual(compared(of_peers(("iommu/a a.two", "failed")))[0],
                         ("iommu/a a.two", "failed on this kernel, passed in rig/data/peers.txt"))

    def test_failure_on_both_kernels_without_a_line_in_the_table_is_reported(self):
        run = of_peers(("iommu/a a.new", "failed"))
        self.assertEqual(compared(run, run), [("iommu/a a.new", "failed on both kernels, passed in rig/data/peers.txt")])

    def test_failure_in_the_table_that_passes_is_reported(self):
        run = of_peers(("iommu/a a.huge", "passed"))
        self.assertEqual(compared(run, run), [("iommu/a a.huge", "passed on both kernels, failed in rig/data/peers.txt"),
                                              ("iommu/a", "3 tests passed on the patched kernel, 2 in rig/data/peers.txt"),
                                              ("iommu/a", "3 tests passed on the pristine kernel, 2 in rig/data/peers.txt")])

    def test_test_that_does_not_report_is_reported(self):
        self.assertEqual(compared(of_peers(("iommu/a a.two", None)), of_peers())[0],
                         ("iommu/a a.two", "did not report on the patched kernel"))
        # Neither kernel: only the number tells
        self.assertEqual(compared(of_peers(("iommu/a a.two", None)), of_peers(("iommu/a a.two", None))),
                         [("iommu/a", f"1 tests passed on the {kernel} kernel, 2 in rig/data/peers.txt") for kernel in ("patched", "pristine")])
        for name in ("iommu/a a.huge", "cgroup/cpu weight"):
            self.assertEqual(compared(of_peers((name, None)), of_peers((name, None))), [(name, "did not report on the patched kernel")])
        # Of a part, only what was run is judged
        self.assertEqual(compared(of_peers(("iommu/a a.two", None))), [])

    def test_unsteady_test_may_fail_on_either_kernel(self):
        self.assertEqual(compared(of_peers(("cgroup/cpu weight", "failed")), of_peers()), [])
        self.assertEqual(compared(of_peers(), of_peers(("cgroup/cpu weight", "failed"))), [])

    def test_tests_of_one_name_are_told_apart(self):
        twice = [results.Result("failed", "iommu/a a.two")]
        self.assertEqual(compared(of_peers(add=twice), of_peers())[0], ("iommu/a a.two (2)", "did not report on the pristine kernel"))

    def test_line_of_the_kernel_log_is_reported_unless_the_table_has_it(self):
        log = [f"[    1.0] {line}" for line in (
            "Linux version", "WARNING: at a.c:77 f+0x12/0x34", "Modules linked in:", "RIP: 0010:f+0x12/0x34")]
        expected = table.log_lines(log, "iommu")
        self.assertEqual([r.name for r in expected], ["log iommu: WARNING: at a.c:N f+N/N"])
        self.assertHolds("\n".join(expected[0].details), "RIP: 0010")
        lines = [line.replace("f+N #", "f+N/N #") for line in PEERS]
        self.assertEqual(compared(of_peers(add=expected), lines=lines), [])
        self.assertEqual(compared(of_peers(add=expected), of_peers(), lines=lines), [])
        # On that machine only
        self.assertEqual(compared(of_peers(add=table.log_lines(log, "kvm")), of_peers(), lines=lines),
                         [("log kvm: WARNING: at a.c:N f+N/N", "is printed by the patched kernel")])
        other = table.log_lines([line.replace("a.c", "b.c") for line in log], "iommu")
        self.assertEqual(compared(of_peers(add=other), of_peers(), lines=lines),
                         [("log iommu: WARNING: at b.c:N f+N/N", "is printed by the patched kernel")])
        self.assertEqual(compared(of_peers(add=other), of_peers(add=other), lines=lines),
                         [("log iommu: WARNING: at b.c:N f+N/N", "is printed by both kernels")])
        killed = [f"[    2.0] hog invoked oom-killer: gfp_mask={mask}, order={order}, oom_score_adj=0"
                  for mask, order in (("0xcc0(GFP_KERNEL)", 0), ("0x440dc0(GFP_KERNEL_ACCOUNT|__GFP_COMP|__GFP_ZERO)", 1))]
        self.assertEqual([r.name for r in table.log_lines(killed, "kvm")], ["log kvm: hog invoked oom-killer"])
        fault = table.log_lines(["[    2.0] DMAR: [DMA Write NO_PASID] Request device [00:04.0] fault addr 0x1000"], "kvm")
        self.assertEqual(len(compared(of_peers(add=fault), lines=lines)), 1)

    def test_suite_that_was_not_run_is_not_missed(self):
        run = [r for r in of_peers() if r.name.startswith("iommu")]
        self.assertEqual(compared(run, run, suites=("iommu",)), [])

    def test_program_without_tap_is_one_result(self):
        self.assertEqual(outcomes(table.kselftest("kvm/a", ["Testing guest mode"], 0)), [("passed", "kvm/a", "")])
        self.assertEqual(outcomes(table.kselftest("kvm/a", ["no AMX"], 4)), [("skipped", "kvm/a", "no AMX")])
        for status in (1, 137, 254):
            self.assertEqual(outcomes(table.kselftest("kvm/a", [], status)), [("failed", "kvm/a", f"ended with status {status}")])
        self.assertEqual(outcomes(table.kselftest("kvm/a", ["1..2", "ok 1 x", "ok 2 y # SKIP no"], 4)),
                         [("passed", "kvm/a x", ""), ("skipped", "kvm/a y", "no")])
        self.assertEqual([r.outcome for r in table.kselftest("kvm/a", ["1..2", "ok 1 x"], 0)], ["passed", "failed"])

    def test_program_without_a_plan_has_the_results_that_it_wrote(self):
        lines = ["ok 1 x", "it is not so", "not ok 2 y", "ok 3 # SKIP z"]
        self.assertEqual(outcomes(table.kselftest("cgroup/a", lines, 1)),
                         [("passed", "cgroup/a x", ""), ("failed", "cgroup/a y", ""), ("skipped", "cgroup/a test 3", "z")])
        self.assertEqual(outcomes(table.kselftest("cgroup/a", ["ok 1 x"], 137)),
                         [("passed", "cgroup/a x", ""), ("failed", "cgroup/a", "ended with status 137")])

    def test_broken_line_of_the_table_is_reported(self):
        for line in ("6.12 passed iommu/a", "6.12 failed iommu/a a.huge", "6.12 fails iommu/a a.huge # no huge pages",
                     "6.12 failed iommu/a a.huge # once more", "6.12 skipped iommu/a a.new # TODO"):
            try:
                table.Table([*PEERS, line], "6.12")
            except ValueError as error:
                self.assertHolds(str(error), "line 9 ")
            else:
                raise AssertionError(f"{line!r} was read")

    def test_table_can_be_read_for_each_version(self):
        for base in ("6.12", "7.3"):
            self.assertEqual(bool(table.read_table(base).passed), True)

    def test_proposed_table_is_that_of_the_run(self):
        own = table.Table(PEERS, "6.12")
        self.assertEqual(sorted(table.proposed(own, of_peers())), sorted(line for line in PEERS if line.startswith("6.12")))
        self.assertHolds("\n".join(table.proposed(own, of_peers(("iommu/a a.two", "failed")))),
                         "6.12 passed iommu/a 1", "6.12 failed iommu/a a.two # TODO")
