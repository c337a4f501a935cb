"""Wrong values of the configuration, models, text and measures."""

import json

import torch
from torch import nn

from ff_nbdev.data.alternatives import Alternatives, quantile_knots
from ff_nbdev.data.corpus import find_text, language_shares, load_corpus, read_sentences
from ff_nbdev.data.objectives import Batches, SpanCorruption, Windows
from ff_nbdev.data.tokenizers import train_tokenizer
from ff_nbdev.training.closeness import read_categories
from ff_nbdev.evaluation.robustness import perturbed
from ff_nbdev.evaluation.spatial import morans_i
from ff_nbdev.mechanisms.forgetfulness import proximal_kernel, pulse_
from ff_nbdev.mechanisms.forgiveness import forgiving_loss
from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig, ForgivenessConfig, RecallConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.mechanisms.noise import multiplier
from ff_nbdev.mechanisms.recall import find_hubs, hub_width, smooth
from ff_nbdev.mechanisms.variants import codebook_recall, prototype_margin_loss, spatial_penalty
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.site import FFNPattern
from ff_nbdev.models.tiny import load_pretrained, new_model, random_tiny
from ff_nbdev.models.ablation import ablate
from ff_nbdev.training.recipes import recipe
from ff_nbdev.training.teacher import load_teacher, new_teacher

MODEL = random_tiny('mt5')
W, H = torch.randn(12, 12), torch.randn(2, 5, 64)
LOGITS, LABELS = torch.randn(6, 20), torch.arange(6)
conf = FFConfig.from_dict


def block(value=16, down=16, gate=None, meta=False, dtype=torch.float32):
    "A model of one feed-forward block with the shapes asked for"

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            kw = dict(device='meta') if meta else {}
            self.up, self.down = nn.Linear(8, value, **kw), nn.Linear(down, 8, **kw)
            if gate:
                self.gate = nn.Linear(8, gate, **kw)

    m = nn.Module()
    m.ffn = Block()
    if dtype != torch.float32:
        m.ffn.down.weight = nn.Parameter(torch.zeros(8, down, dtype=dtype), requires_grad=False)
    return m


def computed():
    m = block()
    nn.utils.parametrizations.weight_norm(m.ffn.down)
    return m


def row(**kw):
    return FFNPattern('own', 'ffn', 'down', 'up', **kw)


def attached(**kw):
    return attach(random_tiny('mt5'), FFConfig(**kw))


CASES = {
    # the configuration
    'unknown setting': (lambda: conf(dict(forgetfulness=dict(dos=1.0))), 'did you mean forgetfulness.dose'),
    'unknown part': (lambda: conf(dict(forgetfulnes={})), 'did you mean forgetfulness'),
    'setting of nothing near': (lambda: conf(dict(zzz=1)), 'the settings are total_sentences'),
    'text for a number': (
        lambda: conf(dict(total_sentences=10, forgetfulness=dict(dose='1'))),
        "dose='1' must be a finite number",
    ),
    'nan': (lambda: conf(dict(total_sentences=10, forgetfulness=dict(dose=float('nan')))), 'must be a finite number'),
    'float for a count': (lambda: conf(dict(total_sentences=10.5)), 'must be a whole number'),
    'true for a count': (lambda: conf(dict(total_sentences=True)), 'must be a whole number'),
    'negative length': (lambda: FFConfig(total_sentences=-1), 'must not be negative'),
    'ramp without a length': (lambda: FFConfig(forgetfulness=ForgetfulnessConfig(dose=1.0)), 'give total_sentences'),
    'negative dose': (lambda: ForgetfulnessConfig(dose=-1.0), 'must be at least 0'),
    'power over 1': (lambda: ForgetfulnessConfig(power=3.0), 'above 0 and at most 1'),
    'even kernel in the config': (lambda: ForgetfulnessConfig(size=8), 'odd and at least 3'),
    'unknown order': (lambda: ForgetfulnessConfig(order='rand'), 'random, round_robin or all'),
    'unknown role': (lambda: ForgetfulnessConfig(roles=('up',)), 'some of gate, value and down'),
    'no role': (lambda: ForgetfulnessConfig(roles=()), 'some of gate, value and down'),
    'unknown noise in the config': (lambda: RecallConfig(noise='pink'), 'uniform, gaussian, range'),
    'unknown mode': (lambda: RecallConfig(mode='branch'), 'branching or highway'),
    'hub of all units': (lambda: RecallConfig(share=0.7), 'between 0 and 0.5'),
    'no hubs': (lambda: RecallConfig(per_sign=0), 'must be at least 1'),
    'noise from the end on': (lambda: RecallConfig(start=1.0), 'under 1'),
    'no half-life': (lambda: RecallConfig(halflife=0.0), 'must be above 0'),
    'unknown kind': (lambda: ForgivenessConfig(kind='letters'), 'none, two_letter or conceptual'),
    'unknown form': (lambda: ForgivenessConfig(form='hard'), 'literal, soft'),
    'forgiving more than all': (lambda: ForgivenessConfig(amount=1.5), 'between 0 and 1'),
    'no letters': (lambda: ForgivenessConfig(letters=0), 'must be at least 1'),
    'newer file': (lambda: conf(dict(version=9)), 'update ff_nbdev'),
    'unknown recipe': (lambda: FFConfig.preset('full_stak', 10), "did you mean 'full_stack'"),
    'unknown arm': (lambda: recipe('no_fzzr', total_sentences=10), "did you mean 'no_fzr'"),
    'arm that is not trained': (lambda: recipe('base', total_sentences=10), 'evaluate it as it is'),
    'unknown scale': (lambda: recipe('no_fzr', 'huge', 10), 'the scales are quick'),
    # attaching
    'config is a dict': (lambda: attach(MODEL, dict(dose=1)), 'give an FFConfig'),
    'letters without a tokenizer': (
        lambda: attach(MODEL, FFConfig(forgiveness=ForgivenessConfig(kind='two_letter'))),
        'needs the tokenizer',
    ),
    'negative sentences': (lambda: attached().step(sentences=-1), 'must not be negative'),
    'logits and labels': (
        lambda: attached().loss(torch.zeros(2, 5, 9), torch.zeros(2, 4).long()),
        'share batch and time',
    ),
    'no alternatives': (
        lambda: attached(forgiveness=ForgivenessConfig(kind='conceptual')).loss(
            torch.zeros(2, 5, 512), torch.zeros(2, 5).long()
        ),
        'needs alternatives=',
    ),
    'no saved state': (lambda: attach.from_pretrained(MODEL, 'nowhere'), 'written by ff.save_pretrained'),
    # sites
    'no feed-forward block': (lambda: find_sites(nn.Linear(3, 3)), 'name them with FFNPattern'),
    'pattern that matches nothing': (
        lambda: find_sites(MODEL, FFNPattern('x', 'mlp', 'a', 'b')),
        'No feed-forward blocks found',
    ),
    'two roles on one matrix': (
        lambda: find_sites(block(8, 8), FFNPattern('own', 'ffn', 'up', 'up')),
        'plays two roles',
    ),
    'value does not fit': (lambda: find_sites(block(24, 16), row()), 'value gives 24 units but down takes 16'),
    'gate does not fit': (
        lambda: find_sites(block(16, 16, 24), row(gate='gate')),
        'gate gives 24 units but down takes 16',
    ),
    'meta device': (lambda: find_sites(block(meta=True), row()), 'load the weights first'),
    'quantised': (lambda: find_sites(block(dtype=torch.int8), row()), 'load the model in float32 or bfloat16'),
    'role that is not there': (lambda: find_sites(block(), row())[0].weight('gate'), 'its roles are value, down'),
    # models
    'unknown model': (lambda: load_pretrained('tiny-mt6'), 'the shipped ones are tiny-mt5'),
    'folder without a model': (lambda: load_pretrained('/'), 'holds no config.json'),
    'unknown architecture': (lambda: new_model('bert', 100), 'it is one of mt5, rwkv'),
    'unknown ablation': (lambda: ablate(MODEL, 'half').__enter__(), "'zero' or 'mean'"),
    'mean without means': (lambda: ablate(MODEL, 'mean').__enter__(), 'ffn_means'),
    # forgetfulness
    'even kernel': (lambda: proximal_kernel(4), 'odd size of 3 or more'),
    'no decay': (lambda: proximal_kernel(9, 0.0), 'must be positive'),
    'pulse of a vector': (lambda: pulse_(W[0], proximal_kernel(), 0.03), 'needs a matrix'),
    'pulse of whole numbers': (lambda: pulse_(W.int(), proximal_kernel(), 0.03), 'needs floating-point weights'),
    'pulse over 1': (lambda: pulse_(W, proximal_kernel(), 3.0), 'between 0 and 1'),
    # recall
    'window over the hidden': (lambda: smooth(H, 65), 'does not fit a hidden of 64'),
    'share of 0': (lambda: hub_width(64, 0.0), 'between 0 and 0.5'),
    'no hub': (lambda: find_hubs(H, 3, 0), 'at least one hub'),
    'unknown noise': (lambda: multiplier(H, 1.0, 'pink'), 'uniform, gaussian, range'),
    # forgiveness
    'form': (lambda: forgiving_loss(LOGITS, LABELS, form='hard'), "'literal' or 'soft'"),
    'two criteria': (
        lambda: forgiving_loss(LOGITS, LABELS, torch.zeros(20).int(), alternatives=torch.zeros(6, 2).long()),
        'one criterion at a time',
    ),
    'table of another tokenizer': (
        lambda: forgiving_loss(LOGITS, LABELS, torch.zeros(30).int()),
        'belong to different tokenizers',
    ),
    'alternatives without shares': (
        lambda: forgiving_loss(LOGITS, LABELS, alternatives=torch.zeros(6, 2).long()),
        'come with scores',
    ),
    'shares of another shape': (
        lambda: forgiving_loss(LOGITS, LABELS, alternatives=torch.zeros(6, 2).long(), scores=torch.zeros(6, 3)),
        'one share for each alternative',
    ),
    # variants
    'penalty on a vector': (lambda: spatial_penalty(W[0]), 'needs a matrix'),
    'classes and latents': (lambda: prototype_margin_loss(W, torch.zeros(3).long()), 'one class for each latent'),
    'codebook of another width': (lambda: codebook_recall(W, W[:, :3]), 'must agree'),
    'part of the wrong kind': (lambda: FFConfig(total_sentences=10, recall=dict(top=1.0)), 'must be a RecallConfig'),
    'nothing for a part': (lambda: conf(dict(recall=None)), 'must be a dictionary of settings'),
    'version in words': (lambda: conf(dict(version='1')), 'must be a whole number'),
    'roles in roles': (lambda: ForgetfulnessConfig(roles=(['down'],)), 'some of gate, value and down'),
    'alternatives by number': (lambda: ForgivenessConfig(alternatives=5), 'must be text'),
    'nan set later': (lambda: setattr(FFConfig(10).recall, 'top', float('nan')), 'must be a finite number'),
    'a bad dose set later': (lambda: setattr(FFConfig(10).forgetfulness, 'dose', -3.0), 'must be at least 0'),
    'half a sentence': (lambda: attached(total_sentences=10).step(0.5), 'must be a whole number'),
    'eight-bit weight': (lambda: find_sites(block(dtype=torch.float8_e4m3fn), row()), 'load the model in float32'),
    'computed weight': (lambda: find_sites(computed(), row()), 'without a weight of its own'),
    'fused weight': (lambda: find_sites(block(value=32), row()), 'in one matrix (fused)'),
    # text
    'no such text': (lambda: find_text('nowhere/*.txt'), 'No text at'),
    'a picture': (lambda d: find_text(d('a.png', 'x')), 'the endings that are read'),
    'empty text': (lambda d: load_corpus(d('a.txt', '')), 'is empty'),
    'too little text': (lambda d: load_corpus(d('a.txt', 'One sentence stands here alone.')), 'too few to be split'),
    'no such column': (
        lambda d: load_corpus(d('a.jsonl', json.dumps(dict(body='A line of text.')))),
        "with a 'text' field",
    ),
    'unknown split': (lambda d: read_sentences(d('a.txt', ''), 'dev'), 'train, valid, test'),
    'tiny vocabulary': (lambda d: train_tokenizer(d('a.txt', ''), 50), 'too small'),
    'density': (lambda: SpanCorruption(load_pretrained('tiny-mt5')[1], density=1.2), 'between 0 and 1'),
    'no tokens': (lambda d: Windows(d('a.txt', ''), 'train', 8), 'run encode_corpus'),
    'shares beyond 1': (lambda: language_shares(dict(a=1), 1.5), 'between 0 (equal parts) and 1'),
    'a language without text': (lambda: language_shares(dict(a=10, b=0)), 'No text for b'),
    'batch over the text': (lambda: Batches(range(5), None, 6), 'choose 1 to 5'),
    'uneven share of processes': (lambda: Batches(range(50), None, 6, world=4), 'a multiple of 4'),
    # alternatives and their teacher
    'no alternatives there': (lambda d: Alternatives(d('a.txt', '').parent), 'written by write_alternatives'),
    'damaged header': (lambda d: Alternatives(d('alternatives.json', '{"n"').parent), 'is damaged'),
    'newer format': (lambda d: Alternatives(d('alternatives.json', '{"version": 9}').parent), 'update ff_nbdev'),
    'falling shares': (
        lambda d: Alternatives(d('alternatives.json', '{}').parent, low=0.7),
        'must rise between 0 and 1',
    ),
    'nothing ranked': (lambda: quantile_knots([float('-inf')]), 'ranked nothing'),
    'no teacher there': (lambda: load_teacher('nowhere'), 'the hub id of a masked language model'),
    'embedding of another vocabulary': (
        lambda: new_teacher(load_pretrained('tiny-mt5')[1], torch.zeros(9, 32)),
        'take both from one model',
    ),
    'categories in one column': (lambda d: read_categories(d('a.tsv', 'cat\n')), 'with tabs between them'),
    # measures
    'unknown neighbours': (lambda: morans_i(W, 'bishop'), "'queen', 'rook' or 'line'"),
    'field without neighbours': (lambda: morans_i(W[:1, :1]), 'give a larger field'),
    'unknown disturbance': (lambda: perturbed(MODEL, 'heat', 1.0).__enter__(), 'a disturbance is one of'),
    'blur over 1': (lambda: perturbed(MODEL, 'blur', 2.0).__enter__(), 'between 0 and 1'),
}
