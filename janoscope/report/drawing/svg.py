"""Figures as SVG text: a file of its own, and a piece that stands in a page beside others."""

import io
import re
from dataclasses import dataclass

from matplotlib.figure import Figure

from ..drawable import drawable

DPI = 144  # of what is drawn as pixels: dots, images that have to be resampled
DISPLAY_SCALE = 1.6  # CSS pixels a point at most, so that 8 pt reads as 12 px

_ID = re.compile(r'\bid="([^"]+)"')
_HEAD = re.compile(r"<svg\b[^>]*>", re.DOTALL)
_SIZE = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')


@dataclass(frozen=True)
class Drawing:
    """A finished figure. name: file name and prefix of its ids. alt: what it shows, for who cannot see it. svg: a whole file."""

    name: str
    title: str
    alt: str
    svg: str
    is_wide: bool = False

    @property
    def inline(self) -> str:
        """The SVG for a page: no prolog, no namespaces, ids of its own, as wide as its place up to a readable size."""
        width, height = self._size()
        body = self.svg[_HEAD.search(self.svg).end() :]  # type: ignore[union-attr]
        body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL).replace("xlink:href", "href")
        for name in sorted(set(_ID.findall(body)), key=len, reverse=True):
            body = body.replace(f'id="{name}"', f'id="{self.name}-{name}"').replace(f"#{name})", f"#{self.name}-{name})")
            body = body.replace(f'href="#{name}"', f'href="#{self.name}-{name}"')
        style = f"--natural:{width * DISPLAY_SCALE:.0f}px"
        return f'<svg viewBox="0 0 {width:g} {height:g}" style="{style}" role="img" aria-labelledby="{self.name}-alt">{body}'

    def _size(self) -> tuple[float, float]:
        found = _SIZE.search(self.svg)
        assert found is not None  # every SVG of matplotlib has one
        return float(found[1]), float(found[2])


def to_svg(figure: Figure, title: str, caption: str) -> str:
    """A whole SVG file; the caption travels in its metadata. No date, so that the same data give the same bytes."""
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        dpi=DPI,
        metadata={"Title": drawable(title), "Description": drawable(caption), "Date": None, "Creator": None},
    )
    return buffer.getvalue()
