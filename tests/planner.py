"""Commands that only plan, in forks of one process that has imported Snakemake: the imports take longer than a plan.

Each line that it reads names a module, its words, an environment, a folder and two files for what is printed; it
answers with the exit status. `planned` in conftest.py starts it."""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from types import SimpleNamespace

from snakemake import cli as snakemake

from ff_nbdev import cli
from ff_nbdev.run import launch

MAINS = {'snakemake': snakemake.main, 'ff_nbdev.cli': cli.main}


def end(module, words):
    "Leave this process as `python -m module` would leave its own"
    status = 1
    try:
        sys.argv = [module, *words]
        status = MAINS[module](words)
    except SystemExit as e:
        status = e.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)


def forked(module, words, out, err, prepare=lambda: None):
    "Exit status of a module in a fork that prints into two files"
    pid = os.fork()
    if not pid:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        prepare()
        end(module, words)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(command, **_):
    "In place of `subprocess.run` where the command line asks Snakemake for a plan: [python, -m, module, *words]"
    with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
        status = forked(command[2], command[3:], out, err)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, status, out.read(), err.read())


def answer(asked):
    def prepare():
        os.chdir(asked['cwd'])
        os.environ.clear()
        os.environ.update(asked['env'])
        launch.subprocess = SimpleNamespace(run=run)

    with open(asked['out'], 'w') as out, open(asked['err'], 'w') as err:
        return forked(asked['module'], asked['words'], out, err, prepare)


if __name__ == '__main__':
    for line in sys.stdin:
        print(answer(json.loads(line)), flush=True)
