"""The compact flow network: its expectation over displacements, its sizes, and what warping reads."""

from __future__ import annotations

import pytest
import torch

from fg_depth_ros.networks import create_model
from fg_depth_ros.networks.checkpoint import load_partial
from fg_depth_ros.networks.flow import pad_to_multiple, warp
from fg_depth_ros.networks.flownet_lite import expected_displacement

THREE = {"features": (32, 48, 64), "widths": (32, 32, 16, 16), "radii": (4, 2, 1, 1)}


def test_warping_reads_where_the_flow_points_and_continues_the_border():
    second = torch.arange(12.0).view(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 1.0  # to the right
    flow[:, 1] = 1.0  # and down
    assert warp(second, flow)[0, 0].tolist() == [[5.0, 6.0, 7.0, 7.0], [9.0, 10.0, 11.0, 11.0], [9.0, 10.0, 11.0, 11.0]]
    flow[:, 0], flow[:, 1] = 0.25, 0.0
    assert warp(second, flow)[0, 0, 0].tolist() == pytest.approx([0.25, 1.25, 2.25, 3.0])


def test_padding_continues_the_image_at_the_right_and_below():
    image = torch.arange(6.0).view(1, 1, 2, 3)
    (padded,) = pad_to_multiple(4, image)
    assert padded.shape == (1, 1, 4, 4)
    assert padded[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert pad_to_multiple(3, torch.rand(1, 1, 3, 6))[0].shape == (1, 1, 3, 6)


def test_expected_displacement_by_hand():
    radius, side = 2, 5
    logits = torch.full((1, side * side, 1, 2), -20.0)
    logits[0, 3 * side + 1, 0, 0] = 10.0  # dy = 1, dx = -1
    logits[0, 3 * side + 2, 0, 0] = 10.0  # as likely: dx = 0
    logits[0, 0, 0, 1] = 10.0  # the corner: dy = dx = -2, with neighbours inside the window only
    u, v = expected_displacement(logits, radius)[0]
    assert u[0].tolist() == pytest.approx([-0.5, -2.0], abs=1e-4)
    assert v[0].tolist() == pytest.approx([1.0, -2.0], abs=1e-4)


def test_a_far_second_best_displacement_does_not_drag_the_answer():
    logits = torch.full((1, 25, 1, 1), -20.0)
    logits[0, 12] = 10.0  # no motion
    logits[0, 24] = 9.9  # two pixels right and down: not a neighbour
    assert expected_displacement(logits, 2).flatten().tolist() == pytest.approx([0.0, 0.0], abs=1e-4)


def test_any_size_in_and_the_same_size_out():
    net = create_model("flownet_lite").eval()
    with torch.no_grad():
        answer = net(torch.rand(1, 3, 50, 70), torch.rand(1, 3, 50, 70))
    assert answer.flow.shape == (1, 2, 50, 70)
    assert answer.levels is None
    assert sum(p.numel() for p in net.parameters()) < 4_000_000  # 16 MB in float32
    assert 32 * net.search.radius == 256  # px


@pytest.mark.parametrize("options", [{}, THREE], ids=["1/32", "1/16"])
def test_a_large_displacement_reaches_the_finest_level(options):
    """The flow of a search that is sure of one displacement comes out, whatever the untrained refinements add."""
    net = create_model("flownet_lite", **options).eval()
    torch.nn.init.zeros_(net.search.logits.weight)
    torch.nn.init.zeros_(net.search.logits.bias)
    torch.nn.init.zeros_(net.search.direct)
    radius, side = net.search.radius, 2 * net.search.radius + 1
    with torch.no_grad():
        net.search.logits.bias[(radius - 2) * side + side - 1] = 100.0  # dy = -2, dx = radius
        flow = net(torch.rand(1, 3, 128, 192), torch.rand(1, 3, 128, 192)).flow
    cell = net.size_multiple / 2
    torch.testing.assert_close(flow[0, 0], torch.full((128, 192), cell * radius))
    torch.testing.assert_close(flow[0, 1], torch.full((128, 192), -2 * cell))


def test_training_mode_gives_every_resolution_and_refuses_other_sizes():
    net = create_model("flownet_lite").train()
    answer = net(torch.rand(2, 3, 64, 128), torch.rand(2, 3, 64, 128))
    sizes = [(64, 128), (32, 64), (16, 32), (8, 16), (4, 8), (2, 4)]
    assert [level.shape[-2:] for level in answer.levels] == sizes
    assert answer.coarse.shape == (2, 17 * 17, 2, 4)
    answer.flow.sum().backward()
    assert all(p.grad is not None for p in net.encoder.parameters())
    with pytest.raises(ValueError, match="multiples of 64, got 96x64"):
        net(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))


def test_the_search_at_a_sixteenth_of_older_weights():
    net = create_model("flownet_lite", **THREE).train()
    answer = net(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))
    assert [level.shape[-2:] for level in answer.levels] == [(64, 96), (32, 48), (16, 24), (8, 12), (4, 6)]
    assert answer.coarse.shape == (1, 9 * 9, 4, 6)
    with pytest.raises(ValueError, match="3 features, 5 widths and 4 radii"):
        create_model("flownet_lite", **{**THREE, "widths": (32, 32, 32, 16, 16)})


def test_comparing_pixels_begins_as_if_it_were_not_there():
    torch.manual_seed(4)
    plain, fine = create_model("flownet_lite").eval(), create_model("flownet_lite", fine=True).eval()
    assert fine.options["fine"] is True and "fine" not in plain.options
    fresh = load_partial(fine, plain.state_dict())
    assert {name.rsplit(".", 1)[0] for name in fresh} == {"at_half.pixels", "at_half.detail"}
    pair = torch.rand(2, 1, 3, 64, 128)
    with torch.no_grad():
        torch.testing.assert_close(fine(*pair).flow, plain(*pair).flow)
        fine.at_half.detail.bias[4 + 2] = 3.0  # v of the third pixel of every cell
        more = fine(*pair).flow - plain(*pair).flow
        assert more[:, 1, 1::2, 0::2].sub(3.0).abs().max() < 1e-4
        more[:, 1, 1::2, 0::2] = 0
        assert more.abs().max() < 1e-4


def test_options_build_the_same_network_again():
    net = create_model("flownet_lite", **THREE)
    again = create_model("flownet_lite", **net.options)
    again.load_state_dict(net.state_dict())


@pytest.mark.parametrize("seed", range(3))
def test_the_expectation_is_that_of_argmax_over_the_neighbours(seed):
    """The graph has no argmax and no gather, for inference engines; borders included."""
    radius, side = 2, 5
    logits = torch.randn(1, side * side, 4, 6, generator=torch.Generator().manual_seed(seed))
    answer = expected_displacement(logits, radius)
    for y in range(4):
        for x in range(6):
            plane = logits[0, :, y, x].view(side, side)
            by, bx = divmod(int(plane.argmax()), side)
            places = [(v, u) for v in range(by - 1, by + 2) for u in range(bx - 1, bx + 2)]
            places = [(v, u) for v, u in places if 0 <= v < side and 0 <= u < side]
            weights = torch.softmax(torch.stack([plane[v, u] for v, u in places]), 0)
            expected = [float(sum(w * (p[i] - radius) for w, p in zip(weights, places, strict=True))) for i in (1, 0)]
            assert answer[0, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)
