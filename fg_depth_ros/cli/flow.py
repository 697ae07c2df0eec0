"""``fg-depth flow`` and ``fg-depth evaluate flow``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fg_depth_ros.cli.app import Device, Json, Precision, app, console, evaluate_app, save

if TYPE_CHECKING:
    from fg_depth_ros.inference import FlowEstimator

_DEFAULT = "flownet_lite"
_Scale = Annotated[float, typer.Option(help="Resize the frames by this; below 1 is faster and reaches farther.")]
_COLUMNS = [
    "epe", "epe_noc", "epe_occ", "epe_below_10", "epe_10_40", "epe_above_40", "fl_all", "angular", "seconds",
]  # fmt: skip
_TABLE_WIDTH = 124


@app.command("flow")
def flow_command(
    first: Annotated[Path, typer.Argument(help="First frame.")],
    second: Annotated[Path, typer.Argument(help="Second frame.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("fg_depth_out"),
    model: Annotated[
        str,
        typer.Option(help=f"Network, dis, farneback, lucas_kanade, horn_schunck; default: {_DEFAULT}, or --weights'."),
    ] = "",
    weights: Annotated[str, typer.Option(help="Weights file; default: the shipped weights.")] = "",
    device: Device = "auto",
    precision: Precision = "float32",
    scale: _Scale = 1.0,
    variational: Annotated[bool, typer.Option("--variational", help="Refine the answer (+v).")] = False,
) -> None:
    """Optical flow between two frames: .flo, KITTI's 16-bit PNG, and a picture in Middlebury's colours."""
    from fg_depth_ros.data.samples import FlowSample
    from fg_depth_ros.evaluation.reports.results import write_flow

    frames = FlowSample(first.stem, first, second).images()
    estimator = _estimator(model, weights, device, precision, scale, variational)
    estimate = estimator.estimate(*frames)
    paths = write_flow(estimate.flow, out, first.stem)
    note = f"{estimator.model_name}{' +v' if variational else ''}, {1000 * estimate.seconds:.0f} ms"
    console.print(f"{', '.join(path.name for path in paths)} in {out} ({note})", highlight=False, soft_wrap=True)


@evaluate_app.command("flow")
def evaluate_flow_command(
    data: Annotated[list[Path], typer.Option(help="Data set, or a folder of data sets; may be repeated.")],
    model: Annotated[
        list[str],
        typer.Option(
            help="Network or classical method; may be repeated; default: the classical ones and what has weights."
        ),
    ] = [],
    weights: Annotated[
        list[str], typer.Option(help="Weights file, instead of the shipped weights; several are compared.")
    ] = [],
    variational: Annotated[
        bool, typer.Option("--variational", help="Also judge every method with its answer refined (+v).")
    ] = False,
    device: Device = "auto",
    precision: Precision = "float32",
    scale: _Scale = 1.0,
    split: Annotated[str, typer.Option(help="Of Flying Chairs: all, train or test.")] = "all",
    sheets: Annotated[Path | None, typer.Option(help="Folder for a picture per data set.")] = None,
    json: Json = None,
) -> None:
    """Learned and classical flow, on pairs with true flow, in one table."""
    from fg_depth_ros.data.datasets.flow import open_flow_sets
    from fg_depth_ros.evaluation import evaluate_flow
    from fg_depth_ros.inference.flow import CLASSICAL_FLOW
    from fg_depth_ros.networks import FLOW_MODELS, has_weights

    sets = open_flow_sets(data, split)
    shipped = [] if weights else [name for name in FLOW_MODELS if has_weights(name)]
    names = list(dict.fromkeys(model)) or [*shipped, *CLASSICAL_FLOW]
    networks = [name for name in names if name not in CLASSICAL_FLOW]
    if weights:  # each in place of the network it is of; without a network named, whichever it is of
        chosen = [(networks[0] if len(networks) == 1 else "", path) for path in weights]
    else:
        chosen = [(name, "") for name in networks]
    chosen += [(name, "") for name in names if name in CLASSICAL_FLOW]
    methods: dict[str, FlowEstimator] = {}
    for name, path in chosen:
        estimator = _estimator(name, path, device, precision, scale)
        line = estimator.model_name + (f" {Path(path).stem}" if len(weights) > 1 and path else "")
        line = f"{estimator.model_name} {path}" if line in methods else line
        methods[line] = estimator
        if variational:
            methods[f"{line} +v"] = estimator.refined()
    judged = next(iter(methods.values()))
    report = evaluate_flow(
        sets,
        methods,
        model={"name": judged.model_name, "sha256": judged.model_sha256 or None, "device": judged.device},
        sheets=sheets,
        console=Console(stderr=True),
    )
    # Eleven columns: in a narrow terminal or a pipe long lines are better than numbers cut off.
    Console(width=max(console.width, _TABLE_WIDTH)).print(report.table(_COLUMNS))
    save(report, json)
    console.print(
        "EPE in px over all pixels with truth; noc, occ: shown and not shown by the second frame; <10 ... >40: by the "
        "length of the true flow in px; Fl: off by more than 3 px and 5 %; AE: angular error",
        style="dim",
    )


def _estimator(
    model: str, weights: str, device: str, precision: str, scale: float, variational: bool = False
) -> FlowEstimator:
    from fg_depth_ros.inference import FlowConfig, FlowEstimator

    model = model or ("" if weights else _DEFAULT)  # of weights alone: whatever network they are of
    return FlowEstimator(FlowConfig(model, weights, device, precision, scale, variational))
