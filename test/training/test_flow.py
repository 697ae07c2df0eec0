"""Training of flow networks: losses by hand, learning, exact resumption, and failing well."""

from __future__ import annotations

import math
import shutil
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fg_depth_ros import cli
from fg_depth_ros.data.datasets.flow import open_flow_sets
from fg_depth_ros.data.io.formats import read_image, write_flo, write_image, write_kitti_flow
from fg_depth_ros.evaluation.flow import FlowTask
from fg_depth_ros.files import FileError
from fg_depth_ros.networks import CheckpointError, create_model, load_checkpoint, load_model
from fg_depth_ros.networks.checkpoint import ModelCard, load_tensors, save_checkpoint
from fg_depth_ros.synthesis.chairs import FlowBatch
from fg_depth_ros.training.flow.augmentation import Augmenter
from fg_depth_ros.training.flow.config import SCHEDULES, SHIPPED_OPTIONS, FlowTraining
from fg_depth_ros.training.flow.dataset import FolderDataset, folder_data, scene_batches
from fg_depth_ros.training.flow.train import FlowModule, train_flow
from fg_depth_ros.training.stream import DataStream

TINY = {
    "model": "flownet_s",
    "options": {"width": 0.0625},
    "width": 64,
    "height": 64,
    "margin": 16,
    "batch": 2,
    "patterns": 4,
    "outlines": 4,
    "workers": 0,
    "validation_scenes": 1,
    "validate_minutes": 60.0,
}


def write_chairs_like(folder, count, width=80, height=64):
    """Pairs in the layout of Flying Chairs; pair i moves by (i, -i) px and is as grey as its number."""
    folder.mkdir(parents=True)
    for i in range(1, count + 1):
        for frame in ("img1", "img2"):
            write_image(folder / f"{i:05d}_{frame}.ppm", np.full((height, width, 3), 10 * i, np.uint8))
        write_flo(folder / f"{i:05d}_flow.flo", np.tile(np.float32([i, -i]), (height, width, 1)))
    return folder


def figures(run, name):
    """What a run wrote to TensorBoard under a name: step -> value."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def test_unusable_settings_are_named():
    with pytest.raises(ValueError, match="give --steps or --hours"):
        FlowTraining()
    with pytest.raises(ValueError, match="unknown model 'flownet_stereo'; known: .*flownet_lite"):
        FlowTraining(steps=1, model="flownet_stereo")
    with pytest.raises(ValueError, match="unknown loss 'l1'; known: finest, flownet2, lite"):
        FlowTraining(steps=1, loss="l1")
    with pytest.raises(ValueError, match="unknown schedule 'X'; known: C, S, S_long, fixed, one_cycle"):
        FlowTraining(steps=1, schedule="X")
    with pytest.raises(ValueError, match="unknown augment 'all'; known: mild, none, paper, wide"):
        FlowTraining(steps=1, augment="all")
    with pytest.raises(ValueError, match="erase is a probability, got 2"):
        FlowTraining(steps=1, erase=2)
    with pytest.raises(ValueError, match="--pool and --uses must be at least 1, got 48 and 0"):
        FlowTraining(steps=1, uses=0)
    with pytest.raises(ValueError, match="world-share is a part of the scenes, 0 to 1, got 2"):
        FlowTraining(steps=1, world_share=2)
    with pytest.raises(ValueError, match="--batch must be at least 1, got 0"):
        FlowTraining(steps=1, batch=0)
    with pytest.raises(ValueError, match="not both"):
        FlowTraining(steps=1, data=("a",), photos=("b",))
    with pytest.raises(ValueError, match="these weights have their own"):
        FlowTraining(steps=1, weights="w.safetensors", options={"width": 0.5})
    with pytest.raises(ValueError, match="multiples of 64, got 96x64"):
        FlowModule(FlowTraining(steps=1, **{**TINY, "width": 96}))
    with pytest.raises(ValueError, match="flownet_s has no option 'depth'; it has "):
        FlowModule(FlowTraining(steps=1, **{**TINY, "options": {"depth": 3}}))


def test_unusable_folders_and_files_are_named(tmp_path):
    with pytest.raises(FileError, match="photo folder .* does not exist"):
        train_flow(FlowTraining(out=str(tmp_path / "a"), steps=1, photos=("/nowhere",), **TINY))
    with pytest.raises(FileError, match="no such folder"):
        train_flow(FlowTraining(out=str(tmp_path / "a"), steps=1, data=("/nowhere",), **TINY))
    single = write_chairs_like(tmp_path / "single", 1)
    with pytest.raises(FileError, match="one pair with true flow; a training needs another"):
        train_flow(FlowTraining(out=str(tmp_path / "a"), steps=1, data=(str(single),), **TINY))
    assert not (tmp_path / "a").exists()
    cut = write_chairs_like(tmp_path / "cut", 2)
    content = (cut / "00001_flow.flo").read_bytes()
    (cut / "00001_flow.flo").write_bytes(content[:-100])
    with pytest.raises(FileError, match=r"00001_flow\.flo"):
        train_flow(FlowTraining(out=str(tmp_path / "a"), steps=1, data=(str(cut),), **TINY))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "state.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=r"state\.safetensors is not a readable"):
        train_flow(FlowTraining(out=str(tmp_path / "b"), steps=1, **TINY))


def test_weights_of_another_network_are_refused(tmp_path):
    net = create_model("flownet_c", width=0.0625)
    save_checkpoint(tmp_path / "c.safetensors", net, ModelCard("flownet_c", net.options))
    config = FlowTraining(steps=1, weights=str(tmp_path / "c.safetensors"), **{**TINY, "options": {}})
    with pytest.raises(CheckpointError, match=r"c\.safetensors holds a network 'flownet_c' and 'flownet_s' is to be"):
        FlowModule(config)


def test_schedules_are_the_published_ones():
    def rates(name, total):
        peak, factor = SCHEDULES[name]
        return lambda step: peak * factor(step / total)

    s = rates("S", 600_000)
    assert [s(k) for k in (0, 299_999, 300_000, 399_999, 400_000, 500_000)] == pytest.approx(
        [1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5, 1.25e-5]
    )
    c = rates("C", 600_000)
    assert [c(k) for k in (0, 5_000, 10_000, 300_000)] == pytest.approx([1e-6, 5.05e-5, 1e-4, 5e-5])
    long = rates("S_long", 1_200_000)
    assert [long(k) for k in (399_999, 400_000, 600_000, 800_000, 1_000_000)] == pytest.approx(
        [1e-4, 5e-5, 2.5e-5, 1.25e-5, 6.25e-6]
    )
    assert rates("fixed", 10)(9) == 1e-5


def test_what_is_not_said_follows_the_model():
    chosen = {m: FlowTraining(steps=1, model=m) for m in ("flownet_s", "flownet_c", "flownet2_css", "flownet_lite")}
    assert [(c.loss, c.schedule, c.learning_rate, c.clip) for c in chosen.values()] == [
        ("finest", "S", 1e-4, 0.0),
        ("finest", "C", 1e-4, 0.0),
        ("finest", "S", 1e-4, 0.0),
        ("lite", "one_cycle", 1e-3, 1.0),
    ]
    tuned = FlowTraining(steps=1, model="flownet_s", weights="w.safetensors")
    assert (tuned.schedule, tuned.learning_rate) == ("fixed", 1e-5)
    grown = FlowTraining(steps=1, weights="w.safetensors", load_partial=True, learning_rate=3e-4, clip=0.0)
    assert (grown.schedule, grown.learning_rate, grown.clip) == ("one_cycle", 3e-4, 0.0)


def test_a_fresh_compact_network_has_the_options_of_the_shipped_one():
    assert FlowTraining(steps=1).options == SHIPPED_OPTIONS
    assert FlowTraining(steps=1, options={"fine": False}).options == {"fine": False}
    assert FlowTraining(steps=1, model="flownet_s").options == {}
    assert FlowTraining(steps=1, weights="w.safetensors").options == {}


@pytest.mark.parametrize("part", ["", "conv", "conv1.weight"])
def test_parts_to_freeze_that_are_not_there_are_named(part):
    with pytest.raises(ValueError, match=f"freeze: '{part}' is no part of FlowNetS; its parts: .*conv1, conv2, "):
        FlowModule(FlowTraining(steps=1, freeze=(part,), **TINY))


def test_something_is_left_to_train():
    parts = tuple(name for name, _ in create_model("flownet_lite").named_children())
    with pytest.raises(ValueError, match="freeze: nothing of FlowNetLite is left to train besides encoder, "):
        FlowModule(FlowTraining(steps=1, freeze=parts))


def test_frozen_parts_stay_as_they_are(tmp_path):
    """Weights, and the means and deviations of batch norms; in a run that is stopped and resumed, too."""
    start = create_model("flownet_lite", fine=True)
    save_checkpoint(tmp_path / "start.safetensors", start, ModelCard("flownet_lite", start.options))
    settings = {**TINY, "model": "flownet_lite", "options": {}, "freeze": ("encoder.quarter", "search"), "uses": 1}
    run = {**settings, "weights": str(tmp_path / "start.safetensors"), "learning_rate": 0.01}
    train_flow(FlowTraining(out=str(tmp_path / "run"), steps=1, **run))
    train_flow(FlowTraining(out=str(tmp_path / "run"), steps=2, **run))
    before, after = start.state_dict(), load_checkpoint(tmp_path / "run" / "last.safetensors")[0]
    frozen = [name for name in before if name.startswith(settings["freeze"])]
    assert any(name.endswith("running_mean") for name in frozen)
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    learned = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {"encoder", "at_quarter", "at_half"} <= learned


def test_biases_do_not_decay():
    module = FlowModule(FlowTraining(steps=1, **{**TINY, "options": {"width": 0.0625, "batch_norm": True}}))
    weights, biases = module.configure_optimizers().param_groups
    names = {id(p): name for name, p in module.model.named_parameters()}
    assert all(names[id(p)].endswith("bias") for p in biases["params"])
    assert not any(names[id(p)].endswith("bias") for p in weights["params"])
    assert len(weights["params"]) + len(biases["params"]) == len(names)
    assert (weights["weight_decay"], biases["weight_decay"]) == (4e-4, 0.0)
    assert type(module.configure_optimizers()) is torch.optim.Adam


def test_processes_share_what_one_would_see():
    """Rank r of R with count n: (b R + r) n numbers after the first, so a step of all is a step of one with R n."""

    def batches(count, rank=0, ranks=1):
        stream = DataStream(list, count)
        stream.begin_at(12, rank, ranks)
        return iter(stream)

    feeds = [batches(2, rank, ranks=2) for rank in range(2)]
    together = [number for _ in range(3) for feed in feeds for number in next(feed)]
    alone = batches(4)
    assert together == [number for _ in range(3) for number in next(alone)] == list(range(12, 24))


def test_folder_pairs_come_once_a_pass_and_are_cut_with_their_flow(tmp_path):
    folder = write_chairs_like(tmp_path / "chairs", 3)
    # A third of pair 2 is unknown, and its flow says the column.
    flow = np.full((64, 80, 2), np.nan, np.float32)
    flow[:, :60, 0], flow[:, :60, 1] = np.arange(60), 7.0
    write_flo(folder / "00002_flow.flo", flow)
    columns = np.tile(np.arange(80, dtype=np.uint8)[None, :, None], (64, 1, 3))
    write_image(folder / "00002_img1.ppm", columns)
    pairs = FolderDataset(open_flow_sets([folder])["chairs"], 48, 70, seed=1)
    for start in (0, 3, 6):
        batch = pairs.batch(range(start, start + 3))
        assert batch.first.shape == (3, 3, 70, 48) and batch.flow.shape == (3, 2, 70, 48)
        assert sorted(batch.flow[:, 1, 10, 5].tolist()) == [-3.0, -1.0, 7.0]  # each once
        assert not batch.valid[:, :, 64:].any()  # the picture has 64 rows
        two = batch.flow[:, 1, 10, 5].tolist().index(7.0)
        shown = batch.first[two, 0, 3].float()
        torch.testing.assert_close(batch.flow[two, 0, 3], torch.where(shown < 60, shown, torch.zeros(())))
        torch.testing.assert_close(batch.valid[two, 0, 3], shown < 60)
    first, again = pairs.batch([4]), pairs.batch([4, 5])
    torch.testing.assert_close(first.first[0], again.first[0])


def test_every_validation_leaves_a_picture_of_the_same_sample(tmp_path, monkeypatch):
    seen, draw = [], FlowTask.draw

    def drawn(self, first, truth, prediction):
        seen.append((first, truth, prediction))
        return draw(self, first, truth, prediction)

    monkeypatch.setattr(FlowTask, "draw", drawn)
    train_flow(FlowTraining(out=str(tmp_path), steps=3, **{**TINY, "validation_scenes": 2}))
    (first, truth, before), (again, truth_again, after) = seen
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(truth, truth_again)
    assert first.dtype == np.uint8 and first.shape == (64, 64, 3) and truth.shape == before.shape == (64, 64, 2)
    assert np.abs(after - before).max() > 1e-4
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [p.name for p in pictures] == ["0000000.png", "0000003.png"]
    assert read_image(pictures[1]).shape[1] > 4 * 300
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [image.step for image in events.Images("val/sample")] == [0, 3]


def test_a_stopped_run_goes_on_exactly(tmp_path, monkeypatch):
    """Two steps, a stop, two more: every loss and all weights as in four steps in one go, with augmentation."""
    monkeypatch.setattr("fg_depth_ros.training.loop._LOG_EVERY", 1)
    settings = {**TINY, "erase": 0.5, "learning_rate": 1e-3}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_flow(FlowTraining(out=str(whole), steps=4, **settings))
    # The schedule must be that of the whole run: only the end is moved.
    monkeypatch.setattr("fg_depth_ros.training.flow.train.FlowModule.progress", property(lambda m: m.steps_done / 4))
    train_flow(FlowTraining(out=str(parts), steps=2, **settings))
    assert load_tensors(parts / "state.safetensors")[1]["training"]["steps"] == 2
    train_flow(FlowTraining(out=str(parts), steps=4, **settings))
    assert sorted(figures(whole, "train/loss")) == [1, 2, 3, 4]
    assert figures(parts, "train/loss") == figures(whole, "train/loss")
    one, two = (load_tensors(f / "state.safetensors")[0] for f in (whole, parts))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-7)


def test_a_run_on_a_folder_with_other_pairs_than_at_its_beginning_is_not_resumed(tmp_path):
    """Which pairs are held out depends on their number."""
    folder = write_chairs_like(tmp_path / "chairs", 3, 136, 136)
    settings = {**TINY, "out": str(tmp_path / "out"), "data": (str(folder),), "validation_scenes": 1}
    train_flow(FlowTraining(steps=1, **settings))
    shutil.rmtree(folder)
    write_chairs_like(folder, 4, 136, 136)
    with pytest.raises(CheckpointError, match="another training: .*training pairs were 2 and are 3"):
        train_flow(FlowTraining(steps=2, **settings))


def test_a_killed_run_goes_on_exactly(tmp_path, monkeypatch):
    """What a validation in the middle of a run wrote is the state between two steps."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_flow(FlowTraining(out=str(whole), steps=3, **TINY))

    class Killed(Exception):
        pass

    def losses(module, batch):
        if module.steps_done == 2:
            raise Killed
        return original(module, batch)

    original = FlowModule.losses
    monkeypatch.setattr(FlowModule, "losses", losses)
    with pytest.raises(Killed):
        train_flow(FlowTraining(out=str(parts), steps=3, validate_steps=1, **TINY))
    monkeypatch.undo()
    assert load_tensors(parts / "state.safetensors")[1]["training"]["steps"] == 2
    train_flow(FlowTraining(out=str(parts), steps=3, **TINY))
    one, two = (load_tensors(f / "state.safetensors")[0] for f in (whole, parts))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-7)


def test_a_loss_that_is_not_finite_ends_the_run_with_the_batch_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fg_depth_ros.training.flow.train.flow_loss", lambda *a, **k: (torch.tensor(math.inf, requires_grad=True), {})
    )
    with pytest.raises(FloatingPointError, match=r"loss of step 0 is inf; its batch is in .*bad_batch\.safetensors"):
        train_flow(FlowTraining(out=str(tmp_path), steps=2, **TINY))
    tensors, document = load_tensors(tmp_path / "bad_batch.safetensors")
    assert tensors["first"].shape == (2, 3, 64, 64) and tensors["flow"].shape == (2, 2, 64, 64)
    assert document["step"] == 0


def test_fine_tuning_on_sparse_pairs(tmp_path):
    """Pairs in KITTI's layout, from weights, at a low fixed rate."""
    folder = tmp_path / "street"
    for name in ("image_2", "flow_occ"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(3):
        for moment in ("10", "11"):
            write_image(folder / "image_2" / f"{i:06d}_{moment}.png", rng.integers(0, 255, (70, 90, 3), np.uint8))
        flow = np.full((70, 90, 2), np.nan, np.float32)
        flow[::3, ::4] = 4.0
        write_kitti_flow(folder / "flow_occ" / f"{i:06d}_10.png", flow)
    net = create_model("flownet_s", width=0.0625)
    parent = save_checkpoint(tmp_path / "s.safetensors", net, ModelCard("flownet_s", net.options))
    settings = {**TINY, "options": {}, "weights": str(tmp_path / "s.safetensors"), "augment": "mild", "sparse": True}
    best = train_flow(FlowTraining(out=str(tmp_path / "run"), steps=2, data=(str(folder),), **settings))
    _, card = load_model(best)
    assert card.description["parent"]["sha256"] == parent.sha256
    assert card.description["data"] == "pairs of street (3)"
    assert card.description["licence"] == "that of the data it was trained on"
    assert math.isfinite(card.description["validation"]["held_out/epe"])
    assert figures(tmp_path / "run", "train/lr")[1] == pytest.approx(1e-5)


def test_a_flow_training_validates_with_a_scene_at_least():
    with pytest.raises(ValueError, match="--validation-scenes must be at least 1, got 0"):
        FlowTraining(steps=1, **{**TINY, "validation_scenes": 0})


def test_flying_chairs_are_divided_as_their_list_says(tmp_path):
    folder = write_chairs_like(tmp_path / "chairs", 4)
    (folder / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n2\n")
    data = folder_data(FlowTraining(steps=1, data=(str(folder),), split="train", **{**TINY, "validation_scenes": 9}))
    assert [sample.truth()[0, 0, 0] for sample in data.validation] == [2.0, 4.0]
    trained = data.open_batches(torch.device("cpu"))[0](range(6)).flow[:, 0, 0, 0]
    assert set(trained.tolist()) == {1.0, 3.0}


def test_scenes_are_used_several_times_and_some_are_of_the_world():
    def drawn(numbers, *, noise):
        rendered.update(numbers)
        frame = torch.full((len(numbers), 3, 80, 80), noise, dtype=torch.uint8)
        field = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 2, 80, 80)
        known = torch.ones(len(numbers), 1, 80, 80, dtype=torch.bool)
        return FlowBatch(frame, frame, field, known, ~known)

    rendered = Counter()
    config = FlowTraining(steps=1, augment="none", pool=6, uses=4, world_share=0.25, **{**TINY, "width": 64})
    augmenter = Augmenter(config.augmentation, 64, 64)
    batch = scene_batches(partial(drawn, noise=51), partial(drawn, noise=102), config, augmenter)
    batches = [batch([2 * i, 2 * i + 1]) for i in range(300)]
    assert set(rendered.values()) == {1} and 600 / len(rendered) == pytest.approx(4, rel=0.15)
    worldly = torch.cat([batch.first[:, 0, 0, 0] for batch in batches]) > 0.3
    assert worldly.float().mean().item() == pytest.approx(0.25, abs=0.1)
    assert batches[0].first.shape == (2, 3, 64, 64) and batches[0].valid.all()
    once = scene_batches(partial(drawn, noise=51), partial(drawn, noise=102), replace(config, uses=1), augmenter)
    assert once([7, 8, 9]).flow[:, 0, 5, 5].tolist() == [7.0, 8.0, 9.0]


def test_the_compact_network_trains_in_mixed_precision_with_a_worker(tmp_path):
    settings = {**TINY, "model": "flownet_lite", "options": {}, "precision": "bf16-mixed", "erase": 1.0, "extras": 2}
    settings["workers"] = 1
    best = train_flow(FlowTraining(out=str(tmp_path), steps=2, **settings))
    assert all(t.dtype != torch.bfloat16 for t in load_checkpoint(best)[0].values())  # the weights stay float32
    assert (tmp_path / "tensorboard").is_dir()


def test_a_run_grows_from_a_relative_and_refuses_a_stranger(tmp_path):
    stereo = create_model("flownet_stereo")
    save_checkpoint(tmp_path / "stereo.safetensors", stereo, ModelCard("flownet_stereo", stereo.options))
    settings = {"steps": 1, "weights": str(tmp_path / "stereo.safetensors"), "load_partial": True}
    grown = FlowModule(FlowTraining(**settings))  # both have the same encoder
    torch.testing.assert_close(grown.model.encoder.smooth.weight, stereo.encoder.smooth.weight)
    assert grown.parent["model"] == "flownet_stereo"
    with pytest.raises(CheckpointError, match="nothing in .*stereo.safetensors, a network 'flownet_stereo', fits"):
        FlowModule(FlowTraining(model="flownet_s", width=64, height=64, **settings))
    with pytest.raises(CheckpointError, match="load_partial"):
        FlowModule(FlowTraining(steps=1, weights=settings["weights"]))


def test_a_run_grows_from_a_thinner_network(tmp_path):
    small = create_model("flownet_s", width=0.0625)
    save_checkpoint(tmp_path / "small.safetensors", small, ModelCard("flownet_s", small.options))
    settings = {**TINY, "options": {"width": 0.125}, "weights": str(tmp_path / "small.safetensors")}
    grown = FlowModule(FlowTraining(steps=1, load_partial=True, **settings))
    torch.testing.assert_close(grown.model.conv1[0].weight[:4], small.conv1[0].weight)
    assert grown.options["width"] == 0.125 and "partial" in grown.parent


def test_the_command_says_in_one_line_what_is_wrong(monkeypatch, capsys, tmp_path):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fg-depth", "train", "flow", "--out", str(tmp_path / "run"), *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code != 0
        text = capsys.readouterr()
        return " ".join((text.out + text.err).split())

    assert "give --steps or --hours" in run()
    assert "unknown model 'flownet9'" in run("--steps", "1", "--model", "flownet9")
    assert "'width' is not NAME=VALUE" in run("--steps", "1", "--option", "width")
    (tmp_path / "empty").mkdir()
    assert "no photo (" in run("--steps", "1", "--photos", str(tmp_path / "empty"))
    assert "does not exist" in run("--steps", "1", "--weights", str(tmp_path / "w.safetensors"), "--patterns", "1")
    assert not (tmp_path / "run").exists()
