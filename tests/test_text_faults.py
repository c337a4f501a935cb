"""Text that is not what it seems: encodings, formats, rows, broken lines, damage on disk.

And objectives that must fit the model.
"""

import ast
import builtins
import gzip
import json
import lzma
import os
import random
import re
import shutil
import string
import subprocess
import sys
import textwrap
import time
import warnings
import zipfile
from pathlib import Path

import bz2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from shared import WORDS, byte_level, cache, killed_when, lines, quiet_arguments
from tiny_models import ENCODER_DECODER, bert_tokenizer

from ff_nbdev.data import corpus as corpus_page
from ff_nbdev.data import store as store_page
from ff_nbdev.data.alternatives import Alternatives, write_alternatives
from ff_nbdev.data.corpus import find_text, load_corpus, read_sentences, source_name, text_documents
from ff_nbdev.data.store import cache_dir, corpus_info
from ff_nbdev.data.files import guess_encoding, text_lines, unwrap, wrap_width
from ff_nbdev.data.objectives import (
    Batches,
    MaskedTokens,
    NextToken,
    SpanCorruption,
    TextInfilling,
    Windows,
    encode_corpus,
    language_task,
    objective_for,
    open_tokens,
    tokens_info,
)
from ff_nbdev.data.store import sweep_unlocked
from ff_nbdev.data.tokenizers import frame_of, sentence_gap, special_ids, train_tokenizer
from ff_nbdev.models.tiny import load_pretrained, random_tiny

torch.set_num_threads(1)
TOK = load_pretrained('tiny-mt5')[1]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A corpus with its tokens, to be copied"
    d = tmp_path_factory.mktemp('made')
    mp = pytest.MonkeyPatch()
    mp.setenv('FF_NBDEV_CACHE', str(d / 'cache'))
    folder = load_corpus(lines(900))
    encode_corpus(folder, TOK)
    mp.undo()
    return folder


def text_of(folder):
    return [(Path(folder) / f'{s}.txt').read_text('utf-8') for s in ('train', 'valid', 'test')]


def sentences(source, **kw):
    return [s for d in text_documents(source, **kw) for s in d]


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.fixture
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        yield


# Folders


def test_hidden_files_of_a_folder_and_links_out_of_it_are_not_read(cache):
    folder, other = cache / '.hidden' / 'wiki', cache / 'other'
    for name in ('a.txt', 'b/c.txt', '.git/x.txt', '.ipynb_checkpoints/a-checkpoint.txt', '._a.txt', 'b/.d.jsonl'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('\n'.join(lines(300, len(name))))
    other.mkdir()
    (other / 'secret.txt').write_text('A secret.')

    def names():
        return [p.relative_to(folder).as_posix() for p in find_text(folder)]

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        (folder / 'again.txt').symlink_to(folder / 'a.txt')
        assert names() == ['a.txt', 'again.txt', 'b/c.txt']
    (folder / 'out.txt').symlink_to(other / 'secret.txt')
    with pytest.warns(UserWarning, match='out.txt is a link that leaves the folder') as said:
        names()
    assert len(said) == 1
    (folder / 'z').symlink_to(other)
    with pytest.warns(UserWarning, match='out.txt and 1 more are links that leave the folder') as said:
        assert names() == ['a.txt', 'again.txt', 'b/c.txt']
    assert len(said) == 1 and find_text(folder / 'out*')[0].name == 'out.txt'  # asked for by a pattern
    with pytest.warns(UserWarning):
        assert 'A secret.' not in ''.join(text_of(load_corpus(folder)))


# Encodings and formats

OLD = {
    'cp1252': 'The “old” house – with a café – stands here.',
    'latin-1': 'La maison où il était né.',
    'cp1251': 'Дом стоит у реки, а старик молчит.',
    'shift_jis': 'これは古い家です。川は長い。',
    'gb18030': '房子很大，河水很长，老人没有说话。',
    'utf-16-le': 'A line of text.',
    'utf-16-be': 'Une ligne. 一天。',
    'utf-32-le': 'A line of text.',
}


@pytest.mark.parametrize('encoding', OLD)
def test_another_encoding_is_refused_by_name_and_line(encoding, tmp_path):
    p = tmp_path / 'old.txt'
    wide = encoding.startswith('utf')
    p.write_bytes((('A plain line.\n' if not wide else '') + (OLD[encoding] + '\n') * 30).encode(encoding))
    with pytest.raises(ValueError) as e:
        list(text_lines(p))
    said = str(e.value)
    assert (
        str(p) in said
        and f'line {1 if wide else 2} (byte ' in said
        and f'iconv -f {encoding.replace("-1", "1") if "latin" in encoding else encoding} -t UTF-8' in said
    )


def test_a_single_damaged_byte_is_not_called_another_encoding(tmp_path):
    p = tmp_path / 'a.txt'
    p.write_bytes(('Ça va très bien, là où tu étais né.\n' * 20).encode() + b'caf\xe9\n')
    with pytest.raises(ValueError, match='line 21 .byte .*though the text around it is'):
        list(text_lines(p))
    p.write_bytes('Ça va. Né à café'.encode() + b'\xc3')
    with pytest.raises(ValueError, match='last character is cut off'):
        list(text_lines(p))


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-32'])
def test_byte_order_marks_are_honoured(encoding, tmp_path, no_warning):
    for name, row in (
        ('a.txt', 'Ein schöner Tag. Noch einer! 一天。'),
        ('b.jsonl', json.dumps(dict(text='Ein schöner Tag. Noch einer! 一天。'))),
    ):
        (tmp_path / name).write_bytes(row.encode(encoding))
        assert sentences(tmp_path / name) == ['Ein schöner Tag.', 'Noch einer!', '一天。']


def zipped():
    import io

    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as z:
        z.writestr('a.txt', 'A line.')
    return out.getvalue()


ALIEN = {
    'gzip': (gzip.compress(b'A line.'), r'gzip data .* rename it to a\.txt\.gz'),
    'xz': (lzma.compress(b'A line.'), r'xz data .* a\.txt\.xz'),
    'bzip2': (bz2.compress(b'A line.'), r'bzip2 data .* a\.txt\.bz2'),
    'zip': (zipped(), 'zip archive'),
    'pdf': (b'%PDF-1.7 ...', 'is a PDF'),
    'picture': (b'\x89PNG\r\n', 'a picture'),
    'parquet': (b'PAR1....', r'Parquet table .* a\.parquet'),
}


@pytest.mark.parametrize('kind', ALIEN)
def test_another_format_under_the_name_of_text_is_refused(kind, tmp_path):
    data, says = ALIEN[kind]
    (tmp_path / 'a.txt').write_bytes(data)
    with pytest.raises(ValueError, match=says):
        find_text(tmp_path / 'a.txt')  # before anything is read


def zstd(data):
    return pa.Codec('zstd').compress(data, asbytes=True)


PACK = {'.gz': gzip.compress, '.xz': lzma.compress, '.bz2': bz2.compress, '.zst': zstd}


@pytest.mark.parametrize('end', PACK)
def test_compressed_text_is_read_and_a_cut_one_named(end, tmp_path, no_warning):
    text, rows = '\n'.join(lines(400)), '\n'.join(json.dumps(dict(text=l)) for l in lines(400))
    for name, data in (
        (f'a.txt{end}', text),
        (f'b.jsonl{end}', rows),
        (f'c{end}', text),
        (f'D.TXT{end.upper()}', text),
    ):
        (tmp_path / name).write_bytes(PACK[end](data.encode()))
        assert sentences(tmp_path / name) == lines(400), name
        (tmp_path / name).write_bytes(PACK[end](data.encode())[:-40])
        with pytest.raises(ValueError, match=rf'{re.escape(name)} is cut short or damaged.*fetch it again'):
            sentences(tmp_path / name)
    (tmp_path / f'e.txt{end}').write_bytes(b'A line of plain text.')
    with pytest.raises(ValueError, match='damaged, or no'):
        find_text(tmp_path / f'e.txt{end}')


def test_signs_of_a_pattern_in_a_name(tmp_path):
    (tmp_path / 'a[1]').mkdir()
    for name in ('a[1].txt', 'a1.txt', 'a[1]/b.txt', 'what?.txt', 'star*.txt'):
        (tmp_path / name).write_text(f'This is {name}.')
    for name in ('a[1].txt', 'a1.txt', 'a[1]/b.txt', 'what?.txt', 'star*.txt'):
        assert [p.relative_to(tmp_path).as_posix() for p in find_text(tmp_path / name)] == [name]
    assert [p.name for p in find_text(tmp_path / 'a[1]' / '*.txt')] == ['b.txt'] and [
        p.name for p in find_text(tmp_path / 'a[0-9].txt')
    ] == ['a1.txt']
    assert len(find_text(tmp_path / '*.txt')) == 4 and len(find_text(tmp_path / '**' / '*.txt')) == 5


# Rows

VALUES = {
    'null': (None, pa.string(), 'it holds null'),
    'a list': (['a'], None, 'list'),
    'a structure': (dict(a=1), None, 'struct'),
    'a number': (5, None, 'a number|int64'),
    'bytes': (b'a', None, 'binary|bytes'),
}


@pytest.mark.parametrize('kind', VALUES)
def test_one_rule_for_rows_of_every_kind(kind, tmp_path):
    value, as_type, says = VALUES[kind]
    rows = dict(title=['One', 'Two'], body=[*(['A line.'] if kind == 'null' else [value]), value])
    table = pa.table(dict(title=pa.array(rows['title']), body=pa.array(rows['body'], as_type)))
    pq.write_table(table, tmp_path / 'a.parquet')
    sources = [tmp_path / 'a.parquet', Dataset.from_dict(rows)]
    if kind != 'bytes':
        (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps(dict(title=t, body=b)) for t, b in zip(*rows.values())))
        sources += [tmp_path / 'a.jsonl', Dataset.from_dict(rows).to_iterable_dataset()]
    for source in sources:
        with pytest.raises(ValueError) as e:
            sentences(source, column='body')
        said = str(e.value)
        assert (
            "not a row with a 'body' field of text" in said
            and 'Its fields are title, body: choose one with load_corpus(…, column=…)' in said
        )
        assert re.search(says + '|structure', said) and '\n' not in said
        assert 'data set' in said if not isinstance(source, Path) else str(source) in said
        if kind == 'null':
            assert ('line 2' if str(source).endswith('jsonl') else 'row 2') in said
        assert sentences(source, column='title') == ['One', 'Two']


@pytest.mark.parametrize(
    'line, says',
    [
        ('[1]', 'it is a list'),
        ('"A text."', 'it is str'),
        ('{"text": "A', 'no JSON object'),
        ('[' * 100_000, 'no JSON object'),
        ('{"txt": "A."}', 'Its fields are txt'),
    ],
)
def test_lines_that_are_no_rows(line, says, tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": "A line."}\n\n' + line)
    with pytest.raises(ValueError, match=f'a.jsonl, line 3: .*{says}'):
        sentences(tmp_path / 'a.jsonl')


def test_empty_rows_are_passed_over_everywhere(tmp_path, no_warning):
    rows = dict(text=['', 'A line.', '  '])
    pq.write_table(pa.table(rows), tmp_path / 'a.parquet')
    (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps(dict(text=t)) for t in rows['text']))
    for source in (tmp_path / 'a.parquet', tmp_path / 'a.jsonl', Dataset.from_dict(rows), rows['text']):
        assert sentences(source) == ['A line.']


def test_damaged_parquet_is_named(tmp_path):
    p = tmp_path / 'a.parquet'
    pq.write_table(pa.table(dict(text=lines(3000))), p, compression='snappy')
    whole = p.read_bytes()
    for data in (whole[:-10], b'PAR1 and nothing else', whole[:100] + b'\xff' * 2000 + whole[2100:]):
        p.write_bytes(data)
        with pytest.raises(ValueError, match=r'a\.parquet .*(fetch it again|write the file again)'):
            sentences(p)
    pq.write_table(pa.table(dict(text=pa.array(lines(9)).dictionary_encode())), p)
    assert len(sentences(p)) == 9


# Lines broken at a fixed width

PROSE = [
    'The sailor who had come down from the old house by the river said nothing at all, for he remembered the winter. '
    * 2
    + 'Nobody asked.',
    'It was known to everybody in the village that the books had been lost in the storm; '
    'and yet a few of them were found near the bridge later on. ' * 3,
]
VERSE = [
    'The curfew tolls the knell of parting day,',
    'The lowing herd wind slowly over the lea,',
    'The ploughman homeward plods his weary way,',
    'And leaves the world to darkness and to me.',
]


def book(width, n=8):
    return '\n\n'.join(textwrap.fill(PROSE[i % 2].strip(), width) for i in range(n))


@pytest.mark.parametrize('width', [50, 65, 72, 79, 100])
def test_a_broken_book_becomes_paragraphs_with_a_word(width, tmp_path):
    (tmp_path / 'book.txt').write_text(book(width) + '\n\n' + '\n'.join(VERSE) + '\n')
    with pytest.warns(UserWarning, match='broken into lines at about'):
        found = [' '.join(d) for d in text_documents(tmp_path / 'book.txt')]
    assert found[:8] == [PROSE[i % 2].strip() for i in range(8)] and found[8:] == VERSE
    rows = [dict(text=book(width)) for _ in range(3)]
    (tmp_path / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    with pytest.warns(UserWarning) as told:
        whole = sentences(tmp_path / 'rows.jsonl')
    assert len(told) == 1 and whole == sentences([('\n'.join(PROSE * 4))] * 3)


def rows_of(texts, folder):
    "The same rows in every form"
    data = Dataset.from_dict(dict(text=texts))
    (folder / 'a.jsonl').write_text('\n'.join(json.dumps(dict(text=t)) for t in texts))
    data.to_parquet(folder / 'a.parquet')
    return dict(
        data=data,
        list=texts,
        stream=data.to_iterable_dataset(),
        generator=(t for t in texts),
        jsonl=folder / 'a.jsonl',
        parquet=folder / 'a.parquet',
    )


def test_rows_that_are_the_lines_of_a_broken_book_are_joined(cache):
    broken = book(72, 60).splitlines()
    (cache / 'book.txt').write_text('\n'.join(broken))
    with pytest.warns(UserWarning, match='at about'):
        want = sentences(cache / 'book.txt')
    assert any('remembered the winter.' in s and s.startswith('The sailor') for s in want)
    for name, source in rows_of(broken, cache).items():
        if name == 'generator':
            source = list(source)
        with pytest.warns(UserWarning, match='is broken into lines at about') as told:
            found = sentences(source)
        assert len(told) == 1 and found == want, name
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert len(sentences(source, join_lines=False)) > len(want), name
    seen = []
    long = (seen.append(i) or f'A whole text. {"It goes on and on. " * 20}' for i in range(900))
    assert next(text_documents(long)) and len(seen) < 20  # rows that are texts are not held back


def test_rows_that_are_no_broken_lines_are_left_alone(cache, no_warning):
    titles = [l.rstrip('.') for l in lines(300)]
    for kind in (lines(300), titles, [f'{l} {m}' for l, m in zip(lines(300), lines(300, 1))], VERSE * 60):
        for name, source in rows_of(kind, cache).items():
            assert len(list(text_documents(source))) == len(kind), name


def test_lines_that_were_meant_are_left_alone(tmp_path, no_warning):
    wiki = [' '.join(lines(1 + i % 5, i)) for i in range(60)]
    code = Path(json.__file__).read_text() + Path(json.encoder.__file__).read_text()
    items = [f'- {l}' for l in lines(80)]
    pair = [f'{a}\t{b}' for a in WORDS for b in WORDS]
    ptb = [l.lower().rstrip('.') for l in lines(90)]
    table = [f'| {a:20} | {b:20} | {c:20} |' for a, b, c in zip(WORDS * 3, WORDS[1:] * 3, WORDS[2:] * 3)]
    for name, text in dict(
        wiki=wiki,
        verse=VERSE * 20,
        code=code.splitlines(),
        items=items,
        pair=pair,
        ptb=ptb,
        table=table,
        lines=lines(300),
    ).items():
        assert wrap_width(text) is None, name
        (tmp_path / f'{name}.txt').write_text('\n'.join(text))
        assert sentences(tmp_path / f'{name}.txt') == sentences(tmp_path / f'{name}.txt', join_lines=False), name


def test_scripts_without_capitals_or_spaces():
    chinese = (
        '昔者庄周梦为胡蝶，栩栩然胡蝶也，自喻适志与！不知周也。俄然觉，则蘧蘧然周也。不知周之梦为胡蝶与，胡蝶之梦为周与？周与胡蝶，则必有分矣。此之谓物化。'
        * 14
    )
    broken = '\n'.join(chinese[i : i + 40] for i in range(0, len(chinese), 40))
    assert unwrap(broken) == chinese and unwrap('\n'.join(s + '。' for s in chinese.split('。'))).count('\n') > 10
    arabic = (
        'البيت كبير والنهر طويل والرجل الذي جاء من المدينة القديمة لم يقل شيئا لأنه تذكر الشتاء والكتب. ' * 12
    ).strip()
    assert unwrap(textwrap.fill(arabic, 70)) == arabic
    item = textwrap.fill(
        '- ' + 'an item of a list that goes on below its own text for a while and then ends, ' * 6,
        60,
        subsequent_indent='  ',
    )
    assert unwrap(f'{item}\n{item}').count('\n') == 1
    dashed = textwrap.fill(
        'It is a well-known and long-forgotten half-timbered house '
        'that nobody in the village had ever seen before the storm. ' * 9,
        47,
        break_on_hyphens=True,
    )
    assert re.search('-\n', dashed) and '- ' not in unwrap(dashed) and '\n' not in unwrap(dashed)


def test_joining_can_be_turned_off_and_is_recorded(cache, no_warning):
    p = cache / 'book.txt'
    p.write_text(
        '\n\n'.join(
            textwrap.fill(
                ' '.join(lines(6, i)).replace('. The', ', the').replace('. A', ', a').lower().capitalize(), 72
            )
            for i in range(120)
        )
    )
    off = load_corpus(p, join_lines=False)
    assert 'joined_lines' not in corpus_info(off)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        on = load_corpus(p)
    assert len(told) == 1 and corpus_info(on)['joined_lines'] == 1 and on != off


# Texts that are no files


def test_the_same_text_from_everywhere(cache, no_warning):
    texts = [' '.join(lines(3, i)) for i in range(400)]
    (cache / 'a.txt').write_text('\n'.join(texts))
    data = Dataset.from_dict(dict(text=texts, id=list(range(400))))
    want = text_of(load_corpus(cache / 'a.txt'))
    sources = dict(
        dataset=data,
        splits=DatasetDict(train=data, test=data.select([0])),
        only=DatasetDict(all=data),
        iterable=data.to_iterable_dataset(),
        list=texts,
        tuple=tuple(texts),
        generator=(t for t in texts),
        formatted=data.with_format('torch'),
        column=data['text'],
        streamed=IterableDataset.from_generator(lambda: iter([dict(text=t) for t in texts])),
        pandas=data.with_format('pandas'),
        array=np.array(texts, dtype=object),
        lines=open(cache / 'a.txt'),
    )
    for name, source in sources.items():
        assert text_of(load_corpus(source)) == want, name
    sources['lines'].close()
    renamed = data.rename_column('text', 'body')
    assert text_of(load_corpus(renamed, column='body')) == want
    assert not [p for p in cache_dir('corpora').iterdir() if '.part' in p.name]


def test_texts_are_brought_once_and_known_by_what_is_in_them(cache, monkeypatch):
    texts, written = [' '.join(lines(3, i)) for i in range(300)], []
    data = Dataset.from_dict(dict(text=texts))
    write = corpus_page.write_corpus
    monkeypatch.setattr(corpus_page, 'write_corpus', lambda *a: written.append(1) or write(*a))
    a, b = load_corpus(data), load_corpus(Dataset.from_dict(dict(text=texts)).select(range(300)))
    assert load_corpus(data) == a and load_corpus(texts) == load_corpus(list(texts)) and text_of(a) == text_of(b)
    n = len(written)
    assert load_corpus(data) == a and load_corpus(texts) and len(written) == n
    less = load_corpus(data.select(range(200)))
    assert less != a and len(written) == n + 1 and load_corpus(texts[:200]) != load_corpus(texts)
    few = load_corpus((t for t in texts), max_sentences=400)
    assert (
        sum(corpus_info(few)['sentences'].values()) <= 400 and load_corpus((t for t in texts), max_sentences=400) == few
    )


def test_a_data_set_is_taken_wherever_a_corpus_is(cache):
    from ff_nbdev.evaluation.readings import prepare

    r = random.Random(0)

    def word():
        syllables = [r.choices('aeiou', k=1)[0] + r.choice('bdfklmnprst') for _ in range(r.randint(1, 4))]
        return ''.join(syllables)

    words = [word() for _ in range(300)]
    data = Dataset.from_dict(dict(text=[' '.join(r.choices(words, k=12)).capitalize() + '.' for _ in range(1500)]))
    tok = train_tokenizer(DatasetDict(train=data), 520)
    assert len(tok) == 520 and len(Windows(encode_corpus(data, tok), 'train', 32)) > 10
    _, _, tokens = prepare(random_tiny('mt5', vocab_size=520), data, tok)
    windows = Windows(tokens, 'train', 32)
    assert tokens == encode_corpus(load_corpus(data), tok) and len(windows) > 10
    assert [source_name(s) for s in (data, ['A text.'], 'python_prose', cache)] == [
        'a data set',
        'texts in memory',
        'python_prose',
        cache.name,
    ]


@pytest.mark.parametrize(
    'source, says',
    [
        ({'en': 'a.txt'}, 'dictionary is no text'),
        (5, 'int is no text'),
        (None, 'NoneType is no text'),
        (b'text', 'bytes is no text'),
        (['A text.', 5], 'Text 2 of those given is int'),
        ({'A text.'}, 'set is no text'),
        ([], 'is empty'),
        (['a.txt'], 'name of a file'),
        ('', 'is empty'),
        ('  ', 'is empty'),
        ('One line.\nAnother.', 'looks like a text'),
    ],
)
def test_what_is_no_text_is_refused(source, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.txt').write_text('A line.')
    monkeypatch.setenv('FF_NBDEV_CACHE', str(tmp_path / 'cache'))
    for call in (load_corpus, lambda s: encode_corpus(s, TOK)):
        with pytest.raises((ValueError, TypeError), match=says):
            call(source)
    assert not (tmp_path / 'cache').exists()


def test_a_data_set_that_cannot_be_reached_is_told(cache, monkeypatch):
    import datasets

    def fail(*a, **kw):
        raise ConnectionError('a page of text\nabout retries')

    monkeypatch.setattr(datasets, 'load_dataset', fail)
    with pytest.raises(
        OSError, match="No train split of the data set 'me/none:de' could be opened on the hub .ConnectionError."
    ) as e:
        load_corpus('me/none:de')
    assert '\n' not in str(e.value) and not list((cache / 'cache').rglob('*.part*'))
    monkeypatch.setattr(
        datasets, 'load_dataset', lambda *a, **kw: Dataset.from_dict(dict(body=lines(9))).to_iterable_dataset()
    )
    with pytest.raises(ValueError, match='Its fields are body: choose one with load_corpus'):
        load_corpus('me/some')


# Damage on disk

FILES = [
    'corpus.json',
    'train.txt',
    'valid.txt',
    'test.txt',
    'tokens/tokens.json',
    *(f'tokens/{s}.{k}.npy' for s in ('train', 'valid', 'test') for k in ('ids', 'starts')),
]


def copied(made, where):
    shutil.copytree(made, where)
    return where, next(where.glob('tokens-*'))


def open_all(folder, tokens):
    "As a run opens a corpus and its tokens"
    load_corpus(folder)
    for s in ('train', 'valid', 'test'):
        open_tokens(tokens, s)


@pytest.mark.parametrize('name', FILES)
def test_a_flipped_bit_is_found_wherever_it_is(name, made, tmp_path, promise):
    folder, tokens = copied(made, tmp_path / 'c')
    path = tokens / name.split('/')[1] if '/' in name else folder / name
    whole, r, found = path.read_bytes(), random.Random(name), 0
    open_all(folder, tokens)
    for k in range(20):
        flip(path, r.randrange(8 * len(whole)))
        if k % 2:  # half of them as another process sees them, with the time unchanged
            store_page._matched.clear()
        with pytest.raises(ValueError) as e:
            open_all(folder, tokens)
        found += str(path) in str(e.value)
        path.write_bytes(whole)
    assert found == 20
    open_all(folder, tokens)
    promise.one_of('Flipped bits that are found in a corpus and its tokens, and the file named', 20 * len(FILES), found)


def test_a_flip_that_keeps_the_time_is_found_by_the_next_process(made, tmp_path):
    folder, tokens = copied(made, tmp_path / 'c')
    open_all(folder, tokens)
    for path in (folder / 'valid.txt', tokens / 'train.ids.npy'):
        s = path.stat()
        flip(path, 4000)
        os.utime(path, ns=(s.st_atime_ns, s.st_mtime_ns))
        store_page._matched.clear()
        with pytest.raises(ValueError, match=re.escape(path.name)):
            open_all(folder, tokens)
        flip(path, 4000)


def test_damage_is_mended_from_the_source_with_a_word(cache):
    (cache / 'a.txt').write_text('\n'.join(lines(900)))
    folder = load_corpus(cache / 'a.txt')
    tokens, want = encode_corpus(folder, TOK), text_of(folder)
    ids = (tokens / 'train.ids.npy').read_bytes()
    flip(tokens / 'train.ids.npy', 9999)
    with pytest.raises(
        ValueError, match='train.ids.npy does not match its checksum: the tokens are damaged. Run encode_corpus'
    ):
        Windows(tokens, 'train', 32)
    with pytest.warns(UserWarning, match='train.ids.npy .* made again'):
        encode_corpus(folder, TOK)
    assert (tokens / 'train.ids.npy').read_bytes() == ids and len(Windows(tokens, 'train', 32)) > 5
    flip(folder / 'train.txt', 777)
    with pytest.raises(ValueError, match='train.txt does not match'):
        load_corpus(folder)  # a folder has no source
    with pytest.raises(ValueError, match='train.txt does not match'):
        read_sentences(folder)
    with pytest.warns(UserWarning, match='train.txt .* made again from its source'):
        assert load_corpus(cache / 'a.txt') == folder
    assert text_of(folder) == want
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        encode_corpus(load_corpus(cache / 'a.txt'), TOK)


def test_sizes_missing_files_and_other_text_are_told(made, tmp_path):
    folder, tokens = copied(made, tmp_path / 'c')
    (folder / 'valid.txt').write_bytes((folder / 'valid.txt').read_bytes()[:-3])
    with pytest.raises(ValueError, match=r'valid\.txt has [\d,]+ of [\d,]+ bytes'):
        load_corpus(folder)
    (folder / 'valid.txt').unlink()
    with pytest.raises(ValueError, match='valid.txt is missing'):
        load_corpus(folder)
    (tokens / 'test.starts.npy').unlink()
    with pytest.raises(ValueError, match='test.starts.npy is missing'):
        tokens_info(tokens)
    other, _ = copied(made, tmp_path / 'd')
    mixed = load_corpus(lines(900, 5))
    shutil.copytree(tokens, mixed / tokens.name)
    shutil.copy(other / tokens.name / 'test.starts.npy', mixed / tokens.name)
    with pytest.warns(UserWarning, match='tokens of another text'):
        encode_corpus(mixed, TOK)
    shutil.rmtree(mixed)


def older(folder, tokens):
    "As a version without checksums wrote it"
    for path, keep in (
        (folder / 'corpus.json', ('source', 'sentences', 'bytes', 'sha256')),
        (tokens / 'tokens.json', ('tokens', 'corpus', 'tokenizer')),
    ):
        info = json.loads(path.read_text())
        path.write_text(json.dumps({k: info[k] for k in keep}, indent=1))


def test_a_corpus_of_before_still_opens_and_its_damage_is_found(made, tmp_path):
    folder, tokens = copied(made, tmp_path / 'c')
    older(folder, tokens)
    before = (tokens / 'tokens.json').stat().st_mtime_ns
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert encode_corpus(load_corpus(folder), TOK) == tokens and len(Windows(tokens, 'train', 32)) > 5
    assert (tokens / 'tokens.json').stat().st_mtime_ns == before
    whole = (tokens / 'train.ids.npy').read_bytes()
    (tokens / 'train.ids.npy').write_bytes(whole[:-100])
    with pytest.raises(ValueError, match='train.ids.npy'):
        Windows(tokens, 'train', 32)
    (tokens / 'train.ids.npy').write_bytes(whole)
    for name in ('train.txt', 'valid.txt', 'test.txt'):
        flip(folder / name, 500)
        with pytest.raises(ValueError, match='damaged or was edited'):
            load_corpus(folder)
        flip(folder / name, 500)
    load_corpus(folder)


@pytest.mark.parametrize(
    'text',
    [
        '{}',
        '[]',
        '5',
        'null',
        '{"sentences"',
        '',
        '\xff',
        '{"sentences": {}, "bytes": {}, "sha256": "0"}',
        '{"sentences": [1], "bytes": 5, "sha256": null}',
        '[' * 100_000,
    ],
)
def test_a_damaged_corpus_json_is_named(text, made, tmp_path):
    folder, tokens = copied(made, tmp_path / 'c')
    (folder / 'corpus.json').write_bytes(text.encode('latin-1'))
    for call in (load_corpus, lambda f: encode_corpus(f, TOK), read_sentences, corpus_info):
        with pytest.raises(ValueError, match=r'corpus\.json is damaged') as e:
            call(folder)
        assert '\n' not in str(e.value) and len(str(e.value)) < 600
    (tokens / 'tokens.json').write_bytes(text.encode('latin-1'))
    with pytest.raises(ValueError, match=r'tokens\.json is damaged'):
        Windows(tokens, 'train', 32)


def neighbours(sentences, n=10, vocab=len(TOK)):
    x = np.concatenate(sentences)
    return (x[:, None] + np.arange(1, n + 1)) % vocab, -np.arange(n) * np.ones((len(x), 1)) - x[:, None] * 1e-4


def test_a_flipped_bit_of_alternatives_is_found_or_changes_nothing(made, tmp_path, promise):
    _, tokens = copied(made, tmp_path / 'c')
    out = write_alternatives(neighbours, tokens, tmp_path / 'a', TOK, 'valid', shard=10)
    whole = Alternatives(out, tokens)
    want = whole(np.arange(len(whole)))
    for path in sorted(out.iterdir())[:5]:
        data, r, found = path.read_bytes(), random.Random(path.name), 0
        for _ in range(20):
            flip(path, r.randrange(8 * len(data)))
            try:
                got = Alternatives(out, tokens)(np.arange(len(whole)))
            except (ValueError, FileNotFoundError) as e:
                found += '\n' not in str(e)
            else:
                found += path.suffix == '.json' and all(
                    (a == b).all() for a, b in zip(got, want)
                )  # a digit beyond what a number holds
            path.write_bytes(data)
        assert found == 20, path.name
        promise.one_of('Flipped bits of stored alternatives that are found, or change no number', 100, found)
    flip(out / '00001.bin', 33)
    write_alternatives(neighbours, tokens, out, TOK, 'valid', shard=10)  # and is mended where it is written again
    assert all((a == b).all() for a, b in zip(Alternatives(out, tokens)(np.arange(len(whole))), want))


# Processes and disks


def children(pid):
    return [int(p) for t in Path(f'/proc/{pid}/task').glob('*/children') for p in t.read_text().split()]


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='needs /proc')
def test_workers_end_with_a_killed_build_and_its_rests_are_swept(cache, promise):
    code = 'from ff_nbdev.data.prose import python_prose; python_prose(n_workers=2)'
    workers = []

    def at_work(pid):
        parts = list((cache / 'cache' / 'corpora').glob('*.part*'))
        if not (workers and parts):
            workers[:] = children(pid)
            return False
        return True

    pid = killed_when(at_work, code, every=0.05, env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert workers
    start = time.time()
    while any(map(alive, workers)) and time.time() - start < 10:
        time.sleep(0.05)
    assert not any(map(alive, workers)), 'a worker outlived its parent'
    promise('Seconds that the workers of a killed build may live on', 'under 10')
    rest = [f.name for f in (cache / 'cache' / 'corpora').glob(f'*.part{pid}')]
    assert rest
    load_corpus(lines(900))
    assert not list((cache / 'cache' / 'corpora').glob('*.part*'))


def test_only_rests_of_the_dead_are_swept(tmp_path):
    from filelock import FileLock

    dead = 2**22 + 12345  # beyond the highest number of a process
    kept = [
        f'a.part{os.getpid()}',
        'novel.part',
        '.hidden.json',
        'text.part2x',
        f'held.part{dead}',
        f'b.part{os.getppid()}',
    ]
    gone = [f'c.part{dead}', f'.run.json.{dead}', f'00001.bin.part{dead}']
    for name in kept + gone:
        (tmp_path / name).mkdir() if name.startswith('c') else (tmp_path / name).write_text('x')
    with FileLock(tmp_path / 'held.lock'):
        assert sorted(sweep_unlocked(tmp_path)) == sorted(gone)
    assert {p.name for p in tmp_path.iterdir()} >= set(kept)
    (tmp_path / f'other.part{dead}').touch()
    assert sweep_unlocked(tmp_path, 'tokens-') == []


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
@pytest.mark.parametrize('file', ['train.txt', 'ids.raw'])
def test_a_full_disk_names_path_and_space(file, cache, monkeypatch):
    import ff_nbdev.data.tokens as tokens_page

    corpus = load_corpus(lines(900)) if file == 'ids.raw' else None

    def full(path, mode='r', *a, **kw):
        return builtins.open('/dev/full' if Path(str(path)).name == file and 'w' in mode else path, mode, *a, **kw)

    for page in (store_page, tokens_page):
        monkeypatch.setattr(page, 'open', full, raising=False)
    with pytest.raises(OSError, match=r'The disk of .* ran full \(\d+ MiB free\): free some space') as e:
        encode_corpus(corpus, TOK) if corpus else load_corpus(lines(900))
    assert str(cache) in str(e.value) and '\n' not in str(e.value)
    assert not list((cache / 'cache').rglob('*.part*'))


def test_numpy_words_for_a_full_disk_are_understood(tmp_path):
    with pytest.raises(OSError, match='ran full'):
        with store_page.disk_errors(tmp_path / 'not' / 'there'):
            raise OSError('1000 requested and 12 written')
    with pytest.raises(OSError, match='other'):
        with store_page.disk_errors(tmp_path):
            raise OSError(5, 'other')


def test_no_code_that_comes_with_a_model_is_run(tmp_path, monkeypatch):
    from ff_nbdev.data.tokenizers import load_tokenizer
    from ff_nbdev.training.teacher import load_teacher

    (tmp_path / 'code.py').write_text(f'open({str(tmp_path / "ran")!r}, "w").write("x")\nclass A: pass\n')
    auto = {k: 'code.A' for k in ('AutoConfig', 'AutoModelForCausalLM', 'AutoModelForMaskedLM', 'AutoTokenizer')}
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='own', auto_map=auto)))
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(dict(auto_map=dict(AutoTokenizer=['code.A', None]))))
    for call in (load_pretrained, load_tokenizer, load_teacher):
        with pytest.raises((ValueError, OSError)):
            call(tmp_path)
    assert not (tmp_path / 'ran').exists()
    for f in Path(corpus_page.__file__).parent.parent.rglob('*.py'):
        for node in ast.walk(ast.parse(f.read_text())):
            if not isinstance(node, ast.Call) or not re.match(r'Auto\w+\.from_pretrained', ast.unparse(node.func)):
                continue
            assert 'trust_remote_code=False' in ast.unparse(node), (f, ast.unparse(node))


# BLEU

SCRIPTS = dict(
    zh='房子很大，河水很长，老人什么也没有说。',
    ja='今日はいい天気ですね、川は長いです。',
    th='แม่น้ำยาวมากและบ้านหลังใหญ่',
    km='ផ្ទះធំណាស់ ទន្លេវែង',
    lo='ແມ່ນ້ຳຍາວຫຼາຍ',
    my='မြစ်ကရှည်သည်အိမ်ကြီး',
    ko='집이 아주 크고 강이 길게 흐른다. 노인은 말이 없다.',
    ar='البيت كبير والنهر طويل والرجل لم يقل شيئا.',
    en='The house is big and the river is long.',
)


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_perfect_fill_scores_100_in_every_script(script):
    from ff_nbdev.evaluation.bleu import _bleu_table

    t = SCRIPTS[script]
    worse = t[: len(t) // 2] + t[len(t) // 2 + 1 :]
    out = _bleu_table(dict(truth=[t] * 4, clean=[t] * 4, zero=[worse] * 4), 10, 0)
    assert abs(out['clean']['bleu'] - 100) < 1e-9 and 20 < out['floor_zero']['bleu'] < 99
    unspaced = script in ('zh', 'ja', 'th', 'km', 'lo', 'my')
    assert (
        out['tokenize'] == ('char' if unspaced else '13a')
        and f'tok:{out["tokenize"]}|' in out['signature']
        and 'version:' in out['signature']
    )


def test_english_scores_are_as_before():
    from sacrebleu.metrics import BLEU
    from ff_nbdev.evaluation.bleu import _bleu_table

    truth, r = lines(40), random.Random(0)
    guess = []
    for sentence in truth:
        words = [r.choice(WORDS) if r.random() < 0.2 else word for word in sentence.split()]
        guess.append(' '.join(words))
    out = _bleu_table(dict(truth=list(truth), clean=guess, zero=truth), 10, 0)
    assert abs(out['clean']['bleu'] - BLEU().corpus_score(guess, [truth]).score) < 1e-9


# Objectives that fit the model


def wordpiece(**kw):
    from tokenizers import normalizers, processors

    within = [f'##{letter}' for letter in string.ascii_lowercase]
    ends = processors.TemplateProcessing(single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    pieces = [*WORDS, '.', *within, *string.ascii_lowercase]
    return bert_tokenizer(pieces, normalizers.BertNormalizer(), ends, **kw)


BERT = wordpiece()


def tiny(name, cls=None, **kw):
    import transformers as T

    small = dict(
        vocab_size=len(BERT),
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
    )
    two = dict(
        ENCODER_DECODER,
        vocab_size=len(BERT),
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
    )
    shape = dict.fromkeys(('Bart', 'MBart', 'M2M100'), two) | dict.fromkeys(('CLIP', 'Whisper', 'T5'), {})
    config = getattr(T, f'{name}Config')(**shape.get(name, small) | kw)
    return getattr(T, cls or f'{name}ForMaskedLM')(config)


MASKED = {
    'Bert': {},
    'Roberta': dict(max_position_embeddings=64),
    'DistilBert': dict(dim=16, hidden_dim=32, n_layers=1, n_heads=2),
    'ModernBert': {},
    'DebertaV2': {},
    'Electra': dict(embedding_size=16),
    'XLMRoberta': {},
}


@pytest.mark.parametrize('name', MASKED)
def test_masked_models_get_masked_tokens(name):
    from torch.nn import DataParallel

    m = tiny(name, **MASKED[name])
    for shell in (m, DataParallel(m), torch.compile(m)):
        make = objective_for(shell, BERT, seed=1, density=0.2)
        assert isinstance(make, MaskedTokens) and make.density == 0.2
    item = dict(
        ids=np.array(BERT(' '.join(lines(5)), add_special_tokens=False)['input_ids'])[:40],
        sentences=1,
        index=0,
        offset=0,
    )
    b = make([item])
    logits = m.eval()(**{k: v for k, v in b.items() if k in ('input_ids', 'attention_mask')}).logits
    assert logits.shape[:2] == b['labels'].shape and b['input_ids'][0, 0] == 2 and b['input_ids'][0, -1] == 3
    if name == 'Roberta':
        with pytest.raises(ValueError, match='longer than the 63 positions of this model: take windows of 61 tokens'):
            make([dict(item, ids=np.full(62, 9))])


@pytest.mark.parametrize(
    'make, task',
    [
        (lambda: random_tiny('mt5'), 'spans'),
        (lambda: random_tiny('rwkv'), 'next'),
        (lambda: tiny('Bert', 'BertLMHeadModel', is_decoder=True), 'next'),
        (lambda: tiny('Llama', 'LlamaForCausalLM'), 'next'),
        (lambda: tiny('Bart', 'BartForConditionalGeneration'), 'infilling'),
        (lambda: tiny('MBart', 'MBartForConditionalGeneration'), 'infilling'),
        (lambda: tiny('M2M100', 'M2M100ForConditionalGeneration'), 'infilling'),
        (lambda: tiny('Bart', 'BartForCausalLM'), 'next'),
    ],
)
def test_the_class_says_the_task(make, task):
    assert language_task(make()) == task


@pytest.mark.parametrize(
    'make, says',
    [
        (lambda: tiny('Bert', 'BertModel'), 'BertModel has no language-model head'),
        (lambda: tiny('Bert', 'BertForSequenceClassification'), 'has no language-model head'),
        (lambda: tiny('Bart', 'BartModel'), 'has no language-model head'),
        (lambda: tiny('Llama', 'LlamaModel'), 'has no language-model head'),
        (
            lambda: tiny('T5', 'T5EncoderModel', vocab_size=99, d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8),
            'has no language-model head',
        ),
        (lambda: tiny('Bert', 'BertLMHeadModel'), 'would learn to copy'),
        (lambda: tiny('XLNet', 'XLNetLMHeadModel', d_model=16, n_layer=1, n_head=2, d_inner=32), 'would learn to copy'),
        (
            lambda: tiny('ViT', 'ViTForImageClassification', image_size=16, patch_size=8),
            'takes pixel_values and no text',
        ),
        (
            lambda: tiny(
                'Whisper',
                'WhisperForConditionalGeneration',
                d_model=16,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                vocab_size=99,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=1,
            ),
            'takes input_features and no text',
        ),
        (
            lambda: tiny(
                'CLIP',
                'CLIPModel',
                text_config=dict(
                    hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, projection_dim=8
                ),
                vision_config=dict(
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    image_size=16,
                    patch_size=8,
                    projection_dim=8,
                ),
            ),
            'has no language-model head|takes pixel_values',
        ),
    ],
)
def test_a_model_without_a_task_is_refused(make, says):
    with pytest.raises(ValueError, match=says) as e:
        objective_for(make(), BERT)
    assert '\n' not in str(e.value)


def test_peft_is_looked_through():
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(tiny('Bert'), LoraConfig(target_modules=['query']))
    assert language_task(wrapped) == 'masked'


def test_tokenizers_that_cannot_hide():
    bare = wordpiece(mask_token=None)
    with pytest.raises(ValueError, match='no mask token'):
        objective_for(tiny('Bert'), bare)
    with pytest.raises(ValueError, match='M2M100ForConditionalGeneration has neither a mask token nor sentinels'):
        objective_for(tiny('M2M100', 'M2M100ForConditionalGeneration'), bare)
    assert isinstance(objective_for(tiny('M2M100', 'M2M100ForConditionalGeneration'), BERT), TextInfilling)
    with pytest.raises(ValueError, match='no sentinels'):
        objective_for(random_tiny('mt5'), BERT)
    from transformers import ByT5Tokenizer

    byt5 = objective_for(random_tiny('mt5'), ByT5Tokenizer())
    assert isinstance(byt5, SpanCorruption) and len(byt5.sentinels) >= 100


def items(n, length=32, seed=0):
    ids = np.array(BERT(' '.join(lines(900, seed)), add_special_tokens=False)['input_ids'])
    return [
        dict(ids=ids[i * length : (i + 1) * length].copy(), sentences=2, index=i, offset=i * length) for i in range(n)
    ]


def test_masks_are_15_80_10_10_keyed_and_never_special():
    data = items(120, 64)
    for it in data:
        it['ids'][::16] = 3  # ends of documents
    make = MaskedTokens(BERT, seed=5)
    b = make(data)
    x, y = b['input_ids'][:, 1:-1], b['labels'][:, 1:-1]
    true = torch.from_numpy(np.stack([it['ids'] for it in data]))
    at = y != -100
    assert (
        torch.equal(y[at], true[at])
        and torch.equal(x[~at], true[~at])
        and not torch.isin(true[at], torch.tensor(special_ids(BERT))).any()
    )
    assert abs(at.float().sum() / (true != 3).sum() - 0.15) < 0.01
    became = [(x[at] == BERT.mask_token_id).float().mean(), (x[at] == y[at]).float().mean()]
    assert abs(became[0] - 0.8) < 0.04 and 0.07 < became[1] < 0.14
    other = x[at][(x[at] != y[at]) & (x[at] != BERT.mask_token_id)]
    assert len(other) and not torch.isin(other, torch.tensor(special_ids(BERT))).any()
    assert torch.equal(make(data[7:9])['labels'], b['labels'][7:9]) and torch.equal(
        MaskedTokens(BERT, seed=5)(data)['input_ids'], b['input_ids']
    )
    for change in (dict(seed=6), dict(epoch=1)):
        assert not torch.equal(MaskedTokens(BERT, **dict(dict(seed=5), **change))(data)['labels'], b['labels'])
    assert b['sentences'].tolist() == [2] * 120 and b['index'].tolist() == list(range(120))


def test_labels_know_their_places():
    class Echo:
        def __call__(self, places, targets):
            self.seen = places, targets
            return np.zeros((*places.shape, 10), np.int32), np.zeros((*places.shape, 10), np.float32)

    data = items(3)
    for make in (MaskedTokens(BERT, alternatives=Echo()), TextInfilling(BERT, alternatives=Echo())):
        y = make(data)['labels'].numpy()
        places, targets = make.alternatives.seen
        at = places >= 0
        ids = np.concatenate([it['ids'] for it in items(3)])
        assert (
            at.any()
            and (ids[places[at]] == y[at]).all()
            and (targets[at] == y[at]).all()
            and (targets[~at] == -1).all()
            and not at[:, [0]].any()
        )


def test_infilling_hides_spans_and_asks_for_the_whole():
    data = items(20, 48)
    b = TextInfilling(BERT, seed=2)(data)
    for it, x, y, n in zip(data, b['input_ids'], b['labels'], b['attention_mask'].sum(1)):
        assert y[y != -100].tolist() == [2, *it['ids'], 3] and x[:n][0] == 2 and x[:n][-1] == 3
        pattern = ''.join('(.*),' if t == BERT.mask_token_id else f'{t},' for t in x[1 : n - 1].tolist())
        assert re.fullmatch(pattern.replace('(.*),', r'(?:\d+,)+'), ''.join(f'{t},' for t in it['ids']))
    hidden = 1 - (b['attention_mask'].sum().item() - 40 - (b['input_ids'] == BERT.mask_token_id).sum().item()) / (
        20 * 48
    )
    assert abs(hidden - 0.3) < 0.03
    out = tiny('Bart', 'BartForConditionalGeneration')(**{k: b[k] for k in ('input_ids', 'attention_mask', 'labels')})
    assert torch.isfinite(out.loss)


def test_a_masked_model_does_not_learn_to_copy(tmp_path, cache):
    "Sixty steps through the Trainer: next-token labels would give 99 % by copying; masked tokens cannot be copied"
    from ff_nbdev.mechanisms.config import FFConfig
    from ff_nbdev.mechanisms.method import attach
    from ff_nbdev.models.site import FFNPattern
    from ff_nbdev.training.trainer import FFTrainer

    torch.manual_seed(0)
    model = tiny('Bert')
    windows = Windows(encode_corpus(lines(900), BERT), 'train', 32)
    ff = attach(
        model,
        FFConfig(total_sentences=10_000),
        BERT,
        FFNPattern('BERT', r'layer\.\d+', 'output.dense', 'intermediate.dense'),
    )
    assert not ff.shifts
    args = quiet_arguments(tmp_path, per_device_train_batch_size=8, max_steps=60, learning_rate=1e-2)
    make = objective_for(model, BERT)
    FFTrainer(model=model, args=args, train_dataset=windows, data_collator=make, ff=ff).train()
    b = MaskedTokens(BERT, seed=9)([windows[i] for i in range(40)])
    with torch.no_grad():
        guess = model.eval()(b['input_ids'], attention_mask=b['attention_mask']).logits.argmax(-1)
    hits = (guess == b['labels'])[b['labels'] != -100].float().mean()
    assert 0.02 < hits < 0.6 and ff.sentences > 100


# What stands between two sentences


def metaspace(prepend, kind):
    "SentencePiece's way: Llama puts a mark before the first word, Gemma before none"
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    t = Tokenizer(models.BPE(unk_token='<unk>') if kind == 'bpe' else models.Unigram())
    t.pre_tokenizer, t.decoder = (
        pre_tokenizers.Metaspace(prepend_scheme=prepend),
        decoders.Metaspace(prepend_scheme=prepend),
    )
    own = dict(vocab_size=300, special_tokens=['<unk>', '</s>'], show_progress=False)
    t.train_from_iterator(
        lines(200), trainers.BpeTrainer(**own) if kind == 'bpe' else trainers.UnigramTrainer(unk_token='<unk>', **own)
    )
    return PreTrainedTokenizerFast(tokenizer_object=t, eos_token='</s>', unk_token='<unk>')


def byt5():
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


GAPS = {
    'GPT-2': (lambda: byte_level(lines(200), 500), ' '),
    'Llama': (lambda: metaspace('first', 'bpe'), ''),
    'Gemma': (lambda: metaspace('never', 'bpe'), ' '),
    'Unigram with prefix': (lambda: metaspace('always', 'unigram'), ''),
    'Unigram without': (lambda: metaspace('never', 'unigram'), ' '),
    'T5': (lambda: TOK, ''),
    'BERT': (lambda: BERT, ''),
    'ByT5': (byt5, ' '),
}


@pytest.mark.parametrize('name', GAPS)
def test_sentences_keep_the_space_between_them(name, cache):
    make, gap = GAPS[name]
    tok = make()
    assert sentence_gap(tok) == gap
    said = lines(330)
    text = [' '.join(said[i : i + 3]) for i in range(0, 330, 3)]
    corpus = load_corpus(text)
    ids, starts = open_tokens(encode_corpus(corpus, tok), 'train')
    want, n = [], 0
    for s in read_sentences(corpus):
        if s is None:
            want.append([])
        elif not want:
            want.append([])
        if s is not None:
            want[-1].append(s)
            n += 1
    want = [' '.join(w) for w in want if w]
    end = tok.eos_token_id if tok.eos_token_id is not None else tok.sep_token_id
    parts = np.split(ids, np.flatnonzero(ids == end) + 1)
    got = [tok.decode(p[p != end].tolist()) for p in parts if len(p)]
    plain = [tok.decode(tok(w, add_special_tokens=False)['input_ids']) for w in want]
    assert got == plain and len(starts) == n
    if name != 'BERT':
        assert got == want
    assert int(Windows(encode_corpus(corpus, tok), 'train', 16).sentences.sum()) in range(n - 16, n + 1)


def test_unspaced_scripts_get_no_space(cache):
    tok = byt5()
    text = [
        f'{a}{b}很大。{b}{a}很长！{a}和{b}也来了。'
        for a in '房山水天人月日星风雨雪花草木石鸟鱼虫马牛羊'
        for b in '河江海湖路桥'
    ]
    corpus = load_corpus(text)
    ids, _ = open_tokens(encode_corpus(corpus, tok), 'train')
    assert ' ' not in tok.decode([int(i) for i in ids if i != tok.eos_token_id]) and ids.size > 1000


def test_tokens_that_were_glued_are_made_again(cache):
    tok = metaspace('never', 'unigram')
    corpus = load_corpus(lines(900))
    folder = encode_corpus(corpus, tok)
    older(corpus, folder)
    with pytest.warns(UserWarning, match='glued sentences together'):
        encode_corpus(corpus, tok)
    assert frame_of(BERT) == ([2], [3]) and frame_of(tok) == ([], [])


@pytest.mark.parametrize('encoding', ['euc-kr', 'koi8-r', 'cp1253', 'cp1255', 'big5'])
def test_more_encodings_are_guessed(encoding):
    text = {
        'euc-kr': '집이 아주 크고 강이 길게 흐른다',
        'koi8-r': 'Дом стоит у реки, а старик молчит',
        'cp1253': 'Το σπίτι είναι μεγάλο και ο ποταμός',
        'cp1255': 'הבית גדול והנהר ארוך מאוד',
        'big5': '房子很大，河水很長，老人沒有說話',
    }[encoding]
    assert guess_encoding(text.encode(encoding)) in (encoding, *(['gb18030'] if encoding == 'big5' else []))


def test_batches_of_masks_can_be_made_again(cache):
    w = Windows(encode_corpus(lines(900), BERT), 'train', 16)
    for make in (lambda: MaskedTokens(BERT, seed=3), lambda: TextInfilling(BERT, seed=3)):
        a, b = Batches(w, make(), 8, seed=5)[11], Batches(w, make(), 8, seed=5)
        b[2]
        assert all(torch.equal(a[k], b[11][k]) for k in a)
    assert NextToken(BERT)([w[0]])['labels'].shape == (1, 16)
