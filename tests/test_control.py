"Control: a region that feeds one token carries it, others do not, and nothing is left behind"

import copy

import numpy as np
import pytest
import torch
from tiny_models import tiny

from ff_nbdev.data.corpus import load_corpus
from ff_nbdev.data.objectives import Windows
from ff_nbdev.data.tokens import encode_corpus
from ff_nbdev.data.tokenizers import load_tokenizer, special_ids
from ff_nbdev.evaluation import control as C, steering as T
from ff_nbdev.evaluation.activations import evaluating, find_places
from ff_nbdev.evaluation.base_test import token_scores
from ff_nbdev.evaluation.evaluate import scored_targets
from ff_nbdev.evaluation.signatures import Hubs
from ff_nbdev.mechanisms.recall import hub_width
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.tiny import model_inputs, random_tiny

torch.set_num_threads(1)
D, W = 512, hub_width(512)


@pytest.fixture(scope='module')
def tok():
    return load_tokenizer('tiny-mt5')


@pytest.fixture(scope='module')
def text(tok):
    folder = encode_corpus(load_corpus(), tok)
    return Windows(folder, 'train', 32), Windows(folder, 'test', 32)


def gpt2(vocab):
    return tiny('gpt2', vocab_size=vocab, n_layer=3)


def make(arch):
    return (
        gpt2(4096)
        if arch == 'gpt2'
        else random_tiny(arch, vocab_size=4096, **({'num_hidden_layers': 3} if arch == 'rwkv' else {}))
    )


def some_batches(seed=0, cue=400, token=500, rows=24, length=14):
    "Random labels in which `token` follows `cue` now and then"
    g = np.random.default_rng(seed)
    y = g.integers(300, 390, (rows, length))
    for r in range(rows):
        k = int(g.integers(0, length - 2))
        if r % 2:
            y[r, k], y[r, k + 1] = cue, token
    y[:, -1] = 1
    y = torch.tensor(y)
    x = torch.tensor(g.integers(300, 390, (rows, 9)))
    return [
        dict(
            input_ids=x[s : s + 8],
            attention_mask=torch.ones_like(x[s : s + 8]),
            labels=y[s : s + 8],
            index=torch.arange(s, s + 8),
            sentences=torch.ones(8),
        )
        for s in range(0, rows, 8)
    ]


def toy(place, cue=400, token=500):
    "After the cue alone, one region of the last layer is active, and it feeds one token alone"
    m = random_tiny('mt5', vocab_size=4096, d_ff=D)
    sites = find_sites(m)
    g = torch.Generator().manual_seed(0)
    e = m.shared.weight.data
    e[:, :2] = 0
    e[cue, 0] = 2
    e[token, 1] = 2
    for b in m.decoder.block:
        b.layer[0].SelfAttention.o.weight.data.zero_()
        b.layer[1].EncDecAttention.o.weight.data.zero_()
    sites[2].weight('down').data.zero_()
    last, here = sites[3], slice(place - W // 2, place + W // 2 + 1)
    for role in ('gate', 'value'):
        last.weight(role).data[:, :2] = 0
        last.weight(role).data[here] = 0
        last.weight(role).data[here, 0] = 0.8
    down = last.weight('down').data
    down.copy_(0.1 * torch.randn(down.shape, generator=g))
    down[:2] = 0
    down[:, here] = 0
    down[1, here] = 0.2
    return m


def mean_and_hubs(model, batches, site, ids):
    "Baseline and hubs of labels, in plain loops"
    acts, labels = [], []
    h = site.down.register_forward_pre_hook(lambda m, a: acts.append(a[0].flatten(0, 1)))
    with torch.no_grad():
        [model(**model_inputs(b)) for b in batches]
    h.remove()
    acts, labels = torch.cat(acts), torch.cat([b['labels'].flatten() for b in batches])
    base = acts.mean(0)
    return base, C.hubs_of([torch.stack([(acts[labels == i] - base).mean(0) for i in ids])])


# One region, one token


@pytest.mark.parametrize('place', [60, 450])
def test_a_region_that_feeds_one_token_carries_it_alone(tok, place):
    m, batches, ids = toy(place), some_batches(), [500]
    site = find_sites(m)[-1]
    base, hubs = mean_and_hubs(m, some_batches(1), site, ids)
    assert hubs.places[0, 0, 0, 0] == place
    r = C.control_test(m, batches, tok, hubs, ids, site, base, random=20, matched=3, least=2)
    assert r['effect_own'] > 1 and abs(r['effect_other']) < 0.1 * r['effect_own'] and r['specificity_ci'][0] > 0.5
    for k in ('random', 'matched'):
        assert (
            abs(r[k]['specificity']) < 0.1 * r['specificity']
            and r[k]['percentile'] == 100
            and r[k]['excess_ci'][0] > 0.5
        )
    assert (
        r['random']['p'] < 0.1
        and r['regions'][0]['own'] == tok.convert_ids_to_tokens([500])
        and r['regions'][0]['positions'] == 12
    )
    same = {
        f: C.control_test(m, batches, tok, hubs, ids, site, base, 'amplify', random=4, matched=1, least=2, factor=f)
        for f in (0.0, 1.0)
    }
    assert same[0.0]['effect_own'] == pytest.approx(r['effect_own'], abs=1e-5) and same[1.0][
        'effect_own'
    ] == pytest.approx(0, abs=1e-5)
    elsewhere = Hubs(np.where(np.isnan(hubs.places), np.nan, (hubs.places + 200) % 480 + 15), hubs.powers, hubs.d_ff)
    wrong = C.control_test(m, batches, tok, elsewhere, ids, site, base, random=20, matched=3, least=2)
    assert abs(wrong['effect_own']) < 0.1 * r['effect_own']


def test_numbers_by_hand(tok):
    "Effects from whole forward passes with edited weights; p, percentile and matrix from the same runs"
    m, batches, ids = toy(300), some_batches(), [500, 330]
    site = find_sites(m)[-1]
    base, hubs = mean_and_hubs(m, some_batches(1), site, ids)
    r = C.control_test(m, batches, tok, hubs, ids, site, base, random=5, matched=2, least=2)
    labels = torch.cat([b['labels'].flatten() for b in batches])
    real = ~torch.isin(labels, torch.tensor(special_ids(tok)))

    def ce(model, bias=0.0):
        site = find_sites(model)[-1]
        h = site.down.register_forward_hook(lambda m, a, o: o + bias)
        with torch.no_grad():
            out = torch.cat(
                [
                    torch.nn.functional.cross_entropy(
                        model(**model_inputs(b)).logits.flatten(0, 1), b['labels'].flatten(), reduction='none'
                    )
                    for b in batches
                ]
            )
        h.remove()
        return out

    clean = ce(m)
    assert r['ce'] == pytest.approx(clean[real].mean().item(), abs=1e-5)
    for row, line in zip(r['regions'], r['matrix']):
        other = copy.deepcopy(m)
        w = find_sites(other)[-1].weight('down').data
        here = slice(row['place'] - W // 2, row['place'] + W // 2 + 1)
        bias = w[:, here] @ base[here]
        w[:, here] = 0
        d = ce(other, bias) - clean
        own = torch.isin(labels, torch.tensor(tok.convert_tokens_to_ids(row['own'])))
        assert row['effect_own'] == pytest.approx(d[own & real].mean().item(), abs=1e-4) and row[
            'effect_other'
        ] == pytest.approx(d[~own & real].mean().item(), abs=1e-4)
        assert line == pytest.approx([d[labels == i].mean().item() for i in ids], abs=1e-4)
    assert r['specificity'] == pytest.approx(np.mean([x['effect_own'] - x['effect_other'] for x in r['regions']]))


# Changing a region


def loud_model(arch):
    "A model whose last site says much, and its logits of one text"
    model = make(arch)
    ids = torch.randint(3, 400, (2, 9), generator=torch.Generator().manual_seed(0))
    labels = dict(labels=ids) if arch == 'mt5' else {}
    with torch.no_grad():
        find_sites(model)[-1].down.weight.mul_(5)
    return model, lambda: model(input_ids=ids, **labels).logits.detach()


@pytest.mark.parametrize('arch', ['mt5', 'rwkv', 'gpt2'])
def test_steering_is_editing_the_columns(arch):
    m, run = loud_model(arch)
    site = find_sites(m)[-1]
    before, clean = copy.deepcopy(m.state_dict()), run()
    w, keep = site.weight('down').data, site.weight('down').data.clone()
    a, b = slice(30, 35), slice(80, 85)
    edits = dict(
        silence=lambda: w[:, a].zero_(),
        amplify=lambda: w[:, a].mul_(3.0),
        move=lambda: w.copy_(torch.cat([keep[:, :30], keep[:, b], keep[:, 35:80], keep[:, a], keep[:, 85:]], 1)),
    )
    for how, edit in edits.items():
        with T.steer(m, site.index, 32, 5, how, factor=3.0, to=82):
            got = run()
        edit()
        want = run()
        w.copy_(keep)
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
        assert (got - clean).abs().max() > 1e-4
    with pytest.raises(RuntimeError, match='stop'):
        with T.steer(m, site, 32):
            raise RuntimeError('stop')
    assert torch.equal(run(), clean)
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
    assert not any(s.down._forward_pre_hooks for s in find_sites(m))


def test_steered_units_swap_stand_at_their_mean_or_stay():
    base = torch.randn(128, generator=torch.Generator().manual_seed(1))
    x = torch.randn(3, 4, 128)
    a, b = slice(30, 35), slice(80, 85)
    y = T.steered(x, 30, 5, 'move', base, to=80)
    assert torch.allclose(y[..., a] - base[a], x[..., b] - base[b], atol=1e-6)
    assert torch.allclose(y[..., b] - base[b], x[..., a] - base[a], atol=1e-6)
    assert torch.equal(y[..., 35:80], x[..., 35:80])
    assert torch.equal(T.steered(x, 30, 5, 'silence', base)[..., a], base[a].expand(3, 4, 5))
    assert torch.allclose(T.steered(x, 30, 5, 'amplify', base, 1.0), x, atol=1e-6)


@pytest.mark.parametrize('arch, layer', [('mt5', 0), ('mt5', 2), ('mt5', 3), ('rwkv', 0), ('rwkv', 2), ('gpt2', 1)])
def test_playing_back_changes_nothing(tok, arch, layer):
    "Scores with the blocks below kept are those of whole passes, and the model is itself again"
    m, batches, skip = make(arch), some_batches(), special_ids(tok)
    site = find_sites(m)[layer]
    base = torch.zeros(site.d_ff)
    if arch != 'mt5':
        batches = [dict(input_ids=b['labels'], labels=b['labels'], index=b['index']) for b in batches]
    with evaluating(m):
        score = C._scorer(m, batches, skip, site)
        active, clean = C._activity(score, site, batches, skip, base, arch == 'mt5')
        whole = token_scores(m, batches, skip)['ce'].numpy()
        np.testing.assert_allclose(clean, whole, atol=2e-5)
        for place in (20, 90):
            with T.steer(m, site, place, 9, 'amplify', factor=20.0):
                np.testing.assert_allclose(score(), token_scores(m, batches, skip)['ce'].numpy(), atol=5e-5)
        assert np.abs(score() - whole).max() < 2e-5 and active.shape == (site.d_ff,) and active.min() >= 0
    assert not any('forward' in x.__dict__ for x in m.modules())


@pytest.mark.parametrize('two', [True, False])
def test_labels_are_those_of_the_scores(tok, two):
    m, batches = make('mt5' if two else 'gpt2'), some_batches()
    skip = special_ids(tok)
    if not two:
        batches = [dict(input_ids=b['labels'], labels=b['labels'], index=b['index']) for b in batches]
    assert C._labels(batches, skip, two).tolist() == [int(i) for i in scored_targets(batches, skip, two)] and len(
        C._labels(batches, skip, two)
    ) == len(token_scores(m, batches, skip)['ce'])


# Reading


@pytest.mark.parametrize('arch', ['mt5', 'rwkv'])
def test_a_token_is_read_where_it_is_predicted(tok, text, arch):
    m = make(arch)
    site = find_sites(m)[-1]
    ids = [int(i) for i in C.frequent_tokens(text[0], tok, 20, 22)]
    read, base = C.predicting(m, tok, text[0], ids, site, 6, 60)
    places = find_places(text[0], ids, 6)
    n = 0
    if arch == 'rwkv':
        for t, w, p in places[places[:, 2] > 0]:
            got = []
            h = site.down.register_forward_pre_hook(lambda m, a: got.append(a[0]))
            with evaluating(m):
                m(input_ids=torch.as_tensor(text[0][int(w)]['ids'])[None])
            h.remove()
            torch.testing.assert_close(read.acts[0][n] + base, got[0][0, p - 1], atol=1e-4, rtol=1e-3)
            n += 1
        assert n == len(read.owner)
    else:
        with pytest.raises(ValueError, match='encoder site'):
            C.predicting(m, tok, text[0], ids, find_sites(m)[0])
        batches = C.token_batches(m, tok, text[0], ids, 6, 0)
        labels = C._labels(batches, special_ids(tok), True)
        assert all((labels == i).sum() >= 6 for i in ids)
    batches = C.token_batches(m, tok, text[1], ids, 5, 20)
    labels = C._labels(batches, special_ids(tok), arch == 'mt5')
    assert all((labels == i).sum() >= 4 for i in ids) and not set(labels.tolist()) & set(special_ids(tok))


def test_tokens_that_share_a_place_are_one_region():
    nan = np.nan
    places = np.array([[[[100, nan], [300, nan]]], [[[104, 200], [300, nan]]], [[[400, nan], [nan, nan]]]], float)
    r = C._regions(Hubs(places, np.ones_like(places), np.array([D])), '+-', W)
    assert [(x['sign'], x['start'] + W // 2, x['own'].tolist()) for x in r] == [
        (0, 100, [0, 1]),
        (0, 400, [2]),
        (1, 300, [0, 1]),
    ]
    _, near, live = C._controls(r, D, W, torch.linspace(0, 1, D), 10, 3, 0)
    for x, n in zip(r, near):
        assert len(n) == 3 and all(abs(s - t) >= W for s in n for t in x['taken'])


# All in one


def test_pathway_test_joins_both(tok, text):
    import json

    m = make('rwkv')
    r = C.pathway_test(
        m,
        tok,
        *text,
        tokens=4,
        rank_from=20,
        rank_to=49,
        n=4,
        random=4,
        matched=1,
        baseline=60,
        permutations=49,
        categories={'nothing': {'x'}},
        hows=('silence', 'move'),
    )
    assert (
        json.loads(json.dumps(r)) == r
        and set(r['control']) == {'silence', 'move'}
        and r['agreement']['categories']['effect'] is None
        and 0 < r['agreement']['piece_kinds']['p'] <= 1
    )
    s = r['control']['silence']
    assert (
        len(s['matrix']) == len(s['regions'])
        and len(s['tokens']) == 4
        and s['specificity_ci'][0] <= s['specificity'] <= s['specificity_ci'][1]
    )
    assert C.control_table(r['control']).shape == (2, 7) and not any(x.down._forward_pre_hooks for x in find_sites(m))


def test_errors_say_how_to_mend_it(tok):
    m, batches, ids = toy(300), some_batches(), [500]
    site = find_sites(m)[-1]
    base, hubs = mean_and_hubs(m, batches, site, ids)

    def within(*a, **kw):
        with T.steer(m, *a, **kw):
            pass

    for call, says in [
        (lambda: within(9, 40), 'from 0'),
        (lambda: within(3, 2), 'choose a place from'),
        (lambda: within(3, 40, 4), 'must be odd'),
        (lambda: within(3, 40, how='kill'), 'can be changed by'),
        (lambda: within(3, 40, how='move'), 'needs to'),
        (lambda: within(3, 40, how='move', to=45), 'at least 15 units apart'),
        (lambda: within(3, 40, baseline=torch.zeros(3)), 'one mean for each unit'),
        (lambda: C.control_test(m, batches, tok, hubs, [500, 2], site, base), 'one id for each'),
        (lambda: C.control_test(m, batches, tok, hubs, ids, site, base, least=400), 'give more of it'),
        (lambda: C.control_test(m, batches, tok, hubs, ids, site, base, signs='x'), "give '\\+'"),
        (
            lambda: C.control_test(
                m, batches, tok, Hubs(hubs.places.repeat(2, 1), hubs.powers, hubs.d_ff), ids, site, base
            ),
            'alone',
        ),
    ]:
        with pytest.raises(ValueError, match=says):
            call()
    assert not site.down._forward_pre_hooks
