"""`kv-fp8` and `kv-int8`: keys and values of skipped tokens in a byte each."""

from dataclasses import dataclass

import torch

from ...plan import CacheBytes
from .forecast import Held
from .stores import KEY_TOKENS, Attended, KeysValues


@dataclass(frozen=True)
class EightBits:
    """A code of one byte a value. limit: its largest number. over: axes that share a float32 scale."""

    dtype: torch.dtype
    limit: float
    over: tuple[int, ...]

    def encode(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(codes, scales): codes as bytes, since tensors of eight-bit floats cannot be indexed."""
        wide = values.float()
        scale = wide.abs().amax(dim=self.over, keepdim=True) / self.limit
        scaled = wide / torch.where(scale == 0, 1.0, scale)
        if not self.dtype.is_floating_point:
            scaled = scaled.round_()
        return scaled.clamp_(-self.limit, self.limit).to(self.dtype).view(torch.uint8), scale

    def decode(self, codes: torch.Tensor, scale: torch.Tensor, out: torch.Tensor) -> None:
        """Write the values to `out`, in its dtype; both codes are exact in every dtype of a model."""
        torch.mul(codes.view(self.dtype).to(out.dtype), scale, out=out)


FP8 = EightBits(torch.float8_e4m3fn, 448.0, (1, 3))  # a scale a token
INT8 = EightBits(torch.int8, 127.0, (3,))  # a scale a token and head


class EightBitStore:
    """`kv-fp8`, `kv-int8`: keys and values of image tokens in a byte each.

    What the step computed takes part as it is; only skipped tokens are read from the codes.
    """

    def __init__(self, code: EightBits) -> None:
        self._code = code
        self._kept = tuple((Held(KEY_TOKENS), Held(KEY_TOKENS)) for _ in ("keys", "values"))

    @property
    def bytes(self) -> CacheBytes:
        return CacheBytes(sum(held.bytes for pair in self._kept for held in pair))

    def refresh(self, attended: Attended) -> None:
        for pair, given in zip(self._kept, (attended.key, attended.value), strict=True):
            for held, encoded in zip(pair, self._code.encode(attended.image(given)), strict=True):
                held.store(attended.at, encoded)

    def update(self, attended: Attended) -> KeysValues:
        return self._updated(0, attended, attended.key), self._updated(1, attended, attended.value)

    def _updated(self, which: int, attended: Attended, given: torch.Tensor) -> torch.Tensor:
        codes, scales = self._kept[which]
        for held, encoded in zip((codes, scales), self._code.encode(attended.image(given)), strict=True):
            held.update(attended.at, attended.image_index(), encoded)
        return attended.whole(given, lambda image: self._code.decode(codes.read(attended.at), scales.read(attended.at), image))
