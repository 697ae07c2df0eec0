"""FlowNet 2.0: its wiring against a second implementation without modules, and its parts by hand."""

from __future__ import annotations

import pytest
import torch
from support import flownet_reference as reference

from fg_depth_ros.networks import create_model
from fg_depth_ros.networks.flow import warp
from fg_depth_ros.networks.flownet2 import length, resample

NAMES = {
    "FlowNet2S": "flownet2_s",
    "FlowNet2C": "flownet2_c",
    "FlowNet2SD": "flownet2_sd",
    "FlowNet2CS": "flownet2_cs",
    "FlowNet2CSS": "flownet2_css",
    "FlowNet2": "flownet2",
}


def frames(height: int, width: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(batch, 3, height, width, generator=generator)
    return first, torch.rand(batch, 3, height, width, generator=generator)


@pytest.mark.parametrize("name", NAMES.values())
def test_bad_frames_and_options_are_named(name):
    with pytest.raises(ValueError, match=f"{name} has no option 'colour'; it has .*flow_scale"):
        create_model(name, colour="blue")
    with pytest.raises(ValueError, match="width must be a positive factor"):
        create_model(name, width=-1)
    net = create_model(name, width=1 / 64)
    with pytest.raises(ValueError, match=r"got \(1, 3, 64, 64\) and \(1, 3, 128, 64\)"):
        net(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 128, 64))
    with pytest.raises(ValueError, match="multiples of 64, got 65x64"):
        net.train()(torch.zeros(1, 3, 64, 65), torch.zeros(1, 3, 64, 65))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("flownet2_s", 38_676_506),
        ("flownet2_c", 39_175_298),
        ("flownet2_cs", 77_870_620),
        ("flownet2_css", 116_565_942),
        ("flownet2_sd", 45_371_666),
        ("flownet2", 162_518_834),
    ],
)
def test_parameter_counts(name, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in create_model(name).parameters()) == count


@pytest.mark.parametrize("arch", NAMES)
def test_the_flow_is_that_of_a_second_implementation(arch):
    tensors = reference.public_tensors(arch, width=1 / 32)
    net = create_model(NAMES[arch], width=1 / 32).eval()
    net.load_state_dict(tensors)  # every key, none more
    first, second = frames(64, 64)
    with torch.no_grad():
        ours, theirs = net(first, second).flow, reference.answer(arch, tensors, first, second)
    assert ours.shape == theirs.shape == (1, 2, 64, 64)
    assert theirs.std() > (0.1 if arch == "FlowNet2" else 1)
    assert (ours - theirs).abs().max() < 1e-4


def test_the_wiring_is_exact_in_float64():
    tensors = {key: t.double() for key, t in reference.public_tensors("FlowNet2", width=1 / 32, seed=1).items()}
    net = create_model("flownet2", width=1 / 32).double().eval()
    net.load_state_dict(tensors)
    first, second = (image.double() for image in frames(64, 64))
    with torch.no_grad():
        ours, theirs = net(first, second).flow, reference.answer("FlowNet2", tensors, first, second)
    assert (ours - theirs).abs().max() < 1e-10


def test_what_a_stacked_network_sees():
    net = create_model("flownet2_cs", width=1 / 64)
    first, second = frames(64, 128)
    flow = torch.zeros(1, 2, 64, 128)
    flow[:, 0], flow[:, 1] = 8.0, -4.0
    seen = net.stacked(first, second, flow)
    assert seen.shape == (1, 12, 64, 128)
    assert torch.equal(seen[:, :6], torch.cat([first, second], 1))
    assert torch.equal(seen[:, 6:9, 4:, :-8], second[:, :, :-4, 8:])
    assert torch.allclose(seen[:, 9:11, 5, 7], torch.tensor([[0.4, -0.2]]))
    error = ((first[0, :, 10, 20] - second[0, :, 6, 28]) ** 2).sum().sqrt()
    assert seen[0, 11, 10, 20].item() == pytest.approx(error.item(), abs=1e-6)


def test_the_fusion_answers_in_pixels_at_three_resolutions():
    net = create_model("flownet2", width=1 / 64).train()
    with torch.no_grad():
        for parameter in net.flownetfusion.parameters():
            parameter.zero_()
        for level, bias in ((0, (3.0, -2.0)), (1, (1.0, 4.0)), (2, (-5.0, 6.0))):
            net.flownetfusion.get_submodule(f"predict_flow{level}").bias.copy_(torch.tensor(bias))
        prediction = net(*frames(64, 128))
    assert [tuple(level.shape[-2:]) for level in prediction.levels] == [(64, 128), (32, 64), (16, 32)]
    assert prediction.flow[0, :, 9, 9].tolist() == [3.0, -2.0]
    assert [level[0, :, 3, 3].tolist() for level in prediction.levels] == [[3, -2], [1, 4], [-5, 6]]


def test_css_repeats_its_answer_and_cs_interpolates():
    for name, part in (("flownet2_css", "flownets_2"), ("flownet2_cs", "flownets_1")):
        torch.manual_seed(1)
        net = create_model(name, width=1 / 32).eval()
        seen = {}
        net.get_submodule(f"{part}.predict_flow2").register_forward_hook(
            lambda _module, _inputs, output, seen=seen: seen.update(flow=output.clone())
        )
        with torch.no_grad():
            flow = net(*frames(64, 64)).flow
        enlarging = reference.nearest if name == "flownet2_css" else reference.bilinear
        assert torch.allclose(flow, enlarging(20 * seen["flow"]), atol=1e-5)


@pytest.mark.parametrize("name", NAMES.values())
def test_every_parameter_learns(name):
    torch.manual_seed(2)
    net = create_model(name, width=1 / 32).train()
    prediction = net(*frames(64, 128))
    sum(level.square().sum() for level in prediction.levels).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), key


@pytest.mark.parametrize("name", ["flownet2", "flownet2_css"])
def test_batch_norm_any_size_and_bfloat16(name):
    torch.manual_seed(3)
    net = create_model(name, width=1 / 32, batch_norm=True).eval()
    first, second = frames(70, 90, batch=2)
    with torch.no_grad():
        exact = net(first, second).flow
        alone = net(first[1:], second[1:]).flow
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = net(first, second).flow
    assert exact.shape == (2, 2, 70, 90)
    assert torch.allclose(exact[1:], alone, atol=1e-3)
    assert rounded.dtype == torch.float32 and torch.isfinite(rounded).all()
    assert (rounded - exact).norm() < 0.2 * exact.norm()


def test_resample_by_hand():
    picture = torch.tensor([[0.0, 10.0, 20.0], [100.0, 110.0, 120.0]]).view(1, 1, 2, 3)
    flow = torch.zeros(1, 2, 2, 3)
    flow[0, :, 0, 0] = torch.tensor([0.5, 0.25])  # (.5, .25): 5 + 25
    flow[0, :, 0, 2] = torch.tensor([7.0, -3.0])  # beyond the corner: the corner
    flow[0, :, 1, 0] = torch.tensor([-0.5, 0.0])  # left of the border: the border
    flow[0, :, 1, 1] = torch.tensor([0.75, -1.0])  # (1.75, 0)
    assert resample(picture, flow)[0, 0].tolist() == [[30.0, 10.0, 20.0], [100.0, 17.5, 120.0]]


def test_resample_is_warp_with_exact_coordinates():
    torch.manual_seed(4)
    picture, flow = torch.rand(2, 3, 24, 40), 30 * torch.randn(2, 2, 24, 40)
    assert torch.allclose(resample(picture, flow), warp(picture, flow), atol=1e-4)
    exact = reference.read(picture.double(), flow.double())
    assert (resample(picture, flow) - exact).abs().max() < 2e-5  # float32 coordinates around 100 px
    ours, theirs = flow.clone().requires_grad_(), flow.clone().requires_grad_()
    inside = torch.rand(2, 3, 24, 40)
    (resample(picture, ours / 30) * inside).sum().backward()
    (warp(picture, theirs / 30) * inside).sum().backward()
    assert torch.quantile((ours.grad - theirs.grad).abs(), 0.99) < 1e-4  # at whole pixels either side may be taken


def test_a_flow_that_is_no_number_stays_one():
    picture, flow = torch.rand(1, 3, 8, 8), torch.zeros(1, 2, 8, 8)
    flow[0, 0, 2, 3], flow[0, 1, 4, 5] = float("nan"), float("inf")
    seen = resample(picture, flow)
    assert seen[0, :, 2, 3].isnan().all() and not seen[0, :, 4, 5].isfinite().any()
    assert torch.isfinite(seen).sum() == 3 * 62


def test_length_by_hand_and_its_gradient_at_zero():
    vectors = torch.tensor([[3.0, 0.0], [4.0, 0.0]]).view(1, 2, 1, 2).requires_grad_()
    lengths = length(vectors)
    assert lengths.flatten().tolist() == [5.0, 0.0]
    lengths.sum().backward()
    assert vectors.grad.view(2, 2).T.tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0]]
