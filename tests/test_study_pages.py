"What the pages of the study's room say, held to invented runs"
import copy
import json
from pathlib import Path

import pytest
from fastcore.test import test_eq as equal

from ff_nbdev.core.provenance import save_json
from ff_nbdev.run.records import model_name
from ff_nbdev.run.settings import command_for
from ff_nbdev.study.examples import QUICK, example_runs
from ff_nbdev.study.records import Runs, format_dose, load_run, load_runs, per_million, reference


@pytest.fixture
def folder(tmp_path): return example_runs(tmp_path/'quick')

@pytest.fixture
def runs(folder): return load_runs(folder)

# Records

def test_a_run_that_was_stopped_or_cut_off_says_so(folder):
    path = folder/'no_fzr'/'evaluation.json'
    kept = path.read_text()
    path.unlink()
    with pytest.raises(FileNotFoundError, match='evaluation.json is missing.*ff-nbdev run quick'):
        load_run(folder/'no_fzr')
    path.write_text(kept[:20])
    with pytest.raises(ValueError, match='cut off'): load_run(folder/'no_fzr')
    save_json(dict(clean={}), folder/'base'/'evaluation.json')
    with pytest.raises(ValueError, match='lacks floors'): load_run(folder/'base')
    with pytest.raises(FileNotFoundError, match='no run folder'): load_run(folder/'nothing')

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
            wide.variants[f'{run.arm}~width_{width}'] = changed(run, model=f'pretrain_mt5_{width}')
    for arm, run in wide.every.items():
        label = '~' + arm.split('~')[1] if '~' in arm else ''
        if run.trained: assert reference(wide, run) is wide.every[f'base_continued{label}'], arm
    for other in (dict(rate=.1), dict(dose_before=1.), dict(collapse=dict(point=3.))):
        assert reference(wide, changed(full, **other)) is None

def test_the_dose_of_an_arm_that_went_on():
    longer = dict(dose=2.43, dose_before=1.504, sentences=40247)
    equal([format_dose(longer), format_dose(dict(dose=1.5))], ['1.5 + 0.926', '1.5'])
    equal(round(per_million(longer), 1), 23.0)

def test_names_of_models():
    given = ['mini-mt5', 'google/mt5-base', 'pretrain_mt5_512/model', '/runs/mine/model', 'model']
    equal([model_name(m) for m in given], ['mini-mt5', 'mt5-base', 'pretrain_mt5_512', 'mine', 'model'])

def test_tables_of_a_folder(runs, folder):
    equal(list(runs), QUICK)
    equal(len(runs.spatial), 5*4*3)
    equal(set(runs.robustness.kind), {'noise', 'blur', 'nonhub'})
    equal(len(runs.signatures), 10)
    assert set(runs.training.arm) == {'base_continued', 'no_fzr', 'full_stack'} and len(runs.valid) == 18
    with pytest.raises(FileNotFoundError, match='holds no run'): load_runs(folder/'base')
    with pytest.raises(KeyError, match='CE increase needs it'): Runs(base=runs['base']).ce_increases()
    text = ''.join(p.read_text() for p in folder.rglob('*.json'))
    assert str(Path.home()) not in text or str(Path.home()) == '/'

def test_the_command_of_a_folder(tmp_path):
    folder = example_runs(tmp_path/'runs'/'quick')
    plan = dict(scale='other', seeds=[3], corpus='wikitext', given=['base'], trained=['tlf'])
    (folder/'run.json').write_text(json.dumps(plan))
    equal(command_for(folder/'base'), 'ff-nbdev run other --corpus wikitext --seed 3 --out runs/quick')
    plan |= dict(scale='quick', seeds=[0, 1], corpus='/texts/book.txt', models=dict(mt5='tiny-mt5', rwkv='mine'),
                 retrofit=dict(total_sentences=5))
    (folder/'run.json').write_text(json.dumps(plan))
    equal(command_for(folder/'base'), 'ff-nbdev run quick --corpus book.txt --model rwkv=mine --seeds 0 1 '
                                      '--arms base tlf --set retrofit.total_sentences=5')
    with pytest.raises(FileNotFoundError, match='no run folder'): load_runs(folder)
