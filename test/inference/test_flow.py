"""Flow methods on frames whose flow is known because they were made with it; every wrong input by name."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from fg_depth_ros.inference import (
    FlowConfig,
    FlowEstimator,
    ModelError,
    NetworkFlow,
    OutOfMemory,
    StereoConfig,
    StereoDepthEstimator,
)
from fg_depth_ros.inference.classical_flow import dis, horn_schunck, refine, resize_flow
from fg_depth_ros.inference.config import CLASSICAL_FLOW
from fg_depth_ros.networks import FLOW_MODELS, MODELS, ModelCard, create_model, save_checkpoint
from fg_depth_ros.networks.flow import FlowPrediction


def texture(height, width, seed=0):
    """Random colours with as much in coarse structures as in fine ones, as in photographs; uint8 RGB."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    noise = sum(size * cv2.GaussianBlur(noise, (0, 0), size) for size in (1.5, 4, 10, 20))
    return np.clip(128 + 40 * (noise - noise.mean()) / noise.std(), 0, 255).astype(np.uint8)


def moved(matrix, height=96, width=128, seed=0):
    """Two frames and their flow: what lies at p in the first lies at ``matrix`` (p, 1) in the second; uint8 RGB."""
    margin = 40
    scene = texture(height + 2 * margin, width + 2 * margin, seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    px, py = (back @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])).reshape(2, height, width)
    second = cv2.remap(scene, (px + margin).astype(np.float32), (py + margin).astype(np.float32), cv2.INTER_CUBIC)
    first = scene[margin : margin + height, margin : margin + width].copy()
    u, v = (np.asarray(matrix) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])).reshape(2, height, width)
    return first, second, np.stack([u - x, v - y], -1).astype(np.float32)


def shift(u, v):
    return np.array([[1.0, 0, u], [0, 1, v]])


class ColourFlow(torch.nn.Module):
    """u = 10 x red of the first frame, v = 10 x blue of the second, pixel by pixel."""

    size_multiple = 1

    def __init__(self, factor=10.0, fail=None):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))
        self.fail = fail

    def forward(self, first, second):
        if self.fail:
            raise self.fail
        assert first.shape[:2] == second.shape[:2] == (1, 3)
        assert first.dtype == second.dtype == torch.float32
        return FlowPrediction(self.factor * torch.cat([first[:, :1], second[:, 2:]], 1))


@pytest.fixture
def colour_flow(tmp_path, monkeypatch):
    """Weights of ColourFlow on disk, with its name registered."""
    for models in (FLOW_MODELS, MODELS):
        monkeypatch.setitem(models, "colour_flow", ColourFlow)
    path = tmp_path / "colour.safetensors"
    save_checkpoint(path, ColourFlow(), ModelCard("colour_flow"))
    return path


# ---- what must be refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "raft"}, "model 'raft' is unknown; choose one of .*dis, farneback, lucas_kanade, horn_schunck"),
        ({"model": "sgbm"}, "model 'sgbm' is for stereo pairs; choose one of flownet2"),
        ({"model": ""}, "model '' is unknown"),
        ({"model": "dis", "precision": "int3"}, "precision 'int3' is unknown; choose one of auto, float32"),
        ({"model": "dis", "inference_scale": 0.0}, "inference_scale must lie in 0.1 .. 4, got 0.0"),
        ({"model": "dis", "inference_scale": "auto"}, "inference_scale must lie in 0.1 .. 4, got auto"),
        ({"model": "dis", "inference_scale": float("nan")}, "inference_scale must lie in 0.1 .. 4, got nan"),
        ({"model": "dis", "weights": "w.safetensors"}, "'dis' has no weights; leave w.safetensors out"),
    ],
)
def test_every_wrong_setting_is_named_with_the_way_out(options, message):
    with pytest.raises(ValueError, match=message):
        FlowConfig(**options)


def test_frames_that_are_no_pair_are_refused():
    estimator = FlowEstimator(FlowConfig(model="dis"))
    good = np.zeros((32, 48, 3), np.uint8)
    for first, second, message in (
        (good.astype(np.float32), good, r"the first image must be .* uint8, got \(32, 48, 3\) of float32"),
        (good, np.zeros((32, 48, 4), np.uint8), r"the second image must be .* got \(32, 48, 4\)"),
        (good, good[:, :40], r"first and second image differ: \(32, 48, 3\) and \(32, 40, 3\)"),
        (good[:0], good[:0], r"the first image is empty: \(0, 48, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            estimator.estimate(first, second)


def test_weights_that_cannot_be_used_are_named(tmp_path, colour_flow):
    def load(model, weights="", **options):
        return FlowEstimator(FlowConfig(model=model, weights=str(weights), **options))

    with pytest.raises(ModelError, match="no weights of 'flownet_s' come with the package .*give a weights file"):
        load("flownet_s")
    with pytest.raises(ModelError, match=r"nothing\.safetensors does not exist"):
        load("flownet_s", tmp_path / "nothing.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(colour_flow.read_bytes()[:-2])
    with pytest.raises(ModelError, match=r"cut\.safetensors is not a readable safetensors file"):
        load("", cut)
    with pytest.raises(ModelError, match="of 'colour_flow', not of 'flownet_s'; set the model to 'colour_flow' or"):
        load("flownet_s", colour_flow)
    with pytest.raises(ModelError, match="device 'quantum' cannot be used here"):
        load("colour_flow", colour_flow, device="quantum")


def test_a_stereo_net_for_flow_and_the_reverse_are_named(tmp_path, colour_flow):
    stereo = tmp_path / "stereo.safetensors"
    options = {"features": (16, 16, 16), "aggregate": (16, 16, 16), "max_disparity": 64}
    save_checkpoint(stereo, create_model("flownet_stereo", **options), ModelCard("flownet_stereo", options))
    with pytest.raises(ModelError, match=r"stereo\.safetensors holds .* 'flownet_stereo' is no flow network"):
        FlowEstimator(FlowConfig(model="flownet_s", weights=str(stereo)))
    with pytest.raises(ModelError, match="'flownet_stereo', not of one of colour_flow, .* is no flow network"):
        FlowEstimator(FlowConfig(model="", weights=str(stereo)))
    with pytest.raises(ModelError, match=r"of 'colour_flow', not of 'flownet_stereo'; set the model to 'colour_flow'"):
        StereoDepthEstimator(StereoConfig(weights=str(colour_flow)))
    assert StereoDepthEstimator(StereoConfig(model="", weights=str(colour_flow))).model_name == "colour_flow"


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("2 GiB"), RuntimeError("CUDNN_STATUS_ALLOC_FAILED")])
def test_too_little_memory_has_a_name_of_its_own(error):
    frame = np.zeros((32, 48, 3), np.uint8)
    with pytest.raises(OutOfMemory, match="cpu has too little memory for .*48x32"):
        NetworkFlow(ColourFlow(fail=error), "x").flow(frame, frame)
    with pytest.raises(RuntimeError, match="a defect"):
        NetworkFlow(ColourFlow(fail=RuntimeError("a defect")), "x").flow(frame, frame)


# ---- classical methods -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CLASSICAL_FLOW)
@pytest.mark.parametrize(("u", "v"), [(0.5, 0.25), (6, -3), (-10, 5)])
def test_a_known_shift_is_found(model, u, v):
    first, second, _ = moved(shift(u, v), 144, 192)
    answer = FlowEstimator(FlowConfig(model=model)).estimate(first, second)
    assert answer.flow.shape == (144, 192, 2)
    assert answer.flow.dtype == np.float32
    assert answer.seconds > 0
    error = np.linalg.norm(answer.flow - np.array([u, v], np.float32), axis=-1)[24:-24, 24:-24]
    assert np.median(error) < 0.1
    assert (error < 0.5).mean() > 0.95


@pytest.mark.parametrize("model", CLASSICAL_FLOW)
def test_a_turning_and_growing_picture_is_followed(model):
    turn, centre = np.deg2rad(4), np.array([64.0, 48.0])
    linear = 1.05 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    first, second, truth = moved(np.column_stack([linear, centre - linear @ centre]))
    flow = FlowEstimator(FlowConfig(model=model)).estimate(first, second).flow
    error = np.linalg.norm(flow - truth, axis=-1)[8:-8, 8:-8]
    assert np.linalg.norm(truth, axis=-1).max() > 6
    assert np.median(error) < 0.2


@pytest.mark.parametrize("model", CLASSICAL_FLOW)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 3), (7, 9), (37, 61)])
def test_any_size_and_grey_frames(model, size):
    frame = texture(*size)[..., 0]
    flow = FlowEstimator(FlowConfig(model=model, refinement="variational")).estimate(frame, frame).flow
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()
    if min(size) > 16:
        assert np.abs(flow).max() < 0.05  # nothing has moved


@pytest.mark.parametrize("model", CLASSICAL_FLOW)
def test_frames_are_not_changed_and_views_are_taken(model):
    first, second, _ = moved(shift(3, 0), 48, 64)
    before = first.copy(), second.copy()
    estimator = FlowEstimator(FlowConfig(model=model))
    flow = estimator.estimate(first, second).flow
    assert (first == before[0]).all() and (second == before[1]).all()
    mirrored = estimator.estimate(first[::-1, ::-1], second[::-1, ::-1]).flow
    assert np.median(mirrored[..., 0]) == pytest.approx(-np.median(flow[..., 0]), abs=0.1)


def test_horn_schunck_is_the_papers_iteration():
    """Against a plain loop over pixels; the pyramid of so small an image has one level."""
    alpha, count = 9.0, 4
    first, second, _ = moved(shift(0.6, -0.4), 20, 24)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    found = horn_schunck(*grey, alpha=alpha, warps=1, iterations=count)

    a, b = (cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.8).astype(np.float64) for image in grey)
    mean = np.pad((a + b) / 2, 2, mode="edge")
    height, width = a.shape
    u, v = np.zeros((height, width)), np.zeros((height, width))
    for _ in range(count):
        around_u, around_v = np.pad(u, 1, mode="edge"), np.pad(v, 1, mode="edge")
        for y in range(height):
            for x in range(width):
                row, column = mean[y + 2, x : x + 5], mean[y : y + 5, x + 2]
                ex = (row[0] - 8 * row[1] + 8 * row[3] - row[4]) / 12
                ey = (column[0] - 8 * column[1] + 8 * column[3] - column[4]) / 12
                averages = []
                for around in (around_u, around_v):
                    near = around[y, x + 1] + around[y + 2, x + 1] + around[y + 1, x] + around[y + 1, x + 2]
                    far = around[y, x] + around[y, x + 2] + around[y + 2, x] + around[y + 2, x + 2]
                    averages.append(near / 6 + far / 12)
                step = (ex * averages[0] + ey * averages[1] + b[y, x] - a[y, x]) / (alpha**2 + ex**2 + ey**2)
                u[y, x], v[y, x] = averages[0] - ex * step, averages[1] - ey * step
    np.testing.assert_allclose(found, np.stack([u, v], -1), atol=2e-4)


# ---- refinement and scale --------------------------------------------------------------------------------------


def test_refinement_brings_a_coarse_flow_nearer_to_the_truth():
    first, second, truth = moved(np.array([[1.03, 0.02, 2], [-0.02, 1.03, -1]]))
    coarse = truth + cv2.resize(np.random.default_rng(1).normal(0, 1.5, (6, 8, 2)).astype(np.float32), (128, 96))
    coarse[40:44, 50:54] = np.nan
    given = coarse.copy()
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    finer = refine(*grey, coarse)
    np.testing.assert_array_equal(coarse, given)
    assert (np.isnan(finer) == np.isnan(coarse)).all()
    inner = (slice(8, -8), slice(8, -8))
    before, after = (np.nanmean(np.linalg.norm(flow - truth, axis=-1)[inner]) for flow in (coarse, finer))
    assert before > 0.8
    assert after < 0.25 * before
    assert np.isnan(refine(*grey, np.full_like(truth, np.nan))).all()


def test_plus_v_is_the_refined_answer_of_the_same_model(colour_flow):
    first, second, _ = moved(shift(2, 1), 48, 64)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    plain = FlowEstimator(FlowConfig(model="", weights=str(colour_flow)))
    expected = refine(*grey, plain.estimate(first, second).flow)
    asked = FlowEstimator(FlowConfig(model="colour_flow", weights=str(colour_flow), refinement="variational"))
    for estimator in (asked, plain.refined()):
        np.testing.assert_array_equal(estimator.estimate(first, second).flow, expected)
    assert plain.config.refinement == "auto"
    np.testing.assert_array_equal(
        FlowEstimator(FlowConfig(model="dis", refinement="variational")).estimate(*grey).flow, refine(*grey, dis(*grey))
    )


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_what_the_compact_network_finds_is_refined_unless_told_otherwise(scale):
    first, second, _ = moved(shift(2, 1), 48, 64)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    settings = {"inference_scale": scale, "engine": "torch", "precision": "float32"}
    alone, refined = (FlowEstimator(FlowConfig(refinement=kind, **settings)) for kind in ("off", "auto"))
    found = alone.estimate(first, second).flow
    expected = refine(*grey, found, at_half=0, at_full=1)
    assert not np.array_equal(expected, found)
    np.testing.assert_array_equal(refined.estimate(first, second).flow, expected)
    np.testing.assert_array_equal(refined.refined().estimate(first, second).flow, refine(*grey, found))


@pytest.mark.parametrize("model", CLASSICAL_FLOW)
def test_classical_methods_are_refined_only_when_asked(model):
    first, second, _ = moved(shift(2, 1), 48, 64)
    alone, usual = (FlowEstimator(FlowConfig(model, refinement=kind)) for kind in ("off", "auto"))
    np.testing.assert_array_equal(usual.estimate(first, second).flow, alone.estimate(first, second).flow)


def test_an_unknown_refinement_is_named():
    with pytest.raises(ValueError, match="refinement 'full' is unknown; choose one of auto, variational, off"):
        FlowConfig(refinement="full")


def test_flow_vectors_scale_with_the_image():
    flow = np.zeros((30, 40, 2), np.float32) + np.array([3, -2], np.float32)
    larger = resize_flow(flow, 100, 90)
    assert larger.shape == (90, 100, 2)
    np.testing.assert_allclose(larger, np.broadcast_to([7.5, -6], larger.shape), rtol=1e-6)
    assert resize_flow(flow, 40, 30) is flow
    assert resize_flow(flow[:1, :1], 5, 1).shape == (1, 5, 2)


@pytest.mark.parametrize("scale", [0.4, 0.5, 1.7])
def test_inference_at_another_scale_answers_in_pixels_of_the_image(scale):
    first, second, _ = moved(shift(8, -4), 97, 129)
    flow = FlowEstimator(FlowConfig(model="farneback", inference_scale=scale)).estimate(first, second).flow
    assert flow.shape == (97, 129, 2)
    error = np.linalg.norm(flow - np.array([8, -4], np.float32), axis=-1)[24:-24, 24:-24]
    assert np.median(error) < 0.4


# ---- networks --------------------------------------------------------------------------------------------------


def test_a_network_sees_rgb_between_0_and_1(colour_flow):
    first, second = texture(33, 47, 0), texture(33, 47, 1)
    estimator = FlowEstimator(FlowConfig(model="", weights=str(colour_flow), device="cpu"))
    assert (estimator.model_name, estimator.device) == ("colour_flow", "cpu")
    assert len(estimator.model_sha256) == 64
    estimator.warm_up(64, 48)
    answer = estimator.estimate(first, second)
    assert answer.flow.dtype == np.float32 and answer.flow.flags.c_contiguous
    np.testing.assert_allclose(answer.flow[..., 0], first[..., 0] / 25.5, rtol=1e-5)
    np.testing.assert_allclose(answer.flow[..., 1], second[..., 2] / 25.5, rtol=1e-5)
    grey = estimator.estimate(first[..., 1], second[..., 1]).flow
    np.testing.assert_allclose(grey[..., 1], second[..., 1] / 25.5, rtol=1e-5)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_loaded_network_answers_as_the_network_itself(tmp_path, batch_norm):
    torch.manual_seed(0)
    network = create_model("flownet_s", width=0.125, batch_norm=batch_norm)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training
            module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 2)
    save_checkpoint(tmp_path / "s.safetensors", network, ModelCard("flownet_s", network.options))
    first, second, _ = moved(shift(4, 2), 70, 100)
    with torch.no_grad():
        pair = (torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in (first, second))
        expected = network.eval()(*pair).flow[0].permute(1, 2, 0).numpy()
    estimator = FlowEstimator(FlowConfig(weights=str(tmp_path / "s.safetensors"), model="flownet_s", device="cpu"))
    flow = estimator.estimate(first, second).flow
    assert flow.shape == (70, 100, 2)
    np.testing.assert_allclose(flow, expected, atol=1e-4 + 1e-3 * np.abs(expected).max())
    half = FlowEstimator(
        FlowConfig(weights=str(tmp_path / "s.safetensors"), model="", device="cpu", precision="bfloat16")
    )
    answer = half.estimate(first, second).flow
    assert answer.dtype == np.float32
    assert np.abs(answer - expected).max() < 0.05 * np.abs(expected).max() + 0.01
