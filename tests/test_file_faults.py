"""Nothing is replaced, run or lost that this program did not write.

Folders of others, received runs, full disks, killed writers.
"""

import argparse
import ast
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import NOTEBOOKS, ROOT, page
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared import dead

from ff_nbdev.core import io as files
from ff_nbdev import cli
from ff_nbdev.run import prepare, train
from ff_nbdev.run.errors import RunError
from ff_nbdev.run.runner import locked
from ff_nbdev.run.records import TrainRecord
from ff_nbdev.study import publish, report
from ff_nbdev.study.records import load_run, load_runs
from ff_nbdev.run.settings import command_for, settings_of
from ff_nbdev.study.examples import example_runs
from ff_nbdev.core import provenance
from ff_nbdev.core.provenance import save_json

RECIPES = ['base', 'base_continued', 'full_stack']
MODEL = dict(mt5='tiny-mt5')


def state(folder):
    "Every file below a folder with its digest, links and times of change among them"
    return {
        p.relative_to(folder).as_posix(): (
            os.readlink(p) if p.is_symlink() else hashlib.sha256(p.read_bytes()).hexdigest(),
            p.lstat().st_mtime_ns,
        )
        for p in sorted(folder.rglob('*'))
        if p.is_file() or p.is_symlink()
    }


def contents(folder):
    return {k: v[0] for k, v in state(folder).items()}


def one_sentence(error):
    said = str(error)
    assert '\n' not in said and said[-1] in '.?)' and len(said) < 600, said
    return said


def a_run(folder, arms=RECIPES, **changed):
    "A finished run with a model in each trained arm"
    example_runs(folder, arms)
    given = [a for a in arms if a == 'base']
    told = dict(
        scale='quick',
        corpus='python_prose',
        models=MODEL,
        seeds=[0],
        given=given,
        trained=[a for a in arms if a != 'base'],
        runs=arms,
        notebooks='/nowhere',
    )
    (folder / 'run.json').write_text(json.dumps(told | changed))
    for a in arms[1:]:
        (folder / a / 'model').mkdir()
        (folder / a / 'model' / 'model.safetensors').write_bytes(b'hours of work')
    return folder


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp('run') / 'quick')


@pytest.fixture
def mine(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / 'runs' / 'quick'))


@pytest.fixture
def brief(monkeypatch):
    "Reports without their figures, which take seconds"
    monkeypatch.setattr(report, 'all_figures', lambda runs: ({}, {}))


# Publishing


def targets(mine):
    "Ways to name a run's own folder, one within it and one above it"
    link, deep = mine.parent / 'link', mine.parent / 'other' / 'deep'
    link.symlink_to(mine)
    deep.mkdir(parents=True)
    return dict(
        itself=mine,
        within=mine / 'full_stack',
        new_within=mine / 'results' / 'new',
        above=mine.parent,
        root=Path('/'),
        link=link,
        link_within=link / 'results',
        dots=mine / 'full_stack' / '..',
        around=deep / '..' / '..' / 'quick',
        relative=Path(os.path.relpath(mine)),
        here=Path('.'),
        case=mine.with_name('QUICK'),
    )


@pytest.mark.parametrize(
    'way',
    ['itself', 'within', 'new_within', 'above', 'root', 'link', 'link_within', 'dots', 'around', 'relative', 'here'],
)
def test_a_run_is_never_published_onto_itself(mine, way, monkeypatch):
    monkeypatch.chdir(mine)
    out = targets(mine)[way]
    before = state(mine)
    with pytest.raises(ValueError, match='whose models would be lost') as e:
        publish.publish(mine, out)
    one_sentence(e.value)
    assert state(mine) == before


def test_other_letters_are_another_folder_only_where_the_disk_says_so(mine):
    out = targets(mine)['case']
    if out.exists():
        with pytest.raises(ValueError, match='whose models would be lost'):
            publish.publish(mine, out)
    else:
        assert (publish.publish(mine, out) / 'run.json').exists() and (mine / 'full_stack' / 'model').exists()


def test_another_run_is_not_published_over(mine, tmp_path):
    other = Path(shutil.copytree(mine, tmp_path / 'other'))
    before = state(other)
    with pytest.raises(ValueError, match='is a run and no folder of results'):
        publish.publish(mine, other)
    (other / 'run.json').write_text(json.dumps(settings_of(other) | dict(not_run=[])))
    before = state(other)  # and not if it calls itself results
    with pytest.raises(ValueError, match='model/model.safetensors, which is no file of published results'):
        publish.publish(mine, other)
    assert state(other) == before


@pytest.mark.parametrize(
    'name',
    ['letter.txt', 'full_stack/letter.txt', '.git/config', 'full_stack/checkpoints/checkpoint-3/model.safetensors'],
)
def test_one_file_of_somebody_else_and_nothing_is_touched(mine, tmp_path, name):
    out = publish.publish(mine, tmp_path / 'results')
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text('dear')
    before = state(out)
    with pytest.raises(ValueError, match='Nothing was changed'):
        publish.publish(mine, out)
    assert state(out) == before


def test_publishing_again_works_with_a_report_beside(mine, tmp_path):
    out = publish.publish(mine, tmp_path / 'results')
    first = contents(out)
    (out / 'report.html').write_text('old')
    assert contents(publish.publish(mine, out)) == first and os.listdir(tmp_path) and not list(tmp_path.glob('.*'))
    assert contents(publish.publish(mine, out, add=True)) == first


@pytest.mark.parametrize('at', ['first record', 'arrays', 'cards', 'exchange'])
def test_a_failure_half_way_leaves_the_old_results_whole(mine, tmp_path, monkeypatch, promise, at):
    out = publish.publish(mine, tmp_path / 'results')
    before = state(out)
    full = OSError(errno.ENOSPC, 'No space left on device')

    def fail(*a, **kw):
        raise full

    if at == 'exchange':
        replace = os.replace
        monkeypatch.setattr(
            os, 'replace', lambda a, b: fail() if Path(b) == out and '.part-' in str(a) else replace(a, b)
        )
    else:
        monkeypatch.setattr(
            publish, {'first record': 'write_lean', 'arrays': 'save_arrays', 'cards': 'run_card'}[at], fail
        )
    with pytest.raises(OSError, match='results could not be written, for the disk is full') as e:
        publish.publish(mine, out)
    assert 'MiB are left in' in one_sentence(e.value)
    assert (
        state(out) == before
        and [p.name for p in tmp_path.iterdir()] == ['runs', 'results']
        or sorted(p.name for p in tmp_path.iterdir()) == ['results', 'runs']
    )
    promise.one_of('Failures half way through publishing that leave the old results whole', 4)


def test_an_exchange_that_was_killed_is_taken_up(mine, tmp_path):
    out = publish.publish(mine, tmp_path / 'results')
    first = contents(out)
    os.replace(out, publish._aside(out))  # killed between the two renames
    (tmp_path / f'.results.part-{files._here()}-{dead()}').mkdir()
    assert contents(publish.publish(mine, out, add=True)) == first and not list(tmp_path.glob('.results*'))


@pytest.mark.parametrize('name', ['../../stolen', '/tmp/stolen', 'full_stack/../../../stolen', '..', '-x', 'a\nb'])
def test_names_of_a_received_run_lead_nowhere(tmp_path, name):
    folder = a_run(tmp_path / 'got' / 'run', ['base'], runs=['base', name], trained=[name])
    before = state(tmp_path)
    for call in (
        lambda: publish.publish(folder, tmp_path / 'out', finished=True),
        lambda: load_runs(folder),
        lambda: report.write_report(folder),
        lambda: load_runs(folder, [name]),
    ):
        with pytest.raises(ValueError, match='cannot be a folder') as e:
            call()
        one_sentence(e.value)
    assert state(tmp_path) == before


# Shipped arms, and training


def ship(out):
    return cli.shipped_command(argparse.Namespace(name='tiny-mt5-no_fzr', out=str(out)))


def test_a_shipped_arm_is_put_over_itself_and_over_nothing_else(tmp_path, mine):
    out = tmp_path / 'no_fzr'
    for _ in range(2):
        assert ship(out) == 0 and (out / 'model' / 'model.safetensors').exists() and not list(out.glob('.*'))
    before = state(out)
    (out / 'model' / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='notes.txt, which is no file of a shipped run'):
        ship(out)
    (out / 'model' / 'notes.txt').unlink()
    assert state(out) == before
    before = state(mine)
    with pytest.raises(ValueError, match='did not put there'):
        ship(mine / 'full_stack')  # an arm that was trained
    assert state(mine) == before


def test_a_shipped_arm_takes_the_place_of_no_other_weights(tmp_path, monkeypatch, capsys):
    "Weights trained by a user under our record stay; what an interrupted node or a run leaves is no hindrance"
    out = tmp_path / 'no_fzr'
    out.mkdir()
    (out / 'model').mkdir()
    (out / 'evaluation.json').write_text('{}')
    (out / 'evaluate.progress.json').write_text('{}')
    (out / '.train.json.part-here-1').write_text('{"half')
    assert (
        ship(out) == 0
        and capsys.readouterr().out == f'{out} holds tiny-mt5-no_fzr: its model, train.json and bands.npz.\n'
    )
    (out / 'model' / '.snakemake_timestamp').touch()
    (out / 'model' / 'config.json').unlink()
    (out / 'bands.npz').unlink()
    assert ship(out) == 0 and (out / 'model' / 'config.json').exists()
    for name in ('model/model.safetensors', 'model/config.json', 'bands.npz'):
        ship(out)
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        before = state(out)  # of the same size
        with pytest.raises(ValueError, match='that this command did not put there') as e:
            ship(out)
        one_sentence(e.value)
        assert state(out) == before
        (out / name).write_bytes(whole)


@pytest.mark.parametrize('there', ['thesis.tex', 'chapters/one.txt', '.git/HEAD', 'notes/train.json'])
def test_a_shipped_arm_is_put_into_no_folder_of_others(there, tmp_path, monkeypatch):
    (tmp_path / 'thesis' / there).parent.mkdir(parents=True)
    (tmp_path / 'thesis' / there).write_text('hours of work')
    monkeypatch.chdir(tmp_path / 'thesis')
    before = state(tmp_path)
    for out in (tmp_path / 'thesis', Path('.')):
        with pytest.raises(ValueError, match='which is no file of a shipped run') as e:
            ship(out)
        one_sentence(e.value)
    assert state(tmp_path) == before


def test_a_full_disk_leaves_the_shipped_arm_as_it_was(tmp_path, monkeypatch):
    out = tmp_path / 'no_fzr'
    ship(out)
    before = contents(out)

    def fail(*a, **kw):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(shutil, 'copytree', fail)
    with pytest.raises(
        OSError,
        match=r'model could not be written, for the disk is full: [\d.,]+ MiB are needed and [\d.,]+ MiB are left in',
    ):
        ship(out)
    assert contents(out) == before


@pytest.mark.parametrize(
    'there',
    [
        'model/model.safetensors',
        'model/letter.txt',
        'checkpoints/checkpoint-100/model.safetensors',
        'checkpoints/letter.txt',
        'bands.npz',
        'collapse.json',
    ],
)
def test_training_starts_in_no_folder_of_others(tmp_path, there, monkeypatch):
    monkeypatch.setattr(train, 'Prepared', lambda *a: pytest.fail('it began'))
    out = tmp_path / 'mine'
    (out / there).parent.mkdir(parents=True)
    (out / there).write_text('hours of work')
    before = state(out)
    plan = prepare.Plan('full_stack', 'tiny-mt5', 'python_prose', str(out))
    for start in (lambda: train.train_run(plan), lambda: train.launch(plan, 2)):
        with pytest.raises(ValueError, match='[Nn]othing was changed|somebody else') as e:
            start()
        one_sentence(e.value)
    assert state(out) == before


def test_training_waits_for_no_other_and_for_no_closed_folder(tmp_path, monkeypatch):
    "Two notebooks were started by hand with one folder; or it may not be written"
    monkeypatch.setattr(train, 'Prepared', lambda *a: pytest.fail('it began'))
    plan = prepare.Plan('no_fzr', 'tiny-mt5', 'python_prose', str(tmp_path))
    with locked(tmp_path / '.train.lock', 'A training'), pytest.raises(RunError, match='is at work already') as e:
        train.launch(plan)
    assert str(tmp_path) in one_sentence(e.value)
    monkeypatch.setattr(os, 'access', lambda *a, **more: False)
    with pytest.raises(PermissionError, match='cannot be written to') as e:
        train.launch(plan)
    one_sentence(e.value)


def test_training_removes_only_its_own_checkpoints(tmp_path):
    plan = prepare.Plan('full_stack', 'tiny-mt5', 'python_prose', str(tmp_path))
    folder = train._checkpoints(plan, True)
    (folder / 'checkpoint-3').mkdir()
    (folder / 'checkpoint-3' / 'model.safetensors').write_text('w')
    (tmp_path / 'notes.txt').write_text('mine')
    train.check_out(plan)
    assert not (
        train._checkpoints(prepare.Plan('full_stack', 'tiny-mt5', 'python_prose', str(tmp_path), seed=1), True)
        / 'checkpoint-3'
    ).exists()
    (folder / 'letter.txt').write_text('dear')
    (folder / 'belongs.txt').write_text('other')
    with pytest.raises(ValueError, match='letter.txt'):
        train.check_out(plan)
    with pytest.raises(ValueError, match='letter.txt'):
        train._checkpoints(plan, True)
    assert (folder / 'letter.txt').exists() and (tmp_path / 'notes.txt').exists()


def test_a_link_to_another_disk_is_emptied_and_stays(tmp_path):
    (tmp_path / 'scratch' / 'checkpoint-1').mkdir(parents=True)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'checkpoints').symlink_to(tmp_path / 'scratch')
    files.empty_own(tmp_path / 'out' / 'checkpoints', train.CHECKPOINTS, 'the checkpoints of a run')
    assert (tmp_path / 'out' / 'checkpoints').is_symlink() and not list((tmp_path / 'scratch').iterdir())


def test_links_are_not_followed_out_of_a_folder(tmp_path):
    (tmp_path / 'precious').mkdir()
    (tmp_path / 'precious' / 'a.txt').write_text('dear')
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own' / 'checkpoint-1').symlink_to(tmp_path / 'precious')
    assert files.foreign(tmp_path / 'own', ['*.json']) == 'checkpoint-1'
    files.empty_own(tmp_path / 'own', train.CHECKPOINTS + ('checkpoint-*',), 'the checkpoints of a run')
    assert (tmp_path / 'precious' / 'a.txt').read_text() == 'dear' and not list((tmp_path / 'own').iterdir())


# A run that was received

HOSTILE = '''<script>alert(1)</script>"'><img src=x onerror=alert(1)>$\\bad{ & | `id` $(id)'''


def test_only_notebooks_of_the_package_are_run(mine, monkeypatch, capsys):
    evil = mine / 'nbs'
    evil.mkdir()
    (evil / 'report.ipynb').write_text('{"cells": []}')
    (mine / 'run.json').write_text(
        json.dumps(settings_of(mine) | dict(notebooks=str(evil), report=dict(out='/elsewhere')))
    )
    ran = []
    monkeypatch.setattr(
        cli, 'run_notebook', lambda nb, out, params, cwd, **kw: ran.append((Path(nb), params, Path(cwd)))
    )
    monkeypatch.setattr(cli, 'printed_findings', lambda out, *a: [])
    assert cli.main(['report', str(mine)]) == 0
    notebook, params, cwd = ran[0]
    assert (
        notebook == cli.notebooks_folder() / 'report.ipynb'
        and params['out'] == str(mine.resolve())
        and mine not in (cwd, *cwd.parents)
    )
    assert 'which are not executed now' in capsys.readouterr().out
    assert cli.main(['report', str(mine), '--notebooks', str(evil)]) == 0 and ran[1][0] == evil / 'report.ipynb'


def test_modules_of_a_received_folder_are_not_imported(mine, tmp_path):
    "A real kernel, with a small notebook in the report's place"
    work = """
import sys
from pathlib import Path
try: import seaborn_of_theirs
except ImportError: pass
import yaml
Path(out, 'report.html').write_text(str(yaml.__file__))
Path(out, 'report.json').write_text('{}')
"""
    code = ["runs: str = ''\nout: str = ''", work.strip()]
    cells = [
        dict(
            cell_type='code',
            id=f'c{i}',
            metadata=dict(tags=['parameters'] if not i else []),
            source=s,
            outputs=[],
            execution_count=None,
        )
        for i, s in enumerate(code)
    ]
    (tmp_path / 'nbs').mkdir()
    (tmp_path / 'nbs' / 'report.ipynb').write_text(
        json.dumps(
            dict(
                cells=cells,
                metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')),
                nbformat=4,
                nbformat_minor=5,
            )
        )
    )
    for module in ('seaborn_of_theirs', 'yaml'):
        (mine / f'{module}.py').write_text('open("pwned", "w").write("x")')
    assert cli.main(['report', str(mine), '--notebooks', str(tmp_path / 'nbs')]) == 0
    assert not list(tmp_path.rglob('pwned')) and str(mine) not in (mine / 'report.html').read_text()


def hostile(x, key=''):
    "Every text of a record with what a page or a shell would act on"
    if isinstance(x, dict):
        return {k: hostile(v, k) for k, v in x.items()}
    if isinstance(x, list):
        return [hostile(v, key) for v in x]
    return x + HOSTILE if isinstance(x, str) and key not in ('role', 'stack', 'site', 'scale') else x


@pytest.fixture(scope='module')
def received(tmp_path_factory):
    "A run whose names, notes and tokens are hostile"
    folder = a_run(tmp_path_factory.mktemp('got') / 'quick', ['base', 'full_stack'])
    told = json.loads((folder / 'run.json').read_text())
    for p in folder.rglob('*.json'):
        p.write_text(json.dumps(hostile(json.loads(p.read_text()))))
    (folder / 'run.json').write_text(
        json.dumps(told | dict(corpus=HOSTILE, scale='quick' + HOSTILE, models=dict(mt5=HOSTILE)))
    )
    for p in folder.rglob('*.npz'):
        arrays = dict(np.load(p))
        for name, array in arrays.items():
            if array.dtype.kind == 'U' and 'site' not in name:
                words = [f'{word}{HOSTILE}' for word in array.ravel()]
                arrays[name] = np.array(words).reshape(array.shape)
        np.savez(p, **arrays)
    return folder


def test_what_records_say_is_text_in_the_report(received):
    made = report.write_report(received)
    for p in (made, made.with_name('report_pathways.svg')):
        text = p.read_text()
        assert 'alert(1)' in text and '<script>alert' not in text and '<img src=x' not in text, p.name
        assert not re.findall(
            r'\son(?:error|load|click)\s*=\s*["\']?alert', re.sub(r'&lt;.*?&gt;|\\u003c.*?\\u003e', '', text)
        ), p.name


def test_what_records_say_is_text_on_a_card(received):
    run = load_run(received / 'full_stack')
    card = publish.run_card(run)
    assert (
        'alert(1)' in card
        and '<script' not in card
        and '<img' not in card
        and not [l for l in card.splitlines() if l.startswith('|') and l.count('|') != 3]
    )


def test_commands_are_quoted_for_a_shell(received):
    said = command_for(received / 'full_stack')
    words = shlex.split(said)
    assert (
        words[:3] == ['ff-nbdev', 'run', 'quick' + HOSTILE]
        and words[words.index('--corpus') + 1].endswith('onerror=alert(1)>$\\bad{ & | `id` $(id)')
        and words[-2] == '--out'
    )
    assert subprocess.run(
        ['sh', '-c', f'set -- {said}; echo $#'], capture_output=True, text=True
    ).stdout.strip() == str(len(words))


def test_nothing_goes_through_a_shell():
    "No process of the library is started with a shell or with one string of words"
    for p in (ROOT / 'ff_nbdev').rglob('*.py'):
        for n in ast.walk(ast.parse(p.read_text())):
            if not isinstance(n, ast.Call):
                continue
            name = ast.unparse(n.func)
            assert (
                name
                not in ('os.system', 'os.popen', 'subprocess.getoutput', 'eval', 'exec', 'pickle.load', 'pickle.loads')
                or p.name == '_modidx.py'
            ), (p.name, name)
            if name.startswith('subprocess.'):
                assert not [k for k in n.keywords if k.arg == 'shell'], p.name
                assert not n.args or not isinstance(n.args[0], (ast.Constant, ast.JoinedStr)), (p.name, ast.unparse(n))


# Damage

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3),
    max_leaves=6,
)
SETTINGS = st.dictionaries(
    st.sampled_from(
        [
            'runs',
            'given',
            'trained',
            'models',
            'corpus',
            'seeds',
            'scale',
            'variants',
            'shipped',
            'retrofit',
            'report',
            'threads',
            'not_run',
            'config',
        ]
    ),
    PLAIN,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=60)
    | SETTINGS.map(lambda d: json.dumps(d).encode())
    | PLAIN.map(lambda d: json.dumps(d).encode())
)
def test_any_run_json_is_read_or_refused_in_one_sentence(tmp_path, data):
    (tmp_path / 'run.json').write_bytes(data)
    try:
        s = settings_of(tmp_path)
    except ValueError as e:
        assert 'run.json' in one_sentence(e)
        return
    assert all(re.fullmatch(r'[^\W~][\w.~+=-]*', r) for r in s.get('runs') or [])
    command_for(tmp_path / 'base')


@pytest.mark.parametrize('name', ['evaluation.json', 'train.json', 'evaluation.npz', 'bands.npz'])
def test_a_damaged_file_is_named(tmp_path, name):
    "Cut off at many places, with a byte changed, and of another kind; what is read in spite of it has the same shape"
    folder = example_runs(tmp_path / 'quick', ['full_stack']) / 'full_stack'
    whole = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    cases = [whole[:k] for k in (0, 1, 10, len(whole) // 2, len(whole) - 3)] + [
        b'null',
        b'[]',
        b'PK\x03\x04',
        b'\x80\x04]\x94.',
        b'\xff' * 100,
    ]
    for k in rng.integers(len(whole), size=8):
        cases.append(whole[:k] + bytes([whole[k] ^ 255]) + whole[k + 1 :])
    refused = 0
    for data in cases:
        (folder / name).write_bytes(data)
        try:
            load_run(folder)
        except ValueError as e:
            refused += name in one_sentence(e)
    assert refused >= 15, refused


@pytest.mark.parametrize('lost', ['clean', 'floors.zero', 'signatures', 'robustness.threshold', 'spatial'])
def test_a_record_without_an_entry_is_refused_before_the_report(tmp_path, lost):
    folder = a_run(tmp_path / 'quick', ['base', 'full_stack'])
    path = folder / 'full_stack' / 'evaluation.json'
    told = json.loads(path.read_text())
    inner = told
    for k in lost.split('.')[:-1]:
        inner = inner[k]
    del inner[lost.split('.')[-1]]
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=f'evaluation.json is no record of this version: it lacks {lost}') as e:
        report.write_report(folder)
    one_sentence(e.value)


def test_records_of_another_kind_are_one_sentence(tmp_path, brief):
    folder = a_run(tmp_path / 'quick', ['base', 'full_stack'])
    path = folder / 'full_stack' / 'evaluation.json'
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | dict(signatures={'16:16': {}})))
    with pytest.raises(ValueError, match='are not those of this version') as e:
        report.write_report(folder)
    one_sentence(e.value)
    assert not (folder / 'report.html').exists()


# Full disks, and writers that were killed


@pytest.fixture
def full(monkeypatch):
    "Whatever is written beside a file goes to a device that is full"
    plain = files.part_of

    def to_full(path):
        part = plain(path)
        part.symlink_to('/dev/full')
        return part

    monkeypatch.setattr(files, 'part_of', to_full)


WRITERS = dict(
    text=lambda p: files.write_whole(p, 'x' * 100),
    record=lambda p: save_json(dict(a=list(range(99))), p),
    arrays=lambda p: files.save_arrays(p, a=np.zeros(999)),
    lean=lambda p: publish.write_lean(dict(a=1), p),
)


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='a device of Linux')
@pytest.mark.parametrize('kind', WRITERS)
def test_a_full_disk_names_path_and_room(tmp_path, full, kind):
    path = tmp_path / 'record.json'
    path.write_text('old')
    with pytest.raises(OSError, match='record.json could not be written, for the disk is full') as e:
        WRITERS[kind](path)
    said = one_sentence(e.value)
    assert str(path) in said and re.search(r'[\d.,]+ MiB are left in', said) and e.value.errno == errno.ENOSPC
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['record.json']


def test_a_full_disk_while_a_report_is_written(tmp_path, monkeypatch, brief):
    folder = a_run(tmp_path / 'quick', ['base'])
    report_before = folder / 'report.html'
    report_before.write_text('old')
    monkeypatch.setattr(
        Path, 'write_bytes', lambda self, data: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'No space left on device'))
    )
    with pytest.raises(OSError, match='report.html could not be written, for the disk is full'):
        report.write_report(folder)
    assert report_before.read_text() == 'old' and not [p for p in folder.iterdir() if p.name.startswith('.')]


@pytest.mark.parametrize(
    'error, said',
    [
        (PermissionError(errno.EACCES, 'denied'), 'it may not be written'),
        (OSError(errno.EROFS, 'ro'), 'its disk is read-only'),
        (OSError(errno.EDQUOT, 'quota'), 'the disk is full'),
        (
            RuntimeError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })'),
            'the disk is full',
        ),
    ],
)
def test_other_failures_of_a_write_are_one_sentence_too(tmp_path, error, said):
    with pytest.raises(OSError, match=said) as e:
        with files.writing(tmp_path / 'model'):
            raise error
    assert str(tmp_path / 'model') in one_sentence(e.value)
    if isinstance(error, OSError):
        assert isinstance(e.value, type(error))


def test_what_is_no_failure_of_a_disk_stays_what_it_is(tmp_path):
    for error in (ValueError('a mistake'), KeyboardInterrupt(), OSError('a sentence already.')):
        with pytest.raises(type(error)) as e:
            with files.writing(tmp_path / 'model'):
                raise error
        assert e.value is error


HALF = """
import sys, time
from ff_nbdev.core.io import whole
with whole(sys.argv[1]) as part:
    part.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_killed_writers_are_swept_and_living_ones_are_not(tmp_path, brief):
    "A writer that is killed in the middle, one that lives, and the next report"
    folder = a_run(tmp_path / 'quick', ['base'])
    words = [sys.executable, '-c', HALF, str(folder / 'report.html')]
    writers = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for w in writers:
            assert w.stdout.readline() == 'ready\n'
        os.kill(writers[0].pid, signal.SIGKILL)
        writers[0].wait()
        assert len(list(folder.glob('.report.html.part-*'))) == 2
        gone = files.sweep(folder)
        assert len(gone) == 1 and gone[0].endswith(f'-{writers[0].pid}')
        assert len(list(folder.glob('.report.html.part-*'))) == 1
    finally:
        for w in writers:
            w.kill()
            w.wait()
    report.write_report(folder)
    assert not list(folder.glob('.report.html*')) and (folder / 'report.html').exists()


def test_leftovers_of_every_form_and_nothing_else(tmp_path):
    gone, here = dead(), os.getpid()
    left = [
        f'.run.json.{gone}',
        f'.text.json.part{gone}',
        f'.bands.npz.part-{files._here()}-{gone}',
        f'base/.train.json.{gone}',
        f'corpus.part{gone}/a.txt',
    ]
    stay = [
        f'.run.json.{here}',
        f'.bands.npz.part-{files._here()}-{here}',
        '.bands.npz.part-elsewhere-1',
        f'wiki.part{gone}',
        'notes.2024',
        f'.notes.{gone}',
        'run.json',
        '.lock',
    ]
    for name in left + stay:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('x')
    assert len(files.sweep(tmp_path, deep=True)) == len(left)
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('*') if p.is_file()} == set(stay)
    os.utime(tmp_path / '.bands.npz.part-elsewhere-1', (time.time() - 9e5,) * 2)
    assert files.sweep(tmp_path) == ['.bands.npz.part-elsewhere-1']


# Pages, wherever they are opened


def code_cells(nb):
    return [''.join(c['source']) for c in json.loads(nb.read_text())['cells'] if c['cell_type'] == 'code']


@pytest.mark.parametrize('nb', [p for p in NOTEBOOKS if page(p) != 'study/site'], ids=page)
def test_no_page_looks_for_files_from_where_it_is_opened(nb):
    for source in code_cells(nb):
        try:
            tree = ast.parse(re.sub(r'^[%!].*$', 'pass', source, flags=re.M))
        except SyntaxError:
            continue
        for n in ast.walk(tree):
            if not isinstance(n, ast.Constant) or not isinstance(n.value, str):
                continue
            assert not re.match(r'\.\./(\.\./)*(results|runs|nbs|tests|ff_nbdev|requirements)\b', n.value), n.value
            assert not re.match(r'(\./)?results/\w', n.value) or page(nb).startswith('study/'), n.value


@pytest.mark.parametrize('name', ['experiments/curves', 'evidence/space', 'evidence/disturbance'])
def test_pages_work_from_any_folder(name, tmp_path, monkeypatch):
    "A copy in another folder, run there as nbdev runs pages; of long pages, up to the cell that reads the records"
    from nbdev.test import test_nb as run_nb

    nb = json.loads((ROOT / 'nbs' / f'{name}.ipynb').read_text())
    last = next(
        (i for i, c in enumerate(nb['cells']) if c['cell_type'] == 'code' and 'results_folder(' in ''.join(c['source']))
    )
    if name.startswith('evidence'):
        nb['cells'] = nb['cells'][: last + 1]
    copy = tmp_path / 'deep' / 'er' / Path(f'{name}.ipynb').name
    copy.parent.mkdir(parents=True)
    copy.write_text(json.dumps(nb))
    monkeypatch.setenv('IN_TEST', '1')
    monkeypatch.chdir(tmp_path)
    ok, _ = run_nb(copy, skip_flags=['slow', 'gpu'], cell_timeout=120)
    assert ok and {p.name for p in tmp_path.rglob('*')} == {'deep', 'er', copy.name}


def test_a_smoke_run_lands_in_the_checkout_and_not_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        provenance.smoke_folder('x') == ROOT / 'runs' / 'smoke' / 'x'
        and provenance.results_folder('night') == ROOT / 'results' / 'night'
    )
    monkeypatch.setattr(provenance, '_repository', lambda: None)  # an installed package
    assert provenance.smoke_folder('x') == tmp_path / 'runs' / 'smoke' / 'x'
    with pytest.raises(FileNotFoundError, match='in the repository and not in the installed package'):
        provenance.results_folder('night')


def test_committed_records_still_load(monkeypatch):
    monkeypatch.setattr('ff_nbdev.study.records.command_for', None)  # slow, and for a refused record alone
    runs = load_runs(provenance.results_folder('night'))
    assert len(runs.every) > 60 and settings_of(provenance.results_folder('night'), publish.NEEDS)


def test_records_share_no_list_and_say_what_is_refused():
    one, other = TrainRecord.from_dict({}), TrainRecord.from_dict(dict(log=None))
    assert vars(one).keys() == vars(TrainRecord()).keys() and one.log == other.log == [] and one.log is not other.log
    with pytest.raises(ValueError, match=r'^its log\[1\]\.ce is yes or no, and a number belongs there$'):
        TrainRecord.from_dict(dict(log=[dict(ce=1), dict(ce=True)]))
    with pytest.raises(ValueError, match=r'^its log\[0\] is a number, and named entries belongs there$'):
        TrainRecord.from_dict(dict(log=(1.0,)))


def test_arrays_are_those_of_numpy(tmp_path):
    grid = np.arange(12.0).reshape(3, 4)
    given = dict(a=grid, b=np.asfortranarray(grid), c=np.array('é'), d=np.zeros((0, 3), 'i2'), e=np.array(7))
    files.save_arrays(tmp_path / 'x.npz', **given)
    found, wanted = files.read_arrays(tmp_path / 'x.npz'), dict(np.load(tmp_path / 'x.npz'))
    for name, array in wanted.items():
        own = found.pop(name)
        np.testing.assert_array_equal(own, array)
        assert own.dtype == array.dtype and own.flags.writeable and own.flags.fnc == array.flags.fnc, name
    assert not found
    np.savez(tmp_path / 'y.npz', a=np.array([{}], object))
    with pytest.raises(ValueError, match='pickled objects'):
        files.read_arrays(tmp_path / 'y.npz')


@pytest.mark.parametrize(
    'text, number, said',
    [
        ('[Errno 28] Kein Platz', errno.ENOSPC, 'for the disk is full: .* MiB are left in'),
        ("[Errno 13] Permission denied: 'b'", errno.EIO, "for .*Permission denied: 'b': give another place"),
    ],
)
def test_a_folder_that_could_not_be_copied_says_why_in_one_sentence(tmp_path, text, number, said):
    with pytest.raises(OSError, match=f'end could not be written, {said}') as e, files.whole(tmp_path / 'end'):
        raise shutil.Error([('a', 'b', text), ('c', 'd', text)])
    assert e.value.errno == number and '(' not in one_sentence(e.value) and not list(tmp_path.iterdir())
