"""``overnet info``: what is installed, which backends work, and the bundled models."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from overnet.cli.common import command
from overnet.cli.options import JsonOption

if TYPE_CHECKING:
    from rich.table import Table


@command
def info_command(as_json: JsonOption = False) -> None:
    """Show versions, which backends work and why others do not, GPUs, and the bundled models."""
    from overnet.runtime.inventory import take_inventory

    inventory = take_inventory()
    if as_json:
        typer.echo(json.dumps(inventory))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    memory = f"{inventory['available_memory_bytes'] / 1e9:.1f} of {inventory['memory_bytes'] / 1e9:.1f} GB free"
    machine = f"Python {inventory['python']}, {inventory['system']}, {inventory['cores']} cores, {memory}"
    console.print(f"[bold]overnet {inventory['overnet']}[/]: {machine}")
    console.print("\n[bold]Backends[/]")
    console.print(_backends(inventory))
    console.print("\n[bold]NVIDIA GPUs[/]")
    console.print(_gpus(inventory["gpus"]))
    folder = Path(inventory["checkpoint_paths"]["best"]).parent
    # A path stays whole, so that it can be copied.
    console.print(f"\n[bold]Bundled models[/] in {escape(str(folder))}", soft_wrap=True)
    console.print(_models(inventory, folder))
    console.print("\n[bold]Libraries[/]")
    libraries = [f"{name} {version}" for name, version in inventory["libraries"].items() if version]
    console.print(", ".join(libraries), markup=False)
    opencv = inventory["opencv"]
    if opencv is None:
        seen = "no OpenCV: install opencv-python, or Jetson's own libopencv-python"
    else:
        seen = f"OpenCV {opencv['version']} with{'' if opencv['gstreamer'] else 'out'} GStreamer"
    console.print(seen)


def _table(*headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        # The last column takes the rest of the line, and wraps.
        table.add_column(heading, no_wrap=heading != headings[-1], overflow="fold")
    return table


def _backends(inventory: dict[str, Any]) -> Table:
    from rich.text import Text

    table = _table("name", "works", "version", "device, or what is missing")
    for backend in inventory["backends"]:
        works = Text("yes", style="green") if backend["works"] else Text("no", style="red")
        version, why = backend["version"] or "-", backend["device"] if backend["works"] else backend["reason"]
        if backend["name"] == "onnxruntime" and inventory["onnxruntime_providers"]:
            why += f"; providers: {', '.join(inventory['onnxruntime_providers'])}"
        table.add_row(Text(backend["name"]), works, Text(version), Text(why))
    return table


def _gpus(gpus: list[dict[str, Any]]) -> Table | str:
    from rich.text import Text

    if not gpus:
        return "none, or no driver"
    table = _table("number", "name", "compute capability", "free memory")
    for number, gpu in enumerate(gpus):
        free = gpu["free_memory_bytes"]
        memory = "unknown" if free is None else f"{free / 1e9:.1f} GB"
        shared = ", shared with the CPU" if gpu["shares_memory"] else ""
        name, capability = gpu["name"] or "unknown device", gpu["compute_capability"] or "-"
        table.add_row(str(number), Text(name), Text(capability), f"{memory}{shared}")
    return table


def _models(inventory: dict[str, Any], folder: Path) -> Table:
    """Return a row for each bundled file: the checkpoint of a model, which holds all its scales, and its ONNX files."""
    table = _table("name", "scale", "type", "file")
    for name, models in groupby(inventory["models"], lambda model: model["model"]):
        table.add_row(name, "all", "weights", str(Path(inventory["checkpoint_paths"][name]).relative_to(folder)))
        for model in models:
            path = Path(model["path"]).relative_to(folder)
            table.add_row("", f"x{model['scale']:g}", model["precision"], str(path))
    return table
