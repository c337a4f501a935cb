"The claims and their rules, on invented runs whose effects are known"
import json
import math
import shutil

import numpy as np
import pytest
from scipy import stats

from ff_nbdev.study import claims as C
from ff_nbdev.study.records import Run, load_runs
from ff_nbdev.study.examples import example_runs
from ff_nbdev.training.recipes import RECIPES

ALL = ['base', 'base_reordered', 'base_continued', 'no_fzr', 'full_stack', 'highway', 'tlf', 'tlf_minus_fzr', 'full_stack_tlf_fzr', 'full_stack_continued', 'forgiveness_only', 'no_ramp',
    'full_stack_to_collapse', 'full_stack_to_collapse_slow', 'highway_to_collapse', 'tlf_to_collapse']

def write(folder, arm, **entries):
    p = folder/arm/'train.json'; p.write_text(json.dumps(json.loads(p.read_text()) | entries))

def collapse(point, width=.5, step=.1, collapsed=True):
    return dict(collapsed=collapsed, point=point if collapsed else None, width=width if collapsed else None, start=.3, rule='', points=[[point + step*k, .1] for k in (0, 1, 2)])

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return example_runs(tmp_path_factory.mktemp('claims')/'quick', ALL)

def rows(folder, **kw): return {r['id']: r for r in C.answer(load_runs(folder), **kw)}

def test_every_claim_has_a_rule_and_known_arms():
    claims = C.read_claims(); assert list(claims) == [f'C{i}' for i in range(1, 26)] == sorted(C.RULES, key=lambda c: int(c[1:]))
    assert not {a.split('~')[0] for d in claims.values() for a in d['arms']} - set(RECIPES)

def test_kernels_are_judged_by_the_worst_of_them(folder):
    runs = load_runs(folder); f = runs['full_stack']; assert next(r for r in C.answer(runs) if r['id'] == 'C24')['verdict'] == 'not run'
    def costing(x): return Run('full_stack', f.folder, f.evaluation, f.train, f.arrays | dict(window_ce=f.arrays['window_ce']*(1 + x)))
    for worst, want in ((.002, 'holds'), (.05, 'fails')):
        runs.variants = {f'full_stack~{k}': costing(0 if k != 'decay_2' else worst) for k in C.KERNELS}
        r = next(r for r in C.answer(runs) if r['id'] == 'C24'); assert r['verdict'] == want and abs(r['value'] - worst) < 1e-6, r

@pytest.mark.parametrize('lo, hi, control, want', [(.1, .2, False, 'holds'), (.1, .2, True, 'fails'), (-.2, -.1, False, 'fails'), (-.1, .1, False, 'undecided'), (-.1, .1, True, 'undecided')])
def test_rule_of_rising(lo, hi, control, want): assert C.rises(C.Effect((lo + hi)/2, lo, hi, control)) == want

@pytest.mark.parametrize('lo, hi, costs, same', [(-.2, -.15, 'holds', 'fails'), (-.02, .005, 'holds', 'holds'), (.005, .02, 'undecided', 'holds'), (.02, .3, 'fails', 'undecided'), (.2, .3, 'fails', 'fails')])
def test_rules_of_costing_and_sameness(lo, hi, costs, same):
    e = C.Effect((lo + hi)/2, lo, hi); assert (C.costs(e, .01), C.same(e, .1)) == (costs, same)

@pytest.mark.parametrize('rule', [C.rises, lambda e: C.costs(e, 1), lambda e: C.same(e, 1)])
def test_an_interval_upside_down_is_refused(rule):
    with pytest.raises(ValueError, match='upside down'): rule(C.Effect(0, 1, 0))

def test_seeds_are_joined_by_students_t():
    v = [.1, .13, .18]; e = C.over_seeds([C.Effect(x, x - .01, x + .01) for x in v])
    lo, hi = stats.t.interval(.95, 2, np.mean(v), stats.sem(v)); assert (e.lo, e.hi, e.seeds, e.resampled) == (pytest.approx(lo), pytest.approx(hi), 3, 'seeds')
    alike = C.over_seeds([C.Effect(x, x - .1, x + .1) for x in (.5, .5001)]); assert alike.hi - alike.lo == pytest.approx(.2)      # two seeds that agree by chance are no surer than each

def test_interval_over_layers_is_students_and_holds_its_level():
    v = np.random.default_rng(0).normal(size=5); m, lo, hi = C.mean_of_layers(v); want = stats.ttest_1samp(v, 0).confidence_interval(.95)
    assert (m, lo, hi) == pytest.approx((v.mean(), want.low, want.high)) and C.mean_of_layers([1.])[1:] == (-math.inf, math.inf)
    wide = C.mean_of_layers(v, .5); assert wide[2] - wide[0] == pytest.approx(stats.t.ppf(.975, 4)*math.hypot(v.std(ddof=1)/5**.5, .5))
    rng = np.random.default_rng(1); missed = np.mean([not (a := C.mean_of_layers(x))[1] <= 0 <= a[2] for x in rng.normal(size=(1000, 4))]); assert missed < .075

def test_open_ended_seeds_are_covered_not_averaged():
    e = C.over_seeds([C.Effect(math.inf, 2., math.inf), C.Effect(1., .5, 1.5), C.Effect(1., .6, 1.5)])
    assert (e.lo, e.hi, e.seeds) == (.5, math.inf, 3) and C.rises(e) == 'holds' and C.rises(C.over_seeds([C.Effect(math.inf, -math.inf, math.inf), C.Effect(1., .5, 1.5)])) == 'undecided'

@pytest.mark.parametrize('one, sixteen, want', [(.5, .9, 'holds'), (.1, .9, 'fails'), (.5, .3, 'fails'), (.31, .9, 'undecided')])
def test_both_tasks_count(tmp_path, one, sixteen, want): assert rows(example_runs(tmp_path/'quick', one=one, sixteen=sixteen))['C12']['verdict'] == want

def test_signatures_need_their_control(folder, tmp_path):
    import shutil
    shutil.copytree(folder, tmp_path/'quick'); p = tmp_path/'quick'/'full_stack'/'evaluation.json'; p.write_text(json.dumps(json.loads(p.read_text()) | dict(smoothed=None)))
    r = rows(tmp_path/'quick')['C11']; assert r['verdict'] == 'not run' and 'without the smoothed base' in r['why']

def test_collapse_points(folder):
    for arm, c in dict(full_stack_to_collapse=collapse(12.), full_stack_to_collapse_slow=collapse(12.1), highway_to_collapse=collapse(6.), tlf_to_collapse=collapse(7.)).items(): write(folder, arm, collapse=c)
    r = rows(folder); assert [r[c]['verdict'] for c in ('C6', 'C7', 'C9', 'C10')] == ['holds']*4 and r['C7']['value'] == pytest.approx(6) and r['C10']['value'] == pytest.approx(12.1/12 - 1)
    write(folder, 'highway_to_collapse', collapse=collapse(12.5)); r = rows(folder); assert r['C7']['verdict'] == 'fails' and r['C10']['verdict'] == 'not measurable' and 'nothing was slowed down' in r['C10']['why']
    write(folder, 'highway_to_collapse', collapse=collapse(12.05)); assert rows(folder)['C7']['verdict'] == 'undecided'
    write(folder, 'full_stack_to_collapse', collapse=collapse(12., collapsed=False)); r = rows(folder); assert r['C6']['verdict'] == 'not measurable' and r['C9']['verdict'] == 'holds' and math.isinf(r['C9']['hi'])
    write(folder, 'highway_to_collapse', collapse=collapse(13., collapsed=False)); assert 'neither' in rows(folder)['C7']['why']

def searched(half, windows=64, draw=0, step=.1):
    "A search in which accuracy falls in a line to half of its start at `half`, from 25 tokens a window; the windows are easy or hard as `draw` says"
    rng = np.random.default_rng(draw); easy, x = rng.beta(2, 6, windows), np.arange(0, half + 3*step, step)
    hits = [rng.binomial(25, easy*(1 - .5*v/half)).tolist() for v in x]; a = [sum(h)/(25*windows) for h in hits]
    return dict(collapsed=True, point=half, width=.8*half, start=a[0], rule='', points=[[float(v), y] for v, y in zip(x, a)], hits=hits, clean=[a[0]]*len(x))

def test_an_interval_of_a_collapse_holds_what_windows_do():
    at = []
    for draw in range(300):            # what another 64 windows give
        c = searched(3., draw=draw); h = np.array(c['hits']).sum(1)/sum(c['hits'][0]); k = (abs(np.arange(len(h))*.1 - 3.) <= .5); at.append(3. + (h[k].mean() - np.mean(1 - .5*np.arange(len(h))[k]*.1/3.))/(.5/3.))
    drawn = C.crossing_draws(searched(3.), 3.); assert .5 < np.std(drawn)/np.std(at) < 2 and abs(np.mean(drawn) - 3.) < .1
    assert np.ptp(C.crossing_draws(collapse(3.), 3.)) == 0                         # an older record holds no hits
    flat = searched(3.); flat['hits'] = [flat['hits'][0]]*len(flat['hits']); assert C._interval(C.crossing_draws(flat, 3.), .1) == (-math.inf, math.inf)

def test_searches_are_compared_in_pairs(folder):
    a, b = searched(6.), searched(3.); write(folder, 'full_stack_to_collapse', collapse=a, top=2.5); write(folder, 'highway_to_collapse', collapse=b, top=2.5)
    r = rows(folder); assert r['C7']['verdict'] == 'holds' and r['C7']['lo'] < 2.8 and 'windows' in r['C7']['resampled'] and r['C6']['verdict'] == 'fails'
    write(folder, 'highway_to_collapse', collapse=searched(5.9, draw=1)); assert rows(folder)['C7']['verdict'] == 'undecided'
    write(folder, 'highway_to_collapse', collapse=searched(8.) | dict(collapsed=False, point=None, width=None)); r = rows(folder)['C7']; assert r['verdict'] == 'fails' and r['lo'] == -math.inf and r['lo'] <= r['value'] <= r['hi']
    write(folder, 'full_stack_to_collapse', collapse=a | dict(point=0.)); assert 'first look' in rows(folder)['C6']['why']

def test_the_even_start_of_the_count_is_left_out(folder):
    config = dict(total_sentences=100_000, recall=dict(start=.8, halflife=20_000.)); even = .5/(.5 + .5*2)         # half of the memory, and visits count two signs
    for arm, seen in (('highway', .2), ('full_stack', .1)): write(folder, arm, sentences=100_000, config=config, usage=[dict(site=str(k), top=.03*even + (1 - even)*seen, entropy=1.) for k in range(4)])
    assert rows(folder)['C8']['value'] == pytest.approx(2.)
    write(folder, 'highway', usage=[dict(site=str(k), top=.1, seen=.3, kept=.5, entropy=1.) for k in range(4)]); assert rows(folder)['C8']['value'] == pytest.approx(3.)

def test_what_has_learned_nothing_pays_nothing(tmp_path):
    out = example_runs(tmp_path/'quick', [*ALL, *(a for a in ('from_scratch', 'from_scratch_base') if a not in ALL)])
    for arm, ce in (('from_scratch', 6.6), ('from_scratch_base', 6.59)):
        p = out/arm/'evaluation.json'; e = json.loads(p.read_text()); e['clean']['ce'], e['unigram_ce'] = ce, 7.; p.write_text(json.dumps(e))
    assert rows(out)['C25']['verdict'] == 'not measurable'

def test_places_that_hold_without_the_method_are_no_evidence(folder, tmp_path):
    import shutil
    out = tmp_path/'quick'; shutil.copytree(folder, out); shutil.copytree(example_runs(tmp_path/'more', ALL, seed=1)/'base_continued', out/'base_continued.s1')
    assert 'two seeds of base_continued' in rows(out)['C22']['control']

def test_use_of_places(folder):
    for arm, top in (('highway', .4), ('full_stack', .2)): write(folder, arm, usage=[dict(site=str(k), top=top + .01*k, entropy=1.) for k in range(4)])
    r = rows(folder)['C8']; assert r['verdict'] == 'holds' and 1.8 < r['value'] < 2.1

@pytest.mark.parametrize('slower, want', [(1.001, 'holds'), (1.2, 'fails')])
def test_seconds_a_step(folder, slower, want):
    busy = [1 + .5*(k % 7) for k in range(40)]                                   # the machine's other work, the same for both
    write(folder, 'forgiveness_only', paired_seconds=dict(forgiving=[slower*b + .001*(-1)**k for k, b in enumerate(busy)], plain=busy))
    r = rows(folder)['C23']; assert r['verdict'] == want and r['value'] == pytest.approx(slower - 1, abs=.005) and 'pairs' in r['resampled']
    write(folder, 'forgiveness_only', paired_seconds=None); assert 'older version' in rows(folder)['C23']['why']

def test_places_between_arms(folder):
    r = rows(folder); assert r['C22']['verdict'] in ('holds', 'fails', 'undecided') and r['C22']['resampled'] == 'tokens' and r['C20']['seeds'] == 1
    assert r['C19']['verdict'] == 'holds' and r['C19']['value'] > 0            # tlf was invented with words that follow their letters
    assert r['C21']['verdict'] == 'not run' and 'rwkv_tlf' in r['C21']['why']

def test_the_other_architecture_is_asked(folder):
    runs = load_runs(folder); r = {x['id']: x for x in C.answer(runs, {'rwkv_tlf': runs['tlf']})}['C21']
    assert r['verdict'] == 'holds' and r['value'] > .1                          # a model is more like itself than like another

def test_a_command_names_arms_of_its_own_architecture(folder, tmp_path):
    for p in folder.iterdir():
        if p.is_dir(): shutil.copytree(p, tmp_path/'quick'/f'rwkv_{p.name}')
    c = {x['id']: x['command'].partition('--arms ')[2].split() for x in C.answer(load_runs(tmp_path/'quick', kind='rwkv'))}
    assert c['C1'][:3] == ['rwkv_full_stack', 'rwkv_base_continued', 'rwkv_base'] and c['C21'][:3] == ['tlf', 'full_stack', 'rwkv_tlf'] and not c['C24']

def test_a_missing_arm_is_named(tmp_path):
    r = rows(example_runs(tmp_path/'quick', ['base', 'full_stack'])); assert all(x['verdict'] == 'not run' and x['why'] for x in r.values() if x['value'] is None)
    assert r['C1']['why'] == 'base_continued was not run' and r['C25']['why'] == 'from_scratch was not run'

def test_seeds_of_a_folder(folder, tmp_path):
    out = tmp_path/'quick'; shutil.copytree(folder, out)
    for s in (1, 2):
        other = example_runs(tmp_path/f'seed{s}', ALL, seed=s)
        for a in ('base_continued', 'full_stack', 'no_fzr'): shutil.copytree(other/a, out/f'{a}.s{s}')
    r = rows(out); assert r['C12']['seeds'] == 3 and r['C12']['resampled'] == 'seeds' and r['C1']['seeds'] == 3 and r['C7']['seeds'] <= 1
    from ff_nbdev.study.report import seed_rows
    assert {x['arm']: x['seeds'] for x in seed_rows(load_runs(out))} == dict(base_continued=3, no_fzr=3, full_stack=3) and 'full_stack.s1' not in load_runs(out)
