"""Every layout of flow data, from small scenes written here and from the public sets where they are at hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fg_depth_ros.data.datasets.flow import open_flow_sets
from fg_depth_ros.data.datasets.layouts import NoPairsError
from fg_depth_ros.data.io.formats import read_flo, write_flo, write_image, write_kitti_flow
from fg_depth_ros.data.samples import FlowSample
from fg_depth_ros.files import FileError
from fg_depth_ros.networks.flow import warp

H, W = 20, 30
RNG = np.random.default_rng(4)
FIRST, SECOND = (RNG.integers(0, 256, (H, W, 3)).astype(np.uint8) for _ in range(2))
FLOW = np.round(RNG.uniform(-5, 5, (H, W, 2)) * 64).astype(np.float32) / 64  # KITTI's PNG holds it exactly


def open_flow_folder(path, split="all"):
    """The pairs of all sets in one folder."""
    return [sample for samples in open_flow_sets([path], split).values() for sample in samples]


def save(folder, first, second, flow=None):
    for name, content in ((first, FIRST), (second, SECOND)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, content)
    if flow is not None:
        (folder / flow).parent.mkdir(parents=True, exist_ok=True)
        write_flo(folder / flow, FLOW)


def save_chairs(folder, count):
    for i in range(1, count + 1):
        save(folder, f"{i:05d}_img1.ppm", f"{i:05d}_img2.ppm", f"{i:05d}_flow.flo")


def assert_is_the_pair(sample, truth=FLOW):
    first, second = sample.images()
    np.testing.assert_array_equal(first, FIRST)
    np.testing.assert_array_equal(second, SECOND)
    if truth is None:
        assert sample.truth() is None
    else:
        assert sample.truth().dtype == np.float32
        np.testing.assert_array_equal(sample.truth(), truth)


# ---- bad input -------------------------------------------------------------------------------------------------


def test_folders_that_are_none_are_named(tmp_path):
    with pytest.raises(FileError, match="nowhere: no such folder; give the folder that holds the pairs$"):
        open_flow_folder(tmp_path / "nowhere")
    with pytest.raises(NoPairsError, match=rf"{tmp_path}: no pairs of frames found. Known layouts: Flying Chairs"):
        open_flow_folder(tmp_path)
    with pytest.raises(NoPairsError, match=f"{tmp_path}: no pairs"):
        open_flow_sets([tmp_path])
    save_chairs(tmp_path, 1)
    with pytest.raises(ValueError, match="split 'val' is unknown; choose one of all, train, test"):
        open_flow_folder(tmp_path, "val")


@pytest.mark.parametrize("name", ["00001_img1.ppm", "00001_img2.ppm"])
def test_a_missing_frame_is_named(tmp_path, name):
    save_chairs(tmp_path, 1)
    (tmp_path / name).unlink()
    with pytest.raises(FileError, match=rf"{name}: missing"):
        open_flow_folder(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 0.999])
@pytest.mark.parametrize("ending", [".ppm", ".png", ".jpg"])
def test_damaged_frames_are_one_line_with_their_name(tmp_path, capfd, ending, share):
    save(tmp_path, f"frame10{ending}", f"frame11{ending}")
    path = tmp_path / f"frame11{ending}"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    (sample,) = open_flow_folder(tmp_path)
    with pytest.raises(FileError, match=rf"frame11{ending}: [^\n]*fetch it again$"):
        sample.images()
    assert capfd.readouterr().err == ""  # what OpenCV would say of it is not said


@pytest.mark.parametrize("share", [0.0, 0.002, 0.5, 0.999])
def test_damaged_flow_files_are_named(tmp_path, share):
    save_chairs(tmp_path, 1)
    path = tmp_path / "00001_flow.flo"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    (sample,) = open_flow_folder(tmp_path)
    with pytest.raises(FileError, match=r"00001_flow\.flo: "):
        sample.truth()
    path.write_bytes(b"PIEX"[::-1] + content[4:])
    with pytest.raises(FileError, match=r"00001_flow\.flo: magic number"):
        sample.truth()


def test_sizes_that_differ_are_told(tmp_path):
    save_chairs(tmp_path, 1)
    (sample,) = open_flow_folder(tmp_path)
    write_flo(tmp_path / "00001_flow.flo", FLOW[:, :-2])
    with pytest.raises(FileError, match=r"00001: true flow is 28x20 pixels and .*img1\.ppm 30x20"):
        sample.truth()
    write_image(tmp_path / "00001_img2.ppm", SECOND[:-1])
    with pytest.raises(FileError, match=r"img1\.ppm is 30x20 pixels and .*img2\.ppm 30x19: the frames of a pair"):
        sample.images()
    write_image(tmp_path / "00001_occ.png", np.zeros((H, W + 1), np.uint8))
    (sample,) = open_flow_folder(tmp_path)
    with pytest.raises(FileError, match="00001: occlusion mask is 31x20"):
        sample.occluded()


def test_a_picture_in_place_of_kitti_truth_is_named(tmp_path):
    save(tmp_path, "image_2/000000_10.png", "image_2/000000_11.png")
    (tmp_path / "flow_occ").mkdir()
    write_image(tmp_path / "flow_occ/000000_10.png", FIRST)
    (sample,) = open_flow_folder(tmp_path)
    with pytest.raises(FileError, match=r"flow_occ/000000_10\.png: holds 3 channel\(s\) of uint8"):
        sample.truth()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"the list that divides the pairs \(FlyingChairs_train_val\.txt\) is missing"),
        ("1\n3\n1\n", r"FlyingChairs_train_val\.txt: line 2 holds '3'"),
        ("1\n2\n", r"FlyingChairs_train_val\.txt: divides 2 pairs, and .* has pair number 3"),
        ("", r"FlyingChairs_train_val\.txt: the file is empty"),
    ],
)
def test_a_list_that_cannot_divide_is_named(tmp_path, text, message):
    save_chairs(tmp_path / "data", 3)
    if text is not None:
        (tmp_path / "FlyingChairs_train_val.txt").write_text(text)
    assert len(open_flow_folder(tmp_path)) == 3
    with pytest.raises(FileError, match=message):
        open_flow_folder(tmp_path, "train")


def test_only_flying_chairs_can_be_divided(tmp_path):
    save(tmp_path, "frame10.png", "frame11.png", "flow10.flo")
    with pytest.raises(NoPairsError, match="nothing else is divided"):
        open_flow_folder(tmp_path, "test")


# ---- layouts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "data", "FlyingChairs_release/data"])
def test_flying_chairs(tmp_path, place):
    save_chairs(tmp_path / place, 4)
    mask = np.zeros((H, W), np.uint8)
    mask[3, 7] = 255
    write_image(tmp_path / place / "00002_occ.png", mask)
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n1\n")
    samples = open_flow_folder(tmp_path)
    assert [sample.name for sample in samples] == ["00001", "00002", "00003", "00004"]
    for sample in samples:
        assert_is_the_pair(sample)
    assert np.argwhere(samples[1].occluded()).tolist() == [[3, 7]]
    assert samples[0].occluded() is None
    assert [sample.name for sample in open_flow_folder(tmp_path, "train")] == ["00001", "00003", "00004"]
    assert [sample.name for sample in open_flow_folder(tmp_path, "test")] == ["00002"]


def test_a_part_of_flying_chairs_is_divided_by_its_numbers(tmp_path):
    save_chairs(tmp_path, 4)
    for path in tmp_path.glob("00001*"):
        path.unlink()
    (tmp_path / "chairs_split.txt").write_text("2\n1\n2\n1\n1\n")
    assert [sample.name for sample in open_flow_folder(tmp_path, "test")] == ["00003"]


def test_the_examples_of_flying_chairs(tmp_path):
    save(tmp_path, "0000000-img0.ppm", "0000000-img1.ppm", "0000000-gt.flo")
    (sample,) = open_flow_folder(tmp_path)
    assert sample.name == "0000000"
    assert_is_the_pair(sample)


@pytest.mark.parametrize("top", [".", "training"])
def test_sintel_passes_are_sets_of_their_own(tmp_path, top):
    root = tmp_path / "Sintel" / top
    for name in ("clean", "final"):
        for scene, numbers in (("alley_1", (1, 2, 3)), ("cave_2", (1, 2, 9))):
            for number in numbers:
                content = FIRST if number == 1 else SECOND
                (root / name / scene).mkdir(parents=True, exist_ok=True)
                write_image(root / name / scene / f"frame_{number:04d}.png", content)
    for scene, number in (("alley_1", 1), ("alley_1", 2), ("cave_2", 1)):
        (root / "flow" / scene).mkdir(parents=True, exist_ok=True)
        write_flo(root / "flow" / scene / f"frame_{number:04d}.flo", FLOW)
    mask = np.zeros((H, W), np.uint8)
    mask[10, 12] = 255
    (root / "occlusions/alley_1").mkdir(parents=True)
    write_image(root / "occlusions/alley_1/frame_0001.png", mask)
    sets = open_flow_sets([tmp_path / "Sintel"])
    assert list(sets) == ["Sintel/clean", "Sintel/final"]
    # Frame 9 of cave_2 follows no frame 8.
    names = ["alley_1/frame_0001", "alley_1/frame_0002", "cave_2/frame_0001"]
    assert [sample.name for sample in sets["Sintel/final"]] == names
    sample = sets["Sintel/clean"][0]
    assert sample.first.parts[-3:] == ("clean", "alley_1", "frame_0001.png")
    assert_is_the_pair(sample)
    # Hidden: the mask's pixel and what leaves the frame (pixel areas reach half a pixel beyond the centres).
    expected = np.zeros((H, W), bool)
    for y in range(H):
        for x in range(W):
            u, v = x + FLOW[y, x, 0], y + FLOW[y, x, 1]
            expected[y, x] = not (-0.5 <= u <= W - 0.5 and -0.5 <= v <= H - 0.5)
    expected[10, 12] = True
    np.testing.assert_array_equal(sample.occluded(), expected)
    assert sets["Sintel/clean"][1].occluded() is None
    assert [sample.name for sample in sets["Sintel/final"]] == names


def test_the_test_half_of_sintel_has_no_truth(tmp_path):
    save(tmp_path, "final/market_1/frame_0001.png", "final/market_1/frame_0002.png")
    (sample,) = open_flow_folder(tmp_path)
    assert_is_the_pair(sample, truth=None)
    assert sample.occluded() is None


@pytest.mark.parametrize(("top", "images"), [(".", "image_2"), ("training", "image_2"), ("training", "colored_0")])
def test_kitti_knows_what_is_hidden(tmp_path, top, images):
    root = tmp_path / top
    for number in (0, 1):
        save(root, f"{images}/{number:06d}_10.png", f"{images}/{number:06d}_11.png")
    write_image(root / images / "000000_12.png", SECOND)  # more frames of the scene do no harm
    everything, seen = FLOW.copy(), FLOW.copy()
    everything[:5] = np.nan
    seen[:9] = np.nan
    for name, flow in (("flow_occ", everything), ("flow_noc", seen)):
        (root / name).mkdir()
        write_kitti_flow(root / name / "000000_10.png", flow)
    samples = open_flow_folder(tmp_path)
    assert [sample.name for sample in samples] == ["000000_10", "000001_10"]
    assert_is_the_pair(samples[0], truth=everything)
    hidden = samples[0].occluded()
    assert hidden[5:9].all() and not hidden[:5].any() and not hidden[9:].any()
    assert_is_the_pair(samples[1], truth=None)
    assert samples[1].occluded() is None


def test_kitti_with_visible_truth_only(tmp_path):
    save(tmp_path, "image_0/000003_10.png", "image_0/000003_11.png")
    (tmp_path / "flow_noc").mkdir()
    write_kitti_flow(tmp_path / "flow_noc/000003_10.png", FLOW)
    (sample,) = open_flow_folder(tmp_path)
    assert_is_the_pair(sample)
    assert sample.occluded() is None


def test_kitti_stereo_alone_is_no_flow_set(tmp_path):
    save(tmp_path, "image_2/000003_10.png", "image_3/000003_10.png")
    with pytest.raises(NoPairsError):
        open_flow_folder(tmp_path)
    (tmp_path / "flow_occ").mkdir()
    with pytest.raises(FileError, match=r"000003_11\.png: missing: .*000003_10\.png has no second image"):
        open_flow_folder(tmp_path)


def test_middlebury_in_two_folders_and_in_one_per_scene(tmp_path):
    save(tmp_path / "a", "other-data/Grove2/frame10.png", "other-data/Grove2/frame11.png",
         "other-gt-flow/Grove2/flow10.flo")  # fmt: skip
    save(tmp_path / "a", "other-data/Army/frame10.png", "other-data/Army/frame11.png")
    save(tmp_path / "b", "Urban2/frame10.png", "Urban2/frame11.png", "Urban2/flow10.flo")
    for folder in (tmp_path / "a", tmp_path / "a/other-data"):
        army, grove = open_flow_folder(folder)
        assert (army.name, grove.name) == ("Army", "Grove2")
        assert_is_the_pair(grove)
        assert_is_the_pair(army, truth=None)
    for folder in (tmp_path / "b", tmp_path / "b/Urban2"):
        (urban,) = open_flow_folder(folder)
        assert urban.name == "Urban2"
        assert_is_the_pair(urban)


def test_unknown_flow_is_nan(tmp_path):
    save(tmp_path, "frame10.png", "frame11.png")
    flow = FLOW.copy()
    flow[2, 3] = np.nan
    write_flo(tmp_path / "flow10.flo", flow)
    (sample,) = open_flow_folder(tmp_path)
    assert np.argwhere(np.isnan(sample.truth()).any(2)).tolist() == [[2, 3]]


def test_sets_by_name_and_inside_a_folder(tmp_path):
    save_chairs(tmp_path / "all/chairs", 1)
    save(tmp_path / "all/middlebury", "Urban2/frame10.png", "Urban2/frame11.png")
    (tmp_path / "all/empty").mkdir()
    save_chairs(tmp_path / "other/chairs", 2)
    sets = open_flow_sets([tmp_path / "all", tmp_path / "other/chairs"])
    assert {name: len(samples) for name, samples in sets.items()} == {
        "all/chairs": 1, "middlebury": 1, "other/chairs": 2,
    }  # fmt: skip


# ---- public sets -----------------------------------------------------------------------------------------------


def photometric(sample: FlowSample) -> tuple[float, float]:
    """Mean grey-value difference of seen pixels with known flow: warped by the truth, and not warped."""
    first, second = (torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in sample.images())
    truth, hidden = sample.truth(), sample.occluded()
    known = np.isfinite(truth).all(2)
    if hidden is not None:
        known &= ~hidden
    flow = torch.from_numpy(np.nan_to_num(truth)).permute(2, 0, 1)[None]
    mask = torch.from_numpy(known)
    return tuple((other - first).abs().mean(1)[0][mask].mean().item() for other in (warp(second, flow), second))


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("flow", ["Grove2", "RubberWhale", "Urban2"]),
        ("flow/flyingchairs_examples", ["0000000", "0000001", "0000002"]),
        ("kitti2015_scene_flow", ["000002_10", "000003_10", "000007_10"]),
    ],
)
def test_the_truth_of_public_sets_carries_the_second_frame_onto_the_first(public_data, folder, names):
    samples = open_flow_folder(public_data / folder)
    assert [sample.name for sample in samples] == names
    for sample in samples:
        warped, unmoved = photometric(sample)
        assert warped < 0.55 * unmoved


def test_kitti_truth_as_the_devkit_reads_it(public_data):
    """Figures of one pixel, from the file's 16-bit values by hand: u = (I - 2^15) / 64."""
    import cv2

    sample = open_flow_folder(public_data / "kitti2015_scene_flow")[0]
    raw = cv2.imread(str(public_data / "kitti2015_scene_flow/flow_occ/000002_10.png"), cv2.IMREAD_UNCHANGED)
    y, x = np.argwhere(raw[:, :, 0] == 1)[1000]
    expected = (raw[y, x, [2, 1]].astype(float) - 32768) / 64
    np.testing.assert_allclose(sample.truth()[y, x], expected)
    assert np.isfinite(sample.truth()).all(2).sum() == (raw[:, :, 0] == 1).sum()
    hidden = sample.occluded()
    assert 0.01 < hidden.sum() / np.isfinite(sample.truth()).all(2).sum() < 0.2


def test_middlebury_flow_is_the_file(public_data):
    sample = next(s for s in open_flow_folder(public_data / "flow") if s.name == "RubberWhale")
    truth = sample.truth()
    assert truth.shape == (388, 584, 2)
    np.testing.assert_array_equal(truth, read_flo(public_data / "flow/RubberWhale/flow10.flo"))
    assert 0.9 < np.isfinite(truth).all(2).mean() < 1  # some of it is marked as unknown


def test_pairs_are_in_the_order_of_the_numbers_in_their_names(tmp_path):
    for k in (1, 2, 10, 11):
        save(tmp_path, f"clean/alley/frame_{k}.png", f"final/alley/frame_{k}.png")
    names = [sample.name for sample in open_flow_sets([tmp_path])[f"{tmp_path.name}/clean"]]
    assert names == ["alley/frame_1", "alley/frame_10"]
    for k in (2, 10):
        save(tmp_path / "chairs", f"{k}_img1.ppm", f"{k}_img2.ppm", f"{k}_flow.flo")
    assert [sample.name for sample in open_flow_folder(tmp_path / "chairs")] == ["2", "10"]
