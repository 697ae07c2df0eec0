"""Engines: the same numbers as PyTorch, in any size, and what happens when one is missing or fails."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from support.engines import StandIn
from support.waiting import wait_until

from fg_depth_ros.inference import FlowConfig, FlowEstimator, ModelError, MonoConfig, MonoDepthEstimator, StereoConfig
from fg_depth_ros.inference import StereoDepthEstimator as Stereo
from fg_depth_ros.inference.engines import select_engine, selection
from fg_depth_ros.inference.engines.cache import plan_folder
from fg_depth_ros.inference.engines.onnxruntime_engine import OnnxRuntimeEngine, TensorRtEngine
from fg_depth_ros.inference.engines.openvino_engine import OpenVinoEngine

CPU = torch.device("cpu")
WIDTH, HEIGHT = 192, 96


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FG_DEPTH_CACHE", str(tmp_path / "engines"))
    monkeypatch.delenv("FG_DEPTH_ENGINE")


def pair(width: int = WIDTH, height: int = HEIGHT) -> tuple[np.ndarray, np.ndarray]:
    """A textured pair with a disparity of 8 px."""
    texture = np.random.default_rng(3).integers(0, 256, (height, width + 8, 3), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(texture, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
    return np.ascontiguousarray(texture[:, :width]), np.ascontiguousarray(texture[:, 8:])


def needed(engine: str) -> str:
    missing = selection.INSTALLABLE[engine].missing()
    if missing is not None:
        pytest.skip(f"{engine} {missing}")
    return engine


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch):
    """Puts a ``StandIn`` in the place of OpenVINO."""

    def install(**options) -> StandIn:
        engine = StandIn(**options)
        monkeypatch.setitem(selection.INSTALLABLE, "openvino", engine)
        return engine

    return install


# ---- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_float32_is_what_pytorch_computes(name: str) -> None:
    left, right = pair()
    options = {"engine": needed(name), "precision": "float32"}
    stereo, reference = Stereo(StereoConfig(**options)), Stereo(StereoConfig(engine="torch", precision="float32"))
    found, expected = stereo.match(left, right), reference.match(left, right)
    assert (stereo.engine, stereo.precision, stereo.engine_failure) == (name, "float32", None)
    assert np.abs(found.disparity - expected.disparity).mean() < 1e-3
    assert found.sigma is not None
    np.testing.assert_allclose(found.sigma, expected.sigma, rtol=0.01, atol=1e-3)
    assert np.median(found.disparity[:, 32:]) == pytest.approx(8.0, abs=0.1)  # the truth


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_flow_and_mono_are_what_pytorch_computes(name: str) -> None:
    left, right = pair()
    config = {"engine": needed(name), "precision": "float32"}
    flow = FlowEstimator(FlowConfig(**config)).estimate(left, right).flow
    reference = FlowEstimator(FlowConfig(engine="torch", precision="float32")).estimate(left, right).flow
    assert np.abs(flow - reference).mean() < 0.01
    mono = MonoDepthEstimator(MonoConfig(**config, inference_scale=0.5))
    expected = MonoDepthEstimator(MonoConfig(engine="torch", precision="float32", inference_scale=0.5))
    np.testing.assert_allclose(mono.estimate(left, 100.0).depth, expected.estimate(left, 100.0).depth, rtol=1e-3)
    assert (mono.engine, mono.engine_failure) == (name, None)


def test_half_precision_places_samples_exactly_in_wide_images() -> None:
    """Places to sample at, rounded to 8 bits, are off by pixels in a wide image, and the refinement loses its pixel."""
    needed("openvino")
    if "bfloat16" not in OpenVinoEngine().precisions(CPU):
        pytest.skip("this CPU does not compute in bfloat16")
    left, right = pair(640, 96)
    half = Stereo(StereoConfig(engine="openvino", precision="bfloat16"))
    full = Stereo(StereoConfig(engine="torch", precision="float32"))
    found, expected = half.match(left, right), full.match(left, right)
    assert half.engine_failure is None
    assert np.abs(found.disparity - expected.disparity)[:, 320:].mean() < 0.05
    assert found.sigma is not None
    assert np.median(found.sigma) < 1.5 * np.median(expected.sigma)


def test_int8_is_what_pytorch_computes_but_for_rounding_in_wide_images_too() -> None:
    needed("openvino")
    if "int8" not in OpenVinoEngine().precisions(CPU):
        pytest.skip("OpenVINO has no int8 on this machine")
    left, right = pair(1248, 96)
    int8 = Stereo(StereoConfig(engine="openvino", precision="int8"))
    full = Stereo(StereoConfig(engine="torch", precision="float32"))
    found, expected = int8.match(left, right), full.match(left, right)
    assert (int8.engine, int8.precision, int8.engine_failure) == ("openvino", "int8", None)
    difference = np.abs(found.disparity - expected.disparity)[:, 32:]
    assert 0 < difference.mean() < 0.03
    assert found.sigma is not None
    for columns in np.array_split(np.arange(32, 1248), 4):  # places rounded to 8 bits are wrong at the sides
        assert np.abs(found.sigma - expected.sigma)[:, columns].mean() < 0.05


def test_auto_takes_int8_for_weights_that_are_calibrated_alone() -> None:
    needed("openvino")
    precisions = OpenVinoEngine().precisions(CPU)
    if "int8" not in precisions:
        pytest.skip("OpenVINO has no int8 on this machine")
    assert select_engine("auto", "auto", CPU, int8=True).precision == "int8"
    assert select_engine("auto", "auto", CPU).precision == precisions[1]
    assert Stereo(StereoConfig(engine="openvino")).precision == "int8"  # the shipped weights
    with pytest.raises(ValueError, match="these weights are not calibrated for int8: 'fg-depth quantize' makes"):
        select_engine("openvino", "int8", CPU)
    with pytest.raises(ModelError, match="not calibrated for int8"):
        MonoDepthEstimator(MonoConfig("depthnet_efficient", engine="openvino", precision="int8"))
    with pytest.raises(ValueError, match="engine 'torch' does not compute in int8 on this cpu"):
        select_engine("torch", "int8", CPU, int8=True)


@pytest.mark.parametrize("size", [(191, 97), (200, 70)])
def test_odd_sizes_grey_images_and_two_sizes_in_turn(size: tuple[int, int]) -> None:
    stereo = Stereo(StereoConfig(engine=needed("onnxruntime"), precision="float32"))
    reference = Stereo(StereoConfig(engine="torch", precision="float32"))
    odd, even = [cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in pair(*size)], pair()
    for images in (odd, even, odd):
        found = stereo.match(*images).disparity
        assert found.shape == images[0].shape[:2]
        assert np.abs(found - reference.match(*images).disparity).mean() < 1e-3
    assert stereo.engine_failure is None


def test_scale_two_pass_and_min_disparity_reach_the_engine(stand_in) -> None:
    engine = stand_in()
    left, right = pair()
    options = {"inference_scale": 0.5, "min_disparity": -4}
    found = Stereo(StereoConfig(engine="openvino", **options)).match(left, right[:, ::-1][:, ::-1])
    expected = Stereo(StereoConfig(engine="torch", precision="float32", **options)).match(left, right)
    np.testing.assert_array_equal(found.disparity, expected.disparity)
    assert engine.built == [(128, 64)]  # (192 + 8) / 2 = 98 + 2 columns and 48 rows, to multiples of 32


# ---- selection -------------------------------------------------------------------------------------------------------


def test_auto_takes_openvino_where_it_is_installed_else_pytorch(monkeypatch: pytest.MonkeyPatch, stand_in) -> None:
    stand_in()
    chosen = select_engine("auto", "auto", CPU)
    assert (chosen.engine.name, chosen.precision, chosen.problem) == ("openvino", "float32", None)
    monkeypatch.setattr(StandIn, "missing", lambda self: "is not installed: pip install openvino")
    chosen = select_engine("auto", "auto", CPU)
    assert (chosen.engine.name, chosen.precision, chosen.problem) == ("torch", "float32", None)
    assert "pip install openvino" in chosen.reason
    named = select_engine("openvino", "auto", CPU)
    assert named.engine.name == "torch"
    assert named.problem == "engine openvino is not installed: pip install openvino"


def test_the_environment_says_what_auto_takes(monkeypatch: pytest.MonkeyPatch, stand_in) -> None:
    stand_in()
    monkeypatch.setenv("FG_DEPTH_ENGINE", "torch")
    assert select_engine("auto", "auto", CPU).engine.name == "torch"
    assert select_engine("openvino", "auto", CPU).engine.name == "openvino"
    monkeypatch.setenv("FG_DEPTH_ENGINE", "torch")
    with pytest.raises(ValueError, match="does not compute in int8.*FG_DEPTH_ENGINE in the environment says: unset it"):
        select_engine("auto", "int8", CPU)
    monkeypatch.setenv("FG_DEPTH_ENGINE", "warp")
    with pytest.raises(ValueError, match="FG_DEPTH_ENGINE = 'warp' is unknown; set it to one of auto, torch"):
        select_engine("auto", "auto", CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "cuda"}, "engine 'cuda' is unknown; choose one of auto, torch, openvino"),
        ({"engine": "onnxruntime", "precision": "bfloat16"}, "'onnxruntime' does not compute in bfloat16 on this cpu"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(options: dict[str, str], message: str) -> None:
    needed("onnxruntime")
    with pytest.raises(ValueError, match=message):
        Stereo(StereoConfig(**options))
    with pytest.raises(ModelError if "precision" in options else ValueError):
        FlowEstimator(FlowConfig(**options))


def test_onnxruntime_for_cpus_alone_says_how_to_get_the_one_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    needed("onnxruntime")
    there = ["AzureExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: there)
    gpu = torch.device("cuda", 0)
    assert (OnnxRuntimeEngine().precisions(gpu), OnnxRuntimeEngine().precisions(CPU)) == ((), ("float32",))
    with pytest.raises(
        ValueError,
        match="'onnxruntime' does not run on cuda:0: the installed ONNX Runtime has AzureExecutionProvider, "
        "CPUExecutionProvider; pip install onnxruntime-gpu in place of onnxruntime; set engine to torch or auto",
    ):
        select_engine("onnxruntime", "auto", gpu)
    there.append("CUDAExecutionProvider")
    assert select_engine("onnxruntime", "auto", gpu).precision == "float32"
    assert select_engine("auto", "auto", gpu).reason == "the other engines are not measured on GPUs yet"


class TensorRtSession:
    """Keeps a plan in the folder that it is given, and refuses one that is torn."""

    made: ClassVar[list[dict[str, object]]] = []

    def __init__(self, blob: bytes, options: object, providers: list[tuple[str, dict[str, object]]]) -> None:
        assert [name for name, _ in providers] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
        settings = providers[0][1]
        self.made.append(settings)
        if settings.get("trt_engine_cache_enable"):
            plan = Path(str(settings["trt_engine_cache_path"]), "TensorrtExecutionProvider.engine")
            if plan.exists() and plan.read_bytes() != b"plan":
                raise RuntimeError("could not deserialize the engine")
            plan.write_bytes(b"plan")

    def get_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider"]


@pytest.fixture
def tensorrt_sessions(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The settings of the sessions that a test makes, of a stand-in for ONNX Runtime's."""
    needed("onnxruntime")
    monkeypatch.setattr("onnxruntime.InferenceSession", TensorRtSession)
    monkeypatch.setattr(TensorRtSession, "made", [])
    return TensorRtSession.made


def load_tensorrt() -> None:
    TensorRtEngine().load(b"onnx", None, "float16", torch.device("cuda", 0))  # type: ignore[arg-type]


def test_a_torn_plan_is_made_again(tensorrt_sessions: list[dict[str, object]]) -> None:
    load_tensorrt()
    (plan,) = plan_folder(b"onnx").iterdir()
    load_tensorrt()
    assert len(tensorrt_sessions) == 2
    plan.write_bytes(b"pl")
    load_tensorrt()
    assert (len(tensorrt_sessions), plan.read_bytes()) == (4, b"plan")


def test_tensorrt_that_fails_without_a_plan_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    needed("onnxruntime")
    tried = []

    def session(*arguments: object, **options: object) -> None:
        tried.append(1)
        raise RuntimeError("no such layer")

    monkeypatch.setattr("onnxruntime.InferenceSession", session)
    with pytest.raises(RuntimeError, match="no such layer"):
        load_tensorrt()
    assert tried == [1]


def test_without_a_folder_tensorrt_runs_and_keeps_no_plan(
    tensorrt_sessions: list[dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FG_DEPTH_CACHE", str(tmp_path / "file"))
    load_tensorrt()
    assert tensorrt_sessions == [{"device_id": 0, "trt_fp16_enable": True}]


# ---- failures --------------------------------------------------------------------------------------------------------


def test_an_engine_that_cannot_compile_is_replaced_by_pytorch(stand_in) -> None:
    stand_in(build="no such\ninstruction")
    left, right = pair()
    estimator = Stereo(StereoConfig())
    found = estimator.match(left, right)
    expected = Stereo(StereoConfig(engine="torch", precision="float32")).match(left, right)
    np.testing.assert_array_equal(found.disparity, expected.disparity)
    assert (estimator.engine, estimator.precision) == ("torch", "float32")
    assert estimator.engine_failure == (
        "engine openvino failed for 192x96 px, PyTorch runs instead: no such instruction"
    )


def test_an_engine_that_fails_while_it_runs_is_replaced_by_pytorch(stand_in) -> None:
    engine = stand_in()
    left, right = pair()
    estimator = Stereo(StereoConfig())
    before = estimator.match(left, right).disparity
    assert (estimator.engine, estimator.engine_failure) == ("openvino", None)
    engine.fails_to_run = "device lost"
    np.testing.assert_array_equal(estimator.match(left, right).disparity, before)
    assert estimator.engine == "torch"
    assert "failed while running, PyTorch runs instead: device lost" in str(estimator.engine_failure)


@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_an_engine_with_other_numbers_is_not_used(stand_in, factor: float) -> None:
    stand_in(factor=factor)
    estimator = Stereo(StereoConfig())
    estimator.match(*pair())
    assert estimator.engine == "torch"
    assert "disparity differs from PyTorch by" in str(estimator.engine_failure)


def test_a_new_size_compiles_beside_the_running_one(stand_in) -> None:
    engine = stand_in()
    estimator = Stereo(StereoConfig())
    estimator.warm_up(WIDTH, HEIGHT)
    runner = estimator.runner
    assert runner is not None
    runner.background = True
    engine.go_on.clear()
    larger = pair(256, 128)
    found = estimator.match(*larger).disparity  # returns although the compiler waits
    assert runner.compiling
    assert engine.built == [(WIDTH, HEIGHT)]
    assert estimator.match(*pair()).disparity.shape == (HEIGHT, WIDTH)
    engine.go_on.set()
    wait_until(lambda: not runner.compiling)
    np.testing.assert_array_equal(estimator.match(*larger).disparity, found)
    assert engine.built == [(WIDTH, HEIGHT), (256, 128)]
    assert estimator.engine == "openvino"


def test_a_size_that_was_kept_is_there_for_its_first_pair(stand_in) -> None:
    engine = stand_in(factor=1.0)
    Stereo(StereoConfig()).warm_up(WIDTH, HEIGHT)
    again = Stereo(StereoConfig())
    assert again.runner is not None
    again.runner.background = True
    again.match(*pair())
    assert not again.runner.compiling
    assert again.runner.compile_seconds is not None
    assert again.runner.compile_seconds[1]  # from the cache
    assert engine.built == [(WIDTH, HEIGHT)]


def test_pytorch_alone_runs_where_nothing_is_to_be_compiled(stand_in) -> None:
    engine = stand_in(run="no such device")
    estimator = Stereo(StereoConfig())
    assert estimator.runner is not None
    with estimator.runner.pytorch():
        assert estimator.engine == "torch"
        estimator.match(*pair())
    assert (estimator.engine, estimator.engine_failure, engine.built) == ("openvino", None, [])


def test_warming_up_compiles_the_size_that_is_matched_at_these_principal_points(stand_in) -> None:
    engine = stand_in()
    estimator = Stereo(StereoConfig())
    estimator.warm_up(WIDTH, HEIGHT, 40.0)
    assert engine.built == [(WIDTH + 64, HEIGHT)]  # 40 columns of border, to a multiple of 32
    estimator.match(*pair(), 40.0)
    assert len(engine.built) == 1


def test_a_model_of_its_own_task_names_its_engine_and_a_classical_one_has_none() -> None:
    assert Stereo(StereoConfig(model="sgbm")).engine == ""
    assert Stereo(StereoConfig(model="sgbm")).engine_failure is None
    estimator = MonoDepthEstimator(MonoConfig(engine="torch", precision="bfloat16"))
    assert (estimator.engine, estimator.precision) == ("torch", "bfloat16")
