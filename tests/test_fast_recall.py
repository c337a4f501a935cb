"The one pass of fuzzy recall against tensor operations: equal numbers, few passes over memory"

import copy
import os
import subprocess
import sys

import pytest
import torch
from tiny_models import NO_DROPOUT, gpt2
from torch.utils._python_dispatch import TorchDispatchMode

from ff_nbdev import FFConfig, attach
from ff_nbdev.mechanisms import noise as noise_module
from ff_nbdev.mechanisms.config import NOISE, RecallConfig
from ff_nbdev.mechanisms.noise import (
    HubNoise,
    _draws,
    _draws_in_torch,
    keyed_noise,
    keyed_uniform,
    noisy_hidden,
    noisy_in_torch,
    token_keys,
)
from ff_nbdev.mechanisms.recall import count_hubs, find_hubs, hub_mask, hubs_in_torch, mask_in_torch, takes_kernel
from ff_nbdev.models.tiny import random_tiny

DTYPES = torch.float32, torch.bfloat16


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=generator(seed)).to(dtype)


def keys_of(hidden, seed=1, step=2, site=3):
    "Keys of the tokens of a hidden of three dimensions"
    return token_keys(seed, step, torch.arange(hidden.shape[0]), site, hidden.shape[1])


def same(a, b):
    "Equal bits, where NaN equals NaN"
    return (
        a.dtype == b.dtype and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) and torch.equal(a.isnan(), b.isnan())
    )


# Hubs

HIDDENS = dict(
    normal=lambda d: normal(7, d),
    spiky=lambda d: normal(7, d) ** 5,
    lattice=lambda d: torch.randint(-2, 3, (7, d), generator=generator()).float(),
    few=lambda d: normal(7, d).relu() * (torch.rand(7, d, generator=generator(1)) < 0.05),
    zeros=lambda d: torch.zeros(7, d),
    one_sign=lambda d: -normal(7, d).abs(),
    tiny=lambda d: normal(7, d) * 1e-38,
    vast=lambda d: normal(7, d) * 1e38,
    offset=lambda d: normal(7, d) + 1e4,
    periodic=lambda d: torch.sin(torch.arange(d) * torch.arange(1.0, 8)[:, None] * 6.283185307179586 / 13).float(),
)


@pytest.mark.parametrize('kind', HIDDENS)
@pytest.mark.parametrize('dtype', DTYPES)
def test_hubs_are_those_of_tensor_operations(kind, dtype):
    for units, width in [(3, 3), (5, 3), (64, 3), (67, 5), (300, 9), (2048, 61)]:
        h = HIDDENS[kind](units).to(dtype)
        for per_sign in (1, 2, 4):
            for signed in (True, False):
                hubs = find_hubs(h, width, per_sign, signed)
                assert torch.equal(hubs, hubs_in_torch(h, width, per_sign, signed))
                assert torch.equal(hub_mask(hubs, units, width), mask_in_torch(hubs, units, width))


@pytest.mark.parametrize('odd', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('place', [0, 20, 62, 63])
def test_hubs_of_a_hidden_with_a_hole(odd, place):
    h = normal(6, 64)
    h[1, place] = h[4, place] = odd
    assert torch.equal(find_hubs(h, 3, 2), hubs_in_torch(h, 3, 2))
    assert torch.equal(find_hubs(h, 3), hubs_in_torch(h, 3))


def test_windows_whose_means_are_equal_after_rounding():
    "Sums one rounding apart have one mean, and the first of them is the hub"
    h = torch.zeros(2000, 9)
    h[:, 0] = 3.1 + 0.8 * torch.rand(2000, generator=generator())
    h[:, 1:3] = torch.rand(2000, 2, generator=generator(1)) * 2.0**-28
    h[:, 3], h[:, 6:] = -h[:, 0], h[:, [0, 2, 1]]
    sums = h.double().cumsum(-1)
    first, last = sums[:, 2], sums[:, 8] - sums[:, 5]
    assert ((first < last) & (first / 3 == last / 3)).sum() > 20
    assert torch.equal(find_hubs(h, 3), hubs_in_torch(h, 3)) and torch.equal(find_hubs(-h, 3), hubs_in_torch(-h, 3))


def test_counts_are_those_of_masks():
    hubs, real = find_hubs(normal(4, 50, 40), 9, 3), torch.rand(4, 50, generator=generator()) < 0.6
    mask = hub_mask(hubs, 40, 9)
    assert torch.equal(count_hubs(hubs, 40, 9), mask.flatten(0, 1).sum(0).float())
    assert torch.equal(count_hubs(hubs, 40, 9, real), mask[real].sum(0).float())
    none = torch.full((3, 2), -1)
    assert torch.equal(count_hubs(none, 40, 9), torch.zeros(40))


# Draws


@pytest.mark.parametrize('key', [(0, 0, 0), (-5, 3, 2), (2**62, 10**9, 23)])
def test_draws_are_those_of_tensor_operations(key):
    seed, step, site = key
    keys = token_keys(seed, step, torch.tensor([0, 5, 2**40]), site, 11)
    assert torch.equal(_draws(keys, 1000), _draws_in_torch(keys, 1000))
    assert torch.equal(keyed_uniform(seed, step, torch.tensor([5]), site, 4, 77), _draws_in_torch(keys, 77)[1:2, :4])


# The pass


def both(h, options, dtype=None, seed=1):
    "Noisy hidden, hubs and gradient: by the pass, and by tensor operations"
    out, keys = [], keys_of(h, seed)
    for fast in (True, False):
        leaf = h.detach().clone().requires_grad_()
        if fast:
            noisy, hubs, _ = keyed_noise(leaf, keys, HubNoise(*options), dtype)
        else:
            noisy, hubs = noisy_in_torch(leaf, _draws_in_torch(keys, h.shape[-1]), HubNoise(*options))
            noisy = noisy.to(dtype or h.dtype)
        pull = normal(*h.shape, seed=9).to(noisy.dtype)
        noisy.backward(pull)
        out.append((noisy.detach(), hubs.long(), leaf.grad))
    return out


@pytest.mark.parametrize('kind', NOISE)
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('sign_specific', [False, True])
def test_the_pass_is_equal_bit_for_bit(kind, dtype, sign_specific):
    for case, (units, width) in enumerate([(3, 3), (61, 5), (64, 3), (515, 15)]):
        h, usage = normal(3, 5, units, dtype=dtype, seed=case), torch.rand(units, generator=generator(case))
        for x in (0.3, 1.0, 2.7, 12.0):
            for use in (None, usage):
                for signed in (True, False):
                    hidden = h if signed else h.relu()
                    options = x, width, use, 0.5, kind, 1 + case % 2, signed, sign_specific
                    for a, b in zip(*both(hidden, options)):
                        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kind', NOISE)
def test_draws_that_are_given(dtype, kind):
    h, u = normal(2, 9, 130, dtype=dtype), torch.rand(2, 9, 130, generator=generator(4))
    noisy, mask = noisy_hidden(h, u, HubNoise(2.5, 5, None, 0.5, kind, 2))
    by_hand, hubs = noisy_in_torch(h, u, HubNoise(2.5, 5, None, 0.5, kind, 2))
    assert torch.equal(noisy, by_hand) and torch.equal(mask, mask_in_torch(hubs, 130, 5))


def test_rounding_to_bfloat16_in_the_pass():
    for sign_specific in (False, True):
        options = 2.5, 9, None, 0.5, 'uniform', 1, True, sign_specific
        for a, b in zip(*both(normal(3, 5, 300), options, torch.bfloat16)):
            assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
def test_other_dtypes_take_tensor_operations(dtype):
    h = normal(2, 3, 64, dtype=dtype)
    keys = keys_of(h)
    assert torch.equal(
        keyed_noise(h, keys, HubNoise(2.0, 3))[0], noisy_in_torch(h, _draws_in_torch(keys, 64), HubNoise(2.0, 3))[0]
    )


@pytest.mark.parametrize('dtype', DTYPES)
def test_holes_in_the_hidden_do_not_spread(dtype):
    h = normal(3, 5, 64, dtype=dtype)
    h[0, 1, 7], h[1, 2, 0], h[2, 4, 63] = float('nan'), float('inf'), -float('inf')
    keys = keys_of(h)
    a, hubs, sums = keyed_noise(h, keys, HubNoise(2.0, 3))
    b, starts = noisy_in_torch(h, _draws_in_torch(keys, 64), HubNoise(2.0, 3))
    assert same(a, b) and torch.equal(hubs.long(), starts) and (~sums.isfinite()).sum() == 3


def test_a_hidden_that_is_not_contiguous():
    h = normal(5, 3, 128).transpose(0, 1)[..., ::2]
    keys = keys_of(h)
    assert not h.is_contiguous()
    assert torch.equal(
        keyed_noise(h, keys, HubNoise(2.0, 3))[0], keyed_noise(h.contiguous(), keys, HubNoise(2.0, 3))[0]
    )
    leaf = normal(5, 3, 64).requires_grad_()
    keyed_noise(leaf, keys_of(leaf), HubNoise(2.0, 3))[0].sum().backward()  # a gradient of one number, expanded
    want = leaf.detach().clone().requires_grad_()
    noisy_in_torch(want, _draws_in_torch(keys_of(leaf), 64), HubNoise(2.0, 3))[0].sum().backward()
    assert torch.equal(leaf.grad, want.grad)


@pytest.mark.parametrize('shape', [(0, 3, 64), (2, 0, 64), (1, 1, 64)])
def test_no_token_and_one_token(shape):
    h = normal(*shape).requires_grad_()
    out, hubs, sums = keyed_noise(h, keys_of(h), HubNoise(2.0, 3))
    out.sum().backward()
    assert out.shape == shape and hubs.shape == (*shape[:2], 2) and sums.shape == shape[:2] and h.grad.shape == shape


def test_threads_and_batches_change_nothing():
    h, threads = normal(8, 21, 160), torch.get_num_threads()
    keys = keys_of(h)
    want = keyed_noise(h, keys, HubNoise(2.0, 5))
    try:
        torch.set_num_threads(2)
        two = keyed_noise(h, keys, HubNoise(2.0, 5))
    finally:
        torch.set_num_threads(threads)
    parts = [keyed_noise(h[k : k + 3], keys[k : k + 3], HubNoise(2.0, 5)) for k in range(0, 8, 3)]
    for a, b, c in zip(want, two, map(torch.cat, zip(*parts))):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_gradients_of_gradients_and_many_at_once():
    h, usage = normal(2, 4, 64), torch.rand(64, generator=generator())
    options = 1.5, 5, usage, 0.5, 'uniform', 2, True, True
    for dtype in DTYPES:
        leaf = h.to(dtype).requires_grad_()
        keys = keys_of(leaf)
        noisy = keyed_noise(leaf, keys, HubNoise(*options))[0]
        pull = normal(*h.shape, dtype=dtype, seed=3).requires_grad_()
        (grad,) = torch.autograd.grad(noisy, leaf, pull, create_graph=True)
        (again,) = torch.autograd.grad(grad, pull, torch.ones_like(grad))
        m = noisy_in_torch(leaf, _draws_in_torch(keys, 64), HubNoise(*options))[0]
        (want,) = torch.autograd.grad(m, leaf, torch.ones_like(m))
        assert torch.equal(again, want)
        noisy = keyed_noise(leaf, keys, HubNoise(*options))[0]
        (many,) = torch.autograd.grad(noisy, leaf, torch.stack([pull.detach()] * 3), is_grads_batched=True)
        assert torch.equal(many[2], grad.detach())


def test_a_saved_tensor_that_changes_is_seen():
    h = normal(2, 4, 64).requires_grad_()
    noisy, hubs, _ = keyed_noise(h, keys_of(h), HubNoise(2.0, 3))
    hubs.add_(1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        noisy.sum().backward()


def test_a_derivative_carried_forward_takes_tensor_operations():
    h = normal(2, 4, 64)
    assert takes_kernel(h)
    with torch.autograd.forward_ad.dual_level():
        assert not takes_kernel(h)


# Passes over memory


class Counted(TorchDispatchMode):
    "The operations that are run"

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made.append(str(func))
        return func(*args, **(kwargs or {}))


def allocated(run):
    "Bytes that a call asks of PyTorch's allocator"
    on = dict(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with torch.profiler.profile(**on) as watched:
        run()
    return sum(e.self_cpu_memory_usage for e in watched.key_averages() if e.self_cpu_memory_usage > 0)


@pytest.mark.parametrize('dtype', DTYPES)
def test_the_pass_allocates_its_output_and_little_more(dtype):
    h = normal(4, 64, 2048, dtype=dtype)
    keys = keys_of(h)
    leaf, pull = h.clone().requires_grad_(), torch.ones_like(h)
    keyed_noise(leaf, keys, HubNoise(2.0, 61))[0].backward(pull)  # compiled
    assert h.nbytes <= allocated(lambda: keyed_noise(h, keys, HubNoise(2.0, 61))) <= 1.05 * h.nbytes + 70_000
    noisy = keyed_noise(leaf, keys, HubNoise(2.0, 61))[0]
    assert allocated(lambda: torch.autograd.grad(noisy, leaf, pull)) <= 1.05 * h.nbytes + 70_000
    by_hand = allocated(lambda: noisy_in_torch(h, _draws_in_torch(keys, 2048), HubNoise(2.0, 61)))
    assert by_hand > 10 * h.nbytes


def test_what_is_kept_for_the_gradient_is_small():
    h, kept = normal(4, 64, 2048).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        keyed_noise(h, keys_of(h), HubNoise(2.0, 61))
    assert 0 < sum(kept) < h.nbytes / 50


# In a model


def strong(**kw):
    return FFConfig(100, recall=RecallConfig(**(dict(top=2.0, start=0.0) | kw)))


def tiny(arch):
    "A random model without dropout"
    return gpt2(**NO_DROPOUT) if arch == 'gpt2' else random_tiny(arch)


IDS = torch.randint(3, 500, (4, 12), generator=generator(2))


def trained(arch='mt5', fast=True, autocast=False, monkeypatch=None, **kw):
    "Gradients and counts of a pass under noise"
    if not fast:
        monkeypatch.setattr(noise_module, 'takes_kernel', lambda *tensors: False)
    model = tiny(arch)
    ff = attach(model.train(), strong(**kw))
    ff.step(sentences=100)
    torch.manual_seed(0)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    if not fast:
        monkeypatch.undo()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return grads, [c for c, _ in ff.context.counts.values()], [n for _, n in ff.context.counts.values()]


@pytest.mark.parametrize('arch', ['mt5', 'rwkv', 'gpt2'])
@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('mode', ['branching', 'highway'])
def test_a_step_of_a_model_is_equal(arch, autocast, mode, monkeypatch):
    fast, slow = (trained(arch, f, autocast, monkeypatch, mode=mode) for f in (True, False))
    assert fast[2] == slow[2]
    for a, b in zip(fast[0] + fast[1], slow[0] + slow[1]):
        assert torch.equal(a, b)


def test_a_copy_draws_the_same():
    model = random_tiny('mt5').train()
    ff = attach(model, strong())
    ff.step(sentences=100)
    twin = copy.deepcopy(ff)
    losses = []
    for each in (ff, twin):
        torch.manual_seed(0)
        losses.append(each.model(input_ids=IDS, labels=IDS).loss.item())
    assert losses[0] == losses[1]
    for a, b in zip(ff.context.counts.values(), twin.context.counts.values()):
        assert torch.equal(a[0], b[0])


@pytest.mark.parametrize('reentrant', [False, True])
def test_passes_that_differ_in_one_token_are_told_apart(reentrant):
    "Recomputed after both have run, each gets the noise that it had"
    ids = torch.stack([IDS[0], IDS[0]])
    ids[1, -1] += 1
    grads = []
    for checkpoint in (False, True):
        model = tiny('gpt2').train()
        ff = attach(model, strong())
        ff.step(sentences=100)
        if checkpoint:
            model.gradient_checkpointing_enable(dict(use_reentrant=reentrant))
        sum(model(input_ids=row[None], labels=row[None]).loss for row in ids).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*grads, atol=1e-6)


def test_nothing_is_read_where_no_noise_is_due():
    "Attached with strength 0 no operation is added to a pass"
    counts = []
    for on in (False, True):
        model = random_tiny('mt5').train()
        if on:
            attach(model, strong(top=0.0))
        with Counted() as seen:
            model(input_ids=IDS, labels=IDS).loss.backward()
        counts.append(seen.made)
    assert counts[0] == counts[1]


def test_a_pass_of_a_model_asks_for_one_hidden_more_a_site():
    "The pass is known by the sums of its tokens, which the kernel has: no hidden is read or copied for it"
    asked, ids = [], IDS.repeat(8, 4)
    for top in (0.0, 2.0):
        model = random_tiny('mt5', dropout_rate=0.0).train()
        ff = attach(model, strong(top=top))
        ff.step(sentences=100)
        model(input_ids=ids, labels=ids)
        asked.append(allocated(lambda: model(input_ids=ids, labels=ids)))
    hidden = ids.numel() * ff.sites[0].d_ff * 4
    assert len(ff.sites) * hidden <= asked[1] - asked[0] <= 1.6 * len(ff.sites) * hidden


# On a GPU

TRITON = """
import torch
from ff_nbdev.mechanisms import noise as N
torch.set_num_threads(1)
cases = [(64, 3, 1, True, 'uniform'), (100, 5, 2, False, 'range'), (3, 3, 1, True, 'uniform')]
for seed, dtype in enumerate([torch.float32, torch.bfloat16]):
    for units, width, per_sign, signed, kind in cases:
        made = torch.Generator().manual_seed(seed)
        h, usage = torch.randn(2, 3, units, generator=made).to(dtype), torch.rand(units, generator=made)
        h[1, 2] = h[1, 2].sign()
        h[0, 1, 0] = float('nan')
        keys = N.token_keys(1, 2, torch.arange(2), 0, 3)
        noise = N.HubNoise(2.5, width, usage, .5, kind, per_sign, signed)
        line, inside = N._line_of(noise, units)
        how = N._Pass(line, width, per_sign, signed, False)
        want, starts = N.noisy_in_torch(h, N._draws_in_torch(keys, units), noise)
        for out in (dtype, torch.bfloat16):
            hubs = torch.zeros(6, per_sign*(1 + signed), dtype=torch.int32)
            sums = torch.zeros(6, dtype=torch.float64)
            for search in (True, False):
                given = h.flatten(0, 1), hubs, sums, keys.flatten(), inside, how, out, search
                got = N._run_triton(*given).view_as(h)
                assert torch.equal(got.nan_to_num(7.), want.to(out).nan_to_num(7.)) and got.dtype == out
            assert torch.equal(hubs.long(), starts.flatten(0, 1))
            assert torch.allclose(sums, h.double().sum(-1).flatten(), equal_nan=True)
print('equal')
"""


def test_the_kernel_for_a_gpu_in_tritons_interpreter():
    pytest.importorskip('triton')
    own = os.environ | dict(TRITON_INTERPRET='1')
    ran = subprocess.run([sys.executable, '-c', TRITON], capture_output=True, text=True, env=own)
    assert ran.stdout.strip() == 'equal', ran.stderr[-2000:]
