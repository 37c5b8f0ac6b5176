"""Opens a report in a real browser: scripts run, nothing is fetched, nothing sticks out sideways."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import pytest

from temper.report import render_report
from tests.report_events import STAGE, run_events

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser on PATH (looked for {', '.join(NAMES)}); on Debian: apt-get install chromium")
    return found


def dumped(browser: str, page: Path, *options: str) -> str:
    """The document as the browser sees it after the scripts ran."""
    command: Sequence[str] = (
        browser, *QUIET, f"--user-data-dir={page.parent / 'profile'}", *options, "--dump-dom", page.as_uri(),
    )  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    text = render_report(run_events(), others={"naive": run_events(harm=0.5)}, name="careful")
    path.write_text(text, encoding="utf-8")
    return path


def test_the_page_works_offline_and_its_script_has_run(browser: str, page: Path) -> None:
    dom = dumped(browser, page)
    assert 'data-ready="yes"' in dom, "the script reached its end under the page's own security policy"
    assert unescape(dom).count("alert('x')") >= 3 and "<script>alert" not in dom
    text = unescape(re.sub(r"<[^>]+>", " ", dom)).replace("\N{NO-BREAK SPACE}", " ")
    for words in ("Improved", "80.6 %", "Runs side by side", "What was mixed", "turn off the lamp in the study"):
        assert words in text, words


def test_hovering_names_the_checkpoint(browser: str, page: Path) -> None:
    dom = dumped(browser, page)
    assert re.search(rf'<g[^>]* data-tip="careful: {STAGE}/step-000040\n', dom)
    assert re.search(rf'<g[^>]* data-tip="naive: {STAGE}/step-000120@0.80\n', dom)


def asked_by_page(browser: str, page: Path, log: Path) -> set[str]:
    """Who asked the network for something while the page was open, without the browser's own questions."""
    dumped(browser, page, f"--log-net-log={log}")
    text = log.read_text(encoding="utf-8", errors="replace")
    assert '"constants"' in text, "the network log was written"
    return set(re.findall(r'"initiator":\s*"([^"]+)"', text)) - {"not an origin"}


def test_nothing_is_fetched(browser: str, page: Path, tmp_path: Path) -> None:
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", page.read_text(encoding="utf-8"))
    assert asked_by_page(browser, page, tmp_path / "report.json") == set()


def test_the_check_for_fetching_would_notice(browser: str, tmp_path: Path) -> None:
    control = tmp_path / "control.html"
    control.write_text('<img src="http://example.invalid/a.png">', encoding="utf-8")
    assert asked_by_page(browser, control, tmp_path / "control.json") != set()


@pytest.mark.parametrize("width", [700, 1200])
def test_the_page_does_not_scroll_sideways(browser: str, page: Path, width: int) -> None:
    # A copy without the security policy, with one more script that measures.
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    probe = "<script>document.title = 'w' + document.documentElement.scrollWidth + '/' + innerWidth;</script></body>"
    copy = page.with_name(f"measure-{width}.html")
    copy.write_text(text.replace("</body>", probe), encoding="utf-8")
    found = re.search(r"<title>w(\d+)/(\d+)</title>", dumped(browser, copy, f"--window-size={width},900"))
    assert found is not None
    assert int(found.group(2)) == width
    assert int(found.group(1)) <= width
