"""Takes the manual's two pictures of the console: `python -m tests.console_pictures [MINUTES]`.

Of a platform with a past (`console_world`), after so many minutes of traffic, 16 by default: what the charts show.
The page's first font is Inter (Debian: `fonts-inter`); without it letters are wider.
"""

import io
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from PIL import Image

from tests.chromium import a_browser
from tests.console_world import MODEL, Size, a_world

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
MOST_BYTES = 300_000
WANTED = ("#traffic .versions tbody tr", "#traffic .chart", "#gate .estimate", "#drift .map", "#live .queries tbody tr")


def take(url: str, key: str) -> None:
    """Both, of what the page shows now; keys have no place in a picture, and the page takes them out of the address."""
    with a_browser() as browser:
        schemes: tuple[Any, ...] = ("light", "dark")
        for scheme in schemes:
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1440, "height": 900})
            page.goto(f"{url}/console/#key={key}&model={MODEL}")
            for wanted in WANTED:
                page.locator(wanted).first.wait_for()
            page.wait_for_load_state("load")
            path = PICTURES / f"console-{scheme}.webp"
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
            picture.save(path, lossless=True, method=6)  # a quarter of the bytes of a PNG
            assert path.stat().st_size < MOST_BYTES, f"{path} has {path.stat().st_size} bytes"
            page.close()


def main() -> None:
    """Starts the platform, waits, takes them."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 16.0
    with (
        tempfile.TemporaryDirectory(prefix="sluice-") as folder,
        a_world(Path(folder) / "home", Size(), with_mlflow=True) as world,
        world.busy(),
    ):
        threading.Event().wait(60 * minutes)
        take(world.url, world.key)


if __name__ == "__main__":
    main()
