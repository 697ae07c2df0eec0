"""Parts of the stereo network with answers known by hand, and the network as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fg_depth_ros.networks import create_model
from fg_depth_ros.networks.blocks import upsample_convex
from fg_depth_ros.networks.checkpoint import load_partial
from fg_depth_ros.networks.flownet_stereo import expected_hypothesis, warp_along_row


def test_expected_hypothesis_reads_between_two_hypotheses():
    logits = torch.full((1, 8, 1, 1), -50.0)
    logits[0, 3], logits[0, 4] = np.log(0.25), np.log(0.75)
    assert expected_hypothesis(logits).item() == pytest.approx(3.75, abs=1e-5)


def test_expected_hypothesis_ignores_a_far_second_mode():
    logits = torch.full((1, 40, 1, 1), -50.0)
    logits[0, 5], logits[0, 30] = np.log(0.6), np.log(0.4)  # the mean of both would be 15
    assert expected_hypothesis(logits).item() == pytest.approx(5.0, abs=1e-5)


def test_upsample_convex_picks_the_tap_its_mask_names():
    field = torch.arange(12.0).view(1, 1, 3, 4)
    mask = torch.full((1, 9, 4, 3, 4), -50.0)
    mask[:, 4] = 50.0  # the centre for every sub-pixel
    up = upsample_convex(field, mask.view(1, 36, 3, 4))
    assert torch.allclose(up[0, 0], field[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1), atol=1e-6)
    mask[:, 4], mask[:, 5] = -50.0, 50.0  # the right neighbour, the border repeated
    up = upsample_convex(field, mask.view(1, 36, 3, 4))
    assert up[0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3, 3, 3]


def test_warp_along_row_reads_at_x_minus_d():
    features = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 2, 2, 6).contiguous()
    warped = warp_along_row(features, torch.full((1, 1, 2, 6), 1.5))
    assert torch.allclose(warped[0, 0, 0, 2:], torch.tensor([0.5, 1.5, 2.5, 3.5]), atol=1e-5)
    assert warped[0, 0, 0, 0] == 0  # x - d = -1.5 lies outside


def test_the_compact_net_is_compact():
    assert sum(p.numel() for p in create_model("flownet_stereo").parameters()) < 5_000_000


def test_shapes_and_range_for_any_multiple_of_16():
    torch.manual_seed(0)
    net = create_model("flownet_stereo", max_disparity=64).eval()
    left, right = torch.rand(2, 3, 64, 96), torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        answer = net(left, right)
    assert answer.disparity.shape == answer.log_scale.shape == (2, 1, 64, 96)
    assert (answer.disparity >= 0).all()
    assert torch.isfinite(answer.log_scale).all()


def test_a_pair_in_a_batch_is_answered_as_it_is_alone():
    torch.manual_seed(1)
    net = create_model("flownet_stereo", max_disparity=64).eval()
    left, right = torch.rand(3, 3, 32, 64), torch.rand(3, 3, 32, 64)
    with torch.no_grad():
        together = net(left, right).disparity
        alone = net(left[1:2], right[1:2]).disparity
    assert torch.allclose(together[1:2], alone, atol=1e-3)


def test_wrong_options_and_names_are_refused():
    with pytest.raises(ValueError, match="multiple of 4 px, got 190"):
        create_model("flownet_stereo", max_disparity=190)
    with pytest.raises(ValueError, match="unknown model 'flownet_strereo'; known: .*flownet_stereo"):
        create_model("flownet_strereo")
    with pytest.raises(ValueError, match="flownet_stereo has no option 'colour'; it has features, aggregate, refine, "):
        create_model("flownet_stereo", colour="blue")
    with pytest.raises(ValueError, match="'flownet_stereo' does not take these options"):
        create_model("flownet_stereo", refine="much")


def test_exports_to_onnx_with_the_same_numbers(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(2)
    net = create_model("flownet_stereo", max_disparity=64).eval()
    pair = (torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96))

    class Answer(torch.nn.Module):
        def forward(self, left, right):
            return net(left, right).disparity

    path = tmp_path / "net.onnx"
    torch.onnx.export(Answer().eval(), pair, path, dynamo=True, verbose=False, input_names=["left", "right"])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"left": pair[0].numpy(), "right": pair[1].numpy()})
    with torch.no_grad():
        expected = net(*pair).disparity.numpy()
    # Fresh weights give near ties between hypotheses, which rounding may turn over at single pixels.
    assert np.mean(np.abs(answer - expected) < 1e-2) > 0.99


def test_a_second_level_of_the_refinement_begins_as_if_it_were_not_there():
    plain = create_model("flownet_stereo", max_disparity=64).eval()
    deep = create_model("flownet_stereo", max_disparity=64, deep=24).eval()
    assert deep.options["deep"] == 24
    fresh = load_partial(deep, plain.state_dict())
    assert {name.split(".")[1] for name in fresh} == {"deep", "rise"}
    pair = torch.rand(2, 1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(deep(*pair).disparity, plain(*pair).disparity)
        deep.second_look.rise[1].weight.fill_(1.0)
        assert not torch.allclose(deep(*pair).disparity, plain(*pair).disparity)


def test_comparing_pixels_begins_as_if_it_were_not_there():
    torch.manual_seed(4)
    plain = create_model("flownet_stereo", max_disparity=64).eval()
    fine = create_model("flownet_stereo", max_disparity=64, fine=True).eval()
    assert fine.options["fine"] is True
    fresh = load_partial(fine, plain.state_dict())
    assert {name.split(".")[1] for name in fresh} == {"pixels", "detail"}
    pair = torch.rand(2, 1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(fine(*pair).disparity, plain(*pair).disparity)
        fine.second_look.detail.bias[1] = 3.0  # the second pixel of every cell
        more = (fine(*pair).disparity - plain(*pair).disparity)[..., 0::2, :]
        torch.testing.assert_close(more[..., 1::2], torch.full_like(more[..., 1::2], 3.0))
        torch.testing.assert_close(more[..., 0::2], torch.zeros_like(more[..., 0::2]))


@pytest.mark.parametrize("seed", range(3))
def test_the_expectation_is_that_of_argmax_and_gather(seed):
    """The graph has neither, for inference engines; ties go to the first hypothesis, as argmax has it."""
    logits = torch.randn(2, 12, 5, 7, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    best = logits.argmax(1, keepdim=True)
    near = best + torch.arange(-1, 2).view(1, -1, 1, 1)
    heights = logits.gather(1, near.clamp(0, 11)).masked_fill((near < 0) | (near > 11), -1e4)
    expected = (torch.softmax(heights, 1) * near).sum(1, keepdim=True)
    torch.testing.assert_close(expected_hypothesis(logits), expected)
