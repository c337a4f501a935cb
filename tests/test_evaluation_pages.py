"What the pages of the evaluation room once checked in hidden cells"

import numpy as np
import pytest
import torch

from ff_nbdev.evaluation import languages as L, robustness as R, signatures as S
from ff_nbdev.evaluation.activations import evaluating
from ff_nbdev.evaluation.pathways import agreement, strata_of
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.tiny import random_tiny

torch.set_num_threads(1)
IDS = torch.randint(3, 400, (2, 12), generator=torch.Generator().manual_seed(0))


# Robustness


def inputs(model, ids=IDS):
    return dict(input_ids=ids) | (dict(labels=ids) if model.config.is_encoder_decoder else {})


def logits(model, *disturbance, **options):
    with evaluating(model), R.perturbed(model, *disturbance, **options):
        return model(**inputs(model)).logits


@pytest.mark.parametrize('arch', ['mt5', 'rwkv'])
def test_disturbances_are_keyed_and_leave_nothing(arch):
    model, kept = random_tiny(arch), {}
    noisy = logits(model, 'noise', 1.0)
    assert torch.equal(noisy, logits(model, 'noise', 1.0))
    assert not torch.equal(noisy, logits(model, 'noise', 1.0, seed=1))
    assert torch.equal(logits(model, 'noise', 1.0, draws=kept), noisy)
    assert torch.equal(logits(model, 'noise', 0.5, draws=kept), logits(model, 'noise', 0.5))
    with evaluating(model):
        clean = model(**inputs(model)).logits
    for kind in R.DISTURBANCES:
        assert torch.equal(logits(model, kind, 0.0), clean)
    assert (logits(model, 'noise', 1.0, sites=find_sites(model)[-1:]) - clean).abs().mean() > 0
    assert not any(s.down._forward_pre_hooks for s in find_sites(model))


def test_a_window_meets_the_same_noise_in_any_batch():
    model = random_tiny('mt5')
    with evaluating(model):
        with R.perturbed(model, 'noise', 1.0, examples=[5, 9]):
            both = model(**inputs(model)).logits
        with R.perturbed(model, 'noise', 1.0, examples=[9]):
            one = model(**inputs(model, IDS[1:])).logits
    assert torch.allclose(both[1:], one, atol=1e-5)


def test_non_hub_noise_spares_two_hubs():
    model, got = random_tiny('mt5'), []
    down = model.encoder.block[0].layer[1].DenseReluDense.wo
    hook = down.register_forward_hook(lambda module, args, out: got.append(args[0]))
    logits(model, 'noise', 0.0)
    logits(model, 'nonhub', 2.0)
    hook.remove()
    spared = (got[0] == got[1]).float().mean().item()  # two hubs of 5 of 128 units, overlap apart
    assert 0.04 < spared < 0.25


def test_wrong_disturbances_are_refused():
    model = random_tiny('mt5')
    with pytest.raises(ValueError, match='one of'):
        logits(model, 'fog', 1.0)
    with pytest.raises(ValueError, match='between 0 and 1'):
        logits(model, 'blur', 2.0)


@pytest.fixture(scope='module')
def made():
    "A model of known answers: half of what its layers are worth is left at noise 2"
    rng = np.random.default_rng(0)

    def scores(p):
        hits = rng.binomial(20, p, 200)
        return np.stack([hits, np.full(200, 20), 20 * (6 - 5 * p + 0.1 * rng.standard_normal(200))]).astype(float)

    fake = dict(clean=scores(0.6), zero=scores(0.2), mean=scores(0.18))
    fake |= {('noise', x): scores(0.6 - 0.1 * min(x, 4)) for x in [0.5, 1.0, 1.5, 2.5, 4.0, 6.0]}
    return fake | {('nonhub', x): scores(0.6 - 0.02 * x) for x in [2.0, 8.0]}


def test_made_up_thresholds_are_found(made):
    found = R.summarise(made)
    noise, nonhub = found['threshold']['noise'], found['threshold']['nonhub']
    assert abs(noise['ce'] - 2) < 0.1 and noise['ce_ci'][0] < 2 < noise['ce_ci'][1]
    assert abs(noise['relative'] - 2) < 0.15 and noise['relative_ci'][0] < 2 < noise['relative_ci'][1]
    assert abs(noise['half_of_clean'] - 3) < 0.3
    assert nonhub['ce'] is None and nonhub['relative'] is None and found['ratio'] is None
    assert [point['x'] for point in found['noise']] == [0, 0.5, 1, 1.5, 2.5, 4, 6]


def test_layers_that_do_little_have_no_threshold(made):
    little = lambda scores, hits: np.stack([np.round(scores[1] * hits), scores[1], scores[1] * (6 - 5 * hits)])
    weak = R.summarise({key: little(v, 0.2 if key == 'zero' else 0.25) for key, v in made.items()})
    assert not weak['measurable']
    assert R.format_threshold(weak['threshold']['noise'], weak['measurable']) == 'not measurable'
    found = dict(top=9.0, relative=2.345, relative_ci=(2.01, None))
    assert R.format_threshold(found, True) == '2.3 [2, > 9]'


def test_pairs_of_thresholds(made):
    other = {k: v.copy() for k, v in made.items()}
    for key in other:
        if key[0] == 'noise':
            other[key][0] *= 0.9
    assert R.paired_threshold(made, made, 'noise') == (0.0, 0.0, 0.0)
    difference, low, high = R.paired_threshold(made, other, 'noise')
    one, two = (R.summarise(scores)['threshold']['noise']['relative'] for scores in (made, other))
    assert low <= difference <= high and difference > 0 and difference == pytest.approx(one - two, abs=1e-5)
    with pytest.raises(ValueError, match='different windows'):
        R.paired_threshold(made, {k: v[:, :-1] for k, v in made.items()}, 'noise')


def test_metrics_agree_with_the_summary(made):
    t = R.summarise(made)['threshold']['noise']
    for of, key in (('accuracy', 'relative'), ('half', 'half_of_clean'), ('ce', 'ce')):
        assert R.reading(made, 'noise', of)[of] == pytest.approx(t[key], abs=1e-9)
    half_way = np.mean([made[k][2].sum() / made[k][1].sum() for k in ('clean', 'zero')])
    assert abs(R.reading(made, 'noise', 'ce', half_way)['ce'] - 1) < 0.1
    far = R.reading(made, 'noise', 'ce', 99.0)['ce']  # a unigram under the floor changes nothing
    assert far == pytest.approx(t['ce'], abs=1e-9)
    with pytest.raises(ValueError, match='Unknown metric'):
        R.reading(made, 'noise', 'bleu')


# Signatures


def slow_distance(a, b):
    "Chamfer distance of two tokens, one gap after another"
    found = []
    for site, sign in np.ndindex(a.places.shape[1], 2):
        p, q = (places[~np.isnan(places)] for places in (a.relative[0, site, sign], b.relative[0, site, sign]))
        if not len(p) or not len(q):
            found.append(float(len(p) != len(q)))
            continue
        there = np.mean([np.abs(q - place).min() for place in p])
        back = np.mean([np.abs(p - place).min() for place in q])
        found.append(0.5 * (there + back))
    return np.mean(found)


def test_signature_distance_against_loops():
    rng = np.random.default_rng(0)

    def hubs():
        places = rng.integers(0, 50, (1, 3, 2, 3)).astype(float)
        places[rng.random(places.shape) < 0.5] = np.nan
        return S.Hubs(places, np.ones(places.shape), np.array([50, 60, 70]))

    for _ in range(20):
        x, y = hubs(), hubs()
        assert S.signature_distance(x, y)[0, 0] == pytest.approx(slow_distance(x, y), abs=1e-12)
        assert S.signature_distance(y, x)[0, 0] == pytest.approx(slow_distance(x, y), abs=1e-12)
    planted = S.hubs_of(S.mean_of(S.planted_instances()))
    np.testing.assert_allclose(np.diag(S.signature_distance(planted, planted)), 0, atol=1e-12)


# Languages


def test_pair_agreement_is_the_agreement_of_pathways():
    half = L.planted_translations()
    d = L.word_distances(half, 'places').mean(0)
    strata = []
    for side in (0, 1):
        of_words = strata_of(['▁' + pair[side] for pair in half.words], half.counts[:, side])
        strata += [(side, *stratum) for stratum in of_words]
    whole = agreement(d, [*range(60)] * 2, strata=strata, permutations=99)
    mine = L.pair_agreement(d, half, permutations=99)
    assert mine['effect'] == pytest.approx(whole['effect'], abs=1e-9)
    np.testing.assert_allclose(mine['null_interval'], whole['null_interval'], atol=0.03)


def test_planted_translations_are_found_and_nothing_else():
    half, none = L.planted_translations(), L.planted_translations(share=0)
    agree = lambda t, **centring: L.pair_agreement(L.word_distances(t, 'places', **centring).mean(0), t)
    found, apart = agree(half), agree(half, permuted='differently')
    assert found['p'] < 0.01 and found['ci'][0] > 0 and found['found'] > 0.4
    assert agree(none)['p'] > 0.05 and apart['p'] > 0.05
    assert agree(half, baseline='both')['standard'] < found['standard']
    for measure in ('units', 'cosine'):
        alike = L.word_distances(half, measure, permuted='alike')
        np.testing.assert_allclose(alike, L.word_distances(half, measure), atol=1e-5)
    powers = L.word_distances(half, 'powers').mean(0)
    np.testing.assert_allclose(powers, powers.T, atol=1e-9)
    assert not np.diag(powers).any()
