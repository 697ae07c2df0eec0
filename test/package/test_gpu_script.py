"""What measures a GPU, on a machine without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def run(repository: Path, folder: Path, wheels: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "VENV": str(folder / "venv")}
    command = [str(repository / ".ci" / "gpu.sh"), str(wheels), str(folder / "gpu.json")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_it_says_so_and_writes_nothing(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "broken-1.0-py3-none-any.whl").write_bytes(b"")
    done = run(repository, tmp_path, tmp_path / "wheels")
    assert done.returncode == 1
    assert "broken-1.0-py3-none-any.whl could not be installed, left out" in done.stderr
    assert f"no CUDA device: PyTorch {torch.__version__} finds none" in done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_wheels_that_are_not_there_are_refused(repository: Path, tmp_path: Path) -> None:
    done = run(repository, tmp_path, tmp_path / "wheels")
    assert done.returncode == 2
    assert "wheels is no folder of wheels" in done.stderr
    assert not (tmp_path / "venv").exists()
