"""The teacher and what is kept of its answers: signs, both views, frozen weights, whole files only."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.distill import wall

from fg_depth_ros.files import FileError, WriteError
from fg_depth_ros.inference import ModelError, NetworkFlow, NetworkMatcher
from fg_depth_ros.networks import create_model
from fg_depth_ros.networks.checkpoint import ModelCard, save_checkpoint
from fg_depth_ros.training.depth.batch import PairBatch, TeacherPrediction
from fg_depth_ros.training.depth.teacher import PredictionCache, Teacher, known_teachers, prediction_from_truth


def tensors(*images):
    return [torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] for image in images]


def saved(folder, name, **options):
    torch.manual_seed(3)
    network = create_model(name, **options).eval()
    path = folder / f"{name}.safetensors"
    save_checkpoint(path, network, ModelCard(name, dict(network.options)))
    return network, str(path)


def test_what_cannot_teach_is_named(tmp_path):
    with pytest.raises(ModelError, match="unknown teacher 'flownet9'; known: flownet_stereo, .*sgbm, bm, dis"):
        Teacher("flownet9")
    with pytest.raises(ModelError, match="'dis' has no weights; leave w.safetensors out"):
        Teacher("dis", "w.safetensors")
    with pytest.raises(ValueError, match="scale must lie in 0.1 .. 4, got 0"):
        Teacher("dis", scale=0)
    _, path = saved(tmp_path, "depthnet_lite")
    with pytest.raises(ModelError, match="'depthnet_lite' is no stereo or flow network"):
        Teacher("", path)
    with pytest.raises(ModelError, match=r"gone\.safetensors does not exist"):
        Teacher("flownet_s", str(tmp_path / "gone.safetensors"))
    teacher = Teacher("dis")
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="left images must be N x 3 x H x W of uint8, got .*float32"):
        teacher.predict(image.float(), image)
    with pytest.raises(ValueError, match="left and right images differ"):
        teacher.predict(image, image[..., :16])
    assert {"flownet_stereo", "flownet_lite", "sgbm", "dis"} <= set(known_teachers())


def test_a_stereo_network_teaches_what_the_matcher_answers(tmp_path):
    network, path = saved(tmp_path, "flownet_stereo", max_disparity=32)
    pairs = [wall(6, seed=0, width=70, height=40), wall(3, seed=1, width=70, height=40)]
    left, right = (torch.cat([tensors(pair[side])[0] for pair in pairs]) for side in (0, 1))
    prediction = Teacher("flownet_stereo", path, "cpu").predict(left, right)
    matcher = NetworkMatcher(network, "flownet_stereo")
    for n, (a, b) in enumerate(pairs):
        np.testing.assert_allclose(prediction.disparity[n, 0], matcher.match(a, b).disparity, atol=2e-3)
        mirrored = matcher.match(b[:, ::-1], a[:, ::-1]).disparity[:, ::-1]
        np.testing.assert_allclose(prediction.right_disparity[n, 0], mirrored, atol=2e-3)
    assert not prediction.vertical.any() and prediction.vertical.shape == prediction.disparity.shape


def test_of_a_flow_the_horizontal_part_reversed_is_the_disparity(tmp_path):
    network, path = saved(tmp_path, "flownet_s", width=0.0625)
    left, right = wall(5, width=64, height=64)
    prediction = Teacher("", path, "cpu").predict(*tensors(left, right))
    flow = NetworkFlow(network, "flownet_s").flow(left, right)
    np.testing.assert_allclose(prediction.disparity[0, 0], -flow[..., 0], atol=1e-4)
    np.testing.assert_allclose(prediction.vertical[0, 0], flow[..., 1], atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_signs_by_a_wall_that_moved(scale):
    """left(x, y) <-> right(x - 8, y + 2): disparity 8 in both views, the match two rows lower."""
    prediction = Teacher("dis", scale=scale).predict(*tensors(*wall(8, down=2)))
    inner = (slice(None), slice(None), slice(16, -16), slice(24, -24))
    assert prediction.disparity[inner].median() == pytest.approx(8, abs=0.25)
    assert prediction.right_disparity[inner].median() == pytest.approx(8, abs=0.25)
    assert prediction.vertical[inner].median() == pytest.approx(2, abs=0.25)


def test_a_classical_stereo_method_says_nothing_where_it_does_not_know():
    prediction = Teacher("sgbm").predict(*tensors(*wall(8)))
    known = torch.isfinite(prediction.disparity)
    assert 0.5 < known.float().mean() < 1
    assert (prediction.disparity[known] - 8).abs().median() < 0.1
    one = Teacher("sgbm").predict(*tensors(*wall(8)), both=False)
    assert one.right_disparity is None


def test_nothing_of_the_teacher_ever_learns(tmp_path):
    _, path = saved(tmp_path, "flownet_stereo", max_disparity=32)
    teacher = Teacher("flownet_stereo", path, "cpu")
    prediction = teacher.predict(*tensors(*wall(4, width=64, height=32)))
    weight = torch.ones(1, requires_grad=True)
    (weight * prediction.disparity * prediction.right_disparity).mean().backward()  # the answers take part, as numbers
    assert weight.grad is not None
    assert not any(p.requires_grad for p in teacher._network.parameters())
    assert not teacher._network.training


def test_true_depth_teaches_by_hand():
    truth = torch.tensor([[[[4.0, float("nan")], [float("inf"), 10.0]]]])
    image = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    prediction = prediction_from_truth(PairBatch(image, image, torch.tensor([100.0]), torch.tensor([0.2]), truth))
    expected = torch.tensor([[[[5.0, float("nan")], [float("nan"), 2.0]]]])  # 100 px * 0.2 m / Z
    torch.testing.assert_close(prediction.disparity, expected, equal_nan=True)
    assert prediction.right_disparity is None and not prediction.vertical.any()


def some_answer():
    rng = np.random.default_rng(0)
    disparity, right = (torch.from_numpy(rng.uniform(0.5, 200, (1, 1, 6, 9)).astype(np.float32)) for _ in range(2))
    disparity[0, 0, 0, :2] = torch.tensor([float("nan"), 300.0])  # none, and beyond the format
    return TeacherPrediction(disparity, torch.linspace(-90, 90, 54).view(1, 1, 6, 9), right)


def test_a_kept_answer_comes_back(tmp_path):
    cache = PredictionCache(tmp_path / "new", Teacher("dis"))
    key = cache.key("a/b", "content")
    assert cache.notes(key) is None
    answer = some_answer()
    cache.save(key, {"reason": ""}, answer)
    assert cache.notes(key) == {"reason": ""}
    back = cache.load(key)
    for kept, given in zip(back, answer, strict=True):
        known = torch.isfinite(kept)
        assert known.sum() >= 52
        assert (kept - given)[known].abs().max() <= 0.5 / 256 + 1e-6
    assert torch.isnan(back.disparity[0, 0, 0, :2]).all()
    assert not [p for p in cache.folder.iterdir() if p.name.startswith(".")]
    cache.forget(key)
    assert cache.notes(key) is None


def test_large_disparities_are_kept(tmp_path):
    """16-bit PNG of px / 256 ends at 255.99 px; larger ones are stored in a coarser unit, each file in its own."""
    cache = PredictionCache(tmp_path, Teacher("dis"))
    key = cache.key("p", "content")
    left = torch.linspace(1, 1100, 1280).repeat(2, 1)[None, None]
    left[..., 1, :3] = torch.tensor([float("nan"), 1279.0, 1e6])  # the last match lies beyond the other image
    right = torch.full_like(left, 60.2)
    cache.save(key, {"reason": ""}, TeacherPrediction(left, torch.zeros_like(left), right))
    back = cache.load(key)
    assert (back.disparity - left)[..., 0, :].abs().max() <= 8 / 256 / 2 + 1e-4
    assert back.disparity[0, 0, 1, 1] == 1279 and torch.isnan(back.disparity[0, 0, 1, [0, 2]]).all()
    assert (back.right_disparity - right).abs().max() <= 1 / 256 / 2 + 1e-5
    assert not back.vertical.any()


def test_files_of_earlier_versions_are_read_and_no_unit_is_guessed(tmp_path):
    cache = PredictionCache(tmp_path, Teacher("dis"))
    key = cache.key("p", "content")
    cache.save(key, {"reason": ""}, some_answer())
    note, before = cache.folder / f"{key}.json", cache.load(key)
    document = json.loads(note.read_text())
    assert document["units"] == {"left": 1, "right": 1}
    note.write_text(json.dumps({name: document[name] for name in ("teacher", "notes")}))
    torch.testing.assert_close(cache.load(key), before, equal_nan=True)
    note.unlink()
    with pytest.raises(FileError, match=r"\.json: no such file"):
        cache.load(key)


def test_nobody_elses_answers_are_used(tmp_path):
    one, other, scaled = (
        PredictionCache(tmp_path, t) for t in (Teacher("dis"), Teacher("sgbm"), Teacher("dis", scale=2))
    )
    one.save(one.key("p", "content"), {"reason": ""}, some_answer())
    for cache in (other, scaled):
        assert cache.notes(cache.key("p", "content")) is None
        assert cache.notes(one.key("p", "content")) is None  # not even under the very name
    assert one.notes(one.key("p", "changed content")) is None


def test_the_same_weights_with_other_options_are_another_teacher(tmp_path):
    """The order of the channels changes the predictions, and no tensor."""
    image = torch.randint(0, 255, (1, 3, 64, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    caches, predicted = [], []
    for order in ("rgb", "bgr"):
        (tmp_path / order).mkdir()
        teacher = Teacher("", saved(tmp_path / order, "flownet_s", width=0.0625, channel_order=order)[1], "cpu")
        caches.append(PredictionCache(tmp_path / "cache", teacher))
        predicted.append(teacher.predict(image, image.roll(3, -1), both=False).disparity)
    one, other = caches
    assert not torch.equal(*predicted) and one.folder == other.folder
    one.save(one.key("p", "content"), {"reason": ""}, some_answer())
    assert one.notes(one.key("p", "content")) == {"reason": ""}
    assert other.notes(other.key("p", "content")) is None


def test_half_an_answer_is_none(tmp_path):
    cache = PredictionCache(tmp_path, Teacher("dis"))
    key = cache.key("p", "content")
    cache.save(key, {"reason": ""}, some_answer())
    note, picture = cache.folder / f"{key}.json", cache.folder / f"{key}_left.png"
    picture.write_bytes(picture.read_bytes()[:-20])
    with pytest.raises(FileError, match=r"_left\.png: truncated"):
        cache.load(key)
    note.write_text(json.dumps({"teacher": "somebody"}))
    assert cache.notes(key) is None
    note.write_text("{ cut o")
    assert cache.notes(key) is None


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(path, content):
        path.open("wb").write(content[:10])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    cache = PredictionCache(tmp_path, Teacher("dis"))
    with pytest.raises(WriteError, match="No space left on device"):
        cache.save(cache.key("p", "content"), {}, some_answer())
    assert not list(cache.folder.iterdir())
