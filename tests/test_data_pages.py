"""What the pages of the data room held in hidden cells."""

import numpy as np
import pytest

from ff_nbdev.data.corpus import load_corpus
from ff_nbdev.data.objectives import SpanCorruption, Windows
from ff_nbdev.data.tokenizers import sentinel_ids
from ff_nbdev.data.tokens import encode_corpus
from ff_nbdev.models.tiny import load_pretrained

TOK = load_pretrained('tiny-mt5')[1]


@pytest.fixture(scope='module')
def windows():
    return Windows(encode_corpus(load_corpus(), TOK), 'valid')


def filled(input_ids, labels, sentinels):
    "The window, from an input with sentinels and a target that gives what they hide"
    hidden, key = {}, None
    for label in labels[:-1]:
        if label in sentinels:
            key = label
            hidden[key] = []
        else:
            hidden[key].append(label)
    whole = []
    for i in input_ids[:-1]:
        if i != 0:
            whole += hidden[i] if i in sentinels else [i]
    return whole


def test_input_and_target_give_the_window_back(windows):
    batch = SpanCorruption(TOK)([windows[0]])
    input_ids, labels = (batch[name][0].tolist() for name in ('input_ids', 'labels'))
    assert filled(input_ids, labels, set(sentinel_ids(TOK))) == windows[0]['ids'].tolist()
