"""Commands about weights in use: ``fg-depth promote``, ``rollback``, ``deployed`` and ``import``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.table import Table

from fg_depth_ros.cli.app import REFUSED, save, say, show
from fg_depth_ros.cli.options import Device, Engine, Json, Precision, Settings, file_to_write, folder_to_write
from fg_depth_ros.data.bags.topics import PairTopics
from fg_depth_ros.evaluation.replay.config import ALL_BAGS
from fg_depth_ros.evaluation.replay.promotion import MEASURES, Comparison, Decision, Margins, decide
from fg_depth_ros.files import FileError

if TYPE_CHECKING:
    from fg_depth_ros.evaluation.replay.config import ReplayMethod
    from fg_depth_ros.evaluation.reports.report import Report
    from fg_depth_ros.networks import ModelCard
    from fg_depth_ros.networks.weights_store import WeightsStore

_BRIEF = 12  # digits of a hash
Store = Annotated[
    Path | None,
    typer.Option(help="Folder of the store; default: FG_DEPTH_STORE, else ~/.local/share/fg_depth_ros/weights."),
]
NodeName = Annotated[str, typer.Option(help="A running depth node to set the weights of: /stereo_depth_node.")]


def promote(
    weights: Annotated[Path, typer.Argument(help="Weights file that is to be used from now on.")],
    topics: Settings[PairTopics],
    bags: Annotated[list[Path], typer.Option(help="Recordings to evaluate on, not trained on; may be repeated.")] = [],
    against: Annotated[
        str, typer.Option(help="Weights file or model to compare with; default: what is in use, else the shipped.")
    ] = "",
    margin: Annotated[float, typer.Option(help="Accept figures worse by this fraction, over all bags.")] = 0.02,
    margin_per_bag: Annotated[float, typer.Option(help="Accept figures worse by this fraction, on any one bag.")] = 0.1,
    margin_latency: Annotated[float, typer.Option(help="Accept this many times the latency; 0: no limit.")] = 1.5,
    metric: Annotated[list[str], typer.Option(help="Metric that decides, such as abs_rel; may be repeated.")] = [],
    every: Annotated[int, typer.Option(help="Take every n-th pair.")] = 1,
    store: Store = None,
    node: NodeName = "",
    force_reason: Annotated[
        str, typer.Option(help="Use the weights whatever the comparison says; the reason is kept.")
    ] = "",
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    json: Json = None,
) -> None:
    """Deploy weights unless they are worse than those in use; exit status 3: refused, nothing has changed.

    Weights that are in use already are not compared again: a lost file is put back, and the node gets them.

    Example: `fg-depth promote runs/robot/weights.safetensors --bags held_out --node /stereo_depth_node`
    """
    from fg_depth_ros.evaluation.replay.methods import of_weights
    from fg_depth_ros.networks import FLOW_MODELS, load_checkpoint, load_model
    from fg_depth_ros.networks.weights_store import WeightsStore

    running: dict[str, Any] = {"device": device, "engine": engine, "precision": precision, "topics": topics()}
    margins = Margins(margin, margin_per_bag, margin_latency, tuple(metric))
    card = load_model(weights)[1]
    if not (bags or force_reason):
        raise ValueError("--bags: name recordings to evaluate the weights on, or give the reason with --force-reason")
    _node_client(node, card.name)
    place = WeightsStore(store)
    record: dict[str, Any] = {"source": str(weights.absolute())}
    folder_to_write(place.folder)
    replaced = None
    if not against and place.uses(card):
        say(f"{card.name}: {card.sha256[:_BRIEF]} is in use already: nothing is compared or added to its history")
        replaced = card
    elif bags:
        if known := _trained_on(card, bags):
            record["trained_on"] = known
            say(
                f"{weights} was trained on or selected by {', '.join(known)}: figures of these say little of other "
                "recordings; name others in --bags, or give the reason with --force-reason",
                "yellow" if force_reason else "red",
            )
            if not force_reason:
                _refuse(weights)
        current = _current(place, against, card.name)
        replaced = None if against else load_checkpoint(current.weights)[1]
        report, decision = _compare(bags, of_weights(weights), current, margins, every, running, json)
        if report is None or decision is None:
            return  # another process of the launcher goes on
        if card.name in FLOW_MODELS:
            say(f"'{card.name}' was evaluated by its disparity; bags have no truth for flow between frames")
        report.settings["promotion"] = {"accepted": decision.accepted, "reasons": decision.reasons, **vars(margins)}
        _print_decision(decision, against or "the weights in use")
        save(report, json)
        record |= _history_record(report, decision)
        precisions = {str(method["precision"]) for method in report.settings["methods"]}
        if not decision.accepted and "int8" in precisions and len(precisions) > 1:
            say("one of the two ran in int8 and the other did not: 'fg-depth quantize' calibrates weights for it")
        if not decision.accepted and not force_reason:
            _refuse(weights)
    if force_reason:
        record["forced"], replaced = force_reason, None
    _put_into_use(place, weights, record, node, against, replaced)


def rollback(
    model: Annotated[
        str, typer.Argument(help="Model, such as depthnet_lite; not needed if the store has only one.")
    ] = "",
    why: Annotated[str, typer.Option(help="The reason, which is kept.")] = "",
    store: Store = None,
    node: NodeName = "",
) -> None:
    """Roll back to the weights that were in use before.

    Example: `fg-depth rollback --node /stereo_depth_node --why "worse in the rain"`
    """
    from fg_depth_ros.networks.weights_store import VARIABLE, WeightsStore

    place = WeightsStore(store)
    known = place.models()
    if not known:
        raise ValueError(
            f"{place.folder}: nothing was promoted there, so there is nothing to roll back; is the store another "
            f"folder? (--store, {VARIABLE})"
        )
    if model and model not in known:
        raise ValueError(
            f"{place.folder}: no weights of '{model}' were promoted there; choose one of {', '.join(known)}"
        )
    if not model and len(known) != 1:
        raise ValueError(f"name the model to roll back: the store {place.folder} knows {', '.join(known)}")
    model = model or known[0]
    history = place.history(model)
    previous = history.previous if history is not None else None
    swapped = (
        nullcontext()
        if previous is None
        else _swapped_in_node(node, model, place.path(model, previous), previous.sha256)
    )
    with swapped:
        rolled_back, current = place.rollback(model, why)
    say(f"{model}: restored {current.sha256[:_BRIEF]}; rolled back {rolled_back.sha256[:_BRIEF]}")
    _print_current(place, model)


def deployed(
    model: Annotated[str, typer.Argument(help="Model; default: all that were promoted.")] = "",
    store: Store = None,
) -> None:
    """Print the weights in use and their history; exit status 1 when a file is damaged or gone.

    Example: `fg-depth deployed`
    """
    from fg_depth_ros.networks.weights_store import WeightsStore

    place = WeightsStore(store)
    models = [model] if model else place.models()
    problems = []
    for name in models:
        history = place.history(name)
        if history is None:
            say(f"{name}: nothing was promoted, the shipped weights are used")
            continue
        table = Table(title=name, title_justify="left")
        for head in ("", "weights", "since", "replaced", "from", "rolled back"):
            table.add_column(head, overflow="fold")
        for number, entry in enumerate(history.entries):
            before = "" if entry.before is None else history.entries[entry.before].sha256[:_BRIEF]
            rolled_back = "; ".join(f"{each['when']} {each['why']}".strip() for each in entry.left)
            mark = "in use" if number == history.current else ""
            source = str(entry.record.get("source", ""))
            table.add_row(mark, entry.sha256[:_BRIEF], entry.since, before, source, rolled_back)
        show(table)
        _print_current(place, name)
        problems += place.problems(name)
    if not models:
        say(f"{place.folder}: nothing was promoted, the shipped weights are used")
    for problem in problems:
        say(problem, "red")
    raise typer.Exit(1 if problems else 0)


def import_weights(
    file: Annotated[Path, typer.Argument(help="Checkpoint of FlowNetPytorch, flownet2-pytorch or EfficientNet-Lite0.")],
    out: Annotated[Path, typer.Option(callback=file_to_write, help="The .safetensors file to write.")],
    channel_order: Annotated[
        str, typer.Option(help="What the weights expect: rgb or bgr; auto: bgr for flownets_from_caffe.")
    ] = "auto",
) -> None:
    """Turn a published checkpoint into weights for --weights; nothing in it is executed.

    An EfficientNet-Lite0 becomes an encoder to start `depthnet_efficient` from, with --load-partial.

    Example: `fg-depth import FlowNet2_checkpoint.pth.tar --out flownet2.safetensors`
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out} must end in .safetensors")
    from fg_depth_ros.networks import import_checkpoint, save_checkpoint

    network, card = import_checkpoint(file, channel_order)
    card = save_checkpoint(out, network, card)
    count = sum(parameter.numel() for parameter in network.parameters())
    details, scale = "", ""
    if card.options:
        details = f", width {card.options['width']:g}, batch norm {'yes' if card.options['batch_norm'] else 'no'}"
        scale = f"; flow = output * {card.options['flow_scale']:g} px"
    say(
        f"{card.name}, {count:,} parameters{details}\n"
        f"input: {card.description['input']}{scale}\n"
        f"licence: {card.description['licence']}\n"
        f"sha256 {card.sha256[:_BRIEF]}: {out}"
    )


def _refuse(weights: Path) -> NoReturn:
    say(f"refused, {weights} is not used; nothing has changed", "red")
    raise typer.Exit(REFUSED)


def _trained_on(card: ModelCard, bags: list[Path]) -> list[str]:
    """Return the recordings that weights, or those that they began with, were trained on or selected by.

    Known by the SHA-256 of the bags on the card, which holds the cards of those before; a bag that cannot be read is
    none of them.
    """
    from fg_depth_ros.data.bags.folders import bag_sha256, find_bags

    known: set[str] = set()
    description = card.description
    while description:
        for bag in description.get("bags", []):
            parts = bag.get("parts", {})
            if parts.get("training") or parts.get("stopping"):
                known.add(bag["sha256"])
        description = description.get("parent", {})
    found = []
    for path in find_bags(bags) if known else []:
        with suppress(FileError):  # left out of the comparison, too
            if bag_sha256(path) in known:
                found.append(str(path))
    return found


def _current(place: WeightsStore, against: str, model: str) -> ReplayMethod:
    """Return the weights that the candidate is compared with."""
    from fg_depth_ros.evaluation.replay.methods import of_weights, shipped
    from fg_depth_ros.inference.config import CLASSICAL_STEREO
    from fg_depth_ros.networks import MODELS

    if against in MODELS or against in CLASSICAL_STEREO:
        return shipped(against)
    path = against or place.in_use(model)
    if path is None:
        raise ValueError(f"'{model}' has no weights in use and none come with the package: name some with --against")
    return of_weights(path)


def _compare(
    bags: list[Path], candidate: ReplayMethod, current: ReplayMethod, margins: Margins, every: int,
    running: dict[str, Any], json: Path | None,
) -> tuple[Report | None, Decision | None]:  # fmt: skip
    """Evaluate both side by side on the bags; None in all but the first process.

    ``running``: device, engine and precision of both; topics of the bags. ``json``: where the report is written
    if nothing in it decides.
    """
    from fg_depth_ros.cli.replay import print_problems
    from fg_depth_ros.evaluation.replay.config import ReplayConfig
    from fg_depth_ros.evaluation.replay.methods import shipped
    from fg_depth_ros.evaluation.replay.run import replay
    from fg_depth_ros.evaluation.replay.scores import measures_of

    if candidate.kind != current.kind:
        raise ValueError(
            f"{candidate.weights} is a {candidate.kind} network and '{current.label}' a {current.kind} one: compare "
            "weights of one kind (--against)"
        )
    measures = measures_of(candidate.kind) & MEASURES
    if missing := [name for name in margins.metrics if name not in measures]:
        raise ValueError(
            f"--metric {', '.join(missing)}: a {candidate.kind} network has no such figure; choose among "
            f"{', '.join(sorted(measures))}"
        )
    methods = [current._replace(label="in use"), candidate._replace(label="candidate")]
    if candidate.kind == "mono":  # what depth networks are compared with where a bag has no truth
        methods.insert(0, shipped("flownet_stereo"))
    found = replay(ReplayConfig(tuple(map(str, bags)), tuple(methods), every=every, **running, worst=0))
    if not found.leads:
        return None, None
    print_problems(found.report.settings)
    report = found.report
    report.command = "promote"
    try:
        return report, decide(report.rows, "candidate", "in use", margins)
    except ValueError:
        save(report, json)
        raise


def _print_decision(decision: Decision, against: str) -> None:
    table = Table(title=f"candidate against {against}")
    table.add_column("set", overflow="fold")
    table.add_column("pairs", justify="right")
    for head in ("pixels", "measure"):
        table.add_column(head, overflow="fold")
    for head in ("current", "candidate", "worse by"):
        table.add_column(head, justify="right")
    for line in decision.table:
        style = "" if line.accepted else "red"
        figures = (f"{line.current:.4g}", f"{line.candidate:.4g}", f"{100 * line.worse:+.1f} %")
        table.add_row(line.set, str(line.pairs), line.part, line.measure, *figures, style=style)
    show(table)
    for reason in decision.reasons:
        say(reason, "red")


def _history_record(report: Report, decision: Decision) -> dict[str, Any]:
    """Return what the history keeps of a comparison."""
    overall = [line for line in decision.table if line.overall]
    methods = {entry["label"]: entry for entry in report.settings["methods"]}
    return {
        "against": methods["in use"]["sha256"],
        **{key: methods["candidate"][key] for key in ("engine", "precision")},
        "bags": [{key: bag[key] for key in ("name", "sha256", "replayed")} for bag in report.settings["bags"]],
        "metrics": {_name_in_history(line): [line.current, line.candidate] for line in overall},
        "reasons": decision.reasons,
    }


def _name_in_history(line: Comparison) -> str:
    name = f"{line.part}: {line.measure}"
    return name if line.set == ALL_BAGS else f"{line.set}, {name}"


def _put_into_use(
    place: WeightsStore, weights: Path, record: dict[str, Any], node: str, against: str, replaced: ModelCard | None
) -> None:
    """Put the file into use: first in the node, which may refuse, then in the store.

    Where nothing was promoted before, it replaces what it was compared with (``against``). ``replaced``: as of
    ``WeightsStore.promote``.
    """
    from fg_depth_ros.networks import load_model

    model, sha256, path = place.add(weights)
    with _swapped_in_node(node, model, path, sha256):
        first = place.history(model) is None  # the shipped ones, by name, begin every history anyway
        if first and Path(against).is_file() and load_model(against)[1].name == model:
            place.promote(against, {"source": against, "note": "in use before, as --against says"})
        _, history = place.promote(path, record | ({"node": node} if node else {}), replaced)
    before = f", {history.previous.sha256[:_BRIEF]} before" if history.previous is not None else ""
    say(f"{model}: {sha256[:_BRIEF]} is in use{before}")
    _print_current(place, model)


def _node_client(node: str, model: str) -> Any:
    """Return the module that talks to nodes, after the node was found; None where no node was named."""
    if not node:
        return None
    try:
        from fg_depth_ros.apps import node_weights
    except ImportError as error:
        raise ValueError(f"--node {node} needs ROS ({error}): source a ROS installation, or leave it out") from error
    node_weights.node_parameters(node, model)
    return node_weights


@contextmanager
def _swapped_in_node(node: str, model: str, path: Path, sha256: str) -> Iterator[None]:
    """Let the node, where one is named, run these weights; put the earlier ones back when the store fails."""
    from fg_depth_ros.networks.weights_store import StoreError

    nodes = _node_client(node, model)
    if nodes is None:
        yield
        return
    taken = nodes.set_node_weights(node, model, str(path), sha256)
    if taken.confirmed:
        say(f"{node} runs {sha256[:_BRIEF]}")
    else:
        when = "will load it when depth from one image is first needed"
        say(f"{node} has taken {sha256[:_BRIEF]}, and {when}", "yellow")
    try:
        yield
    except StoreError:
        nodes.set_node_parameters(node, taken.parameters)
        raise


def _print_current(place: WeightsStore, model: str) -> None:
    from fg_depth_ros.networks.weights_store import CURRENT

    say(f"for a node's next start: {place.folder / model / CURRENT}")
