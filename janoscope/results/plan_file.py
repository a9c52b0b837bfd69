"""plan.json as a Plan; of its own, so that a plan can be shown without what runs it."""

from pathlib import Path

from ..decode import read_text
from ..plan import Plan


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises InputError where it is missing, unreadable or no plan."""
    return Plan.from_text(read_text(path, "plan", "`janoscope analyze` writes one."), str(path))
