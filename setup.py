"""The package's metadata is in settings.ini; this file hands it to setuptools."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
readme = here/'README.md'
# The run graph, the experiment notebooks and the claims live outside the package, and an installed package carries them inside.
carried = {'workflow': 'workflow', 'experiments': 'nbs/experiments', 'results': 'results'}

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], license='Apache-2.0', license_files=['LICENSE'],
    author=cfg['author'], author_email=cfg['author_email'], keywords=cfg['keywords'].split(),
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else cfg['description'],
    long_description_content_type='text/markdown',
    project_urls={'Repository': cfg['git_url'], 'Documentation': cfg['doc_host']+cfg['doc_baseurl']},
    classifiers=['Programming Language :: Python :: 3', 'Programming Language :: Python :: 3 :: Only',
                 'Framework :: Jupyter', 'Intended Audience :: Science/Research'],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg['lib_path'], f"{cfg['lib_path']}.*"]) + [f"{cfg['lib_path']}.{p}" for p in carried],
    package_dir={f"{cfg['lib_path']}.{p}": folder for p, folder in carried.items()},
    include_package_data=True, package_data={'': ['*.ipynb', '*.yaml', 'Snakefile', 'gpu_check', 'profiles/*/*', 'config/*'], cfg['lib_path']: ['pretrained/**', 'study/*.css']},
    install_requires=cfg['requirements'].split(), extras_require={'slurm': cfg['slurm_requirements'].split(), 'dev': cfg['dev_requirements'].split()},
    entry_points={'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
                  'console_scripts': [f"ff-nbdev={cfg['lib_path']}.cli:main"]},
)
