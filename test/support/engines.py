"""An engine for tests: PyTorch under another name, which can be made to fail."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fg_depth_ros.inference.engines import selection
from fg_depth_ros.inference.engines.torch_engine import TorchEngine
from support.waiting import LIMIT


class StandIn(TorchEngine):
    """``build`` and ``run``: the texts of errors that it raises there; ``factor``: on its outputs.

    ``built`` has the sizes that were built; building waits for ``go_on``.
    """

    name = "openvino"

    @classmethod
    def installed(cls, monkeypatch: pytest.MonkeyPatch, cache: Path) -> StandIn:
        """Return one that takes the place of OpenVINO, with this cache folder, for the length of a test."""
        monkeypatch.setenv("FG_DEPTH_CACHE", str(cache))
        stand_in = cls()
        monkeypatch.setitem(selection.INSTALLABLE, "openvino", stand_in)
        return stand_in

    def __init__(self, build: str = "", run: str = "", factor: float = 1.0) -> None:
        self.fails_to_build, self.fails_to_run, self.factor = build, run, factor
        self.built: list[tuple[int, int]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def build(self, program: Any, size: tuple[int, int], precision: str) -> bytes:
        assert self.go_on.wait(LIMIT)
        if self.fails_to_build:
            raise ArithmeticError(self.fails_to_build)
        self.built.append(size)
        return b"built"

    def load(self, blob: bytes, program: Any, precision: str, device: Any) -> Any:
        if blob != b"built":
            raise RuntimeError("made by another version")
        run = super().load(blob, program, precision, device)

        def changed(*images: np.ndarray) -> tuple[np.ndarray, ...]:
            if self.fails_to_run:
                raise ArithmeticError(self.fails_to_run)
            return tuple(output * np.float32(self.factor) for output in run(*images))

        return changed
