"""Pytest plugin: CPU seconds of every test, file and kind of costly test, child processes included.

It works in one process and on the workers of pytest-xdist.
"""

import contextlib
import os
import resource
from collections import Counter
from pathlib import Path

import pytest

LONG = 5.0
"""CPU seconds above which a test needs the mark `costly`."""


def pytest_addoption(parser):
    parser.addoption(
        "--cpu-seconds", type=int, metavar="N", help="list the N costliest files and tests, in CPU seconds"
    )


def pytest_configure(config):
    words = "costly(kind, reason): costs more than 5 CPU seconds; tests/README.md has the budget of each kind"
    config.addinivalue_line("markers", words)
    config.pluginmanager.register(Totals(), "totals of cpu_seconds")


def spent() -> float:
    """Returns the CPU seconds of this process and of its children, whether they have ended or still run."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + sum(map(_running, _children()))


def _children() -> list[int]:
    """Returns the processes that this one has started and not waited for; none on systems that do not tell."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            found += map(int, path.read_text().split())
    return found


def _running(pid: int) -> float:
    """Returns the CPU seconds of a process and of the children that it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # the process has ended
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    item.cpu_seconds_before = spent()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":  # a worker of pytest-xdist sends user_properties along with the report
        mark = item.get_closest_marker("costly")
        report.user_properties += [("cpu_seconds", spent() - item.cpu_seconds_before), ("kind", mark and mark.args[0])]
    return report


class Totals:
    """CPU seconds by test, file and kind, in the process that prints the summary."""

    def __init__(self):
        self.by_test, self.by_file, self.by_kind, self.tests = Counter(), Counter(), Counter(), Counter()
        self.unmarked = []

    def pytest_runtest_logreport(self, report):
        found = dict(report.user_properties)
        if report.when != "teardown" or "cpu_seconds" not in found:
            return
        seconds, kind = found["cpu_seconds"], found["kind"]
        self.by_test[report.nodeid] = seconds
        self.by_file[report.nodeid.split("::")[0]] += seconds
        if kind:
            self.by_kind[kind] += seconds
            self.tests[kind] += 1
        elif seconds > LONG:
            self.unmarked.append(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter, config):
        say = terminalreporter.write_line
        if count := config.getoption("--cpu-seconds"):
            terminalreporter.section(f"CPU seconds: {self.by_test.total():.0f} in {len(self.by_test)} tests")
            for table in (self.by_file, self.by_test):
                for name, seconds in table.most_common(count):
                    say(f"{seconds:8.1f}  {name}")
        for kind, seconds in self.by_kind.most_common():
            say(f"{seconds:8.1f} CPU seconds in {self.tests[kind]} costly tests: {kind}")
        for name in self.unmarked:
            say(f"{self.by_test[name]:.1f} CPU seconds without the mark `costly`: {name}")
