"""Tables that are written as CSV, Markdown, LaTeX and HTML."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from crl.benchmark.statistics import Estimate
from crl.runs.return_text import return_text


@dataclass(frozen=True)
class Link:
    """
    :param text: to be clicked on
    :param target: address, relative to the report
    """

    text: str
    target: str


Cell = str | int | float | None | Estimate | Link | list[Link]


@dataclass
class Table:
    """
    :param name: of its files
    :param title: shown above it
    :param columns: their names
    :param rows: an :class:`~crl.benchmark.statistics.Estimate` is shown as ``point [low, high]``; in CSV it takes four columns
    :param digits: decimals of numbers; None: as many as returns are shown with
    :param apart: rows from this one on are set apart by a line, such as published ones below ours; None: all together
    :param text: columns of words, that may be broken; the others are numbers and names
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)
    digits: int | None = None
    apart: int | None = None
    text: Sequence[str] = ()

    def without_empty_columns(self) -> Table:
        """The same without columns in which no row has anything."""
        kept = [i for i in range(len(self.columns)) if any(row[i] not in (None, "", []) for row in self.rows)]
        rows: list[Sequence[Cell]] = [[row[i] for i in kept] for row in self.rows]
        return replace(self, columns=[self.columns[i] for i in kept], rows=rows)

    def shown(self, cell: Cell) -> str:
        """A cell as a reader sees it."""
        if isinstance(cell, Estimate):
            point = self.shown(cell.point)
            return point if cell.low is None else f"{point} [{self.shown(cell.low)}, {self.shown(cell.high)}]"
        if isinstance(cell, Link):
            return cell.text
        if isinstance(cell, list):
            return ", ".join(link.text for link in cell)
        if isinstance(cell, float):
            return return_text(cell, self.digits)
        return "" if cell is None else str(cell)

    def csv(self) -> str:
        """All digits; intervals in columns of their own."""
        wide = [any(isinstance(row[i], Estimate) for row in self.rows) for i in range(len(self.columns))]
        header, lines = [], []
        for name, is_wide in zip(self.columns, wide, strict=True):
            header += [name, f"{name} low", f"{name} high", f"{name} runs"] if is_wide else [name]
        for row in self.rows:
            line: list[object] = []
            for cell, is_wide in zip(row, wide, strict=True):
                if isinstance(cell, Estimate):
                    line += [cell.point, cell.low, cell.high, cell.runs]
                elif isinstance(cell, Link | list):
                    line.append(self.shown(cell))
                else:
                    line += [cell, None, None, None] if is_wide else [cell]
            lines.append(["" if value is None else value for value in line])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *lines])
        return text.getvalue()

    def markdown(self) -> str:
        """As GitHub shows it."""
        lines = [self.columns, ["---"] * len(self.columns), *([self.shown(cell) for cell in row] for row in self.rows)]
        return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)

    def latex(self) -> str:
        """For ``booktabs``."""
        words = [i for i, name in enumerate(self.columns) if self._is_text(name)]
        kinds = "".join("l" if i in words or i == 0 else "r" for i in range(len(self.columns)))
        lines = [f"% {self.title}", f"\\begin{{tabular}}{{{kinds}}}", "\\toprule"]
        lines += [" & ".join(map(_latex, self.columns)) + r" \\", "\\midrule"]
        for number, row in enumerate(self.rows):
            lines += ["\\midrule"] if number == self.apart and number else []
            lines.append(" & ".join(_latex(self.shown(cell)) for cell in row) + r" \\")
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])

    def html(self) -> str:
        """In a box of its own that scrolls sideways where the screen is narrow."""
        title = html.escape(self.title)
        lines = [f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table>']
        lines.append(f"<caption><span>{title}</span></caption>")
        lines.append("<thead><tr>" + "".join(f'<th scope="col">{html.escape(name)}</th>' for name in self.columns))
        lines.append("</tr></thead><tbody>")
        for number, row in enumerate(self.rows):
            lines.append('<tr class="apart">' if number == self.apart and number else "<tr>")
            for name, cell in zip(self.columns, row, strict=True):
                if name == self.columns[0]:
                    lines.append(f'<th scope="row">{self._html(cell)}</th>')
                else:
                    kind = "text" if self._is_text(name) else "number"
                    lines.append(f'<td class="{kind}">{self._html(cell)}</td>')
            lines.append("</tr>")
        return "\n".join([*lines, "</tbody></table></div>"])

    def _is_text(self, name: str) -> bool:
        return name in self.text

    def _html(self, cell: Cell) -> str:
        links = [cell] if isinstance(cell, Link) else cell
        if isinstance(links, list):
            return ", ".join(f'<a href="{html.escape(link.target)}">{html.escape(link.text)}</a>' for link in links)
        return html.escape(self.shown(cell))


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
