"""Tests of the timing of log lines, their average, the warning of a rising loss, and the heartbeat."""

import math
import threading

import pytest

from fastmim.run.pace import Heartbeat, LossWindow, Pace, RiseDetector


def lines(seconds: float, every: int, total: int, first: int = 0) -> list[int]:
    """Returns the updates after which a line is due, if each update takes `seconds`."""
    pace, found = Pace(first, every), []
    for done in range(first + 1, total + 1):
        since = seconds * (done - first) if pace.needs_seconds(done) else 0.0
        if pace.is_due(done, since):
            found.append(done)
            pace.note_line(done, seconds)
    return found


@pytest.mark.parametrize("every", [20, 50, 10_000])
@pytest.mark.parametrize("seconds", [0.001, 0.1, 1.0, 7.0, 24.0, 55.0, 400.0])
def test_the_first_line_comes_within_a_minute_and_then_one_a_minute(seconds, every):
    found = lines(seconds, every, 400)
    if seconds * 400 > 60:
        assert found[0] * seconds <= max(60, seconds)
    assert all((b - a) * seconds <= max(60, seconds) or b - a <= every for a, b in zip(found, found[1:], strict=False))
    assert set(range(every, 401, every)) <= set(found)


def test_fast_updates_are_logged_as_asked_only():
    assert lines(0.01, 20, 100) == [20, 40, 60, 80, 100]
    assert lines(0.01, 20, 100, first=35) == [40, 60, 80, 100]


def test_the_first_lines_of_a_continued_run_average_as_many_updates_as_the_others():
    """The loss of update n is n; the run stops after update 5."""
    once, rows = LossWindow(4, [], 0), []
    assert once.mean(2.5, 4, 4) == (2.5, 4)
    mean, count = once.mean(5.0, 1, 5)
    rows.append({"step": 5, "loss": mean, "averaged": count, "updates": 1})
    again = LossWindow(4, rows, 5)
    assert again.mean(7.0, 3, 8) == ((5 + 6 + 7 + 8) / 4, 4)
    assert again.mean(9.0, 1, 9) == (9.0, 1)


def test_skipped_updates_do_not_count():
    window = LossWindow(4, [], 0)
    loss, count = window.mean(math.nan, 0, 2)
    assert math.isnan(loss) and count == 0
    assert window.mean(3.0, 2, 4) == (3.0, 2)


def test_a_loss_that_rises_beyond_its_start_is_noticed_once():
    rise = RiseDetector([])
    assert [rise.notice(loss) for loss in (1.08, 0.9, 1.0, 1.2)] == [None] * 4
    assert rise.notice(56.0) == (1.08, pytest.approx((1.0 + 1.2 + 56.0) / 3))
    assert rise.notice(70.0) is None
    continued = RiseDetector([{"loss": 1.0}, {"loss": 2.0}, {"loss": None}, {"step": 3}])
    assert continued.notice(2.2) is None and continued.notice(2.4) == (1.0, pytest.approx(2.2))


def test_one_high_line_after_the_first_is_no_rise_unless_it_is_far_above():
    assert RiseDetector([{"loss": 1.0}]).notice(2.0) is None
    assert RiseDetector([{"loss": 1.0}]).notice(3.0) == (1.0, 3.0)
    assert RiseDetector([{"loss": 1.0}]).notice(math.nan) is None


def test_a_heartbeat_comes_while_no_line_does():
    came = threading.Event()
    heartbeat = Heartbeat(lambda seconds: came.set(), seconds=0.01)
    heartbeat.start()
    assert came.wait(60)
    heartbeat.stop()
    Heartbeat(print).stop()  # never started
