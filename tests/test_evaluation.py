"Properties of the evaluation room that are too heavy for its pages"

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from shared import text
from tiny_models import tiny

from ff_nbdev.data.objectives import Windows, objective_for
from ff_nbdev.data.tokenizers import special_ids
from ff_nbdev.evaluation import activations as A, robustness as R, signatures as S, spatial as P
from ff_nbdev.evaluation.base_test import token_scores
from ff_nbdev.evaluation.evaluate import evaluate, scored_targets, unigram_ce
from ff_nbdev.evaluation.contribution import ffn_ratio, matching_factors, scale_ffn
from ff_nbdev.evaluation.enough import TooLittleText
from ff_nbdev.evaluation.readings import Readings, Sizes, choose_tokens
from ff_nbdev.evaluation.result import Evaluation, plain
from ff_nbdev.mechanisms.forgetfulness import proximal_kernel
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.tiny import random_tiny

torch.set_num_threads(1)
quick = settings(max_examples=25, deadline=None)
pytestmark = pytest.mark.filterwarnings('ignore::RuntimeWarning')


def models(vocab):
    known = {arch: random_tiny(arch, vocab_size=vocab) for arch in ('mt5', 'rwkv')}
    return known | dict(gpt2=tiny('gpt2', vocab_size=vocab, n_positions=256))


# Geography


def field(rows, cols, seed):
    return torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 2


@quick
@given(st.integers(2, 14), st.integers(2, 14), st.integers(0, 10**6))
def test_moran_equals_esda(rows, cols, seed):
    import esda
    import libpysal

    x = field(rows, cols, seed)
    for contiguity in ('queen', 'rook'):
        w = libpysal.weights.lat2W(rows, cols, rook=contiguity == 'rook')
        assert P.morans_i(x, contiguity) == pytest.approx(esda.Moran(x.numpy().ravel(), w, permutations=0).I, abs=1e-12)
        w = libpysal.weights.lat2W(rows, cols, rook=contiguity == 'rook')
        assert P.morans_i(x, contiguity, standardise=False) == pytest.approx(
            esda.Moran(x.numpy().ravel(), w, transformation='b', permutations=0).I, abs=1e-12
        )


@quick
@given(st.integers(4, 12), st.integers(4, 12), st.integers(0, 10**6), st.floats(-5, 5), st.floats(0.01, 50))
def test_moran_knows_no_units(rows, cols, seed, shift, scale):
    x = field(rows, cols, seed)
    i = P.morans_i(x)
    assert P.morans_i(x * scale + shift) == pytest.approx(i, abs=1e-9) and P.morans_i(-x) == pytest.approx(i, abs=1e-12)
    assert P.morans_i(x.T) == pytest.approx(i, abs=1e-12) and P.morans_i(x.flip(0)) == pytest.approx(i, abs=1e-12)
    assert P.local_morans(x)[0].mean().item() == pytest.approx((x.numel() - 1) / x.numel() * i, abs=1e-12)
    assert 0 <= P.lcps(x) <= 1 and 1 <= P.effective_rank(x) <= min(rows, cols) + 1e-9


@quick
@given(st.integers(3, 9), st.integers(8, 12), st.integers(1, 4), st.integers(0, 10**6))
def test_rings_by_brute_force(rows, cols, r, seed):
    x = field(rows, cols, seed)
    z = x - x.mean()
    top = 0.0
    for i in range(rows):
        for j in range(cols):
            v = [z[a, b] for a in range(rows) for b in range(cols) if max(abs(a - i), abs(b - j)) == r]
            top += z[i, j] * sum(v) / len(v)
    assert P.rho(x, r) == pytest.approx((top / (z**2).sum()).item(), abs=1e-12)


def test_a_batch_is_its_members():
    x = torch.rand(5, 40)
    assert torch.allclose(
        P.morans_i(x, 'line'), torch.tensor([P.morans_i(v) for v in x], dtype=torch.float64), atol=1e-12
    )
    assert torch.isnan(P.morans_i(torch.ones(2, 8), 'line')).all()


def test_mean_of_moran_on_noise():
    v = P.morans_i(torch.randn(4000, 64, generator=torch.Generator().manual_seed(0)), 'line')
    assert v.mean().item() == pytest.approx(-1 / 63, abs=4 * v.std().item() / 4000**0.5)


# Activations


@pytest.mark.parametrize('arch', ['mt5', 'rwkv', 'gpt2'])
def test_reading_does_not_depend_on_the_batch(text, arch):
    _, tok, tokens = text
    windows = Windows(tokens, 'test', 24)
    model = models(len(tok))[arch]
    places = A.random_places(windows, 60, special_ids(tok), seed=3)
    a, b = (A.collect(model, tok, windows, places, batch=n) for n in (64, 3))
    assert all(torch.allclose(x, y, atol=1e-4) for x, y in zip(a, b)) and all(x.abs().sum() > 0 for x in a)
    order = np.random.default_rng(0).permutation(len(places))
    assert all(torch.allclose(x[order], y, atol=1e-4) for x, y in zip(a, A.collect(model, tok, windows, places[order])))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hooks_go_when_reading_fails(text):
    _, tok, tokens = text
    windows, model = Windows(tokens, 'test', 24), random_tiny('mt5', vocab_size=len(tok))

    def fail(*a):
        raise RuntimeError('stop')

    h = model.decoder.block[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError):
        A.collect(model, tok, windows, A.random_places(windows, 5, special_ids(tok)))
    h.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_decoder_never_sees_the_word_it_is_asked_for(text):
    _, tok, tokens = text
    windows = Windows(tokens, 'test', 24)
    starts = A.word_starts(tok)
    places = A.random_places(windows, 200, special_ids(tok))
    for rows, inputs, (r, at) in A.masked_word_batches(
        random_tiny('mt5', vocab_size=len(tok)), tok, windows, places, 50, starts, True
    ):
        for i, k in enumerate(rows):
            ids, y = windows[int(places[k, 1])]['ids'], inputs['labels'][i]
            assert y[at[i]] == ids[places[k, 2]]  # the label at the position that is read is the token
            x = inputs['input_ids'][i][inputs['attention_mask'][i].bool()]
            m = A.word_mask(ids, places[k, 2], starts)
            assert len(x) == len(ids) - m.sum() + 2  # one sentinel and one end mark for the word
            assert torch.equal(y[1 : 1 + m.sum()], torch.tensor(ids[m]))


def test_nothing_is_stored_but_what_was_asked_for(text):
    _, tok, tokens = text
    windows, model = Windows(tokens, 'train', 24), random_tiny('mt5', vocab_size=len(tok))
    most = max(
        x.numel() for _, _, x in A.read(model, tok, windows, A.random_places(windows, 600, special_ids(tok)), batch=8)
    )
    assert most <= 8 * 16 * 128  # places of one batch, never windows times tokens


def test_rwkv_weights_survive_an_evaluation(text):
    _, tok, tokens = text
    model = random_tiny('rwkv', vocab_size=len(tok), num_hidden_layers=8)
    before = [s.weight('down').clone() for s in find_sites(model)]
    A.activation_geography(model, tok, Windows(tokens, 'test', 24), 20)
    assert all(torch.equal(b, s.weight('down')) for b, s in zip(before, find_sites(model)))


# Signatures


def hubs(rng, n=4, sites=3):
    p = np.where(rng.random((n, sites, 2, 3)) < 0.4, np.nan, rng.integers(0, 40, (n, sites, 2, 3)).astype(float))
    return S.Hubs(p, np.ones_like(p), np.array([40, 60, 80]))


@quick
@given(st.integers(0, 10**6))
def test_distance_is_symmetric_and_bounded(seed):
    rng = np.random.default_rng(seed)
    a, b = hubs(rng), hubs(rng)
    d = S.signature_distance(a, b)
    assert np.allclose(d, S.signature_distance(b, a).T, atol=1e-12) and (d >= 0).all() and (d <= 1).all()
    assert np.allclose(np.diag(S.signature_distance(a, a)), 0, atol=1e-12)


def test_distance_of_empty_sides():
    one, none = np.full((1, 1, 2, 3), np.nan), np.full((1, 1, 2, 3), np.nan)
    one[0, 0, 0, 0] = 5.0
    make = lambda p: S.Hubs(p, p, np.array([10]))
    assert (
        S.signature_distance(make(one), make(none))[0, 0] == 0.5
        and S.signature_distance(make(none), make(none))[0, 0] == 0
    )


@quick
@given(st.integers(2, 8), st.integers(0, 10**6))
def test_credit_of_ties(n, seed):
    d = np.random.default_rng(seed).integers(0, 3, (n, n)).astype(float)
    credit, _ = S.classify(d)
    for j in range(n):
        best = np.flatnonzero(d[:, j] == d[:, j].min())
        assert credit[j] == pytest.approx(1 / len(best) if j in best else 0)


def planted_model(vocab, d=256, d_ff=768, width=23, noise=0.1):
    """A GPT-2 whose one feed-forward block answers each token with a high and a low hump at places of its own

    What attention brings of other tokens stands beside it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab,
            n_embd=d,
            n_layer=1,
            n_head=2,
            n_inner=d_ff,
            n_positions=256,
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
        )
    ).eval()
    block, e = model.transformer.h[0], torch.randn(vocab, d)
    at = lambda place: torch.exp(-0.5 * ((torch.arange(d_ff) - place[:, None] - width / 2) / (width / 4)) ** 2) * 4
    humps = at(torch.rand(vocab) * (d_ff - width)) - at(torch.rand(vocab) * (d_ff - width))
    with torch.no_grad():
        model.transformer.wte.weight.copy_(e)
        model.transformer.wpe.weight.zero_()
        block.attn.c_proj.weight.mul_(noise * 20)
        block.mlp.c_fc.weight.copy_(e.T @ humps / d)
        block.mlp.c_fc.bias.fill_(3.0)  # far enough up that a negative hump stays in gelu's straight part
    return model


def test_a_model_with_planted_hubs_is_named_by_its_places(text):
    corpus, tokenizer, _ = text
    model = planted_model(len(tokenizer))
    e = evaluate(
        model,
        corpus,
        tokenizer,
        windows=8,
        length=64,
        robust_windows=4,
        bleu_windows=0,
        control_tokens=0,
        grid=dict(noise=(1.0,)),
        rank_from=1,
        rank_to=40,
        wide_to=0,
        redraws=4,
        orders=5,
        baseline=400,
        positions=64,
    )
    s = e['signatures']
    assert s['n_tokens'] >= 20
    for task in ('16:1', '16:16'):
        r = s[task]
        assert r['accuracy'] > 0.95, (task, r)
        for control in ('shuffled_labels', 'permuted_differently'):
            assert r[control] < 4 * s['chance'], (task, control, r)
    assert e['signatures_ablated']['zero']['16:16']['accuracy'] > 0.95  # one block: what it adds is not read again


def test_planted_hubs_and_both_chances():
    known, found = (S.planted_instances(100, 6, 1024, 20, seed=1, draw=d) for d in (0, 1))
    r = S.signature_test(known, found, redraws=4)
    assert r['16:16']['accuracy'] > 0.99 and r['16:1']['accuracy'] > 0.95
    for task in ('16:1', '16:16'):
        for control in ('permuted_differently', 'shuffled_labels'):
            assert abs(r[task][control] - 0.01) < 0.03
    assert r == S.signature_test(known, found, redraws=4)


def test_signatures_of_100_tokens_take_a_second():
    import time

    known, found = (S.planted_instances(100, 24, 512, 16, draw=d) for d in (0, 1))
    a, b = (S.mean_of(x) for x in (known, found))
    t = time.perf_counter()
    S.classify(S.signature_distance(S.hubs_of(a), S.hubs_of(b)))
    assert time.perf_counter() - t < 5


def test_smoothing_window_lies_over_the_bump():
    x = torch.zeros(1, 400)
    x[0, 111:124] = 1
    h = S.hubs_of([x], share=0.0325)
    assert h.places[0, 0, 0, 0] == 117 and np.isnan(h.places[0, 0, 0, 1])


# Robustness


@quick
@given(st.integers(5, 40), st.floats(0, 1), st.integers(0, 10**6))
def test_blur_is_a_matrix(n, b, seed):
    k = proximal_kernel()[4]
    m = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(max(0, i - 4), min(n, i + 5)):
            m[i, j] = k[j - i + 4]
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.allclose(R.blurred(x, b), x + b * (x @ (m / m.sum(1, keepdim=True)).T - x), atol=1e-12)


@pytest.mark.parametrize('arch', ['mt5', 'rwkv', 'gpt2'])
def test_scores_of_windows_add_up(text, arch):
    _, tok, tokens = text
    windows, model = Windows(tokens, 'test', 32, 6), models(len(tok))[arch]
    b = objective_for(model, tok)([windows[i] for i in range(6)])
    skip = special_ids(tok)
    with A.evaluating(model):
        s, t = R.window_scores(model, b, skip), token_scores(model, [b], skip)
    assert s[0].sum() == t['hit'].sum().item() and s[1].sum() == len(t['ce']) == len(
        scored_targets([b], skip, arch == 'mt5')
    )
    assert s[2].sum() == pytest.approx(t['ce'].double().sum().item(), rel=1e-6)


def test_two_models_meet_the_same_noise(text):
    _, tok, tokens = text
    seen = []
    windows = Windows(tokens, 'test', 32, 4)
    a, b = (random_tiny('mt5', seed=s, vocab_size=len(tok)) for s in (0, 1))
    for m in (a, b):
        keep, batch = {}, objective_for(m, tok)([windows[i] for i in range(4)])
        with A.evaluating(m), R.perturbed(m, 'noise', 1.0, batch['index'], draws=keep):
            m(**{k: batch[k] for k in ('input_ids', 'attention_mask', 'labels')})
        seen.append(keep)
    assert (
        seen[0].keys() == seen[1].keys()
        and len(seen[0]) == 4
        and all(torch.equal(seen[0][k], seen[1][k]) for k in seen[0])
    )


def test_scores_are_those_of_single_conditions(text):
    _, tok, tokens = text
    windows, model = Windows(tokens, 'test', 32, 4), random_tiny('rwkv', vocab_size=len(tok))
    make, skip = objective_for(model, tok), special_ids(tok)
    pairs = [windows[0], windows[1]], [windows[2], windows[3]]
    batches = [make(pair) for pair in pairs]
    many = R.strength_scores(model, batches, skip, grid=dict(noise=(1.0, 3.0), nonhub=(2.0,), blur=(0.5,)))
    with A.evaluating(model), R.perturbed(model, 'nonhub', 2.0, batches[1]['index']):
        one = R.window_scores(model, batches[1], skip)
    assert np.allclose(many['nonhub', 2.0][:, 2:], one)


@quick
@given(st.floats(0.1, 0.9), st.integers(0, 10**6))
def test_threshold_of_a_straight_line(level, seed):
    xs = np.sort(np.random.default_rng(seed).uniform(0, 1, 6))
    xs[-1] = 1.0
    assert R.threshold(xs, 1 - xs, 1.0, level) == pytest.approx(1 - level, abs=1e-9)


# All of it


@pytest.mark.parametrize('arch', ['mt5', 'rwkv', 'gpt2'])
def test_evaluate_any_model(text, arch, tmp_path):
    corpus, tok, _ = text
    model = models(len(tok))[arch]
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    e = evaluate(
        model,
        corpus,
        tok,
        windows=8,
        length=48,
        robust_windows=4,
        grid=dict(noise=(1.0,), nonhub=(2.0,), blur=(0.5,)),
        rank_from=5,
        rank_to=24,
        redraws=2,
        orders=5,
        baseline=60,
        positions=30,
    )
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    e.save(tmp_path)
    again = Evaluation.load(tmp_path)
    assert again['clean'] == e['clean'] and len(e.table('spatial')) == len(find_sites(model)) * (
        2 if arch == 'gpt2' else 3
    )
    assert len(e._repr_html_()) > 1000 and str(e.signature(0)).startswith('Signature of')
    assert all(0 < s['share'] < 5 for s in e['ffn_share'])


def test_ffn_share_by_hand(text):
    _, tok, tokens = text
    windows, model = Windows(tokens, 'test', 32, 4), models(len(tok))['gpt2']
    got = {}
    block = model.transformer.h[1]
    hooks = [
        block.mlp.register_forward_hook(lambda m, a, o: got.update(ffn=o)),
        block.register_forward_hook(lambda m, a, o: got.update(out=o[0] if isinstance(o, tuple) else o)),
    ]
    batch = [objective_for(model, tok)([windows[i] for i in range(4)])]
    share = ffn_ratio(model, batch)[1]['share']
    for h in hooks:
        h.remove()
    assert share == pytest.approx((got['ffn'].norm(dim=-1) / got['out'].norm(dim=-1)).mean().item(), rel=1e-5)


def loud(arch, vocab):
    "With every bias and weight of the feed-forward blocks large enough to be heard"
    model = models(vocab)[arch]
    gen = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for s in find_sites(model):
            for p in s.block.parameters():
                p.copy_(torch.randn(p.shape, generator=gen) * 0.2)
    return model


@pytest.mark.parametrize('arch', ['mt5', 'rwkv', 'gpt2'])
def test_quieter_scales_all_that_a_block_adds(text, arch):
    "Its bias too"
    _, tok, tokens = text
    windows, model = Windows(tokens, 'test', 32, 4), loud(arch, len(tok))
    got = []
    batch, block = [objective_for(model, tok)([windows[i] for i in range(4)])], find_sites(model)[0].block
    first = lambda o: o[0] if isinstance(o, tuple) else o
    with A.evaluating(model):
        for factors in ([1.0, 1.0], [0.3, 1.0]):
            with scale_ffn(model, factors, find_sites(model)[:2]):
                hook = block.register_forward_hook(lambda m, a, o: got.append(first(o).clone()))
                R.window_scores(model, batch[0], ())
                hook.remove()
    assert torch.allclose(got[1], 0.3 * got[0], atol=1e-6) and got[0].abs().max() > 0.01


@pytest.mark.parametrize('arch', ['mt5', 'rwkv', 'gpt2'])
def test_a_model_made_as_quiet_as_another(text, arch):
    corpus, tok, tokens = text
    windows, model, other = Windows(tokens, 'test', 32, 4), loud(arch, len(tok)), models(len(tok))[arch]
    batch = [objective_for(model, tok)([windows[i] for i in range(4)])]
    want = [s['share'] for s in ffn_ratio(other, batch)]
    own = [s['share'] for s in ffn_ratio(model, batch)]
    factors = matching_factors(model, want, batch)
    with scale_ffn(model, factors):
        got = [s['share'] for s in ffn_ratio(model, batch)]
    assert (
        np.allclose(got, want, atol=1e-4)
        and not np.allclose(got, own, atol=0.02)
        and np.allclose([s['share'] for s in ffn_ratio(model, batch)], own)
    )


FEW = dict(
    windows=8,
    length=48,
    robust_windows=4,
    bleu_windows=0,
    control_tokens=0,
    rank_from=5,
    rank_to=24,
    redraws=2,
    orders=5,
    baseline=60,
    positions=30,
)


def test_an_evaluation_as_quiet_as_another(text):
    "Both controls stand in the record, the matched one with its factors; another shape is refused before any work"
    corpus, tok, _ = text
    model, few = random_tiny('rwkv', vocab_size=len(tok)), dict(FEW, grid=dict(noise=(1.0, 4.0), nonhub=(2.0,)))
    for arch, ids in (('mt5', len(tok)), ('rwkv', len(tok) + 8)):
        with pytest.raises(ValueError, match='same shape'):
            evaluate(model, corpus, tok, match_ffn_ratio=('other', random_tiny(arch, vocab_size=ids)), **few)
    found = evaluate(model, corpus, tok, quiet=50, match_ffn_ratio=('other', loud('rwkv', len(tok))), **few)
    quiet, matched = found['robustness_quiet'], found['robustness_matched']
    assert quiet['share'] == 0.5
    assert np.allclose(matched['shares'], matched['wanted'], atol=1e-3)
    assert len(matched['factors']) == 2 and matched['like'] == 'other'
    assert not np.allclose(matched['wanted'], [s['share'] for s in found['ffn_share']], atol=0.02)
    assert 'nonhub' not in matched['threshold'] and any(k.startswith('matched_') for k in found.arrays)
    once = evaluate(model, corpus, tok, **few)
    assert once['robustness_quiet'] is None and once['robustness_matched'] is None
    assert once['robustness'] == found['robustness']


GRID = dict(noise=(1.0,), nonhub=(2.0,), blur=(0.5,))


@pytest.fixture(scope='module')
def whole(text):
    "An evaluation of a random mT5"
    corpus, tok, _ = text
    return evaluate(random_tiny('mt5', vocab_size=len(tok)), corpus, tok, grid=GRID, metadata=dict(commit='abc'), **FEW)


def test_measures_need_no_order(text, whole):
    "Run backwards, every measure finds what it finds in order"
    from ff_nbdev.evaluation.evaluate import MEASURES, Controls

    corpus, tok, _ = text
    model, controls = random_tiny('mt5', vocab_size=len(tok)), Controls(grid=GRID)
    readings = Readings(model, corpus, tok, Sizes(**FEW))
    for measure in MEASURES[::-1]:
        result, arrays = measure(readings, controls)
        assert plain(result) == {k: plain(whole[k]) for k in result}, measure.__name__
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, whole.arrays[name])


def test_a_result_is_the_same_again_and_after_it_was_saved(text, whole, tmp_path):
    corpus, tok, _ = text
    model, found = random_tiny('mt5', vocab_size=len(tok)), whole
    same = evaluate(model, corpus, tok, grid=GRID, metadata=dict(commit='abc'), **FEW)
    assert plain(same.result) == plain(found.result) and found['commit'] == 'abc'  # everything is keyed by the seed
    expected = (
        'clean',
        'floors',
        'unigram_ce',
        'spatial',
        'signatures',
        'robustness',
        'dose',
        'sentences',
        'ffn_share',
        'activation_moran',
        'tokens_scored',
    )
    assert set(expected) <= set(found.result)
    tokens = found.arrays['window_tokens']
    assert (found.arrays['window_ce'] * tokens).sum() / tokens.sum() == pytest.approx(found['clean']['ce'], abs=1e-9)
    assert not model.training
    assert not any(s.down._forward_pre_hooks or s.block._forward_hooks for s in find_sites(model))
    path = found.save(tmp_path)
    again = Evaluation.load(tmp_path)
    assert again.result == plain(found.result) and again.table().equals(found.table())
    assert path.stat().st_size < 64_000 and set(again.arrays) == set(found.arrays)
    with pytest.raises(ValueError, match='no activations'):
        again.signature('x')
    with pytest.raises(ValueError, match='no table'):
        again.table('x')


def test_unigram_is_a_distribution():
    counts = np.array([5, 0, 3, 2, 0])
    assert sum(np.exp(-unigram_ce(counts, np.array([i]))) for i in range(5)) == pytest.approx(1, abs=1e-12)


def test_a_text_too_small_for_signatures_says_so(text):
    corpus, tok, _ = text
    found = evaluate(
        random_tiny('mt5', vocab_size=len(tok)),
        corpus,
        tok,
        windows=4,
        length=48,
        robust_windows=2,
        bleu_windows=0,
        grid=GRID,
        rank_from=100,
        rank_to=110,
        instances_each=400,
        pool=400,
        baseline=20,
        positions=10,
    )
    assert found['signatures']['n_tokens'] == 0
    assert 'held-out tokens' in found['not_measured']['signatures']


def test_tokens_that_stand_for_no_text_are_left_out_only_where_they_occur(text):
    "A text has no sentinels, so they must not be taken from the number of its different tokens"
    tokenizer, size = text[1], Sizes(rank_to=58, wide_to=0)
    ids = np.setdiff1d(np.arange(len(tokenizer)), special_ids(tokenizer))
    chosen = choose_tokens(SimpleNamespace(ids=ids[:60]), tokenizer, size)
    assert len(chosen.few) == 8 and {*chosen.ids[:8]} <= {*ids[:60]}
    with pytest.raises(TooLittleText, match='the text has 40 different tokens'):
        choose_tokens(SimpleNamespace(ids=np.r_[ids[:40], special_ids(tokenizer)]), tokenizer, size)
