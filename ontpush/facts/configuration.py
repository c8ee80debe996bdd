"""Reads the configuration: YAML, or JSON where the host has no PyYAML, checked whole.

All faults are found at once, each with its place in the file.
"""

import json
import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from ontpush.facts.names import from_argument, shown
from ontpush.facts.options import (
    BY_KEY,
    CHOICE,
    CHOICES,
    INTEGER,
    NUMBER,
    OPTIONS,
    RECORDS,
    SWITCH,
    TEXTS,
    Option,
)
from ontpush.facts.regular import open_regular
from ontpush.facts.trouble import BadConfiguration


class Pair(NamedTuple):
    """One key and value of the file; `line` counts from 1."""

    key: Any
    value: Any
    line: int


def read_configuration(path: str) -> Dict[str, Any]:
    """The settings in the file at `path`; BadConfiguration names every fault and its line."""
    name = shown(from_argument(path))
    try:
        with open_regular(from_argument(path), through_links=True) as file:
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        raise BadConfiguration(
            f"{name}: cannot be read: {error.strerror}; name another with --config"
        ) from error
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{name}: is not UTF-8 text") from error
    try:
        pairs = _pairs(text)
    except _Unreadable as error:
        raise BadConfiguration(f"{name}:{error}") from error
    faults = [f"{name}:{line}: {fault}" for line, fault in _faults(pairs)]
    if faults:
        raise BadConfiguration(*faults)
    return {pair.key: pair.value for pair in pairs}


def defaults() -> Dict[str, Any]:
    """What holds where neither the file nor a flag says otherwise."""
    return {option.key: option.default for option in OPTIONS}


class _Unreadable(Exception):
    """`LINE: what is wrong with the text as a whole`."""


def _pairs(text: str) -> List[Pair]:
    try:
        loaded = json.loads(text, object_pairs_hook=_Object)
    except RecursionError:
        raise _Unreadable("1: nested too deeply") from None
    except ValueError:
        return _yaml_pairs(text)
    if not isinstance(loaded, _Object):
        raise _Unreadable("1: holds no `key: value` lines")
    seen: Dict[str, int] = {}
    pairs = []
    for key, value in loaded:
        pairs.append(Pair(key, _plain(value), _line_of(text, key, seen.get(key, 0))))
        seen[key] = seen.get(key, 0) + 1
    return pairs


class _Object(list):  # type: ignore[type-arg]
    """The pairs of a JSON object: a key may stand twice, which must be told."""


def _plain(value: Any) -> Any:
    if isinstance(value, _Object):
        return {key: _plain(each) for key, each in value}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _line_of(text: str, key: str, nth: int) -> int:
    places = [
        found.start("key")
        for found in re.finditer(rf"[{{,]\s*(?P<key>{re.escape(json.dumps(key))})\s*:", text)
    ]
    return text.count("\n", 0, places[nth]) + 1 if nth < len(places) else 1


def _yaml_pairs(text: str) -> List[Pair]:
    try:
        import yaml
    except ImportError:
        raise _Unreadable(
            "1: is not JSON, and there is no PyYAML here to read YAML:"
            " install python3-yaml, or write the file as JSON"
        ) from None
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None or loader.construct_object(node) is None:
            return []
        if not isinstance(node, yaml.MappingNode):
            raise _Unreadable("1: holds no `key: value` lines")
        return [
            Pair(
                loader.construct_object(key, deep=True),
                loader.construct_object(value, deep=True),
                key.start_mark.line + 1,
            )
            for key, value in node.value
        ]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _Unreadable(f"{line}: is not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first_line = (str(error).splitlines() or ["cannot be read"])[0]
        raise _Unreadable(f"1: is not YAML: {first_line}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _faults(pairs: List[Pair]) -> List[Tuple[int, str]]:
    faults = []
    seen: Dict[str, int] = {}
    for pair in pairs:
        option = BY_KEY.get(pair.key) if isinstance(pair.key, str) else None
        if option is None:
            faults.append((pair.line, f"unknown key {pair.key!r}{_hint(pair.key)}"))
        elif pair.key in seen:
            faults.append((pair.line, f"{pair.key}: stands in line {seen[pair.key]} already"))
        else:
            seen[pair.key] = pair.line
            faults += [(pair.line, fault) for fault in _faults_in(option, pair.value)]
    return faults


def _faults_in(option: Option, value: Any) -> Iterator[str]:
    """Every fault of a key's value, each with its place: `notify[0].kinds: must be …`."""
    fault = fault_of(option, value)
    if fault:
        yield f"{option.key}: {fault}"
    elif option.kind == RECORDS:
        for number, record in enumerate(value or ()):
            for place, text in _record_faults(option.fields, record):
                yield f"{option.key}[{number}]{place}: {text}"


def _record_faults(fields: Tuple[Option, ...], record: Dict[Any, Any]) -> Iterator[Tuple[str, str]]:
    by_key = {field.key: field for field in fields}
    for key, value in record.items():
        if key not in by_key:
            yield "", f"unknown key {key!r}{_hint(key, by_key)}"
        else:
            fault = fault_of(by_key[key], value)
            if fault:
                yield f".{key}", fault
    for field in fields:
        if field.required and record.get(field.key) is None:
            yield "", f"`{field.key}` is missing"


def _hint(key: Any, known: Mapping[str, Option] = BY_KEY) -> str:
    import difflib

    close = difflib.get_close_matches(str(key), list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def fault_of(option: Option, value: Any) -> Optional[str]:
    """What is wrong with `value` for `option`, or None; null stands for the default."""
    if value is None:
        return None
    if option.kind in (INTEGER, NUMBER):
        return _number_fault(option, value)
    if option.kind == CHOICE:
        wrong, wanted = value not in option.choices, "one of " + ", ".join(option.choices)
    elif option.kind == SWITCH:
        wrong, wanted = not isinstance(value, bool), "true or false"
    elif option.kind == TEXTS:
        wrong, wanted = not _are_texts(value), "a list of texts"
    elif option.kind == CHOICES:
        wrong = not (isinstance(value, list) and all(item in option.choices for item in value))
        wanted = "a list of some of " + ", ".join(option.choices)
    elif option.kind == RECORDS:
        wrong = not (isinstance(value, list) and all(isinstance(item, dict) for item in value))
        wanted = "a list of mappings with " + ", ".join(field.key for field in option.fields)
    else:
        wrong, wanted = not _is_text(value), "text, in quotes where it looks like something else"
    if not wrong and option.pattern:
        texts, wanted = value if option.kind == TEXTS else [value], option.wanted
        wrong = not all(option.pattern.match(text) for text in texts)
    return f"must be {wanted}, is {value!r}" if wrong else None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _is_text(value: Any) -> bool:
    """Whether this can be a word of a command: JSON can name characters that are none."""
    if not isinstance(value, str) or value == "" or "\0" in value:
        return False
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _number_fault(option: Option, value: Any) -> Optional[str]:
    whole = option.kind == INTEGER
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or value != value:
        return f"must be {'a whole number' if whole else 'a number'}, is {value!r}"
    if option.low is not None and value < option.low:
        return f"must be at least {option.low:g}, is {value!r}"
    if option.high is not None and value > option.high:
        return f"must be at most {option.high:g}, is {value!r}"
    return None
