"""The correlation layers against a naive triple loop, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fg_depth_ros.networks import correlate_near, correlate_row, correlate_window


def naive(first, second, displacements):
    """Channel k of the result compares first[y, x] with second[y + dy, x + dx] for displacements[k] = (dy, dx)."""
    n, c, h, w = first.shape
    out = torch.zeros(n, len(displacements), h, w, dtype=first.dtype)
    for k, (dy, dx) in enumerate(displacements):
        for y in range(h):
            for x in range(w):
                if 0 <= y + dy < h and 0 <= x + dx < w:
                    out[:, k, y, x] = (first[:, :, y, x] * second[:, :, y + dy, x + dx]).sum(1) / c
    return out


LAYERS = {
    "window": (
        lambda a, b: correlate_window(a, b, radius=4, stride=2),
        [(dy, dx) for dy in range(-4, 5, 2) for dx in range(-4, 5, 2)],
    ),
    "window_of_flownet_c": (
        lambda a, b: correlate_window(a, b),
        [(dy, dx) for dy in range(-20, 21, 2) for dx in range(-20, 21, 2)],
    ),
    "window_stride_3": (
        lambda a, b: correlate_window(a, b, radius=3, stride=3),
        [(dy, dx) for dy in (-3, 0, 3) for dx in (-3, 0, 3)],
    ),
    "window_of_one": (lambda a, b: correlate_window(a, b, radius=0, stride=1), [(0, 0)]),
    "row": (lambda a, b: correlate_row(a, b, 6), [(0, -d) for d in range(6)]),
    "row_wider_than_image": (lambda a, b: correlate_row(a, b, 14), [(0, -d) for d in range(14)]),
    "near": (lambda a, b: correlate_near(a, b, 2), [(0, 2 - k) for k in range(5)]),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_matches_the_naive_loop_forward_and_backward(layer):
    function, displacements = LAYERS[layer]
    torch.manual_seed(3)
    maps = [torch.randn(2, 5, 7, 9, requires_grad=True) for _ in range(4)]
    a, b, a2, b2 = maps
    a2.data.copy_(a.data), b2.data.copy_(b.data)
    ours, theirs = function(a, b), naive(a2, b2, displacements)
    assert torch.allclose(ours, theirs, atol=1e-5)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    assert torch.allclose(a.grad, a2.grad, atol=1e-5)
    assert torch.allclose(b.grad, b2.grad, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_bfloat16_stays_within_its_rounding(layer):
    function, _ = LAYERS[layer]
    torch.manual_seed(4)
    a, b = torch.randn(1, 16, 6, 12), torch.randn(1, 16, 6, 12)
    exact = function(a.bfloat16().float(), b.bfloat16().float())
    assert torch.allclose(function(a.bfloat16(), b.bfloat16()).float(), exact, atol=0.02)


def test_a_narrow_window_in_a_wide_map_matches_too():
    torch.manual_seed(7)
    maps = [torch.randn(2, 4, 3, 50, requires_grad=True) for _ in range(2)]
    copies = [m.detach().clone().requires_grad_() for m in maps]
    displacements = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    ours, theirs = correlate_window(*maps, radius=1, stride=1), naive(*copies, displacements)
    assert torch.allclose(ours, theirs, atol=1e-5)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    for mine, other in zip(maps, copies, strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-5)


@pytest.mark.parametrize("width", [12, 50], ids=["products", "shifts"])
def test_a_window_of_bfloat16_features_is_exact_in_float32(width):
    torch.manual_seed(8)
    a, b = (torch.randn(1, 16, 4, width).bfloat16().requires_grad_() for _ in range(2))
    a2, b2 = (m.detach().float().requires_grad_() for m in (a, b))
    displacements = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    with torch.autocast("cpu", dtype=torch.bfloat16):  # must not bring the rounding back
        ours = correlate_window(a, b, radius=1, stride=1)
    theirs = naive(a2, b2, displacements)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, atol=1e-5)
    weight = torch.randn_like(theirs)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    for mine, other in ((a, a2), (b, b2)):  # computed in float32, then rounded once: 8 bits of precision
        assert mine.grad.dtype == torch.bfloat16
        assert ((mine.grad.float() - other.grad).abs() <= 1e-5 + 2**-8 * other.grad.abs()).all()


def test_row_search_finds_a_known_shift():
    torch.manual_seed(5)
    right = torch.nn.functional.normalize(torch.randn(1, 32, 4, 40), dim=1)
    left = torch.roll(right, 7, dims=3)  # left[x] = right[x - 7]
    best = correlate_row(left, right, 12).argmax(1)
    assert (best[..., 7:] == 7).all()


def test_bad_arguments_are_named():
    a = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 4\) and \(1, 2, 3, 5\)"):
        correlate_row(a, torch.zeros(1, 2, 3, 5), 4)
    with pytest.raises(ValueError, match="positive, got 0"):
        correlate_row(a, a, 0)
    with pytest.raises(ValueError, match="radius 3 .* stride 2"):
        correlate_window(a, a, radius=3, stride=2)


@pytest.mark.parametrize("layer", ["window", "row"])
def test_exports_to_onnx_with_the_same_numbers(layer, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    function, _ = LAYERS[layer]

    class Net(torch.nn.Module):
        def forward(self, a, b):
            return function(a, b)

    torch.manual_seed(6)
    a, b = torch.randn(1, 4, 6, 10), torch.randn(1, 4, 6, 10)
    path = tmp_path / "layer.onnx"
    torch.onnx.export(Net(), (a, b), path, dynamo=True, verbose=False, input_names=["a", "b"])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"a": a.numpy(), "b": b.numpy()})
    np.testing.assert_allclose(answer, function(a, b).numpy(), atol=1e-5)
