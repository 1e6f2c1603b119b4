# SPDX-License-Identifier: GPL-2.0-only
"""
The results of the kernel's own tests, compared with those on the pristine kernel
and with the table rig/data/peers.txt, whose lines are

    BASE passed PROGRAM NUMBER              tests of the program that pass
    BASE failed|skipped NAME # REASON       a test that does not, on either kernel
    BASE unsteady NAME # REASON             a test that passes in some runs only
    BASE left-out PROGRAM # REASON          a program that is not run

PROGRAM is SUITE/PROGRAM, the first word of NAME. "failed log MACHINE: TEXT" is a line
that the kernel may print, with N for every number. MACHINE are the suites that share it.
"""
import os
import re

from lib import DATA, read_lines
from results import BAD, DETAILS, FAIL, FAULT, GOOD, PASS, PLAN, SKIP, SPLAT, STAMP, Result, program, read_tap

UNSTEADY, LEFT_OUT, MISSING = "unsteady", "left-out", "no result"
LINE = re.compile(r"(\S+) +(?:passed +(\S+) +(\d+)|(failed|skipped|unsteady|left-out) +(\S.*?) +# +(\S.*))")
TODO = "TODO"
KSFT_SKIP = 4


class Table:
    """The lines for one version of the kernel"""

    def __init__(self, lines, base):
        self.base, self.passed, self.outcome, self.reason = base, {}, {}, {}
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            found = LINE.fullmatch(text)
            if not found:
                raise ValueError(f"line {number} cannot be read: {text}")
            version, name, count, outcome, other, reason = found.groups()
            if version != base:
                continue
            if (name or other) in (self.passed if name else self.outcome):
                raise ValueError(f"line {number} is the second one for {name or other}")
            if reason == TODO:
                raise ValueError(f"line {number} has no reason: {text}")
            if name:
                self.passed[name] = int(count)
            else:
                self.outcome[other], self.reason[other] = outcome, reason

    def runs(self, name):
        return self.outcome.get(name) != LEFT_OUT


def read_table(base):
    return Table(read_lines(os.path.join(DATA, "peers.txt")), base)


# ---- what the programs and the kernel said

def kselftest(name, lines, status):
    """The results of a program: not all write TAP, and some of those that do have no plan"""
    if not any(PLAN.fullmatch(line.strip()) for line in lines):
        if read_tap(lines).tests:
            return program(name, lines, status, needs_plan=False)
        outcome = {0: PASS, KSFT_SKIP: SKIP}.get(status, FAIL)
        why = f"ended with status {status}" if outcome == FAIL else lines[-1] if lines else ""
        return [Result(outcome, name, "" if outcome == PASS else why, lines[-DETAILS:])]
    if status == KSFT_SKIP and any(" # SKIP" in line for line in lines):
        status = 0
    return program(name, lines, status)


def log_lines(lines, machine):
    """A failure for each kind of line that a kernel should not print on that machine"""
    found = {}
    splat = None
    left = 0
    for line in lines:
        text = STAMP.sub("", line.strip())
        if (BAD.search(text) and not GOOD.search(text)) or FAULT.search(text):
            # Printed in the middle of a splat
            if left and text.startswith("Modules linked in:"):
                continue
            # The allocation that reaches the limit is random
            text = re.sub(r"( invoked oom-killer): .*", r"\1", text)
            name = f"log {machine}: " + re.sub(r"\b(0x)?[0-9a-f]*[0-9][0-9a-f]*\b", "N", text).replace("#", "")
            splat = found.setdefault(name, Result(FAIL, name)).details
            left = SPLAT
        if left and len(splat) < SPLAT:
            splat.append(line)
        left = max(0, left - 1)
    return list(found.values())


# ---- the comparison

def by_name(results):
    """Tests of one name are told apart by their number"""
    found = {}
    for r in results:
        name, number = r.name, 1
        while name in found:
            number += 1
            name = f"{r.name} ({number})"
        found[name] = r
    return found


def passed(table, run):
    count = {}
    for name, r in run.items():
        if r.outcome == PASS and table.outcome.get(name) != UNSTEADY:
            count[name.split(" ")[0]] = count.get(name.split(" ")[0], 0) + 1
    return count


def verdict(table, name, pristine, patched):
    """Of one test: an outcome, and why. pristine is None if that kernel was not run."""
    expected = table.outcome.get(name, PASS)
    reason = table.reason.get(name, "")
    if name.startswith("log "):
        # Lines that are expected may come or not
        if expected == FAIL or patched == PASS:
            return (SKIP, "may be printed: " + reason) if FAIL in (pristine, patched) and expected == FAIL else (PASS, "")
        return FAIL, "is printed by " + ("both kernels" if pristine == FAIL else "the patched kernel")
    if MISSING in (pristine, patched):
        return FAIL, "did not report on the " + ("patched" if patched == MISSING else "pristine") + " kernel"
    if expected == UNSTEADY:
        return SKIP, "unsteady: " + reason
    if pristine not in (None, patched):
        return FAIL, f"{pristine} on the pristine kernel, {patched} on the patched one"
    if patched != expected:
        return FAIL, f"{patched} on {'both kernels' if pristine else 'this kernel'}, {expected} in rig/data/peers.txt"
    return (PASS, "") if patched == PASS else (SKIP, f"{patched} on the pristine kernel, too: {reason}")


def compare(table, suites, patched, pristine):
    """Returns a result for each test, and for each program whose number of tests has changed"""
    runs = [by_name(run) for run in (patched, pristine)]

    def chosen(name):
        return name.split("/")[0] in suites

    names = dict.fromkeys([*(name for run in runs for name in run),
                           *(name for name in table.outcome if chosen(name) and table.runs(name))])
    found = []
    silent = {}     # program -> tests that did not report
    for name in names:
        missing = PASS if name.startswith("log ") else MISSING
        outcomes = [run[name].outcome if name in run else missing for run in runs]
        for r in judge(table, name, outcomes[1], outcomes[0], runs[0].get(name)):
            if MISSING in outcomes:
                silent.setdefault((name.split(" ")[0], r.why), []).append(r)
            else:
                found.append(r)
    for (what, why), those in silent.items():
        found += those if len(those) == 1 else [Result(FAIL, what, f"{len(those)} tests: {why}", count=len(those))]
    for run, kernel in zip(runs, ("patched", "pristine")):
        counts = passed(table, run)
        for what in sorted({*counts, *filter(chosen, table.passed)}):
            if counts.get(what, 0) != table.passed.get(what, 0):
                found.append(Result(FAIL, what, f"{counts.get(what, 0)} tests passed on the {kernel} kernel, "
                                                f"{table.passed.get(what, 0)} in rig/data/peers.txt"))
    return found


def compare_part(table, results):
    """The same for some tests on the patched kernel alone, compared with the table only"""
    return [r for name, result in by_name(results).items() for r in judge(table, name, None, result.outcome, result)]


def judge(table, name, pristine, patched, result):
    outcome, why = verdict(table, name, pristine, patched)
    if outcome == PASS and name.startswith("log "):
        return []
    if outcome != FAIL or not result:
        return [Result(outcome, name, why)]
    return [Result(FAIL, name, why + (": " + result.why if result.why else ""), result.details)]


def proposed(table, pristine):
    """The lines that the table should have after such a run on the pristine kernel"""
    run = by_name(pristine)
    lines = [f"{table.base} passed {name} {count}" for name, count in passed(table, run).items()]
    lines += [f"{table.base} {outcome} {name} # {table.reason[name]}" for name, outcome in table.outcome.items()
              if outcome in (UNSTEADY, LEFT_OUT) or (name.startswith("log ") and name not in run)]
    lines += [f"{table.base} {r.outcome} {name} # {table.reason.get(name, TODO)}" + ("" if name in table.reason or not r.why else f" ({r.why})")
              for name, r in run.items() if r.outcome != PASS and table.outcome.get(name) != UNSTEADY]
    return sorted(lines, key=lambda line: line.split(" ")[2:] + [line])
