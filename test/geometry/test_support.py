"""Whether images bear out a disparity: pairs that show nothing, or not the same, against pairs made by shifting one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fg_depth_ros.geometry import PairFault, photometric_support, unchecked_support

HEIGHT, WIDTH, SHIFT = 240, 320, 12


def noise(seed: int, mean: float, deviation: float) -> np.ndarray:
    values = np.random.default_rng(seed).normal(mean, deviation, (HEIGHT, WIDTH))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def texture(seed: int, width: int = WIDTH) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(40, 216, (HEIGHT // 4, width // 4 + 1), dtype=np.uint8)
    return cv2.resize(coarse, (width, HEIGHT), interpolation=cv2.INTER_CUBIC)


def shifted(scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both views of a wall at SHIFT px, each with a noise of its own."""
    views = (scene[:, :WIDTH], scene[:, SHIFT : SHIFT + WIDTH])
    return tuple(np.clip(v + noise(9 + i, 0, 2).astype(int) - noise(19 + i, 0, 2), 0, 255).astype(np.uint8)
                 for i, v in enumerate(views))  # fmt: skip


def flat(disparity: float = SHIFT) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), disparity, np.float32)


BLACK, WHITE, GREY = (np.full((HEIGHT, WIDTH), level, np.uint8) for level in (0, 255, 128))
SCENE = texture(1)


@pytest.mark.parametrize(
    ("left", "right", "fault"),
    [
        (BLACK, BLACK, PairFault.DARK),
        (noise(1, 5, 4), noise(2, 5, 4), PairFault.DARK),
        (WHITE, WHITE, PairFault.OVEREXPOSED),
        (GREY, GREY, PairFault.NO_TEXTURE),
        (noise(1, 128, 1), noise(2, 128, 1), PairFault.NO_TEXTURE),
        (SCENE, BLACK, PairFault.RIGHT_COVERED),
        (SCENE, noise(2, 5, 2), PairFault.RIGHT_COVERED),
        (SCENE, WHITE, PairFault.RIGHT_COVERED),
        (GREY, SCENE, PairFault.LEFT_COVERED),
        (noise(1, 128, 60), noise(2, 128, 60), PairFault.UNRELATED),
        (SCENE, texture(2), PairFault.UNRELATED),
    ],
)
def test_a_pair_without_common_detail_supports_nothing_and_names_why(left, right, fault):
    found = photometric_support(left, right, flat())
    assert found.fault == fault
    assert found.pixels.mean() < 0.02


def test_a_true_disparity_is_supported_in_spite_of_noise_and_exposure_and_a_wrong_one_is_not():
    left, right = shifted(texture(3, WIDTH + SHIFT))
    right = (right * 0.7 + 20).astype(np.uint8)  # another gain and offset
    true = photometric_support(left, right, flat())
    assert true.fault is None
    assert true.pixels[:, SHIFT:].mean() > 0.99
    colour = photometric_support(*(np.repeat(i[..., None], 3, -1) for i in (left, right)), flat())
    assert (colour.pixels == true.pixels).mean() > 0.999
    assert photometric_support(left, right, flat(SHIFT + 16)).fault == PairFault.UNRELATED


def test_only_the_wrong_part_of_a_disparity_is_unsupported():
    left, right = shifted(texture(3, WIDTH + SHIFT))
    disparity = flat()
    disparity[:, 200:] += 16
    found = photometric_support(left, right, disparity)
    assert found.fault is None
    assert found.pixels[:, 20:190].mean() > 0.99
    assert found.pixels[:, 270:].mean() < 0.1  # the windows of 121 px of half the size reach 120 px


def test_a_blank_wall_with_texture_around_it_is_kept_and_one_that_fills_the_view_is_not():
    wide = texture(3, WIDTH + SHIFT)
    wide[80:160, 120:220] = 128
    found = photometric_support(*shifted(wide), flat())
    assert found.pixels[80:160, 140:200].all()
    wide[:, :] = 128
    wide[:8, :40] = texture(4)[:8, :40]
    assert photometric_support(*shifted(wide), flat()).pixels[120:, 160:].mean() == 0.0


def test_no_match_supports_nothing_and_sizes_must_agree():
    left, right = shifted(texture(3, WIDTH + SHIFT))
    assert not photometric_support(left, right, flat(np.nan)).pixels.any()
    assert not photometric_support(left[:3, :2], right[:3, :2], flat()[:3, :2]).pixels.any()
    with pytest.raises(ValueError, match="sizes must agree"):
        photometric_support(left, right[:-1], flat())


@pytest.mark.filterwarnings("error")
def test_matches_that_all_lie_outside_the_image_support_nothing():
    found = photometric_support(SCENE, texture(2), flat(5000.0))
    assert not found.pixels.any()
    assert found.agreement == 0.0


def test_one_picture_on_both_sides_is_no_pair_whatever_was_matched():
    for disparity in (0.0, 3.0):
        found = photometric_support(SCENE, SCENE, flat(disparity))
        assert found.fault == PairFault.IDENTICAL
        assert not found.pixels.any()
    nearly = SCENE.copy()
    nearly[100, 100:110] ^= 64
    assert photometric_support(SCENE, nearly, flat(0.0)).fault is None  # a scene far away
    assert photometric_support(GREY, GREY, flat(0.0)).fault == PairFault.NO_TEXTURE


def test_one_picture_on_both_sides_is_told_without_a_comparison():
    found = unchecked_support(SCENE, SCENE.copy())
    assert found is not None and found.fault == PairFault.IDENTICAL and not found.pixels.any()
    nearly = SCENE.copy()
    nearly[100, 100] ^= 1
    assert unchecked_support(SCENE, nearly) is None
    assert unchecked_support(GREY, GREY) is None  # blank walls may be equal


def test_agreement_is_the_share_of_pixels_whose_surroundings_are_alike():
    left, right = shifted(texture(3, WIDTH + SHIFT))
    disparity = flat()
    assert photometric_support(left, right, disparity).agreement > 0.95
    assert photometric_support(left, texture(2), disparity).agreement < 0.05
    assert photometric_support(GREY, GREY, disparity).agreement == 0.0
    disparity[:, : WIDTH // 2] += 16  # windows reach 120 px from there, and those of the border into it
    assert 0.3 < photometric_support(left, right, disparity).agreement < 0.7


def test_shading_bears_out_a_surface_without_detail():
    x = np.arange(WIDTH + SHIFT)
    for period in (150, 300):  # at most 1.7 grey levels a pixel
        scene = np.tile(128 + 40 * np.sin(2 * np.pi * x / period), (HEIGHT, 1))
        pair = shifted(np.rint(scene).astype(np.uint8))
        found = photometric_support(*pair, flat())
        assert found.fault is None
        assert found.pixels[:, 20:].mean() > 0.99
        assert photometric_support(*pair, flat(SHIFT + period / 4)).pixels.mean() < 0.02


def test_the_black_border_of_rectification_is_unsupported_and_a_black_object_is_not():
    left, right = (view.copy() for view in shifted(texture(1, WIDTH + SHIFT)))
    for view in (left, right):
        view[:, :40] = 0  # as a rotation leaves it: a strip, and a wedge of 60 x 40 px
        view[-40:][np.arange(40)[:, None] * 1.5 > WIDTH - 1 - np.arange(WIDTH)] = 0
    left[100:130, 150:180] = right[100:130, 150 - SHIFT : 180 - SHIFT] = 0  # a black object inside
    supported = photometric_support(left, right, flat()).pixels
    assert not supported[:, :38].any()
    assert not supported[-8:, -40:].any()
    assert supported[102:128, 152:178].mean() > 0.9
    assert supported[:180, 60:].mean() > 0.95


def test_single_black_pixels_at_the_edge_change_nothing():
    left, right = (view.copy() for view in shifted(texture(1, WIDTH + SHIFT)))
    before = photometric_support(left, right, flat()).pixels
    left[0, 100:110] = left[50, 0] = 0
    after = photometric_support(left, right, flat()).pixels
    assert (before != after).mean() < 0.001
