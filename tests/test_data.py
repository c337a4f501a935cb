"""Text of every kind to batches: odd text, batches that go on exactly, alternatives that survive a kill."""

import ast
import os
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import WORDS, byte_level, cache, fork_killed_when, lines, quiet_arguments

from ff_nbdev.data.alternatives import (
    Alternatives,
    level_shares,
    pack_rows,
    quantile_knots,
    row_bytes,
    score_levels,
    unpack_rows,
    write_alternatives,
)
from ff_nbdev.data.corpus import language_shares, load_corpus, read_sentences, text_documents
from ff_nbdev.data import prose
from ff_nbdev.data.prose import split_sentences
from ff_nbdev.data.objectives import Batches, Mixture, NextToken, SpanCorruption, Windows, span_mask, target_places
from ff_nbdev.data.tokens import encode_corpus
from ff_nbdev.data.tokenizers import sentinel_ids, special_ids, train_tokenizer
from ff_nbdev.models.tiny import load_pretrained
from ff_nbdev.training.teacher import Teacher, new_teacher
from tiny_models import bert_tokenizer

quick = settings(max_examples=40, deadline=None)
TOK = load_pretrained('tiny-mt5')[1]


def corpus_of(tmp_path, data, name='text.txt'):
    p = tmp_path / name
    p.write_bytes(data if isinstance(data, bytes) else data.encode())
    return load_corpus(p)


def neighbours(sentences, n=10, vocab=len(TOK)):
    "A teacher that ranks the ids above the target"
    x = np.concatenate(sentences)
    return (x[:, None] + np.arange(1, n + 1)) % vocab, -np.arange(n) * np.ones((len(x), 1)) - x[:, None] * 1e-4


# Odd text

ODD = {
    'empty lines': ('\n\n  \n', []),
    'windows': ('One thing is here.\r\nAnother is there.\r\n', ['One thing is here.', 'Another is there.']),
    'NUL and controls': ('A word\x00 with\x07 holes.\x1b', ['A word with holes.']),
    'byte order mark': ('\ufeffFirst of all.', ['First of all.']),
    'Cyrillic': ('Дом стоит. Река течёт!', ['Дом стоит.', 'Река течёт!']),
    'Hangul': ('집이 있다. 강이 흐른다.', ['집이 있다.', '강이 흐른다.']),
    'Chinese': ('房子很大。河水很长！', ['房子很大。', '河水很长！']),
    'Arabic': ('البيت كبير. هل النهر طويل؟ نعم.', ['البيت كبير.', 'هل النهر طويل؟', 'نعم.']),
    'Hebrew': ('הבית גדול. הנהר ארוך.', ['הבית גדול.', 'הנהר ארוך.']),
    'emoji': ('So good 👩‍🚀🎉! Again 🙂.', ['So good 👩‍🚀🎉!', 'Again 🙂.']),
    'Hindi': ('घर बड़ा है। नदी लंबी है।', ['घर बड़ा है।', 'नदी लंबी है।']),
}


@pytest.mark.parametrize('kind', ODD)
def test_odd_text_becomes_sentences(kind, tmp_path):
    text, want = ODD[kind]
    (tmp_path / 't.txt').write_bytes(text.encode() + b' ')
    assert [s for d in text_documents(tmp_path / 't.txt') for s in d] == want
    for s in want:
        assert TOK.decode(TOK(s)['input_ids'], skip_special_tokens=True) == unicodedata.normalize('NFKC', s)


def test_invalid_utf8_is_refused_where_it_stands(tmp_path):
    (tmp_path / 't.txt').write_bytes(b'A fine line.\nAnd \xc3(another) one.\n\x80\x81\n')
    with pytest.raises(ValueError, match='line 2 .byte 18. is not UTF-8'):
        list(text_documents(tmp_path / 't.txt'))


def test_a_line_of_a_megabyte(cache):
    long = ' '.join(WORDS * 12_000)  # no full stop: one sentence
    corpus = corpus_of(cache, '\n'.join(lines(500)) + '\n' + long + '\n' + ' '.join(lines(4_000, 1)))
    tokens = encode_corpus(corpus, TOK)
    ids, starts = (np.load(tokens / f'train.{k}.npy', mmap_mode='r') for k in ('ids', 'starts'))
    assert (
        np.diff(starts).max() > 150_000
        or len(ids) - starts[-1] > 150_000
        or long not in (corpus / 'train.txt').read_text()
    )
    w = Windows(tokens, 'train', 128)
    assert (w.sentences >= 0).all() and abs(int(w.sentences.sum()) - len(starts)) <= 128
    batch = SpanCorruption(TOK)([w[i] for i in range(8)])
    assert batch['input_ids'].shape[0] == 8
    teacher = Teacher(new_teacher(TOK, hidden=32, layers=1, heads=2), TOK)
    assert teacher.rank([np.full(3_000, 300)])[0].shape == (3_000, 10)


def test_a_split_sentence_is_never_lost():
    text = ' '.join(lines(40)) + ' «Ça va?» Oui. ' + ''.join(ODD[k][0] for k in ('Chinese', 'Arabic', 'Hindi'))
    assert ''.join(''.join(split_sentences(text)).split()) == ''.join(text.split())


# Batches


def test_masking_is_flat_over_the_window():
    r = np.random.default_rng(0)
    for length in (64, 128):
        often = np.mean([span_mask(length, rng=r) for _ in range(10_000)], 0)
        assert abs(often / often.mean() - 1).max() < 0.1 and abs(often.mean() - 0.15) < 0.01


@quick
@given(st.integers(8, 200), st.floats(0.05, 0.6), st.integers(0, 10**6))
def test_every_label_knows_its_place(length, density, seed):
    ids = np.arange(1000, 1000 + length)
    item = dict(ids=ids, sentences=1, index=seed, offset=40)

    class Echo:
        def __call__(self, places, targets):
            self.seen = places, targets
            return np.zeros((*places.shape, 10), np.int32), np.zeros((*places.shape, 10), np.float32)

    for make in (SpanCorruption(TOK, density, alternatives=Echo()), NextToken(alternatives=Echo())):
        if isinstance(make, SpanCorruption) and round(length * density / 3) > 90:
            continue
        y = make([item])['labels'][0].numpy()
        places, targets = make.alternatives.seen
        real = (y >= 1000) & (y < 1000 + length)
        assert (
            (places[0][real] - 40 == y[real] - 1000).all()
            and (places[0][~real] == -1).all()
            and (targets[0][real] == y[real]).all()
        )


@pytest.fixture(scope='module')
def tokens(tmp_path_factory):
    d = tmp_path_factory.mktemp('tokens')
    old = os.environ.get('FF_NBDEV_CACHE')
    os.environ['FF_NBDEV_CACHE'] = str(d)
    try:
        return encode_corpus(corpus_of(d, '\n'.join(lines(3_000))), TOK)
    finally:
        os.environ.pop('FF_NBDEV_CACHE') if old is None else os.environ.__setitem__('FF_NBDEV_CACHE', old)


def test_any_batch_can_be_made_again(tokens):
    w = Windows(tokens, 'train', 32, 96)
    for objective in (lambda: SpanCorruption(TOK, seed=3), lambda: NextToken()):
        run = [Batches(w, objective(), 8, seed=5)[k] for k in range(3 * len(Batches(w, objective(), 8)))]
        for k in (0, 7, len(run) // 2, len(run) - 1):
            again = Batches(w, objective(), 8, seed=5)[k]
            assert all(torch.equal(again[x], run[k][x]) for x in again)
        epoch = torch.cat([b['index'] for b in run[: len(run) // 3]])
        assert len(epoch.unique()) == len(epoch)
        assert not torch.equal(run[0]['index'], run[len(run) // 3]['index'])


@quick
@given(
    st.dictionaries(st.text('abcdef', min_size=1, max_size=3), st.integers(1, 10**9), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_shares_lie_between_equal_and_proportional(sizes, alpha):
    s = language_shares(sizes, alpha)
    assert abs(sum(s.values()) - 1) < 1e-9
    for a in sizes:
        for b in sizes:
            if sizes[a] <= sizes[b]:
                assert s[a] <= s[b] + 1e-12 and s[a] / s[b] >= sizes[a] / sizes[b] - 1e-9


def test_a_mixture_draws_by_share(tokens):
    w = Windows(tokens, 'train', 32)
    m = Mixture(dict(a=w, b=Windows(tokens, 'valid', 32)), 0.3, total=3_000)
    for k, name in enumerate(m.names):
        assert abs((m.kind == k).mean() - m.shares[name]) < 0.03
    count = np.bincount([m[i]['offset'] for i in range(3_000) if m[i]['source'] == 'b'][:])
    used = count[count > 0]
    assert used.max() - used.min() <= 1  # each window as often as any other
    both = {
        n: write_alternatives(neighbours, tokens, tokens.parent / f'alt-{n}', TOK, s)
        for n, s in (('a', 'train'), ('b', 'valid'))
    }
    stores = {n: Alternatives(f, tokens) for n, f in both.items()}
    b = SpanCorruption(TOK, alternatives=stores)([m[i] for i in range(16)])
    y, (ids, share) = b['labels'], b['alternatives']
    real = (share > 0).any(-1)
    assert real.any() and (ids[real][:, 0] == (y[real] + 1) % len(TOK)).all()


def test_languages_share_a_vocabulary(cache):
    for k, w in dict(
        en=WORDS, fr='le vieux marin voit une maison verte près du fleuve et oublie les petits livres rouges'.split()
    ).items():
        r = np.random.default_rng(1)
        (cache / f'{k}.txt').write_text(
            '\n'.join(' '.join(r.choice(w, 9)).capitalize() + f' {i}x.' for i in range(900 if k == 'en' else 400))
        )
    both, only = (
        train_tokenizer({k: cache / f'{k}.txt' for k in ('en', 'fr')}, 470),
        train_tokenizer(cache / 'en.txt', 470),
    )
    french = 'le vieux marin voit une maison verte'
    assert len(both(french)['input_ids']) < len(only(french)['input_ids']) and len(both) == 470


# Alternatives


@quick
@given(st.integers(1, 30), st.integers(1, 12), st.integers(11, 2**20), st.integers(0, 10**6), st.booleans())
def test_rows_come_back(rows, n, vocab, seed, packed):
    r = np.random.default_rng(seed)
    ids, levels = r.integers(vocab, size=(rows, n)), r.integers(256, size=(rows, n)).astype(np.uint8)
    raw = pack_rows(ids, levels, vocab, packed)
    a, b = unpack_rows(raw, n, vocab, packed)
    assert raw.shape == (rows, row_bytes(n, vocab, packed)) and (a == ids).all() and (b == levels).all()


@quick
@given(st.lists(st.floats(-50, 5), min_size=2, max_size=200), st.floats(-60, 10))
def test_shares_rise_with_the_score(sample, x):
    k = quantile_knots(sample)
    s = level_shares(score_levels(np.array([x - 1, x, x + 1]), k))
    assert (np.diff(s) >= 0).all() and s.min() >= 0.3 - 1e-6 and s.max() <= 0.6 + 1e-6


def test_killed_while_writing(tokens, tmp_path):
    out = tmp_path / 'killed'

    def slow(sentences):
        time.sleep(0.05)
        return neighbours(sentences)

    fork_killed_when(
        lambda: len(list(out.glob('*.bin'))) >= 4,
        lambda: write_alternatives(slow, tokens, out, TOK, shard=200, batch=100),
    )
    kept = {f.name: f.stat().st_mtime_ns for f in out.glob('0000[0-2].bin')}
    with pytest.raises(ValueError, match='is not complete'):
        Alternatives(out)
    write_alternatives(neighbours, tokens, out, TOK, shard=200, batch=100)
    assert {f: (out / f).stat().st_mtime_ns for f in kept} == kept and len(kept) == 3
    whole = Alternatives(write_alternatives(neighbours, tokens, tmp_path / 'whole', TOK, shard=200, batch=100))
    read = Alternatives(out, tokens)
    assert all((a == b).all() for a, b in zip(read(np.arange(len(read))), whole(np.arange(len(whole)))))


def test_other_settings_are_refused(tokens, tmp_path):
    write_alternatives(neighbours, tokens, tmp_path / 'a', TOK, 'valid', teacher='one')
    with pytest.raises(ValueError, match='other settings \\(teacher\\)'):
        write_alternatives(neighbours, tokens, tmp_path / 'a', TOK, 'valid', teacher='two')
    with pytest.raises(ValueError, match='another tokenizer'):
        write_alternatives(neighbours, tokens, tmp_path / 'b', train_tokenizer(tokens.parent, 459), 'valid')
    with pytest.raises(ValueError, match='for 3 tokens|alternatives for'):
        write_alternatives(lambda s: (np.zeros((3, 10)), np.zeros((3, 10))), tokens, tmp_path / 'c', TOK, 'valid')
    few = write_alternatives(neighbours, tokens, tmp_path / 'few', TOK, sentences=50)
    with pytest.raises(IndexError, match='covers the first'):
        Alternatives(few)([len(np.load(tokens / 'train.ids.npy')) - 1])


def test_a_floor_leaves_fewer(tokens, tmp_path):
    a = Alternatives(write_alternatives(neighbours, tokens, tmp_path / 'floor', TOK, 'valid', floor=-4.5), tokens)
    ids, share = a(np.arange(500))
    assert set((share > 0).sum(-1)) <= {0, 4, 5}


def test_special_ids_are_exempt(tokens, tmp_path):
    a = Alternatives(write_alternatives(neighbours, tokens, tmp_path / 's', TOK, 'valid'))
    x = np.load(tokens / 'valid.ids.npy')
    ids, share = a(np.arange(len(a)))
    special = special_ids(TOK)
    assert not share[np.isin(x, special)].any() and not np.isin(ids[share > 0], special).any()
    assert sentinel_ids(TOK)[0] in special and target_places(np.array([False, True, True, False])).tolist() == [
        -1,
        1,
        2,
        -1,
    ]


@pytest.mark.parametrize('arch', ['mt5', 'rwkv'])
def test_alternatives_reach_the_loss(arch, tokens, tmp_path):
    "Through the Trainer, in loading processes and with accumulation: the loss of a plain loop"
    from ff_nbdev.mechanisms.config import FFConfig
    from ff_nbdev.mechanisms.method import attach
    from ff_nbdev.models.tiny import model_inputs, random_tiny
    from ff_nbdev.training.watch import Watch
    from ff_nbdev.data.objectives import objective_for

    alts = Alternatives(write_alternatives(neighbours, tokens, tmp_path / 'a', TOK), tokens)
    config = FFConfig.from_dict(dict(total_sentences=1000, forgiveness=dict(kind='conceptual', form='soft')))

    def start():
        m = random_tiny(arch, vocab_size=len(TOK))
        return m, attach(m, config, TOK), objective_for(m, TOK, seed=2, alternatives=alts)

    w = Windows(tokens, 'train', 32, 64)
    model, ff, make = start()
    steps = dict(per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=3)
    args = quiet_arguments(tmp_path, **steps, learning_rate=1e-2, dataloader_num_workers=1)
    t = Watch(model=model, args=args, train_dataset=w, data_collator=make, ff=ff, every=1)
    t.train()
    got = [r['amount'] for r in t.rows]
    assert len(got) == 3 and all(0 < a < 0.6 for a in got)
    model, ff, make = start()
    y = (b := make([w[i] for i in range(4)]))['labels']
    with torch.no_grad():
        loss = ff.loss(model(**model_inputs(b)).logits, y, alternatives=b['alternatives'])
    assert ff.last['amount'] > 0 and loss < ff.last['ce']


# What a review found

HINDI = [
    f'{a} {b} {c}।'
    for a in ('वह', 'राम', 'सीता')
    for b in ('घर', 'नदी', 'पानी', 'रात', 'दिन')
    for c in ('आता है', 'आती है', 'जाता है', 'जाती है', 'देखता है', 'देखती है')
]


def test_marks_and_symbols_tell_sentences_apart(cache):
    from ff_nbdev.data.store import sentence_hash

    assert len({sentence_hash(s) for s in [*HINDI, '🙂🙂🙂', '🎉🎉', '!!!', '???']}) == len(HINDI) + 4
    assert sentence_hash('A cat, 3.') == sentence_hash('a cat 4!')
    corpus = corpus_of(cache, '\n'.join(HINDI * 3 + lines(600)))
    assert sum((corpus / f'{k}.txt').read_text().count('।') for k in ('train', 'valid', 'test')) == len(HINDI)


def test_byte_level_text_keeps_its_spaces(cache):
    from ff_nbdev.training.closeness import whole_words

    text = lines(900)
    tok = byte_level(text)
    corpus = corpus_of(cache, '\n'.join(' '.join(text[i : i + 3]) for i in range(0, 900, 3)))
    folder = encode_corpus(corpus, tok)
    ids = np.load(folder / 'train.ids.npy')
    want = []
    for s in read_sentences(corpus):
        want.append('<|endoftext|>' if s is None else s if not want or want[-1] == '<|endoftext|>' else ' ' + s)
    assert tok.decode(ids) == ''.join(want) and whole_words(ids, tok).mean() > 0.2


def test_a_tokenizer_without_an_end_is_refused(cache):
    tok = byte_level(lines(50))
    tok.eos_token = None
    with pytest.raises(ValueError, match='no end token'):
        encode_corpus(corpus_of(cache, '\n'.join(lines(900))), tok)


def test_tokenizers_that_cut_differently_have_different_digests():
    from tokenizers import normalizers
    from ff_nbdev.data.tokenizers import tokenizer_digest
    import copy

    other = copy.deepcopy(TOK)
    other.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    padded = copy.deepcopy(TOK)
    padded(['a b', 'c'], padding=True, truncation=True, max_length=5)
    assert tokenizer_digest(other) != tokenizer_digest(TOK) == tokenizer_digest(padded)


def test_alternatives_of_another_split_are_refused(tokens, tmp_path):
    a = Alternatives(write_alternatives(neighbours, tokens, tmp_path / 'a', TOK), tokens)
    with pytest.raises(ValueError, match='alternatives are for train of .* windows are from valid'):
        SpanCorruption(TOK, alternatives=a)([Windows(tokens, 'valid', 32)[0]])


def test_shards_know_their_place_and_header(tokens, tmp_path):
    def write(name, **kw):
        return write_alternatives(neighbours, tokens, tmp_path / name, TOK, shard=500, **kw)

    a, b = write('a', teacher='one'), write('b', teacher='two')
    for end in ('bin', 'json'):
        (a / f'00001.{end}').write_bytes((b / f'00001.{end}').read_bytes())
    with pytest.raises(ValueError, match='belongs to other alternatives'):
        Alternatives(a)
    write('a', teacher='one')
    assert len(Alternatives(a, tokens)) == len(np.load(tokens / 'train.ids.npy'))
    (a / '00000.bin').unlink()
    with pytest.raises(ValueError, match='is not complete'):
        Alternatives(a)
    write('a', teacher='one')
    Alternatives(a, tokens)
    (a / '00001.json').write_text('{}')
    with pytest.raises(ValueError, match='is damaged'):
        Alternatives(a)


def test_orders_differ_for_every_seed():
    for seed in (0, 20261121, 2**31 - 1, 2**32 - 1):
        b = Batches(range(1000), NextToken(), 10, seed=seed)
        orders = [tuple(b.order(e)) for e in range(4)]
        assert len(set(orders)) == 4
    with pytest.raises(ValueError, match='seed=-1'):
        Batches(range(1000), NextToken(), 10, seed=-1).order(0)


def test_a_mixture_reaches_every_window_in_time(tokens):
    w = Windows(tokens, 'train', 32)
    m = Mixture(dict(a=w, b=Windows(tokens, 'valid', 32)), 0.0)
    seen = set()
    for epoch in range(4):
        m.epoch = epoch
        seen |= {m[i]['offset'] for i in range(len(m)) if m[i]['source'] == 'a'}
    assert len(seen) == len(w)


def test_loading_processes_map_the_files_themselves(tokens, tmp_path):
    import pickle

    w, a = (
        Windows(tokens, 'train', 32),
        Alternatives(write_alternatives(neighbours, tokens, tmp_path / 'a', TOK), tokens),
    )
    for x in (w, a):
        p = pickle.dumps(x)
        assert len(p) < 30_000
        y = pickle.loads(p)
        assert len(y) == len(x)
    assert (pickle.loads(pickle.dumps(a))([5, 9])[0] == a([5, 9])[0]).all() and (
        pickle.loads(pickle.dumps(w))[3]['ids'] == w[3]['ids']
    ).all()


@pytest.mark.parametrize(
    'name, data, says',
    [
        ('a.jsonl', b'{"text": null}', 'line 1'),
        ('b.jsonl', b'{"text": 5}', 'line 1'),
        ('c.txt.xz', None, 'cut short'),
        ('d.txt.gz', b'no gzip', 'damaged'),
    ],
)
def test_bad_rows_are_named_and_leave_nothing(name, data, says, cache):
    import lzma

    (cache / name).write_bytes(data if data is not None else lzma.compress('\n'.join(lines(3000)).encode())[:-200])
    with pytest.raises(ValueError, match=says):
        load_corpus(cache / name)
    assert not list((cache / 'cache').rglob('*.part*'))


def test_half_a_surrogate_is_dropped(cache):
    corpus = corpus_of(cache, '\n'.join('{"text": "' + l + ' \\ud83d"}' for l in lines(900)), 'a.jsonl')
    assert '\ud83d' not in (corpus / 'train.txt').read_text()


def test_a_foreign_teacher_is_aligned_or_refused(tokens, tmp_path):
    from transformers import BertConfig, BertForMaskedLM
    from ff_nbdev.training.teacher import align, load_teacher

    def save(words, where):
        own = bert_tokenizer(words, model_max_length=64)
        BertForMaskedLM(
            BertConfig(
                vocab_size=len(own),
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=64,
            )
        ).save_pretrained(where)
        own.save_pretrained(where)
        return own

    far = save('abcdefghijklmnopqrstuvwxyz', tmp_path / 'far')
    assert (align(TOK, far) >= 0).any()
    with pytest.raises(ValueError, match='have a partner'):
        write_alternatives(load_teacher(tmp_path / 'far', TOK).rank, tokens, tmp_path / 'a', TOK)
    own = save([*'.,abcdef', *('##' + c for c in 'abcdef'), 'the', 'cat'], tmp_path / 'own')
    m = align(TOK, own)
    v = TOK.get_vocab()
    assert m[v['.']] == own.get_vocab()['.'] and m[v[',']] >= 0 and m[v['▁the']] == own.get_vocab()['the']
    assert load_teacher(tmp_path / 'own').rank([np.array([5, 6, 7, 9])])[0].shape == (4, 10)


def test_a_new_date_or_place_of_a_text_makes_nothing_again(cache):
    from ff_nbdev.run.settings import resolve_corpus

    text, moved = cache / 'a.txt', cache / 'elsewhere' / 'a.txt'
    text.write_text('\n'.join(lines(300)))
    folder, stamp = load_corpus(text), resolve_corpus(str(text))[1]
    os.utime(text, (0, 0))
    moved.parent.mkdir()
    moved.write_bytes(text.read_bytes())
    assert [load_corpus(path) for path in (text, moved)] == [folder] * 2
    assert {resolve_corpus(str(path))[1] for path in (text, moved)} == {stamp}
    text.write_text(text.read_text() + '\nOne more.')
    assert load_corpus(text) != folder and resolve_corpus(str(text))[1] != stamp


def test_a_large_text_is_read_once_for_its_digest(cache, monkeypatch):
    from ff_nbdev.data import store

    text = cache / 'large.txt'
    text.write_bytes(b'A line of text.\n' * 2**20)
    once = store.content_digest(text)
    with monkeypatch.context() as patched:
        patched.setattr(store, 'files_digest', lambda paths: pytest.fail('it was read again'))
        assert store.content_digest(text) == once
    assert once == store.files_digest([text])


NESTED = """'m'
if a:
    def f():
        'f'
        try: pass
        except E:
            class A: 'A'
        else:
            def g(): 'g'
        finally:
            async def h(): 'h'
else:
    match x:
        case 1:
            class B: 'B'
with c:
    for i in y:
        def k(): 'k'
    else:
        def l(): 'l'
def undocumented(): return lambda: 'no docstring'
"""


@pytest.mark.parametrize('source', [NESTED, '', Path(ast.__file__).read_text(), Path(pytest.__file__).read_text()])
def test_docstrings_are_those_of_every_node_in_the_same_order(source):
    tree = ast.parse(source)
    documented = [node for node in ast.walk(tree) if isinstance(node, prose._documented)]
    wanted = [doc for node in documented if (doc := ast.get_docstring(node, clean=False))]
    assert list(prose._docstrings(tree)) == wanted
    assert source != NESTED or sorted(wanted) == sorted('mfAghBkl')
