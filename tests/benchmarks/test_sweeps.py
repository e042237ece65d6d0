"""The benchmark of searches."""

from __future__ import annotations

import pytest

from benchmarks import sweeps
from benchmarks.harness import Samples
from benchmarks.sweeps import ONE, PLAIN, Search


@pytest.mark.long
def test_a_search_is_held_against_one_written_by_hand() -> None:
    ways = [way for way in sweeps.searches() if way.name in (ONE, PLAIN)]
    (report,) = sweeps.measure(trials=4, ways=ways)
    assert [row[:2] for row in report.rows] == [[ONE, 2], [PLAIN, 2]]
    for _, _, rate, seconds, _ in report.rows:
        assert 0 < 60 / rate < seconds
    assert report.rows[1][-1] == 1
    assert report.aims == []


def test_the_aims_are_told_of_two_workers() -> None:
    costs = {sweeps.TWO: 0.05, sweeps.SHAPE: 0.05, PLAIN: 0.2}
    samples = Samples({name: [seconds] for name, seconds in costs.items()})
    first, second = sweeps._aims(samples, list(costs))
    assert (first.value, first.met) == (4.0, True)
    assert (second.value, second.met) == (1200.0, True)


def test_each_way_has_a_name_of_its_own() -> None:
    names = [way.name for way in sweeps.searches()]
    assert len(set(names)) == len(names)
    assert Search("x", lambda *_: None, part=0.01).count(50) == 2
