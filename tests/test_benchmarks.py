"""Benchmarks without timings: records are whole and say what their figures say, and pages show what the records hold.
Memory, passes and allocations stay within bounds. No test here times anything."""

import json
import os
import re
import subprocess

import pytest
import torch
from conftest import ROOT

from ff_nbdev.benchmarks import gpu, measures, steps
from ff_nbdev.benchmarks.records import committed, hardware_line, load_benchmark, targets, verdict_counts
from ff_nbdev.core.bench import allocations, count_ops, row_table
from ff_nbdev.evaluation.spatial import morans_i
from ff_nbdev.mechanisms.forgetfulness import proximal_kernel, pulse_

RESULTS = ROOT / 'results' / 'benchmarks'
SIZES = 3  # of every row that grows

# What a record must hold: beginning of a key → (how many sizes, is there a target?)
SPEED = {
    key: (SIZES, True)
    for key in (
        'step_noise_bf16',
        'step_noise_fp32',
        'step_off_bf16',
        'step_off_fp32',
        'fast_bare_bf16',
        'fast_noise_bf16',
        'share_moved',
        'pulse_conv2d',
        'moran_convolution',
        'moran_esda',
        'loss_cross_entropy',
        'rwkv',
        'reading',
    )
}
SPEED |= {
    key: (SIZES, False)
    for key in ('step_units', 'step_vocabulary', 'step_layers', 'pulse_scipy', 'pulse_fft', 'pulse_copy', 'loss_logits')
}
SPEED |= {'wall_run': (1, True), 'wall_test': (1, True)}
MEMORY = {'loss_peak': (SIZES, True)}
MEMORY |= {
    key: (SIZES, False) for key in ('noise_peak', 'off_peak', 'pulse_peak', 'moran_peak', 'rwkv_peak', 'reading_peak')
}
ASKED = dict(speed=SPEED, memory=MEMORY)
WANTED = {
    'step_noise_bf16': ('ratio', 1.1),
    'step_noise_fp32': ('ratio', 1.1),
    'step_off_bf16': ('ratio', 1.01),
    'fast_bare_bf16': ('speedup', 3.0),
    'fast_noise_bf16': ('speedup', 3.0),
    'share_moved': ('ours', 0.333),
    'pulse_conv2d': ('ours', 15.0),
    'moran_convolution': ('ours', 12.0),
    'moran_esda': ('speedup', 3000.0),
    'loss_cross_entropy': ('ratio', 1.0),
    'loss_peak': ('ratio', 0.5),
    'rwkv': ('speedup', 10.0),
    'reading': ('ratio', 1.05),
    'wall_run': ('ours', 6.0),
    'wall_test': ('ours', 12.0),
}


@pytest.fixture(scope='module', params=ASKED)
def record(request):
    return load_benchmark(RESULTS / f'{request.param}.json')


# Records


def test_every_row_is_there(record):
    for key, (sizes, has_target) in ASKED[record.what].items():
        rows = [r for r in record.rows if r.key == key]
        assert len(rows) == sizes, f'{key}: {len(rows)} sizes in results/benchmarks/{record.what}.json; make bench'
        assert len({r.at for r in rows}) == sizes and [r.at for r in rows] == sorted(r.at for r in rows)
        with_target = [row.wanted is not None for row in rows]
        if key == 'moran_esda':
            assert with_target.count(True) == 1
        else:
            assert with_target == [has_target and place + 1 == sizes for place in range(sizes)]
        for r in rows:
            if r.wanted:
                assert (r.wanted.of, r.wanted.limit) == WANTED.get(key, (r.wanted.of, r.wanted.limit))


def test_every_row_has_a_peer_and_a_verdict(record):
    for r in record.rows:
        assert r.peer_name and r.peer is not None, f'{r.key}, {r.size} has no peer'
        assert r.verdict in ('met', 'no target', 'not measured') or re.fullmatch(r'missed by [\d,]+ %', r.verdict)
        for s in (r.ours, r.peer, r.ratio):
            if s is not None:
                assert 0 <= s.best <= s.low <= s.median <= s.high or s.n == 1


def test_only_what_is_not_there_yet_is_not_measured(record):
    assert not [r.key for r in record.rows if r.verdict == 'not measured' and not r.key.startswith('wall_')]


def test_a_record_names_its_machine(record):
    h = record.hardware
    assert h['cpu'] and h['threads'] == 1 and h['torch'] and isinstance(h['instructions'], list) and h['cores'] >= 1
    assert re.fullmatch(r'\d{4}-\d\d-\d\d', record.date) and record.commit
    assert record.commit in hardware_line(record) and record.seconds > 0


def test_a_file_cannot_claim_what_its_numbers_do_not_say(record, tmp_path):
    told = json.loads((RESULTS / f'{record.what}.json').read_text())
    k = next(i for i, r in enumerate(told['rows']) if r['wanted'] and r['ours'])
    told['rows'][k]['verdict'] = 'met' if told['rows'][k]['verdict'] != 'met' else 'missed by 3 %'
    (tmp_path / 'r.json').write_text(json.dumps(told))
    with pytest.raises(ValueError, match='and its figures say'):
        load_benchmark(tmp_path / 'r.json')


def test_ours_agrees_with_its_peers():
    told = load_benchmark(RESULTS / 'speed.json').parts['agreements']
    now = measures.agreements()
    assert {a['what'] for a in told} == {a['what'] for a in now}
    assert not [a for a in told + now if a['found'] > a['allowed']]


# Pages


def text_of(page):
    cells = json.loads((ROOT / 'nbs' / 'benchmarks' / f'{page}.ipynb').read_text())['cells']
    shown = []
    for cell in cells:
        for output in cell.get('outputs', []):
            data = output.get('data', {})
            shown.append(''.join(output.get('text', [])) + ''.join(data.get('text/html', data.get('text/plain', []))))
    return '\n'.join(shown)


def test_pages_show_the_records(record):
    shown = re.sub(r'\\(.)', r'\1', text_of(record.what))
    here = f'nbs/benchmarks/{record.what}.ipynb is older than its record: make bench'
    assert hardware_line(record) in shown, here
    for line in targets(record.rows).to_dict('records'):
        assert line['found'] in shown and line['verdict'] in shown, here
    for line in row_table(record.rows).to_dict('records'):
        assert line['ours'] in shown and line['peer'] in shown, here
    counted = verdict_counts(record.rows).targets
    assert counted.sum() == len([r for r in record.rows if r.wanted])


@pytest.mark.parametrize('page', ['speed', 'memory'])
def test_a_page_has_one_strict_parameters_cell(page):
    from ff_nbdev.run.parameters import parse_parameters, read_notebook

    path = ROOT / 'nbs' / 'benchmarks' / f'{page}.ipynb'
    assert {'measure', 'out'} <= set(parse_parameters(read_notebook(path), page))
    text = path.read_text()
    assert 'check_params(' in text and 'default_exp' not in text


@pytest.mark.parametrize('page', ['speed', 'memory'])
def test_a_page_measures_when_asked(page, tmp_path):
    "At toy size, cell by cell with other parameters; every row of the real table is there"
    cells = json.loads((ROOT / 'nbs' / 'benchmarks' / f'{page}.ipynb').read_text())['cells']
    scope = {}
    for c in (c for c in cells if c['cell_type'] == 'code'):
        exec(''.join(c['source']), scope)
        if 'parameters' in c['metadata'].get('tags', []):
            scope.update(measure='tiny', out=str(tmp_path))
        if (tmp_path / f'{page}.json').exists():
            break
    found = load_benchmark(tmp_path / f'{page}.json')
    assert {r.key for r in found.rows} >= set(ASKED[page]) - {'step_noise_fp32', 'step_off_fp32'}
    assert not found.parts.get('errors')


def test_make_bench_runs_the_pages():
    said = subprocess.run(['make', '-n', 'bench'], cwd=ROOT, capture_output=True, text=True).stdout
    for page in ('speed', 'memory'):
        path = f'nbs/benchmarks/{page}.ipynb'
        assert f'ff-nbdev notebook {path}' in said and path in said.split('nbconvert')[1]


# Ratios that are not timings


def test_attached_and_off_adds_no_operator():
    small = dict(windows=2, vocab=256, size='tiny', d_model=32, d_ff=128, num_layers=1, num_decoder_layers=1)
    calls = steps.step_calls(**small)
    counts = {name: sum(count_ops(call).values()) for name, call in calls.items()}
    assert counts['off'] == counts['bare'] < counts['noise'], counts
    sites = 2
    assert counts['noise'] - counts['bare'] <= 200 * sites, (
        'operators that the noise adds at a site where no kernel runs'
    )


def test_attached_and_off_allocates_nothing():
    small = dict(windows=2, vocab=256, size='tiny', d_model=32, d_ff=128, num_layers=1, num_decoder_layers=1)
    for call in (calls := steps.step_calls(**small)).values():
        call()
    found = {name: allocations(calls[name]) for name in ('bare', 'off')}
    assert found['off'].count == found['bare'].count and found['off'].peak <= 1.01 * found['bare'].peak


def test_a_pulse_holds_a_few_matrices():
    "Of the matrix's own size, at once; and passes over it"
    w, kernel = torch.randn(256, 512), proximal_kernel()
    pulse_(w, kernel, 0.03)
    assert allocations(lambda: pulse_(w, kernel, 0.03)).peak <= 1.1 * w.nbytes
    assert sum(count_ops(lambda: pulse_(w, kernel, 0.03)).values()) <= 80  # where no kernel runs


def test_morans_i_holds_a_few_fields():
    x = torch.randn(256, 512, dtype=torch.float64)
    morans_i(x)
    assert allocations(lambda: morans_i(x)).peak <= 0.01 * x.nbytes
    assert sum(count_ops(lambda: morans_i(x)).values()) <= 80  # where no kernel runs


def test_the_loss_needs_no_more_than_cross_entropy():
    "Logits, their gradient, and what the softmax keeps; with a linear loss that makes no logits, half of it"
    calls = measures.loss_calls(rows=128, vocab=20_000, d=16)
    for call in calls.values():
        call()
    ours, peer = allocations(calls['ours']).peak, allocations(calls['cross_entropy']).peak
    assert ours <= 0.5 * peer, f'{ours / peer:.2f} of the peak of F.cross_entropy'


# The check on a GPU


def test_the_gpu_check_fits_its_time():
    assert sum(gpu.GPU.budget.values()) <= 720
    assert set(gpu.GPU.budget) == set(gpu.PARTS)


def test_the_gpu_check_runs_small(tmp_path):
    "Every part but the compiler, on the CPU"
    parts = [p for p in gpu.PARTS if p != 'compiled']
    status = gpu.main(['--cpu', '--together', '--out', str(tmp_path / 'gpu.json'), '--parts', *parts])
    found = load_benchmark(tmp_path / 'gpu.json')
    checks = {c['part']: c for c in found.parts['checks']}
    assert status == 0 and list(checks) == parts and not [c['error'] for c in checks.values() if c['error']], checks
    for arch in ('mt5', 'rwkv'):
        assert all(checks['bits']['result'][arch]['off_is_bare'].values())
        assert checks[f'resume_{arch}']['result']['equal_bits'] and checks[f'resume_{arch}']['result']['pulses'] > 0
    assert checks['speed']['result']['errors'] == {}
    assert {'gpu_pulses', 'gpu_peak_loss', 'step_noise_bf16'} <= {row.key for row in found.rows}


def test_the_gpu_check_is_a_command():
    script = ROOT / 'workflow' / 'gpu_check'
    assert os.access(script, os.X_OK) and 'from ff_nbdev.benchmarks.gpu import main' in script.read_text()
    compile(script.read_text(), str(script), 'exec')


def test_a_part_that_fails_does_not_stop_the_rest(monkeypatch):
    monkeypatch.setitem(gpu.PARTS, 'bits', lambda sizes: 1 / 0)
    monkeypatch.setitem(gpu.PARTS, 'memory', lambda sizes: ({}, []))
    found = gpu.check(gpu.CPU, ['bits', 'memory'], apart=False, log=lambda line: None)
    assert [bool(c['error']) for c in found.parts['checks']] == [True, False]


def test_a_part_is_ended_when_its_budget_is_spent(monkeypatch):
    monkeypatch.setitem(gpu.CPU.budget, 'bits', 0.5)
    found = gpu.check(gpu.CPU, ['bits'], log=lambda line: None).parts['checks'][0]
    assert 'not done after its budget' in found['error'] and found['seconds'] < 30


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2 and '--cpu' in capsys.readouterr().err


def test_what_was_not_measured_is_said():
    if committed('gpu') is None:
        assert text_of('speed').count('not measured yet') >= 3
    else:
        assert 'not measured yet' not in text_of('speed')
