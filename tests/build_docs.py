"""`ff-nbdev docs --no-quarto`, in processes that are forked from one that has imported everything."""

import gc
import importlib
import pkgutil
import sys
from functools import lru_cache

import nbdev.config
import nbdev.serve

import ff_nbdev
from ff_nbdev.cli import main

pool = nbdev.serve.parallel


def forked(*given, method, **kw):
    "The pool that nbdev prepares pages in, whose processes would each import PyTorch anew"
    return pool(*given, method='fork', **kw)


if __name__ == '__main__':
    nbdev.serve.parallel = forked
    nbdev.config._load_toml = lru_cache(nbdev.config._load_toml)  # else it is parsed four times a cell
    for module in pkgutil.walk_packages(ff_nbdev.__path__, 'ff_nbdev.'):
        importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # else a million objects of imported modules are looked through again and again, in every process
    gc.set_threshold(20_000, 20, 20)
    sys.exit(main(['docs', '--no-quarto']))
