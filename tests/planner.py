"""Commands in forks of one process that has imported what they need: the imports take longer than most commands.

Each line that it reads names a module, its words, an environment, a folder, seconds after which it is ended, and two
files for what is printed; it answers with the exit status. `planned` in conftest.py starts it."""

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import import_module
from types import SimpleNamespace

from snakemake import cli as snakemake

from ff_nbdev import cli
from ff_nbdev.run import launch

# What `ff-nbdev` imports when it needs it: tokenizers to look at a text, papermill to make a report
LAZY = 'ff_nbdev.data.tokens', 'ff_nbdev.models.tiny', 'papermill', 'transformers.models.auto.tokenization_auto'
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


def fork(module, words, out, err, prepare=lambda: None):
    "The number of a process that prints into two files and reads nothing"
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # what it starts prints into the same files
    prepare()
    end(module, words)


def status_of(pid, options=0):
    "Exit status of a process; None while it is at work"
    ended, status = os.waitpid(pid, options)
    return os.waitstatus_to_exitcode(status) if ended else None


class Forked:
    "In place of `subprocess.Popen` where the command line starts Snakemake: [python, -m, module, *words]"

    def __init__(self, command, stdout, env, **_):
        def prepare():
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.alarm(0)
            os.environ.clear()
            os.environ.update(env)

        self.args, self.returncode = command, None
        self.pid = fork(command[2], command[3:], stdout, stdout, prepare)

    def poll(self):
        if self.returncode is None:
            self.returncode = status_of(self.pid, os.WNOHANG)
        return self.returncode

    def wait(self, timeout):
        until = time.time() + timeout
        while self.poll() is None:
            if time.time() > until:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.02)
        return self.returncode


def run(command, **given):
    "In place of `subprocess.run`, where the command line asks Snakemake for a plan too"
    if command[0] != sys.executable:
        return subprocess.run(command, **given)
    with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
        status = status_of(fork(command[2], command[3:], out, err))
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, status, out.read(), err.read())


FORKS = SimpleNamespace(**{**vars(subprocess), 'run': run, 'Popen': Forked})


def answer(asked):
    def prepare():
        os.chdir(asked['cwd'])
        os.environ.clear()
        os.environ.update(asked['env'])
        signal.alarm(asked['seconds'])
        launch.subprocess = FORKS

    if asked['module'] == 'ff_nbdev.cli':
        for name in LAZY:
            import_module(name)
    with open(asked['out'], 'w') as out, open(asked['err'], 'w') as err:
        return status_of(fork(asked['module'], asked['words'], out, err, prepare))


if __name__ == '__main__':
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        print(answer(json.loads(line)), flush=True)
