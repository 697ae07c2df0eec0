"""Pairs that are announced by the camera_infos of the left camera, or by images whose camera_info did not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from fg_depth_ros.evaluation.live.pair_ledger import REMEMBERED

_ALONE = 2  # images in a row without a camera_info of their own: their camera sends it once, or by a timer


class CameraInfoAnnouncer:
    """Announces each pair by its camera_info, or by its image: a camera_info may come once for all, late, or get lost.

    Args:
        infos: the newest camera_infos by their stamps, ns, which the caller keeps; one is there before ``on_info``.
        announce: takes the stamp of a pair, and when its message was published, ns.
        is_announced: tells whether the pair of a stamp was announced.
    """

    def __init__(
        self, infos: Mapping[int, Any], announce: Callable[[int, int], None], is_announced: Callable[[int], bool]
    ) -> None:
        self._infos, self._announce, self._is_announced = infos, announce, is_announced
        # Stamps of images that came before their camera_info, or without one, and whether they announced a pair; how
        # many they are in a row; and the newest camera_info that announced none, with the time of its publication.
        self._without_info: OrderedDict[int, bool] = OrderedDict()
        self._alone = 0
        self._held: dict[int, int] = {}

    def on_info(self, stamp: int, published: int) -> None:
        """Announce the pair of a camera_info, unless it may be of no image."""
        held, self._held = self._held, {}
        announced = self._without_info.pop(stamp, None)
        if announced is not None:
            self._alone = 0
        elif len(self._infos) == 1 or self._alone >= _ALONE:
            self._held = {stamp: published}  # it may be of no image
            return
        for each in (held if announced else {**held, stamp: published}).items():
            self._announce(*each)

    def on_image(self, stamp: int, published: int) -> None:
        """Announce the pair of an image whose camera_info did not."""
        known = self._is_announced(stamp)
        if stamp in self._infos:
            self._alone = 0
        elif not known:
            self._alone += stamp not in self._without_info
            self._without_info[stamp] = bool(self._infos)
            while len(self._without_info) > REMEMBERED:
                self._without_info.popitem(last=False)
        if self._infos and not known:
            self._announce(stamp, self._held.pop(stamp, published))
