"""A page in a browser without a network: what a script of the test finds there."""

import json
import re
import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --virtual-time-budget=5000 "
    "--window-size=500,800"  # no window of a headless Chromium is narrower
)


def found(text, script, folder):
    """What `script`, at the end of the page `text`, leaves in `document.body.dataset.result`."""
    page = folder / "page.html"
    page.write_text(text.replace("</body>", script))
    finished = subprocess.run(
        [CHROMIUM, *_FLAGS.split(), f"--user-data-dir={folder / 'profile'}", "--dump-dom",
         page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    shown = re.search(r'data-result="([^"]*)"', finished.stdout)
    assert shown, finished.stderr[-500:]
    return json.loads(shown.group(1).replace("&quot;", '"'))
