"""Wrong inputs of the atlas: each is refused before anything is read."""

import torch

from ff_nbdev import atlas
from ff_nbdev.models.tiny import SHIPPED, random_tiny


class Mute:
    "A tokenizer of no model"

    def get_vocab(self):
        return {'a': 0}

    def __len__(self):
        return 1


CASES = {
    'a name with a letter too few': (lambda: atlas('tiny-mt'), "did you mean 'tiny-mt5'"),
    'a name that is nothing': (lambda: atlas('nothing'), "No model 'nothing'"),
    'a model without feed-forward layers': (lambda: atlas(torch.nn.Linear(2, 2), Mute()), 'No feed-forward'),
    'no model': (lambda: atlas(7, Mute()), 'give a model'),
    'a model without its tokenizer': (lambda: atlas(random_tiny('mt5')), 'pass tokenizer='),
    'beside another vocabulary': (lambda: atlas('tiny-mt5', beside='mini-mt5'), 'different tokenizers'),
    'beside another architecture': (lambda: atlas('tiny-mt5', beside='tiny-rwkv'), 'two architectures'),
    'a dose of nothing missing': (lambda: atlas('tiny-mt5', doses=(1, 2)), 'must begin with 0'),
    'doses that fall': (lambda: atlas('tiny-mt5', doses=(0, 2, 1)), 'must begin with 0 and rise'),
    'a text that is not there': (lambda: atlas('tiny-mt5', corpus='no/such.txt'), 'no/such.txt'),
    'an empty text': (lambda files: atlas('tiny-mt5', corpus=str(files('a.txt'))), 'a.txt'),
    'a text of three words': (lambda files: atlas('tiny-mt5', corpus=str(files('a.txt', 'One two three.'))), 'text'),
}


def letter(files):
    return ['atlas', 'tiny-mt5', '--out', files('letter.html', '<p>Dear reader')]


def bare(files):
    "A model that was saved without its tokenizer"
    for name in ('config.json', 'model.safetensors'):
        files(f'bare/{name}', (SHIPPED / 'tiny-rwkv' / name).read_bytes())
    return ['atlas', files.here / 'bare']


def three_lines(files):
    return ['atlas', 'tiny-mt5', '--corpus', files('a.txt', 'One two three.\nFour.\nFive six.\n')]


COMMANDS = {
    'no model': (['atlas'], 'MODEL'),
    'a name with a letter too few': (['atlas', 'tiny-mt'], "did you mean 'tiny-mt5'"),
    "somebody else's file": (letter, "somebody else's"),
    'a folder': (lambda files: ['atlas', 'tiny-mt5', '--out', files('a/b').parent], 'is a folder'),
    'another kind of file': (['atlas', 'tiny-mt5', '--out', 'atlas.png'], 'does not end in .html'),
    'another vocabulary': (['atlas', 'tiny-mt5', '--beside', 'mini-mt5'], 'different tokenizers'),
    'an option with a letter too few': (['atlas', 'tiny-mt5', '--besid', 'mini-mt5'], "did you mean '--beside'"),
    'an empty model': (['atlas', ''], 'is empty'),
    'a folder that is not there': (['atlas', './mine'], "There is no model './mine'"),
    'a folder without a tokenizer': (bare, 'holds no tokenizer'),
    'a text of three lines': (three_lines, 'holds 3 different sentences'),
    'a text that is not there': (['atlas', 'tiny-mt5', '--corpus', 'nix.txt'], "No text at 'nix.txt'"),
    'an option of another program': (['atlas', 'tiny-mt5', '--text', 'a.txt'], "did you mean '--corpus'?"),
    'another name of the file': (['atlas', 'tiny-mt5', '--output_dir', 'a.html'], "did you mean '--out'?"),
    'the rate of another program': (['retrofit', 'tiny-mt5', '--lr', '1'], "did you mean '--rate'?"),
    'the data of another program': (['evaluate', 'tiny-mt5', '--dataset=a.txt'], "did you mean '--corpus'?"),
}
