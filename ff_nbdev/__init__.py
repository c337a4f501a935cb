"""Forgive and Forget for Hugging Face models: give feed-forward layers a spatial order, and measure what it does."""
__version__ = "0.1.0"

_public = dict(FFConfig='mechanisms.config', attach='mechanisms.method', evaluate='evaluation.evaluate', FFTrainer='training.trainer',
               load_pretrained='models.tiny', find_sites='models.sites', atlas='study.atlas')
__all__ = [*_public]

def __getattr__(name):
    "Names of the short API are imported when they are first used, so that `import ff_nbdev` is quick"
    if name not in _public: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import gc
    from importlib import import_module
    collects = gc.isenabled()
    gc.disable()  # what is imported stays: looking through it again and again takes an eighth of the import
    try: module = import_module(f'{__name__}.{_public[name]}')
    finally:
        if collects: gc.enable()
    return getattr(module, name)

def __dir__(): return sorted([*globals(), *_public])
