"""Distillation: what is handed to the losses and how answers are judged, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning")
from support.distill import MASK, TINY, wall

from fg_depth_ros.data.samples import DepthSample
from fg_depth_ros.files import FileError
from fg_depth_ros.networks import ModelCard, create_model, load_checkpoint, save_checkpoint
from fg_depth_ros.networks.depth import DepthPrediction
from fg_depth_ros.training.depth.batch import PairBatch, TeacherPrediction
from fg_depth_ros.training.depth.config import PRESETS, ColourJitter, DistillTraining
from fg_depth_ros.training.depth.dataset import MixedBatch
from fg_depth_ros.training.depth.distill import DistillModule, train_distill
from fg_depth_ros.training.depth.flow_mask import masked
from fg_depth_ros.training.depth.module import distill_batch, replace_bad
from fg_depth_ros.training.depth.pairs import PairCounts
from fg_depth_ros.training.depth.teacher import Teacher
from fg_depth_ros.training.depth.validation import TEACHER, evaluate_sets, validation_sample

# ---- from pairs to what the losses see


def made(disparities, width=8, height=4):
    """Pairs and answers that agree in both views, one disparity per sample; nothing known at 0."""
    n = len(disparities)
    image = torch.arange(n * 3 * height * width, dtype=torch.int64).remainder(256).to(torch.uint8)
    image = image.view(n, 3, height, width)
    field = torch.tensor(disparities, dtype=torch.float32).view(n, 1, 1, 1).expand(n, 1, height, width).clone()
    field[field == 0] = math.nan
    pairs = PairBatch(image, image.flip(0), torch.full((n,), 40.0), torch.full((n,), 0.5), 20 / field)
    return pairs, TeacherPrediction(field, torch.zeros_like(field), field)


def test_a_batch_for_the_losses_by_hand():
    """Disparity 2 in 8 columns: the match of columns 0 and 1 leaves the image; what is masked has disparity 0."""
    pairs, prediction = made([2, 0])
    batch = distill_batch(pairs, masked(prediction, pairs.focal, pairs.baseline, MASK), MASK)
    assert batch.mask[0, 0, 0].tolist() == [False] * 2 + [True] * 6 and not batch.mask[1].any()
    assert batch.disparity[0, 0, 0].tolist() == [0.0] * 2 + [2.0] * 6 and not batch.disparity[1].any()
    torch.testing.assert_close(batch.target, pairs.left / 255)
    torch.testing.assert_close(batch.source, pairs.right / 255)
    assert batch.seen is batch.target and batch.baseline.tolist() == [0.5, 0.5]


def test_a_bad_sample_is_replaced_by_a_good_one():
    pairs, prediction = made([2, 0, 3, 2])
    pairs = pairs._replace(baseline=torch.tensor([0.5, 0.5, 0.5, math.nan]))
    batch, bad = replace_bad(distill_batch(pairs, prediction, MASK))
    assert bad == [1, 3]
    assert [int(d.max()) for d in batch.disparity] == [2, 2, 3, 3]
    torch.testing.assert_close(batch.target[1], pairs.left[0] / 255)
    torch.testing.assert_close(batch.source[3], pairs.right[2] / 255)
    assert torch.isfinite(batch.baseline).all()
    nothing, bad = replace_bad(distill_batch(*made([0, 0]), MASK))
    assert bad == [0, 1] and not nothing.mask.any()


def module_of(**settings):
    config = DistillTraining(**{**TINY, "steps": 4, "world": "street", "flips": 0.0, "graft": False, **settings})
    return DistillModule(config, 60.0, Teacher("sgbm"))


def drawn(*samples, first=0):
    numbers = torch.arange(first, first + len(samples))
    return MixedBatch(numbers, list(samples), None, torch.tensor([], dtype=torch.int64), PairCounts())


def sample(disparity, seed=0, known=True):
    left, right = (
        torch.from_numpy(image).permute(2, 0, 1)[None] for image in wall(disparity, seed, width=96, height=64)
    )
    field = torch.full((1, 1, 64, 96), float(disparity) if known else math.nan)
    truth = 12 / field
    pairs = PairBatch(left, right, torch.tensor([120.0]), torch.tensor([0.1]), truth)
    return pairs, TeacherPrediction(field, torch.zeros_like(field), field)


def test_who_has_no_answer_yet_is_asked_and_the_others_are_not():
    module = module_of(jitter=ColourJitter(probability=0))
    read, asked = sample(5), sample(7, seed=1)[0]
    batch = module.transfer_batch_to_device(drawn(read, (asked, None)), torch.device("cpu"), 0)
    assert batch.target.shape == (2, 3, 64, 96)
    assert batch.disparity[0][batch.mask[0]].unique().tolist() == [5.0]
    known = batch.disparity[1][batch.mask[1]]
    assert len(known) > 2000 and (known - 7).abs().median() < 0.1
    torch.testing.assert_close(batch.seen, batch.target)
    assert module.counts.used == 2 and not module.counts.skipped


def test_nothing_is_learned_from_bad_samples_whatever_the_mask():
    """Without the flow mask the photometric loss counts every pixel; a bad sample must still teach nothing."""
    losses = PRESETS["auto_mask"]
    one = module_of(losses=losses)
    good, bad = sample(5), sample(6, seed=1, known=False)
    batch = one.transfer_batch_to_device(drawn(good, bad), torch.device("cpu"), 0)
    assert one.counts.used == 1 and one.counts.skipped == {"few_pixels": 1}
    torch.testing.assert_close(batch.target[0], batch.target[1])
    batch = one.transfer_batch_to_device(drawn(bad, bad), torch.device("cpu"), 0)
    assert one.counts.skipped == {"few_pixels": 3}
    loss, _ = one.losses(batch)
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or not p.grad.any() for p in one.model.parameters())


def test_every_parameter_has_a_gradient():
    """Processes that train together wait for the gradient of every parameter, also of levels that do not learn."""
    module = module_of()
    batch = module.transfer_batch_to_device(drawn(sample(5), sample(6)), torch.device("cpu"), 0)
    loss, parts = module.losses(batch)
    loss.backward()
    assert all(p.grad is not None for p in module.model.parameters())
    assert {"loss", "regression", "flow_photometric", "mask", "abs_rel"} <= parts.keys()


def test_samples_without_end_that_teach_nothing_end_the_run():
    module = module_of()
    bad = sample(6, known=False)
    for _ in range(9):
        module.transfer_batch_to_device(drawn(bad, bad), torch.device("cpu"), 0)
    with pytest.raises(FileError, match="none of the first 20 pairs can be trained on. 20 x few_pixels"):
        module.transfer_batch_to_device(drawn(bad, bad), torch.device("cpu"), 0)


def test_augmentation_follows_the_numbers_alone():
    module = module_of(flips=0.5, graft=True)
    twice = [
        module.transfer_batch_to_device(drawn(sample(5), sample(6), first=k), torch.device("cpu"), 0) for k in (4, 4, 6)
    ]
    for a, b in zip(twice[0], twice[1], strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    assert not torch.equal(twice[0].seen, twice[2].seen)


def test_the_encoder_learns_at_a_rate_of_its_own(tmp_path):
    """With a factor of 0 the encoder keeps its weights, and the decoder learns."""
    config = DistillTraining(
        model="depthnet_efficient", world="street", teacher="truth", width=64, height=32, batch=2, steps=2, uses=1,
        patterns=4, outlines=4, workers=0, validation_scenes=1, encoder_rate=0.0, learning_rate=0.01, graft=False,
        losses=replace(PRESETS["flow_mask_dr"], photometric=0.0, smoothness=0.0),
        weights=str(tmp_path / "start.safetensors"), out=str(tmp_path / "run"),
    )  # fmt: skip
    start = create_model("depthnet_efficient", focal=38.4, width=64, height=32)
    save_checkpoint(config.weights, start, ModelCard("depthnet_efficient", start.options))
    train_distill(config)
    before, after = start.state_dict(), load_checkpoint(tmp_path / "run" / "last.safetensors")[0]
    learned = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    encoder = [name for name in before if name.startswith("encoder.")]  # means and deviations of batch norms, too
    assert len(encoder) > 200 and all(torch.equal(after[name], before[name]) for name in encoder)
    assert {"merge_quarter", "depth", "mask"} <= learned
    with pytest.raises(ValueError, match="--encoder-rate must not be negative, got -1"):
        replace(config, encoder_rate=-1.0)


def test_the_rate_is_the_papers():
    module = module_of()
    assert module.config.learning_rate == 1e-4 and type(module.configure_optimizers()) is torch.optim.Adam
    assert [module.lr_factor(p) for p in (0, 14.99 / 20, 15 / 20, 1)] == [1, 1, 0.1, 0.1]


# ---- judging


class Constant(torch.nn.Module):
    focal, width, height, size_multiple = 60.0, 32, 32, 32

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, image):
        return DepthPrediction(torch.full((len(image), 1, *image.shape[-2:]), 0.5))


def test_depth_of_another_camera_is_judged_in_metres():
    """Inverse 0.5 /m at focal 60 is 2 m; a camera with focal 120 shows it at 4 m."""
    image = np.zeros((32, 32, 3), np.uint8)
    samples = [
        DepthSample("truth", image, fx, np.full((32, 32), z, np.float32)) for fx, z in ((60.0, 2.0), (120.0, 5.0))
    ]
    found = evaluate_sets({"set": samples})(Constant())
    assert found["set/abs_rel"] == pytest.approx(0.1) and found["set/delta_1"] == pytest.approx(0.5 + 0.5 * 0.0 + 0.0)
    by_teacher = evaluate_sets({"set": [replace(samples[0], name=TEACHER)]})(Constant())
    assert sorted(by_teacher) == ["set/teacher_abs_rel", "set/teacher_delta_1", "set/teacher_rmse"]


def test_the_truth_is_the_reference_where_there_is_any():
    pairs, prediction = made([4])
    assert validation_sample(pairs, prediction).name != TEACHER
    found = validation_sample(
        pairs._replace(truth=torch.full_like(pairs.truth, math.nan)),
        masked(prediction, pairs.focal, pairs.baseline, MASK),
    )
    assert found.name == TEACHER
    assert np.isnan(found.truth()[:, :4]).all() and (found.truth()[:, 4:] == 5.0).all()  # 40 px * 0.5 m / 4 px
