"""Every notebook is a test: all its cells are run as nbdev-test runs them, without those flagged slow or gpu."""
import tomllib
from functools import partial

import pytest
from conftest import LONG, NOTEBOOKS, ROOT, page, unit

FLAGS = tomllib.loads((ROOT/'pyproject.toml').read_text())['tool']['nbdev']['tst_flags'].split()


@pytest.mark.timeout(300)
@pytest.mark.parametrize('nb', NOTEBOOKS, ids=page)
def test_notebook(nb, monkeypatch):
    import nbdev.test
    import torch
    threads = torch.get_num_threads()
    monkeypatch.setenv('IN_TEST', '1')
    shell = partial(nbdev.test.CaptureShell, mpl_format='png')      # pictures at the plain size, for nobody sees them
    monkeypatch.setattr(nbdev.test, 'CaptureShell', shell)
    torch.set_num_threads(1)
    try: ok, seconds = nbdev.test.test_nb(nb, skip_flags=FLAGS, cell_timeout=200)
    finally: torch.set_num_threads(threads); torch.use_deterministic_algorithms(False); torch.set_grad_enabled(True); torch.set_default_dtype(torch.float32)
    assert ok, f'{page(nb)} failed; its error is printed above'

def test_what_goes_first_is_there():
    "Names in the list of long units are files of tests or rooms of notebooks, and every notebook is of one unit"
    assert all((ROOT/'tests'/u).exists() or (ROOT/'nbs'/u).is_dir() for u in LONG)
    assert {unit(f'tests/test_notebooks.py::test_notebook[{page(n)}]') for n in NOTEBOOKS} == {n.parent.name if n.parent.name != 'nbs' else 'test_notebooks.py' for n in NOTEBOOKS}
