"""Self-supervision: its terms on pairs whose answer is known, and a spoilt network that finds its way back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning")
from support.distill import HEIGHT, RIG, WIDTH, made_pair, wall
from support.pair_folders import FAR, NEAR, planes, small_rig

from fg_depth_ros.files import FileError
from fg_depth_ros.networks import CheckpointError, load_checkpoint, load_model
from fg_depth_ros.networks.checkpoint import ModelCard, save_checkpoint
from fg_depth_ros.training.depth.dataset import PairDataset, load_whole
from fg_depth_ros.training.depth.pairs import PairSplit, TrainingPair
from fg_depth_ros.training.finetune.config import StereoFinetuning
from fg_depth_ros.training.finetune.stereo import (
    SelfSupervisedModule,
    WindowDataset,
    anchor_distance,
    compare_views,
    evaluate_pair,
    match_exposure,
    predict_views,
    stereo_terms,
    train_self_supervised,
)
from fg_depth_ros.training.photometric import photometric_error


def as_float(*images):
    return tuple(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255 for image in images)


def constant(value, width=WIDTH, height=HEIGHT):
    return torch.full((1, 1, height, width), float(value))


# ---- what is refused


def test_unusable_settings_are_named():
    def refused(message, **settings):
        with pytest.raises(ValueError, match=message):
            StereoFinetuning(steps=1, **settings)

    refused("unknown stereo network 'depthnet_lite'; known: flownet_stereo", model="depthnet_lite")
    refused("starts from weights of the network itself", weights="")
    refused("multiples of 32, got 100x64", width=100, height=64)
    refused("--anchor must not be negative, got -1", anchor=-1)
    refused("--tolerance must be positive, got 0", tolerance=0)


def test_what_cannot_be_learned_from_is_refused(tmp_path):
    good = [made_pair(*wall(8), name="good")]
    wrong = [made_pair(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), name="small")]

    def attempt(error, message, *parts, **settings):
        out = tmp_path / "out"
        with pytest.raises(error, match=message):
            train_self_supervised(
                StereoFinetuning(out=str(out), steps=1, width=64, height=64, **settings),
                PairSplit(*({"ep": pairs} for pairs in parts)),
            )
        assert not out.exists()

    attempt(FileError, "none of the training pairs can be used", wrong, good, good)
    attempt(FileError, "none of the test pairs can be used", good, good, wrong)
    attempt(CheckpointError, "does not exist", good, good, good, weights=str(tmp_path / "gone.safetensors"))
    attempt(CheckpointError, "holds a network 'depthnet_lite'", good, good, good, weights="depthnet_lite")


# ---- the terms, against what is known


def test_the_right_answer_costs_nothing_and_a_wrong_one_does():
    left, right = as_float(*wall(8))
    terms = stereo_terms(left, right, constant(8), constant(8), 1.5)
    assert terms["photometric"] < 1e-6 and terms["left_right"] < 1e-6 and terms["smoothness"] == 0
    assert terms["visible"] == pytest.approx((WIDTH - 8) / WIDTH)
    wrong = stereo_terms(left, right, constant(11), constant(11), 1.5)
    assert wrong["photometric"] > 0.05 and wrong["visible"] == pytest.approx((WIDTH - 11) / WIDTH)
    apart = stereo_terms(left, right, constant(8), constant(9), 1.5)
    assert apart["left_right"] == pytest.approx(1) and apart["visible"] > 0.9
    lost = stereo_terms(left, right, constant(8), constant(10), 1.5)
    assert lost["visible"] == 0 and lost["photometric"] == 0 and lost["left_right"] == pytest.approx(2)
    assert stereo_terms(left, right, constant(8), constant(20), 1.5)["left_right"] == 0  # too far to be pulled


def test_what_only_one_camera_sees_is_not_compared():
    """A square 8 px nearer than the wall hides 8 columns of it from the right camera, left of the square."""
    left, right, truth = planes(0)
    height, width = truth.shape
    rows, first, last = slice(height // 4, height * 3 // 4), width * 3 // 8, width * 5 // 8
    of_right = np.full((height, width), FAR, np.float32)
    of_right[rows, first - NEAR : last - NEAR] = NEAR
    views = [torch.from_numpy(field)[None, None] for field in (truth, of_right)]
    view = compare_views(*as_float(left, right), *views, 1, 1.5)
    hidden = np.zeros((height, width), bool)
    hidden[:, :FAR] = True  # matches left of the image
    hidden[rows, first - (NEAR - FAR) : first] = True
    np.testing.assert_array_equal(~view.visible[0, 0].numpy(), hidden)
    assert float(view.error[view.visible].max()) < 1e-5


def test_the_exposure_of_two_cameras_is_no_error():
    left, right = as_float(*wall(8))
    darker = 0.6 * right + 0.1
    warped = compare_views(left, darker, constant(8), constant(8), 1, 1.5)
    assert float(warped.error[warped.visible].mean()) < 1e-3
    assert float(photometric_error(darker, right).mean()) > 0.05  # what it would be without
    nothing = torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    torch.testing.assert_close(match_exposure(darker, left, nothing), darker)


def test_how_far_weights_have_gone():
    parent = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert anchor_distance(parent, parent) == 0
    assert anchor_distance(parent, [torch.tensor([3.0, 1.0]), torch.tensor([[6.0]])]) == pytest.approx(5 / 25)


# ---- samples and figures


def test_windows_are_cut_at_one_place_of_both_images():
    left, right = wall(8)
    source = WindowDataset(_dataset(made_pair(left, right)), 64, 32)
    windows = source.batch([0, 1, 2, 3])
    assert windows.left.shape == windows.right.shape == (4, 3, 32, 64) and windows.left.dtype == torch.uint8
    assert len({bytes(window.numpy().tobytes()) for window in windows.left}) == 4
    for one, other in zip(windows.left, windows.right, strict=True):
        torch.testing.assert_close(one[:, :, 8:], other[:, :, :-8])
    torch.testing.assert_close(source.batch([2]).left[0], windows.left[2])


def _dataset(*pairs):
    return PairDataset([TrainingPair(pair) for pair in pairs], lambda one: (load_whole(one), None), seed=5)


def test_a_pair_whose_principal_columns_differ_is_levelled():
    left, right, truth = planes(0)
    rig = small_rig()  # doffs 4 px
    pair = load_whole(TrainingPair(made_pair(left, right, rig, truth)))
    assert pair.truth[0, 0, 50, 2] == pytest.approx(rig.fx * rig.baseline / 10) and FAR + rig.doffs == 10
    shown = pair.right[0, :, :, 30].permute(1, 0).numpy()
    np.testing.assert_array_equal(shown, right[:, 34])


class Says(torch.nn.Module):
    """Answers with one disparity, whatever it sees."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, left, right):
        from fg_depth_ros.networks.flownet_stereo import StereoPrediction

        return StereoPrediction(torch.full_like(left[:, :1], self.value), torch.zeros_like(left[:, :1]))


def test_figures_of_a_pair_by_hand():
    pair = load_whole(TrainingPair(made_pair(*wall(8), RIG, np.full((HEIGHT, WIDTH), 8, np.float32))))
    right = evaluate_pair(Says(8.0), pair, 1.5)
    assert right["photometric"] < 1e-6 and right["agreement"] == 1 and right["epe"] == 0
    assert right["unexplained"] == pytest.approx(8 / WIDTH, abs=1e-6)  # the columns that the right camera does not see
    wrong = evaluate_pair(Says(12.0), pair, 1.5)
    assert wrong["epe"] == 4 and wrong["photometric"] > 0.05 and wrong["unexplained"] > right["unexplained"] + 0.05
    blind = evaluate_pair(Says(500.0), pair, 1.5)
    assert blind["unexplained"] == 1 and blind["agreement"] == 0  # who gives up gains nothing
    assert "epe" not in evaluate_pair(Says(8.0), load_whole(TrainingPair(made_pair(*wall(8)))), 1.5)


def test_both_views_of_a_mirrored_pair():
    network = load_model("flownet_stereo")[0]
    left, right = as_float(*wall(9))
    with torch.no_grad():
        of_left, of_right = predict_views(network, left, right)
    for view in (of_left, of_right):
        assert view.shape == (1, 1, HEIGHT, WIDTH) and float((view[..., 20:-20] - 9).abs().median()) < 0.3


# ---- a run


def test_a_spoilt_network_comes_nearer_to_the_truth_that_it_never_sees(tmp_path):
    """Noise on the shipped weights; two dozen pictures of walls and no label repair some of it."""
    network, card = load_model("flownet_stereo")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim == 4:
                value += 0.6 * value.std() * torch.randn(value.shape, generator=generator)
    spoilt = save_checkpoint(tmp_path / "spoilt.safetensors", network, ModelCard(card.name, card.options))

    def walls(first, count):
        truth = lambda d: np.full((HEIGHT, WIDTH), d, np.float32)  # noqa: E731
        return [made_pair(*wall(6 + i % 8, seed=i), RIG, truth(6 + i % 8), name=f"{i}") for i in range(first, count)]

    config = StereoFinetuning(
        out=str(tmp_path / "run"), weights=str(tmp_path / "spoilt.safetensors"), steps=10, width=128, height=96,
        workers=0, validation_scenes=2, learning_rate=2e-4, anchor=1.0, validate_minutes=60,
    )  # fmt: skip
    best = train_self_supervised(config, PairSplit({"a": walls(0, 16)}, {"a": walls(16, 20)}, {"a": walls(20, 24)}))
    rows = [json.loads(line) for line in (tmp_path / "run" / "validation.jsonl").read_text().splitlines()]
    before, after = rows[0], rows[-1]
    assert before["step"] == 0 and after["step"] == 10
    assert after["unexplained"] < before["unexplained"]
    assert after["test:a/epe"] < 0.5 * before["test:a/epe"]
    assert after["test:a/agreement"] >= before["test:a/agreement"]
    said = load_checkpoint(best)[1].description
    assert said["parent"]["sha256"] == spoilt.sha256 and said["data"] == "16 pairs of a"
    assert said["sets"]["test"]["a"] == {"used": 4, "skipped": {}, "examples": {}}


def test_the_compiled_network_runs_in_a_step(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda run: lambda *images: calls.append(len(images)) or run(*images))
    module = SelfSupervisedModule(StereoFinetuning(steps=1, compile=True))
    module.losses(WindowDataset(_dataset(made_pair(*wall(8))), 64, 64).batch([0]))
    assert calls == [2]


def test_leaving_the_first_weights_costs(tmp_path):
    config = StereoFinetuning(out=str(tmp_path), steps=1, anchor=7.0, photometric=0.0, left_right=0.0, smoothness=0.0)
    module = SelfSupervisedModule(config)
    windows = WindowDataset(_dataset(made_pair(*wall(8))), 64, 64).batch([0, 1])
    assert module.losses(windows)[0] == 0
    with torch.no_grad():
        for value in module.model.parameters():
            value *= 1.1
    loss, parts = module.losses(windows)
    assert loss.item() == pytest.approx(0.07, rel=1e-3) and float(parts["anchor"]) == pytest.approx(0.01, rel=1e-3)
    assert all(not part.training for part in module.model.modules() if isinstance(part, torch.nn.BatchNorm2d))
