"""The page in headless Chromium: its results are Python's; settings, sources, errors as sentences.

Skipped without Chromium, and where onnxruntime-web was never fetched (`d2mt view` does that once).
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser_support import CHROMIUM, Browser, chromium
from d2_multitask.data.io import read_image
from d2_multitask.runtime import Predictor, Result
from d2_multitask.viewer import onnxruntime_web
from d2_multitask.viewer.server import HOST, Server, Site, build_site, write_site
from export_support import small_config, small_network
from runtime_support import write_model
from support import REPOSITORY

RUNTIME_IS_HERE = onnxruntime_web.cache_folder().is_dir()
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(not RUNTIME_IS_HERE, reason="onnxruntime-web is not in the cache"),
]
PHOTOGRAPHS = sorted((REPOSITORY / "docs/pictures/photographs").glob("*.jpg"))
READY = "!document.getElementById('open').disabled"
ERROR = "document.getElementById('error').textContent"


def site_of(model: Path) -> Site:
    info = json.dumps(asdict(Predictor(model).info)).encode()
    return build_site(model, info, onnxruntime_web.find())


@contextlib.contextmanager
def served(site: Site) -> Iterator[str]:
    with Server(site, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with chromium(tmp_path_factory.mktemp("browser") / "chromium", *camera) as browser:
        browser.look(1280, 860)
        yield browser


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    with served(site_of(model)) as url:
        yield url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Browser]:
    """The page with the tiny network; it is loaded once for all tests that change no setting."""
    if browser.value("location.href") != url:
        browser.open(url)
        browser.wait(READY)
    yield browser
    assert not browser.messages, browser.messages
    assert all(asked.startswith((url, "data:", "blob:")) for asked in browser.requests)


@pytest.fixture
def changed_page(page: Browser) -> Iterator[Browser]:
    """The same, for tests that change settings."""
    yield page
    page.open("about:blank")


def show(page: Browser, path: Path) -> None:
    page.value("document.getElementById('status').textContent = ''")
    page.choose_file("#file", path)
    page.wait(f"document.getElementById('status').textContent.startsWith('{path.name}, ')", 120)


def saved(page: Browser, name: str) -> dict[str, Any]:
    page.value("document.getElementById('save-json').click()")
    return json.loads(page.downloaded(f"{Path(name).stem}_result.json"))


def decoded(runs: dict[str, Any]) -> np.ndarray:
    """COCO's uncompressed run lengths -> (H, W) bool."""
    values = np.arange(len(runs["counts"])) % 2 == 1
    return np.repeat(values, runs["counts"]).reshape(runs["size"][::-1]).T


def no_pixel(result: Result) -> dict[str, Any]:
    """Run lengths of an empty mask, which the page leaves out."""
    return {"size": result.image_size, "counts": [int(np.prod(result.image_size))]}


def assert_equal(found: dict[str, Any], expected: Result) -> None:
    """Objects to 1 px and 1e-3, in practice far closer, and the map but for a few pixels."""
    threshold = expected.info.draw.confidence_threshold
    assert (found["height"], found["width"]) == expected.image_size
    order = np.argsort(-expected.scores, kind="stable")
    order = order[expected.scores[order] >= threshold]
    assert len(found["objects"]) == len(order)
    for one, index in zip(found["objects"], order, strict=True):
        assert one["score"] == pytest.approx(expected.scores[index], abs=1e-3)
        assert one["category"] == expected.info.objects.class_names[expected.classes[index]]
        x, y, width, height = one["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx(expected.boxes[index], abs=1)
        keypoints = np.reshape(one["keypoints"], (-1, 3))
        indices = expected.keypoints[index, :, :2] - 0.5  # as COCO counts
        np.testing.assert_allclose(keypoints[:, :2], indices, atol=0.1)
        np.testing.assert_allclose(keypoints[:, 2], expected.keypoints[index, :, 2], atol=1e-3)
    classes = expected.maps["sem_seg"].argmax(0)
    segments = {one["category"]: one["segmentation"] for one in found["maps"]["sem_seg"]}
    for class_id, name in enumerate(expected.info.maps["sem_seg"].class_names[1:], 1):
        mask = decoded(segments.get(name, no_pixel(expected)))
        assert (mask == (classes == class_id)).mean() > 0.999


def synthetic(path: Path, size: tuple[int, int] = (90, 133), **options: Any) -> Path:
    """An image file of a bright block and noise."""
    pixels = np.random.default_rng(0).integers(0, 120, (*size, 3), np.uint8)
    pixels[size[0] // 4 : size[0] // 2, size[1] // 3 :] += 130
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_results_of_photographs_are_pythons(page, model, photograph):
    show(page, photograph)
    expected = Predictor(model)(read_image(str(photograph)))
    assert_equal(saved(page, photograph.name), expected)


@pytest.mark.parametrize("kind", ["png", "grey", "rotated", "long"])
def test_results_of_other_files_are_pythons(page, model, kind, tmp_path):
    path = tmp_path / f"{kind}.png"
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        path = synthetic(tmp_path / "rotated.jpg", exif=exif, quality=95)
    elif kind == "grey":
        Image.open(synthetic(path)).convert("L").save(path)
    else:
        synthetic(path, (2, 3000) if kind == "long" else (90, 133))
    show(page, path)
    assert_equal(saved(page, path.name), Predictor(model)(read_image(str(path))))


@pytest.mark.slow
def test_results_of_an_exported_network_are_pythons(browser, tmp_path):
    from d2_multitask.export import export_file

    path = tmp_path / "exported.onnx"
    export_file(small_config(), small_network(), path)  # its input is no multiple of the stride
    predictor = Predictor(path)
    with served(site_of(path)) as url:
        browser.open(url)
        browser.wait(READY)
        for image in [*PHOTOGRAPHS, synthetic(tmp_path / "synthetic.png", (240, 320))]:
            show(browser, image)
            assert_equal(saved(browser, image.name), predictor(read_image(str(image))))


@pytest.mark.slow
def test_maps_of_every_task_are_pythons(browser, tmp_path):
    from d2_multitask.export import export_file

    tasks = ["parts", "boundary", "occlusion", "classification", "foreground"]
    path = tmp_path / "exported.onnx"
    export_file(small_config(tasks), small_network(tasks), path)
    image = synthetic(tmp_path / "synthetic.png", (240, 320))
    expected = Predictor(path)(read_image(str(image)))
    with served(site_of(path)) as url:
        browser.open(url)
        browser.wait(READY)
        show(browser, image)
        slide(browser, "mask", threshold := float(np.median(expected.maps["foreground"]).round(2)))
        found = saved(browser, image.name)
    assert not browser.messages and not found["objects"]
    assert found["image_labels"] == pytest.approx(expected.image_labels.tolist(), abs=1e-3)
    assert set(found["maps"]) == {"part_seg", "boundary", "occlusion", "foreground"}
    for name in ("boundary", "foreground"):
        runs = [segment["segmentation"] for segment in found["maps"][name]]
        mask = decoded((runs or [no_pixel(expected)])[0])
        assert (mask == (expected.maps[name] > threshold)).mean() > 0.999, name
    classes = expected.maps["part_seg"].argmax(0)
    for segment in found["maps"]["part_seg"]:
        mask = classes == int(segment["category"].removeprefix("part_seg "))
        assert (decoded(segment["segmentation"]) == mask).mean() > 0.999


def canvas_columns(page: Browser, color: list[int], row: float) -> list[int]:
    """Where one row of the canvas has a colour."""
    pixels = page.value(f"""(() => {{
        const canvas = document.getElementById("canvas");
        return [...canvas.getContext("2d").getImageData(0, {round(row)}, canvas.width, 1).data];
    }})()""")
    distance = np.abs(np.reshape(pixels, (-1, 4))[:, :3] - np.array(color)).max(1)
    return np.flatnonzero(distance < 40).tolist()


def test_boxes_are_drawn_where_python_finds_them(changed_page, model, tmp_path):
    page = changed_page
    path = synthetic(tmp_path / "a.png", (96, 128))
    show(page, path)
    page.value("document.getElementById('show-keypoints').click()")
    page.value("document.getElementById('show-sem_seg').click()")
    box = Predictor(model)(read_image(str(path))).boxes[0]
    zoom = 640 / 128
    columns = canvas_columns(page, [255, 92, 92], (box[1] + box[3]) / 2 * zoom)
    assert columns[0] == pytest.approx(box[0] * zoom, abs=zoom)
    assert columns[-1] == pytest.approx(box[2] * zoom, abs=zoom)
    page.value("document.getElementById('show-boxes').click()")
    assert not canvas_columns(page, [255, 92, 92], (box[1] + box[3]) / 2 * zoom)


def slide(page: Browser, name: str, value: float) -> None:
    page.value(f"""(() => {{
        const slider = document.getElementById("{name}");
        slider.value = {value};
        slider.dispatchEvent(new Event("input"));
    }})()""")


def test_sliders_and_switches(changed_page, tmp_path):
    page = changed_page
    path = synthetic(tmp_path / "a.png")
    show(page, path)
    slide(page, "confidence", 0.7)
    found = saved(page, path.name)
    assert [one["category"] for one in found["objects"]] == ["person"]
    assert found["thresholds"]["confidence"] == 0.7
    slide(page, "confidence", 1)
    status = page.value("document.getElementById('status').textContent")
    assert "no object above the confidence threshold; best score 0.90" in status
    before = page.value("document.getElementById('canvas').toDataURL()")
    slide(page, "opacity", 0.9)
    assert page.value("document.getElementById('canvas').toDataURL()") != before
    shares = []
    for threshold in (0, 0.5, 1):
        slide(page, "mask", threshold)
        (bright,) = saved(page, path.name)["maps"]["sem_seg"]
        shares.append(decoded(bright["segmentation"]).mean())
    assert shares[0] > shares[1] > shares[2] > 0
    page.value("document.getElementById('save-picture').click()")
    assert page.downloaded("a_result.png").startswith(b"\x89PNG")


def test_everything_has_a_name_for_screen_readers(page, tmp_path):
    show(page, synthetic(tmp_path / "a.png"))
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "checkbox", "slider", "image", "status", "group", "complementary", "region"}
    named = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in roles - {"status"}
    ]
    assert [role for role, _ in named].count("slider") == 4
    assert ("slider", "Confidence") in [(role, name[:10]) for role, name in named]
    assert [role for role, _ in named].count("checkbox") == 3
    assert all(name for _, name in named), named


def file_event(page: Browser, kind: str, name: str, content: bytes) -> None:
    member = "dataTransfer" if kind == "drop" else "clipboardData"
    event = "DragEvent" if kind == "drop" else "ClipboardEvent"
    page.value(f"""(() => {{
        const files = new DataTransfer();
        files.items.add(new File([new Uint8Array({list(content)})], "{name}"));
        document.dispatchEvent(new {event}("{kind}", {{ {member}: files }}));
    }})()""")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_images_are_dropped_and_pasted(page, kind, tmp_path):
    file_event(page, kind, "b.png", synthetic(tmp_path / "b.png").read_bytes())
    page.wait("document.getElementById('status').textContent.startsWith('b.png, 133 x 90')")
    assert page.value(ERROR) == ""


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_a_file_that_is_no_image_is_one_sentence(page, content, tmp_path):
    file_event(page, "drop", "notes.txt", content)
    assert page.wait(ERROR) == "notes.txt is not an image that this browser can read"
    show(page, synthetic(tmp_path / "good.png"))  # the sentence goes with the next image
    assert page.value(ERROR) == ""


def test_webcam(page):
    page.value("document.getElementById('webcam').click()")
    page.wait("document.getElementById('status').textContent === 'Webcam'")
    assert page.value("document.getElementById('webcam').textContent") == "Stop webcam"
    page.value("document.getElementById('webcam').click()")
    assert page.value("document.getElementById('webcam').textContent") == "Use webcam"
    time.sleep(0.5)
    assert page.value(ERROR) == ""


def test_no_webcam_is_one_sentence(changed_page):
    page = changed_page
    page.value("""navigator.mediaDevices.getUserMedia = () =>
        Promise.reject(new DOMException("Requested device not found", "NotFoundError"))""")
    page.value("document.getElementById('webcam').click()")
    assert page.wait(ERROR) == "No webcam can be used: Requested device not found"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ort-wasm-simd-threaded.wasm": None}, "must lie beside this page (404 for"),
        ({"onnxruntime.js": None}, "onnxruntime-web could not be loaded"),
        ({"model.onnx": b"no network"}, "ONNX Runtime could not start model.onnx"),
        ({"model.onnx": None}, "model.onnx could not be loaded: 404"),
        ({"model.json": None}, "model.json could not be loaded: 404"),
    ],
)
def test_what_is_missing_is_one_sentence(browser, model, changes, expected):
    site = {**site_of(model), **changes}
    with served({name: content for name, content in site.items() if content is not None}) as url:
        browser.open(url)
        assert expected in browser.wait(ERROR)
        assert not browser.value(READY)


def test_a_static_folder_below_any_path_runs_in_one_thread(browser, model, tmp_path):
    write_site(site_of(model), tmp_path / "a" / "page")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer((HOST, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(f"http://{HOST}:{server.server_port}/a/page/")
        browser.wait(READY)
        assert "1 thread" in browser.value("document.getElementById('network').textContent")
        show(browser, synthetic(tmp_path / "a.png"))
        assert len(saved(browser, "a.png")["objects"]) == 2
        server.shutdown()


@pytest.mark.parametrize(("width", "height"), [(1280, 860), (700, 900), (360, 740)])
def test_nothing_is_wider_than_the_window(page, width, height, tmp_path):
    show(page, PHOTOGRAPHS[0])
    page.look(width, height)
    assert page.value("document.documentElement.scrollWidth") <= width
    page.look(1280, 860)
