"""Networks as files for other programs: ONNX and OpenVINO IR, with a description."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fg_depth_ros import __version__
from fg_depth_ros.files import atomic_write, file_sha256, write_json
from fg_depth_ros.geometry.resize import resize_image
from fg_depth_ros.inference.engines import EngineError, Program
from fg_depth_ros.inference.engines.openvino_engine import load_model_file, save_model
from fg_depth_ros.inference.engines.program import OPSET
from fg_depth_ros.inference.engines.selection import INSTALLABLE
from fg_depth_ros.inference.estimator import ModelError, NetworkMethod, load_network
from fg_depth_ros.inference.flow import NetworkFlow
from fg_depth_ros.inference.matchers import NetworkMatcher
from fg_depth_ros.inference.mono import NetworkMono
from fg_depth_ros.networks import DEPTH_MODELS, FLOW_MODELS, MODELS
from fg_depth_ros.networks.checkpoint import ModelCard

FORMATS = ("onnx", "openvino")
_CPU = torch.device("cpu")
_ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}  # format -> what runs it
_UNITS = {"disparity": "px", "sigma": "px", "flow": "px", "inverse": "1/m"}
_MEANINGS = {
    "disparity": "x_left - x_right",
    "sigma": "one standard deviation of the disparity's error",
    "flow": "u to the right, v down: first(x, y) <-> second(x + u, y + v)",
    "inverse": "depth in m is (fx / focal) / inverse, fx in px at the input's size, focal from the options",
}


@dataclass(frozen=True)
class Export:
    """Files of one network. ``files``: format -> path; ``description``: the JSON document next to them."""

    program: Program
    files: dict[str, Path]
    description: Path
    size: tuple[int, int]
    dynamic: bool
    multiple: int

    @property
    def written(self) -> list[Path]:
        """All files, also the ``.bin`` with the tensors of an OpenVINO IR."""
        tensors = [path.with_suffix(".bin") for name, path in self.files.items() if name == "openvino"]
        return [*self.files.values(), *tensors, self.description]


class Difference(NamedTuple):
    """Difference of an output of a file from PyTorch's over all pixels of all images, in ``unit``."""

    format: str
    output: str
    unit: str
    mean: float
    percentile_99: float
    largest: float


def export_network(
    model: str, out: Path, *, weights: str = "", formats: Sequence[str] = FORMATS, size: tuple[int, int] = (640, 480),
    dynamic: bool = False,
) -> Export:  # fmt: skip
    """Write a network as ``out/MODEL.onnx`` and ``out/MODEL.xml`` with ``.bin``, and ``out/MODEL.json`` about them.

    Args:
        model: its name; empty = the network of ``weights``.
        out: folder; made where it is missing.
        weights: path of a weights file; empty = the shipped ones.
        formats: of FORMATS.
        size: width and height of the images, px, multiples of the network's.
        dynamic: the files take any multiples; ``size`` is then only what they are fastest at.

    Raises:
        ModelError: an unknown model, or weights that cannot be used.
        ValueError: an unknown format, or a size that is no multiple.
        EngineError: a package that writes a format is missing.
        WriteError: the folder cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"format '{name}' is unknown; choose one of {', '.join(FORMATS)}")
        missing = INSTALLABLE[_ENGINES[name]].missing()
        if missing is not None and (name == "openvino" or find_spec("onnx") is None):  # ONNX Runtime only checks
            raise EngineError(f"what writes the format '{name}' {missing}")
    if model and model not in MODELS:
        raise ModelError(
            f"'{model}' is no network; choose one of {', '.join(sorted(MODELS))}; for a file use --weights"
        )
    network, card = load_network(model, weights or None, "cpu", MODELS, "stereo, flow or depth")
    kind: Callable[..., NetworkMethod] = NetworkMatcher
    if card.name in FLOW_MODELS:
        kind = NetworkFlow
    elif card.name in DEPTH_MODELS:
        kind = NetworkMono
    program = kind(network, card.name, card.sha256).program
    multiple = int(getattr(network, "size_multiple", 32))
    _require_multiples(card.name, size, multiple)
    onnx = program.onnx(size, dynamic)
    files, hashes = {}, {}
    if "onnx" in formats:
        files["onnx"] = out / f"{card.name}.onnx"
        with atomic_write(files["onnx"]) as unfinished:
            unfinished.write_bytes(onnx)
    if "openvino" in formats:
        files["openvino"] = out / f"{card.name}.xml"
        weights_file = files["openvino"].with_suffix(".bin")
        xml, tensors = save_model(onnx)
        for path, content in ((weights_file, tensors), (files["openvino"], xml)):
            with atomic_write(path) as unfinished:
                unfinished.write_bytes(content)
        hashes[weights_file.name] = file_sha256(weights_file)
    hashes |= {path.name: file_sha256(path) for path in files.values()}
    export = Export(program, files, out / f"{card.name}.json", size, dynamic, multiple)
    write_json(export.description, {**_document(card, export), "sha256": hashes})
    return export


def _require_multiples(name: str, size: tuple[int, int], multiple: int) -> None:
    """Raise ValueError, naming the nearest size, for one that the network does not take."""
    width, height = size
    if min(size) < multiple or width % multiple or height % multiple:
        rounded = "x".join(str(max(1, round(side / multiple)) * multiple) for side in size)
        raise ValueError(
            f"{name} takes sizes that are multiples of {multiple} px, not {width}x{height}; the nearest is {rounded}"
        )


def _document(card: ModelCard, export: Export) -> dict[str, Any]:
    """Return what the JSON document says of the network and of its inputs and outputs."""
    width, height = export.size
    shape = [1, None, None] if export.dynamic else [1, height, width]
    return {
        "model": card.name, "weights_sha256": card.sha256, "options": card.options, "description": card.description,
        "inputs": [
            {"name": name, "type": "uint8", "shape": [*shape, 3], "content": "RGB"} for name in export.program.inputs
        ],
        "outputs": [
            {
                "name": name, "type": "float32", "shape": [1, 2 if name == "flow" else 1, *shape[1:]],
                "unit": _UNITS[name], "meaning": _MEANINGS[name],
            }
            for name in export.program.outputs
        ],
        "size_multiple": export.multiple, "opset": OPSET, "fg_depth_ros": __version__,
    }  # fmt: skip


def check_export(export: Export, pairs: Iterable[Sequence[np.ndarray]]) -> list[Difference]:
    """Compare the files with PyTorch over pairs of images, H x W x 3 uint8, resized to what the files take.

    Raises EngineError: what runs a file is not installed.
    """
    runs = {name: _opened(name, path, export.program) for name, path in export.files.items()}
    torch_run = INSTALLABLE["torch"].load(b"", export.program, "float32", _CPU)
    errors: dict[tuple[str, str], list[np.ndarray]] = {}
    for pair in pairs:
        size = export.size
        if export.dynamic:
            height, width = (max(1, side // export.multiple) * export.multiple for side in pair[0].shape[:2])
            size = (width, height)
        images = [np.ascontiguousarray(resize_image(image, *size)) for image in pair[: len(export.program.inputs)]]
        expected = torch_run(*images)
        for name, run in runs.items():
            for output, found, truth in zip(export.program.outputs, run(*images), expected, strict=True):
                errors.setdefault((name, output), []).append(np.abs(found - truth).ravel())
    differences = []
    for (name, output), each in errors.items():
        error = np.concatenate(each)
        figures = (float(error.mean()), float(np.percentile(error, 99)), float(error.max()))
        differences.append(Difference(name, output, _UNITS[output], *figures))
    return differences


def _opened(name: str, path: Path, program: Program) -> Callable[..., tuple[np.ndarray, ...]]:
    engine = INSTALLABLE[_ENGINES[name]]
    missing = engine.missing()
    if missing is not None:
        raise EngineError(f"{path} cannot be checked, {engine.name} {missing}")
    if name == "openvino":
        return load_model_file(path, program)
    return engine.load(path.read_bytes(), program, "float32", _CPU)
