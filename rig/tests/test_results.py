# SPDX-License-Identifier: GPL-2.0-only
"""The reader of test results, given logs of runs that went wrong"""
import results
from support import Case, outcomes

GOOD_TAP = """\
TAP version 13
1..3
# Starting 3 tests from 1 test cases.
#  RUN           ids.any ...
#            OK  ids.any
ok 1 ids.any
ok 2 ids.none # SKIP no device
not ok 3 ids.later # XFAIL known
# Totals: pass:1 fail:0 xfail:1 xpass:0 skip:1 error:0
""".splitlines()
KTAP_LOG = """\
[    1.000000] Linux version
[    2.000000] KTAP version 1
[    2.000001] 1..2
[    2.000002]     KTAP version 1
[    2.000003]     # Subtest: ioasid
[    2.000004]     1..2
[    2.000005]     ok 1 number_is_free
[    2.000006]         KTAP version 1
[    2.000007]         # Subtest: quota
[    2.000008]         ok 1 one
[    2.000009]         ok 2 many
[    2.000010]     ok 2 quota
[    2.000011] # ioasid: pass:2 fail:0 skip:0 total:2
[    2.000012] ok 1 ioasid
[    2.000013]     KTAP version 1
[    2.000014]     # Subtest: park
[    2.000015]     1..1
[    2.000016]     # bits: EXPECTATION FAILED at park_test.c:9
[    2.000017]     not ok 1 bits
[    2.000018] not ok 2 park
[    3.000000] Run /init as init process
""".splitlines()
RUN = ["rig: begin ids", *GOOD_TAP, "rig: end ids 0", "rig: leaks", "rig: done"]


class ResultsTest(Case):
    def test_tap_results_are_counted(self):
        self.assertEqual(outcomes(results.program("ids", GOOD_TAP, 0)),
                         [("passed", "ids ids.any", ""), ("skipped", "ids ids.none", "no device"),
                          ("passed", "ids ids.later", "")])

    def test_failing_test_is_a_failure_with_its_output(self):
        found = results.program("ids", ["1..2", "ok 1 a", "# b.c:7: expected 1", "not ok 2 b"], 1)
        self.assertEqual(outcomes(found), [("passed", "ids a", ""), ("failed", "ids b", "")])
        self.assertEqual(found[1].details, ["# b.c:7: expected 1"])

    def test_missing_plan_is_a_failure(self):
        found = results.program("ids", ["TAP version 13", "ok 1 a"], 0)
        self.assertEqual(outcomes(found), [("passed", "ids a", ""), ("failed", "ids", "gave no plan")])

    def test_silent_program_is_a_failure(self):
        self.assertEqual([r.outcome for r in results.program("ids", [], 0)], ["failed"])
        self.assertEqual(outcomes(results.program("ids", ["1..0"], 0)), [("failed", "ids", "ran no test")])

    def test_each_planned_test_that_did_not_report_is_a_failure(self):
        found = results.program("ids", ["1..3", "ok 1 a"], 139)
        self.assertEqual(outcomes(found), [("passed", "ids a", ""),
                                           ("failed", "ids (2 of 3 tests)", "planned, but did not report")])
        self.assertEqual(results.summary(found), "1 passed, 2 failed, 0 skipped")

    def test_exit_status_without_failing_test_is_a_failure(self):
        self.assertEqual(outcomes(results.program("ids", ["1..1", "ok 1 a"], 139)),
                         [("passed", "ids a", ""), ("failed", "ids", "ended with status 139")])

    def test_program_that_skips_everything_is_one_skip(self):
        self.assertEqual(outcomes(results.program("ids", ["TAP version 13", "1..0 # SKIP no device"], 4)),
                         [("skipped", "ids", "no device")])

    def test_kunit_results_in_a_kernel_log_are_counted(self):
        found = results.kunit(KTAP_LOG)
        self.assertEqual(outcomes(found), [("passed", "kunit ioasid number_is_free", ""),
                                           ("passed", "kunit ioasid quota one", ""),
                                           ("passed", "kunit ioasid quota many", ""),
                                           ("failed", "kunit park bits", "")])
        self.assertHolds("\n".join(found[3].details), "park_test.c:9")

    def test_kernel_that_dies_in_a_kunit_test_fails_the_rest(self):
        found = results.kunit(KTAP_LOG[:7])
        self.assertEqual(outcomes(found), [("passed", "kunit ioasid number_is_free", ""),
                                           ("failed", "kunit ioasid (1 of 2 tests)", "planned, but did not report"),
                                           ("failed", "kunit (1 of 2 tests)", "planned, but did not report")])

    def test_kunit_suite_that_fails_as_a_whole_is_a_failure(self):
        log = [line.replace("] ok 1 ioasid", "] not ok 1 ioasid") for line in KTAP_LOG]
        self.assertEqual([r.name for r in results.kunit(log) if r.outcome == "failed"],
                         ["kunit ioasid", "kunit park bits"])

    def test_skipped_kunit_test_is_shown_with_its_reason(self):
        log = [line.replace("ok 1 one", "ok 1 one # SKIP needs ATS").replace("ok 1 number_is_free", "ok 1 number_is_free # SKIP")
               for line in KTAP_LOG]
        self.assertEqual(results.skips(log), ["skipped: ioasid number_is_free: no reason given", "skipped: ioasid quota one: needs ATS"])
        self.assertEqual(results.skips(KTAP_LOG), [])

    def test_kernel_log_without_kunit_has_no_results(self):
        self.assertEqual(results.kunit(["[    1.0] Linux version"]), [])

    def test_splats_make_the_kernel_log_unclean(self):
        for line in ("BUG: KASAN: slab-use-after-free in ioasid_put+0x1/0x2",
                     "BUG: KCSAN: data-race in ioasid_attach_device / ioasid_cmd_query",
                     "WARNING: possible circular locking dependency detected",
                     "WARNING: CPU: 1 PID: 7 at drivers/iommu/ioasid.c:9 f+0x1/0x2",
                     "WARNING: suspicious RCU usage",
                     "INFO: task ioasid:9 blocked for more than 122 seconds.",
                     "BUG: sleeping function called from invalid context at mm/slab.c:1",
                     "ODEBUG: free active (active state 0) object: 1 object type: work_struct",
                     "UBSAN: array-index-out-of-bounds in ioasid.c:1:1",
                     "Oops: general protection fault, probably for non-canonical address",
                     "Kernel panic - not syncing: Fatal exception",
                     "refcount_t: underflow; use-after-free.",
                     "kernel BUG at drivers/iommu/ioasid.c:1!",
                     "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
                     "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
                     "DMAR: [DMA Write NO_PASID] Request device [00:04.0] fault addr 0x1000",
                     "DMAR: DRHD: handling fault status reg 2"):
            found = results.kernel_log(["[    1.0] Linux version 6.12", f"[    2.0] {line}", "[    2.1]  f+0x1"])
            self.assertEqual((found.outcome, found.why), ("failed", f"[    2.0] {line}"))

    def test_clean_kernel_log_passes(self):
        self.assertEqual(results.kernel_log(["[    0.1] DMAR: Host address width 39",
                                             "[    0.1] DMAR: No RMRR found",
                                             "[    0.2] kasan: KernelAddressSanitizer initialized (generic)",
                                             "[    0.3] kmemleak: Kernel memory leak detector initialized",
                                             "[    0.4] rcu: Preemptible hierarchical RCU implementation."]).outcome,
                         "passed")

    def test_empty_kernel_log_is_a_failure(self):
        self.assertEqual(results.kernel_log([]).outcome, "failed")

    def test_faults_are_fine_only_where_a_test_expects_them(self):
        fault = "[    2.0] DMAR: [DMA Write PASID 0x5] Request device [00:04.0] fault addr 0x0"
        begin, end = (f"[    2.0] ioasid-selftest: expect-dmar-faults {w}" for w in ("begin", "end"))
        self.assertEqual(results.kernel_log([begin, fault, end]).outcome, "passed")
        self.assertEqual(results.kernel_log([begin, fault, end, fault]).outcome, "failed")
        self.assertEqual(results.kernel_log([begin, "[    2.0] BUG: bad page", end]).outcome, "failed")

    def test_guest_output_is_split_into_programs(self):
        self.assertEqual([r.outcome for r in results.guest(RUN, ["ids"], "")], ["passed", "skipped", "passed", "passed"])

    def test_program_that_never_ran_is_a_failure(self):
        self.assertEqual(outcomes(results.guest(RUN, ["ids", "dma"], ""))[3], ("failed", "dma", "did not run"))

    def test_guest_that_dies_in_a_program_fails_it(self):
        found = results.guest(RUN[:7], ["ids", "dma"], "the kernel died")
        self.assertEqual(outcomes(found), [("passed", "ids ids.any", ""),
                                           ("failed", "ids (2 of 3 tests)", "planned, but did not report"),
                                           ("failed", "ids", "did not end: the kernel died"),
                                           ("failed", "dma", "did not run"),
                                           ("failed", "no_memory_is_leaked", "was not looked at: the kernel died")])

    def test_what_the_kernel_said_first_is_why_it_died(self):
        def why(status, lines):
            return results.why_it_died(status, 60, results.kernel_log(lines))

        self.assertEqual(why(125, ["[    1.0] all is well"]), "the kernel died")
        self.assertEqual(why(125, ["[    1.0] all is well", "[    2.0] BUG: KASAN: of this", "[    3.0] Kernel panic - of that"]),
                         "the kernel died: [    2.0] BUG: KASAN: of this")
        self.assertEqual(why(126, ["[    2.0] INFO: rcu_sched stall"]), "nothing was heard of it for 60 s: [    2.0] INFO: rcu_sched stall")
        self.assertEqual(why(124, ["[    1.0] all is well"]), "the time was up")

    def test_program_that_hangs_is_a_failure(self):
        found = results.guest(["rig: begin ids", "1..2", "ok 1 a", "rig: end ids 137", "rig: leaks", "rig: done"],
                              ["ids"], "")
        self.assertEqual([r.outcome for r in found], ["passed", "failed", "passed"])

    def test_leaked_memory_is_a_failure(self):
        found = results.guest(["rig: leaks", "unreferenced object 0xffff (size 64):", "rig: done"], [], "")
        self.assertEqual(outcomes(found), [("failed", "no_memory_is_leaked", "unreferenced object 0xffff (size 64):")])

    def test_summary_counts_all_outcomes(self):
        self.assertEqual(results.summary(results.program("ids", GOOD_TAP, 0)), "2 passed, 0 failed, 1 skipped")
