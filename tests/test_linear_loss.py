"""The loss from hidden states: every form and option equals the loss of logits, without a buffer of that width."""

import contextlib

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tiny_models import tiny
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ff_nbdev.mechanisms import forgiveness, linear_loss
from ff_nbdev.mechanisms.config import FORMS, FFConfig, ForgetfulnessConfig
from ff_nbdev.mechanisms.forgiveness import forgiving_loss, top_prediction
from ff_nbdev.mechanisms.linear_loss import can_be_headless, headless, linear_forgiving_loss, needs_logits
from ff_nbdev.mechanisms.method import attach

ROWS, VOCAB, WIDTH = 45, 1500, 24
CRITERIA = 'none', 'letters', 'short table', 'listed'
OPTIONS = 'plain', 'smoothing', 'weights', 'exempt', 'all'


def batch(seed=0, rows=ROWS, vocab=VOCAB):
    """Hidden states, output embedding, bias, and labels whose predictions are often close misses

    Some places have no target."""
    draw = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(rows, WIDTH, generator=draw), torch.randn(vocab, WIDTH, generator=draw) * 0.5
    bias = torch.randn(vocab, generator=draw)
    best, labels = (hidden @ weight.T + bias).topk(2).indices[:, 0], torch.randint(vocab, (rows,), generator=draw)
    labels[::4], labels[1::9] = best[::4], -100
    classes = torch.randint(-1, 60, (vocab,), generator=draw, dtype=torch.int32)
    classes[best[2::3]] = classes[labels[2::3]]
    ids = torch.randint(vocab, (rows, 10), generator=draw)
    ids[::2, 0], ids[:, 1], ids[:, 3] = best[::2], labels.clamp(min=0), ids[:, 2]  # the target itself, and one id twice
    return (
        (hidden, weight, bias),
        labels,
        classes,
        ids,
        torch.rand(rows, 10, generator=draw),
        torch.rand(rows, generator=draw),
    )


def asked(criterion, option, given):
    _, labels, classes, ids, scores, weights = given
    criteria = dict(none={}, letters=dict(classes=classes, amount=0.4), listed=dict(alternatives=ids, scores=scores))
    criteria['short table'] = dict(classes=classes[:-100])
    options = dict(
        plain={},
        smoothing=dict(label_smoothing=0.1),
        weights=dict(weight=weights),
        exempt=dict(exempt=labels[labels >= 0][:12]),
    )
    options['all'] = options['smoothing'] | options['weights'] | options['exempt']
    return criteria[criterion] | options[option]


def by_autograd(parts, labels, form, weight=None, **kw):
    "The reference: `forgiving_loss` in plain PyTorch and float64, with autograd through it"
    parts = [x.double().requires_grad_() for x in parts]
    z = parts[0] @ parts[1].T + parts[2]
    at = labels >= 0
    z, y = z[at], labels[at]
    p, ids = z.softmax(-1), torch.arange(z.shape[1])
    ce = F.cross_entropy(z, y, reduction='none', label_smoothing=kw.get('label_smoothing', 0.0))
    close = torch.zeros_like(z)
    if (classes := kw.get('classes')) is not None:
        classes = F.pad(classes, (0, z.shape[1] - len(classes)), value=-1)
        close = ((classes[y][:, None] == classes) & (classes[y][:, None] >= 0)).double() * kw.get('amount', 0.5)
    if kw.get('alternatives') is not None:
        listed, shares = kw['alternatives'][at], kw['scores'][at].double()
        close = (
            torch.zeros_like(z).scatter_add(1, listed, shares)
            if form == 'soft'
            else torch.zeros_like(z).scatter_reduce(1, listed, shares, 'amax')
        )
    close = torch.where(ids == y[:, None], 0.0, close)
    f = (p * close).sum(-1) if form == 'soft' else close.gather(1, z.argmax(-1, keepdim=True))[:, 0].detach()
    if kw.get('exempt') is not None:
        f = torch.where(torch.isin(y, kw['exempt']), 0.0, f)
    w = torch.ones_like(ce) if weight is None else weight[at].double()
    loss = (ce * (1 - f) * w).sum() / w.sum()
    return loss.detach(), f.detach(), torch.autograd.grad(loss, parts)


def fused(parts, labels, form, dtype=torch.float32, chunk=None, weight=None, **kw):
    parts = [p.clone().to(dtype).requires_grad_() for p in parts]
    loss, d = linear_forgiving_loss(
        *parts[:2], labels, bias=parts[2], form=form, target_weight=weight, chunk=chunk, **kw
    )
    return loss.detach(), d, torch.autograd.grad(loss, parts)


def hold_equal(found, wanted, atol):
    assert abs(found[0] - wanted[0]) <= atol * 5  # a cross-entropy of 8 has a rounding of 1e-6 itself
    for ours, theirs in zip(found[2], wanted[2]):
        assert (ours - theirs).abs().max() <= atol


# Value and gradients


@pytest.mark.parametrize('option', OPTIONS)
@pytest.mark.parametrize('criterion', CRITERIA)
@pytest.mark.parametrize('form', FORMS)
def test_equals_autograd(form, criterion, option):
    given = batch()
    kw = asked(criterion, option, given)
    wanted = by_autograd(given[0], given[1], form, **kw)
    for dtype, chunk, atol in ((torch.float64, None, 1e-7), (torch.float32, 7, 1e-6), (torch.float32, None, 1e-6)):
        found = fused(given[0], given[1], form, dtype, chunk, **kw)
        hold_equal(found, wanted, atol)
        assert torch.allclose(found[1]['f'].double(), wanted[1], atol=1e-6)
    if criterion != 'none' and option != 'all':
        assert (wanted[1] > 0).sum() > 5


@pytest.mark.parametrize('option', OPTIONS)
@pytest.mark.parametrize('criterion', CRITERIA)
@pytest.mark.parametrize('form', FORMS)
def test_the_loss_of_logits_equals_autograd(form, criterion, option, monkeypatch):
    "By the kernels and by the functions that run elsewhere"
    given = batch(1)
    kw = asked(criterion, option, given)
    (hidden, weight, bias), labels = given[:2]
    wanted = by_autograd(given[0], labels, form, **kw)
    seen = []
    for fast in (forgiveness._is_fast, lambda logits: False):
        monkeypatch.setattr(forgiveness, '_is_fast', fast)
        parts = [x.clone().requires_grad_() for x in given[0]]
        loss, d = forgiving_loss(parts[0] @ parts[1].T + parts[2], labels, form=form, **kw)
        hold_equal((loss, d, torch.autograd.grad(loss, parts)), wanted, 3e-6 if 'label_smoothing' in kw else 1e-6)
        seen.append(d)
    assert torch.equal(seen[0]['predicted'], seen[1]['predicted'])
    assert torch.allclose(seen[0]['f'], seen[1]['f'], atol=1e-6) and torch.allclose(
        seen[0]['ce'], seen[1]['ce'], atol=1e-5
    )


def test_gradients_are_those_of_finite_differences():
    given = batch(2, rows=6, vocab=40)
    parts = [x.double().requires_grad_() for x in given[0]]

    def call(*parts):
        return linear_forgiving_loss(*parts[:2], given[1], given[2], form='soft', bias=parts[2], label_smoothing=0.1)[0]

    found = torch.autograd.grad(call(*parts), parts)
    for i, part in enumerate(parts):
        way, small = torch.randn(part.shape, generator=torch.Generator().manual_seed(i)).double(), 1e-5
        ends = []
        for sign in (1, -1):
            moved = list(parts)
            moved[i] = part + sign * small * way
            ends.append(call(*moved))
        assert abs((ends[0] - ends[1]) / (2 * small) - (found[i] * way).sum()) < 1e-7


def test_nothing_to_forgive_is_pytorchs_loss_to_the_bit():
    (hidden, weight, _), labels, *_ = batch()
    ours, theirs = ((hidden @ weight.T).requires_grad_() for _ in range(2))
    a, b = (
        forgiving_loss(ours, labels)[0],
        F.cross_entropy(theirs, labels, reduction='none')[labels >= 0].sum() / (labels >= 0).sum(),
    )
    a.backward()
    b.backward()
    assert torch.equal(a, b) and torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize('form', FORMS)
def test_ties_go_to_the_lowest_id(form):
    hidden, weight = torch.ones(5, 3), torch.zeros(700, 3)
    weight[[100, 300, 650]] = 1.0
    ids = torch.tensor([[100, 300]]).expand(5, 2)
    for chunk in (None, 2):
        _, d = linear_forgiving_loss(
            hidden,
            weight,
            torch.full((5,), 7),
            alternatives=ids,
            scores=torch.tensor([[0.6, 0.3]]).expand(5, 2),
            form=form,
            chunk=chunk,
        )
        assert (d['predicted'] == 100).all()
    assert (top_prediction(hidden @ weight.T) == 100).all()


@pytest.mark.parametrize('odd', [float('nan'), float('inf'), -float('inf')])
def test_odd_logits_are_told_as_pytorch_tells_them(odd):
    logits = torch.randn(4, 9000, generator=torch.Generator().manual_seed(0))
    logits[1, 5000], labels, classes = odd, torch.arange(4), torch.zeros(9000, dtype=torch.int32)
    if odd == -float('inf'):
        logits[2, :4500] = odd  # a whole block that nothing is in
    labels[2] = 6000
    _, d = forgiving_loss(logits, labels, classes)
    assert torch.allclose(d['ce'], F.cross_entropy(logits, labels, reduction='none'), equal_nan=True)


@pytest.mark.parametrize('chunk', [None, 3])
def test_without_targets_loss_and_gradients_are_0(chunk):
    given = batch()
    for labels in (torch.full_like(given[1], -100), given[1][:0]):
        parts = [x[: len(labels)].clone() if i == 0 else x.clone() for i, x in enumerate(given[0])]
        found = fused(parts, labels, 'soft', chunk=chunk, classes=given[2])
        assert found[0] == 0 and all(g.shape == p.shape and not g.any() for g, p in zip(found[2], parts))


@pytest.mark.parametrize('chunk', [None, 8])
def test_a_total_takes_the_place_of_the_targets(chunk):
    given = batch()
    mean, whole = (
        fused(given[0], given[1], 'literal', chunk=chunk),
        fused(given[0], given[1], 'literal', chunk=chunk, total=100.0),
    )
    share = (given[1] >= 0).sum() / 100
    hold_equal(whole, (mean[0] * share, None, [g * share for g in mean[2]]), 1e-6)
    assert fused(given[0], given[1], 'literal', chunk=chunk, total=0)[0] == 0


def test_micro_batches_add_up():
    given = batch()
    (hidden, weight, bias), labels, classes = given[:3]
    whole = fused(given[0], labels, 'literal', classes=classes, total=50)
    halves = [
        fused((hidden[at], weight, bias), labels[at], 'literal', classes=classes, total=50)
        for at in (slice(0, 20), slice(20, None))
    ]
    both = torch.cat([h[2][0] for h in halves]), halves[0][2][1] + halves[1][2][1], halves[0][2][2] + halves[1][2][2]
    hold_equal(whole, (halves[0][0] + halves[1][0], None, both), 1e-6)


def test_a_gradient_that_comes_in_scales_and_comes_once():
    given = batch()
    parts = [x.clone().requires_grad_() for x in given[0]]
    loss, _ = linear_forgiving_loss(*parts[:2], given[1], bias=parts[2])
    (3 * loss).backward(retain_graph=True)
    plain = fused(given[0], given[1], 'literal')
    for p, g in zip(parts, plain[2]):
        assert torch.allclose(p.grad, 3 * g, atol=1e-6)
    with pytest.raises(RuntimeError, match='compute the loss again'):
        loss.backward()


def test_a_frozen_output_embedding_gets_no_gradient():
    given = batch()
    hidden, (weight, bias) = given[0][0].clone().requires_grad_(), given[0][1:]
    for chunk in (None, 5):
        loss, _ = linear_forgiving_loss(hidden, weight, given[1], bias=bias, chunk=chunk)
        assert torch.allclose(
            torch.autograd.grad(loss, hidden)[0], fused(given[0], given[1], 'literal')[2][0], atol=1e-6
        )
    with torch.no_grad():
        assert not linear_forgiving_loss(hidden, weight, given[1])[0].requires_grad


@pytest.mark.parametrize('autocast', [True, False])
def test_bfloat16(autocast):
    "Within the rounding of bfloat16 of the same loss of logits, whose loss is in float32 too"
    given = batch()
    dtype = torch.float32 if autocast else torch.bfloat16
    a = [p.clone().to(dtype).requires_grad_() for p in given[0]]
    b = [p.clone().to(dtype).requires_grad_() for p in given[0]]
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        logits = F.linear(a[0], a[1], a[2])
        wanted = forgiving_loss(logits, given[1], given[2])[0]
        found = linear_forgiving_loss(*b[:2], given[1], given[2], bias=b[2])[0]
        rows = linear_forgiving_loss(*b[:2], given[1], given[2], bias=b[2], chunk=9)[0]
    assert logits.dtype == torch.bfloat16 and found.dtype == torch.float32
    assert abs(found - wanted) < 0.02 and abs(rows - wanted) < 0.02
    wanted.backward()
    found.backward()
    for p, q in zip(a, b):
        assert q.grad.dtype == dtype and (p.grad.float() - q.grad.float()).norm() < 0.02 * p.grad.float().norm()


def test_two_threads_equal_one():
    given = batch(rows=200)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(fused(given[0], given[1], 'soft', classes=given[2]))
    finally:
        torch.set_num_threads(before)
    hold_equal(found[0], found[1], 1e-7)


def test_the_products_are_right_without_onednn(monkeypatch):
    given = batch()
    with_it = fused(given[0], given[1], 'literal', classes=given[2])
    monkeypatch.setattr(linear_loss, '_ONEDNN', False)
    hold_equal(fused(given[0], given[1], 'literal', classes=given[2]), with_it, 1e-6)


# Memory


def allocated(call):
    "Peak of what is allocated within, and the largest piece; bytes"
    with torch.profiler.profile(profile_memory=True) as seen:
        call()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == '[memory]']
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return torch.tensor(sizes).cumsum(0).max().item(), max(sizes)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('chunk', [None, 16])
def test_no_buffer_is_as_wide_as_the_vocabulary(form, chunk):
    "At most half of the peer's peak"
    rows, vocab, width = 256, 12_000, 32
    hidden, weight = torch.randn(rows, width, requires_grad=True), torch.randn(vocab, width, requires_grad=True)
    labels, classes = torch.randint(vocab, (rows,)), torch.randint(40, (vocab,), dtype=torch.int32)

    def peer():
        logits = F.linear(hidden, weight)
        F.cross_entropy(logits.float(), labels).backward()

    def ours():
        linear_forgiving_loss(hidden, weight, labels, classes, form=form, chunk=chunk)[0].backward()

    ours()
    hidden.grad = weight.grad = None
    theirs, wide = allocated(peer)
    assert wide >= rows * vocab * 4
    hidden.grad = weight.grad = None
    peak, largest = allocated(ours)
    assert peak <= 0.5 * theirs and largest < rows * vocab * 4 / 3


def test_the_gradient_of_the_output_embedding_is_handed_over_without_a_copy():
    hidden, weight = torch.randn(4, 64, requires_grad=True), torch.randn(40_000, 64, requires_grad=True)
    loss, _ = linear_forgiving_loss(hidden, weight, torch.arange(4))
    peak, _ = allocated(loss.backward)
    assert peak < weight.nbytes / 4 and weight.grad is not None


def test_rows_without_a_target_are_never_multiplied(monkeypatch):
    seen, product = [], linear_loss._product
    monkeypatch.setattr(linear_loss, '_product', lambda x, w: seen.append(x.shape) or product(x, w))
    given = batch()
    linear_forgiving_loss(*given[0][:2], given[1])
    targets = (given[1] >= 0).sum()
    assert targets < len(given[1]) and seen and all(shape[0] == targets for shape in seen)


# Models without their last product


def given_to(arch, ids):
    return dict(input_ids=ids) | (dict(decoder_input_ids=ids) if arch == 'mt5' else {})


@pytest.mark.parametrize('arch', ['mt5', 'rwkv', 'gpt2', 'llama'])
def test_hidden_states_make_the_same_loss(arch):
    model = tiny(arch).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ff = attach(model, FFConfig())
    ids = torch.randint(3, 500, (3, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.4, -100)
    parts = [p for p in model.parameters() if p.requires_grad]
    wanted = ff.loss(model(**given_to(arch, ids)).logits, labels, targets=40)
    if arch == 'gpt2':
        assert model.lm_head.weight is model.transformer.wte.weight  # tied: both gradients meet
    assert can_be_headless(model, given_to(arch, ids))
    with headless(model) as head:
        hidden = model(**given_to(arch, ids)).logits
    found = ff.loss(hidden, labels, head=head, targets=40)
    assert hidden.shape[-1] == head.weight.shape[1] and abs(found - wanted) < 1e-6
    for a, b in zip(*(torch.autograd.grad(x, parts, allow_unused=True) for x in (wanted, found))):
        assert a is b or torch.allclose(a, b, atol=1e-6 * max(1.0, a.abs().max().item()))
    assert model(**given_to(arch, ids)).logits.shape[-1] == 512  # and the logits are back


def test_an_error_inside_puts_the_head_back():
    model = tiny('mt5')
    with pytest.raises(ZeroDivisionError), headless(model):
        1 / 0
    assert 'forward' not in vars(model.lm_head) and needs_logits(model) is None
    with headless(model), pytest.raises(ValueError, match='something else changes'), headless(model):
        pass


def scaled(model, inputs):
    "A model that does something with its logits"

    class Scaled(type(model)):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 0.5
            return out

    model.__class__ = Scaled
    return model


def test_models_that_change_their_logits_keep_them():
    ids = torch.randint(3, 500, (3, 6))
    assert can_be_headless(tiny('llama'), given_to('llama', ids))
    model = scaled(tiny('llama'), ids)
    state = torch.get_rng_state()
    assert not can_be_headless(model, given_to('llama', ids))
    assert torch.equal(state, torch.get_rng_state())


def test_wrapped_models():
    from peft import LoraConfig, get_peft_model

    assert needs_logits(get_peft_model(tiny('llama'), LoraConfig(target_modules=['q_proj']))) is None
    assert 'plain linear' in needs_logits(get_peft_model(tiny('llama'), LoraConfig(target_modules=['lm_head'])))
    assert 'compiled' in needs_logits(torch.compile(tiny('llama')))
    assert 'Hugging Face' in needs_logits(nn.Linear(2, 2))
    hooked = tiny('llama')
    hooked.lm_head.register_forward_hook(lambda *args: None)
    assert 'something else' in needs_logits(hooked)


def gradients_in_ddp(wrap, unused):
    "Of a tiny Llama in its second step, bare or in the one process of a group"
    ids = torch.randint(3, 500, (2, 6), generator=torch.Generator().manual_seed(0))
    model = tiny('llama').train()
    ff = attach(model, FFConfig())
    outer = DistributedDataParallel(model, find_unused_parameters=unused) if wrap else model
    for _ in range(2):
        model.zero_grad()
        assert can_be_headless(outer, dict(input_ids=ids))
        with headless(outer) as head:
            hidden = outer(input_ids=ids).logits
        ff.loss(hidden, ids, head=head).backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('unused', [False, True])
def test_ddp_waits_for_the_gradient_of_the_output_embedding(unused, tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/meet', rank=0, world_size=1)
    try:
        one, two = (gradients_in_ddp(wrap, unused) for wrap in (False, True))
    finally:
        dist.destroy_process_group()
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(one, two))


# The trainer


def trainer(tmp_path, config, vocab=4200, **kw):
    from ff_nbdev.models.tiny import random_tiny
    from ff_nbdev.training.trainer import FFTrainer
    from transformers import TrainingArguments

    model = random_tiny('mt5', vocab_size=vocab)
    classes = torch.randint(40, (vocab,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    ff = attach(model, config)
    ff.classes = classes
    draw = torch.Generator().manual_seed(1)
    items = [
        dict(
            input_ids=torch.randint(3, vocab, (12,), generator=draw),
            labels=torch.randint(3, vocab, (6,), generator=draw),
        )
        for _ in range(24)
    ]

    def collate(parts):
        return torch.utils.data.default_collate(parts) | dict(sentences=torch.ones(len(parts)).long())

    smoothing = kw.pop('label_smoothing_factor', 0.0)
    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=3,
        save_strategy='no',
        report_to='none',
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
        label_smoothing_factor=smoothing,
    )
    return FFTrainer(
        model=model, args=args, ff=ff, train_dataset=items, eval_dataset=items[:8], data_collator=collate, **kw
    )


@contextlib.contextmanager
def watched(monkeypatch):
    "How often the loss was made of hidden states and how often of logits"
    from ff_nbdev.mechanisms import loss

    calls = dict(linear_forgiving_loss=0, forgiving_loss=0)
    with monkeypatch.context() as patched:
        for name in calls:

            def counting(*args, name=name, call=getattr(loss, name), **kw):
                calls[name] += 1
                return call(*args, **kw)

            patched.setattr(loss, name, counting)
        yield calls


PULSED = dict(total_sentences=24, forgetfulness=ForgetfulnessConfig(dose=0.1, size=3))


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_the_trainer_learns_the_same_without_logits(tmp_path, monkeypatch, smoothing):
    ends = []
    for fused_loss in (None, False):
        t = trainer(tmp_path, FFConfig(**PULSED), fused_loss=fused_loss, label_smoothing_factor=smoothing)
        with watched(monkeypatch) as calls:
            t.train()
        used, left = calls['linear_forgiving_loss'], calls['forgiving_loss']
        assert (used, left) == ((6, 0) if fused_loss is None else (0, 6))
        assert t.evaluate()['eval_loss'] > 0
        ends.append([p.detach().clone() for p in t.model.parameters()])
    for a, b in zip(*ends):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    'config, vocab, fused_loss, used',
    [(dict(), 4200, None, 0), (dict(), 4200, True, 6), (PULSED, 512, None, 0), (PULSED, 512, True, 6)],
)
def test_where_the_trainer_leaves_out_the_logits(tmp_path, monkeypatch, config, vocab, fused_loss, used):
    "Not with every strength at 0, which is the bare model to the bit, and not for a small vocabulary"
    t = trainer(tmp_path, FFConfig(**config), vocab, fused_loss=fused_loss)
    with watched(monkeypatch) as calls:
        t.train()
    assert calls == dict(linear_forgiving_loss=used, forgiving_loss=6 - used)


def test_outputs_that_are_asked_for_are_logits(tmp_path):
    t = trainer(tmp_path, FFConfig(**PULSED))
    batch_ = t.data_collator([t.train_dataset[i] for i in range(4)])
    t.model.train()
    t._targets = 24
    loss, out = t.compute_loss(t.model, dict(batch_), return_outputs=True)
    assert out.logits.shape[-1] == 4200 and torch.allclose(loss, t.compute_loss(t.model, dict(batch_)), atol=0.5)
