"""FlowNetS and FlowNetC: the papers' table, answers known by hand, and a second implementation without modules."""

from __future__ import annotations

import pytest
import torch
from support import flownet_reference as reference

from fg_depth_ros.networks import ModelCard, create_model, load_model, save_checkpoint
from fg_depth_ros.networks.flownet import enlarge

TINY = 1 / 64  # 1, 2, 4, 8, 16 channels


def silent(name: str, **options) -> torch.nn.Module:
    """A network whose every weight and bias is zero."""
    net = create_model(name, **{"width": TINY, "decoder_bias": True, "flow_bias": True, **options}).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    return net


def frames(height: int, width: int, seed: int = 0, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, height, width, generator=generator), torch.rand(
        batch, 3, height, width, generator=generator
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be a positive factor on the channels, got 0"),
        ({"normalization": "none"}, "normalization must be one of fixed, pair_mean, got 'none'"),
        ({"channel_order": "grb"}, "channel_order must be one of rgb, bgr, got 'grb'"),
        ({"flow_scale": -1.0}, "flow_scale must be positive, got -1.0"),
        ({"depth": 3}, "has no option 'depth'; it has .*decoder_bias, flow_bias, batch_norm, width"),
    ],
)
@pytest.mark.parametrize("name", ["flownet_s", "flownet_c"])
def test_impossible_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **{"width": TINY, **options})


def test_frames_that_do_not_fit_are_named():
    net = create_model("flownet_s", width=TINY)
    with pytest.raises(ValueError, match=r"two .* frames of one size, got \(1, 3, 64, 64\) and \(1, 3, 64, 128\)"):
        net(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 128))
    with pytest.raises(ValueError, match=r"N x 3 x H x W frames .* got \(1, 1, 64, 64\)"):
        net(torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match="training needs sizes that are multiples of 64, got 100x64"):
        net.train()(torch.zeros(1, 3, 64, 100), torch.zeros(1, 3, 64, 100))


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("flownet_s", {}, 38_675_536),
        ("flownet_c", {}, 39_174_320),
        # Batch normalisation has a gain and an offset where the convolutions had a bias: one number more per channel.
        ("flownet_s", {"batch_norm": True}, 38_675_536 + 64 + 128 + 2 * 256 + 4 * 512 + 2 * 1024),
        ("flownet_c", {"batch_norm": True}, 39_174_320 + 64 + 128 + 32 + 2 * 256 + 4 * 512 + 2 * 1024),
    ],
)
def test_parameter_counts(name, options, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in create_model(name, **options).parameters()) == count


@pytest.mark.parametrize("arch", ["flownets", "flownets_bn", "flownetc", "flownetc_bn"])
@pytest.mark.parametrize("width", [1, 3 / 8])
def test_layers_have_the_names_and_shapes_of_the_table(arch, width):
    with torch.device("meta"):
        net = create_model(f"flownet_{arch[7]}", batch_norm=arch.endswith("_bn"), width=width)
    if width == 1:  # the table itself, without filling 39 million numbers
        shapes = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
        assert shapes["conv1.0.weight"] == (64, 6 if arch[7] == "s" else 3, 7, 7)
        assert shapes["conv3_1.0.weight"] == (256, 256 if arch[7] == "s" else 473, 3, 3)
        assert shapes["deconv5.0.weight"] == (1024, 512, 4, 4)
        joined = [1024, 1026, 770, 386, 194]
        assert [shapes[f"predict_flow{level}.weight"] for level in (6, 5, 4, 3, 2)] == [(2, c, 3, 3) for c in joined]
        return
    expected = {key: tuple(t.shape) for key, t in reference.public_tensors(arch, width).items()}
    assert expected["conv1.0.weight"][0] == 24
    assert {key: tuple(t.shape) for key, t in net.state_dict().items()} == expected


@pytest.mark.parametrize("arch", ["flownets", "flownets_bn", "flownetc", "flownetc_bn"])
def test_the_flow_is_that_of_a_second_implementation(arch):
    tensors = reference.public_tensors(arch, width=1 / 16)
    net = create_model(f"flownet_{arch[7]}", batch_norm=arch.endswith("_bn"), width=1 / 16).eval()
    net.load_state_dict(tensors)
    first, second = frames(64, 128)
    with torch.no_grad():
        ours, theirs = net(first, second).flow, reference.answer(arch, tensors, first, second)
    assert theirs.std() > 1
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["flownet_s", "flownet_c"])
def test_answers_are_in_pixels_at_all_levels(name):
    net = silent(name)
    biases = {2: (0.5, -0.25), 3: (0.1, 0.2), 4: (-1.0, 0.0), 5: (2.0, 3.0), 6: (0.05, -0.05)}
    with torch.no_grad():
        for level, bias in biases.items():
            net.get_submodule(f"predict_flow{level}").bias.copy_(torch.tensor(bias))
        flow = net(*frames(50, 70)).flow
        assert flow.shape == (1, 2, 50, 70)
        assert torch.allclose(flow, torch.tensor([10.0, -5.0]).view(1, 2, 1, 1).expand_as(flow), atol=1e-5)
        levels = net.train()(*frames(64, 128)).levels
    for level, answer, size in zip(biases, levels, (4, 8, 16, 32, 64), strict=True):
        assert answer.shape == (1, 2, 64 // size, 128 // size)
        assert torch.allclose(answer[0, :, 0, 0], 20 * torch.tensor(biases[level]), atol=1e-5)


def test_refinement_joins_skip_deconvolution_and_flow_in_this_order():
    net = silent("flownet_s")
    with torch.no_grad():
        net.conv5_1[0].bias[3] = 7.0  # the skip's channel 3 of 8
        net.conv6_1[0].bias[5] = 2.0  # channel 5 of 16 ...
        net.deconv5[0].weight[5, 4] = 0.5  # ... to channel 4 of 8: 2 x 2 taps meet, so 2 * .5 * 4 = 4
        net.predict_flow6.bias.copy_(torch.tensor([0.25, -0.5]))
        net.upsampled_flow6_to_5.weight[1, 0] = 1.0  # v below becomes u above: -.5 * 4 = -2
        net.predict_flow5.weight[0, 3, 1, 1] = 1.0
        net.predict_flow5.weight[1, 8 + 4, 1, 1] = 10.0
        net.predict_flow5.weight[1, 8 + 8 + 0, 1, 1] = 1.0
        level = net.train()(*frames(256, 256)).levels[3]
    # Away from the border: u = 20 * 7; v = 20 * (10 * 4 - 2).
    assert torch.allclose(level[0, :, 2:-2, 2:-2], torch.tensor([140.0, 760.0]).view(2, 1, 1).expand(2, 4, 4))
    # At the corner only one tap of the kernels meets the picture: v = 20 * (10 * 1 - .5).
    assert torch.allclose(level[0, :, 0, 0], torch.tensor([140.0, 190.0]))


def test_the_activation_lets_a_tenth_through():
    net = silent("flownet_s")
    with torch.no_grad():
        net.conv6_1[0].bias[0] = -3.0
        net.predict_flow6.weight[0, 0, 1, 1] = 1.0
        net.predict_flow2.bias[0] = 1.0
        level = net.train()(*frames(64, 64)).levels[4]
    assert level[0, 0, 0, 0].item() == pytest.approx(20 * -0.3)


def test_flownet_c_compares_what_it_says():
    net = silent("flownet_c")
    channel = 12 * 21 + 7  # dy = 2 * 12 - 20 = 4, dx = 2 * 7 - 20 = -6 places at 1/8
    with torch.no_grad():
        for layer in (net.conv1, net.conv2, net.conv3):  # each picks one pixel of a 2 x 2 block: every eighth is left
            centre = layer[0].weight.shape[-1] // 2
            layer[0].weight[0, 0, centre, centre] = 1.0
        net.conv3_1[0].weight[0, 1 + channel, 1, 1] = 1.0  # behind the one channel of conv_redir
        seen = {}
        net.conv3_1.register_forward_hook(lambda _module, _inputs, output: seen.update(out=output[:, 0].clone()))
        first, second = frames(128, 256)
        first[:, 0], second[:, 0] = first[:, 0].clamp(0.5), second[:, 0].clamp(0.5)
        net(first, second)
    a, b = first[0, 0, ::8, ::8] - 0.45, second[0, 0, ::8, ::8] - 0.45
    expected = torch.zeros(16, 32)
    expected[:-4, 6:] = a[:-4, 6:] * b[4:, :-6] / 4  # divided by conv3's four channels
    assert torch.allclose(seen["out"][0], expected, atol=1e-6)


def test_enlarging_keeps_pixel_centres():
    row = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2)
    assert enlarge(row, "bilinear")[0, 0, 0].tolist() == [0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4]
    assert enlarge(row, "nearest")[0, 0, 0].tolist() == [0, 0, 0, 0, 4, 4, 4, 4]


def test_normalisation_by_hand():
    first = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    second = torch.tensor([0.2, 0.1, 0.6]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    a, b = create_model("flownet_s", width=TINY).normalized(first, second)
    assert a[0, :, 0, 0].tolist() == pytest.approx([0.55, 0.068, -0.411])
    assert b[0, :, 0, 0].tolist() == pytest.approx([-0.25, -0.332, 0.189])
    a, _ = create_model("flownet_s", width=TINY, channel_order="bgr").normalized(first, second)
    assert a[0, :, 0, 0].tolist() == pytest.approx([-0.411, 0.068, 0.55])
    a, b = create_model("flownet_s", width=TINY, normalization="pair_mean").normalized(first, second)
    assert a[0, :, 0, 0].tolist() == pytest.approx([0.4, 0.2, -0.3])
    assert b[0, :, 0, 0].tolist() == pytest.approx([-0.4, -0.2, 0.3])


def test_the_pair_mean_does_not_count_the_padding():
    first, second = frames(64, 100)
    second[..., -1] = 5.0  # would be repeated 28 times
    net = create_model("flownet_s", width=TINY, normalization="pair_mean")
    expected = first - (first + second).mean((2, 3), keepdim=True) / 2
    seen = []
    net.match = lambda a, b: seen.append(a) or (a[:, :2],)
    net.eval()(first, second)
    assert torch.allclose(seen[0][..., :100], expected, atol=1e-6)
    assert torch.allclose(seen[0][..., 100:], expected[..., -1:].expand(-1, -1, -1, 28), atol=1e-6)


@pytest.mark.parametrize("name", ["flownet_s", "flownet_c"])
def test_any_size_is_continued_and_cut_again(name):
    torch.manual_seed(3)
    net = create_model(name, width=1 / 16).eval()
    first, second = frames(70, 100)
    padded = [torch.nn.functional.pad(image, (0, 28, 0, 58), mode="replicate") for image in (first, second)]
    with torch.no_grad():
        flow, larger = net(first, second).flow, net(*padded).flow
    assert flow.shape == (1, 2, 70, 100)
    assert torch.equal(flow, larger[..., :70, :100])


@pytest.mark.parametrize("name", ["flownet_s", "flownet_c"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_parameter_learns(name, batch_norm):
    torch.manual_seed(4)
    net = create_model(name, width=1 / 16, batch_norm=batch_norm).train()
    prediction = net(*frames(128, 128, batch=2))
    sum(level.abs().sum() for level in prediction.levels).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), key


@pytest.mark.parametrize("name", ["flownet_s", "flownet_c"])
def test_bfloat16_stays_near_float32(name):
    torch.manual_seed(5)
    net = create_model(name, width=1 / 8).eval()
    first, second = frames(64, 128)
    with torch.no_grad():
        exact = net(first, second).flow
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = net(first, second).flow
        whole = net.bfloat16()(first.bfloat16(), second.bfloat16()).flow
    for flow in (rounded, whole):
        assert flow.dtype == torch.float32
        assert (flow - exact).norm() < 0.05 * exact.norm()


def test_stored_and_loaded_it_answers_the_same(tmp_path):
    torch.manual_seed(6)
    net = create_model("flownet_c", width=3 / 32, batch_norm=True, channel_order="bgr", flow_scale=5.0).eval()
    save_checkpoint(tmp_path / "c.safetensors", net, ModelCard("flownet_c", net.options))
    back, card = load_model(tmp_path / "c.safetensors")
    assert card.options["flow_scale"] == 5.0 and card.options["channel_order"] == "bgr"
    with torch.no_grad():
        assert torch.equal(net(*frames(64, 64)).flow, back(*frames(64, 64)).flow)
