"""Files that are replaced in one step: content, errors, and nothing left behind."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from fg_depth_ros import files
from fg_depth_ros.files import FileError, WriteError, atomic_write


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "made" / "a.npz"  # savez adds an ending of its own to other names
    for value in (1, 2):
        with atomic_write(path) as unfinished:
            np.savez(unfinished, value=value)
            assert unfinished.name == path.name
            assert path.exists() == (value == 2)
    assert np.load(path)["value"] == 2
    assert [each.name for each in path.parent.iterdir()] == ["a.npz"]


def test_a_folder_appears_whole(tmp_path):
    with atomic_write(tmp_path / "bag") as unfinished:
        (unfinished / "inner").mkdir(parents=True)
        (unfinished / "inner" / "a.txt").write_text("x")
        assert not (tmp_path / "bag").exists()
    assert (tmp_path / "bag" / "inner" / "a.txt").read_text() == "x"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "no space left")])
def test_the_old_file_stays_when_writing_fails(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as unfinished:
            unfinished.write_text("ne")
            raise error

    with pytest.raises(WriteError if isinstance(error, OSError) else type(error)):
        fail()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_the_error_is_a_file_error_and_an_os_error_with_the_file_that_was_meant(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "made" / "a.txt"
    with pytest.raises(FileError, match="a.txt: cannot be written") as caught, atomic_write(path):
        pass
    assert isinstance(caught.value, OSError)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOTDIR, str(path))


def test_an_error_about_another_file_passes(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_write(tmp_path / "out" / "a") as unfinished:
        unfinished.write_bytes((tmp_path / "elsewhere").read_bytes())


@pytest.mark.parametrize("sync", [True, False])
def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch, sync):
    steps = []
    replace = os.replace
    monkeypatch.setattr(files, "sync_path", lambda path: steps.append(os.path.basename(path)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (steps.append("rename"), replace(a, b)))
    with atomic_write(tmp_path / "a.txt", sync=sync) as unfinished:
        unfinished.write_text("x")
    assert steps == (["a.txt", "rename", tmp_path.name] if sync else ["rename"])
