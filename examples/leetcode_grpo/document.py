"""A document as a list of blocks, written as Markdown or as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "div.wide{overflow-x:auto}table{border-collapse:collapse}"
    "td,th{border-bottom:1px solid #8886;padding:.3rem .7rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}"
    "p,h1,h2,h3,figcaption{overflow-wrap:anywhere}"  # names of variants are long
    "img{max-width:100%;background:#fff}figure{margin:1.5rem 0}figcaption{opacity:.75}"
)


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the document's title."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """Paragraphs, written as Markdown; HTML shows them as they are."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Grid:
    """A table."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Picture:
    """A figure that lies at `path` as SVG, without its suffix."""

    path: Path
    caption: str


Block = Heading | Text | Grid | Picture


def to_markdown(blocks: Sequence[Block], root: Path) -> str:
    """The document as Markdown; pictures are links from `root`."""
    lines: list[str] = []
    for block in blocks:
        match block:
            case Heading(level, text):
                lines += [f"{'#' * level} {text}", ""]
            case Text(text, strong):
                lines += [f"**{text}**" if strong else text, ""]
            case Grid(header, rows):
                table = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
                lines += [*("| " + " | ".join(row) + " |" for row in table), ""]
            case Picture(path, caption):
                link = path.relative_to(root).as_posix()
                lines += [f"![{caption}]({link}.svg)", "", caption, ""]
    return "\n".join(lines).rstrip() + "\n"


def fill_parts(page: str, kind: str, write: Callable[[str], str | None]) -> str:
    """A page whose parts between `<!-- KIND: NAME -->` and `<!-- end -->` are written anew.

    Args:
        page: Markdown.
        kind: of the parts.
        write: from a part's name to its text; None leaves the part as it is.
    """

    def part(match: re.Match[str]) -> str:
        text = write(match["name"])
        return match[0] if text is None else f"{match[1]}\n{text.rstrip()}\n\n{match[3]}"

    return re.sub(rf"(<!-- {kind}: (?P<name>[\w./-]+) -->\n).*?(<!-- end -->)", part, page, flags=re.DOTALL)


def to_html(blocks: Sequence[Block], title: str) -> str:
    """The document as a page with its pictures inside, so that one file can be sent around."""
    lines = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"]
    lines.append(f'<meta name=viewport content="width=device-width"><style>{_STYLE}</style>')
    for block in blocks:
        match block:
            case Heading(level, text):
                lines.append(f"<h{level}>{html.escape(text)}</h{level}>")
            case Text(text, strong):
                tags = ("<strong>", "</strong>") if strong else ("", "")
                lines += [f"<p>{tags[0]}{html.escape(part)}{tags[1]}</p>" for part in text.split("\n\n")]
            case Grid(header, rows):
                head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
                body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
                lines.append(f"<div class=wide><table><tr>{head}</tr>{body}</table></div>")
            case Picture(path, caption):
                svg = base64.b64encode(path.with_name(f"{path.name}.svg").read_bytes()).decode()
                text = html.escape(caption)
                image = f'<img alt="{text}" src="data:image/svg+xml;base64,{svg}">'
                lines.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
    return "\n".join([*lines, "</html>"]) + "\n"
