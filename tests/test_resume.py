"""A run that is killed, at any moment, goes on and ends with the same bits."""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import train_tiny
from conftest import PROCESSES, ROOT

from ff_nbdev.training.checkpoints import check_checkpoint, checkpoints, last_checkpoint, load_nest, save_nest, seal

pytestmark = pytest.mark.usefixtures('imported')


def begin(f, words, log):
    p = PROCESSES.Process(target=train_tiny.apart, args=(log, f, list(map(str, words))), daemon=True)
    p.start()
    return p


def run(f, *words):
    "To its end: its exit status, and what it said"
    with tempfile.NamedTemporaryFile('r') as log:
        p = begin(f, words, log.name)
        p.join(500)
        return SimpleNamespace(returncode=p.exitcode, said=log.read())


def words(out, more):
    return out, '--save', '2', *more


def go(out, *more):
    return run(train_tiny.train, *words(out, more))


def end(out):
    return {n: (out / n).read_bytes() for n in ('end0/ff_state.safetensors',)} | {'weights': weights(out)}


def weights(out):
    import torch

    return {k: v.numpy().tobytes() for k, v in torch.load(out / 'end0.pt', weights_only=True).items()}


def told(out):
    return json.loads((out / 'end0.json').read_text())


def until_done(out, *words):
    "Start it again and again"
    for _ in range(6):
        r = go(out, *words)
        if r.returncode == 0:
            return r
    raise AssertionError(r.said)


@pytest.fixture(scope='module')
def calm(tmp_path_factory):
    "An undisturbed run with dropout, by a script that is started as users start theirs"
    out = tmp_path_factory.mktemp('calm')
    r = subprocess.run(
        [sys.executable, train_tiny.__file__, *map(str, words(out, ['--dropout', '.1']))],
        capture_output=True,
        text=True,
    )
    assert r.returncode == 0, r.stderr
    return out


@pytest.mark.parametrize(
    'kill, left', [('step 5', 4), ('in checkpoint 4', 2), ('before seal 4', 2), ('after seal 6', 6)]
)
def test_killed_there_it_ends_with_the_same_bits(calm, tmp_path, promise, kill, left):
    r = go(tmp_path, '--dropout', '.1', '--kill', kill)
    assert r.returncode == -signal.SIGKILL, r.said
    for c in checkpoints(tmp_path):
        check_checkpoint(c)  # what can be seen is whole
    assert int(checkpoints(tmp_path)[-1].name.split('-')[1]) == left
    r = until_done(tmp_path, '--dropout', '.1')
    assert told(tmp_path)['began'] == left and end(tmp_path) == end(calm)
    # as many as were asked for, and no rest
    assert len(checkpoints(tmp_path)) == 2
    assert not list(tmp_path.glob('.part-*'))
    promise.one_of('Runs killed with SIGKILL, at four moments of a step, that end with the same bits', 4)


def test_killed_at_random_moments(calm, tmp_path):
    rng, ends = random.Random(0), []
    for _ in range(3):
        before = checkpoints(tmp_path)
        p = begin(train_tiny.train, words(tmp_path, ['--dropout', '.1']), tmp_path / 'log')
        # it has gone further than the one before it
        while checkpoints(tmp_path) == before and p.is_alive():
            time.sleep(0.01)
        time.sleep(rng.random() * 0.1)
        p.kill()
        p.join()
        ends.append(p.exitcode)
    assert -signal.SIGKILL in ends
    until_done(tmp_path, '--dropout', '.1')
    assert end(tmp_path) == end(calm)


def test_a_damaged_checkpoint_is_named_and_passed_over(calm, tmp_path):
    go(tmp_path, '--dropout', '.1', '--kill', 'step 7')
    with open(tmp_path / 'checkpoint-6' / 'model.safetensors', 'r+b') as f:
        f.seek(-3, 2)
        f.write(b'abc')
    r = until_done(tmp_path, '--dropout', '.1')
    assert 'checkpoint-6/model.safetensors is not as it was written' in r.said
    assert told(tmp_path)['began'] == 4
    assert end(tmp_path) == end(calm)


def test_rwkv_and_adafactor_too(tmp_path):
    rwkv = ['--arch', 'rwkv', '--optimizer', 'adafactor']
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda x: go(*x), [(tmp_path / 'a', *rwkv), (tmp_path / 'b', *rwkv, '--kill', 'step 5')])
    assert a.returncode == 0 and b.returncode == -signal.SIGKILL, a.said
    until_done(tmp_path / 'b', *rwkv)
    assert told(tmp_path / 'b')['began'] == 4 and end(tmp_path / 'b') == end(tmp_path / 'a')


def test_a_run_that_was_killed_keeps_its_log_and_bands(tmp_path):
    trained = lambda out, how: run(train_tiny.train_run, tmp_path / out, how)
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda x: trained(*x), [('a', 'calm'), ('b', '3')])
    assert a.returncode == 0 and b.returncode == -signal.SIGKILL, a.said + b.said
    assert (tmp_path / 'b' / 'checkpoints' / 'checkpoint-2').is_dir() and not (tmp_path / 'b' / 'train.json').exists()
    c = trained('b', 'calm')
    assert c.returncode == 0, c.said
    one, two = (json.loads((tmp_path / x / 'train.json').read_text()) for x in 'ab')

    def plain(rows):
        return [dict(row, seconds=None) for row in rows]

    assert plain(one['log']) == plain(two['log']) and one['valid'] == two['valid'] and len(one['log']) == one['steps']
    assert (tmp_path / 'a' / 'model' / 'model.safetensors').read_bytes() == (
        tmp_path / 'b' / 'model' / 'model.safetensors'
    ).read_bytes()
    assert (tmp_path / 'a' / 'bands.npz').read_bytes() == (tmp_path / 'b' / 'bands.npz').read_bytes() or _arrays(
        tmp_path / 'a'
    ) == _arrays(tmp_path / 'b')
    assert not (tmp_path / 'b' / 'checkpoints').exists()


def _arrays(folder):
    import numpy as np

    with np.load(folder / 'bands.npz') as z:
        return {k: z[k].tobytes() for k in z.files}


def test_checkpoints_of_another_plan_or_code_are_not_gone_on_with(tmp_path):
    from ff_nbdev.run.train import _checkpoints
    from ff_nbdev.run.prepare import Plan

    plan = Plan('no_fzr', 'tiny-mt5', 'python_prose', str(tmp_path))
    folder = _checkpoints(plan, True)
    (folder / 'checkpoint-3').mkdir()
    assert (_checkpoints(plan, True) / 'checkpoint-3').is_dir()
    assert not (
        _checkpoints(Plan('no_fzr', 'tiny-mt5', 'python_prose', str(tmp_path), seed=1), True) / 'checkpoint-3'
    ).exists()
    (folder / 'checkpoint-3').mkdir()
    Path(folder / 'belongs.txt').write_text('other code')
    assert not (_checkpoints(plan, True) / 'checkpoint-3').exists()
    shutil.rmtree(folder)


def test_a_run_that_was_over_is_not_trained_on(tmp_path):
    go(tmp_path)
    before = end(tmp_path)
    r = go(tmp_path)
    assert r.returncode == 0
    assert told(tmp_path)['began'] == 8
    assert end(tmp_path) == before
    assert [c.name for c in checkpoints(tmp_path)] == ['checkpoint-6', 'checkpoint-8']


def test_checkpoints_of_another_training_are_taken_away(tmp_path):
    "The cell of experiments/pretrain that goes on from a checkpoint, over the checkpoints of a run of another length"
    part = tmp_path / '.part-11'
    part.mkdir()
    save_nest(dict(step=11, steps=12, log=[], belongs='a run', model={}), part / 'state.safetensors')
    seal(part, tmp_path / 'checkpoint-11', step=11)
    nb = json.loads((ROOT / 'nbs' / 'experiments' / 'pretrain.ipynb').read_text())
    (cell,) = [''.join(c['source']) for c in nb['cells'] if 'if newest := last_checkpoint(' in ''.join(c['source'])]
    names = dict(out=tmp_path, belongs='a run', steps=40, arch='mt5', d_ff=None, opts=[], model=None, time=time)
    names |= dict(last_checkpoint=last_checkpoint, load_nest=load_nest, checkpoints=checkpoints, shutil=shutil)
    exec(cell, names | dict(Progress=lambda node: node), names)
    assert names['done'] == 0 and not checkpoints(tmp_path)
