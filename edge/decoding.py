"""From the bytes of a body and the texts of a query to checked values, or a refusal that names the field.

Bodies are read strictly: UTF-8 (RFC 8259, 8.1) without lone surrogates, no NaN, no name twice in one object (which of
the two somebody else would believe is anybody's guess), and no coercion. A refusal never repeats what was sent.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec
from multidict import MultiMapping

from edge.errors import BadRequest

T = TypeVar("T", bound=msgspec.Struct)

_is_integer = re.compile(r"-?[0-9]{1,18}").fullmatch
_type_name = re.compile(r"`([^`]*)`")
_malformed = re.compile(r"\(byte (\d+)\)$")
_MISSING: Final = "Object missing required field `"
_AT: Final = " - at `$"
# msgspec's names for kinds of values, as JSON calls them.
_KINDS: Final = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def decode_body(raw: bytes | bytearray, shape: type[T]) -> T:
    """
    Raises:
        BadRequest: `raw` is not JSON of that shape.
    """
    try:
        text = raw.decode()
        value = msgspec.json.decode(raw, type=shape)
        _TWICE.decode(text)
    except UnicodeDecodeError as error:
        raise BadRequest(problem="body: expected UTF-8") from error
    except RecursionError as error:
        raise BadRequest(problem="body: nested too deeply") from error
    except msgspec.ValidationError as error:
        raise BadRequest(problem=_explain(str(error), shape)) from error
    except msgspec.DecodeError as error:
        place = _malformed.search(str(error))
        where = f"there is a mistake at byte {place[1]}" if place else "it ends too early"
        raise BadRequest(problem=f"body: expected JSON; {where}") from error
    except ValueError as error:  # from the second reading alone: a name twice, or a number of thousands of digits
        raise BadRequest(problem="body: a name stands twice in one object, or a number is too long") from error
    return value


def decode_query(query: MultiMapping[str], shape: type[T]) -> T:
    """Parameters that `shape` does not know are ignored, empty ones are absent.

    Raises:
        BadRequest: one that it knows comes twice (and is no list) or is out of its range.
    """
    values: dict[str, object] = {}
    for name, is_text, is_list in _parameters(shape):
        given = query.getall(name, ())
        if is_list:
            values[name] = given
            continue
        if len(given) > 1:
            raise BadRequest(problem=f"{name}: expected once")
        if given and given[0]:
            is_number = not is_text and _is_integer(given[0])
            values[name] = int(given[0]) if is_number else given[0]
    try:
        return msgspec.convert(values, shape)
    except msgspec.ValidationError as error:
        raise BadRequest(problem=_explain(str(error), shape)) from error


@cache  # there are few shapes, and looking at one takes 10 µs
def _parameters(shape: type[msgspec.Struct]) -> Sequence[tuple[str, bool, bool]]:
    """Name, and whether its value is a text, or a list of texts."""
    return [(field.encode_name, _is_text(field.type), _is_list(field.type)) for field in msgspec.structs.fields(shape)]


def _explain(message: str, shape: type[msgspec.Struct]) -> str:
    """msgspec's message in words for clients: the field first, then what was expected."""
    text, at, place = message.rpartition(_AT)
    if not at:
        text, place = message, ""
    path = place.rstrip("`").lstrip(".")
    if text.startswith(_MISSING):
        name = text.removeprefix(_MISSING).rstrip("`")
        return f"{path}.{name}: is missing" if path else f"{name}: is missing"
    if text.startswith("Invalid enum value"):
        return f"{path}: expected {_choices(shape, path)}"
    if not text.startswith("Expected"):
        return text  # ours, from __post_init__
    return f"{path or 'body'}: e{_type_name.sub(_in_words, text)[1:]}"


def _in_words(match: re.Match[str]) -> str:
    return " or ".join(_KINDS.get(kind, kind) for kind in match[1].split(" | "))


def _choices(shape: type[msgspec.Struct], path: str) -> str:
    for field in msgspec.structs.fields(shape):
        if field.encode_name == path and get_origin(field.type) is Literal:
            return " or ".join(json.dumps(choice) for choice in get_args(field.type))
    return "another value"


def _is_text(kind: object) -> bool:
    return kind is str or (get_origin(kind) is Annotated and get_args(kind)[0] is str)


def _is_list(kind: object) -> bool:
    return get_origin(get_args(kind)[0] if get_origin(kind) is Annotated else kind) is list


def _no_name_twice(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    named = dict(pairs)
    if len(named) < len(pairs):
        raise ValueError
    return named


_TWICE: Final = json.JSONDecoder(object_pairs_hook=_no_name_twice)
