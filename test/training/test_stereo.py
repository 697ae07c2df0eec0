"""Training: losses by hand, exact resumption, several processes, and failing well."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess

import numpy as np
import pytest
import torch
from support.waiting import wait_until

pytest.importorskip("pytorch_lightning")


from fg_depth_ros.data.io.formats import write_image
from fg_depth_ros.files import FileError
from fg_depth_ros.networks import CheckpointError, StereoPrediction, create_model, load_checkpoint, load_model
from fg_depth_ros.networks.checkpoint import ModelCard, load_tensors, save_checkpoint, save_tensors
from fg_depth_ros.networks.flownet_stereo import expected_hypothesis
from fg_depth_ros.resources import module_command
from fg_depth_ros.synthesis.stereo import StereoSceneGenerator
from fg_depth_ros.synthesis.textures import TextureAtlas
from fg_depth_ros.training.config import one_cycle
from fg_depth_ros.training.stereo.config import SHIPPED_OPTIONS, StereoTraining
from fg_depth_ros.training.stereo.losses import hypothesis_distribution, stereo_loss
from fg_depth_ros.training.stereo.train import StereoModule, scene_renderer, train_stereo
from fg_depth_ros.training.stream import DataStream

SMALL = {
    "width": 96,
    "height": 64,
    "batch": 2,
    "patterns": 4,
    "workers": 0,
    "validation_scenes": 1,
    "validate_minutes": 60.0,
}


def test_hypothesis_distribution_peaks_at_the_truth():
    truth = torch.tensor([[[[2.0, 3.25]]]])
    p = hypothesis_distribution(truth, 8)
    assert torch.allclose(p.sum(1), torch.ones(1, 1, 2))
    assert p[0, :, 0, 0].argmax() == 2
    # Normal, of deviation 0.5: 0.25 and 0.75 from the mean.
    assert p[0, 3, 0, 1] / p[0, 4, 0, 1] == pytest.approx(math.exp((0.75**2 - 0.25**2) / (2 * 0.5**2)), rel=1e-4)


def test_a_network_that_learned_the_distribution_has_the_true_disparity():
    truth = 20 + torch.arange(0, 1, 1 / 16).view(1, 1, 1, -1)
    error = expected_hypothesis(hypothesis_distribution(truth, 48).log()) - truth
    assert error.abs().max() < 0.03
    assert error.mean().abs() < 0.003


def prediction_of(disparity, log_scale=0.0):
    n, _, h, w = disparity.shape
    coarse = torch.zeros(n, 8, h // 4, w // 4)
    return StereoPrediction(disparity, torch.full_like(disparity, log_scale), coarse, disparity[..., ::2, ::2])


def test_stereo_loss_by_hand():
    truth = torch.full((1, 1, 8, 8), 5.0)
    loss, parts = stereo_loss(prediction_of(truth + 3.0, log_scale=math.log(2.0)), truth, 32)
    # robust L1 of 3 px: 4 ln(1 + 3/4); full once, middle half; flat logits over 8: ln 8; -ln L: ln 2 + 3/2
    robust = 4 * math.log(1.75)
    assert loss.item() == pytest.approx(1.5 * robust + math.log(8) + 0.1 * (math.log(2) + 1.5), rel=1e-4)
    assert parts["epe"].item() == pytest.approx(3.0)
    assert parts["bad2"].item() == pytest.approx(100.0)


def test_pixels_beyond_the_search_range_count_nothing():
    truth = torch.full((1, 1, 8, 16), 5.0)
    near, _ = stereo_loss(prediction_of(truth + 1.0), truth, 32)
    truth[..., 8:] = 40.0  # beyond the search range of 32 px
    answer = truth + 1.0
    answer[..., 8:] = 3.0
    loss, parts = stereo_loss(prediction_of(answer), truth, 32)
    assert loss.item() == pytest.approx(near.item(), rel=1e-5)
    assert parts["epe"].item() == pytest.approx(1.0)


def test_schedule_warms_up_and_falls():
    values = [one_cycle(p / 100) for p in range(101)]
    assert values[0] == pytest.approx(0.05)
    assert max(values) == pytest.approx(1.0)
    assert values.index(max(values)) == 4
    assert values[-1] == pytest.approx(0.01)


def test_a_short_run_writes_weights_that_load(tmp_path):
    settings = {**SMALL, "validate_minutes": 0.0}  # by steps alone, and there are none
    best = train_stereo(StereoTraining(out=str(tmp_path / "run"), steps=3, **settings))
    _, card = load_model(best)
    assert card.description["steps"] == 3
    assert card.description["pairs"] == 6
    assert card.description["config"]["learning_rate"] == 1e-3
    rows = [json.loads(line) for line in (tmp_path / "run" / "validation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 3] and math.isfinite(rows[-1]["synthetic/epe"])


def test_a_compiled_network_runs_every_step_and_its_weights_keep_their_names(tmp_path, monkeypatch):
    calls = []

    def compile(function):
        return lambda *images: calls.append(len(images)) or function(*images)

    monkeypatch.setattr(torch, "compile", compile)
    best = train_stereo(StereoTraining(out=str(tmp_path / "run"), steps=3, compile=True, **SMALL))
    assert calls == [2, 2, 2]
    load_model(best)


def test_a_stopped_run_goes_on_exactly(tmp_path, monkeypatch):
    """Two steps, a stop, two more steps: the same weights as four steps in one go."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_stereo(StereoTraining(out=str(whole), steps=4, **SMALL))
    # The schedule must be that of the whole run: only the end is moved.
    monkeypatch.setattr("fg_depth_ros.training.loop.TrainingModule.progress", property(lambda m: m.steps_done / 4))
    train_stereo(StereoTraining(out=str(parts), steps=2, **SMALL))
    assert load_tensors(parts / "state.safetensors")[1]["training"]["steps"] == 2
    train_stereo(StereoTraining(out=str(parts), steps=4, **SMALL))
    one, two = (load_tensors(f / "state.safetensors")[0] for f in (whole, parts))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name].float(), two[name].float(), atol=1e-6), name


def test_another_training_is_not_resumed_silently(tmp_path):
    """Neither another configuration nor other weights to start from; what only changes its course is free."""
    photos = tmp_path / "photos"
    photos.mkdir()
    write_image(photos / "a.png", np.full((64, 64, 3), 90, np.uint8))
    options = {"features": (16, 16, 16), "aggregate": (16, 16, 16), "max_disparity": 64}
    first, other = tmp_path / "first.safetensors", tmp_path / "other.safetensors"
    for path in (first, other):
        save_checkpoint(path, create_model("flownet_stereo", **options), ModelCard("flownet_stereo", options))
    settings = {**SMALL, "weights": str(first), "photos": (str(photos),), "out": str(tmp_path / "run")}
    train_stereo(StereoTraining(steps=1, **settings))

    def refused(message, **changed):
        with pytest.raises(CheckpointError, match=message) as error:
            train_stereo(StereoTraining(**{"steps": 2, **settings, **changed}))
        assert "holds another training: " in str(error.value) and "or another --out" in str(error.value)

    refused("seed was 0 and is 1; world_share was 0.15 and is 0.5. Give what was given then", seed=1, world_share=0.5)
    refused("photos was .* and is \\[\\]", photos=())
    refused("weights were '.*first.safetensors' .[0-9a-f]{12}. and are '.*other.safetensors'", weights=str(other))
    refused("weights were '.*first.safetensors' .[0-9a-f]{12}. and are none", weights="")
    moved = first.rename(tmp_path / "moved.safetensors")
    again = {**settings, "weights": str(moved), "photos": (str(photos / ".." / "photos"),), "patience": 9}
    train_stereo(StereoTraining(steps=2, **again))
    tensors, document = load_tensors(tmp_path / "run" / "state.safetensors")
    assert document["training"]["steps"] == 2
    write_image(photos / "b.png", np.full((64, 64, 3), 90, np.uint8))
    refused("run holds another training: photos were 1 and are 2. Give what", **again)
    for name in ("config", "content", "parent", "validated", "scaler"):  # as earlier versions wrote it
        del document["training"][name]
    save_tensors(tmp_path / "run" / "state.safetensors", tensors, document)
    train_stereo(StereoTraining(steps=3, **{**again, "seed": 1}))
    assert load_tensors(tmp_path / "run" / "state.safetensors")[1]["training"]["steps"] == 3


def test_a_resumed_run_is_validated_with_the_same_scenes():
    """The best error so far is one of these scenes, and compares with no other one."""
    before = StereoTraining(steps=1, validation_scenes=2).stored()
    assert StereoTraining(steps=2, validation_scenes=2, patience=3).changes(before) == []
    assert StereoTraining(steps=2, validation_scenes=12).changes(before) == ["validation_scenes was 2 and is 12"]


def test_a_run_goes_on_behind_the_pairs_that_other_processes_have_seen(tmp_path, monkeypatch):
    """A step of four processes with two pairs each, then one alone; states of 0.1.0 do not say how many there were."""
    begun, begin_at = [], DataStream.begin_at
    monkeypatch.setattr(DataStream, "begin_at", lambda stream, *where: (begun.append(where), begin_at(stream, *where)))
    state = tmp_path / "state.safetensors"
    train_stereo(StereoTraining(out=str(tmp_path), steps=1, **SMALL))
    tensors, document = load_tensors(state)
    assert document["training"]["pairs"] == 2
    document["training"]["pairs"] = 8
    save_tensors(state, tensors, document)
    train_stereo(StereoTraining(out=str(tmp_path), steps=2, **SMALL))
    tensors, document = load_tensors(state)
    assert document["training"]["pairs"] == 10
    assert load_checkpoint(tmp_path / "last.safetensors")[1].description["pairs"] == 10
    del document["training"]["pairs"]
    save_tensors(state, tensors, document)
    train_stereo(StereoTraining(out=str(tmp_path), steps=3, **SMALL))
    assert [where for where in begun if len(where) > 1] == [(0, 0, 1), (8, 0, 1), (4, 0, 1)]
    assert load_checkpoint(tmp_path / "last.safetensors")[1].description["pairs"] == 6


def test_weights_keep_the_licence_of_those_to_start_from(tmp_path, monkeypatch):
    monkeypatch.setattr("fg_depth_ros.training.stereo.train.fit", lambda module, validation, card, *data: card)
    options = {"features": [16, 16, 16], "aggregate": [16, 16, 16], "refine": 8, "max_disparity": 64}
    licences = []
    for given in ({"licence": "CC BY-NC-SA 4.0"}, {}):
        path = tmp_path / f"{len(given)}.safetensors"
        card = ModelCard("flownet_stereo", options, "", given)
        save_checkpoint(path, create_model("flownet_stereo", **options), card)
        licences.append(train_stereo(StereoTraining(steps=1, weights=str(path), **SMALL))["licence"])
    licences.append(train_stereo(StereoTraining(steps=1, options=options, **SMALL))["licence"])
    assert licences == ["CC BY-NC-SA 4.0", "Apache-2.0", "Apache-2.0"]


def test_a_run_that_was_stopped_in_its_last_step_is_validated_when_it_is_resumed(tmp_path, monkeypatch):
    losses = StereoModule.losses

    def interrupted(self, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return losses(self, batch)

    config = StereoTraining(out=str(tmp_path), steps=1, **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(StereoModule, "losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_stereo(config)
    train_stereo(config)
    logged = (tmp_path / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [0, 1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_the_step_in_work(tmp_path, monkeypatch, number):
    """Nothing is validated, nothing is lost, and the handlers are those of before."""
    before, losses = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)], StereoModule.losses

    def interrupted(self, batch):
        if self.steps_done == 1:
            os.kill(os.getpid(), number)
        return losses(self, batch)

    monkeypatch.setattr(StereoModule, "losses", interrupted)
    config = StereoTraining(out=str(tmp_path), steps=4, **SMALL)
    with pytest.raises(KeyboardInterrupt, match=number.name):
        train_stereo(config)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert load_tensors(tmp_path / "state.safetensors")[1]["training"]["steps"] == 2
    logged = (tmp_path / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [0]
    train_stereo(config)
    assert load_tensors(tmp_path / "state.safetensors")[1]["training"]["steps"] == 4


def test_a_signal_to_all_processes_ends_a_run_well(tmp_path):
    """As Ctrl-C in a terminal does, and systemd: the processes that render get it, too."""
    options = {**SMALL, "workers": 1, "validate-steps": 1, "hours": 1, "out": tmp_path / "run"}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    log = tmp_path / "log.txt"
    with open(log, "w") as file:
        run = subprocess.Popen(
            module_command("fg_depth_ros.cli", "train", "stereo", *words),
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: "step 1:" in log.read_text() or run.poll() is not None, 300)
        os.killpg(run.pid, signal.SIGTERM)
        assert run.wait(300) == 130, log.read_text()
    finally:
        run.kill()
    assert "the same command resumes it" in log.read_text()
    assert load_tensors(tmp_path / "run" / "state.safetensors")[1]["training"]["steps"] >= 1


def test_a_second_signal_ends_a_run_at_once(tmp_path, monkeypatch):
    def interrupted(self, batch):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(StereoModule, "losses", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):  # Lightning turns the first into the second
        train_stereo(StereoTraining(out=str(tmp_path), steps=2, **SMALL))


def test_a_run_cut_into_pieces_is_resumed(tmp_path):
    """A piece that is over stops with its state written, and however short it is, it gets on by a step."""
    steps = []
    for _ in range(3):
        train_stereo(StereoTraining(out=str(tmp_path), steps=2, piece_minutes=1e-6, **SMALL))
        steps.append(load_tensors(tmp_path / "state.safetensors")[1]["training"]["steps"])
    assert steps == [1, 2, 2]


def test_a_run_begins_in_the_middle_of_the_schedule(tmp_path):
    """Where only the weights of earlier steps are left, rate and scenes are those of the step to begin at."""
    first = train_stereo(StereoTraining(out=str(tmp_path / "first"), steps=1, **SMALL))
    seen = []

    def record(self, batch):
        seen.append((self.trainer.optimizers[0].param_groups[0]["lr"], batch.left))
        return self.model.mean.sum() + sum(p.sum() for p in self.model.parameters()) * 0, {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StereoModule, "losses", record)
        train_stereo(StereoTraining(out=str(tmp_path / "whole"), weights=str(first), steps=4, **SMALL))
        train_stereo(StereoTraining(out=str(tmp_path / "rest"), weights=str(first), steps=4, start_step=2, **SMALL))
    assert len(seen) == 6
    for (rate, left), (again_rate, again) in zip(seen[2:4], seen[4:], strict=True):
        assert rate == pytest.approx(again_rate)
        assert torch.equal(left, again)


def test_automatic_precision_is_bfloat16_where_the_cpu_computes_in_it(monkeypatch):
    from fg_depth_ros.training.loop import resolve_precision

    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    for native, name in ((True, "bf16-mixed"), (False, "32")):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda native=native: native)
        assert resolve_precision("auto", on_gpu=False) == name
    assert resolve_precision("16-mixed", on_gpu=False) == "16-mixed"


def test_scenes_of_the_virtual_world_are_mixed_in():
    atlas = TextureAtlas.build([], 6, size=128)
    device = torch.device("cpu")
    both = scene_renderer(atlas, 96, 64, world=0.5, seed=1, device=device)(list(range(8)))
    layered = scene_renderer(atlas, 96, 64, world=0.0, seed=1, device=device)(list(range(8)))
    assert all(len(views) == 2 for views in layered)
    shares = [len(views) for views in both]
    assert 1 in shares
    assert 2 in shares
    for views, alone in zip(both, layered, strict=True):
        if len(views) == 2:  # the layered scenes of the mixture are those of their numbers
            assert torch.equal(views[0].left, alone[0].left)
            assert torch.equal(views[1].right, alone[1].right)


def test_a_run_grows_from_weights_of_other_sizes(tmp_path):
    small = create_model("flownet_stereo", features=(16, 16, 16), aggregate=(16, 16, 16), refine=8)
    parent = save_checkpoint(tmp_path / "small.safetensors", small, ModelCard("flownet_stereo", small.options))
    weights = str(tmp_path / "small.safetensors")
    config = StereoTraining(steps=1, weights=weights, load_partial=True, options={"deep": 16})
    grown = StereoModule(config, config.options)
    assert grown.options == {**SHIPPED_OPTIONS, "deep": 16}
    assert grown.parent["sha256"] == parent.sha256
    torch.testing.assert_close(grown.model.encoder.stem[0][0].weight, small.encoder.stem[0][0].weight)


def test_a_run_learns(tmp_path):
    """A dozen steps on one repeated batch halve its error."""
    torch.manual_seed(0)
    generator = StereoSceneGenerator(TextureAtlas.build([], 6, size=128), 128, 64, seed=3)
    batch = generator.batch([0, 1])
    net = create_model("flownet_stereo", max_disparity=64).train()
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    errors = []
    for _ in range(12):
        loss, parts = stereo_loss(net(batch.left.float() / 255, batch.right.float() / 255), batch.disparity, 64)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(parts["loss"].item())
    assert sum(errors[-3:]) < sum(errors[:3]) / 2


def test_a_loss_that_is_not_finite_ends_the_run_with_the_batch_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fg_depth_ros.training.stereo.train.stereo_loss", lambda *a: (torch.tensor(math.nan, requires_grad=True), {})
    )
    with pytest.raises(FloatingPointError, match=r"loss of step 0 is nan; its batch is in .*bad_batch\.safetensors"):
        train_stereo(StereoTraining(out=str(tmp_path), steps=2, **SMALL))
    tensors, document = load_tensors(tmp_path / "bad_batch.safetensors")
    assert tensors["left"].shape == (2, 3, 64, 96)
    assert document["step"] == 0


def test_unusable_settings_and_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="give --steps or --hours"):
        StereoTraining()
    with pytest.raises(ValueError, match="multiples of 32, got 100x64"):
        StereoTraining(steps=1, width=100, height=64)
    with pytest.raises(ValueError, match="--load-partial needs --weights"):
        StereoTraining(steps=1, load_partial=True)
    with pytest.raises(ValueError, match="options {'deep': 48} are of a fresh network"):
        StereoTraining(steps=1, weights="flownet_stereo", options={"deep": 48})
    with pytest.raises(ValueError, match="--pool and --uses must be at least 1, got 0 and 8"):
        StereoTraining(steps=1, pool=0)
    with pytest.raises(ValueError, match="--world-share is a part of the scenes, 0 to 1, got 1.5"):
        StereoTraining(steps=1, world_share=1.5)
    with pytest.raises(ValueError, match="--start-step is a count"):
        StereoTraining(steps=1, start_step=-1)
    with pytest.raises(ValueError, match="--validate-minutes must not be negative, got -1; 0: by steps alone"):
        StereoTraining(steps=1, validate_minutes=-1)
    with pytest.raises(ValueError, match="--validation-scenes must be at least 1, got 0"):
        StereoTraining(steps=1, validation_scenes=0)
    with pytest.raises(FileError, match="photo folder .* does not exist"):
        train_stereo(StereoTraining(out=str(tmp_path / "a"), steps=1, photos=("/nowhere",)))
    broken = tmp_path / "b"
    broken.mkdir()
    (broken / "state.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=r"state\.safetensors is not a readable"):
        train_stereo(StereoTraining(out=str(broken), steps=1, **SMALL))


def test_real_pairs_are_evaluated_at_every_validation(tmp_path):
    from support.pair_folders import write_pairs

    from fg_depth_ros.data.datasets.stereo import open_stereo_sets
    from fg_depth_ros.evaluation.stereo import StereoTask
    from fg_depth_ros.evaluation.task import evaluate
    from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator

    sets = open_stereo_sets([write_pairs(tmp_path / "street")])
    best = train_stereo(StereoTraining(out=str(tmp_path / "run"), steps=1, **SMALL), StereoTask().validation(sets))
    _, row = [json.loads(line) for line in (tmp_path / "run" / "validation.jsonl").read_text().splitlines()]
    # The estimator with the weights of that step says the same of these pairs. Hypotheses of fresh ones nearly tie.
    last = str(best.with_name("last.safetensors"))
    estimator = StereoDepthEstimator(StereoConfig(weights=last, engine="torch", precision="float32"))
    judged = evaluate(StereoTask(), sets, {"last": estimator}, show_progress=False).rows[0]["metrics"]
    assert row["street/epe"] == pytest.approx(judged["epe"], rel=1e-3)
    assert row["street/d1"] == pytest.approx(judged["d1"], abs=0.5)


def test_a_folder_without_truth_cannot_validate(tmp_path):
    from support.pair_folders import write_pairs

    from fg_depth_ros.data.datasets.stereo import open_stereo_sets
    from fg_depth_ros.evaluation.stereo import StereoTask

    with pytest.raises(FileError, match="street has no true disparity"):
        StereoTask().validation(open_stereo_sets([write_pairs(tmp_path / "street", truth=False)]))


def test_mixed_precision_trains_on_a_cpu(tmp_path):
    best = train_stereo(StereoTraining(out=str(tmp_path), steps=2, precision="bf16-mixed", **SMALL))
    assert all(t.dtype != torch.bfloat16 for t in load_checkpoint(best)[0].values())  # the weights stay float32
    assert (tmp_path / "tensorboard").is_dir()
