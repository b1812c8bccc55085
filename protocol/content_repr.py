"""A `repr` that omits prompts, answers and secrets, which must not reach a log."""

from typing import Any, ClassVar


class ContentRepr:
    """Mixin of a Struct whose `repr` shows some fields as their length only.

    A `repr` reaches a log in the message of an exception, for example.

    Class attributes:
        CONTENT: the names of the fields that are shown as their length.
    """

    __slots__ = ()
    __struct_fields__: ClassVar[tuple[str, ...]]
    CONTENT: ClassVar[frozenset[str]]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The fields for `rich`, which by default prints every field of a Struct."""
        values = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return [
            (name, _Length(len(value)) if name in self.CONTENT else value) for name, value in values
        ]


class _Length(int):
    def __repr__(self) -> str:
        return f"<length {int(self)}>"
