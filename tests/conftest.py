"""One thread (the tensors are tiny, and tests may run side by side), profiles, and a browser."""

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

settings.register_profile("ci", derandomize=True, max_examples=50, deadline=None)
settings.register_profile(
    "thorough", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


Browser = Callable[..., tuple[Any, str]]


@pytest.fixture(scope="session")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """What a program puts into `found` on a page in a real browser, and the document afterwards.

    `found` is JSON. The page is as wide as a phone, and allows no program but its own: unless the
    program is empty, it is given leave.
    """
    if shutil.which("chromium") is None:
        pytest.skip("no chromium on this machine to show the page")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    # A window is at least 500 wide, a whole screen is as wide as we say.
    phone = "--screen-info={390x844} --start-fullscreen --window-size=390,844"

    def ask(page: str, program: str = "", query: str = "") -> tuple[Any, str]:
        folder = tmp_path_factory.mktemp("browser")
        if program:
            page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
            probe = (
                f"<script>{{{program};const out = document.createElement('pre');out.id = 'found';"
                "out.textContent = JSON.stringify(found);document.body.append(out);}</script>"
            )
            page = page.replace("</body>", f"{probe}</body>")
        file = folder / "page.html"
        file.write_text(page, encoding="utf-8")
        done = subprocess.run(
            ["chromium", *flags.split(), *quiet.split(), *phone.split(),
             f"--user-data-dir={folder / 'profile'}", file.as_uri() + query],
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        assert done.returncode == 0, done.stderr[-500:]
        assert text or not program, f"the program did not get to its end: {done.stderr[-500:]}"
        return json.loads(html.unescape(text[1])) if text else None, done.stdout

    return ask
