"Pathways: the pictures hold what they claim, and agreement finds planted families and nothing else"

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from ff_nbdev.evaluation import pathways as P, signatures as S
from ff_nbdev.evaluation.activations import Instances

torch.set_num_threads(1)
NASTY = ['<&"\'', '</script><b>', ']]>', '\x00\ud800\x1b', '_x', 'é▁漢', '{0}', '\\u003c']


def families(count=6, each=4, n=16, seed=0, d_ff=256):
    "Tokens of a family share all places; their noise is their own"
    planted = S.planted_instances(count, n=each * n, seed=seed, d_ff=d_ff)
    k = count * each
    names = [f'▁{chr(97 + i // each)}{chr(97 + i % each)}x' for i in range(k)]
    return Instances(names, np.arange(k), np.repeat(np.arange(k), n), planted.acts, planted.sites)


def signs(names=None, n=6, seed=0):
    found = S.planted_instances(n, n=8, seed=seed, d_ff=256)
    if names:
        found.tokens = names
    return P.signatures_of(found)


def random_signatures(rng, n, sites=5, most=3, d_ff=300):
    "Hubs anywhere, some missing"
    stacks = [(f's{k}', 'encoder' if k < 2 else 'decoder', k) for k in range(sites)]
    out = []
    for t in range(n):
        p = rng.integers(0, d_ff, (sites, 2, most)).astype(float)
        p[rng.random((sites, 2)) < 0.2] = np.nan
        p[..., 1:][rng.random((sites, 2, most - 1)) < 0.5] = np.nan
        w = np.where(np.isnan(p), np.nan, rng.random(p.shape) + 0.1) * np.array([1, -1])[:, None]
        out.append(S.Signature(f't{t}', p, w, np.full(sites, d_ff), stacks))
    return out


# Pictures


def test_signatures_of_is_signature_of_each():
    found = families()
    for a, k in zip(P.signatures_of(found, [3, found.tokens[5]]), (3, 5)):
        b = S.signature(found, k)
        assert (
            a.token == b.token
            and np.array_equal(a.places, b.places, equal_nan=True)
            and np.array_equal(a.powers, b.powers, equal_nan=True)
        )


def test_links_by_hand():
    "Strongest to strongest, of one sign, within one stack, as wide as the weaker share"
    sig = random_signatures(np.random.default_rng(0), 4)
    got = {(r['token'], r['sign'], r['site']): r for r in P.links(sig)}
    want = 0
    for t, s in enumerate(sig):
        for g in range(2):
            for k in range(4):
                a, b = s.places[k, g, 0], s.places[k + 1, g, 0]
                if k == 1 or np.isnan(a) or np.isnan(b):
                    assert (t, g, k) not in got
                    continue
                share = lambda k: abs(s.powers[k, g, 0]) / max(np.nanmax(np.abs(x.powers[k])) for x in sig)
                r = got[t, g, k]
                want += 1
                assert (r['place'], r['next']) == (a / 300, b / 300) and r['width'] == pytest.approx(
                    min(share(k), share(k + 1))
                )
    assert len(got) == want > 10


def test_plot_shows_every_hub_and_line():
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    sig = random_signatures(np.random.default_rng(1), 3)
    for some in (sig[:1], sig):
        fig, ax = plt.subplots()
        P.pathway_plot(some, ax)
        assert sum(len(c.get_offsets()) for c in ax.collections if len(c.get_offsets())) == sum(
            len(s.rows()) for s in some
        )
        assert len(ax.lines) == len(P.links(some))
        plt.close(fig)
    assert [t.get_text() for t in P.pathway_plot(sig).get_legend().get_texts()] == [' t0', ' t1', ' t2']


def unpack(svg):
    "The script's data, read by hand"
    data = json.loads(re.search(r'D=(\{.*?\}),NS=', svg, re.S)[1])

    def places_and_powers(group):
        return [(int(h[:3], 36), int(h[3:], 36) / 1295) for h in re.findall('.{5}', group)]

    hubs = []
    for token in data['h']:
        sites = [site.split('|') for site in token.split(',')]
        hubs.append([list(map(places_and_powers, signs)) for signs in sites])
    return data, hubs


def test_svg_holds_every_hub():
    sig = random_signatures(np.random.default_rng(2), 7)
    data, hubs = unpack(P.pathway_svg(sig))
    for t, s in enumerate(sig):
        for k in range(5):
            for g in range(2):
                ok = ~np.isnan(s.places[k, g])
                assert [h[0] for h in hubs[t][k][g]] == s.places[k, g][ok].astype(int).tolist()
                assert [h[1] * data['m'][k] for h in hubs[t][k][g]] == pytest.approx(
                    np.abs(s.powers[k, g][ok]).tolist(), abs=2e-3
                )


def test_svg_is_xml_whatever_the_tokens_are_called(tmp_path):
    sig = signs(NASTY, len(NASTY))
    svg = P.pathway_svg(sig, tmp_path / 'p.svg', title='a < b & "c"')
    root = ET.fromstring(svg)
    ns = '{http://www.w3.org/2000/svg}'
    assert (tmp_path / 'p.svg').read_text('utf-8') == svg and root.get('aria-label') == 'a < b & "c"'
    names = [g.find(f'{ns}text').text for g in root.iter(f'{ns}g') if g.get('class') == 'item']
    assert (
        names == ['<&"\'', '</script><b>', ']]>', '���', '_x', 'é▁漢', '{0}', '\\u003c']
        and unpack(svg)[0]['t'] == names
    )
    assert len(list(root.iter(f'{ns}script'))) == 1 and not set(root.find(f'{ns}script').text) & set('<>&')
    assert not re.search(r'(?:href|src)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)', svg)


def test_svg_stays_small():
    sixty = random_signatures(np.random.default_rng(3), 60, sites=4)
    assert len(P.pathway_svg(sixty).encode()) <= 60_000
    deep = random_signatures(np.random.default_rng(3), 60, sites=24)
    assert len(P.pathway_svg(deep, most=1).encode()) <= 60_000
    with pytest.raises(ValueError, match='give fewer tokens'):
        P.pathway_svg(sixty * 8)
    with pytest.raises(ValueError, match='at least one'):
        P.pathway_svg([])
    with pytest.raises(ValueError, match='one model'):
        P.pathway_svg([sixty[0], deep[0]])


def nasty_pair():
    "Signatures of tokens with odd names, of which the fifth lies where the third does"
    sig = signs(NASTY, len(NASTY))
    sig[4] = S.Signature('_x', sig[2].places, sig[2].powers, sig[2].d_ff, sig[2].sites)
    return sig


def rows(signature):
    "What the hubs of a token are to be called, without its name"
    found = set()
    for k, g in np.ndindex(4, 2):
        _, stack, layer = signature.sites[k]
        places = signature.places[k, g]
        for place in places[~np.isnan(places)]:
            found.add(f'{stack} {layer}, place {int(place)}, {["positive", "negative"][g]}')
    return found


def labels(tab, start=''):
    "What the hubs of tokens whose name starts so are called"
    names = [hub.get_attribute('aria-label') for hub in tab.locator('.hub').all()]
    return {name.split(', ', 1)[1] for name in names if name.startswith(start)}


@pytest.fixture
def tab(browser):
    "A page of the browser, and what it said and asked for"
    tab, seen = browser.new_page(), []
    tab.on('pageerror', lambda e: seen.append(str(e)))
    tab.on('console', lambda m: seen.append(m.text))
    tab.on('request', lambda r: seen.append(r.url))
    yield tab, seen
    tab.close()


def test_svg_in_a_browser(tab, tmp_path):
    "As a file: choose by keyboard, hover, read"
    tab, seen = tab
    sig = nasty_pair()
    P.pathway_svg(sig, tmp_path / 'p.svg', shown=1)
    tab.goto(f'file://{tmp_path}/p.svg')
    assert seen == [f'file://{tmp_path}/p.svg']
    seen.clear()
    assert labels(tab) == rows(sig[0])
    assert tab.locator('.hub[fill="#b2182b"]').count() > 0
    item = tab.locator('.item').nth(2)
    item.focus()
    tab.keyboard.press('Enter')
    assert item.get_attribute('aria-checked') == 'true' and labels(tab, ']]>') == rows(sig[2])
    tab.evaluate("document.activeElement.blur()")
    tab.locator('.hub').last.focus()
    assert tab.locator('.say').first.text_content().startswith(']]> · decoder 3 · place ')
    assert '_x' in tab.locator('.say').nth(1).text_content()
    assert 'near' in tab.locator('.item').nth(4).get_attribute('class')
    assert 'near' not in tab.locator('.item').nth(2).get_attribute('class')
    item.focus()
    tab.keyboard.press(' ')
    assert item.get_attribute('aria-checked') == 'false'
    assert not seen


def test_svg_twice_within_one_page(tab):
    tab, seen = tab
    sig = nasty_pair()
    svg = P.pathway_svg(sig, shown=1)
    tab.goto('about:blank')
    tab.set_content(f'<!DOCTYPE html><body><p>before</p>{svg}{svg}<p>after</p></body>')
    assert tab.locator('svg').count() == 2
    assert tab.locator('body > p').count() == 2
    assert tab.locator('.hub').count() == 2 * len(rows(sig[0]))
    assert tab.locator('b').count() == 0
    assert not [s for s in seen if not s.startswith('about:')]


# Shared places


def test_sharing_is_a_partition():
    sig = random_signatures(np.random.default_rng(4), 12)
    h = P.as_hubs(sig)
    t = P.sharing(h, [s.token for s in sig], 0.05, least=1, sites=sig[0].sites)
    for k in range(5):
        for g in range(2):
            rows = t[(t.layer == k) & (t.sign == '+-'[g])]
            has = {s.token for s in sig if not np.isnan(s.places[k, g]).all()}
            assert {x for names in rows.tokens for x in names.split()} == has
            for _, r in rows.iterrows():
                assert len(r.tokens.split()) == r.n and all(
                    np.nanmin(np.abs(sig[int(x[1:])].places[k, g] - r.place)) <= 15 for x in r.tokens.split()
                )


def test_sharing_finds_families():
    found = families()
    h = P.as_hubs(P.signatures_of(found))
    t = P.sharing(h, found.tokens, 0.03)
    assert t.n.iloc[0] >= 4
    together = [set(names.split()) for names in t.tokens]
    for f in range(6):
        family = set(found.tokens[4 * f : 4 * f + 4])
        assert any(family <= names for names in together)
    with pytest.raises(ValueError, match='one text for each'):
        P.sharing(h, found.tokens[:3])


# Agreement


def slow_effect(d, labels, strata, keep=lambda i, j: True):
    "Pair by pair"
    cells = {}
    for i in range(len(d)):
        for j in range(i):
            if labels[i] is None or labels[j] is None or not keep(i, j):
                continue
            cells.setdefault(tuple(sorted([strata[i], strata[j]])), ([], []))[
                0 if set(labels[i]) & set(labels[j]) else 1
            ].append(d[i, j])
    both = [c for c in cells.values() if c[0] and c[1]]
    return sum(len(a) * (np.mean(b) - np.mean(a)) for a, b in both) / sum(len(a) for a, b in both)


def test_agreement_pair_by_pair():
    rng = np.random.default_rng(0)
    names = [f'▁{"abc"[i % 3] * 4}{i}' for i in range(25)]
    for r in range(5):
        d = rng.random((25, 25))
        d = d + d.T
        strata = [('x', bool(i)) for i in rng.integers(0, 2, 25)]
        labels = [None if rng.random() < 0.2 else set(rng.choice(list('pqrs'), 2).tolist()) for _ in range(25)]
        assert P.agreement(d, labels, strata=strata, permutations=20)['effect'] == pytest.approx(
            slow_effect(d, labels, strata)
        )
        assert P.agreement(d, labels, names, stems=False, permutations=20)['effect'] == pytest.approx(
            slow_effect(d, labels, [0] * 25, lambda i, j: i % 3 != j % 3)
        )


def test_planted_families_agree_and_shuffled_ones_do_not():
    found = families()
    h = P.as_hubs(P.signatures_of(found))
    d, first = S.signature_distance(h, h), [t[1] for t in found.tokens]
    r = P.agreement(d, first, strata=P.strata_of(found.tokens, np.arange(24)), permutations=499)
    assert r['p'] == 1 / 500 and r['ci'][0] > 0.1 and r['effect'] > r['null_interval'][1] and r['related'] < 0.05
    p = np.random.default_rng(0).permutation(24)
    s = P.agreement(d[p][:, p], first, permutations=499)
    assert s['p'] > 0.02 and s['null_interval'][0] < s['effect'] < s['null_interval'][1] * 1.5
    words = {t[1:]: {f} for t, f in zip(found.tokens, first)}
    assert P.agreement(d, words, found.tokens, permutations=99)['effect'] == pytest.approx(
        P.agreement(d, first, permutations=99)['effect']
    )


def test_p_is_calibrated():
    "On labels dealt at random p is spread evenly, also where frequency moves both labels and distances"
    rng, ps = np.random.default_rng(5), []
    for _ in range(60):
        x = rng.random((30, 3))
        d = np.abs(x[:, None] - x).mean(-1)
        often = np.arange(30) < 15
        d = d + 0.3 * (often[:, None] != often)
        labels = np.where(rng.random(30) < np.where(often, 0.8, 0.2), 'a', 'b').tolist()
        ps.append(P.agreement(d, labels, strata=often.tolist(), permutations=99, seed=1)['p'])
    ps = np.array(ps)
    assert 0.35 < ps.mean() < 0.65 and (ps <= 0.1).mean() < 0.22
    assert (
        P.agreement(d, labels, permutations=99)['p'] < 0.05
    )  # the same without strata: frequency passes for agreement


def test_classes_and_strata():
    t = ['▁north', 'Now', '▁no', 's', '.', '▁(', 'Ġnote', '▁12']
    assert P.two_letters(t) == ['no', 'no', 'no', None, None, None, 'no', None]
    assert P.piece_kinds(t) == ['word', 'inside', 'word', 'inside', 'sign', 'sign', 'word', 'word']
    assert [s[0] for s in P.strata_of(list('abcdef'), [1, 2, 3, 30, 20, 10], 3)] == [2, 2, 1, 0, 0, 1]
    same, has = P.related_pairs([{'a'}, 'a', None, ('a', 'b'), 'b'])
    assert (
        has.tolist() == [True, True, False, True, True]
        and same[0, 1]
        and same[0, 3]
        and same[3, 4]
        and not same[0, 4]
        and not same.diagonal().any()
    )


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda d: P.agreement(d, ['a'] * 9), 'one label for each'),
        (lambda d: P.agreement(d, ['a'] * 10), 'not all share'),
        (lambda d: P.agreement(d, {'x': {'a'}}), 'pass tokens'),
        (lambda d: P.agreement(d, list('aaaaabbbbb'), strata=list(range(10))), 'fewer bins'),
        (lambda d: P.signatures_of(families(), ['▁nowhere']), 'not among'),
    ],
)
def test_errors_say_how_to_mend_it(call, says):
    d = np.random.default_rng(0).random((10, 10))
    d = d + d.T
    with pytest.raises(ValueError, match=says):
        call(d)
