"""Networks on the meta device: their weights are counted and their forward is traced, and nothing is computed or allocated."""

import importlib
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...errors import InputError
from ...grid import Triple
from ...pipeline.model_configs import Part
from ...probe import Probe

_INTEGERS = {"int64": torch.int64, "bool": torch.bool}


def build_on_meta(part: Part, dtype: str) -> torch.nn.Module:
    """The part's class built from its config, without memory, in the dtypes that `from_pretrained(dtype=...)` gives it.

    Raises InputError where the class is not there or refuses its config.
    """
    library: Any = importlib.import_module(part.library)
    try:
        cls = getattr(library, part.class_name)
        with torch.device("meta"):
            if part.library == "transformers":
                module: torch.nn.Module = cls(cls.config_class.from_dict(dict(part.config)))
            else:
                module = cls.from_config(dict(part.config))
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{part.library}.{part.class_name} cannot be built from {part.name}'s config: {reason}") from error
    return _cast(module, getattr(torch, dtype), part.library)


def _cast(module: torch.nn.Module, dtype: torch.dtype, library: str) -> torch.nn.Module:
    """As the library loads it. diffusers: all of it, or, where the class names modules that stay in float32, what is stored and
    not named; transformers: likewise, for most of those names in float16 alone."""
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    if library == "transformers" and dtype is not torch.float16:
        kept = set(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    stored = module.state_dict().keys() if kept or library == "transformers" else None
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and (stored is None or name in stored) and not kept & set(name.split(".")):
            tensor.data = tensor.data.to(dtype)
    return module.eval()


def weight_bytes(module: torch.nn.Module) -> dict[str, int]:
    """Bytes by dtype name of all parameters and buffers; one that is tied to another counts once."""
    bytes_of: Counter[str] = Counter()
    for tensor in _tensors(module):
        bytes_of[str(tensor.dtype).removeprefix("torch.")] += tensor.numel() * tensor.element_size()
    return dict(bytes_of)


def loaded_bytes(components: Mapping[str, object]) -> int:
    """Bytes of all networks among the parts of a loaded pipeline."""
    return sum(sum(weight_bytes(part).values()) for part in components.values() if isinstance(part, torch.nn.Module))


def parameter_count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def forward_arguments(
    sheet: Probe, config: Mapping[str, Any], tokens: Triple, *, items: int, text_tokens: int, dtype: str
) -> dict[str, Any]:
    """Meta tensors for one call of the sheet's network.

    tokens: (frames, rows, cols) of the picture or clip. items: what one call's batch holds, stacked branches among them.

    Raises InputError where the probe has no [arguments], or a word in it is no axis and no number of the config.
    """
    if not sheet.arguments:
        raise InputError(f"the probe {sheet.family} has no [arguments], which say what the network is given.")
    frames, rows, cols = tokens
    axes = {"item": items, "text": text_tokens, "frame": frames, "row": rows, "col": cols, "token": frames * rows * cols}
    axes["sequence"] = axes["text"] + axes["token"]
    shapes = _Shapes(axes, config, getattr(torch, dtype))
    arguments: dict[str, Any] = {
        sheet.tap.input: shapes.empty(_latent(sheet, config, tokens, items)),
        sheet.tap.timestep: shapes.empty([items]),
    }
    if sheet.tokens.grid == "arguments":
        arguments |= {"num_frames": frames, "height": rows, "width": cols}
    elif sheet.tokens.grid == "img_shapes":
        arguments["img_shapes"] = [[tokens]] * items
    for name, text in sheet.arguments.items():
        table, _, key = name.rpartition(".")
        if (value := shapes.of(text)) is not None:
            (arguments.setdefault(table, {}) if table else arguments)[key] = value
    return arguments


def _latent(sheet: Probe, config: Mapping[str, Any], tokens: Triple, items: int) -> list[int]:
    channels, layout = int(config["in_channels"]), sheet.tokens.layout
    frames, rows, cols = (count * patch for count, patch in zip(tokens, sheet.tokens.patch_of(config), strict=True))
    sizes = {"B": items, "C": channels, "F": frames, "H": rows, "W": cols}
    if layout == "packed":
        count, row, col = tokens
        return [items, count * row * col, channels]
    if layout == "list":
        raise InputError(f"the network of {sheet.family} takes lists, which are not traced.")
    return [sizes[letter] for letter in layout]


class _Shapes:
    """Reads `item text joint_attention_dim`, `item: int64`, `token 8; token 8` (a pair) and `item if guidance_embeds`."""

    def __init__(self, axes: Mapping[str, int], config: Mapping[str, Any], dtype: torch.dtype):
        self._axes, self._config, self._dtype = axes, config, dtype

    def of(self, text: str) -> Any:
        """A meta tensor, a tuple of them, or None where the config says that there is no such argument."""
        shape, _, key = text.partition(" if ")
        if key and not self._config.get(key.strip()):
            return None
        parts = [self._one(part) for part in shape.split(";")]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _one(self, text: str) -> torch.Tensor:
        sizes, _, kind = text.partition(":")
        return self.empty([self._size(word) for word in sizes.split()], _INTEGERS.get(kind.strip(), self._dtype))

    def empty(self, shape: list[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype or self._dtype, device="meta")

    def _size(self, word: str) -> int:
        size = int(word) if word.isdecimal() else self._axes.get(word, self._config.get(word))
        if not isinstance(size, int):
            legal = ", ".join(self._axes)
            raise InputError(f"[arguments] word {word!r} is no axis ({legal}), no number and no size in the network's config.")
        return size


class FlashAttention(TorchFunctionMode):
    """Takes the place of scaled_dot_product_attention: its result and the float32 log-sum of every query and head, no scores.

    That is what flash and memory-efficient kernels hold; the kernel that stores every score needs far more.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query, value = named["query"], named["value"]
        log_sum = query.new_empty(query.shape[:-1], dtype=torch.float32)
        result = query.new_empty((*query.shape[:-1], value.shape[-1]))
        del log_sum  # held until the kernel ends, as the result is
        return result


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made inside the context ever held at once; a storage counts until it is freed.

    torch's own MemTracker gives the same figure (a test compares them) but takes a hundred times as long on forty blocks.
    """

    def __init__(self, known: Iterator[torch.Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._hold(leaf.untyped_storage())
        return result

    def _hold(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def activation_peak(module: torch.nn.Module, arguments: Mapping[str, Any]) -> int:
    """Bytes that one forward without gradients needs at its height, beside weights: its inputs and everything made on the way.

    Raises InputError where the forward looks at values, which tensors without memory do not have.
    """
    inputs = [leaf for leaf in tree_leaves(dict(arguments)) if isinstance(leaf, torch.Tensor)]
    given = sum(leaf.untyped_storage().nbytes() for leaf in inputs)
    with torch.device("meta"), torch.no_grad(), FlashAttention(), PeakMemory(iter([*_tensors(module), *inputs])) as memory:
        try:
            module(**arguments, return_dict=False)
        except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{type(module).__name__} could not be traced without its weights: {reason}") from error
    return given + memory.peak
