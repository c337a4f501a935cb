"""Where tensors lie: the method on a pretended GPU, without one (see `pretended_gpu.py`).

No tensor of the CPU meets one of the GPU, numbers are those of the CPU, and the places where a GPU would be waited for
are counted."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch.utils import backend_registration

from ff_nbdev.mechanisms.config import FFConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.tiny import new_model

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, '_setup_privateuseone_for_python_backend'),
    reason='this PyTorch registers no device from Python',
)


@pytest.fixture(scope='module')
def found():
    "Each part of a step, on the CPU and on the pretended GPU"
    env = dict(os.environ, PYTHONPATH=str(ROOT / 'tests'), OMP_NUM_THREADS='1')
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tests' / 'devices_apart.py')], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


STORIES = 'mt5', 'rwkv', 'pieces', 'readings'
PARTS = [
    'forward with noise',
    'loss',
    'backward',
    'optimizer',
    'step without a pulse',
    'step with pulses',
    'diagnostics',
    'state',
]


@pytest.mark.parametrize('story', STORIES)
def test_no_tensor_of_the_cpu_meets_one_of_the_gpu(found, story):
    for device in ('cpu', 'gpu'):
        told = found[f'{story} {device}']['told']
        assert told and not {name: part['error'] for name, part in told.items() if part['error']}
    if story in ('mt5', 'rwkv'):
        assert list(found[f'{story} gpu']['told']) == PARTS


@pytest.mark.parametrize('story', STORIES)
def test_numbers_are_those_of_the_cpu(found, story):
    cpu, gpu = (found[f'{story} {device}'] for device in ('cpu', 'gpu'))
    known = {name: value for name, value in cpu['values'].items() if value is not None}
    assert known and {name: gpu['values'][name] for name in known} == pytest.approx(known, rel=1e-4)
    assert gpu.get('weights', 0) == pytest.approx(cpu.get('weights', 0), rel=1e-5)


def waits(found, story, part):
    return sum(found[f'{story} gpu']['told'][part]['syncs'].values())


@pytest.mark.parametrize('story', ['mt5', 'rwkv'])
def test_a_gpu_is_waited_for_seldom(found, story):
    """Of what runs in every step: never in the backward pass and the optimizer

    Once a site in noise and clock, a few times in the loss."""
    sites = dict(mt5=4, rwkv=2)[story]
    assert waits(found, story, 'backward') == waits(found, story, 'optimizer') == 0
    assert waits(found, story, 'forward with noise') <= (
        sites + 2 if story == 'mt5' else 0
    )  # two of them are of transformers: is there any padding?
    assert waits(found, story, 'step without a pulse') <= sites
    assert waits(found, story, 'loss') <= 7
    given = found[f'{story} gpu']['values']['step with pulses']
    assert given > 50 and waits(found, story, 'step with pulses') <= 4 * given + 3 * sites


def test_waiting_is_noticed(found):
    "What must wait is written down, with its place"
    told = found['pieces gpu']['told']
    assert any(place.startswith('spatial.py') for place in told['morans_i']['syncs'])
    assert not told['morans_i of a batch']['syncs']


def test_a_mixture_is_noticed(found):
    "The check can fail: a tensor of the CPU beside one of the GPU is an error, and a number is none"
    assert found['mixture']['a number']['error'] is None
    assert 'aten.add.Tensor got tensors on gpu and on the CPU' in found['mixture']['a tensor']['error']


def test_a_model_without_numbers_is_refused():
    "The meta device, in one sentence"
    with torch.device('meta'):
        model = new_model('rwkv', 300, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    with pytest.raises(ValueError, match='on the meta device and holds no numbers: load the weights first'):
        attach(model, FFConfig())
