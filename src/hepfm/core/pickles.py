"""Pickles of other programs, read as data: an interpreter of the pickle format that can run nothing.

Python's own unpickler imports whatever a pickle names and calls it. Here a name is never imported: it is looked up in
a list of what the format at hand needs, and stands for a value that this program builds itself, or for an inert record
of its arguments. There is no operation that imports, calls or sets an attribute, so there is nothing to escape from.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hepfm.core.errors import HepfmError

# A pickle of a checkpoint with 1,000 tensors and their optimiser states takes less than a megabyte.
MAX_BYTES = 1 << 26
MEND = "do not load it with pickle or torch.load either; get it again from its makers"


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names. It is not imported."""

    module: str
    member: str

    def __str__(self) -> str:
        return f"{self.module}.{self.member}"


@dataclass(eq=False)
class Inert:
    """What would have been an object of a class known to be harmless: what it was given, never the object.

    Attributes:
        name: the class or function.
        arguments: of its making.
        state: what was to become its attributes.
        items: what was to become its entries (a pair each) or elements.
    """

    name: Name
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Vocabulary:
    """The names that a format needs.

    Attributes:
        builders: what a call of a name stands for, given its arguments; they raise ``Refused`` for wrong ones.
        inert: whether a name is known to be harmless, so that what is made of it is kept as an :class:`Inert`.
        persistent: what a persistent id (something stored outside the pickle) stands for.
        needs: who needs no other names, for messages ("a torch checkpoint").
    """

    builders: Mapping[Name, Callable[[tuple[Any, ...]], Any]]
    inert: Callable[[Name], bool]
    persistent: Callable[[Any], Any]
    needs: str


class Refused(Exception):
    """Something in a pickle that has no place there; becomes a :class:`HepfmError`."""


def read_pickle(data: bytes, vocabulary: Vocabulary, where: object) -> Any:
    """The content of a pickle: plain Python data, what the vocabulary builds, and inert records.

    Args:
        data: the pickle, of protocol 2 or newer.
        vocabulary: the names it may use.
        where: the file, for messages.

    Raises:
        HepfmError: a name or an operation that is not known to be harmless, or a damaged pickle.
    """
    if len(data) > MAX_BYTES:
        raise HepfmError(f"its pickle has {len(data):,} bytes, more than {MAX_BYTES:,}", where, MEND)
    try:
        return _Machine(vocabulary).run(data)
    except Refused as refused:
        raise HepfmError(f"refused: {refused}", where, MEND) from refused
    except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise HepfmError(f"its pickle is damaged: {error!r}", where, "get the file again") from error


class _Machine:
    """The stack, the marks in it, and the memo."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below each open mark
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for operation, argument, _ in pickletools.genops(data):
            name = operation.name
            if name == "STOP":
                break
            if name in _IGNORED:
                continue
            if name in _CONSTANTS:
                self.stack.append(argument if argument is not None else _CONSTANTS[name]())
            elif name in _OPERATIONS:
                _OPERATIONS[name](self, argument)
            else:
                raise Refused(f"its pickle uses the operation {name}, which {self.vocabulary.needs} does not need")
        if len(self.stack) != 1 or self.outer:
            raise ValueError("it ends in the middle")
        return self.stack[0]

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def above_mark(self) -> list[Any]:
        """What lies above the last mark, taken off."""
        above, self.stack = self.stack, self.outer.pop()
        return above

    def put(self, index: Any) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: Any) -> None:
        self.stack.append(self.memo[index])

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def close_tuple(self, _: Any) -> None:
        above = tuple(self.above_mark())
        self.stack.append(above)

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("pop from an empty stack")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def name(self, argument: Any) -> None:
        self.push_name(*argument.split(" ", 1))

    def stack_name(self, _: Any) -> None:
        member, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(member, str)):
            raise Refused("its pickle names something that is no name")
        self.push_name(module, member)

    def push_name(self, module: str, member: str) -> None:
        name = Name(module, member)
        if name not in self.vocabulary.builders and not self.vocabulary.inert(name):
            raise Refused(f"its pickle names {str(name)[:200]!r}, which {self.vocabulary.needs} does not need")
        self.stack.append(name)

    def call(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        self.stack.append(self.build(name, arguments))

    def call_with_keywords(self, _: Any) -> None:
        keywords = self.stack.pop()
        if keywords != {}:
            raise Refused("its pickle makes an object with keyword arguments")
        self.call(_)

    def build(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, Name):
            raise Refused(f"its pickle calls a value of type {type(name).__name__}")
        if not isinstance(arguments, tuple):
            raise Refused(f"its pickle calls {name} with a {type(arguments).__name__}")
        builder = self.vocabulary.builders.get(name)
        return builder(arguments) if builder else Inert(name, arguments)

    def set_state(self, _: Any) -> None:
        state, owner = self.stack.pop(), self.stack[-1]
        if isinstance(owner, Inert):
            owner.state = state
        elif not isinstance(owner, dict):  # attributes of an OrderedDict (torch's _metadata) are of no use here
            raise Refused(f"its pickle sets the attributes of a {type(owner).__name__}")

    def append(self, _: Any) -> None:
        element = self.stack.pop()
        self.extend([element])

    def appends(self, _: Any) -> None:
        self.extend(self.above_mark())

    def extend(self, elements: list[Any]) -> None:
        owner = self.stack[-1]
        if not isinstance(owner, (list, Inert)):
            raise Refused(f"its pickle appends to a {type(owner).__name__}")
        (owner if isinstance(owner, list) else owner.items).extend(elements)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def set_items(self, _: Any) -> None:
        self.update(self.above_mark())

    def update(self, flat: list[Any]) -> None:
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        owner = self.stack[-1]
        if isinstance(owner, dict):
            owner.update(checked_pairs(pairs))
        elif isinstance(owner, Inert):
            owner.items.extend(pairs)
        else:
            raise Refused(f"its pickle sets an entry of a {type(owner).__name__}")

    def add_items(self, _: Any) -> None:
        elements, owner = self.above_mark(), self.stack[-1]
        if not isinstance(owner, set):
            raise Refused(f"its pickle adds to a {type(owner).__name__}")
        owner.update(key for key, _ in checked_pairs([(element, None) for element in elements]))

    def persistent(self, _: Any) -> None:
        self.stack.append(self.vocabulary.persistent(self.stack.pop()))


def checked_pairs(pairs: Any) -> list[tuple[Any, Any]]:
    """Pairs whose first is a plain key: hashing anything nested could recurse without end.

    Raises:
        Refused: they are no pairs, or a key is not text or a number.
    """
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise Refused("its pickle makes a dictionary of something else than pairs")
    for key, _ in pairs:
        if not isinstance(key, (str, int, float, type(None))):
            raise Refused(f"its pickle has a {type(key).__name__} as a key")
    return [(key, value) for key, value in pairs]


_IGNORED = ("PROTO", "FRAME")
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), int),
    "BINFLOAT": float,
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), str),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), bytes),
}
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": _Machine.close_tuple,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "BUILD": _Machine.set_state,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "BINPERSID": _Machine.persistent,
}
