"""Hooks come off however the work between ends, wherever they were moved to, and no others with them."""

import copy

import pytest
import torch
from tiny_models import gpt2, tiny
from torch import nn

from ff_nbdev.baselines.sparsity import WeightSparsity
from ff_nbdev.baselines.topographic import TopographicLoss
from ff_nbdev.core.hooks import Hooks, make_opaque, take_off
from ff_nbdev.evaluation.contribution import scale_ffn
from ff_nbdev.evaluation.robustness import perturbed
from ff_nbdev.evaluation.steering import steer
from ff_nbdev.models.sites import find_sites

TABLES = (
    '_forward_pre_hooks',
    '_forward_hooks',
    '_forward_pre_hooks_with_kwargs',
    '_forward_hooks_with_kwargs',
    '_forward_hooks_always_called',
)
X = torch.ones(1, 3)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def hooks_of(model):
    "Name of a module and of a table → what the table holds, where it holds something"
    found = {}
    for name, module in model.named_modules():
        for table in TABLES:
            if held := list(getattr(module, table).values()):
                found[name, table] = held
    return found


def doubled(module, args):
    return (2 * args[0],)


def with_words(module, args, kwargs):
    return args, kwargs


def seen(module, args, output):
    return None


def test_every_kind_of_hook_leaves_no_trace():
    model = net()
    with Hooks() as hooks:
        hooks.before(model[0], doubled)
        hooks.before(model, with_words, with_kwargs=True)
        hooks.after(model[1], lambda module, args, kwargs, output: None, with_kwargs=True)
        hooks.after(model, seen, always_call=True)
        assert {table for _, table in hooks_of(model)} == set(TABLES)
    assert not hooks_of(model)


def test_an_error_while_they_are_laid_takes_the_first_ones_off():
    model = net()
    with pytest.raises(AttributeError):
        with Hooks() as hooks:
            hooks.before(model[0], doubled)
            hooks.before(None, doubled)
    assert not hooks_of(model)


def test_only_ours_are_taken_off():
    "Of one function that was laid twice, each context takes off its own"
    model = net()
    mine = model[0].register_forward_pre_hook(doubled)
    with Hooks() as outer:
        outer.before(model[1], doubled)
        with Hooks() as inner:
            inner.before(model[1], doubled)
            assert len(model[1]._forward_pre_hooks) == 2
        assert len(model[1]._forward_pre_hooks) == 1
    assert list(hooks_of(model)) == [('0', '_forward_pre_hooks')]
    mine.remove()


def test_a_hook_that_was_moved_is_found_in_the_model():
    model, plain = net(), net()
    hooks = Hooks(model)
    hooks.before(model[1], doubled)
    model[1] = copy.deepcopy(model[1])  # and the hook with it
    assert not torch.equal(model(X), plain(X))
    hooks.remove()
    assert not hooks_of(model) and torch.equal(model(X), plain(X)) and not hooks.laid


def test_fused_modules_keep_no_hook():
    "PyTorch moves hooks of the modules that it fuses"
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).eval()
    hooks = Hooks(model)
    hooks.before(model[0], doubled)
    torch.ao.quantization.fuse_modules(model, ['0', '1'], inplace=True)
    assert hooks_of(model)
    hooks.remove()
    assert not hooks_of(model)


def test_take_off_counts_what_it_took():
    model = net()
    for layer in model:
        layer.register_forward_pre_hook(doubled)
        layer.register_forward_hook(seen)
    assert take_off(model.modules(), lambda hook: hook is doubled) == 2
    assert take_off(model.modules(), lambda hook: True) == 2 and not hooks_of(model)


@pytest.mark.parametrize('change', ['steer', 'perturbed', 'scale_ffn'])
def test_a_model_is_as_before_when_the_work_within_a_context_fails(change):
    model = tiny('gpt2')
    contexts = dict(
        steer=lambda: steer(model, 0, 60),
        perturbed=lambda: perturbed(model, 'noise', 2.0),
        scale_ffn=lambda: scale_ffn(model, 0.5),
    )
    ids = torch.arange(3, 11)[None]
    clean = model(input_ids=ids).logits
    with pytest.raises(RuntimeError, match='in between'):
        with contexts[change]():
            assert hooks_of(model) and not torch.equal(model(input_ids=ids).logits, clean)
            raise RuntimeError('in between')
    assert not hooks_of(model) and torch.equal(model(input_ids=ids).logits, clean)


RIVALS = dict(
    topographic=lambda model: TopographicLoss(model, 'topolm'),
    sparse=lambda model: WeightSparsity(model, activations=0.5),
)


@pytest.mark.parametrize('rival', RIVALS)
def test_a_rival_takes_its_hooks_off_a_module_that_was_exchanged(rival):
    model = gpt2()
    held = RIVALS[rival](model)
    block = find_sites(model)[0].block
    old = block.c_proj
    block.c_proj = copy.deepcopy(old)
    block.c_proj._forward_pre_hooks.clear()
    for hook in old._forward_pre_hooks.values():
        block.c_proj.register_forward_pre_hook(hook)
    old._forward_pre_hooks.clear()
    assert hooks_of(model)
    held.remove()
    assert not hooks_of(model)


def test_opaque_hooks_are_made_so_once():
    class Counted:
        calls = 0

        def __call__(self, module, args):
            self.calls += 1

    plain = Counted.__call__
    make_opaque(Counted)
    first = Counted.__call__
    make_opaque(Counted)
    assert Counted.__call__ is first is not plain and Counted._plain is plain
    model, hook = net(), Counted()
    with Hooks() as hooks:
        hooks.before(model[1], hook)
        compiled = torch.compile(model, backend='eager')
        for _ in range(3):
            compiled(X)
    assert hook.calls == 3
