"""The command line: what it says to mistakes; a whole run of a tiny graph, stopped in every way and started again."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, evaluated, left_by_a_run
from shared import fake_words
from test_runner import until

RECIPES = ['base', 'base_reordered', 'base_continued', 'no_fzr', 'full_stack']
TRAINED = RECIPES[2:]


def ff(*words, **kw):
    return subprocess.run(
        [sys.executable, '-m', 'ff_nbdev.cli', *map(str, words)], capture_output=True, text=True, **kw
    )


def said_by(r, status=0):
    assert r.returncode == status, r.stdout + r.stderr
    return r.stdout + r.stderr


@pytest.fixture(scope='module')
def go(planned):
    "What a command says, in a fork that starts Snakemake in another; the nodes are processes of their own as ever"

    def ask(words, env, *more, status=0):
        return said_by(planned(*words[2:], *more, env=env, cwd=ROOT), status)

    return ask


def trained(out):
    return {
        a: json.loads((out / a / 'train.json').read_text())['time']
        for a in RECIPES
        if (out / a / 'train.json').exists()
    }


@pytest.mark.parametrize(
    'words, said',
    [
        (['rnu'], "did you mean 'run'?"),
        (['run', 'quik'], "did you mean 'quick'?"),
        (['run', '--corpsu', 'x'], "did you mean '--corpus'?"),
        (['run', '--arms', 'full_stak'], "did you mean 'full_stack'?"),
        (['run', '--corpus', 'no/such.txt'], "No text at 'no/such.txt'"),
        (['run', '--jobs', '0'], 'at least 1'),
        (['run', '--set', 'x=1'], 'retrofit.total_sentences=1000'),
        (['run', '--seed', 'one'], 'invalid int'),
        (['report', 'no/such'], 'holds no run'),
        (['notebook', 'no.ipynb', 'out.ipynb'], 'There is no notebook no.ipynb'),
        (['run', 'quick', 'more'], 'one word too many'),
    ],
)
def test_mistakes_are_answered_in_one_sentence(words, said, tmp_path):
    r = ff(*words, cwd=tmp_path)
    assert (
        r.returncode == 2
        and said in r.stderr
        and r.stderr.count('\n') == 1
        and 'Traceback' not in r.stderr
        and not r.stdout
    )
    assert not list(tmp_path.iterdir())  # nothing was made


def test_mistaken_folders_and_texts(fake, tmp_path, ff_nbdev_run, go):
    words, env, out = ff_nbdev_run
    empty = tmp_path / 'empty.txt'
    empty.write_text('')
    assert 'is empty' in ff('run', '--corpus', empty, '--out', out).stderr
    out.mkdir()
    (out / 'letter.txt').write_text('mine')
    assert 'not of a run' in go(words, env, status=2) and [p.name for p in out.iterdir()] == ['letter.txt']
    assert 'is a file' in go(words, env, '--out', str(empty), status=2)
    assert 'lacks teacher.ipynb' in go(
        words, env, '--notebooks', str(tmp_path), '--out', str(tmp_path / 'new'), status=2
    )


def test_help_teaches():
    for words in [[], ['--help'], ['run', '--help']]:
        r = ff(*words)
        assert r.returncode == 0 and 'examples:' in r.stdout and 'ff-nbdev run quick' in r.stdout

    def spent():
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])  # by processors: others may be at work

    before = spent()
    ff('--help')
    assert spent() - before < 1.5


def test_a_run_and_what_it_keeps(ff_nbdev_run, planned, go):
    words, env, out = ff_nbdev_run
    words = [*words, '--arms', 'base', 'full_stack']

    def would(*more):
        r = planned(*words[2:], '--dry-run', *more, env=env)
        assert r.returncode == 0, r.stdout + r.stderr
        return r.stdout

    said = said_by(subprocess.run(words, env=env, capture_output=True, text=True, timeout=240))  # as users start it
    assert 'Found at scale quick, on text.txt, seed 0:\n  - 2 arms were evaluated.' in said and said.rstrip().endswith(
        f'Report: {out}/report.html'
    )
    assert 'retrofit full_stack: done in' in said and not (out / 'no_fzr').exists()
    assert '\r' not in said and '\x1b' not in said  # no terminal: plain lines
    assert not list(out.rglob('*.part.ipynb'))
    first = trained(out)
    assert 'Everything is up to date' in go(words, env) and trained(out) == first
    assert 'up to date' in go(words, env, '--dry-run')
    (out / 'full_stack' / 'evaluation.json').unlink()  # half-finished: only what is missing is done
    assert 'Would run: 1 x evaluate, 1 x report.' in would()
    go(words, env)
    assert trained(out) == first
    again = 'Would run: 1 x teacher, 1 x alternatives, 1 x retrofit, 2 x evaluate, 1 x report.'
    assert again in would('--seed', '1')  # other parameters: all again
    r = planned('ff_nbdev.cli', 'report', out, '--notebooks', words[words.index('--notebooks') + 1])
    assert r.returncode == 0 and '2 arms were evaluated' in r.stdout, r.stderr
    (out / 'base' / 'evaluation.json').unlink()
    r = planned('ff_nbdev.cli', 'report', out)
    assert r.returncode == 1 and 'half-finished (base not evaluated)' in r.stderr


def test_a_variant_is_an_arm_in_a_folder_of_its_own(ff_nbdev_run, go):
    words, env, out = ff_nbdev_run
    words = ['night' if w == 'quick' else w for w in words] + ['--model', 'rwkv=tiny-rwkv']
    left_by_a_run(out, 'night', **evaluated('base'))
    said = go(words, env, '--arms', 'base', 'no_fzr~dose_3')
    assert 'retrofit no_fzr~dose_3: done in' in said and '2 arms were evaluated' in said
    assert json.loads((out / 'no_fzr~dose_3' / 'train.json').read_text())['arm'] == 'no_fzr'
    assert json.loads((out / 'run.json').read_text())['runs'] == ['base', 'no_fzr~dose_3']
    assert "did you mean 'no_fzr~dose_3'?" in go(words, env, '--arms', 'no_fzr~doze_3', status=2)


@pytest.fixture
def settings_of(fake, tmp_path, monkeypatch):
    "Arms of the night → the settings of their run"
    from ff_nbdev import cli

    got = []
    monkeypatch.setattr(cli, 'format_plan', lambda settings, *a: got.append(settings.to_dict()) or '')
    monkeypatch.setenv('FF_NBDEV_CACHE', str(fake / 'cache'))

    def ask(*arms):
        words = ['run', 'night', '--dry-run', '--corpus', str(fake / 'text.txt'), '--out', str(tmp_path), '--arms']
        cli.main([*words, *arms])
        return got[-1]

    return ask


@pytest.fixture
def plan(planned, tmp_path):
    "What Snakemake says of settings, when it is called as a run calls it, to plan only"
    from ff_nbdev.run.graph import snakemake_command

    def ask(settings, *words):
        (tmp_path / 'run.json').write_text(json.dumps(settings))
        command = snakemake_command(tmp_path, tmp_path / 'run.json', 'local', 1, dry=True)
        assert command[:3] == [sys.executable, '-m', 'snakemake']
        return planned(*command[2:], *words)

    return ask


@pytest.fixture
def commands(settings_of, plan):
    "Arms of the night → the command of each node, as Snakemake prints it"

    def ask(*arms):
        r = plan(settings_of(*arms), '--printshellcmds')
        assert r.returncode == 0, r.stdout + r.stderr
        return {m[1]: l for l in (r.stdout + r.stderr).splitlines() if (m := re.search('--node "(.*?)"', l))}

    return ask


def test_a_variant_may_be_evaluated_in_its_own_way(commands):
    "What stands under `evaluate` in a variant reaches its evaluation and nothing else"
    line = commands('full_stack~size_5', 'no_fzr~dose_3')
    assert (
        '-p wide all' in line['evaluate full_stack~size_5']
        and '-p wide none' in line['evaluate no_fzr~dose_3']
        and 'wide' not in line['retrofit full_stack~size_5']
    )


def test_a_control_is_made_as_quiet_as_the_arm_beside_it(commands):
    "… of its own seed, where that runs too, and the other way round"
    line = commands('base_continued', 'full_stack', 'rwkv_base_continued')
    assert (
        '-p quiet_like full_stack/model' in line['evaluate base_continued']
        and '-p quiet_like base_continued/model' in line['evaluate full_stack']
        and 'quiet_like' not in line['evaluate rwkv_base_continued']
    )


def test_an_arm_may_have_settings_of_its_own(commands):
    "… and no other arm has them"
    line = commands('rwkv_from_scratch', 'rwkv_from_scratch_base', 'from_scratch')
    assert all(
        '-p rate 0.004' in line[f'retrofit {a}'] and '-p total_sentences 100000' in line[f'retrofit {a}']
        for a in ('rwkv_from_scratch', 'rwkv_from_scratch_base')
    )
    assert 'rate' not in line['retrofit from_scratch'] and 'rate' not in line['evaluate rwkv_from_scratch']


@pytest.mark.parametrize(
    'key, said',
    [
        (dict(retrofit_from_scrach=dict(rate=0.1)), 'there is no recipe from_scrach'),
        (dict(retrofit_no_fzr=dict(model='tiny-mt5')), 'no_fzr~other'),
    ],
)
def test_settings_of_no_arm_stop_the_run_before_it_starts(key, said, settings_of, plan):
    r = plan(settings_of('no_fzr') | key)
    assert r.returncode and said in r.stdout + r.stderr and 'Traceback' not in r.stdout + r.stderr, r.stdout + r.stderr


@pytest.mark.parametrize(
    'more, said',
    [
        ([], '1 x text, 6 x shipped, 1 x retrofit, 10 x evaluate, 1 x report'),
        (['--seed', '1'], '1 x text, 1 x teacher, 1 x alternatives, 3 x retrofit, 5 x evaluate'),
        (['--set', 'retrofit.dose=1.0'], '3 x retrofit'),
        (['--set', 'evaluate.brief=false'], '6 x shipped'),
        (['--arms', 'base', 'base_continued'], '1 x text, 1 x retrofit, 2 x evaluate'),
    ],
)
def test_shipped_arms_are_evaluated_and_others_trained(more, said, planned, tmp_path):
    r = planned('ff_nbdev.cli', 'run', 'quick', '--dry-run', '--out', tmp_path / 'quick', *more)
    assert r.returncode == 0 and said in r.stdout, r.stdout + r.stderr


def night_words(fake, tmp_path):
    "The words of a dry run of the study of widths, and its environment"
    words = ['ff_nbdev.cli', 'run', 'night', '--dry-run', '--corpus', fake / 'text.txt', '--out', tmp_path / 'night']
    return words, dict(os.environ, FF_NBDEV_CACHE=str(fake / 'cache'))


def test_a_base_of_another_width_is_made_first(fake, planned, tmp_path):
    words, env = night_words(fake, tmp_path)
    r = planned(*words, '--arms', 'base_continued~width_512', 'no_fzr~width_512', env=env)
    assert r.returncode == 0 and '1 x text, 1 x pretrain, 1 x teacher, 1 x alternatives, 2 x retrofit' in r.stdout, (
        r.stdout + r.stderr
    )


def test_a_base_of_another_width_has_the_vocabulary_of_the_run(fake, planned, tmp_path):
    "Asked for by name it is refused; else it is left out, and that is said"
    words, env = night_words(fake, tmp_path)
    words += ['--model', 'mt5=tiny-mt5']
    r = planned(*words, '--arms', 'no_fzr~width_512', env=env)
    assert r.returncode == 2 and 'and tiny-mt5 has another' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    r = planned(*words, '--all', env=env)
    assert (
        r.returncode == 0
        and 'Left out: base_continued~width_512' in r.stdout
        and 'pretrain' not in r.stdout.split('Would run')[1]
    ), r.stdout + r.stderr


def test_a_text_and_a_run_may_have_any_names(fake, planned, tmp_path):
    "Spaces, quotes, braces and patterns, as a shell would give them"
    odd = tmp_path / 'a b' / 'ü\'n "q" {x} [1]*'
    odd.mkdir(parents=True)
    shutil.copy(fake / 'text.txt', odd / "té'xt {1}.txt")
    words = fake_words(fake, '--dry-run', '--corpus', str(odd / "té'xt {1}.txt"), '--out', str(odd / 'o ut'))
    r = planned('ff_nbdev.cli', *words, env=dict(os.environ, FF_NBDEV_CACHE=str(tmp_path / 'cache {x}')))
    assert r.returncode == 0 and 'Would run: 1 x text' in r.stdout, r.stderr


def test_a_shipped_arm_is_laid_into_a_folder(tmp_path):
    r = ff('shipped', 'tiny-mt5-full_stack', '--out', tmp_path / 'full_stack')
    assert r.returncode == 0, r.stderr
    assert (
        json.loads((tmp_path / 'full_stack' / 'train.json').read_text())['arm'] == 'full_stack'
        and (tmp_path / 'full_stack' / 'model' / 'config.json').exists()
        and not (tmp_path / 'full_stack' / 'model' / 'bands.npz').exists()
    )
    r = ff('shipped', 'tiny-mt5-ful_stack', '--out', tmp_path / 'x')
    assert r.returncode == 2 and "did you mean 'tiny-mt5-full_stack'?" in r.stderr and not (tmp_path / 'x').exists()


def test_unknown_and_ill_typed_parameters_stop_the_run_before_it_starts(ff_nbdev_run, go):
    words, env, out = ff_nbdev_run
    for setting, text in [
        ('evaluate.secnods=1', "did you mean 'seconds'?"),
        ('report.runs=3', "must be str"),
        ('retrofit.seconds=many', 'must be float'),
    ]:
        said = go(words, env, '--set', setting, status=2)
        assert text in said and 'Traceback' not in said and not (out / 'base_continued').exists(), said


def test_a_failing_node_is_told_in_one_sentence(ff_nbdev_run, fake, tmp_path, go):
    words, env, out = ff_nbdev_run
    left_by_a_run(out)
    said = go(words, env, '--arms', 'base', '--set', 'evaluate.seconds=-1.0', status=1)
    last = said.strip().splitlines()[-1]
    assert (
        last.startswith('ff-nbdev: evaluate ')
        and 'ValueError: sleep length must be non-negative' in last
        and 'snakemake.log' in last
        and 'Traceback' not in said
    )


@pytest.mark.parametrize('who', ['everything', 'command', 'snakemake'])
def test_killed_and_started_again(ff_nbdev_run, who, go):
    "kill -9, whoever it hits: nothing works on, and the same command finishes"
    words, env, out = ff_nbdev_run
    left_by_a_run(out)
    slow = [
        '--set',
        'evaluate.seconds=2.0',
        '--arms',
        'base',
        'base_reordered',
    ]  # two nodes at a time, and nothing before them
    p = subprocess.Popen([*words, *slow], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: any(json.loads(f.read_text()).get('done', 0) >= 3 for f in out.glob('*/*progress.json')))
    snakemake = children(p.pid)
    assert len(snakemake) == 1
    if who != 'snakemake':
        p.kill()
    if who != 'command':
        os.kill(snakemake[0], signal.SIGKILL)
    p.wait(timeout=30)
    assert not list(out.glob('*/evaluation.json'))
    said = go(words, env, *slow)
    assert '2 arms were evaluated' in said
    assert not list(out.rglob('*.part.ipynb'))


def test_two_runs_in_one_folder_are_refused(ff_nbdev_run, go):
    words, env, out = ff_nbdev_run
    left_by_a_run(out)
    p = subprocess.Popen(
        [*words, '--set', 'retrofit.seconds=60.0'],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: any(out.glob('*/*progress.json')))
    said = go(words, env, status=1)
    assert f'is at work already (process {p.pid})' in said
    p.terminate()
    assert p.wait(timeout=30) == 130 and 'goes on from what is done' in p.stderr.read()
    until(lambda: not running(out), 20)  # nothing is left behind


def test_terminal_shows_bars(ff_nbdev_run):
    pty = pytest.importorskip('pty')
    words, env, out = ff_nbdev_run
    left_by_a_run(out)
    seen = []
    import select

    pid, fd = pty.fork()
    if pid == 0:
        os.execve(words[0], [*words, '--arms', 'base'], dict(env, TERM='xterm'))
    while True:
        try:
            data = os.read(fd, 4096)
        except OSError:
            break
        if not data:
            break
        seen.append(data)
    text = b''.join(seen).decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (
        'evaluate base' in text
        and '━' in text
        and '\x1b[' in text
        and '100 %' in text
        and 'Report:' in text.splitlines()[-1]
    )


def children(pid):
    with open(f'/proc/{pid}/task/{pid}/children') as f:
        return [int(x) for x in f.read().split()]


def running(out):
    "Processes that work in a run's folder"
    found = []
    for p in os.listdir('/proc'):
        if not p.isdigit():
            continue
        try:
            cwd = os.readlink(f'/proc/{p}/cwd')
        except OSError:
            continue
        if cwd.startswith(str(out)):
            found.append(p)
    return found


STOPS_ONCE = '''rows = Path(out, "shards", "rows")
rows.parent.mkdir(parents=True, exist_ok=True)
if not rows.exists():
    rows.write_text("half")
    raise RuntimeError("stopped here")
Path(out, "closeness.json").write_text("{}")'''


def test_what_a_stopped_writing_of_alternatives_left_is_kept(fake, ff_nbdev_run, tmp_path, go):
    words, env, out = ff_nbdev_run
    nbs = tmp_path / 'nbs'
    shutil.copytree(fake / 'experiments', nbs)
    nb = json.loads((nbs / 'alternatives.ipynb').read_text())
    cells = [c for c in nb['cells'] if c['cell_type'] == 'code']
    cells[-1]['source'] = STOPS_ONCE
    (nbs / 'alternatives.ipynb').write_text(json.dumps(nb))
    words = [w if w != str(fake / 'experiments') else str(nbs) for w in words] + ['--arms', 'base', 'full_stack']
    left_by_a_run(out, **{'teacher/model/weights': 'teacher', 'teacher/teacher.json': '{}'}, **evaluated('base'))
    assert (
        'stopped here' in go(words, env, status=1) and (out / 'alternatives' / 'shards' / 'rows').read_text() == 'half'
    )
    go(words, env)
    assert (out / 'alternatives' / 'shards' / 'rows').read_text() == 'half' and (out / 'report.html').exists()


@pytest.mark.parametrize(
    'words, retrofits',
    [
        (['topoloss'], 2),
        (['rwkv_topolm', 'rwkv_full_stack'], 2),
        (['topoloss', '--set', 'retrofit.strength=0.5'], 1),
        (['topolm', '--set', "retrofit.match=''"], 1),
    ],
)
def test_a_rival_brings_the_arm_that_it_is_matched_with(words, retrofits, fake, planned, tmp_path):
    "The graph with the real notebooks, only planned; with a fixed strength there is nothing to wait for"
    r = planned(
        'ff_nbdev.cli',
        'run',
        'quick',
        '--corpus',
        fake / 'text.txt',
        '--out',
        tmp_path / 'run',
        '--dry-run',
        '--arms',
        *words,
        env=dict(os.environ, FF_NBDEV_CACHE=str(fake / 'cache')),
    )
    assert r.returncode == 0 and f'{retrofits} x retrofit, {retrofits} x evaluate' in r.stdout, r.stdout + r.stderr
    assert ('1 x teacher' in r.stdout) == (retrofits == 2)  # full_stack forgives, a rival does not


def test_a_folder_that_goes_while_it_is_looked_through_is_no_error(tmp_path, monkeypatch):
    from ff_nbdev.run.monitor import progress_files

    for d in ('base', 'gone', '.snakemake/log'):
        (tmp_path / d).mkdir(parents=True)
    for d in ('base', '.snakemake/log'):
        (tmp_path / d / 'evaluate.progress.json').write_text('{}')
    real = os.scandir

    def scandir(path):
        if os.path.basename(path) == 'gone':
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    assert [p.parent.name for p in progress_files(tmp_path)] == ['base']


def run_cells(notebook, given):
    "The code of a notebook in this process, with other parameters, up to its first error"
    space = {}
    for cell in json.loads(notebook.read_text())['cells']:
        if cell['cell_type'] != 'code':
            continue
        exec(''.join(cell['source']), space)
        if 'parameters' in cell['metadata'].get('tags', ()):
            space.update(given)


def test_a_base_whose_blocks_are_learned_anew(fake, tmp_path, monkeypatch):
    "Another width, everything else goes on from where it was; a model of another kind is refused before any work"
    from ff_nbdev.models.sites import find_sites
    from ff_nbdev.models.tiny import load_pretrained

    monkeypatch.setenv('FF_NBDEV_CACHE', str(fake / 'cache'))
    notebook, out = ROOT / 'nbs' / 'experiments' / 'pretrain.ipynb', tmp_path / 'out'
    given = dict(corpus=str(fake / 'text.txt'), d_ff=96, steps=3, batch=2, out=str(out))
    with pytest.raises(ValueError, match='is of type rwkv, and arch says mt5'):
        run_cells(notebook, given | dict(start='tiny-rwkv'))
    assert not (out / 'model').exists()
    words = [word for name, value in given.items() for word in ('-p', name, value)]
    r = ff('notebook', notebook, tmp_path / 'pretrain.ipynb', *words, '-p', 'start', 'tiny-mt5')
    assert r.returncode == 0, r.stdout + r.stderr
    (new, _), (old, _) = (load_pretrained(m) for m in (out / 'model', 'tiny-mt5'))
    card = (out / 'model' / 'README.md').read_text()
    assert {s.d_ff for s in find_sites(new)} == {96} and (
        new.shared.weight - old.shared.weight
    ).abs().max() < 0.02 < old.shared.weight.abs().max()
    assert 'learned anew' in card and '-p start tiny-mt5' in card and '-p size' not in card and 'vocab_size' not in card
