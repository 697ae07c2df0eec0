"""``fg-depth recover``: a line per recording, and exit status 1 where something is left to do."""

from __future__ import annotations

import struct

from support.bags import large, storage_file, write
from support.recording import TENTH, contents, episodes, pair_messages

from fg_depth_ros.data.bags.mcap import McapScanner
from fg_depth_ros.recording.episodes import Episode


def left_behind(tmp_path, cut):
    """A recording folder whose recorder was killed, its file shorter by ``cut`` bytes; messages that were written."""
    root = tmp_path / "root"
    root.mkdir()
    messages = [item for _, items in pair_messages(tmp_path, [10**10 + k * TENTH for k in range(3)]) for item in items]
    episode = Episode(root, "episode_x_manual", {"trigger": "manual"})
    for item in messages:
        episode.write([item])
    episode.abandon()
    file = root / ".episode_x_manual.part" / "episode_x_manual_0.mcap"
    with file.open("r+b") as damaged:
        damaged.truncate(file.stat().st_size - cut)
    return root, messages


def test_a_killed_recording_is_completed_once(run, tmp_path):
    root, messages = left_behind(tmp_path, 100)
    status, text = run("recover", root)
    assert status == 0
    assert "episode_x_manual: 11 messages" in text
    assert "bytes without a whole message; complete again: it is cut off" in text
    assert len(contents(episodes(root)[0])) == len(messages) - 1
    assert run("recover", root) == (0, f"{root}: nothing to recover")


def test_bags_of_others_in_a_folder_are_not_called_fine(run, tmp_path):
    bag = write(tmp_path / "bags" / "bag")
    storage_file(bag).write_bytes(storage_file(bag).read_bytes()[:-500])
    status, text = run("recover", tmp_path / "bags")
    assert status == 0
    assert text.endswith(f"; 1 bag(s) of other recorders were not looked at: name them, such as {bag}")


def test_several_paths_and_what_cannot_be_recovered(run, tmp_path):
    root, _ = left_behind(tmp_path, 0)
    bag = write(tmp_path / "bag")
    rubbish = tmp_path / "rubbish.mcap"
    rubbish.write_bytes(b"rubbish")
    status, text = run("recover", rubbish, tmp_path / "nowhere", bag, root)
    assert status == 1
    assert "rubbish.mcap: 0 messages" in text
    assert "does not begin as an MCAP file" in text
    assert "nowhere: no such folder or file; give the recording folder" in text
    assert "bag: 12 messages; is whole; nothing to do" in text
    assert "episode_x_manual: 12 messages; complete again" in text


def test_a_cut_bag_is_copied(run, tmp_path):
    bag = write(tmp_path / "bag")
    file = storage_file(bag)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    status, text = run("recover", file)
    assert status == 0
    assert f"its whole messages are in {file.stem}_recovered" in text
    assert contents(bag / f"{file.stem}_recovered")


def test_a_bag_with_a_lying_index_is_copied(run, tmp_path):
    """Everything ends as it should, and the index states that the last chunk's messages were recorded at 1 ns."""
    bag, _ = large(tmp_path / "bag")
    file = storage_file(bag)
    scan = McapScanner(file, resumable=True)
    assert sum(len(part.messages) for part in scan) == 32
    chunk = scan.index.chunks[-1]
    times = struct.pack("<QQ", chunk.message_start_time, chunk.message_end_time)
    file.write_bytes(struct.pack("<QQ", 1, 1).join(file.read_bytes().rsplit(times, 1)))
    status, text = run("recover", bag)
    assert status == 0
    assert "bag: 32 messages; its index is damaged: its whole messages are in bag_recovered" in text
    assert len(contents(tmp_path / "bag_recovered")) == 32
