"""Losses of depth training against numbers worked out by hand, naive loops and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fg_depth_ros.networks.depth import DepthPrediction
from fg_depth_ros.training.depth.batch import DistillBatch, per_pixel
from fg_depth_ros.training.depth.config import PRESETS, DepthLossConfig
from fg_depth_ros.training.depth.losses import (
    auto_masked,
    depth_loss,
    flow_photometric_loss,
    ratio_loss,
    regression_loss,
    self_distillation_loss,
    sky_loss,
)
from fg_depth_ros.training.photometric import photometric_error, smoothness_loss, ssim, warp_source

FOCAL, BASELINE = 100.0, 0.5
ALONE = {"photometric": 0.0, "regression": 0.0, "flow_photometric": 0.0, "smoothness": 0.0}


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def textured(n=1, h=8, w=24, seed=0):
    """Smooth random texture: gradients along the row that a match can follow."""
    coarse = noise(n, 3, h // 2, w // 4, seed=seed)
    return F.interpolate(coarse, (h, w), mode="bicubic", align_corners=True).clamp(0, 1)


def batch_of(target, source, disparity, *, mask=None, focal=FOCAL, baseline=BASELINE, dtype=torch.float32):
    n, _, h, w = target.shape
    picture = torch.full((n, 1, h, w), float(disparity), dtype=dtype)
    return DistillBatch(
        target.to(dtype), source.to(dtype), target.to(dtype), picture,
        torch.ones(n, 1, h, w, dtype=torch.bool) if mask is None else mask,
        torch.full((n,), focal, dtype=dtype), torch.full((n,), baseline, dtype=dtype), picture * math.nan,
    )  # fmt: skip


def pair(disparity=4, sign=1, n=1, h=8, w=32):
    """A plane at ``disparity`` px, exact in both views: source(x - sign * d) = target(x)."""
    wide = textured(n, h, w + 2 * disparity)
    target = wide[..., disparity : disparity + w]
    first = disparity + sign * disparity
    return target, wide[..., first : first + w]


def says(inverse, like):
    """A network that says the same everywhere."""
    return DepthPrediction(torch.full_like(like[:, :1], inverse))


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photometric_mask": "soft"}, "unknown photometric_mask 'soft'; known: auto, flow, none"),
        ({"regression_of": "feet"}, "unknown regression_of 'feet'; known: metres, ratio"),
        ({"regression": -1.0}, "--regression of the depth loss is -1.0: give 0"),
        ({"smoothness": math.nan}, "--smoothness of the depth loss is nan"),
        ({"flow_photometric": math.inf}, "--flow-photometric of the depth loss is inf"),
        ({"scales": 0}, "scales of the depth loss is 0: at least the finest level has to learn"),
        (ALONE, "learns from nothing: photometric, regression and flow_photometric are 0"),
        ({"self_distillation": 0.1}, "self_distillation needs several levels that learn from each other: set scales"),
    ],
)
def test_a_loss_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DepthLossConfig(**options)


def test_too_few_levels_are_named():
    target, source = pair()
    with pytest.raises(ValueError, match=r"has 1 level\(s\) and 4 are to learn: set scales to 1, or put the network"):
        depth_loss(says(0.1, target), batch_of(target, source, 4), FOCAL, DepthLossConfig(scales=4))


def test_nan_outside_the_mask_reaches_nothing():
    target, source = pair(n=2)
    mask = torch.ones(2, 1, 8, 32, dtype=torch.bool)
    mask[0, :, :, :9] = mask[1] = False
    clean = batch_of(target, source, 4, mask=mask)
    spoiled = clean._replace(disparity=torch.where(mask, clean.disparity, torch.nan))
    infinite = clean._replace(disparity=torch.where(mask, clean.disparity, torch.inf))
    config = DepthLossConfig(scales=2, self_distillation=0.1)
    values = []
    for batch in (clean, spoiled, infinite):
        levels = [torch.full((2, 1, 8, 32), 0.07), torch.full((2, 1, 4, 16), 0.09)]
        levels = [level.requires_grad_() for level in levels]
        loss, parts = depth_loss(DepthPrediction(levels[0], tuple(levels)), batch, FOCAL, config)
        loss.backward()
        assert all(torch.isfinite(level.grad).all() for level in levels)
        assert all(math.isfinite(value) for value in map(float, parts.values()))
        values.append((loss.item(), *(level.grad for level in levels)))
    for other in values[1:]:
        assert other[0] == values[0][0]
        for a, b in zip(values[0][1:], other[1:], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_an_empty_mask_teaches_nothing():
    target, source = pair()
    batch = batch_of(target, source, 4, mask=torch.zeros(1, 1, 8, 32, dtype=torch.bool))
    inverse = torch.full((1, 1, 8, 32), 0.1, requires_grad=True)
    loss, parts = depth_loss(DepthPrediction(inverse), batch, FOCAL, DepthLossConfig(smoothness=0.0))
    loss.backward()
    assert loss.item() == 0 == inverse.grad.abs().max().item()
    assert parts["mask"].item() == parts["abs_rel"].item() == 0


# ---- the parts by hand -----------------------------------------------------------------------------------------


def naive_ssim(a, b):
    """One channel, 3 x 3 windows, reflected border, in plain loops."""
    h, w = a.shape
    reflect = lambda i, n: -i if i < 0 else 2 * n - 2 - i if i >= n else i  # noqa: E731
    out = np.empty((h, w))
    for y in range(h):
        for x in range(w):
            at = [(reflect(y + i, h), reflect(x + j, w)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            p, q = np.array([a[k] for k in at]), np.array([b[k] for k in at])
            covariance = (p * q).mean() - p.mean() * q.mean()
            upper = (2 * p.mean() * q.mean() + 0.01**2) * (2 * covariance + 0.03**2)
            out[y, x] = upper / ((p.mean() ** 2 + q.mean() ** 2 + 0.01**2) * (p.var() + q.var() + 0.03**2))
    return out


def test_ssim_and_photometric_error_agree_with_naive_loops():
    a, b = noise(2, 3, 5, 6, seed=1).double(), noise(2, 3, 5, 6, seed=2).double()
    b[0] = 0.6 * a[0] + 0.1
    found, error = ssim(a, b), photometric_error(a, b)
    for n in range(2):
        expected = np.stack([naive_ssim(a[n, c].numpy(), b[n, c].numpy()) for c in range(3)])
        np.testing.assert_allclose(found[n].numpy(), expected, atol=1e-12)
        structure = np.clip((1 - expected) / 2, 0, 1).mean(0)
        naive = 0.85 * structure + 0.15 * (a[n] - b[n]).abs().mean(0).numpy()
        np.testing.assert_allclose(error[n, 0].numpy(), naive, atol=1e-12)
    assert photometric_error(a, a).abs().max() < 1e-12


def test_photometric_error_of_flat_pictures_by_hand():
    """0.2 and 0.6 everywhere: SSIM = (2 * .12 + C1) / (.04 + .36 + C1), the spread terms cancel."""
    a, b = torch.full((1, 3, 4, 4), 0.2), torch.full((1, 3, 4, 4), 0.6)
    similarity = (0.24 + 1e-4) / (0.4 + 1e-4)
    expected = 0.85 * (1 - similarity) / 2 + 0.15 * 0.4
    torch.testing.assert_close(photometric_error(a, b), torch.full((1, 1, 4, 4), expected), rtol=1e-4, atol=0)


def test_the_source_is_warped_to_the_side_of_the_baseline():
    row = torch.tensor([0.0, 10, 20, 30, 40, 50])
    source = torch.stack([row, row]).view(2, 1, 1, 6)
    disparity = torch.full((2, 1, 1, 6), 1.5)
    warped = warp_source(source, disparity, torch.tensor([0.3, -0.3]))
    assert warped[0].flatten().tolist() == [0, 0, 5, 15, 25, 35]  # column x - 1.5, the border continued
    assert warped[1].flatten().tolist() == [15, 25, 35, 45, 50, 50]  # column x + 1.5
    per_row = warp_source(
        source.view(1, 1, 2, 6), disparity.view(1, 1, 2, 6), torch.tensor([[0.3, -0.3]])
    )  # a grafted sample: every row has its own baseline
    torch.testing.assert_close(per_row.view(2, 1, 1, 6), warped)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_plane_is_explained_by_its_own_disparity_alone(sign):
    """d = focal_canonical * |B| * inverse = 100 * 0.5 * 0.08 = 4 px, whichever way the cameras stand."""
    target, source = pair(4, sign)
    seen = torch.zeros(1, 1, 8, 32, dtype=torch.bool)
    seen[..., 5:-5] = True  # what both cameras see
    batch = batch_of(target, source, 4, baseline=sign * BASELINE, mask=seen)
    right = depth_loss(says(0.08, target), batch, FOCAL, DepthLossConfig())[1]
    assert right["photometric"] < 1e-6 and right["flow_photometric"] < 1e-6 and right["regression"] < 1e-5
    wrong = depth_loss(says(0.08, target), batch._replace(baseline=-batch.baseline), FOCAL, DepthLossConfig())[1]
    assert wrong["photometric"] > 0.1  # and not by a search to the other side


def test_regression_by_hand():
    """Depths 12, 10, 7 against 10: |e| = 2, 0, 3; the last pixel is not in the mask."""
    depth = torch.tensor([12.0, 10.0, 7.0, 50.0]).view(1, 1, 2, 2)
    guide = torch.tensor([10.0, 10.0, 10.0, math.nan]).view(1, 1, 2, 2)
    mask = torch.tensor([True, True, True, False]).view(1, 1, 2, 2)
    expected = (math.log(3) + 0 + math.log(4)) / 3
    assert regression_loss(depth, guide, mask).item() == pytest.approx(expected, rel=1e-6)


def test_regression_is_in_metres_of_the_pair():
    """d = 4 px of a 200 px camera with 0.5 m: 25 m. The network (100 px) says 0.1/m: 200 / 100 / 0.1 = 20 m."""
    target, source = pair(4)
    batch = batch_of(target, source, 4, focal=200.0)
    parts = depth_loss(says(0.1, target), batch, FOCAL, DepthLossConfig(photometric=0.0))[1]
    assert parts["regression"].item() == pytest.approx(math.log(6), rel=1e-5)
    assert parts["abs_rel"].item() == pytest.approx(5 / 25, rel=1e-5)
    assert parts["mask"].item() == 1


def test_regression_of_ratios_by_hand():
    """Depths 12, 10, 5 against 10: the same whatever the unit; published is the other form."""
    depth = torch.tensor([12.0, 10.0, 5.0, 50.0]).view(1, 1, 2, 2).requires_grad_()
    guide = torch.tensor([10.0, 10.0, 10.0, math.nan]).view(1, 1, 2, 2)
    mask = torch.tensor([True, True, True, False]).view(1, 1, 2, 2)
    loss = ratio_loss(depth, guide, mask)
    assert loss.item() == pytest.approx((math.log(1.2) + math.log(2)) / 3, rel=1e-6)
    assert ratio_loss(100 * depth, 100 * guide, mask).item() == pytest.approx(loss.item(), rel=1e-6)
    loss.backward()
    assert depth.grad.flatten().tolist() == pytest.approx([1 / 36, 0, -1 / 15, 0])
    target, source = pair(4)
    batch = batch_of(target, source, 4)  # 100 px * 0.5 m / 4 px = 12.5 m; the network says 10 m
    parts = depth_loss(says(0.1, target), batch, FOCAL, DepthLossConfig(regression_of="ratio"))[1]
    assert parts["regression"].item() == pytest.approx(math.log(1.25), rel=1e-5)


def test_flow_photometric_compares_the_source_with_itself():
    """Whatever the target looks like; and a window at the mask's edge sees only what is known."""
    target, source = pair(4)
    mask = torch.ones(1, 1, 8, 32, dtype=torch.bool)
    mask[..., :12] = False
    batch = batch_of(torch.zeros_like(target), source, 4, mask=mask)
    config = DepthLossConfig(photometric=0.0, regression=0.0, smoothness=0.0)
    assert depth_loss(says(0.08, target), batch, FOCAL, config)[0].item() < 1e-6
    inverse = torch.full((1, 1, 8, 32), 0.05, requires_grad=True)  # 2.5 px
    loss = depth_loss(DepthPrediction(inverse), batch, FOCAL, config)[0]
    loss.backward()
    columns = torch.arange(32.0) - 4
    by_flow = torch.where(mask, source[..., columns.clamp(0).long()], source)
    moved = torch.arange(32.0) - 2.5
    by_depth = 0.5 * (source[..., moved.floor().clamp(0).long()] + source[..., moved.ceil().clamp(0).long()])
    alike = torch.where(mask, by_depth, by_flow)
    expected = photometric_error(alike, by_flow)[mask].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert inverse.grad[..., :12].abs().max() == 0 < inverse.grad[..., 12:].abs().max()
    reference = by_flow.clone().requires_grad_()
    flow_photometric_loss(by_depth.requires_grad_(), reference, mask).backward()
    assert reference.grad is None


def test_the_auto_mask_takes_the_smaller_error_and_stops_its_gradient():
    error = torch.tensor([0.1, 0.5, 0.3]).view(1, 1, 1, 3).requires_grad_()
    identity = torch.tensor([0.4, 0.2, 0.31]).view(1, 1, 1, 3)
    found = auto_masked(error, identity, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.detach().flatten(), torch.tensor([0.1, 0.2, 0.3]), rtol=0, atol=1e-4)
    found.sum().backward()
    assert error.grad.flatten().tolist() == [1, 0, 1]
    even = auto_masked(torch.full((1, 1, 64, 64), 0.2), torch.full((1, 1, 64, 64), 0.2)) < 0.2
    assert 0.4 < even.float().mean() < 0.6  # the noise decides, and it is small


def test_the_auto_mask_drops_what_does_not_move():
    """A far picture that is the same in both views: without warp it fits at once, and nothing is learnt from it."""
    target = textured()
    inverse = torch.full((1, 1, 8, 24), 0.05, requires_grad=True)
    config = PRESETS["auto_mask"]
    loss, parts = depth_loss(DepthPrediction(inverse), batch_of(target, target, 0.1), FOCAL, config)
    loss.backward()
    assert parts["photometric"].abs() < 1e-4
    assert inverse.grad.abs().max() < 1e-6
    everywhere = DepthLossConfig(photometric_mask="none")
    loss = depth_loss(DepthPrediction(inverse), batch_of(target, target, 0.1), FOCAL, everywhere)[0]
    assert loss > 0.05


def test_smoothness_by_hand():
    """Inverse depth 1 1 3 3 by its mean 2: one step of 1 among 3; the image's step of ln 2 there halves it."""
    inverse = torch.tensor([1.0, 1, 3, 3]).view(1, 1, 1, 4).expand(1, 1, 2, 4)
    flat = torch.zeros(1, 3, 2, 4)
    assert smoothness_loss(inverse, flat).item() == pytest.approx(1 / 3, rel=1e-5)
    edge = flat.clone()
    edge[..., 2:] = math.log(2)
    assert smoothness_loss(inverse, edge).item() == pytest.approx(1 / 6, rel=1e-5)
    turned = smoothness_loss(inverse.transpose(2, 3), edge.transpose(2, 3))
    assert turned.item() == pytest.approx(1 / 6, rel=1e-5)
    assert smoothness_loss(7 * inverse, edge).item() == pytest.approx(1 / 6, rel=1e-5)  # no reward for far answers


def test_self_distillation_learns_from_the_best_level_by_hand():
    """Pixel 1: the first level is best (10 m against 12); pixel 2: the second one (8 m against 5)."""
    depths = [torch.tensor([10.0, 5.0]).view(1, 1, 1, 2), torch.tensor([12.0, 8.0]).view(1, 1, 1, 2)]
    depths = [depth.requires_grad_() for depth in depths]
    errors = [torch.tensor([0.1, 0.3]).view(1, 1, 1, 2), torch.tensor([0.2, 0.2]).view(1, 1, 1, 2)]
    loss = self_distillation_loss(depths, errors)
    loss.backward()
    assert loss.item() == pytest.approx((math.log(3) + math.log(4)) / 4, rel=1e-6)
    assert depths[0].grad.flatten().tolist() == pytest.approx([0, -1 / 16])
    assert depths[1].grad.flatten().tolist() == pytest.approx([1 / 12, 0])


# ---- the sky ---------------------------------------------------------------------------------------------------


def test_the_sky_is_to_be_far_and_nothing_else_is() -> None:
    depth = torch.tensor([10.0, 80.0, 95.0, 10.0]).view(1, 1, 1, 4).requires_grad_()
    sky = torch.tensor([True, True, True, False]).view(1, 1, 1, 4)
    loss = sky_loss(depth, sky, torch.zeros_like(sky))
    assert loss.item() == pytest.approx(math.log(8) / 3, rel=1e-5)
    loss.backward()
    assert depth.grad is not None
    assert depth.grad[0, 0, 0, 0] < 0  # larger
    assert depth.grad[0, 0, 0, 2:].tolist() == [0, 0]


def test_a_pixel_of_the_sky_counts_as_much_as_any_other() -> None:
    depth = torch.full((1, 1, 1, 10), 10.0).requires_grad_()
    sky = torch.arange(10).view(1, 1, 1, 10) == 0
    loss = sky_loss(depth, sky, ~sky) + ratio_loss(depth, torch.full_like(depth, 5.0), ~sky)
    assert loss.item() == pytest.approx(math.log(8) / 10 + math.log(2), rel=1e-5)
    loss.backward()
    assert depth.grad is not None
    assert -depth.grad.flatten()[0] == pytest.approx(0.9 * depth.grad.flatten()[1].item(), rel=1e-5)


def test_the_sky_is_what_rendered_scenes_have_at_infinity() -> None:
    target, source = pair()
    batch = batch_of(target, source, 4, mask=torch.zeros(1, 1, 8, 32, dtype=torch.bool))
    assert depth_loss(says(1.0, target), batch, FOCAL, DepthLossConfig())[1]["sky"] == 0  # unknown is no sky
    batch.truth[..., :4, :] = math.inf
    near = depth_loss(says(1 / 8, target), batch, FOCAL, DepthLossConfig())[1]["sky"]
    assert near.item() == pytest.approx(math.log(10), rel=1e-5)
    assert depth_loss(says(1 / 90, target), batch, FOCAL, DepthLossConfig())[1]["sky"] == 0


# ---- together --------------------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_of_its_parts():
    target, source = pair()
    batch = batch_of(target, source, 4)
    batch.truth[..., :2, :] = math.inf
    config = DepthLossConfig(photometric=0.5, regression=2.0, flow_photometric=3.0, smoothness=0.1, sky=0.2)
    inverse = 0.05 + 0.05 * noise(1, 1, 8, 32, seed=3)
    loss, parts = depth_loss(DepthPrediction(inverse), batch, FOCAL, config)
    terms = {"photometric": 0.5, "regression": 2.0, "flow_photometric": 3.0, "smoothness": 0.1, "sky": 0.2}
    assert set(parts) == {*terms, "loss", "mask", "abs_rel"}
    assert all(parts[name] > 0 and not parts[name].requires_grad for name in terms)
    assert loss.item() == parts["loss"].item() == pytest.approx(sum(w * parts[n].item() for n, w in terms.items()))


def test_several_levels_are_enlarged_and_averaged():
    """Two levels, each the same everywhere: means of what each has alone; smoothness of the coarser one halved."""
    target, source = pair(n=2)
    batch = batch_of(target, source, 4)
    fine, coarse = 0.06 + 0.02 * noise(2, 1, 8, 32, seed=4), 0.06 + 0.02 * noise(2, 1, 4, 16, seed=5)
    config = DepthLossConfig(scales=2)
    both = depth_loss(DepthPrediction(fine, (fine, coarse)), batch, FOCAL, config)[1]
    enlarged = F.interpolate(coarse, (8, 32), mode="bilinear", align_corners=False)
    ones = [depth_loss(DepthPrediction(level), batch, FOCAL, DepthLossConfig())[1] for level in (fine, enlarged)]
    for name in ("photometric", "regression", "flow_photometric"):
        assert both[name].item() == pytest.approx((ones[0][name] + ones[1][name]).item() / 2, rel=1e-5)
    rough = smoothness_loss(coarse, F.avg_pool2d(target, 2)) / 2
    assert both["smoothness"].item() == pytest.approx((ones[0]["smoothness"] + rough).item() / 2, rel=1e-5)
    assert both["abs_rel"] == ones[0]["abs_rel"]


def test_levels_that_do_not_learn_get_no_gradient():
    target, source = pair()
    levels = [torch.full((1, 1, 8 >> k, 32 >> k), 0.1, requires_grad=True) for k in range(2)]
    depth_loss(DepthPrediction(levels[0], tuple(levels)), batch_of(target, source, 4), FOCAL, DepthLossConfig())[
        0
    ].backward()
    assert levels[0].grad is not None and levels[1].grad is None


def test_the_rows_of_the_paper():
    target, source = pair()
    terms = {
        name: set(depth_loss(says(0.1, target), batch_of(target, source, 4), FOCAL, config)[1])
        - {"loss", "mask", "abs_rel", "smoothness", "sky"}
        for name, config in PRESETS.items()
    }
    assert terms == {
        "auto_mask": {"photometric"},
        "flow_mask": {"photometric"},
        "flow_mask_dr": {"photometric", "regression"},
        "flow_mask_fp": {"photometric", "flow_photometric"},
        "flow_mask_fd": {"photometric", "regression", "flow_photometric"},
    }
    assert [name for name, config in PRESETS.items() if config.photometric_mask != "flow"] == ["auto_mask"]
    assert PRESETS["flow_mask_fd"] == DepthLossConfig()


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_agree_with_finite_differences(name, sign):
    target, source = pair(3, sign, h=4, w=12)
    mask = torch.ones(1, 1, 4, 12, dtype=torch.bool)
    mask[..., 2, 3:7] = False
    batch = batch_of(target, source, 3, mask=mask, baseline=sign * BASELINE, dtype=torch.float64)
    config = DepthLossConfig(**{**vars(PRESETS[name]), "smoothness": 0.0})

    def loss_of(inverse):
        # The same noise every time.
        generator = torch.Generator().manual_seed(0)
        return depth_loss(DepthPrediction(inverse), batch, FOCAL, config, generator)[0].double()

    inverse = (0.053 + 0.003 * noise(1, 1, 4, 12, seed=6)).double()  # 2.65 .. 2.8 px: no whole column is near
    leaf = inverse.clone().requires_grad_()
    loss_of(leaf).backward()
    step = 1e-3  # the warp is in float32: smaller steps drown in its rounding
    for y, x in ((0, 4), (2, 5), (1, 6), (3, 11), (2, 0)):
        change = torch.zeros_like(inverse)
        change[..., y, x] = step
        expected = (loss_of(inverse + change) - loss_of(inverse - change)) / (2 * step)
        assert leaf.grad[0, 0, y, x].item() == pytest.approx(expected.item(), rel=0.02, abs=2e-4)


def test_rows_of_several_cameras_are_judged_by_their_own():
    """A grafted sample: the upper rows of a 0.5 m rig, the lower ones of a 0.25 m rig with another focal length."""
    target, source = pair(4)
    batch = batch_of(target, source, 4)
    rows = torch.full((1, 8), BASELINE)
    rows[:, 5:] = BASELINE / 2
    focal = torch.full((1, 8), FOCAL)
    focal[:, 5:] = 150.0
    grafted = batch._replace(focal=focal, baseline=rows)
    inverse = torch.full((1, 1, 8, 32), 0.08)
    inverse[:, :, 5:] = 0.16
    seen = torch.zeros(1, 1, 8, 32, dtype=torch.bool)
    seen[..., 5:] = True
    parts = depth_loss(DepthPrediction(inverse), grafted._replace(mask=seen), FOCAL, DepthLossConfig())[1]
    assert parts["photometric"] < 1e-6 and parts["regression"] < 1e-5 and parts["abs_rel"] < 1e-5
    assert per_pixel(rows).shape == (1, 1, 8, 1) and per_pixel(batch.focal).shape == (1, 1, 1, 1)


def test_a_depth_map_is_found_by_descent():
    """From 30 % off, with the whole loss: the plane's disparity comes out within 2 %."""
    target, source = pair(4, n=1, h=8, w=48)
    seen = torch.zeros(1, 1, 8, 48, dtype=torch.bool)
    seen[..., 6:-6] = True
    batch = batch_of(target, source, 4, mask=seen)
    logits = torch.full((1, 1, 8, 48), math.log(0.056), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.03)
    for _ in range(80):
        optimizer.zero_grad()
        depth_loss(DepthPrediction(logits.exp()), batch, FOCAL, DepthLossConfig())[0].backward()
        optimizer.step()
    found = logits.detach().exp()[seen]
    assert (found / 0.08 - 1).abs().median() < 0.02
