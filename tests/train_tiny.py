"""A small training run, for tests that kill it or start it on several processes.

A script, and functions for a process that has imported everything.
"""

import argparse
import gc
import json
import os
import signal
import sys
from functools import lru_cache
from itertools import islice
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainingArguments

from ff_nbdev.data.corpus import load_corpus, read_sentences
from ff_nbdev.data.objectives import Windows, objective_for
from ff_nbdev.data.tokens import encode_corpus
from ff_nbdev.data.tokenizers import make_tokenizer, train_pieces
from ff_nbdev.mechanisms.config import FFConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.tiny import random_tiny
from ff_nbdev.training import resume as training
from ff_nbdev.training.trainer import FFTrainer


def arguments(words):
    p = argparse.ArgumentParser()
    p.add_argument('out')
    p.add_argument('--arch', default='mt5')
    p.add_argument('--micro', type=int, default=8)
    p.add_argument('--accumulate', type=int, default=1)
    p.add_argument('--dropout', type=float, default=0.0)
    p.add_argument('--optimizer', default='adamw_torch')
    p.add_argument('--double', action='store_true')
    p.add_argument('--kill', default='')
    p.add_argument('--save', type=int, default=0)
    p.add_argument('--steps', type=int, default=8)
    p.add_argument('--hollow', action='store_true', help='the first four windows have no target')
    p.add_argument('--stream', action='store_true', help='windows come from an iterable data set')
    return p.parse_args(words)


class Hollow:
    "A collator under which the first four windows have no target"

    def __init__(self, make):
        self.make, self.tokenizer, self.epoch = make, make.tokenizer, 0

    def __call__(self, rows):
        self.make.epoch = self.epoch
        batch = self.make(rows)
        batch['labels'][batch['index'] < 4] = -100
        return batch


class Stream(torch.utils.data.IterableDataset):
    "Windows one after another, without a length"

    def __init__(self, data):
        self.rows = data

    def __iter__(self):
        return (self.rows[i] for i in range(len(self.rows)))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Killed(FFTrainer):
    "Ends itself as `kill -9` does, at the place that was asked for"

    kill = ''

    def on_ff_step(self, state, control):
        if self.kill == f'step {state.global_step}':
            die()

    def checkpoint_state(self):
        if self.kill == f'in checkpoint {self.state.global_step}':
            die()  # the Trainer has written its part
        return {}


def seal(part, final, **facts):
    if Killed.kill == f'before seal {facts["step"]}':
        die()
    out = whole(part, final, **facts)
    if Killed.kill == f'after seal {facts["step"]}':
        die()  # older ones are not yet removed
    return out


whole = training.seal


@lru_cache
def text():
    "Tokenizer and windows: made of some of the text, for with all of it that would take longer than the run"
    corpus = load_corpus()
    tok = make_tokenizer(train_pieces(islice(filter(None, read_sentences(corpus)), 2000), 924))
    return tok, Windows(encode_corpus(corpus, tok), length=48, limit=43)


def method_of(a, tok, data):
    "The model and the method on it"
    model = random_tiny(a.arch, vocab_size=1024, **(dict(dropout_rate=a.dropout) if a.arch == 'mt5' else {}))
    if a.double:
        model.double()
    sentences = int(data.sentences[:40].sum() * a.steps / 5)
    config = FFConfig.preset('full_stack', sentences, dose=0.6, top=2.0, forgiveness='two_letter')
    config.recall.start = 0.4
    config.recall.halflife = 50.0
    return model, attach(model, config, tok)


def arguments_of(a):
    return TrainingArguments(
        a.out,
        per_device_train_batch_size=a.micro,
        gradient_accumulation_steps=a.accumulate,
        learning_rate=1e-3,
        max_steps=a.steps,
        optim=a.optimizer,
        max_grad_norm=1.0,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_strategy='no',
        save_strategy='steps' if a.save else 'no',
        save_steps=a.save or 500,
        save_total_limit=2,
        train_sampling_strategy='sequential' if a.hollow or a.stream else 'random',
    )


def train(words):
    "Train, and write how it ended"
    a = arguments(words)
    Killed.kill, training.seal = a.kill, seal
    tok, data = text()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, ff = method_of(a, tok, data)
    args = arguments_of(a)
    make = objective_for(model, tok)
    trainer = Killed(
        model=model,
        args=args,
        train_dataset=Stream(data) if a.stream else data,
        data_collator=Hollow(make) if a.hollow else make,
        ff=ff,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=True)
    torch.save({k: v.clone() for k, v in model.state_dict().items()}, Path(a.out) / f'end{args.process_index}.pt')
    ff.save_pretrained(Path(a.out) / f'end{args.process_index}')
    (Path(a.out) / f'end{args.process_index}.json').write_text(
        json.dumps(dict(began=trainer.began_at, sentences=ff.sentences, pulses=ff.pulses.tolist()))
    )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def train_run(words):
    "A run of a run graph, which dies after a step: its folder, and 'calm' or the step"
    from ff_nbdev.run import prepare, train
    from ff_nbdev.training.watch import Watch

    out, how = words
    if how != 'calm':
        before = Watch.on_ff_step

        def on_ff_step(self, state, control):
            before(self, state, control)
            if state.global_step == int(how):
                die()

        Watch.on_ff_step = on_ff_step
    mean = prepare.mean_activation
    # most of the time would go into it
    prepare.mean_activation = lambda net, tok, held, n, **kw: mean(net, tok, held, n // 10, **kw)
    few = dict(length=64, total_sentences=450, dose=0.3, top=2.0, probes=3, save_minutes=0.0)
    train.train_run(prepare.Plan('pfg_fzr', 'tiny-mt5', 'python_prose', out, **few))


def apart(log, f, words):
    "Do it in this new process, and say into a file what it says"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    f(words)


def ranked(f, log, rank, ranks, port, words):
    "Do it in this new process as one of several, as torchrun would have started it"
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(ranks),
        LOCAL_WORLD_SIZE=str(ranks),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    apart(log, f, words)


if __name__ == '__main__':
    train(sys.argv[1:])
elif os.environ.get('TRAIN_TINY_READY'):  # in a process that others are forked from
    from kernels_once import share_kernels

    share_kernels()
    text()
    # Trainer looks for circles when it begins: in a fork it would touch, and so copy, all that was imported
    gc.collect()
    gc.freeze()
