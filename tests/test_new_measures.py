"The smooth part of weights, close tokens of a teacher, noise in weights, forms of signatures"

import json
import math

import numpy as np
import pytest
import torch
from shared import text
from tiny_models import tiny

from ff_nbdev.baselines.codes import fvu, sae_bits
from ff_nbdev.baselines.noise_null import diffused, noise_diffused
from ff_nbdev.baselines.sae import sae_code, train_sae
from ff_nbdev.data.alternatives import Alternatives, write_alternatives
from ff_nbdev.data.objectives import Windows
from ff_nbdev.data.tokenizers import special_ids
from ff_nbdev.evaluation import activations as A, close_tokens as C, permuted as O, robustness as R
from ff_nbdev.evaluation import signature_forms as F
from ff_nbdev.evaluation import signatures as S, smooth_part as P, weight_noise as N
from ff_nbdev.evaluation.activations import evaluating, frequent_tokens
from ff_nbdev.evaluation.bleu import spans_text
from ff_nbdev.evaluation.evaluate import evaluate
from ff_nbdev.evaluation.readings import objective_batches
from ff_nbdev.evaluation.record import Bleu, EvaluationRecord
from ff_nbdev.evaluation.result import Evaluation
from ff_nbdev.mechanisms.forgetfulness import neighbour_mean, proximal_kernel
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.tiny import random_tiny
from ff_nbdev.study import claims
from ff_nbdev.study.examples import example_runs
from ff_nbdev.study.records import load_runs

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings('ignore::RuntimeWarning')
ARCHS = ['mt5', 'rwkv', 'gpt2']
KERNELS = dict(paper=proximal_kernel(), small=proximal_kernel(5, 0.5), line=proximal_kernel(axis='columns'))
SIZES = dict(
    windows=8,
    length=48,
    robust_windows=4,
    weight_draws=2,
    bleu_windows=0,
    control_tokens=0,
    ablations=0,
    rank_from=5,
    rank_to=24,
    wide_to=0,
    redraws=2,
    orders=4,
    baseline=60,
    positions=30,
    grid=dict(noise=(1.0,), weights=(0.3, 1.5)),
)


@pytest.fixture(scope='module')
def alternatives(text, tmp_path_factory):
    "Of a teacher for whom the next ten ids are close"
    _, tokenizer, tokens = text

    def rank(sentences):
        target = np.concatenate(sentences)
        ids = (target[:, None] + np.arange(1, 11)) % len(tokenizer)
        return ids, -np.tile(np.arange(10.0), (len(target), 1))

    folder = tmp_path_factory.mktemp('teacher') / 'alternatives'
    return Alternatives(write_alternatives(rank, tokens, folder, tokenizer), tokens)


def model_of(arch, tokenizer):
    if arch == 'gpt2':
        return tiny('gpt2', vocab_size=len(tokenizer), n_positions=256)
    return random_tiny(arch, vocab_size=len(tokenizer))


def weights(model):
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in b)


# The smooth part


@pytest.mark.parametrize('kernel', KERNELS.values(), ids=KERNELS)
def test_the_smooth_part_is_a_projection(kernel):
    weight = torch.randn(24, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    smooth = P.smooth_part(weight, kernel)
    assert torch.allclose(P.smooth_part(smooth, kernel), smooth, atol=1e-12)
    assert abs((smooth * (weight - smooth)).sum().item()) < 1e-9
    assert smooth.mean().item() == pytest.approx(weight.mean().item(), abs=1e-12)
    assert torch.allclose(P.smooth_part(torch.full((24, 40), 3.0)), torch.full((24, 40), 3.0), atol=1e-5)


def test_gains_are_those_of_the_pulse():
    "A cosine that the kernel passes comes back by its gain, edges aside"
    n, m, kernel = 40, 60, proximal_kernel()
    gain, modes = P.mode_gain((n, m), kernel), P.smooth_modes((n, m), kernel)
    assert gain[0, 0].item() == pytest.approx(1) and modes[0, 0] and not modes[-1, -1]
    for a, b in ((3, 2), (0, 7), (6, 0)):
        i, j = (torch.arange(k, dtype=torch.float64) + 0.5 for k in (n, m))
        wave = torch.cos(math.pi * a * i / n)[:, None] * torch.cos(math.pi * b * j / m)
        inside = (slice(4, -4), slice(4, -4))
        near = neighbour_mean(wave, kernel)[inside]
        assert torch.allclose(near, gain[a, b] * wave[inside], atol=1e-9)
        assert torch.allclose(P.smooth_part(wave, kernel), wave if modes[a, b] else 0 * wave, atol=1e-9)


def test_exact_modes_lie_within_the_cosines():
    n, m, kernel = 10, 16, proximal_kernel()
    basis = torch.eye(n * m, dtype=torch.float64)
    pulse = torch.stack([neighbour_mean(e.view(n, m), kernel).flatten() for e in basis], 1)
    values, vectors = torch.linalg.eig(pulse)
    exact = torch.linalg.qr(vectors[:, values.real > 0.5].real)[0]
    kept = torch.stack([P.smooth_part(v.view(n, m), kernel).flatten() for v in exact.T])
    assert kept.square().sum(1).min() > 0.9


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('kernel', ['paper', 'line'])
def test_a_model_cut_and_whole_again(text, arch, kernel):
    model, kernel = model_of(arch, text[1]), KERNELS[kernel]
    before, sums = weights(model), []
    for rough in (False, True):
        with P.smooth_only(model, kernel, rough):
            sums.append({(s.name, r): s.weight(r).detach().clone() for s in find_sites(model) for r in s.names})
    assert same(before, weights(model))
    uncut = 0
    for site in find_sites(model):
        for role in site.names:
            smooth, rough = (part[site.name, role] for part in sums)
            alone = torch.equal(smooth, rough)  # a line finds no hidden units in it
            uncut += alone
            assert alone or torch.allclose(smooth + rough, site.weight(role), atol=1e-5)
    assert uncut == (len(find_sites(model)) if arch == 'rwkv' and 1 in kernel.shape else 0)


def test_weights_come_back_when_the_inside_fails(text):
    model = model_of('mt5', text[1])
    before = weights(model)
    with pytest.raises(RuntimeError), N.noisy_weights(model, 1.0):
        assert not same(before, weights(model))
        raise RuntimeError('stop')
    assert same(before, weights(model))


def test_learning_in_smooth_modes_is_seen_and_in_rough_ones_is_not(text):
    "A model whose base lost its smooth part gains over it; one whose base lost the rest does not"
    _, tok, tokens = text
    model, found = model_of('mt5', tok), {}
    batches = objective_batches(model, tok, Windows(tokens, 'test', 48), 8)
    for rough in (False, True):
        base = model_of('mt5', tok)
        base.load_state_dict(model.state_dict())
        found[rough] = P.smooth_test(model, batches, special_ids(tok), P.smooth_only(base, rough=rough))[0]
    assert found[False]['gain'] == pytest.approx([0, 0, 0], abs=1e-5)  # the smooth part is the same
    assert abs(found[True]['gain'][0]) > 1e-4 and found[True]['null_ce'] != found[True]['ce']
    lo, hi = found[True]['gain'][1:]
    assert lo <= found[True]['gain'][0] <= hi and found[True]['windows'] == 8
    none = P.smooth_test(model, batches, special_ids(tok))[0]
    assert none['gain'] is None and none['ce'] == found[True]['ce']


# Close tokens


def test_close_tokens_have_a_direction(text, alternatives):
    _, tok, tokens = text
    train = Windows(tokens, 'train', 16)
    ids = frequent_tokens(train, tok, 5, 44)
    close = C.close_alternatives(alternatives, train, ids, seed=3)
    gap = ids[:, None] - ids[None]  # predicted less target
    assert (close == ((gap > 0) & (gap <= 10))).all()
    few = C.close_alternatives(alternatives, train, ids, most=2)
    assert (few == ((gap > 0) & (gap <= 2))).all()
    with pytest.raises(ValueError, match='do not belong to this text'):
        C.close_alternatives(alternatives, Windows(tokens, 'test', 16), ids)


@pytest.mark.parametrize('full', [True, False])
def test_errors_are_counted_in_a_table(full):
    known, found = (S.planted_instances(20, 1, 200, n=4, power=0.1, draw=draw) for draw in (0, 1))
    table = np.full((20, 20), full) & ~np.eye(20, dtype=bool)
    test = S.signature_test(known, found, 4, 3, close=dict(close_alternative=table))
    for task in ('4:1', '4:4'):
        row = test[task]
        assert row['errors'] and row['close_alternative_share'] == row['close_alternative_by_chance'] == float(full)
        assert row['close_alternative_given_to_others'] == float(full)
        low, high = row['close_alternative_ci']
        assert low <= full <= high and high - low < 1
        assert 'close_error_share' in row
    assert not any('alternative' in key for key in S.signature_test(known, found, 4, 3)['4:4'])


def test_close_errors_by_hand():
    predicted, table = np.array([[1, 0, 2], [1, 1, 0]]), np.zeros((3, 3), bool)
    table[1, 0] = True  # 1 is forgiven where 0 was meant
    t = dict(predicted=predicted, distance=np.zeros((2, 3)))
    row = S._errors(t, np.zeros((3, 3), bool), ['a', 'b', 'c'], dict(close_alternative=table))
    assert row['errors'] == 4 and row['close_alternative_share'] == 0.5
    assert row['close_alternative_by_chance'] == pytest.approx(1 / 6)


# Noise in the weights


@pytest.mark.parametrize('arch', ARCHS)
def test_two_models_meet_the_same_noise_in_their_weights(text, arch):
    a, b = model_of(arch, text[1]), model_of(arch, text[1])
    site = find_sites(b)[0]
    with torch.no_grad():
        site.weight('down').mul_(3.0)
    before, added = weights(a), []
    for model in (a, b):
        clean = {(s.index, r): s.weight(r).detach().clone() for s in find_sites(model) for r in s.names}
        with N.noisy_weights(model, 0.5, seed=2, draw=1):
            noisy = {k: find_sites(model)[k[0]].weight(k[1]) - w for k, w in clean.items()}
            added.append({k: (x / clean[k].std(unbiased=False)).detach() for k, x in noisy.items()})
    assert all(torch.allclose(added[0][k], added[1][k], atol=1e-4) for k in added[0])
    assert same(before, weights(a))
    noise = torch.cat([x.flatten() for x in added[0].values()])
    assert noise.std().item() == pytest.approx(0.5, rel=0.02) and abs(noise.mean().item()) < 0.01


def test_noise_in_weights_beside_the_other_kinds(text):
    _, tok, tokens = text
    model = model_of('mt5', tok)
    batches = objective_batches(model, tok, Windows(tokens, 'test', 48), 6, size=4)
    grid = dict(noise=(1.0,), weights=(0.5, 2.0))
    scores = R.strength_scores(model, batches, special_ids(tok), grid=grid, weight_draws=3, seed=1)
    assert scores['clean'].shape == (3, 6) and scores['weights', 0.5].shape == (3, 18)
    with R.perturbed(model, 'weights', 0.5, seed=1, draw=2):
        third = np.concatenate([R.window_scores(model, batch, special_ids(tok)) for batch in batches], 1)
    assert np.allclose(scores['weights', 0.5][:, 12:], third)
    found = R.summarise(scores, draws=50)
    rows = found['weights']
    assert [row['x'] for row in rows] == [0.0, 0.5, 2.0] and all(r['lo'] <= r['accuracy'] <= r['hi'] for r in rows)
    assert set(found['threshold']) == {'noise', 'weights'}
    again = R.scores_from(R.score_arrays(scores))
    assert again['weights', 2.0].shape == (3, 6)
    total = scores['weights', 2.0].reshape(3, 3, 6).mean(1)
    assert np.allclose(again['weights', 2.0], total, rtol=1e-5)
    assert R.paired_threshold(again, again, 'weights', 'ce', draws=20)[0] == 0


def test_draws_of_noise_are_resampled_too():
    picks = np.array([[0, 1, 1], [2, 2, 0]])
    wide = R._of_draws(picks, 6)
    assert wide.shape == (2, 6) and (np.sort(wide % 3, 1) == np.sort(np.tile(picks, 2), 1)).all()
    assert R._of_draws(picks, 3) is picks


# Signatures, read fairly


def test_forms_of_signatures_undo_what_they_should():
    found = S.planted_instances(8, 2, 200, n=4)
    with pytest.raises(ValueError, match='hold no spread'):
        F.standardised(found)
    factor = torch.linspace(0.5, 3, 200)
    loud = S.planted_instances(8, 2, 200, n=4)
    loud.acts = [acts * factor for acts in loud.acts]
    loud.spread, loud.baseline = [factor, torch.cat([torch.zeros(1), factor[1:]])], [factor] * 2
    assert torch.allclose(F.standardised(loud).acts[0], found.acts[0], atol=1e-6)
    assert torch.equal(F.standardised(loud).acts[1][:, 0], loud.acts[1][:, 0])  # a unit that never varies
    assert torch.allclose(F.with_baseline(loud).acts[0], loud.acts[0] + factor)
    assert loud.keep([0, 3]).spread is loud.spread


def test_energy_in_windows_and_in_units():
    row = F.hub_energy(S.planted_instances(12, 1, 400, power=4.0))[0]
    plain = F.hub_energy(S.planted_instances(12, 1, 400, power=0.0))[0]
    assert plain['windows_permuted'] == pytest.approx(plain['windows'], abs=0.05)
    assert row['windows'] > 2 * row['windows_permuted'] and row['windows'] <= row['units'] <= 1
    assert plain['kurtosis'] == pytest.approx(3, abs=0.5) and row['kurtosis'] > 5
    assert all(row[f'{k}_ci'][0] <= row[k] <= row[f'{k}_ci'][1] for k in ('windows', 'units', 'kurtosis'))


def planted_pair(**options):
    return [S.planted_instances(20, 2, 300, n=16, draw=draw, **options) for draw in (0, 1)]


def test_places_in_their_own_order_are_compared_with_many_others():
    found = O.permutation_test(*planted_pair(power=1.0), draws=19, redraws=2)['16:16']
    assert found['p'] == 1 / 20 and found['gain_ci'][0] > 0 and found['draws'] == 19
    assert found['permuted_range'][0] <= found['permuted'] <= found['permuted_range'][1] < found['in_place']
    assert found['gain'] == pytest.approx(found['in_place'] - found['permuted'])
    none = O.permutation_test(*planted_pair(power=0.0), draws=19, redraws=2)['16:16']
    assert none['p'] > 0.05 and none['gain_ci'][0] < 0 and none['in_place'] < 0.2
    with pytest.raises(ValueError, match='at least one'):
        O.permutation_test(*planted_pair(), draws=0)


def test_the_own_order_names_what_the_test_of_signatures_names():
    "The same draws of instances, so the same tokens"
    pair = planted_pair(power=0.4)
    plain, found = S.signature_test(*pair, redraws=3), O.permutation_test(*pair, draws=2, redraws=3)
    for task in ('16:1', '16:16'):
        assert found[task]['in_place'] == pytest.approx(plain[task]['accuracy'])
        stacks = {site['stack']: site['in_place'] for site in found[task]['sites']}
        assert stacks == pytest.approx({k: plain[task][k] for k in stacks})


def test_an_order_of_the_units_changes_no_whole_activation():
    means = O.stack_draws(*planted_pair(), redraws=1)
    own, *others = O.in_orders(means, 2, seed=3)
    assert own is means
    for order in others:
        assert torch.equal(order[0].sort(1).values, means[0].sort(1).values) and not torch.equal(order[0], means[0])
    gram = [order[0] @ order[0].T for order in (own, others[0])]
    assert torch.allclose(*gram, rtol=1e-4, atol=1e-4)  # the same for all rows


def test_spans_are_scored_without_the_text_that_was_given(text):
    _, tokenizer, _ = text
    sentinels = [len(tokenizer) - 1, len(tokenizer) - 2]
    one, two = (tokenizer.encode(words, add_special_tokens=False) for words in ('the file', 'a name'))
    written = [sentinels[0], *one, sentinels[1], *two, 1, 0, 0]
    assert spans_text(written, sentinels, tokenizer, {0, 1}) == 'the file a name'
    assert spans_text([*one, sentinels[1], *two], sentinels, tokenizer) == 'a name'  # before any sentinel: no span
    assert spans_text([1, 0], sentinels, tokenizer) == ''


def test_a_record_from_before_has_no_orders_and_no_spans():
    bleu = Bleu.from_dict(dict(clean=dict(bleu=70.0, ci=[69.0, 71.0]), windows=8))
    assert bleu.spans is None and bleu.clean['bleu'] == 70
    scores = {'16:16': dict(accuracy=0.5, permuted_alike=0.4)}
    told = EvaluationRecord.from_dict(dict(signatures=scores, signature_forms=dict(standardised=scores)))
    assert told.signatures.tasks['16:16'].orders is None
    assert not told.signature_forms.energy_standardised and told.signature_forms.standardised.tasks


def test_only_the_measures_that_are_asked_for(text):
    corpus, tok, _ = text
    model = model_of('mt5', tok)
    found = evaluate(model, corpus, tok, only='scores', **SIZES)
    assert 'clean' in found.result and not {'spatial', 'signatures', 'robustness', 'bleu'} & set(found.result)
    with pytest.raises(ValueError, match='is no measure'):
        evaluate(model, corpus, tok, only='scores names', **SIZES)


def test_signed_latents_say_what_lies_furthest_from_zero():
    x = torch.randn(300, 24, generator=torch.Generator().manual_seed(0))
    x = x.sign() * x.square()
    plain, signed = (train_sae(x, 48, 3, 40, 64, signed=kind) for kind in (False, True))
    values, which = signed.encode(x)
    assert (values < 0).any() and (plain.encode(x)[0] >= 0).all() and which.shape == (300, 3)
    code = sae_code(x, x.mean(0), signed)
    assert fvu(x, code, x.mean(0)) < 1 and code.rate == pytest.approx(sae_bits(48, 3), rel=1e-5)


# As before, in less time


@pytest.mark.parametrize('whole_word', [True, False])
def test_places_of_one_word_share_a_pass(text, whole_word):
    _, tok, tokens = text
    model, windows = model_of('mt5', tok), Windows(tokens, 'test', 24)
    places = A.random_places(windows, 80, special_ids(tok), seed=3)
    starts, sites = A.word_starts(tok), find_sites(model)
    batches = list(A.masked_word_batches(model, tok, windows, places, 16, starts, whole_word, shared=True))
    rows = sum(len(inputs['input_ids']) for _, inputs, _ in batches)
    assert rows < len(places) if whole_word else rows == len(places)
    assert sorted(np.concatenate([mine for mine, *_ in batches])) == list(range(len(places)))
    together = A.collect(model, tok, windows, places, sites, whole_word=whole_word)
    for k in range(0, len(places), 9):
        alone = A.collect(model, tok, windows, places[k : k + 1], sites, whole_word=whole_word)
        assert all(torch.allclose(a[k], b[0], atol=1e-5) for a, b in zip(together, alone))


@pytest.mark.parametrize('arch', ARCHS)
def test_what_lies_below_is_computed_once_and_scores_stay(text, arch):
    _, tok, tokens = text
    model, skip = model_of(arch, tok), special_ids(tok)
    batches = objective_batches(model, tok, Windows(tokens, 'test', 48), 4, size=2)
    last, grid = find_sites(model)[-1:], dict(noise=(2.0,), nonhub=(3.0,), blur=(0.9,), weights=(1.0,))
    scores = R.strength_scores(model, batches, skip, grid=grid, sites=last, weight_draws=1)
    with evaluating(model):
        for kind, (x,) in grid.items():
            for batch, part in zip(batches, np.split(scores[kind, x], 2, 1)):
                with R.perturbed(model, kind, x, batch['index'], last):
                    whole = R.window_scores(model, batch, skip)
                np.testing.assert_allclose(part, whole, rtol=1e-5, atol=1e-6)
    assert not any('forward' in module.__dict__ for module in model.modules())


def test_a_null_is_made_once(text):
    model, made = model_of('mt5', text[1]), []

    def null(model, dose):
        made.append(dose)
        return diffused(model, dose)

    before, kept, found = weights(model), N.remembered(null), []
    for dose in (0.3, 0.3, 0.6):
        with kept(model, dose):
            found.append(weights(model))
    assert made == [0.3, 0.6] and same(found[0], found[1]) and not same(found[0], found[2])
    assert same(before, weights(model))


# All together, and the rules that read it


@pytest.mark.parametrize('arch', ARCHS)
def test_an_evaluation_holds_what_the_rules_read(text, alternatives, arch, tmp_path):
    corpus, tok, _ = text
    model, base = model_of(arch, tok), model_of(arch, tok)
    before, of_base = weights(model), weights(base)
    nulls = dict(diffused=diffused, noise_diffused=noise_diffused)
    found = evaluate(model, corpus, tok, base=base, dose=0.3, nulls=nulls, alternatives=alternatives, **SIZES)
    assert same(before, weights(model)) and same(of_base, weights(base))
    found.save(tmp_path)
    told = json.loads((tmp_path / 'evaluation.json').read_text())
    part, task = told['smooth_part'], told['signatures']['16:16']
    assert len(part['gain']) == 3 and part['gain'][1] <= part['gain'][0] <= part['gain'][2]
    assert part['null'].startswith('base, pulsed') and part['noise_ce'] and part['seed'] == 0
    assert part['gain'][0] == pytest.approx(part['null_ce'] - part['ce'])
    assert task['close_alternative_by_chance'] > 0
    assert task['errors'] == 0 or 0 <= task['close_alternative_share'] <= 1
    assert [row['x'] for row in told['robustness']['weights']] == [0, 0.3, 1.5]
    assert set(told['signature_forms']) == {'energy', 'energy_standardised', 'standardised', 'with_baseline'}
    scores = (task, *(told['signature_forms'][form]['16:16'] for form in ('standardised', 'with_baseline')))
    assert all(score['orders']['draws'] == 4 and 1 / 5 <= score['orders']['p'] <= 1 for score in scores)
    assert len(told['signature_forms']['energy']) == len(find_sites(model))
    tables = Evaluation.load(tmp_path)
    assert 'weights' in set(tables.table('robustness').kind) and 'noise in the weights' in str(tables)


def test_a_model_without_base_or_teacher_says_what_was_not_measured(text):
    corpus, tok, _ = text
    sizes = SIZES | dict(weight_draws=0)
    found = evaluate(model_of('rwkv', tok), corpus, tok, **sizes)
    assert found['smooth_part']['gain'] is None and found['smooth_part']['null'] is None
    assert 'weights' not in found['robustness'] and 'close_alternative_share' not in found['signatures']['16:16']


@pytest.mark.parametrize('part', [None, dict(gain=None, ce=4.0)])
def test_an_old_record_reads_as_not_measured(tmp_path, part):
    folder = example_runs(tmp_path / 'quick')
    path = folder / 'full_stack' / 'evaluation.json'
    told = json.loads(path.read_text())
    told['smooth_part'] = part
    task = told['signatures']['16:16']
    told['signatures']['16:16'] = {k: v for k, v in task.items() if 'alternative' not in k}
    path.write_text(json.dumps(told))
    rows = {row['id']: row for row in claims.answer(load_runs(folder))}
    assert 'not measured' in rows['C3']['why'] and 'not compared' in rows['C13']['why']
