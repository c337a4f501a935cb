"""A long run from a clone that does not change: begun, paused, continued, stopped, begun again."""

import os
import shutil
import subprocess
import time

import pytest
from conftest import ROOT

COMMAND = """#!/usr/bin/env python3
import subprocess, sys, time
print('words', *sys.argv[1:], flush=True)
child = subprocess.Popen([sys.executable, '-c', 'import time\\nwhile True: print("tick", flush=True); time.sleep(.05)'],
    start_new_session=True)
child.wait()
"""
MAKE = 'setup:\n\tmkdir -p .venv/bin\n\tcp ff-nbdev .venv/bin/\n'


@pytest.fixture
def project(tmp_path):
    "A project whose command only prints, under git"
    folder = tmp_path / 'project'
    (folder / 'workflow').mkdir(parents=True)
    shutil.copy(ROOT / 'workflow' / 'frozen', folder / 'workflow')
    (folder / 'ff-nbdev').write_text(COMMAND)
    (folder / 'ff-nbdev').chmod(0o755)
    (folder / 'Makefile').write_text(MAKE)
    git = ['git', '-C', str(folder), '-c', 'user.name=a', '-c', 'user.email=a@b.c']
    for words in (['init', '-q'], ['add', '-A'], ['commit', '-qm', 'first']):
        subprocess.run([*git, *words], check=True)
    return folder


class Frozen:
    "The script of a project, and what a run of it has written"

    def __init__(self, project):
        self.script = project / 'workflow' / 'frozen'
        self.log = project / 'runs' / 'frozen' / 'log.txt'

    def __call__(self, *words, status=0):
        env = {k: v for k, v in os.environ.items() if k != 'FROZEN'}
        done = subprocess.run([self.script, *words], capture_output=True, text=True, env=env)
        assert done.returncode == status, done
        return done.stdout + done.stderr

    def ticks(self):
        return self.log.read_text().count('tick')

    def goes_on(self):
        before, end = self.ticks(), time.time() + 20
        while self.ticks() <= before and time.time() < end:
            time.sleep(0.1)
        return self.ticks() > before

    def stands(self):
        time.sleep(0.3)
        before = self.ticks()
        time.sleep(0.6)
        return self.ticks() == before


def test_a_long_run_is_paused_continued_and_stopped(project):
    frozen = Frozen(project)
    assert 'What shall be run?' in frozen('start', status=2)
    assert 'Nothing runs' in frozen('pause', status=1)
    try:
        assert 'low priority' in frozen('start', 'study', '--corpus', 'a b/*.xz')
        assert frozen.goes_on() and 'words run study --corpus a b/*.xz --plain' in frozen.log.read_text()
        assert 'runs already' in frozen('start')
        frozen('pause')
        assert 'paused' in frozen('status') and frozen.stands()  # what it started stands still too
        frozen('continue')
        assert frozen.goes_on()
    finally:
        frozen('stop')
    assert frozen.stands() and 'does not run' in frozen('status')
    (project / 'ff-nbdev').write_text('changed')
    frozen('start')  # goes on with the same words, in the clone as it was
    try:
        assert (project / 'runs' / 'frozen' / 'project' / 'ff-nbdev').read_text() == COMMAND
    finally:
        frozen('stop')
