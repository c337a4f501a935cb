"""Shared by the tests: where things are, and a tiny run graph whose notebooks compute nothing."""

import gc
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections import Counter
from multiprocessing import forkserver
from pathlib import Path

import pytest
from kernels_once import share_kernels

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault('OMP_NUM_THREADS', '1')  # tiny models gain nothing from a second thread
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
# Compiled modules, with pytest's assertions in them, are kept and read again: where they are not, each of the workers
# and of the processes that tests start compiles the library anew
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
sys.dont_write_bytecode = False
# glibc gives memory back to the system and asks for it again at every step: a tenth of a training run (read by the
# processes that are started from here, the workers of pytest-xdist among them)
for name, mebibytes in dict(MMAP_THRESHOLD=32, TRIM_THRESHOLD=1024, TOP_PAD=64).items():
    os.environ.setdefault(f'MALLOC_{name}_', str(mebibytes << 20))
# Figures and tables make many objects that live for a moment: looking for circles after every 700 of them took a
# quarter of the time of a figure
gc.set_threshold(20_000, 20, 20)

DURATIONS = ROOT / 'tests' / 'durations.json'  # unit → seconds, as `make test ARGS=--record-durations` writes it


def recorded():
    return json.loads(DURATIONS.read_text())


def unit(nodeid):
    "What goes to one process as a whole: a file, for its tests share what it made; a notebook, for it shares nothing"
    file, _, test = nodeid.partition('::')
    if file.endswith('test_many_processes.py'):
        return 'test_resume.py'  # both fork from one process
    notebook = file.endswith('test_notebooks.py') and '[' in test
    return test.split('[')[1].rstrip(']') if notebook else file.split('/')[-1]


def pytest_addoption(parser):
    said = f'write into tests/{DURATIONS.name} how long each unit took'
    parser.addoption('--record-durations', action='store_true', help=said)


def pytest_collection_modifyitems(items):
    "The longest units first, so that the processes end together; what is not recorded yet goes before them"
    known = recorded()

    def place(item):
        name = unit(item.nodeid)
        return -known.get(name, float('inf')), name

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Two more than there are processors, for some tests wait for processes of their own; each takes 3 GB, with room

    A third worker took 907 s on two processors, a fourth 846."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    return max(1, min(processors + 2, int(memory / 4), 8))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "By file, and notebooks one by one: all of them in one process would take longer than all the rest in the others"
    if config.getvalue('dist') != 'loadfile':
        return
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return unit(nodeid)

    config.option.loadscopereorder = False
    return ByUnit(config, log)


BEGUN = set()  # units


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """What lives when a unit begins is set apart from the garbage collector

    Transformers' Trainer collects whenever it starts, and half of the time of a tiny run went into looking through a
    million objects of imported modules. What a unit makes is collected as ever, at the latest when the next begins."""
    if (name := unit(item.nodeid)) in BEGUN:
        return
    BEGUN.add(name)
    if 'numba' in sys.modules:
        share_kernels()
    gc.collect()
    gc.freeze()


def record_durations(reports):
    "Units that were run take the place of what was recorded; files and notebooks that are gone are left out"
    took = Counter()
    for report in reports:
        took[unit(report.nodeid)] += report.duration
    known = recorded() | {name: round(seconds, 1) for name, seconds in took.items()}
    known = {name: seconds for name, seconds in sorted(known.items()) if is_unit(name)}
    DURATIONS.write_text(json.dumps(known, indent=1) + '\n')


def is_unit(name):
    return (ROOT / 'tests' / name).is_file() or (ROOT / 'nbs' / f'{name}.ipynb').is_file()


def pytest_unconfigure():
    "Leaving a process looks for circles among all that it has imported, which is gone in a moment"
    gc.freeze()


def pytest_terminal_summary(terminalreporter, config):
    "Say how many wrong inputs were tried, and record durations where that was asked for"
    if config.getoption('record_durations'):
        record_durations(r for rs in terminalreporter.stats.values() for r in rs if isinstance(r, pytest.TestReport))
    passed = terminalreporter.stats.get('passed', [])
    tried = [report for report in passed if 'test_wrong_inputs.py::test_c' in report.nodeid]
    told = {(kind, said) for report in passed for kind, said in report.user_properties}
    for said in sorted((said for kind, said in told if kind == 'house'), key=str.split):
        terminalreporter.write_line(said)
    for said in sorted(said for kind, said in told if kind == 'promise'):
        terminalreporter.write_line(f'promise kept: {said}')
    if tried:
        terminalreporter.write_line(
            f'{len(tried)} wrong inputs were each answered by one sentence, with nothing written.'
        )


PROCESSES = multiprocessing.get_context('forkserver')


@pytest.fixture(scope='session')
def imported():
    "Processes are forked from one that has imported everything and trained nothing: most of the time goes into imports"
    models = 'transformers.models.mt5.modeling_mt5', 'transformers.models.rwkv.modeling_rwkv'
    imports = ['train_sharded', 'ff_nbdev.run.train', 'torch._dynamo', *models]
    PROCESSES.set_forkserver_preload([*imports, 'train_tiny'])  # last: it sets apart what is there
    with pytest.MonkeyPatch.context() as m:
        m.setenv('PYTHONPATH', str(ROOT / 'tests'))
        m.setenv('TRAIN_TINY_READY', '1')
        forkserver.ensure_running()


def make_notebook(path, parameters, *code):
    "Write a notebook with a tagged cell and some code"
    import nbformat

    new = nbformat.v4
    cells = [new.new_code_cell(parameters, metadata=dict(tags=['parameters'])), *map(new.new_code_cell, code)]
    nbformat.write(
        new.new_notebook(
            cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
        ),
        path,
    )
    return path


SHARED = "corpus: str = ''\nout: str = ''\nseed: int = 0\nscale: str = 'quick'\nseconds: float = 0.1"
START = 'import json, os, time\nfrom pathlib import Path\nfrom ff_nbdev.run.progress import Progress'
WORK = 'p = Progress()\nfor i in range(20): time.sleep(seconds/20); p.update(i + 1, 20, f"step {i + 1}")'
OWN = dict(
    teacher="model: str = ''",
    alternatives="model: str = ''\nteacher: str = ''",
    retrofit="arm: str = ''\nmodel: str = ''\nalternatives: str = ''",
    evaluate="arm: str = ''\nmodel: str = ''\nbase: str = ''\nalternatives: str = ''",
)
WRITES = dict(  # what each notebook leaves in its folder
    teacher='''
Path(out, "model").mkdir(parents=True, exist_ok=True)
Path(out, "model", "weights").write_text("teacher")
Path(out, "teacher.json").write_text(json.dumps(dict(time=time.time())))''',
    alternatives='''
assert Path(teacher, "weights").exists()
Path(out, "train").mkdir(parents=True, exist_ok=True)
Path(out, "train", "rows").write_text("")
Path(out, "closeness.json").write_text("{}")''',
    retrofit='''
Path(out, "model").mkdir(parents=True, exist_ok=True)
Path(out, "model", "weights").write_text(arm)
Path(out, "bands.npz").write_text("")
Path(out, "train.json").write_text(json.dumps(dict(arm=arm, seed=seed, pid=os.getpid(), time=time.time())))''',
    evaluate='''
assert arm in ("base", "base_reordered") or Path(model, "weights").read_text() == arm
Path(out, "evaluation.npz").write_text("")
Path(out, "evaluation.json").write_text(json.dumps(dict(arm=arm)))''',
)
REPORT = '''
arms = sorted(json.loads(p.read_text())["arm"] for p in Path(runs).glob("*/evaluation.json"))
Path(out, "report.html").write_text("<p>report")
findings = [f"{len(arms)} arms were evaluated."]
Path(out, "report.json").write_text(json.dumps(dict(findings=findings)))'''


def scale_parameters(name):
    "What the scales set of a notebook, as code"
    from ff_nbdev.run.settings import read_scale

    found = {}
    for scale in ('night', 'quick'):
        found |= read_scale(scale).get(name) or {}
    if name == 'retrofit':
        found |= dict(change='', dose=1.0)
    return '\n'.join(f'{key} = {value!r}' for key, value in found.items())


def make_experiments(folder):
    "Experiment notebooks that write the right files with nothing in them"
    folder.mkdir()
    for name, own in OWN.items():
        parameters = '\n'.join([own, SHARED, scale_parameters(name)])
        make_notebook(folder / f'{name}.ipynb', parameters, START, WORK, WRITES[name].strip())
    parameters = '\n'.join(["runs: str = '.'\nout: str = '.'", scale_parameters('report')])
    make_notebook(folder / 'report.ipynb', parameters, START, REPORT.strip())


def small_text(numbers, n=400):
    "Lines of few words, no two alike"
    words = ['the', 'a', 'cat', 'dog', 'house', 'sees', 'likes', 'finds', 'near', 'old', 'small', 'green']

    def line(i):
        said = ' '.join(words[(i * k + j) % 12] for j, k in enumerate(numbers))
        letters = ''.join(chr(97 + i // 26**k % 26) for k in range(3 if n > 676 else 2))
        return f'Line {letters} says {said}.'

    return '\n'.join(map(line, range(n)))


@pytest.fixture(scope='session')
def fake(tmp_path_factory):
    "A folder with experiment notebooks that compute nothing, a text, a tokenizer, a cache"
    from safetensors.numpy import save_file

    from ff_nbdev.data.tokenizers import make_tokenizer

    d = tmp_path_factory.mktemp('fake')
    make_experiments(d / 'experiments')
    (d / 'text.txt').write_text(small_text([1, 2, 3, 5, 7], 1500))  # one held-out window at least
    pieces = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0)]
    pieces += [(f'<0x{i:02X}>', -9.0) for i in range(256)]
    make_tokenizer([*pieces, ('▁', -2.0)], 4).save_pretrained(d / 'tokenizer')
    (d / 'tokenizer' / 'config.json').write_text('{"model_type": "mt5"}')  # a model for what is checked before a run
    save_file({}, d / 'tokenizer' / 'model.safetensors')
    return d


@pytest.fixture
def ff_nbdev_run(fake, tmp_path):
    "The words of a command that runs the fake graph in a folder of its own"
    from shared import fake_words

    env = dict(os.environ, FF_NBDEV_CACHE=str(fake / 'cache'), PYTHONPATH='')
    env.pop('IN_TEST', None)
    words = [sys.executable, '-m', 'ff_nbdev.cli', *fake_words(fake)]
    words += ['--out', str(tmp_path / 'quick'), '--jobs', '2']
    return words, env, tmp_path / 'quick'


def left_by_a_run(out, scale='quick', **files):
    "A folder as a run that was stopped leaves it: its settings, the record of its text, and more files by their paths"
    (out / 'run.json').parent.mkdir(parents=True)
    (out / 'run.json').write_text(json.dumps(dict(runs=[], config=scale)))
    for path, text in {'text.json': '{}', **files}.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text(text)


def evaluated(arm, trained=False):
    "The files of an arm of the fake graph that is done, by their paths"
    record = json.dumps(dict(arm=arm))
    made = {'model/weights': arm, 'train.json': record, 'bands.npz': ''} if trained else {}
    made |= {'evaluation.json': record, 'evaluation.npz': ''}
    return {f'{arm}/{name}': text for name, text in made.items()}


@pytest.fixture(scope='session')
def planned(tmp_path_factory):
    "What a command prints: `python -m` with these words, in a fork of a process that has imported it all"
    folder = tmp_path_factory.mktemp('planned')
    words = [sys.executable, str(ROOT / 'tests' / 'planner.py')]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as planner:

        def ask(module, *words, env=None, cwd=None):
            out, err = folder / 'out', folder / 'err'
            asked = dict(module=module, words=[*map(str, words)], out=str(out), err=str(err))
            asked |= dict(env=dict(os.environ if env is None else env), cwd=str(cwd or folder), seconds=240)
            planner.stdin.write(json.dumps(asked) + '\n')
            status = int(planner.stdout.readline())
            return subprocess.CompletedProcess(asked['words'], status, out.read_text(), err.read_text())

        yield ask
        planner.terminate()


def is_page(path):
    return not any(part.startswith(('.', '_')) for part in path.relative_to(ROOT).parts)


NOTEBOOKS = sorted(filter(is_page, (ROOT / 'nbs').rglob('*.ipynb')))


def page(path):
    return path.relative_to(ROOT / 'nbs').as_posix().removesuffix('.ipynb')


CHROMIUM = next((c for c in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if c), None)
FLAGS = (
    '--no-sandbox --disable-gpu --disable-quic --no-first-run '
    '--disable-background-networking --disable-component-update --disable-sync'
).split()


@pytest.fixture(scope='module')
def browser():
    "A headless Chromium; the test is skipped where there is none"
    if not CHROMIUM:
        pytest.skip('missing tool: chromium')
    from playwright.sync_api import sync_playwright

    with sync_playwright() as pw:
        b = pw.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield b
        b.close()


PROMISES = ROOT / 'results' / 'promises.json'
KEPT = Counter()


@pytest.fixture
def promise(record_property):
    """Hold a figure of the page on failures to what a test has counted: `promise('Dose given', '0.3')`

    `promise.one_of(name, total)` counts the cases of a test that has several; the last one holds 'total of total'.
    With FF_NBDEV_WRITE_PROMISES=1 and one process (-n 0) the figures are written instead."""

    def hold(name, figure):
        known = json.loads(PROMISES.read_text()) if PROMISES.exists() else {}
        record_property('promise', f'{name}: {figure}')
        if os.environ.get('FF_NBDEV_WRITE_PROMISES'):
            test = os.environ['PYTEST_CURRENT_TEST'].split(' ')[0].split('[')[0]
            known[name] = dict(figure=figure, test=test)
            PROMISES.write_text(json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + '\n')
        assert name in known, f'{name!r} is not in {PROMISES.name}: write it with FF_NBDEV_WRITE_PROMISES=1'
        assert known[name]['figure'] == figure, f'{name}: {figure} was seen, and the page says {known[name]["figure"]}'

    def one_of(name, total, here=1):
        KEPT[name] += here
        if KEPT[name] == total:
            hold(name, f'{total:,} of {total:,}')

    hold.one_of = one_of
    return hold
