"""Mutated messages and files through everything that reads them: nothing but the errors that are meant for it.

    python test/support/fuzzing.py --messages 100000 --files 2000 --parameters 2000 --sent 5000

prints what came out by reason, the longest call and the growth of memory, and ends with 1 where something else was
raised, a call took more than five seconds, or memory grew by more than 20 MB after a tenth of the messages.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fg_depth_ros.nodes.common.topics import INPUTS

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

LONGEST = 5.0  # s
GROWTH = 20.0  # MB
_SIZES = (0, 1, 2, 3, 47, 48, 63, 64, 65, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, -1e300, float("nan"), float("inf"), -float("inf"), 5e-324)
_SECONDS = (0, 1, -1, 2**31 - 1, -(2**31))
_NANOSECONDS = (0, 1, 10**9 - 1, 10**9, 2**32 - 1)
_TEXTS = ("", "rgb8", "[/red]", "a" * 300, "\u202e\u0000", "%s%n", "../../etc", "mono16", "bayer_rggb8", "32FC1")


@dataclass
class Outcome:
    """What a run led to."""

    reasons: Counter[str] = field(default_factory=Counter)
    """Calls by reason: ``ok``, or the kind of refusal."""
    failures: list[str] = field(default_factory=list)
    """Calls that raised something else or hung, with what repeats them."""
    longest: float = 0.0
    """Longest call, s."""
    grown: float = 0.0
    """Resident memory gained after a tenth of the calls, MB."""

    @property
    def ok(self) -> bool:
        """Whether nothing failed, hung or leaked."""
        return not self.failures and self.longest < LONGEST and self.grown < GROWTH

    def __str__(self) -> str:
        counts = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
        lines = [f"{sum(self.reasons.values())} calls: {counts}"]
        lines.append(f"longest {self.longest:.2f} s, memory {self.grown:+.1f} MB, {len(self.failures)} failures")
        return "\n".join([*lines, *self.failures[:20]])


def repeat(
    count: int, seed: int, call: Callable[[random.Random], str], refusals: tuple[type[Exception], ...],
    process: int | str = "self",
) -> Outcome:  # fmt: skip
    """Call with a generator of its own ``count`` times; ``call`` returns a reason, or raises one of ``refusals``.

    ``process``: id of the one whose memory is measured.
    """
    outcome, base = Outcome(), 0.0
    for number in range(count):
        if number == count // 10:
            gc.collect()
            base = _resident(process)
        began = time.perf_counter()
        try:
            with _limit():
                reason = call(random.Random(f"{seed} {number}"))
        except refusals as error:
            reason = str(getattr(error, "reason", type(error).__name__))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            reason = "FAILED"
            outcome.failures.append(f"seed {seed} number {number}: {type(error).__name__}: {str(error)[:200]}")
        outcome.longest = max(outcome.longest, time.perf_counter() - began)
        outcome.reasons[reason] += 1
    gc.collect()
    outcome.grown = _resident(process) - base
    return outcome


def _resident(process: int | str) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@contextmanager
def _limit() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"more than {LONGEST:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- messages ----------------------------------------------------------------------------------------------------


def fuzz_messages(count: int, seed: int = 0) -> Outcome:
    """Send mutated pairs through decoder, checks and matching of the depth node, and through the logger's reading."""
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import CompressedImage

    from fg_depth_ros.compat.message_filters import SimpleFilter
    from fg_depth_ros.data.io.messages import MessageError, depth_to_array, float_array
    from fg_depth_ros.geometry.rectification import RECTIFY
    from fg_depth_ros.inference import StereoConfig, StereoDepthEstimator
    from fg_depth_ros.nodes.common.synchronizing import PairSynchronizer, StereoMessages
    from fg_depth_ros.nodes.data_logger.inputs import SerializedMessage
    from fg_depth_ros.nodes.stereo_depth.decoding import PairDecoder
    from fg_depth_ros.nodes.stereo_depth.pair_checks import FeatureCheck
    from support.nodes import pair_messages, wall

    scene = wall(4, 64, 48)
    topics = {name: f"/{name}" for name in INPUTS}
    decoder, features = PairDecoder(topics), FeatureCheck(topics)
    estimator = StereoDepthEstimator(StereoConfig(model="sgbm", max_disparity=16))
    sources, matched, unheard = [SimpleFilter() for _ in INPUTS], [], []
    synchronizer = PairSynchronizer(
        sources, matched.append, approximate=True, slop=0.02, queue_size=8, on_error=unheard.append
    )  # fmt: skip

    def call(rng: random.Random) -> str:
        pair = pair_messages(scene, rng.choice(("rgb8", "mono8", "bgr8")))
        if rng.random() < 0.2:
            pair |= {name: _compressed(rng, pair[name], CompressedImage()) for name in INPUTS[:2]}
        stamp = rng.choice((None, 10**9 * rng.randrange(10**6)))
        for message in pair.values():
            if stamp is not None:
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        for _ in range(rng.randint(1, 3)):
            mutate_message(rng, pair[rng.choice(INPUTS)])
        for source, name in zip(sources, INPUTS, strict=True):
            source.signalMessage(pair[name])
        matched.clear()
        if unheard:
            raise unheard.pop()
        for name in INPUTS:
            assert synchronizer.unmatched(name) >= 0
        _logger_reads(rng, serialize_message(pair[rng.choice(INPUTS)]), SerializedMessage)
        left = pair[INPUTS[0]]
        for read in (depth_to_array, float_array):
            with suppress(MessageError):
                if not isinstance(left, CompressedImage):
                    read(left)
        messages = StereoMessages(*(pair[name] for name in INPUTS))
        images = decoder.decode(messages, rng.choice(("auto", 1023)), rng.choice(RECTIFY))
        assert images.right is not None
        assert images.left.shape[:2] == images.right.shape[:2] == (images.rig.height, images.rig.width)
        if rng.random() < 0.05:
            features.reset()
            features.check(images.left, images.right, images.rig.doffs)
            estimate = estimator.estimate(images.left, images.right, images.rig)
            assert np.isfinite(estimate.depth[estimate.mask]).all()
        return "ok"

    return repeat(count, seed, call, (MessageError,))


def _logger_reads(rng: random.Random, data: bytes, kind: Callable[[bytes, int], Any]) -> None:
    """Read the stamp of the bytes of a message, whole, cut off or changed."""
    content = mutate_bytes(rng, data) if rng.random() < 0.5 else data
    try:
        kind(content, 0)
    except ValueError as error:
        if "no message with a header" not in str(error):
            raise


def _compressed(rng: random.Random, image: Any, message: Any) -> Any:
    from fg_depth_ros.data.io.messages import image_to_array

    kind = rng.choice(("png", "jpeg"))
    data = cv2.imencode(f".{kind}", image_to_array(image))[1].tobytes()
    message.header = image.header
    message.format = rng.choice((f"rgb8; {kind} compressed bgr8", kind, "32FC1; compressedDepth png", *_TEXTS))
    message.data = mutate_bytes(rng, data) if rng.random() < 0.7 else data
    return message


def mutate_message(rng: random.Random, message: Any) -> None:
    """Change one field of an Image, CompressedImage or CameraInfo to an extreme or a random value."""
    name = rng.choice([*message.get_fields_and_field_types()])
    value = getattr(message, name)
    if name == "header":
        value.stamp.sec, value.stamp.nanosec = rng.choice(_SECONDS), rng.choice(_NANOSECONDS)
        value.frame_id = rng.choice(_TEXTS).replace("\0", "")
    elif name == "roi":
        value.x_offset, value.y_offset, value.width, value.height = (rng.choice(_SIZES) for _ in range(4))
    elif name == "is_bigendian":
        message.is_bigendian = rng.choice((0, 1, 255))
    elif name == "data":
        message.data = mutate_bytes(rng, bytes(value))
    elif isinstance(value, str):
        setattr(message, name, rng.choice(_TEXTS).replace("\0", ""))
    elif isinstance(value, int):
        setattr(message, name, rng.choice((*_SIZES, rng.randrange(2**32))))
    else:  # d, k, r, p
        numbers = [float(v) for v in value]
        for _ in range(rng.randint(1, 3)):
            if numbers:
                numbers[rng.randrange(len(numbers))] = rng.choice((*_FLOATS, rng.uniform(-1e4, 1e4)))
        setattr(message, name, numbers)


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Flip, cut, repeat, blank or insert bytes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 2, 4, 8, 64, len(data) // 2))
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : len(data) if rng.random() < 0.3 else at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at : at + length] = bytes([rng.choice((0, 1, 127, 128, 255))]) * min(length, len(data) - at)
        else:
            data[at:at] = rng.randbytes(min(length, 64))
    return bytes(data)


# ---- files -------------------------------------------------------------------------------------------------------


def fuzz_files(count: int, folder: Path, seed: int = 0) -> Outcome:
    """Give mutated images, calibrations, bags and weights to their readers."""
    from fg_depth_ros.files import FileError
    from fg_depth_ros.geometry import RigError
    from fg_depth_ros.networks import CheckpointError

    originals = _originals(folder)
    names = sorted(originals)

    def call(rng: random.Random) -> str:
        name = rng.choice(names)
        source, read = originals[name]
        with tempfile.TemporaryDirectory(dir=folder) as made:
            files = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
            target = rng.choice(files)
            for file in files:
                copy = Path(made) / file.relative_to(source.parent)
                copy.parent.mkdir(parents=True, exist_ok=True)
                content = file.read_bytes()
                copy.write_bytes(mutate_bytes(rng, content) if file == target else content)
            try:
                read(Path(made) / source.name)
            except (FileError, CheckpointError, RigError) as error:
                if not str(error):
                    raise AssertionError(f"{name}: an error without a word") from error
                return f"{name} refused"
        return f"{name} read"

    return repeat(count, seed, call, ())


# ---- parameters --------------------------------------------------------------------------------------------------

_VALUES = (
    None, True, False, 0, 1, -1, 255, 2**31, 2**63 - 1, -(2**63), 2**64, *_FLOATS, *_TEXTS, [], [1, 2], [1.5, -1e300],
    [True, False], ["", "a"], [1, "a"], [[1], [2]], {"a": 1}, "auto", "off", "/dev/null", "~/nowhere", "2026-01-01",
)  # fmt: skip


def fuzz_parameters(count: int, folder: Path, seed: int = 0) -> Outcome:
    """Give mutated parameter files to every node's table, as nodes read them, and then set random values."""
    import rclpy
    import yaml
    from rclpy.context import Context
    from rclpy.parameter import Parameter

    from fg_depth_ros.nodes.common.diagnostics import Faults
    from fg_depth_ros.nodes.data_logger.parameters import DATA_LOGGER, recorder_config
    from fg_depth_ros.nodes.parameter_files import TABLES
    from fg_depth_ros.nodes.stereo_depth.models import NodeModels
    from fg_depth_ros.nodes.stereo_depth.parameters import STEREO_DEPTH

    context, path = Context(), folder / "mutated.yaml"
    rclpy.init(context=context, args=["--ros-args", "--disable-rosout-logs", "--log-level", "fatal"])

    def content(rng: random.Random, table: Any) -> bytes:
        if rng.random() < 0.4:
            return mutate_bytes(rng, table.yaml().encode())
        values = table.defaults()
        for name in rng.sample(sorted(values), min(len(values), rng.randint(1, 4))):
            values[name] = rng.choice(_VALUES)
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        values[rng.choice(_TEXTS)] = rng.choice(_VALUES)
        text = yaml.safe_dump({rng.choice((f"/**/{table.node}", "/**", "x")): {"ros__parameters": values}})
        return text.encode()

    def declare(rng: random.Random, table: Any, node: Any) -> str:
        models = NodeModels(node, Faults(lambda level, text: None), lambda task: None, lambda config: config)
        check = (lambda values: models.problem(table.defaults(), values)) if table is STEREO_DEPTH else None
        declared = table.declare(node, check=check)
        refused = declared.problems
        assert all(refused) and not table.problems(declared.values())
        for name in rng.sample(sorted(table.parameters), 3):
            value = rng.choice(_VALUES)
            with suppress(TypeError, OverflowError, ValueError):  # no value that ROS has
                (result,) = node.set_parameters([Parameter(name, value=value)])
                assert result.successful or result.reason
        assert not table.problems(declared.values())
        if table is DATA_LOGGER:
            recorder_config(declared.values())
        return "start values refused" if refused else "ok"

    def call(rng: random.Random) -> str:
        table = rng.choice(TABLES)
        path.write_bytes(content(rng, table))
        words = ["--ros-args", "--params-file", str(path)]
        try:
            node = rclpy.create_node(
                table.node, context=context, cli_args=words, use_global_arguments=False, enable_rosout=False,
                start_parameter_services=False,
            )  # fmt: skip
        except RuntimeError as error:  # RCLError; a node says it in one line: nodes.common.running
            if "param" not in str(error):
                raise
            return "refused by ROS"
        try:
            return declare(rng, table, node)
        finally:
            node.destroy_node()

    try:
        return repeat(count, seed, call, ())
    finally:
        rclpy.shutdown(context=context)


# ---- a node process, over DDS ------------------------------------------------------------------------------------


def fuzz_node(count: int, folder: Path, domain: int, seed: int = 0) -> Outcome:
    """Send mutated messages and bytes to a stereo_depth_node: it lives on, and its counters account for every pair."""
    import rclpy
    from rclpy.context import Context
    from rclpy.serialization import serialize_message

    from fg_depth_ros.apps.processes import ProcessGroup
    from fg_depth_ros.nodes.common.environment import child_environment
    from support.nodes import QUICK, User, pair_messages, share_near, wall

    scene, outcome = wall(6, 160, 120), Outcome()
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    user = User(context)
    try:
        with ProcessGroup(folder, child_environment(domain_id=domain)) as group:
            # No message is lost on a busy machine.
            qos = {"reliability": "reliable", "depth": 10}
            queues = {f"qos_overrides./{name}.subscription.{key}": v for name in INPUTS for key, v in qos.items()}
            child = group.start("stereo_depth_node", "fg_depth_ros.nodes.stereo_depth.node", {**QUICK, **queues})
            user.listen("depth/image_rect")
            user.fresh_depth(pair_messages(scene))

            waiting = itertools.count(1)

            def call(rng: random.Random) -> str:
                pair = pair_messages(scene, rng.choice(("rgb8", "mono8", "bgr8")))
                now = user.node.get_clock().now().to_msg()
                for message in pair.values():
                    message.header.stamp = now
                for _ in range(rng.choice((0, 1, 1, 2, 3))):
                    mutate_message(rng, pair[rng.choice(INPUTS)])
                for name, message in pair.items():
                    damaged = rng.random() < 0.1
                    data = mutate_bytes(rng, serialize_message(message)) if damaged else message
                    user.publish(name, data)
                if next(waiting) % 2 == 0:  # a good one is answered, and the queues are empty
                    user.seen["depth/image_rect"].clear()
                    user.fresh_depth(pair_messages(scene))
                assert child.running, "the node ended"
                return "sent"

            sent = repeat(count, seed, call, (), child.pid)
            good = user.fresh_depth(pair_messages(scene))  # whatever came, the next good pair is matched
            before = len(user.statuses)  # one may be on its way that was made before the last pair
            user.wait(lambda: len(user.statuses) > before + 1 and user.accounted())
            values = user.values()
            drops = {key.removeprefix("dropped: "): int(v) for key, v in values.items() if key.startswith("dropped: ")}
            outcome = Outcome(Counter(drops), sent.failures, sent.longest, sent.grown)
            outcome.reasons["ok"] = int(values["pairs published"])
            if sum(drops.values()) != int(values["pairs dropped"]):
                outcome.failures.append(f"{values['pairs dropped']} pairs dropped, and by reason {drops}")
            if share_near(good, scene.depth) < 0.9:
                outcome.failures.append("wrong depth of a good pair")
            if not child.running:
                outcome.failures.append("the node ended")
    finally:
        user.close()
        rclpy.shutdown(context=context)
    return outcome


def _originals(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """Write a small file of every kind; return path and reader by kind."""
    import torch

    from fg_depth_ros.data.bags.checks import check_bag
    from fg_depth_ros.data.bags.pairs import open_bag_pairs
    from fg_depth_ros.data.bags.writing import write_stereo_bag
    from fg_depth_ros.data.io import formats
    from fg_depth_ros.data.io.calibration import read_calibration, write_rig
    from fg_depth_ros.networks import ModelCard, create_model, load_model, save_checkpoint
    from fg_depth_ros.recording.recovery import recover
    from support.bags import pack, storage_file, to_ros1
    from support.pair_folders import planes, small_rig

    folder = folder / "originals"
    folder.mkdir()
    rig, random_numbers = small_rig(), np.random.default_rng(0)
    left, right, disparity = planes(0)
    formats.write_image(folder / "image.png", left)
    formats.write_image(folder / "image.jpg", left)
    formats.write_pfm(folder / "disparity.pfm", disparity)
    formats.write_kitti_disparity(folder / "disparity.png", disparity)
    formats.write_png_depth(folder / "depth.png", np.full((20, 30), 2.5, np.float32))
    flow = random_numbers.uniform(-9, 9, (20, 30, 2)).astype(np.float32)
    formats.write_flo(folder / "flow.flo", flow)
    formats.write_kitti_flow(folder / "flow.png", flow)
    write_rig(folder / "rig.json", rig)
    (folder / "calib.txt").write_text(
        "cam0=[500 0 80; 0 500 48; 0 0 1]\ncam1=[500 0 84; 0 500 48; 0 0 1]\ndoffs=4\nbaseline=120\n"
        "width=160\nheight=96\n"
    )
    (folder / "kitti.txt").write_text("P2: 500 0 80 40 0 500 48 0 0 0 1 0\nP3: 500 0 80 -20 0 500 48 0 0 0 1 0\n")
    ros = folder / "ros"
    ros.mkdir()
    for side, shift in (("left", 0), ("right", -60)):
        (ros / f"{side}.yaml").write_text(
            "image_width: 160\nimage_height: 96\nprojection_matrix:\n  rows: 3\n  cols: 4\n"
            f"  data: [500, 0, 80, {shift}, 0, 500, 48, 0, 0, 0, 1, 0]\n"
        )
    write_stereo_bag(folder / "bag", [(10**9 * (i + 1), left, right) for i in range(3)], rig)
    to_ros1(folder / "bag", folder / "ros1.bag", compression="LZ4")
    pack(storage_file(write_stereo_bag(folder / "packed", [(10**9, left, right)], rig)))
    torch.manual_seed(0)
    network = create_model("flownet_stereo", features=[8, 8, 8], aggregate=[8, 8, 8], refine=8, max_disparity=32)
    save_checkpoint(folder / "weights.safetensors", network, ModelCard("flownet_stereo", network.options))

    def pairs(path: Path) -> None:
        for each in open_bag_pairs(path):
            each.images()

    readers: dict[str, Callable[[Path], object]] = {
        "image.png": formats.read_image, "image.jpg": formats.read_image, "disparity.pfm": formats.read_pfm,
        "disparity.png": formats.read_kitti_disparity, "depth.png": formats.read_png_depth,
        "flow.flo": formats.read_flo, "flow.png": formats.read_kitti_flow, "rig.json": read_calibration,
        "calib.txt": read_calibration, "kitti.txt": lambda path: read_calibration(path, 160, 96),
        "ros": read_calibration, "bag": pairs, "ros1.bag": pairs, "packed": pairs, "weights.safetensors": load_model,
    }  # fmt: skip
    originals = {name: (folder / name, read) for name, read in readers.items()}
    return originals | {"checked bag": (folder / "bag", check_bag), "recovered bag": (folder / "bag", recover)}


def main() -> int:
    """Run with the counts of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--parameters", type=int, default=200, help="mutated parameter files")
    parser.add_argument("--sent", type=int, default=300, help="mutated pairs sent to a node process")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from fg_depth_ros.apps.processes import free_domain_id

    runs: dict[str, Callable[[Path], Outcome]] = {
        "messages": lambda folder: fuzz_messages(given.messages, given.seed),
        "files": lambda folder: fuzz_files(given.files, folder, given.seed),
        "parameters": lambda folder: fuzz_parameters(given.parameters, folder, given.seed),
        "sent": lambda folder: fuzz_node(given.sent, folder, free_domain_id(), given.seed),
    }
    good = True
    for name, run in runs.items():
        if getattr(given, name):
            with tempfile.TemporaryDirectory() as folder:
                outcome = run(Path(folder))
            print(f"{name}: {outcome}\n", flush=True)
            good &= outcome.ok
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
