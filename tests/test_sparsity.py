"""Weight sparsity against a sort in plain Python, and what it must leave alone."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tiny_models import tiny
from ff_nbdev.baselines.sparsity import (
    WeightSparsity,
    abs_top_k,
    keep_largest_,
    paired_cost,
    pruning_curve,
    fraction_at,
    sparsity_table,
)
from ff_nbdev.evaluation.spatial import morans_i
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.site import FFNPattern

torch.set_num_threads(1)
ARCHS = ['mt5', 'rwkv', 'gpt2', 'llama']


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(seed=0, n=4, time=12):
    ids = torch.randint(3, 500, (n, time), generator=torch.Generator().manual_seed(seed))
    return dict(input_ids=ids, labels=ids.clone(), index=torch.arange(n) + 10 * seed)


def inputs(b):
    return {k: v for k, v in b.items() if k != 'index'}


def slow_keep(w, share, min_count=0, dim=0):
    "Entries by magnitude, then reading order; those of each unit first"
    w = w.double().numpy()
    n = w.size
    k = round(share * n)
    units = w.shape[dim]
    few = min(min_count, k // units, w.shape[1 - dim])
    out, taken = np.zeros_like(w), set()
    for u in range(units):
        own = [(r, c) for r, c in itertools.product(*map(range, w.shape)) if (r, c)[dim] == u and w[r, c] != 0]
        taken |= set(sorted(own, key=lambda p: -abs(w[p]))[:few])
    # stable: ties in reading order
    rest = sorted((p for p in itertools.product(*map(range, w.shape)) if p not in taken), key=lambda p: -abs(w[p]))
    taken |= set(rest[: k - len(taken)])
    assert len(taken) == k
    for p in taken:
        out[p] = w[p]
    return torch.from_numpy(out)


@pytest.mark.parametrize('share', [0.01, 0.1, 1 / 3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize('least, dim', [(0, 0), (2, 0), (4, 1), (50, 1)])
def test_it_is_the_slow_one(share, least, dim):
    w = draw(13, 9)
    assert torch.equal(keep_largest_(w.clone(), share, least, dim).double(), slow_keep(w, share, least, dim))


@pytest.mark.parametrize('share', [0.01, 0.03, 0.2, 0.5, 0.505, 0.9, 1.0])
def test_counts_are_exact_with_ties(share):
    for w in (torch.ones(10, 20), draw(10, 20).sign(), (draw(10, 20) * 2).round() + 10, -torch.ones(10, 20).bfloat16()):
        got = keep_largest_(w.clone(), share)
        assert (got != 0).sum() == round(share * 200) and torch.equal(got.double(), slow_keep(w, share))
    w = (draw(10, 20) * 1.5).round()
    got = keep_largest_(w.clone(), share)  # with zeros there already
    assert torch.equal(got.double(), slow_keep(w, share)) and (got != 0).sum() == min(
        round(share * 200), (w != 0).sum()
    )


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_kept_entries_are_untouched_in_any_type(dtype):
    w = draw(30, 40).to(dtype)
    got = keep_largest_(w.clone(), 0.2, 4)
    assert got.dtype == dtype and torch.equal(got[got != 0], w[got != 0]) and (got != 0).sum() == 240
    assert w.abs()[got == 0].median() < got[got != 0].abs().median()


def test_units_keep_their_least_and_the_count_stays():
    # the first units are very weak
    w = draw(50, 40) * torch.logspace(-6, 0, 50)[:, None]
    for dim, m in ((0, w), (1, w.T.contiguous())):
        assert ((keep_largest_(m.clone(), 0.15, 0, dim) != 0).sum(1 - dim) == 0).any()
        got = keep_largest_(m.clone(), 0.15, 4, dim)
        assert (got != 0).sum(1 - dim).min() == 4 and (got != 0).sum() == 300
        assert (keep_largest_(m.clone(), 0.06, 4, dim) != 0).sum(1 - dim).min() == 2  # 120 entries for 50 units


def test_idempotent_and_in_place_on_views():
    w = draw(20, 30)
    for least in (0, 3):
        once = keep_largest_(w.clone(), 0.2, least)
        assert torch.equal(keep_largest_(once.clone(), 0.2, least), once)
    store = draw(30, 20)
    view = store.T
    out = keep_largest_(view, 0.1)  # as of a Conv1D
    assert out is view and (store != 0).sum() == 60 and torch.equal(store.T.double(), slow_keep(draw(30, 20).T, 0.1))


def test_bad_arguments():
    w = draw(4, 5)
    for kw in (
        dict(fraction=0),
        dict(fraction=1.1),
        dict(fraction=float('nan')),
        dict(fraction='a'),
        dict(fraction=True),
        dict(fraction=0.5, min_count=-1),
        dict(fraction=0.5, min_count=0.5),
        dict(fraction=0.5, dim=2),
    ):
        with pytest.raises(ValueError):
            keep_largest_(w, **kw)
    with pytest.raises(ValueError, match='matrix'):
        keep_largest_(torch.ones(3), 0.5)
    assert torch.equal(w, draw(4, 5))


def test_schedule():
    assert [fraction_at(t, 0.2, 0.5) for t in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert fraction_at(0, 0.2, 0) == 0.2
    assert fraction_at(1, 0.2, 1) == pytest.approx(0.2)
    for bad in (-0.1, 1.1, float('nan')):
        with pytest.raises(ValueError, match='progress='):
            fraction_at(bad)


@pytest.mark.parametrize('share', [0.1, 0.25, 0.5, 1.0])
def test_abs_top_k(share):
    h = draw(3, 5, 40).requires_grad_()
    y = abs_top_k(h, share)
    k = round(share * 40)
    for a, b in zip(h.detach().flatten(0, 1).tolist(), y.detach().flatten(0, 1).tolist()):
        top = sorted(range(40), key=lambda i: -abs(a[i]))[:k]
        assert b == [a[i] if i in top else 0 for i in range(40)]
    y.sum().backward()
    assert torch.equal(h.grad, (y != 0).float())
    assert (abs_top_k(torch.ones(2, 40), share) != 0).sum() == 2 * k


# The class


@pytest.mark.parametrize('arch', ARCHS)
def test_step_changes_the_feed_forward_matrices_alone(arch):
    model = tiny(arch)
    before = copy.deepcopy(model.state_dict())
    sparse = WeightSparsity(model, 0.2)
    sparse.step(0.25)
    assert all(v == pytest.approx(0.6, abs=0.001) for v in sparse.fractions.values())
    assert sparse.fraction == pytest.approx(0.6)
    sparse.step(1.0)
    assert len(sparse.fractions) == sum(len(s.names) for s in sparse.sites)
    for s in find_sites(model):
        for r in s.names:
            w = s.weight(r)
            n = w.numel()
            assert round(sparse.fractions[s.name, r] * n) == round(0.2 * n) == (w != 0).sum()
            assert (w != 0).sum(0 if r == 'down' else 1).min() >= 4
    inside = {
        id(s.weight(r)) if s.weight(r)._base is None else id(s.module(r).weight)
        for s in find_sites(model)
        for r in s.names
    }
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n, p in model.named_parameters() if id(p) in inside}


def test_only_some_roles_and_an_own_pattern():
    model = tiny('mt5')
    sparse = WeightSparsity(model, 0.1, roles=('down',))
    sparse.step(1)
    assert {r for _, r in sparse.fractions} == {'down'} and all((s.weight('gate') != 0).all() for s in sparse.sites)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    own = nn.Sequential()
    own.ffn = Block()
    s = WeightSparsity(own, 0.25, anneal=0, pattern=FFNPattern('own', 'ffn', 'down', 'up'))
    s.step(0)
    assert set(s.fractions.values()) == {0.25} and (own.ffn.up.bias != 0).all()
    assert [r['share'] for r in sparsity_table(own, pattern=FFNPattern('own', 'ffn', 'down', 'up'))] == [0.25, 0.25]


def train(arch='mt5', steps=6, stop=None, start=None, **kw):
    "A plain loop; may stop after some steps and go on from what it gave"
    model = tiny(arch).train()
    opt = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)
    sparse = WeightSparsity(model, **kw) if kw else None
    first = 0
    if start:
        first, weights, moments, state = start
        model.load_state_dict(weights)
        opt.load_state_dict(moments)
        sparse.set_state(state)
    for i in range(first, stop or steps):
        loss = model(**inputs(batch(i))).loss + (sparse.penalty() if sparse else 0)
        loss.backward()
        opt.step()
        opt.zero_grad()
        if sparse:
            sparse.step((i + 1) / steps)
    return model, opt, sparse


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize('arch', ['mt5', 'rwkv'])
def test_keeping_all_is_the_bare_model_to_the_bit(arch):
    assert same(train(arch)[0], train(arch, keep=1.0)[0])
    assert same(train(arch)[0], train(arch, keep=1.0, activations=1.0)[0])
    assert not same(train(arch)[0], train(arch, keep=0.5)[0])


def test_a_run_that_goes_on_is_the_run_that_went_through():
    kw = dict(keep=0.3, activations=0.25)
    whole, _, sparse = train(**kw)
    model, opt, half = train(stop=3, **kw)
    on, _, again = train(
        start=(3, copy.deepcopy(model.state_dict()), copy.deepcopy(opt.state_dict()), half.state()), **kw
    )
    assert same(whole, on) and again.state() == sparse.state() == dict(progress=1.0, steps=6)


def test_zeroed_weights_may_come_back():
    model, _, sparse = train(keep=0.3, steps=2, stop=1, anneal=0)
    w = sparse.sites[0].weight('value')
    first = (w != 0).clone()
    opt = torch.optim.SGD(model.parameters(), 30.0)
    model(**inputs(batch(9))).loss.backward()
    opt.step()
    sparse.step(1.0)
    assert (first != (w != 0)).any() and (w != 0).sum() == first.sum()


@pytest.mark.parametrize('arch', ARCHS)
def test_activations_are_thin_until_removed(arch):
    model = tiny(arch)
    clean = model(**inputs(batch())).logits
    sparse = WeightSparsity(model, 1.0, activations=0.25)
    seen = []
    for s in sparse.sites:
        s.down.register_forward_pre_hook(lambda m, a: seen.append((a[0] != 0).sum(-1)))
    assert torch.equal(model(**inputs(batch())).logits, clean)
    seen.clear()  # at progress 0 all units pass
    sparse.progress = 1.0
    thin = model(**inputs(batch())).logits
    assert all((n <= 32).all() for n in seen) and max(n.max() for n in seen) == 32 and not torch.equal(thin, clean)
    sparse.remove()
    assert torch.equal(model(**inputs(batch())).logits, clean)
    sparse.remove()


def test_it_stands_where_a_topographic_loss_stands():
    model = tiny('mt5').train()
    sparse = WeightSparsity(model)
    loss = model(**inputs(batch())).loss
    p = sparse.penalty()
    assert p.item() == 0 and p.ndim == 0 and (loss + p / 3).item() == loss.item()
    sparse.steps = 5
    assert 'keep 0.1' in repr(sparse) and sparse.strength == 0
    state = torch.get_rng_state()
    sparse.step(0.5)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    'kw',
    [
        dict(keep=0),
        dict(keep=2),
        dict(anneal=-1),
        dict(anneal=float('nan')),
        dict(activations=0),
        dict(activations=1.5),
        dict(roles=()),
        dict(roles=('up',)),
        dict(min_count=-2),
        dict(min_count=1.5),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(kw):
    model = tiny('mt5')
    with pytest.raises(ValueError, match=list(kw)[0]):
        WeightSparsity(model, **kw)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_bad_progress_changes_nothing():
    model = tiny('mt5')
    before = copy.deepcopy(model)
    sparse = WeightSparsity(model)
    for bad in (-0.1, 3, float('nan')):
        with pytest.raises(ValueError, match='progress='):
            sparse.step(bad)
    with pytest.raises(ValueError, match='progress='):
        sparse.set_state(dict(progress=2, steps=1))
    assert same(model, before) and sparse.state() == dict(progress=0.0, steps=0)
    with pytest.raises(ValueError, match='has none of the matrices'):
        WeightSparsity(tiny('gpt2'), roles=('gate',))


# Measures


@pytest.mark.parametrize('arch', ARCHS)
def test_table(arch):
    model = tiny(arch)
    sparse = WeightSparsity(model, 0.15, min_count=0)
    sparse.step(1)
    s = sparse.sites[0]
    s.weight('value').data[3] = 0
    rows = {(r['site'], r['role']): r for r in sparsity_table(model)}
    assert len(rows) == len(sparse.fractions)
    w = s.weight('value').detach().numpy()
    r = rows[s.name, 'value']
    n = (w != 0).sum(1)
    assert (r['share'], r['per_unit'], r['per_unit_min'], r['per_unit_max'], r['dead']) == (
        pytest.approx((w != 0).mean()),
        pytest.approx(n.mean()),
        n.min(),
        n.max(),
        (n == 0).sum(),
    )
    assert r['dead'] >= 1
    d = s.weight('down').detach()
    assert rows[s.name, 'down']['per_unit_max'] == int((d != 0).sum(0).max())
    assert rows[s.name, 'down']['mask_moran'] == pytest.approx(morans_i((d != 0).double()))
    assert sparsity_table(tiny(arch))[-1]['mask_moran'] is None


def test_a_pattern_that_lies_together_is_seen():
    model = tiny('mt5')
    w = find_sites(model)[0].weight('down')
    w.data.fill_(1.0)
    w.data[:, :40] = 0
    assert (
        sparsity_table(model, ('down',))[0]['mask_moran']
        > 0.9
        > 0.2
        > abs(sparsity_table(_cut(tiny('mt5')), ('down',))[0]['mask_moran'])
    )


def _cut(model):
    WeightSparsity(model).step(1)
    return model


def test_paired_cost():
    rng = np.random.default_rng(0)
    n = rng.integers(5, 20, 60).astype(float)
    base = np.stack([0 * n, n, n * 5 + rng.normal(0, 3, 60) * n])
    other = base + np.stack([0 * n, 0 * n, 0.2 * n + rng.normal(0, 0.5, 60) * n**0.5])
    c = paired_cost(base, other)
    assert c['cost'] == pytest.approx((other[2].sum() - base[2].sum()) / n.sum())
    assert c['ce'] == pytest.approx(other[2].sum() / n.sum())
    # windows differ by far more than the two models do
    assert c['cost_ci'][0] < c['cost'] < c['cost_ci'][1]
    assert np.diff(c['cost_ci']) < 0.2
    assert paired_cost(base, base)['cost_ci'] == [0, 0]
    with pytest.raises(ValueError, match='same batches'):
        paired_cost(base, other[:, :9])
    with pytest.raises(ValueError, match='same batches'):
        paired_cost(base, other + np.array([[0], [1], [0]]))


@pytest.mark.parametrize('arch', ['mt5', 'rwkv'])
def test_pruning_curve_is_what_cutting_by_hand_gives_and_puts_back(arch):
    model, bs = tiny(arch).train(), [batch(0), batch(1)]
    for s in find_sites(model):
        s.weight('down').data.mul_(8)
        s.weight('value').data.mul_(8)
    before = copy.deepcopy(model)
    got = pruning_curve(model, bs, [], (0.3, 1.0, 0.6), draws=50)
    assert same(model, before) and model.training and [r['share'] for r in got['rows']] == [1.0, 0.6, 0.3]
    assert got['rows'][0]['cost'] == 0 and got['rows'][0]['cost_ci'] == [0, 0]
    WeightSparsity(before, 0.3, anneal=0).step(0)
    by_hand = pruning_curve(before, bs, [], (1.0,), draws=50)
    assert by_hand['clean'] == pytest.approx(got['rows'][2]['ce'], abs=1e-6)
    assert got['rows'][2]['cost'] == pytest.approx(by_hand['clean'] - got['clean'], abs=1e-6)
    assert got['rows'][2]['cost'] != 0
    with pytest.raises(ValueError, match='fraction'):
        pruning_curve(model, bs, [], (0.0,))
