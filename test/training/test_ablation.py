"""The paper's Figure 3 and its ablation: geometry against closed forms, minima against the truth, and a small run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning")

from fg_depth_ros.data.datasets.depth import open_depth_sets
from fg_depth_ros.data.io.formats import read_image
from fg_depth_ros.evaluation.depth import DepthTask
from fg_depth_ros.evaluation.reports.report import read_report
from fg_depth_ros.networks import load_model
from fg_depth_ros.networks.checkpoint import load_tensors
from fg_depth_ros.networks.registry import weights_path
from fg_depth_ros.training.ablation import losses as ablation
from fg_depth_ros.training.ablation.config import LossAblation
from fg_depth_ros.training.ablation.figure3 import (
    CONDITIONS,
    LOSSES,
    Condition,
    Curves,
    Figure3,
    draw_figure3,
    measures,
    render,
    run_figure3,
    sweep,
)
from fg_depth_ros.training.ablation.losses import Row, cells, markdown, rows_of, run_ablation, summary
from fg_depth_ros.training.depth.batch import TeacherPrediction
from fg_depth_ros.training.depth.config import PRESETS
from fg_depth_ros.training.photometric import photometric_error, warp_source

SMALL = Figure3(width=320, height=160, focal=300.0, patch=24, step=0.1)


class Exact:
    """A teacher that knows the wall, and is off by ``error`` px on it."""

    name, sha256 = "exact", ""

    def __init__(self, setup, error=0.0):
        self.setup, self.error = setup, error

    def predict(self, left, right, both=True):
        depth = render(self.setup, CONDITIONS["smooth wall, exposures alike"]).depth
        disparity = self.setup.focal * self.setup.baseline / depth + self.error
        return TeacherPrediction(disparity, torch.zeros_like(disparity))


# ---- figure 3 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 40.0}, "the wall at 40.0 m must lie within the depths that are tried, 5.0 to 30.0 m"),
        ({"nearest": 0.0}, "must lie within"),
        ({"step": 0.5}, "steps of 0.5 m are too coarse for 2 %"),
        ({"patch": 320}, "a patch of 320 px has no room in 1024x320 px"),
    ],
)
def test_an_experiment_that_shows_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Figure3(**options)


def test_both_views_show_one_wall_where_it_is():
    """Same light at x and x - f B / Z, no noise: the views agree to the interpolation; edges and ground by hand."""
    setup = replace(SMALL, baseline=11.22 / 300 * 14)  # 14 px, so that nothing is interpolated
    view = render(setup, Condition(1.6, 0.1, False))
    y0, y1, x0, x1 = setup.patch_box
    difference = view.left[0, :, y0:y1, x0:x1].int() - view.right[0, :, y0:y1, x0 - 14 : x1 - 14].int()
    assert difference.abs().float().mean() < 4  # two noises of 2.6 grey levels at most
    shifted = view.left[0, :, y0:y1, x0:x1].int() - view.right[0, :, y0:y1, x0 - 22 : x1 - 22].int()
    assert shifted.abs().float().mean() > 1.5 * difference.abs().float().mean()
    depth = view.depth[0, 0]
    assert (depth[y0:y1, x0:x1] == setup.depth).all()
    half = 3.0 * 300 / 11.22  # the wall's half width in px
    row = depth[(y0 + y1) // 2]
    on_wall = torch.nonzero(row == setup.depth).flatten()
    assert on_wall.min() == int(np.ceil(159.5 - half)) and on_wall.max() == int(np.floor(159.5 + half))
    assert row[0] == 45.0
    assert depth[-1, 0].item() == pytest.approx(1.65 * 300 / 79.5, rel=1e-5)  # ground under the last row


def test_every_loss_is_what_the_training_computes():
    """One pixel and one depth of the sweep, from the whole pictures."""
    view = render(SMALL, CONDITIONS["smooth wall, exposures differ"])
    disparity = torch.full_like(view.depth, 14.0)
    curves = sweep(SMALL, view, disparity)
    y0, _, x0, _ = SMALL.patch_box
    k, y, x = 47, 5, 11
    tried = 5.0 + 47 * 0.1
    assert curves.depths[k].item() == pytest.approx(tried, rel=1e-6)
    product = 300.0 * 0.54
    target, source = view.left.float() / 255, view.right.float() / 255
    side = torch.tensor([0.54])
    by_depth = warp_source(source, torch.full_like(disparity, product / curves.depths[k].item()), side)
    plain = photometric_error(by_depth, target)[0, 0, y0 + y, x0 + x]
    between = photometric_error(by_depth, warp_source(source, disparity, side))[0, 0, y0 + y, x0 + x]
    far = np.log(abs(product / 14 - tried) + 1)
    found = {name: curves.losses[name][k, y, x].item() for name in LOSSES}
    assert found["photometric"] == pytest.approx(plain.item(), rel=1e-3)
    assert found["L_fp"] == pytest.approx(between.item(), rel=1e-3)
    assert found["L_dr"] == pytest.approx(far, rel=1e-4)
    assert found["L_fd"] == pytest.approx(between.item() + far, rel=1e-3)


def test_the_distilling_losses_follow_the_flow():
    """With the exact flow the truth, to half a step; with a flow that is off by 1 px its depth, f B / (f B / Z + 1)."""
    view = render(SMALL, CONDITIONS["smooth wall, exposures differ"])
    for error in (0.0, 1.0):
        curves = sweep(SMALL, view, Exact(SMALL, error).predict(None, None).disparity)
        expected = 162 / (162 / 11.22 + error)
        for name in LOSSES[1:]:
            assert (curves.minima(name) - expected).abs().max() <= 0.05 + 1e-3, name


def test_measures_by_hand():
    minima = torch.tensor([[10.0, 10.1, 10.3], [10.0, 9.0, 12.0], [10.19, 10.0, 10.0]])
    found = measures(minima, 10.0)
    assert found["minimum"] == 9.0
    assert found["error"] == pytest.approx(-10, rel=1e-5)
    assert found["median_error"] == pytest.approx(1, rel=1e-4)  # 0 0 0 0 1 1.9 3 10 20
    assert found["within_2"] == pytest.approx(100 * 6 / 9)


def test_the_figure_of_the_paper(run, tmp_path):
    """The command: what the package's own teacher makes of it, and what the issue of the figure is."""
    status, text = run("ablate", "figure3", "--out", tmp_path, "--step", 0.2, "--device", "cpu")
    assert status == 0 and "a wall at 11.22 m" in text
    report = read_report(tmp_path / "figure3.json")
    assert report.model["name"] == "flownet_stereo" and report.settings["depth"] == 11.22
    found = {(row["set"], row["method"]): row["metrics"] for row in report.rows}
    headline, alike, rough = CONDITIONS
    for name in LOSSES[1:]:
        assert abs(found[headline, name]["error"]) < 2
        assert found[headline, name]["within_2"] > 95
        assert found[headline, f"{name}, exact flow"]["median_error"] < 1  # half a step is 0.9 %
    plain = found[headline, "photometric"]
    assert abs(plain["error"]) > 10 and plain["median_error"] > 10 and plain["within_2"] < 40
    assert found[alike, "photometric"]["median_error"] < 0.5 * plain["median_error"]  # the exposures are to blame,
    assert found[rough, "photometric"]["within_2"] > 60  # and the lack of texture
    picture = read_image(tmp_path / "figure3.png")
    assert picture.shape[0] > 500 and picture.std() > 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure3.json", "figure3.png"]


def test_a_report_names_conditions_and_losses(tmp_path):
    report, shown = run_figure3(Exact(SMALL), SMALL)
    assert [row["set"] for row in report.rows[::7]] == list(CONDITIONS) == list(shown)
    assert [row["method"] for row in report.rows[:7]] == [*LOSSES, *(f"{name}, exact flow" for name in LOSSES[1:])]
    draw_figure3(tmp_path / "new" / "f.png", SMALL, shown)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["f.png"]
    assert isinstance(shown[next(iter(CONDITIONS))][1], Curves)


def test_another_teacher_and_bad_options(run, tmp_path):
    status, text = run("ablate", "figure3", "--out", tmp_path, "--teacher", "nobody")
    assert status == 1 and "unknown teacher 'nobody'" in text
    status, text = run("ablate", "figure3", "--out", tmp_path, "--depth", 99)
    assert status == 1 and "the wall at 99.0 m must lie within the depths that are tried" in text
    assert list(tmp_path.iterdir()) == []


# ---- the ablation ----------------------------------------------------------------------------------------------

TINY = LossAblation(
    seeds=1, losses=("auto_mask", "flow_mask_fd"), steps=2, scenes=4, test_scenes=2, patterns=4, width=64, height=32,
    batch=2, teacher="sgbm",
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds of the ablation is 0: it needs at least 1"),
        ({"scenes": 1}, "scenes of the ablation is 1: it needs at least 2"),
        ({"losses": ("flow_mask", "magic")}, "unknown loss 'magic'; known: auto_mask"),
        ({"grafting": "never"}, "unknown grafting 'never'; known: both, with, without"),
        ({"data": ("drive",)}, "--data needs --test-frames, such as 80:, that the rows are evaluated on"),
        ({"test_frames": "80:"}, "--frames and --test-frames are for --data; rendered scenes have --test-scenes"),
    ],
)
def test_an_ablation_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LossAblation(**options)


def test_the_rows_are_those_of_the_paper():
    rows = rows_of(LossAblation())
    assert [(row.group, row.losses, row.graft) for row in rows] == [
        (f"{word} grafting", replace(PRESETS[name], sky=0.0), word == "with")
        for word in ("without", "with")
        for name in ("auto_mask", "flow_mask", "flow_mask_dr", "flow_mask_fp", "flow_mask_fd")
    ]
    assert {row.group for row in rows_of(LossAblation(grafting="with"))} == {"with grafting"}
    more = rows_of(LossAblation(choices=True))
    assert len({row.name for row in more}) == len(more) > len(rows)
    mask = {row.name: row.mask for row in more}
    assert (mask["choice_far_bound"].max_depth, mask["choice_far_bound"].max_disparity) == (80, 0)
    assert (mask["choice_near_bound"].max_depth, mask["choice_near_bound"].max_disparity) == (0, 80)


def test_means_and_spread_by_hand():
    def curve(*points):
        return [{"step": 10 * i, "abs_rel": p[0], "rmse": p[1], "delta_1": p[2]} for i, p in enumerate(points)]

    rows = [Row("a", "g", "first", PRESETS["auto_mask"]), Row("b", "g", "  + second", PRESETS["flow_mask"])]
    found = {
        ("a", 0): curve((0.6, 9.0, 0.1), (0.1, 4.0, 0.8)),
        ("a", 1): curve((0.5, 9.0, 0.1), (0.2, 5.0, 0.7)),
        ("b", 0): curve((0.6, 9.0, 0.1), (0.05, 3.0, 0.9)),
    }
    report = summary(replace(TINY, seeds=2), rows, found)
    first, second = report.rows
    assert first["metrics"] == {"abs_rel": pytest.approx(0.15), "rmse": 4.5, "delta_1": pytest.approx(0.75)}
    assert first["spread"]["abs_rel"] == pytest.approx(0.1 / 2**0.5)
    assert [(point["step"], round(point["abs_rel"], 3)) for point in first["curve"]] == [(0, 0.55), (10, 0.15)]
    assert cells(first) == ["0.150 ± 0.071", "4.50 ± 0.71", "0.750 ± 0.071"]
    assert cells(second) == ["0.050", "3.00", "0.900"]  # one seed says nothing of the spread
    lines = markdown(report).splitlines()
    assert lines[2] == "| g | first | 0.150 ± 0.071 | 4.50 ± 0.71 | 0.750 ± 0.071 | 2 |"
    assert lines[3] == "| g | &nbsp;&nbsp;+ second | 0.050 | 3.00 | 0.900 | 1 |"
    assert lines[5:] == [
        "| | AbsRel at step | 0 | 10 |",
        "|---|---|---:|---:|",
        "| g | first | 0.550 | 0.150 |",
        "| g | &nbsp;&nbsp;+ second | 0.600 | 0.050 |",
    ]


def test_rows_share_scenes_and_initial_weights_and_are_trained_once(tmp_path, monkeypatch):
    config = replace(TINY, out=str(tmp_path / "runs"), grafting="without", learning_rate=1e-12)
    began = []
    report = run_ablation(config, began.append)
    assert began == ["seed 0: without grafting, photometric, auto-mask", "seed 0: without grafting, + L_dr + L_fp"]
    out = tmp_path / "runs"
    assert [row["method"].strip() for row in report.rows] == ["photometric, auto-mask", "+ L_dr + L_fp"]
    assert all(0 < row["metrics"]["abs_rel"] < 10 and row["metrics"]["rmse"] > 0 for row in report.rows)
    # Nothing was learned at this rate: what is left is where both began.
    first, second = (load_tensors(out / "seed0" / row.name / "last.safetensors")[0] for row in rows_of(config))
    assert set(first) == set(second)
    learned = [name for name in first if "running" not in name and first[name].is_floating_point()]
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in learned)
    results = [json.loads((out / "seed0" / row.name / "result.json").read_text()) for row in rows_of(config)]
    assert results[0]["losses"]["photometric_mask"] == "auto" and results[1]["losses"]["regression"] == 1
    assert results[0]["graft"] is False
    assert [point["step"] for point in results[0]["curve"]] == [0, 1, 2]
    network, _ = load_model(out / "seed0" / rows_of(config)[0].name / "last.safetensors")
    again = DepthTask().validation(open_depth_sets([out / "test"]))(network.eval())
    assert results[0]["curve"][-1]["abs_rel"] == pytest.approx(again["test/abs_rel"], rel=1e-5)
    for part in ("left", "right", "disp"):
        assert (
            len(list((out / "seed0/scenes" / part).iterdir())) == 4 and len(list((out / "test" / part).iterdir())) == 2
        )
    assert read_report(out / "losses.json").rows == json.loads(json.dumps(report.rows))
    assert (out / "losses.md").read_text() == markdown(report)
    assert {path.name for path in out.rglob(".*")} <= {".lock"}  # nothing unfinished is left

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(ablation, "train_distill", never)
    assert run_ablation(config, never).rows == report.rows
    with pytest.raises(ValueError, match=r"other settings \(steps 2, now 3\): choose another folder"):
        run_ablation(replace(config, steps=3))
    (out / "seed0" / rows_of(config)[0].name / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json: not readable .* remove it and its row is made again"):
        run_ablation(config, never)


def test_rows_can_learn_from_recorded_pairs_and_begin_with_an_encoder(tmp_path):
    """The pairs of both are rendered here, without their truth: the teacher's depth is what the test frames have."""
    run_ablation(replace(TINY, out=str(tmp_path / "scenes"), losses=("flow_mask",), grafting="without", scenes=6))
    drive = tmp_path / "scenes/seed0/scenes"
    shutil.rmtree(drive / "disp")
    config = replace(
        TINY, out=str(tmp_path / "runs"), data=(str(drive),), frames="0:4", test_frames="4:", grafting="without",
        model="depthnet_efficient", weights="depthnet_efficient", load_partial=True, encoder_rate=0.0, steps=1,
    )  # fmt: skip
    report = run_ablation(config)
    assert {len(row["curve"]) for row in report.rows} == {2}
    assert all(row["curve"][0] == report.rows[0]["curve"][0] for row in report.rows)  # one start
    assert report.rows[0]["metrics"] != report.rows[1]["metrics"]
    tensors = load_tensors(tmp_path / "runs/seed0" / rows_of(config)[0].name / "last.safetensors")[0]
    begun = load_tensors(weights_path("depthnet_efficient"))[0]
    assert torch.equal(tensors["encoder.stem.conv.weight"], begun["encoder.stem.conv.weight"].float())
    assert not (tmp_path / "runs/test").exists()


def test_the_command_prints_the_table(run, tmp_path, monkeypatch):
    made = []

    def pretend(config, row, seed, folder):
        made.append((row.name, seed))
        return {"curve": [{"step": 5, "abs_rel": 0.1 * len(made), "rmse": 2.0, "delta_1": 0.5}]}

    monkeypatch.setattr(ablation, "_train_and_evaluate", pretend)
    arguments = ("ablate", "losses", "--out", tmp_path, "--loss", "flow_mask", "--loss", "flow_mask_fd", "--steps", 5)
    status, text = run(*arguments, "--grafting", "with")
    assert status == 0
    assert made == [(f"{name}_with_grafting", seed) for seed in (0, 1) for name in ("flow_mask", "flow_mask_fd")]
    assert "0.200 ± 0.141" in text and "0.300 ± 0.141" in text
    status, text = run(*arguments, "--grafting", "both", "--seeds", 1)
    assert status == 0 and len(made) == 6 and made[4] == ("flow_mask_without_grafting", 0)
    status, text = run(*arguments, "--batch", 4)
    assert status == 1 and "other settings (batch 8, now 4)" in text
