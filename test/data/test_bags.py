"""Pairs from bags without ROS: every encoding and storage, topics, stamps."""

from __future__ import annotations

import dataclasses
import gc
import logging
import pickle
import struct
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

from support.bags import SECOND, WORLD, bag_of, large, pairs_at, raw_bag, rewrite, storage_file, write
from support.pair_folders import planes, small_rig
from support.waiting import LIMIT

from fg_depth_ros.data.bags.messages import Place, message_at
from fg_depth_ros.data.bags.pairs import BagTopics, find_topics, open_bag_pairs
from fg_depth_ros.data.bags.storage import BagStorage
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry.rectification import Rectification

IMAGE, COMPRESSED, INFO = (f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo"))
LEFT, RIGHT, _ = planes(0)


# ---- bad input -------------------------------------------------------------------------------------------------


def test_what_is_no_bag_says_so(tmp_path):
    with pytest.raises(FileError, match="/nowhere: no such bag; give its folder, or its .mcap, .db3 or .bag file"):
        open_bag_pairs("/nowhere")
    with pytest.raises(FileError, match="holds no .mcap and no .db3 file: no bag"):
        open_bag_pairs(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(FileError, match=r"a\.txt: no bag; a bag is a folder, a .mcap, .db3 or \(ROS 1\) .bag file"):
        open_bag_pairs(tmp_path / "a.txt")
    for name in ("a.mcap", "a.db3"):
        for content in (b"", b"\x89MCAP0\r\n" + bytes(100), b"x" * 1000):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(FileError, match=rf"{name}: (cannot be read|no whole message|the file is empty)"):
                open_bag_pairs(tmp_path / name)


def test_without_the_library_the_way_to_it_is_said(tmp_path, monkeypatch):
    bag = write(tmp_path / "bag")
    monkeypatch.setitem(sys.modules, "rosbags.rosbag2", None)
    with pytest.raises(FileError, match=r"reading bags needs the library rosbags .*pip install 'fg_depth_ros\[data\]'"):
        open_bag_pairs(bag)


def test_a_bag_without_calibration_names_the_ways_out(tmp_path):
    bag = bag_of(tmp_path / "bag", {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE, "/other/camera_info": INFO})
    with pytest.raises(FileError, match=(
        r"no camera_info for /left/image_rect \(expected /left/camera_info; the bag has /other/camera_info\): name the "
        r"camera_info topics \(--left-info, --right-info\); if there are none, record them with the images"
    )):  # fmt: skip
        open_bag_pairs(bag)
    assert open_bag_pairs(bag, rig=small_rig())[0].rig == small_rig()


def test_swapped_cameras_and_foreign_topics_are_refused(tmp_path):
    bag = write(tmp_path / "bag")
    with pytest.raises(FileError, match="so the baseline is negative|left and right swapped"):
        open_bag_pairs(bag, "right/image_rect", "left/image_rect")
    with pytest.raises(
        FileError, match=r"no topic 'front'; of sensor_msgs/msg/Image or .* there are: /left/image_rect"
    ):
        open_bag_pairs(bag, "front", "/right/image_rect")
    with pytest.raises(FileError, match="'/left/camera_info' is a sensor_msgs/msg/CameraInfo; of"):
        open_bag_pairs(bag, "/left/camera_info", "/right/image_rect")


def test_an_encoding_that_no_camera_sends_is_refused_at_once(tmp_path):
    depth = np.ones((96, 160), np.float32)
    bag = write_stereo_bag(tmp_path / "bag", [(SECOND, depth, depth)], small_rig(), encoding="32FC1")
    with pytest.raises(
        FileError, match=r"/left/image_rect: encoding '32FC1' is not supported: let the driver send one"
    ):
        open_bag_pairs(bag)


def test_images_of_another_size_than_the_calibration_are_named(tmp_path):
    bag = write_stereo_bag(tmp_path / "bag", pairs_at(5), small_rig().scaled(320, 192))
    with pytest.raises(
        FileError, match=r"/left/image_rect at 5 ns: the image is 160x96 pixels and the calibration for"
    ):
        open_bag_pairs(bag)[0].images()


def test_cameras_that_never_meet_are_refused_with_the_gap(tmp_path):
    bag = write_stereo_bag(tmp_path / "bag", [(SECOND, LEFT, None), (SECOND + 40_000_000, None, RIGHT)], small_rig())
    with pytest.raises(FileError, match=(
        r"no pairs: 1 stamps of /left/image_rect and 1 of /right/image_rect, the nearest 0.04 s apart, and the slop is "
        r"0 s; give a slop of at least 0.04 s"
    )):  # fmt: skip
        open_bag_pairs(bag)
    bag = write_stereo_bag(tmp_path / "apart", [(SECOND, LEFT, None), (60 * SECOND, None, RIGHT)], small_rig())
    with pytest.raises(FileError, match="not of one recording"):
        open_bag_pairs(bag, slop=0.1)
    bag = write_stereo_bag(tmp_path / "one", [(SECOND, LEFT, None)], small_rig())
    with pytest.raises(FileError, match="/right/image_rect holds no message"):
        open_bag_pairs(bag, rig=small_rig())


def test_messages_without_a_stamp_are_named(tmp_path, caplog):
    bag = write_stereo_bag(tmp_path / "bag", [(0, LEFT, RIGHT)] * 3, small_rig())
    with pytest.raises(FileError, match=r"/left/image_rect have no stamp \(it is 0\)"):
        open_bag_pairs(bag)
    some = write_stereo_bag(tmp_path / "some", [(0, LEFT, RIGHT), (SECOND, LEFT, RIGHT)], small_rig())
    assert [sample.stamp for sample in open_bag_pairs(some)] == [SECOND]
    assert "/left/image_rect: images without a stamp (it is 0) are left out" in caplog.text


# ---- pairs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("single_file", [False, True])
def test_pairs_come_out_as_they_were_written(tmp_path, storage, single_file):
    bag = write(tmp_path / "bag", storage=storage)
    samples = open_bag_pairs(storage_file(bag) if single_file else bag)
    assert [sample.name for sample in samples] == ["10000000000", "11000000000", "12000000000"]
    for seed, sample in enumerate(samples):
        for image, expected in zip(sample.images(), planes(seed)[:2], strict=True):
            np.testing.assert_array_equal(image, expected)
        assert sample.rig == small_rig()
        assert sample.stamp_difference == 0
        assert sample.truth() is None and not sample.has_truth and sample.occluded() is None


def test_every_camera_encoding_is_decoded(tmp_path):
    grey = cv2.cvtColor(LEFT, cv2.COLOR_RGB2GRAY)
    as_grey = np.repeat(grey[..., None], 3, -1)
    alpha = np.full((96, 160, 1), 7, np.uint8)
    written = {
        "mono8": (grey, as_grey),
        "8UC1": (grey, as_grey),
        "mono16": (grey.astype(np.uint16) * 257, as_grey),
        "rgb8": (LEFT, LEFT),
        "bgr8": (LEFT[..., ::-1], LEFT),
        "8UC3": (LEFT[..., ::-1], LEFT),
        "rgba8": (np.dstack([LEFT, alpha]), LEFT),
        "bgra8": (np.dstack([LEFT[..., ::-1], alpha]), LEFT),
        # grey with neutral colour: U = V = 128, Y as grey; OpenCV widens 16..235 to 0..255
        "yuv422": (np.dstack([np.full_like(grey, 128), grey // 2 + 60]), None),
        "bayer_rggb8": (np.full((96, 160), 90, np.uint8), np.full((96, 160, 3), 90, np.uint8)),
    }
    for encoding, (array, expected) in written.items():
        bag = write_stereo_bag(tmp_path / encoding, [(SECOND, array, array)], small_rig(), encoding=encoding)
        left, right = open_bag_pairs(bag)[0].images()
        assert left.shape == (96, 160, 3) and left.dtype == np.uint8
        np.testing.assert_array_equal(left, right)
        if expected is None:
            y = (grey // 2 + 60).astype(float)
            np.testing.assert_allclose(left[..., 1], np.clip((y - 16) * 255 / 219, 0, 255), atol=1.5)
            expected = np.repeat(left[..., :1], 3, -1)
        np.testing.assert_array_equal(left, expected, err_msg=encoding)


def test_the_bits_of_16_bit_images_are_learned_from_the_bag(tmp_path, caplog):
    grey = np.tile(np.linspace(0, 1000, 160).astype(np.uint16), (96, 1))
    pairs = [(k * SECOND, grey if k < 5 else grey * 4, grey) for k in range(1, 6)]  # the last one needs 12 bits
    bag = write_stereo_bag(tmp_path / "bag", pairs, small_rig(), encoding="mono16")
    samples = open_bag_pairs(bag)
    left, right = samples[0].raw_images()
    assert left.max() == right.max() == round(1000 * 255 / 4095)
    assert samples[4].raw_images()[0].max() == round(4000 * 255 / 4095)
    assert "clipped" not in caplog.text
    some = open_bag_pairs(bag)[4].left
    dataclasses.replace(some, white=1023)()
    assert "values need 12 bits, but the bag's images seemed to have 10" in caplog.text


def test_the_bits_of_a_png_are_learned_from_its_pixels(tmp_path):
    grey = np.tile(np.linspace(0, 4000, 160).astype(np.uint16), (96, 1))  # 12 bits, in a format that is but "png"
    bag = write_stereo_bag(tmp_path / "bag", [(SECOND, grey, grey)], small_rig(), compressed="png")
    (sample,) = open_bag_pairs(bag)
    assert sample.raw_images()[0].max() == round(4000 * 255 / 4095)


@pytest.mark.parametrize(("form", "tolerance"), [("png", 0), ("jpeg", 60)])
def test_compressed_images(tmp_path, form, tolerance):
    smooth = cv2.GaussianBlur(LEFT, (15, 15), 5)
    bag = write_stereo_bag(tmp_path / "bag", [(SECOND, smooth, smooth)], small_rig(), compressed=form)
    left, right = open_bag_pairs(bag)[0].images()
    assert np.abs(left.astype(int) - smooth).max() <= tolerance
    np.testing.assert_array_equal(left, right)


def test_a_message_that_cannot_be_decoded_leaves_the_others_readable(tmp_path, monkeypatch):
    bag = BagStorage(write(tmp_path / "bag", (SECOND, 2 * SECOND)))
    first, second = (Place("/left/image_rect", k * SECOND, k * SECOND) for k in (1, 2))
    with monkeypatch.context() as damaged:
        damaged.setattr("fg_depth_ros.data.bags.messages.message_types", lambda: None)
        with pytest.raises(FileError, match="no whole sensor_msgs/msg/Image") as error:
            message_at(bag, first)
    with ThreadPoolExecutor() as pool:  # while the error, and all that it refers to, is kept
        assert pool.submit(message_at, bag, second).result(timeout=LIMIT).width == LEFT.shape[1]
    assert error.traceback


def test_a_calibration_that_changes_is_a_warning(tmp_path, caplog):
    steady = write(tmp_path / "steady", tuple(k * SECOND for k in range(1, 5)))
    open_bag_pairs(steady)
    assert not caplog.records

    def moved(topic, message, place):
        if topic == "/left/camera_info" and place >= 2:
            message.roi.x_offset = 8
        return message

    open_bag_pairs(rewrite(steady, tmp_path / "moved", moved))
    (record,) = caplog.records
    assert "the calibration changes within the bag (1 times, first at 3000000000 ns (/left/camera_info))" in (
        record.getMessage()
    )


def test_pairs_are_mutual_nearest_neighbours_within_the_slop(tmp_path, caplog):
    ms = 1_000_000
    messages = [
        (100 * ms, LEFT, None), (103 * ms, None, RIGHT),  # 3 ms apart
        (200 * ms, LEFT, RIGHT),
        (300 * ms, LEFT, None), (306 * ms, None, RIGHT), (309 * ms, LEFT, None),  # nearer to the second left image
        (400 * ms, LEFT, None), (412 * ms, None, RIGHT),  # too far apart
    ]  # fmt: skip
    bag = write_stereo_bag(tmp_path / "bag", messages, small_rig())
    with caplog.at_level(logging.WARNING):
        samples = open_bag_pairs(bag, slop=0.005)
    assert [sample.name for sample in samples] == [str(k * ms) for k in (100, 200, 309)]
    assert [sample.stamp_difference for sample in samples] == [0.003, 0, -0.003]
    assert "3 pairs; 3 images have no partner within 0.005 s: give a larger --slop" in caplog.text
    assert [sample.name for sample in open_bag_pairs(bag)] == [str(200 * ms)]


def test_of_a_looping_source_every_stamp_counts_once(tmp_path):
    bag = write(tmp_path / "bag", stamps=(SECOND, 2 * SECOND, SECOND, 2 * SECOND))
    samples = open_bag_pairs(bag)
    assert [sample.name for sample in samples] == ["1000000000", "2000000000"]
    np.testing.assert_array_equal(samples[0].images()[0], planes(0)[0])


def test_stamps_count_and_not_the_time_of_recording(tmp_path):
    """Both cameras' messages recorded at one moment, in another order than their stamps."""
    stamps = {"/left/image_rect": (30, 10), "/right/image_rect": (10, 30)}
    kinds = dict.fromkeys(stamps, IMAGE)
    bag = bag_of(tmp_path / "bag", kinds, {topic: [(SECOND, stamp) for stamp in two] for topic, two in stamps.items()})
    samples = open_bag_pairs(bag, rig=small_rig())
    assert [sample.name for sample in samples] == ["10", "30"]
    for sample in samples:  # bag_of writes the stamp into the first pixel
        assert [image[0, 0, 0] for image in sample.images()] == [int(sample.name)] * 2


def test_big_endian_messages_have_their_stamps_read(tmp_path):
    from fg_depth_ros.data.bags.messages import stamp_of

    assert stamp_of(b"\0\1\0\0" + struct.pack("<iI", 3, 7)) == 3_000_000_007
    assert stamp_of(b"\0\0\0\0" + struct.pack(">iI", 3, 7)) == 3_000_000_007
    assert stamp_of(b"\0\1\0\0\0") is None


def test_no_image_is_kept_and_samples_travel_to_other_processes(tmp_path):
    bag, pairs = large(tmp_path / "bag")
    samples = open_bag_pairs(bag)
    copies = pickle.loads(pickle.dumps(samples))
    for k in (5, 0, 7):  # in any order
        for image, expected in zip(copies[k].images(), pairs[k][1:], strict=True):
            np.testing.assert_array_equal(image, expected)
    assert len(pickle.dumps(samples)) < 10_000
    image = weakref.ref(samples[3].images()[0])
    gc.collect()
    assert image() is None


# ---- topics ----------------------------------------------------------------------------------------------------


def sides(left, right, kind=IMAGE):
    return {left: kind, right: kind}


@pytest.mark.parametrize(("topics", "left", "right"), [
    (sides("/left/image_rect", "/right/image_rect"), "/left/image_rect", "/right/image_rect"),
    (sides("/a/infra1/image_rect_raw", "/a/infra2/image_rect_raw"), "/a/infra1/image_rect_raw",
     "/a/infra2/image_rect_raw"),
    (sides("/cam0/image_raw", "/cam1/image_raw"), "/cam0/image_raw", "/cam1/image_raw"),
    # rectified before raw, uncompressed before compressed, and no depth
    (sides("/left/image_raw", "/right/image_raw") | sides("/left/image_rect", "/right/image_rect")
     | sides("/left/image_rect/compressed", "/right/image_rect/compressed", COMPRESSED)
     | sides("/left/depth_rect", "/right/depth_rect"), "/left/image_rect", "/right/image_rect"),
    (sides("/left/image_raw", "/right/image_raw") | sides("/left/image_rect/compressed",
     "/right/image_rect/compressed", COMPRESSED), "/left/image_rect/compressed", "/right/image_rect/compressed"),
    # whole components: arms are no cameras, a camera may be called after depth, and the last side is the camera's
    (sides("/left_arm/image", "/right_arm/image") | sides("/direct/left/image", "/direct/right/image", COMPRESSED)
     | sides("/left/image_rect", "/right/image_rect"), "/left/image_rect", "/right/image_rect"),
    (sides("/depth_camera/left/image", "/depth_camera/right/image") | sides("/depth/left/image", "/depth/right/image"),
     "/depth_camera/left/image", "/depth_camera/right/image"),
    (sides("/front_left/left/image", "/front_left/right/image") | {"/front_right/right/image": IMAGE},
     "/front_left/left/image", "/front_left/right/image"),
    (sides("/left/left/image", "/left/right/image") | {"/right/left/image": IMAGE},
     "/left/left/image", "/left/right/image"),
])  # fmt: skip
def test_topics_are_found_by_type_and_name(topics, left, right):
    info = {f"{name.removesuffix('/compressed').rpartition('/')[0]}/camera_info": INFO for name in (left, right)}
    assert find_topics({**topics, **info, "/tf": "tf2_msgs/msg/TFMessage"}) == BagTopics(left, right, *info)


def test_topics_that_cannot_be_told_apart_have_to_be_named():
    two = sides("/front/left/image_rect", "/front/right/image_rect") | sides("/back/left/image_rect",
                                                                             "/back/right/image_rect")  # fmt: skip
    with pytest.raises(FileError, match=r"drive: several pairs of image topics fit: /back/left/image_rect with "
                       "/back/right/image_rect, /front/left/image_rect with .*name the left and the right topic "
                       r"\(--left and --right"):  # fmt: skip
        find_topics(two, where="drive")
    found = find_topics(two, left="/back/left/image_rect")  # the other side follows
    assert found == BagTopics("/back/left/image_rect", "/back/right/image_rect", "", "")
    assert find_topics(two, right="front/right/image_rect").left == "/front/left/image_rect"
    with pytest.raises(
        FileError, match=r"no pair of image topics can be identified by name \(images: /camera/image_raw\)"
    ):
        find_topics({"/camera/image_raw": IMAGE})
    with pytest.raises(FileError, match="no pair of image topics can be identified by name"):
        find_topics(sides("/front_left/left/image", "/front_right/right/image"))
    given = find_topics({"/a": IMAGE, "/b": IMAGE, "/i": INFO, "/j": INFO}, "a", "b", "/i", "j")
    assert given == BagTopics("/a", "/b", "/i", "/j")


@pytest.mark.parametrize(("images", "infos", "expected"), [
    # the last component is the side: camera_info below it, or with the side in its own name
    (("/depth_camera/left", "/depth_camera/right"), "/depth_camera/{}/camera_info", True),
    (("/depth_camera/left", "/depth_camera/right"), "/depth_camera/{}_camera_info", True),
    (("/rig/left/compressed", "/rig/right/compressed"), "/rig/{}/camera_info", True),
    (("/left_image", "/right_image"), "/{}_camera_info", True),
    (("/rig/left/color/image", "/rig/right/color/image"), "/rig/{}/camera_info", True),
    # of another camera, of depth, of an arm
    (("/depth_camera/left", "/depth_camera/right"), "/{}/camera_info", False),
    (("/left/image", "/right/image"), "/other/{}/camera_info", False),
    (("/rig/left", "/rig/right"), "/rig/{}/depth/camera_info", False),
    (("/left_arm/stereo/left", "/left_arm/stereo/right"), "/{}_arm/stereo/camera_info", False),
])  # fmt: skip
def test_camera_infos_are_found_by_whole_components(images, infos, expected):
    pair = [infos.format(side) for side in ("left", "right")]
    kind = COMPRESSED if images[0].endswith("compressed") else IMAGE
    found = find_topics({**dict.fromkeys(images, kind), **dict.fromkeys(pair, INFO)})
    assert found == BagTopics(*images, *(pair if expected else ("", "")))


def test_two_camera_infos_that_fit_alike_are_not_chosen_from():
    two = {f"/rig/{side}_{name}": INFO for side in ("left", "right") for name in ("info", "calibration")}
    assert find_topics({**sides("/rig/left", "/rig/right"), **two})[2:] == ("", "")


@pytest.mark.parametrize(("topics", "left"), [
    (sides("/left_arm/stereo/left", "/left_arm/stereo/right"), "/left_arm/stereo/left"),
    (sides("/left_arm/stereo/left", "/left_arm/stereo/right") | {"/right_arm/image": IMAGE, "/left_arm/image": IMAGE},
     "/left_arm/stereo/left"),
    (sides("/left_arm/stereo/left", "/left_arm/stereo/right") | sides("/right_arm/stereo/left",
     "/right_arm/stereo/right"), ""),
    ({"/front_left/left": IMAGE, "/front_right/right": IMAGE}, ""),
    ({"/front_left/left": IMAGE, "/front_left/right": IMAGE, "/front_right/right": IMAGE}, "/front_left/left"),
    (sides("/front_left/image", "/front_right/image"), ""),
    (sides("/upleft/image", "/upright/image"), ""),
    ({"/left/image": IMAGE, "/right/image": "sensor_msgs/msg/PointCloud2"}, ""),
])  # fmt: skip
def test_what_only_looks_like_a_pair_is_none(topics, left):
    if left:
        assert find_topics(topics).left == left
        return
    with pytest.raises(FileError) as error:
        find_topics(topics)
    assert all(name in str(error.value) for name, kind in topics.items() if kind == IMAGE)
    assert "--left and --right" in str(error.value)


def test_raw_images_are_rectified_as_the_node_does_it(tmp_path, caplog):
    caplog.set_level("INFO")
    bag = raw_bag(tmp_path / "raw")
    (sample,) = open_bag_pairs(bag)
    expected = Rectification.from_camera_info(*(WORLD.camera_info(side) for side in (0, 1)))
    assert sample.rig == expected.rig
    for side, image in enumerate(sample.raw_images()):
        np.testing.assert_array_equal(image, expected.apply(WORLD.raw_image(side), side))
    (as_it_is,) = open_bag_pairs(bag, rectify="off")
    np.testing.assert_array_equal(as_it_is.raw_images()[0], WORLD.raw_image(0))
    with pytest.raises(FileError, match="rectify is 'never': choose one of auto, on, off"):
        open_bag_pairs(bag, rectify="never")
    named = raw_bag(tmp_path / "named", "image_rect")
    assert "say rectified" not in caplog.text
    np.testing.assert_array_equal(open_bag_pairs(named)[0].raw_images()[0], WORLD.raw_image(0))
    assert "names /left/image_rect and /right/image_rect say rectified: set rectify to on if not" in caplog.text
    np.testing.assert_array_equal(open_bag_pairs(named, rectify="on")[0].raw_images(), sample.raw_images())


def test_raw_images_whose_camera_info_cannot_rectify_are_refused(tmp_path):
    kinds = {"/left/image_raw": IMAGE, "/right/image_raw": IMAGE, "/left/camera_info": INFO, "/right/camera_info": INFO}
    distorted = {"/left/camera_info": {"d": np.full(5, 0.1)}}
    bag = bag_of(tmp_path / "bag", kinds, fields=distorted)  # K is not filled
    with pytest.raises(FileError, match=r"/left/camera_info and /right/camera_info: .*k is all zeros.*rectify to off"):
        open_bag_pairs(bag)
    assert open_bag_pairs(bag, rectify="off")[0].rig.baseline == pytest.approx(0.1)


# ---- writing ---------------------------------------------------------------------------------------------------


def test_writing_leaves_nothing_half_done(tmp_path):
    write(tmp_path / "bag")
    with pytest.raises(FileError, match="bag: is there already; choose another folder"):
        write(tmp_path / "bag")
    with pytest.raises(ValueError, match=r"an array of uint8 \(96, 160, 3\) is no mono8 image"):
        write(tmp_path / "other", encoding="mono8")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="cannot be written"):
        write(tmp_path / "file" / "bag")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "file"]


def test_what_is_written_is_read_by_others(tmp_path):
    """By rosbags itself, with the fields that ROS's tools look at."""
    from rosbags.rosbag2 import Reader

    from fg_depth_ros.data.bags.storage import message_types

    with Reader(write(tmp_path / "bag", frame_id="cam")) as reader:
        assert {topic: info.msgcount for topic, info in reader.topics.items()} == {
            f"/{side}/{name}": 3 for side in ("left", "right") for name in ("image_rect", "camera_info")
        }
        infos = [c for c in reader.connections if c.topic == "/right/camera_info"]
        _, recorded, data = next(iter(reader.messages(infos)))
        info = message_types().deserialize_cdr(data, INFO)
    assert recorded == 10 * SECOND and info.header.frame_id == "cam"
    assert (info.width, info.height, info.p[3]) == (160, 96, -200 * 0.1)
    assert info.header.stamp.sec == 10
    assert sorted(path.name for path in (tmp_path / "bag").iterdir()) == ["bag.mcap", "metadata.yaml"]
