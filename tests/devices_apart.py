"""In a process of its own, for a device is registered once: what the method does on the pretended GPU, as JSON."""

import json
import sys
import warnings

import pretended_gpu as g
import torch

warnings.simplefilter('ignore')
g.register()

from ff_nbdev.benchmarks.measures import linear_loss
from ff_nbdev.data.corpus import load_corpus
from ff_nbdev.data.objectives import Windows
from ff_nbdev.data.tokens import encode_corpus
from ff_nbdev.evaluation.activations import collect, mean_activation, random_places
from ff_nbdev.evaluation.spatial import morans_i
from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig, ForgivenessConfig, RecallConfig
from ff_nbdev.mechanisms.forgetfulness import proximal_kernel, pulse_
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.tiny import load_pretrained, new_model
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.wkv import fast_wkv


def config(kind):
    return FFConfig(
        total_sentences=10**6,
        recall=RecallConfig(top=9.6, start=0.0),
        forgetfulness=ForgetfulnessConfig(dose=5.4),
        forgiveness=ForgivenessConfig(kind=kind),
    )


def small(arch):
    if arch == 'mt5':
        return new_model(arch, 300, d_model=32, d_ff=128, d_kv=8, dropout_rate=0.1)
    return new_model(arch, 300, hidden_size=32, intermediate_size=128, num_hidden_layers=2)


def ids(shape, device):
    x = torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(0))
    return x if device == 'cpu' else g.OnGPU(x)


class Story:
    "A training step on one device, told part by part: an error each, and where a GPU would be waited for"

    def __init__(self):
        self.told, self.values = {}, {}

    def part(self, name, f):
        g.syncs.clear()
        try:
            value, error = f(), None
        except Exception as e:
            if sys.argv[1:]:
                import traceback

                traceback.print_exc()
            value, error = None, f'{type(e).__name__}: {" ".join(str(e).split())[:300]}'
        self.told[name] = dict(error=error, syncs=dict(g.syncs))
        if isinstance(value, torch.Tensor):
            value = (value.inner if g._is_gpu(value) else value).detach().double().sum().item()
        self.values[name] = value if isinstance(value, (int, float)) else None
        return value


def tokenized(arch):
    "A tiny model whose vocabulary is that of a tokenizer, and the tokenizer"
    tokenizer = load_pretrained(f'tiny-{arch}')[1]
    widths = dict(mt5=dict(d_model=32, d_ff=128, d_kv=8)).get(
        arch, dict(hidden_size=32, intermediate_size=128, num_hidden_layers=2)
    )
    return new_model(arch, len(tokenizer), **widths), tokenizer


class Step:
    "The parts of one training step"

    def __init__(self, arch, kind, device):
        self.model, tokenizer = small(arch), None
        if kind == 'two_letter':
            self.model, tokenizer = tokenized(arch)
        self.ff = attach(self.model, config(kind), tokenizer)
        self.ff.sentences = 900_000
        if device != 'cpu':
            g.moved(self.model)
        self.ids = ids((4, 16), device)
        self.batch = dict(input_ids=self.ids, labels=self.ids)
        if arch == 'mt5':
            self.batch['attention_mask'] = torch.ones_like(self.ids)
        self.near = None
        if kind == 'conceptual':
            self.near = ids((4, 16, 10), device), torch.full((4, 16, 10), 0.4, device=self.ids.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3, foreach=False, fused=False)

    def forward(self):
        with fast_wkv():
            self.out = self.model(**self.batch)
        return self.out.logits

    def find_loss(self):
        self.loss = self.ff.loss(self.out.logits, self.ids, alternatives=self.near)
        return self.loss

    def due(self, sentences):
        "The pulses that a step of so many sentences gave"
        before = self.ff.pulses.sum().item()
        self.ff.step(sentences=sentences)
        return self.ff.pulses.sum().item() - before


def trained(arch, kind, device):
    "Forward with noise, loss, backward, optimizer, pulses, step"
    torch.manual_seed(0)
    step, story = Step(arch, kind, device), Story()
    story.part('forward with noise', step.forward)
    story.part('loss', step.find_loss)
    story.part('backward', lambda: step.loss.backward())
    story.part('optimizer', lambda: step.optimizer.step())
    story.part('step without a pulse', lambda: step.due(1))
    story.part('step with pulses', lambda: step.due(40_000))
    story.part('diagnostics', lambda: step.ff.last['ce'])
    story.part('state', lambda: len(step.ff.state()))
    plain = [p.inner if g._is_gpu(p) else p for p in step.model.parameters()]
    return story, sum(p.double().abs().sum().item() for p in plain)


def pieces(device):
    "Single functions"
    story = Story()

    def on(t):
        return t if device == 'cpu' else g.OnGPU(t)

    def draw(*shape):
        return on(torch.randn(shape, generator=torch.Generator().manual_seed(1)))

    for dtype in (torch.float32, torch.bfloat16):
        w, rest = draw(20, 30).to(dtype), on(torch.zeros(20, 30, dtype=dtype))
        story.part(
            f'pulse_, {dtype}', lambda: pulse_(w, proximal_kernel(), 0.03, rest if dtype == torch.bfloat16 else None)
        )
    story.part('morans_i', lambda: morans_i(draw(20, 30)))
    story.part('morans_i of a batch', lambda: morans_i(draw(3, 20, 30)))

    def linear():
        hidden, weight = draw(6, 8).requires_grad_(), draw(50, 8).requires_grad_()
        loss = linear_loss(hidden, weight, on(torch.arange(6)), on(torch.arange(50, dtype=torch.int32) % 7))
        loss.backward()
        return loss

    story.part('linear loss', linear)
    return story


def readings(device):
    "What an evaluation reads from a shipped model"
    story = Story()
    model, tokenizer = load_pretrained('tiny-rwkv')
    sites = find_sites(model)  # which knows plain tensors only
    if device != 'cpu':
        g.moved(model)
    windows = Windows(encode_corpus(load_corpus(), tokenizer), 'valid', 32, 4)
    places = random_places(windows, 6, [], 0)
    story.part(
        'collect',
        lambda: sum(x.double().sum().item() for x in collect(model, tokenizer, windows, places, sites, batch=4)),
    )
    story.part(
        'mean_activation',
        lambda: sum(x.double().sum().item() for x in mean_activation(model, tokenizer, windows, 6, sites, batch=4)),
    )
    return story


found = {}
for device in ('cpu', g.GPU):
    with g.pretending() if device != 'cpu' else torch.enable_grad():
        for arch, kind in (('mt5', 'conceptual'), ('rwkv', 'two_letter')):
            story, weights = trained(arch, kind, device)
            found[f'{arch} {device}'] = dict(told=story.told, values=story.values, weights=weights)
        for name, f in (('pieces', pieces), ('readings', readings)):
            story = f(device)
            found[f'{name} {device}'] = dict(told=story.told, values=story.values)
with g.pretending():
    mixture = Story()
    x = torch.zeros(3, device=g.GPU)
    mixture.part('a number', lambda: x + torch.tensor(1.0))
    mixture.part('a tensor', lambda: x + torch.zeros(3))
    found['mixture'] = mixture.told
json.dump(found, sys.stdout)
