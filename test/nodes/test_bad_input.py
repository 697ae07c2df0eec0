"""Bad input to stereo_depth_node: named with its value and the way out, never fatal, and over when it is over."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from support.nodes import Bench, Scene, camera_info, pair_messages, share_near, wall
from support.waiting import wait_until

from fg_depth_ros.data.io.messages import MessageError, depth_to_array, fill_image, image_to_array, stamp_ns
from fg_depth_ros.geometry import StereoRig
from fg_depth_ros.nodes.common.codes import CALIBRATION_FAULTS, FaultCode
from fg_depth_ros.nodes.common.diagnostics import WARN, Faults, fault_codes
from fg_depth_ros.nodes.common.synchronizing import StereoMessages
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.stereo_depth import worker
from fg_depth_ros.nodes.stereo_depth.decoding import PairDecoder, StereoImages
from fg_depth_ros.nodes.stereo_depth.pair_checks import FeatureCheck

SCENE = wall()
GOOD = pair_messages(SCENE)


def changed(name: str, change: Callable[[Any], None]) -> dict[str, Any]:
    """The good pair with one message changed."""
    message = copy.deepcopy(GOOD[name])
    change(message)
    return {**GOOD, name: message}


def all_zero(info: CameraInfo) -> None:
    info.p, info.k = [0.0] * 12, [0.0] * 9


def right_shift(value: float) -> Callable[[CameraInfo], None]:
    def change(info: CameraInfo) -> None:
        info.p[3] = value

    return change


def truncated(image: Image) -> None:
    image.data = image.data[:1000]


def called(encoding: str) -> Callable[[Image], None]:
    def change(image: Image) -> None:
        image.encoding = encoding

    return change


def short_step(image: Image) -> None:
    image.step = 100


def other_size(scene: Scene) -> dict[str, Any]:
    return {**GOOD, "right/image_rect": pair_messages(scene)["right/image_rect"]}


SMALL = pair_messages(SCENE.half())
IMAGES_ONLY_SMALL = {**GOOD, **{name: SMALL[name] for name in ("left/image_rect", "right/image_rect")}}
SWAPPED_INFO = {
    **GOOD,
    "left/camera_info": camera_info(SCENE.rig, True),
    "right/camera_info": camera_info(SCENE.rig, False),
}
UPSIDE_DOWN = dataclasses.replace(SCENE, right=np.ascontiguousarray(SCENE.right[::-1, ::-1]))
SWAPPED_IMAGES = {
    **GOOD,
    "left/image_rect": copy.deepcopy(GOOD["right/image_rect"]),
    "right/image_rect": copy.deepcopy(GOOD["left/image_rect"]),
}

# name -> (the bad pair, reason it is counted under, what the message must say)
BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "left camera_info all zero": (
        changed("left/camera_info", all_zero),
        "camera_info",
        ["left camera_info", "all zeros", "calibrate", "/left/camera_info"],
    ),
    "right camera_info all zero": (
        changed("right/camera_info", all_zero),
        "camera_info",
        ["right camera_info", "all zeros", "calibrate"],
    ),
    "baseline zero": (
        changed("right/camera_info", right_shift(0.0)),
        "camera_info",
        ["0 on the left and 0 on the right", "baseline is zero", "calibrate"],
    ),
    "baseline negative": (
        changed("right/camera_info", right_shift(36.0)),
        "camera_info",
        ["36 on the right", "-0.12 m", "swapped", "Swap"],
    ),
    "camera_infos swapped": (SWAPPED_INFO, "camera_info", ["-36", "swapped", "Swap"]),
    "images swapped": (SWAPPED_IMAGES, "swapped cameras", ["/left/image_rect", "swapped", "swap"]),
    "right camera upside down": (
        {**GOOD, "right/image_rect": pair_messages(UPSIDE_DOWN)["right/image_rect"]},
        "swapped cameras",
        ["/right/image_rect", "upside down", "turn it in the driver"],
    ),
    "different image sizes": (
        other_size(SCENE.half()),
        "image size",
        ["/left/image_rect is 320x240", "/right/image_rect 160x120", "same resolution"],
    ),
    "image size and camera_info differ": (
        IMAGES_ONLY_SMALL,
        "image size",
        ["/left/image_rect is 160x120", "/left/camera_info describes 320x240", "scaled K and P"],
    ),
    "sizes of the camera_infos differ": (
        {**GOOD, "right/camera_info": SMALL["right/camera_info"]},
        "camera_info",
        ["320x240", "160x120"],
    ),
    "unknown encoding": (
        changed("left/image_rect", called("yuv411")),
        "unknown encoding",
        ["/left/image_rect", "'yuv411'", "rgb8"],
    ),
    "truncated data": (
        changed("right/image_rect", truncated),
        "malformed image",
        ["/right/image_rect", "truncated", "1000 bytes", "230400"],
    ),
    "step too short": (
        changed("left/image_rect", short_step),
        "malformed image",
        ["/left/image_rect", "step is 100 bytes", "960"],
    ),
}


TOPICS = {name: f"/{name}" for name in INPUTS}


def as_pair(found: dict[str, Any]) -> StereoMessages:
    return StereoMessages(*(found[name] for name in INPUTS))


@pytest.mark.parametrize("name", BAD)
def test_the_check_names_value_and_way_out(name: str) -> None:
    decoder, features = PairDecoder(TOPICS), FeatureCheck(TOPICS)

    def check(pair: dict[str, Any]) -> StereoImages:
        images = decoder.decode(as_pair(pair))
        features.check(images.left, images.right, images.rig.doffs)
        return images

    bad, reason, words = BAD[name]
    for _ in range(2):  # also the second time: nothing bad is remembered as good
        with pytest.raises(MessageError) as error:
            check(bad)
        assert error.value.reason == reason
        assert [word for word in words if word not in str(error.value)] == []
    images = check(GOOD)
    np.testing.assert_array_equal(images.left, SCENE.left)
    assert images.rig == SCENE.rig
    assert decoder.decode(as_pair(GOOD)).rig is images.rig, "the same until the calibration changes"


def test_the_node_lives_through_all_of_it_and_recovers(make: Callable[..., Bench]) -> None:
    b = make()
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(GOOD), SCENE.depth) > 0.97
    for name, (bad, reason, words) in BAD.items():
        if reason == "swapped cameras":
            continue  # looked at with the first pair of a rig only: below
        key = f"dropped: {reason}"
        count = int(b.values().get(key, 0))
        b.send_until(bad, lambda count=count, key=key: int(b.values().get(key, 0)) > count)
        b.send_until(bad, lambda: b.level() == 2)
        message = b.status().message
        assert [word for word in words if word not in message] == [], name
        b.wait(lambda message=message: b.log_has(message))
        assert share_near(b.fresh_depth(GOOD), SCENE.depth) > 0.97, name
    b.send_until(GOOD, lambda: b.level() == 0)
    assert b.log_has("recovered after")
    matched, published, dropped = (
        int(b.values()[key]) for key in ("pairs matched", "pairs published", "pairs dropped")
    )
    assert published + dropped <= matched <= published + dropped + 2  # those in work


def test_a_rig_with_its_origin_elsewhere_is_used_and_the_outputs_are_in_the_left_frame(
    make: Callable[..., Bench],
) -> None:
    pair = copy.deepcopy(GOOD)
    for name in ("left/camera_info", "right/camera_info"):
        pair[name].p[3] += 12.0
    b = make()
    b.listen("depth/image_rect", "depth/camera_info")
    assert share_near(b.fresh_depth(pair), SCENE.depth) > 0.97
    b.send_until(pair, lambda: b.seen["depth/camera_info"])
    assert list(b.seen["depth/camera_info"][-1].p) == list(GOOD["left/camera_info"].p)


def test_a_baseline_in_centimetres_is_doubted_aloud(make: Callable[..., Bench]) -> None:
    b = make()
    b.listen("depth/image_rect")
    b.send_until(
        changed("right/camera_info", right_shift(-300.0 * 12)),
        lambda: b.level() == 1 and FaultCode.CALIBRATION_DOUBTFUL in fault_codes(b.status()),
    )
    assert b.log_has("the baseline is 12 m")
    b.send_until(GOOD, lambda: b.level() == 0)


def test_swapped_images_at_the_start_are_refused_until_they_are_right(make: Callable[..., Bench]) -> None:
    b = make()
    b.listen("depth/image_rect")
    b.send_until(SWAPPED_IMAGES, lambda: b.level() == 2)
    assert "seem to be swapped" in b.status().message
    assert b.seen["depth/image_rect"] == []
    assert share_near(b.fresh_depth(GOOD), SCENE.depth) > 0.97
    b.send_until(GOOD, lambda: b.level() == 0)


def test_stamps_that_never_match_are_shown_with_the_way_out(make: Callable[..., Bench]) -> None:
    b = make(stall_timeout=0.5)
    b.listen("depth/image_rect")
    late = {"right_image_rect": 0.04, "right_camera_info": 0.04}
    b.send_until(GOOD, lambda: b.has(FaultCode.NO_PAIRS, "sync_slop above 0.040000", "/left/image_rect"), **late)
    b.send_until(GOOD, lambda: b.log_has("their stamps must be equal"), **late)
    b.send_until(GOOD, lambda: int(b.values()["left/image_rect without partner"]) > 0, **late)
    assert share_near(b.fresh_depth(GOOD), SCENE.depth) > 0.97
    b.send_until(GOOD, lambda: b.level() == 0)


def test_a_silent_input_is_named(make: Callable[..., Bench]) -> None:
    b = make(stall_timeout=0.5)
    b.listen("depth/image_rect")
    part = {name: message for name, message in GOOD.items() if name != "right/camera_info"}
    b.send_until(part, lambda: b.has(FaultCode.NO_PAIRS, "/right/camera_info (1 publisher(s) are there"))
    assert share_near(b.fresh_depth(GOOD), SCENE.depth) > 0.97


def test_a_camera_info_that_comes_once_holds_for_the_images_after_it(make: Callable[..., Bench]) -> None:
    infos = {name: message for name, message in GOOD.items() if name.endswith("camera_info")}
    images = {name: message for name, message in GOOD.items() if name not in infos}
    b = make(stall_timeout=0.5)
    b.listen("depth/image_rect")
    b.send_until(infos, lambda: float(b.values().get("right/camera_info rate (Hz)", 0)) > 0)
    assert share_near(b.fresh_depth(images), SCENE.depth) > 0.97
    b.send_until(images, lambda: int(b.values().get("right/camera_info used again", 0)) >= 3 and b.level() == 0)


def test_stamps_of_zero_are_no_stamps(make: Callable[..., Bench]) -> None:
    b = make(stall_timeout=0.5)
    b.listen("depth/image_rect")
    unstamped = {"step": lambda: b.send(GOOD, 0.0), "period": 0.1}
    wait_until(lambda: b.has(FaultCode.NO_STAMPS, "/left/image_rect", "have no stamp", "allow_unstamped"), **unstamped)
    assert b.seen["depth/image_rect"] == []
    assert share_near(b.fresh_depth(GOOD), SCENE.depth) > 0.97
    b.send_until(GOOD, lambda: b.level() == 0)


def test_unstamped_pairs_are_matched_by_arrival_where_that_is_allowed(make: Callable[..., Bench]) -> None:
    b = make(allow_unstamped=True, sync_slop=0.09)
    b.listen("depth/image_rect")
    wait_until(lambda: len(b.seen["depth/image_rect"]) >= 2, step=lambda: b.send(GOOD, 0.0), period=0.2)
    message = b.seen["depth/image_rect"][-1]
    now = b.node.get_clock().now().nanoseconds
    assert 0 <= now - stamp_ns(message.header) < 60e9  # the time of arrival
    assert share_near(depth_to_array(message), SCENE.depth) > 0.97


def test_a_latency_of_stamps_that_are_not_wall_time_is_unknown(make: Callable[..., Bench]) -> None:
    b = make()
    b.listen("depth/image_rect")
    seconds = iter(range(1000, 10**6))
    wait_until(
        lambda: b.values().get("pipeline") == "unknown", step=lambda: b.send(GOOD, float(next(seconds))), period=0.1
    )
    assert not any(key.startswith("pipeline ") for key in b.values())
    assert float(b.values()["processing 50 % (ms)"]) > 0


def sixteen_bits(white: int) -> dict[str, Any]:
    """The good pair as mono16 whose white is this value."""
    pair = pair_messages(SCENE, "mono8")
    for name in ("left/image_rect", "right/image_rect"):
        grey = image_to_array(pair[name]).astype(np.float64)
        pair[name] = fill_image(Image(), np.rint(grey * (white / 255)).astype(np.uint16), "mono16", pair[name].header)
    return pair


@pytest.mark.parametrize("white", [1023, 4095, 65535])
def test_the_bits_of_16_bit_images_are_learned(white: int) -> None:
    decoder, mono8 = PairDecoder(TOPICS), pair_messages(SCENE, "mono8")
    images = decoder.decode(as_pair(sixteen_bits(white)), "auto")
    assert decoder.white == white
    expected = image_to_array(mono8["left/image_rect"])
    assert np.abs(images.left.astype(int) - expected).max() <= 1
    assert images.right.dtype == np.uint8


def test_the_white_level_is_one_for_both_images_and_only_raised() -> None:
    decoder, narrow, wide = PairDecoder(TOPICS), sixteen_bits(1000), sixteen_bits(4000)
    mixed = decoder.decode(as_pair({**narrow, "right/image_rect": wide["right/image_rect"]}), "auto")
    assert decoder.white == 4095
    peak = int(image_to_array(pair_messages(SCENE, "mono8")["left/image_rect"]).max())
    assert mixed.left.max() == pytest.approx(peak * 1000 / 4095, abs=1)
    again = decoder.decode(as_pair(narrow), "auto")
    assert decoder.white == 4095
    assert again.left.max() == mixed.left.max()
    assert decoder.decode(as_pair(narrow), 1000).left.max() == peak


def test_a_change_of_the_white_level_is_said(make: Callable[..., Bench]) -> None:
    b = make()
    b.listen("depth/image_rect")
    assert share_near(b.fresh_depth(sixteen_bits(1023)), SCENE.depth) > 0.97
    assert b.log_has("mono16 images are taken to be of 10 bits (white 1023)")
    assert share_near(b.fresh_depth(sixteen_bits(4095)), SCENE.depth) > 0.97
    assert b.log_has("of 12 bits (white 4095) by their largest values; before it was 10 bits")
    b.wait(lambda: b.values().get("mono16 white") == "4095")


def test_images_of_unlike_brightness_are_not_compared(make: Callable[..., Bench]) -> None:
    b = make(flow_model="dis")
    b.listen("temporal_flow/image", "depth/image_rect")
    b.send_until(sixteen_bits(1023), lambda: bool(b.seen["temporal_flow/image"]))
    begun = b.node.get_clock().now().nanoseconds

    def stamps_since(topic: str) -> list[int]:
        stamps = [stamp_ns(message.header) for message in list(b.seen[topic])]
        return [stamp for stamp in stamps if stamp > begun]

    # With the first one the level of white rises: the image before it is four times as bright.
    b.send_until(sixteen_bits(4095), lambda: len(stamps_since("temporal_flow/image")) > 1)
    assert min(stamps_since("depth/image_rect")) not in stamps_since("temporal_flow/image")


@pytest.mark.parametrize("field", ["d", "k", "r"])
def test_a_calibration_with_nan_is_one_calibration(field: str) -> None:
    pair = copy.deepcopy(GOOD)
    for side in ("left", "right"):
        values = list(getattr(pair[f"{side}/camera_info"], field)) or [0.0] * 5
        setattr(pair[f"{side}/camera_info"], field, [math.nan, *values[1:]])
    decoder = PairDecoder(TOPICS)
    # Messages arrive one by one: their NaNs are other objects each time.
    rigs = [decoder.decode(as_pair(copy.deepcopy(pair))).rig for _ in range(2)]
    assert rigs[0] is rigs[1]


def test_a_fault_that_no_status_would_show_raises() -> None:
    faults = Faults(lambda level, text: None, subjects=("images", "rows"))
    faults.report("rows", WARN, "they differ", "rows misaligned")
    with pytest.raises(KeyError, match="'colour' is in no status"):
        faults.report("colour", WARN, "it is odd", "odd")
    with pytest.raises(KeyError, match="'colour' is in no status"):
        faults.update("colour", WARN, None, "odd")
    assert [fault.text for fault in faults.present(("images", "rows"))] == ["they differ"]


def test_a_fault_is_logged_when_its_code_or_on_request_its_text_is_new() -> None:
    logged: list[str] = []
    faults = Faults(lambda level, text: logged.append(text))
    for text in ("2 rows", "3 rows"):
        faults.report("rows", WARN, text, "rows misaligned")
    for text in ("disk full", "disk full", "disk gone"):
        faults.report("disk", WARN, text, "disk", log_every_text=True)
    faults.report("rows", WARN, "4 rows", "not rectified")
    assert logged == ["2 rows", "disk full", "disk gone", "4 rows"]
    assert [fault.code for fault in faults.present(("rows", "disk"))] == ["not rectified", "disk"]


def test_a_topic_that_nobody_publishes_is_named(make: Callable[..., Bench]) -> None:
    b = make(stall_timeout=0.5, user_namespace="elsewhere")
    b.node.create_subscription(Image, "/depth/image_rect", lambda message: None, 5)
    b.wait(lambda: b.has(FaultCode.NO_PAIRS, "/left/image_rect (it has no publisher"))


def test_incompatible_quality_of_service_is_logged_with_the_cause(make: Callable[..., Bench]) -> None:
    b = make()
    wanting = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    b.node.create_subscription(Image, "depth/image_rect", lambda message: None, wanting)
    b.wait(lambda: b.log_has("/depth/image_rect: a subscriber asks for an incompatible durability"))
    assert b.log_has("qos_overrides./depth/image_rect.publisher.durability")


def test_quality_of_service_can_be_overridden(make: Callable[..., Bench]) -> None:
    b = make(
        **{
            "qos_overrides./depth/image_rect.publisher.durability": "transient_local",
            "qos_overrides./left/image_rect.subscription.reliability": "reliable",
        }
    )
    b.listen("depth/image_rect")
    b.fresh_depth(GOOD)
    (info,) = b.node.get_publishers_info_by_topic("/depth/image_rect")
    assert info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    found = {
        topic: b.node.get_subscriptions_info_by_topic(topic)[0].qos_profile.reliability
        for topic in ("/left/image_rect", "/right/image_rect")
    }
    assert found == {
        "/left/image_rect": ReliabilityPolicy.RELIABLE,
        "/right/image_rect": ReliabilityPolicy.BEST_EFFORT,
    }


def test_a_source_that_loops_keeps_producing(make: Callable[..., Bench]) -> None:
    b = make()
    b.listen("depth/image_rect")
    b.send_until(GOOD, lambda: b.seen["depth/image_rect"])
    for _ in range(3):
        for frame in range(6):
            lost = {"right/image_rect"} if frame > 3 else set()
            b.seen["depth/image_rect"].clear()
            sent = b.send({n: m for n, m in GOOD.items() if n not in lost}, stamp=1000.0 + 2.0 * frame)
            if not lost:
                b.wait(lambda sent=sent: b.answered(sent))
    assert b.log_has("went back by")


# ---- what the pictures say ------------------------------------------------------------------------------------


def test_images_that_are_not_rectified_are_warned_of(make: Callable[..., Bench]) -> None:
    lower = Scene(SCENE.left, np.roll(SCENE.right, 4, axis=0), SCENE.rig, SCENE.disparity)
    b = make()
    b.listen("depth/image_rect")
    b.send_until(pair_messages(lower), lambda: b.level() == 1)
    assert "features lie +4.0 px lower in /right/image_rect than in /left/image_rect" in b.status().message
    assert "publish rectified images" in b.status().message
    assert b.has(FaultCode.NOT_RECTIFIED)
    assert CALIBRATION_FAULTS & fault_codes(b.status())


def test_images_that_show_nothing_give_no_depth_and_their_own_reason(make: Callable[..., Bench]) -> None:
    black = np.zeros_like(SCENE.left)
    stranger = wall(seed=7).right
    b = make(rectification_check_period=0.01)
    b.listen("depth/image_rect", "mask/labels")
    for left, right, reason in (
        (black, black, "images dark"),
        (black + 255, black + 255, "images overexposed"),
        (SCENE.left, black, "right camera covered"),
        (SCENE.left, stranger, "views unrelated"),
    ):
        bad = pair_messages(Scene(left, right, SCENE.rig, SCENE.disparity))
        b.send_until(bad, lambda reason=reason: b.has(reason, "/left/image_rect") and b.level() == 1)
        assert fault_codes(b.status()) == {reason}, "rows are not blamed"
        assert np.isfinite(b.fresh_depth(bad)).mean() < 0.02
        assert share_near(b.fresh_depth(GOOD), SCENE.depth) > 0.97
        b.send_until(GOOD, lambda: b.level() == 0)


def test_a_picture_without_features_says_nothing() -> None:
    grey = np.full((100, 120), 90, np.uint8)
    check = FeatureCheck(TOPICS)
    check.check(grey, grey, 0.0)
    assert check.problem is None


def test_a_rig_whose_far_range_is_not_searched_is_named():
    crossed = StereoRig(741, 500, 994.978, 994.978, 311.193, 254.877, 342.279, 0.193001)
    # 994.978 * 0.193001 / 31.086 = 6.18 m
    assert "nothing beyond 6.2 m is searched" in worker._range_problem(crossed, 0, TOPICS)
    assert "set min_disparity to auto or to -32" in worker._range_problem(crossed, 0, TOPICS)
    assert worker._range_problem(crossed, -32, TOPICS) is None
    parallel = StereoRig(640, 480, 500.0, 500.0, 320.0, 240.0, 320.0, 0.1)
    assert worker._range_problem(parallel, 0, TOPICS) is None


def test_an_override_of_one_topic_holds_for_that_one_only(make: Callable[..., Bench]) -> None:
    override = {"qos_overrides./left/image_rect.subscription.durability": "transient_local"}
    b = make(use_system_default_qos=True, **override)
    b.listen("depth/image_rect")
    found = {
        side: b.wait(lambda topic=f"/{side}/image_rect": b.node.get_subscriptions_info_by_topic(topic))[0].qos_profile
        for side in ("left", "right")
    }
    assert found["left"].durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert found["right"].durability == DurabilityPolicy.VOLATILE
