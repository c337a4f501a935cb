"Overlap: sets of units counted by hand, planted groups, and the nulls that must stay empty"

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ff_nbdev.evaluation import overlap as O, places as P, second_order as S, words as W
from ff_nbdev.evaluation.activations import Instances

torch.set_num_threads(1)


def sets_of(s, k):
    none = np.iinfo(s.dtype).max
    return [set(s[k, g][s[k, g] != none].tolist()) for g in range(2)]


def by_hand(x, i, y, j):
    "1 − |A∩B|/|A| of one site, mean over signs"
    return np.mean([1 - len(a & b) / max(len(a), len(b), 1) for a, b in zip(sets_of(x, i), sets_of(y, j))])


def planted(by='two_letter', **kw):
    found, counts = P.planted_words(by, **kw)
    return P.places_of(found, counts)


def json_able(r):
    assert 'NaN' not in (text := json.dumps(r)) and 'Infinity' not in text
    return r


@pytest.fixture(scope='module')
def p():
    return planted()


@pytest.fixture(scope='module')
def q():
    return planted('word')


def test_top_units_are_the_largest_of_their_sign():
    m = torch.randn(9, 200, generator=torch.Generator().manual_seed(0))
    u = P.top_units([m])[0]
    assert u.shape == (9, 2, 6) and u.dtype == np.uint16
    for k, row in enumerate(m.numpy()):
        assert sets_of(u, k) == [set(np.argsort(-row)[:6].tolist()), set(np.argsort(row)[:6].tolist())]
    assert P.top_units([torch.randn(1, 2048)])[0].shape[2] == 61  # mT5-base: 3 % of 2048


def test_a_sign_that_is_absent_has_no_units():
    m = torch.zeros(2, 50)
    m[0, 7] = 1.0
    m[1, :] = -1.0
    u = P.top_units([m], 0.1)[0]
    assert sets_of(u, 0) == [{7}, set()] and sets_of(u, 1)[0] == set() and len(sets_of(u, 1)[1]) == 5
    assert P.overlap([u], [u])[0, 0].tolist() == [0.5, 1.0]  # an empty set shares nothing, with itself neither


def test_wide_sites_need_wider_numbers():
    m = torch.zeros(1, 70000)
    m[0, 69999] = 1.0
    m[0, 65535] = 0.5
    u = P.top_units([m], 1e-4)[0]
    assert u.dtype == np.uint32 and {65535, 69999} == sets_of(u, 0)[0]
    assert P.top_units([torch.ones(1, 65535)])[0].dtype == np.uint16


@pytest.mark.parametrize('chunk', [1, 4, 1024])
def test_overlap_against_sets(chunk):
    g = torch.Generator().manual_seed(1)
    a, b = ([torch.randn(n, 90, generator=g), torch.randn(n, 40, generator=g).clamp(min=-0.5)] for n in (6, 11))
    a[0][2, 4:] = 0
    b[1][3] = 1.0
    a, b = P.top_units(a, 0.15), P.top_units(b, 0.15)
    want = np.zeros((2, 6, 11))
    for site, i, j in np.ndindex(want.shape):
        want[site, i, j] = by_hand(a[site], i, b[site], j)
    np.testing.assert_allclose(P.overlap(a, b, chunk), want, atol=1e-6)
    np.testing.assert_allclose(P.paired_overlap(a, [y[:6] for y in b]), np.diagonal(want, axis1=1, axis2=2), atol=1e-6)


def test_random_sets_meet_chance():
    rng = np.random.default_rng(0)
    u = P.top_units([torch.tensor(rng.standard_normal((200, 500)))])
    d = P.overlap(u, u)[0][np.triu_indices(200, 1)]
    assert abs(d.mean() - (1 - 15 / 500)) < 0.002 and len(d) == 19900


def test_overlap_refuses_what_does_not_match():
    u, v, w = (P.top_units([torch.randn(3, d)] * n) for d, n in ((100, 2), (100, 3), (300, 2)))
    for other, why in ((v, 'sites'), (w, 'width')):
        for f in (P.overlap, P.paired_overlap):
            with pytest.raises(ValueError, match=why):
                f(u, other)
    with pytest.raises(ValueError, match='not all finite'):
        P.top_units([torch.tensor([[1.0, float('nan')]])])
    with pytest.raises(ValueError, match='share'):
        P.top_units([torch.ones(1, 9)], 0.0)


def test_places_hold_two_disjoint_halves():
    found, counts = P.planted_words(n=11)
    p = P.places_of(found, counts, n=9, least=4)
    assert set(p.n) == {8}  # the ninth has no partner
    for k in (0, 17):
        rows = np.flatnonzero(found.owner == k)
        for half, r in (('a', rows[:4]), ('b', rows[4:8]), ('whole', rows[:8])):
            for s, x in enumerate(found.acts):
                assert np.array_equal(getattr(p, half)[s][k], P.top_units([x[r].mean(0)[None]])[0][0])
    assert p.counts.tolist() == counts.tolist()


def test_tokens_with_few_instances_are_left_out():
    found, counts = P.planted_words(n=10)
    rows = np.flatnonzero((found.owner != 5) | (np.arange(len(found.owner)) % 10 < 3))
    few = Instances(found.tokens, found.ids, found.owner[rows], [x[rows] for x in found.acts], found.sites)
    p = P.places_of(few, counts, least=4)
    assert len(p) == 59 and found.tokens[5] not in p.tokens and p.counts.tolist() == np.delete(counts, 5).tolist()
    with pytest.raises(ValueError, match='Only 0 tokens'):
        P.places_of(few, counts, least=11)


def test_places_survive_a_file(tmp_path, p):
    np.savez_compressed(tmp_path / 'e.npz', other=np.ones(3), **p.arrays())
    assert all(k.startswith('overlap_') for k in p.arrays())
    with np.load(tmp_path / 'e.npz', allow_pickle=False) as z:
        r = P.Places.from_arrays(z)
    assert r.tokens == p.tokens and r.sites == p.sites and r.whole[0].dtype == np.uint16
    assert O.overlap_test(r, draws=50) == O.overlap_test(p, draws=50)
    assert O.between(p, r, 50)['distance'] == 0
    with pytest.raises(ValueError, match='overlap_'):
        P.Places.from_arrays(dict(other=1))


def test_stability_by_hand(p):
    r, words, f = O.stability(p, 200), W.bare_words(p.tokens)[0], W.frequency_bins(p.counts)

    def of_all_sites(i, j):
        return np.mean([by_hand(x, i, y, j) for x, y in zip(p.a, p.b)])

    same = [of_all_sites(k, k) for k in range(len(p))]
    other = [
        of_all_sites(i, j)
        for i, j in np.ndindex(len(p), len(p))
        if i != j and f[i] == f[j] and not W.one_lemma(words[i], words[j])
    ]
    assert r['distance'] == pytest.approx(np.mean(same), abs=1e-6) and r['other_token'] == pytest.approx(
        np.mean(other), abs=1e-6
    )
    assert (
        r['gain'] == pytest.approx(np.mean(other) - np.mean(same), abs=1e-6)
        and r['gain_ci'][0] > 0.4
        and r['resampled'] == 'tokens'
    )


def test_pure_noise_is_not_stable():
    rng = np.random.default_rng(0)
    found, counts = P.planted_words()
    noise = Instances(
        found.tokens,
        found.ids,
        found.owner,
        [torch.tensor(rng.standard_normal(x.shape), dtype=torch.float32) for x in found.acts],
        found.sites,
    )
    r = O.stability(P.places_of(noise, counts))
    assert abs(r['distance'] - r['chance']) < 0.02 and r['gain_ci'][0] < 0.005 and r['gain_ci'][1] > -0.005


def test_pair_bootstrap_against_repeated_tokens():
    rng = np.random.default_rng(0)
    D = rng.random((6, 6))
    D += D.T
    M = 1 - np.eye(6)
    M[0, 3] = M[3, 0] = 0
    W = O.draw_tokens(6, 5, 0)
    assert (W.sum(1) == 6).all()
    for w, got in zip(W, O._pair_mean(D, M, W)):
        t = np.repeat(np.arange(6), w.astype(int))
        v = [D[i, j] for i in t for j in t if M[i, j]]
        assert got == pytest.approx(np.mean(v))


def test_between_models(p, q):
    again = O.between(p, planted(draw=1))
    stranger = O.between(p, planted(model=3))
    assert abs(again['beyond_within']) < 0.02 and again['within'] == pytest.approx(again['other_instances'], abs=0.02)
    assert abs(stranger['distance'] - stranger['chance']) < 0.01 and stranger['beyond_within_ci'][0] > 0.4
    itself = O.between(p, p)
    assert itself['distance'] == 0 and itself['beyond_within'] == pytest.approx(0, abs=1e-6)
    assert itself['within'] == pytest.approx(O.stability(p)['distance'], abs=1e-6)
    mixed = O.between(p, p.keep(np.random.default_rng(0).permutation(60)[:40]))
    assert mixed['n_tokens'] == 40 and mixed['distance'] == 0  # tokens are matched by text


@pytest.mark.parametrize(
    'kw, why',
    [
        (dict(sites=2), '3 feed-forward sites and the other 2'),
        (dict(d_ff=300), '256, 300|256 and 300'),
        (dict(seed=5), 'fewer than two tokens'),
    ],
)
def test_between_refuses(p, kw, why):
    assert O.why_not(p, planted(**kw))
    with pytest.raises(ValueError, match=why):
        O.between(p, planted(**kw))


def test_between_refuses_other_names_and_vocabularies(p):
    r = p.keep(np.arange(60))
    r.sites = [(f'rwkv {s}', st, l) for s, st, l in r.sites]
    with pytest.raises(ValueError, match='different names'):
        O.between(p, r)
    r = p.keep(np.arange(60))
    r.ids = r.ids[::-1].copy()
    with pytest.raises(ValueError, match='vocabularies differ'):
        O.between(p, r)


def test_table_one(p, q):
    t = O.overlap_table(dict(p=p, q=q, narrow=planted(d_ff=300)))
    assert t.loc['p', 'p'] == pytest.approx(O.stability(p)['distance'], abs=1e-6) and t.loc['p', 'q'] == pytest.approx(
        O.between(p, q)['distance'], abs=1e-6
    )
    assert t.loc['q', 'p'] is None and t.loc['p', 'narrow'] is None
    one = O.overlap_table(dict(p=p, q=q), p.tokens[4])
    assert (
        one.loc['q', 'q'] == pytest.approx(np.mean([by_hand(a, 4, b, 4) for a, b in zip(q.a, q.b)]), abs=1e-6)
        and O.overlap_table(dict(p=p), '▁none').loc['p', 'p'] is None
    )


@pytest.mark.parametrize(
    'a, b, want',
    [
        ('return', 'returns', True),
        ('file', 'files', True),
        ('the', 'them', True),
        ('compute', 'computation', True),
        ('map', 'map', True),
        ('in', 'input', False),
        ('on', 'one', False),
        ('code', 'common', False),
        ('common', 'commit', True),
        ('com', 'cot', False),
    ],
)
def test_one_lemma(a, b, want):
    assert W.one_lemma(a, b) is want and W.one_lemma(b, a) is want


def test_pair_table_by_hand():
    tokens = ['▁file', '▁files', '▁first', '▁list', 'ing', '▁,', 'x', '▁2nd', '▁Été', '▁et', '▁First']
    t = W.pair_table(tokens, np.arange(11))
    kind = {frozenset((tokens[i], tokens[j])): k for i, j, k in zip(t['i'], t['j'], t['kind'])}
    assert {x for pair in kind for x in pair} == {'▁file', '▁files', '▁first', '▁list', 'ing', '▁Été', '▁et', '▁First'}
    assert (
        kind[frozenset(('▁file', '▁files'))] == kind[frozenset(('▁first', '▁First'))] == 'lemma'
        and kind[frozenset(('▁file', '▁first'))] == '2let'
        and kind[frozenset(('▁Été', '▁et'))] == 'random'
    )
    assert (
        (np.bincount(t['klass'] + 1) > 0).all() and (t['i'] < t['j']).all() and len(W.pair_table(['▁,'], [3])['i']) == 0
    )


def test_strata_hold_frequency_marker_and_length():
    rng = np.random.default_rng(0)
    letters = list('abcd')
    tokens = [m + ''.join(rng.choice(letters, n)) for m in ('▁', '') for n in (2, 3, 5, 8) for _ in range(12)]
    counts = rng.integers(1, 500, len(tokens))
    t = W.pair_table(tokens, counts)
    f = W.frequency_bins(counts)
    what = lambda k: (f[k], tokens[k][0] == '▁', (len(tokens[k].lstrip('▁')) > 3) + (len(tokens[k].lstrip('▁')) > 6))
    seen = {}
    for i, j, s in zip(t['i'], t['j'], t['stratum']):
        seen.setdefault(int(s), set()).add(tuple(sorted((what(i), what(j)))))
    assert all(len(v) == 1 for v in seen.values()) and len(set(map(frozenset, seen.values()))) == len(seen)
    assert np.bincount(f).tolist() == pytest.approx([24] * 4, abs=2)


def test_matched_means_by_hand(p):
    T = W.pair_table(p.tokens, p.counts)
    two, rand = T['kind'] == '2let', T['kind'] == 'random'
    D = P.overlap(p.whole, p.whole).mean(0)
    a, b = [], []
    for i, j, s in zip(*(T[k][two] for k in ('i', 'j', 'stratum'))):
        alike = rand & (T['stratum'] == s)
        strangers = D[T['i'][alike], T['j'][alike]]
        if len(strangers):
            a.append(D[i, j])
            b.append(np.mean(strangers))
    r = O.two_letter_test(p, 50)
    assert (r['two_letter'], r['random'], r['pairs_two_letter']) == (
        pytest.approx(np.mean(a), abs=1e-6),
        pytest.approx(np.mean(b), abs=1e-6),
        len(a),
    )
    w = O.draw_tokens(len(p), 3, 1)[2]
    t = np.repeat(np.arange(len(p)), w.astype(int))
    pairs = {}
    for x in range(len(t)):
        for y in range(x):
            pairs[k] = pairs.get(k := (min(t[x], t[y]), max(t[x], t[y])), 0) + 1
    at = {(i, j): k for k, (i, j) in enumerate(zip(T['i'], T['j']))}
    n = np.zeros(len(T['i']))
    for k, v in pairs.items():
        if k in at:
            n[at[k]] = v
    m, s = D[T['i'], T['j']], T['stratum']
    ok = [c for c in range(s.max() + 1) if n[two & (s == c)].sum() and n[rand & (s == c)].sum()]
    size = [n[two & (s == c)].sum() for c in ok]
    want = []
    for k in (two, rand):
        means = [np.average(m[k & (s == c)], weights=n[k & (s == c)]) for c in ok]
        want.append(np.average(means, weights=size))
    np.testing.assert_allclose(O.matched_means(T, m[None], two, rand, w)[:, 0], want, atol=1e-9)


def test_many_draws_are_those_of_one_by_one(p):
    T = W.pair_table(p.tokens, p.counts)
    two, rand = T['kind'] == '2let', T['kind'] == 'random'
    m = P.overlap(p.whole, p.whole).mean(0)[T['i'], T['j']]
    drawn = O.draw_tokens(len(p), 40, 2)
    drawn[3] = 0  # no pair, no number
    one_by_one = [O.matched_means(T, m[None], two, rand, weights) for weights in drawn]
    np.testing.assert_allclose(O.matched_means(T, m[None], two, rand, drawn), one_by_one, rtol=1e-12)
    assert np.isnan(one_by_one[3]).all() and np.isnan(O.matched_means(T, m[None], two, two & ~two, drawn)).all()
    rng, free, ratios = np.random.default_rng([0, 7]), T['kind'] != 'lemma', []
    for _ in range(30):
        dealt = T['key'].copy()
        for k in range(T['klass'].max() + 1):
            members = np.flatnonzero(T['klass'] == k)
            dealt[members] = dealt[rng.permutation(members)]
        same = dealt[T['i']] == dealt[T['j']]
        ratios.append(O.rand_2let(*O.matched_means(T, m[None], same & free, ~same & free))[0])
    letters = O._dealt_letters(T, np.random.default_rng([0, 7]), 30)
    assert O._dealt_ratios(T, m[None], letters).tolist() == ratios  # to the bit: a p value counts ties


def test_planted_letters_are_found_and_nothing_else(p, q):
    a, b = (json_able(O.two_letter_test(x, 400)) for x in (p, q))
    assert (
        a['ratio_ci'][0] > 1.1
        and a['difference_ci'][0] > 0.08
        and a['shuffled']['p'] < 0.01
        and a['shuffled']['ci'][1] < a['ratio_ci'][0]
    )
    assert a['permuted']['ci'][0] < 1 < a['permuted']['ci'][1] and abs(a['permuted']['ratio'] - 1) < 0.02
    assert (
        b['ratio_ci'][0] < 1 < b['ratio_ci'][1]
        and b['difference_ci'][0] < 0 < b['difference_ci'][1]
        and b['shuffled']['p'] > 0.02
    )
    assert a['decoder'] and a['encoder'] and len(a['layers']) == 3 and all(r['ratio_ci'][0] > 1 for r in a['layers'])


def test_shuffles_are_a_fair_test():
    low = [
        O.two_letter_test(planted('word', seed=k, model=k, sites=1, d_ff=128, n=8), 60)['shuffled']['p']
        for k in range(24)
    ]
    assert 0.3 < np.mean(low) < 0.7 and np.mean(np.array(low) < 0.1) < 0.3


def test_frequency_alone_is_no_letter():
    "Frequent words that share units: plain totals can be fooled, matched ones are not"
    rng = np.random.default_rng(0)
    words, often = 96, None
    letters = ['ba', 'ce', 'di', 'fo', 'gu', 'ha', 'le', 'mi', 'no', 'pu', 'ra', 'se']
    text = [f'▁{letters[k // 8]}{"bcdfghklmnprstvw"[k % 16]}{"aeiou"[k % 5]}' for k in range(words)]
    often = np.array([1000 - 20 * (k // 8) + k % 8 for k in range(words)])  # the beginnings of frequent words are few
    common = rng.standard_normal((4, 256))
    means = common[np.arange(words) // 24] + rng.standard_normal((words, 256))
    owner = np.repeat(np.arange(words), 12)
    found = Instances(
        text,
        np.arange(words),
        owner,
        [torch.tensor(means[owner] + 0.5 * rng.standard_normal((words * 12, 256)), dtype=torch.float32)],
        [('s', 'decoder', 0)],
    )
    r = O.two_letter_test(P.places_of(found, often), 300)
    assert (
        r['plain']['ratio'] > 1.03 and abs(r['ratio'] - 1) < 0.02 and r['shuffled']['p'] > 0.02 and r['encoder'] is None
    )


def test_too_few_pairs_are_no_number(p):
    r = json_able(O.overlap_test(p.keep(np.arange(0, 60, 5)), draws=50))
    assert (
        not r['two_letter']['measurable']
        and r['two_letter']['ratio'] is None
        and r['layers'][0]['ratio'] is None
        and r['stability']['distance'] > 0
    )


def test_named_pairs():
    words = ['▁him', '▁her', 'her', 'bit', '▁the']
    x = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    owner = np.repeat(np.arange(5), 8)
    p = P.places_of(
        Instances(words, np.arange(5), owner, [x[owner], -x[owner]], [('a', 'encoder', 0), ('b', 'decoder', 1)]),
        np.ones(5),
    )
    him, big, the, whole = O.named_pairs(p, [('him', 'her'), ('bit', 'big'), ('the', 'bit'), ('▁him', '▁the')])
    assert big['distance'] is None and big['instances'] is None and him['instances'] == [8, 8]
    for got, i, j in (
        (him, 0, 1),
        (the, 4, 3),
        (whole, 0, 4),
    ):  # the word-initial 'her', and 'bit' as there is no other
        assert (
            got['distance'] == pytest.approx(np.mean([by_hand(s, i, s, j) for s in p.whole]))
            and len(got['layers']) == 2
            and got['within'] == 0
        )


def test_ids_and_words_of_a_real_vocabulary():
    from ff_nbdev.data.corpus import load_corpus
    from ff_nbdev.data.objectives import Windows
    from ff_nbdev.data.tokens import encode_corpus
    from ff_nbdev.data.tokenizers import load_tokenizer

    tok = load_tokenizer('tiny-mt5')
    text = Windows(encode_corpus(load_corpus('python_prose'), tok), 'valid', 32)
    assert tok.convert_ids_to_tokens(W.pair_ids(tok)) == [
        t for t in ('▁the', '▁them', '▁bit', '▁big', '▁map', '▁food', '▁him', '▁her') if t in tok.get_vocab()
    ]
    ids = W.frequent_words(text, tok, 40, 5)
    n = np.bincount(np.asarray(text.ids), minlength=len(tok))[ids]
    assert (
        (np.diff(n) <= 0).all()
        and len(set(ids.tolist())) == 40
        and all(len(t.lstrip('▁')) >= 2 and t.lstrip('▁').isalpha() for t in tok.convert_ids_to_tokens(ids.tolist()))
    )
    with pytest.raises(ValueError, match='different words'):
        W.frequent_words(text, tok, 10**6)


def test_second_order_is_spearman(p):
    r = planted(model=1, sites=2, d_ff=400)
    got = json_able(S.second_order(p, r, 300))
    u = np.triu_indices(60, 1)
    v = [P.overlap(m.whole, m.whole).mean(0)[u].astype(float).round(9) for m in (p, r)]
    assert got['rho'] == pytest.approx(spearmanr(*v).statistic, abs=1e-9) and got['pairs'] == len(v[0])
    assert (
        got['null']['p'] < 0.01
        and got['matched_null']['p'] < 0.01
        and got['ci'][0] > got['null']['ci'][1]
        and abs(got['null']['mean']) < 0.02
    )
    half = [P.overlap(h, h).mean(0)[u].astype(float).round(9) for h in (p.a, p.b)]
    assert got['reliability'][0] == pytest.approx(spearmanr(*half).statistic, abs=1e-9)


def test_second_order_follows_text_not_order(p):
    r = planted(model=1)
    same = S.second_order(p, r, 20)['rho']
    assert S.second_order(p, r.keep(np.random.default_rng(0).permutation(60)), 20)['rho'] == pytest.approx(same)
    r.tokens = [r.tokens[k] for k in np.random.default_rng(1).permutation(60)]
    other = S.second_order(p, r, 300)
    assert other['null']['ci'][0] < other['rho'] < other['null']['ci'][1]
    with pytest.raises(ValueError, match='10 are needed'):
        S.second_order(p, p.keep(np.arange(9)))


def test_second_order_interval_against_repeated_tokens(p):
    X, Y = S._pair_ranks(p), S._pair_ranks(planted(model=1))
    W = O.draw_tokens(60, 3, 0)
    for w, got in zip(W, S._correlations(X, Y, W)):
        t = np.repeat(np.arange(60), w.astype(int))
        i, j = np.triu_indices(60, 1)
        k = t[i] != t[j]
        assert got == pytest.approx(np.corrcoef(X[t[i], t[j]][k], Y[t[i], t[j]][k])[0, 1])


def test_a_model_without_differences_gives_none(p):
    flat = p.keep(np.arange(60))
    flat.whole = [np.repeat(s[:1], 60, 0) for s in p.whole]
    r = json_able(S.second_order(p, flat, 20))
    assert r['rho'] is None and r['null'] is None


def test_more_alike_and_compare(p, q):
    other, elsewhere = planted(model=1), planted(model=2, sites=2, d_ff=300)
    m = S.more_alike(p, other, q, 200)
    assert m['second_order']['ci'][0] > 0 and m['second_order']['difference'] == pytest.approx(
        m['second_order']['to_q'] - m['second_order']['to_r']
    )
    back = S.more_alike(p, q, other, 200)
    assert back['second_order']['difference'] == pytest.approx(-m['second_order']['difference'])
    near = S.more_alike(p, planted(draw=1), other, 200)
    assert near['between']['ci'][0] > 0.4 and S.more_alike(p, elsewhere, q, 20)['between'] is None
    c = json_able(S.compare(p, q, 200))
    assert (
        c['why'] is None
        and c['two_letter']['ci'][0] > 0.08
        and c['two_letter']['ratio_p'] == pytest.approx(O.two_letter_test(p, 20)['ratio'])
    )
    far = json_able(S.compare(p, elsewhere, 100))
    assert (
        far['between'] is None
        and '3 feed-forward sites' in far['why']
        and far['second_order']['null']['p'] < 0.02
        and far['two_letter']['ci'][0] < 0 < far['two_letter']['ci'][1]
    )


def test_a_part_of_a_comparison_is_that_of_the_whole(p, q):
    other = planted(model=1)
    whole, three = S.compare(p, q, 50), S.more_alike(p, q, other, 50)
    for part in ('between', 'second_order', 'two_letter'):
        found = S.compare(p, q, 50, parts=[part])
        assert found == whole | dict.fromkeys({'between', 'second_order', 'two_letter'} - {part})
    assert S.more_alike(p, q, other, 50, parts=['between']) == three | dict(second_order=None)
    groups = three['second_order'] | dict(reliability=None)
    assert S.more_alike(p, q, other, 50, parts=['second_order']) == three | dict(second_order=groups, between=None)
    plain = whole['second_order'] | dict(reliability=None)
    assert S.second_order(p, q, 50, reliability=False) == plain
    for ask in (lambda: S.compare(p, q, parts=['letters']), lambda: S.more_alike(p, q, other, parts=['letters'])):
        with pytest.raises(ValueError, match="no part 'letters' of a comparison: give some of"):
            ask()


def test_one_result_for_a_model(p):
    r = json_able(O.overlap_test(p, draws=100))
    assert (
        [x['site'] for x in r['layers']] == ['site 0', 'site 1', 'site 2']
        and len(r['shown']) == 6
        and all(x['distance'] is None for x in r['named'])
    )
    assert (
        np.mean([x['stability'] for x in r['layers']]) == pytest.approx(r['stability']['distance'], abs=1e-6)
        and r['n_tokens'] == 60
        and r['instances'] == dict(least=16, median=16.0, most=16)
    )
    assert (
        r == O.overlap_test(p, draws=100)
        and r['two_letter']['ratio_ci'] != O.overlap_test(p, draws=100, seed=1)['two_letter']['ratio_ci']
    )
    import matplotlib

    matplotlib.use('Agg')
    fig = O.plot_layers(r)
    assert len(fig.axes) == 3 and len(fig.axes[0].lines) == 4 and fig.axes[1].images[0].get_array().shape == (6, 3)
    matplotlib.pyplot.close(fig)
