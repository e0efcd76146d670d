"""The site builds strictly, its links lead somewhere, and the reference holds every public name."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import svdproj
from svdproj.charts import CHART_KINDS
from tests.docs.snippets import ROOT

pytestmark = pytest.mark.xdist_group("site")

PUBLIC_MODULES = (
    "svdproj",
    "svdproj.nulls",
    "svdproj.controls",
    "svdproj.adapters",
    "svdproj.integrations.transformers",
    "svdproj.integrations.trl",
)


METHODS = (FunctionType, classmethod, staticmethod)
CHARTS = tuple(CHART_KINDS.values())


class _Page(HTMLParser):
    """Addresses that a page refers to, the anchors that it offers, and images without a description."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.undescribed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.update(value for key in ("id", "name") if (value := values.get(key)))
        for key in ("href", "src"):
            if (value := values.get(key)) is not None:
                self.links.append(value)
        if tag == "img" and not values.get("alt"):
            self.undescribed.append(values.get("src") or "?")


def test_every_link_and_image_leads_somewhere(site: Path) -> None:
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > 10
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are absolute, for any depth
            continue
        for link in page.links:
            target = _target(path, link)
            if target is None:
                continue
            file, anchor = target
            if not file.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif anchor and file in pages and anchor not in pages[file].anchors:
                broken.append(f"{path.relative_to(site)}: {link} has no such anchor")
    assert broken == []
    assert {str(path): page.undescribed for path, page in pages.items() if page.undescribed} == {}


def _target(page: Path, link: str) -> tuple[Path, str] | None:
    """File and anchor that a link within the site means; None for one that leads outside."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if file.is_dir():
        file = file / "index.html"
    return file, unquote(parts.fragment)


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?(https?:[^\"' >]+)")
    canonical = re.compile(r"rel=[\"']?canonical")
    found = {
        match[1]
        for path in site.rglob("*.html")
        for match in loaded.finditer(path.read_text(encoding="utf-8"))
        if not canonical.search(match[0])
    }
    assert found == set()


@pytest.mark.parametrize("readme", ["README.md", "examples/leetcode_grpo/README.md", "CHANGELOG.md"])
def test_links_of_markdown_outside_the_site_lead_somewhere(readme: str) -> None:
    path = ROOT / readme
    if not path.is_file():
        pytest.skip(f"{readme} is not written yet")
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    broken = [
        link
        for link in links
        if not urlsplit(link).scheme and urlsplit(link).path and not (path.parent / urlsplit(link).path).exists()
    ]
    assert broken == []


def _public() -> Iterator[tuple[str, Any]]:
    """Qualified name and object of everything public: what `__all__` lists, else what the module itself defines."""
    for module_name in PUBLIC_MODULES:
        try:
            module = import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name != module_name:
                raise
            continue
        names = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (inspect.isfunction(value) or inspect.isclass(value))
            and value.__module__ == module_name
        ]
        for name in names:
            if not name.startswith("__"):
                yield f"{module_name}.{name}", getattr(module, name)


def _documented_names(site: Path) -> set[str]:
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split(" ", 1)[0] for line in zlib.decompress(inventory).decode().splitlines()}


def test_the_reference_holds_every_public_name(site: Path) -> None:
    documented = _documented_names(site)
    missing = [name for name, _ in _public() if name not in documented]
    assert missing == [], "add them to docs/reference"
    assert {"svdproj.HackDirection.fit", "svdproj.projector.Projector.state_dict"} <= documented


def test_every_public_callable_says_what_it_takes() -> None:
    bare = [
        each
        for name, value in _public()
        if callable(value)
        for each, function in _callables(name, value)
        if not _described(function)
    ]
    assert not bare, bare


def test_every_public_name_has_an_example() -> None:
    assert [name for name, value in _public() if not re.search(r"(?m)^Examples?:$", inspect.getdoc(value) or "")] == []


def test_methods_that_a_protocol_names_too_are_looked_at_where_they_are_no_chart_s() -> None:
    assert "Subspace.decode" in dict(_callables("Subspace", svdproj.Subspace))
    assert "DenseChart.decode" not in dict(_callables("DenseChart", svdproj.DenseChart))


# Other people's pages have them, or they are one line that an example would repeat.
WITHOUT_EXAMPLE = ("svdproj.ProjectedOptimizer", "svdproj.Attached", "svdproj.Coverage", "svdproj.DirectionMetadata")


def test_every_public_method_of_pairs_directions_charts_and_subspaces_has_an_example() -> None:
    bare = [
        each
        for name, value in _public()
        if inspect.isclass(value)
        and name.startswith("svdproj.")
        and name.count(".") == 1
        and name not in WITHOUT_EXAMPLE
        for each, function in _callables(name, value)
        if not re.search(r"(?m)^Examples?:$", inspect.getdoc(function) or "")
    ]
    assert bare == []


def _callables(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A function itself; a class with its own public methods."""
    yield name, value
    if not inspect.isclass(value):
        return
    for attribute, member in vars(value).items():
        # What a chart's methods do is said once, in the protocol; a callback's arguments are its library's to describe.
        described = (
            (svdproj.Chart, *value.__bases__) if isinstance(value, type) and value in CHARTS else value.__bases__
        )
        said_before = any(hasattr(base, attribute) for base in described)
        if not attribute.startswith("_") and isinstance(member, METHODS) and not said_before:
            yield f"{name}.{attribute}", getattr(value, attribute)


def _described(function: Any) -> bool:
    """A docstring, inherited ones included, with `Args:` where there is more to know than two names and their types."""
    text = inspect.getdoc(function) or ""
    if len(text.split()) < 2:
        return False
    parameters = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "cls") and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return len(parameters) < 3 or "Args:" in text


# A number of an SVG with digits behind the point.
_COORDINATE = re.compile(r"-?\d+\.\d+")


@pytest.mark.slow
def test_the_pictures_are_what_their_script_draws(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; sys.path.insert(0, 'docs/tools'); import figures; figures.main(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    kept = {name: (ROOT / "docs/assets/figures" / name).read_text(encoding="utf-8") for name in drawn}
    assert len(drawn) == 6
    for name, text in drawn.items():
        # Processors round the descents of the third picture differently, in the fifth digit behind the point of a coordinate.
        assert _COORDINATE.sub("", text) == _COORDINATE.sub("", kept[name]), name
        coordinates, expected = (list(map(float, _COORDINATE.findall(svg))) for svg in (text, kept[name]))
        assert coordinates == pytest.approx(expected, abs=1e-3), name
