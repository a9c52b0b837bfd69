"""Reading an attribute without trusting its type: HDF5 2.0.0 ends the process on some variable-length types that are none.

One flipped bit in the type of a text is enough (tests/recording/test_recording_flips.py). Delete this when HDF5 refuses it.
"""

import h5py

MAX_BYTES = 1 << 16
Attribute = str | bytes | int | float  # NumPy's numbers among them


def read_attribute(owner: h5py.HLObject, name: str) -> Attribute:
    """A single number or text. Raises ValueError for anything else, before HDF5 reads it."""
    about = owner.attrs.get_id(name)
    dtype = about.dtype
    is_text = h5py.check_string_dtype(dtype) is not None
    if about.shape != () or dtype.itemsize > MAX_BYTES or not (is_text or dtype.kind in "iuf"):
        raise ValueError(f"attribute {name} is {dtype} of shape {about.shape}")
    value: Attribute = owner.attrs[name]
    return value
