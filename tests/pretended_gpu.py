"""A device that is not there: tensors that say they are on a GPU, compute on the CPU, and tell what a GPU would mind.

PyTorch lets Python register one more device. A tensor here wraps another on the CPU and says that it lies on `gpu:0`;
every operator is intercepted. Where tensors of the two devices meet, the operator fails as it would on a GPU. Where a
number is read back to Python, or a tensor is copied to the CPU, a GPU would have to be waited for: the place in the
code is written down. So no GPU and no CUDA build is needed, numbers are real, and code that branches on them runs on.
"""

import contextlib
import traceback
from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = 'gpu'
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
READ_BACK = {  # a number, or the size of the result
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
}
INDEXED = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
}  # a GPU takes indices from the CPU


def register():
    "Once a process; `ImportError` where this PyTorch cannot"
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    from torch.utils.backend_registration import _DummyBackendModule

    class Module(_DummyBackendModule):
        def get_amp_supported_dtype(self):
            return [torch.bfloat16, torch.float16]

    _setup_privateuseone_for_python_backend(GPU, Module())


class Mixed(RuntimeError):
    "Tensors of two devices met in one operator"


class OnGPU(torch.Tensor):
    "A tensor on the pretended device; `inner` is on the CPU"

    @staticmethod
    def __new__(cls, inner):
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=f'{GPU}:0',
            requires_grad=inner.requires_grad,
        )
        out.inner = inner.detach()
        return out

    def __repr__(self):
        return f'OnGPU({self.inner})'

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


syncs = Counter()  # 'file.py: line of code' → how often a GPU would have been waited for


def _place():
    "The innermost line of this package or of transformers that runs now"
    frames = [f for f in traceback.extract_stack() if 'ff_nbdev/' in f.filename or '/transformers/' in f.filename]
    if not frames:
        return 'elsewhere'
    return f'{frames[-1].filename.rsplit("/", 1)[-1]}: {frames[-1].line}'


def _is_gpu(x):
    return isinstance(x, OnGPU)


def _check_devices(func, given):
    "As PyTorch does: only a number may come from elsewhere"
    tensors = [x for x in given if isinstance(x, torch.Tensor)]
    here, there = [x for x in tensors if _is_gpu(x)], [x for x in tensors if not _is_gpu(x) and x.dim()]
    if not here or not there or func in COPIES or func in INDEXED:
        return
    raise Mixed(f'{func} got tensors on {GPU} and on the CPU, in {_place()}')


def _waits(func, args, some, to_cpu):
    "Would a GPU have to be waited for in this operator?"
    if func is aten.copy_.default:
        return _is_gpu(args[1]) and not _is_gpu(args[0])
    if not some:
        return False
    if func is aten.index.Tensor:  # by a mask: the size of the result
        return any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1])
    return func in READ_BACK or func is aten._to_copy.default and to_cpu


def _devices(kwargs):
    "Does an operator ask for the GPU, does it ask for the CPU?"
    device = kwargs.get('device')
    to_gpu = device is not None and torch.device(device).type == GPU
    return to_gpu, device is not None and not to_gpu


def computed(func, args, kwargs):
    "One operator, computed on the CPU and wrapped again"
    flat, _ = tree_flatten((args, kwargs))
    _check_devices(func, flat)
    to_gpu, to_cpu = _devices(kwargs)
    some = any(map(_is_gpu, flat))
    if _waits(func, args, some, to_cpu):
        syncs[_place()] += 1
    known = {}

    def bare(x):
        if not _is_gpu(x):
            return torch.device('cpu') if isinstance(x, torch.device) and x.type == GPU else x
        known[id(x.inner)] = x
        return x.inner

    plain_args, plain = tree_map(bare, args), tree_map(bare, kwargs)
    if to_gpu:
        plain['device'] = torch.device('cpu')
    if plain.get('pin_memory'):
        plain['pin_memory'] = False
    out = func(*plain_args, **plain)
    wrap = to_gpu or some and not to_cpu and not (func is aten.copy_.default and not _is_gpu(args[0]))

    def again(x):
        if not isinstance(x, torch.Tensor) or not wrap or _is_gpu(x):
            return x
        return known.get(id(x)) if id(x) in known else OnGPU(x)

    return tree_map(again, out)


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class _Python(TorchFunctionMode):
    "What never reaches the dispatcher: numbers made into a tensor, and a tensor read as a list"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if (
            func in (torch.tensor, torch.as_tensor)
            and (device := kwargs.get('device')) is not None
            and torch.device(device).type == GPU
        ):
            return func(*args, **kwargs | dict(device='cpu')).to(device)
        if func in (torch.Tensor.tolist, torch.Tensor.numpy) and _is_gpu(args[0]):
            syncs[_place()] += 1
            return func(args[0].inner, *args[1:])
        return func(*args, **kwargs)


@contextlib.contextmanager
def pretending():
    "Within this context `device='gpu'` makes such tensors"
    with _Python(), _Operators():
        yield


def moved(model):
    "Parameters and buffers onto the pretended device, in place; shared ones stay shared"
    known = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = known.setdefault(id(p), torch.nn.Parameter(OnGPU(p.detach().clone())))
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = OnGPU(b.clone())
    return model
