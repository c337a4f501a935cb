"""Codes of hidden activations: bits against counting, planted truth, and loss recovered at its two ends."""

import ast
import itertools
import json
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ff_nbdev.baselines import code_comparison as X
from ff_nbdev.baselines import codes as C
from ff_nbdev.baselines import sae as S
from ff_nbdev.models.tiny import random_tiny

torch.set_num_threads(1)


# Bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('n,k', [(5, 0), (5, 2), (7, 7), (9, 4)])
def test_subsets_are_counted(n, k):
    assert C.sae_bits(n, k, 3) == pytest.approx(
        math.log2(len(list(itertools.combinations(range(n), k)))) + 3 * k, abs=1e-9
    )


@pytest.mark.parametrize('d,w,m', [(12, 3, 0), (12, 3, 1), (12, 3, 2), (13, 3, 3), (15, 5, 3), (10, 4, 2)])
def test_boxes_without_overlap_are_counted(d, w, m):
    ways = sum(np.diff(p).min(initial=w) >= w for p in itertools.combinations(range(d - w + 1), m))
    assert C.hub_bits(d, w, m, 3, 8) == pytest.approx(math.log2(ways) + 8 * m + 2, abs=1e-9)


def test_equal_bits_is_the_largest_k_that_fits():
    for budget in (19.5, 37.9, 60.0, 150.0, 400.0):
        k = C.equal_bits(budget, 2048)
        fits = [j for j in range(1, 200) if C.sae_bits(2048, j) <= budget]
        assert k == max(fits)
    with pytest.raises(ValueError, match='do not pay'):
        C.equal_bits(5.0, 2048)


def test_values_use_all_their_bits_and_no_more():
    x = torch.logspace(-5, 2, 4000)
    x = torch.cat([-x, torch.zeros(1), x])
    for signed in (False, True):
        c = C.to_codes(x, 100.0, 6, signed)
        back = C.from_codes(c, 100.0, 6, signed)
        assert c.min() == 0 and c.max() <= 63 and len(c.unique()) <= 64
        again = C.to_codes(back, 100.0, 6, signed)
        assert torch.equal(again, c)  # what is read is written the same
        large = x.abs() > 100 * 2**-11.5
        if not signed:
            assert (back[x < 0] == 0).all()
            large &= x > 0
        step = 12 / (2 ** (6 - signed) - 2)
        assert ((back - x).abs() / x.abs())[large].max() <= 2 ** (step / 2) - 1 + 1e-5


# Signatures ------------------------------------------------------------------------------------------------------


def planted_boxes(n=60, d=300, w=9, seed=0):
    "Two positive and one negative box for each row, heights 1 to 1.3"
    rng, x = np.random.default_rng(seed), torch.zeros(n, d)
    for r in range(n):
        for a, s in zip(rng.choice(np.arange(0, d - w, 2 * w), 3, False), (1, 1, -1)):
            x[r, a : a + w] = s * float(rng.uniform(1, 1.3))
    return x


def test_planted_boxes_come_back_up_to_rounding():
    x = planted_boxes()
    mean = torch.linspace(-1, 1, 300)
    code = C.signature_code(x + mean, mean)
    back = code(x + mean) - mean
    assert ((back - x).abs() <= x.abs() * (2 ** (12 / 254 / 2) - 1) + 1e-5).all()
    expected = C.hub_bits(300, 9, 2, 3) + C.hub_bits(300, 9, 1, 3)
    assert code.rate == pytest.approx(expected, rel=1e-6)


def test_controls_lose_what_neighbourhood_and_places_gave():
    x = planted_boxes(400)
    mean = torch.zeros(300)
    f = lambda **kw: C.fvu(x, C.signature_code(x, mean, **kw), mean)
    assert f() < 1e-3 and f(shuffle=3) > 0.6 and f(borrow=True) > 0.8
    # one of the two positive boxes is not written
    assert f(max_hubs=1) > 0.2


def test_best_box_height_is_the_window_mean():
    a = torch.randn(1, 200, generator=torch.Generator().manual_seed(2))
    out = C.Boxes(torch.zeros(200), max_hubs=1, top=10.0).write(a)[0][0]
    for inside in (out > 0, out < 0):
        # width hub_width(200), and the two do not overlap here
        assert inside.sum() == 7
        assert out[inside].unique().item() == pytest.approx(a[0, inside].mean().item(), rel=0.02)
        sign = out[inside][0].sign()
        strongest = max((sign * a[0, i : i + 7].mean()).item() for i in range(194))  # no other place has more power
        assert abs(out[inside][0].item()) == pytest.approx(strongest, rel=0.02)


def test_no_negative_values_for_a_hidden_that_has_none():
    x = torch.rand(50, 200).pow(4)
    mean = x.mean(0)
    for code in (
        C.signature_code(x, mean, False),
        C.unit_code(x, mean, False, 3),
        C.principal_code(x, mean, C.principal_axes(x, mean), False, 5),
    ):
        assert code(x).min() >= 0
        code.signed = True
        free = (code(x) - x).pow(2).sum()
        code.signed = False
        assert (code(x) - x).pow(2).sum() <= free


def test_components_and_units_are_the_best_of_their_kind():
    x = torch.randn(300, 30) @ torch.randn(30, 40)
    mean = x.mean(0)
    z = x - mean
    s = torch.linalg.svdvals(z).pow(2)
    assert C.fvu(x, C.principal_code(x, mean, C.principal_axes(x, mean), n=6), mean) == pytest.approx(
        float(1 - s[:6].sum() / s.sum()), abs=5e-3
    )
    left = z.pow(2).sort(1).values[:, :-4].sum() / z.pow(2).sum()
    assert C.fvu(x, C.unit_code(x, mean, k=4), mean) == pytest.approx(float(left), abs=5e-3)


# The autoencoder -------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def dictionary():
    g = torch.Generator().manual_seed(1)
    true = F.normalize(torch.randn(40, 32, generator=g), dim=1)

    def draw(n):
        return (true[torch.rand(n, 40, generator=g).topk(2).indices] * (0.5 + torch.rand(n, 2, 1, generator=g))).sum(
            1
        ) + 5

    x, held = draw(4000), draw(400)
    return true, x, held, S.train_sae(x, 80, 2, steps=400, held=held)


def test_planted_dictionary_is_found(dictionary):
    true, x, held, sae = dictionary
    assert (true @ sae.W_dec.detach().T).max(1).values.median() > 0.98
    assert (true @ S.TopKSAE(32, 80, 2).W_dec.detach().T).max(1).values.median() < 0.7  # the start knew nothing
    assert sae.record['fvu'] < 0.1 and sae.record['positions'] == 4000 and 0 <= sae.record['dead'] < 0.6


def test_at_most_k_latents_that_are_not_negative(dictionary):
    _, x, _, sae = dictionary
    values, which = sae.encode(x[:50])
    assert values.shape == (50, 2) and (values >= 0).all()
    z = torch.zeros(50, 80).scatter_(1, which, values)
    by_hand = sae.centre + sae.scale * (sae.b_dec + z @ sae.W_dec)
    assert torch.allclose(by_hand, sae(x[:50]), atol=1e-5)


def test_rounded_latents_cost_little_and_bits_are_the_formula(dictionary):
    _, x, held, sae = dictionary
    mean = x.mean(0)
    code = S.sae_code(x, mean, sae)
    assert C.fvu(held, code, mean) == pytest.approx(C.fvu(held, lambda a: sae(a), mean), abs=2e-3)
    assert code.rate == pytest.approx(C.sae_bits(80, 2), rel=1e-6)
    assert (code.features(held - mean) > 0).sum(1).max() <= 2


def test_going_on_leaves_the_first_as_it_is(dictionary):
    _, x, held, sae = dictionary
    before = sae.W_dec.detach().clone()
    more = S.train_sae(x, 80, 4, steps=20, start=sae, held=held)
    assert torch.equal(before, sae.W_dec)
    assert sae.k == 2
    assert more.k == 4
    assert more.record['steps'] == 420
    assert not torch.equal(before, more.W_dec)


def test_training_is_repeatable():
    x = torch.randn(400, 16)
    a, b, c = (S.train_sae(x, 24, 2, steps=30, batch=64, every=5, seed=s).W_dec for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


# Loss recovered --------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module', params=['mt5', 'rwkv'])
def scored(request):
    model = random_tiny(request.param, vocab_size=64)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if any(k in n for k in ('.wo.', 'feed_forward.value')):
                p.mul_(20)  # blocks that matter
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 64, (6, 20), generator=g)
    batch = dict(input_ids=ids, labels=ids.clone(), index=torch.arange(6))
    if request.param == 'mt5':
        batch['attention_mask'] = torch.ones_like(ids)
    return model, [batch]


def test_itself_gives_one_and_the_mean_gives_none(scored):
    model, batches = scored
    sites = X.find_sites(model)
    g = torch.Generator().manual_seed(3)
    means = [20 * torch.randn(s.d_ff, generator=g).abs() for s in sites]
    score = lambda codes: X.replaced_scores(model, batches, (), codes)
    clean, floor = score({}), score({s.index: C.Code(m) for s, m in zip(sites, means)})
    same = score({s.index: lambda x: x for s in sites})
    assert np.array_equal(same, clean) and not np.allclose(floor[2], clean[2])
    assert X.loss_recovered(clean, floor, same)['value'] == pytest.approx(1)
    assert X.loss_recovered(clean, floor, floor)['value'] == 0
    half = clean.copy()
    half[2] = (clean[2] + floor[2]) / 2
    r = X.loss_recovered(clean, floor, half)
    assert r['value'] == pytest.approx(0.5) and r['ci'] == pytest.approx([0.5, 0.5])


def test_zeroed_hidden_is_an_ablated_block(scored):
    from ff_nbdev.evaluation.activations import evaluating
    from ff_nbdev.evaluation.robustness import window_scores
    from ff_nbdev.models.ablation import ablate

    model, batches = scored
    with evaluating(model), ablate(model):
        expected = window_scores(model, batches[0], ())
    got = X.replaced_scores(model, batches, (), {s.index: torch.zeros_like for s in X.find_sites(model)})
    assert np.allclose(got, expected, atol=1e-4)


def test_hooks_are_taken_off_after_an_error(scored):
    model, batches = scored
    before = X.replaced_scores(model, batches, (), {})

    def broken(x):
        raise RuntimeError('no')

    with pytest.raises(RuntimeError):
        X.replaced_scores(model, batches, (), {0: broken})
    assert np.array_equal(X.replaced_scores(model, batches, (), {}), before)


def test_what_costs_too_little_is_not_measurable():
    n = np.full(5, 10.0)
    clean = np.stack([n, n, n * 2])
    floor = np.stack([n, n, n * 2.04])
    assert X.loss_recovered(clean, floor, clean) == dict(value=None, ci=None, measurable=False)
    assert X.loss_recovered(clean, np.stack([n, n, n * 2.06]), clean)['measurable']


def test_interval_covers_the_truth_about_as_often_as_it_says():
    hit = 0
    for s in range(60):
        rng = np.random.default_rng(s)
        n = np.full(40, 30.0)
        c = rng.normal(2, 0.3, 40)
        f, r = c + 1 + rng.normal(0, 0.2, 40), c + 0.4 + rng.normal(0, 0.2, 40)
        lo, hi = X.loss_recovered(*(np.stack([n, n, n * v]) for v in (c, f, r)), draws=200, seed=s)['ci']
        hit += lo <= 0.6 <= hi
    assert 50 <= hit <= 60


def test_sampled_positions_have_the_mean_of_all_positions(fake):
    from ff_nbdev.data.corpus import load_corpus
    from ff_nbdev.data.objectives import Windows, objective_for
    from ff_nbdev.data.tokens import encode_corpus
    from ff_nbdev.data.tokenizers import load_tokenizer
    from ff_nbdev.evaluation.activations import evaluating
    from ff_nbdev.models.ablation import ffn_means

    tokenizer = load_tokenizer(fake / 'tokenizer')
    tokens = encode_corpus(load_corpus(fake / 'text.txt'), tokenizer)
    w = Windows(tokens, 'train', 32)
    model = random_tiny('mt5', vocab_size=len(tokenizer))
    sites, make = X.find_sites(model), objective_for(model, tokenizer, seed=0)
    got = X.scored_positions(model, tokenizer, w, 6000, sites, 0, torch.float32)
    n = len(w)
    windows = [w[i] for i in range(n)]
    with evaluating(model):
        expected = ffn_means(model, [make(windows[start : start + 16]) for start in range(0, n, 16)])
    for s, x, e in zip(sites, got, expected):  # the down projection is linear
        assert torch.allclose(
            s.weight('down').detach() @ x.mean(0),
            e,
            atol=6 * float((x @ s.weight('down').detach().T).std(0).max()) / len(x) ** 0.5,
        )
        assert len(x) > 1000 and len(x.unique(dim=0)) > 100


# Names -----------------------------------------------------------------------------------------------------------


def test_places_name_planted_tokens_and_not_when_units_of_one_side_move():
    from ff_nbdev.evaluation.signatures import planted_instances

    a, b = planted_instances(tokens=20, n=16), planted_instances(tokens=20, n=16, draw=1)
    codes = [C.Boxes(torch.zeros(512), max_hubs=1, keep=0.0) for _ in a.acts]
    assert X.name_tokens(a, b, X.code_distance(codes), 16, 16, 2)['accuracy'] > 0.95
    moved = planted_instances(tokens=20, n=16, draw=1)
    moved.acts = [x.flip(1) for x in moved.acts]
    assert X.name_tokens(a, moved, X.code_distance(codes), 16, 16, 2)['accuracy'] < 0.3
    units = [C.unit_code(x, torch.zeros(512), k=20) for x in a.acts]
    assert X.name_tokens(a, b, X.code_distance(units), 16, 16, 2)['accuracy'] > 0.5


def test_bad_settings_are_refused_before_work():
    model = random_tiny('mt5')
    for kw, word in (
        (dict(ks=(1, 99), d_sae=50), 'more than the 50'),
        (dict(ks=()), 'ks='),
        (dict(hubs=(40,)), 'do not fit'),
        (dict(positions=10), 'one batch'),
        (dict(ks=(100,)), 'components'),
    ):
        with pytest.raises(ValueError, match=word):
            X.sae_comparison(model, 'nowhere', None, **kw)


def test_the_evaluation_asks_for_settings_that_there_are():
    "Its small comparison runs only where autoencoders are asked for, which no smoke test does"
    page = Path(__file__).parent.parent / 'nbs' / 'experiments' / 'evaluate.ipynb'
    cells = json.loads(page.read_text('utf-8'))['cells']
    code = next(s for cell in cells if 'few = dict(' in (s := ''.join(cell['source'])))
    calls = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call)]
    few = next(call for call in calls if ast.unparse(call).startswith('dict(posi'))
    names = {k.arg for k in few.keywords}
    assert 'd_sae' in names and names <= {f.name for f in fields(X.ComparisonSettings)}
