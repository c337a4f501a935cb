"""The package's metadata is in settings.ini; this file hands it to setuptools."""
import zlib
from configparser import ConfigParser
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch
from zipfile import ZipFile
from setuptools import setup, find_packages

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
readme = here/'README.md'
# The run graph, the experiment notebooks and the claims live outside the package; an installed one carries them inside.
lib = cfg['lib_path']
carried = {f'{lib}.workflow': 'workflow', f'{lib}.experiments': 'nbs/experiments', f'{lib}.results': 'results'}
data = {'': ['*.ipynb', '*.yaml', 'Snakefile', 'gpu_check', 'profiles/*/*', 'config/*'],
        lib: ['pretrained/**', 'static/**', 'study/*.css']}
extras = {name: cfg[f'{name}_requirements'].split() for name in ('slurm', 'dev')}
writestr = ZipFile.writestr
huffman = partial(zlib.compressobj, strategy=zlib.Z_HUFFMAN_ONLY)


def write_entry(self, info, *args, **kwargs):
    "Nothing in weights repeats: Huffman's code alone leaves less of them, in an eighth of the time"
    weights = getattr(info, 'filename', '').endswith('.safetensors')
    with patch.object(zlib, 'compressobj', huffman) if weights else nullcontext():
        writestr(self, info, *args, **kwargs)


ZipFile.writestr = write_entry  # setuptools writes the wheel with it

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    license='Apache-2.0', license_files=['LICENSE'],
    author=cfg['author'], author_email=cfg['author_email'], keywords=cfg['keywords'].split(),
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else cfg['description'],
    long_description_content_type='text/markdown',
    project_urls={'Repository': cfg['git_url'], 'Documentation': cfg['doc_host']+cfg['doc_baseurl']},
    classifiers=['Programming Language :: Python :: 3', 'Programming Language :: Python :: 3 :: Only',
                 'Framework :: Jupyter', 'Intended Audience :: Science/Research'],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[lib, f'{lib}.*']) + [*carried], package_dir=carried,
    include_package_data=True, package_data=data,
    install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'nbdev': [f'{lib}={lib}._modidx:d'], 'console_scripts': [f'ff-nbdev={lib}.cli:main']},
)
