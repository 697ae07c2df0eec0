"""Runs a program with an engine: compiles per size on demand, and goes on with PyTorch where the engine fails."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np
import torch

from fg_depth_ros.inference.engines.base import Engine, EngineError, Run, Size
from fg_depth_ros.inference.engines.cache import EngineCache, cache_key
from fg_depth_ros.inference.engines.program import Program
from fg_depth_ros.inference.engines.selection import TORCH, select_engine

_COMPILER = "engine compiler"  # name of a thread
_SIZES = 4  # that stay compiled
# Largest mean difference from PyTorch in float32 on the check's images, as part of the mean magnitude.
_TOLERANCE = {"float32": 0.002, "bfloat16": 0.1, "float16": 0.05, "int8": 0.1}


def compiling_beside() -> bool:
    """Tell whether an engine is being compiled by a thread of this process; nothing can stop it."""
    return any(thread.name == _COMPILER for thread in threading.enumerate())


class _Compiled(NamedTuple):
    """``seconds`` that it took; ``cached``: it came from the cache."""

    run: Run
    seconds: float
    cached: bool


class EngineRunner:
    """Runs a program on images of any size. One thread runs at a time.

    Args:
        program: what to run; its network is on ``device``.
        name: of the model, for the names of cache entries.
        engine, precision: of ``ENGINES`` and ``PRECISIONS``.
        device: where it runs.

    Raises:
        ValueError: the engine does not run on the device, or not in the precision.
    """

    def __init__(self, program: Program, name: str, engine: str, precision: str, device: torch.device) -> None:
        selection = select_engine(engine, precision, device, int8=bool(program.ranges))
        self._program, self._name, self._device = program, name, device
        self._engine: Engine = selection.engine
        self._compiled: dict[Size, _Compiled] = {}  # the newest last
        self._lock = threading.Lock()
        self._compiling: threading.Thread | None = None
        self._cache = EngineCache()
        self._identity = ""
        self.precision = selection.precision
        self.reason = selection.reason
        """Why this engine."""
        self.failure = selection.problem
        """Why the engine that was wanted does not run and PyTorch does; None while all is well."""
        self.background = False
        """Whether a size that is not in the cache is compiled in the background: until it is ready PyTorch runs, in the
        same precision if PyTorch has it, else in float32."""
        self._torch = TORCH.load(b"", program, self._torch_precision(), device)

    @property
    def engine(self) -> str:
        """Name of the engine that runs."""
        return self._engine.name

    @property
    def compiling(self) -> bool:
        """Whether a size is being compiled in the background, and PyTorch runs meanwhile."""
        return self._compiling is not None

    @property
    def cache_problem(self) -> str | None:
        """Why what was compiled is not kept for the next start; None where it is."""
        return self._cache.problem

    @property
    def compile_seconds(self) -> tuple[float, bool] | None:
        """Time to compile the size used last, s, and whether it came from the cache; None: none is compiled."""
        last = next(reversed(self._compiled.values()), None)
        return None if last is None else (last.seconds, last.cached)

    def run(self, *images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run on H x W x 3 RGB or H x W uint8 images of one size; returns the program's outputs, 1 x C x H x W float32.

        Raises OutOfMemory. What else PyTorch raises passes; what another engine raises makes PyTorch take over.
        """
        images = tuple(_rgb(image) for image in images)
        run = self._ready((images[0].shape[1], images[0].shape[0]))
        if run is not None:
            try:
                return run(*images)
            except Exception as error:  # of whatever kind the engine's library has
                self._fail("while running", error)
        return self._torch(*images)

    def preload(self) -> None:
        """Load the entry of the cache that this network used last: mostly the size of the images to come."""
        if self._engine is TORCH:
            return
        entry = re.compile(rf"{re.escape(self._name)}-(\d+)x(\d+)-{self._engine.name}-{self.precision}")
        for found in filter(None, map(entry.fullmatch, self._cache.names())):
            begun, size = time.perf_counter(), (int(found[1]), int(found[2]))
            run = self._kept_run(size)
            if run is not None:  # else of other weights, or of another version
                with self._lock:
                    self._compiled[size] = _Compiled(run, time.perf_counter() - begun, True)
                return

    @contextmanager
    def pytorch(self) -> Iterator[None]:
        """Let PyTorch run inside, and compile nothing. For the thread that owns the runner."""
        engine, self._engine = self._engine, TORCH
        try:
            yield
        finally:
            self._engine = engine

    def _ready(self, size: Size) -> Run | None:
        """Return the engine's function for a size; None where PyTorch is to run."""
        if self._engine is TORCH:
            return None
        with self._lock:
            compiled = self._compiled.pop(size, None)
            if compiled is not None:
                self._compiled[size] = compiled
                return compiled.run
            if self.background and self._compiling is not None:
                return None
            if self.background and self._kept(size) is None:
                self._compiling = threading.Thread(
                    target=self._compile_beside, args=(size,), name=_COMPILER, daemon=True
                )
                self._compiling.start()
                return None
        self._compile(size)
        return self._compiled[size].run if size in self._compiled else None

    def _compile_beside(self, size: Size) -> None:
        self._compile(size)
        self._compiling = None

    def _compile(self, size: Size) -> None:
        """Compile for a size and check it, or take it from the cache; on failure PyTorch takes over."""
        begun = time.perf_counter()
        try:
            run, cached = self._loaded(size)
        except Exception as error:  # of whatever kind the engine's library has
            self._fail(f"for {size[0]}x{size[1]} px", error)
            return
        with self._lock:
            self._compiled[size] = _Compiled(run, time.perf_counter() - begun, cached)
            while len(self._compiled) > _SIZES:
                del self._compiled[next(iter(self._compiled))]

    def _entry(self, size: Size) -> tuple[str, str]:
        """Return name and key of a size in the cache."""
        engine, precision = self._engine, self.precision
        self._identity = self._identity or self._program.identity()
        key = cache_key(
            self._identity, engine.name, engine.version(), TORCH.version(), size, precision, self._device_name()
        )
        return f"{self._name}-{size[0]}x{size[1]}-{engine.name}-{precision}", key

    def _kept(self, size: Size) -> bytes | None:
        return self._cache.read(*self._entry(size))

    def _kept_run(self, size: Size) -> Run | None:
        """Return what the cache has for a size, run once; None if there is nothing that the engine takes."""
        blob = self._kept(size)
        if blob is None:
            return None
        try:
            run = self._engine.load(blob, self._program, self.precision, self._device)
            run(*_test_images(size, len(self._program.inputs)))
        except Exception:  # the library refuses what it made: as if it were not there
            return None
        return run

    def _loaded(self, size: Size) -> tuple[Run, bool]:
        engine, precision = self._engine, self.precision
        kept = self._kept_run(size)
        if kept is not None:
            return kept, True
        blob = engine.build(self._program, size, precision)
        run = engine.load(blob, self._program, precision, self._device)
        self._check(run, size)
        self._cache.write(*self._entry(size), blob)
        return run, False

    def _check(self, run: Run, size: Size) -> None:
        """Compare with PyTorch on test images. Raises EngineError: too different."""
        images = _test_images(size, len(self._program.inputs))
        reference = TORCH.load(b"", self._program, "float32", self._device)(*images)
        for name, found, expected in zip(self._program.outputs, run(*images), reference, strict=True):
            if found.shape != expected.shape:
                raise EngineError(f"{name} has the shape {found.shape} instead of {expected.shape}")
            typical = float(np.abs(expected).mean())
            # A pixel counts for a typical value at most: where hypotheses nearly tie, rounding may choose another one.
            difference = float(np.minimum(np.abs(found - expected), typical).mean())
            limit = _TOLERANCE[self.precision] * typical + 1e-3
            if not (np.isfinite(found).all() and difference <= limit):
                raise EngineError(f"{name} differs from PyTorch by {difference:.3g} in the mean; {limit:.3g} may be")

    def _fail(self, when: str, error: Exception) -> None:
        """Let PyTorch run from now on."""
        text = " ".join(str(error).split()) or repr(error)
        self.failure = f"engine {self._engine.name} failed {when}, PyTorch runs instead: {text}"
        self.precision = self._torch_precision()
        self._engine = TORCH
        with self._lock:
            self._compiled.clear()

    def _torch_precision(self) -> str:
        """Return the chosen precision where PyTorch has it too, else float32."""
        return self.precision if self.precision in TORCH.precisions(self._device) else "float32"

    def _device_name(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"


def _rgb(image: np.ndarray) -> np.ndarray:
    image = np.ascontiguousarray(image)
    return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def _test_images(size: Size, count: int) -> list[np.ndarray]:
    """Return textured images H x W x 3 uint8, each the one before it moved by 8 px to the left."""
    width, height = size
    step = 8
    noise = np.random.default_rng(0).integers(0, 256, (height, width + step * (count - 1), 3), np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    return [np.ascontiguousarray(texture[:, step * i : step * i + width]) for i in range(count)]
