"""What trains, reads or deletes the wrong thing is refused or said: the Trainer and its checkpoints."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import dead, quiet_arguments
from tiny_models import ENCODER_DECODER, tiny
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback
from transformers.trainer_pt_utils import LabelSmoother

from ff_nbdev.data.objectives import NextToken
from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig, ForgivenessConfig, RecallConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.site import FFNPattern
from ff_nbdev.training import checkpoints as ck
from ff_nbdev.models.wrappers import decoder_inputs
from ff_nbdev.training.trainer import FFTrainer, describe_end

TEXT = np.random.default_rng(0).integers(3, 500, (64, 16))


class Rows(list):
    "Windows of one to three sentences"

    def __init__(self, n=16):
        super().__init__(dict(ids=TEXT[i].astype(np.int64), sentences=1 + i % 3, index=i) for i in range(n))
        self.sentences = np.array([r['sentences'] for r in self])


def masked(rows):
    "A collator of next tokens; windows 0 to 3 have no target"
    batch = NextToken()(rows)
    batch['labels'][batch['index'] < 4] = -100
    return batch


def config(total=96, **kw):
    return FFConfig(
        total_sentences=total,
        forgetfulness=ForgetfulnessConfig(dose=0.4),
        recall=RecallConfig(top=1.0, start=0.5, halflife=40.0),
        **kw,
    )


OF_THE_TRAINER = set(
    """
train_dataset eval_dataset data_collator save_minutes total_sentences shift penalty callbacks optimizers
compute_metrics preprocess_logits_for_metrics compute_loss_func
""".split()
)
ARGUMENTS = dict(per_device_train_batch_size=4, learning_rate=1e-3, max_steps=6, eval_strategy='no')


def looking_every(steps):
    "An evaluation and a checkpoint every so many steps; the loss says which is best"
    often = dict(eval_strategy='steps', eval_steps=steps, save_strategy='steps', save_steps=steps)
    return often | dict(eval_dataset=Rows(4), metric_for_best_model='loss')


def make(out, arch='llama', settings=None, model=None, ff=None, cls=FFTrainer, **kw):
    "A trainer of a tiny model; words that TrainingArguments knows go there"
    model = tiny(arch) if model is None else model
    ff = attach(model, settings or config()) if ff is None else ff
    own = dict(train_dataset=Rows(), data_collator=NextToken())
    own |= {name: kw.pop(name) for name in OF_THE_TRAINER & set(kw)}
    args = quiet_arguments(out, **{**ARGUMENTS, **kw})
    trainer = cls(model=model, args=args, ff=ff, **own)
    trainer.remove_callback(PrinterCallback)
    return trainer


def weights(trainer):
    return {k: v.detach().clone() for k, v in trainer.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def state(trainer):
    return trainer.ff.state()


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    "A run whose length does not fit says so: only the tests about that listen; and nothing waits for the disk"
    monkeypatch.setattr(ck, '_flush', lambda path: None)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='This run (ends|goes on)')
        torch.set_num_threads(1)
        yield


# targets


@pytest.mark.parametrize('arch', ['llama', 'mt5'])
def test_a_micro_batch_without_targets_adds_nothing(tmp_path, arch):
    "Two micro-batches of 4, the first without targets, go where one batch of 8 goes"
    kw = dict(data_collator=masked, max_steps=2, train_sampling_strategy='sequential')
    one, two = (
        make(tmp_path, arch, per_device_train_batch_size=8, **kw),
        make(tmp_path, arch, gradient_accumulation_steps=2, **kw),
    )
    for t in (one, two):
        t.train()
    far = max((a - b).abs().max().item() for a, b in zip(one.model.parameters(), two.model.parameters()))
    assert far < 2e-5 and torch.equal(one.ff.doses, two.ff.doses) and one.ff.sentences == two.ff.sentences > 0
    assert all(torch.isfinite(p).all() for p in two.model.parameters())


def test_a_step_without_a_target_says_what_is_wrong_with_the_data(tmp_path):
    trainer = make(tmp_path, data_collator=masked, train_sampling_strategy='sequential')
    before = weights(trainer)
    with pytest.raises(
        ValueError, match='Not one of the 4 windows of step 1 has a target: all their labels are -100'
    ) as e:
        trainer.train()
    assert 'learning rate' not in str(e.value) and same(before, weights(trainer))


# settings


def test_label_smoothing_is_that_of_the_hugging_face_trainer(tmp_path):
    trainer = make(tmp_path, settings=FFConfig(), label_smoothing_factor=0.2)
    batch = NextToken()(Rows(4))
    trainer._targets = (batch['labels'][:, 1:] != -100).sum().item()
    trainer.model.train()
    mine, out = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    theirs = LabelSmoother(0.2)(out, batch['labels'], shift_labels=True)
    plain = LabelSmoother(0.0)(out, batch['labels'], shift_labels=True)
    assert torch.allclose(mine, theirs, atol=1e-6) and not torch.allclose(mine, plain, atol=1e-3)


def one_layer():
    return tiny('llama', num_hidden_layers=1)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    "A run with no setting of its own"
    trainer = make(tmp_path_factory.mktemp('plain'), max_steps=3, settings=config(24), model=one_layer())
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    'kw',
    [
        dict(gradient_checkpointing=True),
        dict(torch_compile=True, torch_compile_backend='eager'),
        dict(torch_empty_cache_steps=1),
        dict(include_num_input_tokens_seen='all'),
        dict(dataloader_drop_last=True),
        dict(eval_strategy='steps', eval_steps=2, eval_on_start=True),
        dict(dataloader_num_workers=1),
        dict(accelerator_config=dict(gradient_accumulation_kwargs=dict(sync_each_batch=True))),
    ],
    ids=lambda kw: next(iter(kw)),
)
def test_settings_that_change_nothing(plain, tmp_path, kw):
    other = make(tmp_path, max_steps=3, settings=config(24), eval_dataset=Rows(4), model=one_layer(), **kw)
    other.train()
    name = lambda k: k.removeprefix('_orig_mod.')
    assert (
        same(weights(plain), {name(k): v for k, v in weights(other).items()})
        or max((a - b).abs().max() for a, b in zip(plain.model.parameters(), other.model.parameters())) < 1e-5
    )
    assert torch.equal(plain.ff.doses, other.ff.doses) and plain.ff.sentences == other.ff.sentences
    assert plain.ff.noise_x == other.ff.noise_x > 0.5


@pytest.mark.parametrize(
    'kw', [dict(neftune_noise_alpha=5.0), dict(max_grad_norm=1e-3, optim='adafactor')], ids=lambda kw: next(iter(kw))
)
def test_settings_that_are_heeded_and_resumed_exactly(plain, tmp_path, kw):
    kw = dict(max_steps=3, settings=config(24), save_strategy='steps', save_steps=2, **kw)
    whole = make(tmp_path, model=one_layer(), **kw)
    whole.train()
    assert not same(weights(plain), weights(whole))
    shutil.rmtree(tmp_path / 'checkpoint-3')
    again = make(tmp_path, model=one_layer(), **{**kw, 'settings': config(24)})
    again.train(resume_from_checkpoint=True)
    assert again.began_at == 2 and same(weights(again), weights(whole)) and same(state(again), state(whole))


def test_steps_of_another_size_are_resumed_with_a_word(tmp_path):
    make(tmp_path, save_strategy='steps', save_steps=2, max_steps=2).train()
    with pytest.warns(UserWarning, match='in steps of 4 windows and this run takes 8'):
        make(tmp_path, gradient_accumulation_steps=2, max_steps=3).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    'kw, says',
    [
        (dict(seed=7), 'made with seed=42 and this run has seed=7: another seed leads to other windows'),
        (dict(data_seed=7), 'made with data_seed=None and this run has data_seed=7'),
        (
            dict(learning_rate=1e-2),
            'made with learning_rate=0.001 and this run has learning_rate=0.01.*rate stays that of',
        ),
        (dict(seed=7, learning_rate=1e-2), 'seed=42, learning_rate=0.001 and this run has seed=7, learning_rate=0.01'),
    ],
)
def test_another_seed_or_learning_rate_is_resumed_with_a_word(tmp_path, kw, says):
    make(tmp_path, save_strategy='steps', save_steps=2, max_steps=2).train()
    with pytest.warns(UserWarning, match=says) as said:
        make(tmp_path, max_steps=3, **kw).train(resume_from_checkpoint=True)
    assert len([w for w in said if 'was made with' in str(w.message)]) == 1


@pytest.mark.parametrize('old', [False, True])
def test_a_run_resumed_as_it_was_and_an_older_checkpoint_say_nothing(tmp_path, old):
    make(tmp_path, save_strategy='steps', save_steps=2, max_steps=2).train()
    note = tmp_path / 'checkpoint-2' / ck.SEAL
    told = json.loads(note.read_text())
    assert (told['seed'], told['data_seed'], told['learning_rate']) == (42, None, 1e-3)
    if old:
        note.write_text(json.dumps({k: told[k] for k in ('step', 'files')}))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        again = make(tmp_path, max_steps=3, seed=7 if old else 42)
        again.train(resume_from_checkpoint=True)
    assert again.began_at == 2 and not [w for w in said if 'made' in str(w.message)]


def limits_said(run):
    "How often a run says that checkpoints go, and the sentence"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        run()
    return [str(w.message) for w in said if 'save_total_limit' in str(w.message)]


def test_checkpoints_that_go_under_an_unsaid_limit_are_told_of_once(tmp_path):
    saving = dict(save_strategy='steps', save_steps=1)
    said = limits_said(make(tmp_path / 'a', max_steps=5, **saving).train)
    assert len(said) == 1
    assert 'the two newest' in said[0]
    assert str(tmp_path / 'a') in said[0]
    assert len(names(tmp_path / 'a')) == 2
    assert not limits_said(make(tmp_path / 'b', max_steps=2, **saving).train) and len(names(tmp_path / 'b')) == 2
    assert not limits_said(make(tmp_path / 'c', max_steps=5, save_total_limit=2, **saving).train)
    assert (
        not limits_said(make(tmp_path / 'd', max_steps=4, save_minutes=0.0).train) and len(names(tmp_path / 'd')) == 2
    )


def test_checkpoints_of_an_earlier_run_are_told_of_before_training(tmp_path):
    class Never(FFTrainer):
        def on_ff_step(self, state, control):
            raise KeyboardInterrupt

    make(tmp_path, max_steps=2, save_strategy='steps', save_steps=1).train()

    def begin():
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, cls=Never, save_strategy='steps').train()

    assert len(limits_said(begin)) == 1 and names(tmp_path) == ['checkpoint-1', 'checkpoint-2']


def test_metrics_and_predictions_of_windows_that_carry_more_than_the_model_takes(tmp_path):
    seen = []
    trainer = make(
        tmp_path,
        max_steps=2,
        eval_strategy='steps',
        eval_steps=1,
        eval_dataset=Rows(6),
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        compute_metrics=lambda p: dict(shape=list(seen.append(p.predictions.shape) or p.predictions.shape)[0]),
    )
    trainer.train()
    assert seen == [(6, 16)] * 2
    bare = lambda rows: {k: v for k, v in NextToken()(rows).items() if k != 'labels'}
    trainer.data_collator = bare
    assert trainer.predict(Rows(3)).predictions.shape == (3, 16)


def test_early_stopping_is_resumed_with_its_patience(tmp_path):
    "Evaluations are worse each time: patience 3 ends the run at step 4, resumed after step 2 too"

    class Worse(FFTrainer):
        def evaluate(self, *args, **kw):
            m = dict(eval_loss=float(self.state.global_step))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, m)
            return m

    kw = looking_every(1) | dict(cls=Worse, max_steps=12, save_total_limit=9, load_best_model_at_end=False)
    calm = make(tmp_path / 'a', callbacks=[EarlyStoppingCallback(3)], **kw)
    calm.train()
    assert calm.state.global_step == 4
    for step in (3, 4):
        shutil.rmtree(tmp_path / 'a' / f'checkpoint-{step}')
    again = make(tmp_path / 'a', callbacks=[EarlyStoppingCallback(3)], **kw)
    again.train(resume_from_checkpoint=True)
    assert again.began_at == 2 and again.state.global_step == 4
    over = make(tmp_path / 'a', callbacks=[EarlyStoppingCallback(3)], **kw)
    over.train(resume_from_checkpoint=True)
    assert over.began_at == 4 and same(weights(over), weights(calm))


# models


class Plain(nn.Module):
    "No configuration, and logits as they are"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.ffn = (
            nn.Embedding(512, 16),
            nn.Linear(16, 512),
            nn.ModuleDict(dict(up=nn.Linear(16, 64), down=nn.Linear(64, 16))),
        )

    def forward(self, input_ids):
        x = self.embed(input_ids)
        return self.head(x + self.ffn['down'](self.ffn['up'](x).relu()))


def plain_trainer(out, **kw):
    model = Plain()
    return make(out, model=model, ff=attach(model, config(), pattern=FFNPattern('own', 'ffn', 'down', 'up')), **kw)


def test_a_model_without_a_configuration_trains_with_shift_given(tmp_path):
    trainer = plain_trainer(tmp_path, shift=True, max_steps=24)
    before = trainer.model.ffn['down'].weight.clone()
    trainer.train()
    assert trainer.ff.sentences > 0
    assert trainer.ff.doses.sum() > 0
    assert not torch.equal(before, trainer.model.ffn['down'].weight)
    with pytest.raises(ValueError, match='returns no loss'):
        trainer.evaluate(Rows(4))


def bart():
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    return BartForConditionalGeneration(BartConfig(vocab_size=512, **ENCODER_DECODER))


def test_an_encoder_decoder_without_a_method_of_its_own_is_fed_by_its_configuration(monkeypatch):
    from transformers import BartForConditionalGeneration

    model, labels = bart(), torch.tensor([[5, 6, 7], [8, -100, -100]])
    own = decoder_inputs(model, labels)
    monkeypatch.delattr(BartForConditionalGeneration, 'prepare_decoder_input_ids_from_labels')
    assert torch.equal(decoder_inputs(model, labels), own) and own.tolist() == [[2, 5, 6], [2, 8, 1]]
    model.config.decoder_start_token_id = model.config.bos_token_id = None
    with pytest.raises(ValueError, match='set config.decoder_start_token_id'):
        decoder_inputs(model, labels)


def test_bart_trains_by_its_own_loss(tmp_path, monkeypatch):
    from transformers import BartForConditionalGeneration

    monkeypatch.delattr(BartForConditionalGeneration, 'prepare_decoder_input_ids_from_labels')
    trainer, batch = (
        make(
            tmp_path,
            model=(model := bart()),
            ff=attach(model, FFConfig(), pattern=FFNPattern('bart', '0', 'fc2', 'fc1')),
            max_steps=1,
        ),
        NextToken()(Rows(4)),
    )
    trainer._targets = batch['labels'].numel()
    own = trainer.model.train()(**{k: v for k, v in batch.items() if k in ('input_ids', 'labels')})
    torch.manual_seed(0)
    trainer.model.eval()
    loss = trainer.model(input_ids=batch['input_ids'], labels=batch['labels']).loss
    trainer.model.train()
    for m in trainer.model.modules():
        if hasattr(m, 'dropout') and isinstance(m.dropout, float):
            m.dropout = 0.0
    assert own.loss is not None and torch.allclose(trainer.compute_loss(trainer.model, batch), loss, atol=1e-4)


# saving


def test_a_saved_model_has_the_method_beside_it_and_no_pickle(tmp_path):
    trainer = make(tmp_path / 'run', max_steps=5)
    trainer.train()
    trainer.save_model(str(tmp_path / 'end'))
    names = sorted(p.name for p in (tmp_path / 'end').iterdir())
    assert {'ff_config.json', 'ff_state.safetensors', 'model.safetensors'} <= set(names)
    assert all(n.endswith(('.json', '.safetensors', '.jinja')) for n in names)
    from transformers import AutoModelForCausalLM

    again = attach.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / 'end'), tmp_path / 'end')
    assert again.sentences == trainer.ff.sentences > 0 and torch.equal(again.doses, trainer.ff.doses)
    trainer.save_model()
    assert (tmp_path / 'run' / 'ff_config.json').exists() and not (tmp_path / 'run' / 'training_args.bin').exists()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    trainer = make(tmp_path / 'run')
    next(trainer.model.parameters()).data.fill_(float('nan'))
    with pytest.raises(FloatingPointError, match='not finite'):
        trainer.save_model(str(tmp_path / 'end'))
    assert not (tmp_path / 'end').exists()


class Hub:
    "What would have been uploaded"

    def __init__(self):
        self.folders = []

    def upload_folder(self, folder_path, ignore_patterns=(), **kw):
        self.folders.append(
            (
                Path(folder_path).name,
                sorted(p.name for p in Path(folder_path).iterdir() if not p.name.startswith('checkpoint-')),
            )
        )
        return type('Job', (), dict(done=lambda self: True))()


@pytest.mark.parametrize('strategy', ['every_save', 'all_checkpoints', 'end'])
def test_what_is_pushed_to_the_hub_is_whole_and_has_the_method_and_no_pickle(tmp_path, monkeypatch, strategy):
    hub = Hub()
    monkeypatch.setattr('transformers.trainer.hf_api', lambda: hub)
    monkeypatch.setattr(
        'transformers.Trainer.init_hf_repo',
        lambda self, token=None, private=None: (
            setattr(self, 'hub_model_id', 'me/it') or setattr(self, 'push_in_progress', None)
        ),
    )
    monkeypatch.setattr('transformers.Trainer.create_model_card', lambda self, **kw: None)
    trainer = make(
        tmp_path / 'run', max_steps=4, save_strategy='steps', save_steps=2, push_to_hub=True, hub_strategy=strategy
    )
    trainer.train()
    trainer.push_to_hub()
    assert len(hub.folders) == dict(every_save=3, all_checkpoints=5, end=1)[strategy]
    for name, files in hub.folders:
        assert {'ff_config.json', 'ff_state.safetensors', 'model.safetensors'} <= set(files) and not [
            f for f in files if f.endswith(('.bin', '.pt')) or f.startswith('.')
        ], files
        assert ck.SEAL in files or not name.startswith('checkpoint-')


# the best model


class Middle(FFTrainer):
    "Evaluates best at step 4"

    def evaluate(self, *args, **kw):
        self.seen = getattr(self, 'seen', {}) | {self.state.global_step: weights(self)}
        m = dict(eval_loss=abs(self.state.global_step - 4.0))
        self.log(m)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, m)
        return m


BEST = looking_every(2) | dict(cls=Middle, max_steps=10, load_best_model_at_end=True)


@pytest.mark.parametrize('limit', [1, 2, 3])
def test_the_best_model_is_kept_and_loaded_with_its_state(tmp_path, limit):
    trainer = make(tmp_path, save_total_limit=limit, **BEST)
    trainer.train()
    kept = [p.name for p in ck.checkpoints(tmp_path)]
    assert 'checkpoint-4' in kept and kept[-1] == 'checkpoint-10' and len(kept) == max(2, limit)
    assert trainer.state.best_model_checkpoint == str(tmp_path / 'checkpoint-4')
    assert same(weights(trainer), trainer.seen[4])
    told = json.loads((tmp_path / 'checkpoint-10' / 'trainer_state.json').read_text())
    assert told['best_model_checkpoint'] == str(tmp_path / 'checkpoint-4')
    from safetensors.torch import load_file

    assert same(state(trainer), load_file(tmp_path / 'checkpoint-4' / 'ff_state.safetensors')) and trainer.ff.steps == 4


def test_the_best_model_after_a_kill_is_that_of_an_undisturbed_run(tmp_path):
    calm = make(tmp_path / 'a', save_total_limit=1, **BEST)
    calm.train()

    class Killed(Middle):
        def on_ff_step(self, state, control):
            if state.global_step == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / 'b', save_total_limit=1, **{**BEST, 'cls': Killed}).train()
    os.rename(tmp_path / 'b', tmp_path / 'c')  # the folder has moved too
    again = make(tmp_path / 'c', save_total_limit=1, **BEST)
    again.train(resume_from_checkpoint=True)
    assert again.began_at == 6 and again.state.best_model_checkpoint == str(tmp_path / 'c' / 'checkpoint-4')
    assert same(weights(again), weights(calm)) and same(state(again), state(calm))
    over = make(tmp_path / 'c', save_total_limit=1, **BEST)  # killed after its last step, before the best was loaded
    over.train(resume_from_checkpoint=True)
    assert over.began_at == 10 and same(weights(over), weights(calm)) and same(state(over), state(calm))


def test_a_best_model_that_is_damaged_is_named(tmp_path):
    class Damaging(Middle):
        def on_ff_step(self, state, control):
            if state.global_step == 9:
                with open(tmp_path / 'checkpoint-4' / 'model.safetensors', 'r+b') as f:
                    f.seek(-3, 2)
                    f.write(b'abc')

    with pytest.raises(ValueError, match='checkpoint-4/model.safetensors is not as it was written'):
        make(tmp_path, save_total_limit=3, **{**BEST, 'cls': Damaging}).train()


# the clock


def test_a_run_that_ends_before_its_noise_says_so_once(tmp_path):
    trainer = make(tmp_path, settings=config(20_000), max_steps=4)
    with pytest.warns(UserWarning, match='This run ends after') as caught:
        trainer.train()
    said = [str(w.message) for w in caught if 'This run' in str(w.message)]
    assert len(said) == 1
    assert 'noise starts at 10,000' in said[0]
    assert 'of 20,000 sentences' in said[0]
    assert "total_sentences='auto'" in said[0]


def test_a_run_that_goes_on_beyond_its_end_says_so(tmp_path):
    with pytest.warns(UserWarning, match='goes on to .* total_sentences=20: beyond these no pulse is given') as caught:
        make(tmp_path, settings=config(20), max_steps=12).train()
    assert len([w for w in caught if 'total_sentences=20' in str(w.message)]) == 1


def test_a_run_of_the_right_length_says_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        make(tmp_path, settings=config(int(Rows().sentences.sum())), max_steps=4).train()
    late = FFConfig(total_sentences=100, forgiveness=ForgivenessConfig(kind='none', final_kind='two_letter'))
    assert 'two_letter forgiveness starts at 80' in describe_end(late, 60)
    assert describe_end(FFConfig(), 60) == describe_end(late, 100) == ''
    search = config(100)
    search.recall.limit = 4.0
    assert describe_end(search, 400) == ''  # a search for the collapse goes beyond by intention


def test_auto_is_exact_where_windows_say_how_many_sentences_they_have(tmp_path):
    trainer = make(tmp_path, settings=config('auto'), max_steps=-1, num_train_epochs=2)
    assert trainer.ff.config.total_sentences == 'auto' and trainer.ff.noise_x == 0
    trainer.train()
    assert trainer.ff.config.total_sentences == trainer.ff.sentences == 2 * Rows().sentences.sum()
    assert abs(trainer.ff.doses.mean() - 0.4) < 0.03
    assert trainer.ff.noise_x == pytest.approx(1.0)


def test_auto_from_a_sample_is_stated(tmp_path):
    rows = list(Rows(16)) * 20  # a plain list says nothing
    trainer = make(tmp_path, settings=config('auto'), train_dataset=rows, max_steps=5)
    before = torch.random.get_rng_state()
    with pytest.warns(UserWarning, match=r"'auto' is \d+: 5 steps of 4 windows with .* the mean of 256 windows"):
        trainer._set_total()
    assert abs(trainer.ff.config.total_sentences - 20 * 2) <= 4 and torch.equal(before, torch.random.get_rng_state())


def test_auto_is_resumed_exactly(tmp_path):
    kw = dict(total_sentences='auto', max_steps=8, save_strategy='steps', save_steps=3)
    calm = make(tmp_path / 'a', settings=config(5), **kw)
    calm.train()

    class Killed(FFTrainer):
        def on_ff_step(self, state, control):
            if state.global_step == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / 'b', settings=config('auto'), cls=Killed, **kw).train()
    again = make(tmp_path / 'b', settings=config('auto'), **kw)
    again.train(resume_from_checkpoint=True)
    assert again.began_at == 3 and same(weights(again), weights(calm)) and same(state(again), state(calm))
    assert (
        json.loads((tmp_path / 'b' / 'checkpoint-8' / 'ff_config.json').read_text())['total_sentences']
        == calm.ff.config.total_sentences
    )


def test_more_epochs_than_before_are_trained(tmp_path):
    "A run that is over is not over when it shall be longer"
    kw = dict(max_steps=-1, save_strategy='steps', save_steps=4)
    make(tmp_path, num_train_epochs=1, **kw).train()
    more = make(tmp_path, num_train_epochs=2, **kw)
    more.train(resume_from_checkpoint=True)
    assert more.state.global_step == 8


# iterable data


class Flow(torch.utils.data.IterableDataset):
    def __init__(self, n=18):
        self.rows = list(Rows(n))

    def __iter__(self):
        return iter(self.rows)


def hf_iterable(n=18):
    import datasets

    return (
        datasets.Dataset.from_list([dict(r, ids=r['ids'].tolist()) for r in Rows(n)])
        .to_iterable_dataset()
        .shuffle(seed=3, buffer_size=5)
    )


def collate(rows):
    return NextToken()([dict(r, ids=np.asarray(r['ids'])) for r in rows])


@pytest.mark.parametrize('data', [Flow, hf_iterable])
def test_an_iterable_is_read_again_and_again_and_resumed_exactly(tmp_path, data):
    "18 windows in steps of 4: 4 steps a pass, and the run of 10 steps goes into the third"
    kw = dict(
        data_collator=collate,
        max_steps=10,
        save_strategy='steps',
        save_steps=3,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=2,
        settings=config(80),
    )
    calm = make(tmp_path / 'a', train_dataset=data(), **kw)
    calm.train()
    assert calm.state.global_step == 10 and calm.ff.steps == 10

    class Killed(FFTrainer):
        def on_ff_step(self, state, control):
            if state.global_step == 8:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / 'b', cls=Killed, train_dataset=data(), **kw).train()
    again = make(tmp_path / 'b', train_dataset=data(), **kw)
    again.train(resume_from_checkpoint=True)
    assert again.began_at == 6 and same(weights(again), weights(calm)) and same(state(again), state(calm))


def test_an_iterable_in_order_is_the_same_data_set(tmp_path):
    kw = dict(max_steps=8, train_sampling_strategy='sequential')
    one, two = make(tmp_path, train_dataset=Rows(16), **kw), make(tmp_path, train_dataset=Flow(17), **kw)
    for t in (one, two):
        t.train()
    assert same(weights(one), weights(two)) and one.ff.sentences == two.ff.sentences


def test_an_iterable_without_an_end_of_the_run_or_with_too_little(tmp_path):
    with pytest.raises(ValueError, match='give max_steps'):
        make(tmp_path, train_dataset=Flow(), max_steps=-1)
    with pytest.raises(ValueError, match='A step takes 4 windows and the iterable data set gave fewer'):
        make(tmp_path, train_dataset=Flow(3)).train()


class Once(torch.utils.data.IterableDataset):
    def __init__(self):
        self.rows = iter(Rows(18))

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.rows)


def test_an_iterable_that_can_be_read_once_ends_with_a_word(tmp_path):
    trainer = make(tmp_path, train_dataset=Once(), max_steps=10)
    with pytest.warns(UserWarning, match='the run ends after 4 of 10 steps'):
        trainer.train()
    assert trainer.state.global_step == 4
    with pytest.raises(ValueError, match='read only once'):
        make(tmp_path, train_dataset=Once(), total_sentences='auto').train()


# checkpoints: damage, disks, rests


def seals(folder, *steps):
    for step in steps:
        part = folder / ck.hidden_name(f'checkpoint-{step}')
        part.mkdir(parents=True)
        ck.save_nest(dict(step=step, w=torch.randn(4)), part / 'state.safetensors')
        ck.seal(part, folder / f'checkpoint-{step}', step=step)


def damage(path):
    with open(path, 'r+b') as f:
        f.seek(-1, 2)
        f.write(b'!')


def names(folder):
    return [p.name for p in ck.checkpoints(folder)]


def test_damaged_checkpoints_go_first_and_the_last_whole_one_never(tmp_path):
    seals(tmp_path, 10, 20, 30, 40)
    for step in (30, 40):
        damage(tmp_path / f'checkpoint-{step}' / 'state.safetensors')
    said = []
    gone = ck.prune(tmp_path, 2, say=said.append)
    assert names(tmp_path) == ['checkpoint-10', 'checkpoint-20']
    assert len(said) == 2
    assert 'checkpoint-40/state.safetensors is not as it was written' in said[0]
    assert len(gone) == 2
    damage(tmp_path / 'checkpoint-20' / 'state.safetensors')
    ck.prune(tmp_path, 1)
    assert names(tmp_path) == ['checkpoint-10']
    damage(tmp_path / 'checkpoint-10' / 'state.safetensors')
    ck.prune(tmp_path, 1)
    assert names(tmp_path) == ['checkpoint-10']  # nothing whole is there: nothing goes


def test_a_run_with_a_damaged_checkpoint_keeps_whole_ones(tmp_path, capsys):
    class Damaging(FFTrainer):
        def on_ff_step(self, state, control):
            if state.global_step == 5:
                damage(tmp_path / 'checkpoint-4' / 'model.safetensors')

    make(tmp_path, cls=Damaging, save_strategy='steps', save_steps=2, max_steps=6).train()
    assert names(tmp_path) == ['checkpoint-2', 'checkpoint-6'] and 'It is removed.' in capsys.readouterr().out


@pytest.mark.parametrize(
    'keep, left', [(1, ['10', '40']), (2, ['10', '40']), (3, ['10', '30', '40']), (4, ['10', '20', '30', '40'])]
)
def test_the_best_takes_one_of_the_places(tmp_path, keep, left):
    seals(tmp_path, 10, 20, 30, 40)
    ck.prune(tmp_path, keep, spare=[tmp_path / 'checkpoint-10'])
    assert names(tmp_path) == [f'checkpoint-{s}' for s in left]


def test_checkpoints_of_another_program_are_left_alone(tmp_path):
    (tmp_path / 'checkpoint-5').mkdir()
    (tmp_path / 'checkpoint-5' / 'model.bin').write_text('precious')
    seals(tmp_path, 10, 20, 30)
    ck.prune(tmp_path, 1)
    assert names(tmp_path) == ['checkpoint-5', 'checkpoint-30']
    with pytest.warns(UserWarning, match='was moved to .*checkpoint-5.other'):
        seals(tmp_path, 5)
    assert (tmp_path / 'checkpoint-5.other' / 'model.bin').read_text() == 'precious'
    assert ck.check_checkpoint(tmp_path / 'checkpoint-5')


def test_rests_of_dead_processes_are_swept_when_a_run_starts(tmp_path):
    host, gone, alive = ck._host(), dead(), subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    try:
        rests = [
            f'.part-checkpoint-4.{host}.{gone}',
            f'.gone-checkpoint-2.{host}.{gone}',
            f'.train.json.{gone}',
            f'tokens-0a1b.part{gone}',
            f'.part-checkpoint-9.{host}.{os.getpid()}',
        ]
        stay = [
            f'.part-checkpoint-6.{host}.{alive.pid}',
            f'.gone-checkpoint-6.{host}.{alive.pid}',
            f'.train.json.{alive.pid}',
            f'.part-checkpoint-8.other-node.{gone}',
            f'film.part{gone}',
            f'.python.{gone}',
            'notes.txt',
        ]
        for n in rests + stay:
            (tmp_path / n).mkdir() if 'part-' in n or 'gone-' in n or 'tokens' in n else (tmp_path / n).write_text('x')
        make(tmp_path, max_steps=1).train()
        assert sorted(p.name for p in tmp_path.iterdir() if p.name in rests + stay) == sorted(stay)
    finally:
        alive.communicate(b'\n')
    old = tmp_path / stay[3]
    os.utime(old, (0, 0))
    ck.sweep(tmp_path)
    assert not old.exists() and not (tmp_path / stay[0]).exists() and (tmp_path / f'film.part{gone}').exists()


@pytest.mark.parametrize('how', ['before', 'while'])
def test_a_full_disk_names_path_and_room_and_leaves_the_last_checkpoint(tmp_path, monkeypatch, how):
    class Filled(FFTrainer):
        def on_ff_step(self, state, control):
            if state.global_step != 3:
                return
            room = shutil.disk_usage(tmp_path)
            if how == 'before':
                monkeypatch.setattr(shutil, 'disk_usage', lambda p: room._replace(free=1000))
            else:
                monkeypatch.setattr(
                    'safetensors.torch.serialize_file',
                    lambda *a, **k: (_ for _ in ()).throw(OSError(28, 'No space left on device')),
                )

    trainer = make(tmp_path, cls=Filled, save_strategy='steps', save_steps=2, max_steps=6)
    with pytest.raises(OSError) as e:
        trainer.train()
    said = str(e.value)
    assert str(tmp_path) in said
    assert ' MB ' in said
    assert f'The last good checkpoint is {tmp_path / "checkpoint-2"}' in said
    assert '\n' not in said
    monkeypatch.undo()
    assert names(tmp_path) == ['checkpoint-2']
    assert not list(tmp_path.glob('.*'))
    assert ck.check_checkpoint(tmp_path / 'checkpoint-2')


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which('mount'), reason='a small disk can be mounted by root alone')
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=60k', 'tmpfs', disk], capture_output=True).returncode:
        pytest.skip('no disk can be mounted here')
    try:
        with pytest.raises(ck.FullDisk, match='The disk is full.*end.*MB are left'):
            make(tmp_path / 'run').save_model(str(disk / 'end'))
        with pytest.raises(ck.FullDisk, match='state.safetensors could not be written'):
            ck.save_nest(torch.randn(10**5), disk / 'state.safetensors')
    finally:
        subprocess.run(['umount', disk], check=True)


# adapters


def with_lora(where, targets, arch='llama'):
    "A tiny model with LoRA, and the method attached before or after"
    from peft import LoraConfig, get_peft_model

    model = tiny(arch)
    ff = attach(model, config()) if where == 'before' else None
    torch.manual_seed(1)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=targets, lora_dropout=0.1, init_lora_weights=False))
    return wrapped, ff or attach(wrapped, config())


LORA = [
    ('before', ['down_proj', 'up_proj'], 'llama'),
    ('after', ['q_proj', 'v_proj'], 'llama'),
    ('after', ['wo', 'q'], 'mt5'),
]


@pytest.mark.parametrize('where, targets, arch', LORA)
def test_a_run_with_lora_that_was_killed_ends_with_the_same_bits(tmp_path, promise, where, targets, arch):
    def start(out, cls=FFTrainer):
        model, ff = with_lora(where, targets, arch)
        return make(out, model=model, ff=ff, cls=cls, max_steps=10, save_strategy='steps', save_steps=3)

    class Killed(FFTrainer):
        def on_ff_step(self, state, control):
            if state.global_step == 8:
                raise KeyboardInterrupt

    calm = start(tmp_path / 'a')
    untouched = weights(calm)
    calm.train()
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / 'b', Killed).train()
    files = {p.name for p in (tmp_path / 'b' / 'checkpoint-6').iterdir()}
    assert {'adapter_model.safetensors', 'ff_matrices.safetensors', 'ff_state.safetensors'} <= files
    assert 'model.safetensors' not in files
    assert calm.ff.pulses.sum() > 0
    again = start(tmp_path / 'b')
    again.train(resume_from_checkpoint=True)
    assert again.began_at == 6
    assert same(weights(again), weights(calm))
    assert same(state(again), state(calm))
    assert not same(untouched, weights(calm))
    promise.one_of('Runs with adapters that were stopped and end with the same bits', len(LORA))


def test_the_best_model_with_lora_has_the_base_of_its_step(tmp_path):
    "Matrices that were first pulsed after the best step go back to what they were"
    model, ff = with_lora('after', ['q_proj'])
    trainer = make(tmp_path, model=model, ff=ff, save_total_limit=1, **BEST)
    trainer.train()
    assert same(weights(trainer), trainer.seen[4]) and trainer.ff.steps == 4


def test_a_saved_adapter_has_the_pulsed_matrices_beside_it(tmp_path):
    from peft import PeftModel

    model, ff = with_lora('after', ['q_proj'])
    trainer = make(tmp_path / 'run', model=model, ff=ff, max_steps=10)
    trainer.train()
    trainer.save_model(str(tmp_path / 'end'))
    again = PeftModel.from_pretrained(tiny('llama'), tmp_path / 'end')
    attach.from_pretrained(again, tmp_path / 'end')
    ids = torch.from_numpy(TEXT[:2])
    with torch.no_grad():
        assert torch.equal(again.eval()(input_ids=ids).logits, trainer.model.eval()(input_ids=ids).logits)


# a full disk, and what the method writes


@pytest.fixture
def small_disk(tmp_path):
    "A disk of 60 kB"
    if os.geteuid() != 0 or not shutil.which('mount'):
        pytest.skip('a small disk can be mounted by root alone')
    disk = tmp_path / 'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=60k', 'tmpfs', disk], capture_output=True).returncode:
        pytest.skip('no disk can be mounted here')
    yield disk
    subprocess.run(['umount', disk], check=True)


def fill(disk):
    "Write until nothing more goes in"
    with pytest.raises(OSError), open(disk / 'ballast', 'wb', buffering=0) as file:
        while file.write(b'x' * 1000):
            pass


def test_a_method_saved_on_a_disk_that_is_really_full_leaves_the_old_one(tmp_path, small_disk):
    ff = attach(tiny('llama'), config())
    ff.save_pretrained(small_disk / 'good')
    before = {p.name: p.read_bytes() for p in (small_disk / 'good').iterdir()}
    fill(small_disk)
    ff.step(sentences=5)
    with pytest.raises(OSError, match=r'good could not be written, for the disk is full: [\d.,]+ MiB are needed'):
        ff.save_pretrained(small_disk / 'good')
    assert {p.name: p.read_bytes() for p in (small_disk / 'good').iterdir()} == before


@pytest.mark.parametrize(
    'said', [OSError(28, 'No space left on device'), RuntimeError('I/O error: No space (os error 28)')]
)
def test_a_method_that_does_not_fit_on_the_disk_names_path_and_room(tmp_path, monkeypatch, said):
    ff = attach(tiny('llama'), config())
    ff.save_pretrained(tmp_path / 'good')
    before = {p.name: p.read_bytes() for p in (tmp_path / 'good').iterdir()}

    def fail(*args, **kwargs):
        raise said

    monkeypatch.setattr('safetensors.torch.serialize_file', fail)
    ff.step(sentences=5)
    with pytest.raises(OSError, match='good could not be written, for the disk is full: .* MiB are left in'):
        ff.save_pretrained(tmp_path / 'good')
    assert {p.name: p.read_bytes() for p in (tmp_path / 'good').iterdir()} == before


@pytest.mark.parametrize('where', ['state', 'matrices'])
def test_a_flipped_bit_in_what_the_method_saved_is_not_read(tmp_path, where):
    from safetensors.torch import load_file, save_file

    model, ff = with_lora('after', ['q_proj'])
    make(tmp_path / 'run', model=model, ff=ff, max_steps=6).train()
    ff.save_pretrained(tmp_path / 'end')
    file, before = tmp_path / 'end' / f'ff_{where}.safetensors', ff.state()
    sound = file.read_bytes()
    start = 8 + int.from_bytes(sound[:8], 'little')
    ff.step(sentences=1)
    for at in (start, (start + len(sound)) // 2, len(sound) - 1):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(ValueError, match=f'ff_{where}.safetensors is damaged .its tensors are not as they were'):
            ff.load_state(tmp_path / 'end')
        assert ff.sentences == before['counters'][0] + 1
    file.write_bytes(sound)
    assert same(ff.load_state(tmp_path / 'end').state(), before)
    if where == 'state':  # of a version that wrote no digest
        save_file(load_file(file), file)
        ff.step(sentences=1)
        assert same(ff.load_state(tmp_path / 'end').state(), before)
