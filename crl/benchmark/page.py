"""A report as one HTML file: everything is in it, nothing is fetched, no script runs."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from crl.benchmark.figures import Picture
from crl.benchmark.sections import Details, Section
from crl.benchmark.tables import Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #ffffff; --soft: #f3f5f7; --line: #d6dade; --link: #00559c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #14171a; --soft: #1e2328; --line: #3d444b; --link: #7cc0f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 75rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.35rem; margin-top: 2.5rem; border-top: 1px solid var(--line);
  padding-top: 1rem; } h3 { font-size: 1.1rem; margin-top: 2rem; }
p, li { max-width: 46rem; }
a { color: var(--link); } a:focus-visible, .scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--link); }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; } nav a { padding: .25rem 0;
  display: inline-block; }
.scroll { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
caption { text-align: left; padding: .5rem .7rem; font-weight: 600; }
caption span { display: inline-block; position: sticky; left: .7rem; max-width: calc(100vw - 4rem); }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line);
  white-space: nowrap; }
thead th { background: var(--soft); } tbody th { font-weight: 600; }
td.number { font-variant-numeric: tabular-nums; }
td.text { white-space: normal; min-width: 14rem; max-width: 30rem; }
table:has(td.text) :is(th, td.number) { width: 1%; }
tr.apart > * { border-top: 2px solid var(--ink); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: 0; } figure img { width: 100%; height: auto; max-width: 34rem; }
figcaption { font-size: .88rem; }
.wide { padding: .5rem; } .wide figure img { max-width: none; min-width: 52rem; } .wide figcaption { max-width: 46rem;
  position: sticky; left: .5rem; width: calc(100vw - 4rem); }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; padding: .4rem .7rem; }
summary { cursor: pointer; font-weight: 600; padding: .2rem 0; } pre { overflow-x: auto; font-size: .85rem; }
ul.notes { background: var(--soft); border-left: .3rem solid var(--link); padding: .7rem 1rem .7rem 2rem; }
.skip { position: absolute; left: -999rem; } .skip:focus { position: static; }
@media (max-width: 40rem) {
  tbody th, thead th:first-child { position: sticky; left: 0; background: var(--paper); white-space: normal; min-width: 7rem; }
}
@media print { .scroll { overflow: visible; } nav { display: none; } }
"""


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """
    :param title: of the document
    :param subtitle: a line below it
    :param sections: in order
    """
    contents = "".join(
        f'<li><a href="#{html.escape(part.name)}">{html.escape(part.title)}</a></li>' for part in sections if part.level == 2
    )
    body = "\n".join(_section(part) for part in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<a class="skip" href="#overview">Skip to the results</a>
<header>
<h1>{html.escape(title)}</h1>
<p>{html.escape(subtitle)}</p>
</header>
<nav aria-label="Contents"><ul>{contents}</ul></nav>
<main>
{body}
</main>
</body>
</html>
"""


def _section(section: Section) -> str:
    lines = [f'<h{section.level} id="{html.escape(section.name)}">{html.escape(section.title)}</h{section.level}>']
    for part in section.parts:
        if isinstance(part, Table):
            lines.append(part.html())
        elif isinstance(part, Details):
            lines.append(f"<details><summary>{html.escape(part.title)}</summary><pre>{html.escape(part.text)}</pre></details>")
        elif isinstance(part, str):
            lines.append(f"<p>{html.escape(part)}</p>")
        else:
            pictures = [item for item in part if isinstance(item, Picture)]
            if pictures and all(picture.wide for picture in pictures):
                lines += [f'<div class="scroll wide" tabindex="0">{_picture(picture)}</div>' for picture in pictures]
            elif pictures:
                lines.append('<div class="pictures">' + "".join(map(_picture, pictures)) + "</div>")
            else:
                items = "".join(f"<li>{html.escape(str(item))}</li>" for item in part)
                lines.append(f'<ul class="notes">{items}</ul>')
    return "\n".join(lines)


def _picture(picture: Picture) -> str:
    light, dark = (f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" for svg in (picture.light, picture.dark))
    caption = f"<figcaption>{html.escape(picture.caption)}</figcaption>" if picture.caption else ""
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{html.escape(picture.alt)}"></picture>{caption}</figure>'
    )
