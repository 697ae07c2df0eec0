"""Early stopping by hand, and configurations that load no framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("pytorch_lightning")

from fg_depth_ros.training.callbacks import EarlyStopping


def test_patience_counts_from_a_third_of_the_run():
    stopping = EarlyStopping(2)
    for figure, progress, waited in (
        (5.0, 0.1, 0), (6.0, 0.2, 0), (7.0, 0.3, 0),  # worse, but early
        (6.0, 0.4, 1), (4.9, 0.5, 0), (4.9, 0.6, 1), (5.0, 0.7, 2),
    ):  # fmt: skip
        assert not stopping.should_stop
        stopping.update(figure, progress)
        assert stopping.waited == waited
    assert stopping.should_stop and stopping.least == 4.9
    never = EarlyStopping(0)
    never.update(1.0, 0.5)
    never.update(2.0, 0.9)
    assert not never.should_stop


def test_configurations_import_neither_pytorch_nor_lightning():
    modules = ", ".join(f"fg_depth_ros.training.{task}.config" for task in ("stereo", "flow", "depth", "finetune"))
    code = f"import sys, {modules}; print(*{{'torch', 'pytorch_lightning'}}.intersection(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == ""
