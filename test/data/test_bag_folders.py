"""Bags below folders: which are found, in which order, and the hash that tells them apart."""

from __future__ import annotations

import errno
import hashlib

import pytest

from fg_depth_ros.data.bags.files import storage_files
from fg_depth_ros.data.bags.folders import bag_names, bag_sha256, find_bags
from fg_depth_ros.files import FileError


def bag(folder, *files, metadata=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).write_bytes(name.encode())
    if metadata:
        (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {}\n")
    return folder


def test_what_holds_no_bag_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(FileError, match=r"gone: no such bag or folder; check the path"):
        find_bags([tmp_path / "gone"])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("nothing")
    with pytest.raises(FileError, match=r"notes: no bag there or below .*give the recording folder"):
        find_bags([tmp_path / "notes"])
    with pytest.raises(FileError, match=r"readme\.txt: no bag there"):
        find_bags([tmp_path / "notes" / "readme.txt"])
    good = bag(tmp_path / "good", "a.mcap")
    with pytest.raises(FileError, match="notes: no bag"):
        find_bags([good, tmp_path / "notes"])
    with pytest.raises(FileError, match=r"notes: holds no \.mcap and no \.db3 file"):
        bag_sha256(tmp_path / "notes")
    with pytest.raises(FileError, match=r"gone\.mcap: no such file"):
        bag_sha256(tmp_path / "gone.mcap")


def test_bags_are_found_once_and_in_order(tmp_path):
    b, a = bag(tmp_path / "run" / "b", "b_0.mcap"), bag(tmp_path / "run" / "a", "a_0.db3")
    deep = bag(tmp_path / "run" / "2026" / "may" / "c", "c_0.mcap")
    cut = bag(tmp_path / "run" / "z_killed", "z_0.mcap", "z_1.mcap", metadata=False)
    bag(tmp_path / "run" / ".writing.part", "w_0.mcap")
    assert find_bags([tmp_path / "run"]) == [deep, a, b, cut]
    assert find_bags([b, str(tmp_path / "run")]) == [b, deep, a, cut]
    single = tmp_path / "run" / "a" / "a_0.db3"
    assert find_bags([single]) == [single]


def test_files_beside_bags_are_bags_of_their_own(tmp_path):
    bag(tmp_path, "one.mcap", "two.mcap", "old.bag", metadata=False)
    below = bag(tmp_path / "ep", "ep_0.mcap")
    assert find_bags([tmp_path]) == [below, *(tmp_path / name for name in ("old.bag", "one.mcap", "two.mcap"))]


def test_links_in_a_circle_end(tmp_path):
    good = bag(tmp_path / "run" / "ep", "ep_0.mcap")
    (tmp_path / "run" / "again").symlink_to(tmp_path / "run", target_is_directory=True)
    assert find_bags([tmp_path / "run"]) == [good]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    bag(tmp_path / "ep", "ep_0.mcap")
    closed, listed = tmp_path / "closed", type(tmp_path).iterdir
    closed.mkdir()

    def iterdir(path):
        if path == closed:  # root may read everything, so the file system itself is no use here
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", iterdir)
    with pytest.raises(FileError, match="closed: cannot be read .Permission denied.; check its permissions"):
        find_bags([tmp_path])


def test_the_hash_is_that_of_the_storage_files_alone(tmp_path):
    two = bag(tmp_path / "two", "b.mcap", "a.mcap")
    expected = hashlib.sha256(b"a.mcapb.mcap").hexdigest()
    assert bag_sha256(two) == expected and [file.name for file in storage_files(two)] == ["a.mcap", "b.mcap"]
    (two / "episode.json").write_text("{}")
    (two / "metadata.yaml").write_text("changed\n")
    assert bag_sha256(two) == expected
    (two / "a.mcap").write_bytes(b"A.mcap")
    assert bag_sha256(two) != expected
    assert bag_sha256(two / "b.mcap") == hashlib.sha256(b"b.mcap").hexdigest()


def test_bags_are_named_by_as_many_folders_as_make_them_differ(tmp_path):
    for folder in ("monday/a", "tuesday/a", "tuesday/b"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tuesday" / "b.mcap").write_bytes(b"")
    bags = [tmp_path / name for name in ("monday/a", "tuesday/a", "tuesday/b", "tuesday/b.mcap")]
    assert bag_names(bags) == ["monday/a", "tuesday/a", "b", "b.mcap"]
    assert bag_names(bags[:1]) == ["a"] and bag_names([]) == []
    assert bag_names([tmp_path / "monday" / "all"]) == ["monday/all"]  # "all" is the mean of all bags
