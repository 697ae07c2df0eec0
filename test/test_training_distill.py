"""Distillation: what is handed to the losses by hand, learning, exact resumption, several processes, failing well."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning")
from distill_support import RIG, exchange, wall, write_walls

from fg_depth_ros.data.cutouts import CutoutAtlas
from fg_depth_ros.data.formats import FileError, read_image
from fg_depth_ros.inference import ModelError, MonoConfig, MonoDepthEstimator
from fg_depth_ros.networks import CheckpointError, create_model, load_checkpoint, load_model
from fg_depth_ros.networks.checkpoint import ModelCard, load_tensors, save_checkpoint
from fg_depth_ros.networks.depth import DepthPrediction
from fg_depth_ros.training.depth_batch import PairBatch, Taught
from fg_depth_ros.training.depth_losses import PRESETS
from fg_depth_ros.training.depth_validation import Judged, errors, judge, judged
from fg_depth_ros.training.distill import DistillModule, DistillTraining, _canonical_focal, train_distill
from fg_depth_ros.training.distill_module import distill_batch, without_bad
from fg_depth_ros.training.flow_mask import MaskConfig
from fg_depth_ros.training.grafting import ColourJitter
from fg_depth_ros.training.pair_checks import PairCounts
from fg_depth_ros.training.pair_sources import Drawn
from fg_depth_ros.training.teaching import Teacher

MASK = MaskConfig(max_disparity=0)
TINY = {
    "width": 96,
    "height": 64,
    "batch": 2,
    "workers": 0,
    "patterns": 4,
    "outlines": 4,
    "validation_scenes": 2,
    "validate_minutes": 60.0,
    "teacher": "sgbm",
    "mask": MASK,
}


ONLY_REGRESSION = replace(PRESETS["flow_mask_dr"], photometric=0.0)


@pytest.fixture(scope="module")
def walls(tmp_path_factory):
    return str(write_walls(tmp_path_factory.mktemp("data") / "walls", (8, 9, 10, 11, 12, 13)))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def rows(run):
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


# ---- what is refused


def test_unusable_settings_are_named():
    with pytest.raises(ValueError, match="give steps or hours"):
        DistillTraining(world="street")
    with pytest.raises(ValueError, match="nothing to train on: name folders or bags of pairs .data., or a world"):
        DistillTraining(steps=1)
    some = {"steps": 1, "data": ("a",)}
    with pytest.raises(ValueError, match="unknown model 'flownet_lite'; known: depthnet_lite, depthnet_r18"):
        DistillTraining(model="flownet_lite", **some)
    with pytest.raises(ValueError, match="unknown schedule 'S'; known: one_cycle, step"):
        DistillTraining(schedule="S", **some)
    with pytest.raises(ValueError, match="unknown world 'moon'; known: indoor, mixed, street"):
        DistillTraining(steps=1, world="moon")
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        DistillTraining(batch=0, **some)
    with pytest.raises(ValueError, match="world_share must lie in 0 .. 1, got 0"):
        DistillTraining(world_share=0, **some)
    with pytest.raises(ValueError, match="flips is a probability, got 2"):
        DistillTraining(flips=2, **some)
    with pytest.raises(ValueError, match="several shapes are for rendered scenes alone"):
        DistillTraining(shapes=((64, 64),), **some)
    with pytest.raises(ValueError, match="focal must not be negative, got -1"):
        DistillTraining(focal=-1, **some)
    with pytest.raises(ValueError, match="have their own canonical focal length; leave 300 out"):
        DistillTraining(focal=300, weights="w", **some)
    with pytest.raises(ValueError, match=r"have an encoder already; leave r18\.pth out"):
        DistillTraining(encoder="r18.pth", weights="w", **some)


def test_what_cannot_be_trained_on_is_refused_before_anything_is_written(tmp_path, walls):
    def attempt(error, message, **settings):
        out = tmp_path / "out"
        with pytest.raises(error, match=message):
            train_distill(DistillTraining(out=str(out), steps=1, **{**TINY, "data": (walls,), **settings}))
        assert not out.exists()

    attempt(FileError, "no such folder", data=("/nowhere",))
    attempt(FileError, "photo folder .* does not exist", data=(), world="street", photos=("/nowhere",))
    attempt(ModelError, "unknown teacher 'depthnet_r18'", teacher="depthnet_r18")
    attempt(ValueError, "multiple of 32 px, got 100", width=100)
    attempt(ValueError, "multiples of 32, got 70x64", data=(), world="street", shapes=((70, 64),))
    attempt(CheckpointError, r"gone\.safetensors does not exist", weights="gone.safetensors")
    attempt(CheckpointError, r"r18\.pth can only start depthnet_r18 or depthnet_r50", encoder="r18.pth")
    attempt(FileError, "none is left to train on", frames="100:")
    blind = write_walls(tmp_path / "blind", truth=False)
    attempt(FileError, "blind: no true disparity .*: name a model", data=(str(blind),), teacher="truth")
    net = create_model("depthnet_r18", focal=50.0, width=64, height=32)
    save_checkpoint(tmp_path / "r18.safetensors", net, ModelCard("depthnet_r18", net.options))
    attempt(CheckpointError, "holds a network 'depthnet_r18'", weights=str(tmp_path / "r18.safetensors"))


def test_a_folder_with_exchanged_cameras_or_without_answers_is_refused(tmp_path):
    wrong = exchange(write_walls(tmp_path / "wrong"))
    settings = {**TINY, "cache": str(tmp_path / "cache"), "steps": 1, "out": str(tmp_path / "out")}
    with pytest.raises(
        FileError, match="wrong: none of its 4 pairs .* 4 x exchanged: .*exchange the left and the right"
    ):
        train_distill(DistillTraining(data=(str(wrong),), **settings))
    far = MaskConfig(max_disparity=0, max_depth=1.0)
    with pytest.raises(FileError, match="walls: none of its 4 pairs .* 4 x no_answer: the teacher yields no valid"):
        train_distill(DistillTraining(data=(str(write_walls(tmp_path / "walls")),), **{**settings, "mask": far}))
    assert not (tmp_path / "out" / "best.safetensors").exists()


# ---- from pairs to what the losses see


def made(disparities, width=8, height=4):
    """Pairs and answers that agree in both views, one disparity per sample; nothing known at 0."""
    n = len(disparities)
    image = torch.arange(n * 3 * height * width, dtype=torch.int64).remainder(256).to(torch.uint8)
    image = image.view(n, 3, height, width)
    field = torch.tensor(disparities, dtype=torch.float32).view(n, 1, 1, 1).expand(n, 1, height, width).clone()
    field[field == 0] = math.nan
    pairs = PairBatch(image, image.flip(0), torch.full((n,), 40.0), torch.full((n,), 0.5), 20 / field)
    return pairs, Taught(field, torch.zeros_like(field), field)


def test_a_batch_for_the_losses_by_hand():
    """Disparity 2 in 8 columns: the match of columns 0 and 1 leaves the image; what is masked has disparity 0."""
    pairs, taught = made([2, 0])
    batch = distill_batch(pairs, taught, MASK)
    assert batch.mask[0, 0, 0].tolist() == [False] * 2 + [True] * 6 and not batch.mask[1].any()
    assert batch.disparity[0, 0, 0].tolist() == [0.0] * 2 + [2.0] * 6 and not batch.disparity[1].any()
    torch.testing.assert_close(batch.target, pairs.left / 255)
    torch.testing.assert_close(batch.source, pairs.right / 255)
    assert batch.seen is batch.target and batch.baseline.tolist() == [0.5, 0.5]


def test_a_bad_sample_is_replaced_by_a_good_one():
    pairs, taught = made([2, 0, 3, 2])
    pairs = pairs._replace(baseline=torch.tensor([0.5, 0.5, 0.5, math.nan]))
    batch, bad = without_bad(distill_batch(pairs, taught, MASK))
    assert bad == [1, 3]
    assert [int(d.max()) for d in batch.disparity] == [2, 2, 3, 3]
    torch.testing.assert_close(batch.target[1], pairs.left[0] / 255)
    torch.testing.assert_close(batch.source[3], pairs.right[2] / 255)
    assert torch.isfinite(batch.baseline).all()
    nothing, bad = without_bad(distill_batch(*made([0, 0]), MASK))
    assert bad == [0, 1] and not nothing.mask.any()


def module_of(**settings):
    config = DistillTraining(**{**TINY, "steps": 4, "world": "street", "flips": 0.0, "graft": False, **settings})
    return DistillModule(config, 60.0, Teacher("sgbm"))


def drawn(*samples, first=0):
    numbers = torch.arange(first, first + len(samples))
    return Drawn(numbers, list(samples), None, torch.tensor([], dtype=torch.int64), PairCounts())


def sample(disparity, seed=0, known=True):
    left, right = (
        torch.from_numpy(image).permute(2, 0, 1)[None] for image in wall(disparity, seed, width=96, height=64)
    )
    field = torch.full((1, 1, 64, 96), float(disparity) if known else math.nan)
    truth = 12 / field
    pairs = PairBatch(left, right, torch.tensor([120.0]), torch.tensor([0.1]), truth)
    return pairs, Taught(field, torch.zeros_like(field), field)


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


# ---- judging


def test_errors_by_hand():
    """Answers 2, 5, 100 (clamped to 80) for 4, 4, 40 m; what has no truth or lies beyond 80 m does not count."""
    reference = torch.tensor([[4.0, 4.0, 40.0, math.nan, 90.0]])
    found = errors(torch.tensor([[2.0, 4.9, 100.0, 1.0, 1.0]]), reference)
    assert found["abs_rel"] == pytest.approx((0.5 + 0.225 + 1.0) / 3)
    assert found["rmse"] == pytest.approx(math.sqrt((4 + 0.81 + 1600) / 3))
    assert found["delta_1"] == pytest.approx(1 / 3)


class Constant(torch.nn.Module):
    focal = 60.0

    def forward(self, image):
        return DepthPrediction(torch.full((len(image), 1, *image.shape[-2:]), 0.5))


def test_depth_of_another_camera_is_judged_in_metres():
    """Inverse 0.5 /m at focal 60 is 2 m; a camera with focal 120 shows it at 4 m."""
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    pairs = [
        Judged(image, 60.0, torch.full((32, 32), 2.0), True),
        Judged(image, 120.0, torch.full((32, 32), 5.0), True),
    ]
    found = judge({"set": pairs}, Constant(), torch.device("cpu"))
    assert found["set/abs_rel"] == pytest.approx(0.1) and found["set/delta_1"] == pytest.approx(0.5 + 0.5 * 0.0 + 0.0)
    by_teacher = judge({"set": [pairs[0]._replace(by_truth=False)]}, Constant(), torch.device("cpu"))
    assert sorted(by_teacher) == ["set/teacher_abs_rel", "set/teacher_delta_1", "set/teacher_rmse"]


def test_the_truth_is_the_reference_where_there_is_any():
    pairs, taught = made([4])
    assert judged(pairs, taught, MASK).by_truth
    found = judged(pairs._replace(truth=torch.full_like(pairs.truth, math.nan)), taught, MASK)
    assert not found.by_truth
    assert torch.isnan(found.reference[:, :4]).all() and (found.reference[:, 4:] == 5.0).all()  # 40 px * 0.5 m / 4 px


# ---- runs


def test_a_short_run_writes_weights_that_know_their_camera(tmp_path, walls, cache):
    pictures = []

    def draw(image, reference, answer):
        pictures.append((image, reference, answer))
        return image

    run = tmp_path / "run"
    settings = {**TINY, "data": (walls,), "frames": "0:4", "held_out": "4:5", "watched": "5:", "cache": cache}
    best = train_distill(DistillTraining(out=str(run), steps=3, **settings), None, draw)
    model, card = load_model(best)
    # 160 -> 96 columns: 200 px become 120
    assert model.focal == pytest.approx(120.0) and (model.width, model.height) == (96, 64)
    estimator = MonoDepthEstimator(MonoConfig(weights=str(best), device="cpu"))
    depth = estimator.estimate(wall(8)[0], fx=200.0).depth
    assert depth.shape == (96, 160) and np.isfinite(depth).all()
    said = card.description
    assert said["camera"] == {"focal": 120.0, "width": 96, "height": 64, "baselines": [0.1]}
    assert said["teacher"] == {"model": "sgbm", "sha256": "", "scale": 1.0, "precision": "float32"}
    assert said["data"] == "4 pairs of walls" and said["licence"] == "that of the data it was trained on"
    assert said["counts"]["before"]["used"] == 6
    last = load_checkpoint(run / "last.safetensors")[1].description
    assert last["counts"]["while"] == {"used": 6, "skipped": {}, "examples": {}}
    first, last = rows(run)
    assert first["step"] == 0 and last["step"] == 3
    assert {"abs_rel", "walls/abs_rel", "walls/rmse", "walls/delta_1", "watched_walls/abs_rel"} <= last.keys()
    assert last["abs_rel"] == last["walls/abs_rel"]
    # Two pairs, before and after: the watched one (20 / 13 m) and the held-out one (20 / 12 m).
    assert len(pictures) == 4
    assert sorted(float(p[1][0, 0]) for p in pictures[:2]) == pytest.approx([20 / 13, 20 / 12], rel=1e-3)
    np.testing.assert_array_equal(pictures[0][0], pictures[2][0])
    shown = sorted((run / "pictures").iterdir())
    assert [p.name for p in shown] == ["0000000.png", "0000003.png"] and read_image(shown[0]).shape == (128, 96, 3)


def test_without_truth_the_teacher_is_the_reference_and_the_figures_say_so(tmp_path):
    blind = str(write_walls(tmp_path / "blind", truth=False))
    train_distill(DistillTraining(out=str(tmp_path / "run"), steps=1, data=(blind,), **TINY))
    assert {"abs_rel", "blind/teacher_abs_rel"} <= rows(tmp_path / "run")[-1].keys()
    assert "blind/abs_rel" not in rows(tmp_path / "run")[-1]


def test_a_run_learns_the_distance_of_walls(tmp_path, walls, cache):
    """All walls stand at 1.5 to 2.5 m; a fresh network says 10 m. Nothing but the teacher says otherwise."""
    settings = {**TINY, "data": (walls,), "cache": cache, "learning_rate": 2e-3, "batch": 4}
    train_distill(DistillTraining(out=str(tmp_path), steps=24, schedule="one_cycle", **settings))
    before, after = rows(tmp_path)
    assert before["abs_rel"] > 2 and after["abs_rel"] < 0.35 * before["abs_rel"]


def test_a_stopped_run_goes_on_exactly(tmp_path, walls, cache, monkeypatch):
    """Two steps, a stop, two more: all weights as in four steps in one go, with all augmentation."""
    settings = {**TINY, "data": (walls,), "cache": cache, "losses": PRESETS["auto_mask"]}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_distill(DistillTraining(out=str(whole), steps=4, **settings))
    monkeypatch.setattr(DistillModule, "progress", property(lambda m: m.steps_done / 4))
    train_distill(DistillTraining(out=str(parts), steps=2, **settings))
    assert load_tensors(parts / "state.safetensors")[1]["training"]["steps"] == 2
    train_distill(DistillTraining(out=str(parts), steps=4, **settings))
    one, two = (load_tensors(f / "state.safetensors")[0] for f in (whole, parts))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-6)
    assert [row["step"] for row in rows(parts)] == [0, 2, 4]


def test_the_rate_is_the_papers():
    module = module_of()
    assert module.config.learning_rate == 1e-4 and type(module.configure_optimizers()) is torch.optim.Adam
    assert [module.rate_factor(p) for p in (0, 14.99 / 20, 15 / 20, 1)] == [1, 1, 0.1, 0.1]


def test_fine_tuning_keeps_the_canonical_focal_length(tmp_path, walls, cache):
    net = create_model("depthnet_lite", focal=77.0, width=320, height=96)
    parent = save_checkpoint(tmp_path / "parent.safetensors", net, ModelCard("depthnet_lite", dict(net.options)))
    settings = {**TINY, "data": (walls,), "cache": cache, "weights": str(tmp_path / "parent.safetensors")}
    best = train_distill(DistillTraining(out=str(tmp_path / "run"), steps=1, **settings))
    model, card = load_model(best)
    assert model.focal == 77.0 and (model.width, model.height) == (96, 64)
    assert card.description["parent"]["sha256"] == parent.sha256
    grown = train_distill(DistillTraining(out=str(tmp_path / "grown"), steps=1, grow=True, **settings))
    assert load_model(grown)[0].focal == 77.0


def test_cameras_that_differ_share_a_canonical_focal_length(tmp_path, walls):
    tele = write_walls(tmp_path / "tele", rig=replace(RIG, fx=300.0, fy=300.0))
    best = train_distill(DistillTraining(out=str(tmp_path / "run"), steps=1, data=(walls, str(tele)), **TINY))
    model, card = load_model(best)
    assert model.focal == pytest.approx(0.6 * 96)
    assert card.description["data"] == "5 pairs of walls, 4 pairs of tele"
    given = DistillTraining(steps=1, data=(walls,), focal=70.0, **TINY)
    assert _canonical_focal(given, [RIG]) == 70.0


def test_published_encoder_weights_are_where_the_encoder_begins(tmp_path):
    donor = create_model("depthnet_r18", focal=60.0, width=96, height=64)
    torch.save(donor.encoder.state_dict(), tmp_path / "r18.pth")
    settings = {**TINY, "model": "depthnet_r18", "encoder": str(tmp_path / "r18.pth"), "world": "street"}
    module = DistillModule(DistillTraining(steps=1, **settings), 60.0, None)
    for network in (module.model, module.average):
        torch.testing.assert_close(network.encoder.conv1.weight, donor.encoder.conv1.weight)


@pytest.mark.parametrize("options", [{"on_the_fly": True}, {"teacher": "truth"}, {"teacher": "dis", "workers": 1}])
def test_other_ways_to_be_taught(tmp_path, walls, options):
    settings = {**TINY, "data": (walls,), **options}
    best = train_distill(DistillTraining(out=str(tmp_path), steps=2, precision="bf16-mixed", **settings))
    tensors, card = load_checkpoint(best)
    assert all(t.dtype != torch.bfloat16 for t in tensors.values())  # the weights stay float32
    assert card.description["teacher"]["model"] == options.get("teacher", "sgbm")
    assert (tmp_path / "teaching").exists() == (options == {"teacher": "dis", "workers": 1})


class SmallCutouts:
    """Small pictures are drawn faster."""

    build = staticmethod(partial(CutoutAtlas.build, size=32))


def test_rendered_scenes_and_folders_together(tmp_path, walls, cache, monkeypatch):
    monkeypatch.setattr("fg_depth_ros.training.distill.CutoutAtlas", SmallCutouts)
    settings = {**TINY, "data": (walls,), "cache": cache, "world": "mixed", "world_share": 0.5, "width": 96}
    best = train_distill(DistillTraining(out=str(tmp_path / "both"), steps=2, **settings))
    row = rows(tmp_path / "both")[-1]
    assert {"world/abs_rel", "walls/abs_rel"} <= row.keys()
    assert row["abs_rel"] == pytest.approx((row["world/abs_rel"] + row["walls/abs_rel"]) / 2)
    _, card = load_model(best)
    assert "rendered scenes" in card.description["data"] and card.options["focal"] == pytest.approx(0.6 * 96)
    alone = {**TINY, "world": "street", "teacher": "truth", "shapes": ((64, 64),), "losses": ONLY_REGRESSION}
    best = train_distill(DistillTraining(out=str(tmp_path / "alone"), steps=2, **alone), None, lambda *p: p[0])
    assert {"world_96x64/abs_rel", "world_64x64/abs_rel"} <= rows(tmp_path / "alone")[-1].keys()
    assert read_image(tmp_path / "alone" / "pictures" / "0000002.png").shape == (2 * 64, 96, 3)
    assert load_checkpoint(best)[1].description["licence"] == "Apache-2.0"


def test_a_size_that_cuts_much_off_is_told_with_a_better_one(tmp_path, walls, cache, caplog):
    settings = {**TINY, "data": (walls,), "cache": cache, "height": 32}
    with caplog.at_level("WARNING"):
        train_distill(DistillTraining(out=str(tmp_path), steps=1, **settings))
    # 3072 px in the shape of 160x96 are 64x32, enlarged to 96x48
    assert "33 % of the pictures of 160x96 px are cut off at 96x32; the size 64x32 would show them" in caplog.text


def test_a_loss_that_is_not_finite_ends_the_run_with_the_batch_saved(tmp_path, walls, cache, monkeypatch):
    monkeypatch.setattr(
        "fg_depth_ros.training.distill_module.depth_loss",
        lambda *a: (torch.tensor(math.inf, requires_grad=True), {}),
    )
    with pytest.raises(FloatingPointError, match=r"loss of step 0 is inf; its batch is in .*bad_batch\.safetensors"):
        train_distill(DistillTraining(out=str(tmp_path), steps=2, data=(walls,), cache=cache, **TINY))
    tensors, document = load_tensors(tmp_path / "bad_batch.safetensors")
    assert tensors["target"].shape == (2, 3, 64, 96) and tensors["mask"].dtype == torch.bool
    assert document["step"] == 0


def test_two_processes_train_together(tmp_path, walls, cache):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["fg_depth_ros.cli", "distill", "--out", str(tmp_path), "--steps", "2", "--data", walls]
    command += ["--size", "96x64", "--batch", "2", "--workers", "0", "--teacher", "sgbm", "--max-disparity", "0"]
    command += ["--cache", cache]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    _, card = load_checkpoint(tmp_path / "last.safetensors")
    assert card.description["processes"] == 2 and card.description["pairs"] == 8
    assert card.description["counts"]["while"]["used"] == 8
