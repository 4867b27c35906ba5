"""A real browser, with a page of another origin open, tries everything that such a page can: nothing gets to a route."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Server

pytestmark = pytest.mark.models

EVIL = b"<!doctype html><title>evil</title><body>"

ATTACKS = """async (target) => {
  const outcome = {};
  const tried = async (name, attempt) => {
    try { outcome[name] = await attempt(); } catch (error) { outcome[name] = "failed"; }
  };
  const loaded = (element) => new Promise((done) => {
    element.onload = () => done("loaded");
    element.onerror = () => done("failed");
    document.body.append(element);
    setTimeout(() => done("nothing"), 3000);
  });
  const body = JSON.stringify({ title: "planted" });
  const where = target + "/api/hornbook/conversations";
  await tried("simple post", async () => (await fetch(where, { method: "POST", mode: "no-cors", body })).type);
  await tried("json post", async () =>
    (await fetch(where, { method: "POST", headers: { "Content-Type": "application/json" }, body })).status);
  await tried("beacon", async () => navigator.sendBeacon(where, body));
  await tried("read", async () => (await fetch(target + "/api/tags")).status);
  await tried("delete", async () => (await fetch(target + "/api/delete", { method: "DELETE", body: "{}" })).status);
  await tried("image", () => loaded(Object.assign(new Image(), { src: target + "/icon.svg" })));
  await tried("script", () => loaded(Object.assign(document.createElement("script"), { src: target + "/js/boot.js" })));
  await tried("style", () =>
    loaded(Object.assign(document.createElement("link"), { rel: "stylesheet", href: target + "/css/base.css" })));
  await tried("events", () => new Promise((done) => {
    const source = new EventSource(target + "/kb/x/jobs/events");
    source.onopen = () => done("open");
    source.onerror = () => { source.close(); done("failed"); };
  }));
  await tried("socket", () => new Promise((done) => {
    const socket = new WebSocket(target.replace("http", "ws") + "/");
    socket.onopen = () => done("open");
    socket.onerror = () => done("failed");
  }));
  const frame = Object.assign(document.createElement("iframe"), { name: "inner" });
  document.body.append(frame);
  const form = Object.assign(document.createElement("form"),
    { method: "POST", action: where, target: "inner", enctype: "text/plain" });
  form.append(Object.assign(document.createElement("input"), { name: '{"title": "planted", "x": "', value: '"}' }));
  document.body.append(form);
  form.submit();
  await loaded(Object.assign(document.createElement("iframe"), { src: target + "/" }));
  await new Promise((done) => setTimeout(done, 300));
  return outcome;
}"""


class _Evil(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(EVIL)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def evil() -> Iterator[str]:
    """A page of another origin; another port makes it one."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Evil) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{elsewhere.server_port}/"
        elsewhere.shutdown()


def told(server: Server, since: int) -> list[dict[str, Any]]:
    """What the server has answered since."""
    time.sleep(0.3)
    return [line for line in map(json.loads, server.log[since:]) if line["message"] == "answered"]


def test_a_page_of_another_origin_can_neither_do_nor_read_anything(server: Server, chromium: Any, evil: str) -> None:
    before = server.get("/api/hornbook/conversations").json()
    time.sleep(0.3)  # its own line is in the log
    since = len(server.log)
    page = chromium.new_page()
    try:
        page.goto(evil)
        outcome = page.evaluate(ATTACKS, server.url)
        frames = [frame.locator("body").inner_text() for frame in page.frames[1:] if "127.0.0.1" in frame.url]
    finally:
        page.close()
    # a "simple" request is sent whatever the server wants; its sender cannot see that it was refused
    assert outcome.pop("simple post") in ("opaque", "failed") and isinstance(outcome.pop("beacon"), bool)
    assert set(outcome.values()) == {"failed"}, outcome
    assert not any("Hornbook" in text for text in frames)
    answers = told(server, since)
    assert {(one["method"], one["status"]) for one in answers} >= {("POST", 403), ("GET", 403), ("OPTIONS", 403)}
    let_in = [f"{one['method']} {one['path']} {one['status']}" for one in answers if not 400 <= one["status"] < 500]
    assert not let_in, let_in
    assert server.get("/api/hornbook/conversations").json() == before


def test_a_name_that_was_rebound_to_this_machine_is_not_answered(server: Server, chromium: Any) -> None:
    """A browser takes every name below localhost to this machine, as a rebound name would be."""
    page = chromium.new_page(bypass_csp=True)  # as if the page there had none
    try:
        answer = page.goto(f"http://evil.localhost:{server.port}/")
        assert answer.status == 403
        status = page.evaluate(
            "async () => (await fetch('/api/tags')).status"
        )  # for the browser this is its own origin
        assert status == 403
    finally:
        page.close()


def test_a_link_from_another_page_opens_ours(server: Server, chromium: Any, evil: str) -> None:
    page = chromium.new_page()
    try:
        page.goto(evil)
        with page.expect_navigation(url=f"{server.url}/**"):
            page.evaluate("(target) => { location.href = target; }", f"{server.url}/")
        assert page.title() != "evil" and page.locator("body").inner_text()
    finally:
        page.close()
