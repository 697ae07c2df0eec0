"""The cache of what engines have built: complete or absent, whatever happens to the folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.engines import StandIn
from support.waiting import LIMIT

from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator
from fg_depth_ros.inference.engines import EngineCache, cache, program
from fg_depth_ros.networks import ModelCard, create_model, save_checkpoint


def test_what_was_written_is_read_by_its_key_alone(tmp_path: Path) -> None:
    store = EngineCache(tmp_path / "new" / "folder")
    assert store.read("net", "a" * 64) is None
    store.write("net", "a" * 64, b"first\nline")
    assert store.read("net", "a" * 64) == b"first\nline"
    assert store.read("net", "a" * 16 + "b" * 48) is None  # the same file name, another key
    assert store.read("other", "a" * 64) is None
    assert store.problem is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_or_foreign_file_is_as_good_as_absent_and_is_replaced(tmp_path: Path, damage: str) -> None:
    store = EngineCache(tmp_path)
    store.write("net", "key", bytes(1000))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(
        {"cut": content[:-1], "flipped": content[:-1] + b"\x01", "foreign": b"\x7fELF\n\x00", "empty": b""}[damage]
    )
    assert store.read("net", "key") is None
    store.write("net", "key", b"again")
    assert store.read("net", "key") == b"again"


def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = EngineCache(tmp_path / "file" / "engines")
    store.write("net", "key", b"content")
    assert store.read("net", "key") is None
    assert store.problem is not None
    assert "every start compiles again" in store.problem
    assert str(tmp_path / "file") in store.problem


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_bytes(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    store = EngineCache(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    store.write("net", "key", b"content" * 100)
    assert os.strerror(errno.ENOSPC) in str(store.problem)
    assert list(tmp_path.iterdir()) == []


_WRITE_OFTEN = """
import sys
from pathlib import Path
from fg_depth_ros.inference.engines import EngineCache

store, content = EngineCache(Path(sys.argv[1])), bytes([int(sys.argv[2])]) * 200_000
for _ in range(50):
    store.write("net", "key", content)
    assert store.problem is None, store.problem
    assert store.read("net", "key") is not None
"""


def test_two_processes_write_the_same_entry(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITE_OFTEN, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(i)]) for i in range(2)]
    assert [process.wait(LIMIT) for process in processes] == [0, 0]
    assert EngineCache(tmp_path).read("net", "key") in [bytes([i]) * 200_000 for i in range(2)]
    assert len(list(tmp_path.iterdir())) == 1


def test_the_longest_unused_entries_are_removed_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_LIMIT", 3900)
    store = EngineCache(tmp_path)
    for age, name in enumerate("abc"):
        store.write(name, "key", bytes(1000))
        os.utime(next(tmp_path.glob(f"{name}-*")), (age, age))
    assert store.read("a", "key") is not None  # now the newest
    store.write("d", "key", bytes(1000))
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_plans_count_and_the_longest_unused_are_removed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_LIMIT", 3900)
    monkeypatch.setenv("FG_DEPTH_CACHE", str(tmp_path))
    store = EngineCache()
    plans = [cache.plan_folder(bytes([i])) for i in range(2)]
    foreign = tmp_path / "tensorrt" / "of_somebody_else"
    for age, folder in enumerate((foreign, *plans)):
        folder.mkdir(parents=True)
        (folder / "plan").write_bytes(bytes(1500))
        os.utime(folder, (age, age))
    store.write("a", "key", bytes(1000))
    assert [folder.exists() for folder in (*plans, foreign)] == [False, True, True]
    assert store.read("a", "key") is not None


def test_the_folder_is_the_users_cache_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FG_DEPTH_CACHE", str(tmp_path))
    assert cache.cache_folder() == tmp_path
    monkeypatch.delenv("FG_DEPTH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "fg_depth_ros" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "fg_depth_ros" / "engines"


# ---- the runner's use of it ------------------------------------------------------------------------------------------


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    return StandIn.installed(monkeypatch, tmp_path)


def _match(width: int = 96) -> StereoDepthEstimator:
    estimator = StereoDepthEstimator(StereoConfig(engine="openvino"))
    image = np.zeros((64, width, 3), np.uint8)
    estimator.match(image, image)
    assert estimator.engine_failure is None
    return estimator


def test_a_network_is_built_once_per_size(engine: StandIn) -> None:
    for width, built, cached in ((96, 1, False), (96, 1, True), (128, 2, False), (96, 2, True)):
        runner = _match(width).runner
        assert runner is not None and runner.compile_seconds is not None
        assert (len(engine.built), runner.compile_seconds[1]) == (built, cached)


@pytest.mark.parametrize(("last", "stale"), [(96, False), (128, False), (96, True)])
def test_what_ran_last_is_loaded_before_the_first_pair(engine: StandIn, tmp_path: Path, last: int, stale: bool) -> None:
    for width in (96, 128):
        _match(width)
        (path,) = tmp_path.glob(f"*-{width}x*")
        os.utime(path, (width == last,) * 2)
        if stale and width == last:  # the one before is taken
            path.write_bytes(b"of another version")
    estimator = StereoDepthEstimator(StereoConfig(engine="openvino"))
    assert estimator.runner is not None
    estimator.runner.preload()
    assert estimator.runner.compile_seconds is not None and estimator.runner.compile_seconds[1]
    for path in tmp_path.iterdir():
        path.unlink()
    there, other = (96, 128) if (last == 96) != stale else (128, 96)
    for width, built in ((there, 2), (other, 3)):
        estimator.match(*(np.zeros((64, width, 3), np.uint8),) * 2)
        assert len(engine.built) == built
    assert estimator.engine_failure is None


def test_an_entry_that_the_engine_refuses_is_built_again(engine: StandIn, tmp_path: Path) -> None:
    _match()
    (path,) = tmp_path.iterdir()
    name, key = path.name.rsplit("-", 1)[0], path.read_bytes().split(b'"')[3].decode()
    EngineCache(tmp_path).write(name, key, b"stale")
    _match()
    assert len(engine.built) == 2
    assert EngineCache(tmp_path).read(name, key) == b"built"


def test_without_a_cache_it_runs_and_says_so(engine: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FG_DEPTH_CACHE", str(tmp_path / "file"))
    runner = _match().runner
    assert runner is not None
    assert runner.engine == "openvino"
    assert "nothing is kept" in str(runner.cache_problem)


def test_other_weights_are_another_entry(engine: StandIn, tmp_path: Path) -> None:
    options = {"features": (16, 16, 16), "aggregate": (16, 16, 16), "max_disparity": 64}
    for seed in range(2):
        torch.manual_seed(seed)
        path = tmp_path / f"{seed}.safetensors"
        save_checkpoint(path, create_model("flownet_stereo", **options), ModelCard("flownet_stereo", options))
        estimator = StereoDepthEstimator(StereoConfig(weights=str(path), engine="openvino"))
        estimator.match(*(np.zeros((64, 96, 3), np.uint8),) * 2)
    assert len(engine.built) == 2


@pytest.mark.parametrize("file", ["flownet_stereo.py", "matchers.py", "openvino_engine.py"])
def test_other_code_is_another_entry(engine: StandIn, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    _match()
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read_bytes(path) + b"#" * (path.name == file))
    monkeypatch.setattr(program, "_code", program._code.__wrapped__)  # else the hash of this process is kept
    _match()
    assert len(engine.built) == 2
