"""The plan of a run: which file becomes which, decided and checked before any work is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from overnet.errors import InputError, OutputError
from overnet.files.atomic import exists_already
from overnet.imaging.image_io import IMAGE_SUFFIXES, still_image_suffix
from overnet.runtime.video.formats import VIDEO_SUFFIXES

Kind = Literal["image", "video"]

# Only images by content, and files with these suffixes, are taken from folders, so that a text file beside them is not
# an error. A file that is named itself is tried whatever its suffix is.
_READABLE_VIDEO_SUFFIXES = VIDEO_SUFFIXES | frozenset(
    {".3gp", ".flv", ".gif", ".m2ts", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".wmv", ".y4m"}
)
# Holds nearly any codec, subtitles and attachments: for videos whose own container cannot be written.
_FALLBACK_SUFFIX = ".mkv"


@dataclass(frozen=True)
class Job:
    """One file to upscale and where the result goes."""

    source: Path
    target: Path
    kind: Kind


@dataclass(frozen=True)
class Plan:
    """All jobs of a run, and the targets that exist already and are kept."""

    jobs: list[Job]
    kept: list[Path]


def make_plan(inputs: list[Path], output: Path, *, overwrite: bool) -> Plan:
    """Decide which file becomes which.

    Args:
        inputs: files, or folders that are searched through.
        output: a file, for one input file; or a folder. It is a folder if it is one already, if it ends in a slash, if
            it has no suffix, or if there are several inputs.
        overwrite: whether existing files are replaced. If not, an existing result of a single input is refused; of
            several inputs, those whose results exist are left out, so that an interrupted run can be repeated.

    Raises:
        InputError: an input does not exist, a folder holds nothing to upscale, or two inputs would write the same file.
        OutputError: the output exists, is itself an input, or is of a kind that the input cannot become.
    """
    sources = _sources(inputs)
    several = len(inputs) > 1 or any(path.is_dir() for path in inputs)
    as_folder = several or output.is_dir() or str(output).endswith(os.sep) or not output.suffix
    if several and output.exists() and not output.is_dir():
        raise OutputError(f"{output}: several inputs need a folder as output, and this is a file")
    jobs, taken = [], dict[Path, Path]()
    names = {relative for _, relative in sources}
    for source, relative in sources:
        kind, suffix = _kind_and_suffix(source)
        target = output
        if as_folder:
            renamed = relative.with_suffix(suffix)
            if renamed != relative and renamed in names:  # a.jfif beside a.jpg
                renamed = relative.with_name(relative.name + suffix)
            target = output / renamed
        writable = IMAGE_SUFFIXES if kind == "image" else VIDEO_SUFFIXES
        if target.suffix.lower() not in writable:
            what = "is an image" if kind == "image" else "is not an image"
            raise OutputError(f"{target}: {source.name} {what}; write it as {', '.join(sorted(writable))}")
        resolved = target.resolve()
        if resolved in taken:
            raise InputError(f"{taken[resolved]} and {source} would both be written to {target}")
        taken[resolved] = source
        jobs.append(Job(source, target, kind))
    inputs_resolved = {source.resolve() for source, _ in sources}
    for job in jobs:
        if job.target.resolve() in inputs_resolved:
            raise OutputError(f"{job.target} is itself an input: choose another output")
    kept = [job.target for job in jobs if job.target.exists() and not overwrite]
    if kept and not several:
        raise exists_already(kept[0])
    return Plan([job for job in jobs if job.target not in kept], kept)


def _sources(inputs: list[Path]) -> list[tuple[Path, Path]]:
    """Return each file, with its path relative to the folder searched; for a file given itself, its name."""
    sources: list[tuple[Path, Path]] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(
                file
                for file in path.rglob("*")
                if not file.name.startswith(".") and file.is_file() and _is_taken_from_folders(file)
            )
            if not found:
                raise InputError(f"{path}: a folder without images or videos")
            sources.extend((file, file.relative_to(path)) for file in found)
        elif path.exists():
            sources.append((path, Path(path.name)))
        else:
            raise InputError(f"{path}: no such file")
    return sources


def _is_taken_from_folders(file: Path) -> bool:
    if file.suffix.lower() in IMAGE_SUFFIXES | _READABLE_VIDEO_SUFFIXES:
        return True
    try:
        return still_image_suffix(file) is not None
    except OSError:
        return False


def _kind_and_suffix(source: Path) -> tuple[Kind, str]:
    """Return the kind of a file, by its content where it is a still image, and the suffix of its result in a folder."""
    try:
        suffix = still_image_suffix(source)
    except OSError:  # reading it will name the reason
        suffix = None
    if suffix:
        return "image", suffix
    own = source.suffix.lower()
    if own in IMAGE_SUFFIXES and suffix is None:
        return "image", source.suffix
    return "video", source.suffix if own in VIDEO_SUFFIXES else _FALLBACK_SUFFIX
