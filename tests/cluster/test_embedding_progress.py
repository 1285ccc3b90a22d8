import pytest

from cluster.embedding_progress import RATE_WINDOW_SECONDS, RateMeter, share_of_peak
from realm_core.engines.engine import Work


def test_nothing_is_known_at_first():
    meter = RateMeter()
    assert meter.lately() == (Work(), 0.0)
    meter.add(5.0, Work(10, 100, 1.0), 2.0)
    assert meter.lately() == (Work(), 0.0)
    assert share_of_peak(1.0, meter.peak_flops) is None


def test_the_rate_is_that_of_the_window():
    meter = RateMeter()
    for second in range(100):
        meter.add(second, Work(num_rows=second if second < 50 else 50 + 3 * (second - 50)), 0.0)
    work, seconds = meter.lately()
    assert seconds == pytest.approx(RATE_WINDOW_SECONDS, abs=1.01)
    assert work.num_rows / seconds == pytest.approx(3.0)


def test_the_peak_is_that_of_the_devices_while_they_were_there():
    meter = RateMeter()
    for second, peak in [(0, 10.0), (2, 20.0), (5, 0.0), (9, 0.0)]:
        meter.add(second, Work(num_flops=8.0 * second), peak)
    assert meter.peak_flops == 2 * 10 + 3 * 20
    assert share_of_peak(40.0, meter.peak_flops) == 0.5
