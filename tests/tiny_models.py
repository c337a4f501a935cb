"""Tiny random models of architectures that the tests train, and the sizes that several files share."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ff_nbdev.models.tiny import random_tiny

GPT2 = dict(vocab_size=512, n_embd=32, n_layer=2, n_head=4, n_inner=128, n_positions=64)
LLAMA = dict(
    vocab_size=512,
    hidden_size=32,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
ENCODER_DECODER = dict(  # BART and its kin
    d_model=32,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    max_position_embeddings=64,
)
NO_DROPOUT = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # of GPT-2


def gpt2(seed=0, **shape):
    "A GPT-2, in training mode as it comes from the library"
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(**{**GPT2, **shape}))


def llama(seed=0, **shape):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, **shape}))


def tiny(arch, seed=0, **shape):
    "A random model of one of four architectures, in evaluation mode"
    if arch in ('mt5', 'rwkv'):
        return random_tiny(arch, seed, **shape)
    return dict(gpt2=gpt2, llama=llama)[arch](seed, **shape).eval()


SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


def bert_tokenizer(pieces, normalizer=None, post_processor=None, **kw):
    "A tokenizer of BERT's kind over these pieces, after the special ones"
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*SPECIAL, *pieces]))}
    made = Tokenizer(models.WordPiece(vocab, unk_token='[UNK]'))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if normalizer is not None:
        made.normalizer = normalizer
    if post_processor is not None:
        made.post_processor = post_processor
    named = {f'{token[1:-1].lower()}_token': token for token in SPECIAL}
    return PreTrainedTokenizerFast(**dict(named, tokenizer_object=made) | kw)
