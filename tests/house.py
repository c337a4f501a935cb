"""What the rules of the house count: python tests/house.py [ROOM …] prints it for every page, module and test.

`tests/house.json` holds what is not yet as the rules say, by file. A count may fall and never rise; `--write` keeps it.
"""

import ast
import json
import re
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from functools import cache
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEBTS = ROOT / 'tests' / 'house.json'
COLUMNS, CELL, SIGNATURE, FUNCTION, COMPLEXITY, MODULE, HIDDEN = 120, 20, 30, 40, 10, 500, 12
RULES = {
    'columns': f'lines over {COLUMNS} columns',
    'semicolons': 'statements joined by ;',
    'nested': 'comprehensions inside a comprehension',
    'functions': f'functions over {FUNCTION} lines',
    'complex': f'functions of a complexity over {COMPLEXITY}',
    'cells': f'cells over {CELL} lines ({SIGNATURE} with a signature, or as many as there are parameters)',
    'hidden': f'hidden cells of tests over {HIDDEN} lines',
    'module': f'modules over {MODULE} lines',
    'private': 'private names from another module',
}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FLOORS = dict(
    models=1, core=2, data=2, mechanisms=3, evaluation=4, training=5, baselines=5, run=6, study=7, benchmarks=8, cli=8
)
SAME_FLOOR = {('data', 'core')}  # text is written by what core offers, and core knows no text


def source(cell):
    return ''.join(cell['source'])


def pages():
    for path in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        if not any(part.startswith(('.', '_')) for part in path.relative_to(ROOT).parts):
            yield path


def semicolons(code):
    if ';' not in code:
        return 0
    tokens = tokenize.generate_tokens(StringIO(code).readline)
    return sum(token.type == tokenize.OP and token.string == ';' for token in tokens)


def nested(tree):
    inner = set()
    for outer in ast.walk(tree):
        if isinstance(outer, COMPREHENSIONS):
            inner |= {id(n) for n in ast.walk(outer) if n is not outer and isinstance(n, COMPREHENSIONS)}
    return len(inner)


def long_functions(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return sum(isinstance(n, kinds) and n.end_lineno - n.lineno >= FUNCTION for n in ast.walk(tree))


def has_signature(code):
    "Does a definition, or a class with its fields, take many of a cell's lines?"
    return re.search(r'^\s*def \w+\($|^\s*def \w+\(self[^)]*,$|^class ', code, re.M) is not None


def allowed_lines(cell):
    """How many lines a cell may take

    The cell tagged `parameters` is the signature of its notebook, with a comment for each parameter. Papermill takes
    one such cell, so it cannot be cut in two: it may always have a line for each of its parameters, and no other."""
    code = source(cell)
    if 'parameters' in cell['metadata'].get('tags', ()):
        parameters = sum(isinstance(node, ast.AnnAssign) for node in ast.parse(code).body)
        return max(SIGNATURE, parameters)
    return SIGNATURE if has_signature(code) else CELL


def count_code(code):
    "The counts of one piece of code"
    found = Counter(columns=sum(len(line) > COLUMNS for line in code.splitlines()))
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a magic
        return found
    found.update(semicolons=semicolons(code), nested=nested(tree), functions=long_functions(tree))
    return found


def complexity(codes):
    "File → functions that ruff finds too complex"
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for i, (file, code) in enumerate(codes.items()):
            names[f'{i}.py'] = file
            (Path(folder) / f'{i}.py').write_text(code)
        words = ['check', '--isolated', '--select', 'C901', '--output-format', 'concise', '--no-cache', folder]
        out = subprocess.run([sys.executable, '-m', 'ruff', *words], capture_output=True, text=True).stdout
    return Counter(names[name] for name in re.findall(r'(\d+\.py):\d+:\d+: C901', out))


def count_page(path):
    "The counts of a notebook, and its exported code"
    found, exported = Counter(), []
    for cell in json.loads(path.read_text('utf-8'))['cells']:
        if cell['cell_type'] != 'code':
            continue
        code = source(cell)
        lines, is_exported = code.splitlines(), re.match(r'#\|\s*export', code) is not None
        found += count_code(code)
        found['cells'] += len(lines) > allowed_lines(cell)
        found['hidden'] += code.startswith('#| hide') and not is_exported and len(lines) > HIDDEN
        if is_exported:
            exported.append(code)
    found['module'] += sum(len(code.splitlines()) for code in exported) > MODULE
    return found, '\n'.join(exported)


def count_house():
    "File → its counts, without those that are zero"
    found, codes = {}, {}
    for path in pages():
        file = path.relative_to(ROOT).as_posix()
        found[file], codes[file] = count_page(path)
    for path in sorted((ROOT / 'tests').rglob('*.py')):
        file = path.relative_to(ROOT).as_posix()
        codes[file] = path.read_text('utf-8')
        found[file] = count_code(codes[file])
    for file, n in complexity(codes).items():
        found[file]['complex'] += n
    for module, name, _ in private_imports():
        found[f'nbs/{module}.ipynb']['private'] += 1
    broken = {file: dict(+counts) for file, counts in found.items()}
    return {file: counts for file, counts in broken.items() if counts}


def module_of(path):
    return path.relative_to(ROOT / 'ff_nbdev').with_suffix('').as_posix()


def imported_from(node, module):
    "The module of an import, as a path below the package; None for another package"
    if isinstance(node, ast.Import):
        names = [a.name for a in node.names if a.name.startswith('ff_nbdev.')]
        return names[0].removeprefix('ff_nbdev.').replace('.', '/') if names else None
    if node.level:
        parts = module.split('/')[: -node.level]
        return '/'.join([*parts, *(node.module or '').split('.')]).strip('/')
    name = node.module or ''
    return name.removeprefix('ff_nbdev').strip('.').replace('.', '/') if name.split('.')[0] == 'ff_nbdev' else None


@cache
def imports():
    "(module, where from, name) of every import of the library's own, lazy ones too"
    return list(find_imports())


def find_imports():
    for path in sorted((ROOT / 'ff_nbdev').rglob('*.py')):
        if path.name in ('_modidx.py', '__init__.py'):
            continue
        module = module_of(path)
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            origin = imported_from(node, module)
            if origin is None:
                continue
            for alias in node.names:
                inside = f'{origin}/{alias.name}'.strip('/')
                is_module = (ROOT / 'ff_nbdev' / f'{inside}.py').exists()
                yield module, inside if is_module else origin, '' if is_module else alias.name


def private_imports():
    return [(m, o, n) for m, o, n in imports() if n.startswith('_') and not n.startswith('__') and m != o]


def upward():
    "Imports from a room that is not below"

    def room(module):
        return module.split('/')[0]

    found = set()
    for module, origin, _ in imports():
        mine, theirs = room(module), room(origin)
        if not theirs or mine == theirs or (mine, theirs) in SAME_FLOOR:
            continue
        if FLOORS[theirs] >= FLOORS[mine]:
            found.add(f'{module} imports from {origin}')
    return sorted(found)


def circles():
    "Modules that import themselves by way of others"
    arrows = {}
    for module, origin, _ in imports():
        arrows.setdefault(module, set()).add(origin)

    def reached(module):
        seen, todo = set(), [module]
        while todo:
            new = arrows.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    return sorted(m for m in arrows if m in reached(m))


def totals(counts):
    "Rule → how often it is broken, of all files"
    total = Counter()
    for found in counts.values():
        total.update(found)
    return {rule: total[rule] for rule in RULES}


if __name__ == '__main__':
    counts = count_house()
    if '--write' in sys.argv:
        DEBTS.write_text(json.dumps(counts, indent=1, sort_keys=True) + '\n')
    rooms = tuple(f'nbs/{word}' for word in sys.argv[1:] if not word.startswith('-'))
    for file, found in counts.items():
        if not rooms or file.startswith(rooms):
            print(f'{file:45}', ', '.join(f'{n} {RULES[rule]}' for rule, n in found.items()))
    for rule, n in totals(counts).items():
        print(f'{n:6} {RULES[rule]}')
