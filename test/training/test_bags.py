"""Recordings divided by time, against parts that were counted by hand; no two parts share a moment."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("pytorch_lightning")
from hypothesis import given, settings
from hypothesis import strategies as st

from fg_depth_ros.files import FileError
from fg_depth_ros.training.finetune.bags import split_by_time
from fg_depth_ros.training.finetune.config import TimeSplit

SECOND = 1_000_000_000
DATE = 1_800_000_000 * SECOND


def pairs(*seconds, start=0):
    return [SimpleNamespace(stamp=start + round(second * SECOND)) for second in seconds]


def every_tenth(count, start=0):
    return pairs(*(k / 10 for k in range(count)), start=start)


def tenths(part, start=0):
    return [round((pair.stamp - start) / 1e8) for pair in part]


def test_settings_that_divide_nothing_are_named():
    with pytest.raises(ValueError, match="unknown split 'halves'; known: bag, blocks, end"):
        TimeSplit("halves")
    for share in (0, 0.4):
        with pytest.raises(ValueError, match="--held-out must lie in 0 .. 1/3 .*got 0"):
            TimeSplit(held_out=share)
    with pytest.raises(ValueError, match="--guard must not be negative, got -1"):
        TimeSplit(guard=-1)


def test_too_little_to_divide_is_refused_with_the_way_out():
    with pytest.raises(FileError, match=r"the 3 pairs of 1 bag.s. leave none for the stopping part .split 'blocks', "):
        split_by_time({"short": every_tenth(3)}, TimeSplit())
    with pytest.raises(FileError, match="leave none for the stopping part .*a smaller guard"):
        split_by_time({"ep": every_tenth(101)}, TimeSplit(guard=5))
    with pytest.raises(FileError, match="leave none for the training part .split 'bag'.*record more"):
        split_by_time({"one": every_tenth(101)}, TimeSplit("bag"))


def test_blocks_of_a_ten_second_bag():
    """Ten blocks of a second: the third and the eighth are held out, the fifth and the last stop."""
    parts, counts = split_by_time({"ep": every_tenth(101)}, TimeSplit(guard=0.15))
    assert tenths(parts.test["ep"]) == [*range(20, 30), *range(70, 80)]
    assert tenths(parts.validation["ep"]) == [*range(40, 50), *range(90, 101)]
    left_out = {19, 30, 39, 50, 69, 80, 89}
    used = {*range(20), *range(30, 40), *range(50, 70), *range(80, 90)} - left_out
    assert tenths(parts.training["ep"]) == sorted(used)
    assert counts == {"ep": {"training": len(used), "stopping": 21, "held_out": 20, "guard": 7}}


def test_the_end_of_a_bag():
    parts, counts = split_by_time({"ep": every_tenth(101)}, TimeSplit("end", held_out=0.25, guard=0.3))
    assert tenths(parts.test["ep"]) == list(range(75, 101))
    assert tenths(parts.validation["ep"]) == list(range(50, 72))  # 72, 73, 74 are within 0.3 s of 75
    assert tenths(parts.training["ep"]) == list(range(47))
    assert counts["ep"]["guard"] == 6


def test_a_bag_too_short_to_be_cut_is_trained_on():
    parts, counts = split_by_time({"ep": every_tenth(101), "short": every_tenth(3)}, TimeSplit())
    assert counts["short"] == {"training": 3, "stopping": 0, "held_out": 0, "guard": 0}
    assert "short" not in parts.test
    # Three parts, but nothing to stop by is farther than the guard from what is held out.
    counts = split_by_time({"ep": every_tenth(101), "short": every_tenth(13)}, TimeSplit())[1]
    assert counts["short"] == {"training": 13, "stopping": 0, "held_out": 0, "guard": 0}


def test_whole_bags_stay_in_their_part_when_others_come():
    names = [f"episode_{k}" for k in range(40)]

    def part_of(names):
        parts, _ = split_by_time({name: every_tenth(5) for name in names}, TimeSplit("bag"))
        return {name: part for part, sets in parts._asdict().items() for name in sets}

    few, many = part_of(names[:25]), part_of(names)
    assert all(many[name] == part for name, part in few.items()) and len(many) == 40
    assert {"training", "validation", "test"} == set(few.values())
    assert 2 <= sum(part == "test" for part in many.values()) <= 16
    assert set(part_of(names[:3]).values()) == {"training", "validation", "test"}


@pytest.mark.parametrize("share", [0.2, 1 / 3])
def test_of_few_bags_one_at_least_is_in_every_part(share):
    for draw in range(300):
        names = [f"rosbag2_{draw}_{k}" for k in range(3 + draw % 3)]
        parts, _ = split_by_time({name: every_tenth(5) for name in names}, TimeSplit("bag", held_out=share))
        assert all(parts) and sum(map(len, parts)) == len(names)


def test_an_episode_that_another_one_continues_keeps_apart():
    """The last block of the first bag stops; the second bag goes on a tenth of a second later."""
    sets = {"one": every_tenth(101, DATE), "two": every_tenth(101, DATE + 101 * SECOND // 10)}
    parts, _ = split_by_time(sets, TimeSplit(guard=0.25))
    assert tenths(parts.training["two"], DATE)[0] == 103
    # Clocks that begin at 0, as in a simulation, say nothing of each other.
    parts, _ = split_by_time({"one": every_tenth(101), "two": every_tenth(101)}, TimeSplit("blocks", guard=0))
    alone, _ = split_by_time({"one": every_tenth(101)}, TimeSplit("blocks", guard=0))
    assert tenths(parts.training["one"]) == tenths(alone.training["one"])


def test_the_same_pairs_in_two_bags_do_not_judge_themselves():
    sets = {"whole": every_tenth(101, DATE), "saved_part": every_tenth(64, DATE)}
    parts, _ = split_by_time(sets, TimeSplit(guard=0))
    times = [{pair.stamp for part in sets.values() for pair in part} for sets in parts]
    assert not times[0] & times[1] and not times[0] & times[2] and not times[1] & times[2]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40_000), min_size=1, max_size=40, unique=True), min_size=1, max_size=4),
    st.sampled_from(["blocks", "end", "bag"]),
    st.floats(0, 2),
)
def test_parts_lie_apart_and_every_pair_is_counted_once(bags, kind, guard):
    sets = {f"ep{k}": pairs(*sorted(ms / 1000 for ms in times), start=DATE) for k, times in enumerate(bags)}
    try:
        parts, counts = split_by_time(sets, TimeSplit(kind, guard=guard))
    except FileError:
        return
    for name, found in sets.items():
        assert sum(counts[name].values()) == len(found)
        in_parts = [pair.stamp for part in parts for pair in part.get(name, [])]
        assert len(in_parts) == len(found) - counts[name]["guard"] == len(set(in_parts))
    times = [[pair.stamp for part in of.values() for pair in part] for of in parts]
    for k, one in enumerate(times):
        for other in times[k + 1 :]:
            assert min(abs(a - b) for a in one for b in other) > round(guard * 1e9)
