"""What a bench leaves: NAME.json with its figures and NAME.md, which the report on performance draws."""

from collections.abc import Mapping
from pathlib import Path

from ...results.writing import write_json, write_text

_TITLES = {
    "record": "Performance of recording",
    "analyze": "Performance of the analysis",
    "execute": "Performance of the executor",
    "scale": "Scale of a calibration",
}


def write_bench(directory: Path, name: str, figures: Mapping[str, object], text: str) -> Path:
    """Write both files, and give NAME.md. name: `record`, `analyze`, `scale` or `execute-SIZE`. text: Markdown."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / f"{name}.json", figures)
    path = directory / f"{name}.md"
    write_text(path, f"# {_TITLES[name.split('-')[0]]}\n\n{text}\n")
    return path
