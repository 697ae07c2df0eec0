"""Published checkpoints: every way in which a file can be wrong, then key by key what comes out of a right one."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import pytest
import torch
from support import efficientnet_reference
from support import flownet_reference as reference

from fg_depth_ros.networks import CheckpointError, ModelCard, create_model, load_checkpoint, load_model, save_checkpoint
from fg_depth_ros.networks.checkpoint import fingerprint, load_partial
from fg_depth_ros.networks.importing import import_checkpoint

NAMES = {
    "flownets": "flownet_s",
    "flownets_bn": "flownet_s",
    "flownetc": "flownet_c",
    "flownetc_bn": "flownet_c",
    "FlowNet2S": "flownet2_s",
    "FlowNet2C": "flownet2_c",
    "FlowNet2SD": "flownet2_sd",
    "FlowNet2CS": "flownet2_cs",
    "FlowNet2CSS": "flownet2_css",
    "FlowNet2": "flownet2",
}


@pytest.fixture
def write(tmp_path):
    """Writes a checkpoint as the public training scripts do; returns its path."""

    def save(arch, tensors=None, name="model_best.pth.tar", legacy=False, **more):
        tensors = reference.public_tensors(arch, width=1 / 32) if tensors is None else tensors
        stored = {"epoch": 300, "arch": arch, "state_dict": OrderedDict(tensors), "best_EPE": 1.951, **more}
        torch.save(stored, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        return tmp_path / name

    return save


def spoil(arch, change):
    tensors = reference.public_tensors(arch, width=1 / 32)
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("arch", "change", "message"),
    [
        ("flownets", lambda t: t.pop("conv4_1.0.bias"), "does not fit flownet_s.*: missing key conv4_1.0.bias$"),
        ("flownets", lambda t: t.pop("deconv5.0.weight"), "missing key deconv5.0.weight$"),
        ("flownetc", lambda t: t.pop("conv_redir.0.weight"), "flownet_c, .*: missing key conv_redir.0.weight$"),
        ("FlowNet2S", lambda t: t.pop("deconv5.0.bias"), "flownet2_s, .*: missing key deconv5.0.bias$"),
        ("FlowNet2C", lambda t: t.pop("upsampled_flow6_to_5.bias"), "missing key upsampled_flow6_to_5.bias$"),
        ("FlowNet2SD", lambda t: t.pop("conv0.0.weight"), "flownet2_sd, .*: missing key conv0.0.weight$"),
        ("FlowNet2", lambda t: t.pop("flownetfusion.predict_flow0.bias"), "flownet2, .*: missing key flownetfusion"),
        ("flownets_bn", lambda t: t.pop("conv1.1.running_var"), "missing key conv1.1.running_var$"),
        ("flownets", lambda t: t.update(extra=torch.zeros(1)), "flownet_s, .*: extra key extra$"),
        ("FlowNet2CS", lambda t: t.update({"flownets_1.conv7.0.weight": torch.zeros(1)}), "extra key flownets_1.conv7"),
        ("flownets", lambda t: t.update({"conv2.0.weight": torch.zeros(4, 2, 3, 3)}),
         r"wrong shape: conv2.0.weight \(4, 2, 3, 3\) instead of \(4, 2, 5, 5\)$"),
        ("flownetc", lambda t: t["conv1.0.weight"].fill_(float("nan")), "no numbers in key conv1.0.weight$"),
        ("flownets", lambda t: [t.pop(f"conv{i}.0.bias") for i in range(1, 7)],
         "missing keys conv1.0.bias, conv2.0.bias, conv3.0.bias and 3 more$"),
    ],
)  # fmt: skip
def test_a_key_that_does_not_fit_is_named(write, arch, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        import_checkpoint(write(arch, spoil(arch, change)))
    assert "model_best.pth.tar" in str(caught.value)


def test_another_architecture_is_named(write, tmp_path):
    resnet = {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}
    with pytest.raises(CheckpointError, match=r"another architecture \(its keys begin with 'conv1.weight', 'layer1"):
        import_checkpoint(write("resnet18", resnet))
    with pytest.raises(CheckpointError, match="calls itself 'flownetc', but its keys are those of flownet_s"):
        import_checkpoint(write("flownetc", reference.public_tensors("flownets", width=1 / 32)))
    torch.save(create_model("flownet_stereo", max_disparity=64).state_dict(), tmp_path / "stereo.pth")
    with pytest.raises(CheckpointError, match=r"stereo\.pth holds another architecture"):
        import_checkpoint(tmp_path / "stereo.pth")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("keep", [0, 5, 1000, -10, -1])
def test_a_truncated_file_is_named(write, keep, legacy):
    path = write("flownets", legacy=legacy)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        CheckpointError, match=r"model_best\.pth\.tar is not a readable PyTorch checkpoint; it may be truncated"
    ):
        import_checkpoint(path)


def test_files_of_another_kind_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist"):
        import_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"is a folder; give the path of a downloaded \.pth"):
        import_checkpoint(tmp_path)
    path = tmp_path / "file.pth"
    for text in (b"version https://git-lfs.github.com/spec/v1\noid sha256:0cfadc4e\n", b"checkpoints\nare elsewhere\n"):
        path.write_bytes(text)
        with pytest.raises(
            CheckpointError, match=r"file\.pth is not a readable PyTorch checkpoint; it may be truncated or of another"
        ):
            import_checkpoint(path)
    for content, message in (
        ([1, 2], "holds a list, not a checkpoint"),
        ({"state_dict": {}}, "holds no state_dict with tensors"),
        ({"state_dict": [1]}, "holds no state_dict with tensors"),
        ({"epoch": 3, "arch": "flownets"}, "'epoch' in its state_dict is a int, not a tensor"),
        ({"state_dict": {"conv1.0.weight": 3.0}}, "'conv1.0.weight' in its state_dict is a float, not a tensor"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            import_checkpoint(path)
    own = tmp_path / "own.safetensors"
    save_checkpoint(own, create_model("flownet_s", width=1 / 64), ModelCard("flownet_s", {"width": 1 / 64}))
    with pytest.raises(CheckpointError, match=r"own\.safetensors is a safetensors file; .* used as it is"):
        import_checkpoint(own)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_refused_and_not_run(write, tmp_path, legacy):
    trace = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (open, (str(trace), "w"))

    with pytest.raises(CheckpointError, match=r"model_best\.pth\.tar would run \S*open while it is read, .* refused"):
        import_checkpoint(write("flownets", legacy=legacy, best_EPE=Bomb()))
    assert not trace.exists()


def test_what_the_file_says_of_the_scale_is_used_or_named(write):
    assert import_checkpoint(write("flownets_bn", div_flow=1))[0].flow_scale == 1.0
    assert import_checkpoint(write("flownets", div_flow="20"))[1].options["flow_scale"] == 20.0
    for wrong in ("twenty", 0, float("nan"), [20]):
        with pytest.raises(CheckpointError, match=r"its div_flow is .*, not a positive number"):
            import_checkpoint(write("flownets", div_flow=wrong))


@pytest.mark.parametrize("arch", NAMES)
@pytest.mark.parametrize("wrapper", ["", "module.", "module.model."])
def test_every_tensor_arrives_under_its_key(write, arch, wrapper):
    tensors = reference.public_tensors(arch, width=1 / 32)
    network, card = import_checkpoint(
        write(arch, {wrapper + key: t for key, t in tensors.items()}, legacy=bool(wrapper))
    )
    assert card.name == NAMES[arch] and not network.training
    state = network.state_dict()
    assert state.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(state[key], tensor), key
    assert card.options["width"] == 1 / 32
    assert card.options["batch_norm"] == arch.endswith("_bn")
    assert card.options["normalization"] == ("pair_mean" if arch.startswith("FlowNet2") else "fixed")
    assert card.options["channel_order"] == "rgb" and card.options["flow_scale"] == 20.0
    assert card.sha256 == fingerprint(state)


@pytest.mark.parametrize("arch", ["flownets", "flownetc_bn", "FlowNet2C", "FlowNet2SD"])
def test_the_imported_network_answers_as_the_public_one(write, arch):
    network, _ = import_checkpoint(write(arch))
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, 1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        expected = reference.answer(arch, reference.public_tensors(arch, width=1 / 32), first, second)
        assert expected.std() > 0.1
        assert (network(first, second).flow - expected).abs().max() < 1e-4


def test_the_network_from_caffe_wants_blue_first(write):
    tensors = reference.public_tensors("flownets", width=1 / 32)
    turned = dict(tensors)
    turned["conv1.0.weight"] = tensors["conv1.0.weight"][:, [2, 1, 0, 5, 4, 3]]
    blue_first, card = import_checkpoint(write("flownets", turned, name="flownets_from_caffe.pth"))
    red_first, _ = import_checkpoint(write("flownets", tensors))
    assert card.options["channel_order"] == "bgr" and card.description["input"].startswith("BGR in [0, 1]")
    first, second = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.allclose(blue_first(first, second).flow, red_first(first, second).flow, atol=1e-4)
    named, card = import_checkpoint(write("flownets", turned), channel_order="bgr")
    assert named.channel_order == card.options["channel_order"] == "bgr"
    with pytest.raises(ValueError, match="channel_order must be auto, rgb or bgr, got 'grb'"):
        import_checkpoint(write("flownets"), channel_order="grb")


def test_old_and_bare_files_are_read(write, tmp_path):
    old = reference.public_tensors("flownets_bn", width=1 / 32, counted=False)
    network, _ = import_checkpoint(write("flownets_bn", old))
    assert torch.equal(network.state_dict()["conv6_1.1.running_var"], old["conv6_1.1.running_var"])
    torch.save(OrderedDict(reference.public_tensors("flownetc", width=3 / 8)), tmp_path / "bare.pth")
    network, card = import_checkpoint(tmp_path / "bare.pth")
    assert card.name == "flownet_c" and card.options["width"] == 3 / 8
    assert "arch" not in card.description["source"]


@pytest.mark.parametrize(
    ("spoiled", "out", "message"),
    [
        (True, "out.safetensors", "model_best.pth.tar is not a readable PyTorch checkpoint"),
        (False, "out.pth", "out.pth must end in .safetensors"),
        (False, "folder.safetensors", "folder.safetensors: is a folder, not a file; give the name of the file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run, write, tmp_path, spoiled, out, message):
    path, results = write("flownets"), tmp_path / "results"
    (results / "folder.safetensors").mkdir(parents=True)
    if spoiled:
        path.write_bytes(path.read_bytes()[:-500])
    status, text = run("import", path, "--out", results / out)
    assert status == 1 and message in text and "Traceback" not in text
    assert [p.name for p in results.iterdir()] == ["folder.safetensors"]


def test_the_command_writes_weights_that_answer_the_same(run, write, tmp_path):
    path, out = write("FlowNet2CS"), tmp_path / "results" / "cs.safetensors"
    status, text = run("import", path, "--out", out)
    assert status == 0, text
    assert "flownet2_cs" in text and "RGB in [0, 1], red, green, blue minus the mean of every channel" in text
    loaded, card = load_model(out)
    assert [p.name for p in out.parent.iterdir()] == ["cs.safetensors"]
    assert card.description["source"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card.description["source"]["arch"] == "FlowNet2CS" and card.description["source"]["best_EPE"] == 1.951
    first, second = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(first, second).flow, import_checkpoint(path)[0](first, second).flow)


# ---- the encoder of depthnet_efficient


def test_the_imported_encoder_computes_what_the_published_one_does(tmp_path):
    tensors = efficientnet_reference.public_tensors()
    torch.save(tensors, tmp_path / "efficientnet-lite0.pth")
    network, card = import_checkpoint(tmp_path / "efficientnet-lite0.pth")
    assert card.name == "efficientnet_lite0" and card.options == {} and not network.training
    assert card.description["licence"] == "Apache-2.0" and "Google" in card.description["attribution"]
    # In double precision: random weights blow rounding up a thousandfold from block to block.
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        every = efficientnet_reference.features({key: tensor.double() for key, tensor in tensors.items()}, image)
        levels = network["encoder"].double()(image)
        for level, expected in zip(levels, (every[i] for i in (0, 2, 4, 10, 15)), strict=True):
            assert expected.std() > 0.1
            torch.testing.assert_close(level, expected, rtol=0, atol=1e-6)


def test_an_encoder_starts_the_depth_network_and_nothing_else(run, tmp_path):
    tensors = efficientnet_reference.public_tensors()
    torch.save(tensors, tmp_path / "efficientnet-lite0.pth")
    out = tmp_path / "encoder.safetensors"
    status, text = run("import", tmp_path / "efficientnet-lite0.pth", "--out", out)
    assert status == 0, text
    assert "efficientnet_lite0, 2,958,848 parameters" in text and "licence: Apache-2.0" in text
    depth = create_model("depthnet_efficient")
    fresh = load_partial(depth, load_checkpoint(out)[0])
    assert not any(name.startswith("encoder.") for name in fresh)
    stem, last = depth.encoder.stem, depth.encoder.blocks[15]
    assert torch.equal(stem.conv.weight, tensors["_conv_stem.weight"])
    assert torch.equal(last.project.norm.running_var, tensors["_blocks.15._bn2.running_var"])
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors holds 'efficientnet_lite0', the encoder of"):
        load_model(out)


def test_a_wrong_encoder_is_named(tmp_path):
    path = tmp_path / "encoder.pth"
    for change, message in (
        (lambda t: t.pop("_blocks.3._bn1.weight"), "missing key blocks.3.depthwise.norm.weight$"),
        (lambda t: t.update({"_blocks.0._se_reduce.weight": torch.zeros(1)}), "extra key _blocks.0._se_reduce.weight$"),
        (lambda t: t.update({"_conv_stem.weight": torch.zeros(40, 3, 3, 3)}), r"stem.conv.weight \(40, 3, 3, 3\)"),
    ):
        tensors = efficientnet_reference.public_tensors()
        change(tensors)
        torch.save(tensors, path)
        with pytest.raises(CheckpointError, match=rf"encoder\.pth does not fit efficientnet_lite0.*{message}"):
            import_checkpoint(path)
