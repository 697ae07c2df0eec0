"""Depth from one image: sizes, focal lengths, refusals."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from fg_depth_ros.inference import ModelError, MonoConfig, MonoDepthEstimator, NetworkMono
from fg_depth_ros.networks import DepthPrediction, ModelCard, create_model, save_checkpoint
from fg_depth_ros.networks.registry import weights_path


class ByRow(nn.Module):
    """Says an inverse depth that grows with the row, whatever the image: 0.1 at the top, 0.5 at the bottom."""

    size_multiple, focal, width, height = 32, 50.0, 64, 32

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> DepthPrediction:
        self.seen.append(tuple(image.shape))
        rows = torch.linspace(0.1, 0.5, image.shape[2]).view(1, 1, -1, 1)
        return DepthPrediction(rows.expand(image.shape[0], 1, -1, image.shape[3]).contiguous())


def test_depth_is_resized_as_inverse_depth_and_scaled_by_the_focal_length() -> None:
    network = ByRow()
    method = NetworkMono(network, "by_row")
    image = np.zeros((72, 128, 3), np.uint8)
    depth = method.depth(image, fx=200.0)
    # As many pixels as 64x32 in the shape 16:9 are 60x34; the multiples of 32 beside it are 64 and 32.
    assert network.seen == [(1, 3, 32, 64)]
    # At the network's width the focal length is 200 * 64 / 128 = 100 px, twice its own.
    rows = np.linspace(0.1, 0.5, 32, dtype=np.float32)[:, None].repeat(64, 1)
    expected = 2.0 / cv2.resize(rows, (128, 72), interpolation=cv2.INTER_LINEAR)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, expected, rtol=1e-5)


def test_the_same_view_at_another_resolution_has_the_same_depth() -> None:
    method = NetworkMono(ByRow(), "by_row")
    small = method.depth(np.zeros((64, 128), np.uint8), fx=100.0)
    large = method.depth(np.zeros((128, 256), np.uint8), fx=200.0)
    np.testing.assert_allclose(large[1::2, ::2][8:-8], small[8:-8], rtol=0.03)


@pytest.mark.parametrize("stretch", [0.5, 0.75, 4 / 3, 2.0])
def test_the_same_view_with_pixels_that_are_not_square_has_the_same_depth(stretch: float) -> None:
    network = ByRow()
    method = NetworkMono(network, "by_row")
    square = method.depth(np.zeros((96, 192), np.uint8), fx=150.0)
    width = round(192 / stretch)
    other = method.depth(np.zeros((96, width), np.uint8), fx=150.0 / stretch, fy=150.0)
    assert network.seen[0] == network.seen[1]
    np.testing.assert_allclose(other[:, width // 2], square[:, 96], rtol=1e-5)


@pytest.mark.parametrize(
    ("width", "height", "scale", "expected"),
    [
        (1344, 372, 1.0, (704, 192)),  # 666 x 184; 672x192 would be 3 % too narrow
        (1280, 384, 1.0, (640, 192)),
        (640, 480, 1.0, (384, 288)),  # 404.8 x 303.6; 416x288 would be 8 % too wide
        (640, 480, 2.0, (800, 608)),
        (100, 4000, 1.0, (64, 2560)),
        (640, 480, 0.1, (32, 32)),
    ],
)
def test_input_size(width: int, height: int, scale: float, expected: tuple[int, int]) -> None:
    network = ByRow()
    network.width, network.height = 640, 192
    assert NetworkMono(network, "by_row").input_size(width, height, scale) == expected


@pytest.mark.parametrize("trained_at", [(480, 160), (640, 192), (512, 384)])
@pytest.mark.parametrize(
    "image", [(640, 480), (672, 376), (752, 480), (848, 480), (1242, 375), (1280, 720), (1280, 800), (1344, 372),
              (1920, 1080), (1920, 1200), (2208, 1242)],
)  # fmt: skip
def test_pictures_of_usual_cameras_keep_their_shape(image: tuple[int, int], trained_at: tuple[int, int]) -> None:
    network = ByRow()
    network.width, network.height = trained_at
    width, height = NetworkMono(network, "by_row").input_size(*image)
    assert width / height == pytest.approx(image[0] / image[1], rel=0.06)
    assert width * height == pytest.approx(trained_at[0] * trained_at[1], rel=0.25)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = create_model("depthnet_lite", focal=60.0, width=96, height=32)
    path = tmp_path_factory.mktemp("mono") / "lite.safetensors"
    save_checkpoint(path, network, ModelCard("depthnet_lite", network.options))  # type: ignore[arg-type]
    return path


def test_estimator_with_a_weights_file(weights: Path) -> None:
    estimator = MonoDepthEstimator(MonoConfig(weights=str(weights), device="cpu"))
    image = np.random.default_rng(0).integers(0, 255, (48, 120, 3), dtype=np.uint8)
    estimate = estimator.estimate(image, fx=75.0)
    assert estimate.depth.shape == (48, 120)
    assert estimate.seconds > 0
    # A fresh network says about 10 m in its own camera, and 75 px at 120 px width are its 60 px at 96 px.
    assert float(np.median(estimate.depth)) == pytest.approx(10.0, rel=0.3)
    np.testing.assert_allclose(estimator.estimate(image, fx=150.0).depth, 2 * estimate.depth, rtol=1e-5)
    grey = image[..., 0]
    np.testing.assert_array_equal(
        estimator.estimate(grey, 75.0).depth, estimator.estimate(np.repeat(grey[..., None], 3, -1), 75.0).depth
    )
    assert estimator.camera == "96x32 px, focal length 60 px (77 degrees across)"
    assert len(estimator.model_sha256) == 64


@pytest.mark.parametrize("fx", [0.0, -3.0, float("nan"), float("inf")])
def test_a_focal_length_that_is_none_is_refused(weights: Path, fx: float) -> None:
    estimator = MonoDepthEstimator(MonoConfig(weights=str(weights), device="cpu"))
    with pytest.raises(ValueError, match=r"fx must be a positive number of pixels, got .*calibration"):
        estimator.estimate(np.zeros((48, 96), np.uint8), fx)
    with pytest.raises(ValueError, match=r"fy must be a positive number of pixels, got .*calibration"):
        estimator.estimate(np.zeros((48, 96), np.uint8), 50.0, fx)


def test_images_of_other_types_are_refused(weights: Path) -> None:
    estimator = MonoDepthEstimator(MonoConfig(weights=str(weights), device="cpu"))
    for image in (np.zeros((48, 96), np.float32), np.zeros((48, 96, 4), np.uint8), np.zeros(5, np.uint8)):
        with pytest.raises(ValueError, match="must be H x W or H x W x 3 of uint8"):
            estimator.estimate(image, 60.0)


def test_wrong_settings_and_weights_of_another_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model 'flownet_lite' is for optical flow; choose one of depthnet_efficient"):
        MonoConfig(model="flownet_lite")
    with pytest.raises(ValueError, match=r"inference_scale must lie in 0.1 .. 4, got 9"):
        MonoConfig(inference_scale=9)
    with pytest.raises(
        ModelError, match=r"holds weights of 'flownet_stereo', not of one of depthnet_efficient.*no depth"
    ):
        MonoDepthEstimator(MonoConfig(weights=str(weights_path("flownet_stereo")), device="cpu"))
    with pytest.raises(ModelError, match=r"does not exist"):
        MonoDepthEstimator(MonoConfig(weights=str(tmp_path / "none.safetensors"), device="cpu"))


def test_the_model_follows_the_weights_unless_it_is_named(tmp_path: Path) -> None:
    network = create_model("depthnet_lite", focal=60.0, width=96, height=32)
    path = tmp_path / "lite.safetensors"
    save_checkpoint(path, network, ModelCard("depthnet_lite", network.options))  # type: ignore[arg-type]
    assert MonoConfig().model == "depthnet_efficient"
    assert MonoDepthEstimator(MonoConfig(weights=str(path))).model_name == "depthnet_lite"
    with pytest.raises(ModelError, match="not of 'depthnet_efficient'; set the model to 'depthnet_lite'"):
        MonoDepthEstimator(MonoConfig("depthnet_efficient", str(path)))
