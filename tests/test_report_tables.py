"""Tables and figures of a report on invented runs: what each holds, and what it says where something is missing."""

from pathlib import Path

import numpy as np
import pytest

from ff_nbdev.evaluation.robustness import score_arrays
from ff_nbdev.study import maps, overlap_tables, report, score_tables, tables
from ff_nbdev.study.curves import gains_figure
from ff_nbdev.study.examples import example_runs
from ff_nbdev.study.figures import all_figures, phases
from ff_nbdev.study.plots import few, of_few
from ff_nbdev.study.records import Run, Runs, load_runs


@pytest.fixture
def runs(tmp_path):
    return load_runs(example_runs(tmp_path / 'quick'))


@pytest.fixture(scope='module')
def figures(tmp_path_factory):
    drawn, missing = all_figures(load_runs(example_runs(tmp_path_factory.mktemp('figures') / 'quick')))
    assert not missing and len(drawn) == 15
    return drawn


# --- how a number is written


def test_no_negative_zero_and_one_minus_sign_anywhere(figures):
    from ff_nbdev.study.numbers import format_parameters, format_value, of_gain
    from ff_nbdev.study.plots import Figure
    from ff_nbdev.study.records import plain_signs, signed

    figure = Figure('f', 'From -0.00', None, "Moran's I goes from -0.000 to -0.012 [-0.03, −0.0].")
    assert (figure.title, figure.caption) == ('From 0.00', "Moran's I goes from 0.000 to −0.012 [−0.03, 0.0].")
    assert plain_signs('mt5-0 of 2026-11-30, 3-5, top-1') == 'mt5-0 of 2026-11-30, 3-5, top-1'
    assert format_value(-0.0001) == '0.000' and format_value(-0.001) == '−0.001'
    assert format_value(-4e-5, '+.1%') == '+0.0 %'
    assert signed((-0.0004, -0.07, 0.07)) == '0.00 [−0.07, +0.07]'
    assert [of_gain(x) for x in (0.96, 2.14, 33.98)] == ['96 % of', '2.1 times', '34 times']
    assert format_parameters(366_080) == '366 k parameters'
    for name, drawn in figures.items():
        assert plain_signs(drawn.caption) == drawn.caption, name


def test_no_marker_of_the_layers_is_cut_at_the_frame(runs):
    from ff_nbdev.study.figures import ffn_ratio_figure

    lines = ffn_ratio_figure(runs).figure.axes[0].get_lines()
    assert lines and not any(line.get_clip_on() for line in lines)


def test_names_stand_beside_the_same_shape_untrained(runs):
    "Where one was measured: a retrofit measures that of its base"
    assert 'same shape, untrained' not in score_tables.signature_table(runs)[0]
    base = runs['base']
    base.evaluation = base.evaluation | dict(untrained=dict(signatures={'16:16': dict(accuracy=0.92)}))
    table = {(row['run'], row['task']): row for row in score_tables.signature_table(runs)}
    assert table['base', '16:16']['same shape, untrained'] == '92 %'
    assert table['full_stack', '16:16']['same shape, untrained'] == '–'


# --- how a table is made


def test_a_path_that_has_to_be_there_is_an_error_and_an_optional_one_is_not():
    record = dict(clean=dict(ce=3.0), bleu=None)
    assert tables.lookup(record, 'clean.ce') == 3.0 and tables.lookup(record, 'bleu.ci?') is None
    assert tables.cell(record, ('clean.ci?', '.1%')) == '–' and tables.cell(record, ('clean.ce', '.1f')) == '3.0'
    with pytest.raises(KeyError):
        tables.lookup(record, 'clean.ci')


MAKE = [
    tables.base_table,
    tables.score_table,
    tables.made_table,
    tables.learning_table,
    tables.spatial_table,
    tables.lisa_table,
    tables.activation_table,
    score_tables.signature_table,
    score_tables.wide_table,
    score_tables.error_table,
    score_tables.robustness_table,
    overlap_tables.overlap_rows,
    overlap_tables.between_rows,
]


@pytest.mark.parametrize('make', MAKE, ids=lambda make: make.__name__)
def test_every_row_of_a_table_has_its_columns(runs, make):
    rows = make(runs)
    assert rows and all(set(row) == set(rows[0]) for row in rows)


def test_numbers_of_the_paper_stand_beside_its_arms(runs):
    named = [row['paper'] for row in score_tables.signature_table(runs)]
    assert named == ['1 %', '1 %', '–', '–', '–', '–', '33 %', '82 %', '49 %', '92 %']
    assert score_tables.wide_table(runs)[-1]['paper'] == '82.8 %'
    assert score_tables.robustness_table(runs)[-1]['paper '] == '18.6'


@pytest.mark.parametrize(
    'make',
    [score_tables.signature_table, score_tables.wide_table, tables.activation_table, score_tables.robustness_table],
)
def test_an_arm_of_rwkv_has_no_numbers_of_the_paper(runs, make):
    evaluation = runs['full_stack'].evaluation | dict(arm='rwkv_full_stack')
    for row in make(Runs(full_stack=Run('full_stack', Path('x'), evaluation))):
        assert {value for header, value in row.items() if header.startswith('paper')} == {'–'}


def test_tables_are_escaped(runs):
    assert 'RCI' in tables.table_html(tables.spatial_table(runs)) and '&lt;b&gt;' in tables.table_html([dict(a='<b>')])


def test_a_rival_is_matched_where_its_search_ended_within_its_limits(runs):
    assert tables.match_table(runs) == []
    history = [[0, 0.0, 0.0, 1.0], [9, 0.055, 0.06, 3.0]]
    reached = dict(target=0.06, reached=0.055, within=True, tolerance=0.006)
    runs['no_fzr'].train |= dict(match=reached | dict(strength=3.0, limits=[0.001, 1e4], history=history))
    assert [(row['run'], row['matched']) for row in tables.match_table(runs)] == [('no_fzr', True)]


def test_verdicts_are_counted_by_column():
    a, b = [dict(id='C1', verdict='fails'), dict(id='C3', verdict='fails')], [dict(id='C1', verdict='holds')]
    table = report.verdict_table(a=a, b=b)
    assert table == [dict(verdict='holds', a='–', b='C1 (1)'), dict(verdict='fails', a='C1, C3 (2)', b='–')]


# --- layers that say less


def windows(hits, ce):
    return np.array([[hits] * 8, [10.0] * 8, [10 * ce] * 8])


def scores(first, second):
    "5 of 6 hits at 1, 2 at 4, unless told otherwise; one with its layers zeroed"
    undisturbed = {'clean': windows(6.0, 3.0), 'zero': windows(1.0, 6.0)}
    return score_arrays(undisturbed | {('noise', 1.0): windows(*first), ('noise', 4.0): windows(*second)})


def scaled(arrays, how):
    return {key.replace('disturbed', how): value for key, value in arrays.items()}


@pytest.fixture
def quiet(runs):
    "base_continued and full_stack with the same scores, and layers that were scaled without any effect"
    loud = scores((5.0, 3.5), (2.0, 5.5))
    free, main = runs['base_continued'], runs['full_stack']
    told = free.evaluation['robustness'] | dict(share=0.8, threshold=dict(noise={}))
    matched = told | dict(factors=[0.881, 0.7], like='full_stack')
    free.evaluation |= dict(robustness_quiet=told, robustness_matched=matched)
    free.arrays = free.arrays | loud | scaled(loud, 'quiet') | scaled(loud, 'matched')
    main.arrays = main.arrays | loud
    return runs


def test_layers_scaled_without_effect_leave_no_difference(runs, quiet):
    rows = score_tables.scaled_table(runs)
    assert [row['layers scaled to'] for row in rows] == ['80 %'] * 3 + ['as in full_stack: 88, 70 %'] * 3
    none = '+0.00 [+0.00, +0.00]'
    for row in rows[:3]:
        assert row['run'] == 'base_continued'
        assert row['noise, over itself'] == row['noise, full_stack over it'] == none
    assert rows[0]['noise'] == '2.5 [2.5, 2.5]'  # half of the way from 6 down to 1


def test_gains_of_layers_scaled_without_effect_are_none(runs, quiet):
    gains = score_tables.scaling_gains(runs)
    assert len(gains) == 6
    assert all(value == (0.0, 0.0, 0.0) for gain in gains.values() for value in gain.values())


def test_full_stack_turned_to_the_other_arm_is_a_mirror(runs, quiet):
    main, free = runs['full_stack'], runs['base_continued']
    main.evaluation |= dict(robustness_matched=free.evaluation.robustness_matched | dict(like='base_continued'))
    main.arrays = main.arrays | scaled(scores((5.0, 3.5), (2.0, 5.5)), 'matched')
    assert {how for how, *_ in score_tables.scaling_gains(runs)} == {'quiet', 'matched', 'mirror'}


def test_accuracy_at_each_strength(runs, quiet):
    hits_at = {'undisturbed': 6, '1': 5, '4': 2, 'layers zeroed': 1}
    for row, (name, hits) in zip(score_tables.strength_table(runs), hits_at.items(), strict=True):
        share = f'{10 * hits}.0 %'
        assert list(row.values()) == [name, share, share, share, '+0.0 [+0.0, +0.0]', '+0.00 [+0.00, +0.00]']
    assert len(score_tables.strength_table(runs, how='quiet')) == 4


def test_a_better_full_stack_is_seen(runs, quiet):
    main = runs['full_stack']
    main.arrays = main.arrays | scores((6.0, 3.0), (4.0, 5.0))
    table = score_tables.strength_table(runs)
    assert [row['full_stack over scaled, points'].split()[0] for row in table] == ['+0.0', '+10.0', '+20.0', '+0.0']
    assert [row['in cross-entropy, nats'].split()[0] for row in table] == ['+0.00', '−0.50', '−0.50', '+0.00']
    better = score_tables.scaling_gains(runs)['matched', 'noise', 'accuracy']
    assert better['left'][0] == better['all'][0] > 1 and better['made'] == (0.0, 0.0, 0.0)


def test_without_scaled_layers_there_is_nothing_to_compare(runs):
    assert score_tables.scaled_table(runs) == [] and score_tables.scaling_gains(runs) == {}
    with pytest.raises(KeyError, match='quiet_like'):
        score_tables.strength_table(runs)


# --- figures


def test_every_figure_can_be_drawn_and_labelled(figures):
    for figure in figures.values():
        text, axes = figure.svg(), figure.figure.axes
        assert text.startswith('<svg') and 'currentColor' in text and figure.caption.endswith('.') and figure.title
        assert 'http://' not in text.replace('http://www.w3.org', '')
        assert any(ax.get_xlabel() for ax in axes) and any(ax.get_ylabel() or ax.get_yticklabels() for ax in axes)
    assert figures['bands'].svg() == figures['bands'].svg()


def test_figures_say_what_they_lack(runs):
    base = runs['base']
    with pytest.raises(ValueError, match='there is encoder.block.0'):
        maps.weights_figure(base, runs['full_stack'], 'x')
    with pytest.raises(ValueError, match='null'):
        maps.lisa_figure(base)
    with pytest.raises(ValueError, match='no bands.npz'):
        maps.bands_figure(base)
    with pytest.raises(ValueError, match='quiet_like'):
        gains_figure({'base_continued': {}})


def test_groups_of_local_moran_are_all_of_the_cells():
    noise = np.random.default_rng(0).standard_normal((50, 60))
    assert abs(sum(maps.lisa_fractions(noise).values()) - 1) < 1e-9


def test_phases_of_training(runs):
    assert sorted(phases(runs['full_stack'].train['log'])) == ['held', 'noise', 'ramp']
    assert phases(runs['base_continued'].train['log']) == {}


def test_an_interval_without_an_end_is_drawn_to_the_edge():
    gain = dict(all=(0.5, 0.4, 0.6), made=(0.1, 0.0, 0.2), left=(0.4, -np.inf, np.inf))
    assert 'one factor +0.10 beside +0.50' in gains_figure({'x': {('quiet', 'noise', 'accuracy'): gain}}).caption


def test_a_figure_of_many_arms_shows_few_and_says_so(runs):
    many = Runs(runs)
    for number in range(5):
        many[f'other_{number}'] = runs['no_fzr']
    many.variants, many.seeds = {}, {}
    drawn = of_few(lambda some: type('Drawn', (), dict(arms=list(some), caption='All.'))())(many)
    assert drawn.arms == list(few(many)) == list(runs)
    assert drawn.caption == 'All. Drawn are 5 of 10 runs; the tables have all.'
