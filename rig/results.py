# SPDX-License-Identifier: GPL-2.0-only
"""
Reads the output of a test run, TAP and KTAP, kernel logs and kmemleak's reports, and
makes one list of results. As a program:

 results.py bad LOG: prints the lines of a kernel log that should not be there
 results.py skips LOG: prints the tests of KUnit that were skipped, and why

The kernel's tools/testing/kunit/kunit_parser.py gives the same results of a run
that passes, and "make kunit" shows them with it. It is not used here, because it
drops why a test was skipped, does not count a suite that fails although its tests
pass, takes tests that did not report for crashes without a name, and does not know
XFAIL, output without a plan, or the exit status of a program.
"""
import re
import sys

from lib import read, read_data

PASS, FAIL, SKIP = "passed", "failed", "skipped"


class Result:
    """The result of one test, or of several with a common result"""

    def __init__(self, outcome, name, why="", details=(), count=1):
        self.outcome, self.name, self.why, self.details = outcome, name, why, list(details)
        self.count = count


def summary(results):
    count = {outcome: sum(r.count for r in results if r.outcome == outcome)
             for outcome in (PASS, FAIL, SKIP)}
    return ", ".join(f"{number} {outcome}" for outcome, number in count.items())


# ---- TAP

RESULT = re.compile(r"(not )?ok\b(?: +\d+)?(?: +-)? *([^#]*?) *"
                    r"(?:# *(?:(SKIP|XFAIL|TODO)\b *)?(.*))?", re.I)
PLAN = re.compile(r"1\.\.(\d+)(?: *# *SKIP *(.*))?", re.I)
SUBTEST = re.compile(r"# Subtest: (.*)")
DETAILS = 30        # lines before a failed result that are shown with it


class Stream:
    """One level of nesting: a plan and its results"""

    def __init__(self):
        self.name, self.planned, self.skip, self.tests = "", None, None, []


class Test:
    def __init__(self, name, outcome, why="", details=(), stream=None):
        self.result = Result(outcome, name, why, details)
        self.stream = stream if stream and stream.tests else None


def read_tap(lines):
    """Builds the tree of results; anything unfinished is closed as failed"""
    streams = {0: Stream()}
    recent = []
    for line in lines:
        text = line.rstrip("\r\n")
        body = text.lstrip(" ")
        depth = (len(text) - len(body)) // 4
        plan, subtest, result = (e.fullmatch(body) for e in (PLAN, SUBTEST, RESULT))
        if plan:
            stream = streams.setdefault(depth, Stream())
            stream.planned, stream.skip = int(plan[1]), plan[2]
        elif subtest:
            streams.setdefault(depth, Stream()).name = subtest[1].strip()
        elif result:
            failed, name, directive, rest = result.groups()
            outcome, why = (FAIL, "") if failed else (PASS, "")
            if directive and directive.upper() == "SKIP":
                outcome, why = SKIP, rest
            elif directive:
                outcome = PASS
            nested = streams.pop(depth + 1, None)
            for deeper in [d for d in streams if d > depth]:
                del streams[deeper]
            stream = streams.setdefault(depth, Stream())
            name = name or f"test {len(stream.tests) + 1}"
            stream.tests.append(Test(name, outcome, why, recent if failed else (), nested))
            recent = []
            continue
        recent = recent[-DETAILS:] + [text]
    for depth in sorted(streams, reverse=True)[:-1]:
        stream = streams[depth]
        outer = streams.setdefault(depth - 1, Stream())
        name = stream.name or f"test {len(outer.tests) + 1}"
        outer.tests.append(Test(name, FAIL, "did not end", recent, stream))
        if not stream.tests and stream.planned:
            outer.tests[-1].stream = stream
        recent = []
    return streams[0]


def flatten(stream, path):
    """Only leaves count, and groups that failed although all their leaves passed"""
    results = []
    for test in stream.tests:
        name = f"{path} {test.result.name}".strip()
        below = flatten(test.stream, name) if test.stream else []
        results += below
        outcome = test.result.outcome
        if not below or (outcome == FAIL and all(r.outcome != FAIL for r in below)):
            results.append(Result(outcome, name, test.result.why, test.result.details))
    missing = (stream.planned or 0) - len(stream.tests)
    if missing > 0:
        results.append(Result(FAIL, f"{path} ({missing} of {stream.planned} tests)".strip(),
                              "planned, but did not report", count=missing))
    return results


def program(name, lines, status, needs_plan=True):
    """The results of a program that writes TAP, and of its exit status"""
    stream = read_tap(lines)
    results = flatten(stream, name)
    if stream.planned == 0 and stream.skip is not None:
        return [Result(SKIP, name, stream.skip)]
    if stream.planned is None and needs_plan:
        results.append(Result(FAIL, name, "gave no plan", lines[-DETAILS:]))
    elif not results:
        results.append(Result(FAIL, name, "ran no test", lines[-DETAILS:]))
    if status != 0 and all(r.outcome != FAIL for r in results):
        results.append(Result(FAIL, name, f"ended with status {status}", lines[-DETAILS:]))
    return results


# ---- kernel log

STAMP = re.compile(r"^\[ *\d+\.\d+\] ?")

def patterns():
    """The kinds of rig/data/splats.txt, each as one regular expression"""
    found = {"bad": [], "good": [], "fault": [], "idle-cpu": [], "emulator-fault": [], "emulator-lost": []}
    for line in read_data("splats.txt"):
        kind, expression = line.split(None, 1)
        found[kind].append(expression)
    return [re.compile("|".join(expressions) or "(?!)") for expressions in found.values()]


BAD, GOOD, FAULT, IDLE_CPU, DMA_FAULT, LOST = patterns()
WINDOW = re.compile(r"ioasid-selftest: expect-dmar-faults (begin|end)")
SPLAT = 25          # lines of a splat that are shown


def bad_lines(lines):
    """
    The lines of a kernel log that no test may cause, each splat with what
    follows it. Faults are fine while a test says that it expects them.
    """
    found = []
    show = 0
    expected = False
    for line in lines:
        text = line.rstrip("\r\n")
        window = WINDOW.search(text)
        if window:
            expected = window[1] == "begin"
        bad = BAD.search(text) and not GOOD.search(text)
        fault = FAULT.search(text) and not expected
        if bad or fault:
            show = SPLAT if bad else 1
        if show:
            found.append(text)
            show -= 1
    return found


def kernel_log(lines):
    bad = bad_lines(lines)
    if not lines:
        return Result(FAIL, "kernel_log_is_clean", "the kernel printed nothing")
    if bad:
        return Result(FAIL, "kernel_log_is_clean", bad[0].strip(), bad)
    return Result(PASS, "kernel_log_is_clean")


def why_it_died(status, silence, log):
    """The meaning of rig/boot's exit status, and the first bad line of the kernel log"""
    why = {124: "the time was up", 125: "the kernel died",
           126: f"nothing was heard of it for {silence} s"}.get(status, f"status {status}")
    return why if log.outcome == PASS else f"{why}: {log.why}"


def kunit(lines):
    """The results of the KUnit suites in a kernel log; empty if KUnit did not run"""
    lines = [STAMP.sub("", line) for line in lines]
    start = next((n for n, line in enumerate(lines) if line.startswith("KTAP version")), None)
    if start is None:
        return []
    return flatten(read_tap(lines[start:]), "kunit")


def skips(lines):
    """One line for each test of KUnit that was skipped"""
    return [f"skipped: {r.name.removeprefix('kunit ')}: {r.why or 'no reason given'}" for r in kunit(lines) if r.outcome == SKIP]


def idle_cpu_stalled(lines):
    return any(IDLE_CPU.search(line) for line in lines)


# ---- what the emulator reported (CONSOLE.emulator)

def emulator_log(lines):
    """A failed test if there is anything else"""
    found = [line for line in lines if line.strip() and not DMA_FAULT.search(line)]
    other = [line for line in found if not LOST.search(line)]
    found = other or found
    if not found:
        return []
    return [Result(FAIL if other else SKIP, "emulator_reports_nothing", found[0].strip(), found[:DETAILS])]


# ---- what the guest's test job wrote (rig/guest/test)

def guest(lines, programs, died, reader=program):
    """
    The results of each program of the list, and of the search for leaks. A
    program that never began failed: the kernel was dead by then. reader gets the
    name, the output and the exit status of a program.
    """
    text = {}       # program -> its output
    status = {}
    leaks = None
    current = None
    for line in lines:
        line = line.rstrip("\r\n")
        mark = re.search(r"rig: (begin|end|leaks|done) ?(\S*) ?(\d*)$", line)
        if not mark:
            if current is not None:
                text[current].append(line)
            continue
        if line[:mark.start()] and current is not None:
            text[current].append(line[:mark.start()])
        what, name, number = mark.groups()
        if what == "begin":
            current = name
            text[name] = []
        elif what == "end":
            status[name] = int(number)
            current = None
        elif what == "leaks":
            current = "leaks"
            text["leaks"] = []
        else:
            leaks = text.get("leaks")
            current = None

    results = []
    for name in programs:
        if name not in text:
            results.append(Result(FAIL, name, "did not run"))
        elif name not in status:
            results += reader(name, text[name], 0)
            results.append(Result(FAIL, name, "did not end: " + died, text[name][-DETAILS:]))
        else:
            if status[name] == 137:
                text[name].append("# killed: it did not end in time")
            results += reader(name, text[name], status[name])
    if leaks is None:
        results.append(Result(FAIL, "no_memory_is_leaked", "was not looked at: " + died))
    elif leaks == ["not supported"]:
        results.append(Result(SKIP, "no_memory_is_leaked", "this kernel has no kmemleak"))
    elif leaks:
        results.append(Result(FAIL, "no_memory_is_leaked", leaks[0].strip(), leaks[:60]))
    else:
        results.append(Result(PASS, "no_memory_is_leaked"))
    return results


if __name__ == "__main__":
    for found in {"bad": bad_lines, "skips": skips}[sys.argv[1]](read(sys.argv[2]).splitlines()):
        print(found)
