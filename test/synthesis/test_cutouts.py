"""Cut-outs and outlines: what cannot be used, colours at their edges, masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from support.chairs import HEIGHT, WIDTH, save_rgba, stamp

from fg_depth_ros.files import FileError
from fg_depth_ros.synthesis.chairs import ChairsGenerator
from fg_depth_ros.synthesis.cutouts import CutoutAtlas, list_cutouts
from fg_depth_ros.synthesis.outlines import draw_outline
from fg_depth_ros.synthesis.textures import TextureAtlas


def test_cut_outs_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(FileError, match="cut-out folder .*nowhere does not exist"):
        list_cutouts([tmp_path / "nowhere"])
    with pytest.raises(FileError, match=rf"no cut-out .* below {tmp_path}"):
        list_cutouts([tmp_path])
    cv2.imwrite(str(tmp_path / "solid.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(FileError, match=r"solid\.png: has no transparency"):
        CutoutAtlas.build(list_cutouts([tmp_path]), outlines=0)
    save_rgba(tmp_path / "solid.png", np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(FileError, match=r"solid\.png: is transparent everywhere"):
        CutoutAtlas.build(list_cutouts([tmp_path]), outlines=0)
    save_rgba(tmp_path / "solid.png", stamp())
    whole = (tmp_path / "solid.png").read_bytes()
    (tmp_path / "solid.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"solid\.png: truncated"):
        CutoutAtlas.build(list_cutouts([tmp_path]), outlines=0)


def test_squares_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="a power of two"):
        CutoutAtlas([], [])
    with pytest.raises(ValueError, match="a power of two"):
        CutoutAtlas([], [np.zeros((48, 48), np.uint8)])


def test_photo_cut_outs_keep_their_colours_and_nothing_bleeds_in(tmp_path):
    for i in range(3):
        save_rgba(tmp_path / f"disc{i}.png", stamp())
    cutouts = CutoutAtlas.build(list_cutouts([tmp_path]), outlines=0, size=64)
    assert (cutouts.count, cutouts.photos) == (3, 3)
    grey = TextureAtlas([np.full((64, 64, 3), 90, np.uint8)], size=64)
    batch = ChairsGenerator(grey, cutouts, WIDTH, HEIGHT).batch([0, 1])
    pixels = torch.cat([batch.first, batch.second]).permute(0, 2, 3, 1).reshape(-1, 3).float()
    red = (pixels - torch.tensor([200.0, 40, 40])).abs().amax(1) < 3
    assert red.float().mean() > 0.05
    # Everything else is the grey of the background or on the line between the two: no green anywhere.
    part = ((pixels[:, 0] - 90) / 110).unsqueeze(1)
    line = 90 + part * (torch.tensor([200.0, 40, 40]) - 90)
    assert (pixels - line).abs().max() < 4


def test_outlines_fill_their_squares_and_differ():
    rng = np.random.default_rng(2)
    masks = [draw_outline(rng, 64) for _ in range(200)]
    for mask in masks:
        assert mask.shape == (64, 64) and mask.dtype == np.uint8
        rows, columns = np.flatnonzero(mask.max(1) > 8), np.flatnonzero(mask.max(0) > 8)
        assert 57 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 62
        assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
    covered = np.array([(mask > 127).mean() for mask in masks])
    assert covered.min() < 0.2 and covered.max() > 0.6
