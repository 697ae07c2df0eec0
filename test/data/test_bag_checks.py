"""What a check finds in a bag, against bags made wrong in one way each."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rosbags")
from support.bags import SECOND, bag_of, large, pairs_at, rewrite, storage_file, write
from support.pair_folders import planes, small_rig

from fg_depth_ros.data.bags.checks import check_bag
from fg_depth_ros.data.bags.folders import bag_sha256
from fg_depth_ros.data.bags.storage import IMAGE, INFO
from fg_depth_ros.data.bags.writing import write_stereo_bag


def texts(check, severity):
    return [problem.text for problem in check.problems if problem.severity == severity]


# ---- what makes a bag useless


def reasons(check):
    """Why a bag is left out."""
    return "; ".join(problem.text for problem in check.problems if problem.severity == "leave out")


def test_a_path_without_a_bag_is_a_problem_and_no_exception(tmp_path):
    check = check_bag(tmp_path / "gone")
    assert not check.usable and "gone" in reasons(check) and check.pairs == 0 and check.rate is None


def test_a_bag_without_camera_info_is_left_out_with_the_way_out(tmp_path):
    kinds = {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE}
    images = bag_of(tmp_path / "bare", kinds, {key: [(100, 100)] for key in kinds})
    check = check_bag(images)
    assert not check.usable and check.sha256 == bag_sha256(images)
    assert "no camera_info for /left/image_rect" in reasons(check)
    assert "name the camera_info topics (--left-info, --right-info); if there are none, record" in reasons(check)
    assert check_bag(images, rig=small_rig()).usable


def test_an_episode_that_is_not_what_the_recorder_wrote_is_left_out(tmp_path):
    bag = write(tmp_path / "bag", storage="sqlite3")  # whose data has no checksums
    (bag / "episode.json").write_text(json.dumps({"files": {storage_file(bag).name: bag_sha256(bag)}}))
    assert check_bag(bag).usable
    content = bytearray(storage_file(bag).read_bytes())
    middle = content.index(planes(1)[0].tobytes()[:64])  # pixels of one image
    content[middle + 100] ^= 255
    storage_file(bag).write_bytes(content)
    check = check_bag(bag)
    assert not check.usable and "damaged or changed after it was recorded; copy it again, or remove" in reasons(check)
    (bag / "episode.json").unlink()
    assert check_bag(bag).usable


def test_damage_inside_a_chunk_is_noticed_in_a_bag_that_the_package_wrote(tmp_path):
    bag, pairs = large(tmp_path / "bag")
    content = bytearray(storage_file(bag).read_bytes())
    middle = content.index(pairs[-1][1].tobytes()[:64])  # pixels of one image
    content[middle : middle + 400] = bytes(400)
    storage_file(bag).write_bytes(content)
    check = check_bag(bag)
    assert check.usable and check.pairs < len(pairs)
    assert any("damaged (Chunk checksum mismatch" in text for text in texts(check, "warn"))


def test_images_of_a_looping_source_are_told(tmp_path):
    check = check_bag(write(tmp_path / "bag", (SECOND, 2 * SECOND, 3 * SECOND, SECOND, 2 * SECOND)))
    assert check.usable and check.pairs == 3
    (text,) = texts(check, "warn")
    assert "4 images repeat the stamp of an earlier one" in text


def test_a_camera_that_changes_within_the_bag_is_found_at_its_last_message(tmp_path):
    good = write(tmp_path / "good", tuple(k * SECOND for k in range(1, 9)))
    assert check_bag(good).calibration_changes == 0

    def moved(topic, message, place):
        if topic == "/right/camera_info" and place == 7:
            message.p = message.p * 1.01
        return message

    check = check_bag(rewrite(good, tmp_path / "moved", moved))
    assert check.calibration_changes == 1 and not check.usable
    assert f"first at {8 * SECOND} ns (/right/camera_info)" in reasons(check) and "cut the recording there" in (
        reasons(check)
    )

    def rounded(topic, message, place):
        if topic == "/right/camera_info":
            message.p = message.p * (1 + 1e-9 * place)
        return message

    assert check_bag(rewrite(good, tmp_path / "rounded", rounded)).usable


def test_black_and_white_images(tmp_path):
    def of(name, value, part):
        pictures = []
        for stamp, left, right in pairs_at(*(k * SECOND for k in range(1, 4))):
            both = [image.clip(20, 200) for image in (left, right)]
            for image in both:
                image[: round(part * image.shape[0])] = value
            pictures.append((stamp, *both))
        return check_bag(write_stereo_bag(tmp_path / name, pictures, small_rig()))

    fine = of("fine", 0, 0.0)
    assert fine.problems == () and (fine.exposure.dark, fine.exposure.bright) == (0, 0)
    dark = of("dark", 0, 0.5)
    assert dark.exposure.dark == pytest.approx(0.5) and dark.usable
    assert "50 % of the pixels are black" in texts(dark, "warn")[0]
    white = of("white", 255, 1.0)
    assert not white.usable and "100 % of the pixels are white: a shorter exposure" in reasons(white)


def test_no_image_that_can_be_read(tmp_path):
    good = write(tmp_path / "good")

    def cut(topic, message, place):
        if topic == "/left/image_rect":
            message.data = message.data[:-10]
        return message

    check = check_bag(rewrite(good, tmp_path / "cut", cut))
    assert not check.usable and "3 of 3 checked pairs cannot be read; first: " in reasons(check)


# ---- what is told and used


def test_a_good_bag_by_hand_computed_numbers(tmp_path):
    stamps = tuple(10 * SECOND + k * SECOND // 10 for k in range(5))
    for storage, form in (("mcap", ""), ("sqlite3", "png")):
        path = write(tmp_path / f"{storage}{form}", stamps, storage=storage, compressed=form)
        check = check_bag(path)
        assert check.usable and check.problems == () and check.path == path
        assert (check.pairs, check.seconds, check.unpaired) == (5, 0.4, (0, 0))
        assert check.rate == pytest.approx(10) and check.largest_gap == pytest.approx(0.1)
        assert check.stamp_difference == 0 and check.rig == small_rig()
        assert check.encodings == (form or "rgb8",) * 2
        left, right, _ = planes(0)
        assert check.exposure.ratio == pytest.approx((left.mean() + 1) / (right.mean() + 1), rel=0.05)
        assert [sample.name for sample in check.samples] == [str(stamp) for stamp in stamps]
        told = check.to_dict()
        assert told["usable"] and told["rig"] == small_rig().to_dict() and "samples" not in told


def test_a_gap_and_images_without_a_partner(tmp_path):
    stamps = [k * SECOND // 10 for k in (1, 2, 3, 4, 9, 10)]
    pairs = pairs_at(*stamps)
    pairs[1] = (*pairs[1][:2], None)
    check = check_bag(write_stereo_bag(tmp_path / "gaps", pairs, small_rig()))
    assert check.usable and check.pairs == 5 and check.unpaired == (1, 0)
    assert check.largest_gap == pytest.approx(0.5)
    warned = " ".join(texts(check, "warn"))
    assert "1 gap(s) of up to 0.50 s at a period of 0.150 s" in warned
    assert "1 image has no partner within 0 s: give a larger --slop" in warned


def test_stamps_that_differ(tmp_path):
    good = write(tmp_path / "good")

    def late(topic, message, place):
        if topic == "/right/image_rect":
            message.header.stamp = replace(message.header.stamp, nanosec=20_000_000)
        return message

    path = rewrite(good, tmp_path / "late", late)
    assert "give a slop of at least 0.02 s" in reasons(check_bag(path))
    check = check_bag(path, slop=0.03)
    assert check.usable and check.stamp_difference == pytest.approx(0.02)
    assert "up to 20.0 ms apart" in texts(check, "warn")[0]


def test_one_camera_brighter_than_the_other_and_a_frozen_one(tmp_path):
    stamps = [k * SECOND for k in range(1, 5)]
    pairs = [(stamp, left // 2, right) for stamp, left, right in pairs_at(*stamps)]
    check = check_bag(write_stereo_bag(tmp_path / "dim", pairs, small_rig()))
    assert check.usable and check.exposure.ratio == pytest.approx(0.5, abs=0.02)
    assert "0.50 times as bright" in texts(check, "warn")[0]
    still = [(stamp, *pairs_at(1)[0][1:]) for stamp in stamps]
    check = check_bag(write_stereo_bag(tmp_path / "still", still, small_rig()))
    assert check.usable and "the camera is frozen" in texts(check, "warn")[0]


def test_a_bag_that_is_cut_off_is_used_as_far_as_it_goes(tmp_path, caplog):
    path, pairs = large(tmp_path / "whole")
    file = storage_file(path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    check = check_bag(path)
    assert check.usable and 0 < check.pairs < len(pairs)
    assert sum("cut off or damaged" in text for text in texts(check, "warn")) == 1
    assert not caplog.records  # said in the result, not twice
    file.write_bytes(np.random.default_rng(0).bytes(5000))
    check = check_bag(path)
    assert not check.usable and "cannot be read" in reasons(check)


def test_topics_are_those_that_are_named(tmp_path):
    topics = {"/a/image": IMAGE, "/b/image": IMAGE, "/a/camera_info": INFO, "/b/right_info": INFO}
    path = bag_of(tmp_path / "named", topics, {key: [(100, 100)] for key in topics})
    check = check_bag(path, left="/a/image", right="b/image", right_info="/b/right_info")
    assert check.pairs == 1 and check.usable, reasons(check)
    assert "several" in reasons(check_bag(path)) or "no pair of image topics" in reasons(check_bag(path))
