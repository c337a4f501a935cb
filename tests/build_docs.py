"""`ff-nbdev docs --no-quarto`, in processes that are forked from one that has imported everything."""

import gc
import importlib
import json
import pkgutil
import sys
from functools import lru_cache
from pathlib import Path

PEERS = 'esda', 'ipywidgets', 'matplotlib_inline.backend_inline', 'peft', 'sklearn.decomposition'  # of the pages


def prepare():
    "Everything that a page imports, and that is seen by no collection in the processes that are forked from this one"
    import nbdev.config
    import nbdev.serve
    from fastcore import nbio

    import ff_nbdev
    from ff_nbdev.study import site

    pool = nbdev.serve.parallel

    def forked(*given, method, **kw):
        "The pool that nbdev prepares pages in, whose processes would each import PyTorch anew"
        return pool(*given, method='fork', **kw)

    nbdev.serve.parallel = forked
    nbdev.config._load_toml = lru_cache(nbdev.config._load_toml)  # else it is parsed four times a cell
    nbdev.config._find_nbdev_pyproject = lru_cache(nbdev.config._find_nbdev_pyproject)
    # Without an indent, which nothing here reads, the fast encoder is taken
    nbio.dumps = lambda notebook, **how: json.dumps(notebook, **{**how, 'indent': None})
    site._renderer = lambda quarto: [sys.executable, str(Path(__file__).resolve()), 'render']
    for name in [*(module.name for module in pkgutil.walk_packages(ff_nbdev.__path__, 'ff_nbdev.')), *PEERS]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def render():
    "`smalldocs render`: the same pages, but what it works out for every token, link and cell is worked out once"
    import yaml
    from smalldocs import cli, highlight, layout

    link, links = layout.Layout.href, {}

    def href(self, asked):
        key = self.page.out.parent, asked
        if key not in links:
            links[key] = link(self, asked)
        return links[key]

    layout.Layout.href = href
    highlight.css_class = lru_cache(100_000)(highlight.css_class)
    yaml.SafeLoader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    return cli.main(['render', '.', '--quiet'])


if __name__ == '__main__':
    if sys.argv[1:] == ['render']:
        sys.exit(render())
    from ff_nbdev.cli import main

    prepare()
    sys.exit(main(['docs', '--no-quarto']))
