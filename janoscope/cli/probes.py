"""`janoscope probes`."""

from pathlib import Path

import click


@click.command()
@click.argument("family", required=False)
def probes(family: str | None) -> None:
    """List the probes, or print that of FAMILY (a name or a file)."""
    from ..errors import InputError
    from ..probe import load_probe, probe_paths

    if family is None:
        for path in probe_paths():
            probe = load_probe(path)
            does = "record, analyze, apply" if probe.execution else "record, analyze"
            click.echo(f"{probe.family:<14} {does:<24} {', '.join(probe.match.transformer)}; {len(probe.policies)} presets")
        return
    named = {path.stem: path for path in probe_paths()}
    path = named.get(family, Path(family))
    if not path.is_file():
        raise InputError(f"no probe {family!r}; bundled: {', '.join(named)}, or give the path of a file.")
    load_probe(path)
    click.echo(path.read_text(encoding="utf-8"))
