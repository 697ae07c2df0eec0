"""Check a disparity map against its images: texture, light, a covered camera, different views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import cv2
import numpy as np

# What is compared.
_WIDTH = 640  # px; larger images are compared at about this width, all at half their size or less
_DETAIL = 9  # px of that size; larger structure is left out, two views of nothing in common share it
_NOISE = 1.0  # grey levels of 255 after averaging: a camera's noise and rounding
# The images themselves, not their detail, in windows of this many px at half that size. A matcher finds detail in
# smooth images of other things, but not the light and dark of whole surfaces.
_WIDE_WINDOW = 61
_WIDE_CONTRAST = 3.0  # grey levels, standard deviation in such a window; with less nothing is known

# Which pixels are supported.
# Correlation that windows of this many px need: the smaller, the more easily a matcher finds it in mere noise. The
# large ones bring walls without texture to what has texture around them.
_PIXEL_CORRELATION = {9: 0.5, 25: 0.35, 61: 0.3, 121: 0.3}
_PIXEL_WIDE_CORRELATION = 0.8  # supports a surface without detail
_BORDER_BLACK = 1  # grey level that a camera's noise exceeds, and what rectification fills in does not
_BORDER_SHARE = 0.001  # of the pixels; a smaller black area at the edge may be anything

# What is wrong with the pair.
# Of wide windows; 0.73 of the pixels correlate so in good pairs, 0.66 in good ones out of focus, 0.01 in other views
# out of focus.
_PAIR_CORRELATION = 0.7
_PAIR_SHARED = 0.25  # share of the pixels; with more than the second one, details that differ are noise
_PAIR_SHARED_SURELY = 0.5
_PAIR_SUPPORTED = 0.1  # share of pixels
_PAIR_AGREEING = 0.2  # share of the textured pixels: 0.7 in good pairs, 0.3 in strong noise, below 0.1 in other views
_VIEW_TEXTURED = 0.05  # share of pixels from which two images can be told to show different things
_VIEW_DARK, _VIEW_BRIGHT = 32, 250  # grey levels that 99 % are below, 90 % above


class PairFault(str, Enum):
    """Why a pair of images cannot be matched; a fixed value for programs."""

    DARK = "images dark"
    OVEREXPOSED = "images overexposed"
    LEFT_COVERED = "left camera covered"
    RIGHT_COVERED = "right camera covered"
    NO_TEXTURE = "no texture"
    UNRELATED = "views unrelated"
    IDENTICAL = "images identical"

    __str__ = str.__str__

    @property
    def explanation(self) -> str:
        """Fault and remedy, a sentence."""
        return _EXPLANATIONS[self]


_COVERED = (
    "the {} image shows nothing and the other one does: look for a cover, dirt, blinding light or another exposure on "
    "the {} camera"
)
_EXPLANATIONS = {
    PairFault.DARK: "both images are too dark to match: more light, or a longer exposure",
    PairFault.OVEREXPOSED: "both images are overexposed: a shorter exposure, or less light",
    PairFault.LEFT_COVERED: _COVERED.format("left", "left"),
    PairFault.RIGHT_COVERED: _COVERED.format("right", "right"),
    PairFault.NO_TEXTURE: "the images show too little texture to match: a blank wall, fog, or lenses out of focus",
    PairFault.UNRELATED: (
        "the two images do not show the same things: check that both come from one rig and one moment, are rectified, "
        "and that the scene is not nearer than the search reaches"
    ),
    PairFault.IDENTICAL: (
        "both images are the same picture, so one camera's images come as those of both: check the driver, and which "
        "topics are remapped"
    ),
}


@dataclass(frozen=True)
class Support:
    """Result of ``photometric_support``.

    ``pixels``: bool H x W, True where they support it. ``fault``: what is wrong with the pair as a whole, or None.
    ``agreement``: share of the pixels around which light and dark are alike in both images; 0.6 to 1 in good pairs.
    """

    pixels: np.ndarray
    fault: PairFault | None
    agreement: float


class _View(Enum):
    DARK, BRIGHT, FLAT, TEXTURED = range(4)


class _Comparison(NamedTuple):
    """A pair at the size at which it is compared; H x W each."""

    greys: list[np.ndarray]  # of left and right, uint8
    textured: list[np.ndarray]  # bool; where their fine structure is more than noise
    inside: np.ndarray  # bool; whether the match lies in the right image
    visible: np.ndarray  # bool; or there is no match
    correlations: list[np.ndarray]  # of the details, for each window of _PIXEL_CORRELATION
    wide: np.ndarray  # correlation in wide windows; NaN where the left one has no light and dark
    surfaces: np.ndarray  # bool; where that is known, and the match inside


def photometric_support(left: np.ndarray, right: np.ndarray, disparity: np.ndarray) -> Support:
    """Compare the left image with the right one warped by the disparity: zero-mean normalised cross-correlation.

    It is taken of the images' fine detail, in windows of several sizes, with the camera's noise in the denominator:
    where detail is no stronger than noise, or not the same in both images, nothing supports a match, unless the images
    themselves are alike in a wide window. Where hardly any textured pixel is alike, or hardly any wide window, the
    images show different things, and no pixel is supported. Nor is one of the black border that rectification leaves.

    Args:
        left, right: uint8, H x W or H x W x 3 RGB.
        disparity: x_left - x_right, H x W px, NaN = no match.

    Raises:
        ValueError: the sizes differ.
    """
    if not left.shape[:2] == right.shape[:2] == disparity.shape:
        raise ValueError(f"images {left.shape}, {right.shape} and disparity {disparity.shape}: sizes must agree")
    comparison = _compare(left, right, disparity)
    supported, agreement = _supported_pixels(comparison), _agreement(comparison)
    identical, fault = _identical(comparison), None
    if identical or _unrelated(comparison, agreement):
        supported[:] = False
    if identical:
        fault = PairFault.IDENTICAL
    elif supported.mean() < _PAIR_SUPPORTED:
        fault = _views_fault(*_views(comparison))
    pixels = cv2.resize(supported.astype(np.uint8), disparity.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return Support(pixels.astype(bool), fault, agreement)


def unchecked_support(left: np.ndarray, right: np.ndarray) -> Support | None:
    """Return the support of a pair that is not compared: none where both images are one picture, else None (unknown).

    ``left``, ``right``: uint8, H x W or H x W x 3 RGB.
    """
    if not np.array_equal(left, right):
        return None
    nothing = np.full(left.shape[:2], np.nan, np.float32)
    found = photometric_support(left, right, nothing)  # no cost in a stream of pairs: such a one is a fault
    return found if found.fault == PairFault.IDENTICAL else None


def _compare(left: np.ndarray, right: np.ndarray, disparity: np.ndarray) -> _Comparison:
    height, width = disparity.shape
    factor = max(2, round(width / _WIDTH))
    size = -(-width // factor), -(-height // factor)
    greys = [
        i if i.ndim == 2 else cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in map(np.ascontiguousarray, (left, right))
    ]
    greys = [cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for grey in greys]
    details = [_detail(grey) for grey in greys]
    small = cv2.resize(np.asarray(disparity, np.float32), size, interpolation=cv2.INTER_NEAREST) * (size[0] / width)
    columns = np.arange(size[0], dtype=np.float32) - small
    inside = (columns >= 0) & (columns <= size[0] - 1)  # False for NaN
    rows = np.broadcast_to(np.arange(size[1], dtype=np.float32)[:, None], small.shape)
    seen_right = cv2.merge([details[1], greys[1].astype(np.float32)])
    warped = cv2.remap(seen_right, np.where(inside, columns, 0), np.ascontiguousarray(rows), cv2.INTER_LINEAR)
    share = inside.astype(np.float32)
    correlations = _correlations(details[0] * share, warped[..., 0] * share, share)
    wide = _wide_correlation(greys[0] * share, warped[..., 1] * share, share)
    textured = [cv2.blur(detail * detail, (_DETAIL, _DETAIL)) > 4 * _NOISE**2 for detail in details]
    visible = inside | np.isnan(small)
    return _Comparison(greys, textured, inside, visible, correlations, wide, np.isfinite(wide) & inside)


def _supported_pixels(pair: _Comparison) -> np.ndarray:
    supported = pair.surfaces & (pair.wide > _PIXEL_WIDE_CORRELATION)
    for correlation, limit in zip(pair.correlations, _PIXEL_CORRELATION.values(), strict=True):
        supported |= correlation > limit
    supported &= ~_black_border(pair.greys[0])
    return supported


def _agreement(pair: _Comparison) -> float:
    """Return ``Support.agreement``."""
    return _share(pair.wide > _PAIR_CORRELATION, pair.visible) if pair.visible.any() else 0.0


def _unrelated(pair: _Comparison, agreement: float) -> bool:
    """Return whether the images show different things: hardly any wide window is alike, or hardly any detail."""
    correlated = pair.wide > _PAIR_CORRELATION
    if pair.surfaces.mean() >= _VIEW_TEXTURED and _share(correlated, pair.surfaces) < _PAIR_SHARED:
        return True
    textured = pair.textured[0]
    if textured.mean() < _VIEW_TEXTURED or agreement >= _PAIR_SHARED_SURELY:
        return False
    alike = pair.correlations[0] > next(iter(_PIXEL_CORRELATION.values()))
    return _share(alike & pair.inside, textured & pair.visible) < _PAIR_AGREEING


def _identical(pair: _Comparison) -> bool:
    """Return whether both images are the same picture, of anything at all."""
    return np.array_equal(pair.greys[0], pair.greys[1]) and _View.TEXTURED in _views(pair)


def _views(pair: _Comparison) -> list[_View]:
    return [_view(grey, texture) for grey, texture in zip(pair.greys, pair.textured, strict=True)]


def _share(found: np.ndarray, among: np.ndarray) -> float:
    """Return the share of the pixels ``among`` that ``found`` has too; both bool H x W. NaN if there are none."""
    count = np.count_nonzero(among)
    return np.count_nonzero(found & among) / count if count else math.nan


def _black_border(grey: np.ndarray) -> np.ndarray:
    """Return where rectification left an image black, bool H x W: areas without any light that reach its edge."""
    black = (grey <= _BORDER_BLACK).astype(np.uint8)
    if not any(edge.any() for edge in (black[0], black[-1], black[:, 0], black[:, -1])):
        return np.zeros(grey.shape, bool)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(black, connectivity=4)
    outside = np.zeros(count, bool)
    outside[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = True
    outside &= statistics[:, cv2.CC_STAT_AREA] >= _BORDER_SHARE * grey.size
    outside[0] = False  # what is not black
    return outside[labels]


def _detail(grey: np.ndarray) -> np.ndarray:
    values = grey.astype(np.float32)
    return values - cv2.blur(values, (_DETAIL, _DETAIL))


def _correlations(left: np.ndarray, right: np.ndarray, inside: np.ndarray) -> list[np.ndarray]:
    """Return the correlation of each window size around each pixel; images zero where not ``inside``."""
    found = []
    products = (left * right, left * left, right * right, inside)
    for window in _PIXEL_CORRELATION:
        both, own, other, share = (cv2.blur(product, (window, window)) for product in products)
        # In place, as new memory costs as much as the operations: both / (sqrt(own * other) + noise).
        np.multiply(own, other, out=own)
        np.sqrt(np.maximum(own, 0, out=own), out=own)
        np.maximum(share, np.float32(1e-6), out=share)
        np.multiply(share, np.float32(_NOISE**2), out=share)
        found.append(np.divide(both, np.add(own, share, out=own), out=both))
    return found


def _wide_correlation(left: np.ndarray, right: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the zero-mean correlation of wide windows, NaN where the left one has no light and dark.

    Images are zero where not ``inside``.
    """
    whole = left.shape[::-1]
    size = tuple(-(-length // 2) for length in left.shape[::-1])
    left, right, share = (cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i in (left, right, inside))
    known, some = np.maximum(share, np.float32(1e-3)), np.float32(1e-3)
    products = (left, right, left * left / known, right * right / known, left * right / known)
    seen = np.maximum(cv2.blur(share, (_WIDE_WINDOW, _WIDE_WINDOW)), some)
    one, other, own, others, both = (cv2.blur(product, (_WIDE_WINDOW, _WIDE_WINDOW)) / seen for product in products)
    own, others = (np.maximum(square - mean * mean, 0) for square, mean in ((own, one), (others, other)))
    correlation = (both - one * other) / (np.sqrt(own * others) + np.float32(_NOISE**2))
    correlation[(own <= _WIDE_CONTRAST**2) | (share <= 0.5)] = np.nan
    return cv2.resize(correlation, whole, interpolation=cv2.INTER_NEAREST)


def _view(grey: np.ndarray, textured: np.ndarray) -> _View:
    low, high = np.percentile(grey[::2, ::2], (10, 99))
    if high < _VIEW_DARK:
        return _View.DARK
    if low >= _VIEW_BRIGHT:
        return _View.BRIGHT
    return _View.TEXTURED if textured.mean() >= _VIEW_TEXTURED else _View.FLAT


def _views_fault(left: _View, right: _View) -> PairFault:
    if left == right:
        same = (PairFault.DARK, PairFault.OVEREXPOSED, PairFault.NO_TEXTURE, PairFault.UNRELATED)
        return same[left.value]
    if _View.TEXTURED in (left, right):
        return PairFault.LEFT_COVERED if right == _View.TEXTURED else PairFault.RIGHT_COVERED
    return PairFault.NO_TEXTURE
