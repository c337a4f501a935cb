"""Reports from run folders with planted effects: each rule of wording, each way a folder can be broken, the page."""

import copy
import html.parser
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine
from shared import check_size_of_figures

from ff_nbdev.core.provenance import save_json
from ff_nbdev.study import findings as F
from ff_nbdev.study import report as R
from ff_nbdev.study.curves import dose_points
from ff_nbdev.study.effects import difference, verdict, within
from ff_nbdev.study.examples import QUICK, example_runs
from ff_nbdev.study.figures import FIGURES, all_figures, phases
from ff_nbdev.study.overview import OVERVIEW, overview_figures
from ff_nbdev.study.numbers import above_null, compare_thresholds, main_run, spatial_numbers
from ff_nbdev.study.claims import VERDICTS
from ff_nbdev.study.regime_rules import SECOND
from ff_nbdev.study.verdict_grid import PLACES, SHAPES, VerdictGrid, kind_of
from ff_nbdev.study.records import Runs, load_run, load_runs, paired_interval, ce_increase


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return example_runs(tmp_path_factory.mktemp('runs') / 'quick')


@pytest.fixture(scope='module')
def runs(folder):
    return load_runs(folder)


@pytest.fixture(scope='module')
def written(folder, tmp_path_factory):
    "The report of the folder"
    return R.write_report(folder, tmp_path_factory.mktemp('written') / 'report.html')


@pytest.fixture
def loose(monkeypatch):
    "Figures whose parts are not put in their places: enough where only words are read"
    monkeypatch.setattr(ConstrainedLayoutEngine, 'execute', lambda engine, figure: None)


def changed(runs, arm, **paths):
    "The runs, with entries of one evaluation changed: a__b=value"
    evaluation = copy.deepcopy(runs[arm].evaluation.to_dict())
    for path, value in paths.items():
        *way, last = path.split('__')
        entry = evaluation
        for key in way:
            entry = entry[key]
        entry[last] = value
    return Runs({**runs, arm: replace(runs[arm], evaluation=evaluation)})


def priced(lo, hi):
    return dict(relative=(lo + hi) / 2, relative_lo=lo, relative_hi=hi)


def planted(tmp_path, *arms, **effects):
    return load_runs(example_runs(tmp_path / 'quick', list(arms) or QUICK, **effects))


# --- rules


@pytest.mark.parametrize(
    'interval,control,word',
    [
        ((0.1, 0.2), False, 'holds'),
        ((0.1, 0.2), True, 'fails'),
        ((-0.2, -0.1), False, 'fails'),
        ((-0.1, 0.1), False, 'undecided'),
        ((-0.1, 0.1), True, 'undecided'),
        ((0.0, 0.1), False, 'undecided'),
    ],
)
def test_verdict(interval, control, word):
    assert verdict(*interval, control) == word


@pytest.mark.parametrize(
    'interval,word',
    [((-0.02, 0.01), 'holds'), ((0.011, 0.02), 'fails'), ((0.005, 0.015), 'undecided'), ((-0.3, -0.2), 'holds')],
)
def test_within(interval, word):
    assert within(*interval, 0.01) == word


def test_difference_is_symmetric():
    a, b = (0.5, 0.45, 0.6), (0.3, 0.2, 0.35)
    d, e = difference(a, b), difference(b, a)
    np.testing.assert_allclose(d, (-e[0], -e[2], -e[1]))


# --- sentences, a branch each


@pytest.mark.parametrize(
    'interval,words',
    [
        ((-0.03, -0.01), 'There is no cost.'),
        ((-0.001, 0.005), 'That is within the margin of 1 %.'),
        ((0.02, 0.03), 'it is not free'),
        ((0.005, 0.02), 'undecided'),
    ],
)
def test_ce_increase_sentence(interval, words):
    assert words in F.format_ce_increase(priced(*interval), 'x', 0.6)


@pytest.mark.parametrize(
    'change,words',
    [
        ({}, 'passes its test'),
        (dict(clean__ce=5.9), 'fails its test'),
        (dict(clean__ce=4.9, floors__zero__ce=5.5, floors__mean__ce=5.5), 'learned too little'),
        (dict(floors__zero__ce=4.1), 'do too little'),
        (dict(floors__mean__ce=4.1), 'do too little'),
    ],
)
def test_base_sentence(runs, change, words):
    assert words in F.format_base(changed(runs, 'base', **change)['base'])


@pytest.mark.parametrize(
    'effects,words',
    [
        (dict(), 'no clustering beyond smoothing is shown'),
        (dict(moran=0.1), '12 of 12 matrices lie above'),
        (dict(moran=0.1, line=0.2), 'above them in 4 of 4 layers'),
        (dict(moran=-0.1), '0 of 12 matrices'),
    ],
)
def test_spatial_sentence(tmp_path, effects, words):
    runs = planted(tmp_path, 'base', 'full_stack', **effects)
    assert words in F.format_spatial(spatial_numbers(runs['full_stack']), 'full_stack')


def test_spatial_sentence_without_null(runs):
    rows = [row | dict(null_queen=None) for row in runs['full_stack'].evaluation['spatial']]
    bare = changed(runs, 'full_stack', spatial=rows)
    assert 'says nothing' in F.format_spatial(spatial_numbers(bare['full_stack']), 'full_stack')
    assert 'dose null –' in SECOND['C3'][0](bare.__getitem__).words


def test_a_matrix_must_lie_above_both_of_its_nulls(runs):
    def between(own_null):
        rows = []
        for row in runs['full_stack'].evaluation['spatial']:
            null = row['null_queen']
            rows.append(row | dict(moran_queen=null + 0.02, null_permuted=null + own_null, null_permuted_sd=0.001))
        return spatial_numbers(changed(runs, 'full_stack', spatial=rows)['full_stack'])

    a, b = between(0.03), between(0.01)
    assert (a['above'], a['below']) == (0, 0) and (b['above'], b['below']) == (b['of'], 0)
    assert 'lie above both' in F.format_spatial(b, 'full_stack')
    assert 'no clustering beyond' in F.format_spatial(a, 'full_stack')


@pytest.mark.parametrize(
    'effects,words',
    [
        (dict(sixteen=0.8), 'full_stack names more'),
        (dict(sixteen=0.2), 'no difference is shown'),
        (dict(sixteen=0.1), 'full_stack names fewer'),
        (dict(sixteen=0.02), 'not shown to be above chance'),
        (dict(sixteen=0.9), 'Fuzzy recall improves it'),
        (dict(sixteen=0.7), 'no difference that can be seen'),
        (dict(sixteen=0.5), 'Fuzzy recall makes it worse'),
        (dict(sixteen=0.5), 'as many or more'),
        (dict(sixteen=0.6), 'on raw activations names 55 %.'),
    ],
)
def test_signature_sentence(tmp_path, effects, words):
    assert words in F.format_signatures(planted(tmp_path, **effects), 'full_stack')


@pytest.mark.parametrize(
    'effects,words',
    [
        (dict(half=3.4), 'base_continued: 1.6 [1.4, 1.8]; full_stack is more robust'),
        (dict(half=1.6), 'base_continued: 1.6 [1.4, 1.8]; no difference is shown'),
        (dict(half=1.0), 'full_stack is less robust'),
        (dict(ffn=0.05), 'not measurable'),
    ],
)
def test_robustness_sentence(tmp_path, effects, words):
    assert words in F.format_robustness(planted(tmp_path, **effects), 'full_stack')


def test_threshold_that_is_not_reached(runs):
    far = dict(relative=None, relative_ci=[5.0, None], half_of_clean=None, top=6.0)
    base = runs['base'].evaluation['robustness']['threshold']['noise']
    some = changed(runs, 'full_stack', robustness__threshold__noise=far)
    assert 'contribution: > 6, not reached in full_stack' in F.format_robustness(some, 'full_stack')
    assert compare_thresholds(far, base) == 'higher' and compare_thresholds(far, far) == 'undecided'
    assert compare_thresholds(base, far) == 'lower'


@pytest.mark.parametrize(
    'scale,words', [('quick', 'no evidence for or against'), ('synthetic', 'invented'), ('paper', 'Scale paper. ')]
)
def test_scale_sentence(runs, scale, words):
    said = F.format_scale(changed(runs, 'full_stack', scale=scale))
    assert words in said and ('Smoke' in said) == (scale == 'quick')


def test_findings_are_three_to_seven_sentences(runs):
    for some in (runs, Runs(base=runs['base']), Runs({arm: runs[arm] for arm in ('base', 'no_fzr')})):
        said = F.findings(some)
        assert 3 <= len(said) <= 7 and all(sentence.endswith('.') for sentence in said)
    assert len(F.findings(runs)) == 7


def test_findings_of_an_arm_that_is_no_better_than_its_controls(tmp_path):
    said = ' '.join(F.findings(planted(tmp_path, ce_increase=0.3, one=0.06, sixteen=0.2, half=1.6, moran=-0.02)))
    assert 'it is not free' in said and 'no clustering beyond smoothing is shown' in said
    assert 'no difference is shown' in said and 'Fuzzy recall makes it worse' in said
    assert 'full_stack is less robust' in said


BRACKETS = re.compile(r'\[[^]]*\]|\([^)]*\)|\d+:\d+|\d-D|[a-zA-Z_~]+\d[\d.]*')


@pytest.mark.parametrize('effects', [{}, dict(ce_increase=0.3, sixteen=0.2, half=1.6, moran=-0.02), dict(ffn=0.05)])
def test_a_sentence_has_two_numbers_at_most(tmp_path, loose, effects):
    runs = planted(tmp_path, **effects)
    figures = all_figures(runs)[0] | overview_figures(runs)[0]
    said = F.findings(changed(runs, 'full_stack', scale='mini')) + [figure.caption for figure in figures.values()]
    for text in [*said, *(figure.title for figure in figures.values())]:
        for sentence in re.split(r'[.;] ', BRACKETS.sub('', text)):
            assert len(re.findall(r'\d+(?:[.,]\d+)*', sentence)) <= 2, sentence
        assert not re.search(r'\b([Pp]rices?|arms?|shares?|stands? (more|less))\b', text), text


def with_verdict(verdicts, word):
    return {claim.split()[0] for claim, verdict in verdicts.items() if verdict == word}


def test_verdicts_follow_the_planted_effects(tmp_path):
    good = R.verdicts(
        load_runs(example_runs(tmp_path / 'good', ce_increase=0.0, moran=0.1, line=0.2, sixteen=0.9, half=4.0))
    )
    poor = R.verdicts(load_runs(example_runs(tmp_path / 'poor', ce_increase=0.3, sixteen=0.15, half=1.0)))
    dead = R.verdicts(load_runs(example_runs(tmp_path / 'dead', ffn=0.05)))
    assert with_verdict(good, 'holds') >= {'C1', 'C3', 'C4', 'C11', 'C12', 'C13', 'C14', 'C15', 'C16'}, good
    assert 'fails' not in good.values(), good
    assert with_verdict(poor, 'fails') >= {'C1', 'C11', 'C12', 'C15', 'C16'}, poor
    assert with_verdict(poor, 'holds').isdisjoint({'C3', 'C4', 'C14'}) and poor.keys() == good.keys(), poor
    assert dead.keys().isdisjoint(claim for claim in good if claim.startswith(('C15', 'C16')))


@pytest.mark.parametrize('drop, words', [(0.0, ''), (0.02, 'the curves cross at'), (1.0, 'the curves do not cross')])
def test_where_an_arm_is_ahead(tmp_path, drop, words):
    runs = planted(tmp_path)
    own, theirs = (runs[arm].evaluation.robustness.noise for arm in ('full_stack', 'base_continued'))
    points = []
    for number, (point, other) in enumerate(zip(own, theirs)):
        below = number == 0 or drop == 1
        points.append(point | dict(accuracy=other.accuracy - drop if below else other.accuracy + 0.01))
    said = F.format_robustness(changed(runs, 'full_stack', robustness__noise=points), 'full_stack')
    assert words in said and ('fewer correct tokens' in said) == bool(drop)


# --- the grid and the four figures


def test_a_cell_has_a_colour_a_shape_and_a_way_to_its_number():
    row = dict(id='C1', claim='It costs <nothing>', value=None)
    some = [row | dict(verdict=verdict, id=f'C{k}') for k, verdict in enumerate(VERDICTS)]
    text = VerdictGrid(dict(mT5=some, RWKV=some[:2]), dict(mT5={'C0': '#fig-effects'}, RWKV={})).html()
    for name in VERDICTS:
        assert SHAPES[name] in text and f'class="{kind_of(name)}"' in text
    assert len(set(SHAPES.values())) == len(VERDICTS) and '<nothing>' not in text
    assert text.count('<a href="#fig-effects"') == 1 and '1 claim has not run' in text
    assert set(PLACES) == {f'C{number}' for number in range(1, 26)}


def with_clock(runs, name, between, increase):
    "A run at another clock, whose windows cost more than those of base_continued by a fraction"
    free = runs['base_continued']
    ce = free.arrays['window_ce'] * (1 + increase)
    train = runs['full_stack'].train
    regime = train['regime'] | dict(steps_between_pulses=between)
    arrays = free.arrays | dict(window_ce=ce)
    return replace(runs['full_stack'], name=name, train=train | dict(regime=regime), arrays=arrays)


@pytest.mark.parametrize(
    'later, words',
    [(0.01, 'cost less'), (0.09, 'cost more'), (0.05, 'No healing is shown'), (None, 'No curve')],
)
def test_the_healing_curve_says_what_is_seen(runs, loose, later, words):
    some = Runs(base_continued=runs['base_continued'], full_stack=with_clock(runs, 'full_stack', 5.8, 0.05))
    if later is not None:
        some.variants['full_stack~long'] = with_clock(runs, 'full_stack~long', 200.0, later)
    figure = OVERVIEW['healing'](some)
    assert words in figure.title and ('1 of 2' in figure.caption) == (later is not None)


def test_titles_follow_the_effects(tmp_path, loose):
    good = planted(tmp_path / 'good', moran=0.1, line=0.2, sixteen=0.9)
    poor = planted(tmp_path / 'poor', ce_increase=0.3, sixteen=0.02)
    good, poor = (overview_figures(some)[0] for some in (good, poor))
    assert 'names more tokens' in good['effects'].title and 'names fewer tokens' in poor['effects'].title
    assert '12 of 12 matrices' in good['nulls'].title and '0 of 12 matrices' in poor['nulls'].title
    assert all(figure.above and figure.title in figure.alt for figure in good.values())


def test_an_atlas_beside_the_report_is_linked(runs, loose, tmp_path):
    (tmp_path / 'atlas.html').write_text('here')
    assert '<a href="atlas.html">the atlas</a>' in R.write_report(Runs(base=runs['base']), tmp_path).read_text()


# --- folders


@pytest.mark.parametrize(
    'arm,name', [('full_stack', 'evaluation.json'), ('full_stack', 'train.json'), ('base', 'evaluation.json')]
)
def test_half_finished_run_names_file_and_command(tmp_path, arm, name):
    folder = example_runs(tmp_path / 'quick')
    (folder / arm / name).unlink()
    words = rf'{arm} is half finished: {name} is missing. Make it with `ff-nbdev run quick`.$'
    with pytest.raises(FileNotFoundError, match=words):
        R.write_report(folder)
    assert not (folder / 'report.html').exists()


@pytest.mark.parametrize('text', ['', '{"clean": {"ce": 3.', 'null', '[]', '{}'])
def test_damaged_json(tmp_path, text):
    folder = example_runs(tmp_path / 'quick', ['base'])
    (folder / 'base' / 'evaluation.json').write_text(text)
    with pytest.raises(ValueError, match='make it again with `ff-nbdev run quick`'):
        load_run(folder / 'base')


def test_cut_off_arrays(tmp_path):
    path = example_runs(tmp_path / 'quick', ['base']) / 'base' / 'evaluation.npz'
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match='cut off'):
        load_run(path.parent)


def test_planned_arm_that_was_never_started(tmp_path):
    folder = example_runs(tmp_path / 'mine', ['base'])
    planned = dict(scale='quick', corpus='python_prose', seed=0, given=['base'], trained=['tlf'])
    (folder / 'run.json').write_text(json.dumps(planned))
    words = r'no run folder .*tlf. Make it with `ff-nbdev run quick --recipes base tlf --out runs/mine`'
    with pytest.raises(FileNotFoundError, match=words):
        load_runs(folder)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), np.float32('nan')])
def test_nan_is_refused_and_the_old_file_stays(tmp_path, bad):
    path = save_json(dict(a=1), tmp_path / 'x.json')
    with pytest.raises(ValueError, match=r'a\.b\[1\] is'):
        save_json(dict(a=dict(b=[1.0, bad])), path)
    assert json.loads(path.read_text()) == dict(a=1) and len(list(tmp_path.iterdir())) == 1


def test_paired_interval_covers_the_truth():
    rng, hits = np.random.default_rng(0), 0
    for i in range(100):
        d, base = rng.normal(0.1, 0.3, 80), rng.normal(4, 1, 80)
        _, lo, hi = paired_interval(base + d, base, draws=300, seed=i)
        hits += lo <= 0.1 <= hi
    assert 88 <= hits <= 100


def test_price_without_window_scores_is_wider_and_says_so(runs):
    a, b = runs['full_stack'], runs['base_continued']
    loose, tight = ce_increase(replace(a, arrays={}), b), ce_increase(a, b)
    assert tight['paired'] and not loose['paired'] and 'unpaired' in loose['resampled']
    assert loose['hi'] - loose['lo'] > tight['hi'] - tight['lo']


# --- figures and page


def test_figures(runs):
    figures, missing = all_figures(runs)
    assert not missing and len(figures) == 15
    for figure in figures.values():
        axes, caption = figure.figure.axes, figure.caption
        assert any(ax.get_xlabel() for ax in axes) or any(ax.get_ylabel() for ax in axes)
        assert caption.endswith('.')
        assert caption[0].isupper() or caption[0].isdigit() or caption.startswith(tuple(runs)), caption
        assert len(figure.png()) < 60_000 and figure.svg() == figure.svg()
    assert main_run(runs) == 'full_stack' and main_run(Runs(base=runs['base'])) is None
    assert phases([]) == {} and 'noise' not in phases(runs['no_fzr'].train['log'])


def test_a_caption_follows_its_numbers(runs):
    row = dict(runs['full_stack'].evaluation['spatial'][0])
    assert not above_null(dict(row, moran_queen=row['null_queen']))
    assert above_null(dict(row, moran_queen=row['null_queen'] + 0.05))
    better = {'signatures__16:16__accuracy': 0.99, 'signatures__16:16__ci': [0.98, 1.0]}
    captions = [FIGURES['signatures'](some).caption for some in (runs, changed(runs, 'full_stack', **better))]
    assert captions[0] != captions[1]


class Page(html.parser.HTMLParser):
    VOID = {'meta', 'img', 'br', 'link', 'hr', 'input'}

    def __init__(self):
        super().__init__()
        self.stack, self.tags, self.ids, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [attrs[key] for key in ('src', 'href', 'xlink:href') if key in attrs]
        if 'id' in attrs:
            self.ids.append(attrs['id'])
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.stack and tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, (tag, self.stack[-3:])
        self.stack.pop()


def test_page_is_whole_and_asks_for_nothing(written):
    text, page = written.read_text(encoding='utf-8'), Page()
    page.feed(text)
    assert not page.stack and written.stat().st_size < 4e6
    assert page.tags.count('svg') == 19 and 'script' not in page.tags
    assert page.tags.count('table') >= 8 and text.count('<svg') == 19 and text.count('<table') >= 8
    assert all(link.startswith(('#', 'data:')) for link in page.links)
    assert not re.search(r'url\((?!["\']?#)', text) and '@import' not in text and '<script' not in text
    outside = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]+)', text)
    assert all(link.startswith(('#', 'data:')) for link in outside), outside[:5]
    anchors = {link[1:] for link in page.links if link.startswith('#') and 'fig' not in link}
    named = {'base', 'arms', 'space', 'signatures', 'robustness', 'limits'}
    assert anchors & named <= set(page.ids)
    assert anchors <= set(page.ids)
    assert text.index('Is the base a model') < text.index('id="arms"') < text.index('id="space"')
    order = ['class="verdicts"', *(f'id="fig-{name}"' for name in OVERVIEW), 'id="base"']
    assert sorted(order, key=text.index) == order
    unfolded = text
    while '<details>' in unfolded:
        unfolded = re.sub(r'(?s)<details>(?:(?!<details>).)*?</details>', '', unfolded)
    assert '<th>run</th>' in text and '<th>run</th>' not in unfolded  # every table of numbers is folded
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', text)
    assert len(labels) == 19 and all(len(label.split()) > 8 for label in labels)
    words = re.sub(r'(?s)<(style|svg).*?</\1>|<[^>]+>', ' ', unfolded).split()
    assert len(words) <= 1_500


def test_page_says_what_it_was_made_of(folder, written):
    text, record = written.read_text(encoding='utf-8'), json.loads(written.with_suffix('.json').read_text())
    for words in (
        'invented',
        'ten alternatives a token',
        'version 2, 2026-11-29',
        'ff-nbdev run quick',
        'base_reordered',
        'prefers-color-scheme',
        'name="viewport"',
        '18.6',
        '0.961',
    ):
        assert words in text, words
    assert record['findings'] == F.findings(load_runs(folder))
    assert record['verdicts'] and len(record['arms']) == len(QUICK)


def test_report_of_an_arm_without_pulses(runs, loose, tmp_path):
    out = R.write_report(Runs(base=runs['base']), tmp_path / 'only.html')
    assert 'No run with pulses' in out.read_text()
    assert json.loads(out.with_suffix('.json').read_text())['verdicts'] == {}


def test_findings_where_only_variants_were_pulsed(runs):
    "As in a study that varies every run: no run has the settings of the scale"
    varied = Runs(base=runs['base'])
    varied.variants = {f'full_stack~dose_{k}': runs['full_stack'] for k in range(3)}
    assert F.findings(varied)[-1].startswith('Only variants were pulsed (3), and no run with the settings of')
    assert dose_points(varied) == []


def test_page_escapes_names(runs, loose):
    assert '<script>' not in R.page(changed(runs, 'base', corpus='<script>alert(1)</script>'), {}, {})


@pytest.mark.parametrize(
    'arms', [['base'], ['base', 'base_continued'], ['base', 'full_stack'], ['base_continued', 'no_fzr'], ['full_stack']]
)
def test_any_arms_make_a_report(tmp_path, loose, arms):
    out = R.write_report(example_runs(tmp_path / 'quick', arms))
    assert out == tmp_path / 'quick' / 'report.html' and out.with_suffix('.json').exists()


def test_browser_shows_it_without_a_request_and_without_sideways_scrolling(written):
    "On a phone too, where its figures keep their size and scroll"
    sync = pytest.importorskip('playwright.sync_api')
    chrome = next((c for c in ('chromium', 'chromium-browser', 'google-chrome') if shutil.which(c)), None)
    if not chrome:
        pytest.skip('Chromium is not installed: the report is not looked at in a browser.')
    asked, said = [], []
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which(chrome), args=['--no-sandbox'])
        for width, scheme in ((1100, 'light'), (390, 'dark')):
            page = browser.new_page(viewport=dict(width=width, height=800), color_scheme=scheme)
            page.on('request', lambda request: asked.append(request.url))
            page.on('console', lambda message: said.append(message.text))
            page.goto(written.as_uri())
            assert page.evaluate('document.documentElement.scrollWidth') <= width
            assert page.evaluate("document.querySelectorAll('figure svg').length") == 19
            check_size_of_figures(page)
        browser.close()
    assert all(url.startswith('file:') for url in asked) and not said, (asked, said)
