"""JupyterLab in a real browser: open a notebook, Run All, no errors."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from conftest import ROOT

PAGES = ('study/atlas.ipynb', 'tutorials/gallery.ipynb', 'mechanisms/recall.ipynb')  # the longest begins
pytestmark = pytest.mark.timeout(300)


def start_lab(folder, port, token):
    "JupyterLab on `folder/nbs`, with settings of its own"
    own = folder / 'settings' / '@jupyterlab' / 'apputils-extension'
    own.mkdir(parents=True)
    (own / 'notification.jupyterlab-settings').write_text('{"fetchNews": "false", "checkForUpdates": false}')
    places = dict(JUPYTERLAB_SETTINGS_DIR=folder / 'settings', JUPYTERLAB_WORKSPACES_DIR=folder / 'ws')
    env = dict(os.environ, IN_TEST='1') | {name: str(path) for name, path in places.items()}
    words = [
        *(sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}'),
        '--ServerApp.port_retries=0',
        f'--IdentityProvider.token={token}',
        f'--ServerApp.root_dir={folder / "nbs"}',
    ]
    return subprocess.Popen(words, env=env, stdout=open(folder / 'lab.log', 'w'), stderr=subprocess.STDOUT)


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab on a copy of the notebooks, since saving changes them"
    pytest.importorskip('jupyterlab', reason='missing tool: jupyterlab')
    d = tmp_path_factory.mktemp('lab')
    shutil.copytree(ROOT / 'nbs', d / 'nbs')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(8)
    base = f'http://127.0.0.1:{port}'
    p = start_lab(d, port, token)

    def api(path):
        request = urllib.request.Request(f'{base}/api/{path}', headers={'Authorization': f'token {token}'})
        return json.load(urllib.request.urlopen(request, timeout=10))

    for _ in range(120):
        try:
            api('status')
            break
        except OSError:
            time.sleep(0.5)
    yield base, token, api
    p.terminate()
    p.wait(20)


def idle(api, nb):
    return any(s['path'] == nb and s['kernel']['execution_state'] == 'idle' for s in api('sessions'))


def until_idle(tab, api, nb, times, seconds):
    "Wait until the kernel of a notebook was idle so many times in a row"
    calm, end = 0, time.time() + seconds
    while calm < times:
        assert time.time() < end, 'timed out'
        tab.wait_for_timeout(250)
        calm = calm + 1 if idle(api, nb) else 0


@pytest.fixture(scope='module')
def started(lab, browser):
    "All pages, opened and told to run beside each other"
    base, token, api = lab
    tabs = {}
    for nb in PAGES:
        tab, errors = browser.new_page(viewport=dict(width=1400, height=1000)), []
        tab.on('pageerror', lambda e, errors=errors: errors.append(str(e)))
        tab.goto(f'{base}/lab/tree/{nb}?token={token}&reset')
        tab.locator('.jp-Notebook .jp-Cell').first.wait_for(timeout=90_000)
        until_idle(tab, api, nb, 1, 60)
        tab.get_by_role('menuitem', name='Run', exact=True).click()
        tab.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
        tabs[nb] = tab, errors
    return tabs


@pytest.mark.parametrize('nb', reversed(PAGES))
def test_run_all(lab, started, nb):
    api, (tab, errors) = lab[2], started[nb]
    tab.bring_to_front()
    until_idle(tab, api, nb, 6, 200)
    tab.keyboard.press('Control+s')

    def saved():
        try:
            cells = api(f'contents/{nb}?content=1')['content']['cells']
        except urllib.error.HTTPError:
            return []  # it is being written
        return [c for c in cells if c['cell_type'] == 'code' and ''.join(c['source']).strip()]

    code, end = [], time.time() + 20
    while not (code and all(c['execution_count'] for c in code)) and time.time() < end:
        tab.wait_for_timeout(300)
        code = saved()
    wrong = [o for c in code for o in c['outputs'] if o['output_type'] == 'error']
    assert code and not wrong and not errors and all(c['execution_count'] for c in code)
    tab.close()
