"""The page's server: what it answers and what it refuses; the folder; the command's mistakes."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import threading
from pathlib import Path

import pytest

from d2_multitask.cli import view
from d2_multitask.viewer import onnxruntime_web
from d2_multitask.viewer.server import HOST, PAGE, STATIC, Server, build_site, write_site
from runtime_support import write_model

RUNTIME = dict.fromkeys(onnxruntime_web.FILES, b"runtime")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("server") / "tiny.onnx")


@pytest.fixture(scope="module")
def server(model: Path):
    with Server(build_site(model, b'{"a": 1}', RUNTIME), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: Server, path: str, method: str = "GET", host: str | None = "localhost"):
    """Status, headers and body; the path goes out as it is."""
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def test_files_of_the_page(server, model):
    page = (STATIC / "index.html").read_bytes()
    for path in ("/", "/index.html", "/?a=b"):
        status, headers, body = ask(server, path)
        assert (status, body) == (200, page)
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert ask(server, "/model.onnx")[2] == model.read_bytes()
    assert json.loads(ask(server, "/model.json")[2]) == {"a": 1}
    types = {name: ask(server, f"/{name}")[1]["Content-Type"] for name in (*PAGE, *RUNTIME)}
    assert types["app.js"] == types["onnxruntime.js"] == "text/javascript; charset=utf-8"
    assert types["ort-wasm-simd-threaded.wasm"] == "application/wasm"


def test_head_has_no_body(server):
    status, headers, body = ask(server, "/", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == (STATIC / "index.html").stat().st_size


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(server, method):
    status, headers, _ = ask(server, "/", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/../../../../../../etc/passwd",
        "/%2e%2e/server.py",
        "/..%2fserver.py",
        "/..\\server.py",
        "//etc/passwd",
        "/static/index.html",
        "/index.html/",
        "/app.js%00",
        "/etc/passwd",
        "http://example.org/etc/passwd",
        "//[",
    ],
)
def test_no_path_leads_out_of_the_page(server, path):
    assert ask(server, path)[0] == 404


def test_a_link_beside_the_page_is_not_followed(tmp_path):
    (tmp_path / "secret.html").write_text("secret")
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "index.html").write_text("page")
    (folder / "link.html").symlink_to(tmp_path / "secret.html")
    with Server({"index.html": folder / "index.html"}, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert ask(server, "/")[2] == b"page"
        assert ask(server, "/link.html")[0] == 404
        (folder / "index.html").unlink()
        assert ask(server, "/")[0] == 404  # gone while it is served: no traceback
        server.shutdown()


@pytest.mark.parametrize("host", ["localhost", "localhost:1234", "127.0.0.1", "LOCALHOST:8000"])
def test_names_of_this_machine(server, host):
    assert ask(server, "/", host=host)[0] == 200


@pytest.mark.parametrize(
    "host", [None, "", "example.org", "example.org:8000", "localhost.example.org", "0.0.0.0", "["]
)
def test_other_names_are_refused(server, host):
    assert ask(server, "/", host=host)[0] == 403
    assert ask(server, "/model.onnx", host=host)[0] == 403


def test_it_listens_on_loopback_only(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_taken_port_is_one_sentence(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnxruntime_web, "find", lambda folder: RUNTIME)
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        assert view.main(["--model", str(model), "--port", str(port)]) == 2
    message = capsys.readouterr().err
    assert message == (
        f"Error: --port {port}: is taken by another program; --port 0 takes one that is free\n"
    )
    with pytest.raises(SystemExit):
        view.main(["--model", str(model), "--port", "70000"])


def test_folder_for_any_web_server(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnxruntime_web, "find", lambda folder: RUNTIME)
    folder = tmp_path / "new" / "page"
    assert view.main(["--model", str(model), "--static", str(folder)]) == 0
    assert f"Written: {folder}" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {
        *PAGE,
        *RUNTIME,
        "model.onnx",
        "model.json",
    }
    assert (folder / "model.onnx").read_bytes() == model.read_bytes()
    info = json.loads((folder / "model.json").read_text())
    assert info["input"]["min_size"] == 32 and info["objects"]["class_names"] == ["person", "dog"]
    assert view.main(["--model", str(model), "--static", str(folder)]) == 2
    assert "found files there, expected a new folder" in capsys.readouterr().err


def test_a_full_disk_leaves_no_folder(tmp_path, monkeypatch):
    written = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if path.name == "model.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OSError, match="No space left"):
        write_site({"index.html": b"page", "model.json": b"{}"}, tmp_path / "page")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("tiny.onnx", "", "found no metadata 'd2_multitask'"),
        ("tiny.onnx", '{"format_version": 7}', "found format version 7, expected 1"),
        ("tiny.pth", None, "expected an .onnx file"),
        ("missing.onnx", None, "found no such file"),
    ],
)
def test_wrong_networks_are_one_sentence(tmp_path, capsys, name, text, expected):
    path = tmp_path / name
    if name == "tiny.onnx":
        write_model(path, text)
    assert view.main(["--model", str(path)]) == 2
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1


def test_networks_that_the_page_cannot_feed_are_one_sentence(tmp_path, capsys):
    path = write_model(tmp_path / "tiny.onnx", input__resize="centernet_keep")
    assert view.main(["--model", str(path)]) == 2
    message = capsys.readouterr().err
    assert "'centernet_keep'; the page can do shortest_edge and stretch" in message
    assert message.count("\n") == 1


def make_package(folder: Path, version: str) -> Path:
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"version": version}))
    for name in onnxruntime_web.FILES.values():
        (folder / "dist" / name).write_text(name)
    return folder


def test_the_npm_package_by_version(tmp_path, monkeypatch):
    good = make_package(tmp_path / "good", onnxruntime_web.VERSION)
    found = onnxruntime_web.find(good)
    assert found["onnxruntime.js"].read_text() == "ort.wasm.bundle.min.mjs"
    assert set(found) == set(onnxruntime_web.FILES)
    old = make_package(tmp_path / "old" / "node_modules" / "onnxruntime-web", "1.14.0")
    with pytest.raises(ValueError, match=r"found version 1\.14\.0, expected"):
        onnxruntime_web.find(tmp_path / "old")
    with pytest.raises(FileNotFoundError, match="npm install onnxruntime-web@"):
        onnxruntime_web.find(tmp_path)
    # The working folder's package of another version is left alone.
    monkeypatch.chdir(tmp_path / "old")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(onnxruntime_web, "_fill", lambda cache: cache.mkdir(parents=True))
    assert onnxruntime_web.find()["onnxruntime.js"].parent == onnxruntime_web.cache_folder()
    make_package(old.parent / "other", "0").rename(tmp_path / "unused")
    (old / "package.json").write_text(json.dumps({"version": onnxruntime_web.VERSION}))
    assert onnxruntime_web.find()["onnxruntime.js"].resolve().parent == (old / "dist").resolve()


def test_without_npm_or_with_another_archive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="npm is not installed.*--onnxruntime-web FOLDER"):
        onnxruntime_web.find()
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\necho other > onnxruntime-web-{onnxruntime_web.VERSION}.tgz\n")
    npm.chmod(0o755)
    with pytest.raises(ValueError, match="found the SHA-512"):
        onnxruntime_web.find()
    npm.write_text("#!/bin/sh\necho 'npm error network is away' >&2\nexit 1\n")
    with pytest.raises(OSError, match="network is away.*--onnxruntime-web FOLDER"):
        onnxruntime_web.find()
    assert not onnxruntime_web.cache_folder().exists()


def test_a_full_disk_names_the_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device: '.*page'"):
        write_site({"model.json": b"{}"}, tmp_path / "page")
    assert not list(tmp_path.iterdir())
