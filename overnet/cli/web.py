"""``overnet web``: a page in the browser that upscales what is dropped onto it."""

import webbrowser
from typing import Annotated

from overnet.cli.common import command, print_status
from overnet.cli.options import BackendOption, DeviceOption, PrecisionOption, ThreadsOption, check_range, under

PAGE, LIMITS = under("Page"), under("Limits")


@command
def web_command(
    host: Annotated[
        str, PAGE(metavar="ADDRESS", help="Address to listen on; others than 127.0.0.1 let other computers in.")
    ] = "127.0.0.1",
    port: Annotated[int, PAGE(metavar="N", help="Port to listen on; 0: any that is free.")] = 7860,
    *,
    allow_host: Annotated[
        list[str] | None,
        PAGE(metavar="NAME", help="Another name under which the page is opened, such as a proxy's; may be repeated."),
    ] = None,
    show: Annotated[bool, PAGE("--open", help="Open the page in the browser.")] = False,
    max_size: Annotated[float, LIMITS(metavar="MB", help="Largest file that may be dropped, in megabytes.")] = 2000,
    max_minutes: Annotated[float, LIMITS(metavar="N", help="Longest clip, in minutes.")] = 60,
    keep_minutes: Annotated[float, LIMITS(metavar="N", help="How long files are kept, in minutes.")] = 60,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    device: DeviceOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Serve a page on this computer that upscales the images and clips dropped onto it; Ctrl-C ends it.

    One job runs at a time, and others wait. Nothing is sent to anybody, and the page loads nothing from elsewhere.
    Uploads and results are temporary files, which are removed after an hour and at the end.
    """
    from overnet.runtime.backends.registry import choose_backends
    from overnet.web.server import WebOptions, serve

    check_range("--port", port, 0, 65535)
    check_range("--threads", threads, 1)
    choose_backends(backend, "onnx")
    for option, value in (("--max-size", max_size), ("--max-minutes", max_minutes), ("--keep-minutes", keep_minutes)):
        check_range(option, value, 1e-3)
    upscaler = {"backend": backend, "precision": precision, "device": device, "threads": threads}
    names = tuple(allow_host or ())
    options = WebOptions(host, port, names, round(max_size * 1e6), max_minutes * 60, keep_minutes * 60, upscaler)
    if not options.is_local:
        print_status(
            f"warning: whoever reaches {host} can use this page: it asks for no password, and is not encrypted"
        )

    def announce(address: str) -> None:
        print_status(f"{address} (Ctrl-C ends it)")
        if show:
            webbrowser.open(address)

    serve(options, announce)
