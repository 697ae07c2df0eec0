"""Early stopping by hand, and configurations that load no framework."""

from __future__ import annotations

import io
import json
import math
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

pytest.importorskip("pytorch_lightning")

from pytorch_lightning.plugins.precision import MixedPrecision

from fg_depth_ros.networks import load_checkpoint
from fg_depth_ros.training.callbacks import EarlyStopping, ProgressLine, Validation, ValidationCallback
from fg_depth_ros.training.stereo.config import StereoTraining
from fg_depth_ros.training.stereo.train import StereoModule


def test_patience_counts_from_a_third_of_the_run():
    stopping = EarlyStopping(2)
    for figure, progress, waited in (
        (5.0, 0.1, 0), (6.0, 0.2, 0), (7.0, 0.3, 0),  # worse, but early
        (6.0, 0.4, 1), (4.9, 0.5, 0), (4.9, 0.6, 1), (5.0, 0.7, 2),
    ):  # fmt: skip
        assert not stopping.should_stop
        stopping.update(figure, progress)
        assert stopping.wait_count == waited
    assert stopping.should_stop and stopping.best_score == 4.9
    never = EarlyStopping(0)
    never.update(1.0, 0.5)
    never.update(2.0, 0.9)
    assert not never.should_stop


def test_the_scale_of_float16_gradients_is_resumed(tmp_path):
    config = StereoTraining(out=str(tmp_path), steps=1)
    module, validation = StereoModule(config, config.options), Validation(lambda network: {}, "epe")
    optimizer = module.configure_optimizers()

    def trainer(scale):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return SimpleNamespace(
            precision_plugin=MixedPrecision("16-mixed", "cpu", scaler), optimizers=[optimizer], is_global_zero=True
        )

    module.stop_signal, module.steps_done = signal.SIGTERM, 1
    ValidationCallback(config, validation, {}, {}).on_train_end(trainer(256.0), module)
    resumed = trainer(65536.0)
    ValidationCallback(config, validation, {}, {}).resume(resumed, module, optimizer)
    assert resumed.precision_plugin.scaler.get_scale() == 256.0


@pytest.mark.parametrize("names", [("best_score", "wait_count"), ("least", "waited")])
def test_patience_goes_on_where_a_run_is_resumed(tmp_path, monkeypatch, names):
    """The second names are those of states of before."""
    config = StereoTraining(out=str(tmp_path), steps=1, patience=4)
    callback = ValidationCallback(config, Validation(lambda network: {}, "epe"), {}, {})
    document = {"steps": 5, "pairs": 20, **dict(zip(names, (1.5, 3), strict=True))}
    monkeypatch.setattr(callback.checkpoint, "load", lambda module, optimizer: document)
    trainer, module = SimpleNamespace(world_size=1), SimpleNamespace(steps_done=5)
    callback.resume(trainer, module, None)
    assert (callback.stopping.best_score, callback.stopping.wait_count) == (1.5, 3)
    assert callback.stopping.should_stop is module.stopped_early is False
    saved = callback._counters(SimpleNamespace(precision_plugin=SimpleNamespace(state_dict=dict)))
    assert (saved["best_score"], saved["wait_count"]) == (1.5, 3)


SMALL = {"features": (16, 16, 16), "aggregate": (16, 16, 16), "refine": 8, "max_disparity": 64}


def training(out, evaluate, extra=None, **settings):
    """Return a stereo network in training with its validation, as Lightning would call them."""
    config = StereoTraining(out=str(out), options=SMALL, **settings)
    module = StereoModule(config, config.options)
    module._trainer = SimpleNamespace(
        is_global_zero=True, world_size=1, logger=None, should_stop=False, optimizers=[module.configure_optimizers()],
        precision_plugin=SimpleNamespace(state_dict=dict),
    )  # fmt: skip
    return module, ValidationCallback(config, Validation(evaluate, "synthetic/epe", extra), {}, {})


def test_real_pairs_select_no_weights_whatever_their_folder_is_called(tmp_path):
    errors = iter([5.0, 3.0, 4.0])
    module, callback = training(
        tmp_path,
        lambda network: {"synthetic/epe": next(errors), "synthetic/d1": 9.0},
        lambda network: {"synthetic/epe": 1.0 / (1 + module.steps_done), "synthetic/bad_2_noc": 7.0, "street/epe": 2.0},
        steps=9, validate_steps=1,
    )  # fmt: skip
    callback.on_train_start(module.trainer, module)
    for module.steps_done in (1, 2):
        callback.on_train_batch_start(module.trainer, module)
    assert load_checkpoint(tmp_path / "best.safetensors")[1].description["steps"] == 1
    assert (callback.stopping.best_score, callback.checkpoint.best) == (3.0, 3.0)
    rows = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [row["synthetic/epe"] for row in rows] == [5.0, 3.0, 4.0]
    assert rows[1]["real_synthetic/epe"] == 0.5 and rows[1]["real_synthetic/bad_2_noc"] == 7.0
    assert rows[1]["street/epe"] == 2.0


def test_a_figure_that_selects_nothing_ends_the_run_at_its_first_validation(tmp_path):
    errors = iter([math.nan, 3.0, math.nan])
    module, callback = training(tmp_path, lambda network: {"synthetic/epe": next(errors)}, steps=9, validate_steps=1)
    with pytest.raises(FloatingPointError, match="epe of the validation at step 0 is nan, so it selects no best"):
        callback.on_train_start(module.trainer, module)
    assert not (tmp_path / "best.safetensors").exists()
    for module.steps_done in (1, 2):
        callback.on_train_batch_start(module.trainer, module)
    assert load_checkpoint(tmp_path / "best.safetensors")[1].description["steps"] == 1


def test_the_time_of_a_run_is_that_of_its_steps(tmp_path, monkeypatch):
    """Steps of 10 s and validations of 100 s in a run of 60 s, one due every 30 s: neither counts for the other."""
    clock = SimpleNamespace(now=1000.0)
    for name in ("loop", "callbacks"):
        fake = SimpleNamespace(monotonic=lambda: clock.now)
        monkeypatch.setattr(f"fg_depth_ros.training.{name}.time", fake)
    validated = []

    def evaluate(network):
        clock.now += 100
        validated.append(module.steps_done)
        return {"synthetic/epe": 1.0}

    module, callback = training(tmp_path, evaluate, hours=60 / 3600, validate_minutes=0.5)
    module.on_fit_start()
    callback.on_train_start(module.trainer, module)
    parts = []
    for _ in range(9):
        callback.on_train_batch_start(module.trainer, module)
        if module.on_train_batch_start(None, 0) == -1:
            break
        parts.append(module.progress)
        clock.now += 10
        module.on_train_batch_end()
    assert parts == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert module.seconds_done == pytest.approx(60) and validated == [0, 3, 6]


def test_configurations_import_neither_pytorch_nor_lightning():
    modules = ", ".join(
        f"fg_depth_ros.training.{task}.config" for task in ("stereo", "flow", "depth", "finetune", "ablation")
    )
    code = f"import sys, {modules}; print(*{{'torch', 'pytorch_lightning'}}.intersection(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == ""


def test_a_line_of_progress_has_no_rate_before_the_first_step_is_counted():
    line = ProgressLine()
    line._console = Console(file=io.StringIO(), width=200)
    trainer = SimpleNamespace(is_global_zero=True)
    module = SimpleNamespace(steps_done=0, progress=0.0, last_metrics={"loss": 1.5})
    line.on_train_start(trainer, module)
    line.on_train_batch_end(trainer, module)
    line._last_print = -math.inf
    module.steps_done, module.progress = 5, 0.5
    line.on_train_batch_end(trainer, module)
    first, second = line._console.file.getvalue().splitlines()
    assert first.split() == ["0.0", "%", "step", "0", "loss", "1.50"]
    assert second.startswith(" 50.0 % step 5 ") and "/s left 0 min loss 1.50" in second and "nan" not in second
