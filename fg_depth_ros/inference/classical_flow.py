"""Optical flow without learning: DIS, Farneback, Lucas-Kanade, Horn-Schunck, and the variational refinement.

All take two grey images H x W uint8 of one size and return H x W x 2 float32 px (u right, v down;
``first(x, y) <-> second(x + u, y + v)``), for every pixel. All search in a pyramid, coarse to fine.

The settings were chosen among a few of each method for a low end-point error over three Middlebury, three Flying Chairs
and three KITTI pairs together; DIS runs in the best of OpenCV's presets.
"""

from __future__ import annotations

import cv2
import numpy as np

from fg_depth_ros.geometry.resize import resize_flow, resize_image

_DIS_SMALLEST = 16  # px; OpenCV's DIS refuses smaller images
# Horn & Schunck's weights of the neighbours (their section "Estimating the Laplacian of the Flow Velocities").
_NEIGHBOURS = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]], np.float32) / 12
_DERIVATIVE = np.array([[1, -8, 0, 8, -1]], np.float32) / 12  # central, exact for cubic polynomials
_COARSEST = 16  # px; a pyramid ends before its smaller side would be below this


def dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Run dense inverse search (Kroeger et al., ECCV 2016), OpenCV's, in its preset ``medium``."""
    height, width = first.shape
    down, right = max(_DIS_SMALLEST - height, 0), max(_DIS_SMALLEST - width, 0)
    if down or right:
        first, second = (cv2.copyMakeBorder(i, 0, down, 0, right, cv2.BORDER_REPLICATE) for i in (first, second))
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.ascontiguousarray(method.calc(first, second, None)[:height, :width])  # type: ignore[call-overload]


def farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Run polynomial expansion (Farneback, SCIA 2003), OpenCV's.

    Fine pyramid steps, neighbourhoods of 5 px, windows of 21 px.
    """
    settings = {"pyr_scale": 0.8, "levels": 12, "winsize": 21, "iterations": 5, "poly_n": 5, "poly_sigma": 1.1}
    flow = cv2.calcOpticalFlowFarneback(first, second, None, **settings, flags=0)  # type: ignore[call-overload]
    return np.asarray(flow, np.float32)


def lucas_kanade(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Run Lucas & Kanade (IJCAI 1981) at every pixel.

    The iterative version of scikit-image (Le Besnerais & Champagnat, ICIP 2005) with Gaussian windows of radius 10 px.
    """
    from skimage.registration import optical_flow_ilk  # not needed for anything else: seconds to import

    height, width = first.shape
    if min(height, width) < 2:  # it takes gradients
        first, second = (cv2.copyMakeBorder(i, 0, 1, 0, 1, cv2.BORDER_REPLICATE) for i in (first, second))
    images = (image.astype(np.float32) / 255 for image in (first, second))
    rows, columns = optical_flow_ilk(*images, radius=10, num_warp=10, gaussian=True, prefilter=True, dtype=np.float32)
    return np.stack([columns, rows], -1)[:height, :width].astype(np.float32)


def horn_schunck(
    first: np.ndarray, second: np.ndarray, alpha: float = 15.0, warps: int = 5, iterations: int = 100
) -> np.ndarray:
    """Run Horn & Schunck, "Determining optical flow", Artificial Intelligence 1981, in a pyramid for large motions.

    At every level the second image is warped by the flow so far, and the paper's iteration (its section "Iterative
    Solution") with its local average solves for the flow, linearised there. Derivatives are central differences of the
    mean of both images (the paper's cube of eight pixels sees the two images half a pixel apart, which a warped image
    is not).

    Args:
        first, second: see the module.
        alpha: weight of smoothness, grey values of 0 .. 255 per pixel; the paper's.
        warps: linearisations per level.
        iterations: for each of them.
    """
    pyramid = list(zip(_pyramid(first), _pyramid(second), strict=True))
    flow = np.zeros((*pyramid[-1][0].shape, 2), np.float32)
    for a, b in reversed(pyramid):
        flow = resize_flow(flow, a.shape[1], a.shape[0])
        for _ in range(warps):
            flow = _horn_schunck_step(a, b, flow, alpha, iterations)
    return flow


def _pyramid(image: np.ndarray) -> list[np.ndarray]:
    """Return the image, float32, at scale 1, 1/2, 1/4, ..., low-pass filtered against aliasing."""
    height, width = image.shape
    levels = [cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.8)]
    while min(height, width) // 2 >= _COARSEST:
        height, width = (height + 1) // 2, (width + 1) // 2
        smooth = cv2.GaussianBlur(levels[-1], (0, 0), 1.2)
        levels.append(resize_image(smooth, width, height))
    return levels


def _horn_schunck_step(a: np.ndarray, b: np.ndarray, flow: np.ndarray, alpha: float, iterations: int) -> np.ndarray:
    height, width = a.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x + flow[..., 0], y + flow[..., 1]
    warped = cv2.remap(b, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    # What lies outside the second image says nothing: there the flow is the neighbours' average alone.
    inside = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).astype(np.float32)
    mean = (a + warped) / 2
    ex = inside * cv2.filter2D(mean, -1, _DERIVATIVE, borderType=cv2.BORDER_REPLICATE)
    ey = inside * cv2.filter2D(mean, -1, _DERIVATIVE.T, borderType=cv2.BORDER_REPLICATE)
    et = inside * (warped - a) - ex * flow[..., 0] - ey * flow[..., 1]
    weight = 1 / (alpha**2 + ex**2 + ey**2)
    for _ in range(iterations):
        flow = cv2.filter2D(flow, -1, _NEIGHBOURS, borderType=cv2.BORDER_REPLICATE)
        residual = weight * (ex * flow[..., 0] + ey * flow[..., 1] + et)
        flow[..., 0] -= ex * residual
        flow[..., 1] -= ey * residual
    return flow


def refine(first: np.ndarray, second: np.ndarray, flow: np.ndarray, at_half: int = 20, at_full: int = 5) -> np.ndarray:
    """Refine any flow by the variational ``+v`` of FlowNet (Dosovitskiy et al. 2015, section 3).

    As in the paper 20 iterations coarse to fine and 5 at the full resolution. The coarse ones run at half the
    resolution: from a quarter on, as in the paper, a good flow loses small things. The energy is that of OpenCV's
    solver, which belongs to its DIS: brightness, gradients and smoothness, all robust, after Brox et al. (ECCV 2004);
    the paper's image boundaries have no part in it.

    ``flow`` is not changed; where it is NaN the neighbours' flow is taken for the start, and the result is NaN.
    ``at_half``, ``at_full``: iterations at half and at full resolution; 0: none there.
    """
    height, width = first.shape
    unknown = ~np.isfinite(flow).all(-1)
    refined = _filled(flow, unknown) if unknown.any() else flow
    if at_half:
        half = (max(1, width // 2), max(1, height // 2))
        small = [resize_image(image, *half) for image in (first, second)]
        refined = resize_flow(_variational(small[0], small[1], resize_flow(refined, *half), at_half), width, height)
    refined = _variational(first, second, refined, at_full)
    refined[unknown] = np.nan
    return refined


def _variational(first: np.ndarray, second: np.ndarray, flow: np.ndarray, iterations: int) -> np.ndarray:
    solver = cv2.VariationalRefinement.create()
    solver.setFixedPointIterations(iterations)
    parts = [np.ascontiguousarray(flow[..., i], np.float32) for i in range(2)]
    return np.stack([np.asarray(part) for part in solver.calcUV(first, second, parts[0], parts[1])], -1)


def _filled(flow: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Return the flow with unknown pixels filled from the nearest known one; zero where nothing is known."""
    if unknown.all():
        return np.zeros_like(flow)
    _, nearest = cv2.distanceTransformWithLabels(
        unknown.astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    label = np.zeros(int(nearest.max()) + 1, np.int64)
    known = np.flatnonzero(~unknown)
    label[nearest.ravel()[known]] = known
    return np.asarray(flow.reshape(-1, 2)[label[nearest]])
