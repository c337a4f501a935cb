"The healing map, the rates and the three answers, on invented runs: with no pair, with one and with all"

from dataclasses import replace
import copy
from functools import partial

import numpy as np
import pytest

from ff_nbdev.core.provenance import results_folder, save_json
from ff_nbdev.study.claims import UNTESTED, answer, read_claims
from ff_nbdev.study import healing_curve as module
from ff_nbdev.study.evidence import WAITING, in_regime, new_runs, small_runs
from ff_nbdev.study.examples import example_runs
from ff_nbdev.study.front_door import NO_GAIN, newest, says_how_far, says_small, says_use, says_whether, some_claims
from ff_nbdev.study.front_door import says_whole
from ff_nbdev.study.healing_curve import EXACT, NO_FIT, UNDER, curve_figure, fit_sentences, healing_fits
from ff_nbdev.study.healing_curve import learning_figure, learning_rows, learning_sentences, price_sentences
from ff_nbdev.study.healing_map import (
    BLURRED,
    NONE,
    OUTSIDE,
    PAPER_POINT,
    healing_map,
    healing_pairs,
    healing_rows,
    healing_sentences,
    healing_table,
    map_title,
    planned_points,
)
from ff_nbdev.study.numbers import all_seeds
from ff_nbdev.study.rates import rate_rows, rate_sentences
from ff_nbdev.study.records import Runs, ce_increase, load_runs, optimizer_of, reference

CLAIMS = ['C1', 'C11', 'C16']


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    return load_runs(example_runs(tmp_path_factory.mktemp('pair') / 'study', ['base', 'base_continued', 'no_fzr']))


def at(run, steps, dose, nats=0.0, **train):
    "The run at another clock and dose, with a cross-entropy that differs by so many nats"
    run = copy.copy(run)
    clock = dict(dose=dose, steps_between_pulses=steps) if run.dose else dict(dose=dose)
    told = dict(total_dose=dose, sentences=int(100 * steps * dose), regime=run.train.regime | clock)
    run.train = run.train | told | train
    run.arrays = run.arrays | dict(window_ce=run.arrays['window_ce'] + nats)
    return run


def laid_out(pair, points, floor=0.05, a=1.0, b=0.5):
    "Pairs at these points, whose cost is floor + a·steps^−b nats"
    runs = copy.copy(pair)
    runs.variants = {}
    own, free = (pair[name].arrays['window_ce'] for name in ('no_fzr', 'base_continued'))
    there = np.mean(own - free)
    for dose, steps in points:
        label = f'dose_{dose}_steps_{steps}'
        runs.variants[f'base_continued~{label}'] = at(pair['base_continued'], steps, dose)
        runs.variants[f'no_fzr~{label}'] = at(pair['no_fzr'], steps, dose, floor + a / steps**b - there)
    for name in ('base_continued', 'no_fzr'):
        del runs[name]
    return runs


EIGHT = [(dose, steps) for dose in (1.5, 4.5) for steps in (5.8, 25, 75, 200)]


@pytest.mark.parametrize('number', [0, 1, 8])
def test_a_map_of_any_number_of_pairs(pair, number):
    rows = healing_rows(laid_out(pair, EIGHT[:number]))
    assert [(row['dose'], row['steps']) for row in rows] == EIGHT[:number]
    figure = healing_map(rows, EIGHT)
    assert figure.title == map_title(rows, EIGHT) and figure.title.startswith(('None of 8', '1 of 8', '8 of 8'))
    said = healing_sentences(rows)
    assert said == [NONE] if not rows else 'pulses and forgiveness cost' in said[0]
    assert (OUTSIDE in said) == (number == 1)
    assert all(len(row) == number + 1 for row in healing_table(rows))


def pulses_alone(runs, change='recall.top=0'):
    "The same runs, as if they had pulses and neither forgiveness nor noise"
    for name in [name for name in runs.variants if name.startswith('no_fzr')]:
        run = runs.variants.pop(name)
        run.train = run.train | dict(arm='pfg_fzr', change=change)
        runs.variants[name.replace('no_fzr', 'pfg_fzr')] = run
    return runs


def test_pulses_alone_have_a_map_of_their_own(pair):
    runs = pulses_alone(laid_out(pair, EIGHT))
    assert not healing_rows(runs) and len(rows := healing_rows(runs, 'pfg_fzr')) == 8
    assert 'between two pulses, pulses alone cost' in healing_sentences(rows)[0]
    assert len(fit_sentences(runs, 'pfg_fzr')) == 2 and curve_figure(runs, 'pfg_fzr')
    assert planned_points(dict(variants=dict.fromkeys(runs.variants, {})), 'pfg_fzr') == EIGHT
    assert not says_small(rows[:3])
    assert not healing_rows(pulses_alone(laid_out(pair, EIGHT), change=''), 'pfg_fzr'), 'these have noise'
    with pytest.raises(ValueError, match='highway.*no_fzr, pfg_fzr'):
        healing_rows(runs, 'highway')


def test_the_nearest_point_to_the_paper_speaks(pair):
    rows = healing_rows(laid_out(pair, [*EIGHT, (1.5, 400)]))
    assert healing_sentences(rows)[0].startswith('At a dose of 4.5 and 200 steps')


@pytest.mark.parametrize('a', [1.0, 0.0, -0.2])
def test_what_a_slower_clock_changes(pair, a):
    rows = healing_rows(laid_out(pair, [(1.5, 5.8), (1.5, 75)], a=a))
    change = rows[1]['increase'].value - rows[0]['increase'].value
    (cost,) = [line for line in healing_sentences(rows) if line.startswith('From 5.8 to 75 steps')]
    assert f'changes by {change:+.1f} ['.replace('-', '−') in cost, (cost, change)
    assert (change < -0.1, change > 0.1) == (a > 0, a < 0)


def test_the_reference_may_drift(pair):
    "The cost rises as the reference falls, though the run stays as it was"
    runs = laid_out(pair, [(1.5, 5.8), (1.5, 75)], a=0.0)
    rows = healing_rows(runs)
    run, free = rows[1]['pair']
    free.arrays['window_ce'] = free.arrays['window_ce'] - 0.1
    said = '\n'.join(healing_sentences(rows))
    lost = 10 / free.evaluation['clean']['ce']
    assert f'changes by +{lost:.1f} [' in said and 'Run against run that is +0.0 [' in said.replace('−0.0 [', '+0.0 [')


@pytest.fixture
def few_draws(monkeypatch):
    "Of the windows, for the intervals of a fit"
    monkeypatch.setattr(module, 'fit_dose', partial(module.fit_dose, draws=60))


def test_a_cost_that_falls_as_a_logarithm_has_no_floor(pair, few_draws):
    points = [(1.5, steps) for steps in (5.8, 25, 75, 200)]
    (line,) = fit_sentences(laid_out(pair, points, floor=-9.7, a=10.0, b=0.005))
    assert 'logarithm' in line and 'tends to a floor of' not in line
    (line,) = fit_sentences(laid_out(pair, points))
    assert 'tends to a floor of' in line and UNDER not in line
    (line,) = fit_sentences(laid_out(pair, points, floor=-0.5))
    assert UNDER in line


def test_what_was_learned_between_pulses_is_one_axis(pair):
    runs = laid_out(pair, [(4.5, 25), (4.5, 200)])
    for name, run in runs.variants.items():
        sums = dict(rate_between_pulses=0.01 if '200' in name else 0.012)
        run.train = run.train | dict(rate=1e-4, regime=run.train.regime | (sums if run.dose else {}))
    rows = learning_rows(runs)
    assert [(row['steps'], row['between']) for row in rows] == [(200, 0.01), (25, 0.012)]
    (line,) = learning_sentences(rows)
    assert line.startswith('200 steps at a rate of') and learning_figure(rows).title.startswith('What a dose of 4.5')
    assert not learning_sentences([rows[0], rows[1] | dict(between=0.02)])
    with pytest.raises(ValueError, match='dose 2'):
        learning_figure(rows, 2)


def test_learning_pays_with_order(pair):
    runs = laid_out(pair, [(4.5, 200), (4.5, 300)])
    for name, run in runs.variants.items():
        sums = dict(rate_between_pulses=0.05 if '300' in name else 0.01)
        run.train = run.train | dict(rate=1e-4, regime=run.train.regime | (sums if run.dose else {}))
    least, most = (row | dict(line_over=-0.1) for row in learning_rows(runs))
    assert [row['papers'] for row in (least, most)] == [True, True]
    known = dict(smooth='+1.00 [+0.90, +1.10]', over_base=None, over_untrained=None)
    paid, left, weights, smooth = price_sentences([least | known, most | known | dict(line=0.2)])
    assert 'smallest sum' in paid and 'and 0.20; the base, pulsed alike and never trained, has 0.30' in left
    assert weights.endswith('is not known.') and '+1.00 [+0.90, +1.10] nats better' in smooth
    assert not price_sentences([least])
    assert not says_small([least | known]), 'nothing is known of its base'
    least, most = (row | dict(over_base=row['increase']) for row in (least, most))
    one = says_small([least])
    assert 'pulses alone left a small model' in one and 'kept less order' not in one
    cheaper = most | dict(over_base=replace(least['increase'], value=-9.0, lo=-9.5, hi=-8.5), line=-1.0)
    assert 'kept less order (one seed' in says_small([least, cheaper])
    assert 'kept less order' not in says_small([least, cheaper | dict(line=2.0)])


def test_the_front_page_says_what_the_whole_method_cost_a_small_model():
    "… once it has run, and nothing before"
    runs = small_runs()
    threshold = lambda name: runs[name].evaluation.robustness.threshold['noise']['relative']
    said = says_whole(runs)
    assert f"{threshold('full_stack') / threshold('base_continued'):.0f}x as much" in said
    over = [ce_increase(run, runs['base'])['relative'] for run in all_seeds(runs, 'full_stack')]
    assert f'{50 * sum(over):+.1f} [' in said and '(2 seeds)' in said and len(over) == 2
    assert not says_whole(Runs({name: run for name, run in runs.items() if name != 'full_stack'}))
    runs['full_stack'].evaluation.robustness.threshold['noise'] = dict(relative=None)
    assert not says_whole(runs), 'a threshold that was not reached is no number'


def test_costs_of_a_pair_are_paired_over_windows(pair):
    row = healing_rows(laid_out(pair, [(4.5, 25)]))[0]
    base = pair['base_continued'].evaluation['clean']['ce']
    assert row['increase'].value == pytest.approx(100 * (0.05 + 0.2) / base, rel=0.02)
    assert row['increase'].lo < row['increase'].value < row['increase'].hi


def test_a_model_that_is_its_null_is_called_blurred(pair):
    row = healing_rows(laid_out(pair, [(1.5, 5.8)]))[0]
    said = healing_sentences([row | dict(correlation=0.99995, healing=0.0065, moved=0.43)])
    assert BLURRED.format(correlation='0.99995') in said
    assert not [text for text in healing_sentences([row]) if 'blurred' in text]


def test_a_fit_finds_the_floor_and_needs_three_clocks(pair, few_draws):
    five = [(4.5, steps) for steps in (5.8, 25, 75, 200, 400)]
    fit = healing_fits(laid_out(pair, five))[4.5]
    percent = 100 / pair['base_continued'].evaluation['clean']['ce']
    assert fit['floor'][0] == pytest.approx(0.05 * percent, abs=0.15) and fit['b'][0] == pytest.approx(0.5, abs=0.05)
    assert fit['floor'][1] < fit['floor'][0] < fit['floor'][2]
    assert EXACT not in fit_sentences(laid_out(pair, five))[0]
    assert EXACT in fit_sentences(laid_out(pair, five[:3]))[0]
    assert fit_sentences(laid_out(pair, five[:2])) == [NO_FIT.format(dose=4.5, clocks='2 clocks have')]
    assert 'No dose has the three clocks' in curve_figure(laid_out(pair, five[:1])).caption


def test_seeds_of_a_point_are_joined(pair):
    runs = laid_out(pair, [(4.5, 200)])
    for name in ('base_continued', 'no_fzr'):
        for seed, nats in enumerate((0.0, 0.01)):
            other = at(runs.variants[f'{name}~dose_4.5_steps_200'], 201, 4.5, nats * (name == 'no_fzr'), seed=seed + 1)
            runs.seeds = {**runs.seeds, f'{name}.s{seed + 1}': other}
    (row,) = healing_rows(runs)
    assert row['seeds'] == 3 and row['increase'].resampled == 'windows, and seeds'


@pytest.mark.parametrize('changed', [dict(change='forgetfulness.axis=hidden'), dict(rate=0.1), dict(dose_before=1.0)])
def test_only_runs_of_the_one_recipe_make_a_pair(pair, changed):
    runs = laid_out(pair, [(4.5, 200)])
    runs['base_continued'] = pair['base_continued']
    assert len(healing_pairs(runs)) == 1
    for run in runs.variants.values():
        run.train |= changed
    assert not healing_pairs(runs)


def test_points_that_the_study_plans():
    from ff_nbdev.run.settings import read_scale

    planned = planned_points(read_scale('study'))
    assert PAPER_POINT in planned and {*EIGHT} <= {*planned}


def test_a_run_is_held_against_one_of_its_own_optimizer(tmp_path, pair):
    runs = laid_out(pair, [(1.5, 25)])
    names = ('base_continued~dose_1.5_steps_25', 'base_continued~muon_1_linear', 'no_fzr~muon_1_linear')
    runs.variants[names[1]] = copy.copy(runs.variants[names[0]])
    runs.variants[names[2]] = copy.copy(runs.variants['no_fzr~dose_1.5_steps_25'])
    variants = {name: dict(optimizer='muon') for name in names[1:]}
    save_json(dict(variants=variants, runs=list(runs.variants)), tmp_path / 'run.json')
    for name, run in runs.variants.items():
        run.folder, run.name = tmp_path / name, name
    assert [optimizer_of(runs.variants[name]) for name in names] == ['adamw', 'muon', 'muon']
    assert reference(runs, runs.variants[names[2]]) is runs.variants[names[1]]
    assert reference(runs, runs.variants['no_fzr~dose_1.5_steps_25']) is runs.variants[names[0]]
    rows = rate_rows(runs)
    tried = [(names[1], 'muon'), ('no_fzr~dose_1.5_steps_25', 'adamw'), (names[2], 'muon')]
    assert [(row['run'], row['optimizer']) for row in rows] == tried


def test_the_rate_that_was_chosen_stands_beside_the_lowest(pair):
    runs = copy.copy(pair)
    runs.variants = {}
    for rate, nats in ((1e-5, 0.0), (1e-4, 0.1), (1e-3, 0.5)):
        run = copy.copy(pair['base_continued'])
        run.train = run.train | dict(rate=rate)
        run.arrays = run.arrays | dict(window_ce=pair['base'].arrays['window_ce'] + nats)
        run.evaluation = run.evaluation | dict(clean=run.evaluation.clean | dict(ce=4 + nats))
        runs.variants[f'base_continued~rate_{rate:g}_constant'] = run
    main = copy.copy(pair['base_continued'])
    main.train = main.train | dict(rate=1e-4)
    runs['base_continued'] = main
    said = ' '.join(rate_sentences(rate_rows(runs)))
    assert 'gives every run adamw at 0.0001' in said and 'The lowest is adamw at 1e-05' in said
    assert 'makes the base worse' in said and '1 of 3 (adamw at 1e-05, constant)' in said
    main.train |= dict(rate=1e-5)
    assert 'The chosen one ends lowest.' in rate_sentences(rate_rows(runs))


# The three answers


@pytest.fixture(scope='module')
def studies(tmp_path_factory):
    "One in the paper's regime, and one with six steps between two pulses"
    folders = [tmp_path_factory.mktemp(name) / 'x' for name in ('new', 'first')]
    clocks = (200.0, 5.8)
    runs = [load_runs(example_runs(folder, between=clock)) for folder, clock in zip(folders, clocks)]
    first = runs[1]['no_fzr']
    first.train |= dict(regime=first.train.regime | dict(steps_between_pulses=5.8))
    return runs


def answers(runs, version=2):
    return answer(runs, claims=some_claims(read_claims(version=version), CLAIMS))


def by_own_rules(runs):
    return {row['id']: row for row in answers(runs, 1)}


def test_the_new_study_answers_as_soon_as_it_can(studies):
    new, first = studies
    rows = newest(answers(new), answers(first))
    assert {row['study'] for row in rows} == {'new'}
    assert says_whether(rows, {}).startswith("By 3 of 3 claims that are tested in the paper's regime: ")
    assert "in the paper's regime it costs" in says_use(rows, [], by_own_rules(first))


def test_without_it_the_first_study_does(studies):
    _, first = studies
    unasked = [row | dict(verdict='not run') for row in answers(first)]
    for new in ([], unasked):
        rows = newest(new, answers(first))
        assert {row['study'] for row in rows} == {'first'} and {row['verdict'] for row in rows} == {UNTESTED}
        assert says_whether(rows, {}) == says_whether(rows, dict(mT5=[])) and NO_GAIN in says_whether(rows, {})
        assert 'noise hurts less (RWKV)' in says_whether(rows, dict(RWKV=['noise hurts less']))
        assert 'in that study it cost' in says_use(rows, [], by_own_rules(first))


def test_between_them_the_healing_map_says_what_pulses_cost(studies):
    new, first = studies
    rows = newest([], answers(first))
    inside, outside = healing_rows(new), healing_rows(first)
    assert 'pulses and forgiveness alone' in says_use(rows, inside, by_own_rules(first))
    assert 'in that study' in says_use(rows, outside, by_own_rules(first))


@pytest.mark.parametrize(
    'settings, told',
    [
        ({}, 'none of its 0 runs have finished.'),
        (dict(runs=['base'], not_run=['no_fzr']), '1 of its 2 runs has finished.'),
        (dict(runs=['base']), 'has finished.'),
    ],
)
def test_how_far_the_study_is(settings, told):
    clock = dict(steps=444, steps_between_pulses=5.7)
    assert says_how_far(settings, clock).endswith(told)
    assert ' runs ' not in says_how_far(settings, clock, counted=False)


def test_a_page_begins_with_the_new_study_where_it_has_run(tmp_path):
    folder = example_runs(tmp_path / 'study')
    said = in_regime(new_runs(folder), lambda runs: runs['full_stack'].arm)
    assert said.startswith("**In the paper's regime.** full_stack")
    (folder / 'full_stack' / 'evaluation.json').unlink()
    assert in_regime(new_runs(folder), lambda runs: 'said') == WAITING
    assert in_regime(new_runs(tmp_path), lambda runs: 'said') == WAITING
