"""Operations by name: those of extsub, of a file of the user's own, and of installed packages."""

from __future__ import annotations

from collections.abc import Iterable

from extsub.algebra import OPERATIONS, Operation, register_operation
from extsub.errors import check_choice
from extsub.plugins import entry_points_of, run_files


def load_operations(names: Iterable[str], files: Iterable[str] = ()) -> None:
    """Register the operations of files, and where a name is still unknown those of installed packages.

    Raises:
        ExtSubError: a file is not there, or registers nothing.
    """
    run_files("--operation-file", files, (OPERATIONS,), "extsub.register_operation")
    if any(name not in OPERATIONS for name in names):
        for operation in entry_points_of("extsub.operations"):
            register_operation(operation)


def operation_of(operation: str | Operation) -> Operation:
    """The operation of a name.

    Raises:
        ExtSubError: there is none.
    """
    if isinstance(operation, Operation):
        return operation
    load_operations([operation])
    check_choice("operation", operation, tuple(OPERATIONS))
    return OPERATIONS[operation]
