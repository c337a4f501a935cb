"The claims and their rules, on invented runs whose effects are known"

import copy
import json
import math
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ff_nbdev.evaluation.robustness import score_arrays
from ff_nbdev.run.records import CollapseSearch
from ff_nbdev.study.claims import UNTESTED, answer, read_claims
from ff_nbdev.study.effects import (
    Effect,
    costs,
    crossing_draws,
    crossing_interval,
    mean_of_layers,
    over_seeds,
    rises,
    same,
)
from ff_nbdev.study.examples import example_runs
from ff_nbdev.study.records import Run, load_runs
from ff_nbdev.study.tables import seed_rows
from ff_nbdev.study.regime_rules import SECOND, noise_steps
from ff_nbdev.study import rules as module
from ff_nbdev.study.rules import KERNELS, RULES
from ff_nbdev.mechanisms.registry import RECIPES

ALL = [
    'base',
    'base_reordered',
    'base_continued',
    'no_fzr',
    'full_stack',
    'highway',
    'tlf',
    'tlf_minus_fzr',
    'full_stack_tlf_fzr',
    'full_stack_continued',
    'forgiveness_only',
    'no_ramp',
    'full_stack_to_collapse',
    'full_stack_to_collapse_slow',
    'highway_to_collapse',
    'tlf_to_collapse',
]


def write(folder, arm, **entries):
    "Other entries in the train.json of an arm"
    path = folder / arm / 'train.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def collapse(point, width=0.5, step=0.1, collapsed=True):
    "The record of a search with three looks"
    return dict(
        collapsed=collapsed,
        point=point if collapsed else None,
        width=width if collapsed else None,
        start=0.3,
        rule='',
        points=[[point + step * k, 0.1] for k in (0, 1, 2)],
    )


def remembered(function):
    "A function that finds the same for the same arguments, and so looks once"
    found = {}

    def recall(*args, **kw):
        key = pickle.dumps((args, kw))
        if key not in found:
            found[key] = function(*args, **kw)
        return copy.deepcopy(found[key])

    return recall


@pytest.fixture(scope='module', autouse=True)
def overlaps_once():
    "Each test asks every claim, and most leave the overlaps of the runs as they are"
    with pytest.MonkeyPatch.context() as patch:
        for name in ('compare', 'more_alike', 'two_letter_test', 'between', 'stability'):
            patch.setattr(module, name, remembered(getattr(module, name)))
        yield


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return example_runs(tmp_path_factory.mktemp('claims') / 'quick', ALL)


def rows_of(runs, others=None):
    return {row['id']: row for row in answer(runs, others)}


def rows(folder):
    return rows_of(load_runs(folder))


def verdicts(rows, *names):
    return [rows[name]['verdict'] for name in names]


def test_every_claim_has_a_rule_and_known_arms():
    for version, rules in ((1, RULES), (2, SECOND)):
        claims = read_claims(version=version)
        assert list(claims) == [f'C{i}' for i in range(1, 26)] == sorted(rules, key=lambda name: int(name[1:]))
        for claim in claims.values():
            assert not {arm.split('~')[0] for arm in claim.arms} - set(RECIPES)
    assert (claims.version, claims.dated) == (2, '2026-11-29')


@pytest.mark.parametrize('worst, want', [(0.002, 'holds'), (0.05, 'fails')])
def test_kernels_are_judged_by_the_worst_of_them(folder, worst, want):
    runs = load_runs(folder)
    full = runs['full_stack']
    assert rows_of(runs)['C24']['verdict'] == 'not run'
    for kernel in KERNELS:
        cost = worst if kernel == 'decay_2' else 0
        arrays = full.arrays | dict(window_ce=full.arrays['window_ce'] * (1 + cost))
        runs.variants[f'full_stack~{kernel}'] = Run('full_stack', full.folder, full.evaluation, full.train, arrays)
    found = rows_of(runs)['C24']
    assert found['verdict'] == want and abs(found['value'] - worst) < 1e-6, found


@pytest.mark.parametrize(
    'lo, hi, control, want',
    [
        (0.1, 0.2, False, 'holds'),
        (0.1, 0.2, True, 'fails'),
        (-0.2, -0.1, False, 'fails'),
        (-0.1, 0.1, False, 'undecided'),
        (-0.1, 0.1, True, 'undecided'),
    ],
)
def test_rule_of_rising(lo, hi, control, want):
    assert rises(Effect((lo + hi) / 2, lo, hi, control)) == want


@pytest.mark.parametrize(
    'lo, hi, cost, alike',
    [
        (-0.2, -0.15, 'holds', 'fails'),
        (-0.02, 0.005, 'holds', 'holds'),
        (0.005, 0.02, 'undecided', 'holds'),
        (0.02, 0.3, 'fails', 'undecided'),
        (0.2, 0.3, 'fails', 'fails'),
    ],
)
def test_rules_of_costing_and_sameness(lo, hi, cost, alike):
    effect = Effect((lo + hi) / 2, lo, hi)
    assert (costs(effect, 0.01), same(effect, 0.1)) == (cost, alike)


@pytest.mark.parametrize('rule', [rises, lambda e: costs(e, 1), lambda e: same(e, 1)])
def test_an_interval_upside_down_is_refused(rule):
    with pytest.raises(ValueError, match='upside down'):
        rule(Effect(0, 1, 0))


def test_seeds_are_joined_by_students_t():
    values = [0.1, 0.13, 0.18]
    found = over_seeds([Effect(x, x - 0.01, x + 0.01) for x in values])
    lo, hi = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    half = math.hypot((hi - lo) / 2, 0.01)
    centre = np.mean(values)
    assert (found.lo, found.hi) == (pytest.approx(centre - half), pytest.approx(centre + half))
    assert (found.seeds, found.resampled) == (3, 'windows, and seeds')


def test_two_seeds_that_agree_by_chance_are_no_surer_than_each():
    alike = over_seeds([Effect(x, x - 0.1, x + 0.1) for x in (0.5, 0.5001)])
    assert 0.2 <= alike.hi - alike.lo == pytest.approx(0.2, rel=1e-4)


def test_interval_over_layers_is_students_and_holds_its_level():
    values = np.random.default_rng(0).normal(size=5)
    want = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_of_layers(values) == pytest.approx((values.mean(), want.low, want.high))
    assert mean_of_layers([1.0])[1:] == (-math.inf, math.inf)
    mean, _, hi = mean_of_layers(values, 0.5)
    assert hi - mean == pytest.approx(stats.t.ppf(0.975, 4) * math.hypot(values.std(ddof=1) / 5**0.5, 0.5))
    found = [mean_of_layers(x) for x in np.random.default_rng(1).normal(size=(1000, 4))]
    assert np.mean([not lo <= 0 <= hi for _, lo, hi in found]) < 0.075


def test_open_ended_seeds_are_covered_not_averaged():
    found = over_seeds([Effect(math.inf, 2.0, math.inf), Effect(1.0, 0.5, 1.5), Effect(1.0, 0.6, 1.5)])
    assert (found.lo, found.hi, found.seeds) == (0.5, math.inf, 3) and rises(found) == 'holds'
    assert rises(over_seeds([Effect(math.inf, -math.inf, math.inf), Effect(1.0, 0.5, 1.5)])) == 'undecided'


@pytest.mark.parametrize(
    'one, sixteen, want', [(0.5, 0.9, 'holds'), (0.1, 0.9, 'fails'), (0.5, 0.3, 'fails'), (0.31, 0.9, 'undecided')]
)
def test_both_tasks_count(tmp_path, one, sixteen, want):
    assert rows(example_runs(tmp_path / 'quick', one=one, sixteen=sixteen))['C12']['verdict'] == want


def test_signatures_need_their_control(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'quick')
    path = tmp_path / 'quick' / 'full_stack' / 'evaluation.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(smoothed=None)))
    found = rows(tmp_path / 'quick')['C11']
    assert found['verdict'] == 'not run' and 'without the smoothed base' in found['why']


def test_collapse_points(folder):
    points = dict(
        full_stack_to_collapse=12.0, full_stack_to_collapse_slow=12.1, highway_to_collapse=6.0, tlf_to_collapse=7.0
    )
    for arm, point in points.items():
        write(folder, arm, collapse=collapse(point))
    found = rows(folder)
    assert verdicts(found, 'C6', 'C7', 'C9', 'C10') == ['holds'] * 4
    assert found['C7']['value'] == pytest.approx(6) and found['C10']['value'] == pytest.approx(12.1 / 12 - 1)
    write(folder, 'highway_to_collapse', collapse=collapse(12.5))
    found = rows(folder)
    assert verdicts(found, 'C7', 'C10') == ['fails', 'not measurable']
    assert 'nothing was slowed down' in found['C10']['why']
    write(folder, 'highway_to_collapse', collapse=collapse(12.05))
    assert verdicts(rows(folder), 'C7') == ['undecided']
    write(folder, 'full_stack_to_collapse', collapse=collapse(12.0, collapsed=False))
    found = rows(folder)
    assert verdicts(found, 'C6', 'C9') == ['not measurable', 'holds'] and math.isinf(found['C9']['hi'])
    write(folder, 'highway_to_collapse', collapse=collapse(13.0, collapsed=False))
    assert 'neither' in rows(folder)['C7']['why']


def searched(half, windows=64, draw=0, step=0.1):
    "A search in which accuracy falls in a line to half of its start at `half`, from 25 tokens a window"
    rng = np.random.default_rng(draw)  # says which windows are easy
    easy, strengths = rng.beta(2, 6, windows), np.arange(0, half + 3 * step, step)
    hits = [rng.binomial(25, easy * (1 - 0.5 * x / half)).tolist() for x in strengths]
    accuracy = [sum(row) / (25 * windows) for row in hits]
    return dict(
        collapsed=True,
        point=half,
        width=0.8 * half,
        start=accuracy[0],
        rule='',
        hits=hits,
        points=[[float(x), y] for x, y in zip(strengths, accuracy)],
        clean=[accuracy[0]] * len(strengths),
    )


def crossing(draw):
    "Where the curve of other 64 windows crosses, by its looks nearby"
    hits = np.array(searched(3.0, draw=draw)['hits']).sum(1)
    curve, looks = hits / hits[0], np.arange(len(hits))
    near = abs(looks * 0.1 - 3.0) <= 0.5
    return 3.0 + (curve[near].mean() - np.mean(1 - 0.5 * looks[near] * 0.1 / 3.0)) / (0.5 / 3.0)


def test_an_interval_of_a_collapse_holds_what_windows_do():
    others = [crossing(draw) for draw in range(300)]
    drawn = crossing_draws(CollapseSearch.from_dict(searched(3.0)), 3.0)
    assert 0.5 < np.std(drawn) / np.std(others) < 2 and abs(np.mean(drawn) - 3.0) < 0.1
    assert np.ptp(crossing_draws(CollapseSearch.from_dict(collapse(3.0)), 3.0)) == 0  # an older record holds no hits
    flat = searched(3.0)
    flat['hits'] = [flat['hits'][0]] * len(flat['hits'])
    assert crossing_interval(crossing_draws(CollapseSearch.from_dict(flat), 3.0), 0.1) == (-math.inf, math.inf)


def test_searches_are_compared_in_pairs(folder):
    search = searched(6.0)
    write(folder, 'full_stack_to_collapse', collapse=search, top=2.5)
    write(folder, 'highway_to_collapse', collapse=searched(3.0), top=2.5)
    found = rows(folder)
    assert verdicts(found, 'C7', 'C6') == ['holds', 'fails']
    assert found['C7']['lo'] < 2.8 and 'windows' in found['C7']['resampled']
    write(folder, 'highway_to_collapse', collapse=searched(5.9, draw=1))
    assert verdicts(rows(folder), 'C7') == ['undecided']
    write(folder, 'highway_to_collapse', collapse=searched(8.0) | dict(collapsed=False, point=None, width=None))
    found = rows(folder)['C7']
    assert found['verdict'] == 'fails' and found['lo'] == -math.inf and found['lo'] <= found['value'] <= found['hi']
    held, looks = searched(6.0), range(60)
    held['points'] += [[6.3 + 0.1 * k, held['start'] * 0.52] for k in looks]
    held['hits'] += [held['hits'][-1]] * len(looks)
    write(folder, 'highway_to_collapse', collapse=held | dict(collapsed=False, point=None, width=None))
    found = rows(folder)['C7']
    assert found['verdict'] == 'undecided' and found['hi'] < 0, 'one curve, which one of them happens to cross the half'
    assert 'at equal strengths the difference is +0.0' in found['control']
    write(folder, 'full_stack_to_collapse', collapse=search | dict(point=0.0))
    assert 'first look' in rows(folder)['C6']['why']


def usage(tops, **more):
    return [dict(site=str(k), top=top, entropy=1.0, **more) for k, top in enumerate(tops)]


def test_the_even_start_of_the_count_is_left_out(folder):
    config = dict(total_sentences=100_000, recall=dict(start=0.8, halflife=20_000.0))
    even = 0.5 / (0.5 + 0.5 * 2)  # half of the memory, and visits count two signs
    for arm, seen in (('highway', 0.2), ('full_stack', 0.1)):
        write(folder, arm, sentences=100_000, config=config, usage=usage([0.03 * even + (1 - even) * seen] * 4))
    assert rows(folder)['C8']['value'] == pytest.approx(2.0)
    write(folder, 'highway', usage=usage([0.1] * 4, seen=0.3, kept=0.5))
    assert rows(folder)['C8']['value'] == pytest.approx(3.0)


def test_what_has_learned_nothing_pays_nothing(tmp_path):
    out = example_runs(tmp_path / 'quick', [*dict.fromkeys([*ALL, 'pulses_from_scratch', 'from_scratch_base'])])
    for arm, ce in (('pulses_from_scratch', 6.6), ('from_scratch_base', 6.59)):
        path = out / arm / 'evaluation.json'
        record = json.loads(path.read_text())
        record['clean']['ce'], record['unigram_ce'] = ce, 7.0
        path.write_text(json.dumps(record))
    assert verdicts(rows(out), 'C25') == ['not measurable']


def test_places_that_hold_without_the_method_are_no_evidence(folder, tmp_path):
    out = tmp_path / 'quick'
    shutil.copytree(folder, out)
    shutil.copytree(example_runs(tmp_path / 'more', ALL, seed=1) / 'base_continued', out / 'base_continued.s1')
    assert 'two seeds of base_continued' in rows(out)['C22']['control']


def test_use_of_places(folder):
    for arm, top in (('highway', 0.4), ('full_stack', 0.2)):
        write(folder, arm, usage=usage(top + 0.01 * np.arange(4)))
    found = rows(folder)['C8']
    assert found['verdict'] == 'holds' and 1.8 < found['value'] < 2.1


@pytest.mark.parametrize('slower, want', [(1.001, 'holds'), (1.2, 'fails')])
def test_seconds_a_step(folder, slower, want):
    busy = [1 + 0.5 * (k % 7) for k in range(40)]  # other work, the same for both
    took = dict(forgiving=[slower * b + 0.001 * (-1) ** k for k, b in enumerate(busy)], plain=busy)
    write(folder, 'forgiveness_only', paired_seconds=took)
    found = rows(folder)['C23']
    assert found['verdict'] == want and found['value'] == pytest.approx(slower - 1, abs=0.005)
    assert 'pairs' in found['resampled']
    write(folder, 'forgiveness_only', paired_seconds=None)
    assert 'older version' in rows(folder)['C23']['why']


def test_places_between_arms(folder):
    found = rows(folder)
    assert found['C22']['verdict'] in ('holds', 'fails', 'undecided') and found['C22']['resampled'] == 'tokens'
    assert found['C20']['seeds'] == 1
    assert found['C19']['verdict'] == 'holds' and found['C19']['value'] > 0  # tlf has words that follow their letters
    assert found['C21']['verdict'] == 'not run' and 'rwkv_tlf' in found['C21']['why']


def test_the_other_architecture_is_asked(folder):
    runs = load_runs(folder)
    found = rows_of(runs, {'rwkv_tlf': runs['tlf']})['C21']
    assert found['verdict'] == 'holds' and found['value'] > 0.1  # a model is more like itself than another


def test_a_command_names_arms_of_its_own_architecture(folder, tmp_path):
    for path in folder.iterdir():
        if path.is_dir():
            shutil.copytree(path, tmp_path / 'quick' / f'rwkv_{path.name}')
    found = rows_of(load_runs(tmp_path / 'quick', kind='rwkv'))
    arms = {name: row['command'].partition('--recipes ')[2].split() for name, row in found.items()}
    assert arms['C1'][:3] == ['rwkv_full_stack', 'rwkv_base_continued', 'rwkv_base']
    assert arms['C21'][:3] == ['tlf', 'full_stack', 'rwkv_tlf'] and not arms['C24']


def test_a_missing_arm_is_named(tmp_path):
    found = rows(example_runs(tmp_path / 'quick', ['base', 'full_stack']))
    assert all(row['verdict'] == 'not run' and row['why'] for row in found.values() if row['value'] is None)
    assert found['C1']['why'] == 'base_continued was not run'
    assert found['C25']['why'] == 'pulses_from_scratch was not run'


def test_seeds_of_a_folder(folder, tmp_path):
    out = tmp_path / 'quick'
    shutil.copytree(folder, out)
    for seed in (1, 2):
        other = example_runs(tmp_path / f'seed{seed}', ALL, seed=seed)
        for arm in ('base_continued', 'full_stack', 'no_fzr'):
            shutil.copytree(other / arm, out / f'{arm}.s{seed}')
    runs = load_runs(out)
    found = rows_of(runs)
    assert found['C12']['seeds'] == 3 and found['C12']['resampled'] == 'tokens and redraws, and seeds'
    assert found['C1']['seeds'] == 3 and found['C7']['seeds'] <= 1
    assert {row['run']: row['seeds'] for row in seed_rows(runs)} == dict(base_continued=3, no_fzr=3, full_stack=3)
    assert 'full_stack.s1' not in runs


def test_what_smaller_outputs_alone_give_is_said_beside_robustness(folder):
    runs = load_runs(folder)
    full, free = runs['full_stack'], runs['base_continued']
    windows = lambda hits: np.array([[hits] * 8, [10.0] * 8, [30.0] * 8])
    scores = score_arrays(
        {'clean': windows(6.0), 'zero': windows(1.0), ('noise', 1.0): windows(5.0), ('noise', 4.0): windows(2.0)}
    )
    full.arrays |= scores
    free.arrays |= scores | {key.replace('disturbed', 'matched'): value for key, value in scores.items()}
    words = lambda: RULES['C16'][0](runs.__getitem__).words
    assert 'with the FFN ratio' not in words()
    free.evaluation |= dict(robustness_matched=free.evaluation.robustness | dict(like='full_stack'))
    assert 'with the FFN ratio of full_stack, without training' in words()
    assert words().endswith('+0.00 [+0.00, +0.00]'), words()


# The second version: every claim on runs inside its regime, and on the same outside it

COLLAPSED = dict(full_stack_to_collapse=12.0, highway_to_collapse=6.0, tlf_to_collapse=7.0)


def copied(run, name, **train):
    return replace(run, name=name, train=copy.deepcopy(run.train) | train)


@pytest.fixture(scope='module')
def whole(folder):
    "Runs that the second version can ask all its changed claims of"
    runs = load_runs(folder)
    noisy = dict(total_sentences=20_000, recall=dict(start=0.8, top=2.0, halflife=2_000.0))
    for name, run in runs.items():
        if run.trained:
            run.train |= dict(config=noisy, sentences=20_000)  # tests before have written others
        if run.trained and name not in ('base_continued', 'forgiveness_only'):  # the examples pulse two arms alone
            run.train |= dict(dose=4.5, regime=runs['full_stack'].train['regime'])
    for name, point in COLLAPSED.items():
        runs[name].train |= dict(collapse=collapse(point))
    slow = copied(runs['full_stack_to_collapse'], 'slow', collapse=collapse(12.1))
    runs['full_stack_to_collapse_slow'] = slow
    for name in ('highway', 'full_stack'):
        runs[name].train |= dict(usage=[dict(top=0.2, seen=0.2 + 0.01 * k) for k in range(4)])
    for name in ('no_ramp', 'base_continued'):
        runs.variants[f'{name}~first_5000'] = copied(runs[name], name, sentences=5_016)
    for kernel in KERNELS:
        runs.variants[f'full_stack~{kernel}'] = runs['full_stack']
    runs['pulses_from_scratch'], runs['from_scratch_base'] = runs['full_stack'], runs['base_continued']
    return runs


def told(whole, **changes):
    "The same runs, each pulsed one with other entries in its regime"
    runs = copy.copy(whole)
    runs.variants = dict(whole.variants)
    for group in (runs, runs.variants):
        for name, run in group.items():
            if run.trained and run.train['dose']:
                group[name] = copied(run, name, regime=run.train['regime'] | changes)
    return runs


CHANGED = ['C2', 'C3', 'C4', 'C6', 'C7', 'C8', 'C9', 'C10', 'C13', 'C24', 'C25']


@pytest.mark.parametrize('between, dose', [(100.0, 4.0), (99.0, 5.4), (200.0, 3.9)])
def test_a_claim_is_tested_in_its_regime_alone(whole, between, dose):
    found = rows_of(told(whole, steps_between_pulses=between, dose=dose))
    inside = between >= 100 and dose >= 4
    for name in CHANGED:
        asked = inside or name == 'C2' and between >= 100  # C2 has the paper's clock and no dose to reach
        assert (found[name]['verdict'] == UNTESTED) is not asked, (name, found[name])
        assert found[name]['value'] is not None, (name, found[name])
    first = {row['id']: row for row in answer(whole, claims=read_claims(version=1))}
    assert UNTESTED not in {row['verdict'] for row in first.values()}


def test_a_record_that_does_not_tell_is_outside(whole):
    runs = copy.copy(whole)
    runs['full_stack'] = copied(runs['full_stack'], 'full_stack', regime=None, steps=None)
    assert rows_of(runs)['C1']['verdict'] == UNTESTED and rows_of(whole)['C1']['verdict'] != UNTESTED


@pytest.mark.parametrize('start, tested', [(0.8, True), (0.81, False)])
def test_claims_on_noise_need_enough_of_it(whole, start, tested):
    runs = copy.copy(whole)
    for name in (*COLLAPSED, 'full_stack_to_collapse_slow', 'highway', 'full_stack'):
        config = runs[name].train['config']
        runs[name] = copied(runs[name], name, config=config | dict(recall=config['recall'] | dict(start=start)))
    assert (noise_steps(runs['highway'].train) >= 3_500) is tested
    found = rows_of(runs)
    assert {found[name]['verdict'] != UNTESTED for name in ('C6', 'C7', 'C8', 'C9', 'C10')} == {tested}
    assert found['C1']['verdict'] != UNTESTED  # asks nothing of the noise


def test_runs_that_share_their_noise_are_not_compared(whole):
    runs = copy.copy(whole)
    runs['highway'] = copied(runs['full_stack'], 'highway')
    found = rows_of(runs)['C8']
    assert found['verdict'] == 'not measurable' and 'one run for a part of their noise' in found['why']
    assert rows_of(whole)['C8']['value'] is not None


def evaluated(run, **entries):
    return replace(run, evaluation=run.evaluation | entries)


@pytest.mark.parametrize(
    'gain, control, want',
    [
        ([0.3, 0.2, 0.4], [0.1, 0.05, 0.15], 'holds'),
        ([0.3, 0.2, 0.4], [0.4, 0.3, 0.5], 'fails'),
        ([-0.3, -0.4, -0.2], None, 'fails'),
        ([0.1, -0.1, 0.3], None, 'undecided'),
        (None, None, 'not run'),
    ],
)
def test_function_in_the_smooth_part(whole, gain, control, want):
    runs = copy.copy(whole)
    for name, part in (('full_stack', gain), ('base_continued', control)):
        runs[name] = evaluated(runs[name], smooth_part=part and dict(gain=part))
    found = rows_of(runs)['C3']
    assert found['verdict'] == want
    assert 'untrained null' in (found['why'] or found['control'])


@pytest.mark.parametrize('over, want', [(0.2, 'holds'), (-0.1, 'fails')])
def test_activations_stand_beside_both_nulls(whole, over, want):
    runs = copy.copy(whole)
    rows = runs['full_stack'].evaluation['activation_moran']
    rows = [row | dict(mean=row['null_diffused'] + over + 0.001 * k) for k, row in enumerate(rows)]
    runs['full_stack'] = evaluated(runs['full_stack'], activation_moran=rows)
    found = rows_of(runs)['C4']
    assert found['verdict'] == want and 'noise network' in found['control'] and 'base_continued' in found['control']


@pytest.mark.parametrize('kind, key', [('conceptual', 'close_alternative'), ('two_letter', 'close_error')])
def test_errors_are_close_by_the_runs_own_forgiveness(whole, kind, key):
    runs = copy.copy(whole)
    task = runs['full_stack'].evaluation['signatures']['16:16'] | {f'{key}_share': 0.5, f'{key}_ci': [0.4, 0.6]}
    found = evaluated(runs['full_stack'], signatures=runs['full_stack'].evaluation['signatures'] | {'16:16': task})
    runs['full_stack'] = replace(found, train=found.train | dict(forgiveness=kind))
    row = rows_of(runs)['C13']
    assert row['verdict'] == 'holds' and row['value'] == pytest.approx(0.48)
    other = {'two_letter': 'conceptual', 'conceptual': 'two_letter'}[kind]
    runs['full_stack'] = replace(found, train=found.train | dict(forgiveness=other))
    assert rows_of(runs)['C13']['value'] == pytest.approx(0.18)


@pytest.mark.parametrize('share, want', [(0.02, 'holds'), (0.2, 'holds'), (0.45, 'undecided'), (0.8, 'fails')])
def test_close_errors_of_the_control_must_be_shown_to_be_fewer(whole, share, want):
    runs = copy.copy(whole)
    for name, value in dict(full_stack=0.5, base_continued=share).items():
        tests = runs[name].evaluation['signatures']
        errors = dict(close_alternative_share=value, close_alternative_ci=[value - 0.1, value + 0.1])
        errors['close_alternative_by_chance'] = 0.02
        runs[name] = evaluated(runs[name], signatures=tests | {'16:16': tests['16:16'] | errors})
    assert rows_of(runs)['C13']['verdict'] == want


def test_kernels_must_smooth_alike(whole):
    runs = copy.copy(whole)
    runs.variants = dict(whole.variants)
    full = runs['full_stack']
    wide = [row | dict(null_queen=row['null_queen'] + 0.03) for row in full.evaluation['spatial']]
    runs.variants['full_stack~size_17'] = evaluated(full, spatial=wide)
    found = rows_of(runs)['C24']
    assert found['verdict'] == 'not measurable' and 'do not smooth alike' in found['why']
    assert rows_of(whole)['C24']['verdict'] in ('holds', 'fails', 'undecided')


def test_from_scratch_needs_a_model_that_learned(whole):
    runs = copy.copy(whole)
    free = runs['base_continued']
    gain = 0.7 * (runs['base'].evaluation['unigram_ce'] - runs['base'].evaluation['clean']['ce'])
    slow = free.evaluation['clean'] | dict(ce=free.evaluation['unigram_ce'] - gain)
    runs['from_scratch_base'] = evaluated(free, clean=slow)
    found = rows_of(runs)['C25']
    assert found['verdict'] == 'not measurable' and '75 %' in found['why']
    runs['from_scratch_base'] = replace(free, train=free.train | dict(optimizer='muon'))
    assert 'two optimizers' in rows_of(runs)['C25']['why']


def test_without_a_ramp_a_whole_run_does_not_answer(whole):
    runs = copy.copy(whole)
    runs.variants = dict(whole.variants)
    runs.variants['no_ramp~first_5000'] = runs['no_ramp']
    assert 'went on beyond' in rows_of(runs)['C2']['why']


def withstanding(hits, floor=1.0):
    "Scores of 40 windows: so many of ten tokens correct under disturbances of 1, 2 and 4"
    windows = lambda some: np.array([[some] * 40, [10.0] * 40, [30.0] * 40]) + 0.0
    return {'clean': windows(6.0), 'zero': windows(floor)} | {
        (kind, x): windows(found)
        for kind in ('noise', 'nonhub', 'blur')
        for x, found in zip((1.0, 2.0, 4.0), hits)
    }


@pytest.mark.parametrize(
    'own, quieter, want',
    [
        ((6.0, 5.0, 2.0), None, 'undecided'),  # the control enters the verdict, and it was not measured
        ((6.0, 5.0, 2.0), (5.0, 3.0, 1.0), 'holds'),
        ((6.0, 5.0, 2.0), (6.0, 6.0, 5.0), 'fails'),
        ((6.0, 5.0, 2.0), (6.0, 5.0, 2.0), 'undecided'),
        ((4.0, 2.0, 1.0), None, 'fails'),
    ],
)
def test_quieter_layers_may_explain_what_noise_hurts_less(whole, own, quieter, want):
    runs = copy.copy(whole)
    full, free = runs['full_stack'], runs['base_continued']
    like = free.evaluation.robustness | dict(like='full_stack') if quieter else None
    matched = score_arrays(withstanding(quieter), 'matched') if quieter else {}
    runs['full_stack'] = replace(full, arrays=full.arrays | score_arrays(withstanding(own)))
    free = evaluated(free, robustness_matched=like)
    runs['base_continued'] = replace(free, arrays=free.arrays | score_arrays(withstanding((5.0, 3.0, 1.0))) | matched)
    found = rows_of(runs)['C16']
    assert found['verdict'] == want and 'in pairs' in found['resampled'], found
    assert ('was not measured' in found['control']) == (quieter is None)
    if quieter:  # scaled that far, a control may do nothing any more
        runs['base_continued'] = evaluated(runs['base_continued'], robustness_matched=like | dict(measurable=False))
        wiped = rows_of(runs)['C16']
        assert wiped['verdict'] == 'undecided' and 'is wiped' in wiped['control']


@pytest.mark.parametrize('control, want', [(0.5, 'holds'), (0.85, 'undecided'), (0.99, 'fails')])
def test_a_control_must_be_shown_to_name_as_many(whole, control, want):
    runs = copy.copy(whole)
    score = lambda x: {'16:16': dict(accuracy=x, ci=[x - 0.03, x + 0.03])}
    fewer = runs['full_stack'].evaluation['signatures']
    runs['full_stack'] = evaluated(
        runs['full_stack'],
        signatures=fewer | {'16:16': fewer['16:16'] | dict(accuracy=0.86, ci=[0.84, 0.88])},
        signatures_250=score(0.86) | dict(n_tokens=250),
    )
    for name in ('base_reordered', 'base_continued'):
        runs[name] = evaluated(runs[name], signatures_250=score(control) | dict(n_tokens=250))
    assert rows_of(runs)['C14']['verdict'] == want


def test_seconds_are_summed(whole):
    runs = copy.copy(whole)
    took = dict(plain=[1.0] * 39 + [100.0], forgiving=[0.9] * 39 + [120.0])  # one slow step outweighs the median
    runs['forgiveness_only'] = copied(runs['forgiveness_only'], 'forgiveness_only', paired_seconds=took)
    value = rows_of(runs)['C23']['value']
    assert value == pytest.approx((0.9 * 39 + 120) / 139 - 1) and value > 0.1


def test_too_few_pulses_say_nothing_of_a_ramp(whole):
    runs = copy.copy(whole)
    runs.variants = dict(whole.variants)
    flat = runs.variants['no_ramp~first_5000']
    between = flat.train['regime']['steps_between_pulses']
    runs.variants['no_ramp~first_5000'] = copied(flat, 'no_ramp', steps=round(0.9 * between))
    found = rows_of(runs)['C2']
    assert found['verdict'] == 'not measurable' and '0.9 pulses' in found['why']


@pytest.mark.parametrize('rate, optimizer, tested', [(1e-9, '', False), (0.011, '', True), (1e-9, 'muon', True)])
def test_steps_count_only_at_a_rate_that_learns(whole, rate, optimizer, tested):
    runs = told(whole, rate_between_pulses=rate)
    for name, run in runs.items():
        if run.trained:
            runs[name] = copied(run, name, optimizer=optimizer)
    assert (rows_of(runs)['C1']['verdict'] != UNTESTED) is tested
