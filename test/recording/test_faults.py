"""Disks that are full, gone, read-only or at their quota, and recorders that are killed while they write."""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from support.bags import SECOND
from support.recording import TENTH, SmallDisk, config, contents, episodes, later, pair_messages, quiet
from support.waiting import wait_until

from fg_depth_ros.recording import Recorder, manifest, recover
from fg_depth_ros.recording.mcap_writer import DurableFile

PAIR = 93_000  # bytes, about


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return pair_messages(tmp_path_factory.mktemp("pairs"), [100 * SECOND + k * TENTH for k in range(10)])


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr("fg_depth_ros.recording.episode_writer._RETRY", 0.05)
    monkeypatch.setattr("fg_depth_ros.recording.episode_writer._REFRESH", 0.05)


@pytest.fixture
def make(tmp_path):
    made = []

    def call(open_file=DurableFile, **changes):
        faults = []
        recorder = Recorder(
            config(changes.pop("root", tmp_path / "root"), **changes),
            dict,
            lambda subject, text: faults.append((subject, text)),
            open_file=open_file,
        )
        recorder.faults = faults
        made.append(recorder)
        return recorder

    yield call
    for recorder in made:
        recorder.close()


def one_by_one(recorder, pairs, count, begin=0):
    """Put pairs (again and again the same images, later and later), each after the one before was dealt with."""
    for number in range(begin, begin + count):
        lap, place = divmod(number, len(pairs))
        shift = lap * len(pairs) * TENTH
        recorder.submit_pair(pairs[place][0] + shift, later(pairs[place][1], shift))
        quiet(recorder)


def until_written(recorder, pairs, begin, most=400):
    """Go on until a pair is written again; the number of the next."""
    before = recorder.counters()["written"]
    for number in range(begin, begin + most):
        one_by_one(recorder, pairs, 1, number)
        if recorder.counters()["written"] > before:
            return number + 1
        time.sleep(0.005)
    raise AssertionError("never written again")


def every(root):
    """All messages under final names; each bag is read whole."""
    return sum(len(contents(bag)) for bag in episodes(root))


def texts(recorder, subject):
    return [text for about, text in recorder.faults if about == subject]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("free", [400, 1500, PAIR * 3 + 5000, PAIR * 3 + 90_000])
def test_a_disk_that_is_full_pauses_and_what_is_safe_stays(make, pairs, tmp_path, free, error):
    disk = SmallDisk(free, error)
    reason = "disk full" if error == errno.ENOSPC else "write error"
    root = tmp_path / "root"
    recorder = make(disk)
    recorder.start()
    one_by_one(recorder, pairs, 6)
    account = recorder.counters()
    fits = 3 if free > PAIR else 0
    assert (account["written"], account["dropped"]) == (fits, 6 - fits)
    assert recorder.values()[f"dropped: {reason}"] == str(6 - fits)
    (text,) = texts(recorder, "disk")
    assert os.strerror(error) in text
    assert len(list(root.glob(".*"))) <= 1  # attempts do not heap up
    if not fits:
        assert list(root.iterdir()) == []  # nor is there an episode without a message
    assert recorder.values()["last error"] == text

    disk.free = 10**9
    end = until_written(recorder, pairs, 6)
    one_by_one(recorder, pairs, 2, end)
    assert texts(recorder, "disk") == [text, None]
    assert recorder.counters()["written"] == fits + 3
    wait_until(lambda: not list(root.glob(".*.part")) or recorder.values()["episode"] != "none")
    recorder.close()
    recover(root)
    lines = manifest.read(root)
    assert sum(line["pairs"] for line in lines) == fits + 3
    assert every(root) == 4 * (fits + 3)
    assert sorted(line["name"] for line in lines) == [bag.name for bag in episodes(root)]
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def test_an_episode_that_could_not_be_completed_is_when_the_disk_is_well(make, pairs, tmp_path):
    """Nothing fits any more, not even the index: the part stays, and is completed beside the next episode."""
    disk = SmallDisk(10**6)
    recorder = make(disk)
    recorder.start()
    one_by_one(recorder, pairs, 3)
    name, disk.free = recorder.values()["episode"], 0
    one_by_one(recorder, pairs, 2, 3)
    assert (tmp_path / "root" / f".{name}.part").exists()
    assert episodes(tmp_path / "root") == []
    disk.free = 10**9
    until_written(recorder, pairs, 5)
    wait_until(lambda: (tmp_path / "root" / name).exists())
    assert len(contents(tmp_path / "root" / name)) == 12
    assert recorder.values()["episode"] not in ("none", name)
    recorder.close()
    first, second = sorted(manifest.read(tmp_path / "root"), key=lambda line: line["name"])
    assert (first["name"], first["pairs"], first["recovered"]) == (name, 3, True)
    assert second["continues"] == name
    assert second["drops"]["disk full"] == recorder.counters()["dropped"]


def test_a_fault_is_over_when_the_disk_is_well_though_nothing_is_recorded(make, pairs):
    disk = SmallDisk(PAIR)
    recorder = make(disk)
    recorder.start()
    one_by_one(recorder, pairs, 3)
    recorder.stop()
    assert texts(recorder, "disk")[-1] is not None
    disk.free = 10**9
    wait_until(lambda: texts(recorder, "disk")[-1] is None)


def test_a_folder_that_goes_and_comes_back(make, pairs, tmp_path):
    root, away = tmp_path / "root", tmp_path / "away"
    recorder = make(sync_seconds=0.0)
    recorder.start()
    one_by_one(recorder, pairs, 3)
    os.rename(root, away)
    one_by_one(recorder, pairs, 4, 3)  # the first of them may still go into the file that moved
    (text,) = texts(recorder, "disk")
    assert "bring the folder back" in text
    assert recorder.counters()["dropped"] >= 3
    assert not root.exists()  # a folder in the place of a disk that is not there would fill another disk
    os.rename(away, root)
    until_written(recorder, pairs, 7)
    assert texts(recorder, "disk")[-1] is None
    recorder.close()
    recover(root)
    assert every(root) == 4 * recorder.counters()["written"]


def test_a_folder_that_cannot_be_written(make, pairs, tmp_path):
    refused = [True]

    def read_only(path):
        if refused[0]:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return DurableFile(path)

    recorder = make(read_only)
    recorder.trigger("manual")
    one_by_one(recorder, pairs, 2)
    assert recorder.values()["dropped: write error"] == "2"
    assert "Read-only file system" in texts(recorder, "disk")[0]
    refused[0] = False
    recorder.start()
    until_written(recorder, pairs, 2)
    recorder.close()
    recover(tmp_path / "root")
    assert len(episodes(tmp_path / "root")) == 1

    (tmp_path / "file").touch()
    recorder = make(root=tmp_path / "file")
    recorder.start()
    one_by_one(recorder, pairs, 2)
    assert recorder.counters()["dropped"] == 2
    assert "give another folder" in texts(recorder, "disk")[0]
    recorder.stop()
    (tmp_path / "file").unlink()  # as where the disk of the folder is mounted later
    wait_until(lambda: texts(recorder, "disk")[-1] is None)
    recorder.trigger("manual")
    one_by_one(recorder, pairs, 2, 2)
    recorder.close()
    assert every(tmp_path / "file") == 8
    assert texts(recorder, "disk")[-1] is None


def test_a_file_system_without_locks_is_recorded_to(make, pairs, tmp_path, monkeypatch, caplog):
    def refused(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refused)
    recorder = make()
    recorder.start()
    one_by_one(recorder, pairs, 2)
    (entry,) = recover(tmp_path / "root")
    assert "is being written" in entry.note
    recorder.close()
    assert every(tmp_path / "root") == 8
    assert texts(recorder, "disk") == []
    assert sum(f"{tmp_path / 'root'}: its file system has no locks" in text for text in caplog.messages) == 1


def test_the_quota_removes_the_oldest_and_pauses_when_nothing_is_left(make, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("fg_depth_ros.recording.episode_writer._RETRY", 0.0)  # with every pair
    root = tmp_path / "root"
    quota = 7 * PAIR + 3 * (1 << 16)
    recorder = make(quota_bytes=quota, after=2.0)
    for number in range(4):  # of three pairs each: the third asks for more than there is
        recorder.start()
        one_by_one(recorder, pairs, 3, 3 * number)
        recorder.stop()
        wait_until(lambda number=number: recorder.values()["episodes finished"] == str(number + 1))
    names = [line["name"] for line in manifest.read(root) if "name" in line]
    gone = [line["removed"] for line in manifest.read(root) if "removed" in line]
    assert gone == names[: len(gone)]
    assert gone
    assert [bag.name for bag in episodes(root)] == names[len(gone) :]
    assert recorder.counters()["dropped"] == 0

    recorder.trigger("motion")
    # More than the quota: the episode must not eat its own beginning, nor when it is tried again.
    one_by_one(recorder, pairs, 14, 12)
    assert recorder.counters()["dropped"] > 0
    assert recorder.values()["dropped: quota"] == str(recorder.counters()["dropped"])
    assert "quota" in texts(recorder, "space")[-1]
    total = sum(file.stat().st_size for file in root.rglob("*") if file.name != manifest.NAME)
    assert total <= quota
    (last,) = episodes(root)
    assert len(contents(last)) == 4 * (recorder.counters()["written"] - 12)
    recorder.stop()
    wait_until(lambda: texts(recorder, "space")[-1] is None)  # the next may take its place
    recorder.trigger("manual")
    one_by_one(recorder, pairs, 1, 26)
    recorder.close()
    assert [line["trigger"] for line in manifest.read(root) if "name" in line][-1] == "manual"


def test_a_quota_lets_continuous_recording_go_on_for_ever(make, pairs, tmp_path):
    recorder = make(quota_bytes=8 * PAIR + (1 << 16), max_episode_bytes=3 * PAIR + 10_000)
    recorder.start()
    one_by_one(recorder, pairs, 20)
    recorder.close()
    lines = [line for line in manifest.read(tmp_path / "root") if "name" in line]
    assert [line["pairs"] for line in lines] == [3, 3, 3, 3, 3, 3, 2]
    assert recorder.counters()["dropped"] == 0
    assert [bag.name for bag in episodes(tmp_path / "root")] == [line["name"] for line in lines[-2:]]


def test_continuous_recording_goes_on_where_an_episode_may_be_larger_than_the_quota(make, pairs, tmp_path):
    root = tmp_path / "root"
    quota = 8 * PAIR
    recorder = make(quota_bytes=quota)  # max_episode_bytes: 4 GiB
    recorder.start()
    for number in range(24):
        one_by_one(recorder, pairs, 1, number)
        taken = sum(file.stat().st_size for file in root.rglob("*") if file.name != manifest.NAME)
        assert taken <= quota
        assert taken > min(number + 1, 3) * PAIR * 0.9  # never all at once
    recorder.close()
    assert recorder.counters()["dropped"] == 0
    assert texts(recorder, "space") == []
    lines = [line for line in manifest.read(root) if "name" in line]
    assert sum(line["pairs"] for line in lines) == 24
    assert max(line["bytes"] for line in lines) <= quota / 2
    assert lines[-1]["continues"] == lines[-2]["name"]


def test_continuous_recording_goes_on_at_the_floor_of_free_space(make, pairs, tmp_path, monkeypatch):
    root = tmp_path / "root"

    def usage(path):
        taken = sum(file.stat().st_size for file in root.rglob("*") if file.name != manifest.NAME)
        return shutil._ntuple_diskusage(20 * PAIR, taken, 20 * PAIR - taken)

    monkeypatch.setattr("shutil.disk_usage", usage)
    recorder = make(free_floor_bytes=12 * PAIR)
    recorder.start()
    for number in range(24):
        one_by_one(recorder, pairs, 1, number)
        assert usage(root).free >= 12 * PAIR
        assert usage(root).used > min(number + 1, 3) * PAIR * 0.9
    recorder.close()
    assert recorder.counters()["dropped"] == 0


def test_a_triggered_episode_that_continues_endlessly_lets_go_of_its_beginning(make, pairs, tmp_path):
    recorder = make(quota_bytes=8 * PAIR)
    recorder.trigger("manual")
    one_by_one(recorder, pairs, 2)
    recorder.start()
    one_by_one(recorder, pairs, 12, 2)
    recorder.cut("another calibration")
    one_by_one(recorder, pairs, 12, 14)
    recorder.close()
    assert recorder.counters()["written"] == 26


def test_the_floor_of_free_space_is_kept(make, pairs):
    recorder = make(free_floor_bytes=1 << 60)
    recorder.start()
    one_by_one(recorder, pairs, 3)
    assert recorder.values()["dropped: free space"] == "3"
    assert "free space" in texts(recorder, "space")[0]


CHILD = """
    import resource, signal, sys, time
    from pathlib import Path
    sys.path[:0] = {paths!r}
    from support.recording import TENTH, config, later, pair_messages, quiet
    from fg_depth_ros.recording import Recorder

    root, limit = Path(sys.argv[1]), int(sys.argv[2])
    pairs = pair_messages(root.parent, [10**11 + k * TENTH for k in range(10)])
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    recorder = Recorder(config(root, sync_seconds=3600.0), dict, lambda *fault: print("fault", *fault, flush=True))
    recorder.start()
    for number in range(10 ** 6 if not limit else 10):
        shift = number // 10 * 10 * TENTH
        recorder.submit_pair(pairs[number % 10][0] + shift, later(pairs[number % 10][1], shift))
        print("written", quiet(recorder)["written"], flush=True)
        time.sleep(0.005)
    recorder.close()
    print("closed", recorder.counters(), flush=True)
"""


def child(root, limit=0):
    paths = [str(Path(__file__).parents[1])]
    code = textwrap.dedent(CHILD.format(paths=paths))
    return subprocess.Popen([sys.executable, "-c", code, str(root), str(limit)], stdout=subprocess.PIPE, text=True)


def test_kill_9_loses_nothing_that_was_written(tmp_path):
    root = tmp_path / "root"
    process = child(root)
    written = 0
    try:
        for text in process.stdout:
            written = int(text.split()[1])
            if written == 12:
                break
        (part,) = root.glob(".*.part")
        (entry,) = recover(root)
        assert "being written" in entry.note
    finally:
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
    written = max([written] + [int(text.split()[1]) for text in rest.splitlines() if len(text.split()) == 2])
    assert episodes(root) == []
    assert part.exists()
    (entry,) = recover(root)
    assert entry.done
    assert entry.messages // 4 in (written, written + 1)
    (bag,) = episodes(root)
    assert len(contents(bag)) == entry.messages
    assert manifest.read(root)[0]["pairs"] == entry.messages // 4
    assert list(root.glob(".*")) == []


def test_a_real_limit_of_the_kernel_on_a_files_size(tmp_path):
    """Half a chunk goes into the file before the kernel refuses: it is cut off, and recording goes on in another."""
    root = tmp_path / "root"
    process = child(root, 4 * PAIR)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "fault disk" in out
    assert "File too large" in out
    account = ast.literal_eval(out.split("closed", 1)[1].strip())
    assert account["offered"] == 10
    assert account["written"] >= 3
    assert account["written"] + account["dropped"] == 10
    recover(root)
    assert every(root) == 4 * account["written"]
    shutil.rmtree(root)
