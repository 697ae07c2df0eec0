"""Files that are replaced in one step: content, errors, and nothing left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from fg_depth_ros import files
from fg_depth_ros.files import FileError, FileLock, WriteError, append_line, atomic_write, claim_folder, write_json


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "made" / "a.npz"  # savez adds an ending of its own to other names
    for value in (1, 2):
        with atomic_write(path) as unfinished:
            np.savez(unfinished, value=value)
            assert unfinished.name == path.name
            assert path.exists() == (value == 2)
    assert np.load(path)["value"] == 2
    assert [each.name for each in path.parent.iterdir()] == ["a.npz"]


def test_json_is_indented_ascii_with_an_end_of_line(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"tür": [1, None]}, indent=1)
    assert (tmp_path / "new" / "a.json").read_bytes() == b'{\n "t\\u00fcr": [\n  1,\n  null\n ]\n}\n'


def test_a_line_follows_the_last_one_that_is_complete(tmp_path):
    path = tmp_path / "log.jsonl"
    for before, after in ((b"", b"3\n"), (b"1\n2\n", b"1\n2\n3\n"), (b"1\n2", b"1\n3\n"), (b"1\n\0\0", b"1\n3\n")):
        path.write_bytes(before)
        append_line(path, "3")
        assert path.read_bytes() == after


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


def test_an_inner_file_that_cannot_be_written_is_reported_under_its_final_name(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(WriteError) as caught, atomic_write(path) as unfinished, atomic_write(unfinished):
        raise OSError(errno.ENOSPC, "No space left on device", str(unfinished))
    assert caught.value.filename == str(path) and not list(tmp_path.iterdir())


def test_of_several_files_the_one_that_cannot_be_written_is_named(tmp_path):
    first, second = tmp_path / "a.pfm", tmp_path / "b.png"
    with pytest.raises(WriteError) as caught, atomic_write(first), atomic_write(second):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(second) and not list(tmp_path.iterdir())


def killed(code: str, *arguments: object) -> None:
    """Run code in another process, which kills itself in its last line."""
    text = f"import os, signal, sys\nfrom pathlib import Path\n{code}\n"
    done = subprocess.run([sys.executable, "-c", text, *map(str, arguments)])
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path, monkeypatch):
    write = "from fg_depth_ros.files import atomic_write\nwith atomic_write(sys.argv[1]) as f:\n"
    killed(write + " f.mkdir()\n (f / 'part').write_text('x')\n os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "bag")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".bag.")
    with atomic_write(tmp_path / "busy"):
        (busy,) = set(tmp_path.iterdir()) - {left}
        for folder in (left, busy):
            os.utime(folder, (0, 0))
        files._remove_leftovers.cache_clear()
        with atomic_write(tmp_path / "other") as unfinished:
            unfinished.write_text("x")
        assert set(tmp_path.iterdir()) == {busy, tmp_path / "other"}
        (busy / "busy").write_text("x")
    assert {each.name for each in tmp_path.iterdir()} == {"busy", "other"}


def test_one_process_at_a_time_claims_a_folder(tmp_path):
    claim = "from fg_depth_ros.files import claim_folder\nwith claim_folder(sys.argv[1], 'a training'):\n "
    with claim_folder(tmp_path / "out", "a training"), claim_folder(tmp_path / "out", "a training"):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys\n{claim}pass", tmp_path / "out"], capture_output=True, text=True
        )
        assert "out: a training that still runs writes there; wait for its end" in done.stderr
    killed(claim + "os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "out")
    with claim_folder(tmp_path / "out", "a training"):
        pass


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", refused)
    for _ in range(2):
        with claim_folder(tmp_path / "out", "a training"), pytest.raises(BlockingIOError):
            FileLock(tmp_path / "out" / ".lock")
    (warning,) = caplog.messages
    assert warning.startswith(f"{tmp_path / 'out'}: its file system has no locks")
    monkeypatch.setattr(files.fcntl, "flock", lambda *_: os.fstat(-1))  # any other error
    with pytest.raises(WriteError, match="out: cannot be written"), claim_folder(tmp_path / "out", "a training"):
        pass


def test_a_folder_is_no_file_to_read(tmp_path):
    with pytest.raises(FileError, match=r"test_a_folder_is_no_file_to_re\S*: is a folder; give a file$"):
        files.open_file(tmp_path)
