"""Weights files: round trip, and every way in which they can be wrong."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from fg_depth_ros.networks import CheckpointError, ModelCard, create_model, load_model, registry, save_checkpoint
from fg_depth_ros.networks.checkpoint import fingerprint, load_tensors, save_tensors


@pytest.fixture
def stored(tmp_path):
    torch.manual_seed(0)
    net = create_model("flownet_stereo", max_disparity=64)
    path = tmp_path / "weights.safetensors"
    card = save_checkpoint(
        path, net, ModelCard("flownet_stereo", {"max_disparity": 64}, description={"seed": 0, "licence": "Apache-2.0"})
    )
    return net, path, card


def test_round_trip_keeps_tensors_options_and_description(stored):
    net, path, card = stored
    back, found = load_model(path)
    assert found == card
    assert found.sha256 == fingerprint(net.state_dict())
    assert found.description["licence"] == "Apache-2.0"
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name])
    assert list(path.parent.iterdir()) == [path]  # nothing half written lies about


def test_the_hash_sees_values_names_and_shapes():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "c": torch.ones(2)},
        {"a": torch.zeros(2, 3), "b": torch.tensor([1.0, 1.0000001])},
        {"a": torch.zeros(2, 3), "b": torch.ones(2, dtype=torch.float64)},
    ]
    assert len({fingerprint(t) for t in [base, *others]}) == 5


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_named(stored, keep):
    _, path, _ = stored
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is not a readable safetensors file"):
        load_model(path)


def test_a_flipped_byte_is_found(stored):
    _, path, _ = stored
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged: contents hash to"):
        load_model(path)


def test_missing_file_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors does not exist"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a folder, a pipe or a device; give the path of a .safetensors file"):
        load_model(tmp_path)
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\x80\x04not safe at all" * 100)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_model(garbage)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(CheckpointError, match="not written by fg_depth_ros"):
        load_model(foreign)


def test_pickles_are_never_opened(tmp_path):
    bomb, trace = tmp_path / "model.safetensors", tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (open, (str(trace), "w"))

    torch.save({"state_dict": Bomb()}, bomb)
    with pytest.raises(CheckpointError):
        load_model(bomb)
    assert not trace.exists()


def test_another_architecture_is_named(stored, tmp_path):
    net, _, _ = stored
    wrong = tmp_path / "wrong.safetensors"
    save_checkpoint(wrong, net, ModelCard("flownet_stereo", {"max_disparity": 96}))
    with pytest.raises(CheckpointError, match=r"wrong\.safetensors does not fit the network 'flownet_stereo'"):
        load_model(wrong)
    save_checkpoint(wrong, net, ModelCard("flownet_of_the_future", {}))
    with pytest.raises(CheckpointError, match="unknown model 'flownet_of_the_future'"):
        load_model(wrong)


def test_a_card_of_another_kind_is_named(tmp_path):
    odd = tmp_path / "odd.safetensors"
    save_file({"a": torch.zeros(1)}, odd, metadata={"fg_depth": json.dumps({"training": {"steps": 1}})})
    with pytest.raises(CheckpointError, match="holds no network"):
        load_model(odd)


# ---- cards and values that nothing should run with ------------------------------------------------------------------


def rewritten(path, change):
    """Change the description in a weights file; its tensors stay."""
    tensors, document = load_tensors(path)
    change(document)
    save_tensors(path, tensors, document)


@pytest.mark.parametrize(
    ("field", "value"), [("sha256", None), ("sha256", 7), ("options", []), ("name", None), ("description", "x")]
)
def test_a_card_of_wrong_types_is_named(stored, field, value):
    _, path, _ = stored
    rewritten(path, lambda document: document["model"].update({field: value}))
    with pytest.raises(CheckpointError, match=rf"weights\.safetensors is damaged: {field} of its card is"):
        load_model(path)


@pytest.mark.parametrize("document", [b"[]", b"7", b"[" * 20_000])
def test_a_description_that_is_no_object_is_named(tmp_path, document):
    path = tmp_path / "odd.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"fg_depth": document.decode()})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors has no fg_depth description"):
        load_model(path)


def test_the_hash_covers_what_the_network_is_built_from(stored, tmp_path):
    network = create_model("depthnet_lite", width=64, height=32)
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, network, ModelCard("depthnet_lite", network.options))
    rewritten(path, lambda document: document["model"]["options"].update(focal=1.0))
    with pytest.raises(CheckpointError, match="the name or the options in its card were changed"):
        load_model(path)
    rewritten(path, lambda document: document.pop("sha256"))  # as files of 0.1 are
    assert load_model(path)[0].focal == 1.0


@pytest.mark.parametrize("options", [{"features": [32, 80, 10**5]}, {"max_disparity": 4 * 10**9}, {"refine": "x"}])
def test_options_are_compared_with_the_file_before_anything_is_allocated(stored, monkeypatch, options):
    _, path, _ = stored
    made = []
    build = registry.create_model
    monkeypatch.setattr(
        registry, "create_model", lambda *a, **k: made.append(torch.get_default_device()) or build(*a, **k)
    )
    rewritten(path, lambda document: (document.pop("sha256"), document["model"]["options"].update(options)))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors does not fit the network 'flownet_stereo'"):
        load_model(path)
    assert [device.type for device in made] == ["meta"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_a_right_hash(stored, value):
    net, path, card = stored
    next(iter(net.parameters())).data.view(-1)[3] = value
    save_checkpoint(path, net, card)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors cannot be used: values of .* are not finite"):
        load_model(path)


def test_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model("x" * 256)


def test_a_misspelt_model_is_told_from_a_missing_file(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"choose one of depthnet_eff.*flownet_stereo.*; did you mean flownet_stereo\?$"
    ):
        load_model("flownet_steroe")
    with pytest.raises(CheckpointError, match=r"runs/best does not exist; give the path of a \.safetensors file$"):
        load_model(tmp_path / "runs" / "best")


@pytest.mark.parametrize("name", sorted(registry.MODELS))
def test_every_network_has_shapes_without_memory(name):
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in create_model(name).state_dict().items()}
    assert shapes
