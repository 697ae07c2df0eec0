"""Matchers on pairs whose disparity is known because they were made by shifting."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
import torch
from support import flownet_reference

from fg_depth_ros.data.datasets.stereo import motorcycle
from fg_depth_ros.inference import FlowConfig, FlowEstimator, ModelError, StereoConfig, StereoDepthEstimator
from fg_depth_ros.inference.estimator import choose_device, find_device, fold_batch_norm
from fg_depth_ros.inference.matchers import widened
from fg_depth_ros.networks import ModelCard, create_model, has_weights, import_checkpoint, save_checkpoint

SHIPPED = [name for name in StereoConfig.known_models() if name in StereoConfig.classical or has_weights(name)]


def estimator(model, **options):
    return StereoDepthEstimator(StereoConfig(model=model, **options))


def shifted_pair(disparity: int, height: int = 96, width: int = 256):
    """left(x) = right(x - d), of one picture of a scene; uint8 RGB."""
    picture = motorcycle().images()[0]
    across = width + 80
    scene = cv2.resize(picture, (across, across * picture.shape[0] // picture.shape[1]), interpolation=cv2.INTER_AREA)
    rows = slice((len(scene) - height) // 2, (len(scene) + height) // 2)
    return scene[rows, 40 : 40 + width].copy(), scene[rows, 40 + disparity : 40 + disparity + width].copy()


@pytest.mark.parametrize("model", SHIPPED)
@pytest.mark.parametrize(("disparity", "first"), [(10, 0), (33, 0), (12, 7), (-9, -16)])
def test_a_known_shift_is_found_from_any_start_of_the_search(model, disparity, first):
    left, right = shifted_pair(disparity)
    answer = estimator(model, min_disparity=first).match(left, right)
    assert answer.disparity.shape == left.shape[:2]
    assert answer.disparity.dtype == np.float32
    inner = answer.disparity[8:-8, 48:-48]
    assert np.nanmedian(inner) == pytest.approx(disparity, abs=0.15)
    assert np.nanmean(np.abs(inner - disparity) < 1) > 0.97
    if answer.sigma is not None:
        assert answer.sigma.shape == left.shape[:2]
        assert (answer.sigma > 0).all()


@pytest.mark.parametrize("model", SHIPPED)
@pytest.mark.parametrize("size", [(97, 251), (64, 208)])
def test_any_size_and_grey_images(model, size):
    left, right = (image[: size[0], : size[1], 0].copy() for image in shifted_pair(20, 128, 256))
    answer = estimator(model).match(left, right)
    assert answer.disparity.shape == size
    assert np.nanmedian(answer.disparity[:, 48:]) == pytest.approx(20, abs=0.3)


@pytest.mark.parametrize("arch", flownet_reference.ARCHITECTURES)
def test_every_published_flow_network_matches_pairs_as_it_finds_flow(tmp_path, arch):
    torch.save({"arch": arch, "state_dict": flownet_reference.public_tensors(arch, width=1 / 32)}, tmp_path / "w.pth")
    network, card = import_checkpoint(tmp_path / "w.pth")
    path = str(tmp_path / "w.safetensors")
    save_checkpoint(path, network, card)
    with pytest.raises(ModelError, match=r"w\.pth is a PyTorch checkpoint; 'fg-depth import w\.pth"):
        StereoDepthEstimator(StereoConfig(card.name, str(tmp_path / "w.pth")))
    runs = {"weights": path, "engine": "torch", "precision": "float32"}
    stereo = StereoDepthEstimator(StereoConfig(card.name, **runs))
    left, right = shifted_pair(10, height=70, width=130)
    match = stereo.match(left, right)
    flow = FlowEstimator(FlowConfig(card.name, **runs)).estimate(left, right).flow
    np.testing.assert_array_equal(match.disparity, -flow[..., 0])
    np.testing.assert_array_equal(match.vertical, flow[..., 1])
    assert match.vertical.std() > 0 and match.sigma is None
    # A rig whose infinity lies elsewhere: images moved towards each other, and the answer moved back.
    wide_left, wide_right, first = widened(left, right, -6)
    moved = FlowEstimator(FlowConfig(card.name, **runs)).estimate(wide_left, wide_right).flow[:, first:]
    np.testing.assert_array_equal(stereo.match(left, right, doffs=6.0).disparity, -6 - moved[..., 0])


def test_widened_borders_lose_nothing():
    left, right = np.arange(12, dtype=np.uint8).reshape(2, 6), np.arange(12, dtype=np.uint8).reshape(2, 6) + 50
    wide_left, wide_right, first = widened(left, right, -2)
    assert wide_left.shape == wide_right.shape == (2, 8)
    assert first == 2
    assert (wide_left[:, 2:] == left).all()
    assert (wide_right[:, :6] == right).all()
    wide_left, wide_right, first = widened(left, right, 3)
    assert first == 0
    assert (wide_left[:, :6] == left).all()
    assert (wide_right[:, 3:] == right).all()


def test_folding_batch_norms_changes_no_answer():
    torch.manual_seed(0)
    net = create_model("flownet_stereo", max_disparity=64)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training
            module.running_mean.normal_(0, 0.3), module.running_var.uniform_(0.5, 2)
    net.eval()
    left, right = torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        before = net.encoder(torch.cat([left, right]))
        fold_batch_norm(net)
        after = net.encoder(torch.cat([left, right]))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_every_wrong_choice_is_named_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match="'raft' is unknown; choose one of flownet_stereo, flownet2"):
        estimator("raft")
    with pytest.raises(ModelError, match=r"nothing\.safetensors does not exist"):
        estimator("flownet_stereo", weights=str(tmp_path / "nothing.safetensors"))
    with pytest.raises(ValueError, match="precision 'int3' is unknown; choose one of auto, float32"):
        estimator("flownet_stereo", precision="int3")
    with pytest.raises(ModelError, match="device 'quantum' cannot be used here .*use auto, cpu or cuda:N"):
        choose_device("quantum")
    with pytest.raises(ModelError, match="device 'meta' cannot be used here"):
        choose_device("meta")
    count = torch.cuda.device_count()
    words = f"device 'cuda:{count}' cannot be used here (PyTorch finds {count or 'no'} GPU"
    with pytest.raises(ModelError, match=re.escape(words)):
        find_device(f"cuda:{count}")
    assert find_device("cpu") == torch.device("cpu")


def test_weights_of_another_network_are_refused(tmp_path, monkeypatch):
    from fg_depth_ros.networks import MODELS

    monkeypatch.setitem(MODELS, "another_net", lambda: torch.nn.Linear(1, 1))
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, torch.nn.Linear(1, 1), ModelCard("another_net"))
    with pytest.raises(ModelError, match="holds weights of 'another_net', not of 'flownet_stereo'"):
        estimator("flownet_stereo", weights=str(path))


def test_bfloat16_answers_nearly_the_same():
    left, right = shifted_pair(21)
    full = estimator("flownet_stereo").match(left, right).disparity
    half = estimator("flownet_stereo", precision="bfloat16").match(left, right).disparity
    assert np.median(np.abs(full - half)) < 0.2
