"""The top of a run's report as a picture, as README.md shows it.

python scripts/picture_of_report.py RUN [--out docs/images/report.png]

RUN is the folder of a run that `rl-llm report` has written a page for. Needs chromium on the PATH.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT, SCALE = 1200, 1798, 1.5  # CSS pixels, and pixels in each.
NUM_COLOURS = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the page, and keep its top with few colours."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "report.png")
    given = parser.parse_args(arguments)
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    page = given.run / "report.html"
    if browser is None or not page.is_file():
        print(f"error: needs {page}, and chromium on the PATH", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--user-data-dir={folder}/profile", f"--screenshot={shot}"),
            *(f"--window-size={WIDTH},{HEIGHT}", f"--force-device-scale-factor={SCALE}"),
        ]
        subprocess.run([*command, page.resolve().as_uri()], check=True, capture_output=True)
        Image.open(shot).convert("RGB").quantize(NUM_COLOURS).save(given.out, optimize=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
