"""Recordings divided by time, against parts that were counted by hand; no two parts share a moment."""

from __future__ import annotations

import hashlib
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


def divided(names, share=0.2):
    """Parts of whole bags, each with a hash made of its name."""
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    parts, _ = split_by_time({name: every_tenth(5) for name in names}, TimeSplit("bag", held_out=share), digests)
    return {name: part for part, sets in parts._asdict().items() for name in sets}


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
        divided(["one"])


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
    few, many = divided(names[:25]), divided(names)
    assert all(many[name] == part for name, part in few.items()) and len(many) == 40
    assert {"training", "validation", "test"} == set(few.values())
    assert 2 <= sum(part == "test" for part in many.values()) <= 16


def test_whole_bags_are_divided_by_their_content_not_their_name():
    digests = {f"r1/drive{k}": hashlib.sha256(bytes([k])).hexdigest() for k in range(12)}
    alone = {name.removeprefix("r1/"): digest for name, digest in digests.items()}
    more = {f"r2/drive{k}": hashlib.sha256(bytes([k, 1])).hexdigest() for k in range(12)}
    one, two = (
        split_by_time({name: every_tenth(5) for name in each}, TimeSplit("bag"), each)[0]
        for each in (alone, digests | more)
    )
    for before, after in zip(one, two, strict=True):
        assert {f"r1/{name}" for name in before} <= set(after)


@pytest.mark.parametrize("share", [0.2, 1 / 3])
def test_of_few_bags_one_at_least_is_in_every_part(share, caplog):
    for draw in range(300):
        names = [f"rosbag2_{draw}_{k}" for k in range(3 + draw % 3)]
        assert sorted(divided(names, share)) == names
        assert set(divided(names, share).values()) == {"training", "validation", "test"}
    assert "one, rosbag2_" in caplog.text and "which may change when bags are added" in caplog.text


def test_parts_that_the_hashes_fill_are_no_reason_to_warn(caplog):
    divided([f"episode_{k}" for k in range(40)])
    assert not caplog.text


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


def test_stamps_of_before_the_clock_was_set_belong_to_the_dates_after_them():
    """A robot without a battery for its clock: 2 s of stamps at 5 s, then dates; a second bag of the same drive."""
    drive = every_tenth(600, DATE)
    sets = {"boot": [*every_tenth(20, 5 * SECOND), *drive], "second": drive}
    for kind in ("blocks", "end"):
        parts, counts = split_by_time(sets, TimeSplit(kind))
        times = [{pair.stamp for part in of.values() for pair in part} for of in parts]
        assert not times[0] & times[1] and not times[0] & times[2] and not times[1] & times[2]
        assert all(counts["boot"].values())
    # What was recorded directly before the clock was set is as near to the first date as its neighbours are.
    parts, counts = split_by_time({"boot": [*every_tenth(80, 5 * SECOND), *drive[:20]]}, TimeSplit("end"))
    assert tenths(parts.test["boot"], DATE) == list(range(20))
    assert tenths(parts.validation["boot"], 5 * SECOND) == list(range(60, 77))


@pytest.mark.parametrize("pause", [120, 3600])
@pytest.mark.parametrize("start", [0, DATE])
def test_a_pause_counts_as_little_time(pause, start):
    """Two drives of a minute in one bag, with a pause between them."""
    sets = {"drives": [*every_tenth(600, start), *every_tenth(600, start + (60 + pause) * SECOND)]}
    _, counts = split_by_time(sets, TimeSplit("end"))
    assert 236 <= counts["drives"]["held_out"] <= 244 and 232 <= counts["drives"]["stopping"] <= 244
    parts, counts = split_by_time(sets, TimeSplit("blocks"))
    assert 236 <= counts["drives"]["held_out"] <= 244 and 226 <= counts["drives"]["stopping"] <= 244
    second = start + (60 + pause) * SECOND
    assert {pair.stamp >= second for pair in parts.test["drives"]} == {False, True}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40_000), min_size=1, max_size=40, unique=True), min_size=1, max_size=4),
    st.sampled_from(["blocks", "end", "bag"]),
    st.floats(0, 2),
)
def test_parts_lie_apart_and_every_pair_is_counted_once(bags, kind, guard):
    sets = {f"ep{k}": pairs(*sorted(ms / 1000 for ms in times), start=DATE) for k, times in enumerate(bags)}
    try:
        digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in sets}
        parts, counts = split_by_time(sets, TimeSplit(kind, guard=guard), digests)
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
