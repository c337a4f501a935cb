"""Runs on a cluster, without a cluster: what is sent to Slurm, and what becomes of a run when its jobs end badly."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import fakeslurm
import pytest
import yaml
from conftest import evaluated, left_by_a_run
from shared import fake_words
from test_runner import until

from ff_nbdev.cli import make_parser
from ff_nbdev.run.graph import snakemake_command
from ff_nbdev.run.launch import failure
from ff_nbdev.run.monitor import RunMonitor
from ff_nbdev.run.settings import make_settings, workflow_folder

pytest.importorskip('snakemake_executor_plugin_slurm', reason='missing package: snakemake-executor-plugin-slurm')

PROFILES = workflow_folder() / 'profiles'
GPU = ['teacher', 'alternatives', 'retrofit', 'evaluate']  # the rules that the profile's example gives a GPU


@pytest.fixture(scope='module')
def profile(tmp_path_factory):
    "The Slurm profile as a user changes it: a copy, with the # of what it suggests taken away, and without long waits"
    mine = tmp_path_factory.mktemp('profile') / 'mycluster'
    shutil.copytree(PROFILES / 'slurm', mine)
    text = (mine / 'config.yaml').read_text()
    text = re.sub(r'(?m)^( *)# (?=slurm_account:|slurm-partition-config:|set-resources:|  \w+: \{)', r'\1', text)
    for k, v in {'retries': 0, 'latency-wait': 10, 'slurm-init-seconds-before-status-checks': 1}.items():
        text = re.sub(f'(?m)^{k}: \\d+', f'{k}: {v}', text)
    (mine / 'config.yaml').write_text(text)
    return mine


@pytest.fixture(scope='module')
def asked(fake):
    "The words after `ff-nbdev` for a run of the fake graph, with more of them"
    return partial(fake_words, fake, '--plain')


def environment(fake, env):
    return {
        k: v
        for k, v in dict(env, FF_NBDEV_CACHE=str(fake / 'cache'), PYTHONPATH='').items()
        if k not in ('IN_TEST', 'SNAKEMAKE_PROFILE')
    }


def command(out, words, profile):
    return [sys.executable, '-m', 'ff_nbdev.cli', *words, '--profile', str(profile), '--out', str(out)]


@pytest.fixture(scope='module')
def run(planned):
    "(exit status, what was said and logged, what `RunMonitor` saw in it)"

    def ask(out, words, profile, env):
        w = RunMonitor(out)
        r = planned(*command(out, words, profile)[2:], env=env, cwd=out.parent)
        log = (out / 'snakemake.log').read_text() if (out / 'snakemake.log').exists() else ''
        for line in log.splitlines():
            w.read(line)
        return r.returncode, r.stdout + r.stderr + log, w

    return ask


@pytest.fixture(scope='module')
def dry(planned):
    "What Snakemake says of its plan"

    def ask(out, words, profile, env):
        out.mkdir(exist_ok=True)
        (out / 'plan.json').write_text(json.dumps(make_settings(make_parser().parse_args(words)).to_dict()))
        command = snakemake_command(out, out / 'plan.json', str(profile), dry=True)
        r = planned(*command[2:], env=env, cwd=out.parent)
        (out / 'plan.json').unlink()
        return r.stderr + '\n' + r.stdout

    return ask


def jobs_in(said):
    "The jobs of a dry run, as dicts: rule, comment (which Slurm gets to see), output, resources"
    for block in re.split(
        r'(?m)^\[.* \d{4}\]$', said.split('Job stats:')[0] if said.find('Job stats:') > said.find('rule ') else said
    ):
        if not (m := re.search(r'(?m)^(?:local)?rule (\w+):$', block)) or m[1] == 'all':
            continue
        lines = dict(re.findall(r'(?m)^    (\w+): (.*)$', block))
        of = '_'.join(x.split('=')[1] for x in lines.get('wildcards', '').split(', ') if x)
        yield dict(
            rule=m[1],
            comment=f'rule_{m[1]}' + (f'_wildcards_{of}' if of else ''),
            output=lines['output'].split(', '),
            resources=dict(x.split('=', 1) for x in lines['resources'].split(', ')),
        )


@pytest.fixture(scope='module')
def plan(fake, asked, profile, dry, tmp_path_factory):
    "The jobs of the run, and for each the files that it writes: those of a job that computes nothing"
    d = tmp_path_factory.mktemp('plan')
    todo = list(jobs_in(dry(d / 'run', asked(), profile, environment(fake, fakeslurm.install(d / 'slurm')))))

    def files(outputs):
        return [output if Path(output).suffix else f'{output}/weights' for output in outputs]

    return todo, {job['comment']: files(job['output']) for job in todo}


def check_job(job, planned, out):
    "What Slurm was sent against what Snakemake planned"
    o, asked, script = job['options'], planned['resources'], job['script']
    assert o['time'] == asked['runtime'] and o['mem'] == asked['mem_mb']
    assert o['cpus_per_task'] == asked.get('cpus_per_task', '1') and job['gpus'] == int(asked.get('gpu', 0))
    assert o['account'] == 'lab' and o['requeue'] and o['export'] == 'ALL'
    assert o['chdir'] == str(out) and o['output'].startswith(str(out))
    assert o['partition'] == ('gpu' if job['gpus'] else 'cpu') and job['gpus'] == (planned['rule'] in GPU)
    assert script.startswith(f'{sys.executable} -m snakemake') and f"--target-jobs '{planned['rule']}:" in script
    assert "--cores 'all'" in script and str(out / 'run.json') in script
    assert 'FF_NBDEV_PARENT' not in job['env'], 'a compute node would look for a process of another machine'


def test_every_job_asks_for_what_its_rule_and_the_profile_say(fake, asked, profile, tmp_path, plan, run):
    todo, writes = plan
    out, s = tmp_path / 'run', make_settings(make_parser().parse_args(asked()))
    assert set(writes) >= {
        'rule_text',
        'rule_report',
        *(f'rule_retrofit_wildcards_{a}' for a in s.trained),
        *(f'rule_evaluate_wildcards_{a}' for a in s.given + s.trained),
    }
    env = environment(fake, fakeslurm.install(tmp_path / 'slurm', 8, writes=writes))
    status, said, w = run(out, asked(), profile, env)
    assert (
        status == 0
        and sum(w.total.values()) == len(todo)
        and sum(n for r, n in w.finished.items() if r != 'all') == len(todo)
    ), said
    sent = {j['options']['comment']: j for j in fakeslurm.jobs(tmp_path / 'slurm')}
    assert set(sent) == set(writes)
    names = {j['options']['job_name'] for j in sent.values()}
    assert len(names) == 1 and names.pop().startswith('ff-nbdev_')  # one name a run, for scancel
    for j in todo:
        check_job(sent[j['comment']], j, out)
    o = sent['rule_retrofit_wildcards_no_fzr']['options']  # the example in the profile
    assert (o['gpus'], o['time'], o['mem'], o['cpus_per_task']) == ('a100:1', '1200', '64000', '8') and sent[
        'rule_evaluate_wildcards_base'
    ]['options']['constraint'] == 'avx512'


def out_of_luck(fake, nbs):
    "The fake notebooks, of which the retrofit fails"
    shutil.copytree(fake / 'experiments', nbs)
    bad = json.loads((nbs / 'retrofit.ipynb').read_text())
    cells = [c for c in bad['cells'] if c['cell_type'] == 'code']
    cells[1]['source'] += '\nraise RuntimeError("out of luck")'
    (nbs / 'retrofit.ipynb').write_text(json.dumps(bad))
    return nbs


def test_nodes_that_fail_are_named_and_the_rest_goes_on(fake, asked, profile, tmp_path, plan, run):
    nbs, out = out_of_luck(fake, tmp_path / 'nbs'), tmp_path / 'run'
    todo, writes = plan
    left_by_a_run(out, **evaluated('base'))
    done = {'rule_text', 'rule_evaluate_wildcards_base'}
    bad, lost = 'rule_retrofit_wildcards_base_continued', 'rule_evaluate_wildcards_base_reordered'
    fakes = {k: v for k, v in writes.items() if k != bad}
    env = environment(fake, fakeslurm.install(tmp_path / 'slurm', 2, {lost: 'OUT_OF_MEMORY'}, fakes))
    status, said, w = run(out, asked(notebooks=nbs), profile, env)
    jobs = {j['options']['comment']: j for j in fakeslurm.jobs(tmp_path / 'slurm')}
    assert status == 1
    assert {c for c, j in jobs.items() if j['state'] == 'FAILED'} == {bad}
    assert {c for c, j in jobs.items() if j['state'] == 'OUT_OF_MEMORY'} == {lost}
    assert set(writes) - set(jobs) == done | {'rule_evaluate_wildcards_base_continued', 'rule_report'}
    assert sum(w.finished.values()) == len(todo) - len(done) - 4
    why = failure(w, out)
    assert why.startswith('retrofit base_continued failed: retrofit.ipynb, In[') and 'RuntimeError: out of luck' in why
    assert str(out / 'base_continued' / 'retrofit.part.ipynb') in why
    # a notebook that was killed says nothing itself
    assert "SLURM status is: 'OUT_OF_MEMORY'" in said and 'base_reordered/evaluate.ipynb' in said
    # Slurm's log of a job that failed is kept
    assert 'out of luck' in Path(jobs[bad]['options']['output'].replace('%j', str(jobs[bad]['id']))).read_text()
    assert '--gpus=1' in jobs[bad]['srun'] and '--cpus-per-task=8' in jobs[bad]['srun']
    env = environment(fake, fakeslurm.install(tmp_path / 'slurm'))
    # without the others, nothing is missing but the report
    status, said, w = run(out, asked('--arms', 'base', notebooks=nbs), profile, env)
    assert status == 0 and {r: n for r, n in w.finished.items() if r != 'all'} == {'report': 1}, said
    assert 'arms were evaluated' in (out / 'report.json').read_text()


def test_stopping_a_run_takes_its_jobs_back(fake, asked, profile, tmp_path):
    env = environment(fake, fakeslurm.install(tmp_path / 'slurm', 2, {'rule_text': 'RUNNING'}, patience=0))
    p = subprocess.Popen(
        command(tmp_path / 'run', asked(), profile),
        env=env,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    state = lambda: [j['state'] for j in fakeslurm.jobs(tmp_path / 'slurm')]
    told = tmp_path / 'slurm' / 'told'
    until(lambda: state() == ['RUNNING'] and told.exists(), 60)
    # Snakemake forgets its jobs while it asks for their states: after 1, 11 and 21 seconds; 12 are far from both ends.
    # A busy machine asks when it can, and then they are taken back by the name of the run
    until(lambda: time.time() - told.stat().st_mtime > 12, 90)
    p.send_signal(signal.SIGTERM)
    assert p.wait(timeout=90) != 0 and state() == ['CANCELLED']


def test_profiles_are_accepted_as_they_are(fake, asked, dry, tmp_path):
    env = environment(fake, fakeslurm.install(tmp_path / 'slurm'))
    for name in sorted(p.name for p in PROFILES.iterdir()):
        c = yaml.safe_load((PROFILES / name / 'config.yaml').read_text())
        assert c['nolock'] and c['rerun-incomplete'] and c['keep-going'], name
        if name == 'kubernetes':
            continue  # its plugin is not installed here
        said = dry(tmp_path / name, asked(), name, env)
        assert sum(j['rule'] == 'retrofit' for j in jobs_in(said)) == 3, said
