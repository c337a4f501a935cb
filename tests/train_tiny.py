"""A small training run as a script, for tests that kill it or start it on several processes."""
import argparse
import json
import os
import signal
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainingArguments

from ff_nbdev.data.corpus import load_corpus
from ff_nbdev.data.objectives import Windows, encode_corpus, objective_for
from ff_nbdev.data.tokenizers import train_tokenizer
from ff_nbdev.mechanisms.method import FFConfig, attach
from ff_nbdev.models.tiny import random_tiny
from ff_nbdev.training import trainer as training
from ff_nbdev.training.trainer import FFTrainer

p = argparse.ArgumentParser()
p.add_argument('out'); p.add_argument('--arch', default='mt5'); p.add_argument('--micro', type=int, default=8); p.add_argument('--accumulate', type=int, default=1)
p.add_argument('--dropout', type=float, default=0.); p.add_argument('--optimizer', default='adamw_torch'); p.add_argument('--double', action='store_true')
p.add_argument('--kill', default=''); p.add_argument('--save', type=int, default=0); p.add_argument('--steps', type=int, default=8)
a = p.parse_args()


class Killed(FFTrainer):
    "Ends itself as `kill -9` does, at the place that was asked for"
    def on_ff_step(self, state, control):
        if a.kill == f'step {state.global_step}': os.kill(os.getpid(), signal.SIGKILL)
    def checkpoint_state(self):
        if a.kill == f'in checkpoint {self.state.global_step}': os.kill(os.getpid(), signal.SIGKILL)       # the Trainer has written its part
        return {}

def seal(part, final, **facts):
    if a.kill == f'before seal {facts["step"]}': os.kill(os.getpid(), signal.SIGKILL)
    out = whole(part, final, **facts)
    if a.kill == f'after seal {facts["step"]}': os.kill(os.getpid(), signal.SIGKILL)                       # older ones are not yet removed
    return out

whole, training.seal = training.seal, seal
torch.manual_seed(0); torch.set_num_threads(1)
corpus = load_corpus(); tok = train_tokenizer(corpus, 1024)
data = Windows(encode_corpus(corpus, tok), length=48, limit=43)
model = random_tiny(a.arch, vocab_size=1024, **(dict(dropout_rate=a.dropout) if a.arch == 'mt5' else {}))
if a.double: model.double()
config = FFConfig.preset('full_stack', int(data.sentences[:40].sum()*a.steps/5), dose=.6, top=2., forgiveness='two_letter'); config.recall.start = .4; config.recall.halflife = 50.
ff = attach(model, config, tok)
args = TrainingArguments(a.out, per_device_train_batch_size=a.micro, gradient_accumulation_steps=a.accumulate, learning_rate=1e-3, max_steps=a.steps, optim=a.optimizer, max_grad_norm=1., report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy='no',
    save_strategy='steps' if a.save else 'no', save_steps=a.save or 500, save_total_limit=2)
trainer = Killed(model=model, args=args, train_dataset=data, data_collator=objective_for(model, tok), ff=ff)
trainer.remove_callback(PrinterCallback); trainer.train(resume_from_checkpoint=True)
torch.save({k: v.clone() for k, v in model.state_dict().items()}, Path(a.out)/f'end{args.process_index}.pt')
ff.save_pretrained(Path(a.out)/f'end{args.process_index}')
(Path(a.out)/f'end{args.process_index}.json').write_text(json.dumps(dict(began=trainer._initial_global_step, sentences=ff.sentences, pulses=ff.pulses.tolist())))
if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()
