"""A recording as an xarray.Dataset, opened only after validation: xarray alone follows whatever the file says."""

from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError, RecordingError
from ..encoding import BFLOAT16, decode
from .stored import StoredRecording

if TYPE_CHECKING:
    import xarray
    from xarray.core.indexing import ExplicitIndexer


def to_xarray(recording: StoredRecording) -> "xarray.Dataset":
    """Root datasets, lazily read; bfloat16 bits become float32. Good for as long as the recording is open.

    The engine is h5netcdf: netCDF4 1.7.5 ends the process on any float16 dataset. Delete this note when it no longer does.
    """
    try:
        import h5netcdf
        import xarray as xr
    except ImportError as error:
        raise InputError(f"to_xarray needs {error.name}; install janoscope[xarray].") from error
    # through the handle that was validated: another process cannot swap the file in between
    try:
        store = xr.backends.H5NetCDFStore(h5netcdf.File(recording.file, "r"))
        dataset = xr.open_dataset(store).isel(step=slice(0, recording.steps))
    except Exception as error:  # both libraries raise what comes first where axes do not fit together
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RecordingError(
            f"{recording.path.name}: xarray cannot read its axes: {reason}. `janoscope verify` may say why."
        ) from error
    for name in recording.signals:
        if name in dataset and recording.spec(name).stored == BFLOAT16:
            dataset[name] = _decoded(name, dataset[name])
    return dataset


def _decoded(name: str, bits: "xarray.DataArray") -> "xarray.DataArray":
    import xarray as xr
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Bfloat16(BackendArray):
        """Decodes on indexing."""

        shape, dtype = bits.shape, np.dtype(np.float32)

        def __getitem__(self, key: "ExplicitIndexer") -> np.ndarray:
            return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._get)

        def _get(self, key: tuple[int | slice | np.ndarray, ...]) -> np.ndarray:
            selected = bits.variable[key]
            return decode(np.asarray(selected.values, np.uint16), BFLOAT16)

    variable = xr.Variable(bits.dims, indexing.LazilyIndexedArray(Bfloat16()), bits.attrs)
    return xr.DataArray(variable, coords=bits.coords, name=name)
