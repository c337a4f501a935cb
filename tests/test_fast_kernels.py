"Kernels in native code give what PyTorch gives: pulses, Moran's I, WKV, reading activations. No timings."

import contextlib
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

from ff_nbdev.core.hooks import Hooks
from ff_nbdev.evaluation import activations, spatial
from ff_nbdev.evaluation.spatial import lcps, local_morans, morans_i, rho
from ff_nbdev.mechanisms import forgetfulness
from ff_nbdev.mechanisms.forgetfulness import neighbour_mean, proximal_kernel, pulse_, pulses_
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.tiny import random_tiny
from ff_nbdev.models.wkv import fast_wkv, wkv, wkv_chunks

quick = settings(max_examples=25, deadline=None)


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture
def threads():
    "Sets PyTorch's threads, and puts them back"
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# Pulses


def by_hand(w, kernel, power):
    "One pulse in float64, cell by cell"
    w, k = w.double(), kernel.double()
    up, side = k.shape[0] // 2, k.shape[1] // 2
    mean = torch.empty_like(w)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            rows, cols = slice(max(0, i - up), i + up + 1), slice(max(0, j - side), j + side + 1)
            x = w[rows, cols]
            a, b = max(0, up - i), max(0, side - j)
            near = k[a : a + x.shape[0], b : b + x.shape[1]]
            mean[i, j] = (near * x).sum() / near.sum() if near.sum() > 0 else w[i, j]
    v = w + power * k.sum() * (mean - w)
    std, spread = w.std(unbiased=False), v.std(unbiased=False)
    return w if std == 0 or spread == 0 else w.mean() + (v - v.mean()) * std / spread


kernels = st.builds(
    proximal_kernel,
    st.sampled_from([3, 5, 9, 17]),
    st.floats(0.3, 4),
    st.booleans(),
    st.sampled_from(['both', 'rows', 'columns']),
)


@quick
@given(st.integers(1, 14), st.integers(1, 14), kernels, st.floats(0.001, 1), st.integers(0, 99))
def test_a_pulse_is_what_is_written_cell_by_cell(rows, cols, kernel, power, seed):
    power /= max(1.0, kernel.sum().item())
    w = noise(rows, cols, seed=seed, dtype=torch.float64) * 0.1 + 0.02
    want = by_hand(w, kernel, power)
    if not want.isfinite().all() or (want - w.mean()).abs().max() > 10:
        return  # all but wiped: what is left is rounding
    assert torch.allclose(pulse_(w.clone(), kernel, power), want, atol=1e-10)
    assert torch.allclose(pulse_(w.float(), kernel, power).double(), want, atol=2e-3 if power > 0.9 else 2e-4)


@pytest.mark.parametrize('size', [3, 9, 17])
def test_a_kernel_of_any_weights_without_symmetry(size):
    k = torch.rand(size, size, generator=torch.Generator().manual_seed(size)).double()
    k[size // 2, size // 2] = 0
    k /= k.sum()
    w = noise(20, 33, dtype=torch.float64)
    assert torch.allclose(pulse_(w.clone(), k, 0.3), by_hand(w, k, 0.3), atol=1e-12)
    assert (
        torch.allclose(neighbour_mean(w, k), w + (by_hand_mean := (neighbour_mean(w, k) - w)), atol=1e-12)
        and by_hand_mean.any()
    )


def plainly(w, kernel, power, rest=None):
    "The PyTorch form, for comparison"
    forgetfulness._pulse_together_([w], kernel, [power * kernel.sum().item()], [rest])
    return w


layouts = dict(
    whole=lambda w: w,
    turned=lambda w: w.T.contiguous().T,
    half=lambda w: torch.cat([w, w])[len(w) :],
    every_second=lambda w: w.repeat_interleave(2, 0)[1::2],
    columns=lambda w: torch.cat([w, w], 1)[:, w.shape[1] :],
    scattered=lambda w: w.repeat_interleave(2, 1)[:, ::2],
    experts=lambda w: torch.stack([w, w, w])[1],
)


@pytest.mark.parametrize('layout', layouts)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_layout_and_dtype_is_pulsed_in_place(layout, dtype):
    w = layouts[layout]((noise(30, 41) * 0.1).to(dtype))
    base = w if w._base is None else w._base
    outside = base.clone()
    version, address, kernel = (
        w._version,
        w.data_ptr(),
        proximal_kernel(axis='columns' if layout == 'turned' else 'both'),
    )
    want, rest = plainly(w.clone(memory_format=torch.contiguous_format), kernel, 0.03), None
    if dtype in (torch.bfloat16, torch.float16):
        rest = torch.zeros_like(w)
    assert pulse_(w, kernel, 0.03, rest) is w and w.data_ptr() == address and w._version > version
    assert torch.allclose(w.double(), want.double(), atol=1e-2 if rest is not None else 1e-6)
    changed = (base != outside).sum()
    assert 0 < changed <= w.numel() and changed == (w != layouts[layout]((noise(30, 41) * 0.1).to(dtype))).sum()
    if rest is not None:
        assert rest.any()


def test_a_parameter_and_its_part_are_the_same_memory():
    fused = torch.nn.Parameter(noise(40, 24))
    gate, value = fused[:20], fused[20:]
    before = value.detach().clone()
    with torch.no_grad():
        pulse_(fused.data[:20], proximal_kernel(), 0.03)
    assert torch.equal(value, before) and torch.equal(
        gate.detach(), pulse_(noise(40, 24)[:20].clone(), proximal_kernel(), 0.03)
    )


def test_autograd_sees_that_a_weight_was_pulsed():
    w = torch.nn.Parameter(noise(12, 12))
    out = (w**2).sum()
    pulse_(w, proximal_kernel(3), 0.03)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.backward()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
def test_threads_change_no_bit(dtype, threads):
    made = []
    for n in (1, 2, 3):
        threads(n)
        w = noise(100, 70).to(dtype)
        rest = torch.zeros_like(w)
        for _ in range(3):
            pulse_(w, proximal_kernel(), 0.03, rest)
        made.append((w, rest))
    assert all(torch.equal(a, b) for other in made[1:] for a, b in zip(made[0], other))


def test_rests_in_bf16_add_up_to_float32():
    full, half = noise(60, 80), noise(60, 80).bfloat16()
    rest = (full - half.float()).bfloat16()
    for _ in range(200):
        pulse_(full, proximal_kernel(), 0.001)
        pulse_(half, proximal_kernel(), 0.001, rest)
    assert (full - half.float() - rest.float()).abs().max() < 0.01


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('bad', ['nan', 'inf', 'large'])
def test_a_refused_weight_and_its_rest_stay_as_they_were(dtype, bad):
    w = noise(20, 30).to(dtype)
    if bad == 'large':
        w = torch.full((20, 30), torch.finfo(dtype).max, dtype=dtype)
        w[::2] *= -1
    else:
        w[3, 4] = float(bad)
    rest, before, version = torch.zeros_like(w), w.clone(), w._version
    with pytest.raises(ValueError, match='overflow' if bad == 'large' else 'NaN or infinity'):
        pulse_(w, proximal_kernel(), 0.5, rest)
    assert torch.equal(w.nan_to_num(), before.nan_to_num()) and not rest.any() and w._version == version


def test_numbers_near_the_largest_are_pulsed_where_they_fit():
    w = noise(20, 30)
    w *= 1e37 / w.abs().max()
    want = pulse_(w.double(), proximal_kernel(), 0.03)
    assert torch.allclose(pulse_(w, proximal_kernel(), 0.03).double(), want, rtol=1e-4, atol=1e31)


@pytest.mark.parametrize('value', [0.1, 3.0, 0.0, -1e30])
def test_a_constant_weight_stays_to_the_bit(value):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        w = torch.full((13, 29), value, dtype=dtype)
        assert torch.equal(pulse_(w.clone(), proximal_kernel(), 0.5), w)


@pytest.mark.parametrize('shape', [(1, 1), (1, 2), (2, 1), (1, 40), (40, 1), (9, 9), (4, 5), (0, 7)])
@pytest.mark.parametrize('axis', ['both', 'rows', 'columns'])
def test_tiny_matrices(shape, axis):
    w = noise(*shape, dtype=torch.float64)
    out, kernel = w.clone(), proximal_kernel(9, axis=axis)
    assert pulse_(out, kernel, 0.03) is out and out.isfinite().all()
    alone = w.numel() == 0 or min(w.shape if axis == 'both' else [w.shape['rows columns'.split().index(axis)]]) == 0
    if not alone:
        assert torch.allclose(out, by_hand(w, kernel, 0.03), atol=1e-12)


def memory_of(call):
    "Bytes that a call takes: from PyTorch, and at its peak from NumPy"
    with torch.profiler.profile(profile_memory=True) as seen:
        call()
    taken = sum(e.self_cpu_memory_usage for e in seen.key_averages() if e.self_cpu_memory_usage > 0)
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return taken, peak


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_pulse_takes_one_more_matrix(dtype):
    w = noise(300, 400).to(dtype)
    rest = torch.zeros_like(w)
    pulse_(w, proximal_kernel(), 0.03, rest)  # compiled
    taken, peak = memory_of(lambda: pulse_(w, proximal_kernel(), 0.03, rest))
    one = 4 * w.numel()
    assert one <= taken < 1.05 * one and peak < 0.2 * one


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_matrices_pulsed_together_are_those_pulsed_apart(dtype):
    apart = [noise(20, 33, seed=s).to(dtype) for s in range(3)] + [torch.full((20, 33), 0.1, dtype=dtype)]
    together = [w.clone() for w in apart]
    rests = [torch.zeros_like(w) for w in apart]
    kept = [torch.zeros_like(w) for w in apart]
    powers, kernel = [0.01, 0.02, 0.03, 0.03], proximal_kernel()
    for w, p, r in zip(apart, powers, rests):
        pulse_(w, kernel, p, r)
    forgetfulness._pulse_together_(together, kernel, powers, kept)
    for a, b in zip(apart + rests, together + kept):
        assert torch.allclose(a.double(), b.double(), atol=2e-2 if dtype == torch.bfloat16 else 1e-5)
    assert torch.equal(together[3], torch.full((20, 33), 0.1, dtype=dtype))


def test_many_pulses_are_one_after_the_other():
    a, b, kernel = noise(20, 30), noise(9, 12, seed=1), proximal_kernel()
    want = pulse_(pulse_(a.clone(), kernel, 0.01), kernel, 0.03), pulse_(b.clone(), kernel, 0.02)
    pulses_([a, b, a], kernel, [0.01, 0.02, 0.03])
    assert torch.equal(a, want[0]) and torch.equal(b, want[1])
    with pytest.raises(ValueError, match='between 0 and 1'):
        pulses_([a, b], kernel, [0.01, 2.0])
    assert torch.equal(a, want[0])  # asked before any is changed


def test_a_pull_asks_its_device_for_no_number():
    w, powers = (torch.empty(*shape, device='meta') for shape in ((3, 40, 50), (3,)))  # a tensor that has none to give
    v = forgetfulness._pulled_together(w, proximal_kernel(), powers)
    assert v.device.type == 'meta' and v.shape == w.shape


# Moran's I


def rings(x, r, rook=False):
    "Moran's I cell by cell"
    z, top = x.double() - x.double().mean(), 0.0
    rows, cols = z.shape
    for i in range(rows):
        for j in range(cols):
            near = [
                z[a, b]
                for a in range(max(0, i - r), min(rows, i + r + 1))
                for b in range(max(0, j - r), min(cols, j + r + 1))
                if (abs(a - i) + abs(b - j) == 1 if rook else max(abs(a - i), abs(b - j)) == r)
            ]
            top += z[i, j] * sum(near) / len(near)
    return (top / (z**2).sum()).item()


@quick
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_rho_is_what_is_written_cell_by_cell(rows, cols, r, rook, seed):
    r = 1 if rook else min(r, max(rows, cols) // 2)
    if max(rows, cols) < 2:
        return
    x = noise(rows, cols, seed=seed, dtype=torch.float64) + 3
    contiguity = 'rook' if rook else 'queen'
    assert abs(rho(x, r, contiguity) - rings(x, r, rook)) < 1e-11
    assert abs(rho(x.float(), r, contiguity) - rings(x.float(), r, rook)) < 1e-11


@quick
@given(
    st.integers(1, 30),
    st.integers(2, 50),
    st.integers(1, 3),
    st.sampled_from(['queen', 'rook', 'line']),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.integers(0, 99),
)
def test_native_sums_are_those_of_pytorch(rows, cols, r, contiguity, even, dtype, seed):
    if contiguity == 'rook' or cols < 2 * r:
        r = 1
    x = noise(2, 3, rows, cols, seed=seed).to(dtype)
    x, contiguity, dims = spatial._field(x, contiguity, r)
    plain, fast = spatial._sums_plain(x, contiguity, r, even, dims), spatial._sums_native(x, contiguity, r, even)
    size = plain[1] * 8 * r
    for a, b in zip(plain, fast):
        assert a.shape == b.shape and ((a - b).abs() <= 1e-11 * size + 1e-14).all()


@pytest.mark.parametrize('contiguity', ['queen', 'rook', 'line'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_morans_i_is_esdas(contiguity, dtype):
    esda, libpysal = pytest.importorskip('esda'), pytest.importorskip('libpysal')
    x = noise(1 if contiguity == 'line' else 23, 40, dtype=dtype) ** 3
    w = libpysal.weights.lat2W(*x.shape, rook=contiguity == 'rook')
    for kind, standardise in (('r', True), ('b', False)):
        want = esda.Moran(x.double().numpy().ravel(), w, transformation=kind, permutations=0).I
        assert abs(morans_i(x if contiguity != 'line' else x[0], contiguity, standardise) - want) < 1e-12


def test_fields_in_a_batch_do_not_touch(threads):
    x = noise(5, 37, 20)
    x[2] = float('nan')
    x[3] = 7.0
    for contiguity in ('queen', 'rook'):
        alone = torch.tensor([morans_i(f, contiguity) for f in x], dtype=torch.float64)
        for n in (1, 2, 3):
            threads(n)
            assert torch.equal(morans_i(x, contiguity).nan_to_num(9.0), alone.nan_to_num(9.0))
    assert alone.isnan().tolist() == [False, False, True, True, False]
    assert torch.equal(rho(x.transpose(1, 2), 2)[:2], rho(x.transpose(1, 2).contiguous(), 2)[:2])


def test_lcps_is_that_of_the_local_values():
    for x in (noise(40, 30), noise(6, 50, seed=3)):
        for contiguity in ('queen', 'rook', 'line'):
            i, q = local_morans(x, contiguity)
            dims = [-1] if contiguity == 'line' else [-2, -1]
            high, low = (torch.where(q == k, i, 0.0).sum(dims) for k in (1, 3))
            assert torch.allclose(
                torch.as_tensor(lcps(x, contiguity)).double(), (high - low).abs() / (high + low), atol=1e-12
            )
    assert math.isnan(lcps(torch.ones(5, 6)))


def test_morans_i_takes_no_second_field():
    x = noise(400, 500)
    morans_i(x)
    taken, peak = memory_of(lambda: morans_i(x))
    assert taken + peak < 0.2 * 4 * x.numel()


# WKV


def operands(b=2, t=30, c=150, seed=0, scale=4.0):
    decay, first = torch.linspace(-6, 2, c), noise(c, seed=seed + 1)
    return [decay, first, noise(b, t, c, seed=seed) * scale, noise(b, t, c, seed=seed + 2)]


def leaves(tensors, dtype):
    "Copies that gradients are asked for"
    return [x.to(dtype).clone().requires_grad_() for x in tensors]


def with_gradients(f, given, state=None, dtype=torch.float64):
    "Outputs and state, and the gradients of all that came in, of something that depends on each of them"
    given, state = leaves(given, dtype), leaves(state, dtype) if state else None
    out, after = f(*given, state=state, return_state=True)
    wanted = (out.double() ** 2).sum() + sum(
        (k + 1) * torch.sin(x.double() * torch.linspace(0, 3, x.numel()).view_as(x)).sum() for k, x in enumerate(after)
    )
    wanted.backward()
    return [out, *after], [x.grad for x in [*given, *(state or [])]]


@pytest.mark.parametrize('shape', [(1, 1, 1), (3, 7, 5), (2, 30, 150), (1, 40, 128), (2, 5, 300)])
@pytest.mark.parametrize('handed', [False, True])
def test_native_wkv_is_the_loop_in_value_and_gradient(shape, handed):
    given = operands(*shape)
    state = [noise(shape[0], shape[2], seed=k).abs() + 0.1 for k in (3, 4, 5)] if handed else None
    made, wanted = (
        with_gradients(wkv, given, state, torch.float32),
        with_gradients(rwkv_linear_attention_cpu, given, state),
    )
    for a, b in zip(sum(made, []), sum(wanted, [])):
        assert (a - b).abs().max() <= 2e-6 * b.abs().max() + 1e-9


def test_wkv_in_two_parts_is_wkv_in_one():
    decay, first, key, value = (x.requires_grad_() for x in operands())

    def parts():
        head, state = wkv(decay, first, key[:, :13], value[:, :13], return_state=True)
        return torch.cat([head, wkv(decay, first, key[:, 13:], value[:, 13:], state=state)[0]], 1)

    both = [
        torch.autograd.grad((out**2).sum(), (decay, first, key, value))
        for out in (parts(), wkv(decay, first, key, value)[0])
    ]
    for a, b in zip(*both):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * b.abs().max())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_wkv_in_half_precision_rounds_once(dtype):
    decay, first, key, value = operands(scale=2.0)
    key, value = key.to(dtype), value.to(dtype)
    out, state = wkv(decay, first, key, value, return_state=True)
    exact, _ = rwkv_linear_attention_cpu(decay.double(), first.double(), key.double(), value.double())
    assert out.dtype == dtype and all(s.dtype == torch.float32 for s in state)
    assert ((out - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 1e-4).all()
    as_given = [x.clone().requires_grad_() for x in (decay, first, key, value)]
    in_float = [x.float().requires_grad_() for x in (decay, first, key, value)]
    grads = [torch.autograd.grad((wkv(*parts)[0].float() ** 2).sum(), parts) for parts in (as_given, in_float)]
    for a, b in zip(*grads):
        assert (a.float() - b).abs().max() < 0.03 * b.abs().max()


@pytest.mark.parametrize('scale', [0.0, 200.0, 1e4])
def test_wkv_with_keys_of_any_size(scale):
    made, wanted = [], []
    for found, f, dtype in ((made, wkv, torch.float32), (wanted, rwkv_linear_attention_cpu, torch.float64)):
        given = [x.to(dtype).requires_grad_() for x in operands(scale=scale)]
        found.append(f(*given)[0])
        found.extend(torch.autograd.grad((found[0] ** 2).sum(), given))
    for a, b in zip(made, wanted):
        assert a.isfinite().all() and (a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6


def test_native_wkv_is_the_chunks_and_no_thread_changes_a_bit(threads):
    given, made = operands(3, 20, 300), []
    for n in (1, 2, 3):
        threads(n)
        made.append(sum(with_gradients(wkv, given, dtype=torch.float32), []))
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other))
    for a, b in zip(wkv(*given)[0], wkv_chunks(*given)[0]):
        assert torch.allclose(a, b, atol=1e-6)


def test_wkv_leaves_its_state_and_takes_turned_keys():
    decay, first, key, value = operands()
    state = [noise(2, 150, seed=k).abs() for k in (3, 4, 5)]
    before = [s.clone() for s in state]
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (key, value)]
    assert torch.equal(wkv(decay, first, *turned, state=state)[0], wkv(decay, first, key, value, state=state)[0])
    assert all(torch.equal(a, b) for a, b in zip(state, before))


def test_a_whole_rwkv_has_the_loss_and_gradients_of_the_loop():
    model = random_tiny('rwkv').train()
    ids, found = torch.randint(60, (2, 40), generator=torch.Generator().manual_seed(0)), []
    for context in (contextlib.nullcontext(), fast_wkv()):
        model.zero_grad()
        with context:
            loss = model(ids, labels=ids).loss
            loss.backward()
        found.append((loss.item(), [p.grad.clone() for p in model.parameters()]))
    (a, slow), (b, fast) = found
    assert abs(a - b) < 1e-6
    for x, y in zip(slow, fast):
        assert torch.allclose(x, y, rtol=1e-3, atol=1e-5 * x.abs().max() + 1e-9)


def test_wkv_keeps_no_states_for_the_backward_pass():
    decay, first, key, value = (x.requires_grad_() for x in operands(2, 200, 64))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel() * t.element_size()) or t, lambda t: t
    ):
        wkv(decay, first, key, value)
    assert sum(kept) < 2.2 * 4 * key.numel()


# Reading activations


class Counted(TorchDispatchMode):
    "Counts operations"

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


def test_all_readers_share_one_pass_and_add_a_few_operations_a_site():
    model = random_tiny('rwkv')
    sites = find_sites(model)
    windows = [dict(ids=np.random.default_rng(k).integers(0, 60, 16)) for k in range(8)]
    places = np.array([(0, w, p) for w in range(8) for p in (3, 7, 12)])
    passes, given = [], dict(tokenizer=object(), sites=sites, batch=4)
    hook = model.base_model.register_forward_hook(lambda *_: passes.append(1))
    with Counted() as reading:
        mean, kept = activations.read_once(
            model, windows=windows, readers=[activations.Mean(places), activations.Keep(places[::2])], **given
        )
    assert len(passes) == 2
    with Counted() as bare, activations.evaluating(model):
        for _, inputs, _ in activations._intact(model, given['tokenizer'], windows, places, 4):
            activations.forward_body(model, inputs)
    hook.remove()
    assert len(passes) == 4 and 0 < reading.calls - bare.calls <= 2 * (len(sites) * 20 + 4)
    for a, b in zip(mean, activations.collect(model, windows=windows, places=places, **given)):
        assert torch.allclose(a, b.mean(0), atol=1e-6)
    for a, b in zip(kept, activations.collect(model, windows=windows, places=places[::2], **given)):
        assert torch.equal(a, b)


def test_a_reader_holds_its_rows_and_nothing_else():
    site = find_sites(random_tiny('mt5'))[0]
    with Hooks() as hooks, torch.no_grad():
        take = activations._pick(hooks, site, (torch.tensor([1, 3]), torch.tensor([5, 9])), True, 4)
        site.down(torch.zeros(4, 100, site.d_ff))
    assert take().untyped_storage().nbytes() == 2 * site.d_ff * 4
