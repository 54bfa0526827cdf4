from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split("'")[1]
    for line in (HERE / 'stmn_plugin' / '__init__.py').read_text(encoding='utf-8').splitlines()
    if line.startswith('__version__')
)
TEST = ['pytest>=8', 'pytest-timeout', 'hypothesis', 'faiss-cpu', 'selenium']

setup(
    name='stmn_plugin',
    version=VERSION,
    description='Spatial and Temporal Memory Networks (ICCV 2021) for the re-ID toolbox torchreid',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='MIT',
    python_requires='>=3.10',
    packages=find_packages(include=['stmn_plugin', 'stmn_plugin.*']),
    package_data={'stmn_plugin.looking.report': ['templates/*']},
    # why each is needed stands in README.md, "Dependencies"
    install_requires=[
        'torch>=2.4',
        'torchvision>=0.19',
        'torchreid',
        'yacs',
        'gdown>=6',
        'tabulate',
        'numpy>=1.26',
        'scipy',
        'h5py',
        'Pillow',
        'tqdm',
        'filelock>=4',
        'tensorboard',
        'matplotlib',
        'opencv-python-headless',
        'PyYAML',
        'Jinja2',
        'six',
    ],
    extras_require={
        'test': TEST,
        'faiss': ['faiss-cpu'],
        'dev': [*TEST, 'ruff==0.17.*', 'pre-commit'],
    },
)
