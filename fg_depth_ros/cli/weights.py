"""``fg-depth import``: published weights into files of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fg_depth_ros.cli.app import app, console


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="Checkpoint of FlowNetPytorch or flownet2-pytorch (.pth, .pth.tar).")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    channel_order: Annotated[
        str, typer.Option(help="What the weights expect: rgb or bgr; auto: bgr for flownets_from_caffe.")
    ] = "auto",
) -> None:
    """Turn a published FlowNet checkpoint into weights for --weights; nothing in it is executed."""
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out} must end in .safetensors")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; give the name of the file to write")
    from fg_depth_ros.networks import import_checkpoint, save_checkpoint

    network, card = import_checkpoint(file, channel_order)
    card = save_checkpoint(out, network, card)
    count = sum(parameter.numel() for parameter in network.parameters())
    console.print(
        f"{card.name}, {count:,} parameters, width {card.options['width']:g}, "
        f"batch norm {'yes' if card.options['batch_norm'] else 'no'}\n"
        f"input: {card.description['input']}; flow = answer * {card.options['flow_scale']:g} px\n"
        f"sha256 {card.sha256[:12]}: {out}",
        highlight=False,
        soft_wrap=True,
    )
