"""Real pairs with truth, watched while a network trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fg_depth_ros.data.datasets import StereoSample, open_stereo_folder
from fg_depth_ros.networks.flownet_stereo import SIZE_MULTIPLE


@dataclass(frozen=True)
class RealPairs:
    """One folder of samples."""

    name: str
    samples: list[StereoSample]

    @staticmethod
    def open(folders: Sequence[str]) -> list[RealPairs]:
        """The samples with truth of every folder. Raises FileError where a folder has no pairs."""
        found = [RealPairs(Path(folder).name, open_stereo_folder(Path(folder))) for folder in folders]
        return [RealPairs(f.name, [s for s in f.samples if s.truth_reader is not None]) for f in found]


@torch.no_grad()
def validate_real(model: torch.nn.Module, folders: Sequence[RealPairs], device: torch.device) -> dict[str, float]:
    """EPE (px), bad-2 and D1 (%) over all pixels with truth of every folder, pooled."""
    figures = {}
    for folder in folders:
        errors, truths = [], []
        for sample in folder.samples:
            left, right = (torch.from_numpy(np.ascontiguousarray(i)) for i in sample.images())
            answer = _predict(model, left, right, device)
            truth = sample.truth()
            if truth is None:
                continue
            known = np.isfinite(truth)
            errors.append(np.abs(answer - truth)[known])
            truths.append(truth[known])
        error, truth = np.concatenate(errors), np.concatenate(truths)
        figures[f"{folder.name}/epe"] = float(error.mean())
        figures[f"{folder.name}/bad1"] = float(100 * (error > 1).mean())
        figures[f"{folder.name}/bad2"] = float(100 * (error > 2).mean())
        figures[f"{folder.name}/d1"] = float(100 * ((error > 3) & (error > 0.05 * truth)).mean())
    return figures


def _predict(model: torch.nn.Module, left: torch.Tensor, right: torch.Tensor, device: torch.device) -> np.ndarray:
    h, w = left.shape[:2]
    pad = (0, -w % SIZE_MULTIPLE, 0, -h % SIZE_MULTIPLE)
    pair = [F.pad(i.permute(2, 0, 1)[None].float().to(device) / 255, pad, mode="replicate") for i in (left, right)]
    answer: np.ndarray = model(*pair).disparity[0, 0, :h, :w].cpu().numpy()
    return answer
