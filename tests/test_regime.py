"""The regime: a clock in optimizer steps, what is a share of a run, a common start, healing and its two free rows."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from shared import quiet_arguments, run_words, without
from transformers import GPT2Config, GPT2LMHeadModel, get_scheduler

from ff_nbdev.baselines.noise_null import healing, noise_field, pulse_alike_
from ff_nbdev.data.objectives import NextToken
from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig, RecallConfig, dose_for, steps_for
from ff_nbdev.evaluation.spatial import morans_i
from ff_nbdev.mechanisms.forgetfulness import proximal_kernel
from ff_nbdev.mechanisms.method import attach, hidden_axis
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.tiny import random_tiny
from ff_nbdev.run import prepare
from ff_nbdev.study import claims as C
from ff_nbdev.run.train import train_run
from ff_nbdev.run.prepare import Plan, Prepared
from ff_nbdev.study.records import Run, Runs, free_rows, load_runs, reference
from ff_nbdev.study.regime_rules import SMOOTHED_ALIKE
from ff_nbdev.study.rules import KERNELS
from ff_nbdev.study.tables import learning_table
from ff_nbdev.run.records import Regime, TrainRecord, regime_of
from ff_nbdev.study.examples import example_runs
from ff_nbdev.core.provenance import results_folder
from ff_nbdev.training.recipes import SCALES, override, recipe, run_length
from ff_nbdev.mechanisms.registry import RECIPES
from ff_nbdev.training.schedules import SCHEDULES, make_scheduler, rate_at, warmup_steps
from ff_nbdev.training.trainer import FFTrainer
from ff_nbdev.training.watch import Watch

STUDY = yaml.safe_load((ROOT / 'workflow' / 'config' / 'study.yaml').read_text())
ROWS = [
    dict(
        ids=torch.randint(3, 60, (16,), generator=torch.Generator().manual_seed(i)).numpy(),
        sentences=1 + i % 3,
        index=i,
    )
    for i in range(64)
]


def pulsed(**kw):
    return ForgetfulnessConfig(**kw)


def weights(model):
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# The clock


@pytest.mark.parametrize('dose, between, steps', [(4.5, 200, 46_154), (5.4, 200, 55_385), (1.5, 5.8, 446)])
def test_dose_and_distance_give_the_steps(dose, between, steps):
    assert steps_for(dose, between) == steps and dose_for(steps, between) == pytest.approx(dose, rel=2e-3)
    config = recipe('no_fzr', 'study', 10**6, dose=dose, steps_between_pulses=between)
    assert config.total_steps == steps and run_length(SCALES['study'], 40.0, 0, dose, between) == (steps, dose)


def test_steps_give_the_dose_and_both_must_agree():
    config = FFConfig(1000, pulsed(steps_between_pulses=20.0), total_steps=400)
    assert config.pulses
    assert config.dose == pytest.approx(0.39)
    assert FFConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    agreed = FFConfig(1000, pulsed(dose=0.39, steps_between_pulses=20.0), total_steps=400)
    assert agreed.dose == 0.39
    with pytest.raises(ValueError, match='leave one of the two out, or take 400 steps'):
        FFConfig(1000, pulsed(dose=0.39, steps_between_pulses=20.0), total_steps=800)


def test_a_preset_takes_a_distance():
    by_dose, by_steps = (
        FFConfig.preset('full_stack', 'auto', steps_between_pulses=200),
        FFConfig.preset('full_stack', 'auto', steps_between_pulses=200, total_steps=10_000),
    )
    assert by_dose.total_steps == 55_385
    assert by_steps.dose == pytest.approx(0.975)
    assert not FFConfig.preset('base_continued', 10, steps_between_pulses=200).pulses
    # 40 % more at full power and the same distance
    held = FFConfig.preset('tlf_minus_fzr', 'auto', steps_between_pulses=200)
    assert held.total_steps == pytest.approx(0.4 * by_dose.total_steps, rel=2e-3)


def test_what_was_saved_before_means_what_it_meant():
    old = json.loads((results_folder('night/full_stack') / 'train.json').read_text())['config']
    config = FFConfig.from_dict(old)
    assert 'total_steps' not in old
    assert (config.halflife, config.total_steps, config.dose, config.forgetfulness.axis) == (20_000.0, 0, 1.5, 'both')


@pytest.mark.parametrize('cuts', [[1] * 200, [7] * 28 + [4], [100, 3, 97]])
def test_pulses_do_not_depend_on_how_sentences_are_batched(cuts):
    model, whole = random_tiny('mt5'), random_tiny('mt5')
    a, b = (attach(m, FFConfig(200, pulsed(steps_between_pulses=10.0), total_steps=400)) for m in (model, whole))
    for n in cuts:
        a.step(sentences=n)
    b.step(sentences=200)
    assert sum(cuts) == 200
    assert same(weights(model), weights(whole))
    assert torch.equal(a.pulses, b.pulses)
    assert a.pulses.min() >= 39


def test_a_loop_of_ones_own_says_both_lengths():
    ff = attach(random_tiny('mt5'), FFConfig('auto', pulsed(steps_between_pulses=4.0), total_steps='auto'))
    with pytest.raises(ValueError, match='still'):
        ff.step(sentences=3)
    with pytest.raises(ValueError, match="total_steps is still 'auto'"):
        ff.set_total(300).step(sentences=3)
    ff.set_total(300, 100)
    for _ in range(100):
        ff.step(sentences=3)
    assert (ff.steps / ff.pulses.double()).mean().item() == pytest.approx(4, rel=0.05)
    assert ff.doses.mean().item() == pytest.approx(ff.config.dose, rel=0.05)


def trained(folder, config, steps=24, cls=FFTrainer, **own):
    torch.manual_seed(0)
    model = random_tiny('rwkv', vocab_size=64)
    ff = attach(model, config)
    rate, resume = own.pop('rate', 1e-3), own.pop('resume', None)
    args = quiet_arguments(folder, per_device_train_batch_size=4, max_steps=steps, learning_rate=rate, seed=3)
    trainer = cls(model=model, args=args, ff=ff, train_dataset=ROWS, data_collator=NextToken(), **own)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_the_trainer_finds_both_lengths(tmp_path):
    trainer = trained(
        tmp_path, FFConfig('auto', pulsed(steps_between_pulses=3.0), total_steps='auto'), total_sentences='auto'
    )
    ff = trainer.ff
    assert ff.config.total_steps == ff.steps == 24
    assert ff.config.dose == pytest.approx(24 * 0.0195 / 3)
    assert (24 / ff.pulses.double()).mean().item() == pytest.approx(3, rel=0.1)


def test_the_trainer_says_that_a_run_is_of_another_length(tmp_path):
    with pytest.warns(UserWarning, match='pulsed in every 1.5 steps and not in 3'):
        trained(tmp_path, FFConfig('auto', pulsed(steps_between_pulses=3.0), total_steps=48), total_sentences='auto')


# Shares of a run


@pytest.mark.parametrize(
    'total, start, asked, want',
    [
        (100_000, 0.8, None, 2_000),
        (14_300_000, 0.8, None, 286_000),
        (1_000, 0.0, None, 100),
        (100_000, 0.8, 20_000.0, 20_000),
    ],
)
def test_the_memory_of_usage_is_a_tenth_of_the_noise(total, start, asked, want):
    assert FFConfig(total, recall=RecallConfig(top=2.0, start=start, halflife=asked)).halflife == pytest.approx(want)


def test_usage_is_forgotten_at_that_rate():
    used = {}
    for half in (None, 20.0):
        ff = attach(random_tiny('mt5'), FFConfig(1000, recall=RecallConfig(top=2.0, halflife=half)))
        ff.sentences, before = 900, ff.usage[0].clone()
        ff.context.counts = {0: (torch.zeros_like(before), 10)}
        ff.step(sentences=20)
        used[half] = (ff.usage[0] / before).mean().item()
    assert used[None] == pytest.approx(used[20.0]) == pytest.approx(0.5)


@pytest.mark.parametrize('name', SCALES)
def test_the_warm_up_is_a_share_of_every_scale(name):
    assert 0 < SCALES[name].warmup < 0.1
    assert [warmup_steps(SCALES[name], n) for n in (1_000, 10_000)] == [
        round(SCALES[name].warmup * n) for n in (1_000, 10_000)
    ]
    assert warmup_steps(SCALES['quick'], 420) == 20


def test_a_row_of_the_log_is_a_thirtieth_of_the_run(tmp_path):
    assert [len(trained(tmp_path / f'{n}', FFConfig(), n, Watch).rows) for n in (30, 60)] == [30, 30]


@pytest.mark.parametrize('name, theirs', SCHEDULES.items())
def test_schedules_are_hugging_faces(name, theirs):
    a, b = (torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3) for _ in range(2))
    ours, hf, rates = (
        make_scheduler(a, replace(SCALES['quick'], schedule=name, warmup=0.25), 40),
        get_scheduler(theirs, b, 10, 40),
        [],
    )
    for step in range(40):
        rates.append((a.param_groups[0]['lr'], b.param_groups[0]['lr'], 0.3 * rate_at(step, 40, 10, name)))
        for x in (a, b, ours, hf):
            x.step()
    assert all(x == pytest.approx(y) == pytest.approx(z) for x, y, z in rates)
    assert rates[0][0] == 0
    assert rates[10][0] == 0.3


def test_a_decay_has_a_floor_and_stays_there():
    assert [rate_at(n, 100, 0, 'linear', 0.1) for n in (0, 50, 100, 150)] == pytest.approx([1, 0.55, 0.1, 0.1])


# One axis


def gpt2():
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_inner=96, n_layer=1, n_head=2, vocab_size=64, n_positions=32))


@pytest.mark.parametrize('build', [lambda: random_tiny('mt5'), lambda: random_tiny('rwkv'), gpt2])
def test_along_the_hidden_units_the_stream_has_no_order(build):
    "Pulses and a permutation of the residual stream commute; with the paper's kernel they do not"

    def both(axis, role):
        torch.manual_seed(0)
        model = build()
        site = find_sites(model)[0]
        side = hidden_axis(site, role)
        w = site.weight(role).detach()
        order = torch.randperm(w.shape[side == 'rows'], generator=torch.Generator().manual_seed(1))

        def shuffled(x):
            return x[:, order] if side == 'rows' else x[order]

        kept = w.clone()
        config = FFConfig(100, pulsed(dose=0.6, axis=axis))
        pulse_alike_(model, config)
        after = shuffled(site.weight(role).detach().clone())
        w.copy_(shuffled(kept))
        pulse_alike_(model, config)
        return (site.weight(role).detach() - after).abs().max().item()

    for role in ('value', 'down'):
        assert both('hidden', role) < 1e-5 < 1e-3 < both('both', role), role


def test_a_matrix_without_hidden_units_is_left_alone():
    model = random_tiny('rwkv')
    before = weights(model)
    ff = pulse_alike_(model, FFConfig(100, pulsed(dose=0.6, axis='hidden')))
    changed = {k.split('.')[-2] for k, v in weights(model).items() if not torch.equal(v, before[k])}
    assert changed == {'key', 'value'} and {role for _, role in ff.targets} == {'value', 'down'}


# Healing


@pytest.mark.parametrize('rate', [0.0, 1e-2])
def test_the_untrained_null_is_the_run_without_its_learning(tmp_path, rate):
    torch.manual_seed(0)
    start = weights(random_tiny('rwkv', vocab_size=64))
    trainer = trained(
        tmp_path,
        FFConfig('auto', pulsed(steps_between_pulses=3.0), total_steps='auto', seed=5),
        total_sentences='auto',
        rate=rate,
    )
    base, null = (random_tiny('rwkv', vocab_size=64) for _ in range(2))
    for m in (base, null):
        m.load_state_dict(start)
    again = pulse_alike_(null, trainer.ff.config, trainer.ff.sentences)
    found = healing(trainer.model, null, base)
    assert torch.equal(again.doses, trainer.ff.doses) and found['moved'] > 0.01
    if rate:
        assert found['healing'] > 1e-3 and found['correlation'] < 1
    else:
        assert same(weights(trainer.model), weights(null))
        assert found['healing'] == 0
        assert found['correlation'] == pytest.approx(1)


def test_healing_is_a_norm_over_a_norm():
    base, null, model = (random_tiny('mt5') for _ in range(3))
    for m in (null, model):
        m.load_state_dict(base.state_dict())
    w = find_sites(model)[1].weight('down').detach()
    w += (add := torch.randn_like(w))
    found = healing(model, null, base)
    own = next(r for r in found['matrices'] if r['healing'])
    size = math.sqrt(sum(s.weight(r).double().pow(2).sum().item() for s in find_sites(base) for r in s.names))
    assert found['healing'] == pytest.approx(add.norm().item() / size, rel=1e-5)
    assert own['healing'] == pytest.approx((add.norm() / find_sites(base)[1].weight('down').norm()).item(), rel=1e-5)


# An arm: its record, and a common start

SMALL = dict(
    model='tiny-mt5',
    corpus='python_prose',
    scale='study',
    dose=0.2,
    steps_between_pulses=1.0,
    probes=1,
    length=32,
    batch=4,
    windows=80,
    schedule='linear',
    warmup=0.2,
)
LETTERS = dict(change='forgiveness.kind=two_letter')


@pytest.fixture(scope='module')
def arms(tmp_path_factory):
    "no_fzr with sorted units and its stage, the same with noise the whole way, and from the stage"
    folder, seen = tmp_path_factory.mktemp('arms'), {}
    rates, before, mean = [], Watch.on_ff_step, prepare.mean_activation

    def on_ff_step(self, state, control):
        rates.append(self.optimizer.param_groups[0]['lr'])
        before(self, state, control)

    def train(name, out, **more):
        seen[name] = train_run(Plan(out, out=str(folder / name), **more, **SMALL, **LETTERS))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, 'on_ff_step', on_ff_step)
        patch.setattr('ff_nbdev.run.train.library_files', lambda cells: [])  # the code does not change meanwhile
        patch.setattr(prepare, 'mean_activation', lambda *a, seed: mean(*a[:3], 40, seed=seed))
        train('no_fzr', 'no_fzr', keep_stage=True)
        seen['rates'] = list(rates)
        train('whole', 'pfg_fzr', top=3.0)
        train('parted', 'pfg_fzr', top=3.0, stage=str(folder / 'no_fzr' / 'stage'))
    return folder, seen


def test_a_run_from_the_stage_is_the_run_that_came_the_whole_way(arms):
    from safetensors.torch import load_file

    out, seen = arms
    a, b = (load_file(out / k / 'model' / 'model.safetensors') for k in ('whole', 'parted'))
    assert same(a, b)
    ahead = 'seconds', 'noise_x', 'noisy_accuracy'  # at the stage itself the other run had no noise ahead
    assert without(seen['whole']['log'], *ahead) == without(seen['parted']['log'], *ahead)
    assert seen['whole']['usage'] == seen['parted']['usage']
    assert seen['whole']['valid'] == seen['parted']['valid']
    assert not same(a, load_file(out / 'no_fzr' / 'model' / 'model.safetensors'))
    assert seen['whole']['regime'] == seen['parted']['regime']


def test_a_stage_is_kept_once_and_after_a_kill(tmp_path):
    config, stage = FFConfig('auto', pulsed(steps_between_pulses=3.0), total_steps='auto'), tmp_path / 'stage'

    def go(resume=None):
        trainer = trained(
            tmp_path / 'run',
            FFConfig.from_dict(config.to_dict()),
            20,
            Watch,
            total_sentences='auto',
            stage=stage,
            stage_at=0.5,
            resume=resume,
        )
        return json.loads((stage / 'checkpoint.json').read_text()), trainer

    facts, trainer = go()
    line = 0.5 * trainer.ff.config.total_sentences
    assert facts['sentences'] >= line
    assert 9 <= facts['step'] <= 12
    assert not [p for p in stage.parent.iterdir() if p.name.startswith('.')]
    shutil.rmtree(stage)  # killed after the checkpoint and before the copy
    assert go(resume=True)[0] == facts


@pytest.mark.parametrize(
    'other, said',
    [
        (dict(seed=1), 'another seed'),
        (dict(rate=0.5), 'another learning_rate'),
        (dict(schedule='cosine'), 'another schedule'),
        (dict(change=LETTERS['change'] + ' recall.start=0.6'), 'another start'),
    ],
)
def test_a_stage_of_another_run_is_refused(arms, tmp_path, other, said):
    from ff_nbdev.run.train import _check_stage

    out, _ = arms
    p = Prepared(
        Plan(
            'pfg_fzr', out=str(tmp_path), top=3.0, stage=str(out / 'no_fzr' / 'stage'), **{**SMALL, **LETTERS, **other}
        )
    )
    with pytest.raises(ValueError, match=said):
        _check_stage(p, out / 'no_fzr' / 'stage')


def test_the_record_says_how_the_weights_were_updated(arms):
    _, seen = arms
    record = TrainRecord.from_dict(seen['no_fzr'])
    assert (record.optimizer, record.betas, record.weight_decay, record.momentum) == ('adamw', [0.9, 0.98], 0.0, None)
    assert (record.schedule, record.rate_end) == (record.regime.schedule, record.regime.rate_end)
    assert (record.warmup, record.max_grad_norm) == (record.regime.warmup, 1.0)
    assert json.loads(json.dumps(record.to_dict()))['betas'] == [0.9, 0.98]


def test_a_record_without_its_optimizer_reads_as_it_did(arms):
    _, seen = arms
    new = ('optimizer', 'betas', 'momentum', 'weight_decay', 'schedule', 'warmup', 'rate_end', 'max_grad_norm')
    old = {name: value for name, value in seen['no_fzr'].items() if name not in new}
    record = TrainRecord.from_dict(old, whole=True)
    assert json.dumps(record.to_dict()) == json.dumps(old) and {getattr(record, name) for name in new} == {None}
    (row,) = learning_table(Runs(old=Run('old', Path('x'), dict(dose=0.2), record)))
    assert (row['optimizer'], row['betas'], row['weight decay']) == ('adamw', '–', '–')
    assert row['schedule'].startswith('linear') and row['warm-up steps'] == f'{record.regime.warmup}'


def test_the_record_says_how_much_could_be_healed(arms):
    _, seen = arms
    r, record = regime_of(TrainRecord.from_dict(seen['no_fzr'])), seen['no_fzr']
    assert r.steps == record['steps'] == steps_for(0.2, 1.0)
    assert r.tokens_a_step == 4 * 32
    assert record['tokens'] == r.steps * 128
    assert r.steps_between_pulses == pytest.approx(1, rel=0.1)
    assert not r.papers
    assert (r.schedule, r.warmup) == ('linear', round(0.2 * r.steps))
    assert r.rate_integral == pytest.approx(sum(seen['rates'][:-1]), rel=0.2)
    assert r.rate_between_pulses == pytest.approx(r.rate_integral / (r.steps / r.steps_between_pulses))
    assert 0 < r.healing < r.moved
    assert 0.9 < r.correlation < 1
    assert {m['role'] for m in r.matrices} == {'gate', 'value', 'down'}
    assert r.base == {k: record['valid'][0][k] for k in ('ce', 'accuracy')}
    assert r.untrained['ce_increase'] == pytest.approx(r.untrained['ce'] / r.base['ce'] - 1)
    assert r.untrained['moran'] > 0.02


def test_units_may_be_sorted_before_a_retrofit(tmp_path):
    small = {**SMALL, 'windows': 80}
    one, two = (Prepared(Plan('base_continued', out=str(tmp_path), reordered=x, **small)) for x in (False, True))
    batch = {k: v for k, v in one.checks[0].items() if k in ('input_ids', 'attention_mask', 'labels')}
    with torch.no_grad():
        a, b = (p.net.eval()(**batch).logits for p in (one, two))
    assert (a - b).abs().max() < 1e-3
    assert not torch.equal(one.ff.sites[0].weight('down'), two.ff.sites[0].weight('down'))
    assert two.line() > one.line()


# Records, and what they may speak of


def test_old_records_are_outside_the_papers_regime():
    runs = load_runs(results_folder('night'), kind='mt5')
    table = runs.regime.set_index('arm')
    assert table.steps_between_pulses['no_fzr'] == pytest.approx(5.8, abs=0.1)
    assert not table.papers.any()
    assert table.reference['no_fzr'] == 'base_continued'
    assert table.ce_increase['full_stack'] > 0 and math.isnan(table.steps_between_pulses['base_continued'])


@pytest.mark.parametrize(
    'between, dose, papers',
    [(200.0, 4.5, True), (100.0, 4.0, True), (99.0, 5.4, False), (200.0, 3.9, False), (None, 0.0, False)],
)
def test_where_the_papers_regime_begins(between, dose, papers):
    assert Regime(1, 1, dose, between).papers is papers


def holding(folder, between, dose=4.5, names=('no_fzr', 'full_stack')):
    "Give the records of a folder a regime"
    for name in names:
        path = folder / name / 'train.json'
        told = json.loads(path.read_text())
        untrained = dict(ce=4.4, accuracy=0.2, ce_increase=0.1, moran=0.3)
        told['regime'] = dict(
            steps=9,
            tokens_a_step=9,
            dose=dose,
            steps_between_pulses=between,
            moran=0.2,
            correlation=0.9,
            healing=0.1,
            untrained=untrained,
        )
        path.write_text(json.dumps(told))
    return {r['id']: r for r in C.answer(load_runs(folder))}


def test_what_depends_on_learning_is_tested_in_the_papers_regime_alone(tmp_path):
    folder = example_runs(tmp_path / 'quick')
    free, short, long = {r['id']: r for r in C.answer(load_runs(folder))}, holding(folder, 5.8), holding(folder, 200.0)
    decided = {c for c, r in free.items() if r['value'] is not None}
    assert decided - {'C23'} == {c for c, r in short.items() if r['verdict'] == C.UNTESTED}
    assert {c: r['verdict'] for c, r in long.items()} == {c: r['verdict'] for c, r in free.items()}
    assert 'not tested' in C.count_verdicts(list(short.values()))
    assert set(C.VERDICTS) >= {r['verdict'] for r in short.values()}


def test_two_rows_cost_nothing(tmp_path):
    folder = example_runs(tmp_path / 'quick')
    holding(folder, 200.0)
    runs = load_runs(folder)
    rows = {r['row']: r for r in free_rows(runs, runs['no_fzr'])}
    assert list(rows) == ['pulsed and trained', 'pulsed, never trained', 'trained, never pulsed']
    assert rows['pulsed, never trained']['ce'] == 4.4
    assert rows['trained, never pulsed']['run'] == 'base_continued'
    assert rows['trained, never pulsed']['ce_increase'] == 0
    assert rows['pulsed, never trained']['ce_increase'] == pytest.approx(
        4.4 / runs['base_continued'].train['valid'][-1]['ce'] - 1
    )


def test_a_reference_has_the_same_way(tmp_path):
    folder = example_runs(tmp_path / 'quick')
    holding(folder, 200.0)
    runs = load_runs(folder)
    assert reference(runs, runs['no_fzr']) is runs['base_continued']
    runs['no_fzr'].train |= dict(regime=runs['no_fzr'].train.regime | dict(schedule='cosine'))
    assert reference(runs, runs['no_fzr']) is None


# The study


def test_names_say_what_a_run_is():
    for name, params in STUDY['variants'].items():
        recipe_name, label = name.split('~')
        assert recipe_name in RECIPES
        if found := re.search(r'dose_([\d.]+)', label):
            assert params['dose'] == float(found[1]), name
        if found := re.search(r'steps_([\d.]+)', label):
            assert params.get('steps_between_pulses', SCALES['study'].steps_between) == float(found[1]), name
        if found := re.fullmatch(r'rate_([\d.]+)_batch_(\d+)', label):
            assert (params['rate'], params['batch']) == (float(found[1]), int(found[2]))
        elif found := re.fullmatch(r'rate_([\d.]+)_(\w+)', label):
            assert (params['rate'], params['schedule']) == (float(found[1]), found[2])
        assert ('hidden' in label) == ('axis=hidden' in params.get('change', ''))
        assert ('sorted' in label) == params.get('reordered', False)


def test_the_healing_curve_is_whole():
    curve = {
        (arm, dose, steps)
        for arm in ('base_continued', 'no_fzr')
        for dose in ('1.5', '4.5')
        for steps in ('5.8', '25', '75', '200')
    }
    # with the 25 M before, 41 M: two hours of two processors are not spent before the first question
    assert {f'{a}~dose_{d}_steps_{s}' for a, d, s in curve} <= set(STUDY['variants'])
    assert STUDY['pretrain']['steps'] * STUDY['pretrain']['batch'] * STUDY['pretrain']['length'] >= 16e6
    assert (
        SCALES['study'].batch * SCALES['study'].length[0] == 1024 and steps_for(SCALES['study'].dose, 200) * 0.2 > 3_500
    )


@pytest.fixture(scope='module')
def nodes(planned, tmp_path_factory):
    "Node → priority, minutes and command, as Snakemake plans them"
    from ff_nbdev import cli

    out = tmp_path_factory.mktemp('study')
    text = out / 'text.txt'
    text.write_text('\n'.join(f'This is sentence number {i} of a text.' for i in range(400)))
    (out / 'run.json').write_text(json.dumps(cli.make_settings(run_words('study', text)).to_dict()))
    command = cli.snakemake_command(out, out / 'run.json', 'local', 2, dry=True)
    r = planned(*command[2:], '--printshellcmds')
    assert r.returncode == 0, r.stdout + r.stderr
    found = {}
    for block in re.split(r'\n(?=rule )', r.stdout + r.stderr):
        if m := re.search(r'--node "([^"]+)"', block):
            found[m[1]] = block
    return found


@pytest.fixture(scope='module')
def graph(nodes):
    "Run → priority, minutes and command of its retrofit"
    return {k.removeprefix('retrofit '): block for k, block in nodes.items() if k.startswith('retrofit ')}


def said(graph, run, what):
    return (m := re.search(rf'-p {what} (\S+)', graph[run])) and m[1].strip("'")


def test_arms_part_where_the_noise_begins(graph):
    assert said(graph, 'full_stack', 'stage') == 'no_fzr/stage'
    assert said(graph, 'full_stack.s2', 'stage') == 'no_fzr.s2/stage'
    assert said(graph, 'rwkv_full_stack', 'stage') == 'rwkv_no_fzr/stage'
    assert said(graph, 'tlf~dose_4.5_steps_200', 'stage') == 'no_fzr~dose_4.5_steps_200/stage'
    assert said(graph, 'no_fzr~dose_4.5_steps_75', 'keep_stage') is None
    for run in ('no_fzr', 'no_fzr.s1', 'no_fzr~dose_4.5_steps_200', 'rwkv_no_fzr'):
        assert said(graph, run, 'keep_stage') == 'True'
    for run in (r for r in graph if said(graph, r, 'stage')):
        assert f'{said(graph, run, "stage").split("/")[0]}/train.json' in graph[run]


def test_noise_ends_where_the_search_says(graph):
    assert (
        said(graph, 'highway', 'collapse') == 'highway_to_collapse/collapse.json' == said(graph, 'highway', 'collapse')
    )
    assert said(graph, 'full_stack.s1', 'collapse') == 'full_stack_to_collapse/collapse.json'
    assert (
        said(graph, 'full_stack~dose_4.5_steps_200', 'collapse')
        == 'full_stack_to_collapse~dose_4.5_steps_200/collapse.json'
    )
    assert said(graph, 'no_fzr', 'collapse') is None
    assert said(graph, 'full_stack~decay_2', 'collapse') == 'full_stack_to_collapse/collapse.json'


def test_what_comes_first_in_the_study_runs_first(graph):
    rank = {r: int(m[1]) if (m := re.search(r'priority: (\d+)', b)) else 0 for r, b in graph.items()}
    order = [
        'base_continued~rate_0.0001_linear',
        'no_fzr~dose_1.5_steps_5.8',
        'no_fzr~dose_4.5_steps_200',
        'no_fzr',
        'no_ramp~first_5000',
        'full_stack_to_collapse',
        'full_stack',
        'full_stack.s1',
        'no_fzr~hidden_dose_1.5',
        'topolm',
        'tlf_minus_fzr',
        'pulses_from_scratch',
        'rwkv_no_fzr',
        'rwkv_full_stack',
        'full_stack~size_5',
    ]
    assert [rank[r] for r in order] == sorted((rank[r] for r in order), reverse=True)
    assert len({rank[r] for r in order}) == len(order)
    assert min(rank.values()) > 10 and len(graph) == 102


def test_other_kernels_smooth_as_much_and_are_pulsed_as_often():
    "As many pulses as full_stack, and white noise comes to the same Moran's I"
    shape, full = (256, 2048), recipe('full_stack', 'study', 10**6, dose=SCALES['study'].dose, steps_between_pulses=200)
    moran = morans_i(noise_field(shape, full.dose, method='spectral'))
    for kernel in KERNELS:
        part = override(full, STUDY['variants'][f'full_stack~{kernel}']['change']).forgetfulness
        taps = proximal_kernel(part.size, part.decay)
        assert full.total_steps * part.power * 0.65 / part.dose == pytest.approx(200, rel=0.01)
        assert part.dose >= 4
        found = morans_i(noise_field(shape, part.dose, part.power, method='spectral', kernel=taps))
        assert found == pytest.approx(moran, abs=SMOOTHED_ALIKE / 2)


def test_five_thousand_sentences_at_the_clock():
    "No ramp, and a matrix is pulsed once in 200 steps"
    for name in ('no_ramp', 'base_continued'):
        params = STUDY['variants'][f'{name}~first_5000']
        steps, dose = run_length(SCALES['study'], 48.0, params['total_sentences'], None, params['steps_between_pulses'])
        config = recipe(name, 'study', params['total_sentences'], dose=dose, steps_between_pulses=None)
        own = config.forgetfulness
        assert own.ramp == 0 if name == 'no_ramp' else not config.pulses
        if config.pulses:
            assert steps * own.power / own.dose == pytest.approx(200, rel=0.01)


def test_wrong_names_are_compared_with_the_alternatives(nodes):
    given = {k.removeprefix('evaluate '): b for k, b in nodes.items() if k.startswith('evaluate ')}
    for run in ('full_stack', 'base_continued', 'base_continued.s1', 'no_fzr~dose_1.5_steps_25'):
        assert '-p alternatives alternatives/train' in given[run] and 'alternatives/closeness.json' in given[run]
    for run in ('base', 'topoloss', 'base_continued~rate_0.001_linear'):
        assert '-p alternatives' not in given[run] and 'closeness.json' not in given[run]


def test_minutes_follow_the_steps(graph):
    minutes = {r: int(re.search(r'minutes=(\d+)', b)[1]) for r, b in graph.items()}
    assert minutes['no_fzr'] == 157
    assert minutes['no_fzr~dose_1.5_steps_25'] == pytest.approx(157 * 1_923 / 55_385, abs=1)
    assert minutes['full_stack'] == 31
    assert minutes['tlf_minus_fzr'] == 63
    assert minutes['no_ramp~first_5000'] == minutes['base_continued~first_5000'] == 1
    assert minutes['full_stack~size_5'] == 157


@pytest.mark.parametrize(
    'asked, also',
    [
        ('full_stack', {'no_fzr', 'full_stack_to_collapse'}),
        ('full_stack~dose_4.5_steps_200', {'no_fzr~dose_4.5_steps_200', 'full_stack_to_collapse~dose_4.5_steps_200'}),
    ],
)
def test_what_an_arm_parts_from_runs_with_it(asked, also):
    from ff_nbdev.run import settings

    s = settings.read_scale('study')
    settings.choose_recipes(s, [asked])
    assert also <= {*s['trained'], *s['variants']}


@pytest.mark.parametrize(
    'asked, trained',
    [
        ('no_fzr~hidden_dose_0.5', []),
        ('full_stack~dose_4.5_steps_200', []),
        ('full_stack~size_5', ['no_fzr', 'full_stack_to_collapse']),
    ],
)
def test_a_variant_asked_for_alone_leaves_out_its_recipe(asked, trained):
    from ff_nbdev.run import settings

    s = settings.read_scale('study')
    settings.choose_recipes(s, [asked])
    assert s['trained'] == trained and asked in s['variants']


def test_the_study_is_a_scale_like_the_others():
    from ff_nbdev.run import settings

    assert 'study' in settings.scales() and settings.read_scale('study')['minutes']['retrofit'] == 157


def test_a_node_comes_just_before_the_first_run_that_needs_it(nodes):
    rank = {k: int(m[1]) for k, block in nodes.items() if (m := re.search(r'priority: (\d+)', block))}
    order = [
        'pretrain mt5',
        'retrofit base_continued~rate_0.0001_linear',
        'teacher',
        'retrofit no_fzr~dose_1.5_steps_5.8',
        'retrofit full_stack',
        'retrofit from_scratch',
        'pretrain rwkv',
        'retrofit rwkv_no_fzr',
    ]
    assert [rank[k] for k in order] == sorted((rank[k] for k in order), reverse=True)
    assert len({rank[k] for k in order}) == len(order) and rank['alternatives'] == rank['teacher']
