"""The front door: the README's words and its ten lines, pictures with words, tutorials that run from anywhere."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, page

NBS = ROOT / 'nbs'
README = (ROOT / 'README.md').read_text('utf-8')
TUTORIALS = sorted((NBS / 'tutorials').glob('*.ipynb'))
WANTED = (
    'first_steps your_model your_closeness reading_a_signature controlling_a_hub batch reading_a_report '
    'paper_in_ten_minutes first_gpu glossary faq gallery'
).split()
each = pytest.mark.parametrize('nb', TUTORIALS, ids=page)


def cells(path, kind=None):
    found = json.loads(path.read_text('utf-8'))['cells']
    return [cell for cell in found if kind in (None, cell['cell_type'])]


def source(cell):
    return ''.join(cell['source'])


def outputs(path, kind):
    "Outputs of one kind, as text"
    shown = []
    for cell in cells(path, 'code'):
        shown += [''.join(output.get('data', {}).get(kind, '')) for output in cell['outputs']]
    return '\n'.join(shown)


# Home and README


def test_the_readme_has_at_most_700_words():
    assert 300 < len(README.split()) <= 700


def test_the_readme_shows_no_hidden_code():
    "Only the imports, the ten lines and the object; its answers are text"
    blocks = re.findall(r'```python\n(.*?)```', README, re.S)
    assert len(blocks) == 3 and len(blocks[1].strip().splitlines()) <= 12
    assert 'results_folder' not in README and '<table' not in README


def test_no_code_stands_in_a_table_of_the_readme():
    assert not [line for line in README.splitlines() if line.startswith('|') and '`' in line]


def test_the_lines_of_the_readme_run_as_they_stand(tmp_path):
    "In an empty folder, without a network, with the output that is shown"
    blocks = re.findall(r'```python\n(.*?)```', README, re.S)
    shown = re.search(r'^    (FF\(.*)$', README, re.M)[1]
    code = ''.join(blocks[:-1]) + f'print({blocks[-1].strip()})\n'
    (tmp_path / 'mine.py').write_text(code)
    env = dict(os.environ, HF_HUB_OFFLINE='1', OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, 'mine.py'], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == shown


def test_every_picture_of_the_readme_has_words_and_is_there():
    found = re.findall(r'!\[([^\]]*)\]\(([^)]+)\)', README)
    assert found
    for words, path in found:
        assert len(words) > 20 and (ROOT / path).is_file()


def test_the_hero_shows_the_null():
    "Before, after, and noise after the same dose"
    drawn = '\n'.join(map(source, cells(NBS / 'index.ipynb', 'code')))
    assert 'white noise, same dose' in drawn and 'noise_field(' in drawn and 'transparent=True' in drawn


@pytest.mark.parametrize('question', ['Does it work', 'Should I use it', 'On what'])
def test_each_answer_is_a_sentence_with_a_link(question):
    answer = re.search(rf'\*\*{question}\?\*\*(.*?)(?=\n- \*\*|\n\n)', README, re.S)[1]
    text = re.sub(r'\]\([^)]*\)', ']', answer).strip()
    assert text.count('. ') == 0 and text.endswith('.')
    assert re.search(r'\]\(nbs/\S+\.ipynb\)', answer)


def test_the_answers_are_those_of_the_records():
    "Of the new study where it says something, else of the first: the rule is held on invented runs in test_healing.py"
    from ff_nbdev.core.provenance import results_folder
    from ff_nbdev.study.claims import UNTESTED, answer
    from ff_nbdev.study.front_door import DECIDED, newest
    from ff_nbdev.study.records import load_runs

    runs, rwkv = (load_runs(results_folder('night'), kind=kind) for kind in ('mt5', 'rwkv'))
    others = {f'rwkv_{name}': run for name, run in rwkv.items()}
    rows = newest(answer(load_runs(results_folder('study'), kind='mt5')), answer(runs, others))
    decided = [row for row in rows if row['study'] == 'new' and row['verdict'] in DECIDED]
    if decided:
        assert f'By {len(decided)} of {len(rows)} claims that are tested' in README
    else:
        untested = sum(row['verdict'] == UNTESTED for row in rows)
        cost = next(row['value'] for row in rows if row['id'] == 'C1')
        assert f'{untested} of {len(rows)} claims are not tested' in README
        assert f'{100 * cost:.1f} % cross-entropy' in README or 'pulses and forgiveness alone cost' in README
    assert f'{runs["full_stack"].train["steps"]} optimizer steps' in README


def test_the_table_of_architectures_is_that_of_the_tests():
    from test_architectures import MODELS

    table = [line for line in README.splitlines() if line.startswith('|')]
    named = re.findall(r'[\w-]+', ' '.join(table))
    assert not [name for name in MODELS if name not in named]
    assert f'any of the {len(MODELS)} architectures' in README


def test_the_readme_leads_to_pages_that_are_there():
    links = re.findall(r'\]\((nbs/[^)#]+)', README)
    assert links and not [link for link in links if not (ROOT / link).exists()]
    assert '/atlas.html)' in README


def test_the_package_promises_no_more_than_its_results():
    told = [(ROOT / 'settings.ini').read_text('utf-8'), (ROOT / 'ff_nbdev' / '__init__.py').read_text('utf-8')]
    lines = [re.search(r'^description = .*$', told[0], re.M)[0], told[1].splitlines()[0]]
    for line in lines:
        assert 'measure' in line and not re.search(r'robust|interpretable', line)


# Tutorials


def test_the_tutorials_are_there():
    assert not set(WANTED) - {path.stem for path in TUTORIALS}


@each
def test_a_tutorial_says_how_long_it_takes_and_opens_in_colab(nb):
    first = source(cells(nb, 'markdown')[0])
    assert first.startswith('> **What this page shows:**')
    assert re.search(r'Time to (run|read): .*(second|minute)', first)
    place = f'blob/main/{nb.relative_to(ROOT).as_posix()})'
    assert '[![Open in Colab](colab.svg)](https://colab.research.google.com/github/ff-nbdev/ff_nbdev/' in first
    assert place in first and (nb.parent / 'colab.svg').is_file()


@each
def test_a_tutorial_shows_no_empty_value(nb):
    "No null that is None, no progress bar, no error"
    text = outputs(nb, 'text/plain') + outputs(nb, 'text/html') + outputs(nb, 'text/markdown')
    assert 'null of the dose None' not in text and 'NoneType=None' not in text and '__main__.' not in text
    for cell in cells(nb, 'code'):
        for output in cell['outputs']:
            assert 'widget' not in ' '.join(output.get('data', {})) and output.get('name') != 'stderr'


@each
def test_every_picture_of_a_tutorial_has_words(nb):
    for cell in cells(nb, 'code'):
        drawn = any('image/png' in output.get('data', {}) for output in cell['outputs'])
        own = any('text/markdown' in output.get('data', {}) for output in cell['outputs'])  # a caption of `Figure`
        assert not drawn or own or '#| fig-alt:' in source(cell), source(cell)[:80]


def relative_paths(code):
    "Texts in code that are paths seen from a folder; results go to runs/ wherever one stands"
    try:
        tree = ast.parse(re.sub(r'^[%!].*$', 'pass', code, flags=re.M))
    except SyntaxError:
        return []
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [text for text in texts if re.match(r'\.\.?/|(?:nbs|results|tests)/', text)]


def test_relative_paths_are_found():
    assert relative_paths("open('../x.md')\nopen('results/y')\nf(x)/'night'") == ['../x.md', 'results/y']


@each
def test_a_tutorial_runs_from_any_folder(nb):
    "papermill starts in the folder of its caller: no path may depend on it"
    bad = {}
    for cell in cells(nb, 'code'):
        if found := relative_paths(source(cell)):
            bad[cell['id']] = found
    assert not bad


# Pages made of other files


def test_the_gallery_has_every_shipped_model():
    from ff_nbdev.models.tiny import shipped_models

    shown = outputs(NBS / 'tutorials' / 'gallery.ipynb', 'text/markdown')
    assert not [name for name in shipped_models() if f'### {name}' not in shown]


def test_the_api_has_every_public_name():
    "The short ones first, as headings; `morans_i` among the others"
    import ff_nbdev

    shown = outputs(NBS / 'api.ipynb', 'text/markdown')
    headings = re.findall(r'^### (\w+)$', shown, re.M)
    assert headings[: len(ff_nbdev.__all__)] == list(ff_nbdev.__all__)
    assert '[morans_i](evaluation/spatial.ipynb#morans_i)' in shown and 'config: FFConfig' in shown


# The glossary


def terms():
    from ff_nbdev.study.glossary import read_terms

    return read_terms(json.loads((NBS / 'tutorials' / 'glossary.ipynb').read_text('utf-8')))


def link(text, used=None):
    from ff_nbdev.study.glossary import link_terms

    return link_terms(text, terms(), 'g', used)


def test_the_words_of_the_paper_are_in_the_glossary():
    known = {term.lower() for term in terms()}
    wanted = 'dose pulse hub signature fuzzy recall forgiveness branching highway collapse healing dose null'
    names = ['fuzzy recall', 'dose null', *wanted.replace('fuzzy recall', '').replace('dose null', '').split()]
    assert not set(names) - known and len(known) >= 25


@pytest.mark.parametrize(
    'text',
    [
        '`dose`',
        '```\ndose\n```',
        '# A dose',
        '[dose](x)',
        '![dose](x.png)',
        '$dose$',
        '$$\ndose\n$$',
        '<a name="dose">',
        '::: {.callout-note title="dose"}\n:::',
        'https://a.b/dose',
        'overdose',
        'a hub id',
        '~~~\ndose\n~~~',
        '[![dose](x.svg)](y)',
    ],
)
def test_what_a_link_would_break_is_left_alone(text):
    assert link(text) == text


def test_the_first_use_is_linked_and_no_other():
    assert link('A dose, and a dose.') == 'A [dose](g#dose), and a dose.'
    assert link('The dose null.') == 'The [dose null](g#dose-null).'
    assert link('Pulses of `pulse`.') == '[Pulses](g#pulse) of `pulse`.'
    used = set()
    assert link('dose', used) == '[dose](g#dose)' and link('dose', used) == 'dose' and used == {'dose'}


def test_pages_know_their_way_to_the_glossary():
    from ff_nbdev.study.glossary import GLOSSARY, link_pages

    def notebook(text):
        return dict(cells=[dict(cell_type='markdown', source=[text]), dict(cell_type='code', source=['dose'])])

    texts = {GLOSSARY: '### Dose\n\nA dose.', 'index.ipynb': 'A dose.', 'a/b.ipynb': 'A dose.'}
    pages = {ROOT / name: notebook(text) for name, text in texts.items()}
    linked = link_pages(pages, ROOT)
    assert set(linked) == {ROOT / 'index.ipynb', ROOT / 'a/b.ipynb'}
    assert source(pages[ROOT / 'index.ipynb']['cells'][0]) == f'A [dose]({GLOSSARY}#dose).'
    assert source(pages[ROOT / 'a/b.ipynb']['cells'][0]) == f'A [dose](../{GLOSSARY}#dose).'
    assert source(pages[ROOT / GLOSSARY]['cells'][0]) == texts[GLOSSARY]
    assert source(pages[ROOT / 'a/b.ipynb']['cells'][1]) == 'dose'
