"""The report as files, and as a person sees it: in a browser, wide and narrow, light and dark."""

import base64
import csv
import html
import io
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from crl.benchmark.comparison import compare
from crl.benchmark.figures import DARK, LIGHT, Style
from crl.benchmark.grid import Cell
from crl.benchmark.page import page
from crl.benchmark.partner_section import partner_probes
from crl.benchmark.record import record
from crl.benchmark.report import report
from crl.benchmark.restore import restore
from crl.benchmark.sections import Section, _beside_published, _thresholds
from crl.benchmark.statistics import Estimate
from crl.benchmark.subgoal_section import subgoal_rates
from crl.benchmark.suite import Task
from crl.benchmark.tables import Link, Table
from crl.benchmark.task_figure import TaskPanel, probe_values, task_picture

from ..runs.small import crl
from .synthetic import write_grid, write_partner_probe, write_run

pytest.importorskip("rliable")
pytest.importorskip("matplotlib")
#: drawing takes a while where other work goes on
pytestmark = pytest.mark.timeout(600)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def test_profiles_show_all_scores():
    """Games are played twice as well as by humans, or worse than at random."""
    assert _thresholds({"a": np.array([[0.2, 0.9]])})[[0, -1]].tolist() == [0.0, 1.0]
    wide = _thresholds({"a": np.array([[-0.14, 0.9]]), "b": np.array([[2.03, 0.0]])})
    assert wide[[0, -1]] == pytest.approx([-0.2, 2.1]) and len(wide) == 101


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of an incomplete grid, and where it is."""
    folder = write_grid(tmp_path_factory.mktemp("bench") / "grid")
    result = crl("report", folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(folder / "report.html")
    return folder / "report.html"


class Page(HTMLParser):
    """Tags with attributes, text, and whether what is opened is closed."""

    EMPTY = ("meta", "link", "img", "source", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_one_file_holds_everything(made):
    text = made.read_text()
    page = Page(text)
    addresses = [attrs.get(name) for _, attrs in page.tags for name in ("src", "href", "srcset") if attrs.get(name)]
    outside = [address for address in addresses if not address.startswith(("data:", "#"))]
    assert outside == ["curl-sac/dmc-cartpole-swingup/seed1/video/step12500.mp4"]
    assert (made.parent / outside[0]).exists()
    assert not page.all("script") and "@import" not in text and "url(" not in text
    names = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(names)) == len(names)
    assert {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")} <= set(names)


def test_it_can_be_read_by_those_who_do_not_see_it(made):
    page = Page(made.read_text())
    assert page.all("html")[0]["lang"] == "en"
    assert any(attrs.get("name") == "viewport" for attrs in page.all("meta"))
    assert all(attrs["alt"] for attrs in page.all("img")) and len(page.all("img")) >= 10
    assert len(page.all("caption")) == len(page.all("table")) > 5
    assert all(attrs["scope"] in ("row", "col") for attrs in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_what_it_says(made):
    said = " ".join(" ".join(Page(made.read_text()).text).split())
    for words in (
        "Not begun: 2 runs",
        "Failed: 1 run (sac on dmc/cartpole-swingup, seed 4: the disk is full)",
        "Points without intervals",
        "stale: algorithm.tau: 0.02 (0.01)",
        "CURL paper v4 Table 1",
        "batch 512, ours 128",
        "no interval of the mean, and is not drawn",
        "probes on held-out episodes",
        "encoder_gradient: critic",
        "torch 2.13.0+cpu",
        "failed: last evaluation",
    ):
        assert words in said


def test_tables_and_figures_lie_beside_it(made):
    beside = made.parent / "report-files"
    figures = {path.name for path in (beside / "figures").iterdir()}
    for name in ("aggregates", "sample_efficiency", "profiles", "improvement", "dmc-cartpole-swingup"):
        assert {f"{name}.png", f"{name}.pdf"} <= figures
    assert "dmc-cartpole-swingup-dark.png" in figures
    assert (beside / "figures" / "aggregates.png").read_bytes().startswith(b"\x89PNG")
    assert (beside / "figures" / "aggregates.pdf").read_bytes().startswith(b"%PDF")
    kinds = {path.suffix for path in (beside / "tables").iterdir()}
    assert kinds == {".csv", ".md", ".tex"}
    runs = list(csv.DictReader((beside / "tables" / "runs.csv").open()))
    assert len(runs) == 33
    failed = next(row for row in runs if row["state"].startswith("failed"))
    assert failed["at step"] == "60000" and failed["of"] == "100000" and failed["remarks"] == "the disk is full"
    finals = {row["agent"]: row for row in csv.DictReader((beside / "tables" / "final_returns.csv").open())}
    sac = finals["sac"]
    assert (
        float(sac["dmc/ball_in_cup-catch low"])
        < float(sac["dmc/ball_in_cup-catch"])
        < float(sac["dmc/ball_in_cup-catch high"])
    )
    assert finals["frozen-sac"]["dmc/cartpole-swingup low"] == "" and finals["frozen-sac"]["dmc/cartpole-swingup runs"] == "2"
    beside_ours = list(csv.DictReader((beside / "tables" / "dmc-cartpole-swingup_returns.csv").open()))
    theirs = next(row for row in beside_ours if row["method"] == "CURL")
    assert (theirs["return"], theirs["return low"], theirs["std over seeds"]) == ("582.0", "", "146.0")


def test_one_task_in_one_figure(tmp_path):
    """The figure of a grid on one task: for papers, for light and for dark pages; what is missing is said."""
    for agent, seeds in (("curl-sac", 5), ("drq-sac", 2)):
        for seed in range(1, seeds + 1):
            kind = {"state": "running", "evaluations": 4} if (agent, seed) == ("drq-sac", 2) else {}
            write_run(tmp_path, agent, seed=seed, final=500.0 + 10 * seed, probe=0.6 + seed / 100, **kind)
    found = compare([tmp_path])
    panel = TaskPanel(found, found.tasks[0], False, Style(found.agents))
    assert panel.curves["curl-sac"].low is not None and panel.curves["drq-sac"].low is None
    assert panel.curves["drq-sac"].runs == 1 and len(panel.unfinished["drq-sac"]) == 1
    values = probe_values(found, found.tasks[0])
    assert values["probe R²"]["drq-sac"] == pytest.approx([0.61, 0.62]) and set(values) == {"probe R²", "effective rank"}
    picture = task_picture(found, found.tasks[0], Style(found.agents), "one", "Pixels to swing-up")
    for words in ("Incomplete grid: 6 of 7 runs have finished", "95 % stratified bootstrap intervals", "no interval"):
        assert words in picture.caption
    assert "Pixels to swing-up" in picture.alt and "effective rank: curl-sac" in picture.alt
    light, dark = picture.light.decode(), picture.dark.decode()
    assert DARK.ink in dark and LIGHT.ink not in dark and LIGHT.ink in light
    image = pytest.importorskip("PIL.Image")
    papers = [image.open(io.BytesIO(data)).convert("RGB").getpixel((2, 2)) for data in (picture.png, picture.dark_png)]
    assert papers == [(255, 255, 255), (0x14, 0x17, 0x1A)] and picture.pdf.startswith(b"%PDF")
    part = Section("figure", "In one figure", [[picture]])
    shown = Page(page("t", "s", [part]))
    assert [attrs["class"] for attrs in shown.all("div")] == ["scroll wide"] and shown.all("img")[0]["alt"] == picture.alt


def test_one_run_makes_a_report_too(tmp_path):
    write_run(tmp_path / "runs", env="toy/reach", env_steps=2000)
    result = crl("report", tmp_path / "runs", "--out", tmp_path / "new" / "mine.html")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "new" / "mine.html").read_text()
    assert "No published returns are known at 2,000 environment steps" in text
    assert (tmp_path / "new" / "mine-files" / "tables" / "runs.csv").exists()


def test_nothing_finished_makes_a_report_too(tmp_path):
    write_run(tmp_path, state="running", evaluations=3)
    write_run(tmp_path, seed=2, state="running", evaluations=0)
    result = crl("report", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "there are no aggregates yet" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "args, words",
    [
        ([], "give at least one folder"),
        (["nowhere"], "no folder nowhere"),
        (["."], "no runs in"),
        (["run", "--out", "report.pdf"], "ends in .html"),
        (["run", "--out", "run/config.yaml/report.html"], "config.yaml is a file"),
        (["run", "--suite", "dmc100"], "no suite 'dmc100'"),
        (["run", "--suite", "toy"], "has none of the tasks"),
    ],
)
def test_wrong_usage(args, words, tmp_path):
    if "run" in args:
        write_run(tmp_path, path=tmp_path / "run")
    result = crl("report", *args, cwd=tmp_path)
    assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.html"))


def test_tables():
    table = Table("t", "A & B", ["who", "what", "told"], digits=2, apart=1, text=["told"])
    table.rows = [["a_b", Estimate(1.0, 0.5, 1.5, 5), "x|y"], ["<c>", Estimate(-0.001, None, None, 2), Link("see", "a b&c")]]
    assert table.markdown().splitlines()[2] == "| a_b | 1.00 [0.50, 1.50] | x\\|y |"
    assert table.markdown().splitlines()[3] == "| <c> | 0.00 | see |"
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert rows[0] == ["who", "what", "what low", "what high", "what runs", "told"]
    assert rows[1] == ["a_b", "1.0", "0.5", "1.5", "5", "x|y"] and rows[2][1:5] == ["-0.001", "", "", "2"]
    latex = table.latex()
    assert r"a\_b & 1.00 [0.50, 1.50] & x|y \\" in latex and "\\begin{tabular}{lrl}" in latex and latex.count("\\midrule") == 2
    page = Page(table.html())
    assert "<c>" in page.text and page.all("a")[0]["href"] == "a b&c" and page.all("tr")[-1] == {"class": "apart"}
    table.rows = [["a", None, ""], ["b", 0, ""]]
    assert table.without_empty_columns().columns == ["who", "what"]


# ---- in a browser


def test_who_the_partners_are(tmp_path):
    """Of agents that model others: right answers over time, beside a random encoder, and returns by partner."""
    task = "lbf/8x8-2p-2f-coop"
    for agent, accuracy in (("ppo-clam", 0.8), ("ppo-liam", 0.6), ("ppo-nam", None)):
        for seed in range(1, 6):
            folder = write_run(tmp_path, agent, task, seed, 0.2, env_steps=500_000)
            if accuracy is not None:
                write_partner_probe(folder, accuracy + seed / 100)
    comparison = compare([tmp_path])
    parts = partner_probes(comparison, task, Style(comparison.agents), "lbf")
    tables = {part.name: part for part in parts if isinstance(part, Table)}
    own = tables["lbf_partners_agent"]
    assert list(own.columns) == ["agent", "encoder", "1", "2", "3", "5", "10", "20", "50", "chance"]
    assert [row[:2] for row in own.rows] == [[a, e] for a in ("ppo-clam", "ppo-liam") for e in ("trained", "random")]
    last = own.rows[0][8]
    assert last.point == pytest.approx(0.83) and last.low < 0.83 < last.high and own.rows[1][8].point == pytest.approx(0.5)
    assert own.rows[0][2].point == pytest.approx(1 / 6) == own.rows[0][9]
    assert [cell if isinstance(cell, str) else cell.point for cell in tables["lbf_partner_returns"].rows[0]] == [
        "ppo-clam",
        *map(pytest.approx, (0.4, 0.1, 0.25)),
    ]
    (pictures,) = (part for part in parts if isinstance(part, list))
    assert [picture.name for picture in pictures] == ["lbf_partners_agent", "lbf_partners_random"]
    assert "ppo-clam 0.83 after 50" in pictures[0].alt
    assert partner_probes(compare([tmp_path / "ppo-nam"]), task, Style(["ppo-nam"]), "lbf") == []
    out = report([tmp_path])
    assert "Return with each partner" in out.read_text()


def test_published_returns_at_earlier_steps(tmp_path):
    """DrQ-v2's suites are longer than what is published of them."""
    task, more = "dmc/cartpole-swingup", {"env.kwargs.action_repeat": 2}
    for seed in range(1, 6):
        write_run(tmp_path, "drqv2", task, seed, 860.0, env_steps=1_100_000, evaluations=10, overrides=more)
        table = tmp_path / "drqv2" / "dmc-cartpole-swingup" / f"seed{seed}" / "eval.csv"
        table.write_text(table.read_text().replace(",990000,", ",980000,"))
    tables = [part for part in _beside_published(compare([tmp_path]), task, "cartpole") if isinstance(part, Table)]
    assert [table.name for table in tables] == ["cartpole_returns_980000", "cartpole_returns"]
    ours, *others = tables[0].rows
    means = [float(list(csv.DictReader(path.open()))[8]["mean"]) for path in sorted(tmp_path.rglob("eval.csv"))]
    assert ours[0] == "drqv2" and ours[1].point == pytest.approx(sum(means) / 5) and tables[0].apart == 1
    assert ["DrQ-v2", 864.7] in [list(row[:2]) for row in others]
    assert tables[1].rows[0][1].point == 860.0 and tables[1].apart is None, "nobody has published so long a run"


def test_crafters_score(tmp_path):
    """From training episodes, beside published scores; and it survives being recorded."""
    for seed in (1, 2):
        folder = write_run(tmp_path / "grid", "ppo-crafter", "crafter/reward", seed, 9.0, env_steps=1_000_000)
        lines = ["step,env,length,return,collect_wood,eat_cow"]
        # the second is learned in the last tenth
        lines += [f"{10_000 * k},0,200,1.0,1,{int(k > 90)}" for k in range(1, 101)]
        (folder / "subgoals.csv").write_text("\n".join(lines) + "\n")
    comparison = compare([tmp_path / "grid"])
    rates = comparison.runs[0].subgoals
    assert rates.whole == {"collect_wood": 100.0, "eat_cow": 10.0} and rates.late == {"collect_wood": 100.0, "eat_cow": 100.0}
    _, scores, whole, late = subgoal_rates(comparison, "crafter/reward", "crafter")
    assert scores.rows[0][0] == "ppo-crafter" and scores.rows[0][1].point == pytest.approx((101 * 11) ** 0.5 - 1)
    assert ["AD", 21.8] in [list(row[:2]) for row in scores.rows[scores.apart :]]
    assert [[row[0], row[1].point] for row in whole.rows] == [["collect_wood", 100.0], ["eat_cow", 10.0]]
    assert [[row[0], row[1].point] for row in late.rows] == [["collect_wood", 100.0], ["eat_cow", 100.0]]
    table = tmp_path / "data" / "measured.csv"
    record(folder, table)
    cell = Cell(
        "ppo-crafter", "ppo-crafter", Task("crafter/reward", 0, 1, "crafter/reward"), 2, {"train.env_steps": 1_000_000}
    )
    (restored,) = restore([cell], tmp_path / "restored", table)
    assert compare([restored]).runs[0].subgoals == rates
    assert "Crafter's score" in html.unescape(report([tmp_path / "grid"]).read_text())


_ASK = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
  wide: document.documentElement.scrollWidth, room: document.documentElement.clientWidth,
  broken: [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).length, images: document.images.length,
  wider: [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, pre, .skip")
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName),
  paper: getComputedStyle(document.body).backgroundColor, dark: [...document.images].map(i => i.currentSrc.length)
}), "*"))</script>"""
_FRAME = """<!DOCTYPE html><body><iframe src="asking.html" style="width: %dpx; height: 900px"></iframe>
<script>addEventListener("message", e => { document.body.textContent = e.data })</script></body>"""


def seen(made, folder, width, *flags):
    """What a browser makes of the report in a window of that width."""
    (folder / "asking.html").write_text(made.read_text().replace("</body>", f"{_ASK}</body>"))
    (folder / "frame.html").write_text(_FRAME % width)
    return json.loads(
        re.sub("<[^>]*>", "", browse(folder / "frame.html", "--dump-dom", "--virtual-time-budget=20000", *flags))
    )


def browse(path, *flags):
    # nothing is to be fetched: a report is one file
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    quiet.append(f"--user-data-dir={path.parent / 'browser'}")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *quiet, *flags, path.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(made, tmp_path, width):
    found = seen(made, tmp_path, width)
    assert found["images"] >= 10 and found["broken"] == 0
    assert found["wide"] <= found["room"], "the page itself never scrolls sideways"
    assert found["wider"] == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_light_and_dark(made, tmp_path):
    light, dark = seen(made, tmp_path, 800), seen(made, tmp_path, 800, "--force-dark-mode")
    assert light["paper"] == "rgb(255, 255, 255)" and dark["paper"] == "rgb(20, 23, 26)"
    assert dark["broken"] == 0
    # pictures are other ones, too
    page = Page(made.read_text())
    for source, image in zip(page.all("source"), page.all("img"), strict=True):
        shown = [base64.b64decode(address.partition(",")[2]).decode() for address in (source["srcset"], image["src"])]
        assert DARK.ink in shown[0] and LIGHT.ink not in shown[0]
        assert LIGHT.ink in shown[1] and DARK.ink not in shown[1]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_screenshot_shows_something(made, tmp_path):
    image = pytest.importorskip("PIL.Image")
    browse(made, f"--screenshot={tmp_path / 'shot.png'}", "--window-size=1280,3000")
    with image.open(tmp_path / "shot.png") as shot:
        assert shot.size == (1280, 3000)
        colors = shot.convert("RGB").getcolors(1 << 24)
    assert len(colors) > 200 and max(count for count, _ in colors) < 0.97 * 1280 * 3000
