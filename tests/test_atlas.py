"The atlas: its numbers are the library's, and a person can use it with mouse, keyboard and phone"

import numpy as np
import pytest
from fastcore.test import test_eq as equal
from tiny_models import tiny
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

import ff_nbdev.study.atlas as module
from ff_nbdev import atlas
from ff_nbdev.baselines.noise_null import diffused, null_moran
from ff_nbdev.data.tokenizers import make_tokenizer
from ff_nbdev.evaluation.activations import instances, mean_activation
from ff_nbdev.evaluation.base_test import UNLEARNED, token_scores
from ff_nbdev.evaluation.evaluate import scored_targets, unigram_ce
from ff_nbdev.evaluation.places import top_units
from ff_nbdev.evaluation.readings import Readings, Sizes
from ff_nbdev.evaluation.signatures import hubs_of, mean_of, signature_distance, site_distances
from ff_nbdev.evaluation.spatial import morans_i
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.tiny import load_pretrained, random_like
from ff_nbdev.run.own_model import MARK
from ff_nbdev.study.atlas import format_windows, page_data, sentences_of
from ff_nbdev.study.numbers import format_parameters
from ff_nbdev.study.atlas_data import (
    AtlasSizes,
    AtlasText,
    estimate,
    fitted,
    origin_of,
    received_dose,
    room_of,
    spoken_words,
    with_room,
)

SIZE = AtlasSizes(tokens=40, instances=4, baseline=200, sentences=3, windows=4)
DOSES = (0, 0.5, 1.5)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A base beside its retrofit, as small as can be"
    out = tmp_path_factory.mktemp('atlas') / 'atlas.html'
    return atlas('tiny-mt5', beside='tiny-mt5-full_stack', size=SIZE, doses=DOSES, out=out, progress=False)


@pytest.fixture(scope='module')
def readings():
    sizes = Sizes(windows=SIZE.windows, length=SIZE.length, read_length=SIZE.read_length, baseline=SIZE.baseline)
    return Readings('tiny-mt5', size=sizes)


@pytest.fixture(scope='module')
def means(made, readings):
    "Means of the tokens, made by the library in another way"
    model, tokenizer, train = readings.model, readings.tokenizer, readings.train
    base = mean_activation(model, tokenizer, train, SIZE.baseline)
    return mean_of(instances(model, tokenizer, train, made.text.ids, SIZE.instances, base))


def said_on(made, size=SIZE):
    "The sentences above and below, as they are put into the page"
    data = page_data(made.models, made.text, size, made.doses, 'text')
    verdicts = ' '.join(f'{v["said"]} {v["ce"]}' for v in data['verdicts'])
    return ' '.join([data['about'], verdicts, data['few'], *data['how'].values()])


# Numbers


def test_weights_and_nulls_are_those_of_the_library(made, readings):
    for k, dose in enumerate(DOSES):
        with diffused(readings.model, dose):
            for site, layer in zip(readings.sites, made.models[0].layers):
                weight = site.weight('down').detach()
                null = null_moran(tuple(weight.shape), dose, repeats=SIZE.repeats, rank=False)
                equal([layer.moran[k], layer.null[k], layer.null_sd[k]], [morans_i(weight), null['mean'], null['sd']])
    site, layer = readings.sites[0], made.models[0].layers[0]
    shown, weight = layer.map[0], site.weight('down').detach()[: SIZE.rows, : SIZE.units]
    assert np.corrcoef(shown.ravel(), weight.flatten().clamp(-0.5, 0.5))[0, 1] > 0.97


def test_ce_at_dose_0_is_that_of_the_model(made, readings):
    scores = token_scores(readings.model, readings.batches, readings.skip)['ce']
    assert abs(made.models[0].ce[0] - scores.double().mean().item()) < 1e-4
    assert made.models[0].ce[2] > made.models[0].ce[0]


def test_ce_has_an_interval_over_windows_and_a_unigram_beside_it(made, readings):
    base = made.models[0]
    equal([base.windows, len(base.ce_ci)], [SIZE.windows, len(DOSES)])
    assert all(low < ce < high for (low, high), ce in zip(base.ce_ci, base.ce))
    targets = scored_targets(readings.batches, readings.skip, True)
    equal(base.unigram, unigram_ce(readings.counts, targets))
    assert base.ce[0] < base.unigram and 'better than word frequencies do. Cross-entropy' in said_on(made)


def test_the_retrofit_knows_its_dose(made):
    base, full = made.models
    equal(base.dose, 0.0)
    assert 1.4 < full.dose < 1.6 and full.layers[0].moran[0] > 0.3 and 0.3 < full.layers[0].null[0] < 0.4


def test_hubs_units_and_neighbours_are_those_of_the_library(made, means):
    tokens, hubs, tops = len(made.text.ids), hubs_of(means), top_units(means)
    per_site = site_distances(hubs, hubs)
    for k, layer in enumerate(made.models[0].layers):
        equal(layer.places[:tokens], np.nan_to_num(hubs.places[:, k], nan=-1))
        assert np.allclose(layer.powers[:tokens], np.nan_to_num(hubs.powers[:, k]), atol=1e-3)
        equal(layer.top, tops[k])
        for token in (0, 7, tokens - 1):
            others = np.delete(per_site[token, :, k], token)
            assert np.allclose(layer.distance[token], np.sort(others)[: SIZE.nearest], atol=1e-6)
    whole = signature_distance(hubs, hubs)
    assert np.allclose(made.models[0].distance[3], np.sort(np.delete(whole[3], 3))[: SIZE.nearest], atol=1e-6)


def test_strips_are_means_of_units(made, means):
    layer = made.models[0].layers[1]
    cells = means[1].numpy().reshape(len(means[1]), -1, layer.step).mean(-1)
    shown = (layer.strips * layer.scale[:, None])[: len(cells)]
    inside = np.abs(layer.strips[: len(cells)]) < 127
    assert (np.abs(shown - cells)[inside] <= 0.51 * layer.scale.max()).all()


def test_a_page_stays_under_three_megabytes(made):
    assert made.path.stat().st_size <= estimate(SIZE, [1024] * 4, 2, 3) <= 3_000_000
    for d_ff, models in (([1024] * 4, 2), ([2048] * 4, 2), ([3072] * 12, 2), ([2048] * 24, 2), ([11008] * 32, 1)):
        assert estimate(fitted(AtlasSizes(), d_ff, models), d_ff, models) <= 3_000_000


def test_a_frame_in_a_notebook_and_a_table(made):
    shown = made._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;') and len(shown) < 3_500_000
    equal(len(made.table()), 4 * len(DOSES) + 4)


def test_a_file_is_written_only_over_an_atlas(made, tmp_path):
    other = tmp_path / 'notes.html'
    other.write_text('<p>mine')
    with pytest.raises(ValueError, match="somebody else's"):
        made.save(other)
    equal(other.read_text(), '<p>mine')
    first = made.path
    equal([made.save(first), first.read_text()], [first, made.page])


def test_the_command_says_first_where_the_page_will_be(tmp_path, monkeypatch, capsys):
    from argparse import Namespace

    from ff_nbdev.cli import main

    def build(model, out, **options):
        out.write_text(MARK)
        return Namespace(path=out)

    monkeypatch.setattr(module, 'atlas', build)
    monkeypatch.chdir(tmp_path)
    for words, name, there in (
        ([], 'atlas-tiny-mt5.html', ''),
        ([], 'atlas-tiny-mt5.html', ', in place of the atlas that is there; --out names another file'),
        (['--out', 'mine.html'], 'mine.html', ''),
    ):
        equal(main(['atlas', 'tiny-mt5', *words]), 0)
        equal(capsys.readouterr().out.splitlines()[0], f'The page will be {tmp_path / name}{there}.')
    (tmp_path / 'letter').write_text('mine')
    with pytest.raises(ValueError, match='is a file, so there can be no folder'):
        atlas('tiny-mt5', out=tmp_path / 'letter' / 'atlas.html')


def test_the_atlas_of_the_site_is_built_once(tmp_path, monkeypatch):
    calls = []

    def build(model, beside, out, progress):
        calls.append(model)
        out.write_text(MARK)

    monkeypatch.setattr(module, 'cache_dir', lambda *parts: tmp_path)
    monkeypatch.setattr(module, 'atlas', build)
    for _ in range(2):
        module.site_atlas(tmp_path / 'site' / 'atlas.html')
    equal([calls, (tmp_path / 'site' / 'atlas.html').read_text()], [['tiny-mt5'], MARK])


@pytest.fixture(scope='module')
def own(tmp_path_factory):
    "A text file and a tokenizer of few words"
    words = ['the', 'a', 'cat', 'dog', 'house', 'sees', 'likes', 'finds', 'near', 'old', 'small', 'green']
    lines = []
    for i in range(900):
        lines.append(' '.join(words[(i * k + j) % 12] for j, k in enumerate([1, 2, 3, 5, 7])))
    text = tmp_path_factory.mktemp('own') / 'text.txt'
    text.write_text('\n'.join(f'Line {chr(97 + i % 26)} of {i} says {line}.' for i, line in enumerate(lines)))
    every_byte = [(f'<0x{i:02X}>', -9.0) for i in range(256)]
    pieces = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), *every_byte, ('▁', -2.0)]
    tokenizer = make_tokenizer([*pieces, *((f'▁{word}', -3.0) for word in words), ('.', -3.0)], 4)
    return str(text), tokenizer


FEW = dict(tokens=12, instances=2, baseline=40, sentences=2, windows=2)


def test_a_decoder_of_ones_own(own):
    "A GPT-2 with its own small vocabulary, read on a text file"
    corpus, tokenizer = own
    size = AtlasSizes(**FEW, length=32, read_length=32)
    found = atlas(tiny('gpt2'), tokenizer, corpus=corpus, size=size, doses=(0, 1), progress=False)
    equal([found.models[0].name, len(found.models[0].layers)], ['GPT2LMHeadModel', 2])
    assert 'cat' in found.text.labels and received_dose(tiny('gpt2')) == 0


def test_special_tokens_are_separators_and_a_folder_is_named(own, tmp_path):
    "A passage that runs over the end of a text shows no <…> mark"
    model, tokenizer = load_pretrained('tiny-rwkv')
    end = tokenizer.eos_token_id
    some = tokenizer('A cat.')['input_ids'][:3]
    spoken = spoken_words([*some, end, *some], tokenizer, [end])
    equal([spoken[3], len(spoken)], [('│', True), 7])
    data = sentences_of(AtlasText(*[np.zeros(0)] * 3, [], [], None, None, [(0, 0, 7)], [spoken]))
    equal([word['mark'] for word in data[0]['words']], [False] * 3 + [True] + [False] * 3)
    model.config._name_or_path = str(tmp_path)
    equal(origin_of(model), f'folder {tmp_path}')


def test_a_small_text_and_a_model_that_is_none_are_told(own, tmp_path):
    "One held-out window is said to be one, and random weights to predict nothing"
    lines = open(own[0]).read().splitlines()[:110]
    text = tmp_path / 'small.txt'
    text.write_text('\n'.join(lines))
    size = AtlasSizes(**FEW, length=64)
    found = atlas(tiny('gpt2'), own[1], corpus=str(text), size=size, doses=(0, 1), progress=False)
    equal([found.models[0].windows, found.models[0].ce_ci], [1, [None, None]])
    said = said_on(found, size)
    assert 'over 1 window of 64 tokens' in said and 'too small to tell' in said
    assert f'GPT2LMHeadModel {UNLEARNED} Cross-entropy {found.models[0].ce[0]:.2f}, of a unigram' in said


@pytest.mark.parametrize('positions', [64, 20])
def test_a_model_with_few_positions_is_read_in_short_windows(own, positions):
    corpus, tokenizer = own
    found = atlas(tiny('gpt2', n_positions=positions), tokenizer, corpus=corpus, size=AtlasSizes(**FEW), doses=(0,))
    assert f'over {format_windows(found.models[0].windows, positions)} of held-out' in found.page
    last = max(stop for _, _, stop in found.text.sentences)
    assert last <= positions


def test_windows_leave_room_for_what_stands_around_them():
    model, tokenizer = load_pretrained('tiny-mt5')
    equal([room_of(model, tokenizer), with_room(SIZE, [(model, tokenizer)])], [None, SIZE])
    config = BertConfig(
        vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=40
    )
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a']
    marked = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    bert = BertForMaskedLM(config)
    equal(with_room(AtlasSizes(), [(bert, marked)]).length, 38)


@pytest.mark.parametrize(
    'beside, told',
    [
        ('tiny-rwkv', r'two architectures \(mt5 and rwkv\)'),
        ('mini-mt5', r'different tokenizers \(4,096 and 8,192 ids\)'),
        ('narrow', 'do not match in place or width'),
    ],
)
def test_two_models_that_share_nothing_are_refused_before_any_work(beside, told, monkeypatch, tmp_path):
    monkeypatch.setattr(module, 'Readings', None)
    out = tmp_path / 'atlas.html'
    other = tiny('mt5', d_ff=64, vocab_size=4096, num_layers=2, num_decoder_layers=2) if beside == 'narrow' else beside
    with pytest.raises(ValueError, match=told):
        atlas('tiny-mt5', beside=other, out=out, progress=False)
    assert not out.exists()


def test_a_model_with_no_room_is_refused_before_any_work(own, monkeypatch):
    monkeypatch.setattr(module, 'Readings', None)
    with pytest.raises(ValueError, match='GPT2LMHeadModel takes 6 tokens at a time, .* at least 8: give a model'):
        atlas(tiny('gpt2', n_positions=6), own[1], corpus=own[0], progress=False)


def test_an_rwkv_is_read_like_any_other():
    "Its layers have no gate, its activations are never negative, and with one stack they are layers, as in reports"
    found = atlas('tiny-rwkv', size=SIZE, doses=(0, 1.0), progress=False)
    model = load_pretrained('tiny-rwkv')[0]
    sites = find_sites(model)
    equal([layer.name for layer in found.models[0].layers], [f'layer {site.layer}' for site in sites])
    for site, layer in zip(sites, found.models[0].layers):
        weight = site.weight('down').detach()
        equal([layer.units, layer.outputs, layer.moran[0]], [site.d_ff, site.d_model, morans_i(weight)])
        assert (layer.places[: len(found.text.ids)] >= 0).any(2).any(1).all(), 'every token has a hub'
        assert np.isfinite(layer.distance).all() and layer.moran[1] > layer.moran[0]
    scores = found.models[0].ce
    assert len(scores) == 2 and 3 < scores[0] < scores[1] < 8


# The page in a browser


@pytest.fixture(scope='module')
def open_page(made, browser):
    "Opens the atlas; `said` of a tab is what should not be: errors, warnings, requests"
    tabs = []

    def open_it(**options):
        tab = browser.new_context(**{'viewport': dict(width=1280, height=900), **options}).new_page()
        tab.said, here = [], made.path.as_uri()
        tab.on('request', lambda r: tab.said.append(r.url) if r.url != here and r.url[:5] != 'data:' else None)
        tab.on('pageerror', lambda e: tab.said.append(str(e)))
        tab.on('console', lambda m: tab.said.append(m.text) if m.type in ('error', 'warning') else None)
        tab.goto(here)
        tab.wait_for_selector('body[data-ready]')
        tabs.append(tab)
        return tab

    yield open_it
    for tab in tabs:
        equal(tab.said, [])
        tab.context.close()


@pytest.fixture(scope='module')
def desk(open_page):
    return open_page(color_scheme='light')


@pytest.fixture
def tab(desk):
    "One window of 1280 pixels for all tests, with nothing picked"
    desk.evaluate("""() => { $('find').value = ''; $('slider').value = now.frame = 0;
        pick(null); setRegion(null); showSite(0); scrollTo(0, 0) }""")
    yield desk
    equal(desk.said, [])


def word_of(made):
    "A token to look at: a word of four letters or more"
    return next(k for k, label in enumerate(made.text.labels) if len(label) > 3 and made.text.words[k])


def test_a_first_visitor_sees_an_example(made, open_page):
    "A word is picked, its hubs are marked, and what a strip is stands above them"
    page = open_page()
    label = next(l for l, word in zip(made.text.labels, made.text.words) if word and len(l) > 4)
    equal(page.inner_text('#picked'), f'“{label}” in every layer')
    assert page.locator('.frame svg path').count() > 4
    assert 'A strip is one feed-forward layer' in page.inner_text('#about')
    equal(page.locator('tr.user').count(), 0)


def test_a_hub_shows_who_else_uses_its_place(made, tab):
    k = word_of(made)
    tab.evaluate(f'pick({k})')
    layer = made.models[1].layers[2]
    place = next(int(x) for x in layer.places[k].ravel() if x >= 0)
    tab.locator('.strip').nth(5).locator('.hubs button').first.click()
    start, stop = map(int, tab.locator('.frame').nth(5).get_attribute('aria-valuetext')[6:].split(' to '))
    assert start <= place <= stop and abs(stop + 1 - start - layer.width) <= layer.step
    assert tab.locator('tr.user').count() >= 20 and 'decoder 2' in tab.inner_text('#region-about')


def test_a_word_is_searched_and_seen_in_every_layer(made, tab):
    k = word_of(made)
    label = made.text.labels[k]
    tab.fill('#find', label)
    tab.press('#find', 'Enter')
    equal(tab.inner_text('#picked'), f'“{label}” in every layer')
    equal(tab.locator('.hubs').count(), 8)
    for number, model in enumerate(made.models):
        for site, layer in enumerate(model.layers):
            strip = tab.locator('.strip').nth(2 * site + number)
            places = layer.places[k][layer.places[k] >= 0]
            told = strip.locator('.hubs b').all_inner_texts()
            equal([abs(int(t.replace('−', '-'))) for t in told], places.tolist())
            near = strip.locator('.near:not(.here) button').all_inner_texts()
            equal(near, [made.text.labels[i] for i in layer.nearest[k]])
            equal(strip.locator('svg path').count(), len(places))
    strip.locator('.near:not(.here) button').first.click()
    equal(tab.inner_text('#picked'), f'“{near[0]}” in every layer')
    tab.click('#clear')
    assert 'Every layer' in tab.inner_text('#picked')


def test_a_search_without_a_hit_leaves_no_old_word(made, tab):
    tab.evaluate(f'pick({word_of(made)})')
    tab.fill('#find', 'qqq')
    assert tab.inner_text('#found').startswith('“qqq” is not among the ')
    equal([tab.is_visible('#sentences-title'), tab.locator('.hubs').count()], [False, 0])
    assert 'Every layer' in tab.inner_text('#picked')
    tab.fill('#find', '')
    assert tab.is_visible('#sentences-title')


def test_the_page_says_which_model_it_is(made, tab):
    counts = [load_pretrained(model.name)[0].num_parameters() for model in made.models]
    equal([model.parameters for model in made.models], counts)
    told = format_parameters(counts[0])
    assert f'Atlas of tiny-mt5 ({told}) beside' in tab.inner_text('h1')
    assert f'tiny-mt5: {told}, shipped with ff_nbdev.' in tab.inner_text('#origins')


def test_words_of_the_method_are_explained_where_they_first_stand(made, tab):
    tab.evaluate(f'pick({word_of(made)})')
    said = tab.inner_text('#summary')
    assert 'A hub is a run of' in said and 'its hubs over all layers are its signature' in said


def test_a_box_that_is_cut_says_that_it_scrolls(tab):
    hint, box = tab.locator('#tokens + .more-hint'), tab.locator('#tokens')
    box.evaluate("box => { box.style.maxHeight = '60px'; hintAll() }")
    assert hint.is_visible() and box.evaluate("box => box.classList.contains('more')")
    box.evaluate('box => { box.scrollTop = box.scrollHeight; hint(box) }')
    assert hint.is_hidden() and not box.evaluate("box => box.classList.contains('more')")
    box.evaluate("box => { box.style.maxHeight = ''; box.scrollTop = 0; hintAll() }")


def test_a_sentence_and_a_word_in_it(made, tab):
    tab.locator('.sentences .all').first.click()
    equal(tab.inner_text('#picked'), 'the whole sentence in every layer')
    tab.locator('.sentences p').first.locator('button').nth(2).click()
    label = made.text.spoken[0][1][0]
    equal(tab.inner_text('#picked'), f'“{label}” here in every layer')
    row = len(made.text.ids) + len(made.text.sentences) + 1
    places = made.models[0].layers[0].places[row]
    equal(tab.locator('.strip').first.locator('.hubs b').count(), int((places >= 0).sum()))


def test_a_window_of_units_lists_its_tokens(made, tab):
    box = tab.locator('.frame').first.bounding_box()
    tab.mouse.move(box['x'] + 0.25 * box['width'], box['y'] + 25)
    tab.mouse.down()
    tab.mouse.move(box['x'] + 0.375 * box['width'], box['y'] + 25, steps=3)
    tab.mouse.up()
    start, stop = map(int, tab.get_attribute('.frame', 'aria-valuetext').removeprefix('units ').split(' to '))
    assert 250 <= start <= 258 and 380 <= stop <= 388
    for number, model in enumerate(made.models):
        top = model.layers[0].top.astype(int)
        inside = ((top >= start) & (top <= stop)).sum((1, 2)) / (top < 65535).sum((1, 2))
        rows = tab.locator('#region-tables table').nth(number).locator('tr.user')
        shown = {row.locator('button').inner_text(): row.locator('.num').inner_text() for row in rows.all()}
        equal(list(shown.values()), [f'{100 * x:.1f}%' for x in np.sort(inside)[::-1][:10]])
        assert all(shown[label] == f'{100 * inside[made.text.labels.index(label)]:.1f}%' for label in shown)
    tab.locator('#region-tables button').first.click()
    assert 'in every layer' in tab.inner_text('#picked')


def test_the_keyboard_alone(tab):
    tab.focus('.skip')
    tab.keyboard.press('Enter')
    equal(tab.evaluate('document.activeElement.id'), 'layers')
    tab.focus('#find')
    tab.keyboard.type('th')
    tab.keyboard.press('Tab')
    tab.keyboard.press('Space')
    assert 'in every layer' in tab.inner_text('#picked') and 'nearest signatures' in tab.inner_text('#said')
    tab.focus('.frame')
    tab.keyboard.press('ArrowRight')
    equal(tab.get_attribute('.frame', 'aria-valuetext'), 'units 0 to 31')
    tab.keyboard.press('End')
    assert tab.get_attribute('.frame', 'aria-valuetext').endswith('to 1023')
    assert tab.locator('tr.user').count() >= 20
    tab.keyboard.press('Escape')
    equal(tab.locator('tr.user').count(), 0)
    tab.focus('#slider')
    tab.keyboard.press('End')
    equal(tab.inner_text('#dose-now'), '1.5')


def pixels(tab):
    return tab.evaluate("[...document.querySelectorAll('.map canvas')].map(c => c.toDataURL().length + c.toDataURL())")


def test_the_slider_moves_map_moran_null_and_ce_together(made, tab):
    tab.locator('.to-map').nth(2).click()
    equal(tab.locator('#site').input_value(), '2')
    before = pixels(tab)
    base, layer = made.models[0], made.models[0].layers[2]
    for k, dose in enumerate(DOSES):
        tab.locator('#slider').fill(str(k))
        equal(tab.inner_text('#dose-now'), f'{dose:g}')
        told = [tab.inner_text(f'#{name}-now').replace('−', '-').split()[0] for name in ('moran', 'null', 'ce')]
        equal(told, [f'{x:.3f}'.replace('-0.000', '0.000') for x in (layer.moran[k], layer.null[k], base.ce[k])])
    after = pixels(tab)
    equal([a != b for a, b in zip(before, after)], [True, True, False])
    captions = tab.locator('#maps figcaption').all_inner_texts()
    assert 'never trained' in captions[0] and 'noise' in captions[1] and 'trained with pulses' in captions[2]
    assert tab.inner_text('#pulsed').startswith('Pulsed, never trained')


def test_the_page_says_first_whether_the_model_is_one(made, tab):
    first = tab.locator('#verdicts p').first
    assert 'tiny-mt5 predicts this text better than word frequencies do. Cross-entropy' in first.inner_text()
    assert first.bounding_box()['y'] < tab.locator('.steps').bounding_box()['y']
    equal(tab.inner_text('#few').split(':')[0], 'The held-out text has 4 windows of 128 tokens')
    assert f'unigram {made.models[0].unigram:.2f}' in tab.inner_text('#ce-now')
    equal([tab.locator(f'#ce-chart .{name}').count() for name in ('ce-band', 'level')], [1, 1])


def check_width(tab, width):
    tab.locator('#tokens button').first.click()
    frame = tab.locator('.frame').nth(1)
    frame.scroll_into_view_if_needed()
    frame.tap() if width == 390 else frame.click()
    assert tab.locator('tr.user').count() >= 20
    equal(tab.evaluate('document.documentElement.scrollWidth'), width)


def ground(tab):
    return tab.evaluate('getComputedStyle(document.body).backgroundColor')


DARK, LIGHT = 'rgb(13, 17, 23)', 'rgb(246, 247, 249)'


def test_a_phone_in_the_dark(open_page):
    tab = open_page(viewport=dict(width=390, height=800), has_touch=True, color_scheme='dark')
    check_width(tab, 390)
    equal(ground(tab), DARK)


def test_nothing_is_wider_than_the_window_and_the_switch_of_colours(tab):
    check_width(tab, 1280)
    for name, colour in (('light', LIGHT), ('dark', DARK), ('auto', LIGHT)):
        tab.click('#theme')
        equal([tab.inner_text('#theme'), ground(tab)], [f'◐ {name}', colour])


def test_everything_has_a_name(tab):
    nameless = """() => [...document.querySelectorAll('button, canvas[role], svg[role], [role=slider], input, select')]
        .filter(e => !(e.innerText || e.getAttribute('aria-label') || (e.labels && e.labels.length))).length"""
    equal(tab.evaluate(nameless), 0)
    order = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1])")
    assert order[0] == 1 and max(b - a for a, b in zip(order, order[1:])) <= 1


def test_no_place_of_a_random_model_is_named(tab, browser, tmp_path):
    "The bound is that of shuffled units, for every token and every window; a planted place is named"
    from scipy.stats import hypergeom

    layer = 'D.models[0].layers[0]'
    units, step, width = (tab.evaluate(f'{layer}.{name}') for name in ('units', 'step', 'width'))
    most = tab.evaluate(f'd3.max(D.tokens, (_, row) => {layer}.top.row(row).filter(unit => unit !== NONE).length)')
    limit = tab.evaluate(f'bound({layer}, 0, {width})')
    tests = tab.evaluate('D.tokens.length') * ((units - width) / step + 1)
    passed = round(limit * most)
    assert hypergeom.sf(passed, units, most, width) <= 0.025 / tests < hypergeom.sf(passed - 1, units, most, width)
    named = """(layer, width) => { let k = 0;
        for (let from = 0; from + width <= layer.units; from += layer.step)
            k += users(layer, from, from + width).filter(u => u.fraction > bound(layer, from, from + width)).length;
        return k }"""
    model, tokenizer = load_pretrained('tiny-mt5')
    shown = atlas(random_like(model, 5), tokenizer, size=SIZE, doses=(0,), out=tmp_path / 'a.html', progress=False)
    page = browser.new_page()
    page.goto(shown.path.as_uri())
    page.wait_for_selector('body[data-ready]')
    count = f'D.models[0].layers.reduce((sum, layer) => sum + ({named})(layer, layer.width), 0)'
    assert page.evaluate(count) == 0
    page.evaluate('setRegion(0, 0, 32)')
    assert 'no token more than shuffled units allow' in page.locator('[data-strip="0-0"] ~ .here').inner_text()
    plant = f'{layer}.top.row(0).forEach((unit, i, all) => {{ if (unit !== NONE) all[i] = i % 20; }})'
    page.evaluate(f'{plant}; setRegion(0, 0, 32)')
    assert page.evaluate(f'({named})({layer}, {layer}.width)') >= 1
    assert 'used by' in page.locator('[data-strip="0-0"] ~ .here').inner_text()
    page.close()
