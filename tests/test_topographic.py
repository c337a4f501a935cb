"""The two rival losses against references that share no code with them, and what a penalty must never do to a model."""

import copy
import json
import math
import tempfile

import numpy as np
import pytest
import torch
from torch import nn

from shared import without
from tiny_models import tiny

from ff_nbdev.baselines.topographic import (
    KINDS,
    LineMoran,
    MoranController,
    TopographicLoss,
    coarsened,
    topo_loss,
    topolm_loss,
    window_starts,
)
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.site import FFNPattern
from ff_nbdev.models.tiny import random_tiny
from ff_nbdev.run.train import train_run
from ff_nbdev.run.prepare import Plan

ARCHS = ['mt5', 'rwkv', 'gpt2', 'llama']


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(seed=0, n=4, time=12):
    ids = torch.randint(3, 500, (n, time), generator=torch.Generator().manual_seed(seed))
    return dict(input_ids=ids, labels=ids.clone())


OWN = FFNPattern('own', 'ffn', 'down', 'up')


def own_model():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

        def forward(self, x):
            return self.down(self.up(x).relu())

    torch.manual_seed(0)
    model = nn.Sequential()
    model.ffn = Block()
    return model


# References in numpy, one unit and one pair at a time


def stretch(line, m):
    "Linear interpolation of n points at the centres of m equal cells, ends held"
    n, out = len(line), []
    for k in range(m):
        x = min(max((k + 0.5) * n / m - 0.5, 0), n - 1)
        j = min(int(x), n - 2) if n > 1 else 0
        out.append(line[j] if n == 1 else line[j] * (1 - (x - j)) + line[j + 1] * (x - j))
    return np.array(out)


def slow_topo(w, factor, dim):
    w = w if dim == 0 else w.T
    soft = stretch(stretch(w, len(w) // factor), len(w))
    return 1 - np.mean([u @ v / np.sqrt((u @ u) * (v @ v)) for u, v in zip(w, soft)])


def pearson(x, y):
    x, y = x - np.mean(x), y - np.mean(y)
    return x @ y / math.sqrt((x @ x) * (y @ y))


def slow_topolm(h, starts, width, reach=1.0):
    "Tokens by units; pairs with a unit that never changes are left out"
    losses = []
    for s in starts:
        r, near = [], []
        for i in range(s, s + width):
            for j in range(s, i):
                if np.ptp(h[:, i]) == 0 or np.ptp(h[:, j]) == 0:
                    continue
                r.append(pearson(h[:, i], h[:, j]))
                near.append(1 / (1 + abs(i - j) / reach))
        losses.append(0.5 * (1 - pearson(np.array(r), np.array(near))))
    return np.mean(losses)


@pytest.mark.parametrize('units, factor', [(16, 2), (24, 3), (40, 8), (41, 8), (9, 2), (8, 8), (13, 5)])
@pytest.mark.parametrize('dim', [0, 1])
def test_topo_loss_is_the_slow_one(units, factor, dim):
    w = draw(units, 5) if dim == 0 else draw(5, units)
    assert topo_loss(w, factor, dim).item() == pytest.approx(slow_topo(w.numpy(), factor, dim), abs=1e-12)
    assert topo_loss(w.float(), factor, dim).item() == pytest.approx(slow_topo(w.numpy(), factor, dim), abs=1e-5)


@pytest.mark.parametrize('radius, reach', [(1, 1.0), (3, 1.0), (6, 4.0)])
def test_topolm_loss_is_the_slow_one(radius, reach):
    h = draw(4, 9, 30).relu()
    h[..., 7] = 0
    h[..., 20] = 0.3
    starts = window_starts(30, 4, radius, 5, 3, 2)
    slow = slow_topolm(h.flatten(0, 1).numpy(), starts, 2 * radius + 1, reach)
    assert topolm_loss(h, None, 4, radius, reach, 5, 3, 2).item() == pytest.approx(slow, abs=1e-10)
    assert topolm_loss(h.float(), None, 4, radius, reach, 5, 3, 2).item() == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize('factor', [2, 4, 8, 16])
def test_topo_loss_is_that_of_the_package(factor):
    "On a sheet of one column: the class of topoloss 0.0.2 chooses its own sheet, and its bound refuses one row"
    package = pytest.importorskip('topoloss.losses.laplacian_pyramid')
    w = torch.randn(128, 32, generator=torch.Generator().manual_seed(1))
    theirs = package.laplacian_pyramid_loss(cortical_sheet=w[:, None, :], factor_h=factor, factor_w=1)
    assert topo_loss(w, factor).item() == pytest.approx(theirs.item(), abs=1e-6)
    assert topo_loss(w.T, factor, dim=1).item() == pytest.approx(theirs.item(), abs=1e-6)


# Gradients


def test_gradients_are_those_of_finite_differences():
    h, mask = draw(3, 6, 11), torch.ones(3, 6)
    mask[1, 4:] = 0
    assert torch.autograd.gradcheck(lambda w: topo_loss(w, 4), draw(12, 3).requires_grad_())
    assert torch.autograd.gradcheck(lambda w: topo_loss(w, 3, 1), draw(4, 10).requires_grad_())
    assert torch.autograd.gradcheck(lambda x: topolm_loss(x, mask, 3, 2), h.requires_grad_())


def test_gradient_is_finite_with_silent_units():
    for h in (draw(20, 9).relu() * (torch.arange(9) % 2), torch.zeros(20, 9), torch.full((20, 9), 0.1)):
        h = h.float().requires_grad_()
        topolm_loss(h, None, 3, 3).backward()
        assert h.grad.isfinite().all()


def test_limits():
    assert topo_loss(torch.ones(32, 3)).item() == pytest.approx(0, abs=1e-6)
    assert topolm_loss(torch.zeros(20, 9), None, 2, 3).item() == 0.5
    wave = torch.sin(torch.arange(40.0) / 9)[:, None] * torch.tensor([[1.0, 2.0]]) + 3
    assert topo_loss(wave, 4).item() < 1e-3 < topo_loss(draw(40, 2), 4).item()
    # units that correlate exactly as 1/(1 + d)
    near = torch.linalg.cholesky(1 / (1 + (torch.arange(9)[:, None] - torch.arange(9)).abs().double()))
    x = torch.linalg.qr(draw(400, 10) - draw(400, 10).mean(0))[0][:, :9]
    x = torch.linalg.qr(x - x.mean(0))[0]
    assert topolm_loss(x @ near.T, None, 1, 4).item() == pytest.approx(0, abs=1e-9)
    assert topolm_loss(3 * (x @ near.T) + 5, None, 1, 4).item() == pytest.approx(0, abs=1e-9)


def test_half_precision_is_computed_in_float32():
    w = torch.randn(64, 8)
    assert topo_loss(w.bfloat16()).dtype == torch.float32
    assert topo_loss(w.bfloat16()).item() == topo_loss(w.bfloat16().float()).item()
    with torch.autocast('cpu', torch.bfloat16):
        inside = topolm_loss(w, None, 2, 3)
    assert inside.item() == topolm_loss(w, None, 2, 3).item()


# Windows and padding


def test_windows_are_a_function_of_their_keys():
    torch.manual_seed(1)
    a = window_starts(2048, step=7, site=3, seed=2)
    torch.manual_seed(2)
    b = window_starts(2048, step=7, site=3, seed=2)
    assert a == b and len(set(a)) > 1
    assert a not in (
        window_starts(2048, step=8, site=3, seed=2),
        window_starts(2048, step=7, site=4, seed=2),
        window_starts(2048, step=7, site=3, seed=3),
    )
    many = [s for step in range(300) for s in window_starts(90, step=step)]
    assert min(many) == 0 and max(many) == 9 and set(window_starts(81)) == {0}


def test_padding_is_left_out():
    h, mask = draw(4, 6, 20), torch.ones(4, 6, dtype=torch.long)
    mask[0, 3:] = 0
    mask[2, :2] = 0
    wild = h.clone()
    wild[mask == 0] = 1e3 * draw(20, seed=3)
    value = topolm_loss(h[mask.bool()], None, 3, 4).item()
    for m in (mask, mask.bool(), mask.flatten()):
        assert topolm_loss(wild, m, 3, 4).item() == value
    assert abs(topolm_loss(wild, None, 3, 4).item() - value) > 0.01
    x = wild.clone().requires_grad_()
    topolm_loss(x, mask, 3, 4).backward()
    assert not x.grad[mask == 0].any() and x.grad[mask == 1].any()


@pytest.mark.parametrize('arch', ['mt5', 'rwkv'])
def test_padding_of_a_model_is_left_out(arch):
    "What stands at padded places, and how many there are, does not matter"

    def value(pad, fill):
        b = batch()
        b['attention_mask'] = torch.ones(4, 12, dtype=torch.long)
        for k, v in dict(input_ids=fill, labels=-100, attention_mask=0).items():
            b[k] = torch.cat([b[k], torch.full((4, pad), v)], 1)
        model = tiny(arch).train()
        topo = TopographicLoss(model, 'topolm', radius=20)
        model(**b)
        return topo.penalty().item()

    assert value(0, 0) == pytest.approx(value(5, 9), abs=1e-5) and value(5, 9) == pytest.approx(value(5, 333), abs=1e-5)


def test_labels_may_be_given_apart():
    b = batch()
    b['labels'][:, 8:] = -100
    model = tiny('mt5').train()
    topo = TopographicLoss(model, 'topolm', radius=20)
    model(**b)
    whole = topo.penalty().item()
    labels = b.pop('labels')
    b['decoder_input_ids'] = model.prepare_decoder_input_ids_from_labels(labels)
    model(**b)
    without = topo.penalty().item()
    topo.labels = labels
    model(**b)
    assert topo.penalty().item() == whole != without


# The class


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('kind', KINDS)
def test_outputs_are_neutral(arch, kind):
    model, b = tiny(arch), batch()
    bare = copy.deepcopy(model)
    topo = TopographicLoss(model, kind, 3.0)
    for train in (False, True):
        model.train(train)
        bare.train(train)
        torch.manual_seed(0)
        x = bare(**b)
        torch.manual_seed(0)
        y = model(**b)
        assert torch.equal(x.logits, y.logits) and torch.equal(x.loss, y.loss)
    x.loss.backward()
    y.loss.backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(bare.parameters(), model.parameters()) if p.grad is not None)
    value = topo.penalty()
    assert value.requires_grad and value.ndim == 0 and value.item() == pytest.approx(3 * topo.last.mean().item())
    topo.remove()
    assert not any(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@pytest.mark.parametrize('arch', ARCHS)
def test_penalty_of_weights_is_the_mean_over_sites(arch):
    model, want = tiny(arch), []
    for s in find_sites(model):
        roles = [r for r in s.names if not (arch == 'rwkv' and r == 'gate')]
        want.append(np.mean([slow_topo(s.weight(r).detach().double().numpy(), 8, int(r == 'down')) for r in roles]))
    topo = TopographicLoss(model, strength=0.5)
    assert topo.penalty().item() == pytest.approx(0.5 * np.mean(want), abs=1e-6)
    topo.penalty().backward()
    topo.penalty().backward()  # needs no forward pass, as often as one likes
    touched = {n for n, p in model.named_parameters() if p.grad is not None}
    assert len(touched) == sum(len(s.names) - (arch == 'rwkv') for s in topo.sites)


@pytest.mark.parametrize('arch', ARCHS)
def test_penalty_of_activations_is_the_mean_over_sites(arch):
    model, b, got = tiny(arch).train(), batch(), {}
    if arch == 'gpt2':
        [setattr(m, 'p', 0.0) for m in model.modules() if isinstance(m, nn.Dropout)]
    for s in find_sites(model):
        s.down.register_forward_pre_hook(
            lambda m, a, s=s: got.__setitem__(s.index, a[0].detach().double().flatten(0, -2).numpy())
        )
    topo = TopographicLoss(model, 'topolm', 2.0, neighbourhoods=3, radius=15, seed=4)
    topo.step()
    model(**b)
    want = [slow_topolm(got[s.index], window_starts(128, 3, 15, 4, 1, s.index), 31) for s in topo.sites]
    assert topo.penalty().item() == pytest.approx(2 * np.mean(want), abs=1e-4)
    if arch == 'rwkv':
        assert all(h.min() >= 0 for h in got.values())


def test_only_training_passes_are_heard():
    model, b = tiny('mt5'), batch()
    topo = TopographicLoss(model, 'topolm')
    with pytest.raises(ValueError, match='forward pass before it'):
        topo.penalty()
    model(**b)  # evaluation
    model.train()
    with torch.no_grad():
        model(**b)
    with pytest.raises(ValueError, match='forward pass before it'):
        topo.penalty()
    model(**b)
    model.eval()
    model(**batch(1))
    model.generate(b['input_ids'], max_new_tokens=2)  # an evaluation between does no harm
    first = topo.penalty().item()
    model.train()
    model(**batch(1))
    model(**b)  # the last one counts
    assert topo.penalty().item() == first
    with pytest.raises(ValueError, match='forward pass before it'):
        topo.penalty()


def test_steps_draw_other_windows_and_micro_batches_do_not():
    model, b = tiny('mt5').train(), batch()
    topo = TopographicLoss(model, 'topolm', radius=10)

    def value():
        model(**b)
        return topo.penalty().item()

    first, again = value(), value()
    topo.step()
    later = value()
    topo.steps = 0
    assert first == again == value() != later


@pytest.mark.parametrize('kind', KINDS)
def test_gradient_checkpointing_changes_nothing(kind):
    def grads(checkpointing):
        model = tiny('mt5').train()
        topo = TopographicLoss(model, kind)
        if checkpointing:
            model.activation_checkpointing_enable(dict(use_reentrant=False))
            model.config.use_cache = False
        (model(**batch()).loss + topo.penalty()).backward()
        assert not topo._seen
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    plain, saving = grads(False), grads(True)
    assert plain.keys() == saving.keys() and all(torch.allclose(plain[k], saving[k], atol=1e-6) for k in plain)


def test_a_copy_of_the_model_has_a_penalty_of_its_own():
    model = tiny('mt5').train()
    topo = TopographicLoss(model, 'topolm')
    twin = copy.deepcopy(model)
    own = next(iter(twin._forward_pre_hooks.values())).topo
    assert own is not topo and own.model is twin
    twin(**batch())
    assert not topo._seen and own.penalty().requires_grad
    own.remove()
    model(**batch())
    assert topo.penalty().requires_grad


def test_compiled_models_are_heard_and_not_compiled_anew():
    model, x, graphs, sizes = own_model(), torch.randn(6, 8), [], []
    topo = TopographicLoss(model, 'topolm', radius=5, pattern=OWN)
    fast = torch.compile(model, backend=lambda g, x: graphs.append(g) or g.forward)
    for _ in range(4):
        model(x)
        plain = topo.penalty().item()
        fast(x)
        assert topo.penalty().item() == pytest.approx(plain, abs=1e-6)
        sizes.append(len(graphs))
        topo.step()
    assert sizes[0] == sizes[-1] > 0
    torch._dynamo.reset()


def test_strength_zero_is_the_bare_model():
    for kind in KINDS:
        bare, own = tiny('mt5').train(), tiny('mt5').train()
        topo = TopographicLoss(own, kind, 0.0)
        bare(**batch()).loss.backward()
        (own(**batch()).loss + topo.penalty()).backward()
        assert all(
            torch.equal(p.grad, q.grad) for p, q in zip(bare.parameters(), own.parameters()) if p.grad is not None
        )


@pytest.mark.parametrize('arch', ['mt5', 'rwkv'])
@pytest.mark.parametrize('kind', KINDS)
def test_the_loss_goes_down(arch, kind):
    model = tiny(arch).train()
    topo = TopographicLoss(model, kind)
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    values = []
    for _ in range(15):
        if kind == 'topolm':
            model(**batch())
        p = topo.penalty()
        p.backward()
        opt.step()
        opt.zero_grad()
        topo.step()
        values.append(p.item())
    assert values[-1] < 0.8 * values[0]


def test_memory_is_that_of_the_windows():
    "No table of all pairs, and no whole hidden is kept"
    model = tiny('mt5', d_ff=4096).train()
    topo = TopographicLoss(model, 'topolm', neighbourhoods=2, radius=3)
    model(**batch())
    assert {tuple(x.shape) for x, _ in topo._seen.values()} == {(2, 4, 12, 7)}
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        topo.penalty()
    assert max(sizes) <= 2 * 48 * 7


def test_own_pattern():
    model = own_model()
    for kind in KINDS:
        topo = TopographicLoss(model, kind, radius=5, pattern=OWN)
        model(torch.randn(6, 8))
        assert 0 < topo.penalty().item() < 1.5


# Strength by feedback


def plant(gain, target=0.3, leak=0.002, ceiling=0.005, steps=400, strength=0.5, **kw):
    """Moran's I rises by what the strength gives, up to a ceiling, and loses a fraction

    As far as the controller can know, a model."""
    now = [0.01]
    c = MoranController(lambda: now[0], target, strength, **kw)
    c.update(0, steps)
    for i in range(steps):
        now[0] += ceiling * (1 - math.exp(-gain * c.strength)) - leak * now[0]
        c.update(i + 1, steps)
    return c


@pytest.mark.parametrize('gain', [0.003, 0.05, 0.5])
@pytest.mark.parametrize('target, leak', [(0.06, 0.0), (0.06, 0.002), (0.3, 0.0), (0.3, 0.002)])
def test_the_controller_reaches_its_target(gain, target, leak):
    c = plant(gain, target, leak)
    r = c.record()
    assert r['within']
    assert abs(r['reached'] - target) <= 0.02
    assert r['history'][0][0] == 0
    assert r['history'][-1][0] == 400
    assert len(r['history']) == 21
    assert max(abs(h[1] - target) for h in c.history[-4:]) <= 0.021  # and holds it


def test_a_target_out_of_reach_is_said():
    r = plant(1.0, leak=0.1).record()
    assert not r['within'] and r['strength'] == 1e4 and r['reached'] < 0.06
    r = plant(1.0, target=-0.2, leak=0.0).record()  # nothing pulls it down
    assert not r['within'] and r['strength'] < 0.1


def test_the_rule_by_hand():
    "Planned rise of a look 0.1/(0.5·10) = 0.02; at step 10 the aim three looks ahead is 0.08"
    values = iter([0.0, 0.03])
    c = MoranController(lambda: next(values), 0.1, 2.0, looks=10, ramp=0.5)
    c.update(0, 100)
    assert c.update(5, 100) == 2.0 and c.aim(0.2) == pytest.approx(0.04) and c.aim(0.7) == 0.1
    assert c.update(10, 100) == pytest.approx(2 * ((0.08 - 0.03 - 0.03) / 3 + 0.005) / (0.03 + 0.005))
    assert c.history[1][:3] == (10, 0.03, pytest.approx(0.02))


def test_looks_are_at_fixed_steps_the_last_among_them():
    for steps, looks in [(400, 20), (421, 20), (7, 20), (33, 5)]:
        seen = []
        c = MoranController(lambda: seen.append(0) or 0.1, 0.2, looks=looks)
        for i in range(steps + 1):  # a second call at a step does nothing
            c.update(i, steps)
            c.update(i, steps)
        at = [h[0] for h in c.history]
        assert len(seen) == len(at) == min(looks, steps) + 1
        assert at[0] == 0
        assert at[-1] == steps
        assert at == sorted(set(at))


@pytest.mark.parametrize('at', [0, 3, 10, 11, 37])
def test_a_controller_that_goes_on_is_the_same(at):
    "The state goes through a file between two steps"
    from ff_nbdev.training.checkpoints import load_nest, save_nest

    def run(steps, stop=None):
        now = [0.0]
        make = lambda: TopographicLoss(MODEL, controller=MoranController(lambda: now[0], 0.25, 3.0))
        t = make()
        t.control(0, steps)
        for i in range(steps):
            if i == stop:
                with tempfile.TemporaryDirectory() as d:
                    save_nest(t.state(), f'{d}/s.safetensors')
                    t = make()
                    t.set_state(load_nest(f'{d}/s.safetensors'))
                # as the trainer does when it begins
                t.control(i, steps)
            now[0] += 0.001 * math.log1p(t.strength)
            t.control(i + 1, steps)
        return t

    a, b = run(40), run(40, at)
    assert a.controller.history == b.controller.history
    assert a.strength == b.strength == b.controller.strength
    assert a.metrics() == b.metrics()


def test_what_is_steered_by_is_what_the_evaluation_reports():
    from ff_nbdev.data.corpus import load_corpus
    from ff_nbdev.data.objectives import Windows
    from ff_nbdev.data.tokens import encode_corpus
    from ff_nbdev.evaluation.activations import activation_geography
    from ff_nbdev.models.tiny import load_pretrained

    _, tok = load_pretrained('tiny-mt5')
    w = Windows(encode_corpus(load_corpus(), tok), 'valid', 32, 20)
    for arch in ('mt5', 'rwkv'):
        model = random_tiny(arch, vocab_size=len(tok)).train()
        state = torch.get_rng_state()
        m = LineMoran(model, tok, w, 48, seed=3)()
        assert m == pytest.approx(np.mean([r['mean'] for r in activation_geography(model, tok, w, 48, 3)]), abs=1e-12)
        assert torch.equal(state, torch.get_rng_state())
        assert model.training
        assert m == LineMoran(model, tok, w, 48, seed=3)()
        # rows that follow one another, in every matrix of the hidden units
        for s in find_sites(model):
            for role in set(s.names) - ({'gate'} if arch == 'rwkv' else set()) - {'down'}:
                w0 = s.weight(role).data
                w0.copy_(torch.cat([w0[:1], w0[:-1]]).cumsum(0) / len(w0) ** 0.5)
        assert LineMoran(model, tok, w, 48, seed=3)() > m + 0.3


def arm_until(out, stop=None):
    "A small arm with a controller, interrupted at a step"

    def tell(done, total, note):
        if done == stop:
            raise InterruptedError

    few = dict(total_sentences=50, batch=8, length=32, probes=1, save_minutes=0.0, target=0.2)
    return train_run(Plan('rwkv_topolm', 'tiny-rwkv', 'python_prose', str(out), **few), tell)


def test_an_arm_that_was_stopped_finds_the_same_strengths(tmp_path, monkeypatch):
    """Stopped after its second step, gone on with from the checkpoint of the first

    Log, strengths, record and weights are those of the undisturbed run."""
    from ff_nbdev.run import prepare

    mean = prepare.mean_activation
    # of the bands, which nothing here is about
    monkeypatch.setattr(prepare, 'mean_activation', lambda net, tok, held, n, **kw: mean(net, tok, held, n // 10, **kw))

    arm_until(tmp_path / 'a')
    with pytest.raises(InterruptedError):
        arm_until(tmp_path / 'b', 2)
    assert (tmp_path / 'b' / 'checkpoints' / 'checkpoint-1').is_dir() and not (tmp_path / 'b' / 'train.json').exists()
    arm_until(tmp_path / 'b')
    one, two = (json.loads((tmp_path / x / 'train.json').read_text()) for x in 'ab')
    match = one['match']
    assert match == two['match']
    assert len({h[3] for h in match['history']}) > 2
    assert match['target'] == 0.2
    assert without(one['log'], 'seconds') == without(two['log'], 'seconds')
    logged = [[r['step'], r['activation_moran'], r['strength']] for r in one['log']]
    assert logged == [[h[0], h[1], h[3]] for h in match['history'][1:]]
    assert prepare.moran_of(tmp_path / 'a' / 'train.json') == one['activation_moran'] == match['reached']
    assert one['strength'] == match['strength']
    weights = [(tmp_path / x / 'model' / 'model.safetensors').read_bytes() for x in 'ab']
    assert weights[0] == weights[1]


def test_what_an_arm_is_matched_with(tmp_path):
    import json
    from ff_nbdev.run.prepare import moran_of

    f = tmp_path / 'train.json'
    f.write_text(json.dumps(dict(activation_moran=0.25)))
    assert moran_of(f) == 0.25
    f.write_text(json.dumps(dict(activation_moran=[dict(site='a', mean=0.1), dict(site='b', mean=0.4)])))
    assert moran_of(f) == 0.25  # an evaluation.json
    f.write_text(json.dumps(dict(arm='full_stack')))
    with pytest.raises(ValueError, match='train that run again'):
        moran_of(f)


def test_without_a_target_nothing_changes():
    t = TopographicLoss(tiny('mt5').train(), strength=0.3)
    for i in range(50):
        t.control(i, 49)
    assert t.strength == 0.3 and t.metrics() == t.state() == {}
    t.set_state(dict(strength=9.0, history=[]))
    assert t.strength == 0.3


@pytest.mark.parametrize('arch', ['mt5', 'rwkv'])
@pytest.mark.parametrize('kind', KINDS)
def test_a_model_is_brought_to_a_target(arch, kind):
    from ff_nbdev.evaluation.spatial import morans_i

    model, b, seen = tiny(arch).train(), batch(n=2), {}
    for s in find_sites(model):
        s.down.register_forward_pre_hook(
            lambda m, a, s=s: seen.__setitem__(s.index, a[0].detach().flatten(0, -2).double())
        )

    def measure():
        with torch.no_grad():
            model(**b)
        return torch.cat([morans_i(x, 'line') for x in seen.values()]).nanmean().item()

    topo = TopographicLoss(
        model,
        kind,
        controller=MoranController(
            measure, 0.15, (50.0 if kind == 'topoloss' else 5.0) if arch == 'mt5' else 0.5, looks=12
        ),
    )
    opt = torch.optim.Adam(model.parameters(), 2e-3, betas=(0.9, 0.98))
    topo.control(0, 120)
    for i in range(120):
        (model(**b).loss + topo.penalty()).backward()
        opt.step()
        opt.zero_grad()
        topo.step()
        topo.control(i + 1, 120)
    assert abs(topo.controller.moran - 0.15) <= 0.02 and topo.controller.history[0][1] < 0.05


MODEL = random_tiny('mt5')
CASES = {
    'kind': (lambda: TopographicLoss(MODEL, 'topolos'), "it is one of 'topoloss', 'topolm'"),
    'negative strength': (lambda: TopographicLoss(MODEL, strength=-0.1), 'must be 0 or more'),
    'nan strength': (lambda: TopographicLoss(MODEL, strength=float('nan')), 'must be 0 or more'),
    'short line': (lambda: TopographicLoss(MODEL, factor=129), 'has 128 hidden units, and a factor of 129'),
    'short sheet': (lambda: topo_loss(torch.randn(7, 3)), 'at least 8 units'),
    'factor 1': (lambda: TopographicLoss(MODEL, factor=1), 'factor=1 must be a whole number, 2 or more'),
    'broken factor': (lambda: coarsened(torch.randn(9, 3), 2.5), 'factor=2.5 must be a whole number'),
    'wide window': (lambda: TopographicLoss(MODEL, 'topolm', radius=64), 'a radius of at most 63'),
    'no window': (
        lambda: TopographicLoss(MODEL, 'topolm', neighbourhoods=0),
        'neighbourhoods=0 must be a whole number, 1 or more',
    ),
    'no reach': (lambda: TopographicLoss(MODEL, 'topolm', reach=0), 'reach=0 must be above 0'),
    'role': (lambda: TopographicLoss(MODEL, roles=('up',)), "name some of 'gate', 'value' and 'down'"),
    'role without hidden units': (
        lambda: TopographicLoss(random_tiny('rwkv'), roles=('gate',)),
        "add 'value' or 'down'",
    ),
    'dim': (lambda: topo_loss(torch.randn(9, 9), dim=2), '0 (rows) or 1 (columns)'),
    'mask': (lambda: topolm_loss(torch.randn(2, 5, 9), torch.ones(2, 4), radius=2), 'one mask entry a token'),
    'target': (lambda: MoranController(None, 1.0), 'lies between -1 and 1'),
    'looks': (lambda: MoranController(None, 0.2, looks=1), 'looks=1 must be a whole number, 2 or more'),
    'ramp': (lambda: MoranController(None, 0.2, ramp=0.0), 'ramp=0.0 must be above 0 and at most 1'),
    'no strength': (lambda: MoranController(None, 0.2, 0.0), 'what is nothing cannot be doubled'),
    'one token': (lambda: topolm_loss(torch.randn(1, 9), radius=2), 'at least 2 are needed'),
}


@pytest.mark.parametrize('case', CASES)
def test_errors_are_one_sentence(case):
    f, says = CASES[case]
    with pytest.raises(ValueError) as e:
        f()
    assert says in str(e.value) and '\n' not in str(e.value)
