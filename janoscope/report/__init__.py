"""Report: figures, tables and one self-contained HTML page from the files that an analysis left.

Last before the command line. Reads `analysis.json`, `analysis.npz`, `plan.json`, `apply.json`, the recording and the decoded
image, or the aggregate of several analyses; gives `report.html`, `aggregate.html`, `figures/*.svg` and the README image.
Knows neither torch nor models, and computes no result of its own: what is drawn stands in the files. The one home of matplotlib,
used without pyplot, so that nothing global is left.
"""

from .aggregate import render_aggregate
from .analysis.document import render_analysis
from .analysis.overview import render_hero

__all__ = ["render_aggregate", "render_analysis", "render_hero"]
