"""The picture of a report's top, drawn by a real browser."""

import importlib
import shutil
from pathlib import Path

import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("picture_of_report")


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("chromium-browser")),
    reason="no chromium on the PATH",
)
def test_the_top_of_the_page_is_drawn(script, tmp_path):
    style = "margin:0;background:linear-gradient(red 100px,blue 100px)"
    page = f"<!doctype html><body style='{style}'><p style='height:4000px'></p></body>"
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    out = tmp_path / "report.png"
    assert script.main([str(tmp_path), "--out", str(out)]) == 0
    picture = Image.open(out).convert("RGB")
    assert picture.width == script.WIDTH * script.SCALE
    assert (picture.getpixel((9, 100)), picture.getpixel((9, 200))) == ((255, 0, 0), (0, 0, 255))


def test_a_run_without_a_report_is_told(script, tmp_path, capsys):
    assert script.main([str(tmp_path)]) == 1
    assert f"needs {tmp_path / 'report.html'}" in capsys.readouterr().err
