"""Adapters of PEFT and other shells: the method reads, pulses and disturbs the model inside, whichever came first."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import NO_DROPOUT, gpt2, llama
from torch import nn
from transformers import GPT2LMHeadModel

from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig, RecallConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.wrappers import unwrap_model
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.site import bare
from ff_nbdev.models.tiny import random_tiny

FFN = dict(mt5=['wo', 'wi_0', 'wi_1'], gpt2=['mlp.c_proj', 'c_fc'], llama=['down_proj', 'up_proj', 'gate_proj'])
ATTENTION = dict(mt5=['q', 'v'], gpt2=['c_attn'], llama=['q_proj', 'v_proj'])


def tiny(arch, seed=0):
    "A random model without dropout"
    if arch == 'mt5':
        torch.manual_seed(seed)
        return random_tiny('mt5', seed, dropout_rate=0.0)
    return gpt2(seed, **NO_DROPOUT) if arch == 'gpt2' else llama(seed)


def batch(seed=0):
    ids = torch.randint(3, 500, (4, 12), generator=torch.Generator().manual_seed(seed))
    return dict(input_ids=ids, labels=ids.clone())


def lora(model, targets, **kw):
    "LoRA whose two factors are both random, so that its branch counts from the start"
    torch.manual_seed(7)
    return get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False, **kw))


def strong(top=2.0, dose=1.0, total=100):
    return FFConfig(total, ForgetfulnessConfig(dose=dose), RecallConfig(top=top, start=0.0))


def attached(arch, first, targets, config=None):
    "The method and LoRA on one model, in either order"
    model = tiny(arch)
    if first == 'method':
        ff = attach(model, config or strong())
        wrapped = lora(model, targets)
    else:
        wrapped = lora(model, targets)
        ff = attach(wrapped, config or strong())
    return wrapped, ff


@pytest.mark.parametrize('arch', FFN)
@pytest.mark.parametrize('first', ['method', 'adapter'])
def test_the_hidden_that_enters_the_whole_down_projection_is_noised(arch, first):
    wrapped, ff = attached(arch, first, FFN[arch])
    assert [s.d_ff for s in ff.sites] == [128] * len(ff.sites) and ff.sites[0].weight('down').shape == (32, 128)
    ff.sentences = 100
    outer = ff.sites[0].down
    seen = dict(base=[], branch=[], before=[])
    outer.base_layer.register_forward_pre_hook(lambda m, a: seen['base'].append(a[0].detach()))
    outer.lora_A['default'].register_forward_pre_hook(lambda m, a: seen['branch'].append(a[0].detach()))
    wrapped.train()
    noisy = wrapped(**batch()).logits
    bare_hidden = {}
    ff.sites[0].down.register_forward_pre_hook(lambda m, a: bare_hidden.update(h=a[0].detach()))
    wrapped.eval()
    with torch.no_grad():
        wrapped(**batch())
    assert torch.equal(seen['base'][0], seen['branch'][0]), 'both branches get one hidden'
    assert not torch.allclose(seen['base'][0], bare_hidden['h']), 'and it is the noised one'
    wrapped.train()
    ff.context.passed = 0
    assert torch.equal(noisy, wrapped(**batch()).logits), 'with noise that is drawn from its keys'


@pytest.mark.parametrize('arch', FFN)
def test_either_order_gives_one_model(arch):
    "Noise, pulses, usage and gradients do not depend on which was put on first"
    found = []
    for first in ('method', 'adapter'):
        wrapped, ff = attached(arch, first, FFN[arch])
        found.append(train(wrapped, ff, 0, 6) + (torch.stack(ff.usage), ff.doses))
        assert ff._names() == [f'{s.name}.{r}' for s in ff.sites for r in s.names]
        assert 'base_model' not in ff._names()[0]
    for a, b in zip(*found):
        assert torch.equal(a, b)
    assert found[0][-1].sum() > 0


def train(model, ff, start, stop, optimizer=None):
    "Losses of a hand-written loop, and all weights"
    model.train()
    optimizer = optimizer or torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, momentum=0.9)
    losses = []
    for i in range(start, stop):
        loss = ff.loss(model(**batch(i)).logits, batch(i)['labels'])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ff.step(sentences=4)
        losses.append(loss.item())
    return torch.tensor(losses), torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize('first', ['method', 'adapter'])
def test_usage_is_counted_once_a_pass(first):
    wrapped, ff = attached('gpt2', first, FFN['gpt2'])
    ff.sentences = 100
    wrapped.train()
    for i in range(2):
        wrapped(**batch(i)).loss.backward()
    assert [n for _, n in ff.context.counts.values()] == [2 * 48] * 2 and ff.context.passed == 8


@pytest.mark.parametrize('first', ['method', 'adapter'])
@pytest.mark.parametrize('targets', ['ffn', 'attention'])
def test_removed_without_a_trace(first, targets):
    wrapped, ff = attached('mt5', first, FFN['mt5'] if targets == 'ffn' else ATTENTION['mt5'])
    for again in (wrapped, unwrap_model(wrapped), nn.DataParallel(wrapped)):
        with pytest.raises(ValueError, match='attached already'):
            attach(again, strong())
    ff.sentences = 100
    wrapped.train()
    wrapped(**batch()).loss.backward()
    ff.remove()
    assert not any(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in wrapped.modules())
    attach(wrapped, strong()).remove()


def test_off_is_the_bare_adapted_model():
    bare_model, own = lora(tiny('gpt2'), FFN['gpt2']), lora(tiny('gpt2'), FFN['gpt2'])
    ff = attach(own, FFConfig())
    losses = []
    for model, step in ((bare_model, lambda: None), (own, lambda: ff.step(sentences=4))):
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
        for i in range(4):
            loss = model(**batch(i)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step()
            losses.append(loss.item())
    assert losses[:4] == losses[4:]
    assert all(torch.equal(p, q) for p, q in zip(bare_model.parameters(), own.parameters()))


@pytest.mark.parametrize('arch', FFN)
@pytest.mark.parametrize('targets, first', [(ATTENTION, 'adapter'), (FFN, 'method')])
def test_a_resumed_adapter_run_gives_the_same_weights(arch, targets, first, tmp_path):
    "Base model from the hub, adapter from its checkpoint, matrices from the method's folder"
    whole, ff = attached(arch, first, targets[arch])
    losses, weights = train(whole, ff, 0, 12)
    part, ff = attached(arch, first, targets[arch])
    optimizer = torch.optim.SGD([p for p in part.parameters() if p.requires_grad], 0.1, momentum=0.9)
    begun, _ = train(part, ff, 0, 5, optimizer)
    part.save_pretrained(tmp_path)
    ff.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny(arch), tmp_path, is_trainable=True)
    ff = attach.from_pretrained(again, tmp_path)
    resumed = torch.optim.SGD([p for p in again.parameters() if p.requires_grad], 0.1, momentum=0.9)
    resumed.load_state_dict(optimizer.state_dict())
    ended, same = train(again, ff, 5, 12, resumed)
    assert torch.equal(torch.cat([begun, ended]), losses) and torch.equal(same, weights)


def test_a_pulsed_base_differs_from_the_one_of_the_hub(tmp_path):
    "So what the adapter's checkpoint leaves out matters, and the folder gives it back"
    wrapped, ff = attached('gpt2', 'adapter', ATTENTION['gpt2'])
    train(wrapped, ff, 0, 10)
    wrapped.save_pretrained(tmp_path / 'adapter')
    ff.save_pretrained(tmp_path / 'ff')
    wrapped.eval()
    want = wrapped(**batch()).logits
    for path in ('alone', 'with ff'):
        model = PeftModel.from_pretrained(tiny('gpt2'), tmp_path / 'adapter').eval()
        if path == 'with ff':
            attach.from_pretrained(model, tmp_path / 'ff')
        assert torch.equal(model(**batch()).logits, want) == (path == 'with ff')


def test_the_base_may_get_its_matrices_before_its_adapter(tmp_path):
    wrapped, ff = attached('gpt2', 'adapter', FFN['gpt2'])
    train(wrapped, ff, 0, 10)
    wrapped.save_pretrained(tmp_path)
    ff.save_pretrained(tmp_path)
    base = tiny('gpt2')
    with pytest.warns(UserWarning, match='put the adapter on'):
        attach.from_pretrained(base, tmp_path)
    again = PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.equal(again(**batch()).logits, wrapped.eval()(**batch()).logits)


def test_matrices_are_written_only_where_they_would_be_lost(tmp_path):
    from safetensors.torch import load_file

    model = tiny('gpt2')
    ff = attach(model, strong())
    ff.step(sentences=50)
    ff.save_pretrained(tmp_path)
    assert not (tmp_path / 'ff_matrices.safetensors').exists(), 'the model itself is saved'
    wrapped = lora(model, ATTENTION['gpt2'])
    ff.save_pretrained(tmp_path)
    kept = load_file(tmp_path / 'ff_matrices.safetensors')
    assert set(kept) == set(ff._names())
    assert all(torch.equal(kept[f'{s.name}.{r}'], s.weight(r)) for s in ff.sites for r in s.names)
    for p in wrapped.merge_and_unload().parameters():
        p.requires_grad_(True)
    ff.save_pretrained(tmp_path)
    assert not (tmp_path / 'ff_matrices.safetensors').exists(), 'and what no longer belongs there is gone'


def test_half_precision_goes_on_with_its_rests(tmp_path):
    def begin():
        return lora(tiny('gpt2').bfloat16(), ATTENTION['gpt2'])

    config = FFConfig(1000, ForgetfulnessConfig(dose=1.0, power=0.005))
    whole, part, again = attach(begin(), config), attach(begin(), config), begin()
    for _ in range(10):
        whole.step(sentences=60)
    for _ in range(5):
        part.step(sentences=60)
    part.save_pretrained(tmp_path)
    resumed = attach.from_pretrained(again, tmp_path)
    assert resumed.rests
    for _ in range(5):
        resumed.step(sentences=60)
    assert all(torch.equal(a.weight(r), b.weight(r)) for a, b in zip(whole.sites, resumed.sites) for r in a.names)


def test_matrices_of_another_model_are_refused_and_nothing_changes(tmp_path):
    from safetensors.torch import load_file, save_file

    wrapped, ff = attached('gpt2', 'adapter', ATTENTION['gpt2'])
    ff.step(sentences=50)
    ff.save_pretrained(tmp_path)
    file = tmp_path / 'ff_matrices.safetensors'
    kept = load_file(file)
    name = next(iter(kept))
    wrongs = ((name, 'is 3 × 4 in the file'), ('other', 'is no matrix of this model'))
    for other, says in wrongs:
        save_file(kept | {other: torch.zeros(3, 4)}, file)
        model = tiny('gpt2')
        with pytest.raises(ValueError, match=says):
            attach.from_pretrained(model, tmp_path)
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), tiny('gpt2').parameters()))
        assert not any(m._forward_pre_hooks for m in model.modules()), 'and nothing is left attached'
    file.write_bytes(b'12345678{}')
    with pytest.raises(ValueError, match='ff_matrices.safetensors is damaged'):
        attach.from_pretrained(tiny('gpt2'), tmp_path)


def test_lost_matrices_are_told(tmp_path):
    wrapped, ff = attached('gpt2', 'adapter', ATTENTION['gpt2'])
    ff.step(sentences=50)
    ff.save_pretrained(tmp_path)
    (tmp_path / 'ff_matrices.safetensors').unlink()
    with pytest.warns(UserWarning, match='the pulsed matrices are lost'):
        attach.from_pretrained(lora(tiny('gpt2'), ATTENTION['gpt2']), tmp_path)


def test_merging_for_good_keeps_method_and_model():
    "`merge_and_unload`: the hook goes back to the projection, pulses go on upon the merged matrix"
    wrapped, ff = attached('llama', 'method', FFN['llama'])
    train(wrapped, ff, 0, 5)
    wrapped.eval()
    before, below = wrapped(**batch()).logits, ff.sites[0].weight('down').clone()
    merged = wrapped.merge_and_unload()
    assert torch.allclose(merged(**batch()).logits, before, atol=1e-4)
    assert not torch.equal(below, ff.sites[0].weight('down'))
    assert ff.sites[0].down is merged.model.layers[0].mlp.down_proj
    for p in merged.parameters():
        p.requires_grad_(True)
    merged.train()(**batch(9))
    seen = []
    ff.sites[0].down.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    merged(**batch(9))
    with torch.no_grad():
        merged.eval()(**batch(9))
    assert not torch.allclose(*seen), 'the noise is laid on the projection again'
    dose = ff.doses.clone()
    train(merged, ff, 5, 8)
    assert (ff.doses > dose).any()
    ff.remove()
    assert not any(hasattr(h, 'ff') for m in merged.modules() for h in m._forward_pre_hooks.values())


def test_a_pulse_while_merged_is_refused():
    wrapped, ff = attached('gpt2', 'adapter', FFN['gpt2'])
    wrapped.merge_adapter()
    before = [p.clone() for p in wrapped.parameters()]
    with pytest.raises(ValueError, match='call unmerge_adapter'):
        ff.step(sentences=50)
    assert all(torch.equal(p, q) for p, q in zip(before, wrapped.parameters()))
    assert ff.sentences == 0 and ff.pulses.sum() == 0
    wrapped.unmerge_adapter()
    assert ff.step(sentences=50)


@pytest.mark.parametrize('first', ['method', 'adapter'])
def test_matrices_that_peft_copies_whole(first):
    "`modules_to_save` trains a copy: that one is pulsed, and its hidden noised once"
    model = tiny('gpt2')
    config = LoraConfig(r=4, target_modules=['c_attn'], modules_to_save=['mlp'])
    if first == 'method':
        ff = attach(model, strong())
    wrapped = get_peft_model(model, config)
    if first == 'adapter':
        ff = attach(wrapped, strong())
    ff.sentences = 50
    wrapped.train()
    wrapped(**batch()).loss.backward()
    trained = wrapped.base_model.model.transformer.h[0].mlp.modules_to_save['default'].c_proj
    assert ff.sites[0].parameter('down') is trained.weight
    assert trained.weight.requires_grad and trained.weight.grad is not None
    assert [n for _, n in ff.context.counts.values()] == [48, 48]
    old = trained.weight.clone()
    ff.step(sentences=50)
    assert not torch.equal(old, trained.weight)
    live = [h for m in wrapped.modules() for h in m._forward_pre_hooks.values() if getattr(h, 'ff', None) is not None]
    assert len(live) == 3 and all(h.ff is ff for h in live), 'the model and two sites'


def test_copies_of_a_part_leave_the_method_alone():
    model = tiny('gpt2')
    ff = attach(model, strong())
    ff.sentences = 100
    block = copy.deepcopy(model.transformer.h[0].mlp).train()
    x = torch.randn(2, 5, 32)
    fresh = tiny('gpt2').transformer.h[0].mlp.train()
    assert torch.equal(block(x), fresh(x)) and not ff.context.counts
    assert next(iter(block.c_proj._forward_pre_hooks.values())).ff is None
    twin = copy.deepcopy(lora(model, FFN['gpt2']))
    hook = next(h for m in twin.modules() for h in m._forward_pre_hooks.values() if getattr(h, 'ff', None) is not None)
    assert hook.ff is not ff and hook.ff.bare is unwrap_model(twin)


def test_compiled_with_an_adapter_put_on_later():
    outs = []
    for compiled in (False, True):
        small = dict(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_inner=64, n_positions=16)
        model = gpt2(**small, **NO_DROPOUT)
        ff = attach(model, strong(dose=0.0))
        ff.sentences = 50
        wrapped = lora(model, FFN['gpt2']).train()
        fast = torch.compile(wrapped, backend='aot_eager') if compiled else wrapped
        outs.append([fast(input_ids=torch.arange(12).view(2, 6) + i).logits for i in range(2)])
    for a, b in zip(*outs):
        assert torch.allclose(a, b, atol=1e-5)


def test_sites_are_read_through_every_shell():
    model = tiny('gpt2')
    plain = [s.name for s in find_sites(model)]
    shells = (
        nn.DataParallel,
        torch.compile,
        lambda m: lora(m, FFN['gpt2']),
        lambda m: nn.DataParallel(lora(m, ATTENTION['gpt2'])),
    )
    for shell in shells:
        wrapped = shell(tiny('gpt2'))
        ff = attach(wrapped, strong())
        assert [s.name for s in ff.sites] == plain and ff.model is wrapped and ff.bare is unwrap_model(wrapped)
        assert type(ff.bare) is GPT2LMHeadModel and bare(ff.sites[0].down).weight.shape == (128, 32)
        ff.remove()
