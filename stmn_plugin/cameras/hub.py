"""Share a checkpoint as a folder with a model card, and load a model from a folder or a hub.

A folder holds ``model.safetensors``, which ``load_model`` reads, ``config.json`` and ``README.md``,
the card: training data, protocol and numbers, terms of use. It is the folder of a repository of
huggingface_hub, whose package is needed only to push and to download.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from stmn_plugin import __version__
from stmn_plugin.errors import InputError
from stmn_plugin.evaluation.fingerprint import weights_digest
from stmn_plugin.evaluation.protocols import results_table
from stmn_plugin.extras import require
from stmn_plugin.looking.hidden_folders import without_folders
from stmn_plugin.models.base import VideoModel
from stmn_plugin.models.building import ModelSpec
from stmn_plugin.models.frame_pooling import FrameByFrame
from stmn_plugin.models.loading import load_model
from stmn_plugin.models.weight_files import write_safetensors
from stmn_plugin.training.metric_files import METRICS, read_evaluations
from stmn_plugin.whole_files import whole_folder, write_errors

WEIGHTS, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'


def save_pretrained(checkpoint: str | Path, folder: Path, terms: str) -> list[dict[str, Any]]:
    """Write a folder to share, whole or not at all.

    Args:
        checkpoint: one that ``load_model`` reads; ``metrics.json`` of its run has the numbers.
        folder: empty, or missing.
        terms: under which the weights may be used, and those of the training data.

    Returns:
        The evaluations in the card: those of exactly these weights.

    Raises:
        InputError: no terms; the folder holds something or cannot be written; see ``load_model``.
    """
    if not terms.strip():
        raise InputError('--terms: say under which terms the weights and their data may be used')
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f'--output {folder} already exists: name a new folder')
    model = load_model(checkpoint)
    spec = model.spec
    network = model.network if isinstance(model, FrameByFrame) else model
    # files of weights lie anywhere, checkpoints in a folder of their run
    runs = {Path(checkpoint).expanduser().parent, Path(checkpoint).expanduser().parent.parent}
    found = [each for run in sorted(runs) for each in read_evaluations(str(run))]
    measured = [each for each in found if each.get('weights') == weights_digest(model)]
    config = without_folders({**spec.config, 'model.pretrained': False})
    with write_errors(folder), whole_folder(folder) as temporary:
        path = temporary / WEIGHTS
        header = {'stmn_plugin': __version__, 'config': json.dumps(config)}
        write_safetensors(str(path), network.state_dict(), header)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        described = {'library': 'stmn_plugin', 'version': __version__, 'config': config}
        text = json.dumps(described, indent=2) + '\n'
        (temporary / CONFIG).write_text(text, encoding='utf-8')
        card = model_card(spec, measured, terms, sha256)
        (temporary / CARD).write_text(card, encoding='utf-8', errors='backslashreplace')
    return measured


def from_pretrained(
    name: str | Path, device: str | torch.device = 'cpu', revision: str | None = None
) -> VideoModel:
    """Load the model of a shared folder, or of a repository of a hub.

    Args:
        name: a folder, or OWNER/NAME of a repository.
        device: of the network.
        revision: a branch, tag or commit of the repository.

    Raises:
        InputError: a folder without weights; a repository that is missing or cannot be reached;
            see ``load_model``.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return load_model(folder / WEIGHTS, device)
    if str(name).count('/') != 1 or str(name).startswith(('.', '/', '~')):
        raise InputError(f'{name} is neither a folder nor OWNER/NAME of a repository')
    require('huggingface_hub')
    import huggingface_hub

    try:
        path = huggingface_hub.hf_hub_download(str(name), WEIGHTS, revision=revision)
    except hub_errors() as error:
        raise _refused(str(name), error) from error
    return load_model(path, device)


def push_to_hub(folder: Path, name: str, public: bool = False) -> str:
    """Upload what :func:`save_pretrained` has written into a repository, made if it is missing.

    Args:
        folder: with weights, config and card.
        name: OWNER/NAME; huggingface_hub logs in (``hf auth login``).
        public: make a new repository public.

    Returns:
        Link to the commit.

    Raises:
        InputError: a wrong name, no right to write, or no network.
    """
    require('huggingface_hub')
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[WEIGHTS, CONFIG, CARD],
            commit_message=f'Weights and card by stmn_plugin {__version__}',
        )
    except hub_errors() as error:
        raise _refused(name, error) from error
    return str(commit.commit_url)


def hub_errors() -> tuple[type[Exception], ...]:
    """Return the errors of huggingface_hub for bad names, missing rights and networks."""
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    return OSError, EntryNotFoundError, HFValidationError


def _refused(name: str, error: Exception) -> InputError:
    reason = ' '.join(str(error).split())[:300] or type(error).__name__
    return InputError(f'hub repository {name}: {reason}')


def model_card(
    spec: ModelSpec, evaluations: Sequence[Mapping[str, Any]], terms: str, sha256: str
) -> str:
    """Format the card in Markdown, with the YAML header that hubs read.

    Args:
        spec: of the model.
        evaluations: of ``metrics.json``, of exactly these weights.
        terms: of use, as the user wrote them.
        sha256: of the weights' file.
    """
    config = spec.config
    results = [
        {
            'task': {'type': 'image-feature-extraction', 'name': 'video person re-identification'},
            'dataset': {'name': each['dataset'], 'type': each['dataset']},
            'metrics': [
                {'type': key, 'name': f'{key} ({each["protocol"]})', 'value': 100 * each[key]}
                for key in ('mAP', 'rank-1')
                if key in each
            ],
        }
        for each in evaluations
    ]
    header: dict[str, Any] = {
        'library_name': 'stmn_plugin',
        'license': 'other',
        'tags': ['person-re-identification', 'video', spec.arch],
    }
    if results:
        header['model-index'] = [{'name': spec.arch, 'results': results}]
    numbers = (
        f'```\n{results_table(evaluations)}\n```\n\nIn percent, each by its protocol.'
        if evaluations
        else f'None: no {METRICS} next to the checkpoint has an evaluation of these weights.'
    )
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---

# {spec.arch}, trained on {', '.join(config['data.sources'])}

```python
import stmn_plugin

model = stmn_plugin.from_pretrained('OWNER/NAME')  # or a folder
```

Normalised clips (B, {spec.seq_len}, 3, {spec.height}, {spec.width}) → features (B, D). File
`{WEIGHTS}`, SHA-256 `{sha256}`.

## Training data

{', '.join(config['data.sources'])}, {config['train.max_epoch']} epochs at most; every setting is in
`{CONFIG}`.

## Numbers

{numbers}

## Terms

{terms.strip()}
"""
