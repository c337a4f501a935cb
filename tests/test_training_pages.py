"""Longer checks of the training and baseline pages."""

import pytest
import torch
from fastcore.test import test_close as close
from transformers import TrainingArguments

from ff_nbdev.baselines.noise_null import diffused, noise_diffused
from ff_nbdev.baselines.reordered import gate_along_hidden, permute_hidden_, reorder_
from ff_nbdev.evaluation.spatial import morans_i
from ff_nbdev.mechanisms.config import FFConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.tiny import random_tiny
from ff_nbdev.training.trainer import FFTrainer

torch.set_num_threads(1)


# What the noise null lends is given back --------------------------------------------------------------------------


def moments(w, unbiased=True):
    return [w.mean().item(), w.std(unbiased=unbiased).item()]


@pytest.mark.parametrize('arch', ['mt5', 'rwkv'])
def test_a_lent_model_comes_back_to_the_bit(arch):
    model = random_tiny(arch)
    old = {name: v.clone() for name, v in model.state_dict().items()}
    site = find_sites(model)[0]
    before, weight = site.weight('down').clone(), site.weight('down')
    with pytest.raises(KeyboardInterrupt), diffused(model, 1.5):
        assert morans_i(weight) > 0.3 and abs(morans_i(before)) < 0.06
        close(moments(weight), moments(before), 1e-6)
        raise KeyboardInterrupt
    assert all(torch.equal(v, old[name]) for name, v in model.state_dict().items())
    with noise_diffused(model, 0.0):
        close(moments(weight, False), moments(before, False), 1e-6)
        assert not torch.equal(weight, before)
    assert all(torch.equal(v, old[name]) for name, v in model.state_dict().items())


# Hidden units in another order -------------------------------------------------------------------------------------


def topics(seed):
    "Text that is no text, but has structure: few topics, each with its own words"
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randint(0, 12, (8, 1), generator=generator)
    ids = 3 + 40 * topic + torch.randint(0, 40, (8, 64), generator=generator)
    return dict(input_ids=ids, labels=ids)


def test_biases_move_with_their_units():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=512, bos_token_id=0, eos_token_id=1)
    gpt = GPT2LMHeadModel(config).eval()
    torch.nn.init.normal_(gpt.transformer.h[0].mlp.c_fc.bias)
    ids = torch.randint(3, 500, (4, 32), generator=torch.Generator().manual_seed(0))
    old, site = gpt(ids).logits, find_sites(gpt)[0]
    weight = site.weight('down').clone()
    permute_hidden_(site, torch.arange(site.d_ff).flip(0))
    close(gpt(ids).logits.detach(), old.detach(), 1e-5)
    assert torch.equal(site.weight('down'), weight.flip(1))
    with pytest.raises(ValueError, match='each of 0 to 63'):
        permute_hidden_(site, torch.zeros(64))


def test_a_gate_as_long_as_the_hidden_is_told_by_its_name():
    assert not gate_along_hidden(find_sites(random_tiny('rwkv', hidden_size=32, intermediate_size=32))[0])


def test_a_model_whose_units_have_places_is_left_as_it_was():
    model = random_tiny('mt5')
    kept = {name: v.clone() for name, v in model.state_dict().items()}

    def by_place(module, args):
        return (args[0] * torch.linspace(0, 2, args[0].shape[-1]),)

    hook = find_sites(model)[0].down.register_forward_pre_hook(by_place)
    with pytest.raises(ValueError, match='undone'):
        reorder_(model, [topics(i) for i in range(4)])
    hook.remove()
    assert all(torch.equal(v, kept[name]) for name, v in model.state_dict().items())


def test_a_model_in_training_stays_in_training():
    model = random_tiny('mt5').train()
    reorder_(model, [topics(i) for i in range(4)])
    assert model.training


# What FFTrainer refuses before the first step -----------------------------------------------------------------------

ROWS = [dict(input_ids=torch.arange(3, 9), labels=torch.arange(3, 9), sentences=1)] * 40


@pytest.mark.parametrize(
    'options,said',
    [
        (dict(fp16=True), 'bf16=True'),
        (dict(dataloader_num_workers=1, dataloader_persistent_workers=True), 'persistent'),
        (dict(per_device_train_batch_size=64), '64 windows'),
    ],
)
def test_settings_are_refused_by_name(options, said, tmp_path):
    model = random_tiny('mt5')
    ff = attach(model, FFConfig.preset('base_continued', 40))
    args = TrainingArguments(str(tmp_path), use_cpu=True, **options)
    with pytest.raises(ValueError, match=said):
        FFTrainer(model=model, args=args, train_dataset=ROWS, ff=ff)


def test_the_method_of_another_model_is_refused(tmp_path):
    ff = attach(random_tiny('mt5'), FFConfig.preset('base_continued', 40))
    args = TrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match='another model'):
        FFTrainer(model=random_tiny(), args=args, train_dataset=ROWS, ff=ff)
