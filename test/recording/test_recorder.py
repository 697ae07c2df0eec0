"""What a recorder keeps: counted by hand, with pairs every 0.1 s and 0.25 s before and after a trigger."""

from __future__ import annotations

import threading
import tracemalloc
from collections import Counter

import pytest
from support.bags import SECOND
from support.pair_folders import small_rig
from support.recording import TENTH, TOPICS, config, contents, episodes, later, pair_messages, quiet
from support.waiting import LIMIT, wait_until

from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.recording import Message, Recorder, RecorderConfig, Topic, manifest
from fg_depth_ros.recording.ring import Group

START = 100 * SECOND
WORD = Topic("/word", "std_msgs/msg/String")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return pair_messages(tmp_path_factory.mktemp("pairs"), [START + k * TENTH for k in range(30)])


@pytest.fixture
def make(tmp_path):
    made = []

    def call(**changes):
        describe = changes.pop("describe", dict)
        options = {
            name: changes.pop(name) for name in ("encode", "latched", "on_finished", "open_file") if name in changes
        }
        faults = []
        recorder = Recorder(
            config(tmp_path, **changes), describe, lambda subject, text: faults.append((subject, text)), **options
        )
        recorder.faults = faults
        made.append(recorder)
        return recorder

    yield call
    for recorder in made:
        recorder.close()


def feed(recorder, pairs, shift=0):
    for stamp, items in pairs:
        recorder.submit_pair(stamp + shift, later(items, shift))


def stamps(bag):
    return [pair.stamp for pair in open_bag_pairs(bag)]


def numbers(bag):
    return [(stamp - START) // TENTH for stamp in stamps(bag)]


def lines(recorder):
    return manifest.read(recorder.config.root)


def counts(recorder):
    account = quiet(recorder)
    return tuple(account[key] for key in ("offered", "written", "not_wanted", "in_ring", "dropped"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"before": -1.0}, "before is -1.0"),
        ({"after": float("nan")}, "after is nan"),
        ({"queue_bytes": -5}, "queue_bytes is -5"),
        ({"max_episode_bytes": 0}, "max_episode_bytes is 0 and max_episode_seconds 300.0"),
        ({"storage": "gif"}, "storage is 'gif': raw, zstd, png, jpeg"),
        ({"jpeg_quality": 0}, "jpeg_quality is 0"),
        ({"prefix": "a/b"}, "prefix is 'a/b'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, changes, text):
    with pytest.raises(ValueError, match=text):
        RecorderConfig(tmp_path, **changes)


def test_without_a_trigger_nothing_is_written(make, pairs, tmp_path):
    recorder = make()
    feed(recorder, pairs[:10])
    # The newest is pair 9; those of the 0.25 s before it are 7, 8 and itself.
    assert counts(recorder) == (10, 0, 7, 3, 0)
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_a_trigger_keeps_the_seconds_before_and_after(make, pairs, tmp_path):
    recorder = make(
        describe=lambda: {"rig": small_rig().to_dict(), "weights": {"mono": {"model": "m"}}, "software": {"a": "1"}}
    )
    feed(recorder, pairs[:10])
    recorder.trigger("motion", "7.5 px")
    feed(recorder, pairs[10:15])
    # 7, 8, 9 before; 10 and 11 lie within 0.25 s after pair 9. 12 ends it; the ring holds 12, 13, 14.
    assert counts(recorder) == (15, 5, 7, 3, 0)
    wait_until(lambda: lines(recorder))
    (bag,) = episodes(tmp_path)
    assert bag.name == "episode_19700101T000140.701Z_motion"
    assert numbers(bag) == [7, 8, 9, 10, 11]
    stored = {(topic, time): data for topic, time, data in contents(bag)}
    for _, items in pairs[7:12]:
        for topic, message in items:
            assert stored.pop((topic.name, message.recorded)) == message.data
    assert not stored
    (line,) = lines(recorder)
    assert line == manifest.read_episode(bag)
    assert line["schema"] == "fg_depth_episode/1"
    assert (line["trigger"], line["detail"], line["pairs"]) == ("motion", "7.5 px", 5)
    assert (line["began_ns"], line["ended_ns"]) == (START + 7 * TENTH, START + 11 * TENTH)
    assert line["recorded_ns"] == [START + 7 * TENTH + 10**6, START + 11 * TENTH + 10**6]
    assert line["messages"] == dict.fromkeys(TOPICS, 5)
    assert line["rig"] == small_rig().to_dict()
    assert line["weights"] == {"mono": {"model": "m"}}
    assert (line["storage"], line["drops"], line["recovered"], line["continues"]) == ("raw", {}, False, None)
    assert line["bytes"] == (bag / f"{bag.name}_0.mcap").stat().st_size
    assert recorder.faults == []


def test_a_trigger_during_an_episode_prolongs_it(make, pairs, tmp_path):
    recorder = make()
    recorder.trigger("manual", "before the first pair")
    feed(recorder, pairs[:2])
    recorder.trigger("motion", "3 px")
    recorder.trigger("interval")
    feed(recorder, pairs[2:10])
    # Pair 0 begins it, the triggers at pair 1 let it end at 1 + 2.5.
    assert counts(recorder) == (10, 4, 3, 3, 0)
    recorder.close()
    (line,) = lines(recorder)
    assert (line["trigger"], line["detail"]) == ("manual", "before the first pair; motion: 3 px; interval")
    assert numbers(episodes(tmp_path)[0]) == [0, 1, 2, 3]


def test_a_trigger_while_the_cameras_are_silent_counts_from_the_next_pair(make, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("fg_depth_ros.recording.recorder._SILENT_SECONDS", 0.0)
    recorder = make()
    feed(recorder, pairs[:5])
    recorder.trigger("manual")
    feed(recorder, pairs[12:20])  # 0.8 s later than pair 4: beyond the 0.25 s after it
    recorder.close()
    assert numbers(episodes(tmp_path)[0]) == [2, 3, 4, 12, 13, 14]


def test_continuous_recording_and_what_lies_beside_the_pairs(make, pairs, tmp_path):
    recorder = make()
    feed(recorder, pairs[:3])
    recorder.submit_extra(WORD, Message("/word", pairs[2][1][0][1].recorded, b"\0\1\0\0\2\0\0\0a\0"))
    recorder.start()
    recorder.start()
    feed(recorder, pairs[3:8])
    data = b"\0\1\0\0\3\0\0\0hi\0"
    recorder.submit_extra(WORD, Message("/word", pairs[7][1][0][1].recorded + 5, data))
    assert counts(recorder) == (8, 5, 3, 0, 0)
    assert recorder.values()["recording"] == "continuous"
    assert recorder.values()["other messages written"] == "1"
    recorder.stop()
    feed(recorder, pairs[8:9])
    assert counts(recorder) == (9, 5, 3, 1, 0)
    recorder.close()
    (bag,) = episodes(tmp_path)
    assert bag.name.endswith("_continuous")
    assert numbers(bag) == [3, 4, 5, 6, 7]
    assert [(t, d) for t, _, d in contents(bag) if t == "/word"] == [("/word", data)]
    assert recorder.values()["recording"] == "no"


def test_every_episode_begins_with_what_is_latched(make, pairs, tmp_path):
    recorder = make(latched=lambda: [(WORD, b"\0\1\0\0long ago")], max_episode_seconds=0.35)
    feed(recorder, pairs[:5])
    recorder.trigger("manual")
    for pair in pairs[5:10]:  # one after the other, so that each is a chunk
        feed(recorder, [pair])
        quiet(recorder)
    recorder.close()
    assert len(lines(recorder)) == 2
    for line in lines(recorder):
        times = [recorded for _, recorded, _ in contents(tmp_path / line["name"])]
        assert times == sorted(times)
        topic, recorded, data = contents(tmp_path / line["name"])[0]
        assert (topic, data) == (WORD.name, b"\0\1\0\0long ago")
        assert recorded == line["recorded_ns"][0] == times[1]
        assert line["messages"][WORD.name] == 1


def test_the_ring_holds_the_seconds_before_while_the_cameras_are_silent(make, pairs, tmp_path):
    recorder = make()
    feed(recorder, pairs[:5])
    times = [START + k * TENTH for k in range(5, 605)]
    for time in times:
        recorder.submit_extra(WORD, Message("/word", time, b"\0\1\0\0\2\0\0\0a\0"))
    assert counts(recorder) == (5, 0, 5, 0, 0)
    assert recorder.values()["ring (s)"] == "0.20"
    recorder.trigger("manual")
    recorder.close()
    assert [recorded for _, recorded, _ in contents(episodes(tmp_path)[0])] == times[-3:]


def test_a_clock_that_is_set_back_while_the_cameras_are_silent_empties_the_ring(make, pairs):
    recorder = make()
    feed(recorder, pairs[:5])
    for k in range(100):
        recorder.submit_extra(WORD, Message("/word", START - 3600 * SECOND + k * TENTH, b"\0\1\0\0\2\0\0\0a\0"))
    assert counts(recorder) == (5, 0, 5, 0, 0)
    assert recorder.values()["ring (s)"] == "0.20"


def test_small_messages_are_counted_with_the_memory_that_they_take(make, pairs):
    recorder = make(before=100.0, ring_bytes=10_000)
    for k in range(100):
        recorder.submit_extra(WORD, Message("/word", START + k, b""))
    tracemalloc.start()
    taken = [Group(START + k, None, ((WORD, Message("/word", START + 10**9 * k, bytes([k] * 9))),)) for k in range(100)]
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(group.memory for group in taken) == pytest.approx(memory, rel=0.2)
    assert 20 < int(recorder.values()["ring (bytes)"]) // taken[0].memory < 30


def test_the_ring_is_bounded_in_bytes_before_seconds(make, pairs, tmp_path):
    size = Group(0, 0, tuple(pairs[0][1])).memory
    recorder = make(before=100.0, ring_bytes=4 * size + 10)
    feed(recorder, pairs[:10])
    assert counts(recorder) == (10, 0, 6, 4, 0)
    assert int(recorder.values()["ring (bytes)"]) == 4 * size
    assert recorder.values()["ring (s)"] == "0.30"
    word = Message("/word", pairs[9][1][0][1].recorded, bytes(11))
    recorder.submit_extra(WORD, word)
    assert counts(recorder) == (10, 0, 7, 3, 0)
    for _ in range(1000):  # with the cameras dead
        recorder.submit_extra(WORD, word)
    assert int(recorder.values()["ring (bytes)"]) <= 4 * size + 10


def test_a_full_queue_drops_whole_pairs_and_says_so(make, pairs, tmp_path):
    size = Group(0, 0, tuple(pairs[0][1])).memory
    gate = threading.Event()

    def slow(topic, message):
        gate.wait(LIMIT)
        return topic, message

    recorder = make(queue_bytes=3 * size, encode=slow)
    recorder.start()
    feed(recorder, pairs[:10])
    recorder.submit_extra(WORD, Message("/word", pairs[9][1][0][1].recorded, bytes(11)))
    account = recorder.counters()
    assert (account["in_queue"], account["dropped"]) == (3, 7)
    gate.set()
    assert counts(recorder) == (10, 3, 0, 0, 7)
    assert recorder.values()["dropped: queue full"] == "7"
    assert recorder.values()["others dropped: queue full"] == "1"
    recorder.close()
    assert numbers(episodes(tmp_path)[0]) == [0, 1, 2]
    assert lines(recorder)[0]["drops"] == {"queue full": 7}
    assert lines(recorder)[0]["other_drops"] == {"queue full": 1}


def test_an_episode_tells_how_many_messages_were_lost_during_it(make, pairs, tmp_path):
    recorder = make()
    recorder.count_lost(inputs=1, others=3)  # before it
    for inputs, others in ((1, 4), (8, 6)):
        recorder.start()
        feed(recorder, pairs[:3])
        quiet(recorder)
        recorder.count_lost(inputs=inputs, others=others)
        recorder.stop()
        wait_until(lambda: not recorder.episode)
    recorder.close()
    assert [line["input_drops"] for line in lines(recorder)] == [{}, {"lost on the way": 7}]
    assert [line["other_drops"] for line in lines(recorder)] == [{"lost on the way": 1}, {"lost on the way": 2}]
    assert recorder.extra_drops == {"lost on the way": 6}
    assert recorder.input_drops == {"lost on the way": 8}
    assert recorder.drops == {}


def test_what_cannot_be_encoded_is_dropped_alone(make, pairs, tmp_path):
    bad = pairs[2][1][1][1].data

    def encode(topic, message):
        if message.data == bad:
            raise RuntimeError("no image")
        return topic, message._replace(data=message.data[:40]) if topic.name == TOPICS[0] else message

    recorder = make(encode=encode)
    recorder.start()
    feed(recorder, pairs[:5])
    assert counts(recorder) == (5, 4, 0, 0, 1)
    assert recorder.values()["dropped: encode error"] == "1"
    assert any(subject == "encoding" and "no image" in (text or "") for subject, text in recorder.faults)
    recorder.close()
    assert lines(recorder)[0]["messages"] == dict.fromkeys(TOPICS, 4)
    assert {len(data) for topic, _, data in contents(episodes(tmp_path)[0]) if topic == TOPICS[0]} == {40}


def test_an_episode_is_continued_when_it_is_long_enough(make, pairs, tmp_path):
    recorder = make(max_episode_seconds=0.35)
    recorder.start()
    for pair in pairs[:10]:  # one after the other, so that each is a chunk
        feed(recorder, [pair])
        quiet(recorder)
    recorder.close()
    found = lines(recorder)
    assert [numbers(tmp_path / line["name"]) for line in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [line["continues"] for line in found] == [None, found[0]["name"], found[1]["name"]]
    assert Counter(line["trigger"] for line in found) == {"continuous": 3}


def test_an_episode_is_continued_when_it_is_large_enough(make, pairs, tmp_path):
    recorder = make(max_episode_bytes=300_000)  # three pairs of 93 KB
    recorder.start()
    for pair in pairs[:7]:
        feed(recorder, [pair])
        quiet(recorder)
    recorder.close()
    assert [line["pairs"] for line in lines(recorder)] == [3, 3, 1]
    assert all(line["bytes"] < 300_000 for line in lines(recorder))


def test_another_calibration_begins_another_episode(make, pairs, tmp_path):
    rig = {"width": 1}
    recorder = make(describe=lambda: {"rig": dict(rig)})
    feed(recorder, pairs[:5])
    recorder.trigger("manual")
    feed(recorder, pairs[5:6])
    rig["width"] = 2
    recorder.cut("calibration changed")
    feed(recorder, pairs[6:10])
    quiet(recorder)
    recorder.cut("calibration changed")  # between episodes: only the ring is emptied
    assert counts(recorder) == (10, 5, 5, 0, 0)
    recorder.close()
    first, second = lines(recorder)
    assert numbers(tmp_path / first["name"]) == [2, 3, 4, 5]
    assert numbers(tmp_path / second["name"]) == [6]  # 4 + 2.5
    assert (first["rig"], second["rig"]) == ({"width": 1}, {"width": 2})
    assert (first["continues"], second["continues"]) == (None, first["name"])
    assert second["detail"] == "calibration changed"


@pytest.mark.parametrize(("jump", "word"), [(-50 * SECOND, "back 49.9 s"), (3600 * SECOND, "forward 3600.1 s")])
def test_a_clock_that_jumps_ends_the_episode_and_what_was_asked_for_goes_on(make, pairs, tmp_path, jump, word):
    recorder = make()
    feed(recorder, pairs[:5])
    recorder.trigger("manual")
    feed(recorder, pairs[5:6])
    feed(recorder, pairs[6:12], jump)
    assert counts(recorder)[0] == 12
    recorder.close()
    first, second = lines(recorder)
    assert numbers(tmp_path / first["name"]) == [2, 3, 4, 5]
    assert second["continues"] == first["name"]
    assert word in second["detail"]
    # The images keep their stamps; 0.15 s are left, counted from the pair after the jump (0.1 s of it were its step).
    assert second["pairs"] == 2
    account = recorder.counters()
    assert (account["written"], account["not_wanted"] + account["in_ring"], account["dropped"]) == (6, 6, 0)


def test_a_jump_between_episodes_empties_the_ring(make, pairs):
    recorder = make(before=1000.0)
    feed(recorder, pairs[:5])
    feed(recorder, pairs[5:7], -50 * SECOND)
    assert counts(recorder) == (7, 0, 5, 2, 0)
    feed(recorder, pairs[7:8], -50 * SECOND - SECOND)  # 0.9 s back: messages out of order, no jump
    assert counts(recorder) == (8, 0, 5, 3, 0)


def test_an_episode_ends_when_the_cameras_are_gone(make, pairs, monkeypatch):
    monkeypatch.setattr("fg_depth_ros.recording.recorder._END_SECONDS", 0.05)
    recorder = make()
    feed(recorder, pairs[:3])
    recorder.trigger("manual")
    wait_until(lambda: lines(recorder))
    assert lines(recorder)[0]["pairs"] == 3
    assert recorder.values()["recording"] == "no"


def test_a_clock_that_goes_back_to_the_same_second_gives_another_name(make, pairs, tmp_path):
    recorder = make()
    for _ in range(3):
        recorder.start()
        feed(recorder, pairs[:2])
        recorder.stop()
        quiet(recorder)
    recorder.close()
    name = "episode_19700101T000140.001Z_continuous"
    assert [bag.name for bag in episodes(tmp_path)] == [name, f"{name}_2", f"{name}_3"]
    assert [line["name"] for line in lines(recorder)] == [name, f"{name}_2", f"{name}_3"]


def test_nothing_that_callers_or_callbacks_do_stops_it(make, pairs, tmp_path):
    told = []

    def finished(line):
        told.append(line["name"])
        raise RuntimeError("callback")

    def describe():
        raise KeyError("rig")

    recorder = make(describe=describe, on_finished=finished)
    recorder.submit_pair(START, [])
    recorder.trigger("manual")
    feed(recorder, pairs[:2])
    assert counts(recorder)[4] == 0
    recorder.close()
    recorder.close()
    feed(recorder, pairs[2:3])
    recorder.trigger("manual")
    recorder.start()
    recorder.submit_extra(WORD, Message("/word", 1, b""))
    account = recorder.counters()
    assert (account["offered"], account["dropped"]) == (4, 1)
    assert told == [bag.name for bag in episodes(tmp_path)]
    assert ("description", "KeyError: 'rig'; the manifest lacks rig and weights") in recorder.faults


def test_a_type_without_a_definition_is_recorded_and_named(make, pairs, tmp_path):
    recorder = make()
    recorder.start()
    feed(recorder, pairs[:1])
    recorder.submit_extra(
        Topic("/odd", "odd_msgs/msg/Odd"), Message("/odd", pairs[0][1][0][1].recorded, b"\0\1\0\0odd")
    )
    recorder.close()
    assert [d for t, _, d in contents(episodes(tmp_path)[0]) if t == "/odd"] == [b"\0\1\0\0odd"]
    (text,) = [text for subject, text in recorder.faults if subject == "types"]
    assert "odd_msgs/msg/Odd" in text


def test_zstd_packs_the_chunks(make, tmp_path):
    recorder = make(storage="zstd")
    recorder.start()
    zeros = Message("/word", START, b"\0\1\0\0" + bytes(100_000))
    for _ in range(5):
        recorder.submit_extra(WORD, zeros)
    recorder.close()
    (bag,) = episodes(tmp_path)
    assert [data for *_, data in contents(bag)] == [zeros.data] * 5
    assert lines(recorder)[0]["bytes"] < 5000
    assert lines(recorder)[0]["pairs"] == 0
