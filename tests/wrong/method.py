"""Wrong values of the mechanisms: settings, kernels, hubs, losses, clocks, states."""

import copy
import json

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ByT5Tokenizer

from ff_nbdev.data.alternatives import pack_rows
from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig, ForgivenessConfig, RecallConfig
from ff_nbdev.mechanisms.forgetfulness import (
    PulseSchedule,
    effective_rank,
    neighbour_mean,
    proximal_kernel,
    pulse_,
    pulses_,
)
from ff_nbdev.mechanisms.forgiveness import forgiving_loss, prefix_classes
from ff_nbdev.mechanisms.forgiveness_stats import ForgivenessStats
from ff_nbdev.mechanisms.linear_loss import headless, linear_forgiving_loss
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.mechanisms.noise import (
    HubNoise,
    keyed_noise,
    keyed_uniform,
    multiplier,
    noise_moments,
    noisy_hidden,
    token_keys,
)
from ff_nbdev.mechanisms.recall import hub_width, smooth, update_usage
from ff_nbdev.mechanisms.variants import (
    class_means,
    codebook_recall,
    position_distance,
    prototype_margin_loss,
    spatial_penalty,
)
from ff_nbdev.models.tiny import random_tiny

NAN, INF = float('nan'), float('inf')
W, H = torch.randn(12, 12), torch.randn(2, 5, 64)
LOGITS, LABELS = torch.randn(6, 20), torch.arange(6)
IDS, SHARES = torch.zeros(6, 2).long(), torch.zeros(6, 2)


class Gateless(nn.Module):
    "A feed-forward block without a gate, in no model that is known"

    def __init__(self):
        super().__init__()
        self.mlp = nn.ModuleDict(dict(c_fc=nn.Linear(32, 64), c_proj=nn.Linear(64, 32)))


def attached(arch='mt5', **kw):
    return attach(random_tiny(arch), FFConfig(**kw))


def pulsed(**kw):
    return FFConfig(100, ForgetfulnessConfig(**(dict(dose=1.0) | kw)))


def with_cell(value, dtype=torch.float32):
    w = W.clone().to(dtype)
    w[1, 2] = value
    return w


def stripes(value):
    w = torch.full((12, 12), value).half()
    w[::2] *= -1
    return w


def listed(ids=IDS, shares=SHARES, **kw):
    return forgiving_loss(LOGITS, LABELS, alternatives=ids, scores=shares, **kw)


def linear(hidden=None, weight=None, labels=LABELS, **kw):
    return linear_forgiving_loss(
        torch.ones(6, 4) if hidden is None else hidden, torch.ones(20, 4) if weight is None else weight, labels, **kw
    )


def entered(manager):
    with manager:
        pass


def entered_twice(model):
    with headless(model):
        entered(headless(model))


def loss(**kw):
    return attached().loss(torch.zeros(2, 5, 9), torch.zeros(2, 5).long(), **kw)


def broken_model():
    "A step whose matrix holds a NaN"
    ff = attached(total_sentences=100, forgetfulness=ForgetfulnessConfig(dose=1.0))
    ff.sites[0].weight('down').data[0, 0] = NAN
    return ff.step(sentences=100)


def large_model():
    "A step whose matrix holds a cell near the end of float32"
    ff = attached(total_sentences=100, forgetfulness=ForgetfulnessConfig(dose=1.0))
    ff.sites[0].weight('down').data[0, 0] = 3e38
    return ff.step(sentences=100)


def changed_dose():
    "A dose that is set when the schedule is made already"
    ff = attach(random_tiny('mt5'), pulsed())
    ff.config.forgetfulness.dose = 3.0
    return ff.step(sentences=1)


def half_model():
    model = random_tiny('mt5').half()
    ff = attach(model, pulsed())
    ff.sites[0].weight('gate').data[0, 0] = 4e4
    return ff.step(sentences=100)


def saved(files, change=None, config=None):
    "A folder of `save_pretrained`, changed; and a model that takes it"
    folder = files.here / 'state'
    attach(random_tiny('mt5'), pulsed()).save_pretrained(folder)
    if change:
        save_file(change(load_file(folder / 'ff_state.safetensors')), folder / 'ff_state.safetensors')
    if config is not None:
        (folder / 'ff_config.json').write_text(config)
    return attach.from_pretrained(random_tiny('mt5'), folder)


def cut(files, name):
    "The same, with a file cut in two"
    attach(random_tiny('mt5'), pulsed()).save_pretrained(files.here / 'state')
    whole = (files.here / 'state' / name).read_bytes()
    (files.here / 'state' / name).write_bytes(whole[: len(whole) // 2])
    return attach.from_pretrained(random_tiny('mt5'), files.here / 'state')


def no_state(files):
    attach(random_tiny('mt5'), FFConfig()).save_pretrained(files.here / 'state')
    (files.here / 'state' / 'ff_state.safetensors').unlink()
    return attach.from_pretrained(random_tiny('mt5'), files.here / 'state')


CASES = {
    # settings whose values gave numbers that are none, or hours
    'kernel that underflows': (lambda: ForgetfulnessConfig(decay=0.001), 'at least 0.05 cells'),
    'kernel of a billion cells': (lambda: ForgetfulnessConfig(size=10**9 + 1), 'at most 255'),
    'seed beyond the keys': (lambda: FFConfig(seed=2**45), 'under 2**40'),
    'seed of thousands of digits': (lambda: FFConfig(seed=10**5000), 'a number of thousands of digits'),
    'dose beyond numbers': (lambda: ForgetfulnessConfig(dose=10**400), 'must be a finite number'),
    'negative seed': (lambda: FFConfig(seed=-1), 'at least 0'),
    'endless run': (lambda: FFConfig(total_sentences=10**400), 'between 0 and 10**15'),
    'millions of pulses': (lambda: FFConfig(100, ForgetfulnessConfig(dose=1e9)), 'more than 100,000 pulses'),
    'pulses of nothing': (lambda: FFConfig(100, ForgetfulnessConfig(dose=1.0, power=1e-12)), 'or a higher power'),
    'noise beyond numbers': (lambda: RecallConfig(top=1e300), 'at most 1000'),
    'limit beyond numbers': (lambda: RecallConfig(top=1.0, limit=1e300), 'at most 1000'),
    'slope beyond numbers': (lambda: RecallConfig(slow_from=-1.0), 'at least 0'),
    'noise inside hubs beyond numbers': (lambda: RecallConfig(intra=1e9), 'at most 1000'),
    'a billion hubs': (lambda: RecallConfig(per_sign=10**9), 'at most 100'),
    'hubs over everything': (
        lambda: FFConfig(10, recall=RecallConfig(share=0.4, per_sign=3)),
        'put every unit in a hub',
    ),
    'version of nothing': (lambda: FFConfig(version=0), 'at least 1'),
    'unknown late kind': (lambda: ForgivenessConfig(final_kind='soft'), 'none, two_letter or conceptual'),
    'late beyond the end': (lambda: ForgivenessConfig(late_from=1.5), 'between 0 and 1'),
    'length beyond all text': (lambda: FFConfig(10**30), 'for no run sees more sentences'),
    'length below nothing': (lambda: FFConfig(-3), 'must not be negative'),
    'dose in letters': (lambda: FFConfig.preset('full_stack', 10, dose='a'), "dose='a' must be a finite number"),
    'no step between pulses': (lambda: ForgetfulnessConfig(steps_between_pulses=0.0), 'must be above 0'),
    'steps between pulses in letters': (
        lambda: FFConfig.preset('no_fzr', 10, steps_between_pulses='a'),
        'must be a finite number',
    ),
    'steps between pulses and no steps': (
        lambda: FFConfig(10, ForgetfulnessConfig(steps_between_pulses=5.0)),
        'give total_steps',
    ),
    'steps, dose and distance that disagree': (
        lambda: FFConfig(10, ForgetfulnessConfig(dose=4.5, steps_between_pulses=200.0), total_steps=900),
        'or take 46,154 steps',
    ),
    'a pulse in next to no step': (
        lambda: FFConfig(10, ForgetfulnessConfig(steps_between_pulses=1e-4), total_steps=900),
        'more than 100,000 pulses',
    ),
    'half an optimizer step': (lambda: FFConfig(10, total_steps=1.5), 'total_steps=1.5 must be a whole number'),
    'fewer steps than none': (lambda: FFConfig(10, total_steps=-1), 'between 0 and 10**15'),
    'an axis that there is not': (lambda: ForgetfulnessConfig(axis='rows'), 'both or hidden'),
    'memory of usage of nothing': (lambda: RecallConfig(halflife=0.0), 'must be above 0'),
    'steps that nobody told': (
        lambda: attached(
            total_sentences=10, forgetfulness=ForgetfulnessConfig(steps_between_pulses=5.0), total_steps='auto'
        ).step(sentences=1),
        "total_steps is still 'auto'",
    ),
    'steps told that disagree': (
        lambda: attached(
            total_sentences='auto',
            forgetfulness=ForgetfulnessConfig(dose=1.0, steps_between_pulses=5.0),
            total_steps='auto',
        ).set_total(100, 10),
        'gives a dose of',
    ),
    'a line longer than the hidden units': (
        lambda: attach(
            random_tiny('mt5', d_ff=16), FFConfig(10, ForgetfulnessConfig(dose=1.0, size=17, axis='hidden'))
        ),
        'larger than',
    ),
    'noise as a list': (lambda: FFConfig.preset('full_stack', 10, top=[2]), 'top=[2] must be a finite number'),
    'a preset with a setting misspelt': (
        lambda: FFConfig.preset('full_stack', total_sentence=10),
        "preset takes no 'total_sentence': did you mean 'total_sentences'?",
    ),
    'a configuration with a setting misspelt': (
        lambda: FFConfig(total_sentence=10),
        "FFConfig takes no 'total_sentence': did you mean 'total_sentences'?",
    ),
    'a part with a setting of no part': (lambda: RecallConfig(qq=1), 'there are top, start, mode'),
    'a billion letters': (lambda: ForgivenessConfig('two_letter', letters=10**9), 'at most 20'),
    # attaching
    'tokenizer by name': (lambda: attach(random_tiny('mt5'), FFConfig(), 'gpt2'), 'give the tokenizer itself'),
    'copy of an attached model': (
        lambda: attach(copy.deepcopy(attached().model), FFConfig()),
        'twin = copy.deepcopy(ff)',
    ),
    'no model': (lambda: attach('google/mt5-base', FFConfig()), 'give the model itself'),
    'kernel over the matrix': (
        lambda: attach(random_tiny('mt5'), pulsed(size=41)),
        'A kernel of 41 cells is larger than',
    ),
    'role that no site has': (
        lambda: attach(nn.Sequential(Gateless()), pulsed(roles=('gate',))),
        'choose roles among down, value',
    ),
    'pull beyond the neighbours': (
        lambda: attach(random_tiny('mt5'), pulsed(normalized=False, power=0.5)),
        'throw weights beyond their neighbours',
    ),
    'more hubs than units': (
        lambda: attach(random_tiny('mt5'), FFConfig(10, recall=RecallConfig(top=1.0, per_sign=50, share=0.019))),
        'hubs of 2% need 150 units',
    ),
    'letters of bytes': (
        lambda: attach(random_tiny('mt5'), FFConfig(forgiveness=ForgivenessConfig(kind='two_letter')), ByT5Tokenizer()),
        'nothing to work on',
    ),
    # the loop
    'matrix with a NaN': (broken_model, 'DenseReluDense.down holds NaN or infinity'),
    'single precision near its end': (large_model, 'go back to a checkpoint without such a cell'),
    'dose changed after attach': (changed_dose, 'put it back, or set it before attach'),
    'half precision near its end': (half_model, 'could overflow torch.float16'),
    'sentences in words': (lambda: attached().step(sentences='64'), 'must be a whole number'),
    'no sentences': (lambda: attached().step(sentences=None), 'must be a whole number'),
    'sentences of each rank': (lambda: attached().step(sentences=torch.ones(2)), 'must be a whole number'),
    'endless step': (lambda: attached().step(sentences=INF), 'must be a whole number'),
    'step beyond all text': (lambda: attached().step(sentences=10**18), 'more than a step can hold'),
    'negative noise': (lambda: attached().noisy(-1.0).__enter__(), 'cannot be laid'),
    'noise that is no number': (lambda: attached().noisy(NAN).__enter__(), 'cannot be laid'),
    # the loss
    'logits in rows': (lambda: attached().loss(torch.zeros(10, 9), torch.zeros(10).long()), 'share batch and time'),
    'labels as fractions': (
        lambda: attached().loss(torch.zeros(2, 5, 9), torch.zeros(2, 5)),
        'labels are torch.float32',
    ),
    'labels as a list': (lambda: attached().loss(torch.zeros(1, 2, 9), [[1, 2]]), 'labels are list'),
    'unknown shift': (
        lambda: attach(nn.Sequential(Gateless()), FFConfig()).loss(torch.zeros(2, 5, 9), torch.zeros(2, 5).long()),
        'shift=True or shift=False',
    ),
    'no targets in the step': (lambda: loss(targets=0), 'number of targets of the whole step'),
    'negative targets': (lambda: loss(targets=-3.0), 'targets=-3.0 cannot be'),
    'weights of another shape': (lambda: loss(weight=torch.ones(2, 4)), 'one weight for each'),
    'alternatives of another shape': (
        lambda: loss(alternatives=(torch.zeros(2, 4, 3), torch.zeros(2, 4, 3))),
        'each of (batch, time, n)',
    ),
    'amount of 5': (lambda: forgiving_loss(LOGITS, LABELS, torch.zeros(20).int(), 5), 'between 0 and 1'),
    'amount that is no number': (lambda: forgiving_loss(LOGITS, LABELS, torch.zeros(20).int(), NAN), 'between 0 and 1'),
    'alternatives beyond the vocabulary': (lambda: listed(IDS + 20), 'alternatives hold ids from 20 to 20'),
    'negative alternatives': (lambda: listed(IDS - 1), 'made with another tokenizer'),
    'soft alternatives beyond the vocabulary': (lambda: listed(IDS + 20, form='soft'), 'the model predicts 20'),
    'alternatives and shares changed about': (lambda: listed(SHARES, IDS), 'alternatives are ids'),
    'alternatives of other rows': (lambda: listed(IDS[:4], SHARES[:4]), 'do not fit 6 rows'),
    'shares over 1': (lambda: listed(shares=SHARES + 2), 'scores must lie between 0 and 1'),
    'shares that are no numbers': (lambda: listed(shares=SHARES + NAN), 'scores must lie between 0 and 1'),
    'alternatives that would wrap in the file': (
        lambda: pack_rows(np.array([[70_000]]), np.array([[9]], np.uint8), 5_000),
        'has none beyond',
    ),
    'negative alternatives in the file': (
        lambda: pack_rows(np.array([[-1]]), np.array([[9]], np.uint8), 300_000),
        'hold ids from -1 to -1',
    ),
    'labels beyond the vocabulary': (lambda: forgiving_loss(LOGITS, LABELS + 18), 'labels hold ids from 18 to 23'),
    'negative labels': (lambda: forgiving_loss(LOGITS, LABELS - 1), 'belong to different tokenizers'),
    'smoothing over 1': (lambda: forgiving_loss(LOGITS, LABELS, label_smoothing=2.0), 'label_smoothing=2.0 must lie'),
    'negative weights': (lambda: forgiving_loss(LOGITS, LABELS, weight=-torch.ones(6)), 'finite numbers of 0 or more'),
    'labels of other rows': (lambda: forgiving_loss(LOGITS, LABELS[:4]), 'do not fit'),
    'hidden states of another width': (lambda: linear(torch.ones(6, 5)), 'give (rows, d) and (vocabulary, d)'),
    'hidden states of another dtype': (lambda: linear(torch.ones(6, 4).bfloat16()), 'give both in one dtype'),
    'hidden states of whole numbers': (lambda: linear(torch.ones(6, 4).long()), 'are real numbers'),
    'hidden states elsewhere': (lambda: linear(torch.ones(6, 4, device='meta')), 'put both on one device'),
    'hidden states without labels': (lambda: linear(labels=LABELS[:4]), 'do not fit'),
    'labels beyond the output embedding': (lambda: linear(labels=LABELS + 18), 'labels hold ids from 18 to 23'),
    'bias of another vocabulary': (lambda: linear(bias=torch.ones(19)), 'one number for each id'),
    'no rows of hidden states at a time': (lambda: linear(chunk=0), 'must be at least 1'),
    'weights of other targets': (lambda: linear(target_weight=torch.ones(5)), 'one weight for each target'),
    'negative weights of hidden states': (lambda: linear(target_weight=-torch.ones(6)), 'finite numbers of 0 or more'),
    'form of hidden states': (lambda: linear(form='hard'), 'Unknown form'),
    'alternatives of hidden states without shares': (lambda: linear(alternatives=IDS), 'Alternatives come with scores'),
    'headless without a head': (lambda: entered(headless(nn.Linear(2, 2))), 'no Hugging Face model'),
    'headless twice': (lambda: entered_twice(random_tiny('mt5')), 'something else changes its output embedding'),
    'hidden states and labels': (
        lambda: attached().loss(torch.zeros(2, 5, 32), torch.zeros(2, 4).long(), head=nn.Linear(32, 9)),
        'hidden states (2, 5, 32) and labels',
    ),
    'no targets for hidden states': (
        lambda: attached().loss(torch.zeros(2, 5, 32), torch.zeros(2, 5).long(), head=nn.Linear(32, 9), targets=0),
        'number of targets of the whole step',
    ),
    'no rows at a time': (lambda: listed(chunk=0), 'at least 1'),
    'no letters to compare': (lambda: prefix_classes(ByT5Tokenizer(), 0), 'at least one letter'),
    'tally of nothing': (lambda: ForgivenessStats(0), 'at least one id'),
    # pulses
    'decay that underflows': (lambda: proximal_kernel(9, 0.001), 'must be positive, 0.05 at least'),
    'decay that is no number': (lambda: proximal_kernel(9, NAN), 'must be positive'),
    'giant kernel': (lambda: proximal_kernel(10**9 + 1), 'at most 255'),
    'pulse of a NaN': (lambda: pulse_(with_cell(NAN), proximal_kernel(), 0.03), 'holds NaN or infinity'),
    'pulse of infinity': (lambda: pulse_(with_cell(INF), proximal_kernel(), 0.03), 'holds NaN or infinity'),
    'pulse of numbers too large': (
        lambda: pulse_(stripes(6e4), proximal_kernel(), 0.5),
        'they would overflow torch.float16',
    ),
    'pulse by no number': (lambda: pulse_(W.clone(), proximal_kernel(), NAN), 'between 0 and 1'),
    'many pulses, one of them over 1': (
        lambda: pulses_([W.clone(), W.clone()], proximal_kernel(), [0.03, 3.0]),
        'between 0 and 1',
    ),
    'many pulses, too few powers': (
        lambda: pulses_([W.clone(), W.clone()], proximal_kernel(), [0.03]),
        'one power for every matrix',
    ),
    'pulse with a strong kernel': (
        lambda: pulse_(W.clone(), proximal_kernel(normalized=False), 0.5),
        'beyond their neighbours',
    ),
    'kernel with an even side': (lambda: neighbour_mean(W, torch.ones(4, 4)), 'a rectangle with odd sides'),
    'kernel along no axis': (lambda: proximal_kernel(axis='hidden'), 'along rows, columns or both'),
    'kernel with one even side': (lambda: neighbour_mean(W, torch.ones(3, 4)), 'a rectangle with odd sides'),
    'kernel of zeros': (lambda: neighbour_mean(W, torch.zeros(3, 3)), 'not all of them 0'),
    'kernel that is no number': (lambda: neighbour_mean(W, torch.full((3, 3), NAN)), 'finite weights'),
    'mean of whole numbers': (lambda: neighbour_mean(W.int(), torch.ones(3, 3)), 'floating-point matrix'),
    'schedule without an end': (lambda: PulseSchedule(0, 1.0, 3), 'the number of sentences of the whole run'),
    'schedule of a negative dose': (lambda: PulseSchedule(10, -1.0, 3), 'a number of 0 or more'),
    'schedule of an unknown order': (lambda: PulseSchedule(10, 1.0, 3, order='last'), 'random, round_robin or all'),
    'schedule of fewer than no matrices': (lambda: PulseSchedule(10, 1.0, -3), 'cannot be'),
    'schedule with a long seed': (lambda: PulseSchedule(10, 1.0, 3, seed=2**45), 'under 2**40'),
    'schedule with power 2': (lambda: PulseSchedule(10, 1.0, 3, power=2.0), 'above 0 and at most 1'),
    'rank of a vector': (lambda: effective_rank(W[0]), 'needs a matrix'),
    'rank of a NaN': (lambda: effective_rank(with_cell(NAN)), 'NaN or infinity in it'),
    # hubs and noise
    'hidden without room': (lambda: hub_width(2), 'no room for a hub'),
    'empty window': (lambda: smooth(H, 0), 'is empty'),
    'negative strength': (lambda: multiplier(H, -1.0), 'a finite strength'),
    'strength without end': (lambda: noise_moments(INF), 'a finite strength'),
    'noise of another shape': (
        lambda: noisy_hidden(H, H[:, :3], HubNoise(1.0, 3)),
        'one number is needed for each unit',
    ),
    'key beyond 64 bits': (lambda: keyed_uniform(2**70, 0, torch.arange(2), 0, 3, 8), 'keys of 64 bits'),
    'token key beyond 64 bits': (lambda: token_keys(0, 0, torch.arange(2), 2**64, 3), 'keys of 64 bits'),
    'keys of other tokens': (
        lambda: keyed_noise(H, token_keys(0, 0, torch.arange(1), 0, 1), HubNoise(1.0, 3)),
        'one key is needed',
    ),
    'noise of an unknown kind': (lambda: noisy_hidden(H, H, HubNoise(1.0, 3, kind='laplace')), 'Unknown noise'),
    'memory of nothing': (lambda: update_usage(W[0], W[0], 3, 3, 0.0), 'must be above 0'),
    'fewer than no tokens': (lambda: update_usage(W[0], W[0], -3, 3), 'give numbers of 0 or more'),
    # the appendix
    'penalty with decay 0': (lambda: spatial_penalty(W, 0.0), 'must be above 0'),
    'penalty with a decay that is no number': (lambda: spatial_penalty(W, NAN), 'must be above 0'),
    'penalty of another power': (lambda: spatial_penalty(W, exponent=3.0), 'between 1 and 2'),
    'negative classes': (lambda: prototype_margin_loss(W, torch.arange(12) - 3), 'numbered from 0'),
    'classes without a prototype': (
        lambda: prototype_margin_loss(W, torch.arange(12), W[:3]),
        'do not fit 3 prototypes',
    ),
    'margin that is no number': (
        lambda: prototype_margin_loss(W, torch.arange(12), margin=NAN),
        'must not be negative',
    ),
    'means of no class': (lambda: class_means(W[:0], torch.zeros(0).long()), 'at least one'),
    'temperature that is no number': (lambda: codebook_recall(W, W, NAN), 'must be above 0'),
    'mix over 1': (lambda: codebook_recall(W, W, mix=2.0), 'between 0'),
    'matrix without rows': (lambda: position_distance(0, 5), 'has no positions'),
    # states
    'state that is not there': (no_state, 'ff_state.safetensors is not there'),
    'state cut in two': (lambda files: cut(files, 'ff_state.safetensors'), 'ff_state.safetensors is damaged'),
    'settings cut in two': (lambda files: cut(files, 'ff_config.json'), 'ff_config.json is damaged'),
    'settings that are a list': (lambda files: saved(files, config='[]'), 'holds a list where settings should stand'),
    'settings nested without end': (lambda files: saved(files, config='[' * 100_000), 'ff_config.json is damaged'),
    'state without doses': (
        lambda files: saved(files, lambda d: {k: v for k, v in d.items() if k != 'doses'}),
        'lacks doses or counters',
    ),
    'state with a NaN': (
        lambda files: saved(files, lambda d: d | dict(doses=d['doses'] * NAN)),
        'holds NaN or infinity',
    ),
    'state without usage': (
        lambda files: saved(files, lambda d: {k: v for k, v in d.items() if k != 'usage.1'}),
        'other feed-forward sites',
    ),
    'rests of another matrix': (
        lambda files: saved(files, lambda d: d | {'rest.99': torch.zeros(2, 2)}),
        'rounding rests',
    ),
    'settings of another model': (
        lambda files: saved(files, config=json.dumps(FFConfig(5).to_dict() | dict(matrices=['mlp.down']))),
        'other feed-forward sites',
    ),
}
