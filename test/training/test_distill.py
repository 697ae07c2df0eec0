"""Distillation: what is handed to the losses by hand, learning, exact resumption, failing well."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning")
from support import efficientnet_reference
from support.distill import MASK, ONLY_REGRESSION, RIG, TINY, swap, wall, write_walls

from fg_depth_ros.data.io.formats import read_image
from fg_depth_ros.files import FileError
from fg_depth_ros.inference import ModelError, MonoConfig, MonoDepthEstimator
from fg_depth_ros.networks import CheckpointError, create_model, import_checkpoint, load_checkpoint, load_model
from fg_depth_ros.networks.checkpoint import ModelCard, load_tensors, save_checkpoint, save_tensors
from fg_depth_ros.synthesis.cutouts import CutoutAtlas
from fg_depth_ros.training.depth.config import PRESETS, DistillTraining, MaskConfig
from fg_depth_ros.training.depth.distill import DistillModule, _canonical_focal, train_distill


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
    with pytest.raises(ValueError, match="give --steps or --hours"):
        DistillTraining(world="street")
    with pytest.raises(ValueError, match="nothing to train on: give --data, folders or bags of pairs, or a --world"):
        DistillTraining(steps=1)
    some = {"steps": 1, "data": ("a",)}
    with pytest.raises(
        ValueError, match="unknown model 'flownet_lite'; known: depthnet_efficient, depthnet_lite, depthnet_r18"
    ):
        DistillTraining(model="flownet_lite", **some)
    with pytest.raises(ValueError, match="unknown schedule 'S'; known: one_cycle, step"):
        DistillTraining(schedule="S", **some)
    with pytest.raises(ValueError, match="unknown world 'moon'; known: indoor, mixed, street"):
        DistillTraining(steps=1, world="moon")
    with pytest.raises(ValueError, match="--batch must be at least 1, got 0"):
        DistillTraining(batch=0, **some)
    with pytest.raises(ValueError, match="--world-share must lie in 0 .. 1, got 0"):
        DistillTraining(world_share=0, **some)
    with pytest.raises(ValueError, match="--flips is a probability, got 2"):
        DistillTraining(flips=2, **some)
    with pytest.raises(ValueError, match="several shapes are for rendered scenes alone; leave --shape or --data out"):
        DistillTraining(shapes=((64, 64),), **some)
    with pytest.raises(ValueError, match="--focal must not be negative, got -1"):
        DistillTraining(focal=-1, **some)
    with pytest.raises(ValueError, match=r"have an encoder already; leave --encoder r18\.pth out"):
        DistillTraining(encoder="r18.pth", weights="w", **some)


def test_without_further_settings_the_shipped_default_network_is_fine_tuned():
    config = DistillTraining(hours=1, data=("a",))
    assert config.weights == config.model == MonoConfig().model == "depthnet_efficient"
    assert config.encoder_rate == 0.1
    assert DistillTraining(hours=1, data=("a",), weights="depthnet_lite").model == "depthnet_lite"
    assert DistillTraining(hours=1, data=("a",), model="depthnet_r18", weights="").model == "depthnet_r18"
    with pytest.raises(ValueError, match="a network with fresh weights needs a name: give --model"):
        DistillTraining(hours=1, data=("a",), weights="")
    with pytest.raises(CheckpointError, match='"" as weights begins with fresh ones'):
        DistillModule(DistillTraining(hours=1, data=("a",), model="depthnet_lite"), 60.0, None)


def test_what_cannot_be_trained_on_is_refused_before_anything_is_written(tmp_path, walls):
    def attempt(error, message, **settings):
        out = tmp_path / "out"
        with pytest.raises(error, match=message):
            train_distill(DistillTraining(out=str(out), steps=1, **{**TINY, "data": (walls,), **settings}))
        assert not out.exists()

    attempt(FileError, "no such folder", data=("/nowhere",))
    attempt(FileError, "photo folder .* does not exist", data=(), world="street", photos=("/nowhere",))
    attempt(ModelError, "unknown teacher 'depthnet_r18'", teacher="depthnet_r18")
    attempt(ValueError, "multiples of 32, got 100x64", width=100)
    attempt(ValueError, "multiples of 32, got 70x64", data=(), world="street", shapes=((70, 64),))
    attempt(CheckpointError, r"gone\.safetensors does not exist", weights="gone.safetensors")
    attempt(CheckpointError, r"r18\.pth can only start depthnet_r18 or depthnet_r50", encoder="r18.pth")
    attempt(FileError, "none is left to train on", frames="100:")
    blind = write_walls(tmp_path / "blind", truth=False)
    attempt(FileError, "blind: no true disparity .*: name a model", data=(str(blind),), teacher="truth")
    net = create_model("depthnet_r18", focal=50.0, width=64, height=32)
    save_checkpoint(tmp_path / "r18.safetensors", net, ModelCard("depthnet_r18", net.options))
    attempt(CheckpointError, "holds a network 'depthnet_r18'", weights=str(tmp_path / "r18.safetensors"))
    attempt(ValueError, "own canonical focal length; leave 300", focal=300, weights=str(tmp_path / "r18.safetensors"))


def test_a_folder_with_swapped_cameras_or_without_answers_is_refused(tmp_path):
    wrong = swap(write_walls(tmp_path / "wrong"))
    settings = {**TINY, "cache": str(tmp_path / "cache"), "steps": 1, "out": str(tmp_path / "out")}
    with pytest.raises(FileError, match="wrong: none of its 4 pairs .* 4 x swapped: .*swap the left and the right"):
        train_distill(DistillTraining(data=(str(wrong),), **settings))
    far = MaskConfig(max_disparity=0, max_depth=1.0)
    with pytest.raises(FileError, match="walls: none of its 4 pairs .* 4 x no_answer: the teacher predicts no valid"):
        train_distill(DistillTraining(data=(str(write_walls(tmp_path / "walls")),), **{**settings, "mask": far}))
    assert not (tmp_path / "out" / "best.safetensors").exists()


# ---- runs


def test_a_short_run_writes_weights_that_know_their_camera(tmp_path, walls, cache):
    run = tmp_path / "run"
    settings = {**TINY, "data": (walls,), "frames": "0:4", "held_out": "4:5", "test_frames": "5:", "cache": cache}
    best = train_distill(DistillTraining(out=str(run), steps=3, **settings))
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
    assert {"abs_rel", "walls/abs_rel", "walls/rmse", "walls/delta_1", "test:walls/abs_rel"} <= last.keys()
    assert last["abs_rel"] == last["walls/abs_rel"]
    # Two pictures, one below the other: the test one and the held-out one.
    shown = sorted((run / "pictures").iterdir())
    assert [p.name for p in shown] == ["0000000.png", "0000003.png"] and read_image(shown[0]).shape[0] > 2 * 64


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
    # and perhaps the batch before which the run found its end
    assert 8 <= load_checkpoint(parts / "last.safetensors")[1].description["counts"]["while"]["used"] <= 10


def test_a_run_is_resumed_with_the_data_it_began_with_alone(tmp_path, cache):
    """Also where the folder has its old name: another camera would change the metres of the weights in training."""
    data, out = tmp_path / "data", tmp_path / "run"
    write_walls(data / "a")
    settings = {**TINY, "data": (str(data),), "out": str(out), "cache": cache}
    train_distill(DistillTraining(steps=1, **settings))
    write_walls(data / "a", (8, 9, 10, 11, 12, 13))
    write_walls(data / "b", rig=replace(RIG, fx=300.0, fy=300.0))
    message = (
        "holds another training: training pairs of a were 4 and are 5; training pairs of b were none and are 4; "
        "validation pairs of a were 1 and are 1 others; validation pairs of b were none and are 1. Give what was given"
    )
    with pytest.raises(CheckpointError, match=message):
        train_distill(DistillTraining(steps=2, **settings))
    shutil.rmtree(data)
    write_walls(data / "a", rig=replace(RIG, baseline=0.2))
    with pytest.raises(CheckpointError, match="training pairs of a were 4 and are 4 others"):
        train_distill(DistillTraining(steps=2, **settings))
    state = out / "state.safetensors"
    tensors, document = load_tensors(state)
    del document["training"]["content"]  # as earlier versions wrote it
    save_tensors(state, tensors, document)
    train_distill(DistillTraining(steps=2, **settings))
    assert load_tensors(state)[1]["training"]["content"]["training pairs of a"]["count"] == 4


def test_fine_tuning_keeps_the_canonical_focal_length(tmp_path, walls, cache):
    net = create_model("depthnet_lite", focal=77.0, width=320, height=96)
    parent = save_checkpoint(tmp_path / "parent.safetensors", net, ModelCard("depthnet_lite", dict(net.options)))
    settings = {**TINY, "data": (walls,), "cache": cache, "weights": str(tmp_path / "parent.safetensors")}
    best = train_distill(DistillTraining(out=str(tmp_path / "run"), steps=1, **settings))
    model, card = load_model(best)
    assert model.focal == 77.0 and (model.width, model.height) == (96, 64)
    assert card.description["parent"]["sha256"] == parent.sha256
    grown = train_distill(DistillTraining(out=str(tmp_path / "grown"), steps=1, load_partial=True, **settings))
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


def test_an_imported_encoder_starts_a_run_and_is_named_in_its_weights(tmp_path, walls, cache):
    torch.save(efficientnet_reference.public_tensors(), tmp_path / "lite0.pth")
    network, card = import_checkpoint(tmp_path / "lite0.pth")
    encoder = save_checkpoint(tmp_path / "encoder.safetensors", network, card)
    settings = {**TINY, "data": (walls,), "cache": cache, "model": "depthnet_efficient", "load_partial": True}
    settings["weights"] = str(tmp_path / "encoder.safetensors")
    config = DistillTraining(out=str(tmp_path / "run"), steps=1, **settings)
    assert _canonical_focal(config, [RIG]) == pytest.approx(120.0)  # the camera's: an encoder has none
    assert _canonical_focal(replace(config, focal=70.0), [RIG]) == 70.0
    module = DistillModule(config, 120.0, None)
    for started in (module.model, module.average):
        torch.testing.assert_close(started.encoder.stem.conv.weight, network["encoder"].stem.conv.weight)
    model, card = load_model(train_distill(config))
    assert card.name == "depthnet_efficient" and model.focal == pytest.approx(120.0)
    parent = card.description["parent"]
    assert (
        parent["sha256"] == encoder.sha256 and parent["licence"] == "Apache-2.0" and "Google" in parent["attribution"]
    )


@pytest.mark.parametrize("options", [{"on_the_fly": True}, {"teacher": "truth"}, {"teacher": "dis", "workers": 1}])
def test_other_teachers(tmp_path, walls, options):
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
    monkeypatch.setattr("fg_depth_ros.training.depth.distill.CutoutAtlas", SmallCutouts)
    settings = {**TINY, "data": (walls,), "cache": cache, "world": "mixed", "world_share": 0.5, "width": 96}
    best = train_distill(DistillTraining(out=str(tmp_path / "both"), steps=2, **settings))
    row = rows(tmp_path / "both")[-1]
    assert {"world/abs_rel", "walls/abs_rel"} <= row.keys()
    assert row["abs_rel"] == pytest.approx((row["world/abs_rel"] + row["walls/abs_rel"]) / 2)
    _, card = load_model(best)
    assert "rendered scenes" in card.description["data"] and card.options["focal"] == pytest.approx(0.6 * 96)
    alone = {**TINY, "world": "street", "teacher": "truth", "shapes": ((64, 64),), "losses": ONLY_REGRESSION}
    best = train_distill(DistillTraining(out=str(tmp_path / "alone"), steps=2, **alone))
    assert {"world_96x64/abs_rel", "world_64x64/abs_rel"} <= rows(tmp_path / "alone")[-1].keys()
    assert (tmp_path / "alone" / "pictures" / "0000002.png").is_file()
    assert load_checkpoint(best)[1].description["licence"] == "Apache-2.0"


def test_a_folder_called_as_the_rendered_scenes_has_figures_of_its_own(tmp_path, cache):
    data = str(write_walls(tmp_path / "world"))
    settings = {**TINY, "data": (data,), "cache": cache, "world": "street"}
    train_distill(DistillTraining(out=str(tmp_path / "run"), steps=1, **settings))
    row = rows(tmp_path / "run")[-1]
    assert row["abs_rel"] == pytest.approx((row["world/abs_rel"] + row["rendered_world/abs_rel"]) / 2)
    settings |= {"select_by_world": False}
    train_distill(DistillTraining(out=str(tmp_path / "other"), steps=1, **settings))
    row = rows(tmp_path / "other")[-1]
    assert row["abs_rel"] == row["world/abs_rel"] and "rendered_world/abs_rel" in row


def test_a_set_that_is_too_far_to_be_evaluated_selects_nothing_and_is_named(tmp_path, walls, cache, caplog):
    far = str(write_walls(tmp_path / "far", rig=replace(RIG, baseline=10.0)))  # at 160 to 250 m
    settings = {**TINY, "cache": cache, "steps": 1, "mask": replace(MASK, max_depth=0.0)}
    best = train_distill(DistillTraining(out=str(tmp_path / "run"), data=(walls, far), **settings))
    assert best.is_file()
    row = rows(tmp_path / "run")[-1]
    assert row["abs_rel"] == row["walls/abs_rel"] and not any(name.startswith("far/") for name in row)
    assert "far: none of its validation images has a reference depth between 0.001 and 80 m" in caplog.text
    with pytest.raises(FileError, match="none of the validation pairs has a depth to compare with"):
        train_distill(DistillTraining(out=str(tmp_path / "alone"), data=(far,), **settings))


def test_exact_depth_is_learned_also_where_the_right_camera_does_not_look():
    alone = {"steps": 1, "world": "street", "teacher": "truth"}
    assert not DistillTraining(**alone, losses=ONLY_REGRESSION).mask.inside
    assert DistillTraining(**alone).mask.inside  # its photometric loss warps the right picture
    assert DistillTraining(steps=1, data=("d",), losses=ONLY_REGRESSION).mask.inside


def test_a_size_that_cuts_much_off_is_named_with_a_better_one(tmp_path, walls, cache, caplog):
    settings = {**TINY, "data": (walls,), "cache": cache, "height": 32}
    with caplog.at_level("WARNING"):
        train_distill(DistillTraining(out=str(tmp_path), steps=1, **settings))
    # 3072 px in the shape of 160x96 are 64x32, enlarged to 96x48
    assert "33 % of the pictures of 160x96 px are cut off at 96x32; the size 64x32 would show them" in caplog.text


def test_a_loss_that_is_not_finite_ends_the_run_with_the_batch_saved(tmp_path, walls, cache, monkeypatch):
    monkeypatch.setattr(
        "fg_depth_ros.training.depth.module.depth_loss",
        lambda *a: (torch.tensor(math.inf, requires_grad=True), {}),
    )
    with pytest.raises(FloatingPointError, match=r"loss of step 0 is inf; its batch is in .*bad_batch\.safetensors"):
        train_distill(DistillTraining(out=str(tmp_path), steps=2, data=(walls,), cache=cache, **TINY))
    tensors, document = load_tensors(tmp_path / "bad_batch.safetensors")
    assert tensors["target"].shape == (2, 3, 64, 96) and tensors["mask"].dtype == torch.bool
    assert document["step"] == 0
