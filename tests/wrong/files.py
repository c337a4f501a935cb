"""Wrong folders, records, names and packages: what is read, written, published, reported and bundled.

And wrong values of the baselines.
"""

import json
import pickle

import numpy as np
import torch

from ff_nbdev.baselines import code_comparison, codes, noise_null, reordered, sae, smoothed, sparsity, topographic
from ff_nbdev.evaluation.record import EvaluationRecord
from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.tiny import random_tiny
from ff_nbdev.run import bundle, packing, prepare, wheels
from ff_nbdev.run import train as retrofit
from ff_nbdev.run import settings as run_settings
from ff_nbdev.study import claims, examples, publish, records, report
from ff_nbdev.core import provenance
from ff_nbdev.core import io as F

NAN, MATRIX, ROWS = torch.full((6, 6), float('nan')), torch.randn(12, 12), torch.randn(300, 16)
SITE = find_sites(random_tiny('mt5'))[0]
BASE = dict(scale='quick', corpus='python_prose', models={}, seeds=[0], given=['base'], trained=[], runs=['base'])


def broken():
    "A model with one weight that is NaN"
    m = random_tiny('mt5')
    with torch.no_grad():
        find_sites(m)[0].weight('value')[0, 0] = float('nan')
    return m


def settings(files, text='', **changed):
    "A folder with a run.json"
    return files('run/run.json', text or json.dumps(BASE | changed)).parent


def plan(out, **kw):
    return prepare.Plan('full_stack', 'tiny-mt5', 'python_prose', str(out), **kw)


def inside(name):
    return lambda files: publish.publish(
        settings(files, runs=['base'], given=['base']) if files('run/base/evaluation.json', '{}') else None,
        files.here / name,
    )


def train(files, text):
    return prepare.moran_of(files('a/train.json', text))


def record(files, text, name='evaluation.json'):
    "Read an arm whose record is damaged"
    files('quick/base/evaluation.json', text if name == 'evaluation.json' else '{}')
    if name != 'evaluation.json':
        files(f'quick/base/{name}', text)
    return records.load_run(files.here / 'quick' / 'base')


def pickled(files):
    path = files('arrays.npz')
    np.savez(path, a=np.array([{}], dtype=object))
    return F.read_arrays(path)


def claimed(files, text):
    return claims.read_claims(files('claims.yaml', text))


def packed(files, **kw):
    "A bundle that is refused before it begins"
    wheel = files('ff_nbdev-0.1.0-py3-none-any.whl', kw.pop('wheel', 'PK'))
    return bundle.make_bundle(
        kw.pop('out', 'node'), **{**dict(models=(), corpora=(), wheels='own', own=wheel, log=lambda s: None), **kw}
    )


def required(files, text):
    "A bundle with one more requirement"
    return packed(files, own=None, wheels='all', extra_requirements=[text])


def lock(files, text):
    return wheels.read_lock(files('a.lock', text))


CASES = {
    # settings of a run
    'settings: a list': (
        lambda f: run_settings.settings_of(settings(f, '[]')),
        'run.json is no settings of a run: it holds a list',
    ),
    'settings: a number': (lambda f: run_settings.settings_of(settings(f, '3')), 'it holds a whole number'),
    'settings: nothing in them': (
        lambda f: publish.publish(settings(f, '{}'), 'out'),
        'it lacks runs, corpus, models, given, trained',
    ),
    'settings: without a corpus': (
        lambda f: publish.publish(settings(f, '{"runs": [], "models": {}, "given": [], "trained": []}'), 'out'),
        'it lacks corpus',
    ),
    'settings: empty file': (lambda f: run_settings.settings_of(settings(f, ' ')), 'it is empty'),
    'settings: cut off': (lambda f: run_settings.settings_of(settings(f, '{"runs": ["ba')), 'it was cut off or edited'),
    'settings: brackets without end': (
        lambda f: run_settings.settings_of(settings(f, '[' * 100_000)),
        'nested too deeply',
    ),
    'settings: no text': (lambda f: run_settings.settings_of(settings(f, b'\xff\xfe\x00{')), 'no text in UTF-8'),
    'settings: runs are a text': (
        lambda f: run_settings.settings_of(settings(f, runs='base')),
        'its runs is of another type',
    ),
    'settings: models are a list': (
        lambda f: run_settings.settings_of(settings(f, models=['tiny-mt5'])),
        'its models is of another type',
    ),
    'settings: a model is a number': (
        lambda f: run_settings.settings_of(settings(f, models=dict(mt5=3))),
        'a model of it is no text',
    ),
    'settings: a seed is a text': (
        lambda f: run_settings.settings_of(settings(f, seeds=['0'])),
        'a seed of it is no whole number',
    ),
    'settings: a seed is yes': (
        lambda f: run_settings.settings_of(settings(f, seeds=[True])),
        'a seed of it is no whole number',
    ),
    'settings: a variant is a number': (
        lambda f: run_settings.settings_of(settings(f, variants={'a~b': 3})),
        'a variant of it holds no parameters',
    ),
    'settings: parameters are a list': (
        lambda f: run_settings.settings_of(settings(f, retrofit=[1])),
        'its retrofit holds no parameters',
    ),
    'settings: threads in words': (
        lambda f: run_settings.settings_of(settings(f, threads='two')),
        'its threads is of another type',
    ),
    'settings: a run is a number': (lambda f: run_settings.settings_of(settings(f, runs=[3])), 'is no text'),
    # names that become folders
    'name: upwards': (
        lambda f: run_settings.settings_of(settings(f, runs=['../../elsewhere'])),
        "the run '../../elsewhere' cannot be a folder",
    ),
    'name: absolute': (lambda f: run_settings.settings_of(settings(f, trained=['/etc'])), 'cannot be a folder'),
    'name: a variant upwards': (
        lambda f: run_settings.settings_of(settings(f, variants={'full_stack~../x': {}})),
        'cannot be a folder',
    ),
    'name: a shipped one upwards': (
        lambda f: run_settings.settings_of(settings(f, shipped=dict(full_stack='../../models'))),
        'cannot be a folder',
    ),
    'name: a parent': (lambda: F.check_name('..'), 'cannot be a folder'),
    'name: none': (lambda: F.check_name(''), 'begin with a letter or digit'),
    'name: hidden': (lambda: F.check_name('.ssh'), 'begin with a letter or digit'),
    'name: an option': (lambda: F.check_name('-rf'), 'begin with a letter or digit'),
    'name: of Windows': (lambda: F.check_name('a\\b'), 'cannot be a folder'),
    'name: a line break': (lambda: F.check_name('full_stack\n'), 'cannot be a folder'),
    'name: a control character': (lambda: F.check_name('a\x1b[2J'), 'cannot be a folder'),
    'name: a space': (lambda: F.check_name('full stack'), 'cannot be a folder'),
    'name: a command': (lambda: F.check_name('$(id)'), 'cannot be a folder'),
    'name: braces of the graph': (lambda: F.check_name('{run}'), 'cannot be a folder'),
    'name: overlong': (lambda: F.check_name('a' * 121), 'is too long'),
    'name: overlong in bytes': (lambda: F.check_name('ü' * 61), 'is too long'),
    'name: a number': (lambda: F.check_name(5), 'is no text'),
    'arms upwards': (lambda f: records.load_runs(settings(f), ['../base']), "The run '../base' cannot be a folder"),
    # records
    'record: cut off': (lambda f: record(f, '{"clean": {"ce": 3.'), 'make it again with `ff-nbdev run quick`'),
    'record: a list': (lambda f: record(f, '[]'), 'evaluation.json is no record of this version'),
    'record: of another kind': (lambda f: record(f, '{"results": []}'), 'it lacks clean, floors'),
    'record: scores are a number': (
        lambda f: record(f, json.dumps(dict.fromkeys(EvaluationRecord.needs, 3))),
        'its clean is a whole number, and named entries belongs there',
    ),
    'record: without a score': (
        lambda f: record(
            f,
            json.dumps(dict.fromkeys(EvaluationRecord.needs, {}) | dict(spatial=[], unigram_ce=0, dose=0, sentences=0)),
        ),
        'it lacks clean.ce',
    ),
    'record: nested without end': (lambda f: record(f, '{"clean":' * 60_000), 'nested too deeply'),
    'training: damaged': (lambda f: record(f, '{"log": 3', 'train.json'), 'train.json is no record of this version'),
    'training: the log is a text': (
        lambda f: record(f, json.dumps(dict(log='', valid=[], dose=0, sentences=0, tokens=0, seconds=0)), 'train.json'),
        'its log is a text',
    ),
    'arrays: cut off': (lambda f: F.read_arrays(f('a.npz', b'PK\x03\x04half')), 'was cut off or is of another kind'),
    'arrays: pickled': (pickled, 'pickled objects, which are not read'),
    'arrays: a pickle alone': (
        lambda f: F.read_arrays(f('a.npz', pickle.dumps([1]))),
        'pickled objects, which are not read',
    ),
    'arrays: none': (lambda: F.read_arrays('nothing.npz'), 'no file of arrays'),
    'tensors: cut off': (lambda f: F.read_tensors(f('a.safetensors', b'\xff' * 40)), 'cannot be read as tensors'),
    'tensors: an endless header': (
        lambda f: F.read_tensors(f('a.safetensors', b'\xff\xff\xff\xff\xff\xff\xff\x7f{}')),
        'cannot be read as tensors',
    ),
    'tensors: none': (lambda: F.read_tensors('nothing.safetensors'), 'no file of tensors'),
    'dose of a damaged record': (
        lambda f: prepare.dose_of(f('a/train.json', '{"dose": "high"}').parent / 'model'),
        'its dose is a text',
    ),
    'dose of a damaged state': (
        lambda f: prepare.dose_of(f('a/model/ff_state.safetensors', b'x' * 20).parent),
        'cannot be read as tensors',
    ),
    'moran of a list': (lambda f: train(f, '[]'), 'it holds a list'),
    'moran of a text': (lambda f: train(f, '{"activation_moran": "high"}'), 'its activation_moran is a text'),
    'moran of nothing': (lambda f: train(f, '{}'), "does not say what Moran's I"),
    'moran of other rows': (lambda f: train(f, '{"activation_moran": [3]}'), "does not say what Moran's I"),
    'plan: of another version': (
        lambda f: retrofit.read_plan(f('p.json', json.dumps(dict(recipe='a', model='b', corpus='c', out='d', more=1)))),
        "it says 'more'",
    ),
    'plan: without a model': (lambda f: retrofit.read_plan(f('p.json', '{"recipe": "a"}')), 'it lacks model'),
    'report of a half-read folder': (lambda f: report.write_report(settings(f)), 'no run folder'),
    'report of no folder': (lambda: report.write_report('nowhere'), 'no folder nowhere'),
    'not a number in a result': (
        lambda f: provenance.save_json(dict(a=float('nan')), f.here / 'a.json'),
        'must be a finite number or None',
    ),
    'an object in a result': (
        lambda f: provenance.save_json(dict(a=object()), f.here / 'a.json'),
        'which JSON cannot hold',
    ),
    # folders of others
    'publish: no run': (lambda: publish.publish('nowhere', 'out'), 'holds no run'),
    'publish: onto itself': (inside('run'), 'whose models would be lost'),
    'publish: into itself': (inside('run/results'), 'whose models would be lost'),
    'publish: above itself': (inside('.'), 'whose models would be lost'),
    'publish: onto itself by another way': (inside('run/base/../../run'), 'whose models would be lost'),
    'publish: onto letters': (
        lambda f: inside('mine')(f) if f('mine/letter.txt', 'dear') else None,
        'is no folder of results',
    ),
    'publish: onto a file': (lambda f: inside('mine')(f) if f('mine', 'dear') else None, 'is a file'),
    'publish: onto another run': (
        lambda f: inside('other')(f) if f('other/run.json', json.dumps(BASE)) else None,
        'is a run and no folder of results',
    ),
    'publish: onto results with a letter': (
        lambda f: (
            inside('old')(f)
            if f('old/run.json', json.dumps(BASE | dict(not_run=[]))) and f('old/base/letter.txt', 'dear')
            else None
        ),
        'holds base/letter.txt',
    ),
    'publish: no arm': (lambda f: publish.publish(settings(f, runs=[]), 'out'), 'names no run'),
    'ship: onto itself': (
        lambda f: publish.ship(
            examples.example_runs(f.here / 'quick', ['base', 'full_stack']) / 'full_stack',
            f.here / 'quick' / 'full_stack',
        ),
        'which would be lost',
    ),
    'train: an arm upwards': (
        lambda: retrofit.check_out(prepare.Plan('../full_stack', 'tiny-mt5', 'python_prose', 'out')),
        "did you mean 'full_stack'",
    ),
    'train: no folder': (lambda: retrofit.check_out(plan('')), 'has no folder for its result'),
    'train: onto a file': (lambda f: retrofit.check_out(plan(f('mine'))), 'is a file'),
    'train: over a model of others': (
        lambda f: retrofit.check_out(plan(f('mine/model/model.safetensors', 'weights').parent.parent)),
        'holds model without the record of a run',
    ),
    'train: over checkpoints of others': (
        lambda f: retrofit.check_out(plan(f('mine/checkpoints/checkpoint-5/model.safetensors', 'w').parents[2])),
        'no file of the checkpoints of a run',
    ),
    'train: over another arm': (
        lambda f: retrofit.check_out(plan(f('mine/train.json', '{"arm": "tlf"}').parent)),
        "holds the trained run 'tlf'",
    ),
    'train: over a damaged record': (
        lambda f: retrofit.check_out(plan(f('mine/train.json', '{"arm": ').parent)),
        'train.json is no record of training',
    ),
    'train: a letter in the model': (
        lambda f: retrofit.check_out(
            plan(f('mine/train.json', '{"arm": "full_stack"}').parent if f('mine/model/letter.txt') else '')
        ),
        'letter.txt, which is no file of a trained model',
    ),
    'result: over a model of others': (
        lambda f: F.check_result(f('mine/model/config.json').parents[1], ['teacher.json'], ['model'], 'a teacher'),
        'without the record of a teacher',
    ),
    'empty: a letter': (lambda f: F.empty_own(f('mine/letter.txt').parent, ['*.json'], 'an arm'), 'holds letter.txt'),
    'write: the folder is a file': (
        lambda f: F.write_whole(f('mine') / 'a.json', '{}'),
        'a file of that name is there',
    ),
    'write: a name without end': (
        lambda f: F.save_arrays(f.here / ('a' * 300 + '.npz'), a=np.zeros(2)),
        'its name is too long',
    ),
    'shown results of an old checkout': (
        lambda: provenance.results_folder('nothing.json'),
        'has no record results/nothing.json',
    ),
    # claims
    'claims: none': (lambda: claims.read_claims('nothing.yaml'), 'no file of claims'),
    'claims: empty': (lambda f: claimed(f, ''), 'holds no entries such as C1'),
    'claims: a list': (lambda f: claimed(f, '- C1'), 'holds no entries such as C1'),
    'claims: a text': (lambda f: claimed(f, 'C1: it works'), 'holds no entries of its own'),
    'claims: no YAML': (lambda f: claimed(f, 'C1: [1, '), 'cannot be read as YAML'),
    'claims: a tag that runs code': (
        lambda f: claimed(f, 'C1: !!python/object/apply:os.system [touch pwned]'),
        'cannot be read as YAML',
    ),
    'claims: no text': (lambda f: claimed(f, b'\xff\xfe\x00'), 'cannot be read as YAML'),
    'claims: without a rule': (
        lambda f: claimed(f, 'C1: {claim: a, paper: b, statistic: c, control: d, arms: [e]}'),
        'C1 has no rule',
    ),
    'claims: arms are a text': (
        lambda f: claimed(f, 'C1: {claim: a, paper: b, statistic: c, rule: r, control: d, arms: full_stack}'),
        'are no list of names',
    ),
    'claims: an unknown one': (
        lambda: claims.answer(records.Runs(), claims={'C99': {}}),
        "no rule for the claim 'C99'",
    ),
    # bundles
    'bundle: a wheel that was cut off': (lambda f: packed(f), 'is no wheel'),
    'bundle: requirements are a text': (lambda f: packed(f, extra_requirements='six'), 'are lists of names'),
    'bundle: an option': (lambda f: required(f, '--index-url=x'), 'is no requirement'),
    'bundle: a command': (lambda f: required(f, 'six; touch pwned'), 'is no requirement'),
    'bundle: a line break': (lambda f: required(f, 'six\ntouch pwned'), 'is no requirement'),
    'bundle: an address': (lambda f: required(f, 'six @ https://e.org/$(id).whl'), 'names an address'),
    'bundle: a file': (lambda f: required(f, './six.whl'), 'is no requirement'),
    'bundle: a name like an option': (lambda f: packed(f, out='-x'), 'is no name for a bundle'),
    'bundle: a name with a line break': (lambda f: packed(f, out='a\nb'), 'is no name for a bundle'),
    'bundle: a name that is taken': (lambda f: packed(f, out=f('node')), 'is there already'),
    'bundle: a lock of options': (lambda f: lock(f, '--index-url==1'), 'not of the form name==version'),
    'bundle: a lock of commands': (lambda f: lock(f, 'six==1; touch pwned'), 'not of the form name==version'),
    'bundle: a lock that is no text': (lambda f: lock(f, b'\xff\xfe\x00'), 'holds no text'),
    'bundle: a hub id upwards': (lambda: packing.find_model('a/..'), 'No model'),
    'bundle: a hub id like an option': (lambda: packing.find_model('-a/b'), 'No model'),
    'bundle: an archive that was cut off': (lambda f: packing.bundle_files(f('a.tar', b'x' * 100)), 'holds no bundle'),
    # baselines
    'pulsed noise of no shape': (lambda: noise_null.noise_field((8,), 1.0), 'is none of a matrix'),
    'pulsed noise of negative rows': (lambda: noise_null.null_moran((8, -8), 1.0), 'is none of a matrix'),
    'pulsed noise, endlessly': (lambda: noise_null.noise_field((8, 8), float('inf')), 'must be 0 or more, and finite'),
    'pulsed noise of NaN': (lambda: noise_null.null_moran((8, 8), float('nan')), 'must be 0 or more, and finite'),
    'no draw of the null': (lambda: noise_null.null_moran((8, 8), 1.0, repeats=0), 'must be at least 1'),
    'permuted NaN': (lambda: noise_null.permuted_moran(NAN, 1.0), 'finite numbers that are not all the same'),
    'permuted constant': (
        lambda: noise_null.permuted_moran(torch.ones(6, 6), 1.0),
        'finite numbers that are not all the same',
    ),
    'permuted vector': (lambda: noise_null.permuted_moran(MATRIX[0], 1.0), 'has no rows and columns'),
    'permuted never': (lambda: noise_null.permuted_moran(MATRIX, 1.0, repeats=0), 'must be at least 1'),
    'negative pulses': (
        lambda: noise_null.pulse_gain((4, 4), torch.ones(3, 3), 0.1, -1),
        'a number of pulses is 0 or more',
    ),
    'a broken model diffused': (lambda: noise_null.diffused(broken(), 1.0).__enter__(), 'NaN or infinite'),
    'a broken model as noise': (lambda: noise_null.noise_diffused(broken(), 1.0).__enter__(), 'NaN or infinite'),
    'order of one vector': (lambda: reordered.hidden_permutation(ROWS[0]), 'at least two positions'),
    'order of two units': (lambda: reordered.hidden_permutation(ROWS[:, :2]), 'at least 3 units'),
    'order without sharpness': (lambda: reordered.hidden_permutation(ROWS, -1.0), 'must be above 0'),
    'order of NaN': (lambda: reordered.hidden_permutation(NAN), 'NaN or infinity'),
    'order from no position': (
        lambda: reordered.reorder_(random_tiny('mt5'), [{}] * 4, positions=0),
        'must be 2 or more',
    ),
    'a unit twice': (
        lambda: reordered.permute_hidden_(SITE, torch.zeros(SITE.d_ff, dtype=torch.long)),
        'must hold each',
    ),
    'bits of negative values': (lambda: codes.sae_bits(16, 2, -8), 'must be 0 or more'),
    'bits of a share': (lambda: codes.log2_choose(16, 0.5), 'give whole numbers'),
    'bits of too many hubs': (lambda: codes.hub_bits(64, 3, 5, 4), 'at most as many as may be'),
    'a budget of NaN': (lambda: codes.equal_bits(float('nan'), 64), 'do not pay for one'),
    'codes of a top of 0': (lambda: codes.to_codes(ROWS, 0.0), 'must be above 0 and finite'),
    'codes of no bits': (lambda: codes.from_codes(torch.zeros(3, dtype=torch.long), 1.0, bits=0), 'takes 3 to 16 bits'),
    'variance of nothing': (lambda: codes.fvu(ROWS[:0], lambda x: x, ROWS.mean(0)), 'with n of 1 or more'),
    'variance of a constant': (lambda: codes.fvu(torch.ones(4, 4), lambda x: x, torch.ones(4)), 'do not vary'),
    'mean of no rows': (lambda: codes.mean_of_rows(ROWS[:0]), 'have no mean'),
    'autoencoder of NaN': (lambda: sae.train_sae(ROWS * float('nan'), 8, 2), 'cannot be fitted'),
    'autoencoder of a vector': (lambda: sae.train_sae(ROWS[0], 8, 2), 'cannot be fitted'),
    'autoencoder in negative steps': (lambda: sae.train_sae(ROWS, 8, 2, steps=-1), 'each must be above 0'),
    'autoencoder of more than all': (lambda: sae.train_sae(ROWS, 8, 9, steps=1), 'choose 1 to 8'),
    'autoencoder of few tokens': (lambda: sae.train_sae(ROWS[:5], 8, 2), 'fewer than one batch'),
    'axes of no rows': (lambda: codes.principal_axes(ROWS[:0], ROWS.mean(0)), 'with n of 1 or more'),
    'loss of other windows': (
        lambda: code_comparison.loss_recovered(np.ones((3, 4)), np.ones((3, 4)), np.ones((3, 5))),
        'score the same windows',
    ),
    'loss of no windows': (lambda: code_comparison.loss_recovered(*[np.ones((3, 0))] * 3), 'at least one'),
    'held-out windows, none': (lambda: code_comparison.held_batches(None, None, None, windows=0), 'must be 1 or more'),
    'names of no instance': (lambda: code_comparison.name_tokens(None, None, None, n=0), 'must be 1 or more'),
    'smoothing backwards': (lambda: smoothed.smoothed(ROWS, -1.0), 'must be 0 or more'),
    'smoothing NaN': (lambda: smoothed.smoothed(NAN, 1.0), 'cannot be smoothed'),
    'smoothing of nothing': (lambda: smoothed.match_moran(ROWS[:0], 0.5), 'every vector is constant'),
    'smoothing less': (lambda: smoothed.match_moran(ROWS, -0.9), 'so ask for more'),
    'keeping none': (lambda: sparsity.keep_largest_(MATRIX.clone(), 0.0), 'must lie above 0'),
    'keeping of NaN': (lambda: sparsity.keep_largest_(NAN.clone(), 0.5), 'NaN or infinity'),
    'keeping a negative few': (
        lambda: sparsity.keep_largest_(MATRIX.clone(), 0.5, min_count=-1),
        'must be a whole number',
    ),
    'a share below 0': (lambda: sparsity.fraction_at(0.5, -1.0), 'must lie above 0'),
    'units kept: all and more': (lambda: sparsity.abs_top_k(ROWS, 2.0), 'must lie above 0 and be at most 1'),
    'cost of no windows': (lambda: sparsity.paired_cost(np.ones((3, 0)), np.ones((3, 0))), 'have no windows'),
    'pruning on no text': (lambda: sparsity.pruning_curve(random_tiny('mt5'), [], []), 'at least one batch'),
    'a rival on a broken model': (lambda: topographic.TopographicLoss(broken()), 'NaN or infinite'),
    'a rival of no strength': (
        lambda: topographic.TopographicLoss(random_tiny('mt5'), strength=float('nan')),
        'must be 0 or more',
    ),
    'a sheet of one unit': (lambda: topographic.topo_loss(MATRIX, 99), 'at least 99 units'),
    'a window over the line': (lambda: topographic.topolm_loss(ROWS), 'take a radius of at most 7'),
    'a controller beyond reach': (lambda: topographic.MoranController(None, 1.5), 'lies between -1 and 1'),
}


def a_run(files, **changed):
    "A run that could be published, with one arm"
    examples.example_runs(files.here / 'run', ['base'])
    settings(files, **changed)
    return files.here / 'run'


def with_link(files):
    out = a_run(files)
    (out / 'report.html').symlink_to(files('precious', 'dear'))
    return ['report', out]


COMMANDS = {
    'report: a list': (lambda f: ['report', settings(f, '[]')], 'it holds a list'),
    'report: nothing in it': (lambda f: ['report', settings(f, '{}')], 'it lacks runs'),
    'report: a name upwards': (lambda f: ['report', settings(f, runs=['../base'])], 'cannot be a folder'),
    'report: no arm': (lambda f: ['report', settings(f, runs=[])], 'names no run'),
    'report: half finished': (lambda f: ['report', settings(f)], 'half-finished (base not evaluated)'),
    'report: a link': (with_link, 'is a link, and the report would be written to where it leads'),
    'report: notebooks that are not there': (
        lambda f: ['report', a_run(f), '--notebooks', 'nowhere'],
        'lacks report.ipynb',
    ),
    'publish: onto itself': (lambda f: ['publish', a_run(f), '--out', f.here / 'run'], 'whose models would be lost'),
    'publish: into itself': (
        lambda f: ['publish', a_run(f), '--out', f.here / 'run' / 'base'],
        'whose models would be lost',
    ),
    'publish: above itself': (lambda f: ['publish', a_run(f), '--out', '.'], 'whose models would be lost'),
    'publish: a list': (lambda f: ['publish', settings(f, '[]'), '--out', 'x'], 'it holds a list'),
    'publish: unfinished': (lambda f: ['publish', settings(f), '--out', 'x'], 'is unfinished'),
    'shipped: onto a model': (
        lambda f: ['shipped', 'tiny-mt5-full_stack', '--out', f('mine/model/model.safetensors', 'w').parents[1]],
        'that this command did not put there',
    ),
    'shipped: onto a record': (
        lambda f: ['shipped', 'tiny-mt5-full_stack', '--out', f('mine/train.json', '{}').parent],
        'that this command did not put there',
    ),
    'shipped: onto a file': (lambda f: ['shipped', 'tiny-mt5-full_stack', '--out', f('mine')], 'is a file'),
    'shipped: nowhere': (['shipped', 'tiny-mt5-full_stack', '--out', ''], '--out is empty'),
    'shipped: unknown': (['shipped', '../tiny-mt5-full_stack', '--out', 'x'], 'There is no shipped run'),
    'bundle: a zip': (['bundle', 'x.zip'], 'x.zip ends in .zip, and a bundle is a folder or a .tar'),
    'bundle: packed': (['bundle', 'node.tar.gz', '--wheels', 'own'], 'node.tar.gz ends in .gz'),
    'bundle: in capitals': (['bundle', 'NODE.TAR'], 'give a name without an ending, or one that ends in .tar'),
    'bundle: a command': (['bundle', 'node', '--add', 'six; touch pwned'], 'is no requirement'),
    'bundle: an address': (['bundle', 'node', '--add', 'six @ https://e.org/six.whl'], 'names an address'),
    'bundle: a lock that is none': (
        lambda f: ['bundle', 'node', '--lock', f('a.lock', 'six>=1')],
        'not of the form name==version',
    ),
}
