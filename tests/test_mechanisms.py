"""The three mechanisms on real architectures: at strength 0 nothing changes, to the bit; what holds for any input."""

import copy
import math
import tempfile

import pytest
import tiny_models
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ff_nbdev.mechanisms.forgetfulness import PulseSchedule, neighbour_mean, proximal_kernel, pulse_
from ff_nbdev.mechanisms.forgiveness import forgiving_loss
from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig, RecallConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.mechanisms.noise import HubNoise, keyed_uniform, multiplier, noise_moments, noisy_hidden
from ff_nbdev.mechanisms.recall import find_hubs, hub_mask, hub_width, update_usage
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.site import FFNPattern
from ff_nbdev.models.tiny import random_tiny

ARCHS = ['mt5', 'rwkv', 'gpt2', 'llama']
quick = settings(max_examples=40, deadline=None)


def tiny(arch, seed=0, **kw):
    "A random model of an architecture; dropout is on where the architecture has it"
    if arch in ('gpt2', 'llama'):
        return tiny_models.tiny(arch, seed, **kw).train()
    return random_tiny(arch, seed, **(dict(dropout_rate=0.1) if arch == 'mt5' else {}), **kw)


def batch(seed=0, n=4, time=12):
    ids = torch.randint(3, 500, (n, time), generator=torch.Generator().manual_seed(seed))
    return dict(input_ids=ids, labels=ids.clone())


def strong(top=2.0, dose=1.0, total=100, **kw):
    return FFConfig(
        total_sentences=total,
        forgetfulness=ForgetfulnessConfig(dose=dose),
        recall=RecallConfig(top=top, start=0.0, **kw),
    )


def train(model, steps=20, after=None):
    "Losses and the final state of a short training run with dropout"
    model.train()
    opt, losses = torch.optim.AdamW(model.parameters(), 1e-2), []
    torch.manual_seed(5)
    for i in range(steps):
        loss = model(**batch(i)).loss
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
        if after:
            after()
    return losses, {k: v.clone() for k, v in model.state_dict().items()}


# Strength 0 is the bare model, to the bit


@pytest.mark.parametrize('arch', ARCHS)
def test_zero_strengths_change_nothing(arch):
    bare, own = tiny(arch), tiny(arch)
    ff = attach(own, FFConfig())
    for mode in (False, True):
        bare.train(mode)
        own.train(mode)
        torch.manual_seed(1)
        a = bare(**batch())
        torch.manual_seed(1)
        b = own(**batch())
        assert torch.equal(a.logits, b.logits) and torch.equal(a.loss, b.loss)
        if arch == 'rwkv' and not mode:
            continue  # its evaluation writes its state in place
        a.loss.backward()
        b.loss.backward()
        for p, q in zip(bare.parameters(), own.parameters()):
            assert (p.grad is None) == (q.grad is None) and (p.grad is None or torch.equal(p.grad, q.grad))
        bare.zero_grad()
        own.zero_grad()
    la, sa = train(bare)
    lb, sb = train(own, after=lambda: ff.step(sentences=4))
    assert la == lb and all(torch.equal(sa[k], sb[k]) for k in sa)


@pytest.mark.parametrize('arch', ARCHS)
def test_removed_without_a_trace(arch):
    model, bare = tiny(arch), tiny(arch)
    def hooks(module):
        return {k: list(v) for k, v in module.__dict__.items() if 'hooks' in k}

    def seen(model):
        return [(name, sorted(module.__dict__), hooks(module)) for name, module in model.named_modules()]

    before, keys = seen(model), list(model.state_dict())
    ff = attach(model, strong())
    assert list(model.state_dict()) == keys  # no keys while it is attached either
    with pytest.raises(ValueError, match='attached already'):
        attach(model, strong())
    ff.remove()
    ff.remove()
    assert seen(model) == before and list(model.state_dict()) == keys
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), bare.parameters()))
    attach(model, strong()).remove()


@pytest.mark.parametrize('arch', ARCHS)
def test_hooks_survive_deepcopy_and_moves(arch):
    model = tiny(arch)
    ff = attach(model, strong())
    ff.step(sentences=100)
    twin = copy.deepcopy(model)
    hook = next(h for h in twin._forward_pre_hooks.values() if hasattr(h, 'ff'))
    assert hook.ff is not ff and hook.ff.model is twin
    model.eval()
    twin.eval()
    assert torch.equal(model(**batch()).logits, twin(**batch()).logits)
    model.train()
    twin.train()
    torch.manual_seed(0)
    a = model(**batch()).logits
    torch.manual_seed(0)
    assert torch.equal(a, twin(**batch()).logits)
    hook.ff.remove()
    torch.manual_seed(0)
    assert not torch.equal(a, twin(**batch()).logits)  # and the copy is its own
    torch.manual_seed(0)
    b = model(**batch()).logits
    assert torch.equal(a, b) is False  # another micro-batch draws other noise
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.train()
    assert half(**batch()).logits.isfinite().all()


def test_generate_and_evaluation_are_without_noise():
    for arch in ('mt5', 'gpt2'):
        model, bare = tiny(arch).eval(), tiny(arch).eval()
        ff = attach(model, strong())
        ff.step(sentences=100)
        for p, q in zip(model.parameters(), bare.parameters()):
            q.data.copy_(p.data)
        kw = dict(max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert torch.equal(model.generate(batch()['input_ids'], **kw), bare.generate(batch()['input_ids'], **kw))


# Noise is a function of its keys


def grads(model):
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize('arch', ['mt5', 'gpt2', 'llama'])
def test_gradient_checkpointing_agrees(arch):
    out = []
    for on in (False, True):
        model = tiny(arch)
        ff = attach(model, strong())
        ff.step(sentences=100)
        if on:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
        model.train()
        torch.manual_seed(0)
        model(**batch(), use_cache=False).loss.backward()
        out.append((grads(model), [c for c, n in ff.context.counts.values()]))
    for a, b in zip(*(o[0] for o in out)):
        assert torch.allclose(a, b, atol=1e-7)
    for a, b in zip(*(o[1] for o in out)):
        assert torch.equal(a, b)  # usage is counted once, not again in the recomputation


def test_noise_leaves_torchs_generator_alone():
    "Dropout and data order are the same with noise and without"
    states = []
    for top in (0.0, 2.0):
        model = tiny('mt5').train()
        ff = attach(model, strong(top=top, dose=0.0))
        ff.step(sentences=100)
        torch.manual_seed(3)
        model(**batch()).loss.backward()
        ff.step(sentences=4)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_noise_does_not_depend_on_the_batch():
    "Two micro-batches of 2 draw what one batch of 4 draws; a rank would draw its own part"

    def hidden(parts):
        model = random_tiny('mt5', dropout_rate=0.0)
        ff = attach(model, strong(dose=0.0))
        ff.step(sentences=100)
        model.train()
        seen = []
        ff.sites[0].down.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
        for ids in batch()['input_ids'].chunk(parts):
            model(input_ids=ids, labels=ids)
        return torch.cat(seen)

    a, b = hidden(1), hidden(2)
    assert torch.allclose(a, b, atol=1e-5) and not torch.allclose(a[0], a[1])
    u = keyed_uniform(1, 2, torch.tensor([7]), 3, 5, 64)
    assert torch.equal(u, keyed_uniform(1, 2, torch.tensor([3, 7]), 3, 9, 64)[1:, :5])
    for other in (
        keyed_uniform(2, 2, torch.tensor([7]), 3, 5, 64),
        keyed_uniform(1, 3, torch.tensor([7]), 3, 5, 64),
        keyed_uniform(1, 2, torch.tensor([8]), 3, 5, 64),
        keyed_uniform(1, 2, torch.tensor([7]), 4, 5, 64),
    ):
        assert abs(torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1]) < 0.2


def test_bf16_autocast():
    for arch in ARCHS:
        model = tiny(arch).train()
        ff = attach(model, strong())
        ff.step(sentences=100)
        with torch.autocast('cpu', torch.bfloat16):
            loss = model(**batch()).loss
        loss.backward()
        assert loss.isfinite() and all(g.isfinite().all() for g in grads(model))


def test_compiled_model_draws_the_same_noise():
    """Also where it ran compiled before the method was attached

    And is compiled once: what the hooks do changes with every step, and compiling it would do so every time."""
    from torch._dynamo.utils import counters

    outs, graphs = [], []
    for how in (lambda m: m, lambda m: torch.compile(m, backend='eager')):
        model = random_tiny('mt5', num_layers=1, num_decoder_layers=1).train()
        fast = how(model)
        outs.append([fast(**batch(0)).logits])
        graphs.append(counters['stats']['unique_graphs'])
        ff = attach(model, strong(dose=0.0))
        ff.step(sentences=20)
        for i in range(4):
            outs[-1].append(fast(**batch(i)).logits)
            ff.step(sentences=20)
            graphs.append(counters['stats']['unique_graphs'])
    for a, b in zip(*outs):
        assert torch.allclose(a, b, atol=1e-5)
    assert not torch.allclose(outs[1][0], outs[1][1], atol=1e-3)
    assert graphs[4] < graphs[5] < graphs[6] and graphs[-1] == graphs[6]


# State


def test_state_goes_on_where_it_was(tmp_path):
    def run(model, ff, a, b):
        model.train()
        opt = torch.optim.SGD(model.parameters(), 1e-2)
        for i in range(a, b):
            model(**batch(i)).loss.backward()
            opt.step()
            opt.zero_grad()
            ff.step(sentences=4)

    one = random_tiny('mt5')
    f1 = attach(one, strong(total=80))
    run(one, f1, 0, 20)
    two = random_tiny('mt5')
    f2 = attach(two, strong(total=80))
    run(two, f2, 0, 9)
    f2.save_pretrained(tmp_path)
    two.save_pretrained(tmp_path)
    f2.remove()
    three = type(two).from_pretrained(tmp_path)
    f3 = attach.from_pretrained(three, tmp_path)
    run(three, f3, 9, 20)
    assert (f3.sentences, f3.steps, f3.noise_x) == (f1.sentences, f1.steps, f1.noise_x) and torch.equal(
        f3.doses, f1.doses
    )
    for a, b in zip(f1.usage, f3.usage):
        assert torch.allclose(a, b, atol=1e-7)
    for a, b in zip(one.parameters(), three.parameters()):
        assert torch.allclose(a, b, atol=1e-6)


# Forgetfulness


@quick
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0, 1),
    st.integers(0, 99),
    st.sampled_from([3, 5, 9]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_pulse_keeps_mean_and_spread(rows, cols, p, seed, size, dtype):
    w = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)).to(dtype) * 3 + 1
    old = w.clone()
    assert pulse_(w, proximal_kernel(size), p) is w and w.isfinite().all()
    assert abs(w.mean() - old.mean()) < 1e-4 and abs(w.std(unbiased=False) - old.std(unbiased=False)) < 1e-4
    if p == 0:
        assert torch.equal(w, old)


@quick
@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 99))
def test_neighbour_mean_is_a_mean(rows, cols, seed):
    w = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)).double()
    k = proximal_kernel(5)
    m = neighbour_mean(w, k)
    assert (m <= w.max() + 1e-9).all() and (m >= w.min() - 1e-9).all()
    assert torch.allclose(neighbour_mean(torch.full_like(w, 2.5), k), torch.full_like(w, 2.5))
    assert torch.allclose(neighbour_mean(w.T, k).T, m, atol=1e-12)  # the kernel has no direction


@quick
@given(
    st.integers(1, 12),
    st.floats(0.01, 8),
    st.integers(100, 20_000),
    st.floats(0, 1),
    st.integers(3, 97),
    st.sampled_from(['random', 'round_robin', 'all']),
)
def test_dose_is_what_was_asked(matrices, dose, total, ramp, stride, order):
    s = PulseSchedule(total, dose, matrices, ramp=ramp, order=order, seed=3)
    got = torch.zeros(matrices, dtype=torch.float64)
    for a in range(0, total, max(1, total * stride // 1000)):
        for m, p in s.due(a, min(total, a + max(1, total * stride // 1000))):
            got[m] += p
    assert (got - dose).abs().max() <= 0.03 * 1.5  # to a pulse, and half a one for the steps of the ramp


def test_a_tied_and_frozen_matrix_is_pulsed_once():
    model = random_tiny('mt5')
    sites = find_sites(model)
    sites[1].down.weight = sites[0].down.weight  # tied
    for p in model.parameters():
        p.requires_grad_(False)  # frozen
    ff = attach(model, strong(top=0.0, dose=0.3))
    before = sites[0].down.weight.clone()
    ff.step(sentences=100)
    assert not torch.equal(before, sites[0].down.weight) and sites[0].down.weight is sites[1].down.weight


def test_pulses_in_bf16_are_those_in_float32():
    w = torch.randn(40, 30)
    b = w.bfloat16()
    for _ in range(30):
        pulse_(w, proximal_kernel(), 0.03)
        pulse_(b, proximal_kernel(), 0.03)
    assert b.dtype == torch.bfloat16 and torch.corrcoef(torch.stack([w.flatten(), b.float().flatten()]))[0, 1] > 0.99


def test_pulses_far_below_the_last_digit_of_bf16_add_up_over_a_restart_too():
    full, half = random_tiny('mt5'), random_tiny('mt5').bfloat16()
    config = lambda: FFConfig(100_000, ForgetfulnessConfig(dose=0.1, power=0.0005, ramp=0.0))
    a, b = attach(full, config()), attach(half, config())
    for _ in range(10):
        a.step(sentences=5_000)
        b.step(sentences=5_000)
    with tempfile.TemporaryDirectory() as d:
        b.save_pretrained(d)
        b.remove()
        b = attach.from_pretrained(half, d)
    for _ in range(10):
        a.step(sentences=5_000)
        b.step(sentences=5_000)
    for x, y in zip(find_sites(full), find_sites(half)):
        assert (x.weight('down') - y.weight('down').float()).abs().max() < 0.01 * x.weight('down').abs().max()
    assert b.rests and all(r.any() for r in b.rests.values()) and not a.rests


def test_a_transposed_weight_is_pulsed_as_its_transpose():
    gpt = tiny('gpt2')
    s = find_sites(gpt)[0]
    conv = s.down.weight
    old = conv.clone()
    pulse_(s.weight('down').data, proximal_kernel(), 0.03)
    ref = old.T.clone()
    pulse_(ref, proximal_kernel(), 0.03)
    assert torch.allclose(conv, ref.T, atol=1e-7) and not torch.equal(conv, old)


# Recall


def is_free(start, taken, width):
    return all(abs(start - other) >= width for other in taken if other >= 0)


def brute_hubs(h, width, per_sign, signed):
    n, out = len(h) - width + 1, []
    means = [math.fsum(h[i : i + width]) / width for i in range(n)]
    for sign in (1, -1) if signed else (1,):
        taken = []
        for _ in range(per_sign):
            free = [i for i in range(n) if is_free(i, taken, width)]
            best = max(free, key=lambda i: (sign * means[i], -i), default=-1)
            taken.append(best if best >= 0 and sign * means[best] > 0 else -1)
        out += taken
    return out


@quick
@given(st.integers(6, 40), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 999), st.booleans())
def test_hubs_against_brute_force(n, width, per_sign, signed, seed, ties):
    g = torch.Generator().manual_seed(seed)
    h = torch.randint(-2, 3, (3, n), generator=g).double() if ties else torch.randn(3, n, generator=g).double()
    hubs = find_hubs(h, width, per_sign, signed)
    assert hubs.tolist() == [brute_hubs(row, width, per_sign, signed) for row in h.tolist()]
    mask = hub_mask(hubs, n, width)
    for row, starts in zip(mask, hubs.tolist()):
        units = {u for s in starts if s >= 0 for u in range(s, s + width)}
        assert set(row.nonzero()[:, 0].tolist()) == units


@quick
@given(st.integers(4, 5000), st.floats(0.001, 0.49))
def test_width_is_odd(d_ff, share):
    w = hub_width(d_ff, share)
    assert w % 2 and w >= 3 and (w == 3 or abs(w - share * d_ff) <= 1.5)


@pytest.mark.parametrize('kind', ['uniform', 'gaussian', 'range'])
@pytest.mark.parametrize('x', [0.5, 1.2, 3.7, 9.6])
def test_moments_of_the_noise(kind, x):
    m = multiplier(keyed_uniform(0, 0, torch.arange(8), 0, 100, 1024), x, kind)
    mean, sd = noise_moments(x, kind)
    assert abs(m.mean() - mean) < 4 * sd / math.sqrt(m.numel()) + 1e-6 and abs(m.std() - sd) <= 0.005 * sd + 1e-6


@quick
@given(
    st.integers(0, 99), st.floats(0, 6), st.booleans(), st.booleans(), st.sampled_from(['uniform', 'gaussian', 'range'])
)
def test_hubs_are_left_alone_in_highway(seed, x, signed, sign_specific, kind):
    g = torch.Generator().manual_seed(seed)
    h = torch.randn(2, 5, 64, generator=g)
    h = h if signed else h.relu()
    noisy, mask = noisy_hidden(
        h, torch.rand(h.shape, generator=g), HubNoise(x, 7, kind=kind, signed=signed, sign_specific=sign_specific)
    )
    safe = mask if not sign_specific else torch.zeros_like(mask)
    assert torch.equal(noisy[safe], h[safe])
    if sign_specific:
        hubs = find_hubs(h, 7, 1, signed)
        pos = hub_mask(hubs[..., :1], 64, 7) & (h > 0)
        assert torch.equal(noisy[pos], h[pos])
    if x == 0 or (kind == 'range' and x <= 1):
        assert torch.equal(noisy, h)


def test_padding_does_not_count_as_use():
    model = random_tiny('mt5').train()
    ff = attach(model, strong(dose=0.0))
    ff.step(sentences=100)
    ids = batch()['input_ids']
    mask = torch.ones_like(ids)
    mask[:, 7:] = 0
    labels = ids.clone()
    labels[:, 5:] = -100
    model(input_ids=ids, attention_mask=mask, labels=labels)
    assert [n for _, n in ff.context.counts.values()] == [4 * 7] * 2 + [4 * 5] * 2


@quick
@given(st.integers(1, 50), st.floats(1, 1e5), st.floats(10, 1e5), st.integers(0, 9))
def test_usage_is_a_mean(n, sentences, halflife, seed):
    u = torch.rand(32, generator=torch.Generator().manual_seed(seed))
    c = torch.randint(0, n + 1, (32,), generator=torch.Generator().manual_seed(seed)).float()
    new = update_usage(u, c, n, sentences, halflife)
    lo, hi = torch.minimum(u, c / n), torch.maximum(u, c / n)
    assert (
        (new >= lo - 1e-6).all()
        and (new <= hi + 1e-6).all()
        and torch.equal(update_usage(u, c, 0, sentences, halflife), u)
    )


# Forgiveness


@quick
@given(
    st.integers(1, 20),
    st.integers(2, 30),
    st.integers(0, 99),
    st.sampled_from(['literal', 'soft']),
    st.sampled_from([0.0, 0.1]),
    st.floats(0, 1),
)
def test_forgiven_loss_lies_between_nothing_and_cross_entropy(rows, vocab, seed, form, smoothing, amount):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=g).double().requires_grad_()
    labels = torch.randint(0, vocab, (rows,), generator=g)
    classes = torch.randint(-1, 3, (vocab,), generator=g).int()
    loss, d = forgiving_loss(logits, labels, classes, amount, form=form, label_smoothing=smoothing)
    ce = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert -1e-9 <= loss <= ce + 1e-6 and ((d['f'] >= 0) & (d['f'] <= amount + 1e-6)).all()
    assert (d['f'][classes[labels] < 0] == 0).all()
    if form == 'literal':
        assert (d['f'][d['predicted'] == labels] == 0).all()


@quick
@given(st.integers(2, 20), st.integers(2, 30), st.integers(0, 99), st.sampled_from(['literal', 'soft']))
def test_nothing_forgiven_is_cross_entropy(rows, vocab, seed, form):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=g).requires_grad_()
    labels = torch.randint(0, vocab, (rows,), generator=g)
    labels[0] = -100
    a = forgiving_loss(logits, labels, torch.full((vocab,), -1).int(), form=form)[0]
    b = F.cross_entropy(logits, labels, ignore_index=-100)
    ga, gb = torch.autograd.grad(a, logits)[0], torch.autograd.grad(b, logits)[0]
    assert torch.allclose(a, b, atol=1e-6) and torch.allclose(ga, gb, atol=1e-6)


@quick
@given(st.integers(1, 12), st.integers(4, 25), st.integers(1, 4), st.integers(0, 99), st.integers(1, 7))
def test_soft_against_a_dense_sum(rows, vocab, n, seed, chunk):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=g).double()
    labels = torch.randint(0, vocab, (rows,), generator=g)
    classes = torch.randint(-1, 3, (vocab,), generator=g).int()
    p = logits.softmax(-1)
    ce = F.cross_entropy(logits, labels, reduction='none')
    same = (classes[labels][:, None] == classes[None]) & (classes[labels] >= 0)[:, None]
    same[torch.arange(rows), labels] = False
    want = (ce * (1 - 0.5 * (p * same).sum(-1))).mean()
    assert torch.allclose(
        forgiving_loss(logits, labels, classes, 0.5, form='soft', chunk=chunk)[0].double(), want, atol=1e-5
    )
    alts = torch.stack([torch.randperm(vocab, generator=g)[:n] for _ in range(rows)])
    scores = torch.rand(rows, n, generator=g)
    f = torch.zeros(rows, vocab).double().scatter(1, alts, scores.double())
    f[torch.arange(rows), labels] = 0
    want = (ce * (1 - (p * f).sum(-1))).mean()
    assert torch.allclose(
        forgiving_loss(logits, labels, alternatives=alts, scores=scores, form='soft', chunk=chunk)[0].double(),
        want,
        atol=1e-5,
    )


@pytest.mark.parametrize('arch', ARCHS)
def test_loss_without_forgiveness_is_hugging_faces(arch):
    model = tiny(arch).train(arch == 'rwkv')
    ff = attach(model, FFConfig())
    b = batch()
    b['labels'][:, :3] = -100
    out = model(**b)
    ours = ff.loss(out.logits, b['labels'])
    ps = [p for p in model.parameters() if p.requires_grad]
    ga, gb = (
        torch.autograd.grad(out.loss, ps, retain_graph=True, allow_unused=True),
        torch.autograd.grad(ours, ps, allow_unused=True),
    )
    assert torch.allclose(out.loss, ours, atol=1e-6) and all(
        x is y or torch.allclose(x, y, atol=1e-6) for x, y in zip(ga, gb)
    )


@pytest.mark.parametrize('arch', ARCHS)
def test_weights_and_smoothing_follow_the_labels(arch):
    "Weights belong to targets, so a decoder's are shifted as its labels are"
    model = tiny(arch).eval()
    ff = attach(model, FFConfig())
    b = batch()
    logits = model(**b).logits.detach()
    weight = torch.rand(b['labels'].shape, generator=torch.Generator().manual_seed(0))
    lg, y, w = (logits, b['labels'], weight) if arch == 'mt5' else (logits[:, :-1], b['labels'][:, 1:], weight[:, 1:])
    ce = F.cross_entropy(lg.flatten(0, 1), y.flatten(), reduction='none', label_smoothing=0.1)
    assert torch.allclose(
        ff.loss(logits, b['labels'], weight=weight, label_smoothing=0.1), (ce * w.flatten()).sum() / w.sum(), atol=1e-6
    )


def test_tally_counts_what_the_loss_forgives():
    from ff_nbdev.mechanisms.forgiveness_stats import ForgivenessStats

    g = torch.Generator().manual_seed(0)
    classes = torch.randint(-1, 3, (30,), generator=g).int()
    tally, asked, missed, given = ForgivenessStats(30), 0, 0, 0.0
    for _ in range(5):
        logits, labels = torch.randn(40, 30, generator=g), torch.randint(0, 30, (40,), generator=g)
        labels[::9] = -100
        _, d = forgiving_loss(logits, labels, classes)
        tally.add(d, labels)
        ok = labels >= 0
        asked += ok.sum().item()
        missed += (logits.argmax(-1) != labels)[ok].sum().item()
        given += d['f'].sum().item()
    s = tally.summary()
    assert (
        s['targets'] == asked
        and s['missed'] == pytest.approx(missed / asked)
        and s['amount'] == pytest.approx(given / asked)
        and s['forgiven'] == pytest.approx(given / 0.5 / missed)
    )


def test_the_dose_log_says_what_was_given():
    model = random_tiny('rwkv')
    ff = attach(model, strong(dose=0.6, total=1000))
    for _ in range(50):
        ff.step(sentences=20)
    t = ff.table(rank=True)
    assert (
        list(t.role) == ['gate', 'value', 'down'] * 2
        and (t.dose - 0.6).abs().max() <= 0.045
        and (t.pulses > 0).all()
        and t.effective_rank.between(1, 32).all()
    )


def test_older_files_are_read(tmp_path):
    "What a file does not mention has its default; a state without pulse counts too"
    from safetensors.torch import load_file, save_file

    assert (
        FFConfig.from_dict({}) == FFConfig()
        and FFConfig.from_dict(dict(recall=dict(mode='highway'))).recall.share == 0.03
    )
    ff = attach(random_tiny('mt5'), strong())
    ff.step(sentences=50)
    ff.save_pretrained(tmp_path)
    f = tmp_path / 'ff_state.safetensors'
    save_file({k: v for k, v in load_file(f).items() if k != 'pulses'}, f)
    assert attach.from_pretrained(random_tiny('mt5'), tmp_path).sentences == 50
    assert FFConfig.from_dict(ff.config.to_dict()) == ff.config


# What users do beside a plain training loop


def without_dropout(m):
    for x in m.modules():
        if isinstance(x, nn.Dropout):
            x.p = 0.0
        for k in ('dropout', 'attention_dropout'):
            if isinstance(getattr(x, k, None), float):
                setattr(x, k, 0.0)
    return m


@pytest.mark.parametrize('arch', ['mt5', 'gpt2'])
def test_generating_while_training_is_without_noise_and_leaves_no_trace(arch):
    bare, model = tiny(arch).train(), tiny(arch).train()
    without_dropout(bare)
    without_dropout(model)
    ff = attach(model, strong())
    ff.sentences = 100
    ids = batch()['input_ids']
    kw = dict(max_new_tokens=4, do_sample=False, attention_mask=torch.ones_like(ids), pad_token_id=0)
    assert (
        torch.equal(bare.generate(ids, **kw), model.generate(ids, **kw))
        and ff.context.passed == 0
        and not ff.context.counts
    )


def test_encoder_outputs_may_be_given():
    model = random_tiny('mt5').train()
    ff = attach(model, strong())
    ff.sentences = 100
    b = batch()
    a = model(encoder_outputs=model.encoder(input_ids=b['input_ids']), labels=b['labels']).loss
    a.backward()
    assert a.isfinite() and len(ff.context.latest.examples) == 4


@pytest.mark.parametrize('arch', ['mt5', 'gpt2', 'llama'])
@pytest.mark.parametrize('reentrant', [False, True])
def test_two_passes_before_one_backward_under_checkpointing(arch, reentrant):
    def grads(checkpoint):
        m = tiny(arch).train()
        ff = attach(without_dropout(m), strong())
        ff.sentences = 100
        if checkpoint:
            m.gradient_checkpointing_enable(dict(use_reentrant=reentrant))
        ids = batch()['input_ids']
        (sum(m(input_ids=p, labels=p).loss for p in ids.chunk(2)) / 2).backward()
        return torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]), {
            i: n for i, (_, n) in ff.context.counts.items()
        }

    (a, n), (b, k) = grads(False), grads(True)
    assert torch.allclose(a, b, atol=1e-6) and n == k


def test_models_that_flatten_their_tokens_and_nested_children():
    from transformers import BertConfig, BertForMaskedLM, OPTConfig, OPTForCausalLM

    opt = OPTForCausalLM(
        OPTConfig(
            vocab_size=512,
            hidden_size=32,
            ffn_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            word_embed_proj_dim=32,
            dropout=0.0,
        )
    ).train()
    ff = attach(opt, strong(), pattern=FFNPattern('OPT', r'layers\.\d+', 'fc2', 'fc1'))
    ff.sentences = 100
    opt(**batch()).loss.backward()
    assert [n for _, n in ff.context.counts.values()] == [48, 48]
    bert = BertForMaskedLM(
        BertConfig(vocab_size=512, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    ).train()
    ff = attach(bert, strong(), pattern=FFNPattern('BERT', r'layer\.\d+', 'output.dense', 'intermediate.dense'))
    ff.sentences = 100
    b = batch()
    y = b['labels'].masked_fill(torch.arange(12) % 2 == 0, -100)
    bert.eval()
    out = bert(input_ids=b['input_ids'], labels=y)
    assert abs(ff.loss(out.logits, y) - out.loss) < 1e-6  # a masked model's labels are not shifted


def test_a_tied_weight_has_one_dose():
    m = random_tiny('mt5')
    s = find_sites(m)
    s[1].down.weight = s[0].down.weight
    ff = attach(m, FFConfig(1000, ForgetfulnessConfig(dose=0.3, roles=('down',))))
    ff.step(sentences=1000)
    assert len(ff.table()) == 3 and abs(ff.doses - 0.3).max() < 0.03


def test_padding_is_known_however_it_is_given():
    for positional in (False, True):
        m = random_tiny('mt5').train()
        ff = attach(m, strong())
        ff.sentences = 100
        b = batch()
        mask = torch.ones_like(b['input_ids'])
        mask[:, 7:] = 0
        m(b['input_ids'], mask, labels=b['labels']) if positional else m(attention_mask=mask, **b)
        assert ff.context.counts[0][1] == 28


def test_rwkv_is_not_rescaled_in_place():
    from transformers import RwkvConfig, RwkvForCausalLM

    m = RwkvForCausalLM(
        RwkvConfig(vocab_size=512, hidden_size=32, num_hidden_layers=3, context_length=64, rescale_every=2)
    )
    before = [s.weight('down').clone() for s in find_sites(m)]
    ff = attach(m, strong())
    m.eval()
    m(**batch())
    assert all(torch.equal(a, s.weight('down')) for a, s in zip(before, ff.sites))
    ff.remove()
    assert m.config.rescale_every == 2


def test_state_of_other_sites_is_refused(tmp_path):
    ff = attach(random_tiny('mt5'), FFConfig(100, ForgetfulnessConfig(dose=1.0)))
    ff.save_pretrained(tmp_path)
    other = attach(random_tiny('rwkv', num_hidden_layers=4), FFConfig(100, ForgetfulnessConfig(dose=1.0)))
    with pytest.raises(ValueError, match='other feed-forward sites'):
        other.load_state(tmp_path)


def test_presets_hold_what_they_say():
    from ff_nbdev.mechanisms.config import PRESETS

    full, on = (
        FFConfig.preset(n, total_sentences=t).forgetfulness
        for n, t in (('full_stack', 1_000_000), ('full_stack_continued', 400_000))
    )
    period = lambda f, t: PulseSchedule(t, f.dose, 1, f.power, f.ramp).period
    assert abs(period(full, 1_000_000) / period(on, 400_000) - 1) < 0.01
    assert FFConfig.preset('tlf', 100, forgiveness='conceptual').forgiveness.final_kind == 'two_letter'
    for n in PRESETS:
        FFConfig.preset(n, total_sentences=100)
