"""Wrong words, files and folders on the command line: each is refused before anything starts, in a dry run too."""

import json
import os
import shutil

import numpy as np
from shared import SCALE

from ff_nbdev.run.settings import notebooks_folder, workflow_folder

NODES = ('teacher', 'alternatives', 'retrofit', 'evaluate', 'report')
LINES = '\n'.join(f'Line number {i} says something nice to the others.' for i in range(300))
DEEP = '[' * 100_000
SPLITS, WHOLE = dict(train=3, valid=3, test=3), dict(train='abc', valid='abc', test='abc')
BASE = dict(SCALE, memory={}, gpus={})


def run(*words):
    "A dry run with these words"
    return ['run', '--dry-run', *words]


def cell(source, kind='code', tags=()):
    more = dict(outputs=[], execution_count=None) if kind == 'code' else {}
    return dict(cell_type=kind, source=source, metadata=dict(tags=list(tags)), id='a', **more)


def notebook(parameters="steps: int = 3\nrate: float = 0.1\nname: str = 'a'\nseed: int = 0", code='', **more):
    "The JSON of a notebook with a tagged cell"
    kernel = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    return json.dumps(
        dict(cells=[cell(parameters, tags=['parameters']), cell(code)], metadata=kernel, nbformat=4, nbformat_minor=5)
        | more
    )


CHECKED = notebook(
    code='from ff_nbdev.run.parameters import check_params\ncheck_params(globals(), '
    'positive=["steps"], ranges=dict(rate=(0, 1)), choices=dict(name=["alpha", "beta"]))'
)


def strict(*words, content=CHECKED, out='out.ipynb'):
    "A function that gives the words of the strict runner on a notebook with this content"
    return lambda files: ['notebook', files('exp.ipynb', content), out, *words]


def scale(text=None, **parts):
    "A dry run of a scale of one's own: the usual one with other parts, or any text"
    content = json.dumps({k: v for k, v in {**BASE, **parts}.items() if v != 'nothing'}) if text is None else text
    return lambda files: run(files('mine.yaml', content).name)


def profile(text):
    def words(files):
        files('prof/config.yaml', text)
        return run('--profile', './prof')

    return words


def corpus(name, content, given=None):
    "A dry run on a file of text, or on what `given` names"

    def words(files):
        files(name, content)
        return run('--corpus', given or name)

    return words


def made_corpus(record, **texts):
    "A dry run on a folder that load_corpus is said to have made"

    def words(files):
        files('c/corpus.json', record)
        for split, text in texts.items():
            files(f'c/{split}.txt', text)
        return run('--corpus', 'c')

    return words


def record(train=3, valid=3, test=3):
    return json.dumps(dict(sentences=SPLITS, bytes=dict(train=train, valid=valid, test=test), sha256=''))


def tensors(end=4, **more):
    head = json.dumps(dict(w=dict(dtype='F32', shape=[1], data_offsets=[0, end]), **more)).encode()
    return len(head).to_bytes(8, 'little') + head + bytes(4)


def model(word='m', missing=(), **texts):
    "A dry run from a folder of a model, with files missing or other than they should be"

    def words(files):
        usual = {
            'config.json': '{"model_type": "mt5"}',
            'model.safetensors': tensors(),
            'tokenizer.json': '{"model": {}, "added_tokens": []}',
        }
        for name, text in {**usual, **{k.replace('__', '.'): v for k, v in texts.items()}}.items():
            if name not in missing:
                files(f'm/{name}', text)
        return run('--model', word)

    return words


def notebooks(node='retrofit', content='', whole=NODES):
    "A dry run with notebooks of one's own, one of them other than it should be"

    def words(files):
        for n in whole:
            shutil.copy(notebooks_folder() / f'{n}.ipynb', files(f'nb/{n}.ipynb'))
        if content is not None:
            files(f'nb/{node}.ipynb', content)
        return run('--notebooks', 'nb')

    return words


def place(prepare, out='out', scale_name='quick'):
    "A dry run into a folder that `prepare` makes"

    def words(files):
        prepare(files)
        return ['run', scale_name, '--dry-run', '--corpus', files('text.txt', LINES).name, '--out', out]

    return words


def link(name, to):
    return lambda files: os.symlink(to, files.here / name)


def parquet(files):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(dict(text=np.arange(3))), files('numbers.parquet'))
    return 'numbers.parquet'


WORDS = {
    # words that there are not
    'no such command': (['rnu'], "did you mean 'run'"),
    'no such scale': (run('quik'), "did you mean 'quick'"),
    'no such option': (run('--corpsu', 'x'), "did you mean '--corpus'"),
    'an option cut short': (run('--corp', 'x'), "did you mean '--corpus'"),
    'one word too many': (['run', 'quick', 'more'], 'one word too many'),
    'arms without a name': (run('--arms'), 'expected at least one argument'),
    'an option of another command': (['report', 'x', '--dry-run'], 'no option of this command'),
    'text without a source': (['text'], 'required: corpus'),
    'shipped without a folder': (['shipped', 'tiny-mt5'], 'required: --out'),
    'notebook without a place': (['notebook', 'a.ipynb'], 'required: out'),
    'a parameter without a value': (['notebook', 'a.ipynb', 'b.ipynb', '-p', 'lr'], 'expected 2 arguments'),
    # numbers
    'no job': (run('--jobs', 0), 'at least 1'),
    'jobs below nothing': (run('--jobs=-3'), 'at least 1'),
    'more jobs than any cluster has': (run('--jobs', 10**30), 'at most 100000'),
    'jobs in words': (run('--jobs', 'many'), 'invalid int'),
    'half a job': (run('--jobs', '1.5'), 'invalid int'),
    'the first none': (run('--first', 0), 'at least 1'),
    'the first in words': (run('--first', 'few'), 'invalid int'),
    'threads of none': (strict('--threads', 0), 'at least 1'),
    # seeds
    'a seed in words': (run('--seed', 'one'), 'invalid int'),
    'half a seed': (run('--seed', '.5'), 'invalid int'),
    'a seed below nothing': (run('--seed=-1'), 'must not be negative'),
    'a seed of 40 bits': (run('--seed', 2**40), 'at most 2147483647'),
    'a seed of 31 bits and one': (run('--seed', 2**31), 'at most 2147483647'),
    'the same seed twice': (run('--seeds', 0, 1, 0), 'The seed 0 is given twice'),
    'one of the seeds below nothing': (run('--seeds', '0', '-2'), 'must not be negative'),
    'a seed and seeds': (run('--seed', 0, '--seeds', 1, 2), 'give one of them'),
    # which arms
    'all and some': (run('--all', '--arms', 'base'), 'give one of them'),
    'some and the first': (run('--first', 2, '--arms', 'base'), 'give one of them'),
    'a misspelt arm': (run('--arms', 'full_stak'), "did you mean 'full_stack'"),
    'an arm that leads out': (run('--arms', '../../x'), 'There is no recipe'),
    'an arm with a slash': (run('--arms', 'base/x'), "did you mean 'base'"),
    'an arm from the root': (run('--arms', '/etc'), 'There is no recipe'),
    'a variant that leads out': (run('--arms', 'full_stack~../../x'), 'There is no variant'),
    'a variant of another scale': (run('--arms', 'no_fzr~dose_3'), "There is no variant 'no_fzr~dose_3'"),
    'an arm with its seed': (run('--arms', 'full_stack.s1'), "did you mean 'full_stack'"),
    'a misspelt variant': (['run', 'night', '--dry-run', '--arms', 'no_fzr~doze_3'], "did you mean 'no_fzr~dose_3'"),
}

EMPTY = {
    f'empty: {name}': (words, f'{says} is empty')
    for name, words, says in [
        ('--corpus', run('--corpus', ''), '--corpus'),
        ('--corpus of blanks', run('--corpus', '  '), '--corpus'),
        ('--model', run('--model', ''), '--model'),
        ('--out', run('--out', ''), '--out'),
        ('--recipes', run('--recipes', ''), '--recipes'),
        ('--arms', run('--arms', ''), '--recipes'),
        ('one of the arms', run('--recipes', 'base', ''), '--recipes'),
        ('--notebooks', run('--notebooks', ''), '--notebooks'),
        ('--profile', run('--profile', ''), '--profile'),
        ('--set', run('--set', ''), '--set'),
        ('scale', run(''), 'scale'),
        ('notebook', ['notebook', '', ''], 'notebook'),
        ('executed notebook', ['notebook', 'a.ipynb', ''], 'out'),
        ('name of a parameter', ['notebook', 'a.ipynb', 'b.ipynb', '-p', '', '3'], '--parameter'),
        ('--cwd', ['notebook', 'a.ipynb', 'b.ipynb', '--cwd', ''], '--cwd'),
        ('an input', ['notebook', 'a.ipynb', 'b.ipynb', '-i', ''], '--input'),
        ('an output', ['notebook', 'a.ipynb', 'b.ipynb', '-o', ''], '--output'),
        ('text', ['text', ''], 'corpus'),
        ('text --model', ['text', 'a.txt', '--model', ''], '--model'),
        ('text --out', ['text', 'a.txt', '--out', ''], '--out'),
        ('shipped', ['shipped', '', '--out', 'x'], 'name'),
        ('shipped --out', ['shipped', 'tiny-mt5', '--out', ''], '--out'),
        ('report', ['report', ''], 'folder'),
        ('publish', ['publish', ''], 'folder'),
        ('publish --out', ['publish', 'x', '--out', ''], '--out'),
        ('bundle', ['bundle', ''], 'OUT'),
    ]
}

SETTINGS = {
    'no value': (run('--set', 'retrofit.dose'), 'node.parameter=value'),
    'no node': (run('--set', 'dose=1'), 'node.parameter=value'),
    'no such node': (run('--set', 'retrofitt.dose=1'), "did you mean 'retrofit'"),
    'no such parameter': (run('--set', 'retrofit.dos=1'), "did you mean 'dose'"),
    'a text for a number': (run('--set', 'retrofit.dose=much'), 'must be float'),
    'nothing for a number': (run('--set', 'retrofit.total_sentences='), 'must be int'),
    'a half for a whole': (run('--set', 'retrofit.total_sentences=1.5'), 'must be int'),
    'true for a whole': (run('--set', 'retrofit.total_sentences=true'), 'must be int'),
    'a list for a number': (run('--set', 'retrofit.dose=[1]'), 'not list[int]'),
    'an endless number': (run('--set', 'retrofit.dose=1e999'), 'finite number'),
    'a number of 400 digits': (run('--set', 'retrofit.total_sentences=' + '9' * 400), 'of usual size'),
    'brackets without end': (run('--set', 'retrofit.total_sentences=' + '[' * 5000), 'must be int'),
    'a number for a text': (run('--set', 'evaluate.wide=3'), 'must be str'),
    'negative sentences': (run('--set', 'retrofit.total_sentences=-5'), 'at least 0'),
    'no thread': (run('--set', 'retrofit.threads=0'), 'above 0'),
    'a dose of nothing': (run('--set', 'retrofit.dose=0.0'), 'above 0'),
    'no step between pulses': (run('--set', 'retrofit.steps_between_pulses=0.0'), 'above 0'),
    'a schedule that there is not': (run('--set', 'retrofit.schedule=linaer'), "did you mean 'linear'"),
    'a batch below nothing': (run('--set', 'retrofit.batch=-8'), 'at least 0'),
    'a warm-up in steps': (run('--set', 'retrofit.warmup=20.0'), 'from 0 to 1'),
    'the stage of every arm': (run('--set', 'retrofit.stage=no_fzr/stage'), 'leave it out'),
    'more quiet than all': (run('--set', 'evaluate.quiet=101'), 'from 0 to 100'),
    'a start that is not known': (run('--set', 'teacher.start=zero'), 'teacher.ipynb: start'),
    'no width': (run('--set', 'teacher.hidden=0'), 'above 0'),
    'twice the same': (run('--set', 'retrofit.dose=1', '--set', 'retrofit.dose=2'), 'given twice'),
    'the arm of every node': (run('--set', 'retrofit.arm=no_fzr'), 'use --recipes'),
    'the folder of every node': (run('--set', 'retrofit.out=elsewhere'), 'use --out'),
    'the model of every node': (run('--set', 'evaluate.model=tiny-mt5'), 'use --model'),
    'the seed of every arm': (run('--set', 'retrofit.seed=3'), 'use --seed'),
    'the text of one node': (run('--set', 'evaluate.corpus=other.txt'), 'use --corpus'),
    'the scale of one node': (run('--set', 'teacher.scale=paper'), 'another scale'),
    'where an arm starts': (run('--set', 'retrofit.start=base/model'), 'leave it out'),
    'where the report reads': (run('--set', 'report.runs=other'), 'leave it out'),
    'a base that is not made': (run('--set', 'pretrain.steps=5'), 'pretrains no model'),
    'a wrong change': (run('--set', 'retrofit.change=size=5'), 'part.setting=value'),
    'a change of nothing': (run('--set', 'retrofit.change=forgetfulness.sise=5'), "did you mean"),
    'a change out of range': (run('--set', 'retrofit.change=forgetfulness.size=4'), 'odd'),
    'an arm to look at that there is not': (run('--set', 'evaluate.wide=full_stak'), "did you mean 'full_stack'"),
    'an arm to fit that there is not': (run('--set', 'evaluate.sae=ful_stack'), "did you mean 'full_stack'"),
    'categories that are not there': (run('--set', 'evaluate.categories=none.tsv'), 'is not there'),
    'truth that is not there': (run('--set', 'alternatives.truth=nowhere'), 'is not there'),
    'a tokenizer that has no place': (
        run('--set', 'teacher.start=model', '--set', 'teacher.vocab_size=500'),
        "model's own tokenizer",
    ),
}

MODELS = {
    'no such model': (run('--model', 'tiny-mt6'), "did you mean 'tiny-mt5'"),
    'no such kind': (run('--model', 'foo=bar'), "no kind of model 'foo'"),
    'a misspelt kind': (run('--model', 'rwvk=tiny-rwkv'), "did you mean 'rwkv'"),
    'a kind in capitals': (run('--model', 'MT5=tiny-mt5'), 'no kind of model'),
    'a kind without a name': (run('--model', '=tiny-mt5'), 'no kind of model'),
    'a kind without a model': (run('--model', 'rwkv='), 'names no model'),
    'two of a kind': (run('--model', 'tiny-mt5', '--model', 'mt5=mini-mt5'), 'Two models'),
    'an RWKV for mt5': (run('--model', 'tiny-rwkv'), 'give it as rwkv=MODEL'),
    'an mT5 for rwkv': (run('--model', 'rwkv=tiny-mt5'), 'without rwkv='),
    'no such folder': (run('--model', './mine'), 'There is no model'),
    'no such folder in the root': (run('--model', '/no/such/model'), 'There is no model'),
    'a hub id of three parts': (run('--model', 'a/b/c'), 'There is no model'),
    'a hub id with a blank': (run('--model', 'google/mt5 base'), 'There is no model'),
    'a hub id that leads up': (run('--model', 'google/..'), 'There is no model'),
    'a hub id with two dashes': (run('--model', 'google/mt5--base'), 'There is no model'),
    'a hub id without an end': (run('--model', 'google/'), 'There is no model'),
    'an address': (run('--model', 'https://huggingface.co/google/mt5-base'), 'There is no model'),
    'a path into a folder that is there': (
        lambda files: run('--model', f'{files("models/a.txt").parent.name}/mine'),
        'There is no model',
    ),
    'a file': (model('m/config.json'), 'is a file'),
    'a folder without a configuration': (model(missing=['config.json']), 'no config.json'),
    'an adapter': (model(missing=['config.json'], adapter_config__json='{}'), 'holds an adapter'),
    'an empty configuration': (model(config__json=''), 'it is empty'),
    'a configuration that is a list': (model(config__json='[]'), 'a list where named entries belong'),
    'a configuration without a type': (model(config__json='{}'), 'lacks model_type'),
    'a configuration without end': (model(config__json=DEEP), 'nested too deeply'),
    'a model without weights': (model(missing=['model.safetensors']), 'lacks its weights'),
    'weights cut short': (model(model__safetensors=tensors()[:-2]), 'cut short'),
    'weights of nothing': (model(model__safetensors=''), 'cut short'),
    'weights that are a page': (model(model__safetensors='<html>Not found</html>'), 'cut short'),
    'weights with more behind': (model(model__safetensors=tensors() + b'x'), 'cut short'),
    'an index of weights that are not there': (
        model(**{'model__safetensors__index__json': '{"weight_map": {"w": "model-00002.safetensors"}}'}),
        'model-00002.safetensors',
    ),
    'a model of images, which has none to lack': (
        model(config__json='{"model_type": "resnet", "architectures": ["ResNetModel"]}', missing=['tokenizer.json']),
        'holds ResNetModel, which predicts no tokens of text',
    ),
    'a model without a tokenizer': (model(missing=['tokenizer.json']), 'holds no tokenizer'),
    'an empty tokenizer': (model(tokenizer__json='{}'), 'tokenizer.json is no tokenizer'),
    'a tokenizer cut short': (model(tokenizer__json='{"model"'), 'cut off'),
    'damaged settings of a tokenizer': (model(tokenizer_config__json='[]'), 'a list where named entries belong'),
    'a classifier': (
        model(config__json='{"model_type": "bert", "architectures": ["BertForTokenClassification"]}'),
        'holds BertForTokenClassification, which predicts no tokens of text',
    ),
    'a tokenizer of another model': (
        model(
            config__json='{"model_type": "mt5", "vocab_size": 2}',
            tokenizer__json='{"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2}]}',
        ),
        'has 3 ids and the model only 2 embeddings',
    ),
    'an RWKV folder for mt5': (model(config__json='{"model_type": "rwkv"}'), 'rwkv=MODEL'),
    'a link to no model': (lambda files: link('m', 'gone')(files) or run('--model', 'm'), 'leads nowhere'),
}

TEXTS = {
    'no such text': (run('--corpus', 'none.txt'), 'No text at'),
    'no such folder of text': (run('--corpus', './none/'), 'No text at'),
    'a pattern of nothing': (run('--corpus', '*.txt'), 'No text at'),
    'an empty file': (corpus('a.txt', ''), 'is empty'),
    'a file of blank lines': (corpus('a.txt', ' \n\n'), 'no sentence'),
    'a folder without text': (corpus('c/a.png', 'x', 'c'), 'No text at'),
    'a picture': (corpus('a.png', 'x'), 'a.png'),
    'numbers in a parquet': (lambda files: run('--corpus', parquet(files)), 'numbers.parquet'),
    'a parquet that is none': (corpus('a.parquet', 'PAR1'), 'a.parquet'),
    'a gzip that is none': (corpus('a.txt.gz', 'plain'), 'a.txt.gz'),
    'an xz that is none': (corpus('a.txt.xz', 'plain'), 'a.txt.xz'),
    'JSON without text': (corpus('a.jsonl', '{"body": "x"}\n'), 'text'),
    'JSON without end': (corpus('a.jsonl', DEEP), 'a.jsonl'),
    'JSON that is a list': (corpus('a.jsonl', '[1, 2]\n'), 'text'),
    'a link to no text': (lambda files: link('a.txt', 'gone')(files) or run('--corpus', 'a.txt'), 'leads nowhere'),
    'a record of nothing': (made_corpus('{}'), 'lacks sentences'),
    'a record that is a list': (made_corpus('[]'), 'a list where named entries belong'),
    'a record cut short': (made_corpus('{"sent'), 'cut off'),
    'a record without end': (made_corpus(DEEP), 'nested too deeply'),
    'a record of files that are not there': (made_corpus(record(), train='abc', valid='abc'), 'lacks test.txt'),
    'a record of other files': (
        made_corpus(record(valid=4), train='abc', valid='abc', test='abc'),
        'has 3 bytes and not the 4',
    ),
    'a record that leads out': (
        made_corpus(json.dumps(dict(sentences=SPLITS, bytes=SPLITS | {'../x': 3}, sha256='')), **WHOLE),
        'cannot be a folder',
    ),
    'a record of one part': (made_corpus('{"sentences": {"train": 3}, "bytes": {}, "sha256": ""}'), 'lack valid, test'),
    'a record of parts in words': (made_corpus(record(train='3'), **WHOLE), 'its bytes lack train'),
    'text for text': (['text', 'none.txt'], 'No text at'),
    'text of no model': (
        lambda files: ['text', files('a.txt', LINES), '--model', 'tiny-mt6'],
        "did you mean 'tiny-mt5'",
    ),
    'text of a model without a tokenizer': (
        lambda files: ['text', files('a.txt', LINES), '--model', files('m/config.json', '{}').parent],
        'holds no tokenizer',
    ),
    'a record upon the text': (lambda files: ['text', files('a.txt', LINES), '--out', 'a.txt'], 'must end in .json'),
    'a record upon other JSON': (
        lambda files: ['text', files('a.txt', LINES), '--out', files('mine.json', '{"a": 1}')],
        'would be lost',
    ),
    'a record upon a folder': (
        lambda files: ['text', files('a.txt', LINES), '--out', files('d.json/x').parent],
        'is a folder',
    ),
    'a record in a file': (lambda files: ['text', files('a.txt', LINES), '--out', 'a.txt/r.json'], 'is a file'),
}

PROFILES = {
    'no such profile': (run('--profile', 'slrum'), "did you mean 'slurm'"),
    'a profile without a file': (lambda files: run('--profile', files('prof/a.txt').parent), 'no config.yaml'),
    'a damaged profile': (profile('cores: [1'), 'in line'),
    'a profile that is a list': (profile('- local'), 'no named entries'),
    'a profile of nothing': (profile(''), 'no named entries'),
    'a profile in bytes': (
        lambda files: (files('prof/config.yaml', b'\xff\xfe\x00'), run('--profile', './prof'))[1],
        'YAML cannot be read',
    ),
    'an executor that is not there': (profile('executor: slrum'), 'snakemake-executor-plugin-slrum'),
    'an executor that is a list': (profile('executor: [local]'), 'must be a name'),
    'a profile with an option that Snakemake has not': (
        profile('cores: 1\nretrys: 3'),
        'unrecognized arguments: --retrys=3',
    ),
    'a profile with jobs in words': (profile('jobs: many'), 'must be integer'),
    'an executor that leads out': (profile('executor: ../x'), 'must be a name'),
}

PLACES = {
    'a folder of letters': (place(lambda files: files('out/letter.txt')), 'not of a run'),
    'a file for a folder': (place(lambda files: files('out', 'x')), 'is a file'),
    'a folder in a file': (place(lambda files: files('a', 'x'), 'a/out'), 'is a file'),
    'a link that leads back': (place(link('out', 'out')), 'leads nowhere'),
    'a folder behind a link that leads back': (place(link('a', 'a'), 'a/out'), 'leads nowhere'),
    'a link to nothing': (place(link('out', 'gone')), 'leads nowhere'),
    'published results': (
        place(lambda files: files('out/run.json', '{"runs": ["base"], "config": "quick", "not_run": []}')),
        'published results',
    ),
    'a run of another scale': (
        place(lambda files: files('out/run.json', '{"runs": ["base"], "config": "night"}')),
        'a run of scale night',
    ),
    'a run.json of something else': (place(lambda files: files('out/run.json', '{}')), 'lacks runs'),
    'a run.json that is a list': (
        place(lambda files: files('out/run.json', '[]')),
        'a list where named entries belong',
    ),
    'a run.json without end': (place(lambda files: files('out/run.json', DEEP)), 'nested too deeply'),
    'a run.json cut short': (place(lambda files: files('out/run.json', '{"ru')), 'cut off'),
    'the pages of the library': (place(lambda files: None, notebooks_folder().parent / 'x'), 'belongs to the program'),
    'the scales': (place(lambda files: None, workflow_folder() / 'x'), 'belongs to the program'),
    'a name that is too long': (place(lambda files: None, 'x' * 300), 'too long'),
}

NOTEBOOKS = {
    'no such folder of notebooks': (run('--notebooks', 'nowhere'), 'is no folder, and lacks teacher.ipynb'),
    'a folder without notebooks': (lambda files: run('--notebooks', files('nb/a.txt').parent), 'lacks teacher.ipynb'),
    'a notebook is missing': (notebooks(content=None, whole=NODES[:-1]), 'lacks report.ipynb'),
    'a damaged notebook': (notebooks(content='{"cells": ['), 'holds no JSON'),
    'an empty notebook': (notebooks(content=''), 'holds no JSON'),
    'a notebook of three cells': (notebooks(content='{"cells": 3}'), 'cells are no list'),
    'a notebook of numbers': (notebooks(content='{"cells": [3]}'), 'cell 1 is none'),
    'a notebook without end': (notebooks(content=DEEP), 'nested too deeply'),
    'a notebook in other bytes': (notebooks(content=b'\xff\xfe'), 'holds no JSON'),
    'a notebook without a tagged cell': (notebooks(content='{"cells": []}'), "no cells tagged 'parameters'"),
    'a notebook with an odd tagged cell': (notebooks(content=notebook('a = 2**10')), 'plain literal'),
    'a notebook without the parameters of the run': (
        notebooks(content=notebook('arm: str = ""')),
        "no parameter 'total_sentences'",
    ),
}

SCALES = {
    'no such file of a scale': (run('none.yaml'), 'There is no scale at'),
    'a scale that is damaged': (scale('scale: quick\nmodels: {'), 'in line'),
    'a scale with tabs': (scale('scale:\n\t- quick'), 'in line 2'),
    'a scale of nothing': (scale(''), 'no named entries'),
    'a scale that is a list': (scale('[1, 2]'), 'no named entries'),
    'a scale without end': (scale(DEEP), 'YAML cannot be read'),
    'a scale that runs code': (scale('scale: !!python/object/apply:os.system [ls]'), 'YAML cannot be read'),
    'a scale without seeds': (scale(seeds='nothing'), 'lacks seeds'),
    'a scale with a misspelt part': (scale(retrofitt={}), "did you mean 'retrofit'"),
    'a scale of no recipes': (scale(scale='huge'), "scale of mine.yaml is 'huge'"),
    'a scale with text for threads': (scale(threads='2'), 'must be a whole number'),
    'a scale without threads': (scale(threads=0), 'at least 1'),
    'a scale of one model': (scale(models=dict(mt5='tiny-mt5')), 'must name mt5 and rwkv'),
    'a scale with a model that is not there': (
        scale(models=dict(mt5='tiny-mt6', rwkv='tiny-rwkv')),
        "did you mean 'tiny-mt5'",
    ),
    'a scale with a misspelt arm': (scale(trained=['full_stak']), "did you mean 'full_stack'"),
    'a scale that trains the base': (scale(trained=['base']), 'put it under given'),
    'a scale with a seed below nothing': (scale(seeds=[-1]), 'must not be negative'),
    'a scale with a seed of text': (scale(seeds=['0']), 'must be a whole number'),
    'a scale with an order of no run': (scale(order=['full_stak']), "did you mean 'full_stack'"),
    'a scale with a stage of no arm': (scale(stages=dict(full_stack='no_fuzz')), 'no recipe'),
    'a scale with a search that looks for nothing': (
        scale(searches=dict(full_stack='highway')),
        'does not search for its collapse',
    ),
    'a scale with a seed twice': (scale(more_seeds=dict(full_stack=[0])), 'twice'),
    'a scale with more seeds of text': (scale(more_seeds=dict(full_stack=['1'])), 'must be a whole number'),
    'a scale with a wrong parameter': (scale(retrofit=dict(dos=1)), "did you mean 'dose'"),
    'a scale with a rate of text': (
        scale('\n'.join(f'{k}: {json.dumps(v)}' for k, v in BASE.items()) + '\nretrofit: {rate: 3e-4}'),
        'in YAML as 3.0e-4',
    ),
    'a scale with a range': (scale(evaluate=dict(quiet=-1)), 'from 0 to 100'),
    'a scale with an arm of its own': (scale(retrofit_ful_stack=dict(dose=1.0)), "did you mean 'full_stack'"),
    'a scale with a variant that leads out': (scale(variants={'no_fzr~../../x': {}}), 'cannot be a folder'),
    'a scale with a variant of no arm': (scale(variants={'no_fuzz~x': {}}), 'no recipe'),
    'a scale with a variant of nothing': (scale(variants={'no_fzr~x': 3}), 'must hold parameters'),
    'a scale with a wrong variant': (scale(variants={'no_fzr~x': dict(dose='much')}), 'must be float'),
    'a scale with a variant in the place of another': (scale(variants={'no_fzr~x': dict(out='base')}), 'use --out'),
    'a scale with a kind of forgiveness that there is not': (
        scale(variants={'tlf~x': dict(change='forgiveness.kind=two_leter')}),
        'none, two_letter or conceptual',
    ),
    'a scale with no letters to forgive': (scale(retrofit=dict(change='forgiveness.letters=0')), 'at least 1'),
    'a scale that ships nothing': (scale(shipped=dict(no_fzr='tiny-mt5-nofzr')), "did you mean 'tiny-mt5-no_fzr'"),
    'a scale with a cost of no node': (scale(minutes=dict(train=3)), 'names no node'),
    'a scale with a cost below nothing': (scale(minutes=dict(text=-3)), 'at least 0'),
}

STRICT = {
    'no such notebook': (['notebook', 'no.ipynb', 'out.ipynb'], 'There is no notebook no.ipynb'),
    'a folder for a notebook': (lambda files: ['notebook', files('d/a').parent, 'out.ipynb'], 'is a folder'),
    'a text for a notebook': (strict(content='Dear friend'), 'holds no JSON'),
    'cells that are a number': (strict(content='{"cells": 3}'), 'cells are no list'),
    'cells that are not': (strict(content='{}'), 'no cells'),
    'a cell of no kind': (strict(content=json.dumps(dict(cells=[dict(cell_type='sum', source='')]))), 'cell 1 is none'),
    'a cell without source': (strict(content=json.dumps(dict(cells=[dict(cell_type='code')]))), 'cell 1 is none'),
    'JSON that has no end': (strict(content=DEEP), 'nested too deeply'),
    'two tagged cells': (
        strict(content=json.dumps(dict(cells=[cell('a = 1', tags=['parameters'])] * 2))),
        'has 2 cells tagged',
    ),
    'code in the tagged cell': (strict(content=notebook('import os')), 'may only hold lines'),
    'brackets in the tagged cell': (strict(content=notebook('a = ' + '[' * 5000)), 'is not Python'),
    'a wrong name': (strict('-p', 'step', 3), "did you mean 'steps'"),
    'a name given twice': (strict('-p', 'steps', 3, '-p', 'steps', 4), 'given twice'),
    'a wrong type': (strict('-p', 'steps', 'few'), 'must be int'),
    'an empty number': (strict('-p', 'steps', ''), 'must be int'),
    'a number below its range': (strict('-p', 'steps', 0), 'above 0'),
    'a number above its range': (strict('-p', 'rate', '1.5'), 'from 0 to 1'),
    'a number without end': (strict('-p', 'rate', '1e999'), 'finite number'),
    'a value that is not known': (strict('-p', 'name', 'alfa'), "did you mean 'alpha'"),
    'a seed that is too large': (strict('-p', 'seed', 2**33), 'from 0 to 2147483647'),
    'upon its own source': (strict(out='exp.ipynb'), 'would be run in place'),
    'upon its source by another name': (
        lambda files: (
            os.link(files('exp.ipynb', CHECKED), files.here / 'b.ipynb'),
            ['notebook', 'exp.ipynb', 'b.ipynb'],
        )[1],
        'would be run in place',
    ),
    'upon another notebook': (
        lambda files: ['notebook', files('exp.ipynb', CHECKED), files('thesis.ipynb', notebook())],
        'would be lost',
    ),
    'upon what is no notebook': (
        lambda files: ['notebook', files('exp.ipynb', CHECKED), files('thesis.ipynb', 'Dear')],
        'holds no JSON',
    ),
    'upon a text': (strict(out='out.txt'), 'must end in .ipynb'),
    'upon a folder': (
        lambda files: ['notebook', files('exp.ipynb', CHECKED), files('d.ipynb/a').parent],
        'is a folder',
    ),
    'into a file': (strict(out='exp.ipynb/out.ipynb'), 'is a file'),
    'among the pages': (strict(out=notebooks_folder() / 'new.ipynb'), 'define the library'),
    'in a folder that is not there': (strict('--cwd', 'nowhere'), 'There is no folder'),
    'progress upon a text': (
        lambda files: ['notebook', files('exp.ipynb', CHECKED), 'out.ipynb', '--progress', files('book.txt', 'x')],
        'must end in .json',
    ),
    'progress upon other JSON': (
        lambda files: ['notebook', files('exp.ipynb', CHECKED), 'out.ipynb', '--progress', files('mine.json', '{}')],
        'would be lost',
    ),
    'progress in a file': (strict('--progress', 'exp.ipynb/p.json'), 'is a file'),
    'with an input that is not there': (strict('-i', 'none.txt'), 'does not exist'),
}

COMMANDS = {
    f'{group}: {name}': row
    for group, rows in dict(
        words=WORDS,
        **{'set': SETTINGS},
        model=MODELS,
        text=TEXTS,
        profile=PROFILES,
        out=PLACES,
        notebooks=NOTEBOOKS,
        scale=SCALES,
        notebook=STRICT,
    ).items()
    for name, row in rows.items()
} | EMPTY
