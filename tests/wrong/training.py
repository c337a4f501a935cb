"""Wrong values of the trainer, its checkpoints, recipes, teachers, watches and costs."""

import json
from dataclasses import replace

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import TrainingArguments

from ff_nbdev.baselines.noise_null import healing
from ff_nbdev.data.objectives import NextToken
from ff_nbdev.mechanisms.config import FFConfig, ForgetfulnessConfig
from ff_nbdev.mechanisms.method import attach
from ff_nbdev.models.tiny import load_pretrained, random_tiny
from ff_nbdev.run.own_model import check_evaluation, check_fits
from ff_nbdev.run.prepare import Plan, Prepared, check_start
from ff_nbdev.training.checkpoints import SEAL, check_checkpoint, check_room, load_nest, prune, save_nest
from ff_nbdev.training.cost import hours, memory, step_operations, target_length
from ff_nbdev.training.recipes import SCALES, override, check_scale, recipe, run_length
from ff_nbdev.training.schedules import make_optimizer, make_scheduler, training_arguments
from ff_nbdev.training.teacher import (
    MaskedTeacher,
    Teacher,
    disturb,
    load_teacher,
    new_teacher,
    teacher_scores,
    train_teacher,
    word_vectors,
)
from ff_nbdev.training.trainer import FFTrainer
from ff_nbdev.training.watch import CollapseDetector, Watch, noisy_accuracy, noisy_hits

ROWS = [dict(ids=np.arange(3, 19), sentences=1, index=i) for i in range(16)]
PAIRS = [dict(ids=[3, 4])] * 9
NET, TOK = load_pretrained('tiny-mt5')
TEACHER = new_teacher(TOK, hidden=32, layers=1)
IDS = torch.ones(2, 4, dtype=torch.long)


def evaluation(files, out='evaluation', train='{"dose": 1, "sentences": 9}', **given):
    "What evaluate.ipynb is given, looked at; a record of training lies in its folder, but for a model of no recipe"
    usual = dict(arm='no_fzr', model='tiny-mt5-no_fzr', base='tiny-mt5')
    if 'arm' in train or out != 'evaluation':
        files('evaluation/train.json', train)
    return check_evaluation(**usual | given, out=files.here / out)


def trainer(cls=FFTrainer, model=None, ff=None, config=None, own=None, **args):
    "A trainer in the working folder; `own` for the trainer, the rest for its arguments"
    model = random_tiny('mt5') if model is None else model
    ff = attach(model, config or FFConfig()) if ff is None else ff
    args = TrainingArguments(
        'run',
        **{**dict(use_cpu=True, report_to=[], per_device_train_batch_size=4, max_steps=2, disable_tqdm=True), **args},
    )
    return cls(**{**dict(model=model, args=args, ff=ff, train_dataset=ROWS, data_collator=NextToken()), **(own or {})})


def watch(**own):
    return trainer(Watch, own=own)


def other_args(name, value):
    "Arguments of a kind that TrainingArguments does not know"
    args = TrainingArguments('run', use_cpu=True, report_to=[], max_steps=2, per_device_train_batch_size=4)
    setattr(args, name, value)
    return trainer(own=dict(args=args))


def stepping(collate, config=None, rows=ROWS):
    return trainer(own=dict(data_collator=collate, train_dataset=rows), config=config).train()


def without(key):
    return lambda rows: {k: v for k, v in NextToken()(rows).items() if k != key}


def hollow(rows):
    batch = NextToken()(rows)
    return dict(batch, labels=torch.full_like(batch['labels'], -100))


def seal(files, content):
    return files(f'checkpoint-3/{SEAL}', content).parent


def nest(files, damage):
    path = files('x.safetensors')
    save_nest(dict(step=1, w=torch.ones(50)), path)
    path.write_bytes(damage(path.read_bytes()))
    return load_nest(path)


def plain_tensors(files):
    from safetensors.torch import save_file

    save_file(dict(w=torch.ones(3)), path := files('x.safetensors'))
    return load_nest(path)


def tokens(files, ids=range(3, 60), starts=range(0, 57, 5), break_it=None):
    "A folder as encode_corpus writes it"
    for split in ('train', 'valid'):
        for kind, values in (('ids', ids), ('starts', starts)):
            path = files(f'tokens/{split}.{kind}.npy')
            np.save(path, np.array(values))
    if break_it:
        (path.parent / break_it).write_bytes(b'\x93NUMPY nonsense')
    return path.parent


def saved_teacher(files, name=None, content=b'{"a'):
    folder = files('teacher/x').parent
    Teacher(TEACHER, TOK).save_pretrained(folder)
    if name:
        (folder / name).write_bytes(content)
    return folder


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(ROWS)


class Never(NextToken):
    def __call__(self, rows):
        return [1, 2]


CASES = {
    # parts of the trainer
    'ff is a configuration': (lambda: trainer(ff=FFConfig()), 'give what attach(model, config) returned'),
    'ff of another model': (
        lambda: trainer(ff=attach(random_tiny('mt5'), FFConfig())),
        'ff is attached to another model',
    ),
    'a model in float16': (lambda: trainer(model=random_tiny('mt5').half()), 'load it in float32 or bfloat16'),
    'no model': (
        lambda: trainer(ff=attach(random_tiny('mt5'), FFConfig()), own=dict(model=None)),
        'ff is attached to another model',
    ),
    'a model to be made': (lambda: trainer(own=dict(model_init=random_tiny)), 'model_init would make another model'),
    'a loss function': (
        lambda: trainer(own=dict(compute_loss_func=lambda *a: 0)),
        'compute_loss_func would be ignored',
    ),
    'optimizer of another model': (
        lambda: trainer(own=dict(optimizers=(torch.optim.SGD(random_tiny('mt5').parameters(), 0.1), None))),
        "parameters that are not this model's",
    ),
    'penalty without a method': (lambda: trainer(own=dict(penalty=3.0)), 'without a method penalty()'),
    'negative minutes': (lambda: trainer(own=dict(save_minutes=-1)), 'must be at least 0'),
    'fused loss that is neither': (lambda: trainer(own=dict(fused_loss='yes')), 'must be True, False, or None'),
    'minutes that are none': (lambda: trainer(own=dict(save_minutes=float('nan'))), 'must be at least 0'),
    'misspelt auto': (lambda: trainer(own=dict(total_sentences='automatic')), "or 'auto'"),
    'total of half a sentence': (lambda: trainer(own=dict(total_sentences=10.5)), 'must be a whole number'),
    'total of nan': (lambda: trainer(own=dict(total_sentences=float('nan'))), 'must be a whole number'),
    'total of nothing': (lambda: trainer(own=dict(total_sentences=0)), 'of at least 1'),
    'a step without a length': (
        lambda: attach(random_tiny('mt5'), FFConfig('auto')).step(sentences=1),
        "total_sentences is still 'auto'",
    ),
    'a length after a step': (
        lambda: [(ff := attach(random_tiny('mt5'), FFConfig(10))).step(sentences=1), ff.set_total(20)],
        'The run is under way',
    ),
    'auto in capitals': (lambda: FFConfig('AUTO'), 'must be a whole number'),
    'auto of a dose without a length': (
        lambda: attach(random_tiny('mt5'), FFConfig('auto', ForgetfulnessConfig(dose=0.1))).set_total(0),
        'give total_sentences',
    ),
    # its settings
    'half precision': (lambda: trainer(bf16_full_eval=True), 'rounds the weights themselves'),
    'batch found by itself': (lambda: trainer(auto_find_batch_size=True), 'choose per_device_train_batch_size'),
    'windows seen twice': (lambda: trainer(ignore_data_skip=True), 'the same windows again'),
    'checkpoints without an optimizer': (lambda: trainer(save_only_model=True), 'leaves the optimizer out'),
    'checkpoints of each node': (lambda: trainer(save_on_each_node=True), 'give an output_dir that all nodes see'),
    'saved in the middle of a step': (lambda: trainer(enable_jit_checkpoint=True), 'save_minutes=5'),
    'liger': (lambda: other_args('use_liger_kernel', True), 'exchanges the feed-forward blocks'),
    'generation': (lambda: other_args('predict_with_generate', True), 'belongs to Seq2SeqTrainer'),
    'windows by length': (lambda: trainer(train_sampling_strategy='group_by_length'), "'random' or 'sequential'"),
    'windows by weight': (lambda: trainer(train_sampling_strategy='batch_rebalance'), "'random' or 'sequential'"),
    'eight-bit optimizer': (lambda: trainer(optim='adamw_bnb_8bit'), 'another plain optimizer'),
    'layer by layer': (lambda: trainer(optim='galore_adamw_layerwise'), 'another plain optimizer'),
    'two sets of weights': (lambda: trainer(optim='schedule_free_adamw'), 'another plain optimizer'),
    'smoothing of all': (lambda: trainer(label_smoothing_factor=1.0), 'under 1'),
    'negative smoothing': (lambda: trainer(label_smoothing_factor=-0.1), 'at least 0'),
    'splits of a data set': (
        lambda: trainer(own=dict(train_dataset=DatasetDict(train=Dataset.from_list(PAIRS)))),
        "is a DatasetDict of the splits train: give one of them, such as data['train']",
    ),
    'splits in a dictionary': (
        lambda: trainer(own=dict(train_dataset=dict(train=ROWS, test=ROWS))),
        'is a dict of the splits train, test',
    ),
    'no checkpoint kept': (lambda: trainer(save_total_limit=0), 'save_total_limit=0 must be at least 1'),
    'other labels': (lambda: trainer(label_names=['targets']), "must name 'labels'"),
    'no steps': (lambda: trainer(max_steps=0), 'trains nothing'),
    'no epochs': (lambda: trainer(max_steps=-1, num_train_epochs=0), 'trains nothing'),
    'no batch': (lambda: other_args('per_device_train_batch_size', 0), 'must be at least 1'),
    'batches out of order': (lambda: trainer(dataloader_in_order=False), 'leave it on'),
    'split batches': (lambda: trainer(accelerator_config=dict(split_batches=True)), 'leave it off'),
    'an order that is not kept': (lambda: trainer(accelerator_config=dict(use_seedable_sampler=False)), 'leave it on'),
    # its data
    'a generator': (lambda: trainer(own=dict(train_dataset=(r for r in ROWS))), 'has no length or no items by number'),
    'a set': (lambda: trainer(own=dict(train_dataset={1, 2, 3, 4})), 'has no length or no items by number'),
    'a stream without steps': (lambda: trainer(max_steps=-1, own=dict(train_dataset=Stream())), 'give max_steps'),
    'too few windows': (lambda: trainer(own=dict(train_dataset=ROWS[:3])), 'A step takes 4 windows and there are 3'),
    'no sentences in a batch': (lambda: stepping(without('sentences')), "carry no 'sentences'"),
    'no labels in a batch': (lambda: stepping(without('labels')), "carry no 'labels'"),
    'no sentences for auto': (lambda: stepping(without('sentences'), FFConfig('auto')), "carry no 'sentences'"),
    'a batch that is a list': (lambda: stepping(Never()), 'a batch is a dictionary'),
    'no target in a step': (lambda: stepping(hollow), 'all their labels are -100'),
    'labels of one dimension': (
        lambda: stepping(lambda rows: dict(NextToken()(rows), labels=torch.zeros(4).long())),
        'of the shape (windows, time)',
    ),
    'evaluation of a model without a loss': (
        lambda: trainer()._evaluation_loss(lambda **kw: dict(logits=0), {}),
        'The model returns no loss',
    ),
    # checkpoints
    'resumed from nowhere': (lambda: trainer().train(resume_from_checkpoint='nowhere'), 'is no complete checkpoint'),
    'seal of a list': (lambda d: check_checkpoint(seal(d, '[]')), 'does not list the files'),
    'seal of nothing': (lambda d: check_checkpoint(seal(d, '{}')), 'does not list the files'),
    'seal of no files': (lambda d: check_checkpoint(seal(d, '{"files": {}}')), 'does not list the files'),
    'seal of a number': (lambda d: check_checkpoint(seal(d, '{"files": {"a": 3}}')), 'does not list the files'),
    'seal cut off': (lambda d: check_checkpoint(seal(d, '{"fil')), 'cannot be read'),
    'seal in bytes': (lambda d: check_checkpoint(seal(d, b'\xff\xfe\x00')), 'cannot be read'),
    'seal of brackets': (lambda d: check_checkpoint(seal(d, '[' * 100_000)), 'cannot be read'),
    'seal that leads outside': (
        lambda d: check_checkpoint(seal(d, json.dumps(dict(files={'../x': dict(bytes=1, sha256='')})))),
        "'../x', which does not lie in this checkpoint",
    ),
    'seal of a whole path': (
        lambda d: check_checkpoint(seal(d, json.dumps(dict(files={'/etc/passwd': dict(bytes=1, sha256='')})))),
        'does not lie in this checkpoint',
    ),
    'a file is missing': (
        lambda d: check_checkpoint(seal(d, json.dumps(dict(files={'model': dict(bytes=1, sha256='')})))),
        'lacks model',
    ),
    'nest cut off': (lambda d: nest(d, lambda b: b[:60]), 'x.safetensors cannot be read'),
    'nest without its end': (lambda d: nest(d, lambda b: b[:-9]), 'x.safetensors cannot be read'),
    'nest of zeros': (lambda d: nest(d, lambda b: b'\0' * 40), 'x.safetensors cannot be read'),
    'nest that does not fit': (
        lambda d: nest(d, lambda b: b.replace(b'tensor', b'tensOr', 1)),
        'does not fit its tensors',
    ),
    'plain tensors': (plain_tensors, 'a plain safetensors file without a nest'),
    'no nest there': (lambda: load_nest('nowhere.safetensors'), 'nowhere.safetensors is missing'),
    'nothing to keep': (lambda: prune('.', 0), 'must be at least 1'),
    'less than nothing to keep': (lambda: prune('.', -1), 'must be at least 1'),
    'more than the disk': (lambda: check_room('.', 10**18), 'are to be written'),
    # recipes
    'arm by number': (lambda: recipe(3, total_sentences=10), 'must be the name of a recipe'),
    'scale in a list': (lambda: check_scale(['quick']), 'the scales are'),
    'recipe of no length': (lambda: recipe('full_stack'), 'total_sentences=0 must be a whole number of at least 1'),
    'recipe of a negative length': (lambda: recipe('full_stack', total_sentences=-5), 'of at least 1'),
    'recipe of nan': (lambda: recipe('full_stack', total_sentences=10, dose=float('nan')), 'dose=nan must be a number'),
    'recipe of a negative top': (lambda: recipe('full_stack', total_sentences=10, top=-1.0), 'of at least 0'),
    'recipe with no step between pulses': (
        lambda: recipe('full_stack', total_sentences=10, steps_between_pulses=0.0),
        'must be a number above 0',
    ),
    'recipe whose numbers disagree': (
        lambda: recipe('full_stack', total_sentences=10, dose=4.5, steps_between_pulses=200.0, total_steps=900),
        'give two of the three',
    ),
    'length of steps without sentences': (
        lambda: run_length(SCALES['quick'], 0.0),
        'per_step=0.0 must be a number above 0',
    ),
    'schedule that there is not': (
        lambda: make_scheduler(None, replace(SCALES['quick'], schedule='linaer'), 9),
        'constant, linear, cosine',
    ),
    'arguments of no schedule': (
        lambda: training_arguments(replace(SCALES['quick'], schedule='linaer'), 'no_fzr', 'x', 9),
        'constant, linear, cosine',
    ),
    'warm-up in steps': (
        lambda: make_scheduler(None, replace(SCALES['quick'], warmup=20), 9),
        'warmup=20 must be a number of at least 0 and at most 1',
    ),
    'decay beyond its beginning': (
        lambda: make_scheduler(None, replace(SCALES['quick'], rate_end=2.0), 9),
        'rate_end=2.0 must be',
    ),
    'plan of a negative batch': (
        lambda: Plan('no_fzr', 'tiny-mt5', 'python_prose', 'x', batch=-8).sized(),
        'batch=-8 must be',
    ),
    'plan that sorts what goes on': (
        lambda: Prepared(
            Plan('full_stack_continued', 'tiny-mt5', 'python_prose', 'x', start='tiny-mt5-full_stack', reordered=True)
        ),
        'leave reordered out',
    ),
    'null of another base': (lambda: healing(NET, random_tiny('mt5'), NET), 'give the base that the run started from'),
    'stage beyond the run': (lambda: watch(stage='there', stage_at=2.0), 'stage_at=2.0 must be'),
    'change by number': (lambda: override(FFConfig(), 5), 'must be text of the form'),
    'negative rate': (lambda: make_optimizer(NET, lr=-1.0), 'lr=-1.0 must be a number'),
    'rate that is none': (lambda: make_optimizer(NET, lr=float('nan')), 'lr=nan must be a number'),
    'nothing to train': (
        lambda: make_optimizer(random_tiny('mt5').requires_grad_(False)),
        'no parameter that is to be trained',
    ),
    'optimizer of another name': (lambda: make_optimizer(NET, 'sgd'), 'Unknown optimizer'),
    'arguments for no steps': (lambda: training_arguments(SCALES['quick'], 'full_stack', 'x', 0), 'steps=0 must be'),
    'arguments for no process': (
        lambda: training_arguments(SCALES['quick'], 'full_stack', 'x', 5, world=0),
        'world=0 must be',
    ),
    'negative micro': (lambda: training_arguments(SCALES['quick'], 'full_stack', 'x', 5, micro=-2), 'micro=-2 must be'),
    'arguments without a folder': (lambda: training_arguments(SCALES['quick'], 'full_stack', '', 5), 'folder is empty'),
    # teachers
    'share over a third': (lambda: disturb(IDS, IDS > 0, None, 9, None, fraction=0.4), 'at most 0.333'),
    'share of nothing': (lambda: disturb(IDS, IDS > 0, None, 9, None, fraction=0.0), 'above 0'),
    'padding of another shape': (lambda: disturb(IDS, IDS[:1] > 0, None, 9, None), 'real says of each id'),
    'vectors of no text': (lambda: word_vectors('nowhere', 600), 'nowhere/train.ids.npy is missing'),
    'vectors of no width': (lambda d: word_vectors(tokens(d), 600, dim=0), 'dim=0 must be'),
    'vectors of more ids': (lambda d: word_vectors(tokens(d), 40, dim=8), 'must be of one tokenizer'),
    'damaged tokens': (lambda d: word_vectors(tokens(d, break_it='train.ids.npy'), 600), 'train.ids.npy is damaged'),
    'tokens of fractions': (lambda d: word_vectors(tokens(d, ids=np.ones(9)), 600), 'whole numbers'),
    'teacher of no width': (lambda: new_teacher(TOK, hidden=0), 'hidden=0 must be'),
    'heads that do not divide': (lambda: new_teacher(TOK, hidden=30), 'cannot be shared by 4 heads'),
    'embedding of nan': (lambda: new_teacher(TOK, torch.full((len(TOK), 8), float('nan'))), 'finite numbers'),
    'taught nothing': (lambda d: train_teacher(TEACHER, tokens(d), 0), 'total=0 must be'),
    'taught at no rate': (lambda d: train_teacher(TEACHER, tokens(d), 10, lr=0.0), 'lr=0.0 must be'),
    'taught without sentences': (
        lambda d: train_teacher(TEACHER, tokens(d, starts=np.zeros(0, int)), 10),
        'holds no sentence',
    ),
    'taught another vocabulary': (
        lambda d: train_teacher(TEACHER, tokens(d, ids=[3, 10**6]), 10),
        'must be of one tokenizer',
    ),
    'scores of another split': (lambda d: teacher_scores(TEACHER, tokens(d), 'dev'), "Unknown split 'dev'"),
    'scores of no sentences': (lambda d: teacher_scores(TEACHER, tokens(d), sentences=0), 'sentences=0 must be'),
    'no alternatives of a teacher': (lambda: Teacher(TEACHER, TOK, n=0), 'n=0 must be'),
    'more alternatives than words': (lambda: Teacher(TEACHER, TOK, n=10**6), 'at most'),
    'nothing to rank': (lambda: Teacher(TEACHER, TOK).rank([]), 'at least one id'),
    'an empty sentence to rank': (lambda: Teacher(TEACHER, TOK).rank([[]]), 'at least one id'),
    'no teacher of that name': (lambda: load_teacher(''), 'No teacher at'),
    'no teacher in that place': (lambda: load_teacher('./not/there'), 'No teacher at'),
    'folder without a teacher': (lambda d: load_teacher(d('a.txt', '').parent), 'holds no config.json'),
    'damaged teacher': (lambda d: load_teacher(saved_teacher(d, 'model.safetensors')), 'model.safetensors is damaged'),
    'damaged teacher configuration': (
        lambda d: load_teacher(saved_teacher(d, 'config.json')),
        'config.json is damaged',
    ),
    'damaged teacher tokenizer': (
        lambda d: load_teacher(saved_teacher(d, 'tokenizer.json')),
        'tokenizer.json is damaged',
    ),
    'vocabularies compared by nothing': (lambda: MaskedTeacher(TEACHER, TOK, TOK).check([]), 'no ids to compare'),
    # watches
    'row every no step': (lambda: watch(every=0), 'every=0 must be'),
    'probes in no order': (lambda: watch(probe=print, probe_at=[0.5, 0.2]), 'must ascend'),
    'probe beyond the end': (lambda: watch(probe=print, probe_at=[1.5]), 'probe_at=1.5 must be'),
    'probe that cannot be called': (lambda: watch(probe=5), 'give a function'),
    'search without checks': (lambda: watch(cliff=CollapseDetector()), 'needs checks'),
    'checks without labels': (lambda: watch(checks=[dict(input_ids=IDS)]), "lacks 'labels' or 'index'"),
    'look every nothing': (lambda: CollapseDetector(every=0), 'every=0 must be'),
    'look at nan': (lambda: CollapseDetector().add(float('nan'), 0.5), 'x=nan must be'),
    'accuracy over 1': (lambda: CollapseDetector().add(1.0, 50.0), 'accuracy=50.0 must be'),
    'noise below nothing': (
        lambda: noisy_hits(attach(random_tiny('mt5'), FFConfig()), [dict(labels=IDS, index=IDS)], [], -1.0),
        'x=-1.0 must be',
    ),
    'no checks': (lambda: noisy_accuracy(attach(random_tiny('mt5'), FFConfig()), [], []), 'checks is empty'),
    'watched by another trainer': (lambda: watch().load_checkpoint_state({}), 'of a run by another trainer'),
    # costs
    'window of no length': (lambda: target_length(0), 'length=0 must be'),
    'density of 2': (lambda: target_length(10, 2.0), 'density=2.0 must be'),
    'span of nothing': (lambda: target_length(10, 0.1, 0), 'mean_span=0 must be'),
    'cost of no windows': (lambda: step_operations(NET, 0, 10), 'windows=0 must be'),
    'cost of a layer': (lambda: step_operations(nn.Linear(3, 3), 2, 10), 'has no configuration of Hugging Face'),
    'memory of an unknown optimizer': (lambda: memory(NET, 2, 10, 'sgd'), 'Unknown optimizer'),
    'GPU by number': (lambda: hours(1.0, 7), 'there are H100'),
    'no GPU': (lambda: hours(1.0, gpus=0), 'gpus=0 must be'),
    # notebooks under plain papermill
    'a recipe of RWKV on mT5': (lambda: check_fits('rwkv_no_fzr', 'tiny-mt5'), 'give arm=no_fzr, or another model'),
    'a recipe of mT5 on RWKV': (lambda: check_fits('no_fzr', 'tiny-rwkv'), 'give arm=rwkv_no_fzr, or another model'),
    'goes on from nothing': (lambda: check_start(Plan('full_stack_continued', 'tiny-mt5', '', '')), 'give start='),
    'evaluated as RWKV': (lambda d: evaluation(d, arm='rwkv_base'), 'rwkv_base is a recipe of RWKV'),
    'evaluated beside RWKV': (lambda d: evaluation(d, base='tiny-rwkv'), 'tiny-rwkv is a model of type rwkv'),
    'evaluated beside another size': (lambda d: evaluation(d, base='mini-mt5'), 'cannot be the base of tiny-mt5'),
    'evaluated as another run': (lambda d: evaluation(d, arm='full_stack'), "holds the trained run 'no_fzr'"),
    'evaluated in the folder of another': (
        lambda d: evaluation(d, train='{"dose": 1, "sentences": 9, "arm": "tlf"}'),
        "holds the trained run 'tlf'",
    ),
    'evaluated without a dose': (lambda d: evaluation(d, model='tiny-mt5'), 'the dose of no_fzr is not known'),
    'evaluated into a file': (lambda d: evaluation(d, out='evaluation/train.json/x'), 'is a file'),
    'evaluated wide for no recipe': (lambda d: evaluation(d, wide='bose'), "wide names 'bose', which is no recipe"),
    'autoencoder for no recipe': (lambda d: evaluation(d, sae='base no_fz'), "sae names 'no_fz', which is no recipe"),
    'nothing reached': (lambda: hours(1.0, reached=0.0), 'reached=0.0 must be'),
}
