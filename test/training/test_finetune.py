"""Fine-tuning on recordings: what is refused or left out, better weights and none, going on, patience."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning")
pytest.importorskip("rosbags")
from support.bags import bag_of
from support.distill import MASK, RIG, wall

from fg_depth_ros.data.bags.folders import bag_sha256
from fg_depth_ros.data.bags.storage import IMAGE
from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.files import FileError
from fg_depth_ros.networks import CheckpointError, create_model, load_checkpoint, load_model
from fg_depth_ros.networks.checkpoint import ModelCard, load_tensors, save_checkpoint
from fg_depth_ros.training.callbacks import Validation
from fg_depth_ros.training.depth.dataset import ResizeCrop
from fg_depth_ros.training.finetune.bags import open_recordings
from fg_depth_ros.training.finetune.config import DepthFinetuning, StereoFinetuning, TimeSplit
from fg_depth_ros.training.finetune.run import finetune_depth, finetune_stereo

START = 1_800_000_000_000_000_000
SPLIT = TimeSplit(guard=0.05)
TINY = {
    "width": 96, "height": 64, "batch": 2, "workers": 0, "teacher": "sgbm", "mask": MASK, "validate_minutes": 60.0,
    "zoom": 1.0,
}  # fmt: skip


def write_drive(folder, first=0, count=20, swapped=False, start=START, seed=0):
    """A bag of walls 1.5 to 2.5 m away, ten a second."""
    pairs = []
    for k in range(first, first + count):
        left, right = wall(8 + k % 6, seed=seed + k)
        pairs.append((start + k * 100_000_000, *((right, left) if swapped else (left, right))))
    return write_stereo_bag(folder, pairs, RIG)


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    return write_drive(tmp_path_factory.mktemp("bags") / "drive")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A depth network that says 10 m of everything."""
    path = tmp_path_factory.mktemp("parent") / "parent.safetensors"
    network = create_model("depthnet_lite", focal=120.0, width=96, height=64, channels=[16, 16, 32, 32])
    save_checkpoint(path, network, ModelCard("depthnet_lite", dict(network.options)))
    return str(path)


def tune(out, bags, parent, cache, split=SPLIT, **settings):
    material = open_recordings(bags, split, notes=out / "checks")
    settings = {**TINY, "cache": cache, "steps": 2, **settings}
    return finetune_depth(DepthFinetuning(out=str(out), weights=parent, **settings), material)


@pytest.fixture(scope="module")
def better(tmp_path_factory, drive, parent, cache):
    """A run that makes better weights."""
    out = tmp_path_factory.mktemp("better")
    return out, tune(out, [drive], parent, cache, steps=12, batch=4, learning_rate=5e-3, validate_steps=6)


def rows(out):
    return [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]


# ---- what is refused


def test_recordings_that_cannot_be_used_are_named_with_the_reason(tmp_path, drive):
    bare = bag_of(tmp_path / "bare", {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE})
    with pytest.raises(FileError, match=r"none of 1 bag.s. can be used: .*bare: no camera_info for /left/image_rect"):
        open_recordings([bare], SPLIT)
    short = write_drive(tmp_path / "short", count=3)
    with pytest.raises(FileError, match="the 3 pairs of 1 bag.s. leave none for the stopping part .*record more"):
        open_recordings([short], SPLIT)


def test_weights_of_another_kind_are_refused(tmp_path, drive):
    material = open_recordings([drive], SPLIT)
    with pytest.raises(ValueError, match="unknown model 'flownet_stereo'; known: depthnet_efficient, depthnet_lite"):
        finetune_depth(DepthFinetuning(out=str(tmp_path / "depth"), weights="flownet_stereo", steps=1), material)
    with pytest.raises(CheckpointError, match="a network 'depthnet_lite' and 'flownet_stereo' is to be trained"):
        finetune_stereo(StereoFinetuning(out=str(tmp_path / "stereo"), weights="depthnet_lite", steps=1), material)
    with pytest.raises(ValueError, match="give --steps or --hours"):
        DepthFinetuning()
    with pytest.raises(ValueError, match="--patience and --validate-steps are counts, got -1 and 0"):
        DepthFinetuning(steps=1, patience=-1)


def test_bags_whose_pairs_are_all_bad_end_it_when_there_are_no_others(tmp_path, parent, cache):
    wrong = write_drive(tmp_path / "wrong", swapped=True)
    with pytest.raises(FileError, match="none of the bags and folders has pairs that can be trained on"):
        tune(tmp_path / "out", [wrong], parent, cache)
    assert not (tmp_path / "out" / "weights.safetensors").exists()


# ---- what is left out and said


def test_a_folder_with_bad_bags_between_good_ones(tmp_path, drive, parent, cache, caplog):
    folder = tmp_path / "runs"
    shutil.copytree(drive, folder / "b_good")
    broken = shutil.copytree(drive, folder / "a_broken")
    for file in broken.glob("*.mcap"):
        file.write_bytes(np.random.default_rng(0).bytes(4000))
    shutil.copytree(drive, folder / "c_copy")
    bag_of(folder / "d_bare", {"/left/image_rect": IMAGE, "/right/image_rect": IMAGE})
    write_drive(folder / "e_swapped", first=1000, swapped=True)
    with caplog.at_level("WARNING"):
        outcome = tune(tmp_path / "out", [folder], parent, cache)
    said = {bag["name"]: bag for bag in outcome.document["bags"]}
    assert list(said) == ["a_broken", "b_good", "c_copy", "d_bare", "e_swapped"]
    assert [name for name, bag in said.items() if bag["usable"]] == ["b_good", "e_swapped"]
    assert "left out: a_broken: " in caplog.text and "cannot be read" in caplog.text
    assert "left out: c_copy: the same recording as b_good" in caplog.text
    assert "left out: d_bare: " in caplog.text and "no camera_info" in caplog.text
    assert "left out: e_swapped: none of its" in caplog.text
    counts = said["b_good"]["parts"]
    assert sum(counts.values()) == 20 and counts["held_out"] == counts["stopping"] == 4 and not said["d_bare"]["parts"]
    assert outcome.document["left_out_pairs"]["e_swapped"] == {"swapped": 20 - said["e_swapped"]["parts"]["guard"]}
    card = load_checkpoint(outcome.path)[1].description
    assert [bag["name"] for bag in card["bags"]] == list(said)
    assert card["bags"][1]["sha256"] == said["b_good"]["sha256"] == bag_sha256(drive)
    assert card["data"].endswith("pairs of b_good") and "swapped" not in card["data"]


@pytest.mark.parametrize("start", [10 * 10**9, START])
def test_copies_in_part_are_left_out_and_cuts_of_one_drive_kept_apart(tmp_path, start):
    """Of a simulation, too, whose stamps are no dates: there pairs are the same where stamps and images are."""
    write_drive(tmp_path / "a_drive", start=start, count=30)
    write_drive(tmp_path / "a_drive_recovered", start=start, count=24)
    write_drive(tmp_path / "b_later_cut", start=start, first=11, count=30)
    if start != START:  # what another run of the simulation recorded has the same stamps
        write_drive(tmp_path / "c_other", start=start, count=30, seed=500)
    found = open_recordings([tmp_path], TimeSplit(guard=0.15))
    said = {bag["name"]: bag for bag in found.bags}
    (problem,) = (each for each in said["a_drive_recovered"]["problems"] if each["severity"] == "leave out")
    assert problem["text"] == "all its pairs are in a_drive, too" and not said["a_drive_recovered"]["parts"]
    times = [{p.stamp for name, part in sets.items() if name != "c_other" for p in part} for sets in found.pairs]
    for k, one in enumerate(times):
        for other in times[k + 1 :]:
            assert min(abs(a - b) for a in one for b in other) > 150_000_000
    if start != START:
        alone = open_recordings([tmp_path / "c_other"], TimeSplit(guard=0.15))
        assert said["c_other"]["parts"] == alone.bags[0]["parts"]


def test_a_bag_called_all_is_told_from_the_mean_of_all(tmp_path, drive):
    shutil.copytree(drive, tmp_path / "of_robot" / "all")
    assert open_recordings([tmp_path], SPLIT).bags[0]["name"] == "of_robot/all"


def test_checks_are_noted_and_looked_at_once(tmp_path, drive, monkeypatch):
    first = open_recordings([drive], SPLIT, notes=tmp_path)
    monkeypatch.setattr("fg_depth_ros.training.finetune.bags.check_bag", None)  # whoever checks again fails
    again = open_recordings([drive], SPLIT, notes=tmp_path)
    assert again.bags == first.bags
    assert [p.name for p in again.pairs.training["drive"]] == [p.name for p in first.pairs.training["drive"]]
    with pytest.raises(TypeError):
        open_recordings([drive], SPLIT, {"slop": 0.01}, notes=tmp_path)


# ---- runs


def test_better_weights_with_all_that_is_known_of_them(better, parent):
    out, outcome = better
    assert outcome.better and outcome.path == out / "weights.safetensors"
    assert not (out / "not_better.safetensors").exists()
    document = json.loads((out / "finetune.json").read_text())
    assert document["schema"] == "fg_depth_finetune/1" and document["better"] is True and document["kind"] == "depth"
    assert document["split"] == {"kind": "blocks", "held_out": 0.2, "guard": 0.05}
    before, after = (document["figures"][when]["held_out"] for when in ("before", "after"))
    assert after["drive"]["teacher/abs_rel"] < 0.5 * before["drive"]["teacher/abs_rel"]
    assert before["all"] == before["drive"] and set(before["all"]) == {f"teacher/{m}" for m in _MEASURES}
    chosen = document["selected"]
    assert chosen["measure"] == "abs_rel" and chosen["after"] < chosen["before"] and chosen["step"] in (6, 12)

    # The figures are those of the held-out blocks, pairs 4, 5 and 14, 15 of 20: computed again by hand.
    for path, figure in ((parent, before), (str(outcome.path), after)):
        network, card = load_model(path)
        fit, found = ResizeCrop.of(RIG, 96, 64), []
        for k in (4, 5, 14, 15):
            image = torch.from_numpy(fit.image(wall(8 + k % 6, seed=k)[0])).permute(2, 0, 1)[None].float() / 255
            with torch.no_grad():
                depth = fit.focal(RIG) / (network.focal * network(image).inverse[0, 0])
            true = 20 / (8 + k % 6)
            found.append(float(((depth.clamp(1e-3, 80) - true).abs() / true).mean()))
        assert figure["drive"]["teacher/abs_rel"] == pytest.approx(np.mean(found), rel=0.02)  # sgbm's 1/16 px
    said = card.description
    assert said["parent"]["sha256"] == load_checkpoint(parent)[1].sha256 == document["parent"]["sha256"]
    assert said["finetune"]["better"] is True and said["teacher"]["model"] == "sgbm"
    assert card.sha256 == document["sha256"] == load_checkpoint(out / "best.safetensors")[1].sha256


_MEASURES = ("abs_rel", "rmse", "delta_1")


def test_weights_that_are_not_better_are_none(tmp_path, drive, better, cache, caplog):
    out, good = tmp_path / "out", better[1]
    with caplog.at_level("WARNING"):
        outcome = tune(out, [drive], str(good.path), cache, steps=1, learning_rate=100.0)
    assert not outcome.better and outcome.path == out / "not_better.safetensors"
    assert not (out / "weights.safetensors").exists() and outcome.document["better"] is False
    assert "no weights of this run are better than" in caplog.text
    chosen = outcome.document["selected"]
    assert chosen["after"] >= chosen["before"] or not np.isfinite(chosen["after"])
    assert load_checkpoint(outcome.path)[1].description["finetune"]["better"] is False


def test_a_run_goes_on_and_only_with_the_same_recordings(tmp_path, drive, parent, cache):
    out = tmp_path / "out"
    tune(out, [drive], parent, cache, steps=2, learning_rate=2e-3)
    first = rows(out)[0]
    outcome = tune(out, [drive], parent, cache, steps=4, learning_rate=2e-3)
    assert load_tensors(out / "state.safetensors")[1]["training"]["steps"] == 4
    assert outcome.document["steps"] == 4 and rows(out)[0] == first
    assert outcome.document["figures"]["before"]["stopping"]["drive"]["teacher/abs_rel"] == first["abs_rel"]
    count = len(rows(out))
    again = tune(out, [drive], parent, cache, steps=4, learning_rate=2e-3)  # over already: nothing is done twice
    assert len(rows(out)) == count and again.document["sha256"] == outcome.document["sha256"]
    more = write_drive(tmp_path / "more", first=500)
    with pytest.raises(FileError, match=r"with other bags: bags added, removed or changed: more; choose another out"):
        tune(out, [drive, more], parent, cache, steps=6)
    with pytest.raises(FileError, match="with other split kind: blocks there, end now"):
        tune(out, [drive], parent, cache, split=TimeSplit("end", guard=0.05), steps=6)
    divided = open_recordings([drive], SPLIT)
    divided.bags[0]["parts"] = {"training": 20, "stopping": 0, "held_out": 0, "guard": 0}  # as another version divides
    with pytest.raises(
        FileError,
        match="with other parts of drive: .*'held_out': 4.* there, .*'held_out': 0.* now.*; choose another out",
    ):
        finetune_depth(DepthFinetuning(out=str(out), weights=parent, cache=cache, steps=6, **TINY), divided)
    (out / "material.json").unlink()
    with pytest.raises(FileError, match="holds a training that is no fine-tuning"):
        tune(out, [drive], parent, cache, steps=6)


@pytest.fixture
def scripted(monkeypatch):
    """Validations that find these figures of the stopping part, or these of it and the held-out part, in turn."""

    def install(*figures):
        found = iter(figures)

        def evaluate(network):
            figure = next(found)
            if isinstance(figure, tuple):
                return {"abs_rel": figure[0], "test:drive/teacher_abs_rel": figure[1]}
            return {"abs_rel": figure}

        validation = Validation(evaluate, "abs_rel")
        monkeypatch.setattr("fg_depth_ros.training.depth.distill.depth_validation", lambda *a: validation)

    return install


def test_a_run_that_gets_no_better_ends_after_its_patience(tmp_path, drive, parent, cache, scripted):
    """Of 12 steps the first third does not count; best of trained weights 0.8 at step 5, then three that are worse."""
    scripted(0.5, 0.9, 1.5, 1.4, 1.3, 0.8, 0.9, 0.85, 0.81, *[9.0] * 9)
    settings = {"steps": 12, "validate_steps": 1, "patience": 3}
    outcome = tune(tmp_path, [drive], parent, cache, **settings)
    assert [row["step"] for row in rows(tmp_path)] == list(range(9)) and not outcome.better
    scripted()
    tune(tmp_path, [drive], parent, cache, **settings)  # what has ended does not begin again
    assert len(rows(tmp_path)) == 9


@pytest.mark.parametrize(
    ("before", "after", "better"),
    [
        ((0.30, 0.28), (0.31, 0.20), True),  # the part that selects is a little worse by chance
        ((0.30, 0.28), (0.29, 0.40), False),  # and a little better
        ((0.30, 0.28), (0.20, 0.20), True),
        ((0.30, 0.28), (0.31, 0.29), False),
        ((0.30, 0.28), (float("nan"), 0.1), False),
    ],
)
def test_both_parts_together_say_whether_weights_are_better(
    tmp_path, drive, parent, cache, scripted, before, after, better
):
    scripted(before, after)
    outcome = tune(tmp_path, [drive], parent, cache, steps=1)
    assert outcome.better is better and (tmp_path / "weights.safetensors").exists() is better
    judged = outcome.document["judged"]
    assert judged["before"] == pytest.approx(0.29)
    assert judged["after"] == pytest.approx(sum(after) / 2, nan_ok=True)


def test_a_line_that_a_power_cut_left_incomplete_costs_that_line_alone(tmp_path, drive, parent, cache, scripted):
    scripted((0.30, 0.28), (0.20, 0.20), (0.10, 0.10))
    done = tune(tmp_path, [drive], parent, cache, steps=1)
    log = tmp_path / "validation.jsonl"
    os.truncate(log, log.stat().st_size - 9)
    again = tune(tmp_path, [drive], parent, cache, steps=1)
    assert again.better and again.document["judged"] == done.document["judged"]
    assert again.document["steps"] == 1
    tune(tmp_path, [drive], parent, cache, steps=2)
    assert [row["step"] for row in rows(tmp_path)] == [0, 2]


def test_a_run_that_begins_in_the_middle_is_compared_with_the_weights_it_began_with(
    tmp_path, drive, parent, cache, scripted
):
    scripted((0.30, 0.28), (0.20, 0.20))
    outcome = tune(tmp_path, [drive], parent, cache, steps=4, start_step=3)
    assert [row["step"] for row in rows(tmp_path)] == [3, 4]
    assert outcome.better and outcome.document["judged"] == pytest.approx(
        {"measure": "abs_rel", "before": 0.29, "after": 0.2}
    )


def test_recordings_may_be_elsewhere_when_a_run_is_resumed(tmp_path, drive, parent, cache):
    tune(tmp_path / "out", [shutil.copytree(drive, tmp_path / "a" / "drive")], parent, cache, steps=1)
    outcome = tune(tmp_path / "out", [shutil.copytree(drive, tmp_path / "b" / "drive")], parent, cache, steps=2)
    assert outcome.document["steps"] == 2
    with pytest.raises(CheckpointError, match="teacher_scale was 1.0 and is 0.5"):
        tune(tmp_path / "out", [drive], parent, cache, steps=3, teacher_scale=0.5)


def test_worse_before_better_is_no_reason_to_end(tmp_path, drive, parent, cache, scripted):
    scripted(0.5, 0.9, 0.95, 1.2, 1.1, 1.0, 0.8, 0.7, 0.4)
    outcome = tune(tmp_path, [drive], parent, cache, steps=8, validate_steps=1, patience=4)
    assert outcome.better and outcome.document["selected"]["step"] == 8


def test_a_stereo_network_learns_from_its_recordings(tmp_path, drive):
    material = open_recordings([drive], SPLIT)
    config = StereoFinetuning(
        out=str(tmp_path), width=64, height=64, steps=2, validate_steps=1, workers=0, validation_scenes=1, patience=0
    )
    outcome = finetune_stereo(config, material)
    assert outcome.document["kind"] == "stereo" and outcome.document["model"] == "flownet_stereo"
    assert set(outcome.document["figures"]["before"]["held_out"]["drive"]) == {
        "photometric",
        "agreement",
        "unexplained",
    }
    assert outcome.document["teacher"] is None
    card = load_model(outcome.path)[1]
    assert card.description["parent"]["sha256"] == load_model("flownet_stereo")[1].sha256
    assert card.description["bags"][0]["name"] == "drive"


def test_weights_before_are_evaluated_at_their_own_size_whatever_the_trainings(tmp_path, drive, parent, cache, better):
    """What the network says depends on the focal length at its input: at half the size it says half the depth."""
    own = rows(better[0])[0]
    tune(tmp_path / "small", [drive], parent, cache, width=64, height=32, steps=1)
    before, after = rows(tmp_path / "small")
    for name in (name for name in own if name.endswith("abs_rel")):
        assert before[name] == pytest.approx(own[name], rel=0.05), name
    assert (
        abs(after["abs_rel"] - before["abs_rel"]) > 0.2 * before["abs_rel"]
    )  # and its successor at that of the training
