"""``crl report``: runs in folders become one HTML file, figures and tables beside it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from crl.benchmark.comparison import compare
from crl.runs.folder import write_atomically


class ReportError(ValueError):
    """A report that cannot be made; the message says what to do."""


def report(folders: Sequence[Path], out: Path | None = None, suite: str | None = None, title: str | None = None) -> Path:
    """
    :param folders: of runs, or with runs below them
    :param out: HTML file to write; None takes ``report.html`` in the first folder. Figures (PNG, PDF) and tables (CSV,
        Markdown, LaTeX) go to ``<name>-files`` beside it
    :param suite: name or file whose tasks say how scores are normalised; None takes the folders' plan, else crl's own suites
    :param title: of the page, and of the figure where there is one task; None names the suite
    :return: the HTML file
    :raises ValueError: when there are no runs, a name is wrong, something is not installed or cannot be written
    """
    if not folders:
        raise ReportError("give at least one folder of runs: crl report runs/dmc100k")
    absent = [name for name in ("rliable", "matplotlib") if find_spec(name) is None]
    if absent:
        raise ReportError(f"a report needs {' and '.join(absent)}: pip install 'crl[bench]'")
    out = out if out is not None else folders[0] / "report.html"
    _check(out)
    comparison = compare(folders, suite)
    comparison.title = title or comparison.title
    # they draw and compute: not before everything is known to be there
    from crl.benchmark.figures import Picture
    from crl.benchmark.page import page
    from crl.benchmark.sections import sections
    from crl.benchmark.tables import Table

    parts = sections(comparison, out)
    places = ", ".join(str(folder) for folder in folders)
    subtitle = f"Runs in {places}. Made by crl {version('crl')} on {date.today().isoformat()}."
    beside = out.with_name(f"{out.stem}-files")
    try:
        for section in parts:
            for part in [*section.parts, section.files]:
                if isinstance(part, Table):
                    for kind, text in (("csv", part.csv()), ("md", part.markdown()), ("tex", part.latex())):
                        write_atomically(beside / "tables" / f"{part.name}.{kind}", text.encode())
                for picture in part if isinstance(part, list) else []:
                    if isinstance(picture, Picture):
                        write_atomically(beside / "figures" / f"{picture.name}.png", picture.png)
                        write_atomically(beside / "figures" / f"{picture.name}.pdf", picture.pdf)
                        if picture.dark_png:
                            write_atomically(beside / "figures" / f"{picture.name}-dark.png", picture.dark_png)
        write_atomically(out, page(comparison.title, subtitle, parts).encode())
    except OSError as error:
        raise ReportError(f"cannot write {out} ({error.strerror}): choose another --out") from error
    return out


def _check(out: Path) -> None:
    """
    :raises ReportError: when it can be seen beforehand that there is no place for the file
    """
    if out.suffix != ".html":
        raise ReportError(f"--out {out}: the report is one HTML file, give a name that ends in .html")
    if out.is_dir():
        raise ReportError(f"--out {out} is a folder: choose a file, for example {out / 'report.html'}")
    file = next((part for part in out.parents if part.exists() and not part.is_dir()), None)
    if file is not None:
        raise ReportError(f"--out {out}: {file} is a file. Choose another place")
