"""A model of one's own: measured, planned and refused from the command line, and the bars that show how far it is."""

import io
import json
import re
from argparse import Namespace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import check_size_of_figures
from tiny_models import tiny

SMALL = dict(
    windows=8, length=48, robust_windows=4, bleu_windows=0, control_tokens=0, rank_to=60, wide_to=0, overlap_to=70,
    ablations=0, redraws=2, orders=5, pool=17, read_length=24, baseline=100, positions=32,
    grid=dict(noise=(1.0,), nonhub=(1.0,), blur=(0.5,)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def warned_by_transformers(use):
    "What its loggers say meanwhile, also what they say once and have said before"
    from transformers.utils import logging

    words, level = io.StringIO(), logging.get_verbosity()
    handler = logging.logging.StreamHandler(words)
    logging.logging.Logger.warning_once.cache_clear()
    logging.set_verbosity_warning()
    logging.add_handler(handler)
    try:
        use()
    finally:
        logging.remove_handler(handler)
        logging.set_verbosity(level)
    return words.getvalue()


def said(capsys, *words):
    "Exit status and what was printed"
    from ff_nbdev.cli import main

    try:
        status = main([*map(str, words)])
    except SystemExit as e:  # of argparse
        status = e.code
    got = capsys.readouterr()
    return status, got.out, got.err


@pytest.mark.parametrize(
    'words, told',
    [
        ('evaluate tiny-mt', "did you mean 'tiny-mt5'?"),
        ('evaluate tiny-mt5 --corpus no/such.txt', "No text at 'no/such.txt'"),
        ('evaluate tiny-mt5 --base tiny-rwkv', 'cannot be the base of tiny-mt5'),
        ('evaluate tiny-mt5 --base tiny-rwk', "did you mean 'tiny-rwkv'?"),
        ('evaluate tiny-mt5 --quick --full', 'give one of them'),
        ('evaluate tiny-mt5 --tokens 1', '--tokens=1 must be a whole number of at least 2'),
        ('evaluate tiny-mt5 --dose -1', '--dose=-1.0 must be a number of at least 0'),
        ('evaluate tiny-mt5 --corpsu x', "did you mean '--corpus'?"),
        ('evaluate', 'required: MODEL'),
        ('retrofit tiny-mt', "did you mean 'tiny-mt5'?"),
        ('retrofit tiny-mt5 --corpus no/such.txt', "No text at 'no/such.txt'"),
        ('retrofit tiny-mt5 --dose 0', '--dose=0.0 must be a number above 0'),
        ('retrofit tiny-mt5 --dose nan', '--dose=nan must be a number above 0'),
        ('retrofit tiny-mt5 --steps 0', '--steps=0 must be a whole number of at least 1'),
        ('retrofit tiny-mt5 --steps 20', '20 steps have no room for a dose of 1.25'),
        ('retrofit tiny-mt5 --recipe full_stak', "did you mean 'full_stack'?"),
        ('retrofit tiny-mt5 --recipe tlf_minus_fzr', 'not one that can be chosen here'),
        ('retrofit tiny-mt5 --batch 0', '--batch=0 must be a whole number of at least 1'),
        ('retrofit tiny-mt5 --teacher-tokens 0', '--teacher-tokens=0'),
        ('retrofit tiny-mt5 --rate 0', '--rate=0.0 must be a number above 0'),
        ('retrofit tiny-mt5 --windows 7', '--windows=7 must be a whole number of at least 8'),
        ('retrofit tiny-mt5 --windows -1', '--windows=-1 must be a whole number of at least 8'),
        ('retrofit tiny-mt5 --jobs 0', '--jobs must be at least 1'),
    ],
)
def test_a_mistake_is_one_sentence_before_any_work(words, told, capsys, tmp_path):
    status, out, err = said(capsys, *words.split())
    assert status == 2 and told in err and err.count('\n') == 1 and not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_else_is_kept(capsys, tmp_path):
    from ff_nbdev.run.own_model import check_out

    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'run.json').write_text('{"runs": [], "config": "quick"}')
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'letter.txt').write_text('mine')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'evaluation.json').write_text('{"source": "tiny-rwkv"}')
    for out, told in (('run', 'holds a run'), ('mine', 'not of a run'), ('other', 'an evaluation of source tiny-rwkv')):
        status, _, err = said(capsys, 'evaluate', 'tiny-mt5', '--out', out)
        assert status == 2 and told in err and 'folder with --out' in err
    (tmp_path / 'cut').mkdir()
    (tmp_path / 'cut' / 'own_model.part.ipynb').write_text('{}')
    assert check_out(tmp_path / 'cut', {}) is None  # it was cut short, and may go on
    for out, told in (('run', 'holds a run of scale quick'), ('mine', 'not of a run')):
        status, _, err = said(capsys, 'retrofit', 'tiny-mt5', '--out', out)
        assert status == 2 and told in err and len(list((tmp_path / out).iterdir())) == 1


def words(**other):
    usual = dict(model='tiny-mt5', corpus=None, recipe='full_stack', dose=1.25, steps=420, seed=0, batch=8)
    more = dict(length=128, rate=3e-4, top=2.0, teacher_tokens=60_000, windows=None)
    return Namespace(**(usual | more | other))


def test_a_retrofit_is_a_run_of_three_models(tmp_path):
    from ff_nbdev.mechanisms.config import steps_for
    from ff_nbdev.run.graph import RunGraph
    from ff_nbdev.run.own_retrofit import FILE, retrofit_plan, retrofit_settings
    from ff_nbdev.run.settings import command_for, read_scale

    plan = retrofit_plan(words())
    settings, text = retrofit_settings(plan, tmp_path / 'out')
    assert settings.runs == ['base', 'base_continued', 'full_stack'] and settings.scale == 'quick'
    given = settings.parameters['retrofit']
    assert steps_for(given['dose'], given['steps_between_pulses']) == 420
    graph = RunGraph(settings)
    of_both = [graph.words['retrofit', name] for name in ('base_continued', 'full_stack')]
    assert all('-p batch 8 ' in line and f'-p dose {plan.dose}' in line for line in of_both)
    assert all('-p windows 3360 ' in line + ' ' for line in [*of_both, graph.words['alternatives', '']])
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / FILE).write_text(text)
    assert read_scale(str(tmp_path / 'out' / FILE))['trained'] == ['base_continued', 'full_stack']
    assert retrofit_settings(plan, tmp_path / 'out')[0] == settings  # the same words go on
    (tmp_path / 'out' / 'run.json').write_text(json.dumps(settings.to_dict()))
    assert command_for(tmp_path / 'out' / 'base') == 'ff-nbdev run runs/out/retrofit.yaml --out runs/out'
    with pytest.raises(ValueError, match=r'holds another retrofit \(dose 1.25'):
        retrofit_settings(retrofit_plan(words(dose=1.0)), tmp_path / 'out')


def test_a_long_retrofit_is_no_smoke_run_and_rwkv_has_recipes_of_its_own(tmp_path):
    from ff_nbdev.run.own_retrofit import RetrofitPlan, format_regime, retrofit_plan, retrofit_scale

    long = RetrofitPlan('tiny-mt5', 'python_prose', 'full_stack', 5.4, 55_900)
    assert retrofit_scale(long)['scale'] == 'study' and 'smoke' not in format_regime(long)
    short = format_regime(RetrofitPlan('m', 'c', 'full_stack', 1.25, 420))
    assert 'smoke run: 6.6 optimizer steps' in short and 'about 200' in short and 'stays a smoke run' in short
    rwkv = retrofit_plan(words(model='tiny-rwkv', recipe='no_fzr'))
    assert rwkv.runs == ['rwkv_base', 'rwkv_base_continued', 'rwkv_no_fzr']
    assert retrofit_scale(rwkv)['models'] == dict(mt5='tiny-mt5', rwkv='tiny-rwkv')


def test_a_dry_retrofit_says_what_it_is_and_writes_nothing(capsys, monkeypatch, tmp_path):
    from ff_nbdev import cli

    monkeypatch.setattr(cli, 'format_plan', lambda settings, out, *a: f'Would run {settings.runs} in {out}.')
    status, out, err = said(capsys, 'retrofit', 'tiny-mt5', '--dry-run')
    assert status == 0 and not err and not list(tmp_path.iterdir())
    assert out.splitlines()[1].startswith('This is a smoke run: 6.6') and 'in runs/retrofit-tiny-mt5.' in out


def test_a_retrofit_reads_what_its_steps_take_and_says_so_first(capsys, monkeypatch):
    from ff_nbdev import cli
    from ff_nbdev.run.own_retrofit import format_reading, retrofit_plan, retrofit_scale

    monkeypatch.setattr(cli, 'format_plan', lambda *a: '')
    _, out, _ = said(capsys, 'retrofit', 'tiny-mt5', '--steps', 1000, '--dose', 1, '--length', 64, '--dry-run')
    first = out.splitlines()[0]
    assert first.startswith('Reads the first 8,000 windows of the text (512,000 tokens, or all where it has fewer): ')
    assert re.search(r'About \d+ minutes on one processor', first)
    few, many = (retrofit_plan(words(steps=steps)) for steps in (420, 4200))
    minutes = [int(re.search(r'About (\d+) minutes', format_reading(plan))[1]) for plan in (few, many)]
    assert 5 < minutes[0] < minutes[1] and minutes[1] > 42  # minutes of two trainings alone
    everything = retrofit_plan(words(windows=0))
    told = format_reading(everything)
    assert told.startswith('Reads all of the text') and 'a minute more' in told
    assert retrofit_scale(everything)['alternatives'] == {} and retrofit_scale(everything)['retrofit']['windows'] == 0
    given = retrofit_scale(retrofit_plan(words(windows=500)))
    assert given['alternatives'] == dict(windows=500, length=128) and given['retrofit']['windows'] == 500


def test_a_retrofit_says_what_a_short_text_holds(tmp_path):
    from ff_nbdev.run.own_model import split_tokens
    from ff_nbdev.run.own_retrofit import format_reading, retrofit_plan

    book = tmp_path / 'book.txt'
    book.write_text('\n'.join(of_splits(dict(train=600, valid=30, test=30))))
    held = split_tokens('tiny-mt5', str(book))['train'] // 64
    plan = retrofit_plan(words(corpus=str(book), length=64))
    told, times = format_reading(plan), round(plan.steps * plan.batch / held)
    assert 8 < held < 3360 and f'Reads all {held} windows that the text has for training ({held * 64:,} tok' in told
    assert f', each about {times} times: both models train on them' in told
    few = format_reading(retrofit_plan(words(corpus=str(book), length=64, windows=held - 1)))
    assert f'Reads the first {held - 1} windows of the text' in few and 'fewer' not in few
    with pytest.raises(ValueError, match=f'--batch {held + 1} is more than the {held} windows .* --batch {held}'):
        retrofit_plan(words(corpus=str(book), length=64, batch=held + 1))


def test_alternatives_of_some_windows_cover_them(tmp_path):
    "Every token of the windows that are trained on has its alternatives, and the text behind them has none"
    from ff_nbdev.data.alternatives import Alternatives, write_alternatives
    from ff_nbdev.data.corpus import load_corpus
    from ff_nbdev.data.objectives import Windows
    from ff_nbdev.data.tokens import encode_corpus
    from ff_nbdev.models.tiny import load_pretrained

    tokenizer = load_pretrained('tiny-mt5')[1]
    tokens = encode_corpus(load_corpus(), tokenizer)
    windows = Windows(tokens, 'train', 64, 20)
    sentences = int(windows.sentences.sum()) + 1  # as the notebook of the alternatives does

    def rank(texts):
        n = sum(map(len, texts))
        return np.tile(np.arange(100, 110), (n, 1)), np.tile(np.linspace(5, 1, 10), (n, 1))

    made = write_alternatives(rank, tokens, tmp_path / 'made', tokenizer, sentences=sentences, teacher='t')
    store = Alternatives(made, tokens)
    assert 20 * 64 <= len(store) < 20 * 64 + 600
    store(np.arange(20 * 64))
    with pytest.raises(Exception, match='more sentences'):
        store(np.array([len(store) + 1]))


def test_a_retrofit_starts_the_graph_and_says_where_the_models_lie(capsys, monkeypatch, tmp_path):
    from ff_nbdev import cli

    def ended(command, out, *a):
        assert '--configfile' in command and (out / 'retrofit.yaml').exists() and (out / 'run.json').exists()
        return 0, Namespace(errors=[], total={}, nothing=False)

    monkeypatch.setattr(cli, 'watch_run', ended)
    monkeypatch.setattr(cli, 'printed_findings', lambda out, scale: [f'Found at scale {scale}'])
    for _ in range(2):  # the second goes on
        status, out, err = said(capsys, 'retrofit', 'tiny-mt5', '--out', 'mine', '--plain')
        assert status == 0 and not err, err
    assert 'holds a run already' in out and "load_pretrained('mine/full_stack/model')" in out
    assert 'mine/base_continued/model' in out and 'ff-nbdev evaluate mine/full_stack/model' in out
    status, _, err = said(capsys, 'retrofit', 'tiny-mt5', '--out', 'mine', '--steps', '500')
    assert status == 2 and 'holds another retrofit' in err


@pytest.fixture(scope='module')
def gpt2(tmp_path_factory):
    "A model of another architecture as a user has it: in a folder, with its tokenizer, and a text"
    from ff_nbdev.data.corpus import load_corpus
    from ff_nbdev.data.tokenizers import train_tokenizer

    folder, model = tmp_path_factory.mktemp('own') / 'gpt2', tiny('gpt2')
    corpus = load_corpus()
    tokenizer = train_tokenizer(corpus, 512)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = dict(train=6000, valid=200, test=200)
    lines = [(corpus / f'{split}.txt').read_text().split('\n')[:n] for split, n in sizes.items()]
    return model, tokenizer, sum(lines, []), folder


def test_a_user_s_own_model_in_few_lines(gpt2, tmp_path):
    from datasets import Dataset
    from ff_nbdev import FFConfig, attach, evaluate

    model, tokenizer, text, folder = gpt2
    attach(model, FFConfig.preset('full_stack', total_sentences=1000)).remove()
    with pytest.raises(ValueError, match='attach needs to know what to do: give a recipe'):
        attach(model)
    found = evaluate(model, text, tokenizer, **SMALL)
    assert 'None' not in repr(found) and 'units shuffled' in repr(found)
    path = tmp_path / 'my.txt'
    path.write_text('\n'.join(text))
    for source in (str(path), Dataset.from_dict(dict(text=text))):
        again = evaluate(model, source, str(folder), **SMALL)  # the name of a tokenizer does too
        assert again['clean']['ce'] == pytest.approx(found['clean']['ce'], rel=0.05)
    with pytest.raises(ValueError, match=r'tokenizer is a list: .* evaluate\(model, text, tokenizer\)'):
        evaluate(model, tokenizer, text)


def test_the_page_and_the_ten_lines_of_one_model(gpt2, tmp_path):
    from ff_nbdev import evaluate
    from ff_nbdev.run.own_model import nulls_for, sizes_for
    from ff_nbdev.study.own_model import UNBEATEN, WORSE, format_model, write_model_report

    model, tokenizer, text, _ = gpt2
    assert sizes_for('quick', config=model.config)['length'] == 60  # no more than it has positions
    found = evaluate(model, text, tokenizer, arm='mine', name='mine', nulls=nulls_for({}), **SMALL)
    found.save(tmp_path)
    page = write_model_report(tmp_path)
    lines = format_model(found.result, page)
    assert WORSE in lines and len(lines) <= 11 and max(map(len, lines)) <= 120
    for null in ('unigram', 'FFNs zeroed', 'noise, never pulsed: 0.0', 'units shuffled', 'chance', 'another token'):
        assert null in '\n'.join(lines)
    assert '%, untrained ' in '\n'.join(lines)
    assert any(UNBEATEN[key] in ' '.join(lines) for key in ('names', 'alike'))  # it never trained itself
    html = page.read_text()
    assert 'same shape, untrained' in html and html.count('An untrained model') + html.count('No difference from') >= 1
    assert html.count('<figure') == html.count('aria-label="') >= 6
    assert not any(word in html for word in ('src="http', 'href="http', '<script', 'None', 'NaN'))


def test_a_model_is_held_against_one_that_never_trained(gpt2):
    from ff_nbdev import evaluate
    from ff_nbdev.run.own_model import nulls_for
    from ff_nbdev.study.own_model import UNBEATEN, format_beaten, model_rows

    assert format_beaten(0.9, [0.85, 0.95], 0.92, [0.88, 0.96], 'names') == UNBEATEN['names']
    assert format_beaten(0.9, [0.85, 0.95], 0.82, [0.76, 0.88], 'names') == UNBEATEN['alike']
    assert format_beaten(0.9, [0.85, 0.95], 0.50, [0.40, 0.60], 'names') == ''
    assert format_beaten(0.1, [0.05, 0.15], 0.50, [0.40, 0.60], 'keeps') == ''  # a distance: less is better
    assert format_beaten(0.5, [0.40, 0.60], 0.55, [0.50, 0.60], 'keeps') == UNBEATEN['alike']
    assert format_beaten(0.5, [0.40, 0.60], 0.40, [0.30, 0.50], 'keeps') == UNBEATEN['keeps']
    model, tokenizer, text, _ = gpt2
    bare = evaluate(model, text, tokenizer, nulls=nulls_for({}, untrained=False), **SMALL).result
    assert 'untrained' not in bare and all(row.untrained == '' for row in model_rows(bare))


def test_units_of_a_random_model_are_not_active_together(gpt2):
    "The bound holds for all layers at once; a planted order is found, and a random model has none"
    from transformers import GPT2LMHeadModel

    from ff_nbdev.evaluation.evaluate import Controls, _activations
    from ff_nbdev.evaluation.nulls import SHUFFLES, shuffle_bounds
    from ff_nbdev.evaluation.readings import Readings, take_sizes
    from ff_nbdev.study.own_model import _activation_row, _is_active

    model, tokenizer, text, _ = gpt2
    sizes, active = take_sizes({k: v for k, v in SMALL.items() if k != 'grid'} | dict(positions=100)), []
    for seed in range(4):
        torch.manual_seed(seed)
        found = _activations(Readings(GPT2LMHeadModel(model.config).eval(), text, tokenizer, sizes), Controls())[0]
        active += map(_is_active, found['activation_moran'])
    assert sum(active) == 0 and len(active) == 4 * model.config.n_layer
    said = _activation_row(found).said
    assert f'in 0 of {model.config.n_layer} layers' in said and f'{SHUFFLES} shuffles' in said
    planted = GPT2LMHeadModel(model.config).eval()
    for block in planted.transformer.h:  # a unit that does much what its neighbour does
        block.mlp.c_fc.weight.data = block.mlp.c_fc.weight.data.cumsum(1)
    found = _activations(Readings(planted, text, tokenizer, sizes), Controls())[0]
    assert all(map(_is_active, found['activation_moran']))
    noise = torch.randn(20, 4000, generator=torch.Generator().manual_seed(0))
    assert torch.tensor(shuffle_bounds(noise)) == pytest.approx(3.02, abs=0.25)  # of one alone 1.96


def test_the_notebook_of_one_model_is_given_what_the_words_say(gpt2, capsys, monkeypatch, tmp_path):
    from ff_nbdev.run import own_model

    got = []

    def executed(notebook, out, params, cwd, inputs, outputs, threads, **more):
        from ff_nbdev.study.examples import example_runs

        got.append((notebook.name, params, inputs))
        made = example_runs(tmp_path / 'examples') / 'full_stack' / 'evaluation.json'
        outputs[0].write_text(made.read_text())

    monkeypatch.setattr(own_model, 'run_notebook', executed)
    status, out, err = said(capsys, 'evaluate', gpt2[3], '--quick', '--tokens', 12, '--seed', 3)
    assert status == 0 and not err and out.startswith('No --corpus is given: python_prose')
    assert out.rstrip().endswith('Report: runs/evaluate-gpt2/report.html') and len(out.splitlines()) <= 12
    name, params, inputs = got[0]
    assert name == 'own_model.ipynb' and inputs == [gpt2[3]]
    assert (params['size'], params['tokens'], params['seed'], params['base']) == ('quick', 12, 3, '')
    said(capsys, 'evaluate', 'tiny-mt5-full_stack')
    assert got[1][1]['base'] == 'tiny-mt5' and got[1][1]['size'] == 'usual'  # as its record says


def test_the_dose_of_an_evaluation_comes_with_the_model(tmp_path):
    "Plain papermill gives a new folder; the record lies with the model, and one in the folder goes before it"
    from ff_nbdev.run.own_model import check_evaluation

    given = 'no_fzr', 'tiny-mt5-no_fzr', 'tiny-mt5'
    assert check_evaluation(*given, tmp_path / 'new')['dose'] == pytest.approx(1.5, abs=0.05)
    (tmp_path / 'train.json').write_text('{"dose": 3, "sentences": 9, "arm": "no_fzr"}')
    assert check_evaluation(*given, tmp_path)['dose'] == 3
    (tmp_path / 'train.json').unlink()
    assert check_evaluation('base', 'tiny-mt5', 'tiny-mt5', tmp_path) == {}
    assert check_evaluation('no_fzr', 'tiny-mt5', 'tiny-mt5', tmp_path, 2.0) == {}
    assert not list(tmp_path.iterdir())


def test_what_a_model_has_been_through():
    from ff_nbdev import load_pretrained
    from ff_nbdev.run.own_model import history_of

    known = history_of('tiny-mt5-full_stack', *load_pretrained('tiny-mt5-full_stack'))
    assert known.dose == pytest.approx(1.5, abs=0.05) and len(known.doses) == 12 and known.sentences > 0
    assert history_of('tiny-mt5', *load_pretrained('tiny-mt5'), 2.0).dose == 2


def test_a_bar_is_shown_only_where_somebody_looks(capsys, monkeypatch):
    from ff_nbdev.core import bars

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def ask(progress):
        with bars.showing(progress, 'evaluate') as bar:
            return bar

    assert ask(True) is None and ask(False) is None  # a test
    for name in ('IN_TEST', 'PYTEST_CURRENT_TEST'):
        monkeypatch.delenv(name, raising=False)
    assert ask(True) is None  # no terminal
    terminal = Terminal()
    monkeypatch.setattr(bars.sys, 'stderr', terminal)
    with bars.showing(True, 'evaluate') as bar:
        bar.update(3, 10, 'signatures')
        assert '30 %' in terminal.getvalue()
    assert terminal.getvalue().endswith('\x1b[1A\x1b[2K') or terminal.getvalue().endswith('\x1b[2K')  # it is taken away
    with pytest.raises(TypeError, match='give True, False'):
        ask('yes')


def test_a_bar_comes_to_its_end(gpt2):
    from ff_nbdev import evaluate

    class Tell(list):
        def update(self, done, total, note):
            self.append((done / total, note))

    told, (model, tokenizer, text, _) = Tell(), gpt2
    evaluate(model, text, tokenizer, progress=told, **SMALL)
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and 0.9 < fractions[-1] <= 1 and told[0] == (0, 'text')


def test_every_option_is_in_the_help_and_says_what_it_does():
    from ff_nbdev.cli import commands_of, make_parser, option_rows

    for name, parser in commands_of(make_parser()).items():
        helped = parser.format_help()
        for row in option_rows(parser):
            assert row['what it does'], (name, row)
            assert row['option'].split()[-1] in helped and row['option'].split(',')[0].split()[0] in helped
    assert json.dumps(option_rows(parser))


def of_splits(sizes):
    "Sentences of the standard text, so many of each split"
    from itertools import islice

    from ff_nbdev.data.corpus import load_corpus, read_sentences

    parts = [islice(filter(None, read_sentences(load_corpus(), split)), n) for split, n in sizes.items()]
    return [line for lines in parts for line in lines]


def test_a_small_text_loses_single_measures_and_keeps_its_report(gpt2, tmp_path):
    "The report says what the text could not carry, and how much text would"
    from ff_nbdev import evaluate
    from ff_nbdev.run.own_model import nulls_for
    from ff_nbdev.study.own_model import format_model, model_figures, model_rows, write_model_report

    model, tokenizer, _, _ = gpt2
    text = of_splits(dict(train=640, valid=17, test=17))
    found = evaluate(model, text, tokenizer, nulls=nulls_for({}), **SMALL)
    why = found['not_measured']['signatures']
    needed, have = (int(n.replace(',', '')) for n in re.findall(r'[\d,]*\d', why)[:2])
    assert re.match(r'needs about [\d,]+ held-out tokens, the text has \d+', why) and needed > have > 0
    assert found['clean']['ce'] > 0 and found['robustness'] and found['spatial'] and not found['signatures_250']
    assert why in found.table().to_string(max_colwidth=200)
    found.save(tmp_path)
    html = write_model_report(tmp_path).read_text()
    row = next(row for row in model_rows(found.result) if row.what.startswith('tokens named'))
    assert row.value == 'not measured' and why in row.said and why in html
    assert max(map(len, format_model(found.result))) <= 120
    figures, missing = model_figures(tmp_path)
    assert 'moran' in figures and any(why in said for said in missing.values())


def test_a_text_for_nothing_is_told_before_a_model_is_loaded(gpt2, capsys, monkeypatch, tmp_path):
    from ff_nbdev.run import own_model

    def loaded(*a, **more):
        raise AssertionError('it was begun')

    monkeypatch.setattr(own_model, 'run_notebook', loaded)
    (tmp_path / 'three.txt').write_text('One sentence here.\nAnother sentence there.\nThe last of the three.\n')
    few = tmp_path / 'few.txt'
    few.write_text('\n'.join(of_splits(dict(train=60, valid=1, test=1))))
    for command in ('evaluate', 'retrofit --dry-run', 'run quick --dry-run'):
        command, *more = command.split()
        model = [] if command == 'run' else [gpt2[3]]
        status, out, err = said(capsys, command, *more, *model, '--corpus', 'three.txt')
        assert status == 2 and '3 different sentences' in err and 'some 300 at least' in err and err.count('\n') == 1
        assert 'ipynb' not in err
        status, out, err = said(capsys, command, *more, *model, '--corpus', few)
        assert status == 2 and re.search(r'too small .* Some [\d,]+ sentences like these would do', err), err
    assert 'Some 300 sentences are the least' in said(capsys, 'evaluate', '--help')[1]


def test_the_library_s_own_sentence_has_no_prefix_of_a_notebook(gpt2, capsys, monkeypatch):
    from ff_nbdev.run import own_model
    from ff_nbdev.run.errors import RunError

    def refuse(*a, **more):
        raise RunError('own_model.ipynb, In[9]: ValueError: Give more. (executed so far: x)', 'Give more.')

    monkeypatch.setattr(own_model, 'run_notebook', refuse)
    status, _, err = said(capsys, 'evaluate', gpt2[3])
    assert status == 1 and err == 'ff-nbdev: Give more.\n'


def test_too_little_text_is_a_refusal(tmp_path, monkeypatch):
    import papermill

    from ff_nbdev.run import runner
    from ff_nbdev.run.errors import RunError

    def fail(*a, **more):
        raise papermill.PapermillExecutionError(1, 9, '', 'TooLittleText', 'Give more.', [])

    monkeypatch.setattr(papermill, 'execute_notebook', fail)
    with pytest.raises(RunError) as e:
        runner._execute(runner._root().parent / 'nbs/experiments/report.ipynb', tmp_path, {}, tmp_path, None, None)
    assert e.value.refused == 'Give more.'


def test_windows_are_shorter_where_little_is_held_out():
    from ff_nbdev.run.own_model import LEAST, length_for

    assert [length_for(dict(test=n)) for n in (40, 214, 256)] == [LEAST, 107, 0]
    assert length_for({}) == 0 and length_for(dict(test=40), 64) == 64


def test_it_is_said_how_lines_are_taken(tmp_path):
    import textwrap

    from ff_nbdev.run.own_model import format_text

    lines, path = of_splits(dict(train=60)), tmp_path / 'mine.txt'
    path.write_text('\n'.join(lines))
    assert format_text(str(path)) == 'mine.txt: each line is taken as a paragraph, and split into sentences.'
    path.write_text(textwrap.fill(' '.join(lines), 72))
    assert 'broken at about 72 columns, so they are joined into paragraphs' in format_text(str(path))
    assert format_text('python_prose') == ''


def test_a_failed_node_says_why_and_all_that_failed_are_told(tmp_path):
    from ff_nbdev.run.launch import failure
    from ff_nbdev.run.monitor import RunMonitor
    from ff_nbdev.run.progress import Progress

    monitor = RunMonitor(tmp_path, now=1)
    why = 'evaluate.ipynb, In[9]: ValueError: Only 0 tokens have 16 instances. ' + 'A long reason. ' * 40
    for name in ('base', 'full_stack'):
        path = tmp_path / name / 'evaluate.progress.json'
        Progress(path, f'evaluate {name}', every=0).update(0, 1, f'{why} (executed so far: /a/b.part.ipynb).', 'failed')
    lines = list(monitor.events(monitor.nodes()))
    assert all(': failed: evaluate.ipynb, In[9]: ValueError: Only 0' in line for line in lines if 'failed' in line)
    assert sum('failed' in line for line in lines) == 2 and not any('\n' in line or '/a/b' in line for line in lines)
    told = failure(monitor, tmp_path)
    assert all(
        f'evaluate {name} failed: evaluate.ipynb, In[9]: ValueError: Only 0' in told for name in ('base', 'full_stack')
    )


def test_a_notebook_that_failed_is_not_said_to_be_cut_short(tmp_path):
    from ff_nbdev.run.progress import Progress
    from ff_nbdev.run.runner import _clear

    told, out = [], tmp_path / 'x.ipynb'
    for state in ('failed', 'running'):
        out.with_suffix('.part.ipynb').write_text('{}')
        Progress(tmp_path / 'p.json', 'x', every=0).update(0, 1, 'no', state)
        _clear(out, 'x', tmp_path / 'p.json', told.append)
    assert 'run failed, so it is done again' in told[0] and 'was cut short' in told[1]


def test_the_page_of_one_model_speaks_of_one_model(gpt2, tmp_path):
    "Layers, words and captions of a decoder; marks that are hollow in the dark; the command in one form"
    from ff_nbdev import evaluate
    from ff_nbdev.run.own_model import nulls_for
    from ff_nbdev.study.own_model import model_figures, write_model_report

    model, tokenizer, text, _ = gpt2
    about = dict(source='/tmp/w/../my/gpt2', corpus_source='/tmp/my text.txt', size='quick')
    shown = dict(arm='mine', name='mine', metadata=about, nulls=nulls_for({}))
    evaluate(model, text, tokenizer, **shown, **SMALL).save(tmp_path)
    html = write_model_report(tmp_path).read_text()
    assert f"ff-nbdev evaluate /tmp/my/gpt2 --corpus '/tmp/my text.txt' --quick --out {tmp_path}" in unescape(html)
    drawn = html[: html.index('id="tables"')]
    assert 'layer 0' in drawn and 'dec 0' not in drawn and 'Ġ' not in drawn and 'decoder' not in html
    assert '>value<' not in drawn and '>input<' in drawn and 'edge of the kernel' in drawn
    assert 'any run' not in html and 'main run' not in html and '>run<' not in drawn and ' in mine to ' not in html
    assert '#444444' not in html and 'fill: #ffffff' not in html and 'var(--bg, #ffffff)' in html
    assert 'What the words mean' in html and 'compared with' in html[: html.index('</style>')]
    figures, missing = model_figures(tmp_path)
    assert 'signatures' in figures and 'is named from 1 or 16 others' in figures['signatures'].caption
    assert 'robustness' not in figures  # of a random model nothing is measurable


def test_no_warning_of_a_loss_that_nobody_asked_for(gpt2):
    "GPT-2's class has no name that transformers knows a loss by; here no loss of its own is asked for"
    from transformers import AutoModelForCausalLM

    from ff_nbdev import load_pretrained
    from ff_nbdev.evaluation.base_test import token_scores
    from ff_nbdev.models.ablation import ffn_means

    ids = torch.arange(1, 9)[None]
    batch = dict(input_ids=ids, labels=ids, index=torch.zeros(1))

    def use(model):
        ffn_means(model, [batch])
        token_scores(model, [batch], [0])
        assert model(input_ids=ids, labels=ids).loss.item() > 0

    assert 'loss_type' not in warned_by_transformers(lambda: use(load_pretrained(gpt2[3])[0]))
    as_it_comes = AutoModelForCausalLM.from_pretrained(gpt2[3])
    assert 'loss_type' in warned_by_transformers(lambda: as_it_comes(input_ids=ids, labels=ids))


def test_a_retrofit_takes_the_windows_that_the_model_takes(gpt2, capsys, monkeypatch):
    "As `evaluate` and `atlas` do, and it says so; more than the model takes is refused"
    from ff_nbdev import cli
    from ff_nbdev.run.own_model import atlas_parameters, format_room, positions_of, sizes_for, window_length
    from ff_nbdev.run.own_retrofit import retrofit_plan, retrofit_scale

    folder = str(gpt2[3])
    plan = retrofit_plan(words(model=folder, length=0))
    assert plan.length == 60 == sizes_for('usual', config=gpt2[0].config)['length']
    assert retrofit_scale(plan)['retrofit']['length'] == 60 == retrofit_scale(plan)['alternatives']['length']
    asked = dict(model=folder, corpus='python_prose', beside=None, out=None, seed=0)
    assert atlas_parameters(Namespace(**asked))['length'] == 60  # as the sentence says
    assert retrofit_plan(words(length=0)).length == 128 and format_room('tiny-mt5') == '' == format_room(folder, 40)
    assert positions_of(gpt2[0].config) == positions_of(folder) == 64
    assert [window_length(n) for n in (0, 131, 132, 64)] == [128, 127, 128, 60]
    assert sizes_for('full', config=Namespace(to_dict=lambda: dict(n_positions=24)))['read_length'] == 20
    monkeypatch.setattr(cli, 'format_plan', lambda *a: '')
    status, out, err = said(capsys, 'retrofit', folder, '--dry-run')
    assert status == 0 and not err
    assert 'The model takes 64 tokens at once, so it is read in windows of 60.' in out.splitlines()
    status, _, err = said(capsys, 'retrofit', folder, '--length', 65, '--dry-run')
    assert status == 2 and 'give at most --length 64' in err and err.count('\n') == 1


def test_a_text_that_was_split_before_is_not_called_too_small(gpt2, capsys, tmp_path):
    from ff_nbdev.data.corpus import load_corpus

    lines = [line for line in (load_corpus() / 'train.txt').read_text().split('\n') if line][:2000]
    (tmp_path / 'part.txt').write_text('\n'.join(lines))
    status, _, err = said(capsys, 'evaluate', gpt2[3], '--corpus', 'part.txt')
    assert status == 2 and 'none falls to valid or test' in err and 'give the whole text' in err
    status, _, err = said(capsys, 'retrofit', gpt2[3], '--steps', 0)
    assert status == 2 and 'at most 1,000,000,000.' in err


def test_how_much_text_all_measures_take_is_what_the_help_says(capsys):
    "On the standard text, from how often its tokens come"
    from ff_nbdev.data.corpus import load_corpus
    from ff_nbdev.data.store import corpus_info
    from ff_nbdev.evaluation.evaluate import _held_out_needed
    from ff_nbdev.evaluation.readings import Readings, take_sizes
    from ff_nbdev.run.own_model import sizes_for

    readings = Readings('tiny-mt5', size=take_sizes(sizes_for('usual')))
    sentences = sum(corpus_info(load_corpus())['sentences'].values())
    enough = sentences * _held_out_needed(readings) / len(readings.test.ids)
    told = re.search(r'takes some ([\d,]+) sentences', ' '.join(said(capsys, 'evaluate', '--help')[1].split()))
    assert int(told[1].replace(',', '')) == pytest.approx(enough, rel=0.1)


def test_windows_are_within_the_positions_of_the_model(gpt2):
    from ff_nbdev.run.own_model import check_length, length_for, positions_of

    most = positions_of(gpt2[3])
    assert most and length_for(dict(test=209), 0, 64) == 60 and length_for(dict(test=209), 64, 64) == 64
    assert length_for(dict(test=209)) == 104 and positions_of('tiny-mt5') == 0
    with pytest.raises(ValueError, match=f'give at most --length {most}'):
        check_length(gpt2[3], most + 1)
    check_length(gpt2[3], most)


def test_the_repeat_command_is_that_of_the_run():
    from ff_nbdev.study.own_model import _again

    found = dict(source='m', corpus_source='t.txt', size='quick', asked=dict(length=64, seed=3, tokens=0, dose=None))
    assert _again(found) == 'ff-nbdev evaluate m --corpus t.txt --quick --length 64 --seed 3'


def test_figures_can_be_read_on_a_phone(browser, tmp_path):
    "They keep their size and scroll; the page itself does not"
    from ff_nbdev.study.examples import example_runs
    from ff_nbdev.study.own_model import write_model_report

    page = browser.new_page(viewport=dict(width=390, height=800))
    page.goto(write_model_report(example_runs(tmp_path / 'quick', ['full_stack']) / 'full_stack').as_uri())
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    check_size_of_figures(page)
    page.close()


def test_a_retrofit_takes_a_text_of_few_different_tokens(tmp_path):
    "A text of bytes or of few words has no ranks 51 to 150: its run keeps the bands of those that it has"
    from ff_nbdev.data.objectives import Windows
    from ff_nbdev.evaluation.activations import frequent_tokens
    from ff_nbdev.models.tiny import load_pretrained
    from ff_nbdev.run.prepare import _probe_tokens

    tokenizer = load_pretrained('tiny-mt5')[1]

    def windows(ids):
        few = object.__new__(Windows)
        few.ids = np.array(ids)
        return few

    few = windows([*range(300, 340)] * 5)
    assert len(_probe_tokens(few, tokenizer)) == 5 and set(_probe_tokens(few, tokenizer)) <= set(few.ids)
    many = windows([*range(300, 600)] * 5)
    assert (_probe_tokens(many, tokenizer) == frequent_tokens(many, tokenizer, 51, 150)[::9][:12]).all()


@pytest.mark.parametrize('breaks, told', [('head', 'lacks head.weight'), ('nan', 'NaN or infinite, in head.weight')])
def test_weights_that_are_random_or_broken_are_told_before_anything_is_measured(breaks, told, tmp_path):
    from ff_nbdev.models.tiny import load_pretrained, new_model

    model, tokenizer = new_model('rwkv', vocab_size=2000), load_pretrained('tiny-rwkv')[1]
    tokenizer.save_pretrained(tmp_path / 'm')
    state = dict(model.state_dict())
    if breaks == 'head':
        del state['head.weight']
    else:
        state['head.weight'][0, 0] = torch.nan
    model.save_pretrained(tmp_path / 'm', state_dict=state)
    with pytest.raises(ValueError, match=told):
        load_pretrained(tmp_path / 'm')


def test_a_model_worse_than_word_frequencies_says_so_in_the_terminal():
    "As with the tokenizer of another model, whose ids mean nothing to this one"
    from ff_nbdev.study.own_model import WORSE, format_model

    path = Path(__file__).parent.parent / 'results/remeasured/base/evaluation.json'
    found = json.loads(path.read_text('utf-8'))
    worse = found | dict(clean=found['clean'] | dict(ce=found['unigram_ce'] + 1.0))
    assert WORSE in format_model(worse) and WORSE not in format_model(found) and len(WORSE) <= 120


def test_an_interval_stands_in_its_own_column():
    from ff_nbdev.study.own_model import model_rows, model_table

    path = Path(__file__).parent.parent / 'results/remeasured/base/evaluation.json'
    found = json.loads(path.read_text('utf-8'))
    rows = {row.what: row for row in model_rows(found)}
    noise = rows['noise that halves the FFN contribution']
    assert [noise.value, noise.interval] == ['2', '[1.8, 2.3]'] and '<td>[1.8, 2.3]</td>' in model_table(found)
    assert not any('[' in row.value for row in rows.values())
    found['robustness']['threshold']['noise']['relative'] = None
    noise = {row.what: row for row in model_rows(found)}['noise that halves the FFN contribution']
    assert [noise.value, noise.interval] == ['> 9, not reached', '']


def test_a_teacher_that_goes_on_beside_a_failed_training_says_why(tmp_path):
    "For a recipe that did not fail; where none is left, because what it makes is kept"
    from ff_nbdev.run.graph import RunGraph
    from ff_nbdev.run.launch import _explain_rest, format_rest, lost_runs
    from ff_nbdev.run.monitor import RunMonitor
    from ff_nbdev.run.own_retrofit import RetrofitPlan, retrofit_settings
    from ff_nbdev.run.progress import Progress

    settings, _ = retrofit_settings(RetrofitPlan('tiny-mt5', 'python_prose', 'full_stack', 1.25, 420), tmp_path)
    (tmp_path / 'run.json').write_text(json.dumps(settings.to_dict()))
    graph = RunGraph(settings)
    assert [lost_runs(graph, [node]) for node in ('evaluate base', 'retrofit base_continued', 'teacher')] == [
        set(),
        {'base_continued'},
        {'full_stack'},
    ]
    states = [dict(node='retrofit full_stack', state='failed'), dict(node='alternatives', state='running')]
    assert 'no run that is left needs it, and what it makes is kept' in format_rest(graph, states)['alternatives']
    Progress(tmp_path / 't.progress.json', 'teacher', every=0).update(1, 9)
    screen, told, monitor = Namespace(said=[]), {}, RunMonitor(tmp_path, now=1)
    screen.log = screen.said.append
    _explain_rest(monitor, monitor.nodes(), screen, told)
    assert not screen.said  # nothing failed yet
    Progress(tmp_path / 'b.progress.json', 'retrofit base_continued', every=0).update(0, 1, 'no', 'failed')
    for _ in range(2):
        _explain_rest(monitor, monitor.nodes(), screen, told)
    said = [line.split('  ')[-1] for line in screen.said]
    assert said == ['teacher goes on: needed by full_stack, which did not fail.']
