"""Every notebook is a test: all its cells are run as nbdev-test runs them, without those flagged slow or gpu."""

import tomllib
from functools import partial

import pytest
from conftest import NOTEBOOKS, ROOT, is_unit, page, recorded, unit

FLAGS = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['nbdev']['tst_flags'].split()


@pytest.mark.parametrize('nb', NOTEBOOKS, ids=page)
def test_notebook(nb, monkeypatch):
    import nbdev.test
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setenv('IN_TEST', '1')
    shell = partial(nbdev.test.CaptureShell, mpl_format='png')  # pictures at the plain size, for nobody sees them
    monkeypatch.setattr(nbdev.test, 'CaptureShell', shell)
    torch.set_num_threads(1)
    try:
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
