"""Makes asv survive a damaged or foreign file in ``results/``.

asv writes its files in place, so a crash can cut one short, and ``results/`` is a folder that
people copy things into.  Unguarded, one such file ends ``asv run`` or ``asv publish``, with a
traceback for some kinds of damage.  Here it is named and skipped, and nothing else is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from asv import machine, results, util
from asv.commands import publish

# What asv's loader raises for content it does not expect, besides its own UserError.
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError)

_load = results.Results.load.__func__
_load_data = results.Results.load_data
_load_json = util.load_json
_machine_files = machine.iter_machine_files


_said: set[str] = set()


def notice(text: str) -> None:
    """Say, once, what the reader must not miss; the commands pass on such lines."""
    if text not in _said:
        _said.add(text)
        # asv leaves its lines without an end until it writes the next one.
        print(f"\nnotice: {text}", flush=True)


def _short(path: str) -> str:
    return os.path.relpath(path)


def load_json(path: str, api_version: int | None = None, js_comments: bool = False) -> Any:
    """``asv.util.load_json``; damage in a file of results becomes asv's UserError, with its name.

    asv's configuration (``js_comments``) is left to asv's own message.
    """
    if js_comments:
        return _load_json(path, api_version, js_comments)
    try:
        data = _load_json(path, api_version, js_comments)
    except (ValueError, TypeError) as error:
        raise util.UserError(f"{_short(path)}: cut short or foreign: {error}") from None
    if not isinstance(data, dict):
        raise util.UserError(f"{_short(path)}: cut short or foreign: not a JSON object")
    return data


def load(cls: type[results.Results], path: str, machine_name: str | None = None) -> results.Results:
    """``Results.load``; whatever is wrong with the file becomes asv's UserError, with its name."""
    try:
        return _load(cls, path, machine_name=machine_name)
    except (util.UserError, *DAMAGE) as error:
        problem = str(error) if isinstance(error, util.UserError) else f"{_short(path)}: {error!r}"
        problem = problem.replace(os.path.abspath(path), _short(path))
        notice(f"skipped: {problem}")
        raise util.UserError(problem) from None


def load_data(self: results.Results, result_dir: str) -> None:
    """``Results.load_data``; a damaged older file is replaced instead of ending the run."""
    try:
        _load_data(self, result_dir)
    except util.UserError as error:
        notice(f"written anew: {error}")


def machine_files(results_dir: str) -> Iterator[str]:
    """``iter_machine_files`` without the files that cannot be read; each of those is named."""
    for path in _machine_files(results_dir):
        try:
            if isinstance(load_json(path).get("machine"), str):
                yield path
            else:
                notice(f"skipped: {_short(path)}: names no machine")
        except (util.UserError, OSError) as error:
            notice(f"skipped, with the results beside it: {error}")


def install() -> None:
    """Put the guards in asv's place."""
    util.load_json = load_json
    results.Results.load = classmethod(load)
    results.Results.load_data = load_data
    publish.iter_machine_files = machine_files
