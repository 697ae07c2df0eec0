"""Losses of the flow networks against numbers worked out by hand and naive loops."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("pytorch_lightning")

from fg_depth_ros.networks.flow import FlowPrediction
from fg_depth_ros.training.flow.losses import (
    flow_loss,
    level_weights,
    multiscale_epe,
    pool_known,
    robust_loss,
    sparse_max_pool,
)

KNOWN = torch.ones(1, 1, 4, 4, dtype=torch.bool)


def constant(u, v, size=4, n=1):
    return torch.tensor([u, v]).float().view(1, 2, 1, 1).expand(n, 2, size, size).clone()


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="unknown weighting 'coarse'"):
        level_weights("coarse", 5)
    with pytest.raises(ValueError, match="'finest' is for 5 levels, the network has 6: use flownet2"):
        level_weights("finest", 6)
    with pytest.raises(ValueError, match="2 levels need as many weights, got 1"):
        multiscale_epe([constant(0, 0), constant(0, 0, 2)], constant(0, 0), KNOWN, [1.0])
    with pytest.raises(ValueError, match="reduction is 'max'"):
        multiscale_epe([constant(0, 0)], constant(0, 0), KNOWN, [1.0], reduction="max")
    with pytest.raises(ValueError, match="training mode"):
        flow_loss(FlowPrediction(constant(0, 0)), constant(0, 0), KNOWN, "finest")
    with pytest.raises(ValueError, match="training mode"):
        robust_loss(FlowPrediction(constant(0, 0)), constant(0, 0), KNOWN)


def test_the_published_weights():
    assert level_weights("finest", 5) == (0.005, 0.01, 0.02, 0.08, 0.32)
    assert level_weights("flownet2", 5) == (0.32, 0.16, 0.08, 0.04, 0.02)


def test_multiscale_epe_by_hand():
    """Truth (30, 40) px everywhere, answers of 0 at 4x4 and 2x2: the error is 50 px = 2.5 units at every pixel."""
    truth = constant(30, 40, n=2)
    levels, known = [constant(0, 0, 4, 2), constant(0, 0, 2, 2)], KNOWN.expand(2, -1, -1, -1)
    summed = multiscale_epe(levels, truth, known, [0.5, 0.25])
    assert summed.item() == pytest.approx(0.5 * 16 * 2.5 + 0.25 * 4 * 2.5)  # pixels summed, per sample
    mean = multiscale_epe(levels, truth, known, [0.5, 0.25], reduction="mean")
    assert mean.item() == pytest.approx(0.5 * 2.5 + 0.25 * 2.5)


def test_unknown_pixels_do_not_count():
    """The left half moves by 20 px, the right half is unknown: cells are judged by what is known of them."""
    truth = constant(20, 0)
    truth[..., 2:] = 1000.0
    valid = KNOWN.clone()
    valid[..., 2:] = False
    valid[..., 0, 1] = False
    summed = multiscale_epe([constant(0, 0), constant(0, 0, 2)], truth, valid, [1.0, 1.0])
    assert summed.item() == pytest.approx(7 * 1.0 + (0.75 + 1.0) * 1.0)
    mean = multiscale_epe([constant(0, 0), constant(0, 0, 2)], truth, valid, [1.0, 1.0], reduction="mean")
    assert mean.item() == pytest.approx(2.0)
    nothing = multiscale_epe([constant(0, 0)], truth, torch.zeros_like(valid), [1.0], reduction="mean")
    assert nothing.item() == 0.0


def test_pooling_agrees_with_naive_loops():
    generator = torch.Generator().manual_seed(0)
    flow = torch.randn(2, 2, 8, 12, generator=generator) * 5
    valid = torch.rand(2, 1, 8, 12, generator=generator) < 0.4
    valid[0, :, :4, :4] = False  # a cell without any
    mean, known = pool_known(flow, valid, (2, 3))
    peak, any_known = sparse_max_pool(flow, valid, (2, 3))
    for n in range(2):
        for i in range(2):
            for j in range(3):
                cell = (n, slice(None), slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4))
                inside = valid[cell][0]
                values = flow[cell][:, inside]
                assert known[n, 0, i, j].item() == pytest.approx(inside.float().mean().item())
                assert any_known[n, 0, i, j].item() == float(inside.any())
                expected = values.mean(1) if inside.any() else torch.zeros(2)
                torch.testing.assert_close(mean[n, :, i, j], expected)
                for c in range(2):
                    up = max([0.0, *values[c].tolist()])
                    down = min([0.0, *values[c].tolist()])
                    assert peak[n, c, i, j].item() == pytest.approx(up + down, abs=1e-6)


def test_sparse_truth_is_compared_at_full_resolution_first():
    """One known pixel of 20 px: the finest level's cell stands for it, the coarser one keeps it whole."""
    truth, valid = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    truth[0, 0, 3, 0], valid[0, 0, 3, 0] = 20.0, True
    finest = torch.zeros(1, 2, 2, 2)
    finest[0, 0, 1, 0] = 60.0  # off by 40 px = 2 units; the other cells lie where nothing is known
    finest[0, 0, 0, 1] = 999.0
    loss = multiscale_epe([finest, torch.zeros(1, 2, 1, 1)], truth, valid, [1.0, 1.0], sparse=True)
    assert loss.item() == pytest.approx(2.0 + 1.0)


def test_halves_of_a_batch_mean_the_same_as_the_whole():
    """As several processes see it; samples with different numbers of known pixels."""
    generator = torch.Generator().manual_seed(1)
    flow, answer = (torch.randn(4, 2, 32, 32, generator=generator) for _ in range(2))
    valid = torch.rand(4, 1, 32, 32, generator=generator) < torch.tensor([0.1, 0.5, 0.9, 1.0]).view(4, 1, 1, 1)
    logits = torch.randn(4, 9, 2, 2, generator=generator)
    for kind in ("finest", "flownet2", "lite"):
        losses = []
        for part in (slice(0, 4), slice(0, 2), slice(2, 4)):
            levels = (answer[part], answer[part][..., ::4, ::4])
            prediction = FlowPrediction(answer[part], levels, logits[part])
            losses.append(flow_loss(prediction, flow[part], valid[part], kind)[1]["loss"].item())
        assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-5)


def test_robust_loss_by_hand():
    """3 ln(1 + e / 3) and half of 6 ln(1 + e / 6), of known pixels alone."""
    truth = constant(6, 3)
    truth[..., 2:] = 500.0
    valid = KNOWN.clone()
    valid[..., 2:] = False
    coarser = constant(6, 3, 2)
    levels = (constant(6, 0), coarser)
    loss = robust_loss(FlowPrediction(levels[0], levels), truth, valid)
    assert loss.item() == pytest.approx(3 * math.log(2))
    loss = robust_loss(FlowPrediction(levels[0], (levels[0], constant(6, 9, 2))), truth, valid)
    assert loss.item() == pytest.approx(3 * math.log(2) + 0.5 * 6 * math.log(2))


def test_flow_beyond_any_search_teaches_the_compact_network_nothing():
    truth = constant(6, 3)
    truth[..., 2:] = 500.0
    levels = (constant(6, 0), constant(6, 3, 2))
    parts = flow_loss(FlowPrediction(levels[0], levels), truth, KNOWN.clone(), "lite")[1]
    assert parts["epe"].item() == pytest.approx(3)
    assert parts["loss"].item() == pytest.approx(3 * math.log(2))


def test_the_choice_among_displacements_by_hand():
    """A 3x3 window at 1/4: logits that leave no doubt cost the entropy of the blurred truth, flat ones ln 9."""
    truth, valid = constant(4, -4, 8), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    exact = (truth,)
    flat = robust_loss(FlowPrediction(truth, exact, torch.zeros(1, 9, 2, 2)), truth, valid)
    assert flat.item() == pytest.approx(math.log(9), rel=1e-5)
    # u = +1, v = -1 cells: channel iy * 3 + ix = 0 * 3 + 2. The target is a product of two normal distributions.
    p = [math.exp(-(k**2) / (2 * 0.5**2)) for k in range(3)]
    p = [value / sum(p) for value in p]
    logits = torch.full((1, 9, 2, 2), 0.0)
    logits[:, 2] = 3.0
    total = math.log(8 + math.exp(3.0))
    expected = total - 3.0 * p[0] * p[0]
    loss = robust_loss(FlowPrediction(truth, exact, logits), truth, valid)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    outside = constant(12, 0, 8)  # three cells away: beyond the window
    assert robust_loss(FlowPrediction(outside, (outside,), logits), outside, valid).item() < 1e-5


def test_gradients_stay_finite_where_the_answer_is_exact():
    truth = constant(3, 4)
    for kind in ("finest", "flownet2", "lite"):
        level = truth.clone().requires_grad_()
        loss, parts = flow_loss(FlowPrediction(level, (level,)), truth, KNOWN, kind)
        loss.backward()
        assert torch.isfinite(level.grad).all() and parts["epe"].item() < 1e-5
