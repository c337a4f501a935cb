"""The site, built once and looked at in a browser that has no network."""

import base64
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from conftest import NOTEBOOKS, ROOT, page

from ff_nbdev.study.pages import with_figures

pytestmark = pytest.mark.timeout(400)
LONGEST = 1800  # words of a page


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "Build in a copy, with smalldocs, as a machine without Quarto does"
    d = tmp_path_factory.mktemp('site') / 'ff_nbdev'
    left_out = '.git', '.venv', 'runs', '_docs', '_proc', 'results', '*.egg-info', '__pycache__', '.snakemake'
    shutil.copytree(ROOT, d, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    env = dict(os.environ, PYTHONPATH=str(d), OMP_NUM_THREADS='1')
    r = subprocess.run([sys.executable, 'tests/build_docs.py'], cwd=d, capture_output=True, text=True, env=env)
    assert r.returncode == 0, (r.stdout + r.stderr)[-3000:]
    assert (d / 'README.md').read_text() == (ROOT / 'README.md').read_text(), (
        'README.md is not what nbs/index.ipynb gives: run make docs'
    )

    def figures(root):
        return {p.name: p.read_bytes() for p in (root / 'index_files').glob('*')}

    assert figures(d) == figures(ROOT), 'The figures of README.md are not what nbs/index.ipynb gives: run make docs'
    return d / '_docs', r.stdout + r.stderr


@pytest.fixture(scope='module')
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@pytest.fixture(scope='module')
def tab(browser):
    "One window for all pages, so that style, scripts and fonts are read once"
    window = browser.new_context(viewport=dict(width=1280, height=900))
    yield window.new_page()
    window.close()


FACTS = (Path(__file__).parent / 'page_facts.js').read_text()
PHONE = 390
SETTLED = '() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 30)))'  # what load has started


def visit(tab, address, name):
    "What a page asks for, what it logs, what it holds, and what is cut off at 1280 and at 390 pixels"
    outside, errors = [], []
    heard = {
        'request': lambda r: None if r.url.startswith((address, 'data:', 'blob:')) else outside.append(r.url),
        'pageerror': lambda e: errors.append(str(e)),
        'console': lambda m: errors.append(m.text) if m.type == 'error' else None,
        'response': lambda r: errors.append(f'{r.status} {r.url}') if r.status >= 400 else None,
    }
    for event, listener in heard.items():
        tab.on(event, listener)
    tab.goto('about:blank')  # or the page before, with all its folds open, would be laid out at this width first
    tab.set_viewport_size(dict(width=1280, height=900))
    tab.goto(f'{address}/{name}.html', wait_until='load', timeout=60_000)
    tab.evaluate(SETTLED)
    facts = tab.evaluate(FACTS)
    tab.set_viewport_size(dict(width=PHONE, height=900))
    tab.evaluate(SETTLED)
    phone = tab.evaluate(FACTS)
    for event, listener in heard.items():
        tab.remove_listener(event, listener)
    return dict(facts, outside=outside, errors=errors, phone=phone)


@pytest.fixture(scope='module')
def look(tab, address):
    "Every page is visited once, whichever tests ask for it"
    return functools.cache(functools.partial(visit, tab, address))


def pages(site):
    return sorted(site[0].rglob('*.html'))


def test_every_notebook_has_a_page(site):
    made = {p.relative_to(site[0]).as_posix() for p in pages(site)}
    assert not [page(n) for n in NOTEBOOKS if f'{page(n)}.html' not in made]


def test_nothing_is_loaded_from_elsewhere(site):
    if 'loaded from a CDN' in site[1] or not shutil.which('npm'):
        pytest.skip('missing tool: npm')
    for p in pages(site):
        found = re.findall(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="(?:https?:)?//[^"]*"', p.read_text())
        assert not [f for f in found if 'rel="canonical"' not in f], p.name
    for p in site[0].rglob('*.css'):
        assert not re.search(r"""(?:@import|url\()\s*["']?https?://""", p.read_text()), p.name


def test_links_lead_somewhere(site):
    "Pages, and the places in them"
    ids = {p: set(re.findall(r'\bid="([^"]+)"', p.read_text())) for p in pages(site)}
    bad = []
    for p in pages(site):
        for link in re.findall(r'<a\b[^>]*?href="([^"]*)"', p.read_text()):
            if re.match(r'[a-z]+:|//|#$|$', link) or p.name == '404.html':
                continue
            path, _, place = unquote(link).partition('#')
            to = (p.parent / path).resolve() if path else p
            if to.is_dir():
                to = to / 'index.html'
            if not to.exists() or (place and to in ids and place not in ids[to]):
                bad.append(f'{p.relative_to(site[0])} → {link}')
    assert not bad


def test_navigation_holds_only_what_is_there(site):
    nav = re.findall(r'<a href="([^"#]+)" class="sidebar-item-text', (site[0] / 'index.html').read_text())
    assert all((site[0] / n).exists() for n in nav)
    assert {f'{page(n)}.html' for n in NOTEBOOKS} | {'changelog.html'} == {*nav} | {'changelog.html'}


def contents(node):
    "Files that a part of _quarto.yml names"
    if isinstance(node, str):
        return [node]
    if isinstance(node, list):
        return [file for entry in node for file in contents(entry)]
    return contents(node.get('contents', node.get('href', [])))


CONFIG = yaml.safe_load((ROOT / '_quarto.yml').read_text())
MADE = {'changelog.qmd'}  # by the build


def test_sidebar_names_every_page_once():
    named = contents(CONFIG['website']['sidebar'])
    assert not [file for file in named if file not in MADE and not (ROOT / 'nbs' / file).exists()]
    assert len(named) == len({*named})
    assert {*named} - MADE == {f'{page(n)}.ipynb' for n in NOTEBOOKS}


def test_parts_of_the_sidebar_and_internals_closed(site):
    parts = [entry['section'] for entry in CONFIG['website']['sidebar']['contents'] if isinstance(entry, dict)]
    assert parts == ['Learn', 'Use', 'Study', 'Internals']

    def shown(name):
        text = (site[0] / f'{name}.html').read_text()
        head = text.index('<span class="menu-text">Internals</span>')
        return 'show' in re.search(r'<ul id="quarto-sidebar[^"]*" class="([^"]*)"', text[head:])[1].split()

    assert not shown('index') and not shown('mechanisms/recall') and shown('core/io')


def test_every_key_is_quarto_s():
    "By the names that smalldocs takes from Quarto's schema; Quarto refuses a project file with others"
    from smalldocs.config import KNOWN, check_keys
    from smalldocs.quarto_keys import QUARTO_PAGE_OPTIONS

    assert not check_keys(CONFIG, KNOWN, '')
    known = QUARTO_PAGE_OPTIONS | {'title', 'subtitle', 'description', 'output-file', 'search', 'format', 'skip_exec'}
    assert not CONFIG['format']['html'].keys() - known
    for path in NOTEBOOKS:
        front = re.match(r'---\n(.*?)\n---', ''.join(json.loads(path.read_text())['cells'][0]['source']), re.S)
        assert front and not yaml.safe_load(front[1]).keys() - known, path


@pytest.mark.parametrize('name', [page(p) for p in NOTEBOOKS])
def test_page_in_a_browser(look, name):
    "No request leaves the machine, nothing is logged as an error, no TeX is left raw, no diagram stays text"
    seen = look(name)
    if seen['outside'] and not shutil.which('npm'):
        pytest.skip('missing tool: npm')
    assert not seen['outside'] and not seen['errors']
    assert seen['title']
    raw = re.findall(
        r'\$\$|\\\\?(?:frac|sum|kappa|lambda|cdot|left|right|mathrm|text)\b|\{#eq-|@eq-|@fig-|:::', seen['text']
    )
    assert not raw, f'raw mark-up: {raw}'
    assert not seen['mermaid']
    assert not seen['broken'], 'a picture does not load'


@pytest.mark.parametrize('name', [page(p) for p in NOTEBOOKS])
def test_nothing_is_cut_off(look, name):
    "Formulas, code and tables at 1280 pixels; on a phone a table may scroll in its own box, and a line says so"
    seen = look(name)
    assert seen['column'] >= 760
    assert not seen['cut'] and not seen['scrolling']
    assert not seen['phone']['cut'] and not seen['phone']['overflow']


@pytest.mark.parametrize('name', [page(p) for p in NOTEBOOKS])
def test_what_a_page_shows(look, name):
    seen = look(name)
    assert not seen['unsaid'], 'a picture without words'
    assert not seen['nones'], 'None in a table'
    if name not in ('study/pages', 'study/signatures'):  # they show how such a signature is mended
        assert not re.search(r'NoneType|__main__\.', seen['code'] + seen['text'])


def test_no_page_is_too_long(look):
    "Words outside folds, code, formulas and tables of numbers; the pages in `long_pages.json` may only become shorter"
    debts = json.loads((Path(__file__).parent / 'long_pages.json').read_text())
    words = {page(p): look(page(p))['words'] for p in NOTEBOOKS}
    assert not {name: n for name, n in words.items() if n > max(LONGEST, debts.get(name, 0))}


UNCAPTIONED = Path(__file__).parent / 'uncaptioned.json'


def test_every_figure_has_a_caption():
    "In the notebook: `fig-cap` of the cell, or the sentence that a figure of the study brings"
    bare = set()
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text())['cells']:
            outputs = with_figures(cell.get('outputs', []), ''.join(cell['source']))
            made = [''.join(out.get('data', {}).get('text/html', '')) for out in outputs]
            if any('<figure class="figure">' in text and '<figcaption>' not in text for text in made):
                bare.add(page(path))
    assert bare <= {*json.loads(UNCAPTIONED.read_text())}


def test_links_in_outputs_lead_to_notebooks():
    "In JupyterLab, too: the site gives them the names of its pages"
    bad = []
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text())['cells']:
            made = ''.join(''.join(out.get('data', {}).get('text/html', '')) for out in cell.get('outputs', []))
            bad += [f'{page(path)} → {link}' for link in re.findall(r'href="(?![a-z]+:)([^"]*\.html)', made)]
    assert not bad


def is_small(output):
    "A PNG that has under two pixels for each one on the page"
    png = output.get('data', {}).get('image/png')
    if not png:
        return False
    width = int.from_bytes(base64.b64decode(''.join(png))[16:20], 'big')
    shown = output.get('metadata', {}).get('image/png', {}).get('width')
    return not shown or width < 2 * shown - 1


def test_every_picture_is_sharp():
    "At 2x of its shown size"
    small = set()
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())['cells']
        if any(is_small(output) for cell in cells for output in cell.get('outputs', [])):
            small.add(page(path))
    assert not small, 'to be executed again'


ASKED = [('moran', 'morans_i'), ('attach', 'attach'), ('evaluate', 'evaluate'), ('load_pre', 'load_pretrained')]


@pytest.mark.parametrize('typed, first', ASKED)
def test_search_finds_the_name_first(address, tab, typed, first):
    tab.set_viewport_size(dict(width=1280, height=900))
    tab.goto(f'{address}/index.html')
    tab.locator('#quarto-search input').fill(typed)
    assert tab.locator('.search-result-title').first.inner_text(timeout=10_000) == first
    tab.locator('.search-result').first.click()
    assert tab.url.endswith(f'#{first}')


@pytest.fixture
def scripted(browser, tmp_path):
    "A page with the site's script and style alone"

    def show(body, width):
        parts = [(ROOT / 'nbs' / name).read_text() for name in ('styles.css', 'site.html')]
        page = f'<!doctype html><style>.img-fluid{{max-width:100%;height:auto}}{parts[0]}</style><main>{body}</main>'
        (tmp_path / 'p.html').write_text(page + parts[1])
        page = browser.new_page(viewport=dict(width=width, height=800))
        page.goto((tmp_path / 'p.html').as_uri())
        return page

    return show


def test_a_search_puts_tutorials_before_the_internals(scripted):
    fuse = 'window.Fuse = class { constructor(a) { this.a = a } search() { return this.a.map(item => ({item})) } }'
    names = dict(own_model_page='inner', model_inputs='name', own_model='name', attach='public', attach_all='inner')
    entries = [dict(title=name, href=f'run/{name}.html', kind=kind) for name, kind in names.items()]
    pages = {'run/own_model.html': "One's own model", 'tutorials/your_model.html': 'Your own model', 'a.html': 'Noise'}
    entries += [dict(title=title, href=href) for href, title in pages.items()]
    page = scripted(f'<script>{fuse}</script>', 1280)
    search = '([all, asked]) => new Fuse(all).search(asked).map(hit => hit.item.title)'
    asked = ('own model', 'model', 'attach', 'own_model')
    found = {words: page.evaluate(search, [entries, words]) for words in asked}
    page.close()
    assert found['own model'][:2] == ['Your own model', "One's own model"]
    assert found['model'][:4] == ['Your own model', 'model_inputs', 'own_model', 'own_model_page']
    assert found['attach'][:2] == ['attach', 'attach_all'] and found['own_model'][0] == 'own_model'


def test_lost_reader_is_helped(site):
    "The page for wrong addresses works at any depth, and machines find a list of pages"
    text = (site[0] / '404.html').read_text()
    local = [link for link in re.findall(r'(?:href|src)="([^"#]+)"', text) if not re.match(r'https?:|data:', link)]
    root = '/ff_nbdev/'
    assert local and all(link.startswith(root) for link in local)
    assert all((site[0] / unquote(link.removeprefix(root))).exists() for link in local)
    addresses = re.findall(r'<loc>([^<]+)</loc>', (site[0] / 'sitemap.xml').read_text())
    assert CONFIG['website']['site-url'] + '/mechanisms/recall.html' in addresses
    assert 'Fuzzy Recall' in (site[0] / 'llms.txt').read_text()
    assert '0.1' in (site[0] / 'changelog.html').read_text()


def test_a_figure_keeps_its_size_on_a_phone(scripted):
    "A wide picture scrolls in its frame, which a line says; the page does not"
    frame = '<figure class="figure"><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" width="720" height="300" '
    body = f'<div class="cell-output cell-output-display">{frame} class="img-fluid figure-img"></figure></div>'
    for width, shown, hints in ((390, 720, ['This figure goes on to the right →']), (1280, 720, [])):
        page = scripted(body, width)
        assert page.locator('.scroll-hint').all_inner_texts() == hints
        assert page.evaluate("document.querySelector('img').getBoundingClientRect().width") == shown
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        page.close()
