"""Training with fully sharded matrices beside training with whole ones, for processes that have imported everything."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig, RecallConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.tiny import random_tiny


def shard(model):
    "Every block, and what is around them"
    mesh = init_device_mesh('cpu', (dist.get_world_size(),))
    for stack in (model.encoder, model.decoder):
        for block in stack.block:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def average_gradients(model):
    "What `fully_shard` does of itself"
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= dist.get_world_size()


def train(sharded):
    "Whole weights by name, and the method, after six steps"
    torch.manual_seed(0)
    model = random_tiny('mt5').double().train()
    recall = RecallConfig(top=2.0, start=0.3)
    ff = attach(model, FFConfig(total_sentences=96, forgetfulness=ForgetfulnessConfig(dose=0.6), recall=recall))
    if sharded:
        shard(model)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    for step in range(6):
        x = torch.randint(3, 500, (4, 12), generator=torch.Generator().manual_seed(step))
        part = x.chunk(dist.get_world_size())[dist.get_rank()]
        loss = ff.loss(model(input_ids=part, labels=part).logits, part, targets=x.numel())
        loss.mul(dist.get_world_size()).backward()
        if not sharded:
            average_gradients(model)
        optimizer.step()
        optimizer.zero_grad()
        ff.step(sentences=16)
    assert sharded == isinstance(ff.sites[0].weight('down'), DTensor) and ff.pulses.sum() > 0
    weights = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in model.state_dict().items()}
    return {k: v.detach() for k, v in weights.items()}, ff


def compare(words):
    "Train both ways; weights, doses and usage are the same"
    dist.init_process_group('gloo')
    torch.set_num_threads(1)
    (a, f), (b, g) = train(True), train(False)
    worst = max((a[k] - b[k]).abs().max().item() for k in a)
    assert worst < 1e-10, worst
    assert torch.equal(f.doses, g.doses)
    assert all(torch.allclose(u, v) for u, v in zip(f.usage, g.usage))
    if dist.get_rank() == 0:
        print('worst', worst, flush=True)
    dist.destroy_process_group()
