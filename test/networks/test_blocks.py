"""The comparison of pixels, by shifts along rows and columns."""

from __future__ import annotations

import pytest
import torch

from fg_depth_ros.networks.blocks import PixelComparison
from fg_depth_ros.networks.flow import warp

ROW = [(0, 2), (0, 1), (0, 0), (0, -1), (0, -2)]
AROUND = [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)]


def shifted_pair(columns, rows=0, gain=1.0, offset=0.0):
    """Return noise of 1 x 3 x 32 x 80 and the same moved left and up by whole pixels, through another exposure."""
    wide = torch.rand(1, 3, 32 + rows, 80 + columns, generator=torch.Generator().manual_seed(3))
    return torch.cat([wide[..., :32, :80], gain * wide[..., rows:, columns:] + offset])


def moved(columns, rows=0.0):
    """Return what warps by a constant flow."""
    flow = torch.tensor([columns, rows]).view(1, 2, 1, 1).expand(1, 2, 32, 80)
    return lambda second: warp(second, flow)


@pytest.mark.parametrize("off", [-2, -1, 0, 1, 2])
def test_pixels_are_compared_along_the_row(off):
    """Second = first moved by 12 px: the channel of the offset is 0, whatever pixel of the cell; others are not."""
    compared = PixelComparison("x", ROW)(shifted_pair(12), moved(-12.0 + off)).view(6, 4, 16, 40)
    inner = compared[..., 4:-4, 12:-8]
    assert inner[0].mean() > 0.5  # own contrast
    alike = inner[1:].amax((1, 2, 3)) < 0.05
    assert alike.tolist() == [offset == (0, -off) for offset in ROW]


@pytest.mark.parametrize("off", AROUND)
def test_slopes_of_both_axes_are_compared_around_the_match(off):
    rows, columns = off
    warped = moved(-6.0 - columns, -4.0 - rows)
    compared = PixelComparison("xy", AROUND)(shifted_pair(6, 4), warped).view(6, 2, 4, 16, 40)
    inner = compared[..., 4:-4, 6:-6]
    assert (inner[0].mean((1, 2, 3)) > 0.5).all()
    alike = inner[1:].amax((2, 3, 4)) < 0.05
    assert alike.tolist() == [[offset == off] * 2 for offset in AROUND]


def test_the_axes_are_those_of_columns_and_rows():
    """A picture that changes along the row alone has contrast along it alone."""
    ramp = torch.arange(80.0).remainder(8).expand(2, 3, 32, 80) / 8
    x, y = PixelComparison("xy", [(0, 0)])(ramp, moved(0.0)).view(2, 2, 4, 16, 40)[0, ..., 2:-2, 2:-2]
    assert x.mean() > 0.5 and y.max() < 1e-4


def test_pixels_are_compared_between_pixels():
    wide = torch.rand(1, 3, 32, 92, generator=torch.Generator().manual_seed(3))
    pair = torch.cat([0.5 * (wide[..., :80] + wide[..., 1:81]), wide[..., 12:]])
    compared = PixelComparison("x", ROW)(pair, moved(-11.5)).view(6, 4, 16, 40)[..., 4:-4, 12:-8]
    assert compared[3].mean() < 0.3 * compared[1].mean()


def test_exposure_does_not_change_how_pixels_compare():
    pairs = shifted_pair(12), shifted_pair(12, gain=0.8, offset=0.1)
    same, other = (PixelComparison("x", ROW)(pair, moved(-12.0))[..., 4:-4, 12:-8] for pair in pairs)
    torch.testing.assert_close(other, same, atol=0.1, rtol=0)


def test_no_gradient_flows_through_the_comparison_of_pixels():
    flow = torch.zeros(1, 2, 32, 80, requires_grad=True)
    assert not PixelComparison("xy", AROUND)(shifted_pair(12), lambda second: warp(second, flow)).requires_grad
