"Translations: distances and effects counted by hand, planted pairs that must be found, and nulls that must stay empty"

import json

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from ff_nbdev.data.corpus import load_corpus
from ff_nbdev.data.objectives import Windows
from ff_nbdev.data.tokens import encode_corpus
from ff_nbdev.data.tokenizers import load_tokenizer
from ff_nbdev.evaluation import concepts as K, languages as L
from ff_nbdev.evaluation.activations import instances, mean_activation
from ff_nbdev.evaluation.pathways import agreement, strata_of
from ff_nbdev.evaluation.signatures import Hubs
from ff_nbdev.models.tiny import random_tiny

torch.set_num_threads(1)
HERE = ['function', 'method', 'value', 'object', 'file', 'class', 'return', 'name', 'list', 'default', 'string', 'set']
THERE = ['number', 'input', 'type', 'module', 'data', 'line', 'given', 'code', 'array', 'argument', 'path', 'key']


@pytest.fixture(scope='module')
def half():
    return L.planted_translations(40, 0.5, sites=2, d_ff=256, power=0.8)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    "Two texts of words that the shipped vocabulary knows: 'list' also in the second text, 'key' hardly in it"
    d = tmp_path_factory.mktemp('languages')
    mp = pytest.MonkeyPatch()
    mp.setenv('FF_NBDEV_CACHE', str(d / 'cache'))
    tok, out = load_tokenizer('tiny-mt5'), []
    for k, words in enumerate((HERE, [w for w in THERE if w != 'key'] + ['list'])):
        rng = np.random.default_rng(k)
        lines = [' '.join(rng.choice(words, 9)) + f' {i}.' for i in range(500)]
        if k:
            lines[7] += ' the key is here'
        (d / f'{k}.txt').write_text('\n'.join(lines))
        out.append(Windows(encode_corpus(load_corpus(d / f'{k}.txt'), tok), 'train', 32))
    mp.undo()
    return tok, *out


# Pairs


def test_our_own_list_is_sound():
    for a in K.LANGUAGES:
        for b in K.LANGUAGES:
            if a == b:
                continue
            rows = K.concepts(a, b)
            assert len(rows) >= 150 and all(
                x and y and k in ('noun', 'verb', 'adjective', 'number', 'other') for x, y, k in rows
            )
            for side in (0, 1):
                assert len({r[side] for r in rows}) == len(rows), 'a word stands twice'
    assert {(y, x, k) for x, y, k in K.concepts('fr', 'de')} == set(K.concepts('de', 'fr')) and (
        'water',
        'eau',
        'noun',
    ) in K.concepts()


@pytest.mark.parametrize('line', ['water eau', 'water\t', '\teau', 'a\tb\tc\td'])
def test_a_bad_line_is_named(tmp_path, line):
    p = tmp_path / 'p.tsv'
    p.write_text(f'# words\n\nred\trouge\n{line}\n', 'utf-8')
    with pytest.raises(ValueError, match='line 4'):
        K.read_pairs(p)
    p.write_text('# nothing\n\n')
    with pytest.raises(ValueError, match='no pairs'):
        K.read_pairs(p)
    p.write_text('red\trouge\n fire\tfeu \tnoun\n', 'utf-8')
    assert K.read_pairs(p) == [('red', 'rouge', ''), ('fire', 'feu', 'noun')]


def test_accents_do_not_hide_a_cognate():
    assert (
        K.same_start('Éducation', 'education') and K.same_start('idea', 'idée') and not K.same_start('school', 'école')
    )


def test_pairs_are_left_out_for_a_reason(two):
    tok, a, b = two
    ask = list(zip(HERE, THERE, ['noun'] * 12)) + [
        ('file', 'file', ''),
        ('value', 'incomprehensibilities', ''),
        ('method', 'path', ''),
    ]
    why = {(r['a'], r['b']): r['why'] for r in K.usable_pairs(tok, ask, a, b)}
    assert why['list', 'array'] == 'at home in both languages' and why['set', 'key'] == 'under 16 instances'
    assert (
        why['file', 'file'] == 'one token for both'
        and why['value', 'incomprehensibilities'] == 'not one token'
        and why['method', 'path'] == 'a word of another pair'
    )
    assert sum(v is None for v in why.values()) == 10
    n = {r['a']: r['counts'] for r in K.usable_pairs(tok, ask, a, b)}
    assert n['file'][0] == sum((np.asarray(a.ids) == tok.get_vocab()['▁file']).tolist())
    with pytest.raises(ValueError, match='9 of 9 pairs can be used, and 10'):
        K.usable_pairs(tok, ask[:8] + ask[9:10], a, b)


# Reading


@pytest.mark.parametrize('arch', ['mt5', 'rwkv'])
def test_halves_are_means_of_instances(two, arch):
    tok, a, b = two
    model = random_tiny(arch, vocab_size=len(tok))
    pairs = list(zip(HERE, THERE, ['noun'] * 12))
    t = L.read_translations(model, tok, a, b, pairs, ('here', 'there'), instances=20, baseline=200)
    assert (
        len(t) == 10
        and t.left_out == {'at home in both languages': 1, 'under 16 instances': 1}
        and t.languages == ('here', 'there')
    )
    for s, w in enumerate((a, b)):
        ids = [tok.get_vocab()['▁' + x[s]] for x in t.words]
        found = instances(model, tok, w, ids, 20)
        for k in range(len(t.sites)):
            for i in (0, 4, 9):
                x = found.acts[k][torch.as_tensor(np.flatnonzero(found.owner == i))]
                assert len(x) == 20
                assert torch.allclose(t.means[s][k][i], torch.stack([x[:10].mean(0), x[10:].mean(0)]), atol=1e-5)
            assert torch.allclose(t.baselines[s][k], mean_activation(model, tok, w, 200)[k], atol=1e-5)
        assert torch.equal(t.embedding[s], model.get_input_embeddings().weight[ids])
    json.dumps(r := L.translation_test(t, 99), allow_nan=False)
    assert r['cognates'] == int(t.cognate.sum())


def test_two_instances_at_least(two):
    with pytest.raises(ValueError, match='halves need at least 2'):
        L.read_translations(None, *two, least=1)


# Distances


def test_powers_are_moved_as_scipy_moves_them():
    rng = np.random.default_rng(0)
    n, m, d = 5, 6, 90

    def some(k):
        p = np.sort(rng.choice(d, (k, 2, 2, 3)), -1).astype(float)
        w = rng.uniform(0.5, 2, p.shape)
        gone = rng.random(p.shape) < 0.3
        return Hubs(np.where(gone, np.nan, p), np.where(gone, np.nan, w), np.array([d, d]))

    a, b = some(n), some(m)
    a.places[0, 0, 0] = a.powers[0, 0, 0] = np.nan
    b.places[0, 0, 0] = b.powers[0, 0, 0] = np.nan
    got = L.powers_distance(a, b)
    for s, i, j in np.ndindex(2, n, m):
        want = 0
        for g in range(2):
            x, y = ~np.isnan(a.places[i, s, g]), ~np.isnan(b.places[j, s, g])
            want += (
                wasserstein_distance(
                    a.places[i, s, g][x], b.places[j, s, g][y], a.powers[i, s, g][x], b.powers[j, s, g][y]
                )
                / d
                if x.any() and y.any()
                else float(x.any() or y.any())
            ) / 2
        assert got[s, i, j] == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize('measure', L.MEASURES[:4])
def test_a_common_order_matters_to_geography_alone(half, measure):
    a, b = (L.word_distances(half, measure, permuted=p) for p in ('', 'alike'))
    assert np.allclose(a, b, atol=1e-5) == (measure in ('units', 'cosine')) and a.shape == (2, 80, 80)


def test_the_baselines_taken_off(half):
    own, both, words = L.centred(half, 'own'), L.centred(half, 'both'), L.centred(half, 'words')
    for s in (0, 1):
        assert torch.allclose(own[s][1], half.means[s][1].mean(1) - half.baselines[s][1])
    for x in words:
        assert all(v.mean(0).abs().max() < 1e-5 for v in x)
    assert torch.allclose(
        both[0][0] - own[0][0], ((half.baselines[0][0] - half.baselines[1][0]) / 2).expand(40, -1), atol=1e-5
    )
    for bad, what in (
        (dict(baseline='none'), 'baseline='),
        (dict(permuted='yes'), 'permuted='),
        (dict(measure='embedding'), 'no rows'),
    ):
        with pytest.raises(ValueError, match=what):
            L.centred(half, **bad)
    with pytest.raises(ValueError, match='Unknown measure'):
        L.word_distances(half, 'sound')


# The test


def test_effect_by_hand_and_as_agreement_has_it(half):
    d = L.word_distances(half).mean(0)
    n = len(half)
    r = L.pair_agreement(d, half, permutations=99)
    s = []
    for g in (0, 1):
        strata = strata_of(['▁' + w[g] for w in half.words], half.counts[:, g])
        s.append([(g, *x) for x in strata])
    gaps = {}
    for i in range(n):
        gaps.setdefault((s[0][i], s[1][i]), ([], []))[0].append(d[i, n + i])
    for i in range(n):
        for j in range(n):
            if i != j and (c := (s[0][i], s[1][j])) in gaps:
                gaps[c][1].append(d[i, n + j])
    both = [(len(p), np.mean(o) - np.mean(p)) for p, o in gaps.values() if o]
    assert r['effect'] == pytest.approx(sum(k * x for k, x in both) / sum(k for k, _ in both)) and r[
        'pair'
    ] == pytest.approx(np.mean([d[i, n + i] for i in range(n)]))
    a = agreement(d, [*range(n)] * 2, strata=s[0] + s[1], permutations=99)
    assert r['effect'] == pytest.approx(a['effect']) and np.allclose(r['null_interval'], a['null_interval'], atol=0.03)
    near = [d[i, n:].argmin() == i for i in range(n)] + [d[:n, n + i].argmin() == i for i in range(n)]
    assert r['found'] == pytest.approx(np.mean(near))


def test_planted_pairs_are_found_and_others_not(half):
    ask = lambda t, **kw: L.pair_agreement(L.word_distances(t, **kw).mean(0), t, permutations=199)
    none, whole = (L.planted_translations(40, x, sites=2, d_ff=256, power=0.8) for x in (0, 1))
    a, b, c = map(ask, (none, half, whole))
    assert (
        a['p'] > 0.05
        and a['ci'][0] < 0 < a['ci'][1]
        and b['p'] < 0.01
        and b['ci'][0] > 0
        and c['effect'] > 1.5 * b['effect']
        and c['found'] > 0.8 > 0.6 > b['found'] > 0.3
    )
    assert ask(half, permuted='differently')['p'] > 0.05 and ask(half, baseline='both')['standard'] < b['standard'] / 3
    assert (
        L.same_language(L.word_distances(half, baseline='both').mean(0)) == 1
        and 0.3 < L.same_language(L.word_distances(none).mean(0)) < 0.7
    )


def test_the_null_is_flat():
    "Pairs that share nothing: p spreads over its range"
    found = []
    for seed in range(40):
        t = L.planted_translations(24, 0, sites=1, d_ff=128, seed=seed)
        found.append(L.pair_agreement(L.word_distances(t, 'cosine').mean(0), t, permutations=99)['p'])
    p = np.array(found)
    assert np.mean(p < 0.1) < 0.3 and np.mean(p < 0.5) > 0.25 and np.mean(p > 0.5) > 0.25


def test_classes_of_words_are_no_meaning():
    "All nouns near all nouns, and no pair nearer than that: matched classes take it away"
    t = L.planted_translations(40, 0, sites=1, d_ff=256)
    rng = np.random.default_rng(1)
    kind = np.arange(40) % 2
    t.kinds = ['noun' if k else 'verb' for k in kind]
    bump = torch.tensor(rng.standard_normal((2, 256)), dtype=torch.float32)
    for s in (0, 1):
        t.means[s][0] = t.means[s][0] + bump[torch.as_tensor(kind)][:, None]
    d = L.word_distances(t, 'cosine').mean(0)
    free, matched = L.pair_agreement(d, t, permutations=199), L.pair_agreement(d, t, kinds=True, permutations=199)
    assert free['p'] < 0.01 and matched['p'] > 0.05 and abs(matched['effect']) < free['effect'] / 4


def test_pairs_that_begin_alike_are_set_apart(half):
    t = L.planted_translations(40, 0.5, sites=1, d_ff=256, power=0.8)
    t.cognate = np.arange(40) < 20
    r = L.translation_test(t, 99)['measures']['places']['words']
    assert (
        r['all']['pairs'] == 40 and r['apart']['pairs'] == 20 and r['all']['p'] < 0.05 < r['apart']['p']
    )  # all that share places begin alike
    with pytest.raises(ValueError, match='Only 9 pairs'):
        L.pair_agreement(L.word_distances(half).mean(0), half, np.arange(40) < 9)


def test_all_of_it_is_a_result(half):
    r = L.translation_test(half, 99)
    assert (
        set(r['measures']) == set(L.MEASURES[:4])
        and r['kinds'] is None
        and len(r['layers']) == 2
        and 'NaN' not in json.dumps(r)
    )
    assert (
        r['self']['places']['one']['found'] > 0.9
        and r['controls']['differently']['units']['p'] > 0.01
        and r['layers'][0]['places']['p'] < 0.05
    )
    fig = L.plot_translations(dict(a=r, b=r))
    assert len(fig.axes) == 3
