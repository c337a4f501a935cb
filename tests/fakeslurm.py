"""A Slurm cluster of one machine, for tests: sbatch, srun, squeue, sacct, sacctmgr, scontrol, sinfo and scancel.

`install` writes the commands into a folder that goes first in PATH. sbatch takes only options that Slurm has and
refuses what no partition can give; it writes down what it was asked for (`jobs`), and runs it as a compute node would:
in the folder that was named, with another TMPDIR, and where the processes of the machine that it was sent from are not.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PARTITIONS = {
    'cpu': dict(default=True, minutes=2 * 1440, mem=128_000, cpus=32, gpus=0),
    'gpu': dict(default=False, minutes=1440, mem=256_000, cpus=32, gpus=4),
}
ACCOUNTS = ['lab', 'guests']
COMMANDS = ['sbatch', 'srun', 'squeue', 'sacct', 'sacctmgr', 'scontrol', 'sinfo', 'scancel']
ENDED = {'COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'OUT_OF_MEMORY', 'NODE_FAIL'}
SWITCHES = ['--parsable', '--requeue', '--no-requeue']
SHORT = dict(J='job-name', o='output', A='account', p='partition', t='time', C='constraint', D='chdir') | dict(
    c='cpus-per-task', n='ntasks'
)
LONG = """
export comment clusters qos mem mem-per-cpu nodes reservation exclude ntasks-per-gpu cpus-per-gpu gres gpus array wrap
mail-type mail-user nice
"""
GONE = 2**22 + 1  # a process id above the highest: what was alive where a job was sent from is not where it runs


def install(
    folder,  # Is made; the commands go to its `bin`, what happens to its `jobs`
    slots=2,  # Jobs that run at a time
    fates=None,  # comment of a job → the state in which the cluster ends it, for example OUT_OF_MEMORY
    writes=None,  # comment of a job → files that it writes, with '{"arm": ""}' in each, instead of what it was sent for
    patience=25,  # seconds that an answer on the states of jobs waits for one of them to end
) -> dict:  # Environment variables
    "Make a cluster, or change one"
    bin = Path(folder) / 'bin'
    [(Path(folder) / x).mkdir(parents=True, exist_ok=True) for x in ('bin', 'jobs', 'tmp')]
    for c in COMMANDS:
        (bin / c).write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {Path(__file__).resolve()} {c} "$@"\n')
        (bin / c).chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith(('SLURM_', 'SBATCH_', 'SRUN_'))}
    return dict(
        env,
        PATH=f'{bin}:{os.environ["PATH"]}',
        FAKE_SLURM=str(folder),
        FAKE_SLURM_SLOTS=str(slots),
        FAKE_SLURM_ORDERS=json.dumps([fates or {}, writes or {}]),
        FAKE_SLURM_PATIENCE=str(patience),
    )


def jobs(folder):  # The first one first
    "What was submitted: id, options, script, env, state, seconds"
    found = [read(p) for p in (Path(folder) / 'jobs').glob('*/job.json')]
    return sorted((j for j in found if j), key=lambda j: j['id'])


def read(path):
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}


def change(job, **new):
    job.update(new)
    path = Path(os.environ['FAKE_SLURM']) / 'jobs' / str(job['id']) / 'job.json'
    part = path.with_suffix(f'.{os.getpid()}')
    part.write_text(json.dumps(job))
    os.replace(part, path)


def refuse(why):
    sys.exit(f'sbatch: error: Batch job submission failed: {why}')


def sbatch(words):
    a = options(words)
    gpus = int((a.gpus or (a.gres or '0').removeprefix('gpu:')).split(':')[-1])
    check(a, gpus)
    n = new_number()
    job = dict(
        id=n,
        options={k: v for k, v in vars(a).items() if v not in (None, False)},
        script=a.wrap or Path(a.script).read_text(),
        env=dict(os.environ),
        state='PENDING',
        words=words,
        gpus=gpus,
        time=time.time(),
    )
    change(job)
    silent = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.DEVNULL)
    node = [sys.executable, '-S', '-E', __file__, 'node', str(n)]
    subprocess.Popen(node, **silent, start_new_session=True)
    print(n if a.parsable else f'Submitted batch job {n}')


def options(words):
    p = argparse.ArgumentParser('sbatch', allow_abbrev=False, add_help=False)
    for name in SWITCHES:
        p.add_argument(name, action='store_true')
    for letter, name in SHORT.items():
        p.add_argument(f'-{letter}', f'--{name}')
    for name in LONG.split():
        p.add_argument(f'--{name}')
    p.add_argument('script', nargs='?')
    return p.parse_args(words)


def check(a, gpus):
    "Refuse what no partition can give"
    part = PARTITIONS.get(a.partition) if a.partition else next(x for x in PARTITIONS.values() if x['default'])
    if part is None:
        refuse('invalid partition specified: ' + a.partition)
    if a.account and a.account not in ACCOUNTS:
        refuse('Invalid account or account/partition combination specified')
    if int(a.time or 1) > part['minutes']:
        refuse('Requested time limit is invalid (missing or exceeds some limit)')
    if int(a.mem or 0) > part['mem'] or int(a.cpus_per_task or 1) > part['cpus'] or gpus > part['gpus']:
        refuse('Requested node configuration is not available')
    if (a.wrap is None) == (a.script is None):
        refuse('one of --wrap and a script is needed')


def new_number():
    "The first that no job has"
    n, folder = 1, Path(os.environ['FAKE_SLURM']) / 'jobs'
    while True:
        try:
            (folder / str(n)).mkdir()
            return n
        except FileExistsError:
            n += 1


def node(words):
    "A compute node: wait for a place, then run one job"
    root = Path(os.environ['FAKE_SLURM'])
    path = root / 'jobs' / words[0] / 'job.json'
    place = None
    while place is None:
        place = free_slot(root)
        if place is None:
            time.sleep(0.1)
        if read(path).get('state') == 'CANCELLED':
            return
    job = read(path)
    o = job['options']
    start = time.time()
    tmp = root / 'tmp' / words[0]
    tmp.mkdir()
    env = environment(words[0], job, tmp)
    fate, script = fate_and_script(job)
    with open(o['output'].replace('%j', words[0]), 'w') as log:
        p = subprocess.Popen(
            ['/bin/sh', '-c', script],
            cwd=o.get('chdir', '.'),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        change(job, state='RUNNING', pid=p.pid)
        rc = p.wait()
    job = read(path)
    if job['state'] != 'CANCELLED':
        change(job, state=fate or ('FAILED' if rc else 'COMPLETED'), rc=rc, seconds=time.time() - start)


def free_slot(root):
    "A place that no job holds, held as long as its file is open; None where there is none"
    import fcntl

    for i in range(int(os.environ['FAKE_SLURM_SLOTS'])):
        f = open(root / f'slot{i}', 'a')
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return f
        except OSError:
            f.close()
    return None


def environment(number, job, tmp):
    "The variables that Slurm sets for a job"
    o = job['options']
    env = dict(
        os.environ,
        TMPDIR=str(tmp),
        SLURM_JOB_ID=number,
        SLURM_JOB_NAME=o.get('job_name', 'wrap'),
        SLURM_SUBMIT_DIR=o.get('chdir', '.'),
        SLURM_CPUS_PER_TASK=o.get('cpus_per_task', '1'),
        SLURMD_NODENAME='node1',
    )
    if job['gpus']:
        env.update(SLURM_GPUS=str(job['gpus']), CUDA_VISIBLE_DEVICES=','.join(map(str, range(job['gpus']))))
    if 'FF_NBDEV_PARENT' in env:
        env['FF_NBDEV_PARENT'] = str(GONE)
    return env


def fate_and_script(job):
    "The state in which a job is to end, if one was ordered, and what it runs"
    fate, writes = (x.get(job['options'].get('comment')) for x in json.loads(os.environ['FAKE_SLURM_ORDERS']))
    script = 'sleep 600' if fate == 'RUNNING' else ':' if fate else job['script']
    if writes and not fate:
        script = '; '.join(f"""mkdir -p "$(dirname {w})"; echo '{{"arm": ""}}' > {w}""" for w in writes)
    return fate, script


def srun(words):
    job = read(Path(os.environ['FAKE_SLURM']) / 'jobs' / os.environ['SLURM_JOB_ID'] / 'job.json')
    change(job, srun=words)
    while words and words[0].startswith('-'):
        words = words[1:]
    os.execvp(words[0], words)


def states(words, separator='|'):
    """The states of the jobs of a name.

    It waits until one of them ends, for Snakemake asks again ever more seldom, and a test has no time.
    """
    if '--name' not in words:
        return
    name, root = words[words.index('--name') + 1], Path(os.environ['FAKE_SLURM'])
    last, end, asked = root / 'told', time.time() + float(os.environ['FAKE_SLURM_PATIENCE']), None
    while True:
        now = [j for j in jobs(root) if j['options'].get('job_name') == name]
        # what is submitted meanwhile was not asked for: it is told the next time
        asked = asked or {j['id'] for j in now}
        ended = sorted(j['id'] for j in now if j['state'] in ENDED)
        if set(ended) - set(read(last).get(name, [])) or time.time() > end or len(ended) == len(now):
            break
        time.sleep(0.1)
    last.write_text(json.dumps({name: sorted(asked & set(ended))}))
    for j in now:
        print(j['id'], j['state'], sep=separator)


def sacct(words):
    if '--name' in words:
        states(words)
    elif '-nu' in words:
        print(ACCOUNTS[0])


def squeue(words):
    states(words)


def sacctmgr(words):
    print(*ACCOUNTS, sep='\n')


def scontrol(words):
    print('MaxArraySize            = 1001\nMinJobAge               = 300 sec')


def sinfo(words):
    print('PARTITION', *(n + '*' * p['default'] for n, p in PARTITIONS.items()), sep='\n')


def scancel(words):
    "By number, or all of a name"
    names = [w.removeprefix('--name=') for w in words if w.startswith('--name=')]
    names += [name for word, name in zip(words, words[1:]) if word == '--name']
    for job in jobs(os.environ['FAKE_SLURM']):
        if job['state'] in ENDED or not (str(job['id']) in words or job['options'].get('job_name') in names):
            continue
        change(job, state='CANCELLED')
        if 'pid' in job:
            try:
                os.killpg(job['pid'], signal.SIGTERM)
            except ProcessLookupError:
                pass


if __name__ == '__main__':
    globals()[sys.argv[1]](sys.argv[2:])
