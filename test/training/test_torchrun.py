"""Training in two processes that torchrun starts: every kind of training, one after another in the same two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

pytest.importorskip("pytorch_lightning")
pytest.importorskip("rosbags")
from support.bags import SECOND
from support.distill import RIG, wall, write_walls
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fg_depth_ros.data.bags.writing import write_stereo_bag
from fg_depth_ros.networks import create_model, load_checkpoint
from fg_depth_ros.networks.checkpoint import ModelCard, save_checkpoint
from fg_depth_ros.training.flow.config import FlowTraining
from fg_depth_ros.training.flow.train import train_flow

# Statuses of the commands of a file, as each process ends them, and what the first one printed of each.
_COMMANDS = """
import contextlib, io, json, os, sys
from fg_depth_ros import cli

folder, ends = sys.argv[1], {}
for name, arguments in json.load(open(f"{folder}/commands.json")).items():
    sys.argv = ["fg-depth", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
    ends[name] = [status, said.getvalue()]
json.dump(ends, open(f"{folder}/ends_{os.environ['RANK']}.json", "w"))
"""
_TINY = ("--size", "96x64", "--batch", "2", "--workers", "0", "--teacher", "sgbm")


@dataclass(frozen=True)
class Trained:
    """What the commands made, in a folder each, and by their names how the two processes ended them."""

    folder: Path
    ends: tuple[dict[str, tuple[int, str]], dict[str, tuple[int, str]]]

    def card(self, name: str, file: str = "last.safetensors") -> dict:
        assert [end[name][0] for end in self.ends] == [0, 0], self.ends
        return load_checkpoint(self.folder / name / file)[1].description


def _write_bags(folder: Path) -> Path:
    for name, first in (("ep_a", 0), ("ep_b", 100)):
        numbers = range(first, first + 20)
        pairs = [(1_800_000_000 * SECOND + k * SECOND // 10, *wall(8 + k % 6, seed=k)) for k in numbers]
        write_stereo_bag(folder / name, pairs, RIG)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("torchrun")
    walls, bags = write_walls(folder / "walls"), _write_bags(folder / "bags")
    network = create_model("depthnet_lite", focal=120.0, width=96, height=64, channels=[16, 16, 32, 32])
    save_checkpoint(folder / "parent.safetensors", network, ModelCard("depthnet_lite", dict(network.options)))
    commands = {  # the fine-tuning first: the processes find each other before Lightning does it
        "finetune": ("finetune", "--bags", bags, "--weights", folder / "parent.safetensors", "--steps", "9", *_TINY,
                     "--guard", "0.05", "--validate-steps", "1", "--patience", "2", "--learning-rate", "0.5"),
        "stereo": ("train", "stereo", "--steps", "2", "--patterns", "4", "--width", "96", "--height", "64",
                   "--batch", "2", "--workers", "0"),
        "flow": ("train", "flow", "--model", "flownet_s", "--option", "width=0.0625", "--steps", "2", "--patterns", "4",
                 "--outlines", "4", "--width", "64", "--height", "64", "--margin", "16", "--workers", "0",
                 "--learning-rate", "1e-3", "--batch", "2", "--uses", "1"),
        "depth": ("distill", "--steps", "2", "--data", walls, *_TINY, "--model", "depthnet_lite", "--weights", "",
                  "--max-disparity", "0",
                  "--cache", folder / "cache"),
    }  # fmt: skip
    given = {name: [*map(str, words), "--out", str(folder / name)] for name, words in commands.items()}
    (folder / "commands.json").write_text(json.dumps(given))
    (folder / "commands.py").write_text(_COMMANDS)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [*launcher, str(folder / "commands.py"), str(folder)], capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    return Trained(folder, tuple(json.loads((folder / f"ends_{rank}.json").read_text()) for rank in range(2)))


def test_a_stereo_network_sees_the_pairs_of_both(trained: Trained) -> None:
    card = trained.card("stereo")
    assert (card["processes"], card["pairs"]) == (2, 8)


def test_two_processes_do_what_one_does_with_the_whole_batch(trained: Trained, tmp_path: Path) -> None:
    """First-step loss and weights of flow, against one process with twice the batch."""
    train_flow(
        FlowTraining(
            out=str(tmp_path),
            model="flownet_s",
            options={"width": 0.0625},
            steps=2,
            width=64,
            height=64,
            margin=16,
            batch=4,
            patterns=4,
            outlines=4,
            workers=0,
            learning_rate=1e-3,
            uses=1,
        )
    )  # fmt: skip
    losses = []
    for run in (tmp_path, trained.folder / "flow"):
        events = EventAccumulator(str(run / "tensorboard"))
        events.Reload()
        losses.append({event.step: event.value for event in events.Scalars("train/loss")}[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    one, two = (load_checkpoint(run / "last.safetensors") for run in (tmp_path, trained.folder / "flow"))
    for name, tensor in one[0].items():
        torch.testing.assert_close(tensor, two[0][name], rtol=0, atol=2e-5)
    card = trained.card("flow")
    assert card["processes"] == 2
    assert one[1].description["pairs"] == card["pairs"] == 8
    assert len(list((trained.folder / "flow" / "pictures").iterdir())) == 2


def test_pairs_are_checked_by_both_before_a_distillation(trained: Trained) -> None:
    card = trained.card("depth")
    assert (card["processes"], card["pairs"]) == (2, 8)
    assert card["counts"]["while"]["used"] == 8


def test_recordings_are_checked_and_tuned_on_together(trained: Trained) -> None:
    out = trained.folder / "finetune"
    document = json.loads((out / "finetune.json").read_text())
    status, said = trained.ends[0]["finetune"]
    assert status == (0 if document["better"] else 2)  # the first process tells whether the weights are better
    card = load_checkpoint(out / "last.safetensors")[1].description
    assert card["processes"] == 2 and card["pairs"] == 4 * card["steps"]
    assert len(list((out / "checks").glob("ep_[ab]-*.json"))) == 2
    assert said.count("held-out part") == 1 and "held-out part" not in trained.ends[1]["finetune"][1]
