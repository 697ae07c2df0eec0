"""Bad pairs: named, counted, skipped or refused, never handed on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.distill import HEIGHT, RIG, WIDTH, made_pair, swap, wall, write_walls

from fg_depth_ros.data.datasets.stereo import open_stereo_folder
from fg_depth_ros.data.io.formats import read_image, write_image
from fg_depth_ros.files import FileError
from fg_depth_ros.training.depth.batch import TeacherPrediction
from fg_depth_ros.training.depth.config import MaskConfig
from fg_depth_ros.training.depth.pair_checks import (
    BadPair,
    RectificationCheck,
    check_pair,
    checked_images,
    rectification_check,
    remove_doffs,
)
from fg_depth_ros.training.depth.pairs import PairCounts, open_pair_sets, prepare_set, split_frames
from fg_depth_ros.training.depth.teacher import PredictionCache, Teacher

MASK = MaskConfig(max_disparity=0)


@pytest.fixture
def look(tmp_path):
    """Prepares pairs with SGBM as the teacher: the usable ones and the counts."""
    teacher = Teacher("sgbm")

    def call(pairs, mask=MASK, name="set"):
        cache = PredictionCache(tmp_path / "cache", teacher)
        usable, counts = prepare_set(name, pairs, teacher, cache, mask)
        return [one.pair.name for one in usable], counts

    return call


GOOD = made_pair(*wall(8), name="good")


def test_left_and_right_swapped(look):
    left, right = wall(8)
    names, counts = look([GOOD, made_pair(right, left, name="bad")])
    assert names == ["good"] and counts.used == 1 and counts.skipped == {"swapped": 1}
    assert "set/bad: 1" in counts.examples["swapped"]  # "100 % of the image ..." or nearly
    with pytest.raises(FileError, match="set: none of its 1 pairs can be trained on. 1 x swapped: .*baseline of the "):
        look([made_pair(right, left)])


def test_a_whole_folder_with_left_and_right_swapped_is_refused(tmp_path, look):
    pairs = open_pair_sets([swap(write_walls(tmp_path / "walls"))])["walls"]
    with pytest.raises(FileError, match=r"5 x swapped: .*swap the left and the right images .first: w/000"):
        look(pairs, name="w")


def test_a_negative_baseline_in_the_calibration_is_refused(tmp_path):
    folder = write_walls(tmp_path / "walls")
    (folder / "rig.json").write_text(json.dumps(RIG.to_dict() | {"baseline": -0.1}))
    with pytest.raises(FileError, match=r"rig\.json.*baseline is -0\.1 m, negative: are left and right swapped"):
        open_pair_sets([folder])


def test_pictures_of_different_moments(look):
    names, counts = look([GOOD, made_pair(*wall(8, down=7), name="late")])
    assert names == ["good"] and counts.skipped == {"rows": 1}


def test_nan_in_a_picture(look):
    left, right = (image.astype(np.float32) for image in wall(8))
    left[3, 4] = np.nan
    names, counts = look([made_pair(left, right, name="nan"), GOOD])
    assert names == ["good"] and counts.skipped == {"not_finite": 1}
    assert counts.examples["not_finite"] == "set/nan: 3 numbers of the left image"


def test_pictures_that_cannot_be_read_or_do_not_fit(tmp_path, look):
    folder = write_walls(tmp_path / "walls")
    cut = folder / "right" / "001.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    pairs = open_pair_sets([folder])["walls"]
    for side in ("left", "right"):
        path = folder / side / "003.png"
        write_image(path, read_image(path)[:-2])
    names, counts = look(pairs)
    assert names == ["000", "002", "004"]
    assert counts.used == 3 and counts.skipped == {"unreadable": 1, "wrong_size": 1}
    assert "001.png: truncated" in counts.examples["unreadable"]
    assert counts.examples["wrong_size"].endswith("images of 160x94 and 160x94, calibration for 160x96")
    whole = write_walls(tmp_path / "again")
    cut.write_bytes((whole / "right" / "001.png").read_bytes())  # mended: not held against it
    assert "001" in look(pairs)[0]
    with pytest.raises(BadPair, match="not H x W x 3 of uint8"):
        checked_images(made_pair(*[np.zeros((HEIGHT, WIDTH, 3), np.int16)] * 2))


def test_a_teacher_without_any_answer(look):
    blank = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    names, counts = look([made_pair(blank, blank, name="fog"), GOOD])
    assert names == ["good"] and counts.skipped == {"no_answer": 1}


def test_one_picture_twice_teaches_nothing(look):
    left, _ = wall(8)
    names, counts = look([made_pair(left, left, name="twice"), GOOD])
    assert names == ["good"] and counts.skipped == {"no_answer": 1}


def test_the_verdict_follows_the_mask(look):
    """20 m px / 8 px = 2.5 m: beyond 2 m nothing is left of it, and what the teacher said is not asked again."""
    assert look([GOOD])[0] == ["good"]
    with pytest.raises(FileError, match="1 x no_answer: .*widen the mask"):
        look([GOOD], replace(MASK, max_depth=2.0))
    assert look([GOOD])[0] == ["good"]


def test_the_teacher_is_asked_once(tmp_path, look, monkeypatch):
    pairs = open_pair_sets([write_walls(tmp_path / "walls", (8, 9))])["walls"]
    first = look(pairs)
    monkeypatch.setattr(Teacher, "predict", lambda *a, **k: pytest.fail("asked again"))
    assert look(pairs) == first
    assert look(pairs, replace(MASK, left_right=1.0))[0] == ["000", "001"]  # another mask, the same answers


def test_processes_share_the_work(tmp_path, look, monkeypatch):
    """The second of two processes begins with the odd pairs; both end with the same."""
    pairs = open_pair_sets([write_walls(tmp_path / "walls")])["walls"]
    asked = []
    answer = Teacher.predict
    monkeypatch.setattr(Teacher, "predict", lambda *a, **k: asked.append(a[1].float().mean().item()) or answer(*a, **k))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    names, counts = look(pairs)
    means = [float(read_image(pair.left).mean()) for pair in pairs]
    assert [min(range(5), key=lambda i: abs(means[i] - m)) for m in asked] == [1, 3, 0, 2, 4]
    assert names == ["000", "001", "002", "003", "004"] and counts.used == 5


def test_a_convincing_teacher_is_believed_and_others_are_not():
    """Half of the pixels pass the mask: enough against the rectification_check; a tenth is not."""
    bad = RectificationCheck(level=0.1, backward=0.9)
    disparity = torch.full((1, 1, HEIGHT, WIDTH), float("nan"))
    disparity[..., 80:] = 8.0
    half = TeacherPrediction(disparity, torch.zeros_like(disparity), disparity)
    mask = MaskConfig(max_disparity=0, left_right=0)
    assert check_pair(bad, half, RIG, mask) == pytest.approx(0.5)
    disparity[..., 96:] = float("nan")
    with pytest.raises(BadPair, match="they agree in 10 %"):
        check_pair(bad, half, RIG, mask)
    assert check_pair(RectificationCheck(1.0, 0.0), half, RIG, mask) == pytest.approx(0.1)
    disparity[..., 82:] = float("nan")  # 2 of 160 columns
    with pytest.raises(BadPair, match=r"1\.3 % of the image") as found:
        check_pair(RectificationCheck(1.0, 0.0), half, RIG, mask)
    assert found.value.reason == "few_pixels"
    assert check_pair(RectificationCheck(1.0, 0.0), None, RIG, mask) == 1.0
    with pytest.raises(BadPair) as found:
        check_pair(RectificationCheck(1.0, 0.9), None, RIG, mask)
    assert found.value.reason == "swapped"


def test_what_lies_behind_infinity_depends_on_the_principal_columns():
    """With doffs 12 px a match 8 px further right is nearer than infinity: 4 px of true disparity."""
    left, right = wall(-8)
    assert rectification_check(left, right).backward > 0.9
    assert rectification_check(left, right, doffs=12.0).backward < 0.1


def test_a_pair_is_levelled_by_its_principal_columns():
    """left(x) <-> right(x - d) becomes left(x) <-> levelled(x - d - doffs)."""
    left, right = wall(8)
    rig = replace(RIG, cx_right=RIG.cx + 5)
    same, moved, new = remove_doffs(left, right, rig)
    assert new.doffs == 0 and same is left
    np.testing.assert_array_equal(moved[:, :-5], right[:, 5:])
    assert new.fx * new.baseline / (8 + 5) == pytest.approx(rig.fx * rig.baseline / (8 + rig.doffs))


def test_real_pairs_swapped_and_one_frame_late(public_data):
    drive = open_stereo_folder(public_data / "drive")
    left, right, _ = checked_images(drive[40])
    true, swapped, late = (
        rectification_check(left, right),
        rectification_check(right, left),
        rectification_check(left, drive[41].images()[1]),
    )
    assert true.level > 0.8 and true.backward < 0.05
    assert swapped.backward > 0.9
    assert late.level < 0.4


def test_a_set_is_refused_before_all_of_it_was_looked_at():
    counts = PairCounts()
    for i in range(19):
        counts.skip(f"s/{i}", "rows", "they agree in 3 % of the image")
    counts.require_used("s", complete=False)
    counts.skip("s/19", "no_answer")
    with pytest.raises(
        FileError, match=r"s: none of the first 20 pairs .*19 x rows: .*\(first: s/0: they agree in 3 %"
    ):
        counts.require_used("s", complete=False)
    counts.used = 1
    counts.require_used("s", complete=True)
    assert "1 pairs used, 20 left out" in counts.summary()
    both = counts + PairCounts(4, counts.skipped, {"rows": "other"})
    assert both.used == 5 and both.skipped == {"rows": 38, "no_answer": 2} and both.examples["rows"].startswith("s/0")


def test_folders_that_were_not_recorded_together_are_refused(tmp_path):
    folder = write_walls(tmp_path / "more_right")
    write_image(folder / "right" / "005.png", wall(8)[1])
    with pytest.raises(FileError, match="left holds 5 images and .*right 6: the cameras were not recorded together"):
        open_pair_sets([folder])
    folder = write_walls(tmp_path / "less_right")
    (folder / "right" / "002.png").unlink()
    with pytest.raises(FileError, match="left holds 5 images and .*right 4: the cameras were not recorded together"):
        open_pair_sets([folder])


def test_right_pictures_without_left_ones_are_refused(tmp_path):
    for stem, prefixes in (("drive", ("I1_{}", "I2_{}")), ("plain", ("{}_left", "{}_right"))):
        folder = tmp_path / stem
        folder.mkdir()
        for i in range(3):
            for image, name in zip(wall(8), prefixes, strict=True):
                write_image(folder / (name.format(i) + ".png"), image)
        (folder / "rig.json").write_text(json.dumps(RIG.to_dict()))
        assert len(open_pair_sets([folder])[stem]) == 3
        (folder / (prefixes[0].format(1) + ".png")).unlink()
        with pytest.raises(FileError, match="1.* and 0 more right images have no left one"):
            open_pair_sets([folder])


def stamped(folder, late, count=4):
    """A drive in the layout of KITTI raw, with its right camera ``late`` seconds behind."""
    drive = folder / "2011_09_26" / "2011_09_26_drive_0001_sync"
    for side, delay, image in (("image_02", 0.0, wall(8)[0]), ("image_03", late, wall(8)[1])):
        (drive / side / "data").mkdir(parents=True)
        for i in range(count):
            write_image(drive / side / "data" / f"{i:010d}.png", image)
        lines = [f"2011-09-26 13:02:{25 + 0.1 * i + delay:012.9f}" for i in range(count)]
        (drive / side / "timestamps.txt").write_text("\n".join(lines) + "\n")
    (drive.parent / "calib_cam_to_cam.txt").write_text(
        "P_rect_02: 200 0 79.5 0 0 200 47.5 0 0 0 1 0\nP_rect_03: 200 0 79.5 -20 0 200 47.5 0 0 0 1 0\n"
    )
    return drive


def test_stamps_beside_the_pictures_must_agree(tmp_path):
    assert len(open_pair_sets([stamped(tmp_path / "good", 0.004)])) == 1
    late = stamped(tmp_path / "late", 0.1)
    with pytest.raises(FileError, match="lie 100 ms apart .median. at a period of 100 ms: these are not pairs of one"):
        open_pair_sets([late])
    (late / "image_03" / "timestamps.txt").write_text("soon\nlater\n")
    with pytest.raises(FileError, match=r"image_03/timestamps\.txt: not a list of stamps"):
        open_pair_sets([late])
    (late / "image_03" / "timestamps.txt").write_text("2011-09-26 13:02:25.0\n")
    with pytest.raises(FileError, match="has 4 stamps and .* 1; pair them first"):
        open_pair_sets([late])


def test_pairs_without_calibration_are_refused(tmp_path):
    folder = write_walls(tmp_path / "walls")
    (folder / "rig.json").unlink()
    with pytest.raises(FileError, match=r"no calibration next to the images.*put a rig\.json"):
        open_pair_sets([folder])
    with pytest.raises(FileError, match="no such folder"):
        open_pair_sets([tmp_path / "nowhere"])


def test_parts_have_no_pair_in_common():
    sets = {"s": list("abcdefghijklmnopqrst")}
    parts = split_frames(sets, "0:12", test="15:")
    assert "".join(parts.training["s"]) == "abcdefghijk"
    assert parts.validation["s"] == ["l"] and "".join(parts.test["s"]) == "pqrst"
    parts = split_frames(sets, held_out="16:18", test="17:")
    assert "".join(parts.training["s"]) == "abcdefghijklmnop"
    assert parts.validation["s"] == ["q"] and "".join(parts.test["s"]) == "rst"
    parts = split_frames(sets, test="17:")  # the last tenth of the others
    assert "".join(parts.training["s"]) == "abcdefghijklmnop"
    assert parts.validation["s"] == ["q"] and "".join(parts.test["s"]) == "rst"
    assert split_frames({"s": ["a", "b"]}).training == {"s": ["a"]}
    with pytest.raises(FileError, match="s: of its 1 pairs none is left to train on, .* held out 'the last tenth'"):
        split_frames({"s": ["a"]})
    with pytest.raises(FileError, match="of its 20 pairs none is left .* frames '30:40'"):
        split_frames(sets, "30:40")
