"""The same run over one, two and four processes."""
import json
import socket
import subprocess
import sys

import pytest
import torch
import train_tiny
from conftest import PROCESSES

pytestmark = pytest.mark.usefixtures('imported')

def launch(n, out, *words):
    "As users start it: `accelerate launch`"
    r = subprocess.run([sys.executable, '-m', 'accelerate.commands.launch', *(['--multi_gpu'] if n > 1 else []), '--num_processes', str(n), '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', '0', train_tiny.__file__, str(out), '--double', *words], capture_output=True, text=True, timeout=240)
    assert r.returncode == 0, r.stdout[-2000:] + r.stderr[-2000:]
    return ended(n, out)

def forked(n, out, *words):
    "With the environment that a launcher gives each process, and without the imports, which take longer than the run"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    given = [str(out), '--double', *words]
    ps = [PROCESSES.Process(target=train_tiny.ranked, args=(out/f'log{i}', i, n, port, given), daemon=True) for i in range(n)]
    for p in ps: p.start()
    for p in ps: p.join(240)
    assert [p.exitcode for p in ps] == [0]*n, '\n'.join((out/f'log{i}').read_text()[-2000:] for i in range(n))
    return ended(n, out)

def ended(n, out):
    "Weights, what was told, and the method's state, of every rank"
    return [(torch.load(out/f'end{i}.pt', weights_only=True), json.loads((out/f'end{i}.json').read_text()), (out/f'end{i}'/'ff_state.safetensors').read_bytes()) for i in range(n)]

def far(a, b): return max((a[k] - b[k]).abs().max().item() for k in a)


@pytest.fixture(scope='module')
def one(tmp_path_factory): return forked(1, tmp_path_factory.mktemp('one'), '--micro', '8')[0]

@pytest.mark.parametrize('start, n, words', [(launch, 2, ['--micro', '4']), (forked, 4, ['--micro', '2']), (forked, 2, ['--micro', '2', '--accumulate', '2'])])
def test_many_processes_go_where_one_goes(one, start, n, words, tmp_path):
    "In double precision, so that little is left but rounding (the noise itself is drawn in single)"
    ranks = start(n, tmp_path, *words)
    for weights, told, state in ranks:
        assert far(weights, one[0]) < 1e-7 and told['pulses'] == one[1]['pulses'] and sum(told['pulses']) > 0 and told['sentences'] == one[1]['sentences']
        assert state == ranks[0][2]                                              # doses and usage, on every rank
        assert all(torch.equal(weights[k], ranks[0][0][k]) for k in weights)
    from safetensors.torch import load
    mine, single = load(ranks[0][2]), load(one[2])
    assert all((mine[k].double() - single[k].double()).abs().max() < 1e-6 for k in mine) and any(k.startswith('usage') and single[k].std() > 0 for k in single)

def test_a_rank_without_targets_and_a_stream_go_where_one_process_goes(tmp_path):
    "In the first step one rank has no target at all, and its windows come from an iterable data set, which is read twice"
    for name in ('one', 'two'): (tmp_path/name).mkdir()
    (single, told, state), = forked(1, tmp_path/'one', '--micro', '8', '--hollow')
    for weights, other, _ in forked(2, tmp_path/'two', '--micro', '4', '--hollow', '--stream'):
        assert all(w.isfinite().all() for w in weights.values()) and far(weights, single) < 1e-7
        assert other['pulses'] == told['pulses'] and sum(told['pulses']) > 0 and other['sentences'] == told['sentences']


SHARDED = '''import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig, RecallConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.tiny import random_tiny
dist.init_process_group('gloo'); rank = dist.get_rank(); torch.set_num_threads(1)
def train(sharded):
    torch.manual_seed(0); model = random_tiny('mt5').double().train()
    ff = attach(model, FFConfig(total_sentences=96, forgetfulness=ForgetfulnessConfig(dose=.6), recall=RecallConfig(top=2., start=.3)))
    if sharded:
        mesh = init_device_mesh('cpu', (dist.get_world_size(),))
        for stack in (model.encoder, model.decoder):
            for b in stack.block: fully_shard(b, mesh=mesh)
        fully_shard(model, mesh=mesh)
    opt = torch.optim.SGD(model.parameters(), 1e-2)
    for s in range(6):
        x = torch.randint(3, 500, (4, 12), generator=torch.Generator().manual_seed(s))
        part = x.chunk(dist.get_world_size())[rank]
        ff.loss(model(input_ids=part, labels=part).logits, part, targets=x.numel()).mul(dist.get_world_size()).backward()
        if not sharded:
            for p in model.parameters(): dist.all_reduce(p.grad); p.grad /= dist.get_world_size()
        opt.step(); opt.zero_grad(); ff.step(sentences=16)
    assert sharded == isinstance(ff.sites[0].weight('down'), DTensor) and ff.pulses.sum() > 0
    return {k: (v.full_tensor() if isinstance(v, DTensor) else v).detach() for k, v in model.state_dict().items()}, ff
(a, f), (b, g) = train(True), train(False)
worst = max((a[k] - b[k]).abs().max().item() for k in a)
assert worst < 1e-10 and torch.equal(f.doses, g.doses) and all(torch.allclose(u, v) for u, v in zip(f.usage, g.usage)), worst
if rank == 0: print('worst', worst)
dist.destroy_process_group()
'''

def test_fully_sharded_matrices_are_pulsed_whole(tmp_path):
    (tmp_path/'sharded.py').write_text(SHARDED)
    r = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', str(tmp_path/'sharded.py')], capture_output=True, text=True, timeout=240)
    assert r.returncode == 0 and 'worst' in r.stdout, r.stdout[-1500:] + r.stderr[-3000:]

def test_what_would_train_something_else_is_refused(tmp_path, monkeypatch):
    from transformers import TrainingArguments

    from ff_nbdev.mechanisms.config import FFConfig
    from ff_nbdev.mechanisms.method import attach
    from ff_nbdev.models.tiny import random_tiny
    from ff_nbdev.training.trainer import FFTrainer
    make = lambda: (lambda m: FFTrainer(model=m, args=TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]), ff=attach(m, FFConfig())))(random_tiny())
    monkeypatch.setenv('ACCELERATE_USE_FSDP', 'true')
    with pytest.raises(ValueError, match='fully_shard in a loop of your own'): make()
    monkeypatch.delenv('ACCELERATE_USE_FSDP'); monkeypatch.setattr(TrainingArguments, 'n_gpu', property(lambda self: 2))
    with pytest.raises(ValueError, match='accelerate launch'): make()
