"""What the command line answers to what no table lists: odd words, odd files, full disks, dead writers."""

import errno
import io
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest
from shared import SCALE, run_words
from test_wrong_inputs import check_sentence, snapshot

from ff_nbdev import cli
from ff_nbdev.cli import main
from ff_nbdev.run import nodes, parameters, runner, settings
from ff_nbdev.run.launch import failure
from ff_nbdev.run.monitor import RunMonitor
from ff_nbdev.run.progress import Progress

FUZZ_CASES = 250
HOST = re.sub(r'\W+', '', platform.node())[:30] or 'here'


def answer(words):
    "(exit status, what was printed, what stood on stderr)"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(list(map(str, words)))
        except SystemExit as e:
            status = e.code
    return status, out.getvalue(), err.getvalue()


def words_of_a_run(fake, out):
    "A run of the fake graph"
    given = dict(corpus='text.txt', model='tokenizer', notebooks='experiments')
    options = [word for name, file in given.items() for word in (f'--{name}', fake / file)]
    return ['run', 'quick', *options, '--out', out, '--plain']


# A small fuzz: right words and right files with something in them changed

ODD = [
    None,
    True,
    -1,
    0,
    3,
    2**70,
    1.5,
    float('inf'),
    '',
    ' ',
    'x',
    '../x',
    '/',
    'ä',
    '\x00',
    '\ud800',
    '[',
    [],
    [[]],
    [3],
    {},
    {'a': 3},
    {'': None},
    'x' * 400,
]
WORDS = [
    '',
    ' ',
    '-',
    '--',
    '=',
    '..',
    '../x',
    '/',
    '~',
    '*',
    '[',
    'x' * 300,
    'ä',
    '\n',
    '\x07',
    '0',
    '-1',
    '1e9',
    'nan',
    'None',
    '{}',
    'a=b',
    '~nobody/x',
    'a/b',
    'a b',
    "'",
    '$(ls)',
    ';ls',
    '%s',
    '{0}',
    'base',
    'quick',
    'tiny-mt5',
    'text.txt',
    'mine.yaml',
    'exp.ipynb',
    'm',
    'c',
    'run',
    'run/run.json',
    'nb',
    'prof',
    'empty',
    'fifo.txt',
]
NB = json.dumps(
    dict(
        cells=[
            dict(
                cell_type='code',
                id='a',
                source='steps: int = 3\nrate: float = 0.1',
                metadata=dict(tags=['parameters']),
                outputs=[],
                execution_count=None,
            ),
            dict(
                cell_type='code',
                id='b',
                source='from ff_nbdev.run.parameters import check_params\ncheck_params(globals(), positive=["steps"])',
                metadata={},
                outputs=[],
                execution_count=None,
            ),
        ],
        metadata=dict(kernelspec=dict(name='python3')),
        nbformat=4,
        nbformat_minor=5,
    )
)


COMMANDS = """
run quick --dry-run --corpus text.txt --out new
run mine.yaml --dry-run --corpus text.txt --out new
run quick --dry-run --corpus c --model m --out new
run quick --dry-run --corpus rows.jsonl --out run
run quick --dry-run --set retrofit.dose=1.0 --arms base full_stack --seeds 0 1 --corpus text.txt --out new
run quick --dry-run --profile ./prof --notebooks nb --jobs 2 --corpus text.txt --out new
notebook exp.ipynb new.ipynb -p steps 5 -p rate 0.5 -i text.txt --threads 1
notebook exp.ipynb new.ipynb --cwd c
text text.txt --model tiny-mt5 --out new.json
text c --model m
text rows.jsonl
shipped tiny-mt5-no_fzr --out new
report run
publish run --out new
bundle new.tar --model m --corpus c
"""


def commands(rng):
    "Right words of every command but docs"
    return rng.choice(COMMANDS.strip().splitlines()).split()


SPLITS = ('train', 'valid', 'test')
FILLED_SCALE = dict(
    SCALE,
    corpus='text.txt',
    minutes=dict(text=1),
    memory={},
    gpus={},
    retrofit=dict(dose=1.0),
    variants={'no_fzr~x': dict(dose=2.0)},
)


def files_of_commands():
    "Right files for them"
    text = '\n'.join(f'Line number {i} says something nice.' for i in range(30))
    corpus = dict(sentences=dict.fromkeys(SPLITS, 1), bytes=dict.fromkeys(SPLITS, 3), sha256='')
    settings = dict(FILLED_SCALE, runs=['base'], config='quick', notebooks=str(cli.notebooks_folder()))
    return {
        'text.txt': text,
        'rows.jsonl': '\n'.join(json.dumps(dict(text=l)) for l in text.split('\n')),
        'mine.yaml': json.dumps(FILLED_SCALE),
        'exp.ipynb': NB,
        'prof/config.yaml': json.dumps(dict(cores=2, executor='local')),
        'm/config.json': '{"model_type": "mt5"}',
        'm/model.safetensors': (2).to_bytes(8, 'little') + b'{}',
        'm/tokenizer.json': '{"model": {}, "added_tokens": []}',
        'c/corpus.json': json.dumps(corpus),
        'run/run.json': json.dumps(settings),
        'run/base/evaluation.json': '{}',
        'run/report.json': '{"findings": ["x"]}',
        **{f'c/{s}.txt': 'abc' for s in SPLITS},
        **{f'nb/{n}.ipynb': NB for n in ('teacher', 'alternatives', 'retrofit', 'evaluate', 'report')},
    }


def fill(folder):
    "Write them, and what else may lie in a folder"
    shutil.rmtree(folder, ignore_errors=True)
    files = files_of_commands()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / 'empty').mkdir()
    os.mkfifo(folder / 'fifo.txt')
    return sorted(files)


def bend(rng, x):
    "JSON with one place in it changed"
    if isinstance(x, (dict, list)) and x and rng.random() < 0.8:
        k = rng.choice(list(x) if isinstance(x, dict) else range(len(x)))
        if rng.random() < 0.25:
            return {a: b for a, b in x.items() if a != k} if isinstance(x, dict) else x[:k] + x[k + 1 :]
        return {**x, k: bend(rng, x[k])} if isinstance(x, dict) else [*x[:k], bend(rng, x[k]), *x[k + 1 :]]
    return rng.choice(ODD)


def flipped(rng, data):
    "One byte of fifty with a wrong bit"
    return bytes(b ^ (1 << rng.randrange(8)) if rng.random() < 0.02 else b for b in data)


DAMAGES = dict(
    cut=lambda rng, data: data[: rng.randrange(len(data))],
    flip=flipped,
    deep=lambda rng, data: b'[' * 20_000,
    empty=lambda rng, data: b'',
    bytes=lambda rng, data: rng.randbytes(200),
    other=lambda rng, data: b'{"a": [1, null]}',
)


def damage(rng, path):
    "Change a file: its JSON, some of its bytes, its kind, or take it away"
    how = rng.choice(['bend'] * 4 + [*DAMAGES, 'gone', 'folder', 'loop'])
    data = path.read_bytes()
    if how == 'bend' and path.suffix in ('.json', '.yaml', '.ipynb'):
        data = json.dumps(bend(rng, json.loads(data))).encode()
    elif how in DAMAGES:
        data = DAMAGES[how](rng, data)
    path.unlink()
    if how == 'folder':
        path.mkdir()
    elif how == 'loop':
        path.symlink_to(path.name)
    elif how != 'gone':
        path.write_bytes(data)


def mistype(rng, words):
    "Change one word, leave one out, or say one twice"
    i, how = rng.randrange(len(words)), rng.choice(['swap', 'swap', 'drop', 'twice', 'letter'])
    if how == 'swap':
        words[i] = rng.choice(WORDS)
    elif how == 'drop':
        del words[i]
    elif how == 'twice':
        words.insert(i, words[i])
    else:
        words[i] = words[i][:-1] + rng.choice('xä/. =')
    return words


@pytest.fixture
def still(monkeypatch):
    "Nothing is computed: what would be started after every check ends at once"
    from ff_nbdev.data import corpus

    monkeypatch.setattr(cli, 'format_plan', lambda *a: '')
    monkeypatch.setattr(cli, 'watch_run', lambda command, out, *a: (0, RunMonitor(out)))
    monkeypatch.setattr(nodes, '_encode', lambda *a: (cli.Path('c'), {}))
    monkeypatch.setattr(cli, 'run_notebook', lambda *a, **kw: None)
    monkeypatch.setattr(cli, 'bundle_command', lambda a: 0)
    monkeypatch.setattr(cli, 'publish_command', lambda a: 0)
    monkeypatch.setattr(runner, '_attempt', lambda *a: 0)
    monkeypatch.setattr(corpus, 'prose_versions', dict)


@pytest.mark.parametrize('seed', [0])
def test_whatever_is_changed_the_answer_is_a_sentence(seed, still, tmp_path, monkeypatch):
    "No traceback, nothing unexpected, nothing written when nothing was started"
    rng, here, refused = random.Random(seed), tmp_path / 'here', 0
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv('FF_NBDEV_CACHE', str(tmp_path / 'cache'))
    for tried in range(FUZZ_CASES):
        names, words = fill(here / 'x'), commands(rng)
        monkeypatch.chdir(here / 'x')
        os.unlink('fifo.txt')
        case = f'case {tried} of seed {seed}: {words}'
        if rng.random() < 0.6:
            damage(rng, here / 'x' / (name := rng.choice(names)))
            case += f' with {name} changed'
        if rng.random() < 0.6:
            words = mistype(rng, words)
            case += f' as {words}'
        before = snapshot(here / 'x')
        status, said, err = answer(words)
        assert status in (0, None, 1, 2), f'{case}: {status}'
        assert 'Traceback' not in said + err and 'An unexpected' not in err, f'{case}: {err}'
        if status:
            check_sentence(err.strip(), '')
            refused += 1
        if status == 2:
            assert snapshot(here / 'x') == before, case
        monkeypatch.chdir(here)
    assert FUZZ_CASES / 3 < refused < FUZZ_CASES


# The sentence of a node reaches the terminal


def log_of(*lines, rule='text', output='text.json', message='None'):
    "Snakemake's log of a node that failed"
    return [
        *lines,
        'RuleException:',
        'CalledProcessError in file "Snakefile", line 139:',
        "Command 'set -euo pipefail; …' returned non-zero exit status 2.",
        f'Error in rule {rule}:',
        f'    message: {message}',
        '    jobid: 3',
        f'    output: {output}',
        'Exiting because a job execution failed. Look above for error messages',
        'WorkflowError:',
        'At least one job did not complete successfully.',
    ]


def told(out, lines):
    w = RunMonitor(out, now=1)
    for l in ['job   count', '----- -----', 'text  1', 'total 1', '', *lines]:
        w.read(l)
    return failure(w, out)


@pytest.mark.parametrize(
    'rule', ['text', 'shipped', 'pretrain', 'teacher', 'alternatives', 'retrofit', 'evaluate', 'report']
)
def test_the_sentence_in_the_log_is_told(rule, tmp_path):
    said = told(tmp_path, log_of('ff-nbdev: book.txt, line 301: it holds a number.', rule=rule))
    assert said.startswith('book.txt, line 301: it holds a number. The log is') and 'RuleException' not in said


def test_a_sentence_is_told_once(tmp_path):
    Progress(tmp_path / 'text.progress.json', 'text', every=0).update(0, 1, 'book.txt is empty.', 'failed')
    assert told(tmp_path, log_of('ff-nbdev: book.txt is empty.')).startswith('text failed: book.txt is empty. The log')


def test_a_node_that_was_ended_by_others_is_named(tmp_path):
    out = 'pretrain_mt5/pretrain.ipynb, pretrain_mt5/model'
    said = told(tmp_path, log_of(rule='pretrain', output=out, message='SLURM job 3 OUT_OF_MEMORY. More'))
    assert said.startswith('pretrain_mt5 pretrain was ended (SLURM job 3 OUT_OF_MEMORY)')
    assert 'text was ended (' in told(tmp_path, log_of(message='killed'))
    assert told(tmp_path, log_of()).startswith('text ended without a word')
    assert told(tmp_path, log_of("ModuleNotFoundError: No module named 'torch'")).startswith(
        "ModuleNotFoundError: No module named 'torch'"
    )


def test_a_full_disk_in_a_node_is_told_with_the_room(tmp_path):
    Progress(tmp_path / 'base' / 'evaluate.progress.json', 'evaluate base', every=0).update(
        0, 1, 'evaluate.ipynb, In[4]: OSError: [Errno 28] No space left on device', 'failed'
    )
    assert re.search(rf'{tmp_path} has [\d,]+ MiB free', told(tmp_path, log_of(rule='evaluate')))


def test_a_text_that_fails_after_the_first_look_and_what_dead_writers_left(ff_nbdev_run, tmp_path):
    "A late row of the text is a number, and the folder holds what two writers left half written, one of them alive"
    words, env, out = ff_nbdev_run
    rows = tmp_path / 'rows.jsonl'
    rows.write_text(
        '\n'.join(
            [json.dumps(dict(text=f'Line {i} says {"something " * 80}nice.')) for i in range(6000)]
            + ['{"text": 3}']
        )
    )  # beyond the rows that the first look reads, in a text too large to be counted before
    dead = subprocess.Popen(['true'])
    dead.wait()
    (out / 'base').mkdir(parents=True)
    (out / 'run.json').write_text('{"runs": ["base"], "config": "quick"}')
    left = [
        out / f'.run.json.{dead.pid}',
        out / 'base' / f'.evaluation.json.part-{HOST}-{dead.pid}',
        out / f'.progress.json.{dead.pid}',
    ]
    kept = [out / f'.run.json.{os.getpid()}', out / 'base' / f'.evaluation.json.part-{HOST}-{os.getpid()}']
    for f in left + kept:
        f.write_text('half')
    r = subprocess.run(
        [str(rows) if w.endswith('text.txt') else w for w in words],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    last = r.stderr.strip().splitlines()
    assert r.returncode == 1 and len(last) == 1 and 'Traceback' not in r.stdout + r.stderr
    assert last[0].startswith('ff-nbdev: text failed: ') and 'rows.jsonl, line 6001' in last[0]
    assert 'RuleException' not in last[0] and 'snakemake.log' in last[0]
    assert not any(f.exists() for f in left) and all(f.read_text() == 'half' for f in kept)


# The system


@pytest.mark.parametrize(
    'code, says',
    [
        (errno.ENOSPC, 'MiB are left'),
        (errno.EDQUOT, 'MiB are left'),
        (errno.EROFS, 'only be read'),
        (errno.EACCES, 'permissions'),
        (errno.EIO, 'error'),
    ],
)
def test_what_the_system_says_is_put_into_words(code, says, fake, tmp_path, monkeypatch):
    def write(path, text):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(cli, 'write_whole', write)
    status, said, err = answer(words_of_a_run(fake, tmp_path / ('a long name ' * 8) / 'run'))
    assert status == 2 and says in err and 'run/run.json' in err  # the whole path, however long
    check_sentence(err.strip(), '')


@pytest.mark.parametrize(
    'words',
    [
        ['report', '~/run', '--notebooks', '~/nbs'],
        ['publish', '~/run', '--out', '~/pub'],
        ['shipped', 'tiny-mt5', '--out', '~/run'],
        ['text', 'python_prose', '--out', '~/text.json'],
        ['bundle', '~/stick'],
        ['notebook', '~/n.ipynb', '~/o.ipynb', '--cwd', '~/run', '-i', '~/a', '-o', '~/b', '--progress', '~/p.json'],
    ],
)
def test_a_folder_at_home_is_not_one_named_by_a_tilde(words):
    "A shell leaves the ~ of --out=~/run as it is"
    told = [*vars(cli.make_parser().parse_args(words)).values()]
    paths = [path for value in told for path in (value if isinstance(value, list) else [value])]
    assert not [path for path in paths if isinstance(path, str) and path.startswith('~')]
    assert sum(str(path).startswith(os.path.expanduser('~')) for path in paths) == sum(w[0] == '~' for w in words)


def test_a_folder_that_may_not_be_written(fake, tmp_path, monkeypatch):
    closed = tmp_path / 'closed'
    closed.mkdir()
    monkeypatch.setattr(os, 'access', lambda path, mode, **kw: str(path) != str(closed))
    for words in (
        ['run', '--dry-run', '--corpus', fake / 'text.txt', '--out', closed / 'run'],
        ['text', fake / 'text.txt', '--out', closed / 'text.json'],
        ['notebook', fake / 'experiments' / 'report.ipynb', closed / 'o.ipynb'],
    ):
        status, _, err = answer(words)
        assert status == 2 and f'{closed} cannot be written to' in err and not list(closed.iterdir())
        check_sentence(err.strip(), '')


def test_a_run_folder_that_was_copied_while_it_worked(fake, tmp_path, monkeypatch):
    "The copy has the lock file of the first, and nodes that are at work in it: both are of the past"
    out = tmp_path / 'copy'
    (out / 'base').mkdir(parents=True)
    (out / '.lock').write_text(str(os.getppid()))
    (out / 'run.json').write_text('{"runs": ["base"], "config": "quick"}')
    told = dict(node='evaluate base', state='running', done=1, total=2, started=0, pid=os.getppid())
    (out / 'base' / 'evaluate.progress.json').write_text(json.dumps(told | dict(time=time.time() - 60)))
    seen = RunMonitor(out)
    seen.nothing = True
    monkeypatch.setattr(cli, 'watch_run', lambda *a: (0, seen))
    (out / 'report.json').write_text('{"findings": ["all is well"]}')
    words = words_of_a_run(fake, out)
    status, said, err = answer(words)
    assert status == 0 and not err and 'all is well' in said and not list(seen.nodes())
    with runner.locked(out / '.lock', 'A run'):
        status, said, err = answer(words)
    assert status == 1 and f'is at work already (process {os.getpid()})' in err


def test_a_text_that_may_not_be_read(fake, monkeypatch):
    from ff_nbdev.data import corpus

    def closed(path, column='text'):
        raise PermissionError(errno.EACCES, 'Permission denied', str(path))

    monkeypatch.setattr(corpus, 'text_documents', closed)
    status, _, err = answer(['run', '--dry-run', '--corpus', fake / 'text.txt'])
    assert status == 2 and 'text.txt cannot be read' in err
    check_sentence(err.strip(), 'permissions')


@pytest.mark.parametrize('words', [['run', '--dry-run', '--out', 'new', '--corpus'], ['text']])
def test_a_cache_that_can_hold_nothing(words, fake, tmp_path, monkeypatch):
    monkeypatch.setenv('FF_NBDEV_CACHE', str(fake / 'text.txt'))
    monkeypatch.chdir(tmp_path)
    status, _, err = answer([*words, fake / 'text.txt'])
    assert status == 2 and not list(tmp_path.iterdir())
    check_sentence(err.strip(), 'FF_NBDEV_CACHE')


def test_a_terminal_without_bars_and_an_output_on_a_full_disk():
    plain = dict(os.environ, PYTHONIOENCODING='ascii')
    r = subprocess.run([sys.executable, '-m', 'ff_nbdev.cli', '--help'], env=plain, capture_output=True, text=True)
    assert r.returncode == 0 and not r.stderr and 'FF_NBDEV_DEBUG' in r.stdout
    if not os.path.exists('/dev/full'):
        return
    code = 'import sys; from ff_nbdev.run.errors import guarded; sys.exit(guarded(lambda: print("plan") or 0))'
    with open('/dev/full', 'w') as full:
        r = subprocess.run([sys.executable, '-c', code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert r.returncode == 2
    check_sentence(r.stderr.strip(), 'No space left on device')


def test_a_reader_that_has_gone_is_no_error():
    r = subprocess.run(
        f'{sys.executable} -m ff_nbdev.cli --help | head -c 1', shell=True, capture_output=True, text=True
    )
    assert r.stderr == ''


def test_the_traceback_can_be_seen(monkeypatch):
    for words, env in ((['--debug', 'report', 'no/such'], None), (['report', 'no/such'], '1')):
        monkeypatch.delenv('FF_NBDEV_DEBUG', raising=False)
        if env:
            monkeypatch.setenv('FF_NBDEV_DEBUG', env)
        status, _, err = answer(words)
        assert status == 2 and err.startswith('Traceback') and err.splitlines()[-1].startswith('ff-nbdev: ')
    monkeypatch.setenv('FF_NBDEV_DEBUG', '0')
    assert 'Traceback' not in answer(['report', 'no/such'])[2]
    assert 'FF_NBDEV_DEBUG=1' in answer(['--help'])[1]


def test_what_nobody_foresaw_is_one_sentence_too(monkeypatch):
    def broken(a):
        return {}['runs']

    monkeypatch.setattr(cli, 'report_command', broken)
    status, _, err = answer(['report', 'x'])
    assert status == 1 and 'FF_NBDEV_DEBUG=1' in err
    check_sentence(err.strip(), 'An unexpected KeyError')


@pytest.mark.parametrize('command', ['report', 'publish'])
def test_the_command_for_an_unfinished_run_of_many_arms_is_whole(command, tmp_path, monkeypatch):
    arms = [f'full_stack~dose_{i}_of_a_sweep' for i in range(71)]
    (tmp_path / 'runs' / 'big').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for n, asked in ((71, 'and 68 more recipes behind --recipes'), (2, '')):
        settings = dict(
            scale='quick',
            config='quick',
            corpus='python_prose',
            models={},
            seeds=[0],
            given=[],
            shipped={},
            trained=[],
            variants={a: {} for a in arms[:n]},
            runs=arms[:n],
        )
        (tmp_path / 'runs' / 'big' / 'run.json').write_text(json.dumps(settings))
        status, said, err = answer([command, 'runs/big'])
        names = ' '.join(f"'{a}'" for a in arms[: min(n, 3)])
        assert status == 1 and f'`ff-nbdev run quick --recipes {names} --out runs/big`' in err and asked in err, err
        assert '…' not in err and ('more recipes' in err) == bool(asked)
        check_sentence(err.strip(), '')


@pytest.mark.parametrize('dry', [True, False])
def test_what_is_taken_for_an_id_of_the_hub_is_said(dry, fake, tmp_path, monkeypatch):
    "A slip of the keyboard may look like one; what is there, or is shipped, is not spoken of"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, 'format_plan', lambda *a: 'the plan')
    monkeypatch.setattr(cli, 'watch_run', lambda *a: (_ for _ in ()).throw(cli.RunError('It began.')))
    words = ['run', 'quick', *(['--dry-run'] if dry else []), '--plain', '--out', 'run', '--corpus']
    says = '{!r} is no path here and is taken for a {} of the Hugging Face Hub.'
    lines = [says.format('data/wiki', 'data set'), says.format('modles/mine', 'model')]
    said = answer([*words, 'data/wiki', '--model', 'modles/mine'])[1].splitlines()
    assert said[:2] == lines and sum('Hugging Face Hub' in l for l in said) == 2
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'wiki').symlink_to(fake)
    for text in (fake / 'text.txt', 'python_prose'):
        assert 'Hub' not in answer([*words, text])[1]


# A scale of one's own


def test_a_scale_of_ones_own_is_a_file(fake, tmp_path, monkeypatch):
    import yaml

    quick = yaml.safe_load((settings.workflow_folder() / 'config' / 'quick.yaml').read_text())
    quick.update(trained=['no_fzr'], shipped={}, variants={}, own=None)
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(quick))
    monkeypatch.chdir(tmp_path)
    s = cli.make_settings(run_words('mine.yaml', fake / 'text.txt'))
    assert s.runs == ['base', 'base_reordered', 'rwkv_base', 'no_fzr'] and s.config == str(tmp_path / 'mine.yaml')


@pytest.mark.parametrize('name', settings.scales())
def test_every_scale_passes_its_own_checks(name, fake):
    s = cli.make_settings(cli.make_parser().parse_args(['run', name, '--corpus', str(fake / 'text.txt')]))
    assert s.config == name and s.runs


def test_notebooks_are_held_to_what_they_check_themselves():
    "Every experiment of the graph has ranges that can be read without running it"
    for node in ('pretrain', 'teacher', 'alternatives', 'retrofit', 'evaluate'):
        nb = parameters.read_notebook(cli.notebooks_folder() / f'{node}.ipynb')
        found = parameters.notebook_checks(nb)
        assert {'choices', 'positive', 'ranges'} == set(found), node


# The atlas


@pytest.mark.parametrize(
    'words, told',
    [
        (['nothere/x/y'], 'There is no model'),
        (['tiny-mt5', '--out', 'x.txt'], 'does not end in .html'),
        (['tiny-mt5', '--corpus', 'three.txt'], 'holds 3 different sentences'),
    ],
)
def test_an_atlas_is_refused_before_torch_is_imported(words, told, tmp_path):
    (tmp_path / 'three.txt').write_text('One two three.\nFour.\nFive six.\n')
    code = f'import sys; from ff_nbdev.cli import main; status = main({["atlas", *words]}); print(status, *sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    status, *modules = done.stdout.split()
    check_sentence(done.stderr, told)
    assert status == '2' and 'torch' not in modules and 'transformers' not in modules


@pytest.mark.parametrize('words, told', [(['atlas', 'tiny-mt5'], 'nothing was written'), (['report'], 'goes on from')])
def test_ctrl_c_says_what_is_true_of_the_command(words, told, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    for name in ('atlas_parameters', 'check_reportable'):
        monkeypatch.setattr(cli, name, interrupted)
    status, _, said = answer(words)
    assert status == 130 and told in said


def test_what_is_missing_is_told_in_a_whole_sentence():
    status, _, said = answer(['atlas'])
    assert status == 2 and 'the following arguments are required: MODEL. See' in said


# Models of the hub


def no_network(*args, **options):
    raise OSError('no network')


@pytest.mark.parametrize('model', ['gpt2', 'some/model'])
@pytest.mark.parametrize('command', ['atlas', 'evaluate', 'retrofit'])
def test_a_hub_that_cannot_be_reached_is_told(command, model, monkeypatch, tmp_path):
    monkeypatch.setattr('huggingface_hub.HfApi.model_info', no_network)
    monkeypatch.setattr(cli, '_start', None)
    monkeypatch.chdir(tmp_path)
    status, _, said = answer([command, model])
    told = f"No model '{model}': it is no folder here, and the Hugging Face Hub could not be reached. Try again"
    assert status == 2 and told in said, said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['gpt2', 'some/model'])
def test_what_loads_a_model_tells_why_the_hub_has_none(name, monkeypatch):
    from ff_nbdev.data.tokenizers import load_tokenizer
    from ff_nbdev.models.tiny import load_pretrained

    monkeypatch.setattr('huggingface_hub.HfApi.model_info', no_network)
    for load, what in ((load_pretrained, 'model'), (load_tokenizer, 'tokenizer')):
        with pytest.raises(FileNotFoundError, match=f"No {what} '{name}': .* could not be reached"):
            load(name)


def test_a_model_that_the_hub_has_is_taken(monkeypatch):
    from ff_nbdev.run.preflight import find_model

    monkeypatch.setattr('huggingface_hub.HfApi.model_info', lambda *args, **options: None)
    assert find_model('gpt2') == ('gpt2', '')
    with pytest.raises(FileNotFoundError, match="did you mean 'tiny-mt5'"):
        find_model('tiny-mt')
