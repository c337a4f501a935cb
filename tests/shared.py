"""What several test files need: made-up text, words of a run, numbers of dead processes, writers that are killed."""

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, TrainingArguments

from ff_nbdev.data.corpus import load_corpus
from ff_nbdev.data.tokenizers import train_tokenizer
from ff_nbdev.data.tokens import encode_corpus

WORDS = 'the old sailor sees a green house near his river and forgets small red books about winter storms'.split()
LETTERS = 'abcdefghiklmnoprstu'
SCALE = dict(  # the least that a file of settings says
    scale='quick',
    models=dict(mt5='tiny-mt5', rwkv='tiny-rwkv'),
    corpus='python_prose',
    seeds=[0],
    given=['base'],
    trained=['full_stack'],
    minutes={},
    threads=1,
)


def lines(n, seed=0):
    "Sentences of nine known words, each with an end of its own"
    r, out = np.random.default_rng(seed), []
    for i in range(n):
        sentence = ' '.join(r.choice(WORDS, 9)).capitalize()
        out.append(f'{sentence} {chr(97 + i % 26)}{chr(97 + i // 26 % 26)}.')
    return out


def invented_corpus(folder, n_words, n_lines, scale):
    "A corpus of invented words, of which the first ones are frequent (an exponential of this scale)"
    r, out = np.random.default_rng(0), []
    words = [''.join(r.choice(list(LETTERS), r.integers(3, 8))) for _ in range(n_words)]
    for _ in range(n_lines):
        drawn = [words[min(n_words - 1, int(r.exponential(scale)))] for _ in range(r.integers(6, 14))]
        out.append(' '.join(drawn).capitalize() + '.')
    (folder / 'words.txt').write_text('\n'.join(out))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('FF_NBDEV_CACHE', str(folder / 'cache'))
        return load_corpus(folder / 'words.txt')


@pytest.fixture(scope='session')
def text(tmp_path_factory):
    "A small made-up corpus of 120 invented words, with its tokenizer and tokens"
    corpus = invented_corpus(tmp_path_factory.mktemp('text'), 120, 6000, scale=25)
    tokenizer = train_tokenizer(corpus, 640)
    return corpus, tokenizer, encode_corpus(corpus, tokenizer)


def byte_level(text, vocab_size=600):
    "A byte-level tokenizer of a text, as GPT-2's"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    known = dict(special_tokens=['<|endoftext|>'], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, **known)
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token='<|endoftext|>', pad_token='<|endoftext|>'
    )


def fake_words(fake, *words, notebooks=None):
    "The words after `ff-nbdev` for a run of the fake graph"
    given = dict(corpus=fake / 'text.txt', model=fake / 'tokenizer', notebooks=notebooks or fake / 'experiments')
    asked = [part for name, path in given.items() for part in (f'--{name}', str(path))]
    return ['run', 'quick', *asked, *words]


def quiet_arguments(out, **given):
    "Arguments of a short training on the CPU that prints, reports and saves nothing by itself"
    quiet = dict(report_to=[], disable_tqdm=True, use_cpu=True, save_strategy='no', logging_strategy='no')
    return TrainingArguments(str(out), **{**quiet, **given})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "A cache of the test's own, in the folder that is returned"
    monkeypatch.setenv('FF_NBDEV_CACHE', str(tmp_path / 'cache'))
    return tmp_path


def run_words(scale, corpus):
    "What the command line makes of `run SCALE --corpus CORPUS`"
    unset = dict.fromkeys(('recipes', 'first', 'seed', 'seeds', 'model', 'notebooks'))
    return Namespace(scale=scale, corpus=str(corpus), all=False, set=[], **unset)


def without(rows, *names):
    "The rows of a log without what differs from run to run"
    out = []
    for row in rows:
        out.append({k: v for k, v in row.items() if k not in names})
    return out


def dead():
    "The number of a process that is gone"
    p = subprocess.Popen([sys.executable, '-c', ''])
    p.wait()
    return p.pid


def killed_when(ready, code, seconds=300, every=0.02, **kw):
    "Start Python code, and kill it as soon as `ready(its number)`, or after so many seconds: its number"
    p = subprocess.Popen([sys.executable, '-c', code], **kw)
    try:
        start = time.time()
        while not ready(p.pid) and time.time() - start < seconds:
            time.sleep(every)
        p.send_signal(signal.SIGKILL)
        p.wait()
    finally:
        p.kill()
    return p.pid


def fork_killed_when(ready, work, seconds=300, every=0.01):
    "Do some work in a fork of this process, and kill it as soon as `ready()`, or after so many seconds"
    if not (pid := os.fork()):
        try:
            work()
        finally:
            os._exit(1)  # nothing of this process's own is closed or printed
    start = time.time()
    while not ready() and time.time() - start < seconds and not os.waitpid(pid, os.WNOHANG)[0]:
        time.sleep(every)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def check_size_of_figures(page):
    "The figures of a page in a browser are as large as they were drawn, or nearly so"
    scale = 's => s.getBoundingClientRect().width/s.viewBox.baseVal.width'
    sizes = page.evaluate(f"[...document.querySelectorAll('.plot svg')].map({scale})")
    assert len(sizes) >= 4 and min(s for s in sizes if s) >= 1.15, sizes  # px of a point, 1.33 at full size
