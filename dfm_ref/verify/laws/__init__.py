"""The laws, in the order in which they are tried."""

from . import conduct, losses, paths, schedules, velocities, walks
from .law import Law

__all__ = ["LAWS", "Law", "law"]

_FIRST = ("build", "answers")

LAWS: tuple[Law, ...] = (
    *(law for law in conduct.LAWS if law.id.startswith(_FIRST)),
    *schedules.LAWS,
    *paths.LAWS,
    *velocities.LAWS,
    *losses.LAWS,
    *walks.LAWS,
    *(law for law in conduct.LAWS if not law.id.startswith(_FIRST)),
)


def law(id: str) -> Law:
    """The law of an id; ValueError names those that there are.

    >>> law("conservation").formula
    'sum_x u_t^i(x, z) = 0'
    """
    for one in LAWS:
        if one.id == id:
            return one
    raise ValueError(f"laws: expected ids among {', '.join(one.id for one in LAWS)}, got {id!r}")
