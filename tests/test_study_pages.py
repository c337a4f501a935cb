"What the pages of the study's room say, held to invented runs"

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import transformers
from fastcore.test import test_eq as equal

from ff_nbdev import FFConfig, attach, load_pretrained
from ff_nbdev.core.provenance import save_json
from ff_nbdev.run.records import TrainRecord, model_name
from ff_nbdev.run.settings import command_for
from ff_nbdev.study.examples import QUICK, example_runs
from ff_nbdev.study.figures import all_figures
from ff_nbdev.study.publish import lean_arrays, publish, ship
from ff_nbdev.study.records import Runs, format_dose, load_run, load_runs, per_million, reference


@pytest.fixture
def folder(tmp_path):
    return example_runs(tmp_path / 'quick')


@pytest.fixture
def runs(folder):
    return load_runs(folder)


# What is published


def test_a_variant_keeps_its_places_where_it_was_evaluated_in_full(runs):
    "… and only there: those of a tuning would be most of what is published"
    run, places = copy.copy(runs['full_stack']), dict(overlap_tokens=np.array(['▁a']), hubs_tokens=np.array(['▁a']))
    run.arrays = places
    assert set(lean_arrays(run)[0]) == set(places)
    run.name = 'full_stack~x'
    assert run.evaluation.signatures_250 and set(lean_arrays(run)[0]) == {'overlap_tokens'}
    run.evaluation = replace(run.evaluation, signatures_250=None)
    assert not lean_arrays(run)[0]


# Records


def test_a_run_that_was_stopped_or_cut_off_says_so(folder):
    path = folder / 'no_fzr' / 'evaluation.json'
    kept = path.read_text()
    path.unlink()
    with pytest.raises(FileNotFoundError, match='evaluation.json is missing.*ff-nbdev run quick'):
        load_run(folder / 'no_fzr')
    path.write_text(kept[:20])
    with pytest.raises(ValueError, match='cut off'):
        load_run(folder / 'no_fzr')
    save_json(dict(clean={}), folder / 'base' / 'evaluation.json')
    with pytest.raises(ValueError, match='lacks floors'):
        load_run(folder / 'base')
    with pytest.raises(FileNotFoundError, match='no run folder'):
        load_run(folder / 'nothing')


def changed(run, **train):
    "The run with other entries in its train.json"
    run = copy.copy(run)
    run.train = run.train | train
    return run


def test_a_reference_began_alike(runs):
    full, free = runs['full_stack'], runs['base_continued']
    assert reference(Runs(full_stack=full), full) is None
    wide = Runs(runs)
    for width in (512, 4096):
        for run in (free, full):
            wide.variants[f'{run.name}~width_{width}'] = changed(run, model=f'pretrain_mt5_{width}')
    for arm, run in wide.every.items():
        label = '~' + arm.split('~')[1] if '~' in arm else ''
        if run.trained:
            assert reference(wide, run) is wide.every[f'base_continued{label}'], arm
    for other in (dict(rate=0.1), dict(dose_before=1.0), dict(collapse=dict(point=3.0))):
        assert reference(wide, changed(full, **other)) is None


def test_the_dose_of_an_arm_that_went_on():
    longer = TrainRecord(dose=2.43, dose_before=1.504, sentences=40247)
    equal([format_dose(longer), format_dose(TrainRecord(dose=1.5))], ['1.5 + 0.926', '1.5'])
    equal(round(per_million(longer), 1), 23.0)


def test_names_of_models():
    given = ['mini-mt5', 'google/mt5-base', 'pretrain_mt5_512/model', '/runs/mine/model', 'model']
    equal([model_name(m) for m in given], ['mini-mt5', 'mt5-base', 'pretrain_mt5_512', 'mine', 'model'])


def test_tables_of_a_folder(runs, folder):
    equal(list(runs), QUICK)
    equal(len(runs.spatial), 5 * 4 * 3)
    equal(set(runs.robustness.kind), {'noise', 'blur', 'nonhub'})
    equal(len(runs.signatures), 10)
    assert set(runs.training.arm) == {'base_continued', 'no_fzr', 'full_stack'} and len(runs.valid) == 18
    with pytest.raises(FileNotFoundError, match='holds no run'):
        load_runs(folder / 'base')
    with pytest.raises(KeyError, match='CE increase needs it'):
        Runs(base=runs['base']).ce_increases()
    text = ''.join(p.read_text() for p in folder.rglob('*.json'))
    assert str(Path.home()) not in text or str(Path.home()) == '/'


def test_the_command_of_a_folder(tmp_path):
    folder = example_runs(tmp_path / 'runs' / 'quick')
    plan = dict(scale='other', seeds=[3], corpus='wikitext', given=['base'], trained=['tlf'])
    (folder / 'run.json').write_text(json.dumps(plan))
    equal(command_for(folder / 'base'), 'ff-nbdev run other --corpus wikitext --seed 3 --out runs/quick')
    plan |= dict(
        scale='quick',
        seeds=[0, 1],
        corpus='/texts/book.txt',
        models=dict(mt5='tiny-mt5', rwkv='mine'),
        retrofit=dict(total_sentences=5),
    )
    (folder / 'run.json').write_text(json.dumps(plan))
    equal(
        command_for(folder / 'base'),
        'ff-nbdev run quick --corpus book.txt --model rwkv=mine --seeds 0 1 '
        '--recipes base tlf --set retrofit.total_sentences=5',
    )
    with pytest.raises(FileNotFoundError, match='no run folder'):
        load_runs(folder)


# Publish

SETTINGS = dict(
    scale='quick',
    models=dict(mt5='tiny-mt5', rwkv='tiny-rwkv'),
    corpus='/my/texts/book.txt',
    seeds=[0],
    given=['base', 'base_reordered'],
    trained=['base_continued', 'full_stack', 'no_fzr', 'tlf'],
    notebooks='/my/nbs',
)


def write_json(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def read(path):
    return json.loads(path.read_text())


def update(path, **entries):
    write_json(path, read(path) | entries)


@pytest.fixture
def planned(tmp_path):
    "A run of which tlf is not finished, and the names of the others"
    folder = example_runs(tmp_path / 'runs' / 'quick')
    names = [path.parent.name for path in folder.glob('*/evaluation.json')]
    write_json(folder / 'run.json', SETTINGS | dict(runs=[*names, 'tlf']))
    return folder, names


@pytest.fixture
def small(planned, tmp_path):
    return publish(planned[0], tmp_path / 'results' / 'quick', finished=True)


def test_the_same_tables_come_out_of_small_files(planned, small):
    folder, names = planned
    a, b = load_runs(small), load_runs(folder, arms=names)
    pd.testing.assert_frame_equal(a.ce_increases(), b.ce_increases(), rtol=1e-4, atol=1e-5)
    pd.testing.assert_frame_equal(a.signatures, b.signatures, rtol=1e-5)
    text = ''.join(path.read_text() for path in small.rglob('*.json'))
    assert '/my/' not in text and 'book.txt' in text
    assert set(all_figures(a)[0]) == set(all_figures(b)[0])
    equal(publish(folder, small, finished=True), small)  # again, over itself


def test_nothing_else_is_replaced(planned, small, tmp_path):
    letter = tmp_path / 'mine' / 'letter.txt'
    letter.parent.mkdir()
    letter.write_text('dear')
    with pytest.raises(ValueError, match='no folder of results'):
        publish(planned[0], letter.parent, finished=True)
    assert letter.exists()
    with pytest.raises(FileNotFoundError, match='holds no run'):
        publish(tmp_path, small)


@pytest.fixture
def night(tmp_path):
    "A run of tlf alone"
    folder = example_runs(tmp_path / 'runs' / 'night', names=['base', 'tlf'])
    shutil.rmtree(folder / 'base')
    write_json(folder / 'run.json', SETTINGS | dict(given=[], trained=['tlf'], runs=['tlf'], seeds=[0, 1]))
    return folder


def test_a_teacher_that_nobody_had_keeps_nothing_apart(small, night):
    "Planned anew before its first use; after that, runs with it are not alike"
    update(night / 'run.json', teacher=dict(total_tokens=5))
    publish(night, small, add=True)
    update(small / 'full_stack' / 'train.json', teacher='a digest')
    update(night / 'run.json', teacher=dict(total_tokens=6))
    with pytest.raises(ValueError, match='another teacher'):
        publish(night, small, add=True)


def test_another_run_is_added(planned, small, night):
    folder, names = planned
    teacher = dict(teacher='0123456789ab', seconds=9.0)
    write_json(folder / 'alternatives' / 'closeness.json', teacher | dict(simlex=dict(correlation=0.2)))
    write_json(night / 'alternatives' / 'closeness.json', teacher)  # the same; only the first saw a dictionary
    publish(folder, small, finished=True)
    publish(night, small, add=True)
    both, card = read(small / 'run.json'), (small / 'tlf' / 'README.md').read_text()
    equal([both[k] for k in ('runs', 'not_run', 'trained', 'seeds')], [[*names, 'tlf'], [], SETTINGS['trained'], [0]])
    assert 'the command makes them' in card and '--recipes tlf' in card and '/my/' not in card, card
    assert 'over base_continued' in card, card
    equal({path.name for path in small.iterdir()}, {*names, 'tlf', 'alternatives', 'run.json'})
    assert 'simlex' in (small / 'alternatives' / 'closeness.json').read_text()
    assert not (small.parent / '.quick.new').exists()
    equal(publish(folder, small, finished=True), small)
    assert not (small / 'tlf').exists()  # without add it is replaced


def test_a_base_goes_along_with_its_variants(planned, night, tmp_path):
    wide, arm = example_runs(tmp_path / 'runs' / 'wide', names=['base', 'base_continued']), 'base_continued~width_512'
    (wide / 'base_continued').rename(wide / arm)
    shutil.rmtree(wide / 'base')
    update(wide / arm / 'train.json', model='pretrain_mt5_512')
    made = dict(params=dict(d_ff=512, corpus='/my/texts/book.txt'), test=dict(passed=True), log=[])
    write_json(wide / 'pretrain_mt5_512' / 'pretrain.json', made)
    started = dict(model='pretrain_mt5_512/model')
    write_json(wide / 'run.json', SETTINGS | dict(given=[], trained=[], variants={arm: started}, runs=[arm]))
    apart = publish(planned[0], tmp_path / 'apart', finished=True)
    base = apart / 'pretrain_mt5_512' / 'pretrain.json'
    publish(wide, apart, add=True)
    assert arm in load_runs(apart).variants and arm in read(apart / 'run.json')['runs']
    assert '/my/' not in (apart / arm / 'README.md').read_text() and read(base)['params']['corpus'] == 'book.txt'
    publish(night, apart, add=True)
    assert base.exists()  # and stays when more is added

    def plan(**bases):
        update(apart / 'run.json', pretrain_mt5_512=dict(d_ff=512), pretrain_mt5_4096=dict(d_ff=4096))
        update(wide / 'run.json', **bases)

    plan(pretrain_mt5_4096=dict(d_ff=4096, steps=9))
    publish(wide, apart, add=True)  # no arm of that base is published
    other = 'no_fzr~width_512'
    (wide / arm).rename(wide / other)
    update(wide / 'run.json', variants={other: started}, runs=[other])
    plan(pretrain_mt5_512=dict(d_ff=512, steps=9))  # an arm of the older base would stay
    with pytest.raises(ValueError, match='another pretrain_mt5_512:'):
        publish(wide, apart, add=True)
    plan(pretrain_mt5_512=dict(d_ff=512))
    publish(wide, apart, add=True)
    assert '600' not in base.read_text()
    write_json(wide / 'pretrain_mt5_512' / 'pretrain.json', made | dict(params=dict(d_ff=600)))
    publish(wide, apart, add=True)
    equal(read(base)['params']['d_ff'], 600)  # made otherwise: the newer record
    plan(retrofit_base_continued=dict(rate=0.1))  # of the arm that stays
    with pytest.raises(ValueError, match='another retrofit_base_continued:'):
        publish(wide, apart, add=True)


def test_a_shipped_model_is_the_trained_one(folder, tmp_path):
    transformers.logging.disable_progress_bar()
    model, tokenizer = load_pretrained('tiny-mt5')
    config = FFConfig.preset('full_stack', total_sentences=100, forgiveness='two_letter')
    ff, own = attach(model, config, tokenizer), folder / 'full_stack' / 'model'
    ff.save_pretrained(own)
    ff.remove()
    model.save_pretrained(own)
    tokenizer.save_pretrained(own)
    out = ship(folder / 'full_stack', tmp_path / 'shipped', folder / 'base_continued')
    again, _ = load_pretrained(out)
    for a, b in zip(model.state_dict().values(), again.state_dict().values()):
        assert (a.float() - b.float()).abs().max() < 0.02
    files = {'train.json', 'bands.npz', 'README.md', 'ff_config.json', 'ff_state.safetensors', 'tokenizer.json'}
    assert {path.name for path in out.iterdir()} >= files and '+' in (out / 'README.md').read_text()
    assert attach.from_pretrained(again, out, tokenizer) is not None
