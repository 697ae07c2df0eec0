"""Pairs as the drivers of the presets publish them: encodings and camera_info, and what the node makes of them.

The calibrations follow the drivers' sources and published recordings, the expected baselines are worked out by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image

from fg_depth_ros.apps.camera_presets import PRESETS, namespaces_of, preset
from fg_depth_ros.data.io.formats import MONO16_WHITE
from fg_depth_ros.data.io.messages import MessageError, fill_image
from fg_depth_ros.nodes.common.synchronizing import StereoMessages
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.stereo_depth.decoding import PairDecoder

IDENTITY = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]


def info(size: tuple[int, int], p: list[float], *, k: list[float] | None = None, **fields: Any) -> CameraInfo:
    fx, _, cx, tx, fy, cy = p[0], 0.0, p[1], p[2], p[3], p[4]
    values = {"d": [0.0] * 5, "r": IDENTITY, "distortion_model": "plumb_bob"} | fields
    return CameraInfo(
        width=size[0], height=size[1], k=k or [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, tx, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0], **values,
    )  # fmt: skip


# Size, left and right camera_info, and the baseline in metres. P is written as fx, cx, Tx, fy, cy.
PAIRS: dict[str, tuple[tuple[int, int], CameraInfo, CameraInfo, float]] = {
    # rectified, without distortion; Tx = -fx * 0.12 of a ZED 2
    "zed": (
        (960, 540),
        info((960, 540), [528.2, 478.3, 0.0, 528.2, 267.6], d=[0.0] * 8, distortion_model="rational_polynomial"),
        info((960, 540), [528.2, 478.3, -63.384, 528.2, 267.6], d=[0.0] * 8, distortion_model="rational_polynomial"),
        0.12,
    ),
    # one calibration for both; Tx of the right one = -fx * 0.05, in the left one's frame
    "realsense": (
        (1280, 720),
        info((1280, 720), [976.7364502, 636.62762451, 0.0, 976.7364502, 373.01535034]),
        info((1280, 720), [976.7364502, 636.62762451, -48.83682251, 976.7364502, 373.01535034]),
        0.05,
    ),
    # P of the rectified pair, K of the camera before, D zeroed, R with ones in its diagonal and the rest of a rotation
    "oak": (
        (640, 400),
        info((640, 400), [398.9, 321.4, 0.0, 398.9, 198.2], k=[401.2, 0.0, 318.9, 0.0, 401.3, 201.7, 0.0, 0.0, 1.0],
             d=[0.0] * 8, r=[1.0, 0.004, -0.01, -0.004, 1.0, 0.002, 0.01, -0.002, 1.0]),
        info((640, 400), [398.9, 321.4, -29.9175, 398.9, 198.2], d=[0.0] * 8),
        0.075,
    ),
    # camera 2 is 6 cm right of the origin, camera 0; K and D are those of the cameras before rectification
    "kitti": (
        (1242, 375),
        info((1242, 375), [721.5377, 609.5593, 44.85728, 721.5377, 172.854],
             k=[959.791, 0.0, 696.0217, 0.0, 956.9251, 224.1806, 0.0, 0.0, 1.0],
             d=[-0.3691481, 0.1968681, 0.001353473, 0.0005677587, -0.06770705]),
        info((1242, 375), [721.5377, 609.5593, -339.5242, 721.5377, 172.854],
             k=[903.7596, 0.0, 695.7519, 0.0, 901.9653, 224.2509, 0.0, 0.0, 1.0],
             d=[-0.3639558, 0.1788651, 0.0006029694, -0.0003922424, -0.05382460]),
        384.38148 / 721.5377,
    ),
}  # fmt: skip


@pytest.mark.parametrize("camera", PAIRS)
def test_the_baseline_and_the_grey_values_are_the_drivers(camera: str) -> None:
    chosen, (size, left_info, right_info, baseline) = PRESETS[camera], PAIRS[camera]
    shape = (size[1], size[0], *{"mono8": (), "bgr8": (3,), "bgra8": (4,)}[chosen.encoding])
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    images = [fill_image(Image(), pixels, chosen.encoding) for _ in range(2)]
    topics = {name: chosen.image(name.split("/")[0]) for name in INPUTS}
    decoder = PairDecoder(topics)
    decoded = decoder.decode(StereoMessages(*images, left_info, right_info), MONO16_WHITE, chosen.rectify)
    assert decoder.rectified_inside == "no"
    assert decoded.rig.baseline == pytest.approx(baseline, rel=1e-6)
    assert (decoded.rig.fx, decoded.rig.cx) == (left_info.p[0], left_info.p[2])
    expected = pixels if pixels.ndim == 2 else pixels[..., 2::-1]
    np.testing.assert_array_equal(decoded.left, expected)


def test_an_oak_without_the_setting_is_refused_as_swapped_cameras() -> None:
    size = (640, 400)
    left = info(size, [398.9, 321.4, -29.9175, 398.9, 198.2])
    right = info(size, [398.9, 321.4, 0.0, 398.9, 198.2])
    images = [fill_image(Image(), np.zeros((400, 640), np.uint8), "mono8") for _ in range(2)]
    with pytest.raises(MessageError, match="/left/camera_info and /right/camera_info") as error:
        PairDecoder({name: f"/{name}" for name in INPUTS}).decode(StereoMessages(*images, left, right))
    assert "swap" in str(error.value) or "swapped" in str(error.value)


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
def test_infrared_pairs_with_more_than_8_bits(encoding: str, bits: int) -> None:
    size, left_info, right_info, _ = PAIRS["realsense"]
    small = np.random.default_rng(0).integers(0, 256, size[::-1])
    pixels = np.rint(small * ((2**bits - 1) / 255)).astype(np.uint16)
    images = [fill_image(Image(), pixels, encoding) for _ in range(2)]
    decoder = PairDecoder({name: f"/{name}" for name in INPUTS})
    decoded = decoder.decode(StereoMessages(*images, left_info, right_info), "auto")
    assert decoder.white == 2**bits - 1
    np.testing.assert_array_equal(decoded.left, small)
    np.testing.assert_array_equal(decoded.right, small)


def test_the_page_lists_every_camera(repository: Path) -> None:
    page = (repository / "docs" / "coming_from.md").read_text(encoding="utf-8")
    for name, each in PRESETS.items():
        topics = f"`{each.image('left')}` | `{each.image('right')}`"
        row = f"| `{name}` | {each.source} | {topics} | `{each.frame}` | `{each.encoding}` | {each.setting or '-'} |"
        assert row in page, f"docs/coming_from.md lacks: {row}"


def test_topics_and_names() -> None:
    assert PRESETS["realsense"].image("right") == "/camera/camera/infra2/image_rect_raw"
    assert PRESETS["euroc"].image("left") == "/cam0/image_raw"
    assert PRESETS["zed"].image("left", "/robot/eyes/") == "/robot/eyes/left/color/rect/image"
    assert preset("") is None
    with pytest.raises(ValueError, match="camera:=d435 is unknown: choose zed, realsense"):
        preset("d435")
    assert namespaces_of(" front,rear ,") == ["front", "rear"]
    with pytest.raises(ValueError, match="namespaces:=a,a must name each camera once"):
        namespaces_of("a,a")
