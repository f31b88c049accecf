"""The page: its parts, what its buttons do, and the HTML that shows files, progress and results."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from overnet.errors import InputError, OverNetError, line_for, printable
from overnet.web.files import TemporaryFiles
from overnet.web.jobs import Jobs, WebJob
from overnet.web.source import Source
from overnet.weights import INT8_MODEL_NAMES, MODEL_NAMES
from overnet.words import counted

# Between two looks at a job.
_LOOK_SECONDS = 0.25
_MODELS = {"realtime": "fastest", "fast": "in between", "best": "sharpest, slowest"}
_SIZES = {"2x": 2.0, "3x": 3.0, "4x": 4.0}
_FACTOR, _HEIGHT = "factor", "height"
_AS_INPUT = "as the input"
_FORMATS = {
    "image": {_AS_INPUT: "", "PNG": ".png", "JPEG": ".jpg", "WebP": ".webp", "TIFF": ".tif"},
    # The default is what every browser plays.
    "video": {"MP4": ".mp4", _AS_INPUT: "", "MKV": ".mkv", "WebM": ".webm"},
}
_EMPTY = "<p class='empty'>The image appears here, before and after.</p>"

Updates = dict[Any, Any]


@dataclass
class _Tab:
    """What one tab of a browser has open.

    Attributes:
        source: what was dropped; None before a file that can be upscaled was.
        before: the address of the image of it that is shown.
        at: the time of that image in a clip, in seconds.
        jobs: those that have not ended.
        reading: the reading of a file or of one image of a clip, which a later one replaces.
    """

    source: Source | None = None
    before: str = ""
    at: float = 0.0
    jobs: list[WebJob] = field(default_factory=list)
    reading: WebJob | None = None


class Page:
    """The page for all tabs.

    Args:
        files: where files are.
        jobs: the queue of what is upscaled.
        readings: the queue of the reading of dropped files, so that nobody waits for a long job to see his own.
        upscaler: options of `Upscaler` for all jobs.
        most_seconds: the longest video that is accepted.
    """

    def __init__(
        self, files: TemporaryFiles, jobs: Jobs, readings: Jobs, upscaler: dict[str, Any], *, most_seconds: float
    ) -> None:
        self._files, self._jobs, self._readings = files, jobs, readings
        self._upscaler, self._most_seconds = upscaler, most_seconds
        self._tabs: dict[str, _Tab] = {}
        with gr.Blocks(title="OverNet", analytics_enabled=False, fill_width=True) as self.blocks:
            gr.HTML(
                "<h1>OverNet</h1><p>Upscales images and clips on this computer.</p>", js_on_load=None, elem_id="top"
            )
            with gr.Row(elem_id="columns"):
                with gr.Column(scale=0, min_width=340, elem_id="choices"):
                    self._add_choices()
                with gr.Column(scale=1, min_width=340, elem_id="results"):
                    self._view = gr.HTML(_EMPTY, js_on_load=None, apply_default_css=False, elem_id="view")
                    self._status = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="status")
            self._connect()

    def _add_choices(self) -> None:
        self._file = gr.File(label="Image or clip", height=150, elem_id="file")
        self._facts = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="facts")
        models = [(f"{name}: {_MODELS[name]}", name) for name in MODEL_NAMES]
        self._model = gr.Radio(models, value="fast", label="Model", elem_id="model")
        self._size = gr.Radio([*_SIZES, _FACTOR, _HEIGHT], value="2x", label="Size of the result", elem_id="size")
        self._factor = gr.Number(1.5, label="Factor, 1 to 64", minimum=1, maximum=64, step=0.1, visible=False)
        self._height = gr.Number(1080, label="Height in pixels", minimum=1, precision=0, visible=False)
        self._format = gr.Dropdown(list(_FORMATS["image"]), value=_AS_INPUT, label="Format", elem_id="format")
        self._at = gr.Slider(0, 1, value=0, step=0.04, label="Frame to preview, seconds", visible=False, elem_id="at")
        with gr.Row(elem_id="buttons"):
            self._preview = gr.Button("Preview frame", visible=False, min_width=100, elem_id="preview")
            self._run = gr.Button("Upscale", variant="primary", interactive=False, min_width=100, elem_id="run")
            self._cancel = gr.Button("Cancel", variant="stop", visible=False, min_width=100, elem_id="cancel")

    def _connect(self) -> None:
        """Connect the parts with what they do."""
        quiet: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress": "hidden",
            "preprocess": False,
            "concurrency_limit": None,
        }
        choices = [self._model, self._size, self._factor, self._height, self._format, self._at]
        shown = [self._file, self._view, self._status, self._preview, self._run, self._cancel]
        self._size.change(
            lambda size: (gr.update(visible=size == _FACTOR), gr.update(visible=size == _HEIGHT)),
            self._size, [self._factor, self._height], **quiet,
        )  # fmt: skip
        opened = [*shown[1:], self._facts, self._format, self._at]
        # What is dropped or removed while a file is read does not wait for that.
        self._file.change(self._open, self._file, opened, trigger_mode="multiple", **quiet)
        self._at.change(self._show_frame, self._at, [self._view, self._status], trigger_mode="always_last", **quiet)
        self._run.click(self._upscale, [gr.State(False), *choices], shown, **quiet)
        self._preview.click(self._upscale, [gr.State(True), *choices], shown, **quiet)
        self._cancel.click(self._cancel_job, None, None, **quiet)
        self.blocks.unload(self._close)

    def _tab(self, request: gr.Request) -> _Tab:
        return self._tabs.setdefault(str(request.session_hash), _Tab())

    async def _open(self, dropped: dict[str, Any] | None, request: gr.Request) -> AsyncIterator[Updates]:
        """Read what was dropped."""
        tab = self._tab(request)
        tab.source = None
        self._end_reading(tab)
        closed = {
            self._view: _EMPTY,
            self._status: "",
            self._facts: "",
            self._at: gr.update(visible=False),
            self._preview: gr.update(visible=False),
            self._run: gr.update(interactive=False),
        }
        if dropped is None:
            yield closed
            return
        try:
            path = self._uploaded(dropped)
            target = self._files.new_folder() / f"{path.stem}_frame.png"
        except (OverNetError, OSError) as error:
            yield closed | {self._status: self._failure(error)}
            return
        # Before the first `yield`, at which another call may run: that one ends this reading.
        job = tab.reading = WebJob(path, target, "open", self._most_seconds)
        yield closed
        async for updates in self._follow(tab, job):
            if job.is_cancelled:
                break  # another file was dropped meanwhile, or this one removed from the page
            yield updates
        if job.is_cancelled:
            yield {self._status: gr.skip()}  # Gradio repeats what comes last
            return
        if job.outcome is None:
            yield {self._status: self._failure(job.error)}
            return
        source = Source.from_json(job.outcome)
        tab.source, tab.before, tab.at = source, self._files.address(source.shown), 0.0
        formats = list(_FORMATS[source.kind])
        is_clip = source.kind == "video"
        step = 1 / (source.frame_rate or 25)
        last = max(step, (source.seconds or step) - step)
        yield {
            self._view: _compare(tab.before, None, source.size),
            self._status: "",
            self._facts: f"<p>{escape(_describe(source))}</p>",
            self._format: gr.update(choices=formats, value=formats[0]),
            self._at: gr.update(visible=is_clip, maximum=round(last, 3), value=0),
            self._preview: gr.update(visible=is_clip),
            self._run: gr.update(interactive=True, value="Upscale clip" if is_clip else "Upscale"),
        }

    def _queue(self, job: WebJob) -> Jobs:
        return self._readings if job.kind in ("open", "show") else self._jobs

    async def _follow(self, tab: _Tab, job: WebJob) -> AsyncIterator[Updates]:
        """Add a job of a tab to its queue, and show its progress until it has ended."""
        queue = self._queue(job)
        tab.jobs.append(job)
        queue.add(job)
        try:
            while not job.ended.is_set():
                yield {self._status: _progress(job, queue.before(job))}
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            queue.cancel(job)  # where the tab was closed meanwhile
            tab.jobs.remove(job)
            if tab.reading is job:
                tab.reading = None

    def _end_reading(self, tab: _Tab) -> None:
        if tab.reading is not None:
            self._readings.cancel(tab.reading)
            tab.reading = None

    def _uploaded(self, dropped: dict[str, Any]) -> Path:
        """Return the path of an upload; one that lies elsewhere was not uploaded."""
        path = Path(os.path.realpath(str(dropped.get("path", "")).replace("\0", "?")))
        if not path.is_relative_to(self._files.uploads):
            raise InputError("that file was not dropped here")
        if not path.is_file():
            raise InputError("the dropped file is gone: drop it again")
        return path

    async def _show_frame(self, at: float, request: gr.Request) -> AsyncIterator[Updates]:
        """Show the frame of the clip at a time."""
        tab = self._tab(request)
        source = tab.source
        if source is None or source.kind != "video" or float(at) == tab.at:
            yield {self._status: gr.skip()}
            return
        try:
            self._uploaded({"path": str(source.path)})
            target = self._files.new_folder() / f"{source.path.stem}_frame.png"
        except (OverNetError, OSError) as error:
            yield {self._status: self._failure(error)}
            return
        self._end_reading(tab)
        job = tab.reading = WebJob(source.path, target, "show", self._most_seconds, start_seconds=float(at))
        async for updates in self._follow(tab, job):
            yield updates
        if job.is_cancelled or source is not tab.source:
            yield {self._status: "" if source is tab.source and tab.reading is None else gr.skip()}
            return
        if job.outcome is None:
            yield {self._status: self._failure(job.error)}
            return
        tab.before, tab.at = self._files.address(target), float(at)
        yield {self._view: _compare(tab.before, None, source.size), self._status: ""}

    async def _upscale(
        self, is_frame: bool, model: str, size: str, factor: Any, height: Any, form: str, at: Any, request: gr.Request
    ) -> AsyncIterator[Updates]:
        """Run a job and show its progress, and in the end its result."""
        tab = self._tab(request)
        source = tab.source
        if source is None:
            yield {self._status: self._failure(InputError("drop an image or a clip first"))}
            return
        idle = {
            self._file: gr.update(interactive=True),
            self._run: gr.update(visible=True),
            self._preview: gr.update(visible=source.kind == "video"),
            self._cancel: gr.update(visible=False),
        }
        hidden = gr.update(visible=False)
        busy = {self._file: gr.update(interactive=False), self._run: hidden, self._preview: hidden}
        busy[self._cancel] = gr.update(visible=True)
        try:
            yield busy
            if is_frame:  # the slider may have been moved right before
                if tab.reading is None and float(at) != tab.at:
                    async for updates in self._show_frame(at, request):
                        yield updates
                while tab.reading is not None:
                    await asyncio.sleep(_LOOK_SECONDS)
                if float(at) != tab.at:  # it cannot be shown, and the reason is
                    yield idle
                    return
            before = tab.before
            job = self._new_job(tab, source, is_frame, model, size, factor, height, form)
            async for updates in self._follow(tab, job):
                yield updates
            if job.outcome is None or job.outcome["output"] is None:
                yield {self._status: self._failure(job.error) if job.error else "<p>Cancelled.</p>", **idle}
                return
            assert job.shown is not None
            shown = self._files.address(job.shown)
            width, height = job.outcome["output_size"]
            if tuple(job.outcome["input_size"]) != source.size:
                width, height = height, width  # it is stored as its source is, and shown turned
            if job.outcome["kind"] == "video":
                view = f'<video controls playsinline preload="metadata" src="{shown}"></video>'
            else:
                view = _compare(before, shown, (width, height))
            result = self._files.address(Path(job.outcome["output"]))
            yield {self._view: view, self._status: _result(job.outcome, (width, height), result), **idle}
        except (OverNetError, OSError) as error:
            yield {self._status: self._failure(error), **idle}

    def _new_job(
        self, tab: _Tab, source: Source, is_frame: bool, model: str, size: str, factor: Any, height: Any, form: str
    ) -> WebJob:
        """Make the job that the choices ask for.

        Raises:
            InputError: a choice is none of those on the page, or the dropped file is gone.
        """
        self._uploaded({"path": str(source.path)})
        if model not in MODEL_NAMES or size not in (*_SIZES, _FACTOR, _HEIGHT) or form not in _FORMATS[source.kind]:
            raise InputError("reload the page: a choice is unknown")
        upscaler = {**self._upscaler, "model": model}
        if upscaler.get("precision") == "int8" and model not in INT8_MODEL_NAMES:
            upscaler["precision"] = None
        try:
            if size == _HEIGHT:
                upscaler["height"] = int(height)
                label = f"h{upscaler['height']}"
            else:
                upscaler["scale"] = _SIZES.get(size) or float(factor)
                label = f"x{upscaler['scale']:g}"
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"the {size} is not a number") from None
        suffix = ".png" if is_frame else _FORMATS[source.kind][form] or source.suffix
        name = f"{source.path.stem}{f'_{tab.at:g}s' if is_frame else ''}_{label}{suffix}"
        kind = "frame" if is_frame else source.kind
        return WebJob(
            source.path,
            self._files.new_folder() / name,
            kind,
            self._most_seconds,
            upscaler,
            tab.at if is_frame else 0.0,
        )

    def _cancel_job(self, request: gr.Request) -> None:
        for job in list(self._tab(request).jobs):
            self._queue(job).cancel(job)

    def _close(self, request: gr.Request) -> None:
        """End the jobs of a tab that was closed."""
        tab = self._tabs.pop(str(request.session_hash), _Tab())
        for job in list(tab.jobs):
            self._queue(job).cancel(job)

    def _failure(self, error: object) -> str:
        """Return an error's line, without the folder that the file lies in here."""
        line = str(error)
        if isinstance(error, OSError):
            line = line_for(error) or line
        folder = re.escape(f"{self._files.folder}{os.sep}")
        line = re.sub(rf"{folder}(uploads/[^/]+/|result-[^/]+/)?", "", line)
        words = [Path(word).name if word.startswith(os.sep) else word for word in line.split(" ")]
        return f'<p class="failure" role="alert">{escape(printable(" ".join(words)))}</p>'


def _compare(before: str, after: str | None, size: tuple[int, int]) -> str:
    """Return the element that compares two images, see ``static/compare.js``."""
    attribute = "" if after is None else f' after="{escape(after)}"'
    return (
        f'<overnet-compare before="{escape(before)}"{attribute} width="{size[0]}" height="{size[1]}"></overnet-compare>'
    )


def _describe(source: Source) -> str:
    facts = [f"{source.size[0]}x{source.size[1]}", _bytes(source.path)]
    if source.seconds is not None:
        facts.insert(1, f"{_time(source.seconds)} at {source.frame_rate:g} frames/s")
    return " · ".join(facts)


def _progress(job: WebJob, before: int) -> str:
    """Return the progress of a job that has not ended."""
    fraction = None
    if before:
        text = f"Waiting for {counted(before, 'other job')}"
    elif job.is_cancelled:
        text = "Cancelling"
    elif job.kind in ("open", "show"):
        text = "Reading"
    elif job.doing:
        text = job.doing.capitalize()
    elif job.kind != "video" or not job.done:
        text = "Upscaling"
    else:
        rate = job.done / max(job.seconds, 1e-9)
        # The file's header may state fewer than there are.
        expected = None if job.expected is None or job.expected < job.done else job.expected
        text = f"{job.done} of {expected or '?'} frames · {rate:.1f} frames/s"
        if expected is not None:
            fraction = job.done / expected
            text += f" · {_time((expected - job.done) / rate)} left"
    value = "" if fraction is None else f' value="{fraction:.3f}"'
    return f'<p class="working">{escape(text)}</p><progress max="1"{value} aria-label="Progress"></progress>'


def _result(outcome: dict[str, Any], size: tuple[int, int], address: str) -> str:
    """Return the facts about a result of a size, its notes, and where it is downloaded."""
    path = Path(outcome["output"])
    seconds = outcome["seconds"]["total"]
    facts = [f"{size[0]}x{size[1]}", f"{seconds:.2f} s", _bytes(path)]
    if outcome["kind"] == "video":
        facts[1] = f"{counted(outcome['frames'], 'frame')} in {_time(seconds)}, {outcome['fps']:.1f} frames/s"
    facts.append(outcome["backend"])
    if outcome["partial"]:
        facts.insert(0, "Cancelled: the frames so far")
    notes = "".join(f"<li>{escape(printable(note))}</li>" for note in outcome["notes"])
    return (
        f'<p class="result">{escape(" · ".join(facts))}</p>'
        f'<a class="download" href="{escape(address)}?download" download="{escape(path.name)}">Download '
        f'{escape(path.name)}</a> <a class="open" href="{escape(address)}" target="_blank">Open</a>'
        + (f"<ul>{notes}</ul>" if notes else "")
    )


def _bytes(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
