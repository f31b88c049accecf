"""The server of the page: which requests it answers, and how it begins and ends."""

import errno
import ipaddress
import json
import mimetypes
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from overnet.errors import InputError, OutputError, printable, require
from overnet.system.ending_signals import noted_signals
from overnet.web.files import TemporaryFiles
from overnet.web.jobs import Jobs

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Between two looks for signals and for the end of the server, and between two removals of old files.
_LOOK_SECONDS, _REMOVAL_SECONDS = 0.1, 30.0
_ENDING_SECONDS = 1.0
# How long the reading of what was dropped may take, or of one image of a clip.
_READING_SECONDS = 120.0

# What the page asks for; Gradio's other addresses serve files, proxies, documentation and editors, and are not reached.
_ANSWERED = re.compile(
    r"/|/theme\.css|/favicon\.ico|/manifest\.json|/compare\.js|/file/[\w-]+/[^/]+|/(?:static|assets)/[\w./-]+"
    r"|/gradio_api/(?:upload|upload_progress|queue/join|queue/data|heartbeat/\w+)"
)
_JOIN = "/gradio_api/queue/join"
_LONGEST_JOIN_BYTES = 1 << 20
_UPLOAD = "/gradio_api/upload"
_ENVELOPE_BYTES = 1 << 16  # of a request besides the file in it
# Gradio makes functions of its own templates in the browser, hence 'unsafe-eval'.
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True)
class WebOptions:
    """Options of the server.

    Attributes:
        host, port: where it listens; port 0 is any free one.
        names: further names under which the page is opened, such as that of a proxy before it.
        most_bytes: the largest file that may be dropped.
        most_seconds: the longest video.
        keep_seconds: how long files are kept.
        upscaler: options of `Upscaler` for all jobs.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    names: tuple[str, ...] = ()
    most_bytes: int = 2_000_000_000
    most_seconds: float = 3600.0
    keep_seconds: float = 3600.0
    upscaler: dict[str, Any] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        """Whether only this computer reaches the server."""
        return self.host in _LOOPBACK

    def is_own(self, name: str) -> bool:
        """Tell whether a name is one of this server's, in lower case as requests state it.

        Another site's owner can let a name of his lead to this computer; his page, open in a browser that reaches this
        server, could then use it. Nobody can do that with an address.
        """
        names = [*_LOOPBACK, *self.names]
        if not self.is_local:
            own = socket.gethostname()
            names += [self.host, own, own.partition(".")[0], f"{own.partition('.')[0]}.local"]
            with suppress(ValueError):
                return bool(ipaddress.ip_address(name))
        return name.rstrip(".") in [each.lower().rstrip(".") for each in names]


def serve(options: WebOptions, on_start: Callable[[str], None]) -> None:
    """Serve the page until a signal ends it, and remove all files.

    Args:
        on_start: called with the page's address once it can be opened.

    Raises:
        MissingDependency: Gradio is not installed.
        OutputError: the port is taken, or the host is none of this computer's.
    """
    # Read when Gradio is imported: it would report its use, and look for a newer version.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_OFFLINE"] = "1"
    with _listening(options.host, options.port) as listener:
        files = TemporaryFiles(options.keep_seconds)
        # Here Gradio puts what is uploaded.
        os.environ["GRADIO_TEMP_DIR"] = str(files.uploads)
        # It takes seconds, in which a signal ends this process at once: nothing is on the disk yet.
        require("gradio", extra="web", purpose="the page in the browser")
        import uvicorn

        with (
            noted_signals() as ended,
            files,
            Jobs("the process that upscales") as jobs,
            Jobs("the process that reads files", limit_seconds=_READING_SECONDS) as readings,
        ):
            application = _application(options, files, jobs, readings)
            server = uvicorn.Server(
                uvicorn.Config(application, log_level="critical", access_log=False, server_header=False)
            )
            thread = threading.Thread(target=server.run, args=([listener],), name="overnet-web", daemon=True)
            thread.start()
            is_announced, removed = False, time.monotonic()
            while thread.is_alive() and not ended():
                thread.join(_LOOK_SECONDS)
                if server.started and not is_announced:
                    is_announced = True
                    host = f"[{options.host}]" if ":" in options.host else options.host
                    on_start(f"http://{host}:{listener.getsockname()[1]}/")
                if time.monotonic() - removed >= _REMOVAL_SECONDS:
                    removed = time.monotonic()
                    files.remove_old([*jobs.used(), *readings.used()])
            # Pages keep connections open, for which it would wait.
            server.should_exit = server.force_exit = True
            thread.join(_ENDING_SECONDS)


def _listening(host: str, port: int) -> socket.socket:
    """Open the socket, before anything else is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"--host is {host!r}: {error.strerror or error}") from error
    try:
        if os.name == "posix":  # elsewhere it would let two programs share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OutputError(f"port {port} of {host} is taken: --port chooses another, 0 any that is free") from error
        raise OutputError(f"cannot listen on port {port} of {host}: {error.strerror}") from error
    return listener


def _application(options: WebOptions, files: TemporaryFiles, jobs: Jobs, readings: Jobs) -> Any:
    """Return the ASGI application."""
    import fastapi
    import gradio as gr
    from fastapi.responses import FileResponse

    from overnet.web.page import Page

    page = Page(files, jobs, readings, options.upscaler, most_seconds=options.most_seconds)
    static = resources("overnet.web") / "static"
    script = (static / "compare.js").read_bytes()
    application = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @application.get("/compare.js")
    def compare() -> fastapi.Response:
        return fastapi.Response(script, media_type="text/javascript")

    @application.get("/file/{token}/{name}")
    def file(token: str, name: str, download: str | None = None) -> fastapi.Response:
        path = files.at(token)
        if path is None:
            return fastapi.Response("It is gone: files are kept for a while only.", 404, media_type="text/plain")
        kind = mimetypes.guess_type(path.name)[0] or ""
        if not kind.startswith(("image/", "video/")) or "svg" in kind:
            kind = "application/octet-stream"
        return FileResponse(
            path,
            media_type=kind,
            filename=path.name,
            content_disposition_type="inline" if download is None else "attachment",
            headers={"cache-control": "no-store"},
        )

    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
    gr.mount_gradio_app(
        application,
        page.blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=options.most_bytes,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=sans, font_mono=mono),
        css=(static / "page.css").read_text(encoding="utf-8"),
        head='<script type="module" src="/compare.js"></script>',
    )
    return _Guard(application, files.uploads, most_bytes=options.most_bytes, is_own=options.is_own)


class _Guard:
    """An ASGI application in front of another: it answers only what the page asks for, and only the page.

    A page of another site must neither send requests here nor reach this server under another name. A request must
    name no files but uploads: Gradio would copy any other that this process can read, and fetch addresses.
    """

    def __init__(self, application: Any, uploads: Path, *, most_bytes: int, is_own: Callable[[str], bool]) -> None:
        self._application, self._uploads = application, uploads
        self._most_bytes, self._is_own = most_bytes + _ENVELOPE_BYTES, is_own
        self._receiving = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", ())}
        if not self._is_own(_host_name(headers.get("host", ""))):
            name = printable(headers.get("host", ""))[:100]
            text = (
                f"This is no name of this server: {name}. Open the page by the computer's address, or start the server "
            )
            await _answer(send, 403, text + "with --allow-host and the name.")
        elif scope["type"] != "http" or not _is_same_site(headers.get("origin"), headers["host"]):
            await _answer(send, 403, "This server is for its own page only.")
        elif not _ANSWERED.fullmatch(scope["path"]) or ".." in scope["path"]:
            await _answer(send, 404, "There is nothing here.")
        elif scope["path"] == _UPLOAD and not 0 <= _number(headers.get("content-length")) <= self._most_bytes:
            # Gradio's limit is that of a file, and a request may hold a thousand.
            await _answer(send, 413, "This is too large.")
        elif scope["path"] == _UPLOAD:
            await self._upload(scope, receive, send)
        elif scope["path"] != _JOIN:
            await self._application(scope, receive, _Sender(scope["path"], send))
        elif (body := await _body(receive)) is None or not self._names_only_uploads(body):
            await _answer(send, 403, "This names a file that was not dropped here.")
        else:
            parts = iter([{"type": "http.request", "body": body}])

            async def receive_again() -> Any:
                return next(parts, None) or await receive()

            await self._application(scope, receive_again, _Sender(scope["path"], send))

    async def _upload(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let a file be received, and remove what is left of one that does not come completely."""
        self._receiving += 1
        try:
            await self._application(scope, receive, _Sender(scope["path"], send))
        finally:
            self._receiving -= 1
            # A file has a folder of its own once it is complete.
            for path in () if self._receiving else [*self._uploads.iterdir()]:
                if path.is_file():
                    path.unlink(missing_ok=True)

    def _names_only_uploads(self, body: bytes) -> bool:
        """Tell whether every "path" in a request's JSON lies in the folder of uploads."""
        paths: list[Any] = []

        def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            paths.extend(value for name, value in pairs if name == "path")
            return dict(pairs)

        try:
            json.loads(body, object_pairs_hook=note)
        except (ValueError, RecursionError):
            return False
        return all(
            isinstance(path, str)
            and "\0" not in path
            and Path(path).is_absolute()
            and Path(os.path.realpath(path)).is_relative_to(self._uploads)
            for path in paths
        )


class _Sender:
    """Sends the answer of an application, with the headers of the page."""

    def __init__(self, path: str, send: Any) -> None:
        self._path, self._send = path, send
        self._body: bytes | None = None  # instead of the application's

    async def __call__(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == 404 and self._path.endswith("/upload_progress"):
                # Gradio's page asks for it even where it has refused a file, and would report an error to the console.
                message, self._body = {**message, "status": 204, "headers": []}, b""
            elif message["status"] == 500 and self._path == _UPLOAD:
                # The page shows the text.
                message = {**message, "status": 507, "headers": [(b"content-type", b"text/plain")]}
                self._body = b"the server cannot keep this file; its disk may be full"
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        elif self._body is not None:
            message = {**message, "body": b"" if message.get("more_body") else self._body}
        await self._send(message)


def _host_name(host: str) -> str:
    """Return the name or address in a request's "host"; empty where there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_same_site(origin: str | None, host: str) -> bool:
    """Tell whether a request comes from no other site's page than that of the host it is sent to."""
    try:
        return origin is None or urlsplit(origin).netloc == host
    except ValueError:
        return False


def _number(text: str | None) -> int:
    """Return the number in a header; -1 where there is none."""
    return int(text) if text is not None and text.isdecimal() and len(text) < 20 else -1


async def _body(receive: Any) -> bytes | None:
    """Receive the body of a request; None where it is too long, or cut off."""
    body = bytearray()
    while len(body) <= _LONGEST_JOIN_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)
    return None


async def _answer(send: Any, status: int, text: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})
