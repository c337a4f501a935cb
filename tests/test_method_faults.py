"""What used to train the wrong thing without a word: shifted labels, empty batches, clocks, numbers that spread."""

import copy
import json
import math
import warnings

import numpy as np
import pytest
import tiny_models
import torch
import transformers as hf
from torch import nn

from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig, ForgivenessConfig, RecallConfig
from ff_nbdev.mechanisms.forgetfulness import proximal_kernel, pulse_
from ff_nbdev.mechanisms.forgiveness import forgiving_loss, prefix_classes, with_company
from ff_nbdev.mechanisms.method import PATIENCE, attach
from ff_nbdev.models.wrappers import hf_model, unwrap_model
from ff_nbdev.mechanisms.recall import usage_entropy
from ff_nbdev.models.site import FFNPattern
from ff_nbdev.models.tiny import load_pretrained, random_tiny

SIZES = dict(vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128)
BERT = FFNPattern('BERT', r'layer\.\d+', 'output.dense', 'intermediate.dense')


def bert(kind, **kw):
    return kind(hf.BertConfig(**SIZES, **kw))


def gpt2():
    return tiny_models.gpt2(n_layer=1)


MODELS = dict(
    mt5=(lambda: random_tiny('mt5'), False),
    rwkv=(lambda: random_tiny('rwkv'), True),
    gpt2=(gpt2, True),
    bert=(lambda: bert(hf.BertForMaskedLM), False),
    bert_pretraining=(lambda: bert(hf.BertForPreTraining), False),
    bert_decoder=(lambda: bert(hf.BertLMHeadModel, is_decoder=True), True),
    bert_tags=(lambda: bert(hf.BertForTokenClassification), False),
)


def lora(model):
    from peft import LoraConfig, get_peft_model

    names = {n.split('.')[-1] for n, m in model.named_modules() if type(m).__name__ in ('Linear', 'Conv1D')}
    target = next(n for n in ('q', 'c_attn', 'query', 'key') if n in names)
    return get_peft_model(model, LoraConfig(r=2, target_modules=[target]))


class Wrapper(nn.Module):
    "A wrapper of somebody's own"

    def __init__(self, inner):
        super().__init__()
        self.backbone, self.extra = inner, nn.Linear(2, 2)

    def forward(self, *args, **kwargs):
        return self.backbone(*args, **kwargs)


class DDP(nn.Module):
    "As DDP keeps its model"

    def __init__(self, inner):
        super().__init__()
        self.module = inner

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def compiled(model):
    return torch.compile(model, backend='eager')


SHELLS = dict(
    none=lambda m: m,
    data_parallel=nn.DataParallel,
    ddp=DDP,
    compiled=compiled,
    peft=lora,
    own=Wrapper,
    both=lambda m: compiled(DDP(lora(m))),
)


# A1. Where labels stand


@pytest.mark.parametrize('shell', SHELLS)
@pytest.mark.parametrize('name', MODELS)
def test_labels_are_shifted_as_the_model_inside_does(name, shell, promise):
    make, shifts = MODELS[name]
    inner = make()
    wrapped = SHELLS[shell](inner)
    ff = attach(wrapped, FFConfig(), pattern=BERT if 'bert' in name else None)
    assert ff.shifts is shifts and hf_model(wrapped) is inner
    assert unwrap_model(wrapped) is (wrapped if shell == 'own' else inner)
    promise.one_of(
        'Models in wrappers whose labels stand where the model inside expects them', len(MODELS) * len(SHELLS)
    )


@pytest.mark.parametrize('shell', ['ddp', 'data_parallel', 'compiled', 'peft', 'own'])
@pytest.mark.parametrize('name', ['mt5', 'bert', 'gpt2'])
def test_the_loss_is_the_models_own_through_a_shell(name, shell):
    model = MODELS[name][0]().eval()
    ff = attach(SHELLS[shell](model), FFConfig(), pattern=BERT if name == 'bert' else None)
    ids = torch.randint(3, 500, (3, 9))
    labels = ids.masked_fill(torch.arange(9) % 3 == 0, -100)
    out = model(input_ids=ids, labels=labels)
    assert torch.allclose(ff.loss(out.logits, labels), out.loss, atol=1e-6)


class Unknown(nn.Module):
    "A model of no family, with one feed-forward block"

    def __init__(self):
        super().__init__()
        self.mlp = nn.ModuleDict(
            dict(up_proj=nn.Linear(32, 64), gate_proj=nn.Linear(32, 64), down_proj=nn.Linear(64, 32))
        )


def test_what_cannot_be_known_is_asked_for():
    ff = attach(Unknown(), FFConfig())
    logits, labels = torch.randn(2, 5, 9), torch.randint(0, 9, (2, 5))
    with pytest.raises(ValueError, match='shift=True or shift=False'):
        ff.loss(logits, labels)
    with pytest.raises(ValueError, match='Unknown'):
        ff.shifts
    assert ff.loss(logits, labels, shift=True) != ff.loss(logits, labels, shift=False)
    ff.shift = True
    assert ff.loss(logits, labels) == ff.loss(logits, labels, shift=True)


def test_families_and_code_of_ones_own_are_known_by_their_names():
    class MyGPT(hf.GPT2LMHeadModel):
        pass

    class OurThingForCausalLM(hf.GPT2PreTrainedModel):
        pass

    from ff_nbdev.models.wrappers import label_shift

    config = hf.GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2)
    assert label_shift(MyGPT(config)) is True and label_shift(OurThingForCausalLM(config)) is True
    assert label_shift(hf.GPT2Model(config)) is None and label_shift(None) is None
    two = hf.EncoderDecoderConfig.from_encoder_decoder_configs(hf.BertConfig(**SIZES), hf.BertConfig(**SIZES))
    assert label_shift(hf.EncoderDecoderModel(config=two)) is False


@pytest.mark.parametrize('shell', ['ddp', 'peft', 'own'])
def test_an_rwkv_in_a_shell_is_not_rescaled(shell):
    model = hf.RwkvForCausalLM(
        hf.RwkvConfig(vocab_size=64, hidden_size=32, num_hidden_layers=3, context_length=16, rescale_every=2)
    )
    ff = attach(SHELLS[shell](model), FFConfig())
    assert model.config.rescale_every == 0
    ff.remove()
    assert model.config.rescale_every == 2


@pytest.mark.parametrize('shell', ['ddp', 'peft', 'own'])
def test_padding_of_a_decoder_is_known_through_a_shell(shell):
    wrapped = SHELLS[shell](random_tiny('mt5'))
    ff = attach(wrapped, FFConfig(100, recall=RecallConfig(top=2.0, start=0.0)))
    ff.sentences = 100
    ids = torch.randint(3, 500, (4, 12))
    mask = (torch.arange(12) < 7).expand(4, 12).long()
    wrapped.train()
    wrapped(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(torch.arange(12) > 4, -100))
    assert [n for _, n in ff.context.counts.values()] == [4 * 7] * 2 + [4 * 5] * 2


def test_state_of_a_shell_is_that_of_the_model(tmp_path):
    ff = attach(DDP(random_tiny('mt5')), FFConfig(100, ForgetfulnessConfig(dose=1.0)))
    ff.step(sentences=40)
    ff.save_pretrained(tmp_path)
    assert attach.from_pretrained(random_tiny('mt5'), tmp_path).sentences == 40


# A3. Nothing to predict

LETTERS = torch.arange(512).int() % 7


def forgiving(kind, form):
    model = random_tiny('mt5', dropout_rate=0.0)
    ff = attach(model, FFConfig(forgiveness=ForgivenessConfig(kind='none', form=form)))
    ff.classes, ff.config.forgiveness.kind = LETTERS, kind
    return model.train(), ff


def alternatives(kind, labels):
    if kind != 'conceptual':
        return {}
    ids = torch.randint(0, 512, (*labels.shape, 3), generator=torch.Generator().manual_seed(1))
    return dict(alternatives=(ids, torch.full(ids.shape, 0.4)))


@pytest.mark.parametrize('form', ['literal', 'soft'])
@pytest.mark.parametrize('kind', ['none', 'two_letter', 'conceptual'])
def test_a_micro_batch_without_targets_adds_nothing(kind, form):
    model, ff = forgiving(kind, form)
    ids = torch.randint(3, 500, (2, 6))
    nothing = torch.full_like(ids, -100)
    grads = {}
    for targets in (None, 7, torch.tensor(7), 0, torch.tensor(0), 0.0):
        model.zero_grad()
        loss = ff.loss(model(input_ids=ids, labels=ids).logits, nothing, targets=targets, **alternatives(kind, ids))
        loss.backward()
        assert loss == 0 and all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)
        assert any(p.grad is not None for p in model.parameters())
    for parts in (['some'], ['some', 'none']):
        model.zero_grad()
        for part in parts:
            labels, logits = ids if part == 'some' else nothing, model(input_ids=ids, labels=ids).logits
            ff.loss(logits, labels, targets=12, **alternatives(kind, ids)).backward()
        grads[len(parts)] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.equal(grads[1], grads[2]) and grads[1].isfinite().all()
    assert all(map(math.isfinite, ff.last.values())), 'the log shows the last batch that had a target'


def test_weights_of_zero_are_no_targets():
    model, ff = forgiving('none', 'literal')
    ids = torch.randint(3, 500, (2, 6))
    logits = model(input_ids=ids, labels=ids).logits
    zero = torch.zeros(ids.shape)
    assert ff.loss(logits, ids, weight=zero) == 0 and ff.loss(logits, ids, weight=zero, targets=0) == 0
    assert forgiving_loss(logits[0], ids[0], weight=zero[0])[0] == 0


@pytest.mark.parametrize('targets', [0, -1, math.nan, math.inf, torch.tensor(0)])
def test_a_number_of_targets_that_cannot_be(targets):
    model, ff = forgiving('none', 'literal')
    ids = torch.randint(3, 500, (2, 6))
    logits = model(input_ids=ids, labels=ids).logits
    with pytest.raises(ValueError, match='number of targets of the whole step'):
        ff.loss(logits, ids, targets=targets)


# A8. The clock


def told(call):
    "The warnings of a call"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        call()
    return [str(w.message) for w in seen if 'deprecated' not in str(w.message)]


def test_the_dose_asked_is_the_dose_given(promise):
    for order in ('random', 'round_robin', 'all'):
        ff = attach(
            random_tiny('mt5'), FFConfig(1000, ForgetfulnessConfig(dose=0.3, order=order), RecallConfig(top=2.0))
        )
        for _ in range(63):
            ff.step(sentences=16)
        dose, power = ff.doses.clone(), ff.power
        assert (dose - 0.3).abs().max() <= 0.03
        weights = [s.weight('down').clone() for s in ff.sites]
        seen = told(lambda: [ff.step(sentences=16) for _ in range(200)])
        assert torch.equal(ff.doses, dose) and ff.power == power and ff.noise_x == 2.0
        assert all(torch.equal(w, s.weight('down')) for w, s in zip(weights, ff.sites))
        assert len(seen) == 1 and 'total_sentences=1,000' in seen[0] and 'of the whole run' in seen[0]
    promise('Dose of a run that goes on for four times its length, of 0.3 asked', f'{dose.mean():.2f}')


def test_a_search_for_the_collapse_goes_on_with_its_pulses():
    "Its ramp is asked to go on, in the same recipe"
    ff = attach(random_tiny('mt5'), FFConfig(1000, ForgetfulnessConfig(dose=0.3), RecallConfig(top=2.0, limit=6.0)))
    assert not told(lambda: [ff.step(sentences=20) for _ in range(100)])
    assert ff.noise_x == 6.0 and ff.doses.min() > 0.5


def test_the_length_of_a_batch_does_not_matter_at_the_end():
    small, large = (attach(random_tiny('mt5'), FFConfig(1000, ForgetfulnessConfig(dose=0.3))) for _ in range(2))
    for _ in range(150):
        small.step(sentences=10)
    large.step(sentences=1500)
    assert torch.equal(small.doses, large.doses)
    for a, b in zip(small.sites, large.sites):
        assert torch.equal(a.weight('value'), b.weight('value'))


def loop(model, ff, steps=PATIENCE + 10, own_loss=False, step=True, parts=1, evaluate=True):
    "A training loop that may leave something out"
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    ids = torch.randint(3, 500, (2, 5))
    for _ in range(steps):
        model.train()
        for _ in range(parts):
            out = model(input_ids=ids, labels=ids)
            (out.loss if own_loss else ff.loss(out.logits, ids)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step:
            ff.step(sentences=2)
        if evaluate:
            model.eval()
            with torch.no_grad():
                model(input_ids=ids, labels=ids)


def big():
    "A model with the vocabulary of the shipped tokenizer"
    tok = load_pretrained('tiny-mt5')[1]
    model = random_tiny('mt5', vocab_size=len(tok), d_kv=8)
    config = FFConfig(
        10_000, ForgetfulnessConfig(dose=0.3), RecallConfig(top=1.0), ForgivenessConfig(kind='two_letter')
    )
    return model, attach(model, config, tok)


def test_a_loop_without_its_loss_is_told_so_once():
    model, ff = big()
    seen = told(lambda: loop(model, ff, own_loss=True))
    assert len(seen) == 1 and f'ff.loss was not called in {PATIENCE} steps' in seen[0]


def test_a_loop_without_its_step_is_told_so_once():
    model, ff = big()
    seen = told(lambda: loop(model, ff, step=False))
    assert len(seen) == 1 and 'ff.step was never called' in seen[0]
    assert told(lambda: loop(model, ff, step=False)) == []


@pytest.mark.parametrize('parts', [1, 8])
def test_a_correct_loop_is_told_nothing(parts):
    "With accumulation of more micro-batches than the patience has steps, too"
    model, ff = big()
    assert told(lambda: loop(model, ff, steps=24 // parts + 3, parts=parts)) == []
    model, ff = big()
    assert told(lambda: loop(model, ff, steps=1, parts=PATIENCE + 5)) == []
    model = random_tiny('mt5')
    ff = attach(model, FFConfig())
    assert told(lambda: loop(model, ff, own_loss=True, step=False, steps=PATIENCE + 5)) == [], 'nothing is on'


# A9. Letters to compare


def test_a_vocabulary_of_bytes_has_no_letters_to_compare():
    from transformers import ByT5Tokenizer

    tok = ByT5Tokenizer()
    model = random_tiny('mt5')
    assert with_company(prefix_classes(tok)) == 0
    for kinds in (dict(kind='two_letter'), dict(kind='none', final_kind='two_letter')):
        config = FFConfig(100, forgiveness=ForgivenessConfig(**kinds))
        with pytest.raises(ValueError, match='nothing to work on'):
            attach(model, config, tok)
    assert not any(m._forward_pre_hooks for m in model.modules())
    attach(model, FFConfig(100, forgiveness=ForgivenessConfig(kind='conceptual')), tok).remove()


def test_a_vocabulary_with_hardly_any_company_is_told():
    from tokenizers import Tokenizer, models

    def attach_to(words):
        numbers = map(str, range(900))
        vocab = {w: i for i, w in enumerate(['<pad>', *words, *numbers])}
        words = Tokenizer(models.WordLevel(vocab, '<pad>'))
        tok = hf.PreTrainedTokenizerFast(tokenizer_object=words, pad_token='<pad>', unk_token='<pad>')
        return lambda: attach(random_tiny('mt5'), FFConfig(forgiveness=ForgivenessConfig(kind='two_letter')), tok)

    assert 'only 2 of 903 tokens' in told(attach_to(['bad', 'bag']))[0]
    assert not told(attach_to([f'b{c}{d}' for c in 'abcd' for d in 'efgh']))


# A10. Numbers that spread, wrap or take hours


def test_one_bad_cell_stays_one_cell():
    for bad in (math.nan, math.inf, -math.inf):
        model = random_tiny('mt5')
        ff = attach(model, FFConfig(1000, ForgetfulnessConfig(dose=1.0, order='all')))
        weight = ff.sites[-1].weight('down')
        weight.data[3, 4] = bad
        before = copy.deepcopy(model.state_dict())
        says = r'DenseReluDense\.down holds NaN or infinity.*no matrix was changed'
        with pytest.raises(ValueError, match=says) as e:
            ff.step(sentences=500)
        assert ff.sites[-1].name in str(e.value)
        after = model.state_dict()
        assert all(torch.equal(v.nan_to_num(), after[k].nan_to_num()) for k, v in before.items()), 'nor any other'
        assert (ff.sentences, ff.steps, ff.pulses.sum()) == (0, 0, 0)
        weight.data[3, 4] = 0.0
        assert ff.step(sentences=500)


def test_half_precision_that_would_overflow_is_refused():
    model = random_tiny('mt5').half()
    ff = attach(model, FFConfig(1000, ForgetfulnessConfig(dose=1.0, order='all')))
    ff.sites[2].weight('value').data[0, :5] = 4e4
    before = copy.deepcopy(model.state_dict())
    says = 'reaches 4e.04, and pulsed it could overflow torch.float16'
    with pytest.raises(ValueError, match=says):
        ff.step(sentences=500)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    w = torch.full((12, 12), 6e4).half()
    w[::2] = -6e4
    old = w.clone()
    with pytest.raises(ValueError, match='overflow torch.float16'):
        pulse_(w, proximal_kernel(), 0.5)
    assert torch.equal(w, old)


def test_float16_is_told_when_something_is_on():
    "Weights that are to be trained; bfloat16, adapters over frozen weights, and a look at the sites are told nothing"
    on, half = FFConfig.preset('forgiveness_only', 100, forgiveness='conceptual'), random_tiny('mt5').half()
    with pytest.warns(UserWarning, match='are float16, .* load it in float32 or bfloat16'):
        attach(half, on).remove()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        attach(half, FFConfig()).remove()
        attach(half.requires_grad_(False), on).remove()
        attach(random_tiny('mt5').bfloat16(), on).remove()


FORGETFULNESS_ENDS = [
    dict(decay=0.05),
    dict(decay=1e300),
    dict(size=31),
    dict(size=3),
    dict(power=1.0, ramp=1.0),
    dict(ramp=5e-324),
    dict(normalized=False, decay=0.05),
    dict(dose=1e-300),
]
RECALL_ENDS = [
    dict(top=0.0),
    dict(start=1 - 1e-16),
    dict(share=1e-9),
    dict(share=0.49),
    dict(share=0.001, per_sign=40),
    dict(intra=0.0),
    dict(intra=1000.0, top=10.0),
    dict(halflife=1e-300),
    dict(halflife=1e300),
    dict(noise='range'),
    dict(noise='gaussian'),
    dict(limit=0.0),
    dict(slow_from=0.0),
]
ENDS = [
    *(dict(forgetfulness=end) for end in FORGETFULNESS_ENDS),
    *(dict(recall=end) for end in RECALL_ENDS),
    dict(seed=2**40 - 1),
    dict(total_sentences=10**15),
]


@pytest.mark.parametrize('end', ENDS, ids=str)
def test_no_setting_that_is_taken_gives_a_number_that_is_none(end):
    "The ends of every range: three steps of training stay finite"
    ids = torch.randint(3, 500, (2, 5))
    parts = dict(
        forgetfulness=dict(dose=1.0) | end.get('forgetfulness', {}),
        recall=dict(top=2.0, start=0.0) | end.get('recall', {}),
    )
    config = FFConfig.from_dict(dict(total_sentences=20) | end | parts)
    model = random_tiny('mt5', num_layers=1, num_decoder_layers=1).train()
    ff = attach(model, config)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(3):
        out = model(input_ids=ids, labels=ids)
        ff.loss(out.logits, ids).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ff.step(sentences=7)
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(u.isfinite().all() and (u >= 0).all() for u in ff.usage)
    assert math.isfinite(ff.noise_x) and ff.doses.isfinite().all()


def test_a_hidden_without_hubs_leaves_usage_and_noise_finite():
    "All activations are zero: no unit lies in a hub, and the memory of usage is short"
    model = random_tiny('mt5').train()
    ff = attach(model, FFConfig(100, recall=RecallConfig(top=2.0, start=0.0, halflife=1e-6)))
    for site in ff.sites:
        site.weight('value').data.zero_()
    ids = torch.randint(3, 500, (2, 5))
    for _ in range(3):
        ff.step(sentences=10)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
    assert loss.isfinite() and all(u.isfinite().all() for u in ff.usage) and usage_entropy(ff.usage[0]) == 1.0


def test_ids_at_the_edge_of_the_vocabulary_are_taken():
    "And rows without a target are not looked at"
    logits, labels = torch.randn(4, 9), torch.tensor([0, 8, -100, 3])
    ids = torch.tensor([[0, 8], [0, 0], [99, -7], [1, 2]])
    shares = torch.tensor([[0.3, 0.6], [0.0, 0.0], [9.0, 9.0], [0.3, 0.0]])
    for form in ('literal', 'soft'):
        loss, d = forgiving_loss(logits, labels, alternatives=ids, scores=shares, form=form)
        assert loss.isfinite() and len(d['f']) == 3


def test_settings_that_are_refused_leave_the_model_as_it_was():
    configs = (
        FFConfig(10, ForgetfulnessConfig(dose=1.0, size=33)),
        FFConfig(10, ForgetfulnessConfig(dose=1.0, roles=('gate',))),
        FFConfig(10, recall=RecallConfig(top=1.0, per_sign=60, share=0.01)),
        FFConfig(forgiveness=ForgivenessConfig(kind='two_letter')),
    )
    for config in configs:
        model = gpt2()
        with pytest.raises(ValueError):
            attach(model, config)
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


# Models that would be trained on the wrong thing, settings that do nothing, sentences that mislead


def test_a_decoders_head_that_sees_both_sides_says_nothing_of_labels():
    "It would learn to copy the next token, which it sees"
    ff = attach(bert(hf.BertLMHeadModel), FFConfig())
    batch = torch.zeros(2, 5, 9), torch.zeros(2, 5).long()
    with pytest.raises(ValueError, match='give ff.loss shift=True or shift=False'):
        ff.loss(*batch)
    assert ff.loss(*batch, shift=False).isfinite()


def test_numbers_of_numpy_are_settings():
    "And are kept as Python's own, so that the configuration can be written"
    pulsed = ForgetfulnessConfig(dose=np.float32(0.5), ramp=np.float64(0.5), size=np.int16(5))
    config = FFConfig(np.int64(50), pulsed, seed=np.uint8(3))
    kept = config.total_sentences, config.seed, pulsed.size, pulsed.dose, pulsed.ramp
    assert kept == (50, 3, 5, 0.5, 0.5) and [type(x) for x in kept] == [int] * 3 + [float] * 2
    assert FFConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for wrong in (np.bool_(True), np.float32('nan'), np.float64(2.0)):
        with pytest.raises(ValueError, match='total_sentences'):
            config.total_sentences = wrong


@pytest.mark.parametrize('setting', ['forgetfulness.dose', 'forgetfulness.size', 'total_sentences', 'seed'])
def test_a_setting_changed_after_attach_is_not_silently_ignored(setting, tmp_path):
    "It changed no pulse, and was written down as if it had"
    ff = attach(random_tiny('mt5'), FFConfig(100, ForgetfulnessConfig(dose=1.0)))
    ff.step(sentences=1)
    part, _, name = setting.rpartition('.')
    owner = getattr(ff.config, part) if part else ff.config
    before = getattr(owner, name)
    setattr(owner, name, 7)
    with pytest.raises(ValueError, match=f'{setting} was {before} when the schedule'):
        ff.step(sentences=1)
    with pytest.raises(ValueError, match='put it back'):
        ff.save_pretrained(tmp_path / 'state')
    assert ff.sentences == 1 and not (tmp_path / 'state').exists()
    setattr(owner, name, before)
    assert attach(random_tiny('mt5'), FFConfig('auto')).set_total(50).step(sentences=1) == []
    ff.save_pretrained(tmp_path / 'state')


def test_a_copy_of_the_method_holds_a_copy_of_the_model():
    "As the sentence says to whoever attaches to a copy"
    ff = attach(random_tiny('mt5'), FFConfig())
    twin = copy.deepcopy(ff)
    with pytest.raises(ValueError, match='attached already'):
        attach(twin.model, FFConfig())
    twin.remove()
    assert attach(twin.model, FFConfig()).model is not ff.model
