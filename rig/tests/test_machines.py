# SPDX-License-Identifier: GPL-2.0-only
"""rig/test, with an emulator of a few lines of shell"""
import os
import re

from lib import BASE
from support import Case, Scratch


class Machines(Scratch):
    """A rig that has built everything. Its emulator is a few lines of shell."""

    KTAP = ("KTAP version 1\n", "1..1\n", "ok 1 ioasid\n")

    def __init__(self, programs):
        super().__init__()
        out = f"repo/build/linux-{BASE}/test"
        self.write(f"{out}/arch/x86/boot/bzImage", "")
        self.write(f"{out}/modules.order", "")
        self.write(f"repo/build/linux-{BASE}/run/arch/x86/boot/bzImage", "")
        self.write(f"{out}/selftests/list", "".join(f"{name}\n" for name in programs.split()))
        for name in programs.split():
            self.write(f"{out}/selftests/{name}", name)
            self.write(f"repo/tools/testing/selftests/ioasid/{name}.c", "")
        self.write("repo/rig/data/peers.txt", f"{BASE} passed iommu/iommufd 1\n")
        for name in ("setup", "unpack", "tree", "kernel", "selftests", "guests", "accel", "initramfs", "kunit"):
            self.stub(f"repo/rig/{name}", "")
        for name in ("rig/selftest", "rig/models", "rig/bench", "qemu/test.py"):
            self.stub(f"repo/{name}", "echo 1..1; echo ok 1 works\n")
        self.write(f"repo/build/log/kunit-{BASE}.log", "".join(self.KTAP))
        self.stub("emulator", f"""\
echo "$*" >>{self.path("started")}
for word in "$@"; do
	case $word in
	file:*console*) console=${{word#file:}} ;;
	file:*) output=${{word#file:}} ;;
	esac
done
echo begin >>{self.path("running")}
sleep 0.3
echo "Linux version" >$console
[[ $* = *kunit.enable=0* ]] || printf '{"".join(self.KTAP)}' >>$console
while read -r seconds name arguments; do
	printf 'rig: begin %s\\n1..1\\nok 1 works\\nrig: end %s 0\\n' $name $name
done <${{output%guest.log}}programs >$output
printf 'rig: leaks\\nrig: done\\n' >>$output
echo end >>{self.path("running")}
exit 1
""")

    def stub(self, name, text):
        self.write(name, "#!/bin/bash\n" + text)
        os.chmod(self.path(name), 0o755)

    def test(self, name, **settings):
        return self.run("rig/test", name, QEMU=self.path("emulator"), RIG_KEEP_TREE="1", **settings)

    def test_fails(self, name):
        return self.run("rig/test", name, QEMU=self.path("emulator"), RIG_KEEP_TREE="1", status=1)

    def started(self):
        """One line for each machine: its command line"""
        return self.read("started").splitlines()


class MachinesTest(Case):
    def test_user_mode_linux_is_built_on_request_or_for_long_tests(self):
        with Machines("ioasid") as s:
            s.stub("repo/rig/kunit", f"echo >>{s.path('kunit')}")
            s.test("")
            self.assertEqual(os.path.exists(s.path("kunit")), False)
            s.test("", LONG="1")
            s.test("uml")
            self.assertEqual(s.read("kunit"), "\n\n")

    def test_program_runs_on_the_kinds_of_machines_that_it_is_for(self):
        with Machines("ioasid ioasid_dma ioasid_sva") as s:
            self.assertHolds(s.test("ioasid_dma"), "machine 1: ioasid_dma ...", "machine 2: flts ioasid_dma ...",
                             "machine 3: slow ioasid_dma ...", "9 passed, 0 failed, 0 skipped")
            self.assertEqual(sorted(("x-flts=on" in line, "x-inv-delay-us=" in line, "-global pdma.flight-us=" in line)
                                    for line in s.started()),
                             [(False, False, False), (False, True, True), (True, False, False)])
            os.remove(s.path("started"))
            s.test("ioasid")
            self.assertEqual(["x-flts=on" in line for line in s.started()], [False])
            os.remove(s.path("started"))
            s.test("ioasid_sva")
            self.assertEqual(["x-flts=on" in line for line in s.started()], [True])
            self.assertHolds(s.started()[0], "iommu_sva.allow_unsafe_x86=1")

    def test_kind_of_machine_is_started_with_all_of_its_programs(self):
        with Machines("ioasid ioasid_dma ioasid_sva ioasid_dsa") as s:
            self.assertHolds(s.test("dsa"), "machine 1: dsa ioasid_dsa dsa accel_tests ...", "4 passed, 0 failed, 0 skipped")
            self.assertHolds(s.test("flts"), "machine 1: flts ioasid_dma flts ioasid_sva ...")
            self.assertEqual([("-device dsa," in line, "IOASID_SHORT" in line) for line in s.started()],
                             [(True, False), (False, False)])

    def test_only_the_machine_with_a_dsa_needs_accel_config(self):
        with Machines("ioasid ioasid_dsa") as s:
            for name in ("setup", "accel"):
                s.stub(f"repo/rig/{name}", f'[[ "{name} $*" != *accel* ]]\n')
                self.assertHolds(s.test("guest"), "-- continue without accel-config", ": dsa ioasid_dsa dsa accel_tests ..."
                                 if BASE == "6.12" else ": dsa ioasid_dsa ...")
                self.assertHolds(s.test("guest", LONG="1"), ": dsa ioasid_dsa ...")
                self.assertHolds(s.test("ioasid"), "3 passed, 0 failed")
                for target in ("dsa", "ioasid_dsa", "accel_tests"):
                    self.assertHolds(s.test_fails(target), "accel", "ended with status 1", "0 passed, 1 failed")
                s.stub(f"repo/rig/{name}", "")

    def test_failure_on_the_machine_with_first_stage_is_told_apart(self):
        with Machines("ioasid_dma") as s:
            s.write("emulator", s.read("emulator").replace("sleep 0.3", "sleep 0.3; [[ $* = *flts* ]] && exit 3"))
            message = s.test_fails("ioasid_dma")
            self.assertHolds(message, "failed: flts ioasid_dma: did not run\n", "failed: flts kernel_log_is_clean", "6 passed")
            self.assertEqual("failed: ioasid_dma" in message, False)

    def test_report_of_the_emulator_fails_a_run(self):
        with Machines("ioasid_dma") as s:
            emulator = s.read("emulator")
            for report, status in (("vtd_iommu_translate: detected translation failure (dev=00:04:00, iova=0x0)", 0),
                                   ("New fault is not recorded due to compression of faults", 0),
                                   ("warning: apic: CPU 1: the end of interrupt 0xec was lost", 0),
                                   ("Assertion failed", 1)):
                s.write("emulator", emulator.replace("sleep 0.3", f"[[ $* != *flts* ]] || echo '{report}' >&2"))
                message = s.run("rig/test", "ioasid_dma", QEMU=s.path("emulator"), RIG_KEEP_TREE="1", status=status)
                self.assertHolds(message, f"9 passed, {status} failed", "1 skipped" if "apic" in report else "0 skipped")
                self.assertEqual(f"failed: flts emulator_reports_nothing: {report}" in message, bool(status))

    def test_machine_with_an_idle_cpu_that_stalls_is_started_once_more(self):
        stall = "rcu:   1-...!: (0 ticks this GP) idle=bab0/0/0x0 softirq=3/3 fqs=0 %s"
        with Machines("ioasid") as s:
            emulator = s.read("emulator")
            for what, always, starts, status in ((stall % "(false positive?)", "", 2, 0), (stall % "(false positive?)", "1", 2, 1),
                                                 (stall.replace("/0x0", "/0x1") % "", "", 1, 1)):
                s.write("started", "")
                s.write("emulator", emulator.replace("sleep 0.3", f"""\
if [ "{always}" ] || [ "$(wc -l <{s.path("started")})" = 1 ]; then
	echo "{what}" >$console
	: >$output
	exit 9
fi"""))
                message = s.run("rig/test", "ioasid", QEMU=s.path("emulator"), RIG_KEEP_TREE="1", status=status)
                self.assertEqual(len(s.started()), starts)
                self.assertEqual("SKIPPED emulator_runs_each_cpu" in message, starts == 2)

    def test_short_run_is_known_to_the_programs(self):
        with Machines("ioasid ioasid_mdev ioasid_sva") as s:
            for name, long, short in (("guest", "", True), ("guest", "1", False), ("ioasid", "", False)):
                s.run("rig/test", name, QEMU=s.path("emulator"), RIG_KEEP_TREE="1", LONG=long)
                self.assertEqual({"IOASID_SHORT=1" in line for line in s.started()}, {short})
                os.remove(s.path("started"))

    def test_what_a_short_run_leaves_out_is_told_in_one_line(self):
        with Machines("ioasid") as s:
            left_out = "ok 1 works # SKIP this takes long, and IOASID_SHORT is set"
            s.write("emulator", s.read("emulator").replace("ok 1 works", left_out))
            s.write("repo/rig/data/peers.txt", f"{BASE} skipped iommu/iommufd works # no mock IOMMU\n")
            message = s.test("guest")
            # On 6.12, a machine with a DSA, too
            self.assertHolds(message, *(("2 that take long were left out: LONG=1 runs them", "6 passed, 0 failed, 3 skipped")
                                        if BASE == "6.12" else
                                        ("1 that take long were left out: LONG=1 runs them", "4 passed, 0 failed, 2 skipped")))
            self.assertEqual("SKIPPED ioasid" in message, False)

    def test_machine_that_says_nothing_any_more_is_ended(self):
        with Machines("ioasid") as s:
            s.write("emulator", s.read("emulator").replace("sleep 0.3", """\
while [ "$1" != -pidfile ]; do shift; done
echo $$ >$2
for n in 1 2 3; do echo "alive $n" >>$console; sleep 1; done
exec sleep 60"""))
            text = s.read("repo/rig/test")
            self.assertEqual("SILENCE = 300 " in text, True)
            s.write("repo/rig/test", text.replace("SILENCE = 300 ", "SILENCE = 2 "))
            os.chmod(s.path("repo/rig/test"), 0o755)
            message = s.test_fails("ioasid")
            self.assertHolds(message, "failed: ioasid: did not run", "nothing was heard of it for 2 s")
            self.assertEqual("alive 3" in s.read("repo/build/log/test-1-console.log"), True)

    def test_machine_that_suspends_does_it_last_and_is_woken(self):
        with Machines("ioasid_suspend ioasid ioasid_sva") as s:
            s.write("emulator", s.read("emulator").replace("sleep 0.3", """\
monitor=; [[ ! $* =~ pipe,id=monitor,path=([^ ]*) ]] || monitor=${BASH_REMATCH[1]}
if [ -n "$monitor" ]; then
	exec 3<>"$monitor.in" 4<>"$monitor.out"
	echo '{"QMP": {}}' >&4
	read -r line <&3; echo "$line" >>%s
	echo '{"event": "SUSPEND"}' >&4
	read -r line <&3; echo "$line" >>%s
fi""" % (s.path("heard"), s.path("heard"))))
            self.assertHolds(s.test("guest"), "ioasid ioasid_suspend ...", "machine 3: flts ioasid_sva flts ioasid_suspend ...")
            woken = [line for line in s.started() if "path=" in line]
            self.assertEqual(len(woken), 2)
            self.assertEqual({"IOASID_WAKE=1" in line for line in woken}, {True})
            # Both machines run at a time
            self.assertEqual(sorted(s.read("heard").splitlines()),
                             ['{"execute": "qmp_capabilities"}'] * 2 + ['{"execute": "system_wakeup"}'] * 2)

    def test_machine_that_does_not_suspend_has_no_monitor(self):
        with Machines("ioasid") as s:
            s.test("ioasid")
            self.assertEqual(["monitor" in line or "IOASID_WAKE" in line for line in s.started()], [False])

    def test_virtual_machines_have_a_host_of_the_default_version(self):
        with Machines("ioasid ioasid_vmm") as s:
            host = ["ioasid-test ioasid_vmm"] if BASE == "6.12" else []
            self.assertEqual(re.findall("in the run kernel, machine [0-9]+: (.*) \\.\\.\\.", s.test("guest")), host)
            self.assertEqual([" -m 2G" in line for line in s.started()].count(True), len(host))
            # It takes too long in the long form
            self.assertEqual("ioasid_vmm" in s.test("guest", LONG="1"), False)
            self.assertHolds(s.test("vmm"), "in the run kernel, machine 1: ioasid-test ioasid_vmm",
                             "4 passed, 0 failed, 0 skipped")
            self.assertHolds(s.test("ioasid-test"), "in the run kernel, machine 1: ioasid-test",
                             "3 passed, 0 failed, 0 skipped")

    def test_triple_fault_is_named(self):
        with Machines("ioasid") as s:
            # A CPU is reset when it starts, too
            for said, why in (("CPU Reset", "the kernel died"), ("Triple fault", "the kernel died of a triple fault")):
                s.stub("emulator", f"""\
for word in "$@"; do
	case $word in
	file:*console*) echo "Linux version" >${{word#file:}} ;;
	*.resets) echo "{said}" >$word ;;
	esac
done
""")
                self.assertHolds(s.test_fails("ioasid"), f"kernel_log_is_clean: {why}\n")

    def test_no_more_than_two_machines_run_at_a_time(self):
        with Machines("ioasid ioasid_mdev ioasid_dma ioasid_sva") as s:
            # One each of the scripts, the models, the emulator and (6.12) the benchmark, KUnit,
            # and for each machine its programs and two; a machine with a DSA is for the
            # script that runs on it (6.12)
            passed, machines = (24, 6) if BASE == "6.12" else (20, 5)
            self.assertHolds(s.test(""), "machine 3: flts ioasid_sva flts ioasid_dma ...", "machine 4: slow ioasid_dma ...",
                             f"{passed} passed, 0 failed, 0 skipped")
            self.assertEqual(len(s.started()), machines)
            running = most = 0
            for line in s.read("running").splitlines():
                running += 1 if line == "begin" else -1
                most = max(most, running)
            self.assertEqual(most <= 2, True)
