"""The plan of a run: which file becomes which, decided and checked before any work is done."""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from overnet.errors import InputError, OutputError, no_such_file, printable
from overnet.files.atomic import exists_already, remove_left_behind
from overnet.imaging.image_io import IMAGE_SUFFIXES, KNOWN_SUFFIXES, is_image_file, still_image_suffix
from overnet.runtime.segments.folder import remove_useless
from overnet.runtime.video.formats import VIDEO_SUFFIXES

# A frame is one image of a video.
Kind = Literal["image", "video", "frame"]

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
    """All jobs of a run.

    Attributes:
        jobs: the files to upscale.
        kept: the targets that exist already and are kept.
        unreadable: the sub-folders that cannot be searched, and why.
        notes: one-line remarks for the user.
    """

    jobs: list[Job]
    kept: list[Path]
    unreadable: list[tuple[Path, InputError]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make_plan(
    inputs: list[Path],
    output: Path,
    *,
    overwrite: bool,
    is_folder: bool = False,
    image_suffix: str | None = None,
) -> Plan:
    """Decide which file becomes which.

    Args:
        inputs: files, or folders that are searched through.
        output: a file, for one input file; or a folder. It is a folder if it is one already, if it has no suffix, or if
            there are several inputs. A folder that is searched is not searched where it is the output: results of an
            earlier run are no inputs.
        is_folder: whether `output` is a folder whatever its name is.
        image_suffix: of the images in a folder, such as ``".png"``; None for that of each input.
        overwrite: whether existing files are replaced. If not, an existing result of a single input is refused; of
            several inputs, those whose results exist are left out, so that an interrupted run can be repeated.

    Raises:
        InputError: an input does not exist, a folder holds nothing to upscale, or two inputs would write the same file.
        OutputError: the output exists, is itself an input, or is of a kind that the inputs cannot become.
    """
    plan = Plan([], [])
    several = len(inputs) > 1 or any(path.is_dir() for path in inputs)
    as_folder = several or is_folder or output.is_dir() or not output.suffix
    names_file = not is_folder and output.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
    if several and not output.is_dir() and (output.exists() or names_file):
        raise OutputError(
            f"{printable(output)}: several inputs need a folder as output, and this is a file"
            + ("" if output.exists() else f"'s name ({printable(output)}{os.sep} names a folder)")
        )
    sources = _sources(inputs, output, plan)
    taken = dict[str, Path]()  # realpath, and not `resolve`, which fails on a loop of links before Python 3.13
    names = {relative for _, relative in sources}
    for source, relative in sources:
        kind, suffix = kind_and_suffix(source)
        if kind == "image" and image_suffix is not None:
            suffix = image_suffix
        renamed = relative.with_suffix(suffix)
        if renamed != relative and renamed in names:  # a.jfif beside a.jpg
            renamed = relative.with_name(relative.name + suffix)
        target = output / renamed if as_folder else output
        if kind == "video" and target.suffix.lower() in IMAGE_SUFFIXES:
            kind = "frame"
        writable = VIDEO_SUFFIXES if kind == "video" else IMAGE_SUFFIXES
        if target.suffix.lower() not in writable:
            what = "is an image" if kind == "image" else "is not an image"
            raise OutputError(f"{target}: {source.name} {what}; write it as {', '.join(sorted(writable))}")
        resolved = os.path.realpath(target)
        if resolved in taken:
            raise InputError(f"{taken[resolved]} and {source} would both be written to {target}")
        taken[resolved] = source
        if overwrite or not target.exists():
            plan.jobs.append(Job(source, target, kind))
        else:
            plan.kept.append(target)
            # Of a run that was killed, where there is nothing left to do.
            remove_left_behind(target.absolute().parent)
            if kind == "video":
                remove_useless(target)
    inputs_taken = [source for source, _ in sources if os.path.realpath(source) in taken]
    if inputs_taken:
        raise OutputError(f"{printable(inputs_taken[0])} is itself an input: choose another output")
    if plan.kept and not several:
        raise exists_already(plan.kept[0])
    return plan


def _sources(inputs: list[Path], output: Path, plan: Plan) -> list[tuple[Path, Path]]:
    """Return each file, with its path relative to the folder searched; for a file given itself, its name.

    Sub-folders that cannot be searched are added to the plan.
    """
    sources: list[tuple[Path, Path]] = []
    for path in inputs:
        if path.is_dir():
            found = _search(path, output, plan)
            if not found and not plan.unreadable:
                raise InputError(f"{printable(path)}: a folder without images or videos")
            sources.extend((file, file.relative_to(path)) for file in found)
        elif path.exists():
            sources.append((path, Path(path.name)))
        else:
            raise no_such_file(path)
    if not sources:
        raise plan.unreadable[0][1]
    return sources


def _search(folder: Path, output: Path, plan: Plan) -> list[Path]:
    """Return the images and videos in a folder and its sub-folders, without those in the output."""
    found: list[Path] = []

    def note_unreadable(error: OSError) -> None:
        locked = Path(error.filename)
        reason = InputError(f"{printable(locked)}: the folder cannot be read: {error.strerror}")
        if locked == folder:
            raise reason from error
        plan.unreadable.append((locked, reason))

    results = os.path.realpath(output)
    for parent, folders, names in os.walk(folder, onerror=note_unreadable):
        if not os.access(parent, os.X_OK):  # names can be read, files cannot
            note_unreadable(PermissionError(errno.EACCES, os.strerror(errno.EACCES), parent))
            continue
        for each in [Path(parent, name) for name in folders]:
            if os.path.realpath(each) == results:
                folders.remove(each.name)
                plan.notes.append(f"{printable(each)} is the output, and is not searched for inputs")
        files = (Path(parent, name) for name in names if not name.startswith("."))
        found.extend(
            file
            for file in files
            if is_image_file(file) or (file.suffix.lower() in _READABLE_VIDEO_SUFFIXES and file.is_file())
        )
    return sorted(found)


def kind_and_suffix(source: Path) -> tuple[Kind, str]:
    """Return the kind of a file, by its content where it is a still image, and the suffix of its result in a folder."""
    try:
        suffix = still_image_suffix(source)
    except OSError:  # reading it will name the reason
        suffix = None
    if suffix:
        return "image", suffix
    own = source.suffix.lower()
    if own in KNOWN_SUFFIXES and suffix is None:  # empty or damaged: reading it will say so
        return "image", source.suffix if own in IMAGE_SUFFIXES else ".png"
    return "video", source.suffix if own in VIDEO_SUFFIXES else _FALLBACK_SUFFIX
