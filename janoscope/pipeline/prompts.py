"""Prompt files: plain text, VBench's full-info JSON, and any CSV, TSV, JSON, JSONL or Parquet table with a column of prompts."""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..decode import decode_json, read_text, reason
from ..errors import InputError
from ..results.files import lines_of

# looked for in this order where --prompt-column is not given; prompt_en is VBench's
KNOWN_COLUMNS = ("prompt", "prompt_en", "caption", "text")
ADVICE = "Check its name and ending."
_SLUG = 40


@dataclass(frozen=True)
class Prompt:
    """One entry of a prompt file; `index` counts from 0."""

    index: int
    text: str

    @property
    def stem(self) -> str:
        """A file name that sorts by index and can be read: 0007-a-cat-on-the-grass."""
        words = re.sub(r"[^a-z0-9]+", "-", self.text.lower()).strip("-")[:_SLUG].strip("-")
        return f"{self.index:04d}-{words}" if words else f"{self.index:04d}"


def read_prompts(path: Path, column: str | None = None) -> list[Prompt]:
    """The prompts of a file, in its order; empty ones are left out, repeated ones kept.

    .txt and unknown endings: a prompt a line. .json: a list of texts, or of tables as VBench's. .jsonl: a table a line.
    .csv, .tsv: with a header. .parquet: needs pyarrow. column: where prompts stand [default: the first of `KNOWN_COLUMNS`].

    Raises InputError for a file that cannot be read, a column that is not there, or a file without prompts.
    """
    texts = [" ".join(str(value).split()) for value in _values(path, column) if value is not None]
    prompts = [Prompt(index, text) for index, text in enumerate(text for text in texts if text)]
    if bad := next((prompt for prompt in prompts if "\0" in prompt.text), None):
        raise InputError(f"prompt file {path}: prompt {bad.index} holds a NUL character, which no recording can keep. Remove it.")
    if not prompts:
        raise InputError(f"prompt file {path} holds no prompt.")
    return prompts


def _values(path: Path, column: str | None) -> list[object]:
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _parquet(path, column)
    if ending in (".csv", ".tsv"):
        return _of_tables(_rows(path, "\t" if ending == ".tsv" else ","), column, path)
    text = read_text(path, "prompt file", ADVICE, encoding="utf-8-sig")
    if ending == ".jsonl":
        lines = [decode_json(line, f"prompt file {path} line {number}", ADVICE) for number, line in lines_of(text)]
        return _of_json(lines, column, path)
    if ending == ".json":
        return _of_json(decode_json(text, f"prompt file {path}", ADVICE), column, path)
    if column is not None:
        raise InputError(f"--prompt-column has no effect on {path}, which is read as a prompt a line. Leave it out.")
    return [*text.split("\n")]  # splitlines would also part at U+2028 and the like, which may stand within a prompt


def _rows(path: Path, delimiter: str) -> list[dict[str, object]]:
    """The rows under a header; a row with more fields would lose what follows an unquoted delimiter."""
    text = read_text(path, "prompt file", ADVICE, encoding="utf-8-sig")
    reader, rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter), []
    try:
        for row in reader:
            if None in row:
                fields = len(reader.fieldnames or ())
                raise InputError(
                    f"{path} line {reader.line_num} has more fields than the header's {fields}; put fields that hold "
                    f"{delimiter!r} in double quotes."
                )
            rows.append(row)
    except csv.Error as error:
        raise InputError(f"prompt file {path} cannot be read: line {reader.line_num}: {reason(error)}. {ADVICE}") from error
    return rows


def _of_json(data: object, column: str | None, path: Path) -> list[object]:
    if not isinstance(data, list):
        raise InputError(f"prompt file {path} holds a {type(data).__name__}; a list of texts or of tables is needed.")
    if all(isinstance(entry, str) for entry in data):
        return data
    if not all(isinstance(entry, dict) for entry in data):
        raise InputError(f"prompt file {path} mixes kinds of entries; a list of texts or of tables is needed.")
    return _of_tables(data, column, path)


def _of_tables(tables: Iterable[Mapping[str, object]], column: str | None, path: Path) -> list[object]:
    rows = list(tables)
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row if name is not None))
    chosen = _column(names, column, path)
    return [row.get(chosen) for row in rows]


def _column(names: list[str], column: str | None, path: Path) -> str:
    if column is not None:
        if column not in names:
            raise InputError(f"{path} has no column {column!r}; it has {', '.join(names)}.")
        return column
    found = next((name for name in KNOWN_COLUMNS if name in names), names[0] if len(names) == 1 else None)
    if found is None:
        raise InputError(f"{path} has columns {', '.join(names)}; say which holds the prompts with --prompt-column.")
    return found


def _parquet(path: Path, column: str | None) -> list[object]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path} needs pyarrow (pip install pyarrow); or convert it to CSV.") from error
    try:
        names = pyarrow.parquet.read_schema(path).names
        chosen = _column(names, column, path)
        values: list[object] = pyarrow.parquet.read_table(path, columns=[chosen])[chosen].to_pylist()
    except InputError:
        raise
    except Exception as error:  # whatever pyarrow raises on bytes that are no table
        raise InputError(f"prompt file {path} cannot be read: {reason(error)}. {ADVICE}") from error
    return values
