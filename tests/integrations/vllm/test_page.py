"""The page of `mi-kernels serve --ui`: who gets it, what it may load, and, in a browser, what it does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mi_kernels import Recipe
from mi_kernels.errors import ArgumentError
from mi_kernels.integrations.vllm.efforts import Efforts
from mi_kernels.integrations.vllm.report_sweep import read_stages

from ...support.effort_server import Weights, application

POINTS = [{"lam": i / 4, "mean": 0.3 + i / 10, "think": i / 4, "tokens": 100.0 * i} for i in range(5)]
SWEEP = {"title": "Chains", "points": POINTS}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def efforts() -> Efforts:
    return Efforts(("instruct+thinking",), {"low": Recipe(0.2), "high": Recipe(0.9)}, Recipe(0.5))


def model(lam: float | None, kind: str, value: float) -> dict[str, Any]:
    figures = {name: {"value": value, "low": 0.0, "high": 1.0} for name in ("mean", "think", "tokens")}
    return {"name": "x", "kind": kind, "lam": lam, **figures}


def report(folder: Path, *models: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    content = {"families": [{"benchmarks": {"chains": {"title": "Chains", "models": list(models)}}}], "notes": []}
    (folder / "report.json").write_text(json.dumps(content))


def test_the_sweep_of_a_report(tmp_path: Path) -> None:
    models = [model(1.0, "thinking", 3), model(0.5, "interpolation", 2), model(0.0, "instruct", 1)]
    report(tmp_path / "runs/report", *models, model(None, "merge", 9), model(0.5, "ablation", 9))
    expected = [
        {
            "title": "Chains",
            "points": [{"lam": lam, "mean": v, "think": v, "tokens": v} for lam, v in ((0.0, 1), (0.5, 2), (1.0, 3))],
        }
    ]
    assert read_stages(str(tmp_path / "runs/report")) == expected
    assert read_stages(str(tmp_path / "runs")) == expected


def test_reports_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"has no report\.json"):
        read_stages(str(tmp_path))
    report(tmp_path / "one", model(0.5, "interpolation", 2))
    with pytest.raises(ArgumentError, match="has no sweep"):
        read_stages(str(tmp_path / "one"))
    for content in ("{", "{}", '{"families": [3]}'):
        (tmp_path / "one/report.json").write_text(content)
        with pytest.raises(ArgumentError, match="cannot be read"):
            read_stages(str(tmp_path / "one"))


def client(key: str | None = None, host: str = "127.0.0.1", base: str = "http://127.0.0.1:8000") -> Any:
    app = application(Weights(), efforts(), [SWEEP], key)
    from fastapi.testclient import TestClient

    return TestClient(app, client=(host, 1), base_url=base)


def test_the_page_and_what_it_may_load() -> None:
    page = client().get("/ui")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in page.text.replace("http-equiv", ""), "the page names no other place"
    assert " on" not in page.text.replace(" one", "").replace(" only", ""), (
        "no handlers in the page: the policy forbids"
    )
    for name in ("app.js", "style.css"):
        assert client().get(f"/ui/{name}").status_code == 200
    assert client().get("/ui/stages.json").json() == [SWEEP]
    assert client().get("/ui/../endpoint.py").status_code == 404


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("10.0.0.7", "http://127.0.0.1:8000"),
        ("127.0.0.1", "http://evil.example:8000"),
        ("127.0.0.1", "http://10.0.0.1"),
    ],
)
def test_strangers_get_no_page_without_a_key(host: str, base: str) -> None:
    for path in ("/ui/", "/ui/app.js", "/ui/stages.json"):
        assert client(None, host, base).get(path).status_code == 403
        assert client("K", host, base).get(path).status_code == 200  # its requests need the key


def test_a_server_without_the_page() -> None:
    app = application(Weights(), efforts())
    from fastapi.testclient import TestClient

    assert TestClient(app, client=("127.0.0.1", 1)).get("/ui/").status_code == 404


@contextmanager
def serving(engine: Weights, key: str | None = None, chosen: Efforts | None = None) -> Iterator[str]:
    uvicorn = pytest.importorskip("uvicorn")
    app = application(engine, chosen or efforts(), [SWEEP], key)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/ui/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def page() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright and chromium")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        made = browser.new_page(viewport={"width": 900, "height": 900})
        made.set_default_timeout(20_000)
        trouble: list[str] = []
        made.on("pageerror", lambda error: trouble.append(str(error)))
        made.on("console", lambda said: trouble.append(said.text) if "Content Security Policy" in said.text else None)
        yield made
        browser.close()
        assert not trouble


def shot(page: Any, name: str) -> None:
    """Keeps a picture where MI_KERNELS_PICTURES says, to look at."""
    if folder := os.environ.get("MI_KERNELS_PICTURES"):
        page.screenshot(path=os.path.join(folder, f"{name}.png"), full_page=True)


def until(page: Any, true: Callable[[], bool]) -> None:
    """Waits; the page's policy forbids Playwright's own way, which evaluates text."""
    for _ in range(400):
        if true():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come true in 20 s")


def send(page: Any, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    page.wait_for_selector("#send:not([disabled])")


def test_the_slider_decides_which_merge_answers(page: Any) -> None:
    engine = Weights()
    with serving(engine) as url:
        page.goto(url)
        page.wait_for_selector("#efforts button")
        assert page.input_value("#lam") == "0.5"
        send(page, "first")
        assert page.locator(".assistant .answer").last.inner_text() == "So, the answer is 0.5 <img src=x>"
        page.focus("#lam")
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        send(page, "second")
        last = page.locator(".assistant").last
        assert last.locator(".cost").inner_text().startswith("lam 0.7: 6 tokens")
        assert last.locator(".answer").inner_text() == "is 0.7 <img src=x>"
        assert last.locator("summary").inner_text() == "Thinking, 3 tokens"
        assert not last.locator(".thinking .text").is_visible()
        last.locator("summary").click()
        assert last.locator(".thinking .text").inner_text() == "Let me think <b>data: {"
        page.click("text=low")
        send(page, "third")
        assert page.locator(".cost").last.inner_text().startswith("lam 0.2 (low): ")
        shot(page, "chat-light")
    assert [turn["content"] for turn in engine.bodies[-1]["messages"]] == [
        *("first", "So, the answer is 0.5 <img src=x>", "second", "is 0.7 <img src=x>", "third")
    ]
    assert page.locator("#turns img, #turns b").count() == 0, "what a model writes is never HTML"


def test_masks_and_a_refusal_with_its_remedy(page: Any) -> None:
    engine = Weights()
    with serving(engine) as url:
        page.goto(url)
        page.wait_for_selector("#efforts button")
        page.fill("#lam-number", "3")
        send(page, "x")
        assert page.locator("[role=alert]").last.inner_text() == "lam is 3. Send a number from 0 to 1."
        page.fill("#lam-number", "0.6")
        page.click("summary:has-text('More')")
        page.check("input[value=ffn]")
        send(page, "y")
        assert page.locator(".cost").last.inner_text().startswith("lam 0.6, modules ffn: ")
        page.fill("#layers", "9:")
        send(page, "z")
        assert "beyond the 4 layers of this model. Use 0 to 4." in page.locator("[role=alert]").last.inner_text()


def test_comparing(page: Any) -> None:
    engine = Weights()
    page.emulate_media(color_scheme="dark")
    with serving(engine) as url:
        page.goto(url)
        page.wait_for_selector("#efforts button")
        page.focus("#tab-chat")
        page.keyboard.press("ArrowRight")  # as with the keyboard
        assert page.evaluate("document.activeElement.id") == "tab-compare"
        page.fill("#lams", "0, 0.3, 0.8, 1")
        send(page, "same")
        texts = page.locator(".column .answer").all_inner_texts()
        assert texts == [
            *("So, the answer is 0.0 <img src=x>", "So, the answer is 0.3 <img src=x>"),
            *("is 0.8 <img src=x>", "is 1.0 <img src=x>"),
        ]
        shot(page, "compare-dark")


def test_the_plot_marks_the_sliders_place(page: Any) -> None:
    with serving(Weights()) as url:
        page.goto(url)
        page.wait_for_selector("#plot polyline")
        assert page.locator("#plot polyline").count() == 3

        def place() -> float:
            return float(page.get_attribute("#plot .here", "x1"))

        before = place()
        page.fill("#lam-number", "1")
        left, right = (float(page.get_attribute("#plot .axis >> nth=0", side)) for side in ("x1", "x2"))
        assert (before, place()) == ((left + right) / 2, right)


def test_a_key_is_asked_for(page: Any) -> None:
    with serving(Weights(), "secret") as url:
        page.goto(url)
        page.wait_for_selector("#key-form:not([hidden])")
        page.fill("#key", "wrong")
        page.click("text=Connect")
        until(page, lambda: page.locator("#status").inner_text() == "the key is wrong")
        page.fill("#key", "secret")
        page.click("text=Connect")
        page.wait_for_selector("#efforts button")
        send(page, "hello")
        assert page.locator(".assistant .answer").inner_text().startswith("So, the answer is 0.5")


def test_a_narrow_window_and_stopping(page: Any) -> None:
    engine = Weights()
    engine.pause = 0.3
    page.set_viewport_size({"width": 340, "height": 700})
    with serving(engine) as url:
        page.goto(url)
        page.wait_for_selector("#efforts button")
        page.fill("#prompt", "slow")
        page.press("#prompt", "Enter")
        until(page, lambda: page.locator(".answer").all_inner_texts() not in ([], [""]))
        page.click("#stop")
        until(page, lambda: page.locator(".cost").inner_text().endswith(", stopped"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 340, "nothing leaves the window"
        shot(page, "narrow")
        engine.pause = 0.0
        send(page, "again")
        assert page.locator(".assistant .answer").last.inner_text() == "So, the answer is 0.5 <img src=x>"
