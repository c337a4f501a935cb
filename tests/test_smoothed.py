"""The smoothed base against a dense table, esda and planted tokens."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from ff_nbdev.baselines.smoothed import (
    match_moran,
    mean_moran,
    moran_per_site,
    smoothed,
    smoothed_instances,
    smoothed_signature_test,
)
from ff_nbdev.evaluation.signatures import planted_instances, signature_test

torch.set_num_threads(1)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(x, width):
    "One unit at a time, in plain numbers"
    n, out = x.shape[-1], np.empty(x.shape)
    for i in range(n):
        g = [
            math.exp(-((i - j) ** 2) / (2 * width**2)) if abs(i - j) <= math.ceil(6 * width) else 0.0 for j in range(n)
        ]
        out[..., i] = x.numpy() @ np.array(g) / sum(g)
    return out


def esda_line(x):
    esda, libpysal = pytest.importorskip('esda'), pytest.importorskip('libpysal')
    n = len(x)
    beside = {i: [i - 1, i + 1] for i in range(1, n - 1)} | {0: [1], n - 1: [n - 2]}
    w = libpysal.weights.W({i: beside[i] for i in range(n)}, silence_warnings=True)
    return esda.Moran(x.numpy(), w, permutations=0).I


@pytest.mark.parametrize('n, width', [(3, 1.0), (20, 0.3), (41, 2.0), (64, 8.0), (10, 30.0), (700, 1.7)])
def test_smoothing_is_the_dense_one(n, width):
    x = draw(4, n)
    assert np.abs(smoothed(x, width).numpy() - dense(x, width)).max() < 1e-12
    assert np.abs(smoothed(x.float(), width).numpy() - dense(x, width)).max() < 1e-5


def test_shapes_types_and_many_rows():
    x = draw(3, 400, 30)
    y = smoothed(x, 2.0)  # 1,200 rows: in pieces
    assert y.shape == x.shape and torch.allclose(y[2, 399], smoothed(x[2, 399], 2.0), atol=1e-13)
    assert smoothed(x.half(), 2.0).dtype == torch.float16 and smoothed(x[:0], 2.0).shape == (0, 400, 30)
    before = x.clone()
    smoothed(x, 3.0)
    assert torch.equal(x, before)
    assert torch.equal(smoothed(x, 0), x) and smoothed(x, 0) is not x


def test_smoothing_is_linear_and_keeps_constants():
    x, y = draw(5, 80), draw(5, 80, seed=1)
    assert torch.allclose(smoothed(2 * x - 3 * y, 1.5), 2 * smoothed(x, 1.5) - 3 * smoothed(y, 1.5), atol=1e-12)
    for c in (0.0, 0.1, -7e8):
        assert torch.equal(smoothed(torch.full((2, 80), c), 4.0), torch.full((2, 80), c))


def test_moran_rises_with_the_width():
    x = draw(60, 300)
    values = [mean_moran(smoothed(x, w)) for w in np.geomspace(0.3, 37, 25)]
    assert all(a < b for a, b in zip(values, values[1:])) and values[0] < 0.05 and values[-1] > 0.99


def test_moran_of_smoothed_noise_is_the_closed_form():
    "Far from the ends, neighbours of Gaussian-smoothed white noise correlate by Σ g(d)g(d+1)/Σ g(d)²"
    x = draw(100, 4000)
    for w in (0.5, 1.0, 3.0):
        g = np.exp(-(np.arange(-30, 31) ** 2) / (2 * w**2))
        assert mean_moran(smoothed(x, w)) == pytest.approx((g[1:] * g[:-1]).sum() / (g**2).sum(), abs=0.01)


@pytest.mark.parametrize('moran', [0.05, 0.4, 0.8, 0.95])
def test_match_is_that_of_esda(moran):
    x = draw(12, 120)
    w = match_moran(x, moran, tol=1e-4)
    assert np.mean([esda_line(v) for v in smoothed(x, w)]) == pytest.approx(moran, abs=1.1e-4)
    dense_moran = np.mean([esda_line(torch.from_numpy(v)) for v in dense(x, w)])
    assert dense_moran == pytest.approx(moran, abs=1.1e-4)


def test_constant_vectors_are_left_out():
    x = draw(10, 100)
    mixed = torch.cat([x, torch.full((30, 100), 0.1), torch.zeros(5, 100)])
    assert mean_moran(mixed) == pytest.approx(mean_moran(x), rel=1e-12)
    assert match_moran(mixed, 0.7) == pytest.approx(match_moran(x, 0.7), rel=1e-6)
    assert mean_moran(smoothed(mixed, 3.0)) == pytest.approx(mean_moran(smoothed(x, 3.0)), abs=1e-12)
    assert math.isnan(mean_moran(torch.ones(3, 50)))
    with pytest.raises(ValueError, match='every vector is constant'):
        match_moran(torch.full((3, 50), 0.3), 0.5)


def test_what_cannot_be_had_is_refused():
    x = draw(20, 100)
    own = mean_moran(x)
    assert match_moran(x, own) == 0 and match_moran(x, own + 0.001) == 0
    for bad, words in (
        (own - 0.01, 'ask for more'),
        (0.99999, 'ask for less'),
        (1.5, 'ask for less'),
        (float('nan'), 'ask for more'),
    ):
        with pytest.raises(ValueError, match=words):
            match_moran(x, bad)
    with pytest.raises(ValueError, match='tol='):
        match_moran(x, 0.5, tol=0)
    for bad in (-1, float('nan'), float('inf')):
        with pytest.raises(ValueError, match='width='):
            smoothed(x, bad)
    for bad in (
        torch.ones(4, 2),
        torch.tensor(1.0),
        torch.ones(3, 9, dtype=torch.long),
        torch.full((2, 9), float('nan')),
    ):
        with pytest.raises(ValueError, match='cannot be smoothed'):
            smoothed(bad, 1.0)


def test_rows_are_a_sample_and_all_of_them_on_request():
    x = draw(900, 60)
    assert match_moran(x, 0.6, rows=0) == match_moran(x, 0.6, rows=900) != match_moran(x, 0.6, rows=50)
    assert mean_moran(smoothed(x, match_moran(x, 0.6, rows=0))) == pytest.approx(0.6, abs=0.0011)


@pytest.fixture(scope='module')
def sides():
    return planted_instances(tokens=12, sites=3, d_ff=256), planted_instances(tokens=12, sites=3, d_ff=256, draw=1)


def test_instances_meet_a_value_per_site(sides):
    known, other = sides
    before = [a.clone() for a in known.acts]
    smooth, widths = smoothed_instances(known, [0.3, 0.6, 0.9])
    assert moran_per_site(smooth) == pytest.approx([0.3, 0.6, 0.9], abs=0.002) and widths == sorted(widths)
    assert all(torch.equal(a, b) for a, b in zip(known.acts, before)) and smooth.sites == known.sites
    again, same = smoothed_instances(other, widths=widths)
    assert same == widths
    assert all(
        torch.allclose(a, torch.from_numpy(dense(b.double(), w)).float(), atol=1e-5)
        for a, b, w in zip(again.acts, other.acts, widths)
    )
    for kw, words in (
        (dict(), 'either'),
        (dict(moran=0.5, widths=[1.0] * 3), 'either'),
        (dict(moran=[0.5]), '1 values'),
        (dict(widths=[1.0]), '1 widths'),
        (dict(moran=-0.5), 'site 0'),
    ):
        with pytest.raises(ValueError, match=words):
            smoothed_instances(known, **kw)


def test_smoothing_means_is_smoothing_instances_and_the_baseline_comes_off_either_way(sides):
    known, _ = sides
    a, base = known.acts[0].double(), draw(256)
    assert torch.allclose(smoothed(a - base, 2.0), smoothed(a, 2.0) - smoothed(base, 2.0), atol=1e-12)
    assert torch.allclose(smoothed(a, 2.0).mean(0), smoothed(a.mean(0), 2.0), atol=1e-12)


def test_the_test_is_that_of_signatures_on_both_smoothed_sides(sides):
    known, other = sides
    r = smoothed_signature_test(known, other, 0.9, redraws=3)
    a, widths = smoothed_instances(known, 0.9)
    b, _ = smoothed_instances(other, widths=widths)
    assert {k: v for k, v in r.items() if k != 'smoothing'} == signature_test(a, b, redraws=3)
    assert [s['width'] for s in r['smoothing']] == widths
    assert all(
        abs(s['moran'] - 0.9) < 0.002 and abs(s['moran_target'] - 0.9) < 0.02 and s['own'] < 0.2 and s['wanted'] == 0.9
        for s in r['smoothing']
    )
    assert r['16:16']['accuracy'] > 0.95  # planted bumps of 9 units survive σ = 1.5
    with pytest.raises(ValueError, match='same sites'):
        smoothed_signature_test(known, dataclasses.replace(other, acts=other.acts[:2]), 0.9)


def test_no_information_comes_from_smoothing():
    "Tokens that differ in nothing stay at chance, however smooth"
    a, b = planted_instances(tokens=20, sites=2, power=0.0), planted_instances(tokens=20, sites=2, power=0.0, draw=1)
    r = smoothed_signature_test(a, b, 0.97, redraws=6)
    assert r['16:16']['accuracy'] < 0.05 + 0.08
    assert r['16:16']['cosine'] < 0.05 + 0.12
    assert min(s['moran'] for s in r['smoothing']) > 0.965


def test_very_wide_smoothing_costs_what_bumps_say():
    "The control can lose: a Gaussian of 60 of 256 units leaves little of bumps of 9"
    a, b = (
        planted_instances(tokens=20, sites=1, d_ff=256, power=0.7),
        planted_instances(tokens=20, sites=1, d_ff=256, power=0.7, draw=1),
    )
    plain = signature_test(a, b, redraws=4)['16:1']['accuracy']
    wide = signature_test(*(dataclasses.replace(x, acts=[smoothed(x.acts[0], 60.0)]) for x in (a, b)), redraws=4)[
        '16:1'
    ]['accuracy']
    assert wide < plain - 0.2
