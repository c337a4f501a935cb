"What the pages of the mechanisms hold beside what they show"

import warnings

import pytest
import torch
import torch.nn.functional as F
from fastcore.test import test_eq as eq

from ff_nbdev.core.testing import expect_fail
from ff_nbdev.mechanisms.config import FORMS, NOISE, FFConfig, RecallConfig
from ff_nbdev.mechanisms.forgiveness import forgiving_loss
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.mechanisms.noise import HubNoise, _draws, keyed_noise, noisy_in_torch, token_keys
from ff_nbdev.mechanisms.recall import find_hubs, hub_mask, hubs_in_torch, mask_in_torch
from ff_nbdev.models.tiny import random_tiny


def ids():
    return torch.randint(3, 500, (4, 12), generator=torch.Generator().manual_seed(0))


# The method


def test_after_a_trial_the_model_is_as_quiet_as_before():
    model = random_tiny('mt5')
    ff = attach(model, FFConfig(total_sentences=100, recall=RecallConfig(top=2.0)))
    with torch.no_grad():
        before = model(input_ids=ids(), labels=ids()).logits
        with ff.noisy(2.0):
            model(input_ids=ids(), labels=ids())
        after = model(input_ids=ids(), labels=ids()).logits
    assert torch.equal(before, after) and ff.context.counts == {} and ff.context.trial is None


@pytest.mark.parametrize(
    'recall, sentences, expected',
    [
        (dict(limit=5.0, slow_from=3.0), (80, 90, 100, 110, 120, 200), [0.0, 1.0, 2.0, 3.0, 3.5, 5.0]),
        ({}, (150,), [2.0]),
    ],
)
def test_noise_rises_to_its_limit(recall, sentences, expected):
    ff = attach(random_tiny(), FFConfig(total_sentences=100, recall=RecallConfig(top=2.0, **recall)))
    found = []
    for ff.sentences in sentences:
        found.append(round(ff.noise_x, 6))
    eq(found, expected)


@pytest.mark.parametrize('training', [False, True])
def test_training_in_evaluation_mode_is_told(training):
    model = random_tiny('mt5').train(training)
    ff = attach(model, FFConfig(total_sentences=10, recall=RecallConfig(top=2.0, start=0.0)))
    ff.sentences = 5
    ff.loss(model(input_ids=ids(), labels=ids()).logits, ids()).backward()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        ff.step(sentences=1)
    texts = [str(warning.message) for warning in said]
    assert not texts if training else 'call model.train()' in texts[0]


def test_a_configuration_is_checked_again_when_it_is_attached():
    changed = FFConfig()
    changed.recall.top = 2.0
    assert 'total_sentences' in expect_fail(lambda: attach(random_tiny(), changed), ValueError)


# Hubs


def by_hand(hidden, width, count, sign):
    "Starts of the strongest windows, one after the other"
    sums, starts = [], []
    for start in range(len(hidden) - width + 1):
        sums.append(sum(hidden[start : start + width].tolist()) / width * sign)

    def is_free(at):
        return sums[at] > 0 and all(abs(at - other) >= width for other in starts)

    for _ in range(count):
        free = [at for at in range(len(sums)) if is_free(at)]
        starts.append(max(free, key=lambda at: (sums[at], -at)) if free else -1)
    return starts


@pytest.mark.parametrize('seed', range(20))
def test_hubs_are_those_of_a_search_by_hand(seed):
    hidden = torch.randn(40, generator=torch.Generator().manual_seed(seed)).double()
    eq(find_hubs(hidden, 5, 3).tolist(), by_hand(hidden, 5, 3, 1) + by_hand(hidden, 5, 3, -1))


def test_hubs_where_all_is_alike():
    eq(find_hubs(torch.ones(20), 5).tolist(), [0, -1])
    eq(find_hubs(-torch.ones(20), 5).tolist(), [-1, 0])
    eq(find_hubs(torch.zeros(20), 5, 2).tolist(), [-1] * 4)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('seed', range(20))
def test_hubs_and_masks_with_ties_are_those_of_tensor_operations(dtype, seed):
    hidden = torch.randint(-2, 3, (6, 40), generator=torch.Generator().manual_seed(seed)).to(dtype)
    hubs = find_hubs(hidden, 5, 3)
    eq(hubs, hubs_in_torch(hidden, 5, 3))
    eq(hub_mask(hubs, 40, 5), mask_in_torch(hubs, 40, 5))


# Noise


@pytest.mark.parametrize('kind', NOISE)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_pass_and_its_gradient_are_those_of_tensor_operations(kind, dtype):
    draw = torch.Generator().manual_seed(0)
    keys = token_keys(0, 5, torch.arange(4), 2, 16)
    hidden = torch.randn(4, 16, 1024, generator=draw).to(dtype).requires_grad_()
    noise = HubNoise(1.7, 31, torch.rand(1024, generator=draw), 0.5, kind, 2, True, True)
    tensors = noisy_in_torch(hidden, _draws(keys, 1024), noise)[0]
    for out in (dtype, torch.bfloat16):
        one_pass, expected = keyed_noise(hidden, keys, noise, out)[0], tensors.to(out)
        assert torch.equal(one_pass, expected)
        gradients = []
        for noisy in (one_pass, expected):
            loss = noisy.float().square().sum()
            gradients.append(torch.autograd.grad(loss, hidden, retain_graph=True)[0])
        assert torch.equal(*gradients)


# Forgiveness


def batch_of_logits():
    "64 rows over 40 ids, of which every seventh has no target"
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(64, 40, generator=draw), torch.randint(40, (64,), generator=draw)
    labels[::7] = -100
    return logits, labels, draw


@pytest.mark.parametrize('form', FORMS)
def test_where_nothing_is_close_the_loss_is_cross_entropy(form):
    logits, labels, _ = batch_of_logits()
    none, found = torch.full((40,), -1, dtype=torch.int32), []
    for loss_of in (lambda x: forgiving_loss(x, labels, none, form=form)[0], lambda x: F.cross_entropy(x, labels)):
        leaf = logits.clone().requires_grad_()
        loss = loss_of(leaf)
        loss.backward()
        found.append((loss.item(), leaf.grad))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert (found[0][1] - found[1][1]).abs().max() < 1e-6


def test_the_soft_form_is_a_sum_over_the_class():
    logits, labels, draw = batch_of_logits()
    classes = torch.randint(-1, 6, (40,), generator=draw, dtype=torch.int32)
    there = labels >= 0
    p, own = logits[there].softmax(-1), classes[labels[there]][:, None]
    close = (classes == own) & (own >= 0) & (torch.arange(40) != labels[there][:, None])
    f = 0.5 * (p * close).sum(-1)
    expected = (F.cross_entropy(logits[there], labels[there], reduction='none') * (1 - f)).mean().item()
    assert forgiving_loss(logits, labels, classes, form='soft', chunk=10)[0].item() == pytest.approx(expected, abs=1e-5)
    exempt = labels[there].unique()
    plain = F.cross_entropy(logits, labels).item()
    assert forgiving_loss(logits, labels, classes, exempt=exempt)[0].item() == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize('form', FORMS)
def test_alternatives_lower_the_loss(form):
    logits, labels, draw = batch_of_logits()
    ids, scores = torch.randint(40, (64, 10), generator=draw), torch.rand(64, 10, generator=draw) * 0.3 + 0.3
    assert forgiving_loss(logits, labels, alternatives=ids, scores=scores, form=form)[0] < F.cross_entropy(
        logits, labels
    )


def test_an_unknown_form_is_refused():
    logits, labels, _ = batch_of_logits()
    assert 'Unknown form' in expect_fail(lambda: forgiving_loss(logits, labels, form='hard'), ValueError)
