"""Wrong texts, tokens, alternatives and objectives."""

import gzip
import io
import json
import lzma
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from ff_nbdev.data.alternatives import Alternatives
from ff_nbdev.data.corpus import find_text, language_shares, load_corpus, mixed_sentences, read_sentences
from ff_nbdev.data.objectives import (
    MaskedTokens,
    Mixture,
    NextToken,
    SpanCorruption,
    TextInfilling,
    Windows,
    language_task,
    objective_for,
)
from ff_nbdev.data.tokens import encode_corpus, open_tokens
from ff_nbdev.data.tokenizers import load_tokenizer, train_tokenizer
from ff_nbdev.training.closeness import read_categories
from ff_nbdev.evaluation.concepts import read_pairs
from ff_nbdev.models.tiny import load_pretrained, random_tiny

TOK = load_pretrained('tiny-mt5')[1]
LINE = 'A line of text stands here.\n'


def parquet(**columns):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def words(n=40):
    r, lines = random.Random(0), []
    for _ in range(n * 10):
        line = [''.join(r.choices('abcdefghij', k=4)) for _ in range(7)]
        lines.append(' '.join(line) + '.')
    return '\n'.join(lines)


def corpus(d, **change):
    "A folder that says it is a corpus"
    for s in ('train', 'valid', 'test'):
        d(f'c/{s}.txt', LINE)
    told = dict(
        source='x',
        sentences=dict(train=1, valid=1, test=1),
        bytes=dict(train=len(LINE), valid=len(LINE), test=len(LINE)),
        sha256='0',
    )
    return d('c/corpus.json', json.dumps(told | change)).parent


def damaged_tokens(d, name, end=-4):
    folder = encode_corpus(load_corpus(d('a.txt', words())), TOK)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:end])
    return folder


def masked():
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )


def bare_bert():
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )


def picture_model():
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
        )
    )


def masking():
    import copy

    tok = copy.deepcopy(TOK)
    tok.mask_token = '<extra_id_0>'
    return tok


CASES = {
    # names
    'no name': (lambda: load_corpus(''), 'name of the text is empty'),
    'spaces for a name': (lambda: find_text('  '), 'name of the text is empty'),
    'a text for a name': (lambda: load_corpus('One line.\nAnother line.'), 'looks like a text'),
    'a number for a name': (lambda: find_text(5), 'int is no name of a text'),
    'bytes for a name': (lambda: find_text(b'a.txt'), 'bytes is no name of a text'),
    'a data set for a path': (lambda: find_text(Dataset.from_dict(dict(text=['A.']))), 'Dataset is no name of a text'),
    'name with a missing bracket': (lambda d: find_text(d('a[1].txt', LINE).with_name('a[2].txt')), 'No text at'),
    'folder without text': (
        lambda d: find_text(d('sub/a.csv', 'x').parent),
        'the folder is there, and holds no file whose',
    ),
    'folder of hidden text': (
        lambda d: load_corpus(d('sub/.git/a.txt', LINE).parents[1]),
        'holds no file whose ending',
    ),
    'table of commas': (lambda d: load_corpus(d('a.csv', 'text\nA line.')), 'the endings that are read'),
    'json in one piece': (lambda d: load_corpus(d('a.json', '[]')), 'the endings that are read'),
    'packed archive': (lambda d: load_corpus(d('a.tar.gz', gzip.compress(b'x'))), 'the endings that are read'),
    'packed parquet': (lambda d: load_corpus(d('a.parquet.gz', gzip.compress(b'x'))), 'the endings that are read'),
    # what is in a file
    'cp1252': (
        lambda d: load_corpus(d('a.txt', (LINE + 'The “old” café.\n').encode('cp1252'))),
        'line 2 (byte 33) is not UTF-8; it looks like cp1252',
    ),
    'latin-1 in packed rows': (
        lambda d: load_corpus(d('a.jsonl.gz', gzip.compress('{"text": "né à côté"}'.encode('latin-1')))),
        'line 1 (byte 12) is not UTF-8; it looks like latin1',
    ),
    'utf-16 without a mark': (
        lambda d: load_corpus(d('a.txt', LINE.encode('utf-16-le'))),
        'utf-16-le without a byte order mark',
    ),
    'gzip under .txt': (lambda d: load_corpus(d('a.txt', gzip.compress(LINE.encode()))), 'rename it to a.txt.gz'),
    'zip under .txt': (lambda d: load_corpus(d('a.txt', b'PK\x03\x04....')), 'a zip archive'),
    'pdf under .txt': (lambda d: load_corpus(d('a.txt', b'%PDF-1.5')), 'is a PDF, no plain text'),
    'parquet under .jsonl': (lambda d: load_corpus(d('a.jsonl', parquet(text=['A.']))), 'rename it to a.parquet'),
    'rows under .txt': (
        lambda d: load_corpus(d('a.txt', '{"text": "A line."}\n{"text": "Another."}\n')),
        'holds JSON lines',
    ),
    'a web page under .txt': (lambda d: load_corpus(d('a.txt', '<!DOCTYPE html><html>')), 'holds HTML or XML'),
    'text under .gz': (lambda d: load_corpus(d('a.txt.gz', LINE)), 'no .gz file at all'),
    'xz under .gz': (lambda d: load_corpus(d('a.txt.gz', lzma.compress(LINE.encode()))), 'it holds xz data'),
    'packed twice': (
        lambda d: load_corpus(d('a.txt.gz', gzip.compress(gzip.compress(LINE.encode())))),
        'gzip data inside its compression',
    ),
    'cut gzip': (lambda d: load_corpus(d('a.txt.gz', gzip.compress(words().encode())[:-20])), 'cut short or damaged'),
    'cut xz': (lambda d: load_corpus(d('a.txt.xz', lzma.compress(words().encode())[:-20])), 'cut short or damaged'),
    'cut parquet': (
        lambda d: load_corpus(d('a.parquet', parquet(text=['A line.'])[:-9])),
        'no Parquet file, or is cut short',
    ),
    # rows
    'null in rows': (
        lambda d: load_corpus(d('a.jsonl', '{"text": null, "id": 1}')),
        "line 1: not a row with a 'text' field of text (it holds null). Its fields are text, id",
    ),
    'list in rows': (lambda d: load_corpus(d('a.jsonl', '{"text": ["A"]}')), 'it holds a list'),
    'rows that are lists': (lambda d: load_corpus(d('a.jsonl', '["A"]')), 'it is a list'),
    'deep rows': (lambda d: load_corpus(d('a.jsonl', '[' * 100_000)), 'it is no JSON object'),
    'numbers in a table': (
        lambda d: load_corpus(d('a.parquet', parquet(text=[1, 2], id=[1, 2]))),
        'the column holds int64',
    ),
    'bytes in a table': (lambda d: load_corpus(d('a.parquet', parquet(text=[b'a']))), 'the column holds binary'),
    'lists in a table': (lambda d: load_corpus(d('a.parquet', parquet(text=[['a']]))), 'the column holds list'),
    'null in a table': (lambda d: load_corpus(d('a.parquet', parquet(text=['A line.', None]))), 'row 2: not a row'),
    'no such column in a table': (
        lambda d: load_corpus(d('a.parquet', parquet(text=['A.'])), column='body'),
        'Its fields are text',
    ),
    'column of no name': (
        lambda d: load_corpus(d('a.parquet', parquet(text=['A.'])), column=3),
        'column=3 must be the name of a field',
    ),
    # texts that are no files
    'dictionary of texts': (lambda: load_corpus(dict(en='a.txt')), 'dictionary is no text'),
    'set of texts': (lambda: load_corpus({'A text.'}), 'set is no text'),
    'list with a number': (lambda: load_corpus(['A text.', 5]), 'Text 2 of those given is int'),
    'empty list': (lambda: load_corpus([]), 'list of texts is empty'),
    'list of files': (lambda d: load_corpus([str(d('a.txt', LINE))]), 'begins with the name of a file'),
    'data set of numbers': (lambda: load_corpus(Dataset.from_dict(dict(text=[1]))), 'the column holds int64'),
    'data set without the column': (lambda: load_corpus(Dataset.from_dict(dict(body=['A.']))), 'Its fields are body'),
    'splits without train': (
        lambda: load_corpus(
            DatasetDict(a=Dataset.from_dict(dict(text=['A.'])), b=Dataset.from_dict(dict(text=['A.'])))
        ),
        'has no split train, only a, b',
    ),
    'no splits': (lambda: load_corpus(DatasetDict()), 'has no splits'),
    'no sentences wanted': (
        lambda: load_corpus(['A text.'], max_sentences=0),
        'max_sentences=0 must be a whole number above 0',
    ),
    'half a sentence wanted': (lambda: load_corpus(['A text.'], max_sentences=1.5), 'max_sentences=1.5'),
    'part of a corpus': (lambda d: load_corpus(corpus(d), max_sentences=5), 'has no effect'),
    'too few texts': (lambda: load_corpus(['One text.', 'Another text.']), 'too few to be split'),
    # corpora
    'corpus of nothing': (lambda d: load_corpus(d('c/corpus.json', '{}').parent), 'lacks sentences, bytes, sha256'),
    'corpus of a list': (lambda d: load_corpus(d('c/corpus.json', '[]').parent), 'holds no dictionary'),
    'corpus cut short': (
        lambda d: encode_corpus(d('c/corpus.json', '{"sen').parent, TOK),
        'corpus.json is damaged: it is no JSON',
    ),
    'corpus of other bytes': (lambda d: load_corpus(corpus(d, bytes=dict(train=5, valid=5, test=5))), 'of 5 bytes'),
    'corpus of another digest': (lambda d: load_corpus(corpus(d)), 'does not match the digest'),
    'corpus without a split': (
        lambda d: load_corpus(corpus(d, sentences=dict(train=1))),
        'says nothing of valid, test',
    ),
    'corpus without its text': (
        lambda d: load_corpus(
            d(
                'c/corpus.json',
                json.dumps(
                    dict(sentences=dict(train=1, valid=1, test=1), bytes=dict(train=1, valid=1, test=1), sha256='0')
                ),
            ).parent
        ),
        'train.txt is missing',
    ),
    'split by number': (lambda d: read_sentences(corpus(d), 1), 'Unknown split 1'),
    'languages in a list': (lambda: train_tokenizer(['A text.', 7]), 'Text 2 of those given is int'),
    'language without a name': (lambda: list(mixed_sentences(dict(en=''))), 'name of the text is empty'),
    'negative power': (lambda: language_shares(dict(a=1), -1), 'between 0 (equal parts) and 1'),
    # tokens
    'cut ids': (lambda d: Windows(damaged_tokens(d, 'train.ids.npy'), 'train', 8), 'train.ids.npy has'),
    'cut starts': (lambda d: open_tokens(damaged_tokens(d, 'valid.starts.npy'), 'valid'), 'valid.starts.npy has'),
    'cut tokens.json': (lambda d: Windows(damaged_tokens(d, 'tokens.json'), 'train', 8), 'tokens.json is damaged'),
    'split that is none': (lambda d: Windows(d('t/train.ids.npy', '').parent, 'dev', 8), 'Unknown split'),
    'window of nothing': (
        lambda d: Windows(d('t/train.ids.npy', '').parent, 'train', 0),
        'length=0 must be a whole number above 0',
    ),
    'no windows wanted': (
        lambda d: Windows(d('t/train.ids.npy', '').parent, 'train', 8, 0),
        'limit=0 must be a whole number above 0',
    ),
    'tokens of nothing': (lambda d: open_tokens(d('t/a', '').parent, 'train'), 'run encode_corpus'),
    'windows of two lengths': (
        lambda d: Mixture(
            dict(
                a=Windows(f := encode_corpus(load_corpus(d('a.txt', words())), TOK), 'train', 8),
                b=Windows(f, 'train', 16),
            )
        ),
        'must have one length',
    ),
    # tokenizers
    'no tokenizer name': (lambda: load_tokenizer(''), 'name of the tokenizer is empty'),
    'no such tokenizer': (lambda: load_tokenizer('tiny-mt6'), "No tokenizer 'tiny-mt6'"),
    'folder without a tokenizer': (lambda d: load_tokenizer(d('t/a', '').parent), 'holds no tokenizer'),
    'damaged tokenizer': (
        lambda d: load_tokenizer(d('tokenizer.json', '{"version"')),
        'is no tokenizer.json, or is damaged',
    ),
    'a text for a tokenizer': (lambda d: load_tokenizer(d('a.txt', LINE)), 'is no tokenizer.json, or is damaged'),
    # objectives
    'masks without a mask token': (lambda: MaskedTokens(TOK), 'no mask token'),
    'infilling without a mask token': (lambda: TextInfilling(TOK), 'no mask token'),
    'masked model, other tokenizer': (lambda: objective_for(masked(), TOK), 'no mask token'),
    'model without a head': (lambda: objective_for(bare_bert(), TOK), 'BertModel has no language-model head'),
    'setting of no objective': (
        lambda: objective_for(random_tiny('rwkv'), TOK, densty=0.2),
        "'densty' is no setting of an objective",
    ),
    'model of pictures': (lambda: language_task(picture_model()), 'takes pixel_values and no text'),
    'all masked': (lambda: MaskedTokens(masking(), density=1.0), 'density=1.0 must lie between 0 and 1'),
    'short spans': (lambda: TextInfilling(masking(), mean_span=0.5), 'mean_span=0.5 must be at least 1 token'),
    'spans under a token': (
        lambda: objective_for(random_tiny('mt5'), TOK, mean_span=0),
        'mean_span=0 must be at least 1 token',
    ),
    'window beyond the positions': (
        lambda: MaskedTokens(masking(), longest=16)([dict(ids=np.arange(300, 320), index=0, sentences=1, offset=0)]),
        'longer than the 16 positions',
    ),
    'more spans than sentinels': (
        lambda: SpanCorruption(TOK, 0.5, 1.0)([dict(ids=np.arange(300, 600), index=0, sentences=1, offset=0)]),
        'only 100 sentinels',
    ),
    # alternatives and lists
    'alternatives of nothing': (lambda d: Alternatives(d('a/alternatives.json', '{}').parent), 'it lacks corpus'),
    'alternatives in a list': (lambda d: Alternatives(d('a/alternatives.json', '[1]').parent), 'holds no dictionary'),
    'alternatives of words': (
        lambda d: Alternatives(d('a/alternatives.json', '{"version": "1"}').parent),
        'is damaged: it lacks',
    ),
    'alternatives cut in a character': (
        lambda d: Alternatives(d('a/alternatives.json', b'{"teacher": "\xc3').parent),
        'is damaged',
    ),
    'no such categories': (lambda: read_categories('nowhere.tsv'), 'There is no file'),
    'categories of nothing': (lambda d: read_categories(d('a.tsv', 'cat\tn\tbig\n')), 'no category of a noun or verb'),
    'categories in latin-1': (
        lambda d: read_categories(d('a.tsv', 'café\tn\tnoun.food\n'.encode('latin-1'))),
        'it looks like latin1',
    ),
    'no such pairs': (lambda: read_pairs('nowhere.tsv'), 'There is no file'),
    'pairs in cp1252': (lambda d: read_pairs(d('a.tsv', 'water\teau\nof “art”\td’art\n'.encode('cp1252'))), 'line 2'),
    'pairs in a zip': (lambda d: read_pairs(d('a.tsv', b'PK\x03\x04')), 'a zip archive'),
    'next token of two lengths': (
        lambda: NextToken()(
            [
                dict(ids=np.arange(4), index=0, sentences=1, offset=0),
                dict(ids=np.arange(5), index=1, sentences=1, offset=4),
            ]
        ),
        'must have one length',
    ),
}
