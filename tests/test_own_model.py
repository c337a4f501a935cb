"""A model of one's own: measured, planned and refused from the command line, and the bars that show how far it is."""

import io
import json
import re
from argparse import Namespace

import numpy as np
import pytest
from tiny_models import tiny

SMALL = dict(
    windows=8, length=48, robust_windows=4, bleu_windows=0, control_tokens=0, rank_to=60, wide_to=0, overlap_to=70,
    ablations=0, redraws=2, pool=17, read_length=24, baseline=100, positions=32,
    grid=dict(noise=(1.0,), nonhub=(1.0,), blur=(0.5,)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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
    assert first.startswith('Reads the first 8,000 windows of the text (512,000 tokens): ')
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
    with pytest.raises(ValueError, match="attach needs to know what to do: give a recipe"):
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
    from ff_nbdev.study.own_model import format_model, write_model_report

    model, tokenizer, text, _ = gpt2
    assert sizes_for('quick', config=model.config)['length'] == 60  # no more than it has positions
    found = evaluate(model, text, tokenizer, arm='mine', name='mine', nulls=nulls_for({}), **SMALL)
    found.save(tmp_path)
    page = write_model_report(tmp_path)
    lines = format_model(found.result, page)
    assert len(lines) <= 10 and max(map(len, lines)) <= 120
    for null in ('unigram', 'FFNs zeroed', 'noise, never pulsed: 0.0', 'units shuffled', 'chance', 'another token'):
        assert null in '\n'.join(lines)
    html = page.read_text()
    assert html.count('<figure') == html.count('aria-label="') >= 6
    assert not any(word in html for word in ('src="http', 'href="http', '<script', 'None', 'NaN'))


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
