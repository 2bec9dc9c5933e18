"""The page of a report in a real browser, narrow and wide, light and dark; skipped where Chromium is missing."""

import shutil
import subprocess

import numpy as np
import pytest

from dfm_ref.verify import kit, laws, measurements, mutants, page, probe
from dfm_ref.verify.mutants import right

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=2000",
]
SEEN = """<script>addEventListener('load', () => {
  const drawn = [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect());
  const pictures = drawn.filter(box => box.width > 200 && box.height > 40).length;
  const rows = document.querySelectorAll('tr').length, page = document.documentElement.scrollWidth;
  document.body.append(`width ${page} of ${innerWidth}, pictures ${pictures}, rows ${rows}`);
})</script>"""


@pytest.fixture(scope="module")
def html():
    chosen = tuple(map(laws.law, ("kolmogorov", "conservation", "step-law", "bad-times", "schedule-value")))
    report = kit.verify(mutants.mutant("samplers_stay_by_kappa"), laws=chosen, quick=True, target="wrong:build")
    rates = kit.verify(mutants.mutant("velocity_divides_by_kappa"), laws=chosen[:2], quick=True, target="rates:build")
    assert [result.law.id for result in report.broken] == ["step-law"]
    assert "kolmogorov" in [result.law.id for result in rates.broken]
    return page.text([report, rates], measured=measurements.measure(probe.Probe(right.build), draws=2048))


def browse(html, folder, *flags):
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is missing")
@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_fits_and_shows_its_pictures(html, tmp_path, width):
    """A law's bars, the heat map of rates, and two curves; no line of it is wider than the window."""
    asked = html.replace("</body>", f"{SEEN}</body>")
    shown = browse(asked, tmp_path, f"--window-size={width},900", "--dump-dom").stdout
    found = shown[shown.rindex("width ") :].split("<")[0].strip()
    numbers = [int(word.strip(",")) for word in found.split() if word.strip(",").isdigit()]
    wide, window, pictures, rows = numbers
    assert wide <= window == width and pictures >= 4 and rows == 7, found


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is missing")
def test_the_page_is_light_or_dark_as_the_reader_is(html, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    means = []
    for style in (html, html.replace("@media (prefers-color-scheme: dark)", "@media all")):
        browse(style, tmp_path, "--window-size=1000,900", "--screenshot=page.png")
        means.append(float(np.mean(plt.imread(tmp_path / "page.png")[..., :3])))
    assert means[0] > 0.85 and means[1] < 0.25, means


def test_the_page_needs_no_other_file(html):
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "") and "<link" not in html and "src=" not in html
