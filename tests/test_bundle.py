"""Bundles for a node with no network: what is packed, what the installer refuses, and an installation that runs."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, small_text
from packaging.requirements import Requirement

import ff_nbdev
from ff_nbdev.data.corpus import load_corpus, read_sentences
from ff_nbdev.data.store import cache_dir, write_corpus
from ff_nbdev.run import bundle, packing, wheels
from ff_nbdev.run.bundle import make_bundle, seal
from ff_nbdev.run.installer import install_script
from ff_nbdev.run.packing import find_model, largest_wheels, size_report
from ff_nbdev.run.wheels import Target, accepted_tags, build_wheel, fetch_wheels, lacking, least_glibc, read_lock
from ff_nbdev.run.errors import RunError

SHIPPED = ROOT / 'ff_nbdev' / 'pretrained' / 'tiny-mt5'
PYTHON = '.'.join(map(str, sys.version_info[:2]))
NODE = Target('3.12', 'manylinux_2_28_x86_64')
slow = pytest.mark.skipif(
    not os.environ.get('FF_NBDEV_SLOW'), reason='downloads half a gigabyte: set FF_NBDEV_SLOW=1 to run it'
)


def silent(line):
    pass


@pytest.fixture(scope='module')
def own(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp('own'))


@pytest.fixture(scope='module')
def story(tmp_path_factory):
    p = tmp_path_factory.mktemp('text') / 'My story.txt'
    p.write_text(small_text([1, 2, 3, 5]))
    return p


@pytest.fixture(scope='module')
def small(own, story, tmp_path_factory):
    "A bundle of our own wheel, a text, and a model by each of the three kinds of name"
    d = tmp_path_factory.mktemp('small')
    hub, mine = d / 'hub' / 'models--me--tiny', d / 'mine'
    shutil.copytree(SHIPPED, mine)
    shutil.copytree(SHIPPED, hub / 'snapshots' / ('a' * 40))
    (hub / 'refs').mkdir()
    (hub / 'refs' / 'main').write_text('a' * 40)
    code = '''import sys
from ff_nbdev.run.bundle import make_bundle
out, mine, text, own = sys.argv[1:]
make_bundle(out, ["tiny-mt5", mine, "me/tiny"], [text], wheels="own", own=own)'''
    env = dict(os.environ, HF_HUB_CACHE=str(d / 'hub'), HF_HUB_OFFLINE='1', FF_NBDEV_CACHE=str(d / 'cache'))
    r = subprocess.run(
        [sys.executable, '-c', code, *map(str, (d / 'small', mine, story, own))],
        env=env,
        capture_output=True,
        text=True,
    )
    assert not r.returncode, r.stderr
    return d / 'small'


@pytest.fixture
def copy(small, tmp_path):
    return Path(shutil.copytree(small, tmp_path / 'copy'))


def install(folder, to, python=sys.executable, **env):
    r = subprocess.run(
        ['sh', str(folder / 'install.sh'), str(to), *([str(python)] if python else [])],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )
    return r.returncode, r.stdout + r.stderr


def refused(folder, to, *args, **env):
    "The one sentence of an installer that refuses, and leaves nothing"
    status, said = install(folder, to, *args, **env)
    last = said.splitlines()[-1]
    assert (
        status == 1 and last.startswith('install.sh: ') and said.count('install.sh: ') == 1 and not Path(to).exists()
    ), said
    return last


def wheel(folder, name, version='1.0', needs=(), tag='py3-none-any'):
    folder.mkdir(exist_ok=True, parents=True)
    p = folder / f'{name}-{version}-{tag}.whl'
    info = f'{name}-{version}.dist-info'
    with zipfile.ZipFile(p, 'w') as z:
        z.writestr(
            f'{info}/METADATA',
            '\n'.join(
                [
                    f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}',
                    *(f'Provides-Extra: {e}' for e in re.findall('extra == "(.+?)"', ' '.join(needs))),
                    *(f'Requires-Dist: {n}' for n in needs),
                ]
            )
            + '\n\n',
        )
        z.writestr(f'{info}/WHEEL', f'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n')
        z.writestr(f'{info}/RECORD', '')
    return p


def sdist(folder, name, more=''):
    folder.mkdir(exist_ok=True, parents=True)
    d = folder / f'{name}-1.0'
    d.mkdir()
    (d / 'setup.py').write_text(f'''from setuptools import setup, Distribution
class Native(Distribution):
    def has_ext_modules(self): return True
setup(name="{name}", version="1.0", py_modules=["{name}"]{more})''')
    (d / f'{name}.py').write_text('x = 1')
    (d / 'PKG-INFO').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
    with tarfile.open(folder / f'{name}-1.0.tar.gz', 'w:gz') as t:
        t.add(d, d.name)
    shutil.rmtree(d)


# What is packed


def test_everything_has_its_checksum(small):
    lines = dict(reversed(l.split('  ', 1)) for l in (small / 'SHA256SUMS').read_text().splitlines())
    files = {p.relative_to(small).as_posix() for p in small.rglob('*') if p.is_file()} - {'SHA256SUMS'}
    assert set(lines) == files
    assert all(hashlib.sha256((small / n).read_bytes()).hexdigest() == d for n, d in lines.items())
    b = json.loads((small / 'bundle.json').read_text())
    assert all(lines[n] == f['sha256'] and (small / n).stat().st_size == f['bytes'] for n, f in b['files'].items())
    assert (
        b['python'] == PYTHON and b['version'] == ff_nbdev.__version__ and b['torch'] is None and len(b['commit']) >= 7
    )


def test_readme_says_how(small):
    text = (small / 'README.txt').read_text()
    for part in (
        'sh install.sh ~/ff_nbdev',
        '. ~/ff_nbdev/env.sh',
        'ff-nbdev run quick --corpus "$FF_NBDEV_CACHE/corpora/My-story"',
        'PyTorch is not inside',
        '--model me/tiny',
        '--model "$FF_NBDEV_MODELS/mine"',
    ):
        assert part in text
    assert '@' not in (small / 'install.sh').read_text().replace('"$@"', '')


def test_report(small):
    r = size_report(small).set_index('part')
    assert r.files['all'] == sum(p.is_file() for p in small.rglob('*')) == r.files.drop('all').sum()
    assert abs(r.MB['all'] - sum(p.stat().st_size for p in small.rglob('*') if p.is_file()) / 1e6) < 0.1
    assert list(largest_wheels(small).wheel) == [f'ff_nbdev-{ff_nbdev.__version__}-py3-none-any.whl']


def test_wheel_of_the_same_sources_has_the_same_bytes(own, tmp_path, monkeypatch):
    "A frozen copy, for somebody may write in the tree meanwhile"
    for f in wheels.SOURCES:
        if (ROOT / f).is_dir():
            shutil.copytree(
                ROOT / f, tmp_path / 'repo' / f, ignore=shutil.ignore_patterns('__pycache__', '*.safetensors')
            )
        else:
            (tmp_path / 'repo' / f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / f, tmp_path / 'repo' / f)
    monkeypatch.setattr(wheels, 'repository', lambda: tmp_path / 'repo')
    a, b = build_wheel(tmp_path / 'a'), build_wheel(tmp_path / 'b')
    assert a.read_bytes() == b.read_bytes() and a.name == own.name


def test_tar_holds_the_same(small, own, story, tmp_path):
    out = make_bundle(tmp_path / 'x.tar', (), [story], wheels='own', own=own, log=silent)
    with tarfile.open(out) as t:
        names = [m.name for m in t.getmembers() if m.isfile()]
    assert {'x/install.sh', 'x/text/My-story/train.txt'} <= set(names) and all(n.startswith('x/') for n in names)
    assert size_report(out).set_index('part').files['all'] == len(names)
    assert os.listdir(tmp_path) == ['x.tar']


def test_text_of_the_hub_is_found_by_its_id(own, tmp_path, monkeypatch):
    "What was brought from the hub before is packed without it, and read on the node under the same name"
    monkeypatch.setenv('FF_NBDEV_CACHE', str(tmp_path / 'here'))
    folder = cache_dir('corpora') / (
        'text-' + hashlib.sha256(json.dumps([['me/novels:de'], None, 3]).encode()).hexdigest()[:12]
    )
    write_corpus(
        [[f'Satz {chr(97 + i % 26)}{chr(97 + i // 26 % 26)} ist lang genug.' for i in range(600)]],
        folder,
        dict(source='me/novels:de'),
    )
    out = make_bundle(tmp_path / 'b', (), ['me/novels:de'], wheels='own', own=own, log=silent)
    monkeypatch.setenv('FF_NBDEV_CACHE', str(tmp_path / 'node'))
    shutil.copytree(out / 'text', tmp_path / 'node' / 'corpora')
    assert list(read_sentences(load_corpus('me/novels:de'), 'test')) == list(read_sentences(folder, 'test'))
    assert json.loads((out / 'bundle.json').read_text())['text'][0]['use'] == 'me/novels:de'


def test_two_texts_of_one_name(own, story, tmp_path):
    other = tmp_path / 'deep' / 'My story.txt'
    other.parent.mkdir()
    other.write_text(story.read_text().replace('cat', 'cow'))
    out = make_bundle(tmp_path / 'b', (), [story, other], wheels='own', own=own, log=silent)
    assert len(list((out / 'text').iterdir())) == 2


# Installing


def test_it_installs_and_runs(small, tmp_path):
    "In a folder with a space in its name, where pip's settings and PYTHONPATH would lead it elsewhere"
    to = tmp_path / 'a node' / 'env'
    status, said = install(
        small, to, PIP_INDEX_URL='http://127.0.0.1:9', PIP_NO_INDEX='0', PYTHONPATH='/nowhere', HOME=str(tmp_path)
    )
    assert status == 0 and f'ff_nbdev {ff_nbdev.__version__}' in said, said
    code = '''
import os, torch, ff_nbdev
from ff_nbdev import FFConfig, attach, load_pretrained
from ff_nbdev.data.objectives import Batches, Windows, objective_for
from ff_nbdev.data.tokens import encode_corpus
from ff_nbdev.models.tiny import model_inputs
nets = [load_pretrained(n) for n in ("tiny-mt5", "me/tiny", os.environ["FF_NBDEV_MODELS"] + "/mine")]
model, tok = nets[0]
assert all(torch.equal(m.shared.weight, model.shared.weight) for m, _ in nets)
tokens = encode_corpus(os.environ["FF_NBDEV_CACHE"] + "/corpora/My-story", tok)
ff = attach(model, FFConfig.preset("no_fzr", total_sentences=1000, forgiveness="two_letter"), tok)
batch = Batches(Windows(tokens, "train", 32), objective_for(model, tok), 4)[0]
loss = ff.loss(model(**model_inputs(batch)).logits, batch["labels"])
loss.backward()
ff.step(int(batch["sentences"].sum()))
print(ff_nbdev.__file__, tokens, ff.steps, loss.isfinite().item())'''
    words = '. "$0/env.sh"; python -c "$1"; ff-nbdev run quick --corpus "$FF_NBDEV_CACHE/corpora/My-story" --dry-run'
    before = {p.name for p in small.rglob('tokens-*')}
    r = subprocess.run(
        ['sh', '-c', words, str(to), code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=dict(os.environ, HOME=str(tmp_path)),
    )
    assert not r.returncode, r.stderr
    assert str(to / 'lib') in r.stdout and ' 1 True' in r.stdout and 'Would run: 1 x text' in r.stdout
    assert {p.name for p in to.rglob('tokens-*')} == before  # the ids came along


def test_damage_is_found(copy, tmp_path):
    train = copy / 'text' / 'My-story' / 'train.txt'
    train.write_text(train.read_text().replace('cat', 'dog'))
    assert refused(copy, tmp_path / 'n') == 'install.sh: text/My-story/train.txt is damaged: copy the bundle again.'


@pytest.mark.parametrize(
    'change',
    [
        lambda d: wheel(d / 'wheels', 'torch'),
        lambda d: (d / 'README.txt').unlink(),
        lambda d: (d / 'SHA256SUMS').write_text(''),
        lambda d: (d / 'SHA256SUMS').unlink(),
    ],
)
def test_other_files_are_found(copy, tmp_path, change):
    change(copy)
    assert 'files were added or are missing' in refused(copy, tmp_path / 'n')


def test_other_pythons_are_refused(small, tmp_path):
    old = tmp_path / 'python3'
    old.write_text('#!/bin/sh\necho 3.9\n')
    old.chmod(0o755)
    assert f'this bundle is for Python {PYTHON}, and {old} is 3.9' in refused(small, tmp_path / 'n', old)
    shutil.copy(old, tmp_path / f'python{PYTHON}')
    shutil.copy(old, tmp_path / 'python')
    assert f'this bundle is for Python {PYTHON}, and python3 is 3.9' in refused(
        small, tmp_path / 'n', None, PATH=f'{tmp_path}:/usr/bin:/bin'
    )
    assert 'no/python is missing' in refused(small, tmp_path / 'n', 'no/python')


def test_other_machines_are_refused(copy, tmp_path):
    fake = tmp_path / 'bin' / 'uname'
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho riscv64\n')
    fake.chmod(0o755)
    assert 'this machine is riscv64' in refused(copy, tmp_path / 'n', PATH=f'{fake.parent}:{os.environ["PATH"]}')
    b = json.loads((copy / 'bundle.json').read_text())
    (copy / 'install.sh').write_text(install_script(dict(b, glibc=99), 1, 0))
    assert 'need glibc 2.99' in refused(copy, tmp_path / 'n')
    n = len((copy / 'SHA256SUMS').read_text().splitlines())
    for f in ('install.sh', 'bundle.json', 'README.txt', 'SHA256SUMS'):
        (copy / f).unlink()
    b.pop('files')
    seal(copy, b)
    text = (copy / 'install.sh').read_text()
    (copy / 'install.sh').write_text(install_script(b, n, 2**60))
    sums = (copy / 'SHA256SUMS').read_text()
    was, now = (hashlib.sha256(t.encode()).hexdigest() for t in (text, (copy / 'install.sh').read_text()))
    (copy / 'SHA256SUMS').write_text(sums.replace(was, now))
    assert 'the disk has less' in refused(copy, tmp_path / 'n')


def test_what_is_left_out_must_be_there(copy, tmp_path):
    b = json.loads((copy / 'bundle.json').read_text())
    b.pop('files')
    for f in ('install.sh', 'bundle.json', 'README.txt', 'SHA256SUMS'):
        (copy / f).unlink()
    seal(copy, dict(b, lacking=['torch>=99', 'no-such-package', 'pandas>=2']))
    assert 'lacks what this bundle leaves out (torch>=99, no-such-package)' in refused(copy, tmp_path / 'n')


def test_words_of_the_installer(small, tmp_path):
    r = subprocess.run(['sh', str(small / 'install.sh')], capture_output=True, text=True)
    assert (
        r.returncode == 1
        and r.stderr == 'install.sh: give a folder that is not there yet, for example: sh install.sh ~/ff_nbdev\n'
    )
    (tmp_path / 'there').mkdir()
    status, said = install(small, tmp_path / 'there')
    assert status == 1 and 'is there already' in said
    assert 'holds a quote' in refused(small, tmp_path / "it's")


# Making


def test_killed_in_the_middle_leaves_no_bundle(own, story, tmp_path):
    code = '''import sys, time; from ff_nbdev.run.bundle import make_bundle
def say(s):
    print(s, flush=True)
    if s.startswith("text"): time.sleep(60)
make_bundle(sys.argv[1], (), [sys.argv[2]], wheels="own", own=sys.argv[3], log=say)'''
    p = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path / 'b'), str(story), str(own)], stdout=subprocess.PIPE, text=True
    )
    for l in p.stdout:
        if l.startswith('text'):
            break
    p.kill()
    p.wait()
    assert [x.name for x in tmp_path.iterdir()] == [f'b.part{p.pid}']
    make_bundle(tmp_path / 'b', (), [story], wheels='own', own=own, log=silent)
    assert [x.name for x in tmp_path.iterdir()] == ['b']  # what the killed one left is gone


def test_an_error_leaves_nothing(own, story, tmp_path, monkeypatch):
    def fail(*a, **kw):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, 'seal', fail)
    with pytest.raises(KeyboardInterrupt):
        make_bundle(tmp_path / 'b', (), [story], wheels='own', own=own, log=silent)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_nothing(own, story, tmp_path, monkeypatch):
    def fail(*a, **kw):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(bundle, 'seal', fail)
    with pytest.raises(
        OSError,
        match=r'/b could not be written, for the disk is full: [\d.,]+ MiB are needed and [\d.,]+ MiB are left in',
    ):
        make_bundle(tmp_path / 'b', (), [story], wheels='own', own=own, log=silent)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'kw, error, said',
    [
        (dict(python='3.9'), ValueError, '3.11 or newer'),
        (dict(python='2.7'), ValueError, 'no Python version'),
        (dict(python='3.12.1'), ValueError, 'major and minor'),
        (dict(platform='win_amd64'), ValueError, 'no platform that is known'),
        (dict(platform='linux_x86_64'), ValueError, 'manylinux_2_28_x86_64'),
        (dict(models=['tiny-mt6']), FileNotFoundError, 'the shipped ones are tiny-mt5'),
        (dict(models=['.']), FileNotFoundError, 'no config.json'),
        (dict(models='tiny-mt5'), TypeError, 'lists'),
        (dict(corpora=['no/such.txt']), FileNotFoundError, 'No text at'),
        (dict(corpora=['no/such.txt.xz']), FileNotFoundError, 'No text at'),
        (dict(extra_requirements=['a b']), ValueError, 'no requirement'),
        (dict(extra_requirements=['six']), ValueError, 'nothing to add'),
        (dict(leave_out=['torch']), ValueError, 'leave out'),
        (dict(leave_out=['troch'], wheels='all'), ValueError, "did you mean 'torch'?"),
        (dict(wheels='none'), ValueError, 'neither all nor own'),
        (dict(own='no.whl'), FileNotFoundError, 'no wheel of ff_nbdev'),
        (dict(lock='no.lock', wheels='all'), FileNotFoundError, '--lock'),
    ],
)
def test_mistakes_are_answered_before_anything_starts(kw, error, said, own, story, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as e:
        make_bundle(
            'b',
            **{**dict(models=(), corpora=[story], wheels='own', own=own, log=lambda s: pytest.fail('it began')), **kw},
        )
    assert said in str(e.value) and '\n' not in str(e.value) and not list(tmp_path.iterdir())


def test_models_that_are_not_there(tmp_path, monkeypatch):
    from transformers import AutoConfig

    def fail(name, **kw):
        raise OSError('a page of text\nabout connections')

    monkeypatch.setattr(AutoConfig, 'from_pretrained', fail)
    with pytest.raises(FileNotFoundError, match='not in the cache of the hub'):
        find_model('me/none')


def test_place_lock_and_repository(own, small, story, tmp_path, monkeypatch):
    go = lambda out, **kw: make_bundle(out, (), [story], wheels='own', **{'own': own, 'log': silent, **kw})
    with pytest.raises(FileExistsError, match='is there already'):
        go(small)
    (tmp_path / 'file').touch()
    with pytest.raises(NotADirectoryError, match='is a file'):
        go(tmp_path / 'file' / 'b')
    for module in (wheels, bundle):
        monkeypatch.setattr(module, 'repository', lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match='run this in a checkout.*--own-wheel'):
        go(tmp_path / 'b', own=None)
    with pytest.raises(FileNotFoundError, match='no lock file'):
        make_bundle(tmp_path / 'b', (), [story], own=own)
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: type('D', (), dict(free=2**20)))
    with pytest.raises(OSError, match='MiB free'):
        go(tmp_path / 'b')
    with pytest.raises(FileNotFoundError, match='holds no bundle'):
        size_report(tmp_path)
    (tmp_path / 'bad.lock').write_text('a==1\nb>=2\n')
    with pytest.raises(ValueError, match=r"line 2: 'b>=2'"):
        read_lock(tmp_path / 'bad.lock')


# Names that a shell would act on

HOSTILE = ['x; touch pwned', '$(touch pwned)', '`touch pwned`', "a' 'b", 'two words', '-rf', 'a&b|c>d']


def shell_words(line, tmp_path):
    "What pip is given by a line of the installer"
    code = 'pip() { for w in "$@"; do printf "%s\\n" "$w"; done; }; die() { :; }; here=/bundle; ' + line
    r = subprocess.run(['sh', '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert not r.returncode and not r.stderr, r.stderr
    return r.stdout.splitlines()


@pytest.mark.parametrize(
    'asked',
    [
        'six; platform_version != "$(touch pwned)"',
        'six; platform_version != "`touch pwned`"',
        'six; python_version < "4"',
        'six>=1,<9',
        "six; platform_version != 'a b'",
    ],
)
def test_added_packages_reach_pip_as_they_are(asked, tmp_path):
    word = str(Requirement(asked))
    b = dict(
        version='1.0',
        python='3.12',
        platform='manylinux_2_28_x86_64',
        glibc=28,
        wheels='all',
        lacking=[],
        extra_requirements=[word],
    )
    line = next(l for l in install_script(b, 1, 1).splitlines() if l.startswith('pip install'))
    assert shell_words(line.removesuffix('||'), tmp_path)[-2:] == ['ff_nbdev==1.0', word]
    assert not list(tmp_path.iterdir()), 'a package name was run by the shell'


@pytest.mark.parametrize('name', HOSTILE)
def test_names_of_models_and_texts_mean_nothing_to_a_shell(name, story, tmp_path):
    mine = tmp_path / name
    shutil.copytree(SHIPPED, mine, ignore=shutil.ignore_patterns('*.safetensors', 'train.json'))
    m = find_model(str(mine))
    text = packing.text_name(tmp_path / f'{name}.txt', Path('text-1'))
    for n in (m['name'], text):
        assert n and not set(n) - set('abcdefghijklmnopqrstuvwxyz-_.0123456789') and n[0] not in '-.', n
    (tmp_path / 'empty').mkdir()
    r = subprocess.run(
        ['sh', '-c', f'printf "%s" {m["use"]}'],
        cwd=tmp_path / 'empty',
        env=dict(FF_NBDEV_MODELS='/models'),
        capture_output=True,
        text=True,
    )
    assert r.stdout == f'/models/{m["name"]}' and not list((tmp_path / 'empty').iterdir())


def test_a_bundle_of_hostile_names_installs_nothing_else(own, story, tmp_path):
    "The whole way: names of a folder, a text and the bundle itself; a shell reads the script, and nothing is run by it"
    mine, text = tmp_path / 'in' / 'x; touch pwned', tmp_path / 'in' / '$(touch pwned).txt'
    shutil.copytree(SHIPPED, mine)
    shutil.copy(story, text)
    out = make_bundle(tmp_path / 'b; touch pwned', [mine], [text], wheels='own', own=own, log=silent)
    assert not subprocess.run(['sh', '-n', str(out / 'install.sh')]).returncode
    said = refused(out, tmp_path / 'to', tmp_path / 'no python')
    assert 'this bundle is for Python' in said and not list(tmp_path.rglob('pwned'))
    command = next(l for l in (out / 'README.txt').read_text().splitlines() if 'ff-nbdev run' in l)
    assert command.split()[4:] == [
        '"$FF_NBDEV_MODELS/x-touch-pwned"',
        '--corpus',
        '"$FF_NBDEV_CACHE/corpora/touch-pwned"',
    ], command


def test_a_name_with_a_line_break_is_refused(tmp_path):
    mine = tmp_path / 'mine'
    shutil.copytree(SHIPPED, mine, ignore=shutil.ignore_patterns('*.safetensors'))
    (mine / 'two\nlines.json').write_text('{}')
    with pytest.raises(ValueError, match='without line breaks'):
        find_model(str(mine))


def test_a_wheel_that_is_none_of_ours(story, tmp_path):
    folder = tmp_path / 'w'
    for name, text in dict(cut=b'PK', other=None, odd=None).items():
        p = folder / name / 'ff_nbdev-1.0-py3-none-any.whl'
        p.parent.mkdir(parents=True)
        if text is not None:
            p.write_bytes(text)
        else:
            wheel(
                p.parent,
                'other' if name == 'other' else 'ff_nbdev',
                '1.0' if name == 'other' else "1.0'; touch pwned; '",
            ).rename(p)
        with pytest.raises(ValueError, match='wheel'):
            make_bundle(tmp_path / 'b', (), [story], wheels='own', own=p, log=silent)
    assert [p.name for p in tmp_path.iterdir()] == ['w']


# Wheels for another node, from a folder in place of an index


@pytest.fixture
def index(tmp_path, monkeypatch):
    for k, v in dict(
        PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX='1', PIP_FIND_LINKS=str(tmp_path / 'index'), PIP_NO_BUILD_ISOLATION='0'
    ).items():
        monkeypatch.setenv(k, v)
    return tmp_path / 'index'


def fill_index(index):
    "Wheels for several nodes, and packages that need others under conditions"
    for tag in (
        'cp311-cp311-manylinux_2_17_x86_64',
        'cp312-cp312-manylinux2014_x86_64',
        'cp312-cp312-manylinux_2_31_x86_64',
        'cp312-cp312-manylinux_2_17_aarch64',
    ):
        wheel(index, 'fast', tag=tag)
    by_version = 'new; python_version >= "3.12"', 'old; python_version < "3.12"'
    wheel(index, 'app', needs=['fast>=1', *by_version, 'extra[http]', 'not_here; extra == "dev"'])
    wheel(index, 'new')
    wheel(index, 'old')
    wheel(index, 'extra', needs=['web; extra == "http"'])
    wheel(index, 'web', '1.0')
    wheel(index, 'web', '2.0')
    sdist(index, 'pure')


def test_wheels_are_those_of_the_node(index, tmp_path):
    fill_index(index)
    said, asked = [], [Requirement('app'), Requirement('pure')]
    made = fetch_wheels(tmp_path, asked, dict(web='1.0', app='1.0', pure='1.0'), NODE, log=said.append)
    assert sorted(made) == ['app', 'extra', 'fast', 'new', 'pure', 'web'] and any(
        'not in the lock: extra, fast, new' in s for s in said
    )
    assert (
        made['fast'].name.endswith('cp312-manylinux2014_x86_64.whl')
        and '1.0' in made['web'].name
        and lacking(made, NODE) == []
    )
    (tmp_path / 'b').mkdir()
    made = fetch_wheels(tmp_path / 'b', [Requirement('app')], dict(fast='1.0'), NODE, leave_out=['Fast'], log=silent)
    assert 'fast' not in made and not list((tmp_path / 'b').glob('fast*')) and lacking(made, NODE) == ['fast>=1']


def test_what_pip_cannot_fetch(index, tmp_path, monkeypatch):
    sdist(index, 'native', ', distclass=Native')
    wheel(index, 'picky', needs=['calm<1'])
    wheel(index, 'calm')
    with pytest.raises(RunError, match='is not pure Python: build its wheel'):
        fetch_wheels(tmp_path, [Requirement('native')], {}, NODE, log=silent)
    with pytest.raises(RunError, match='calm<1'):
        fetch_wheels(tmp_path, [Requirement('picky')], dict(calm='1.0'), NODE, log=silent)
    with pytest.raises(RunError, match='absent has no wheel for Python 3.12 on manylinux_2_28_x86_64'):
        fetch_wheels(tmp_path, [Requirement('absent')], {}, NODE, log=silent)
    for k, v in dict(PIP_NO_INDEX='0', PIP_INDEX_URL='http://127.0.0.1:9/simple', PIP_FIND_LINKS='').items():
        monkeypatch.setenv(k, v)
    with pytest.raises(RunError, match='could not reach its index'):
        fetch_wheels(tmp_path, [Requirement('absent')], {}, NODE, log=silent)


def test_tags_and_markers():
    assert (
        accepted_tags('manylinux2014_aarch64')[:2] == ['manylinux_2_17_aarch64', 'manylinux2014_aarch64']
        and Target('3.13', 'manylinux_2_40_x86_64').arch == 'x86_64'
    )
    answers = Target('3.11', 'manylinux2014_aarch64').answers
    for word in ('a; platform_machine == "aarch64"', 'b; sys_platform == "linux"', 'c; python_version < "3.12"'):
        assert Requirement(word).marker.evaluate(answers)
    assert not Requirement('d; extra == "dev"').marker.evaluate(answers | dict(extra=''))


@pytest.mark.parametrize(
    'source, name',
    [
        ('data/My story.txt.xz', 'My-story'),
        ('~/text/*.txt', 'txt'),
        ('a/b:c', 'text-1'),
        ('python_prose', 'text-1'),
        ('*', 'text-1'),
    ],
)
def test_names_of_texts(source, name):
    assert packing.text_name(source, Path('text-1')) == name


def test_what_our_own_wheel_needs(own):
    found = [Requirement(line) for line in wheels.wheel_metadata(own).get_all('Requires-Dist')]

    def names(extra):
        return {r.name for r in found if not r.marker or r.marker.evaluate(NODE.answers | dict(extra=extra))}

    assert {'nbdev', 'jupyterlab', 'pytest'} <= names('dev') - names('')
    assert least_glibc([own.name]) == 0 and wheels.wheels_in(own.parent) == {'ff-nbdev': own}


# The whole, from the index


@slow
def test_whole_bundle_installs_with_no_network(story, tmp_path):
    out = make_bundle(tmp_path / 'node.tar', corpora=[story], log=silent)
    with tarfile.open(out) as t:
        t.extractall(tmp_path, filter='data')
    b = json.loads((tmp_path / 'node' / 'bundle.json').read_text())
    assert b['torch'] and b['lacking'] == [] and b['wheels'] == 'all'
    alone = (
        ['unshare', '-n']
        if shutil.which('unshare') and not subprocess.run(['unshare', '-n', 'true'], capture_output=True).returncode
        else []
    )
    steps = (
        'sh node/install.sh env "$0"',
        '. ./env/env.sh',
        'ff-nbdev run quick --corpus "$FF_NBDEV_CACHE/corpora/My-story" --dry-run',
        'python -c "import ff_nbdev, torch; ff_nbdev.load_pretrained(); print(torch.__file__)"',
    )
    words = ' && '.join(steps)
    env = dict(HOME=str(tmp_path / 'home'), PATH='/usr/bin:/bin', PIP_NO_INDEX='1')
    start = time.time()
    r = subprocess.run(
        [*alone, 'sh', '-c', words, sys.executable], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert not r.returncode and str(tmp_path / 'env') in r.stdout.splitlines()[-1], r.stderr
    print(size_report(out), f'{time.time() - start:.0f} s')
