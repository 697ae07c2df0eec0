"""Shared-memory files of Fast DDS: what is in use stays, what killed nodes left goes."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from fg_depth_ros.nodes.common import shared_memory
from fg_depth_ros.nodes.common.shared_memory import remove_abandoned, remove_segments

SEGMENT = 17_564_192  # bytes, as Fast DDS 3 makes it from the profile
LARGE_SEGMENT = 70_255_136  # and from that for large images
SMALL = 549_408  # of the second one that a node has where discovery stays on the machine


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /dev/shm."""
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)
    return tmp_path


def segment(folder: Path, name: str, size: int = SEGMENT, age: float = 60.0) -> Path:
    path = folder / name
    with path.open("wb") as file:
        file.truncate(size)
    (folder / f"{name}_el").touch()
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_only_unused_segments_of_fast_dds_are_removed(folder: Path) -> None:
    mark = f"fastdds_test{os.getpid()}"
    unused, lock = folder / f"{mark}a", folder / f"{mark}a_el"
    used, held = folder / f"{mark}b", folder / f"{mark}b_el"
    foreign, semaphore = folder / f"other_{mark}", folder / f"sem.{mark}a_mutex"
    paths = (unused, lock, used, held, foreign, semaphore)
    for path in paths:
        path.write_bytes(b"x")
    with held.open("rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        found = remove_segments({unused.name, used.name, held.name, foreign.name})
    assert found == [unused.name, lock.name, semaphore.name]
    assert used.exists() and held.exists() and foreign.exists()


@pytest.mark.parametrize("size", [SEGMENT, LARGE_SEGMENT])
def test_a_node_removes_what_killed_nodes_of_its_kind_left(folder: Path, size: int) -> None:
    abandoned = segment(folder, "fastdds_0000000000000001", size)
    used = segment(folder, "fastdds_0000000000000002")
    young = segment(folder, "fastdds_0000000000000003", age=0.0)
    foreign = segment(folder, "fastdds_0000000000000004", size=4_194_304)
    small, used_small = (segment(folder, f"fastdds_000000000000000{number}", SMALL) for number in (5, 6))
    with (folder / f"{used.name}_el").open("rb") as owner, (folder / f"{used_small.name}_el").open("rb") as other:
        for lock in (owner, other):
            fcntl.flock(lock, fcntl.LOCK_EX)
        assert remove_abandoned() == [f"{path.name}{end}" for path in (abandoned, small) for end in ("", "_el")]
    assert used.exists() and used_small.exists() and young.exists() and foreign.exists()


def test_without_shared_memory_nothing_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", folder / "none")
    assert remove_abandoned() == []
