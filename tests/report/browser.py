"""Renders pages in headless Chromium and checks them with axe-core. Skips, and says why, where there is neither.

No driver and no dependency: the page stands in frames of the widths asked for, and a script beside them writes what it
found into the document, which Chromium prints. The page itself runs no script; for axe-core its policy is taken out.
"""

import html
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
AXE = "axe-core@4.14.1"  # of one version: a later one has more rules
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--window-size=1400,900", "--virtual-time-budget=20000",
)  # fmt: skip
FRAME = """<!doctype html><meta charset="utf-8">
<script>
const look = async frame => {{
  const page = frame.contentDocument, root = page.documentElement;
  frame.nextElementSibling.textContent = JSON.stringify(await (async () => {{ {script} }})());
}};
</script>
{frames}"""
MEASURE = """
  const right = found => found.getBoundingClientRect().right;
  const seen = [...page.querySelectorAll("body *")].filter(found => !found.closest(".unseen"));
  const beyond = seen.filter(found => right(found) > root.clientWidth + 1);
  const scrolling = [...page.querySelectorAll(".scroll")].filter(found => found.scrollWidth > found.clientWidth + 1);
  const cut = seen.filter(found => found.matches("td, th, figcaption, summary, p"))
    .filter(found => found.scrollWidth > found.clientWidth + 1);
  const texts = [...page.querySelectorAll("svg text")].map(found => found.getBoundingClientRect());
  const shown = texts.filter(box => box.width > 0);
  const over = (a, b) => a.left < b.right + 4 && b.left < a.right + 4 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const name = found => found.tagName + "." + (found.getAttribute("class") || "");
  return {
    width: root.clientWidth, content: root.scrollWidth, height: root.scrollHeight,
    beyond: beyond.map(name), scrolling: scrolling.map(name), cut: cut.map(found => found.textContent),
    collisions: shown.filter((box, index) => shown.slice(index + 1).some(other => over(box, other))).length,
    folded: [...page.querySelectorAll("details > :not(summary)")].filter(found => !found.checkVisibility({
      contentVisibilityAuto: true, visibilityProperty: true })).length,
    broken: [...page.images].filter(image => image.naturalWidth !== 28).length,
  };"""
CHECK = """
  const axe = page.defaultView.axe, found = await axe.run(page, { resultTypes: ["violations"] });
  return {
    rules: found.passes.map(rule => rule.id),
    violations: found.violations.flatMap(rule => rule.nodes.map(node => rule.id + ": " + node.html.slice(0, 120))),
  };"""


def measured(page: str, folder: Path, *widths: int) -> list[dict[str, Any]]:
    """How an HTML page comes out, so many CSS pixels wide: what is too wide, cut, folded away, or not there."""
    return _in_frames(page, MEASURE, folder, *widths)


def checked(page: str, folder: Path, *widths: int) -> list[dict[str, Any]]:
    """The rules of axe-core that an HTML page keeps, and its violations, at each width."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    return _in_frames(page.replace("</head>", f"<script>{_axe(folder)}</script></head>"), CHECK, folder, *widths)


def _in_frames(page: str, script: str, folder: Path, *widths: int) -> list[dict[str, Any]]:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser found: none of {', '.join(BROWSERS)} is installed")
    frame = f'height="900" style="border:0" onload="look(this)" srcdoc="{html.escape(page)}"></iframe><pre></pre>'
    frames = "".join(f'<iframe width="{width}" {frame}' for width in widths)
    (folder / "frame.html").write_text(FRAME.format(frames=frames, script=script))
    command = [browser, *QUIET, f"--user-data-dir={folder / 'profile'}", "--dump-dom", (folder / "frame.html").as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.findall(r"<pre>(.+?)</pre>", result.stdout, flags=re.DOTALL)
    assert len(found) == len(widths), "the script in a frame failed"
    return [json.loads(html.unescape(each)) for each in found]


def _axe(folder: Path) -> str:
    """The script of axe-core: the file that AXE_CORE names, or out of npm's cache."""
    if named := os.environ.get("AXE_CORE"):
        return Path(named).read_text()
    npm, reason = shutil.which("npm"), "npm is not installed"
    if npm is not None:
        packed = subprocess.run([npm, "pack", "--offline", AXE], cwd=folder, capture_output=True, text=True, timeout=60)
        if packed.returncode == 0:
            with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as archive:
                script = archive.extractfile("package/axe.min.js")
                assert script is not None
                return script.read().decode()
        reason = f"it is not in npm's cache: `npm cache add {AXE}` gets it"
    pytest.skip(f"axe-core not found: AXE_CORE does not name axe.min.js, and {reason}")
