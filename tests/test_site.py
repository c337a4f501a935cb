"""The site, built once and looked at in a browser that has no network."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from urllib.parse import unquote

import pytest
from conftest import NOTEBOOKS, ROOT, page

pytestmark = pytest.mark.timeout(400)


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
def reader(browser):
    "One window for all pages, so that style, scripts and fonts are read once"
    window = browser.new_context(viewport=dict(width=1300, height=900))
    yield window
    window.close()


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
            if re.match(r'[a-z]+:|//|#$|$', link):
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
    assert len(nav) == len(NOTEBOOKS) and all((site[0] / n).exists() for n in nav)


@pytest.mark.parametrize('name', [page(p) for p in NOTEBOOKS])
def test_page_in_a_browser(site, address, reader, name):
    "No request leaves the machine, nothing is logged as an error, no TeX is left raw, no diagram stays text"
    tab, outside, errors = reader.new_page(), [], []
    tab.on('request', lambda r: None if r.url.startswith((address, 'data:', 'blob:')) else outside.append(r.url))
    tab.on('pageerror', lambda e: errors.append(str(e)))
    tab.on('console', lambda m: errors.append(m.text) if m.type == 'error' else None)
    tab.on('response', lambda r: errors.append(f'{r.status} {r.url}') if r.status >= 400 else None)
    try:
        tab.goto(f'{address}/{name}.html', wait_until='load', timeout=60_000)
        tab.evaluate(
            '() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 30)))'
        )  # what the load has started
        if outside and not shutil.which('npm'):
            pytest.skip('missing tool: npm')
        assert not outside and not errors
        assert tab.locator('h1').first.inner_text().strip()
        text = tab.evaluate("""() => { const c = (document.querySelector('main') || document.body).cloneNode(true);
            c.querySelectorAll('pre, code, .katex, script, style').forEach(e => e.remove()); return c.textContent }""")
        raw = re.findall(
            r'\$\$|\\\\?(?:frac|sum|kappa|lambda|cdot|left|right|mathrm|text)\b|\{#eq-|@eq-|@fig-|:::', text
        )
        assert not raw, f'raw mark-up: {raw}'
        assert tab.locator('pre.mermaid').count() == 0
        assert tab.locator('img').evaluate_all('i => i.filter(x => x.complete && !x.naturalWidth).length') == 0, (
            'a picture does not load'
        )
    finally:
        tab.close()


def test_search_finds_a_function(site, address, browser):
    tab = browser.new_page()
    tab.goto(f'{address}/index.html')
    assert (site[0] / 'search.json').exists() and 'run_notebook' in (site[0] / 'search.json').read_text()
    tab.close()
