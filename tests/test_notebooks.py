"""Every notebook is a test: all its cells are run as nbdev-test runs them, without those flagged slow or gpu.

Two that read files of the repository and nothing else are run as a user's papermill runs them."""

import base64
import copy
import hashlib
import os
import pickle
import tomllib
from functools import partial, wraps
from unittest.mock import patch

import pytest
from conftest import NOTEBOOKS, ROOT, is_unit, page, recorded, unit

FLAGS = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['nbdev']['tst_flags'].split()


# A PNG of one clear pixel
BLANK = base64.b64decode(
    'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=='
)

PLAIN = 'api', 'tutorials/paper_in_ten_minutes'


def test_by_plain_papermill_nothing_is_left_out():
    for nb in (ROOT / 'nbs' / f'{name}.ipynb' for name in PLAIN):
        assert nb in NOTEBOOKS and 'IN_TEST' not in nb.read_text()


def by_papermill(nb, out):
    "All cells, flagged or not, from the root of the repository and in a kernel of their own"
    import papermill

    papermill.execute_notebook(nb.relative_to(ROOT), out, kernel_name='python3', progress_bar=False)
    assert out.exists()


FOUND = {}  # digest of a question → its answer
ASKED = 'between', 'compare', 'more_alike', 'second_order', 'stability', 'two_letter_test'


def asked_once(function):
    "The same function, which finds an answer once for arguments that hold the same"

    @wraps(function)
    def ask(*args, **kwargs):
        key = hashlib.sha256(pickle.dumps((function.__name__, args, kwargs))).digest()
        if key not in FOUND:
            FOUND[key] = function(*args, **kwargs)
        return copy.deepcopy(FOUND[key])

    return ask


@pytest.fixture
def claims_asked_once(monkeypatch):
    "Many pages ask the claims of the same runs, and most of that time goes into distances between models"
    from ff_nbdev.study import rules

    for name in ASKED:
        monkeypatch.setattr(rules, name, asked_once(getattr(rules, name)))


def test_what_is_asked_once_is_asked_again_of_other_numbers():
    seen = []
    double = asked_once(lambda x, by=2: seen.append(1) or dict(x=[x * by]))
    assert [double(2), double(2), double(3), double(2, by=5)] == [dict(x=[n]) for n in (4, 4, 6, 10)] and len(seen) == 3
    double(2)['x'].append(0)
    assert double(2) == dict(x=[4])


def laid_out(figure, crop=False):
    "A picture of no pixels, and its width on a page: every artist of the figure is asked to draw itself"
    import matplotlib

    from ff_nbdev.core.pictures import DPI, plot_style

    with matplotlib.rc_context(plot_style()):
        figure.draw_without_rendering()
    return BLANK, round(DPI * figure.get_figwidth())


@pytest.fixture
def no_pixels(monkeypatch):
    "Figures are laid out and not painted, for nobody sees them; tests of reports and of pictures paint theirs"
    from ff_nbdev.core import pictures
    from ff_nbdev.study import plots

    for module in (pictures, plots):
        monkeypatch.setattr(module, 'picture', laid_out)


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=page)
def test_notebook(nb, tmp_path, monkeypatch, claims_asked_once, no_pixels):
    if page(nb) in PLAIN:
        monkeypatch.chdir(ROOT)
        return by_papermill(nb, tmp_path / 'out.ipynb')
    import nbdev.test
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setenv('IN_TEST', '1')
    shell = partial(nbdev.test.CaptureShell, mpl_format='png')  # at the plain size too
    monkeypatch.setattr(nbdev.test, 'CaptureShell', shell)
    torch.set_num_threads(1)
    try:
        with patch.dict(os.environ):  # a page that has a cache of its own does not leave it to the next
            ok, seconds = nbdev.test.test_nb(nb, skip_flags=FLAGS, cell_timeout=1500)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
    assert ok, f'{page(nb)} failed; its error is printed above'


def test_recorded_durations_are_of_what_is_there():
    "Of test files and of notebooks, each of them a unit; most are recorded, or the processes would not end together"
    known, own = recorded(), [page(notebook) for notebook in NOTEBOOKS]
    assert [unit(f'tests/test_notebooks.py::test_notebook[{name}]') for name in own] == own
    assert [name for name in known if not is_unit(name)] == [], (
        'gone, and still in tests/durations.json: pytest --record-durations'
    )
    assert len(set(own) & set(known)) >= 0.75 * len(own), (
        'notebooks without a recorded duration: pytest --record-durations'
    )
