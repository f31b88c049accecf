"""The server of `overnet web`: what it answers, what it refuses, and how it begins and ends."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import cv2
import psutil
import pytest

from overnet.cli import main
from overnet.files import atomic
from overnet.web.files import TemporaryFiles
from overnet.web.server import WebOptions
from tests.conftest import ROOT
from tests.support.web_server import web_server

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with web_server(tmp_path_factory.mktemp("web"), "--max-size", "1") as running:
        yield running


def ask(server, path, method="GET", body=None, **headers):
    """The status and the text of an answer."""
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=20)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    connection.close()
    return answer.status, text


def upload(server, name, content):
    """Upload a file as the page does; the path on the server."""
    body = (
        f'--limit\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n--limit--\r\n"
    )
    return ask(server, "/gradio_api/upload", "POST", body, Content_Type="multipart/form-data; boundary=limit")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=overnet/errors.py",
        "/gradio_api/proxy=https://example.org/",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/call/_open",
        "/gradio_api/run/_open",
        "/gradio_api/vibe-code",
        "/gradio_api/component_server",
        "/gradio_api/deep_link",
        "/gradio_api/mcp/",
        "/gradio_api/runs",
        "/config",
        "/docs",
        "/monitoring",
        "/login",
        "/file/unknown/passwd",
        "/file/../../etc/passwd",
        "/file/%2e%2e/%2e%2e%2fetc%2fpasswd",
        "/static/../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/__init__.py",
        "/assets/..%2f..%2f..%2froutes.py",
    ],
)
def test_nothing_but_the_page_is_answered(server, path):
    status, text = ask(server, path)
    assert status == 404, text
    assert "root:" not in text and "import" not in text


def test_an_upload_is_not_served_under_its_path(server):
    status, text = upload(server, "photo.png", (ROOT / "samples/harbour.png").read_bytes())
    (path,) = json.loads(text)
    assert status == 200 and path.startswith(str(server.temporary))
    assert ask(server, f"/gradio_api/file={path}")[0] == 404


def test_an_upload_above_the_limit_is_refused_by_the_server_too(server):
    assert upload(server, "large.png", bytes(1_030_000))[0] == 413


def wait_for_uploads(server, *, are_there):
    """Wait until there are files that Gradio makes while it receives, and leaves where that fails; or none."""
    (uploads,) = server.temporary.glob(".ov-*/uploads")
    end = time.monotonic() + 10
    while any(path.is_file() for path in uploads.iterdir()) != are_there:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are set on Linux only")
def test_an_upload_that_the_disk_does_not_hold_is_one_line_and_leaves_nothing(server):
    """A limit on the size of files stands for a full disk."""
    process = psutil.Process(server.process.pid)
    limits = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        answer = upload(server, "zeros", bytes(500_000))
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, limits)
    assert answer == (507, "the server cannot keep this file; its disk may be full")
    wait_for_uploads(server, are_there=False)
    assert upload(server, "zeros", bytes(500_000))[0] == 200


def test_an_upload_that_is_cut_off_leaves_nothing(server):
    with socket.create_connection((urlsplit(server.address).hostname, urlsplit(server.address).port)) as connection:
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900000\r\n"
            b"Content-Type: multipart/form-data; boundary=limit\r\n\r\n"
            b'--limit\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(300_000)
        )
        wait_for_uploads(server, are_there=True)
    wait_for_uploads(server, are_there=False)


def test_a_request_with_many_files_is_refused_above_the_limit_of_one(server):
    content = b"".join(
        f'--limit\r\nContent-Disposition: form-data; name="files"; filename="{number}"\r\n\r\n'.encode()
        + bytes(600_000)
        + b"\r\n"
        for number in range(2)
    )
    form = {"Content_Type": "multipart/form-data; boundary=limit"}
    assert ask(server, "/gradio_api/upload", "POST", content + b"--limit--\r\n", **form)[0] == 413
    # Without a stated length.
    assert ask(server, "/gradio_api/upload", "POST", iter([b"--limit--\r\n"]), **form)[0] == 413


def join(server, *data, inputs=1):
    """Do what the first part of the page with this number of inputs does; one input is the dropped file."""
    page = ask(server, "/")[1]
    config = json.loads(page.partition("window.gradio_config = ")[2].partition(";</script>")[0])
    fits = [each["id"] for each in config["dependencies"] if len(each["inputs"]) == inputs and len(each["outputs"]) > 2]
    request = {"data": data, "fn_index": fits[0], "session_hash": "test"}
    return ask(server, "/gradio_api/queue/join", "POST", json.dumps(request), Content_Type="application/json")


@pytest.mark.parametrize("path", ["/etc/passwd", "https://example.org/photo.png", "photo.png", "", "/\0", 1, None])
def test_a_request_that_names_a_file_that_was_not_uploaded_is_refused(server, path):
    """Gradio copies what the server can read into the folder of uploads, and fetches addresses."""
    assert join(server, {"path": path, "meta": {"_type": "gradio.FileData"}})[0] == 403
    assert join(server, [{"deep": {"path": path, "url": None, "meta": {"_type": "gradio.FileData"}}}])[0] == 403
    left = [each.name for each in server.temporary.rglob("*") if each.is_file()]
    assert "passwd" not in left and left.count("photo.png") <= 1


@pytest.mark.slow
def test_a_way_out_of_the_folder_of_uploads_is_refused_and_an_upload_is_not(server):
    (path,) = json.loads(upload(server, "photo.png", (ROOT / "samples/harbour.png").read_bytes())[1])
    meta = {"_type": "gradio.FileData"}
    assert join(server, {"path": f"{path}/../../../lock", "meta": meta})[0] == 403
    assert join(server, {"path": path, "meta": meta})[0] == 200
    messages = ask(server, "/gradio_api/queue/data?session_hash=test")[1]
    assert "240x160" in messages


def test_a_request_that_is_too_long_is_refused(server):
    assert ask(server, "/gradio_api/queue/join", "POST", b" " * 1_100_000)[0] == 403


def test_pages_of_other_sites_are_refused(server):
    host = urlsplit(server.address).netloc
    assert ask(server, "/", Origin="http://evil.example")[0] == 403
    assert ask(server, "/", Origin="null")[0] == 403
    assert ask(server, "/", Host="evil.example")[0] == 403  # whose name leads to this computer
    assert ask(server, "/", Host="[")[0] == 403
    assert ask(server, "/", Origin="http://[")[0] == 403
    assert ask(server, "/", Origin=f"http://{host}")[0] == 200
    assert ask(server, "/", Host=f"localhost:{host.rpartition(':')[2]}")[0] == 200


@pytest.mark.parametrize(
    ("host", "own", "other"),
    [
        ("127.0.0.1", ["127.0.0.1", "localhost", "::1", "proxy.example"], ["192.0.2.1", "desk", "evil.example", ""]),
        (
            "0.0.0.0",
            ["127.0.0.1", "192.0.2.1", "2001:db8::1", "localhost", "desk", "desk.local", "desk.lan", "desk.lan.",
             "proxy.example"],
            ["evil.example", "desk.evil.example", "example", "192.0.2.1.evil.example", "local", "lan", ""],
        ),
        ("gpu.example", ["gpu.example", "192.0.2.1"], ["example", "evil.example"]),
    ],
)  # fmt: skip
def test_names_under_which_the_server_answers(host, own, other, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Desk.lan")
    options = WebOptions(host, names=("Proxy.example",))
    assert [name for name in own if not options.is_own(name)] == []
    assert [name for name in other if options.is_own(name)] == []


@pytest.mark.slow
def test_a_server_for_a_network_answers_under_its_own_names_only(tmp_path):
    """Another site's name may lead to it, from a browser in the same network."""
    with web_server(tmp_path, "--host", "0.0.0.0", "--allow-host", "proxy.example") as server:
        port = urlsplit(server.address).port
        for host in ("127.0.0.1", "[::1]", "proxy.example", socket.gethostname()):
            assert ask(server, "/", Host=f"{host}:{port}", Origin=f"http://{host}:{port}")[0] == 200
        status, text = ask(server, "/", Host=f"evil.example:{port}", Origin=f"http://evil.example:{port}")
        assert status == 403
        assert text == (
            f"This is no name of this server: evil.example:{port}. Open the page by the computer's address, or start "
            "the server with --allow-host and the name."
        )
        assert ask(server, "/", Host=f"192.0.2.1:{port}", Origin="http://evil.example")[0] == 403


def test_the_answers_forbid_other_hosts(server):
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert answer.headers["x-content-type-options"] == "nosniff"
    connection.close()


def test_a_port_that_is_taken_is_one_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["web", "--port", str(port)]) == 1
    assert capsys.readouterr().err == (
        f"overnet: port {port} of 127.0.0.1 is taken: --port chooses another, 0 any that is free\n"
    )


def test_a_wrong_host_is_one_line_after_the_warning(capsys):
    assert main(["web", "--host", "192.0.2.1", "--port", "0"]) == 1
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: whoever reaches 192.0.2.1 can use this page")
    assert error.startswith("overnet: cannot listen on port 0 of 192.0.2.1: ")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--threads=0", "--threads is 0; it must be at least 1"),
        ("--backend=cuda", "there is no backend 'cuda'; choose from auto"),
    ],
)
def test_options_with_which_no_job_could_run_are_refused_at_the_start(option, message, capsys):
    assert main(["web", option, "--host", "192.0.2.1"]) in (1, 2)
    assert message in capsys.readouterr().err


@pytest.mark.timing
def test_ctrl_c_ends_it_within_two_seconds_while_it_loads(tmp_path):
    (tmp_path / "gradio.py").write_text("print('loading', flush=True)\nimport time\ntime.sleep(30)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "overnet", "web", "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout.readline() == "loading\n"
        began = time.monotonic()
        server.send_signal(signal.SIGINT)
        assert server.communicate() == ("", "overnet: interrupted\n")
    assert time.monotonic() - began < 2 and not list(tmp_path.glob(".ov*"))


@pytest.mark.slow
@pytest.mark.timing
def test_ctrl_c_ends_it_within_two_seconds_and_nothing_is_left(tmp_path):
    large = cv2.resize(cv2.imread(str(ROOT / "samples/harbour.png")), (1200, 800))
    with web_server(tmp_path) as server:
        (path,) = json.loads(upload(server, "photo.png", cv2.imencode(".png", large)[1].tobytes())[1])
        join(server, {"path": path, "meta": {"_type": "gradio.FileData"}})
        assert "1200x800" in ask(server, "/gradio_api/queue/data?session_hash=test")[1]
        join(server, None, "best", "4x", 1.5, 1080, "as the input", 0, inputs=7)
        # A page that stays open.
        connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=20)
        connection.request("GET", "/gradio_api/queue/data?session_hash=test")
        answer = connection.getresponse()
        while "Upscaling" not in (line := answer.readline().decode()):
            assert line, "it has ended"
        joined = time.monotonic()
        while not (children := psutil.Process(server.process.pid).children(recursive=True)):
            assert time.monotonic() - joined < 20
            time.sleep(0.05)
        began = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - began < 2
        connection.close()
    assert list(server.temporary.iterdir()) == []
    assert [child for child in children if child.is_running()] == []
    assert server.printed.count("\n") == 1


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with TemporaryFiles(keep_seconds=3600) as made:
        yield made


def test_files_are_removed_after_their_time_unless_a_job_uses_them(files):
    folders = [files.new_folder() for _ in range(3)]
    paths = [folder / "result.png" for folder in folders]
    addresses = []
    for path in paths:
        path.write_bytes(b"1")
        addresses.append(files.address(path).split("/")[2])
    an_hour_ago = time.time() - 3601
    (upload := files.uploads / "lock").write_bytes(b"1")
    for path in (*paths[:2], *folders[:2], upload):
        os.utime(path, (an_hour_ago, an_hour_ago))
    files.remove_old([folders[1]])
    assert [path.exists() for path in paths] == [False, True, True]
    assert [files.at(token) is not None for token in addresses] == [False, True, True]
    assert files.uploads.is_dir() and not folders[0].exists() and not upload.exists()


def test_the_folder_is_kept_from_cleaners_and_made_anew_for_this_user_alone(files):
    an_hour_ago = time.time() - 3601
    for path in (files.file, files.uploads, files.folder):
        os.utime(path, (an_hour_ago, an_hour_ago))
    files.remove_old([])
    assert all(path.stat().st_mtime > an_hour_ago + 3000 for path in (files.file, files.uploads, files.folder))
    shutil.rmtree(files.folder)
    files.remove_old([])
    assert files.uploads.is_dir() and files.folder.stat().st_mode & 0o777 == 0o700


def test_the_folder_of_a_killed_server_is_removed_and_no_other(files, tmp_path):
    left = tmp_path / ".ov-0123456789abcdef"
    left.mkdir()
    (left / "result.mp4").write_bytes(b"1")
    (tmp_path / ".overnet-0123456789abcdef.folder").touch()
    atomic._calls_to_skip.clear()  # as in another process
    with TemporaryFiles(keep_seconds=1) as other:
        assert not left.exists()
        assert files.folder.exists()
    assert not other.folder.exists()
