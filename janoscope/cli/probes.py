"""`janoscope probes`."""

from pathlib import Path

import click


@click.command()
@click.argument("family", required=False)
def probes(family: str | None) -> None:
    """List the probe sheets, or print that of FAMILY (a name or a file)."""
    from ..errors import InputError
    from ..probe import load_sheet, sheet_paths

    if family is None:
        for path in sheet_paths():
            sheet = load_sheet(path)
            does = "record, analyze, apply" if sheet.execution else "record, analyze"
            click.echo(f"{sheet.family:<14} {does:<24} {', '.join(sheet.match.transformer)}; {len(sheet.policies)} presets")
        return
    named = {path.stem: path for path in sheet_paths()}
    path = named.get(family, Path(family))
    if not path.is_file():
        raise InputError(f"no probe sheet {family!r}; bundled: {', '.join(named)}, or give the path of a file.")
    load_sheet(path)
    click.echo(path.read_text(encoding="utf-8"))
