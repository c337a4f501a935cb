"""Wrong inputs: each is answered by one clear sentence: what is wrong, and how to mend it. Nothing is touched."""

import importlib
import pkgutil

import pytest
import wrong

TABLES = [importlib.import_module(f'wrong.{m.name}') for m in pkgutil.iter_modules(wrong.__path__)]
COUNT_NEEDED = 900


def table(attribute):
    "All cases of one kind, under `module: name`"
    found = {}
    for module in TABLES:
        for name, case in getattr(module, attribute, {}).items():
            found[f'{module.__name__.split(".")[-1]}: {name}'] = case
    return found


CASES, COMMANDS = table('CASES'), table('COMMANDS')


@pytest.fixture
def files(tmp_path, monkeypatch):
    "Makes files in a folder that is the working directory"
    here = tmp_path / 'here'
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv('FF_NBDEV_CACHE', str(tmp_path / 'cache'))

    def make(name, content=''):
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    make.here = here
    return make


def snapshot(folder):
    "Every path below a folder, with the bytes of files"
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob('*'))
    }


def check_sentence(said, says):
    assert says in said, said
    assert '\n' not in said.strip() and 'Traceback' not in said, said
    assert said.rstrip()[-1] in '.?)' and len(said) < 600, said


@pytest.mark.parametrize('name', CASES)
def test_call(name, files):
    call, says = CASES[name]
    with pytest.raises((ValueError, OSError, KeyError, TypeError, RuntimeError)) as e:
        call(*[files][: call.__code__.co_argcount])
    said = str(e.value.args[-1] if isinstance(e.value, KeyError) else e.value)
    check_sentence(said, says)
    assert type(e.value).__name__ in ('ValueError', 'KeyError', 'TypeError', 'RunError') or isinstance(
        e.value, OSError
    ), type(e.value)


@pytest.mark.parametrize('name', COMMANDS)
def test_command(name, files, capfd):
    from ff_nbdev.cli import main

    words, says = COMMANDS[name]
    words = [str(w) for w in (words(files) if callable(words) else words)]
    before = snapshot(files.here)
    try:
        status = main(words)
    except SystemExit as e:
        status = e.code
    err = capfd.readouterr().err
    assert status not in (0, None), err
    check_sentence(err.strip(), says)
    assert snapshot(files.here) == before, 'a wrong command wrote or removed something'


def test_table_is_long_enough(promise):
    count = len(CASES) + len(COMMANDS)
    assert count >= COUNT_NEEDED
    promise('Wrong inputs, each answered by one sentence, with nothing written', str(count))
