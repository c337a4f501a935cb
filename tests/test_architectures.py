"""Any model: tiny random models of every architecture that is known, and of some that are not."""

import copy
import gc
import re
import warnings
import weakref

import numpy as np
import pytest
import torch
from shared import invented_corpus
from tiny_models import ENCODER_DECODER as TWO
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers import ByT5Tokenizer, GPT2Tokenizer, T5Tokenizer
from transformers import ViTForImageClassification, WhisperForConditionalGeneration

from ff_nbdev import evaluate
from ff_nbdev.data.objectives import Windows, objective_for
from ff_nbdev.data.tokens import encode_corpus
from ff_nbdev.data.tokenizers import sentinel_ids, train_tokenizer
from ff_nbdev.evaluation.activations import fills_in, masked_word_batches, word_starts
from ff_nbdev.evaluation.base_test import token_scores
from ff_nbdev.evaluation.readings import objective_batches
from ff_nbdev.evaluation.contribution import ffn_ratio
from ff_nbdev.evaluation.spatial import weight_geography
from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig, RecallConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.sites import find_sites, guess_pattern, remember_pattern
from ff_nbdev.models.site import PATTERNS, FFNPattern
from ff_nbdev.models.tiny import load_pretrained, model_inputs
from ff_nbdev.models.ablation import ablate
from ff_nbdev.models.wrappers import decoder_inputs, predicts_next

VOCAB = 512
PLAIN = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64
)
GLU = dict(PLAIN, num_key_value_heads=2, head_dim=8)
T5 = dict(d_model=32, d_ff=64, d_kv=8, num_heads=4, num_layers=1, num_decoder_layers=1, decoder_start_token_id=0)
MOE = dict(GLU, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=48, decoder_sparse_step=1)
LATENT = dict(
    PLAIN,
    num_key_value_heads=4,
    n_routed_experts=4,
    moe_intermediate_size=48,
    n_group=1,
    topk_group=1,
    num_experts_per_tok=2,
    q_lora_rank=8,
    kv_lora_rank=8,
    qk_rope_head_dim=4,
    qk_nope_head_dim=4,
    v_head_dim=8,
)

# name -> kind of model, shape, row of the registry, can its hidden be negative?
MODELS = {
    'gpt2': ('next', dict(n_embd=32, n_inner=64, n_layer=2, n_head=4, n_positions=64), 'GPT-2', True),
    'llama': ('next', GLU, 'gated', True),
    'qwen3': ('next', GLU, 'gated', True),
    'mistral': ('next', GLU, 'gated', True),
    'gemma2': ('next', GLU, 'gated', True),
    'rwkv': (
        'next',
        dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, context_length=64, rescale_every=0),
        'RWKV-4',
        False,
    ),
    'gpt_neox': ('next', PLAIN, 'GPT-NeoX', True),
    'gptj': ('next', dict(n_embd=32, n_inner=64, n_layer=2, n_head=4, n_positions=64, rotary_dim=4), 'GPT-J', True),
    'opt': ('next', dict(PLAIN, ffn_dim=64, word_embed_proj_dim=32), 'OPT', False),
    'falcon': ('next', dict(PLAIN, ffn_hidden_size=64), 'GPT-NeoX', True),
    'bloom': ('next', dict(hidden_size=32, n_layer=2, n_head=4), 'GPT-NeoX', True),
    'phi': ('next', PLAIN, 'Phi-2', True),
    'phi3': ('next', PLAIN, 'gated, fused', True),
    'bert': ('masked', PLAIN, 'BERT', True),
    'roberta': ('masked', dict(PLAIN, max_position_embeddings=80), 'BERT', True),
    'deberta-v2': ('masked', PLAIN, 'BERT', True),
    'distilbert': (
        'masked',
        dict(dim=32, hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=64),
        'DistilBERT',
        True,
    ),
    'modernbert': ('masked', dict(PLAIN, cls_token_id=1, sep_token_id=1), 'ModernBERT', True),
    't5': ('spans', T5, 'T5 v1.0', False),
    'mt5': ('spans', T5, 'T5 v1.1', True),
    'bart': ('spans', TWO, 'OPT', True),
    'mbart': ('spans', TWO, 'OPT', True),
    'm2m_100': ('spans', TWO, 'OPT', False),
    'whisper': (
        'sound',
        dict(TWO, num_mel_bins=8, max_source_positions=16, max_target_positions=32, decoder_start_token_id=0),
        'OPT',
        True,
    ),
    'vit': ('image', dict(PLAIN, image_size=16, patch_size=8), 'Phi-2', True),
    'mixtral': ('experts', dict(GLU, num_local_experts=3), 'experts', True),
    'qwen3_moe': ('experts', dict(MOE, mlp_only_layers=[0]), 'gated', True),
    'deepseek_v3': ('experts', dict(LATENT, first_k_dense_replace=1), 'gated', True),
}
CLASSES = dict(
    next=AutoModelForCausalLM,
    masked=AutoModelForMaskedLM,
    spans=AutoModelForSeq2SeqLM,
    experts=AutoModelForCausalLM,
    sound=WhisperForConditionalGeneration,
    image=ViTForImageClassification,
)
READS = [name for name in MODELS if MODELS[name][0] in ('next', 'masked', 'spans')]
pytestmark = pytest.mark.filterwarnings('ignore:.*is_gradient_checkpointing.*')


def make(name, seed=0, **shape):
    "A tiny random model of an architecture"
    kind, own = MODELS[name][:2]
    text = {} if kind == 'image' else dict(vocab_size=VOCAB, pad_token_id=0, bos_token_id=1, eos_token_id=1)
    config = AutoConfig.for_model(name, **{**own, **text, **shape})
    torch.manual_seed(seed)
    build = CLASSES[kind]
    return build.from_config(config) if hasattr(build, 'from_config') else build(config)


def batch(name, seed=0):
    "What a model is called with"
    kind, g = MODELS[name][0], torch.Generator().manual_seed(seed)
    labels = torch.randint(3, VOCAB, (3, 7), generator=g)
    if kind == 'image':
        return dict(pixel_values=torch.randn(3, 3, 16, 16, generator=g), labels=labels[:, 0] % 2)
    if kind == 'sound':
        return dict(input_features=torch.randn(3, 8, 32, generator=g), labels=labels)
    ids = torch.randint(3, VOCAB, (3, 7), generator=g)
    return dict(
        input_ids=labels if kind in ('next', 'experts') else ids, attention_mask=torch.ones_like(ids), labels=labels
    )


def train(model, name, ff=None, steps=5):
    "Losses of some steps"
    opt, losses = torch.optim.AdamW(model.parameters(), 1e-3), []
    model.train()
    for step in range(steps):
        torch.manual_seed(step)
        loss = model(**batch(name, step)).loss
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
        if ff:
            ff.step(sentences=20)
    return losses


def full(name, **kw):
    "Pulses and noise from the start; pulses alone where no hidden can be reached"
    top = 0.0 if name == 'mixtral' else 2.0
    return FFConfig(
        total_sentences=100,
        forgetfulness=ForgetfulnessConfig(dose=0.3, size=5),
        recall=RecallConfig(top=top, start=0.0),
        **kw,
    )


@pytest.fixture(scope='module')
def text(tmp_path_factory):
    "A corpus and a tokenizer with sentinels and a mask"
    corpus = invented_corpus(tmp_path_factory.mktemp('text'), 60, 600, scale=12)
    tokenizer = train_tokenizer(corpus, 400, extra_ids=20)
    tokenizer.mask_token = '<extra_id_19>'
    return corpus, tokenizer


def without_sentinels(corpus):
    "A tokenizer with a mask, and no sentinels"
    tokenizer = train_tokenizer(corpus, 400, extra_ids=0)
    tokenizer.add_special_tokens(dict(mask_token='<mask>'))
    return tokenizer


@pytest.mark.parametrize('name', MODELS)
def test_sites_are_those_of_the_row(name):
    "Every layer has its sites, of the right shapes, and they are what their row of the table says"
    model = make(name)
    sites = find_sites(model)
    kind, _, row, signed = MODELS[name]
    assert next(p.name for p in PATTERNS if p.name.startswith(row))
    assert sites.left_out == [] and {s.layer for s in sites} == {0, 1}
    for s in sites:
        width = 48 if 'expert' in s.name and name != 'mixtral' else 128 if name == 'bloom' else 64
        assert (s.d_ff, s.d_model, s.signed) == (width, 32, signed), s
        assert s.stack == ('encoder' if kind in ('masked', 'image') else s.stack)
        assert 'attention' not in s.name and not any('attention' in n for n in s.names.values())
    if kind in ('spans', 'sound'):
        assert [s.stack for s in sites] == ['encoder', 'decoder']


@pytest.mark.parametrize('name', MODELS)
def test_off_is_bit_identical(name, promise):
    "With all strengths at 0 five steps of training give the very weights of the bare model"
    bare, ours = make(name), make(name)
    assert train(bare, name) == train(ours, name, attach(ours, FFConfig(total_sentences=100)))
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), ours.parameters()))
    promise.one_of('Architectures that train to the same bits with the method attached and off', len(MODELS))


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.filterwarnings('ignore:Noise is laid in')
def test_five_steps_with_noise_and_pulses(name):
    "Noise moves the loss, every matrix gets its dose and changes, and all stays finite"
    bare, ours = make(name), make(name)
    ff = attach(ours, full(name))
    before = [ours_.clone() for s in ff.sites for ours_ in s.roles.values()]
    plain, losses = train(bare, name), train(ours, name, ff)
    assert all(torch.isfinite(torch.tensor(losses))) and losses != plain
    assert (ff.doses > 0).all() and len(ff.doses) == len(before)
    after = [w for s in ff.sites for w in s.roles.values()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after))
    assert all(p.isfinite().all() for p in ours.parameters())
    if name != 'mixtral':
        assert all((u != u[0]).any() for s, u in zip(ff.sites, ff.usage) if s.reachable)


@pytest.mark.parametrize('name', MODELS)
def test_a_pulse_stays_within_its_matrix(name):
    """Pulses reach all matrices and nothing else

    Mean and spread of each half and each expert are kept, so nothing crosses a seam."""
    model = make(name)
    sites, before = find_sites(model), copy.deepcopy(model.state_dict())
    told = [(w.mean().item(), w.std().item()) for s in sites for w in s.roles.values()]
    config = full(name)
    config.recall.top = 0.0
    ff = attach(model, config)
    ff.step(sentences=100)
    now = [(w.mean().item(), w.std().item()) for s in sites for w in s.roles.values()]
    assert torch.allclose(torch.tensor(told), torch.tensor(now), atol=1e-6)
    pulsed = {id(s.parameter(r)) for s in sites for r in s.names}
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) != (id(p) in pulsed), n


def few(**kw):
    "The least that `evaluate` reads"
    return (
        dict(
            windows=4,
            length=24,
            robust_windows=2,
            bleu_windows=2,
            control_tokens=4,
            grid=dict(noise=(1.0,), nonhub=(2.0,), blur=(0.5,)),
            rank_from=1,
            rank_to=8,
            wide_to=0,
            overlap_to=8,
            ablations=0,
            instances_each=4,
            pool=8,
            redraws=2,
            orders=5,
            read_length=16,
            baseline=30,
            positions=10,
        )
        | kw
    )


@pytest.mark.parametrize('name', READS)
def test_evaluate(name, text):
    "Every measure has a number, on any model that predicts text"
    corpus, tokenizer = text
    found = evaluate(make(name), corpus, tokenizer, **few())
    sites = find_sites(make(name))
    assert found['tokens_scored'] > 0 and found['clean']['ce'] > 0 and found['floors']['zero']['ce'] > 0
    assert len(found['ffn_share']) == len(found['activation_moran']) == len(sites)
    assert all(0 < row['share'] < 5 for row in found['ffn_share'])
    assert len(found['spatial']) == sum(len(s.names) for s in sites)
    assert (found['pathways'] is None) == (MODELS[name][0] == 'masked')
    assert (found['bleu'] is None) == (name not in ('t5', 'mt5'))  # a BART writes no spans
    assert [row['x'] for row in found['robustness']['noise']] == [0.0, 1.0]


@pytest.mark.parametrize('name', ['opt', 'bloom', 'bert', 'bart', 'falcon', 'gptj'])
def test_what_a_block_adds(name):
    "The share of the stream is that of the feed-forward output alone, wherever the residual is added"
    model = make(name).eval()
    x = {k: v for k, v in batch(name).items() if k != 'attention_mask'} | (
        dict(attention_mask=batch(name)['attention_mask'])
    )
    seen = {}
    site = find_sites(model)[-1]
    layer = model.get_submodule(site.stream)
    hooks = [
        site.down.register_forward_hook(lambda m, a, out: seen.__setitem__('added', out.reshape(3, 7, 32))),
        layer.register_forward_hook(
            lambda m, a, out: seen.__setitem__('stream', out[0] if isinstance(out, tuple) else out)
        ),
    ]
    with torch.no_grad():
        model(**x)
    for h in hooks:
        h.remove()
    want = (seen['added'].norm(dim=-1) / seen['stream'].norm(dim=-1)).double().mean().item()
    got = ffn_ratio(model, [dict(x, index=torch.arange(3))])[-1]['share']
    assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize('name', ['opt', 'bloom', 'bert', 'bart'])
def test_ablation_leaves_attention_and_residual(name):
    "Zeroed, a layer gives what it gives with a down projection of zeros"
    model, zeroed, x = make(name).eval(), make(name).eval(), batch(name)
    with torch.no_grad():
        for s in find_sites(zeroed):
            s.weight('down').zero_()
            if s.bias('down') is not None:
                s.bias('down').zero_()
        with ablate(model, 'zero'):
            ours = model(**x).logits
        assert torch.equal(ours, zeroed(**x).logits)


# Experts


def test_experts_in_one_parameter():
    "Each expert has its matrices with doses of their own; noise cannot reach them, and that is said"
    model = make('mixtral')
    with pytest.raises(ValueError, match='Noise cannot reach the hidden inside the experts of MixtralForCausalLM'):
        attach(model, FFConfig(total_sentences=10, recall=RecallConfig(top=1.0)))
    assert not any(m._forward_pre_hooks for m in model.modules())
    ff = attach(model, full('mixtral'))
    assert len(ff.targets) == 2 * 3 * 3 and ff._names()[0] == 'model.layers.0.mlp.experts[0].gate'
    stored = model.model.layers[0].mlp.experts
    assert (
        torch.equal(ff.sites[1].weight('value'), stored.gate_up_proj[1, 64:])
        and ff.sites[1].weight('value').data_ptr() == stored.gate_up_proj[1, 64:].data_ptr()
    )
    with pytest.raises(ValueError, match='cannot be reached'):
        ff.sites[0].down


@pytest.mark.parametrize('name, reach, of', [('qwen3_moe', 1, 4), ('deepseek_v3', 2, 6)])
def test_mixed_dense_and_experts(name, reach, of):
    "All layers are covered; noise in some of them is said"
    model = make(name)
    with pytest.warns(UserWarning, match=f'Noise is laid in {reach} of {of} feed-forward sites'):
        attach(model, full(name))
    with pytest.raises(ValueError, match='weight_geography'):
        evaluate(make(name), 'python_prose', object())
    assert len(weight_geography(make(name), rank=False)) == 3 * of


def test_transposed_and_interleaved_experts():
    "GPT-OSS stores (in, out), gate and value taking turns"
    config = AutoConfig.for_model(
        'gpt_oss',
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        pad_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config)
    stored, site = model.model.layers[0].mlp.experts, find_sites(model)[1]
    assert torch.equal(site.weight('gate'), stored.gate_up_proj[1].T[::2]) and torch.equal(
        site.weight('value'), stored.gate_up_proj[1].T[1::2]
    )
    assert torch.equal(site.weight('down'), stored.down_proj[1].T) and (site.d_ff, site.d_model) == (48, 32)


def test_transposed_experts_that_do_not_say_so():
    "Llama 4 stores (in, out), and only the sizes tell"
    config = AutoConfig.for_model(
        'llama4_text',
        **dict(GLU, intermediate_size=48, intermediate_size_mlp=64, num_local_experts=2),
        vocab_size=64,
        pad_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config)
    site = next(s for s in find_sites(model) if s.expert == 1)
    stored = site.block
    assert torch.equal(site.weight('value'), stored.gate_up_proj[1].T[48:]) and torch.equal(
        site.weight('down'), stored.down_proj[1].T
    )
    assert (site.d_ff, site.d_model) == (48, 32)


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)


class Odd(nn.Module):
    "A layer whose feed-forward part is plain, a list of experts, or of a kind nobody knows"

    def __init__(self, kind):
        super().__init__()
        self.mlp = Expert() if kind == 'plain' else nn.Module()
        if kind == 'list':
            self.mlp.experts = nn.ModuleList(Expert() for _ in range(3))
        if kind == 'unknown':
            self.mlp.moe_weights = nn.Parameter(torch.randn(4, 16, 24))


def stacked(*kinds):
    model = nn.Module()
    model.layers = nn.ModuleList(map(Odd, kinds))
    return model


def test_experts_in_a_list_are_sites():
    sites = find_sites(stacked('plain', 'list', 'list'))
    assert len(sites) == 7 and [s.layer for s in sites] == [0, 1, 1, 1, 2, 2, 2] and sites.left_out == []


def test_layers_that_are_not_covered_are_said():
    "Never the dense layers alone, without a word"
    with pytest.warns(UserWarning, match=r'sites in 1 of 4 layers of layers; layers 1, 2, 3 are not covered'):
        sites = find_sites(stacked('plain', 'unknown', 'unknown', 'unknown'))
    assert len(sites) == 1 and len(sites.left_out) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        find_sites(
            stacked('plain', 'unknown'), FFNPattern('one', r'layers\.0\.mlp', 'down_proj', 'up_proj', 'gate_proj')
        )


# What is no site


def test_a_model_without_feed_forward_layers():
    config = AutoConfig.for_model('mamba', vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(ValueError, match='MambaForCausalLM has no feed-forward layer'):
        find_sites(AutoModelForCausalLM.from_config(config))


def vision_language():
    "Qwen2.5-VL, tiny"
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = dict(
        GLU,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        rope_parameters=dict(rope_type='default', mrope_section=[1, 1, 2], rope_theta=10000.0),
    )
    sight = dict(
        depth=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=4,
        out_hidden_size=32,
        patch_size=4,
        fullatt_block_indexes=[0],
    )
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=words, vision_config=sight))


def test_vision_blocks_are_left_out():
    "They are no decoder sites; a pattern that names them has them"
    model = vision_language()
    with pytest.warns(UserWarning, match='2 feed-forward blocks of visual are left out'):
        sites = find_sites(model)
    assert [s.name for s in sites] == [f'model.language_model.layers.{i}.mlp' for i in range(2)]
    row = FFNPattern('seen', r'visual\.blocks\.\d+\.mlp', 'down_proj', 'up_proj', 'gate_proj')
    assert [s.d_ff for s in find_sites(model, row)] == [48, 48]
    config = AutoConfig.for_model(
        'clip_vision_model',
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=8,
        patch_size=4,
    )
    from transformers import AutoModel

    assert len(find_sites(AutoModel.from_config(config))) == 2  # where there is nothing else, they are the sites


# Models that are not known


class Twin(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(16, 40), nn.Linear(40, 16)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(16, 64), nn.Linear(64, 16), nn.Linear(16, 64)


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.both, self.back = nn.Linear(16, 96, bias=False), nn.Linear(48, 16)


class Attention(nn.Module):
    "Wider within than without, as a trap"

    def __init__(self):
        super().__init__()
        self.q, self.o = nn.Linear(16, 128), nn.Linear(128, 16)


class Layer(nn.Module):
    def __init__(self, ffn, at):
        super().__init__()
        self.attn = Attention()
        if at == 'here':
            self.wide, self.narrow, self.norm = nn.Linear(16, 40), nn.Linear(40, 16), nn.LayerNorm(16)
        elif at == 'row':
            self.forward_net = nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 16))
        else:
            setattr(self, at, ffn())


def unknown(ffn, at, layers=3):
    model = nn.Module()
    model.embed, model.stack, model.head = (
        nn.Embedding(8, 16),
        nn.ModuleList(Layer(ffn, at) for _ in range(layers)),
        nn.Linear(16, 8),
    )
    return model


UNKNOWN = dict(
    plain=(Twin, 'net', ('value', 'down'), 40),
    gated=(Gated, 'ffn_block', ('gate', 'value', 'down'), 64),
    here=(None, 'here', ('value', 'down'), 40),
    row=(None, 'row', ('value', 'down'), 40),
    fused=(Fused, 'net', ('gate', 'value', 'down'), 48),
)


@pytest.mark.parametrize('kind', UNKNOWN)
def test_the_printed_line_can_be_pasted(kind):
    "The error of an unknown model ends in a row that makes find_sites and attach work"
    ffn, at, roles, width = UNKNOWN[kind]
    model = unknown(ffn, at)
    with pytest.raises(ValueError, match='No feed-forward blocks found') as e:
        find_sites(model)
    line = re.search(r'pattern=(FFNPattern\(.*\))\.$', str(e.value))[1]
    pasted = eval(line, dict(FFNPattern=FFNPattern))
    sites = find_sites(model, pasted)
    assert len(sites) == 3 and sites[0].d_ff == width and tuple(sites[0].names) == roles
    assert not any('attn' in s.name or s.down.in_features == 128 for s in sites)
    ff = attach(
        model, FFConfig(total_sentences=10, forgetfulness=ForgetfulnessConfig(dose=0.1, size=5)), pattern=pasted
    )
    assert len(ff.targets) == 3 * len(roles)


@pytest.mark.parametrize('name', ['gpt_neox', 'opt', 'bert', 'bart', 'phi3', 'llama', 'distilbert', 'gptj'])
def test_the_guess_finds_what_the_table_knows(name):
    "Asked about a known architecture, the guess points to the same matrices"
    model = make(name)
    guessed = find_sites(model, guess_pattern(model))
    assert {s.key('down') for s in guessed} == {s.key('down') for s in find_sites(model)}
    assert {k for s in guessed for k in map(s.key, s.names)} == {
        k for s in find_sites(model) for k in map(s.key, s.names)
    }


def test_a_square_matrix_is_no_pair():
    "A layer of one size is not taken for value and down at once"
    model = nn.Module()
    model.stack = nn.ModuleList(nn.ModuleDict(dict(mix=nn.Linear(16, 16), net=Twin())) for _ in range(2))
    model.config = AutoConfig.for_model('bert', hidden_size=16)
    assert guess_pattern(model).down == 'narrow'


def test_a_pattern_by_hand_for_a_whole_layer():
    "A site may be a whole layer; its attention is neither pulsed nor ablated"
    model = unknown(None, 'here')
    sites = find_sites(model, FFNPattern('mine', r'stack\.\d+', down='narrow', value='wide'))
    assert [s.name for s in sites] == ['stack.0', 'stack.1', 'stack.2'] and all(
        s.whole and s.out is s.down and s.stream == s.name for s in sites
    )
    assert all('attn' in n for n in sites[0].others)
    rows = [FFNPattern('none', '(no)where', 'narrow', 'wide'), FFNPattern('two', r'(stack)\.(2)', 'narrow', 'wide')]
    own = FFNPattern('its own group', r'stack\.(0|1)|(?:\1)never', 'narrow', 'wide')  # \1 counts within its row
    assert [s.name for s in find_sites(model, [*rows, own])] == ['stack.0', 'stack.1', 'stack.2']
    del model.stack[1]  # a model that was changed is looked at anew
    assert [s.name for s in find_sites(model, own)] == ['stack.0', 'stack.1']


def test_the_pattern_is_remembered():
    """What `attach` was given is known to every function that looks for sites, on the bare model and in a wrapper

    It is forgotten with the model."""
    model, row = unknown(Twin, 'net'), FFNPattern('mine', 'net', down='narrow', value='wide')
    ff = attach(model, FFConfig(total_sentences=10), pattern=row)
    assert len(weight_geography(model, rank=False)) == 6 == len(weight_geography(nn.Sequential(model), rank=False))
    ff.remove()
    assert len(find_sites(model)) == 3
    fresh = unknown(Twin, 'net')
    with pytest.raises(ValueError, match='No feed-forward blocks'):
        weight_geography(fresh)
    assert len(weight_geography(fresh, rank=False, pattern=row)) == 6


def test_evaluate_takes_a_pattern(text):
    "On a model whose blocks have other names than those of the table"
    corpus, tokenizer = text

    def renamed():
        model = make('llama')
        for layer in model.model.layers:
            mlp = layer.mlp
            mlp.inner = mlp.up_proj
            mlp._modules['back'] = mlp._modules.pop('down_proj')
            mlp.forward = lambda x, m=mlp: m.back(m.act_fn(m.gate_proj(x)) * m.inner(x))
        return model

    row = FFNPattern('mine', 'mlp', down='back', value='inner', gate='gate_proj')
    with pytest.raises(ValueError, match='No feed-forward blocks'):
        evaluate(renamed(), corpus, tokenizer, **few())
    model = renamed()
    given = evaluate(model, corpus, tokenizer, pattern=row, **few())
    same = evaluate(make('llama'), corpus, tokenizer, **few())
    assert (
        given['clean'] == same['clean']
        and given['ffn_share'] == same['ffn_share']
        and given['robustness'] == same['robustness']
    )


# Weights that are no numbers


class Packed(torch.Tensor):
    "Looks like float32 and is codes, as the tensors of quantisation libraries do"

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].scale)
        raise NotImplementedError(f'{func} on codes')


class Params4bit(nn.Parameter):
    "As bitsandbytes has them: packed bytes in a parameter of its own class"


class QuantLinear(nn.Module):
    "As GPTQ has them: codes in buffers"

    def __init__(self, width, units):
        super().__init__()
        self.register_buffer('qweight', torch.zeros(width // 8, units, dtype=torch.int32))


def quantised(kind):
    model = make('llama')
    mlp = model.model.layers[1].mlp
    codes = torch.zeros(32, 64, dtype=torch.int8)
    if kind == 'wrapped':
        mlp.down_proj.weight = nn.Parameter(Packed(codes, 1.0), requires_grad=False)
    if kind == 'bytes':
        mlp.down_proj.weight = Params4bit(torch.zeros(1024, 1, dtype=torch.uint8), requires_grad=False)
    if kind == 'floats of a class':
        mlp.down_proj.weight = Params4bit(torch.zeros(32, 64))
    if kind == 'buffers':
        mlp.down_proj = QuantLinear(64, 32)
    if kind == 'int8':
        mlp.down_proj.weight = nn.Parameter(codes, requires_grad=False)
    if kind == 'float8':
        mlp.down_proj.weight = nn.Parameter(torch.zeros(32, 64).to(torch.float8_e4m3fn), requires_grad=False)
    return model


@pytest.mark.parametrize('kind', ['wrapped', 'bytes', 'floats of a class', 'buffers', 'int8', 'float8'])
def test_quantised_weights_are_refused(kind):
    "In one sentence, before a hook is laid"
    model = quantised(kind)
    with pytest.raises(ValueError, match=r'layers\.1\.mlp\.down_proj.*(quantised|packed)'):
        attach(model, FFConfig(total_sentences=10))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_dynamic_quantisation_is_refused():
    "torch's own, which replaces the layers"
    model = nn.Module()
    model.stack = nn.ModuleList([Odd('plain')])
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match='quantised'):
        attach(quantized, FFConfig(total_sentences=10))


# What models read and predict


@pytest.mark.parametrize('name', ['t5', 'mt5', 'bart', 'm2m_100', 'whisper'])
def test_labels_are_shifted_as_the_model_does(name):
    "With a method of the model's own or without, the decoder reads what the model itself would make of the labels"
    model, x = make(name).eval(), batch(name)
    x['labels'][0, 4:] = -100
    seen = []
    model.get_decoder().register_forward_pre_hook(
        lambda m, args, kw: seen.append(kw['input_ids'] if 'input_ids' in kw else args[0]), with_kwargs=True
    )
    with torch.no_grad():
        model(**x)
    assert torch.equal(decoder_inputs(model, x['labels']), seen[0])


def test_which_models_predict_the_next_token():
    assert [n for n in MODELS if predicts_next(make(n)) and MODELS[n][0] not in ('next', 'experts', 'image')] == []
    assert all(predicts_next(nn.Sequential(make(n))) == (MODELS[n][0] == 'next') for n in ('gpt2', 'bert', 'bart'))


def test_a_masked_model_is_loaded_as_one(tmp_path, text):
    "A folder of a BERT gives a masked model, not a decoder made of its weights"
    for name in ('bert', 'distilbert'):
        make(name).save_pretrained(tmp_path / name)
        text[1].save_pretrained(tmp_path / name)
        model, _ = load_pretrained(tmp_path / name)
        assert 'ForMaskedLM' in type(model).__name__


@pytest.mark.parametrize('name', ['t5', 'gpt2'])
def test_a_folder_without_its_tokenizer_is_refused(tmp_path, name):
    make(name).save_pretrained(tmp_path)
    for settings in (None, '{}'):
        if settings:
            (tmp_path / 'tokenizer_config.json').write_text(settings)
        with pytest.raises(
            FileNotFoundError, match=r"holds no tokenizer: save it there with tokenizer.save_pretrained"
        ):
            load_pretrained(tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    assert len(load_pretrained(tmp_path)[1]('bytes')['input_ids']) == 6


@pytest.mark.parametrize('tokenizer, says', [(T5Tokenizer(), 'does not know this text'), (GPT2Tokenizer(), 'no ids')])
def test_a_tokenizer_that_knows_no_word_is_refused(text, tokenizer, says):
    before = sorted(text[0].iterdir())
    with pytest.raises(ValueError, match=f'The tokenizer, a .*Tokenizer of .* ids, .*{says}'):
        encode_corpus(text[0], tokenizer)
    assert sorted(text[0].iterdir()) == before


@pytest.mark.parametrize('name, shape', [('gpt2', dict(n_positions=16)), ('opt', dict(max_position_embeddings=16))])
def test_ids_and_windows_that_a_model_has_no_rows_for(text, name, shape):
    windows = [dict(ids=np.arange(3, 3 + n), index=0, sentences=1, offset=0) for n in (16, 17)]
    make_batch = objective_for(make(name, **shape), text[1])
    assert make(name, **shape)(**model_inputs(make_batch(windows[:1]))).loss > 0  # as many as there are
    with pytest.raises(ValueError, match='Windows of 17 tokens are longer than the 16 positions of this model: take'):
        make_batch(windows[1:])
    objective_for(make(name, vocab_size=400), text[1])
    with pytest.raises(ValueError, match='The tokenizer has 400 ids and this .* only 399 embeddings'):
        objective_for(make(name, vocab_size=399), text[1])


def test_masks_alone_are_scored(text):
    "A model that copies what it sees scores nothing"
    corpus, tokenizer = text
    windows = Windows(encode_corpus(corpus, tokenizer), 'test', 24)
    for b in objective_batches(make('bert'), tokenizer, windows, 4, 0):
        told = b['labels'] >= 0
        assert 0 < told.float().mean() < 0.3 and (b['input_ids'][told] == tokenizer.mask_token_id).float().mean() > 0.5
        assert (b['input_ids'][~told] != tokenizer.mask_token_id).all()
        skip = set(tokenizer.all_special_ids)
        assert len(token_scores(make('bert'), [b], skip)['ce']) == told.sum()


@pytest.mark.parametrize('name', ['mt5', 'bart', 'm2m_100'])
def test_a_hidden_word_is_read_where_it_is_predicted(name, text):
    """Below a sentinel or a mask, the place that is read is the one whose label is the token

    The source holds no letter of the word."""
    corpus, tokenizer = text
    windows = Windows(encode_corpus(corpus, tokenizer), 'test', 24)
    places = np.array([[0, w, p] for w in range(3) for p in (2, 9, 17)])
    groups = list(masked_word_batches(make(name), tokenizer, windows, places, 4, word_starts(tokenizer), True))
    assert fills_in(make(name), tokenizer) == (name != 'mt5')
    for rows, x, (row, at) in groups:
        wanted = torch.tensor([int(windows[int(w)]['ids'][p]) for _, w, p in places[rows]])
        assert torch.equal(x['labels'][row, at], wanted)
        hidden = tokenizer.mask_token_id if name != 'mt5' else sentinel_ids(tokenizer)[0]
        assert ((x['input_ids'] == hidden).sum(1) == 1).all()


@pytest.mark.parametrize('sentinels', [True, False])
def test_an_encoder_decoder_with_sentinels_or_a_mask(text, sentinels):
    "BART's own tokenizers have a mask and no sentinels; with sentinels alone it is read as a T5 is"
    corpus, tokenizer = text
    tokenizer = copy.deepcopy(tokenizer)
    if sentinels:
        tokenizer._special_tokens_map['mask_token'] = None
    else:
        tokenizer = without_sentinels(corpus)
    found = evaluate(make('bart'), corpus, tokenizer, **few())
    assert found['tokens_scored'] > 0 and (found['bleu'] is None) != sentinels


def test_the_pattern_of_a_model_dies_with_it():
    "What is remembered keeps no model alive"
    model = unknown(Twin, 'net')
    remember_pattern(model, FFNPattern('mine', 'net', down='narrow', value='wide'))
    there = weakref.ref(model)
    assert len(find_sites(model)) == 3
    del model
    gc.collect()
    assert there() is None


# Adapters and shared matrices


@pytest.mark.parametrize('name', ['gpt2', 'phi3', 'bert', 'opt', 'mixtral'])
def test_sites_beneath_adapters(name):
    """With LoRA on every projection the sites are those of the bare model: same matrices, widths and hidden

    No rank is taken for a width."""
    from peft import LoraConfig, get_peft_model

    model = make(name)
    bare, where = (
        find_sites(model),
        dict(gpt2=['c_fc', 'c_proj'], phi3=['gate_up_proj', 'down_proj'], bert=['dense'], opt=['fc1', 'fc2']),
    )
    keys = [s.key(r) for s in bare for r in s.names]
    target = (
        dict(target_modules=where[name])
        if name in where
        else dict(target_parameters=['mlp.experts.gate_up_proj', 'mlp.experts.down_proj'], lora_dropout=0.0)
    )
    wrapped = get_peft_model(model, LoraConfig(r=4, fan_in_fan_out=name == 'gpt2', **target))
    sites = find_sites(wrapped)
    assert [s.key(r) for s in sites for r in s.names] == keys and [s.d_ff for s in sites] == [s.d_ff for s in bare]
    if name == 'mixtral':
        return
    site, seen = sites[0], []
    assert 'lora' in type(site.down).__module__ and site.whole == bare[0].whole
    site.down.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    wrapped(**batch(name))
    assert seen[0].shape[-1] == site.d_ff
    ff = attach(model, FFConfig(total_sentences=10))
    assert ff.sites[0].key('down') == site.key('down')


def test_a_copy_that_is_trained_is_the_matrix():
    "`modules_to_save` trains a copy: that one is read and pulsed, until the adapter is switched off"
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(make('llama'), LoraConfig(r=4, target_modules=['q_proj'], modules_to_save=['down_proj']))
    site = find_sites(wrapped)[0]
    assert (
        site.parameter('down').requires_grad and site.parameter('down') is site.down.modules_to_save['default'].weight
    )
    with wrapped.disable_adapter():
        assert site.parameter('down') is site.down.original_module.weight


def test_a_matrix_that_two_layers_share_has_one_dose():
    model = make('llama')
    first, second = (layer.mlp for layer in model.model.layers)
    second.down_proj.weight = first.down_proj.weight
    sites = find_sites(model)
    assert sites[0].key('down') == sites[1].key('down') != sites[0].key('value')
    assert len(attach(model, FFConfig(total_sentences=10)).targets) == 5


@pytest.mark.parametrize('name', ['opt', 'bert', 'phi3', 'bart'])
def test_baselines_on_other_architectures(name):
    "What is built beside the method finds the same hidden: a topographic loss with padding, and units in another order"
    from ff_nbdev.baselines.reordered import permute_hidden_
    from ff_nbdev.baselines.topographic import TopographicLoss

    model, x = make(name), batch(name)
    x['attention_mask'][0, 5:] = 0
    loss = TopographicLoss(model.train(), 'topolm', 1.0, neighbourhoods=2, radius=6)
    model(**x)
    penalty = loss.penalty()
    penalty.backward()
    assert penalty.isfinite() and all(s.parameter('value').grad.abs().sum() > 0 for s in find_sites(model))
    model.eval()
    with torch.no_grad():
        before = model(**x).logits
        for s in find_sites(model):
            permute_hidden_(s, torch.randperm(s.d_ff, generator=torch.Generator().manual_seed(0)))
        assert torch.allclose(model(**x).logits, before, atol=1e-5)


def two_berts():
    "Two BERTs of one layer each, the second reading the first"
    from transformers import BertConfig, BertLMHeadModel, BertModel, EncoderDecoderModel

    shape = dict(PLAIN, num_hidden_layers=1, vocab_size=64)
    reader = BertLMHeadModel(BertConfig(**shape, is_decoder=True, add_cross_attention=True))
    return EncoderDecoderModel(encoder=BertModel(BertConfig(**shape)), decoder=reader)


def test_the_outermost_name_says_the_stack():
    "A decoder that holds an encoder is a decoder, wherever its name stands"
    stacks = [(s.name.split('.')[0], s.stack) for s in find_sites(two_berts())]
    assert stacks == [(s, s) for s in ('encoder', 'decoder')]
    blip = nn.ModuleDict(dict(text_decoder=make('bert')))
    assert {s.stack for s in find_sites(blip)} == {'decoder'}


def seeing_or_hearing(kind):
    "A reader of images or sound before a small writer of text"
    from transformers import AutoModel, GPT2Config, GPT2LMHeadModel
    from transformers import SpeechEncoderDecoderModel, VisionEncoderDecoderModel

    writer = GPT2LMHeadModel(GPT2Config(vocab_size=64, **MODELS['gpt2'][1], add_cross_attention=True))
    if kind == 'image':
        reader = AutoModel.from_config(AutoConfig.for_model('vit', **MODELS['vit'][1]))
        return VisionEncoderDecoderModel(encoder=reader, decoder=writer)
    layers = dict(conv_dim=(8,), conv_stride=(2,), conv_kernel=(2,), num_conv_pos_embeddings=4)
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, hidden_act='relu')
    heard = AutoConfig.for_model('wav2vec2', **shape, **layers, num_conv_pos_embedding_groups=2)
    return SpeechEncoderDecoderModel(encoder=AutoModel.from_config(heard), decoder=writer)


OWN = FFNPattern('sound', r'feed_forward', 'output_dense', 'intermediate_dense')


@pytest.mark.parametrize('kind', ['image', 'sound'])
def test_a_reader_of_images_or_sound_before_a_decoder_is_left_out(kind):
    "It is called an encoder there, as one that reads text is"
    rows = PATTERNS + [OWN]
    with pytest.warns(UserWarning, match='2 feed-forward blocks of encoder are left out, for they read'):
        sites = find_sites(seeing_or_hearing(kind), rows)
    assert [s.name for s in sites] == [f'decoder.transformer.h.{i}.mlp' for i in range(2)]
    assert len(find_sites(seeing_or_hearing(kind).encoder, rows)) == 2
    assert len(find_sites(make('whisper'))) == 2 and len(find_sites(two_berts())) == 2
