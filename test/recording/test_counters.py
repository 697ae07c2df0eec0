"""The recorder against a naive list of what a trigger wants, and from many threads at once."""

from __future__ import annotations

import random
import tempfile
import threading
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.recording import TENTH, config, contents, episodes, quiet

from fg_depth_ros.recording import Message, Recorder, Topic

LEFT, RIGHT = Topic("/left/image_rect", "std_msgs/msg/String"), Topic("/right/image_rect", "std_msgs/msg/String")
START = 10**12


def pair(number):
    """Two small messages whose bytes tell which pair they are of."""
    data = b"\0\1\0\0" + number.to_bytes(8, "little")
    recorded = START + number * TENTH
    return recorded, [(topic, Message(topic.name, recorded, data)) for topic in (LEFT, RIGHT)]


def kept(root):
    """Numbers of the pairs under final names, each of which has both messages, once."""
    found = [
        (topic, int.from_bytes(data[4:12], "little")) for bag in episodes(root) for topic, _, data in contents(bag)
    ]
    assert len(set(found)) == len(found)
    left, right = ({number for topic, number in found if topic == t.name} for t in (LEFT, RIGHT))
    assert left == right
    return left


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    triggers=st.lists(st.integers(0, 29), max_size=6),
    before=st.integers(0, 12),
    after=st.integers(0, 12),
    storage=st.sampled_from(["raw", "zstd"]),
)
def test_exactly_the_pairs_around_the_triggers_are_kept(triggers, before, after, storage):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # Half a step more than so many pairs, so that rounding decides nothing.
        recorder = Recorder(
            config(root, before=before / 10 + 0.05, after=after / 10 + 0.05, storage=storage), dict, lambda *fault: None
        )
        for number in range(30):
            recorder.submit_pair(*pair(number))
            for _ in range(triggers.count(number)):
                recorder.trigger("manual")
        counters = quiet(recorder)
        recorder.close()
        wanted = {n for n in range(30) if any(t - before <= n <= t + after for t in triggers)}
        assert kept(root) == wanted
        assert counters["written"] == len(wanted)
        assert counters["dropped"] == 0
        last = {n for n in range(30) if n >= 29 - before} - wanted  # all of the ring that no trigger took
        assert counters["in_ring"] == len(last)
        assert counters["not_wanted"] == 30 - len(wanted) - len(last)


def test_the_account_adds_up_at_every_moment_from_many_threads(tmp_path):
    recorder = Recorder(
        config(tmp_path, before=1.0, after=1.0, queue_bytes=8000, max_episode_seconds=2.0), dict, lambda *fault: None
    )
    dice = random.Random(7)
    doing = threading.Event()
    doing.set()

    def meddle(seed):
        mine = random.Random(seed)
        while doing.is_set():
            getattr(recorder, mine.choice(["start", "stop", "values", "counters"]))()
            recorder.trigger("motion", "x")
            if mine.random() < 0.2:
                recorder.cut("calibration changed")
            doing_rest.wait(0.001)

    doing_rest = threading.Event()
    threads = [threading.Thread(target=meddle, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for number in range(400):
        recorder.submit_pair(*pair(number))
        counters = recorder.counters()
        assert counters["offered"] == number + 1
        assert counters["offered"] == sum(counters.values()) - counters["offered"], counters
        if dice.random() < 0.1:
            doing_rest.wait(0.002)
    doing.clear()
    for thread in threads:
        thread.join()
    recorder.close()
    counters = quiet(recorder)
    assert counters["written"] > 0
    assert len(kept(tmp_path)) == counters["written"]
    assert list(tmp_path.glob(".*")) == []
