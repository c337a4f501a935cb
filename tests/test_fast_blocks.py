"""Blocks in fewer passes: no worse than bfloat16 itself, nothing exchanged where it would not help, all put back."""

import contextlib
import copy
import json
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, TrainingArguments

from ff_nbdev.mechanisms.config import FFConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.fast import fast_blocks
from ff_nbdev.training.trainer import FFTrainer

T5 = dict(
    d_model=64, d_ff=192, d_kv=16, num_heads=4, num_layers=2, num_decoder_layers=2, vocab_size=512, dropout_rate=0.0,
    decoder_start_token_id=0, feed_forward_proj='gated-gelu', tie_word_embeddings=False,
)  # fmt: skip
GLU = dict(
    hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, vocab_size=512, attention_dropout=0.0,
)  # fmt: skip
MODELS = dict(
    mt5=T5, umt5=T5, t5=T5, llama=GLU, qwen2=GLU, qwen3=GLU, mistral=GLU | dict(sliding_window=None), gemma=GLU,
    rwkv=dict(hidden_size=64, intermediate_size=192, num_hidden_layers=2, vocab_size=512, rescale_every=0),
)  # fmt: skip


def made(kind, seed=0, **other):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **MODELS[kind] | other)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return auto.from_config(config).train()


def batch_for(model, seed=1, windows=6):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 500, (windows, 24), generator=generator)
    mask = torch.ones_like(ids)
    mask[1:2, 15:] = 0
    if not model.config.is_encoder_decoder:
        return dict(input_ids=ids, attention_mask=mask, labels=ids)
    return dict(input_ids=ids, attention_mask=mask, labels=torch.randint(3, 500, (windows, 11), generator=generator))


def learned(model, half=True, fast=False):
    "Loss and all gradients as one vector"
    with fast_blocks(model) if fast else contextlib.nullcontext():
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            loss = model(**batch_for(model)).loss
        loss.backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return loss.item(), flat


@pytest.mark.parametrize('kind', MODELS)
def test_gradients_are_as_near_to_float32_as_those_of_autocast(kind):
    model = made(kind)
    (_, exact), (_, plain), (_, ours) = learned(model, half=False), learned(model), learned(model, fast=True)
    off = lambda found: ((found - exact).norm() / exact.norm()).item()
    assert not torch.equal(plain, ours)  # something was exchanged
    assert off(ours) < 1.35 * off(plain), (off(ours), off(plain))


@pytest.mark.parametrize('kind', ('mt5', 'llama'))
def test_in_float32_every_bit_is_the_same(kind):
    model = made(kind)
    (loss, plain), (within, ours) = learned(model, half=False), learned(model, half=False, fast=True)
    assert loss == within and torch.equal(plain, ours)


def test_all_is_put_back_after_an_error_too(tmp_path):
    model = made('mt5')
    before = learned(model)
    with pytest.raises(KeyError), fast_blocks(model) as exchanged:
        assert exchanged == {'MT5LayerNorm': 12, 'MT5DenseGatedActDense': 4, 'attention': 'sdpa'}
        model.save_pretrained(tmp_path)
        raise KeyError
    assert not [n for n, m in model.named_modules() if 'forward' in vars(m)]
    assert model.config._attn_implementation == 'sdpa'
    after = learned(model)
    assert before[0] == after[0] and torch.equal(before[1], after[1])
    assert 'ff_nbdev' not in json.dumps(json.loads((tmp_path / 'config.json').read_text()))


def test_an_adapter_on_a_gate_is_not_passed_over():
    config = LoraConfig(target_modules=['wi_0'], r=4, init_lora_weights=False)
    torch.manual_seed(3)
    model = get_peft_model(made('mt5'), config).train()
    (_, exact), (_, plain), (_, ours) = learned(model, half=False), learned(model), learned(model, fast=True)
    assert len(exact) == len(ours) > 0 and ours.abs().sum() > 0
    assert (ours - exact).norm() < 1.35 * (plain - exact).norm()


@pytest.mark.parametrize('other', (dict(dropout_rate=0.2), dict(feed_forward_proj='gated-relu')))
def test_dropout_and_unknown_activations_run_as_they_were(other):
    model = made('mt5', **other)
    torch.manual_seed(5)
    loss, flat = learned(model, fast=True)
    torch.manual_seed(5)
    again, same = learned(model, fast=True)
    assert loss == again and torch.equal(flat, same) and flat.isfinite().all()


def test_recomputed_activations_give_the_same_gradients():
    model = made('mt5')
    _, plain = learned(model, fast=True)
    model.gradient_checkpointing_enable()
    _, again = learned(model, fast=True)
    assert torch.equal(plain, again)


def test_threads_change_nothing():
    model, threads, found = made('mt5'), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with fast_blocks(model), torch.autocast('cpu', torch.bfloat16):
                found.append(model.encoder(input_ids=batch_for(model, windows=40)['input_ids']).last_hidden_state)
    finally:
        torch.set_num_threads(threads)
    assert torch.allclose(found[0].float(), found[1].float(), atol=0.05, rtol=0.05)


def test_noise_enters_the_hidden_as_ever():
    model = made('mt5')
    config = FFConfig.preset('pfg_fzr', total_sentences=100, dose=0.1, top=2.0)
    config.recall.start = 0.0
    ff = attach(model, config)
    ff.sentences = 100
    _, noisy = learned(model, fast=True)
    assert len(ff.context.counts) == len(ff.sites) and all(tokens > 0 for _, tokens in ff.context.counts.values())
    ff.remove()
    _, quiet = learned(model, fast=True)
    assert (noisy - quiet).norm() > 0.1 * quiet.norm()


def large_operations(call, least):
    "Names of operations beside products that read at least so many numbers"
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        call()
    work = 'copy_ mul mul_ add add_ sub div neg pow exp tanh tanh_backward gelu gelu_backward sum where clone'.split()
    names = []
    for event in seen.events():
        sizes = [math.prod(shape) for shape in event.input_shapes or [] if shape]
        name = event.name.removeprefix('aten::')
        if name in work and max(sizes, default=0) >= least:
            names.append(name)
    return names


def test_no_tensor_operation_passes_over_the_hidden():
    "By hand there are more than ten: casts, activation, product, and their gradients"
    model = made('mt5', d_ff=2048)
    block, x = model.encoder.block[0].layer[1].DenseReluDense, torch.randn(8, 48, 64, requires_grad=True)

    def call():
        with torch.autocast('cpu', torch.bfloat16):
            out = block(x)
        out.sum().backward()

    plain = large_operations(call, 8 * 48 * 2048)
    with fast_blocks(model):
        ours = large_operations(call, 8 * 48 * 2048)
    assert len(plain) >= 8 and not ours, (plain, ours)


def test_a_trainer_goes_on_to_the_same_bits(tmp_path):
    def one_window(seed):
        return {k: v[0] for k, v in batch_for(made('mt5'), seed, windows=1).items()}

    data = [one_window(seed) for seed in range(24)]

    def collate(items):
        return torch.utils.data.default_collate(items) | dict(sentences=torch.ones(len(items)))

    def trainer(steps, folder):
        model = made('mt5')
        ff = attach(model, FFConfig.preset('pfg_fzr', total_sentences=24, dose=0.3, top=1.0))
        args = TrainingArguments(
            str(folder), max_steps=6, per_device_train_batch_size=4, learning_rate=1e-3, save_steps=steps, bf16=True,
            use_cpu=True, report_to=[], disable_tqdm=True, save_strategy='steps', logging_strategy='no',
        )  # fmt: skip
        return FFTrainer(model=model, args=args, ff=ff, train_dataset=data, data_collator=collate, fast=True)

    whole = trainer(3, tmp_path / 'a')
    whole.train()
    resumed = trainer(3, tmp_path / 'a')
    resumed.train(resume_from_checkpoint=str(tmp_path / 'a' / 'checkpoint-3'))
    pairs = zip(whole.model.parameters(), resumed.model.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not [n for n, m in whole.model.named_modules() if n and 'forward' in vars(m)]


def test_a_copy_made_within_is_a_model_of_its_own():
    model = made('mt5')
    whole = made('mt5')
    with fast_blocks(model):
        twin = copy.deepcopy(model)
    with torch.no_grad():
        [p.zero_() for p in model.parameters()]
    for half in (True, False):
        (loss, flat), (own, same) = learned(twin, half), learned(whole, half, fast=True)
        assert loss == own and torch.equal(flat, same)
