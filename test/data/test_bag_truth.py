"""True depth in bags: depth images, and points of a LiDAR whose pixels are computed by hand."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read by rosbags (extra 'data')")

from support.bags import WORLD, bag_of, raw_bag, rewrite
from support.pair_folders import planes, small_rig
from support.raw_cameras import cast, share_true
from support.truth import (
    CLOUD,
    PLACE,
    SECOND,
    TF,
    cloud,
    depth_message,
    header,
    static,
    stereo_bag,
    types,
    with_messages,
)

from fg_depth_ros.data.bags.pairs import open_bag_pairs
from fg_depth_ros.data.bags.storage import COMPRESSED, DISPARITY
from fg_depth_ros.data.bags.truth import CLOUD as CLOUD_TYPE
from fg_depth_ros.data.bags.truth import TruthOptions, cloud_points, project
from fg_depth_ros.data.datasets.depth import open_depth_sets
from fg_depth_ros.data.io.compressed_depth import DepthQuantisation, encode_metres, encode_millimetres
from fg_depth_ros.files import FileError
from fg_depth_ros.geometry import disparity_to_depth

IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
RIG = small_rig()  # f 200 px, cx 76.5, cy 47.5, 160 x 96


# The LiDAR looks along x; the camera stands 1 m before it and looks the same way.
def lidar_bag(folder, sweeps, place=PLACE, name="/velodyne_points", count=2):
    messages = [] if place is None else [("/tf_static", TF, SECOND, place)]
    bag = stereo_bag(folder, count, truth=False)
    return with_messages(bag, messages + [(name, CLOUD, message.header.stamp.sec, message) for message in sweeps])


# ---- bad input -------------------------------------------------------------------------------------------------


def test_topics_that_are_not_there_are_named_with_those_that_are(tmp_path):
    bag = lidar_bag(tmp_path / "bag", [cloud(SECOND, [(5, 0, 0)])])
    with pytest.raises(
        FileError,
        match=f"no topic 'depth'; of {IMAGE} or {COMPRESSED} or {DISPARITY} there are: /left/image_rect, /right",
    ):
        open_bag_pairs(bag, truth=TruthOptions("depth"))
    with pytest.raises(FileError, match=f"no topic 'scan'; of {CLOUD_TYPE} there are: /velodyne_points"):
        open_bag_pairs(bag, truth=TruthOptions(lidar_topic="scan"))


def test_a_lidar_without_a_way_to_the_camera_is_refused_where_it_was_asked_for(tmp_path, caplog):
    bag = lidar_bag(tmp_path / "bag", [cloud(SECOND, [(5, 0, 0)])], place=static("base", "lidar", (0, 0, 1)))
    with pytest.raises(FileError, match="/velodyne_points: no transform from frame 'lidar' to frame 'left_camera'"):
        open_bag_pairs(bag, truth=TruthOptions(lidar_topic="velodyne_points"))
    with caplog.at_level(logging.WARNING):
        assert open_bag_pairs(bag)[0].depth is None
    assert "/velodyne_points is not used" in caplog.text
    assert "no transform from frame 'lidar' to frame 'left_camera'" in caplog.text


def test_messages_without_a_frame_are_named(tmp_path):
    bag = lidar_bag(tmp_path / "bag", [cloud(SECOND, [(5, 0, 0)], frame="")])
    with pytest.raises(FileError, match="/velodyne_points: its messages name no frame_id"):
        open_bag_pairs(bag, truth=TruthOptions(lidar_topic="/velodyne_points"))


def test_truth_of_another_size_or_encoding_is_named(tmp_path):
    for name, message, expected in (
        ("small", depth_message(SECOND, np.ones((48, 80), np.float32)), "true depth is 80x48 pixels and the left cam"),
        ("bytes", depth_message(SECOND, np.ones((96, 160), np.uint8), "mono8"), "encoding 'mono8' is no depth image"),
    ):
        bag = with_messages(stereo_bag(tmp_path / name, truth=False), [("/ground_truth/depth", IMAGE, 1, message)])
        with pytest.raises(FileError, match=expected):
            open_bag_pairs(bag)[0].truth()


def test_damaged_clouds_are_named():
    good = cloud(SECOND, [(1, 2, 3), (4, 5, 6)])
    fields = type(good.fields[0])
    for changed, message in (
        ({"fields": good.fields[:3]}, r"no floating point field z \(there are intensity, x, y\)"),
        ({"fields": [*good.fields[:3], fields(name="z", offset=12, datatype=5, count=1)]}, "no floating point field z"),
        ({"data": good.data[:-1]}, "39 bytes do not hold 1 rows of 40 bytes with 2 points of 20"),
        ({"row_step": 20}, "do not hold"),
        ({"fields": [*good.fields[:3], fields(name="z", offset=18, datatype=7, count=1)]}, "do not hold"),
    ):
        values = {name: getattr(good, name) for name in good.__dataclass_fields__ if name != "__msgtype__"}
        with pytest.raises(FileError, match=f"here: .*{message}"):
            cloud_points(type(good)(**(values | changed)), "here")


# ---- depth images ----------------------------------------------------------------------------------------------


def test_depth_images_become_depth_and_disparity(tmp_path):
    bag = stereo_bag(tmp_path / "bag")
    first, second = open_bag_pairs(bag)
    for seed, sample in enumerate((first, second)):
        np.testing.assert_allclose(sample.truth(), planes(seed)[2], atol=1e-4)
        np.testing.assert_array_equal(sample.true_depth(), disparity_to_depth(planes(seed)[2], RIG))
        assert sample.depth.kind == "true depth"
    again = pickle.loads(pickle.dumps(second))
    np.testing.assert_array_equal(again.truth(), second.truth())
    assert open_bag_pairs(bag, truth=TruthOptions(depth_topic="none"))[0].truth() is None


def test_millimetres_and_what_is_no_depth(tmp_path):
    metres = np.full((96, 160), 2.0, np.float32)
    metres[0, :3] = (0.0, np.inf, -1.0)
    millimetres = np.full((96, 160), 1500, np.uint16)
    millimetres[0, 0] = 0
    bag = with_messages(
        stereo_bag(tmp_path / "bag", 3, truth=False),
        [
            ("/camera/depth", IMAGE, SECOND, depth_message(SECOND, metres)),
            ("/camera/depth", IMAGE, 2 * SECOND, depth_message(2 * SECOND, millimetres, "16UC1")),
        ],
    )
    first, second, third = open_bag_pairs(bag, truth=TruthOptions("camera/depth"))
    assert np.isnan(first.true_depth()[0, :3]).all()
    assert (first.true_depth()[0, 3:] == 2.0).all()
    assert np.isnan(second.true_depth()[0, 0])
    assert second.true_depth()[0, 1] == pytest.approx(1.5)
    assert third.depth is None and third.truth() is None and not third.has_truth
    assert first.truth()[0, 3] == pytest.approx(200 * 0.1 / 2.0 - 4.0)


def compressed(stamp, form, data):
    return types()[COMPRESSED](header=header(stamp, "left_camera"), format=form, data=np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("topic", ["/ground_truth/depth/compressedDepth", "/camera/depth/compressedDepth"])
def test_compressed_depth_is_true_depth_too(tmp_path, topic):
    metres = np.full((96, 160), 2.0, np.float32)
    metres[0, :2] = np.nan
    millimetres = np.where(np.isnan(metres), 0, 1500).astype(np.uint16)
    coded = (
        ("32FC1; compressedDepth png", encode_metres(metres, DepthQuantisation.between(0.1, 80.0), 1)),
        ("16UC1; compressedDepth png", encode_millimetres(millimetres, 1)),
    )
    messages = [(topic, COMPRESSED, k * SECOND, compressed(k * SECOND, *each)) for k, each in enumerate(coded, start=1)]
    bag = with_messages(stereo_bag(tmp_path / "bag", 2, truth=False), messages)
    given = "" if topic.startswith("/ground") else topic
    first, second = open_bag_pairs(bag, truth=TruthOptions(given))
    for sample, expected in ((first, 2.0), (second, 1.5)):
        depth = sample.true_depth()
        assert np.isnan(depth[0, :2]).all() and np.isfinite(depth).sum() == depth.size - 2
        np.testing.assert_allclose(depth[1:], expected, atol=4e-4)  # 2 ** 2 / (2 * 6561.6)
    if given:
        assert open_bag_pairs(bag)[0].depth is None


def disparity_message(stamp, values, focal=200.0, baseline=0.1):
    """A DisparityImage that searched 0 to 63 px; holes are -1, as stereo_image_proc marks them."""
    roi = types()["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return types()[DISPARITY](
        header=header(stamp, "left_camera"), image=depth_message(stamp, values), f=focal, t=baseline, valid_window=roi,
        min_disparity=0.0, max_disparity=63.0, delta_d=0.0625,
    )  # fmt: skip


@pytest.mark.parametrize("topic", ["/ground_truth/disparity", "/lab/disparity"])
def test_disparity_images_are_true_depth_by_their_own_f_and_t(tmp_path, topic):
    # of the message: x_left - x_right - (cx_left - cx_right); the images' own disparity is 4 less (doffs)
    values = np.full((96, 160), 10.0, np.float32)
    values[0, :4] = (-1.0, 0.0, 64.0, np.nan)  # a hole, infinity, beyond the range, a hole
    given = "" if topic.startswith("/ground") else topic
    half = disparity_message(2 * SECOND, values, baseline=0.05)
    messages = [(topic, DISPARITY, SECOND, disparity_message(SECOND, values)), (topic, DISPARITY, 2 * SECOND, half)]
    bag = with_messages(stereo_bag(tmp_path / "bag", 2, truth=False), messages)
    first, second = open_bag_pairs(bag, truth=TruthOptions(given))
    assert np.isnan(first.true_depth()[0, :4]).all()
    assert (first.true_depth()[0, 4:] == 2.0).all() and (second.true_depth()[1] == 1.0).all()  # 200 * 0.1 / 10
    assert first.truth()[1, 0] == pytest.approx(10.0 - 4.0)
    assert (open_bag_pairs(bag)[0].depth is None) == bool(given)


def test_disparity_images_without_f_or_t_are_refused_and_depth_images_go_before_them(tmp_path):
    values = np.full((96, 160), 10.0, np.float32)
    for name, gone in (("f", {"focal": 0.0}), ("t", {"baseline": 0.0})):
        message = ("/ground_truth/disparity", DISPARITY, SECOND, disparity_message(SECOND, values, **gone))
        bag = with_messages(stereo_bag(tmp_path / name, 1, truth=False), [message])
        with pytest.raises(
            FileError, match=r"has f = \d+ px and T = [\d.]+ m, and its depth is f \* T / d: let its publ"
        ):
            open_bag_pairs(bag)[0].true_depth()
    bag = with_messages(stereo_bag(tmp_path / "both", 1), [message])
    np.testing.assert_array_equal(open_bag_pairs(bag)[0].true_depth(), disparity_to_depth(planes(0)[2], RIG))


def test_raw_true_depth_comes_before_the_same_compressed(tmp_path):
    data = encode_metres(np.full((96, 160), 9.0, np.float32), DepthQuantisation.between(0.1, 80.0), 1)
    message = compressed(SECOND, "32FC1; compressedDepth png", data)
    name = "/ground_truth/depth/compressedDepth"
    bag = with_messages(stereo_bag(tmp_path / "bag", 1), [(name, COMPRESSED, SECOND, message)])
    np.testing.assert_array_equal(open_bag_pairs(bag)[0].true_depth(), disparity_to_depth(planes(0)[2], RIG))


def test_a_compressed_picture_is_no_depth(tmp_path):
    message = compressed(SECOND, "rgb8; jpeg compressed bgr8", b"\xff\xd8" + bytes(40))
    bag = with_messages(stereo_bag(tmp_path / "bag", 1, truth=False), [("/d/compressed", COMPRESSED, SECOND, message)])
    with pytest.raises(FileError, match="/d/compressed at .* its format is no '16UC1; compressedDepth png'"):
        open_bag_pairs(bag, truth=TruthOptions("/d/compressed"))[0].true_depth()


@pytest.mark.parametrize(("factor", "warned"), [(1.0, False), (1000.0, True)])
def test_floating_point_depth_in_millimetres_is_doubted(tmp_path, caplog, factor, warned):
    # 200 px * 0.1 m / 0.1 px = 200 m; the wall is at 200 * 0.1 / (6 + 4) = 2 m
    depth = np.full((96, 160), 2.0 * factor, np.float32)
    message = ("/ground_truth/depth", IMAGE, SECOND, depth_message(SECOND, depth))
    bag = with_messages(stereo_bag(tmp_path / "bag", 1, truth=False), [message])
    with caplog.at_level(logging.WARNING):
        assert open_bag_pairs(bag)[0].true_depth()[0, 0] == 2.0 * factor
    assert any("is it in millimetres?" in record.getMessage() for record in caplog.records) == warned


def test_a_stamp_within_the_slop_counts(tmp_path):
    depth = depth_message(SECOND + 3_000_000, np.ones((96, 160), np.float32))
    bag = with_messages(stereo_bag(tmp_path / "bag", 1, truth=False), [("/ground_truth/depth", IMAGE, 5, depth)])
    assert open_bag_pairs(bag)[0].depth is None
    assert open_bag_pairs(bag, slop=0.003)[0].depth is not None


def test_truth_that_is_near_no_image_is_named_with_the_slop_that_would_do(tmp_path, caplog):
    depth = depth_message(SECOND + 3_000_000, np.ones((96, 160), np.float32))
    bag = with_messages(stereo_bag(tmp_path / "bag", 1, truth=False), [("/ground_truth/depth", IMAGE, 5, depth)])
    text = "/ground_truth/depth is true depth of a left image: the nearest is 0.003 s away, and the slop is 0 s; give a"
    assert open_bag_pairs(bag)[0].depth is None
    assert f"{text} slop of at least 0.003 s" in caplog.text
    with pytest.raises(FileError, match=text):
        open_bag_pairs(bag, truth=TruthOptions("/ground_truth/depth"))
    swept = lidar_bag(tmp_path / "swept", [cloud(5 * SECOND, [(5, 0, 0)])])
    with pytest.raises(FileError, match="the nearest is 3 s away, and the lidar_slop is 0.05 s; they are not of one"):
        open_bag_pairs(swept, truth=TruthOptions(lidar_topic="/velodyne_points"))
    assert open_bag_pairs(swept)[0].depth is None
    assert "the lidar_slop is 0.05 s" in caplog.text


def test_where_depth_images_give_nothing_a_lidar_does(tmp_path):
    topic, depth = "/ground_truth/depth", depth_message(SECOND + 3_000_000, np.ones((96, 160), np.float32))
    far = with_messages(lidar_bag(tmp_path / "far", [cloud(SECOND, [(5, 0, 0)])], count=1), [(topic, IMAGE, 5, depth)])
    empty = rewrite(far, tmp_path / "empty", lambda name, message, place: None if name == topic else message)
    for bag in (far, empty):
        assert open_bag_pairs(bag)[0].depth.kind == "LiDAR"
    with pytest.raises(FileError, match=f"{topic} holds no message with a stamp; name another topic"):
        open_bag_pairs(empty, truth=TruthOptions(topic))


def test_depth_data_sets_see_the_truth_of_bags(tmp_path):
    (samples,) = open_depth_sets([stereo_bag(tmp_path / "bag")]).values()
    np.testing.assert_array_equal(samples[1].truth(), disparity_to_depth(planes(1)[2], RIG))


def test_depth_data_sets_take_the_topics_and_the_slop_of_a_bag(tmp_path):
    kinds = {"/a/image": IMAGE, "/b/image": IMAGE, "/a/camera_info": INFO, "/b/right/camera_info": INFO}
    at = {topic: [(k, k + late) for k in (10, 20)] for topic, late in (("/a/image", 0), ("/b/image", 2))}
    bag = bag_of(tmp_path / "bag", kinds, at)
    with pytest.raises(FileError, match="name the left and the right topic"):
        open_depth_sets([bag])
    options = {"left": "a/image", "right": "b/image", "right_info": "b/right/camera_info"}
    with pytest.raises(FileError, match="give a slop of at least 2e-09 s"):
        open_depth_sets([bag], bag=options)
    (samples,) = open_depth_sets([bag], bag=options | {"slop": 2e-9}).values()
    assert len(samples) == 2


# Of the raw left camera of ``raw_bag``, along its own axis: cast through its lens, without a map of a rectification.
def raw_depth():
    rays = WORLD.rays(0)
    return cast(np.zeros(3), np.concatenate([rays, np.ones((*rays.shape[:2], 1))], -1))[0][..., 2].astype(np.float32)


def raw_bag_with_depth(folder, image="image_raw", topic="/ground_truth/depth"):
    message = depth_message(SECOND // 10, raw_depth())
    return with_messages(raw_bag(folder, image), [(topic, IMAGE, SECOND // 10, message)])


@pytest.mark.parametrize(("image", "frame"), [("image_raw", "auto"), ("image_raw", "raw"), ("image_rect", "raw")])
def test_depth_of_the_raw_camera_is_rectified_with_its_images(tmp_path, caplog, image, frame):
    """Where the lens moves a pixel, and as far as R turns the axis that depth is along."""
    (sample,) = open_bag_pairs(raw_bag_with_depth(tmp_path / "bag", image), truth=TruthOptions(camera_frame=frame))
    expected = WORLD.true_depth(sample.rig.P_left()[:, :3], WORLD.size)
    assert share_true(sample.true_depth(), expected, tolerance=1e-3) > 0.98  # but for pixels at edges
    assert np.isfinite(sample.true_depth()).mean() > 0.98
    assert share_true(raw_depth(), expected, tolerance=1e-3) < 0.5
    assert not caplog.records
    again = pickle.loads(pickle.dumps(sample))
    np.testing.assert_array_equal(again.true_depth(), sample.true_depth())


def test_depth_of_rectified_images_stays_as_it_is(tmp_path, caplog):
    raw = raw_bag_with_depth(tmp_path / "raw")
    for bag, options in (
        (raw, TruthOptions(camera_frame="rectified")),
        (raw_bag_with_depth(tmp_path / "rect", "image_rect"), TruthOptions()),
        (raw_bag_with_depth(tmp_path / "named", topic="/depth/image_rect"), TruthOptions("/depth/image_rect")),
    ):
        np.testing.assert_array_equal(open_bag_pairs(bag, truth=options)[0].true_depth(), raw_depth())
    assert not caplog.records


def test_depth_of_another_frame_than_the_raw_images_is_taken_as_rectified_with_a_warning(tmp_path, caplog):
    def framed(topic, message, place):
        if topic == "/left/image_raw":
            message.header.frame_id = "left_raw"
        return message

    bag = rewrite(raw_bag_with_depth(tmp_path / "raw"), tmp_path / "framed", framed)
    np.testing.assert_array_equal(open_bag_pairs(bag)[0].true_depth(), raw_depth())
    assert "/ground_truth/depth: has the frame 'left_camera', and the raw left images 'left_raw'" in caplog.text
    assert "give --camera-frame raw" in caplog.text
    caplog.clear()
    for frame in ("raw", "rectified"):
        open_bag_pairs(bag, truth=TruthOptions(camera_frame=frame))
    assert not caplog.records


def test_depth_of_a_raw_camera_that_nothing_describes_is_refused(tmp_path):
    bag = raw_bag_with_depth(tmp_path / "bag")
    with pytest.raises(FileError, match="/ground_truth/depth: camera_frame is 'raw', and no camera_info"):
        open_bag_pairs(bag, rig=small_rig(*WORLD.size), truth=TruthOptions(camera_frame="raw"))


# ---- LiDAR -----------------------------------------------------------------------------------------------------


def test_points_fall_on_the_pixels_computed_by_hand(tmp_path):
    sweep = [
        (11.0, 0.0, 0.0),  # 10 m before the camera, on its axis: (76.5, 47.5) -> 76 or 77, 47 or 48
        (5.0, 0.41, 0.21),  # 4 m: u = 76.5 - 200 * 0.41 / 4 = 56, v = 47.5 - 200 * 0.21 / 4 = 37
        (6.0, 0.49, 0.2625),  # 5 m: u = 56.9, v = 37
        (9.0, 0.78, 0.42),  # 8 m: u = 57, v = 37: behind the one before, in the same pixel
        (0.5, 0.0, 0.0),  # behind the camera
        (2.0, 5.0, 0.0),  # 1 m, outside the picture
        (np.nan, 0.0, 0.0),
    ]
    bag = lidar_bag(tmp_path / "bag", [cloud(SECOND + 20_000_000, sweep), cloud(2 * SECOND + 60_000_000, sweep)])
    near, far = open_bag_pairs(bag)
    assert far.depth is None  # 0.06 s away
    assert near.depth.kind == "LiDAR"
    depth = near.true_depth()
    rows, columns = np.nonzero(np.isfinite(depth))
    # np.rint takes halves to the even neighbour: 76.5 -> 76, 47.5 -> 48.
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(37, 56), (37, 57), (48, 76)]
    assert depth[48, 76] == pytest.approx(10.0)
    assert depth[37, 56] == pytest.approx(4.0)
    assert depth[37, 57] == pytest.approx(5.0)
    assert near.truth()[48, 76] == pytest.approx(200 * 0.1 / 10 - 4)
    assert open_bag_pairs(bag, truth=TruthOptions(lidar_slop=0.1))[1].depth is not None
    assert open_bag_pairs(bag, truth=TruthOptions(lidar_topic="none"))[0].depth is None


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_every_layout_of_a_cloud_is_read(dtype):
    points = np.array([(1.5, -2.0, 3.25), (4.0, 5.0, -6.0)])
    np.testing.assert_array_equal(cloud_points(cloud(SECOND, points, dtype=dtype), ""), points)
    assert cloud_points(cloud(SECOND, np.zeros((0, 3))), "").shape == (0, 3)


def test_projection_agrees_with_a_plain_loop():
    random = np.random.default_rng(1)
    points = random.uniform((-3, -2, -1), (3, 2, 9), (4000, 3))
    matrix = np.eye(4)
    matrix[:3, 3] = (0.1, -0.2, 0.3)
    expected = np.full((96, 160), np.nan)
    for point in points:
        x, y, z = point + matrix[:3, 3]
        if z > 0:
            column, row = round(200 * x / z + 76.5), round(200 * y / z + 47.5)
            if 0 <= column < 160 and 0 <= row < 96 and not expected[row, column] <= z:
                expected[row, column] = z
    np.testing.assert_allclose(project(points, matrix, RIG), expected, rtol=1e-6)


# R of the left camera: about its y axis, with the sine 0.28 and the cosine 0.96.
TURN = np.array([[0.96, 0, 0.28], [0, 1, 0], [-0.28, 0, 0.96]])


def turned_bag(folder, image="image_raw", sweep=None):
    """A bag of cameras that R turns by 16 degrees, and a LiDAR as in ``PLACE``."""
    kinds, fields = {}, {}
    for side in ("left", "right"):
        kinds |= {f"/{side}/{image}": IMAGE, f"/{side}/camera_info": INFO}
        k = np.array([[200, 0, 76.5], [0, 200, 47.5], [0, 0, 1.0]])
        fields[f"/{side}/camera_info"] = {"r": TURN.ravel(), "k": k.ravel()}
        fields[f"/{side}/{image}"] = {"header": header(SECOND, "left_camera")}
        fields[f"/{side}/camera_info"]["header"] = header(SECOND, "left_camera")
    bag = bag_of(folder, kinds, {key: [(SECOND, 1)] for key in kinds}, fields)
    # In the rectified frame (0.505, 0.21, 10) m, which is R times (-2.3152, 0.21, 9.7414) m of the raw camera:
    # 0.96 * -2.3152 + 0.28 * 9.7414 = 0.505 and 0.28 * 2.3152 + 0.96 * 9.7414 = 10. The LiDAR is 1 m behind it and
    # looks along x, with y to the left and z up.
    points = [(10.7414, 2.3152, -0.21)] if sweep is None else sweep
    return with_messages(bag, [("/tf_static", TF, SECOND, PLACE), ("/lidar", CLOUD, SECOND, cloud(SECOND, points))])


def test_r_of_a_raw_left_camera_turns_the_points_of_a_lidar(tmp_path, caplog):
    (sample,) = open_bag_pairs(turned_bag(tmp_path / "raw"))
    depth = sample.true_depth()
    # u = 76.5 + 200 * 0.505 / 10 = 86.6, v = 47.5 + 200 * 0.21 / 10 = 51.7
    assert np.argwhere(np.isfinite(depth)).tolist() == [[52, 87]]
    assert depth[52, 87] == pytest.approx(10.0, abs=1e-4)
    assert not caplog.records


@pytest.mark.parametrize(("frame", "row", "column", "metres"), [("raw", 52, 87, 10.0), ("rectified", 52, 29, 9.7414)])
def test_the_frame_of_rectified_images_can_be_said(tmp_path, caplog, frame, row, column, metres):
    """As it is, the point is at u = 76.5 - 200 * 2.3152 / 9.7414 = 28.97, v = 47.5 + 200 * 0.21 / 9.7414 = 51.81."""
    bag = turned_bag(tmp_path / "bag", "image_rect")
    depth = open_bag_pairs(bag, truth=TruthOptions(camera_frame=frame))[0].true_depth()
    assert depth[row, column] == pytest.approx(metres, abs=1e-4) and np.isfinite(depth).sum() == 1
    assert not caplog.records
    as_rectified = open_bag_pairs(bag)[0].true_depth()
    assert np.isfinite(as_rectified[52, 29])
    # The axis moves by 200 * 0.28 / 0.96 = 58.3 px.
    assert "R moves points by 58.3 px: give --camera-frame raw" in caplog.text
    with pytest.raises(FileError, match="camera_frame is 'left': choose one of auto, raw, rectified"):
        open_bag_pairs(bag, truth=TruthOptions(camera_frame="left"))


def test_kitti_raw_points_fall_where_kittis_own_equation_has_them(tmp_path):
    """P_rect R_rect (R | T) of Geiger et al. (IJRR 2013, Eq. 8), with the calibration of 2011_09_26."""
    from fg_depth_ros.data.datasets.kitti_depth import LidarCamera

    r_rect = [0.9999239, 0.00983776, -0.007445048, -0.009869795, 0.9999421, -0.004278459, 0.007402527, 0.004351614,
              0.9999631]  # fmt: skip
    r_velo = [0.007533745, -0.9999714, -0.000616602, 0.01480249, 0.0007280733, -0.9998902, 0.9998621, 0.00752379,
              0.01480755]  # fmt: skip
    t_velo = [-0.004069766, -0.07631618, -0.2717806]
    k = [984.2439, 0, 690.0, 0, 980.8141, 233.1966, 0, 0, 1]
    d = [-0.3728755, 0.2037299, 0.002219027, 0.001383707, -0.07233722]
    p = np.array([[721.5377, 0, 609.5593, 0], [0, 721.5377, 172.854, 0], [0, 0, 1, 0]])
    projection = p @ np.vstack([np.column_stack([np.reshape(r_rect, (3, 3)) @ np.reshape(r_velo, (3, 3)),
                                                 np.reshape(r_rect, (3, 3)) @ t_velo]), [0, 0, 0, 1]])  # fmt: skip
    random = np.random.default_rng(2)
    points = random.uniform((5, -8, -1.7), (60, 8, 1), (500, 3)).astype(np.float32)
    expected = LidarCamera(projection, 1242, 375).depth(points, "camera")

    kinds, fields = {}, {}
    for side, shift in (("left", 0.0), ("right", -387.5744)):
        image, info = f"/kitti/camera_gray_{side}/image_raw", f"/kitti/camera_gray_{side}/camera_info"
        kinds |= {image: IMAGE, info: INFO}
        size, head = {"width": 1242, "height": 375}, {"header": header(SECOND, f"camera_gray_{side}")}
        fields[image] = {**size, **head, "step": 1242, "data": np.zeros(1242 * 375, np.uint8)}
        own = p.copy()
        own[0, 3] = shift
        fields[info] = {**size, **head, "k": np.array(k), "d": np.array(d), "r": np.array(r_rect), "p": own.ravel()}
    bag = bag_of(tmp_path / "bag", kinds, {key: [(SECOND, 1)] for key in kinds}, fields)
    matrix = np.reshape(r_velo, (3, 3))
    w = np.sqrt(1 + np.trace(matrix)) / 2
    axis = [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
    place = static("camera_gray_left", "velo_link", t_velo, (*(np.array(axis) / (4 * w)), w))
    sweep = cloud(SECOND, points, frame="velo_link")
    bag = with_messages(bag, [("/tf_static", TF, SECOND, place), ("/kitti/velo/pointcloud", CLOUD, SECOND, sweep)])
    found = open_bag_pairs(bag)[0].true_depth()
    both = np.isfinite(found) & np.isfinite(expected)
    assert both.sum() > 300 and (np.isfinite(found) ^ np.isfinite(expected)).sum() <= 4  # on the edge of a pixel
    np.testing.assert_allclose(found[both], expected[both], atol=2e-3)
    unturned = open_bag_pairs(bag, truth=TruthOptions(camera_frame="rectified"))[0].true_depth()
    assert (np.isfinite(unturned) & np.isfinite(expected)).sum() < 30


def test_topics_of_truth_are_found_by_whole_words(tmp_path):
    bag = with_messages(
        stereo_bag(tmp_path / "depth", truth=False),
        [("/my_ground_truth/depth", IMAGE, 1, depth_message(SECOND, np.ones((96, 160), np.float32)))],
    )
    assert open_bag_pairs(bag)[0].depth is None
    assert (
        open_bag_pairs(lidar_bag(tmp_path / "far", [cloud(SECOND, [(9, 0, 0)])], name="/solidarity"))[0].depth is None
    )
    for name in ("/topLidar/points", "/sensors/lidar1", "/rslidar_points", "/VELODYNE_0"):
        bag = lidar_bag(tmp_path / name.replace("/", "_"), [cloud(SECOND, [(9, 0, 0)])], name=name)
        assert open_bag_pairs(bag)[0].depth.kind == "LiDAR", name


def test_a_file_goes_before_what_the_bag_says(tmp_path):
    file = tmp_path / "lidar.yaml"
    file.write_text("{parent: lidar, child: left_camera, translation: [2, 0, 0], rotation: [-0.5, 0.5, -0.5, 0.5]}")
    sweep = [cloud(SECOND, [(11, 0, 0)])]
    for name, place in (("said", PLACE), ("unsaid", None)):
        bag = lidar_bag(tmp_path / name, sweep, place)
        (sample, _) = open_bag_pairs(bag, truth=TruthOptions(transforms=str(file)))
        assert np.nanmax(sample.true_depth()) == pytest.approx(9.0)


def test_depth_images_go_before_a_lidar_and_other_clouds_are_none(tmp_path, caplog):
    both = with_messages(
        stereo_bag(tmp_path / "both"), [("/velodyne_points", CLOUD, SECOND, cloud(SECOND, [(9, 0, 0)]))]
    )
    assert open_bag_pairs(both)[0].depth.kind == "true depth"
    made = lidar_bag(tmp_path / "made", [cloud(SECOND, [(9, 0, 0)])], name="/points2")
    assert open_bag_pairs(made)[0].depth is None  # the depth node's own cloud is no truth
    with caplog.at_level(logging.WARNING):
        open_bag_pairs(made, truth=TruthOptions(transforms="lidar.yaml"))
    assert "so lidar.yaml is not used (PointCloud2: /points2): name its topic" in caplog.text
    two = with_messages(
        made, [("/a/lidar", CLOUD, 1, cloud(1, [(1, 1, 1)])), ("/b/lidar", CLOUD, 1, cloud(1, [(1, 1, 1)]))]
    )
    with caplog.at_level(logging.WARNING):
        assert open_bag_pairs(two)[0].depth is None
    assert "/a/lidar and /b/lidar could be true depth: name one" in caplog.text


def test_a_bag_without_pairs_is_refused_before_its_truth_is_looked_for(tmp_path):
    bag = bag_of(tmp_path / "bag", {"/ground_truth/depth": IMAGE})
    with pytest.raises(FileError, match="no pair of image topics can be identified by name"):
        open_bag_pairs(bag)
