"""Wrong patterns, models whose sites are not there or cannot be used, and models that a function cannot read."""

import torch
from tiny_models import ENCODER_DECODER
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    ViTForImageClassification,
    WhisperForConditionalGeneration,
)

from ff_nbdev import evaluate
from ff_nbdev.baselines.reordered import reorder_
from ff_nbdev.evaluation.readings import objective_batches
from ff_nbdev.evaluation.contribution import ffn_ratio
from ff_nbdev.evaluation.spatial import weight_geography
from ff_nbdev.mechanisms.config import FFConfig, RecallConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.sites import find_sites, remember_pattern
from ff_nbdev.models.site import FFNPattern
from ff_nbdev.models.tiny import load_pretrained, new_blocks, random_tiny
from ff_nbdev.models.wrappers import decoder_inputs

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
IMAGES = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=16, patch_size=8
)
SOUND = dict(
    vocab_size=64,
    **{name: size for name, size in ENCODER_DECODER.items() if name != 'max_position_embeddings'},
    num_mel_bins=8,
    max_source_positions=16,
    max_target_positions=16,
    pad_token_id=0,
    decoder_start_token_id=0,
)


class Block(nn.Module):
    "A feed-forward block of any children"

    def __init__(self, **children):
        super().__init__()
        for name, m in children.items():
            setattr(self, name, m)


def net(**children):
    "Two layers with such a block"
    model = nn.Module()
    model.layers = nn.ModuleList(nn.ModuleDict(dict(ffn=Block(**children))) for _ in range(2))
    return model


def plain(units=16, hidden=16):
    return net(up=nn.Linear(8, units), down=nn.Linear(hidden, 8))


def stack(up=(3, 32, 8), down=(3, 8, 16), **kw):
    "Experts in one parameter"
    return net(
        up=nn.Parameter(torch.zeros(up, **kw), requires_grad=False),
        down=nn.Parameter(torch.zeros(down, **kw), requires_grad=False),
    )


def row(**kw):
    return FFNPattern(**(dict(name='own', block='ffn', down='down', value='up') | kw))


def halves(**kw):
    return row(**(dict(value='up[1/2]', gate='up[0/2]') | kw))


def built(kind, **shape):
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, pad_token_id=0, **shape))


def mixtral():
    return built('mixtral', **SMALL, num_key_value_heads=2, num_local_experts=2)


def vit():
    return ViTForImageClassification(AutoConfig.for_model('vit', **IMAGES))


def mamba():
    return built('mamba', vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=4)


def bert():
    return AutoModel.from_config(AutoConfig.for_model('bert', **SMALL))


class Codes(nn.Parameter):
    "A weight of a quantisation library"


def coded(dtype=torch.float32):
    model = plain()
    model.layers[1]['ffn'].down.weight = Codes(torch.zeros(8, 16, dtype=dtype), requires_grad=False)
    return model


def packed():
    "As GPTQ and AWQ have it"
    down = nn.Module()
    down.register_buffer('qweight', torch.zeros(2, 8, dtype=torch.int32))
    return net(up=nn.Linear(8, 16), down=down)


class Unmasked:
    "A tokenizer without a mask"

    mask_token_id = None


def masked_model():
    from transformers import AutoModelForMaskedLM

    return AutoModelForMaskedLM.from_config(AutoConfig.for_model('bert', **SMALL))


def unstarted():
    "An encoder-decoder that does not say how its decoder starts"
    model = nn.Module()
    model.config = AutoConfig.for_model('bart', vocab_size=64)
    model.config.decoder_start_token_id = model.config.bos_token_id = None
    return model


def saved(files, config):
    "A folder with such a configuration"
    folder = files('model/readme.txt', 'a model').parent
    config.save_pretrained(folder)
    return folder


def noisy():
    return FFConfig(total_sentences=10, recall=RecallConfig(top=1.0))


CASES = {
    # patterns
    'block that is no expression': (lambda: row(block='mlp('), 'is no regular expression'),
    'block that repeats nothing': (lambda: row(block='*mlp'), 'is no regular expression'),
    'block as a list': (lambda: row(block=['mlp']), 'must be text'),
    'name as a number': (lambda: row(name=3), 'must be text'),
    'no value': (lambda: row(value=None), 'must be text'),
    'empty down': (lambda: row(down=''), 'is empty'),
    'gate as a number': (lambda: row(gate=1), 'must be text'),
    'signed in words': (lambda: row(signed='yes'), 'True, False or None'),
    'whole in words': (lambda: row(whole='layer'), 'True, False or None'),
    'third of two halves': (lambda: halves(value='up[2/2]'), 'as in child[0/2]'),
    'half in words': (lambda: halves(value='up[first]'), 'as in child[0/2]'),
    'half that is not closed': (lambda: halves(gate='up[0/2'), 'as in child[0/2]'),
    'no parts at all': (lambda: halves(gate='up[0/0]'), 'as in child[0/2]'),
    'half of down': (lambda: row(down='down[0/2]'), 'must be a whole child'),
    'pattern as text': (lambda: find_sites(plain(), 'ffn'), 'must be an FFNPattern'),
    'pattern as a list of text': (lambda: find_sites(plain(), [row(), 'ffn']), 'must be an FFNPattern'),
    'pattern as a dict': (lambda: attach(plain(), FFConfig(), pattern=dict(block='ffn')), 'must be an FFNPattern'),
    'geography with a pattern as text': (lambda: weight_geography(plain(), pattern='ffn'), 'must be an FFNPattern'),
    'text to be remembered': (lambda: remember_pattern(plain(), 'ffn'), 'must be an FFNPattern'),
    # what is no model, and models without sites
    'sites of a name': (lambda: find_sites('gpt2'), 'give a model'),
    'sites of a configuration': (lambda: find_sites(AutoConfig.for_model('bert')), 'give a model'),
    'unknown blocks': (
        lambda: find_sites(plain()),
        "paste pattern=FFNPattern('Module', 'ffn', down='down', value='up')",
    ),
    'wrong children': (lambda: find_sites(plain(), row(down='w2')), "down='down', value='up')"),
    'wrong block': (lambda: find_sites(plain(), row(block='mlp')), "that fit FFNPattern('own', 'mlp'"),
    'geography of unknown blocks': (lambda: weight_geography(plain()), 'paste pattern=FFNPattern('),
    'method on unknown blocks': (lambda: attach(plain(), FFConfig()), 'paste pattern=FFNPattern('),
    'state-space mixers': (lambda: find_sites(mamba()), 'has no feed-forward layer'),
    'method on state-space mixers': (lambda: attach(mamba(), FFConfig()), 'has no feed-forward layer'),
    'embedding alone': (lambda: find_sites(nn.Embedding(4, 8)), 'no two linear layers look like one'),
    # children that do not fit
    'value and down swapped': (
        lambda: find_sites(random_tiny(), FFNPattern('own', 'DenseReluDense', down='wi_1', value='wo')),
        'value and down have changed places',
    ),
    'down that is a norm': (
        lambda: find_sites(net(up=nn.Linear(8, 16), down=nn.LayerNorm(16)), row()),
        'of 1 dimensions',
    ),
    'down without a weight': (
        lambda: find_sites(net(up=nn.Linear(8, 16), down=nn.Dropout()), row()),
        'without a weight of its own',
    ),
    'odd number of halves': (lambda: find_sites(plain(33), halves()), 'cannot be parted in 2'),
    'thirds for halves': (lambda: find_sites(plain(48), row(value='up[1/3]', gate='up[0/2]')), 'gate gives 24 units'),
    'one half twice': (lambda: find_sites(plain(32), halves(gate='up[1/2]')), 'plays two roles'),
    'layer that has not run': (
        lambda: find_sites(net(up=nn.LazyLinear(16), down=nn.Linear(16, 8)), row()),
        'run the model once',
    ),
    # experts
    'noise inside experts': (lambda: attach(mixtral(), noisy()), 'Noise cannot reach the hidden inside the experts'),
    'hidden inside experts': (lambda: find_sites(mixtral())[0].down, 'cannot be reached'),
    'module of an expert': (lambda: find_sites(mixtral())[0].module('gate'), 'cannot be reached'),
    'role that experts lack': (lambda: find_sites(mixtral())[0].weight('up'), 'its roles are gate, value, down'),
    'experts of unequal number': (lambda: find_sites(stack(up=(2, 32, 8)), halves()), 'holds 2 experts and down 3'),
    'experts on the meta device': (lambda: find_sites(stack(device='meta'), halves()), 'load the weights first'),
    'experts in eight bits': (lambda: find_sites(stack(dtype=torch.int8), halves()), 'has no geography'),
    'experts with one plain matrix': (
        lambda: find_sites(net(up=nn.Linear(8, 16), down=nn.Parameter(torch.zeros(3, 8, 16))), row()),
        'beside',
    ),
    'share of experts': (lambda: ffn_ratio(mixtral(), []), 'cannot be reached'),
    'experts reordered': (
        lambda: reorder_(mixtral(), [dict(input_ids=torch.ones(2, 4).long(), labels=torch.ones(2, 4).long())] * 4),
        'cannot be reached',
    ),
    # quantised weights
    'weight of a class of its own': (
        lambda: attach(coded(), FFConfig(), pattern=row()),
        'is a Codes: a quantised or packed weight',
    ),
    'bytes of a class of its own': (
        lambda: attach(coded(torch.uint8), FFConfig(), pattern=row()),
        'is a Codes: a quantised or packed weight',
    ),
    'codes in buffers': (lambda: attach(packed(), FFConfig(), pattern=row()), 'quantised, packed'),
    # what cannot be read
    'images for text': (lambda: evaluate(vit(), 'python_prose', object()), 'takes pixel_values'),
    'sound for text': (
        lambda: evaluate(
            WhisperForConditionalGeneration(AutoConfig.for_model('whisper', **SOUND)), 'python_prose', object()
        ),
        'takes input_features',
    ),
    'activations of experts': (lambda: evaluate(mixtral(), 'python_prose', object()), 'weight_geography(model)'),
    'model without a head': (
        lambda: evaluate(bert(), 'python_prose', object()),
        'load the model with its language-model head',
    ),
    'evaluation with a pattern as text': (
        lambda: evaluate(random_tiny(), 'python_prose', object(), pattern='mlp'),
        'must be an FFNPattern',
    ),
    'evaluation with a pattern that fits nothing': (
        lambda: evaluate(random_tiny(), 'python_prose', object(), pattern=row()),
        "paste pattern=FFNPattern('MT5ForConditionalGeneration', 'DenseReluDense'",
    ),
    'masked model without a mask': (
        lambda: objective_batches(masked_model(), Unmasked(), [], 1, 0),
        'set tokenizer.mask_token',
    ),
    'decoder without a start': (
        lambda: decoder_inputs(unstarted(), torch.zeros(1, 3).long()),
        'set config.decoder_start_token_id',
    ),
    'folder of an image model': (
        lambda files: load_pretrained(saved(files, AutoConfig.for_model('vit', **IMAGES))),
        'predicts no tokens of text',
    ),
    'folder of a sound model': (
        lambda files: load_pretrained(saved(files, AutoConfig.for_model('whisper', **SOUND))),
        'predicts no tokens of text',
    ),
    'width without a name': (
        lambda: new_blocks(
            built(
                'opt',
                vocab_size=64,
                hidden_size=32,
                ffn_dim=64,
                num_hidden_layers=1,
                num_attention_heads=4,
                word_embed_proj_dim=32,
            ),
            96,
        ),
        'make a model of another width yourself',
    ),
    # what evaluate is given beside the model
    'no windows to score': (
        lambda: evaluate(random_tiny(), 'python_prose', object(), windows=0),
        'windows=0 must be a whole number above 0',
    ),
    'windows of no tokens': (lambda: evaluate(random_tiny(), 'python_prose', object(), length=0), 'length=0 must be'),
    'negative seed of an evaluation': (
        lambda: evaluate(random_tiny(), 'python_prose', object(), seed=-1),
        'seed=-1 must be a whole number from 0',
    ),
    'device that is not here': (
        lambda: evaluate(random_tiny(), 'python_prose', object(), device='cuda:99'),
        "device='cuda:99' cannot be used",
    ),
    'device that is none': (
        lambda: evaluate(random_tiny(), 'python_prose', object(), device='gpu'),
        "device='gpu' cannot be used",
    ),
    'no model at all': (lambda: load_pretrained(None), 'None is no name of a model'),
    'model with code of its own': (
        lambda files: load_pretrained(
            files('m/config.json', '{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}').parent
        ),
        'comes with code of its own',
    ),
}
