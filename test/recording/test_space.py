"""Manifest, quota and free-space floor, with hand-computed sizes."""

from __future__ import annotations

import json
import os

import pytest

from fg_depth_ros.recording import manifest
from fg_depth_ros.recording.recovery import add_missing_lines
from fg_depth_ros.recording.space import Space


def line(name, **more):
    return {"schema": manifest.SCHEMA, "name": name, **more}


def episode(root, name, size, *, listed=True, tells=None):
    """A finished episode whose files have this many bytes together."""
    (root / name).mkdir()
    told = json.dumps(line(tells or name))
    (root / name / "episode.json").write_text(told)
    (root / name / "data.mcap").write_bytes(bytes(size - len(told)))
    if listed:
        manifest.append(root, line(tells or name))


def names(root):
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def removed(root):
    return [entry["removed"] for entry in manifest.read(root) if "removed" in entry]


def test_a_manifest_that_is_not_there_is_empty(tmp_path):
    assert manifest.read(tmp_path) == []
    assert add_missing_lines(tmp_path) == 0
    assert not (tmp_path / manifest.NAME).exists()


def test_half_a_line_and_foreign_lines_do_no_harm(tmp_path, caplog):
    manifest.append(tmp_path, line("a"))
    path = tmp_path / manifest.NAME
    with path.open("a") as file:
        file.write('{"schema": "another/3"}\n[1]\n\n{"schema": "fg_depth_epi')
    manifest.append(tmp_path, line("b", pairs=3))
    assert manifest.read(tmp_path) == [line("a"), line("b", pairs=3)]
    assert [record.args[1] for record in caplog.records] == [2, 3, 5]


def test_a_line_that_cannot_be_written_whole_is_not_there_at_all(tmp_path, monkeypatch):
    manifest.append(tmp_path, line("a"))
    before = (tmp_path / manifest.NAME).read_bytes()
    write = os.write
    taken = []

    def full(descriptor, content):
        if taken:
            raise OSError(28, "No space left on device")
        taken.append(write(descriptor, content[:7]))
        return 7

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        manifest.append(tmp_path, line("b"))
    assert (tmp_path / manifest.NAME).read_bytes() == before


def test_lines_that_are_missing_come_from_the_episodes(tmp_path):
    episode(tmp_path, "episode_1", 200)
    episode(tmp_path, "episode_2", 200, listed=False)
    episode(tmp_path, "renamed", 200, listed=False, tells="episode_0")
    (tmp_path / ".episode_3.part").mkdir()
    (tmp_path / "other").mkdir()
    assert add_missing_lines(tmp_path) == 1
    assert [entry["name"] for entry in manifest.read(tmp_path)] == ["episode_1", "episode_2"]
    assert add_missing_lines(tmp_path) == 0


def test_the_quota_takes_the_oldest_by_the_manifest_not_by_name(tmp_path):
    for name in ("c", "a", "b"):
        episode(tmp_path, name, 1000)
    space = Space(tmp_path, 3500, 0)
    assert space.room_for(500) is None
    assert names(tmp_path) == ["a", "b", "c"]
    assert space.used == 3000
    assert space.room_for(501) is None
    assert names(tmp_path) == ["a", "b"]
    assert space.room_for(1000, current="x", written=1000) is None  # 2000 + 1000 + 1000 > 3500
    assert names(tmp_path) == ["b"]
    assert removed(tmp_path) == ["c", "a"]
    assert "quota" in manifest.read(tmp_path)[-1]["why"]


def test_what_is_not_ours_stays_and_the_reason_is_said(tmp_path):
    episode(tmp_path, "kept_by_hand", 5000, listed=False, tells="episode_9")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_bytes(bytes(9000))
    episode(tmp_path, "episode_1", 1000)
    space = Space(tmp_path, 1500, 0)
    why = space.room_for(400, current="e", written=1200)
    assert why.code == "quota"
    assert "take 2,200 bytes and need 400 more, of 1,500" in why.text
    assert names(tmp_path) == ["episode_1", "kept_by_hand", "other"]  # its 1,000 bytes would not be enough


def test_the_episode_that_is_continued_and_parts_stay_but_count(tmp_path):
    episode(tmp_path, "episode_1", 1000)
    (tmp_path / ".episode_0.part").mkdir()
    (tmp_path / ".episode_0.part" / "data").write_bytes(bytes(700))
    (tmp_path / ".now.part").mkdir()
    (tmp_path / ".now.part" / "data").write_bytes(bytes(300))
    space = Space(tmp_path, 2100, 0)
    assert space.room_for(100, current="now", written=300, keep="episode_1") is None
    why = space.room_for(101, current="now", written=300, keep="episode_1")
    assert "take 2,000 bytes and need 101 more, of 2,100" in why.text
    assert names(tmp_path) == [".episode_0.part", ".now.part", "episode_1"]


def test_the_floor_of_free_space(tmp_path):
    for name in ("a", "b", "c"):
        episode(tmp_path, name, 1000)

    def free(path):
        return 1000 + 1000 * (3 - len(names(path)))

    space = Space(tmp_path, 0, 2500, free)
    assert space.room_for(400) is None  # 1000 - 400 < 2500, 3000 - 400 is enough
    assert names(tmp_path) == ["c"]
    why = space.room_for(5000)
    assert why.code == "free space" and "3,000 bytes are free" in why.text
    assert names(tmp_path) == ["c"]


def test_the_room_of_recordings_is_what_quota_and_floor_leave_them(tmp_path):
    for name in ("a", "b"):
        episode(tmp_path, name, 1000)
    (tmp_path / ".c.part").mkdir()
    (tmp_path / ".c.part" / "data").write_bytes(bytes(700))
    space = Space(tmp_path, 5000, 2500, lambda path: 6000)
    space.refresh()
    assert space.capacity() == 5000 - 700  # without what is never removed
    assert space.capacity(written=900) == 5000 - 700
    space = Space(tmp_path, 9000, 2500, lambda path: 6000)
    space.refresh("c")
    assert space.capacity(written=700) == 2000 + 700 + 6000 - 2500
    assert Space(tmp_path, 0, 7000, lambda path: 6000).capacity() == -1000


def test_asking_only_removes_nothing(tmp_path):
    for name in ("a", "b"):
        episode(tmp_path, name, 1000)
    space = Space(tmp_path, 2000, 0)
    assert space.room_for(1500, remove=False) is None
    assert space.room_for(2500, remove=False).code == "quota"
    assert names(tmp_path) == ["a", "b"]
    assert removed(tmp_path) == []


def test_what_a_crash_left_of_a_removal_goes_and_a_user_may_be_faster(tmp_path):
    episode(tmp_path, "a", 1000)
    episode(tmp_path, "b", 1000)
    space = Space(tmp_path, 2500, 0)
    space.refresh()
    os.rename(tmp_path / "a", tmp_path / ".a.removed")
    assert space.room_for(1500) is None
    assert names(tmp_path) == ["b"]
    assert space.used == 1000
