"""The report in a real browser, without a network."""

import html
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import PIL.Image
import pytest

from dpdm_jax.report import write_report

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PHONE, _LAPTOP = 375, 1280

# Measures a page in frames of given widths: as it opens, then with all details open.
_HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body><script>
const page = {page};
const found = {{}};
window.onload = async () => {{
  for (const width of {widths}) {{
    const frame = document.createElement("iframe");
    frame.style = `border: 0; width: ${{width}}px; height: 800px`;
    const loaded = new Promise(done => frame.onload = done);
    frame.srcdoc = page;
    document.body.append(frame);
    await loaded;
    const inside = frame.contentDocument;
    const behind = () => [...inside.querySelectorAll("details.switch img")].filter(
      each => each.checkVisibility()).length;
    const before = behind();
    inside.querySelectorAll("details").forEach(each => each.open = true);
    const images = [...inside.images];
    found[width] = {{
      view: inside.documentElement.clientWidth,
      content: inside.documentElement.scrollWidth,
      images: images.length,
      behind: [before, behind()],
      drawn: images.filter(each => each.naturalWidth > 0).length,
      loads: frame.contentWindow.performance.getEntriesByType("resource").map(
        each => each.name.slice(0, 40)),
    }};
  }}
  document.title = "measured";
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
}};
</script>"""


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """Runs headless Chromium on a file, or skips where there is none."""
    binary = next(filter(None, map(shutil.which, _NAMES)), None)
    if binary is None:
        pytest.skip(f"no headless browser; any of {', '.join(_NAMES)} would do")
    profile = tmp_path_factory.mktemp("profile")

    def run(path: pathlib.Path, *args: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [
                binary,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--hide-scrollbars",
                "--enable-logging=stderr",
                "--virtual-time-budget=10000",
                f"--user-data-dir={profile}",
                *args,
                path.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


def console(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def measure(chromium, page: str, folder: pathlib.Path):
    """Returns what the harness found, by width, and what went to the console."""
    harness = folder / "harness.html"
    # Not "</script>", which would end the harness's own.
    text = json.dumps(page).replace("</", "<\\/")
    widths = [_PHONE, _LAPTOP]
    harness.write_text(_HARNESS.format(page=text, widths=widths))
    done = chromium(harness, "--dump-dom", "--window-size=1400,900")
    (found,) = re.findall(r'<pre id="result">(.*?)</pre>', done.stdout)
    return json.loads(html.unescape(found)), console(done)


@pytest.fixture
def page(writer) -> str:
    writer.everything()
    writer.evaluation("a_long_name_of_a_sampler_preset_" * 3)
    return write_report(writer.workdir).read_text(encoding="utf-8")


@pytest.mark.slow
def test_fits_phone_and_laptop_and_draws_everything(chromium, page, tmp_path):
    found, errors = measure(chromium, page, tmp_path)
    assert errors == []
    for width, seen in found.items():
        assert seen["view"] == int(width)
        assert seen["content"] <= seen["view"], f"scrolls sideways at {width}"
        assert seen["drawn"] == seen["images"] == 201
        assert seen["behind"] == [0, 1], "training images before the click, and after"
        assert [name for name in seen["loads"] if not name.startswith("data:")] == []


@pytest.mark.slow
def test_the_measurement_sees_what_is_wrong(chromium, page, tmp_path):
    wide = page.replace("<main>", '<main><div style="width: 2000px">wide</div>')
    assert wide != page
    found, _ = measure(chromium, wide, tmp_path)
    assert all(seen["content"] > seen["view"] for seen in found.values())
    # The page's own policy refuses a script, and says so on the console.
    scripted = page.replace("<main>", "<main><script>document.title = 1</script>")
    _, errors = measure(chromium, scripted, tmp_path)
    assert any("Content Security Policy" in line for line in errors)


@pytest.mark.slow
@pytest.mark.parametrize("width", [_PHONE, _LAPTOP])
@pytest.mark.parametrize("dark", [False, True])
def test_screenshot(chromium, page, writer, tmp_path, width, dark):
    picture = tmp_path / "page.png"
    done = chromium(
        writer.workdir / "report.html",
        f"--screenshot={picture}",
        f"--window-size={width},1200",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
    )
    assert console(done) == []
    pixels = np.asarray(PIL.Image.open(picture).convert("L"), np.float32)
    paper = np.median(pixels)
    assert paper < 60 if dark else paper > 200
    # Text and pictures, in the upper part and in the lower.
    for part in np.array_split(pixels[:1000], 2):
        assert np.mean(abs(part - paper) > 50) > 0.01
