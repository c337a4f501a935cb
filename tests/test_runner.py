"""The strict runner, as its users meet it: mistakes that papermill lets pass, a second run, a killed process."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import make_notebook

from ff_nbdev.core.io import alive
from ff_nbdev.run.errors import RunError
from ff_nbdev.run.runner import library_files, locked, run_notebook

PARAMETERS = """
steps: int = 3
lr: float = 0.1
clip: float | None = None
arm: str = 'base'
sizes: list[int] = [1]
quick: bool = True
out: str = 'out'
""".strip()
CODE = """
from pathlib import Path
Path(out).mkdir(exist_ok=True)
Path(out, "a.txt").write_text(f"{steps} {lr!r} {clip!r} {arm} {sizes} {quick}")
""".strip()


@pytest.fixture
def nb(tmp_path):
    return make_notebook(tmp_path / 'exp.ipynb', PARAMETERS, CODE)


def run(nb, tmp_path, **params):
    said = []
    run_notebook(nb, tmp_path / 'runs' / 'exp.ipynb', params, cwd=tmp_path, outputs=['out/a.txt'], log=said.append)
    return said[-1]


def test_values_arrive(nb, tmp_path):
    run(nb, tmp_path, steps=5, lr=1, clip=2, arm='x', sizes=[2, 3], quick=False)
    assert (tmp_path / 'out' / 'a.txt').read_text() == '5 1.0 2.0 x [2, 3] False'


@pytest.mark.parametrize(
    'wrong, said',
    [
        (dict(step=5), "did you mean 'steps'"),
        (dict(zzz=5), 'there are steps, lr'),
        (dict(steps=5.0), 'must be int'),
        (dict(steps='5'), 'is a text'),
        (dict(steps=True), 'must be int'),
        (dict(lr='3e-4'), 'is a text'),
        (dict(arm=3), 'must be str'),
        (dict(sizes=['a']), 'list[int]'),
        (dict(clip='x'), 'float or None'),
    ],
)
def test_mistakes_are_refused_before_a_kernel_starts(nb, tmp_path, wrong, said):
    with pytest.raises(ValueError) as e:
        run(nb, tmp_path, **wrong)
    assert said in str(e.value) and '\n' not in str(e.value)
    assert not (tmp_path / 'runs').exists()


def test_up_to_date_until_something_changes(nb, tmp_path):
    assert 'done in' in run(nb, tmp_path, steps=1)
    assert 'up to date' in run(nb, tmp_path, steps=1)
    assert 'done in' in run(nb, tmp_path, steps=2)
    d = json.loads(nb.read_text())
    d['cells'].append(dict(cell_type='markdown', metadata={}, source='prose', id='prose'))
    nb.write_text(json.dumps(d))
    assert 'up to date' in run(nb, tmp_path, steps=2)  # prose does not count
    d['cells'][1]['source'] += '\n# changed'
    nb.write_text(json.dumps(d))
    assert 'done in' in run(nb, tmp_path, steps=2)
    (tmp_path / 'out' / 'a.txt').unlink()
    assert 'done in' in run(nb, tmp_path, steps=2)  # an output that is gone


def test_input_files_count(nb, tmp_path):
    text = tmp_path / 'text.txt'
    text.write_text('a')
    said = []
    go = lambda: run_notebook(nb, tmp_path / 'exp_out.ipynb', cwd=tmp_path, inputs=[text], log=said.append)
    go()
    go()
    text.write_text('b')
    go()
    assert ['up to date' in s for s in said] == [False, True, False]
    text.unlink()
    with pytest.raises(FileNotFoundError):
        go()


def test_failure_is_one_sentence(tmp_path):
    nb = make_notebook(tmp_path / 'bad.ipynb', 'a: int = 1', 'x = 1', 'raise KeyError("no such key")')
    with pytest.raises(RunError) as e:
        run_notebook(nb, tmp_path / 'o.ipynb', dict(a=2))
    assert str(e.value).startswith("bad.ipynb, In[4]: KeyError: 'no such key' (executed so far: ") and '\n' not in str(
        e.value
    )
    assert (tmp_path / 'o.part.ipynb').exists() and not (tmp_path / 'o.ipynb').exists()


def test_a_dead_kernel_is_told(tmp_path):
    nb = make_notebook(tmp_path / 'dead.ipynb', 'a: int = 1', 'import os\nos._exit(9)')
    with pytest.raises(RunError, match='kernel died'):
        run_notebook(nb, tmp_path / 'o.ipynb')


def test_missing_outputs_are_told(nb, tmp_path):
    with pytest.raises(RunError, match='without writing b.txt'):
        run_notebook(nb, tmp_path / 'o.ipynb', cwd=tmp_path, outputs=['b.txt'])


def test_environment(tmp_path, monkeypatch):
    monkeypatch.setenv('IN_TEST', '1')
    nb = make_notebook(
        tmp_path / 'env.ipynb', "out: str = 'e.json'", 'import json, os\njson.dump(dict(os.environ), open(out, "w"))'
    )
    run_notebook(nb, tmp_path / 'o.ipynb', cwd=tmp_path, threads=1)
    env = json.loads((tmp_path / 'e.json').read_text())
    assert (
        env['PYTHONHASHSEED'] == '0'
        and env['OMP_NUM_THREADS'] == '1'
        and 'IN_TEST' not in env
        and os.environ['IN_TEST'] == '1'
    )


def test_a_good_result_outlives_a_failure(tmp_path):
    "The executed notebook and the files beside it are those of the good run; the failed one has a name of its own"
    code = 'from pathlib import Path\nPath("r.txt").write_text(str(a))\nassert a < 3'
    nb, out, said = make_notebook(tmp_path / 'n.ipynb', 'a: int = 1', code), tmp_path / 'o.ipynb', []
    go = lambda a: run_notebook(nb, out, dict(a=a), tmp_path, outputs=['r.txt'], log=said.append)
    go(2)
    good = out.read_bytes()
    for _ in range(2):
        with pytest.raises(RunError, match=r'AssertionError.*executed so far: .*o\.part\.ipynb'):
            go(5)
        assert out.read_bytes() == good and (tmp_path / 'r.txt').read_text() == '2'
    assert (tmp_path / 'o.part.ipynb').exists() and 'what the good run before left is kept' in said[-1]
    go(2)
    assert 'up to date' in said[-1]
    go(1)
    assert (tmp_path / 'r.txt').read_text() == '1' and not list(tmp_path.glob('.*.good'))
    (tmp_path / '.o.ipynb.good').write_bytes(out.read_bytes())  # a rerun was killed here
    (tmp_path / '.r.txt.good').write_text('1')
    out.unlink()
    (tmp_path / 'r.txt').write_text('half')
    with pytest.raises(RunError):
        go(5)
    assert out.exists() and (tmp_path / 'r.txt').read_text() == '1'


def test_killed_and_done_again(tmp_path):
    """kill -9 the runner in the middle of a cell: its kernel ends, nothing looks finished

    The next run does it again."""
    nb = make_notebook(
        tmp_path / 'slow.ipynb',
        'seconds: float = 60.0',
        'import os, time\nopen("pid", "w").write(str(os.getpid()))\ntime.sleep(seconds)\nopen("end", "w").close()',
    )
    words = [sys.executable, '-m', 'ff_nbdev.run.runner', str(nb), str(tmp_path / 'o.ipynb'), '--cwd', str(tmp_path)]
    p = subprocess.Popen(words)
    until(lambda: (tmp_path / 'pid').exists() and (tmp_path / 'pid').read_text())
    kernel = int((tmp_path / 'pid').read_text())
    p.send_signal(signal.SIGKILL)
    p.wait()
    until(lambda: not alive(kernel))
    assert (tmp_path / 'o.part.ipynb').exists() and not (tmp_path / 'o.ipynb').exists()
    done = subprocess.run([*words, '-p', 'seconds', '0'], capture_output=True, text=True)
    assert (
        done.returncode == 0
        and 'cut short' in done.stdout
        and (tmp_path / 'end').exists()
        and not (tmp_path / 'o.part.ipynb').exists()
    )


def test_two_runs_do_not_share_a_place(tmp_path):
    with (
        locked(tmp_path / 'l', 'A run'),
        pytest.raises(RunError, match=f'at work already .process {os.getpid()}.'),
        locked(tmp_path / 'l', 'A run'),
    ):
        pass


def test_command_line_reads_numbers_as_python_does(nb, tmp_path):
    words = [sys.executable, '-m', 'ff_nbdev.run.runner', str(nb), str(tmp_path / 'o.ipynb'), '--cwd', str(tmp_path)]
    r = subprocess.run(
        [*words, '-p', 'lr', '3e-4', '-p', 'arm', '7', '-p', 'sizes', '[4, 5]'], capture_output=True, text=True
    )
    assert r.returncode == 0, r.stderr
    assert (tmp_path / 'out' / 'a.txt').read_text() == '3 0.0003 None 7 [4, 5] True'
    r = subprocess.run([*words, '-p', 'lrr', '3e-4'], capture_output=True, text=True)
    assert r.returncode == 2 and r.stderr == "ff-nbdev: exp.ipynb has no parameter 'lrr': did you mean 'lr'?\n"


def test_plain_papermill_meets_the_second_line_of_defence(tmp_path):
    nb = make_notebook(
        tmp_path / 'n.ipynb',
        'lr: float = 0.1\nsteps: int = 1',
        'from ff_nbdev.run.parameters import check_params',
        'check_params(globals(), positive=["steps"])',
    )

    def papermill(*words):
        return subprocess.run(
            [sys.executable, '-m', 'papermill', str(nb), str(tmp_path / 'o.ipynb'), *words],
            capture_output=True,
            text=True,
        )

    assert papermill('-p', 'lr', '1').returncode == 0
    for words, said in [
        (('-y', '{lr: 3e-4}'), 'is a text'),
        (('-p', 'steps', '0'), 'above 0'),
        (('-p', 'step', '2'), "did you mean 'steps'"),
    ]:
        r = papermill(*words)
        assert r.returncode and said in r.stderr


def test_every_module_is_followed():
    "An experiment's run key must hold every module that it can reach"
    names = {p.name for p in library_files(['from ff_nbdev import attach'])}
    assert {'method.py', 'sites.py', 'forgetfulness.py', 'recall.py'} <= names and 'cli.py' not in names


def until(f, seconds=150):
    end = time.time() + seconds
    while not f():
        assert time.time() < end, 'timed out'
        time.sleep(0.1)
