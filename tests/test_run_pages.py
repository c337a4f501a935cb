"""The pages of the room `run`: what a scale, a parameter, a folder or a name may be, and what the graph makes of it."""

import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from shared import SCALE

import ff_nbdev
from ff_nbdev.core.testing import expect_fail
from ff_nbdev.run import places, preflight
from ff_nbdev.run.errors import RunError
from ff_nbdev.run.graph import RunGraph
from ff_nbdev.run.parameters import (
    as_kind,
    check_given,
    check_params,
    kind,
    kinds,
    notebook_checks,
    parse_parameters,
    read_notebook,
    read_value,
)
from ff_nbdev.run.places import check_place
from ff_nbdev.run.preflight import (
    check_model,
    check_scale_parts,
    check_scale_runs,
    check_together,
    parts_of,
)
from ff_nbdev.run.prepare import dose_of
from ff_nbdev.run.records import RunId, RunSettings
from ff_nbdev.run.runner import check_kernel, executed, library_files, locked, main, run_notebook
from ff_nbdev.run.settings import (
    apply_settings,
    check_folder,
    check_notebooks,
    choose_recipes,
    notebooks_folder,
    read_scale,
    scale_name,
    resolve_corpus,
)


def refused(call, says, error=(ValueError, OSError)):
    "A call is refused in these words"
    with pytest.raises(error) as e:
        call()
    assert says in str(e.value), str(e.value)


def experiment(parameters, code=''):
    "A notebook with a tagged cell and a cell of code"
    new = nbformat.v4
    tagged = new.new_code_cell(parameters, metadata=dict(tags=['parameters']))
    metadata = dict(kernelspec=dict(name='python3', display_name='python3'))
    return new.new_notebook(cells=[tagged, new.new_code_cell(code)], metadata=metadata)


# Names and settings


@pytest.mark.parametrize(
    'name, parts',
    [
        ('base', ('mt5', 'base', None, '')),
        ('rwkv_full_stack', ('rwkv', 'full_stack', None, '')),
        ('no_fzr.s12', ('mt5', 'no_fzr', 12, '')),
        ('rwkv_tlf.s1~dose_0.75', ('rwkv', 'tlf', 1, 'dose_0.75')),
        ('full_stack~a.s1', ('mt5', 'full_stack', None, 'a.s1')),
    ],
)
def test_a_name_is_read_and_written(name, parts):
    run = RunId.parse(name)
    assert (run.arch, run.recipe, run.seed, run.variant) == parts and str(run) == name


def test_settings_are_read_as_they_are_written():
    settings = RunSettings.from_dict(
        dict(SCALE, more_seeds=dict(full_stack=[3]), retrofit_no_fzr=dict(rate=0.1), order=None)
    )
    assert RunSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert settings.run_names() == ['base', 'full_stack', 'full_stack.s3']
    assert settings.parameters == dict(retrofit_no_fzr=dict(rate=0.1)) and settings.to_dict()['retrofit_no_fzr']


def test_what_the_command_line_changes(tmp_path):
    (tmp_path / 'letter.txt').write_text('Dear friend')
    (tmp_path / 'empty.txt').write_text('')
    assert check_folder(tmp_path / 'new', 1) is False
    for call, error in (
        (lambda: check_folder(tmp_path / 'letter.txt', 1), ValueError),
        (lambda: check_notebooks(tmp_path), FileNotFoundError),
        (lambda: read_scale('quik'), ValueError),
        (lambda: resolve_corpus(str(tmp_path / 'empty.txt')), ValueError),
    ):
        refused(call, '', error)
    assert scale_name(str(ROOT / 'workflow' / 'config' / 'quick.yaml')) == scale_name('quick')
    assert scale_name(str(tmp_path / 'quick.yaml')) == str(tmp_path / 'quick.yaml')
    settings = read_scale('quick')
    choose_recipes(settings, ['full_stack', 'base'])
    assert [settings['given'], settings['trained']] == [['base'], ['full_stack']]
    apply_settings(settings, ['retrofit.total_sentences=7', 'evaluate.note=a b'])
    assert [settings['retrofit']['total_sentences'], settings['evaluate']['note']] == [7, 'a b']
    for bad in ['x=1', 'retro.x=1']:
        refused(lambda: apply_settings(settings, [bad]), '', ValueError)
    refused(lambda: apply_settings(settings, ['retrofit.dose=1', 'retrofit.dose=2']), 'given twice')
    assert resolve_corpus(str(tmp_path / 'letter.txt'))[0] == str(tmp_path / 'letter.txt')


# The graph


def graph_of(**more):
    return RunGraph(
        RunSettings.from_dict(dict(SCALE, notebooks=str(notebooks_folder()), shared_vocabulary=True) | more)
    )


def test_the_graph_of_seeds_and_variants():
    graph = graph_of(
        seeds=[0, 1],
        trained=['no_fzr', 'full_stack'],
        stages=dict(full_stack='no_fzr'),
        variants={'full_stack~x': {}, 'no_fzr~x': dict(dose=2.0)},
        order=['no_fzr*'],
    )
    assert graph.needs('full_stack.s1') == dict(stage='no_fzr.s1/stage')
    assert graph.needs('full_stack~x') == dict(stage='no_fzr~x/stage') and not graph.needs('no_fzr')
    assert graph.files_needed('full_stack') == ['no_fzr/train.json']
    assert graph.stages == {'no_fzr', 'no_fzr.s1', 'no_fzr~x'} and graph.given == ['base']
    assert '-p keep_stage True' in graph.words['retrofit', 'no_fzr'] and 'dose' not in graph.words['retrofit', 'no_fzr']
    assert '-p dose 2.0' in graph.words['retrofit', 'no_fzr~x']
    assert graph.priority('no_fzr.s1') > graph.priority('full_stack') == 10
    assert graph.evaluation_priority('full_stack') == 0 < graph.evaluation_priority('no_fzr')
    assert graph.run_length('full_stack') < graph.run_length('no_fzr') == 1
    assert len(graph.records()) == 2 + 2 * len(graph.ids) + 2 * len(graph.with_record)


def test_a_variant_asks_for_the_contribution_of_the_recipe_of_its_own_label():
    "… and its wrong names are then compared with the alternatives, as those of the recipe are"
    asks = dict(evaluate=dict(quiet_like='full_stack', tokens=9))
    graph = graph_of(variants={'base_continued~x': asks, 'base_continued~y': {}, 'full_stack~x': {}})
    said = graph.words['evaluate', 'base_continued~x']
    assert "-p quiet_like 'full_stack~x/model'" in said and '-p tokens 9' in said
    assert '-p alternatives alternatives/train' in said
    assert not {'quiet_like', 'alternatives'} & set(graph.words['evaluate', 'base_continued~y'].split())


def test_variants_of_another_seed_go_on_from_runs_of_that_seed():
    "… a search alone serves all seeds; a rival is matched with the run of its own seed and label"
    names = 'no_fzr', 'no_fzr.s1', 'full_stack', 'full_stack.s1', 'full_stack_to_collapse', 'topoloss.s1'
    asks = {'base_continued.s1~x': dict(evaluate=dict(quiet_like='full_stack'))}
    variants = {f'{name}~x': {} for name in names} | asks
    parts = dict(stages=dict(full_stack='no_fzr'), searches=dict(full_stack='full_stack_to_collapse'))
    graph = graph_of(seeds=[0], trained=[], variants=variants, **parts)
    search = 'full_stack_to_collapse~x/collapse.json'
    assert graph.needs('full_stack.s1~x') == dict(stage='no_fzr.s1~x/stage', collapse=search)
    assert graph.needs('full_stack~x') == dict(stage='no_fzr~x/stage', collapse=search)
    assert graph.needs('topoloss.s1~x') == dict(match='full_stack.s1~x/train.json')
    assert "-p quiet_like 'full_stack.s1~x/model'" in graph.words['evaluate', 'base_continued.s1~x']
    assert '-p seed 1' in graph.words['retrofit', 'full_stack.s1~x']
    settings = dict(scale='quick', variants=dict(variants), **parts)
    choose_recipes(settings, ['topoloss.s1~x'])
    found = {'topoloss.s1~x', 'full_stack.s1~x', 'no_fzr.s1~x', 'full_stack_to_collapse~x'}
    assert set(settings['variants']) == found and not settings['trained']
    assert settings['given'] == ['base'], 'a report says what a run costs beside its base'


@pytest.mark.parametrize(
    'more, says',
    [
        (dict(retrofit_no_fzzr={}), 'there is no recipe no_fzzr'),
        (dict(retrofit_no_fzr=dict(model='tiny-mt5')), 'no_fzr~other'),
        (dict(variants={'tlf_minus_fzr~x': dict(model='tiny-mt5')}), 'only a recipe that starts from a base'),
        (dict(variants={'rwkv_no_fzr~x': dict(model='pretrain_mt5_512/model')}), 'is a recipe of rwkv'),
        (dict(variants={'no_fzr~x': dict(model='pretrain_gpt2/model')}), 'begins with mt5 or rwkv'),
        (dict(variants={'no_fzr~x': dict(model='pretrain_mt5_512/model')}), 'not among the settings'),
        (dict(retrofit=dict(doze=1.0)), "did you mean 'dose'?"),
        (dict(variants={'base_continued~x': dict(evaluate=dict(quiet_like='tlf'))}), 'tlf~x, which is none'),
        (dict(variants={'base~x': {}, 'rwkv_tlf~x': dict(evaluate=dict(quiet_like='base'))}), 'another architecture'),
    ],
)
def test_a_graph_that_could_not_run_is_refused(more, says):
    refused(lambda: graph_of(**more), says, ValueError)


def test_runs_of_other_lengths_cost_otherwise():
    graph = graph_of(
        trained=['full_stack', 'tlf_minus_fzr'],
        minutes=dict(retrofit=10),
        retrofit=dict(total_sentences=100),
        variants={'full_stack~double': dict(total_sentences=200)},
    )
    assert [graph.minutes('retrofit', graph.run_length(name)) for name in graph.trained] == [10, 4, 20]
    assert graph.time_limit('retrofit') == 30 and graph.memory('text') == 4000 and graph.gpus('text') == 0


# Before anything starts


def test_models_are_looked_at(tmp_path):
    model = tmp_path / 'model'
    shutil.copytree(Path(ff_nbdev.__file__).parent / 'pretrained' / 'tiny-mt5', model)
    assert check_model('mt5', str(model)) == str(model)
    with open(model / 'model.safetensors', 'r+b') as f:
        f.truncate(1000)
    refused(lambda: check_model('mt5', str(model)), 'cut short')
    (model / 'model.safetensors').write_bytes(b'12')
    refused(lambda: check_model('mt5', str(model)), 'cut short')
    (model / 'model.safetensors').unlink()
    refused(lambda: check_model('mt5', str(model)), 'lacks its weights')
    (model / 'model.safetensors.index.json').write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    refused(lambda: check_model('mt5', str(model)), 'model-1.safetensors')
    refused(lambda: check_model('mt5', str(model / 'config.json')), 'is a file')
    for bad in ('a//b', 'a/b/c', '-a/b', 'a/b..c', 'a b/c', 'tiny', './x', 'é/ü', 'a/'):
        refused(lambda: check_model('mt5', bad), 'There is no model')
    refused(lambda: check_model('mt5', str(tmp_path)), 'no config.json')
    refused(lambda: preflight.split_model('mt5='), 'names no model')


def test_texts_are_looked_into(tmp_path):
    def look(name, content):
        (tmp_path / name).write_bytes(content.encode())
        return preflight.first_look([tmp_path / name])

    refused(lambda: look('blank.txt', '\n \n'), 'no sentence')
    refused(lambda: look('deep.jsonl', '[' * 100_000), '')
    refused(lambda: look('list.jsonl', '[1, 2]\n'), 'field of text')
    assert look('good[1].txt', 'One sentence.') is None


@pytest.mark.parametrize(
    'more, says',
    [
        (dict(threads=0), 'at least 1'),
        (dict(minutes=dict(text='x')), 'at least 0'),
        (dict(minutes=dict(txt=1)), "'text'"),
        (dict(scale='big'), 'scale of'),
        (dict(price=-1), 'price'),
        (dict(seeds=3), 'a list'),
        (dict(seeds=None), 'lacks seeds'),
        (dict(retrofit_ful_stack={}), "'full_stack'"),
        ({3: 4}, 'no use for'),
        (dict(gpus=dict(teacher=float('inf'))), 'at least 0'),
    ],
)
def test_parts_of_a_scale(more, says):
    refused(lambda: check_scale_parts(SCALE | more, 'mine.yaml'), says)


@pytest.mark.parametrize(
    'more, says',
    [
        (dict(models=dict(mt5='x')), 'mt5 and rwkv'),
        (dict(models=dict(mt5=3, rwkv='x')), 'must be a text'),
        (dict(given=['full_stack']), 'under trained'),
        (dict(trained=['base']), 'under given'),
        (dict(variants={'no_fzr~../x': {}}), 'cannot be a folder'),
        (dict(variants={'no_fzr': {}}), 'label'),
        (dict(variants={'no_fzr~x': 3}), 'hold parameters'),
        (dict(shipped=dict(no_fzr='tiny')), 'not shipped'),
        (dict(own=dict(trained=['x'])), 'no recipe'),
        (dict(quiet_like=dict(base='no_fzr')), 'as it is'),
    ],
)
def test_runs_of_a_scale(more, says):
    check_scale_runs(SCALE, 'mine.yaml')
    refused(lambda: check_scale_runs(SCALE | more, 'mine.yaml'), says)


@pytest.mark.parametrize(
    'more, says',
    [
        (dict(retrofit=dict(dose=-1.0)), 'dose'),
        (dict(retrofit=dict(change='size=5')), 'part.setting=value'),
        (dict(evaluate=dict(categories='none.tsv')), 'not there'),
        (dict(teacher=dict(start='model', vocab_size=9)), 'tokenizer'),
        (dict(variants={'no_fzr~x': dict(change='recall.per_sgn=1')}), 'did you mean'),
        (dict(pretrain=dict(tokenizer='no/such/one')), 'not there'),
    ],
)
def test_parameters_fit_together(more, says):
    refused(lambda: check_together(SCALE | more), says)


def test_what_goes_to_which_notebook():
    several = dict(retrofit=dict(dose=1), pretrain_rwkv=dict(steps=1), variants={'no_fzr~x': {}})
    assert [(name, node) for name, node, _ in parts_of(SCALE | several)] == [
        ('retrofit', 'retrofit'),
        ('pretrain_rwkv', 'pretrain'),
        ('no_fzr~x', 'retrofit'),
        ('no_fzr~x, evaluate', 'evaluate'),
    ]


def test_the_place_of_a_run_and_the_cache(tmp_path, monkeypatch):
    (tmp_path / 'odd.yaml').write_text('x')
    monkeypatch.setenv('FF_NBDEV_CACHE', str(tmp_path / 'odd.yaml'))
    refused(places.check_cache, 'The cache cannot be used')
    monkeypatch.setenv('FF_NBDEV_CACHE', str(tmp_path / 'cache'))
    places.check_cache()
    old = tmp_path / 'old'
    old.mkdir()
    (old / 'run.json').write_text('{"runs": [], "config": "night"}')
    assert check_place(tmp_path / 'new', 'quick') is False and check_place(old, 'night') is True
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    refused(lambda: check_place(tmp_path / 'loop'), 'leads nowhere')
    for path in (tmp_path / 'odd.yaml' / 'run', tmp_path / 'odd.yaml'):
        refused(lambda: check_place(path), 'is a file')
    refused(lambda: check_place(Path(ff_nbdev.__file__).parent / 'x'), 'belongs to the program')
    refused(lambda: check_place(tmp_path), 'not of a run')
    for text in ('[]', '{}', '{"a', '{"runs": [], "not_run": []}'):
        (old / 'run.json').write_text(text)
        refused(lambda: check_place(old), 'run.json' if 'not' not in text else 'published')


# Parameters of a notebook


def test_types():
    assert kinds('Optional[int]') == {'int', 'None'} and kind([]) == 'list' and kind([1, 'a']) == 'list[int|str]'
    assert as_kind('x', None, {'float', 'None'}) is None and as_kind('x', [1, 2], {'list[float]'}) == [1.0, 2.0]
    for bad in [True, 1.5, '1', None, [1]]:
        refused(lambda: as_kind('n', bad, {'int'}), '', ValueError)
    for bad in [True, 'a', None]:
        refused(lambda: as_kind('n', bad, {'float'}), '', ValueError)
    for bad in ['dict[str, int]', 'int |', '']:
        refused(lambda: kinds(bad), '', ValueError)
    for bad in [1e999, float('nan'), [1.0, -1e999]]:
        refused(lambda: as_kind('x', bad, {'float', 'list[float]'}), '', ValueError)
    refused(lambda: as_kind('x', 10**400, {'float'}), '', ValueError)


@pytest.mark.parametrize(
    'content, says',
    [
        ('{"cells": 3}', 'its cells are no list'),
        ('[]', 'it has no cells'),
        ('{"cells": [3]}', 'its cell 1 is none'),
        ('{"cells": [{"cell_type": "code"}]}', 'its cell 1 is none'),
        ('{"cells": [], "metadata": 3}', 'no mapping'),
        ('[' * 100_000, 'nested too deeply'),
        ('{"cells"', 'no JSON'),
    ],
    ids=range(7),
)
def test_files_that_are_no_notebooks(content, says, tmp_path):
    (tmp_path / 'odd.ipynb').write_text(content)
    refused(lambda: read_notebook(tmp_path / 'odd.ipynb'), says, ValueError)
    refused(lambda: read_notebook(tmp_path), 'is a folder', ValueError)


@pytest.mark.parametrize(
    'cell, says',
    [
        ('a = 2**3', 'plain literal'),
        ('a = b = 1', 'form'),
        ('a = 1\na = 2', 'twice'),
        ('a = None', 'cannot be seen'),
        ('a: int', 'no value'),
        ('a = {[]: 1}', 'plain literal'),
        ('a = ' + '[' * 500, 'not Python'),
        ('import os', 'form'),
        ('a = ', 'not Python'),
        ('a: dict = {}', 'no flat type'),
        ('a: int = 1.5', 'must be int'),
        ('a: float = "1"', 'is a text'),
    ],
)
def test_lines_that_are_no_parameters(cell, says):
    refused(lambda: parse_parameters(experiment(cell), 'x.ipynb'), says, ValueError)


def test_the_tagged_cell():
    found = parse_parameters(experiment('a = -1\nb: list[str] = []\nc = "x = y"'))
    assert found == dict(a=({'int'}, -1), b=({'list[str]'}, []), c=({'str'}, 'x = y'))
    two = experiment('a = 1')
    two.cells.append(two.cells[0])
    says = "ValueError: x.ipynb has {} tagged 'parameters', and needs exactly one."
    assert expect_fail(lambda: parse_parameters(two, 'x.ipynb')) == says.format('2 cells')
    two.cells = []
    assert expect_fail(lambda: parse_parameters(two, 'x.ipynb')) == says.format('no cells')
    assert read_value('None', {'str', 'None'}) is None and read_value('abc', {'float'}) == 'abc'
    assert read_value('[' * 9999, {'int'}) == '[' * 9999


def test_what_a_notebook_asks_of_its_parameters():
    check = 'check_params(globals(), positive=["dose"], ranges=dict(dose=(None, 9)))'
    assert check_given(experiment('dose: float = 1.0\nseed: int = 0', check), dict(dose=9)) == dict(dose=9.0)
    named = experiment(
        'arm: str = "base"',
        'from ff_nbdev.training.recipes import RECIPES\ncheck_params(globals(), '
        'choices=dict(arm=list(RECIPES)), positive=[x for x in []])',
    )
    refused(lambda: check_given(named, dict(arm='bose')), "did you mean 'base'", ValueError)
    assert list(notebook_checks(named)) == ['choices']
    for odd in ('ranges=3', 'ranges=dict(dose=3)', 'choices=[1]', 'positive=3', 'ranges=dict(dose=("a", "b"))'):
        check_given(experiment('dose: float = 1.0', f'check_params(globals(), {odd})'), dict(dose=2))


def test_the_second_line_of_defence():
    scope = dict(lr=3e-4, dose=2, __annotations__=dict(lr=float | None, dose=float))
    scope['In'] = ['', 'x = 1', '# Parameters\ndoes = 3\n']
    refused(lambda: check_params(scope), "This notebook has no parameter 'does': did you mean 'dose'?", ValueError)
    scope.update(In=[], lr=float('nan'))
    refused(lambda: check_params(scope, positive=['lr']), '', ValueError)
    scope['lr'] = None
    check_params(scope, positive=['lr'])
    scope['dose'] = -1
    refused(lambda: check_params(scope, ranges=dict(dose=(0, 20))), 'from 0 to 20', ValueError)
    scope = dict(out='~/a b', arm='no_fzr~x', __annotations__=dict(out=str, arm=str))
    assert check_params(scope) == dict(out=os.path.expanduser('~/a b'), arm='no_fzr~x') and scope['out'][0] == '/'


# The strict runner


def test_modules_that_code_reaches():
    names = {path.name for path in library_files(['from ff_nbdev.run.parameters import check_given'])}
    assert names == {'parameters.py', 'suggest.py'} and library_files(['import numpy']) == []
    traced, direct = 'from ff_nbdev import find_sites', 'from ff_nbdev.models.sites import find_sites'
    assert library_files([traced]) == library_files([direct])
    everything = library_files(['from ff_nbdev import no_such_name'])
    assert len(everything) == len(library_files(['%matplotlib inline'])) > 4


def test_a_run_and_what_it_refuses(tmp_path):
    little, log = tmp_path / 'little.ipynb', []
    code = 'from pathlib import Path\nPath(out).write_text(str(1 - lr*steps))'
    nbformat.write(experiment('steps: int = 3\nlr: float = 0.1\nout = "loss.txt"', code), little)
    go = lambda: run_notebook(little, tmp_path / 'runs' / 'little.ipynb', dict(steps=5), cwd=tmp_path, log=log.append)
    ran = [go(), go()][0]
    assert (tmp_path / 'loss.txt').read_text() == '0.5' and len(log) == 2 and log[1].endswith('up to date')
    assert 'IN_TEST' not in ''.join(read_notebook(ran)['cells'][0]['source'])
    shutil.copy(little, tmp_path / 'letter.ipynb')
    refused(lambda: run_notebook(little, little), 'in place', ValueError)
    refused(lambda: run_notebook(little, tmp_path / 'letter.ipynb'), 'would be lost', ValueError)
    refused(lambda: run_notebook(little, tmp_path / 'new.ipynb', cwd=tmp_path / 'none'), 'no folder', ValueError)
    refused(lambda: run_notebook(little, tmp_path / 'new.ipynb', threads=0), 'at least 1', ValueError)
    refused(lambda: run_notebook(tmp_path / 'none.ipynb', tmp_path / 'a.ipynb'), '', FileNotFoundError)
    refused(lambda: check_kernel('no-such-kernel'), 'ipykernel', ValueError)
    assert executed(ran) and not executed(little)
    with locked(tmp_path / 'x.lock', 'A'):
        refused(lambda: locked(tmp_path / 'x.lock', 'A').__enter__(), 'at work already', RunError)
    with locked(tmp_path / 'x.lock', 'A'):
        pass


def test_the_runner_on_the_command_line(tmp_path, capsys):
    little = tmp_path / 'little.ipynb'
    nbformat.write(experiment('lr: float = 0.1', 'print(lr)'), little)
    assert main([str(little), str(tmp_path / 'x.ipynb'), '-p', 'lr', 'fast']) == 2
    assert main([str(tmp_path / 'no.ipynb'), str(tmp_path / 'x.ipynb')]) == 2
    assert main([str(little), str(tmp_path / 'x.ipynb'), '-p', 'lr', '1', '-p', 'lr', '2']) == 2
    assert 'given twice' in capsys.readouterr().err
    assert os.listdir(tmp_path) == ['little.ipynb']


# Training


def test_the_dose_of_a_saved_model(tmp_path):
    for name, dose in (('full_stack', 1.25), ('tlf_minus_fzr', 2.0)):
        (tmp_path / name / 'model').mkdir(parents=True)
        (tmp_path / name / 'train.json').write_text(json.dumps(dict(dose=dose)))
        assert dose_of(tmp_path / name / 'model') == dose
    (tmp_path / 'bare').mkdir()
    assert dose_of(tmp_path / 'bare') == 0.0


def test_what_a_report_found_is_what_is_printed(tmp_path):
    "A report as it is written, and not one made for this test"
    from ff_nbdev.run.launch import printed_findings
    from ff_nbdev.study.examples import example_runs
    from ff_nbdev.study.report import write_report

    runs = example_runs(tmp_path / 'quick', ['base', 'base_continued', 'full_stack'])
    write_report(runs)
    written = json.loads((runs / 'report.json').read_text())['findings']
    assert len(written) > 2 and [f'  - {found}' for found in written] == printed_findings(runs)[2:-1]


def test_the_old_name_of_an_option_still_works():
    from ff_nbdev.cli import make_parser

    for option in ('--recipes', '--arms'):
        assert make_parser().parse_args(['run', 'quick', option, 'base', 'tlf']).recipes == ['base', 'tlf']
