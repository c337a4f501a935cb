"""The same run over one, two and four processes."""

import json
import socket
import subprocess
import sys

import pytest
import torch
import train_sharded
import train_tiny
from conftest import PROCESSES

pytestmark = pytest.mark.usefixtures('imported')


def launch(n, out, *words):
    "As users start it: `accelerate launch`"
    r = subprocess.run(
        [
            sys.executable,
            '-m',
            'accelerate.commands.launch',
            *(['--multi_gpu'] if n > 1 else []),
            '--num_processes',
            str(n),
            '--num_machines',
            '1',
            '--mixed_precision',
            'no',
            '--dynamo_backend',
            'no',
            '--main_process_port',
            '0',
            train_tiny.__file__,
            str(out),
            '--double',
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert r.returncode == 0, r.stdout[-2000:] + r.stderr[-2000:]
    return ended(n, out)


def forked(n, out, *words):
    "With the environment that a launcher gives each process, and without the imports, which take longer than the run"
    started(train_tiny.train, n, out, [str(out), '--double', *words])
    return ended(n, out)


def started(train, n, out, words):
    "The logs of n processes that each call `train`"
    logs = [out / f'log{i}' for i in range(n)]
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    ranks = [
        PROCESSES.Process(target=train_tiny.ranked, args=(train, log, i, n, port, words), daemon=True)
        for i, log in enumerate(logs)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(240)
    assert [rank.exitcode for rank in ranks] == [0] * n, '\n'.join(log.read_text()[-3000:] for log in logs)
    return logs


def ended(n, out):
    "Weights, what was told, and the method's state, of every rank"
    return [
        (
            torch.load(out / f'end{i}.pt', weights_only=True),
            json.loads((out / f'end{i}.json').read_text()),
            (out / f'end{i}' / 'ff_state.safetensors').read_bytes(),
        )
        for i in range(n)
    ]


def far(a, b):
    return max((a[k] - b[k]).abs().max().item() for k in a)


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    return forked(1, tmp_path_factory.mktemp('one'), '--micro', '8')[0]


@pytest.mark.parametrize(
    'start, n, words',
    [(launch, 2, ['--micro', '4']), (forked, 4, ['--micro', '2']), (forked, 2, ['--micro', '2', '--accumulate', '2'])],
)
def test_many_processes_go_where_one_goes(one, start, n, words, tmp_path):
    "In double precision, so that little is left but rounding (the noise itself is drawn in single)"
    ranks = start(n, tmp_path, *words)
    for weights, told, state in ranks:
        assert (
            far(weights, one[0]) < 1e-7
            and told['pulses'] == one[1]['pulses']
            and sum(told['pulses']) > 0
            and told['sentences'] == one[1]['sentences']
        )
        assert state == ranks[0][2]  # doses and usage, on every rank
        assert all(torch.equal(weights[k], ranks[0][0][k]) for k in weights)
    from safetensors.torch import load

    mine, single = load(ranks[0][2]), load(one[2])
    assert all((mine[k].double() - single[k].double()).abs().max() < 1e-6 for k in mine) and any(
        k.startswith('usage') and single[k].std() > 0 for k in single
    )


def test_a_rank_without_targets_and_a_stream_go_where_one_process_goes(tmp_path):
    "In the first step one rank has no target at all; its windows come from an iterable data set, which is read twice"
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
    ((single, told, state),) = forked(1, tmp_path / 'one', '--micro', '8', '--hollow')
    for weights, other, _ in forked(2, tmp_path / 'two', '--micro', '4', '--hollow', '--stream'):
        assert all(w.isfinite().all() for w in weights.values()) and far(weights, single) < 1e-7
        assert other['pulses'] == told['pulses'] and sum(told['pulses']) > 0 and other['sentences'] == told['sentences']


def test_fully_sharded_matrices_are_pulsed_whole(tmp_path):
    "Sharded over two processes against whole in both: `train_sharded.compare` raises where they part"
    logs = started(train_sharded.compare, 2, tmp_path, [])
    assert 'worst' in logs[0].read_text()


def test_what_would_train_something_else_is_refused(tmp_path, monkeypatch):
    from transformers import TrainingArguments

    from ff_nbdev.mechanisms.config import FFConfig
    from ff_nbdev.mechanisms.method import attach
    from ff_nbdev.models.tiny import random_tiny
    from ff_nbdev.training.trainer import FFTrainer

    make = lambda: (
        lambda m: FFTrainer(
            model=m, args=TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]), ff=attach(m, FFConfig())
        )
    )(random_tiny())
    monkeypatch.setenv('ACCELERATE_USE_FSDP', 'true')
    with pytest.raises(ValueError, match='fully_shard in a loop of your own'):
        make()
    monkeypatch.delenv('ACCELERATE_USE_FSDP')
    monkeypatch.setattr(TrainingArguments, 'n_gpu', property(lambda self: 2))
    with pytest.raises(ValueError, match='accelerate launch'):
        make()
