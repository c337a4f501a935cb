"""Of processes that want the same kernel, one compiles it, and the others find it on disk.

A fresh clone has no compiled kernels, and the processes of a test run begin together: each compiled them all."""

import fcntl
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

HELD = set()  # lock files of this process; one kernel may be compiled on the way to another


@contextmanager
def lock(path):
    if path in HELD:
        yield
        return
    with open(path, 'a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        HELD.add(path)
        try:
            yield
        finally:
            HELD.discard(path)


def share_kernels():
    "From here on this process waits for a kernel that another one is compiling"
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.dispatcher import Dispatcher

    compile_kernel = Dispatcher.compile
    if hasattr(compile_kernel, '__wrapped__'):
        return

    @wraps(compile_kernel)
    def compile_once(self, sig):
        folder = self._cache.cache_path  # None: it is not kept on disk
        if folder is None or not Path(folder).is_dir():
            return compile_kernel(self, sig)
        # numba's own lock first: two threads of a process never wait for each other's files
        with global_compiler_lock, lock(Path(folder) / f'{self.py_func.__name__}.lock'):
            return compile_kernel(self, sig)

    Dispatcher.compile = compile_once
