"""Networks by name, fresh or with weights."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fg_depth_ros.networks.checkpoint import CheckpointError, ModelCard, load_checkpoint
from fg_depth_ros.networks.depthnet import DepthNet
from fg_depth_ros.networks.depthnet_efficient import EFFICIENTNET, DepthNetEfficient
from fg_depth_ros.networks.depthnet_lite import DepthNetLite
from fg_depth_ros.networks.flownet import FlowNetC, FlowNetS
from fg_depth_ros.networks.flownet2 import FlowNet2, FlowNet2CS, FlowNet2CSS, FlowNet2SD
from fg_depth_ros.networks.flownet_lite import FlowNetLite
from fg_depth_ros.networks.flownet_stereo import FlowNetStereo
from fg_depth_ros.networks.quantization import Quantizable, checked_ranges

STEREO_MODELS: dict[str, Callable[..., torch.nn.Module]] = {"flownet_stereo": FlowNetStereo}
FLOW_MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "flownet_lite": FlowNetLite,
    "flownet_s": FlowNetS,
    "flownet_c": FlowNetC,
    "flownet2": FlowNet2,
    "flownet2_s": partial(FlowNetS, decoder_bias=True, normalization="pair_mean"),
    "flownet2_c": partial(FlowNetC, decoder_bias=True, flow_bias=True, normalization="pair_mean"),
    "flownet2_cs": FlowNet2CS,
    "flownet2_css": FlowNet2CSS,
    "flownet2_sd": FlowNet2SD,
}
DEPTH_MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "depthnet_lite": DepthNetLite,
    "depthnet_efficient": DepthNetEfficient,
    "depthnet_r18": partial(DepthNet, 18),
    "depthnet_r50": partial(DepthNet, 50),
}
MODELS = STEREO_MODELS | FLOW_MODELS | DEPTH_MODELS
WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "weights"


def create_model(name: str, **options: Any) -> torch.nn.Module:
    """Make a network with fresh weights. Raises ValueError: unknown name, or options that the network does not take."""
    if name not in MODELS:
        raise ValueError(f"unknown model '{name}'; known: {', '.join(sorted(MODELS))}")
    try:
        return MODELS[name](**options)
    except TypeError as error:
        known = _options_of(name)
        if unknown := [option for option in options if option not in known]:
            raise ValueError(f"{name} has no option '{unknown[0]}'; it has {', '.join(known)}") from error
        raise ValueError(f"model '{name}' does not take these options ({options}): {error}") from error


def _options_of(name: str) -> list[str]:
    """Return the options that a network takes: those of its constructor, then those that this hands on to its bases."""
    constructor: Any = MODELS[name]
    parameters = inspect.signature(constructor).parameters.values()
    own = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    with torch.device("meta"):  # nothing is allocated
        return list(dict.fromkeys([*own, *constructor().options]))


def weights_path(source: str | Path) -> Path:
    """Return the file of a model's shipped weights, or the path given."""
    return WEIGHTS_DIR / f"{source}.safetensors" if str(source) in MODELS else Path(source)


def has_weights(name: str) -> bool:
    """Tell whether weights of this model come with the package."""
    return name in MODELS and weights_path(name).is_file()


def load_model(source: str | Path, device: str | torch.device = "cpu") -> tuple[torch.nn.Module, ModelCard]:
    """Load a network with weights, in evaluation mode.

    ``source``: name of a model with shipped weights, or path of a weights file. Raises CheckpointError: no such file,
    damaged, or its tensors do not fit the network its card names.
    """
    path = weights_path(source)
    if path == Path(path.name) and not path.suffix and not os.path.exists(path):  # a name rather than a file
        known = sorted(filter(has_weights, MODELS))
        nearest = difflib.get_close_matches(path.name, known, n=1)
        advice = f"; did you mean {nearest[0]}?" if nearest else ""
        raise CheckpointError(
            f"weights file {path} does not exist, and no model of this name comes with weights; choose one of "
            f"{', '.join(known)}, or give the path of a .safetensors file{advice}"
        )
    tensors, card = load_checkpoint(path)
    if card.name == EFFICIENTNET:
        raise CheckpointError(
            f"{path} holds '{card.name}', the encoder of depthnet_efficient alone: train that network from it, with "
            "load_partial"
        )
    try:
        with torch.device("meta"):  # shapes alone: options may ask for more than the memory
            wanted = {
                name: tensor.shape for name, tensor in create_model(card.name, **card.options).state_dict().items()
            }
        if wrong := sorted(
            name for name in {*wanted, *tensors} if name not in wanted or name not in tensors
            or wanted[name] != tensors[name].shape
        ):  # fmt: skip
            raise ValueError(
                f"{len(wrong)} of its tensors differ from those that its options ask for, first {wrong[0]}"
            )
        model = create_model(card.name, **card.options)
        model.load_state_dict(tensors)
        int8 = card.description.get("int8")
        if isinstance(model, Quantizable) and isinstance(int8, dict) and int8.get("sha256") == card.sha256:
            # Else the ranges are of the weights that these come from.
            model.int8_ranges = checked_ranges(model, int8.get("ranges"))
    except Exception as error:  # a card's options break a constructor in any way
        raise CheckpointError(f"{path} does not fit the network '{card.name}': {error}") from error
    return model.to(device).eval(), card
