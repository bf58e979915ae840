"""A GPU that is not there: tensors that say they are on it, computed on the processor.

Unlike PyTorch's ``FakeTensorMode`` it has numbers, so code that looks at them (``nonzero``,
``if x.any()``) runs as on a GPU. What CUDA refuses is refused: operations on tensors of several
devices, random generators of the processor. What waits for the GPU is counted.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from torch import Tensor
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# The processor has to know the result (or its size) before it goes on.
SYNCHRONISING = {
    "aten::_local_scalar_dense",  # item(), float(x), tolist(), "if x"
    "aten::nonzero",
    "aten::masked_select",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::_unique2",
    "aten::repeat_interleave",  # a tensor of counts
    "aten::bincount",
    "aten::equal",
    "torchvision::nms",
}
# What autocast on CUDA does (PyTorch's list "CUDA Op-Specific Behavior") in operations below it.
IN_HALF = {
    *("mm", "bmm", "addmm", "addbmm", "baddbmm", "addmv", "mv", "linalg_vecdot"),
    *("convolution", "convolution_backward"),
}
IN_FLOAT = {
    *("acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p"),
    *("reciprocal", "rsqrt", "sinh", "tan", "pow", "softplus", "log_sigmoid_forward"),
    *("softmax", "log_softmax", "native_layer_norm", "native_group_norm", "cumsum", "cumprod"),
    *("sum", "prod", "linalg_vector_norm", "norm", "cdist_forward", "nll_loss_forward"),
    *("nll_loss2d_forward", "mse_loss", "smooth_l1_loss", "huber_loss"),
    *("binary_cross_entropy_with_logits", "soft_margin_loss", "kl_div"),
    *("torchvision::roi_align", "torchvision::deform_conv2d", "torchvision::nms"),
}
# These check the types of their arguments before they come to one of the operations above.
FUNCTIONS_IN_HALF = {
    *(torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d, torch.matmul),
    *(torch.nn.functional.linear, torch.nn.functional.scaled_dot_product_attention),
    *(torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__),
}
PROMOTED = {"cat", "stack", "addcdiv", "addcmul", "atan2", "cross", "dot", "grid_sampler_2d"}
# Beside operations element by element, these take tensors of the processor too.
TRANSFERS = {"aten::copy_", "aten::_to_copy"}
INDEXING = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
}


class SimulatedTensor(torch.Tensor):
    """A tensor on a device that is not there; ``inner`` has its numbers.

    To PyTorch's C++ code it is on the device "meta", because autograd waits for streams of others.
    """

    inner: Tensor
    place: torch.device
    is_cpu, is_meta = False, False

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> SimulatedTensor:
        like = torch.empty_strided(inner.size(), inner.stride(), dtype=inner.dtype, device="meta")
        return torch.Tensor._make_subclass(cls, like)

    def __init__(self, inner: Tensor, device: torch.device) -> None:
        self.inner, self.place = inner, device

    @property
    def device(self) -> torch.device:
        return self.place

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def is_mps(self) -> bool:
        return self.device.type == "mps"

    def __repr__(self, **kwargs: Any) -> str:
        return f"SimulatedTensor({self.inner}, device={self.device})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied: Tensor = self.detach().clone()
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)  # in files it is a tensor of the processor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a simulated tensor is used outside of its device")


class SimulatedDevice(TorchDispatchMode):
    """Inside of ``with SimulatedDevice().active() as device:`` there is such a device.

    Attributes:
        operations: what ran on the device: name with overload -> how often.
        dtypes: of the tensors that were there.
        waits: where the processor waited for the device: "operation in file:function" -> how often.
    """

    def __init__(self, name: str = "cuda:0") -> None:
        super().__init__()
        self.device = torch.device(name)
        self.operations: Counter[str] = Counter()
        self.dtypes: set[torch.dtype] = set()
        self.waits: Counter[str] = Counter()
        self.autocast = False

    def reset(self) -> None:
        """Forget what was counted."""
        self.operations.clear()
        self.dtypes.clear()
        self.waits.clear()

    @contextlib.contextmanager
    def active(self) -> Iterator[SimulatedDevice]:
        """As if PyTorch were on a machine with the device."""
        overwrite = torch.__future__.set_overwrite_module_params_on_conversion
        with contextlib.ExitStack() as stack:
            if self.device.type == "cuda" and not torch.cuda.is_available():
                for name, value in _PATCHES.items():
                    stack.enter_context(mock.patch.object(torch.cuda, name, value))
                health = (
                    "_accelerator_graph_capture_health_check",
                    "_cuda_graph_capture_health_check",
                )
                for name in health:  # its name differs between versions
                    if hasattr(optimizer.Optimizer, name):
                        patch = mock.patch.object(optimizer.Optimizer, name, lambda self: None)
                        stack.enter_context(patch)
            # Foreach kernels are for these types only.
            types = [*optimizer._foreach_supported_types, SimulatedTensor]
            stack.enter_context(mock.patch.object(optimizer, "_foreach_supported_types", types))
            foreach = mock.patch(
                "torch.utils._foreach_utils._get_foreach_kernels_supported_devices"
            )
            stack.enter_context(foreach).return_value = [self.device.type]
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(torch.autograd.grad_mode.set_multithreading_enabled(False))
            stack.callback(overwrite, torch.__future__.get_overwrite_module_params_on_conversion())
            overwrite(True)
            stack.enter_context(_Functions(self))
            stack.enter_context(self)
            yield self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name
        tensors = [x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = [x for x in tensors if isinstance(x, SimulatedTensor)]
        wanted = kwargs.get("device")
        result_here = bool(here) if wanted is None else self._is_mine(wanted)
        if not here and not result_here:
            return func(*args, **kwargs)
        self.operations[str(func)] += 1
        self._check(func, name, tensors, here, kwargs)
        self._count(name, args, kwargs, tensors, here, result_here)
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        args, kwargs = _cast(name, args, kwargs, self.autocast)
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if func is aten._fused_sdp_choice.default:
            return 0  # the kernels for CUDA are not here; this is the one in plain operations
        inner_args, inner_kwargs = _pytree.tree_map_only(
            SimulatedTensor, lambda x: x.inner, (args, kwargs)
        )
        out = _compute(func, inner_args, inner_kwargs)
        if not result_here:
            return out
        return self._wrap(func, args, kwargs, out)

    def _is_mine(self, device: Any) -> bool:
        return torch.device(device).type in (self.device.type, "meta")

    def _wrap(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
        """Results as tensors of the device; what was changed in place is the argument itself."""
        known: dict[int, Tensor] = {}
        if func._schema.is_mutable:
            for x in _pytree.tree_leaves((args, kwargs)):
                if isinstance(x, SimulatedTensor):
                    known[id(x.inner)] = x
        if torch.Tag.inplace_view in func.tags:
            with _as_meta_tensors():  # gives the tensor outside the shape of the one inside
                func(*args, **kwargs)

        def wrap(value: Tensor) -> Tensor:
            if id(value) in known:
                return known[id(value)]
            self.dtypes.add(value.dtype)
            if value.dtype == torch.float64 and self.device.type == "mps":
                raise TypeError(f"{func}: MPS has no float64")
            return SimulatedTensor(value, self.device)

        return _pytree.tree_map_only(Tensor, wrap, out)

    def _check(
        self, func: Any, name: str, tensors: list, here: list, kwargs: dict[str, Any]
    ) -> None:
        """Refuse what the device would refuse."""
        generator = kwargs.get("generator")
        if generator is not None and not self._is_mine(generator.device):
            raise RuntimeError(f"{func}: expected a generator on {self.device}")
        if len(here) == len(tensors) or not here or name in TRANSFERS:
            return
        if name in INDEXING:
            # The indexed tensor decides; indices may be on the processor, values if they are ().
            if isinstance(tensors[0], SimulatedTensor) and (
                isinstance(tensors[-1], SimulatedTensor)
                or "put" not in name
                or not tensors[-1].dim()
            ):
                return
        elif torch.Tag.pointwise in func.tags or name.startswith("aten::_foreach_"):
            if all(isinstance(x, SimulatedTensor) or x.dim() == 0 for x in tensors):
                return
        shapes = [f"{tuple(x.shape)} on {x.device}" for x in tensors]
        raise RuntimeError(f"{func}: tensors on several devices: {', '.join(shapes)}")

    def _count(
        self,
        name: str,
        args: Any,
        kwargs: dict[str, Any],
        tensors: list,
        here: list,
        result_here: bool,
    ) -> None:
        """Note where the processor waits."""
        reason = ""
        if name in SYNCHRONISING:
            reason = name.removeprefix("aten::")
            if name == "aten::repeat_interleave" and kwargs.get("output_size") is not None:
                reason = ""  # with the size of its result it need not ask
        elif name in TRANSFERS:
            is_here = isinstance(tensors[0], SimulatedTensor)
            source_here = isinstance(tensors[-1], SimulatedTensor)
            target_here = result_here if name == "aten::_to_copy" else is_here
            blocking = not kwargs.get(
                "non_blocking", name == "aten::copy_" and args[2:3] == (True,)
            )
            if source_here and not target_here:
                reason = "to the processor"
            elif target_here and not source_here and blocking and tensors[-1].numel() > 0:
                reason = "to the device, blocking"
        elif name in INDEXING:
            indices = [x for x in args[1] if x is not None]
            if any(not isinstance(x, SimulatedTensor) for x in indices):
                reason = "indices to the device"
            elif any(x.dtype in (torch.bool, torch.uint8) for x in indices):
                value = args[2] if "put" in name else None
                fills = value is not None and value.dim() == 0 and value.device.type == "cpu"
                reason = "" if fills else "boolean index"
        if reason:
            self.waits[f"{reason} in {_caller()}"] += 1


def _cast(
    name: str, args: Any, kwargs: dict[str, Any], autocast: bool
) -> tuple[Any, dict[str, Any]]:
    """Casts as inside of ``torch.autocast("cuda")``; PyTorch's own casts are for other tensors.

    Also in the backward pass, whose operations must have numbers of one type.
    """
    base = name.removeprefix("aten::").removeprefix("_")
    dtypes = {x.dtype for x in _pytree.tree_leaves((args, kwargs)) if _is_float(x)}
    if autocast:
        half = torch.get_autocast_dtype("cuda")
        target = half if base in IN_HALF else torch.float32 if base in IN_FLOAT else None
    else:
        target = torch.float16 if base in IN_HALF and len(dtypes) == 2 else None
    promoted = base in PROMOTED or (base.endswith("_backward") and base not in IN_HALF)
    if promoted and len(dtypes) == 2:
        target = torch.float32
    if target is None or dtypes <= {target}:
        return args, kwargs

    def cast(value: Tensor) -> Tensor:
        if not _is_float(value):
            return value
        return SimulatedTensor(value.inner.to(target), value.place)

    return _pytree.tree_map_only(SimulatedTensor, cast, (args, kwargs))


def _is_float(value: Any) -> bool:
    return isinstance(value, SimulatedTensor) and value.dtype in (torch.float16, torch.float32)


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """On the processor; what it lacks in half precision, in single precision."""
    try:
        return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as error:
        if "Half" not in str(error):
            raise
    if func._schema.is_mutable:
        raise NotImplementedError(f"{func} in float16")

    def as_float(value: Any) -> Any:
        if value is torch.float16:
            return torch.float32
        return value.float() if _is_half(value) else value

    args, kwargs = _pytree.tree_map(as_float, (args, kwargs))
    out = func(*args, **kwargs)
    return _pytree.tree_map_only(Tensor, lambda x: x.half() if x.is_floating_point() else x, out)


@contextlib.contextmanager
def _as_meta_tensors() -> Iterator[None]:
    before = torch._C._meta_in_tls_dispatch_include()
    torch._C._set_meta_in_tls_dispatch_include(True)
    try:
        with no_dispatch():
            yield
    finally:
        torch._C._set_meta_in_tls_dispatch_include(before)


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float16


def _caller() -> str:
    """The function of this package or of Detectron2 that is running: "heads/pose.py:targets"."""
    frame = sys._getframe(2)
    outside = ""
    while frame is not None:
        path, function = Path(frame.f_code.co_filename), frame.f_code.co_name
        for package in ("d2_multitask", "detectron2"):
            if package in path.parts[:-1]:
                last = len(path.parts) - 1 - path.parts[::-1].index(package)
                inside = "/".join(path.parts[last + 1 :])
                prefix = "" if package == "d2_multitask" else "detectron2/"
                return f"{prefix}{inside}:{function}"
        if path.match("torch/autograd/graph.py"):
            return "backward"
        if not outside and not path.name.startswith(("device_support", "_", "eval_frame")):
            outside = f"{path.name}:{function}"
        frame = frame.f_back
    return outside


class _Functions(TorchFunctionMode):
    """What is done above PyTorch's dispatcher: ``torch.tensor(numbers, device=...)`` and others."""

    def __init__(self, simulated: SimulatedDevice) -> None:
        super().__init__()
        self.simulated = simulated

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        # Below, autocast looks as if it were switched off.
        self.simulated.autocast = torch.is_autocast_enabled("cuda")
        if self.simulated.autocast and func in FUNCTIONS_IN_HALF:
            half = torch.get_autocast_dtype("cuda")
            args, kwargs = _pytree.tree_map_only(
                SimulatedTensor, lambda x: x.to(half) if _is_float(x) else x, (args, kwargs)
            )
        if func is torch.Tensor.to:
            args = tuple(self._placed(x) for x in args)
        if func is torch.Tensor.new_tensor:
            kwargs = {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            func, args = torch.tensor, args[1:]
        if kwargs.get("device") is not None:
            kwargs["device"] = self._placed(kwargs["device"])
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.Tensor.tolist:
            return args[0].detach().cpu().tolist()
        return func(*args, **kwargs)

    def _placed(self, value: Any) -> Any:
        """For PyTorch's C++ code the device is "meta"; for others it would ask a driver."""
        is_device = isinstance(value, str | torch.device)
        is_mine = is_device and torch.device(value).type == self.simulated.device.type
        return torch.device("meta") if is_mine else value


_PATCHES: dict[str, Callable[..., Any]] = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "is_current_stream_capturing": lambda: False,
    "is_bf16_supported": lambda *args: True,
    "synchronize": lambda *args: None,
    "current_device": lambda: 0,
    "device_count": lambda: 1,
    "max_memory_allocated": lambda *args: 0,
}


@functools.cache
def kernels() -> dict[str, set[str]]:
    """PyTorch's own table: name with overload -> the backends that have a kernel.

    "*" stands for all: the operation is made of others.
    """
    text = importlib.resources.files("torchgen") / "packaged/ATen/native/native_functions.yaml"
    entries = yaml.load(text.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    found: dict[str, set[str]] = {}
    delegates: dict[str, str] = {}
    for entry in entries:
        name = entry["func"].split("(")[0]
        keys = {x.strip() for key in entry.get("dispatch", {}) for x in key.split(",")}
        if not entry.get("dispatch") and "structured_delegate" not in entry:
            keys = {"*"}
        if any(key.startswith("Composite") for key in keys):
            keys.add("*")
        if "ufunc_inner_loop" in entry:
            keys |= {"CPU", "CUDA"}
        found[name] = keys
        if "structured_delegate" in entry:
            delegates[name] = entry["structured_delegate"]
        for other in (x.strip() for x in entry.get("autogen", "").split(",") if x):
            found[other] = {"*"}  # made of the entry's own kernel
    for name, other in delegates.items():
        found[name] |= found[other]
    return found


# https://github.com/pytorch/vision/tree/main/torchvision/csrc/ops: folders cuda and mps.
TORCHVISION = {
    "CUDA": {"nms", "roi_align", "_roi_align_backward", "deform_conv2d", "_deform_conv2d_backward"},
    "MPS": {"nms", "roi_align", "_roi_align_backward"},
}


def without_kernel(operations: Counter[str], backend: str) -> set[str]:
    """Those of the operations that have no kernel for a backend, "CUDA" or "MPS"."""
    missing = set()
    for operation in operations:
        namespace, name = operation.split(".", 1)
        name = name.removesuffix(".default")
        if namespace == "torchvision":
            if name not in TORCHVISION[backend]:
                missing.add(operation)
        elif not kernels().get(name, set()) & {"*", backend}:
            missing.add(operation)
    return missing
